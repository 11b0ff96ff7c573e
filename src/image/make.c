#include "make.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "chunks.h"

s64 make_time(void)
{
        const char *epoch = getenv("SOURCE_DATE_EPOCH");
        char *end;

        if (epoch && *epoch) {
                const long long seconds = strtoll(epoch, &end, 10);

                if (!*end && seconds >= 0)
                        return seconds;
        }
        return time(NULL);
}

struct time_text make_time_text(s64 seconds)
{
        const time_t t = seconds;
        struct time_text text;
        struct tm tm;

        gmtime_r(&t, &tm);
        strftime(text.text, sizeof(text.text), "%Y-%m-%dT%H:%M:%SZ", &tm);
        return text;
}

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "making an image");
}

int new_image_init(struct new_image *image, struct lease *lease, const struct image *base, struct err **err)
{
        struct platform host;
        int r = platform_parse(NULL, &host, err);

        *image = (struct new_image){ .lease = lease };
        if (r < 0)
                return r;
        image->config = base ? json_deep_copy(base->config.json)
                             : json_pack("{s:s, s:s, s:{}, s:{s:s, s:[]}, s:[]}", "architecture", host.architecture,
                                       "os", host.os, "config", "rootfs", "type", "layers", "diff_ids", "history");
        if (!image->config)
                return no_memory(err);
        if (!json_is_array(json_object_get(image->config, "history")))
                json_object_set_new(image->config, "history", json_array());
        if (!json_is_object(json_object_get(image->config, "config")))
                json_object_set_new(image->config, "config", json_object());
        if (!base)
                return 0;
        image->layers = calloc(base->manifest.n_layers + 1, sizeof(*image->layers));
        if (!image->layers)
                return no_memory(err);
        image->n_layers = base->manifest.n_layers;
        for (size_t i = 0; r == 0 && i < base->manifest.n_layers; i++) {
                image->layers[i] = base->manifest.layers[i];
                r = lease_hold(lease, &base->manifest.layers[i].digest, err);
                if (r == 0)
                        r = lease_hold(lease, &base->config.diff_ids[i], err);
        }
        return r;
}

void new_image_clear(struct new_image *image)
{
        json_decref(image->config);
        free(image->layers);
        *image = (struct new_image){ 0 };
}

int new_image_add_layer(
        struct new_image *image, const struct descriptor *layer, const struct digest *diff_id, struct err **err)
{
        json_t *ids = json_object_get(json_object_get(image->config, "rootfs"), "diff_ids");
        struct descriptor *grown = reallocarray(image->layers, image->n_layers + 1, sizeof(*grown));

        if (!grown)
                return no_memory(err);
        image->layers = grown;
        if (image->n_layers >= MANIFEST_LAYERS_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "an image can have %d layers", MANIFEST_LAYERS_MAX);
        grown[image->n_layers++] = *layer;
        return json_array_append_new(ids, json_string(diff_id->text)) < 0 ? no_memory(err) : 0;
}

int new_image_add_history(
        struct new_image *image, const char *created_by, const char *comment, bool empty_layer, struct err **err)
{
        json_t *entry = json_pack("{s:s}", "created", make_time_text(make_time()).text);

        if (entry && created_by && created_by[0])
                json_object_set_new(entry, "created_by", json_string(created_by));
        if (entry && comment && comment[0])
                json_object_set_new(entry, "comment", json_string(comment));
        if (entry && empty_layer)
                json_object_set_new(entry, "empty_layer", json_true());
        return json_array_append_new(json_object_get(image->config, "history"), entry) < 0 ? no_memory(err) : 0;
}

int new_image_publish(struct new_image *image, const char *name, struct image **ret, struct err **err)
{
        struct descriptor config = { .media_type = MEDIA_OCI_CONFIG };
        _cleanup_free_ char *text = NULL, *manifest = NULL;
        struct reference reference;
        struct digest digest;
        int r = name ? reference_parse(name, &reference, err) : 0;

        if (r == 0 && name && reference.digest[0])
                r = err_set(err, ERR_USAGE, EINVAL, "'%s' has a digest; a new image can only have a tag", name);
        if (r < 0)
                return r;
        json_object_set_new(image->config, "created", json_string(make_time_text(make_time()).text));
        text = json_dumps(image->config, JSON_COMPACT | JSON_SORT_KEYS);
        if (!text)
                return no_memory(err);
        r = blob_put(image->lease, text, strlen(text), &config.digest, err);
        if (r < 0)
                return r;
        config.size = strlen(text);
        manifest = manifest_format(MEDIA_OCI_MANIFEST, &config, image->layers, image->n_layers);
        if (!manifest)
                return no_memory(err);
        r = blob_put(image->lease, manifest, strlen(manifest), &digest, err);
        return r < 0 ? r : image_publish(image->lease, &digest, name ? &reference : NULL, ret, err);
}

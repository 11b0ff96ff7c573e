/* Images in the store: their records, and what can be read of one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

/* --- records --------------------------------------------------------------------------------------------------------- */

#define RECORD_NAME (DIGEST_HEX + 1 + DIGEST_HEX)

struct record_path {
        char bucket[sizeof(DIR_IMAGES) + 3];
        char text[sizeof(DIR_IMAGES) + 3 + 1 + RECORD_NAME];
};

/* Buckets by the id's first two digits keep a look-up by an abbreviated id short. */
static struct record_path record_path(const struct record_key *key)
{
        struct record_path path;

        snprintf(path.bucket, sizeof(path.bucket), DIR_IMAGES "/%.2s", digest_hex(&key->id));
        snprintf(path.text, sizeof(path.text), "%s/%s.%s", path.bucket, digest_hex(&key->id),
                digest_hex(&key->manifest));
        return path;
}

static bool record_key_of(const char *file, struct record_key *ret)
{
        if (strlen(file) != RECORD_NAME || file[DIGEST_HEX] != '.' || !digest_is_hex(file, DIGEST_HEX) ||
                !digest_is_hex(file + DIGEST_HEX + 1, DIGEST_HEX))
                return false;
        snprintf(ret->id.text, sizeof(ret->id.text), DIGEST_PREFIX "%.64s", file);
        snprintf(ret->manifest.text, sizeof(ret->manifest.text), DIGEST_PREFIX "%.64s", file + DIGEST_HEX + 1);
        return true;
}

bool record_exists(struct image_store *store, const struct record_key *key)
{
        return faccessat(store->fd, record_path(key).text, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int record_read(struct image_store *store, const struct record_key *key, json_t **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r = io_read_file(store->fd, record_path(key).text, JSON_FILE_MAX, &text, &len, err);

        return r < 0 ? r : json_read(text, len, "an image's record", ret, err);
}

int record_remove(struct image_store *store, const struct record_key *key, struct err **err)
{
        const struct record_path path = record_path(key);

        if (unlinkat(store->fd, path.text, 0) < 0 && errno != ENOENT)
                return err_sys(err, errno, "removing image %s", key->id.text);
        return 0;
}

struct record_listing {
        struct image_store *store;
        int (*fn)(void *opaque, const struct record_key *key, const json_t *record, struct err **err);
        void *opaque;
};

static int list_record(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct record_listing *l = opaque;
        _cleanup_json_ json_t *json = NULL;
        struct record_key key;

        if (!record_key_of(file, &key) || record_read(l->store, &key, &json, NULL) < 0)
                return 0;
        return l->fn(l->opaque, &key, json, err);
}

static int list_bucket(void *opaque, int dirfd, const char *file, struct err **err)
{
        return io_list_dir(dirfd, file, list_record, opaque, err);
}

int record_list(struct image_store *store,
        int (*fn)(void *opaque, const struct record_key *key, const json_t *record, struct err **err), void *opaque,
        struct err **err)
{
        struct record_listing l = { store, fn, opaque };

        return io_list_dir(store->fd, DIR_IMAGES, list_bucket, &l, err);
}

struct record_search {
        const char *hex;
        struct record_key found;
        unsigned n;
};

static int match_record(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct record_search *s = opaque;
        struct record_key key;

        if (strncmp(file, s->hex, strlen(s->hex)) != 0 || !record_key_of(file, &key))
                return 0;
        if (s->n == 0 || !digest_equal(&key.id, &s->found.id))
                s->n++;
        s->found = key;
        return 0;
}

int record_find(struct image_store *store, const char *hex, struct record_key *ret, struct err **err)
{
        struct record_search s = { .hex = hex };
        const size_t len = strlen(hex);
        char bucket[sizeof(DIR_IMAGES) + 3];
        int r = 0;

        if (len >= 2 && len <= DIGEST_HEX && digest_is_hex(hex, len)) {
                snprintf(bucket, sizeof(bucket), DIR_IMAGES "/%.2s", hex);
                r = io_list_dir(store->fd, bucket, match_record, &s, err);
        }
        if (r < 0)
                return r;
        if (s.n == 0)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no image '%.70s'", hex);
        if (s.n > 1)
                return err_set(err, ERR_USAGE, EINVAL, "more than one image's id begins with '%.70s'", hex);
        *ret = s.found;
        return 0;
}

static int record_write(struct lease *lease, const struct image *image, struct err **err)
{
        const struct record_key key = { image->id, image->digest };
        const struct record_path path = record_path(&key);
        struct descriptor manifest = { .digest = image->digest, .size = image->manifest_len };
        _cleanup_json_ json_t *json = NULL;
        json_t *layers = json_array(), *blobs = json_array();
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int bucket = -1;
        u64 size = 0;
        int r;

        strcpy(manifest.media_type, image->manifest.media_type);
        json_array_append_new(blobs, json_string(image->digest.text));
        json_array_append_new(blobs, json_string(image->id.text));
        for (size_t i = 0; i < image->manifest.n_layers; i++) {
                json_array_append_new(blobs, json_string(image->manifest.layers[i].digest.text));
                json_array_append_new(layers, json_string(image->config.diff_ids[i].text));
                size += image->manifest.layers[i].size;
        }
        json = json_pack("{s:o, s:s, s:s, s:s, s:I, s:o, s:o}", "manifest", descriptor_to_json(&manifest), "created",
                image->config.config.created, "os", image->config.config.os, "architecture",
                image->config.config.architecture, "size", (json_int_t)size, "layers", layers, "blobs", blobs);
        text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        if (!text)
                return err_sys(err, ENOMEM, "adding an image");
        r = io_make_dir(lease->store->fd, path.bucket, 0700, err);
        if (r == 0)
                r = io_open_dir(lease->store->fd, path.bucket, &bucket, err);
        if (r < 0)
                return r;
        return io_replace_file(lease->tmp_fd, lease_new_name(lease).text, bucket, path.text + sizeof(path.bucket), text,
                strlen(text), err);
}

/* --- reading an image ------------------------------------------------------------------------------------------------- */

int image_read(
        struct image_store *store, const struct digest *manifest, bool verify, struct image **ret, struct err **err)
{
        _cleanup_(image_freep) struct image *image = calloc(1, sizeof(*image));
        int r;

        if (!image)
                return err_sys(err, ENOMEM, "reading an image");
        image->digest = *manifest;
        r = blob_read(store, manifest, verify, &image->manifest_json, &image->manifest_len, err);
        if (r == 0)
                r = manifest_parse(image->manifest_json, image->manifest_len, "", &image->manifest, err);
        if (r < 0)
                return r;
        image->id = image->manifest.config.digest;
        r = blob_read(store, &image->id, verify, &image->config_json, &image->config_len, err);
        if (r == 0)
                r = config_file_parse(image->config_json, image->config_len, &image->config, err);
        if (r < 0)
                return r;
        if (image->config.n_diff_ids != image->manifest.n_layers)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG,
                        "the image's manifest has %zu layers and its configuration %zu", image->manifest.n_layers,
                        image->config.n_diff_ids);
        *ret = TAKE_PTR(image);
        return 0;
}

int image_set_name(struct image *image, const char *name, struct err **err)
{
        char *copy = strdup(name);

        if (!copy)
                return err_sys(err, ENOMEM, "reading an image");
        free(image->name);
        image->name = copy;
        return 0;
}

/* Everything that the record will promise. */
static int check_complete(struct image_store *store, const struct image *image, struct err **err)
{
        for (size_t i = 0; i < image->manifest.n_layers; i++) {
                const struct descriptor *layer = &image->manifest.layers[i];

                if (!blob_exists(store, &layer->digest, NULL))
                        return err_set(err, ERR_INTERNAL, ENOENT, "layer %s is not in the store", layer->digest.text);
                if (!layer_exists(store, &image->config.diff_ids[i]))
                        return err_set(err, ERR_INTERNAL, ENOENT, "layer %s is not unpacked", layer->digest.text);
        }
        return 0;
}

int image_publish(struct lease *lease, const struct digest *manifest, const struct reference *name, struct image **ret,
        struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        struct descriptor descriptor = { .digest = *manifest };
        _cleanup_close_ int lock = -1;
        char full[REFERENCE_TEXT_MAX];
        int r = image_read(lease->store, manifest, true, &image, err);

        if (r == 0)
                r = store_lock(lease->store, false, &lock, err);
        if (r == 0)
                r = check_complete(lease->store, image, err);
        if (r == 0)
                r = record_write(lease, image, err);
        if (r < 0)
                return r;
        if (name) {
                descriptor.size = image->manifest_len;
                strcpy(descriptor.media_type, image->manifest.media_type);
                r = name_put(lease, name, &descriptor, &image->id, err);
                if (r == 0)
                        r = index_write(lease, err);
                if (r < 0)
                        return r;
                reference_format(name, full);
        }
        r = image_set_name(image, name ? full : image->id.text, err);
        if (r < 0)
                return r;
        layers_sync(lease->store);
        *ret = TAKE_PTR(image);
        return 0;
}

static int find_key(struct image_store *store, const char *name, struct record_key *ret, char full[REFERENCE_TEXT_MAX],
        struct err **err)
{
        struct reference reference;
        struct err *first = NULL;
        int r;

        if (strncmp(name, DIGEST_PREFIX, sizeof(DIGEST_PREFIX) - 1) == 0)
                return record_find(store, name + sizeof(DIGEST_PREFIX) - 1, ret, err);
        r = reference_parse(name, &reference, &first);
        if (r == 0)
                r = name_get(store, &reference, ret, &first);
        if (r == 0)
                reference_format(&reference, full);
        else if (digest_is_hex(name, strlen(name)) && record_find(store, name, ret, NULL) == 0)
                r = 0;
        if (r < 0 && err)
                *err = TAKE_PTR(first);
        err_free(first);
        return r;
}

int image_find_key(struct image_store *store, const char *name, struct record_key *ret, char full[REFERENCE_TEXT_MAX],
        struct err **err)
{
        int r;

        full[0] = '\0';
        r = find_key(store, name, ret, full, err);
        if (r < 0)
                return r == -ENOENT ? err_hint(err, r,
                                              "`strata image ls` lists what there is, `strata image pull` fetches more")
                                    : r;
        return 0;
}

int image_find(struct image_store *store, const char *name, struct image **ret, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        char full[REFERENCE_TEXT_MAX];
        struct record_key key;
        int r = image_find_key(store, name, &key, full, err);

        if (r < 0)
                return r;
        r = image_read(store, &key.manifest, false, &image, err);
        if (r == 0)
                r = image_set_name(image, full[0] ? full : key.id.text, err);
        if (r < 0)
                return err_wrap(err, r, "the image '%s'", name);
        *ret = TAKE_PTR(image);
        return 0;
}

/* --- what callers see of it ------------------------------------------------------------------------------------------- */

struct image *image_free(struct image *image)
{
        if (!image)
                return NULL;
        manifest_clear(&image->manifest);
        config_file_clear(&image->config);
        free(image->manifest_json);
        free(image->config_json);
        free(image->name);
        free(image);
        return NULL;
}

const char *image_id(const struct image *image)
{
        return image->id.text;
}

const char *image_digest(const struct image *image)
{
        return image->digest.text;
}

const char *image_name(const struct image *image)
{
        return image->name;
}

const struct image_config *image_get_config(const struct image *image)
{
        return &image->config.config;
}

const char *image_config_json(const struct image *image, size_t *ret_len)
{
        *ret_len = image->config_len;
        return image->config_json;
}

const char *image_manifest_json(const struct image *image, size_t *ret_len)
{
        *ret_len = image->manifest_len;
        return image->manifest_json;
}

size_t image_layer_count(const struct image *image)
{
        return image->config.n_diff_ids;
}

char *image_layer_path(const struct image_store *store, const struct image *image, size_t i)
{
        char *path;

        if (asprintf(&path, "%s/" DIR_LAYERS "/%s/diff", store->root, digest_hex(&image->config.diff_ids[i])) < 0)
                return NULL;
        return path;
}

/* Manifests and indexes (OCI image spec, manifest.md and image-index.md; docker's are the same under other names). They
 * come from registries and archives and are believed in nothing. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "internal.h"

static int bad(struct err **err, const char *what)
{
        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "%s", what);
}

int json_read(const char *text, size_t len, const char *what, json_t **ret, struct err **err)
{
        json_error_t error;
        _cleanup_json_ json_t *json = NULL;

        if (len > JSON_FILE_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "%s is longer than %llu bytes", what, JSON_FILE_MAX);
        json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
        if (!json)
                return err_set(
                        err, ERR_BAD_IMAGE, EBADMSG, "%s is not JSON: line %d: %s", what, error.line, error.text);
        if (!json_is_object(json))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "%s is not a JSON object", what);
        *ret = TAKE_PTR(json);
        return 0;
}

const char *json_text(const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));

        return text ? text : "";
}

int descriptor_parse(const json_t *json, struct descriptor *ret, struct err **err)
{
        struct descriptor d = { 0 };
        const json_t *size = json_object_get(json, "size");
        const char *media_type = json_text(json, "mediaType");
        int r;

        if (!json_is_object(json))
                return bad(err, "a descriptor is missing");
        if (strlen(media_type) > MEDIA_TYPE_MAX)
                return bad(err, "a media type is too long");
        if (!json_is_integer(size) || json_integer_value(size) < 0)
                return bad(err, "a descriptor has no size");
        r = digest_parse(json_string_value(json_object_get(json, "digest")), &d.digest, err);
        if (r < 0)
                return r;
        strcpy(d.media_type, media_type);
        d.size = (u64)json_integer_value(size);
        *ret = d;
        return 0;
}

json_t *descriptor_to_json(const struct descriptor *d)
{
        return json_pack(
                "{s:s, s:s, s:I}", "mediaType", d->media_type, "digest", d->digest.text, "size", (json_int_t)d->size);
}

void manifest_clear(struct manifest *manifest)
{
        free(manifest->layers);
        *manifest = (struct manifest){ 0 };
}

static int check_type(const char *media_type, struct err **err)
{
        int r;

        if (strcmp(media_type, MEDIA_OCI_MANIFEST) == 0 || strcmp(media_type, MEDIA_DOCKER_MANIFEST) == 0)
                return 0;
        r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "manifests of type '%s' are not supported", media_type);
        return err_hint(err, r, "images of docker's schema 1 have to be pushed again by a newer docker");
}

int manifest_parse(const char *text, size_t len, const char *media_type, struct manifest *ret, struct err **err)
{
        _cleanup_json_ json_t *json = NULL;
        _cleanup_(manifest_clear) struct manifest m = { 0 };
        const json_t *layers;
        const char *type;
        int r = json_read(text, len, "the manifest", &json, err);

        if (r < 0)
                return r;
        /* The member decides, then what came with it; without either it is OCI's, where the member is optional. */
        type = json_text(json, "mediaType");
        if (!type[0])
                type = media_type && media_type[0] ? media_type : MEDIA_OCI_MANIFEST;
        if (json_integer_value(json_object_get(json, "schemaVersion")) != 2)
                type = "application/vnd.docker.distribution.manifest.v1";
        r = check_type(type, err);
        if (r < 0)
                return r;
        strcpy(m.media_type, type);
        r = descriptor_parse(json_object_get(json, "config"), &m.config, err);
        if (r < 0)
                return err_wrap(err, r, "the manifest's config");
        if (m.config.size > JSON_FILE_MAX)
                return err_set(
                        err, ERR_TOO_LARGE, EFBIG, "the image's configuration has %" PRIu64 " bytes", m.config.size);
        layers = json_object_get(json, "layers");
        if (!json_is_array(layers))
                return bad(err, "the manifest has no layers");
        if (json_array_size(layers) > MANIFEST_LAYERS_MAX)
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "the image has %zu layers; %d are possible",
                        json_array_size(layers), MANIFEST_LAYERS_MAX);
        m.layers = calloc(json_array_size(layers) + 1, sizeof(*m.layers));
        if (!m.layers)
                return err_sys(err, ENOMEM, "reading a manifest");
        for (; m.n_layers < json_array_size(layers); m.n_layers++) {
                r = descriptor_parse(json_array_get(layers, m.n_layers), &m.layers[m.n_layers], err);
                if (r < 0)
                        return err_wrap(err, r, "layer %zu of the manifest", m.n_layers);
        }
        *ret = m;
        m = (struct manifest){ 0 };
        return 0;
}

bool manifest_is_index(const char *text, size_t len, const char *media_type)
{
        _cleanup_json_ json_t *json = NULL;
        const char *type;

        if (json_read(text, len, "", &json, NULL) < 0)
                return false;
        type = json_text(json, "mediaType");
        if (!type[0])
                type = media_type ? media_type : "";
        if (strcmp(type, MEDIA_OCI_INDEX) == 0 || strcmp(type, MEDIA_DOCKER_INDEX) == 0)
                return true;
        return !json_object_get(json, "config") && json_is_array(json_object_get(json, "manifests"));
}

/* --- platforms ------------------------------------------------------------------------------------------------------- */

/* Go's names of what uname says. */
static const struct {
        const char *machine, *architecture, *variant;
} machines[] = {
        { "x86_64", "amd64", "" },
        { "aarch64", "arm64", "" },
        { "armv7l", "arm", "v7" },
        { "armv6l", "arm", "v6" },
        { "i686", "386", "" },
        { "i386", "386", "" },
        { "riscv64", "riscv64", "" },
        { "ppc64le", "ppc64le", "" },
        { "s390x", "s390x", "" },
};

static void host_platform(struct platform *ret)
{
        struct utsname name;

        *ret = (struct platform){ .os = "linux", .architecture = "amd64" };
        if (uname(&name) < 0)
                return;
        for (size_t i = 0; i < ARRAY_SIZE(machines); i++)
                if (strcmp(machines[i].machine, name.machine) == 0) {
                        strcpy(ret->architecture, machines[i].architecture);
                        strcpy(ret->variant, machines[i].variant);
                }
}

int platform_parse(const char *text, struct platform *ret, struct err **err)
{
        struct platform p = { 0 };
        char end;
        int n;

        if (!text) {
                host_platform(ret);
                return 0;
        }
        n = sscanf(text, "%31[a-z0-9]/%31[a-z0-9_]/%31[a-z0-9.]%c", p.os, p.architecture, p.variant, &end);
        if (n != 2 && n != 3) {
                n = err_set(err, ERR_USAGE, EINVAL, "'%.60s' is not a platform", text);
                return err_hint(err, n, "platforms look like linux/amd64 or linux/arm/v7");
        }
        if (n == 2 && text[strlen(p.os) + 1 + strlen(p.architecture)] != '\0')
                return err_set(err, ERR_USAGE, EINVAL, "'%.60s' is not a platform", text);
        *ret = p;
        return 0;
}

/* 0: cannot be used; more is better. */
static int platform_score(const char *os, const char *architecture, const char *variant, const struct platform *wanted)
{
        if (strcmp(os, wanted->os) != 0 || strcmp(architecture, wanted->architecture) != 0)
                return 0;
        if (strcmp(variant, wanted->variant) == 0)
                return 4;
        if (!variant[0])
                return 3;
        if (strcmp(wanted->architecture, "arm64") == 0 && strcmp(variant, "v8") == 0)
                return 4; /* every arm64 is a v8 */
        return wanted->variant[0] ? 0 : 1;
}

int image_check_platform(const struct image *image, const char *platform, struct err **err)
{
        const struct image_config *config = image_get_config(image);
        struct platform wanted;
        int r = platform_parse(platform, &wanted, err);

        if (r < 0)
                return r;
        /* Whoever makes an image by hand may say nothing. */
        if (!config->os[0] || !config->architecture[0] || platform_score(config->os, config->architecture, config->variant, &wanted))
                return 0;
        return err_set(err, ERR_NOT_FOUND, ENOENT, "the image '%s' is made for %s/%s%s%s, not for %s/%s%s%s", image_name(image), config->os,
                config->architecture, config->variant[0] ? "/" : "", config->variant, wanted.os, wanted.architecture, wanted.variant[0] ? "/" : "",
                wanted.variant);
}

int index_choose(
        const char *text, size_t len, const struct platform *platform, struct descriptor *ret, struct err **err)
{
        _cleanup_json_ json_t *json = NULL;
        const json_t *manifests, *best = NULL;
        char there[256] = "";
        int best_score = 0;
        int r = json_read(text, len, "the index", &json, err);

        if (r < 0)
                return r;
        manifests = json_object_get(json, "manifests");
        if (!json_is_array(manifests) || json_array_size(manifests) > INDEX_MANIFESTS_MAX)
                return bad(err, "the index has no list of manifests, or too long a one");
        for (size_t i = 0; i < json_array_size(manifests); i++) {
                const json_t *entry = json_array_get(manifests, i), *p = json_object_get(entry, "platform");
                /* An index of one image needs not say for what it is. */
                const int score = p ? platform_score(json_text(p, "os"), json_text(p, "architecture"), json_text(p, "variant"), platform)
                                    : json_array_size(manifests) == 1;
                const size_t used = strlen(there);

                if (score > best_score) {
                        best_score = score;
                        best = entry;
                }
                if (p && strcmp(json_text(p, "os"), "unknown") != 0)
                        snprintf(there + used, sizeof(there) - used, "%s%s/%s%s%s", used ? ", " : "",
                                json_text(p, "os"), json_text(p, "architecture"), json_text(p, "variant")[0] ? "/" : "",
                                json_text(p, "variant"));
        }
        if (!best) {
                r = err_set(err, ERR_NOT_FOUND, ENOENT, "the image is not made for %s/%s%s%s", platform->os,
                        platform->architecture, platform->variant[0] ? "/" : "", platform->variant);
                return err_hint(err, r, "there is: %s", there[0] ? there : "nothing");
        }
        return descriptor_parse(best, ret, err);
}

char *manifest_format(
        const char *media_type, const struct descriptor *config, const struct descriptor *layers, size_t n_layers)
{
        _cleanup_json_ json_t *json = NULL;
        json_t *list = json_array();

        for (size_t i = 0; i < n_layers; i++)
                json_array_append_new(list, descriptor_to_json(&layers[i]));
        json = json_pack("{s:i, s:s, s:o, s:o}", "schemaVersion", 2, "mediaType", media_type, "config",
                descriptor_to_json(config), "layers", list);
        return json ? json_dumps(json, JSON_COMPACT) : NULL;
}

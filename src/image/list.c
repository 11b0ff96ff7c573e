/* Lists of what is in the store: images, their history, and whether all of it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "internal.h"

int image_name_normalize(const char *name, char **ret, struct err **err)
{
        struct reference reference;
        char full[REFERENCE_TEXT_MAX];
        int r = reference_parse(name, &reference, err);

        if (r < 0)
                return r;
        reference_format(&reference, full);
        *ret = strdup(full);
        return *ret ? 0 : err_sys(err, ENOMEM, "naming an image");
}

int image_tag(struct image_store *store, const char *source, const char *name, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_close_ int lock = -1;
        struct descriptor manifest = { 0 };
        struct reference reference;
        struct record_key key;
        char full[REFERENCE_TEXT_MAX];
        int r = reference_parse(name, &reference, err);

        if (r == 0 && reference.digest[0])
                r = err_set(err, ERR_USAGE, EINVAL, "'%s' has a digest; only a tag can be given", name);
        if (r == 0)
                r = lease_open(store, &lease, err);
        if (r == 0)
                r = store_lock(store, false, &lock, err); /* so that it is not removed meanwhile */
        if (r == 0)
                r = image_find_key(store, source, &key, full, err);
        if (r == 0)
                r = image_read(store, &key.manifest, false, &image, err);
        if (r < 0)
                return r;
        manifest.digest = key.manifest;
        manifest.size = image->manifest_len;
        strcpy(manifest.media_type, image->manifest.media_type);
        r = name_put(lease, &reference, &manifest, &key.id, err);
        return r < 0 ? r : index_write(lease, err);
}

/* --- ls ---------------------------------------------------------------------------------------------------------------- */

struct image_listing {
        int (*fn)(void *opaque, const struct image_summary *image);
        void *opaque;
        json_t *names;     /* manifest digest -> [full names] */
        json_t *instances; /* manifest digest -> how many */
};

static int gather_name(void *opaque, const struct reference *name, const struct record_key *key,
        const struct descriptor *manifest, struct err **err)
{
        json_t *names = opaque, *list = json_object_get(names, key->manifest.text);
        char full[REFERENCE_TEXT_MAX];

        if (!list) {
                list = json_array();
                json_object_set_new(names, key->manifest.text, list);
        }
        reference_format(name, full);
        return json_array_append_new(list, json_string(full)) < 0 ? err_sys(err, ENOMEM, "listing images") : 0;
}

static int gather_instance(void *opaque, const char *id, const struct record_key *key, struct err **err)
{
        json_t *counts = opaque;
        const json_int_t n = json_integer_value(json_object_get(counts, key->manifest.text));

        return json_object_set_new(counts, key->manifest.text, json_integer(n + 1)) < 0
                       ? err_sys(err, ENOMEM, "listing images")
                       : 0;
}

static int list_image(void *opaque, const struct record_key *key, const json_t *record, struct err **err)
{
        struct image_listing *l = opaque;
        const json_t *names = json_object_get(l->names, key->manifest.text);
        _cleanup_free_ const char **list = calloc(json_array_size(names) + 1, sizeof(*list));
        const struct image_summary summary = {
                .id = key->id.text,
                .digest = key->manifest.text,
                .names = list,
                .created = json_text(record, "created"),
                .os = json_text(record, "os"),
                .architecture = json_text(record, "architecture"),
                .size = (u64)json_integer_value(json_object_get(record, "size")),
                .layers = json_array_size(json_object_get(record, "layers")),
                .instances = (size_t)json_integer_value(json_object_get(l->instances, key->manifest.text)),
        };

        if (!list)
                return err_sys(err, ENOMEM, "listing images");
        for (size_t i = 0; i < json_array_size(names); i++)
                list[i] = json_string_value(json_array_get(names, i));
        return l->fn(l->opaque, &summary);
}

int image_list(struct image_store *store, int (*fn)(void *opaque, const struct image_summary *image), void *opaque,
        struct err **err)
{
        _cleanup_json_ json_t *names = json_object(), *instances = json_object();
        struct image_listing l = { fn, opaque, names, instances };
        int r = names && instances ? name_list(store, gather_name, names, err) : err_sys(err, ENOMEM, "listing images");

        if (r == 0)
                r = pin_list(store, gather_instance, instances, err);
        return r != 0 ? r : record_list(store, list_image, &l, err);
}

struct names_of {
        const char *id;
        int (*fn)(void *opaque, const char *name, const char *digest);
        void *opaque;
};

static int if_of(void *opaque, const struct reference *name, const struct record_key *key, const struct descriptor *manifest, struct err **err)
{
        const struct names_of *of = opaque;
        char full[REFERENCE_TEXT_MAX];

        if (strcmp(key->id.text, of->id) != 0)
                return 0;
        reference_format(name, full);
        return of->fn(of->opaque, full, key->manifest.text);
}

int image_each_name(struct image_store *store, const char *id, int (*fn)(void *opaque, const char *name, const char *digest), void *opaque,
        struct err **err)
{
        return name_list(store, if_of, &(struct names_of){ id, fn, opaque }, err);
}

int image_history(struct image_store *store, const struct image *image,
        int (*fn)(void *opaque, const struct image_history_entry *entry), void *opaque, struct err **err)
{
        const json_t *history = json_object_get(image->config.json, "history");
        size_t layer = 0;
        int r = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(history); i++) {
                const json_t *json = json_array_get(history, i);
                struct image_history_entry entry = {
                        .created = json_text(json, "created"),
                        .created_by = json_text(json, "created_by"),
                        .comment = json_text(json, "comment"),
                        .empty_layer = json_is_true(json_object_get(json, "empty_layer")),
                };

                if (!entry.empty_layer && layer < image->manifest.n_layers)
                        entry.size = image->manifest.layers[layer++].size;
                r = fn(opaque, &entry);
        }
        return r;
}

/* --- check -------------------------------------------------------------------------------------------------------------- */

struct check {
        struct image_store *store;
        bool deep;
        void (*problem)(void *opaque, const char *text);
        void *opaque;
        int n;
};

static void _printf_(2, 3) found(struct check *c, const char *fmt, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        va_end(ap);
        c->n++;
        if (c->problem)
                c->problem(c->opaque, text ? text : fmt);
}

static int hash_file(int fd, struct digest *ret, struct err **err)
{
        _cleanup_free_ u8 *buf = malloc(1 * MIB);
        struct hasher hasher;
        ssize_t n = 0;
        int r = buf ? hasher_init(&hasher, err) : err_sys(err, ENOMEM, "checking a blob");

        if (r < 0)
                return r;
        while ((n = io_read_full(fd, buf, 1 * MIB)) > 0)
                hasher_update(&hasher, buf, (size_t)n);
        if (n < 0)
                return err_sys(err, (int)-n, "checking a blob");
        hasher_finish(&hasher, ret);
        return 0;
}

static int check_blob(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct check *c = opaque;
        _cleanup_close_ int fd = -1;
        struct digest digest;
        int r;

        if (strlen(file) != DIGEST_HEX || !digest_is_hex(file, DIGEST_HEX)) {
                found(c, "blobs: '%s' is not a blob's name", file);
                return 0;
        }
        if (!c->deep)
                return 0;
        fd = openat(dirfd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return errno == ENOENT ? 0 : err_sys(err, errno, "opening blob %s", file);
        r = hash_file(fd, &digest, err);
        if (r == 0 && strcmp(digest_hex(&digest), file) != 0)
                found(c, "blob %s is damaged: its digest is %s", file, digest.text);
        return r;
}

static int check_layer(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct check *c = opaque;
        char path[NAME_MAX + 16];
        struct stat st;

        if (strlen(file) != DIGEST_HEX || !digest_is_hex(file, DIGEST_HEX)) {
                found(c, "layers: '%s' is not a layer's name", file);
                return 0;
        }
        snprintf(path, sizeof(path), "%.*s/layer.json", NAME_MAX, file);
        if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
                found(c, "layer %s is half-made: it has no layer.json", file);
        snprintf(path, sizeof(path), "%.*s/diff", NAME_MAX, file);
        if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
                found(c, "layer %s is half-made: it has no files", file);
        return 0;
}

static int check_record(void *opaque, const struct record_key *key, const json_t *record, struct err **err)
{
        struct check *c = opaque;
        _cleanup_(image_freep) struct image *image = NULL;
        struct err *why = NULL;
        u64 size;

        if (image_read(c->store, &key->manifest, true, &image, &why) < 0) {
                found(c, "image %s: %s", key->id.text, err_message(why));
                err_free(why);
                return 0;
        }
        for (size_t i = 0; i < image->manifest.n_layers; i++) {
                const struct descriptor *layer = &image->manifest.layers[i];

                if (!blob_exists(c->store, &layer->digest, &size))
                        found(c, "image %s: layer blob %s is missing", key->id.text, layer->digest.text);
                else if (size != layer->size)
                        found(c, "image %s: layer blob %s has %lu bytes and not %lu", key->id.text, layer->digest.text,
                                (unsigned long)size, (unsigned long)layer->size);
                if (!layer_exists(c->store, &image->config.diff_ids[i]))
                        found(c, "image %s: layer %s is not unpacked", key->id.text, image->config.diff_ids[i].text);
        }
        return 0;
}

static int check_name(void *opaque, const struct reference *name, const struct record_key *key,
        const struct descriptor *manifest, struct err **err)
{
        struct check *c = opaque;
        char full[REFERENCE_TEXT_MAX];

        reference_format(name, full);
        if (!record_exists(c->store, key))
                found(c, "name '%s' stands for image %s, which is not there", full, key->id.text);
        return 0;
}

static int check_instance(void *opaque, const char *id, const struct record_key *key, struct err **err)
{
        struct check *c = opaque;

        if (!record_exists(c->store, key))
                found(c, "instance '%s' uses image %s, which is not there", id, key->id.text);
        return 0;
}

/* Whatever is in the directory of temporary files has a lease. */
static int check_temporary(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct check *c = opaque;
        char path[NAME_MAX + sizeof(DIR_LEASES) + 1];

        snprintf(path, sizeof(path), DIR_LEASES "/%.*s", NAME_MAX, file);
        if (faccessat(c->store->fd, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                found(c, "'" DIR_TMP "/%s' was left behind", file);
        return 0;
}

int image_check(struct image_store *store, bool deep, void (*problem)(void *opaque, const char *text), void *opaque,
        struct err **err)
{
        struct check c = { .store = store, .deep = deep, .problem = problem, .opaque = opaque };
        _cleanup_close_ int lock = -1;
        /* Nothing is removed or published meanwhile. */
        int r = store_lock(store, true, &lock, err);

        if (r == 0)
                r = io_list_dir(store->fd, DIR_BLOBS, check_blob, &c, err);
        if (r == 0)
                r = io_list_dir(store->fd, DIR_LAYERS, check_layer, &c, err);
        if (r == 0)
                r = record_list(store, check_record, &c, err);
        if (r == 0)
                r = name_list(store, check_name, &c, err);
        if (r == 0)
                r = pin_list(store, check_instance, &c, err);
        if (r == 0)
                r = io_list_dir(store->fd, DIR_TMP, check_temporary, &c, err);
        return r < 0 ? r : c.n;
}

/* Names of images: one small file each, found by opening it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "internal.h"

#define ENTRY_MAX (64 * KIB)
#define PUT_TRIES 100

struct name_path {
        char text[sizeof(DIR_NAMES) + 2 * (REFERENCE_REPOSITORY_MAX + 1) + REFERENCE_TAG_MAX + 8];
        size_t dir_len; /* of the repository's directory */
};

/* '+' is in no reference. A digest's file is "@" and its hexadecimal digits. */
static struct name_path name_path(const struct reference *name)
{
        struct name_path path;
        int n = snprintf(path.text, sizeof(path.text), DIR_NAMES "/%s+%s", name->registry, name->repository);

        path.dir_len = (size_t)n;
        for (char *p = path.text + sizeof(DIR_NAMES); *p; p++)
                if (*p == '/')
                        *p = '+';
        if (name->digest[0])
                snprintf(
                        path.text + n, sizeof(path.text) - (size_t)n, "/@%s", name->digest + sizeof(DIGEST_PREFIX) - 1);
        else
                snprintf(path.text + n, sizeof(path.text) - (size_t)n, "/%s", name->tag);
        return path;
}

static int open_repository(
        struct image_store *store, const struct name_path *path, bool make, int *ret, struct err **err)
{
        char dir[sizeof(path->text)];
        int r = 0;

        memcpy(dir, path->text, path->dir_len);
        dir[path->dir_len] = '\0';
        if (make)
                r = io_make_dir(store->fd, dir, 0700, err);
        return r < 0 ? r : io_open_dir(store->fd, dir, ret, err);
}

int name_put(struct lease *lease, const struct reference *name, const struct descriptor *manifest,
        const struct digest *id, struct err **err)
{
        const struct name_path path = name_path(name);
        _cleanup_json_ json_t *json = json_pack("{s:s, s:o}", "id", id->text, "manifest", descriptor_to_json(manifest));
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        int r = 0;

        if (!text)
                return err_sys(err, ENOMEM, "naming an image");
        /* Whoever removes the last name of a repository removes its directory. */
        for (int i = 0; i < PUT_TRIES; i++) {
                _cleanup_close_ int dir = -1;
                struct err *try_err = NULL;

                r = open_repository(lease->store, &path, true, &dir, &try_err);
                if (r == 0)
                        r = io_replace_file(lease->tmp_fd, lease_new_name(lease).text, dir,
                                path.text + path.dir_len + 1, text, strlen(text), &try_err);
                if (r != -ENOENT || i == PUT_TRIES - 1) {
                        if (err && r < 0)
                                *err = try_err;
                        else
                                err_free(try_err);
                        return r;
                }
                err_free(try_err);
        }
        return r;
}

static int read_entry(struct image_store *store, int dirfd, const char *file, struct record_key *ret_key,
        struct descriptor *ret_manifest, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        size_t len;
        int r = io_read_file(dirfd, file, ENTRY_MAX, &text, &len, err);

        if (r == 0)
                r = json_read(text, len, file, &json, err);
        if (r == 0)
                r = descriptor_parse(json_object_get(json, "manifest"), ret_manifest, err);
        if (r == 0)
                r = digest_parse(json_text(json, "id"), &ret_key->id, err);
        if (r == 0)
                ret_key->manifest = ret_manifest->digest;
        return r;
}

int name_get(struct image_store *store, const struct reference *name, struct record_key *ret, struct err **err)
{
        const struct name_path path = name_path(name);
        struct descriptor manifest;
        char full[REFERENCE_TEXT_MAX];
        struct record_key key;
        int r;

        reference_format(name, full);
        if (faccessat(store->fd, path.text, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no image '%s'", full);
        r = read_entry(store, store->fd, path.text, &key, &manifest, err);
        if (r < 0)
                return err_wrap(err, r, "the image '%s'", full);
        *ret = key;
        return 0;
}

int name_remove(struct image_store *store, const struct reference *name, struct err **err)
{
        struct name_path path = name_path(name);

        if (unlinkat(store->fd, path.text, 0) < 0 && errno != ENOENT)
                return err_sys(err, errno, "removing a name");
        path.text[path.dir_len] = '\0';
        unlinkat(store->fd, path.text, AT_REMOVEDIR); /* if it was the last one */
        return 0;
}

/* --- listing --------------------------------------------------------------------------------------------------------- */

struct listing {
        struct image_store *store;
        struct reference name;
        int (*fn)(void *opaque, const struct reference *name, const struct record_key *key,
                const struct descriptor *manifest, struct err **err);
        void *opaque;
};

static int list_name(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct listing *l = opaque;
        struct descriptor manifest;
        struct record_key key;
        int r;

        l->name.tag[0] = l->name.digest[0] = '\0';
        if (file[0] == '@' && strlen(file) == 1 + DIGEST_HEX)
                snprintf(l->name.digest, sizeof(l->name.digest), DIGEST_PREFIX "%.64s", file + 1);
        else if (strlen(file) <= REFERENCE_TAG_MAX)
                strcpy(l->name.tag, file);
        else
                return 0;
        r = read_entry(l->store, dirfd, file, &key, &manifest, NULL);
        if (r < 0) /* removed meanwhile, or damaged: `image check` says */
                return 0;
        return l->fn(l->opaque, &l->name, &key, &manifest, err);
}

static int list_repository(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct listing *l = opaque;
        const char *plus = strchr(file, '+');

        if (!plus || (size_t)(plus - file) >= sizeof(l->name.registry) ||
                strlen(plus + 1) >= sizeof(l->name.repository))
                return 0;
        memcpy(l->name.registry, file, (size_t)(plus - file));
        l->name.registry[plus - file] = '\0';
        strcpy(l->name.repository, plus + 1);
        for (char *p = l->name.repository; (p = strchr(p, '+')); p++)
                *p = '/';
        return io_list_dir(dirfd, file, list_name, l, err);
}

int name_list(struct image_store *store,
        int (*fn)(void *opaque, const struct reference *name, const struct record_key *key,
                const struct descriptor *manifest, struct err **err),
        void *opaque, struct err **err)
{
        struct listing l = { .store = store, .fn = fn, .opaque = opaque };

        return io_list_dir(store->fd, DIR_NAMES, list_repository, &l, err);
}

/* --- index.json ------------------------------------------------------------------------------------------------------ */

static int add_to_index(void *opaque, const struct reference *name, const struct record_key *key,
        const struct descriptor *manifest, struct err **err)
{
        char full[REFERENCE_TEXT_MAX];
        json_t *entry = descriptor_to_json(manifest);

        reference_format(name, full);
        json_object_set_new(entry, "annotations", json_pack("{s:s}", "org.opencontainers.image.ref.name", full));
        return json_array_append_new(opaque, entry) < 0 ? err_sys(err, ENOMEM, "writing index.json") : 0;
}

int index_write(struct lease *lease, struct err **err)
{
        _cleanup_json_ json_t *json =
                json_pack("{s:i, s:s, s:[]}", "schemaVersion", 2, "mediaType", MEDIA_OCI_INDEX, "manifests");
        const struct lease_name name = lease_new_name(lease);
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int names = -1, fd = -1;
        int r = io_open_dir(lease->store->fd, DIR_NAMES, &names, err);

        if (r < 0)
                return r;
        while (flock(names, LOCK_EX) < 0) /* the last one to write has seen every name */
                if (errno != EINTR)
                        return err_sys(err, errno, "locking the names");
        r = name_list(lease->store, add_to_index, json_object_get(json, "manifests"), err);
        if (r < 0)
                return r;
        text = json_dumps(json, JSON_COMPACT);
        if (!text)
                return err_sys(err, ENOMEM, "writing index.json");
        /* Not synced: it is made of the names. */
        fd = openat(lease->tmp_fd, name.text, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        r = fd < 0 ? -errno : io_write_all(fd, text, strlen(text));
        if (r == 0 && renameat(lease->tmp_fd, name.text, lease->store->fd, "index.json") < 0)
                r = -errno;
        return r < 0 ? err_sys(err, -r, "writing index.json") : 0;
}

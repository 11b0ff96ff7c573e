#include "implied.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "overlay.h"
#include "walk.h"

struct repair {
        struct image_store *store;
        size_t n;
        int *layers;      /* directories, lowest first */
        json_t **implied; /* their directories that were not mentioned: the keys */
        int upper;
};

/* Whether @path or a directory that it is in hides what lower layers have. */
static bool hides_lower(const struct repair *r, int layer, const char *path)
{
        _cleanup_free_ char *part = strdup(path);

        for (char *slash = part ? part + strlen(part) : NULL; slash; slash = strrchr(part, '/')) {
                _cleanup_close_ int fd = -1;

                *slash = '\0';
                fd = walk_open(layer, part, O_PATH);
                if (fd >= 0 && overlay_is_opaque(fd, r->store->user_xattr))
                        return true;
        }
        return false;
}

/* The attributes that the directory should have: those of the topmost layer that mentions it. 0 when it needs no repair. */
static int wanted_attributes(const struct repair *r, const char *path, bool always, struct stat *ret)
{
        bool seen = always;

        for (size_t i = r->n; i-- > 0;) {
                _cleanup_close_ int fd = walk_open(r->layers[i], path, O_PATH);
                struct stat st;

                if (fd < 0)
                        continue;
                if (fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode))
                        return 0; /* a file or a whiteout */
                if (!json_object_get(r->implied[i], path)) {
                        *ret = st;
                        return seen;
                }
                seen = true;
                if (hides_lower(r, r->layers[i], path))
                        return 0;
        }
        return 0;
}

static int make_like(const struct repair *r, const char *path, const struct stat *like, struct err **err)
{
        const struct timespec times[2] = { like->st_mtim, like->st_mtim };

        if (mkdirat(r->upper, path, 0755) < 0)
                return errno == EEXIST ? 0 : err_sys(err, errno, "making '/%s'", path);
        if ((!r->store->squash_owners &&
                    fchownat(r->upper, path, like->st_uid, like->st_gid, AT_SYMLINK_NOFOLLOW) < 0) ||
                fchmodat(r->upper, path, like->st_mode & 07777, 0) < 0)
                return err_sys(err, errno, "making '/%s'", path);
        utimensat(r->upper, path, times, AT_SYMLINK_NOFOLLOW);
        return 0;
}

/* With the directories above it, which would be hidden by the new ones otherwise. */
static int repair_dir(const struct repair *r, const char *path, struct err **err)
{
        _cleanup_free_ char *part = strdup(path);
        struct stat like;
        int status = 0;

        if (!part)
                return err_sys(err, ENOMEM, "making '/%s'", path);
        if (!wanted_attributes(r, path, false, &like))
                return 0;
        for (char *slash = strchr(part, '/'); status == 0 && slash; slash = strchr(slash + 1, '/')) {
                struct stat above;

                *slash = '\0';
                if (!wanted_attributes(r, part, true, &above))
                        return 0; /* there is no such directory to be seen */
                status = make_like(r, part, &above, err);
                *slash = '/';
        }
        return status < 0 ? status : make_like(r, path, &like, err);
}

static int open_layer(struct repair *r, const struct digest *diff_id, size_t i, struct err **err)
{
        _cleanup_json_ json_t *json = NULL;
        _cleanup_free_ char *text = NULL;
        char path[sizeof(DIR_LAYERS) + DIGEST_HEX + 16];
        size_t len;
        int status;

        snprintf(path, sizeof(path), DIR_LAYERS "/%s/layer.json", digest_hex(diff_id));
        status = io_read_file(r->store->fd, path, LAYER_JSON_MAX, &text, &len, err);
        if (status == 0)
                status = json_read(text, len, path, &json, err);
        if (status < 0)
                return status;
        r->implied[i] = json_incref(json_object_get(json, "implied"));
        snprintf(path, sizeof(path), DIR_LAYERS "/%s/diff", digest_hex(diff_id));
        return io_open_dir(r->store->fd, path, &r->layers[i], err);
}

int implied_repair(struct image_store *store, const struct digest *diff_ids, size_t n, int upper_fd, struct err **err)
{
        _cleanup_free_ int *layers = malloc((n + 1) * sizeof(*layers));
        _cleanup_free_ json_t **implied = calloc(n + 1, sizeof(json_t *));
        struct repair r = { .store = store, .n = n, .layers = layers, .implied = implied, .upper = upper_fd };
        const char *path;
        json_t *value;
        int status = layers && implied ? 0 : err_sys(err, ENOMEM, "making an instance");

        for (size_t i = 0; layers && i < n; i++)
                layers[i] = -1;
        for (size_t i = 0; status == 0 && i < n; i++)
                status = open_layer(&r, &diff_ids[i], i, err);
        for (size_t i = 1; status == 0 && i < n; i++) /* nothing is below the lowest */
                json_object_foreach(implied[i], path, value)
                {
                        status = repair_dir(&r, path, err);
                        if (status < 0)
                                break;
                }
        for (size_t i = 0; layers && implied && i < n; i++) {
                closep(&layers[i]);
                json_decref(implied[i]);
        }
        return status;
}

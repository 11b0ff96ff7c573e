/* Walks an upper directory. A container may have made it as deep and as odd as it liked, and may still be at it: what changes
 * under our hands is taken as it was seen first. */
#include "diff.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "overlay.h"
#include "pack.h"
#include "walk.h"

struct walk {
        bool user_xattr;
        void *opaque;
};

static bool is_whiteout(const struct stat *st)
{
        return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

/* What fuse-overlayfs puts into an opaque directory beside the attribute. */
static bool is_marker(const char *path)
{
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

        return strcmp(name, ".wh..opq") == 0 || strcmp(name, ".wh..wh..opq") == 0;
}

/* --- as an archive ------------------------------------------------------------------------------------------------------------- */

static int write_whiteout(const struct pack *pack, const char *dir, size_t dir_len, const char *name, struct err **err)
{
        _cleanup_free_ char *path = NULL;
        struct tar_entry e = { .type = TAR_FILE };

        if (asprintf(&path, "%.*s%s.wh.%s", (int)dir_len, dir, dir_len ? "/" : "", name) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "writing a layer");
        }
        e.path = path;
        return tar_write_header(pack->sink, &e, err);
}

static int archive_entry(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct walk *w = opaque;
        struct pack *pack = w->opaque;
        const char *slash = strrchr(path, '/');
        const size_t dir_len = slash ? (size_t)(slash - path) : 0;
        int r;

        if (is_marker(path))
                return 0;
        if (is_whiteout(st))
                return write_whiteout(pack, path, dir_len, slash ? slash + 1 : path, err);
        r = pack_entry(pack, fd, path, st, err);
        if (r > 0 && S_ISDIR(st->st_mode) && overlay_is_opaque(fd, w->user_xattr))
                r = write_whiteout(pack, path, strlen(path), ".wh..opq", err);
        return MIN(r, 0);
}

int diff_write_layer(int upper_fd, bool user_xattr, s64 clamp_mtime, const struct byte_sink *sink, struct err **err)
{
        struct pack pack;
        struct walk w = { user_xattr, &pack };
        int r = pack_init(&pack, sink, clamp_mtime, err);

        if (r < 0)
                return r;
        r = walk_tree(upper_fd, "", archive_entry, &w, err);
        pack_clear(&pack);
        return r < 0 ? r : tar_write_end(sink, err);
}

/* --- as a list -------------------------------------------------------------------------------------------------------------------- */

struct list_walk {
        const char *const *lower;
        size_t n_lower;
        int (*fn)(void *opaque, char kind, const char *path);
        void *opaque;
};

/* In one layer: 1 it has it, -1 it hides what is below, 0 ask the next. */
static int layer_has(const struct walk *w, const char *layer, const char *path)
{
        _cleanup_close_ int root = open(layer, O_PATH | O_DIRECTORY | O_CLOEXEC);
        char part[TAR_PATH_MAX + 1];
        int hides = 0;

        for (const char *end = path; root >= 0 && end;) {
                _cleanup_close_ int fd = -1;
                struct stat st;

                end = strchr(end, '/');
                snprintf(part, sizeof(part), "%.*s", end ? (int)(end - path) : INT_MAX, path);
                fd = walk_open(root, part, O_PATH);
                if (fd < 0 || fstat(fd, &st) < 0)
                        return hides;
                if (is_whiteout(&st) || (end && !S_ISDIR(st.st_mode)))
                        return -1;
                if (!end)
                        return 1;
                if (overlay_is_opaque(fd, w->user_xattr))
                        hides = -1;
                end++;
        }
        return hides;
}

static bool is_below(const struct walk *w, const char *path)
{
        const struct list_walk *l = w->opaque;
        int has = 0;

        for (size_t i = 0; i < l->n_lower && has == 0; i++)
                has = layer_has(w, l->lower[i], path);
        return has == 1;
}

static int list_entry(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct walk *w = opaque;
        struct list_walk *l = w->opaque;
        char absolute[TAR_PATH_MAX + 2];
        const char kind = is_whiteout(st) ? 'D' : is_below(w, path) ? 'C' : 'A';

        snprintf(absolute, sizeof(absolute), "/%s", path);
        if (is_marker(path))
                return 0;
        return l->fn(l->opaque, kind, absolute);
}

int diff_list(int upper_fd, bool user_xattr, const char *const *lower, size_t n_lower,
        int (*fn)(void *opaque, char kind, const char *path), void *opaque, struct err **err)
{
        struct list_walk l = { lower, n_lower, fn, opaque };
        struct walk w = { user_xattr, &l };

        return walk_tree(upper_fd, "", list_entry, &w, err);
}

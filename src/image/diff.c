/* Walks an upper directory. A container may have made it as deep and as odd as it liked, and may still be at it: what changes
 * under our hands is taken as it was seen first. */
#include "diff.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "chunks.h"
#include "overlay.h"
#include "unpack.h"
#include "walk.h"

struct walk {
        bool user_xattr;
        void *opaque;
};

static bool is_whiteout(const struct stat *st)
{
        return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

/* --- as an archive ------------------------------------------------------------------------------------------------------------- */

struct archive_walk {
        const struct byte_sink *sink;
        s64 clamp_mtime;
        json_t *links; /* "device:inode" of files with several names -> the first */
        u8 *buf;
};

/* The attributes that unpacking takes. */
static int read_xattrs(int fd, struct tar_entry *e, struct err **err)
{
        const struct io_fd_path path = io_fd_path(fd);
        _cleanup_free_ char *list = malloc(XATTR_LIST_MAX);
        const ssize_t len = list ? listxattr(path.text, list, XATTR_LIST_MAX) : -1;

        if (!list)
                return err_sys(err, ENOMEM, "reading attributes");
        for (const char *name = list; len > 0 && name < list + len && e->n_xattrs < TAR_XATTRS_MAX;
                name += strlen(name) + 1) {
                struct tar_xattr x = { 0 };
                ssize_t n;

                if (!unpack_takes_xattr(name))
                        continue;
                x.value = malloc(XATTR_SIZE_MAX);
                x.name = strdup(name);
                n = x.value && x.name ? getxattr(path.text, name, x.value, XATTR_SIZE_MAX) : -1;
                if (n >= 0 && !e->xattrs)
                        e->xattrs = calloc(TAR_XATTRS_MAX, sizeof(*e->xattrs));
                if (n < 0 || !e->xattrs) {
                        free(x.name);
                        free(x.value);
                        continue;
                }
                x.len = (size_t)n;
                e->xattrs[e->n_xattrs++] = x;
        }
        return 0;
}

static void clear_entry(struct tar_entry *e)
{
        for (size_t i = 0; i < e->n_xattrs; i++) {
                free(e->xattrs[i].name);
                free(e->xattrs[i].value);
        }
        free(e->xattrs);
        free(e->link);
}

/* Exactly the size that the header says: a file that shrinks is filled up with zeros. */
static int write_content(struct archive_walk *a, int fd, u64 size, struct err **err)
{
        int r = 0;

        for (u64 left = size; r == 0 && left > 0;) {
                const size_t want = MIN(left, (u64)CHUNK_SIZE);
                ssize_t n = io_read_full(fd, a->buf, want);

                if (n < 0)
                        return err_sys(err, (int)-n, "reading a file");
                memset(a->buf + n, 0, want - (size_t)n);
                r = a->sink->write(a->sink->opaque, a->buf, want, err);
                left -= want;
        }
        return r < 0 ? r : tar_write_padding(a->sink, size, err);
}

static int write_whiteout(struct archive_walk *a, const char *dir, size_t dir_len, const char *name, struct err **err)
{
        _cleanup_free_ char *path = NULL;
        struct tar_entry e = { .type = TAR_FILE };

        if (asprintf(&path, "%.*s%s.wh.%s", (int)dir_len, dir, dir_len ? "/" : "", name) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "writing a layer");
        }
        e.path = path;
        return tar_write_header(a->sink, &e, err);
}

static bool type_of_mode(mode_t mode, enum tar_type *ret)
{
        static const struct {
                mode_t mode;
                enum tar_type type;
        } types[] = { { S_IFREG, TAR_FILE }, { S_IFDIR, TAR_DIR }, { S_IFLNK, TAR_SYMLINK }, { S_IFCHR, TAR_CHAR },
                { S_IFBLK, TAR_BLOCK_DEVICE }, { S_IFIFO, TAR_FIFO } };

        for (size_t i = 0; i < ARRAY_SIZE(types); i++)
                if (types[i].mode == (mode & S_IFMT)) {
                        *ret = types[i].type;
                        return true;
                }
        return false;
}

/* The first name of a file with several; NULL when this is it. */
static const char *first_link(struct archive_walk *a, const struct stat *st, const char *path)
{
        char key[48];
        const char *first;

        if (st->st_nlink < 2 || S_ISDIR(st->st_mode))
                return NULL;
        snprintf(key, sizeof(key), "%lu:%lu", (unsigned long)st->st_dev, (unsigned long)st->st_ino);
        first = json_string_value(json_object_get(a->links, key));
        if (!first)
                json_object_set_new(a->links, key, json_stringn_nocheck(path, strlen(path)));
        return first;
}

static int fill_entry(
        struct archive_walk *a, int fd, const struct stat *st, const char *path, struct tar_entry *e, struct err **err)
{
        char target[PATH_MAX];
        const char *first = first_link(a, st, path);
        ssize_t n;

        e->mode = st->st_mode & 07777;
        e->uid = st->st_uid;
        e->gid = st->st_gid;
        e->mtime = (struct timespec){ .tv_sec = st->st_mtim.tv_sec };
        if (a->clamp_mtime >= 0 && e->mtime.tv_sec > a->clamp_mtime)
                e->mtime.tv_sec = a->clamp_mtime;
        if (first) {
                e->type = TAR_HARDLINK;
                e->link = strdup(first);
                return e->link ? 0 : err_sys(err, ENOMEM, "writing a layer");
        }
        if (e->type == TAR_SYMLINK) {
                n = readlinkat(fd, "", target, sizeof(target) - 1);
                if (n < 0)
                        return err_sys(err, errno, "reading link '/%s'", path);
                e->link = strndup(target, (size_t)n);
                return e->link ? 0 : err_sys(err, ENOMEM, "writing a layer");
        }
        e->size = e->type == TAR_FILE ? (u64)st->st_size : 0;
        e->major = major(st->st_rdev);
        e->minor = minor(st->st_rdev);
        return e->type == TAR_FILE || e->type == TAR_DIR ? read_xattrs(fd, e, err) : 0;
}

static int archive_entry(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct walk *w = opaque;
        struct archive_walk *a = w->opaque;
        const char *slash = strrchr(path, '/');
        const size_t dir_len = slash ? (size_t)(slash - path) : 0;
        char named[TAR_PATH_MAX + 2];
        struct tar_entry e = { .path = named };
        int content, r;

        if (is_whiteout(st))
                return write_whiteout(a, path, dir_len, slash ? slash + 1 : path, err);
        if (!type_of_mode(st->st_mode, &e.type))
                return 0; /* sockets */
        snprintf(named, sizeof(named), "%s%s", path, e.type == TAR_DIR ? "/" : "");
        r = fill_entry(a, fd, st, path, &e, err);
        if (r == 0)
                r = tar_write_header(a->sink, &e, err);
        if (r == 0 && e.type == TAR_FILE && e.size > 0) {
                content = open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
                r = content < 0 ? err_sys(err, errno, "opening '/%s'", path) : write_content(a, content, e.size, err);
                closep(&content);
        }
        clear_entry(&e);
        if (r == 0 && e.type == TAR_DIR && overlay_is_opaque(fd, w->user_xattr))
                r = write_whiteout(a, path, strlen(path), ".wh..opq", err);
        return r;
}

int diff_write_layer(int upper_fd, bool user_xattr, s64 clamp_mtime, const struct byte_sink *sink, struct err **err)
{
        _cleanup_json_ json_t *links = json_object();
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);
        struct archive_walk a = { .sink = sink, .clamp_mtime = clamp_mtime, .links = links, .buf = buf };
        struct walk w = { user_xattr, &a };
        int r = links && buf ? walk_tree(upper_fd, "", archive_entry, &w, err)
                             : err_sys(err, ENOMEM, "writing a layer");

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
        return l->fn(l->opaque, kind, absolute);
}

int diff_list(int upper_fd, bool user_xattr, const char *const *lower, size_t n_lower,
        int (*fn)(void *opaque, char kind, const char *path), void *opaque, struct err **err)
{
        struct list_walk l = { lower, n_lower, fn, opaque };
        struct walk w = { user_xattr, &l };

        return walk_tree(upper_fd, "", list_entry, &w, err);
}

#include "pack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "chunks.h"
#include "io.h"
#include "unpack.h"

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
static int write_content(struct pack *pack, int fd, u64 size, struct err **err)
{
        int r = 0;

        for (u64 left = size; r == 0 && left > 0;) {
                const size_t want = MIN(left, (u64)CHUNK_SIZE);
                ssize_t n = io_read_full(fd, pack->buf, want);

                if (n < 0)
                        return err_sys(err, (int)-n, "reading a file");
                memset(pack->buf + n, 0, want - (size_t)n);
                r = pack->sink->write(pack->sink->opaque, pack->buf, want, err);
                left -= want;
        }
        return r < 0 ? r : tar_write_padding(pack->sink, size, err);
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
static const char *first_link(struct pack *pack, const struct stat *st, const char *path)
{
        char key[48];
        const char *first;

        if (st->st_nlink < 2 || S_ISDIR(st->st_mode))
                return NULL;
        snprintf(key, sizeof(key), "%lu:%lu", (unsigned long)st->st_dev, (unsigned long)st->st_ino);
        first = json_string_value(json_object_get(pack->links, key));
        if (!first)
                json_object_set_new(pack->links, key, json_stringn_nocheck(path, strlen(path)));
        return first;
}

static int fill_entry(
        struct pack *pack, int fd, const struct stat *st, const char *path, struct tar_entry *e, struct err **err)
{
        char target[PATH_MAX];
        const char *first = first_link(pack, st, path);
        ssize_t n;

        e->mode = st->st_mode & 07777;
        e->uid = st->st_uid;
        e->gid = st->st_gid;
        e->mtime = (struct timespec){ .tv_sec = st->st_mtim.tv_sec };
        if (pack->clamp_mtime >= 0 && e->mtime.tv_sec > pack->clamp_mtime)
                e->mtime.tv_sec = pack->clamp_mtime;
        if (first) {
                e->type = TAR_HARDLINK;
                e->link = strdup(first);
                return e->link ? 0 : err_sys(err, ENOMEM, "writing an archive");
        }
        if (e->type == TAR_SYMLINK) {
                n = readlinkat(fd, "", target, sizeof(target) - 1);
                if (n < 0)
                        return err_sys(err, errno, "reading link '/%s'", path);
                e->link = strndup(target, (size_t)n);
                return e->link ? 0 : err_sys(err, ENOMEM, "writing an archive");
        }
        e->size = e->type == TAR_FILE ? (u64)st->st_size : 0;
        e->major = major(st->st_rdev);
        e->minor = minor(st->st_rdev);
        return e->type == TAR_FILE || e->type == TAR_DIR ? read_xattrs(fd, e, err) : 0;
}

int pack_entry(struct pack *pack, int fd, const char *path, const struct stat *st, struct err **err)
{
        char named[TAR_PATH_MAX + 2];
        struct tar_entry e = { .path = named };
        int content, r;

        if (!type_of_mode(st->st_mode, &e.type))
                return 0; /* sockets */
        snprintf(named, sizeof(named), "%s%s", path, e.type == TAR_DIR ? "/" : "");
        r = fill_entry(pack, fd, st, path, &e, err);
        if (r == 0)
                r = tar_write_header(pack->sink, &e, err);
        if (r == 0 && e.type == TAR_FILE && e.size > 0) {
                content = open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
                r = content < 0 ? err_sys(err, errno, "opening '/%s'", path)
                                : write_content(pack, content, e.size, err);
                closep(&content);
        }
        clear_entry(&e);
        return r < 0 ? r : 1;
}

int pack_init(struct pack *pack, const struct byte_sink *sink, s64 clamp_mtime, struct err **err)
{
        *pack = (struct pack){ sink, clamp_mtime, json_object(), malloc(CHUNK_SIZE) };
        if (pack->links && pack->buf)
                return 0;
        pack_clear(pack);
        return err_sys(err, ENOMEM, "writing an archive");
}

void pack_clear(struct pack *pack)
{
        json_decref(pack->links);
        free(pack->buf);
        *pack = (struct pack){ 0 };
}

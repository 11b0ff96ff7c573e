#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

ssize_t io_read_full(int fd, void *data, size_t len)
{
        char *p = data;
        size_t got = 0;

        while (got < len) {
                const ssize_t n = read(fd, p + got, len - got);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                got += (size_t)n;
        }
        return (ssize_t)got;
}

int io_read_stream(int fd, size_t max, char **ret, size_t *ret_len, struct err **err)
{
        _cleanup_free_ char *buf = NULL;
        size_t len = 0, cap = 0;

        for (;;) {
                ssize_t n;

                if (len + 1 >= cap) {
                        const size_t grown = MIN(MAX(2 * cap, (size_t)4096), max + 2);
                        char *p;

                        if (grown <= cap)
                                return err_set(
                                        err, ERR_TOO_LARGE, EFBIG, "more than the %zu bytes that are allowed", max);
                        p = realloc(buf, grown);
                        if (!p)
                                return err_sys(err, ENOMEM, "reading");
                        buf = p;
                        cap = grown;
                }
                n = io_read_full(fd, buf + len, cap - len - 1);
                if (n < 0)
                        return err_sys(err, (int)-n, "reading");
                if (n == 0)
                        break;
                len += (size_t)n;
        }
        buf[len] = '\0';
        *ret = TAKE_PTR(buf);
        if (ret_len)
                *ret_len = len;
        return 0;
}

int io_read_file(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len, struct err **err)
{
        _cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        int r;

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", path);
        r = io_read_stream(fd, max, ret, ret_len, err);
        return r < 0 ? err_wrap(err, r, "'%s'", path) : 0;
}

int io_replace_file(
        int tmp_dirfd, const char *tmp, int dirfd, const char *path, const void *data, size_t len, struct err **err)
{
        _cleanup_close_ int fd = openat(tmp_dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
        int r;

        if (fd < 0)
                return err_sys(err, errno, "creating '%s'", tmp);
        r = io_write_all(fd, data, len);
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        if (r == 0 && renameat(tmp_dirfd, tmp, dirfd, path) < 0)
                r = -errno;
        if (r == 0 && fsync(dirfd) < 0)
                r = -errno;
        return r < 0 ? err_sys(err, -r, "writing '%s'", path) : 0;
}

int io_make_dir(int dirfd, const char *path, mode_t mode, struct err **err)
{
        if (mkdirat(dirfd, path, mode) < 0 && errno != EEXIST)
                return err_sys(err, errno, "making directory '%s'", path);
        return 0;
}

int io_make_path(const char *path, mode_t mode, struct err **err)
{
        _cleanup_free_ char *copy = strdup(path);

        if (!copy)
                return err_sys(err, ENOMEM, "making directory '%s'", path);
        for (char *p = copy + 1; copy[0] && (p = strchr(p, '/')); p++) {
                *p = '\0';
                if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                        return err_sys(err, errno, "making directory '%s'", copy);
                *p = '/';
        }
        return io_make_dir(AT_FDCWD, path, mode, err);
}

int io_open_dir(int dirfd, const char *path, int *ret, struct err **err)
{
        const int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return err_sys(err, errno, "opening directory '%s'", path);
        *ret = fd;
        return 0;
}

struct io_fd_path io_fd_path(int fd)
{
        struct io_fd_path path;

        snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", fd);
        return path;
}

static bool is_dots(const char *name)
{
        return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static void closedirp(DIR **dir)
{
        if (*dir)
                closedir(*dir);
}

int io_list_dir(int dirfd, const char *path, int (*fn)(void *opaque, int dirfd, const char *name, struct err **err),
        void *opaque, struct err **err)
{
        _cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_(closedirp) DIR *dir = NULL;
        int listed, r;

        if (fd < 0 && errno == ENOENT)
                return 0;
        if (fd < 0 || !(dir = fdopendir(fd)))
                return err_sys(err, errno, "opening directory '%s'", path);
        listed = TAKE_FD(fd);
        for (;;) {
                struct dirent *entry;

                errno = 0;
                entry = readdir(dir);
                if (!entry)
                        return errno ? err_sys(err, errno, "reading directory '%s'", path) : 0;
                if (is_dots(entry->d_name))
                        continue;
                r = fn(opaque, listed, entry->d_name, err);
                if (r != 0)
                        return r;
        }
}

/* --- removing trees --------------------------------------------------------------------------------------------------
 *
 * A tree may be deeper than there are descriptors (a hostile layer). Only one directory is open at a time: a
 * subdirectory is moved up beside the tree's root before it is emptied, when it is deeper than a few levels. */

#define REMOVE_DEPTH_MAX 32

struct remover {
        int top_fd; /* where deep directories are moved to */
        const char *top_name;
        unsigned moved;
};

static int remove_children(struct remover *remover, int fd, unsigned depth);

static int remove_dir(struct remover *remover, int dirfd, const char *name, unsigned depth)
{
        int fd, r;

        if (depth >= REMOVE_DEPTH_MAX) {
                char away[NAME_MAX + 1];

                if (snprintf(away, sizeof(away), "%.200s.%u", remover->top_name, remover->moved) >= (int)sizeof(away))
                        return -ENAMETOOLONG;
                if (renameat(dirfd, name, remover->top_fd, away) < 0)
                        return -errno;
                remover->moved++;
                return 0;
        }
        fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == EACCES) { /* not ours to read but ours to remove: outside of root's powers */
                fchmodat(dirfd, name, 0700, 0);
                fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        }
        if (fd < 0)
                return -errno;
        r = remove_children(remover, fd, depth + 1);
        if (r < 0)
                return r;
        return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

/* Takes over @fd. */
static int remove_children(struct remover *remover, int fd, unsigned depth)
{
        _cleanup_(closedirp) DIR *dir = fdopendir(fd);
        struct dirent *entry;
        int r;

        if (!dir) {
                r = -errno;
                close(fd);
                return r;
        }
        if (fchmod(fd, 0700) < 0 && errno != EPERM)
                return -errno;
        while ((entry = readdir(dir))) {
                if (is_dots(entry->d_name))
                        continue;
                if (entry->d_type != DT_DIR && unlinkat(fd, entry->d_name, 0) == 0)
                        continue;
                if (entry->d_type != DT_DIR && errno == ENOENT)
                        continue;
                if (entry->d_type != DT_DIR && errno != EISDIR)
                        return -errno;
                r = remove_dir(remover, fd, entry->d_name, depth);
                if (r < 0)
                        return r;
        }
        return 0;
}

int io_remove_tree(int dirfd, const char *name, struct err **err)
{
        struct remover remover = { .top_fd = dirfd, .top_name = name };
        char moved[NAME_MAX + 1];
        int r = 0;

        if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
                return 0;
        if (errno != EISDIR && errno != EPERM)
                return err_sys(err, errno, "removing '%s'", name);
        r = remove_dir(&remover, dirfd, name, 0);
        for (unsigned i = 0; r == 0 && i < remover.moved; i++) {
                snprintf(moved, sizeof(moved), "%.200s.%u", name, i);
                r = remove_dir(&remover, dirfd, moved, 0);
        }
        return r < 0 ? err_sys(err, -r, "removing '%s'", name) : 0;
}

#include "tree_copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "box/sys.h"
#include "image/io.h"
#include "image/walk.h"

#define COPY_DEPTH 256
#define XATTR_MAX  65536

int tree_open(int root, const char *path)
{
        return sys_openat2(root, path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

int tree_is_not_empty(void *opaque, int dirfd, const char *name, struct err **err)
{
        *(bool *)opaque = false;
        return 1;
}

static int add_size(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        *(u64 *)opaque += (u64)st->st_blocks * 512;
        return 0;
}

u64 tree_size(const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        u64 size = 0;

        if (fd >= 0)
                walk_tree(fd, "", add_size, &size, NULL);
        return size;
}

/* Of a file, or of a link by its own path. */
static void copy_xattrs(int from, int to)
{
        _cleanup_free_ char *names = malloc(XATTR_MAX), *value = malloc(XATTR_MAX);
        const ssize_t n = names && value ? flistxattr(from, names, XATTR_MAX) : -1;

        for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1) {
                const ssize_t len = fgetxattr(from, names + at, value, XATTR_MAX);

                if (len >= 0 && strncmp(names + at, "trusted.overlay.", 16) != 0)
                        fsetxattr(to, names + at, value, (size_t)len, 0);
        }
}

static int copy_attributes(int to_dir, const char *name, const struct stat *st)
{
        const struct timespec times[2] = { st->st_atim, st->st_mtim };

        if (fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM)
                return -errno;
        if (!S_ISLNK(st->st_mode) && fchmodat(to_dir, name, st->st_mode & 07777, 0) < 0)
                return -errno;
        utimensat(to_dir, name, times, AT_SYMLINK_NOFOLLOW);
        return 0;
}

static int copy_data(int from, int to)
{
        for (;;) {
                const ssize_t n = sendfile(to, from, NULL, 1 << 22);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : 0;
        }
}

static int copy_file(int from_dir, int to_dir, const char *name)
{
        _cleanup_close_ int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), to = -1;
        int r;

        to = from < 0 ? -1 : openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (to < 0)
                return -errno;
        r = copy_data(from, to);
        if (r == 0)
                copy_xattrs(from, to);
        return r;
}

static int copy_link(int from_dir, int to_dir, const char *name)
{
        char target[PATH_MAX];
        const ssize_t n = readlinkat(from_dir, name, target, sizeof(target) - 1);

        if (n < 0)
                return -errno;
        target[n] = '\0';
        return symlinkat(target, to_dir, name) < 0 ? -errno : 0;
}

static int copy_directory(int from, int to, unsigned depth);

static int copy_entry(int from_dir, int to_dir, const char *name, unsigned depth)
{
        struct stat st;
        int r;

        if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        if (S_ISREG(st.st_mode))
                r = copy_file(from_dir, to_dir, name);
        else if (S_ISLNK(st.st_mode))
                r = copy_link(from_dir, to_dir, name);
        else if (S_ISDIR(st.st_mode)) {
                _cleanup_close_ int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
                                    to = -1;

                if (from < 0 || mkdirat(to_dir, name, 0700) < 0)
                        return -errno;
                to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                r = to < 0 ? -errno : copy_directory(from, to, depth + 1);
        } else
                r = mknodat(to_dir, name, st.st_mode, st.st_rdev) < 0 ? -errno : 0;
        return r < 0 ? r : copy_attributes(to_dir, name, &st);
}

static int copy_directory(int from, int to, unsigned depth)
{
        const int copy = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        struct dirent *entry;
        int r = 0;

        if (!dir || depth > COPY_DEPTH) {
                r = dir ? -ELOOP : -errno;
                if (dir)
                        closedir(dir);
                return r;
        }
        copy_xattrs(from, to);
        while (r == 0 && (entry = readdir(dir)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        r = copy_entry(from, to, entry->d_name, depth);
        closedir(dir);
        return r;
}

int tree_copy(int from, int to, struct err **err)
{
        struct stat st;
        int r = copy_directory(from, to, 0);

        if (r == 0 && (fstat(from, &st) < 0 || (fchown(to, st.st_uid, st.st_gid) < 0 && errno != EPERM) ||
                              fchmod(to, st.st_mode & 07777) < 0))
                r = -errno;
        return r < 0 ? err_sys(err, -r, "copying files") : 0;
}

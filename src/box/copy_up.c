#include "copy_up.h"

#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/sendfile.h>

#include "base/cleanup.h"
#include "root.h"
#include "sys.h"

enum { DEPTH_MAX = 256 };

static int copy_tree(int from, int to, int depth, struct err **err);

static int copy_file(int from_dir, int to_dir, const char *name, const struct stat *st, struct err **err)
{
        _cleanup_close_ int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        _cleanup_close_ int to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        off_t left = st->st_size;

        if (from < 0 || to < 0)
                return err_sys(err, errno, "copying '%s'", name);
        while (left > 0) {
                const ssize_t n = sendfile(to, from, NULL, (size_t)left);

                if (n < 0)
                        return err_sys(err, errno, "copying '%s'", name);
                if (n == 0)
                        break;
                left -= n;
        }
        if (fchown(to, st->st_uid, st->st_gid) < 0 || fchmod(to, st->st_mode & 07777) < 0)
                return err_sys(err, errno, "copying '%s'", name);
        return 0;
}

static int copy_directory(int from_dir, int to_dir, const char *name, int depth, struct err **err)
{
        _cleanup_close_ int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), to = -1;

        if (from < 0 || mkdirat(to_dir, name, 0700) < 0)
                return err_sys(err, errno, "copying '%s'", name);
        to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (to < 0)
                return err_sys(err, errno, "copying '%s'", name);
        return copy_tree(from, to, depth + 1, err);
}

static int copy_link(int from_dir, int to_dir, const char *name, struct err **err)
{
        char target[PATH_MAX];
        const ssize_t n = readlinkat(from_dir, name, target, sizeof(target) - 1);

        if (n < 0)
                return err_sys(err, errno, "copying '%s'", name);
        target[n] = 0;
        return symlinkat(target, to_dir, name) < 0 ? err_sys(err, errno, "copying '%s'", name) : 0;
}

static int copy_entry(int from, int to, const char *name, int depth, struct err **err)
{
        struct stat st;
        int r;

        if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, errno, "copying '%s'", name);
        switch (st.st_mode & S_IFMT) {
        case S_IFDIR:
                return copy_directory(from, to, name, depth, err);
        case S_IFREG:
                return copy_file(from, to, name, &st, err);
        case S_IFLNK:
                r = copy_link(from, to, name, err);
                break;
        case S_IFSOCK:
                return 0;
        default:
                r = mknodat(to, name, st.st_mode, st.st_rdev) < 0 ? err_sys(err, errno, "copying '%s'", name) : 0;
        }
        if (r == 0 && fchownat(to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
                r = err_sys(err, errno, "copying '%s'", name);
        return r;
}

/* Both are opened for reading. Below the top, owner and mode of @to become those of @from. */
static int copy_tree(int from, int to, int depth, struct err **err)
{
        struct dirent *entry;
        struct stat st;
        DIR *dir;
        int r = 0;
        const int copy = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (depth > DEPTH_MAX) {
                closep(&copy);
                return err_sys(err, ELOOP, "copying a tree deeper than %d", DEPTH_MAX);
        }
        dir = copy < 0 ? NULL : fdopendir(copy);
        if (!dir)
                return err_sys(err, errno, "reading a directory");
        while (r == 0 && (entry = readdir(dir)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        r = copy_entry(from, to, entry->d_name, depth, err);
        closedir(dir);
        if (r == 0 && depth &&
                (fstat(from, &st) < 0 || fchown(to, st.st_uid, st.st_gid) < 0 || fchmod(to, st.st_mode & 07777) < 0))
                r = err_sys(err, errno, "copying a directory's owner and mode");
        return r;
}

int copy_up(int from, int to, struct err **err)
{
        _cleanup_close_ int readable = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_close_ int target = openat(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (readable < 0 || target < 0)
                return err_sys(err, errno, "opening directories to copy");
        return copy_tree(readable, target, 0, err);
}

int copy_symlink(int link, int root, const char *path, struct err **err)
{
        char target[PATH_MAX];
        const ssize_t n = readlinkat(link, "", target, sizeof(target) - 1);
        const char *name;
        _cleanup_close_ int parent = -1;

        if (n < 0)
                return err_sys(err, errno, "reading the symlink for '%s'", path);
        target[n] = 0;
        parent = root_make_parent(root, path, &name, err);
        if (parent < 0)
                return parent;
        return symlinkat(target, parent, name) < 0 && errno != EEXIST
                       ? err_sys(err, errno, "making the symlink '%s'", path)
                       : 0;
}

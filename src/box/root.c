#include "root.h"

#include <limits.h>
#include <string.h>

#include "base/cleanup.h"
#include "sys.h"

#define RESOLVE (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

enum { LINKS_MAX = 40 }; /* as the kernel's */

int root_find(int root, const char *path, int flags)
{
        return sys_openat2(root, path, O_PATH | (u64)flags, 0, RESOLVE);
}

int root_open(int root, const char *path, int flags)
{
        return sys_openat2(root, path, (u64)flags, 0, RESOLVE);
}

static int make(int root, const char *path, bool dir, unsigned mode, int links, struct err **err);

/* Splits @path into parent and name. A path of only slashes has the name ".". */
static int split(const char *path, char parent[PATH_MAX], char name[NAME_MAX + 1])
{
        size_t end = strlen(path), start;

        while (end > 0 && path[end - 1] == '/')
                end--;
        start = end;
        while (start > 0 && path[start - 1] != '/')
                start--;
        if (end - start > NAME_MAX || start >= PATH_MAX)
                return -ENAMETOOLONG;
        memcpy(name, path + start, end - start);
        name[end - start] = 0;
        if (end == start)
                strcpy(name, ".");
        memcpy(parent, path, start);
        parent[start] = 0;
        if (!start)
                strcpy(parent, "/");
        return 0;
}

/* What is at @name in @dir is a symlink to nowhere: makes what it points to. */
static int make_link_target(int root, int dir, const char *parent, const char *name, bool is_dir, unsigned mode,
        int links, struct err **err)
{
        char target[PATH_MAX], joined[2 * PATH_MAX];
        const ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);

        if (n < 0)
                return err_sys(err, errno == EINVAL ? ENOENT : errno, "making '%s/%s'", parent, name);
        target[n] = 0;
        if (target[0] == '/')
                return make(root, target, is_dir, mode, links + 1, err);
        if ((size_t)snprintf(joined, sizeof(joined), "%s/%s", parent, target) >= PATH_MAX)
                return err_sys(err, ENAMETOOLONG, "making '%s/%s'", parent, name);
        return make(root, joined, is_dir, mode, links + 1, err);
}

/* Finds @path or makes it, a directory or an empty file. */
static int make(int root, const char *path, bool dir, unsigned mode, int links, struct err **err)
{
        char parent[PATH_MAX], name[NAME_MAX + 1];
        _cleanup_close_ int parent_fd = -1;
        int fd = root_find(root, path, 0), r;

        if (fd != -ENOENT)
                return fd >= 0 ? fd : err_sys(err, -fd, "resolving '%s' in the container's root", path);
        if (links > LINKS_MAX)
                return err_sys(err, ELOOP, "resolving '%s' in the container's root", path);
        r = split(path, parent, name);
        if (r < 0)
                return err_sys(err, -r, "resolving '%s' in the container's root", path);
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
                return make(root, parent, true, mode, links + 1, err);
        parent_fd = make(root, parent, true, 0755, links + 1, err);
        if (parent_fd < 0)
                return parent_fd;
        if (dir) {
                r = mkdirat(parent_fd, name, mode);
        } else {
                r = openat(parent_fd, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_WRONLY, mode);
                if (r >= 0)
                        close(r);
        }
        if (r < 0 && errno != EEXIST)
                return err_sys(err, errno, "making '%s' in the container's root", path);
        fd = root_find(root, path, 0);
        if (fd >= 0)
                return fd;
        if (fd == -ENOENT)
                return make_link_target(root, parent_fd, parent, name, dir, mode, links, err);
        return err_sys(err, -fd, "resolving '%s' in the container's root", path);
}

int root_make_dir(int root, const char *path, unsigned mode, struct err **err)
{
        return make(root, path, true, mode, 0, err);
}

int root_make_file(int root, const char *path, struct err **err)
{
        return make(root, path, false, 0755, 0, err);
}

int root_make_parent(int root, const char *path, const char **ret_name, struct err **err)
{
        char parent[PATH_MAX], name[NAME_MAX + 1];
        const char *slash = strrchr(path, '/');
        int r = split(path, parent, name);

        if (r < 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || (slash && !slash[1]))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' is not the path of a file", path);
        *ret_name = slash ? slash + 1 : path;
        return make(root, parent, true, 0755, 0, err);
}

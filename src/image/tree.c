#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"

#define RESOLVE_TRIES 100 /* RESOLVE_IN_ROOT gives EAGAIN when anything on the machine is renamed meanwhile */

void tree_init(struct tree *tree, int fd)
{
        *tree = (struct tree){ .fd = fd };
        for (unsigned i = 0; i < TREE_CACHE; i++)
                tree->cache[i].fd = -1;
}

static void forget_dirs(struct tree *tree)
{
        for (unsigned i = 0; i < TREE_CACHE; i++) {
                closep(&tree->cache[i].fd);
                tree->cache[i].fd = -1;
                free(TAKE_PTR(tree->cache[i].path));
        }
}

void tree_clear(struct tree *tree)
{
        forget_dirs(tree);
        json_decref(tree->implied);
        tree->implied = NULL;
}

int tree_clean_path(const char *path, char ret[TAR_PATH_MAX + 1], struct err **err)
{
        char *out = ret;

        if (strlen(path) > TAR_PATH_MAX)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "a path is longer than %u bytes", TAR_PATH_MAX);
        while (*path) {
                const size_t len = strcspn(path, "/");

                if (len == 2 && memcmp(path, "..", 2) == 0)
                        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "a path has '..' in it: '%.200s'", path);
                if (len > NAME_MAX)
                        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "a name is longer than %d bytes: '%.40s...'",
                                NAME_MAX, path);
                if (len > 0 && !(len == 1 && *path == '.')) {
                        if (out != ret)
                                *out++ = '/';
                        memcpy(out, path, len);
                        out += len;
                }
                path += len + (path[len] == '/');
        }
        *out = '\0';
        return 0;
}

/* A few names of 4 KiB make thousands of directories, and each name here is as long as its whole path. */
static int record_implied(struct tree *tree, const char *path, struct err **err)
{
        tree->made++;
        if (!tree->implied)
                return 0;
        tree->implied_size += strlen(path);
        if (tree->implied_size > TREE_IMPLIED_MAX)
                return err_set(
                        err, ERR_TOO_LARGE, EFBIG, "the archive has too many directories that it does not mention");
        if (json_object_set_new(tree->implied, path, json_true()) < 0 && !json_object_get(tree->implied, path))
                json_object_clear(tree->implied); /* not UTF-8: only its attributes are the default's */
        return 0;
}

static int open_in_root(int root, const char *path)
{
        struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV };

        for (int i = 0; i < RESOLVE_TRIES; i++) {
                const long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

                if (fd >= 0 || errno != EAGAIN)
                        return fd < 0 ? -errno : (int)fd;
        }
        return -EAGAIN;
}

/* Opens @path, made component by component where it is missing. */
static int make_dirs(struct tree *tree, char *path, struct err **err)
{
        for (char *p = path;; p++) {
                char *const slash = strchr(p, '/');
                int fd, parent, r = 0;
                char *name;

                if (slash)
                        *slash = '\0';
                fd = open_in_root(tree->fd, path);
                if (fd == -ENOENT) {
                        name = strrchr(path, '/');
                        if (name)
                                *name = '\0';
                        parent = open_in_root(tree->fd, name ? path : ".");
                        if (name)
                                *name = '/';
                        if (parent < 0)
                                return err_sys(err, -parent, "making directory '%s'", path);
                        name = name ? name + 1 : path;
                        if (mkdirat(parent, name, 0755) < 0)
                                r = -errno; /* EEXIST: a link that leads nowhere */
                        else if (tree->has_owner &&
                                 fchownat(parent, name, tree->uid, tree->gid, AT_SYMLINK_NOFOLLOW) < 0)
                                r = -errno;
                        close(parent);
                        if (r < 0)
                                return err_sys(err, -r, "making directory '%s'", path);
                        r = record_implied(tree, path, err);
                        if (r < 0)
                                return r;
                        fd = open_in_root(tree->fd, path);
                }
                if (fd < 0)
                        return err_sys(err, -fd, "'%s' in the archive's tree", path);
                if (!slash)
                        return fd;
                close(fd);
                *slash = '/';
                p = slash;
        }
}

int tree_dir(struct tree *tree, const char *path, bool make, int *ret_fd, struct err **err)
{
        _cleanup_free_ char *copy = NULL;
        struct tree_dir *slot;
        int fd;

        if (!path[0]) {
                *ret_fd = tree->fd;
                return 0;
        }
        for (unsigned i = 0; i < TREE_CACHE; i++)
                if (tree->cache[i].path && strcmp(tree->cache[i].path, path) == 0) {
                        *ret_fd = tree->cache[i].fd;
                        return 0;
                }
        copy = strdup(path);
        if (!copy)
                return err_sys(err, ENOMEM, "opening '%s'", path);
        fd = open_in_root(tree->fd, path);
        if (fd == -ENOENT && make)
                fd = make_dirs(tree, copy, err);
        else if (fd < 0)
                err_sys(err, -fd, "'%s' in the archive's tree", path);
        if (fd < 0)
                return fd;
        slot = &tree->cache[tree->next++ % TREE_CACHE];
        closep(&slot->fd);
        free(slot->path);
        slot->path = TAKE_PTR(copy);
        slot->fd = fd;
        *ret_fd = fd;
        return 0;
}

int tree_parent(struct tree *tree, const char *path, bool make, int *ret_fd, const char **ret_name, struct err **err)
{
        const char *slash = strrchr(path, '/');
        char dir[TAR_PATH_MAX + 1];
        int r;

        if (!slash) {
                *ret_fd = tree->fd;
                *ret_name = path;
                return 0;
        }
        memcpy(dir, path, (size_t)(slash - path));
        dir[slash - path] = '\0';
        r = tree_dir(tree, dir, make, ret_fd, err);
        if (r < 0)
                return r;
        *ret_name = slash + 1;
        return 0;
}

int tree_remove(struct tree *tree, int parent_fd, const char *name, struct err **err)
{
        /* Directories may go that the cache knows under other names, too; and the parent is one of them. */
        _cleanup_close_ int parent = -1;

        if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
                return 0;
        if (errno != EISDIR && errno != EPERM)
                return err_sys(err, errno, "removing '%s'", name);
        parent = openat(parent_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (parent < 0)
                return err_sys(err, errno, "removing '%s'", name);
        forget_dirs(tree);
        return io_remove_tree(parent, name, err);
}

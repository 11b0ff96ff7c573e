#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "io.h"
#include "tar.h"

int walk_open(int root, const char *path, int flags)
{
        struct open_how how = { .flags = (u64)flags | O_CLOEXEC | O_NOFOLLOW,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV };
        const long fd = syscall(SYS_openat2, root, path[0] ? path : ".", &how, sizeof(how));

        return fd < 0 ? -errno : (int)fd;
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

struct names {
        char **list;
        size_t n, cap;
};

static void names_clear(struct names *names)
{
        for (size_t i = 0; i < names->n; i++)
                free(names->list[i]);
        free(names->list);
}

static int gather(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct names *names = opaque;

        if (names->n == names->cap) {
                const size_t cap = MAX(2 * names->cap, (size_t)32);
                char **grown = reallocarray(names->list, cap, sizeof(*grown));

                if (!grown)
                        return err_sys(err, ENOMEM, "reading a directory");
                names->list = grown;
                names->cap = cap;
        }
        names->list[names->n] = strdup(name);
        return names->list[names->n++] ? 0 : err_sys(err, ENOMEM, "reading a directory");
}

int walk_tree(int root, const char *path, walk_visit *visit, void *opaque, struct err **err)
{
        _cleanup_(names_clear) struct names names = { 0 };
        int fd = walk_open(root, path, O_RDONLY | O_DIRECTORY), r;

        if (fd < 0)
                return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : err_sys(err, -fd, "opening '/%s'", path);
        r = io_list_dir(fd, ".", gather, &names, err);
        close(fd);
        if (r < 0)
                return r;
        if (names.n > 1)
                qsort(names.list, names.n, sizeof(*names.list), compare_names);
        for (size_t i = 0; i < names.n; i++) {
                _cleanup_free_ char *below = NULL; /* not on the stack: there may be two thousand of us */
                struct stat st;

                if (asprintf(&below, "%s%s%s", path, path[0] ? "/" : "", names.list[i]) < 0) {
                        below = NULL;
                        return err_sys(err, ENOMEM, "reading a directory");
                }
                if (strlen(below) > TAR_PATH_MAX)
                        return err_set(err, ERR_TOO_LARGE, ENAMETOOLONG, "a path in '/%.100s' is longer than %u bytes",
                                path, TAR_PATH_MAX);
                fd = walk_open(root, below, O_PATH);
                if (fd < 0)
                        continue; /* gone meanwhile */
                r = fstat(fd, &st) < 0 ? err_sys(err, errno, "'%s'", below) : visit(opaque, fd, below, &st, err);
                close(fd);
                if (r == 0 && S_ISDIR(st.st_mode))
                        r = walk_tree(root, below, visit, opaque, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

#include "build_stubs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tree.h"

/* Whether the last component of @path is there, whatever it is. */
static bool exists(struct tree *tree, const char *path, int *ret_parent, const char **ret_name, struct stat *ret)
{
        return tree_parent(tree, path, false, ret_parent, ret_name, NULL) == 0 &&
               fstatat(*ret_parent, *ret_name, ret, AT_SYMLINK_NOFOLLOW) == 0;
}

int stubs_note(struct stubs *stubs, int root, const char *target, struct err **err)
{
        char path[TAR_PATH_MAX + 1], part[TAR_PATH_MAX + 1];
        size_t keep = 0, end = 0;
        struct stub *grown;
        struct tree tree;
        struct stat st;
        int parent, r = tree_clean_path(target, path, err);
        const char *name;

        if (r < 0)
                return r;
        tree_init(&tree, root);
        while (path[end]) {
                end += end > 0; /* the slash */
                end += strcspn(path + end, "/");
                memcpy(part, path, end);
                part[end] = '\0';
                if (!exists(&tree, part, &parent, &name, &st))
                        break;
                keep = end;
        }
        tree_clear(&tree);
        if (!path[keep])
                return 0;
        grown = reallocarray(stubs->list, stubs->n + 1, sizeof(*grown));
        if (!grown)
                return err_sys(err, ENOMEM, "preparing a container");
        stubs->list = grown;
        grown[stubs->n] = (struct stub){ strdup(path), keep };
        return grown[stubs->n++].path ? 0 : err_sys(err, ENOMEM, "preparing a container");
}

static bool remove_empty(struct tree *tree, const char *path)
{
        const char *name;
        struct stat st;
        int parent;

        if (!exists(tree, path, &parent, &name, &st))
                return true;
        if (S_ISREG(st.st_mode) && st.st_size > 0)
                return false;
        return unlinkat(parent, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) == 0;
}

void stubs_remove(struct stubs *stubs, int root)
{
        /* The last one first: it may be inside of another. */
        for (size_t i = stubs->n; i-- > 0;) {
                const struct stub *stub = &stubs->list[i];
                struct tree tree; /* a new one each time: it remembers directories */

                tree_init(&tree, root);
                while (strlen(stub->path) > stub->keep && remove_empty(&tree, stub->path)) {
                        char *slash = strrchr(stub->path, '/');

                        *(slash ? slash : stub->path) = '\0';
                }
                tree_clear(&tree);
        }
}

void stubs_clear(struct stubs *stubs)
{
        for (size_t i = 0; i < stubs->n; i++)
                free(stubs->list[i].path);
        free(stubs->list);
        *stubs = (struct stubs){ 0 };
}

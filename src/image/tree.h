/* A directory tree that is filled by strangers' paths and left by none of them.
 *
 * A path is cleaned ("/a/./b" is "a/b"), and refused when it has a ".." of its own. Directories on the way may be links that
 * came out of the same archive: the kernel resolves them with the tree as the root (openat2, RESOLVE_IN_ROOT). The last
 * component is never followed. Nobody else may write to the tree meanwhile. */
#pragma once

#include <jansson.h>

#include "base/err.h"
#include "tar.h"

#define TREE_CACHE       16
#define TREE_IMPLIED_MAX (8 * MIB) /* of paths */

struct tree {
        int fd;
        struct tree_dir {
                char *path;
                int fd; /* O_PATH */
        } cache[TREE_CACHE];
        unsigned next;   /* to be replaced in the cache */
        bool has_owner;  /* for directories that are made because something is in them */
        u32 uid, gid;
        u64 made;        /* how many of those */
        json_t *implied; /* which: the keys; NULL: not recorded */
        size_t implied_size;
};

/* Borrows @fd. */
void tree_init(struct tree *tree, int fd);
void tree_clear(struct tree *tree);

/* @ret is @path without leading, double and "." parts, "" for the root. ERR_BAD_IMAGE for ".." and NUL-less nonsense. */
int tree_clean_path(const char *path, char ret[TAR_PATH_MAX + 1], struct err **err);

/* The directory of the clean @path (borrowed, until the next call) and the last component, which points into @path.
 * Directories on the way are made when @make. */
int tree_parent(struct tree *tree, const char *path, bool make, int *ret_fd, const char **ret_name, struct err **err);
/* The directory @path itself. */
int tree_dir(struct tree *tree, const char *path, bool make, int *ret_fd, struct err **err);
/* Removes what is there, whatever it is; fine when nothing is. */
int tree_remove(struct tree *tree, int parent_fd, const char *name, struct err **err);

/* Paths of a container's file system, resolved by the kernel with the container's root as "/": no symlink, no "..", no
 * rename race leads out of it (openat2 RESOLVE_IN_ROOT). Everything returns an O_PATH descriptor that is what was
 * found, for use with *at calls and move_mount: a path is never resolved twice. */
#pragma once

#include "base/err.h"

/* The existing object at @path, symlinks followed; -errno. @flags: O_DIRECTORY, O_NOFOLLOW. */
int root_find(int root, const char *path, int flags);
/* Opens for reading or writing in place of O_PATH. */
int root_open(int root, const char *path, int flags);
/* The directory at @path, made with its parents where missing. */
int root_make_dir(int root, const char *path, unsigned mode, struct err **err);
/* The file at @path, or an empty new one with its parents. A directory is an error. */
int root_make_file(int root, const char *path, struct err **err);
/* The directory that holds the last component of @path (made where missing); *ret_name points into @path. */
int root_make_parent(int root, const char *path, const char **ret_name, struct err **err);

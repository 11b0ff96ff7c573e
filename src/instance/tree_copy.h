/* Directory trees of containers, seen from outside: nothing in them is followed out of them. */
#pragma once

#include "base/err.h"

/* The directory @path with @root as "/"; -errno. */
int tree_open(int root, const char *path);
/* Everything below @from to @to, with owners, modes, times, links and extended attributes. */
int tree_copy(int from, int to, struct err **err);
/* Bytes on disk of everything below @path. */
u64 tree_size(const char *path);
/* For io_list_dir: sets *(bool *)opaque to false and stops. */
int tree_is_not_empty(void *opaque, int dirfd, const char *name, struct err **err);

/* Walking a tree that others may have made, and may still be changing: nothing is followed, no more than two descriptors are
 * open at a time however deep it is, names come in byte order. */
#pragma once

#include <sys/stat.h>

#include "base/err.h"

/* An entry: @fd is an O_PATH descriptor of it, @path is relative to the root. 1: do not go below this directory. */
typedef int walk_visit(void *opaque, int fd, const char *path, const struct stat *st, struct err **err);

/* What is below the directory @start ("" for the root itself, which is not visited). */
int walk_tree(int root, const char *start, walk_visit *visit, void *opaque, struct err **err);
/* Opens @path below @root, following nothing. -errno. */
int walk_open(int root, const char *path, int flags);

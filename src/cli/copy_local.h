/* This side of `strata cp`: files of the user's as a tar stream, and a tar stream as files of the user's. What comes out of a
 * container is not trusted: it is unpacked in a new directory that nothing leads out of, then moved. */
#pragma once

#include "base/err.h"

/* Writes what @path is to @fd, as @name; its content alone, below ".", when @name is NULL. @follow: links at the top. */
int copy_local_pack(const char *path, const char *name, bool follow, int fd, struct err **err);

struct copy_local_target {
        const char *dir;  /* exists */
        const char *name; /* what the stream's one entry becomes in it; NULL: all its entries, under their own names */
        bool keep_owner;  /* else everything is the user's */
};
/* Reads the stream from @fd. Directories that are there are merged, files replaced. */
int copy_local_unpack(const struct copy_local_target *target, int fd, struct err **err);

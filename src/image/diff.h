/* A writable layer (overlayfs's upper directory) as what it changes. */
#pragma once

#include "internal.h"
#include "tar.h"

/* The changes as a layer's archive: the same bytes for the same directory. @clamp_mtime (or -1): no file is newer. */
int diff_write_layer(int upper_fd, bool user_xattr, s64 clamp_mtime, const struct byte_sink *sink, struct err **err);

/* Each change as `docker diff` has it; @lower are the layers' directories, topmost first. */
int diff_list(int upper_fd, bool user_xattr, const char *const *lower, size_t n_lower,
        int (*fn)(void *opaque, char kind, const char *path), void *opaque, struct err **err);

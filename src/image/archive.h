/* What archive.c has for others that read and write tars. */
#pragma once

#include "compress.h"
#include "internal.h"

/* A byte_source of a descriptor. */
struct fd_source {
        int fd;
        u8 *buf;
        size_t cap;
};
int fd_source_next(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err);

/* A byte_source of what a decompressor gives. */
struct plain_source {
        struct decompressor *decompressor;
        u8 *buf;
        size_t cap;
};
int plain_source_next(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err);

/* A tar of any compression as plain files that are ours. */
int archive_unpack(int fd, int dir, struct err **err);

/* Unpacks a layer from the file @fd, which is @name in @dirfd, and moves that into the store. @expected and @diff_id may be NULL. */
int layer_add_file(struct lease *lease, int fd, int dirfd, const char *name, const struct digest *expected,
        const struct digest *diff_id, const struct image_progress *progress, struct descriptor *ret,
        struct digest *ret_diff_id, struct err **err);

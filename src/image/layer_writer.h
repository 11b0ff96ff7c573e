/* New layers: an archive that is written, hashed, compressed and hashed again, then unpacked like one from elsewhere. */
#pragma once

#include "internal.h"
#include "tar.h"

struct layer_writer;

int layer_writer_new(struct lease *lease, struct layer_writer **ret, struct err **err);
/* Where the archive's bytes go. */
const struct byte_sink *layer_writer_sink(struct layer_writer *writer);
/* The blob is in the store and the layer is unpacked. */
int layer_writer_finish(
        struct layer_writer *writer, struct descriptor *ret, struct digest *ret_diff_id, struct err **err);
struct layer_writer *layer_writer_free(struct layer_writer *writer);
static inline void layer_writer_freep(struct layer_writer **writer)
{
        layer_writer_free(*writer);
}

/* The changes in an upper directory as a layer. @clamp_mtime (or -1): no file is newer. */
int layer_from_upper(struct lease *lease, int upper_fd, s64 clamp_mtime, struct descriptor *ret,
        struct digest *ret_diff_id, struct err **err);

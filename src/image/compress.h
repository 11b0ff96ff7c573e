/* gzip (RFC 1952), zstd (RFC 8878), xz and bzip2: told apart by their first bytes, whatever a media type says. */
#pragma once

#include "tar.h"

enum compression {
        COMPRESSION_NONE,
        COMPRESSION_GZIP,
        COMPRESSION_ZSTD, /* up to here layers have them; archives that are added or loaded also the others */
        COMPRESSION_XZ,
        COMPRESSION_BZIP2,
};

/* What data that begins so is; @len: at least ten, or all that there is. */
enum compression compression_of(const u8 *data, size_t len);

struct decompressor;

/* Borrows what @source needs. The source's first piece has at least ten bytes, or all that there is. */
int decompressor_new(const struct byte_source *source, struct decompressor **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct decompressor *decompressor_free(struct decompressor *d);
static inline void decompressor_freep(struct decompressor **d)
{
        decompressor_free(*d);
}
/* Fills @buf as far as there is something: less than @cap only at the end. */
int decompressor_read(struct decompressor *d, void *buf, size_t cap, size_t *ret_len, struct err **err);
/* Looks at the first bytes; otherwise the first read does. */
int decompressor_begin(struct decompressor *d, struct err **err);
/* Known after that. */
enum compression decompressor_kind(const struct decompressor *d);

/* Everything that is written to it goes to @sink as one gzip member: the same bytes on every machine. */
struct compressor;

int compressor_new(const struct byte_sink *sink, struct compressor **ret, struct err **err);
int compressor_write(struct compressor *c, const void *data, size_t len, struct err **err);
int compressor_finish(struct compressor *c, struct err **err);
struct compressor *compressor_free(struct compressor *c);
static inline void compressor_freep(struct compressor **c)
{
        compressor_free(*c);
}

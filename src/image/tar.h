/* Tar archives as layers and exports are: ustar, GNU (long names, sparse files, large numbers) and pax (POSIX.1-2017, pax).
 * The reader takes bytes from strangers; it holds at most a header's worth of them. The writer makes ustar with pax
 * headers where they are needed, the same bytes for the same input. */
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include "base/err.h"

#define TAR_BLOCK      512U
#define TAR_PATH_MAX   4095U
#define TAR_XATTRS_MAX 64U

/* Where bytes come from: the next piece, valid until the next call; @ret_len 0 at the end. */
struct byte_source {
        int (*next)(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err);
        void *opaque;
};

enum tar_type { TAR_FILE, TAR_HARDLINK, TAR_SYMLINK, TAR_CHAR, TAR_BLOCK_DEVICE, TAR_DIR, TAR_FIFO };

struct tar_xattr {
        char *name;
        u8 *value;
        size_t len;
};

struct tar_entry {
        enum tar_type type;
        char *path;
        char *link;  /* target of a link, else NULL */
        u64 size;    /* of the file, holes included */
        mode_t mode; /* permission bits alone */
        u32 uid, gid;
        struct timespec mtime;
        u32 major, minor;
        struct tar_xattr *xattrs;
        size_t n_xattrs;
};

struct tar_reader;

int tar_reader_new(const struct byte_source *source, struct tar_reader **ret, struct err **err);
struct tar_reader *tar_reader_free(struct tar_reader *tar);
static inline void tar_reader_freep(struct tar_reader **tar)
{
        tar_reader_free(*tar);
}
/* From now on the source may give @bytes at most; more is an error that says so of @what. Without, there is no limit. */
void tar_reader_limit(struct tar_reader *tar, u64 bytes, const char *what);
/* 1 and the next entry, valid until the next call; 0 at the end. */
int tar_reader_next(struct tar_reader *tar, const struct tar_entry **ret, struct err **err);
/* The next piece of a file's data and where it belongs; 0 at its end, else the length. Between pieces are holes. */
ssize_t tar_reader_data(struct tar_reader *tar, const u8 **ret_data, u64 *ret_offset, struct err **err);
/* Reads what follows the archive's end, to the end of the source. */
int tar_reader_drain(struct tar_reader *tar, struct err **err);

/* Where a writer's bytes go. */
struct byte_sink {
        int (*write)(void *opaque, const void *data, size_t len, struct err **err);
        void *opaque;
};

/* Header of an entry; @entry->size bytes of data follow for TAR_FILE, then tar_write_padding. */
int tar_write_header(const struct byte_sink *sink, const struct tar_entry *entry, struct err **err);
int tar_write_padding(const struct byte_sink *sink, u64 size, struct err **err);
int tar_write_end(const struct byte_sink *sink, struct err **err);
/* A whole file of bytes. */
int tar_write_file(
        const struct byte_sink *sink, const char *path, const void *data, size_t len, s64 mtime, struct err **err);

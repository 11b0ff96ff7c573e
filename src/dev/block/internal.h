/* Inside the block layer. From the top down:
 *
 *   block.c     struct block_device: requests, completions, drain
 *   uring.c     the asynchronous path for raw images; pool.c: threads that call an image's synchronous functions
 *   raw.c, qcow2_*.c   struct image: synchronous, thread-safe, stackable (backing files)
 *   file.c      struct host_file: open, lock, read, write, sync; iov.c: scatter/gather lists */
#pragma once

#include "dev/block/block.h"

/* ---- scatter/gather lists (iov.c) ---- */

/* A position in an iovec array. Elements with no length are skipped. */
struct iov_cursor {
        const struct iovec *iov;
        unsigned n;  /* elements left, the current one included */
        size_t skip; /* bytes of the current one that are done */
};

/* Sum of the lengths, or -EINVAL when it does not fit. */
int iov_length(const struct iovec *iov, unsigned n, u64 *ret);
/* Fills @out with at most @max elements that cover up to @bytes from the cursor, which stays. Returns how many; @ret_bytes is
 * what they cover. */
unsigned iov_window(const struct iov_cursor *cursor, u64 bytes, struct iovec *out, unsigned max, u64 *ret_bytes);
void iov_advance(struct iov_cursor *cursor, u64 bytes);
/* These copy and advance; the cursor holds at least @bytes. */
void iov_zero(struct iov_cursor *cursor, u64 bytes);
void iov_put(struct iov_cursor *cursor, const void *src, u64 bytes);
void iov_get(struct iov_cursor *cursor, void *dst, u64 bytes);

/* ---- files on the host (file.c) ---- */

struct host_file {
        int fd;
        u64 size;           /* bytes, at open; whoever extends the file keeps it */
        u32 granularity;    /* of punching holes */
        bool is_block_device;
        bool read_only;
        bool sync_failed;   /* atomic. The host lost written data: no later flush may claim success. */
        bool no_punch;      /* atomic. The host cannot punch holes here. */
        u64 dev, ino;
};

int host_file_open(struct host_file *file, const char *path, bool read_only, struct err **err);
/* Makes sure that nobody else writes to it and, when we write, that nobody else reads. @path is for messages. */
int host_file_lock(const struct host_file *file, const char *path, struct err **err);
void host_file_close(struct host_file *file);
/* Whole transfers or -errno. host_file_readv fills what lies beyond the end with zeros; host_file_read fails with -EIO there. */
int host_file_readv(const struct host_file *file, struct iov_cursor *cursor, u64 bytes, u64 offset);
int host_file_writev(const struct host_file *file, struct iov_cursor *cursor, u64 bytes, u64 offset);
int host_file_read(const struct host_file *file, void *buf, u64 bytes, u64 offset);
int host_file_write(const struct host_file *file, const void *buf, u64 bytes, u64 offset);
int host_file_sync(struct host_file *file);
/* Gives space back. What cannot be done is no error. */
void host_file_punch(struct host_file *file, u64 offset, u64 bytes);
/* Makes bytes read as zeros, by punching (@unmap) or zeroing extents, otherwise by writing. */
int host_file_zero(struct host_file *file, u64 offset, u64 bytes, bool unmap);

/* ---- images ---- */

struct image;

/* All may be called by several threads at once. Ranges were checked against image->size. */
struct image_ops {
        const char *name;
        enum block_format format;
        int (*read)(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset);
        int (*write)(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset);
        int (*flush)(struct image *image);
        int (*discard)(struct image *image, u64 offset, u64 bytes);
        int (*write_zeroes)(struct image *image, u64 offset, u64 bytes, bool unmap);
        /* Optional: writes cached metadata, without waiting for stable storage. */
        int (*write_back)(struct image *image);
        void (*close)(struct image *image); /* frees it; a caller that wants errors flushes first */
};

struct image {
        const struct image_ops *ops;
        u64 size; /* multiple of BLOCK_SECTOR */
        u32 granularity;
        bool read_only;
};

/* The images that are being opened, from a backing file up to the top: finds cycles and limits the depth. */
struct image_chain {
        const struct image_chain *above;
        u64 dev, ino;
        unsigned depth;
};
#define IMAGE_CHAIN_MAX 32

#define QCOW2_MAGIC 0x514649fbU /* "QFI\xfb" */

/* @options->format may be AUTO. @above is NULL for the top image. */
int image_open(const struct block_options *options, const struct image_chain *above, struct image **ret, struct err **err);
static inline struct image *image_close(struct image *image)
{
        if (image)
                image->ops->close(image);
        return NULL;
}
static inline void image_closep(struct image **image)
{
        image_close(*image);
}

/* Take over @file on success. @probed: the format was guessed from the content, which then must not change its nature. */
int raw_open(struct host_file *file, bool probed, const char *path, struct image **ret, struct err **err);
int qcow2_open(struct host_file *file, const struct block_options *options, const struct image_chain *above,
               struct image **ret, struct err **err);
/* The file of a raw image; NULL when @image is not raw. */
struct host_file *raw_file(struct image *image);
/* True when the request must go through raw.c's write function instead of straight to the file. */
bool raw_write_is_guarded(const struct image *image, u64 offset);

/* ---- asynchronous execution: each signals @event_fd when there is something to reap ---- */

/* Threads that run requests against an image (pool.c). */
struct pool;
int pool_new(struct image *image, int event_fd, struct pool **ret, struct err **err);
struct pool *pool_free(struct pool *pool); /* nothing may be in flight */
void pool_submit(struct pool *pool, struct block_request *req);
/* The list of requests that are done, in order, with `result` set. */
struct block_request *pool_reap(struct pool *pool);

/* io_uring on one file (uring.c): reads, writes and flushes. */
struct uring;
int uring_new(struct host_file *file, int event_fd, struct uring **ret, struct err **err);
struct uring *uring_free(struct uring *ring); /* nothing may be in flight */
void uring_queue(struct uring *ring, struct block_request *req);
/* Hands what is queued to the kernel. */
void uring_submit(struct uring *ring);
/* The next request that is done: `result` is 0 or -errno, or 1 when only req->progress bytes of it were done and the rest is to
 * be done another way. NULL when there is none. */
struct block_request *uring_reap(struct uring *ring);

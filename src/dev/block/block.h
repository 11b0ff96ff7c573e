/* Disk images: one asynchronous interface over raw files, host block devices and qcow2 images.
 *
 *         static void done(struct block_request *req) { ... req->result ... }
 *
 *         struct block_options options = { .path = "disk.qcow2" };
 *         r = block_open(&options, env->loop, env->counters, &dev, err);
 *         ...
 *         req->op = BLOCK_OP_READ;
 *         req->offset = lba * 512;
 *         req->iov = iov, req->n_iov = n;
 *         req->done = done;
 *         block_submit(dev, req);
 *
 * Threads: every function here is called with the device lock held (or before threads exist); `done` runs as a loop
 * callback, or inside block_drain, always with the device lock held and never inside block_submit. The lock is not held
 * during the I/O itself.
 *
 * Ownership: a request, its iovec array and the memory it points to belong to the caller and stay valid and unchanged until
 * `done` is called; each submitted request is done exactly once. The memory may be guest RAM (zero-copy): what the guest
 * changes meanwhile only changes its own data.
 *
 * Order: requests in flight together may be done in any order, also overlapping ones. A flush covers the writes that were
 * done before it was submitted.
 *
 * Failure: a bad request (range, alignment, write to a read-only image) and every host error ends as a negative errno in
 * `result`; nothing here ends the VMM. Wanted by device models: -ENOSPC (host disk full), -EROFS, -EPERM, -EINVAL, -EIO. */
#pragma once

#include <sys/uio.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/observe.h"

/* The unit of offsets and lengths, and the logical block size that devices show to guests. */
#define BLOCK_SECTOR 512U

enum block_format {
        BLOCK_FORMAT_AUTO, /* by content: qcow2 when it has qcow2's magic number, otherwise raw */
        BLOCK_FORMAT_RAW,
        BLOCK_FORMAT_QCOW2,
};

enum block_aio {
        BLOCK_AIO_AUTO,    /* io_uring for raw images where the host allows it, otherwise threads */
        BLOCK_AIO_URING,   /* fail when it is not available */
        BLOCK_AIO_THREADS,
};

struct block_options {
        const char *path; /* borrowed during block_open */
        enum block_format format;
        enum block_aio aio;
        bool read_only;
        bool no_lock;     /* do not take the image lock: for inspection of an image in use */
        bool no_backing;  /* qcow2: do not open the backing file; clusters that come from it fail with -EIO */
};

/* Parses "FILE[,ro][,format=auto|raw|qcow2][,aio=auto|uring|threads][,backing=on|off]", the argument of --disk. A comma in the file name is
 * written twice. @ret_path is malloc'ed and what ret->path points to; the caller frees it. */
int block_options_parse(const char *argument, struct block_options *ret, char **ret_path, struct err **err);

enum block_op {
        BLOCK_OP_READ,
        BLOCK_OP_WRITE,
        BLOCK_OP_FLUSH,        /* what was written before is on stable storage */
        BLOCK_OP_DISCARD,      /* contents no longer needed; afterwards undefined: old data or zeros */
        BLOCK_OP_WRITE_ZEROES, /* contents become zeros */
        BLOCK_OP_COUNT,
};

enum {
        BLOCK_REQ_FUA = 1,   /* write, write_zeroes: on stable storage before it is done */
        BLOCK_REQ_UNMAP = 2, /* write_zeroes: may give the space back to the host */
};

struct block_device;

struct block_request {
        enum block_op op;
        unsigned flags;    /* BLOCK_REQ_* */
        u64 offset;        /* multiple of BLOCK_SECTOR */
        u64 bytes;         /* discard and write_zeroes: length, multiple of BLOCK_SECTOR. Read and write: set from iov by block_submit */
        struct iovec *iov; /* read, write: lengths sum up to a multiple of BLOCK_SECTOR; single elements may have any length */
        unsigned n_iov;
        void (*done)(struct block_request *req);
        void *opaque;      /* the caller's */
        int result;        /* for done: 0 or -errno */

        /* Private to the block layer. */
        struct block_device *dev;
        struct block_request *next;
        u64 progress;
};

/* Opens an image. Says what is wrong with it and how to go on: missing, no permission, in use by another VM or tool, damaged,
 * a qcow2 feature that is not supported. @counters are those of all devices. */
int block_open(const struct block_options *options, struct loop *loop, struct counters *counters,
               struct block_device **ret, struct err **err);
/* Drains, flushes and closes. NULL is fine. Returns NULL. */
struct block_device *block_close(struct block_device *dev);

/* Size in bytes as the guest sees it, a multiple of BLOCK_SECTOR. */
u64 block_size(const struct block_device *dev);
bool block_read_only(const struct block_device *dev);
/* The format that was found, never BLOCK_FORMAT_AUTO. */
enum block_format block_format(const struct block_device *dev);
const char *block_path(const struct block_device *dev);
/* Discard and write_zeroes work best in this granularity: the cluster size of qcow2, the host's block size for raw. */
u32 block_discard_granularity(const struct block_device *dev);

void block_submit(struct block_device *dev, struct block_request *req);
/* Between plug and unplug (they nest) requests are collected and handed to the host together. For a queue's doorbell. */
void block_plug(struct block_device *dev);
void block_unplug(struct block_device *dev);
unsigned block_in_flight(const struct block_device *dev);
/* Waits until no request is in flight, calling `done` for each; requests that `done` submits are waited for too. Afterwards
 * all metadata of the image is written (not necessarily on stable storage: that is a flush). For device quiesce. */
void block_drain(struct block_device *dev);

/* Theory of operation.
 *
 * block_submit never calls `done`: what is refused at once goes to a list of its own. Three sources of completions - that list, the
 * pool, the ring - all raise one eventfd; its loop callback reaps them. Drain reaps the same way, sleeping on the eventfd. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "internal.h"

struct block_device {
        struct image *image;
        char *path;
        struct loop *loop;
        struct counters *counters;
        int event_fd;
        struct loop_fd *watch;
        struct pool *pool;
        struct uring *uring; /* NULL: everything goes through the pool */
        struct block_request *refused, **refused_tail;
        unsigned in_flight;
        unsigned plugged;
};

/* ---- opening ---- */

static bool looks_like_qcow2(const struct host_file *file)
{
        static const u8 magic[4] = { 'Q', 'F', 'I', 0xfb };
        u8 head[4];

        return host_file_read(file, head, sizeof(head), 0) == 0 && memcmp(head, magic, sizeof(magic)) == 0;
}

static int open_as(struct host_file *file, const struct block_options *options, const struct image_chain *above,
                   struct image **ret, struct err **err)
{
        enum block_format format = options->format;
        int r;

        for (const struct image_chain *c = above; c; c = c->above)
                if (c->dev == file->dev && c->ino == file->ino)
                        return err_set(err, ERR_BAD_IMAGE, ELOOP, "disk image '%s' is its own backing file", options->path);
        if (!options->no_lock) {
                r = host_file_lock(file, options->path, err);
                if (r < 0)
                        return r;
        }
        if (format == BLOCK_FORMAT_AUTO)
                format = looks_like_qcow2(file) ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
        if (format == BLOCK_FORMAT_QCOW2)
                return qcow2_open(file, options, above, ret, err);
        return raw_open(file, options->format == BLOCK_FORMAT_AUTO, options->path, ret, err);
}

int image_open(const struct block_options *options, const struct image_chain *above, struct image **ret, struct err **err)
{
        struct host_file file;
        int r;

        r = host_file_open(&file, options->path, options->read_only, err);
        if (r < 0)
                return r;
        r = open_as(&file, options, above, ret, err);
        if (r < 0)
                host_file_close(&file);
        return r;
}

static void on_event(void *opaque, int revents);

static int start_async(struct block_device *dev, enum block_aio aio, struct err **err)
{
        struct host_file *file = raw_file(dev->image);
        int r;

        dev->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (dev->event_fd < 0)
                return err_sys(err, errno, "creating an event descriptor");
        r = pool_new(dev->image, dev->event_fd, &dev->pool, err);
        if (r < 0)
                return r;
        if (aio == BLOCK_AIO_URING && !file)
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "aio=uring works for raw images only");
        if (aio != BLOCK_AIO_THREADS && file) {
                r = uring_new(file, dev->event_fd, &dev->uring, aio == BLOCK_AIO_URING ? err : NULL);
                if (r < 0 && aio == BLOCK_AIO_URING)
                        return r;
        }
        dev->watch = loop_fd_add(dev->loop, dev->event_fd, POLLIN, on_event, dev, err);
        return dev->watch ? 0 : -ENOMEM;
}

static void device_freep(struct block_device **p)
{
        struct block_device *dev = *p;

        if (!dev)
                return;
        loop_fd_remove(dev->watch);
        pool_free(dev->pool);
        uring_free(dev->uring);
        if (dev->event_fd >= 0)
                close(dev->event_fd);
        image_close(dev->image);
        free(dev->path);
        free(dev);
}

int block_open(const struct block_options *options, struct loop *loop, struct counters *counters, struct block_device **ret,
               struct err **err)
{
        _cleanup_(device_freep) struct block_device *dev = calloc(1, sizeof(*dev));
        int r;

        if (!dev)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a disk");
        dev->event_fd = -1;
        dev->loop = loop;
        dev->counters = counters;
        dev->refused_tail = &dev->refused;
        dev->path = strdup(options->path);
        if (!dev->path)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a disk");
        r = image_open(options, NULL, &dev->image, err);
        if (r < 0)
                return r;
        r = start_async(dev, options->aio, err);
        if (r < 0)
                return err_wrap(err, r, "starting disk '%s'", options->path);
        *ret = TAKE_PTR(dev);
        return 0;
}

struct block_device *block_close(struct block_device *dev)
{
        int r;

        if (!dev)
                return NULL;
        block_drain(dev);
        if (!dev->image->read_only) {
                r = dev->image->ops->flush(dev->image);
                if (r < 0)
                        log_error("writing back disk image '%s' failed: %s", dev->path, strerror(-r));
        }
        device_freep(&dev);
        return NULL;
}

/* ---- requests ---- */

static int check_request(const struct block_device *dev, struct block_request *req)
{
        const u64 size = dev->image->size;

        req->progress = 0;
        if ((unsigned)req->op >= BLOCK_OP_COUNT)
                return -EINVAL;
        if (req->op == BLOCK_OP_FLUSH) {
                req->bytes = 0;
                return 0;
        }
        if (req->op == BLOCK_OP_READ || req->op == BLOCK_OP_WRITE) {
                if (iov_length(req->iov, req->n_iov, &req->bytes) < 0)
                        return -EINVAL;
        }
        if (req->offset % BLOCK_SECTOR != 0 || req->bytes % BLOCK_SECTOR != 0 || req->offset > size ||
            req->bytes > size - req->offset)
                return -EINVAL;
        return req->op != BLOCK_OP_READ && dev->image->read_only ? -EROFS : 0;
}

static void refuse(struct block_device *dev, struct block_request *req, int result)
{
        req->result = result;
        req->next = NULL;
        *dev->refused_tail = req;
        dev->refused_tail = &req->next;
        eventfd_write(dev->event_fd, 1);
}

static bool goes_to_uring(const struct block_device *dev, const struct block_request *req)
{
        if (!dev->uring)
                return false;
        switch (req->op) {
        case BLOCK_OP_READ:
                return req->bytes > 0;
        case BLOCK_OP_WRITE:
                return req->bytes > 0 && !raw_write_is_guarded(dev->image, req->offset);
        case BLOCK_OP_FLUSH:
                return !dev->image->read_only && !__atomic_load_n(&raw_file(dev->image)->sync_failed, __ATOMIC_RELAXED);
        default:
                return false;
        }
}

void block_submit(struct block_device *dev, struct block_request *req)
{
        int r;

        req->dev = dev;
        dev->in_flight++;
        r = check_request(dev, req);
        trace(BLOCK_REQUEST, req->op, req->offset, req->bytes);
        if (r < 0) {
                refuse(dev, req, r);
        } else if (goes_to_uring(dev, req)) {
                uring_queue(dev->uring, req);
                if (dev->plugged == 0)
                        uring_submit(dev->uring);
        } else {
                pool_submit(dev->pool, req);
        }
}

void block_plug(struct block_device *dev)
{
        dev->plugged++;
}

void block_unplug(struct block_device *dev)
{
        if (dev->plugged > 0 && --dev->plugged == 0 && dev->uring)
                uring_submit(dev->uring);
}

static void count(struct block_device *dev, const struct block_request *req)
{
        static const enum counter_id bytes_counter[BLOCK_OP_COUNT] = {
                [BLOCK_OP_READ] = COUNTER_BLOCK_READ_BYTES,
                [BLOCK_OP_WRITE] = COUNTER_BLOCK_WRITE_BYTES,
                [BLOCK_OP_FLUSH] = COUNTER_BLOCK_FLUSHES,
        };

        if (!dev->counters)
                return;
        if (req->result < 0)
                counter_inc(dev->counters, COUNTER_BLOCK_ERRORS);
        else if (req->op == BLOCK_OP_READ || req->op == BLOCK_OP_WRITE)
                counter_add(dev->counters, bytes_counter[req->op], req->bytes);
        else if (req->op == BLOCK_OP_FLUSH)
                counter_inc(dev->counters, bytes_counter[req->op]);
}

static void complete(struct block_device *dev, struct block_request *req)
{
        dev->in_flight--;
        count(dev, req);
        trace(BLOCK_DONE, req->op, req->offset, (u64)(s64)req->result);
        req->done(req); /* may free or submit it again */
}

static void complete_list(struct block_device *dev, struct block_request *list)
{
        struct block_request *next;

        for (; list; list = next) {
                next = list->next;
                complete(dev, list);
        }
}

/* One pass over everything that is done. `done` may submit more; that has raised the eventfd again. */
static void reap(struct block_device *dev)
{
        struct block_request *req, *list = dev->refused;

        dev->refused = NULL;
        dev->refused_tail = &dev->refused;
        complete_list(dev, list);
        complete_list(dev, pool_reap(dev->pool));
        while (dev->uring && (req = uring_reap(dev->uring))) {
                if (req->result > 0)
                        pool_submit(dev->pool, req); /* the kernel did a part of it */
                else
                        complete(dev, req);
        }
}

static void on_event(void *opaque, int revents)
{
        struct block_device *dev = opaque;
        eventfd_t value;

        (void)revents;
        eventfd_read(dev->event_fd, &value);
        reap(dev);
}

unsigned block_in_flight(const struct block_device *dev)
{
        return dev->in_flight;
}

void block_drain(struct block_device *dev)
{
        int r;

        while (dev->in_flight > 0) {
                struct pollfd pfd = { .fd = dev->event_fd, .events = POLLIN };
                eventfd_t value;

                if (dev->uring)
                        uring_submit(dev->uring); /* also what is plugged */
                reap(dev);
                if (dev->in_flight == 0)
                        break;
                if (poll(&pfd, 1, -1) > 0)
                        eventfd_read(dev->event_fd, &value);
        }
        if (dev->image->ops->write_back && !dev->image->read_only) {
                r = dev->image->ops->write_back(dev->image);
                if (r < 0)
                        log_error("writing back the metadata of disk image '%s' failed: %s", dev->path, strerror(-r));
        }
}

/* ---- what it is ---- */

u64 block_size(const struct block_device *dev)
{
        return dev->image->size;
}

bool block_read_only(const struct block_device *dev)
{
        return dev->image->read_only;
}

enum block_format block_format(const struct block_device *dev)
{
        return dev->image->ops->format;
}

const char *block_path(const struct block_device *dev)
{
        return dev->path;
}

u32 block_discard_granularity(const struct block_device *dev)
{
        return MAX(dev->image->granularity, BLOCK_SECTOR);
}

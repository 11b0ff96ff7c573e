/* virtio-balloon (virtio 1.2, 5.5).
 *
 * Pages come in two ways: numbers in the inflate queue, and free page reports, whose buffers are the pages themselves. Both are
 * given back with guest_memory_discard: from then on they read as zeros and take room again when touched, so there is nothing
 * to do for a deflated page. Nothing is trusted: a page that the guest goes on using loses its content, which harms nobody else.
 *
 * The statistics buffer stays with us until somebody wants to know; giving it back is the question.
 *
 * Free page hinting is not offered: it is of use only while memory is being sent to another host. */
#include "dev/virtio/balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "dev/virtio/virtio.h"

enum { /* feature bits */
        F_STATS_VQ = 1,
        F_PAGE_POISON = 4,
        F_REPORTING = 5,
};

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUES_MAX = 4 };

/* Page numbers of one request. Linux sends up to 256. */
#define PAGES_MAX 4096U
/* Page numbers that are looked at together. */
#define PAGES_AT_ONCE 256U

struct balloon_space { /* struct virtio_balloon_config of the specification */
        u32 num_pages, actual;
        u32 free_page_hint_cmd_id;
        u32 poison_val;
};

struct stat_entry {
        u16 tag;
        u64 value;
} _packed_;

struct virtio_balloon {
        struct virtio_device vdev;
        struct virtio_request *stats_request; /* waits for somebody to ask */
        u32 stats_known;
        u64 stats[BALLOON_STATS];
        void (*on_stats)(void *opaque);
        void *on_stats_opaque;
};

static struct virtio_balloon *balloon_of(struct virtio_device *vdev)
{
        return container_of(vdev, struct virtio_balloon, vdev);
}

static struct balloon_space *space_of(struct virtio_balloon *balloon)
{
        return (struct balloon_space *)balloon->vdev.config;
}

/* Gives [gpa, gpa + bytes) back, as far as it is RAM. What the host cannot take it leaves. */
static void discard(struct virtio_balloon *balloon, u64 gpa, u64 bytes)
{
        struct device_env *env = balloon->vdev.env;

        if (guest_memory_discard(env->memory, gpa, bytes) == 0)
                counter_add(env->counters, COUNTER_BALLOON_BYTES, bytes);
        else
                counter_inc(env->counters, COUNTER_VIRTIO_BAD_REQUESTS);
}

/* ---- inflate: an array of page numbers (5.5.6) ---- */

/* Neighbours, in either direction, are given back together. */
static void discard_pages(struct virtio_balloon *balloon, const u32 *pages, unsigned n)
{
        for (unsigned i = 0; i < n;) {
                u64 first = pages[i], last = first;

                for (i++; i < n && (pages[i] == last + 1 || pages[i] + 1ULL == first); i++) {
                        if (pages[i] > last)
                                last = pages[i];
                        else
                                first = pages[i];
                }
                discard(balloon, first << PAGE_SHIFT, (last - first + 1) << PAGE_SHIFT);
        }
}

static void inflate_run(struct virtio_balloon *balloon, struct virtqueue *q)
{
        struct virtio_request *req;
        u32 pages[PAGES_AT_ONCE];

        while ((req = virtqueue_pop(q))) {
                if (req->out_bytes % sizeof(u32) || req->out_bytes / sizeof(u32) > PAGES_MAX) {
                        virtqueue_bad(q, req, VIRTIO_BAD_REQUEST);
                        return;
                }
                for (size_t at = 0, got; at < req->out_bytes; at += got) {
                        got = virtio_iov_read(req->out, req->n_out, at, pages, sizeof(pages));
                        discard_pages(balloon, pages, (unsigned)(got / sizeof(u32)));
                }
                virtqueue_push(req, 0);
        }
}

static void deflate_run(struct virtio_balloon *balloon, struct virtqueue *q)
{
        struct virtio_request *req;

        (void)balloon;
        while ((req = virtqueue_pop(q)))
                virtqueue_push(req, 0);
}

/* ---- free page reports (5.5.6.7): the buffers are the free pages ---- */

static void reporting_run(struct virtio_balloon *balloon, struct virtqueue *q)
{
        /* "if PAGE_POISON has been negotiated, the device MUST NOT change the content unless it is poison_val" */
        const bool poisoned = virtio_has(&balloon->vdev, F_PAGE_POISON) && space_of(balloon)->poison_val != 0;
        const struct guest_memory *mem = balloon->vdev.env->memory;
        struct virtio_request *req;

        while ((req = virtqueue_pop(q))) {
                for (unsigned i = 0; i < req->n_in && !poisoned; i++) {
                        const u64 start = guest_memory_gpa(mem, req->in[i].iov_base);
                        const u64 first = ALIGN_UP(start, PAGE_SIZE), end = ALIGN_DOWN(start + req->in[i].iov_len, PAGE_SIZE);

                        if (first < end)
                                discard(balloon, first, end - first);
                }
                virtqueue_push(req, 0);
        }
}

/* ---- statistics (5.5.6.3) ---- */

static void stats_read(struct virtio_balloon *balloon, const struct virtio_request *req)
{
        struct stat_entry entry;

        balloon->stats_known = 0;
        for (size_t at = 0; at < BALLOON_STATS * sizeof(entry); at += sizeof(entry)) {
                if (virtio_iov_read(req->out, req->n_out, at, &entry, sizeof(entry)) != sizeof(entry))
                        break;
                if (entry.tag >= BALLOON_STATS)
                        continue;
                balloon->stats[entry.tag] = entry.value;
                balloon->stats_known |= (u32)BIT(entry.tag);
        }
}

static void stats_run(struct virtio_balloon *balloon, struct virtqueue *q)
{
        void (*fn)(void *opaque) = balloon->on_stats;
        struct virtio_request *req;

        while ((req = virtqueue_pop(q))) {
                stats_read(balloon, req);
                /* There is to be only one; the older one goes back. */
                if (balloon->stats_request)
                        virtqueue_push(balloon->stats_request, 0);
                balloon->stats_request = req;
                balloon->on_stats = NULL;
                if (fn)
                        fn(balloon->on_stats_opaque);
                fn = NULL;
        }
}

bool virtio_balloon_ask(struct virtio_balloon *balloon, void (*fn)(void *opaque), void *opaque)
{
        struct virtio_request *req = balloon->stats_request;

        if (!req)
                return false;
        balloon->on_stats = fn;
        balloon->on_stats_opaque = opaque;
        balloon->stats_request = NULL;
        virtqueue_push(req, 0);
        return true;
}

/* ---- the host's side ---- */

void virtio_balloon_set_target(struct virtio_balloon *balloon, u64 bytes)
{
        const u64 ram = balloon->vdev.env->memory->ram_size;
        const u32 pages = (u32)(MIN(bytes, ram) >> PAGE_SHIFT);

        if (space_of(balloon)->num_pages == pages)
                return;
        space_of(balloon)->num_pages = pages;
        virtio_config_changed(&balloon->vdev);
}

void virtio_balloon_info(const struct virtio_balloon *balloon, struct balloon_info *ret)
{
        const struct balloon_space *space = (const struct balloon_space *)balloon->vdev.config;

        *ret = (struct balloon_info){
                .target = (u64)space->num_pages << PAGE_SHIFT,
                .actual = (u64)space->actual << PAGE_SHIFT,
                .stats_known = balloon->stats_known,
        };
        memcpy(ret->stats, balloon->stats, sizeof(ret->stats));
}

/* ---- life cycle ---- */

typedef void run_fn(struct virtio_balloon *balloon, struct virtqueue *q);

/* Drivers number only the queues whose features they took, without gaps; the specification's fixed numbers (5.5.2) are the
 * same where all features are taken. */
static run_fn *role_of(const struct virtio_device *vdev, unsigned index)
{
        static const struct {
                int feature; /* -1: always there */
                run_fn *run;
        } roles[QUEUES_MAX] = {
                { -1, inflate_run },
                { -1, deflate_run },
                { F_STATS_VQ, stats_run },
                { F_REPORTING, reporting_run },
        };

        for (unsigned i = 0; i < ARRAY_SIZE(roles); i++)
                if ((roles[i].feature < 0 || virtio_has(vdev, (unsigned)roles[i].feature)) && index-- == 0)
                        return roles[i].run;
        return NULL;
}

static void balloon_run(struct virtio_device *vdev, struct virtqueue *q)
{
        run_fn *run = role_of(vdev, q->index);

        if (run)
                run(balloon_of(vdev), q);
        else
                q->quiet = true;
}

static void balloon_config_written(struct virtio_device *vdev, unsigned offset, unsigned size, u32 value)
{
        struct balloon_space *space = space_of(balloon_of(vdev));

        if (size != sizeof(u32))
                return;
        if (offset == offsetof(struct balloon_space, actual))
                space->actual = value;
        else if (offset == offsetof(struct balloon_space, poison_val))
                space->poison_val = value;
}

static void stats_drop(struct virtio_balloon *balloon)
{
        if (balloon->stats_request)
                virtqueue_drop(TAKE_PTR(balloon->stats_request));
}

/* A guest that starts again has all of its memory. */
static void balloon_reset(struct virtio_device *vdev)
{
        struct virtio_balloon *balloon = balloon_of(vdev);

        stats_drop(balloon);
        balloon->stats_known = 0;
        space_of(balloon)->actual = 0;
        space_of(balloon)->poison_val = 0;
}

static void balloon_queue_reset(struct virtio_device *vdev, struct virtqueue *q)
{
        struct virtio_balloon *balloon = balloon_of(vdev);

        if (balloon->stats_request && balloon->stats_request->queue == q)
                stats_drop(balloon);
}

/* No request may stay with us; the guest will bring a new one. */
static void balloon_quiesce(struct virtio_device *vdev)
{
        struct virtio_balloon *balloon = balloon_of(vdev);

        if (balloon->stats_request)
                virtqueue_push(TAKE_PTR(balloon->stats_request), 0);
}

static void balloon_save(struct virtio_device *vdev, struct state_out *out)
{
        const struct balloon_space *space = space_of(balloon_of(vdev));

        state_put_u32(out, space->num_pages);
        state_put_u32(out, space->actual);
        state_put_u32(out, space->poison_val);
}

static int balloon_load(struct virtio_device *vdev, struct state_in *in, u32 version, struct err **err)
{
        struct balloon_space *space = space_of(balloon_of(vdev));
        const u32 num_pages = state_get_u32(in), actual = state_get_u32(in), poison_val = state_get_u32(in);

        (void)version;
        if (state_in_error(in) || num_pages > vdev->env->memory->ram_size >> PAGE_SHIFT)
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of virtio-balloon is damaged");
        stats_drop(balloon_of(vdev));
        space->num_pages = num_pages;
        space->actual = actual;
        space->poison_val = poison_val;
        return 0;
}

static void balloon_destroy(struct virtio_device *vdev)
{
        free(balloon_of(vdev));
}

static const struct virtio_ops balloon_ops = {
        .queue_run = balloon_run,
        .config_written = balloon_config_written,
        .reset = balloon_reset,
        .queue_reset = balloon_queue_reset,
        .quiesce = balloon_quiesce,
        .save = balloon_save,
        .load = balloon_load,
        .destroy = balloon_destroy,
};
static const struct device_ops balloon_device_ops = VIRTIO_DEVICE_OPS("virtio-balloon", 1);

static const struct virtio_type balloon_type = {
        .id = VIRTIO_ID_BALLOON,
        .pci_class = 0x00ff00, /* no class fits */
        .device_ops = &balloon_device_ops,
        .ops = &balloon_ops,
        .n_queues = QUEUES_MAX,
        .queue_size = 128,
        .config_size = sizeof(struct balloon_space),
        .features = BIT(F_STATS_VQ) | BIT(F_PAGE_POISON) | BIT(F_REPORTING),
};

int virtio_balloon_new(struct device_env *env, struct pci_bus *bus, struct virtio_balloon **ret, struct err **err)
{
        struct virtio_balloon *balloon = calloc(1, sizeof(*balloon));
        int r;

        if (!balloon)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a balloon device");
        r = virtio_device_init(&balloon->vdev, env, bus, &balloon_type, err);
        if (r < 0) {
                free(balloon);
                return r;
        }
        env->add(env, &balloon->vdev.pci.dev);
        *ret = balloon;
        return 0;
}

/* The virtio core: devices on the PCI transport of virtio 1.2 ("modern" only), split virtqueues.
 *
 * The core owns the status machine, feature negotiation, the queues, interrupts and saved state. A device is one file: a struct
 * with `struct virtio_device vdev` first, a virtio_device_ops table, and a constructor:
 *
 *         static const struct device_ops rng_device_ops = VIRTIO_DEVICE_OPS("virtio-rng", 1);
 *         static const struct virtio_ops rng_ops = { .queue_run = rng_run, ... };
 *
 *         r = virtio_device_init(&rng->vdev, env, bus, &rng_type, err);   // queues, BARs, capabilities
 *         if (r < 0) { free(rng); return r; }
 *         env->add(env, &rng->vdev.pci.dev);
 *
 * Requests. queue_run(vdev, q) is called when the driver made buffers available:
 *
 *         while ((req = virtqueue_pop(q))) {
 *                 ...read from req->out[], write to req->in[]: iovecs of guest RAM, already checked...
 *                 virtqueue_push(req, bytes_written);      // now or any time later
 *         }
 *
 * virtqueue_push tells the memory map what was written (engines rely on it), gives the buffer back to the driver and interrupts if
 * the driver wants that. A device may keep requests; it must have pushed or dropped all of them (virtqueue_drop) when its reset()
 * returns, and pushed all when its quiesce() returns.
 *
 * Malformed rings never reach a device: virtqueue_pop returns NULL, the device is marked DEVICE_NEEDS_RESET and stops until
 * the driver resets it. A device that finds a request malformed beyond an error status calls virtqueue_bad(). One queue_run is
 * handed at most `size` requests; the rest follows from the loop, so that a guest cannot keep the device lock for ever.
 *
 * Byte order: little-endian throughout, as is every host we run on.
 * Threads: everything with the device lock held. Guest vCPUs write the rings meanwhile: every value is read once. */
#pragma once

#include <sys/uio.h>

#include "dev/pci.h"

#define VIRTIO_PCI_VENDOR 0x1af4
#define VIRTIO_QUEUE_SIZE_MAX 1024U
#define VIRTIO_QUEUES_MAX 16U
/* Descriptors of one request, whether in the ring or in an indirect table. */
#define VIRTIO_SEGMENTS_MAX 1024U

enum { /* virtio 1.2, 5 */
        VIRTIO_ID_NET = 1,
        VIRTIO_ID_BLOCK = 2,
        VIRTIO_ID_CONSOLE = 3,
        VIRTIO_ID_RNG = 4,
        VIRTIO_ID_BALLOON = 5,
        VIRTIO_ID_VSOCK = 19,
        VIRTIO_ID_FS = 26,
};

enum { /* 6 */
        VIRTIO_F_INDIRECT_DESC = 28,
        VIRTIO_F_EVENT_IDX = 29,
        VIRTIO_F_VERSION_1 = 32,
        VIRTIO_F_RING_RESET = 40,
};

enum { /* 2.1 */
        VIRTIO_STATUS_ACKNOWLEDGE = 1,
        VIRTIO_STATUS_DRIVER = 2,
        VIRTIO_STATUS_DRIVER_OK = 4,
        VIRTIO_STATUS_FEATURES_OK = 8,
        VIRTIO_STATUS_NEEDS_RESET = 64,
        VIRTIO_STATUS_FAILED = 128,
};

/* Why a ring or request was refused: the reason in VIRTIO_BAD trace lines. */
enum virtio_bad {
        VIRTIO_BAD_AVAIL_INDEX = 1,   /* more buffers than the queue has */
        VIRTIO_BAD_HEAD,              /* head index outside of the table */
        VIRTIO_BAD_HEAD_IN_USE,       /* head is still with the device */
        VIRTIO_BAD_NEXT,              /* next index outside of the table */
        VIRTIO_BAD_CHAIN_LENGTH,      /* loop, or more descriptors than allowed */
        VIRTIO_BAD_INDIRECT,          /* not negotiated, nested, chained, odd length or not RAM */
        VIRTIO_BAD_ORDER,             /* device-readable after device-writable */
        VIRTIO_BAD_ADDRESS,           /* not (writable) RAM */
        VIRTIO_BAD_LENGTH,            /* zero length, or 4 GiB or more in all */
        VIRTIO_BAD_RING,              /* a ring is not in RAM or is misaligned */
        VIRTIO_BAD_MEMORY,            /* the host is out of memory */
        VIRTIO_BAD_REQUEST,           /* the device found it malformed */
};

struct virtio_device;
struct virtio_scratch; /* room to collect a chain in */
struct virtqueue;

/* One chain of descriptors. Owned by the device from pop to push. */
struct virtio_request {
        struct virtqueue *queue;
        u16 head;
        unsigned n_out, n_in;
        u64 out_bytes, in_bytes;
        struct iovec *out, *in; /* device-readable, device-writable; may be trimmed by the device */
        void *data;             /* type->request_size bytes of the device's own, 16-byte aligned, zeroed */
        u64 segments_bytes;     /* in_bytes as it was; the most that can be reported as written */
        /* Private to the core. */
        struct virtio_segment *segments; /* in[] as it was, with guest addresses */
};

struct virtqueue {
        struct virtio_device *vdev;
        u16 index;
        u16 size_max;
        /* Set by the driver. */
        u16 size;
        u16 msix_vector;
        bool enabled;
        u64 desc, avail, used;
        /* The rings in host memory; NULL until enabled. */
        const void *desc_ring, *avail_ring;
        void *used_ring;
        /* State of the running ring. */
        u16 last_avail;      /* next entry of the available ring to look at */
        u16 seen_avail;      /* the ring's index when it was last read */
        u16 used_idx;        /* what the used ring's index will be after the next flush */
        u16 signalled_used;  /* used index at the last interrupt */
        bool signalled_valid;
        bool broken;
        bool running;        /* inside queue_run */
        bool quiet;          /* set by the device in queue_run: new buffers need no notification until virtqueue_wait */
        unsigned staged;     /* filled, not yet flushed */
        unsigned budget;     /* pops left in this run */
        unsigned in_flight;
        u64 heads[VIRTIO_QUEUE_SIZE_MAX / 64]; /* bit set: head is with the device */
        /* Doorbell without an exit, where the engine can. The eventfd lives as long as the device. */
        int doorbell_fd;
        u64 doorbell_address; /* where the engine listens, or PCI_UNMAPPED */
        struct loop_fd *doorbell_watch;
};

struct virtio_ops {
        /* Buffers are (or may be) available in a queue that runs. */
        void (*queue_run)(struct virtio_device *vdev, struct virtqueue *q);
        /* All that follow are optional. */
        /* The driver accepted @features; false refuses the combination. */
        bool (*features_accepted)(struct virtio_device *vdev, u64 features);
        /* The driver wrote [offset, offset + size) of the device configuration; inside config_size. */
        void (*config_written)(struct virtio_device *vdev, unsigned offset, unsigned size, u32 value);
        /* DRIVER_OK was set. Also called when saved state of a running device was loaded. */
        void (*start)(struct virtio_device *vdev);
        /* Stops what is in flight, synchronously: on return no request is out and no guest memory will be touched. The queues
         * are still there when it is called. */
        void (*reset)(struct virtio_device *vdev);
        /* One queue only is reset (RING_RESET); as reset(). Without it the feature is not offered. */
        void (*queue_reset)(struct virtio_device *vdev, struct virtqueue *q);
        void (*quiesce)(struct virtio_device *vdev);
        void (*resume)(struct virtio_device *vdev);
        void (*save)(struct virtio_device *vdev, struct state_out *out);
        /* Reads all, validates (state_in_error too), then applies. */
        int (*load)(struct virtio_device *vdev, struct state_in *in, u32 version, struct err **err);
        /* Frees the device itself; the core has reset it and left the bus. */
        void (*destroy)(struct virtio_device *vdev);
};

struct virtio_type {
        u16 id;                    /* VIRTIO_ID_* */
        u32 pci_class;             /* 24 bits */
        const struct device_ops *device_ops;
        const struct virtio_ops *ops;
        unsigned n_queues;
        u16 queue_size;            /* of each queue, power of two */
        unsigned config_size;      /* bytes of device configuration, at most VIRTIO_CONFIG_MAX */
        unsigned request_size;     /* bytes of request->data */
        u64 features;              /* of the device; the core adds its own. A constructor may clear or set bits in vdev->features */
};

#define VIRTIO_CONFIG_MAX 256U

struct virtio_device {
        struct pci_device pci;
        struct device_env *env;
        const struct virtio_type *type;
        u64 features;              /* offered */
        u64 driver_features;       /* written by the driver; in force once FEATURES_OK is set */
        u8 status;
        u8 isr;
        u8 config_generation;
        u16 config_vector;
        u32 device_feature_select, driver_feature_select;
        u16 queue_select;
        u8 config[VIRTIO_CONFIG_MAX] __attribute__((aligned(8))); /* device configuration as the driver reads it */
        struct virtqueue queues[VIRTIO_QUEUES_MAX];
        struct loop_timer rerun;   /* continues queues that used up their budget */
        u32 rerun_queues;          /* bit n: queue n */
        bool quiesced;
        struct virtio_scratch *scratch;
        unsigned cfg_cap;          /* offset of the PCI configuration access capability */
        u64 bar_address;           /* where the registers are mapped, or PCI_UNMAPPED */
};

/* ---- construction; the functions that VIRTIO_DEVICE_OPS puts in place ---- */

int virtio_device_init(struct virtio_device *vdev, struct device_env *env, struct pci_bus *bus,
                       const struct virtio_type *type, struct err **err);
void virtio_device_reset(struct device *dev);
void virtio_device_save(struct device *dev, struct state_out *out);
int virtio_device_load(struct device *dev, struct state_in *in, u32 version, struct err **err);
void virtio_device_destroy(struct device *dev);
void virtio_device_quiesce(struct device *dev);
void virtio_device_resume(struct device *dev);

#define VIRTIO_DEVICE_OPS(device_name, state_version)                                                                  \
        {                                                                                                              \
                .name = device_name, .version = state_version, .reset = virtio_device_reset,                           \
                .save = virtio_device_save, .load = virtio_device_load, .destroy = virtio_device_destroy,              \
                .quiesce = virtio_device_quiesce, .resume = virtio_device_resume,                                      \
        }

/* ---- for devices ---- */

static inline bool virtio_has(const struct virtio_device *vdev, unsigned feature)
{
        return vdev->driver_features & BIT(feature);
}
/* DRIVER_OK, not broken, not stopped, may master the bus. */
bool virtio_running(const struct virtio_device *vdev);
/* The device changed config[]: bumps the generation and interrupts. */
void virtio_config_changed(struct virtio_device *vdev);

/* The next available chain, or NULL: none, budget used up, queue not running or ring malformed. */
struct virtio_request *virtqueue_pop(struct virtqueue *q);
/* Gives @req back with @written bytes written at the start of its in[] segments, and notifies the driver. Frees it. */
void virtqueue_push(struct virtio_request *req, u32 written);
/* push in three steps, for several requests that the driver must see at once (merged receive buffers). Fills must be in the
 * order of pops when the driver relies on it; between fill and flush nothing else is done with the queue. */
void virtqueue_fill(struct virtio_request *req, u32 written);
void virtqueue_flush(struct virtqueue *q);
void virtqueue_notify(struct virtqueue *q);
/* Undoes the latest pop that was not pushed: the chain will be popped again. Frees it. */
void virtqueue_unpop(struct virtio_request *req);
/* Frees without an answer. Only inside reset() and queue_reset(). */
void virtqueue_drop(struct virtio_request *req);
/* The driver sent nonsense: marks the device as needing a reset; nothing more is popped. @req may be NULL; it is freed. */
void virtqueue_bad(struct virtqueue *q, struct virtio_request *req, enum virtio_bad why);
/* Runs queue_run soon, on the loop: e.g. the backend can take data again. */
void virtqueue_rerun(struct virtqueue *q);
/* For a device that pops outside of queue_run and found nothing, or not enough: asks for a notification about buffers newer than
 * those seen. True when there are some already: try again. */
bool virtqueue_wait(struct virtqueue *q);

/* ---- iovec helpers: return how many bytes were copied ---- */
size_t virtio_iov_read(const struct iovec *iov, unsigned n, size_t offset, void *dst, size_t len);
size_t virtio_iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *src, size_t len);
/* Drops @bytes from the front; false (unchanged) when there are fewer. */
bool virtio_iov_trim(struct iovec **iov, unsigned *n, u64 bytes);

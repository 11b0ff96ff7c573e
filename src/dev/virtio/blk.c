/* virtio-blk (virtio 1.2, 5.2).
 *
 * A request is a 16-byte header, data, and one status byte at the very end of the writable part; how the driver cuts these into
 * descriptors is its own affair (2.7.4). Data goes straight between guest memory and the image. Requests are in flight until the
 * block layer calls back; reset and quiesce wait for them, so nothing touches guest memory after the driver has seen
 * status 0. */
#include "dev/virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/block/block.h"
#include "dev/virtio/virtio.h"

enum { /* feature bits */
        F_SEG_MAX = 2,
        F_RO = 5,
        F_BLK_SIZE = 6,
        F_FLUSH = 9,
        F_TOPOLOGY = 10,
        F_DISCARD = 13,
        F_WRITE_ZEROES = 14,
};

enum { /* request types */
        T_IN = 0,
        T_OUT = 1,
        T_FLUSH = 4,
        T_GET_ID = 8,
        T_DISCARD = 11,
        T_WRITE_ZEROES = 13,
};

enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define QUEUE_SIZE 256U
/* Data segments: what is left of a chain after header and status. */
#define SEG_MAX (QUEUE_SIZE - 2)
#define ID_BYTES 20U
#define SECTOR 512U
/* Ranges of one discard or write-zeroes request, and sectors of a range. */
#define RANGES_MAX 1U
#define RANGE_SECTORS_MAX (1U << 22)

struct header {
        u32 type, reserved;
        u64 sector;
};

struct range {
        u64 sector;
        u32 sectors, flags;
};
enum { RANGE_UNMAP = 1 };

struct blk_space { /* struct virtio_blk_config of the specification */
        u64 capacity;
        u32 size_max, seg_max;
        struct {
                u16 cylinders;
                u8 heads, sectors;
        } geometry;
        u32 blk_size;
        struct {
                u8 physical_block_exp, alignment_offset;
                u16 min_io_size;
                u32 opt_io_size;
        } topology;
        u8 writeback, unused0;
        u16 num_queues;
        u32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
        u32 max_write_zeroes_sectors, max_write_zeroes_seg;
        u8 write_zeroes_may_unmap, unused1[3];
} _packed_;

_Static_assert(sizeof(struct blk_space) == 60, "virtio 1.2, 5.2.4");

struct virtio_blk {
        struct virtio_device vdev;
        struct block_device *block;
        char serial[ID_BYTES + 1];
};

/* Lives in virtio_request.data. */
struct blk_request {
        struct block_request io;
        u8 *status;
};

static struct virtio_blk *blk_of(struct virtio_device *vdev)
{
        return container_of(vdev, struct virtio_blk, vdev);
}

static void complete(struct virtio_request *req, u8 status)
{
        struct blk_request *br = req->data;

        *br->status = status;
        /* The status is behind the data, so all of it counts as written, also where a read failed half-way. */
        virtqueue_push(req, (u32)req->segments_bytes);
}

static void on_done(struct block_request *io)
{
        complete(io->opaque, io->result == 0 ? S_OK : io->result == -EOPNOTSUPP ? S_UNSUPP : S_IOERR);
}

static void submit(struct virtio_blk *blk, struct virtio_request *req, enum block_op op)
{
        struct blk_request *br = req->data;

        br->io.op = op;
        br->io.done = on_done;
        br->io.opaque = req;
        block_submit(blk->block, &br->io);
}

/* ---- one function for each type of request; each answers or submits ---- */

static bool in_range(const struct virtio_blk *blk, u64 sector, u64 bytes)
{
        const u64 sectors = block_size(blk->block) / SECTOR;

        return bytes % SECTOR == 0 && sector <= sectors && bytes / SECTOR <= sectors - sector;
}

static void do_read(struct virtio_blk *blk, struct virtio_request *req, const struct header *header)
{
        struct blk_request *br = req->data;

        if (!in_range(blk, header->sector, req->in_bytes - 1)) {
                complete(req, S_IOERR);
                return;
        }
        /* The status byte is the last one: the data ends before it. */
        req->in[req->n_in - 1].iov_len--;
        br->io.offset = header->sector * SECTOR;
        br->io.iov = req->in;
        br->io.n_iov = req->n_in - (req->in[req->n_in - 1].iov_len == 0);
        if (br->io.n_iov == 0)
                complete(req, S_OK);
        else
                submit(blk, req, BLOCK_OP_READ);
}

static void do_write(struct virtio_blk *blk, struct virtio_request *req, const struct header *header)
{
        struct blk_request *br = req->data;

        if (block_read_only(blk->block) || !in_range(blk, header->sector, req->out_bytes - sizeof(*header))) {
                complete(req, S_IOERR);
                return;
        }
        br->io.offset = header->sector * SECTOR;
        br->io.iov = req->out;
        br->io.n_iov = req->n_out;
        /* A driver that does not know FLUSH expects a write-through disk (5.2.6.2). */
        br->io.flags = virtio_has(&blk->vdev, F_FLUSH) ? 0 : BLOCK_REQ_FUA;
        if (br->io.n_iov == 0)
                complete(req, S_OK);
        else
                submit(blk, req, BLOCK_OP_WRITE);
}

static void do_flush(struct virtio_blk *blk, struct virtio_request *req, const struct header *header)
{
        (void)header;
        submit(blk, req, BLOCK_OP_FLUSH);
}

/* "A NUL-terminated string of up to 20 bytes", without the terminator when it has all 20 (5.2.6). */
static void do_get_id(struct virtio_blk *blk, struct virtio_request *req, const struct header *header)
{
        const size_t room = MIN(req->in_bytes - 1, (u64)ID_BYTES);

        (void)header;
        virtio_iov_write(req->in, req->n_in, 0, blk->serial, room);
        complete(req, S_OK);
}

static void do_range(struct virtio_blk *blk, struct virtio_request *req, enum block_op op, u32 allowed_flags)
{
        struct blk_request *br = req->data;
        struct range range;

        if (virtio_iov_read(req->out, req->n_out, 0, &range, sizeof(range)) != sizeof(range) ||
            req->out_bytes != sizeof(struct header) + sizeof(range) * RANGES_MAX || block_read_only(blk->block)) {
                complete(req, S_IOERR);
                return;
        }
        /* "if any reserved bit is set ... the device MUST set the status byte to VIRTIO_BLK_S_UNSUPP" (5.2.6.2). */
        if (range.flags & ~allowed_flags) {
                complete(req, S_UNSUPP);
                return;
        }
        if (range.sectors > RANGE_SECTORS_MAX || !in_range(blk, range.sector, (u64)range.sectors * SECTOR)) {
                complete(req, S_IOERR);
                return;
        }
        br->io.offset = range.sector * SECTOR;
        br->io.bytes = (u64)range.sectors * SECTOR;
        br->io.flags = range.flags & RANGE_UNMAP ? BLOCK_REQ_UNMAP : 0;
        if (range.sectors == 0)
                complete(req, S_OK);
        else
                submit(blk, req, op);
}

static void do_discard(struct virtio_blk *blk, struct virtio_request *req, const struct header *header)
{
        (void)header;
        do_range(blk, req, BLOCK_OP_DISCARD, 0);
}

static void do_write_zeroes(struct virtio_blk *blk, struct virtio_request *req, const struct header *header)
{
        (void)header;
        do_range(blk, req, BLOCK_OP_WRITE_ZEROES, RANGE_UNMAP);
}

static const struct {
        u32 type;
        u64 feature; /* without which the type does not exist; 0: none */
        void (*run)(struct virtio_blk *blk, struct virtio_request *req, const struct header *header);
} request_types[] = {
        { T_IN, 0, do_read },
        { T_OUT, 0, do_write },
        { T_FLUSH, BIT(F_FLUSH), do_flush },
        { T_GET_ID, 0, do_get_id },
        { T_DISCARD, BIT(F_DISCARD), do_discard },
        { T_WRITE_ZEROES, BIT(F_WRITE_ZEROES), do_write_zeroes },
};

static void handle(struct virtio_blk *blk, struct virtqueue *q, struct virtio_request *req)
{
        struct blk_request *br = req->data;
        struct iovec *last;
        struct header header;

        /* No header or no place for the status: there is no way to answer. */
        if (req->n_in == 0 || virtio_iov_read(req->out, req->n_out, 0, &header, sizeof(header)) != sizeof(header)) {
                virtqueue_bad(q, req, VIRTIO_BAD_REQUEST);
                return;
        }
        virtio_iov_trim(&req->out, &req->n_out, sizeof(header));
        last = &req->in[req->n_in - 1];
        br->status = (u8 *)last->iov_base + last->iov_len - 1;
        for (size_t i = 0; i < ARRAY_SIZE(request_types); i++) {
                if (request_types[i].type == header.type &&
                    (request_types[i].feature & ~blk->vdev.driver_features) == 0) {
                        request_types[i].run(blk, req, &header);
                        return;
                }
        }
        complete(req, S_UNSUPP);
}

static void blk_run(struct virtio_device *vdev, struct virtqueue *q)
{
        struct virtio_blk *blk = blk_of(vdev);
        struct virtio_request *req;

        block_plug(blk->block);
        while ((req = virtqueue_pop(q)))
                handle(blk, q, req);
        block_unplug(blk->block);
}

/* ---- life cycle ---- */

static void blk_drain(struct virtio_device *vdev)
{
        block_drain(blk_of(vdev)->block);
}

static void blk_queue_reset(struct virtio_device *vdev, struct virtqueue *q)
{
        (void)q; /* there is only one */
        blk_drain(vdev);
}

static void blk_save(struct virtio_device *vdev, struct state_out *out)
{
        state_put_u64(out, block_size(blk_of(vdev)->block));
}

static int blk_load(struct virtio_device *vdev, struct state_in *in, u32 version, struct err **err)
{
        struct virtio_blk *blk = blk_of(vdev);
        const u64 size = state_get_u64(in);

        (void)version;
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of virtio-blk is truncated");
        if (size != block_size(blk->block))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine's disk has %lu bytes, '%s' has %lu", size,
                               block_path(blk->block), block_size(blk->block));
        return 0;
}

static void blk_destroy(struct virtio_device *vdev)
{
        struct virtio_blk *blk = blk_of(vdev);

        block_close(blk->block);
        free(blk);
}

static const struct virtio_ops blk_ops = {
        .queue_run = blk_run, .reset = blk_drain, .queue_reset = blk_queue_reset, .quiesce = blk_drain, .save = blk_save,
        .load = blk_load, .destroy = blk_destroy,
};
static const struct device_ops blk_device_ops = VIRTIO_DEVICE_OPS("virtio-blk", 1);

static const struct virtio_type blk_type = {
        .id = VIRTIO_ID_BLOCK,
        .pci_class = 0x010000, /* mass storage, SCSI: what drivers expect */
        .device_ops = &blk_device_ops,
        .ops = &blk_ops,
        .n_queues = 1,
        .queue_size = QUEUE_SIZE,
        .config_size = sizeof(struct blk_space),
        .request_size = sizeof(struct blk_request),
        .features = BIT(F_SEG_MAX) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY),
};

static void space_fill(struct virtio_blk *blk)
{
        struct blk_space *space = (struct blk_space *)blk->vdev.config;
        const u32 granularity = MAX(block_discard_granularity(blk->block), SECTOR);

        *space = (struct blk_space){
                .capacity = block_size(blk->block) / SECTOR,
                .seg_max = SEG_MAX,
                .blk_size = SECTOR,
                .topology = { .physical_block_exp = 3, .min_io_size = 8, .opt_io_size = 0 },
                .num_queues = 1,
                .max_discard_sectors = RANGE_SECTORS_MAX,
                .max_discard_seg = RANGES_MAX,
                .discard_sector_alignment = granularity / SECTOR,
                .max_write_zeroes_sectors = RANGE_SECTORS_MAX,
                .max_write_zeroes_seg = RANGES_MAX,
                .write_zeroes_may_unmap = 1,
        };
}

int virtio_blk_new(struct device_env *env, struct pci_bus *bus, const struct virtio_blk_config *config, struct err **err)
{
        struct virtio_blk *blk = calloc(1, sizeof(*blk));
        int r;

        if (!blk)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a virtio disk");
        r = virtio_device_init(&blk->vdev, env, bus, &blk_type, err);
        if (r < 0) {
                free(blk);
                return r;
        }
        blk->block = config->block;
        memcpy(blk->serial, config->serial, ID_BYTES);
        if (block_read_only(blk->block))
                blk->vdev.features |= BIT(F_RO);
        else
                blk->vdev.features |= BIT(F_DISCARD) | BIT(F_WRITE_ZEROES);
        space_fill(blk);
        env->add(env, &blk->vdev.pci.dev);
        return 0;
}

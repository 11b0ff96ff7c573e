/* Commands on the namespace (NVM command set, section 6). */
#include "internal.h"

#include <errno.h>

enum {
        CDW12_FUA = 1 << 30,
        CDW12_DEALLOCATE = 1 << 25, /* write zeroes */
        CDW11_DEALLOCATE = 1 << 2,  /* dataset management */
};

/* What the guest is told about a host error. */
static int status_of(enum block_op op, int result)
{
        switch (result) {
        case 0:
                return NVME_OK;
        case -ENOSPC:
        case -EDQUOT:
        case -EFBIG:
                return NVME_CAPACITY_EXCEEDED;
        case -EROFS:
        case -EPERM:
                return NVME_WRITE_PROTECTED;
        case -EINVAL:
                return NVME_LBA_OUT_OF_RANGE;
        case -ENOMEM:
                return NVME_INTERNAL_ERROR;
        default:
                return op == BLOCK_OP_READ ? NVME_READ_ERROR : NVME_WRITE_FAULT;
        }
}

static u64 start_lba(const struct nvme_command *cmd)
{
        return cmd->sqe.cdw10 | (u64)cmd->sqe.cdw11 << 32;
}

static bool in_range(const struct nvme *n, u64 lba, u64 blocks)
{
        const u64 size = block_size(n->disk) / BLOCK_SECTOR;

        return lba <= size && blocks <= size - lba;
}

static void done(struct block_request *req)
{
        struct nvme_command *cmd = req->opaque;
        struct nvme *n = cmd->nvme;

        if (req->op == BLOCK_OP_READ)
                nvme_mark_written(cmd); /* also after an error: a part may have arrived */
        nvme_complete(cmd, status_of(req->op, req->result));
        if (n->starved)
                nvme_process(n);
}

static int submit(struct nvme_command *cmd, enum block_op op, unsigned flags, u64 lba, u64 blocks)
{
        /* Without the volatile cache every write is on stable storage before it ends. */
        const bool cached = cmd->nvme->features[FEATURE_WRITE_CACHE];

        if ((op == BLOCK_OP_WRITE || op == BLOCK_OP_WRITE_ZEROES) && !cached)
                flags |= BLOCK_REQ_FUA;
        cmd->req = (struct block_request){
                .op = op,
                .flags = flags,
                .offset = lba * BLOCK_SECTOR,
                .bytes = blocks * BLOCK_SECTOR,
                .iov = cmd->iov,
                .n_iov = cmd->n_iov,
                .done = done,
                .opaque = cmd,
        };
        block_submit(cmd->nvme->disk, &cmd->req);
        return NVME_PENDING;
}

static int flush(struct nvme_command *cmd)
{
        return submit(cmd, BLOCK_OP_FLUSH, 0, 0, 0);
}

static int transfer(struct nvme_command *cmd, enum block_op op)
{
        const u32 blocks = (cmd->sqe.cdw12 & 0xffff) + 1;
        const unsigned flags = op == BLOCK_OP_WRITE && (cmd->sqe.cdw12 & CDW12_FUA) ? BLOCK_REQ_FUA : 0;
        int status;

        if (!in_range(cmd->nvme, start_lba(cmd), blocks))
                return NVME_LBA_OUT_OF_RANGE;
        if (op == BLOCK_OP_WRITE && block_read_only(cmd->nvme->disk))
                return NVME_WRITE_PROTECTED;
        if (blocks * BLOCK_SECTOR > NVME_TRANSFER_MAX)
                return NVME_INVALID_FIELD;
        status = nvme_map_prps(cmd, blocks * BLOCK_SECTOR);
        return status == NVME_OK ? submit(cmd, op, flags, start_lba(cmd), blocks) : status;
}

static int read_blocks(struct nvme_command *cmd)
{
        return transfer(cmd, BLOCK_OP_READ);
}

static int write_blocks(struct nvme_command *cmd)
{
        return transfer(cmd, BLOCK_OP_WRITE);
}

static int write_zeroes(struct nvme_command *cmd)
{
        const u32 blocks = (cmd->sqe.cdw12 & 0xffff) + 1;
        const unsigned flags = (cmd->sqe.cdw12 & CDW12_DEALLOCATE ? BLOCK_REQ_UNMAP : 0) |
                               (cmd->sqe.cdw12 & CDW12_FUA ? BLOCK_REQ_FUA : 0);

        if (!in_range(cmd->nvme, start_lba(cmd), blocks))
                return NVME_LBA_OUT_OF_RANGE;
        if (block_read_only(cmd->nvme->disk))
                return NVME_WRITE_PROTECTED;
        return submit(cmd, BLOCK_OP_WRITE_ZEROES, flags, start_lba(cmd), blocks);
}

/* ---- dataset management ---- */

/* Discards one range after the other. */
static void next_range(struct block_request *req)
{
        struct nvme_command *cmd = req->opaque;
        struct nvme *n = cmd->nvme;

        if (req->result == 0 && ++cmd->range < cmd->n_ranges && cmd->generation == n->generation) {
                req->offset = cmd->ranges[cmd->range].lba * BLOCK_SECTOR;
                req->bytes = (u64)cmd->ranges[cmd->range].blocks * BLOCK_SECTOR;
                block_submit(n->disk, req);
                return;
        }
        nvme_complete(cmd, status_of(req->op, req->result));
        if (n->starved)
                nvme_process(n);
}

static int dataset_management(struct nvme_command *cmd)
{
        u8 raw[NVME_RANGES_MAX * 16];
        const unsigned n = (cmd->sqe.cdw10 & 0xff) + 1;
        int status;

        status = nvme_copy_from_guest(cmd, raw, n * 16);
        if (status != NVME_OK)
                return status;
        if (block_read_only(cmd->nvme->disk))
                return NVME_WRITE_PROTECTED;
        for (unsigned i = 0; i < n; i++) {
                cmd->ranges[i] = (struct nvme_range){ .lba = get_le(raw + i * 16 + 8, 8), .blocks = (u32)get_le(raw + i * 16 + 4, 4) };
                if (!in_range(cmd->nvme, cmd->ranges[i].lba, cmd->ranges[i].blocks))
                        return NVME_LBA_OUT_OF_RANGE;
        }
        if (!(cmd->sqe.cdw11 & CDW11_DEALLOCATE)) /* the rest is advice */
                return NVME_OK;
        cmd->range = 0;
        cmd->n_ranges = n;
        cmd->req = (struct block_request){
                .op = BLOCK_OP_DISCARD,
                .offset = cmd->ranges[0].lba * BLOCK_SECTOR,
                .bytes = (u64)cmd->ranges[0].blocks * BLOCK_SECTOR,
                .done = next_range,
                .opaque = cmd,
        };
        block_submit(cmd->nvme->disk, &cmd->req);
        return NVME_PENDING;
}

static const struct {
        u8 opcode;
        bool any_namespace; /* may name all of them */
        int (*run)(struct nvme_command *cmd);
} commands[] = {
        { 0x00, true, flush },
        { 0x01, false, write_blocks },
        { 0x02, false, read_blocks },
        { 0x08, false, write_zeroes },
        { 0x09, false, dataset_management },
};

int nvme_io_command(struct nvme_command *cmd)
{
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
                if (commands[i].opcode != cmd->sqe.opcode)
                        continue;
                if (cmd->sqe.flags != 0) /* fused operations and SGLs */
                        return NVME_INVALID_FIELD;
                if (cmd->sqe.nsid != NVME_NAMESPACE && !(commands[i].any_namespace && cmd->sqe.nsid == NVME_ALL_NAMESPACES))
                        return NVME_INVALID_NAMESPACE;
                return commands[i].run(cmd);
        }
        return NVME_INVALID_OPCODE;
}

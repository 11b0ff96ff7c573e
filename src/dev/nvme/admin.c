/* Admin commands (section 5). */
#include "internal.h"

/* ---- queues ---- */

/* Both entry sizes must have been announced in CC before I/O queues exist (section 3.1.5). */
static bool entry_sizes_right(const struct nvme *n)
{
        return bits(n->cc, 19, 16) == 6 && bits(n->cc, 23, 20) == 4;
}

static int check_new_queue(struct nvme_command *cmd, bool exists, u32 entry_bytes)
{
        const u32 qid = cmd->sqe.cdw10 & 0xffff, size = (cmd->sqe.cdw10 >> 16) + 1;

        if (qid == 0 || qid > NVME_IO_QUEUES || exists)
                return NVME_INVALID_QUEUE_ID;
        if (size < 2 || size > NVME_QUEUE_ENTRIES)
                return NVME_INVALID_QUEUE_SIZE;
        if (!(cmd->sqe.cdw11 & 1) || !entry_sizes_right(cmd->nvme)) /* physically contiguous queues only */
                return NVME_INVALID_FIELD;
        if (cmd->sqe.prp1 % NVME_PAGE != 0)
                return NVME_INVALID_PRP_OFFSET;
        if (!guest_memory_is_ram(cmd->nvme->env->memory, cmd->sqe.prp1, (u64)size * entry_bytes))
                return NVME_INVALID_FIELD;
        return NVME_OK;
}

static int create_cq(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;
        const u32 qid = cmd->sqe.cdw10 & 0xffff, vector = cmd->sqe.cdw11 >> 16;
        int status;

        status = check_new_queue(cmd, qid < NVME_QUEUES && n->cq[qid].exists, 16);
        if (status != NVME_OK)
                return status;
        if (vector >= NVME_QUEUES)
                return NVME_INVALID_VECTOR;
        n->cq[qid] = (struct nvme_cq){
                .exists = true,
                .interrupts = cmd->sqe.cdw11 & 2,
                .phase = true,
                .vector = (u16)vector,
                .size = (cmd->sqe.cdw10 >> 16) + 1,
                .base = cmd->sqe.prp1,
                .waiting_tail = &n->cq[qid].waiting,
        };
        return NVME_OK;
}

static int create_sq(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;
        const u32 qid = cmd->sqe.cdw10 & 0xffff, cqid = cmd->sqe.cdw11 >> 16;
        int status;

        status = check_new_queue(cmd, qid < NVME_QUEUES && n->sq[qid].exists, 64);
        if (status != NVME_OK)
                return status;
        if (cqid == 0 || cqid > NVME_IO_QUEUES)
                return NVME_INVALID_QUEUE_ID;
        if (!n->cq[cqid].exists)
                return NVME_INVALID_CQ;
        n->sq[qid] = (struct nvme_sq){
                .exists = true,
                .cqid = (u16)cqid,
                .size = (cmd->sqe.cdw10 >> 16) + 1,
                .base = cmd->sqe.prp1,
        };
        return NVME_OK;
}

static int delete_sq(struct nvme_command *cmd)
{
        const u32 qid = cmd->sqe.cdw10 & 0xffff;

        if (qid == 0 || qid > NVME_IO_QUEUES || !cmd->nvme->sq[qid].exists || cmd->nvme->sq[qid].deleting)
                return NVME_INVALID_QUEUE_ID;
        nvme_delete_sq_start(cmd, (u16)qid);
        return NVME_PENDING;
}

static int delete_cq(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;
        const u32 qid = cmd->sqe.cdw10 & 0xffff;

        if (qid == 0 || qid > NVME_IO_QUEUES || !n->cq[qid].exists)
                return NVME_INVALID_QUEUE_ID;
        for (unsigned i = 1; i < NVME_QUEUES; i++)
                if (n->sq[i].exists && n->sq[i].cqid == qid)
                        return NVME_INVALID_QUEUE_DELETION;
        n->cq[qid].exists = false;
        nvme_update_intx(n);
        return NVME_OK;
}

/* ---- features (section 5.21) ---- */

static const struct feature {
        u8 id;
        u32 initial;
        u32 mask; /* bits that a guest may set; 0: the value cannot be changed */
} features[FEATURE_COUNT] = {
        [FEATURE_ARBITRATION] = { 0x01, 6, 0xffffff07 },
        [FEATURE_POWER] = { 0x02, 0, 0x000000e0 },
        [FEATURE_TEMPERATURE] = { 0x04, 273 + 70, 0x003fffff },
        [FEATURE_ERROR_RECOVERY] = { 0x05, 0, 0x0001ffff },
        [FEATURE_WRITE_CACHE] = { 0x06, 1, 0x00000001 },
        [FEATURE_QUEUES] = { 0x07, (NVME_IO_QUEUES - 1) << 16 | (NVME_IO_QUEUES - 1), 0 },
        [FEATURE_COALESCING] = { 0x08, 0, 0x0000ffff },
        [FEATURE_ATOMICITY] = { 0x0a, 0, 0x00000001 },
        [FEATURE_EVENTS] = { 0x0b, 0, 0x000003ff },
};
#define FEATURE_ID_VECTOR_CONFIG 0x09

void nvme_features_reset(struct nvme *n)
{
        for (unsigned i = 0; i < FEATURE_COUNT; i++)
                n->features[i] = features[i].initial;
}

/* FEATURE_COUNT when there is none with that identifier. */
static unsigned find_feature(u8 id)
{
        unsigned i = 0;

        while (i < FEATURE_COUNT && features[i].id != id)
                i++;
        return i;
}

static int set_features(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;
        const unsigned i = find_feature((u8)cmd->sqe.cdw10);

        if (cmd->sqe.cdw10 & BIT(31))
                return NVME_FEATURE_NOT_SAVEABLE;
        if ((u8)cmd->sqe.cdw10 == FEATURE_ID_VECTOR_CONFIG)
                return (cmd->sqe.cdw11 & 0xffff) < NVME_QUEUES ? NVME_OK : NVME_INVALID_FIELD;
        if (i == FEATURE_COUNT)
                return NVME_INVALID_FIELD;
        if (i == FEATURE_QUEUES) {
                /* The guest asks for a number and gets ours, which may be more or less. */
                if ((cmd->sqe.cdw11 & 0xffff) == 0xffff || cmd->sqe.cdw11 >> 16 == 0xffff)
                        return NVME_INVALID_FIELD;
                cmd->result = n->features[i];
                return NVME_OK;
        }
        n->features[i] = cmd->sqe.cdw11 & features[i].mask;
        return NVME_OK;
}

static int get_features(struct nvme_command *cmd)
{
        const u8 id = (u8)cmd->sqe.cdw10;
        const unsigned i = find_feature(id);

        if (id == FEATURE_ID_VECTOR_CONFIG) {
                if ((cmd->sqe.cdw11 & 0xffff) >= NVME_QUEUES)
                        return NVME_INVALID_FIELD;
                cmd->result = (cmd->sqe.cdw11 & 0xffff) | 1U << 16; /* no coalescing */
                return NVME_OK;
        }
        if (i == FEATURE_COUNT)
                return NVME_INVALID_FIELD;
        cmd->result = cmd->nvme->features[i];
        return NVME_OK;
}

/* ---- the rest ---- */

/* Nothing takes so long that it would be worth aborting. */
static int abort_command(struct nvme_command *cmd)
{
        cmd->result = 1; /* not aborted */
        return NVME_OK;
}

static const struct {
        u8 opcode;
        int (*run)(struct nvme_command *cmd);
} commands[] = {
        { 0x00, delete_sq },
        { 0x01, create_sq },
        { 0x02, nvme_get_log_page },
        { 0x04, delete_cq },
        { 0x05, create_cq },
        { 0x06, nvme_identify },
        { 0x08, abort_command },
        { 0x09, set_features },
        { 0x0a, get_features },
        { 0x0c, nvme_event_request },
};

int nvme_admin_command(struct nvme_command *cmd)
{
        if (cmd->sqe.flags != 0) /* fused operations and SGLs */
                return NVME_INVALID_FIELD;
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
                if (commands[i].opcode == cmd->sqe.opcode)
                        return commands[i].run(cmd);
        return NVME_INVALID_OPCODE;
}

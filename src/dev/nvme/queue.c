/* Theory of operation.
 *
 * Commands are fetched round robin from the submission queues into a fixed number of slots; when all are in use the rest stays
 * in the guest's memory until one is free. A completion whose queue is full waits in a list of that queue, still holding its
 * slot, until the guest moves the head. So a guest cannot make the controller allocate or lose anything.
 *
 * A controller reset forgets the queues at once but not the commands: the host's I/O on guest memory goes on. They carry the
 * generation in which they were fetched, and end silently when it is over (see nvme.c). */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SQE_BYTES 64U
#define CQE_BYTES 16U

int nvme_queues_init(struct nvme *n, struct err **err)
{
        n->commands = calloc(NVME_COMMANDS, sizeof(*n->commands));
        if (!n->commands)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for an NVMe controller");
        for (unsigned i = 0; i < NVME_COMMANDS; i++) {
                n->commands[i].nvme = n;
                n->commands[i].next = n->free;
                n->free = &n->commands[i];
        }
        nvme_queues_reset(n);
        return 0;
}

void nvme_queues_free(struct nvme *n)
{
        free(n->commands);
        n->commands = n->free = NULL;
}

static struct nvme_command *command_alloc(struct nvme *n)
{
        struct nvme_command *cmd = n->free;

        if (cmd) {
                n->free = cmd->next;
                n->in_flight++;
                cmd->next = NULL;
        }
        return cmd;
}

void nvme_command_free(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;

        cmd->next = n->free;
        n->free = cmd;
        n->in_flight--;
}

void nvme_queues_reset(struct nvme *n)
{
        for (unsigned i = 0; i < NVME_QUEUES; i++) {
                struct nvme_command *cmd, *next;

                for (cmd = n->cq[i].waiting; cmd; cmd = next) {
                        next = cmd->next;
                        nvme_command_free(cmd);
                }
                if (n->sq[i].deleter)
                        nvme_command_free(n->sq[i].deleter);
                n->sq[i] = (struct nvme_sq){ 0 };
                n->cq[i] = (struct nvme_cq){ 0 };
                n->cq[i].waiting_tail = &n->cq[i].waiting;
        }
        n->n_event_cids = 0;
        n->starved = false;
}

/* ---- interrupts ---- */

/* Without MSI-X: level, while an enabled queue has entries that the guest has not taken (section 7.5.1). */
void nvme_update_intx(struct nvme *n)
{
        bool level = false;

        for (unsigned i = 0; i < NVME_QUEUES; i++)
                if (n->cq[i].exists && n->cq[i].interrupts && n->cq[i].head != n->cq[i].tail)
                        level = true;
        pci_intx_set(&n->pci, level && !(n->intms & 1) && !pci_msix_enabled(&n->pci));
}

static void interrupt(struct nvme *n, const struct nvme_cq *cq)
{
        if (!cq->interrupts)
                return;
        if (pci_msix_enabled(&n->pci))
                pci_msix_send(&n->pci, cq->vector);
        else
                nvme_update_intx(n);
}

/* ---- completions ---- */

static bool cq_full(const struct nvme_cq *cq)
{
        return (cq->tail + 1) % cq->size == cq->head;
}

/* Writes an entry into a queue that has room (figure 122). */
static void cq_write(struct nvme *n, u16 cqid, u16 sqid, u16 cid, u16 status, u32 result)
{
        struct nvme_cq *cq = &n->cq[cqid];
        const u64 gpa = cq->base + (u64)cq->tail * CQE_BYTES;
        u32 *entry = guest_memory_dma(n->env->memory, gpa, CQE_BYTES);

        if (!entry || !pci_bus_master(&n->pci)) {
                nvme_fatal(n);
                return;
        }
        entry[0] = result;
        entry[1] = 0;
        entry[2] = n->sq[sqid].head | (u32)sqid << 16;
        /* The phase bit is what the guest polls, so it comes last. */
        __atomic_store_n(&entry[3], cid | (u32)cq->phase << 16 | (u32)status << 17, __ATOMIC_RELEASE);
        guest_memory_written(n->env->memory, gpa, CQE_BYTES);
        trace(NVME_COMPLETE, sqid, cid, status);
        if (++cq->tail == cq->size) {
                cq->tail = 0;
                cq->phase = !cq->phase;
        }
        interrupt(n, cq);
}

/* The last command of a queue that is being deleted has ended. */
static void sq_check_deleted(struct nvme *n, struct nvme_sq *sq)
{
        struct nvme_command *deleter = sq->deleter;

        if (!deleter || sq->in_flight > 0)
                return;
        *sq = (struct nvme_sq){ 0 };
        nvme_complete(deleter, NVME_OK);
}

static void finish(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;
        struct nvme_sq *sq = &n->sq[cmd->sqid];

        cq_write(n, sq->cqid, cmd->sqid, cmd->sqe.cid, cmd->status, cmd->result);
        sq->in_flight--;
        nvme_command_free(cmd);
        sq_check_deleted(n, sq);
}

void nvme_complete(struct nvme_command *cmd, int status)
{
        struct nvme *n = cmd->nvme;
        struct nvme_sq *sq = &n->sq[cmd->sqid];
        struct nvme_cq *cq = &n->cq[sq->cqid];

        if (cmd->generation != n->generation || !sq->exists || !cq->exists) {
                nvme_command_free(cmd);
                nvme_check_drained(n);
                return;
        }
        cmd->status = (u16)status;
        if (status != NVME_OK && status != NVME_INTERNAL_ERROR)
                cmd->status |= NVME_DO_NOT_RETRY;
        if (sq->deleting && cq_full(cq)) { /* nobody may wait for it any more */
                sq->in_flight--;
                nvme_command_free(cmd);
                sq_check_deleted(n, sq);
        } else if (cq->waiting || cq_full(cq)) {
                cmd->next = NULL;
                *cq->waiting_tail = cmd;
                cq->waiting_tail = &cmd->next;
        } else {
                finish(cmd);
        }
}

void nvme_complete_event(struct nvme *n, u16 cid, u32 result)
{
        cq_write(n, 0, 0, cid, NVME_OK, result);
}

static struct nvme_command *pop_waiting(struct nvme_cq *cq)
{
        struct nvme_command *cmd = cq->waiting;

        cq->waiting = cmd->next;
        if (!cq->waiting)
                cq->waiting_tail = &cq->waiting;
        return cmd;
}

static void cq_flush_waiting(struct nvme *n, struct nvme_cq *cq)
{
        while (cq->exists && cq->waiting && !cq_full(cq) && nvme_running(n))
                finish(pop_waiting(cq));
}

/* Completions of queue @qid that wait for room are given up. */
static void drop_waiting(struct nvme *n, u16 qid)
{
        struct nvme_cq *cq = &n->cq[n->sq[qid].cqid];
        struct nvme_command *cmd, *next, *list = cq->waiting;

        cq->waiting = NULL;
        cq->waiting_tail = &cq->waiting;
        for (cmd = list; cmd; cmd = next) {
                next = cmd->next;
                cmd->next = NULL;
                if (cmd->sqid == qid) {
                        n->sq[qid].in_flight--;
                        nvme_command_free(cmd);
                } else {
                        *cq->waiting_tail = cmd;
                        cq->waiting_tail = &cmd->next;
                }
        }
}

void nvme_delete_sq_start(struct nvme_command *cmd, u16 qid)
{
        struct nvme *n = cmd->nvme;

        n->sq[qid].deleting = true;
        n->sq[qid].deleter = cmd;
        drop_waiting(n, qid);
        sq_check_deleted(n, &n->sq[qid]);
}

/* ---- submission ---- */

static void parse_sqe(const u8 *raw, struct nvme_sqe *ret)
{
        *ret = (struct nvme_sqe){
                .opcode = raw[0],
                .flags = raw[1],
                .cid = (u16)get_le(raw + 2, 2),
                .nsid = (u32)get_le(raw + 4, 4),
                .prp1 = get_le(raw + 24, 8),
                .prp2 = get_le(raw + 32, 8),
                .cdw10 = (u32)get_le(raw + 40, 4),
                .cdw11 = (u32)get_le(raw + 44, 4),
                .cdw12 = (u32)get_le(raw + 48, 4),
        };
}

/* Fetches and starts one command. False when the queue has none that can be started now. */
static bool process_one(struct nvme *n, u16 qid)
{
        struct nvme_sq *sq = &n->sq[qid];
        struct nvme_command *cmd;
        u8 raw[SQE_BYTES];
        int status;

        if (!sq->exists || sq->deleting || sq->head == sq->tail)
                return false;
        cmd = command_alloc(n);
        if (!cmd) {
                n->starved = true;
                return false;
        }
        if (guest_memory_read(n->env->memory, sq->base + (u64)sq->head * SQE_BYTES, raw, sizeof(raw)) < 0) {
                nvme_command_free(cmd);
                nvme_fatal(n);
                return false;
        }
        parse_sqe(raw, &cmd->sqe);
        cmd->sqid = qid;
        cmd->generation = n->generation;
        cmd->result = 0;
        cmd->n_iov = 0;
        sq->head = (sq->head + 1) % sq->size;
        sq->in_flight++;
        trace(NVME_COMMAND, qid, cmd->sqe.opcode, cmd->sqe.cid, cmd->sqe.cdw10 | (u64)cmd->sqe.cdw11 << 32);
        status = qid == 0 ? nvme_admin_command(cmd) : nvme_io_command(cmd);
        if (status != NVME_PENDING)
                nvme_complete(cmd, status);
        return true;
}

void nvme_process(struct nvme *n)
{
        unsigned idle = 0;

        block_plug(n->disk);
        n->starved = false;
        /* Ends: each round takes an entry that the guest published before, and doorbells are not rung meanwhile. */
        while (idle < NVME_QUEUES && !n->starved && !n->paused && nvme_running(n) && pci_bus_master(&n->pci)) {
                const unsigned qid = n->next_sq;

                n->next_sq = (qid + 1) % NVME_QUEUES;
                idle = process_one(n, (u16)qid) ? 0 : idle + 1;
        }
        block_unplug(n->disk);
}

void nvme_doorbell(struct nvme *n, u32 index, u32 value)
{
        const u32 qid = index / 2;
        const bool is_cq = index & 1;

        if (!nvme_running(n))
                return;
        if (qid >= NVME_QUEUES || !(is_cq ? n->cq[qid].exists : n->sq[qid].exists)) {
                nvme_error_event(n, 0); /* invalid doorbell register */
                return;
        }
        if (value >= (is_cq ? n->cq[qid].size : n->sq[qid].size)) {
                nvme_error_event(n, 1); /* invalid doorbell value */
                return;
        }
        if (is_cq) {
                n->cq[qid].head = value;
                cq_flush_waiting(n, &n->cq[qid]);
                nvme_update_intx(n);
        } else {
                n->sq[qid].tail = value;
        }
        if (!is_cq || n->starved)
                nvme_process(n);
}

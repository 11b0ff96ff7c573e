#include "state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

struct saved_completion {
        u16 cqid, sqid, cid, status;
        u32 result;
};

struct nvme_saved {
        struct pci_state pci;
        u32 cc, csts, aqa, intms;
        u64 asq, acq;
        u32 features[FEATURE_COUNT];
        u16 event_cid[NVME_EVENTS];
        u32 n_event_cids;
        bool error_event_masked, error_event_pending;
        u8 error_event;
        struct nvme_sq sq[NVME_QUEUES];
        struct nvme_cq cq[NVME_QUEUES];
        u32 n_waiting;
        struct saved_completion waiting[NVME_COMMANDS];
};

static void write_waiting(struct nvme *n, struct state_out *out)
{
        u32 count = 0;

        for (unsigned i = 0; i < NVME_QUEUES; i++)
                for (const struct nvme_command *cmd = n->cq[i].waiting; cmd; cmd = cmd->next)
                        count++;
        state_put_u32(out, count);
        for (u16 i = 0; i < NVME_QUEUES; i++) {
                for (const struct nvme_command *cmd = n->cq[i].waiting; cmd; cmd = cmd->next) {
                        state_put_u16(out, i);
                        state_put_u16(out, cmd->sqid);
                        state_put_u16(out, cmd->sqe.cid);
                        state_put_u16(out, cmd->status);
                        state_put_u32(out, cmd->result);
                }
        }
}

void nvme_saved_write(struct nvme *n, struct state_out *out)
{
        pci_device_save(&n->pci, out);
        state_put_u32(out, n->cc);
        state_put_u32(out, n->csts);
        state_put_u32(out, n->aqa);
        state_put_u32(out, n->intms);
        state_put_u64(out, n->asq);
        state_put_u64(out, n->acq);
        for (unsigned i = 0; i < FEATURE_COUNT; i++)
                state_put_u32(out, n->features[i]);
        state_put_u32(out, n->n_event_cids);
        for (unsigned i = 0; i < NVME_EVENTS; i++)
                state_put_u16(out, i < n->n_event_cids ? n->event_cid[i] : 0);
        state_put_bool(out, n->error_event_masked);
        state_put_bool(out, n->error_event_pending);
        state_put_u8(out, n->error_event);
        for (unsigned i = 0; i < NVME_QUEUES; i++) {
                const struct nvme_sq *sq = &n->sq[i];
                const struct nvme_cq *cq = &n->cq[i];

                state_put_bool(out, sq->exists);
                state_put_u16(out, sq->cqid);
                state_put_u32(out, sq->size);
                state_put_u32(out, sq->head);
                state_put_u32(out, sq->tail);
                state_put_u64(out, sq->base);
                state_put_bool(out, cq->exists);
                state_put_bool(out, cq->interrupts);
                state_put_bool(out, cq->phase);
                state_put_u16(out, cq->vector);
                state_put_u32(out, cq->size);
                state_put_u32(out, cq->head);
                state_put_u32(out, cq->tail);
                state_put_u64(out, cq->base);
        }
        write_waiting(n, out);
}

static void read_queues(struct nvme_saved *s, struct state_in *in)
{
        for (unsigned i = 0; i < NVME_QUEUES; i++) {
                struct nvme_sq *sq = &s->sq[i];
                struct nvme_cq *cq = &s->cq[i];

                sq->exists = state_get_bool(in);
                sq->cqid = state_get_u16(in);
                sq->size = state_get_u32(in);
                sq->head = state_get_u32(in);
                sq->tail = state_get_u32(in);
                sq->base = state_get_u64(in);
                cq->exists = state_get_bool(in);
                cq->interrupts = state_get_bool(in);
                cq->phase = state_get_bool(in);
                cq->vector = state_get_u16(in);
                cq->size = state_get_u32(in);
                cq->head = state_get_u32(in);
                cq->tail = state_get_u32(in);
                cq->base = state_get_u64(in);
        }
        s->n_waiting = state_get_u32(in);
        for (unsigned i = 0; i < MIN(s->n_waiting, NVME_COMMANDS); i++) {
                struct saved_completion *w = &s->waiting[i];

                w->cqid = state_get_u16(in);
                w->sqid = state_get_u16(in);
                w->cid = state_get_u16(in);
                w->status = state_get_u16(in);
                w->result = state_get_u32(in);
        }
}

/* The admin queues may have up to 4096 entries. */
static bool ring_valid(u64 base, u32 size, u32 head, u32 tail)
{
        return base % NVME_PAGE == 0 && size >= 2 && size <= 4096 && head < size && tail < size;
}

static bool queues_valid(const struct nvme_saved *s)
{
        for (unsigned i = 0; i < NVME_QUEUES; i++) {
                const struct nvme_sq *sq = &s->sq[i];
                const struct nvme_cq *cq = &s->cq[i];

                if (cq->exists && (!ring_valid(cq->base, cq->size, cq->head, cq->tail) || cq->vector >= NVME_QUEUES))
                        return false;
                if (sq->exists && (!ring_valid(sq->base, sq->size, sq->head, sq->tail) || sq->cqid >= NVME_QUEUES ||
                                   !s->cq[sq->cqid].exists || (sq->cqid == 0) != (i == 0)))
                        return false;
        }
        for (unsigned i = 0; i < s->n_waiting; i++) {
                const struct saved_completion *w = &s->waiting[i];

                if (w->sqid >= NVME_QUEUES || !s->sq[w->sqid].exists || s->sq[w->sqid].cqid != w->cqid || w->status >= 1 << 15)
                        return false;
        }
        return true;
}

static bool saved_valid(const struct nvme_saved *s)
{
        const bool ready = s->csts & CSTS_READY;

        return s->n_event_cids <= NVME_EVENTS && s->n_waiting <= NVME_COMMANDS && !(s->csts & ~0xfU) &&
               s->asq % NVME_PAGE == 0 && s->acq % NVME_PAGE == 0 && ready == s->sq[0].exists && ready == s->cq[0].exists &&
               queues_valid(s);
}

int nvme_saved_read(struct nvme *n, struct state_in *in, struct nvme_saved **ret, struct err **err)
{
        _cleanup_free_ struct nvme_saved *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to load an NVMe controller");
        r = pci_state_read(&n->pci, in, &s->pci, err);
        if (r < 0)
                return r;
        s->cc = state_get_u32(in);
        s->csts = state_get_u32(in);
        s->aqa = state_get_u32(in);
        s->intms = state_get_u32(in);
        s->asq = state_get_u64(in);
        s->acq = state_get_u64(in);
        for (unsigned i = 0; i < FEATURE_COUNT; i++)
                s->features[i] = state_get_u32(in);
        s->n_event_cids = state_get_u32(in);
        for (unsigned i = 0; i < NVME_EVENTS; i++)
                s->event_cid[i] = state_get_u16(in);
        s->error_event_masked = state_get_bool(in);
        s->error_event_pending = state_get_bool(in);
        s->error_event = state_get_u8(in);
        read_queues(s, in);
        if (state_in_error(in) || !saved_valid(s))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved state of an NVMe controller is damaged");
        *ret = TAKE_PTR(s);
        return 0;
}

static void apply_waiting(struct nvme *n, const struct saved_completion *w)
{
        struct nvme_command *cmd = n->free;
        struct nvme_cq *cq = &n->cq[w->cqid];

        n->free = cmd->next;
        n->in_flight++;
        n->sq[w->sqid].in_flight++;
        cmd->next = NULL;
        cmd->sqe = (struct nvme_sqe){ .cid = w->cid };
        cmd->sqid = w->sqid;
        cmd->status = w->status;
        cmd->result = w->result;
        cmd->generation = n->generation;
        *cq->waiting_tail = cmd;
        cq->waiting_tail = &cmd->next;
}

void nvme_saved_apply(struct nvme *n, struct nvme_saved *s)
{
        pci_state_apply(&n->pci, &s->pci);
        n->cc = s->cc;
        n->csts = s->csts;
        n->aqa = s->aqa;
        n->intms = s->intms;
        n->asq = s->asq;
        n->acq = s->acq;
        memcpy(n->features, s->features, sizeof(n->features));
        memcpy(n->event_cid, s->event_cid, sizeof(n->event_cid));
        n->n_event_cids = s->n_event_cids;
        n->error_event_masked = s->error_event_masked;
        n->error_event_pending = s->error_event_pending;
        n->error_event = s->error_event;
        memcpy(n->sq, s->sq, sizeof(n->sq));
        memcpy(n->cq, s->cq, sizeof(n->cq));
        for (unsigned i = 0; i < NVME_QUEUES; i++)
                n->cq[i].waiting_tail = &n->cq[i].waiting;
        for (unsigned i = 0; i < s->n_waiting; i++)
                apply_waiting(n, &s->waiting[i]);
        nvme_update_intx(n);
        free(s);
}

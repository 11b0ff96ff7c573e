/* Mailboxes between the vCPUs of a machine; the protocol is told in machine.h. */
#include <string.h>

#include "../translate/runtime.h"

static void post_written(struct mailbox *box, u64 gpa, u64 len)
{
        if (box->n_written < MAILBOX_SIZE) {
                box->written[box->n_written].gpa = gpa;
                box->written[box->n_written++].len = len;
        } else {
                box->all_written = true;
        }
        box->posted++;
}

static void post_drop_writes(struct mailbox *box, u64 page)
{
        if (box->n_drop < MAILBOX_SIZE)
                box->drop[box->n_drop++] = page;
        else
                box->drop_all = true;
        box->posted++;
}

void interp_code_written(void *machine, u64 gpa, u64 len)
{
        struct interp_machine *m = machine;
        /* Decoded blocks are dropped by chunk, so that nobody needs to know of those that are left. */
        const u64 start = ALIGN_DOWN(gpa, 1u << CODE_CHUNK_SHIFT), end = ALIGN_UP(gpa + len, 1u << CODE_CHUNK_SHIFT);
        u64 kept = 0;

        if (m->translator)
                kept = translator_code_written_begin(m->translator, gpa, len);
        pthread_mutex_lock(&m->lock);
        for (struct interp *in = m->members; in; in = in->mailbox->next) {
                post_written(in->mailbox, start, end - start);
                vcpu_post_work(in->vcpu, VCPU_WORK_MAILBOX);
        }
        guest_memory_unmark_code(m->memory, gpa, guest_memory_chunks(gpa, len) & ~kept);
        pthread_mutex_unlock(&m->lock);
        if (m->translator)
                translator_code_written_end(m->translator);
}

/* With the machine's lock held. */
static void drain_locked(struct interp *in)
{
        struct mailbox *box = in->mailbox;
        struct guest_memory *mem = in->vcpu->memory;

        if (box->all_written)
                code_drop_all(in);
        else
                for (unsigned i = 0; i < box->n_written; i++)
                        code_drop_range(in, box->written[i].gpa, box->written[i].len);
        if (box->drop_all)
                interp_flush_tlb(in);
        else
                for (unsigned i = 0; i < box->n_drop; i++)
                        tlb_drop_writes(&in->tlb, guest_memory_hva(mem, box->drop[i], PAGE_SIZE));
        box->n_written = box->n_drop = 0;
        box->all_written = box->drop_all = false;
        box->answered = box->posted;
        pthread_cond_broadcast(&in->machine->served);
}

void interp_mailbox_drain(struct interp *in)
{
        __atomic_fetch_and(&in->vcpu->work, ~VCPU_WORK_MAILBOX, __ATOMIC_ACQ_REL);
        pthread_mutex_lock(&in->machine->lock);
        drain_locked(in);
        pthread_mutex_unlock(&in->machine->lock);
}

static bool all_answered(const struct interp_machine *m, const struct interp *self)
{
        for (const struct interp *in = m->members; in; in = in->mailbox->next)
                if (in != self && in->mailbox->in_guest && in->mailbox->answered != in->mailbox->posted)
                        return false;
        return true;
}

bool interp_code_extend(struct interp *in, u64 gpa, u64 len)
{
        bool claimed;

        pthread_mutex_lock(&in->machine->lock);
        claimed = *guest_memory_flags(in->vcpu->memory, gpa) & PAGE_CODE;
        if (claimed)
                guest_memory_mark_code(in->vcpu->memory, gpa, len);
        pthread_mutex_unlock(&in->machine->lock);
        return claimed;
}

void interp_code_claim(struct interp *in, u64 gpa, u64 len)
{
        struct interp_machine *m = in->machine;
        const u64 page = gpa & PAGE_MASK;

        if (guest_memory_is_code(in->vcpu->memory, gpa, len))
                return;
        pthread_mutex_lock(&m->lock);
        if (guest_memory_mark_code(in->vcpu->memory, gpa, len)) {
                tlb_drop_writes(&in->tlb, guest_memory_hva(in->vcpu->memory, page, PAGE_SIZE));
                for (struct interp *other = m->members; other; other = other->mailbox->next) {
                        if (other == in)
                                continue;
                        post_drop_writes(other->mailbox, page);
                        vcpu_post_work(other->vcpu, VCPU_WORK_MAILBOX);
                }
                while (!all_answered(m, in)) {
                        /* Somebody may be waiting for us likewise. */
                        if (in->mailbox->answered != in->mailbox->posted)
                                drain_locked(in);
                        else
                                pthread_cond_wait(&m->served, &m->lock);
                }
        }
        pthread_mutex_unlock(&m->lock);
}

void interp_enter_guest(struct interp *in)
{
        pthread_mutex_lock(&in->machine->lock);
        in->mailbox->in_guest = true;
        drain_locked(in);
        pthread_mutex_unlock(&in->machine->lock);
}

void interp_leave_guest(struct interp *in)
{
        pthread_mutex_lock(&in->machine->lock);
        in->mailbox->in_guest = false;
        pthread_cond_broadcast(&in->machine->served);
        pthread_mutex_unlock(&in->machine->lock);
}

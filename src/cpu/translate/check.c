#include "check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "analyse.h"
#include "runtime.h"

#define NOTES_MAX 2048
#define NOTED_BYTES_MAX (64 * 1024u)
#define PLANS 65536u
#define IRQ_DISTANCE 20000u /* blocks */

/* Where the trial wrote. */
struct note {
        u8 *hva;
        u32 at;   /* of its bytes in old[] and new[] */
        u32 size;
};

struct trial {
        struct note notes[NOTES_MAX];
        u8 old[NOTED_BYTES_MAX], new[NOTED_BYTES_MAX];
        unsigned n_notes, n_bytes;
        bool overflow;
        bool deliver;   /* a page fault that ends it is delivered, too */
        bool delivered; /* so it was */
        jmp_buf outer;  /* in->unwind's */
};

/* Instructions decoded for the interpreter, whose blocks are shorter than the translator's may be. */
#define SEQUENCE_BLOCKS 8u
struct sequence {
        struct block *blocks[SEQUENCE_BLOCKS]; /* allocated when needed */
        unsigned n;
};

/* What is tried of a block: its first instructions, up to the first that the translator leaves to the interpreter anyway. */
struct plan {
        u64 gpa;
        u64 rip;
        u32 mode;
        u32 generation;    /* code_generation when it was decoded */
        u16 n_instructions, guest_bytes;
        bool fpu;          /* x87, MMX or SSE takes part */
        bool system;       /* an instruction changes more than registers and flags */
        bool open_end;     /* the translator goes on behind what is tried */
        bool any_of;       /* OF is undefined after ROL or ROR by an immediate, and depends on where the register is kept */
        u16 code_size;     /* of the whole block */
        u8 *code;
        struct sequence sequence;
};

struct check {
        struct trial trial, second;
        u8 kept[NOTED_BYTES_MAX];
        struct moment before, want, got, all;
        struct plan *plans[PLANS];
        struct sequence partial; /* the first instructions of a plan */
};

/* ---- notes of the interpreter's memory accesses (interp/memory.c) ---- */

void trial_end(struct interp *in, const struct uop *u)
{
        in->rip = u ? interp_uop_rip(in, u) : in->rip;
        longjmp(in->unwind, 1);
}

void trial_note_write(struct interp *in, const struct uop *u, void *hva, unsigned size)
{
        struct trial *trial = in->trial;
        struct note *note = &trial->notes[trial->n_notes];

        if (trial->n_notes == NOTES_MAX || trial->n_bytes + size > NOTED_BYTES_MAX) {
                trial->overflow = true;
                trial_end(in, u);
        }
        *note = (struct note){ .hva = hva, .at = trial->n_bytes, .size = size };
        memcpy(trial->old + note->at, hva, size);
        trial->n_notes++;
        trial->n_bytes += size;
}

/* Puts memory back as it was before the trial, newest note first, and keeps what the trial left there. */
static void undo_writes(struct trial *trial)
{
        for (unsigned i = 0; i < trial->n_notes; i++)
                memcpy(trial->new + trial->notes[i].at, trial->notes[i].hva, trial->notes[i].size);
        for (unsigned i = trial->n_notes; i-- > 0;)
                memcpy(trial->notes[i].hva, trial->old + trial->notes[i].at, trial->notes[i].size);
}

/* ---- moments ---- */

static void moment_save(struct interp *in, const struct plan *plan, bool system, struct moment *m)
{
        memcpy(m->regs, in->regs, sizeof(m->regs));
        m->rip = in->rip;
        m->rflags = in->rflags;
        m->flags = in->flags;
        memcpy(m->xsave, in->cpu->xsave, XSAVE_SIZE);
        if (plan->fpu)
                __asm__ volatile("fxsave64 %0" : "=m"(m->fpu));
        m->system = system;
        if (system)
                memcpy(&m->cpu, in->cpu, sizeof(m->cpu));
}

/* The address space of CR3 is current again, with what is held of it. */
static void space_restore(struct interp *in)
{
        const struct paging_state *paging = &in->cpu->paging;

        if (paging->cr4 & CR4_PCIDE)
                tlb_switch_pcid(&in->tlb, (u16)(paging->cr3 & 0xfff), true);
        else
                tlb_flush_context(&in->tlb);
}

static void moment_restore(struct interp *in, const struct plan *plan, const struct moment *m)
{
        memcpy(in->regs, m->regs, sizeof(m->regs));
        in->rip = m->rip;
        in->rflags = m->rflags;
        in->flags = m->flags;
        if (m->system) {
                const bool moved = in->cpu->paging.cr3 != m->cpu.paging.cr3;

                memcpy(in->cpu, &m->cpu, sizeof(m->cpu));
                if (moved)
                        space_restore(in);
        }
        if (plan->fpu) {
                memcpy(in->cpu->xsave, m->xsave, XSAVE_SIZE);
                __asm__ volatile("fxrstor64 %0" : : "m"(m->fpu));
        }
        interp_mode_changed(in);
}

/* FCW, FSW and tags; MXCSR; the registers. Between them lie the pointers. SDM 1, 10.5.1. */
static bool fpu_equal(const u8 *a, const u8 *b)
{
        if (memcmp(a, b, 5) != 0 || memcmp(a + 24, b + 24, 4) != 0)
                return false;
        for (unsigned i = 32; i < 160; i += 16)
                if (memcmp(a + i, b + i, 10) != 0)
                        return false;
        return true;
}

/* What differs, NULL when nothing does. */
static const char *moment_compare(const struct moment *a, const struct moment *b, const struct plan *plan)
{
        if (a->rip != b->rip)
                return "rip";
        if (memcmp(a->regs, b->regs, sizeof(a->regs)) != 0)
                return "general registers";
        if ((a->flags ^ b->flags) & (plan->any_of ? 0xff00 : 0xffff))
                return "arithmetic flags";
        if (a->rflags != b->rflags)
                return "flags";
        if (plan->fpu && !fpu_equal(a->fpu, b->fpu))
                return "x87 or MXCSR";
        if (memcmp(a->xsave, b->xsave, XSAVE_SIZE) != 0)
                return "vector registers";
        return a->system && b->system && memcmp(&a->cpu, &b->cpu, sizeof(a->cpu)) != 0 ? "system state" : NULL;
}

/* ---- plans ---- */

enum verdict {
        VERDICT_TRY,
        VERDICT_TRY_SYSTEM, /* it changes segments, privilege... and nothing that is not in struct cpu_state */
        VERDICT_END,        /* the translator leaves it to the interpreter */
        VERDICT_REFUSE,     /* two runs give two results, or the first cannot be undone */
};

static enum verdict judge(const struct insn *g)
{
        if (g->kind >= KIND_FORM)
                return VERDICT_END;
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_RDRAND:
        case ZYDIS_MNEMONIC_RDSEED:
        case ZYDIS_MNEMONIC_RDTSC:
        case ZYDIS_MNEMONIC_RDTSCP:
                return VERDICT_REFUSE;
        default:
                break;
        }
        if (g->kind == KIND_SYS || g->kind == KIND_SYS_END) /* flushes are no state: what was flushed once too often is filled again */
                return VERDICT_TRY_SYSTEM;
        return g->z.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED && g->kind != KIND_FLAG_BIT ? VERDICT_REFUSE : VERDICT_TRY;
}

static bool touches_fpu(const struct insn *g)
{
        if (g->vector || g->z.meta.isa_ext == ZYDIS_ISA_EXT_X87)
                return true;
        for (unsigned i = 0; i < g->z.operand_count; i++)
                if (g->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                    (ZydisRegisterGetClass(g->ops[i].reg.value) == ZYDIS_REGCLASS_MMX || g->ops[i].reg.value == ZYDIS_REGISTER_MXCSR))
                        return true;
        return false;
}

static void plan_measure(struct interp *in, const struct tblock *block, struct plan *plan)
{
        const struct translate_request req = {
                .rip = plan->rip, .gpa = block->gpa, .code = plan->code, .room = block->guest_bytes, .mode = block->mode, .no_chains = true,
                .has_extension = in->translate->translator->has_extension,
        };
        ZydisDecoder decoder;
        struct insn g;

        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        while (plan->n_instructions < block->n_instructions &&
               insn_analyse(&req, &decoder, plan->code + plan->guest_bytes, (unsigned)(block->guest_bytes - plan->guest_bytes), &g)) {
                const enum verdict verdict = judge(&g);

                plan->open_end = verdict == VERDICT_REFUSE;
                if (verdict >= VERDICT_END)
                        return;
                plan->system |= verdict == VERDICT_TRY_SYSTEM;
                plan->any_of |= (g.z.mnemonic == ZYDIS_MNEMONIC_ROL || g.z.mnemonic == ZYDIS_MNEMONIC_ROR) &&
                                g.ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
                plan->fpu |= touches_fpu(&g);
                plan->n_instructions++;
                plan->guest_bytes = (u16)(plan->guest_bytes + g.z.length);
        }
}

/* Decodes the first @n instructions of the plan's code. False: no memory. */
static bool sequence_decode(struct interp *in, const struct plan *plan, unsigned n, struct sequence *ret)
{
        unsigned done = 0, off = 0;

        for (ret->n = 0; done < n && ret->n < SEQUENCE_BLOCKS; ret->n++) {
                const unsigned max = MIN(n - done, BLOCK_GUEST_MAX);
                struct block *block = realloc(ret->blocks[ret->n], sizeof(struct block) + (max + 1) * sizeof(struct uop));
                unsigned bytes;

                if (!block)
                        return false;
                ret->blocks[ret->n] = block;
                *block = (struct block){ .rip = plan->rip + off, .mode = in->mode };
                block->n_uops = (u16)decode_block(in, block->rip, plan->code + off, plan->guest_bytes - off, true, block->uops,
                                                  max, &bytes);
                block->bytes = (u16)bytes;
                if (!block->n_uops)
                        break;
                done += block->n_uops;
                off += bytes;
        }
        return true;
}

static struct plan *plan_free(struct plan *plan)
{
        if (plan) {
                for (unsigned i = 0; i < SEQUENCE_BLOCKS; i++)
                        free(plan->sequence.blocks[i]);
                free(plan->code);
                free(plan);
        }
        return NULL;
}

/* A plan for @block, whose bytes are at @code, without its sequence. NULL: no memory. */
static struct plan *plan_new(struct interp *in, const struct tblock *block, const u8 *code)
{
        struct plan *plan = calloc(1, sizeof(*plan));

        if (!plan)
                return NULL;
        plan->code = malloc(block->guest_bytes);
        if (!plan->code)
                return plan_free(plan);
        memcpy(plan->code, code, block->guest_bytes);
        plan->code_size = block->guest_bytes;
        plan->gpa = block->gpa;
        plan->rip = in->rip;
        plan->mode = block->mode;
        plan_measure(in, block, plan);
        return plan;
}

/* The plan for @block here and now, NULL when there is no memory for it or nothing to try. */
static struct plan *plan_find(struct interp *in, struct check *check, const struct tblock *block)
{
        const u8 *code = guest_memory_hva(in->vcpu->memory, block->gpa, block->guest_bytes);
        struct plan **slot = &check->plans[(block->gpa ^ block->gpa >> 16 ^ in->rip >> 20 ^ block->mode) % PLANS];
        struct plan *plan = *slot;

        if (!code)
                return NULL;
        if (!plan || plan->gpa != block->gpa || plan->rip != in->rip || plan->mode != block->mode ||
            plan->code_size != block->guest_bytes || memcmp(plan->code, code, block->guest_bytes) != 0) {
                plan_free(plan);
                plan = *slot = plan_new(in, block, code);
        }
        if (!plan || !plan->n_instructions)
                return NULL;
        if (plan->sequence.n && plan->generation == in->code_generation)
                return plan;
        plan->generation = in->code_generation;
        return sequence_decode(in, plan, plan->n_instructions, &plan->sequence) ? plan : NULL;
}

/* ---- trials ---- */

/* The interpreter's own bookkeeping, which a trial must not disturb. */
struct bookkeeping {
        u64 instructions, pending_dr6;
        u32 pauses;
        bool irq_waiting;
        struct block *block;
};

/* A page fault, which translated code may deliver itself. When that cannot be done here, nothing of it counts: it is done again by the interpreter. */
static bool try_delivery(struct interp *in, struct trial *trial)
{
        if (in->event.kind != EVENT_FAULT || in->event.vector != EXC_PF)
                return false;
        if (setjmp(in->unwind)) {
                in->delivering = false;
                trial->overflow = true;
                return false;
        }
        interp_deliver(in);
        return true;
}

/* Runs them in the interpreter from in's present state, to their end or the first instruction that faults or cannot be undone. */
static void trial_run(struct interp *in, struct trial *trial, const struct sequence *sequence)
{
        static const struct tlb_entry nothing[TLB_SIZE] = { { .base = { PAGE_SIZE, PAGE_SIZE, PAGE_SIZE } } };
        const struct bookkeeping kept = { in->instructions, in->pending_dr6, in->pauses, in->irq_waiting, in->block };

        trial->n_notes = trial->n_bytes = 0;
        trial->overflow = trial->delivered = false;
        memcpy(&trial->outer, &in->unwind, sizeof(trial->outer));
        in->trial = trial;
        in->tlb_entries = nothing;
        in->key = NO_KEY;
        if (!setjmp(in->unwind)) {
                for (unsigned i = 0; i < sequence->n && in->rip == sequence->blocks[i]->rip; i++)
                        interp_run_block(in, sequence->blocks[i]);
        } else if (in->has_event) {
                in->rip = in->event.rip;
                trial->delivered = trial->deliver && try_delivery(in, trial);
        }
        memcpy(&in->unwind, &trial->outer, sizeof(trial->outer));
        in->trial = NULL;
        in->has_event = in->halted_now = in->no_step_trap = in->block_stale = false;
        in->instructions = kept.instructions;
        in->pending_dr6 = kept.pending_dr6;
        in->pauses = kept.pauses;
        in->irq_waiting = kept.irq_waiting;
        in->block = kept.block;
        /* Said by a flush, for who runs translated code. There is none between this and the next look at what is to be done. */
        __atomic_store_n(&in->kicked, 0, __ATOMIC_RELAXED);
}

/* The interpreter's outcome of the whole plan, in check->want and check->trial.new; everything else is as before. False: too much for the notes. */
static bool try_plan(struct interp *in, struct check *check, const struct plan *plan)
{
        moment_save(in, plan, true, &check->before);
        trial_run(in, &check->trial, &plan->sequence);
        moment_save(in, plan, plan->system || check->trial.delivered, &check->want);
        undo_writes(&check->trial);
        moment_restore(in, plan, &check->before);
        return !check->trial.overflow;
}

/* ---- comparison ---- */

/* The first byte that the trial wrote and that is not in memory as @wanted has it. */
static bool memory_differs(const struct trial *trial, struct guest_memory *mem, const u8 *wanted, struct check_report *report)
{
        for (unsigned i = 0; i < trial->n_notes; i++) {
                const struct note *note = &trial->notes[i];

                for (unsigned j = 0; j < note->size; j++) {
                        if (note->hva[j] == wanted[note->at + j])
                                continue;
                        report->gpa = guest_memory_gpa(mem, note->hva + j);
                        report->memory_want = wanted[note->at + j];
                        report->memory_got = note->hva[j];
                        return true;
                }
        }
        return false;
}

/* The plan's instruction that begins at @rip, NULL when none does; *ret_n of them come before it. */
static const struct uop *instruction_at(const struct plan *plan, u64 rip, unsigned *ret_n)
{
        const struct sequence *sequence = &plan->sequence;

        *ret_n = 0;
        for (unsigned i = 0; i < sequence->n; i++)
                for (unsigned j = 0; j < sequence->blocks[i]->n_uops; j++, ++*ret_n)
                        if (sequence->blocks[i]->rip + sequence->blocks[i]->uops[j].off == rip)
                                return &sequence->blocks[i]->uops[j];
        return NULL;
}

/* A REP, @u, that was left in the middle: the interpreter does as many iterations as the translated code did. */
static void try_iterations(struct interp *in, struct check *check, const struct plan *plan, const struct uop *u)
{
        const u64 before = in->regs[RCX], left = check->got.regs[RCX], rip = in->rip;
        const struct plan rest = { .rip = rip, .guest_bytes = u->len, .code = plan->code + (rip - plan->rip) };

        if (!(u->flags & (UOP_REP | UOP_REPNE)) || left >= before)
                return;
        sequence_decode(in, &rest, 1, &check->partial);
        in->regs[RCX] = before - left;
        trial_run(in, &check->second, &check->partial);
        if (in->regs[RCX] == 0) {
                in->regs[RCX] = left;
                in->rip = rip;
        }
}

/* The translated block stopped elsewhere than the trial. Compares with the interpreter at that very instruction. */
static const char *compare_early(struct interp *in, struct check *check, const struct plan *plan, struct check_report *report)
{
        struct trial *trial = &check->trial;
        const struct uop *u;
        const char *what;
        unsigned n;

        u = instruction_at(plan, check->got.rip, &n);
        if (!u)
                return "rip";
        for (unsigned i = 0; i < trial->n_notes; i++)
                memcpy(check->kept + trial->notes[i].at, trial->notes[i].hva, trial->notes[i].size);
        for (unsigned i = trial->n_notes; i-- > 0;)
                memcpy(trial->notes[i].hva, trial->old + trial->notes[i].at, trial->notes[i].size);
        moment_restore(in, plan, &check->before);
        if (n > 0) {
                sequence_decode(in, plan, n, &check->partial);
                trial_run(in, &check->second, &check->partial);
        }
        if (in->rip == check->got.rip)
                try_iterations(in, check, plan, u);
        moment_save(in, plan, plan->system, &check->want);
        what = moment_compare(&check->want, &check->got, plan);
        /* Memory is as it should be now: keep that, put back what the translated block made of it. */
        for (unsigned i = 0; i < trial->n_notes; i++)
                memcpy(trial->new + trial->notes[i].at, trial->notes[i].hva, trial->notes[i].size);
        for (unsigned i = 0; i < trial->n_notes; i++)
                memcpy(trial->notes[i].hva, check->kept + trial->notes[i].at, trial->notes[i].size);
        moment_restore(in, plan, &check->got);
        if (!what && memory_differs(trial, in->vcpu->memory, trial->new, report))
                what = "memory";
        return what;
}

/* What differs between the interpreter's outcome and the translated block's, NULL when nothing does. */
static const char *compare(struct interp *in, struct check *check, const struct plan *plan, struct check_report *report)
{
        const char *what = moment_compare(&check->want, &check->got, plan);
        unsigned n;

        if (!what && !memory_differs(&check->trial, in->vcpu->memory, check->trial.new, report))
                return NULL;
        what = what ? what : "memory"; /* a CALL that faults has written, one that the translator leaves to the interpreter has not */
        /* Even when both are at the same instruction: a block that jumps back may have stopped there before. */
        if (!instruction_at(plan, check->got.rip, &n))
                return plan->open_end ? NULL : what;
        check->all = check->want;
        if (!compare_early(in, check, plan, report))
                return NULL;
        if (check->all.rip == check->got.rip) /* then that is the better comparison to show */
                check->want = check->all;
        return what;
}

bool check_run(struct interp *in, const struct tblock *block, void (*run)(struct interp *in, const struct tblock *block))
{
        struct check *check = in->translate->check;
        pthread_mutex_t *device_lock = in->vcpu->memory->mmio.lock;
        struct check_report report = { .block = block, .before = &check->before, .want = &check->want, .got = &check->got };
        struct plan *plan;
        bool tried;

        in->irq_wait -= in->irq_wait > 0;
        pthread_mutex_lock(device_lock);
        do {
                plan = plan_find(in, check, block);
                tried = plan && try_plan(in, check, plan);
                /* The interpreter forgot its code while it ran: again. */
        } while (plan && plan->generation != in->code_generation);
        run(in, block);
        if (!tried) {
                pthread_mutex_unlock(device_lock);
                counter_inc(&in->vcpu->counters, COUNTER_CHECKS_SKIPPED);
                return true;
        }
        moment_save(in, plan, true, &check->got);
        report.what = compare(in, check, plan, &report);
        pthread_mutex_unlock(device_lock);
        counter_inc(&in->vcpu->counters, COUNTER_BLOCKS_CHECKED);
        if (!report.what)
                return true;
        report.code = plan->code;
        check_report(&report);
        err_set(&in->vcpu->error, ERR_INTERNAL, EILSEQ, "translated code at 0x%lx differs from the interpreter in %s", plan->rip, report.what);
        return false;
}

/* ---- life ---- */

int check_new(struct interp *in, struct check **ret, struct err **err)
{
        struct check *check;

        check = aligned_alloc(_Alignof(struct check), sizeof(*check));
        if (!check)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for checking");
        memset(check, 0, sizeof(*check));
        check->trial.deliver = true;
        in->irq_distance = IRQ_DISTANCE;
        *ret = check;
        return 0;
}

struct check *check_free(struct check *check)
{
        if (check) {
                for (unsigned i = 0; i < PLANS; i++)
                        plan_free(check->plans[i]);
                for (unsigned i = 0; i < SEQUENCE_BLOCKS; i++)
                        free(check->partial.blocks[i]);
                free(check);
        }
        return NULL;
}

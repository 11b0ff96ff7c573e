/* The outer loop, and what connects the interpreter to struct cpu_engine. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../translate/runtime.h"
#include "machine.h"
#include "ops.h"

/* ---- raising ---- */

/* RIP of the instruction, and the instructions of its block that did not run. */
static u64 unwind_block(struct interp *in, const struct uop *u)
{
        if (!u)
                return in->rip;
        in->instructions -= (u64)(in->block->n_uops - (u - in->block->uops));
        return interp_uop_rip(in, u);
}

void interp_raise_event(struct interp *in, const struct pending_event *event)
{
        in->event = *event;
        in->has_event = true;
        longjmp(in->unwind, 1);
}

void interp_raise(struct interp *in, const struct uop *u, enum exception vector, s64 error)
{
        struct pending_event event = { .kind = EVENT_FAULT, .vector = (u8)vector };

        if (error != NO_ERROR_CODE) {
                event.has_error = true;
                event.error = (u32)error;
        }
        event.rip = unwind_block(in, u);
        if (vector == EXC_UD)
                trace(UNDEFINED_OPCODE, in->vcpu->index, event.rip);
        interp_raise_event(in, &event);
}

void interp_raise_pf(struct interp *in, const struct uop *u, u64 gva, u32 error)
{
        const struct pending_event event = {
                .kind = EVENT_FAULT, .vector = EXC_PF, .has_error = true, .error = error, .cr2 = gva,
                .rip = unwind_block(in, u),
        };

        interp_raise_event(in, &event);
}

const struct uop *interp_leave_block(struct interp *in, const struct uop *u)
{
        in->instructions -= (u64)(in->block->n_uops - (u - in->block->uops) - 1);
        in->block_stale = false;
        in->rip = interp_next_rip(in, u);
        return NULL;
}

const struct uop *interp_continue_at(struct interp *in, u64 rip)
{
        /* IRET may have unmasked an NMI that waits. */
        const bool nmi = in->cpu->nmi_pending && !in->cpu->nmi_masked;

        if (in->irq_waiting || nmi || in->block_stale || in->halted_now || in->debug_stop || in->block->mode & MODE_SINGLE) {
                in->rip = rip;
                return NULL;
        }
        JUMP(rip);
}

/* ---- what the fast paths depend on ---- */

/* What keeps blocks to one instruction: they are re-examined whenever the mode is recomputed. */
static bool needs_single(const struct interp *in)
{
        const struct cpu_state *cpu = in->cpu;
        const struct vcpu_debug *debug = &in->vcpu->debug;

        return in->rflags & RFLAGS_TF || cpu->dr[7] & 0xff || cpu->sti_shadow || cpu->mov_ss_shadow ||
               debug->single_step || debug->n_points;
}

static u32 compute_mode(const struct interp *in)
{
        const struct cpu_state *cpu = in->cpu;
        const struct paging_state *ps = &cpu->paging;
        u32 mode = 0;

        if (cpu_64bit(cpu))
                mode |= MODE_LONG64;
        if (ps->efer & EFER_LMA)
                mode |= MODE_LONG;
        if (cpu->seg[SEG_CS].attr & SEG_ATTR_DB)
                mode |= MODE_CODE32;
        if (cpu->seg[SEG_SS].attr & SEG_ATTR_DB)
                mode |= MODE_STACK32;
        if (in->rflags & RFLAGS_VM)
                mode |= MODE_VM86;
        else if (ps->cr0 & CR0_PE)
                mode |= MODE_PROTECTED;
        if (cpu->cpl)
                mode |= cpu->cpl == 3 ? MODE_USER : MODE_RING12;
        if (ps->cr0 & (CR0_EM | CR0_TS))
                mode |= MODE_NO_FPU;
        if (ps->cr0 & CR0_EM || !(ps->cr4 & CR4_OSFXSR))
                mode |= MODE_NO_SSE;
        if (ps->cr0 & CR0_TS)
                mode |= MODE_NM_SSE;
        if (!(ps->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & (XCR0_SSE | XCR0_AVX)) != (XCR0_SSE | XCR0_AVX))
                mode |= MODE_NO_AVX;
        if (needs_single(in))
                mode |= MODE_SINGLE;
        return mode;
}

void interp_mode_changed(struct interp *in)
{
        const struct cpu_state *cpu = in->cpu;

        in->mode = compute_mode(in);
        for (unsigned i = 0; i < SEG_COUNT; i++)
                in->seg_base[i] = in->mode & MODE_LONG64 && i != SEG_FS && i != SEG_GS ? 0 : cpu->seg[i].base;
        if (cpu->cpl == 3)
                interp_set_tlb_mode(in, TLB_USER);
        else
                interp_set_tlb_mode(in, in->rflags & RFLAGS_AC && cpu->paging.cr4 & CR4_SMAP ? TLB_KERNEL_AC : TLB_KERNEL);
        /* Jump-cache keys do not carry the code segment's base. */
        if (in->code_base != in->seg_base[SEG_CS]) {
                jump_cache_clear(in);
                in->code_base = in->seg_base[SEG_CS];
        }
        in->key = unlikely(in->trial) ? NO_KEY : in->mode | (cpu->cpl == 3 ? in->tlb.space : &in->tlb.kernel)->generation << MODE_BITS;
}

void interp_flush_tlb(struct interp *in)
{
        tlb_flush_all(&in->tlb);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_FLUSHES);
        trace(TLB_FLUSH, in->vcpu->index, 1, 0);
        interp_mode_changed(in);
}

void interp_flush_tlb_non_global(struct interp *in)
{
        tlb_flush_non_global(&in->tlb);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_FLUSHES);
        trace(TLB_FLUSH, in->vcpu->index, 1, 0);
        interp_mode_changed(in);
}

void interp_flush_tlb_context(struct interp *in)
{
        tlb_flush_context(&in->tlb);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_FLUSHES);
        trace(TLB_FLUSH, in->vcpu->index, 0, 0);
        interp_mode_changed(in);
}

void interp_switch_pcid(struct interp *in, u16 pcid, bool keep)
{
        tlb_switch_pcid(&in->tlb, pcid, keep);
        interp_mode_changed(in);
}

void interp_flush_tlb_page(struct interp *in, u64 gva)
{
        const unsigned first = jump_slot(gva & PAGE_MASK) & ~((1u << JUMP_CACHE_OFFSET_BITS) - 1);

        tlb_flush_page(&in->tlb, gva);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_PAGE_FLUSHES);
        trace(TLB_FLUSH, in->vcpu->index, 0, gva);
        /* All entries of one page share a group. */
        if (in->jump_cache_used)
                memset(&in->jump_cache[first], 0, sizeof(struct jump_entry) << JUMP_CACHE_OFFSET_BITS);
        interp_mode_changed(in);
}

/* ---- state in and out ---- */

static void state_load(struct interp *in)
{
        struct cpu_state *cpu = in->cpu;

        memcpy(in->regs, cpu->gpr, sizeof(cpu->gpr));
        in->regs[REG_ZERO] = 0;
        in->rip = cpu->rip;
        interp_set_rflags(in, cpu->rflags);
        in->irq_waiting = false;
        interp_mode_changed(in);
        host_fpu_enter(in);
}

static void state_store(struct interp *in)
{
        struct cpu_state *cpu = in->cpu;

        host_fpu_leave(in);
        memcpy(cpu->gpr, in->regs, sizeof(cpu->gpr));
        cpu->rip = in->rip;
        cpu->rflags = interp_rflags(in);
}

/* ---- the outer loop ---- */

static void deliver(struct interp *in, const struct pending_event *event)
{
        in->event = *event;
        in->has_event = true;
}

static void take_nmi(struct interp *in)
{
        const struct pending_event event = { .kind = EVENT_NMI, .vector = EXC_NMI, .rip = in->rip };

        in->cpu->nmi_pending = in->second_nmi;
        in->second_nmi = false;
        in->cpu->halted = false;
        deliver(in, &event);
}

/* Checking is slower than the guest's clock expects: were its interrupts not kept apart, ticks would take all the time there is. A few at a time, so
 * that no device starves behind the timer, then none for irq_distance blocks. */
static bool interrupts_wait(struct interp *in)
{
        enum { TOGETHER = 4 };

        if (likely(!in->irq_distance) || in->cpu->halted || in->halted_now)
                return false;
        if (!in->irq_left && in->irq_wait)
                return true;
        if (!in->irq_left) {
                in->irq_left = TOGETHER;
                in->irq_wait = in->irq_distance;
        }
        return false;
}

/* An external interrupt, if one is there and may be taken. */
static void try_interrupt(struct interp *in)
{
        const struct cpu_platform_ops *platform = in->vcpu->platform;
        int vector;

        if (interrupts_wait(in))
                return;
        if (!platform || !platform->irq_pending(in->vcpu->platform_opaque, in->vcpu)) {
                in->irq_waiting = false;
                return;
        }
        if (!(in->rflags & RFLAGS_IF) || in->cpu->sti_shadow || in->cpu->mov_ss_shadow) {
                in->irq_waiting = true;
                return;
        }
        vector = platform->irq_ack(in->vcpu->platform_opaque, in->vcpu);
        if (vector >= 0) {
                const struct pending_event event = { .kind = EVENT_EXTERNAL, .vector = (u8)vector, .rip = in->rip };

                in->cpu->halted = false;
                in->irq_left -= in->irq_left > 0;
                deliver(in, &event);
        }
        /* There may be another one behind it. */
        in->irq_waiting = platform->irq_pending(in->vcpu->platform_opaque, in->vcpu);
}

/* One NMI can be latched behind one that is being handled; of two that arrive before either is taken, none is lost. */
static void latch_nmis(struct interp *in)
{
        const u32 posted = __atomic_exchange_n(&in->vcpu->nmis_posted, 0, __ATOMIC_ACQ_REL);
        const u32 waiting = (u32)in->cpu->nmi_pending + in->second_nmi + posted;

        in->cpu->nmi_pending = waiting > 0;
        in->second_nmi = waiting > 1 && !in->cpu->nmi_masked;
}

/* Serves what other threads posted. True when run must return (*ret says why). */
static bool serve_work(struct interp *in, enum exit_reason *ret)
{
        struct vcpu *vcpu = in->vcpu;
        const u32 work = __atomic_exchange_n(&vcpu->work, 0, __ATOMIC_ACQ_REL);

        if (work & VCPU_WORK_MAILBOX)
                interp_mailbox_drain(in);
        if (work & VCPU_WORK_INIT)
                interp_init_signal(in);
        if (work & VCPU_WORK_SIPI && in->cpu->wait_for_sipi)
                interp_sipi(in, vcpu->platform->sipi_vector(vcpu->platform_opaque, vcpu));
        if (work & VCPU_WORK_NMI)
                latch_nmis(in);
        if (work & VCPU_WORK_IRQ)
                in->irq_waiting = true;
        if (work & VCPU_WORK_UNHALT)
                in->cpu->unhalted = true;
        if (work & VCPU_WORK_FLUSH_TLB)
                interp_flush_tlb(in);
        if (work & VCPU_WORK_STOP) {
                *ret = EXIT_KICKED;
                return true;
        }
        return false;
}

void interp_run_block(struct interp *in, struct block *block)
{
        in->block = block;
        in->block_stale = false;
        in->instructions += block->n_uops;
#if INTERP_THREADED
        block->uops[0].fn(in, block->uops);
#else
        for (const struct uop *u = block->uops; u;)
                u = u->fn(in, u);
#endif
}

/* One instruction with everything that can happen around it. */
static void single_step(struct interp *in)
{
        const bool tf = in->rflags & RFLAGS_TF, rf = in->rflags & RFLAGS_RF;
        const bool shadow = in->cpu->sti_shadow || in->cpu->mov_ss_shadow;

        if (interp_fetch_breakpoint(in)) {
                in->has_event = !in->debug_stop;
                return;
        }
        in->pending_dr6 = in->cpu->mov_ss_shadow ? in->pending_dr6 : 0;
        {
                struct block *block = code_lookup(in);

                /* The instruction that runs under a shadow ends it; one that opens a new shadow sets it again. */
                in->cpu->sti_shadow = in->cpu->mov_ss_shadow = false;
                if (rf)
                        in->rflags &= ~RFLAGS_RF;
                interp_run_block(in, block);
        }
        if (interp_step_trap(in, tf))
                in->has_event = true;
        if (shadow || rf || in->cpu->sti_shadow || in->cpu->mov_ss_shadow)
                interp_mode_changed(in);
}

/* Runs guest code until an exit. Faults come back to the setjmp: locals are not kept across it. */
static enum exit_reason loop(struct interp *in)
{
        struct vcpu *vcpu = in->vcpu;
        enum exit_reason reason;

        if (setjmp(in->unwind) && in->delivering)
                interp_escalate(in);
        for (;;) {
                if (in->triple_fault)
                        return EXIT_TRIPLE_FAULT;
                if (in->failed) {
                        in->failed = false;
                        return EXIT_FAILED;
                }
                if (in->has_event) {
                        in->has_event = false;
                        interp_deliver(in);
                        continue;
                }
                /* Before the look at work: a kick after that look is seen by who enters translated code. */
                if (__atomic_load_n(&in->kicked, __ATOMIC_RELAXED))
                        __atomic_exchange_n(&in->kicked, 0, __ATOMIC_SEQ_CST);
                if (__atomic_load_n(&vcpu->work, __ATOMIC_ACQUIRE) && serve_work(in, &reason))
                        return reason;
                if (in->debug_stop) {
                        in->debug_stop = false;
                        return EXIT_DEBUG;
                }
                if (in->cpu->wait_for_sipi)
                        return EXIT_HALTED;
                if (in->cpu->nmi_pending && !in->cpu->nmi_masked && !in->cpu->mov_ss_shadow && !in->cpu->sti_shadow)
                        take_nmi(in);
                else if (in->irq_waiting)
                        try_interrupt(in);
                if (in->has_event)
                        continue;
                if (in->halted_now || in->cpu->halted) {
                        in->halted_now = false;
                        in->cpu->halted = !in->cpu->unhalted;
                        in->cpu->unhalted = false;
                        if (in->cpu->halted)
                                return EXIT_HALTED;
                }
                if (in->translate && translate_step(in))
                        continue;
                if (in->mode & MODE_SINGLE)
                        single_step(in);
                else
                        interp_run_block(in, code_lookup(in));
        }
}

enum exit_reason interp_run(struct vcpu *vcpu)
{
        struct interp *in = interp_of(vcpu);
        enum exit_reason reason;
        u64 before;

        interp_enter_guest(in);
        state_load(in);
        in->irq_waiting = true;
        before = in->instructions;
        trace(VCPU_RUN, vcpu->index, in->rip);
        reason = loop(in);
        state_store(in);
        counter_add(&vcpu->counters, COUNTER_INSTRUCTIONS, in->instructions - before);
        exit_count(&vcpu->counters, reason);
        if (reason == EXIT_HALTED)
                counter_inc(&vcpu->counters, COUNTER_HALTS);
        trace(VCPU_EXIT, vcpu->index, reason, in->rip);
        interp_leave_guest(in);
        return reason;
}

/* ---- engine ---- */

static int interp_probe(unsigned *ret_caps, struct err **err)
{
        (void)ret_caps;
        (void)err;
        return 0;
}

int interp_machine_create(struct guest_memory *memory, unsigned n_vcpus, void **ret_machine, struct err **err)
{
        struct interp_machine *m = calloc(1, sizeof(*m));

        (void)n_vcpus;
        if (!m)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the interpreter");
        m->memory = memory;
        pthread_mutex_init(&m->lock, NULL);
        pthread_mutex_init(&m->bus_lock, NULL);
        pthread_cond_init(&m->served, NULL);
        memory->on_code_write = interp_code_written;
        memory->on_code_write_opaque = m;
        *ret_machine = m;
        return 0;
}

void interp_machine_destroy(void *machine)
{
        struct interp_machine *m = machine;

        if (!m)
                return;
        if (m->memory->on_code_write_opaque == m)
                m->memory->on_code_write = NULL;
        pthread_cond_destroy(&m->served);
        pthread_mutex_destroy(&m->bus_lock);
        pthread_mutex_destroy(&m->lock);
        free(m);
}

static void vcpu_part_free(struct interp *in)
{
        host_exec_free(in);
        code_cache_free(in->code);
        free(in->mailbox);
        munmap(in, sizeof(*in));
}

int interp_vcpu_create(struct vcpu *vcpu, struct err **err)
{
        /* The soft TLB in it is large and used sparsely: pages of its own, zeroed by the host when they are touched. */
        struct interp *in = mmap(NULL, sizeof(*in), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int r;

        if (in == MAP_FAILED)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a vCPU");
        in->vcpu = vcpu;
        in->cpu = &vcpu->state;
        in->machine = vcpu->engine_machine;
        in->mailbox = calloc(1, sizeof(*in->mailbox));
        r = in->mailbox ? code_cache_new(&in->code, err) : err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a vCPU");
        if (r == 0)
                r = host_exec_new(in, err);
        if (r < 0) {
                vcpu_part_free(in);
                return r;
        }
        tlb_init(&in->tlb);
        if (guest_memory_is_private(vcpu->memory)) /* it began as a snapshot, perhaps with many others */
                tlb_begin_small(&in->tlb);
        vcpu->engine_data = in;
        pthread_mutex_lock(&in->machine->lock);
        in->mailbox->next = in->machine->members;
        in->machine->members = in;
        pthread_mutex_unlock(&in->machine->lock);
        return 0;
}

void interp_vcpu_destroy(struct vcpu *vcpu)
{
        struct interp *in = interp_of(vcpu);
        struct interp **p;

        if (!in)
                return;
        pthread_mutex_lock(&in->machine->lock);
        for (p = &in->machine->members; *p && *p != in;)
                p = &(*p)->mailbox->next;
        if (*p)
                *p = in->mailbox->next;
        pthread_mutex_unlock(&in->machine->lock);
        vcpu_part_free(in);
        vcpu->engine_data = NULL;
}

/* Posting work is enough: it is looked at after every block. */
static void interp_kick(struct vcpu *vcpu)
{
        (void)vcpu;
}

void interp_state_changed(struct vcpu *vcpu)
{
        struct interp *in = interp_of(vcpu);

        in->has_event = in->delivering = in->triple_fault = in->halted_now = in->debug_stop = false;
        in->pending_dr6 = 0;
        tlb_flush_all(&in->tlb);
        jump_cache_clear(in);
}

const struct cpu_engine interp_engine = {
        .name = "interp",
        .description = "interpreter: every mode, on any host",
        .caps = ENGINE_CAP_ALL_MODES | ENGINE_CAP_SMP | ENGINE_CAP_DEBUG,
        .probe = interp_probe,
        .machine_create = interp_machine_create,
        .machine_destroy = interp_machine_destroy,
        .vcpu_create = interp_vcpu_create,
        .vcpu_destroy = interp_vcpu_destroy,
        .run = interp_run,
        .kick = interp_kick,
        .state_changed = interp_state_changed,
        .code_written = interp_code_written,
};

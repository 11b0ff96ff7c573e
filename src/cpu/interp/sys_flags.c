/* RFLAGS: CLI, STI, POPF, PUSHF, CLAC, STAC. SDM 2A-2B; 1, 3.4.3; 3A, 6.8.1. This CPU has neither VME nor PVI. */
#include "sys.h"

#include "cpu/cpuid_model.h"

static bool iopl_allows(const struct interp *in)
{
        return in->cpu->cpl <= bits(in->rflags, 13, 12);
}

/* Something may be waiting that only RFLAGS.IF or a shadow holds back. */
static bool interrupt_may_wait(const struct interp *in)
{
        return in->irq_waiting || __atomic_load_n(&in->vcpu->work, __ATOMIC_RELAXED);
}

/* CLI and STI are sensitive to IOPL in protected and virtual-8086 mode; in real mode the CPL is 0. */
const struct uop *sys_cli(struct interp *in, const struct uop *u)
{
        if (!iopl_allows(in))
                sys_gp0(in, u);
        in->rflags &= ~RFLAGS_IF;
        NEXT(u);
}

const struct uop *sys_sti(struct interp *in, const struct uop *u)
{
        if (!iopl_allows(in))
                sys_gp0(in, u);
        if (in->rflags & RFLAGS_IF)
                NEXT(u);
        in->rflags |= RFLAGS_IF;
        /* Interrupts are taken between blocks only: when none waits and the next instruction is in this block, the shadow is over before
         * anybody could see it. */
        if (!interrupt_may_wait(in) && !(in->mode & MODE_SINGLE) && u[1].fn != op_block_end)
                NEXT(u);
        in->cpu->sti_shadow = true;
        interp_mode_changed(in);
        return interp_leave_block(in, u);
}

/* The fast half of interp_mode_changed for AC in kernel code, since Linux brackets each user access with STAC and CLAC. */
static const struct uop *set_ac(struct interp *in, const struct uop *u, u64 ac)
{
        if (in->cpu->cpl != 0 || !cpuid_has(CPUID_SMAP))
                sys_ud(in, u);
        in->rflags = (in->rflags & ~RFLAGS_AC) | ac;
        interp_set_tlb_mode(in, ac && in->cpu->paging.cr4 & CR4_SMAP ? TLB_KERNEL_AC : TLB_KERNEL);
        NEXT(u);
}

const struct uop *sys_clac(struct interp *in, const struct uop *u)
{
        return set_ac(in, u, 0);
}

const struct uop *sys_stac(struct interp *in, const struct uop *u)
{
        return set_ac(in, u, RFLAGS_AC);
}

/* In virtual-8086 mode both need IOPL 3. SDM 3A, 20.2.7. */
static void check_vm86(struct interp *in, const struct uop *u)
{
        if (sys_vm86(in) && (in->rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
                sys_gp0(in, u);
}

SYS_BODY void push_flags(struct interp *in, const struct uop *u)
{
        struct sys_stack st = sys_stack_current(in);

        check_vm86(in, u);
        sys_stack_push(in, u, &st, interp_rflags(in) & ~(RFLAGS_VM | RFLAGS_RF), u->size);
        sys_stack_commit(in, &st);
}

const struct uop *sys_pushf(struct interp *in, const struct uop *u)
{
        push_flags(in, u);
        SLOW_NEXT(u);
}

/* Returns the bits that changed. */
SYS_BODY u64 pop_flags(struct interp *in, const struct uop *u)
{
        struct sys_stack st = sys_stack_current(in);
        const u64 old = interp_rflags(in);
        u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT, value;

        check_vm86(in, u);
        if (u->size > 2)
                mask |= RFLAGS_AC | RFLAGS_ID | RFLAGS_RF;
        if (iopl_allows(in))
                mask |= RFLAGS_IF;
        if (in->cpu->cpl == 0)
                mask |= RFLAGS_IOPL;
        value = sys_stack_pop(in, u, &st, u->size) & ~RFLAGS_RF;
        sys_stack_commit(in, &st);
        interp_set_rflags(in, (old & ~mask) | (value & mask));
        return old ^ interp_rflags(in);
}

const struct uop *sys_popf(struct interp *in, const struct uop *u)
{
        const u64 changed = pop_flags(in, u);

        if (changed & (RFLAGS_TF | RFLAGS_AC)) {
                interp_mode_changed(in);
                return interp_leave_block(in, u);
        }
        if ((changed & in->rflags & RFLAGS_IF) && interrupt_may_wait(in))
                return interp_leave_block(in, u);
        NEXT(u);
}

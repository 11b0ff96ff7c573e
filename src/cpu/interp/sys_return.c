/* Far RET and IRET. SDM 2B, RET; SDM 2A, IRET/IRETD/IRETQ. */
#include "sys.h"

struct far_return {
        u64 rip, rflags, sp;
        u16 cs, ss;
        unsigned size;
        bool has_stack;  /* RSP and SS are popped too */
        struct descriptor cs_desc, ss_desc;
        bool ss_null;
};

/* ---- checks shared by both ---- */

static void check_cs(struct interp *in, const struct uop *u, struct far_return *r)
{
        const unsigned rpl = r->cs & 3;
        struct descriptor *d = &r->cs_desc;

        if (selector_is_null(r->cs))
                sys_gp0(in, u);
        if (!sys_fetch_descriptor(in, u, r->cs, 8, d) || !desc_is_code(d->attr) || rpl < in->cpu->cpl)
                sys_fault(in, u, EXC_GP, r->cs);
        if (cpu_long_mode(in->cpu) && (d->attr & SEG_ATTR_L) && (d->attr & SEG_ATTR_DB))
                sys_fault(in, u, EXC_GP, r->cs);
        if (desc_is_conforming(d->attr) ? desc_dpl(d->attr) > rpl : desc_dpl(d->attr) != rpl)
                sys_fault(in, u, EXC_GP, r->cs);
        if (!desc_present(d->attr))
                sys_fault(in, u, EXC_NP, r->cs);
}

static void check_ss(struct interp *in, const struct uop *u, struct far_return *r)
{
        const unsigned rpl = r->cs & 3;
        const bool to_long64 = cpu_long_mode(in->cpu) && (r->cs_desc.attr & SEG_ATTR_L);

        r->ss_null = selector_is_null(r->ss);
        if (r->ss_null) {
                if (!to_long64 || rpl == 3 || (r->ss & 3u) != rpl)
                        sys_gp0(in, u);
                return;
        }
        if (!sys_fetch_descriptor(in, u, r->ss, 8, &r->ss_desc))
                sys_fault(in, u, EXC_GP, r->ss);
        sys_check_stack_segment(in, u, &r->ss_desc, rpl, EXC_GP);
}

/* Everything was checked but the entry point. @release: bytes of parameters on the outer stack. */
static void enter(struct interp *in, const struct uop *u, struct far_return *r, u64 release)
{
        struct cpu_state *cpu = in->cpu;
        const unsigned rpl = r->cs & 3, old_cpl = cpu->cpl;
        struct seg cs = sys_seg_from(&r->cs_desc, r->cs), ss;
        struct sys_stack st;

        sys_check_rip(in, u, &cs, r->rip);
        sys_mark_accessed(in, u, &r->cs_desc);
        cs.attr = r->cs_desc.attr;
        if (r->has_stack && r->ss_null) {
                ss = (struct seg){ .selector = r->ss, .attr = (u16)(rpl << 5), .unusable = true };
        } else if (r->has_stack) {
                sys_mark_accessed(in, u, &r->ss_desc);
                ss = sys_seg_from(&r->ss_desc, r->ss);
        }
        cpu->seg[SEG_CS] = cs;
        cpu->cpl = (u8)rpl;
        if (r->has_stack) {
                cpu->seg[SEG_SS] = ss;
                st = sys_stack_make(&ss, r->sp + release, rpl, sys_cs_is_long(in, &cs));
                sys_stack_commit(in, &st);
        }
        if (rpl > old_cpl)
                sys_drop_inner_segments(in);
        in->rip = r->rip;
}

/* ---- far RET ---- */

SYS_BODY void ret_real(struct interp *in, const struct uop *u)
{
        struct cpu_state *cpu = in->cpu;
        struct sys_stack st = sys_stack_current(in);
        const u64 rip = sys_stack_pop(in, u, &st, u->size);
        const u16 cs = (u16)sys_stack_pop(in, u, &st, u->size);

        sys_check_rip(in, u, &cpu->seg[SEG_CS], rip);
        st.sp = (st.sp + u->imm) & st.mask;
        sys_stack_commit(in, &st);
        sys_seg_real(&cpu->seg[SEG_CS], cs, sys_vm86(in));
        in->rip = rip;
}

SYS_BODY void ret_protected(struct interp *in, const struct uop *u)
{
        struct sys_stack st = sys_stack_current(in);
        struct far_return r = { .size = u->size };

        r.rip = sys_stack_pop(in, u, &st, r.size);
        r.cs = (u16)sys_stack_pop(in, u, &st, r.size);
        check_cs(in, u, &r);
        st.sp = (st.sp + u->imm) & st.mask;
        if ((r.cs & 3u) > in->cpu->cpl) {
                r.sp = sys_stack_pop(in, u, &st, r.size);
                r.ss = (u16)sys_stack_pop(in, u, &st, r.size);
                r.has_stack = true;
                check_ss(in, u, &r);
        }
        enter(in, u, &r, u->imm);
        if (!r.has_stack)
                sys_stack_commit(in, &st);
}

const struct uop *sys_ret_far(struct interp *in, const struct uop *u)
{
        if (in->mode & MODE_PROTECTED)
                ret_protected(in, u);
        else
                ret_real(in, u);
        interp_mode_changed(in);
        return interp_continue_at(in, in->rip);
}

/* ---- IRET ---- */

/* Bits that an IRET of @size bytes at @cpl may change. SDM 2A, IRET; 1, table 3-... and 3A, 2.3. */
static u64 iret_flags_mask(const struct interp *in, unsigned size)
{
        const unsigned cpl = in->cpu->cpl, iopl = (unsigned)bits(in->rflags, 13, 12);
        u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

        if (size > 2)
                mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
        if (cpl <= iopl)
                mask |= RFLAGS_IF;
        if (cpl == 0)
                mask |= RFLAGS_IOPL;
        if (cpl == 0 && size > 2)
                mask |= RFLAGS_VIF | RFLAGS_VIP;
        return mask;
}

static void load_flags(struct interp *in, u64 value, u64 mask)
{
        interp_set_rflags(in, (interp_rflags(in) & ~mask) | (value & mask));
}

SYS_BODY void iret_real(struct interp *in, const struct uop *u)
{
        struct cpu_state *cpu = in->cpu;
        struct sys_stack st = sys_stack_current(in);
        const u64 rip = sys_stack_pop(in, u, &st, u->size);
        const u16 cs = (u16)sys_stack_pop(in, u, &st, u->size);
        const u64 rflags = sys_stack_pop(in, u, &st, u->size);
        u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_NT;

        sys_check_rip(in, u, &cpu->seg[SEG_CS], rip);
        if (!sys_vm86(in))
                mask |= RFLAGS_IOPL;
        if (u->size > 2)
                mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
        sys_stack_commit(in, &st);
        sys_seg_real(&cpu->seg[SEG_CS], cs, sys_vm86(in));
        load_flags(in, rflags, mask);
        in->rip = rip;
}

/* The task that the current one is nested in. */
static void iret_task(struct interp *in, const struct uop *u)
{
        const u16 link = (u16)mem_read_system(in, u, (u32)in->cpu->tr.base, 2);
        struct descriptor tss = sys_task_find(in, u, link, TASK_IRET);

        sys_task_switch(in, u, &tss, TASK_IRET, interp_next_rip(in, u), interp_rflags(in));
        in->cpu->nmi_masked = false;
        sys_task_enter(in);
}

/* RETURN-TO-VIRTUAL-8086-MODE: nine dwords on the stack. */
static void iret_to_vm86(struct interp *in, const struct uop *u, struct sys_stack *st, const struct far_return *r)
{
        static const u8 order[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
        struct cpu_state *cpu = in->cpu;
        const u32 sp = (u32)sys_stack_pop(in, u, st, 4);
        const u16 ss = (u16)sys_stack_pop(in, u, st, 4);
        u16 selectors[ARRAY_SIZE(order)];

        for (size_t i = 0; i < ARRAY_SIZE(order); i++)
                selectors[i] = (u16)sys_stack_pop(in, u, st, 4);
        if (r->rip > 0xffff)
                sys_gp0(in, u);
        load_flags(in, r->rflags, iret_flags_mask(in, 4) | RFLAGS_VM);
        for (size_t i = 0; i < ARRAY_SIZE(order); i++)
                sys_seg_real(&cpu->seg[order[i]], selectors[i], true);
        sys_seg_real(&cpu->seg[SEG_CS], r->cs, true);
        sys_seg_real(&cpu->seg[SEG_SS], ss, true);
        in->regs[RSP] = sp;
        cpu->cpl = 3;
        in->rip = r->rip;
}

SYS_BODY void iret_protected(struct interp *in, const struct uop *u)
{
        const bool from_long64 = cpu_64bit(in->cpu);
        struct sys_stack st = sys_stack_current(in);
        struct far_return r = { .size = u->size };
        u64 mask;

        if (in->rflags & RFLAGS_NT) {
                if (cpu_long_mode(in->cpu))
                        sys_gp0(in, u);
                iret_task(in, u);
                return;
        }
        r.rip = sys_stack_pop(in, u, &st, r.size);
        r.cs = (u16)sys_stack_pop(in, u, &st, r.size);
        r.rflags = sys_stack_pop(in, u, &st, r.size);
        if (r.size == 4 && (r.rflags & RFLAGS_VM) && in->cpu->cpl == 0 && !cpu_long_mode(in->cpu)) {
                iret_to_vm86(in, u, &st, &r);
                return;
        }
        check_cs(in, u, &r);
        /* 64-bit mode pops SS:RSP always. */
        if (from_long64 || (r.cs & 3u) > in->cpu->cpl) {
                r.sp = sys_stack_pop(in, u, &st, r.size);
                r.ss = (u16)sys_stack_pop(in, u, &st, r.size);
                r.has_stack = true;
                check_ss(in, u, &r);
        }
        mask = iret_flags_mask(in, r.size); /* by the CPL before the return */
        enter(in, u, &r, 0);
        if (!r.has_stack)
                sys_stack_commit(in, &st);
        load_flags(in, r.rflags, mask);
}

const struct uop *sys_iret(struct interp *in, const struct uop *u)
{
        if (in->mode & MODE_PROTECTED) {
                iret_protected(in, u);
        } else {
                if (sys_vm86(in) && (in->rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
                        sys_gp0(in, u);
                iret_real(in, u);
        }
        in->cpu->nmi_masked = false; /* SDM 3A, 6.7.1 */
        interp_mode_changed(in);
        return interp_continue_at(in, in->rip);
}

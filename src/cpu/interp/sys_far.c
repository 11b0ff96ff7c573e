/* Far JMP and CALL, call gates, software interrupts. SDM 2A, JMP, CALL and INT n; SDM 3A, 5.8. */
#include "sys.h"

struct far_target {
        u16 selector;
        u64 offset;
        unsigned size; /* operand size: of what a call pushes */
        bool call;
        u64 next_rip;
};

static void push_return(struct interp *in, const struct uop *u, struct sys_stack *st, const struct far_target *t,
                        unsigned size)
{
        sys_stack_push(in, u, st, in->cpu->seg[SEG_CS].selector, size);
        sys_stack_push(in, u, st, t->next_rip, size);
}

/* Enters code of the same privilege: pushes the return address of a call, loads CS:RIP. */
static void enter_same(struct interp *in, const struct uop *u, const struct far_target *t, struct descriptor *cs,
                       u64 rip, unsigned size)
{
        struct cpu_state *cpu = in->cpu;
        struct seg new_cs = sys_seg_from(cs, (u16)((cs->selector & ~3u) | cpu->cpl));
        struct sys_stack st = sys_stack_current(in);

        if (t->call) /* on a copy: only shows whether there is room, and #SS comes before #GP for the target */
                push_return(in, u, &st, t, size);
        sys_check_rip(in, u, &new_cs, rip);
        sys_mark_accessed(in, u, cs);
        new_cs.attr = cs->attr;
        if (t->call)
                sys_stack_commit(in, &st);
        cpu->seg[SEG_CS] = new_cs;
        in->rip = rip;
}

/* ---- call gates: SDM 3A, 5.8.3-5.8.5 ---- */

/* A call through a gate into an inner ring: new stack from the TSS, parameters copied. */
static void enter_inner(struct interp *in, const struct uop *u, const struct far_target *t, const struct gate *gate,
                        struct descriptor *cs, unsigned size)
{
        struct cpu_state *cpu = in->cpu;
        const unsigned new_cpl = desc_dpl(cs->attr);
        const bool long_mode = cpu_long_mode(cpu);
        const unsigned params = long_mode ? 0 : gate->params & 31u;
        struct sys_stack old = sys_stack_current(in), st = sys_stack_from_tss(in, u, new_cpl, 0);
        struct seg new_cs = sys_seg_from(cs, (u16)((cs->selector & ~3u) | new_cpl));
        u32 values[31];

        for (unsigned i = 0; i < params; i++)
                values[i] = (u32)sys_stack_pop(in, u, &old, size);
        sys_stack_push(in, u, &st, cpu->seg[SEG_SS].selector, size);
        sys_stack_push(in, u, &st, in->regs[RSP], size);
        for (unsigned i = params; i > 0; i--)
                sys_stack_push(in, u, &st, values[i - 1], size);
        push_return(in, u, &st, t, size);
        sys_check_rip(in, u, &new_cs, gate->offset);
        sys_mark_accessed(in, u, cs);
        new_cs.attr = cs->attr;

        cpu->seg[SEG_SS] = st.seg;
        sys_stack_commit(in, &st);
        cpu->seg[SEG_CS] = new_cs;
        cpu->cpl = (u8)new_cpl;
        in->rip = gate->offset;
}

static void through_call_gate(struct interp *in, const struct uop *u, const struct far_target *t,
                              const struct descriptor *gate_desc)
{
        struct cpu_state *cpu = in->cpu;
        const bool long_mode = cpu_long_mode(cpu);
        const unsigned size = long_mode ? 8 : sys_system_type(in, gate_desc->attr)->size;
        const struct gate gate = sys_parse_gate(gate_desc, long_mode);
        struct descriptor cs;

        if (desc_dpl(gate_desc->attr) < cpu->cpl || (t->selector & 3u) > desc_dpl(gate_desc->attr))
                sys_fault(in, u, EXC_GP, t->selector);
        if (!desc_present(gate_desc->attr))
                sys_fault(in, u, EXC_NP, t->selector);
        if (selector_is_null(gate.selector))
                sys_gp0(in, u);
        if (!sys_fetch_descriptor(in, u, gate.selector, 8, &cs) || !desc_is_code(cs.attr) ||
            desc_dpl(cs.attr) > cpu->cpl)
                sys_fault(in, u, EXC_GP, gate.selector);
        if (long_mode && (cs.attr & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L)
                sys_fault(in, u, EXC_GP, gate.selector);
        if (!t->call && !desc_is_conforming(cs.attr) && desc_dpl(cs.attr) != cpu->cpl)
                sys_fault(in, u, EXC_GP, gate.selector);
        if (!desc_present(cs.attr))
                sys_fault(in, u, EXC_NP, gate.selector);
        if (!desc_is_conforming(cs.attr) && desc_dpl(cs.attr) < cpu->cpl)
                enter_inner(in, u, t, &gate, &cs, size);
        else
                enter_same(in, u, t, &cs, gate.offset, size);
}

/* ---- code segments, tasks ---- */

static void to_code_segment(struct interp *in, const struct uop *u, const struct far_target *t, struct descriptor *cs)
{
        const unsigned cpl = in->cpu->cpl, dpl = desc_dpl(cs->attr);
        const u64 rip = t->size == 2 ? t->offset & 0xffff : t->size == 4 ? (u32)t->offset : t->offset;

        if (!desc_is_code(cs->attr))
                sys_fault(in, u, EXC_GP, t->selector);
        if (cpu_long_mode(in->cpu) && (cs->attr & SEG_ATTR_L) && (cs->attr & SEG_ATTR_DB))
                sys_fault(in, u, EXC_GP, t->selector);
        if (desc_is_conforming(cs->attr) ? dpl > cpl : (t->selector & 3u) > cpl || dpl != cpl)
                sys_fault(in, u, EXC_GP, t->selector);
        if (!desc_present(cs->attr))
                sys_fault(in, u, EXC_NP, t->selector);
        enter_same(in, u, t, cs, rip, t->size);
}

static void to_task(struct interp *in, const struct uop *u, const struct far_target *t, const struct descriptor *d,
                    bool gate)
{
        const enum task_source source = t->call ? TASK_CALL : TASK_JMP;
        struct descriptor tss;

        if (desc_dpl(d->attr) < in->cpu->cpl || desc_dpl(d->attr) < (t->selector & 3u))
                sys_fault(in, u, EXC_GP, t->selector);
        if (!desc_present(d->attr))
                sys_fault(in, u, EXC_NP, t->selector);
        tss = sys_task_find(in, u, gate ? sys_parse_gate(d, false).selector : t->selector, source);
        sys_task_switch(in, u, &tss, source, t->next_rip, interp_rflags(in));
        sys_task_enter(in);
}

static void far_protected(struct interp *in, const struct uop *u, const struct far_target *t)
{
        struct descriptor d;

        if (selector_is_null(t->selector))
                sys_gp0(in, u);
        if (!sys_fetch_descriptor(in, u, t->selector, 8, &d))
                sys_fault(in, u, EXC_GP, t->selector);
        if (d.attr & SEG_ATTR_S) {
                to_code_segment(in, u, t, &d);
                return;
        }
        switch (sys_system_type(in, d.attr)->kind) {
        case SYSTEM_CALL_GATE:
                /* In IA-32e mode the gate is 16 bytes, and the second half's type field must be 0. SDM 3A, figure 5-9. */
                if (cpu_long_mode(in->cpu) &&
                    (!sys_fetch_descriptor(in, u, t->selector, 16, &d) || bits(d.raw_high, 44, 40)))
                        sys_fault(in, u, EXC_GP, t->selector);
                through_call_gate(in, u, t, &d);
                return;
        case SYSTEM_TASK_GATE:
                to_task(in, u, t, &d, true);
                return;
        case SYSTEM_TSS:
                if (cpu_long_mode(in->cpu))
                        break;
                to_task(in, u, t, &d, false);
                return;
        default:
                break;
        }
        sys_fault(in, u, EXC_GP, t->selector);
}

static void far_real(struct interp *in, const struct uop *u, const struct far_target *t)
{
        struct cpu_state *cpu = in->cpu;
        const u64 rip = t->size == 2 ? t->offset & 0xffff : (u32)t->offset;
        struct sys_stack st = sys_stack_current(in);

        if (t->call)
                push_return(in, u, &st, t, t->size);
        sys_check_rip(in, u, &cpu->seg[SEG_CS], rip);
        if (t->call)
                sys_stack_commit(in, &st);
        sys_seg_real(&cpu->seg[SEG_CS], t->selector, sys_vm86(in));
        in->rip = rip;
}

SYS_BODY void far_transfer(struct interp *in, const struct uop *u, bool call)
{
        struct far_target t = { .size = u->size, .call = call, .next_rip = interp_next_rip(in, u) };

        if (u->flags & UOP_MEM) {
                const u64 linear = ea_linear(in, u, u->size + 2u, MMU_READ);

                t.offset = mem_read(in, u, linear, u->size);
                t.selector = (u16)mem_read(in, u, linear + u->size, 2);
        } else {
                t.offset = u->imm;
                t.selector = u->aux;
        }
        if (in->mode & MODE_PROTECTED)
                far_protected(in, u, &t);
        else
                far_real(in, u, &t);
        interp_mode_changed(in);
}

const struct uop *sys_jmp_far(struct interp *in, const struct uop *u)
{
        far_transfer(in, u, false);
        return interp_continue_at(in, in->rip);
}

const struct uop *sys_call_far(struct interp *in, const struct uop *u)
{
        far_transfer(in, u, true);
        return interp_continue_at(in, in->rip);
}

/* ---- software interrupts ---- */

_noreturn_ static void software_event(struct interp *in, const struct uop *u, enum event_kind kind, u8 vector)
{
        const struct pending_event event = {
                .kind = kind, .vector = vector, .rip = interp_next_rip(in, u), .length = u->len,
        };

        interp_raise_event(in, &event);
}

const struct uop *sys_int(struct interp *in, const struct uop *u)
{
        /* Without CR4.VME (which this CPU does not have) INT n in virtual-8086 mode needs IOPL 3. SDM 3A, 20.2.8. */
        if (sys_vm86(in) && (in->rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
                sys_gp0(in, u);
        software_event(in, u, EVENT_SOFT_INT, (u8)u->imm);
}

const struct uop *sys_int3(struct interp *in, const struct uop *u)
{
        software_event(in, u, EVENT_SOFT_INT, EXC_BP);
}

const struct uop *sys_into(struct interp *in, const struct uop *u)
{
        if (interp_rflags(in) & RFLAGS_OF)
                software_event(in, u, EVENT_SOFT_INT, EXC_OF);
        return interp_continue_after(in, u);
}

const struct uop *sys_int1(struct interp *in, const struct uop *u)
{
        software_event(in, u, EVENT_ICEBP, EXC_DB);
}

/* Delivery of exceptions, interrupts and software interrupts. SDM 3A, chapter 6 and 20.1.4; SDM 2A, INT n (the pseudo-code the checks follow).
 *
 * Protocol with the outer loop: in->event says what is to be delivered. interp_deliver either returns with the guest at its handler, or
 * leaves by a fault like any instruction; then in->event is the new fault, in->delivering is still set, and the loop calls
 * interp_escalate, which turns the pair of events into the one to deliver next (or sets in->triple_fault), and interp_deliver again. The
 * pairs that are handled one after the other cannot go on for ever: after a page fault only #DF can follow, after #DF only the triple fault.
 *
 * While delivering, in->rip is where a fault points: the instruction itself for INT n, else what would have been pushed. */
#include "sys.h"

#define ERROR_IDT 2u /* the selector index of an error code is a vector. SDM 3A, 6.13 */
#define NO_VECTOR 0xff

/* Faults while event gates are looked at name the gate. */
_noreturn_ static void gate_fault(struct interp *in, enum exception vector)
{
        interp_raise(in, NULL, vector, (u32)in->event.vector << 3 | ERROR_IDT | sys_ext(in));
}

/* EFLAGS as the handler's frame shows them. RF: SDM 3B, 17.3.1.1. */
static u64 pushed_rflags(const struct interp *in)
{
        const struct pending_event *ev = &in->event;
        u64 rflags = interp_rflags(in);

        if (ev->kind == EVENT_FAULT && ev->vector != EXC_DB)
                return rflags | RFLAGS_RF;
        /* RF is cleared by every instruction, but handlers do that only in single-instruction mode, where it matters. */
        if (ev->kind == EVENT_SOFT_INT || ev->kind == EVENT_ICEBP || ev->trap || !(in->mode & MODE_SINGLE))
                rflags &= ~RFLAGS_RF;
        return rflags;
}

/* ---- real mode: SDM 3A, 20.1.4 ---- */

static void deliver_real(struct interp *in)
{
        struct cpu_state *cpu = in->cpu;
        const unsigned at = in->event.vector * 4u;
        struct sys_stack st = sys_stack_current(in);
        u32 vector;

        if (at + 3 > cpu->idtr.limit)
                gate_fault(in, EXC_GP);
        vector = (u32)mem_read_system(in, NULL, (u32)(cpu->idtr.base + at), 4);
        sys_stack_push(in, NULL, &st, interp_rflags(in) & 0xffff, 2);
        sys_stack_push(in, NULL, &st, cpu->seg[SEG_CS].selector, 2);
        sys_stack_push(in, NULL, &st, in->event.rip & 0xffff, 2);

        sys_stack_commit(in, &st);
        sys_seg_real(&cpu->seg[SEG_CS], (u16)(vector >> 16), false);
        in->rflags &= ~(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
        in->rip = vector & 0xffff;
}

/* ---- protected and IA-32e mode ---- */

/* Reads and checks the event's gate. */
static struct descriptor read_gate(struct interp *in, const struct system_type **ret_type)
{
        struct cpu_state *cpu = in->cpu;
        const bool long_mode = cpu_long_mode(cpu);
        const unsigned bytes = long_mode ? 16 : 8;
        const unsigned at = in->event.vector * bytes;
        const struct system_type *type;
        struct descriptor d;
        u64 linear, raw;

        if (at + bytes - 1 > cpu->idtr.limit)
                gate_fault(in, EXC_GP);
        linear = long_mode ? cpu->idtr.base + at : (u32)(cpu->idtr.base + at);
        raw = mem_read_system(in, NULL, linear, 8);
        d = sys_parse_descriptor(0, raw, long_mode ? mem_read_system(in, NULL, linear + 8, 8) : 0);
        type = sys_system_type(in, d.attr);
        if (type->kind != SYSTEM_INT_GATE && type->kind != SYSTEM_TRAP_GATE && type->kind != SYSTEM_TASK_GATE)
                gate_fault(in, EXC_GP);
        if (in->event.kind == EVENT_SOFT_INT && desc_dpl(d.attr) < cpu->cpl)
                gate_fault(in, EXC_GP);
        if (!desc_present(d.attr))
                gate_fault(in, EXC_NP);
        *ret_type = type;
        return d;
}

/* The handler's code segment. */
static struct descriptor read_handler_cs(struct interp *in, u16 selector)
{
        struct cpu_state *cpu = in->cpu;
        struct descriptor cs;

        if (selector_is_null(selector))
                sys_gp0(in, NULL);
        if (!sys_fetch_descriptor(in, NULL, selector, 8, &cs) || !desc_is_code(cs.attr) || desc_dpl(cs.attr) > cpu->cpl)
                sys_fault(in, NULL, EXC_GP, selector);
        if (cpu_long_mode(cpu) && (cs.attr & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L)
                sys_fault(in, NULL, EXC_GP, selector);
        if (!desc_present(cs.attr))
                sys_fault(in, NULL, EXC_NP, selector);
        /* From virtual-8086 mode only ring 0 handlers can be entered. */
        if (sys_vm86(in) && (desc_is_conforming(cs.attr) || desc_dpl(cs.attr) != 0))
                sys_fault(in, NULL, EXC_GP, selector);
        return cs;
}

static void push_vm86_segments(struct interp *in, struct sys_stack *st, unsigned size)
{
        static const u8 order[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

        for (size_t i = 0; i < ARRAY_SIZE(order); i++)
                sys_stack_push(in, NULL, st, in->cpu->seg[order[i]].selector, size);
}

static void forget_vm86_segments(struct cpu_state *cpu)
{
        static const u8 order[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

        for (size_t i = 0; i < ARRAY_SIZE(order); i++)
                cpu->seg[order[i]] = (struct seg){ .unusable = true };
}

static void push_frame(struct interp *in, struct sys_stack *st, unsigned size, bool stack_too)
{
        struct cpu_state *cpu = in->cpu;

        if (stack_too) {
                sys_stack_push(in, NULL, st, cpu->seg[SEG_SS].selector, size);
                sys_stack_push(in, NULL, st, in->regs[RSP], size);
        }
        sys_stack_push(in, NULL, st, pushed_rflags(in), size);
        sys_stack_push(in, NULL, st, cpu->seg[SEG_CS].selector, size);
        sys_stack_push(in, NULL, st, in->event.rip, size);
        if (in->event.has_error)
                sys_stack_push(in, NULL, st, in->event.error, size);
}

static void deliver_through_gate(struct interp *in, const struct descriptor *gate_desc, const struct system_type *type)
{
        struct cpu_state *cpu = in->cpu;
        const bool long_mode = cpu_long_mode(cpu), vm86 = sys_vm86(in);
        const struct gate gate = sys_parse_gate(gate_desc, long_mode);
        const unsigned size = long_mode ? 8 : type->size;
        struct descriptor cs = read_handler_cs(in, gate.selector);
        const unsigned new_cpl = desc_is_conforming(cs.attr) ? cpu->cpl : desc_dpl(cs.attr);
        const bool inner = new_cpl < cpu->cpl;
        const bool switches = inner || (long_mode && gate.ist);
        struct sys_stack st;
        struct seg new_cs;

        if (switches)
                st = sys_stack_from_tss(in, NULL, new_cpl, long_mode ? gate.ist : 0);
        else
                st = sys_stack_make(&cpu->seg[SEG_SS], in->regs[RSP], cpu->cpl, long_mode);
        new_cs = sys_seg_from(&cs, (u16)((gate.selector & ~3u) | new_cpl));
        sys_check_rip(in, NULL, &new_cs, gate.offset);

        if (long_mode)
                st.sp &= ~15ULL; /* SDM 3A, 6.14.2 */
        if (vm86)
                push_vm86_segments(in, &st, size);
        push_frame(in, &st, size, inner || long_mode);
        sys_mark_accessed(in, NULL, &cs);
        new_cs.attr = cs.attr;

        sys_stack_commit(in, &st);
        /* In IA-32e mode SS becomes null on a change of ring only; an IST stack keeps it. SDM 3A, 6.14.4. */
        if (inner)
                cpu->seg[SEG_SS] = st.seg;
        if (vm86)
                forget_vm86_segments(cpu);
        cpu->seg[SEG_CS] = new_cs;
        cpu->cpl = (u8)new_cpl;
        in->rflags &= ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM);
        if (type->kind == SYSTEM_INT_GATE)
                in->rflags &= ~RFLAGS_IF;
        in->rip = gate.offset;
}

/* SDM 3A, 6.12.2. */
static void deliver_through_task(struct interp *in, const struct descriptor *gate_desc)
{
        const struct pending_event ev = in->event;
        struct descriptor tss = sys_task_find(in, NULL, sys_parse_gate(gate_desc, false).selector, TASK_EVENT);
        struct sys_stack st;

        sys_task_switch(in, NULL, &tss, TASK_EVENT, ev.rip, pushed_rflags(in));
        if (ev.has_error) {
                st = sys_stack_current(in);
                sys_stack_push(in, NULL, &st, ev.error, tss.attr & 8 ? 4 : 2);
                sys_stack_commit(in, &st);
        }
        sys_check_rip(in, NULL, &in->cpu->seg[SEG_CS], in->rip);
}

static void deliver_protected(struct interp *in)
{
        const struct system_type *type;
        struct descriptor gate = read_gate(in, &type);

        if (type->kind == SYSTEM_TASK_GATE)
                deliver_through_task(in, &gate);
        else
                deliver_through_gate(in, &gate, type);
}

/* What an event does to the processor even if its delivery fails. */
static void begin(struct interp *in)
{
        struct pending_event *ev = &in->event;
        struct cpu_state *cpu = in->cpu;

        in->delivering = true;
        in->delivering_vector = ev->kind == EVENT_FAULT ? ev->vector : NO_VECTOR;
        in->rip = ev->kind == EVENT_SOFT_INT || ev->kind == EVENT_ICEBP ? ev->rip - ev->length : ev->rip;
        cpu->sti_shadow = cpu->mov_ss_shadow = false;
        cpu->halted = in->halted_now = false;
        if (ev->kind == EVENT_NMI)
                cpu->nmi_masked = true;
        if (ev->kind == EVENT_FAULT && ev->vector == EXC_PF)
                cpu->cr2 = ev->cr2;
        if (ev->kind == EVENT_FAULT && ev->vector == EXC_DB)
                cpu->dr[6] = (cpu->dr[6] & ~0xfULL) | ev->dr6; /* B0-B3 tell about this exception, the others add up. SDM 3B, 17.2.3 */
        if (ev->vector == EXC_DB && (ev->kind == EVENT_FAULT || ev->kind == EVENT_ICEBP))
                cpu->dr[7] &= ~BIT(13); /* GD. SDM 3B, 17.2.4 */
}

static void count(struct interp *in, const struct pending_event *ev)
{
        struct vcpu *vcpu = in->vcpu;

        if (ev->kind == EVENT_EXTERNAL || ev->kind == EVENT_NMI) {
                trace(IRQ_DELIVER, vcpu->index, ev->vector, ev->rip);
                counter_inc(&vcpu->counters, COUNTER_INTERRUPTS);
                exit_count(&vcpu->counters, EXIT_INTERRUPT);
                return;
        }
        trace(EXCEPTION, vcpu->index, ev->vector, ev->has_error ? ev->error : 0, ev->rip);
        if (ev->kind == EVENT_FAULT) {
                counter_inc(&vcpu->counters, COUNTER_EXCEPTIONS);
                exit_count(&vcpu->counters, EXIT_EXCEPTION);
        }
        if (ev->kind == EVENT_FAULT && ev->vector == EXC_PF) {
                trace(PAGE_FAULT, vcpu->index, ev->cr2, ev->error, ev->rip);
                counter_inc(&vcpu->counters, COUNTER_PAGE_FAULTS);
        }
}

static void deliver_one(struct interp *in)
{
        const struct pending_event ev = in->event;

        begin(in);
        count(in, &ev);
        if (in->cpu->paging.cr0 & CR0_PE)
                deliver_protected(in);
        else
                deliver_real(in);
        in->delivering = false;
        interp_mode_changed(in);
}

void interp_deliver(struct interp *in)
{
        /* A data breakpoint that MOV SS hit is held over the next instruction. After INT n it is taken at the handler's first
         * instruction; faults and INT1 swallow it. SDM 3A, 6.8.3. */
        const u64 held = in->event.kind == EVENT_SOFT_INT ? in->pending_dr6 : 0;
        const bool from_instruction = in->event.kind != EVENT_EXTERNAL && in->event.kind != EVENT_NMI;

        in->pending_dr6 = 0;
        deliver_one(in);
        if (from_instruction)
                sys_debug_delivered(in);
        in->pending_dr6 |= held; /* a task switch may have added its own */
        if (!in->pending_dr6)
                return;
        in->event = (struct pending_event){
                .kind = EVENT_FAULT, .vector = EXC_DB, .rip = in->rip, .dr6 = in->pending_dr6, .trap = true,
        };
        in->pending_dr6 = 0;
        deliver_one(in);
}

/* ---- faults while delivering: SDM 3A, tables 6-4 and 6-5 ---- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class class_of(unsigned vector)
{
        static const u8 classes[32] = {
                [EXC_DE] = CONTRIBUTORY, [EXC_TS] = CONTRIBUTORY, [EXC_NP] = CONTRIBUTORY, [EXC_SS] = CONTRIBUTORY,
                [EXC_GP] = CONTRIBUTORY, [EXC_PF] = PAGE_FAULT,   [EXC_DF] = DOUBLE_FAULT,
        };

        return vector < ARRAY_SIZE(classes) ? classes[vector] : BENIGN;
}

void interp_escalate(struct interp *in)
{
        const enum fault_class first = class_of(in->delivering_vector), second = class_of(in->event.vector);

        in->delivering = false;
        in->pending_dr6 = 0;
        if (first == DOUBLE_FAULT) {
                in->triple_fault = true;
                return;
        }
        if (in->event.vector == EXC_PF)
                in->cpu->cr2 = in->event.cr2;
        if ((first == CONTRIBUTORY && second == CONTRIBUTORY) || (first == PAGE_FAULT && second != BENIGN))
                in->event = (struct pending_event){ .kind = EVENT_FAULT, .vector = EXC_DF, .has_error = true, .rip = in->rip };
}

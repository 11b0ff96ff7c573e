/* Exceptions that translated code meets, delivered through a 64-bit gate without leaving it: page faults. See fast.c for the rules of this file.
 *
 * Everything the delivery reads and writes is looked up first; what is not plain - another kind of gate, a stack that crosses a page, a fault while
 * delivering - is left to the interpreter, which executes the instruction again and delivers what it raises. */
#include "runtime.h"

#include "../interp/sys.h"

#define GATE_INTERRUPT 0xe /* SDM 3A, table 3-2 */
#define GATE_TRAP 0xf
#define FRAME_WORDS 6      /* SS, RSP, RFLAGS, CS, RIP, error code */

/* The stack that the handler starts on: SDM 3A, 6.14.4 and 7.7. */
static bool handler_stack(struct interp *in, unsigned ist, u64 *ret)
{
        const struct seg *tr = &in->cpu->tr;
        const unsigned at = ist ? 0x24 + (ist - 1) * 8 : 4;
        const void *entry;

        if (!ist && in->cpu->cpl == 0) {
                *ret = in->regs[RSP];
                return true;
        }
        if (at + 7 > tr->limit)
                return false;
        entry = fast_memory(in, TLB_KERNEL, MMU_READ, tr->base + at, 8);
        if (entry)
                *ret = fast_read64(entry);
        return entry;
}

static bool read_gate(struct interp *in, u8 vector, struct gate *ret, bool *ret_interrupt)
{
        const struct dtable *idt = &in->cpu->idtr;
        const unsigned at = vector * 16u;
        struct descriptor d;
        const u8 *raw;

        if (at + 15 > idt->limit)
                return false;
        raw = fast_memory(in, TLB_KERNEL, MMU_READ, idt->base + at, 16);
        if (!raw)
                return false;
        d = sys_parse_descriptor(0, fast_read64(raw), fast_read64(raw + 8));
        if ((d.attr & (SEG_ATTR_S | SEG_ATTR_P)) != SEG_ATTR_P || (d.attr & SEG_ATTR_TYPE) < GATE_INTERRUPT)
                return false;
        *ret = sys_parse_gate(&d, true);
        *ret_interrupt = (d.attr & SEG_ATTR_TYPE) == GATE_INTERRUPT;
        return mmu_is_canonical(ret->offset);
}

/* A fault with an error code at in->rip. False, and nothing done: the interpreter's. */
static bool deliver_fault(struct interp *in, u8 vector, u32 error)
{
        struct cpu_state *cpu = in->cpu;
        const bool inner = cpu->cpl != 0;
        const u64 rflags = in->rflags | (in->flags_image & RFLAGS_ARITH);
        struct seg cs;
        struct gate gate;
        bool interrupt;
        u64 sp, *frame;

        if (fast_is_traced() || !read_gate(in, vector, &gate, &interrupt) || !fast_code_segment(in, gate.selector, 0, &cs) ||
            !handler_stack(in, gate.ist, &sp))
                return false;
        sp = (sp & ~15ULL) - FRAME_WORDS * 8;
        frame = fast_memory(in, TLB_KERNEL, MMU_WRITE, sp, FRAME_WORDS * 8);
        if (!frame)
                return false;
        frame[5] = cpu->seg[SEG_SS].selector;
        frame[4] = in->regs[RSP];
        frame[3] = rflags | RFLAGS_RF; /* SDM 3B, 17.3.1.1 */
        frame[2] = cpu->seg[SEG_CS].selector;
        frame[1] = in->rip;
        frame[0] = error;
        in->regs[RSP] = sp;
        if (inner)
                cpu->seg[SEG_SS] = (struct seg){ .unusable = true };
        cpu->seg[SEG_CS] = cs;
        cpu->cpl = 0;
        in->rflags &= ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | (interrupt ? RFLAGS_IF : 0));
        in->rip = gate.offset;
        counter_inc(&in->vcpu->counters, COUNTER_EXCEPTIONS);
        exit_count(&in->vcpu->counters, EXIT_EXCEPTION);
        fast_mode_changed(in);
        return true;
}

const void *fast_page_fault(struct interp *in, u64 gva, u32 error)
{
        if (!deliver_fault(in, EXC_PF, error))
                return fast_leave(in, INTERP_REASON_MEMORY);
        in->cpu->cr2 = gva;
        counter_inc(&in->vcpu->counters, COUNTER_PAGE_FAULTS);
        return fast_go(in);
}

/* Descriptors, segment loads and stacks: the part of segmentation that every transfer and delivery needs. SDM 3A, 3.4-3.5 and chapter 5. */
#include "sys.h"

/* SDM 3A, table 3-2. */
static const struct system_type system_types[16] = {
        [1] = { SYSTEM_TSS, 2, false, false },       [2] = { SYSTEM_LDT, 0, false, true },
        [3] = { SYSTEM_TSS, 2, true, false },        [4] = { SYSTEM_CALL_GATE, 2, false, false },
        [5] = { SYSTEM_TASK_GATE, 0, false, false }, [6] = { SYSTEM_INT_GATE, 2, false, false },
        [7] = { SYSTEM_TRAP_GATE, 2, false, false }, [9] = { SYSTEM_TSS, 4, false, true },
        [11] = { SYSTEM_TSS, 4, true, true },        [12] = { SYSTEM_CALL_GATE, 4, false, true },
        [14] = { SYSTEM_INT_GATE, 4, false, true },  [15] = { SYSTEM_TRAP_GATE, 4, false, true },
};

const struct system_type *sys_system_type(const struct interp *in, u16 attr)
{
        const struct system_type *type = &system_types[attr & SEG_ATTR_TYPE];

        if ((attr & SEG_ATTR_S) || (cpu_long_mode(in->cpu) && !type->long_ok))
                return &system_types[0];
        return type;
}

bool sys_fetch_descriptor(struct interp *in, const struct uop *u, u16 selector, unsigned bytes, struct descriptor *ret)
{
        const struct cpu_state *cpu = in->cpu;
        const u32 index = selector & 0xfff8u;
        u64 base = cpu->gdtr.base, limit = cpu->gdtr.limit, linear, raw, raw_high = 0;

        if (selector & 4) {
                if (cpu->ldtr.unusable)
                        return false;
                base = cpu->ldtr.base;
                limit = cpu->ldtr.limit;
        }
        if (index + bytes - 1 > limit)
                return false;
        linear = cpu_long_mode(cpu) ? base + index : (u32)(base + index);
        raw = mem_read_system(in, u, linear, 8);
        if (bytes == 16)
                raw_high = mem_read_system(in, u, linear + 8, 8);
        *ret = sys_parse_descriptor(selector, raw, raw_high);
        ret->linear = linear;
        return true;
}

void sys_mark_accessed(struct interp *in, const struct uop *u, struct descriptor *d)
{
        if (d->attr & TYPE_ACCESSED)
                return;
        mem_or_byte_system(in, u, d->linear + 5, TYPE_ACCESSED);
        d->attr |= TYPE_ACCESSED;
}

/* SDM 3A, 20.1.1 and 20.2.1. Real mode leaves limit and attributes as they are: that is how "big real mode" works. */
void sys_seg_real(struct seg *seg, u16 selector, bool vm86)
{
        seg->selector = selector;
        seg->base = (u64)selector << 4;
        seg->unusable = false;
        if (vm86) {
                seg->limit = 0xffff;
                seg->attr = 0xf3; /* present, DPL 3, accessed writable data */
        }
}

bool sys_seg_covers(const struct seg *seg, u64 offset, unsigned size)
{
        const u64 last = offset + size - 1;

        if (seg->unusable)
                return false;
        /* SDM 3A, 5.3: expand-down data segments are valid above the limit. */
        if ((seg->attr & (SEG_ATTR_S | TYPE_CODE | TYPE_EXPAND_DOWN)) == (SEG_ATTR_S | TYPE_EXPAND_DOWN))
                return offset > seg->limit && last <= (seg->attr & SEG_ATTR_DB ? 0xffffffff : 0xffff);
        /* An operand that wraps round the end of a 4 GiB segment is not a limit violation on any processor seen. */
        return seg->limit == 0xffffffff || last <= seg->limit;
}

/* ---- segment registers ---- */

void sys_check_stack_segment(struct interp *in, const struct uop *u, const struct descriptor *d, unsigned cpl,
                             enum exception vector)
{
        if ((d->selector & 3u) != cpl || !desc_is_writable_data(d->attr) || desc_dpl(d->attr) != cpl)
                sys_fault(in, u, vector, d->selector);
        if (!desc_present(d->attr))
                sys_fault(in, u, EXC_SS, d->selector);
}

/* SDM 2B, MOV: loading SS in protected mode. */
static void load_ss(struct interp *in, const struct uop *u, u16 selector)
{
        struct cpu_state *cpu = in->cpu;
        struct descriptor d;

        if (selector_is_null(selector)) {
                if (!cpu_64bit(cpu) || cpu->cpl == 3 || (selector & 3) != cpu->cpl)
                        sys_gp0(in, u);
                cpu->seg[SEG_SS] = (struct seg){ .selector = selector, .attr = (u16)(cpu->cpl << 5), .unusable = true };
                return;
        }
        if (!sys_fetch_descriptor(in, u, selector, 8, &d))
                sys_fault(in, u, EXC_GP, selector);
        sys_check_stack_segment(in, u, &d, cpu->cpl, EXC_GP);
        sys_mark_accessed(in, u, &d);
        cpu->seg[SEG_SS] = sys_seg_from(&d, selector);
}

/* SDM 2B, MOV: loading DS, ES, FS or GS in protected mode. */
static void load_data(struct interp *in, const struct uop *u, unsigned seg, u16 selector)
{
        struct cpu_state *cpu = in->cpu;
        struct descriptor d;

        if (selector_is_null(selector)) {
                cpu->seg[seg] = (struct seg){ .selector = selector, .unusable = true };
                return;
        }
        if (!sys_fetch_descriptor(in, u, selector, 8, &d) || !(d.attr & SEG_ATTR_S) ||
            (desc_is_code(d.attr) && !(d.attr & TYPE_READABLE)))
                sys_fault(in, u, EXC_GP, selector);
        if (!desc_is_conforming(d.attr) && ((selector & 3u) > desc_dpl(d.attr) || cpu->cpl > desc_dpl(d.attr)))
                sys_fault(in, u, EXC_GP, selector);
        if (!desc_present(d.attr))
                sys_fault(in, u, EXC_NP, selector);
        sys_mark_accessed(in, u, &d);
        cpu->seg[seg] = sys_seg_from(&d, selector);
}

void sys_load_segment(struct interp *in, const struct uop *u, unsigned seg, u16 selector)
{
        if (!(in->mode & MODE_PROTECTED))
                sys_seg_real(&in->cpu->seg[seg], selector, sys_vm86(in));
        else if (seg == SEG_SS)
                load_ss(in, u, selector);
        else
                load_data(in, u, seg, selector);
        interp_mode_changed(in);
}

void sys_check_rip(struct interp *in, const struct uop *u, const struct seg *cs, u64 rip)
{
        if (sys_cs_is_long(in, cs) ? !mmu_is_canonical(rip) : rip > cs->limit)
                sys_gp0(in, u);
}

/* ---- stacks ---- */

struct sys_stack sys_stack_make(const struct seg *seg, u64 sp, unsigned cpl, bool flat)
{
        const u64 mask = flat ? ~0ULL : seg->attr & SEG_ATTR_DB ? 0xffffffff : 0xffff;

        return (struct sys_stack){ .seg = *seg, .sp = sp & mask, .mask = mask, .flat = flat, .user = cpl == 3 };
}

struct sys_stack sys_stack_current(const struct interp *in)
{
        return sys_stack_make(&in->cpu->seg[SEG_SS], in->regs[RSP], in->cpu->cpl, cpu_64bit(in->cpu));
}

/* The linear address of @size bytes at @offset of the stack, or #SS. */
static u64 stack_linear(struct interp *in, const struct uop *u, const struct sys_stack *st, u64 offset, unsigned size)
{
        if (st->flat) {
                if (!mmu_is_canonical(offset) || !mmu_is_canonical(offset + size - 1))
                        sys_fault(in, u, EXC_SS, st->fault_selector);
                return offset;
        }
        if (!sys_seg_covers(&st->seg, offset, size))
                sys_fault(in, u, EXC_SS, st->fault_selector);
        return (u32)(st->seg.base + offset);
}

void sys_stack_push(struct interp *in, const struct uop *u, struct sys_stack *st, u64 value, unsigned size)
{
        const u64 sp = (st->sp - size) & st->mask;

        mem_write_as(in, u, stack_linear(in, u, st, sp, size), value, size, st->user);
        st->sp = sp;
}

u64 sys_stack_pop(struct interp *in, const struct uop *u, struct sys_stack *st, unsigned size)
{
        const u64 value = mem_read_as(in, u, stack_linear(in, u, st, st->sp, size), size, st->user);

        st->sp = (st->sp + size) & st->mask;
        return value;
}

void sys_stack_commit(struct interp *in, const struct sys_stack *st)
{
        if (st->mask == 0xffff)
                in->regs[RSP] = (in->regs[RSP] & ~0xffffULL) | st->sp;
        else
                in->regs[RSP] = st->sp;
}

/* SDM 3A, 7.7: RSP0-2 and IST1-7 of the 64-bit TSS. */
static struct sys_stack stack_from_tss64(struct interp *in, const struct uop *u, unsigned cpl, unsigned ist)
{
        const struct seg *tr = &in->cpu->tr;
        const unsigned at = ist ? 0x24 + (ist - 1) * 8 : 4 + cpl * 8;
        const struct seg null_ss = { .selector = (u16)cpl, .attr = (u16)(cpl << 5), .unusable = true };

        if (at + 7 > tr->limit)
                sys_fault(in, u, EXC_TS, tr->selector);
        return sys_stack_make(&null_ss, mem_read_system(in, u, tr->base + at, 8), cpl, true);
}

struct sys_stack sys_stack_from_tss(struct interp *in, const struct uop *u, unsigned cpl, unsigned ist)
{
        const struct seg *tr = &in->cpu->tr;
        /* A 32-bit TSS holds ESP0, SS0, ... as dwords from offset 4, a 16-bit one as words from offset 2. SDM 3A, 7.2.1 and 7.6. */
        const unsigned size = tr->attr & 8 ? 4 : 2;
        const unsigned at = size + cpl * 2 * size;
        struct sys_stack st;
        struct descriptor d;
        struct seg ss;
        u16 selector;
        u64 sp;

        if (cpu_long_mode(in->cpu))
                return stack_from_tss64(in, u, cpl, ist);
        if (at + size + 1 > tr->limit)
                sys_fault(in, u, EXC_TS, tr->selector);
        sp = mem_read_system(in, u, (u32)(tr->base + at), size);
        selector = (u16)mem_read_system(in, u, (u32)(tr->base + at + size), 2);
        if (selector_is_null(selector))
                sys_fault(in, u, EXC_TS, 0);
        if (!sys_fetch_descriptor(in, u, selector, 8, &d))
                sys_fault(in, u, EXC_TS, selector);
        sys_check_stack_segment(in, u, &d, cpl, EXC_TS);
        sys_mark_accessed(in, u, &d);
        ss = sys_seg_from(&d, selector);
        st = sys_stack_make(&ss, sp, cpl, false);
        st.fault_selector = selector;
        return st;
}

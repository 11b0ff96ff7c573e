/* Instructions on segment registers, descriptor tables and descriptors. SDM 2A-2C by name. */
#include "sys.h"

/* ---- MOV, PUSH, POP, LDS and friends ---- */

/* After SS was loaded the next instruction runs undisturbed, since it is expected to load RSP. SDM 3A, 6.8.3. */
static void shadow_after_ss(struct interp *in, unsigned seg)
{
        if (seg != SEG_SS)
                return;
        in->cpu->mov_ss_shadow = true;
        interp_mode_changed(in);
}

static u16 selector_operand(struct interp *in, const struct uop *u, unsigned reg)
{
        if (u->flags & UOP_MEM)
                return (u16)mem_read(in, u, ea_linear(in, u, 2, MMU_READ), 2);
        return (u16)reg_read(in, reg, 2);
}

const struct uop *sys_mov_to_seg(struct interp *in, const struct uop *u)
{
        if (u->r1 == SEG_CS || u->r1 >= SEG_COUNT)
                sys_ud(in, u);
        sys_load_segment(in, u, u->r1, selector_operand(in, u, u->r2));
        shadow_after_ss(in, u->r1);
        return interp_continue_after(in, u);
}

const struct uop *sys_mov_from_seg(struct interp *in, const struct uop *u)
{
        const bool memory = u->flags & UOP_MEM;
        const unsigned seg = memory ? u->r1 : u->r2;

        if (seg >= SEG_COUNT)
                sys_ud(in, u);
        if (memory)
                mem_write(in, u, ea_linear(in, u, 2, MMU_WRITE), in->cpu->seg[seg].selector, 2);
        else
                reg_write(in, u->r1, in->cpu->seg[seg].selector, u->size);
        return interp_continue_after(in, u);
}

SYS_BODY void push_selector(struct interp *in, const struct uop *u)
{
        struct sys_stack st = sys_stack_current(in);

        sys_stack_push(in, u, &st, in->cpu->seg[u->r1].selector, u->size);
        sys_stack_commit(in, &st);
}

const struct uop *sys_push_seg(struct interp *in, const struct uop *u)
{
        push_selector(in, u);
        SLOW_NEXT(u);
}

SYS_BODY void pop_selector(struct interp *in, const struct uop *u)
{
        struct sys_stack st = sys_stack_current(in);
        const u16 selector = (u16)sys_stack_pop(in, u, &st, u->size);

        sys_load_segment(in, u, u->r1, selector);
        sys_stack_commit(in, &st); /* as wide as the old stack */
        shadow_after_ss(in, u->r1);
}

const struct uop *sys_pop_seg(struct interp *in, const struct uop *u)
{
        pop_selector(in, u);
        return interp_continue_after(in, u);
}

static const struct uop *load_far_pointer(struct interp *in, const struct uop *u, unsigned seg)
{
        const u64 linear = ea_linear(in, u, u->size + 2u, MMU_READ);
        const u64 offset = mem_read(in, u, linear, u->size);
        const u16 selector = (u16)mem_read(in, u, linear + u->size, 2);

        sys_load_segment(in, u, seg, selector);
        reg_write(in, u->r1, offset, u->size);
        return interp_continue_after(in, u);
}

#define LOAD_FAR(name, seg)                                                                        \
        const struct uop *name(struct interp *in, const struct uop *u)                             \
        {                                                                                          \
                return load_far_pointer(in, u, seg);                                               \
        }
LOAD_FAR(sys_lds, SEG_DS)
LOAD_FAR(sys_les, SEG_ES)
LOAD_FAR(sys_lfs, SEG_FS)
LOAD_FAR(sys_lgs, SEG_GS)
LOAD_FAR(sys_lss, SEG_SS)

/* ---- GDTR, IDTR ---- */

static const struct uop *load_table(struct interp *in, const struct uop *u, struct dtable *table)
{
        const unsigned base_size = in->mode & MODE_LONG64 ? 8 : 4;
        const u64 linear = ea_linear(in, u, 2 + base_size, MMU_READ);
        const u16 limit = (u16)mem_read(in, u, linear, 2);
        u64 base = mem_read(in, u, linear + 2, base_size);

        if (base_size == 8 && !mmu_is_canonical(base))
                sys_gp0(in, u);
        if (base_size == 4 && u->size == 2)
                base &= 0xffffff;
        *table = (struct dtable){ .base = base, .limit = limit };
        return interp_continue_after(in, u);
}

const struct uop *sys_lgdt(struct interp *in, const struct uop *u)
{
        return load_table(in, u, &in->cpu->gdtr);
}

const struct uop *sys_lidt(struct interp *in, const struct uop *u)
{
        return load_table(in, u, &in->cpu->idtr);
}

SYS_BODY void store_table(struct interp *in, const struct uop *u, const struct dtable *table)
{
        const unsigned base_size = in->mode & MODE_LONG64 ? 8 : 4;
        u8 image[10];

        sys_check_umip(in, u);
        __builtin_memcpy(image, &table->limit, 2);
        __builtin_memcpy(image + 2, &table->base, base_size); /* all of it with 16-bit operands too: only the 80286 did otherwise */
        mem_write_bytes(in, u, ea_linear(in, u, 2 + base_size, MMU_WRITE), image, 2 + base_size);
}

const struct uop *sys_sgdt(struct interp *in, const struct uop *u)
{
        store_table(in, u, &in->cpu->gdtr);
        SLOW_NEXT(u);
}

const struct uop *sys_sidt(struct interp *in, const struct uop *u)
{
        store_table(in, u, &in->cpu->idtr);
        SLOW_NEXT(u);
}

/* ---- LDTR, TR ---- */

/* The system descriptor that LLDT or LTR loads. */
static struct descriptor system_descriptor(struct interp *in, const struct uop *u, u16 selector, enum system_kind kind)
{
        const unsigned bytes = cpu_long_mode(in->cpu) ? 16 : 8;
        const struct system_type *type;
        struct descriptor d;

        if ((selector & 4) || !sys_fetch_descriptor(in, u, selector, bytes, &d))
                sys_fault(in, u, EXC_GP, selector);
        type = sys_system_type(in, d.attr);
        if (type->kind != kind || type->busy || !mmu_is_canonical(d.base))
                sys_fault(in, u, EXC_GP, selector);
        if (!desc_present(d.attr))
                sys_fault(in, u, EXC_NP, selector);
        return d;
}

SYS_BODY void load_ldtr(struct interp *in, const struct uop *u)
{
        const u16 selector = selector_operand(in, u, u->r1);

        if (selector_is_null(selector)) {
                in->cpu->ldtr = (struct seg){ .selector = selector, .unusable = true };
        } else {
                const struct descriptor d = system_descriptor(in, u, selector, SYSTEM_LDT);

                in->cpu->ldtr = sys_seg_from(&d, selector);
        }
}

const struct uop *sys_lldt(struct interp *in, const struct uop *u)
{
        load_ldtr(in, u);
        return interp_continue_after(in, u);
}

SYS_BODY void load_tr(struct interp *in, const struct uop *u)
{
        const u16 selector = selector_operand(in, u, u->r1);
        struct descriptor d;

        if (selector_is_null(selector))
                sys_gp0(in, u);
        d = system_descriptor(in, u, selector, SYSTEM_TSS);
        mem_or_byte_system(in, u, d.linear + 5, TYPE_TSS_BUSY);
        d.attr |= TYPE_TSS_BUSY;
        in->cpu->tr = sys_seg_from(&d, selector);
}

const struct uop *sys_ltr(struct interp *in, const struct uop *u)
{
        load_tr(in, u);
        return interp_continue_after(in, u);
}

static const struct uop *store_selector(struct interp *in, const struct uop *u, u16 selector)
{
        sys_check_umip(in, u);
        if (u->flags & UOP_MEM) {
                mem_write(in, u, ea_linear(in, u, 2, MMU_WRITE), selector, 2);
                SLOW_NEXT(u);
        }
        reg_write(in, u->r1, selector, u->size);
        NEXT(u);
}

const struct uop *sys_sldt(struct interp *in, const struct uop *u)
{
        return store_selector(in, u, in->cpu->ldtr.selector);
}

const struct uop *sys_str(struct interp *in, const struct uop *u)
{
        return store_selector(in, u, in->cpu->tr.selector);
}

/* ---- LAR, LSL, VERR, VERW, ARPL: answers in ZF ---- */

static void set_zf(struct interp *in, bool zf)
{
        const u16 bit = (u16)(RFLAGS_ZF << 8); /* LAHF form: see flags_from_rflags */

        in->flags = (u16)(zf ? in->flags | bit : in->flags & ~bit);
}

/* May code of this CPL and RPL know about the segment? */
static bool visible(const struct interp *in, const struct descriptor *d)
{
        const unsigned dpl = desc_dpl(d->attr);

        return desc_is_conforming(d->attr) || (in->cpu->cpl <= dpl && (d->selector & 3u) <= dpl);
}

/* Types that LAR and LSL accept. SDM 2A, tables 3-53 and 3-57. */
static bool answers_lar(const struct interp *in, u16 attr)
{
        const enum system_kind kind = sys_system_type(in, attr)->kind;

        return (attr & SEG_ATTR_S) || kind == SYSTEM_TSS || kind == SYSTEM_LDT || kind == SYSTEM_CALL_GATE ||
               kind == SYSTEM_TASK_GATE;
}

static bool answers_lsl(const struct interp *in, u16 attr)
{
        const enum system_kind kind = sys_system_type(in, attr)->kind;

        return (attr & SEG_ATTR_S) || kind == SYSTEM_TSS || kind == SYSTEM_LDT;
}

static bool look_up(struct interp *in, const struct uop *u, u16 selector, struct descriptor *ret)
{
        return !selector_is_null(selector) && sys_fetch_descriptor(in, u, selector, 8, ret) && visible(in, ret);
}

SYS_BODY void access_rights(struct interp *in, const struct uop *u)
{
        const u16 selector = selector_operand(in, u, u->r2);
        struct descriptor d;
        const bool ok = look_up(in, u, selector, &d) && answers_lar(in, d.attr);

        if (ok)
                reg_write(in, u->r1, d.raw >> 32 & 0xffff00, u->size);
        set_zf(in, ok);
}

const struct uop *sys_lar(struct interp *in, const struct uop *u)
{
        access_rights(in, u);
        NEXT(u);
}

SYS_BODY void segment_limit(struct interp *in, const struct uop *u)
{
        const u16 selector = selector_operand(in, u, u->r2);
        struct descriptor d;
        const bool ok = look_up(in, u, selector, &d) && answers_lsl(in, d.attr);

        if (ok)
                reg_write(in, u->r1, d.limit, u->size);
        set_zf(in, ok);
}

const struct uop *sys_lsl(struct interp *in, const struct uop *u)
{
        segment_limit(in, u);
        NEXT(u);
}

SYS_BODY void verify_read(struct interp *in, const struct uop *u)
{
        const u16 selector = selector_operand(in, u, u->r1);
        struct descriptor d;

        set_zf(in, look_up(in, u, selector, &d) && (d.attr & SEG_ATTR_S) &&
                           (!desc_is_code(d.attr) || (d.attr & TYPE_READABLE)));
}

const struct uop *sys_verr(struct interp *in, const struct uop *u)
{
        verify_read(in, u);
        NEXT(u);
}

SYS_BODY void verify_write(struct interp *in, const struct uop *u)
{
        const u16 selector = selector_operand(in, u, u->r1);
        struct descriptor d;

        set_zf(in, look_up(in, u, selector, &d) && desc_is_writable_data(d.attr));
}

const struct uop *sys_verw(struct interp *in, const struct uop *u)
{
        verify_write(in, u);
        NEXT(u);
}

/* Raises the RPL of the destination to that of the source register. With memory the only register operand is r1. */
const struct uop *sys_arpl(struct interp *in, const struct uop *u)
{
        const bool memory = u->flags & UOP_MEM;
        const u64 linear = memory ? ea_linear(in, u, 2, MMU_READ) : 0;
        const u16 source = (u16)reg_read(in, memory ? u->r1 : u->r2, 2);
        u16 value = (u16)(memory ? mem_read(in, u, linear, 2) : reg_read(in, u->r1, 2));
        const bool adjust = (value & 3) < (source & 3);

        if (adjust)
                value = (u16)((value & ~3u) | (source & 3u));
        if (adjust && memory) /* only then must it be writable */
                mem_write(in, u, ea_linear(in, u, 2, MMU_WRITE), value, 2);
        else if (adjust)
                reg_write(in, u->r1, value, 2);
        set_zf(in, adjust);
        SLOW_NEXT(u);
}

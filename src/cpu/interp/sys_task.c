/* Hardware task switches. SDM 3A, 7.3.
 *
 * Order: the new TSS is read and the old one proved writable first, so that a page fault there belongs to the old task. Then the
 * old state is saved, the new registers loaded: the commit point. What fails later (LDT, segment selectors, the
 * entry point) is a fault of the new task, at its first instruction, with the segments loaded so far. */
#include "sys.h"

/* Offsets in the two kinds of TSS. SDM 3A, figures 7-2 and 7-10. */
static const struct tss_layout {
        u8 size;       /* of a register, bytes */
        u8 bytes;      /* in all */
        u8 cr3, ip, flags, gprs, segments, ldt;
        u8 n_segments;
        u8 first_dynamic, last_dynamic; /* what a switch writes */
} layouts[2] = {
        { .size = 2, .bytes = 0x2c, .ip = 0x0e, .flags = 0x10, .gprs = 0x12, .segments = 0x22, .ldt = 0x2a,
          .n_segments = 4, .first_dynamic = 0x0e, .last_dynamic = 0x29 },
        { .size = 4, .bytes = 0x68, .cr3 = 0x1c, .ip = 0x20, .flags = 0x24, .gprs = 0x28, .segments = 0x48, .ldt = 0x60,
          .n_segments = 6, .first_dynamic = 0x20, .last_dynamic = 0x5f },
};
#define TSS_BYTES_MAX 0x68
#define TSS_T_FLAG 0x64

static const struct tss_layout *layout_of(u16 attr)
{
        return &layouts[attr & 8 ? 1 : 0];
}

/* A TSS as it lies in memory. */
struct tss_image {
        u8 bytes[TSS_BYTES_MAX];
};

static u32 image_get(const struct tss_image *image, unsigned at, unsigned size)
{
        u32 v = 0;

        __builtin_memcpy(&v, image->bytes + at, size);
        return v;
}

struct descriptor sys_task_find(struct interp *in, const struct uop *u, u16 selector, enum task_source source)
{
        const enum exception vector = source == TASK_IRET ? EXC_TS : EXC_GP;
        const struct system_type *type;
        struct descriptor d;

        if (selector_is_null(selector) || (selector & 4) || !sys_fetch_descriptor(in, u, selector, 8, &d))
                sys_fault(in, u, vector, selector);
        type = sys_system_type(in, d.attr);
        if (type->kind != SYSTEM_TSS || type->busy != (source == TASK_IRET))
                sys_fault(in, u, vector, selector);
        if (!desc_present(d.attr))
                sys_fault(in, u, EXC_NP, selector);
        return d;
}

static void read_image(struct interp *in, const struct uop *u, u64 base, const struct tss_layout *layout,
                       struct tss_image *ret)
{
        for (unsigned at = 0; at < layout->bytes; at += 4) {
                const u32 v = (u32)mem_read_system(in, u, (u32)(base + at), 4);

                __builtin_memcpy(ret->bytes + at, &v, 4);
        }
}

/* Reading and writing back the ends of what will be written raises what the saving could raise. */
static void probe_old(struct interp *in, const struct uop *u, u64 base, const struct tss_layout *layout)
{
        const u8 ends[] = { layout->first_dynamic, layout->last_dynamic };

        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                mem_or_byte_system(in, u, (u32)(base + ends[i]), 0);
}

static void set_busy(struct interp *in, const struct uop *u, u16 selector, bool busy)
{
        const u64 type_byte = (u32)(in->cpu->gdtr.base + (selector & 0xfff8u) + 5);
        const u64 v = mem_read_system(in, u, type_byte, 1);

        mem_write_system(in, u, type_byte, busy ? v | TYPE_TSS_BUSY : v & ~(u64)TYPE_TSS_BUSY, 1);
}

static void save_old(struct interp *in, const struct uop *u, const struct tss_layout *layout, u64 rip, u64 rflags)
{
        const u64 base = in->cpu->tr.base;
        const unsigned n = layout->size;

        mem_write_system(in, u, (u32)(base + layout->ip), rip, n);
        mem_write_system(in, u, (u32)(base + layout->flags), rflags, n);
        for (unsigned i = 0; i < 8; i++)
                mem_write_system(in, u, (u32)(base + layout->gprs + i * n), in->regs[i], n);
        /* The order in the TSS is that of enum segment. */
        for (unsigned i = 0; i < layout->n_segments; i++)
                mem_write_system(in, u, (u32)(base + layout->segments + i * n), in->cpu->seg[i].selector, 2);
}

/* A new CR3 comes with the task only under paging. A bad PDPTE is a fault of the new task. */
static bool load_cr3(struct interp *in, u32 value)
{
        struct paging_state paging = in->cpu->paging;

        if (!(paging.cr0 & CR0_PG) || paging.cr3 == value)
                return true;
        paging.cr3 = value;
        if ((paging.cr4 & CR4_PAE) && mmu_load_pdptes(in->vcpu->memory, &paging) < 0)
                return false;
        in->cpu->paging = paging;
        interp_flush_tlb_context(in);
        return true;
}

static void load_registers(struct interp *in, const struct tss_image *image, const struct tss_layout *layout)
{
        struct cpu_state *cpu = in->cpu;
        const unsigned n = layout->size;
        /* Reserved bits cannot be set through a TSS either. */
        const u64 valid = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF |
                          RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID;

        in->rip = image_get(image, layout->ip, n);
        interp_set_rflags(in, image_get(image, layout->flags, n) & valid);
        for (unsigned i = 0; i < 8; i++) {
                u64 v = image_get(image, layout->gprs + i * n, n);

                if (n == 2)
                        v |= in->regs[i] & 0xffff0000;
                in->regs[i] = v;
        }
        /* Selectors first and unchecked: a fault while the first descriptors are loaded shows them all. */
        for (unsigned i = 0; i < SEG_COUNT; i++) {
                const u16 selector = i < layout->n_segments ? (u16)image_get(image, layout->segments + i * n, 2) : 0;

                cpu->seg[i] = (struct seg){ .selector = selector, .unusable = true };
        }
        cpu->ldtr = (struct seg){ .selector = (u16)image_get(image, layout->ldt, 2), .unusable = true };
}

/* ---- after the commit point: u is NULL ---- */

static void load_ldt(struct interp *in)
{
        struct cpu_state *cpu = in->cpu;
        const u16 selector = cpu->ldtr.selector;
        struct descriptor d;

        if (selector_is_null(selector))
                return;
        if ((selector & 4) || !sys_fetch_descriptor(in, NULL, selector, 8, &d) ||
            sys_system_type(in, d.attr)->kind != SYSTEM_LDT || !desc_present(d.attr))
                sys_fault(in, NULL, EXC_TS, selector);
        cpu->ldtr = sys_seg_from(&d, selector);
}

static void load_task_cs(struct interp *in)
{
        struct cpu_state *cpu = in->cpu;
        const u16 selector = cpu->seg[SEG_CS].selector;
        const unsigned rpl = selector & 3;
        struct descriptor d;

        if (selector_is_null(selector) || !sys_fetch_descriptor(in, NULL, selector, 8, &d) || !desc_is_code(d.attr) ||
            (desc_is_conforming(d.attr) ? desc_dpl(d.attr) > rpl : desc_dpl(d.attr) != rpl))
                sys_fault(in, NULL, EXC_TS, selector);
        if (!desc_present(d.attr))
                sys_fault(in, NULL, EXC_NP, selector);
        sys_mark_accessed(in, NULL, &d);
        cpu->seg[SEG_CS] = sys_seg_from(&d, selector);
}

static void load_task_ss(struct interp *in)
{
        struct cpu_state *cpu = in->cpu;
        const u16 selector = cpu->seg[SEG_SS].selector;
        struct descriptor d;

        if (selector_is_null(selector) || !sys_fetch_descriptor(in, NULL, selector, 8, &d))
                sys_fault(in, NULL, EXC_TS, selector);
        sys_check_stack_segment(in, NULL, &d, cpu->cpl, EXC_TS);
        sys_mark_accessed(in, NULL, &d);
        cpu->seg[SEG_SS] = sys_seg_from(&d, selector);
}

static void load_task_data(struct interp *in, unsigned seg)
{
        struct cpu_state *cpu = in->cpu;
        const u16 selector = cpu->seg[seg].selector;
        struct descriptor d;

        if (selector_is_null(selector))
                return;
        if (!sys_fetch_descriptor(in, NULL, selector, 8, &d) || !(d.attr & SEG_ATTR_S) ||
            (desc_is_code(d.attr) && !(d.attr & TYPE_READABLE)) ||
            (!desc_is_conforming(d.attr) && ((selector & 3u) > desc_dpl(d.attr) || cpu->cpl > desc_dpl(d.attr))))
                sys_fault(in, NULL, EXC_TS, selector);
        if (!desc_present(d.attr))
                sys_fault(in, NULL, EXC_NP, selector);
        sys_mark_accessed(in, NULL, &d);
        cpu->seg[seg] = sys_seg_from(&d, selector);
}

static void load_segments(struct interp *in)
{
        static const u8 data_segments[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
        struct cpu_state *cpu = in->cpu;

        if (sys_vm86(in)) {
                for (unsigned i = 0; i < SEG_COUNT; i++)
                        sys_seg_real(&cpu->seg[i], cpu->seg[i].selector, true);
                cpu->cpl = 3;
                load_ldt(in);
                return;
        }
        cpu->cpl = (u8)(cpu->seg[SEG_CS].selector & 3);
        load_ldt(in);
        load_task_cs(in);
        load_task_ss(in);
        for (size_t i = 0; i < ARRAY_SIZE(data_segments); i++)
                load_task_data(in, data_segments[i]);
}

void sys_task_switch(struct interp *in, const struct uop *u, struct descriptor *tss, enum task_source source,
                     u64 next_rip, u64 rflags)
{
        struct cpu_state *cpu = in->cpu;
        const struct tss_layout *layout = layout_of(tss->attr), *old_layout = layout_of(cpu->tr.attr);
        const u16 old_selector = cpu->tr.selector;
        const bool nests = source == TASK_CALL || source == TASK_EVENT;
        struct tss_image image;

        if (tss->limit < layout->bytes - 1u || cpu->tr.limit < old_layout->bytes - 1u)
                sys_fault(in, u, EXC_TS, tss->selector);
        read_image(in, u, tss->base, layout, &image);
        probe_old(in, u, cpu->tr.base, old_layout);

        if (source == TASK_JMP || source == TASK_IRET)
                set_busy(in, u, old_selector, false);
        if (source == TASK_IRET)
                rflags &= ~RFLAGS_NT;
        save_old(in, u, old_layout, next_rip, rflags);
        if (nests)
                mem_write_system(in, u, (u32)tss->base, old_selector, 2);
        if (source != TASK_IRET)
                set_busy(in, u, tss->selector, true);

        cpu->tr = sys_seg_from(tss, tss->selector);
        cpu->tr.attr |= TYPE_TSS_BUSY;
        cpu->paging.cr0 |= CR0_TS;
        cpu->dr[7] &= ~0x155ULL; /* L0-L3, LE */
        load_registers(in, &image, layout);
        if (nests)
                in->rflags |= RFLAGS_NT;
        if (!load_cr3(in, layout->cr3 ? image_get(&image, layout->cr3, 4) : (u32)cpu->paging.cr3))
                sys_fault(in, NULL, EXC_TS, tss->selector);
        interp_mode_changed(in);
        load_segments(in);
        interp_mode_changed(in);
        if (layout->size == 4 && (image.bytes[TSS_T_FLAG] & 1))
                in->pending_dr6 |= BIT(15); /* BT */
}

void sys_task_enter(struct interp *in)
{
        const u64 dr6 = in->pending_dr6;

        sys_check_rip(in, NULL, &in->cpu->seg[SEG_CS], in->rip);
        if (!(dr6 & BIT(15)))
                return;
        in->pending_dr6 = 0;
        sys_raise_step_trap(in, in->rip, dr6);
}

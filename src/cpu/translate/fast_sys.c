/* System instructions that kernel-heavy loads are made of: the ways between user and kernel mode, and what a context switch needs. See fast.c for the
 * rules of this file.
 *
 * Each function does what the instruction usually does and leaves everything else to the interpreter, with nothing changed: faults, other modes,
 * single steps, interrupts that wait for IF. In translated code no breakpoint is set and RFLAGS.TF is clear (MODE_SINGLE). */
#include <sys/syscall.h>

#include "base/clock.h"
#include "runtime.h"

#include "../interp/sys.h"

#define GUARDED_FLAGS (RFLAGS_TF | RFLAGS_NT | RFLAGS_VM) /* nothing with these set is usual */

/* ---- state ---- */

static u64 all_rflags(const struct interp *in)
{
        return in->rflags | (in->flags_image & RFLAGS_ARITH);
}

static void set_all_rflags(struct interp *in, u64 value)
{
        in->rflags = (value & ~RFLAGS_ARITH) | RFLAGS_FIXED;
        in->flags_image = (value & RFLAGS_ARITH) | RFLAGS_FIXED;
}

void fast_mode_changed(struct interp *in)
{
        const struct cpu_state *cpu = in->cpu;
        const bool user = cpu->cpl == 3;

        in->mode &= ~(u32)(MODE_USER | MODE_STACK32);
        in->mode |= (user ? MODE_USER : 0u) | (cpu->seg[SEG_SS].attr & SEG_ATTR_DB ? MODE_STACK32 : 0u);
        interp_set_tlb_mode(in, translate_tlb_mode(in));
        in->key = in->mode | (user ? in->tlb.space : &in->tlb.kernel)->generation << MODE_BITS;
}

/* An interrupt waits for IF to be set, which @rflags does. */
static bool lets_interrupt_in(const struct interp *in, u64 rflags)
{
        return rflags & RFLAGS_IF && in->irq_waiting;
}

static const void *leave(struct interp *in)
{
        return fast_leave(in, INTERP_REASON_SYSTEM);
}

/* ---- between the rings ---- */

/* SDM 2B, SYSCALL. */
const void *fast_syscall(struct interp *in, const struct site *site, u64 unused)
{
        struct cpu_state *cpu = in->cpu;
        const u16 cs = (u16)(bits(cpu->star, 47, 32) & 0xfffc);

        if (!(cpu->paging.efer & EFER_SCE))
                return leave(in);
        in->regs[RCX] = in->rip + site->access;
        in->regs[R11] = all_rflags(in) & ~RFLAGS_RF;
        set_all_rflags(in, in->regs[R11] & ~cpu->sfmask);
        sys_load_flat_cs_ss(cpu, cs, (u16)(cs + 8), 0, true);
        fast_mode_changed(in);
        in->rip = cpu->lstar;
        return fast_go(in);
}

/* SDM 2B, SYSRET, to 64-bit code. */
const void *fast_sysret(struct interp *in, const struct site *site, u64 unused)
{
        struct cpu_state *cpu = in->cpu;
        const u16 base = (u16)bits(cpu->star, 63, 48);
        const u64 rip = in->regs[RCX], rflags = in->regs[R11] & 0x3c7fd7;

        if (site->size != 8 || !(cpu->paging.efer & EFER_SCE) || !mmu_is_canonical(rip) || rflags & GUARDED_FLAGS ||
            lets_interrupt_in(in, rflags))
                return leave(in);
        set_all_rflags(in, rflags);
        sys_load_flat_cs_ss(cpu, (u16)((base + 16) | 3), (u16)((base + 8) | 3), 3, true);
        fast_mode_changed(in);
        in->rip = rip;
        return fast_go(in);
}

/* The descriptor that @selector names in the GDT, when it can be read without more ado. */
static bool read_descriptor(struct interp *in, u16 selector, struct descriptor *ret)
{
        const struct dtable *gdt = &in->cpu->gdtr;
        const void *raw;

        if (selector & 4 || (selector | 7u) > gdt->limit)
                return false;
        raw = fast_memory(in, TLB_KERNEL, MMU_READ, gdt->base + (selector & ~7u), 8);
        if (raw)
                *ret = sys_parse_descriptor(selector, fast_read64(raw), 0);
        return raw;
}

/* A 64-bit code segment of privilege @dpl that has been used before. */
bool fast_code_segment(struct interp *in, u16 selector, unsigned dpl, struct seg *ret)
{
        const u16 need = SEG_ATTR_P | SEG_ATTR_S | TYPE_CODE | TYPE_ACCESSED | SEG_ATTR_L;
        const u16 look = need | TYPE_CONFORMING | SEG_ATTR_DB;
        struct descriptor d;

        if (selector_is_null(selector) || !read_descriptor(in, selector, &d) || (d.attr & look) != need || desc_dpl(d.attr) != dpl)
                return false;
        *ret = sys_seg_from(&d, (u16)((selector & ~3u) | dpl));
        return true;
}

/* A stack segment of privilege @dpl, or the null selector that 64-bit kernel code may have. */
static bool stack_segment(struct interp *in, u16 selector, unsigned dpl, struct seg *ret)
{
        const u16 need = SEG_ATTR_P | SEG_ATTR_S | TYPE_WRITABLE | TYPE_ACCESSED;
        struct descriptor d;

        if ((selector & 3u) != dpl)
                return false;
        if (selector_is_null(selector)) {
                *ret = (struct seg){ .selector = selector, .attr = (u16)(dpl << 5), .unusable = true };
                return dpl != 3;
        }
        if (!read_descriptor(in, selector, &d) || (d.attr & (need | TYPE_CODE)) != need || desc_dpl(d.attr) != dpl)
                return false;
        *ret = sys_seg_from(&d, selector);
        return true;
}

/* SDM 2A, IRET, from ring 0 to 64-bit code of ring 0 or 3. */
const void *fast_iret(struct interp *in, const struct site *site, u64 unused)
{
        enum { FRAME_RIP, FRAME_CS, FRAME_RFLAGS, FRAME_RSP, FRAME_SS, FRAME_WORDS };
        const u64 may_change = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID | RFLAGS_IF |
                               RFLAGS_IOPL | RFLAGS_VIF | RFLAGS_VIP;
        struct cpu_state *cpu = in->cpu;
        const u8 *top = fast_memory(in, translate_tlb_mode(in), MMU_READ, in->regs[RSP], FRAME_WORDS * 8);
        u64 frame[FRAME_WORDS];
        struct seg cs, ss;
        unsigned rpl;
        u64 rflags;

        if (!top || in->rflags & RFLAGS_NT || cpu->nmi_masked)
                return leave(in);
        for (unsigned i = 0; i < FRAME_WORDS; i++)
                frame[i] = fast_read64(top + i * 8);
        rpl = frame[FRAME_CS] & 3;
        rflags = (all_rflags(in) & ~may_change) | (frame[FRAME_RFLAGS] & may_change);
        if ((rpl != 0 && rpl != 3) || rflags & GUARDED_FLAGS || lets_interrupt_in(in, rflags) || !mmu_is_canonical(frame[FRAME_RIP]) ||
            !fast_code_segment(in, (u16)frame[FRAME_CS], rpl, &cs) || !stack_segment(in, (u16)frame[FRAME_SS], rpl, &ss))
                return leave(in);
        in->rip = frame[FRAME_RIP];
        in->regs[RSP] = frame[FRAME_RSP];
        cpu->seg[SEG_CS] = cs;
        cpu->seg[SEG_SS] = ss;
        cpu->cpl = (u8)rpl;
        if (rpl)
                sys_drop_inner_segments(in);
        set_all_rflags(in, rflags);
        fast_mode_changed(in);
        return fast_go(in);
}

/* ---- segment bases ---- */

static void set_base(struct interp *in, unsigned seg, u64 base)
{
        in->cpu->seg[seg].base = base;
        in->seg_base[seg] = base;
}

const void *fast_swapgs(struct interp *in, const struct site *site, u64 unused)
{
        const u64 base = in->cpu->seg[SEG_GS].base;

        set_base(in, SEG_GS, in->cpu->kernel_gs_base);
        in->cpu->kernel_gs_base = base;
        return fast_done(in, site);
}

/* Register and width of the register operand: see emit_sys.c. */
static const void *write_register(struct interp *in, const struct site *site, u64 value)
{
        in->regs[site->size & 15] = site->size & SYS_WIDE ? value : (u32)value;
        return fast_done(in, site);
}

static const void *read_base(struct interp *in, const struct site *site, unsigned seg)
{
        if (!(in->cpu->paging.cr4 & CR4_FSGSBASE))
                return leave(in);
        return write_register(in, site, in->cpu->seg[seg].base);
}

static const void *write_base(struct interp *in, const struct site *site, unsigned seg, u64 value)
{
        const u64 base = site->size & SYS_WIDE ? value : (u32)value;

        if (!(in->cpu->paging.cr4 & CR4_FSGSBASE) || !mmu_is_canonical(base))
                return leave(in);
        set_base(in, seg, base);
        return fast_done(in, site);
}

const void *fast_rdfsbase(struct interp *in, const struct site *site, u64 unused)
{
        return read_base(in, site, SEG_FS);
}

const void *fast_rdgsbase(struct interp *in, const struct site *site, u64 unused)
{
        return read_base(in, site, SEG_GS);
}

const void *fast_wrfsbase(struct interp *in, const struct site *site, u64 value)
{
        return write_base(in, site, SEG_FS, value);
}

const void *fast_wrgsbase(struct interp *in, const struct site *site, u64 value)
{
        return write_base(in, site, SEG_GS, value);
}

/* ---- flags ---- */

/* SDM 2B, STI. The instruction behind it runs before interrupts are taken: should a kick come just then, the outer loop finds out by sti_rip. */
const void *fast_sti(struct interp *in, const struct site *site, u64 unused)
{
        if (!(in->rflags & RFLAGS_IF)) {
                if (in->irq_waiting)
                        return leave(in);
                in->rflags |= RFLAGS_IF;
                in->translate->sti_rip = in->rip + site->access;
        }
        return fast_done(in, site);
}

const void *fast_popf(struct interp *in, const struct site *site, u64 unused)
{
        const u64 old = all_rflags(in);
        const void *top = fast_memory(in, translate_tlb_mode(in), MMU_READ, in->regs[RSP], 8);
        u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID, rflags;

        if (!top)
                return leave(in);
        if (in->cpu->cpl <= bits(in->rflags, 13, 12))
                mask |= RFLAGS_IF;
        if (in->cpu->cpl == 0)
                mask |= RFLAGS_IOPL;
        rflags = (old & ~mask) | (fast_read64(top) & mask);
        /* A block is translated for one value of AC in the kernel. */
        if ((old ^ rflags) & (RFLAGS_TF | RFLAGS_NT | RFLAGS_AC) || lets_interrupt_in(in, rflags & ~old))
                return leave(in);
        in->regs[RSP] += 8;
        set_all_rflags(in, rflags);
        return fast_done(in, site);
}

/* ---- time ---- */

static bool read_tsc(struct interp *in)
{
        const u64 tsc = clock_tsc() + in->cpu->tsc_offset;

        if (in->cpu->cpl != 0 && in->cpu->paging.cr4 & CR4_TSD)
                return false;
        in->regs[RAX] = (u32)tsc;
        in->regs[RDX] = tsc >> 32;
        return true;
}

const void *fast_rdtsc(struct interp *in, const struct site *site, u64 unused)
{
        return read_tsc(in) ? fast_done(in, site) : leave(in);
}

const void *fast_rdtscp(struct interp *in, const struct site *site, u64 unused)
{
        if (!read_tsc(in))
                return leave(in);
        in->regs[RCX] = (u32)in->cpu->tsc_aux;
        return fast_done(in, site);
}

/* As the interpreter does it (sys_pause). The system call leaves the vector registers alone. */
const void *fast_pause(struct interp *in, const struct site *site, u64 unused)
{
        struct counters *counters = &in->vcpu->counters;

        if (in->vcpu->n_vcpus > 1) {
                exit_count(counters, EXIT_PAUSE);
                if (counters->exits[EXIT_PAUSE] % PAUSES_PER_YIELD == 0) {
                        long r = SYS_sched_yield;

                        __asm__ volatile("syscall" : "+a"(r) : : "rcx", "r11", "memory");
                }
        }
        return fast_done(in, site);
}

/* ---- address spaces ---- */

const void *fast_read_cr(struct interp *in, const struct site *site, u64 unused)
{
        const struct cpu_state *cpu = in->cpu;
        const u64 values[] = { cpu->paging.cr0, 0, cpu->cr2, cpu->paging.cr3, cpu->paging.cr4 };

        return write_register(in, site, values[site->size >> SYS_SOURCE_SHIFT]);
}

#define CR3_NO_FLUSH BIT(63)

/* SDM 2B, MOV to CR3, in IA-32e mode; 3A, 4.10.4.1. The block ends here: what the TLB holds of its page may have gone. */
const void *fast_write_cr3(struct interp *in, const struct site *site, u64 value)
{
        struct cpu_state *cpu = in->cpu;
        const bool pcid = cpu->paging.cr4 & CR4_PCIDE;
        const bool keep = pcid && value & CR3_NO_FLUSH;

        if (pcid)
                value &= ~CR3_NO_FLUSH;
        if (value >> MMU_MAXPHYADDR || fast_is_traced())
                return leave(in);
        cpu->paging.cr3 = value;
        if (pcid) {
                tlb_switch_pcid(&in->tlb, (u16)(value & 0xfff), keep);
        } else {
                tlb_flush_context(&in->tlb);
                counter_inc(&in->vcpu->counters, COUNTER_TLB_FLUSHES);
        }
        fast_mode_changed(in);
        in->rip += site->access;
        return fast_go(in);
}

/* SDM 2A, INVLPG. */
const void *fast_invlpg(struct interp *in, const struct site *site, u64 gva)
{
        const unsigned first = jump_slot(gva & PAGE_MASK) & ~((1u << JUMP_CACHE_OFFSET_BITS) - 1);

        if (!mmu_is_canonical(gva) || fast_is_traced())
                return leave(in);
        tlb_flush_page(&in->tlb, gva);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_PAGE_FLUSHES);
        /* What the interpreter remembers of the page. */
        for (unsigned i = first; in->jump_cache_used && i < first + (1u << JUMP_CACHE_OFFSET_BITS); i++)
                in->jump_cache[i].key = 0;
        fast_mode_changed(in);
        in->rip += site->access;
        return fast_go(in);
}

/* Instructions that reach for the rest of the machine: HLT, TLB invalidation, time, MSRs, CPUID, segment bases, ports. SDM 2A-2C by name. */
#include <sched.h>

#include "sys.h"

#include "base/clock.h"
#include "cpu/cpuid_model.h"
#include "cpu/msr.h"

/* ---- idle ---- */

const struct uop *sys_hlt(struct interp *in, const struct uop *u)
{
        in->rip = interp_next_rip(in, u);
        in->cpu->halted = true;
        in->halted_now = true;
        exit_count(&in->vcpu->counters, EXIT_HLT);
        return NULL;
}

const struct uop *sys_pause(struct interp *in, const struct uop *u)
{
        struct counters *counters = &in->vcpu->counters;

        if (in->vcpu->n_vcpus > 1) {
                exit_count(counters, EXIT_PAUSE);
                if (counters->exits[EXIT_PAUSE] % PAUSES_PER_YIELD == 0)
                        sched_yield();
        }
        NEXT(u);
}

/* Caches are coherent by nature here. */
const struct uop *sys_cache_op(struct interp *in, const struct uop *u)
{
        NEXT(u);
}

/* MONITOR and MWAIT are not in the CPU model. */
const struct uop *sys_monitor(struct interp *in, const struct uop *u)
{
        sys_ud(in, u);
}

const struct uop *sys_undefined(struct interp *in, const struct uop *u)
{
        sys_ud(in, u);
}

/* ---- TLB ---- */

const struct uop *sys_invlpg(struct interp *in, const struct uop *u)
{
        const u64 gva = in->seg_base[u->seg] + ea_offset(in, u);

        if (!(in->mode & MODE_LONG64))
                interp_flush_tlb_page(in, (u32)gva);
        else if (mmu_is_canonical(gva))
                interp_flush_tlb_page(in, gva);
        return interp_continue_after(in, u);
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_NON_GLOBAL, INVPCID_TYPES };

const struct uop *sys_invpcid(struct interp *in, const struct uop *u)
{
        const struct paging_state *ps = &in->cpu->paging;
        const u64 type = reg_read(in, u->r1, in->mode & MODE_LONG64 ? 8 : 4);
        const u16 current = (ps->cr4 & CR4_PCIDE) ? (u16)(ps->cr3 & 0xfff) : 0;
        u64 linear, pcid, gva;

        if (!cpuid_has(CPUID_INVPCID))
                sys_ud(in, u);
        linear = ea_linear(in, u, 16, MMU_READ);
        pcid = mem_read(in, u, linear, 8);
        gva = mem_read(in, u, linear + 8, 8);
        if (type >= INVPCID_TYPES || (type <= INVPCID_CONTEXT && pcid >> 12) ||
            (type <= INVPCID_CONTEXT && !(ps->cr4 & CR4_PCIDE) && pcid) ||
            (type == INVPCID_ADDRESS && !mmu_is_canonical(gva)))
                sys_gp0(in, u);
        if (type == INVPCID_ALL)
                interp_flush_tlb(in);
        else if (type == INVPCID_ALL_NON_GLOBAL)
                interp_flush_tlb_non_global(in);
        else if (type == INVPCID_ADDRESS)
                interp_flush_tlb_page(in, gva);
        else if (pcid == current)
                interp_flush_tlb_context(in);
        else
                tlb_flush_pcid(&in->tlb, (u16)pcid);
        return interp_continue_after(in, u);
}

/* ---- time ---- */

static void check_tsd(struct interp *in, const struct uop *u)
{
        if (in->cpu->cpl != 0 && (in->cpu->paging.cr4 & CR4_TSD))
                sys_gp0(in, u);
}

static void put_edx_eax(struct interp *in, u64 value)
{
        in->regs[RAX] = (u32)value;
        in->regs[RDX] = value >> 32;
}

const struct uop *sys_rdtsc(struct interp *in, const struct uop *u)
{
        check_tsd(in, u);
        put_edx_eax(in, clock_tsc() + in->cpu->tsc_offset);
        NEXT(u);
}

const struct uop *sys_rdtscp(struct interp *in, const struct uop *u)
{
        if (!cpuid_has(CPUID_RDTSCP))
                sys_ud(in, u);
        check_tsd(in, u);
        put_edx_eax(in, clock_tsc() + in->cpu->tsc_offset);
        in->regs[RCX] = (u32)in->cpu->tsc_aux;
        NEXT(u);
}

/* There are no performance counters. */
const struct uop *sys_rdpmc(struct interp *in, const struct uop *u)
{
        sys_gp0(in, u);
}

/* Not in the CPU model. */
const struct uop *sys_rdpid(struct interp *in, const struct uop *u)
{
        sys_ud(in, u);
}

/* ---- MSRs, CPUID ---- */

SYS_BODY u64 read_msr(struct interp *in, const struct uop *u)
{
        u64 value;

        if (cpu_msr_read(in->vcpu, (u32)in->regs[RCX], &value) < 0)
                sys_gp0(in, u);
        exit_count(&in->vcpu->counters, EXIT_MSR_READ);
        return value;
}

const struct uop *sys_rdmsr(struct interp *in, const struct uop *u)
{
        put_edx_eax(in, read_msr(in, u));
        NEXT(u);
}

const struct uop *sys_wrmsr(struct interp *in, const struct uop *u)
{
        const u32 msr = (u32)in->regs[RCX];
        const u64 value = (in->regs[RDX] & 0xffffffff) << 32 | (u32)in->regs[RAX];
        const u64 old_efer = in->cpu->paging.efer;

        if (cpu_msr_write(in->vcpu, msr, value) < 0)
                sys_gp0(in, u);
        exit_count(&in->vcpu->counters, EXIT_MSR_WRITE);
        /* EFER.NXE changes the meaning of page-table entries. */
        if ((in->cpu->paging.efer ^ old_efer) & EFER_NX)
                interp_flush_tlb(in);
        else
                interp_mode_changed(in);
        return interp_continue_after(in, u);
}

SYS_BODY void execute_cpuid(struct interp *in)
{
        const u32 leaf = (u32)in->regs[RAX], subleaf = (u32)in->regs[RCX];
        struct cpuid_regs regs;

        cpuid_query(in->vcpu, leaf, subleaf, &regs);
        trace(CPUID, in->vcpu->index, leaf, subleaf);
        exit_count(&in->vcpu->counters, EXIT_CPUID);
        in->regs[RAX] = regs.eax;
        in->regs[RBX] = regs.ebx;
        in->regs[RCX] = regs.ecx;
        in->regs[RDX] = regs.edx;
}

const struct uop *sys_cpuid(struct interp *in, const struct uop *u)
{
        execute_cpuid(in);
        NEXT(u);
}

/* ---- segment bases ---- */

static void set_base(struct interp *in, unsigned seg, u64 base)
{
        in->cpu->seg[seg].base = base;
        in->seg_base[seg] = base; /* 64-bit mode: nothing else depends on it */
}

const struct uop *sys_swapgs(struct interp *in, const struct uop *u)
{
        const u64 base = in->cpu->seg[SEG_GS].base;

        set_base(in, SEG_GS, in->cpu->kernel_gs_base);
        in->cpu->kernel_gs_base = base;
        NEXT(u);
}

static void check_fsgsbase(struct interp *in, const struct uop *u)
{
        if (!(in->cpu->paging.cr4 & CR4_FSGSBASE))
                sys_ud(in, u);
}

/* An operand-size prefix changes nothing. */
static unsigned base_size(const struct uop *u)
{
        return u->size == 8 ? 8 : 4;
}

static const struct uop *read_base(struct interp *in, const struct uop *u, unsigned seg)
{
        check_fsgsbase(in, u);
        reg_write(in, u->r1, in->cpu->seg[seg].base, base_size(u));
        NEXT(u);
}

static const struct uop *write_base(struct interp *in, const struct uop *u, unsigned seg)
{
        const u64 base = reg_read(in, u->r1, base_size(u));

        check_fsgsbase(in, u);
        if (!mmu_is_canonical(base))
                sys_gp0(in, u);
        set_base(in, seg, base);
        NEXT(u);
}

const struct uop *sys_rdfsbase(struct interp *in, const struct uop *u)
{
        return read_base(in, u, SEG_FS);
}

const struct uop *sys_rdgsbase(struct interp *in, const struct uop *u)
{
        return read_base(in, u, SEG_GS);
}

const struct uop *sys_wrfsbase(struct interp *in, const struct uop *u)
{
        return write_base(in, u, SEG_FS);
}

const struct uop *sys_wrgsbase(struct interp *in, const struct uop *u)
{
        return write_base(in, u, SEG_GS);
}

/* ---- hypercalls ---- */

#define HYPERCALL_EPERM ((u64)-1)

/* Number in RAX, arguments in RBX, RCX, RDX, RSI, answer in RAX; kernel code only. Linux, Documentation/virt/kvm/x86/hypercalls.rst. */
SYS_BODY void hypercall(struct interp *in, const struct uop *u)
{
        const struct cpu_platform_ops *platform = in->vcpu->platform;
        const u64 mask = in->mode & MODE_LONG64 ? ~0ULL : 0xffffffff;
        const u64 args[4] = { in->regs[RBX] & mask, in->regs[RCX] & mask, in->regs[RDX] & mask, in->regs[RSI] & mask };
        u64 result = HYPERCALL_EPERM;

        if (!platform || !platform->hypercall)
                sys_ud(in, u);
        exit_count(&in->vcpu->counters, EXIT_HYPERCALL);
        if (in->cpu->cpl == 0)
                result = platform->hypercall(in->vcpu->platform_opaque, in->vcpu, in->regs[RAX] & mask, args);
        in->regs[RAX] = result & mask;
}

const struct uop *sys_vmcall(struct interp *in, const struct uop *u)
{
        hypercall(in, u);
        return interp_continue_after(in, u);
}

/* ---- ports ---- */

#define TSS_IO_MAP_BASE 0x66

/* The bitmap's bits for @size ports from @port on must be clear. Two bytes are read always. SDM 1, 19.5.2. */
static bool io_map_allows(struct interp *in, const struct uop *u, unsigned port, unsigned size)
{
        const struct seg *tr = &in->cpu->tr;
        const u64 wrap = cpu_long_mode(in->cpu) ? ~0ULL : 0xffffffff;
        u64 at, map;

        if (!(tr->attr & 8) || tr->limit < TSS_IO_MAP_BASE + 1) /* a 16-bit TSS has no map */
                return false;
        at = mem_read_system(in, u, (tr->base + TSS_IO_MAP_BASE) & wrap, 2) + port / 8;
        if (at + 1 > tr->limit)
                return false;
        map = mem_read_system(in, u, (tr->base + at) & wrap, 2);
        return !(map >> (port & 7) & (BIT(size) - 1));
}

void sys_check_io_permission(struct interp *in, const struct uop *u, unsigned port, unsigned size)
{
        const bool protected = in->cpu->paging.cr0 & CR0_PE;

        if (protected && (sys_vm86(in) || in->cpu->cpl > bits(in->rflags, 13, 12)) && !io_map_allows(in, u, port, size))
                sys_gp0(in, u);
        sys_io_breakpoint(in, port, size);
}

#define DX (RDX * 8u) /* as a register operand */

static unsigned port_number(const struct interp *in, const struct uop *u, bool in_dx)
{
        return in_dx ? (u16)in->regs[RDX] : (u8)u->imm;
}

/* REX.W means nothing to IN and OUT. */
static unsigned port_size(const struct uop *u)
{
        return u->size == 8 ? 4 : u->size;
}

SYS_BODY void input(struct interp *in, const struct uop *u)
{
        const unsigned port = port_number(in, u, u->r2 == DX), size = port_size(u);
        u64 value = 0;

        sys_check_io_permission(in, u, port, size);
        exit_count(&in->vcpu->counters, EXIT_PIO);
        io_read(in->vcpu->ports, port, size, &value);
        reg_write(in, RAX * 8, value, size);
}

const struct uop *sys_in(struct interp *in, const struct uop *u)
{
        input(in, u);
        return interp_continue_after(in, u);
}

const struct uop *sys_out(struct interp *in, const struct uop *u)
{
        const unsigned port = port_number(in, u, u->r1 == DX), size = port_size(u);

        sys_check_io_permission(in, u, port, size);
        exit_count(&in->vcpu->counters, EXIT_PIO);
        io_write(in->vcpu->ports, port, reg_read(in, RAX * 8, size), size);
        return interp_continue_after(in, u);
}

/* ---- BOUND ---- */

static s64 sign_extend(u64 v, unsigned size)
{
        return size == 2 ? (s16)v : (s32)v;
}

const struct uop *sys_bound(struct interp *in, const struct uop *u)
{
        const u64 linear = ea_linear(in, u, u->size * 2u, MMU_READ);
        const s64 index = sign_extend(reg_read(in, u->r1, u->size), u->size);
        const s64 low = sign_extend(mem_read(in, u, linear, u->size), u->size);
        const s64 high = sign_extend(mem_read(in, u, linear + u->size, u->size), u->size);

        if (index < low || index > high)
                interp_raise(in, u, EXC_BR, NO_ERROR_CODE);
        NEXT(u);
}

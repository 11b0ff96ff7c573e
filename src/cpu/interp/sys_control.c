/* Control registers, debug registers, XCR0. SDM 3A, 2.5-2.6; SDM 2B, MOV to/from control and debug registers; 3B, 17.2. */
#include "sys.h"

#include "cpu/cpuid_model.h"

#define CR0_WRITABLE (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH BIT(63)
#define CR3_PCID 0xfffULL
#define DR7_GD BIT(13)
#define DR6_BD BIT(13)

static u64 register_operand(const struct interp *in, const struct uop *u, unsigned byte_offset)
{
        return reg_read(in, byte_offset, in->mode & MODE_LONG64 ? 8 : 4);
}

/* ---- CR0 ---- */

/* Paging in PAE mode outside IA-32e mode reads the page-directory-pointer table when it is switched on or CR0/CR3/CR4 change. SDM 3A, 4.4.1. */
static void load_pdptes(struct interp *in, const struct uop *u, struct paging_state *ps)
{
        if ((ps->cr0 & CR0_PG) && (ps->cr4 & CR4_PAE) && !(ps->efer & EFER_LMA) &&
            mmu_load_pdptes(in->vcpu->memory, ps) < 0)
                sys_gp0(in, u);
}

/* IA-32e mode is entered and left with CR0.PG. SDM 3A, 9.8.5. */
static void switch_paging(struct interp *in, const struct uop *u, struct paging_state *ps, u64 value)
{
        const struct cpu_state *cpu = in->cpu;

        if (!(value & CR0_PG)) {
                if ((cpu->paging.cr4 & CR4_PCIDE) || cpu_64bit(cpu))
                        sys_gp0(in, u);
                ps->efer &= ~EFER_LMA;
                return;
        }
        if (!(cpu->paging.efer & EFER_LME))
                return;
        /* TR must not hold a 16-bit TSS, CS must not be a 64-bit segment already. */
        if (!(cpu->paging.cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_ATTR_L) || !(cpu->tr.attr & 8))
                sys_gp0(in, u);
        ps->efer |= EFER_LMA;
}

void sys_write_cr0(struct interp *in, const struct uop *u, u64 value)
{
        struct cpu_state *cpu = in->cpu;
        struct paging_state ps = cpu->paging;
        u64 changed;

        if (value >> 32 || ((value & CR0_NW) && !(value & CR0_CD)) || ((value & CR0_PG) && !(value & CR0_PE)))
                sys_gp0(in, u);
        value = (value & CR0_WRITABLE) | CR0_ET;
        changed = value ^ ps.cr0;
        if (changed & CR0_PG)
                switch_paging(in, u, &ps, value);
        ps.cr0 = value;
        if (changed & (CR0_PG | CR0_CD | CR0_NW))
                load_pdptes(in, u, &ps);
        trace(CR_WRITE, in->vcpu->index, 0, value);
        cpu->paging = ps;
        if (changed & CR0_PE)
                cpu->cpl = 0;
        if (changed & (CR0_PG | CR0_WP | CR0_PE))
                interp_flush_tlb(in);
        else
                interp_mode_changed(in);
}

/* ---- CR3 ---- */

SYS_BODY void write_cr3(struct interp *in, const struct uop *u, u64 value)
{
        struct cpu_state *cpu = in->cpu;
        struct paging_state ps = cpu->paging;
        const bool pcid = ps.cr4 & CR4_PCIDE;
        const bool keep = pcid && (value & CR3_NO_FLUSH);

        if (pcid)
                value &= ~CR3_NO_FLUSH;
        if (cpu_long_mode(cpu) && value >> MMU_MAXPHYADDR)
                sys_gp0(in, u);
        ps.cr3 = value;
        load_pdptes(in, u, &ps);
        trace(CR_WRITE, in->vcpu->index, 3, value);
        cpu->paging = ps;
        if (pcid)
                interp_switch_pcid(in, (u16)(value & CR3_PCID), keep);
        else
                interp_flush_tlb_context(in);
}

/* ---- CR4 ---- */

SYS_BODY void write_cr4(struct interp *in, const struct uop *u, u64 value)
{
        const u64 flushes = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP;
        const u64 reloads = CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP;
        struct cpu_state *cpu = in->cpu;
        struct paging_state ps = cpu->paging;
        const u64 changed = value ^ ps.cr4;

        if (value & ~cpuid_cr4_supported())
                sys_gp0(in, u);
        if (cpu_long_mode(cpu) && !(value & CR4_PAE))
                sys_gp0(in, u);
        if ((changed & value & CR4_PCIDE) && (!cpu_long_mode(cpu) || (ps.cr3 & CR3_PCID)))
                sys_gp0(in, u);
        ps.cr4 = value;
        if (changed & reloads)
                load_pdptes(in, u, &ps);
        trace(CR_WRITE, in->vcpu->index, 4, value);
        cpu->paging = ps;
        if (changed & flushes)
                interp_flush_tlb(in);
        if (changed & CR4_PCIDE)
                interp_switch_pcid(in, 0, false);
        interp_mode_changed(in);
}

/* ---- MOV CR ---- */

static void write_cr8(struct interp *in, const struct uop *u, u64 value)
{
        const struct cpu_platform_ops *platform = in->vcpu->platform;

        if (value & ~15ULL)
                sys_gp0(in, u);
        if (platform && platform->cr8_write)
                platform->cr8_write(in->vcpu->platform_opaque, in->vcpu, value);
}

static u64 read_cr8(const struct interp *in)
{
        const struct cpu_platform_ops *platform = in->vcpu->platform;

        return platform && platform->cr8_read ? platform->cr8_read(in->vcpu->platform_opaque, in->vcpu) : 0;
}

static void check_cr_access(struct interp *in, const struct uop *u, unsigned cr)
{
        if (cr == 1 || (cr > 4 && cr != 8) || (cr == 8 && !(in->mode & MODE_LONG64)))
                sys_ud(in, u);
        if (in->cpu->cpl != 0)
                sys_gp0(in, u);
}

const struct uop *sys_mov_to_cr(struct interp *in, const struct uop *u)
{
        const u64 value = register_operand(in, u, u->r2), next = interp_next_rip(in, u);

        check_cr_access(in, u, u->r1);
        switch (u->r1) {
        case 0:
                sys_write_cr0(in, u, value);
                break;
        case 2:
                in->cpu->cr2 = value;
                break;
        case 3:
                write_cr3(in, u, value);
                break;
        case 4:
                write_cr4(in, u, value);
                break;
        default:
                write_cr8(in, u, value);
                break;
        }
        return interp_continue_at(in, next);
}

const struct uop *sys_mov_from_cr(struct interp *in, const struct uop *u)
{
        const struct cpu_state *cpu = in->cpu;
        const u64 values[] = { cpu->paging.cr0, 0, cpu->cr2, cpu->paging.cr3, cpu->paging.cr4 };

        check_cr_access(in, u, u->r2);
        reg_write(in, u->r1, u->r2 == 8 ? read_cr8(in) : values[u->r2], in->mode & MODE_LONG64 ? 8 : 4);
        return interp_continue_after(in, u);
}

const struct uop *sys_lmsw(struct interp *in, const struct uop *u)
{
        const u64 msw_bits = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
        const u64 value = u->flags & UOP_MEM ? mem_read(in, u, ea_linear(in, u, 2, MMU_READ), 2) : reg_read(in, u->r1, 2);
        const u64 cr0 = in->cpu->paging.cr0, next = interp_next_rip(in, u);

        /* PE can be set but not cleared. */
        sys_write_cr0(in, u, (cr0 & ~(msw_bits & ~CR0_PE)) | (value & msw_bits));
        return interp_continue_at(in, next);
}

const struct uop *sys_smsw(struct interp *in, const struct uop *u)
{
        const u64 cr0 = in->cpu->paging.cr0;

        sys_check_umip(in, u);
        if (u->flags & UOP_MEM) {
                mem_write(in, u, ea_linear(in, u, 2, MMU_WRITE), cr0 & 0xffff, 2);
                SLOW_NEXT(u);
        }
        reg_write(in, u->r1, cr0, u->size);
        NEXT(u);
}

const struct uop *sys_clts(struct interp *in, const struct uop *u)
{
        in->cpu->paging.cr0 &= ~CR0_TS;
        interp_mode_changed(in);
        return interp_continue_after(in, u);
}

/* ---- debug registers ---- */

/* The register that @dr names; DR4 and DR5 are aliases without CR4.DE. Checks in the order of SDM 3A, table 6-2. */
static unsigned debug_register(struct interp *in, const struct uop *u, unsigned dr)
{
        if (dr > 7 || ((dr == 4 || dr == 5) && (in->cpu->paging.cr4 & CR4_DE)))
                sys_ud(in, u);
        if (in->cpu->cpl != 0)
                sys_gp0(in, u);
        if (in->cpu->dr[7] & DR7_GD) {
                const struct pending_event event = {
                        .kind = EVENT_FAULT, .vector = EXC_DB, .rip = interp_uop_rip(in, u), .dr6 = DR6_BD,
                };

                interp_raise_event(in, &event);
        }
        return dr == 4 || dr == 5 ? dr + 2 : dr;
}

/* SDM 3B, figure 17-1: reserved bits of DR6 and DR7 read as ones or zeros whatever is written. */
static u64 debug_register_value(unsigned dr, u64 value)
{
        if (dr == 6)
                return (value & 0xe00f) | 0xffff0ff0;
        if (dr == 7)
                return (value & 0xffff23ff) | 0x400;
        return value;
}

const struct uop *sys_mov_to_dr(struct interp *in, const struct uop *u)
{
        const u64 value = register_operand(in, u, u->r2);
        const unsigned dr = debug_register(in, u, u->r1);

        if (dr >= 6 && value >> 32)
                sys_gp0(in, u);
        in->cpu->dr[dr & 7] = debug_register_value(dr, value);
        /* Pages that hold a data breakpoint must not be in the TLB. */
        if (dr != 6 && (in->cpu->dr[7] & 0xff))
                interp_flush_tlb(in);
        else
                interp_mode_changed(in);
        return interp_continue_after(in, u);
}

const struct uop *sys_mov_from_dr(struct interp *in, const struct uop *u)
{
        const unsigned dr = debug_register(in, u, u->r2);

        reg_write(in, u->r1, in->cpu->dr[dr], in->mode & MODE_LONG64 ? 8 : 4);
        return interp_continue_after(in, u);
}

/* ---- XCR0 ---- */

const struct uop *sys_xgetbv(struct interp *in, const struct uop *u)
{
        if (!(in->cpu->paging.cr4 & CR4_OSXSAVE))
                sys_ud(in, u);
        if ((u32)in->regs[RCX] != 0)
                sys_gp0(in, u);
        in->regs[RAX] = (u32)in->cpu->xcr0;
        in->regs[RDX] = in->cpu->xcr0 >> 32;
        NEXT(u);
}

const struct uop *sys_xsetbv(struct interp *in, const struct uop *u)
{
        const u64 value = (in->regs[RDX] & 0xffffffff) << 32 | (u32)in->regs[RAX];

        if (!(in->cpu->paging.cr4 & CR4_OSXSAVE))
                sys_ud(in, u);
        if (in->cpu->cpl != 0 || (u32)in->regs[RCX] != 0 || !(value & XCR0_X87) || (value & ~cpuid_xcr0_supported()) ||
            ((value & XCR0_AVX) && !(value & XCR0_SSE)))
                sys_gp0(in, u);
        in->cpu->xcr0 = value;
        interp_mode_changed(in);
        return interp_continue_after(in, u);
}

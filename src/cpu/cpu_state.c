/* The architectural state: what it is after reset and INIT, and how it is saved and loaded. */
#include <errno.h>
#include <string.h>

#include "cpu.h"
#include "cpuid_model.h"
#include "msr.h"

/* ---- reset ---- Source: SDM 3A, table 10-1. */

#define MXCSR_OFFSET 24
#define MXCSR_RESET 0x1f80u
#define PAT_RESET 0x0007040600070406ULL
#define APIC_BASE_RESET 0xfee00000ULL
#define MISC_ENABLE_RESET (BIT(0) | BIT(11) | BIT(12)) /* fast strings; no BTS, no PEBS */
#define DR6_RESET 0xffff0ff0ULL
#define DR7_RESET 0x400ULL

/* What both reset and INIT set. */
static void reset_core(struct cpu_state *cpu)
{
        const struct seg data = { .limit = 0xffff, .attr = SEG_ATTR_P | SEG_ATTR_S | 3 };

        memset(cpu->gpr, 0, sizeof(cpu->gpr));
        cpu->gpr[RDX] = CPU_SIGNATURE;
        cpu->rip = 0xfff0;
        cpu->rflags = RFLAGS_FIXED;
        for (unsigned i = 0; i < SEG_COUNT; i++)
                cpu->seg[i] = data;
        cpu->seg[SEG_CS] = (struct seg){
                .selector = 0xf000, .base = 0xffff0000, .limit = 0xffff, .attr = SEG_ATTR_P | SEG_ATTR_S | 0xb
        };
        cpu->ldtr = (struct seg){ .limit = 0xffff, .attr = SEG_ATTR_P | 2 };
        cpu->tr = (struct seg){ .limit = 0xffff, .attr = SEG_ATTR_P | 0xb };
        cpu->gdtr = cpu->idtr = (struct dtable){ .limit = 0xffff };
        cpu->paging.cr3 = cpu->paging.cr4 = cpu->paging.efer = 0;
        memset(cpu->paging.pdpte, 0, sizeof(cpu->paging.pdpte));
        cpu->cr2 = 0;
        memset(cpu->dr, 0, sizeof(cpu->dr));
        cpu->dr[6] = DR6_RESET;
        cpu->dr[7] = DR7_RESET;
        cpu->cpl = 0;
        cpu->halted = cpu->nmi_pending = cpu->nmi_masked = cpu->sti_shadow = cpu->mov_ss_shadow = false;
        cpu->unhalted = false;
}

void cpu_state_reset(struct cpu_state *cpu, bool bsp)
{
        const u16 fcw = 0x0040;
        const u8 ftw = 0xff; /* abridged form of tag word 5555H: nothing is empty */
        const u32 mxcsr = MXCSR_RESET;

        memset(cpu, 0, sizeof(*cpu));
        reset_core(cpu);
        cpu->paging.cr0 = CR0_ET | CR0_CD | CR0_NW;
        cpu->xcr0 = XCR0_X87;
        memcpy(cpu->xsave, &fcw, sizeof(fcw));
        cpu->xsave[4] = ftw;
        memcpy(cpu->xsave + MXCSR_OFFSET, &mxcsr, sizeof(mxcsr));
        cpu->pat = PAT_RESET;
        cpu->misc_enable = MISC_ENABLE_RESET;
        cpu->apic_base = APIC_BASE_RESET | APIC_BASE_EN | (bsp ? APIC_BASE_BSP : 0);
        cpu->smbase = 0x30000;
        cpu->wait_for_sipi = !bsp;
}

void cpu_state_init_signal(struct cpu_state *cpu)
{
        reset_core(cpu);
        cpu->paging.cr0 = (cpu->paging.cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
        /* Only the bootstrap processor starts at the reset vector; the others wait. Source: SDM 3A, 9.4.1. */
        cpu->wait_for_sipi = !(cpu->apic_base & APIC_BASE_BSP);
}

/* ---- save and load ---- */

/* Every field once, in the order of the saved form: FIELD(width in bits, member, elements). Changing it means a new
 * CPU_STATE_VERSION. */
#define STATE_FIELDS(FIELD)             \
        FIELD(64, gpr, GPR_COUNT)       \
        FIELD(64, rip, 1)               \
        FIELD(64, rflags, 1)            \
        FIELD(64, paging.cr0, 1)        \
        FIELD(64, paging.cr3, 1)        \
        FIELD(64, paging.cr4, 1)        \
        FIELD(64, paging.efer, 1)       \
        FIELD(64, paging.pdpte, 4)      \
        FIELD(64, cr2, 1)               \
        FIELD(64, dr, 8)                \
        FIELD(64, gdtr.base, 1)         \
        FIELD(16, gdtr.limit, 1)        \
        FIELD(64, idtr.base, 1)         \
        FIELD(16, idtr.limit, 1)        \
        FIELD(64, xcr0, 1)              \
        FIELD(8, xsave, XSAVE_SIZE)     \
        FIELD(64, star, 1)              \
        FIELD(64, lstar, 1)             \
        FIELD(64, cstar, 1)             \
        FIELD(64, sfmask, 1)            \
        FIELD(64, kernel_gs_base, 1)    \
        FIELD(64, sysenter_cs, 1)       \
        FIELD(64, sysenter_esp, 1)      \
        FIELD(64, sysenter_eip, 1)      \
        FIELD(64, pat, 1)               \
        FIELD(64, misc_enable, 1)       \
        FIELD(64, tsc_aux, 1)           \
        FIELD(64, tsc_offset, 1)        \
        FIELD(64, tsc_adjust, 1)        \
        FIELD(64, mtrr_def_type, 1)     \
        FIELD(64, mtrr_fixed, 11)       \
        FIELD(64, mtrr_base, CPU_MTRR_VARIABLE) \
        FIELD(64, mtrr_mask, CPU_MTRR_VARIABLE) \
        FIELD(64, spec_ctrl, 1)         \
        FIELD(64, mcg_status, 1)        \
        FIELD(64, kvm_system_time, 1)   \
        FIELD(64, kvm_wall_clock, 1)    \
        FIELD(64, kvm_steal_time, 1)    \
        FIELD(64, apic_base, 1)         \
        FIELD(64, smbase, 1)            \
        FIELD(8, cpl, 1)                \
        FIELD(8, halted, 1)             \
        FIELD(8, wait_for_sipi, 1)      \
        FIELD(8, nmi_pending, 1)        \
        FIELD(8, nmi_masked, 1)         \
        FIELD(8, sti_shadow, 1)         \
        FIELD(8, mov_ss_shadow, 1)      \
        FIELD(8, unhalted, 1)

static const struct field {
        size_t offset, count;
        unsigned width;
} fields[] = {
#define FIELD(width_, member, count_)                                                                  \
        { .offset = offsetof(struct cpu_state, member), .count = count_, .width = width_ / 8 },
        STATE_FIELDS(FIELD)
#undef FIELD
};
#define FIELD(width_, member, count_)                                                                   \
        _Static_assert(sizeof(((struct cpu_state *)NULL)->member) == (width_) / 8 * (count_), #member);
STATE_FIELDS(FIELD)
#undef FIELD

static void put_seg(struct state_out *out, const struct seg *seg)
{
        state_put_u16(out, seg->selector);
        state_put_u16(out, seg->attr);
        state_put_u32(out, seg->limit);
        state_put_u64(out, seg->base);
        state_put_bool(out, seg->unusable);
}

static void get_seg(struct state_in *in, struct seg *seg)
{
        seg->selector = state_get_u16(in);
        seg->attr = state_get_u16(in);
        seg->limit = state_get_u32(in);
        seg->base = state_get_u64(in);
        seg->unusable = state_get_bool(in);
}

/* x86 is little-endian, like the stream: fields are copied as they are. The bools are written as 0 or 1. */
void cpu_state_save(const struct cpu_state *cpu, struct state_out *out)
{
        for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
                state_put_bytes(out, (const u8 *)cpu + fields[i].offset, fields[i].count * fields[i].width);
        for (unsigned i = 0; i < SEG_COUNT; i++)
                put_seg(out, &cpu->seg[i]);
        put_seg(out, &cpu->ldtr);
        put_seg(out, &cpu->tr);
}

static void get_fields(struct cpu_state *cpu, struct state_in *in)
{
        for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
                state_get_bytes(in, (u8 *)cpu + fields[i].offset, fields[i].count * fields[i].width);
        for (unsigned i = 0; i < SEG_COUNT; i++)
                get_seg(in, &cpu->seg[i]);
        get_seg(in, &cpu->ldtr);
        get_seg(in, &cpu->tr);
}

/* A bool that came as a byte other than 0 and 1 must not be looked at as a bool. */
static bool bools_valid(const struct cpu_state *cpu)
{
        const bool *const bools[] = { &cpu->halted,     &cpu->wait_for_sipi, &cpu->nmi_pending,
                                      &cpu->nmi_masked, &cpu->sti_shadow,    &cpu->mov_ss_shadow,
                                      &cpu->unhalted };

        for (size_t i = 0; i < ARRAY_SIZE(bools); i++)
                if (*(const u8 *)bools[i] > 1)
                        return false;
        return true;
}

#define CR0_VALID (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define RFLAGS_VALID                                                                                               \
        (RFLAGS_ARITH | RFLAGS_FIXED | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF |   \
         RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID)

/* Source: SDM 3A, 2.5 (control registers) and 4.1.2 (paging modes). */
static const char *check_control(const struct cpu_state *cpu)
{
        const struct paging_state *ps = &cpu->paging;
        bool pg = ps->cr0 & CR0_PG, lme = ps->efer & EFER_LME, lma = ps->efer & EFER_LMA;

        if (ps->cr0 & ~CR0_VALID)
                return "CR0";
        if (pg && !(ps->cr0 & CR0_PE))
                return "CR0.PG without PE";
        if (ps->cr0 & CR0_NW && !(ps->cr0 & CR0_CD))
                return "CR0.NW without CD";
        if (ps->cr4 & ~cpuid_cr4_supported())
                return "CR4";
        if (ps->cr3 & ~(BIT(MMU_MAXPHYADDR) - 1))
                return "CR3";
        if (ps->efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX))
                return "EFER";
        if (lma != (lme && pg))
                return "EFER.LMA";
        if (lma && !(ps->cr4 & CR4_PAE))
                return "long mode without CR4.PAE";
        if (ps->cr4 & CR4_PCIDE && !lma)
                return "CR4.PCIDE outside long mode";
        if (cpu->xcr0 & ~cpuid_xcr0_supported() || !(cpu->xcr0 & XCR0_X87) ||
            (cpu->xcr0 & XCR0_AVX && !(cpu->xcr0 & XCR0_SSE)))
                return "XCR0";
        /* MOV to DR6 or DR7 with an upper half is #GP. */
        if (cpu->dr[6] >> 32 || cpu->dr[7] >> 32)
                return "DR6 or DR7";
        return NULL;
}

/* The byte-granular limit that a descriptor can express. */
static bool seg_limit_valid(const struct seg *seg)
{
        return seg->attr & SEG_ATTR_G ? (seg->limit & 0xfff) == 0xfff : seg->limit <= 0xfffff;
}

static const char *check_segments(const struct cpu_state *cpu)
{
        const struct seg *all[SEG_COUNT + 2];
        const u16 valid = SEG_ATTR_TYPE | SEG_ATTR_S | SEG_ATTR_DPL | SEG_ATTR_P | SEG_ATTR_AVL | SEG_ATTR_L |
                          SEG_ATTR_DB | SEG_ATTR_G;

        for (unsigned i = 0; i < SEG_COUNT; i++)
                all[i] = &cpu->seg[i];
        all[SEG_COUNT] = &cpu->ldtr;
        all[SEG_COUNT + 1] = &cpu->tr;
        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                bool wide = i == SEG_FS || i == SEG_GS || i >= SEG_COUNT;

                if (all[i]->attr & ~valid)
                        return "a segment's attributes";
                if (!all[i]->unusable && !seg_limit_valid(all[i]))
                        return "a segment's limit";
                if (wide ? !mmu_is_canonical(all[i]->base) : all[i]->base >> 32)
                        return "a segment's base";
        }
        if (cpu->seg[SEG_CS].unusable)
                return "CS";
        if (cpu_long_mode(cpu) && cpu->seg[SEG_CS].attr & SEG_ATTR_L && cpu->seg[SEG_CS].attr & SEG_ATTR_DB)
                return "CS.L with CS.D";
        if (!mmu_is_canonical(cpu->gdtr.base) || !mmu_is_canonical(cpu->idtr.base))
                return "GDTR or IDTR";
        return NULL;
}

static const char *check_privilege(const struct cpu_state *cpu)
{
        if (cpu->cpl > 3)
                return "CPL";
        if (!cpu_protected(cpu))
                return cpu->cpl || cpu_vm86(cpu) ? "CPL or EFLAGS.VM in real mode" : NULL;
        if (cpu_vm86(cpu))
                return cpu->cpl != 3 || cpu_long_mode(cpu) ? "virtual-8086 mode" : NULL;
        return NULL;
}

static const char *check_state(const struct cpu_state *cpu)
{
        const char *wrong;
        u32 mxcsr;

        if (!bools_valid(cpu))
                return "a flag";
        wrong = check_control(cpu);
        if (!wrong)
                wrong = check_segments(cpu);
        if (!wrong)
                wrong = check_privilege(cpu);
        if (!wrong)
                wrong = cpu_msr_check_state(cpu);
        if (wrong)
                return wrong;
        if ((cpu->rflags & ~RFLAGS_VALID) || !(cpu->rflags & RFLAGS_FIXED))
                return "RFLAGS";
        if (cpu_64bit(cpu) ? !mmu_is_canonical(cpu->rip) : cpu->rip >> 32)
                return "RIP";
        memcpy(&mxcsr, cpu->xsave + MXCSR_OFFSET, sizeof(mxcsr));
        if (mxcsr & ~0xffffu)
                return "MXCSR";
        if (cpu->misc_enable & ~MISC_ENABLE_VALID)
                return "MISC_ENABLE";
        /* From "disabled" every valid value can be reached in two steps; this checks the value and not the way. */
        if (!cpu_apic_base_valid(cpu->apic_base & APIC_BASE_EXTD ? APIC_BASE_EN : 0, cpu->apic_base))
                return "APIC_BASE";
        if (cpu->smbase >> 32)
                return "SMBASE";
        if (cpu->kvm_steal_time & 0x3e)
                return "KVM_STEAL_TIME";
        return NULL;
}

int cpu_state_load(struct cpu_state *cpu, struct state_in *in, u32 version, struct err **err)
{
        struct cpu_state loaded = { 0 };
        const char *wrong;

        if (version != CPU_STATE_VERSION)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved CPU state has version %u, this program knows %u",
                               version, CPU_STATE_VERSION);
        get_fields(&loaded, in);
        if (state_in_error(in) || state_in_left(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved CPU state has the wrong size");
        wrong = check_state(&loaded);
        if (wrong)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved CPU state is one that no processor can be in: %s",
                               wrong);
        *cpu = loaded;
        return 0;
}

#include "msr.h"

#include <errno.h>

#include "base/clock.h"
#include "cpuid_model.h"

struct msr_def {
        struct msr_info info;
        u32 step;                         /* between two numbers of a range */
        bool (*check)(u64 value);         /* STORED */
        int (*read)(struct vcpu *vcpu, u32 msr, u64 *ret); /* SPECIAL */
        int (*write)(struct vcpu *vcpu, u32 msr, u64 value);
};

/* ---- what may be written ---- */

static bool check_any(u64 value)
{
        return true;
}

static bool check_low32(u64 value)
{
        return !(value >> 32);
}

static bool check_canonical(u64 value)
{
        return mmu_is_canonical(value);
}

/* UC, WC, WT, WP, WB. Source: SDM 3A, table 12-8. */
static bool mtrr_type_valid(u64 type)
{
        return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

/* PAT adds UC- (7). Source: SDM 3A, 12.12.2. */
static bool check_pat(u64 value)
{
        for (unsigned i = 0; i < 64; i += 8) {
                u64 type = value >> i & 0xff;

                if (type != 7 && !mtrr_type_valid(type))
                        return false;
        }
        return true;
}

static bool check_mtrr_fixed(u64 value)
{
        for (unsigned i = 0; i < 64; i += 8)
                if (!mtrr_type_valid(value >> i & 0xff))
                        return false;
        return true;
}

#define MTRR_ENABLE (BIT(10) | BIT(11))

static bool check_mtrr_def_type(u64 value)
{
        return !(value & ~(0xff | MTRR_ENABLE)) && mtrr_type_valid(value & 0xff);
}

#define PHYS_PAGE_BITS ((BIT(MMU_MAXPHYADDR) - 1) & PAGE_MASK)

static bool check_mtrr_base(u64 value)
{
        return !(value & ~(0xff | PHYS_PAGE_BITS)) && mtrr_type_valid(value & 0xff);
}

static bool check_mtrr_mask(u64 value)
{
        return !(value & ~(BIT(11) | PHYS_PAGE_BITS));
}

/* IBRS; STIBP, which is writable wherever IBRS is and does nothing without threads; BHI_DIS_S. Source: SDM 4,
 * IA32_SPEC_CTRL. */
static bool check_spec_ctrl(u64 value)
{
        const u64 valid = BIT(0) | BIT(1) | (cpuid_has(CPUID_BHI_CTRL) ? BIT(10) : 0);

        return cpuid_has(CPUID_SPEC_CTRL) && !(value & ~valid);
}

/* RIPV, EIPV and MCIP. Linux writes 0. */
static bool check_mcg_status(u64 value)
{
        return !(value & ~7ULL);
}

/* ---- MSRs with functions ---- */

static int read_tsc(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = clock_tsc() + vcpu->state.tsc_offset;
        return 0;
}

static void tell_tsc_changed(struct vcpu *vcpu)
{
        if (vcpu->platform && vcpu->platform->tsc_changed)
                vcpu->platform->tsc_changed(vcpu->platform_opaque, vcpu);
}

/* A write moves TSC_ADJUST by as much. Source: SDM 3B, 18.17.3. */
static int write_tsc(struct vcpu *vcpu, u32 msr, u64 value)
{
        u64 offset = value - clock_tsc();

        vcpu->state.tsc_adjust += offset - vcpu->state.tsc_offset;
        vcpu->state.tsc_offset = offset;
        tell_tsc_changed(vcpu);
        return 0;
}

static int read_tsc_adjust(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = vcpu->state.tsc_adjust;
        return 0;
}

static int write_tsc_adjust(struct vcpu *vcpu, u32 msr, u64 value)
{
        vcpu->state.tsc_offset += value - vcpu->state.tsc_adjust;
        vcpu->state.tsc_adjust = value;
        tell_tsc_changed(vcpu);
        return 0;
}

static int read_apic(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        if (!vcpu->platform || !vcpu->platform->apic_msr_read)
                return -EINVAL;
        return vcpu->platform->apic_msr_read(vcpu->platform_opaque, vcpu, msr, ret);
}

static int write_apic(struct vcpu *vcpu, u32 msr, u64 value)
{
        if (!vcpu->platform || !vcpu->platform->apic_msr_write)
                return -EINVAL;
        return vcpu->platform->apic_msr_write(vcpu->platform_opaque, vcpu, msr, value);
}

static int read_apic_base(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = vcpu->state.apic_base;
        return 0;
}

/* Mode changes that are #GP. Source: SDM 3A, figure 11-27 and table 11-5. */
bool cpu_apic_base_valid(u64 old, u64 value)
{
        bool en = value & APIC_BASE_EN, extd = value & APIC_BASE_EXTD;
        bool old_en = old & APIC_BASE_EN, old_extd = old & APIC_BASE_EXTD;

        if (value & ~(APIC_BASE_BSP | APIC_BASE_EXTD | APIC_BASE_EN | PHYS_PAGE_BITS))
                return false;
        if (extd && !cpuid_has(CPUID_X2APIC))
                return false;
        if (extd && !en)
                return false; /* invalid state */
        if (old_extd && en && !extd)
                return false; /* x2APIC to xAPIC goes by way of disabled */
        if (!old_en && extd)
                return false; /* and so does the way back */
        return true;
}

static int write_apic_base(struct vcpu *vcpu, u32 msr, u64 value)
{
        if (!cpu_apic_base_valid(vcpu->state.apic_base, value))
                return -EINVAL;
        if (vcpu->platform && vcpu->platform->apic_msr_write) {
                int r = vcpu->platform->apic_msr_write(vcpu->platform_opaque, vcpu, msr, value);

                if (r < 0)
                        return r;
        }
        vcpu->state.apic_base = value;
        return 0;
}

static int read_efer(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = vcpu->state.paging.efer;
        return 0;
}

/* LMA is read-only; LME cannot change while paging is on. Source: SDM 3A, 2.2.1 and 4.1.2. */
static int write_efer(struct vcpu *vcpu, u32 msr, u64 value)
{
        u64 old = vcpu->state.paging.efer;

        if (value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX))
                return -EINVAL;
        if ((value ^ old) & EFER_LME && vcpu->state.paging.cr0 & CR0_PG)
                return -EINVAL;
        vcpu->state.paging.efer = (value & ~EFER_LMA) | (old & EFER_LMA);
        return 0;
}

static int read_misc_enable(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = vcpu->state.misc_enable;
        return 0;
}

/* Writes to the read-only bits (7, 11, 12: performance monitoring) are ignored. */
static int write_misc_enable(struct vcpu *vcpu, u32 msr, u64 value)
{
        if (value & ~MISC_ENABLE_VALID)
                return -EINVAL;
        vcpu->state.misc_enable = (value & ~MISC_ENABLE_READ_ONLY) | (vcpu->state.misc_enable & MISC_ENABLE_READ_ONLY);
        return 0;
}

static int write_pred_cmd(struct vcpu *vcpu, u32 msr, u64 value)
{
        return cpuid_has(CPUID_SPEC_CTRL) && !(value & ~1ULL) ? 0 : -EINVAL;
}

/* Software writes 0, executes CPUID and reads the revision from the upper half. Source: SDM 3A, 10.11.7.1. */
static int read_microcode(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = 1ULL << 32;
        return 0;
}

static int write_microcode(struct vcpu *vcpu, u32 msr, u64 value)
{
        return 0;
}

static int read_zero(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = 0;
        return 0;
}

/* A register of optional functions none of which exists. */
static int write_zero(struct vcpu *vcpu, u32 msr, u64 value)
{
        return value ? -EINVAL : 0;
}

static int read_kvm_system_time(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = vcpu->state.kvm_system_time;
        return 0;
}

static int read_kvm_wall_clock(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = vcpu->state.kvm_wall_clock;
        return 0;
}

static int read_kvm_steal_time(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        *ret = vcpu->state.kvm_steal_time;
        return 0;
}

static void tell_platform(struct vcpu *vcpu, u32 msr, u64 value)
{
        if (vcpu->platform && vcpu->platform->kvm_msr_written)
                vcpu->platform->kvm_msr_written(vcpu->platform_opaque, vcpu, msr, value);
}

static int write_kvm_system_time(struct vcpu *vcpu, u32 msr, u64 value)
{
        vcpu->state.kvm_system_time = value;
        tell_platform(vcpu, msr, value);
        return 0;
}

static int write_kvm_wall_clock(struct vcpu *vcpu, u32 msr, u64 value)
{
        vcpu->state.kvm_wall_clock = value;
        tell_platform(vcpu, msr, value);
        return 0;
}

/* Bits 5-1 are reserved. Source: Linux Documentation/virt/kvm/x86/msr.rst. */
static int write_kvm_steal_time(struct vcpu *vcpu, u32 msr, u64 value)
{
        if (value & 0x3e)
                return -EINVAL;
        vcpu->state.kvm_steal_time = value;
        tell_platform(vcpu, msr, value);
        return 0;
}

/* ---- the table ---- */

#define STORED(first_, count_, step_, name_, field, check_)                                                            \
        { .info = { .name = name_, .first = first_, .count = count_, .step = step_, .kind = MSR_KIND_STORED,           \
                    .offset = offsetof(struct cpu_state, field) }, .check = check_ },

static const struct msr_def msrs[] = {
#define MSR_STORED(first, count, name, field, check) STORED(first, count, 1, name, field, check)
#define MSR_STORED_STEP(first, step, count, name, field, check) STORED(first, count, step, name, field, check)
#define MSR_CONST(number, name_, value_)                                                                               \
        { .info = { .name = name_, .first = number, .count = 1, .step = 1, .kind = MSR_KIND_CONST, .value = value_ } },
#define MSR_SPECIAL(first_, count_, name_, read_, write_)                                                              \
        { .info = { .name = name_, .first = first_, .count = count_, .step = 1, .kind = MSR_KIND_SPECIAL },            \
          .read = read_, .write = write_ },
#include "msr.def"
#undef MSR_STORED
#undef MSR_STORED_STEP
#undef MSR_CONST
#undef MSR_SPECIAL
};

static const struct msr_def *find(u32 msr)
{
        for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
                u32 distance = msr - msrs[i].info.first;

                if (distance < msrs[i].info.count * msrs[i].info.step && distance % msrs[i].info.step == 0)
                        return &msrs[i];
        }
        return NULL;
}

static const u64 *field_of(const struct cpu_state *state, const struct msr_info *info, u32 msr)
{
        return (const u64 *)((const u8 *)state + info->offset) + (msr - info->first) / info->step;
}

static int unknown(struct vcpu *vcpu, u32 msr, bool write, u64 value)
{
        counter_inc(&vcpu->counters, COUNTER_MSR_UNKNOWN);
        trace(MSR_UNKNOWN, vcpu->index, msr, write, value);
        return -EINVAL;
}

int cpu_msr_read(struct vcpu *vcpu, u32 msr, u64 *ret)
{
        const struct msr_def *def = find(msr);
        u64 value;
        int r;

        if (!def)
                return unknown(vcpu, msr, false, 0);
        switch (def->info.kind) {
        case MSR_KIND_STORED:
                value = *field_of(&vcpu->state, &def->info, msr);
                break;
        case MSR_KIND_CONST:
                value = def->info.value;
                break;
        default:
                if (!def->read)
                        return -EINVAL;
                r = def->read(vcpu, msr, &value);
                if (r < 0)
                        return r;
                break;
        }
        trace(MSR_READ, vcpu->index, msr, value);
        *ret = value;
        return 0;
}

int cpu_msr_write(struct vcpu *vcpu, u32 msr, u64 value)
{
        const struct msr_def *def = find(msr);

        if (!def)
                return unknown(vcpu, msr, true, value);
        trace(MSR_WRITE, vcpu->index, msr, value);
        switch (def->info.kind) {
        case MSR_KIND_STORED:
                if (!def->check(value))
                        return -EINVAL;
                *cpu_msr_field(&vcpu->state, &def->info, msr) = value;
                return 0;
        case MSR_KIND_CONST:
                return -EINVAL;
        default:
                return def->write ? def->write(vcpu, msr, value) : -EINVAL;
        }
}

bool cpu_msr_info(size_t index, struct msr_info *ret)
{
        if (index >= ARRAY_SIZE(msrs))
                return false;
        *ret = msrs[index].info;
        return true;
}

bool cpu_msr_find(u32 msr, struct msr_info *ret)
{
        const struct msr_def *def = find(msr);

        if (!def)
                return false;
        *ret = def->info;
        return true;
}

u64 *cpu_msr_field(struct cpu_state *state, const struct msr_info *info, u32 msr)
{
        return (u64 *)field_of(state, info, msr);
}

const char *cpu_msr_check_state(const struct cpu_state *state)
{
        for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
                const struct msr_info *info = &msrs[i].info;

                if (info->kind != MSR_KIND_STORED)
                        continue;
                for (u32 n = 0; n < info->count; n++)
                        if (!msrs[i].check(*field_of(state, info, info->first + n * info->step)))
                                return info->name;
        }
        return NULL;
}

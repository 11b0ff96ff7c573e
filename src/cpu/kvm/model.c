/* The CPU model (cpuid.def, msr.def) as far as KVM on this host has it.
 *
 * What KVM cannot give is left out of the guest's CPUID. A guest that started under another engine may already use such
 * a feature: when that shows in its state (XCR0, CR4) the move is refused. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cpu/msr.h"
#include "internal.h"

#define CPUID_ENTRIES_MAX 256

static struct kvm_cpuid2 *supported_cpuid(int kvm_fd, struct err **err)
{
        struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));
        int r;

        if (!cpuid) {
                err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for CPUID");
                return NULL;
        }
        cpuid->nent = CPUID_ENTRIES_MAX;
        r = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
        if (r < 0) {
                err_sys(err, -r, "KVM does not tell which CPUID it supports");
                free(cpuid);
                return NULL;
        }
        return cpuid;
}

static const struct kvm_cpuid_entry2 *find_entry(const struct kvm_cpuid2 *cpuid, u32 leaf, u32 subleaf)
{
        for (u32 i = 0; i < cpuid->nent; i++) {
                const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

                if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
                        return e;
        }
        return NULL;
}

/* Features that KVM has although KVM_GET_SUPPORTED_CPUID cannot say so, because they depend on the interrupt chip or
 * are no features of KVM's. Source: Linux, Documentation/virt/kvm/api.rst, KVM_GET_SUPPORTED_CPUID. */
static bool always_supported(enum cpuid_feature feature, int kvm_fd)
{
        switch (feature) {
        case CPUID_HYPERVISOR:
        case CPUID_X2APIC:
        case CPUID_ARAT:
                return true;
        case CPUID_TSC_DEADLINE:
                return kvm_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_DEADLINE_TIMER) > 0;
        default:
                return false;
        }
}

static bool feature_supported(const struct kvm_cpuid2 *cpuid, enum cpuid_feature feature, int kvm_fd)
{
        const struct kvm_cpuid_entry2 *e;
        u32 leaf, subleaf;
        unsigned reg, bit;

        if (always_supported(feature, kvm_fd))
                return true;
        cpuid_feature_place(feature, &leaf, &subleaf, &reg, &bit);
        e = find_entry(cpuid, leaf, subleaf);
        if (!e)
                return false;
        return (const u32[]){ e->eax, e->ebx, e->ecx, e->edx }[reg] & BIT(bit);
}

static bool has(const struct kvm_host *host, enum cpuid_feature feature)
{
        return host->features[feature / 64] & BIT(feature % 64);
}

/* IA32_ARCH_CAPABILITIES as KVM would show it: the promises that the hardware keeps. */
static u64 feature_msr(int kvm_fd, u32 msr)
{
        u64 value = 0;

        return kvm_msr_exchange(kvm_fd, KVM_GET_MSRS, msr, &value) == 0 ? value : 0;
}

int kvm_host_query(int kvm_fd, int vm_fd, struct kvm_host *ret, struct err **err)
{
        _cleanup_free_ struct kvm_cpuid2 *cpuid = supported_cpuid(kvm_fd, err);
        const struct kvm_cpuid_entry2 *e;
        struct kvm_host host = { .physical_bits = 36, .xcr0 = XCR0_X87 | XCR0_SSE };

        if (!cpuid)
                return -EIO;
        for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++)
                if (cpuid_has(i) && feature_supported(cpuid, i, kvm_fd))
                        host.features[i / 64] |= BIT(i % 64);
        e = find_entry(cpuid, 0xd, 0);
        if (e && has(&host, CPUID_XSAVE))
                host.xcr0 = e->eax & cpuid_xcr0_supported();
        if (!has(&host, CPUID_AVX))
                host.xcr0 &= ~XCR0_AVX;
        e = find_entry(cpuid, 0x80000008, 0);
        if (e)
                host.physical_bits = e->eax & 0xff;
        host.arch_capabilities = feature_msr(kvm_fd, MSR_ARCH_CAPABILITIES) & CPU_ARCH_CAPABILITIES;
        host.tsc_offset_attr = kvm_ioctl(vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_VCPU_ATTRIBUTES) > 0;
        *ret = host;
        return 0;
}

static void mask_features(const struct kvm_host *host, u32 leaf, u32 subleaf, struct cpuid_regs *regs)
{
        for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++) {
                u32 at, sub;
                unsigned reg, bit;

                cpuid_feature_place(i, &at, &sub, &reg, &bit);
                if (at != leaf || sub != subleaf || has(host, i))
                        continue;
                *(u32 *const[]){ &regs->eax, &regs->ebx, &regs->ecx, &regs->edx }[reg] &= ~(u32)BIT(bit);
        }
}

/* Sizes in leaf 0DH come from the kernel; which components there are comes from here. */
static void mask_xsave(const struct kvm_host *host, u32 subleaf, struct cpuid_regs *regs)
{
        if (!has(host, CPUID_XSAVE) || (subleaf == 2 && !(host->xcr0 & XCR0_AVX)))
                *regs = (struct cpuid_regs){ 0 };
        else if (subleaf == 0)
                regs->eax &= (u32)host->xcr0;
}

int kvm_set_cpuid(struct vcpu *vcpu, struct kvm_vcpu *kv, struct err **err)
{
        const struct kvm_host *host = &kv->machine->host;
        _cleanup_free_ struct kvm_cpuid2 *cpuid = NULL;
        u32 leaf, subleaf;
        bool indexed;
        int r;

        cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));
        if (!cpuid)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for CPUID");
        for (size_t i = 0; i < CPUID_ENTRIES_MAX && cpuid_enumerate(i, &leaf, &subleaf, &indexed); i++) {
                struct kvm_cpuid_entry2 *e = &cpuid->entries[cpuid->nent++];
                struct cpuid_regs regs;

                cpuid_query(vcpu, leaf, subleaf, &regs);
                mask_features(host, leaf, subleaf, &regs);
                if (leaf == 0xd)
                        mask_xsave(host, subleaf, &regs);
                if (leaf == 0x80000008)
                        regs.eax = (regs.eax & ~0xffu) | MIN(regs.eax & 0xff, host->physical_bits);
                *e = (struct kvm_cpuid_entry2){ .function = leaf, .index = subleaf,
                                                .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
                                                .eax = regs.eax, .ebx = regs.ebx, .ecx = regs.ecx, .edx = regs.edx };
        }
        r = kvm_ioctl(kv->fd, KVM_SET_CPUID2, cpuid);
        return r < 0 ? err_sys(err, -r, "KVM refuses the CPU model") : 0;
}

/* CR4 bits and the feature that each needs. */
static const struct {
        u64 bit;
        enum cpuid_feature feature;
        const char *name;
} cr4_needs[] = {
        { CR4_UMIP, CPUID_UMIP, "UMIP" },    { CR4_FSGSBASE, CPUID_FSGSBASE, "FSGSBASE" },
        { CR4_PCIDE, CPUID_PCID, "PCID" },   { CR4_OSXSAVE, CPUID_XSAVE, "XSAVE" },
        { CR4_SMEP, CPUID_SMEP, "SMEP" },    { CR4_SMAP, CPUID_SMAP, "SMAP" },
};

int kvm_check_state(const struct kvm_machine *machine, const struct cpu_state *state, struct err **err)
{
        for (size_t i = 0; i < ARRAY_SIZE(cr4_needs); i++)
                if (state->paging.cr4 & cr4_needs[i].bit && !has(&machine->host, cr4_needs[i].feature))
                        return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                                       "the guest uses the CPU feature %s, which the host's KVM cannot give it",
                                       cr4_needs[i].name);
        if (state->xcr0 & ~machine->host.xcr0)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                               "the guest has switched on XSAVE state 0x%lx, of which the host's KVM can give it 0x%lx",
                               (unsigned long)state->xcr0, (unsigned long)machine->host.xcr0);
        return 0;
}

/* ---- which MSRs the kernel handles ---- */

/* MSRs with functions in msr.c whose home is the kernel while KVM runs the vCPU. The x2APIC range is never filtered. */
static const u32 kernel_msrs[] = {
        MSR_TSC,      MSR_TSC_ADJUST,  MSR_TSC_DEADLINE,   MSR_APIC_BASE,       MSR_EFER,
        MSR_MISC_ENABLE, MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME, MSR_KVM_STEAL_TIME, MSR_PRED_CMD,
};

#define FILTER_BITS 0x1000u /* MSRs in one bitmap */

/* Every number that the table uses is in one of these. */
static const u32 filter_bases[] = { 0x0, 0x4b564000, 0xc0000000 };

struct filter_bitmaps {
        u8 bits[ARRAY_SIZE(filter_bases)][FILTER_BITS / 8];
};

static void allow(struct filter_bitmaps *maps, u32 msr)
{
        for (size_t i = 0; i < ARRAY_SIZE(filter_bases); i++)
                if (msr - filter_bases[i] < FILTER_BITS)
                        maps->bits[i][(msr - filter_bases[i]) / 8] |= (u8)(1u << (msr - filter_bases[i]) % 8);
}

/* All vCPUs have the same MSRs: the first one's list decides. */
int kvm_set_msr_filter(struct kvm_machine *machine, struct err **err)
{
        const struct kvm_vcpu *kv = machine->vcpus[0];
        struct filter_bitmaps maps = { 0 };
        struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
        int r;

        if (!machine->host.msr_exits)
                return 0; /* an old kernel: it answers from its own, larger model */
        for (size_t i = 0; i < kv->n_msrs; i++)
                allow(&maps, kv->msrs[i]);
        for (size_t i = 0; i < ARRAY_SIZE(kernel_msrs); i++)
                allow(&maps, kernel_msrs[i]);
        allow(&maps, MSR_FS_BASE); /* part of the segment registers there */
        allow(&maps, MSR_GS_BASE);
        for (size_t i = 0; i < ARRAY_SIZE(filter_bases); i++)
                filter.ranges[i] = (struct kvm_msr_filter_range){ .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                                                                  .nmsrs = FILTER_BITS,
                                                                  .base = filter_bases[i],
                                                                  .bitmap = maps.bits[i] };
        r = kvm_ioctl(machine->vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
        return r < 0 ? err_sys(err, -r, "KVM refuses the list of MSRs") : 0;
}

/* The CPU model: what CPUID says. One table (cpuid.def) for all engines, masked once by what the host can execute.
 *
 * cpuid_query (cpu.h) is how a guest sees it; the functions here are for engines and tests. */
#pragma once

#include "cpu.h"

/* Signature in CPUID.1:EAX and, after reset, in EDX: family 6, model F0H, stepping 0. See cpuid.def for why. */
#define CPU_SIGNATURE 0x000f0600u

/* The KVM paravirtual interface that every engine offers. Source: Linux, Documentation/virt/kvm/x86/cpuid.rst. */
#define CPUID_KVM_SIGNATURE 0x40000000u
#define CPUID_KVM_FEATURES 0x40000001u

/* IA32_ARCH_CAPABILITIES. Source: SDM 4, table 2-2. */
#define ARCH_CAP_RDCL_NO BIT(0)
#define ARCH_CAP_IBRS_ALL BIT(1)
#define ARCH_CAP_SKIP_L1DFL_VMENTRY BIT(3)
#define ARCH_CAP_SSB_NO BIT(4)
#define ARCH_CAP_MDS_NO BIT(5)
#define ARCH_CAP_IF_PSCHANGE_MC_NO BIT(6)
#define ARCH_CAP_TAA_NO BIT(8)
#define ARCH_CAP_SBDR_SSDP_NO BIT(13)
#define ARCH_CAP_FBSDP_NO BIT(14)
#define ARCH_CAP_PSDP_NO BIT(15)
#define ARCH_CAP_BHI_NO BIT(20)
#define ARCH_CAP_PBRSB_NO BIT(24)
#define ARCH_CAP_GDS_NO BIT(26)
#define ARCH_CAP_RFDS_NO BIT(27)
#define ARCH_CAP_ITS_NO BIT(62)

enum cpuid_feature {
#define CPUID_FEATURE(id, leaf, subleaf, reg, bit, source, why) CPUID_##id,
#include "cpuid.def"
#undef CPUID_FEATURE
        CPUID_FEATURE_COUNT
};

/* Does the guest have this feature (statically; OSXSAVE and such are not features)? */
bool cpuid_has(enum cpuid_feature feature);
const char *cpuid_feature_name(enum cpuid_feature feature);
/* Where a feature's bit is: leaf and subleaf, register 0-3 (EAX-EDX), bit. */
void cpuid_feature_place(enum cpuid_feature feature, u32 *ret_leaf, u32 *ret_subleaf, unsigned *ret_reg,
                         unsigned *ret_bit);

/* XCR0 bits that the guest may set. */
u64 cpuid_xcr0_supported(void);
/* CR4 bits that are not reserved in this model. */
u64 cpuid_cr4_supported(void);

/* One by one all (leaf, subleaf) pairs of the model: false when @index is beyond the last. @ret_indexed: the subleaf
 * matters. */
bool cpuid_enumerate(size_t index, u32 *ret_leaf, u32 *ret_subleaf, bool *ret_indexed);

/* The feature table masked by @host, which executes CPUID; bit n of @ret_has[n / 64] is feature n. For tests with a
 * pretended host. */
typedef void (*cpuid_host_fn)(u32 leaf, u32 subleaf, struct cpuid_regs *ret);
#define CPUID_FEATURE_WORDS ((CPUID_FEATURE_COUNT + 63) / 64)
void cpuid_model_build(cpuid_host_fn host, u64 ret_has[CPUID_FEATURE_WORDS]);

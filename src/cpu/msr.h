/* Model-specific registers: one table (msr.def) for all engines.
 *
 * The functions run on the vCPU's own thread. They change struct cpu_state (and, for the APIC's MSRs, the platform) and
 * nothing else: an engine that caches what depends on EFER, FS_BASE, GS_BASE or APIC_BASE looks after that itself when
 * cpu_msr_write returned 0. */
#pragma once

#include "cpu.h"

#define MSR_SPEC_CTRL 0x48
#define MSR_PRED_CMD 0x49
#define MSR_ARCH_CAPABILITIES 0x10a
#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_MTRR_DEF_TYPE 0x2ff

#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_EXTD BIT(10)
#define APIC_BASE_EN BIT(11)

/* Source: SDM 4, IA32_MISC_ENABLE. */
#define MISC_ENABLE_VALID 0x400c51889ULL
#define MISC_ENABLE_READ_ONLY 0x1880ULL

/* RDMSR and WRMSR. 0, or -EINVAL when the guest gets #GP; an MSR that the model does not have is counted and traced
 * too. */
int cpu_msr_read(struct vcpu *vcpu, u32 msr, u64 *ret);
int cpu_msr_write(struct vcpu *vcpu, u32 msr, u64 value);

/* IA32_ARCH_CAPABILITIES of the model: no mitigation that a guest could choose would help it under an emulating engine
 * (docs/adr/0011-speculation.md says what holds there and what does not). Engines that run guest code on the hardware show
 * only what the hardware has of it. RSBA stays clear: with IBRS_ALL Linux then builds neither retpolines nor return thunks. */
#define CPU_ARCH_CAPABILITIES                                                                                          \
        (ARCH_CAP_RDCL_NO | ARCH_CAP_IBRS_ALL | ARCH_CAP_SKIP_L1DFL_VMENTRY | ARCH_CAP_SSB_NO | ARCH_CAP_MDS_NO |      \
         ARCH_CAP_IF_PSCHANGE_MC_NO | ARCH_CAP_TAA_NO | ARCH_CAP_SBDR_SSDP_NO | ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO | \
         ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO | ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO | ARCH_CAP_ITS_NO)

/* May APIC_BASE change from @old to @value, or would that be #GP? */
bool cpu_apic_base_valid(u64 old, u64 value);

/* ---- for engines that keep MSRs elsewhere (KVM), and for loading state ---- */

enum msr_kind {
        MSR_KIND_STORED,  /* a field of cpu_state */
        MSR_KIND_CONST,   /* read-only value of the model */
        MSR_KIND_SPECIAL, /* functions */
};

struct msr_info {
        const char *name;
        u32 first, count, step; /* MSR numbers first, first + step, ... */
        enum msr_kind kind;
        size_t offset;          /* STORED: where in cpu_state the first one is; the others follow */
        u64 value;              /* CONST */
};

/* Entry @index of the table, false beyond the last. */
bool cpu_msr_info(size_t index, struct msr_info *ret);
/* The entry that holds @msr, or false. */
bool cpu_msr_find(u32 msr, struct msr_info *ret);
/* The field of @state that stores MSR @msr of a STORED entry. */
u64 *cpu_msr_field(struct cpu_state *state, const struct msr_info *info, u32 msr);
/* Are all stored MSRs of @state what a WRMSR would have accepted? NULL, or the name of the first that is not. */
const char *cpu_msr_check_state(const struct cpu_state *state);

/* The paravirtual clock structures that a guest shares with its hypervisor. Plain functions: the board knows which vCPU has
 * which page and when to refresh it.
 * Source: Linux Documentation/virt/kvm/x86/msr.rst (MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW). */
#pragma once

#include "mmu/memory.h"

#define KVMCLOCK_ENABLE 1ULL        /* bit 0 of the SYSTEM_TIME MSR */
#define KVMCLOCK_TSC_STABLE 1       /* flags: the guest may compare times of different vCPUs */
#define KVMCLOCK_GUEST_STOPPED 2    /* flags: the guest was paused; it clears this itself */

/* Time of one vCPU at the moment its TSC was @tsc. */
struct kvmclock_time {
        u64 tsc;       /* the guest's TSC, offset included */
        u64 system_ns; /* nanoseconds since the machine started */
        u64 tsc_hz;
        u8 flags;
};

/* Fills the structure that MSR @msr (KVM_SYSTEM_TIME as written by the guest) points at. 0; -EINVAL for an address that is no
 * aligned RAM or while the enable bit is off. The vCPU it belongs to must not run guest code meanwhile, or be the caller. */
int kvmclock_system_time_update(struct guest_memory *memory, u64 msr, const struct kvmclock_time *time);
/* Fills the wall clock structure at @gpa with the UTC time of machine start, @boot_ns since 1970. */
int kvmclock_wall_clock_update(struct guest_memory *memory, u64 gpa, u64 boot_ns);

/* ns = ((ticks << or >> shift) * mul) >> 32, with the most precise mul for a counter of @hz. */
void kvmclock_scale(u64 hz, u32 *ret_mul, s8 *ret_shift);

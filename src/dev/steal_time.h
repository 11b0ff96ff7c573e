/* The structure by which a vCPU tells its guest of time that it could not run: how much, and whether it is running now. Plain functions, like
 * kvmclock.h's; all on the vCPU's own thread, outside of guest code or in an instruction that left it.
 * Source: Linux Documentation/virt/kvm/x86/msr.rst (MSR_KVM_STEAL_TIME) and cpuid.rst (KVM_FEATURE_PV_TLB_FLUSH). */
#pragma once

#include "mmu/memory.h"

#define STEAL_TIME_ENABLE 1ULL    /* bit 0 of the MSR; the rest is the address, aligned to 64 bytes */
#define STEAL_TIME_RESERVED 0x3eULL

/* Adds @ns to the time stolen. 0; -EINVAL when the structure is switched off or not in RAM. */
int steal_time_add(struct guest_memory *memory, u64 msr, u64 ns);
/* The vCPU stops running: others leave it a request where they would have sent an interrupt. */
void steal_time_set_preempted(struct guest_memory *memory, u64 msr);
/* It runs again. True: somebody has asked for its TLB to be flushed before it does. */
bool steal_time_take_preempted(struct guest_memory *memory, u64 msr);

#include "dev/steal_time.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>

#define VCPU_PREEMPTED 1
#define VCPU_FLUSH_TLB 2

/* The guest reads @steal while @version is even and the same before and after; @preempted is changed by other vCPUs. */
struct steal_time {
        u64 steal;
        u32 version, flags;
        u8 preempted, pad[47];
};
_Static_assert(sizeof(struct steal_time) == 64 && offsetof(struct steal_time, preempted) == 16, "the guest's layout");

static u64 address_of(u64 msr)
{
        return msr & ~(STEAL_TIME_ENABLE | STEAL_TIME_RESERVED);
}

static struct steal_time *find(const struct guest_memory *memory, u64 msr)
{
        return msr & STEAL_TIME_ENABLE ? guest_memory_hva(memory, address_of(msr), sizeof(struct steal_time)) : NULL;
}

int steal_time_add(struct guest_memory *memory, u64 msr, u64 ns)
{
        struct steal_time *st = find(memory, msr);
        u32 version;

        if (!st)
                return -EINVAL;
        /* Odd while it changes; the guest may have left anything there. */
        version = (le32toh(__atomic_load_n(&st->version, __ATOMIC_RELAXED)) + 1) | 1;
        __atomic_store_n(&st->version, htole32(version), __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE); /* pairs with the guest's read barriers */
        __atomic_store_n(&st->steal, htole64(le64toh(__atomic_load_n(&st->steal, __ATOMIC_RELAXED)) + ns), __ATOMIC_RELAXED);
        __atomic_store_n(&st->version, htole32(version + 1), __ATOMIC_RELEASE);
        guest_memory_written(memory, address_of(msr), sizeof(*st));
        return 0;
}

void steal_time_set_preempted(struct guest_memory *memory, u64 msr)
{
        struct steal_time *st = find(memory, msr);

        if (!st)
                return;
        __atomic_store_n(&st->preempted, VCPU_PREEMPTED, __ATOMIC_SEQ_CST);
        guest_memory_written(memory, address_of(msr), sizeof(*st));
}

bool steal_time_take_preempted(struct guest_memory *memory, u64 msr)
{
        struct steal_time *st = find(memory, msr);
        u8 old;

        if (!st)
                return false;
        /* Who finds the flag gone sends the interrupt after all. */
        old = __atomic_exchange_n(&st->preempted, 0, __ATOMIC_SEQ_CST);
        if (old)
                guest_memory_written(memory, address_of(msr), sizeof(*st));
        return old & VCPU_FLUSH_TLB;
}

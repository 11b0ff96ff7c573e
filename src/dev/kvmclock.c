/* A guest reads the structures without a lock: the version is odd while they change, and it tries again when it was odd or
 * differs afterwards. So each update is three stores to guest memory in order: odd version, contents, even version. */
#include "dev/kvmclock.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>

#include "base/clock.h"

struct system_time {
        u32 version, pad0;
        u64 tsc_timestamp, system_time;
        u32 tsc_to_system_mul;
        s8 tsc_shift;
        u8 flags;
        u8 pad[2];
} _packed_;
_Static_assert(sizeof(struct system_time) == 32, "the guest's layout");

struct wall_clock {
        u32 version, seconds, nanoseconds;
} _packed_;
_Static_assert(sizeof(struct wall_clock) == 12, "the guest's layout");

void kvmclock_scale(u64 hz, u32 *ret_mul, s8 *ret_shift)
{
        s8 shift = 0;

        if (!hz)
                hz = 1;
        /* mul = 2^32 * 10^9 / hz must fit 32 bits and use the top one: scale hz into (10^9, 2 * 10^9]. */
        while (hz > 2 * NSEC_PER_SEC) {
                hz >>= 1;
                shift--;
        }
        while (hz <= NSEC_PER_SEC) {
                hz <<= 1;
                shift++;
        }
        *ret_mul = (u32)muldiv64(NSEC_PER_SEC, 1ULL << 32, hz);
        *ret_shift = shift;
}

/* Writes @size bytes whose first four are the version: everything but the version between two version stores. */
static int publish(struct guest_memory *memory, u64 gpa, void *data, u64 size)
{
        u8 *bytes = data;
        u32 version, v;

        if (guest_memory_read(memory, gpa, &version, sizeof(version)) < 0 || !guest_memory_is_ram(memory, gpa, size))
                return -EINVAL;
        version = (le32toh(version) + 1) | 1;
        v = htole32(version);
        (void)guest_memory_write(memory, gpa, &v, sizeof(v));
        __atomic_thread_fence(__ATOMIC_RELEASE); /* pairs with the guest's read barriers */
        (void)guest_memory_write(memory, gpa + sizeof(v), bytes + sizeof(v), size - sizeof(v));
        __atomic_thread_fence(__ATOMIC_RELEASE);
        v = htole32(version + 1);
        (void)guest_memory_write(memory, gpa, &v, sizeof(v));
        return 0;
}

int kvmclock_system_time_update(struct guest_memory *memory, u64 msr, const struct kvmclock_time *time)
{
        struct system_time st = {
                .tsc_timestamp = htole64(time->tsc),
                .system_time = htole64(time->system_ns),
                .flags = time->flags,
        };
        const u64 gpa = msr & ~KVMCLOCK_ENABLE;
        u32 mul;

        if (!(msr & KVMCLOCK_ENABLE) || (gpa & 3))
                return -EINVAL;
        kvmclock_scale(time->tsc_hz, &mul, &st.tsc_shift);
        st.tsc_to_system_mul = htole32(mul);
        return publish(memory, gpa, &st, sizeof(st));
}

int kvmclock_wall_clock_update(struct guest_memory *memory, u64 gpa, u64 boot_ns)
{
        struct wall_clock wc = {
                .seconds = htole32((u32)(boot_ns / NSEC_PER_SEC)),
                .nanoseconds = htole32((u32)(boot_ns % NSEC_PER_SEC)),
        };

        if (gpa & 3)
                return -EINVAL;
        return publish(memory, gpa, &wc, sizeof(wc));
}

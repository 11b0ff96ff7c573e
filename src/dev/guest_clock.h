/* The time that a device's timers live in: host nanoseconds that stand still while the machine is paused or saved.
 *
 * A device keeps all its times in guest-clock nanoseconds and converts only when it arms a loop_timer. Freezing on
 * quiesce, thawing on resume and restoring from a saved value each change one number, so no stored time needs fixing. */
#pragma once

#include "base/clock.h"
#include "base/loop.h"

struct guest_clock {
        u64 offset; /* host clock minus guest clock; may wrap */
        u64 frozen; /* guest time while is_frozen */
        bool is_frozen;
};

static inline u64 guest_clock_now(const struct guest_clock *clock)
{
        return clock->is_frozen ? clock->frozen : clock_now_ns() - clock->offset;
}

static inline void guest_clock_freeze(struct guest_clock *clock)
{
        clock->frozen = guest_clock_now(clock);
        clock->is_frozen = true;
}

static inline void guest_clock_thaw(struct guest_clock *clock)
{
        if (clock->is_frozen)
                clock->offset = clock_now_ns() - clock->frozen;
        clock->is_frozen = false;
}

/* Continues from a saved time; keeps standing still when it is frozen. */
static inline void guest_clock_restore(struct guest_clock *clock, u64 now)
{
        clock->frozen = now;
        if (!clock->is_frozen)
                clock->offset = clock_now_ns() - now;
}

/* Arms @timer for guest time @deadline; a frozen clock arms nothing (the owner re-arms when it thaws). */
static inline void guest_clock_arm(const struct guest_clock *clock, struct loop_timer *timer, u64 deadline)
{
        if (clock->is_frozen)
                loop_timer_cancel(timer);
        else
                loop_timer_set(timer, deadline + clock->offset);
}

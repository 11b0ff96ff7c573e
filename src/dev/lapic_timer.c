/* The local APIC's timer.
 *
 * Counting modes: the timer clock is 1 GHz, so one count is `divide` nanoseconds and the state is a single number, the time
 * `expiry` at which the count reaches 0; the current count is computed when it is read. Deadline mode: the state is the TSC
 * value. In both, lapic_timer_run() is the only place where the timer fires; it runs from the host timer and before
 * every read, so the guest never sees a count of 0 or a past deadline without its interrupt.
 *
 * A periodic timer stays on its grid of expirations; those that were missed merge into one interrupt, as they would in the IRR.
 * A guest cannot make the host's timer fire more often than every LAPIC_TIMER_MIN_NS.
 *
 * Source: Intel SDM 3A, 11.5.4. */
#include "dev/lapic_internal.h"

#define LAPIC_TIMER_MIN_NS 50000ULL
/* A far deadline is looked at again after this time: keeps the conversion exact and without overflow. */
#define LAPIC_DEADLINE_CHECK_NS (100 * NSEC_PER_SEC)

/* Divide configuration register: bits 3, 1 and 0 make a shift count, 7 means divide by 1. */
static u64 divider(u32 divide)
{
        const unsigned code = (divide & 3) | ((divide & 8) >> 1);

        return 1ULL << ((code + 1) & 7);
}

/* Nanoseconds that no count can exceed. */
u64 lapic_timer_longest_ns(void)
{
        return 0xffffffffULL * 128;
}

static bool deadline_mode(const struct lapic *a)
{
        return a->s.lvt[LVT_TIMER] & LVT_TIMER_DEADLINE;
}

static void run_deadline(struct lapic *a)
{
        const struct lapic_set *set = a->set;
        u64 tsc, delta_ns;

        if (!a->s.tsc_deadline) {
                loop_timer_cancel(&a->timer);
                return;
        }
        tsc = set->ops.tsc_now(set->opaque, a->index);
        if (tsc >= a->s.tsc_deadline) {
                a->s.tsc_deadline = 0;
                loop_timer_cancel(&a->timer);
                lapic_lvt_fire(a, LVT_TIMER);
                return;
        }
        /* Rounded up: the timer must not come early, it would only have to be set again. */
        if ((a->s.tsc_deadline - tsc) / set->ops.tsc_hz >= LAPIC_DEADLINE_CHECK_NS / NSEC_PER_SEC)
                delta_ns = LAPIC_DEADLINE_CHECK_NS;
        else
                delta_ns = muldiv64(a->s.tsc_deadline - tsc, NSEC_PER_SEC, set->ops.tsc_hz) + 1;
        guest_clock_arm(&set->clock, &a->timer, guest_clock_now(&set->clock) + delta_ns);
}

static void run_count(struct lapic *a)
{
        const struct guest_clock *clock = &a->set->clock;
        const u64 now = guest_clock_now(clock);
        bool fire = false;

        if (a->s.expiry && now >= a->s.expiry) {
                const u64 period = a->s.initial_count * divider(a->s.divide);

                if ((a->s.lvt[LVT_TIMER] & LVT_TIMER_PERIODIC) && period)
                        a->s.expiry += ((now - a->s.expiry) / period + 1) * period;
                else
                        a->s.expiry = 0;
                fire = true;
        }
        if (!a->s.expiry)
                loop_timer_cancel(&a->timer);
        else
                guest_clock_arm(clock, &a->timer, fire ? MAX(a->s.expiry, now + LAPIC_TIMER_MIN_NS) : a->s.expiry);
        if (fire)
                lapic_lvt_fire(a, LVT_TIMER);
}

void lapic_timer_run(struct lapic *a)
{
        if (deadline_mode(a))
                run_deadline(a);
        else
                run_count(a);
}

static void on_timer(void *opaque)
{
        lapic_timer_run(opaque);
}

void lapic_timer_init(struct lapic *a)
{
        loop_timer_init(&a->timer, a->set->env->loop, on_timer, a);
}

void lapic_timer_stop(struct lapic *a)
{
        a->s.expiry = 0;
        a->s.tsc_deadline = 0;
        loop_timer_cancel(&a->timer);
}

u32 lapic_timer_current(struct lapic *a)
{
        u64 now, div = divider(a->s.divide);

        if (deadline_mode(a))
                return 0;
        lapic_timer_run(a);
        if (!a->s.expiry)
                return 0;
        now = guest_clock_now(&a->set->clock);
        /* The clock went on since lapic_timer_run: the last count lasts a little longer then. */
        return now >= a->s.expiry ? 1 : (u32)((a->s.expiry - now + div - 1) / div);
}

void lapic_timer_continue(struct lapic *a, u32 count)
{
        a->s.expiry = count ? guest_clock_now(&a->set->clock) + count * divider(a->s.divide) : 0;
        lapic_timer_run(a);
        trace(APIC_TIMER, a->index, a->s.expiry);
}

void lapic_timer_set_initial(struct lapic *a, u32 count)
{
        if (deadline_mode(a)) /* "writes to the initial-count register are ignored" */
                return;
        a->s.initial_count = count;
        lapic_timer_continue(a, count);
}

void lapic_timer_set_divide(struct lapic *a, u32 divide)
{
        const u32 current = lapic_timer_current(a);

        a->s.divide = divide;
        if (!deadline_mode(a))
                lapic_timer_continue(a, current);
}

void lapic_timer_set_lvt(struct lapic *a, u32 lvt)
{
        lapic_timer_run(a); /* what is due belongs to the old mode and vector */
        if ((a->s.lvt[LVT_TIMER] ^ lvt) & LVT_TIMER_DEADLINE) {
                /* Going into or out of deadline mode disarms the timer. */
                lapic_timer_stop(a);
                a->s.initial_count = 0;
        }
        a->s.lvt[LVT_TIMER] = lvt;
        lapic_timer_run(a);
}

u64 lapic_timer_deadline(struct lapic *a)
{
        if (!deadline_mode(a))
                return 0;
        lapic_timer_run(a);
        return a->s.tsc_deadline;
}

void lapic_timer_set_deadline(struct lapic *a, u64 tsc)
{
        if (!deadline_mode(a))
                return;
        a->s.tsc_deadline = tsc;
        lapic_timer_run(a);
        trace(APIC_TIMER, a->index, tsc);
}

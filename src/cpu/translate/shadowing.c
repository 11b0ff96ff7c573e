/* When user code runs by way of the shadow window (mmu/shadow.h) and when by the soft TLB.
 *
 * A window pays when an address space computes for a while with the same memory: showing a page costs a host fault and a system call or two, some ten
 * microseconds, its use nothing. Short-lived processes, and those that map and unmap, had better stay with the soft TLB, where a miss costs a
 * fraction of that. So spaces are watched: while guest code runs a timer ticks each millisecond, and a tick in user code counts for its space, unless the guest
 * faulted or flushed a lot meanwhile. With enough ticks, or a few that find it at the same place, it gets the window. Then the time that host faults
 * take is watched; where that is too much, the space is banned for some ticks, twice as many each time. Ticks are fewer while there is nothing to watch.
 *
 * The blocks of the window are others than those of the soft TLB (MODE_SHADOW), and both stay. What a program has used before it gets the window is translated
 * again when it runs there; new code is translated once, wherever the program is. So to wait, or to leave the window, because a program meets new code
 * saves nothing: it would only have more to be made again later. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

#define TICK_NS 1000000
#define QUIET_TICK_NS 8000000 /* while the window's owner runs and shows nothing */
#define HOT_TICKS 6u        /* in its user code, before a space may have the window ... */
#define LOOP_TICKS 3u       /* ... or so many in a row at the same place */
#define SAME_PLACE 512u     /* bytes of code */
#define IDLE_TICKS 4u       /* of others, before its owner may lose it */
#define BUSY_FAULTS 12u     /* of the guest, or flushes, in a tick that therefore does not count */
#define BAD_SHARE 2         /* a tick is bad when more than its half goes into host faults */
#define BAD_TICKS 24u       /* of them, before a space is banned: showing some MiB for the first time is less */
#define GUEST_FAULTS_MAX 24u /* in a tick: leave the window at once */
#define BAN_FIRST 32u
#define BAN_MAX 512u
#define SIGNAL_CYCLES 15000u /* of a host fault beyond what is measured in its handler */
#define PROCESS_PAGES_MAX 24000u /* of all windows: the host allows 65,530 mappings, a page may take two */
#define FEW_PAGES 16u
#define CYCLES_PER_TICK 2500000u /* about: 2.5 GHz */

/* Only ticks from now on count. */
static void cool(struct tlb_heat *heat)
{
        heat->ticks = heat->in_row = 0;
}

/* A program that is found at one place time and again is in a loop there: hardly any code has to be made again for it. */
static bool is_hot(const struct interp *in)
{
        const struct tlb_heat *heat = &in->tlb.space->heat;

        return heat->cr3 == in->cpu->paging.cr3 && !heat->ban && (heat->in_row >= LOOP_TICKS || heat->ticks >= HOT_TICKS);
}

/* Should a space that has the window lose it? */
static bool does_badly(const struct shadow_watch *w)
{
        return w->bad_ticks > BAD_TICKS || w->guest_faults > GUEST_FAULTS_MAX;
}

static u32 count_bad(u32 ticks, u64 cycles)
{
        return cycles * BAD_SHARE > CYCLES_PER_TICK ? ticks + 1 : ticks / 2;
}

static void ban(struct tlb_heat *heat)
{
        heat->ban = MIN(BAN_FIRST << heat->bans, BAN_MAX);
        heat->bans = MIN(heat->bans + 1, 8u);
        cool(heat);
}

/* ---- life ---- */

void shadowing_new(struct interp *in)
{
        struct translate_cpu *t = in->translate;

        t->shadow = in->vcpu->shadow == SHADOW_NEVER ? NULL : shadow_new(PROCESS_PAGES_MAX / MAX(in->vcpu->n_vcpus, 1u));
        if (!t->shadow)
                return;
        in->shadow_low = t->shadow->bias[SHADOW_LOW];
        in->shadow_high = t->shadow->bias[SHADOW_HIGH];
        in->shadow_mode = MODE_SHADOW | (shadow_is_fixed(t->shadow) ? MODE_SHADOW_FIXED : 0);
}

void shadowing_free(struct interp *in)
{
        struct translate_cpu *t = in->translate;

        if (t->watch.has_timer)
                timer_delete(t->watch.timer);
        t->watch.has_timer = false;
        t->shadow = shadow_free(t->shadow);
}

/* ---- the timer ---- */

/* A timer's signal goes to one thread. */
void shadowing_thread(struct interp *in)
{
        struct shadow_watch *w = &in->translate->watch;
        struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TICK_SIGNAL };

        if (w->has_timer)
                timer_delete(w->timer);
        w->armed = w->quiet = false;
        w->has_timer = false;
        if (!in->translate->shadow || in->vcpu->shadow != SHADOW_AUTO)
                return;
        event._sigev_un._tid = gettid();
        w->has_timer = timer_create(CLOCK_MONOTONIC, &event, &w->timer) == 0;
}

void shadowing_arm(struct shadow_watch *w)
{
        const struct itimerspec when = { .it_value = { .tv_nsec = w->quiet ? QUIET_TICK_NS : TICK_NS } };

        w->armed = true;
        timer_settime(w->timer, 0, &when, NULL);
}

/* There is something to watch. */
static void hurry(struct shadow_watch *w)
{
        if (w->quiet) {
                w->quiet = false;
                shadowing_arm(w);
        }
}

/* What has been seen of host faults so far is judged. */
static void forget_faults(struct shadow_watch *w)
{
        w->faults = w->guest_faults = 0;
        w->fault_cycles = 0;
}

/* A tick that counts found the program in @block; if NULL, in what translated code calls, the translator for one: then its code is new, and the sooner it
 * has the window the less of it is made twice. */
static void warm(struct tlb_heat *heat, const struct tblock *block)
{
        heat->ticks++;
        if (block && block->gpa - heat->place + SAME_PLACE > 2 * SAME_PLACE) {
                heat->place = block->gpa;
                heat->in_row = 0;
        }
        heat->in_row++;
}

static void tick_of_user(struct interp *in, const struct tblock *block)
{
        struct translate_cpu *t = in->translate;
        struct shadow_watch *w = &t->watch;
        struct tlb_heat *heat = &in->tlb.space->heat;
        const u64 *counters = in->vcpu->counters.value;
        const u64 page_faults = counters[COUNTER_PAGE_FAULTS], flushes = counters[COUNTER_TLB_FLUSHES];
        const bool busy = page_faults - w->page_faults > BUSY_FAULTS || flushes - w->flushes > BUSY_FAULTS;

        if (heat->cr3 != in->cpu->paging.cr3)
                *heat = (struct tlb_heat){ .cr3 = in->cpu->paging.cr3 };
        w->page_faults = page_faults;
        w->flushes = flushes;
        if (tlb_is_shadowed(&in->tlb)) {
                w->owner_idle = 0;
                w->bad_ticks = count_bad(w->bad_ticks, w->fault_cycles + (u64)w->faults * SIGNAL_CYCLES);
                w->change = does_badly(w);
                w->quiet = !w->faults;
                forget_faults(w);
                return;
        }
        w->owner_idle++;
        if (heat->ban)
                heat->ban--;
        else if (busy)
                cool(heat);
        else
                warm(heat, block);
        w->change = is_hot(in) && (!in->tlb.shadowed || w->owner_idle > IDLE_TICKS);
}

bool shadowing_tick(struct interp *in, const struct tblock *block)
{
        struct shadow_watch *w = &in->translate->watch;

        w->quiet = false;
        if ((block ? block->mode : in->mode) & MODE_USER && in->in_code)
                tick_of_user(in, block);
        else
                in->tlb.space->heat.in_row = 0; /* its loop is one of system calls or page faults */
        /* An idle vCPU has no ticks. */
        w->armed = false;
        if (in->in_code)
                shadowing_arm(w);
        return w->change;
}

/* ---- what it decides ---- */

void shadowing_sync(struct interp *in)
{
        struct translate_cpu *t = in->translate;

        if (!t->shadow || !tlb_is_shadowed(&in->tlb) || (!tlb_shadow_is_stale(&in->tlb) && t->shadow->cr3 == in->cpu->paging.cr3))
                return;
        shadow_sync(t->shadow, &in->tlb, in->vcpu->memory, &in->cpu->paging);
        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_SYNCS);
}

/* Follows flushes. If little of what was shown is still right it is another program: after exec, or a new process with the old one's top table. */
static void follow_program(struct interp *in)
{
        struct shadow *s = in->translate->shadow;
        const u64 kept = s->kept, dropped = s->dropped;

        shadowing_sync(in);
        if (in->vcpu->shadow != SHADOW_AUTO || s->dropped - dropped <= s->kept - kept + FEW_PAGES)
                return;
        if (tlb_is_shadowed(&in->tlb))
                shadow_drop(s, &in->tlb);
        in->tlb.space->heat = (struct tlb_heat){ .cr3 = in->cpu->paging.cr3 };
}

void shadowing_follow(struct interp *in)
{
        struct translate_cpu *t = in->translate;
        struct shadow_watch *w = &t->watch;

        if (!t->shadow)
                return;
        if (w->change) {
                w->change = false;
                if (tlb_is_shadowed(&in->tlb)) {
                        ban(&in->tlb.space->heat);
                        shadow_drop(t->shadow, &in->tlb);
                        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_BANS);
                } else if (is_hot(in)) {
                        shadow_take(t->shadow, &in->tlb, &in->cpu->paging);
                        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_TAKES);
                }
                w->bad_ticks = w->owner_idle = 0;
                forget_faults(w);
        }
        if (in->vcpu->shadow == SHADOW_ALWAYS && !tlb_is_shadowed(&in->tlb))
                shadow_take(t->shadow, &in->tlb, &in->cpu->paging);
        follow_program(in);
        if (!tlb_is_shadowed(&in->tlb))
                hurry(w);
}

bool shadowing_fault(struct interp *in, struct tblock *block, u64 host, bool write, bool *ret_unfit)
{
        const u64 began = __builtin_ia32_rdtsc();
        struct translate_cpu *t = in->translate;
        enum shadow_result result;
        u64 gva;

        if (!(block->mode & MODE_SHADOW) || !shadow_contains(t->shadow, host, &gva))
                return false;
        result = shadow_fault(t->shadow, in->vcpu->memory, &in->cpu->paging, gva, write);
        hurry(&t->watch);
        t->watch.faults++;
        t->watch.guest_faults += result == SHADOW_GUEST_FAULT;
        t->watch.fault_cycles += __builtin_ia32_rdtsc() - began;
        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_FAULTS);
        *ret_unfit = result == SHADOW_CANNOT;
        return result == SHADOW_SHOWN;
}

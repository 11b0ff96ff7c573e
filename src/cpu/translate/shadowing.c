/* When user code runs by way of the shadow window (mmu/shadow.h) and when by the soft TLB.
 *
 * A window pays when an address space computes for a while with the same memory: showing a page costs a host fault and a system call or two, some ten
 * microseconds, its use nothing. Short-lived processes, and those that map and unmap, had better stay with the soft TLB, where a miss costs a
 * fraction of that. So spaces are watched: while guest code runs a timer ticks each millisecond, and a tick in user code makes its space *hot*, unless the guest
 * faulted or flushed a lot meanwhile. The hottest space gets the window. While it has it, the time that host faults take is watched; where that is too
 * much, the space is banned for some ticks, twice as many each time.
 *
 * The blocks of the window are others than those of the soft TLB (MODE_SHADOW), so nothing is translated anew when a space changes over, and the
 * change is one of mode. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

#define TICK_NS 1000000
#define HOT_TICKS 2u        /* in its user code, before a space may have the window */
#define IDLE_TICKS 4u       /* of others, before its owner may lose it */
#define BUSY_FAULTS 12u     /* of the guest, or flushes, in a tick that therefore does not count */
#define BUSY_BLOCKS 10u     /* likewise of blocks translated: the program still meets new code, and all of it twice would be dear */
#define BAD_SHARE 2         /* a tick is bad when more than its half goes into host faults and translation */
#define BAD_TICKS 12u
#define GUEST_FAULTS_MAX 24u /* in a tick: leave the window at once */
#define BAN_FIRST 32u
#define BAN_MAX 4096u
#define SIGNAL_CYCLES 15000u /* of a host fault beyond what is measured in its handler */
#define PROCESS_PAGES_MAX 24000u /* of all windows: the host allows 65,530 mappings, a page may take two */
#define FEW_PAGES 16u
#define CYCLES_PER_TICK 2500000u /* about: 2.5 GHz */

/* tlb_table.heat: bits 0-15 ticks, up to HOT_TICKS; 16-31 ticks that the space is still banned; see ban_of for how long the next ban is. */
static u32 heat_ticks(u32 heat)
{
        return heat & 0xff;
}
static u32 heat_ban(u32 heat)
{
        return heat >> 16;
}
static u32 heat_make(u32 ticks, u32 bans, u32 ban)
{
        return ticks | bans << 8 | ban << 16;
}
/* How often it was banned. */
static u32 heat_bans(u32 heat)
{
        return heat >> 8 & 0xff;
}

static void ban(struct tlb_table *space)
{
        const u32 bans = MIN(heat_bans(space->heat) + 1, 8u);

        space->heat = heat_make(0, bans, MIN(BAN_FIRST << (bans - 1), BAN_MAX));
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
        w->armed = false;
        w->has_timer = false;
        if (!in->translate->shadow || in->vcpu->shadow != SHADOW_AUTO)
                return;
        event._sigev_un._tid = gettid();
        w->has_timer = timer_create(CLOCK_MONOTONIC, &event, &w->timer) == 0;
}

void shadowing_arm(struct shadow_watch *w)
{
        const struct itimerspec when = { .it_value = { .tv_nsec = TICK_NS } };

        w->armed = true;
        timer_settime(w->timer, 0, &when, NULL);
}

static void tick_of_user(struct interp *in)
{
        struct translate_cpu *t = in->translate;
        struct shadow_watch *w = &t->watch;
        struct tlb_table *space = in->tlb.space;
        const u64 *counters = in->vcpu->counters.value;
        const u64 page_faults = counters[COUNTER_PAGE_FAULTS], flushes = counters[COUNTER_TLB_FLUSHES], blocks = counters[COUNTER_BLOCKS_TRANSLATED];
        const bool busy = page_faults - w->page_faults > BUSY_FAULTS || flushes - w->flushes > BUSY_FAULTS || blocks - w->blocks > BUSY_BLOCKS;
        const u64 translating = counters[COUNTER_TRANSLATE_CYCLES];
        const u32 heat = space->heat;

        w->page_faults = page_faults;
        w->flushes = flushes;
        w->blocks = blocks;
        if (tlb_is_shadowed(&in->tlb)) {
                const u64 cycles = w->fault_cycles + (u64)w->faults * SIGNAL_CYCLES + (translating - w->translating);

                w->owner_idle = 0;
                w->bad_ticks = cycles * BAD_SHARE > CYCLES_PER_TICK ? w->bad_ticks + 1 : w->bad_ticks / 2;
                w->change = w->bad_ticks > BAD_TICKS || w->guest_faults > GUEST_FAULTS_MAX;
                w->faults = w->guest_faults = 0;
                w->fault_cycles = 0;
                w->translating = translating;
                return;
        }
        w->translating = translating;
        w->owner_idle++;
        if (heat_ban(heat))
                space->heat = heat_make(0, heat_bans(heat), heat_ban(heat) - 1);
        else if (busy)
                space->heat = heat_make(0, heat_bans(heat), 0);
        else if (heat_ticks(heat) < HOT_TICKS)
                space->heat = heat_make(heat_ticks(heat) + 1, heat_bans(heat), 0);
        else
                w->change = !in->tlb.shadowed || w->owner_idle > IDLE_TICKS;
}

bool shadowing_tick(struct interp *in, bool user)
{
        struct shadow_watch *w = &in->translate->watch;

        if (user)
                tick_of_user(in);
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
        in->tlb.space->heat = 0;
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
                        ban(in->tlb.space);
                        shadow_drop(t->shadow, &in->tlb);
                        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_BANS);
                } else if (heat_ticks(in->tlb.space->heat) >= HOT_TICKS) {
                        shadow_take(t->shadow, &in->tlb, &in->cpu->paging);
                        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_TAKES);
                }
                w->bad_ticks = w->owner_idle = w->faults = w->guest_faults = 0;
                w->fault_cycles = 0;
        }
        if (in->vcpu->shadow == SHADOW_ALWAYS && !tlb_is_shadowed(&in->tlb))
                shadow_take(t->shadow, &in->tlb, &in->cpu->paging);
        follow_program(in);
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
        t->watch.faults++;
        t->watch.guest_faults += result == SHADOW_GUEST_FAULT;
        t->watch.fault_cycles += __builtin_ia32_rdtsc() - began;
        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_FAULTS);
        *ret_unfit = result == SHADOW_CANNOT;
        return result == SHADOW_SHOWN;
}

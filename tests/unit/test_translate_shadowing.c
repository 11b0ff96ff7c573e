/* Who gets the shadow window is decided by ticks: where they find a program, and what it did meanwhile. */
#include "cpu_guest.h"

#include <string.h>

#include "cpu/translate/runtime.h"

#define PLACE 0x100000ULL
#define ELSEWHERE 0x10000ULL /* further on */
#define LOOP 3u              /* ticks in a row at one place */
#define ENOUGH 6u            /* ticks anywhere in its code */
#define BAD 25u              /* ticks in a row that go into host faults: they cost it the window */
#define BAN 32u              /* ticks */

struct fixture {
        struct cpu_guest guest;
        struct interp *in;
};

static int setup(void **state)
{
        static struct fixture fixture;
        struct fixture *f = &fixture;

        *f = (struct fixture){ 0 };
        cpu_guest_init_shadow(&f->guest, &translate_engine, 16 * MIB, SHADOW_AUTO);
        f->in = interp_of(&f->guest.vcpu);
        assert_non_null(f->in->translate->shadow);
        f->in->mode = MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_USER;
        f->in->in_code = 1;
        f->in->cpu->paging.cr3 = 0x3000;
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        cpu_guest_free(&f->guest);
        return 0;
}

static void count(struct fixture *f, unsigned counter, u64 n)
{
        counter_add(&f->guest.vcpu.counters, counter, n);
}

static u64 counted(const struct fixture *f, unsigned counter)
{
        return f->guest.vcpu.counters.value[counter];
}

static bool tick_at(struct fixture *f, u64 gpa)
{
        const struct tblock block = { .gpa = gpa, .mode = f->in->mode };

        return shadowing_tick(f->in, &block);
}

/* Ticks at @gpa until one wants a change, at most 100. */
static unsigned ticks_until_change(struct fixture *f, u64 gpa)
{
        unsigned n = 1;

        while (n < 100 && !tick_at(f, gpa))
                n++;
        return n;
}

static void a_loop_gets_the_window_soon(void **state)
{
        struct fixture *f = *state;

        tick_at(f, PLACE + ELSEWHERE);
        assert_int_equal(ticks_until_change(f, PLACE), LOOP);
        shadowing_follow(f->in);
        assert_true(tlb_is_shadowed(&f->in->tlb));
        assert_int_equal(counted(f, COUNTER_SHADOW_TAKES), 1);
}

/* New code is no reason to wait: it is translated once, here or there. */
static void code_all_over_waits(void **state)
{
        struct fixture *f = *state;

        for (unsigned i = 0; i < ENOUGH - 1; i++) {
                count(f, COUNTER_BLOCKS_TRANSLATED, 100);
                assert_false(tick_at(f, PLACE + i * ELSEWHERE));
        }
        assert_true(tick_at(f, PLACE));
}

static void who_is_busy_begins_anew(void **state)
{
        static const unsigned what[] = { COUNTER_PAGE_FAULTS, COUNTER_TLB_FLUSHES };
        struct fixture *f = *state;

        for (unsigned i = 0; i < ARRAY_SIZE(what); i++) {
                for (unsigned k = 0; k < LOOP - 1; k++)
                        assert_false(tick_at(f, PLACE));
                count(f, what[i], 40);
                assert_false(tick_at(f, PLACE));
        }
        assert_int_equal(ticks_until_change(f, PLACE), LOOP);
}

/* In a TLB miss of the loop, say. */
static void a_tick_in_what_the_loop_calls_counts(void **state)
{
        struct fixture *f = *state;

        assert_false(tick_at(f, PLACE));
        assert_false(shadowing_tick(f->in, NULL));
        assert_true(tick_at(f, PLACE));
}

static void the_kernels_ticks_end_a_row(void **state)
{
        struct fixture *f = *state;

        for (unsigned i = 0; i < ENOUGH / 2; i++) {
                if (i)
                        assert_false(tick_at(f, PLACE));
                assert_false(tick_at(f, PLACE));
                f->in->mode &= ~(u32)MODE_USER;
                for (unsigned k = 0; k < 20; k++)
                        assert_false(k % 2 ? tick_at(f, PLACE) : shadowing_tick(f->in, NULL));
                f->in->mode |= MODE_USER;
        }
        assert_true(tick_at(f, PLACE)); /* it has been enough in its own code */
}

/* A tick in which more than half of the time went into host faults. */
static bool bad_tick(struct fixture *f)
{
        f->in->translate->watch.faults = 100;
        return tick_at(f, PLACE);
}

static void whose_pages_cost_too_much_loses_it_for_a_while(void **state)
{
        struct fixture *f = *state;

        for (unsigned n = 0; n < 2; n++) {
                assert_int_equal(ticks_until_change(f, PLACE), n ? BAN + LOOP : LOOP);
                shadowing_follow(f->in);
                for (unsigned i = 0; i < BAD; i++) {
                        assert_true(tlb_is_shadowed(&f->in->tlb));
                        assert_int_equal(bad_tick(f), i == BAD - 1);
                }
                shadowing_follow(f->in);
                assert_false(tlb_is_shadowed(&f->in->tlb));
                assert_int_equal(counted(f, COUNTER_SHADOW_BANS), n + 1);
        }
        assert_int_equal(ticks_until_change(f, PLACE), 2 * BAN + LOOP);
}

static void who_only_translates_keeps_it(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(ticks_until_change(f, PLACE), LOOP);
        shadowing_follow(f->in);
        for (unsigned i = 0; i < 2 * BAD; i++) {
                count(f, COUNTER_TRANSLATE_CYCLES, 2000000);
                assert_false(tick_at(f, PLACE + i * ELSEWHERE));
        }
        assert_true(tlb_is_shadowed(&f->in->tlb));
}

static void ticks_are_far_apart_until_something_happens(void **state)
{
        struct fixture *f = *state;
        const struct tblock block = { .mode = MODE_SHADOW | MODE_USER };
        const u64 host = f->in->translate->shadow->bias[SHADOW_HIGH] + SHADOW_HIGH_START;
        bool unfit;

        assert_int_equal(ticks_until_change(f, PLACE), LOOP);
        assert_false(f->in->translate->watch.quiet);
        shadowing_follow(f->in);
        assert_false(tick_at(f, PLACE));
        assert_true(f->in->translate->watch.quiet);
        shadowing_fault(f->in, (struct tblock *)&block, host, false, &unfit);
        assert_false(f->in->translate->watch.quiet);
        assert_false(tick_at(f, PLACE));
        assert_false(f->in->translate->watch.quiet);
        assert_false(tick_at(f, PLACE));
        assert_true(f->in->translate->watch.quiet);
        /* Another program. */
        f->in->tlb.space = &f->in->tlb.spaces[1];
        shadowing_follow(f->in);
        assert_false(f->in->translate->watch.quiet);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_loop_gets_the_window_soon),
                TEST(code_all_over_waits),
                TEST(who_is_busy_begins_anew),
                TEST(a_tick_in_what_the_loop_calls_counts),
                TEST(the_kernels_ticks_end_a_row),
                TEST(whose_pages_cost_too_much_loses_it_for_a_while),
                TEST(who_only_translates_keeps_it),
                TEST(ticks_are_far_apart_until_something_happens),
        };

        return cmocka_run_group_tests_name("shadowing", tests, NULL, NULL);
}

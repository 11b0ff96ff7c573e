#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "dev/i8042.h"
#include "dev/pit.h"
#include "fake_env.h"

struct fixture {
        struct fake_env f;
        struct pit *pit;
        struct i8042 *i8042;
        unsigned wanted;
};

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));

        fake_env_init(&x->f, MIB);
        assert_int_equal(pit_new(&x->f.env, &x->pit, NULL), 0);
        assert_int_equal(i8042_new(&x->f.env, x->pit, &x->i8042, NULL), 0);
        *state = x;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        fake_env_free(&x->f);
        free(x);
        return 0;
}

static void program(struct fixture *x, unsigned channel, unsigned mode, u16 count)
{
        fake_out(&x->f, 0x43, 1, channel << 6 | 0x30 | mode << 1);
        fake_out(&x->f, (u16)(0x40 + channel), 1, count & 0xff);
        fake_out(&x->f, (u16)(0x40 + channel), 1, count >> 8);
}

static unsigned latched(struct fixture *x, unsigned channel)
{
        unsigned low;

        fake_out(&x->f, 0x43, 1, channel << 6);
        low = (unsigned)fake_in(&x->f, (u16)(0x40 + channel), 1);
        return low | (unsigned)fake_in(&x->f, (u16)(0x40 + channel), 1) << 8;
}

static u8 status(struct fixture *x, unsigned channel)
{
        fake_out(&x->f, 0x43, 1, 0xe0 | 2u << channel);
        return (u8)fake_in(&x->f, (u16)(0x40 + channel), 1);
}

static bool interrupted(void *opaque)
{
        struct fixture *x = opaque;

        return x->f.rises[0] >= x->wanted;
}

static void periodic_modes_interrupt_again(void **state)
{
        struct fixture *x = *state;

        for (unsigned mode = 2; mode <= 3; mode++) {
                program(x, 0, mode, 1193); /* 1 ms */
                x->wanted = x->f.rises[0] + 5;
                assert_true(fake_env_wait(&x->f, interrupted, x));
        }
}

static void one_shot_interrupts_once_and_stays_high(void **state)
{
        struct fixture *x = *state;

        program(x, 0, 0, 500);
        x->wanted = 1;
        assert_true(fake_env_wait(&x->f, interrupted, x));
        program(x, 2, 0, 5000);
        pit_channel2_gate(x->pit, true);
        while (!(fake_in(&x->f, 0x61, 1) & 0x20)) /* ten times as long */
                ;
        assert_int_equal(x->f.rises[0], 1);
        assert_true(x->f.line[0]);
        program(x, 0, 0, 60000);
        assert_false(x->f.line[0]); /* programming lowers the output */
}

static void shortest_period_leaves_the_host_alive(void **state)
{
        struct fixture *x = *state;

        program(x, 0, 2, 1);
        x->wanted = 10;
        assert_true(fake_env_wait(&x->f, interrupted, x));
        program(x, 0, 3, 0); /* and the device answers */
        assert_int_equal(status(x, 0) & 0x3f, 0x36);
}

static void counter_counts_down(void **state)
{
        struct fixture *x = *state;
        unsigned first, now;

        program(x, 0, 2, 0);
        first = latched(x, 0);
        do
                now = latched(x, 0);
        while (now == first);
        assert_in_range(now, 1, 65535);
        program(x, 2, 3, 1000);
        pit_channel2_gate(x->pit, true);
        for (int i = 0; i < 1000; i++) {
                now = latched(x, 2);
                assert_in_range(now, 0, 1000);
                assert_int_equal(now & 1, 0); /* by two */
        }
}

static void latch_holds_until_read(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x61, 1, 0); /* gate low: the counter shows what was loaded */
        program(x, 2, 0, 2000);
        fake_out(&x->f, 0x43, 1, 0xd8); /* read-back: count of 2 */
        fake_out(&x->f, 0x42, 1, 3000 & 0xff);
        fake_out(&x->f, 0x42, 1, 3000 >> 8);
        assert_int_equal(latched(x, 2), 2000); /* a second latch command is ignored */
        assert_int_equal(latched(x, 2), 3000);
        fake_out(&x->f, 0x43, 1, 0xc8); /* count and status: status is read first */
        assert_int_equal(fake_in(&x->f, 0x42, 1), 0x30);
        assert_int_equal(fake_in(&x->f, 0x42, 1), 3000 & 0xff);
        assert_int_equal(fake_in(&x->f, 0x42, 1), 3000 >> 8);
}

static void gate_holds_channel_2(void **state)
{
        struct fixture *x = *state;
        unsigned stopped;

        fake_out(&x->f, 0x61, 1, 0);
        program(x, 2, 0, 2000);
        assert_int_equal(latched(x, 2), 2000);
        assert_int_equal(fake_in(&x->f, 0x61, 1) & 0x21, 0);
        fake_out(&x->f, 0x61, 1, 1);
        assert_int_equal(fake_in(&x->f, 0x61, 1) & 1, 1);
        while (latched(x, 2) == 2000)
                ;
        fake_out(&x->f, 0x61, 1, 0);
        stopped = latched(x, 2);
        assert_int_equal(latched(x, 2), stopped);
        fake_out(&x->f, 0x61, 1, 1);
        while (!(fake_in(&x->f, 0x61, 1) & 0x20))
                ;
}

static void gate_triggers_one_shot(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x61, 1, 0);
        program(x, 2, 1, 60000);
        assert_int_equal(fake_in(&x->f, 0x61, 1) & 0x20, 0x20); /* high until triggered */
        fake_out(&x->f, 0x61, 1, 1);
        assert_int_equal(fake_in(&x->f, 0x61, 1) & 0x20, 0);
        while (!(fake_in(&x->f, 0x61, 1) & 0x20))
                ;
}

static void refresh_bit_toggles(void **state)
{
        struct fixture *x = *state;
        const u64 first = fake_in(&x->f, 0x61, 1) & 0x10;

        while ((fake_in(&x->f, 0x61, 1) & 0x10) == first)
                ;
}

static void null_count_is_shown_until_loaded(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x43, 1, 0xb4);
        assert_int_equal(status(x, 2), 0xf4); /* out high, null count */
        fake_out(&x->f, 0x42, 1, 1);
        fake_out(&x->f, 0x42, 1, 1);
        assert_int_equal(status(x, 2), 0xb4);
}

static void bcd_counts_in_decimal(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x61, 1, 0);
        fake_out(&x->f, 0x43, 1, 0xb1); /* mode 0, BCD, gate low: stands still */
        fake_out(&x->f, 0x42, 1, 0x34);
        fake_out(&x->f, 0x42, 1, 0x12);
        assert_int_equal(latched(x, 2), 0x1234);
}

static void i8042_resets_the_machine(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x64, 1, 0xfe);
        assert_int_equal(x->f.stop, MACHINE_RESET);
        fake_out(&x->f, 0x92, 1, 0x02);
        assert_int_equal(x->f.n_stops, 1);
        assert_int_equal(fake_in(&x->f, 0x92, 1), 0x02);
        fake_out(&x->f, 0x92, 1, 0x01);
        assert_int_equal(x->f.n_stops, 2);
        fake_out(&x->f, 0x64, 1, 0xd1);
        fake_out(&x->f, 0x60, 1, 0x02);
        assert_int_equal(x->f.n_stops, 3);
}

static void i8042_probe_needs_no_timeouts(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(fake_in(&x->f, 0x64, 1) & 3, 0);
        fake_out(&x->f, 0x64, 1, 0xaa);
        assert_int_equal(fake_in(&x->f, 0x64, 1) & 3, 1);
        assert_int_equal(fake_in(&x->f, 0x60, 1), 0x55);
        fake_out(&x->f, 0x64, 1, 0x60);
        fake_out(&x->f, 0x60, 1, 0x45);
        fake_out(&x->f, 0x64, 1, 0x20);
        assert_true(x->f.line[1]);
        assert_int_equal(fake_in(&x->f, 0x60, 1), 0x45);
        assert_false(x->f.line[1]);
        fake_out(&x->f, 0x60, 1, 0xf2); /* identify: answered at once, by "resend" */
        assert_int_equal(fake_in(&x->f, 0x64, 1) & 1, 1);
        assert_int_equal(fake_in(&x->f, 0x60, 1), 0xfe);
        assert_int_equal(fake_in(&x->f, 0x64, 1) & 1, 0);
        fake_check_state(&x->f, fake_env_device(&x->f, "i8042"));
}

static void state_survives(void **state)
{
        struct fixture *x = *state;
        unsigned count;

        program(x, 0, 2, 0);
        program(x, 2, 0, 40000);
        fake_out(&x->f, 0x61, 1, 1);
        fake_check_state(&x->f, fake_env_device(&x->f, "pit"));
        count = latched(x, 0);
        assert_int_equal(latched(x, 0), count); /* quiesced: time stands still */
        fake_env_device(&x->f, "pit")->ops->resume(fake_env_device(&x->f, "pit"));
        while (latched(x, 0) == count)
                ;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(periodic_modes_interrupt_again),
                TEST(one_shot_interrupts_once_and_stays_high),
                TEST(shortest_period_leaves_the_host_alive),
                TEST(counter_counts_down),
                TEST(latch_holds_until_read),
                TEST(gate_holds_channel_2),
                TEST(gate_triggers_one_shot),
                TEST(refresh_bit_toggles),
                TEST(null_count_is_shown_until_loaded),
                TEST(bcd_counts_in_decimal),
                TEST(i8042_resets_the_machine),
                TEST(i8042_probe_needs_no_timeouts),
                TEST(state_survives),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

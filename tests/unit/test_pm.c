#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "dev/debug_exit.h"
#include "dev/pm.h"
#include "fake_env.h"

struct fixture {
        struct fake_env f;
        struct pm *pm;
};

static int setup_with(void **state, bool timer_32bit)
{
        struct fixture *x = calloc(1, sizeof(*x));
        const struct pm_config config = { .timer_32bit = timer_32bit };

        fake_env_init(&x->f, MIB);
        assert_int_equal(pm_new(&x->f.env, &config, &x->pm, NULL), 0);
        assert_int_equal(pm_claim_reset_port(x->pm, NULL), 0);
        *state = x;
        return 0;
}

static int setup(void **state)
{
        return setup_with(state, true);
}

static int setup_24bit(void **state)
{
        return setup_with(state, false);
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        fake_env_free(&x->f);
        free(x);
        return 0;
}

static void sleep_5_is_power_off(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(fake_in(&x->f, PM_CONTROL_PORT, 2), 1); /* SCI_EN */
        fake_out(&x->f, PM_CONTROL_PORT, 2, PM_SLEEP_S5 << 10);
        assert_int_equal(x->f.n_stops, 0);
        fake_out(&x->f, PM_CONTROL_PORT, 2, PM_SLEEP_S5 << 10 | 0x2000);
        assert_int_equal(x->f.stop, MACHINE_POWER_OFF);
        assert_int_equal(fake_in(&x->f, PM_CONTROL_PORT, 2), PM_SLEEP_S5 << 10 | 1); /* SLP_EN reads as 0 */
}

static void sleep_can_be_written_in_bytes(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, PM_CONTROL_PORT + 1, 1, PM_SLEEP_S5 << 2 | 0x20);
        assert_int_equal(x->f.stop, MACHINE_POWER_OFF);
}

static void sleep_3_is_suspend(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, PM_CONTROL_PORT, 2, PM_SLEEP_S3 << 10 | 0x2000);
        assert_int_equal(x->f.stop, MACHINE_SUSPEND);
        pm_wake(x->pm, true);
        assert_int_equal(fake_in(&x->f, PM_EVENT_PORT, 2), 0x8400);
}

static void other_sleeps_do_nothing(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, PM_CONTROL_PORT, 2, 2 << 10 | 0x2000);
        assert_int_equal(x->f.n_stops, 0);
}

static void reset_register_needs_a_rising_bit(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, PM_RESET_PORT, 1, 2);
        assert_int_equal(x->f.n_stops, 0);
        fake_out(&x->f, PM_RESET_PORT, 1, PM_RESET_VALUE);
        assert_int_equal(x->f.stop, MACHINE_RESET);
        fake_out(&x->f, PM_RESET_PORT, 1, PM_RESET_VALUE);
        assert_int_equal(x->f.n_stops, 1);
        assert_int_equal(fake_in(&x->f, PM_RESET_PORT, 1), PM_RESET_VALUE);
}

static void power_button_raises_sci(void **state)
{
        struct fixture *x = *state;

        pm_power_button(x->pm);
        assert_false(x->f.line[PM_SCI_GSI]);
        fake_out(&x->f, PM_EVENT_PORT + 2, 2, 0x0100);
        assert_true(x->f.line[PM_SCI_GSI]);
        assert_int_equal(fake_in(&x->f, PM_EVENT_PORT, 4), 0x01000100);
        fake_out(&x->f, PM_EVENT_PORT, 2, 0x00ff); /* clears other bits only */
        assert_true(x->f.line[PM_SCI_GSI]);
        fake_out(&x->f, PM_EVENT_PORT, 2, 0x0100);
        assert_false(x->f.line[PM_SCI_GSI]);
        assert_int_equal(fake_in(&x->f, PM_EVENT_PORT, 2), 0);
}

static void reserved_enable_bits_stay_zero(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, PM_EVENT_PORT + 2, 2, 0xffff);
        assert_int_equal(fake_in(&x->f, PM_EVENT_PORT + 2, 2), 0x0721);
}

static void timer_counts_up_and_ignores_writes(void **state)
{
        struct fixture *x = *state;
        const u64 first = fake_in(&x->f, PM_TIMER_PORT, 4);

        fake_out(&x->f, PM_TIMER_PORT, 4, 0);
        while (fake_in(&x->f, PM_TIMER_PORT, 4) <= first)
                ;
}

static bool sci(void *opaque)
{
        return ((struct fixture *)opaque)->f.line[PM_SCI_GSI];
}

/* The top bit of the 24-bit timer changes after 2.34 seconds. */
static void timer_overflow_interrupts(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, PM_EVENT_PORT + 2, 2, 1);
        assert_true(fake_env_wait(&x->f, sci, x));
        assert_int_equal(fake_in(&x->f, PM_EVENT_PORT, 2), 1);
        assert_in_range(fake_in(&x->f, PM_TIMER_PORT, 4), 0x800000, 0xffffff);
        fake_out(&x->f, PM_EVENT_PORT, 2, 1);
        assert_false(x->f.line[PM_SCI_GSI]);
}

static void debug_exit_hands_over_its_byte(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(debug_exit_new(&x->f.env, NULL), 0);
        fake_out(&x->f, DEBUG_EXIT_PORT, 4, 0x10);
        assert_int_equal(x->f.stop, MACHINE_DEBUG_EXIT);
        assert_int_equal(x->f.stop_code, 0x10);
        assert_int_equal(x->f.n_stops, 1);
}

static void testdev_drives_lines(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(testdev_new(&x->f.env, NULL), 0);
        fake_out(&x->f, 0x200e, 1, 1);
        assert_true(x->f.line[14]);
        fake_out(&x->f, 0x200e, 1, 0);
        assert_false(x->f.line[14]);
        fake_out(&x->f, 0xe0, 4, 0x12345678);
        assert_int_equal(fake_in(&x->f, 0xe1, 2), 0x3456);
        fake_out(&x->f, 0xe4, 4, 0x1000);
        fake_check_state(&x->f, fake_env_device(&x->f, "testdev"));
}

static void state_survives(void **state)
{
        struct fixture *x = *state;

        pm_power_button(x->pm);
        fake_out(&x->f, PM_EVENT_PORT + 2, 2, 0x0101);
        fake_check_state(&x->f, fake_env_device(&x->f, "acpi-pm"));
        assert_int_equal(fake_in(&x->f, PM_EVENT_PORT, 4), 0x01010100);
        assert_int_equal(fake_in(&x->f, PM_TIMER_PORT, 4), fake_in(&x->f, PM_TIMER_PORT, 4)); /* quiesced */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(sleep_5_is_power_off),
                TEST(sleep_can_be_written_in_bytes),
                TEST(sleep_3_is_suspend),
                TEST(other_sleeps_do_nothing),
                TEST(reset_register_needs_a_rising_bit),
                TEST(power_button_raises_sci),
                TEST(reserved_enable_bits_stay_zero),
                TEST(timer_counts_up_and_ignores_writes),
                cmocka_unit_test_setup_teardown(timer_overflow_interrupts, setup_24bit, teardown),
                TEST(debug_exit_hands_over_its_byte),
                TEST(testdev_drives_lines),
                TEST(state_survives),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

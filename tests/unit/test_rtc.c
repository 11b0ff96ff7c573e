#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "dev/rtc.h"
#include "fake_env.h"

struct fixture {
        struct fake_env f;
        struct rtc *rtc;
        unsigned alarms, wanted;
};

static void on_alarm(void *opaque)
{
        ((struct fixture *)opaque)->alarms++;
}

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));
        const struct rtc_config config = {
                .ram_below_4g = 512 * MIB,
                .ram_above_4g = 2 * GIB,
                .n_cpus = 3,
                .on_alarm = on_alarm,
                .on_alarm_opaque = x,
        };

        fake_env_init(&x->f, MIB);
        assert_int_equal(rtc_new(&x->f.env, &config, &x->rtc, NULL), 0);
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

static u8 rd(struct fixture *x, u8 reg)
{
        fake_out(&x->f, 0x70, 1, reg);
        return (u8)fake_in(&x->f, 0x71, 1);
}

static void wr(struct fixture *x, u8 reg, u8 value)
{
        fake_out(&x->f, 0x70, 1, reg);
        fake_out(&x->f, 0x71, 1, value);
}

/* Stops the clock, sets it (BCD) and starts it again. */
static void set_time(struct fixture *x, u8 hours, u8 minutes, u8 seconds)
{
        const u8 b = rd(x, 0x0b);

        wr(x, 0x0b, b | 0x80);
        wr(x, 0, seconds);
        wr(x, 2, minutes);
        wr(x, 4, hours);
        wr(x, 7, 0x31);
        wr(x, 8, 0x12);
        wr(x, 9, 0x99);
        wr(x, 0x32, 0x20);
        wr(x, 0x0b, b);
}

static unsigned from_bcd(u8 v)
{
        return (v >> 4) * 10u + (v & 15u);
}

static time_t clock_time(struct fixture *x)
{
        struct tm tm = {
                .tm_sec = (int)from_bcd(rd(x, 0)),
                .tm_min = (int)from_bcd(rd(x, 2)),
                .tm_hour = (int)from_bcd(rd(x, 4)),
                .tm_mday = (int)from_bcd(rd(x, 7)),
                .tm_mon = (int)from_bcd(rd(x, 8)) - 1,
                .tm_year = (int)(from_bcd(rd(x, 0x32)) * 100 + from_bcd(rd(x, 9))) - 1900,
        };

        return timegm(&tm);
}

static void shows_the_hosts_utc(void **state)
{
        struct fixture *x = *state;
        time_t before, shown, after;

        do { /* until no second begins in between */
                before = time(NULL);
                shown = clock_time(x);
                after = time(NULL);
        } while (before != after);
        assert_int_equal(shown, before);
}

static void midnight_carries_into_the_century(void **state)
{
        struct fixture *x = *state;

        set_time(x, 0x23, 0x59, 0x59);
        assert_int_equal(rd(x, 9), 0x99);
        while (rd(x, 0) == 0x59)
                ;
        assert_int_equal(rd(x, 4), 0);
        assert_int_equal(rd(x, 7), 0x01);
        assert_int_equal(rd(x, 8), 0x01);
        assert_int_equal(rd(x, 9), 0x00);
        assert_int_equal(rd(x, 0x32), 0x21);
}

static void formats_are_converted(void **state)
{
        struct fixture *x = *state;

        set_time(x, 0x15, 0x45, 0x00);
        wr(x, 0x0b, 0x00); /* 12 hours */
        assert_int_equal(rd(x, 4), 0x83);
        wr(x, 0x0b, 0x06); /* binary */
        assert_int_equal(rd(x, 4), 15);
        assert_int_equal(rd(x, 2), 45);
        wr(x, 0x0b, 0x04);
        assert_int_equal(rd(x, 4), 0x83);
        wr(x, 4, 12); /* midnight is 12 AM */
        wr(x, 0x0b, 0x02);
        assert_int_equal(rd(x, 4), 0x00);
}

static void set_bit_stops_the_clock(void **state)
{
        struct fixture *x = *state;

        wr(x, 0x0b, 0x92);
        assert_int_equal(rd(x, 0x0b), 0x82); /* and clears the update interrupt */
        wr(x, 0, 0x77);
        assert_int_equal(rd(x, 0), 0x77); /* plain bytes meanwhile */
        assert_int_equal(rd(x, 0x0a) & 0x80, 0);
}

static bool line_high(void *opaque)
{
        return ((struct fixture *)opaque)->f.line[8];
}

static void periodic_interrupt_repeats_after_reading_c(void **state)
{
        struct fixture *x = *state;

        wr(x, 0x0a, 0x26);
        wr(x, 0x0b, 0x42);
        for (int i = 0; i < 4; i++) {
                assert_true(fake_env_wait(&x->f, line_high, x));
                assert_int_equal(rd(x, 0x0c) & 0xc0, 0xc0);
        }
        wr(x, 0x0b, 0x02);
        rd(x, 0x0c);
        assert_false(x->f.line[8]);
}

static void update_interrupt_comes_with_the_second(void **state)
{
        struct fixture *x = *state;

        rd(x, 0x0c);
        wr(x, 0x0b, 0x12);
        assert_true(fake_env_wait(&x->f, line_high, x));
        assert_int_equal(rd(x, 0x0c) & 0x90, 0x90);
}

static void alarm_interrupts_and_wakes(void **state)
{
        struct fixture *x = *state;

        wr(x, 5, 0xc0); /* any hour */
        wr(x, 3, 0x30);
        wr(x, 1, 0x01);
        set_time(x, 0x10, 0x30, 0x00);
        rd(x, 0x0c);
        wr(x, 0x0b, 0x22);
        assert_true(fake_env_wait(&x->f, line_high, x));
        assert_int_equal(rd(x, 0x0c) & 0xa0, 0xa0);
        assert_int_equal(rd(x, 0), 0x01);
        assert_int_equal(x->alarms, 1);
}

static void other_time_is_no_alarm(void **state)
{
        struct fixture *x = *state;

        wr(x, 5, 0x11);
        wr(x, 3, 0x30);
        wr(x, 1, 0x01);
        wr(x, 0x0b, 0x22);
        set_time(x, 0x10, 0x30, 0x00);
        rd(x, 0x0c);
        while (rd(x, 0) < 0x02)
                ;
        assert_int_equal(rd(x, 0x0c) & 0x20, 0);
        assert_int_equal(x->alarms, 0);
}

static void cmos_holds_what_software_expects(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(rd(x, 0x0d), 0x80);
        assert_int_equal(rd(x, 0x15) | rd(x, 0x16) << 8, 640);
        assert_int_equal(rd(x, 0x34) | rd(x, 0x35) << 8, 496 * 16);
        assert_int_equal(rd(x, 0x5b) | rd(x, 0x5c) << 8 | rd(x, 0x5d) << 16, 32768);
        assert_int_equal(rd(x, 0x5f), 2);
        wr(x, 0x70, 0x5a);
        wr(x, 0x0d, 0);
        assert_int_equal(rd(x, 0x70), 0x5a);
        assert_int_equal(rd(x, 0x0d), 0x80);
}

static void nonsense_times_are_survived(void **state)
{
        struct fixture *x = *state;

        for (unsigned b = 0; b < 8; b += 2) {
                for (unsigned v = 0; v < 256; v++) {
                        for (u8 reg = 0; reg < 0x0a; reg++)
                                wr(x, reg, (u8)v);
                        wr(x, 0x32, (u8)(v * 7));
                        wr(x, 0x0b, (u8)(b | (v & 1) << 7));
                        assert_in_range(rd(x, 8), 0, 255);
                }
        }
}

static void state_survives(void **state)
{
        struct fixture *x = *state;

        wr(x, 0x0b, 0x72);
        fake_check_state(&x->f, fake_env_device(&x->f, "rtc"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(shows_the_hosts_utc),
                TEST(midnight_carries_into_the_century),
                TEST(formats_are_converted),
                TEST(set_bit_stops_the_clock),
                TEST(periodic_interrupt_repeats_after_reading_c),
                TEST(update_interrupt_comes_with_the_second),
                TEST(alarm_interrupts_and_wakes),
                TEST(other_time_is_no_alarm),
                TEST(cmos_holds_what_software_expects),
                TEST(nonsense_times_are_survived),
                TEST(state_survives),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/ioapic.h"
#include "dev/irq_router.h"
#include "fake_env.h"

#define SVR 0xf0
#define EOI 0xb0
#define LEVEL 0x8000
#define MASKED 0x10000

struct fixture {
        struct fake_env f;
        struct lapic_set *set;
        struct ioapic *ioapic;
        int current;
};

static int current_cpu(void *opaque)
{
        return ((struct fixture *)opaque)->current;
}

static void post(void *opaque, unsigned cpu, enum lapic_post what)
{
}

static u64 tsc_now(void *opaque, unsigned cpu)
{
        return 0;
}

static u32 rd(struct fixture *x, unsigned reg)
{
        fake_mmio_write(&x->f, IOAPIC_BASE, 4, reg);
        return (u32)fake_mmio_read(&x->f, IOAPIC_BASE + 0x10, 4);
}

static void wr(struct fixture *x, unsigned reg, u32 value)
{
        fake_mmio_write(&x->f, IOAPIC_BASE, 1, reg); /* the selector is a byte */
        fake_mmio_write(&x->f, IOAPIC_BASE + 0x10, 4, value);
}

static void redirect(struct fixture *x, unsigned pin, u32 low, u8 destination)
{
        wr(x, 0x10 + 2 * pin, low);
        wr(x, 0x11 + 2 * pin, (u32)destination << 24);
}

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));
        const struct lapic_ops ops = { .current_cpu = current_cpu, .post = post, .tsc_now = tsc_now, .tsc_hz = 1 };

        fake_env_init(&x->f, MIB);
        assert_int_equal(lapic_set_new(&x->f.env, 2, &ops, x, &x->set, NULL), 0);
        assert_int_equal(ioapic_new(&x->f.env, x->set, 0, &x->ioapic, NULL), 0);
        for (x->current = 1; x->current >= 0; x->current--)
                fake_mmio_write(&x->f, LAPIC_DEFAULT_BASE + SVR, 4, 0x1ff);
        x->current = 0;
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

/* Takes CPU 0's interrupt without ending it. */
static int take(struct fixture *x)
{
        return lapic_irq_pending(x->set, 0) ? lapic_irq_ack(x->set, 0) : -1;
}

static void end(struct fixture *x)
{
        fake_mmio_write(&x->f, LAPIC_DEFAULT_BASE + EOI, 4, 0);
}

static void registers_are_the_datasheets(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(rd(x, 1), 0x170011);
        wr(x, 1, 0);
        assert_int_equal(rd(x, 1), 0x170011);
        wr(x, 0, 0xffffffff);
        assert_int_equal(rd(x, 0), 0x0f000000);
        assert_int_equal(rd(x, 2), 0x0f000000);
        assert_int_equal(rd(x, 0x10), MASKED);
        wr(x, 0x10, 0xffffffff);
        wr(x, 0x11, 0xffffffff);
        assert_int_equal(rd(x, 0x10), 0x1afff);
        assert_int_equal(rd(x, 0x11), 0xff000000);
        assert_int_equal(rd(x, 0x40), 0); /* beyond the last entry */
        wr(x, 0xff, 1);
}

static void edge_is_sent_once(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x76, 0);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(take(x), 0x76);
        end(x);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(take(x), -1);
        ioapic_pin_set(x->ioapic, 14, false);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(take(x), 0x76);
}

static void masked_edge_is_forgotten(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x81 | MASKED, 0);
        ioapic_pin_set(x->ioapic, 14, true);
        redirect(x, 14, 0x81, 0);
        assert_int_equal(take(x), -1);
}

static void masked_level_waits(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x82 | LEVEL | MASKED, 0);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(take(x), -1);
        redirect(x, 14, 0x82 | LEVEL, 0);
        assert_int_equal(take(x), 0x82);
}

static void level_repeats_until_lowered(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x9a | LEVEL, 0);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(take(x), 0x9a);
        assert_int_equal(rd(x, 0x10 + 28) & 0x4000, 0x4000); /* remote IRR */
        ioapic_pin_set(x->ioapic, 14, false);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(take(x), -1); /* merged: not ended yet */
        end(x);
        assert_int_equal(take(x), 0x9a);
        ioapic_pin_set(x->ioapic, 14, false);
        end(x);
        assert_int_equal(take(x), -1);
        assert_int_equal(rd(x, 0x10 + 28) & 0x4000, 0);
}

static void switching_to_edge_clears_remote_irr(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x9a | LEVEL, 0);
        ioapic_pin_set(x->ioapic, 14, true);
        redirect(x, 14, 0x9a | MASKED, 0);
        assert_int_equal(rd(x, 0x10 + 28), 0x9a | MASKED);
        redirect(x, 14, 0x9a | LEVEL | MASKED, 0);
        assert_int_equal(rd(x, 0x10 + 28) & 0x4000, 0);
}

static void message_nobody_takes_stays_asserted(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x9a | LEVEL, 5);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(rd(x, 0x10 + 28) & 0x4000, 0);
        wr(x, 0x11 + 28, 0);
        assert_int_equal(take(x), 0x9a);
}

static void destination_may_change_before_the_end(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x64 | LEVEL, 0);
        ioapic_pin_set(x->ioapic, 14, true);
        assert_int_equal(take(x), 0x64);
        ioapic_pin_set(x->ioapic, 14, false);
        wr(x, 0x11 + 28, 1 << 24);
        end(x);
        assert_int_equal(rd(x, 0x10 + 28) & 0x4000, 0);
}

static void out_of_range_pins_are_ignored(void **state)
{
        struct fixture *x = *state;

        ioapic_pin_set(x->ioapic, 24, true);
        ioapic_pin_set(x->ioapic, 32, true);
        assert_int_equal(take(x), -1);
}

static void gsi_0_is_pin_2(void **state)
{
        struct fixture *x = *state;

        redirect(x, 2, 0x30, 0);
        ioapic_gsi_set(x->ioapic, 0, true);
        assert_int_equal(take(x), 0x30);
}

static void shared_line_is_high_while_any_source_is(void **state)
{
        struct fixture *x = *state;
        const struct irq_line sink = { .set = ioapic_gsi_set, .opaque = x->ioapic };
        struct irq_router *router;
        struct irq_line a, b;

        assert_int_equal(irq_router_new(&x->f.env, &sink, 1, &router, NULL), 0);
        a = irq_router_line(router, 16);
        b = irq_router_line(router, 16);
        redirect(x, 16, 0x50 | LEVEL, 0);
        irq_line_set(&a, true);
        irq_line_set(&b, true);
        irq_line_set(&a, false);
        assert_int_equal(take(x), 0x50);
        end(x);
        assert_int_equal(take(x), 0x50);
        irq_line_set(&b, false);
        end(x);
        assert_int_equal(take(x), -1);
        a = irq_router_line(router, IRQ_GSIS); /* leads nowhere */
        irq_line_set(&a, true);
        irq_line_set(&b, true);
        fake_check_state(&x->f, fake_env_device(&x->f, "irq-router"));
}

static void new_sinks_learn_the_levels(void **state)
{
        struct fixture *x = *state;
        const struct irq_line sink = { .set = ioapic_gsi_set, .opaque = x->ioapic };
        struct irq_router *router;
        struct irq_line a;

        redirect(x, 16, 0x50 | LEVEL, 0);
        assert_int_equal(irq_router_new(&x->f.env, &sink, 0, &router, NULL), 0);
        a = irq_router_line(router, 16);
        irq_line_set(&a, true);
        assert_int_equal(take(x), -1);
        irq_router_set_sinks(router, &sink, 1);
        assert_int_equal(take(x), 0x50);
}

static void state_survives(void **state)
{
        struct fixture *x = *state;

        redirect(x, 14, 0x9a | LEVEL, 0);
        ioapic_pin_set(x->ioapic, 14, true);
        fake_check_state(&x->f, fake_env_device(&x->f, "ioapic"));
        assert_int_equal(rd(x, 0x10 + 28), 0x9a | LEVEL | 0x4000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(registers_are_the_datasheets),
                TEST(edge_is_sent_once),
                TEST(masked_edge_is_forgotten),
                TEST(masked_level_waits),
                TEST(level_repeats_until_lowered),
                TEST(switching_to_edge_clears_remote_irr),
                TEST(message_nobody_takes_stays_asserted),
                TEST(destination_may_change_before_the_end),
                TEST(out_of_range_pins_are_ignored),
                TEST(gsi_0_is_pin_2),
                TEST(shared_line_is_high_while_any_source_is),
                TEST(new_sinks_learn_the_levels),
                TEST(state_survives),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "dev/pic.h"
#include "fake_env.h"

struct fixture {
        struct fake_env f;
        struct pic *pic;
        bool intr;
};

static void intr_set(void *opaque, unsigned n, bool level)
{
        struct fixture *x = opaque;

        x->intr = level;
}

/* As every PC kernel does it: vectors 0x20 and 0x28, cascade on 2. */
static void program(struct fixture *x, u8 icw4)
{
        for (unsigned n = 0; n < 2; n++) {
                const u16 port = n ? 0xa0 : 0x20;

                fake_out(&x->f, port, 1, 0x11);
                fake_out(&x->f, port + 1, 1, 0x20 + n * 8);
                fake_out(&x->f, port + 1, 1, n ? 2 : 4);
                fake_out(&x->f, port + 1, 1, icw4);
                fake_out(&x->f, port + 1, 1, 0);
        }
}

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));

        fake_env_init(&x->f, MIB);
        assert_int_equal(pic_new(&x->f.env, (struct irq_line){ intr_set, x, 0 }, &x->pic, NULL), 0);
        program(x, 1);
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

static void edge_is_delivered_once(void **state)
{
        struct fixture *x = *state;

        pic_irq_set(x->pic, 4, true);
        assert_true(x->intr);
        assert_int_equal(pic_ack(x->pic), 0x24);
        fake_out(&x->f, 0x20, 1, 0x20);
        assert_false(x->intr); /* the line is still high */
        pic_irq_set(x->pic, 4, false);
        pic_irq_set(x->pic, 4, true);
        assert_true(x->intr);
}

static void level_is_delivered_until_lowered(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x4d1, 1, 0x02); /* IRQ 9 */
        pic_irq_set(x->pic, 9, true);
        assert_int_equal(pic_ack(x->pic), 0x29);
        fake_out(&x->f, 0xa0, 1, 0x20);
        fake_out(&x->f, 0x20, 1, 0x20);
        assert_true(x->intr);
        pic_irq_set(x->pic, 9, false);
        assert_false(x->intr);
}

static void elcr_keeps_system_inputs_edge_triggered(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x4d0, 2, 0xffff);
        assert_int_equal(fake_in(&x->f, 0x4d0, 2), 0xdef8);
}

static void higher_priority_interrupts_lower(void **state)
{
        struct fixture *x = *state;

        pic_irq_set(x->pic, 4, true);
        assert_int_equal(pic_ack(x->pic), 0x24);
        pic_irq_set(x->pic, 5, true);
        assert_false(x->intr);
        pic_irq_set(x->pic, 1, true);
        assert_int_equal(pic_ack(x->pic), 0x21);
        fake_out(&x->f, 0x20, 1, 0x20); /* ends 1 */
        assert_false(x->intr);
        fake_out(&x->f, 0x20, 1, 0x64); /* specific EOI of 4 */
        assert_int_equal(pic_ack(x->pic), 0x25);
}

static void slave_comes_through_cascade(void **state)
{
        struct fixture *x = *state;

        pic_irq_set(x->pic, 14, true);
        pic_irq_set(x->pic, 3, true);
        assert_int_equal(pic_ack(x->pic), 0x2e); /* input 2 is above 3 */
        fake_out(&x->f, 0x20, 1, 0x0b);          /* read ISR */
        assert_int_equal(fake_in(&x->f, 0x20, 1), 0x04);
        fake_out(&x->f, 0xa0, 1, 0x0b);
        assert_int_equal(fake_in(&x->f, 0xa0, 1), 0x40);
}

static void masked_input_is_remembered(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x21, 1, 0x10);
        pic_irq_set(x->pic, 4, true);
        assert_false(x->intr);
        assert_int_equal(fake_in(&x->f, 0x21, 1), 0x10);
        fake_out(&x->f, 0x20, 1, 0x0a); /* read IRR */
        assert_int_equal(fake_in(&x->f, 0x20, 1), 0x10);
        fake_out(&x->f, 0x21, 1, 0);
        assert_true(x->intr);
}

static void nothing_pending_gives_spurious_vector(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(pic_ack(x->pic), 0x27);
        fake_out(&x->f, 0x20, 1, 0x0b);
        assert_int_equal(fake_in(&x->f, 0x20, 1), 0); /* not in service */
}

static void auto_eoi_leaves_nothing_in_service(void **state)
{
        struct fixture *x = *state;

        program(x, 3);
        pic_irq_set(x->pic, 4, true);
        assert_int_equal(pic_ack(x->pic), 0x24);
        fake_out(&x->f, 0x20, 1, 0x0b);
        assert_int_equal(fake_in(&x->f, 0x20, 1), 0);
}

static void rotation_moves_the_lowest_priority(void **state)
{
        struct fixture *x = *state;

        fake_out(&x->f, 0x20, 1, 0xc3); /* input 3 is the lowest now, 4 the highest */
        pic_irq_set(x->pic, 1, true);
        pic_irq_set(x->pic, 5, true);
        assert_int_equal(pic_ack(x->pic), 0x25);
}

static void poll_acknowledges(void **state)
{
        struct fixture *x = *state;

        pic_irq_set(x->pic, 6, true);
        fake_out(&x->f, 0x20, 1, 0x0c);
        assert_int_equal(fake_in(&x->f, 0x20, 1), 0x86);
        assert_false(x->intr);
}

static void state_survives(void **state)
{
        struct fixture *x = *state;

        pic_irq_set(x->pic, 4, true);
        pic_irq_set(x->pic, 12, true);
        pic_ack(x->pic);
        fake_check_state(&x->f, fake_env_device(&x->f, "pic"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(edge_is_delivered_once),
                TEST(level_is_delivered_until_lowered),
                TEST(elcr_keeps_system_inputs_edge_triggered),
                TEST(higher_priority_interrupts_lower),
                TEST(slave_comes_through_cascade),
                TEST(masked_input_is_remembered),
                TEST(nothing_pending_gives_spurious_vector),
                TEST(auto_eoi_leaves_nothing_in_service),
                TEST(rotation_moves_the_lowest_priority),
                TEST(poll_acknowledges),
                TEST(state_survives),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

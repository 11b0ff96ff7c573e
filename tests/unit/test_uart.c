#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/uart.h"
#include "fake_env.h"

#define COM UART_COM1_PORT
#define IRQ UART_COM1_GSI

struct fixture {
        struct fake_env f;
        struct uart *uart;
        char sent[64];
        size_t n_sent;
        unsigned room_calls;
};

static void transmit(void *opaque, u8 byte)
{
        struct fixture *x = opaque;

        x->sent[x->n_sent++ % sizeof(x->sent)] = (char)byte;
}

static void on_room(void *opaque)
{
        ((struct fixture *)opaque)->room_calls++;
}

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));
        const struct uart_host host = { .transmit = transmit, .on_room = on_room, .opaque = x };

        fake_env_init(&x->f, MIB);
        assert_int_equal(uart_new(&x->f.env, COM, IRQ, 0, &host, &x->uart, NULL), 0);
        fake_out(&x->f, COM + 4, 1, 0x0b); /* DTR, RTS, OUT2 */
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

static u8 rd(struct fixture *x, u16 reg)
{
        return (u8)fake_in(&x->f, COM + reg, 1);
}

static void wr(struct fixture *x, u16 reg, u8 value)
{
        fake_out(&x->f, COM + reg, 1, value);
}

static size_t receive(struct fixture *x, const char *text)
{
        size_t n;

        fake_env_lock(&x->f);
        n = uart_receive(x->uart, (const u8 *)text, strlen(text));
        fake_env_unlock(&x->f);
        return n;
}

static void bytes_are_transmitted_in_order(void **state)
{
        struct fixture *x = *state;

        for (const char *p = "hello"; *p; p++) {
                assert_int_equal(rd(x, 5), 0x60);
                wr(x, 0, (u8)*p);
        }
        assert_int_equal(x->n_sent, 5);
        assert_memory_equal(x->sent, "hello", 5);
}

static void divisor_latch_hides_the_data(void **state)
{
        struct fixture *x = *state;

        wr(x, 3, 0x83);
        wr(x, 0, 0x34);
        wr(x, 1, 0x12);
        assert_int_equal(rd(x, 0), 0x34);
        assert_int_equal(rd(x, 1), 0x12);
        wr(x, 3, 0x03);
        assert_int_equal(x->n_sent, 0);
        assert_int_equal(rd(x, 1), 0);
}

static void transmitter_interrupt_is_cleared_by_iir(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, 0x02);
        assert_true(x->f.line[IRQ]);
        assert_int_equal(rd(x, 2), 0x02);
        assert_false(x->f.line[IRQ]);
        assert_int_equal(rd(x, 2), 0x01);
        wr(x, 0, 'a');
        assert_true(x->f.line[IRQ]);
        wr(x, 1, 0x00);
        assert_false(x->f.line[IRQ]);
        wr(x, 1, 0x02);
        assert_int_equal(rd(x, 2), 0x02);
}

static void received_bytes_interrupt_and_are_read(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, 0x01);
        assert_int_equal(receive(x, "ab"), 1); /* without FIFO one fits */
        assert_true(x->f.line[IRQ]);
        assert_int_equal(rd(x, 2), 0x04);
        assert_int_equal(rd(x, 5) & 1, 1);
        assert_int_equal(rd(x, 0), 'a');
        assert_false(x->f.line[IRQ]);
        assert_int_equal(rd(x, 5) & 1, 0);
        assert_int_equal(x->room_calls, 1);
}

static void full_fifo_holds_the_host_back(void **state)
{
        struct fixture *x = *state;

        wr(x, 2, 0x01);
        assert_int_equal(rd(x, 2) & 0xc0, 0xc0); /* a 16550A */
        assert_int_equal(receive(x, "0123456789abcdefghij"), 16);
        assert_int_equal(receive(x, "x"), 0);
        assert_int_equal(rd(x, 5) & 0x02, 0); /* nothing was lost */
        for (int i = 0; i < 16; i++) {
                assert_int_equal(rd(x, 0), "0123456789abcdef"[i]);
                assert_int_equal(x->room_calls, i >= 7); /* told once, at half */
        }
}

static bool line_high(void *opaque)
{
        return ((struct fixture *)opaque)->f.line[IRQ];
}

static void trigger_level_and_timeout(void **state)
{
        struct fixture *x = *state;

        wr(x, 2, 0x81); /* 8 bytes */
        wr(x, 1, 0x01);
        fake_env_lock(&x->f);
        assert_int_equal(uart_receive(x->uart, (const u8 *)"abc", 3), 3);
        assert_false(x->f.line[IRQ]);
        fake_env_unlock(&x->f);
        assert_true(fake_env_wait(&x->f, line_high, x));
        assert_int_equal(rd(x, 2) & 0x0f, 0x0c);
        assert_int_equal(rd(x, 0), 'a');
        rd(x, 0);
        rd(x, 0);
        assert_false(x->f.line[IRQ]);
        receive(x, "12345678");
        assert_int_equal(rd(x, 2) & 0x0f, 0x04);
}

static void fifo_reset_drops_bytes(void **state)
{
        struct fixture *x = *state;

        wr(x, 2, 0x01);
        receive(x, "0123456789abcdef");
        wr(x, 2, 0x03);
        assert_int_equal(rd(x, 5) & 1, 0);
        assert_int_equal(x->room_calls, 1);
}

static void loopback_returns_bytes_and_modem_lines(void **state)
{
        struct fixture *x = *state;

        wr(x, 4, 0x1a); /* as drivers probe: RTS and OUT2 */
        assert_int_equal(rd(x, 6) & 0xf0, 0x90);
        wr(x, 2, 0x01);
        for (int i = 0; i < 17; i++)
                wr(x, 0, (u8)i);
        assert_int_equal(x->n_sent, 0);
        assert_int_equal(receive(x, "x"), 0);
        assert_int_equal(rd(x, 5) & 0x02, 0x02); /* the seventeenth is an overrun */
        assert_int_equal(rd(x, 5) & 0x02, 0);
        for (int i = 0; i < 16; i++)
                assert_int_equal(rd(x, 0), i);
}

static void modem_changes_interrupt(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(rd(x, 6), 0xb0);
        wr(x, 1, 0x08);
        uart_set_connected(x->uart, false);
        assert_true(x->f.line[IRQ]);
        assert_int_equal(rd(x, 2), 0x00);
        assert_int_equal(rd(x, 6), 0x0b);
        assert_false(x->f.line[IRQ]);
        assert_int_equal(rd(x, 6), 0x00);
}

static void break_is_a_line_error(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, 0x04);
        uart_receive_break(x->uart);
        assert_int_equal(rd(x, 2), 0x06);
        assert_int_equal(rd(x, 5) & 0x11, 0x11);
        assert_false(x->f.line[IRQ]);
        assert_int_equal(rd(x, 0), 0);
}

static void out2_connects_the_interrupt(void **state)
{
        struct fixture *x = *state;

        wr(x, 4, 0x03);
        wr(x, 1, 0x02);
        assert_false(x->f.line[IRQ]);
        wr(x, 4, 0x0b);
        assert_true(x->f.line[IRQ]);
}

static void reserved_bits_read_as_zero(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, 0xff);
        assert_int_equal(rd(x, 1), 0x0f);
        wr(x, 4, 0xff);
        assert_int_equal(rd(x, 4), 0x1f);
        wr(x, 7, 0xa5);
        assert_int_equal(rd(x, 7), 0xa5);
}

static void state_survives(void **state)
{
        struct fixture *x = *state;

        wr(x, 2, 0xc1);
        wr(x, 1, 0x0f);
        receive(x, "abc");
        rd(x, 0);
        fake_check_state(&x->f, fake_env_device(&x->f, "uart"));
        assert_int_equal(rd(x, 0), 'b');
        assert_int_equal(rd(x, 0), 'c');
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(bytes_are_transmitted_in_order),
                TEST(divisor_latch_hides_the_data),
                TEST(transmitter_interrupt_is_cleared_by_iir),
                TEST(received_bytes_interrupt_and_are_read),
                TEST(full_fifo_holds_the_host_back),
                TEST(trigger_level_and_timeout),
                TEST(fifo_reset_drops_bytes),
                TEST(loopback_returns_bytes_and_modem_lines),
                TEST(modem_changes_interrupt),
                TEST(break_is_a_line_error),
                TEST(out2_connects_the_interrupt),
                TEST(reserved_bits_read_as_zero),
                TEST(state_survives),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

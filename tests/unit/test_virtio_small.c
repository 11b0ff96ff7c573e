/* virtio-console and virtio-rng. */
#include "dev/virtio/console.h"
#include "dev/virtio/rng.h"
#include "dev/virtio/virtio.h"
#include "virtio_driver.h"

#define BUFFER 0x400000ULL
enum { SIZE = 16, IN = 0, OUT = 1, F_SIZE = 0 };

struct fixture {
        struct fake_machine *m;
        struct virtio_console *console;
        struct driver rng, con; /* slots 1, 2 */
        char output[256];
        size_t n_output;
        unsigned ready;
};

static void on_output(void *opaque, const u8 *data, size_t n)
{
        struct fixture *f = opaque;

        n = MIN(n, sizeof(f->output) - f->n_output);
        memcpy(f->output + f->n_output, data, n);
        f->n_output += n;
}

static void on_input_ready(void *opaque)
{
        struct fixture *f = opaque;

        __atomic_add_fetch(&f->ready, 1, __ATOMIC_RELAXED);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct virtio_console_config config;

        assert_non_null(f);
        config = (struct virtio_console_config){
                .output = on_output, .input_ready = on_input_ready, .opaque = f, .columns = 80, .rows = 25,
        };
        f->m = fake_machine_new();
        assert_int_equal(virtio_rng_new(&f->m->f.env, f->m->bus, NULL), 0);
        assert_int_equal(virtio_console_new(&f->m->f.env, f->m->bus, &config, &f->console, NULL), 0);
        fake_machine_start(f->m);
        driver_probe(&f->rng, f->m, 1);
        driver_probe(&f->con, f->m, 2);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        fake_machine_free(f->m);
        free(f);
        return 0;
}

static size_t input(struct fixture *f, const char *text)
{
        size_t n;

        fake_env_lock(&f->m->f);
        n = virtio_console_input(f->console, (const u8 *)text, strlen(text));
        fake_env_unlock(&f->m->f);
        return n;
}

/* ---- rng ---- */

static void rng_fills_the_buffer(void **state)
{
        struct fixture *f = *state;
        const struct driver_segment segments[] = { { BUFFER, 40, true }, { BUFFER + 100, 24, true } };
        static const u8 zero[64];
        u32 id, len;

        assert_int_equal(cfg_read(f->m, 1, PCI_DEVICE_ID, 2), 0x1044);
        driver_start(&f->rng, 0, 1, SIZE);
        driver_add(&f->rng, 0, segments, 2);
        driver_kick(&f->rng, 0);
        assert_true(driver_used(&f->rng, 0, &id, &len));
        assert_int_equal(len, 64);
        assert_memory_not_equal(ram(f->m, BUFFER), zero, 40);
        assert_memory_not_equal(ram(f->m, BUFFER + 100), zero, 24);
        assert_memory_equal(ram(f->m, BUFFER + 40), zero, 60);
}

static void rng_answers_huge_requests_in_part(void **state)
{
        struct fixture *f = *state;
        const struct driver_segment segment = { BUFFER, 8 * MIB, true };
        u32 id, len;

        driver_start(&f->rng, 0, 1, SIZE);
        driver_add(&f->rng, 0, &segment, 1);
        driver_kick(&f->rng, 0);
        assert_true(driver_used(&f->rng, 0, &id, &len));
        assert_in_range(len, 1, 4096);
}

static void rng_refuses_a_request_without_room(void **state)
{
        struct fixture *f = *state;
        const struct driver_segment segment = { BUFFER, 8, false };

        driver_start(&f->rng, 0, 1, SIZE);
        driver_add(&f->rng, 0, &segment, 1);
        driver_kick(&f->rng, 0);
        assert_true(driver_status(&f->rng) & VIRTIO_STATUS_NEEDS_RESET);
}

/* ---- console ---- */

static void console_prints_what_the_guest_writes(void **state)
{
        struct fixture *f = *state;
        const struct driver_segment segments[] = { { BUFFER, 6, false }, { BUFFER + 50, 5, false } };
        u32 id, len;

        assert_int_equal(cfg_read(f->m, 2, PCI_DEVICE_ID, 2), 0x1043);
        driver_start(&f->con, 0, 2, SIZE);
        memcpy(ram(f->m, BUFFER), "hello ", 6);
        memcpy(ram(f->m, BUFFER + 50), "world", 5);
        driver_add(&f->con, OUT, segments, 2);
        driver_kick(&f->con, OUT);
        assert_true(driver_used(&f->con, OUT, &id, &len));
        assert_int_equal(len, 0);
        assert_int_equal(f->n_output, 11);
        assert_memory_equal(f->output, "hello world", 11);
}

static void console_input_fills_the_guest_s_buffers(void **state)
{
        struct fixture *f = *state;
        u32 id, len;

        driver_start(&f->con, 0, 2, SIZE);
        for (unsigned i = 0; i < 2; i++)
                driver_add(&f->con, IN, &(struct driver_segment){ BUFFER + 0x100 * i, 4, true }, 1);
        driver_kick(&f->con, IN);
        assert_int_equal(input(f, "abcdef"), 6);
        assert_true(driver_used(&f->con, IN, &id, &len));
        assert_int_equal(len, 4);
        assert_true(driver_used(&f->con, IN, &id, &len));
        assert_int_equal(len, 2);
        assert_memory_equal(ram(f->m, BUFFER), "abcd", 4);
        assert_memory_equal(ram(f->m, BUFFER + 0x100), "ef", 2);
        assert_int_equal(f->m->msis[DRIVER_VECTOR(IN)], 2);
        assert_int_equal(f->ready, 0);
}

static void console_input_without_buffers_waits_for_ready(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(input(f, "early"), 0); /* no driver yet */
        driver_start(&f->con, BIT(VIRTIO_F_EVENT_IDX), 2, SIZE);
        wait_for(__atomic_load_n(&f->ready, __ATOMIC_RELAXED) == 1);
        assert_int_equal(input(f, "again"), 0);
        driver_add(&f->con, IN, &(struct driver_segment){ BUFFER, 4, true }, 1);
        assert_int_equal(driver_avail_event(&f->con, IN), 0); /* it asked for the notification */
        driver_kick(&f->con, IN);
        wait_for(__atomic_load_n(&f->ready, __ATOMIC_RELAXED) == 2);
        assert_int_equal(input(f, "again"), 4);
        assert_int_equal(input(f, "n"), 0);
}

static void console_tells_its_size(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->con, BIT(F_SIZE), 2, SIZE);
        assert_int_equal(mmio_read(f->m, f->con.config, 4), 80 | 25 << 16);
        fake_env_lock(&f->m->f);
        virtio_console_resize(f->console, 132, 50);
        fake_env_unlock(&f->m->f);
        assert_int_equal(mmio_read(f->m, f->con.config, 2), 132);
        assert_int_equal(mmio_read(f->m, f->con.config + 2, 2), 50);
        assert_int_equal(f->m->msis[DRIVER_VECTOR_CONFIG], 1);
}

static void saved_states_are_checked(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->con, 0, 2, SIZE);
        fake_check_state(&f->m->f, fake_env_device(&f->m->f, "virtio-console"));
        fake_check_state(&f->m->f, fake_env_device(&f->m->f, "virtio-rng"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(rng_fills_the_buffer),
                TEST(rng_answers_huge_requests_in_part),
                TEST(rng_refuses_a_request_without_room),
                TEST(console_prints_what_the_guest_writes),
                TEST(console_input_fills_the_guest_s_buffers),
                TEST(console_input_without_buffers_waits_for_ready),
                TEST(console_tells_its_size),
                TEST(saved_states_are_checked),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The console between guest and host: nothing lost, and nobody kept waiting who must not be. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm/console.h"

struct fixture {
        pthread_mutex_t lock;
        struct loop *loop;
        struct console *console;
        int read_fd;
        bool ended;
        u8 got[8192];
        size_t n_got, room;
};

static bool is_ended(void *opaque)
{
        return __atomic_load_n(&((struct fixture *)opaque)->ended, __ATOMIC_ACQUIRE);
}

/* A guest that takes as much as it has room for. */
static size_t guest(void *opaque, const u8 *data, size_t n)
{
        struct fixture *f = opaque;

        n = MIN(n, f->room);
        memcpy(f->got + f->n_got, data, n);
        f->n_got += n;
        f->room -= n;
        return n;
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        int fds[2];

        pthread_mutex_init(&f->lock, NULL);
        f->loop = loop_new(&f->lock, NULL);
        assert_int_equal(pipe(fds), 0);
        assert_true(fcntl(fds[1], F_SETPIPE_SZ, 4096) >= 0); /* less than the console's own buffer */
        f->read_fd = fds[0];
        assert_int_equal(console_new(f->loop, fds[1], true, is_ended, f, &f->console, NULL), 0);
        console_set_guest(f->console, guest, f);
        assert_int_equal(console_start(f->console, NULL), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        if (f->read_fd >= 0)
                close(f->read_fd);
        console_free(f->console);
        loop_free(f->loop);
        free(f);
        return 0;
}

static void *stop_loop(void *opaque)
{
        usleep(20000);
        loop_stop(opaque);
        return NULL;
}

/* Runs what was posted. A loop runs once only, so each test calls this once. */
static void run_loop(struct fixture *f)
{
        pthread_t thread;

        pthread_create(&thread, NULL, stop_loop, f->loop);
        assert_int_equal(loop_run(f->loop, NULL), 0);
        pthread_join(thread, NULL);
}

static void output_comes_out_whole_and_in_order(void **state)
{
        struct fixture *f = *state;
        u8 buf[300];
        size_t n = 0;

        for (unsigned i = 0; i < sizeof(buf); i++)
                console_output(f->console, &(u8){ (u8)i }, 1);
        console_flush(f->console);
        while (n < sizeof(buf)) {
                ssize_t r = read(f->read_fd, buf + n, sizeof(buf) - n);

                assert_true(r > 0);
                n += (size_t)r;
        }
        for (unsigned i = 0; i < sizeof(buf); i++)
                assert_int_equal(buf[i], (u8)i);
}

static void a_reader_that_stalls_does_not_keep_an_ended_machine(void **state)
{
        struct fixture *f = *state;
        u8 line[1024];

        memset(line, 'x', sizeof(line));
        __atomic_store_n(&f->ended, true, __ATOMIC_RELEASE);
        for (unsigned i = 0; i < 256; i++) /* more than pipe and ring hold */
                console_output(f->console, line, sizeof(line));
        console_flush(f->console); /* gives up */
        console_output(f->console, line, sizeof(line));
}

static void a_reader_that_left_makes_output_vanish(void **state)
{
        struct fixture *f = *state;
        u8 line[1024] = { 0 };

        close(f->read_fd);
        f->read_fd = -1;
        for (unsigned i = 0; i < 1024; i++)
                console_output(f->console, line, sizeof(line));
}

static void input_waits_for_a_guest_without_room(void **state)
{
        struct fixture *f = *state;
        const size_t room = console_input_room(f->console);
        u8 data[6000];
        eventfd_t count;

        memset(data, 'k', sizeof(data));
        f->room = 100;
        console_input(f->console, data, sizeof(data)); /* too much: the rest is lost */
        assert_int_equal(console_input_room(f->console), 0);
        run_loop(f);
        assert_int_equal(f->n_got, 100);
        assert_int_equal(console_input_room(f->console), 100);
        assert_int_equal(eventfd_read(console_room_fd(f->console), &count), 0);
        assert_true(room < sizeof(data));
}

static void input_goes_on_when_the_guest_is_ready(void **state)
{
        struct fixture *f = *state;

        console_input(f->console, (const u8 *)"hello", 5);
        f->room = 10;
        console_guest_ready(f->console);
        run_loop(f);
        assert_int_equal(f->n_got, 5);
        assert_memory_equal(f->got, "hello", 5);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                T(output_comes_out_whole_and_in_order),
                T(a_reader_that_stalls_does_not_keep_an_ended_machine),
                T(a_reader_that_left_makes_output_vanish),
                T(input_waits_for_a_guest_without_room),
                T(input_goes_on_when_the_guest_is_ready),
        };

        signal(SIGPIPE, SIG_IGN); /* as strata-vmm does: a reader may leave while its output is written */
        return cmocka_run_group_tests(tests, NULL, NULL);
}

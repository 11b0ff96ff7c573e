/* Descriptors that go with a message (base/fd_pass.h). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd_pass.h"

struct fixture {
        int pair[2];
        int pipe[2];
};

static int setup(void **state)
{
        static struct fixture f;

        *state = &f;
        return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f.pair) < 0 || pipe(f.pipe) < 0 ? -1 : 0;
}

static int teardown(void **state)
{
        const struct fixture *f = *state;

        for (unsigned i = 0; i < 2; i++) {
                close(f->pair[i]);
                close(f->pipe[i]);
        }
        return 0;
}

static void they_come_with_their_bytes(void **state)
{
        const struct fixture *f = *state;
        char text[8] = "", byte = 0;
        int fds[4];
        unsigned n = 0;

        assert_int_equal(fds_send(f->pair[0], "abc", 3, f->pipe, 2, 0), 3);
        assert_int_equal(fds_receive(f->pair[1], text, sizeof(text), fds, &n, 4, 0), 3);
        assert_string_equal(text, "abc");
        assert_int_equal(n, 2);
        assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
        assert_int_equal(write(fds[1], "x", 1), 1);
        assert_int_equal(read(fds[0], &byte, 1), 1);
        assert_int_equal(byte, 'x');
        close(fds[0]);
        close(fds[1]);
}

static void those_that_are_too_many_are_closed(void **state)
{
        struct fixture *f = *state;
        int fds[2] = { -1, -1 };
        unsigned n = 1;
        char byte;

        assert_int_equal(fds_send(f->pair[0], "a", 1, (const int[]){ f->pipe[0], f->pipe[1], f->pipe[1] }, 3, 0), 1);
        assert_int_equal(fds_receive(f->pair[1], &byte, 1, fds, &n, 2, 0), 1);
        assert_int_equal(n, 2);
        assert_int_equal(fds[0], -1);
        /* Only ours writes to the pipe: when that is closed, the copy that came sees its end. */
        close(f->pipe[1]);
        f->pipe[1] = -1;
        assert_int_equal(read(fds[1], &byte, 1), 0);
        close(fds[1]);
}

static void messages_may_have_none(void **state)
{
        struct fixture *f = *state;
        int fds[FDS_AT_ONCE + 1] = { 0 };
        unsigned n = 0;
        char byte;

        assert_int_equal(fds_send(f->pair[0], "a", 1, NULL, 0, 0), 1);
        assert_int_equal(fds_receive(f->pair[1], &byte, 1, fds, &n, 1, 0), 1);
        assert_int_equal(n, 0);
        assert_int_equal(fds_receive(f->pair[1], &byte, 1, fds, &n, 1, MSG_DONTWAIT), -EAGAIN);
        assert_int_equal(fds_send(f->pair[0], "a", 1, fds, FDS_AT_ONCE + 1, 0), -EINVAL);
        close(f->pair[0]);
        f->pair[0] = -1;
        assert_int_equal(fds_receive(f->pair[1], &byte, 1, fds, &n, 1, 0), 0);
        assert_int_equal(fds_send(f->pair[1], "a", 1, NULL, 0, 0), -EPIPE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                T(they_come_with_their_bytes),
                T(those_that_are_too_many_are_closed),
                T(messages_may_have_none),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

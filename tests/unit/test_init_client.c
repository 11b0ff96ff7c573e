/* The client of a machine against an agent that lies: the test answers by hand. (test_init_guest has one that does not.) */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/unix_listener.h"
#include "init/client_internal.h"

struct fixture {
        char dir[32], path[64];
        struct init_client *client;
        int agent; /* the other end */
        u8 answer[FRAME_SPACE];
        struct init_frame frame;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct unix_listener *listener;

        assert_non_null(f);
        snprintf(f->dir, sizeof(f->dir), "/tmp/client.XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
        assert_int_equal(unix_listener_new(f->path, 0, &listener, NULL), 0);
        assert_int_equal(init_client_connect(f->path, &f->client, NULL), 0);
        f->agent = accept(listener->fd, NULL, NULL);
        assert_true(f->agent >= 0);
        unix_listener_free(listener);
        init_client_set_timeout(f->client, 10000);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        init_client_free(f->client);
        if (f->agent >= 0)
                close(f->agent);
        rmdir(f->dir);
        free(f);
        return 0;
}

/* ---- answers, which are there before the client asks ---- */

static struct init_frame *begin(struct fixture *f, enum init_type type, u32 id)
{
        init_frame_begin(&f->frame, f->answer, sizeof(f->answer), type, id);
        return &f->frame;
}

static void answer(struct fixture *f)
{
        size_t size;

        assert_int_equal(init_frame_end(&f->frame, &size), 0);
        assert_int_equal(send(f->agent, f->answer, size, 0), size);
}

static void say(struct fixture *f, enum init_type type, u32 id, unsigned n, u32 first, u32 second)
{
        struct init_frame *frame = begin(f, type, id);

        if (n > 0)
                init_put_u32(frame, first);
        if (n > 1)
                init_put_u32(frame, second);
        answer(f);
}

static void say_data(struct fixture *f, u32 stream, size_t n)
{
        static const u8 zeros[INIT_ROOM_FIRST];
        struct init_frame *frame = begin(f, INIT_DATA, 1);

        init_put_u32(frame, stream);
        init_put_bytes(frame, zeros, n);
        answer(f);
}

static void say_failed(struct fixture *f, u32 id, u32 errnum, const char *what)
{
        struct init_frame *frame = begin(f, INIT_FAILED, id);

        init_put_u32(frame, errnum);
        init_put_text(frame, what);
        init_put_u32(frame, 0);
        answer(f);
}

/* ---- questions ---- */

static int start(struct fixture *f, u32 flags, struct err **err)
{
        const struct init_process process = { .argv = (const char *const[]){ "command", NULL }, .flags = flags };
        u32 pid;

        return init_client_start(f->client, &process, &pid, err);
}

static int relay(struct fixture *f, int in, int *ret_status, struct err **err)
{
        const struct init_relay streams = { .in = in, .out = -1, .err = -1, .tty = -1, .signals = -1 };

        return init_client_relay(f->client, &streams, ret_status, err);
}

static void started(struct fixture *f, u32 flags)
{
        say(f, INIT_STARTED, 1, 1, 42, 0);
        assert_int_equal(start(f, flags, NULL), 0);
}

static void lies(struct fixture *f)
{
        _cleanup_(err_freep) struct err *err = NULL;
        int status = -1;

        assert_int_equal(relay(f, -1, &status, &err), -EPROTO);
        assert_int_equal(status, -1);
}

/* ---- tests ---- */

static void a_machine_that_is_gone_is_said(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct fixture *f = *state;
        struct init_client *client;

        assert_int_equal(init_client_connect(f->path, &client, &err), -ESRCH);
        assert_int_equal(err_get_id(err), ERR_BUSY);
}

static void a_machine_that_does_not_answer_is_given_up(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct fixture *f = *state;

        init_client_set_timeout(f->client, 50);
        say(f, INIT_STARTED, 99, 1, 42, 0); /* not its number */
        assert_int_equal(start(f, 0, &err), -ETIMEDOUT);
}

static void a_machine_that_ends_is_an_error(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct fixture *f = *state;
        int status;

        started(f, 0);
        close(f->agent);
        f->agent = -1;
        assert_int_equal(relay(f, -1, &status, &err), -ECONNRESET);
}

static void what_was_said_before_the_end_counts(void **state)
{
        struct fixture *f = *state;
        int status;

        started(f, 0);
        say_data(f, 1, 100);
        say(f, INIT_EXITED, 1, 2, 5, 0);
        close(f->agent);
        f->agent = -1;
        assert_int_equal(relay(f, -1, &status, NULL), 0);
        assert_int_equal(status, 5);
}

static void more_output_than_there_is_room_for_is_a_lie(void **state)
{
        started(*state, 0);
        say_data(*state, 1, INIT_ROOM_FIRST);
        say_data(*state, 1, 1);
        lies(*state);
}

static void output_on_no_stream_is_a_lie(void **state)
{
        started(*state, 0);
        say_data(*state, 0, 1);
        lies(*state);
}

static void output_behind_its_end_is_a_lie(void **state)
{
        started(*state, 0);
        say(*state, INIT_END, 1, 1, 2, 0);
        say_data(*state, 2, 1);
        lies(*state);
}

static void too_much_room_is_a_lie(void **state)
{
        started(*state, INIT_START_STDIN);
        say(*state, INIT_ROOM, 1, 2, 0, INIT_ROOM_MAX);
        lies(*state);
}

static void what_is_no_frame_is_a_lie(void **state)
{
        struct fixture *f = *state;
        const struct init_header headers[] = { { .length = INIT_FRAME_MAX + 1 } };

        started(f, 0);
        assert_int_equal(send(f->agent, headers, sizeof(headers), 0), sizeof(headers));
        lies(f);
}

static void a_host_s_message_from_the_machine_is_a_lie(void **state)
{
        started(*state, 0);
        say(*state, INIT_SIGNAL, 1, 1, 9, 0);
        lies(*state);
}

static void a_failure_of_what_runs_ends_the_relay(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct fixture *f = *state;
        int status;

        started(f, 0);
        say_failed(f, 1, EIO, "it vanished");
        assert_int_equal(relay(f, -1, &status, &err), -EIO);
}

static void what_the_machine_says_is_made_fit_to_print(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        char text[2000];
        struct fixture *f = *state;

        memset(text, 'x', sizeof(text));
        memcpy(text, "\x1b[2J\n\x7f", 6);
        text[sizeof(text) - 1] = '\0';
        say_failed(f, 1, 99999, text);
        assert_int_equal(start(f, 0, &err), -EIO); /* no errno has that number */
        assert_memory_equal(err_message(err), "?[2J??xxx", 9);
        assert_true(strlen(err_message(err)) < 600);
}

static void input_stays_within_its_room(void **state)
{
        static u8 data[INIT_ROOM_FIRST * 2];
        struct fixture *f = *state;
        const int in = fileno(tmpfile());
        size_t n = 0, size;
        int status;

        assert_int_equal(write(in, data, sizeof(data)), sizeof(data));
        lseek(in, 0, SEEK_SET);
        started(f, INIT_START_STDIN);
        assert_true(recv(f->agent, f->answer, sizeof(f->answer), 0) > 0); /* START */
        if (fork() == 0) {
                /* The machine: no room is given, and it ends when all has come that may. */
                struct init_message m;
                size_t have = 0;

                while (n < INIT_ROOM_FIRST) {
                        const ssize_t got = recv(f->agent, f->answer + have, sizeof(f->answer) - have, 0);

                        if (got <= 0)
                                _exit(1);
                        have += (size_t)got;
                        while (init_frame_next(f->answer, have, &size) == 1) {
                                if (init_parse(f->answer, size, INIT_TO_GUEST, &m) == 0 && m.type == INIT_DATA)
                                        n += m.field[1].number;
                                have -= size;
                                memmove(f->answer, f->answer + size, have);
                        }
                }
                usleep(100000);
                if (n > INIT_ROOM_FIRST || recv(f->agent, f->answer, 1, MSG_DONTWAIT) != -1)
                        say(f, INIT_EXITED, 1, 2, 99, 0);
                else
                        say(f, INIT_EXITED, 1, 2, 3, 0);
                _exit(0);
        }
        assert_int_equal(relay(f, in, &status, NULL), 0);
        assert_int_equal(status, 3);
        close(in);
}

static void a_list_without_end_is_given_up(void **state)
{
        static char command[100000];
        _cleanup_(err_freep) struct err *err = NULL;
        const struct init_process_info *list;
        struct fixture *f = *state;
        size_t n;

        memset(command, 'c', sizeof(command) - 1);
        if (fork() == 0) {
                close(f->client->fd); /* it is to notice when we are gone */
                for (;;) {
                        struct init_frame *frame = begin(f, INIT_PROCESS, 1);
                        size_t size;

                        for (int i = 0; i < 3; i++)
                                init_put_u32(frame, 1);
                        init_put_u64(frame, 1);
                        init_put_u64(frame, 1);
                        init_put_text(frame, "?");
                        init_put_text(frame, command);
                        if (init_frame_end(frame, &size) < 0 || send(f->agent, f->answer, size, MSG_NOSIGNAL) != (ssize_t)size)
                                _exit(0);
                }
        }
        close(f->agent);
        f->agent = -1;
        assert_int_equal(init_client_processes(f->client, &list, &n, &err), -E2BIG);
}

static void arguments_have_limits(void **state)
{
        static char large[INIT_FRAME_MAX];
        _cleanup_(err_freep) struct err *err = NULL;
        struct init_process process = { .argv = (const char *const[]){ large, NULL } };
        struct fixture *f = *state;
        u32 pid;

        memset(large, 'x', sizeof(large) - 1);
        assert_int_equal(init_client_start(f->client, &process, &pid, &err), -E2BIG);
        err = err_free(err);
        process.argv = (const char *const[]){ NULL };
        assert_int_equal(init_client_start(f->client, &process, &pid, &err), -EINVAL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(a_machine_that_is_gone_is_said),
                TEST(a_machine_that_does_not_answer_is_given_up),
                TEST(a_machine_that_ends_is_an_error),
                TEST(what_was_said_before_the_end_counts),
                TEST(more_output_than_there_is_room_for_is_a_lie),
                TEST(output_on_no_stream_is_a_lie),
                TEST(output_behind_its_end_is_a_lie),
                TEST(too_much_room_is_a_lie),
                TEST(what_is_no_frame_is_a_lie),
                TEST(a_host_s_message_from_the_machine_is_a_lie),
                TEST(a_failure_of_what_runs_ends_the_relay),
                TEST(what_the_machine_says_is_made_fit_to_print),
                TEST(input_stays_within_its_room),
                TEST(a_list_without_end_is_given_up),
                TEST(arguments_have_limits),
        };

        return cmocka_run_group_tests_name("tests", tests, NULL, NULL);
}

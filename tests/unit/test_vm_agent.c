/* The agent inside strata-vmm, with the test as its guest and as its clients. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "dev/virtio/vsock_internal.h"
#include "fake_env.h"
#include "init/client_internal.h"
#include "vm/agent_internal.h"

#define OUT_MAX (4U * 1024 * 1024)

struct fixture {
        struct fake_env env;
        struct agent *agent;
        struct vsock_conn conn; /* only there to be pointed at */
        struct vsock vsock;
        char dir[32], socket[48], script[48];
        int in[2], out[2], errors[2], ready[2]; /* the main process's streams, and READY-FD */
        struct err *error;                      /* that the machine was ended with */
        u8 *sent;                               /* to the guest, not looked at yet */
        size_t n_sent;
        struct init_message message; /* the last one from expect() */
        u8 frame[FRAME_SPACE];
};

static void on_fail(void *opaque, struct err *error)
{
        struct fixture *f = opaque;

        assert_null(f->error);
        f->error = error;
}

/* ---- life ---- */

static void write_script(struct fixture *f, struct init_script *script)
{
        FILE *file = fopen(f->script, "w");

        assert_int_equal(init_script_end(script, NULL), 0);
        assert_true(!script->len || fwrite(script->data, script->len, 1, file) == 1);
        fclose(file);
        init_script_free(script);
}

static int new_agent(struct fixture *f, struct err **err)
{
        const struct agent_config config = {
                .socket = f->socket, .script = f->script, .ready_fd = dup(f->ready[1]), .streams = { f->in[0], f->out[1], f->errors[1] },
        };
        int r;

        fake_env_init(&f->env, 2 * MIB);
        r = agent_new(&config, &f->agent, err);
        if (r < 0) {
                close(config.ready_fd);
                fake_env_free(&f->env);
                return r;
        }
        assert_int_equal(agent_attach(f->agent, &f->env.env, &(struct agent_events){ on_fail, f }, NULL), 0);
        return 0;
}

static void start_loop(struct fixture *f);

static const char *const main_argv[] = { "main", NULL };
static const struct init_process main_process = { .argv = main_argv, .flags = INIT_START_STDIN };

/* Directory, pipes, and a script with one mount and a main process. */
static int prepare(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct init_script script = { 0 };

        assert_non_null(f);
        snprintf(f->dir, sizeof(f->dir), "/tmp/agent.XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        snprintf(f->socket, sizeof(f->socket), "%s/s", f->dir);
        snprintf(f->script, sizeof(f->script), "%s/script", f->dir);
        assert_int_equal(pipe2(f->in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(f->out, O_CLOEXEC), 0);
        assert_int_equal(pipe2(f->errors, O_CLOEXEC), 0);
        assert_int_equal(pipe2(f->ready, O_CLOEXEC), 0);
        f->sent = malloc(OUT_MAX);
        /* Being woken, the connection only remembers. */
        f->conn = (struct vsock_conn){ .vs = &f->vsock, .in_local = true, .state = VSOCK_CLOSING };
        init_script_mount(&script, "root", "/newroot", "virtiofs", 0, "");
        init_script_start(&script, &main_process);
        write_script(f, &script);
        *state = f;
        return 0;
}

static int setup(void **state)
{
        struct fixture *f;

        prepare(state);
        f = *state;
        assert_int_equal(new_agent(f, NULL), 0);
        start_loop(f);
        return 0;
}

static void end_agent(struct fixture *f)
{
        fake_env_free(&f->env);
        f->agent = NULL;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        int *const fds[] = { f->in, f->out, f->errors, f->ready };
        char command[64];

        if (f->agent)
                end_agent(f);
        for (size_t i = 0; i < 2 * ARRAY_SIZE(fds); i++)
                if (fds[i / 2][i % 2] >= 0)
                        close(fds[i / 2][i % 2]);
        snprintf(command, sizeof(command), "rm -r %s", f->dir);
        assert_int_equal(system(command), 0);
        err_free(f->error);
        free(f->sent);
        free(f);
        return 0;
}

/* ---- the guest ---- */

static const struct vsock_local_ops *ops(const struct fixture *f)
{
        return agent_local(f->agent)->ops;
}

static bool something_sent(void *opaque)
{
        struct fixture *f = opaque;
        const struct iovec iov = { f->sent + f->n_sent, OUT_MAX - f->n_sent };
        size_t size;

        f->n_sent += ops(f)->fill(f->agent, &iov, 1);
        return init_frame_next(f->sent, f->n_sent, &size) == 1;
}

static bool always(void *opaque)
{
        return true;
}

static void start_loop(struct fixture *f)
{
        assert_true(fake_env_wait(&f->env, always, f));
}

static void connect_guest(struct fixture *f)
{
        fake_env_lock(&f->env);
        assert_true(ops(f)->connected(f->agent, &f->conn));
        fake_env_unlock(&f->env);
}

static void say_bytes(struct fixture *f, const void *data, size_t n)
{
        const struct iovec iov = { (void *)data, n };

        fake_env_lock(&f->env);
        ops(f)->receive(f->agent, &iov, 1);
        fake_env_unlock(&f->env);
}

static struct init_frame begin(struct fixture *f, enum init_type type, u32 id)
{
        struct init_frame frame;

        init_frame_begin(&frame, f->frame, sizeof(f->frame), type, id);
        return frame;
}

static void say_frame(struct fixture *f, struct init_frame *frame)
{
        size_t size;

        assert_int_equal(init_frame_end(frame, &size), 0);
        say_bytes(f, frame->data, size);
}

static void say(struct fixture *f, enum init_type type, u32 id, unsigned n, u32 first, u32 second)
{
        struct init_frame frame = begin(f, type, id);

        if (n > 0)
                init_put_u32(&frame, first);
        if (n > 1)
                init_put_u32(&frame, second);
        say_frame(f, &frame);
}

static void say_data(struct fixture *f, u32 id, u32 stream, const void *data, size_t n)
{
        struct init_frame frame = begin(f, INIT_DATA, id);

        init_put_u32(&frame, stream);
        init_put_bytes(&frame, data, n);
        say_frame(f, &frame);
}

static void say_failed(struct fixture *f, u32 id, int errnum, const char *what, bool command)
{
        struct init_frame frame = begin(f, INIT_FAILED, id);

        init_put_u32(&frame, (u32)errnum);
        init_put_text(&frame, what);
        init_put_u32(&frame, command);
        say_frame(f, &frame);
}

/* The next message for the guest, which must be of this type. */
static const struct init_message *expect(struct fixture *f, enum init_type type)
{
        size_t size = 0;

        assert_true(fake_env_wait(&f->env, something_sent, f));
        assert_int_equal(init_frame_next(f->sent, f->n_sent, &size), 1);
        memcpy(f->frame, f->sent, size);
        f->n_sent -= size;
        memmove(f->sent, f->sent + size, f->n_sent);
        assert_int_equal(init_parse(f->frame, size, INIT_TO_GUEST, &f->message), 0);
        assert_string_equal(init_type_name(f->message.type), init_type_name(type));
        return &f->message;
}

static void expect_nothing(struct fixture *f)
{
        usleep(20000);
        fake_env_lock(&f->env);
        assert_false(something_sent(f));
        fake_env_unlock(&f->env);
}

static void boot(struct fixture *f)
{
        connect_guest(f);
        say(f, INIT_HELLO, 0, 2, INIT_VERSION, 0);
        expect(f, INIT_WELCOME);
        say(f, INIT_DONE, expect(f, INIT_MOUNT)->id, 0, 0, 0);
        assert_int_equal(expect(f, INIT_START)->id, INIT_ID_MAIN);
        say(f, INIT_STARTED, INIT_ID_MAIN, 1, 42, 0);
}

static void read_text(int fd, const char *text)
{
        char got[256] = "";
        size_t n = 0;

        while (n < strlen(text)) {
                const ssize_t part = read(fd, got + n, strlen(text) - n);

                assert_true(part > 0);
                n += (size_t)part;
        }
        assert_string_equal(got, text);
}

static bool has_stopped(void *opaque)
{
        struct fixture *f = opaque;

        return f->env.n_stops > 0;
}

static void machine_stopped(struct fixture *f, int status)
{
        int got = -1;

        assert_true(fake_env_wait(&f->env, has_stopped, f));
        assert_int_equal(f->env.stop, MACHINE_POWER_OFF);
        assert_true(agent_exit_status(f->agent, &got));
        assert_int_equal(got, status);
}

static void guest_is_broken(struct fixture *f)
{
        assert_non_null(f->error);
        assert_non_null(strstr(err_message(f->error), "does not keep to the protocol"));
}

/* ---- the main process ---- */

static void the_script_is_carried_out_then_the_process_started(void **state)
{
        struct fixture *f = *state;
        u32 id;

        connect_guest(f);
        expect_nothing(f);
        say(f, INIT_HELLO, 0, 2, INIT_VERSION, 0);
        assert_int_equal(expect(f, INIT_WELCOME)->field[0].number, INIT_VERSION);
        assert_string_equal(expect(f, INIT_MOUNT)->field[1].text, "/newroot");
        id = f->message.id;
        expect_nothing(f); /* not before the mount is done */
        say(f, INIT_DONE, id, 0, 0, 0);
        assert_string_equal(expect(f, INIT_START)->field[0].text, "main");
        say(f, INIT_STARTED, INIT_ID_MAIN, 1, 42, 0);
        read_text(f->ready[0], "started\n");
}

static void its_end_ends_the_machine(void **state)
{
        struct fixture *f = *state;
        u32 id;

        boot(f);
        say_data(f, INIT_ID_MAIN, 1, "last words", 10);
        say(f, INIT_EXITED, INIT_ID_MAIN, 2, 7, 0);
        id = expect(f, INIT_POWER_OFF)->id;
        assert_int_equal(f->env.n_stops, 0); /* it is to write back first */
        say(f, INIT_DONE, id, 0, 0, 0);
        machine_stopped(f, 7);
        read_text(f->out[0], "last words");
}

static void a_signal_is_a_status(void **state)
{
        struct fixture *f = *state;

        boot(f);
        say(f, INIT_EXITED, INIT_ID_MAIN, 2, 0, SIGSEGV);
        say(f, INIT_DONE, expect(f, INIT_POWER_OFF)->id, 0, 0, 0);
        machine_stopped(f, 128 + SIGSEGV);
}

static void a_script_that_fails_ends_the_machine(void **state)
{
        struct fixture *f = *state;

        connect_guest(f);
        say(f, INIT_HELLO, 0, 2, INIT_VERSION, 0);
        expect(f, INIT_WELCOME);
        say_failed(f, expect(f, INIT_MOUNT)->id, ENODEV, "mounting\n'root'", false);
        assert_string_equal(err_message(f->error), "mounting?'root': No such device");
        read_text(f->ready[0], "error: mounting?'root': No such device\n");
}

static void a_command_that_cannot_be_started_has_a_status(void **state)
{
        static const struct {
                int errnum;
                bool command;
                int status;
        } cases[] = { { ENOENT, true, 127 }, { EACCES, true, 126 }, { ENOENT, false, 125 } };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct fixture *f = *state;

                connect_guest(f);
                say(f, INIT_HELLO, 0, 2, INIT_VERSION, 0);
                expect(f, INIT_WELCOME);
                say(f, INIT_DONE, expect(f, INIT_MOUNT)->id, 0, 0, 0);
                expect(f, INIT_START);
                say_failed(f, INIT_ID_MAIN, cases[i].errnum, "executing 'main'", cases[i].command);
                machine_stopped(f, cases[i].status);
                read_text(f->ready[0], "error: executing 'main'");
                if (i + 1 < ARRAY_SIZE(cases)) {
                        teardown(state);
                        setup(state);
                }
        }
}

static void a_machine_that_ends_early_is_reported(void **state)
{
        struct fixture *f = *state;

        connect_guest(f);
        end_agent(f);
        read_text(f->ready[0], "error: the machine ended before its process was started\n");
}

static void input_is_sent_as_there_is_room(void **state)
{
        static u8 data[INIT_ROOM_FIRST];
        struct fixture *f = *state;
        size_t n = 0;

        boot(f);
        fcntl(f->in[1], F_SETFL, O_NONBLOCK);
        while (write(f->in[1], data, sizeof(data)) > 0)
                ;
        while (n < INIT_ROOM_FIRST) {
                n += expect(f, INIT_DATA)->field[1].number;
                while (write(f->in[1], data, sizeof(data)) > 0)
                        ;
        }
        assert_int_equal(n, INIT_ROOM_FIRST);
        expect_nothing(f);
        say(f, INIT_ROOM, INIT_ID_MAIN, 2, 0, 100);
        assert_int_equal(expect(f, INIT_DATA)->field[1].number, 100);
}

static void the_end_of_input_is_told(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(write(f->in[1], "abc", 3), 3);
        close(f->in[1]);
        f->in[1] = -1;
        boot(f);
        assert_memory_equal(expect(f, INIT_DATA)->field[1].text, "abc", 3);
        assert_int_equal(expect(f, INIT_END)->field[0].number, 0);
        expect_nothing(f);
}

static void room_is_given_as_output_is_read(void **state)
{
        static u8 data[32768];
        struct fixture *f = *state;

        boot(f);
        fcntl(f->out[0], F_SETPIPE_SZ, 4096);
        say_data(f, INIT_ID_MAIN, 1, data, sizeof(data));
        say_data(f, INIT_ID_MAIN, 1, data, sizeof(data));
        expect_nothing(f); /* nobody reads */
        for (size_t n = 0; n < 2 * sizeof(data);)
                n += (size_t)read(f->out[0], f->frame, 4096);
        expect(f, INIT_ROOM);
        assert_int_equal(f->message.field[0].number, 1);
        assert_true(f->message.field[1].number >= INIT_ROOM_FIRST / 2);
        assert_null(f->error);
}

static void output_without_a_reader_is_thrown_away(void **state)
{
        static u8 data[INIT_ROOM_FIRST];
        struct fixture *f = *state;

        signal(SIGPIPE, SIG_IGN);
        boot(f);
        close(f->out[0]);
        f->out[0] = -1;
        for (int i = 0; i < 5; i++) {
                say_data(f, INIT_ID_MAIN, 1, data, sizeof(data));
                assert_int_equal(expect(f, INIT_ROOM)->field[1].number, INIT_ROOM_FIRST);
        }
}

static void signals_go_to_the_main_process(void **state)
{
        struct fixture *f = *state;

        boot(f);
        agent_signal(f->agent, SIGTERM);
        assert_int_equal(expect(f, INIT_SIGNAL)->field[0].number, SIGTERM);
        assert_int_equal(f->message.id, INIT_ID_MAIN);
        agent_signal(f->agent, 64);
        assert_int_equal(expect(f, INIT_SIGNAL)->field[0].number, 64);
}

static void a_signal_before_it_runs_ends_the_machine(void **state)
{
        struct fixture *f = *state;

        agent_signal(f->agent, SIGTERM);
        machine_stopped(f, 128 + SIGTERM);
}

/* ---- clients ---- */

static struct init_client *new_client(struct fixture *f)
{
        struct init_client *client;

        assert_int_equal(init_client_connect(f->socket, &client, NULL), 0);
        return client;
}

/* A START by hand: nobody waits for the answer here. */
static u32 start_process(struct fixture *f, struct init_client *client, u32 client_id, u32 flags)
{
        const struct init_process process = { .argv = (const char *const[]){ "a-process", NULL }, .flags = flags };
        size_t size;

        assert_int_equal(init_start_frame(client->out, client_id, &process, &size), 0);
        assert_int_equal(send(client->fd, client->out, size, 0), size);
        client->process = client_id;
        assert_string_equal(expect(f, INIT_START)->field[0].text, "a-process");
        say(f, INIT_STARTED, f->message.id, 1, 99, 0);
        return f->message.id;
}

static void client_gets(struct init_client *client, enum init_type type, u32 id)
{
        struct init_message m;
        size_t size;

        while (init_frame_next(client->in, client->n_in, &size) != 1)
                assert_int_equal(client_fill(client, 10000, NULL), 0);
        assert_int_equal(init_parse(client->in, size, INIT_TO_HOST, &m), 0);
        assert_string_equal(init_type_name(m.type), init_type_name(type));
        assert_int_equal(m.id, id);
        client->n_in -= size;
        memmove(client->in, client->in + size, client->n_in);
}

static void client_says(struct init_client *client, enum init_type type, u32 id, unsigned n, u32 first, u32 second)
{
        struct init_frame frame;

        client_begin(client, &frame, type, id);
        if (n > 0)
                init_put_u32(&frame, first);
        if (n > 1)
                init_put_u32(&frame, second);
        assert_int_equal(client_send(client, &frame, NULL), 0);
}

static void is_closed(struct init_client *client)
{
        while (client_fill(client, 10000, NULL) == 0)
                client->n_in = 0;
        assert_int_equal(recv(client->fd, client->in, 1, 0), 0);
        init_client_free(client);
}

static void clients_do_not_see_each_other(void **state)
{
        struct fixture *f = *state;
        struct init_client *a, *b;
        u32 id_a, id_b;

        boot(f);
        a = new_client(f);
        b = new_client(f);
        id_a = start_process(f, a, INIT_ID_MAIN, 0); /* the same numbers, and the main process's */
        id_b = start_process(f, b, INIT_ID_MAIN, 0);
        assert_true(id_a != id_b && id_a != INIT_ID_MAIN && id_b != INIT_ID_MAIN);
        client_gets(a, INIT_STARTED, INIT_ID_MAIN);
        client_gets(b, INIT_STARTED, INIT_ID_MAIN);
        say_data(f, id_b, 1, "to b", 4);
        client_gets(b, INIT_DATA, INIT_ID_MAIN);
        client_says(a, INIT_SIGNAL, INIT_ID_MAIN, 1, SIGTERM, 0);
        assert_int_equal(expect(f, INIT_SIGNAL)->id, id_a);
        client_says(a, INIT_SIGNAL, 77, 1, SIGTERM, 0); /* no process of its */
        say(f, INIT_EXITED, id_a, 2, 0, SIGTERM);
        client_gets(a, INIT_EXITED, INIT_ID_MAIN);
        client_says(b, INIT_ASK_STATS, 5, 0, 0, 0);
        expect(f, INIT_ASK_STATS);
        init_client_free(a);
        init_client_free(b);
}

static void clients_wait_for_the_main_process(void **state)
{
        struct fixture *f = *state;
        struct init_client *client = new_client(f);

        client_says(client, INIT_ASK_STATS, 1, 0, 0, 0);
        expect_nothing(f);
        boot(f);
        say_failed(f, expect(f, INIT_ASK_STATS)->id, EIO, "asking", false);
        client_gets(client, INIT_FAILED, 1);
        init_client_free(client);
}

static void a_process_outlives_its_client(void **state)
{
        static u8 data[40000];
        struct fixture *f = *state;
        struct init_client *client;
        u32 id;

        boot(f);
        client = new_client(f);
        id = start_process(f, client, 1, INIT_START_STDIN);
        say_data(f, id, 1, data, sizeof(data));
        client_gets(client, INIT_STARTED, 1);
        client_gets(client, INIT_DATA, 1);
        init_client_free(client);
        assert_int_equal(expect(f, INIT_END)->id, id);
        assert_int_equal(f->message.field[0].number, 0);
        assert_int_equal(expect(f, INIT_ROOM)->field[1].number, sizeof(data)); /* what the client had not given back */
        say_data(f, id, 2, data, sizeof(data));
        assert_int_equal(expect(f, INIT_ROOM)->field[0].number, 2);
        assert_int_equal(f->message.field[1].number, sizeof(data));
        say(f, INIT_EXITED, id, 2, 0, 0);
        expect_nothing(f);
        assert_null(f->error);
}

static void broken_clients_are_closed(void **state)
{
        static const enum init_type forbidden[] = { INIT_WELCOME, INIT_ROOT, INIT_POWER_OFF, INIT_HELLO, INIT_EXITED };
        struct fixture *f = *state;
        struct init_client *client, *good;
        u32 id;

        boot(f);
        good = new_client(f);
        for (size_t i = 0; i < ARRAY_SIZE(forbidden); i++) {
                client = new_client(f);
                client_says(client, forbidden[i], 2, 2, 2, 0);
                is_closed(client);
        }
        client = new_client(f);
        assert_int_equal(send(client->fd, "this is no frame at all", 23, 0), 23);
        is_closed(client);
        client = new_client(f); /* more room than there may be */
        start_process(f, client, 1, 0);
        client_says(client, INIT_ROOM, 1, 2, 1, INIT_ROOM_MAX);
        is_closed(client);
        expect_nothing(f); /* it had no input that could end, and has all its room */
        id = start_process(f, good, 9, 0);
        say(f, INIT_EXITED, id, 2, 0, 0);
        client_gets(good, INIT_STARTED, 9);
        client_gets(good, INIT_EXITED, 9);
        init_client_free(good);
}

static void a_client_has_a_limit_of_things_going_on(void **state)
{
        struct fixture *f = *state;
        struct init_client *client;

        boot(f);
        client = new_client(f);
        for (u32 i = 1; i <= AGENT_CLIENT_TASKS_MAX + 1; i++)
                client_says(client, INIT_ASK_STATS, i, 0, 0, 0);
        for (u32 i = 1; i <= AGENT_CLIENT_TASKS_MAX; i++)
                expect(f, INIT_ASK_STATS);
        expect_nothing(f);
        client_gets(client, INIT_FAILED, AGENT_CLIENT_TASKS_MAX + 1);
        init_client_free(client);
}

static void a_client_that_does_not_read_is_dropped(void **state)
{
        static char command[60000];
        struct fixture *f = *state;
        struct init_client *client;
        u32 id;

        boot(f);
        client = new_client(f);
        client_says(client, INIT_ASK_PROCESSES, 1, 0, 0, 0);
        id = expect(f, INIT_ASK_PROCESSES)->id;
        memset(command, 'x', sizeof(command) - 1);
        for (int i = 0; i < 200; i++) {
                struct init_frame frame = begin(f, INIT_PROCESS, id);

                init_put_u32(&frame, 1);
                init_put_u32(&frame, 1);
                init_put_u32(&frame, 1);
                init_put_u64(&frame, 1);
                init_put_u64(&frame, 1);
                init_put_text(&frame, "?");
                init_put_text(&frame, command);
                say_frame(f, &frame);
        }
        assert_null(f->error);
        is_closed(client);
        client = new_client(f);
        client_says(client, INIT_ASK_STATS, 1, 0, 0, 0);
        expect(f, INIT_ASK_STATS);
        init_client_free(client);
}

/* ---- broken guests ---- */

static void broken_guests_end_their_machine(void **state)
{
        static u8 data[INIT_ROOM_FIRST + 1];
        enum { NO_FRAME, WRONG_DIRECTION, HELLO_AGAIN, TOO_MUCH, NO_STREAM, TOO_MUCH_ROOM, DONE_PROCESS, N };

        for (int i = 0; i < N; i++) {
                struct fixture *f = *state;

                boot(f);
                switch (i) {
                case NO_FRAME:
                        memset(data, 255, 12);
                        say_bytes(f, data, 12);
                        break;
                case WRONG_DIRECTION:
                        say(f, INIT_SIGNAL, 1, 1, 9, 0);
                        break;
                case HELLO_AGAIN:
                        say(f, INIT_HELLO, 0, 2, INIT_VERSION, 0);
                        break;
                case TOO_MUCH:
                        say_data(f, INIT_ID_MAIN, 1, data, sizeof(data));
                        break;
                case NO_STREAM:
                        say_data(f, INIT_ID_MAIN, 0, data, 1);
                        break;
                case TOO_MUCH_ROOM:
                        say(f, INIT_ROOM, INIT_ID_MAIN, 2, 0, INIT_ROOM_MAX);
                        break;
                case DONE_PROCESS:
                        say(f, INIT_DONE, INIT_ID_MAIN, 0, 0, 0);
                        break;
                }
                guest_is_broken(f);
                teardown(state);
                setup(state);
        }
}

static void what_the_guest_says_about_nothing_is_ignored(void **state)
{
        struct fixture *f = *state;
        struct init_frame frame;

        boot(f);
        say(f, INIT_EXITED, 1234, 2, 0, 0);
        say_data(f, 1234, 1, "x", 1);
        say(f, (enum init_type)999, 1, 2, 0, 0);
        frame = begin(f, INIT_LOG, 0);
        init_put_u32(&frame, 0);
        init_put_text(&frame, "hello\x1b[2J");
        say_frame(f, &frame);
        assert_null(f->error);
        expect_nothing(f);
}

static void frames_may_come_in_any_pieces(void **state)
{
        struct fixture *f = *state;
        struct init_frame frame;
        size_t size;

        boot(f);
        frame = begin(f, INIT_DATA, INIT_ID_MAIN);
        init_put_u32(&frame, 1);
        init_put_bytes(&frame, "piecemeal", 9);
        assert_int_equal(init_frame_end(&frame, &size), 0);
        for (size_t i = 0; i < size; i++)
                say_bytes(f, f->frame + i, 1);
        read_text(f->out[0], "piecemeal");
}

/* ---- saved machines ---- */

static void save(struct fixture *f, struct state_out *ret)
{
        fake_env_lock(&f->env);
        fake_save(&f->agent->dev, ret);
        fake_env_unlock(&f->env);
}

/* Ends the machine and makes another from what was saved, with another script. */
static int move(struct fixture *f, struct init_script *script, struct err **err)
{
        struct state_out saved;
        int r;

        save(f, &saved);
        end_agent(f);
        write_script(f, script);
        assert_int_equal(new_agent(f, NULL), 0);
        fake_env_lock(&f->env);
        assert_true(ops(f)->connected(f->agent, &f->conn));
        r = fake_load(&f->agent->dev, &saved, err);
        fake_env_unlock(&f->env);
        state_out_free(&saved);
        start_loop(f);
        return r;
}

static void a_saved_machine_goes_on_and_is_told_more(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        struct init_client *client;

        boot(f);
        read_text(f->ready[0], "started\n");
        client = new_client(f);
        start_process(f, client, 1, 0);
        say_bytes(f, "\x08\0\0\0\x20\0", 6); /* half a frame of DATA for the main process */
        init_script_system(&script, "clone", 0, "random", 6);
        assert_int_equal(move(f, &script, NULL), 0);
        init_client_free(client);

        assert_string_equal(expect(f, INIT_SYSTEM)->field[0].text, "clone");
        say_bytes(f, "\0\0\1\0\0\0\1\0\0\0rest", 14);
        read_text(f->out[0], "rest");
        say(f, INIT_DONE, f->message.id, 0, 0, 0);
        read_text(f->ready[0], "started\n");
        agent_signal(f->agent, SIGUSR2);
        assert_int_equal(expect(f, INIT_SIGNAL)->id, INIT_ID_MAIN);
        client = new_client(f);
        start_process(f, client, 1, 0);
        init_client_free(client);
        say(f, INIT_EXITED, INIT_ID_MAIN, 2, 3, 0);
        say(f, INIT_DONE, expect(f, INIT_POWER_OFF)->id, 0, 0, 0);
        machine_stopped(f, 3);
}

static void what_is_told_late_does_not_keep_the_machine(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        u32 id;

        boot(f);
        init_script_system(&script, "clone", 0, "", 0);
        assert_int_equal(move(f, &script, NULL), 0);
        id = expect(f, INIT_SYSTEM)->id;
        say(f, INIT_EXITED, INIT_ID_MAIN, 2, 6, 0);
        say(f, INIT_DONE, id, 0, 0, 0);
        say(f, INIT_DONE, expect(f, INIT_POWER_OFF)->id, 0, 0, 0);
        machine_stopped(f, 6);
}

static const char *frozen; /* what on_frozen was told */

static void on_frozen(void *opaque, const char *error)
{
        frozen = error ? error : "done";
}

static int freeze(struct fixture *f)
{
        int r;

        frozen = NULL;
        fake_env_lock(&f->env);
        r = agent_freeze(f->agent, on_frozen, f);
        fake_env_unlock(&f->env);
        return r;
}

/* A guest that can have its processes stand still. */
static void boot_freezable(struct fixture *f)
{
        connect_guest(f);
        say(f, INIT_HELLO, 0, 2, INIT_VERSION, INIT_FEATURE_FREEZE);
        assert_int_equal(expect(f, INIT_WELCOME)->field[1].number, INIT_FEATURE_FREEZE);
        say(f, INIT_DONE, expect(f, INIT_MOUNT)->id, 0, 0, 0);
        expect(f, INIT_START);
        say(f, INIT_STARTED, INIT_ID_MAIN, 1, 42, 0);
}

static void processes_of_a_saved_machine_go_on_when_it_has_been_told_all(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        u32 id;

        boot_freezable(f);
        read_text(f->ready[0], "started\n");
        assert_int_equal(freeze(f), 0);
        assert_int_equal(freeze(f), -EBUSY);
        assert_int_equal(expect(f, INIT_FREEZE)->field[0].number, 1);
        assert_null(frozen);
        say(f, INIT_DONE, f->message.id, 0, 0, 0);
        assert_string_equal(frozen, "done");
        init_script_system(&script, "clone", 0, "random", 6);
        assert_int_equal(move(f, &script, NULL), 0);

        id = expect(f, INIT_SYSTEM)->id;
        assert_int_equal(expect(f, INIT_FREEZE)->field[0].number, 0); /* at once: the guest knows whether the former failed */
        say(f, INIT_DONE, id, 0, 0, 0);
        say(f, INIT_DONE, f->message.id, 0, 0, 0);
        read_text(f->ready[0], "started\n");
}

static void clients_wait_for_processes_that_stand_still(void **state)
{
        struct fixture *f = *state;
        struct init_client *client = new_client(f);

        boot_freezable(f);
        assert_int_equal(freeze(f), 0);
        say(f, INIT_DONE, expect(f, INIT_FREEZE)->id, 0, 0, 0);
        client_says(client, INIT_ASK_STATS, 1, 0, 0, 0);
        expect_nothing(f);
        fake_env_lock(&f->env);
        agent_thaw(f->agent);
        agent_thaw(f->agent);
        fake_env_unlock(&f->env);
        assert_int_equal(expect(f, INIT_FREEZE)->field[0].number, 0);
        expect(f, INIT_ASK_STATS);
        init_client_free(client);
}

static void processes_that_cannot_stand_still_go_on(void **state)
{
        struct fixture *f = *state;

        boot_freezable(f);
        assert_int_equal(freeze(f), 0);
        say_failed(f, expect(f, INIT_FREEZE)->id, EIO, "stopping all", false);
        assert_string_equal(frozen, "stopping all: Input/output error");
        assert_int_equal(expect(f, INIT_FREEZE)->field[0].number, 0);
        assert_null(f->error);
}

static void older_guests_are_not_asked_to_stand_still(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(freeze(f), -EOPNOTSUPP); /* nor before there is a main process */
        boot(f);
        assert_int_equal(freeze(f), -EOPNOTSUPP);
        expect_nothing(f);
}

static void a_clients_process_goes_on_in_the_saved_machine(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        struct init_client *client;
        u32 id;

        boot(f);
        client = new_client(f);
        id = start_process(f, client, 1, INIT_START_STDIN);
        say_data(f, id, 1, "12345", 5);
        assert_int_equal(move(f, &script, NULL), 0);
        init_client_free(client);
        assert_int_equal(expect(f, INIT_END)->id, id);
        assert_int_equal(expect(f, INIT_ROOM)->field[1].number, 5);
        say(f, INIT_EXITED, id, 2, 0, 0);
        assert_null(f->error);
}

static void a_machine_saved_while_it_is_set_up_starts_its_process(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        u32 id;

        connect_guest(f);
        say(f, INIT_HELLO, 0, 2, INIT_VERSION, 0);
        expect(f, INIT_WELCOME);
        id = expect(f, INIT_MOUNT)->id;
        init_script_system(&script, "later", 0, "", 0);
        assert_int_equal(move(f, &script, NULL), 0);
        say(f, INIT_DONE, id, 0, 0, 0);
        assert_string_equal(expect(f, INIT_START)->field[0].text, "main");
        say(f, INIT_STARTED, INIT_ID_MAIN, 1, 42, 0);
        assert_string_equal(expect(f, INIT_SYSTEM)->field[0].text, "later");
}

static void a_machine_has_one_main_process(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        _cleanup_(err_freep) struct err *err = NULL;

        boot(f);
        init_script_start(&script, &main_process);
        assert_int_equal(move(f, &script, &err), -EEXIST);
}

static void a_machine_saved_without_a_main_process_gets_one(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };

        init_script_sysctl(&script, "a", "b");
        write_script(f, &script);
        assert_int_equal(new_agent(f, NULL), 0);
        start_loop(f);
        connect_guest(f);
        say(f, INIT_HELLO, 0, 2, INIT_VERSION, 0);
        expect(f, INIT_WELCOME);
        say(f, INIT_DONE, expect(f, INIT_SYSCTL)->id, 0, 0, 0);
        read_text(f->ready[0], "started\n");
        init_script_start(&script, &main_process);
        assert_int_equal(move(f, &script, NULL), 0);
        assert_string_equal(expect(f, INIT_START)->field[0].text, "main");
        say(f, INIT_STARTED, INIT_ID_MAIN, 1, 42, 0);
        read_text(f->ready[0], "started\n");
        say(f, INIT_EXITED, INIT_ID_MAIN, 2, 1, 0);
        say(f, INIT_DONE, expect(f, INIT_POWER_OFF)->id, 0, 0, 0);
        machine_stopped(f, 1);
}

/* Offset of a section's payload, and of its length field. */
#define PAYLOAD_AT (STATE_NAME_MAX + 8)
#define LENGTH_AT (STATE_NAME_MAX + 4)

static void damaged_state_is_refused(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        struct state_out saved, cut;

        boot(f);
        save(f, &saved);
        end_agent(f);
        init_script_sysctl(&script, "a", "b");
        write_script(f, &script);
        assert_int_equal(new_agent(f, NULL), 0);
        start_loop(f);
        for (size_t len = PAYLOAD_AT; len < saved.len; len++) {
                const u32 payload = (u32)(len - PAYLOAD_AT);
                _cleanup_(err_freep) struct err *err = NULL;

                cut = (struct state_out){ .data = malloc(len), .len = len };
                memcpy(cut.data, saved.data, len);
                memcpy(cut.data + LENGTH_AT, &payload, sizeof(payload));
                fake_env_lock(&f->env);
                assert_int_equal(fake_load(&f->agent->dev, &cut, &err), -EINVAL);
                fake_env_unlock(&f->env);
                free(cut.data);
        }
        /* Any byte may be another one: refused or not, nothing else happens. */
        for (size_t at = PAYLOAD_AT; at < saved.len; at++) {
                cut = (struct state_out){ .data = malloc(saved.len), .len = saved.len };
                memcpy(cut.data, saved.data, saved.len);
                cut.data[at] ^= 0xff;
                fake_env_lock(&f->env);
                if (fake_load(&f->agent->dev, &cut, NULL) == 0) {
                        fake_env_unlock(&f->env);
                        end_agent(f);
                        assert_int_equal(new_agent(f, NULL), 0);
                        start_loop(f);
                        fake_env_lock(&f->env);
                }
                fake_env_unlock(&f->env);
                free(cut.data);
        }
        state_out_free(&saved);
}

static const char *replayed;

static void on_replayed(void *opaque, const char *error)
{
        replayed = error ? "error" : "done";
}

static void more_is_told_while_it_runs(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        u32 id;

        boot(f);
        init_script_system(&script, "new-name", 0, "", 0);
        init_script_link(&script, "a", "b");
        replayed = NULL;
        fake_env_lock(&f->env);
        assert_int_equal(agent_replay(f->agent, "junk", 4, on_replayed, f), -EINVAL);
        assert_int_equal(agent_replay(f->agent, script.data, script.len, on_replayed, f), 0);
        assert_int_equal(agent_replay(f->agent, script.data, script.len, on_replayed, f), -EBUSY);
        fake_env_unlock(&f->env);
        id = expect(f, INIT_SYSTEM)->id;
        say(f, INIT_DONE, expect(f, INIT_LINK)->id, 0, 0, 0);
        assert_null(replayed);
        say(f, INIT_DONE, id, 0, 0, 0);
        assert_string_equal(replayed, "done");
        fake_env_lock(&f->env);
        assert_int_equal(agent_replay(f->agent, script.data, script.len, on_replayed, f), 0);
        fake_env_unlock(&f->env);
        say_failed(f, expect(f, INIT_SYSTEM)->id, EPERM, "no", false);
        assert_string_equal(replayed, "error");
        assert_null(f->error); /* that is whoever's business who asked */
        init_script_free(&script);
}

/* ---- what it is given ---- */

static void scripts_are_checked(void **state)
{
        struct fixture *f = *state;
        struct init_script good = { 0 };
        FILE *file;

        init_script_mount(&good, "a", "b", "c", 0, "");
        init_script_start(&good, &main_process);
        for (size_t cut = 1; cut < good.len; cut += 7) {
                _cleanup_(err_freep) struct err *err = NULL;
                size_t size;

                if (init_frame_next(good.data, cut, &size) == 1 && size == cut)
                        continue;
                file = fopen(f->script, "w");
                fwrite(good.data, 1, cut, file);
                fclose(file);
                assert_int_equal(new_agent(f, &err), -EINVAL);
        }
        init_script_sysctl(&good, "behind", "start");
        write_script(f, &good);
        assert_int_equal(new_agent(f, NULL), -EINVAL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_BEFORE(name) cmocka_unit_test_setup_teardown(name, prepare, teardown)
        const struct CMUnitTest tests[] = {
                TEST(the_script_is_carried_out_then_the_process_started),
                TEST(its_end_ends_the_machine),
                TEST(a_signal_is_a_status),
                TEST(a_script_that_fails_ends_the_machine),
                TEST(a_command_that_cannot_be_started_has_a_status),
                TEST(a_machine_that_ends_early_is_reported),
                TEST(input_is_sent_as_there_is_room),
                TEST(the_end_of_input_is_told),
                TEST(room_is_given_as_output_is_read),
                TEST(output_without_a_reader_is_thrown_away),
                TEST(signals_go_to_the_main_process),
                TEST(a_signal_before_it_runs_ends_the_machine),
                TEST(clients_do_not_see_each_other),
                TEST(clients_wait_for_the_main_process),
                TEST(a_process_outlives_its_client),
                TEST(broken_clients_are_closed),
                TEST(a_client_has_a_limit_of_things_going_on),
                TEST(a_client_that_does_not_read_is_dropped),
                TEST(broken_guests_end_their_machine),
                TEST(what_the_guest_says_about_nothing_is_ignored),
                TEST(frames_may_come_in_any_pieces),
                TEST(a_saved_machine_goes_on_and_is_told_more),
                TEST(what_is_told_late_does_not_keep_the_machine),
                TEST(processes_of_a_saved_machine_go_on_when_it_has_been_told_all),
                TEST(clients_wait_for_processes_that_stand_still),
                TEST(processes_that_cannot_stand_still_go_on),
                TEST(older_guests_are_not_asked_to_stand_still),
                TEST(a_clients_process_goes_on_in_the_saved_machine),
                TEST(a_machine_saved_while_it_is_set_up_starts_its_process),
                TEST(a_machine_has_one_main_process),
                TEST_BEFORE(a_machine_saved_without_a_main_process_gets_one),
                TEST(damaged_state_is_refused),
                TEST(more_is_told_while_it_runs),
                TEST_BEFORE(scripts_are_checked),
        };

        return cmocka_run_group_tests_name("tests", tests, NULL, NULL);
}

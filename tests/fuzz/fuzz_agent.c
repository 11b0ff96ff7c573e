/* The agent inside strata-vmm between a hostile guest and hostile clients: messages that are well formed, in any order and about any
 * number, and bytes that are none; machines saved and loaded in between. What must hold: the accounts of tasks and rooms are right, what
 * waits is bounded, and all that is sent to the guest keeps to the protocol. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "board.h"
#include "dev/virtio/vsock_internal.h"
#include "init/script.h"
#include "vm/agent_internal.h"

#define RAM_SIZE (64 * KIB)
#define CLIENTS 3
#define FRAME_BYTES 4096

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

struct machine {
        struct board board;
        struct agent *agent;
        struct vsock_conn conn; /* only there to be pointed at */
        struct vsock vsock;
        char socket[48], script[48];
        int in[2], out[2];
        int clients[CLIENTS];
        bool ended;
        u8 sent[AGENT_FRAME_SPACE]; /* to the guest, not looked at yet */
        size_t n_sent;
};

static void on_fail(void *opaque, struct err *error)
{
        struct machine *m = opaque;

        require(!m->ended);
        m->ended = true;
        err_free(error);
}

static void agent_make(struct machine *m)
{
        const struct agent_config config = { .socket = m->socket, .script = m->script, .ready_fd = -1, .streams = { m->in[0], m->out[1], m->out[1] } };

        require(agent_new(&config, &m->agent, NULL) == 0);
        require(agent_attach(m->agent, &m->board.env, &(struct agent_events){ on_fail, m }, NULL) == 0);
}

static const struct vsock_local_ops *ops(const struct machine *m)
{
        return agent_local(m->agent)->ops;
}

/* ---- messages ---- */

static const struct {
        unsigned number;
        const char *fields;
} messages[] = {
#define INIT_MESSAGE(id, number, direction, fields, meaning) { number, fields },
#include "init/messages.def"
#undef INIT_MESSAGE
};

static u32 some_number(const struct machine *m, struct input *in)
{
        const u64 what = take(in, 1);

        return what < 128 ? (u32)what % 5 : what < 192 ? m->agent->s.last_id - (u32)what % 8 : (u32)take(in, 3);
}

static void put_field(struct init_frame *frame, char kind, struct input *in)
{
        static const char *const texts[] = { "text", NULL };
        static const u8 zeros[1024];
        const u64 numbers[] = { 1, 2, 3 }, what = take(in, 1);

        switch (kind) {
        case 'u':
                init_put_u32(frame, what < 200 ? (u32)what % 4 : what < 240 ? (u32)what << 10 : (u32)take(in, 4));
                break;
        case 'U':
                init_put_u64(frame, take(in, 2));
                break;
        case 's':
                init_put_text(frame, what & 1 ? "text" : "");
                break;
        case 'l':
                init_put_list(frame, what & 1 ? texts : NULL);
                break;
        case 'N':
                init_put_numbers(frame, numbers, what % 4);
                break;
        default:
                init_put_bytes(frame, zeros, what * 4);
        }
}

static size_t make_frame(const struct machine *m, struct input *in, u8 buffer[static FRAME_BYTES])
{
        const u64 which = take(in, 1) % ARRAY_SIZE(messages);
        struct init_frame frame;
        size_t size;

        init_frame_begin(&frame, buffer, FRAME_BYTES, (enum init_type)messages[which].number, some_number(m, in));
        for (const char *kind = messages[which].fields; *kind; kind++)
                put_field(&frame, *kind, in);
        require(init_frame_end(&frame, &size) == 0);
        return size;
}

static void guest_says(struct machine *m, u8 *data, size_t n)
{
        const struct iovec iov[] = { { data, n / 2 }, { data + n / 2, n - n / 2 } };

        if (m->agent->conn)
                ops(m)->receive(m->agent, iov, 2);
}

/* ---- operations, with the lock held ---- */

static void do_guest_frame(struct machine *m, struct input *in)
{
        u8 frame[FRAME_BYTES];

        guest_says(m, frame, make_frame(m, in, frame));
}

static void do_guest_bytes(struct machine *m, struct input *in)
{
        u8 bytes[32];
        const size_t n = take(in, 1) % sizeof(bytes);

        for (size_t i = 0; i < n; i++)
                bytes[i] = (u8)take(in, 1);
        guest_says(m, bytes, n);
}

/* Answers all that the guest was asked, as it should. */
static void answer(struct machine *m, const struct init_message *asked)
{
        const bool is_start = asked->type == INIT_START;
        struct init_frame frame;
        u8 buffer[64];
        size_t size;

        init_frame_begin(&frame, buffer, sizeof(buffer), is_start ? INIT_STARTED : INIT_DONE, asked->id);
        if (is_start)
                init_put_u32(&frame, 5);
        if (init_frame_end(&frame, &size) == 0)
                guest_says(m, buffer, size);
}

static void do_guest_read(struct machine *m, struct input *in)
{
        const bool honest = take(in, 1) & 1;

        for (unsigned rounds = 0; rounds < 20; rounds++) {
                const struct iovec iov = { m->sent + m->n_sent, sizeof(m->sent) - m->n_sent };
                struct init_message asked;
                size_t size;

                if (m->agent->conn)
                        m->n_sent += ops(m)->fill(m->agent, &iov, 1);
                if (init_frame_next(m->sent, m->n_sent, &size) != 1)
                        return;
                require(init_parse(m->sent, size, INIT_TO_GUEST, &asked) == 0);
                if (honest)
                        answer(m, &asked);
                m->n_sent -= size;
                memmove(m->sent, m->sent + size, m->n_sent);
        }
}

static void do_guest_connection(struct machine *m, struct input *in)
{
        if (take(in, 1) & 15) {
                ops(m)->connected(m->agent, &m->conn);
        } else if (m->agent->conn) {
                ops(m)->closed(m->agent);
                m->n_sent = 0;
        }
}

static void do_client_life(struct machine *m, struct input *in)
{
        int *fd = &m->clients[take(in, 1) % CLIENTS];

        if (*fd >= 0) {
                close(*fd);
                *fd = -1;
                return;
        }
        *fd = unix_connect(m->socket);
        if (*fd >= 0)
                fcntl(*fd, F_SETFL, O_NONBLOCK);
}

static void do_client_frame(struct machine *m, struct input *in)
{
        const int fd = m->clients[take(in, 1) % CLIENTS];
        u8 frame[FRAME_BYTES];
        const size_t size = make_frame(m, in, frame);

        if (fd >= 0)
                (void)!send(fd, frame, size - (take(in, 1) == 0), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void do_client_read(struct machine *m, struct input *in)
{
        static u8 data[65536];
        const int fd = m->clients[take(in, 1) % CLIENTS];

        if (fd >= 0)
                (void)!recv(fd, data, sizeof(data), MSG_DONTWAIT);
}

static void do_streams(struct machine *m, struct input *in)
{
        static u8 data[65536];
        const u64 what = take(in, 2);

        if (what & 1)
                (void)!write(m->in[1], data, what);
        else
                (void)!read(m->out[0], data, what);
}

static void do_signal(struct machine *m, struct input *in)
{
        agent_signal(m->agent, (int)take(in, 1) % 70);
}

static void stop_loop(void *opaque)
{
        loop_stop(opaque);
}

/* Sockets, pipes and signals are looked at. */
static void run_loop(struct machine *m)
{
        struct loop_timer end;

        loop_timer_init(&end, m->board.env.loop, stop_loop, m->board.env.loop);
        loop_timer_set(&end, 1);
        pthread_mutex_unlock(&m->board.lock);
        loop_run(m->board.env.loop, NULL);
        pthread_mutex_lock(&m->board.lock);
        loop_timer_cancel(&end); /* an earlier stop may have come first */
}

static void do_save_and_load(struct machine *m, struct input *in)
{
        struct agent *before = m->agent;
        struct state_out saved;
        struct state_in from;
        char name[STATE_NAME_MAX];
        u32 version;

        state_out_init(&saved);
        state_out_section_begin(&saved, "agent", 1);
        before->dev.ops->save(&before->dev, &saved);
        state_out_section_end(&saved);
        require(state_out_finish(&saved, NULL) == 0);
        for (u64 i = take(in, 1) & 3; i; i--)
                saved.data[STATE_NAME_MAX + 8 + take(in, 2) % (saved.len - STATE_NAME_MAX - 8)] ^= (u8)take(in, 1);
        if (before->conn)
                ops(m)->closed(before);
        m->n_sent = 0;
        run_loop(m); /* signals are on their way to it */
        require(m->board.devices == &before->dev);
        m->board.devices = before->dev.next;
        before->dev.ops->destroy(&before->dev);
        m->ended = false;
        agent_make(m);
        ops(m)->connected(m->agent, &m->conn);
        state_in_init(&from, saved.data, saved.len);
        require(state_in_section_next(&from, name, &version, NULL) == 1);
        m->agent->dev.ops->load(&m->agent->dev, &from, version, NULL);
        state_out_free(&saved);
}

static void do_loop(struct machine *m, struct input *in)
{
        run_loop(m);
}

static void (*const operations[])(struct machine *m, struct input *in) = {
        do_guest_frame, do_guest_frame, do_guest_frame, do_guest_bytes, do_guest_read, do_guest_read, do_guest_read, do_guest_connection,
        do_client_life, do_client_frame, do_client_frame, do_client_frame, do_client_read, do_streams, do_signal, do_save_and_load, do_loop, do_loop,
};

static void check(const struct machine *m)
{
        const struct agent *agent = m->agent;
        unsigned n_tasks[AGENT_CLIENTS_MAX] = { 0 }, pending[OWNERS] = { 0 };

        for (size_t i = 0; i < AGENT_TASKS_MAX; i++) {
                const struct agent_task *task = &agent->s.tasks[i];

                if (task->owner == OWNER_NONE)
                        continue;
                pending[task->owner]++;
                require((task->owner == OWNER_MAIN) == (task->id == INIT_ID_MAIN));
                require(agent_task_find(m->agent, task->id) == task);
                for (unsigned k = 0; k < INIT_STREAMS; k++)
                        require(task->room[k] <= INIT_ROOM_MAX);
                if (task->owner == OWNER_CLIENT) {
                        require(task->client->fd >= 0);
                        n_tasks[task->client - agent->clients]++;
                }
        }
        for (size_t i = 0; i < AGENT_CLIENTS_MAX; i++) {
                require(agent->clients[i].fd < 0 || agent->clients[i].n_tasks == n_tasks[i]);
                require(n_tasks[i] <= AGENT_CLIENT_TASKS_MAX && agent->clients[i].out.n <= AGENT_CLIENT_OUT_MAX);
                require(!agent->clients[i].handling);
        }
        require(!agent->s.boot.data || agent->s.boot.pending == pending[OWNER_BOOT]);
        require(!agent->replay.data || agent->replay.pending == pending[OWNER_REPLAY]);
        require(agent->s.out.n <= AGENT_OUT_FULL + AGENT_TASKS_MAX * (u64)INIT_ROOM_MAX);
        require(agent->stdio[1].out.n <= INIT_ROOM_MAX && agent->stdio[2].out.n <= INIT_ROOM_MAX);
}

static void write_script(const struct machine *m, bool starts)
{
        const struct init_process process = { .argv = (const char *const[]){ "main", NULL }, .flags = INIT_START_STDIN };
        struct init_script script = { 0 };
        const int fd = open(m->script, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        init_script_mount(&script, "a", "b", "c", 0, "");
        init_script_system(&script, "name", 1, "random", 6);
        if (starts)
                init_script_start(&script, &process);
        require(init_script_end(&script, NULL) == 0 && fd >= 0 && write(fd, script.data, script.len) == (ssize_t)script.len);
        close(fd);
        init_script_free(&script);
}

static void stream_pipe(int fds[static 2])
{
        require(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct input in = { data, len };
        static struct machine m;

        memset(&m, 0, offsetof(struct machine, sent));
        m.n_sent = 0;
        m.conn = (struct vsock_conn){ .vs = &m.vsock, .in_local = true, .state = VSOCK_CLOSING };
        for (size_t i = 0; i < CLIENTS; i++)
                m.clients[i] = -1;
        snprintf(m.socket, sizeof(m.socket), "/tmp/fuzz-agent-%d", (int)getpid());
        snprintf(m.script, sizeof(m.script), "/tmp/fuzz-agent-%d.script", (int)getpid());
        stream_pipe(m.in);
        stream_pipe(m.out);
        board_init(&m.board, RAM_SIZE);
        write_script(&m, take(&in, 1) & 1);
        agent_make(&m);
        write_script(&m, take(&in, 1) & 1); /* for those that are loaded */
        pthread_mutex_lock(&m.board.lock);
        for (unsigned i = 0; i < 200 && in.left; i++) {
                operations[take(&in, 1) % ARRAY_SIZE(operations)](&m, &in);
                check(&m);
        }
        if (m.agent->conn)
                ops(&m)->closed(m.agent);
        pthread_mutex_unlock(&m.board.lock);
        board_free(&m.board);
        for (size_t i = 0; i < CLIENTS; i++)
                if (m.clients[i] >= 0)
                        close(m.clients[i]);
        for (size_t i = 0; i < 2; i++) {
                close(m.in[i]);
                close(m.out[i]);
        }
        unlink(m.script);
        return 0;
}

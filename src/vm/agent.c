/* The guest's side of the agent, scripts, and the life of it all.
 *
 * Theory of operation. The guest connects and says HELLO; the agent answers WELCOME and tells it the boot script, then START, whose
 * process is the main one. From then on clients are served. All that the guest knows by a number is a task; numbers of clients are
 * translated, so they cannot touch each other's. What any side may send of a stream is counted (rooms), so the queues are bounded by what
 * the sides allowed each other, and frames for the guest beyond AGENT_OUT_FULL wait with whoever wants to send them.
 *
 * When the main process has ended, POWER_OFF follows: the guest ends the other processes, writes back and says DONE, and then the machine
 * is stopped from here, which is faster than its ACPI. */
#include "agent_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

/* How long a guest may take for its end. */
#define END_NS (30 * NSEC_PER_SEC)
#define SENTENCE_MAX 400U

/* ---- the end ---- */

void agent_report(struct agent *agent, const char *error)
{
        if (agent->ready_fd < 0)
                return;
        /* A short line into an empty pipe; who asked for it and went away is not missed. */
        dprintf(agent->ready_fd, "%s%s\n", error ? "error: " : "started", error ? error : "");
        close(TAKE_FD(agent->ready_fd));
}

void agent_fail(struct agent *agent, const char *why)
{
        struct err *error = NULL;

        if (agent->failed)
                return;
        agent->failed = true;
        agent_report(agent, why);
        err_set(&error, ERR_IO, EPROTO, "%s", why);
        agent->events.fail(agent->events.opaque, error);
}

static void broken_guest(struct agent *agent)
{
        agent_fail(agent, "strata-init in the machine does not keep to the protocol");
}

static void stop(struct agent *agent)
{
        agent->failed = true; /* whatever comes now does not matter */
        agent->env->stop(agent->env, MACHINE_POWER_OFF, 0);
}

void agent_end_if_done(struct agent *agent)
{
        if (agent->s.phase == AGENT_ENDING && agent->switched_off && agent_stdio_flushed(agent))
                stop(agent);
}

static void on_end_timer(void *opaque)
{
        log_warn("the machine did not switch itself off in time");
        stop(opaque);
}

static void main_ended(struct agent *agent, int status)
{
        const u32 at_once = 0;
        struct agent_task *task;

        agent->s.phase = AGENT_ENDING;
        agent->s.has_status = true;
        agent->s.status = status;
        task = agent_task_new(agent, OWNER_END);
        if (task)
                agent_send_numbers(agent, INIT_POWER_OFF, task->id, &at_once, 1);
        loop_timer_set(&agent->end_timer, clock_now_ns() + END_NS);
        agent_clients_update(agent);
}

/* ---- tasks ---- */

struct agent_task *agent_task_find(struct agent *agent, u32 id)
{
        for (size_t i = 0; i < AGENT_TASKS_MAX; i++)
                if (agent->s.tasks[i].owner != OWNER_NONE && agent->s.tasks[i].id == id)
                        return &agent->s.tasks[i];
        return NULL;
}

struct agent_task *agent_main(struct agent *agent)
{
        return agent_task_find(agent, INIT_ID_MAIN);
}

struct agent_task *agent_task_new(struct agent *agent, enum agent_owner owner)
{
        for (size_t i = 0; i < AGENT_TASKS_MAX; i++) {
                struct agent_task *task = &agent->s.tasks[i];

                if (task->owner != OWNER_NONE)
                        continue;
                do
                        agent->s.last_id++;
                while (agent->s.last_id <= INIT_ID_MAIN || agent_task_find(agent, agent->s.last_id));
                *task = (struct agent_task){ .id = owner == OWNER_MAIN ? INIT_ID_MAIN : agent->s.last_id, .owner = owner };
                return task;
        }
        return NULL;
}

void agent_task_free(struct agent *agent, struct agent_task *task)
{
        if (task->owner == OWNER_CLIENT)
                task->client->n_tasks--;
        *task = (struct agent_task){ 0 };
}

void agent_grant(struct agent *agent, struct agent_task *task, u32 stream, u32 bytes)
{
        const u32 numbers[] = { stream, bytes };

        task->room[stream] += bytes;
        agent_send_numbers(agent, INIT_ROOM, task->id, numbers, ARRAY_SIZE(numbers));
}

void agent_task_abandon(struct agent *agent, struct agent_task *task)
{
        const u32 input = 0;

        if (task->owner == OWNER_CLIENT)
                task->client->n_tasks--;
        task->owner = OWNER_NOBODY;
        task->client = NULL;
        if (!task->is_process)
                return;
        if (!task->input_ended)
                agent_send_numbers(agent, INIT_END, task->id, &input, 1);
        task->input_ended = true;
        for (u32 stream = 1; stream < INIT_STREAMS; stream++)
                if (task->room[stream] < INIT_ROOM_FIRST)
                        agent_grant(agent, task, stream, INIT_ROOM_FIRST - task->room[stream]);
}

/* ---- to the guest ---- */

void agent_send(struct agent *agent, const u8 *frame, size_t size, u32 id)
{
        const size_t at = agent->s.out.n;

        if (agent->failed)
                return;
        if (!byte_queue_add(&agent->s.out, frame, size)) {
                agent_fail(agent, "no memory for what the machine is to be told");
                return;
        }
        memcpy(byte_queue_data(&agent->s.out) + at + offsetof(struct init_header, id), &id, sizeof(id));
        if (agent->conn)
                vsock_local_wake(agent->conn);
}

void agent_send_numbers(struct agent *agent, enum init_type type, u32 id, const u32 *numbers, size_t n)
{
        u8 buffer[64];
        struct init_frame frame;
        size_t size;

        init_frame_begin(&frame, buffer, sizeof(buffer), type, id);
        for (size_t i = 0; i < n; i++)
                init_put_u32(&frame, numbers[i]);
        if (init_frame_end(&frame, &size) == 0)
                agent_send(agent, buffer, size, id);
}

/* ---- phases ---- */

void agent_go_on(struct agent *agent)
{
        switch (agent->s.phase) {
        case AGENT_SETUP:
                agent_script_go_on(agent, &agent->s.boot);
                break;
        case AGENT_RUNNING:
                agent_stdio_start(agent);
                agent_script_go_on(agent, &agent->replay);
                agent_clients_update(agent);
                break;
        case AGENT_ENDING:
                agent_stdio_start(agent);
                loop_timer_set(&agent->end_timer, clock_now_ns() + END_NS);
                break;
        default: /* the guest's turn */
                break;
        }
}

/* ---- from the guest ---- */

/* What a guest says in words, as far as it may be shown. */
static void sentence_of(const struct init_value *text, char ret[static SENTENCE_MAX])
{
        const size_t n = MIN(text->number, (u64)SENTENCE_MAX - 1);

        for (size_t i = 0; i < n; i++)
                ret[i] = text->text[i] >= ' ' && text->text[i] != 127 ? text->text[i] : '?';
        ret[n] = '\0';
}

static void failure_of(const struct init_message *m, char *ret, size_t size)
{
        const int errnum = m->field[0].number <= 4095 ? (int)m->field[0].number : EIO;
        char what[SENTENCE_MAX];

        sentence_of(&m->field[1], what);
        snprintf(ret, size, "%s: %s", what, strerror(errnum));
}

typedef void guest_fn(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size);

static void on_hello(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        u32 welcome[] = { INIT_VERSION, 0 };

        if (agent->s.phase != AGENT_WAITING || m->field[0].number < INIT_VERSION) {
                broken_guest(agent);
                return;
        }
        agent->s.phase = AGENT_SETUP;
        agent->s.features = welcome[1] = (u32)m->field[1].number & INIT_FEATURE_FREEZE;
        agent_send_numbers(agent, INIT_WELCOME, 0, welcome, ARRAY_SIZE(welcome));
        agent_script_go_on(agent, &agent->s.boot);
}

static void on_log(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        char sentence[SENTENCE_MAX];

        sentence_of(&m->field[1], sentence);
        log_info("the machine says: %s", sentence); /* whatever its level: it must not fill our log */
}

static struct agent_script *script_of(struct agent *agent, const struct agent_task *task)
{
        return task->owner == OWNER_BOOT ? &agent->s.boot : task->owner == OWNER_REPLAY ? &agent->replay : NULL;
}

static void on_done(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        struct agent_script *script = script_of(agent, task);
        const enum agent_owner owner = task->owner;

        if (task->is_process) {
                broken_guest(agent);
                return;
        }
        agent_client_forward(task, frame, size);
        agent_task_free(agent, task);
        if (owner == OWNER_END) {
                agent->switched_off = true;
                agent_end_if_done(agent);
        } else if (owner == OWNER_FREEZE) {
                agent_freeze_over(agent, NULL);
        } else if (script && script->pending) {
                script->pending--;
                agent_script_go_on(agent, script);
        }
}

static void on_failed(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        struct agent_script *script = script_of(agent, task);
        const enum agent_owner owner = task->owner;
        const u64 errnum = m->field[0].number;
        char why[SENTENCE_MAX + 64];

        failure_of(m, why, sizeof(why));
        agent_client_forward(task, frame, size);
        agent_task_free(agent, task);
        if (owner == OWNER_MAIN) {
                agent->s.has_status = true;
                agent->s.status = !m->field[2].number ? 125 : errnum == ENOENT || errnum == ENOTDIR ? 127 : 126;
                agent_report(agent, why);
                stop(agent);
        } else if (owner == OWNER_FREEZE) {
                agent_freeze_over(agent, why);
        } else if (script && script->data) {
                agent_script_over(agent, script, why);
        }
}

static void on_started(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (!task->is_process) {
                broken_guest(agent);
                return;
        }
        agent_client_forward(task, frame, size);
        if (task->owner != OWNER_MAIN || agent->s.phase != AGENT_STARTING)
                return;
        agent->s.phase = AGENT_RUNNING;
        if (!agent->replay.data)
                agent_report(agent, NULL);
        agent_go_on(agent);
}

static void on_exited(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        const enum agent_owner owner = task->owner;
        const int status = (int)(m->field[1].number ? 128 + (m->field[1].number & 127) : m->field[0].number & 255);

        if (!task->is_process) {
                broken_guest(agent);
                return;
        }
        agent_client_forward(task, frame, size);
        agent_task_free(agent, task);
        if (owner == OWNER_MAIN)
                main_ended(agent, status);
}

static void on_data(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        const u64 stream = m->field[0].number, n = m->field[1].number;

        if (!task->is_process || stream < 1 || stream >= INIT_STREAMS || n > task->room[stream]) {
                broken_guest(agent);
                return;
        }
        task->room[stream] -= (u32)n;
        if (task->owner == OWNER_MAIN)
                agent_stdio_write(agent, (u32)stream, m->field[1].text, n);
        else if (task->owner == OWNER_CLIENT)
                agent_client_forward(task, frame, size);
        else
                agent_grant(agent, task, (u32)stream, (u32)n);
}

static void on_end(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (!task->is_process || m->field[0].number >= INIT_STREAMS) {
                broken_guest(agent);
                return;
        }
        if (m->field[0].number == 0)
                task->input_ended = true;
        agent_client_forward(task, frame, size);
}

static void on_room(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (!task->is_process || m->field[0].number != 0 || task->room[0] + m->field[1].number > INIT_ROOM_MAX) {
                broken_guest(agent);
                return;
        }
        task->room[0] += (u32)m->field[1].number;
        if (task->owner == OWNER_MAIN)
                agent_stdio_read(agent);
        else
                agent_client_forward(task, frame, size);
}

static void on_answer(struct agent *agent, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (task->is_process) {
                broken_guest(agent);
                return;
        }
        agent_client_forward(task, frame, size);
        if (m->type != INIT_PROCESS) /* more of them follow, then DONE */
                agent_task_free(agent, task);
}

static const struct {
        enum init_type type;
        bool has_task;
        guest_fn *run;
} guest_messages[] = {
        { INIT_HELLO, false, on_hello },
        { INIT_LOG, false, on_log },
        { INIT_DONE, true, on_done },
        { INIT_FAILED, true, on_failed },
        { INIT_STARTED, true, on_started },
        { INIT_EXITED, true, on_exited },
        { INIT_DATA, true, on_data },
        { INIT_END, true, on_end },
        { INIT_ROOM, true, on_room },
        { INIT_STATS, true, on_answer },
        { INIT_PROCESS, true, on_answer },
};

static void handle_frame(struct agent *agent, const u8 *frame, size_t size)
{
        struct agent_task *task;
        struct init_message m;
        int r = init_parse(frame, size, INIT_TO_HOST, &m);

        if (r == -EPROTONOSUPPORT)
                return;
        if (r < 0) {
                broken_guest(agent);
                return;
        }
        task = agent_task_find(agent, m.id);
        for (size_t i = 0; i < ARRAY_SIZE(guest_messages); i++)
                if (guest_messages[i].type == m.type && (task || !guest_messages[i].has_task))
                        guest_messages[i].run(agent, task, &m, frame, size);
}

/* Cuts what came into frames. */
static void receive_part(struct agent *agent, const u8 *data, size_t n)
{
        struct agent_saved *s = &agent->s;

        while (n && !agent->failed) {
                const size_t part = MIN(n, AGENT_FRAME_SPACE - s->n_in);
                size_t at = 0, size;
                int r;

                memcpy(s->in + s->n_in, data, part);
                s->n_in += part;
                data += part;
                n -= part;
                while ((r = init_frame_next(s->in + at, s->n_in - at, &size)) == 1 && !agent->failed) {
                        handle_frame(agent, s->in + at, size);
                        at += size;
                }
                if (r < 0)
                        broken_guest(agent);
                s->n_in -= at;
                memmove(s->in, s->in + at, s->n_in);
        }
}

/* ---- the connection ---- */

static bool on_connected(void *opaque, struct vsock_conn *conn)
{
        struct agent *agent = opaque;

        if (agent->conn)
                return false;
        agent->conn = conn;
        return true;
}

static void on_receive(void *opaque, const struct iovec *iov, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                receive_part(opaque, iov[i].iov_base, iov[i].iov_len);
}

static size_t on_fill(void *opaque, const struct iovec *iov, unsigned n)
{
        struct agent *agent = opaque;
        const bool was_full = agent_full(agent);
        struct byte_queue *out = &agent->s.out;
        size_t done = 0;

        for (unsigned i = 0; i < n && out->n; i++) {
                const size_t part = MIN(iov[i].iov_len, out->n);

                memcpy(iov[i].iov_base, byte_queue_data(out), part);
                byte_queue_drop(out, part);
                done += part;
        }
        if (was_full && !agent_full(agent)) {
                agent_script_go_on(agent, &agent->s.boot);
                agent_script_go_on(agent, &agent->replay);
                agent_clients_update(agent);
        }
        return done;
}

/* The guest has no strata-init any more, or resets the device on its way down: it ends by itself, or somebody ends it. */
static void on_closed(void *opaque)
{
        struct agent *agent = opaque;

        agent->conn = NULL;
        byte_queue_drop(&agent->s.out, agent->s.out.n);
        if (agent->s.phase == AGENT_ENDING) {
                agent->switched_off = true;
                agent_end_if_done(agent);
        }
}

static const struct vsock_local_ops local_ops = {
        .connected = on_connected,
        .receive = on_receive,
        .fill = on_fill,
        .closed = on_closed,
};

/* ---- signals ---- */

static void on_signals(void *opaque, int revents)
{
        struct agent *agent = opaque;
        eventfd_t ignored;
        u64 signals;

        eventfd_read(agent->signal_fd, &ignored);
        signals = __atomic_exchange_n(&agent->signals, 0, __ATOMIC_ACQUIRE); /* agent_signal's */
        while (signals) {
                const u32 sig = (u32)__builtin_ctzll(signals) + 1;

                signals &= signals - 1;
                if (sig == SIGWINCH) {
                        agent_stdio_resize(agent);
                } else if (agent->s.phase == AGENT_RUNNING && agent_main(agent)) {
                        agent_send_numbers(agent, INIT_SIGNAL, INIT_ID_MAIN, &sig, 1);
                } else if (agent->s.phase != AGENT_ENDING) {
                        agent->s.has_status = true;
                        agent->s.status = 128 + (int)sig;
                        stop(agent);
                }
        }
}

void agent_signal(struct agent *agent, int sig)
{
        if (sig < 1 || sig > 64)
                return;
        __atomic_fetch_or(&agent->signals, BIT(sig - 1), __ATOMIC_RELEASE); /* on_signals' */
        eventfd_write(agent->signal_fd, 1);
}

/* ---- life ---- */

int agent_new(const struct agent_config *config, struct agent **ret, struct err **err)
{
        struct agent *agent = calloc(1, sizeof(*agent));
        int r;

        if (!agent)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the agent");
        agent->ready_fd = -1;
        agent->signal_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        agent->replay.owner = OWNER_REPLAY;
        agent->local = (struct vsock_local){ .port = INIT_PORT, .ops = &local_ops, .opaque = agent };
        for (size_t i = 0; i < AGENT_CLIENTS_MAX; i++)
                agent->clients[i] = (struct agent_client){ .agent = agent, .fd = -1 };
        agent->s.in = malloc(AGENT_FRAME_SPACE);
        if (!agent->s.in || agent->signal_fd < 0)
                r = err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the agent");
        else if (config->ready_fd >= 0 && fcntl(config->ready_fd, F_SETFD, FD_CLOEXEC) < 0)
                r = err_sys(err, errno, "using descriptor %d for the agent's line", config->ready_fd);
        else
                r = agent_script_read(config->script, &agent->s.boot, err);
        if (r == 0)
                r = unix_listener_new(config->socket, 0, &agent->listener, err);
        if (r < 0) {
                agent_free(agent);
                return r;
        }
        agent_stdio_open(agent, config->streams);
        agent->ready_fd = config->ready_fd;
        *ret = agent;
        return 0;
}

struct agent *agent_free(struct agent *agent)
{
        if (!agent)
                return NULL;
        if (agent->loop) {
                loop_timer_cancel(&agent->end_timer);
                loop_timer_cancel(&agent->freeze_timer);
        }
        loop_fd_remove(agent->signal_watch);
        closep(&agent->signal_fd);
        agent_report(agent, "the machine ended before its process was started");
        agent_clients_free(agent);
        agent_stdio_free(agent);
        unix_listener_free(agent->listener);
        agent_script_clear(&agent->s.boot);
        agent_script_clear(&agent->replay);
        byte_queue_drop(&agent->s.out, agent->s.out.n);
        free(agent->s.in);
        free(agent);
        return NULL;
}

static void agent_destroy(struct device *dev)
{
        agent_free(container_of(dev, struct agent, dev));
}

static const struct device_ops agent_device_ops = {
        .name = "agent",
        .version = 2,
        .save = agent_save,
        .load = agent_load,
        .destroy = agent_destroy,
};

int agent_attach(struct agent *agent, struct device_env *env, const struct agent_events *events, struct err **err)
{
        int r;

        agent->env = env;
        agent->loop = env->loop;
        agent->events = *events;
        loop_timer_init(&agent->end_timer, agent->loop, on_end_timer, agent);
        loop_timer_init(&agent->freeze_timer, agent->loop, agent_on_freeze_timer, agent);
        agent->signal_watch = loop_fd_add(agent->loop, agent->signal_fd, POLLIN, on_signals, agent, err);
        if (!agent->signal_watch)
                return -ENOMEM;
        r = agent_clients_init(agent, err);
        if (r < 0)
                return r;
        agent->dev.ops = &agent_device_ops;
        env->add(env, &agent->dev);
        return 0;
}

struct unix_listener *agent_listener(struct agent *agent)
{
        return agent->listener;
}

const struct vsock_local *agent_local(const struct agent *agent)
{
        return &agent->local;
}

void agent_not_started(struct agent *agent, const char *why)
{
        agent_report(agent, why);
}

void agent_finish(struct agent *agent)
{
        agent_stdio_finish(agent);
}

bool agent_exit_status(const struct agent *agent, int *ret)
{
        if (agent->s.has_status)
                *ret = agent->s.status;
        return agent->s.has_status;
}

/* The agent's clients: programs of the host that start processes in the machine and ask about it. */
#include "agent_internal.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- life ---- */

static void close_client(struct agent_client *c)
{
        struct agent *agent = c->agent;

        if (c->fd < 0)
                return;
        c->watch = loop_fd_remove(c->watch);
        close(c->fd);
        c->fd = -1;
        free(c->in);
        c->in = NULL;
        c->n_in = 0;
        byte_queue_drop(&c->out, c->out.n);
        for (size_t i = 0; i < AGENT_TASKS_MAX; i++)
                if (agent->s.tasks[i].owner == OWNER_CLIENT && agent->s.tasks[i].client == c)
                        agent_task_abandon(agent, &agent->s.tasks[i]);
        agent_clients_update(agent);
}

static void update(struct agent_client *c)
{
        const struct agent *agent = c->agent;
        const bool may_ask = agent_serves_clients(agent);

        if (c->watch)
                loop_fd_set_events(c->watch, (may_ask ? POLLIN : 0) | (c->out.n ? POLLOUT : 0));
}

/* ---- to the client ---- */

static void flush(struct agent_client *c)
{
        while (c->out.n) {
                const ssize_t n = send(c->fd, byte_queue_data(&c->out), c->out.n, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        break;
                if (n <= 0) {
                        close_client(c);
                        return;
                }
                byte_queue_drop(&c->out, (size_t)n);
        }
        update(c);
}

void agent_client_forward(struct agent_task *task, const u8 *frame, size_t size)
{
        struct agent_client *c = task->client;
        size_t at;

        if (task->owner != OWNER_CLIENT)
                return;
        at = c->out.n;
        if (at + size > AGENT_CLIENT_OUT_MAX || !byte_queue_add(&c->out, frame, size)) {
                close_client(c); /* it does not read */
                return;
        }
        memcpy(byte_queue_data(&c->out) + at + offsetof(struct init_header, id), &task->client_id, sizeof(task->client_id));
        if (!at)
                flush(c);
}

/* ---- from the client: each says whether the client may stay ---- */

typedef bool client_fn(struct agent_client *c, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size);

static struct agent_task *find_task(const struct agent_client *c, u32 client_id)
{
        for (size_t i = 0; i < AGENT_TASKS_MAX; i++) {
                struct agent_task *task = &c->agent->s.tasks[i];

                if (task->owner == OWNER_CLIENT && task->client == c && task->client_id == client_id)
                        return task;
        }
        return NULL;
}

/* There is no room for more: FAILED as if the guest had said it. */
static bool refuse(struct agent_client *c, u32 client_id)
{
        struct agent_task answer = { .owner = OWNER_CLIENT, .client = c, .client_id = client_id };
        struct init_frame frame;
        u8 buffer[128];
        size_t size;

        init_frame_begin(&frame, buffer, sizeof(buffer), INIT_FAILED, client_id);
        init_put_u32(&frame, EAGAIN);
        init_put_text(&frame, "asking the machine, which has too much to do");
        init_put_u32(&frame, 0);
        if (init_frame_end(&frame, &size) == 0)
                agent_client_forward(&answer, buffer, size);
        return c->fd >= 0;
}

static bool on_request(struct agent_client *c, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (task)
                return false; /* the number is in use */
        task = c->n_tasks < AGENT_CLIENT_TASKS_MAX ? agent_task_new(c->agent, OWNER_CLIENT) : NULL;
        if (!task)
                return refuse(c, m->id);
        task->client = c;
        task->client_id = m->id;
        c->n_tasks++;
        if (m->type == INIT_START) {
                task->is_process = true;
                task->input_ended = !(m->field[START_FLAGS].number & INIT_START_STDIN);
                for (unsigned i = 0; i < INIT_STREAMS; i++)
                        task->room[i] = INIT_ROOM_FIRST;
        }
        agent_send(c->agent, frame, size, task->id);
        return true;
}

static bool on_notice(struct agent_client *c, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (task && task->is_process) /* it may have ended meanwhile */
                agent_send(c->agent, frame, size, task->id);
        return true;
}

static bool on_data(struct agent_client *c, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (!task || task->input_ended)
                return true;
        if (m->field[0].number != 0 || m->field[1].number > task->room[0])
                return false;
        task->room[0] -= (u32)m->field[1].number;
        agent_send(c->agent, frame, size, task->id);
        return true;
}

static bool on_end(struct agent_client *c, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        if (!task || task->input_ended || m->field[0].number != 0)
                return true;
        task->input_ended = true;
        agent_send(c->agent, frame, size, task->id);
        return true;
}

static bool on_room(struct agent_client *c, struct agent_task *task, const struct init_message *m, const u8 *frame, size_t size)
{
        const u64 stream = m->field[0].number;

        if (!task)
                return true;
        if (stream < 1 || stream >= INIT_STREAMS || task->room[stream] + m->field[1].number > INIT_ROOM_MAX)
                return false;
        task->room[stream] += (u32)m->field[1].number;
        agent_send(c->agent, frame, size, task->id);
        return true;
}

/* What clients may say; all else ends their connection. */
static const struct {
        enum init_type type;
        client_fn *run;
} client_messages[] = {
        { INIT_START, on_request },
        { INIT_ASK_STATS, on_request },
        { INIT_ASK_PROCESSES, on_request },
        { INIT_SYSTEM, on_request },
        { INIT_MOUNT, on_request },
        { INIT_FILE, on_request },
        { INIT_LINK, on_request },
        { INIT_SYSCTL, on_request },
        { INIT_ADDRESS, on_request },
        { INIT_SIGNAL, on_notice },
        { INIT_RESIZE, on_notice },
        { INIT_DATA, on_data },
        { INIT_END, on_end },
        { INIT_ROOM, on_room },
};

static bool handle_frame(struct agent_client *c, const u8 *frame, size_t size)
{
        struct init_message m;
        int r = init_parse(frame, size, INIT_TO_GUEST, &m);

        for (size_t i = 0; i < ARRAY_SIZE(client_messages) && r == 0; i++)
                if (client_messages[i].type == m.type)
                        return client_messages[i].run(c, find_task(c, m.id), &m, frame, size);
        return r == -EPROTONOSUPPORT;
}

/* As many of the frames that came as can go on. */
static void handle_frames(struct agent_client *c)
{
        size_t at = 0, size;
        int r = 0;

        if (c->handling)
                return; /* the guest took something meanwhile; we go on below */
        c->handling = true;
        while (c->fd >= 0 && agent_serves_clients(c->agent) && (r = init_frame_next(c->in + at, c->n_in - at, &size)) == 1) {
                if (!handle_frame(c, c->in + at, size))
                        r = -EBADMSG;
                if (r < 0)
                        break;
                at += size;
        }
        c->handling = false;
        if (c->fd < 0)
                return;
        if (r < 0) {
                close_client(c);
                return;
        }
        c->n_in -= at;
        memmove(c->in, c->in + at, c->n_in);
}

static void on_client(void *opaque, int revents)
{
        struct agent_client *c = opaque;
        ssize_t n;

        if (revents & POLLOUT)
                flush(c);
        if (c->fd < 0 || !(revents & (POLLIN | POLLERR | POLLHUP)))
                return;
        if (c->n_in < AGENT_FRAME_SPACE) {
                n = recv(c->fd, c->in + c->n_in, AGENT_FRAME_SPACE - c->n_in, MSG_DONTWAIT);
                if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
                        close_client(c);
                        return;
                }
                c->n_in += n > 0 ? (size_t)n : 0;
        }
        handle_frames(c);
        update(c);
}

/* ---- the listener ---- */

static struct agent_client *free_client(struct agent *agent)
{
        for (size_t i = 0; i < AGENT_CLIENTS_MAX; i++)
                if (agent->clients[i].fd < 0)
                        return &agent->clients[i];
        return NULL;
}

static void on_listener(void *opaque, int revents)
{
        struct agent *agent = opaque;
        struct agent_client *c = free_client(agent);
        const int fd = c ? accept4(agent->listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;

        if (fd < 0)
                return;
        c->fd = fd;
        c->n_tasks = 0;
        c->in = malloc(AGENT_FRAME_SPACE);
        c->watch = c->in ? loop_fd_add(agent->loop, fd, 0, on_client, c, NULL) : NULL;
        if (!c->watch)
                close_client(c);
        agent_clients_update(agent);
}

void agent_clients_update(struct agent *agent)
{
        for (size_t i = 0; i < AGENT_CLIENTS_MAX; i++) {
                struct agent_client *c = &agent->clients[i];

                if (c->fd >= 0 && c->n_in && agent->s.phase == AGENT_RUNNING)
                        handle_frames(c);
                if (c->fd >= 0)
                        update(c);
        }
        if (agent->listen_watch)
                loop_fd_set_events(agent->listen_watch, free_client(agent) ? POLLIN : 0);
}

int agent_clients_init(struct agent *agent, struct err **err)
{
        agent->listen_watch = loop_fd_add(agent->loop, agent->listener->fd, POLLIN, on_listener, agent, err);
        return agent->listen_watch ? 0 : -ENOMEM;
}

void agent_clients_free(struct agent *agent)
{
        agent->listen_watch = loop_fd_remove(agent->listen_watch);
        for (size_t i = 0; i < AGENT_CLIENTS_MAX; i++)
                close_client(&agent->clients[i]);
}

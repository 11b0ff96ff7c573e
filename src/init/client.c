#include "init/client_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/unix_listener.h"

/* Of what the guest says about a failure; it may be anything. */
#define WHAT_MAX 512U
/* Processes that are listed, and the bytes of their texts. */
#define PROCESSES_MAX 32768U
#define PROCESS_TEXTS_MAX (16U * 1024 * 1024)
/* A full queue of connections empties soon. */
#define CONNECT_TRIES 200
#define CONNECT_PAUSE_US 5000

/* ---- life ---- */

int init_client_connect(const char *path, struct init_client **ret, struct err **err)
{
        struct init_client *client;
        int fd = unix_connect(path);

        for (int i = 0; fd == -EAGAIN && i < CONNECT_TRIES; i++) {
                usleep(CONNECT_PAUSE_US);
                fd = unix_connect(path);
        }
        if (fd == -ENOENT || fd == -ECONNREFUSED)
                return err_set(err, ERR_BUSY, ESRCH, "the machine is not running");
        if (fd < 0)
                return err_sys(err, -fd, "connecting to the machine at '%s'", path);
        client = calloc(1, sizeof(*client));
        if (!client) {
                close(fd);
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a connection to a machine");
        }
        client->fd = fd;
        *ret = client;
        return 0;
}

void init_client_set_timeout(struct init_client *client, u64 ms)
{
        client->timeout_ms = ms;
}

struct init_client *init_client_free(struct init_client *client)
{
        if (!client)
                return NULL;
        close(client->fd);
        free(client->infos);
        free(client->info_frames);
        free(client);
        return NULL;
}

/* ---- sending ---- */

void client_begin(struct init_client *client, struct init_frame *frame, enum init_type type, u32 id)
{
        init_frame_begin(frame, client->out, sizeof(client->out), type, id);
}

static int gone(struct err **err)
{
        return err_set(err, ERR_IO, ECONNRESET, "the machine has ended, or broke off the connection");
}

static int send_all(struct init_client *client, const u8 *data, size_t n, struct err **err)
{
        while (n) {
                struct pollfd p = { .fd = client->fd, .events = POLLOUT };
                const ssize_t done = send(client->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (done > 0) {
                        data += done;
                        n -= (size_t)done;
                } else if (errno == EAGAIN) {
                        poll(&p, 1, -1);
                } else if (errno != EINTR) {
                        return gone(err);
                }
        }
        return 0;
}

int client_send(struct init_client *client, struct init_frame *frame, struct err **err)
{
        size_t size;

        if (init_frame_end(frame, &size) < 0)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "a request is larger than a machine can be told");
        return send_all(client, client->out, size, err);
}

/* ---- receiving ---- */

static int broken(struct err **err)
{
        return err_set(err, ERR_IO, EPROTO, "the machine does not keep to the protocol");
}

/* Bytes that the process wrote. */
static bool take_output(struct init_client *client, const struct init_message *m)
{
        const u64 stream = m->field[0].number, n = m->field[1].number;
        struct output *out;
        u32 end, before_wrap;

        if (stream < 1 || stream > 2)
                return false;
        out = &client->outputs[stream - 1];
        if (out->ended || n > sizeof(out->data) - out->n - out->owed)
                return false; /* more than it was given room for */
        end = (out->first + out->n) % (u32)sizeof(out->data);
        before_wrap = MIN((u32)n, (u32)sizeof(out->data) - end);
        memcpy(out->data + end, m->field[1].text, before_wrap);
        memcpy(out->data, m->field[1].text + before_wrap, n - before_wrap);
        out->n += (u32)n;
        return true;
}

static bool take_end(struct init_client *client, const struct init_message *m)
{
        const u64 stream = m->field[0].number;

        if (stream == 0)
                client->room = 0; /* it reads no more */
        else if (stream <= 2)
                client->outputs[stream - 1].ended = true;
        return stream <= 2;
}

static bool take_room(struct init_client *client, const struct init_message *m)
{
        if (m->field[0].number != 0 || client->room + m->field[1].number > INIT_ROOM_MAX)
                return false;
        client->room += (u32)m->field[1].number;
        return true;
}

static bool take_exit(struct init_client *client, const struct init_message *m)
{
        client->exited = true;
        client->status = (int)(m->field[1].number ? 128 + (m->field[1].number & 127) : m->field[0].number & 255);
        return true;
}

static const struct {
        enum init_type type;
        bool (*take)(struct init_client *client, const struct init_message *m); /* false: the guest lies */
} process_messages[] = {
        { INIT_DATA, take_output },
        { INIT_END, take_end },
        { INIT_ROOM, take_room },
        { INIT_EXITED, take_exit },
};

/* 1: it was one about the process; 0: another. */
static int take_process_message(struct init_client *client, const struct init_message *m, struct err **err)
{
        for (size_t i = 0; i < ARRAY_SIZE(process_messages); i++) {
                if (process_messages[i].type != m->type)
                        continue;
                /* The end of an earlier process's streams may come late. */
                if (m->id != client->process || client->exited || process_messages[i].take(client, m))
                        return 1;
                return broken(err);
        }
        return 0;
}

int client_next(struct init_client *client, struct init_message *ret, struct err **err)
{
        size_t size;
        int r;

        for (;;) {
                client->n_in -= client->used;
                memmove(client->in, client->in + client->used, client->n_in);
                client->used = 0;
                r = init_frame_next(client->in, client->n_in, &size);
                if (r <= 0)
                        return r < 0 ? broken(err) : 0;
                client->used = size;
                r = init_parse(client->in, size, INIT_TO_HOST, ret);
                if (r == -EPROTONOSUPPORT)
                        continue;
                if (r < 0)
                        return broken(err);
                r = take_process_message(client, ret, err);
                if (r <= 0)
                        return r < 0 ? r : 1;
        }
}

int client_fill(struct init_client *client, int timeout_ms, struct err **err)
{
        struct pollfd p = { .fd = client->fd, .events = POLLIN };
        ssize_t n;

        n = poll(&p, 1, timeout_ms);
        if (n < 0 && errno != EINTR)
                return err_sys(err, errno, "waiting for the machine");
        if (n == 0)
                return -ETIMEDOUT;
        n = recv(client->fd, client->in + client->n_in, sizeof(client->in) - client->n_in, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0)
                return gone(err);
        client->n_in += (size_t)n;
        return 0;
}

/* ---- questions and answers ---- */

int client_failure(const struct init_message *m, struct err **err)
{
        const u64 number = m->field[0].number;
        const int errnum = number >= 1 && number <= 4095 ? (int)number : EIO;
        char what[WHAT_MAX];
        size_t n = MIN(m->field[1].number, sizeof(what) - 1);
        enum err_id id = ERR_IO;

        for (size_t i = 0; i < n; i++) {
                const char c = m->field[1].text[i];

                what[i] = (unsigned char)c < ' ' || c == 127 ? '?' : c;
        }
        what[n] = '\0';
        if (m->field[2].number)
                id = errnum == ENOENT || errnum == ENOTDIR ? ERR_NO_COMMAND : ERR_NOT_EXECUTABLE;
        return err_set(err, id, errnum, "%s: %s", what, strerror(errnum));
}

/* The next message with this id, which is one of those that answer: FAILED is an error. */
static int await(struct init_client *client, u32 id, struct init_message *ret, struct err **err)
{
        const u64 deadline = clock_now_ns() + client->timeout_ms * 1000000;

        for (;;) {
                int left = -1, r;

                while ((r = client_next(client, ret, err)) > 0) {
                        if (ret->id != id)
                                continue;
                        return ret->type == INIT_FAILED ? client_failure(ret, err) : 0;
                }
                if (r < 0)
                        return r;
                if (client->timeout_ms) {
                        const u64 now = clock_now_ns();

                        left = now < deadline ? (int)MIN((deadline - now) / 1000000 + 1, (u64)INT32_MAX) : 0;
                }
                r = client_fill(client, left, err);
                if (r == -ETIMEDOUT)
                        return err_set(err, ERR_IO, ETIMEDOUT, "the machine did not answer in time");
                if (r < 0)
                        return r;
        }
}

static int await_type(struct init_client *client, u32 id, enum init_type type, struct init_message *ret, struct err **err)
{
        int r = await(client, id, ret, err);

        return r < 0 ? r : ret->type == type ? 0 : broken(err);
}

/* Sends a message without fields and waits for its answer. */
static int ask(struct init_client *client, enum init_type type, u32 *ret_id, struct err **err)
{
        struct init_frame frame;

        *ret_id = ++client->last_id;
        client_begin(client, &frame, type, *ret_id);
        return client_send(client, &frame, err);
}

int init_client_start(struct init_client *client, const struct init_process *process, u32 *ret_pid, struct err **err)
{
        const u32 id = ++client->last_id;
        struct init_message m;
        size_t size;
        int r;

        if (client->process && !client->exited)
                return err_set(err, ERR_INTERNAL, EBUSY, "a connection to a machine has one process at a time");
        r = init_start_frame(client->out, id, process, &size);
        if (r == -EINVAL)
                return err_set(err, ERR_USAGE, EINVAL, "there is no command");
        if (r < 0)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "arguments and environment are larger than a machine can be told");
        client->process = id;
        client->exited = false;
        client->room = process->flags & INIT_START_STDIN ? INIT_ROOM_FIRST : 0;
        for (size_t i = 0; i < ARRAY_SIZE(client->outputs); i++)
                client->outputs[i].first = client->outputs[i].n = client->outputs[i].owed = client->outputs[i].ended = 0;
        r = send_all(client, client->out, size, err);
        if (r == 0)
                r = await_type(client, id, INIT_STARTED, &m, err);
        if (r < 0) {
                client->process = 0;
                return r;
        }
        *ret_pid = (u32)m.field[0].number;
        return 0;
}

int init_client_signal(struct init_client *client, int sig, struct err **err)
{
        struct init_frame frame;

        client_begin(client, &frame, INIT_SIGNAL, client->process);
        init_put_u32(&frame, (u32)sig);
        return client_send(client, &frame, err);
}

int init_client_resize(struct init_client *client, u16 columns, u16 rows, struct err **err)
{
        struct init_frame frame;

        client_begin(client, &frame, INIT_RESIZE, client->process);
        init_put_u32(&frame, columns);
        init_put_u32(&frame, rows);
        return client_send(client, &frame, err);
}

int init_client_stats(struct init_client *client, struct init_stats *ret, struct err **err)
{
        struct init_message m;
        u32 id;
        int r;

        r = ask(client, INIT_ASK_STATS, &id, err);
        if (r == 0)
                r = await_type(client, id, INIT_STATS, &m, err);
        if (r < 0)
                return r;
        *ret = (struct init_stats){ m.field[0].number, m.field[1].number, m.field[2].number, m.field[3].number,
                (u32)m.field[4].number };
        return 0;
}

int init_client_run(struct init_client *client, const struct init_script *script, struct err **err)
{
        const u32 base = client->last_id;
        struct init_message m;
        size_t at = 0, size;
        int r = 0;

        client->last_id += script->last_id;
        while (r == 0 && init_frame_next(script->data + at, script->len - at, &size) == 1) {
                struct init_message request;
                u32 id;

                if (size > sizeof(client->out) || init_parse(script->data + at, size, INIT_TO_GUEST, &request) < 0)
                        return err_set(err, ERR_INTERNAL, EINVAL, "a request for a machine is malformed");
                id = base + request.id;
                memcpy(client->out, script->data + at, size);
                memcpy(client->out + offsetof(struct init_header, id), &id, sizeof(id));
                r = send_all(client, client->out, size, err);
                if (r == 0)
                        r = await_type(client, id, INIT_DONE, &m, err);
                at += size;
        }
        return r;
}

/* ---- the list of processes ---- */

/* The frames are kept one behind the other; what is returned points into them. */
struct listing {
        u8 *frames;
        size_t len, cap, n;
};

static int listing_add(struct listing *list, const u8 *frame, size_t size, struct err **err)
{
        if (list->len + size > list->cap) {
                const size_t cap = list->cap * 2 + size + 4096;
                u8 *frames = cap <= PROCESS_TEXTS_MAX && list->n < PROCESSES_MAX ? realloc(list->frames, cap) : NULL;

                if (!frames)
                        return err_set(err, ERR_TOO_LARGE, E2BIG, "the machine says that it has more processes than can be listed");
                list->frames = frames;
                list->cap = cap;
        }
        memcpy(list->frames + list->len, frame, size);
        list->len += size;
        list->n++;
        return 0;
}

static int listing_read(struct init_client *client, struct listing *list, struct err **err)
{
        struct init_message m;
        u32 id;
        int r;

        r = ask(client, INIT_ASK_PROCESSES, &id, err);
        while (r == 0) {
                r = await(client, id, &m, err);
                if (r < 0 || m.type == INIT_DONE)
                        break;
                r = m.type == INIT_PROCESS ? listing_add(list, client->in, client->used, err) : broken(err);
        }
        return r;
}

static void listing_fill(const struct listing *list, struct init_process_info *infos)
{
        const u8 *at = list->frames;

        for (size_t i = 0; i < list->n; i++) {
                struct init_message m;
                size_t size = 0;

                if (init_frame_next(at, list->len - (size_t)(at - list->frames), &size) != 1 || init_parse(at, size, INIT_TO_HOST, &m) < 0)
                        return; /* it was parsed before */
                infos[i] = (struct init_process_info){
                        .pid = (u32)m.field[0].number,
                        .ppid = (u32)m.field[1].number,
                        .uid = (u32)m.field[2].number,
                        .started_ns = m.field[3].number,
                        .cpu_ns = m.field[4].number,
                        .tty = m.field[5].text,
                        .command = m.field[6].text,
                };
                at += size;
        }
}

int init_client_processes(struct init_client *client, const struct init_process_info **ret, size_t *ret_n, struct err **err)
{
        struct listing list = { 0 };
        struct init_process_info *infos;
        int r;

        r = listing_read(client, &list, err);
        infos = r < 0 ? NULL : calloc(list.n + 1, sizeof(*infos));
        if (!infos) {
                free(list.frames);
                return r < 0 ? r : err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a list of processes");
        }
        listing_fill(&list, infos);
        free(client->infos);
        free(client->info_frames);
        client->infos = infos;
        client->info_frames = list.frames;
        *ret = infos;
        *ret_n = list.n;
        return 0;
}

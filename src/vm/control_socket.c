#include "control_socket.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd_pass.h"
#include "control_job.h"
#include "dev/virtio/balloon.h"
#include "internal.h"
#include "options.h"

#define CLIENTS_MAX 8U
#define LINE_MAX_BYTES 512U
#define ANSWER_MAX 1024
/* How long a guest may take for its statistics. */
#define STATS_NS (NSEC_PER_SEC / 2)

struct client {
        struct control_socket *socket;
        int fd; /* -1: free */
        struct loop_fd *watch;
        char line[LINE_MAX_BYTES];
        size_t n_line;
        int files[CONTROL_FILES_MAX]; /* that came with the line */
        unsigned n_files;
        bool wants_balloon; /* an answer is owed when the guest's statistics are there */
        bool wants_job;     /* likewise, when the job has ended */
        bool holds;         /* the machine stands still as long as it is there */
        bool ended;         /* it will ask nothing more */
};

struct control_socket {
        struct vm *vm;
        struct unix_listener *listener;
        struct loop_fd *watch;
        struct client clients[CLIENTS_MAX];
        struct loop_timer stats_timeout;
        struct control_job *job;
        struct client *job_client; /* who asked for it, if still there */
        bool freezing;             /* the guest's processes are being stopped, for a hold */
        bool let_go;               /* who held the machine is gone: it is to go on */
};

static void update_listener(struct control_socket *s);
static void let_go(struct control_socket *s);

static bool is_owed(const struct client *c)
{
        return c->wants_balloon || c->wants_job;
}

static void close_files(struct client *c)
{
        while (c->n_files)
                close(c->files[--c->n_files]);
}

static void client_close(struct client *c)
{
        if (c->fd < 0)
                return;
        close_files(c);
        if (c->socket->job_client == c)
                c->socket->job_client = NULL;
        if (c->holds)
                let_go(c->socket);
        c->watch = loop_fd_remove(c->watch);
        close(TAKE_FD(c->fd)); /* on the loop's thread, so the loop has forgotten it */
        c->n_line = 0;
        c->wants_balloon = c->wants_job = c->holds = c->ended = false;
        update_listener(c->socket);
}

/* Answers are short: who does not read them is dropped. */
static void _printf_(2, 3) reply(struct client *c, const char *fmt, ...)
{
        char text[ANSWER_MAX];
        va_list ap;
        int n;

        va_start(ap, fmt);
        n = vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        n = MIN(n, (int)sizeof(text) - 1);
        text[n - 1] = '\n'; /* also of one that was cut off */
        if (c->fd >= 0 && send(c->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
                client_close(c);
}

/* ---- the balloon ---- */

static void reply_balloon(struct client *c)
{
        static const char *const names[] = {
#define BALLOON_STAT(id, tag, name) [tag] = name,
                BALLOON_STATS_TABLE
#undef BALLOON_STAT
        };
        struct balloon_info info;

        virtio_balloon_info(c->socket->vm->board.balloon, &info);
        reply(c, "target %lu\nactual %lu\n", info.target, info.actual);
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (info.stats_known & BIT(i))
                        reply(c, "%s %lu\n", names[i], info.stats[i]);
        reply(c, "ok\n");
        c->wants_balloon = false;
}

static void on_balloon_stats(void *opaque)
{
        struct control_socket *s = opaque;

        loop_timer_cancel(&s->stats_timeout);
        for (size_t i = 0; i < CLIENTS_MAX; i++) {
                struct client *c = &s->clients[i];

                if (!c->wants_balloon)
                        continue;
                reply_balloon(c);
                if (c->ended)
                        client_close(c);
        }
}

static void do_balloon(struct client *c, const char *argument)
{
        struct control_socket *s = c->socket;
        struct virtio_balloon *balloon = s->vm->board.balloon;
        u64 bytes = 0;

        if (!balloon) {
                reply(c, "error: the machine has no balloon (--balloon)\n");
        } else if (!*argument) {
                c->wants_balloon = true;
                if (!virtio_balloon_ask(balloon, on_balloon_stats, s) && !s->stats_timeout.armed)
                        on_balloon_stats(s);
                else if (!s->stats_timeout.armed)
                        loop_timer_set(&s->stats_timeout, clock_now_ns() + STATS_NS);
        } else if (options_parse_size(argument, MIB, &bytes) < 0 || bytes > s->vm->memory->ram_size) {
                reply(c, "error: '%.64s' is not an amount of memory that the machine has\n", argument);
        } else {
                virtio_balloon_set_target(balloon, bytes);
                reply(c, "ok\n");
        }
}

/* ---- what takes long: in a thread, one at a time ---- */

static void do_lines(struct client *c);

/* Descriptors go with the line that tells how many there are. */
static void reply_layers(struct client *c, const int *fds, unsigned n)
{
        char text[32];
        const int len = snprintf(text, sizeof(text), "layers %u\n", n);

        if (c->fd >= 0 && fds_send(c->fd, text, (size_t)len, fds, n, MSG_DONTWAIT) < 0)
                client_close(c);
}

static void on_job_done(void *opaque)
{
        struct control_socket *s = opaque;
        struct client *c = s->job_client;
        _cleanup_(err_freep) struct err *error = NULL;
        const int *layers;
        unsigned n_layers;
        const int r = control_job_end(s->job, &layers, &n_layers, &error);

        s->job_client = NULL;
        if (s->let_go)
                let_go(s);
        else if (vm_agent(s->vm) && !control_job_is_paused(s->job))
                agent_thaw(vm_agent(s->vm));
        if (!c)
                return;
        c->wants_job = false;
        if (r == 0 && layers)
                reply_layers(c, layers, n_layers);
        if (r == 0)
                reply(c, "ok\n");
        else if (err_get_hint(error))
                reply(c, "error: %s (%s)\n", err_message(error), err_get_hint(error));
        else
                reply(c, "error: %s\n", err_message(error));
        do_lines(c);
        if (c->fd >= 0 && c->ended && !is_owed(c))
                client_close(c);
}

/* At once, or when the job that runs is done. */
static void let_go(struct control_socket *s)
{
        const struct control_job_request resume = { .kind = CONTROL_RESUME };

        if (!s->freezing)
                s->let_go = control_job_start(s->job, &resume, NULL) == -EBUSY;
}

static void start_job(struct client *c, enum control_job_kind kind, const char *path)
{
        struct control_socket *s = c->socket;
        const struct control_job_request request = { .kind = kind, .path = path, .files = c->files, .n_files = c->n_files };
        _cleanup_(err_freep) struct err *error = NULL;

        if (s->freezing ? err_set(&error, ERR_BUSY, EBUSY, "another request is not done yet") : control_job_start(s->job, &request, &error)) {
                reply(c, "error: %s\n", err_message(error));
                return;
        }
        c->n_files = 0;
        c->wants_job = true;
        s->job_client = c;
}

static void do_pause(struct client *c, const char *argument)
{
        (void)argument;
        start_job(c, CONTROL_PAUSE, NULL);
}

/* The guest's processes stand still, so that those of a snapshot do not go on before they have been told who they are. Now all of it. */
static void on_frozen(void *opaque, const char *error)
{
        struct control_socket *s = opaque;
        struct client *c = s->job_client;

        s->freezing = false;
        s->job_client = NULL;
        if (!c) {
                agent_thaw(vm_agent(s->vm));
                return;
        }
        c->wants_job = false;
        if (error)
                reply(c, "error: %s\n", error);
        else
                start_job(c, CONTROL_PAUSE, NULL);
        c->holds = c->wants_job;
        if (!error && !c->wants_job)
                agent_thaw(vm_agent(s->vm));
        if (!c->wants_job)
                do_lines(c);
        if (c->fd >= 0 && c->ended && !is_owed(c))
                client_close(c);
}

static void do_hold(struct client *c, const char *argument)
{
        struct control_socket *s = c->socket;
        int r = -EOPNOTSUPP;

        (void)argument;
        if (vm_agent(s->vm) && !s->job_client && !control_job_is_paused(s->job))
                r = agent_freeze(vm_agent(s->vm), on_frozen, s);
        if (r == -EBUSY) {
                reply(c, "error: the machine is being told something: try again\n");
        } else if (r < 0) {
                start_job(c, CONTROL_PAUSE, NULL);
                c->holds = c->wants_job;
        } else {
                s->freezing = c->wants_job = true;
                s->job_client = c;
        }
}

static void do_resume(struct client *c, const char *argument)
{
        (void)argument;
        c->holds = false;
        start_job(c, CONTROL_RESUME, NULL);
}

static void do_snapshot(struct client *c, const char *argument)
{
        start_job(c, CONTROL_SNAPSHOT, argument);
}

static void do_snapshot_diff(struct client *c, const char *argument)
{
        start_job(c, CONTROL_SNAPSHOT_DIFF, argument);
}

/* ---- requests ---- */

static void do_help(struct client *c, const char *argument);

static const struct request {
        const char *name;
        void (*run)(struct client *c, const char *argument);
        const char *help;
} requests[] = {
        { "balloon", do_balloon, "balloon [SIZE]: what the balloon and the guest's memory are, or sets the balloon's size" },
        { "help", do_help, "help: this" },
        { "hold", do_hold, "hold: the guest stands still until resume or until this connection ends" },
        { "pause", do_pause, "pause: the guest stands still until resume" },
        { "resume", do_resume, "resume: it goes on" },
        { "snapshot", do_snapshot, "snapshot DIR: saves the machine in that directory (-: in two files that come with the line, and translations in a third)" },
        { "snapshot-diff", do_snapshot_diff, "snapshot-diff DIR: likewise, what changed since the last snapshot" },
};

static void do_help(struct client *c, const char *argument)
{
        (void)argument;
        for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
                reply(c, "%s\n", requests[i].help);
        reply(c, "ok\n");
}

static void do_line(struct client *c, char *line)
{
        char *argument = strchr(line, ' ');

        if (argument)
                *argument++ = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
                if (strcmp(requests[i].name, line) == 0) {
                        requests[i].run(c, argument ? argument : "");
                        return;
                }
        reply(c, "error: unknown request '%.64s'; help lists them\n", line);
}

static void do_lines(struct client *c)
{
        char line[LINE_MAX_BYTES], *end;

        /* One request at a time: what comes behind one that waits for the guest stays. */
        while (c->fd >= 0 && !is_owed(c) && (end = memchr(c->line, '\n', c->n_line))) {
                const size_t n = (size_t)(end - c->line);

                memcpy(line, c->line, n);
                line[n] = '\0';
                c->n_line -= n + 1;
                memmove(c->line, end + 1, c->n_line);
                do_line(c, line);
                if (c->fd >= 0)
                        close_files(c);
        }
}

static void on_client(void *opaque, int revents)
{
        struct client *c = opaque;
        ssize_t n;

        (void)revents;
        if (c->n_line == sizeof(c->line)) {
                do_lines(c);
                if (c->n_line == sizeof(c->line)) {
                        reply(c, "error: the line is too long\n");
                        client_close(c);
                }
                return;
        }
        /* Descriptors that come along are kept until the line has been done. */
        n = fds_receive(c->fd, c->line + c->n_line, sizeof(c->line) - c->n_line, c->files, &c->n_files, CONTROL_FILES_MAX, MSG_DONTWAIT);
        if (n == -EAGAIN || n == -EINTR)
                return;
        if (n <= 0) {
                /* It asked and closed its writing half: it still gets its answer. */
                c->ended = n == 0 && is_owed(c);
                if (c->ended)
                        loop_fd_set_events(c->watch, 0);
                else
                        client_close(c);
                return;
        }
        c->n_line += (size_t)n;
        do_lines(c);
}

static void on_stats_timeout(void *opaque)
{
        on_balloon_stats(opaque);
}

/* ---- life ---- */

static struct client *free_client(struct control_socket *s)
{
        for (size_t i = 0; i < CLIENTS_MAX; i++)
                if (s->clients[i].fd < 0)
                        return &s->clients[i];
        return NULL;
}

static void update_listener(struct control_socket *s)
{
        if (s->watch)
                loop_fd_set_events(s->watch, free_client(s) ? POLLIN : 0);
}

static void on_listener(void *opaque, int revents)
{
        struct control_socket *s = opaque;
        struct client *c = free_client(s);
        int fd;

        (void)revents;
        fd = accept4(s->listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
                return;
        c->fd = fd;
        c->watch = loop_fd_add(s->vm->loop, fd, POLLIN, on_client, c, NULL);
        if (!c->watch)
                client_close(c);
        update_listener(s);
}

int control_socket_new(struct vm *vm, struct unix_listener *listener, struct control_socket **ret, struct err **err)
{
        struct control_socket *s = calloc(1, sizeof(*s));

        if (s)
                s->job = control_job_new(vm, on_job_done, s);
        if (!s || !s->job) {
                free(s);
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the control socket");
        }
        s->vm = vm;
        for (size_t i = 0; i < CLIENTS_MAX; i++)
                s->clients[i] = (struct client){ .socket = s, .fd = -1 };
        loop_timer_init(&s->stats_timeout, vm->loop, on_stats_timeout, s);
        s->watch = loop_fd_add(vm->loop, listener->fd, POLLIN, on_listener, s, err);
        if (!s->watch) {
                control_job_free(s->job);
                free(s);
                return -ENOMEM;
        }
        s->listener = listener;
        *ret = s;
        return 0;
}

struct control_socket *control_socket_free(struct control_socket *s)
{
        if (!s)
                return NULL;
        s->watch = loop_fd_remove(s->watch);
        loop_timer_cancel(&s->stats_timeout);
        for (size_t i = 0; i < CLIENTS_MAX; i++)
                s->clients[i].holds = false; /* it does not go on any more */
        for (size_t i = 0; i < CLIENTS_MAX; i++)
                client_close(&s->clients[i]);
        unix_listener_free(s->listener);
        control_job_free(s->job);
        free(s);
        return NULL;
}

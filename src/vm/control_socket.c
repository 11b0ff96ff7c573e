#include "control_socket.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/balloon.h"
#include "internal.h"
#include "options.h"

#define CLIENTS_MAX 8U
#define LINE_MAX_BYTES 256U
/* How long a guest may take for its statistics. */
#define STATS_NS (NSEC_PER_SEC / 2)

struct client {
        struct control_socket *socket;
        int fd; /* -1: free */
        struct loop_fd *watch;
        char line[LINE_MAX_BYTES];
        size_t n_line;
        bool wants_balloon; /* an answer is owed when the guest's statistics are there */
        bool ended;         /* it will ask nothing more */
};

struct control_socket {
        struct vm *vm;
        struct unix_listener *listener;
        struct loop_fd *watch;
        struct client clients[CLIENTS_MAX];
        struct loop_timer stats_timeout;
};

static void update_listener(struct control_socket *s);

static void client_close(struct client *c)
{
        if (c->fd < 0)
                return;
        c->watch = loop_fd_remove(c->watch);
        close(TAKE_FD(c->fd)); /* on the loop's thread, so the loop has forgotten it */
        c->n_line = 0;
        c->wants_balloon = c->ended = false;
        update_listener(c->socket);
}

/* Answers are short: who does not read them is dropped. */
static void _printf_(2, 3) reply(struct client *c, const char *fmt, ...)
{
        char text[LINE_MAX_BYTES];
        va_list ap;
        int n;

        va_start(ap, fmt);
        n = vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
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

/* ---- requests ---- */

static void do_help(struct client *c, const char *argument);

static const struct request {
        const char *name;
        void (*run)(struct client *c, const char *argument);
        const char *help;
} requests[] = {
        { "balloon", do_balloon, "balloon [SIZE]: what the balloon and the guest's memory are, or sets the balloon's size" },
        { "help", do_help, "help: this" },
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
        while (c->fd >= 0 && !c->wants_balloon && (end = memchr(c->line, '\n', c->n_line))) {
                const size_t n = (size_t)(end - c->line);

                memcpy(line, c->line, n);
                line[n] = '\0';
                c->n_line -= n + 1;
                memmove(c->line, end + 1, c->n_line);
                do_line(c, line);
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
        n = recv(c->fd, c->line + c->n_line, sizeof(c->line) - c->n_line, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                /* It asked and closed its writing half: it still gets its answer. */
                c->ended = n == 0 && c->wants_balloon;
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

        if (!s)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the control socket");
        s->vm = vm;
        for (size_t i = 0; i < CLIENTS_MAX; i++)
                s->clients[i] = (struct client){ .socket = s, .fd = -1 };
        loop_timer_init(&s->stats_timeout, vm->loop, on_stats_timeout, s);
        s->watch = loop_fd_add(vm->loop, listener->fd, POLLIN, on_listener, s, err);
        if (!s->watch) {
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
                client_close(&s->clients[i]);
        unix_listener_free(s->listener);
        free(s);
        return NULL;
}

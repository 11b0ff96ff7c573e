/* Connections: two halves. What comes from one goes to the other, or waits in the kernel. */
#include "forward.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct half {
        struct source source;
        struct connection *connection;
        bool ended;  /* it sends no more */
        bool closed; /* the other's end was passed on to it */
        bool stuck;  /* it takes nothing for now, and something waits */
};

enum { CLIENT, TARGET };

struct connection {
        struct half half[2];
        bool connecting, dead;
        struct connection *next; /* of those that are dead */
};

static struct half *other_of(struct half *half)
{
        return &half->connection->half[half == &half->connection->half[CLIENT] ? TARGET : CLIENT];
}

static void watch_tcp_listeners(struct forwarder *f, u32 events)
{
        for (size_t i = 0; i < f->n_listeners; i++)
                if (f->listener[i].rule.protocol == IPPROTO_TCP)
                        source_watch(f, &f->listener[i].source, events);
        f->full = !events;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

/* Events of this round may still name it: freed by tcp_bury. @reset: the sides that are left see an error and no proper end. */
static void drop(struct forwarder *f, struct connection *c, bool reset)
{
        const struct linger at_once = { .l_onoff = 1 };

        if (c->dead)
                return;
        for (int i = 0; i < 2; i++) {
                struct half *half = &c->half[i];

                if (reset)
                        setsockopt(half->source.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
                close(half->source.fd);
        }
        c->dead = true;
        c->next = f->dead;
        f->dead = c;
}

void tcp_bury(struct forwarder *f, bool quiet)
{
        const bool room = f->dead || quiet;

        for (struct connection *c; (c = f->dead); f->n_connections--) {
                f->dead = c->next;
                free(c);
        }
        if (f->full && room)
                watch_tcp_listeners(f, EPOLLIN);
}

/* --- data --------------------------------------------------------------------------------------------------------- */

static bool is_for_later(ssize_t n)
{
        return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Moves what is there at once. -errno. */
static int move(struct forwarder *f, struct half *from)
{
        struct half *to = other_of(from);
        ssize_t n = recv(from->source.fd, f->buffer, sizeof(f->buffer), MSG_PEEK), sent;

        if (n <= 0) {
                from->ended = n == 0;
                return n == 0 || is_for_later(n) ? 0 : -errno;
        }
        sent = send(to->source.fd, f->buffer, (size_t)n, MSG_NOSIGNAL);
        if (sent < 0 && !is_for_later(sent))
                return -errno;
        to->stuck = sent < n;
        /* tcp(7): dropped without being copied */
        return sent > 0 && recv(from->source.fd, NULL, (size_t)sent, MSG_TRUNC) != sent ? -EIO : 0;
}

/* Passes an end on, and says what is waited for. */
static void settle(struct forwarder *f, struct connection *c)
{
        for (int i = 0; i < 2; i++) {
                struct half *half = &c->half[i];

                if (c->half[!i].ended && !half->closed) { /* it has ended when everything before was sent */
                        shutdown(half->source.fd, SHUT_WR);
                        half->closed = true;
                }
        }
        if (c->half[CLIENT].closed && c->half[TARGET].closed) {
                drop(f, c, false);
                return;
        }
        for (int i = 0; i < 2; i++) {
                struct half *half = &c->half[i];
                const bool reads = !half->ended && !c->half[!i].stuck && !c->connecting,
                           writes = half->stuck || (c->connecting && i == TARGET);

                source_watch(f, &half->source, (reads ? EPOLLIN : 0) | (writes ? EPOLLOUT : 0));
        }
}

static int finish_connecting(struct connection *c)
{
        int error = 0;
        socklen_t len = sizeof(error);

        getsockopt(c->half[TARGET].source.fd, SOL_SOCKET, SO_ERROR, &error, &len);
        c->connecting = false;
        return -error;
}

static void half_ready(struct forwarder *f, struct source *source, u32 events)
{
        struct half *half = (struct half *)source; /* its first member */
        struct connection *c = half->connection;
        int r = 0;

        if (c->dead)
                return;
        if (c->connecting) {
                r = finish_connecting(c);
        } else if (half->stuck) { /* room, or an error, which sending finds */
                half->stuck = false;
                r = move(f, other_of(half));
        }
        /* an error is found by reading, also where nothing was to be read */
        if (r == 0 && events & (EPOLLIN | EPOLLERR | EPOLLHUP) && !half->ended && !other_of(half)->stuck)
                r = move(f, half);
        if (r < 0)
                drop(f, c, true);
        else
                settle(f, c);
}

/* --- the beginning ------------------------------------------------------------------------------------------------ */

static void connection_begin(struct forwarder *f, const struct forward_rule *rule, int client)
{
        struct connection *c = calloc(1, sizeof(*c));
        const int target = c ? target_connect(rule, SOCK_STREAM) : -ENOMEM, on = 1;
        const struct linger at_once = { .l_onoff = 1 };

        if (target < 0) {
                setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
                close(client);
                free(c);
                return;
        }
        for (int i = 0; i < 2; i++) {
                c->half[i] = (struct half){ .connection = c,
                        .source = { .fd = i == CLIENT ? client : target, .ready = half_ready } };
                setsockopt(c->half[i].source.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* who sends has waited */
                setsockopt(c->half[i].source.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        }
        c->connecting = true;
        f->n_connections++;
        settle(f, c);
}

void tcp_accept(struct forwarder *f, struct source *source, u32 events)
{
        const struct listener *listener = (const struct listener *)source; /* its first member */
        int fd;

        if (f->n_connections >= f->max_connections) {
                watch_tcp_listeners(f, 0);
                return;
        }
        fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
                connection_begin(f, &listener->rule, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                watch_tcp_listeners(f, 0); /* else it is reported again and again */
}

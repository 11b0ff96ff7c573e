/* The virtio socket device's sockets on the host. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/virtio/vsock_internal.h"

/* Connections that are taken at one go. */
#define ACCEPT_MAX 64U
/* How long a program may take for its CONNECT line, and a guest for its answer: machines are slow under some engines. */
#define HANDSHAKE_NS (10 * NSEC_PER_SEC)
#define REQUEST_NS (60 * NSEC_PER_SEC)
/* While the backlog of the host's program is full, which a unix socket does not wait for: 10 seconds. */
#define CONNECT_AGAIN_NS (NSEC_PER_SEC / 100)
#define CONNECT_TRIES 1000U
/* When the host is short of descriptors. */
#define RETRY_NS (NSEC_PER_SEC / 10)
/* Ports that stand for programs of the host. */
#define HOST_PORT_FIRST 0x40000000U
#define HOST_PORTS 0x40000000U

/* ---- connections from the host ---- */

static void accept_some(void *opaque, int revents)
{
        struct vsock *vs = opaque;

        (void)revents;
        for (unsigned i = 0; i < ACCEPT_MAX && vs->n_conns[false] < VSOCK_CONNS_MAX; i++) {
                const int fd = accept4(vs->listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                struct vsock_conn *conn;

                if (fd < 0) {
                        if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
                                loop_timer_set(&vs->listen_retry, clock_now_ns() + RETRY_NS);
                        break;
                }
                conn = vsock_conn_new(vs, false, fd);
                if (!conn) {
                        close(fd);
                        break;
                }
                conn->state = VSOCK_HANDSHAKE;
                vsock_conn_deadline(conn, HANDSHAKE_NS);
                vsock_conn_update(conn);
        }
        vsock_host_update(vs);
}

static void on_retry(void *opaque)
{
        vsock_host_update(opaque);
}

void vsock_host_update(struct vsock *vs)
{
        const bool listen = !vs->stopped && !vs->listen_retry.armed && vs->n_conns[false] < VSOCK_CONNS_MAX;

        if (vs->listen_watch)
                loop_fd_set_events(vs->listen_watch, listen ? POLLIN : 0);
}

int vsock_host_init(struct vsock *vs, struct err **err)
{
        struct loop *loop = vs->vdev.env->loop;

        loop_timer_init(&vs->listen_retry, loop, on_retry, vs);
        vs->next_host_port = HOST_PORT_FIRST;
        vs->listen_watch = loop_fd_add(loop, vs->listener->fd, POLLIN, accept_some, vs, err);
        return vs->listen_watch ? 0 : -ENOMEM;
}

void vsock_host_free(struct vsock *vs)
{
        loop_timer_cancel(&vs->listen_retry);
        vs->listen_watch = loop_fd_remove(vs->listen_watch);
        vs->listener = unix_listener_free(vs->listener);
}

static u32 host_port_for(struct vsock *vs, u32 guest_port)
{
        u32 port;

        do {
                port = vs->next_host_port;
                vs->next_host_port = HOST_PORT_FIRST + (port + 1) % HOST_PORTS;
        } while (vsock_conn_find(vs, guest_port, port));
        return port;
}

static bool parse_connect(const char *line, u32 *ret_port)
{
        static const char word[] = "CONNECT ";
        const char *p = line + strlen(word);
        u64 port = 0;

        if (strncmp(line, word, strlen(word)) != 0 || *p < '0' || *p > '9')
                return false;
        for (; *p >= '0' && *p <= '9' && port <= 0xffffffffU; p++)
                port = port * 10 + (u64)(*p - '0');
        *ret_port = (u32)port;
        return *p == '\n' && port <= 0xffffffffU;
}

/* Takes the line from the socket, and nothing behind it. 1 when it is complete, 0 when more has to come, -1 when it is none. */
static int read_line(struct vsock_conn *conn)
{
        char *at = conn->line + conn->n_line;
        const size_t room = VSOCK_LINE_MAX - 1U - conn->n_line;
        const ssize_t seen = recv(conn->fd, at, room, MSG_PEEK);
        const char *end;
        size_t n;

        if (seen < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (seen <= 0)
                return -1;
        end = memchr(at, '\n', (size_t)seen);
        n = end ? (size_t)(end - at) + 1 : (size_t)seen;
        if (recv(conn->fd, at, n, 0) != (ssize_t)n)
                return -1;
        conn->n_line = (u8)(conn->n_line + n);
        at[n] = '\0';
        return end ? 1 : n == room ? -1 : 0;
}

void vsock_host_handshake(struct vsock_conn *conn)
{
        struct vsock *vs = conn->vs;
        const int r = read_line(conn);
        u32 port;

        if (r == 0)
                return;
        if (r < 0 || !parse_connect(conn->line, &port) || !virtio_running(&vs->vdev)) {
                vsock_conn_free(conn);
                return;
        }
        conn->state = VSOCK_REQUESTED;
        vsock_conn_bind(conn, port, host_port_for(vs, port));
        vsock_conn_deadline(conn, REQUEST_NS);
        vsock_conn_owe(conn, VSOCK_OP_REQUEST);
}

bool vsock_host_accepted(const struct vsock_conn *conn)
{
        char line[VSOCK_LINE_MAX];
        const int n = snprintf(line, sizeof(line), "OK %u\n", conn->host_port);

        return send(conn->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n;
}

/* ---- connections to the host ---- */

void vsock_host_connect(struct vsock_conn *conn)
{
        int fd = unix_listener_connect(conn->vs->listener, conn->host_port);

        if (fd == -EAGAIN && conn->tries++ < CONNECT_TRIES) {
                conn->state = VSOCK_CONNECTING;
                vsock_conn_deadline(conn, CONNECT_AGAIN_NS);
                return;
        }
        if (fd < 0 || !vsock_conn_attach(conn, fd)) {
                if (fd >= 0)
                        close(fd);
                vsock_conn_reset(conn);
                return;
        }
        conn->state = VSOCK_OPEN;
        vsock_conn_owe(conn, VSOCK_OP_RESPONSE);
}

struct closing {
        int fd;
};

static void close_now(void *opaque)
{
        struct closing *closing = opaque;

        close(closing->fd);
        free(closing);
}

void vsock_close_later(struct loop *loop, int fd)
{
        struct closing *closing = malloc(sizeof(*closing));

        if (closing) {
                closing->fd = fd;
                if (loop_post(loop, close_now, closing) == 0)
                        return;
                free(closing);
        }
        close(fd);
}

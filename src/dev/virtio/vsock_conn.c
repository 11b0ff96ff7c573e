/* Connections of the virtio socket device.
 *
 * Credit (virtio 1.2, 5.10.6.3). Each side says how large its buffer is (buf_alloc) and how many bytes have left it (fwd_cnt). The
 * guest may have received - forwarded = n_buffered bytes with us at a time, no more than VSOCK_BUFFER; it knows as far as it was
 * told, so it is told whenever by its knowledge less than half is free. We may have sent - guest_forwarded bytes with the guest.
 * fwd_cnt going backwards is a packet that was overtaken by another of the guest's threads and is ignored; fwd_cnt beyond what was
 * sent is a lie and ends the connection, as does a byte beyond the credit.
 *
 * Ends. The unix socket's end of file is told as SHUTDOWN, of both directions when its program has closed it, and the guest
 * answers with RST. The guest's SHUTDOWN of both directions is answered with RST at once; what the program has not read yet stays
 * for it (DRAINING). */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/virtio/vsock_internal.h"

/* What Linux grants a connection that is being closed. */
#define CLOSING_NS (8 * NSEC_PER_SEC)

/* ---- the tables ---- */

static struct vsock_conn **bucket(const struct vsock *vs, u32 guest_port, u32 host_port)
{
        return (struct vsock_conn **)&vs->buckets[(guest_port * 31 + host_port) % VSOCK_BUCKETS];
}

struct vsock_conn *vsock_conn_find(const struct vsock *vs, u32 guest_port, u32 host_port)
{
        struct vsock_conn *conn = *bucket(vs, guest_port, host_port);

        while (conn && (conn->guest_port != guest_port || conn->host_port != host_port))
                conn = conn->next_in_bucket;
        return conn;
}

void vsock_conn_bind(struct vsock_conn *conn, u32 guest_port, u32 host_port)
{
        struct vsock_conn **head = bucket(conn->vs, guest_port, host_port);

        conn->guest_port = guest_port;
        conn->host_port = host_port;
        conn->next_in_bucket = *head;
        conn->hashed = true;
        *head = conn;
}

static void unhash(struct vsock_conn *conn)
{
        struct vsock_conn **p = bucket(conn->vs, conn->guest_port, conn->host_port);

        if (!conn->hashed)
                return;
        while (*p != conn)
                p = &(*p)->next_in_bucket;
        *p = conn->next_in_bucket;
        conn->hashed = false;
}

static void ready_add(struct vsock_conn *conn)
{
        conn->ready = true;
        conn->next_ready = NULL;
        *conn->vs->ready_last = conn;
        conn->vs->ready_last = &conn->next_ready;
}

static void ready_remove(struct vsock_conn *conn)
{
        struct vsock *vs = conn->vs;
        struct vsock_conn **p = &vs->ready_first;

        while (*p != conn)
                p = &(*p)->next_ready;
        *p = conn->next_ready;
        if (vs->ready_last == &conn->next_ready)
                vs->ready_last = p;
        conn->ready = false;
}

/* ---- life ---- */

static void on_socket(void *opaque, int revents);
static void on_deadline(void *opaque);

bool vsock_conn_attach(struct vsock_conn *conn, int fd)
{
        conn->watch = loop_fd_add(conn->vs->vdev.env->loop, fd, 0, on_socket, conn, NULL);
        if (conn->watch)
                conn->fd = fd;
        return conn->watch;
}

struct vsock_conn *vsock_conn_new(struct vsock *vs, bool from_guest, int fd)
{
        struct vsock_conn *conn;

        if (vs->n_conns[from_guest] == VSOCK_CONNS_MAX)
                return NULL;
        conn = calloc(1, sizeof(*conn));
        if (!conn)
                return NULL;
        conn->vs = vs;
        conn->from_guest = from_guest;
        conn->fd = -1;
        if (fd >= 0 && !vsock_conn_attach(conn, fd)) {
                free(conn);
                return NULL;
        }
        loop_timer_init(&conn->timer, vs->vdev.env->loop, on_deadline, conn);
        conn->next = vs->all;
        conn->pprev = &vs->all;
        if (conn->next)
                conn->next->pprev = &conn->next;
        vs->all = conn;
        vs->n_conns[from_guest]++;
        return conn;
}

static void close_socket(struct vsock_conn *conn)
{
        vsock_local_disconnect(conn);
        if (conn->fd < 0)
                return;
        conn->watch = loop_fd_remove(conn->watch);
        shutdown(conn->fd, SHUT_RDWR);
        vsock_close_later(conn->vs->vdev.env->loop, conn->fd);
        conn->fd = -1;
}

static void buffer_drop(struct vsock_conn *conn)
{
        conn->forwarded += conn->n_buffered;
        conn->first = conn->n_buffered = 0;
        free(conn->buffer);
        conn->buffer = NULL;
}

struct vsock_conn *vsock_conn_free(struct vsock_conn *conn)
{
        struct vsock *vs = conn->vs;

        unhash(conn);
        if (conn->ready)
                ready_remove(conn);
        *conn->pprev = conn->next;
        if (conn->next)
                conn->next->pprev = conn->pprev;
        loop_timer_cancel(&conn->timer);
        close_socket(conn);
        buffer_drop(conn);
        vs->n_conns[conn->from_guest]--;
        free(conn);
        vsock_host_update(vs);
        return NULL;
}

void vsock_conn_free_all(struct vsock *vs)
{
        while (vs->all)
                vsock_conn_free(vs->all);
}

/* Tells the guest that there is no such connection (any more). */
static void send_reset(struct vsock_conn *conn)
{
        const struct vsock_header header = { /* as if the guest had sent it */
                .src_cid = conn->vs->cid,
                .dst_cid = VSOCK_CID_HOST,
                .src_port = conn->guest_port,
                .dst_port = conn->host_port,
                .type = VSOCK_TYPE_STREAM,
        };

        vsock_reset_send(conn->vs, &header);
}

void vsock_conn_reset(struct vsock_conn *conn)
{
        if (conn->hashed)
                send_reset(conn);
        vsock_conn_free(conn);
}

void vsock_conn_deadline(struct vsock_conn *conn, u64 ns)
{
        loop_timer_set(&conn->timer, clock_now_ns() + ns);
}

static void on_deadline(void *opaque)
{
        struct vsock_conn *conn = opaque;
        struct vsock *vs = conn->vs;

        if (conn->hashed && vsock_resets_full(vs))
                vsock_conn_deadline(conn, NSEC_PER_SEC);
        else if (conn->state == VSOCK_CONNECTING)
                vsock_host_connect(conn);
        else
                vsock_conn_reset(conn);
        vsock_pump(vs);
}

/* ---- what can be done now ---- */

static u32 credit(const struct vsock_conn *conn)
{
        const u32 in_flight = conn->sent - conn->guest_forwarded;

        return conn->guest_buffer > in_flight ? conn->guest_buffer - in_flight : 0;
}

static bool may_send(const struct vsock_conn *conn)
{
        return conn->state == VSOCK_OPEN && !(conn->host_shut & VSOCK_SHUT_SEND) &&
               !(conn->guest_shut & VSOCK_SHUT_RECEIVE);
}

static int wanted_events(const struct vsock_conn *conn)
{
        if (conn->vs->stopped)
                return 0;
        return (conn->state == VSOCK_HANDSHAKE || (may_send(conn) && !conn->readable) ? POLLIN : 0) |
               (conn->n_buffered ? POLLOUT : 0);
}

void vsock_conn_update(struct vsock_conn *conn)
{
        bool ready;

        if (conn->readable && may_send(conn) && !credit(conn) && !conn->credit_asked) {
                conn->credit_asked = true;
                conn->owed |= (u32)BIT(VSOCK_OP_CREDIT_REQUEST);
        }
        ready = conn->hashed && (conn->owed || (conn->readable && may_send(conn) && credit(conn)));
        if (ready && !conn->ready)
                ready_add(conn);
        else if (!ready && conn->ready)
                ready_remove(conn);
        if (conn->watch)
                loop_fd_set_events(conn->watch, wanted_events(conn));
}

void vsock_conn_owe(struct vsock_conn *conn, enum vsock_op op)
{
        conn->owed |= (u32)BIT(op);
        vsock_conn_update(conn);
}

/* The program at the socket will not write (SEND) or read (RECEIVE) any more. */
static void host_stops(struct vsock_conn *conn, u8 what)
{
        if ((conn->host_shut | what) == conn->host_shut)
                return;
        conn->host_shut |= what;
        if (what & VSOCK_SHUT_RECEIVE)
                buffer_drop(conn);
        if (conn->host_shut == VSOCK_SHUT_BOTH) {
                close_socket(conn);
                conn->state = VSOCK_CLOSING;
                vsock_conn_deadline(conn, CLOSING_NS);
        }
        vsock_conn_owe(conn, VSOCK_OP_SHUTDOWN);
}

/* Drops what is behind the first @len bytes; returns how many iovecs are left. */
static unsigned iov_shorten(struct iovec *iov, unsigned n, u32 len)
{
        unsigned i = 0;

        for (; i < n && len; i++) {
                iov[i].iov_len = MIN(iov[i].iov_len, (size_t)len);
                len -= (u32)iov[i].iov_len;
        }
        return i;
}

/* ---- host to guest ---- */

/* Reads the socket into @data: how many bytes; 0 when there is nothing to send. */
static u32 read_socket(struct vsock_conn *conn, struct iovec *data, unsigned n)
{
        ssize_t got;

        n = iov_shorten(data, n, credit(conn));
        if (!n)
                return 0;
        got = conn->local ? vsock_local_read(conn, data, n) : readv(conn->fd, data, (int)n);
        if (got > 0) {
                conn->sent += (u32)got;
                return (u32)got;
        }
        conn->readable = false;
        if (got == 0) {
                struct pollfd hup = { .fd = conn->fd };

                host_stops(conn, poll(&hup, 1, 0) > 0 && hup.revents & POLLHUP ? VSOCK_SHUT_BOTH : VSOCK_SHUT_SEND);
        } else if (errno != EAGAIN && errno != EINTR) {
                host_stops(conn, VSOCK_SHUT_BOTH);
        }
        return 0;
}

bool vsock_conn_packet(struct vsock_conn *conn, struct iovec *data, unsigned n, struct vsock_header *ret_header)
{
        enum vsock_op op = VSOCK_OP_RW;
        u32 len = 0;

        if (!conn->owed && conn->readable && may_send(conn))
                len = read_socket(conn, data, n);
        if (conn->owed && !len) { /* perhaps since just now */
                op = (enum vsock_op)__builtin_ctz(conn->owed);
                conn->owed &= ~(u32)BIT(op);
        } else if (!len) {
                return false;
        }
        *ret_header = (struct vsock_header){
                .src_cid = VSOCK_CID_HOST,
                .dst_cid = conn->vs->cid,
                .src_port = conn->host_port,
                .dst_port = conn->guest_port,
                .len = len,
                .type = VSOCK_TYPE_STREAM,
                .op = (u16)op,
                .flags = op == VSOCK_OP_SHUTDOWN ? conn->host_shut : 0,
                .buf_alloc = VSOCK_BUFFER,
                .fwd_cnt = conn->forwarded,
        };
        conn->told_forwarded = conn->forwarded;
        conn->owed &= ~(u32)BIT(VSOCK_OP_CREDIT_UPDATE);
        return true;
}

/* ---- guest to host ---- */

bool vsock_conn_credit(struct vsock_conn *conn, const struct vsock_header *header)
{
        if ((s32)(conn->sent - header->fwd_cnt) < 0) {
                vsock_conn_reset(conn);
                return false;
        }
        if ((s32)(header->fwd_cnt - conn->guest_forwarded) > 0)
                conn->guest_forwarded = header->fwd_cnt;
        conn->guest_buffer = header->buf_alloc;
        if (credit(conn))
                conn->credit_asked = false;
        return true;
}

static void credit_tell(struct vsock_conn *conn)
{
        if (conn->received - conn->told_forwarded > VSOCK_BUFFER / 2 && conn->forwarded != conn->told_forwarded)
                conn->owed |= (u32)BIT(VSOCK_OP_CREDIT_UPDATE);
}

/* How many bytes the socket took; -1 when nobody reads it any more. */
static ssize_t write_socket(struct vsock_conn *conn, struct iovec *iov, unsigned n, u32 len)
{
        const struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n };
        ssize_t done;

        if (conn->local) {
                vsock_local_write(conn, iov, n);
                return len;
        }
        done = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

        return done >= 0 ? done : errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 0 : -1;
}

static bool buffer_append(struct vsock_conn *conn, const struct iovec *iov, unsigned n, size_t skip, u32 len)
{
        const u32 end = (conn->first + conn->n_buffered) % VSOCK_BUFFER, before_wrap = MIN(len, VSOCK_BUFFER - end);

        if (!conn->buffer)
                conn->buffer = malloc(VSOCK_BUFFER);
        if (!conn->buffer)
                return false;
        virtio_iov_read(iov, n, skip, conn->buffer + end, before_wrap);
        virtio_iov_read(iov, n, skip + before_wrap, conn->buffer, len - before_wrap);
        conn->n_buffered += len;
        return true;
}

bool vsock_conn_receive(struct vsock_conn *conn, struct iovec *iov, unsigned n, u32 len)
{
        ssize_t done = 0;

        if ((conn->state != VSOCK_OPEN && conn->state != VSOCK_CLOSING) || conn->guest_shut & VSOCK_SHUT_SEND ||
            len > VSOCK_BUFFER - conn->n_buffered) {
                vsock_conn_reset(conn);
                return false;
        }
        n = iov_shorten(iov, n, len);
        conn->received += len;
        if (conn->host_shut & VSOCK_SHUT_RECEIVE)
                done = -1;
        else if (!conn->n_buffered && len)
                done = write_socket(conn, iov, n, len);
        if (done < 0) {
                conn->forwarded += len;
                host_stops(conn, VSOCK_SHUT_RECEIVE);
        } else {
                conn->forwarded += (u32)done;
                if (done < len && !buffer_append(conn, iov, n, (size_t)done, len - (u32)done)) {
                        vsock_conn_reset(conn);
                        return false;
                }
        }
        credit_tell(conn);
        vsock_conn_update(conn);
        return true;
}

/* The socket takes bytes again. False: the connection is gone. */
static bool buffer_flush(struct vsock_conn *conn)
{
        const u32 before_wrap = MIN(conn->n_buffered, VSOCK_BUFFER - conn->first);
        struct iovec iov[] = {
                { conn->buffer + conn->first, before_wrap },
                { conn->buffer, conn->n_buffered - before_wrap },
        };
        const ssize_t done = write_socket(conn, iov, ARRAY_SIZE(iov), conn->n_buffered);

        if (done >= 0) {
                conn->first = (conn->first + (u32)done) % VSOCK_BUFFER;
                conn->n_buffered -= (u32)done;
                conn->forwarded += (u32)done;
        }
        if (conn->state == VSOCK_DRAINING && (done < 0 || !conn->n_buffered)) {
                vsock_conn_free(conn);
                return false;
        }
        if (done < 0) {
                host_stops(conn, VSOCK_SHUT_RECEIVE);
        } else if (!conn->n_buffered) {
                buffer_drop(conn);
                if (conn->guest_shut & VSOCK_SHUT_SEND)
                        shutdown(conn->fd, SHUT_WR);
        }
        credit_tell(conn);
        return true;
}

void vsock_conn_ready(struct vsock_conn *conn, int revents)
{
        struct vsock *vs = conn->vs;

        if (conn->state == VSOCK_HANDSHAKE) {
                vsock_host_handshake(conn);
                vsock_pump(vs);
                return;
        }
        if (revents & (POLLOUT | POLLERR) && conn->n_buffered && !buffer_flush(conn))
                return;
        if (revents & (POLLIN | POLLERR))
                conn->readable = true;
        vsock_conn_update(conn);
        vsock_pump(vs);
}

static void on_socket(void *opaque, int revents)
{
        vsock_conn_ready(opaque, revents);
}

void vsock_conn_abandon(struct vsock_conn *conn)
{
        host_stops(conn, VSOCK_SHUT_BOTH);
}

/* ---- the guest's side ends ---- */

/* The guest knows nothing of it any more. */
static void detach(struct vsock_conn *conn)
{
        if (!conn->n_buffered) {
                vsock_conn_free(conn);
                return;
        }
        unhash(conn);
        loop_timer_cancel(&conn->timer);
        conn->state = VSOCK_DRAINING;
        conn->owed = 0;
        vsock_conn_update(conn);
}

void vsock_conn_guest_shutdown(struct vsock_conn *conn, u32 flags)
{
        const u8 before = conn->guest_shut;

        if (conn->state == VSOCK_REQUESTED || conn->state == VSOCK_CONNECTING) {
                vsock_conn_reset(conn);
                return;
        }
        conn->guest_shut |= flags & VSOCK_SHUT_BOTH;
        /* The program inside this process has no use for half a connection. */
        if (conn->guest_shut == VSOCK_SHUT_BOTH || conn->local) {
                send_reset(conn);
                detach(conn);
                return;
        }
        if (conn->fd >= 0 && conn->guest_shut & ~before & VSOCK_SHUT_RECEIVE)
                shutdown(conn->fd, SHUT_RD);
        if (conn->fd >= 0 && conn->guest_shut & ~before & VSOCK_SHUT_SEND && !conn->n_buffered)
                shutdown(conn->fd, SHUT_WR);
        vsock_conn_update(conn);
}

void vsock_conn_guest_reset(struct vsock_conn *conn)
{
        detach(conn);
}

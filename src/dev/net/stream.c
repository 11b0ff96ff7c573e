/* Frames over a stream socket, each after its length as 4 bytes in network byte order: what passt and other user-mode networks
 * speak.
 *
 * A stream takes parts of frames. What a partial write left over is kept (`tail`) and goes out before anything else; until then
 * send() answers -EAGAIN. Reads collect in `in` until a frame is complete; a length that no frame can have means that the peer
 * has lost its place in the stream, and there is no way to find it again: the link goes down. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "dev/net/net.h"

#define LENGTH_BYTES 4U
#define FRAME_MIN 14U
/* Reads a callback does before others get their turn. */
#define BATCH 8

struct stream {
        struct net_backend backend;
        int fd;
        struct loop_fd *watch;
        bool paused, refused, want_write, dead;
        size_t in_start, in_end; /* what of in[] was read and not yet delivered */
        size_t tail_start, tail_end;
        u8 in[2 * (LENGTH_BYTES + NET_FRAME_MAX)];
        u8 tail[LENGTH_BYTES + NET_FRAME_MAX];
};

static struct stream *stream_of(struct net_backend *backend)
{
        return container_of(backend, struct stream, backend);
}

static void watch_update(struct stream *s)
{
        int events = 0;

        if (s->dead)
                return;
        if (!s->paused && !s->refused)
                events |= POLLIN;
        if (s->tail_end)
                events |= POLLOUT;
        loop_fd_set_events(s->watch, events);
}

static void die(struct stream *s, const char *why)
{
        const struct net_client *client = &s->backend.client;

        if (s->dead)
                return;
        s->dead = true;
        loop_fd_set_events(s->watch, 0);
        log_warn("user-mode network: %s; the guest's link is down", why);
        if (client->link)
                client->link(client->opaque, false);
        /* What waits for room is to be dropped now. */
        if (s->want_write && client->writable)
                client->writable(client->opaque);
        s->want_write = false;
}

/* ---- in ---- */

/* Delivers what is complete. False when the client has no room or the stream is of no use any more. */
static bool deliver(struct stream *s)
{
        const struct net_client *client = &s->backend.client;

        while (s->in_end - s->in_start >= LENGTH_BYTES) {
                const u8 *at = s->in + s->in_start;
                u32 len;

                memcpy(&len, at, sizeof(len));
                len = ntohl(len);
                if (len == 0 || len > NET_FRAME_MAX) {
                        die(s, "it sent a frame of impossible length");
                        return false;
                }
                if (s->in_end - s->in_start < LENGTH_BYTES + len)
                        break;
                if (len >= FRAME_MIN && client->receive &&
                    !client->receive(client->opaque, at + LENGTH_BYTES, len)) {
                        s->refused = true;
                        return false;
                }
                s->in_start += LENGTH_BYTES + len;
        }
        /* The rest to the front, so that a whole frame always fits behind it. */
        memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
        s->in_end -= s->in_start;
        s->in_start = 0;
        return true;
}

static void receive(struct stream *s)
{
        for (unsigned i = 0; i < BATCH && !s->refused && !s->paused && !s->dead; i++) {
                const ssize_t n = recv(s->fd, s->in + s->in_end, sizeof(s->in) - s->in_end, MSG_DONTWAIT);

                if (n == 0) {
                        die(s, "it has ended");
                        return;
                }
                if (n < 0) {
                        if (errno != EAGAIN && errno != EINTR)
                                die(s, strerror(errno));
                        return;
                }
                s->in_end += (size_t)n;
                if (!deliver(s))
                        return;
        }
}

static void stream_receive_ready(struct net_backend *backend)
{
        struct stream *s = stream_of(backend);

        s->refused = false;
        if (!s->paused && !s->dead)
                deliver(s);
        watch_update(s);
}

/* ---- out ---- */

static void tail_flush(struct stream *s)
{
        const struct net_client *client = &s->backend.client;

        while (s->tail_start < s->tail_end) {
                const ssize_t n = send(s->fd, s->tail + s->tail_start, s->tail_end - s->tail_start,
                                       MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0) {
                        if (errno != EAGAIN && errno != EINTR)
                                die(s, strerror(errno));
                        return;
                }
                s->tail_start += (size_t)n;
        }
        s->tail_start = s->tail_end = 0;
        if (s->want_write) {
                s->want_write = false;
                if (client->writable)
                        client->writable(client->opaque);
        }
}

/* Keeps what a partial write of @total bytes left over after @sent. */
static void tail_keep(struct stream *s, const struct iovec *iov, unsigned n, size_t sent)
{
        s->tail_start = s->tail_end = 0;
        for (unsigned i = 0; i < n; i++) {
                const size_t skip = MIN(sent, iov[i].iov_len);
                const size_t len = iov[i].iov_len - skip;

                memcpy(s->tail + s->tail_end, (const u8 *)iov[i].iov_base + skip, len);
                s->tail_end += len;
                sent -= skip;
        }
}

static int stream_send(struct net_backend *backend, const struct iovec *iov, unsigned n)
{
        struct stream *s = stream_of(backend);
        struct iovec all[1 + NET_IOV_MAX];
        struct msghdr msg = { .msg_iov = all, .msg_iovlen = 1 + (size_t)n };
        size_t total = 0;
        ssize_t sent;
        u32 length;

        if (s->dead)
                return -ENETDOWN;
        if (s->tail_end) {
                s->want_write = true;
                return -EAGAIN;
        }
        for (unsigned i = 0; i < n && i < NET_IOV_MAX; i++) {
                all[1 + i] = iov[i];
                total += iov[i].iov_len;
        }
        if (n > NET_IOV_MAX || total == 0 || total > NET_FRAME_MAX)
                return -EMSGSIZE;
        length = htonl((u32)total);
        all[0] = (struct iovec){ .iov_base = &length, .iov_len = sizeof(length) };

        sent = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
                if (errno != EAGAIN && errno != EINTR) {
                        const int r = -errno;

                        die(s, strerror(errno));
                        return r;
                }
                sent = 0;
        }
        if ((size_t)sent < LENGTH_BYTES + total) {
                tail_keep(s, all, 1 + n, (size_t)sent);
                watch_update(s);
        }
        return 0;
}

/* ---- life cycle ---- */

static void on_ready(void *opaque, int revents)
{
        struct stream *s = opaque;

        if (revents & POLLOUT && s->tail_end)
                tail_flush(s);
        /* An error shows itself in recv(). */
        if (revents & (POLLIN | POLLERR))
                receive(s);
        watch_update(s);
}

static void stream_pause(struct net_backend *backend, bool paused)
{
        struct stream *s = stream_of(backend);

        s->paused = paused;
        if (!paused)
                stream_receive_ready(backend);
        watch_update(s);
}

static void stream_destroy(struct net_backend *backend)
{
        struct stream *s = stream_of(backend);

        loop_fd_remove(s->watch);
        close(s->fd);
        free(s);
}

static const struct net_backend_ops stream_ops = {
        .name = "stream", .send = stream_send, .receive_ready = stream_receive_ready, .pause = stream_pause,
        .destroy = stream_destroy,
};

int net_stream_new(struct device_env *env, int fd, struct net_backend **ret, struct err **err)
{
        struct stream *s = calloc(1, sizeof(*s));

        if (!s)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a user-mode network");
        s->backend.ops = &stream_ops;
        s->fd = fd;
        s->watch = loop_fd_add(env->loop, fd, POLLIN, on_ready, s, err);
        if (!s->watch) {
                free(s);
                return -ENOMEM;
        }
        *ret = &s->backend;
        return 0;
}

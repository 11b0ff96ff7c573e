/* Sessions: a client of a UDP port, and a socket of its own towards the container. */
#include "forward.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

enum { AT_ONCE = 32, SILENT_SECONDS = 90, EXPIRE_SECONDS = 5 };

/* Where a datagram came from, and to which of our addresses: replies must come from there. */
struct way {
        struct sockaddr_in6 client; /* or sockaddr_in */
        socklen_t client_len;
        struct in_pktinfo v4;
        struct in6_pktinfo v6;
};

struct session {
        struct source source;
        const struct listener *listener;
        struct way way;
        u64 last_ns;
        struct session *next;
};

union control {
        struct cmsghdr align;
        u8 room[CMSG_SPACE(sizeof(struct in6_pktinfo))];
};

static bool is_v4(const struct way *way)
{
        return way->client.sin6_family == AF_INET;
}

void udp_prepare(const struct listener *listener)
{
        const int on = 1;

        /* one of the two is of the socket's family */
        setsockopt(listener->source.fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
        setsockopt(listener->source.fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
}

static ssize_t receive(int fd, u8 *data, size_t size, struct way *ret)
{
        union control control;
        struct iovec part = { data, size };
        struct way way = { .client_len = sizeof(way.client) };
        struct msghdr message = { .msg_name = &way.client,
                .msg_namelen = sizeof(way.client),
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control) };
        const ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT);

        if (n < 0)
                return -errno;
        way.client_len = message.msg_namelen;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
                if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
                        memcpy(&way.v4, CMSG_DATA(c), sizeof(way.v4));
                if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
                        memcpy(&way.v6, CMSG_DATA(c), sizeof(way.v6));
        }
        way.v4.ipi_ifindex = 0; /* whichever way the route is; a link-local address of IPv6 needs its interface */
        *ret = way;
        return n;
}

static void reply(const struct session *session, u8 *data, size_t len)
{
        struct way way = session->way;
        union control control = { .room = { 0 } };
        struct iovec part = { data, len };
        struct msghdr message = { .msg_name = &way.client,
                .msg_namelen = way.client_len,
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = is_v4(&way) ? CMSG_SPACE(sizeof(way.v4)) : CMSG_SPACE(sizeof(way.v6)) };
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);

        if (is_v4(&way)) {
                *c = (struct cmsghdr){ CMSG_LEN(sizeof(way.v4)), IPPROTO_IP, IP_PKTINFO };
                memcpy(CMSG_DATA(c), &way.v4, sizeof(way.v4));
        } else {
                *c = (struct cmsghdr){ CMSG_LEN(sizeof(way.v6)), IPPROTO_IPV6, IPV6_PKTINFO };
                memcpy(CMSG_DATA(c), &way.v6, sizeof(way.v6));
        }
        /* one that cannot be delivered is lost, as any may be */
        (void)!sendmsg(session->listener->source.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* --- sessions ----------------------------------------------------------------------------------------------------- */

static struct session **bucket_of(struct forwarder *f, const struct listener *listener, const struct way *way)
{
        const u8 *bytes = (const u8 *)&way->client;
        u64 hash = (u64)(listener - f->listener);

        for (socklen_t i = 0; i < way->client_len; i++)
                hash = (hash ^ bytes[i]) * 0x100000001b3; /* FNV-1a's step */
        return &f->session[(hash >> 32 ^ hash) % SESSION_BUCKETS];
}

static void end_session(struct forwarder *f, struct session **at)
{
        struct session *session = *at;

        *at = session->next;
        close(session->source.fd);
        free(session);
        f->n_sessions--;
}

static void take_reply(struct forwarder *f, struct source *source, u32 events)
{
        struct session *session = (struct session *)source; /* its first member */

        for (int i = 0; i < AT_ONCE; i++) {
                const ssize_t n = recv(source->fd, f->buffer, sizeof(f->buffer), MSG_DONTWAIT);

                if (n < 0 && errno == EAGAIN)
                        return;
                if (n < 0)
                        continue; /* nobody listens in the container, for now: reading it took the error away */
                session->last_ns = clock_now_ns();
                reply(session, f->buffer, (size_t)n);
        }
}

/* Who has been silent longest makes room. */
static void make_room(struct forwarder *f)
{
        struct session **oldest = NULL;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                for (struct session **at = &f->session[i]; *at; at = &(*at)->next)
                        if (!oldest || (*at)->last_ns < (*oldest)->last_ns)
                                oldest = at;
        if (oldest)
                end_session(f, oldest);
}

static struct session *find_or_begin(struct forwarder *f, const struct listener *listener, const struct way *way)
{
        struct session **bucket = bucket_of(f, listener, way), *session;
        int fd;

        for (session = *bucket; session; session = session->next)
                if (session->listener == listener && session->way.client_len == way->client_len &&
                        memcmp(&session->way.client, &way->client, way->client_len) == 0)
                        return session;
        if (f->n_sessions >= f->max_sessions)
                return NULL; /* lost: after this round there is room */
        fd = target_connect(&listener->rule, SOCK_DGRAM);
        session = fd < 0 ? NULL : calloc(1, sizeof(*session));
        if (!session) {
                if (fd >= 0)
                        close(fd);
                return NULL;
        }
        *session = (struct session){ .source = { .fd = fd, .ready = take_reply }, .listener = listener };
        session->next = *bucket;
        *bucket = session;
        f->n_sessions++;
        source_watch(f, &session->source, EPOLLIN);
        return session;
}

void udp_take(struct forwarder *f, struct source *source, u32 events)
{
        const struct listener *listener = (const struct listener *)source; /* its first member */

        for (int i = 0; i < AT_ONCE; i++) {
                struct way way;
                struct session *session;
                const ssize_t n = receive(source->fd, f->buffer, sizeof(f->buffer), &way);

                if (n == -EAGAIN)
                        return;
                if (n < 0)
                        continue;
                session = find_or_begin(f, listener, &way);
                if (!session)
                        continue;
                session->way = way;
                session->last_ns = clock_now_ns();
                (void)!send(session->source.fd, f->buffer, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
}

void udp_expire(struct forwarder *f)
{
        const u64 now = f->n_sessions ? clock_now_ns() : 0;

        /* here, where no event of this round names one any more */
        if (f->n_sessions && f->n_sessions >= f->max_sessions)
                while (f->n_sessions >= f->max_sessions - f->max_sessions / 8)
                        make_room(f);
        if (now < f->expire_ns || !f->n_sessions)
                return;
        f->expire_ns = now + EXPIRE_SECONDS * NSEC_PER_SEC;
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                for (struct session **at = &f->session[i]; *at;)
                        if (now - (*at)->last_ns > SILENT_SECONDS * NSEC_PER_SEC)
                                end_session(f, at);
                        else
                                at = &(*at)->next;
}

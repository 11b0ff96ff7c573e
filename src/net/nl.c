#include "nl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

enum { REPLY = 32768, LEN_MAX = 1 << 20 };

int nl_open(int protocol, int *ret, struct err **err)
{
        const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

        if (fd < 0)
                return err_sys(err, errno, "opening a netlink socket");
        *ret = fd;
        return 0;
}

/* --- building ----------------------------------------------------------------------------------------------------- */

/* Room for @len bytes, zeroed and aligned. */
static void *take(struct nl *nl, size_t len)
{
        const size_t want = nl->len + NLMSG_ALIGN(len);
        void *p;

        if (want > nl->cap && !nl->failed) {
                const size_t cap = MAX(want * 2, (size_t)2048);

                p = want > LEN_MAX ? NULL : realloc(nl->data, cap);
                nl->failed = !p;
                if (p) {
                        nl->data = p;
                        nl->cap = cap;
                }
        }
        if (nl->failed)
                return NULL;
        p = nl->data + nl->len;
        memset(p, 0, NLMSG_ALIGN(len));
        nl->len = want;
        ((struct nlmsghdr *)(nl->data + nl->message))->nlmsg_len = (u32)(nl->len - nl->message);
        return p;
}

void nl_begin(struct nl *nl, u16 type, u16 flags, const void *head, size_t head_len)
{
        struct nlmsghdr *h;

        nl->message = nl->len;
        h = take(nl, sizeof(*h));
        if (!h)
                return;
        h->nlmsg_type = type;
        h->nlmsg_flags = flags | NLM_F_REQUEST;
        h->nlmsg_seq = nl->n++;
        nl_put_raw(nl, head, head_len);
}

void nl_put_raw(struct nl *nl, const void *data, size_t len)
{
        void *p = take(nl, len);

        if (p && len)
                memcpy(p, data, len);
}

void nl_put(struct nl *nl, u16 type, const void *data, size_t len)
{
        struct nlattr *a = take(nl, (size_t)NLA_HDRLEN + len);

        if (!a)
                return;
        a->nla_type = type;
        a->nla_len = (u16)((size_t)NLA_HDRLEN + len);
        if (len)
                memcpy(a + 1, data, len);
}

void nl_put_u8(struct nl *nl, u16 type, u8 v)
{
        nl_put(nl, type, &v, sizeof(v));
}

void nl_put_u16(struct nl *nl, u16 type, u16 v)
{
        nl_put(nl, type, &v, sizeof(v));
}

void nl_put_u32(struct nl *nl, u16 type, u32 v)
{
        nl_put(nl, type, &v, sizeof(v));
}

void nl_put_be32(struct nl *nl, u16 type, u32 v)
{
        nl_put_u32(nl, type, htonl(v));
}

void nl_put_string(struct nl *nl, u16 type, const char *text)
{
        nl_put(nl, type, text, strlen(text) + 1);
}

size_t nl_nest(struct nl *nl, u16 type)
{
        const size_t at = nl->len;

        nl_put(nl, type | NLA_F_NESTED, NULL, 0);
        return at;
}

void nl_end(struct nl *nl, size_t at)
{
        if (nl->failed)
                return;
        /* nla_len has 16 bits; nobody here nests more, and a message that did would be cut by the kernel's own check */
        if (nl->len - at > UINT16_MAX)
                nl->failed = true;
        else
                ((struct nlattr *)(nl->data + at))->nla_len = (u16)(nl->len - at);
}

void nl_free(struct nl *nl)
{
        free(nl->data);
        *nl = (struct nl){ 0 };
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static int send_all(int fd, struct nl *nl)
{
        const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        const int size = (int)nl->len * 2;

        if (nl->failed)
                return -ENOMEM;
        /* a message is charged to the send buffer whole */
        if (nl->len > 64 * KIB && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
                setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        while (sendto(fd, nl->data, nl->len, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

/* The next datagram of the kernel's; 0 bytes when there is none and @flags say not to wait. */
static ssize_t receive(int fd, void *buf, int flags)
{
        ssize_t n;

        do
                n = recv(fd, buf, REPLY, flags);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : -errno;
        return n;
}

int nl_send(int fd, struct nl *nl)
{
        return nl_ask(fd, nl, NULL, NULL);
}

int nl_ask(int fd, struct nl *nl, int (*fn)(void *opaque, const struct nlmsghdr *message), void *opaque)
{
        u8 buf[REPLY] __attribute__((aligned(NLMSG_ALIGNTO)));
        bool done = false;
        ssize_t n;
        int r = 0;

        nl->index = -1;
        /* Errors come without being asked for; one acknowledgement tells that there are none. All of it is in our queue
         * when send returns: the kernel works in the caller's context. */
        if (!nl->failed && nl->n)
                ((struct nlmsghdr *)(nl->data + nl->message))->nlmsg_flags |= NLM_F_ACK;
        n = send_all(fd, nl);
        nl->len = nl->n = 0;
        if (n < 0)
                return (int)n;
        while ((n = receive(fd, buf, MSG_DONTWAIT)) > 0) {
                for (const struct nlmsghdr *h = (const void *)buf; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
                        const struct nlmsgerr *e = NLMSG_DATA(h);

                        if (h->nlmsg_type >= NLMSG_MIN_TYPE && fn && !r)
                                r = fn(opaque, h);
                        if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
                                continue;
                        done = true;
                        if (e->error && !r) {
                                r = e->error;
                                nl->index = (int)e->msg.nlmsg_seq;
                        }
                }
        }
        if (n < 0)
                return (int)n;
        return done ? r : -EPROTO;
}

int nl_dump(int fd, struct nl *nl, int (*fn)(void *opaque, const struct nlmsghdr *message), void *opaque)
{
        u8 buf[REPLY] __attribute__((aligned(NLMSG_ALIGNTO)));
        int stopped = 0;
        ssize_t n;

        if (!nl->failed)
                ((struct nlmsghdr *)(nl->data + nl->message))->nlmsg_flags |= NLM_F_DUMP;
        n = send_all(fd, nl);
        nl->len = nl->n = 0;
        if (n < 0)
                return (int)n;
        /* to the end also when @fn has enough: the socket is used again */
        while ((n = receive(fd, buf, 0)) > 0) {
                for (const struct nlmsghdr *h = (const void *)buf; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
                        if (h->nlmsg_type == NLMSG_DONE)
                                return stopped;
                        if (h->nlmsg_type == NLMSG_ERROR)
                                return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
                        if (!stopped)
                                stopped = fn(opaque, h);
                }
        }
        return n < 0 ? (int)n : -EPROTO;
}

const struct nlattr *nl_find(const void *data, size_t len, u16 type, size_t min)
{
        const u8 *p = data;

        while (len >= (size_t)NLA_HDRLEN) {
                const struct nlattr *a = (const void *)p;
                const size_t step = NLA_ALIGN((size_t)a->nla_len);

                if (a->nla_len < NLA_HDRLEN || a->nla_len > len)
                        return NULL;
                if ((a->nla_type & NLA_TYPE_MASK) == type)
                        return nl_value_len(a) >= min ? a : NULL;
                if (step > len)
                        return NULL;
                p += step;
                len -= step;
        }
        return NULL;
}

const struct nlattr *nl_attribute(const struct nlmsghdr *message, size_t head_len, u16 type, size_t min)
{
        const size_t head = NLMSG_LENGTH(0) + NLMSG_ALIGN(head_len);

        return message->nlmsg_len <= head ? NULL
                                          : nl_find((const u8 *)message + head, message->nlmsg_len - head, type, min);
}

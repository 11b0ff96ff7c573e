/* strata-resolve hold: stays where it is (inner.c).
 * strata-resolve CONTAINER ASKER [SERVER...]: answers one container's questions for names; only those from the address ASKER, "-": all.
 *
 * Started by net_attach with the descriptors below. The sockets are bound in the container's network namespace; the
 * process itself is in the host's, from where it asks the name servers. It ends with the container (pidfd), or is
 * killed by net_detach.
 *
 * Theory of operation. One thread, one poll loop, fixed memory. A question by UDP is answered at once when the name is
 * that of a container on one of the asker's networks (or a reverse name of such an address); otherwise it goes to a
 * server from a socket of its own, connected, with a number of its own, so that a reply must come from that server, to
 * that port, with that number and that question. Three servers at most are tried, two seconds each. Questions by TCP
 * (long answers) are taken one at a time on each of a few connections; what has to be asked outside is passed on over
 * TCP, byte by byte. Whatever does not fit is dropped, as the network might have. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "dns.h"
#include "lookup.h"
#include "net/sandbox.h"
#include "upstream.h"

/* What net_attach gives (resolver.c). */
enum { FD_UDP = 3, FD_TCP, FD_RUN, FD_LOCK, FD_CONTAINER };

enum { WAITING_MAX = 32, CONNECTIONS_MAX = 8, QUERY_MAX = 512, TRIES_MAX = 3, TRY_MS = 2000, CONNECTION_MS = 10000 };

/* A question by UDP that a server was asked. */
struct waiting {
        int fd; /* 0: free */
        struct sockaddr_in asker;
        u64 deadline_ns;
        u16 asker_number, len;
        u8 tries;
        u8 query[QUERY_MAX]; /* with our number */
};

enum step { READ_QUERY, SEND_QUERY, READ_REPLY, WRITE_REPLY };

/* A connection, and the one to a server that its question went to. */
struct connection {
        int fd; /* 0: free */
        int server;
        enum step step;
        u64 deadline_ns;
        size_t len, done;  /* of buf */
        size_t reply_left; /* bytes of the server's reply that have not come yet; its length field: SIZE_MAX */
        u8 buf[2 + DNS_MESSAGE_MAX];
};

struct resolver {
        struct lookup lookup;
        struct upstream upstream;
        struct ip asker; /* len 0: whoever reaches the sockets is the container */
        struct waiting waiting[WAITING_MAX];
        struct connection connection[CONNECTIONS_MAX];
        u8 message[DNS_MESSAGE_MAX], answer[DNS_MESSAGE_MAX];
};

/* --- answers of our own ------------------------------------------------------------------------------------------- */

enum verdict { ANSWERED, ASK_OUTSIDE, SILENCE };

/* Whether a name is for us to answer; then the answer is in @out. */
static enum verdict answer_locally(struct resolver *r, const u8 *query, size_t len, struct dns_question *question,
        u8 *out, size_t size, size_t *ret_len)
{
        struct ip addresses[ADDRESSES_MAX], ip;
        struct dns_answer answer = { .rcode = DNS_OK, .addresses = addresses };
        char name[DNS_NAME_MAX + 1];
        const int parsed = dns_parse_query(query, len, question);

        if (parsed == -EBADMSG)
                return SILENCE;
        if (parsed < 0) {
                answer.rcode = parsed == -ENOSYS ? DNS_NOT_IMPLEMENTED : DNS_FORMAT_ERROR;
        } else if (question->is_plain && (answer.n = lookup_name(&r->lookup, question->name, addresses)) > 0) {
                /* the name exists: no address of the type that was asked for is an answer, too */
        } else if (question->type == DNS_PTR && dns_reverse(question->name, &ip) == 0 &&
                   lookup_address(&r->lookup, &ip, name, sizeof(name))) {
                answer.name = name;
        } else if (!lookup_may_ask_outside(&r->lookup)) {
                answer.rcode = DNS_NO_SUCH_NAME;
        } else {
                upstream_refresh(&r->upstream);
                if (r->upstream.n)
                        return ASK_OUTSIDE;
                answer.rcode = DNS_SERVER_FAILURE;
        }
        *ret_len = dns_write_answer(query, question, &answer, out, size);
        return ANSWERED;
}

static size_t write_failure(const u8 *query, const struct dns_question *question, u8 *out, size_t size)
{
        return dns_write_answer(query, question, &(struct dns_answer){ .rcode = DNS_SERVER_FAILURE }, out, size);
}

/* --- UDP ---------------------------------------------------------------------------------------------------------- */

static void reply(const struct sockaddr_in *asker, const u8 *message, size_t len)
{
        /* one that cannot be delivered is lost, as any may be */
        (void)!sendto(FD_UDP, message, len, MSG_DONTWAIT, (const struct sockaddr *)asker, sizeof(*asker));
}

static void forget_server(struct waiting *w)
{
        if (w->fd)
                close(w->fd);
        w->fd = 0;
}

/* Asks the next server; without one more the asker is told. */
static void ask_next(struct resolver *r, struct waiting *w)
{
        struct dns_question question;

        forget_server(w);
        while (w->tries < TRIES_MAX && r->upstream.n) {
                const int fd = upstream_connect(&r->upstream.server[w->tries++ % r->upstream.n], SOCK_DGRAM);

                if (fd < 0)
                        continue;
                if (send(fd, w->query, w->len, 0) == w->len) {
                        w->fd = fd;
                        w->deadline_ns = clock_now_ns() + TRY_MS * 1000000ULL;
                        return;
                }
                close(fd);
        }
        dns_put16(w->query, w->asker_number);
        if (dns_parse_query(w->query, w->len, &question) == 0)
                reply(&w->asker, r->answer, write_failure(w->query, &question, r->answer, QUERY_MAX));
}

static void ask_outside(struct resolver *r, const struct sockaddr_in *asker, const u8 *query, size_t len)
{
        struct waiting *w = NULL;
        u16 number;

        for (size_t i = 0; i < WAITING_MAX && !w; i++)
                if (!r->waiting[i].fd)
                        w = &r->waiting[i];
        if (!w || len > QUERY_MAX || getrandom(&number, sizeof(number), 0) != sizeof(number))
                return;
        *w = (struct waiting){ .asker = *asker, .asker_number = dns_get16(query), .len = (u16)len };
        memcpy(w->query, query, len);
        dns_put16(w->query, number);
        ask_next(r, w);
}

static bool may_ask(const struct resolver *r, const struct sockaddr_in *asker)
{
        return !r->asker.len || memcmp(&asker->sin_addr, r->asker.bytes, 4) == 0;
}

static void take_question(struct resolver *r)
{
        struct sockaddr_in asker;
        socklen_t asker_len = sizeof(asker);
        struct dns_question question;
        size_t answer_len;
        ssize_t n;

        n = recvfrom(FD_UDP, r->message, sizeof(r->message), MSG_DONTWAIT, (struct sockaddr *)&asker, &asker_len);
        if (n <= 0 || asker_len != sizeof(asker) || !may_ask(r, &asker))
                return;
        switch (answer_locally(r, r->message, (size_t)n, &question, r->answer, QUERY_MAX, &answer_len)) {
        case ANSWERED:
                reply(&asker, r->answer, answer_len);
                break;
        case ASK_OUTSIDE:
                ask_outside(r, &asker, r->message, (size_t)n);
                break;
        case SILENCE:
                break;
        }
}

static void take_reply(struct resolver *r, struct waiting *w)
{
        struct dns_question question;
        const ssize_t n = recv(w->fd, r->message, sizeof(r->message), MSG_DONTWAIT | MSG_TRUNC);

        if (n < 0) {
                if (errno != EAGAIN)
                        ask_next(r, w); /* refused, unreachable */
                return;
        }
        if (n > (ssize_t)sizeof(r->message) || dns_parse_query(w->query, w->len, &question) < 0 ||
                !dns_is_reply(r->message, (size_t)n, w->query, &question))
                return; /* not what was asked: the right one may still come */
        dns_put16(r->message, w->asker_number);
        reply(&w->asker, r->message, (size_t)n);
        forget_server(w);
}

/* --- TCP ---------------------------------------------------------------------------------------------------------- */

static void close_connection(struct connection *c)
{
        close(c->fd);
        if (c->server)
                close(c->server);
        c->fd = c->server = 0;
}

static void next_question(struct connection *c)
{
        if (c->server)
                close(c->server);
        c->server = 0;
        c->step = READ_QUERY;
        c->len = c->done = 0;
        c->deadline_ns = clock_now_ns() + CONNECTION_MS * 1000000ULL;
}

static void take_connection(struct resolver *r)
{
        struct connection *c = NULL;
        struct sockaddr_in asker = { 0 };
        socklen_t asker_len = sizeof(asker);
        const int fd = accept4(FD_TCP, (struct sockaddr *)&asker, &asker_len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        for (size_t i = 0; i < CONNECTIONS_MAX && !c; i++)
                if (!r->connection[i].fd)
                        c = &r->connection[i];
        if (fd < 0 || !c || !may_ask(r, &asker)) {
                if (fd >= 0)
                        close(fd);
                return;
        }
        c->fd = fd;
        next_question(c);
}

static void reply_by_tcp(struct connection *c, const u8 *message, size_t len)
{
        memmove(c->buf + 2, message, len);
        dns_put16(c->buf, (unsigned)len);
        c->len = len + 2;
        c->done = 0;
        c->reply_left = 0;
        c->step = WRITE_REPLY;
}

/* The whole question is there. */
static void answer_by_tcp(struct resolver *r, struct connection *c)
{
        struct dns_question question;
        size_t len;

        switch (answer_locally(r, c->buf + 2, c->len - 2, &question, r->answer, sizeof(r->answer), &len)) {
        case ANSWERED:
                reply_by_tcp(c, r->answer, len);
                return;
        case ASK_OUTSIDE:
                c->server = upstream_connect(&r->upstream.server[0], SOCK_STREAM);
                if (c->server > 0) {
                        c->step = SEND_QUERY;
                        c->done = 0;
                        return;
                }
                c->server = 0;
                reply_by_tcp(c, r->answer, write_failure(c->buf + 2, &question, r->answer, sizeof(r->answer)));
                return;
        case SILENCE:
                close_connection(c);
                return;
        }
}

/* Moves what can be moved: true when there was something. Errors and the other side's end close the connection. */
static void read_query(struct resolver *r, struct connection *c)
{
        const size_t want = c->len < 2 ? 2 : 2 + (size_t)dns_get16(c->buf);
        ssize_t n;

        if (want > sizeof(c->buf)) {
                close_connection(c);
                return;
        }
        n = recv(c->fd, c->buf + c->len, want - c->len, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
                close_connection(c);
                return;
        }
        c->len += n > 0 ? (size_t)n : 0;
        if (c->len > 2 && c->len == 2 + (size_t)dns_get16(c->buf))
                answer_by_tcp(r, c);
}

static void send_query(struct connection *c)
{
        const ssize_t n = send(c->server, c->buf + c->done, c->len - c->done, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN) {
                close_connection(c);
                return;
        }
        c->done += n > 0 ? (size_t)n : 0;
        if (c->done == c->len) {
                c->step = READ_REPLY;
                c->reply_left = SIZE_MAX;
                c->len = c->done = 0;
        }
}

static void read_reply(struct connection *c)
{
        const size_t room = sizeof(c->buf) - c->len;
        const ssize_t n = recv(c->server, c->buf + c->len,
                c->reply_left == SIZE_MAX ? 2 - c->len : MIN(room, c->reply_left), MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN)) {
                close_connection(c);
                return;
        }
        c->len += n > 0 ? (size_t)n : 0;
        if (c->reply_left == SIZE_MAX) {
                if (c->len < 2)
                        return;
                c->reply_left = dns_get16(c->buf);
        } else {
                c->reply_left -= n > 0 ? (size_t)n : 0;
        }
        c->done = 0;
        c->step = WRITE_REPLY;
}

static void write_reply(struct connection *c)
{
        const ssize_t n = send(c->fd, c->buf + c->done, c->len - c->done, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN) {
                close_connection(c);
                return;
        }
        c->done += n > 0 ? (size_t)n : 0;
        if (c->done < c->len)
                return;
        if (c->reply_left) {
                c->step = READ_REPLY;
                c->len = 0;
        } else {
                next_question(c);
        }
}

static void serve_connection(struct resolver *r, struct connection *c)
{
        switch (c->step) {
        case READ_QUERY:
                read_query(r, c);
                break;
        case SEND_QUERY:
                send_query(c);
                break;
        case READ_REPLY:
                read_reply(c);
                break;
        case WRITE_REPLY:
                write_reply(c);
                break;
        }
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

enum { POLL_MAX = 3 + WAITING_MAX + CONNECTIONS_MAX };

/* Fills in what to wait for; returns how long, in milliseconds. */
static int prepare(const struct resolver *r, struct pollfd fds[POLL_MAX])
{
        u64 next = UINT64_MAX, now;

        fds[0] = (struct pollfd){ .fd = FD_UDP, .events = POLLIN };
        fds[1] = (struct pollfd){ .fd = FD_TCP, .events = POLLIN };
        fds[2] = (struct pollfd){ .fd = FD_CONTAINER, .events = POLLIN };
        for (size_t i = 0; i < WAITING_MAX; i++) {
                const struct waiting *w = &r->waiting[i];

                fds[3 + i] = (struct pollfd){ .fd = w->fd ? w->fd : -1, .events = POLLIN };
                if (w->fd)
                        next = MIN(next, w->deadline_ns);
        }
        for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
                const struct connection *c = &r->connection[i];
                const bool with_server = c->step == SEND_QUERY || c->step == READ_REPLY;

                fds[3 + WAITING_MAX + i] = (struct pollfd){ .fd = !c->fd        ? -1
                                                                  : with_server ? c->server
                                                                                : c->fd,
                        .events = c->step == SEND_QUERY || c->step == WRITE_REPLY ? POLLOUT : POLLIN };
                if (c->fd)
                        next = MIN(next, c->deadline_ns);
        }
        if (next == UINT64_MAX)
                return -1;
        now = clock_now_ns();
        return next <= now ? 0 : (int)((next - now) / 1000000 + 1);
}

static void serve(struct resolver *r, const struct pollfd fds[POLL_MAX])
{
        const u64 now = clock_now_ns();

        for (size_t i = 0; i < WAITING_MAX; i++) {
                struct waiting *w = &r->waiting[i];

                if (!w->fd)
                        continue;
                if (fds[3 + i].revents)
                        take_reply(r, w);
                else if (w->deadline_ns <= now)
                        ask_next(r, w);
        }
        for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
                struct connection *c = &r->connection[i];

                if (!c->fd)
                        continue;
                if (fds[3 + WAITING_MAX + i].revents)
                        serve_connection(r, c);
                else if (c->deadline_ns <= now)
                        close_connection(c);
        }
        if (fds[0].revents)
                take_question(r);
        if (fds[1].revents)
                take_connection(r);
}

/* Whether a container is there to be followed: the descriptor is /dev/null otherwise, which poll finds ready at once.
 * */
static bool follows_container(void)
{
        struct pollfd fd = { .fd = FD_CONTAINER, .events = POLLIN };

        return poll(&fd, 1, 0) == 0;
}

/* Reading files, and talking on sockets. */
static const struct sock_filter filter[] = {
        SANDBOX_BEGIN,
        SANDBOX_ALLOW(poll),
        SANDBOX_ALLOW(recvfrom),
        SANDBOX_ALLOW(sendto),
        SANDBOX_ALLOW(read),
        SANDBOX_ALLOW(write),
        SANDBOX_ALLOW(close),
        SANDBOX_ALLOW(accept4),
        SANDBOX_ALLOW(connect),
        SANDBOX_ALLOW(getsockopt),
        SANDBOX_ALLOW(readlinkat),
        SANDBOX_ALLOW(getdents64),
        SANDBOX_ALLOW(faccessat),
        SANDBOX_ALLOW(faccessat2),
        SANDBOX_ALLOW(fstat),
        SANDBOX_ALLOW(newfstatat),
        SANDBOX_ALLOW(clock_gettime),
        SANDBOX_ALLOW(getrandom),
        SANDBOX_ALLOW(exit_group),
        SANDBOX_ALLOW(rt_sigreturn),
        SANDBOX_ALLOW(restart_syscall), /* a poll that was interrupted by a stop */
        SANDBOX_ALLOW_WITHOUT(openat, 2, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC),
        SANDBOX_INTERNET_SOCKETS,
};

extern const char __executable_start[], etext[];

/* Start-up went through pages of the program that are not needed again: an idle resolver has 150 KiB less without
 * them. Those that are come back when they are used. */
static void forget_startup(void)
{
        const uintptr_t begin = (uintptr_t)__executable_start & ~(uintptr_t)4095,
                        end = (uintptr_t)etext & ~(uintptr_t)4095;

        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* The network namespace stays as long as this process does. It reads nothing of anybody, and stays the user's, who may have to kill it
 * from another user namespace. */
static int hold(void)
{
        if (!helper_is_wanted(FD_LOCK))
                return 1;
        for (;;)
                poll(NULL, 0, -1);
}

int main(int argc, char **argv)
{
        static struct resolver r;
        struct pollfd fds[POLL_MAX];
        bool follows;

        if (argc == 2 && strcmp(argv[1], "hold") == 0)
                return hold();
        if (argc < 3 || (strcmp(argv[2], "-") != 0 && (ip_parse(argv[2], &r.asker) < 0 || r.asker.len != 4)) ||
                !helper_is_wanted(FD_LOCK))
                return 1;
        r.lookup = (struct lookup){ .run = FD_RUN, .container = argv[1] };
        for (int i = 3; i < argc && r.upstream.n < SERVERS_MAX; i++)
                if (ip_parse(argv[i], &r.upstream.server[r.upstream.n]) == 0)
                        r.upstream.n++;
        r.upstream.fixed = r.upstream.n > 0;
        follows = follows_container();
        forget_startup();
        if (sandbox_enter(filter, ARRAY_SIZE(filter)) < 0)
                return 1;
        for (;;) {
                const int timeout = prepare(&r, fds);

                if (!follows)
                        fds[2].fd = -1;
                if (poll(fds, POLL_MAX, timeout) < 0 && errno != EINTR)
                        return 1;
                if (fds[2].fd >= 0 && fds[2].revents)
                        return 0;
                serve(&r, fds);
        }
}

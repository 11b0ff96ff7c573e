/* strata-forward: published ports of a container on a network of a user who is not root.
 *
 * Theory of operation. Sockets belong to the network namespace in which they were made. Those that listen come from the host's (rules.h);
 * the process itself is in the namespace of the user's networks (inner.c), so those that it makes reach containers. It passes on what
 * comes between the two, and looks at none of it. The container sees its network's gateway as the other side.
 *
 * One thread, one epoll set, level-triggered. Of a connection's data nothing is kept here: what cannot be sent on stays in the kernel's
 * queue (MSG_PEEK; what was sent is then dropped from it), and is not looked at before there is room: so memory is bounded and the
 * sender feels it. A TCP end is passed on as an end, a reset as a reset. For UDP each client has a session, a connected socket towards the container, until it is silent for a while.
 *
 * It ends with the container (pidfd), or is killed by net_detach; with it the ports are free. */
#include "forward.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd_pass.h"
#include "net/sandbox.h"

enum { EVENTS_MAX = 64, QUIET_MS = 5000, CONNECTIONS_MAX = 4096, SESSIONS_MAX = 1024, SPARE_FDS = 16 };

static const struct sock_filter filter[] = {
        SANDBOX_BEGIN,
        SANDBOX_ALLOW(epoll_wait),
        SANDBOX_ALLOW(epoll_pwait),
        SANDBOX_ALLOW(epoll_ctl),
        SANDBOX_ALLOW(recvfrom),
        SANDBOX_ALLOW(sendto),
        SANDBOX_ALLOW(recvmsg),
        SANDBOX_ALLOW(sendmsg),
        SANDBOX_ALLOW(accept4),
        SANDBOX_ALLOW(connect),
        SANDBOX_ALLOW(shutdown),
        SANDBOX_ALLOW(setsockopt),
        SANDBOX_ALLOW(getsockopt),
        SANDBOX_ALLOW(close),
        SANDBOX_ALLOW(brk),
        SANDBOX_ALLOW(munmap),
        SANDBOX_ALLOW_WITHOUT(mmap, 2, PROT_EXEC),
        SANDBOX_ALLOW(clock_gettime),
        SANDBOX_ALLOW(exit_group),
        SANDBOX_ALLOW(rt_sigreturn),
        SANDBOX_ALLOW(restart_syscall),
        SANDBOX_INTERNET_SOCKETS,
};

void source_watch(struct forwarder *f, struct source *source, u32 events)
{
        struct epoll_event event = { .events = events, .data.ptr = source };
        const int op = !events ? EPOLL_CTL_DEL : source->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

        if (events == source->events)
                return;
        /* a socket that nobody wants anything of is taken out: its errors would be reported again and again */
        if (epoll_ctl(f->epoll, op, source->fd, &event) == 0 || !events)
                source->events = events;
}

int target_connect(const struct forward_rule *rule, int type)
{
        struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(rule->port) };
        struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(rule->port) };
        const bool is_v4 = rule->target.len == 4;
        const int fd = socket(is_v4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int r;

        if (fd < 0)
                return -errno;
        memcpy(is_v4 ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr, rule->target.bytes, rule->target.len);
        if (connect(fd, is_v4 ? (void *)&v4 : (void *)&v6, is_v4 ? sizeof(v4) : sizeof(v6)) == 0 ||
                errno == EINPROGRESS)
                return fd;
        r = -errno;
        close(fd);
        return r;
}

/* --- start -------------------------------------------------------------------------------------------------------- */

static int add_listeners(struct forwarder *f, const struct forward_rule *rule, const int *fds, size_t n)
{
        struct listener *more = realloc(f->listener, (f->n_listeners + n) * sizeof(*more));

        if (!more)
                return -ENOMEM;
        f->listener = more;
        for (size_t i = 0; i < n; i++)
                f->listener[f->n_listeners++] = (struct listener){ .rule = rule[i],
                        .source = { .fd = fds[i], .ready = rule[i].protocol == IPPROTO_TCP ? tcp_accept : udp_take } };
        return 0;
}

static int receive_rules(struct forwarder *f)
{
        for (;;) {
                struct forward_rule rules[FDS_AT_ONCE];
                int fds[FDS_AT_ONCE];
                unsigned n = 0;
                const ssize_t len = fds_receive(FORWARD_FD_RULES, rules, sizeof(rules), fds, &n, FDS_AT_ONCE, 0);

                if (len == -EINTR)
                        continue;
                if (len <= 0)
                        return (int)len;
                if ((size_t)len != n * sizeof(rules[0])) /* descriptors that we had no room for */
                        return -EMFILE;
                if (add_listeners(f, rules, fds, n) < 0)
                        return -ENOMEM;
        }
}

static void watch_listeners(struct forwarder *f)
{
        for (size_t i = 0; i < f->n_listeners; i++) {
                if (f->listener[i].rule.protocol == IPPROTO_UDP)
                        udp_prepare(&f->listener[i]);
                source_watch(f, &f->listener[i].source, EPOLLIN);
        }
}

static size_t raise_limit(void)
{
        struct rlimit limit = { 0 };

        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
        return limit.rlim_cur;
}

/* A third of what descriptors there are for sessions, the rest for connections, two each. */
static int divide(struct forwarder *f, size_t fds)
{
        const size_t used = f->n_listeners + SPARE_FDS;

        if (fds < used + 8)
                return -EMFILE;
        f->max_sessions = MIN((fds - used) / 3, (size_t)SESSIONS_MAX);
        f->max_connections = MIN((fds - used - f->max_sessions) / 2, (size_t)CONNECTIONS_MAX);
        return 0;
}

static void container_ended(struct forwarder *f, struct source *source, u32 events)
{
        _exit(0);
}

int main(void)
{
        static struct forwarder f;
        struct source container = { .fd = FORWARD_FD_CONTAINER, .ready = container_ended };
        struct epoll_event event[EVENTS_MAX];
        const size_t fds = raise_limit();

        f.epoll = epoll_create1(EPOLL_CLOEXEC);
        if (f.epoll < 0 || !helper_is_wanted(FORWARD_FD_LOCK) || receive_rules(&f) < 0 || divide(&f, fds) < 0)
                return 1;
        source_watch(&f, &container, EPOLLIN); /* not when nobody is followed: /dev/null cannot be watched */
        watch_listeners(&f);
        if (send(FORWARD_FD_RULES, "", 1, MSG_NOSIGNAL) != 1)
                return 1;
        close(FORWARD_FD_RULES);
        if (sandbox_enter(filter, ARRAY_SIZE(filter)) < 0)
                return 1;
        for (;;) {
                const int n = epoll_wait(f.epoll, event, EVENTS_MAX, f.n_sessions || f.full ? QUIET_MS : -1);

                if (n < 0 && errno != EINTR)
                        return 1;
                for (int i = 0; i < n; i++) {
                        struct source *source = event[i].data.ptr;

                        source->ready(&f, source, event[i].events);
                }
                tcp_bury(&f, n == 0);
                udp_expire(&f);
        }
}

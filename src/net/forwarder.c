/* Starting and finding the process that passes on what comes to the ports of a container on a network of a user who is not root:
 * strata-forward (forward/). Its listening sockets are bound in the host's network namespace, and come here as net_attach's "holds". */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "attach.h"
#include "base/fd_pass.h"
#include "forward/rules.h"
#include "helper.h"

#define KIND    "ports"
#define PROGRAM "strata-forward"

/* Whether the socket is bound to that port: of what address and number is it? */
static bool is_bound_to(int fd, const struct published *p, struct ip *ret_local)
{
        struct sockaddr_in6 v6 = { 0 };
        struct sockaddr_in v4;
        socklen_t len = sizeof(v6), protocol_len = sizeof(int);
        int protocol = 0;

        if (getsockname(fd, (struct sockaddr *)&v6, &len) < 0 ||
                getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &protocol_len) < 0)
                return false;
        memcpy(&v4, &v6, sizeof(v4));
        *ret_local = (struct ip){ .len = v6.sin6_family == AF_INET ? 4 : 16 };
        memcpy(ret_local->bytes, ret_local->len == 4 ? (const void *)&v4.sin_addr : (const void *)&v6.sin6_addr,
                ret_local->len);
        return protocol == p->protocol &&
               ntohs(v6.sin6_port) == p->host_port && /* at the same place in both families */
               (!p->host_ip.len || ip_equal(&p->host_ip, ret_local));
}

static int rule_of(const struct endpoint *endpoint, int fd, struct forward_rule *ret)
{
        for (size_t i = 0; i < endpoint->n_ports; i++) {
                const struct published *p = &endpoint->ports[i];
                struct ip local;

                if (!is_bound_to(fd, p, &local))
                        continue;
                *ret = (struct forward_rule){ .target = endpoint->ip[local.len == 4 ? V4 : V6],
                        .port = p->container_port,
                        .protocol = p->protocol };
                return ret->target.len ? 0 : -EAFNOSUPPORT;
        }
        return -ENOENT;
}

static int tell(int sock, const struct endpoint *endpoint, const struct port_holds *holds)
{
        struct forward_rule rules[FDS_AT_ONCE] = { 0 };

        for (size_t i = 0, n; i < holds->n; i += n) {
                ssize_t sent;

                n = MIN(holds->n - i, (size_t)FDS_AT_ONCE);
                for (size_t k = 0; k < n; k++) {
                        const int r = rule_of(endpoint, holds->fd[i + k], &rules[k]);

                        if (r < 0)
                                return r;
                }
                sent = fds_send(sock, rules, n * sizeof(rules[0]), holds->fd + i, n, 0);
                if (sent < 0)
                        return (int)sent;
        }
        return shutdown(sock, SHUT_WR) < 0 ? -errno : 0;
}

bool forwarder_runs(struct net_store *store, const char *container)
{
        pid_t pid;

        return helper_find(store, container, KIND, &pid) == 0;
}

void forwarder_stop(struct net_store *store, const char *container)
{
        helper_stop(store, container, KIND);
}

int forwarder_start(
        struct net_store *store, const struct endpoint *endpoint, const struct port_holds *holds, struct err **err)
{
        _cleanup_free_ char *program = helper_program(PROGRAM);
        _cleanup_close_ int lock = -1, pidfd = -1, ours = -1;
        int pair[2], r;
        pid_t child;
        char byte;

        if (!program)
                return err_hint(err,
                        err_set(err, ERR_NOT_FOUND, ENOENT,
                                "the program '" PROGRAM "', which publishes ports, is missing"),
                        "it belongs beside strata");
        r = helper_open(store, endpoint->container, KIND, &lock, err);
        if (r < 0)
                return r;
        if (endpoint->pid > 0)
                pidfd = (int)syscall(SYS_pidfd_open, endpoint->pid, 0);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return err_sys(err, errno, "publishing ports");
        ours = pair[0];
        /* the order of rules.h */
        r = helper_spawn(
                (const char *const[]){ program, NULL }, (const int[]){ pair[1], lock, pidfd }, 3, -1, &child, err);
        close(pair[1]);
        if (r < 0)
                return r;
        r = tell(ours, endpoint, holds);
        if (r == 0 && recv(ours, &byte, 1, 0) != 1)
                r = -ECONNRESET;
        if (r < 0) {
                forwarder_stop(store, endpoint->container);
                return err_sys(err, -r, "publishing ports by " PROGRAM);
        }
        return 0;
}

int forwarder_publish(struct net_store *inner, const char *container, const char *key, const struct endpoint *published,
        const struct port_holds *holds, struct err **err)
{
        _cleanup_(endpoint_freep) struct endpoint *endpoint = NULL;
        _cleanup_close_ int lock = -1, dir = -1;
        int r = net_store_lock(inner, LOCK_SH, &lock, err);

        if (r == 0)
                r = endpoint_lock(inner, container, false, &dir, err);
        if (r == 0)
                r = endpoint_read(dir, key, &endpoint, err);
        if (r == -ENOENT)
                return err_set(err, ERR_IO, ENOENT, "the record of the endpoint is gone");
        if (r < 0)
                return r;
        endpoint->ports = published->ports;
        endpoint->n_ports = published->n_ports;
        endpoint->forwarded = true;
        r = endpoint_write(dir, endpoint, err);
        return r < 0 ? r : forwarder_start(inner, endpoint, holds, err);
}

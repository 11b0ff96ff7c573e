#include "ports.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* --- what the user writes ----------------------------------------------------------------------------------------- */

static const struct {
        const char *name;
        u8 protocol;
        int socket_type;
} protocols[] = {
        { "tcp", IPPROTO_TCP, SOCK_STREAM },
        { "udp", IPPROTO_UDP, SOCK_DGRAM },
        { "sctp", IPPROTO_SCTP, SOCK_STREAM },
};

const char *net_protocol_name(u8 protocol)
{
        for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
                if (protocols[i].protocol == protocol)
                        return protocols[i].name;
        return "?";
}

u8 net_protocol_by_name(const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
                if (strcmp(protocols[i].name, name) == 0)
                        return protocols[i].protocol;
        return 0;
}

/* "N" or "N-M", 1 to 65535, up to @end. */
static int parse_range(const char *text, const char *end, u16 *first, u16 *last)
{
        unsigned long v[2] = { 0, 0 };
        int n = 0;

        for (; n < 2; n++) {
                if (text == end || *text < '0' || *text > '9')
                        return -EINVAL;
                for (; text < end && *text >= '0' && *text <= '9'; text++)
                        if ((v[n] = v[n] * 10 + (unsigned)(*text - '0')) > 65535)
                                return -EINVAL;
                if (text == end)
                        break;
                if (n == 1 || *text++ != '-')
                        return -EINVAL;
        }
        v[1] = n ? v[1] : v[0];
        if (!v[0] || v[1] < v[0])
                return -EINVAL;
        *first = (u16)v[0];
        *last = (u16)v[1];
        return 0;
}

/* The address in front: up to the last colon but one, or in brackets. *ret_rest: what is behind it and its colon. */
static int parse_host_ip(char *text, char **ret_rest, const char **ret_ip)
{
        char *first = strchr(text, ':'), *end = NULL;
        struct ip ip;

        if (*text == '[') {
                end = strchr(++text, ']');
                if (!end || end[1] != ':')
                        return -EINVAL;
                *end = '\0';
                *ret_rest = end + 2;
        } else if (first && strchr(first + 1, ':')) {
                *first = '\0';
                *ret_rest = first + 1;
        } else {
                *ret_ip = NULL;
                *ret_rest = text;
                return 0;
        }
        *ret_ip = *text ? text : NULL;
        return !*ret_ip ? 0 : ip_parse(text, &ip);
}

static int parse_port(char *text, struct net_port *ret)
{
        struct net_port port = { .protocol = IPPROTO_TCP };
        char *slash = strchr(text, '/'), *rest, *colon;
        u32 n;

        if (slash) {
                *slash = '\0';
                port.protocol = net_protocol_by_name(slash + 1);
                if (!port.protocol)
                        return -EPROTONOSUPPORT;
        }
        if (parse_host_ip(text, &rest, &port.host_ip) < 0)
                return -EADDRNOTAVAIL;
        colon = strchr(rest, ':');
        if (!colon && port.host_ip)
                return -EINVAL;
        if (colon && colon != rest && parse_range(rest, colon, &port.host_first, &port.host_last) < 0)
                return -EINVAL;
        rest = colon ? colon + 1 : rest;
        if (parse_range(rest, rest + strlen(rest), &port.container_first, &port.container_last) < 0)
                return -EINVAL;
        n = (u32)port.container_last - port.container_first;
        if (port.host_first && n && n != (u32)port.host_last - port.host_first)
                return -ERANGE;
        if (n >= PORTS_MAX)
                return -E2BIG;
        *ret = port;
        return 0;
}

int net_port_parse(const char *text, struct net_ports *ports, struct err **err)
{
        _cleanup_free_ char *copy = strdup(text), *ip = NULL;
        struct net_port port, *more;
        int r;

        if (!copy)
                return err_sys(err, ENOMEM, "reading a port");
        r = parse_port(copy, &port);
        if (r == -EPROTONOSUPPORT)
                return err_set(err, ERR_USAGE, EINVAL,
                        "the port '%s' has an unknown protocol: tcp, udp and sctp are known", text);
        if (r == -EADDRNOTAVAIL)
                return err_set(err, ERR_USAGE, EINVAL, "the port '%s' has no valid address in front", text);
        if (r == -ERANGE)
                return err_set(err, ERR_USAGE, EINVAL, "the port '%s' has ranges of different lengths", text);
        if (r == -E2BIG)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "the port '%s' is a range of more than %d", text, PORTS_MAX);
        if (r < 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is no port to publish", text),
                        "[IP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp]");
        if (port.host_ip) {
                ip = strdup(port.host_ip);
                port.host_ip = ip;
                if (!ip)
                        return err_sys(err, ENOMEM, "reading a port");
        }
        more = realloc(ports->item, (ports->n + 1) * sizeof(*more));
        if (!more)
                return err_sys(err, ENOMEM, "reading a port");
        ports->item = more;
        ports->item[ports->n++] = port;
        ip = NULL;
        return 0;
}

void net_ports_clear(struct net_ports *ports)
{
        for (size_t i = 0; i < ports->n; i++)
                free((char *)ports->item[i].host_ip);
        free(ports->item);
        *ports = (struct net_ports){ 0 };
}

/* --- ports of the host -------------------------------------------------------------------------------------------- */

void port_holds_close(struct port_holds *holds)
{
        for (size_t i = 0; i < holds->n; i++)
                closep(&holds->fd[i]);
        free(holds->fd);
        *holds = (struct port_holds){ .listen = holds->listen };
}

static int bind_one(u8 protocol, const struct ip *ip, u16 port, bool reuse, int *ret)
{
        struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
        struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
        const struct sockaddr *address = ip->len == 4 ? (void *)&v4 : (void *)&v6;
        _cleanup_close_ int fd = -1;
        const int on = 1;
        int type = 0;

        memcpy(ip->len == 4 ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr, ip->bytes, ip->len);
        for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
                if (protocols[i].protocol == protocol)
                        type = protocols[i].socket_type;
        fd = socket(address->sa_family, type | SOCK_CLOEXEC, protocol);
        if (fd < 0)
                return -errno;
        if (ip->len == 16 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
                return -errno;
        if (reuse && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
                return -errno;
        if (bind(fd, address, ip->len == 4 ? sizeof(v4) : sizeof(v6)) < 0)
                return -errno;
        *ret = TAKE_FD(fd);
        return 0;
}

/* SO_REUSEADDR gets a port where connections of an earlier program linger, and gets past other bound sockets too; only
 * listening tells that nobody else listens. */
static int bind_and_listen(const struct ip *ip, u16 port, int *ret)
{
        _cleanup_close_ int fd = -1;
        int r = bind_one(IPPROTO_TCP, ip, port, true, &fd);

        if (r < 0)
                return r;
        if (listen(fd, SOMAXCONN) < 0)
                return -EADDRINUSE;
        *ret = TAKE_FD(fd);
        return 0;
}

/* A bound socket that does not listen keeps the port from everybody. Where connections of an earlier program linger
 * only SO_REUSEADDR gets it, which lets others in who say so too, but not one who listens. */
static int hold(u8 protocol, const struct ip *ip, u16 port, struct port_holds *holds)
{
        const bool listens = holds->listen && protocol == IPPROTO_TCP;
        int fd, r = listens ? bind_and_listen(ip, port, &fd) : bind_one(protocol, ip, port, false, &fd), *more;

        if (r == -EADDRINUSE && protocol == IPPROTO_TCP && !listens) {
                r = bind_and_listen(ip, port, &fd);
                if (r == 0) {
                        close(fd); /* it must not listen: it would take connections. Lingering ones are no owner */
                        return 0;
                }
        }
        if (r == -EPROTONOSUPPORT || r == -ESOCKTNOSUPPORT)
                return 0; /* no SCTP on this host, so nobody has the port */
        if (r < 0)
                return r;
        more = realloc(holds->fd, (holds->n + 1) * sizeof(*more));
        if (!more) {
                close(fd);
                return -ENOMEM;
        }
        holds->fd = more;
        holds->fd[holds->n++] = fd;
        return 0;
}

static u16 port_of(int fd)
{
        struct sockaddr_in6 address = { 0 };
        socklen_t len = sizeof(address);

        /* the port is at the same place in both families */
        return getsockname(fd, (struct sockaddr *)&address, &len) < 0 ? 0 : ntohs(address.sin6_port);
}

/* Binds one port on every address that it is published on. *port 0: chosen. */
static int hold_everywhere(
        const struct network *network, const struct published *p, u16 *port, struct port_holds *holds)
{
        static const struct ip any[2] = { { .len = 4 }, { .len = 16 } };
        const size_t before = holds->n;
        int r = 0;

        for (int f = 0; f < 2 && r == 0; f++) {
                if (p->host_ip.len ? p->host_ip.len != any[f].len
                                   : network->is_bridge && !network->subnet[f].cidr.ip.len)
                        continue;
                r = hold(p->protocol, p->host_ip.len ? &p->host_ip : &any[f], *port, holds);
                if (r == 0 && !*port && holds->n > before)
                        *port = port_of(holds->fd[holds->n - 1]);
        }
        while (r < 0 && holds->n > before)
                close(holds->fd[--holds->n]);
        return r;
}

static int settle_one(const struct network *network, const struct net_port *asked, u16 container_port, u32 i,
        struct published *ret, struct port_holds *holds, struct err **err)
{
        const bool any_of = asked->host_first && asked->container_first == asked->container_last;
        u32 first = asked->host_first ? asked->host_first + (any_of ? 0 : i) : 0,
            last = any_of ? asked->host_last : first;
        struct published p = { .protocol = asked->protocol, .container_port = container_port };
        int r = -EADDRINUSE;

        if (asked->host_ip && ip_parse(asked->host_ip, &p.host_ip) < 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no address to publish a port on", asked->host_ip);
        if (!asked->host_ip)
                p.host_ip = network->host_ip;
        if (network->is_bridge && p.host_ip.len && !network->subnet[p.host_ip.len == 4 ? V4 : V6].cidr.ip.len)
                return err_set(err, ERR_USAGE, EINVAL, "port %u cannot be published on %s: the network '%s' has no %s",
                        container_port, ip_format(&p.host_ip).text, network->pub.name,
                        p.host_ip.len == 4 ? "IPv4" : "IPv6");
        if (network->is_bridge && p.host_ip.len == 16 && ip_is_loopback(&p.host_ip) && !holds->listen)
                return err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP,
                                "a port cannot be published on ::1: IPv6 routes no loopback addresses"),
                        "publish it on 127.0.0.1");
        if (!first)
                last = 15; /* tries: the number that IPv4 chose may be taken in IPv6 */
        for (u32 n = first; n <= last && r == -EADDRINUSE; n++) {
                p.host_port = (u16)(first ? n : 0);
                r = hold_everywhere(network, &p, &p.host_port, holds);
        }
        if (r == 0 && !p.host_port)
                return err_set(err, ERR_UNSUPPORTED, EPROTONOSUPPORT,
                        "this host has no SCTP: say which port of the host it is to be");
        if (r == -EADDRINUSE && any_of && last > first)
                return err_set(err, ERR_BUSY, EADDRINUSE, "all ports from %u to %u are in use", first, last);
        if (r == -EADDRINUSE)
                return err_hint(err,
                        err_set(err, ERR_BUSY, EADDRINUSE, "port %u/%s of the host is in use", first,
                                net_protocol_name(p.protocol)),
                        "'ss -lnp' or 'strata ps' shows by whom");
        if (r == -EADDRNOTAVAIL)
                return err_set(err, ERR_USAGE, EADDRNOTAVAIL, "the host has no address %s", ip_format(&p.host_ip).text);
        if (r == -EACCES)
                return err_hint(err, err_sys(err, EACCES, "taking port %u of the host", first),
                        "users have the ports from net.ipv4.ip_unprivileged_port_start on, which is 1024 as a rule");
        if (r < 0)
                return err_sys(err, -r, "taking port %u of the host", first);
        *ret = p;
        return 0;
}

int ports_hold_again(
        const struct network *network, const struct endpoint *endpoint, struct port_holds *holds, struct err **err)
{
        for (size_t i = 0; i < endpoint->n_ports; i++) {
                const struct published *p = &endpoint->ports[i];
                u16 port = p->host_port;
                const int r = hold_everywhere(network, p, &port, holds);

                if (r < 0)
                        return err_sys(err, -r, "taking port %u of the host", port);
        }
        return 0;
}

bool ports_are_chosen(const struct net_port *ports, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (!ports[i].host_first || (ports[i].host_first != ports[i].host_last &&
                                                    ports[i].container_first == ports[i].container_last))
                        return true;
        return false;
}

int ports_settle(const struct network *network, const struct net_port *ports, size_t n, struct endpoint *endpoint,
        struct port_holds *holds, struct err **err)
{
        struct published *settled;
        size_t total = 0, at = 0;

        for (size_t i = 0; i < n; i++) {
                if (!ports[i].container_first || ports[i].container_last < ports[i].container_first)
                        return err_set(err, ERR_USAGE, EINVAL, "a port to publish has no number");
                total += (size_t)ports[i].container_last - ports[i].container_first + 1;
        }
        if (total > PORTS_MAX)
                return err_set(
                        err, ERR_TOO_LARGE, E2BIG, "a container may publish %d ports, not %zu", PORTS_MAX, total);
        settled = arena_new(&endpoint->arena, struct published, total + 1);
        if (!settled)
                return err_sys(err, ENOMEM, "publishing ports");
        for (size_t i = 0; i < n; i++)
                for (u32 port = ports[i].container_first; port <= ports[i].container_last; port++) {
                        const int r = settle_one(network, &ports[i], (u16)port, port - ports[i].container_first,
                                &settled[at], holds, err);

                        if (r < 0)
                                return r;
                        at++;
                }
        endpoint->ports = settled;
        endpoint->n_ports = total;
        return 0;
}

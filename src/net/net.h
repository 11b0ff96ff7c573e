/* Networks of containers, and of virtual machines beside them.
 *
 * A network is a definition in the store (a file, it survives a reboot) and what it needs in the kernel: a bridge and
 * a few set elements in one nftables table, made when somebody attaches and kept until net_remove, net_prune or
 * net_check. An *endpoint* is one container on one network: a veth pair (or a tap), addresses, names, published ports.
 * All of an endpoint is found again by the container's id, so that whoever comes after a crash can clean up.
 *
 *         net_store_open(&(struct net_store_options){ .root = "/var/lib/strata/net" }, &store, err);
 *         net_port_parse("127.0.0.1:8080:80/tcp", &ports, err);
 *         request = (struct net_attach_request){ .container = id, .name = "web", .netns_fd = fd, .pid = pid,
 *                 .ports = ports.item, .n_ports = ports.n };
 *         net_attach(store, "bridge", &request, &attachment, err);         once for each network
 *         net_hosts_text(...), net_resolv_text(...)                        what its /etc has to say
 *         ...
 *         net_detach(store, id, NULL, err);    from any process; fine when it is done already, or the namespace is gone
 *
 * Three networks are always there: "bridge" (interface strata0; made on first use; no names, as docker's), "none" (only
 * loopback) and "host". For a network namespace that is shared with another container (--network container:NAME)
 * nothing of this is called: the container joins the other's namespace, and gets its hosts and resolv.conf.
 *
 * What is in the kernel belongs to the network namespace of the calling process, and to this boot; the store keeps
 * run-time state apart by both. Any number of processes may use a store; every call may be killed at any moment. Calls
 * enter the container's namespace for a moment: on the calling thread only.
 *
 * A user without CAP_NET_ADMIN over the network namespace has "bridge" (and "none", "host") through passt's pasta, one for each
 * container; networks of the user's own making, and "bridge" for machines, are bridges in a namespace of the user's (inner.c). ERR_UNSUPPORTED is what
 * he gets for a container on the default network and others, and for SCTP ports. Calls fork for what is in that namespace, whose published ports
 * strata-forward serves: there it holds them, attachment.port_fds is empty. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct net_store;

struct net_store_options {
        const char *root; /* NULL: $STRATA_NET_ROOT, else /var/lib/strata/net or ~/.local/share/strata/net */
        /* What the operator should know though it is no error: forwarding was switched on, the host's firewall will
         * drop what was published, ... One sentence. NULL: the log. */
        void (*notice)(void *opaque, const char *text);
        void *opaque;
};

/* Opens the store, and makes it where there is none. Costs nothing else: no lock, no kernel state. @options may be
 * NULL. */
int net_store_open(const struct net_store_options *options, struct net_store **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct net_store *net_store_close(struct net_store *store);
static inline void net_store_closep(struct net_store **store)
{
        net_store_close(*store);
}
const char *net_store_root(const struct net_store *store);

/* --- networks ----------------------------------------------------------------------------------------------------- */

struct net_pair {
        const char *key, *value;
};

struct net_subnet {
        const char *subnet;   /* "172.30.0.0/16", "fd00:1::/64" */
        const char *gateway;  /* the bridge's address; NULL: the first one */
        const char *ip_range; /* containers' addresses are chosen in it; NULL: anywhere in the subnet */
};

/* Driver options, docker's names or the short ones: "com.docker.network.driver.mtu" = "mtu",
 * "com.docker.network.bridge.name" = "bridge", "com.docker.network.bridge.enable_ip_masquerade" = "masquerade",
 * "com.docker.network.bridge.enable_icc" = "icc", "com.docker.network.bridge.host_binding_ipv4" = "host-ip". */
struct net_create_options {
        const char *driver; /* NULL: "bridge" */
        const struct net_subnet *subnets;
        size_t n_subnets; /* at most one of each family; none: IPv4 chosen, and with @ipv6 an IPv6 one */
        bool ipv6;
        bool internal; /* nothing in or out but by the host itself */
        const struct net_pair *options, *labels;
        size_t n_options, n_labels;
};

/* *ret_id (may be NULL) is the caller's. @options may be NULL. ERR_BUSY, -EEXIST for a name or subnet in use (also by
 * the host's own routes); ERR_USAGE for what cannot be. Nothing happens in the kernel. */
int net_create(struct net_store *store, const char *name, const struct net_create_options *options, char **ret_id,
        struct err **err);

struct net_network {
        const char *id; /* 64 hexadecimal digits */
        const char *name, *driver;
        const char *created; /* RFC 3339 */
        const char *bridge;  /* the interface's name, or "" */
        bool predefined;     /* bridge, none, host */
        bool internal, ipv6;
        bool dns; /* names of containers are answered on it */
        unsigned mtu;
        struct net_subnet *subnets;
        size_t n_subnets;
        struct net_pair *options, *labels;
        size_t n_options, n_labels;
};

/* By name, id or an unambiguous beginning of an id. -ENOENT, ERR_NOT_FOUND. */
int net_find(struct net_store *store, const char *name, struct net_network **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct net_network *net_network_free(struct net_network *network);
static inline void net_network_freep(struct net_network **network)
{
        net_network_free(*network);
}
/* Calls @fn for every network, predefined ones first, then by name, until it returns other than 0; returns that. */
int net_list(struct net_store *store, int (*fn)(void *opaque, const struct net_network *network), void *opaque,
        struct err **err);
/* ERR_BUSY while it has endpoints; predefined ones cannot be removed. */
int net_remove(struct net_store *store, const char *name, struct err **err);
/* Removes user-defined networks without endpoints, and takes down bridges (also the default one), forwarding and the
 * table that nobody uses. Calls @removed (may be NULL) with each name. @keep (may be NULL) says true of a network that
 * stays though nobody is attached: one that a stopped container names, or that a filter leaves out. */
int net_prune(struct net_store *store, bool (*keep)(void *opaque, const struct net_network *network),
        void (*removed)(void *opaque, const char *name), void *opaque, struct err **err);

/* --- ports -------------------------------------------------------------------------------------------------------- */

/* One "-p": host ports first..last stand for container ports first..last, one to one; or, when there is one container
 * port and several host ports, any free one of these. Host ports 0: any free one each. */
struct net_port {
        const char *host_ip; /* NULL: all addresses (IPv4, and IPv6 on a network that has it) */
        u8 protocol;         /* IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP */
        u16 host_first, host_last;
        u16 container_first, container_last;
};

struct net_ports {
        struct net_port *item;
        size_t n;
};

/* Adds "[IP:][HOST[-HOST]:]CONTAINER[-CONTAINER][/tcp|udp|sctp]", as docker takes it ("80", "8080:80/udp",
 * "127.0.0.1::80", "[::1]:8000-8010:8000-8010"), to @ports. */
int net_port_parse(const char *text, struct net_ports *ports, struct err **err);
/* Frees what net_port_parse made; leaves an empty list. */
void net_ports_clear(struct net_ports *ports);
/* "tcp", "udp", "sctp" */
const char *net_protocol_name(u8 protocol);
/* 0 for an unknown one. */
u8 net_protocol_by_name(const char *name);

/* --- endpoints ---------------------------------------------------------------------------------------------------- */

struct net_attach_request {
        const char *container; /* its id: letters, digits, "_.-", at most 128 */
        const char *name;      /* answered on networks with names; NULL: none. So are the first 12 digits of the id */
        const char *hostname;  /* answered too; NULL */
        const char *const *aliases; /* more names, only on this network; ends with NULL; NULL: none */
        const char *ip, *ip6, *mac; /* NULL: chosen */
        const char *ifname;         /* inside; NULL: eth0, eth1, ... */
        bool no_default_route;      /* the default route goes through the first network that has one, or none */
        const struct net_port *ports;
        size_t n_ports;

        int netns_fd; /* the container's network namespace */
        pid_t pid; /* its first process, 0: none yet. Its resolver ends with it; net_check takes it for the container */

        bool tap;               /* for a virtual machine: no namespace, the other end is attachment.tap_fd */
        bool hold_ports;        /* attachment.port_fds are wanted */
        const char *const *dns; /* servers (--dns) that the resolver asks; NULL: those of the host */
};

struct net_published {
        u8 protocol;
        const char *host_ip; /* "0.0.0.0", "::" for all */
        u16 host_port, container_port;
};

struct net_attachment {
        const char *network, *network_id;
        const char *ifname, *host_ifname, *mac; /* "" where there is none, here and below */
        const char *ip, *gateway, *ip6, *gateway6;
        u8 prefix_len, prefix_len6;
        bool default_route; /* to the gateway */
        unsigned mtu;
        const char *dns; /* the address inside of a resolver that answers names, for resolv.conf */
        struct net_published *ports;
        size_t n_ports;
        int tap_fd; /* IFF_NO_PI | IFF_VNET_HDR; -1: none */
        /* Sockets that are bound to the published ports, so that no program of the host gets one while the container
         * lives: to be kept open by somebody who lives as long (the supervisor). Nothing breaks when nobody does. */
        int *port_fds;
        size_t n_port_fds;
};

/* Puts the container on the network. On failure nothing is left. ERR_BUSY: an address or port is taken, it is attached
 * already. An interface that the network does not have (driver none) gives an attachment without one; for "host"
 * nothing is done. lo is up afterwards.
 * Bridges: a few netlink messages, no process. Networks with names: one resolver process (strata-resolve) a container.
 * */
int net_attach(struct net_store *store, const char *network, const struct net_attach_request *request,
        struct net_attachment **ret, struct err **err);
/* Closes its descriptors. NULL is fine. Returns NULL. */
struct net_attachment *net_attachment_free(struct net_attachment *attachment);
static inline void net_attachment_freep(struct net_attachment **attachment)
{
        net_attachment_free(*attachment);
}

/* Takes the container off the network and everything that was made for it. Fine when it is not attached.
 * @network NULL: off all, because its processes have ended. Then its interfaces are left to the kernel, which takes
 * them away with the namespace a moment later (asking for it would take 20 ms, ADR 51). Those of a namespace that
 * lives on go with the next net_attach or net_check after two seconds. */
int net_detach(struct net_store *store, const char *container, const char *network, struct err **err);
/* Its name changed (strata rename). */
int net_rename(
        struct net_store *store, const char *container, const char *old_name, const char *new_name, struct err **err);

struct net_endpoint {
        const char *container, *name;            /* name "": none */
        const struct net_attachment *attachment; /* tap_fd -1, no port_fds */
};
/* Calls @fn for the endpoints of @network (NULL: all) and @container (NULL: all), until it returns other than 0. */
int net_endpoint_list(struct net_store *store, const char *network, const char *container,
        int (*fn)(void *opaque, const struct net_endpoint *endpoint), void *opaque, struct err **err);

/* Makes store and kernel agree after whatever happened: endpoints whose interface is gone, or of which @is_alive (may
 * be NULL) says false, go; so do addresses, names, ports, interfaces, helpers that belong to no endpoint; what
 * somebody else took away (nft flush ruleset, a killed resolver) comes back. Calls @problem (may be NULL) for each
 * defect; returns their number. */
int net_check(struct net_store *store, bool (*is_alive)(void *opaque, const char *container),
        void (*problem)(void *opaque, const char *text), void *opaque, struct err **err);

/* --- /etc of the container ---------------------------------------------------------------------------------------- */

struct net_hosts {
        const char *hostname, *domainname;               /* NULL: none */
        const struct net_attachment *const *attachments; /* their addresses stand for the hostname */
        size_t n_attachments;
        const char *const *extra; /* "name:address", "name:host-gateway"; ends with NULL; NULL: none */
};
/* The text of /etc/hosts; the caller's. */
int net_hosts_text(const struct net_hosts *hosts, char **ret, struct err **err);

struct net_resolv {
        const struct net_attachment *const *attachments;
        size_t n_attachments;
        const char *const *servers, *const *search, *const *options; /* --dns, ...; end with NULL; NULL: the host's */
        const char
                *host_file; /* NULL: /etc/resolv.conf, or systemd-resolved's where that names only loopback addresses */
};
/* The text of /etc/resolv.conf; the caller's. Where a network answers names its resolver is the only server. */
int net_resolv_text(const struct net_resolv *resolv, char **ret, struct err **err);

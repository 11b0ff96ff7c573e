/* Interfaces, addresses and routes by rtnetlink(7). Sockets are of NETLINK_ROUTE and say which namespace is meant. */
#pragma once

#include <net/if.h>

#include "addr.h"
#include "base/err.h"

/* The interface's index; -ENODEV. */
int link_index(int sock, const char *name);

struct link_bridge {
        const char *name;
        u8 mac[6];
        unsigned mtu;
        struct cidr address[2]; /* ip.len 0: none; the address itself, not the subnet's */
        bool route_localnet;    /* packets with loopback addresses may be routed to it: see firewall.c */
};
/* Made and up. Fine when there is a bridge of that name: then it gets what it lacks. -EEXIST: it is something else. */
int link_bridge_make(int sock, const struct link_bridge *bridge);

struct link_port {
        int bridge;    /* index */
        bool isolated; /* may talk to the bridge only, not to its other ports */
        bool hairpin;  /* gets what it sends to itself: through its own published port, where br_netfilter is on */
};

struct link_veth {
        const char *host_name;
        struct link_port port;
        int netns_fd;
        const char *ifname; /* inside */
        u8 mac[6];
        unsigned mtu;
};
/* A pair, one end up on the bridge, the other (down) in the namespace. */
int link_veth_make(int sock, const struct link_veth *veth);

/* An interface that exists becomes a port of the bridge, and is up. */
int link_join_bridge(int sock, const char *name, const struct link_port *port);
/* Whether the other end of a veth is in a namespace that still has users: 1; 0: the kernel is about to take both ends
 * away by itself. -ENODEV: there is no such interface. */
int link_has_living_peer(int sock, const char *name);
/* Fine when there is none. */
int link_delete(int sock, const char *name);
/* Calls @fn for each port of the bridge with that index (0: every interface). */
int link_list(int sock, int bridge, int (*fn)(void *opaque, const char *name, int master), void *opaque);

struct link_inside {
        const char *ifname; /* NULL: only lo */
        struct cidr address[2];
        struct ip gateway[2]; /* len 0: no default route */
        bool ipv6;            /* the interface may have IPv6 addresses */
};
/* In the container's namespace: loopback and the interface up, with addresses and routes. */
int link_configure_inside(int sock, const struct link_inside *inside);

/* Calls @fn for each destination in the main routing table but the default. */
int link_routes(int sock, int (*fn)(void *opaque, const struct cidr *destination), void *opaque);

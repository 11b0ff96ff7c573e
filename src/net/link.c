#include "link.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "nl.h"

static int family_of(const struct ip *ip)
{
        return ip->len == 4 ? AF_INET : AF_INET6;
}

static void begin_link(struct nl *nl, u16 type, u16 flags, int index, unsigned up)
{
        const struct ifinfomsg info = { .ifi_index = index, .ifi_flags = up, .ifi_change = up };

        nl_begin(nl, type, flags, &info, sizeof(info));
}

/* A message about the link @name, which need not exist yet: an earlier one of the same buffer may make it. */
static void begin_named(struct nl *nl, const char *name, unsigned up)
{
        begin_link(nl, RTM_NEWLINK, 0, 0, up);
        nl_put_string(nl, IFLA_IFNAME, name);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

struct found {
        int index;
        char kind[16];
};

static int take_link(void *opaque, const struct nlmsghdr *message)
{
        const struct ifinfomsg *info = NLMSG_DATA(message);
        const struct nlattr *linkinfo, *kind = NULL;
        struct found *found = opaque;

        found->index = info->ifi_index;
        linkinfo = nl_attribute(message, sizeof(*info), IFLA_LINKINFO, 0);
        if (linkinfo)
                kind = nl_find(nl_value(linkinfo), nl_value_len(linkinfo), IFLA_INFO_KIND, 1);
        if (kind)
                snprintf(found->kind, sizeof(found->kind), "%.*s", (int)nl_value_len(kind),
                        (const char *)nl_value(kind));
        return 0;
}

static int find_link(int sock, const char *name, struct found *ret)
{
        struct nl nl = { 0 };
        int r;

        begin_link(&nl, RTM_GETLINK, 0, 0, 0);
        nl_put_string(&nl, IFLA_IFNAME, name);
        /* none of the counters, which cost more than everything else */
        nl_put_u32(&nl, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        r = nl_ask(sock, &nl, take_link, ret);
        nl_free(&nl);
        return r;
}

int link_index(int sock, const char *name)
{
        struct ifreq request = { 0 };

        /* unlike RTM_GETLINK without the lock that is held while interfaces go */
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
        return ioctl(sock, SIOCGIFINDEX, &request) < 0 ? -errno : request.ifr_ifindex;
}

static int take_peer(void *opaque, const struct nlmsghdr *message)
{
        const struct nlattr *id = nl_attribute(message, sizeof(struct ifinfomsg), IFLA_LINK_NETNSID, sizeof(s32));

        if (id)
                memcpy(opaque, nl_value(id), sizeof(s32));
        return 0;
}

int link_has_living_peer(int sock, const char *name)
{
        const struct rtgenmsg any = { .rtgen_family = AF_UNSPEC };
        struct nl nl = { 0 };
        s32 number = -1;
        int r;

        begin_link(&nl, RTM_GETLINK, 0, 0, 0);
        nl_put_string(&nl, IFLA_IFNAME, name);
        nl_put_u32(&nl, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        r = nl_ask(sock, &nl, take_peer, &number);
        if (r == 0 && number >= 0) {
                /* The kernel does not find a namespace by its number once the last user is gone. */
                nl_begin(&nl, RTM_GETNSID, 0, &any, sizeof(any));
                nl_put_u32(&nl, NETNSA_NSID, (u32)number);
                r = nl_ask(sock, &nl, NULL, NULL);
                if (r == -ENOENT) {
                        nl_free(&nl);
                        return 0;
                }
        }
        nl_free(&nl);
        return r < 0 ? r : 1;
}

struct listing {
        int bridge;
        int (*fn)(void *opaque, const char *name, int master);
        void *opaque;
};

static int list_one(void *opaque, const struct nlmsghdr *message)
{
        const struct listing *listing = opaque;
        const struct nlattr *name, *master;
        int index = 0;

        name = nl_attribute(message, sizeof(struct ifinfomsg), IFLA_IFNAME, 2);
        master = nl_attribute(message, sizeof(struct ifinfomsg), IFLA_MASTER, sizeof(index));
        if (master)
                memcpy(&index, nl_value(master), sizeof(index));
        if (!name || (listing->bridge && index != listing->bridge))
                return 0;
        return listing->fn(listing->opaque, nl_value(name), index);
}

int link_list(int sock, int bridge, int (*fn)(void *opaque, const char *name, int master), void *opaque)
{
        struct listing listing = { .bridge = bridge, .fn = fn, .opaque = opaque };
        struct nl nl = { 0 };
        int r;

        begin_link(&nl, RTM_GETLINK, 0, 0, 0);
        nl_put_u32(&nl, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        r = nl_dump(sock, &nl, list_one, &listing);
        nl_free(&nl);
        return r;
}

struct routes {
        int (*fn)(void *opaque, const struct cidr *destination);
        void *opaque;
};

static int take_route(void *opaque, const struct nlmsghdr *message)
{
        const struct rtmsg *route = NLMSG_DATA(message);
        const struct routes *routes = opaque;
        const struct nlattr *dst;
        struct cidr cidr = { .bits = route->rtm_dst_len };

        cidr.ip.len = route->rtm_family == AF_INET ? 4 : 16;
        dst = nl_attribute(message, sizeof(*route), RTA_DST, cidr.ip.len);
        if (route->rtm_table != RT_TABLE_MAIN || !dst || !cidr.bits)
                return 0;
        memcpy(cidr.ip.bytes, nl_value(dst), cidr.ip.len);
        return routes->fn(routes->opaque, &cidr);
}

int link_routes(int sock, int (*fn)(void *opaque, const struct cidr *destination), void *opaque)
{
        struct routes routes = { .fn = fn, .opaque = opaque };
        struct nl nl = { 0 };
        int r = 0;

        for (int i = 0; i < 2 && r == 0; i++) {
                const struct rtmsg all = { .rtm_family = i ? AF_INET6 : AF_INET };

                nl_begin(&nl, RTM_GETROUTE, 0, &all, sizeof(all));
                r = nl_dump(sock, &nl, take_route, &routes);
        }
        nl_free(&nl);
        return r;
}

/* --- pieces of messages ------------------------------------------------------------------------------------------- */

/* The kernel makes no IPv6 address (nor sends solicitations for one) on its own. */
static void no_ipv6_addresses(struct nl *nl)
{
        const size_t spec = nl_nest(nl, IFLA_AF_SPEC);
        const size_t inet6 = nl_nest(nl, AF_INET6);

        nl_put_u8(nl, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
        nl_end(nl, inet6);
        nl_end(nl, spec);
}

static void allow_localnet_routing(struct nl *nl)
{
        const size_t spec = nl_nest(nl, IFLA_AF_SPEC);
        const size_t inet = nl_nest(nl, AF_INET);
        const size_t conf = nl_nest(nl, IFLA_INET_CONF);

        nl_put_u32(nl, IPV4_DEVCONF_ROUTE_LOCALNET, 1);
        nl_end(nl, conf);
        nl_end(nl, inet);
        nl_end(nl, spec);
}

static void add_address(struct nl *nl, int index, const struct cidr *address)
{
        const struct ifaddrmsg info = { .ifa_family = (u8)family_of(&address->ip),
                .ifa_prefixlen = address->bits,
                /* nobody else can have it: no second of waiting for duplicates */
                .ifa_flags = address->ip.len == 16 ? IFA_F_NODAD : 0,
                .ifa_index = (unsigned)index };

        nl_begin(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
        nl_put(nl, IFA_LOCAL, address->ip.bytes, address->ip.len);
        nl_put(nl, IFA_ADDRESS, address->ip.bytes, address->ip.len);
        if (address->ip.len == 4 && address->bits <= 30) {
                const struct cidr subnet = cidr_of(&address->ip, address->bits);
                const struct ip last = ip_plus(&subnet.ip, cidr_size(&subnet) - 1);

                nl_put(nl, IFA_BROADCAST, last.bytes, last.len);
        }
}

static void add_default_route(struct nl *nl, int index, const struct ip *gateway)
{
        const struct rtmsg route = { .rtm_family = (u8)family_of(gateway),
                .rtm_table = RT_TABLE_MAIN,
                .rtm_protocol = RTPROT_STATIC,
                .rtm_scope = RT_SCOPE_UNIVERSE,
                .rtm_type = RTN_UNICAST };

        nl_begin(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route, sizeof(route));
        nl_put(nl, RTA_GATEWAY, gateway->bytes, gateway->len);
        nl_put_u32(nl, RTA_OIF, (u32)index);
}

static void put_port_flags(struct nl *nl, const struct link_port *port)
{
        const size_t info = nl_nest(nl, IFLA_LINKINFO);
        size_t data;

        nl_put_string(nl, IFLA_INFO_SLAVE_KIND, "bridge");
        data = nl_nest(nl, IFLA_INFO_SLAVE_DATA);
        nl_put_u8(nl, IFLA_BRPORT_ISOLATED, port->isolated);
        nl_put_u8(nl, IFLA_BRPORT_MODE, port->hairpin);
        nl_end(nl, data);
        nl_end(nl, info);
}

/* --- making ------------------------------------------------------------------------------------------------------- */

static int add_bridge(int sock, const struct link_bridge *bridge)
{
        struct nl nl = { 0 };
        size_t info, data;
        int r;

        begin_link(&nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, 0);
        nl_put_string(&nl, IFLA_IFNAME, bridge->name);
        nl_put(&nl, IFLA_ADDRESS, bridge->mac, sizeof(bridge->mac)); /* else it changes with its ports */
        nl_put_u32(&nl, IFLA_MTU, bridge->mtu);
        info = nl_nest(&nl, IFLA_LINKINFO);
        nl_put_string(&nl, IFLA_INFO_KIND, "bridge");
        /* Multicast goes to every port. To learn which want it, the kernel would start asking all of them anew
         * whenever one comes or goes (docs/adr/0032). */
        data = nl_nest(&nl, IFLA_INFO_DATA);
        nl_put_u8(&nl, IFLA_BR_MCAST_SNOOPING, 0);
        nl_end(&nl, data);
        nl_end(&nl, info);
        r = nl_send(sock, &nl);
        nl_free(&nl);
        return r;
}

int link_bridge_make(int sock, const struct link_bridge *bridge)
{
        struct found found = { 0 };
        struct nl nl = { 0 };
        int r = add_bridge(sock, bridge);

        if (r < 0 && r != -EEXIST)
                return r;
        r = find_link(sock, bridge->name, &found);
        if (r < 0)
                return r;
        if (strcmp(found.kind, "bridge") != 0)
                return -EEXIST;
        begin_named(&nl, bridge->name, 0);
        if (bridge->address[1].ip.len == 0)
                no_ipv6_addresses(&nl);
        begin_named(&nl, bridge->name, IFF_UP);
        if (bridge->route_localnet)
                allow_localnet_routing(&nl);
        for (int i = 0; i < 2; i++)
                if (bridge->address[i].ip.len)
                        add_address(&nl, found.index, &bridge->address[i]);
        r = nl_send(sock, &nl);
        nl_free(&nl);
        return r;
}

static void add_veth(struct nl *nl, const struct link_veth *veth)
{
        const struct ifinfomsg none = { 0 };
        size_t info, data, peer;

        begin_link(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, 0);
        nl_put_string(nl, IFLA_IFNAME, veth->host_name);
        nl_put_u32(nl, IFLA_MASTER, (u32)veth->port.bridge);
        nl_put_u32(nl, IFLA_MTU, veth->mtu);
        info = nl_nest(nl, IFLA_LINKINFO);
        nl_put_string(nl, IFLA_INFO_KIND, "veth");
        data = nl_nest(nl, IFLA_INFO_DATA);
        peer = nl_nest(nl, VETH_INFO_PEER);
        nl_put_raw(nl, &none, sizeof(none));
        nl_put_string(nl, IFLA_IFNAME, veth->ifname);
        nl_put(nl, IFLA_ADDRESS, veth->mac, sizeof(veth->mac));
        nl_put_u32(nl, IFLA_MTU, veth->mtu);
        nl_put_u32(nl, IFLA_NET_NS_FD, (u32)veth->netns_fd);
        nl_end(nl, peer);
        nl_end(nl, data);
        nl_end(nl, info);
}

int link_veth_make(int sock, const struct link_veth *veth)
{
        struct nl nl = { 0 };
        int r;

        add_veth(&nl, veth);
        begin_named(&nl, veth->host_name, 0);
        no_ipv6_addresses(&nl);
        put_port_flags(&nl, &veth->port);
        begin_named(&nl, veth->host_name, IFF_UP);
        r = nl_send(sock, &nl);
        nl_free(&nl);
        return r;
}

int link_join_bridge(int sock, const char *name, const struct link_port *port)
{
        struct nl nl = { 0 };
        int r;

        begin_named(&nl, name, IFF_UP);
        nl_put_u32(&nl, IFLA_MASTER, (u32)port->bridge);
        begin_named(&nl, name, 0);
        no_ipv6_addresses(&nl);
        put_port_flags(&nl, port);
        r = nl_send(sock, &nl);
        nl_free(&nl);
        return r;
}

int link_delete(int sock, const char *name)
{
        struct nl nl = { 0 };
        int r;

        begin_link(&nl, RTM_DELLINK, 0, 0, 0);
        nl_put_string(&nl, IFLA_IFNAME, name);
        r = nl_send(sock, &nl);
        nl_free(&nl);
        return r == -ENODEV ? 0 : r;
}

int link_configure_inside(int sock, const struct link_inside *inside)
{
        struct nl nl = { 0 };
        int index = 0, r;

        if (inside->ifname) {
                index = link_index(sock, inside->ifname);
                if (index < 0)
                        return index;
        }
        begin_named(&nl, "lo", IFF_UP);
        if (index && !inside->ipv6) {
                begin_named(&nl, inside->ifname, 0);
                no_ipv6_addresses(&nl);
        }
        if (index)
                begin_link(&nl, RTM_NEWLINK, 0, index, IFF_UP);
        for (int i = 0; index && i < 2; i++)
                if (inside->address[i].ip.len)
                        add_address(&nl, index, &inside->address[i]);
        for (int i = 0; index && i < 2; i++)
                if (inside->gateway[i].len)
                        add_default_route(&nl, index, &inside->gateway[i]);
        r = nl_send(sock, &nl);
        nl_free(&nl);
        return r;
}

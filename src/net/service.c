/* The resolver of a virtual machine. A container asks one at its own 127.0.0.11; a machine's packets for that
 * address do not leave it. So its resolver has an address of the network and, because the host's own input rules
 * and programs on port 53 are none of its business, a network namespace with one interface on the bridge. Nobody
 * is in that namespace: the resolver's sockets keep it, and when the resolver ends the kernel takes namespace and
 * interface away. It answers the machine alone: others on the bridge would see its other networks. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "attach.h"

struct service_ifname service_ifname(const struct endpoint *endpoint)
{
        struct service_ifname name;

        snprintf(name.text, sizeof(name.text), "%.14sr", endpoint->host_ifname);
        return name;
}

int service_start(
        struct net_store *store, struct kernel *kernel, int bridge, const struct endpoint *endpoint, struct err **err)
{
        _cleanup_(inside_close) struct inside inside = INSIDE_CLOSED;
        const struct service_ifname ifname = service_ifname(endpoint);
        _cleanup_close_ int netns = -1;
        /* not isolated: also on a network whose machines may not talk to each other they talk to their resolvers */
        struct link_veth veth = { .host_name = ifname.text,
                .port = { .bridge = bridge },
                .ifname = "eth0",
                .mac = { 0x02, 0x53 },
                .mtu = endpoint->mtu };
        struct link_inside wanted = { .ifname = veth.ifname };
        struct ip ip;
        int r = ip_parse(endpoint->dns, &ip);

        if (r < 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' is no address of a resolver", endpoint->dns);
        r = inside_new(&netns, &inside, err);
        if (r < 0)
                return r;
        veth.netns_fd = netns;
        memcpy(veth.mac + 2, ip.bytes, 4);
        r = link_delete(kernel->route, ifname.text); /* of a resolver that was killed a moment ago */
        if (r == 0)
                r = link_veth_make(kernel->route, &veth);
        if (r == 0) {
                wanted.address[V4] = (struct cidr){ .ip = ip, .bits = endpoint->prefix_len[V4] };
                r = link_configure_inside(inside.route, &wanted);
        }
        if (r < 0)
                return err_sys(err, -r, "connecting the resolver to its bridge");
        return resolver_start(store, endpoint, &inside, err);
}

/* net_attach and net_detach.
 *
 * Attaching writes the endpoint's record before it makes anything but the addresses, and undoes by the record: so
 * whoever is killed leaves a record that net_detach and net_check understand, or an address without one, which
 * net_check takes back. Locks: the store's, shared (bridges stay as they are), then the container's. */
#include "attach.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/fd_pass.h"
#include "firewall.h"
#include "inner.h"

/* --- inside the container's namespace ----------------------------------------------------------------------------- */

static int configure_inside(const struct inside *inside, const struct endpoint *endpoint, struct err **err)
{
        struct link_inside wanted = { .ifname = endpoint ? endpoint->ifname : NULL };
        int r;

        for (int f = 0; endpoint && f < 2; f++) {
                wanted.address[f] = (struct cidr){ .ip = endpoint->ip[f], .bits = endpoint->prefix_len[f] };
                if (endpoint->default_route)
                        wanted.gateway[f] = endpoint->gateway[f];
        }
        wanted.ipv6 = endpoint && endpoint->ip[V6].len;
        r = link_configure_inside(inside->route, &wanted);
        return r < 0 ? err_sys(err, -r, "setting up the interface inside the container") : 0;
}

/* --- what is wanted ----------------------------------------------------------------------------------------------- */

struct wanted {
        struct ip ip[2];
        u8 mac[6];
        bool has_mac;
};

static int check_request(const struct net_attach_request *request, struct wanted *wanted, struct err **err)
{
        const char *const texts[2] = { request->ip, request->ip6 };

        if (!request->container || !store_is_name(request->container, CONTAINER_MAX))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no id of a container",
                        request->container ? request->container : "");
        if (request->name && !store_is_name(request->name, CONTAINER_MAX))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no name for a container", request->name);
        if (request->ifname && !store_is_name(request->ifname, IFNAMSIZ - 1))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no name for an interface", request->ifname);
        for (int f = 0; f < 2; f++)
                if (texts[f] && (ip_parse(texts[f], &wanted->ip[f]) < 0 || wanted->ip[f].len != (f == V4 ? 4 : 16)))
                        return err_set(err, ERR_USAGE, EINVAL, "'%s' is no IPv%d address", texts[f], f == V4 ? 4 : 6);
        wanted->has_mac = request->mac;
        if (request->mac && mac_parse(request->mac, wanted->mac) < 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no hardware address", request->mac);
        return 0;
}

/* What the resolver can be asked for: every name once, as far as it can be one. */
static int collect_names(const struct net_attach_request *request, struct endpoint *endpoint, struct err **err)
{
        const char *given[3] = { request->name, request->hostname, NULL };
        size_t n = 4, at = 0;
        const char **names;

        for (const char *const *alias = request->aliases; alias && *alias; alias++)
                n++;
        names = arena_new(&endpoint->arena, const char *, n);
        given[2] = arena_printf(&endpoint->arena, "%.12s", request->container);
        if (!names || !given[2])
                return err_sys(err, ENOMEM, "attaching to a network");
        for (size_t i = 0; i < n - 1; i++) {
                const char *name = i < 3 ? given[i] : request->aliases[i - 3];

                if (i >= 3 && !store_is_name(name, 250))
                        return err_set(
                                err, ERR_USAGE, EINVAL, "'%s' is no alias: letters, digits, '_', '.', '-'", name);
                if (name && store_is_name(name, 250) && !(names[at++] = arena_strdup(&endpoint->arena, name)))
                        return err_sys(err, ENOMEM, "attaching to a network");
        }
        endpoint->names = names;
        return 0;
}

struct others {
        bool used[64]; /* ethN */
        bool has_default_route;
};

static int look_at_other(void *opaque, struct endpoint *endpoint, struct err **err)
{
        struct others *others = opaque;
        unsigned n;
        char rest;

        if (sscanf(endpoint->ifname, "eth%u%c", &n, &rest) == 1 && n < ARRAY_SIZE(others->used))
                others->used[n] = true;
        others->has_default_route |= endpoint->default_route;
        return 0;
}

static int name_interfaces(
        struct net_store *store, const struct net_attach_request *request, struct endpoint *endpoint, struct err **err)
{
        struct others others = { 0 };
        unsigned n = 0;
        u64 random;
        int r = endpoint_each(store, request->container, look_at_other, &others, err);

        if (r < 0)
                return r;
        while (n < ARRAY_SIZE(others.used) - 1 && others.used[n])
                n++;
        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
                return err_sys(err, errno, "attaching to a network");
        endpoint->ifname = request->tap      ? ""
                           : request->ifname ? arena_strdup(&endpoint->arena, request->ifname)
                                             : arena_printf(&endpoint->arena, "eth%u", n);
        endpoint->host_ifname =
                arena_printf(&endpoint->arena, VETH_PREFIX "%012llx", (unsigned long long)(random >> 16));
        endpoint->default_route = !others.has_default_route && !request->no_default_route;
        return endpoint->ifname && endpoint->host_ifname ? 0 : err_sys(err, ENOMEM, "attaching to a network");
}

/* The fields that follow from request and network alone. */
static int plan(struct net_store *store, const struct network *network, const struct net_attach_request *request,
        struct endpoint *endpoint, struct err **err)
{
        struct stat st;
        int r;

        endpoint->container = request->container;
        endpoint->name = request->name ? request->name : "";
        endpoint->network = network->pub.name;
        endpoint->network_id = network->pub.id;
        endpoint->key = network->key;
        endpoint->mtu = network->pub.mtu;
        endpoint->mac = endpoint->dns = endpoint->ifname = endpoint->host_ifname = "";
        endpoint->pid = request->pid;
        endpoint->servers = (const char **)request->dns;
        endpoint->internal = network->pub.internal;
        endpoint->netns = request->netns_fd >= 0 && fstat(request->netns_fd, &st) == 0 ? st.st_ino : 0;
        r = name_interfaces(store, request, endpoint, err);
        endpoint->default_route &= !network->pub.internal;
        if (r == 0 && network->pub.dns)
                r = collect_names(request, endpoint, err);
        if (network->pub.dns && !request->tap)
                endpoint->dns = RESOLVER_ADDRESS;
        return r;
}

static int choose_mac(struct endpoint *endpoint, const struct wanted *wanted, struct err **err)
{
        u8 mac[6] = { 0x02, 0x53 };

        /* From the address: whoever gets it again has the same, and neighbours' caches stay right. */
        if (wanted->has_mac)
                memcpy(mac, wanted->mac, 6);
        else if (endpoint->ip[V4].len)
                memcpy(mac + 2, endpoint->ip[V4].bytes, 4);
        else
                memcpy(mac + 2, endpoint->ip[V6].bytes + 12, 4);
        endpoint->mac = arena_strdup(&endpoint->arena, mac_format(mac).text);
        return endpoint->mac ? 0 : err_sys(err, ENOMEM, "attaching to a network");
}

/* --- taps --------------------------------------------------------------------------------------------------------- */

static int make_tap(const char *name, int *ret, struct err **err)
{
        _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

        if (fd < 0)
                return err_sys(err, errno, "opening /dev/net/tun");
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
        if (ioctl(fd, TUNSETIFF, &request) < 0)
                return err_sys(err, errno, "making the tap '%s'", name);
        *ret = TAKE_FD(fd);
        return 0;
}

/* --- attaching ---------------------------------------------------------------------------------------------------- */

/* The kernel's part of a bridge endpoint, in the order in which endpoint_undo can take it away whatever is missing. */
static int connect_bridge(struct net_store *store, struct kernel *kernel, const struct network *network, int bridge,
        const struct net_attach_request *request, const struct endpoint *endpoint, int *ret_tap, struct err **err)
{
        _cleanup_(inside_close) struct inside inside = INSIDE_CLOSED;
        const bool resolver = *endpoint->dns && !resolver_runs(store, endpoint->container);
        struct link_veth veth = { .host_name = endpoint->host_ifname,
                .port = { .bridge = bridge, .isolated = !network->icc, .hairpin = request->n_ports > 0 },
                .netns_fd = request->netns_fd,
                .ifname = endpoint->ifname,
                .mtu = endpoint->mtu };
        int r;

        if (request->tap) {
                r = make_tap(endpoint->host_ifname, ret_tap, err);
                if (r < 0)
                        return r;
                r = link_join_bridge(kernel->route, endpoint->host_ifname, &veth.port);
                if (r < 0)
                        return err_sys(err, -r, "connecting '%s' to its bridge", endpoint->host_ifname);
                return resolver_is_service(endpoint) ? service_start(store, kernel, bridge, endpoint, err) : 0;
        }
        r = inside_open(request->netns_fd, resolver, &inside, err);
        if (r < 0)
                return r;
        mac_parse(endpoint->mac, veth.mac);
        r = link_veth_make(kernel->route, &veth);
        if (r == -EEXIST)
                return err_set(err, ERR_BUSY, EEXIST, "the container has an interface '%s' already", endpoint->ifname);
        if (r < 0)
                return err_sys(err, -r, "connecting the container to the bridge '%s'", network->pub.bridge);
        r = configure_inside(&inside, endpoint, err);
        if (r == 0 && resolver)
                r = resolver_start(store, endpoint, &inside, err);
        return r;
}

static int take_addresses(struct net_store *store, const struct network *network, const struct wanted *wanted,
        struct endpoint *endpoint, struct err **err)
{
        for (int f = 0; f < 2; f++) {
                const struct subnet *subnet = &network->subnet[f];
                int r;

                if (!subnet->cidr.ip.len && wanted->ip[f].len)
                        return err_set(err, ERR_USAGE, EINVAL, "the network '%s' has no IPv%d", network->pub.name,
                                f == V4 ? 4 : 6);
                if (!subnet->cidr.ip.len)
                        continue;
                r = ipam_take(
                        store, network, f, &wanted->ip[f], endpoint->container, endpoint->name, &endpoint->ip[f], err);
                if (r < 0)
                        return r;
                endpoint->gateway[f] = subnet->gateway;
                endpoint->prefix_len[f] = subnet->cidr.bits;
        }
        return choose_mac(endpoint, wanted, err);
}

static int has_service(void *opaque, struct endpoint *endpoint, struct err **err)
{
        return resolver_is_service(endpoint);
}

/* A machine's packets to its loopback do not come to us: its resolver has an address of the network. One for all its networks. */
static int take_service_address(struct net_store *store, const struct network *network,
        const struct net_attach_request *request, struct endpoint *endpoint, struct err **err)
{
        static const struct ip any = { 0 };
        struct ip ip;
        int r;

        if (!request->tap || !network->pub.dns || !endpoint->ip[V4].len)
                return 0;
        r = endpoint_each(store, endpoint->container, has_service, NULL, err);
        if (r != 0)
                return MIN(r, 0);
        r = ipam_take(store, network, V4, &any, endpoint->container, "", &ip, err);
        if (r < 0)
                return r;
        endpoint->dns = arena_strdup(&endpoint->arena, ip_format(&ip).text);
        if (endpoint->dns)
                return 0;
        endpoint->dns = "";
        ipam_release(store, endpoint->key, &ip, endpoint->container);
        return err_sys(err, ENOMEM, "attaching to a network");
}

static void give_addresses_back(struct net_store *store, const struct endpoint *endpoint)
{
        struct ip service;

        for (int f = 0; f < 2; f++)
                ipam_release(store, endpoint->key, &endpoint->ip[f], endpoint->container);
        if (resolver_is_service(endpoint) && ip_parse(endpoint->dns, &service) == 0)
                ipam_release(store, endpoint->key, &service, endpoint->container);
}

static int open_ports(struct net_store *store, struct kernel *kernel, int dir, const struct network *network,
        const struct net_attach_request *request, struct endpoint *endpoint, struct port_holds *holds, struct err **err)
{
        int r;

        if (!request->n_ports)
                return 0;
        if (network->pub.internal) {
                store_notice(store, "the network '%s' is internal: no port is published", network->pub.name);
                return 0;
        }
        r = ports_settle(network, request->ports, request->n_ports, endpoint, holds, err);
        if (r == 0)
                r = kernel_nft(kernel, err);
        endpoint->ports_pending = true;
        if (r == 0)
                r = endpoint_write(dir, endpoint, err);
        if (r == 0)
                r = firewall_open_ports(store, kernel->nft, endpoint, err);
        if (r < 0) {
                endpoint->n_ports = 0; /* not ours to close: what is open under these numbers is another's */
                return r;
        }
        endpoint->ports_pending = false;
        firewall_tell(store, kernel->nft);
        return endpoint_write(dir, endpoint, err);
}

/* A port that was free for the host may be another container's, whose sockets nobody holds: then others are chosen. */
static int open_ports_again(struct net_store *store, struct kernel *kernel, int dir, const struct network *network,
        const struct net_attach_request *request, struct endpoint *endpoint, struct port_holds *holds, struct err **err)
{
        const int tries = ports_are_chosen(request->ports, request->n_ports) ? 8 : 1;
        struct err *why = NULL;
        int r = -EADDRINUSE;

        for (int i = 0; i < tries && r == -EADDRINUSE; i++) {
                struct port_holds these = { 0 };

                why = err_free(why);
                r = open_ports(store, kernel, dir, network, request, endpoint, &these, &why);
                if (r == 0)
                        *holds = these;
                else
                        port_holds_close(&these);
        }
        if (r < 0 && err)
                *err = TAKE_PTR(why);
        err_free(why);
        return r;
}

static int make_endpoint(struct net_store *store, struct kernel *kernel, const struct network *network, int bridge,
        int dir, const struct net_attach_request *request, const struct wanted *wanted, struct endpoint *endpoint,
        struct port_holds *holds, int *ret_tap, struct err **err)
{
        int r = take_addresses(store, network, wanted, endpoint, err);

        if (r == 0)
                r = take_service_address(store, network, request, endpoint, err);
        if (r == 0)
                r = endpoint_write(dir, endpoint, err);
        if (r < 0) {
                give_addresses_back(store, endpoint);
                return r;
        }
        r = names_add(store, endpoint, err);
        if (r == 0)
                r = connect_bridge(store, kernel, network, bridge, request, endpoint, ret_tap, err);
        if (r == 0)
                r = open_ports_again(store, kernel, dir, network, request, endpoint, holds, err);
        if (r < 0)
                endpoint_undo(store, kernel, dir, endpoint, false, NULL);
        return r;
}

/* Locks the store, shared, with the bridge up. */
static int lock_with_bridge(struct net_store *store, struct kernel *kernel, const struct network *network,
        int *ret_lock, int *ret_bridge, struct err **err)
{
        for (int tries = 0; tries < 10; tries++) {
                _cleanup_close_ int lock = -1;
                int r = net_store_lock(store, LOCK_SH, &lock, err);

                if (r == 0)
                        r = bridge_is_up(store, kernel, network, ret_bridge, err);
                if (r < 0)
                        return r;
                if (r > 0) {
                        *ret_lock = TAKE_FD(lock);
                        return 0;
                }
                closep(&lock);
                lock = -1;
                r = net_store_lock(store, LOCK_EX, &lock, err);
                if (r == 0 && !network_exists(store, network))
                        r = err_set(err, ERR_NOT_FOUND, ENOENT, "it was removed just now");
                if (r == 0)
                        r = bridge_up(store, kernel, network, err);
                if (r < 0)
                        return r;
        }
        return err_set(err, ERR_BUSY, EAGAIN, "the network '%s' is taken down again and again", network->pub.name);
}

static int attach_bridge(struct net_store *store, const struct network *network,
        const struct net_attach_request *request, struct net_attachment **ret, struct err **err)
{
        _cleanup_(endpoint_freep) struct endpoint *endpoint = calloc(1, sizeof(*endpoint));
        _cleanup_(port_holds_close) struct port_holds holds = { 0 };
        _cleanup_(kernel_close) struct kernel kernel = KERNEL_CLOSED;
        _cleanup_close_ int lock = -1, dir = -1, tap = -1;
        struct wanted wanted = { 0 };
        char file[KEY_LEN + 8];
        int bridge, r;

        if (!endpoint)
                return err_sys(err, ENOMEM, "attaching to a network");
        r = check_request(request, &wanted, err);
        if (r == 0)
                r = kernel_open(&kernel, err);
        if (r == 0)
                r = lock_with_bridge(store, &kernel, network, &lock, &bridge, err);
        if (r == 0)
                r = leaving_collect(store, &kernel, err);
        if (r == 0)
                r = endpoint_lock(store, request->container, true, &dir, err);
        if (r < 0)
                return r;
        snprintf(file, sizeof(file), "%s.json", network->key);
        if (faccessat(dir, file, F_OK, 0) == 0)
                return err_set(
                        err, ERR_BUSY, EEXIST, "the container is on the network '%s' already", network->pub.name);
        r = plan(store, network, request, endpoint, err);
        if (r == 0)
                r = make_endpoint(store, &kernel, network, bridge, dir, request, &wanted, endpoint, &holds, &tap, err);
        if (r < 0) {
                container_forget(store, dir, request->container);
                return r;
        }
        if (!request->hold_ports)
                port_holds_close(&holds);
        r = attachment_of(endpoint, &holds, ret, err);
        if (r < 0)
                return r; /* out of memory: the caller detaches, or the next net_check */
        (*ret)->tap_fd = TAKE_FD(tap);
        return 0;
}

/* Networks without an interface: "none" and, where nothing is done at all, "host". */
static int attach_nothing(const struct network *network, const struct net_attach_request *request,
        struct net_attachment **ret, struct err **err)
{
        const struct endpoint nothing = { .network = network->pub.name,
                .network_id = network->pub.id,
                .ifname = "",
                .host_ifname = "",
                .mac = "",
                .dns = "" };
        _cleanup_(inside_close) struct inside inside = INSIDE_CLOSED;
        int r = 0;

        if (strcmp(network->pub.driver, "none") == 0 && !request->tap) {
                r = inside_open(request->netns_fd, false, &inside, err);
                if (r == 0)
                        r = configure_inside(&inside, NULL, err);
        }
        return r < 0 ? r : attachment_of(&nothing, NULL, ret, err);
}

static int one_or_the_other(struct err **err)
{
        return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP,
                "without root a container is on the default network or on networks of one's own, not on both");
}

/* Chooses and binds. For a user's networks nothing but sockets publishes ports: neither pasta nor strata-forward has them of SCTP. */
static int settle_user_ports(struct net_store *store, const struct network *network,
        const struct net_attach_request *request, struct endpoint *endpoint, struct port_holds *holds, struct err **err)
{
        for (size_t i = 0; i < request->n_ports; i++)
                if (request->ports[i].protocol == IPPROTO_SCTP)
                        return err_set(
                                err, ERR_UNSUPPORTED, EPROTONOSUPPORT, "SCTP ports cannot be published without root");
        if (request->n_ports && network->pub.internal) {
                store_notice(store, "the network '%s' is internal: no port is published", network->pub.name);
                return 0;
        }
        return ports_settle(network, request->ports, request->n_ports, endpoint, holds, err);
}

static int attach_pasta(struct net_store *store, const struct network *network,
        const struct net_attach_request *request, struct net_attachment **ret, struct err **err)
{
        _cleanup_(endpoint_freep) struct endpoint *endpoint = calloc(1, sizeof(*endpoint));
        _cleanup_(port_holds_close) struct port_holds holds = { 0 };
        _cleanup_close_ int dir = -1;
        struct wanted wanted = { 0 };
        int r;

        if (!endpoint)
                return err_sys(err, ENOMEM, "attaching to a network");
        if (inner_has(store, request->container))
                return one_or_the_other(err);
        r = check_request(request, &wanted, err);
        if (r == 0)
                r = endpoint_lock(store, request->container, true, &dir, err);
        if (r < 0)
                return r;
        if (pasta_runs(store, request->container))
                return err_set(
                        err, ERR_BUSY, EEXIST, "the container is on the network '%s' already", network->pub.name);
        r = plan(store, network, request, endpoint, err);
        if (r == 0)
                r = settle_user_ports(store, network, request, endpoint, &holds, err);
        if (r == 0)
                r = endpoint_write(dir, endpoint, err);
        port_holds_close(&holds); /* they are pasta's from here on */
        if (r == 0)
                r = pasta_start(store, request, endpoint, err);
        if (r == 0)
                r = endpoint_write(dir, endpoint, err);
        if (r == 0)
                r = attachment_of(endpoint, NULL, ret, err);
        if (r < 0) {
                endpoint_undo(store, NULL, dir, endpoint, false, NULL);
                container_forget(store, dir, request->container);
        }
        return r;
}

struct inner_attach {
        const struct network *network;
        struct net_attach_request request;  /* without ports */
        const struct endpoint *published;   /* has those that were settled */
        const struct port_holds *listening; /* on them */
        int tap_to;                         /* a socket: where a machine's tap goes */
};

static int attach_inside(struct net_store *inner, void *opaque, struct err **err)
{
        _cleanup_(net_attachment_freep) struct net_attachment *attachment = NULL;
        const struct inner_attach *attach = opaque;
        const char *container = attach->request.container;
        int r = net_attach(inner, attach->network->pub.id, &attach->request, &attachment, err);

        if (r < 0)
                return r;
        if (attachment->tap_fd >= 0) {
                const ssize_t sent = fds_send(attach->tap_to, "", 1, &attachment->tap_fd, 1, 0);

                r = sent < 0 ? err_sys(err, (int)-sent, "handing over a tap") : 0;
        }
        if (r == 0 && attach->published->n_ports)
                r = forwarder_publish(
                        inner, container, attach->network->key, attach->published, attach->listening, err);
        if (r < 0)
                net_detach(inner, container, attach->network->pub.id, NULL);
        return r;
}

static int make_channel(int *ret_from, int *ret_to, struct err **err)
{
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return err_sys(err, errno, "attaching to a network");
        *ret_from = pair[0];
        *ret_to = pair[1];
        return 0;
}

/* What attach_inside sent; a network without an interface has none. */
static int take_tap(int from, int *ret, struct err **err)
{
        unsigned n = 0;
        char byte;
        const ssize_t got = fds_receive(from, &byte, 1, ret, &n, 1, 0);

        return got < 0 ? err_sys(err, (int)-got, "taking a tap") : 0;
}

/* Without root: a network that the user made, or the default one of machines, which have no namespace for a pasta of
 * their own. */
static int attach_inner(struct net_store *store, const struct network *network,
        const struct net_attach_request *request, struct net_attachment **ret, struct err **err)
{
        static const char *const servers[] = { PASTA_DNS, NULL };
        _cleanup_(endpoint_freep) struct endpoint *endpoint = NULL, *published = calloc(1, sizeof(*published));
        _cleanup_(port_holds_close) struct port_holds listening = { .listen = true };
        struct inner_attach attach = {
                .network = network, .request = *request, .published = published, .listening = &listening, .tap_to = -1
        };
        _cleanup_close_ int dir = -1, tap = -1, tap_from = -1;
        struct wanted wanted = { 0 };
        struct net_store view;
        int r = published ? check_request(request, &wanted, err) : err_sys(err, ENOMEM, "attaching to a network");

        if (r < 0)
                return r;
        if (pasta_runs(store, request->container))
                return one_or_the_other(err);
        r = settle_user_ports(store, network, request, published, &listening, err);
        if (r < 0)
                return r;
        attach.request.n_ports = 0;
        if (!request->dns)
                attach.request.dns = servers; /* the host's may be at addresses that only the host reaches */
        r = request->tap ? make_channel(&tap_from, &attach.tap_to, err) : 0;
        if (r == 0)
                r = inner_call(store, request->container, attach_inside, &attach, err);
        closep(&attach.tap_to);
        if (r == 0 && request->tap)
                r = take_tap(tap_from, &tap, err);
        if (r == 0 && !inner_view(store, &view))
                r = err_set(err, ERR_IO, ENOENT, "the record of the endpoint is gone");
        if (r < 0) {
                inner_collect(store, NULL);
                return r;
        }
        r = endpoint_lock(&view, request->container, false, &dir, err);
        if (r == 0)
                r = endpoint_read(dir, network->key, &endpoint, err);
        inner_close_view(&view);
        /* It answers no names, and the host's servers may be where only the host reaches them. */
        if (r == 0 && network->pub.predefined)
                endpoint->dns = PASTA_DNS;
        if (r == 0)
                r = attachment_of(endpoint, NULL, ret, err);
        if (r == 0)
                (*ret)->tap_fd = TAKE_FD(tap);
        return r;
}

int net_attach(struct net_store *store, const char *name, const struct net_attach_request *request,
        struct net_attachment **ret, struct err **err)
{
        _cleanup_(network_freep) struct network *network = NULL;
        int r = network_find(store, name, &network, err);

        if (r < 0)
                return r;
        if (!network->is_bridge)
                r = attach_nothing(network, request, ret, err);
        else if (store->rootless && (request->tap || !network->pub.predefined))
                r = attach_inner(store, network, request, ret, err);
        else if (store->rootless)
                r = attach_pasta(store, network, request, ret, err);
        else
                r = attach_bridge(store, network, request, ret, err);
        return r < 0 ? err_wrap(err, r, "connecting to the network '%s'", network->pub.name) : 0;
}

/* --- detaching ---------------------------------------------------------------------------------------------------- */

int endpoint_undo(struct net_store *store, struct kernel *kernel, int dir, const struct endpoint *endpoint,
        bool has_ended, struct err **err)
{
        char file[KEY_LEN + 8];
        int r = 0;

        if (endpoint->forwarded) {
                forwarder_stop(store, endpoint->container);
        } else if (kernel && endpoint->n_ports) {
                r = kernel_nft(kernel, err);
                if (r == 0)
                        r = firewall_close_ports(store, kernel->nft, endpoint, err);
        }
        if (r == 0 && kernel && *endpoint->host_ifname)
                r = leaving_remove(store, kernel, endpoint->host_ifname, has_ended, err);
        if (r == 0 && kernel && resolver_is_service(endpoint)) {
                resolver_stop(store, endpoint->container); /* with which the other end of its interface ends */
                r = leaving_remove(store, kernel, service_ifname(endpoint).text, true, err);
        }
        if (r < 0)
                return r;
        names_remove(store, endpoint);
        give_addresses_back(store, endpoint);
        snprintf(file, sizeof(file), "%s.json", endpoint->key);
        if (unlinkat(dir, file, 0) < 0 && errno != ENOENT)
                return err_sys(err, errno, "removing the record of an endpoint");
        return 0;
}

void container_forget(struct net_store *store, int dir, const char *container)
{
        char path[sizeof(DIR_ENDPOINTS) + CONTAINER_MAX + 2];

        if (!store_is_empty(dir, "."))
                return;
        resolver_stop(store, container);
        forwarder_stop(store, container);
        pasta_stop(store, container);
        snprintf(path, sizeof(path), DIR_ENDPOINTS "/%.128s", container);
        store_remove_dir(store->run, path); /* with a file that somebody was killed over */
}

struct detach {
        struct net_store *store;
        struct kernel *kernel;
        int dir;
        const char *key; /* NULL: all */
        struct err **first;
        int r;
};

static int detach_one(void *opaque, struct endpoint *endpoint, struct err **err)
{
        struct detach *detach = opaque;
        int r;

        if (detach->key && strcmp(endpoint->key, detach->key) != 0)
                return 0;
        /* What fails on one must not keep the others. */
        r = endpoint_undo(detach->store, detach->kernel, detach->dir, endpoint, !detach->key, detach->r ? NULL : err);
        if (r < 0 && !detach->r)
                detach->r = r;
        return 0;
}

struct inner_detach {
        const char *container, *network;
};

static int detach_inside(struct net_store *inner, void *opaque, struct err **err)
{
        const struct inner_detach *detach = opaque;

        return net_detach(inner, detach->container, detach->network, err);
}

int net_detach(struct net_store *store, const char *container, const char *name, struct err **err)
{
        _cleanup_(network_freep) struct network *network = NULL;
        _cleanup_(kernel_close) struct kernel kernel = KERNEL_CLOSED;
        _cleanup_close_ int lock = -1, dir = -1;
        struct detach detach = { .store = store, .kernel = store->rootless ? NULL : &kernel };
        int r = 0;

        if (!store_is_name(container, CONTAINER_MAX))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no id of a container", container);
        if (name)
                r = network_find(store, name, &network, err);
        if (r == 0 && inner_has(store, container)) {
                struct inner_detach inner = { container, network ? network->pub.id : NULL };

                r = inner_call(store, NULL, detach_inside, &inner, err);
                if (r == 0)
                        r = inner_collect(store, err);
        }
        if (r == 0)
                r = net_store_lock(store, LOCK_SH, &lock, err);
        if (r < 0)
                return r;
        r = endpoint_lock(store, container, false, &dir, err);
        if (r == -ENOENT)
                return 0;
        if (r == 0 && !store->rootless)
                r = kernel_open(&kernel, err);
        if (r < 0)
                return r;
        detach.dir = dir;
        detach.key = network ? network->key : NULL;
        if (!network) /* its sockets keep the namespace, which otherwise takes the interfaces along */
                resolver_stop(store, container);
        r = endpoint_each(store, container, detach_one, &detach, err);
        container_forget(store, dir, container);
        return r < 0 ? r : detach.r;
}

/* What a network needs in the kernel: its bridge, its elements in the firewall, the host's forwarding. */
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>

#include "firewall.h"
#include "nl.h"

#define FORWARDING "forwarding" /* a link whose target says which families we turned on: "4", "6", "46" */

struct mark_path {
        char text[sizeof(DIR_BRIDGES) + KEY_LEN + 2];
};

static struct mark_path mark_of(const char *key)
{
        struct mark_path p;

        snprintf(p.text, sizeof(p.text), DIR_BRIDGES "/%.12s", key);
        return p;
}

/* --- sockets ------------------------------------------------------------------------------------------------------ */

int kernel_open(struct kernel *kernel, struct err **err)
{
        return kernel->route >= 0 ? 0 : nl_open(NETLINK_ROUTE, &kernel->route, err);
}

int kernel_nft(struct kernel *kernel, struct err **err)
{
        return kernel->nft >= 0 ? 0 : nl_open(NETLINK_NETFILTER, &kernel->nft, err);
}

void kernel_close(struct kernel *kernel)
{
        closep(&kernel->route);
        closep(&kernel->nft);
}

/* --- forwarding --------------------------------------------------------------------------------------------------- */

static const char *const forwarding_file[2] = { "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/all/forwarding" };

static int read_switch(const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        char c;

        return fd >= 0 && read(fd, &c, 1) == 1 ? c - '0' : -1;
}

static int write_switch(const char *path, char value)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        return fd >= 0 && write(fd, &value, 1) == 1 ? 0 : -errno;
}

/* "46 eth0 wlan0" */
static struct firewall_guard read_guard(struct net_store *store)
{
        struct firewall_guard guard = { 0 };
        char text[sizeof(guard.uplinks) + 4], *blank;

        if (store_read_link(store->run, FORWARDING, text, sizeof(text)) <= 0 || !(blank = strchr(text, ' ')))
                return guard;
        *blank = '\0';
        guard.v4 = strchr(text, '4');
        guard.v6 = strchr(text, '6');
        snprintf(guard.uplinks, sizeof(guard.uplinks), "%s", blank + 1);
        return guard;
}

static int add_uplink(void *opaque, const char *name, int master)
{
        struct firewall_guard *guard = opaque;
        const size_t n = strlen(guard->uplinks);

        if (strcmp(name, "lo") != 0 && n + strlen(name) + 2 < sizeof(guard->uplinks))
                snprintf(guard->uplinks + n, sizeof(guard->uplinks) - n, " %s", name);
        return 0;
}

static int write_guard(struct net_store *store, const struct firewall_guard *guard, struct err **err)
{
        char text[sizeof(guard->uplinks) + 4];

        snprintf(text, sizeof(text), "%s%s %s", guard->v4 ? "4" : "", guard->v6 ? "6" : "", guard->uplinks);
        unlinkat(store->run, FORWARDING, 0);
        return symlinkat(text, store->run, FORWARDING) < 0
                       ? err_sys(err, errno, "noting that forwarding is switched on")
                       : 0;
}

/* A host that forwards ignores router advertisements with accept_ra 1, and would lose its own default route. */
static int keep_router_advertisements(void *opaque, const char *name, int master)
{
        char path[80];

        if ((unsigned)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/accept_ra", name) < sizeof(path) &&
                read_switch(path) == 1)
                write_switch(path, '2');
        return 0;
}

static int enable_forwarding(struct net_store *store, struct kernel *kernel, const struct network *network,
        struct firewall_guard *guard, struct err **err)
{
        bool *const ours[2] = { &guard->v4, &guard->v6 };
        int r;

        for (int family = 0; family < 2; family++) {
                if (network->pub.internal || !network->subnet[family].cidr.ip.len ||
                        read_switch(forwarding_file[family]) == 1)
                        continue;
                if (!guard->v4 && !guard->v6)
                        link_list(kernel->route, 0, add_uplink, guard);
                *ours[family] = true;
                r = write_guard(store, guard, err); /* before: whoever finds it on knows why */
                if (r < 0)
                        return r;
                if (family == V6)
                        link_list(kernel->route, 0, keep_router_advertisements, NULL);
                r = write_switch(forwarding_file[family], '1');
                if (r < 0)
                        return err_sys(err, -r, "switching forwarding on (%s)", forwarding_file[family]);
                store_notice(store,
                        "%s forwarding was off on this host and is on now, for the containers; between the interfaces "
                        "that the host has nothing is forwarded (nftables table %s)",
                        family == V4 ? "IPv4" : "IPv6", store->table);
        }
        return 0;
}

static void disable_forwarding(struct net_store *store, const struct firewall_guard *guard)
{
        if (guard->v4)
                write_switch(forwarding_file[V4], '0');
        if (guard->v6)
                write_switch(forwarding_file[V6], '0');
        unlinkat(store->run, FORWARDING, 0);
}

/* --- up and down -------------------------------------------------------------------------------------------------- */

int bridge_is_up(
        struct net_store *store, struct kernel *kernel, const struct network *network, int *ret_index, struct err **err)
{
        int index, r;

        if (faccessat(store->run, mark_of(network->key).text, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return 0;
        index = link_index(kernel->route, network->pub.bridge);
        if (index < 0)
                return index == -ENODEV ? 0 : err_sys(err, -index, "looking for the bridge '%s'", network->pub.bridge);
        r = kernel_nft(kernel, err);
        if (r < 0)
                return r;
        if (firewall_find(store, kernel->nft) < 0)
                return 0; /* somebody's `nft flush ruleset` */
        *ret_index = index;
        return 1;
}

static int make_bridge(struct kernel *kernel, const struct network *network, struct err **err)
{
        struct link_bridge bridge = { .name = network->pub.bridge, .mac = { 0x02, 0x53 }, .mtu = network->pub.mtu };
        int r;

        for (int i = 0; i < 4; i++) {
                unsigned byte = 0;

                sscanf(network->pub.id + 2 * i, "%2x", &byte);
                bridge.mac[2 + i] = (u8)byte;
        }
        for (int f = 0; f < 2; f++)
                bridge.address[f] =
                        (struct cidr){ .ip = network->subnet[f].gateway, .bits = network->subnet[f].cidr.bits };
        bridge.route_localnet = !network->pub.internal;
        r = link_bridge_make(kernel->route, &bridge);
        if (r == -EEXIST)
                return err_set(
                        err, ERR_BUSY, EEXIST, "there is an interface '%s' that is no bridge", network->pub.bridge);
        return r < 0 ? err_sys(err, -r, "making the bridge '%s'", network->pub.bridge) : 0;
}

struct rejoin {
        struct kernel *kernel;
        const struct network *network;
        int index;
};

/* A bridge that somebody removed took no interface with it: they are put back. */
static int rejoin(void *opaque, struct endpoint *endpoint, struct err **err)
{
        const struct rejoin *r = opaque;
        const struct link_port port = {
                .bridge = r->index, .isolated = !r->network->icc, .hairpin = endpoint->n_ports > 0
        };

        if (strcmp(endpoint->key, r->network->key) == 0 && *endpoint->host_ifname)
                link_join_bridge(r->kernel->route, endpoint->host_ifname, &port);
        return 0;
}

int bridge_up(struct net_store *store, struct kernel *kernel, const struct network *network, struct err **err)
{
        struct firewall_guard guard = read_guard(store);
        struct rejoin again = { .kernel = kernel, .network = network };
        char target[IFNAMSIZ + 1];
        int r = bridge_is_up(store, kernel, network, &again.index, err);

        if (r != 0)
                return MIN(r, 0);
        r = kernel_nft(kernel, err);
        if (r < 0)
                return r;
        /* "=" in front: it is there already and not ours to remove */
        snprintf(target, sizeof(target), "%s%s", link_index(kernel->route, network->pub.bridge) > 0 ? "=" : "",
                network->pub.bridge);
        if (symlinkat(target, store->run, mark_of(network->key).text) < 0 && errno != EEXIST)
                return err_sys(err, errno, "noting the bridge '%s'", network->pub.bridge);
        r = enable_forwarding(store, kernel, network, &guard, err);
        if (r == 0)
                r = firewall_rebuild(store, kernel->nft, &guard, err);
        if (r == 0)
                r = make_bridge(kernel, network, err);
        if (r < 0)
                return err_wrap(err, r, "setting up the network '%s'", network->pub.name);
        again.index = link_index(kernel->route, network->pub.bridge);
        return again.index > 0 ? endpoint_each(store, NULL, rejoin, &again, err) : 0;
}

int bridge_rebuild_firewall(struct net_store *store, struct kernel *kernel, struct err **err)
{
        const struct firewall_guard guard = read_guard(store);

        return firewall_rebuild(store, kernel->nft, &guard, err);
}

int bridge_down(struct net_store *store, struct kernel *kernel, const char *key, struct err **err)
{
        const struct firewall_guard guard = read_guard(store);
        char name[IFNAMSIZ + 1], path[64];
        int r = store_read_link(store->run, mark_of(key).text, name, sizeof(name));

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return err_sys(err, -r, "looking for a network's bridge");
        r = *name == '=' ? 0 : link_delete(kernel->route, name);
        if (r < 0)
                return err_sys(err, -r, "removing the bridge '%s'", name);
        unlinkat(store->run, mark_of(key).text, 0);
        snprintf(path, sizeof(path), DIR_ADDRESSES "/%s", key);
        store_remove_dir(store->run, path);
        unlinkat(store->run, strcat(path, ".next"), 0);
        unlinkat(store->run, strcat(path, "6"), 0);
        snprintf(path, sizeof(path), DIR_NAMES "/%s", key);
        store_remove_dir(store->run, path);
        r = kernel_nft(kernel, err);
        if (r < 0)
                return r;
        if (!store_is_empty(store->run, DIR_BRIDGES))
                return firewall_rebuild(store, kernel->nft, &guard, err);
        disable_forwarding(store, &guard);
        return firewall_remove(store, kernel->nft, err);
}

struct use {
        struct net_store *store;
        const char *key;
};

static int is_on(void *opaque, int dirfd, const char *container, struct err **err)
{
        const struct use *use = opaque;
        char path[CONTAINER_MAX + KEY_LEN + 8];

        if ((unsigned)snprintf(path, sizeof(path), "%s/%s.json", container, use->key) >= sizeof(path))
                return 0;
        return faccessat(dirfd, path, F_OK, 0) == 0;
}

bool network_is_used(struct net_store *store, const char *key)
{
        struct use use = { .store = store, .key = key };

        return store_list_dir(store->run, DIR_ENDPOINTS, is_on, &use, NULL) != 0;
}

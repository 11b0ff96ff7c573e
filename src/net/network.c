/* The store's networks: made, found, listed, removed. */
#include "internal.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "inner.h"
#include "nl.h"

struct network_path {
        char text[sizeof(DIR_NETWORKS) + 140];
};

static struct network_path path_of(const char *name)
{
        struct network_path p;

        snprintf(p.text, sizeof(p.text), "%.130s.json", name);
        return p;
}

static int open_networks(struct net_store *store, int *ret, struct err **err)
{
        return store_open_dir(store->fd, DIR_NETWORKS, ret, err);
}

/* --- predefined --------------------------------------------------------------------------------------------------- */

/* Those without a file: nothing about them can change. Their ids are their names in hexadecimal, over and over. */
static const struct {
        const char *name, *four;
} fixed[] = { { "none", "6e6f6e65" }, { "host", "686f7374" } };

static int fixed_network(struct net_store *store, size_t i, struct network **ret, struct err **err)
{
        _cleanup_(json_decrefp) json_t *json = NULL;
        char id[65];

        for (size_t at = 0; at < 64; at += 8)
                memcpy(id + at, fixed[i].four, 9);
        json = json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:[], s:{}, s:{}}", "id", id, "name", fixed[i].name, "driver",
                fixed[i].name, "created", "1970-01-01T00:00:00Z", "internal", 0, "ipv6", 0, "subnets", "options",
                "labels");
        return network_from_json(store, json, ret, err);
}

/* --- finding ------------------------------------------------------------------------------------------------------ */

static int read_network(struct net_store *store, int dir, const char *file, struct network **ret, struct err **err)
{
        _cleanup_(json_decrefp) json_t *json = NULL;
        int r = store_read_json(dir, file, &json, err);

        if (r == 0)
                r = network_from_json(store, json, ret, err);
        return r < 0 && r != -ENOENT ? err_wrap(err, r, "reading the network in '%s'", file) : r;
}

struct each {
        int (*fn)(void *opaque, struct network *network, struct err **err);
        void *opaque;
        const char **names;
        size_t n;
};

static int call(struct each *each, struct network *network, struct err **err)
{
        const int r = each->fn(each->opaque, network, err);

        network_free(network);
        return r;
}

static int collect_name(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct each *each = opaque;
        const size_t len = strlen(name);
        const char **more;
        char *copy;

        if (len < 6 || strcmp(name + len - 5, ".json") != 0)
                return 0;
        more = realloc(each->names, (each->n + 1) * sizeof(*more));
        if (more)
                each->names = more;
        copy = more ? strdup(name) : NULL;
        if (!copy)
                return err_sys(err, ENOMEM, "listing networks");
        each->names[each->n++] = copy;
        return 0;
}

/* The default network first. */
static int compare(const void *a, const void *b)
{
        const char *x = *(char *const *)a, *y = *(char *const *)b;
        const int first = (strcmp(y, "bridge.json") == 0) - (strcmp(x, "bridge.json") == 0);

        return first ? first : strcmp(x, y);
}

static int each_file(struct net_store *store, int dir, struct each *each, struct err **err)
{
        bool predefined = false;
        int r = 0;

        for (size_t i = 0; i <= each->n && r == 0; i++) {
                struct network *network;

                if (!predefined && (i == each->n || strcmp(each->names[i], "bridge.json") != 0)) {
                        predefined = true;
                        for (size_t f = 0; f < ARRAY_SIZE(fixed) && r == 0; f++) {
                                r = fixed_network(store, f, &network, err);
                                if (r == 0)
                                        r = call(each, network, err);
                        }
                }
                if (i == each->n || r != 0)
                        break;
                r = read_network(store, dir, each->names[i], &network, err);
                if (r == -ENOENT)
                        r = 0; /* removed meanwhile */
                else if (r == 0)
                        r = call(each, network, err);
        }
        return r;
}

int network_each(struct net_store *store, int (*fn)(void *opaque, struct network *network, struct err **err),
        void *opaque, struct err **err)
{
        struct each each = { .fn = fn, .opaque = opaque };
        _cleanup_close_ int dir = -1;
        int r = open_networks(store, &dir, err);

        if (r == 0)
                r = store_list_dir(dir, ".", collect_name, &each, err);
        if (r == 0) {
                if (each.n)
                        qsort(each.names, each.n, sizeof(*each.names), compare);
                r = each_file(store, dir, &each, err);
        }
        for (size_t i = 0; i < each.n; i++)
                free((char *)each.names[i]);
        free(each.names);
        return r;
}

struct search {
        struct net_store *store;
        const char *prefix;
        struct network *found;
        unsigned n;
};

static int match_id(void *opaque, struct network *network, struct err **err)
{
        struct search *search = opaque;

        if (strncmp(network->pub.id, search->prefix, strlen(search->prefix)) != 0)
                return 0;
        if (search->n++ == 0) {
                _cleanup_(json_decrefp) json_t *json = network_to_json(network);

                return network_from_json(search->store, json, &search->found, err);
        }
        return 0;
}

/* *ret NULL: none. */
static int find_by_id(struct net_store *store, const char *prefix, struct network **ret, struct err **err)
{
        struct search search = { .store = store, .prefix = prefix };
        int r = network_each(store, match_id, &search, err);

        if (r == 0 && search.n > 1)
                r = err_set(err, ERR_USAGE, EINVAL, "'%s' is the beginning of several networks' ids", prefix);
        if (r < 0) {
                network_free(search.found);
                return r;
        }
        *ret = search.found;
        return 0;
}

static int make_default(struct net_store *store, struct err **err);

static int find_by_name(struct net_store *store, const char *name, struct network **ret, struct err **err)
{
        _cleanup_close_ int dir = -1;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
                if (strcmp(name, fixed[i].name) == 0)
                        return fixed_network(store, i, ret, err);
        r = open_networks(store, &dir, err);
        if (r < 0)
                return r;
        r = read_network(store, dir, path_of(name).text, ret, err);
        if (r != -ENOENT || strcmp(name, "bridge") != 0)
                return r;
        r = make_default(store, err);
        return r < 0 ? r : read_network(store, dir, path_of(name).text, ret, err);
}

int network_find(struct net_store *store, const char *name, struct network **ret, struct err **err)
{
        struct network *network = NULL;
        int r;

        if (strcmp(name, "default") == 0)
                name = "bridge";
        r = store_is_name(name, 128) ? find_by_name(store, name, &network, err) : -ENOENT;
        if (r == -ENOENT)
                r = *name && strspn(name, "0123456789abcdef") == strlen(name) ? find_by_id(store, name, &network, err)
                                                                              : 0;
        if (r < 0)
                return r;
        if (!network)
                return err_hint(err, err_set(err, ERR_NOT_FOUND, ENOENT, "there is no network '%s'", name),
                        "'strata network ls' lists them");
        *ret = network;
        return 0;
}

int network_by_key(struct net_store *store, const char *key, struct network **ret, struct err **err)
{
        struct network *network = NULL;
        int r = find_by_id(store, key, &network, err);

        if (r == 0 && !network)
                return -ENOENT;
        *ret = network;
        return r;
}

bool network_exists(struct net_store *store, const struct network *network)
{
        _cleanup_close_ int dir = -1;

        return open_networks(store, &dir, NULL) == 0 && faccessat(dir, path_of(network->pub.name).text, F_OK, 0) == 0;
}

int net_find(struct net_store *store, const char *name, struct net_network **ret, struct err **err)
{
        struct network *network = NULL;
        int r = network_find(store, name, &network, err);

        if (r == 0)
                *ret = &network->pub;
        return r;
}

struct listing {
        int (*fn)(void *opaque, const struct net_network *network);
        void *opaque;
};

static int list_one(void *opaque, struct network *network, struct err **err)
{
        const struct listing *listing = opaque;

        return listing->fn(listing->opaque, &network->pub);
}

int net_list(struct net_store *store, int (*fn)(void *opaque, const struct net_network *network), void *opaque,
        struct err **err)
{
        struct listing listing = { .fn = fn, .opaque = opaque };
        struct network *network = NULL;
        int r = network_find(store, "bridge", &network, err); /* the default one is always there */

        network_free(network);
        return r < 0 ? r : network_each(store, list_one, &listing, err);
}

/* --- making ------------------------------------------------------------------------------------------------------- */

/* What a new network must keep away from. */
struct taken {
        struct {
                struct cidr cidr;
                char by[160]; /* whose; "": a route of the host's */
        } * item;
        size_t n;
        const char *name, *bridge; /* of the new one */
        bool bridge_is_taken;
};

static int add_taken(struct taken *taken, const struct cidr *cidr, const char *by)
{
        void *more = realloc(taken->item, (taken->n + 1) * sizeof(*taken->item));

        if (!more)
                return -ENOMEM;
        taken->item = more;
        taken->item[taken->n].cidr = *cidr;
        snprintf(taken->item[taken->n++].by, sizeof(taken->item->by), "%s", by);
        return 0;
}

static int take_route(void *opaque, const struct cidr *destination)
{
        return add_taken(opaque, destination, "");
}

static int take_network(void *opaque, struct network *network, struct err **err)
{
        struct taken *taken = opaque;
        int r = 0;

        if (*network->pub.bridge && strcmp(network->pub.bridge, taken->bridge) == 0)
                taken->bridge_is_taken = true;
        for (int f = 0; f < 2 && r == 0; f++)
                if (network->subnet[f].cidr.ip.len)
                        r = add_taken(taken, &network->subnet[f].cidr, network->pub.name);
        return r < 0 ? err_sys(err, ENOMEM, "looking for a subnet") : 0;
}

static int look_what_is_taken(struct net_store *store, struct taken *taken, struct err **err)
{
        _cleanup_close_ int sock = -1;
        int r = network_each(store, take_network, taken, err);

        if (r < 0)
                return r;
        r = nl_open(NETLINK_ROUTE, &sock, err);
        if (r < 0)
                return r;
        r = link_routes(sock, take_route, taken);
        return r < 0 ? err_sys(err, -r, "reading the host's routes") : 0;
}

/* Who has something of @cidr: a network's name, "" for the host, NULL for nobody. Routes of networks' own bridges are
 * there too: networks come first. */
static const char *taken_by(const struct taken *taken, const struct cidr *cidr)
{
        for (size_t i = 0; i < taken->n; i++)
                if (cidr_overlaps(&taken->item[i].cidr, cidr))
                        return taken->item[i].by;
        return NULL;
}

/* Where subnets are taken from. Docker's and podman's are elsewhere (172.17.0.0/12, 10.88.0.0/13). */
static const struct pool {
        u8 first[2];
        u8 bits;
        u16 count;
} default_pool = { { 10, 210 }, 16, 10 }, user_pool = { { 10, 220 }, 24, 10 * 256 };

static int choose_v4(const struct pool *pool, const struct taken *taken, struct subnet *ret, struct err **err)
{
        struct ip ip = { .len = 4, .bytes = { pool->first[0], pool->first[1] } };

        for (unsigned i = 0; i < pool->count; i++) {
                struct subnet s = { .cidr = { .ip = ip, .bits = pool->bits } };

                if (!taken_by(taken, &s.cidr)) {
                        s.range = s.cidr;
                        s.gateway = ip_plus(&s.cidr.ip, 1);
                        *ret = s;
                        return 0;
                }
                ip = ip_plus(&ip, cidr_size(&s.cidr));
        }
        return err_hint(err, err_set(err, ERR_BUSY, ENOSPC, "no subnet is free"), "choose one with --subnet");
}

/* A unique local prefix (RFC 4193) whose random part comes from the network's id. */
static void choose_v6(const struct network *network, struct subnet *ret)
{
        struct subnet s = { .cidr = { .ip = { .len = 16, .bytes = { 0xfd } }, .bits = 64 } };

        for (int i = 0; i < 5; i++) {
                unsigned byte = 0;

                sscanf(network->pub.id + 2 * i, "%2x", &byte);
                s.cidr.ip.bytes[1 + i] = (u8)byte;
        }
        s.range = s.cidr;
        s.gateway = ip_plus(&s.cidr.ip, 1);
        *ret = s;
}

static int settle_subnets(struct network *network, const struct taken *taken, struct err **err)
{
        bool given = network->subnet[V4].cidr.ip.len || network->subnet[V6].cidr.ip.len;
        int r;

        if (!network->subnet[V4].cidr.ip.len) {
                r = choose_v4(network->pub.predefined ? &default_pool : &user_pool, taken, &network->subnet[V4], err);
                if (r < 0)
                        return r;
        }
        if (!network->subnet[V6].cidr.ip.len && network->pub.ipv6)
                choose_v6(network, &network->subnet[V6]);
        for (int f = 0; given && f < 2; f++) {
                const struct cidr *cidr = &network->subnet[f].cidr;
                const char *by = cidr->ip.len ? taken_by(taken, cidr) : NULL;

                if (by)
                        return err_set(err, ERR_BUSY, EEXIST, "the subnet %s/%u is in use by %s%s%s",
                                ip_format(&cidr->ip).text, cidr->bits, *by ? "the network '" : "the host itself", by,
                                *by ? "'" : "");
        }
        return network_fill_texts(network, err);
}

/* Under the exclusive lock. */
static int add_network(struct net_store *store, struct network *network, struct err **err)
{
        struct taken taken = { .name = network->pub.name, .bridge = network->pub.bridge };
        _cleanup_(json_decrefp) json_t *json = NULL;
        _cleanup_close_ int dir = -1;
        int r = open_networks(store, &dir, err);

        if (r < 0)
                return r;
        if (faccessat(dir, path_of(network->pub.name).text, F_OK, 0) == 0)
                return err_set(err, ERR_BUSY, EEXIST, "there is a network '%s' already", network->pub.name);
        r = look_what_is_taken(store, &taken, err);
        if (r == 0 && taken.bridge_is_taken)
                r = err_set(err, ERR_BUSY, EEXIST, "another network has the bridge '%s'", network->pub.bridge);
        if (r == 0)
                r = settle_subnets(network, &taken, err);
        free(taken.item);
        if (r < 0)
                return r;
        json = network_to_json(network);
        return store_write_json(dir, path_of(network->pub.name).text, json, true, err);
}

static int make_default(struct net_store *store, struct err **err)
{
        _cleanup_(network_freep) struct network *network = NULL;
        _cleanup_close_ int lock = -1;
        int r = network_define(store, "bridge", NULL, &network, err);

        if (r == 0)
                r = net_store_lock(store, LOCK_EX, &lock, err);
        if (r < 0)
                return r;
        if (faccessat(store->fd, DIR_NETWORKS "/bridge.json", F_OK, 0) == 0)
                return 0; /* somebody was first */
        return add_network(store, network, err);
}

int net_create(struct net_store *store, const char *name, const struct net_create_options *options, char **ret_id,
        struct err **err)
{
        _cleanup_(network_freep) struct network *network = NULL;
        _cleanup_close_ int lock = -1;
        int r;

        r = network_define(store, name, options, &network, err);
        if (r < 0)
                return r;
        if (network->pub.predefined || !network->is_bridge)
                return err_set(err, ERR_BUSY, EEXIST,
                        network->pub.predefined ? "the network '%s' is always there"
                                                : "there is only one network of the driver '%s'",
                        network->pub.predefined ? name : network->pub.driver);
        r = net_store_lock(store, LOCK_EX, &lock, err);
        if (r == 0)
                r = add_network(store, network, err);
        if (r < 0)
                return r;
        if (ret_id) {
                char *id = strdup(network->pub.id);

                if (!id)
                        return err_sys(err, ENOMEM, "making the network '%s'", name);
                *ret_id = id;
        }
        return 0;
}

/* --- removing ----------------------------------------------------------------------------------------------------- */

/* Under the exclusive lock. */
static int remove_network(
        struct net_store *store, struct kernel *kernel, const struct network *network, struct err **err)
{
        _cleanup_close_ int dir = -1;
        int r = open_networks(store, &dir, err);

        if (r < 0)
                return r;
        if (network_is_used(store, network->key))
                return err_hint(err,
                        err_set(err, ERR_BUSY, EBUSY, "containers are on the network '%s'", network->pub.name),
                        "'strata network inspect %s' shows which; disconnect or stop them", network->pub.name);
        /* The file last: while it is there somebody finds what is left of the bridge. */
        r = bridge_down(store, kernel, network->key, err);
        if (r < 0)
                return r;
        if (unlinkat(dir, path_of(network->pub.name).text, 0) < 0 && errno != ENOENT)
                return err_sys(err, errno, "removing the network '%s'", network->pub.name);
        return 0;
}

static int remove_inside(struct net_store *inner, void *opaque, struct err **err)
{
        return net_remove(inner, opaque, err);
}

int net_remove(struct net_store *store, const char *name, struct err **err)
{
        _cleanup_(network_freep) struct network *network = NULL;
        _cleanup_(kernel_close) struct kernel kernel = KERNEL_CLOSED;
        _cleanup_close_ int lock = -1;
        int r = network_find(store, name, &network, err);

        if (r < 0)
                return r;
        if (network->pub.predefined)
                return err_set(err, ERR_USAGE, EPERM, "the network '%s' is always there: it cannot be removed",
                        network->pub.name);
        if (store->rootless) {
                r = inner_call(store, NULL, remove_inside, (void *)name, err);
                if (r < 0 || !network_exists(store, network))
                        return r;
        }
        r = net_store_lock(store, LOCK_EX, &lock, err);
        if (r == 0)
                r = kernel_open(&kernel, err);
        return r < 0 ? r : remove_network(store, &kernel, network, err);
}

struct prune {
        struct net_store *store;
        struct kernel *kernel;
        bool (*keep)(void *opaque, const struct net_network *network);
        void (*removed)(void *opaque, const char *name);
        void *opaque;
};

static int prune_one(void *opaque, struct network *network, struct err **err)
{
        const struct prune *prune = opaque;
        int r;

        if (!network->is_bridge || network_is_used(prune->store, network->key))
                return 0;
        if (network->pub.predefined || (prune->keep && prune->keep(prune->opaque, &network->pub)))
                return bridge_down(prune->store, prune->kernel, network->key, err);
        r = remove_network(prune->store, prune->kernel, network, err);
        if (r == 0 && prune->removed)
                prune->removed(prune->opaque, network->pub.name);
        return r;
}

/* A user's bridges go with their namespace: that is with the last container in it. */
static int prune_unprivileged(void *opaque, struct network *network, struct err **err)
{
        const struct prune *prune = opaque;
        _cleanup_(err_freep) struct err *error = NULL;
        int r;

        if (network->pub.predefined || (prune->keep && prune->keep(prune->opaque, &network->pub)))
                return 0;
        r = net_remove(prune->store, network->pub.name, &error);
        if (r == 0 && prune->removed)
                prune->removed(prune->opaque, network->pub.name);
        if (r < 0 && r != -EBUSY && err)
                *err = TAKE_PTR(error);
        return r == -EBUSY ? 0 : r;
}

int net_prune(struct net_store *store, bool (*keep)(void *opaque, const struct net_network *network),
        void (*removed)(void *opaque, const char *name), void *opaque, struct err **err)
{
        _cleanup_(kernel_close) struct kernel kernel = KERNEL_CLOSED;
        struct prune prune = { .store = store, .kernel = &kernel, .keep = keep, .removed = removed, .opaque = opaque };
        _cleanup_close_ int lock = -1;
        int r;

        if (store->rootless)
                return network_each(store, prune_unprivileged, &prune, err);
        r = net_store_lock(store, LOCK_EX, &lock, err);
        if (r == 0)
                r = kernel_open(&kernel, err);
        return r < 0 ? r : network_each(store, prune_one, &prune, err);
}

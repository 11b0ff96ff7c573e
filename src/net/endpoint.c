/* Records of endpoints: what was made for a container on a network, so that anybody can take it away. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct endpoint *endpoint_free(struct endpoint *endpoint)
{
        if (!endpoint)
                return NULL;
        arena_release(&endpoint->arena);
        free(endpoint);
        return NULL;
}

int endpoint_lock(struct net_store *store, const char *container, bool make, int *ret_dir, struct err **err)
{
        char path[sizeof(DIR_ENDPOINTS) + CONTAINER_MAX + 2];

        snprintf(path, sizeof(path), DIR_ENDPOINTS "/%.128s", container);
        for (;;) {
                _cleanup_close_ int fd = openat(store->run, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
                struct stat st;

                if (fd < 0 && errno == ENOENT && make) {
                        if (mkdirat(store->run, path, 0755) < 0 && errno != EEXIST)
                                return err_sys(err, errno, "making the endpoints of '%s'", container);
                        continue;
                }
                if (fd < 0)
                        return errno == ENOENT ? -ENOENT
                                               : err_sys(err, errno, "opening the endpoints of '%s'", container);
                while (flock(fd, LOCK_EX) < 0)
                        if (errno != EINTR)
                                return err_sys(err, errno, "locking the endpoints of '%s'", container);
                if (fstat(fd, &st) < 0)
                        return err_sys(err, errno, "locking the endpoints of '%s'", container);
                if (st.st_nlink == 0)
                        continue; /* who had the lock has removed it */
                *ret_dir = TAKE_FD(fd);
                return 0;
        }
}

/* --- documents ---------------------------------------------------------------------------------------------------- */

/* For json_pack and json_unpack: texts, addresses of both families, numbers, lists. */
#define RECORD                                                         \
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:[ss], s:[ss], s:[ii], " \
        "s:i, s:s, s:b, s:b, s:b, s:i, s:I, s:o, s:o, s:o}"

static json_t *ports_to_json(const struct endpoint *endpoint)
{
        json_t *ports = json_array();

        for (size_t i = 0; i < endpoint->n_ports; i++) {
                const struct published *p = &endpoint->ports[i];

                json_array_append_new(ports,
                        json_pack("[isii]", p->protocol, ip_format(&p->host_ip).text, p->host_port, p->container_port));
        }
        return ports;
}

static json_t *list_to_json(const char **list)
{
        json_t *json = json_array();

        for (; list && *list; list++)
                json_array_append_new(json, json_string(*list));
        return json;
}

int endpoint_write(int dir, const struct endpoint *e, struct err **err)
{
        _cleanup_(json_decrefp) json_t *json = NULL;
        char file[KEY_LEN + 8];

        json = json_pack(RECORD, "container", e->container, "name", e->name, "network", e->network, "network_id",
                e->network_id, "ifname", e->ifname, "host_ifname", e->host_ifname, "mac", e->mac, "ip",
                ip_format(&e->ip[V4]).text, ip_format(&e->ip[V6]).text, "gateway", ip_format(&e->gateway[V4]).text,
                ip_format(&e->gateway[V6]).text, "prefix", e->prefix_len[V4], e->prefix_len[V6], "mtu", (int)e->mtu,
                "dns", e->dns, "default_route", e->default_route, "ports_pending", e->ports_pending, "forwarded", e->forwarded, "pid", (int)e->pid,
                "netns", (json_int_t)e->netns, "names", list_to_json(e->names), "servers", list_to_json(e->servers),
                "ports", ports_to_json(e));
        snprintf(file, sizeof(file), "%s.json", e->key);
        return store_write_json(dir, file, json, false, err);
}

static int parse_or_none(const char *text, struct ip *ret)
{
        *ret = (struct ip){ 0 };
        return *text ? ip_parse(text, ret) : 0;
}

static int ports_from_json(struct endpoint *endpoint, json_t *json)
{
        const size_t n = json_array_size(json);
        json_t *one;
        size_t i;

        endpoint->ports = arena_new(&endpoint->arena, struct published, n + 1);
        if (!endpoint->ports || n > PORTS_MAX)
                return -EINVAL;
        json_array_foreach(json, i, one)
        {
                struct published *p = &endpoint->ports[i];
                int protocol, host, container;
                const char *ip;

                if (json_unpack(one, "[isii]", &protocol, &ip, &host, &container) < 0 ||
                        parse_or_none(ip, &p->host_ip) < 0 || host < 1 || host > 65535 || container < 1 ||
                        container > 65535)
                        return -EINVAL;
                p->protocol = (u8)protocol;
                p->host_port = (u16)host;
                p->container_port = (u16)container;
        }
        endpoint->n_ports = n;
        return 0;
}

static int list_from_json(struct arena *arena, json_t *json, const char ***ret)
{
        const char **list = arena_new(arena, const char *, json_array_size(json) + 1);
        json_t *one;
        size_t i;

        if (!list)
                return -ENOMEM;
        json_array_foreach(json, i, one)
        {
                list[i] = json_is_string(one) ? arena_strdup(arena, json_string_value(one)) : NULL;
                if (!list[i])
                        return -EINVAL;
        }
        *ret = list;
        return 0;
}

static int from_json(struct endpoint *e, json_t *json)
{
        const char **const texts[] = { &e->container, &e->name, &e->network, &e->network_id, &e->ifname,
                &e->host_ifname, &e->mac, &e->dns };
        const char *ip4, *ip6, *gateway4, *gateway6;
        int bits4, bits6, mtu, pid, default_route, pending, forwarded;
        json_t *names, *servers, *ports;
        json_int_t netns;

        if (json_unpack(json, RECORD, "container", &e->container, "name", &e->name, "network", &e->network,
                    "network_id", &e->network_id, "ifname", &e->ifname, "host_ifname", &e->host_ifname, "mac", &e->mac,
                    "ip", &ip4, &ip6, "gateway", &gateway4, &gateway6, "prefix", &bits4, &bits6, "mtu", &mtu, "dns",
                    &e->dns, "default_route", &default_route, "ports_pending", &pending, "forwarded", &forwarded, "pid", &pid, "netns", &netns,
                    "names", &names, "servers", &servers, "ports", &ports) < 0 ||
                strlen(e->network_id) != 64)
                return -EINVAL;
        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                if (!(*texts[i] = arena_strdup(&e->arena, *texts[i])))
                        return -ENOMEM;
        e->key = arena_printf(&e->arena, "%.*s", KEY_LEN, e->network_id);
        e->prefix_len[V4] = (u8)bits4;
        e->prefix_len[V6] = (u8)bits6;
        e->mtu = (unsigned)mtu;
        e->pid = pid;
        e->netns = (u64)netns;
        e->default_route = default_route;
        e->ports_pending = pending;
        e->forwarded = forwarded;
        if (!e->key || parse_or_none(ip4, &e->ip[V4]) < 0 || parse_or_none(ip6, &e->ip[V6]) < 0 ||
                parse_or_none(gateway4, &e->gateway[V4]) < 0 || parse_or_none(gateway6, &e->gateway[V6]) < 0)
                return -EINVAL;
        return list_from_json(&e->arena, names, &e->names) < 0 || list_from_json(&e->arena, servers, &e->servers) < 0 ||
                               ports_from_json(e, ports) < 0
                       ? -EINVAL
                       : 0;
}

int endpoint_read(int dir, const char *key, struct endpoint **ret, struct err **err)
{
        _cleanup_(endpoint_freep) struct endpoint *endpoint = calloc(1, sizeof(*endpoint));
        _cleanup_(json_decrefp) json_t *json = NULL;
        char file[KEY_LEN + 8];
        int r;

        if (!endpoint)
                return err_sys(err, ENOMEM, "reading an endpoint");
        snprintf(file, sizeof(file), "%.12s.json", key);
        r = store_read_json(dir, file, &json, err);
        if (r < 0)
                return r;
        r = from_json(endpoint, json);
        if (r < 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "the record of an endpoint, '%s', is damaged", file);
        *ret = TAKE_PTR(endpoint);
        return 0;
}

/* --- lists -------------------------------------------------------------------------------------------------------- */

struct each {
        int (*fn)(void *opaque, struct endpoint *endpoint, struct err **err);
        void *opaque;
};

static int read_one(void *opaque, int dirfd, const char *file, struct err **err)
{
        _cleanup_(endpoint_freep) struct endpoint *endpoint = NULL;
        const struct each *each = opaque;
        const size_t len = strlen(file);

        if (len != KEY_LEN + 5 || strcmp(file + KEY_LEN, ".json") != 0 ||
                endpoint_read(dirfd, file, &endpoint, NULL) < 0)
                return 0; /* gone meanwhile, or damaged: net_check sees to that */
        return each->fn(each->opaque, endpoint, err);
}

static int each_container(void *opaque, int dirfd, const char *container, struct err **err)
{
        return store_list_dir(dirfd, container, read_one, opaque, err);
}

int endpoint_each(struct net_store *store, const char *container,
        int (*fn)(void *opaque, struct endpoint *endpoint, struct err **err), void *opaque, struct err **err)
{
        struct each each = { .fn = fn, .opaque = opaque };
        char path[sizeof(DIR_ENDPOINTS) + CONTAINER_MAX + 2];

        if (!container)
                return store_list_dir(store->run, DIR_ENDPOINTS, each_container, &each, err);
        snprintf(path, sizeof(path), DIR_ENDPOINTS "/%.128s", container);
        return store_list_dir(store->run, path, read_one, &each, err);
}

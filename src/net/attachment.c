/* Endpoints as others see them. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "attach.h"
#include "inner.h"

struct attachment {
        struct net_attachment pub;
        struct arena arena;
};

struct net_attachment *net_attachment_free(struct net_attachment *pub)
{
        struct attachment *attachment = (struct attachment *)pub;

        if (!attachment)
                return NULL;
        for (size_t i = 0; i < pub->n_port_fds; i++)
                closep(&pub->port_fds[i]);
        free(pub->port_fds);
        closep(&pub->tap_fd);
        arena_release(&attachment->arena);
        free(attachment);
        return NULL;
}

static int copy_ports(struct attachment *attachment, const struct endpoint *endpoint)
{
        struct net_published *ports = arena_new(&attachment->arena, struct net_published, endpoint->n_ports + 1);

        for (size_t i = 0; ports && i < endpoint->n_ports; i++) {
                const struct published *p = &endpoint->ports[i];

                ports[i] = (struct net_published){ .protocol = p->protocol,
                        .host_ip = p->host_ip.len ? arena_strdup(&attachment->arena, ip_format(&p->host_ip).text)
                                                  : "0.0.0.0",
                        .host_port = p->host_port,
                        .container_port = p->container_port };
                if (!ports[i].host_ip)
                        return -ENOMEM;
        }
        attachment->pub.ports = ports;
        attachment->pub.n_ports = endpoint->n_ports;
        return ports ? 0 : -ENOMEM;
}

int attachment_of(const struct endpoint *e, struct port_holds *holds, struct net_attachment **ret, struct err **err)
{
        _cleanup_(net_attachment_freep) struct net_attachment *pub = NULL;
        const struct ip_text ip[2] = { ip_format(&e->ip[V4]), ip_format(&e->ip[V6]) };
        const struct ip_text gateway[2] = { ip_format(&e->gateway[V4]), ip_format(&e->gateway[V6]) };
        struct attachment *attachment = calloc(1, sizeof(*attachment));

        if (!attachment)
                return err_sys(err, ENOMEM, "describing an endpoint");
        pub = &attachment->pub;
        pub->tap_fd = -1;
        const struct {
                const char **to, *from;
        } texts[] = {
                { &pub->network, e->network },
                { &pub->network_id, e->network_id },
                { &pub->ifname, e->ifname },
                { &pub->host_ifname, e->host_ifname },
                { &pub->mac, e->mac },
                { &pub->dns, e->dns },
                { &pub->ip, ip[V4].text },
                { &pub->ip6, ip[V6].text },
                { &pub->gateway, gateway[V4].text },
                { &pub->gateway6, gateway[V6].text },
        };
        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                if (!(*texts[i].to = arena_strdup(&attachment->arena, texts[i].from)))
                        return err_sys(err, ENOMEM, "describing an endpoint");
        pub->prefix_len = e->prefix_len[V4];
        pub->prefix_len6 = e->prefix_len[V6];
        pub->default_route = e->default_route;
        pub->mtu = e->mtu;
        if (copy_ports(attachment, e) < 0)
                return err_sys(err, ENOMEM, "describing an endpoint");
        if (holds) {
                pub->port_fds = holds->fd;
                pub->n_port_fds = holds->n;
                *holds = (struct port_holds){ 0 };
        }
        *ret = TAKE_PTR(pub);
        return 0;
}

/* --- lists -------------------------------------------------------------------------------------------------------- */

struct listing {
        const char *key;
        int (*fn)(void *opaque, const struct net_endpoint *endpoint);
        void *opaque;
};

static int list_one(void *opaque, struct endpoint *endpoint, struct err **err)
{
        _cleanup_(net_attachment_freep) struct net_attachment *attachment = NULL;
        const struct listing *listing = opaque;
        struct net_endpoint shown = { .container = endpoint->container, .name = endpoint->name };
        int r;

        if (listing->key && strcmp(endpoint->key, listing->key) != 0)
                return 0;
        r = attachment_of(endpoint, NULL, &attachment, err);
        if (r < 0)
                return r;
        shown.attachment = attachment;
        return listing->fn(listing->opaque, &shown);
}

int net_endpoint_list(struct net_store *store, const char *name, const char *container,
        int (*fn)(void *opaque, const struct net_endpoint *endpoint), void *opaque, struct err **err)
{
        _cleanup_(network_freep) struct network *network = NULL;
        struct listing listing = { .fn = fn, .opaque = opaque };
        struct net_store inner;
        int r = 0;

        if (container && !store_is_name(container, CONTAINER_MAX))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no id of a container", container);
        if (name)
                r = network_find(store, name, &network, err);
        if (r < 0)
                return r;
        listing.key = network ? network->key : NULL;
        r = endpoint_each(store, container, list_one, &listing, err);
        if (r == 0 && inner_view(store, &inner)) {
                r = endpoint_each(&inner, container, list_one, &listing, err);
                inner_close_view(&inner);
        }
        return r;
}

/* --- renaming ----------------------------------------------------------------------------------------------------- */

struct rename {
        struct net_store *store;
        int dir;
        const char *old_name, *new_name;
};

static int rename_one(void *opaque, struct endpoint *endpoint, struct err **err)
{
        const struct rename *rename = opaque;
        struct endpoint gone = *endpoint, come = *endpoint;
        const char *gone_names[2] = { rename->old_name, NULL }, *come_names[2] = { rename->new_name, NULL };
        int r;

        if (strcmp(endpoint->name, rename->old_name) != 0)
                return 0;
        gone.names = gone_names;
        come.names = come_names;
        for (const char **name = endpoint->names; *name; name++)
                if (strcmp(*name, rename->old_name) == 0)
                        *name = rename->new_name;
        endpoint->name = rename->new_name;
        r = endpoint_write(rename->dir, endpoint, err);
        if (r == 0 && *endpoint->names)
                r = names_add(rename->store, &come, err);
        if (r == 0 && *endpoint->names)
                names_remove(rename->store, &gone);
        return r;
}

/* Under a lock. */
static int rename_in(
        struct net_store *store, const char *container, const char *old_name, const char *new_name, struct err **err)
{
        _cleanup_close_ int dir = -1;
        struct rename rename = { .store = store, .old_name = old_name, .new_name = new_name };
        int r = endpoint_lock(store, container, false, &dir, err);

        if (r < 0)
                return r == -ENOENT ? 0 : r;
        rename.dir = dir;
        return endpoint_each(store, container, rename_one, &rename, err);
}

int net_rename(
        struct net_store *store, const char *container, const char *old_name, const char *new_name, struct err **err)
{
        _cleanup_close_ int lock = -1;
        struct net_store inner;
        int r;

        if (!store_is_name(container, CONTAINER_MAX) || !store_is_name(old_name, CONTAINER_MAX) ||
                !store_is_name(new_name, CONTAINER_MAX))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no name for a container", new_name);
        r = net_store_lock(store, LOCK_SH, &lock, err);
        if (r == 0)
                r = rename_in(store, container, old_name, new_name, err);
        if (r == 0 && inner_view(store, &inner)) {
                r = rename_in(&inner, container, old_name, new_name, err);
                inner_close_view(&inner);
        }
        return r;
}

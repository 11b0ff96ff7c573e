/* Networks of an instance that exists: its configuration changes, and while it runs its namespace and its files do, too. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "net/net.h"
#include "network.h"
#include "ops.h"
#include "session.h"

struct change {
        struct instance *inst;
        struct net_store *store;
        struct net_network *network; /* the one in question */
        int lock, netns;             /* netns -1: it does not run */
        pid_t pid;
};

static void change_end(struct change *change)
{
        net_network_free(change->network);
        net_store_close(change->store);
        closep(&change->netns);
        closep(&change->lock);
}

static bool has_own_network(const struct instance *inst)
{
        const char *mode = network_mode_of(inst);

        return inst->config.networks.n > 0 ||
               (strcmp(mode, "none") != 0 && strcmp(mode, "host") != 0 && strncmp(mode, "container:", 10) != 0);
}

static int change_begin(struct instance *inst, const char *name, struct change *ret, struct err **err)
{
        const struct instance_state *state;
        char path[48];
        int r = instance_lock(inst, true, &ret->lock, err);

        ret->inst = inst;
        if (r == 0)
                r = config_load(inst, err); /* somebody may have changed it meanwhile */
        if (r == 0)
                r = network_open_store(inst->host, &ret->store, err);
        if (r == 0)
                r = net_find(ret->store, name, &ret->network, err);
        if (r == 0)
                r = instance_get_state(inst, &state, err);
        if (r < 0 || !state->pid)
                return r;
        r = instance_check_namespaces(inst, "networks cannot be changed while it runs", err);
        if (r < 0)
                return r;
        ret->pid = state->pid;
        snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)state->pid);
        ret->netns = open(path, O_RDONLY | O_CLOEXEC);
        return ret->netns < 0 ? err_sys(err, errno, "opening the network of '%s'", inst->config.name) : 0;
}

/* --- the files that say where it is ----------------------------------------------------------------------------- */

#define ATTACHMENTS_MAX 64

struct texts {
        struct arena arena;
        struct net_attachment item[ATTACHMENTS_MAX];
        const struct net_attachment *list[ATTACHMENTS_MAX];
        size_t n;
};

/* The endpoint is the network module's while it is shown. */
static int keep_endpoint(void *opaque, const struct net_endpoint *endpoint)
{
        struct texts *texts = opaque;
        const struct net_attachment *from = endpoint->attachment;
        struct net_attachment *to = &texts->item[texts->n];

        if (texts->n == ATTACHMENTS_MAX)
                return 0;
        *to = *from;
        to->ip = arena_strdup(&texts->arena, from->ip ? from->ip : "");
        to->ip6 = arena_strdup(&texts->arena, from->ip6 ? from->ip6 : "");
        to->dns = arena_strdup(&texts->arena, from->dns ? from->dns : "");
        if (!to->ip || !to->ip6 || !to->dns)
                return -ENOMEM;
        texts->list[texts->n++] = to;
        return 0;
}

/* In place: what is mounted in the container is this very file. */
static int rewrite(const struct instance *inst, const char *file, const char *text, struct err **err)
{
        _cleanup_close_ int fd = openat(inst->dir, file, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
        int r = fd < 0 ? -errno : io_write_all(fd, text, strlen(text));

        return r < 0 && r != -ENOENT ? err_sys(err, -r, "writing '%s'", file)
                                     : 0; /* not there: the container has its own */
}

static const char *const *list_or_null(const struct instance_strings *list)
{
        return list->n ? (const char *const *)list->item : NULL;
}

static int rewrite_files(const struct instance *inst, const struct texts *texts, struct err **err)
{
        const struct instance_config *c = &inst->config;
        char short_id[13];
        const struct net_hosts hosts = { .hostname = c->hostname && c->hostname[0] ? c->hostname : short_id,
                .domainname = c->domainname,
                .attachments = texts->list,
                .n_attachments = texts->n,
                .extra = list_or_null(&c->extra_hosts) };
        const struct net_resolv resolv = { .attachments = texts->list,
                .n_attachments = texts->n,
                .servers = list_or_null(&c->dns),
                .search = list_or_null(&c->dns_search),
                .options = list_or_null(&c->dns_options) };
        _cleanup_free_ char *hosts_text = NULL, *resolv_text = NULL;
        int r;

        snprintf(short_id, sizeof(short_id), "%.12s", inst->id);
        r = net_hosts_text(&hosts, &hosts_text, err);
        if (r == 0)
                r = net_resolv_text(&resolv, &resolv_text, err);
        if (r == 0)
                r = rewrite(inst, "hosts", hosts_text, err);
        return r < 0 ? r : rewrite(inst, "resolv.conf", resolv_text, err);
}

static int update_files(const struct change *change, struct err **err)
{
        struct texts texts = { .n = 0 };
        int r = net_endpoint_list(change->store, NULL, change->inst->id, keep_endpoint, &texts, err);

        if (r == 0)
                r = rewrite_files(change->inst, &texts, err);
        arena_release(&texts.arena);
        return r;
}

/* --- the configuration ------------------------------------------------------------------------------------------ */

/* Whether the configuration's word for a network means the one in question. */
static bool is_network(const struct change *change, const char *name)
{
        _cleanup_(net_network_freep) struct net_network *network = NULL;

        return strcmp(name, change->network->name) == 0 ||
               (net_find(change->store, name, &network, NULL) == 0 && strcmp(network->id, change->network->id) == 0);
}

/* The configured networks as a list, with room for one more. */
static struct instance_network *networks_of(struct instance *inst, size_t *ret_n)
{
        const struct instance_config *c = &inst->config;
        struct instance_network *item = arena_new(&inst->arena, struct instance_network, c->networks.n + 2);

        if (!item)
                return NULL;
        if (c->networks.n)
                memcpy(item, c->networks.item, c->networks.n * sizeof(*item));
        else
                item[0].name = network_mode_of(inst);
        *ret_n = c->networks.n ? c->networks.n : 1;
        return item;
}

static int copy_strings(struct arena *arena, const struct instance_strings *from, struct instance_strings *to)
{
        *to = (struct instance_strings){ 0 };
        for (size_t i = 0; i < from->n; i++)
                if (strings_add(arena, to, from->item[i]) < 0)
                        return -ENOMEM;
        return 0;
}

static int save(struct change *change, struct instance_network *item, size_t n, struct err **err)
{
        struct instance_config *c = &change->inst->config;
        const struct instance_config before = *c;
        int r;

        c->networks.item = item;
        c->networks.n = n;
        if (n == 0)
                c->network_mode = "none";
        r = config_save(change->inst, err);
        if (r < 0)
                *c = before;
        return r;
}

static int no_networks(const struct instance *inst, struct err **err)
{
        return err_set(err, ERR_BUSY, EINVAL, "'%s' has no networks to choose: it was started with --network %s",
                inst->config.name, network_mode_of(inst));
}

/* --- connect, disconnect ---------------------------------------------------------------------------------------- */

static int attach_running(const struct change *change, const struct instance_network *wanted, struct err **err)
{
        const struct instance_config *c = &change->inst->config;
        const struct net_attach_request request = { .container = change->inst->id,
                .name = c->name,
                .hostname = c->hostname,
                .aliases = list_or_null(&wanted->aliases),
                .ip = wanted->ip,
                .ip6 = wanted->ip6,
                .mac = wanted->mac,
                .netns_fd = change->netns,
                .pid = change->pid,
                .dns = list_or_null(&c->dns) };
        _cleanup_(net_attachment_freep) struct net_attachment *attachment = NULL;
        int r = net_attach(change->store, change->network->name, &request, &attachment, err);

        if (r == 0)
                r = update_files(change, err);
        if (r < 0 && attachment)
                net_detach(change->store, change->inst->id, change->network->name, NULL);
        return r;
}

int instance_network_connect(struct instance *inst, const struct instance_network *network, struct err **err)
{
        _cleanup_(change_end) struct change change = { .lock = -1, .netns = -1 };
        struct instance_network *item, *added;
        size_t n = 0;
        int r = change_begin(inst, network->name, &change, err);

        if (r < 0)
                return r;
        if (!has_own_network(inst) || strcmp(change.network->name, "none") == 0 ||
                strcmp(change.network->name, "host") == 0)
                return no_networks(inst, err);
        item = networks_of(inst, &n);
        if (!item)
                return err_sys(err, ENOMEM, "connecting '%s'", inst->config.name);
        for (size_t i = 0; i < n; i++)
                if (is_network(&change, item[i].name))
                        return err_set(err, ERR_BUSY, EEXIST, "'%s' is on the network '%s' already", inst->config.name,
                                change.network->name);
        added = &item[n];
        *added = (struct instance_network){ .name = arena_strdup(&inst->arena, change.network->name),
                .ip = network->ip ? arena_strdup(&inst->arena, network->ip) : NULL,
                .ip6 = network->ip6 ? arena_strdup(&inst->arena, network->ip6) : NULL,
                .mac = network->mac ? arena_strdup(&inst->arena, network->mac) : NULL };
        if (!added->name || copy_strings(&inst->arena, &network->aliases, &added->aliases) < 0)
                return err_sys(err, ENOMEM, "connecting '%s'", inst->config.name);
        if (change.netns >= 0)
                r = attach_running(&change, added, err);
        if (r < 0)
                return r;
        r = save(&change, item, n + 1, err);
        if (r < 0 && change.netns >= 0)
                net_detach(change.store, inst->id, change.network->name, NULL);
        return r;
}

/* The supervisor keeps no port that went with the network. */
static int free_ports(struct instance *inst, struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        const struct instance_port *ports;
        size_t n;
        int r = instance_get_ports(inst, &ports, &n, err);

        if (r < 0 || n || !network_publishes(inst))
                return r;
        if (session_open(inst, 0, &session, NULL) == 0 && session_send(session, MESSAGE_FREE_PORTS, 0, 0, NULL) == 0)
                session_answer(session, NULL);
        return 0;
}

int instance_network_disconnect(struct instance *inst, const char *name, struct err **err)
{
        _cleanup_(change_end) struct change change = { .lock = -1, .netns = -1 };
        struct instance_network *item;
        size_t n = 0, kept = 0;
        int r = change_begin(inst, name, &change, err);

        if (r < 0)
                return r;
        if (!has_own_network(inst))
                return no_networks(inst, err);
        item = networks_of(inst, &n);
        if (!item)
                return err_sys(err, ENOMEM, "disconnecting '%s'", inst->config.name);
        for (size_t i = 0; i < n; i++)
                if (!is_network(&change, item[i].name))
                        item[kept++] = item[i];
        if (kept == n)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "'%s' is not on the network '%s'", inst->config.name,
                        change.network->name);
        r = save(&change, item, kept, err);
        if (r == 0 && change.netns >= 0)
                r = net_detach(change.store, inst->id, change.network->name, err);
        if (r == 0 && change.netns >= 0)
                r = free_ports(inst, err);
        if (r == 0 && change.netns >= 0)
                r = update_files(&change, err);
        return r;
}

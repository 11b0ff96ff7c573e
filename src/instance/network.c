#include "network_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fd_pass.h"
#include "base/log.h"
#include "box/sys.h"
#include "ops.h"

#define DEFAULT_NETWORK "bridge"

struct network *network_close(struct network *network)
{
        if (!network)
                return NULL;
        for (size_t i = 0; i < network->n; i++)
                if (network->attachment[i] != &network->user)
                        net_attachment_free(network->attachment[i]);
        closep(&network->fd);
        free(network->joined);
        free(network);
        return NULL;
}

const char *network_path(const struct network *network)
{
        return network->path[0] ? network->path : NULL;
}

char *network_root(const struct instance_host *host)
{
        const char *given = getenv("STRATA_NET_ROOT");
        char *path;

        if (given && given[0])
                return strdup(given);
        return asprintf(&path, "%s/net", host->root) < 0 ? NULL : path;
}

int network_open_store(const struct instance_host *host, struct net_store **ret, struct err **err)
{
        _cleanup_free_ char *root = network_root(host);

        return root ? net_store_open(&(struct net_store_options){ .root = root }, ret, err)
                    : err_sys(err, ENOMEM, "opening the networks");
}

const char *network_mode_of(const struct instance *inst)
{
        const char *mode = inst->config.network_mode;

        return !mode || !mode[0] || strcmp(mode, "default") == 0 ? DEFAULT_NETWORK : mode;
}

/* --- ports ------------------------------------------------------------------------------------------------------ */

static bool is_published(const struct instance_config *c, u16 port, const char *protocol)
{
        for (size_t i = 0; i < c->ports.n; i++)
                if (c->ports.item[i].port == port &&
                        strcmp(c->ports.item[i].protocol ? c->ports.item[i].protocol : "tcp", protocol) == 0)
                        return true;
        return false;
}

/* "80/tcp", "80-90/udp" */
static int add_exposed(
        struct instance *inst, const char *text, struct net_port *item, size_t *n, size_t room, struct err **err)
{
        unsigned first, last;
        char protocol[8] = "tcp";

        if (sscanf(text, "%u-%u/%7s", &first, &last, protocol) < 2) {
                if (sscanf(text, "%u/%7s", &first, protocol) < 1)
                        return err_set(err, ERR_USAGE, EINVAL, "'%.40s' is not a port", text);
                last = first;
        }
        if (!first || last > 65535 || last < first || !net_protocol_by_name(protocol))
                return err_set(err, ERR_USAGE, EINVAL, "'%.40s' is not a port", text);
        for (unsigned port = first; port <= last && *n < room; port++)
                if (!is_published(&inst->config, (u16)port, protocol))
                        item[(*n)++] = (struct net_port){ .protocol = net_protocol_by_name(protocol),
                                .container_first = (u16)port,
                                .container_last = (u16)port };
        return 0;
}

static int make_ports(struct instance *inst, struct net_ports *ret, struct err **err)
{
        const struct instance_config *c = &inst->config;
        const size_t room = c->ports.n + (c->publish_all ? 4096 : 0) + 1;
        struct net_port *item = calloc(room, sizeof(*item));
        size_t n = 0;
        int r = item ? 0 : err_sys(err, ENOMEM, "publishing ports");

        for (size_t i = 0; r == 0 && i < c->ports.n; i++) {
                const struct instance_port *p = &c->ports.item[i];
                const u8 protocol = net_protocol_by_name(p->protocol ? p->protocol : "tcp");

                if (!protocol)
                        r = err_set(err, ERR_USAGE, EINVAL, "'%s' is not a protocol", p->protocol);
                item[n++] = (struct net_port){ .host_ip = p->host_ip,
                        .protocol = protocol,
                        .host_first = p->host_port,
                        .host_last = p->host_port_last ? p->host_port_last : p->host_port,
                        .container_first = p->port,
                        .container_last = p->port };
        }
        for (size_t i = 0; r == 0 && c->publish_all && i < c->exposed.n; i++)
                r = add_exposed(inst, c->exposed.item[i], item, &n, room, err);
        if (r < 0) {
                free(item);
                return r;
        }
        *ret = (struct net_ports){ item, n };
        return 0;
}

/* --- connecting ------------------------------------------------------------------------------------------------- */

static int loopback_up(void)
{
        _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };

        return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

/* Who cannot come back (a user: the first network namespace is the host's) has a child go there; so has who wants it to belong to
 * the user namespace @userns (-1: our own). */
static int make_namespace_by_child(int userns, int *ret, struct err **err)
{
        const struct sys_clone_args args = { .flags = userns < 0 ? CLONE_NEWNET : 0, .exit_signal = SIGCHLD };
        char path[40], byte;
        int ready[2], r = 0;
        pid_t pid;

        if (pipe2(ready, O_CLOEXEC) < 0)
                return err_sys(err, errno, "making a network namespace");
        pid = sys_clone3(&args);
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(ready[0]);
                if (userns >= 0 && (setns(userns, CLONE_NEWUSER) < 0 || unshare(CLONE_NEWNET) < 0))
                        _exit(1);
                if (loopback_up() < 0 || write(ready[1], "", 1) != 1)
                        _exit(1);
                for (;;)
                        pause();
        }
        close(ready[1]);
        if (pid > 0 && read(ready[0], &byte, 1) != 1)
                r = err_sys(err, EPERM, "making a network namespace");
        close(ready[0]);
        if (pid < 0)
                return err_sys(err, -pid, "making a network namespace");
        snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
        *ret = open(path, O_RDONLY | O_CLOEXEC);
        if (r == 0 && *ret < 0)
                r = err_sys(err, errno, "making a network namespace");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return r;
}

/* A new network namespace; this process stays in its own. */
static int make_namespace(int userns, int *ret, struct err **err)
{
        _cleanup_close_ int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), fd = -1;

        if (own < 0)
                return err_sys(err, errno, "making a network namespace");
        if (userns >= 0 || setns(own, CLONE_NEWNET) < 0)
                return make_namespace_by_child(userns, ret, err);
        if (unshare(CLONE_NEWNET) < 0)
                return err_sys(err, errno, "making a network namespace");
        fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        if (setns(own, CLONE_NEWNET) < 0 || fd < 0)
                return err_sys(err, errno, "making a network namespace");
        *ret = TAKE_FD(fd);
        return 0;
}

static int join_other(struct network *network, const char *name, struct err **err)
{
        _cleanup_(instance_freep) struct instance *other = NULL;
        const struct instance_state *state;
        char path[40];
        int r = instance_find(network->inst->host, name, &other, err);

        if (r == 0)
                r = instance_check_namespaces(other, "a network cannot be shared", err);
        if (r == 0)
                r = instance_get_state(other, &state, err);
        if (r < 0)
                return r;
        if (!state->pid)
                return err_set(
                        err, ERR_BUSY, ESRCH, "'%s' is not running: its network cannot be shared", other->config.name);
        snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)state->pid);
        network->fd = open(path, O_RDONLY | O_CLOEXEC);
        network->joined = instance_path(other, "");
        if (network->fd < 0 || !network->joined)
                return err_sys(err, errno, "joining the network of '%s'", other->config.name);
        return 0;
}

bool network_publishes(const struct instance *inst)
{
        return inst->config.ports.n || inst->config.publish_all;
}

/* To the supervisor, who keeps them while it lives (supervise/protocol.h). Should that fail the ports are open all the same. */
static void hand_over_ports(const struct instance *inst, const struct net_attachment *attachment)
{
        for (size_t i = 0, n; inst->ports_to >= 0 && i < attachment->n_port_fds; i += n) {
                ssize_t sent;

                n = MIN(attachment->n_port_fds - i, FDS_AT_ONCE);
                sent = fds_send(inst->ports_to, "", 1, attachment->port_fds + i, n, MSG_DONTWAIT);
                if (sent < 0) {
                        log_warn("the host's ports are not kept from other programs: %s", strerror((int)-sent));
                        return;
                }
        }
}

/* What goes for the first network goes for the ports. */
static int attach(struct network *network, struct net_store *store, const char *name,
        const struct instance_network *details, const char *hostname, const struct net_ports *ports, struct err **err)
{
        struct instance *inst = network->inst;
        const struct net_attach_request request = { .container = inst->id,
                .name = inst->config.name,
                .hostname = hostname,
                .aliases = details && details->aliases.n ? (const char *const *)details->aliases.item : NULL,
                .ip = details ? details->ip : NULL,
                .ip6 = details ? details->ip6 : NULL,
                .mac = details ? details->mac : NULL,
                .ports = ports ? ports->item : NULL,
                .n_ports = ports ? ports->n : 0,
                .netns_fd = network->fd,
                .tap = network->machine,
                .pid = getppid(), /* the supervisor: it was there before the first process, and outlives no container */
                .hold_ports = inst->ports_to >= 0,
                .dns = inst->config.dns.n ? (const char *const *)inst->config.dns.item : NULL };
        int r;

        if (network->n == NETWORKS_MAX)
                return err_set(err, ERR_USAGE, E2BIG, "more than %d networks", NETWORKS_MAX);
        r = net_attach(store, name, &request, &network->attachment[network->n], err);
        if (r == 0)
                hand_over_ports(inst, network->attachment[network->n++]);
        return r;
}

int network_attach_all(struct network *network, const char *hostname, struct err **err)
{
        struct instance *inst = network->inst;
        const struct instance_config *c = &inst->config;
        _cleanup_(net_store_closep) struct net_store *store = NULL;
        struct net_ports ports = { 0 };
        int r = network_open_store(inst->host, &store, err);

        if (r == 0)
                r = make_ports(inst, &ports, err);
        if (r == 0 && c->networks.n == 0)
                r = attach(network, store, network_mode_of(inst), NULL, hostname, &ports, err);
        for (size_t i = 0; r == 0 && i < c->networks.n; i++)
                r = attach(network, store, c->networks.item[i].name, &c->networks.item[i], hostname, i ? NULL : &ports,
                        err);
        free(ports.item);
        if (r < 0)
                net_detach(store, inst->id, NULL, NULL);
        return r;
}

int network_connect(struct instance *inst, const char *hostname, struct network **ret, struct err **err)
{
        _cleanup_(network_closep) struct network *network = calloc(1, sizeof(*network));
        const char *mode = network_mode_of(inst);
        int r = 0;

        if (!network)
                return err_sys(err, ENOMEM, "connecting to networks");
        network->inst = inst;
        network->fd = -1;
        if (strncmp(mode, MODE_CONTAINER, strlen(MODE_CONTAINER)) == 0)
                r = join_other(network, mode + strlen(MODE_CONTAINER), err);
        else if (strcmp(mode, "host") != 0) {
                r = make_namespace(inst->userns, &network->fd, err);
                /* A user's processes cannot enter and leave it; and for "none" there is nothing to be done there. */
                if (r == 0 && !(inst->host->rootless && strcmp(mode, "none") == 0 && !inst->config.networks.n))
                        r = network_attach_all(network, hostname, err);
        }
        if (r < 0)
                return r;
        if (network->fd >= 0)
                snprintf(network->path, sizeof(network->path), "/proc/self/fd/%d", network->fd);
        *ret = TAKE_PTR(network);
        return 0;
}

int network_disconnect(struct instance *inst, struct err **err)
{
        const char *mode = network_mode_of(inst);
        _cleanup_(net_store_closep) struct net_store *store = NULL;
        int r;

        if (strncmp(mode, MODE_CONTAINER, strlen(MODE_CONTAINER)) == 0 || strcmp(mode, "host") == 0)
                return 0;
        r = network_open_store(inst->host, &store, err);
        return r < 0 ? r : net_detach(store, inst->id, NULL, err);
}

void network_rename(struct instance *inst, const char *old_name)
{
        _cleanup_(net_store_closep) struct net_store *store = NULL;

        if (supervisor_alive(inst) && network_open_store(inst->host, &store, NULL) == 0)
                net_rename(store, inst->id, old_name, inst->config.name, NULL);
}

/* --- files ------------------------------------------------------------------------------------------------------ */

static int read_other(const char *dir, const char *file, char **ret, struct err **err)
{
        _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return err_sys(err, errno, "'%s'", dir);
        return io_read_file(fd, file, 1 << 20, ret, NULL, err);
}

/* The host's own, as it is. */
static int read_host_file(const char *path, char **ret)
{
        if (io_read_file(AT_FDCWD, path, 1 << 20, ret, NULL, NULL) < 0)
                *ret = strdup("");
        return *ret ? 0 : -ENOMEM;
}

static const char *const *list_or_null(const struct instance_strings *list)
{
        return list->n ? (const char *const *)list->item : NULL;
}

int network_texts(struct network *network, const char *hostname, char **ret_hosts, char **ret_resolv, struct err **err)
{
        const struct instance_config *c = &network->inst->config;
        const struct net_attachment *const *attachments = (const struct net_attachment *const *)network->attachment;
        const struct net_hosts hosts = { .hostname = hostname,
                .domainname = c->domainname,
                .attachments = attachments,
                .n_attachments = network->n,
                .extra = list_or_null(&c->extra_hosts) };
        const struct net_resolv resolv = { .attachments = attachments,
                .n_attachments = network->n,
                .servers = list_or_null(&c->dns),
                .search = list_or_null(&c->dns_search),
                .options = list_or_null(&c->dns_options) };
        const bool host = network->fd < 0 && !network->machine,
                   own_dns = c->dns.n || c->dns_search.n || c->dns_options.n;
        int r;

        if (network->joined) {
                r = read_other(network->joined, "hosts", ret_hosts, err);
                return r < 0 ? r : read_other(network->joined, "resolv.conf", ret_resolv, err);
        }
        if (host && !c->extra_hosts.n)
                r = read_host_file("/etc/hosts", ret_hosts);
        else
                r = net_hosts_text(&hosts, ret_hosts, err);
        if (r == 0 && host && !own_dns)
                r = read_host_file("/etc/resolv.conf", ret_resolv);
        else if (r == 0)
                r = net_resolv_text(&resolv, ret_resolv, err);
        return r;
}

/* --- what it has now -------------------------------------------------------------------------------------------- */

struct listing {
        struct instance *inst;
        struct instance_endpoints endpoints;
        struct instance_port *ports;
        size_t n_ports, room;
        bool failed;
};

static const char *keep(struct listing *l, const char *text)
{
        const char *copy = arena_strdup(&l->inst->network_arena, text ? text : "");

        l->failed |= !copy;
        return copy ? copy : "";
}

static void add_ports(struct listing *l, const struct net_attachment *a)
{
        struct instance_port *item =
                arena_new(&l->inst->network_arena, struct instance_port, l->n_ports + a->n_ports + 1);

        if (!item) {
                l->failed = true;
                return;
        }
        if (l->n_ports)
                memcpy(item, l->ports, l->n_ports * sizeof(*item));
        for (size_t i = 0; i < a->n_ports; i++)
                item[l->n_ports++] = (struct instance_port){ .host_ip = keep(l, a->ports[i].host_ip),
                        .host_port = a->ports[i].host_port,
                        .port = a->ports[i].container_port,
                        .protocol = net_protocol_name(a->ports[i].protocol) };
        l->ports = item;
}

static int add_endpoint(void *opaque, const struct net_endpoint *endpoint)
{
        struct listing *l = opaque;
        const struct net_attachment *a = endpoint->attachment;
        struct instance_endpoint *e;

        if (l->endpoints.n == NETWORKS_MAX)
                return 0;
        e = &l->endpoints.item[l->endpoints.n++];
        *e = (struct instance_endpoint){ .network = keep(l, a->network),
                .ip = keep(l, a->ip),
                .ip6 = keep(l, a->ip6),
                .gateway = keep(l, a->gateway),
                .mac = keep(l, a->mac),
                .prefix_len = a->prefix_len };
        add_ports(l, a);
        return 0;
}

static int list_endpoints(struct instance *inst, struct listing *l, struct err **err)
{
        _cleanup_(net_store_closep) struct net_store *store = NULL;
        int r;

        arena_release(&inst->network_arena);
        *l = (struct listing){ .inst = inst };
        l->endpoints.item = arena_new(&inst->network_arena, struct instance_endpoint, NETWORKS_MAX);
        l->ports = arena_new(&inst->network_arena, struct instance_port, 1);
        if (!l->endpoints.item || !l->ports)
                return err_sys(err, ENOMEM, "listing networks");
        if (!supervisor_alive(inst))
                return 0;
        r = network_open_store(inst->host, &store, err);
        if (r == 0)
                r = net_endpoint_list(store, NULL, inst->id, add_endpoint, l, err);
        return r == 0 && l->failed ? err_sys(err, ENOMEM, "listing networks") : r;
}

int instance_get_endpoints(struct instance *inst, const struct instance_endpoints **ret, struct err **err)
{
        struct listing l;
        int r = list_endpoints(inst, &l, err);

        if (r < 0)
                return r;
        inst->endpoints = l.endpoints;
        *ret = &inst->endpoints;
        return 0;
}

int instance_get_ports(struct instance *inst, const struct instance_port **ret, size_t *ret_n, struct err **err)
{
        struct listing l;
        int r = list_endpoints(inst, &l, err);

        if (r < 0)
                return r;
        *ret = l.ports;
        *ret_n = l.n_ports;
        return 0;
}

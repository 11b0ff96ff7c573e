/* net_check: the records are what is right; everything else follows them or goes. Under the exclusive lock nobody
 * attaches, so that what is half-made was made by the dead. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "attach.h"
#include "firewall.h"
#include "inner.h"

struct check {
        struct net_store *store;
        struct kernel *kernel; /* NULL without root */
        bool (*is_alive)(void *opaque, const char *container);
        void (*problem)(void *opaque, const char *text);
        void *opaque;
        int dir; /* of the container that is looked at */
        int n;
        bool rebuild;
};

static void _printf_(2, 3) report(struct check *check, const char *fmt, ...)
{
        char text[512];
        va_list args;

        va_start(args, fmt);
        vsnprintf(text, sizeof(text), fmt, args);
        va_end(args);
        check->n++;
        if (check->problem)
                check->problem(check->opaque, text);
}

/* --- endpoints ---------------------------------------------------------------------------------------------------- */

/* Why an endpoint is to go; NULL: it is alive. */
static const char *why_dead(struct check *check, const struct endpoint *endpoint)
{
        _cleanup_(network_freep) struct network *network = NULL;

        if (check->is_alive && !check->is_alive(check->opaque, endpoint->container))
                return "the container does not run";
        if (network_by_key(check->store, endpoint->key, &network, NULL) == -ENOENT)
                return "the network is gone";
        if (!check->kernel)
                return pasta_runs(check->store, endpoint->container) ? NULL : "its pasta is gone";
        if (process_has_ended(endpoint->pid))
                return "its process has ended";
        return link_has_living_peer(check->kernel->route, endpoint->host_ifname) > 0 ? NULL : "its interface is gone";
}

/* The network namespace with that inode, by any process that is in it; -1. */
static int find_namespace(u64 inode)
{
        DIR *dir = opendir("/proc");
        const struct dirent *entry;
        int found = -1;

        while (dir && found < 0 && (entry = readdir(dir))) {
                char path[NAME_MAX + 20];
                struct stat st;

                if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
                        continue;
                snprintf(path, sizeof(path), "/proc/%s/ns/net", entry->d_name);
                if (stat(path, &st) == 0 && st.st_ino == inode)
                        found = open(path, O_RDONLY | O_CLOEXEC);
        }
        if (dir)
                closedir(dir);
        return found;
}

/* In the container's namespace, or in one of its own. */
static void start_resolver_again(struct check *check, const struct endpoint *endpoint)
{
        _cleanup_(inside_close) struct inside inside = INSIDE_CLOSED;
        _cleanup_(network_freep) struct network *network = NULL;
        _cleanup_close_ int netns = -1;

        if (resolver_is_service(endpoint)) {
                if (network_by_key(check->store, endpoint->key, &network, NULL) == 0)
                        service_start(check->store, check->kernel,
                                link_index(check->kernel->route, network->pub.bridge), endpoint, NULL);
                return;
        }
        netns = find_namespace(endpoint->netns);
        if (netns >= 0 && inside_open(netns, true, &inside, NULL) == 0)
                resolver_start(check->store, endpoint, &inside, NULL);
}

static void restart_resolver(struct check *check, const struct endpoint *endpoint)
{
        if (!*endpoint->dns || !check->kernel)
                return;
        for (int i = 0; i < 10; i++) { /* one that was started just now takes a moment to its lock */
                if (resolver_runs(check->store, endpoint->container))
                        return;
                usleep(10000);
        }
        report(check, "the resolver of '%s' does not run", endpoint->container);
        start_resolver_again(check, endpoint);
}

static int remove_dead(struct check *check, const struct endpoint *endpoint, const char *why, struct err **err)
{
        report(check, "'%s' is on the network '%s' still: %s", endpoint->container, endpoint->network, why);
        return endpoint_undo(check->store, check->kernel, check->dir, endpoint, false, err);
}

static int check_record(void *opaque, int dirfd, const char *file, struct err **err)
{
        _cleanup_(endpoint_freep) struct endpoint *endpoint = NULL;
        struct check *check = opaque;
        char key[KEY_LEN + 1];
        const char *why;

        snprintf(key, sizeof(key), "%s", file);
        if (strlen(file) != KEY_LEN + 5 || endpoint_read(dirfd, key, &endpoint, NULL) < 0) {
                report(check, "the record '%s' of an endpoint is damaged", file);
                unlinkat(dirfd, file, 0); /* what it named is found by the sweeps below */
                check->rebuild = true;
                return 0;
        }
        why = why_dead(check, endpoint);
        if (why)
                return remove_dead(check, endpoint, why, err);
        restart_resolver(check, endpoint);
        return 0;
}

static int check_container(void *opaque, int dirfd, const char *container, struct err **err)
{
        struct check *check = opaque;
        _cleanup_close_ int dir = -1;
        int r = endpoint_lock(check->store, container, false, &dir, err);

        if (r < 0)
                return r == -ENOENT ? 0 : r;
        check->dir = dir;
        r = store_list_dir(dir, ".", check_record, check, err);
        container_forget(check->store, dir, container);
        return r;
}

/* --- what belongs to nobody --------------------------------------------------------------------------------------- */

/* Whether the container has an endpoint on that network. */
static bool has_record(struct check *check, const char *container, const char *key)
{
        char path[sizeof(DIR_ENDPOINTS) + CONTAINER_MAX + KEY_LEN + 10];

        snprintf(path, sizeof(path), DIR_ENDPOINTS "/%.128s/%.12s.json", container, key);
        return faccessat(check->store->run, path, F_OK, 0) == 0;
}

struct sweep {
        struct check *check;
        const char *key, *name;
};

static int sweep_address(void *opaque, int dirfd, const char *address, struct err **err)
{
        const struct sweep *sweep = opaque;
        char owner[2 * CONTAINER_MAX + 2];

        if (store_read_link(dirfd, address, owner, sizeof(owner)) < 0)
                return 0;
        owner[strcspn(owner, " ")] = '\0';
        if (!has_record(sweep->check, owner, sweep->key)) {
                report(sweep->check, "the address %s belongs to nobody", address);
                unlinkat(dirfd, address, 0);
        }
        return 0;
}

static int sweep_addresses(void *opaque, int dirfd, const char *key, struct err **err)
{
        struct sweep sweep = { .check = opaque, .key = key };

        return store_list_dir(dirfd, key, sweep_address, &sweep, err);
}

static int sweep_name_of(void *opaque, int dirfd, const char *container, struct err **err)
{
        const struct sweep *sweep = opaque;

        if (!has_record(sweep->check, container, sweep->key)) {
                report(sweep->check, "the name '%s' belongs to nobody", sweep->name);
                unlinkat(dirfd, container, 0);
        }
        return 0;
}

static int sweep_name(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct sweep sweep = *(struct sweep *)opaque;
        int r;

        sweep.name = name;
        r = store_list_dir(dirfd, name, sweep_name_of, &sweep, err);
        unlinkat(dirfd, name, AT_REMOVEDIR); /* when it is empty */
        return r;
}

static int sweep_names(void *opaque, int dirfd, const char *key, struct err **err)
{
        struct sweep sweep = { .check = opaque, .key = key };

        return store_list_dir(dirfd, key, sweep_name, &sweep, err);
}

static int sweep_helper(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct check *check = opaque;
        char container[NAME_MAX + 1], path[sizeof(DIR_ENDPOINTS) + NAME_MAX + 2], *dot;

        snprintf(container, sizeof(container), "%s", file);
        dot = strrchr(container, '.');
        if (!dot)
                return 0;
        *dot = '\0';
        snprintf(path, sizeof(path), DIR_ENDPOINTS "/%s", container);
        if (faccessat(check->store->run, path, F_OK, 0) == 0)
                return 0;
        report(check, "a helper of '%s' is left", container);
        resolver_stop(check->store, container);
        forwarder_stop(check->store, container);
        pasta_stop(check->store, container);
        unlinkat(dirfd, file, 0);
        return 0;
}

struct ports {
        struct check *check;
        char (*names)[IFNAMSIZ]; /* of what endpoints have */
        size_t n;
};

static int collect_ifname(void *opaque, struct endpoint *endpoint, struct err **err)
{
        struct ports *ports = opaque;
        void *more = realloc(ports->names, (ports->n + 2) * sizeof(*ports->names));

        if (!more)
                return err_sys(err, ENOMEM, "checking networks");
        ports->names = more;
        snprintf(ports->names[ports->n++], IFNAMSIZ, "%.15s", endpoint->host_ifname);
        if (resolver_is_service(endpoint))
                snprintf(ports->names[ports->n++], IFNAMSIZ, "%s", service_ifname(endpoint).text);
        return 0;
}

struct strays {
        const struct ports *ports;
        char (*names)[IFNAMSIZ];
        size_t n;
};

static int find_stray(void *opaque, const char *name, int master)
{
        struct strays *strays = opaque;
        void *more;

        if (strncmp(name, VETH_PREFIX, strlen(VETH_PREFIX)) != 0)
                return 0;
        if (leaving_is(strays->ports->check->store, name))
                return 0;
        for (size_t i = 0; i < strays->ports->n; i++)
                if (strcmp(strays->ports->names[i], name) == 0)
                        return 0;
        more = realloc(strays->names, (strays->n + 1) * sizeof(*strays->names));
        if (!more)
                return -ENOMEM;
        strays->names = more;
        snprintf(strays->names[strays->n++], IFNAMSIZ, "%.15s", name);
        return 0;
}

/* Interfaces on the bridge that no endpoint has. Those whose namespace is going go by themselves. */
static int sweep_bridge(struct check *check, const struct ports *ports, const char *bridge, struct err **err)
{
        struct strays strays = { .ports = ports };
        const int route = check->kernel->route, index = link_index(route, bridge);
        int r = index <= 0 ? 0 : link_list(route, index, find_stray, &strays);

        for (size_t i = 0; i < strays.n && r == 0; i++) {
                if (link_has_living_peer(route, strays.names[i]) <= 0)
                        continue;
                report(check, "the interface '%s' on '%s' belongs to nobody", strays.names[i], bridge);
                r = link_delete(route, strays.names[i]);
        }
        free(strays.names);
        return r < 0 ? err_sys(err, -r, "checking the interfaces of '%s'", bridge) : 0;
}

static int check_bridge(void *opaque, int dirfd, const char *key, struct err **err)
{
        _cleanup_(network_freep) struct network *network = NULL;
        struct ports *ports = opaque;
        struct check *check = ports->check;
        int index, r = network_by_key(check->store, key, &network, err);

        if (r == -ENOENT) {
                report(check, "the bridge of a network that is gone is left");
                return bridge_down(check->store, check->kernel, key, err);
        }
        if (r < 0)
                return r;
        r = bridge_is_up(check->store, check->kernel, network, &index, err);
        if (r == 0) {
                report(check, "the network '%s' is not whole: its bridge or the table is gone", network->pub.name);
                r = bridge_up(check->store, check->kernel, network, err);
        }
        return r < 0 ? r : sweep_bridge(check, ports, network->pub.bridge, err);
}

static int check_bridges(struct check *check, struct err **err)
{
        struct ports ports = { .check = check };
        int r = endpoint_each(check->store, NULL, collect_ifname, &ports, err);

        if (r == 0)
                r = store_list_dir(check->store->run, DIR_BRIDGES, check_bridge, &ports, err);
        free(ports.names);
        return r;
}

static int check_ports(struct check *check, struct err **err)
{
        unsigned wrong = 0;
        int r = kernel_nft(check->kernel, err);

        if (r < 0 || firewall_find(check->store, check->kernel->nft) < 0)
                return r;
        r = firewall_compare(check->store, check->kernel->nft, &wrong, err);
        if (r < 0 || (!wrong && !check->rebuild))
                return r;
        if (wrong)
                report(check, "%u published ports are open for nobody, or not open", wrong);
        return bridge_rebuild_firewall(check->store, check->kernel, err);
}

/* --- files that killed processes and earlier boots left ----------------------------------------------------------- */

static int sweep_run(void *opaque, int dirfd, const char *name, struct err **err)
{
        const char *boot = opaque;

        if (strncmp(name, boot, 9) != 0) /* "BOOT-" */
                store_remove_dir(dirfd, name);
        return 0;
}

/* The namespace of a user's networks: its problems come in a file, a line each. */
struct inner_check {
        bool (*is_alive)(void *opaque, const char *container);
        void *opaque;
        int out;
};

static void tell(void *opaque, const char *text)
{
        const struct inner_check *inner = opaque;

        dprintf(inner->out, "%s\n", text);
}

static bool ask(void *opaque, const char *container)
{
        const struct inner_check *inner = opaque;

        return !inner->is_alive || inner->is_alive(inner->opaque, container);
}

static int check_inside(struct net_store *store, void *opaque, struct err **err)
{
        const int n = net_check(store, ask, tell, opaque, err);

        return MIN(n, 0);
}

struct forwarder_restart {
        struct check *check;
        struct net_store *view; /* of the inner store */
        const struct endpoint *endpoint;
        struct port_holds listening;
};

static int restart_forwarder_inside(struct net_store *inner, void *opaque, struct err **err)
{
        const struct forwarder_restart *restart = opaque;
        _cleanup_close_ int lock = -1;
        int r = net_store_lock(inner, LOCK_EX, &lock, err);

        if (r < 0 || forwarder_runs(inner, restart->endpoint->container))
                return r;
        return forwarder_start(inner, restart->endpoint, &restart->listening, err);
}

/* What listens must be bound out here. */
static int restart_forwarder(void *opaque, struct endpoint *endpoint, struct err **err)
{
        struct forwarder_restart *restart = opaque;
        struct check *check = restart->check;
        _cleanup_(network_freep) struct network *network = NULL;

        if (!endpoint->forwarded || forwarder_runs(restart->view, endpoint->container))
                return 0;
        report(check, "the published ports of '%s' are open no more", endpoint->container);
        restart->endpoint = endpoint;
        if (network_by_key(check->store, endpoint->key, &network, NULL) == 0 &&
                ports_hold_again(network, endpoint, &restart->listening, NULL) == 0)
                inner_call(check->store, NULL, restart_forwarder_inside, restart, NULL);
        port_holds_close(&restart->listening);
        return 0;
}

static int check_forwarders(struct check *check, struct err **err)
{
        struct net_store view;
        struct forwarder_restart restart = { .check = check, .view = &view, .listening = { .listen = true } };
        int r;

        if (!inner_view(check->store, &view))
                return 0;
        r = endpoint_each(&view, NULL, restart_forwarder, &restart, err);
        inner_close_view(&view);
        return r;
}

static int check_inner(struct net_store *store, struct check *check, struct err **err)
{
        struct inner_check inner = { .is_alive = check->is_alive, .opaque = check->opaque };
        _cleanup_fclose_ FILE *in = tmpfile();
        char line[1024];
        int r;

        if (!in)
                return err_sys(err, errno, "checking networks");
        inner.out = fileno(in);
        r = inner_call(store, NULL, check_inside, &inner, err);
        rewind(in);
        while (r == 0 && fgets(line, sizeof(line), in))
                report(check, "%.*s", (int)strcspn(line, "\n"), line);
        if (r == 0)
                r = check_forwarders(check, err);
        return r < 0 ? r : inner_collect(store, err);
}

int net_check(struct net_store *store, bool (*is_alive)(void *opaque, const char *container),
        void (*problem)(void *opaque, const char *text), void *opaque, struct err **err)
{
        _cleanup_(kernel_close) struct kernel kernel = KERNEL_CLOSED;
        struct check check = { .store = store, .is_alive = is_alive, .problem = problem, .opaque = opaque };
        _cleanup_close_ int lock = -1;
        char boot[64];
        int r = store->rootless ? check_inner(store, &check, err) : 0;

        if (r == 0)
                r = net_store_lock(store, LOCK_EX, &lock, err);
        if (r == 0)
                r = store_run_name(boot, sizeof(boot), err);
        if (r == 0 && !store->rootless) {
                r = kernel_open(&kernel, err);
                check.kernel = &kernel;
        }
        if (r == 0)
                r = store_list_dir(store->run, DIR_ENDPOINTS, check_container, &check, err);
        if (r == 0)
                r = store_list_dir(store->run, DIR_ADDRESSES, sweep_addresses, &check, err);
        if (r == 0)
                r = store_list_dir(store->run, DIR_NAMES, sweep_names, &check, err);
        if (r == 0)
                r = store_list_dir(store->run, DIR_HELPERS, sweep_helper, &check, err);
        if (r == 0 && check.kernel)
                r = leaving_collect(store, &kernel, err);
        if (r == 0 && check.kernel)
                r = check_bridges(&check, err);
        if (r == 0 && check.kernel)
                r = check_ports(&check, err);
        if (r == 0)
                r = store_list_dir(store->fd, "run", sweep_run, boot, err);
        store_remove_temporary(store->fd, DIR_NETWORKS);
        return r < 0 ? err_wrap(err, r, "checking the networks in '%s'", store->root) : check.n;
}

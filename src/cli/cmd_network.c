/* `strata network`. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "container_cli.h"
#include "filter.h"
#include "network_cli.h"

int network_cli_open(struct instance_host *host, struct net_store **ret, struct err **err)
{
        _cleanup_free_ char *root = NULL;
        const char *chosen = getenv("STRATA_NET_ROOT");

        if (!chosen && asprintf(&root, "%s/net", instance_host_root(host)) < 0)
                return err_sys(err, ENOMEM, "opening the networks");
        return net_store_open(&(struct net_store_options){ .root = chosen ? chosen : root }, ret, err);
}

struct networks {
        struct instance_host *host;
        struct net_store *store;
};

static void networks_close(struct networks *networks)
{
        net_store_close(networks->store);
        instance_host_close(networks->host);
}

static int networks_open(struct networks *ret, struct err **err)
{
        int r = instance_host_open(NULL, &ret->host, err);

        return r < 0 ? r : network_cli_open(ret->host, &ret->store, err);
}

/* --- create -------------------------------------------------------------------------------------------------------- */

struct create {
        struct net_create_options options;
        const char *driver, *ipam_driver;
        bool attachable, ipv4;
        struct cli_words subnets, gateways, ranges, drivers_options, labels;
};

#define CREATE(member) offsetof(struct create, member)

static const struct cli_option create_options[] = {
        CLI_OPTION("driver", 'd', TEXT, CREATE(driver), "DRIVER", "bridge (the default)"),
        CLI_OPTION(
                "subnet", 0, LIST, CREATE(subnets), "ADDRESS/BITS", "(default: a free one); one of IPv4, one of IPv6"),
        CLI_OPTION("gateway", 0, LIST, CREATE(gateways), "ADDRESS", "of the bridge (default: the subnet's first)"),
        CLI_OPTION("ip-range", 0, LIST, CREATE(ranges), "ADDRESS/BITS", "containers get addresses of this part"),
        CLI_OPTION("internal", 0, FLAG, CREATE(options.internal), NULL, "nothing goes in or out"),
        CLI_OPTION("ipv6", 0, FLAG, CREATE(options.ipv6), NULL, "IPv6 too"),
        CLI_OPTION("opt", 'o', LIST, CREATE(drivers_options), "KEY=VALUE",
                "mtu, bridge, masquerade, icc, host-ip, or docker's long names"),
        CLI_OPTION("label", 0, LIST, CREATE(labels), "KEY=VALUE", "a label"),
        CLI_OPTION("attachable", 0, IGNORED, 0, NULL, NULL),
        CLI_OPTION("scope", 0, IGNORED, 0, "SCOPE", NULL),
        CLI_OPTION("ipv4", 0, FLAG, CREATE(ipv4), NULL, "IPv4 (always)"),
        CLI_OPTION("ipam-driver", 0, REFUSED, 0, "DRIVER", "addresses are given out by strata itself"),
        CLI_OPTION("ipam-opt", 0, REFUSED, 0, "KEY=VALUE", "addresses are given out by strata itself"),
        CLI_OPTION("aux-address", 0, REFUSED, 0, "NAME=ADDRESS", "leave addresses free with --ip-range"),
        CLI_OPTION("config-only", 0, REFUSED, 0, NULL, "give the options to each network"),
        CLI_OPTION("config-from", 0, REFUSED, 0, "NETWORK", "give the options to each network"),
        CLI_OPTION("ingress", 0, REFUSED, 0, NULL, "there is no swarm"),
        { 0 },
};

/* "KEY=VALUE" each, into an array in @arena. */
static int read_pairs(struct arena *arena, const struct cli_words *words, const struct net_pair **ret, struct err **err)
{
        struct net_pair *pairs = arena_new(arena, struct net_pair, words->n + 1);

        if (!pairs)
                return err_sys(err, ENOMEM, "reading the options");
        for (size_t i = 0; i < words->n; i++) {
                char *key = arena_strdup(arena, words->item[i]), *value = key ? strchr(key, '=') : NULL;

                if (!key)
                        return err_sys(err, ENOMEM, "reading the options");
                if (value)
                        *value++ = '\0';
                pairs[i] = (struct net_pair){ key, value ? value : "" };
        }
        *ret = pairs;
        return 0;
}

static bool same_family(const char *a, const char *b)
{
        return !strchr(a, ':') == !strchr(b, ':');
}

/* The gateway or range among @words that has the family of @subnet. */
static const char *of_family(const struct cli_words *words, const char *subnet)
{
        for (size_t i = 0; i < words->n; i++)
                if (same_family(words->item[i], subnet))
                        return words->item[i];
        return NULL;
}

static int read_subnets(struct create *create, struct arena *arena, struct err **err)
{
        struct net_subnet *subnets = arena_new(arena, struct net_subnet, create->subnets.n + 1);

        if (!subnets)
                return err_sys(err, ENOMEM, "reading the options");
        if (create->subnets.n < MAX(create->gateways.n, create->ranges.n))
                return err_set(err, ERR_USAGE, EINVAL, "--gateway and --ip-range belong to a --subnet");
        for (size_t i = 0; i < create->subnets.n; i++) {
                const char *subnet = create->subnets.item[i];

                subnets[i] = (struct net_subnet){ subnet, of_family(&create->gateways, subnet),
                        of_family(&create->ranges, subnet) };
        }
        create->options.subnets = subnets;
        create->options.n_subnets = create->subnets.n;
        return 0;
}

static int create_network(struct create *create, const char *name, struct arena *arena, struct err **err)
{
        _cleanup_(networks_close) struct networks networks = { 0 };
        _cleanup_free_ char *id = NULL;
        int r = read_subnets(create, arena, err);

        create->options.driver = create->driver;
        if (r == 0)
                r = read_pairs(arena, &create->drivers_options, &create->options.options, err);
        if (r == 0)
                r = read_pairs(arena, &create->labels, &create->options.labels, err);
        create->options.n_options = create->drivers_options.n;
        create->options.n_labels = create->labels.n;
        if (r == 0)
                r = networks_open(&networks, err);
        if (r == 0)
                r = net_create(networks.store, name, &create->options, &id, err);
        if (r == 0)
                puts(id);
        return r;
}

static int create_command(int argc, char **argv, struct err **err)
{
        const struct cli_usage usage = { "strata network create", "[OPTION...] NAME",
                "Make a network. Its containers find each other by name.", CLI_OPTIONS(create_options), 1, 1, false };
        struct create create = { .ipv4 = true };
        struct arena arena = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, &create, &first, err);

        if (r == 0 && !create.ipv4)
                r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "a network without IPv4 is not supported");
        if (r == 0)
                r = create_network(&create, argv[first], &arena, err);
        cli_words_clear(&create.subnets);
        cli_words_clear(&create.gateways);
        cli_words_clear(&create.ranges);
        cli_words_clear(&create.drivers_options);
        cli_words_clear(&create.labels);
        arena_release(&arena);
        return MIN(r, 0);
}

/* --- ls ------------------------------------------------------------------------------------------------------------ */

static const struct listing_column columns[] = {
        { "ID", "NETWORK ID", false },
        { "Name", "NAME", false },
        { "Driver", "DRIVER", false },
        { "Scope", "SCOPE", false },
        { "Subnet", "SUBNET", true },
        { "Internal", "INTERNAL", true },
        { "IPv6", "IPV6", true },
        { "Labels", "LABELS", true },
        { "CreatedAt", "CREATED AT", true },
        { 0 },
};

static const char *const filter_keys[] = { "id", "name", "driver", "scope", "type", "label", "label!", NULL };

struct ls {
        struct list_command list;
        bool no_trunc;
};

/* The same pairs as another module's: for the filters. The caller frees the array. */
static struct instance_pairs labels_of(const struct net_network *network)
{
        struct instance_pairs pairs = { calloc(network->n_labels + 1, sizeof(*pairs.item)), 0 };

        for (; pairs.item && pairs.n < network->n_labels; pairs.n++)
                pairs.item[pairs.n] =
                        (struct instance_pair){ network->labels[pairs.n].key, network->labels[pairs.n].value };
        return pairs;
}

static int ls_one(void *opaque, const struct net_network *network)
{
        struct ls *ls = opaque;
        const struct instance_pairs labels = labels_of(network);
        _cleanup_free_ struct instance_pair *item = labels.item;
        _cleanup_free_ char *text = container_labels_text(&labels);

        if (!item || !text)
                return -ENOMEM;
        if (!filter_begins(&ls->list.filters, "id", network->id) ||
                !filter_contains(&ls->list.filters, "name", network->name) ||
                !filter_equals(&ls->list.filters, "driver", network->driver) ||
                !filter_equals(&ls->list.filters, "scope", "local") ||
                !filter_equals(&ls->list.filters, "type", network->predefined ? "builtin" : "custom") ||
                !filter_labels(&ls->list.filters, &labels))
                return 0;
        return json_array_append_new(
                ls->list.rows, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "ID",
                                       ls->no_trunc ? network->id : container_short_id(network->id).text, "Name",
                                       network->name, "Driver", network->driver, "Scope", "local", "Subnet",
                                       network->n_subnets ? network->subnets[0].subnet : "", "Internal",
                                       network->internal ? "true" : "false", "IPv6", network->ipv6 ? "true" : "false",
                                       "Labels", text, "CreatedAt", network->created));
}

static int ls_networks(struct list_command *list, struct err **err)
{
        _cleanup_(networks_close) struct networks networks = { 0 };
        int r = networks_open(&networks, err);

        return r < 0 ? r : net_list(networks.store, ls_one, list, err);
}

static int ls_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                LIST_OPTIONS("ids", "id, name, driver, type, label"),
                CLI_OPTION("no-trunc", 0, FLAG, offsetof(struct ls, no_trunc), NULL, "whole ids"),
                { 0 },
        };
        const struct cli_usage usage = { "strata network ls", "[OPTION...]", "List networks.", CLI_OPTIONS(options), 0,
                0, false };
        struct ls ls = { .list.listing.columns = columns };

        return list_command_run(&usage, filter_keys, NULL, ls_networks, argc, argv, &ls.list, err);
}

/* --- inspect ------------------------------------------------------------------------------------------------------- */

static json_t *pairs_json(const struct net_pair *pairs, size_t n)
{
        json_t *json = json_object();

        for (size_t i = 0; i < n; i++)
                json_object_set_new(json, pairs[i].key, json_string(pairs[i].value));
        return json;
}

static json_t *subnets_json(const struct net_network *network)
{
        json_t *list = json_array();

        for (size_t i = 0; i < network->n_subnets; i++) {
                const struct net_subnet *subnet = &network->subnets[i];
                json_t *json = json_pack("{s:s}", "Subnet", subnet->subnet);

                if (subnet->gateway)
                        json_object_set_new(json, "Gateway", json_string(subnet->gateway));
                if (subnet->ip_range)
                        json_object_set_new(json, "IPRange", json_string(subnet->ip_range));
                json_array_append_new(list, json);
        }
        return list;
}

static int add_endpoint(void *opaque, const struct net_endpoint *endpoint)
{
        const struct net_attachment *a = endpoint->attachment;
        char v4[64] = "", v6[80] = "";

        if (*a->ip)
                snprintf(v4, sizeof(v4), "%s/%u", a->ip, a->prefix_len);
        if (*a->ip6)
                snprintf(v6, sizeof(v6), "%s/%u", a->ip6, a->prefix_len6);
        return json_object_set_new(opaque, endpoint->container,
                json_pack("{s:s, s:s, s:s, s:s}", "Name", endpoint->name, "MacAddress", a->mac, "IPv4Address", v4,
                        "IPv6Address", v6));
}

int network_inspect_json(struct instance_host *host, const char *name, json_t **ret, struct err **err)
{
        _cleanup_(net_store_closep) struct net_store *store = NULL;
        _cleanup_(net_network_freep) struct net_network *network = NULL;
        _cleanup_json_ json_t *containers = json_object();
        int r = network_cli_open(host, &store, err);

        if (r == 0)
                r = net_find(store, name, &network, err);
        if (r == 0)
                r = net_endpoint_list(store, network->name, NULL, add_endpoint, containers, err);
        if (r < 0)
                return r;
        *ret = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:{s:s, s:o}, s:b, s:s, s:i, s:O, s:o, s:o}", "Name",
                network->name, "Id", network->id, "Created", network->created, "Scope", "local", "Driver",
                network->driver, "EnableIPv4", 1, "EnableIPv6", network->ipv6, "IPAM", "Driver", "default", "Config",
                subnets_json(network), "Internal", network->internal, "Bridge", network->bridge, "MTU",
                (int)network->mtu, "Containers", containers, "Options",
                pairs_json(network->options, network->n_options), "Labels",
                pairs_json(network->labels, network->n_labels));
        return *ret ? 0 : err_sys(err, ENOMEM, "inspecting a network");
}

static int inspect_networks(char *const *names, const char *format, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_json_ json_t *list = json_array();
        int r = instance_host_open(NULL, &host, err);

        for (; r == 0 && *names; names++) {
                json_t *json;

                r = network_inspect_json(host, *names, &json, err);
                if (r == 0)
                        json_array_append_new(list, json);
        }
        return r < 0 ? r : listing_inspect(list, format, stdout, err);
}

static int inspect_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("format", 'f', TEXT, 0, "FORMAT", "json or a template as '{{.Driver}}'"),
                CLI_OPTION("verbose", 'v', IGNORED, 0, NULL, NULL),
                { 0 },
        };
        const struct cli_usage usage = { "strata network inspect", "[OPTION...] NETWORK...",
                "Print everything about networks, as JSON.", CLI_OPTIONS(options), 1, -1, false };
        const char *format = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, &format, &first, err);

        return r != 0 ? MIN(r, 0) : inspect_networks(argv + first, format, err);
}

/* --- rm, prune ----------------------------------------------------------------------------------------------------- */

static int remove_networks(char *const *names, bool force, struct err **err)
{
        _cleanup_(networks_close) struct networks networks = { 0 };
        int status = 0, r = networks_open(&networks, err);

        if (r < 0)
                return r;
        for (; *names; names++) {
                struct err *own = NULL;

                r = net_remove(networks.store, *names, &own);
                if (r == 0)
                        puts(*names);
                else if (!force || err_get_id(own) != ERR_NOT_FOUND)
                        status = container_report(&own);
                err_free(own);
        }
        return status;
}

static int rm_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = { CLI_OPTION("force", 'f', FLAG, 0, NULL, "missing ones are fine"),
                { 0 } };
        const struct cli_usage usage = { "strata network rm", "[OPTION...] NETWORK...",
                "Remove networks that no container is on.", CLI_OPTIONS(options), 1, -1, false };
        bool force = false;
        int first, r = cli_options_parse(&usage, argc, argv, &force, &first, err);

        return r != 0 ? MIN(r, 0) : remove_networks(argv + first, force, err);
}

/* What containers, running or not, want to be on. Known before anything is locked: looking at one may have to clean up after it. */
struct pruning {
        json_t *named; /* an object: its keys */
        const struct cli_words *filters;
};

static int add_names(void *opaque, struct instance *inst)
{
        const struct pruning *pruning = opaque;
        const struct instance_config *config = instance_get_config(inst);

        if (config->network_mode)
                json_object_set_new(pruning->named, config->network_mode, json_true());
        for (size_t i = 0; i < config->networks.n; i++)
                json_object_set_new(pruning->named, config->networks.item[i].name, json_true());
        return 0;
}

static bool is_kept(void *opaque, const struct net_network *network)
{
        const struct pruning *pruning = opaque;
        const struct instance_pairs labels = labels_of(network);
        _cleanup_free_ struct instance_pair *item = labels.item;

        return !item || !filter_until(pruning->filters, network->created) ||
               !filter_labels(pruning->filters, &labels) || json_object_get(pruning->named, network->name);
}

static void print_removed(void *opaque, const char *name)
{
        puts(name);
}

int network_prune(struct instance_host *host, const struct cli_words *filters, struct err **err)
{
        _cleanup_(net_store_closep) struct net_store *store = NULL;
        _cleanup_json_ json_t *named = json_object();
        struct pruning pruning = { named, filters };
        int r = network_cli_open(host, &store, err);

        if (r == 0)
                r = instance_list(host, add_names, &pruning, err);
        return r < 0 ? r : net_prune(store, is_kept, print_removed, &pruning, err);
}

struct prune {
        bool force;
        struct cli_words filters;
};

static int prune_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("force", 'f', FLAG, offsetof(struct prune, force), NULL, "do not ask"),
                CLI_OPTION("filter", 0, LIST, offsetof(struct prune, filters), "KEY=VALUE", "until, label"),
                { 0 },
        };
        const struct cli_usage usage = { "strata network prune", "[OPTION...]",
                "Remove networks that no container is on or names.", CLI_OPTIONS(options), 0, 0, false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        struct prune prune = { .force = false };
        int first, r = cli_options_parse(&usage, argc, argv, &prune, &first, err);

        if (r == 0)
                r = filter_check_prune(&prune.filters, err);
        if (r == 0 && !prune.force && !container_confirm("This removes all networks that no container uses."))
                r = 1;
        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = network_prune(host, &prune.filters, err);
        cli_words_clear(&prune.filters);
        return MIN(r, 0);
}

/* --- connect, disconnect ------------------------------------------------------------------------------------------- */

struct connect {
        struct instance_network network;
        struct cli_words aliases;
};

static int connect_container(const char *name, const struct instance_network *network, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int r = container_open(name, &host, &inst, err);

        return r < 0 ? r : instance_network_connect(inst, network, err);
}

static int connect_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION(
                        "alias", 0, LIST, offsetof(struct connect, aliases), "NAME", "one more name on this network"),
                CLI_OPTION("ip", 0, TEXT, offsetof(struct connect, network.ip), "ADDRESS", "of it (IPv4)"),
                CLI_OPTION("ip6", 0, TEXT, offsetof(struct connect, network.ip6), "ADDRESS", "of it (IPv6)"),
                CLI_OPTION("link", 0, REFUSED, 0, "CONTAINER", "containers of a network find each other by name"),
                CLI_OPTION("link-local-ip", 0, REFUSED, 0, "ADDRESS", "give an address with --ip"),
                CLI_OPTION("driver-opt", 0, REFUSED, 0, "KEY=VALUE", "'strata network create -o' takes options"),
                CLI_OPTION("gw-priority", 0, REFUSED, 0, "N", "the first network that has one gives the default route"),
                { 0 },
        };
        const struct cli_usage usage = { "strata network connect", "[OPTION...] NETWORK CONTAINER",
                "Put a container on one more network, also while it runs.", CLI_OPTIONS(options), 2, 2, false };
        struct connect connect = { .aliases = { 0 } };
        int first, r = cli_options_parse(&usage, argc, argv, &connect, &first, err);

        if (r == 0) {
                connect.network.name = argv[first];
                connect.network.aliases = (struct instance_strings){ connect.aliases.item, connect.aliases.n };
                r = connect_container(argv[first + 1], &connect.network, err);
        }
        cli_words_clear(&connect.aliases);
        return MIN(r, 0);
}

static int disconnect_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("force", 'f', IGNORED, 0, NULL, NULL), /* docker's, for what its daemon forgot */
                { 0 },
        };
        const struct cli_usage usage = { "strata network disconnect", "[OPTION...] NETWORK CONTAINER",
                "Take a container off a network, also while it runs.", CLI_OPTIONS(options), 2, 2, false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = container_open(argv[first + 1], &host, &inst, err);
        return r < 0 ? r : instance_network_disconnect(inst, argv[first], err);
}

const struct command cli_network_commands[] = {
        { "create", "[OPTION...] NAME", "make one", create_command, NULL },
        { "ls", "[OPTION...]", "list them", ls_command, NULL },
        { "inspect", "[OPTION...] NETWORK...", "everything about some, as JSON", inspect_command, NULL },
        { "rm", "[OPTION...] NETWORK...", "remove some", rm_command, NULL },
        { "prune", "[OPTION...]", "remove unused ones", prune_command, NULL },
        { "connect", "[OPTION...] NETWORK CONTAINER", "put a container on one", connect_command, NULL },
        { "disconnect", "[OPTION...] NETWORK CONTAINER", "take it off", disconnect_command, NULL },
        { 0 },
};

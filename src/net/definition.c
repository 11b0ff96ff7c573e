/* Networks as documents: what a user asks for becomes a struct network, and that becomes JSON and comes back. */
#include "internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { NAME_LEN = 128, MTU_MIN = 1280, MTU_MAX = 65535, PREFIX_MAX_V4 = 30, PREFIX_MAX_V6 = 126 };

struct network *network_free(struct network *network)
{
        if (!network)
                return NULL;
        arena_release(&network->arena);
        free(network);
        return NULL;
}

struct net_network *net_network_free(struct net_network *network)
{
        network_free(network ? network_of(network) : NULL);
        return NULL;
}

static struct network *network_new(void)
{
        struct network *network = calloc(1, sizeof(*network));

        if (network) {
                network->masquerade = network->icc = true;
                network->pub.mtu = 1500;
                network->pub.bridge = "";
        }
        return network;
}

/* --- driver options ----------------------------------------------------------------------------------------------- */

static int parse_bool(const char *text, bool *ret)
{
        const bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;

        if (!yes && strcmp(text, "false") != 0 && strcmp(text, "0") != 0)
                return -EINVAL;
        *ret = yes;
        return 0;
}

static int set_mtu(struct network *network, const char *value)
{
        char *end;
        const unsigned long mtu = strtoul(value, &end, 10);

        if (*value < '0' || *value > '9' || *end || mtu < MTU_MIN || mtu > MTU_MAX)
                return -EINVAL;
        network->pub.mtu = (unsigned)mtu;
        return 0;
}

static int set_bridge(struct network *network, const char *value)
{
        if (!store_is_name(value, IFNAMSIZ - 1))
                return -EINVAL;
        network->pub.bridge = value;
        return 0;
}

static int set_masquerade(struct network *network, const char *value)
{
        return parse_bool(value, &network->masquerade);
}

static int set_icc(struct network *network, const char *value)
{
        return parse_bool(value, &network->icc);
}

static int set_host_ip(struct network *network, const char *value)
{
        return ip_parse(value, &network->host_ip);
}

static const struct {
        const char *name, *docker;
        int (*set)(struct network *network, const char *value);
        const char *wanted;
} options_table[] = {
        { "mtu", "com.docker.network.driver.mtu", set_mtu, "a number from 1280 to 65535" },
        { "bridge", "com.docker.network.bridge.name", set_bridge, "an interface's name, at most 15 characters" },
        { "masquerade", "com.docker.network.bridge.enable_ip_masquerade", set_masquerade, "true or false" },
        { "icc", "com.docker.network.bridge.enable_icc", set_icc, "true or false" },
        { "host-ip", "com.docker.network.bridge.host_binding_ipv4", set_host_ip, "an address" },
};

static int apply_option(struct network *network, const struct net_pair *option, struct err **err)
{
        for (size_t i = 0; i < ARRAY_SIZE(options_table); i++) {
                if (strcmp(option->key, options_table[i].name) != 0 &&
                        strcmp(option->key, options_table[i].docker) != 0)
                        continue;
                if (options_table[i].set(network, option->value) < 0)
                        return err_set(err, ERR_USAGE, EINVAL, "network option '%s=%s' must be %s", option->key,
                                option->value, options_table[i].wanted);
                return 0;
        }
        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "unknown network option '%s'", option->key),
                "options are mtu, bridge, masquerade, icc, host-ip (or docker's names for them)");
}

/* --- subnets ------------------------------------------------------------------------------------------------------ */

static int parse_inside(const struct cidr *subnet, const char *what, const char *text, struct ip *ret, struct err **err)
{
        struct ip ip;

        if (ip_parse(text, &ip) < 0 || !cidr_contains(subnet, &ip) || ip_equal(&ip, &subnet->ip) ||
                cidr_is_broadcast(subnet, &ip))
                return err_set(err, ERR_USAGE, EINVAL, "the %s '%s' is no host's address in the subnet %s/%u", what,
                        text, ip_format(&subnet->ip).text, subnet->bits);
        *ret = ip;
        return 0;
}

static int parse_subnet(const struct net_subnet *given, struct subnet *ret, struct err **err)
{
        struct subnet s = { 0 };
        int r;

        if (!given->subnet)
                return err_set(err, ERR_USAGE, EINVAL, "a gateway or range of addresses needs a subnet");
        if (cidr_parse(given->subnet, &s.cidr) < 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is no subnet", given->subnet),
                        "as in 10.5.0.0/16 or fd00:5::/64, with nothing behind the prefix");
        if (s.cidr.bits > (s.cidr.ip.len == 4 ? PREFIX_MAX_V4 : PREFIX_MAX_V6) || s.cidr.bits < 8 ||
                ip_is_loopback(&s.cidr.ip) || (s.cidr.ip.len == 4 && s.cidr.ip.bytes[0] >= 224) ||
                (s.cidr.ip.len == 16 && s.cidr.ip.bytes[0] == 0xff))
                return err_set(
                        err, ERR_USAGE, EINVAL, "the subnet '%s' is none that containers can be in", given->subnet);
        s.range = s.cidr;
        if (given->ip_range && (cidr_parse(given->ip_range, &s.range) < 0 || s.range.bits < s.cidr.bits ||
                                       !cidr_contains(&s.cidr, &s.range.ip)))
                return err_set(err, ERR_USAGE, EINVAL, "the range '%s' is not in the subnet %s", given->ip_range,
                        given->subnet);
        s.gateway = ip_plus(&s.cidr.ip, 1);
        if (given->gateway) {
                r = parse_inside(&s.cidr, "gateway", given->gateway, &s.gateway, err);
                if (r < 0)
                        return r;
        }
        *ret = s;
        return 0;
}

static int apply_subnets(struct network *network, const struct net_subnet *subnets, size_t n, struct err **err)
{
        for (size_t i = 0; i < n; i++) {
                struct subnet s;
                int family, r = parse_subnet(&subnets[i], &s, err);

                if (r < 0)
                        return r;
                family = s.cidr.ip.len == 4 ? V4 : V6;
                if (network->subnet[family].cidr.ip.len)
                        return err_set(err, ERR_USAGE, EINVAL,
                                "a network has one subnet of each family: '%s' is one too many", subnets[i].subnet);
                network->subnet[family] = s;
        }
        network->pub.ipv6 |= network->subnet[V6].cidr.ip.len > 0;
        return 0;
}

static const char *cidr_text(struct arena *arena, const struct cidr *cidr)
{
        return arena_printf(arena, "%s/%u", ip_format(&cidr->ip).text, cidr->bits);
}

int network_fill_texts(struct network *network, struct err **err)
{
        struct net_subnet *texts = arena_new(&network->arena, struct net_subnet, 2);
        size_t n = 0;

        for (int f = 0; texts && f < 2; f++) {
                const struct subnet *s = &network->subnet[f];

                if (!s->cidr.ip.len)
                        continue;
                texts[n] = (struct net_subnet){ .subnet = cidr_text(&network->arena, &s->cidr),
                        .gateway = arena_strdup(&network->arena, ip_format(&s->gateway).text) };
                if (s->range.bits != s->cidr.bits)
                        texts[n].ip_range = cidr_text(&network->arena, &s->range);
                if (!texts[n].subnet || !texts[n].gateway)
                        texts = NULL;
                n++;
        }
        if (!texts)
                return err_sys(err, ENOMEM, "reading a network");
        network->pub.subnets = texts;
        network->pub.n_subnets = n;
        return 0;
}

/* --- defining ----------------------------------------------------------------------------------------------------- */

static int copy_pairs(
        struct arena *arena, const struct net_pair *pairs, size_t n, struct net_pair **ret, struct err **err)
{
        struct net_pair *copy = arena_new(arena, struct net_pair, n + 1);

        for (size_t i = 0; copy && i < n; i++) {
                copy[i].key = arena_strdup(arena, pairs[i].key);
                copy[i].value = arena_strdup(arena, pairs[i].value ? pairs[i].value : "");
                if (!copy[i].key || !copy[i].value)
                        copy = NULL;
        }
        if (!copy)
                return err_sys(err, ENOMEM, "reading a network");
        *ret = copy;
        return 0;
}

/* Everything that follows from name, driver and the rest: used for what was asked and for what was read. */
static int complete(struct net_store *store, struct network *network, struct err **err)
{
        struct net_network *pub = &network->pub;

        network->is_bridge = strcmp(pub->driver, "bridge") == 0;
        if (!network->is_bridge && strcmp(pub->driver, "none") != 0 && strcmp(pub->driver, "host") != 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "unknown network driver '%s'", pub->driver),
                        "the drivers are bridge, none and host");
        snprintf(network->key, sizeof(network->key), "%.*s", KEY_LEN, pub->id);
        pub->predefined =
                strcmp(pub->name, "bridge") == 0 || strcmp(pub->name, "none") == 0 || strcmp(pub->name, "host") == 0;
        pub->dns = network->is_bridge && !pub->predefined;
        for (size_t i = 0; i < pub->n_options; i++) {
                int r = apply_option(network, &pub->options[i], err);

                if (r < 0)
                        return r;
        }
        if (network->is_bridge && !*pub->bridge)
                pub->bridge = pub->predefined ? arena_strdup(&network->arena, store->bridge)
                                              : arena_printf(&network->arena, BRIDGE_PREFIX "%s", network->key);
        return pub->bridge ? 0 : err_sys(err, ENOMEM, "reading a network");
}

static const char *make_id(struct arena *arena)
{
        char text[65];
        u8 random[32];

        if (getrandom(random, sizeof(random), 0) != sizeof(random))
                return NULL;
        for (size_t i = 0; i < sizeof(random); i++)
                snprintf(text + 2 * i, 3, "%02x", random[i]);
        return arena_strdup(arena, text);
}

static const char *now(struct arena *arena)
{
        struct timespec ts;
        struct tm tm;
        char text[40];

        clock_gettime(CLOCK_REALTIME, &ts);
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", gmtime_r(&ts.tv_sec, &tm));
        return arena_printf(arena, "%s.%09ldZ", text, ts.tv_nsec);
}

int network_define(struct net_store *store, const char *name, const struct net_create_options *options,
        struct network **ret, struct err **err)
{
        static const struct net_create_options none;
        _cleanup_(network_freep) struct network *network = network_new();
        struct net_network *pub = network ? &network->pub : NULL;
        int r;

        options = options ? options : &none;
        if (!store_is_name(name, NAME_LEN))
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is no name for a network", name),
                        "letters, digits, '_', '.', '-', beginning with a letter or digit");
        if (!pub)
                return err_sys(err, ENOMEM, "defining the network '%s'", name);
        pub->id = make_id(&network->arena);
        pub->name = arena_strdup(&network->arena, name);
        pub->driver = arena_strdup(&network->arena, options->driver ? options->driver : "bridge");
        pub->created = now(&network->arena);
        if (!pub->id || !pub->name || !pub->driver || !pub->created)
                return err_sys(err, ENOMEM, "defining the network '%s'", name);
        pub->internal = options->internal;
        pub->ipv6 = options->ipv6;
        pub->n_options = options->n_options;
        pub->n_labels = options->n_labels;
        r = copy_pairs(&network->arena, options->options, options->n_options, &pub->options, err);
        if (r == 0)
                r = copy_pairs(&network->arena, options->labels, options->n_labels, &pub->labels, err);
        if (r == 0)
                r = complete(store, network, err);
        if (r == 0)
                r = apply_subnets(network, options->subnets, options->n_subnets, err);
        if (r < 0)
                return err_wrap(err, r, "defining the network '%s'", name);
        *ret = TAKE_PTR(network);
        return 0;
}

/* --- documents ---------------------------------------------------------------------------------------------------- */

static json_t *pairs_to_json(const struct net_pair *pairs, size_t n)
{
        json_t *json = json_object();

        for (size_t i = 0; i < n; i++)
                json_object_set_new(json, pairs[i].key, json_string(pairs[i].value));
        return json;
}

json_t *network_to_json(const struct network *network)
{
        const struct net_network *pub = &network->pub;
        json_t *subnets = json_array();

        for (size_t i = 0; i < pub->n_subnets; i++)
                json_array_append_new(
                        subnets, json_pack("{s:s, s:s, s:s*}", "subnet", pub->subnets[i].subnet, "gateway",
                                         pub->subnets[i].gateway, "range", pub->subnets[i].ip_range));
        return json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:o, s:o, s:o}", "id", pub->id, "name", pub->name, "driver",
                pub->driver, "created", pub->created, "internal", pub->internal, "ipv6", pub->ipv6, "subnets", subnets,
                "options", pairs_to_json(pub->options, pub->n_options), "labels",
                pairs_to_json(pub->labels, pub->n_labels));
}

static int pairs_from_json(struct arena *arena, json_t *json, struct net_pair **ret, size_t *ret_n, struct err **err)
{
        const size_t n = json_object_size(json);
        _cleanup_free_ struct net_pair *pairs = calloc(n + 1, sizeof(*pairs));
        const char *key;
        json_t *value;
        size_t i = 0;

        if (!pairs)
                return err_sys(err, ENOMEM, "reading a network");
        json_object_foreach(json, key, value) pairs[i++] =
                (struct net_pair){ .key = key, .value = json_string_value(value) };
        *ret_n = n;
        return copy_pairs(arena, pairs, n, ret, err);
}

static int subnets_from_json(struct network *network, json_t *json, struct err **err)
{
        json_t *one;
        size_t i;

        json_array_foreach(json, i, one)
        {
                struct net_subnet s = { 0 };
                int r;

                if (json_unpack(one, "{s:s, s:s, s?s}", "subnet", &s.subnet, "gateway", &s.gateway, "range",
                            &s.ip_range) < 0)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL, "a network's file is damaged");
                r = apply_subnets(network, &s, 1, err);
                if (r < 0)
                        return r;
        }
        return network_fill_texts(network, err);
}

int network_from_json(struct net_store *store, const json_t *json, struct network **ret, struct err **err)
{
        _cleanup_(network_freep) struct network *network = network_new();
        json_t *subnets = NULL, *options = NULL, *labels = NULL;
        struct net_network *pub = network ? &network->pub : NULL;
        int internal = 0, ipv6 = 0, r;
        const char *id, *name, *driver, *created;

        if (!pub)
                return err_sys(err, ENOMEM, "reading a network");
        if (json_unpack((json_t *)json, "{s:s, s:s, s:s, s:s, s:b, s:b, s:o, s:o, s:o}", "id", &id, "name", &name,
                    "driver", &driver, "created", &created, "internal", &internal, "ipv6", &ipv6, "subnets", &subnets,
                    "options", &options, "labels", &labels) < 0 ||
                strlen(id) != 64 || !store_is_name(name, NAME_LEN))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "a network's file is damaged");
        pub->id = arena_strdup(&network->arena, id);
        pub->name = arena_strdup(&network->arena, name);
        pub->driver = arena_strdup(&network->arena, driver);
        pub->created = arena_strdup(&network->arena, created);
        if (!pub->id || !pub->name || !pub->driver || !pub->created)
                return err_sys(err, ENOMEM, "reading a network");
        pub->internal = internal;
        pub->ipv6 = ipv6;
        r = pairs_from_json(&network->arena, options, &pub->options, &pub->n_options, err);
        if (r == 0)
                r = pairs_from_json(&network->arena, labels, &pub->labels, &pub->n_labels, err);
        if (r == 0)
                r = complete(store, network, err);
        if (r == 0)
                r = subnets_from_json(network, subnets, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(network);
        return 0;
}

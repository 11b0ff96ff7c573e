/* Ports, networks and names. */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "net/net.h"
#include "runspec_internal.h"

static int add_port(struct runspec *runspec, const struct net_port *range, u32 i, struct err **err)
{
        const bool any_of = range->container_first == range->container_last && range->host_last > range->host_first;
        const char *host_ip = range->host_ip ? arena_strdup(runspec->arena, range->host_ip) : NULL;

        if (range->host_ip && !host_ip)
                return runspec_no_memory(err);
        return RUNSPEC_APPEND(runspec->arena, &runspec->config->ports, err,
                { host_ip, (u16)(range->host_first ? range->host_first + i : 0), any_of ? range->host_last : 0,
                        (u16)(range->container_first + i), net_protocol_name(range->protocol) });
}

int runspec_publish(struct runspec *runspec, const char *text, struct err **err)
{
        _cleanup_(net_ports_clear) struct net_ports ports = { 0 };
        int r = net_port_parse(text, &ports, err);

        for (size_t i = 0; r == 0 && i < ports.n; i++) {
                const struct net_port *range = &ports.item[i];
                const u32 n = (u32)(range->container_last - range->container_first);

                for (u32 k = 0; r == 0 && k <= n; k++)
                        r = add_port(runspec, range, k, err);
        }
        return r < 0 ? err_wrap(err, r, "--publish") : 0;
}

/* "80", "80-90"; digits alone. */
static int read_port_range(const char *text, size_t len, unsigned *ret_first, unsigned *ret_last)
{
        char copy[16], *end;
        unsigned long first, last;

        if (len == 0 || len >= sizeof(copy) || strspn(text, "0123456789-") < len || text[0] == '-')
                return -EINVAL;
        memcpy(copy, text, len);
        copy[len] = '\0';
        first = last = strtoul(copy, &end, 10);
        if (*end == '-' && end[1])
                last = strtoul(end + 1, &end, 10);
        if (*end || first < 1 || last < first || last > 65535)
                return -EINVAL;
        *ret_first = (unsigned)first;
        *ret_last = (unsigned)last;
        return 0;
}

int runspec_expose(struct runspec *runspec, const char *text, struct err **err)
{
        const size_t len = strcspn(text, "/");
        const char *protocol = text[len] ? text + len + 1 : "tcp";
        unsigned first, last;
        int r = 0;

        if (read_port_range(text, len, &first, &last) < 0 || !net_protocol_by_name(protocol))
                return runspec_wrong(err, "--expose", text, "PORT[-PORT][/tcp|udp|sctp]");
        for (; r == 0 && first <= last; first++) {
                const char *port = arena_printf(runspec->arena, "%u/%s", first, protocol);

                r = port ? runspec_strings_add(runspec->arena, &runspec->config->exposed, port, err)
                         : runspec_no_memory(err);
        }
        return r;
}

/* --- networks ------------------------------------------------------------------------------------------------------ */

static int take_network_key(
        struct runspec *runspec, struct instance_network *network, const char *word, struct err **err)
{
        static const struct {
                const char *key;
                size_t offset;
        } texts[] = { { "name", offsetof(struct instance_network, name) },
                { "ip", offsetof(struct instance_network, ip) }, { "ip6", offsetof(struct instance_network, ip6) },
                { "mac-address", offsetof(struct instance_network, mac) } };
        const char *value = strchr(word, '=');
        const size_t len = value ? (size_t)(value - word) : 0;

        for (size_t i = 0; value && i < ARRAY_SIZE(texts); i++)
                if (strlen(texts[i].key) == len && strncmp(texts[i].key, word, len) == 0) {
                        *(const char **)((char *)network + texts[i].offset) = value + 1;
                        return 0;
                }
        if (value && strncmp(word, "alias=", 6) == 0)
                return runspec_strings_add(runspec->arena, &network->aliases, value + 1, err);
        return runspec_wrong(err, "--network", word, "name=NAME,alias=NAME,ip=ADDRESS,ip6=ADDRESS,mac-address=MAC");
}

int runspec_network(struct runspec *runspec, const char *text, struct err **err)
{
        struct instance_network network = { .name = text };
        const char *p = text;
        char *word;
        bool failed = false;
        int r;

        if (!*text)
                return runspec_wrong(err, "--network", text, "NAME, bridge, none, host or container:NAME");
        if (strchr(text, '=')) {
                network.name = NULL;
                while ((word = runspec_next_word(runspec->arena, &p, &failed))) {
                        r = take_network_key(runspec, &network, word, err);
                        if (r < 0)
                                return r;
                }
                if (failed)
                        return runspec_no_memory(err);
                if (!network.name)
                        return err_set(err, ERR_USAGE, EINVAL, "--network: '%s' has no name=", text);
        }
        return RUNSPEC_APPEND(runspec->arena, &runspec->config->networks, err, network);
}

/* The first network; where none was named, the default one. */
static struct instance_network *first_network(struct runspec *runspec, struct err **err)
{
        if (runspec->config->networks.n == 0 && runspec_network(runspec, "bridge", err) < 0)
                return NULL;
        return &runspec->config->networks.item[0];
}

int runspec_network_alias(struct runspec *runspec, const char *text, struct err **err)
{
        struct instance_network *network = first_network(runspec, err);

        return network ? runspec_strings_add(runspec->arena, &network->aliases, text, err) : -ENOMEM;
}

static bool is_mode(const char *name)
{
        return strcmp(name, "none") == 0 || strcmp(name, "host") == 0 || strncmp(name, "container:", 10) == 0;
}

int runspec_networks_finish(struct runspec *runspec, const struct instance_network *details, struct err **err)
{
        struct instance_config *config = runspec->config;
        const bool more = details->ip || details->ip6 || details->mac;
        struct instance_network *first = config->networks.n || more ? first_network(runspec, err) : NULL;

        if (!first)
                return config->networks.n || more ? -ENOMEM : 0;
        first->ip = details->ip ? details->ip : first->ip;
        first->ip6 = details->ip6 ? details->ip6 : first->ip6;
        first->mac = details->mac ? details->mac : first->mac;
        for (size_t i = 0; i < config->networks.n; i++) {
                const struct instance_network *network = &config->networks.item[i];

                if (!is_mode(network->name))
                        continue;
                if (config->networks.n > 1)
                        return err_set(
                                err, ERR_USAGE, EINVAL, "--network: '%s' excludes other networks", network->name);
                if (network->ip || network->ip6 || network->mac || network->aliases.n)
                        return err_set(err, ERR_USAGE, EINVAL, "--network: '%s' has no addresses or names to choose",
                                network->name);
        }
        if (config->networks.n == 1 && !first->ip && !first->ip6 && !first->mac && first->aliases.n == 0) {
                config->network_mode = first->name;
                config->networks.n = 0;
        }
        return 0;
}

int runspec_add_host(struct runspec *runspec, const char *text, struct err **err)
{
        const size_t len = strcspn(text, "=:");
        const char *address = text[len] ? text + len + 1 : "", *entry;
        size_t n = strlen(address);

        if (len == 0 || n == 0)
                return runspec_wrong(err, "--add-host", text, "NAME:ADDRESS, or NAME:host-gateway");
        if (address[0] == '[' && address[n - 1] == ']') { /* brackets around IPv6 are optional */
                address++;
                n -= 2;
        }
        entry = arena_printf(runspec->arena, "%.*s:%.*s", (int)len, text, (int)n, address);
        return entry ? runspec_strings_add(runspec->arena, &runspec->config->extra_hosts, entry, err)
                     : runspec_no_memory(err);
}

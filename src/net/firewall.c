/* One table, all rules of which are fixed: a bridge, a network's property or a published port is an element of a set or
 * map, so that a packet meets the same few rules with one container as with a thousand.
 *
 * A packet to a published port: `prerouting` (or `output`, from the host itself) sends what is for one of the host's
 * own addresses to `publish`, where a map from protocol and port gives container and port. `forward` then lets through
 * to our bridges what is a reply, what was translated so, and what stays on one bridge; everything else to them is
 * dropped, which is the isolation between networks and from the outside. What comes from them may leave unless its
 * network is internal, and gets the host's address in `postrouting`.
 *
 * An accept here is no accept elsewhere: a packet passes all base chains of a hook, also the operator's, and a drop is
 * final. So the operator's forward rules win whatever their priority. (His input rules do not see published ports, as
 * those packets are forwarded: firewall_tell says so.)
 *
 * 127.0.0.1:PORT works by translation too: the bridges have route_localnet, packets from loopback get the bridge's
 * address on the way out (`postrouting`). Then a container could send to the host's loopback addresses; `raw` drops
 * that first of all. */
#include "firewall.h"

#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter_ipv4.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "nft.h"

enum {
        PORTS4,
        PORTS4_AT,
        PORTS6,
        PORTS6_AT,
        SELF4,
        SELF6,
        N_PORT_SETS,
        BRIDGES = N_PORT_SETS,
        INTERNAL,
        MASQUERADE,
        SAME,
        GUARDED,
        UPLINKS,
        N_SETS
};

static const struct nft_set sets[N_SETS] = {
        [PORTS4] = { "ports4", NFT_CONCAT(NFT_TYPE_L4PROTO, NFT_TYPE_PORT), 8, NFT_CONCAT(NFT_TYPE_IPV4, NFT_TYPE_PORT),
                8 },
        [PORTS4_AT] = { "ports4_at", NFT_CONCAT(NFT_CONCAT(NFT_TYPE_L4PROTO, NFT_TYPE_IPV4), NFT_TYPE_PORT), 12,
                NFT_CONCAT(NFT_TYPE_IPV4, NFT_TYPE_PORT), 8 },
        [PORTS6] = { "ports6", NFT_CONCAT(NFT_TYPE_L4PROTO, NFT_TYPE_PORT), 8, NFT_CONCAT(NFT_TYPE_IPV6, NFT_TYPE_PORT),
                20 },
        [PORTS6_AT] = { "ports6_at", NFT_CONCAT(NFT_CONCAT(NFT_TYPE_L4PROTO, NFT_TYPE_IPV6), NFT_TYPE_PORT), 24,
                NFT_CONCAT(NFT_TYPE_IPV6, NFT_TYPE_PORT), 20 },
        [SELF4] = { "self4", NFT_CONCAT(NFT_TYPE_IPV4, NFT_TYPE_IPV4), 8, 0, 0 },
        [SELF6] = { "self6", NFT_CONCAT(NFT_TYPE_IPV6, NFT_TYPE_IPV6), 32, 0, 0 },
        [BRIDGES] = { "bridges", NFT_TYPE_IFNAME, 16, 0, 0 },
        [INTERNAL] = { "internal", NFT_TYPE_IFNAME, 16, 0, 0 },
        [MASQUERADE] = { "masquerade", NFT_TYPE_IFNAME, 16, 0, 0 },
        [SAME] = { "same", NFT_CONCAT(NFT_TYPE_IFNAME, NFT_TYPE_IFNAME), 32, 0, 0 },
        [GUARDED] = { "guarded", NFT_TYPE_NFPROTO, 1, 0, 0 },
        [UPLINKS] = { "uplinks", NFT_TYPE_IFNAME, 16, 0, 0 },
};

/* --- the rules ---------------------------------------------------------------------------------------------------- */

static const struct nft_chain chains[] = {
        { "publish", NULL, 0, 0 },
        { "to", NULL, 0, 0 },
        { "raw", "filter", NF_INET_PRE_ROUTING, NF_IP_PRI_RAW },
        { "prerouting", "nat", NF_INET_PRE_ROUTING, NF_IP_PRI_NAT_DST },
        { "output", "nat", NF_INET_LOCAL_OUT, NF_IP_PRI_NAT_DST },
        { "postrouting", "nat", NF_INET_POST_ROUTING, NF_IP_PRI_NAT_SRC },
        { "forward", "filter", NF_INET_FORWARD, NF_IP_PRI_FILTER },
};

static const u8 ipv4[1] = { NFPROTO_IPV4 }, ipv6[1] = { NFPROTO_IPV6 };
static const u8 zero[4], loopback[1] = { 127 };
static const u32 local_address = RTN_LOCAL;

#define STATE(ctinfo) (1U << ((ctinfo) + 1)) /* NF_CT_STATE_BIT of the kernel */

#define IIFNAME(r)    NFT_META(r, NFT_META_IIFNAME)
#define OIFNAME(r)    NFT_META(r, NFT_META_OIFNAME)
#define FAMILY_IS(f)  NFT_META(0, NFT_META_NFPROTO), NFT_CMP(0, NFT_CMP_EQ, f, 1)
#define L4PROTO(r)    NFT_META(r, NFT_META_L4PROTO)
#define DPORT(r)      NFT_PAYLOAD(r, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
#define SADDR4(r, n)  NFT_PAYLOAD(r, NFT_PAYLOAD_NETWORK_HEADER, 12, n)
#define DADDR4(r, n)  NFT_PAYLOAD(r, NFT_PAYLOAD_NETWORK_HEADER, 16, n)
#define SADDR6(r)     NFT_PAYLOAD(r, NFT_PAYLOAD_NETWORK_HEADER, 8, 16)
#define DADDR6(r)     NFT_PAYLOAD(r, NFT_PAYLOAD_NETWORK_HEADER, 24, 16)
#define FOR_THE_HOST  NFT_FIB_TYPE_OF_DADDR(0), NFT_CMP(0, NFT_CMP_EQ, &local_address, 4)
#define WAS_PUBLISHED NFT_CT(0, NFT_CT_STATUS), NFT_HAS_BITS(0, IPS_DST_NAT), NFT_CMP(0, NFT_CMP_NEQ, zero, 4)
#define ESTABLISHED                                                                                \
        NFT_CT(0, NFT_CT_STATE), NFT_HAS_BITS(0, STATE(IP_CT_ESTABLISHED) | STATE(IP_CT_RELATED)), \
                NFT_CMP(0, NFT_CMP_NEQ, zero, 4)
#define STAYS_ON_ONE IIFNAME(0), OIFNAME(4), NFT_IN(0, "same")
#define GOTO(chain)  NFT_VERDICT(NFT_GOTO, chain)
#define ACCEPT       NFT_VERDICT(NF_ACCEPT, NULL)
#define DROP         NFT_VERDICT(NF_DROP, NULL)

enum { RULE_MAX = 12 };

static const struct {
        const char *chain;
        struct nft_expr expr[RULE_MAX];
} rules[] = {
        { "raw", { FAMILY_IS(ipv4), IIFNAME(0), NFT_IN(0, "bridges"), DADDR4(0, 1), NFT_CMP(0, NFT_CMP_EQ, loopback, 1),
                         DROP } },
        { "raw", { FAMILY_IS(ipv4), IIFNAME(0), NFT_IN(0, "bridges"), SADDR4(0, 1), NFT_CMP(0, NFT_CMP_EQ, loopback, 1),
                         DROP } },

        { "prerouting", { FOR_THE_HOST, GOTO("publish") } },
        { "output", { FOR_THE_HOST, GOTO("publish") } },
        { "publish", { FAMILY_IS(ipv4), L4PROTO(0), DADDR4(1, 4), DPORT(2), NFT_MAP(0, "ports4_at", 4),
                             NFT_DNAT(NFPROTO_IPV4, 4, 5) } },
        { "publish", { FAMILY_IS(ipv4), L4PROTO(0), DPORT(1), NFT_MAP(0, "ports4", 4), NFT_DNAT(NFPROTO_IPV4, 4, 5) } },
        { "publish", { FAMILY_IS(ipv6), L4PROTO(0), DADDR6(1), DPORT(5), NFT_MAP(0, "ports6_at", 8),
                             NFT_DNAT(NFPROTO_IPV6, 8, 12) } },
        { "publish", { FAMILY_IS(ipv6), L4PROTO(0), DPORT(1), NFT_MAP(0, "ports6", 4), NFT_DNAT(NFPROTO_IPV6, 4, 8) } },

        { "forward", { OIFNAME(0), NFT_IN(0, "bridges"), GOTO("to") } },
        { "forward", { IIFNAME(0), NFT_IN(0, "internal"), DROP } },
        { "forward", { NFT_META(0, NFT_META_NFPROTO), NFT_IN(0, "guarded"), IIFNAME(0), NFT_IN(0, "uplinks"),
                             OIFNAME(0), NFT_IN(0, "uplinks"), DROP } },
        { "to", { ESTABLISHED, ACCEPT } },
        { "to", { STAYS_ON_ONE, ACCEPT } },
        { "to", { IIFNAME(0), NFT_IN(0, "internal"), DROP } },
        { "to", { OIFNAME(0), NFT_IN(0, "internal"), DROP } },
        { "to", { WAS_PUBLISHED, ACCEPT } },
        { "to", { DROP } },

        /* a container that asks for its own network's published port: the answer has to come back through the host.
         * (With br_netfilter the packet does not seem to come from an interface; then answers come back anyway, but
         * for its own.) */
        { "postrouting", { WAS_PUBLISHED, STAYS_ON_ONE, NFT_MASQUERADE } },
        { "postrouting",
                { FAMILY_IS(ipv4), WAS_PUBLISHED, SADDR4(0, 4), DADDR4(1, 4), NFT_IN(0, "self4"), NFT_MASQUERADE } },
        { "postrouting", { FAMILY_IS(ipv6), WAS_PUBLISHED, SADDR6(0), DADDR6(4), NFT_IN(0, "self6"), NFT_MASQUERADE } },
        { "postrouting", { FAMILY_IS(ipv4), SADDR4(0, 1), NFT_CMP(0, NFT_CMP_EQ, loopback, 1), OIFNAME(0),
                                 NFT_IN(0, "bridges"), NFT_MASQUERADE } },
        { "postrouting",
                { IIFNAME(0), NFT_IN(0, "masquerade"), OIFNAME(0), NFT_NOT_IN(0, "bridges"), NFT_MASQUERADE } },
};

static void add_table(struct nl *nl, const char *table)
{
        nft_add_table(nl, table);
        for (size_t i = 0; i < N_SETS; i++)
                nft_add_set(nl, table, &sets[i]);
        for (size_t i = 0; i < ARRAY_SIZE(chains); i++)
                nft_add_chain(nl, table, &chains[i]);
        for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
                nft_add_rule(nl, table, rules[i].chain, rules[i].expr);
}

/* --- elements of bridges ------------------------------------------------------------------------------------------ */

static void add_name(struct nl *nl, const char *table, int set, const char *a, const char *b)
{
        struct nft_element element = { .comment = NULL };

        memcpy(element.key, a, strlen(a));
        if (b)
                memcpy(element.key + 16, b, strlen(b));
        nft_add_element(nl, table, &sets[set], &element, false);
}

static void add_bridge(struct nl *nl, const char *table, const struct network *network)
{
        const char *bridge = network->pub.bridge;

        add_name(nl, table, BRIDGES, bridge, NULL);
        if (network->pub.internal)
                add_name(nl, table, INTERNAL, bridge, NULL);
        else if (network->masquerade)
                add_name(nl, table, MASQUERADE, bridge, NULL);
        if (network->icc)
                add_name(nl, table, SAME, bridge, bridge);
}

static void add_guard(struct nl *nl, const char *table, const struct firewall_guard *guard)
{
        const struct nft_element v4 = { .key = { NFPROTO_IPV4 } }, v6 = { .key = { NFPROTO_IPV6 } };
        char names[sizeof(guard->uplinks)], *rest = names, *name;

        memcpy(names, guard->uplinks, sizeof(names));
        if (guard->v4)
                nft_add_element(nl, table, &sets[GUARDED], &v4, false);
        if (guard->v6)
                nft_add_element(nl, table, &sets[GUARDED], &v6, false);
        while ((name = strsep(&rest, " ")))
                if (*name && strlen(name) < IFNAMSIZ)
                        add_name(nl, table, UPLINKS, name, NULL);
}

/* --- elements of ports -------------------------------------------------------------------------------------------- */

static bool is_zero(const struct ip *ip)
{
        static const u8 none[16];

        return memcmp(ip->bytes, none, ip->len) == 0;
}

/* The element of one port in one family; false: it is not published there. */
static bool port_element(const struct endpoint *endpoint, const struct published *port, int family, int *ret_set,
        struct nft_element *ret)
{
        const bool at = port->host_ip.len && !is_zero(&port->host_ip);
        const u16 host_port = htons(port->host_port), container_port = htons(port->container_port);
        const struct ip *to = &endpoint->ip[family];
        struct nft_element element = { .comment = endpoint->container };
        size_t n = 0;

        if (!to->len || (port->host_ip.len && port->host_ip.len != to->len))
                return false;
        element.key[n] = port->protocol;
        n += 4;
        if (at) {
                memcpy(element.key + n, port->host_ip.bytes, port->host_ip.len);
                n += port->host_ip.len;
        }
        memcpy(element.key + n, &host_port, 2);
        memcpy(element.data, to->bytes, to->len);
        memcpy(element.data + to->len, &container_port, 2);
        *ret_set = (family == V4 ? PORTS4 : PORTS6) + at;
        *ret = element;
        return true;
}

/* Calls @fn for each element that the endpoint asks for, until it returns other than 0. */
static int each_port(const struct endpoint *endpoint,
        int (*fn)(void *opaque, int set, const struct nft_element *element, const struct published *port), void *opaque)
{
        int r = 0;

        if (endpoint->forwarded)
                return 0;
        for (size_t i = 0; i < endpoint->n_ports && r == 0; i++)
                for (int family = 0; family < 2 && r == 0; family++) {
                        struct nft_element element;
                        int set;

                        if (port_element(endpoint, &endpoint->ports[i], family, &set, &element))
                                r = fn(opaque, set, &element, &endpoint->ports[i]);
                }
        for (int family = 0; endpoint->n_ports && family < 2 && r == 0; family++) {
                const struct ip *ip = &endpoint->ip[family];
                struct nft_element element = { .comment = endpoint->container };

                if (!ip->len)
                        continue;
                memcpy(element.key, ip->bytes, ip->len);
                memcpy(element.key + ip->len, ip->bytes, ip->len);
                r = fn(opaque, family == V4 ? SELF4 : SELF6, &element, &endpoint->ports[0]);
        }
        return r;
}

struct batch {
        struct nl nl;
        const char *table;
        int sock;
        const struct published *asked[2 * PORTS_MAX + 2]; /* by number of the message */
        size_t n;
};

static int add_port(void *opaque, int set, const struct nft_element *element, const struct published *port)
{
        struct batch *batch = opaque;

        nft_add_element(&batch->nl, batch->table, &sets[set], element, sets[set].data_len > 0);
        if (batch->n < ARRAY_SIZE(batch->asked))
                batch->asked[batch->n++] = port;
        return 0;
}

/* The kernel sends a UDP client's packets where the first one went as long as they keep coming: also to an address
 * that another container has by now, or to the host, if nobody had published the port when it came. With a filter
 * (Linux 6.9) it forgets those; older ones do so after two minutes of silence. */
static void forget_flows(int nft, u8 family, u16 port)
{
        enum { PROTOCOL = 1 << 3, PORT = 1 << 5 }; /* of the kernel's nf_internals.h */
        const struct nfgenmsg head = { .nfgen_family = family, .version = NFNETLINK_V0 };
        const u16 port_be = htons(port);
        struct nl nl = { 0 };
        size_t tuple, part;

        nl_begin(&nl, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0, &head, sizeof(head));
        tuple = nl_nest(&nl, CTA_TUPLE_ORIG);
        part = nl_nest(&nl, CTA_TUPLE_PROTO);
        nl_put_u8(&nl, CTA_PROTO_NUM, IPPROTO_UDP);
        nl_put(&nl, CTA_PROTO_DST_PORT, &port_be, sizeof(port_be));
        nl_end(&nl, part);
        nl_end(&nl, tuple);
        part = nl_nest(&nl, CTA_FILTER);
        nl_put_u32(&nl, CTA_FILTER_ORIG_FLAGS, PROTOCOL | PORT);
        nl_end(&nl, part);
        nl_send(nft, &nl);
        nl_free(&nl);
}

static void forget_udp(int nft, const struct endpoint *endpoint)
{
        for (size_t i = 0; i < endpoint->n_ports; i++) {
                if (endpoint->ports[i].protocol != IPPROTO_UDP)
                        continue;
                forget_flows(nft, NFPROTO_IPV4, endpoint->ports[i].host_port);
                forget_flows(nft, NFPROTO_IPV6, endpoint->ports[i].host_port);
        }
}

int firewall_open_ports(const struct net_store *store, int nft, const struct endpoint *endpoint, struct err **err)
{
        _cleanup_free_ struct batch *batch = calloc(1, sizeof(*batch));
        const struct published *port;
        int r, refused;

        if (!batch)
                return err_sys(err, ENOMEM, "publishing ports");
        batch->table = store->table;
        nft_begin(&batch->nl);
        each_port(endpoint, add_port, batch);
        r = batch->n ? nft_commit(nft, &batch->nl) : 0;
        refused = batch->nl.index - 1; /* the first message begins the transaction */
        nl_free(&batch->nl);
        if (r == -EEXIST && refused >= 0 && (size_t)refused < batch->n) {
                port = batch->asked[refused];
                return err_set(err, ERR_BUSY, EADDRINUSE, "port %u/%s is published by another container",
                        port->host_port, net_protocol_name(port->protocol));
        }
        if (!r)
                forget_udp(nft, endpoint);
        return r < 0 ? err_sys(err, -r, "publishing ports") : 0;
}

static int delete_port(void *opaque, int set, const struct nft_element *element, const struct published *port)
{
        struct batch *batch = opaque;

        nft_delete_element(&batch->nl, batch->table, &sets[set], element);
        batch->n++;
        return 0;
}

/* Each in a transaction of its own, for when some are not there or not ours. */
static int delete_one_port(void *opaque, int set, const struct nft_element *element, const struct published *port)
{
        struct batch *batch = opaque;
        struct nft_element found = *element;
        int r = nft_get_element(batch->sock, batch->table, &sets[set], &found);

        if (r < 0 || memcmp(found.data, element->data, sets[set].data_len) != 0)
                return r == -ENOENT ? 0 : MIN(r, 0);
        nft_begin(&batch->nl);
        delete_port(batch, set, element, port);
        r = nft_commit(batch->sock, &batch->nl);
        return r == -ENOENT ? 0 : r;
}

int firewall_close_ports(const struct net_store *store, int nft, const struct endpoint *endpoint, struct err **err)
{
        _cleanup_free_ struct batch *batch = calloc(1, sizeof(*batch));
        int r = -ENOENT;

        if (!batch)
                return err_sys(err, ENOMEM, "withdrawing ports");
        batch->sock = nft;
        batch->table = store->table;
        if (!endpoint->ports_pending) {
                nft_begin(&batch->nl);
                each_port(endpoint, delete_port, batch);
                r = batch->n ? nft_commit(nft, &batch->nl) : 0;
        }
        if (r == -ENOENT)
                r = each_port(endpoint, delete_one_port, batch);
        nl_free(&batch->nl);
        forget_udp(nft, endpoint);
        return r < 0 ? err_sys(err, -r, "withdrawing ports") : 0;
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

struct rebuild {
        struct net_store *store;
        struct nl nl;
};

static int rebuild_bridge(void *opaque, struct network *network, struct err **err)
{
        struct rebuild *rebuild = opaque;
        char path[64], name[IFNAMSIZ];

        snprintf(path, sizeof(path), DIR_BRIDGES "/%s", network->key);
        if (network->is_bridge && store_read_link(rebuild->store->run, path, name, sizeof(name)) > 0)
                add_bridge(&rebuild->nl, rebuild->store->table, network);
        return 0;
}

static int rebuild_port(void *opaque, int set, const struct nft_element *element, const struct published *port)
{
        struct rebuild *rebuild = opaque;

        nft_add_element(&rebuild->nl, rebuild->store->table, &sets[set], element, false);
        return 0;
}

static int rebuild_endpoint(void *opaque, struct endpoint *endpoint, struct err **err)
{
        return each_port(endpoint, rebuild_port, opaque);
}

int firewall_find(const struct net_store *store, int nft)
{
        return nft_find_table(nft, store->table);
}

int firewall_rebuild(struct net_store *store, int nft, const struct firewall_guard *guard, struct err **err)
{
        struct rebuild rebuild = { .store = store };
        int r = firewall_find(store, nft);

        nft_begin(&rebuild.nl);
        if (r == -ENOENT)
                add_table(&rebuild.nl, store->table);
        else if (r < 0)
                return err_hint(err, err_sys(err, -r, "looking at nftables"), "the kernel needs nf_tables");
        for (size_t i = 0; i < N_SETS; i++)
                nft_flush_set(&rebuild.nl, store->table, &sets[i]);
        add_guard(&rebuild.nl, store->table, guard);
        r = network_each(store, rebuild_bridge, &rebuild, err);
        if (r == 0)
                r = endpoint_each(store, NULL, rebuild_endpoint, &rebuild, err);
        if (r == 0) {
                r = nft_commit(nft, &rebuild.nl);
                if (r < 0)
                        err_sys(err, -r, "setting up the nftables table '%s'", store->table);
        }
        nl_free(&rebuild.nl);
        return r;
}

int firewall_remove(const struct net_store *store, int nft, struct err **err)
{
        struct nl nl = { 0 };
        int r;

        nft_begin(&nl);
        nft_delete_table(&nl, store->table);
        r = nft_commit(nft, &nl);
        nl_free(&nl);
        return r < 0 && r != -ENOENT ? err_sys(err, -r, "removing the nftables table '%s'", store->table) : 0;
}

/* --- comparing ---------------------------------------------------------------------------------------------------- */

struct count {
        unsigned n;
        u64 sum; /* of a hash of each element: the same elements, the same sum, in whatever order */
};

static void add_hash(struct count *count, int set, const struct nft_element *element)
{
        u64 h = 14695981039346656037ULL ^ (u64)set; /* FNV-1a */

        for (u32 i = 0; i < sets[set].key_len; i++)
                h = (h ^ element->key[i]) * 1099511628211ULL;
        for (u32 i = 0; i < sets[set].data_len; i++)
                h = (h ^ element->data[i]) * 1099511628211ULL;
        count->n++;
        count->sum += h;
}

struct listing {
        struct count count;
        int set;
};

static int count_element(void *opaque, const struct nft_element *element)
{
        struct listing *listing = opaque;

        add_hash(&listing->count, listing->set, element);
        return 0;
}

static int count_port(void *opaque, int set, const struct nft_element *element, const struct published *port)
{
        add_hash(opaque, set, element);
        return 0;
}

static int count_endpoint(void *opaque, struct endpoint *endpoint, struct err **err)
{
        return each_port(endpoint, count_port, opaque);
}

int firewall_compare(struct net_store *store, int nft, unsigned *ret, struct err **err)
{
        struct listing is = { .set = PORTS4 };
        struct count wanted = { 0 };
        int r = endpoint_each(store, NULL, count_endpoint, &wanted, err);

        for (; is.set < N_PORT_SETS && r == 0; is.set++) {
                r = nft_list_elements(nft, store->table, &sets[is.set], count_element, &is);
                if (r < 0)
                        return err_sys(err, -r, "reading the nftables table '%s'", store->table);
        }
        if (r == 0)
                *ret = is.count.n != wanted.n       ? MAX(is.count.n, wanted.n) - MIN(is.count.n, wanted.n)
                       : is.count.sum != wanted.sum ? 1
                                                    : 0;
        return r;
}

/* --- the operator's own rules ------------------------------------------------------------------------------------- */

struct other {
        const char *ours;
        char forward[128], input[128]; /* "TABLE CHAIN" of a base chain that drops by policy */
};

static int look_at_chain(void *opaque, const char *table, const char *chain, u8 family, u32 hook, u32 policy)
{
        struct other *other = opaque;

        if (policy != NF_DROP || strcmp(table, other->ours) == 0 || (family != NFPROTO_INET && family != NFPROTO_IPV4))
                return 0;
        if (hook == NF_INET_FORWARD)
                snprintf(other->forward, sizeof(other->forward), "%.60s %.60s", table, chain);
        else if (hook == NF_INET_LOCAL_IN)
                snprintf(other->input, sizeof(other->input), "%.60s %.60s", table, chain);
        return 0;
}

void firewall_tell(struct net_store *store, int nft)
{
        struct other other = { .ours = store->table };

        if (nft_list_base_chains(nft, look_at_chain, &other) < 0)
                return;
        if (*other.forward)
                store_notice(store,
                        "the host's firewall drops what is forwarded unless it is allowed there (chain %s): published ports "
                        "need 'ct status dnat accept' in it",
                        other.forward);
        else if (*other.input)
                store_notice(store,
                        "published ports are forwarded: the host's rules for its own ports (chain %s) do not apply to them; "
                        "publish on 127.0.0.1, or filter in a chain at the forward hook",
                        other.input);
}

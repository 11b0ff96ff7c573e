#include "nft.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <string.h>

/* --- expressions -------------------------------------------------------------------------------------------------- */

static u32 reg(u32 n)
{
        return NFT_REG32_00 + n;
}

static void put_value(struct nl *nl, u16 type, const void *data, size_t len)
{
        const size_t at = nl_nest(nl, type);

        nl_put(nl, NFTA_DATA_VALUE, data, len);
        nl_end(nl, at);
}

void nft_put_meta(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_META_DREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_META_KEY, expr->a);
}

void nft_put_ct(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_CT_DREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_CT_KEY, expr->a);
}

void nft_put_payload(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_PAYLOAD_DREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_PAYLOAD_BASE, expr->a);
        nl_put_be32(nl, NFTA_PAYLOAD_OFFSET, expr->b);
        nl_put_be32(nl, NFTA_PAYLOAD_LEN, expr->c);
}

void nft_put_fib(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_FIB_DREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
        nl_put_be32(nl, NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
}

void nft_put_cmp(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_CMP_SREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_CMP_OP, expr->a);
        put_value(nl, NFTA_CMP_DATA, expr->data, expr->len);
}

/* The register keeps only the bits of the mask; a comparison with 0 comes after it. */
void nft_put_mask(struct nl *nl, const struct nft_expr *expr)
{
        const u32 none = 0;

        nl_put_be32(nl, NFTA_BITWISE_SREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_BITWISE_DREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_BITWISE_LEN, sizeof(u32));
        put_value(nl, NFTA_BITWISE_MASK, &expr->a, sizeof(u32));
        put_value(nl, NFTA_BITWISE_XOR, &none, sizeof(u32));
}

void nft_put_lookup(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_string(nl, NFTA_LOOKUP_SET, expr->text);
        nl_put_be32(nl, NFTA_LOOKUP_SREG, reg(expr->reg));
        if (expr->a)
                nl_put_be32(nl, NFTA_LOOKUP_DREG, reg(expr->c));
        if (expr->b)
                nl_put_be32(nl, NFTA_LOOKUP_FLAGS, expr->b);
}

void nft_put_value(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_IMMEDIATE_DREG, reg(expr->reg));
        put_value(nl, NFTA_IMMEDIATE_DATA, expr->data, expr->len);
}

void nft_put_write_port(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_PAYLOAD_SREG, reg(expr->reg));
        nl_put_be32(nl, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
        nl_put_be32(nl, NFTA_PAYLOAD_OFFSET, expr->a);
        nl_put_be32(nl, NFTA_PAYLOAD_LEN, 2);
        nl_put_be32(nl, NFTA_PAYLOAD_CSUM_TYPE, NFT_PAYLOAD_CSUM_INET);
        nl_put_be32(nl, NFTA_PAYLOAD_CSUM_OFFSET, expr->b);
}

void nft_put_verdict(struct nl *nl, const struct nft_expr *expr)
{
        size_t data, verdict;

        nl_put_be32(nl, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        data = nl_nest(nl, NFTA_IMMEDIATE_DATA);
        verdict = nl_nest(nl, NFTA_DATA_VERDICT);
        nl_put_be32(nl, NFTA_VERDICT_CODE, expr->a);
        if (expr->text)
                nl_put_string(nl, NFTA_VERDICT_CHAIN, expr->text);
        nl_end(nl, verdict);
        nl_end(nl, data);
}

void nft_put_dnat(struct nl *nl, const struct nft_expr *expr)
{
        nl_put_be32(nl, NFTA_NAT_TYPE, NFT_NAT_DNAT);
        nl_put_be32(nl, NFTA_NAT_FAMILY, expr->a);
        nl_put_be32(nl, NFTA_NAT_REG_ADDR_MIN, reg(expr->reg));
        nl_put_be32(nl, NFTA_NAT_REG_PROTO_MIN, reg(expr->b));
}

void nft_put_masquerade(struct nl *nl, const struct nft_expr *expr)
{
}

/* --- objects ------------------------------------------------------------------------------------------------------ */

static void begin(struct nl *nl, u16 type, u16 flags)
{
        const struct nfgenmsg head = { .nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0 };

        nl_begin(nl, (u16)(NFNL_SUBSYS_NFTABLES << 8 | type), flags, &head, sizeof(head));
}

static void mark_batch(struct nl *nl, u16 type)
{
        const struct nfgenmsg head = { .version = NFNETLINK_V0, .res_id = htons(NFNL_SUBSYS_NFTABLES) };

        nl_begin(nl, type, 0, &head, sizeof(head));
}

void nft_begin(struct nl *nl)
{
        mark_batch(nl, NFNL_MSG_BATCH_BEGIN);
}

int nft_commit(int sock, struct nl *nl)
{
        mark_batch(nl, NFNL_MSG_BATCH_END);
        return nl_send(sock, nl);
}

void nft_add_table(struct nl *nl, const char *table)
{
        begin(nl, NFT_MSG_NEWTABLE, NLM_F_CREATE);
        nl_put_string(nl, NFTA_TABLE_NAME, table);
        nl_put_be32(nl, NFTA_TABLE_FLAGS, 0);
}

void nft_delete_table(struct nl *nl, const char *table)
{
        begin(nl, NFT_MSG_DELTABLE, 0);
        nl_put_string(nl, NFTA_TABLE_NAME, table);
}

void nft_add_chain(struct nl *nl, const char *table, const struct nft_chain *chain)
{
        size_t hook;

        begin(nl, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        nl_put_string(nl, NFTA_CHAIN_TABLE, table);
        nl_put_string(nl, NFTA_CHAIN_NAME, chain->name);
        if (!chain->type)
                return;
        hook = nl_nest(nl, NFTA_CHAIN_HOOK);
        nl_put_be32(nl, NFTA_HOOK_HOOKNUM, chain->hook);
        nl_put_be32(nl, NFTA_HOOK_PRIORITY, (u32)chain->priority);
        nl_end(nl, hook);
        nl_put_be32(nl, NFTA_CHAIN_POLICY, NF_ACCEPT);
        nl_put_string(nl, NFTA_CHAIN_TYPE, chain->type);
}

void nft_add_rule(struct nl *nl, const char *table, const char *chain, const struct nft_expr *exprs)
{
        size_t list;

        begin(nl, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        nl_put_string(nl, NFTA_RULE_TABLE, table);
        nl_put_string(nl, NFTA_RULE_CHAIN, chain);
        list = nl_nest(nl, NFTA_RULE_EXPRESSIONS);
        for (; exprs->put; exprs++) {
                const size_t element = nl_nest(nl, NFTA_LIST_ELEM);
                size_t data;

                nl_put_string(nl, NFTA_EXPR_NAME, exprs->name);
                data = nl_nest(nl, NFTA_EXPR_DATA);
                exprs->put(nl, exprs);
                nl_end(nl, data);
                nl_end(nl, element);
        }
        nl_end(nl, list);
}

void nft_add_set(struct nl *nl, const char *table, const struct nft_set *set)
{
        begin(nl, NFT_MSG_NEWSET, NLM_F_CREATE);
        nl_put_string(nl, NFTA_SET_TABLE, table);
        nl_put_string(nl, NFTA_SET_NAME, set->name);
        nl_put_be32(nl, NFTA_SET_FLAGS, set->data_len ? NFT_SET_MAP : 0);
        nl_put_be32(nl, NFTA_SET_KEY_TYPE, set->key_type);
        nl_put_be32(nl, NFTA_SET_KEY_LEN, set->key_len);
        if (set->data_len) {
                nl_put_be32(nl, NFTA_SET_DATA_TYPE, set->data_type);
                nl_put_be32(nl, NFTA_SET_DATA_LEN, set->data_len);
        }
        if (set->key_type == NFT_TYPE_IFNAME) {
                /* libnftnl's form: type 0, the key's byte order; 4 bytes; 1, the host's. Without it nft(8) shows no
                 * name */
                const u8 order[6] = { 0, 4, 1 };

                nl_put(nl, NFTA_SET_USERDATA, order, sizeof(order));
        }
        nl_put_be32(nl, NFTA_SET_ID, nl->n); /* any number that no other set of the transaction has */
}

/* --- elements ----------------------------------------------------------------------------------------------------- */

static void put_comment(struct nl *nl, const char *comment)
{
        /* libnftnl's form of user data: a type (0: comment), a length, a string with its NUL */
        u8 udata[130];
        const size_t len = MIN(strlen(comment), sizeof(udata) - 3);

        udata[0] = 0;
        udata[1] = (u8)(len + 1);
        memcpy(udata + 2, comment, len);
        udata[2 + len] = '\0';
        nl_put(nl, NFTA_SET_ELEM_USERDATA, udata, len + 3);
}

/* A message an element: errors say which it was. */
static void change_element(struct nl *nl, u16 type, u16 flags, const char *table, const struct nft_set *set,
        const struct nft_element *element)
{
        size_t list, one;

        begin(nl, type, flags);
        nl_put_string(nl, NFTA_SET_ELEM_LIST_TABLE, table);
        nl_put_string(nl, NFTA_SET_ELEM_LIST_SET, set->name);
        if (!element)
                return;
        list = nl_nest(nl, NFTA_SET_ELEM_LIST_ELEMENTS);
        one = nl_nest(nl, NFTA_LIST_ELEM);
        put_value(nl, NFTA_SET_ELEM_KEY, element->key, set->key_len);
        if (type == NFT_MSG_NEWSETELEM && set->data_len)
                put_value(nl, NFTA_SET_ELEM_DATA, element->data, set->data_len);
        if (type == NFT_MSG_NEWSETELEM && element->comment)
                put_comment(nl, element->comment);
        nl_end(nl, one);
        nl_end(nl, list);
}

void nft_add_element(
        struct nl *nl, const char *table, const struct nft_set *set, const struct nft_element *element, bool exclusive)
{
        change_element(
                nl, NFT_MSG_NEWSETELEM, exclusive ? NLM_F_CREATE | NLM_F_EXCL : NLM_F_CREATE, table, set, element);
}

void nft_delete_element(struct nl *nl, const char *table, const struct nft_set *set, const struct nft_element *element)
{
        change_element(nl, NFT_MSG_DELSETELEM, 0, table, set, element);
}

void nft_flush_set(struct nl *nl, const char *table, const struct nft_set *set)
{
        change_element(nl, NFT_MSG_DELSETELEM, 0, table, set, NULL);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

int nft_find_table(int sock, const char *table)
{
        struct nl nl = { 0 };
        int r;

        begin(&nl, NFT_MSG_GETTABLE, 0);
        nl_put_string(&nl, NFTA_TABLE_NAME, table);
        r = nl_send(sock, &nl);
        nl_free(&nl);
        return r;
}

struct elements {
        const struct nft_set *set;
        int (*fn)(void *opaque, const struct nft_element *element);
        void *opaque;
};

/* The bytes of the value nested in the attribute @type of @element. */
static bool take_value(const struct nlattr *element, u16 type, u8 *ret, size_t len)
{
        const struct nlattr *outer = nl_find(nl_value(element), nl_value_len(element), type, 0), *value;

        value = outer ? nl_find(nl_value(outer), nl_value_len(outer), NFTA_DATA_VALUE, len) : NULL;
        if (value)
                memcpy(ret, nl_value(value), len);
        return value;
}

static int take_elements(void *opaque, const struct nlmsghdr *message)
{
        const struct nlattr *list = nl_attribute(message, sizeof(struct nfgenmsg), NFTA_SET_ELEM_LIST_ELEMENTS, 0);
        const struct elements *elements = opaque;
        const u8 *p = list ? nl_value(list) : NULL;
        size_t left = list ? nl_value_len(list) : 0;
        int r = 0;

        while (left >= (size_t)NLA_HDRLEN && r == 0) {
                const struct nlattr *one = (const void *)p;
                const size_t step = NLA_ALIGN((size_t)one->nla_len);
                struct nft_element element = { .comment = NULL };

                if (one->nla_len < NLA_HDRLEN || one->nla_len > left)
                        break;
                if (take_value(one, NFTA_SET_ELEM_KEY, element.key, elements->set->key_len)) {
                        take_value(one, NFTA_SET_ELEM_DATA, element.data, elements->set->data_len);
                        r = elements->fn(elements->opaque, &element);
                }
                if (step > left)
                        break;
                p += step;
                left -= step;
        }
        return r;
}

int nft_list_elements(int sock, const char *table, const struct nft_set *set,
        int (*fn)(void *opaque, const struct nft_element *element), void *opaque)
{
        struct elements elements = { .set = set, .fn = fn, .opaque = opaque };
        struct nl nl = { 0 };
        int r;

        begin(&nl, NFT_MSG_GETSETELEM, 0);
        nl_put_string(&nl, NFTA_SET_ELEM_LIST_TABLE, table);
        nl_put_string(&nl, NFTA_SET_ELEM_LIST_SET, set->name);
        r = nl_dump(sock, &nl, take_elements, &elements);
        nl_free(&nl);
        return r;
}

static int take_element(void *opaque, const struct nft_element *element)
{
        struct nft_element *ret = opaque;

        memcpy(ret->data, element->data, sizeof(ret->data));
        return 0;
}

int nft_get_element(int sock, const char *table, const struct nft_set *set, struct nft_element *element)
{
        struct elements elements = { .set = set, .fn = take_element, .opaque = element };
        struct nl nl = { 0 };
        int r;

        change_element(&nl, NFT_MSG_GETSETELEM, 0, table, set, element);
        r = nl_ask(sock, &nl, take_elements, &elements);
        nl_free(&nl);
        return r;
}

struct chains {
        int (*fn)(void *opaque, const char *table, const char *chain, u8 family, u32 hook, u32 policy);
        void *opaque;
};

static u32 be32_of(const struct nlattr *attribute)
{
        u32 v;

        memcpy(&v, nl_value(attribute), sizeof(v));
        return ntohl(v);
}

static int take_chain(void *opaque, const struct nlmsghdr *message)
{
        const struct nfgenmsg *head = NLMSG_DATA(message);
        const struct chains *chains = opaque;
        const struct nlattr *table, *name, *policy, *hook, *number;

        table = nl_attribute(message, sizeof(*head), NFTA_CHAIN_TABLE, 1);
        name = nl_attribute(message, sizeof(*head), NFTA_CHAIN_NAME, 1);
        policy = nl_attribute(message, sizeof(*head), NFTA_CHAIN_POLICY, sizeof(u32));
        hook = nl_attribute(message, sizeof(*head), NFTA_CHAIN_HOOK, 0);
        number = hook ? nl_find(nl_value(hook), nl_value_len(hook), NFTA_HOOK_HOOKNUM, sizeof(u32)) : NULL;
        if (!table || !name || !policy || !number)
                return 0;
        return chains->fn(
                chains->opaque, nl_value(table), nl_value(name), head->nfgen_family, be32_of(number), be32_of(policy));
}

int nft_list_base_chains(int sock,
        int (*fn)(void *opaque, const char *table, const char *chain, u8 family, u32 hook, u32 policy), void *opaque)
{
        const struct nfgenmsg all = { .nfgen_family = NFPROTO_UNSPEC, .version = NFNETLINK_V0 };
        struct chains chains = { .fn = fn, .opaque = opaque };
        struct nl nl = { 0 };
        int r;

        nl_begin(&nl, (u16)(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN), 0, &all, sizeof(all));
        r = nl_dump(sock, &nl, take_chain, &chains);
        nl_free(&nl);
        return r;
}

/* nf_tables messages (linux/netfilter/nf_tables.h): one table with its chains, rules, sets and elements, changed in
 * transactions. Between nft_begin and nft_commit any of the others; the kernel takes all of it or nothing.
 * ADR 50 says why this is not libnftables. */
#pragma once

#include <netinet/in.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "nl.h"

/* What an expression of a rule is made of. Registers are numbered in units of 32 bits, 0 to 15. */
struct nft_expr {
        void (*put)(struct nl *nl, const struct nft_expr *expr); /* NULL: the end of the rule */
        const char *name;                                        /* the kernel's word for it */
        const char *text;                                        /* a set, a chain */
        u32 reg, a, b, c;
        const void *data;
        size_t len;
};

/* The values that a rule begins with go into registers ... */
#define NFT_META(r, key)                                                    \
        {                                                                   \
                .put = nft_put_meta, .name = "meta", .reg = (r), .a = (key) \
        }
#define NFT_CT(r, key)                                                  \
        {                                                               \
                .put = nft_put_ct, .name = "ct", .reg = (r), .a = (key) \
        }
#define NFT_PAYLOAD(r, base, off, size)                                                                     \
        {                                                                                                   \
                .put = nft_put_payload, .name = "payload", .reg = (r), .a = (base), .b = (off), .c = (size) \
        }
#define NFT_FIB_TYPE_OF_DADDR(r)                              \
        {                                                     \
                .put = nft_put_fib, .name = "fib", .reg = (r) \
        }
/* ... are compared (the rule ends where that fails) or looked up ... */
#define NFT_CMP(r, op, bytes, size)                                                                      \
        {                                                                                                \
                .put = nft_put_cmp, .name = "cmp", .reg = (r), .a = (op), .data = (bytes), .len = (size) \
        }
#define NFT_HAS_BITS(r, mask)                                                   \
        {                                                                       \
                .put = nft_put_mask, .name = "bitwise", .reg = (r), .a = (mask) \
        }
#define NFT_IN(r, set)                                                             \
        {                                                                          \
                .put = nft_put_lookup, .name = "lookup", .reg = (r), .text = (set) \
        }
#define NFT_NOT_IN(r, set)                                                                                \
        {                                                                                                 \
                .put = nft_put_lookup, .name = "lookup", .reg = (r), .text = (set), .b = NFT_LOOKUP_F_INV \
        }
#define NFT_MAP(r, map, to)                                                                           \
        {                                                                                             \
                .put = nft_put_lookup, .name = "lookup", .reg = (r), .text = (map), .a = 1, .c = (to) \
        }
/* ... written into ... */
#define NFT_VALUE(r, bytes, size)                                                                     \
        {                                                                                             \
                .put = nft_put_value, .name = "immediate", .reg = (r), .data = (bytes), .len = (size) \
        }
/* (two bytes of the transport header, and where its checksum is) */
#define NFT_WRITE_PORT(r, off, checksum)                                                              \
        {                                                                                             \
                .put = nft_put_write_port, .name = "payload", .reg = (r), .a = (off), .b = (checksum) \
        }
/* ... and something is done. */
#define NFT_VERDICT(code, chain)                                                               \
        {                                                                                      \
                .put = nft_put_verdict, .name = "immediate", .a = (u32)(code), .text = (chain) \
        }
#define NFT_DNAT(family, address, port)                                                          \
        {                                                                                        \
                .put = nft_put_dnat, .name = "nat", .reg = (address), .a = (family), .b = (port) \
        }
#define NFT_MASQUERADE                                    \
        {                                                 \
                .put = nft_put_masquerade, .name = "masq" \
        }
#define NFT_END   \
        {         \
                0 \
        }

void nft_put_meta(struct nl *nl, const struct nft_expr *expr);
void nft_put_ct(struct nl *nl, const struct nft_expr *expr);
void nft_put_payload(struct nl *nl, const struct nft_expr *expr);
void nft_put_fib(struct nl *nl, const struct nft_expr *expr);
void nft_put_cmp(struct nl *nl, const struct nft_expr *expr);
void nft_put_mask(struct nl *nl, const struct nft_expr *expr);
void nft_put_lookup(struct nl *nl, const struct nft_expr *expr);
void nft_put_value(struct nl *nl, const struct nft_expr *expr);
void nft_put_write_port(struct nl *nl, const struct nft_expr *expr);
void nft_put_verdict(struct nl *nl, const struct nft_expr *expr);
void nft_put_dnat(struct nl *nl, const struct nft_expr *expr);
void nft_put_masquerade(struct nl *nl, const struct nft_expr *expr);

struct nft_chain {
        const char *name;
        const char *type; /* "filter", "nat"; NULL: no base chain, others jump to it */
        u32 hook;
        s32 priority;
};

/* Data types as nft(8) numbers them, so that it can print what is here; a key of several is their numbers, six bits
 * each. */
enum nft_type {
        NFT_TYPE_NFPROTO = 2,
        NFT_TYPE_IPV4 = 7,
        NFT_TYPE_IPV6 = 8,
        NFT_TYPE_L4PROTO = 12,
        NFT_TYPE_PORT = 13,
        NFT_TYPE_IFNAME = 41
};
#define NFT_CONCAT(a, b) ((u32)(a) << 6 | (u32)(b))

struct nft_set {
        const char *name;
        u32 key_type, key_len;
        u32 data_type, data_len; /* 0: a set, not a map */
};

void nft_begin(struct nl *nl);
void nft_add_table(struct nl *nl, const char *table);
void nft_delete_table(struct nl *nl, const char *table);
void nft_add_chain(struct nl *nl, const char *table, const struct nft_chain *chain);
void nft_add_rule(struct nl *nl, const char *table, const char *chain, const struct nft_expr *exprs);
void nft_add_set(struct nl *nl, const char *table, const struct nft_set *set);

struct nft_element {
        u8 key[32];
        u8 data[32];
        const char *comment; /* NULL: none; cut to what fits */
};
/* -EEXIST from nft_commit when @exclusive and a map has the key. */
void nft_add_element(
        struct nl *nl, const char *table, const struct nft_set *set, const struct nft_element *element, bool exclusive);
/* -ENOENT from nft_commit when it is not there. */
void nft_delete_element(struct nl *nl, const char *table, const struct nft_set *set, const struct nft_element *element);
void nft_flush_set(struct nl *nl, const char *table, const struct nft_set *set);

int nft_commit(int sock, struct nl *nl);

/* 0; -ENOENT. */
int nft_find_table(int sock, const char *table);
/* Fills in the data of the element with that key. -ENOENT. */
int nft_get_element(int sock, const char *table, const struct nft_set *set, struct nft_element *element);
/* Calls @fn for each element, whose comment is not filled in. */
int nft_list_elements(int sock, const char *table, const struct nft_set *set,
        int (*fn)(void *opaque, const struct nft_element *element), void *opaque);
/* Calls @fn for each base chain of all tables: that of @family at @hook with @policy (NF_DROP, NF_ACCEPT). */
int nft_list_base_chains(int sock,
        int (*fn)(void *opaque, const char *table, const char *chain, u8 family, u32 hook, u32 policy), void *opaque);

/* Netlink: messages with nested attributes, built in one buffer and sent together (netlink(7)).
 *
 *         struct nl nl = { 0 };
 *         nl_begin(&nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
 *         nl_put_string(&nl, IFLA_IFNAME, "br0");
 *         at = nl_nest(&nl, IFLA_LINKINFO);
 *         nl_put_string(&nl, IFLA_INFO_KIND, "bridge");
 *         nl_end(&nl, at);
 *         r = nl_send(fd, &nl);
 *         nl_free(&nl);
 *
 * Running out of memory is remembered and reported by nl_send. */
#pragma once

#include <linux/netlink.h>

#include "base/err.h"

struct nl {
        u8 *data;
        size_t len, cap;
        size_t message; /* where the last one begins */
        u32 n;          /* messages so far */
        bool failed;
        int index; /* after nl_send failed: which message the kernel refused, from 0; -1: none in particular */
};

/* A socket for @protocol (NETLINK_ROUTE, NETLINK_NETFILTER) in the thread's network namespace. */
int nl_open(int protocol, int *ret, struct err **err);

/* Begins a message whose fixed header is @head. NLM_F_REQUEST is added. */
void nl_begin(struct nl *nl, u16 type, u16 flags, const void *head, size_t head_len);
void nl_put(struct nl *nl, u16 type, const void *data, size_t len);
void nl_put_u8(struct nl *nl, u16 type, u8 v);
void nl_put_u16(struct nl *nl, u16 type, u16 v);
void nl_put_u32(struct nl *nl, u16 type, u32 v);
/* In network order, as nf_tables wants. */
void nl_put_be32(struct nl *nl, u16 type, u32 v);
void nl_put_string(struct nl *nl, u16 type, const char *text);
/* Opens a nested attribute; nl_end with what it returned closes it. */
size_t nl_nest(struct nl *nl, u16 type);
void nl_end(struct nl *nl, size_t at);
/* A further fixed header inside a nested attribute (IFLA_INFO_DATA of veth). */
void nl_put_raw(struct nl *nl, const void *data, size_t len);
void nl_free(struct nl *nl);

/* Sends all messages. 0 when the kernel took every one, else its first error; nothing is left in the buffer. */
int nl_send(int fd, struct nl *nl);
/* The same; @fn gets what the kernel answers beside that. */
int nl_ask(int fd, struct nl *nl, int (*fn)(void *opaque, const struct nlmsghdr *message), void *opaque);
/* Sends one request for a list and calls @fn for every message that comes back, until it returns other than 0: returns
 * that. */
int nl_dump(int fd, struct nl *nl, int (*fn)(void *opaque, const struct nlmsghdr *message), void *opaque);

/* The attribute @type of those at @data, or NULL; one shorter than @min is not there. */
const struct nlattr *nl_find(const void *data, size_t len, u16 type, size_t min);
/* ... of a message whose fixed header has @head_len bytes. */
const struct nlattr *nl_attribute(const struct nlmsghdr *message, size_t head_len, u16 type, size_t min);
static inline const void *nl_value(const struct nlattr *attribute)
{
        return (const u8 *)attribute + NLA_HDRLEN;
}
static inline size_t nl_value_len(const struct nlattr *attribute)
{
        return attribute->nla_len - (size_t)NLA_HDRLEN;
}

/* Messages of the domain name system (RFC 1035), as far as a resolver between containers and the host's servers needs
 * them. Whatever comes in may be anything; nothing here reads outside of what it is given. */
#pragma once

#include "net/addr.h"

enum {
        DNS_HEADER = 12,
        DNS_MESSAGE_MAX = 4096, /* what we take and give by UDP */
        DNS_NAME_MAX = 254,     /* as text */
        DNS_TTL = 10,           /* seconds: containers come and go */
};

enum dns_type { DNS_A = 1, DNS_PTR = 12, DNS_AAAA = 28 };
enum dns_rcode {
        DNS_OK = 0,
        DNS_FORMAT_ERROR = 1,
        DNS_SERVER_FAILURE = 2,
        DNS_NO_SUCH_NAME = 3,
        DNS_NOT_IMPLEMENTED = 4
};

struct dns_question {
        char name[DNS_NAME_MAX + 1]; /* lower case, no dot at the end; "" for the root */
        bool is_plain;               /* letters, digits, "_.-" alone, no dot in front: may be a file's name */
        u16 type, class;
        size_t end; /* where the question ends in the message */
};

/* The question of a query. 0; -EBADMSG: no query, nothing can be answered; -EINVAL: to be answered with
 * DNS_FORMAT_ERROR, -ENOSYS: with DNS_NOT_IMPLEMENTED (@ret->end says what of it can be repeated). */
int dns_parse_query(const u8 *message, size_t len, struct dns_question *ret);

struct dns_answer {
        enum dns_rcode rcode;
        const struct ip *addresses; /* those of the type that was asked for are given */
        size_t n;
        const char *name; /* for PTR; NULL: none */
        bool cut;         /* by TCP there would be more */
};
/* Writes the answer to @query into @out. Returns its length, at most @size (at least DNS_HEADER). */
size_t dns_write_answer(
        const u8 *query, const struct dns_question *question, const struct dns_answer *answer, u8 *out, size_t size);

/* Whether @reply answers @query: same number, same question. */
bool dns_is_reply(const u8 *reply, size_t reply_len, const u8 *query, const struct dns_question *question);

/* The address that a name below in-addr.arpa or ip6.arpa stands for; -EINVAL. */
int dns_reverse(const char *name, struct ip *ret);

static inline u16 dns_get16(const u8 *p)
{
        return (u16)(p[0] << 8 | p[1]);
}

static inline void dns_put16(u8 *p, unsigned v)
{
        p[0] = (u8)(v >> 8);
        p[1] = (u8)v;
}

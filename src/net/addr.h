/* Internet addresses and prefixes of both families as values. */
#pragma once

#include <netinet/in.h>

#include "base/types.h"

struct ip {
        u8 len; /* of bytes: 4, 16; 0: none */
        u8 bytes[16];
};

struct cidr {
        struct ip ip; /* bits behind the prefix are 0 in a subnet */
        u8 bits;
};

struct ip_text {
        char text[INET6_ADDRSTRLEN];
};

/* 0, or -EINVAL. Nothing but an address: no zone, no blanks. */
int ip_parse(const char *text, struct ip *ret);
/* "" for none. */
struct ip_text ip_format(const struct ip *ip);
bool ip_equal(const struct ip *a, const struct ip *b);
bool ip_is_loopback(const struct ip *ip);
/* The address @n behind @ip; wraps. */
struct ip ip_plus(const struct ip *ip, u64 n);

/* "ADDRESS/BITS": 0, or -EINVAL; bits behind the prefix must be 0. */
int cidr_parse(const char *text, struct cidr *ret);
bool cidr_contains(const struct cidr *cidr, const struct ip *ip);
bool cidr_overlaps(const struct cidr *a, const struct cidr *b);
/* @ip with all but the first @bits cleared. */
struct cidr cidr_of(const struct ip *ip, u8 bits);
/* How many addresses it has; UINT64_MAX for more than fit. */
u64 cidr_size(const struct cidr *cidr);
/* The all-ones address of an IPv4 subnet that has one (up to /30), which no host may have. */
bool cidr_is_broadcast(const struct cidr *cidr, const struct ip *ip);

/* "AA:BB:CC:DD:EE:FF", one that a network card may have (no group address). */
int mac_parse(const char *text, u8 ret[6]);
struct mac_text {
        char text[18];
} mac_format(const u8 mac[6]);

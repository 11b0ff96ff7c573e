#include "addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int family_of(const struct ip *ip)
{
        return ip->len == 4 ? AF_INET : AF_INET6;
}

int ip_parse(const char *text, struct ip *ret)
{
        struct ip ip = { 0 };

        ip.len = strchr(text, ':') ? 16 : 4;
        if (inet_pton(family_of(&ip), text, ip.bytes) != 1)
                return -EINVAL;
        *ret = ip;
        return 0;
}

struct ip_text ip_format(const struct ip *ip)
{
        struct ip_text t = { "" };

        if (ip->len)
                inet_ntop(family_of(ip), ip->bytes, t.text, sizeof(t.text));
        return t;
}

bool ip_equal(const struct ip *a, const struct ip *b)
{
        return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

bool ip_is_loopback(const struct ip *ip)
{
        static const u8 one[16] = { [15] = 1 };

        return ip->len == 4 ? ip->bytes[0] == 127 : ip->len == 16 && memcmp(ip->bytes, one, 16) == 0;
}

struct ip ip_plus(const struct ip *ip, u64 n)
{
        struct ip sum = *ip;

        for (int i = ip->len - 1; i >= 0 && n; i--) {
                n += sum.bytes[i];
                sum.bytes[i] = (u8)n;
                n >>= 8;
        }
        return sum;
}

struct cidr cidr_of(const struct ip *ip, u8 bits)
{
        struct cidr cidr = { .ip = *ip, .bits = bits };

        for (unsigned i = 0; i < ip->len; i++) {
                const unsigned keep = bits > i * 8 ? MIN(bits - i * 8, 8U) : 0;

                cidr.ip.bytes[i] &= (u8)(0xff00U >> keep);
        }
        return cidr;
}

int cidr_parse(const char *text, struct cidr *ret)
{
        const char *slash = strchr(text, '/');
        char address[INET6_ADDRSTRLEN], *end;
        struct cidr cidr, clean;
        unsigned long bits;

        if (!slash || slash - text >= (ptrdiff_t)sizeof(address) || slash[1] < '0' || slash[1] > '9')
                return -EINVAL;
        memcpy(address, text, (size_t)(slash - text));
        address[slash - text] = '\0';
        bits = strtoul(slash + 1, &end, 10);
        if (*end || ip_parse(address, &cidr.ip) < 0 || bits > cidr.ip.len * 8U)
                return -EINVAL;
        clean = cidr_of(&cidr.ip, (u8)bits);
        if (!ip_equal(&clean.ip, &cidr.ip))
                return -EINVAL;
        *ret = clean;
        return 0;
}

bool cidr_contains(const struct cidr *cidr, const struct ip *ip)
{
        const struct cidr other = cidr_of(ip, cidr->bits);

        return ip->len == cidr->ip.len && ip_equal(&other.ip, &cidr->ip);
}

bool cidr_overlaps(const struct cidr *a, const struct cidr *b)
{
        return a->bits <= b->bits ? cidr_contains(a, &b->ip) : cidr_contains(b, &a->ip);
}

u64 cidr_size(const struct cidr *cidr)
{
        const unsigned host_bits = cidr->ip.len * 8U - cidr->bits;

        return host_bits >= 64 ? UINT64_MAX : BIT(host_bits);
}

bool cidr_is_broadcast(const struct cidr *cidr, const struct ip *ip)
{
        const struct ip last = ip_plus(&cidr->ip, cidr_size(cidr) - 1);

        return cidr->ip.len == 4 && cidr->bits <= 30 && ip_equal(&last, ip);
}

int mac_parse(const char *text, u8 ret[6])
{
        unsigned b[6];
        char rest;

        if (strlen(text) != 17 ||
                sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &rest) != 6 ||
                b[0] & 1)
                return -EINVAL;
        for (int i = 0; i < 6; i++)
                ret[i] = (u8)b[i];
        return 0;
}

struct mac_text mac_format(const u8 mac[6])
{
        struct mac_text t;

        snprintf(t.text, sizeof(t.text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                mac[5]);
        return t;
}

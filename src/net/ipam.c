/* Addresses: who creates the link run/addresses/KEY/ADDRESS has it. The next one is tried behind the last that was
 * given, so that finding one costs the same with a thousand containers, and an address comes back as late as possible.
 * */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

enum { TRIES_MAX = 1 << 20 };

struct dir_path {
        char text[sizeof(DIR_ADDRESSES) + KEY_LEN + 8];
};

static struct dir_path dir_of(const char *key, const char *suffix)
{
        struct dir_path p;

        snprintf(p.text, sizeof(p.text), DIR_ADDRESSES "/%.12s%.6s", key, suffix);
        return p;
}

static bool is_usable(const struct subnet *subnet, const struct ip *ip)
{
        return cidr_contains(&subnet->cidr, ip) && !ip_equal(ip, &subnet->cidr.ip) && !ip_equal(ip, &subnet->gateway) &&
               !cidr_is_broadcast(&subnet->cidr, ip);
}

/* -EEXIST */
static int take_one(int dir, const struct ip *ip, const char *owner)
{
        return symlinkat(owner, dir, ip_format(ip).text) < 0 ? -errno : 0;
}

/* Where the search begins. A torn or racing read is as good as any number. */
static u64 read_hint(int fd)
{
        u64 hint = 1;

        return pread(fd, &hint, sizeof(hint), 0) == sizeof(hint) ? hint : 1;
}

static int take_next(struct net_store *store, const struct network *network, int dir, const struct subnet *subnet,
        const char *owner, struct ip *ret)
{
        _cleanup_close_ int hint_fd =
                openat(store->run, dir_of(network->key, subnet->cidr.ip.len == 4 ? ".next" : ".next6").text,
                        O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        const u64 size = cidr_size(&subnet->range);
        u64 offset;

        if (hint_fd < 0)
                return -errno;
        offset = read_hint(hint_fd);
        for (u64 i = 0; i < MIN(size, (u64)TRIES_MAX); i++, offset++) {
                const struct ip ip = ip_plus(&subnet->range.ip, offset % size);
                int r;

                if (!is_usable(subnet, &ip))
                        continue;
                r = take_one(dir, &ip, owner);
                if (r == -EEXIST)
                        continue;
                if (r == 0) {
                        offset = offset % size + 1;
                        if (pwrite(hint_fd, &offset, sizeof(offset), 0) < 0)
                                return -errno;
                        *ret = ip;
                }
                return r;
        }
        return -ENOSPC;
}

int ipam_take(struct net_store *store, const struct network *network, int family, const struct ip *wanted,
        const char *container, const char *name, struct ip *ret, struct err **err)
{
        const struct subnet *subnet = &network->subnet[family];
        _cleanup_close_ int dir = -1;
        char owner[2 * CONTAINER_MAX + 2];
        int r = store_open_dir(store->run, dir_of(network->key, "").text, &dir, err);

        if (r < 0)
                return r;
        snprintf(owner, sizeof(owner), "%.128s %.128s", container, name);
        if (!wanted->len) {
                r = take_next(store, network, dir, subnet, owner, ret);
                if (r == -ENOSPC)
                        return err_hint(err,
                                err_set(err, ERR_BUSY, ENOSPC, "the network '%s' has no free address",
                                        network->pub.name),
                                "a network with a larger --subnet has more");
                return r < 0 ? err_sys(err, -r, "choosing an address") : 0;
        }
        if (!is_usable(subnet, wanted))
                return err_set(err, ERR_USAGE, EINVAL, "the address %s is none for a container on the network '%s'",
                        ip_format(wanted).text, network->pub.name);
        r = take_one(dir, wanted, owner);
        if (r == -EEXIST)
                return err_set(err, ERR_BUSY, EADDRINUSE, "the address %s is in use on the network '%s'",
                        ip_format(wanted).text, network->pub.name);
        if (r < 0)
                return err_sys(err, -r, "taking the address %s", ip_format(wanted).text);
        *ret = *wanted;
        return 0;
}

void ipam_release(struct net_store *store, const char *key, const struct ip *address, const char *container)
{
        char path[sizeof(struct dir_path) + INET6_ADDRSTRLEN + 1], owner[2 * CONTAINER_MAX + 2];
        const size_t n = strlen(container);

        if (!address->len)
                return;
        snprintf(path, sizeof(path), "%s/%s", dir_of(key, "").text, ip_format(address).text);
        if (store_read_link(store->run, path, owner, sizeof(owner)) > (int)n && strncmp(owner, container, n) == 0 &&
                owner[n] == ' ')
                unlinkat(store->run, path, 0);
}

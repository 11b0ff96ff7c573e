#include "lookup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { KEY_LEN = 12, PATH_LEN = 512 };

struct entry {
        u64 ino;
        s64 off;
        u16 reclen;
        u8 type;
        char name[];
};

/* Calls @fn for each name in the directory until it returns other than 0. (readdir would take 32 KiB for it.) */
static int each_name(int dirfd, const char *path, int (*fn)(void *opaque, int dirfd, const char *name), void *opaque)
{
        _cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        u8 buf[1024] __attribute__((aligned(8)));
        int r = 0;

        while (fd >= 0 && r == 0) {
                const long n = syscall(SYS_getdents64, fd, buf, sizeof(buf));

                if (n <= 0)
                        break;
                for (long at = 0; at < n && r == 0; at += ((struct entry *)(buf + at))->reclen) {
                        const char *name = ((struct entry *)(buf + at))->name;

                        if (name[0] != '.')
                                r = fn(opaque, fd, name);
                }
        }
        return r;
}

/* @parts, one behind the other; false when that is too long. */
static bool join(char ret[PATH_LEN], const char *const *parts)
{
        size_t at = 0;

        for (; *parts; parts++) {
                const size_t n = strlen(*parts);

                if (n >= PATH_LEN - at)
                        return false;
                memcpy(ret + at, *parts, n);
                at += n;
        }
        ret[at] = '\0';
        return true;
}

struct networks {
        char key[NETWORKS_MAX][KEY_LEN + 1];
        size_t n;
};

static int take_network(void *opaque, int dirfd, const char *file)
{
        struct networks *networks = opaque;

        if (strlen(file) != KEY_LEN + 5 || strcmp(file + KEY_LEN, ".json") != 0)
                return 0;
        memcpy(networks->key[networks->n], file, KEY_LEN);
        networks->key[networks->n++][KEY_LEN] = '\0';
        return networks->n == NETWORKS_MAX;
}

static void networks_of(const struct lookup *lookup, struct networks *ret)
{
        char path[PATH_LEN];

        ret->n = 0;
        if (join(path, (const char *const[]){ "endpoints/", lookup->container, NULL }))
                each_name(lookup->run, path, take_network, ret);
}

struct found {
        struct ip *ip;
        size_t n;
};

/* A link to "ADDRESS[ ADDRESS]". */
static int take_addresses(void *opaque, int dirfd, const char *container)
{
        struct found *found = opaque;
        char target[2 * INET6_ADDRSTRLEN + 2], *rest = target, *one;
        const ssize_t n = readlinkat(dirfd, container, target, sizeof(target) - 1);

        if (n <= 0)
                return 0;
        target[n] = '\0';
        while (found->n < ADDRESSES_MAX && (one = strsep(&rest, " ")))
                if (*one && ip_parse(one, &found->ip[found->n]) == 0)
                        found->n++;
        return found->n == ADDRESSES_MAX;
}

size_t lookup_name(const struct lookup *lookup, const char *name, struct ip ret[ADDRESSES_MAX])
{
        struct found found = { .ip = ret };
        struct networks networks;
        char path[PATH_LEN];

        networks_of(lookup, &networks);
        for (size_t i = 0; i < networks.n; i++)
                if (join(path, (const char *const[]){ "names/", networks.key[i], "/", name, NULL }))
                        each_name(lookup->run, path, take_addresses, &found);
        return found.n;
}

bool lookup_address(const struct lookup *lookup, const struct ip *ip, char *ret, size_t size)
{
        const struct ip_text text = ip_format(ip);
        struct networks networks;
        char path[PATH_LEN], target[PATH_LEN];

        networks_of(lookup, &networks);
        for (size_t i = 0; i < networks.n; i++) {
                ssize_t n;
                char *name;

                if (!join(path, (const char *const[]){ "addresses/", networks.key[i], "/", text.text, NULL }))
                        continue;
                n = readlinkat(lookup->run, path, target, sizeof(target) - 1);
                if (n <= 0)
                        continue;
                target[n] = '\0';
                name = strchr(target, ' '); /* "CONTAINER NAME" */
                if (!name || !name[1] || strlen(name + 1) >= size)
                        continue;
                memcpy(ret, name + 1, strlen(name + 1) + 1);
                return true;
        }
        return false;
}

bool lookup_may_ask_outside(const struct lookup *lookup)
{
        struct networks networks;
        char path[PATH_LEN];

        networks_of(lookup, &networks);
        for (size_t i = 0; i < networks.n; i++)
                if (join(path, (const char *const[]){ "names/", networks.key[i], "/.internal", NULL }) &&
                        faccessat(lookup->run, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                        return true;
        return false;
}

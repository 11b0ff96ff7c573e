/* Names: run/names/KEY/NAME/CONTAINER, a link to "ADDRESS[ ADDRESS]". The resolvers look them up at every question, so
 * that there is nobody to tell of a change. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct name_path {
        char text[sizeof(DIR_NAMES) + KEY_LEN + 260];
};

static struct name_path path_of(const struct endpoint *endpoint, const char *name)
{
        struct name_path p;
        const int at = snprintf(p.text, sizeof(p.text), DIR_NAMES "/%.12s/", endpoint->key);

        snprintf(p.text + at, sizeof(p.text) - (size_t)at, "%.250s", name);
        for (char *c = p.text + at; *c; c++) /* names are compared without regard to case, RFC 4343 */
                if (*c >= 'A' && *c <= 'Z')
                        *c = (char)(*c + 'a' - 'A');
        return p;
}

static int add_one(int run, const char *dir, const char *container, const char *addresses)
{
        char path[sizeof(struct name_path) + CONTAINER_MAX + 2];

        snprintf(path, sizeof(path), "%s/%.128s", dir, container);
        /* The directory goes with the last who has the name: then it is made again. */
        for (int i = 0; i < 100; i++) {
                if (mkdirat(run, dir, 0755) < 0 && errno != EEXIST)
                        return -errno;
                if (symlinkat(addresses, run, path) == 0 || errno == EEXIST)
                        return 0;
                if (errno != ENOENT)
                        return -errno;
        }
        return -EAGAIN;
}

int names_add(struct net_store *store, const struct endpoint *endpoint, struct err **err)
{
        char addresses[2 * INET6_ADDRSTRLEN + 2], dir[sizeof(DIR_NAMES) + KEY_LEN + 16];

        snprintf(addresses, sizeof(addresses), "%s%s%s", ip_format(&endpoint->ip[V4]).text,
                endpoint->ip[V6].len ? " " : "", ip_format(&endpoint->ip[V6]).text);
        snprintf(dir, sizeof(dir), DIR_NAMES "/%.12s", endpoint->key);
        if (mkdirat(store->run, dir, 0755) < 0 && errno != EEXIST)
                return err_sys(err, errno, "adding names");
        /* the resolver then asks nobody outside */
        if (endpoint->internal && symlinkat("-", store->run, strcat(dir, "/.internal")) < 0 && errno != EEXIST)
                return err_sys(err, errno, "adding names");
        for (const char **name = endpoint->names; name && *name; name++) {
                const int r = add_one(store->run, path_of(endpoint, *name).text, endpoint->container, addresses);

                if (r < 0)
                        return err_sys(err, -r, "adding the name '%s'", *name);
        }
        return 0;
}

void names_remove(struct net_store *store, const struct endpoint *endpoint)
{
        for (const char **name = endpoint->names; name && *name; name++) {
                const struct name_path dir = path_of(endpoint, *name);
                char path[sizeof(dir) + CONTAINER_MAX + 2];

                snprintf(path, sizeof(path), "%s/%.128s", dir.text, endpoint->container);
                unlinkat(store->run, path, 0);
                unlinkat(store->run, dir.text, AT_REMOVEDIR);
        }
}

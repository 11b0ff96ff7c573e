/* Starting and finding the process that answers names in a container: strata-resolve (resolve/). */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "attach.h"
#include "helper.h"

#define KIND    "dns"
#define PROGRAM "strata-resolve"

enum { ARGS_MAX = 16 };

int resolver_start(
        struct net_store *store, const struct endpoint *endpoint, const struct inside *inside, struct err **err)
{
        _cleanup_free_ char *program = helper_program(PROGRAM);
        _cleanup_close_ int lock = -1, pidfd = -1;
        const char *argv[ARGS_MAX + 4];
        struct ip_text asker;
        size_t n = 0;
        pid_t child;
        int r;

        if (!program)
                return err_hint(err,
                        err_set(err, ERR_NOT_FOUND, ENOENT,
                                "the program '" PROGRAM "', which answers names, is missing"),
                        "it belongs beside strata");
        r = helper_open(store, endpoint->container, KIND, &lock, err);
        if (r < 0)
                return r;
        if (endpoint->pid > 0)
                pidfd = (int)syscall(SYS_pidfd_open, endpoint->pid, 0);
        argv[n++] = program;
        argv[n++] = endpoint->container;
        asker = resolver_is_service(endpoint) ? ip_format(&endpoint->ip[V4]) : (struct ip_text){ "-" };
        argv[n++] = asker.text;
        for (const char **servers = endpoint->servers; servers && *servers && n < ARGS_MAX; servers++) {
                struct ip ip;

                if (ip_parse(*servers, &ip) < 0)
                        return err_set(err, ERR_USAGE, EINVAL, "'%s' is no address of a name server", *servers);
                argv[n++] = *servers;
        }
        argv[n] = NULL;
        /* the order that resolve/main.c knows */
        return helper_spawn(
                argv, (const int[]){ inside->udp, inside->tcp, store->run, lock, pidfd }, 5, -1, &child, err);
}

bool resolver_is_service(const struct endpoint *endpoint)
{
        return *endpoint->dns && !*endpoint->ifname; /* pasta's endpoints have an interface, taps have none inside */
}

bool resolver_runs(struct net_store *store, const char *container)
{
        pid_t pid;

        return helper_find(store, container, KIND, &pid) == 0;
}

void resolver_stop(struct net_store *store, const char *container)
{
        helper_stop(store, container, KIND);
}

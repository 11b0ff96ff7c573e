#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

struct network {
        struct instance *inst;
        int fd;
        char path[64];
};

struct network *network_close(struct network *network)
{
        if (!network)
                return NULL;
        closep(&network->fd);
        free(network);
        return NULL;
}

const char *network_path(const struct network *network)
{
        return network->path[0] ? network->path : NULL;
}

static bool is_mode(const struct instance *inst, const char *mode)
{
        return inst->config.network_mode && strcmp(inst->config.network_mode, mode) == 0;
}

/* A new network namespace; this process stays in its own. */
static int make_namespace(int *ret, struct err **err)
{
        _cleanup_close_ int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), fd = -1;

        if (own < 0 || unshare(CLONE_NEWNET) < 0)
                return err_sys(err, errno, "making a network namespace");
        fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        if (setns(own, CLONE_NEWNET) < 0 || fd < 0)
                return err_sys(err, errno, "making a network namespace");
        *ret = TAKE_FD(fd);
        return 0;
}

int network_connect(struct instance *inst, const char *hostname, struct network **ret, struct err **err)
{
        _cleanup_(network_closep) struct network *network = calloc(1, sizeof(*network));
        int r = 0;

        if (!network)
                return err_sys(err, ENOMEM, "connecting to networks");
        network->inst = inst;
        network->fd = -1;
        if (!is_mode(inst, "host")) {
                r = make_namespace(&network->fd, err);
                if (r == 0)
                        snprintf(network->path, sizeof(network->path), "/proc/self/fd/%d", network->fd);
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(network);
        return 0;
}

int network_texts(struct network *network, const char *hostname, char **ret_hosts, char **ret_resolv, struct err **err)
{
        if (asprintf(ret_hosts, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t%s\n", hostname) < 0) {
                *ret_hosts = NULL;
                return err_sys(err, ENOMEM, "writing /etc/hosts");
        }
        *ret_resolv = NULL;
        return 0;
}

int network_disconnect(struct instance *inst, struct err **err)
{
        return 0;
}

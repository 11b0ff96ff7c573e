#include "dev/net/net.h"

#include <errno.h>
#include <stdlib.h>

struct net_backend *net_backend_free(struct net_backend *backend)
{
        if (backend)
                backend->ops->destroy(backend);
        return NULL;
}

/* ---- "none": a cable that is not plugged in ---- */

static int none_send(struct net_backend *backend, const struct iovec *iov, unsigned n)
{
        (void)backend;
        (void)iov;
        (void)n;
        return -ENETDOWN;
}

static void none_receive_ready(struct net_backend *backend)
{
        (void)backend;
}

static void none_destroy(struct net_backend *backend)
{
        free(backend);
}

static const struct net_backend_ops none_ops = {
        .name = "none", .send = none_send, .receive_ready = none_receive_ready, .destroy = none_destroy,
};

int net_none_new(struct device_env *env, struct net_backend **ret, struct err **err)
{
        struct net_backend *backend = calloc(1, sizeof(*backend));

        (void)env;
        if (!backend)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a network");
        backend->ops = &none_ops;
        *ret = backend;
        return 0;
}

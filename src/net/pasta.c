/* The default network of a user who is not root: passt's pasta, a process that answers for the container's packets with sockets of
 * the host (pasta(1)). It ends when the namespace does. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "attach.h"
#include "base/clock.h"
#include "helper.h"

#define KIND "pasta"

bool pasta_runs(struct net_store *store, const char *container)
{
        return false;
}

void pasta_stop(struct net_store *store, const char *container)
{
}

int pasta_start(struct net_store *store, const struct net_attach_request *request, struct endpoint *endpoint, struct err **err)
{
        return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "not yet");
}

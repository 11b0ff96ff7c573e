/* An instance's place in networks: its namespace, its endpoints, the files that name them. */
#pragma once

#include "internal.h"

struct net_store;
struct network;

/* Makes the network namespace, or finds the one to be joined, and puts it on its networks. On failure nothing is left. */
int network_connect(struct instance *inst, const char *hostname, struct network **ret, struct err **err);
/* Whether it may publish ports. */
bool network_publishes(const struct instance *inst);
/* Forgets the handle; the endpoints stay. NULL is fine. Returns NULL. */
struct network *network_close(struct network *network);
static inline void network_closep(struct network **network)
{
        network_close(*network);
}
/* A path of the namespace, valid while the handle is; NULL: the host's. */
const char *network_path(const struct network *network);
/* /etc/hosts and /etc/resolv.conf; the caller's. */
int network_texts(struct network *network, const char *hostname, char **ret_hosts, char **ret_resolv, struct err **err);
/* "none", "host", "container:NAME" or the name of a network: where it is when no list of networks says more. */
const char *network_mode_of(const struct instance *inst);
int network_open_store(const struct instance_host *host, struct net_store **ret, struct err **err);
/* Where the networks are; the caller's. */
char *network_root(const struct instance_host *host);
/* Its name is another now: so it is on its networks. */
void network_rename(struct instance *inst, const char *old_name);
/* Takes the instance off all networks; fine when it is on none. */
int network_disconnect(struct instance *inst, struct err **err);

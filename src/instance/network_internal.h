/* What network.c (containers) and network_vm.c (machines) share. */
#pragma once

#include "net/net.h"
#include "network_vm.h"

#define NETWORKS_MAX 64

struct network {
        struct instance *inst;
        int fd; /* the namespace; -1: the host's, or a machine's */
        char path[64];
        char *joined; /* the directory of the instance whose namespace it is; NULL: its own */
        struct net_attachment *attachment[NETWORKS_MAX];
        size_t n;

        bool machine;               /* its endpoints are taps */
        struct net_attachment user; /* passt's, when that is what a machine has: then the only one */
        struct network_vm_interface interface[NETWORKS_MAX];
        size_t n_interfaces;
};

/* Puts it on all networks of the configuration. On failure on none. */
int network_attach_all(struct network *network, const char *hostname, struct err **err);

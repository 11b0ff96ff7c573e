/* A machine's place in networks: the same bridges, addresses, names and published ports as a container's, but each
 * endpoint ends in a tap for a virtio-net device, and what stands in a container's namespace is told to
 * strata-init. See network.h. */
#pragma once

#include "network.h"

/* One virtio-net device and what strata-init is to set up on it. Texts are "" where there is none. */
struct network_vm_interface {
        int tap_fd; /* for --net fd=N,mac=MAC; -1: --net user (then it is the only one) */
        const char *mac, *ifname;
        unsigned mtu; /* 0: as it is */
        const char *ip, *ip6;
        u8 prefix_len, prefix_len6;
        const char *gateway, *gateway6; /* of the default route; "": it does not go here */
};

/* Puts the machine on its networks, as network_connect does with a container. Modes: none (no interface), the name
 * of a network, a list of them, "user" (passt). "host" and "container:..." are refused. network_texts, network_close
 * and network_disconnect work on it; network_path is NULL. The taps are closed with the handle, and with the last descriptor the interface goes:
 * the machine needs copies. */
int network_vm_connect(struct instance *inst, const char *hostname, struct network **ret, struct err **err);
/* Valid as long as the handle. */
size_t network_vm_interfaces(const struct network *network, const struct network_vm_interface **ret);

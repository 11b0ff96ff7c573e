/* virtio-net: one pair of queues on a network backend. */
#pragma once

#include "dev/net/net.h"
#include "dev/pci.h"

struct virtio_net_config {
        struct net_backend *backend; /* owned by the device from success on */
        u8 mac[6];                   /* all zero: the backend's suggestion, else a fixed local address */
};

int virtio_net_new(struct device_env *env, struct pci_bus *bus, const struct virtio_net_config *config, struct err **err);

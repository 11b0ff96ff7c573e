/* virtio-blk: a disk on a block device. */
#pragma once

#include "dev/pci.h"

struct block_device;

struct virtio_blk_config {
        struct block_device *block; /* owned by the device from success on */
        char serial[21];            /* up to 20 bytes, what the guest reads as GET_ID */
};

int virtio_blk_new(struct device_env *env, struct pci_bus *bus, const struct virtio_blk_config *config, struct err **err);

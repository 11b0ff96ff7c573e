/* virtio-rng: the host's random numbers. */
#pragma once

#include "dev/pci.h"

int virtio_rng_new(struct device_env *env, struct pci_bus *bus, struct err **err);

/* An NVMe 1.4 controller with one namespace, on PCI.
 *
 * The register model, queues and commands follow the NVM Express Base Specification 1.4 ("NVMe" in comments) as far as Linux's and
 * other common drivers use them: PRPs, no SGLs; MSI-X and INTx; flush, write zeroes, deallocate. Data moves straight
 * between the image and guest memory. */
#pragma once

#include "dev/block/block.h"
#include "dev/pci.h"

struct nvme_config {
        struct block_device *disk; /* the controller owns it from nvme_new's success on */
        const char *serial;        /* at most 20 characters; NULL: made up from the slot */
        const char *model;         /* at most 40 characters; NULL: "Strata NVMe disk" */
};

/* Takes the next free slot of @bus; hands the device to the machine. */
int nvme_new(struct device_env *env, struct pci_bus *bus, const struct nvme_config *config, struct err **err);

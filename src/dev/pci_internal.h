/* Shared by pci.c, pci_bar.c and pci_msix.c. */
#pragma once

#include "dev/pci.h"

struct pci_bus {
        struct pci_device host; /* the bridge, slot 0 */
        struct pci_device *slots[PCI_SLOTS];
        u32 address;            /* the latch at 0xcf8 */
        u8 reset_control;       /* 0xcf9 */
};

static inline u16 pci_bdf(const struct pci_device *pci)
{
        return (u16)(pci->slot << 3);
}

/* Makes the I/O spaces follow the BARs and command registers of all functions. */
void pci_bus_remap(struct pci_bus *bus);
/* Unmaps all BARs of @pci. */
void pci_bars_unmap(struct pci_device *pci);
/* Writes the assigned address into the BAR registers of @pci. */
void pci_bars_restore(struct pci_device *pci);
/* Makes the interrupt line follow level, command register and MSI-X. */
void pci_intx_update(struct pci_device *pci);
/* The message control word, the command register or a mask changed: sends what is pending and no longer masked. */
void pci_msix_update(struct pci_device *pci);

/* MSI-X (PCI Local Bus 3.0, 6.8.2): the vector table and the pending bits, in a BAR of their own. */
#include <errno.h>

#include "dev/pci_internal.h"

enum {
        MSIX_CONTROL = 2,             /* offset of the message control word in the capability */
        MSIX_CONTROL_MASK_ALL = 1 << 14,
        MSIX_CONTROL_ENABLE = 1 << 15,
        MSIX_VECTOR_MASKED = 1,
        MSIX_PBA = 0x800,
        MSIX_BAR_SIZE = 0x1000,
};

_Static_assert(PCI_MSIX_VECTORS_MAX * 16 <= MSIX_PBA && PCI_MSIX_VECTORS_MAX <= 64, "table, or pending word, too small");

static u16 control(const struct pci_device *pci)
{
        return (u16)pci_config_get(pci, pci->msix.cap + MSIX_CONTROL, 2);
}

bool pci_msix_enabled(const struct pci_device *pci)
{
        return pci->msix.n && control(pci) & MSIX_CONTROL_ENABLE;
}

/* A message is a memory write by the device, so it also waits for the permission to master the bus. */
static bool can_send(const struct pci_device *pci, unsigned vector)
{
        return !(control(pci) & MSIX_CONTROL_MASK_ALL) && pci_bus_master(pci) &&
               !(pci->msix.table[vector].control & MSIX_VECTOR_MASKED);
}

static void send(struct pci_device *pci, unsigned vector)
{
        const struct pci_msix_entry *entry = &pci->msix.table[vector];
        const struct msi_sink *sink = &pci->env->msi;

        pci->msix.pending &= ~BIT(vector);
        if (sink->send)
                sink->send(sink->opaque, entry->address, entry->data);
}

void pci_msix_send(struct pci_device *pci, unsigned vector)
{
        if (vector >= pci->msix.n || !pci_msix_enabled(pci))
                return;
        if (can_send(pci, vector))
                send(pci, vector);
        else
                pci->msix.pending |= BIT(vector);
}

void pci_msix_update(struct pci_device *pci)
{
        if (!pci_msix_enabled(pci)) {
                pci->msix.pending = 0;
                return;
        }
        for (unsigned i = 0; i < pci->msix.n; i++) {
                if (pci->msix.pending & BIT(i) && can_send(pci, i))
                        send(pci, i);
        }
}

/* One doubleword of the BAR. */
static u32 table_get(const struct pci_msix *msix, u64 offset)
{
        const struct pci_msix_entry *entry = &msix->table[(offset / 16) % PCI_MSIX_VECTORS_MAX];

        if (offset >= MSIX_PBA)
                return offset < MSIX_PBA + 8 ? (u32)(msix->pending >> (8 * (offset & 4))) : 0;
        if (offset / 16 >= msix->n)
                return 0;
        switch (offset & 12) {
        case 0:
                return (u32)entry->address;
        case 4:
                return (u32)(entry->address >> 32);
        case 8:
                return entry->data;
        default:
                return entry->control;
        }
}

static void table_set(struct pci_device *pci, u64 offset, u32 value)
{
        struct pci_msix_entry *entry;

        if (offset / 16 >= pci->msix.n)
                return;
        entry = &pci->msix.table[offset / 16];
        switch (offset & 12) {
        case 0:
                entry->address = (entry->address & ~0xffffffffULL) | (value & ~3U);
                break;
        case 4:
                entry->address = (entry->address & 0xffffffffULL) | (u64)value << 32;
                break;
        case 8:
                entry->data = value;
                break;
        default:
                entry->control = value & MSIX_VECTOR_MASKED;
                pci_msix_update(pci);
                break;
        }
}

/* Software must use aligned doublewords or quadwords; anything else reads as what is there and writes nothing. */
static u64 msix_read(void *opaque, u64 offset, unsigned size)
{
        const struct pci_device *pci = opaque;
        u64 value = table_get(&pci->msix, offset & ~3ULL);

        if (size == 8)
                return value | (u64)table_get(&pci->msix, (offset & ~3ULL) + 4) << 32;
        return value >> (8 * (offset & 3));
}

static void msix_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct pci_device *pci = opaque;

        if (size < 4 || offset & (size - 1))
                return;
        table_set(pci, offset, (u32)value);
        if (size == 8)
                table_set(pci, offset + 4, (u32)(value >> 32));
}

static const struct io_ops msix_ops = { .read = msix_read, .write = msix_write };

int pci_msix_init(struct pci_device *pci, unsigned bar, unsigned n_vectors, struct err **err)
{
        int r;

        if (n_vectors == 0 || n_vectors > PCI_MSIX_VECTORS_MAX)
                return err_set(err, ERR_INTERNAL, EINVAL, "%s cannot have %u MSI-X vectors", pci->dev.ops->name, n_vectors);
        r = pci_bar_add(pci, bar, PCI_BAR_MEM32, MSIX_BAR_SIZE, &msix_ops, pci, "msix", err);
        if (r < 0)
                return r;
        r = pci_capability_add(pci, PCI_CAP_ID_MSIX, 12, err);
        if (r < 0)
                return r;
        pci->msix.cap = (unsigned)r;
        pci->msix.n = n_vectors;
        pci_config_set(pci, pci->msix.cap + MSIX_CONTROL, 2, n_vectors - 1);
        pci_config_set(pci, pci->msix.cap + 4, 4, bar);
        pci_config_set(pci, pci->msix.cap + 8, 4, MSIX_PBA | bar);
        pci->writable[pci->msix.cap + MSIX_CONTROL + 1] = (MSIX_CONTROL_MASK_ALL | MSIX_CONTROL_ENABLE) >> 8;
        for (unsigned i = 0; i < n_vectors; i++)
                pci->msix.table[i].control = MSIX_VECTOR_MASKED;
        return 0;
}

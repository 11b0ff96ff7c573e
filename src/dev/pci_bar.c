/* BARs: where they are, and where they were put.
 *
 * A BAR answers when decoding is on and the place that the guest chose is free: not RAM, not ECAM, not another device. Real
 * hardware would make two devices fight over the bus; here the later one is deaf until the place is free. So after every
 * change all BARs are looked at, in two passes: those that left their place first, then those that want one. */
#include <errno.h>

#include "dev/pci_internal.h"

static unsigned bar_register(unsigned n)
{
        return PCI_BAR0 + 4 * n;
}

static bool is_io(const struct pci_bar *bar)
{
        return bar->type == PCI_BAR_IO;
}

/* What the registers say, whether decoded or not. */
static u64 bar_address(const struct pci_device *pci, unsigned n)
{
        const struct pci_bar *bar = &pci->bars[n];
        u64 address = pci_config_get(pci, bar_register(n), 4);

        if (bar->type == PCI_BAR_MEM64)
                address |= (u64)pci_config_get(pci, bar_register(n + 1), 4) << 32;
        return address & ~(bar->size - 1);
}

static void bar_address_set(struct pci_device *pci, unsigned n, u64 address)
{
        const unsigned reg = bar_register(n);
        const u32 flags = pci_config_get(pci, reg, 4) & 0xf & ~pci->writable[reg];

        pci_config_set(pci, reg, 4, (u32)address | flags);
        if (pci->bars[n].type == PCI_BAR_MEM64)
                pci_config_set(pci, bar_register(n + 1), 4, (u32)(address >> 32));
}

static bool overlaps_ram(const struct guest_memory *mem, u64 base, u64 size)
{
        for (size_t i = 0; i < mem->n_slots; i++) {
                const struct memory_slot *slot = &mem->slots[i];

                if (base < slot->gpa + slot->size && slot->gpa < base + size)
                        return true;
        }
        return false;
}

/* Where the BAR should answer by its registers; PCI_UNMAPPED when it cannot be there. Address 0 is "not set". */
static u64 bar_wanted(const struct pci_device *pci, unsigned n)
{
        const struct pci_bar *bar = &pci->bars[n];
        const u16 enable = is_io(bar) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
        const u64 limit = is_io(bar) ? 0xffff : ~0ULL - 1;
        const u64 address = bar_address(pci, n);

        if (bar->type == PCI_BAR_NONE || !(pci_config_get(pci, PCI_COMMAND, 2) & enable))
                return PCI_UNMAPPED;
        if (address == 0 || address > limit || bar->size - 1 > limit - address)
                return PCI_UNMAPPED;
        if (!is_io(bar) && overlaps_ram(pci->env->memory, address, bar->size))
                return PCI_UNMAPPED;
        return address;
}

static struct io_space *bar_space(const struct pci_device *pci, const struct pci_bar *bar)
{
        return is_io(bar) ? pci->env->ports : &pci->env->memory->mmio;
}

static void bar_unmap(struct pci_device *pci, unsigned n)
{
        struct pci_bar *bar = &pci->bars[n];

        if (bar->mapped == PCI_UNMAPPED)
                return;
        io_space_remove(bar_space(pci, bar), bar->mapped, bar->opaque);
        bar->mapped = PCI_UNMAPPED;
        trace(PCI_BAR_MAP, pci_bdf(pci), n, bar->mapped, bar->size);
        if (pci->pci_ops && pci->pci_ops->bar_mapped)
                pci->pci_ops->bar_mapped(pci, n, PCI_UNMAPPED);
}

static void bar_map(struct pci_device *pci, unsigned n, u64 address)
{
        struct pci_bar *bar = &pci->bars[n];

        if (io_space_add(bar_space(pci, bar), address, bar->size, bar->ops, bar->opaque, bar->name, NULL) < 0)
                return;
        bar->mapped = address;
        trace(PCI_BAR_MAP, pci_bdf(pci), n, address, bar->size);
        if (pci->pci_ops && pci->pci_ops->bar_mapped)
                pci->pci_ops->bar_mapped(pci, n, address);
}

void pci_bars_unmap(struct pci_device *pci)
{
        for (unsigned n = 0; n < PCI_BARS; n++)
                bar_unmap(pci, n);
}

void pci_bus_remap(struct pci_bus *bus)
{
        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
                struct pci_device *pci = bus->slots[slot];

                for (unsigned n = 0; pci && n < PCI_BARS; n++) {
                        if (pci->bars[n].mapped != bar_wanted(pci, n))
                                bar_unmap(pci, n);
                }
        }
        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
                struct pci_device *pci = bus->slots[slot];

                for (unsigned n = 0; pci && n < PCI_BARS; n++) {
                        const u64 wanted = bar_wanted(pci, n);

                        if (wanted != PCI_UNMAPPED && pci->bars[n].mapped == PCI_UNMAPPED)
                                bar_map(pci, n, wanted);
                }
        }
}

int pci_bar_add(struct pci_device *pci, unsigned n, enum pci_bar_type type, u64 size, const struct io_ops *ops,
                void *opaque, const char *name, struct err **err)
{
        /* Type bits of the register (PCI 3.0, 6.2.5.1): I/O space; 64-bit and prefetchable. */
        static const u8 flags[] = { [PCI_BAR_IO] = 0x1, [PCI_BAR_MEM32] = 0x0, [PCI_BAR_MEM64] = 0xc };
        static const u64 smallest[] = { [PCI_BAR_IO] = 4, [PCI_BAR_MEM32] = 16, [PCI_BAR_MEM64] = 16 };
        static const u64 largest[] = {
                [PCI_BAR_IO] = 0x4000, [PCI_BAR_MEM32] = 1ULL << 31, [PCI_BAR_MEM64] = PCI_WINDOW64_SIZE,
        };
        const unsigned last = type == PCI_BAR_MEM64 ? n + 1 : n;
        u64 mask = ~(size - 1);

        if (last >= PCI_BARS || type == PCI_BAR_NONE || type > PCI_BAR_MEM64 || pci->bars[n].type ||
            pci->bars[last].type || (n > 0 && pci->bars[n - 1].type == PCI_BAR_MEM64) || size & (size - 1) ||
            size < smallest[type] || size > largest[type])
                return err_set(err, ERR_INTERNAL, EINVAL, "BAR %u of %s cannot have %lu bytes", n, pci->dev.ops->name, size);

        pci->bars[n] = (struct pci_bar){
                .type = type, .size = size, .ops = ops, .opaque = opaque, .name = name,
                .assigned = PCI_UNMAPPED, .mapped = PCI_UNMAPPED,
        };
        if (type == PCI_BAR_IO)
                mask &= 0xffff;
        pci->config[bar_register(n)] = flags[type];
        for (unsigned i = 0; i < (type == PCI_BAR_MEM64 ? 8 : 4); i++)
                pci->writable[bar_register(n) + i] = (u8)(mask >> (8 * i));
        pci->writable[PCI_COMMAND] |= type == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
        return 0;
}

/* ---- placing them, in the firmware's stead ---- */

struct window {
        u64 next, end;
};

static bool window_take(struct window *window, u64 size, u64 align, u64 *ret)
{
        const u64 base = ALIGN_UP(window->next, align);

        if (base < window->next || base >= window->end || size > window->end - base)
                return false;
        window->next = base + size;
        *ret = base;
        return true;
}

/* The largest BAR that has no place yet: big ones first leaves no holes. */
static struct pci_device *largest_unassigned(struct pci_bus *bus, unsigned *ret_n)
{
        struct pci_device *found = NULL;
        u64 size = 0;

        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
                struct pci_device *pci = bus->slots[slot];

                for (unsigned n = 0; pci && n < PCI_BARS; n++) {
                        const struct pci_bar *bar = &pci->bars[n];

                        if (bar->type == PCI_BAR_NONE || bar->assigned != PCI_UNMAPPED || bar->size <= size)
                                continue;
                        size = bar->size;
                        found = pci;
                        *ret_n = n;
                }
        }
        return found;
}

void pci_bars_restore(struct pci_device *pci)
{
        for (unsigned n = 0; n < PCI_BARS; n++) {
                const struct pci_bar *bar = &pci->bars[n];

                if (bar->type == PCI_BAR_NONE || bar->assigned == PCI_UNMAPPED)
                        continue;
                bar_address_set(pci, n, bar->assigned);
                pci->config[PCI_COMMAND] |= is_io(bar) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
        }
}

int pci_assign_resources(struct pci_bus *bus, struct err **err)
{
        struct window io = { PCI_WINDOW_IO_BASE, PCI_WINDOW_IO_BASE + PCI_WINDOW_IO_SIZE };
        struct window mem32 = { PCI_WINDOW32_BASE, PCI_WINDOW32_BASE + PCI_WINDOW32_SIZE };
        struct window mem64 = { PCI_WINDOW64_BASE, PCI_WINDOW64_BASE + PCI_WINDOW64_SIZE };
        struct pci_device *pci;
        unsigned n;

        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
                for (n = 0; bus->slots[slot] && n < PCI_BARS; n++)
                        bus->slots[slot]->bars[n].assigned = PCI_UNMAPPED;
        }
        while ((pci = largest_unassigned(bus, &n))) {
                struct pci_bar *bar = &pci->bars[n];
                /* Whole pages, so that an engine may treat a page as one device's. */
                const u64 align = is_io(bar) ? bar->size : MAX(bar->size, PAGE_SIZE);
                bool ok = window_take(is_io(bar) ? &io : &mem32, bar->size, align, &bar->assigned);

                if (!ok && bar->type == PCI_BAR_MEM64)
                        ok = window_take(&mem64, bar->size, align, &bar->assigned);
                if (!ok)
                        return err_set(err, ERR_TOO_LARGE, ENOSPC, "no address space is left for BAR %u of %s (%lu bytes)",
                                       n, pci->dev.ops->name, bar->size);
        }
        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
                if (bus->slots[slot])
                        pci_bars_restore(bus->slots[slot]);
        }
        pci_bus_remap(bus);
        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
                pci = bus->slots[slot];
                for (n = 0; pci && n < PCI_BARS; n++) {
                        if (pci->bars[n].mapped != pci->bars[n].assigned)
                                return err_set(err, ERR_BUSY, EBUSY, "the place of BAR %u of %s, 0x%lx, is in use", n,
                                               pci->dev.ops->name, pci->bars[n].assigned);
                }
        }
        return 0;
}

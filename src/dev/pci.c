/* The bus, configuration accesses and interrupt lines.
 *
 * Every function's configuration space is 256 bytes with a mask of the bits a guest may change; anything that has an effect
 * (BARs, command, MSI-X control, a device's own capability) is applied after the bytes were written. */
#include "dev/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "dev/pci_internal.h"

/* ---- little-endian fields ---- */

u32 pci_config_get(const struct pci_device *pci, unsigned offset, unsigned size)
{
        u32 value = 0;

        for (unsigned i = 0; i < size; i++)
                value |= (u32)pci->config[offset + i] << (8 * i);
        return value;
}

void pci_config_set(struct pci_device *pci, unsigned offset, unsigned size, u32 value)
{
        for (unsigned i = 0; i < size; i++)
                pci->config[offset + i] = (u8)(value >> (8 * i));
}

static void writable_set(struct pci_device *pci, unsigned offset, unsigned size, u32 mask)
{
        for (unsigned i = 0; i < size; i++)
                pci->writable[offset + i] = (u8)(mask >> (8 * i));
}

/* ---- configuration accesses ---- */

static bool overlaps(unsigned offset, unsigned size, unsigned start, unsigned len)
{
        return offset < start + len && start < offset + size;
}

static u32 function_read(struct pci_device *pci, unsigned offset, unsigned size)
{
        u32 value;

        if (offset >= PCI_HEADER_END && pci->pci_ops && pci->pci_ops->config_reading)
                pci->pci_ops->config_reading(pci, offset, size);
        value = pci_config_get(pci, offset, size);
        trace(PCI_CONFIG_READ, pci_bdf(pci), offset, size, value);
        return value;
}

static void function_write(struct pci_device *pci, unsigned offset, unsigned size, u32 value)
{
        const struct pci_device_ops *ops = pci->pci_ops;
        const u16 old_command = (u16)pci_config_get(pci, PCI_COMMAND, 2);
        u16 command;

        trace(PCI_CONFIG_WRITE, pci_bdf(pci), offset, size, value);
        for (unsigned i = 0; i < size; i++) {
                const u8 mask = pci->writable[offset + i];

                pci->config[offset + i] = (u8)((pci->config[offset + i] & ~mask) | ((value >> (8 * i)) & mask));
        }
        command = (u16)pci_config_get(pci, PCI_COMMAND, 2);
        if (command != old_command || overlaps(offset, size, PCI_BAR0, 4 * PCI_BARS))
                pci_bus_remap(pci->bus);
        if (pci->msix.n && (command != old_command || overlaps(offset, size, pci->msix.cap + 2, 2)))
                pci_msix_update(pci);
        pci_intx_update(pci);
        if (command != old_command && ops && ops->command_written)
                ops->command_written(pci, command);
        if (offset >= PCI_HEADER_END && ops && ops->config_written)
                ops->config_written(pci, offset, size);
}

/* The function that a configuration address means, or NULL. Only functions 0 of bus 0 exist, with conventional
 * configuration space: beyond 256 bytes ECAM reads as all ones, which is how software finds that out. */
static struct pci_device *find_function(struct pci_bus *bus, unsigned bus_number, unsigned devfn, unsigned offset,
                                        unsigned size)
{
        if (bus_number != 0 || devfn & 7 || offset + size > PCI_CONFIG_SIZE)
                return NULL;
        return bus->slots[devfn >> 3];
}

static u64 ones(unsigned size)
{
        return ~0ULL >> (64 - 8 * size);
}

static u64 ecam_read(void *opaque, u64 offset, unsigned size)
{
        struct pci_device *pci = find_function(opaque, (unsigned)(offset >> 20), (offset >> 12) & 0xff,
                                               offset & 0xfff, size);

        return pci ? function_read(pci, offset & 0xfff, size) : ones(size);
}

static void ecam_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct pci_device *pci = find_function(opaque, (unsigned)(offset >> 20), (offset >> 12) & 0xff,
                                               offset & 0xfff, size);

        if (pci)
                function_write(pci, offset & 0xfff, size, (u32)value);
}

static const struct io_ops ecam_ops = { .read = ecam_read, .write = ecam_write, .max_size = 4 };

/* Configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2): the address latch takes doublewords only, so that other sizes can
 * mean something else: a byte at 0xcf9 is the chipset's reset control register. */

static struct pci_device *latched_function(struct pci_bus *bus, unsigned byte, unsigned size, unsigned *ret_offset)
{
        *ret_offset = (bus->address & 0xfc) + byte;
        if (!(bus->address & 0x80000000U) || byte + size > 4)
                return NULL;
        return find_function(bus, (bus->address >> 16) & 0xff, (bus->address >> 8) & 0xff, *ret_offset, size);
}

static u64 ports_read(void *opaque, u64 offset, unsigned size)
{
        struct pci_bus *bus = opaque;
        struct pci_device *pci;
        unsigned reg;

        if (offset >= PCI_CONFIG_DATA - PCI_CONFIG_ADDRESS) {
                pci = latched_function(bus, offset & 3, size, &reg);
                return pci ? function_read(pci, reg, size) : ones(size);
        }
        if (offset == 0 && size == 4)
                return bus->address;
        if (offset == PCI_RESET_CONTROL - PCI_CONFIG_ADDRESS && size == 1)
                return bus->reset_control;
        return ones(size);
}

enum { RESET_CONTROL_SYSTEM = 0x02, RESET_CONTROL_CPU = 0x04, RESET_CONTROL_FULL = 0x08 };

static void ports_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct pci_bus *bus = opaque;
        struct device_env *env = bus->host.env;
        struct pci_device *pci;
        unsigned reg;

        if (offset >= PCI_CONFIG_DATA - PCI_CONFIG_ADDRESS) {
                pci = latched_function(bus, offset & 3, size, &reg);
                if (pci)
                        function_write(pci, reg, size, (u32)value);
        } else if (offset == 0 && size == 4) {
                bus->address = (u32)value & 0x80fffffcU;
        } else if (offset == PCI_RESET_CONTROL - PCI_CONFIG_ADDRESS && size == 1) {
                bus->reset_control = (u8)value & (RESET_CONTROL_SYSTEM | RESET_CONTROL_FULL);
                if (value & RESET_CONTROL_CPU)
                        env->stop(env, MACHINE_RESET, 0);
        }
}

static const struct io_ops ports_ops = { .read = ports_read, .write = ports_write, .max_size = 4 };

/* ---- interrupt lines ---- */

void pci_intx_update(struct pci_device *pci)
{
        const u16 command = (u16)pci_config_get(pci, PCI_COMMAND, 2);
        const bool wire = pci->intx_level && !(command & PCI_COMMAND_INTX_DISABLE) && !pci_msix_enabled(pci);

        if (!pci->config[PCI_INTERRUPT_PIN])
                return;
        /* The status bit shows the device's wish even when the line is disabled (PCI 3.0, 6.2.3). */
        if (pci->intx_level)
                pci->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
        else
                pci->config[PCI_STATUS] &= (u8)~PCI_STATUS_INTERRUPT;
        if (wire == pci->intx_wire)
                return;
        pci->intx_wire = wire;
        irq_line_set(&pci->intx, wire);
}

void pci_intx_set(struct pci_device *pci, bool level)
{
        pci->intx_level = level;
        pci_intx_update(pci);
}

/* ---- functions ---- */

int pci_device_init(struct pci_device *pci, struct pci_bus *bus, const struct pci_id *id, const struct device_ops *ops,
                    const struct pci_device_ops *pci_ops, struct err **err)
{
        unsigned slot = 0;

        while (slot < PCI_SLOTS && bus->slots[slot])
                slot++;
        if (slot == PCI_SLOTS)
                return err_set(err, ERR_TOO_LARGE, ENOSPC, "no PCI slot is free for %s: the machine has %u", ops->name,
                               PCI_SLOTS);
        *pci = (struct pci_device){
                .dev.ops = ops, .env = bus->host.env, .bus = bus, .pci_ops = pci_ops, .slot = slot,
                .caps_end = PCI_HEADER_END,
        };
        for (unsigned i = 0; i < PCI_BARS; i++)
                pci->bars[i].assigned = pci->bars[i].mapped = PCI_UNMAPPED;
        pci_config_set(pci, PCI_VENDOR_ID, 2, id->vendor);
        pci_config_set(pci, PCI_DEVICE_ID, 2, id->device);
        pci_config_set(pci, PCI_SUBSYSTEM_VENDOR_ID, 2, id->subsystem_vendor);
        pci_config_set(pci, PCI_SUBSYSTEM_ID, 2, id->subsystem);
        pci_config_set(pci, PCI_REVISION_ID, 1, id->revision);
        pci_config_set(pci, PCI_CLASS_PROG, 3, id->class_code);
        writable_set(pci, PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
        writable_set(pci, PCI_CACHE_LINE_SIZE, 1, 0xff);
        writable_set(pci, PCI_INTERRUPT_LINE, 1, 0xff);
        if (id->intx) {
                pci->config[PCI_INTERRUPT_PIN] = 1;
                pci->config[PCI_INTERRUPT_LINE] = (u8)pci_intx_gsi(slot, 1);
                pci->intx = pci->env->irq(pci->env, pci_intx_gsi(slot, 1));
        }
        bus->slots[slot] = pci;
        return 0;
}

void pci_device_release(struct pci_device *pci)
{
        if (!pci->bus)
                return;
        pci_intx_set(pci, false);
        pci_bars_unmap(pci);
        pci->bus->slots[pci->slot] = NULL;
        pci->bus = NULL;
}

int pci_capability_add(struct pci_device *pci, u8 id, unsigned size, struct err **err)
{
        const unsigned offset = ALIGN_UP(pci->caps_end, 4U);

        if (size < 2 || size > PCI_CONFIG_SIZE || offset + size > PCI_CONFIG_SIZE)
                return err_set(err, ERR_INTERNAL, ENOSPC, "no room for a capability of %u bytes in %s", size,
                               pci->dev.ops->name);
        pci->config[offset] = id;
        pci->config[offset + 1] = pci->config[PCI_CAPABILITY_LIST];
        pci->config[PCI_CAPABILITY_LIST] = (u8)offset;
        pci->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
        pci->caps_end = offset + size;
        return (int)offset;
}

void pci_device_reset(struct pci_device *pci)
{
        for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
                pci->config[i] &= (u8)~pci->writable[i];
        memset(pci->msix.table, 0, sizeof(pci->msix.table));
        for (unsigned i = 0; i < pci->msix.n; i++)
                pci->msix.table[i].control = 1;
        pci->msix.pending = 0;
        pci->intx_level = false;
        if (pci->config[PCI_INTERRUPT_PIN])
                pci->config[PCI_INTERRUPT_LINE] = (u8)pci_intx_gsi(pci->slot, pci->config[PCI_INTERRUPT_PIN]);
        pci_bars_restore(pci);
        pci_intx_update(pci);
        if (pci->bus)
                pci_bus_remap(pci->bus);
}

/* ---- saved state ---- */

void pci_device_save(const struct pci_device *pci, struct state_out *out)
{
        state_put_bytes(out, pci->config, PCI_CONFIG_SIZE);
        state_put_bool(out, pci->intx_level);
        state_put_u8(out, (u8)pci->msix.n);
        for (unsigned i = 0; i < pci->msix.n; i++) {
                state_put_u64(out, pci->msix.table[i].address);
                state_put_u32(out, pci->msix.table[i].data);
                state_put_u32(out, pci->msix.table[i].control);
        }
        state_put_u64(out, pci->msix.pending);
}

int pci_state_read(const struct pci_device *pci, struct state_in *in, struct pci_state *ret, struct err **err)
{
        struct pci_state state = { 0 };
        unsigned n;

        state_get_bytes(in, state.config, PCI_CONFIG_SIZE);
        state.intx_level = state_get_bool(in);
        n = state_get_u8(in);
        if (n != pci->msix.n)
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved %s has %u MSI-X vectors, this machine's has %u",
                               pci->dev.ops->name, n, pci->msix.n);
        for (unsigned i = 0; i < n; i++) {
                state.table[i].address = state_get_u64(in);
                state.table[i].data = state_get_u32(in);
                state.table[i].control = state_get_u32(in) & 1;
        }
        state.pending = state_get_u64(in);
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved PCI state of %s is truncated", pci->dev.ops->name);
        if (state.pending & ~(BIT(n) - 1) && n < 64)
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved PCI state of %s is damaged", pci->dev.ops->name);
        for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
                const u8 volatile_bits = i == PCI_STATUS ? PCI_STATUS_INTERRUPT : 0;

                if ((state.config[i] ^ pci->config[i]) & (u8)~(pci->writable[i] | volatile_bits))
                        return err_set(err, ERR_BAD_STATE, EINVAL,
                                       "saved PCI state is not that of %s: byte 0x%x of its configuration differs",
                                       pci->dev.ops->name, i);
        }
        *ret = state;
        return 0;
}

void pci_state_apply(struct pci_device *pci, const struct pci_state *state)
{
        memcpy(pci->config, state->config, PCI_CONFIG_SIZE);
        memcpy(pci->msix.table, state->table, sizeof(pci->msix.table));
        pci->msix.pending = state->pending;
        pci->intx_level = state->intx_level;
        pci_intx_update(pci);
        if (pci->bus)
                pci_bus_remap(pci->bus);
}

/* ---- the host bridge ---- */

static struct pci_bus *bus_of(struct device *dev)
{
        return container_of(dev, struct pci_bus, host.dev);
}

static void host_reset(struct device *dev)
{
        struct pci_bus *bus = bus_of(dev);

        bus->address = 0;
        bus->reset_control = 0;
        pci_device_reset(&bus->host);
}

static void host_save(struct device *dev, struct state_out *out)
{
        struct pci_bus *bus = bus_of(dev);

        pci_device_save(&bus->host, out);
        state_put_u32(out, bus->address);
        state_put_u8(out, bus->reset_control);
}

static int host_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct pci_bus *bus = bus_of(dev);
        struct pci_state state;
        u32 address;
        u8 reset_control;
        int r;

        r = pci_state_read(&bus->host, in, &state, err);
        if (r < 0)
                return r;
        address = state_get_u32(in);
        reset_control = state_get_u8(in);
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of the PCI host bridge is truncated");
        bus->address = address & 0x80fffffcU;
        bus->reset_control = reset_control & (RESET_CONTROL_SYSTEM | RESET_CONTROL_FULL);
        pci_state_apply(&bus->host, &state);
        return 0;
}

static void host_destroy(struct device *dev)
{
        struct pci_bus *bus = bus_of(dev);
        struct device_env *env = bus->host.env;

        for (unsigned i = 1; i < PCI_SLOTS; i++) {
                if (bus->slots[i])
                        pci_device_release(bus->slots[i]);
        }
        pci_device_release(&bus->host);
        io_space_remove(env->ports, PCI_CONFIG_ADDRESS, bus);
        io_space_remove(&env->memory->mmio, PCI_ECAM_BASE, bus);
        free(bus);
}

static const struct device_ops host_ops = {
        .name = "pci-host", .version = 1, .reset = host_reset, .save = host_save, .load = host_load,
        .destroy = host_destroy,
};

/* The identity of QEMU's generic PCIe host bridge: known to every guest, without chipset quirks. */
static const struct pci_id host_id = {
        .vendor = 0x1b36, .device = 0x0008, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .class_code = 0x060000,
};

int pci_bus_new(struct device_env *env, struct pci_bus **ret, struct err **err)
{
        _cleanup_free_ struct pci_bus *bus = calloc(1, sizeof(*bus));
        int r;

        if (!bus)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the PCI bus");
        bus->host.env = env;
        r = pci_device_init(&bus->host, bus, &host_id, &host_ops, NULL, err);
        if (r < 0)
                return r;
        r = io_space_add(env->ports, PCI_CONFIG_ADDRESS, 8, &ports_ops, bus, "pci-config", err);
        if (r < 0)
                return r;
        r = io_space_add(&env->memory->mmio, PCI_ECAM_BASE, PCI_ECAM_SIZE, &ecam_ops, bus, "pci-ecam", err);
        if (r < 0) {
                io_space_remove(env->ports, PCI_CONFIG_ADDRESS, bus);
                return r;
        }
        env->add(env, &bus->host.dev);
        *ret = TAKE_PTR(bus);
        return 0;
}

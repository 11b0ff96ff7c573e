/* PCI bus 0: the host bridge and what every PCI function has in common.
 *
 * Configuration space is reached through ports 0xcf8/0xcfc and through ECAM. There is no firmware: after all devices were
 * created the board calls pci_assign_resources(), which places every BAR and switches decoding on, as a BIOS would.
 * Functions are conventional, single-function, with INTx and MSI-X.
 *
 * A device embeds `struct pci_device` first and does, in its constructor:
 *
 *         r = pci_device_init(&d->pci, bus, &id, &my_device_ops, &my_pci_ops, err);   // takes the next free slot
 *         r = pci_bar_add(&d->pci, 0, PCI_BAR_MEM64, 0x4000, &my_io_ops, d, "my-registers", err);
 *         r = pci_msix_init(&d->pci, 4, n_vectors, err);                              // takes the whole of BAR 4
 *         env->add(env, &d->pci.dev);
 *
 * and calls pci_device_reset/save/release from its own device_ops. Loading is in two steps so that a device can
 * validate everything before anything changes: pci_state_read, then pci_state_apply.
 *
 * Interrupts: with MSI-X enabled by the guest pci_msix_send(vector); otherwise pci_intx_set(level).
 *
 * Lifetime: the bus is a device of the machine like others and is created first. It may be destroyed before or after them.
 * Threads: everything with the device lock held, or before threads exist. */
#pragma once

#include "dev/dev.h"

#define PCI_SLOTS 32
#define PCI_BARS 6
#define PCI_CONFIG_SIZE 256
#define PCI_MSIX_VECTORS_MAX 64

/* The machine's memory map. */
#define PCI_ECAM_BASE 0xe0000000ULL
#define PCI_ECAM_SIZE 0x10000000ULL /* buses 0..255; only bus 0 has devices */
#define PCI_WINDOW32_BASE 0xc0000000ULL
#define PCI_WINDOW32_SIZE 0x20000000ULL
#define PCI_WINDOW64_BASE 0x4000000000ULL
#define PCI_WINDOW64_SIZE 0x1000000000ULL
#define PCI_WINDOW_IO_BASE 0xc000U
#define PCI_WINDOW_IO_SIZE 0x4000U
/* The host bridge claims 0xcf8..0xcff, so the reset control register at 0xcf9 (pm.h) is answered here:
 * value 6 or 0xe asks the machine for MACHINE_RESET. */
#define PCI_CONFIG_ADDRESS 0xcf8U
#define PCI_RESET_CONTROL 0xcf9U
#define PCI_CONFIG_DATA 0xcfcU

#define PCI_INTX_GSI 16U
/* GSI of interrupt pin @pin (1 = INTA) of the function in @slot: the swizzle that the board's _PRT must describe. */
static inline unsigned pci_intx_gsi(unsigned slot, unsigned pin)
{
        return PCI_INTX_GSI + ((slot + pin - 1) & 3);
}

/* Offsets in configuration space (PCI Local Bus 3.0, 6.1). */
enum {
        PCI_VENDOR_ID = 0x00,
        PCI_DEVICE_ID = 0x02,
        PCI_COMMAND = 0x04,
        PCI_STATUS = 0x06,
        PCI_REVISION_ID = 0x08,
        PCI_CLASS_PROG = 0x09,
        PCI_CLASS_DEVICE = 0x0a,
        PCI_CACHE_LINE_SIZE = 0x0c,
        PCI_LATENCY_TIMER = 0x0d,
        PCI_HEADER_TYPE = 0x0e,
        PCI_BAR0 = 0x10,
        PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
        PCI_SUBSYSTEM_ID = 0x2e,
        PCI_ROM_ADDRESS = 0x30,
        PCI_CAPABILITY_LIST = 0x34,
        PCI_INTERRUPT_LINE = 0x3c,
        PCI_INTERRUPT_PIN = 0x3d,
        PCI_HEADER_END = 0x40,
};

enum {
        PCI_COMMAND_IO = 0x0001,
        PCI_COMMAND_MEMORY = 0x0002,
        PCI_COMMAND_MASTER = 0x0004,
        PCI_COMMAND_INTX_DISABLE = 0x0400,
        PCI_STATUS_INTERRUPT = 0x0008,
        PCI_STATUS_CAPABILITIES = 0x0010,
};

enum { PCI_CAP_ID_VENDOR = 0x09, PCI_CAP_ID_MSIX = 0x11 };

enum pci_bar_type {
        PCI_BAR_NONE,
        PCI_BAR_IO,
        PCI_BAR_MEM32,
        PCI_BAR_MEM64, /* 64-bit, prefetchable; takes two BAR registers */
};

#define PCI_UNMAPPED (~0ULL)

struct pci_bus;
struct pci_device;

struct pci_id {
        u16 vendor, device, subsystem_vendor, subsystem;
        u8 revision;
        u32 class_code; /* 24 bits: base class, sub-class, programming interface */
        bool intx;      /* has interrupt pin A */
};

/* All optional. */
struct pci_device_ops {
        /* The BAR is now mapped at @address, or no longer: PCI_UNMAPPED. */
        void (*bar_mapped)(struct pci_device *pci, unsigned bar, u64 address);
        /* A guest reads / has written @size bytes at @offset at or above PCI_HEADER_END. The read hook may update config[] first. */
        void (*config_reading)(struct pci_device *pci, unsigned offset, unsigned size);
        void (*config_written)(struct pci_device *pci, unsigned offset, unsigned size);
        /* The command register changed. */
        void (*command_written)(struct pci_device *pci, u16 command);
};

struct pci_bar {
        enum pci_bar_type type;
        u64 size;
        const struct io_ops *ops;
        void *opaque;
        const char *name;
        u64 assigned; /* by pci_assign_resources, PCI_UNMAPPED before; what a reset goes back to */
        u64 mapped;   /* where it answers now, or PCI_UNMAPPED */
};

struct pci_msix_entry {
        u64 address;
        u32 data, control;
};

struct pci_msix {
        unsigned n;      /* vectors; 0: the function has no MSI-X */
        unsigned cap;    /* offset of the capability */
        struct pci_msix_entry table[PCI_MSIX_VECTORS_MAX];
        u64 pending;     /* the PBA */
};

struct pci_device {
        struct device dev;
        struct device_env *env;
        struct pci_bus *bus; /* NULL once the bus is gone */
        const struct pci_device_ops *pci_ops;
        unsigned slot;
        u8 config[PCI_CONFIG_SIZE];
        u8 writable[PCI_CONFIG_SIZE];       /* bits a guest may change */
        unsigned caps_end;                  /* first free byte after the capabilities */
        struct pci_bar bars[PCI_BARS];
        struct pci_msix msix;
        struct irq_line intx;
        bool intx_level;                    /* what the device asserts */
        bool intx_wire;                     /* what reaches the interrupt controller */
};

/* A validated copy of a function's saved state. */
struct pci_state {
        u8 config[PCI_CONFIG_SIZE];
        struct pci_msix_entry table[PCI_MSIX_VECTORS_MAX];
        u64 pending;
        bool intx_level;
};

/* ---- for the board ---- */

/* Creates bus 0 with its host bridge in slot 0 and hands it to the machine. @ret stays borrowed. */
int pci_bus_new(struct device_env *env, struct pci_bus **ret, struct err **err);
/* Places all BARs and switches I/O and memory decoding on. After all devices were created. */
int pci_assign_resources(struct pci_bus *bus, struct err **err);

/* ---- for devices ---- */

int pci_device_init(struct pci_device *pci, struct pci_bus *bus, const struct pci_id *id, const struct device_ops *ops,
                    const struct pci_device_ops *pci_ops, struct err **err);
/* Unmaps the BARs and leaves the bus. What it embeds is not freed. */
void pci_device_release(struct pci_device *pci);

/* @size must be a power of two: at least 16 bytes of memory or 4 of I/O space. */
int pci_bar_add(struct pci_device *pci, unsigned n, enum pci_bar_type type, u64 size, const struct io_ops *ops,
                void *opaque, const char *name, struct err **err);
/* Room for a capability of @size bytes, its id and next fields included; returns its offset. Contents are read-only until
 * the device sets bits in writable[]. -ENOSPC when the configuration space is full. */
int pci_capability_add(struct pci_device *pci, u8 id, unsigned size, struct err **err);

int pci_msix_init(struct pci_device *pci, unsigned bar, unsigned n_vectors, struct err **err);
bool pci_msix_enabled(const struct pci_device *pci);
/* Sends, or sets the pending bit while masked. A vector that does not exist is ignored. */
void pci_msix_send(struct pci_device *pci, unsigned vector);
void pci_intx_set(struct pci_device *pci, bool level);
/* False: the function must not touch guest memory now. */
static inline bool pci_bus_master(const struct pci_device *pci)
{
        return pci->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

void pci_device_reset(struct pci_device *pci);
void pci_device_save(const struct pci_device *pci, struct state_out *out);
int pci_state_read(const struct pci_device *pci, struct state_in *in, struct pci_state *ret, struct err **err);
void pci_state_apply(struct pci_device *pci, const struct pci_state *state);

/* Little-endian fields of the configuration space; @offset + @size must lie inside. */
u32 pci_config_get(const struct pci_device *pci, unsigned offset, unsigned size);
void pci_config_set(struct pci_device *pci, unsigned offset, unsigned size, u32 value);

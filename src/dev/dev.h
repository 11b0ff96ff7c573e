/* Devices: what each offers to the machine and what the machine offers to each.
 *
 * A device is one file: a struct with `struct device dev` first, an ops table, and a constructor `<name>_new(env, ..., err)` that
 * claims its ports and memory. No device has file-scope state: two machines can live in one process.
 *
 * Threads: every device function runs with the machine's device lock held: I/O accesses take it in io_read/io_write, event
 * loop callbacks run under it. Constructors run before threads exist. */
#pragma once

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/observe.h"
#include "base/statebuf.h"
#include "mmu/memory.h"

struct device;

struct device_ops {
        const char *name;   /* section name of its saved state, with the instance: "uart", "virtio-blk" */
        u32 version;        /* of the saved state */
        void (*reset)(struct device *dev);
        void (*save)(struct device *dev, struct state_out *out);
        /* Reads all, validates, then applies: on failure the device is unchanged. */
        int (*load)(struct device *dev, struct state_in *in, u32 version, struct err **err);
        void (*destroy)(struct device *dev); /* frees it */
        /* Optional. Stops asynchronous work and waits for what is in flight, so that save() sees everything. */
        void (*quiesce)(struct device *dev);
        void (*resume)(struct device *dev);
};

struct device {
        const struct device_ops *ops;
        unsigned instance;    /* 0, 1, ... among devices of the same name */
        struct device *next;  /* machine's list, in creation order */
};

/* A wire from a device to an interrupt controller. Copied by value. */
struct irq_line {
        void (*set)(void *opaque, unsigned n, bool level);
        void *opaque;
        unsigned n;
};
static inline void irq_line_set(const struct irq_line *line, bool level)
{
        if (line->set)
                line->set(line->opaque, line->n, level);
}
/* Rising edge and back. */
static inline void irq_line_pulse(const struct irq_line *line)
{
        irq_line_set(line, true);
        irq_line_set(line, false);
}

/* Where message-signalled interrupts go. */
struct msi_sink {
        void (*send)(void *opaque, u64 address, u32 data);
        void *opaque;
};

enum machine_stop {
        MACHINE_RUNNING,
        MACHINE_POWER_OFF,
        MACHINE_RESET,
        MACHINE_DEBUG_EXIT, /* with the byte that was written */
        MACHINE_SUSPEND,    /* ACPI S3 */
        MACHINE_CRASH,
};

/* What a machine gives to its devices; borrowed, outlives them. */
struct device_env {
        struct guest_memory *memory;
        struct io_space *ports;          /* memory->mmio is the other space */
        struct loop *loop;
        pthread_mutex_t *lock;           /* the device lock */
        struct counters *counters;       /* of all devices */
        struct msi_sink msi;
        /* ISA interrupt n (0-15) / GSI n: the board routes it to PIC and IOAPIC. */
        struct irq_line (*irq)(struct device_env *env, unsigned gsi);
        /* Asks the machine to stop; @code is the debug-exit byte. */
        void (*stop)(struct device_env *env, enum machine_stop why, unsigned code);
        /* Registers a device with the machine, which owns it from then on. */
        void (*add)(struct device_env *env, struct device *dev);
        /* Hardware engine: lets a doorbell write at (space, address, size 2/4) signal an eventfd without an exit. NULL where not available.
         * @fd < 0 removes it. */
        int (*ioeventfd)(struct device_env *env, bool port, u64 address, unsigned size, int fd, bool add);
        void *machine;
};

/* The driver's side of virtio 1.2 over PCI, for tests: finds the structures by their capabilities, negotiates, fills rings. */
#pragma once

#include "fake_pci.h"

#define DRIVER_QUEUES 4

struct driver_segment {
        u64 gpa;
        u32 len;
        bool write; /* device-writable */
};

struct driver_queue {
        u64 desc, avail, used;
        u16 size;
        u16 next_desc;  /* where the next chain goes; wraps at size */
        u16 avail_idx;
        u16 used_seen;
        u64 doorbell;
};

struct driver {
        struct fake_machine *m;
        unsigned slot;
        u64 common, isr, config, notify;
        u32 notify_multiplier;
        struct driver_queue q[DRIVER_QUEUES];
};

enum { /* offsets of the common configuration */
        COMMON_DEVICE_FEATURE_SELECT = 0x00,
        COMMON_DEVICE_FEATURE = 0x04,
        COMMON_DRIVER_FEATURE_SELECT = 0x08,
        COMMON_DRIVER_FEATURE = 0x0c,
        COMMON_CONFIG_VECTOR = 0x10,
        COMMON_NUM_QUEUES = 0x12,
        COMMON_STATUS = 0x14,
        COMMON_GENERATION = 0x15,
        COMMON_QUEUE_SELECT = 0x16,
        COMMON_QUEUE_SIZE = 0x18,
        COMMON_QUEUE_VECTOR = 0x1a,
        COMMON_QUEUE_ENABLE = 0x1c,
        COMMON_QUEUE_NOTIFY_OFF = 0x1e,
        COMMON_QUEUE_DESC = 0x20,
        COMMON_QUEUE_AVAIL = 0x28,
        COMMON_QUEUE_USED = 0x30,
        COMMON_QUEUE_RESET = 0x3a,
};

/* The message of queue n, and of configuration changes. */
#define DRIVER_VECTOR(n) ((n) + 1)
#define DRIVER_VECTOR_CONFIG 0

/* Finds the structures and switches bus mastering on. */
void driver_probe(struct driver *d, struct fake_machine *m, unsigned slot);
u32 driver_common(struct driver *d, unsigned offset, unsigned size);
void driver_common_set(struct driver *d, unsigned offset, unsigned size, u32 value);
u8 driver_status(struct driver *d);
u64 driver_offered(struct driver *d);
/* Reset, ACKNOWLEDGE, DRIVER, features. Returns whether the device kept FEATURES_OK. */
bool driver_negotiate(struct driver *d, u64 features);
/* Places the rings of queue @n and enables it. */
void driver_queue_setup(struct driver *d, unsigned n, u16 size);
void driver_msix_setup(struct driver *d, unsigned n_queues);
/* All of it with MSI-X; VERSION_1 is added to @features. */
void driver_start(struct driver *d, u64 features, unsigned n_queues, u16 size);

/* Raw ring accesses. */
void driver_desc_set(struct driver *d, unsigned n, u16 index, u64 gpa, u32 len, u16 flags, u16 next);
void driver_avail_put(struct driver *d, unsigned n, u16 head);
u16 driver_used_idx(struct driver *d, unsigned n);
/* What the device asks for by EVENT_IDX, and what the driver asks for. */
u16 driver_avail_event(struct driver *d, unsigned n);
void driver_used_event_set(struct driver *d, unsigned n, u16 event);
void driver_avail_flags_set(struct driver *d, unsigned n, u16 flags);
u16 driver_used_flags(struct driver *d, unsigned n);

/* A chain of descriptors, made available; returns its head. */
u16 driver_add(struct driver *d, unsigned n, const struct driver_segment *segments, unsigned count);
/* The same through an indirect table at @table. */
u16 driver_add_indirect(struct driver *d, unsigned n, u64 table, const struct driver_segment *segments, unsigned count);
void driver_kick(struct driver *d, unsigned n);
/* The next used element, or false. */
bool driver_used(struct driver *d, unsigned n, u32 *ret_head, u32 *ret_len);

/* virtio-console: one port, hvc0 in a Linux guest. */
#pragma once

#include "dev/pci.h"

struct virtio_console;

struct virtio_console_config {
        /* What the guest wrote. */
        void (*output)(void *opaque, const u8 *data, size_t n);
        /* virtio_console_input() has room again. Optional. */
        void (*input_ready)(void *opaque);
        void *opaque;
        u16 columns, rows; /* 0: unknown */
};

/* @ret stays borrowed. */
int virtio_console_new(struct device_env *env, struct pci_bus *bus, const struct virtio_console_config *config,
                       struct virtio_console **ret, struct err **err);
/* Gives typed bytes to the guest; returns how many were taken. Device lock held. */
size_t virtio_console_input(struct virtio_console *console, const u8 *data, size_t n);
void virtio_console_resize(struct virtio_console *console, u16 columns, u16 rows);

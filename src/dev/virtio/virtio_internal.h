/* Shared by virtio.c, virtio_pci.c and virtqueue.c. */
#pragma once

#include "dev/virtio/virtio.h"

#define VIRTIO_NO_VECTOR 0xffff

/* A device-writable segment of a request. */
struct virtio_segment {
        u64 gpa, len;
};

struct virtio_scratch {
        struct iovec iov[VIRTIO_SEGMENTS_MAX];
        u64 gpa[VIRTIO_SEGMENTS_MAX];
};

/* ---- virtqueue.c ---- */

void virtqueue_reset(struct virtqueue *q);
/* Finds the rings in RAM; marks the device broken and returns false when they are not there. */
bool virtqueue_map(struct virtqueue *q);
/* Handles what is available, at most one queue size of requests; the rest follows from the loop. */
void virtqueue_run(struct virtqueue *q);

/* ---- virtio.c ---- */

void virtio_status_write(struct virtio_device *vdev, u8 status);
void virtio_queue_enable(struct virtqueue *q);
void virtio_queue_reset_one(struct virtqueue *q);
/* DEVICE_NEEDS_RESET, and tells the driver. */
void virtio_needs_reset(struct virtio_device *vdev);
/* Runs all queues soon, on the loop. */
void virtio_rerun_all(struct virtio_device *vdev);

/* ---- virtio_pci.c ---- */

int virtio_pci_init(struct virtio_device *vdev, struct pci_bus *bus, struct err **err);
void virtio_interrupt_queue(struct virtqueue *q);
void virtio_interrupt_config(struct virtio_device *vdev);
/* Makes the engine listen for the doorbells of the queues that run, and of no others. */
void virtio_doorbells_update(struct virtio_device *vdev);
void virtio_doorbells_free(struct virtio_device *vdev);

/* A machine without CPUs for the fuzz targets of PCI devices: RAM, ports, an event loop, a PCI bus; what devices send goes nowhere. */
#pragma once

#include <pthread.h>
#include <string.h>

#include "dev/virtio/virtio.h"
#include "input.h"

#define BOARD_VDEVS 8

struct board {
        struct device_env env;
        pthread_mutex_t lock;
        struct counters counters;
        struct io_space ports;
        struct device *devices;
        struct pci_bus *bus;
        struct virtio_device *vdev[BOARD_VDEVS]; /* in the order of their creation */
        unsigned n_vdevs;
};

static inline void board_line_set(void *opaque, unsigned n, bool level)
{
}

static inline struct irq_line board_irq(struct device_env *env, unsigned gsi)
{
        return (struct irq_line){ .set = board_line_set };
}

static inline void board_stop(struct device_env *env, enum machine_stop why, unsigned code)
{
}

static inline void board_msi(void *opaque, u64 address, u32 data)
{
}

static inline void board_add(struct device_env *env, struct device *dev)
{
        struct board *b = container_of(env, struct board, env);

        dev->next = b->devices;
        b->devices = dev;
        if (strncmp(dev->ops->name, "virtio", 6) == 0)
                b->vdev[b->n_vdevs++] = container_of(dev, struct virtio_device, pci.dev);
}

static inline void board_init(struct board *b, u64 ram_size)
{
        pthread_mutex_init(&b->lock, NULL);
        io_space_init(&b->ports, &b->lock, &b->counters, true);
        b->env = (struct device_env){
                .ports = &b->ports, .lock = &b->lock, .counters = &b->counters, .irq = board_irq, .stop = board_stop,
                .add = board_add, .msi = { .send = board_msi },
        };
        require(guest_memory_new(ram_size, &b->lock, &b->counters, &b->env.memory, NULL) == 0);
        b->env.loop = loop_new(&b->lock, NULL);
        require(b->env.loop);
        require(pci_bus_new(&b->env, &b->bus, NULL) == 0);
}

static inline void board_stop_loop(void *opaque)
{
        loop_stop(opaque);
}

/* Runs the event loop for a moment, then frees everything. */
static inline void board_free(struct board *b)
{
        struct loop_timer end;

        loop_timer_init(&end, b->env.loop, board_stop_loop, b->env.loop);
        pthread_mutex_lock(&b->lock);
        loop_timer_set(&end, 1);
        pthread_mutex_unlock(&b->lock);
        loop_run(b->env.loop, NULL);
        pthread_mutex_lock(&b->lock);
        while (b->devices) {
                struct device *dev = b->devices;

                b->devices = dev->next;
                dev->ops->destroy(dev);
        }
        pthread_mutex_unlock(&b->lock);
        loop_free(b->env.loop);
        guest_memory_free(b->env.memory);
        io_space_free(&b->ports);
        pthread_mutex_destroy(&b->lock);
}

/* A device's common configuration (virtio 1.2, 4.1.4.3). */
static inline void board_common_set(struct board *b, const struct virtio_device *vdev, unsigned offset, unsigned size, u64 value)
{
        io_write(&b->env.memory->mmio, vdev->bar_address + offset, value, size);
}

static inline void board_doorbell(struct board *b, const struct virtio_device *vdev, unsigned queue)
{
        io_write(&b->env.memory->mmio, vdev->bar_address + 0x3000 + 4 * queue, 0, 2);
}

/* What was saved must load; also after a bit was flipped it must not break. */
static inline void board_save_and_load(struct device *dev, u64 flip)
{
        struct state_out out;
        struct state_in state = { 0 };

        dev->ops->quiesce(dev);
        state_out_init(&out);
        dev->ops->save(dev, &out);
        require(state_out_finish(&out, NULL) == 0);
        state.data = out.data;
        state.len = state.section_end = out.len;
        require(dev->ops->load(dev, &state, dev->ops->version, NULL) == 0);
        if (flip) {
                out.data[(flip >> 3) % out.len] ^= (u8)(1u << (flip & 7));
                state.pos = 0;
                dev->ops->load(dev, &state, dev->ops->version, NULL);
        }
        dev->ops->resume(dev);
        state_out_free(&out);
}

/* ---- a driver that sets a device up as it should be, so that the fuzzer need not discover that ---- */

#define DRIVER_RINGS 0x1000ULL
#define DRIVER_RING_STEP 0x4000ULL
#define DRIVER_QUEUE_SIZE 64U

static inline u64 driver_rings(unsigned queue)
{
        return DRIVER_RINGS + DRIVER_RING_STEP * queue;
}

/* The board's only device, with all that it offers but @without. */
static inline void driver_set_up(struct board *b, u64 without)
{
        static const u8 zero[DRIVER_RING_STEP];
        const struct virtio_device *vdev = b->vdev[0];
        const u64 features = (vdev->features & ~without) | BIT(VIRTIO_F_VERSION_1);

        io_write(&b->env.memory->mmio, PCI_ECAM_BASE + ((u64)vdev->pci.slot << 15) + PCI_COMMAND, 6, 2);
        board_common_set(b, vdev, 0x14, 1, 0);
        for (unsigned i = 0; i < 2; i++) {
                board_common_set(b, vdev, 0x08, 4, i);
                board_common_set(b, vdev, 0x0c, 4, features >> (32 * i));
        }
        board_common_set(b, vdev, 0x14, 1, 0xb);
        for (unsigned i = 0; i < vdev->type->n_queues; i++) {
                guest_memory_write(b->env.memory, driver_rings(i), zero, sizeof(zero));
                board_common_set(b, vdev, 0x16, 2, i);
                board_common_set(b, vdev, 0x18, 2, DRIVER_QUEUE_SIZE);
                for (unsigned ring = 0; ring < 3; ring++) {
                        const u64 at = driver_rings(i) + (const u64[]){ 0, 0x2000, 0x3000 }[ring];

                        board_common_set(b, vdev, 0x20 + 8 * ring, 4, at);
                        board_common_set(b, vdev, 0x24 + 8 * ring, 4, 0);
                }
                board_common_set(b, vdev, 0x1c, 2, 1);
        }
        board_common_set(b, vdev, 0x14, 1, 0xf);
}

/* Makes one buffer available: descriptor @index of @queue. */
static inline void driver_give(struct board *b, unsigned queue, unsigned index, u64 gpa, u32 len, bool write)
{
        const struct {
                u64 addr;
                u32 len;
                u16 flags, next;
        } desc = { gpa, len, write ? 2 : 0, 0 };
        const u16 head = (u16)(index % DRIVER_QUEUE_SIZE);
        const u64 rings = driver_rings(queue);
        u16 idx = 0;

        guest_memory_write(b->env.memory, rings + 16ULL * head, &desc, sizeof(desc));
        guest_memory_read(b->env.memory, rings + 0x2002, &idx, 2);
        guest_memory_write(b->env.memory, rings + 0x2004 + 2 * (idx % DRIVER_QUEUE_SIZE), &head, 2);
        idx++;
        guest_memory_write(b->env.memory, rings + 0x2002, &idx, 2);
}

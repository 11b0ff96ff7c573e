/* The PCI bus and the virtio devices, as a hostile guest would use them: the input is a sequence of operations on registers,
 * configuration space and ring memory, mixed with what the host side does (frames, typed bytes, pause, save and load, reset).
 *
 * A machine is made for each input: host bridge, rng, console, network on a backend that loops frames back, disk on a small
 * image. "Set up" is an operation too, so that the fuzzer need not discover the whole handshake by chance. The event loop runs
 * for a moment at the end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dev/block/block.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/console.h"
#include "dev/virtio/net.h"
#include "dev/virtio/rng.h"
#include "board.h"

#define RAM_SIZE (256 * KIB)
#define DEVICES 4 /* slots 1..4 */

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

struct machine {
        struct board board;
        struct virtio_console *console;
        struct net_backend wire;
        bool wire_full, quiesced;
};

/* ---- the board ---- */

static void on_output(void *opaque, const u8 *data, size_t n)
{
        volatile u8 sum = 0;

        for (size_t i = 0; i < n; i++)
                sum = (u8)(sum + data[i]);
}

/* Sends come back as received frames. */
static int wire_send(struct net_backend *wire, const struct iovec *iov, unsigned n)
{
        static u8 frame[NET_VNET_HEADER + NET_FRAME_MAX];
        struct machine *m = container_of(wire, struct machine, wire);
        const size_t len = virtio_iov_read(iov, n, 0, frame, sizeof(frame));

        if (m->wire_full)
                return -EAGAIN;
        wire->client.receive(wire->client.opaque, frame, len);
        return 0;
}

static void wire_receive_ready(struct net_backend *wire)
{
        static const u8 frame[100];

        wire->client.receive(wire->client.opaque, frame, sizeof(frame));
}

static void wire_destroy(struct net_backend *wire)
{
}

static const struct net_backend_ops wire_ops = {
        .name = "wire", .send = wire_send, .receive_ready = wire_receive_ready, .destroy = wire_destroy,
};

static struct block_device *disk_new(struct machine *m)
{
        struct block_options options = { .aio = BLOCK_AIO_THREADS, .format = BLOCK_FORMAT_RAW, .no_lock = true };
        struct block_device *disk = NULL;
        const int fd = memfd_create("disk", MFD_CLOEXEC);
        char path[64];

        require(fd >= 0 && ftruncate(fd, 64 * KIB) == 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        options.path = path;
        require(block_open(&options, m->board.env.loop, &m->board.counters, &disk, NULL) == 0);
        close(fd);
        return disk;
}

static struct machine *machine_new(bool vnet)
{
        struct machine *m = calloc(1, sizeof(*m));
        struct virtio_console_config console = { .output = on_output, .columns = 80, .rows = 25 };
        struct virtio_net_config net = { .mac = { 2 } };
        struct virtio_blk_config blk = { .serial = "fuzz" };

        require(m);
        board_init(&m->board, RAM_SIZE);
        m->wire.ops = &wire_ops;
        m->wire.vnet_header = vnet;
        m->wire.offloads = vnet ? 15 : 0;
        net.backend = &m->wire;
        blk.block = disk_new(m);
        require(virtio_rng_new(&m->board.env, m->board.bus, NULL) == 0);
        require(virtio_console_new(&m->board.env, m->board.bus, &console, &m->console, NULL) == 0);
        require(virtio_net_new(&m->board.env, m->board.bus, &net, NULL) == 0);
        require(virtio_blk_new(&m->board.env, m->board.bus, &blk, NULL) == 0);
        require(pci_assign_resources(m->board.bus, NULL) == 0);
        return m;
}

static void machine_free(struct machine *m)
{
        board_free(&m->board);
        free(m);
}

/* ---- operations ---- */

static struct virtio_device *device(struct machine *m, struct input *in)
{
        return m->board.vdev[take(in, 1) % DEVICES];
}

static void do_register(struct machine *m, struct input *in)
{
        struct virtio_device *vdev = device(m, in);
        const u64 what = take(in, 2);
        const unsigned size = 1u << (what & 3);
        const u64 offset = (what >> 2 & 3) << 12 | (what >> 4 & 0x7f);
        u64 value;

        if (what & 0x8000)
                io_write(&m->board.env.memory->mmio, vdev->bar_address + offset, take(in, size), size);
        else
                io_read(&m->board.env.memory->mmio, vdev->bar_address + offset, size, &value);
}

static void do_msix(struct machine *m, struct input *in)
{
        struct virtio_device *vdev = device(m, in);
        const u64 what = take(in, 2);
        const unsigned size = 1u << (what & 3);
        u64 value;

        if (what & 0x8000)
                io_write(&m->board.env.memory->mmio, vdev->pci.bars[1].mapped + (what >> 2 & 0xfff), take(in, size), size);
        else
                io_read(&m->board.env.memory->mmio, vdev->pci.bars[1].mapped + (what >> 2 & 0xfff), size, &value);
}

static void do_config(struct machine *m, struct input *in)
{
        const u64 what = take(in, 3);
        const unsigned size = 1u << (what & 3);
        const u64 at = PCI_ECAM_BASE + ((what >> 2 & 7) << 15) + (what >> 5 & 0x1ff);
        u64 value;

        if (what & 0x800000)
                io_write(&m->board.env.memory->mmio, at, take(in, size), size);
        else
                io_read(&m->board.env.memory->mmio, at, size, &value);
}

static void do_ram(struct machine *m, struct input *in)
{
        const u64 gpa = take(in, 2) << 1;
        const unsigned n = 1 + (unsigned)take(in, 1) % 32;

        for (unsigned i = 0; i < n; i++) {
                const u8 byte = (u8)take(in, 1);

                guest_memory_write(m->board.env.memory, gpa + i, &byte, 1);
        }
}

/* Queue n of device d has its rings at a known place. */
static u64 rings(unsigned d, unsigned n)
{
        return 0x1000 + 0x4000ULL * (2 * d + (n & 1));
}

static void do_set_up(struct machine *m, struct input *in)
{
        const unsigned d = (unsigned)take(in, 1) % DEVICES;
        const struct virtio_device *vdev = m->board.vdev[d];
        const u64 features = vdev->features & (take(in, 6) | BIT(VIRTIO_F_VERSION_1));
        const u64 what = take(in, 1), size = 1u << (what & 7);
        const u64 config = PCI_ECAM_BASE + ((u64)vdev->pci.slot << 15);
        static const u8 zero[0x4000];

        io_write(&m->board.env.memory->mmio, config + PCI_COMMAND, 6, 2);
        io_write(&m->board.env.memory->mmio, config + vdev->pci.msix.cap + 2, what & 8 ? 0x8000 : 0, 2);
        for (unsigned i = 0; i < vdev->pci.msix.n; i++)
                io_write(&m->board.env.memory->mmio, vdev->pci.bars[1].mapped + 16 * i + 12, what >> 4 & 1, 4);
        board_common_set(&m->board, vdev, 0x14, 1, 0);
        for (unsigned i = 0; i < 2; i++) {
                board_common_set(&m->board, vdev, 0x08, 4, i);
                board_common_set(&m->board, vdev, 0x0c, 4, features >> (32 * i));
        }
        board_common_set(&m->board, vdev, 0x14, 1, 0xb);
        for (unsigned i = 0; i < vdev->type->n_queues; i++) {
                guest_memory_write(m->board.env.memory, rings(d, i), zero, sizeof(zero));
                board_common_set(&m->board, vdev, 0x16, 2, i);
                board_common_set(&m->board, vdev, 0x18, 2, size);
                board_common_set(&m->board, vdev, 0x1a, 2, i + 1);
                board_common_set(&m->board, vdev, 0x20, 8, rings(d, i));
                board_common_set(&m->board, vdev, 0x28, 8, rings(d, i) + 0x2000);
                board_common_set(&m->board, vdev, 0x30, 8, rings(d, i) + 0x3000);
                board_common_set(&m->board, vdev, 0x1c, 2, 1);
        }
        board_common_set(&m->board, vdev, 0x14, 1, 0xf);
}

/* A descriptor with plausible fields. */
static void do_descriptor(struct machine *m, struct input *in)
{
        const unsigned which = (unsigned)take(in, 1);
        const u64 at = rings(which & 3, which >> 2 & 1) + 16 * (take(in, 1) & 127);
        const struct {
                u64 addr;
                u32 len;
                u16 flags, next;
        } desc = { take(in, 2) << 2, (u32)take(in, 2), (u16)(take(in, 1) & 7), (u16)(take(in, 1) & 127) };

        guest_memory_write(m->board.env.memory, at, &desc, sizeof(desc));
}

static void do_available(struct machine *m, struct input *in)
{
        const unsigned which = (unsigned)take(in, 1);
        const u64 avail = rings(which & 3, which >> 2 & 1) + 0x2000;
        const u16 head = (u16)(take(in, 1) & 127);
        const struct virtio_device *vdev = m->board.vdev[which & 3];
        const struct virtqueue *q = &vdev->queues[which >> 2 & 1];
        u16 idx = 0;

        guest_memory_read(m->board.env.memory, avail + 2, &idx, 2);
        guest_memory_write(m->board.env.memory, avail + 4 + 2 * (idx & (q->size ? q->size - 1U : 0)), &head, 2);
        idx++;
        guest_memory_write(m->board.env.memory, avail + 2, &idx, 2);
        if (which & 0x80)
                io_write(&m->board.env.memory->mmio, vdev->bar_address + 0x3000 + 4 * (which >> 2 & 1), 0, 2);
}

/* A chain as a driver would make it: a header of 16 bytes, some readable and some writable parts, one status byte. The header's
 * first byte and sector decide what a disk does with it. */
static void do_request(struct machine *m, struct input *in)
{
        const unsigned which = (unsigned)take(in, 1), d = which & 3, n = which >> 2 & 1;
        const unsigned outs = which >> 3 & 3, ins = which >> 5 & 3;
        const struct virtqueue *q = &m->board.vdev[d]->queues[n];
        const u64 header[2] = { take(in, 1) & 15, take(in, 1) }, base = rings(d, n);
        u16 index = (u16)(take(in, 1) & 127), idx = 0;
        const u16 head = index;

        guest_memory_write(m->board.env.memory, 0x30000, header, sizeof(header));
        for (unsigned i = 0; i < 2 + outs + ins; i++) {
                const bool last = i == 1 + outs + ins, write = i > outs;
                struct {
                        u64 addr;
                        u32 len;
                        u16 flags, next;
                } desc = { .addr = 0x30000, .len = 16, .flags = (u16)(write << 1 | !last), .next = (u16)((index + 1) & 127) };

                if (last)
                        desc.addr = 0x30010, desc.len = 1;
                else if (i > 0)
                        desc.addr = 0x20000 + take(in, 2), desc.len = (u32)take(in, 1) << (take(in, 1) & 9);
                guest_memory_write(m->board.env.memory, base + 16ULL * index, &desc, sizeof(desc));
                index = (u16)((index + 1) & 127);
        }
        guest_memory_read(m->board.env.memory, base + 0x2002, &idx, 2);
        guest_memory_write(m->board.env.memory, base + 0x2004 + 2 * (idx & (q->size ? q->size - 1U : 0)), &head, 2);
        idx++;
        guest_memory_write(m->board.env.memory, base + 0x2002, &idx, 2);
        io_write(&m->board.env.memory->mmio, m->board.vdev[d]->bar_address + 0x3000 + 4 * n, 0, 2);
}

static void do_ports(struct machine *m, struct input *in)
{
        const u64 what = take(in, 1);
        u64 value;

        io_write(&m->board.ports, PCI_CONFIG_ADDRESS + (what & 7), take(in, 4), 1u << (what >> 3 & 3));
        io_read(&m->board.ports, PCI_CONFIG_ADDRESS + (what & 7), 1u << (what >> 5 & 3), &value);
}

static void do_host(struct machine *m, struct input *in)
{
        static const u8 bytes[NET_VNET_HEADER + NET_FRAME_MAX];
        const u64 what = take(in, 1), n = take(in, 2);

        switch (what & 7) {
        case 0:
                m->wire.client.receive(m->wire.client.opaque, bytes, n);
                break;
        case 1:
                virtio_console_input(m->console, bytes, n);
                break;
        case 2:
                m->wire_full = n & 1;
                if (!m->wire_full)
                        m->wire.client.writable(m->wire.client.opaque);
                break;
        case 3:
                m->wire.client.link(m->wire.client.opaque, n & 1);
                break;
        default:
                virtio_console_resize(m->console, (u16)n, 25);
                break;
        }
}

static void do_state(struct machine *m, struct input *in)
{
        struct device *dev = &device(m, in)->pci.dev;

        board_save_and_load(dev, take(in, 2));
}

static void do_life(struct machine *m, struct input *in)
{
        struct device *dev = &device(m, in)->pci.dev;

        switch (take(in, 1) & 3) {
        case 0:
                dev->ops->reset(dev);
                break;
        case 1:
                dev->ops->quiesce(dev);
                break;
        default:
                dev->ops->resume(dev);
                break;
        }
}

static const struct {
        void (*run)(struct machine *m, struct input *in);
        bool locked;
} operations[] = {
        { do_register, false },   { do_msix, false },      { do_config, false }, { do_ram, false },
        { do_set_up, false },     { do_descriptor, false }, { do_available, false }, { do_host, true },
        { do_state, true },       { do_life, true },        { do_request, false }, { do_request, false },
        { do_ports, false },
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct input in = { data, len };
        struct machine *m = machine_new(take(&in, 1) & 1);

        for (int i = 0; i < 400 && in.left; i++) {
                const unsigned op = (unsigned)take(&in, 1) % ARRAY_SIZE(operations);

                if (operations[op].locked)
                        pthread_mutex_lock(&m->board.lock);
                operations[op].run(m, &in);
                if (operations[op].locked)
                        pthread_mutex_unlock(&m->board.lock);
        }
        machine_free(m);
        return 0;
}

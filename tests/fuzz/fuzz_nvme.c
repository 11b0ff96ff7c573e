/* The NVMe controller, as a hostile guest would use it: the input is a sequence of register accesses, doorbells, memory writes and
 * commands, mixed with pause, reset, save and load. "Set up" and "command" are operations, so that the fuzzer need not discover the
 * handshake by chance.
 *
 * Checked: nothing breaks; after a reset nothing is in flight; what was saved loads and saves to the same bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dev/nvme.h"
#include "input.h"

#define RAM_SIZE (256 * KIB)
#define DISK_SIZE (64 * KIB)
#define QUEUES 3U     /* admin and two I/O queues at known places */
#define ENTRIES 16U

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

struct machine {
        struct device_env env;
        pthread_mutex_t lock;
        struct counters counters;
        struct io_space ports;
        struct device *devices;
        struct pci_bus *bus;
        struct block_device *disk;
        struct pci_device *pci;
        u32 tail[QUEUES], head[QUEUES];
};

/* ---- the board ---- */

static void line_set(void *opaque, unsigned n, bool level)
{
}

static struct irq_line env_irq(struct device_env *env, unsigned gsi)
{
        return (struct irq_line){ .set = line_set };
}

static void env_stop(struct device_env *env, enum machine_stop why, unsigned code)
{
}

static void env_add(struct device_env *env, struct device *dev)
{
        struct machine *m = container_of(env, struct machine, env);

        dev->next = m->devices;
        m->devices = dev;
        if (strcmp(dev->ops->name, "nvme") == 0)
                m->pci = container_of(dev, struct pci_device, dev);
}

static void msi_send(void *opaque, u64 address, u32 data)
{
}

static void disk_new(struct machine *m, bool read_only)
{
        struct block_options options = { .aio = BLOCK_AIO_THREADS, .format = BLOCK_FORMAT_RAW, .no_lock = true,
                                         .read_only = read_only };
        const int fd = memfd_create("disk", MFD_CLOEXEC);
        char path[64];

        require(fd >= 0 && ftruncate(fd, DISK_SIZE) == 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        options.path = path;
        require(block_open(&options, m->env.loop, &m->counters, &m->disk, NULL) == 0);
        close(fd);
}

static struct machine *machine_new(bool read_only)
{
        struct machine *m = calloc(1, sizeof(*m));
        struct nvme_config config = { 0 };

        require(m);
        pthread_mutex_init(&m->lock, NULL);
        io_space_init(&m->ports, &m->lock, &m->counters, true);
        m->env = (struct device_env){
                .ports = &m->ports, .lock = &m->lock, .counters = &m->counters, .irq = env_irq, .stop = env_stop,
                .add = env_add, .msi = { .send = msi_send },
        };
        require(guest_memory_new(RAM_SIZE, &m->lock, &m->counters, &m->env.memory, NULL) == 0);
        m->env.loop = loop_new(&m->lock, NULL);
        require(m->env.loop);
        require(pci_bus_new(&m->env, &m->bus, NULL) == 0);
        disk_new(m, read_only);
        config.disk = m->disk;
        require(nvme_new(&m->env, m->bus, &config, NULL) == 0);
        require(pci_assign_resources(m->bus, NULL) == 0);
        return m;
}

static void stop_loop(void *opaque)
{
        loop_stop(opaque);
}

static void machine_free(struct machine *m)
{
        struct loop_timer end;

        loop_timer_init(&end, m->env.loop, stop_loop, m->env.loop);
        pthread_mutex_lock(&m->lock);
        loop_timer_set(&end, 1);
        pthread_mutex_unlock(&m->lock);
        loop_run(m->env.loop, NULL);
        pthread_mutex_lock(&m->lock);
        while (m->devices) {
                struct device *dev = m->devices;

                m->devices = dev->next;
                dev->ops->destroy(dev);
        }
        pthread_mutex_unlock(&m->lock);
        loop_free(m->env.loop);
        guest_memory_free(m->env.memory);
        io_space_free(&m->ports);
        pthread_mutex_destroy(&m->lock);
        free(m);
}

/* ---- operations ---- */

static void reg_write(struct machine *m, u64 offset, unsigned size, u64 value)
{
        if (m->pci->bars[0].mapped != PCI_UNMAPPED)
                io_write(&m->env.memory->mmio, m->pci->bars[0].mapped + offset, value, size);
}

static void do_register(struct machine *m, struct input *in)
{
        const u64 what = take(in, 2);
        const unsigned size = 1u << (what & 3);
        const u64 offset = what >> 2 & 0x3f;
        u64 value;

        if (m->pci->bars[0].mapped == PCI_UNMAPPED)
                return;
        if (what & 0x8000)
                reg_write(m, offset, size, take(in, size));
        else
                io_read(&m->env.memory->mmio, m->pci->bars[0].mapped + (what >> 2 & 0x1fff), size, &value);
}

static void do_doorbell(struct machine *m, struct input *in)
{
        const u64 index = take(in, 1);

        reg_write(m, 0x1000 + 4 * (index & 63), 4, take(in, index & 64 ? 4 : 1));
}

static void do_ram(struct machine *m, struct input *in)
{
        const u64 gpa = take(in, 2) << 2;
        const unsigned n = 1 + (unsigned)take(in, 1) % 32;

        for (unsigned i = 0; i < n; i++) {
                const u8 byte = (u8)take(in, 1);

                guest_memory_write(m->env.memory, gpa + i, &byte, 1);
        }
}

static u64 sq_at(unsigned q)
{
        return 0x1000 + q * 0x2000ULL;
}

static u64 cq_at(unsigned q)
{
        return 0x2000 + q * 0x2000ULL;
}

static void post(struct machine *m, unsigned q, const u32 sqe[16])
{
        guest_memory_write(m->env.memory, sq_at(q) + m->tail[q] * 64ULL, sqe, 64);
        m->tail[q] = (m->tail[q] + 1) % ENTRIES;
        reg_write(m, 0x1000 + 8 * q, 4, m->tail[q]);
}

static void do_set_up(struct machine *m, struct input *in)
{
        io_write(&m->env.memory->mmio, PCI_ECAM_BASE + ((u64)m->pci->slot << 15) + PCI_COMMAND, 6, 2);
        memset(m->tail, 0, sizeof(m->tail));
        memset(m->head, 0, sizeof(m->head));
        reg_write(m, 0x14, 4, 0);
        pthread_mutex_lock(&m->lock);
        block_drain(m->disk);
        pthread_mutex_unlock(&m->lock);
        reg_write(m, 0x24, 4, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        reg_write(m, 0x28, 8, sq_at(0));
        reg_write(m, 0x30, 8, cq_at(0));
        reg_write(m, 0x14, 4, 0x460001);
        for (unsigned q = 1; q < QUEUES; q++) {
                u32 sqe[16] = { 0x05, 0, 0, 0, 0, 0, (u32)cq_at(q), 0, 0, 0, (ENTRIES - 1) << 16 | q, q << 16 | 3 };

                post(m, 0, sqe);
                sqe[0] = 0x01;
                sqe[6] = (u32)sq_at(q);
                sqe[11] = q << 16 | 1;
                post(m, 0, sqe);
        }
}

/* A command with plausible fields. */
static void do_command(struct machine *m, struct input *in)
{
        const unsigned what = (unsigned)take(in, 1), q = (what & 3) % QUEUES;
        u32 sqe[16] = { 0 };

        sqe[0] = (u32)take(in, 1) & (what & 4 ? 0xff : 0x0f);
        sqe[1] = what & 8 ? (u32)take(in, 4) : 1;
        sqe[6] = 0x10000 + ((u32)take(in, 2) << 2);
        sqe[8] = what & 16 ? 0x10000 + ((u32)take(in, 2) << 3) : 0x20000;
        sqe[10] = (u32)take(in, what & 32 ? 4 : 1);
        sqe[11] = what & 64 ? (u32)take(in, 4) : 0;
        sqe[12] = (u32)take(in, what & 128 ? 4 : 1);
        post(m, q, sqe);
}

/* The guest takes a completion. */
static void do_take(struct machine *m, struct input *in)
{
        const unsigned q = (unsigned)take(in, 1) % QUEUES;

        m->head[q] = (m->head[q] + 1) % ENTRIES;
        reg_write(m, 0x1004 + 8 * q, 4, m->head[q]);
}

static void do_config(struct machine *m, struct input *in)
{
        const u64 what = take(in, 2);
        const unsigned size = 1u << (what & 3);

        io_write(&m->env.memory->mmio, PCI_ECAM_BASE + ((u64)m->pci->slot << 15) + (what >> 2 & 0xff), take(in, size), size);
}

/* What was saved must load; after the bytes were changed a little it must not break. */
static void do_state(struct machine *m, struct input *in)
{
        struct device *dev = &m->pci->dev;
        const u64 flip = take(in, 2);
        struct state_out out, again;
        struct state_in state = { 0 };

        dev->ops->quiesce(dev);
        state_out_init(&out);
        state_out_init(&again);
        dev->ops->save(dev, &out);
        require(state_out_finish(&out, NULL) == 0);
        state.data = out.data;
        state.len = state.section_end = out.len;
        require(dev->ops->load(dev, &state, 1, NULL) == 0);
        dev->ops->save(dev, &again);
        require(again.len == out.len && memcmp(again.data, out.data, out.len) == 0);
        if (flip) {
                out.data[(flip >> 3) % out.len] ^= (u8)(1u << (flip & 7));
                state.pos = 0;
                dev->ops->load(dev, &state, 1, NULL);
        }
        dev->ops->resume(dev);
        state_out_free(&out);
        state_out_free(&again);
}

static void do_life(struct machine *m, struct input *in)
{
        struct device *dev = &m->pci->dev;

        switch (take(in, 1) & 3) {
        case 0:
                dev->ops->reset(dev);
                require(block_in_flight(m->disk) == 0);
                break;
        case 1:
                dev->ops->quiesce(dev);
                require(block_in_flight(m->disk) == 0);
                break;
        case 2:
                block_drain(m->disk);
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
        { do_register, false }, { do_doorbell, false }, { do_ram, false },    { do_set_up, false }, { do_command, false },
        { do_command, false },  { do_take, false },     { do_config, false }, { do_state, true },   { do_life, true },
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct input in = { data, len };
        const unsigned mode = (unsigned)take(&in, 1);
        struct machine *m = machine_new(mode & 1);

        if (mode & 2)
                do_set_up(m, &in);
        for (unsigned i = 0; i < 300 && in.left > 0; i++) {
                const size_t op = (size_t)take(&in, 1) % ARRAY_SIZE(operations);

                if (operations[op].locked)
                        pthread_mutex_lock(&m->lock);
                operations[op].run(m, &in);
                if (operations[op].locked)
                        pthread_mutex_unlock(&m->lock);
        }
        machine_free(m);
        return 0;
}

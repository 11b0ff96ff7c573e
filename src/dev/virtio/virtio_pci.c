/* virtio over PCI (virtio 1.2, 4.1), without the legacy interface.
 *
 * One 16 KiB BAR holds everything, a page per structure, found by the driver through five vendor capabilities. Vector tables have
 * BAR 1 to themselves. A doorbell is four bytes per queue, so that an engine can tell them apart by address alone. */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dev/virtio/virtio_internal.h"

enum {
        BAR_MSIX = 1,
        BAR_REGISTERS = 4,

        AT_COMMON = 0x0000,
        AT_ISR = 0x1000,
        AT_CONFIG = 0x2000,
        AT_NOTIFY = 0x3000,
        SECTION_SIZE = 0x1000,
        BAR_SIZE = 0x4000,

        COMMON_SIZE = 0x3c,
        NOTIFY_MULTIPLIER = 4,

        /* virtio_pci_cap.cfg_type */
        CAP_COMMON = 1,
        CAP_NOTIFY = 2,
        CAP_ISR = 3,
        CAP_DEVICE = 4,
        CAP_PCI = 5,

        ISR_QUEUE = 1,
        ISR_CONFIG = 2,
};

static struct virtio_device *vdev_of_pci(struct pci_device *pci)
{
        return container_of(pci, struct virtio_device, pci);
}

/* ---- interrupts ---- */

static void interrupt(struct virtio_device *vdev, u16 vector, u8 isr)
{
        if (pci_msix_enabled(&vdev->pci)) {
                if (vector != VIRTIO_NO_VECTOR)
                        pci_msix_send(&vdev->pci, vector);
                return;
        }
        vdev->isr |= isr;
        pci_intx_set(&vdev->pci, true);
}

void virtio_interrupt_queue(struct virtqueue *q)
{
        interrupt(q->vdev, q->msix_vector, ISR_QUEUE);
}

void virtio_interrupt_config(struct virtio_device *vdev)
{
        interrupt(vdev, vdev->config_vector, ISR_CONFIG);
}

/* ---- common configuration (4.1.4.3): one line a register ---- */

static struct virtqueue *selected(struct virtio_device *vdev)
{
        return vdev->queue_select < vdev->type->n_queues ? &vdev->queues[vdev->queue_select] : NULL;
}

/* A queue may be set up only while it is not enabled. */
static struct virtqueue *selected_for_setup(struct virtio_device *vdev)
{
        struct virtqueue *q = selected(vdev);

        return q && !q->enabled ? q : NULL;
}

static u16 vector_checked(const struct virtio_device *vdev, u32 vector)
{
        return vector < vdev->pci.msix.n ? (u16)vector : VIRTIO_NO_VECTOR;
}

static u32 get_device_feature_select(struct virtio_device *vdev)
{
        return vdev->device_feature_select;
}

static void set_device_feature_select(struct virtio_device *vdev, u32 value)
{
        vdev->device_feature_select = value;
}

static u32 get_device_feature(struct virtio_device *vdev)
{
        return vdev->device_feature_select < 2 ? (u32)(vdev->features >> (32 * vdev->device_feature_select)) : 0;
}

static u32 get_driver_feature_select(struct virtio_device *vdev)
{
        return vdev->driver_feature_select;
}

static void set_driver_feature_select(struct virtio_device *vdev, u32 value)
{
        vdev->driver_feature_select = value;
}

static u32 get_driver_feature(struct virtio_device *vdev)
{
        return vdev->driver_feature_select < 2 ? (u32)(vdev->driver_features >> (32 * vdev->driver_feature_select)) : 0;
}

static void set_driver_feature(struct virtio_device *vdev, u32 value)
{
        const unsigned shift = 32 * (vdev->driver_feature_select & 1);

        if (vdev->driver_feature_select > 1 || vdev->status & VIRTIO_STATUS_FEATURES_OK)
                return;
        vdev->driver_features = (vdev->driver_features & ~(0xffffffffULL << shift)) | (u64)value << shift;
}

static u32 get_config_vector(struct virtio_device *vdev)
{
        return vdev->config_vector;
}

static void set_config_vector(struct virtio_device *vdev, u32 value)
{
        vdev->config_vector = vector_checked(vdev, value);
}

static u32 get_num_queues(struct virtio_device *vdev)
{
        return vdev->type->n_queues;
}

static u32 get_status(struct virtio_device *vdev)
{
        return vdev->status;
}

static void set_status(struct virtio_device *vdev, u32 value)
{
        virtio_status_write(vdev, (u8)value);
}

static u32 get_config_generation(struct virtio_device *vdev)
{
        return vdev->config_generation;
}

static u32 get_queue_select(struct virtio_device *vdev)
{
        return vdev->queue_select;
}

static void set_queue_select(struct virtio_device *vdev, u32 value)
{
        vdev->queue_select = (u16)value;
}

/* 0 for a queue that does not exist. */
static u32 get_queue_size(struct virtio_device *vdev)
{
        const struct virtqueue *q = selected(vdev);

        return q ? q->size : 0;
}

static void set_queue_size(struct virtio_device *vdev, u32 value)
{
        struct virtqueue *q = selected_for_setup(vdev);

        if (q && value && value <= q->size_max && !(value & (value - 1)))
                q->size = (u16)value;
}

static u32 get_queue_vector(struct virtio_device *vdev)
{
        const struct virtqueue *q = selected(vdev);

        return q ? q->msix_vector : VIRTIO_NO_VECTOR;
}

static void set_queue_vector(struct virtio_device *vdev, u32 value)
{
        struct virtqueue *q = selected(vdev);

        if (q)
                q->msix_vector = vector_checked(vdev, value);
}

static u32 get_queue_enable(struct virtio_device *vdev)
{
        const struct virtqueue *q = selected(vdev);

        return q ? q->enabled : 0;
}

static void set_queue_enable(struct virtio_device *vdev, u32 value)
{
        struct virtqueue *q = selected(vdev);

        if (q && value == 1)
                virtio_queue_enable(q);
}

static u32 get_queue_notify_off(struct virtio_device *vdev)
{
        const struct virtqueue *q = selected(vdev);

        return q ? q->index : 0;
}

static void set_queue_reset(struct virtio_device *vdev, u32 value)
{
        struct virtqueue *q = selected(vdev);

        if (q && value == 1)
                virtio_queue_reset_one(q);
}

/* Resets are synchronous, so none is ever seen in progress. */
static u32 get_queue_reset(struct virtio_device *vdev)
{
        (void)vdev;
        return 0;
}

#define RING_ADDRESS(field)                                                                                            \
        static u32 get_##field##_lo(struct virtio_device *vdev)                                                        \
        {                                                                                                              \
                const struct virtqueue *q = selected(vdev);                                                            \
                                                                                                                       \
                return q ? (u32)q->field : 0;                                                                          \
        }                                                                                                              \
        static u32 get_##field##_hi(struct virtio_device *vdev)                                                        \
        {                                                                                                              \
                const struct virtqueue *q = selected(vdev);                                                            \
                                                                                                                       \
                return q ? (u32)(q->field >> 32) : 0;                                                                  \
        }                                                                                                              \
        static void set_##field##_lo(struct virtio_device *vdev, u32 value)                                            \
        {                                                                                                              \
                struct virtqueue *q = selected_for_setup(vdev);                                                        \
                                                                                                                       \
                if (q)                                                                                                 \
                        q->field = (q->field & ~0xffffffffULL) | value;                                                \
        }                                                                                                              \
        static void set_##field##_hi(struct virtio_device *vdev, u32 value)                                            \
        {                                                                                                              \
                struct virtqueue *q = selected_for_setup(vdev);                                                        \
                                                                                                                       \
                if (q)                                                                                                 \
                        q->field = (q->field & 0xffffffffULL) | (u64)value << 32;                                      \
        }
RING_ADDRESS(desc)
RING_ADDRESS(avail)
RING_ADDRESS(used)

static const struct common_register {
        u8 offset, size;
        u32 (*get)(struct virtio_device *vdev);
        void (*set)(struct virtio_device *vdev, u32 value);
} common_registers[] = {
        { 0x00, 4, get_device_feature_select, set_device_feature_select },
        { 0x04, 4, get_device_feature, NULL },
        { 0x08, 4, get_driver_feature_select, set_driver_feature_select },
        { 0x0c, 4, get_driver_feature, set_driver_feature },
        { 0x10, 2, get_config_vector, set_config_vector },
        { 0x12, 2, get_num_queues, NULL },
        { 0x14, 1, get_status, set_status },
        { 0x15, 1, get_config_generation, NULL },
        { 0x16, 2, get_queue_select, set_queue_select },
        { 0x18, 2, get_queue_size, set_queue_size },
        { 0x1a, 2, get_queue_vector, set_queue_vector },
        { 0x1c, 2, get_queue_enable, set_queue_enable },
        { 0x1e, 2, get_queue_notify_off, NULL },
        { 0x20, 4, get_desc_lo, set_desc_lo },
        { 0x24, 4, get_desc_hi, set_desc_hi },
        { 0x28, 4, get_avail_lo, set_avail_lo },
        { 0x2c, 4, get_avail_hi, set_avail_hi },
        { 0x30, 4, get_used_lo, set_used_lo },
        { 0x34, 4, get_used_hi, set_used_hi },
        { 0x38, 2, get_queue_notify_off, NULL }, /* queue_notify_data: unused without NOTIF_CONFIG_DATA */
        { 0x3a, 2, get_queue_reset, set_queue_reset },
};

static const struct common_register *register_at(u64 offset)
{
        for (size_t i = 0; i < ARRAY_SIZE(common_registers); i++) {
                if (offset - common_registers[i].offset < common_registers[i].size)
                        return &common_registers[i];
        }
        return NULL;
}

static u32 common_read(struct virtio_device *vdev, u64 offset, unsigned size)
{
        u32 value = 0;

        for (unsigned i = 0; i < size;) {
                const struct common_register *reg = register_at(offset + i);
                unsigned n, skip;

                if (!reg)
                        break;
                skip = (unsigned)(offset + i - reg->offset);
                n = MIN(size - i, reg->size - skip);
                value |= (u32)(((reg->get(vdev) >> (8 * skip)) & (BIT(8 * n) - 1)) << (8 * i));
                i += n;
        }
        return value;
}

/* "The driver MUST access each field using the natural size" (4.1.3.1): other writes are ignored. */
static void common_write(struct virtio_device *vdev, u64 offset, u32 value, unsigned size)
{
        const struct common_register *reg = register_at(offset);

        if (reg && reg->set && reg->offset == offset && reg->size == size)
                reg->set(vdev, value);
}

/* ---- the other structures ---- */

/* Reading acknowledges (4.1.4.5). */
static u32 isr_read(struct virtio_device *vdev, u64 offset, unsigned size)
{
        const u8 isr = vdev->isr;

        (void)size;
        if (offset != 0)
                return 0;
        vdev->isr = 0;
        pci_intx_set(&vdev->pci, false);
        return isr;
}

static u32 config_read(struct virtio_device *vdev, u64 offset, unsigned size)
{
        u32 value = 0;

        for (unsigned i = 0; i < size && offset + i < vdev->type->config_size; i++)
                value |= (u32)vdev->config[offset + i] << (8 * i);
        return value;
}

static void config_write(struct virtio_device *vdev, u64 offset, u32 value, unsigned size)
{
        const struct virtio_type *type = vdev->type;

        if (type->ops->config_written && offset + size <= type->config_size)
                type->ops->config_written(vdev, (unsigned)offset, size, value);
}

static void notify_write(struct virtio_device *vdev, u64 offset, u32 value, unsigned size)
{
        const u64 n = offset / NOTIFY_MULTIPLIER;

        (void)value;
        (void)size;
        trace(VIRTIO_NOTIFY, vdev->pci.slot, n);
        if (n < vdev->type->n_queues)
                virtqueue_run(&vdev->queues[n]);
}

static const struct section {
        u32 (*read)(struct virtio_device *vdev, u64 offset, unsigned size);
        void (*write)(struct virtio_device *vdev, u64 offset, u32 value, unsigned size);
} sections[] = {
        [AT_COMMON / SECTION_SIZE] = { common_read, common_write },
        [AT_ISR / SECTION_SIZE] = { isr_read, NULL },
        [AT_CONFIG / SECTION_SIZE] = { config_read, config_write },
        [AT_NOTIFY / SECTION_SIZE] = { NULL, notify_write },
};

static u64 registers_read(void *opaque, u64 offset, unsigned size)
{
        const struct section *section = &sections[(offset / SECTION_SIZE) % ARRAY_SIZE(sections)];

        return section->read ? section->read(opaque, offset % SECTION_SIZE, size) : 0;
}

static void registers_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        const struct section *section = &sections[(offset / SECTION_SIZE) % ARRAY_SIZE(sections)];

        if (section->write)
                section->write(opaque, offset % SECTION_SIZE, (u32)value, size);
}

static const struct io_ops registers_ops = { .read = registers_read, .write = registers_write, .max_size = 4 };

/* ---- doorbells as eventfds ---- */

static void on_doorbell(void *opaque, int revents)
{
        struct virtqueue *q = opaque;
        u64 count;

        (void)revents;
        if (read(q->doorbell_fd, &count, sizeof(count)) != sizeof(count))
                return;
        trace(VIRTIO_NOTIFY, q->vdev->pci.slot, q->index);
        virtqueue_run(q);
}

static bool doorbell_prepare(struct virtqueue *q)
{
        struct device_env *env = q->vdev->env;

        if (q->doorbell_fd >= 0)
                return true;
        q->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (q->doorbell_fd < 0)
                return false;
        q->doorbell_watch = loop_fd_add(env->loop, q->doorbell_fd, POLLIN, on_doorbell, q, NULL);
        if (!q->doorbell_watch) {
                close(q->doorbell_fd);
                q->doorbell_fd = -1;
        }
        return q->doorbell_fd >= 0;
}

static void doorbell_update(struct virtqueue *q)
{
        struct virtio_device *vdev = q->vdev;
        struct device_env *env = vdev->env;
        u64 wanted = PCI_UNMAPPED;

        if (q->enabled && q->used_ring && vdev->status & VIRTIO_STATUS_DRIVER_OK && vdev->bar_address != PCI_UNMAPPED)
                wanted = vdev->bar_address + AT_NOTIFY + (u64)q->index * NOTIFY_MULTIPLIER;
        if (wanted == q->doorbell_address)
                return;
        if (q->doorbell_address != PCI_UNMAPPED)
                env->ioeventfd(env, false, q->doorbell_address, 2, q->doorbell_fd, false);
        q->doorbell_address = PCI_UNMAPPED;
        /* Where it fails the doorbell is an ordinary device write: slower, not wrong. */
        if (wanted != PCI_UNMAPPED && doorbell_prepare(q) &&
            env->ioeventfd(env, false, wanted, 2, q->doorbell_fd, true) == 0)
                q->doorbell_address = wanted;
}

void virtio_doorbells_update(struct virtio_device *vdev)
{
        for (unsigned i = 0; vdev->env->ioeventfd && i < vdev->type->n_queues; i++)
                doorbell_update(&vdev->queues[i]);
}

void virtio_doorbells_free(struct virtio_device *vdev)
{
        for (unsigned i = 0; i < vdev->type->n_queues; i++) {
                struct virtqueue *q = &vdev->queues[i];

                q->doorbell_watch = loop_fd_remove(q->doorbell_watch);
                if (q->doorbell_fd >= 0)
                        close(q->doorbell_fd);
                q->doorbell_fd = -1;
        }
}

/* ---- PCI hooks ---- */

static void on_bar_mapped(struct pci_device *pci, unsigned bar, u64 address)
{
        struct virtio_device *vdev = vdev_of_pci(pci);

        if (bar != BAR_REGISTERS)
                return;
        vdev->bar_address = address;
        virtio_doorbells_update(vdev);
}

static void on_command(struct pci_device *pci, u16 command)
{
        struct virtio_device *vdev = vdev_of_pci(pci);

        if (command & PCI_COMMAND_MASTER)
                virtio_rerun_all(vdev);
}

/* The window capability (4.1.4.9): reading or writing its data field accesses the BAR as the other fields say. */
enum { CFG_BAR = 4, CFG_OFFSET = 8, CFG_LENGTH = 12, CFG_DATA = 16, CFG_SIZE = 20 };

static bool window_target(const struct virtio_device *vdev, unsigned offset, unsigned size, u32 *ret_at, u32 *ret_size)
{
        const unsigned cap = vdev->cfg_cap;
        const u32 at = pci_config_get(&vdev->pci, cap + CFG_OFFSET, 4);
        const u32 length = pci_config_get(&vdev->pci, cap + CFG_LENGTH, 4);

        if (offset + size <= cap + CFG_DATA || offset >= cap + CFG_SIZE)
                return false;
        if (vdev->pci.config[cap + CFG_BAR] != BAR_REGISTERS || (length != 1 && length != 2 && length != 4) ||
            at % length || at >= BAR_SIZE || BAR_SIZE - at < length)
                return false;
        *ret_at = at;
        *ret_size = length;
        return true;
}

static void on_config_reading(struct pci_device *pci, unsigned offset, unsigned size)
{
        struct virtio_device *vdev = vdev_of_pci(pci);
        u32 at, length;

        if (window_target(vdev, offset, size, &at, &length))
                pci_config_set(pci, vdev->cfg_cap + CFG_DATA, length, (u32)registers_read(vdev, at, length));
}

static void on_config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
        struct virtio_device *vdev = vdev_of_pci(pci);
        u32 at, length;

        if (window_target(vdev, offset, size, &at, &length))
                registers_write(vdev, at, pci_config_get(pci, vdev->cfg_cap + CFG_DATA, length), length);
}

static const struct pci_device_ops pci_hooks = {
        .bar_mapped = on_bar_mapped,
        .config_reading = on_config_reading,
        .config_written = on_config_written,
        .command_written = on_command,
};

/* struct virtio_pci_cap (4.1.4). Returns its offset. */
static int capability_add(struct virtio_device *vdev, u8 type, u32 offset, u32 length, unsigned size, struct err **err)
{
        struct pci_device *pci = &vdev->pci;
        int cap = pci_capability_add(pci, PCI_CAP_ID_VENDOR, size, err);

        if (cap < 0)
                return cap;
        pci->config[cap + 2] = (u8)size;
        pci->config[cap + 3] = type;
        pci->config[cap + CFG_BAR] = type == CAP_PCI ? 0 : BAR_REGISTERS;
        pci_config_set(pci, (unsigned)cap + CFG_OFFSET, 4, offset);
        pci_config_set(pci, (unsigned)cap + CFG_LENGTH, 4, length);
        return cap;
}

static int capabilities_add(struct virtio_device *vdev, struct err **err)
{
        const struct virtio_type *type = vdev->type;
        struct pci_device *pci = &vdev->pci;
        int cap;

        cap = capability_add(vdev, CAP_PCI, 0, 0, CFG_SIZE, err);
        if (cap < 0)
                return cap;
        vdev->cfg_cap = (unsigned)cap;
        pci->writable[cap + CFG_BAR] = 0xff;
        for (int i = CFG_OFFSET; i < CFG_SIZE; i++)
                pci->writable[cap + i] = 0xff;

        cap = capability_add(vdev, CAP_NOTIFY, AT_NOTIFY, type->n_queues * NOTIFY_MULTIPLIER, 20, err);
        if (cap < 0)
                return cap;
        pci_config_set(pci, (unsigned)cap + 16, 4, NOTIFY_MULTIPLIER);
        if (type->config_size) {
                cap = capability_add(vdev, CAP_DEVICE, AT_CONFIG, type->config_size, 16, err);
                if (cap < 0)
                        return cap;
        }
        cap = capability_add(vdev, CAP_ISR, AT_ISR, 1, 16, err);
        if (cap < 0)
                return cap;
        return capability_add(vdev, CAP_COMMON, AT_COMMON, COMMON_SIZE, 16, err);
}

int virtio_pci_init(struct virtio_device *vdev, struct pci_bus *bus, struct err **err)
{
        const struct virtio_type *type = vdev->type;
        /* "PCI Device ID ... 0x1040 plus the Virtio Device ID"; revision 1 or higher: no legacy (4.1.2). */
        const struct pci_id id = {
                .vendor = VIRTIO_PCI_VENDOR, .device = (u16)(0x1040 + type->id), .subsystem_vendor = VIRTIO_PCI_VENDOR,
                .subsystem = (u16)(0x1040 + type->id), .revision = 1, .class_code = type->pci_class, .intx = true,
        };
        int r;

        r = pci_device_init(&vdev->pci, bus, &id, type->device_ops, &pci_hooks, err);
        if (r < 0)
                return r;
        r = pci_bar_add(&vdev->pci, BAR_REGISTERS, PCI_BAR_MEM64, BAR_SIZE, &registers_ops, vdev, "virtio-registers", err);
        if (r < 0)
                return r;
        r = capabilities_add(vdev, err);
        if (r < 0)
                return r;
        /* A vector for each queue and one for configuration changes. */
        return pci_msix_init(&vdev->pci, BAR_MSIX, type->n_queues + 1, err);
}

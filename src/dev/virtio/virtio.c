/* The virtio device core: status machine (virtio 1.2, 3.1), queue life cycle, saved state. */
#include "dev/virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "dev/virtio/virtio_internal.h"

#define STATUS_FROM_DRIVER                                                                                             \
        (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK |      \
         VIRTIO_STATUS_FAILED)

static struct virtio_device *vdev_of(struct device *dev)
{
        return container_of(dev, struct virtio_device, pci.dev);
}

bool virtio_running(const struct virtio_device *vdev)
{
        return vdev->status & VIRTIO_STATUS_DRIVER_OK &&
               !(vdev->status & (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)) && !vdev->quiesced &&
               pci_bus_master(&vdev->pci);
}

void virtio_needs_reset(struct virtio_device *vdev)
{
        if (vdev->status & VIRTIO_STATUS_NEEDS_RESET)
                return;
        vdev->status |= VIRTIO_STATUS_NEEDS_RESET;
        trace(VIRTIO_STATUS, vdev->pci.slot, vdev->status);
        /* "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device MUST send a device configuration change
         * notification to the driver" (2.1.2). */
        if (vdev->status & VIRTIO_STATUS_DRIVER_OK)
                virtio_interrupt_config(vdev);
}

void virtio_config_changed(struct virtio_device *vdev)
{
        vdev->config_generation++;
        if (vdev->status & VIRTIO_STATUS_DRIVER_OK)
                virtio_interrupt_config(vdev);
}

/* ---- running queues from the loop ---- */

static void on_rerun(void *opaque)
{
        struct virtio_device *vdev = opaque;
        const u32 queues = vdev->rerun_queues;

        vdev->rerun_queues = 0;
        for (unsigned i = 0; i < vdev->type->n_queues; i++) {
                if (queues & BIT(i))
                        virtqueue_run(&vdev->queues[i]);
        }
}

void virtio_rerun_all(struct virtio_device *vdev)
{
        for (unsigned i = 0; i < vdev->type->n_queues; i++) {
                if (vdev->queues[i].enabled)
                        virtqueue_rerun(&vdev->queues[i]);
        }
}

/* ---- the status machine ---- */

static void reset(struct virtio_device *vdev)
{
        if (vdev->type->ops->reset)
                vdev->type->ops->reset(vdev);
        vdev->status = 0;
        loop_timer_cancel(&vdev->rerun);
        for (unsigned i = 0; i < vdev->type->n_queues; i++)
                virtqueue_reset(&vdev->queues[i]);
        virtio_doorbells_update(vdev);
        vdev->driver_features = 0;
        vdev->isr = 0;
        vdev->config_vector = VIRTIO_NO_VECTOR;
        vdev->device_feature_select = vdev->driver_feature_select = 0;
        vdev->queue_select = 0;
        pci_intx_set(&vdev->pci, false);
}

static bool features_ok(struct virtio_device *vdev)
{
        const struct virtio_ops *ops = vdev->type->ops;

        if (vdev->driver_features & ~vdev->features || !virtio_has(vdev, VIRTIO_F_VERSION_1))
                return false;
        return !ops->features_accepted || ops->features_accepted(vdev, vdev->driver_features);
}

void virtio_status_write(struct virtio_device *vdev, u8 status)
{
        const u8 before = vdev->status;
        u8 set = (u8)(status & STATUS_FROM_DRIVER & ~before);

        if (status == 0) {
                reset(vdev);
                trace(VIRTIO_STATUS, vdev->pci.slot, 0);
                return;
        }
        /* A driver must not clear bits, so it cannot. */
        if (set & VIRTIO_STATUS_FEATURES_OK && !features_ok(vdev))
                set &= (u8)~VIRTIO_STATUS_FEATURES_OK;
        if (set & VIRTIO_STATUS_DRIVER_OK && !((before | set) & VIRTIO_STATUS_FEATURES_OK))
                set &= (u8)~VIRTIO_STATUS_DRIVER_OK;
        vdev->status |= set;
        trace(VIRTIO_STATUS, vdev->pci.slot, vdev->status);
        if (!(set & VIRTIO_STATUS_DRIVER_OK))
                return;
        if (vdev->type->ops->start)
                vdev->type->ops->start(vdev);
        virtio_doorbells_update(vdev);
        virtio_rerun_all(vdev);
}

void virtio_queue_enable(struct virtqueue *q)
{
        struct virtio_device *vdev = q->vdev;

        if (q->enabled || q->size == 0 || !(vdev->status & VIRTIO_STATUS_FEATURES_OK))
                return;
        q->enabled = true;
        if (!virtqueue_map(q))
                return;
        virtio_doorbells_update(vdev);
        if (vdev->status & VIRTIO_STATUS_DRIVER_OK)
                virtqueue_rerun(q);
}

void virtio_queue_reset_one(struct virtqueue *q)
{
        struct virtio_device *vdev = q->vdev;

        if (!virtio_has(vdev, VIRTIO_F_RING_RESET) || !q->enabled)
                return;
        vdev->type->ops->queue_reset(vdev, q);
        virtqueue_reset(q);
        virtio_doorbells_update(vdev);
}

/* ---- device operations ---- */

int virtio_device_init(struct virtio_device *vdev, struct device_env *env, struct pci_bus *bus,
                       const struct virtio_type *type, struct err **err)
{
        int r;

        if (type->n_queues > VIRTIO_QUEUES_MAX || type->config_size > VIRTIO_CONFIG_MAX || !type->queue_size ||
            type->queue_size > VIRTIO_QUEUE_SIZE_MAX || type->queue_size & (type->queue_size - 1))
                return err_set(err, ERR_INTERNAL, EINVAL, "virtio device type %u is malformed", type->id);
        vdev->env = env;
        vdev->type = type;
        vdev->features = type->features | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC) |
                         BIT(VIRTIO_F_EVENT_IDX);
        if (type->ops->queue_reset)
                vdev->features |= BIT(VIRTIO_F_RING_RESET);
        vdev->config_vector = VIRTIO_NO_VECTOR;
        vdev->bar_address = PCI_UNMAPPED;
        loop_timer_init(&vdev->rerun, env->loop, on_rerun, vdev);
        for (unsigned i = 0; i < type->n_queues; i++) {
                struct virtqueue *q = &vdev->queues[i];

                *q = (struct virtqueue){
                        .vdev = vdev, .index = (u16)i, .size_max = type->queue_size, .doorbell_fd = -1,
                        .doorbell_address = PCI_UNMAPPED,
                };
                virtqueue_reset(q);
        }
        vdev->scratch = malloc(sizeof(*vdev->scratch));
        if (!vdev->scratch)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a virtio device");
        r = virtio_pci_init(vdev, bus, err);
        if (r < 0) {
                pci_device_release(&vdev->pci);
                free(vdev->scratch);
                return r;
        }
        return 0;
}

void virtio_device_reset(struct device *dev)
{
        struct virtio_device *vdev = vdev_of(dev);

        reset(vdev);
        vdev->config_generation = 0;
        pci_device_reset(&vdev->pci);
}

void virtio_device_destroy(struct device *dev)
{
        struct virtio_device *vdev = vdev_of(dev);

        reset(vdev);
        pci_device_release(&vdev->pci);
        virtio_doorbells_free(vdev);
        free(vdev->scratch);
        vdev->type->ops->destroy(vdev);
}

void virtio_device_quiesce(struct device *dev)
{
        struct virtio_device *vdev = vdev_of(dev);

        if (vdev->type->ops->quiesce)
                vdev->type->ops->quiesce(vdev);
        vdev->quiesced = true;
}

void virtio_device_resume(struct device *dev)
{
        struct virtio_device *vdev = vdev_of(dev);

        vdev->quiesced = false;
        if (vdev->type->ops->resume)
                vdev->type->ops->resume(vdev);
        virtio_rerun_all(vdev);
}

/* ---- saved state ---- */

static void queue_save(const struct virtqueue *q, struct state_out *out)
{
        state_put_u16(out, q->size);
        state_put_u16(out, q->msix_vector);
        state_put_bool(out, q->enabled);
        state_put_bool(out, q->broken);
        state_put_u64(out, q->desc);
        state_put_u64(out, q->avail);
        state_put_u64(out, q->used);
        state_put_u16(out, q->last_avail);
        state_put_u16(out, q->used_idx);
        state_put_u16(out, q->signalled_used);
        state_put_bool(out, q->signalled_valid);
}

static void queue_read(struct virtqueue *q, struct state_in *in)
{
        q->size = state_get_u16(in);
        q->msix_vector = state_get_u16(in);
        q->enabled = state_get_bool(in);
        q->broken = state_get_bool(in);
        q->desc = state_get_u64(in);
        q->avail = state_get_u64(in);
        q->used = state_get_u64(in);
        q->last_avail = state_get_u16(in);
        q->used_idx = state_get_u16(in);
        q->signalled_used = state_get_u16(in);
        q->signalled_valid = state_get_bool(in);
}

void virtio_device_save(struct device *dev, struct state_out *out)
{
        struct virtio_device *vdev = vdev_of(dev);

        pci_device_save(&vdev->pci, out);
        state_put_u64(out, vdev->features);
        state_put_u64(out, vdev->driver_features);
        state_put_u8(out, vdev->status);
        state_put_u8(out, vdev->isr);
        state_put_u8(out, vdev->config_generation);
        state_put_u16(out, vdev->config_vector);
        state_put_u32(out, vdev->device_feature_select);
        state_put_u32(out, vdev->driver_feature_select);
        state_put_u16(out, vdev->queue_select);
        state_put_u8(out, (u8)vdev->type->n_queues);
        for (unsigned i = 0; i < vdev->type->n_queues; i++)
                queue_save(&vdev->queues[i], out);
        if (vdev->type->ops->save)
                vdev->type->ops->save(vdev, out);
}

/* What virtio_device_load read, before it is applied. */
struct saved {
        struct pci_state pci;
        u64 features, driver_features;
        u8 status, isr, config_generation;
        u16 config_vector, queue_select;
        u32 device_feature_select, driver_feature_select;
        struct virtqueue queues[VIRTIO_QUEUES_MAX];
};

static bool vector_valid(const struct virtio_device *vdev, u16 vector)
{
        return vector == VIRTIO_NO_VECTOR || vector < vdev->pci.msix.n;
}

static int saved_check(const struct virtio_device *vdev, const struct saved *s, struct err **err)
{
        const char *name = vdev->pci.dev.ops->name;

        if (s->driver_features & ~vdev->features && s->status & VIRTIO_STATUS_FEATURES_OK)
                return err_set(err, ERR_BAD_STATE, EINVAL,
                               "the guest uses features 0x%lx of %s that this machine's does not have",
                               s->driver_features & ~vdev->features, name);
        if (!vector_valid(vdev, s->config_vector))
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of %s is damaged", name);
        for (unsigned i = 0; i < vdev->type->n_queues; i++) {
                const struct virtqueue *q = &s->queues[i];

                if (q->size == 0 || q->size > vdev->queues[i].size_max || q->size & (q->size - 1) ||
                    !vector_valid(vdev, q->msix_vector))
                        return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of %s is damaged: queue %u has size %u",
                                       name, i, q->size);
        }
        return 0;
}

static int saved_read(struct virtio_device *vdev, struct state_in *in, struct saved *s, struct err **err)
{
        unsigned n_queues;
        int r;

        r = pci_state_read(&vdev->pci, in, &s->pci, err);
        if (r < 0)
                return r;
        s->features = state_get_u64(in);
        s->driver_features = state_get_u64(in);
        s->status = state_get_u8(in);
        s->isr = state_get_u8(in);
        s->config_generation = state_get_u8(in);
        s->config_vector = state_get_u16(in);
        s->device_feature_select = state_get_u32(in);
        s->driver_feature_select = state_get_u32(in);
        s->queue_select = state_get_u16(in);
        n_queues = state_get_u8(in);
        if (n_queues != vdev->type->n_queues)
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved %s has %u queues, this machine's has %u",
                               vdev->pci.dev.ops->name, n_queues, vdev->type->n_queues);
        for (unsigned i = 0; i < n_queues; i++)
                queue_read(&s->queues[i], in);
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of %s is truncated", vdev->pci.dev.ops->name);
        return saved_check(vdev, s, err);
}

static void queue_apply(struct virtqueue *q, const struct virtqueue *saved)
{
        virtqueue_reset(q);
        q->size = saved->size;
        q->msix_vector = saved->msix_vector;
        q->enabled = saved->enabled;
        q->broken = saved->broken;
        q->desc = saved->desc;
        q->avail = saved->avail;
        q->used = saved->used;
        q->last_avail = q->seen_avail = saved->last_avail;
        q->used_idx = saved->used_idx;
        q->signalled_used = saved->signalled_used;
        q->signalled_valid = saved->signalled_valid;
}

/* Called while nothing is in flight: before the machine runs, or quiesced. */
int virtio_device_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct virtio_device *vdev = vdev_of(dev);
        const struct virtio_ops *ops = vdev->type->ops;
        _cleanup_free_ struct saved *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to load %s", dev->ops->name);
        r = saved_read(vdev, in, s, err);
        if (r == 0 && ops->load)
                r = ops->load(vdev, in, version, err);
        if (r < 0)
                return r;

        vdev->driver_features = s->driver_features;
        vdev->status = s->status;
        vdev->isr = s->isr;
        vdev->config_generation = s->config_generation;
        vdev->config_vector = s->config_vector;
        vdev->device_feature_select = s->device_feature_select;
        vdev->driver_feature_select = s->driver_feature_select;
        vdev->queue_select = s->queue_select;
        for (unsigned i = 0; i < vdev->type->n_queues; i++)
                queue_apply(&vdev->queues[i], &s->queues[i]);
        pci_state_apply(&vdev->pci, &s->pci);
        for (unsigned i = 0; i < vdev->type->n_queues; i++) {
                if (vdev->queues[i].enabled && !vdev->queues[i].broken)
                        virtqueue_map(&vdev->queues[i]);
        }
        virtio_doorbells_update(vdev);
        if (vdev->status & VIRTIO_STATUS_DRIVER_OK) {
                if (ops->start)
                        ops->start(vdev);
                virtio_rerun_all(vdev);
        }
        return 0;
}

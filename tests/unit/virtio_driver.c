#include "virtio_driver.h"

#include "dev/virtio/virtio.h"

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4 };

/* Queue n: descriptors, available ring, used ring. Buffers of tests are above 4 MiB. */
#define RINGS 0x100000ULL
#define RINGS_STEP 0x20000ULL

static u64 structure_at(struct driver *d, u8 type)
{
        for (unsigned nth = 0, cap; (cap = find_cap(d->m, d->slot, PCI_CAP_ID_VENDOR, nth)); nth++) {
                if (cfg_read(d->m, d->slot, cap + 3, 1) != type)
                        continue;
                if (type == 2)
                        d->notify_multiplier = cfg_read(d->m, d->slot, cap + 16, 4);
                return bar_at(d->m, d->slot, cfg_read(d->m, d->slot, cap + 4, 1)) +
                       cfg_read(d->m, d->slot, cap + 8, 4);
        }
        return 0;
}

void driver_probe(struct driver *d, struct fake_machine *m, unsigned slot)
{
        *d = (struct driver){ .m = m, .slot = slot };
        cfg_write(m, slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        d->common = structure_at(d, 1);
        d->notify = structure_at(d, 2);
        d->isr = structure_at(d, 3);
        d->config = structure_at(d, 4);
        assert_true(d->common && d->notify && d->isr);
}

u32 driver_common(struct driver *d, unsigned offset, unsigned size)
{
        return (u32)mmio_read(d->m, d->common + offset, size);
}

void driver_common_set(struct driver *d, unsigned offset, unsigned size, u32 value)
{
        mmio_write(d->m, d->common + offset, size, value);
}

u8 driver_status(struct driver *d)
{
        return (u8)driver_common(d, COMMON_STATUS, 1);
}

u64 driver_offered(struct driver *d)
{
        u64 features = 0;

        for (unsigned i = 0; i < 2; i++) {
                driver_common_set(d, COMMON_DEVICE_FEATURE_SELECT, 4, i);
                features |= (u64)driver_common(d, COMMON_DEVICE_FEATURE, 4) << (32 * i);
        }
        return features;
}

bool driver_negotiate(struct driver *d, u64 features)
{
        driver_common_set(d, COMMON_STATUS, 1, 0);
        assert_int_equal(driver_status(d), 0);
        driver_common_set(d, COMMON_STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE);
        driver_common_set(d, COMMON_STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
        for (unsigned i = 0; i < 2; i++) {
                driver_common_set(d, COMMON_DRIVER_FEATURE_SELECT, 4, i);
                driver_common_set(d, COMMON_DRIVER_FEATURE, 4, (u32)(features >> (32 * i)));
        }
        driver_common_set(d, COMMON_STATUS, 1, driver_status(d) | VIRTIO_STATUS_FEATURES_OK);
        return driver_status(d) & VIRTIO_STATUS_FEATURES_OK;
}

static void common_set_64(struct driver *d, unsigned offset, u64 value)
{
        driver_common_set(d, offset, 4, (u32)value);
        driver_common_set(d, offset + 4, 4, (u32)(value >> 32));
}

void driver_queue_setup(struct driver *d, unsigned n, u16 size)
{
        struct driver_queue *q = &d->q[n];
        const u64 base = RINGS + RINGS_STEP * n;

        *q = (struct driver_queue){ .desc = base, .avail = base + 0x8000, .used = base + 0x10000, .size = size };
        memset(ram(d->m, base), 0, RINGS_STEP);
        driver_common_set(d, COMMON_QUEUE_SELECT, 2, n);
        driver_common_set(d, COMMON_QUEUE_SIZE, 2, size);
        common_set_64(d, COMMON_QUEUE_DESC, q->desc);
        common_set_64(d, COMMON_QUEUE_AVAIL, q->avail);
        common_set_64(d, COMMON_QUEUE_USED, q->used);
        q->doorbell = d->notify + d->notify_multiplier * driver_common(d, COMMON_QUEUE_NOTIFY_OFF, 2);
        driver_common_set(d, COMMON_QUEUE_ENABLE, 2, 1);
}

void driver_msix_setup(struct driver *d, unsigned n_queues)
{
        const unsigned cap = find_cap(d->m, d->slot, PCI_CAP_ID_MSIX, 0);
        const u64 table = bar_at(d->m, d->slot, cfg_read(d->m, d->slot, cap + 4, 4) & 7);

        for (unsigned i = 0; i <= n_queues; i++) {
                mmio_write(d->m, table + 16 * i, 8, 0xfee00000);
                mmio_write(d->m, table + 16 * i + 8, 8, i);
        }
        cfg_write(d->m, d->slot, cap + 2, 2, 0x8000);
        driver_common_set(d, COMMON_CONFIG_VECTOR, 2, DRIVER_VECTOR_CONFIG);
        for (unsigned i = 0; i < n_queues; i++) {
                driver_common_set(d, COMMON_QUEUE_SELECT, 2, i);
                driver_common_set(d, COMMON_QUEUE_VECTOR, 2, DRIVER_VECTOR(i));
                assert_int_equal(driver_common(d, COMMON_QUEUE_VECTOR, 2), DRIVER_VECTOR(i));
        }
}

void driver_start(struct driver *d, u64 features, unsigned n_queues, u16 size)
{
        assert_true(driver_negotiate(d, features | BIT(VIRTIO_F_VERSION_1)));
        driver_msix_setup(d, n_queues);
        for (unsigned i = 0; i < n_queues; i++)
                driver_queue_setup(d, i, size);
        driver_common_set(d, COMMON_STATUS, 1, driver_status(d) | VIRTIO_STATUS_DRIVER_OK);
        assert_int_equal(driver_status(d) & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET), VIRTIO_STATUS_DRIVER_OK);
}

/* ---- rings ---- */

static u16 *word(struct driver *d, u64 gpa)
{
        return ram(d->m, gpa);
}

static void desc_write(struct driver *d, u64 at, u64 gpa, u32 len, u16 flags, u16 next)
{
        u8 *p = ram(d->m, at);

        memcpy(p, &gpa, 8);
        memcpy(p + 8, &len, 4);
        memcpy(p + 12, &flags, 2);
        memcpy(p + 14, &next, 2);
}

void driver_desc_set(struct driver *d, unsigned n, u16 index, u64 gpa, u32 len, u16 flags, u16 next)
{
        desc_write(d, d->q[n].desc + 16ULL * index, gpa, len, flags, next);
}

void driver_avail_put(struct driver *d, unsigned n, u16 head)
{
        struct driver_queue *q = &d->q[n];

        *word(d, q->avail + 4 + 2ULL * (q->avail_idx % q->size)) = head;
        q->avail_idx++;
        __atomic_store_n(word(d, q->avail + 2), q->avail_idx, __ATOMIC_SEQ_CST);
}

u16 driver_used_idx(struct driver *d, unsigned n)
{
        return __atomic_load_n(word(d, d->q[n].used + 2), __ATOMIC_ACQUIRE);
}

u16 driver_avail_event(struct driver *d, unsigned n)
{
        return __atomic_load_n(word(d, d->q[n].used + 4 + 8ULL * d->q[n].size), __ATOMIC_ACQUIRE);
}

void driver_used_event_set(struct driver *d, unsigned n, u16 event)
{
        __atomic_store_n(word(d, d->q[n].avail + 4 + 2ULL * d->q[n].size), event, __ATOMIC_SEQ_CST);
}

void driver_avail_flags_set(struct driver *d, unsigned n, u16 flags)
{
        __atomic_store_n(word(d, d->q[n].avail), flags, __ATOMIC_SEQ_CST);
}

u16 driver_used_flags(struct driver *d, unsigned n)
{
        return __atomic_load_n(word(d, d->q[n].used), __ATOMIC_ACQUIRE);
}

u16 driver_add(struct driver *d, unsigned n, const struct driver_segment *segments, unsigned count)
{
        struct driver_queue *q = &d->q[n];
        const u16 head = q->next_desc;

        for (unsigned i = 0; i < count; i++) {
                const u16 next = (u16)((q->next_desc + 1) % q->size);
                const u16 flags = (u16)((segments[i].write ? F_WRITE : 0) | (i + 1 < count ? F_NEXT : 0));

                driver_desc_set(d, n, q->next_desc, segments[i].gpa, segments[i].len, flags, next);
                q->next_desc = next;
        }
        driver_avail_put(d, n, head);
        return head;
}

u16 driver_add_indirect(struct driver *d, unsigned n, u64 table, const struct driver_segment *segments, unsigned count)
{
        struct driver_queue *q = &d->q[n];
        const u16 head = q->next_desc;

        for (unsigned i = 0; i < count; i++) {
                const u16 flags = (u16)((segments[i].write ? F_WRITE : 0) | (i + 1 < count ? F_NEXT : 0));

                desc_write(d, table + 16ULL * i, segments[i].gpa, segments[i].len, flags, (u16)(i + 1));
        }
        driver_desc_set(d, n, head, table, 16 * count, F_INDIRECT, 0);
        q->next_desc = (u16)((head + 1) % q->size);
        driver_avail_put(d, n, head);
        return head;
}

void driver_kick(struct driver *d, unsigned n)
{
        mmio_write(d->m, d->q[n].doorbell, 2, n);
}

bool driver_used(struct driver *d, unsigned n, u32 *ret_head, u32 *ret_len)
{
        struct driver_queue *q = &d->q[n];
        const u8 *elem;

        if (driver_used_idx(d, n) == q->used_seen)
                return false;
        elem = ram(d->m, q->used + 4 + 8ULL * (q->used_seen % q->size));
        memcpy(ret_head, elem, 4);
        memcpy(ret_len, elem + 4, 4);
        q->used_seen++;
        return true;
}

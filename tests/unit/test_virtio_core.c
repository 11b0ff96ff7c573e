/* What the virtio core promises to drivers and to device authors, seen through a device that copies what it reads to what it may
 * write. */
#include <limits.h>

#include "dev/virtio/virtio.h"
#include "virtio_driver.h"

enum { QUEUES = 2, SIZE = 16 };
enum { F_TOY = 0, F_NEEDS_TOY = 1 };

struct toy {
        struct virtio_device vdev;
        bool hold;                /* keep requests instead of answering */
        bool greedy;              /* the driver adds a buffer for each that is answered */
        bool late;                /* the driver adds the head once more just after the device has looked */
        struct driver *driver;    /* for greedy and late */
        struct virtio_request *held[SIZE];
        unsigned n_held, popped, most_popped, runs, starts;
        u32 config_value;
};

static struct toy *toy_of(struct virtio_device *vdev)
{
        return container_of(vdev, struct toy, vdev);
}

static void answer(struct virtio_request *req)
{
        static u8 bytes[65536];
        const size_t n = virtio_iov_read(req->out, req->n_out, 0, bytes, sizeof(bytes));

        virtqueue_push(req, (u32)virtio_iov_write(req->in, req->n_in, 0, bytes, n));
}

static void toy_run(struct virtio_device *vdev, struct virtqueue *q)
{
        struct toy *toy = toy_of(vdev);
        struct virtio_request *req;
        unsigned n = 0;

        toy->runs++;
        while ((req = virtqueue_pop(q))) {
                n++;
                toy->popped++;
                toy->most_popped = MAX(toy->most_popped, n);
                if (toy->greedy && toy->popped < 200)
                        driver_avail_put(toy->driver, q->index, req->head);
                if (toy->hold && toy->n_held < SIZE)
                        toy->held[toy->n_held++] = req;
                else
                        answer(req);
        }
        if (toy->late) {
                toy->late = false;
                driver_avail_put(toy->driver, q->index, 0);
        }
}

static bool toy_features_accepted(struct virtio_device *vdev, u64 features)
{
        (void)vdev;
        return !(features & BIT(F_NEEDS_TOY)) || features & BIT(F_TOY);
}

static void toy_config_written(struct virtio_device *vdev, unsigned offset, unsigned size, u32 value)
{
        (void)offset;
        (void)size;
        toy_of(vdev)->config_value = value;
}

static void toy_start(struct virtio_device *vdev)
{
        toy_of(vdev)->starts++;
}

static void toy_reset(struct virtio_device *vdev)
{
        struct toy *toy = toy_of(vdev);

        while (toy->n_held)
                virtqueue_drop(toy->held[--toy->n_held]);
}

static void toy_queue_reset(struct virtio_device *vdev, struct virtqueue *q)
{
        (void)q;
        toy_reset(vdev);
}

static void toy_destroy(struct virtio_device *vdev)
{
        free(toy_of(vdev));
}

static const struct virtio_ops toy_ops = {
        .queue_run = toy_run, .features_accepted = toy_features_accepted, .config_written = toy_config_written,
        .start = toy_start, .reset = toy_reset, .queue_reset = toy_queue_reset, .destroy = toy_destroy,
};
static const struct device_ops toy_device_ops = VIRTIO_DEVICE_OPS("virtio-toy", 1);
static const struct virtio_type toy_type = {
        .id = 42, .pci_class = 0x00ff00, .device_ops = &toy_device_ops, .ops = &toy_ops, .n_queues = QUEUES,
        .queue_size = 64, .config_size = 8, .request_size = 24, .features = BIT(F_TOY) | BIT(F_NEEDS_TOY),
};

struct fixture {
        struct fake_machine *m;
        struct toy *toy;
        struct driver d;
        u64 code_page; /* the last page that was reported as written */
};

static int setup_with(void **state, bool ioeventfd)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        f->m = fake_machine_new();
        if (ioeventfd)
                f->m->f.env.ioeventfd = fake_ioeventfd;
        f->toy = calloc(1, sizeof(*f->toy));
        assert_non_null(f->toy);
        assert_int_equal(virtio_device_init(&f->toy->vdev, &f->m->f.env, f->m->bus, &toy_type, NULL), 0);
        f->m->f.env.add(&f->m->f.env, &f->toy->vdev.pci.dev);
        fake_machine_start(f->m);
        driver_probe(&f->d, f->m, 1);
        f->toy->driver = &f->d;
        *state = f;
        return 0;
}

static int setup(void **state)
{
        return setup_with(state, false);
}

static int setup_ioeventfd(void **state)
{
        return setup_with(state, true);
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        fake_machine_free(f->m);
        free(f);
        return 0;
}

#define OUT 0x400000ULL
#define IN 0x500000ULL

/* One request of the usual shape: a readable and a writable buffer. */
static u16 add_echo(struct fixture *f, const char *text)
{
        const u32 len = (u32)strlen(text);
        const struct driver_segment segments[] = { { OUT, len, false }, { IN, 64, true } };

        memcpy(ram(f->m, OUT), text, len);
        return driver_add(&f->d, 0, segments, 2);
}

static void assert_echo(struct fixture *f, u16 head, const char *text)
{
        u32 id, len;

        assert_true(driver_used(&f->d, 0, &id, &len));
        assert_int_equal(id, head);
        assert_int_equal(len, strlen(text));
        assert_memory_equal(ram(f->m, IN), text, len);
}

static u64 bad_requests(struct fixture *f)
{
        return f->m->f.counters.value[COUNTER_VIRTIO_BAD_REQUESTS];
}

/* ---- transport ---- */

static void identity_is_modern(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(cfg_read(f->m, 1, PCI_VENDOR_ID, 4), 0x106a1af4);
        assert_int_equal(cfg_read(f->m, 1, PCI_REVISION_ID, 1), 1);
        assert_int_equal(cfg_read(f->m, 1, PCI_SUBSYSTEM_VENDOR_ID, 2), 0x1af4);
        assert_int_equal(cfg_read(f->m, 1, PCI_INTERRUPT_PIN, 1), 1);
        assert_int_equal(driver_common(&f->d, COMMON_NUM_QUEUES, 2), QUEUES);
        assert_int_not_equal(f->d.config, 0);
}

static void features_are_negotiated(void **state)
{
        struct fixture *f = *state;
        const u64 core = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_INDIRECT_DESC) |
                         BIT(VIRTIO_F_RING_RESET);

        assert_int_equal(driver_offered(&f->d), core | BIT(F_TOY) | BIT(F_NEEDS_TOY));
        driver_common_set(&f->d, COMMON_DEVICE_FEATURE_SELECT, 4, 2);
        assert_int_equal(driver_common(&f->d, COMMON_DEVICE_FEATURE, 4), 0);
        assert_true(driver_negotiate(&f->d, core));
        assert_false(driver_negotiate(&f->d, core | BIT(5)));                  /* not offered */
        assert_false(driver_negotiate(&f->d, core & ~BIT(VIRTIO_F_VERSION_1))); /* a legacy driver */
        assert_false(driver_negotiate(&f->d, core | BIT(F_NEEDS_TOY)));        /* the device's own rule */
        assert_true(driver_negotiate(&f->d, core | BIT(F_NEEDS_TOY) | BIT(F_TOY)));
        /* Fixed once accepted. */
        driver_common_set(&f->d, COMMON_DRIVER_FEATURE_SELECT, 4, 0);
        driver_common_set(&f->d, COMMON_DRIVER_FEATURE, 4, 0);
        assert_int_equal(driver_common(&f->d, COMMON_DRIVER_FEATURE, 4) & 3, 3);
}

static void driver_ok_needs_features_ok(void **state)
{
        struct fixture *f = *state;

        driver_common_set(&f->d, COMMON_STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER_OK);
        assert_int_equal(driver_status(&f->d), VIRTIO_STATUS_ACKNOWLEDGE);
        assert_int_equal(f->toy->starts, 0);
        /* DEVICE_NEEDS_RESET is not the driver's to set. */
        driver_common_set(&f->d, COMMON_STATUS, 1, 0xff);
        assert_int_equal(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

static void queue_setup_refuses_bad_values(void **state)
{
        static const u16 sizes[] = { 0, 3, 63, 65, 128, 0x8000, 0xffff };
        struct fixture *f = *state;

        assert_true(driver_negotiate(&f->d, BIT(VIRTIO_F_VERSION_1)));
        driver_common_set(&f->d, COMMON_QUEUE_SELECT, 2, QUEUES);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_SIZE, 2), 0);
        driver_common_set(&f->d, COMMON_QUEUE_ENABLE, 2, 1);
        driver_common_set(&f->d, COMMON_QUEUE_SELECT, 2, 1);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_SIZE, 2), 64);
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                driver_common_set(&f->d, COMMON_QUEUE_SIZE, 2, sizes[i]);
                assert_int_equal(driver_common(&f->d, COMMON_QUEUE_SIZE, 2), 64);
        }
        driver_common_set(&f->d, COMMON_QUEUE_VECTOR, 2, QUEUES + 1);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_VECTOR, 2), 0xffff);
        driver_common_set(&f->d, COMMON_CONFIG_VECTOR, 2, 0x1234);
        assert_int_equal(driver_common(&f->d, COMMON_CONFIG_VECTOR, 2), 0xffff);
        /* Fixed once enabled. */
        driver_queue_setup(&f->d, 1, 8);
        driver_common_set(&f->d, COMMON_QUEUE_SIZE, 2, 16);
        driver_common_set(&f->d, COMMON_QUEUE_DESC, 4, 0);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_SIZE, 2), 8);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_DESC, 4), f->d.q[1].desc);
}

static void rings_outside_of_ram_are_refused(void **state)
{
        static const struct {
                unsigned offset;
                u32 value;
        } rings[] = {
                { COMMON_QUEUE_DESC, FAKE_RAM - 16 }, { COMMON_QUEUE_AVAIL, 0xe0000000 }, { COMMON_QUEUE_USED, FAKE_RAM },
                { COMMON_QUEUE_DESC, 0x100008 },      { COMMON_QUEUE_AVAIL, 0x100001 },   { COMMON_QUEUE_USED, 0x100002 },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
                assert_true(driver_negotiate(&f->d, BIT(VIRTIO_F_VERSION_1)));
                driver_common_set(&f->d, COMMON_QUEUE_SELECT, 2, 0);
                driver_common_set(&f->d, COMMON_QUEUE_DESC, 4, 0x100000);
                driver_common_set(&f->d, COMMON_QUEUE_AVAIL, 4, 0x110000);
                driver_common_set(&f->d, COMMON_QUEUE_USED, 4, 0x120000);
                driver_common_set(&f->d, rings[i].offset, 4, rings[i].value);
                driver_common_set(&f->d, COMMON_QUEUE_ENABLE, 2, 1);
                assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
                driver_common_set(&f->d, COMMON_STATUS, 1, 0x0f);
                mmio_write(f->m, f->d.notify, 2, 0);
        }
        assert_int_equal(f->toy->popped, 0);
}

static void config_space_is_bounded(void **state)
{
        struct fixture *f = *state;

        f->toy->vdev.config[0] = 0x11;
        f->toy->vdev.config[7] = 0x77;
        f->toy->vdev.config[8] = 0x88;
        assert_int_equal(mmio_read(f->m, f->d.config, 1), 0x11);
        assert_int_equal(mmio_read(f->m, f->d.config + 6, 4), 0x7700);
        assert_int_equal(mmio_read(f->m, f->d.config + 0xffc, 4), 0);
        mmio_write(f->m, f->d.config + 4, 4, 99);
        assert_int_equal(f->toy->config_value, 99);
        mmio_write(f->m, f->d.config + 6, 4, 98);
        assert_int_equal(f->toy->config_value, 99);
}

static void config_change_interrupts_and_bumps_the_generation(void **state)
{
        struct fixture *f = *state;
        u32 before;

        driver_start(&f->d, 0, QUEUES, SIZE);
        before = driver_common(&f->d, COMMON_GENERATION, 1);
        fake_env_lock(&f->m->f);
        virtio_config_changed(&f->toy->vdev);
        fake_env_unlock(&f->m->f);
        assert_int_equal(driver_common(&f->d, COMMON_GENERATION, 1), before + 1);
        assert_int_equal(f->m->msis[DRIVER_VECTOR_CONFIG], 1);
}

static void window_capability_reaches_the_registers(void **state)
{
        struct fixture *f = *state;
        unsigned cap = 0;

        for (unsigned n = 0, at; (at = find_cap(f->m, 1, PCI_CAP_ID_VENDOR, n)); n++)
                cap = cfg_read(f->m, 1, at + 3, 1) == 5 ? at : cap;
        assert_int_not_equal(cap, 0);
        cfg_write(f->m, 1, cap + 4, 1, 4);
        cfg_write(f->m, 1, cap + 8, 4, COMMON_NUM_QUEUES);
        cfg_write(f->m, 1, cap + 12, 4, 2);
        assert_int_equal(cfg_read(f->m, 1, cap + 16, 2), QUEUES);
        cfg_write(f->m, 1, cap + 8, 4, COMMON_STATUS);
        cfg_write(f->m, 1, cap + 12, 4, 1);
        cfg_write(f->m, 1, cap + 16, 1, VIRTIO_STATUS_ACKNOWLEDGE);
        assert_int_equal(driver_status(&f->d), VIRTIO_STATUS_ACKNOWLEDGE);
        /* Not beyond the BAR, not another BAR, no odd length. */
        cfg_write(f->m, 1, cap + 8, 4, 0x4000 + COMMON_STATUS);
        cfg_write(f->m, 1, cap + 16, 1, 0);
        cfg_write(f->m, 1, cap + 8, 4, 0xfffffffc);
        cfg_write(f->m, 1, cap + 12, 4, 4);
        cfg_write(f->m, 1, cap + 16, 4, 0);
        cfg_write(f->m, 1, cap + 8, 4, COMMON_STATUS);
        cfg_write(f->m, 1, cap + 4, 1, 1);
        cfg_write(f->m, 1, cap + 16, 1, 0);
        cfg_write(f->m, 1, cap + 4, 1, 4);
        cfg_write(f->m, 1, cap + 12, 4, 3);
        cfg_write(f->m, 1, cap + 16, 1, 0);
        assert_int_equal(driver_status(&f->d), VIRTIO_STATUS_ACKNOWLEDGE);
}

/* ---- requests ---- */

static void request_is_answered_with_an_interrupt(void **state)
{
        struct fixture *f = *state;
        u16 head;

        driver_start(&f->d, 0, QUEUES, SIZE);
        for (unsigned i = 0; i < 3 * SIZE; i++) {
                head = add_echo(f, i % 2 ? "hello" : "virtio");
                driver_kick(&f->d, 0);
                assert_echo(f, head, i % 2 ? "hello" : "virtio");
                assert_int_equal(f->m->msis[DRIVER_VECTOR(0)], i + 1);
        }
        assert_int_equal(f->m->msis[DRIVER_VECTOR_CONFIG], 0);
        assert_int_equal(bad_requests(f), 0);
}

static void indirect_table_is_followed(void **state)
{
        const struct driver_segment segments[] = {
                { OUT, 3, false }, { OUT + 100, 4, false }, { IN, 2, true }, { IN + 2, 64, true },
        };
        struct fixture *f = *state;
        u16 head;

        driver_start(&f->d, BIT(VIRTIO_F_INDIRECT_DESC), QUEUES, SIZE);
        memcpy(ram(f->m, OUT), "abc", 3);
        memcpy(ram(f->m, OUT + 100), "defg", 4);
        head = driver_add_indirect(&f->d, 0, 0x300001 /* any alignment */, segments, 4);
        driver_kick(&f->d, 0);
        assert_echo(f, head, "abcdefg");
}

static void long_indirect_table_is_followed(void **state)
{
        struct driver_segment segments[VIRTIO_SEGMENTS_MAX];
        struct fixture *f = *state;
        u32 id, len;

        driver_start(&f->d, BIT(VIRTIO_F_INDIRECT_DESC), QUEUES, SIZE);
        for (unsigned i = 0; i < VIRTIO_SEGMENTS_MAX; i++)
                segments[i] = (struct driver_segment){ i < 512 ? OUT + i : IN + i - 512, 1, i >= 512 };
        memset(ram(f->m, OUT), 'x', 512);
        driver_add_indirect(&f->d, 0, 0x300000, segments, VIRTIO_SEGMENTS_MAX);
        driver_kick(&f->d, 0);
        assert_true(driver_used(&f->d, 0, &id, &len));
        assert_int_equal(len, 512);
        assert_memory_equal(ram(f->m, IN), ram(f->m, OUT), 512);
}

static void on_code_write(void *opaque, u64 gpa, u64 len)
{
        struct fixture *f = opaque;

        f->code_page |= BIT(gpa >> 20);
        guest_memory_unmark_code(f->m->f.env.memory, gpa, guest_memory_chunks(gpa, len));
}

static void writes_are_reported_to_the_memory_map(void **state)
{
        struct fixture *f = *state;
        struct guest_memory *mem = f->m->f.env.memory;

        driver_start(&f->d, 0, QUEUES, SIZE);
        mem->on_code_write = on_code_write;
        mem->on_code_write_opaque = f;
        guest_memory_mark_code(mem, IN, PAGE_SIZE);
        guest_memory_mark_code(mem, OUT, PAGE_SIZE);
        guest_memory_mark_code(mem, IN + 0x1000, PAGE_SIZE);
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_int_equal(f->code_page, BIT(IN >> 20));
        assert_int_equal(*guest_memory_flags(mem, IN + 0x1000), PAGE_CODE);
        assert_false(guest_memory_is_code(mem, IN, 1));
        mem->on_code_write = NULL;
}

/* The used ring lies across two pages: flags and index on the first, elements on the second. */
static void writes_to_the_used_ring_are_reported_too(void **state)
{
        struct fixture *f = *state;
        struct guest_memory *mem = f->m->f.env.memory;
        const u64 second = 0x124000;

        assert_true(driver_negotiate(&f->d, BIT(VIRTIO_F_VERSION_1)));
        driver_queue_setup(&f->d, 0, SIZE);
        driver_common_set(&f->d, COMMON_STATUS, 1, 0);
        assert_true(driver_negotiate(&f->d, BIT(VIRTIO_F_VERSION_1)));
        driver_common_set(&f->d, COMMON_QUEUE_DESC, 4, (u32)f->d.q[0].desc);
        driver_common_set(&f->d, COMMON_QUEUE_AVAIL, 4, (u32)f->d.q[0].avail);
        driver_common_set(&f->d, COMMON_QUEUE_USED, 4, (u32)second - 4);
        driver_common_set(&f->d, COMMON_QUEUE_SIZE, 2, SIZE);
        driver_common_set(&f->d, COMMON_QUEUE_ENABLE, 2, 1);
        driver_common_set(&f->d, COMMON_STATUS, 1, 0x0f);
        f->d.q[0].used = second - 4;
        fake_sync(f->m);
        guest_memory_mark_code(mem, second, PAGE_SIZE);
        mem->on_code_write = on_code_write;
        mem->on_code_write_opaque = f;
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_int_equal(driver_used_idx(&f->d, 0), 1);
        assert_false(guest_memory_is_code(mem, second, 1));
        mem->on_code_write = NULL;
}

static void request_data_is_zeroed_and_aligned(void **state)
{
        struct fixture *f = *state;
        static const u8 zero[24];

        f->toy->hold = true;
        driver_start(&f->d, 0, QUEUES, SIZE);
        add_echo(f, "x");
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_int_equal(f->toy->n_held, 2);
        for (unsigned i = 0; i < 2; i++) {
                assert_int_equal((uintptr_t)f->toy->held[i]->data % 16, 0);
                assert_memory_equal(f->toy->held[i]->data, zero, sizeof(zero));
        }
}

static void requests_may_be_answered_in_any_order(void **state)
{
        struct fixture *f = *state;
        u16 a, b;

        f->toy->hold = true;
        driver_start(&f->d, 0, QUEUES, SIZE);
        a = add_echo(f, "same");
        b = add_echo(f, "same");
        driver_kick(&f->d, 0);
        assert_int_equal(driver_used_idx(&f->d, 0), 0);
        fake_env_lock(&f->m->f);
        answer(f->toy->held[1]);
        answer(f->toy->held[0]);
        f->toy->n_held = 0;
        fake_env_unlock(&f->m->f);
        assert_echo(f, b, "same");
        assert_echo(f, a, "same");
}

static void without_bus_mastering_nothing_is_touched(void **state)
{
        struct fixture *f = *state;
        u16 head;

        driver_start(&f->d, 0, QUEUES, SIZE);
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        head = add_echo(f, "later");
        driver_kick(&f->d, 0);
        fake_sync(f->m);
        assert_int_equal(driver_used_idx(&f->d, 0), 0);
        cfg_write(f->m, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        wait_for(driver_used_idx(&f->d, 0) == 1);
        assert_echo(f, head, "later");
}

static void buffers_made_available_before_driver_ok_are_found(void **state)
{
        struct fixture *f = *state;

        assert_true(driver_negotiate(&f->d, BIT(VIRTIO_F_VERSION_1)));
        driver_queue_setup(&f->d, 0, SIZE);
        add_echo(f, "early");
        driver_kick(&f->d, 0);
        assert_int_equal(driver_used_idx(&f->d, 0), 0);
        driver_common_set(&f->d, COMMON_STATUS, 1, 0x0f);
        wait_for(driver_used_idx(&f->d, 0) == 1);
}

/* ---- notifications ---- */

static void intx_is_raised_and_acknowledged_by_reading_isr(void **state)
{
        struct fixture *f = *state;

        assert_true(driver_negotiate(&f->d, BIT(VIRTIO_F_VERSION_1)));
        driver_queue_setup(&f->d, 0, SIZE);
        driver_common_set(&f->d, COMMON_STATUS, 1, 0x0f);
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_true(f->m->f.line[17]);
        assert_int_equal(mmio_read(f->m, f->d.isr, 1), 1);
        assert_false(f->m->f.line[17]);
        assert_int_equal(mmio_read(f->m, f->d.isr, 1), 0);
        fake_env_lock(&f->m->f);
        virtio_config_changed(&f->toy->vdev);
        fake_env_unlock(&f->m->f);
        assert_true(f->m->f.line[17]);
        assert_int_equal(mmio_read(f->m, f->d.isr, 1), 2);
}

static void no_interrupt_flag_is_respected(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, 0, QUEUES, SIZE);
        driver_avail_flags_set(&f->d, 0, 1);
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_int_equal(driver_used_idx(&f->d, 0), 1);
        assert_int_equal(f->m->msis[DRIVER_VECTOR(0)], 0);
        assert_int_equal(driver_used_flags(&f->d, 0), 0); /* and the device wants notifications again */
}

static void used_event_decides_about_interrupts(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(VIRTIO_F_EVENT_IDX), QUEUES, SIZE);
        driver_used_event_set(&f->d, 0, 0);
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_int_equal(f->m->msis[DRIVER_VECTOR(0)], 1);
        driver_used_event_set(&f->d, 0, 3); /* tell me when entry 3 is used */
        for (unsigned i = 0; i < 2; i++) {
                add_echo(f, "x");
                driver_kick(&f->d, 0);
        }
        assert_int_equal(driver_used_idx(&f->d, 0), 3);
        assert_int_equal(f->m->msis[DRIVER_VECTOR(0)], 1);
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_int_equal(f->m->msis[DRIVER_VECTOR(0)], 2);
}

static void used_event_works_across_the_wrap_of_indices(void **state)
{
        struct fixture *f = *state;
        unsigned interrupts = 0;
        u32 id, len;

        driver_start(&f->d, BIT(VIRTIO_F_EVENT_IDX), QUEUES, SIZE);
        for (unsigned i = 0; i < 0x10100; i++) {
                driver_used_event_set(&f->d, 0, (u16)i);
                add_echo(f, "x");
                driver_kick(&f->d, 0);
                interrupts++;
                assert_true(driver_used(&f->d, 0, &id, &len));
                if (f->m->msis[DRIVER_VECTOR(0)] != interrupts)
                        fail_msg("no interrupt at %u", i);
        }
}

static void avail_event_asks_for_the_next_buffer(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(VIRTIO_F_EVENT_IDX), QUEUES, SIZE);
        for (unsigned i = 0; i < 3; i++) {
                add_echo(f, "x");
                driver_kick(&f->d, 0);
                assert_int_equal(driver_avail_event(&f->d, 0), i + 1);
        }
}

static void buffer_that_arrives_while_the_device_stops_looking_is_found(void **state)
{
        struct fixture *f = *state;

        for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
                driver_start(&f->d, event_idx ? BIT(VIRTIO_F_EVENT_IDX) : 0, QUEUES, SIZE);
                fake_sync(f->m);
                add_echo(f, "x");
                f->toy->late = true;
                driver_kick(&f->d, 0);
                assert_int_equal(driver_used_idx(&f->d, 0), 2);
        }
}

static void one_run_takes_a_queue_size_at_most_and_the_loop_goes_on(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, 0, QUEUES, SIZE);
        f->toy->greedy = true;
        add_echo(f, "again");
        driver_kick(&f->d, 0);
        wait_for(driver_used_idx(&f->d, 0) == 200);
        fake_sync(f->m);
        assert_true(f->toy->most_popped <= SIZE);
        assert_int_equal(f->toy->popped, 200);
}

static void doorbell_eventfd_runs_the_queue(void **state)
{
        struct fixture *f = *state;
        struct fake_doorbell *bell = &f->m->doorbells[0];
        const u64 one = 1;

        driver_start(&f->d, 0, QUEUES, SIZE);
        assert_int_equal(bell->address, f->d.q[0].doorbell);
        assert_int_equal(f->m->doorbells[1].address, f->d.q[1].doorbell);
        add_echo(f, "x");
        assert_int_equal(write(bell->fd, &one, 8), 8);
        wait_for(driver_used_idx(&f->d, 0) == 1);
        /* It follows the BAR, and goes with the queue. */
        cfg_write(f->m, 1, PCI_BAR0 + 16, 4, 0xd0000000);
        assert_int_equal(bell->address & 0xffff0000, 0xd0000000);
        driver_probe(&f->d, f->m, 1);
        driver_common_set(&f->d, COMMON_STATUS, 1, 0);
        assert_int_equal(bell->fd, 0);
        assert_int_equal(f->m->doorbells[1].fd, 0);
}

/* ---- malformed rings ---- */

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

static void bad_avail_index(struct fixture *f)
{
        for (u16 i = 0; i < SIZE; i++) {
                driver_desc_set(&f->d, 0, i, IN, 4, WRITE, 0);
                driver_avail_put(&f->d, 0, i);
        }
        driver_avail_put(&f->d, 0, 0);
}

static void bad_head(struct fixture *f)
{
        driver_avail_put(&f->d, 0, SIZE);
}

static void bad_next(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, OUT, 4, NEXT, SIZE);
        driver_desc_set(&f->d, 0, SIZE, OUT, 4, 0, 0); /* there is memory behind the table */
        driver_avail_put(&f->d, 0, 0);
}

static void bad_loop(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, OUT, 4, NEXT, 1);
        driver_desc_set(&f->d, 0, 1, OUT, 4, NEXT, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_self_loop(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 5, OUT, 4, NEXT, 5);
        driver_avail_put(&f->d, 0, 5);
}

static void bad_order(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, IN, 4, NEXT | WRITE, 1);
        driver_desc_set(&f->d, 0, 1, OUT, 4, 0, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_zero_length(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, OUT, 0, 0, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_mmio_buffer(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, f->d.common, 4, WRITE, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_buffer_over_the_end_of_ram(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, FAKE_RAM - 8, 16, WRITE, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_buffer_wraps_around(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, ~0ULL - 7, 0xffffffff, WRITE, 0);
        driver_avail_put(&f->d, 0, 0);
}

/* Two good descriptors, readable. */
static void good_table(struct fixture *f)
{
        const u64 gpa = OUT;
        const u32 len = 4;
        const u16 next[2][2] = { { NEXT, 1 }, { 0, 0 } };

        for (unsigned i = 0; i < 2; i++) {
                u8 *p = ram(f->m, 0x300000 + 16 * i);

                memcpy(p, &gpa, 8);
                memcpy(p + 8, &len, 4);
                memcpy(p + 12, next[i], 4);
        }
}

static void bad_indirect_length(struct fixture *f)
{
        good_table(f);
        driver_desc_set(&f->d, 0, 0, 0x300000, 40, INDIRECT, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_indirect_empty(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, 0x300000, 0, INDIRECT, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_indirect_too_long(struct fixture *f)
{
        good_table(f);
        driver_desc_set(&f->d, 0, 0, 0x300000, 16 * (VIRTIO_SEGMENTS_MAX + 1), INDIRECT, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_indirect_outside_ram(struct fixture *f)
{
        driver_desc_set(&f->d, 0, 0, FAKE_RAM - 16, 32, INDIRECT, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_indirect_chained(struct fixture *f)
{
        good_table(f);
        driver_desc_set(&f->d, 0, 0, 0x300000, 32, INDIRECT | NEXT, 1);
        driver_desc_set(&f->d, 0, 1, OUT, 4, 0, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_indirect_nested(struct fixture *f)
{
        const u64 inner = 0x300000;
        const u32 len = 16;
        const u16 flags = INDIRECT;
        u8 *table = ram(f->m, 0x300000);

        memcpy(table, &inner, 8); /* a table that is its own table */
        memcpy(table + 8, &len, 4);
        memcpy(table + 12, &flags, 2);
        driver_desc_set(&f->d, 0, 0, 0x300000, 16, INDIRECT, 0);
        driver_avail_put(&f->d, 0, 0);
}

static void bad_head_twice(struct fixture *f)
{
        f->toy->hold = true;
        driver_desc_set(&f->d, 0, 3, IN, 4, WRITE, 0);
        driver_avail_put(&f->d, 0, 3);
        driver_avail_put(&f->d, 0, 3);
}

static const struct {
        const char *name;
        void (*damage)(struct fixture *f);
} malformed[] = {
#define M(name) { #name, name }
        M(bad_avail_index), M(bad_head), M(bad_next), M(bad_loop), M(bad_self_loop), M(bad_order), M(bad_zero_length),
        M(bad_mmio_buffer), M(bad_buffer_over_the_end_of_ram), M(bad_buffer_wraps_around), M(bad_indirect_length),
        M(bad_indirect_empty), M(bad_indirect_too_long), M(bad_indirect_outside_ram), M(bad_indirect_chained),
        M(bad_indirect_nested), M(bad_head_twice),
};

static void malformed_rings_need_a_reset_and_recover(void **state)
{
        struct fixture *f = *state;
        unsigned interrupts = 0;

        for (size_t i = 0; i < ARRAY_SIZE(malformed); i++) {
                u64 counted = bad_requests(f);
                u16 head;

                f->toy->hold = false;
                driver_start(&f->d, BIT(VIRTIO_F_INDIRECT_DESC), QUEUES, SIZE);
                malformed[i].damage(f);
                driver_kick(&f->d, 0);
                if (!(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET))
                        fail_msg("%s was taken", malformed[i].name);
                assert_int_equal(bad_requests(f), counted + 1);
                assert_int_equal(f->m->msis[DRIVER_VECTOR_CONFIG], ++interrupts);
                /* Deaf now, until reset. */
                driver_kick(&f->d, 0);
                driver_kick(&f->d, 1);
                assert_int_equal(bad_requests(f), counted + 1);

                f->toy->hold = false;
                driver_start(&f->d, BIT(VIRTIO_F_INDIRECT_DESC), QUEUES, SIZE);
                head = add_echo(f, "well again");
                driver_kick(&f->d, 0);
                assert_echo(f, head, "well again");
        }
}

static void indirect_without_the_feature_is_refused(void **state)
{
        const struct driver_segment segment = { IN, 4, true };
        struct fixture *f = *state;

        driver_start(&f->d, 0, QUEUES, SIZE);
        driver_add_indirect(&f->d, 0, 0x300000, &segment, 1);
        driver_kick(&f->d, 0);
        assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

static void requests_of_4_gib_are_refused(void **state)
{
        struct driver_segment segments[512];
        struct fixture *f = *state;

        driver_start(&f->d, BIT(VIRTIO_F_INDIRECT_DESC), QUEUES, SIZE);
        for (unsigned i = 0; i < 512; i++)
                segments[i] = (struct driver_segment){ 0, 8 * MIB, true };
        driver_add_indirect(&f->d, 0, 0x900000, segments, 512);
        driver_kick(&f->d, 0);
        assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

/* ---- resets ---- */

static void reset_takes_requests_in_flight_back(void **state)
{
        struct fixture *f = *state;
        u16 head;

        f->toy->hold = true;
        driver_start(&f->d, 0, QUEUES, SIZE);
        add_echo(f, "lost");
        driver_kick(&f->d, 0);
        assert_int_equal(f->toy->n_held, 1);
        driver_common_set(&f->d, COMMON_STATUS, 1, 0);
        assert_int_equal(driver_status(&f->d), 0);
        assert_int_equal(f->toy->n_held, 0);
        assert_int_equal(driver_used_idx(&f->d, 0), 0);
        assert_int_equal(driver_common(&f->d, COMMON_CONFIG_VECTOR, 2), 0xffff);
        f->toy->hold = false;
        driver_start(&f->d, 0, QUEUES, SIZE);
        head = add_echo(f, "new");
        driver_kick(&f->d, 0);
        assert_echo(f, head, "new");
}

static void one_ring_can_be_reset(void **state)
{
        struct fixture *f = *state;
        u16 head;

        f->toy->hold = true;
        driver_start(&f->d, BIT(VIRTIO_F_RING_RESET), QUEUES, SIZE);
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        driver_common_set(&f->d, COMMON_QUEUE_SELECT, 2, 0);
        driver_common_set(&f->d, COMMON_QUEUE_RESET, 2, 1);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_RESET, 2), 0);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_ENABLE, 2), 0);
        assert_int_equal(f->toy->n_held, 0);
        driver_common_set(&f->d, COMMON_QUEUE_SELECT, 2, 1);
        assert_int_equal(driver_common(&f->d, COMMON_QUEUE_ENABLE, 2), 1);
        f->toy->hold = false;
        driver_queue_setup(&f->d, 0, 8);
        head = add_echo(f, "x");
        driver_kick(&f->d, 0);
        assert_echo(f, head, "x");
}

/* ---- saved state ---- */

static void saved_device_goes_on_where_it_was(void **state)
{
        struct fixture *f = *state;
        struct device *dev = &f->toy->vdev.pci.dev;
        struct state_out saved;
        u16 head;

        driver_start(&f->d, BIT(VIRTIO_F_EVENT_IDX), QUEUES, SIZE);
        for (unsigned i = 0; i < SIZE + 3; i++) {
                head = add_echo(f, "before");
                driver_kick(&f->d, 0);
                assert_echo(f, head, "before");
        }
        head = add_echo(f, "across");
        fake_env_lock(&f->m->f);
        dev->ops->quiesce(dev);
        fake_env_unlock(&f->m->f);
        driver_kick(&f->d, 0); /* is not lost: the ring remembers */
        assert_int_equal(driver_used_idx(&f->d, 0), SIZE + 3);
        fake_env_lock(&f->m->f);
        fake_save(dev, &saved);
        dev->ops->resume(dev);
        dev->ops->reset(dev);
        assert_int_equal(f->toy->vdev.status, 0);
        assert_int_equal(fake_load(dev, &saved, NULL), 0);
        fake_env_unlock(&f->m->f);
        wait_for(driver_used_idx(&f->d, 0) == SIZE + 4);
        assert_echo(f, head, "across");
        state_out_free(&saved);
}

static void damaged_state_is_harmless(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(VIRTIO_F_EVENT_IDX), QUEUES, SIZE);
        add_echo(f, "x");
        driver_kick(&f->d, 0);
        fake_check_state(&f->m->f, &f->toy->vdev.pci.dev);
}

static void state_with_unknown_features_is_refused(void **state)
{
        struct fixture *f = *state;
        struct device *dev = &f->toy->vdev.pci.dev;
        struct state_out saved;
        struct err *err = NULL;

        driver_start(&f->d, BIT(F_TOY), QUEUES, SIZE);
        fake_env_lock(&f->m->f);
        dev->ops->quiesce(dev);
        fake_save(dev, &saved);
        f->toy->vdev.features &= ~BIT(F_TOY);
        assert_true(fake_load(dev, &saved, &err) < 0);
        fake_env_unlock(&f->m->f);
        assert_int_equal(err_get_id(err), ERR_BAD_STATE);
        err_free(err);
        state_out_free(&saved);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(identity_is_modern),
                TEST(features_are_negotiated),
                TEST(driver_ok_needs_features_ok),
                TEST(queue_setup_refuses_bad_values),
                TEST(rings_outside_of_ram_are_refused),
                TEST(config_space_is_bounded),
                TEST(config_change_interrupts_and_bumps_the_generation),
                TEST(window_capability_reaches_the_registers),
                TEST(request_is_answered_with_an_interrupt),
                TEST(indirect_table_is_followed),
                TEST(long_indirect_table_is_followed),
                TEST(writes_are_reported_to_the_memory_map),
                TEST(writes_to_the_used_ring_are_reported_too),
                TEST(request_data_is_zeroed_and_aligned),
                TEST(requests_may_be_answered_in_any_order),
                TEST(without_bus_mastering_nothing_is_touched),
                TEST(buffers_made_available_before_driver_ok_are_found),
                TEST(intx_is_raised_and_acknowledged_by_reading_isr),
                TEST(no_interrupt_flag_is_respected),
                TEST(used_event_decides_about_interrupts),
                TEST(used_event_works_across_the_wrap_of_indices),
                TEST(avail_event_asks_for_the_next_buffer),
                TEST(buffer_that_arrives_while_the_device_stops_looking_is_found),
                TEST(one_run_takes_a_queue_size_at_most_and_the_loop_goes_on),
                cmocka_unit_test_setup_teardown(doorbell_eventfd_runs_the_queue, setup_ioeventfd, teardown),
                TEST(malformed_rings_need_a_reset_and_recover),
                TEST(indirect_without_the_feature_is_refused),
                TEST(requests_of_4_gib_are_refused),
                TEST(reset_takes_requests_in_flight_back),
                TEST(one_ring_can_be_reset),
                TEST(saved_device_goes_on_where_it_was),
                TEST(damaged_state_is_harmless),
                TEST(state_with_unknown_features_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

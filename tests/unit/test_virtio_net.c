/* virtio-net on a backend that records frames and can be made to refuse them. */
#include <errno.h>

#include "dev/virtio/net.h"
#include "dev/virtio/virtio.h"
#include "virtio_driver.h"

enum { SIZE = 16, RX = 0, TX = 1 };
enum { F_CSUM = 0, F_GUEST_CSUM = 1, F_MAC = 5, F_GUEST_TSO4 = 7, F_HOST_TSO4 = 11, F_MRG_RXBUF = 15, F_STATUS = 16 };
#define BUFFER 0x400000ULL
#define BUFFER_STEP 0x20000ULL

struct wire {
        struct net_backend backend;
        unsigned n_sent, ready, offloads_set, pauses;
        u8 last[70000];
        size_t last_len;
        bool full;
        int error;
};

static int wire_send(struct net_backend *backend, const struct iovec *iov, unsigned n)
{
        struct wire *wire = container_of(backend, struct wire, backend);

        if (wire->full)
                return -EAGAIN;
        if (wire->error)
                return wire->error;
        wire->last_len = virtio_iov_read(iov, n, 0, wire->last, sizeof(wire->last));
        wire->n_sent++;
        return 0;
}

static void wire_receive_ready(struct net_backend *backend)
{
        container_of(backend, struct wire, backend)->ready++;
}

static void wire_set_offloads(struct net_backend *backend, unsigned offloads)
{
        container_of(backend, struct wire, backend)->offloads_set = offloads;
}

static void wire_pause(struct net_backend *backend, bool paused)
{
        (void)paused;
        container_of(backend, struct wire, backend)->pauses++;
}

static void wire_destroy(struct net_backend *backend)
{
        free(container_of(backend, struct wire, backend));
}

static const struct net_backend_ops wire_ops = {
        .name = "wire", .send = wire_send, .receive_ready = wire_receive_ready, .set_offloads = wire_set_offloads,
        .pause = wire_pause, .destroy = wire_destroy,
};

struct fixture {
        struct fake_machine *m;
        struct wire *wire;
        struct driver d;
};

static int setup_with(void **state, bool vnet)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct virtio_net_config config = { .mac = { 2, 0, 0, 0, 0, 7 } };

        assert_non_null(f);
        f->m = fake_machine_new();
        f->wire = calloc(1, sizeof(*f->wire));
        assert_non_null(f->wire);
        f->wire->backend.ops = &wire_ops;
        f->wire->backend.vnet_header = vnet;
        f->wire->backend.offloads = vnet ? NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 : 0;
        config.backend = &f->wire->backend;
        assert_int_equal(virtio_net_new(&f->m->f.env, f->m->bus, &config, NULL), 0);
        fake_machine_start(f->m);
        driver_probe(&f->d, f->m, 1);
        *state = f;
        return 0;
}

static int setup(void **state)
{
        return setup_with(state, false);
}

static int setup_vnet(void **state)
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

static void rx_buffers(struct fixture *f, unsigned n, u32 len)
{
        for (unsigned i = 0; i < n; i++)
                driver_add(&f->d, RX, &(struct driver_segment){ BUFFER + BUFFER_STEP * i, len, true }, 1);
        driver_kick(&f->d, RX);
}

static bool receive(struct fixture *f, const u8 *frame, size_t len)
{
        bool taken;

        fake_env_lock(&f->m->f);
        taken = f->wire->backend.client.receive(f->wire->backend.client.opaque, frame, len);
        fake_env_unlock(&f->m->f);
        return taken;
}

/* A frame whose bytes are all different from their neighbours. */
static const u8 *frame_bytes(void)
{
        static u8 bytes[70000];

        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (u8)(i * 31 + (i >> 8));
        return bytes;
}

static void send(struct fixture *f, u32 len)
{
        memset(ram(f->m, BUFFER), 0, 12);
        memcpy(ram(f->m, BUFFER + 12), frame_bytes(), len);
        driver_add(&f->d, TX, &(struct driver_segment){ BUFFER, 12 + len, false }, 1);
        driver_kick(&f->d, TX);
}

static void identity_and_mac(void **state)
{
        struct fixture *f = *state;
        static const u8 mac[6] = { 2, 0, 0, 0, 0, 7 };

        assert_int_equal(cfg_read(f->m, 1, PCI_DEVICE_ID, 2), 0x1041);
        assert_int_equal(cfg_read(f->m, 1, PCI_CLASS_DEVICE, 2), 0x0200);
        for (unsigned i = 0; i < 6; i++)
                assert_int_equal(mmio_read(f->m, f->d.config + i, 1), mac[i]);
        assert_int_equal(mmio_read(f->m, f->d.config + 6, 2), 1);
        assert_int_equal(driver_offered(&f->d) & 0xffffff, BIT(F_MAC) | BIT(F_MRG_RXBUF) | BIT(F_STATUS));
}

static void offloads_follow_the_backend(void **state)
{
        struct fixture *f = *state;
        const u64 base = BIT(VIRTIO_F_VERSION_1);

        assert_int_equal(driver_offered(&f->d) & 0xffff, BIT(F_MAC) | BIT(F_MRG_RXBUF) | BIT(F_CSUM) | BIT(F_GUEST_CSUM) |
                                                                 BIT(F_GUEST_TSO4) | BIT(F_HOST_TSO4));
        assert_false(driver_negotiate(&f->d, base | BIT(F_HOST_TSO4)));
        assert_false(driver_negotiate(&f->d, base | BIT(F_GUEST_TSO4)));
        driver_start(&f->d, BIT(F_GUEST_CSUM) | BIT(F_GUEST_TSO4), 2, SIZE);
        assert_int_equal(f->wire->offloads_set, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
        driver_common_set(&f->d, COMMON_STATUS, 1, 0);
        assert_int_equal(f->wire->offloads_set, 0);
}

static void frames_are_sent_without_the_header(void **state)
{
        struct fixture *f = *state;
        const struct driver_segment cut[] = { { BUFFER, 5, false }, { BUFFER + 5, 20, false }, { BUFFER + 25, 47, false } };
        u32 id, len;

        driver_start(&f->d, 0, 2, SIZE);
        send(f, 60);
        assert_int_equal(f->wire->last_len, 60);
        assert_memory_equal(f->wire->last, frame_bytes(), 60);
        assert_true(driver_used(&f->d, TX, &id, &len));
        assert_int_equal(len, 0);
        driver_add(&f->d, TX, cut, 3);
        driver_kick(&f->d, TX);
        assert_int_equal(f->wire->last_len, 60);
        assert_memory_equal(f->wire->last, frame_bytes(), 60);
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_TX_FRAMES], 2);
}

static void vnet_backend_gets_the_header(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, 0, 2, SIZE);
        send(f, 60);
        assert_int_equal(f->wire->last_len, 72);
        assert_memory_equal(f->wire->last + 12, frame_bytes(), 60);
}

static void impossible_frames_are_dropped(void **state)
{
        struct fixture *f = *state;
        u32 id, len;

        driver_start(&f->d, 0, 2, SIZE);
        send(f, 13);
        send(f, NET_FRAME_MAX + 1);
        driver_add(&f->d, TX, &(struct driver_segment){ BUFFER, 5, false }, 1);
        driver_add(&f->d, TX, &(struct driver_segment){ BUFFER, 100, true }, 1);
        driver_kick(&f->d, TX);
        assert_int_equal(f->wire->n_sent, 0);
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 4);
        for (unsigned i = 0; i < 4; i++)
                assert_true(driver_used(&f->d, TX, &id, &len));
        send(f, NET_FRAME_MAX);
        assert_int_equal(f->wire->n_sent, 1);
}

static void busy_backend_holds_frames_in_the_ring(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, 0, 2, SIZE);
        f->wire->full = true;
        for (unsigned i = 0; i < 5; i++)
                send(f, 60);
        assert_int_equal(driver_used_idx(&f->d, TX), 0);
        f->wire->full = false;
        fake_env_lock(&f->m->f);
        f->wire->backend.client.writable(f->wire->backend.client.opaque);
        fake_env_unlock(&f->m->f);
        wait_for(driver_used_idx(&f->d, TX) == 5);
        assert_int_equal(f->wire->n_sent, 5);
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 0);
}

static void failing_backend_loses_the_frame_only(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, 0, 2, SIZE);
        f->wire->error = -EIO;
        send(f, 60);
        assert_int_equal(driver_used_idx(&f->d, TX), 1);
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 1);
}

static void frames_are_received_with_a_header(void **state)
{
        struct fixture *f = *state;
        static const u8 header[12] = { [10] = 1 };
        u32 id, len;

        driver_start(&f->d, 0, 2, SIZE);
        rx_buffers(f, 2, 1526);
        memset(ram(f->m, BUFFER), 0xff, 12);
        assert_true(receive(f, frame_bytes(), 60));
        assert_true(driver_used(&f->d, RX, &id, &len));
        assert_int_equal(len, 72);
        assert_memory_equal(ram(f->m, BUFFER), header, 12);
        assert_memory_equal(ram(f->m, BUFFER + 12), frame_bytes(), 60);
        assert_int_equal(f->m->msis[DRIVER_VECTOR(RX)], 1);
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_RX_FRAMES], 1);
}

static void vnet_header_passes_through(void **state)
{
        struct fixture *f = *state;
        u8 frame[100] = { 1, 0, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0 };
        u32 id, len;

        driver_start(&f->d, BIT(F_GUEST_CSUM), 2, SIZE);
        rx_buffers(f, 1, 1526);
        assert_true(receive(f, frame, sizeof(frame)));
        assert_true(driver_used(&f->d, RX, &id, &len));
        assert_int_equal(len, 100);
        frame[10] = 1;
        assert_memory_equal(ram(f->m, BUFFER), frame, sizeof(frame));
        assert_true(receive(f, frame, 5)); /* shorter than a header: dropped */
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 1);
}

static void large_frames_use_several_buffers_seen_at_once(void **state)
{
        struct fixture *f = *state;
        const u32 total = 12 + 9000;
        u32 id, len, seen = 0;

        driver_start(&f->d, BIT(F_MRG_RXBUF), 2, SIZE);
        rx_buffers(f, 8, 1536);
        assert_true(receive(f, frame_bytes(), 9000));
        assert_int_equal(driver_used_idx(&f->d, RX), 6);
        assert_int_equal(*(u16 *)ram(f->m, BUFFER + 10), 6);
        assert_int_equal(f->m->msis[DRIVER_VECTOR(RX)], 1);
        for (unsigned i = 0; i < 6; i++) {
                const u32 skip = i ? 0 : 12;

                assert_true(driver_used(&f->d, RX, &id, &len));
                assert_int_equal(id, i);
                assert_int_equal(len, MIN(1536U, total - 1536 * i));
                assert_memory_equal(ram(f->m, BUFFER + BUFFER_STEP * i + skip), frame_bytes() + seen, len - skip);
                seen += len - skip;
        }
        assert_int_equal(seen, 9000);
}

static void frame_without_buffers_stays_with_the_backend(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(F_MRG_RXBUF) | BIT(VIRTIO_F_EVENT_IDX), 2, SIZE);
        assert_false(receive(f, frame_bytes(), 3000));
        rx_buffers(f, 1, 1536);
        wait_locked(&f->m->f, f->wire->ready == 1);
        assert_false(receive(f, frame_bytes(), 3000)); /* one is not enough */
        assert_int_equal(driver_avail_event(&f->d, RX), 1);
        assert_int_equal(driver_used_idx(&f->d, RX), 0);
        rx_buffers(f, 1, 1536);
        wait_locked(&f->m->f, f->wire->ready == 2);
        assert_true(receive(f, frame_bytes(), 3000));
        assert_int_equal(driver_used_idx(&f->d, RX), 2);
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 0);
}

/* Refilling the receive ring would otherwise cost an exit each time. */
static void receive_buffers_need_no_notification_while_there_are_some(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(VIRTIO_F_EVENT_IDX), 2, SIZE);
        fake_sync(f->m);
        rx_buffers(f, 1, 1536);
        rx_buffers(f, 3, 1536);
        assert_int_equal(driver_avail_event(&f->d, RX), 0);
        for (unsigned i = 0; i < 4; i++)
                assert_true(receive(f, frame_bytes(), 60));
        assert_int_equal(driver_avail_event(&f->d, RX), 0);
        assert_false(receive(f, frame_bytes(), 60));
        assert_int_equal(driver_avail_event(&f->d, RX), 4);

        driver_start(&f->d, 0, 2, SIZE);
        fake_sync(f->m);
        rx_buffers(f, 1, 1536);
        assert_int_equal(driver_used_flags(&f->d, RX), 1);
        assert_true(receive(f, frame_bytes(), 60));
        assert_false(receive(f, frame_bytes(), 60));
        assert_int_equal(driver_used_flags(&f->d, RX), 0);
}

static void frame_that_never_fits_is_dropped(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, 0, 2, SIZE); /* no merging */
        rx_buffers(f, 2, 1526);
        assert_true(receive(f, frame_bytes(), 1515));
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 1);
        assert_true(receive(f, frame_bytes(), 1514));
        assert_int_equal(driver_used_idx(&f->d, RX), 1);

        driver_start(&f->d, BIT(F_MRG_RXBUF), 2, SIZE); /* a full ring of tiny buffers */
        rx_buffers(f, SIZE, 16);
        assert_true(receive(f, frame_bytes(), 1514));
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 2);
        assert_true(receive(f, frame_bytes(), 60));
}

static void buffer_smaller_than_a_header_is_malformed(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(F_MRG_RXBUF), 2, SIZE);
        rx_buffers(f, 2, 11);
        assert_true(receive(f, frame_bytes(), 60));
        assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

static void without_a_driver_frames_are_dropped(void **state)
{
        struct fixture *f = *state;

        assert_true(receive(f, frame_bytes(), 60));
        assert_int_equal(f->m->f.counters.value[COUNTER_NET_DROPPED], 1);
}

static void quiesced_device_takes_nothing(void **state)
{
        struct fixture *f = *state;
        struct device *dev = fake_env_device(&f->m->f, "virtio-net");

        driver_start(&f->d, 0, 2, SIZE);
        rx_buffers(f, 2, 1526);
        fake_env_lock(&f->m->f);
        dev->ops->quiesce(dev);
        fake_env_unlock(&f->m->f);
        assert_int_equal(f->wire->pauses, 1);
        assert_false(receive(f, frame_bytes(), 60));
        send(f, 60);
        assert_int_equal(f->wire->n_sent, 0);
        fake_env_lock(&f->m->f);
        dev->ops->resume(dev);
        fake_env_unlock(&f->m->f);
        wait_locked(&f->m->f, f->wire->n_sent == 1);
        assert_true(receive(f, frame_bytes(), 60));
}

static void link_changes_are_told(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(F_STATUS), 2, SIZE);
        fake_env_lock(&f->m->f);
        f->wire->backend.client.link(f->wire->backend.client.opaque, false);
        fake_env_unlock(&f->m->f);
        assert_int_equal(mmio_read(f->m, f->d.config + 6, 2), 0);
        assert_int_equal(f->m->msis[DRIVER_VECTOR_CONFIG], 1);
}

static void saved_state_is_checked(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, BIT(F_MRG_RXBUF), 2, SIZE);
        rx_buffers(f, 4, 1526);
        assert_true(receive(f, frame_bytes(), 60));
        fake_check_state(&f->m->f, fake_env_device(&f->m->f, "virtio-net"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_VNET(name) cmocka_unit_test_setup_teardown(name, setup_vnet, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(identity_and_mac),
                TEST_VNET(offloads_follow_the_backend),
                TEST(frames_are_sent_without_the_header),
                TEST_VNET(vnet_backend_gets_the_header),
                TEST(impossible_frames_are_dropped),
                TEST(busy_backend_holds_frames_in_the_ring),
                TEST(failing_backend_loses_the_frame_only),
                TEST(frames_are_received_with_a_header),
                TEST_VNET(vnet_header_passes_through),
                TEST(large_frames_use_several_buffers_seen_at_once),
                TEST(frame_without_buffers_stays_with_the_backend),
                TEST(receive_buffers_need_no_notification_while_there_are_some),
                TEST(frame_that_never_fits_is_dropped),
                TEST(buffer_smaller_than_a_header_is_malformed),
                TEST(without_a_driver_frames_are_dropped),
                TEST(quiesced_device_takes_nothing),
                TEST(link_changes_are_told),
                TEST(saved_state_is_checked),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

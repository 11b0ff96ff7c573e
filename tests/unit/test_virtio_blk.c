/* virtio-blk on a raw image. */
#include <fcntl.h>
#include <sys/stat.h>

#include "dev/block/block.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/virtio.h"
#include "virtio_driver.h"

#define DISK_SIZE (1 * MIB)
#define HEADER 0x400000ULL
#define STATUS 0x401000ULL
#define DATA 0x500000ULL
enum { SIZE = 16 };

enum { F_SEG_MAX = 2, F_RO = 5, F_BLK_SIZE = 6, F_FLUSH = 9, F_TOPOLOGY = 10, F_DISCARD = 13, F_WRITE_ZEROES = 14 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xee };

struct fixture {
        struct fake_machine *m;
        struct driver d;
        struct block_device *block;
        char path[64];
};

static u8 pattern(u64 offset)
{
        return (u8)(offset * 7 + (offset >> 9));
}

static int setup_with(void **state, bool read_only)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct virtio_blk_config config = { .serial = "disk-0123456789abcdef" };
        struct block_options options = { .read_only = read_only };
        u8 *bytes = malloc(DISK_SIZE);
        int fd;

        assert_non_null(f);
        assert_non_null(bytes);
        strcpy(f->path, "/tmp/test_virtio_blk.XXXXXX");
        fd = mkstemp(f->path);
        assert_true(fd >= 0);
        for (u64 i = 0; i < DISK_SIZE; i++)
                bytes[i] = pattern(i);
        assert_int_equal(write(fd, bytes, DISK_SIZE), DISK_SIZE);
        close(fd);
        free(bytes);

        f->m = fake_machine_new();
        options.path = f->path;
        assert_int_equal(block_open(&options, f->m->f.env.loop, &f->m->f.counters, &config.block, NULL), 0);
        f->block = config.block;
        assert_int_equal(virtio_blk_new(&f->m->f.env, f->m->bus, &config, NULL), 0);
        fake_machine_start(f->m);
        driver_probe(&f->d, f->m, 1);
        *state = f;
        return 0;
}

static int setup(void **state)
{
        return setup_with(state, false);
}

static int setup_read_only(void **state)
{
        return setup_with(state, true);
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        fake_machine_free(f->m);
        unlink(f->path);
        free(f);
        return 0;
}

static void start(struct fixture *f)
{
        driver_start(&f->d, driver_offered(&f->d) & ~BIT(VIRTIO_F_EVENT_IDX), 1, SIZE);
}

static void header_put(struct fixture *f, u32 type, u64 sector)
{
        u8 *p = ram(f->m, HEADER);

        memcpy(p, &type, 4);
        memset(p + 4, 0, 4);
        memcpy(p + 8, &sector, 8);
        *(u8 *)ram(f->m, STATUS) = S_NONE;
}

/* One request with @bytes of data at DATA; waits for its status. */
static u8 request(struct fixture *f, u32 type, u64 sector, u32 bytes, u32 *ret_len)
{
        const bool to_guest = type == T_IN || type == T_GET_ID;
        struct driver_segment segments[3] = { { HEADER, 16, false } };
        unsigned n = 1;
        u32 id, len;

        header_put(f, type, sector);
        if (bytes)
                segments[n++] = (struct driver_segment){ DATA, bytes, to_guest };
        segments[n++] = (struct driver_segment){ STATUS, 1, true };
        driver_add(&f->d, 0, segments, n);
        driver_kick(&f->d, 0);
        wait_for(driver_used(&f->d, 0, &id, &len));
        if (ret_len)
                *ret_len = len;
        return *(u8 *)ram(f->m, STATUS);
}

static void assert_on_disk(struct fixture *f, u64 offset, const void *bytes, size_t len)
{
        u8 buffer[8192];
        int fd = open(f->path, O_RDONLY);

        assert_true(len <= sizeof(buffer));
        assert_int_equal(pread(fd, buffer, len, (off_t)offset), len);
        assert_memory_equal(buffer, bytes, len);
        close(fd);
}

static void assert_pattern(struct fixture *f, u64 gpa, u64 offset, size_t len)
{
        const u8 *bytes = ram(f->m, gpa);

        for (size_t i = 0; i < len; i++)
                if (bytes[i] != pattern(offset + i))
                        fail_msg("byte %zu is %u, not %u", i, bytes[i], pattern(offset + i));
}

static void config_describes_the_disk(void **state)
{
        struct fixture *f = *state;
        const u64 features = driver_offered(&f->d);

        assert_int_equal(cfg_read(f->m, 1, PCI_DEVICE_ID, 2), 0x1042);
        assert_int_equal(cfg_read(f->m, 1, PCI_CLASS_DEVICE, 2), 0x0100);
        assert_int_equal(mmio_read(f->m, f->d.config, 8), DISK_SIZE / 512);
        assert_int_equal(mmio_read(f->m, f->d.config + 12, 4), 254);
        assert_int_equal(mmio_read(f->m, f->d.config + 20, 4), 512);
        assert_int_not_equal(mmio_read(f->m, f->d.config + 36, 4), 0);
        assert_int_equal(mmio_read(f->m, f->d.config + 40, 4), 1);
        assert_int_equal(features & BIT(F_RO), 0);
        assert_int_equal(features & 0x7fff, BIT(F_SEG_MAX) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY) |
                                                    BIT(F_DISCARD) | BIT(F_WRITE_ZEROES));
}

static void reads_come_from_the_image(void **state)
{
        struct fixture *f = *state;
        u32 len;

        start(f);
        assert_int_equal(request(f, T_IN, 3, 4096, &len), S_OK);
        assert_int_equal(len, 4097);
        assert_pattern(f, DATA, 3 * 512, 4096);
        assert_int_equal(request(f, T_IN, DISK_SIZE / 512 - 1, 512, NULL), S_OK);
        assert_pattern(f, DATA, DISK_SIZE - 512, 512);
}

static void writes_go_to_the_image(void **state)
{
        struct fixture *f = *state;
        u32 len;

        start(f);
        memset(ram(f->m, DATA), 0xab, 1024);
        assert_int_equal(request(f, T_OUT, 8, 1024, &len), S_OK);
        assert_int_equal(len, 1);
        assert_on_disk(f, 8 * 512, ram(f->m, DATA), 1024);
        assert_int_equal(request(f, T_FLUSH, 0, 0, NULL), S_OK);
        assert_int_equal(f->m->f.counters.value[COUNTER_BLOCK_FLUSHES], 1);
        /* The neighbours are as they were. */
        assert_int_equal(request(f, T_IN, 10, 512, NULL), S_OK);
        assert_pattern(f, DATA, 10 * 512, 512);
}

static void any_cut_into_descriptors_works(void **state)
{
        /* Header in two parts, the second with data behind it; status together with the end of the data. */
        const struct driver_segment write_cut[] = {
                { HEADER, 5, false }, { HEADER + 5, 11 + 100, false }, { DATA, 412, false }, { STATUS, 1, true },
        };
        const struct driver_segment read_cut[] = { { HEADER, 16, false }, { DATA, 100, true }, { DATA + 100, 413, true } };
        struct fixture *f = *state;
        u8 expected[512];
        u32 id, len;

        start(f);
        header_put(f, T_OUT, 4);
        memset(ram(f->m, HEADER + 16), 0x11, 100);
        memset(ram(f->m, DATA), 0x22, 412);
        memset(expected, 0x11, 100);
        memset(expected + 100, 0x22, 412);
        driver_add(&f->d, 0, write_cut, 4);
        driver_kick(&f->d, 0);
        wait_for(driver_used(&f->d, 0, &id, &len));
        assert_int_equal(*(u8 *)ram(f->m, STATUS), S_OK);
        assert_on_disk(f, 4 * 512, expected, 512);

        header_put(f, T_IN, 5);
        *(u8 *)ram(f->m, DATA + 512) = S_NONE;
        driver_add(&f->d, 0, read_cut, 3);
        driver_kick(&f->d, 0);
        wait_for(driver_used(&f->d, 0, &id, &len));
        assert_int_equal(len, 513);
        assert_int_equal(*(u8 *)ram(f->m, DATA + 512), S_OK);
        assert_pattern(f, DATA, 5 * 512, 512);
}

static void bad_ranges_are_io_errors(void **state)
{
        struct fixture *f = *state;

        start(f);
        assert_int_equal(request(f, T_IN, DISK_SIZE / 512, 512, NULL), S_IOERR);
        assert_int_equal(request(f, T_IN, DISK_SIZE / 512 - 1, 1024, NULL), S_IOERR);
        assert_int_equal(request(f, T_OUT, ~0ULL, 512, NULL), S_IOERR);
        assert_int_equal(request(f, T_OUT, ~0ULL / 512, 512, NULL), S_IOERR);
        assert_int_equal(request(f, T_IN, 0, 100, NULL), S_IOERR);
        assert_int_equal(request(f, T_OUT, 0, 513, NULL), S_IOERR);
        assert_int_equal(request(f, T_IN, 0, 512, NULL), S_OK);
        assert_pattern(f, DATA, 0, 512);
}

static void unknown_types_are_unsupported(void **state)
{
        struct fixture *f = *state;

        start(f);
        assert_int_equal(request(f, 77, 0, 0, NULL), S_UNSUPP);
        assert_int_equal(request(f, 0x80000000, 0, 512, NULL), S_UNSUPP);
        assert_int_equal(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

static void serial_number_is_given(void **state)
{
        struct fixture *f = *state;

        start(f);
        memset(ram(f->m, DATA), 0xff, 24);
        assert_int_equal(request(f, T_GET_ID, 0, 20, NULL), S_OK);
        assert_memory_equal(ram(f->m, DATA), "disk-0123456789abcde\xff", 21);
}

static void range_put(struct fixture *f, u64 sector, u32 sectors, u32 flags)
{
        u8 *p = ram(f->m, DATA);

        memcpy(p, &sector, 8);
        memcpy(p + 8, &sectors, 4);
        memcpy(p + 12, &flags, 4);
}

static void zeroes_and_discards_are_done(void **state)
{
        static const u8 zero[4096];
        struct fixture *f = *state;

        start(f);
        range_put(f, 16, 8, 0);
        assert_int_equal(request(f, T_WRITE_ZEROES, 0, 16, NULL), S_OK);
        assert_on_disk(f, 16 * 512, zero, 4096);
        range_put(f, 32, 8, 1);
        assert_int_equal(request(f, T_WRITE_ZEROES, 0, 16, NULL), S_OK);
        assert_on_disk(f, 32 * 512, zero, 4096);
        range_put(f, 64, 8, 0);
        assert_int_equal(request(f, T_DISCARD, 0, 16, NULL), S_OK);
        assert_int_equal(request(f, T_IN, 72, 512, NULL), S_OK);
        assert_pattern(f, DATA, 72 * 512, 512);

        range_put(f, 64, 8, 1);
        assert_int_equal(request(f, T_DISCARD, 0, 16, NULL), S_UNSUPP); /* unmap means nothing there */
        range_put(f, 64, 8, 2);
        assert_int_equal(request(f, T_WRITE_ZEROES, 0, 16, NULL), S_UNSUPP);
        range_put(f, DISK_SIZE / 512 - 1, 2, 0);
        assert_int_equal(request(f, T_WRITE_ZEROES, 0, 16, NULL), S_IOERR);
        range_put(f, ~0ULL, 0xffffffff, 0);
        assert_int_equal(request(f, T_DISCARD, 0, 16, NULL), S_IOERR);
        range_put(f, 0, 8, 0);
        assert_int_equal(request(f, T_DISCARD, 0, 8, NULL), S_IOERR);
        assert_int_equal(request(f, T_DISCARD, 0, 32, NULL), S_IOERR); /* more ranges than announced */
}

static void types_need_their_feature(void **state)
{
        struct fixture *f = *state;

        driver_start(&f->d, 0, 1, SIZE);
        range_put(f, 16, 8, 0);
        assert_int_equal(request(f, T_WRITE_ZEROES, 0, 16, NULL), S_UNSUPP);
        assert_int_equal(request(f, T_FLUSH, 0, 0, NULL), S_UNSUPP);
        assert_int_equal(request(f, T_OUT, 0, 512, NULL), S_OK);
}

static void read_only_disk_refuses_writes(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(driver_offered(&f->d) & (BIT(F_RO) | BIT(F_DISCARD) | BIT(F_WRITE_ZEROES)), BIT(F_RO));
        start(f);
        assert_int_equal(request(f, T_OUT, 0, 512, NULL), S_IOERR);
        assert_int_equal(request(f, T_IN, 0, 512, NULL), S_OK);
        assert_pattern(f, DATA, 0, 512);
}

static void malformed_requests_need_a_reset(void **state)
{
        const struct driver_segment no_status[] = { { HEADER, 16, false } };
        const struct driver_segment short_header[] = { { HEADER, 15, false }, { STATUS, 1, true } };
        const struct driver_segment no_header[] = { { STATUS, 1, true } };
        const struct {
                const struct driver_segment *segments;
                unsigned n;
        } cases[] = { { no_status, 1 }, { short_header, 2 }, { no_header, 1 } };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                start(f);
                header_put(f, T_IN, 0);
                driver_add(&f->d, 0, cases[i].segments, cases[i].n);
                driver_kick(&f->d, 0);
                assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
        }
        start(f);
        assert_int_equal(request(f, T_IN, 0, 512, NULL), S_OK);
}

/* As many large reads as fit into the ring, made available without a notification. */
static struct virtio_device *prepare_reads(struct fixture *f)
{
        const struct driver_segment segments[] = { { HEADER, 16, false }, { DATA, DISK_SIZE, true }, { STATUS, 1, true } };

        start(f);
        fake_sync(f->m);
        header_put(f, T_IN, 0);
        for (unsigned i = 0; i < 5; i++)
                driver_add(&f->d, 0, segments, 3);
        return container_of(fake_env_device(&f->m->f, "virtio-blk"), struct virtio_device, pci.dev);
}

/* The device lock is held from submission to reset, so that nothing can be completed in between. */
static void reset_waits_for_requests_in_flight(void **state)
{
        struct fixture *f = *state;
        struct virtio_device *vdev = prepare_reads(f);
        unsigned before, after;

        fake_env_lock(&f->m->f);
        vdev->type->ops->queue_run(vdev, &vdev->queues[0]);
        before = block_in_flight(f->block);
        vdev->pci.dev.ops->reset(&vdev->pci.dev);
        after = block_in_flight(f->block);
        fake_env_unlock(&f->m->f);
        assert_int_equal(before, 5);
        assert_int_equal(after, 0);
}

static void many_requests_are_all_answered(void **state)
{
        struct fixture *f = *state;
        unsigned done = 0;
        u32 id, len;

        start(f);
        header_put(f, T_IN, 0);
        for (unsigned i = 0; i < 300; i++) {
                const struct driver_segment segments[] = { { HEADER, 16, false }, { DATA, 4096, true }, { STATUS, 1, true } };

                driver_add(&f->d, 0, segments, 3);
                driver_kick(&f->d, 0);
                while ((u16)(f->d.q[0].avail_idx - driver_used_idx(&f->d, 0)) >= SIZE / 3)
                        usleep(100);
                while (driver_used(&f->d, 0, &id, &len)) {
                        assert_int_equal(len, 4097);
                        done++;
                }
        }
        wait_for(driver_used_idx(&f->d, 0) == 300);
        while (driver_used(&f->d, 0, &id, &len))
                done++;
        assert_int_equal(done, 300);
        assert_int_equal(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

static void quiesce_finishes_what_is_in_flight(void **state)
{
        struct fixture *f = *state;
        struct virtio_device *vdev = prepare_reads(f);
        unsigned done;

        fake_env_lock(&f->m->f);
        vdev->type->ops->queue_run(vdev, &vdev->queues[0]);
        vdev->pci.dev.ops->quiesce(&vdev->pci.dev);
        done = driver_used_idx(&f->d, 0);
        vdev->pci.dev.ops->resume(&vdev->pci.dev);
        fake_env_unlock(&f->m->f);
        assert_int_equal(done, 5);
        assert_int_equal(*(u8 *)ram(f->m, STATUS), S_OK);
}

static void saved_state_is_checked(void **state)
{
        struct fixture *f = *state;

        start(f);
        assert_int_equal(request(f, T_IN, 0, 512, NULL), S_OK);
        fake_check_state(&f->m->f, fake_env_device(&f->m->f, "virtio-blk"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(config_describes_the_disk),
                TEST(reads_come_from_the_image),
                TEST(writes_go_to_the_image),
                TEST(any_cut_into_descriptors_works),
                TEST(bad_ranges_are_io_errors),
                TEST(unknown_types_are_unsupported),
                TEST(serial_number_is_given),
                TEST(zeroes_and_discards_are_done),
                TEST(types_need_their_feature),
                cmocka_unit_test_setup_teardown(read_only_disk_refuses_writes, setup_read_only, teardown),
                TEST(malformed_requests_need_a_reset),
                TEST(reset_waits_for_requests_in_flight),
                TEST(many_requests_are_all_answered),
                TEST(quiesce_finishes_what_is_in_flight),
                TEST(saved_state_is_checked),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

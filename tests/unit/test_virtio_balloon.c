/* virtio-balloon. */
#include <sys/stat.h>

#include "dev/virtio/balloon.h"
#include "dev/virtio/virtio.h"
#include "virtio_driver.h"

enum { INFLATE = 0, DEFLATE = 1, STATS = 2, REPORTING = 3, QUEUES = 4, SIZE = 16 };
enum { F_STATS_VQ = 1, F_PAGE_POISON = 4, F_REPORTING = 5 };
#define LIST 0x600000ULL
#define VICTIMS 0x800000ULL

struct fixture {
        struct fake_machine *m;
        struct virtio_balloon *balloon;
        struct driver d;
        unsigned stats_came;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        f->m = fake_machine_new();
        assert_int_equal(virtio_balloon_new(&f->m->f.env, f->m->bus, &f->balloon, NULL), 0);
        fake_machine_start(f->m);
        driver_probe(&f->d, f->m, 1);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        fake_machine_free(f->m);
        free(f);
        return 0;
}

static void start(struct fixture *f)
{
        driver_start(&f->d, BIT(F_STATS_VQ) | BIT(F_REPORTING) | BIT(F_PAGE_POISON), QUEUES, SIZE);
}

static void send_pages(struct fixture *f, unsigned queue, const u32 *pages, u32 n)
{
        u32 id, len;

        memcpy(ram(f->m, LIST), pages, n * sizeof(*pages));
        driver_add(&f->d, queue, &(struct driver_segment){ LIST, n * (u32)sizeof(*pages), false }, 1);
        driver_kick(&f->d, queue);
        wait_for(driver_used(&f->d, queue, &id, &len));
}

static void fill(struct fixture *f, u64 gpa, unsigned pages)
{
        memset(ram(f->m, gpa), 0xaa, pages * PAGE_SIZE);
}

static bool is(struct fixture *f, u64 gpa, u8 value)
{
        const u8 *p = ram(f->m, gpa);

        for (unsigned i = 0; i < PAGE_SIZE; i++)
                if (p[i] != value)
                        return false;
        return true;
}

/* Pages of the memfd that the host has memory for. */
static u64 resident(struct fixture *f)
{
        struct stat st;

        assert_int_equal(fstat(f->m->f.env.memory->fd, &st), 0);
        return (u64)st.st_blocks / 8;
}

static void inflated_pages_leave_memory_and_read_as_zeros(void **state)
{
        struct fixture *f = *state;
        const u32 first = VICTIMS >> PAGE_SHIFT;
        const u32 pages[] = { first + 1, first + 2, first + 3, first + 7, first + 6 };
        u64 before;

        start(f);
        fill(f, VICTIMS, 9);
        fill(f, LIST, 1);
        before = resident(f);
        send_pages(f, INFLATE, pages, ARRAY_SIZE(pages));
        assert_int_equal(resident(f), before - 5);
        for (unsigned i = 0; i < 9; i++)
                assert_true(is(f, VICTIMS + i * PAGE_SIZE, (i >= 1 && i <= 3) || i == 6 || i == 7 ? 0 : 0xaa));
        send_pages(f, DEFLATE, pages, ARRAY_SIZE(pages));
        fill(f, VICTIMS + PAGE_SIZE, 1); /* and can be used again */
        assert_true(is(f, VICTIMS + PAGE_SIZE, 0xaa));
}

static void dropped_code(void *opaque, u64 gpa, u64 len)
{
        (void)len;
        if (gpa >> PAGE_SHIFT == VICTIMS >> PAGE_SHIFT)
                (*(unsigned *)opaque)++;
}

static void giving_back_is_a_write_for_dirty_tracking_and_code(void **state)
{
        struct fixture *f = *state;
        struct guest_memory *mem = f->m->f.env.memory;
        const u32 page = VICTIMS >> PAGE_SHIFT;
        u64 bitmap[FAKE_RAM / PAGE_SIZE / 64] = { 0 };
        unsigned dropped = 0;

        start(f);
        fill(f, VICTIMS, 1);
        mem->on_code_write = dropped_code;
        mem->on_code_write_opaque = &dropped;
        guest_memory_dirty_start(mem);
        assert_true(guest_memory_mark_code(mem, VICTIMS + 100, 10));
        send_pages(f, INFLATE, &page, 1);
        assert_int_equal(dropped, 1);
        guest_memory_dirty_collect(mem, bitmap);
        assert_true(bitmap[page / 64] & BIT(page % 64));
        assert_false(bitmap[(page + 1) / 64] & BIT((page + 1) % 64));
}

static void pages_that_are_no_ram_are_ignored(void **state)
{
        struct fixture *f = *state;
        const u32 pages[] = { FAKE_RAM >> PAGE_SHIFT, 0xffffffff, 0xfee00, VICTIMS >> PAGE_SHIFT };

        start(f);
        fill(f, VICTIMS, 1);
        send_pages(f, INFLATE, pages, ARRAY_SIZE(pages));
        assert_true(is(f, VICTIMS, 0));
        assert_int_equal(f->m->f.counters.value[COUNTER_VIRTIO_BAD_REQUESTS], 3);
        assert_false(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

static void half_a_page_number_breaks_the_device(void **state)
{
        struct fixture *f = *state;

        start(f);
        driver_add(&f->d, INFLATE, &(struct driver_segment){ LIST, 6, false }, 1);
        driver_kick(&f->d, INFLATE);
        assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

static void report(struct fixture *f, u64 gpa, u32 bytes)
{
        u32 id, len;

        driver_add(&f->d, REPORTING, &(struct driver_segment){ gpa, bytes, true }, 1);
        driver_kick(&f->d, REPORTING);
        wait_for(driver_used(&f->d, REPORTING, &id, &len));
}

static void reported_pages_leave_memory(void **state)
{
        struct fixture *f = *state;
        u64 before;

        start(f);
        fill(f, VICTIMS, 8);
        before = resident(f);
        report(f, VICTIMS + PAGE_SIZE, 4 * PAGE_SIZE);
        assert_int_equal(resident(f), before - 4);
        report(f, VICTIMS + 5 * PAGE_SIZE + 1, 2 * PAGE_SIZE); /* only the whole page inside */
        assert_int_equal(resident(f), before - 5);
        assert_true(is(f, VICTIMS, 0xaa));
        assert_true(is(f, VICTIMS + 6 * PAGE_SIZE, 0));
        assert_true(is(f, VICTIMS + 7 * PAGE_SIZE, 0xaa));
}

static void poisoned_pages_stay(void **state)
{
        struct fixture *f = *state;

        start(f);
        mmio_write(f->m, f->d.config + 12, 4, 0xaaaaaaaa);
        fill(f, VICTIMS, 1);
        report(f, VICTIMS, PAGE_SIZE);
        assert_true(is(f, VICTIMS, 0xaa));
}

static void queues_follow_the_features(void **state)
{
        struct fixture *f = *state;
        u32 id, len;

        /* Without statistics the reports are queue 2. */
        driver_start(&f->d, BIT(F_REPORTING), 3, SIZE);
        fill(f, VICTIMS, 1);
        driver_add(&f->d, 2, &(struct driver_segment){ VICTIMS, PAGE_SIZE, true }, 1);
        driver_kick(&f->d, 2);
        wait_for(driver_used(&f->d, 2, &id, &len));
        assert_true(is(f, VICTIMS, 0));
}

static void on_stats(void *opaque)
{
        __atomic_add_fetch(&((struct fixture *)opaque)->stats_came, 1, __ATOMIC_RELAXED);
}

static void give_stats(struct fixture *f, u64 free_bytes)
{
        const struct {
                u16 tag;
                u64 value;
        } _packed_ stats[] = { { 4, free_bytes }, { 99, 1 }, { 5, 1000 } };

        memcpy(ram(f->m, LIST), stats, sizeof(stats));
        driver_add(&f->d, STATS, &(struct driver_segment){ LIST, sizeof(stats), false }, 1);
        driver_kick(&f->d, STATS);
}

static void statistics_come_when_asked_for(void **state)
{
        struct fixture *f = *state;
        struct balloon_info info;
        u32 id, len;

        start(f);
        assert_false(virtio_balloon_ask(f->balloon, on_stats, f));
        give_stats(f, 5);
        assert_false(driver_used(&f->d, STATS, &id, &len)); /* it stays until somebody asks */
        fake_env_lock(&f->m->f);
        assert_true(virtio_balloon_ask(f->balloon, on_stats, f));
        fake_env_unlock(&f->m->f);
        assert_true(driver_used(&f->d, STATS, &id, &len));
        assert_int_equal(f->stats_came, 0);
        give_stats(f, 6);
        assert_int_equal(f->stats_came, 1);
        virtio_balloon_info(f->balloon, &info);
        assert_int_equal(info.stats[BALLOON_STAT_FREE], 6);
        assert_int_equal(info.stats_known, BIT(BALLOON_STAT_FREE) | BIT(BALLOON_STAT_TOTAL));
        /* A second buffer sends the first one back; a reset keeps none. */
        give_stats(f, 7);
        assert_true(driver_used(&f->d, STATS, &id, &len));
        assert_true(driver_negotiate(&f->d, BIT(VIRTIO_F_VERSION_1)));
}

static void the_target_is_told(void **state)
{
        struct fixture *f = *state;
        struct balloon_info info;

        start(f);
        fake_env_lock(&f->m->f);
        virtio_balloon_set_target(f->balloon, 3 * PAGE_SIZE + 5);
        fake_env_unlock(&f->m->f);
        assert_int_equal(f->m->msis[DRIVER_VECTOR_CONFIG], 1);
        assert_int_equal(mmio_read(f->m, f->d.config, 4), 3);
        mmio_write(f->m, f->d.config + 4, 4, 2);
        assert_int_equal(mmio_read(f->m, f->d.config + 4, 4), 2);
        fake_env_lock(&f->m->f);
        virtio_balloon_info(f->balloon, &info);
        virtio_balloon_set_target(f->balloon, ~0ULL);
        fake_env_unlock(&f->m->f);
        assert_int_equal(info.target, 3 * PAGE_SIZE);
        assert_int_equal(info.actual, 2 * PAGE_SIZE);
        assert_int_equal(mmio_read(f->m, f->d.config, 4), FAKE_RAM / PAGE_SIZE);
}

static void saved_state_is_checked(void **state)
{
        struct fixture *f = *state;

        start(f);
        give_stats(f, 1);
        fake_check_state(&f->m->f, fake_env_device(&f->m->f, "virtio-balloon"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(inflated_pages_leave_memory_and_read_as_zeros),
                TEST(giving_back_is_a_write_for_dirty_tracking_and_code),
                TEST(pages_that_are_no_ram_are_ignored),
                TEST(half_a_page_number_breaks_the_device),
                TEST(reported_pages_leave_memory),
                TEST(poisoned_pages_stay),
                TEST(queues_follow_the_features),
                TEST(statistics_come_when_asked_for),
                TEST(the_target_is_told),
                TEST(saved_state_is_checked),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

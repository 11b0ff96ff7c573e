/* Guest RAM: where it lies, who may touch it, and who hears of writes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "mmu/memory.h"

/* Sparse: nothing of it is touched but a few pages. */
#define LARGE_RAM (3 * GIB + 512 * MIB)
#define SMALL_RAM (1 * MIB)

struct fixture {
        pthread_mutex_t lock;
        struct guest_memory *mem;
        u64 written[64];
        unsigned n_written;
};

static void on_code_write(void *opaque, u64 gpa, u64 len)
{
        struct fixture *x = opaque;

        assert_true((gpa & (PAGE_SIZE - 1)) + len <= PAGE_SIZE);
        x->written[x->n_written++ % ARRAY_SIZE(x->written)] = gpa;
        guest_memory_unmark_code(x->mem, gpa, guest_memory_chunks(gpa, len));
}

static int setup_size(void **state, u64 size)
{
        struct fixture *x = calloc(1, sizeof(*x));

        pthread_mutex_init(&x->lock, NULL);
        assert_int_equal(guest_memory_new(size, &x->lock, NULL, &x->mem, NULL), 0);
        x->mem->on_code_write = on_code_write;
        x->mem->on_code_write_opaque = x;
        *state = x;
        return 0;
}

static int setup(void **state)
{
        return setup_size(state, SMALL_RAM);
}

static int setup_large(void **state)
{
        return setup_size(state, LARGE_RAM);
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        guest_memory_free(x->mem);
        free(x);
        return 0;
}

/* ---- the layout ---- */

static void ram_stops_at_the_pci_hole_and_goes_on_at_4_gib(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(x->mem->n_slots, 2);
        assert_true(guest_memory_is_ram(x->mem, 0, PCI_HOLE_START));
        assert_false(guest_memory_is_ram(x->mem, PCI_HOLE_START, 1));
        assert_false(guest_memory_is_ram(x->mem, PCI_HOLE_END - 1, 1));
        assert_true(guest_memory_is_ram(x->mem, PCI_HOLE_END, LARGE_RAM - PCI_HOLE_START));
        assert_false(guest_memory_is_ram(x->mem, PCI_HOLE_END + LARGE_RAM - PCI_HOLE_START, 1));
        assert_false(guest_memory_is_ram(x->mem, PCI_HOLE_START - 1, 2));
        assert_false(guest_memory_is_ram(x->mem, 0, LARGE_RAM));
}

static void high_ram_is_behind_low_ram_in_the_memfd(void **state)
{
        struct fixture *x = *state;
        u8 byte = 0;

        *(u8 *)guest_memory_hva(x->mem, PCI_HOLE_END + 5, 1) = 0x5a;
        assert_int_equal(pread(x->mem->fd, &byte, 1, (off_t)(PCI_HOLE_START + 5)), 1);
        assert_int_equal(byte, 0x5a);
        assert_ptr_equal(guest_memory_flags(x->mem, PCI_HOLE_END), x->mem->page_flags + (PCI_HOLE_START >> PAGE_SHIFT));
}

static void small_guest_has_one_slot(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(x->mem->n_slots, 1);
        assert_true(guest_memory_is_ram(x->mem, 0, SMALL_RAM));
        assert_false(guest_memory_is_ram(x->mem, SMALL_RAM, 1));
}

static void odd_sizes_are_rounded_up_to_a_page(void **state)
{
        struct fixture *x = *state;
        _cleanup_(guest_memory_freep) struct guest_memory *mem = NULL;

        assert_int_equal(guest_memory_new(SMALL_RAM + 1, &x->lock, NULL, &mem, NULL), 0);
        assert_int_equal(mem->ram_size, SMALL_RAM + PAGE_SIZE);
        assert_non_null(guest_memory_hva(mem, SMALL_RAM + PAGE_SIZE - 1, 1));
        assert_null(guest_memory_hva(mem, SMALL_RAM + PAGE_SIZE, 1));
}

static void impossible_sizes_are_errors(void **state)
{
        static const u64 sizes[] = { 0, 1ULL << 62, ~0ULL };
        struct fixture *x = *state;

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                struct guest_memory *mem = (void *)x;
                _cleanup_(err_freep) struct err *err = NULL;

                assert_true(guest_memory_new(sizes[i], &x->lock, NULL, &mem, &err) < 0);
                assert_ptr_equal(mem, x); /* untouched */
                assert_non_null(err);
        }
}

static void host_address_is_for_ranges_inside_one_slot_only(void **state)
{
        static const struct {
                u64 gpa, len;
                bool ok;
        } rows[] = {
                { 0, 1, true },
                { SMALL_RAM - 1, 1, true },
                { 0, SMALL_RAM, true },
                { SMALL_RAM - 1, 2, false },
                { SMALL_RAM, 1, false },
                { 0, SMALL_RAM + 1, false },
                { 16, ~0ULL, false },
                { 16, ~0ULL - 15, false },
                { ~0ULL, 1, false },
                { ~0ULL, 2, false },
        };
        struct fixture *x = *state;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                assert_int_equal(guest_memory_hva(x->mem, rows[i].gpa, rows[i].len) != NULL, rows[i].ok);
                assert_int_equal(guest_memory_is_ram(x->mem, rows[i].gpa, rows[i].len), rows[i].ok);
        }
        assert_null(guest_memory_flags(x->mem, SMALL_RAM));
}

/* ---- DMA ---- */

static void dma_writes_and_reads_back(void **state)
{
        struct fixture *x = *state;
        u8 in[10000], out[10000];

        for (unsigned i = 0; i < sizeof(in); i++)
                in[i] = (u8)(i * 7);
        assert_int_equal(guest_memory_write(x->mem, 0xfff, in, sizeof(in)), 0);
        assert_int_equal(guest_memory_read(x->mem, 0xfff, out, sizeof(out)), 0);
        assert_memory_equal(in, out, sizeof(in));
}

static void dma_to_device_memory_is_refused_whole(void **state)
{
        struct fixture *x = *state;
        u8 in[32] = { 1 }, out[32] = { 2 }, zero[32] = { 0 };

        assert_int_equal(guest_memory_write(x->mem, PCI_HOLE_START - 16, in, 32), -EFAULT);
        assert_int_equal(guest_memory_read(x->mem, PCI_HOLE_START - 16, out, 32), -EFAULT);
        assert_int_equal(out[0], 2);
        assert_memory_equal(guest_memory_hva(x->mem, PCI_HOLE_START - 16, 16), zero, 16);
        assert_int_equal(guest_memory_write(x->mem, 0xfee00000, in, 4), -EFAULT);
        assert_int_equal(guest_memory_write(x->mem, PCI_HOLE_END - 16, in, 32), -EFAULT);
        assert_null(guest_memory_dma(x->mem, PCI_HOLE_START - 16, 32));
        assert_int_equal(guest_memory_write(x->mem, ~0ULL - 15, in, 32), -EFAULT); /* and does not wrap to 0 */
}

/* ---- flags ---- */

static void marking_code_tells_the_first_from_the_second(void **state)
{
        struct fixture *x = *state;

        assert_true(guest_memory_mark_code(x->mem, 0x3000, PAGE_SIZE));
        assert_false(guest_memory_mark_code(x->mem, 0x3fff, 1));
        assert_true(guest_memory_mark_code(x->mem, 0x4000, PAGE_SIZE));
        assert_false(guest_memory_mark_code(x->mem, SMALL_RAM, 1)); /* not RAM */
}

static void write_to_code_is_told_until_it_is_unmarked(void **state)
{
        struct fixture *x = *state;

        guest_memory_mark_code(x->mem, 0x3ff0, 16);
        guest_memory_written(x->mem, 0x3ffc, 4);
        guest_memory_written(x->mem, 0x3ffc, 4);
        assert_int_equal(x->n_written, 1);
        assert_int_equal(x->written[0], 0x3ffc);
        assert_true(guest_memory_mark_code(x->mem, 0x3000, 1));
}

static void write_beside_code_tells_nobody_and_keeps_the_flag(void **state)
{
        struct fixture *x = *state;

        guest_memory_mark_code(x->mem, 0x3040, 65); /* two chunks */
        guest_memory_written(x->mem, 0x3000, 64);
        guest_memory_written(x->mem, 0x30c0, 0x340);
        assert_int_equal(x->n_written, 0);
        guest_memory_written(x->mem, 0x3080, 1);
        assert_int_equal(x->n_written, 1);
        assert_int_equal(*guest_memory_flags(x->mem, 0x3000), PAGE_CODE); /* the first chunk */
        guest_memory_written(x->mem, 0x303f, 2);
        assert_int_equal(x->n_written, 2);
        assert_int_equal(*guest_memory_flags(x->mem, 0x3000), 0);
}

static void write_across_pages_tells_each_code_page(void **state)
{
        struct fixture *x = *state;

        for (u64 gpa = 0x2000; gpa <= 0x6000; gpa += PAGE_SIZE)
                guest_memory_mark_code(x->mem, gpa, PAGE_SIZE);
        guest_memory_written(x->mem, 0x3fff, 0x1002);
        assert_int_equal(x->n_written, 3);
        assert_int_equal(x->written[0], 0x3fff);
        assert_int_equal(x->written[1], 0x4000);
        assert_int_equal(x->written[2], 0x5000);
}

static void neighbours_and_empty_writes_tell_nobody(void **state)
{
        struct fixture *x = *state;

        guest_memory_mark_code(x->mem, 0x3000, PAGE_SIZE);
        guest_memory_written(x->mem, 0x2fff, 1);
        guest_memory_written(x->mem, 0x4000, 1);
        guest_memory_written(x->mem, 0x3000, 0);
        guest_memory_written(x->mem, ~0ULL, 0);
        assert_int_equal(x->n_written, 0);
}

static void dma_counts_as_a_write(void **state)
{
        struct fixture *x = *state;
        u32 value = 1;

        guest_memory_mark_code(x->mem, 0x3000, PAGE_SIZE);
        assert_int_equal(guest_memory_write(x->mem, 0x3800, &value, 4), 0);
        assert_int_equal(x->n_written, 1);
        assert_int_equal(guest_memory_read(x->mem, 0x3800, &value, 4), 0);
        assert_int_equal(x->n_written, 1);
}

static void watch_flag_stays_over_writes(void **state)
{
        struct fixture *x = *state;
        u8 *flags = guest_memory_flags(x->mem, 0x5000);

        guest_memory_mark_code(x->mem, 0x5000, 1);
        *flags |= PAGE_WATCH | PAGE_CLEAN;
        guest_memory_written(x->mem, 0x5000, 1);
        assert_int_equal(*flags, PAGE_WATCH);
}

/* ---- dirty tracking ---- */

#define BITMAP(name, ram) u64 name[(ram) / PAGE_SIZE / 64 + 1] = { 0 }

static void tracking_reports_each_written_page_once(void **state)
{
        struct fixture *x = *state;
        BITMAP(bitmap, SMALL_RAM);

        guest_memory_dirty_start(x->mem);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 0);
        guest_memory_written(x->mem, 0x3000, 1);
        guest_memory_written(x->mem, 0x3abc, 1);
        guest_memory_written(x->mem, 0x41fff, 2);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 3);
        assert_true(bitmap[0] == BIT(3));
        assert_true(bitmap[1] == (BIT(1) | BIT(2)));
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 0);
        guest_memory_written(x->mem, 0x3000, 1);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 1);
}

static void bits_are_in_memfd_order(void **state)
{
        struct fixture *x = *state;
        u64 *bitmap = calloc(LARGE_RAM / PAGE_SIZE / 64 + 1, 8);
        const u64 page = (PCI_HOLE_START >> PAGE_SHIFT) + 7;

        guest_memory_dirty_start(x->mem);
        guest_memory_written(x->mem, PCI_HOLE_END + 7 * PAGE_SIZE, 1);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 1);
        assert_true(bitmap[page / 64] == BIT(page % 64));
        free(bitmap);
}

static void tracking_and_code_do_not_disturb_each_other(void **state)
{
        struct fixture *x = *state;
        BITMAP(bitmap, SMALL_RAM);

        guest_memory_dirty_start(x->mem);
        guest_memory_mark_code(x->mem, 0x3000, PAGE_SIZE);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 0);
        guest_memory_written(x->mem, 0x3000, 1);
        assert_int_equal(x->n_written, 1);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 1);
        guest_memory_mark_code(x->mem, 0x3000, PAGE_SIZE);
        guest_memory_dirty_stop(x->mem);
        assert_int_equal(*guest_memory_flags(x->mem, 0x3000), PAGE_CODE);
}

static void nothing_is_reported_when_tracking_is_off(void **state)
{
        struct fixture *x = *state;
        BITMAP(bitmap, SMALL_RAM);

        guest_memory_written(x->mem, 0x3000, 1);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 0);
        guest_memory_dirty_start(x->mem);
        guest_memory_written(x->mem, 0x3000, 1);
        guest_memory_dirty_stop(x->mem);
        assert_int_equal(guest_memory_dirty_collect(x->mem, bitmap), 0);
        assert_int_equal(bitmap[0], 0);
        for (u64 gpa = 0; gpa < SMALL_RAM; gpa += PAGE_SIZE)
                assert_int_equal(*guest_memory_flags(x->mem, gpa), 0);
}

/* See the comment at statebuf's test: sanitizers stop at impossible requests unless told otherwise. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);
const char *__asan_default_options(void)
{
        return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void)
{
        return "allocator_may_return_null=1";
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_LARGE(name) cmocka_unit_test_setup_teardown(name, setup_large, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST_LARGE(ram_stops_at_the_pci_hole_and_goes_on_at_4_gib),
                TEST_LARGE(high_ram_is_behind_low_ram_in_the_memfd),
                TEST(small_guest_has_one_slot),
                TEST(odd_sizes_are_rounded_up_to_a_page),
                TEST(impossible_sizes_are_errors),
                TEST(host_address_is_for_ranges_inside_one_slot_only),
                TEST(dma_writes_and_reads_back),
                TEST_LARGE(dma_to_device_memory_is_refused_whole),
                TEST(marking_code_tells_the_first_from_the_second),
                TEST(write_to_code_is_told_until_it_is_unmarked),
                TEST(write_beside_code_tells_nobody_and_keeps_the_flag),
                TEST(write_across_pages_tells_each_code_page),
                TEST(neighbours_and_empty_writes_tell_nobody),
                TEST(dma_counts_as_a_write),
                TEST(watch_flag_stays_over_writes),
                TEST(tracking_reports_each_written_page_once),
                TEST_LARGE(bits_are_in_memfd_order),
                TEST(tracking_and_code_do_not_disturb_each_other),
                TEST(nothing_is_reported_when_tracking_is_off),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

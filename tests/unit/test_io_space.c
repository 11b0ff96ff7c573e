/* I/O regions: who answers which address, in what sizes, and what an address without an owner does. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "mmu/memory.h"

/* A device of 64 bytes that remembers how it was asked. */
struct device {
        u8 bytes[64];
        struct {
                u64 offset;
                unsigned size;
        } calls[16];
        unsigned n_calls;
        struct fixture *x;
};

struct fixture {
        pthread_mutex_t lock;
        struct counters counters;
        struct io_space space;
        struct device a, b;
        bool unlocked;
};

static void note(struct device *d, u64 offset, unsigned size)
{
        assert_true(d->n_calls < ARRAY_SIZE(d->calls));
        assert_true(offset + size <= sizeof(d->bytes));
        d->calls[d->n_calls].offset = offset;
        d->calls[d->n_calls++].size = size;
        if (pthread_mutex_trylock(&d->x->lock) == 0) {
                d->x->unlocked = true;
                pthread_mutex_unlock(&d->x->lock);
        }
}

static u64 device_read(void *opaque, u64 offset, unsigned size)
{
        struct device *d = opaque;
        u64 value = ~0ULL; /* a device may leave rubbish above @size */

        note(d, offset, size);
        memcpy(&value, d->bytes + offset, size);
        return value;
}

static void device_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct device *d = opaque;

        note(d, offset, size);
        assert_true(size == 8 || value >> (size * 8) == 0);
        memcpy(d->bytes + offset, &value, size);
}

static const struct io_ops ops = { .read = device_read, .write = device_write };
static const struct io_ops ops_dword = { .read = device_read, .write = device_write, .max_size = 4 };
static const struct io_ops ops_byte = { .read = device_read, .write = device_write, .max_size = 1 };
static const struct io_ops ops_none = { 0 };

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));

        pthread_mutex_init(&x->lock, NULL);
        io_space_init(&x->space, &x->lock, &x->counters, true);
        x->a.x = x->b.x = x;
        for (unsigned i = 0; i < 64; i++) {
                x->a.bytes[i] = (u8)(0x40 + i);
                x->b.bytes[i] = (u8)(0x80 + i);
        }
        *state = x;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        assert_false(x->unlocked);
        io_space_free(&x->space);
        free(x);
        return 0;
}

static int add(struct fixture *x, u64 base, u64 size, struct device *d)
{
        return io_space_add(&x->space, base, size, &ops, d, "device", NULL);
}

static u64 in(struct fixture *x, u64 address, unsigned size)
{
        u64 value = 0;

        io_read(&x->space, address, size, &value);
        return value;
}

static void overlap_is_refused_and_names_the_owner(void **state)
{
        static const struct {
                u64 base, size;
        } rows[] = { { 0x100, 0x40 }, { 0xff, 2 }, { 0x13f, 1 }, { 0x110, 4 }, { 0x80, 0x200 }, { 0, 0x101 } };
        struct fixture *x = *state;

        assert_int_equal(io_space_add(&x->space, 0x100, 0x40, &ops, &x->a, "uart", NULL), 0);
        assert_int_equal(add(x, 0x200, 0x40, &x->a), 0);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_(err_freep) struct err *err = NULL;

                assert_int_equal(io_space_add(&x->space, rows[i].base, rows[i].size, &ops, &x->b, "rtc", &err), -EBUSY);
                assert_non_null(strstr(err_message(err), "'uart'"));
        }
        assert_int_equal(x->space.n, 2);
}

static void neighbours_do_not_overlap(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(add(x, 0x100, 0x40, &x->a), 0);
        assert_int_equal(add(x, 0x140, 0x40, &x->b), 0);
        assert_int_equal(add(x, 0xc0, 0x40, &x->b), 0);
        assert_int_equal(in(x, 0x13f, 1), 0x7f);
        assert_int_equal(in(x, 0x140, 1), 0x80);
        assert_int_equal(in(x, 0xff, 1), 0xbf);
}

static void impossible_sizes_are_refused(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(add(x, 0x100, 0, &x->a), -EINVAL);
        assert_int_equal(add(x, ~0ULL - 3, 8, &x->a), -EINVAL);
}

static void many_regions_each_answer_for_themselves(void **state)
{
        struct fixture *x = *state;
        struct device d[100];

        for (unsigned i = 0; i < 100; i++) {
                const unsigned n = i * 37 % 100; /* not in the order of addresses */

                d[n] = (struct device){ .x = x };
                d[n].bytes[0] = (u8)n;
                assert_int_equal(add(x, n * 16, 8, &d[n]), 0);
        }
        for (unsigned i = 0; i < 100; i++) {
                assert_int_equal(in(x, i * 16, 1), i);
                assert_int_equal(in(x, i * 16 + 8, 1), 0xff);
        }
}

static void read_and_write_go_to_the_offset(void **state)
{
        struct fixture *x = *state;
        u64 value = 0;

        add(x, 0x100, 64, &x->a);
        assert_true(io_read(&x->space, 0x110, 4, &value));
        assert_int_equal(value, 0x53525150);
        assert_true(io_write(&x->space, 0x120, 0x11223344, 2));
        assert_int_equal(x->a.bytes[0x20], 0x44);
        assert_int_equal(x->a.bytes[0x21], 0x33);
        assert_int_equal(x->a.bytes[0x22], 0x62);
        assert_int_equal(x->a.n_calls, 2);
        assert_int_equal(x->a.calls[1].size, 2);
}

static void larger_accesses_are_split_to_what_the_device_takes(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(io_space_add(&x->space, 0x100, 64, &ops_dword, &x->a, "a", NULL), 0);
        assert_int_equal(io_space_add(&x->space, 0x200, 64, &ops_byte, &x->b, "b", NULL), 0);
        assert_true(in(x, 0x108, 8) == 0x4f4e4d4c4b4a4948);
        assert_int_equal(x->a.n_calls, 2);
        assert_int_equal(x->a.calls[1].offset, 12);
        assert_int_equal(x->a.calls[1].size, 4);
        assert_true(io_write(&x->space, 0x200, 0x55667788, 4));
        assert_int_equal(x->b.n_calls, 4);
        assert_memory_equal(x->b.bytes, "\x88\x77\x66\x55\x84", 5);
}

/* Sizes of the pieces are powers of two: devices may rely on it. */
static void odd_sizes_arrive_as_powers_of_two(void **state)
{
        struct fixture *x = *state;

        add(x, 0x100, 64, &x->a);
        assert_true(in(x, 0x101, 7) == 0x47464544434241);
        assert_int_equal(x->a.n_calls, 3);
        assert_int_equal(x->a.calls[0].size, 4);
        assert_int_equal(x->a.calls[1].size, 2);
        assert_int_equal(x->a.calls[2].size, 1);
}

static void access_across_two_regions_reaches_both(void **state)
{
        struct fixture *x = *state;

        add(x, 0x100, 64, &x->a);
        add(x, 0x140, 64, &x->b);
        assert_true(in(x, 0x13e, 4) == 0x81807f7e);
        assert_true(io_write(&x->space, 0x13e, 0x44332211, 4));
        assert_memory_equal(x->a.bytes + 62, "\x11\x22", 2);
        assert_memory_equal(x->b.bytes, "\x33\x44\x82", 3);
}

static void unclaimed_reads_as_ones_of_its_size_and_is_counted(void **state)
{
        struct fixture *x = *state;
        u64 value = 0;

        assert_false(io_read(&x->space, 0x500, 1, &value));
        assert_true(value == 0xff);
        assert_false(io_read(&x->space, 0x500, 4, &value));
        assert_true(value == 0xffffffff);
        assert_false(io_read(&x->space, 0x500, 8, &value));
        assert_true(value == ~0ULL);
        assert_false(io_write(&x->space, 0x500, 1, 2));
        assert_int_equal(x->counters.value[COUNTER_IO_UNCLAIMED], 4);
        assert_int_equal(x->counters.value[COUNTER_PIO_READS], 3);
        assert_int_equal(x->counters.value[COUNTER_PIO_WRITES], 1);
}

static void partly_claimed_reads_ones_where_nobody_is(void **state)
{
        struct fixture *x = *state;
        u64 value = 0;

        add(x, 0x100, 64, &x->a);
        assert_false(io_read(&x->space, 0x13e, 4, &value));
        assert_true(value == 0xffff7f7e);
        assert_false(io_read(&x->space, 0xfe, 4, &value));
        assert_true(value == 0x4140ffff);
}

static void device_without_functions_reads_as_ones_but_is_claimed(void **state)
{
        struct fixture *x = *state;
        u64 value = 0;

        assert_int_equal(io_space_add(&x->space, 0x80, 1, &ops_none, NULL, "post", NULL), 0);
        assert_true(io_read(&x->space, 0x80, 1, &value));
        assert_true(value == 0xff);
        assert_true(io_write(&x->space, 0x80, 1, 1));
        assert_int_equal(x->counters.value[COUNTER_IO_UNCLAIMED], 0);
}

/* Guest addresses go up to the last byte; nothing may wrap round to a device at 0. */
static void end_of_the_address_space_does_not_wrap_into_a_region(void **state)
{
        struct fixture *x = *state;

        add(x, 0x1000, 64, &x->a);
        assert_true(in(x, ~0ULL - 3, 4) == 0xffffffff);
        assert_true(in(x, 0, 8) == ~0ULL);
        assert_int_equal(x->a.n_calls, 0);
}

static void removed_region_is_unclaimed_and_free(void **state)
{
        struct fixture *x = *state;

        add(x, 0x100, 64, &x->a);
        add(x, 0x140, 64, &x->b);
        assert_int_equal(in(x, 0x140, 1), 0x80); /* what was found last is remembered: it must be forgotten too */
        io_space_remove(&x->space, 0x140, &x->b);
        assert_int_equal(in(x, 0x140, 1), 0xff);
        assert_int_equal(in(x, 0x100, 1), 0x40);
        assert_int_equal(add(x, 0x120 + 0x20, 8, &x->a), 0);
}

static void only_the_owner_removes_and_only_by_the_base(void **state)
{
        struct fixture *x = *state;

        add(x, 0x100, 64, &x->a);
        io_space_remove(&x->space, 0x100, &x->b);
        io_space_remove(&x->space, 0x110, &x->a);
        io_space_remove(&x->space, 0x900, &x->a);
        assert_int_equal(in(x, 0x100, 1), 0x40);
}

static void remove_during(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct device *d = opaque;

        io_space_remove(&d->x->space, 0x100, d);
        assert_int_equal(io_space_add(&d->x->space, 0x300, 64, &ops, d, "moved", NULL), 0);
}

/* A guest moves a BAR with a write that the same device answers, and the access may go on behind it. */
static void device_may_move_its_region_while_it_answers(void **state)
{
        static const struct io_ops moving = { .write = remove_during };
        struct fixture *x = *state;

        assert_int_equal(io_space_add(&x->space, 0x100, 4, &moving, &x->a, "a", NULL), 0);
        add(x, 0x104, 60, &x->b);
        assert_true(io_write(&x->space, 0x102, 0x44332211, 4));
        assert_memory_equal(x->b.bytes, "\x33\x44\x82", 3);
        assert_int_equal(in(x, 0x300, 1), 0x40);
        assert_int_equal(in(x, 0x100, 1), 0xff);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(overlap_is_refused_and_names_the_owner),
                TEST(neighbours_do_not_overlap),
                TEST(impossible_sizes_are_refused),
                TEST(many_regions_each_answer_for_themselves),
                TEST(read_and_write_go_to_the_offset),
                TEST(larger_accesses_are_split_to_what_the_device_takes),
                TEST(odd_sizes_arrive_as_powers_of_two),
                TEST(access_across_two_regions_reaches_both),
                TEST(unclaimed_reads_as_ones_of_its_size_and_is_counted),
                TEST(partly_claimed_reads_ones_where_nobody_is),
                TEST(device_without_functions_reads_as_ones_but_is_claimed),
                TEST(end_of_the_address_space_does_not_wrap_into_a_region),
                TEST(removed_region_is_unclaimed_and_free),
                TEST(only_the_owner_removes_and_only_by_the_base),
                TEST(device_may_move_its_region_while_it_answers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

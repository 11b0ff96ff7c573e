/* RAM that begins as files: what it reads, what it leaves alone, what it says of itself. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "mmu/memory.h"

#define N_PAGES 64U
#define RAM     (N_PAGES * PAGE_SIZE)

struct fixture {
        pthread_mutex_t lock;
        struct guest_memory *mem;
        int files[2];
};

/* Every byte of page n of file f is f * 100 + n + 1. */
static u8 byte_of(unsigned file, u64 page)
{
        return (u8)(file * 100 + page + 1);
}

static int file_new(unsigned number)
{
        const int fd = memfd_create("layer", MFD_CLOEXEC);
        u8 page[PAGE_SIZE];

        assert_true(fd >= 0);
        for (u64 i = 0; i < N_PAGES; i++) {
                memset(page, byte_of(number, i), sizeof(page));
                assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)(i * PAGE_SIZE)), PAGE_SIZE);
        }
        return fd;
}

/* Pages 0 to 15 of the first file, 16 to 31 of the second, 32 to 47 zeros, the rest the first's. */
static int make(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));
        struct guest_memory_piece pieces[] = {
                { 0, 16 * PAGE_SIZE, 0 }, { 16 * PAGE_SIZE, 16 * PAGE_SIZE, 1 }, { 32 * PAGE_SIZE, 16 * PAGE_SIZE, -1 }, { 48 * PAGE_SIZE, 16 * PAGE_SIZE, 0 },
        };

        pthread_mutex_init(&x->lock, NULL);
        for (unsigned i = 0; i < 2; i++)
                x->files[i] = file_new(i);
        for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
                if (pieces[i].fd >= 0)
                        pieces[i].fd = x->files[pieces[i].fd];
        assert_int_equal(guest_memory_new_private(RAM, pieces, ARRAY_SIZE(pieces), &x->lock, NULL, &x->mem, NULL), 0);
        *state = x;
        return 0;
}

static int destroy(void **state)
{
        struct fixture *x = *state;

        guest_memory_free(x->mem);
        close(x->files[0]);
        close(x->files[1]);
        free(x);
        return 0;
}

static u8 read_page(const struct fixture *x, u64 page)
{
        u8 byte = 0xee;

        assert_int_equal(guest_memory_read(x->mem, page * PAGE_SIZE + 123, &byte, 1), 0);
        return byte;
}

static u64 collect(const struct fixture *x)
{
        u64 bitmap = 0;

        assert_int_equal(guest_memory_private_collect(x->mem, &bitmap, NULL), 0);
        return bitmap;
}

static void pages_are_those_of_the_files(void **state)
{
        const struct fixture *x = *state;

        assert_int_equal(read_page(x, 0), byte_of(0, 0));
        assert_int_equal(read_page(x, 15), byte_of(0, 15));
        assert_int_equal(read_page(x, 16), byte_of(1, 16));
        assert_int_equal(read_page(x, 32), 0);
        assert_int_equal(read_page(x, 63), byte_of(0, 63));
}

static void writes_are_private_and_known(void **state)
{
        struct fixture *x = *state;
        u8 byte = 0xaa, old;

        for (u64 page = 0; page < N_PAGES; page += 16)
                assert_int_equal(guest_memory_write(x->mem, page * PAGE_SIZE + 123, &byte, 1), 0);
        for (u64 page = 0; page < N_PAGES; page += 16)
                assert_int_equal(read_page(x, page), 0xaa);
        assert_int_equal(pread(x->files[0], &old, 1, 123), 1);
        assert_int_equal(old, byte_of(0, 0));
        assert_int_equal(collect(x) & (BIT(0) | BIT(1) | BIT(16) | BIT(17) | BIT(32) | BIT(48) | BIT(49)), BIT(0) | BIT(16) | BIT(32) | BIT(48));
}

static void what_was_only_read_is_the_files_still(void **state)
{
        const struct fixture *x = *state;

        for (u64 page = 0; page < 32; page++)
                read_page(x, page);
        assert_int_equal(collect(x) & 0xffffffff, 0);
}

static void discarded_pages_are_zeros_and_not_the_files(void **state)
{
        struct fixture *x = *state;
        u8 byte = 0xbb;

        assert_int_equal(guest_memory_write(x->mem, 17 * PAGE_SIZE, &byte, 1), 0);
        assert_int_equal(guest_memory_discard(x->mem, 16 * PAGE_SIZE, 3 * PAGE_SIZE), 0);
        assert_int_equal(read_page(x, 15), byte_of(0, 15));
        for (u64 page = 16; page < 19; page++)
                assert_int_equal(read_page(x, page), 0);
        assert_int_equal(read_page(x, 19), byte_of(1, 19));
        assert_int_equal(collect(x) & 0xffffffff, BIT(16) | BIT(17) | BIT(18));
        /* They can be used, and discarded, again. */
        assert_int_equal(guest_memory_write(x->mem, 17 * PAGE_SIZE + 123, &byte, 1), 0);
        assert_int_equal(read_page(x, 17), 0xbb);
        assert_int_equal(guest_memory_discard(x->mem, 17 * PAGE_SIZE, PAGE_SIZE), 0);
        assert_int_equal(read_page(x, 17), 0);
        assert_int_equal(guest_memory_discard(x->mem, 17 * PAGE_SIZE, 1), -EINVAL);
        assert_int_equal(guest_memory_discard(x->mem, 60 * PAGE_SIZE, 5 * PAGE_SIZE), -EFAULT);
}

static void pieces_that_are_not_all_of_ram_are_refused(void **state)
{
        struct fixture *x = *state;
        static const struct guest_memory_piece bad[][2] = {
                { { 0, 32 * PAGE_SIZE, -1 }, { 32 * PAGE_SIZE, 16 * PAGE_SIZE, -1 } },
                { { 0, 16 * PAGE_SIZE, -1 }, { 32 * PAGE_SIZE, 32 * PAGE_SIZE, -1 } },
                { { PAGE_SIZE, 32 * PAGE_SIZE, -1 }, { 33 * PAGE_SIZE, 31 * PAGE_SIZE, -1 } },
        };

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct guest_memory *mem = NULL;

                assert_true(guest_memory_new_private(RAM, bad[i], 2, &x->lock, NULL, &mem, NULL) < 0);
                assert_null(mem);
        }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, destroy)
        const struct CMUnitTest tests[] = {
                TEST(pages_are_those_of_the_files),
                TEST(writes_are_private_and_known),
                TEST(what_was_only_read_is_the_files_still),
                TEST(discarded_pages_are_zeros_and_not_the_files),
                TEST(pieces_that_are_not_all_of_ram_are_refused),
        };
#undef TEST

        return cmocka_run_group_tests_name("memory_private", tests, NULL, NULL);
}

/* The shadow window shows what the guest's tables allow its user code, as far as nobody need see it, and nothing else. What is not shown cannot be reached. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mmu/shadow.h"

#define GVA 0x7ffff7a00000ULL
#define TABLE 0x4000ULL  /* its page table; 1000-3fff lead to it */
#define LARGE_ENTRY 0x3008ULL + 8 * (GVA >> 21 & 511) /* maps GVA + 2 MiB */
#define FRAME 0x100000ULL
#define ALL 0x67ULL      /* present, writable, user, accessed, dirty */

struct fixture {
        pthread_mutex_t lock;
        struct counters counters;
        struct guest_memory *mem;
        struct soft_tlb *tlb;
        struct shadow *shadow;
        struct paging_state ps;
        int pipe[2];
};

static void put64(struct fixture *f, u64 gpa, u64 value)
{
        assert_int_equal(guest_memory_write(f->mem, gpa, &value, 8), 0);
}

static void map(struct fixture *f, unsigned page, u64 bits)
{
        put64(f, TABLE + 8 * page, bits ? (FRAME + page * PAGE_SIZE) | bits : 0);
}

static int setup(void **state)
{
        static struct fixture fixture;
        struct fixture *f = &fixture;
        struct err *err = NULL;

        *f = (struct fixture){ .lock = PTHREAD_MUTEX_INITIALIZER, .ps = { .cr0 = CR0_PE | CR0_PG | CR0_WP, .cr3 = 0x1000, .cr4 = CR4_PAE, .efer = EFER_LME | EFER_LMA } };
        assert_int_equal(guest_memory_new(8 * MIB, &f->lock, &f->counters, &f->mem, &err), 0);
        f->tlb = mmap(NULL, sizeof(*f->tlb), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(f->tlb, MAP_FAILED);
        tlb_init(f->tlb);
        f->shadow = shadow_new(64);
        assert_non_null(f->shadow);
        assert_int_equal(pipe(f->pipe), 0);
        put64(f, 0x1000 + 8 * (GVA >> 39), 0x2000 | ALL);
        put64(f, 0x2000 + 8 * (GVA >> 30 & 511), 0x3000 | ALL);
        put64(f, 0x3000 + 8 * (GVA >> 21 & 511), TABLE | ALL);
        for (unsigned page = 0; page < 512; page++) {
                put64(f, FRAME + page * PAGE_SIZE, page);
                map(f, page, ALL);
        }
        shadow_take(f->shadow, f->tlb, &f->ps);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        shadow_free(f->shadow);
        munmap(f->tlb, sizeof(*f->tlb));
        guest_memory_free(f->mem);
        close(f->pipe[0]);
        close(f->pipe[1]);
        return 0;
}

static void *host(const struct fixture *f, u64 gva)
{
        return (void *)(uintptr_t)(gva + f->shadow->bias[SHADOW_HIGH]);
}

/* The kernel copies from there, or says that nobody could. */
static bool can_read(struct fixture *f, u64 gva, u64 *ret)
{
        return write(f->pipe[1], host(f, gva), 8) == 8 && read(f->pipe[0], ret, 8) == 8;
}

static bool can_write(struct fixture *f, u64 gva)
{
        u64 value;

        if (!can_read(f, gva, &value))
                return false;
        assert_int_equal(write(f->pipe[1], &value, 8), 8);
        if (read(f->pipe[0], host(f, gva), 8) == 8)
                return true;
        assert_int_equal(read(f->pipe[0], &value, 8), 8);
        return false;
}

static enum shadow_result fault(struct fixture *f, u64 gva, bool write_access)
{
        return shadow_fault(f->shadow, f->mem, &f->ps, gva, write_access);
}

static u64 page(unsigned n)
{
        return GVA + n * PAGE_SIZE;
}

static void rights_are_those_of_user_code(void **state)
{
        static const struct { u64 bits; bool flagged; enum shadow_result read, write; bool writable; } rows[] = {
                { ALL, false, SHADOW_SHOWN, SHADOW_SHOWN, true },
                { ALL & ~0x40ULL, false, SHADOW_SHOWN, SHADOW_SHOWN, false },     /* not dirty: until it is written */
                { ALL & ~2ULL, false, SHADOW_SHOWN, SHADOW_GUEST_FAULT, false },  /* read-only */
                { ALL & ~4ULL, false, SHADOW_GUEST_FAULT, SHADOW_GUEST_FAULT, false },
                { 0, false, SHADOW_GUEST_FAULT, SHADOW_GUEST_FAULT, false },
                { ALL, true, SHADOW_SHOWN, SHADOW_CANNOT, false },
        };
        struct fixture *f = *state;
        u64 value;

        for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
                const unsigned n = 16 * i;

                map(f, n, rows[i].bits);
                if (rows[i].flagged)
                        guest_memory_mark_code(f->mem, FRAME + n * PAGE_SIZE, 1);
                assert_false(can_read(f, page(n), &value));
                assert_int_equal(fault(f, page(n), false), rows[i].read);
                assert_int_equal(can_read(f, page(n), &value), rows[i].read == SHADOW_SHOWN);
                if (rows[i].read == SHADOW_SHOWN)
                        assert_int_equal(value, n);
                assert_int_equal(can_write(f, page(n)), rows[i].writable);
                assert_int_equal(fault(f, page(n), true), rows[i].write);
                assert_int_equal(can_write(f, page(n)), rows[i].write == SHADOW_SHOWN);
        }
}

static void neighbours_are_shown_if_they_may(void **state)
{
        struct fixture *f = *state;
        u64 value;

        map(f, 2, ALL & ~0x20ULL); /* not accessed yet */
        map(f, 3, ALL & ~4ULL);
        assert_int_equal(fault(f, page(1), false), SHADOW_SHOWN);
        for (unsigned n = 0; n < 16; n++)
                assert_int_equal(can_read(f, page(n), &value), n < 8 && n != 2 && n != 3);
}

/* Runs double, and have in them what may be shown. */
static void pages_used_in_order_come_in_longer_runs(void **state)
{
        struct fixture *f = *state;
        u64 value;

        map(f, 20, ALL & ~0x20ULL); /* not accessed yet */
        map(f, 21, ALL & ~4ULL);
        map(f, 22, ALL & ~0x40ULL); /* not dirty */
        for (unsigned n = 8; n <= 16; n += 8)
                assert_int_equal(fault(f, page(n - 8), false), SHADOW_SHOWN);
        assert_false(can_read(f, page(16), &value));
        assert_int_equal(fault(f, page(16), false), SHADOW_SHOWN);
        for (unsigned n = 0; n < 40; n++) {
                assert_int_equal(can_read(f, page(n), &value), n < 32 && n != 20 && n != 21);
                assert_int_equal(can_write(f, page(n)), n < 32 && n != 20 && n != 21 && n != 22);
        }
        assert_int_equal(fault(f, page(100), false), SHADOW_SHOWN);
        assert_false(can_read(f, page(104), &value));
}

/* What follows the range, were it mapped, is not shown. */
static void runs_end_with_their_range(void **state)
{
        struct fixture *f = *state;

        put64(f, 0x3000 + 8 * 511, TABLE | ALL);
        put64(f, 0x3000, TABLE | ALL);
        put64(f, 0x2000, 0x3000 | ALL);
        put64(f, 0x1000 + 8 * 256, 0x2000 | ALL);
        for (unsigned n = 24; n; n -= 8)
                assert_int_equal(fault(f, SHADOW_HIGH_END - n * PAGE_SIZE, false), SHADOW_SHOWN);
        assert_int_equal(f->shadow->n_pages, 24);
}

static void a_flush_looks_again_at_what_it_names(void **state)
{
        struct fixture *f = *state;
        u64 value;

        for (unsigned all = 0; all < 2; all++) {
                map(f, 0, ALL);
                map(f, 1, ALL);
                assert_int_equal(fault(f, page(0), false), SHADOW_SHOWN);
                put64(f, TABLE, (FRAME + 5 * PAGE_SIZE) | ALL);
                map(f, 1, ALL & ~2ULL);
                if (all) {
                        tlb_flush_context(f->tlb);
                } else {
                        tlb_flush_page(f->tlb, page(0) + 0x123);
                        tlb_flush_page(f->tlb, page(1));
                }
                assert_true(shadow_sync(f->shadow, f->tlb, f->mem, &f->ps));
                assert_false(can_read(f, page(0), &value));
                assert_false(can_write(f, page(1)));
                assert_true(can_read(f, page(2), &value));
                assert_int_equal(fault(f, page(0), false), SHADOW_SHOWN);
                assert_true(can_read(f, page(0), &value));
                assert_int_equal(value, 5);
                map(f, 0, ALL);
                tlb_flush_page(f->tlb, page(0));
                assert_true(shadow_sync(f->shadow, f->tlb, f->mem, &f->ps));
        }
}

static void a_page_that_becomes_code_is_not_writable(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(fault(f, page(0), true), SHADOW_SHOWN);
        assert_true(can_write(f, page(4)));
        guest_memory_mark_code(f->mem, FRAME + 4 * PAGE_SIZE, 1);
        tlb_drop_writes(f->tlb, guest_memory_hva(f->mem, FRAME + 4 * PAGE_SIZE, PAGE_SIZE));
        assert_true(shadow_sync(f->shadow, f->tlb, f->mem, &f->ps));
        assert_false(can_write(f, page(4)));
        assert_true(can_write(f, page(3)));
}

/* 2 MiB at once, until a part of it must not be written. */
static void large_pages_come_whole_or_in_pieces(void **state)
{
        struct fixture *f = *state;
        const u64 gva = GVA + 2 * MIB, gpa = 4 * MIB;
        u64 value;

        put64(f, LARGE_ENTRY, gpa | ALL | 0x80);
        assert_int_equal(fault(f, gva + 0x5008, true), SHADOW_SHOWN);
        assert_true(can_write(f, gva + 2 * MIB - 8));
        guest_memory_mark_code(f->mem, gpa + 0x9000, 1);
        tlb_drop_writes(f->tlb, guest_memory_hva(f->mem, gpa + 0x9000, PAGE_SIZE));
        assert_true(shadow_sync(f->shadow, f->tlb, f->mem, &f->ps));
        assert_false(can_write(f, gva + 0x9000));
        assert_int_equal(fault(f, gva + 0x8000, true), SHADOW_SHOWN);
        assert_true(can_write(f, gva + 0x8000));
        assert_true(can_read(f, gva + 0x9000, &value));
        assert_false(can_write(f, gva + 0x9000));
        /* INVLPG of any address of it names all of it. */
        put64(f, LARGE_ENTRY, 0);
        tlb_flush_page(f->tlb, gva + MIB);
        assert_true(shadow_sync(f->shadow, f->tlb, f->mem, &f->ps));
        assert_false(can_read(f, gva + 0x8000, &value));
}

static void another_space_sees_nothing(void **state)
{
        struct fixture *f = *state;
        u64 value;

        assert_int_equal(fault(f, page(0), false), SHADOW_SHOWN);
        f->ps.cr3 = 0x5000;
        tlb_flush_context(f->tlb);
        assert_false(shadow_sync(f->shadow, f->tlb, f->mem, &f->ps));
        assert_false(can_read(f, page(0), &value));
        assert_false(tlb_is_shadowed(f->tlb));
}

/* 64 pages of room: those shown last are there. */
static void a_full_pool_begins_anew(void **state)
{
        struct fixture *f = *state;
        u64 value;

        for (unsigned n = 0; n < 512; n += 8) {
                assert_int_equal(fault(f, page(n), false), SHADOW_SHOWN);
                assert_true(can_read(f, page(n), &value));
                assert_int_equal(value, n);
        }
        assert_false(can_read(f, page(0), &value));
}

static void addresses_elsewhere_are_nobodys(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(fault(f, SHADOW_LOW_END, false), SHADOW_CANNOT);
        assert_int_equal(fault(f, SHADOW_HIGH_START - 1, false), SHADOW_CANNOT);
        assert_int_equal(fault(f, SHADOW_HIGH_END, false), SHADOW_GUEST_FAULT);
        assert_int_equal(fault(f, 0xffff800000000000, false), SHADOW_CANNOT);
        assert_int_equal(fault(f, 0x1000, false), SHADOW_GUEST_FAULT);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(rights_are_those_of_user_code),
                TEST(neighbours_are_shown_if_they_may),
                TEST(pages_used_in_order_come_in_longer_runs),
                TEST(runs_end_with_their_range),
                TEST(a_flush_looks_again_at_what_it_names),
                TEST(a_page_that_becomes_code_is_not_writable),
                TEST(large_pages_come_whole_or_in_pieces),
                TEST(another_space_sees_nothing),
                TEST(a_full_pool_begins_anew),
                TEST(addresses_elsewhere_are_nobodys),
        };

        return cmocka_run_group_tests_name("shadow", tests, NULL, NULL);
}

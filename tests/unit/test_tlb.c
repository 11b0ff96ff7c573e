/* The soft TLB: what was entered is found, by whom and for what it was entered, until it is taken out; and never again then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "mmu/mmu.h"

#define GVA 0xffff888012345000ULL
#define LOW 0x401000ULL
#define PAGE_AT(n) ((void *)(uintptr_t)(0x7f0000000000ULL + (u64)(n) * PAGE_SIZE)) /* never dereferenced */

static const struct paging_state ps = { .cr0 = CR0_PE | CR0_PG | CR0_WP, .cr4 = CR4_SMAP };
static const struct mmu_translation
        read_only = { .page_size = 4 * KIB, .global = true },
        small = { .page_size = 4 * KIB, .writable = true, .dirty = true, .global = true },
        small_private = { .page_size = 4 * KIB, .writable = true, .dirty = true },
        large = { .page_size = 2 * MIB, .writable = true, .dirty = true, .global = true },
        huge = { .page_size = 1 * GIB, .writable = true, .dirty = true, .global = true },
        user_small = { .page_size = 4 * KIB, .user = true, .writable = true, .dirty = true },
        user_read_only = { .page_size = 4 * KIB, .user = true, .dirty = true },
        user_large = { .page_size = 2 * MIB, .user = true, .writable = true, .dirty = true };

static int setup(void **state)
{
        struct soft_tlb *tlb = mmap(NULL, sizeof(*tlb), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_ptr_not_equal(tlb, MAP_FAILED);
        tlb_init(tlb);
        *state = tlb;
        return 0;
}

static int teardown(void **state)
{
        munmap(*state, sizeof(struct soft_tlb));
        return 0;
}

static bool enter(struct soft_tlb *tlb, enum tlb_mode mode, enum mmu_access access, u64 gva, unsigned page,
                  const struct mmu_translation *tr)
{
        return tlb_fill(tlb, &ps, mode, access, gva, (u8 *)PAGE_AT(page) + (gva & (PAGE_SIZE - 1)), tr, false);
}

static bool finds(struct soft_tlb *tlb, enum tlb_mode mode, enum mmu_access access, u64 gva)
{
        return tlb_lookup(tlb, mode, access, gva, 1) != NULL;
}

/* A user page to read and write in the current space. */
static void fill(struct soft_tlb *tlb, u64 gva, unsigned page)
{
        assert_true(enter(tlb, TLB_USER, MMU_READ, gva, page, &user_small));
}

static bool hits(struct soft_tlb *tlb, u64 gva)
{
        return finds(tlb, TLB_USER, MMU_READ, gva);
}

/* ---- look-up ---- */

static void empty_tlb_answers_nothing(void **state)
{
        struct soft_tlb *tlb = *state;

        for (unsigned round = 0; round < 2; round++) {
                for (unsigned mode = 0; mode < TLB_MODES; mode++)
                        for (unsigned access = 0; access < 3; access++)
                                for (u64 gva = 0; gva < 2 * TLB_SIZE * PAGE_SIZE; gva += PAGE_SIZE)
                                        if (finds(tlb, mode, access, gva) || finds(tlb, mode, access, gva + PAGE_SIZE - 1))
                                                fail_msg("0x%lx", (unsigned long)gva);
                /* Translated code would go to its NULL. */
                assert_int_not_equal(tlb->kernel.jumps[0].rip, 0);
                assert_int_not_equal(tlb->space->jumps[0].rip, 0);
                /* The same when it was used and emptied. */
                for (u64 gva = 0; gva < 2 * TLB_SIZE * PAGE_SIZE; gva += PAGE_SIZE) {
                        fill(tlb, gva, 1);
                        enter(tlb, TLB_KERNEL, MMU_FETCH, gva, 1, &small);
                }
                tlb_flush_all(tlb);
        }
}

static void hit_gives_the_byte_inside_the_page(void **state)
{
        struct soft_tlb *tlb = *state;

        enter(tlb, TLB_USER, MMU_READ, LOW + 0x234, 3, &user_small);
        assert_ptr_equal(tlb_lookup(tlb, TLB_USER, MMU_READ, LOW, 1), PAGE_AT(3));
        assert_ptr_equal(tlb_lookup(tlb, TLB_USER, MMU_WRITE, LOW + 0xfff, 1), (u8 *)PAGE_AT(3) + 0xfff);
        assert_false(hits(tlb, LOW + PAGE_SIZE));
        assert_false(hits(tlb, LOW - 1));
        assert_false(hits(tlb, LOW + TLB_SIZE * PAGE_SIZE));
}

static void access_that_leaves_the_page_misses(void **state)
{
        struct soft_tlb *tlb = *state;

        fill(tlb, LOW, 1);
        fill(tlb, LOW + PAGE_SIZE, 2);
        for (unsigned size = 1; size <= PAGE_SIZE; size *= 2) {
                assert_non_null(tlb_lookup(tlb, TLB_USER, MMU_READ, LOW + PAGE_SIZE - size, size));
                if (size > 1)
                        assert_null(tlb_lookup(tlb, TLB_USER, MMU_READ, LOW + PAGE_SIZE - size + 1, size));
        }
}

/* Who may use an entry that @row filled. */
static void modes_share_what_is_allowed_to_both(void **state)
{
        static const struct {
                enum tlb_mode fill;
                u64 gva;
                const struct mmu_translation *tr;
                bool entered, hit[TLB_MODES];
        } rows[] = {
                { TLB_KERNEL, GVA, &small, true, { [TLB_KERNEL] = true, [TLB_KERNEL_AC] = true } },
                { TLB_KERNEL, LOW, &small, true, { [TLB_KERNEL] = true } },
                { TLB_USER, LOW, &user_small, true, { [TLB_USER] = true, [TLB_KERNEL_AC] = true } },
                { TLB_USER, GVA, &user_small, true, { [TLB_USER] = true } },
                { TLB_KERNEL_AC, LOW, &user_small, true, { [TLB_USER] = true, [TLB_KERNEL_AC] = true } },
                { TLB_KERNEL_AC, GVA, &small, true, { [TLB_KERNEL] = true, [TLB_KERNEL_AC] = true } },
                /* With AC it may be used; the next access without may not, or is not user code's. */
                { TLB_KERNEL_AC, LOW, &small, false, { false } },
                { TLB_KERNEL_AC, GVA, &user_small, false, { false } },
        };
        struct soft_tlb *tlb = *state;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                tlb_flush_all(tlb);
                assert_int_equal(enter(tlb, rows[i].fill, MMU_READ, rows[i].gva, 1, rows[i].tr), rows[i].entered);
                for (unsigned mode = 0; mode < TLB_MODES; mode++)
                        if (finds(tlb, mode, MMU_READ, rows[i].gva) != rows[i].hit[mode])
                                fail_msg("row %zu, mode %u", i, mode);
        }
}

static void each_access_answers_for_itself(void **state)
{
        static const struct mmu_translation clean = { .page_size = 4 * KIB, .writable = true };
        static const struct {
                enum mmu_access fill;
                const struct mmu_translation *tr;
                bool flagged, entered, hit[3];
        } rows[] = {
                { MMU_READ, &read_only, false, true, { true, false, false } },
                { MMU_READ, &small, false, true, { true, true, false } },
                { MMU_READ, &clean, false, true, { true, false, false } }, /* a write has to set the dirty bit */
                { MMU_READ, &small, true, true, { true, false, false } },
                { MMU_WRITE, &small, false, true, { true, true, false } },
                { MMU_WRITE, &small, true, false, { true, false, false } },
                { MMU_FETCH, &small, false, true, { false, false, true } },
                { MMU_FETCH, &small, true, true, { false, false, true } },
        };
        struct soft_tlb *tlb = *state;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                tlb_flush_all(tlb);
                assert_int_equal(tlb_fill(tlb, &ps, TLB_KERNEL, rows[i].fill, GVA, PAGE_AT(1), rows[i].tr, rows[i].flagged),
                                 rows[i].entered);
                for (unsigned access = 0; access < 3; access++)
                        if (finds(tlb, TLB_KERNEL, access, GVA) != rows[i].hit[access])
                                fail_msg("row %zu, access %u", i, access);
        }
}

/* Without CR0.WP the supervisor writes to read-only pages; user code does not, nor may it through what the kernel entered. */
static void write_protection_counts_for_whom_it_must(void **state)
{
        static const struct mmu_translation row_page = { .page_size = 4 * KIB, .dirty = true };
        const struct paging_state no_wp = { .cr0 = CR0_PE | CR0_PG, .cr4 = CR4_SMAP };
        struct soft_tlb *tlb = *state;

        assert_true(tlb_fill(tlb, &no_wp, TLB_KERNEL, MMU_WRITE, GVA, PAGE_AT(1), &row_page, false));
        assert_true(finds(tlb, TLB_KERNEL, MMU_WRITE, GVA));
        tlb_flush_all(tlb);
        tlb_fill(tlb, &ps, TLB_KERNEL, MMU_READ, GVA, PAGE_AT(1), &row_page, false);
        assert_false(finds(tlb, TLB_KERNEL, MMU_WRITE, GVA));
        assert_false(tlb_fill(tlb, &no_wp, TLB_KERNEL_AC, MMU_WRITE, LOW, PAGE_AT(1), &user_read_only, false));
        assert_false(finds(tlb, TLB_USER, MMU_WRITE, LOW));
}

static void fills_of_one_page_add_up(void **state)
{
        struct soft_tlb *tlb = *state;

        enter(tlb, TLB_KERNEL, MMU_READ, GVA, 1, &read_only);
        enter(tlb, TLB_KERNEL, MMU_FETCH, GVA, 1, &read_only);
        enter(tlb, TLB_KERNEL, MMU_WRITE, GVA, 1, &small);
        for (unsigned access = 0; access < 3; access++)
                assert_true(finds(tlb, TLB_KERNEL, access, GVA));
}

static void page_that_moved_leaves_no_rights_behind(void **state)
{
        struct soft_tlb *tlb = *state;

        enter(tlb, TLB_KERNEL, MMU_WRITE, GVA, 1, &small);
        enter(tlb, TLB_KERNEL, MMU_FETCH, GVA, 2, &small);
        assert_false(finds(tlb, TLB_KERNEL, MMU_WRITE, GVA));
        assert_false(finds(tlb, TLB_KERNEL, MMU_READ, GVA));
        assert_ptr_equal(tlb_lookup(tlb, TLB_KERNEL, MMU_FETCH, GVA, 1), PAGE_AT(2));
}

static bool victim_has(struct soft_tlb *tlb, u64 gva)
{
        return tlb->space->entries[tlb_victim(gva)].base[MMU_READ] == gva;
}

static void page_that_moved_has_no_victim(void **state)
{
        struct soft_tlb *tlb = *state;

        fill(tlb, LOW, 1);
        fill(tlb, LOW, 2);
        assert_false(victim_has(tlb, LOW));
        fill(tlb, LOW + TLB_SIZE * PAGE_SIZE, 3);
        assert_true(victim_has(tlb, LOW));
        fill(tlb, LOW, 4);
        assert_false(victim_has(tlb, LOW));
}

static void address_zero_can_be_entered(void **state)
{
        struct soft_tlb *tlb = *state;

        assert_false(hits(tlb, 0));
        fill(tlb, 0, 1);
        assert_true(hits(tlb, 0));
        tlb_flush_page(tlb, 0);
        assert_false(hits(tlb, 0));
}

/* ---- address spaces ---- */

static void context_flush_forgets_the_current_space(void **state)
{
        struct soft_tlb *tlb = *state;

        fill(tlb, LOW, 1);
        tlb_flush_context(tlb);
        assert_false(hits(tlb, LOW));
}

static void context_flush_spares_other_pcids(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, LOW, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, LOW + PAGE_SIZE, 2);
        tlb_flush_context(tlb);
        assert_false(hits(tlb, LOW + PAGE_SIZE));
        tlb_switch_pcid(tlb, 1, true);
        assert_true(hits(tlb, LOW));
}

static void context_flush_is_not_undone_by_keep(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, LOW, 1);
        tlb_flush_context(tlb);
        tlb_switch_pcid(tlb, 2, false);
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, LOW));
}

static void pcids_do_not_see_each_other(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, LOW, 1);
        tlb_switch_pcid(tlb, 2, true);
        assert_false(hits(tlb, LOW));
}

static void keep_finds_what_the_pcid_had(void **state)
{
        struct soft_tlb *tlb = *state;

        for (u16 pcid = 1; pcid <= TLB_SPACES - 1; pcid++) {
                tlb_switch_pcid(tlb, pcid, false);
                fill(tlb, LOW + pcid * PAGE_SIZE, pcid);
        }
        for (u16 pcid = 1; pcid <= TLB_SPACES - 1; pcid++) {
                tlb_switch_pcid(tlb, pcid, true);
                for (u16 other = 1; other <= TLB_SPACES - 1; other++)
                        assert_int_equal(hits(tlb, LOW + other * PAGE_SIZE), other == pcid);
        }
}

/* A small one has a space more when programs keep losing theirs. */
static void small_ones_grow_when_programs_come_back(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_begin_small(tlb);
        for (unsigned round = 0; round < 1000; round++) {
                for (u16 pcid = 1; pcid <= 3; pcid++) {
                        tlb_switch_pcid(tlb, pcid, round > 0);
                        assert_int_equal(round > 900, hits(tlb, LOW + pcid * PAGE_SIZE) && round > 900);
                        fill(tlb, LOW + pcid * PAGE_SIZE, pcid);
                }
                if (!round)
                        assert_int_equal(tlb->n_spaces, TLB_SPACES_FEW);
        }
        assert_int_equal(tlb->n_spaces, 3);
        /* Programs that are new are none that come back, and who is used stays. */
        tlb_switch_pcid(tlb, 1, true);
        for (u16 pcid = 10; pcid < 1000; pcid++) {
                tlb_switch_pcid(tlb, pcid, false);
                tlb_switch_pcid(tlb, 1, true);
        }
        assert_int_equal(tlb->n_spaces, 3);
        assert_true(hits(tlb, LOW + PAGE_SIZE));
}

static void switch_without_keep_forgets_that_pcid_only(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, LOW, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, LOW + PAGE_SIZE, 2);
        tlb_switch_pcid(tlb, 1, false);
        assert_false(hits(tlb, LOW));
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, LOW));
        tlb_switch_pcid(tlb, 2, true);
        assert_true(hits(tlb, LOW + PAGE_SIZE));
}

static void more_pcids_than_are_kept_stay_correct(void **state)
{
        struct soft_tlb *tlb = *state;

        for (u16 pcid = 0; pcid < 40; pcid++) {
                tlb_switch_pcid(tlb, pcid, true);
                fill(tlb, LOW, pcid);
        }
        for (u16 pcid = 0; pcid < 40; pcid++) {
                const void *p;

                tlb_switch_pcid(tlb, pcid, true);
                p = tlb_lookup(tlb, TLB_USER, MMU_READ, LOW, 1);
                assert_true(!p || p == PAGE_AT(pcid));
        }
}

static void flushed_pcid_is_forgotten_and_no_other(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, LOW, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, LOW + PAGE_SIZE, 2);
        tlb_flush_pcid(tlb, 1);
        assert_true(hits(tlb, LOW + PAGE_SIZE));
        tlb_flush_pcid(tlb, 77);
        assert_true(hits(tlb, LOW + PAGE_SIZE));
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, LOW));
}

static void flushing_everything_spares_no_pcid(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, LOW, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, LOW, 2);
        enter(tlb, TLB_KERNEL, MMU_READ, GVA, 3, &small);
        tlb_flush_all(tlb);
        assert_false(hits(tlb, LOW));
        assert_false(finds(tlb, TLB_KERNEL, MMU_READ, GVA));
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, LOW));
        tlb_switch_pcid(tlb, 2, true);
        assert_false(hits(tlb, LOW));
}

/* The state may have been loaded with a PCID that the TLB was not told of: the space it is in then must not be taken for PCID 0's. */
static void space_after_a_full_flush_belongs_to_no_pcid(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 0, false);
        tlb_flush_all(tlb);
        fill(tlb, LOW, 1);
        tlb_switch_pcid(tlb, 0, true);
        assert_false(hits(tlb, LOW));
}

static void global_kernel_pages_outlive_a_switch_and_others_do_not(void **state)
{
        static const struct {
                void (*flush)(struct soft_tlb *tlb);
        } rows[] = { { tlb_flush_context }, { tlb_flush_non_global } };
        struct soft_tlb *tlb = *state;

        for (size_t i = 0; i <= ARRAY_SIZE(rows); i++) {
                enter(tlb, TLB_KERNEL, MMU_READ, GVA, 1, &small);
                enter(tlb, TLB_KERNEL, MMU_READ, GVA + PAGE_SIZE, 2, &small_private);
                fill(tlb, LOW, 3);
                if (i < ARRAY_SIZE(rows))
                        rows[i].flush(tlb);
                else
                        tlb_switch_pcid(tlb, 5, false);
                assert_true(finds(tlb, TLB_KERNEL, MMU_READ, GVA));
                assert_false(finds(tlb, TLB_KERNEL, MMU_READ, GVA + PAGE_SIZE));
                assert_false(hits(tlb, LOW));
        }
}

/* ---- single pages ---- */

static void page_flush_takes_one_page_in_all_modes(void **state)
{
        struct soft_tlb *tlb = *state;

        for (unsigned mode = TLB_KERNEL; mode <= TLB_USER; mode++) {
                enter(tlb, mode, MMU_READ, GVA, 1, &small);
                enter(tlb, mode, MMU_FETCH, GVA, 1, &small);
                enter(tlb, mode, MMU_READ, GVA + PAGE_SIZE, 2, &small);
        }
        tlb_flush_page(tlb, GVA + 0x123);
        for (unsigned mode = TLB_KERNEL; mode <= TLB_USER; mode++) {
                for (unsigned access = 0; access < 3; access++)
                        assert_false(finds(tlb, mode, access, GVA));
                assert_true(finds(tlb, mode, MMU_READ, GVA + PAGE_SIZE));
        }
}

/* The page may be global, and INVLPG takes global translations of all PCIDs. SDM 3A, 4.10.4.1. */
static void page_flush_reaches_other_pcids(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, LOW, 1);
        tlb_switch_pcid(tlb, 2, false);
        tlb_flush_page(tlb, LOW);
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, LOW));
}

/* One INVLPG anywhere in a large page ends all of it, and the TLB holds it in 4 KiB pieces. */
static void page_flush_inside_a_large_page_takes_all_of_it(void **state)
{
        struct soft_tlb *tlb = *state;
        const u64 base = GVA & ~(2 * MIB - 1);

        enter(tlb, TLB_KERNEL, MMU_READ, base + 0x5000, 5, &large);
        enter(tlb, TLB_USER, MMU_READ, base + 0x1ff000, 6, &user_large);
        tlb_flush_page(tlb, base + 0x80000);
        assert_false(finds(tlb, TLB_KERNEL, MMU_READ, base + 0x5000));
        assert_false(finds(tlb, TLB_USER, MMU_READ, base + 0x1ff000));
}

static void large_page_of_another_pcid_is_not_forgotten(void **state)
{
        struct soft_tlb *tlb = *state;
        const u64 base = LOW & ~(2 * MIB - 1);

        tlb_switch_pcid(tlb, 1, false);
        enter(tlb, TLB_USER, MMU_READ, base + 0x5000, 5, &user_large);
        tlb_switch_pcid(tlb, 2, false);
        tlb_flush_context(tlb);
        tlb_flush_page(tlb, base);
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, base + 0x5000));
}

static void page_flush_outside_large_pages_stays_small(void **state)
{
        struct soft_tlb *tlb = *state;

        enter(tlb, TLB_KERNEL, MMU_READ, GVA, 5, &large);
        fill(tlb, LOW, 1);
        tlb_flush_page(tlb, LOW + PAGE_SIZE);
        tlb_flush_page(tlb, 0xffffffff81000000); /* far from both */
        assert_true(finds(tlb, TLB_KERNEL, MMU_READ, GVA));
        assert_true(hits(tlb, LOW));
}

static void many_distant_large_pages_are_all_remembered(void **state)
{
        static const struct mmu_translation *const sizes[] = { &large, &huge };
        struct soft_tlb *tlb = *state;

        for (unsigned n = 0; n < 2 * 12; n++) {
                const struct mmu_translation *tr = sizes[n % 2];
                const u64 base = n / 2 * 1024 * GIB + n / 2 * 8 * MIB;

                for (unsigned i = 0; i <= n / 2; i++)
                        enter(tlb, TLB_KERNEL, MMU_READ, i * 1024 * GIB + i * 8 * MIB, i, tr);
                tlb_flush_page(tlb, (base | (tr->page_size - 1)) - PAGE_SIZE);
                assert_false(finds(tlb, TLB_KERNEL, MMU_READ, base));
        }
}

/* ---- write permission ---- */

static void dropped_writes_are_seen_again_and_reads_stay(void **state)
{
        struct soft_tlb *tlb = *state;

        enter(tlb, TLB_KERNEL, MMU_WRITE, GVA, 1, &small);
        enter(tlb, TLB_USER, MMU_WRITE, LOW, 1, &user_small); /* an alias */
        enter(tlb, TLB_KERNEL, MMU_WRITE, GVA + PAGE_SIZE, 2, &small);
        tlb_drop_writes(tlb, PAGE_AT(1));
        assert_false(finds(tlb, TLB_KERNEL, MMU_WRITE, GVA));
        assert_false(finds(tlb, TLB_USER, MMU_WRITE, LOW));
        assert_true(finds(tlb, TLB_KERNEL, MMU_READ, GVA));
        assert_true(hits(tlb, LOW));
        assert_true(finds(tlb, TLB_KERNEL, MMU_WRITE, GVA + PAGE_SIZE));
        tlb_fill(tlb, &ps, TLB_KERNEL, MMU_READ, GVA, PAGE_AT(1), &small, true);
        assert_false(finds(tlb, TLB_KERNEL, MMU_WRITE, GVA));
}

static void dropping_writes_reaches_kept_pcids(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        enter(tlb, TLB_USER, MMU_WRITE, LOW, 1, &user_small);
        tlb_switch_pcid(tlb, 2, false);
        tlb_drop_writes(tlb, PAGE_AT(1));
        tlb_switch_pcid(tlb, 1, true);
        assert_false(finds(tlb, TLB_USER, MMU_WRITE, LOW));
}

/* More aliases of more pages than there are hints for. */
static void dropping_writes_finds_every_alias(void **state)
{
        struct soft_tlb *tlb = *state;

        for (u16 pcid = 1; pcid <= 6; pcid++) {
                tlb_switch_pcid(tlb, pcid, false);
                for (unsigned i = 0; i < TLB_SIZE; i++) {
                        enter(tlb, TLB_KERNEL, MMU_WRITE, GVA + i * PAGE_SIZE, i * i, &small);
                        enter(tlb, TLB_USER, MMU_WRITE, LOW + i * PAGE_SIZE, i * i, &user_small);
                }
        }
        for (unsigned third = 0; third < 3; third++) {
                for (unsigned i = third; i < TLB_SIZE; i += 3)
                        tlb_drop_writes(tlb, PAGE_AT(i * i));
                for (u16 pcid = 1; pcid <= 6; pcid++) {
                        tlb_switch_pcid(tlb, pcid, true);
                        for (unsigned i = 0; i < TLB_SIZE; i++)
                                if (finds(tlb, TLB_KERNEL, MMU_WRITE, GVA + i * PAGE_SIZE) != (i % 3 > third) ||
                                    finds(tlb, TLB_USER, MMU_WRITE, LOW + i * PAGE_SIZE) != (i % 3 > third))
                                        fail_msg("page %u, PCID %u", i, pcid);
                }
        }
}

/* ---- jumps ---- */

static const u8 code[8];

static void jump_is_found_by_its_exact_address(void **state)
{
        struct soft_tlb *tlb = *state;

        assert_null(tlb_jump_find(tlb->space, 0));
        assert_null(tlb_jump_find(tlb->space, TLB_JUMPS));
        tlb_jump_enter(tlb->space, LOW + 5, &code[0]);
        tlb_jump_enter(tlb->space, 0, &code[1]);
        assert_ptr_equal(tlb_jump_find(tlb->space, LOW + 5), &code[0]);
        assert_ptr_equal(tlb_jump_find(tlb->space, 0), &code[1]);
        assert_null(tlb_jump_find(tlb->space, LOW + 6));
        assert_null(tlb_jump_find(tlb->space, LOW + 5 + TLB_JUMPS));
        assert_null(tlb_jump_find(&tlb->kernel, LOW + 5));
}

static void jump_goes_with_its_page_and_no_other(void **state)
{
        struct soft_tlb *tlb = *state;

        for (u64 gva = LOW; gva < LOW + 8 * PAGE_SIZE; gva += 0x123)
                tlb_jump_enter(tlb->space, gva, &code[0]);
        tlb_flush_page(tlb, LOW + 4 * PAGE_SIZE);
        for (u64 gva = LOW + 4 * PAGE_SIZE; gva < LOW + 8 * PAGE_SIZE; gva += PAGE_SIZE)
                for (u64 rip = gva; rip < gva + PAGE_SIZE; rip++)
                        if ((rip - LOW) % 0x123 == 0)
                                assert_int_equal(tlb_jump_find(tlb->space, rip) != NULL, gva != LOW + 4 * PAGE_SIZE);
}

static void jump_outlives_the_entry_that_another_page_took(void **state)
{
        struct soft_tlb *tlb = *state;

        enter(tlb, TLB_USER, MMU_FETCH, LOW, 1, &user_small);
        tlb_jump_enter(tlb->space, LOW, &code[0]);
        enter(tlb, TLB_USER, MMU_FETCH, LOW + TLB_SIZE * PAGE_SIZE, 2, &user_small);
        assert_ptr_equal(tlb_jump_find(tlb->space, LOW), &code[0]);
        tlb_flush_page(tlb, LOW);
        assert_null(tlb_jump_find(tlb->space, LOW));
}

static void crossing_jump_goes_with_either_page(void **state)
{
        struct soft_tlb *tlb = *state;
        const u64 rip = LOW + PAGE_SIZE - 2;
        const struct tlb_jump *jump = &tlb->space->more_jumps[TLB_JUMP_CROSSING * TLB_MORE_JUMPS + tlb_more_slot(rip)];

        for (u64 page = LOW - PAGE_SIZE; page <= LOW + 2 * PAGE_SIZE; page += PAGE_SIZE) {
                enter(tlb, TLB_USER, MMU_FETCH, LOW, 1, &user_small);
                enter(tlb, TLB_USER, MMU_FETCH, LOW + PAGE_SIZE, 2, &user_small);
                tlb_jump_enter_more(tlb->space, TLB_JUMP_CROSSING, rip, &code[0]);
                tlb_flush_page(tlb, page);
                assert_int_equal(jump->rip == rip, page != LOW && page != LOW + PAGE_SIZE);
        }
}

static void count_flush(void *opaque, u64 gva)
{
        *(unsigned *)opaque += 1;
        (void)gva;
}

static void flush_of_a_user_page_spares_kernel_code(void **state)
{
        struct soft_tlb *tlb = *state;
        unsigned told = 0;

        enter(tlb, TLB_KERNEL, MMU_FETCH, GVA, 1, &small);
        tlb->kernel_exec_flushed = count_flush;
        tlb->opaque = &told;
        tlb_flush_page(tlb, (LOW & ~(u64)(TLB_SIZE * PAGE_SIZE - 1)) | (GVA & (TLB_SIZE * PAGE_SIZE - 1)));
        assert_int_equal(told, 0);
        tlb_flush_page(tlb, GVA);
        assert_int_equal(told, 1);
        tlb->kernel_exec_flushed = NULL;
}

static void dropped_block_has_no_jumps_left(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        tlb_jump_enter(tlb->space, LOW + 0x10, &code[0]);
        tlb_jump_enter(tlb->space, LOW + 0x20, &code[1]);
        tlb_switch_pcid(tlb, 2, false);
        tlb_jump_enter(tlb->space, LOW + 2 * PAGE_SIZE + 0x10, &code[0]);
        tlb_jump_enter(&tlb->kernel, GVA + 0x10, &code[0]);
        tlb_jump_forget(tlb, 0x10, &code[0]);
        assert_null(tlb_jump_find(tlb->space, LOW + 2 * PAGE_SIZE + 0x10));
        assert_null(tlb_jump_find(&tlb->kernel, GVA + 0x10));
        tlb_switch_pcid(tlb, 1, true);
        assert_null(tlb_jump_find(tlb->space, LOW + 0x10));
        assert_non_null(tlb_jump_find(tlb->space, LOW + 0x20));
        tlb_jumps_clear(tlb);
        assert_null(tlb_jump_find(tlb->space, LOW + 0x20));
}

/* ---- against a naive model ----
 *
 * The model is a list of everything that was entered and may still be used. A hit must be in the list with the same page and right;
 * a look-up right after a fill must hit. What the TLB forgets early is its own business. Jumps are entered with each fetch.
 * Generations stand for what the interpreter remembers of a fetch: none may be current for a fetch translation that is gone, but for
 * those of the very page of a page flush. */

#define MODEL_MAX 4096
#define MODEL_PCIDS 12
#define JUMP_OFFSET 0x7c

struct record {
        u16 pcid;
        bool kernel, global; /* who may use it: the supervisor, or user code and the supervisor with AC; in all spaces */
        enum mmu_access access;
        u64 page, lo, hi; /* the guest page that it is part of: lo..hi */
        const void *hva;
        u64 generation;
        bool live, told, page_flushed;
};

struct model {
        struct soft_tlb *tlb;
        struct record records[MODEL_MAX];
        unsigned n;
        u16 pcid;
        u64 random;
        u64 hits, jump_hits, victims;
};

static u64 next_random(struct model *m, u64 limit)
{
        m->random ^= m->random << 13;
        m->random ^= m->random >> 7;
        m->random ^= m->random << 17;
        return m->random % limit;
}

/* Addresses that meet: in slots, in large pages, and in ranges of large pages. */
static u64 random_page(struct model *m)
{
        static const u64 regions[] = { 0, 0x40000000, 0x7f0000000000, 0xffff888000000000, 0xffff889000000000, 0xffffffff80000000 };

        return regions[next_random(m, ARRAY_SIZE(regions))] + next_random(m, 2) * TLB_SIZE * PAGE_SIZE +
               next_random(m, 4) * PAGE_SIZE;
}

static void exec_flushed(void *opaque, u64 gva)
{
        struct model *m = opaque;

        for (unsigned i = 0; i < m->n; i++)
                if (m->records[i].kernel && (gva == TLB_ALL || m->records[i].page == gva))
                        m->records[i].told = true;
}

static void model_kill(struct record *r, bool must_be_told)
{
        if (must_be_told && r->live && r->kernel && r->access == MMU_FETCH && !r->told)
                fail_msg("kernel code at 0x%lx: nobody was told of the flush", (unsigned long)r->page);
        r->live = false;
}

static void model_add(struct model *m, struct record r)
{
        if (m->n == MODEL_MAX) {
                unsigned kept = 0;

                for (unsigned i = 0; i < m->n; i++)
                        if (m->records[i].live)
                                m->records[kept++] = m->records[i];
                m->n = kept;
        }
        assert_true(m->n < MODEL_MAX);
        m->records[m->n++] = r;
}

static struct tlb_table *table_for(struct model *m, bool kernel)
{
        return kernel ? &m->tlb->kernel : m->tlb->space;
}

static void model_fill(struct model *m)
{
        static const u64 sizes[] = { 4 * KIB, 4 * KIB, 4 * KIB, 4 * KIB, 4 * KIB, 4 * KIB, 4 * KIB, 2 * MIB, 1 * GIB };
        const struct mmu_translation tr = {
                .page_size = sizes[next_random(m, ARRAY_SIZE(sizes))],
                .writable = true, .dirty = true, .user = next_random(m, 2), .global = next_random(m, 2),
        };
        const enum mmu_access access = (enum mmu_access)next_random(m, 3);
        const enum tlb_mode mode = !tr.user ? TLB_KERNEL : access != MMU_FETCH && next_random(m, 2) ? TLB_KERNEL_AC : TLB_USER;
        const bool flagged = access != MMU_WRITE && next_random(m, 2);
        const u64 page = random_page(m), size = tr.page_size;
        void *hva = PAGE_AT(next_random(m, 4));
        struct record r = {
                .pcid = m->pcid, .kernel = !tr.user, .global = tr.global && !tr.user, .access = access, .page = page,
                .lo = page & ~(size - 1), .hi = page | (size - 1), .hva = hva, .live = true,
                .generation = table_for(m, !tr.user)->generation,
        };

        if (!tlb_fill(m->tlb, &ps, mode, access, page, hva, &tr, flagged)) {
                assert_true(mode == TLB_KERNEL_AC && page >> 63);
                return;
        }
        if (access == MMU_FETCH) {
                if (next_random(m, 2))
                        tlb_jump_enter(table_for(m, !tr.user), page + JUMP_OFFSET, hva);
                if (next_random(m, 2))
                        tlb_jump_enter_more(table_for(m, !tr.user), TLB_JUMP_AC, page + JUMP_OFFSET, hva);
        } else if (!flagged) {
                r.access = MMU_WRITE;
                model_add(m, r);
                r.access = MMU_READ;
        } else {
                r.access = MMU_READ;
        }
        model_add(m, r);
        if (tlb_lookup(m->tlb, mode, access, page, 8) != hva)
                fail_msg("0x%lx is not found after its fill", (unsigned long)page);
}

static bool model_has(const struct model *m, bool kernel, enum mmu_access access, u64 page, const void *hva)
{
        for (unsigned i = 0; i < m->n; i++) {
                const struct record *r = &m->records[i];

                if (r->live && r->kernel == kernel && (r->global || r->pcid == m->pcid) && r->access == access && r->page == page &&
                    r->hva == hva)
                        return true;
        }
        return false;
}

/* What was displaced is as right as what was not, when it is used where it lies and when it is brought back. */
static void look_up_displaced(struct model *m, enum tlb_mode mode, enum mmu_access access, u64 page)
{
        struct tlb_table *table = tlb_table_of(m->tlb, mode, page);
        const bool kernel = table == &m->tlb->kernel;
        const struct tlb_entry victim = table->entries[tlb_victim(page)];
        const struct tlb_jump jump = table->more_jumps[TLB_JUMP_AC * TLB_MORE_JUMPS + tlb_more_slot(page + JUMP_OFFSET)];

        if (jump.rip == page + JUMP_OFFSET && !model_has(m, kernel, MMU_FETCH, page, jump.code))
                fail_msg("0x%lx: a jump of the other kind that was taken out is used", (unsigned long)page);
        if (victim.base[access] != page)
                return;
        m->victims++;
        if (!model_has(m, kernel, access, page, (void *)(uintptr_t)victim.page))
                fail_msg("0x%lx, mode %u, access %u: a victim that was taken out is used", (unsigned long)page, mode, access);
        if (next_random(m, 2) || (kernel && m->tlb->non_global_victims))
                return;
        assert_int_equal(tlb_miss(m->tlb, NULL, &ps, mode, access, page), 0);
        assert_ptr_equal(tlb_lookup(m->tlb, mode, access, page, 1), (void *)(uintptr_t)victim.page);
}

static void model_look_up(struct model *m)
{
        const enum tlb_mode mode = (enum tlb_mode)next_random(m, TLB_MODES);
        const enum mmu_access access = (enum mmu_access)next_random(m, mode == TLB_KERNEL_AC ? 2 : 3);
        const u64 page = random_page(m);
        const bool kernel = mode == TLB_KERNEL || (mode == TLB_KERNEL_AC && page >> 63);
        const void *hva = tlb_lookup(m->tlb, mode, access, page, 4);
        const void *jump = tlb_jump_find(table_for(m, kernel), page + JUMP_OFFSET);

        m->hits += hva != NULL;
        if (hva && !model_has(m, kernel, access, page, hva))
                fail_msg("0x%lx, mode %u, access %u, PCID %u: a translation that was taken out is used", (unsigned long)page, mode,
                         access, m->pcid);
        look_up_displaced(m, mode, access, page);
        m->jump_hits += jump != NULL;
        if (jump && !model_has(m, kernel, MMU_FETCH, page, jump))
                fail_msg("0x%lx, mode %u, PCID %u: a jump that was taken out is used", (unsigned long)page, mode, m->pcid);
}

static void model_check_generations(struct model *m)
{
        for (unsigned i = 0; i < m->n; i++) {
                const struct record *r = &m->records[i];

                if (r->access == MMU_FETCH && !r->page_flushed && !(r->live && (r->global || r->pcid == m->pcid)) &&
                    r->generation == table_for(m, r->kernel)->generation)
                        fail_msg("the fetch from 0x%lx is remembered", (unsigned long)r->page);
        }
}

static void model_flush_page(struct model *m, u64 page)
{
        tlb_flush_page(m->tlb, page);
        for (unsigned i = 0; i < m->n; i++) {
                struct record *r = &m->records[i];

                r->page_flushed |= r->page == page;
                if (page >= r->lo && page <= r->hi)
                        model_kill(r, true);
        }
}

/* Of one PCID or, when it is negative, of all. */
static void model_forget(struct model *m, int pcid)
{
        for (unsigned i = 0; i < m->n; i++)
                if (!m->records[i].global && (pcid < 0 || m->records[i].pcid == pcid))
                        model_kill(&m->records[i], false);
}

static void model_switch(struct model *m)
{
        const bool keep = next_random(m, 4);

        m->pcid = (u16)next_random(m, MODEL_PCIDS);
        tlb_switch_pcid(m->tlb, m->pcid, keep);
        if (!keep)
                model_forget(m, m->pcid);
}

static void model_drop_writes(struct model *m)
{
        const void *hva = PAGE_AT(next_random(m, 4));

        tlb_drop_writes(m->tlb, hva);
        for (unsigned i = 0; i < m->n; i++)
                if (m->records[i].access == MMU_WRITE && m->records[i].hva == hva)
                        m->records[i].live = false;
}

static void model_flush_pcid(struct model *m)
{
        const u16 pcid = (u16)next_random(m, MODEL_PCIDS);

        if (pcid == m->pcid)
                tlb_flush_context(m->tlb);
        else
                tlb_flush_pcid(m->tlb, pcid);
        model_forget(m, pcid);
}

static void model_flush_all(struct model *m)
{
        tlb_flush_all(m->tlb);
        for (unsigned i = 0; i < m->n; i++)
                model_kill(&m->records[i], true);
}

static void model_step(struct model *m)
{
        const u64 what = next_random(m, 1000);

        if (what < 450) {
                model_fill(m);
        } else if (what < 950) {
                model_look_up(m);
        } else if (what < 965) {
                model_flush_page(m, random_page(m));
        } else if (what < 985) {
                model_switch(m);
        } else if (what < 988) {
                model_drop_writes(m);
        } else if (what < 996) {
                model_flush_pcid(m);
        } else if (what < 998) {
                tlb_flush_non_global(m->tlb);
                model_forget(m, -1);
        } else {
                model_flush_all(m);
        }
        if (what >= 950)
                model_check_generations(m);
}

static void random_operations_agree_with_a_naive_model(void **state)
{
        for (unsigned seed = 1; seed <= 20; seed++) {
                struct model *m = calloc(1, sizeof(*m));

                m->tlb = *state;
                m->random = seed * 0x9e3779b97f4a7c15;
                m->tlb->kernel_exec_flushed = exec_flushed;
                m->tlb->opaque = m;
                tlb_flush_all(m->tlb);
                tlb_switch_pcid(m->tlb, 0, false);
                print_message("seed %u\n", seed);
                for (unsigned i = 0; i < 20000; i++)
                        model_step(m);
                assert_true(m->hits > 100 && m->jump_hits > 100 && m->victims > 10); /* else the test says nothing */
                m->tlb->kernel_exec_flushed = NULL;
                free(m);
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(empty_tlb_answers_nothing),
                TEST(hit_gives_the_byte_inside_the_page),
                TEST(access_that_leaves_the_page_misses),
                TEST(modes_share_what_is_allowed_to_both),
                TEST(each_access_answers_for_itself),
                TEST(write_protection_counts_for_whom_it_must),
                TEST(fills_of_one_page_add_up),
                TEST(page_that_moved_leaves_no_rights_behind),
                TEST(page_that_moved_has_no_victim),
                TEST(address_zero_can_be_entered),
                TEST(context_flush_forgets_the_current_space),
                TEST(context_flush_spares_other_pcids),
                TEST(context_flush_is_not_undone_by_keep),
                TEST(pcids_do_not_see_each_other),
                TEST(keep_finds_what_the_pcid_had),
                TEST(small_ones_grow_when_programs_come_back),
                TEST(switch_without_keep_forgets_that_pcid_only),
                TEST(more_pcids_than_are_kept_stay_correct),
                TEST(flushed_pcid_is_forgotten_and_no_other),
                TEST(flushing_everything_spares_no_pcid),
                TEST(space_after_a_full_flush_belongs_to_no_pcid),
                TEST(global_kernel_pages_outlive_a_switch_and_others_do_not),
                TEST(page_flush_takes_one_page_in_all_modes),
                TEST(page_flush_reaches_other_pcids),
                TEST(page_flush_inside_a_large_page_takes_all_of_it),
                TEST(large_page_of_another_pcid_is_not_forgotten),
                TEST(page_flush_outside_large_pages_stays_small),
                TEST(many_distant_large_pages_are_all_remembered),
                TEST(dropped_writes_are_seen_again_and_reads_stay),
                TEST(dropping_writes_reaches_kept_pcids),
                TEST(dropping_writes_finds_every_alias),
                TEST(jump_is_found_by_its_exact_address),
                TEST(jump_goes_with_its_page_and_no_other),
                TEST(jump_outlives_the_entry_that_another_page_took),
                TEST(crossing_jump_goes_with_either_page),
                TEST(flush_of_a_user_page_spares_kernel_code),
                TEST(dropped_block_has_no_jumps_left),
                TEST(random_operations_agree_with_a_naive_model),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

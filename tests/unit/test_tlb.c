/* The soft TLB: what was entered is found, by whom and for what it was entered, until it is taken out; and never again then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mmu/mmu.h"

#define GVA 0xffff888012345000ULL
#define PAGE_AT(n) ((void *)(uintptr_t)(0x7f0000000000ULL + (u64)(n) * PAGE_SIZE)) /* never dereferenced */
#define CONTEXTS 4095 /* before the numbers start again */

static const struct mmu_translation small = { .page_size = 4 * KIB }, large = { .page_size = 2 * MIB },
                                    huge = { .page_size = 1 * GIB };

static int setup(void **state)
{
        struct soft_tlb *tlb = malloc(sizeof(*tlb));

        tlb_init(tlb);
        *state = tlb;
        return 0;
}

static int teardown(void **state)
{
        free(*state);
        return 0;
}

static void fill(struct soft_tlb *tlb, u64 gva, unsigned page)
{
        tlb_fill(tlb, TLB_KERNEL, MMU_READ, gva, PAGE_AT(page), &small, true);
}

static bool hits(struct soft_tlb *tlb, u64 gva)
{
        return tlb_lookup(tlb, TLB_KERNEL, MMU_READ, gva) != NULL;
}

/* ---- look-up ---- */

static void empty_tlb_answers_nothing(void **state)
{
        struct soft_tlb *tlb = *state;

        for (unsigned mode = 0; mode < TLB_MODES; mode++)
                for (unsigned access = 0; access < 3; access++)
                        for (u64 gva = 0; gva < TLB_SIZE * PAGE_SIZE; gva += PAGE_SIZE)
                                if (tlb_lookup(tlb, mode, access, gva))
                                        fail_msg("0x%lx", (unsigned long)gva);
}

static void hit_gives_the_byte_inside_the_page(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_fill(tlb, TLB_USER, MMU_READ, 0x401234, (u8 *)PAGE_AT(3) + 0x234, &small, true);
        assert_ptr_equal(tlb_lookup(tlb, TLB_USER, MMU_READ, 0x401000), PAGE_AT(3));
        assert_ptr_equal(tlb_lookup(tlb, TLB_USER, MMU_WRITE, 0x401fff), (u8 *)PAGE_AT(3) + 0xfff);
        assert_null(tlb_lookup(tlb, TLB_USER, MMU_READ, 0x402000));
        assert_null(tlb_lookup(tlb, TLB_USER, MMU_READ, 0x401000 + TLB_SIZE * PAGE_SIZE));
}

static void modes_do_not_share(void **state)
{
        struct soft_tlb *tlb = *state;

        for (unsigned mode = 0; mode < TLB_MODES; mode++) {
                tlb_flush_all(tlb);
                tlb_fill(tlb, mode, MMU_READ, GVA, PAGE_AT(1), &small, true);
                for (unsigned other = 0; other < TLB_MODES; other++)
                        assert_int_equal(tlb_lookup(tlb, other, MMU_READ, GVA) != NULL, other == mode);
        }
}

static void each_access_answers_for_itself(void **state)
{
        static const struct {
                enum mmu_access fill;
                bool writable_now, hit[3];
        } rows[] = {
                { MMU_READ, false, { true, false, false } },
                { MMU_READ, true, { true, true, false } },
                { MMU_WRITE, true, { true, true, false } },
                { MMU_WRITE, false, { true, false, false } },
                { MMU_FETCH, false, { false, false, true } },
                { MMU_FETCH, true, { false, false, true } },
        };
        struct soft_tlb *tlb = *state;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                tlb_flush_all(tlb);
                tlb_fill(tlb, TLB_KERNEL, rows[i].fill, GVA, PAGE_AT(1), &small, rows[i].writable_now);
                for (unsigned access = 0; access < 3; access++)
                        assert_int_equal(tlb_lookup(tlb, TLB_KERNEL, access, GVA) != NULL, rows[i].hit[access]);
        }
}

static void fills_of_one_page_add_up(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_fill(tlb, TLB_KERNEL, MMU_READ, GVA, PAGE_AT(1), &small, false);
        tlb_fill(tlb, TLB_KERNEL, MMU_FETCH, GVA, PAGE_AT(1), &small, false);
        tlb_fill(tlb, TLB_KERNEL, MMU_WRITE, GVA, PAGE_AT(1), &small, true);
        for (unsigned access = 0; access < 3; access++)
                assert_ptr_equal(tlb_lookup(tlb, TLB_KERNEL, access, GVA), PAGE_AT(1));
}

static void page_that_moved_leaves_no_rights_behind(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_fill(tlb, TLB_KERNEL, MMU_WRITE, GVA, PAGE_AT(1), &small, true);
        tlb_fill(tlb, TLB_KERNEL, MMU_FETCH, GVA, PAGE_AT(2), &small, false);
        assert_null(tlb_lookup(tlb, TLB_KERNEL, MMU_WRITE, GVA));
        assert_null(tlb_lookup(tlb, TLB_KERNEL, MMU_READ, GVA));
        assert_ptr_equal(tlb_lookup(tlb, TLB_KERNEL, MMU_FETCH, GVA), PAGE_AT(2));
}

static void address_zero_can_be_entered(void **state)
{
        struct soft_tlb *tlb = *state;

        assert_false(hits(tlb, 0));
        fill(tlb, 0, 1);
        assert_true(hits(tlb, 0));
}

/* ---- address spaces ---- */

static void context_flush_forgets_the_current_space(void **state)
{
        struct soft_tlb *tlb = *state;

        fill(tlb, GVA, 1);
        tlb_flush_context(tlb);
        assert_false(hits(tlb, GVA));
}

static void context_flush_spares_other_pcids(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, GVA + PAGE_SIZE, 2);
        tlb_flush_context(tlb);
        assert_false(hits(tlb, GVA + PAGE_SIZE));
        tlb_switch_pcid(tlb, 1, true);
        assert_true(hits(tlb, GVA));
}

static void context_flush_is_not_undone_by_keep(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        tlb_flush_context(tlb);
        tlb_switch_pcid(tlb, 2, false);
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, GVA));
}

static void pcids_do_not_see_each_other(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        tlb_switch_pcid(tlb, 2, true);
        assert_false(hits(tlb, GVA));
}

static void keep_finds_what_the_pcid_had(void **state)
{
        struct soft_tlb *tlb = *state;

        for (u16 pcid = 1; pcid <= 6; pcid++) {
                tlb_switch_pcid(tlb, pcid, false);
                fill(tlb, GVA + pcid * PAGE_SIZE, pcid);
        }
        for (u16 pcid = 1; pcid <= 6; pcid++) {
                tlb_switch_pcid(tlb, pcid, true);
                for (u16 other = 1; other <= 6; other++)
                        assert_int_equal(hits(tlb, GVA + other * PAGE_SIZE), other == pcid);
        }
}

static void switch_without_keep_forgets_that_pcid_only(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, GVA + PAGE_SIZE, 2);
        tlb_switch_pcid(tlb, 1, false);
        assert_false(hits(tlb, GVA));
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, GVA));
        tlb_switch_pcid(tlb, 2, true);
        assert_true(hits(tlb, GVA + PAGE_SIZE));
}

static void more_pcids_than_are_kept_stay_correct(void **state)
{
        struct soft_tlb *tlb = *state;

        for (u16 pcid = 0; pcid < 40; pcid++) {
                tlb_switch_pcid(tlb, pcid, true);
                fill(tlb, GVA, pcid);
        }
        for (u16 pcid = 0; pcid < 40; pcid++) {
                const void *p;

                tlb_switch_pcid(tlb, pcid, true);
                p = tlb_lookup(tlb, TLB_KERNEL, MMU_READ, GVA);
                assert_true(!p || p == PAGE_AT(pcid));
        }
}

static void flushed_pcid_is_forgotten_and_no_other(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, GVA + PAGE_SIZE, 2);
        tlb_flush_pcid(tlb, 1);
        assert_true(hits(tlb, GVA + PAGE_SIZE));
        tlb_flush_pcid(tlb, 77);
        assert_true(hits(tlb, GVA + PAGE_SIZE));
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, GVA));
}

static void flushing_everything_spares_no_pcid(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        tlb_switch_pcid(tlb, 2, false);
        fill(tlb, GVA, 2);
        tlb_flush_all(tlb);
        assert_false(hits(tlb, GVA));
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, GVA));
        tlb_switch_pcid(tlb, 2, true);
        assert_false(hits(tlb, GVA));
}

/* ---- single pages ---- */

static void page_flush_takes_one_page_in_all_modes(void **state)
{
        struct soft_tlb *tlb = *state;

        for (unsigned mode = 0; mode < TLB_MODES; mode++) {
                tlb_fill(tlb, mode, MMU_READ, GVA, PAGE_AT(1), &small, true);
                tlb_fill(tlb, mode, MMU_FETCH, GVA, PAGE_AT(1), &small, true);
                tlb_fill(tlb, mode, MMU_READ, GVA + PAGE_SIZE, PAGE_AT(2), &small, true);
        }
        tlb_flush_page(tlb, GVA + 0x123);
        for (unsigned mode = 0; mode < TLB_MODES; mode++) {
                for (unsigned access = 0; access < 3; access++)
                        assert_null(tlb_lookup(tlb, mode, access, GVA));
                assert_non_null(tlb_lookup(tlb, mode, MMU_READ, GVA + PAGE_SIZE));
        }
}

/* The page may be global, and INVLPG takes global translations of all PCIDs. SDM 3A, 4.10.4.1. */
static void page_flush_reaches_other_pcids(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        tlb_switch_pcid(tlb, 2, false);
        tlb_flush_page(tlb, GVA);
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, GVA));
}

/* One INVLPG anywhere in a large page ends all of it, and the TLB holds it in 4 KiB pieces. */
static void page_flush_inside_a_large_page_takes_all_of_it(void **state)
{
        struct soft_tlb *tlb = *state;
        const u64 base = GVA & ~(2 * MIB - 1);

        tlb_fill(tlb, TLB_KERNEL, MMU_READ, base + 0x5000, PAGE_AT(5), &large, true);
        tlb_fill(tlb, TLB_USER, MMU_READ, base + 0x1ff000, PAGE_AT(6), &large, true);
        tlb_flush_page(tlb, base + 0x80000);
        assert_null(tlb_lookup(tlb, TLB_KERNEL, MMU_READ, base + 0x5000));
        assert_null(tlb_lookup(tlb, TLB_USER, MMU_READ, base + 0x1ff000));
}

static void large_page_of_another_pcid_is_not_forgotten(void **state)
{
        struct soft_tlb *tlb = *state;
        const u64 base = GVA & ~(2 * MIB - 1);

        tlb_switch_pcid(tlb, 1, false);
        tlb_fill(tlb, TLB_KERNEL, MMU_READ, base + 0x5000, PAGE_AT(5), &large, true);
        tlb_switch_pcid(tlb, 2, false);
        tlb_flush_context(tlb);
        tlb_flush_page(tlb, base);
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, base + 0x5000));
}

static void page_flush_outside_large_pages_stays_small(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_fill(tlb, TLB_KERNEL, MMU_READ, GVA, PAGE_AT(5), &large, true);
        fill(tlb, 0x401000, 1);
        tlb_flush_page(tlb, 0x402000);
        tlb_flush_page(tlb, 0xffffffff81000000); /* far from both */
        assert_true(hits(tlb, GVA));
        assert_true(hits(tlb, 0x401000));
}

/* Ranges of large pages are merged by nearness: here one page's ends come to lie in two of them, with a gap between. */
static void large_page_between_two_known_ranges_is_remembered(void **state)
{
        struct soft_tlb *tlb = *state;
        const u64 inside = 100 * GIB + 700 * MIB;

        tlb_fill(tlb, TLB_KERNEL, MMU_READ, 0, PAGE_AT(1), &large, true);
        tlb_fill(tlb, TLB_KERNEL, MMU_READ, 101 * GIB - 2 * MIB, PAGE_AT(2), &large, true);
        tlb_fill(tlb, TLB_KERNEL, MMU_READ, 60 * GIB, PAGE_AT(3), &large, true);
        tlb_fill(tlb, TLB_KERNEL, MMU_READ, 100 * GIB, PAGE_AT(4), &large, true);
        tlb_fill(tlb, TLB_KERNEL, MMU_READ, inside, PAGE_AT(5), &huge, true);
        tlb_flush_page(tlb, 100 * GIB + 500 * MIB + PAGE_SIZE); /* not the same slot */
        assert_false(hits(tlb, inside));
}

static void neighbouring_large_pages_are_remembered_in_any_order(void **state)
{
        static const u64 bases[] = { GVA + 64 * MIB + 8 * PAGE_SIZE, GVA, GVA + 32 * MIB + 16 * PAGE_SIZE };
        struct soft_tlb *tlb = *state;

        for (size_t flushed = 0; flushed < 3; flushed++) {
                for (size_t i = 0; i < 3; i++)
                        tlb_fill(tlb, TLB_KERNEL, MMU_READ, bases[i], PAGE_AT(i), &large, true);
                tlb_flush_page(tlb, bases[flushed] + 3 * PAGE_SIZE);
                assert_false(hits(tlb, bases[flushed]));
        }
}

static void many_distant_large_pages_are_all_remembered(void **state)
{
        struct soft_tlb *tlb = *state;

        for (unsigned n = 0; n < 12; n++) {
                const u64 base = n * 1024 * GIB + n * 8 * MIB;

                for (unsigned i = 0; i <= n; i++)
                        tlb_fill(tlb, TLB_KERNEL, MMU_READ, i * 1024 * GIB + i * 8 * MIB, PAGE_AT(i), &large, true);
                tlb_flush_page(tlb, base + 2 * MIB - 1);
                assert_false(hits(tlb, base));
        }
}

/* ---- write permission ---- */

static void dropped_writes_are_seen_again_and_reads_stay(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_fill(tlb, TLB_KERNEL, MMU_WRITE, GVA, PAGE_AT(1), &small, true);
        tlb_fill(tlb, TLB_USER, MMU_WRITE, 0x401000, PAGE_AT(1), &small, true); /* an alias */
        tlb_fill(tlb, TLB_KERNEL, MMU_WRITE, GVA + PAGE_SIZE, PAGE_AT(2), &small, true);
        tlb_drop_writes(tlb, PAGE_AT(1));
        assert_null(tlb_lookup(tlb, TLB_KERNEL, MMU_WRITE, GVA));
        assert_null(tlb_lookup(tlb, TLB_USER, MMU_WRITE, 0x401000));
        assert_non_null(tlb_lookup(tlb, TLB_KERNEL, MMU_READ, GVA));
        assert_non_null(tlb_lookup(tlb, TLB_USER, MMU_READ, 0x401000));
        assert_non_null(tlb_lookup(tlb, TLB_KERNEL, MMU_WRITE, GVA + PAGE_SIZE));
        tlb_fill(tlb, TLB_KERNEL, MMU_READ, GVA, PAGE_AT(1), &small, false);
        assert_null(tlb_lookup(tlb, TLB_KERNEL, MMU_WRITE, GVA));
}

static void dropping_writes_reaches_kept_pcids(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        tlb_fill(tlb, TLB_KERNEL, MMU_WRITE, GVA, PAGE_AT(1), &small, true);
        tlb_switch_pcid(tlb, 2, false);
        tlb_drop_writes(tlb, PAGE_AT(1));
        tlb_switch_pcid(tlb, 1, true);
        assert_null(tlb_lookup(tlb, TLB_KERNEL, MMU_WRITE, GVA));
}

/* ---- context numbers come round ---- */

static void entries_do_not_come_back_when_context_numbers_do(void **state)
{
        struct soft_tlb *tlb = *state;
        const u64 wraps = tlb->wraps;

        fill(tlb, GVA, 1);
        for (unsigned i = 0; i < 3 * CONTEXTS; i++) {
                tlb_flush_context(tlb);
                if (hits(tlb, GVA))
                        fail_msg("after %u flushes", i + 1);
        }
        assert_in_range(tlb->wraps - wraps, 2, 3);
}

static void kept_pcids_do_not_get_anothers_context_after_a_wrap(void **state)
{
        struct soft_tlb *tlb = *state;

        tlb_switch_pcid(tlb, 1, false);
        fill(tlb, GVA, 1);
        for (unsigned i = 0; i < 2 * CONTEXTS; i++) {
                tlb_switch_pcid(tlb, 2, false);
                fill(tlb, GVA, 2);
        }
        tlb_switch_pcid(tlb, 1, true);
        assert_false(hits(tlb, GVA));
}

static void context_is_never_zero(void **state)
{
        struct soft_tlb *tlb = *state;

        for (unsigned i = 0; i < 2 * CONTEXTS; i++) {
                tlb_switch_pcid(tlb, (u16)(i % 3), false);
                if (tlb->context == 0 || tlb->context > CONTEXTS)
                        fail_msg("context %lu", (unsigned long)tlb->context);
        }
}

/* ---- against a naive model ----
 *
 * The model is a list of everything that was entered and may still be used. A hit must be in the list with the same page and right;
 * a look-up right after a fill must hit. What the TLB forgets early is its own business. */

#define MODEL_MAX 4096
#define MODEL_PCIDS 12

struct record {
        u16 pcid;
        enum tlb_mode mode;
        enum mmu_access access;
        u64 page, lo, hi; /* the guest page that it is part of: lo..hi */
        const void *hva;
        bool live;
};

struct model {
        struct soft_tlb *tlb;
        struct record records[MODEL_MAX];
        unsigned n;
        u16 pcid;
        u64 random;
        u64 hits;
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

static void model_add(struct model *m, enum tlb_mode mode, enum mmu_access access, u64 page, const void *hva, u64 size)
{
        struct record *r;

        if (m->n == MODEL_MAX) {
                unsigned kept = 0;

                for (unsigned i = 0; i < m->n; i++)
                        if (m->records[i].live)
                                m->records[kept++] = m->records[i];
                if (kept == MODEL_MAX) {
                        tlb_flush_all(m->tlb);
                        kept = 0;
                }
                m->n = kept;
        }
        r = &m->records[m->n++];
        *r = (struct record){ m->pcid, mode, access, page, page & ~(size - 1), page | (size - 1), hva, true };
}

static void model_fill(struct model *m)
{
        static const struct mmu_translation *const sizes[] = { &small, &small, &small, &small, &small, &small, &small, &large, &huge };
        const enum tlb_mode mode = (enum tlb_mode)next_random(m, TLB_MODES);
        const enum mmu_access access = (enum mmu_access)next_random(m, 3);
        const bool writable = access == MMU_WRITE || next_random(m, 2);
        const struct mmu_translation *tr = sizes[next_random(m, ARRAY_SIZE(sizes))];
        const u64 page = random_page(m);
        void *hva = PAGE_AT(next_random(m, 4));

        tlb_fill(m->tlb, mode, access, page, hva, tr, writable);
        model_add(m, mode, access == MMU_WRITE ? MMU_READ : access, page, hva, tr->page_size);
        if (access != MMU_FETCH && writable)
                model_add(m, mode, MMU_WRITE, page, hva, tr->page_size);
        if (tlb_lookup(m->tlb, mode, access, page) != hva)
                fail_msg("0x%lx is not found after its fill", (unsigned long)page);
}

static void model_look_up(struct model *m)
{
        const enum tlb_mode mode = (enum tlb_mode)next_random(m, TLB_MODES);
        const enum mmu_access access = (enum mmu_access)next_random(m, 3);
        const u64 page = random_page(m);
        const void *hva = tlb_lookup(m->tlb, mode, access, page);

        if (!hva)
                return;
        m->hits++;
        for (unsigned i = 0; i < m->n; i++) {
                const struct record *r = &m->records[i];

                if (r->live && r->pcid == m->pcid && r->mode == mode && r->access == access && r->page == page && r->hva == hva)
                        return;
        }
        fail_msg("0x%lx, mode %u, access %u, PCID %u: a translation that was taken out is used", (unsigned long)page, mode,
                 access, m->pcid);
}

static void model_flush_page(struct model *m, u64 page)
{
        tlb_flush_page(m->tlb, page);
        for (unsigned i = 0; i < m->n; i++)
                if (page >= m->records[i].lo && page <= m->records[i].hi)
                        m->records[i].live = false;
}

static void model_forget(struct model *m, int pcid)
{
        for (unsigned i = 0; i < m->n; i++)
                if (pcid < 0 || m->records[i].pcid == pcid)
                        m->records[i].live = false;
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

static void model_flush_other_pcid(struct model *m)
{
        const u16 pcid = (u16)next_random(m, MODEL_PCIDS);

        if (pcid == m->pcid) {
                tlb_flush_context(m->tlb);
        } else {
                tlb_flush_pcid(m->tlb, pcid);
        }
        model_forget(m, pcid);
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
        } else if (what < 998) {
                model_flush_other_pcid(m);
        } else {
                tlb_flush_all(m->tlb);
                model_forget(m, -1);
        }
}

static void random_operations_agree_with_a_naive_model(void **state)
{
        for (unsigned seed = 1; seed <= 20; seed++) {
                struct model *m = calloc(1, sizeof(*m));

                m->tlb = *state;
                m->random = seed * 0x9e3779b97f4a7c15;
                tlb_init(m->tlb);
                tlb_switch_pcid(m->tlb, 0, false);
                print_message("seed %u\n", seed);
                for (unsigned i = 0; i < 20000; i++)
                        model_step(m);
                assert_true(m->hits > 100); /* else the test says nothing */
                free(m);
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(empty_tlb_answers_nothing),
                TEST(hit_gives_the_byte_inside_the_page),
                TEST(modes_do_not_share),
                TEST(each_access_answers_for_itself),
                TEST(fills_of_one_page_add_up),
                TEST(page_that_moved_leaves_no_rights_behind),
                TEST(address_zero_can_be_entered),
                TEST(context_flush_forgets_the_current_space),
                TEST(context_flush_spares_other_pcids),
                TEST(context_flush_is_not_undone_by_keep),
                TEST(pcids_do_not_see_each_other),
                TEST(keep_finds_what_the_pcid_had),
                TEST(switch_without_keep_forgets_that_pcid_only),
                TEST(more_pcids_than_are_kept_stay_correct),
                TEST(flushed_pcid_is_forgotten_and_no_other),
                TEST(flushing_everything_spares_no_pcid),
                TEST(page_flush_takes_one_page_in_all_modes),
                TEST(page_flush_reaches_other_pcids),
                TEST(page_flush_inside_a_large_page_takes_all_of_it),
                TEST(large_page_of_another_pcid_is_not_forgotten),
                TEST(page_flush_outside_large_pages_stays_small),
                TEST(large_page_between_two_known_ranges_is_remembered),
                TEST(neighbouring_large_pages_are_remembered_in_any_order),
                TEST(many_distant_large_pages_are_all_remembered),
                TEST(dropped_writes_are_seen_again_and_reads_stay),
                TEST(dropping_writes_reaches_kept_pcids),
                TEST(entries_do_not_come_back_when_context_numbers_do),
                TEST(kept_pcids_do_not_get_anothers_context_after_a_wrap),
                TEST(context_is_never_zero),
                TEST(random_operations_agree_with_a_naive_model),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Page-table walks: every paging mode and page size, every right, every reserved bit. The same tests run over a table of
 * shapes; what differs between them is written there, from the SDM and not from the code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "mmu/mmu.h"

#define P BIT(0)
#define W BIT(1)
#define U BIT(2)
#define A BIT(5)
#define D BIT(6)
#define PS BIT(7)
#define G BIT(8)
#define NX BIT(63)

#define RAM (1 * MIB)
#define TABLES 0x10000ULL /* the table of level n is n pages further */

/* Bits 51-46: the physical address has 46. */
#define HIGH (BIT(46) | BIT(47) | BIT(48) | BIT(49) | BIT(50) | BIT(51))
#define BITS(hi, lo) ((BIT(hi) | (BIT(hi) - 1)) & ~(BIT(lo) - 1))

struct shape {
        const char *name;
        u64 cr4, efer;
        unsigned levels, leaf; /* levels walked; the level that maps the page, 0 is the last */
        unsigned entry_size, index_bits;
        u64 gva, frame, page_size;
        u64 reserved[4]; /* by level, with EFER.NX on: SDM 3A, figures 4-4 (32-bit), 4-7 (PAE), 4-11 (4-level) */
};

static const struct shape shapes[] = {
        { "32-bit, 4 KiB", 0, 0, 2, 0, 4, 10, 0x40503123, 0x87654000, 4 * KIB, { 0, 0 } },
        { "32-bit with PSE, 4 KiB", CR4_PSE, 0, 2, 0, 4, 10, 0xffc03123, 0x87654000, 4 * KIB, { 0, 0 } },
        { "32-bit, 4 MiB", CR4_PSE, 0, 2, 1, 4, 10, 0x40503123, 0x87400000, 4 * MIB, { 0, BIT(21) } },
        { "PAE, 4 KiB", CR4_PAE, EFER_NX, 2, 0, 8, 9, 0x80745123, 0x3fff87654000, 4 * KIB,
          { HIGH | BITS(62, 52), HIGH | BITS(62, 52) } },
        { "PAE, 2 MiB", CR4_PAE, EFER_NX, 2, 1, 8, 9, 0x80745123, 0x3fff87600000, 2 * MIB,
          { 0, HIGH | BITS(62, 52) | BITS(20, 13) } },
        { "4-level, 4 KiB", CR4_PAE, EFER_NX | EFER_LMA, 4, 0, 8, 9, 0xffff923456789abc, 0x3fff87654000, 4 * KIB,
          { HIGH, HIGH, HIGH, HIGH | PS } },
        { "4-level, 2 MiB", CR4_PAE, EFER_NX | EFER_LMA, 4, 1, 8, 9, 0xffff923456789abc, 0x3fff87600000, 2 * MIB,
          { 0, HIGH | BITS(20, 13), HIGH, HIGH | PS } },
        { "4-level, 1 GiB", CR4_PAE, EFER_NX | EFER_LMA, 4, 2, 8, 9, 0x00007e3456789abc, 0x3fffc0000000, 1 * GIB,
          { 0, 0, HIGH | BITS(29, 13), HIGH | PS } },
};

struct fixture {
        pthread_mutex_t lock;
        struct guest_memory *mem;
        const struct shape *s;
        struct paging_state ps;
        struct mmu_translation tr; /* of the last successful walk */
};

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));

        pthread_mutex_init(&x->lock, NULL);
        assert_int_equal(guest_memory_new(RAM, &x->lock, NULL, &x->mem, NULL), 0);
        *state = x;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        guest_memory_free(x->mem);
        free(x);
        return 0;
}

static u64 entry_gpa(const struct fixture *x, unsigned level)
{
        const u64 index = x->s->gva >> (PAGE_SHIFT + level * x->s->index_bits) & (BIT(x->s->index_bits) - 1);

        return TABLES + level * PAGE_SIZE + index * x->s->entry_size;
}

static u64 entry(const struct fixture *x, unsigned level)
{
        u64 value = 0;

        assert_int_equal(guest_memory_read(x->mem, entry_gpa(x, level), &value, x->s->entry_size), 0);
        return value;
}

static void set_entry(struct fixture *x, unsigned level, u64 value)
{
        assert_int_equal(guest_memory_write(x->mem, entry_gpa(x, level), &value, x->s->entry_size), 0);
}

static void add_bits(struct fixture *x, unsigned level, u64 bits_)
{
        set_entry(x, level, entry(x, level) | bits_);
}

static void drop_bits(struct fixture *x, unsigned level, u64 bits_)
{
        set_entry(x, level, entry(x, level) & ~bits_);
}

/* Tables of shape @s in which everything is allowed and nothing was accessed. */
static void build(struct fixture *x, const struct shape *s)
{
        x->s = s;
        x->ps = (struct paging_state){ .cr0 = CR0_PE | CR0_PG | CR0_WP, .cr4 = s->cr4, .efer = s->efer };
        if (s->efer & EFER_LMA)
                x->ps.efer |= EFER_LME;
        x->ps.cr3 = TABLES + (s->levels - 1) * PAGE_SIZE;
        if (s->cr4 & CR4_PAE && s->levels == 2) {
                x->ps.pdpte[s->gva >> 30] = x->ps.cr3 | P;
                x->ps.cr3 = 0x8000;
        }
        for (unsigned level = s->leaf; level < s->levels; level++) {
                if (level == s->leaf)
                        set_entry(x, level, (s->frame | P | W | U | (level ? PS : 0)) & (s->entry_size == 4 ? ~0u : ~0ULL));
                else
                        set_entry(x, level, (TABLES + (level - 1) * PAGE_SIZE) | P | W | U);
        }
}

#define OK (-1)

/* OK, or the error code that the guest would see (0 is one). */
static int walk(struct fixture *x, enum mmu_access access, unsigned flags)
{
        const int r = mmu_walk(x->mem, &x->ps, x->s->gva, access, flags, &x->tr);

        if (r == 0)
                return OK;
        assert_true(r & MMU_FAULT);
        return r & ~MMU_FAULT;
}

/* What went wrong belongs into the message: most tests run over all shapes and levels. */
#define CHECK(x, condition, level)                                                                 \
        do {                                                                                       \
                if (!(condition))                                                                  \
                        fail_msg("%s, level %u: not %s", (x)->s->name, (unsigned)(level), #condition); \
        } while (0)

#define FOR_SHAPES(x) for (size_t i_ = 0; i_ < ARRAY_SIZE(shapes) && (build(x, &shapes[i_]), true); i_++)
#define FOR_LEVELS(x, level)                                                                       \
        for (unsigned level = (x)->s->leaf; level < (x)->s->levels && (build(x, (x)->s), true); level++)

static bool has_nx(const struct fixture *x)
{
        return x->s->entry_size == 8;
}

/* ---- translation ---- */

static void every_page_size_is_translated(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                CHECK(x, walk(x, MMU_READ, MMU_USER) == OK, 0);
                CHECK(x, x->tr.gpa == (x->s->frame | (x->s->gva & (x->s->page_size - 1))), 0);
                CHECK(x, x->tr.page_size == x->s->page_size, 0);
                CHECK(x, x->tr.user && x->tr.writable && x->tr.executable, 0);
        }
}

static void without_paging_addresses_are_physical(void **state)
{
        struct fixture *x = *state;

        build(x, &shapes[0]);
        x->ps.cr0 = CR0_PE;
        assert_int_equal(walk(x, MMU_WRITE, MMU_USER), OK);
        assert_true(x->tr.gpa == x->s->gva);
        assert_true(x->tr.writable && x->tr.executable && x->tr.dirty);
}

static void pse36_has_address_bits_39_to_32_in_bits_20_to_13(void **state)
{
        struct fixture *x = *state;

        build(x, &shapes[2]);
        add_bits(x, 1, 0xa5ULL << 13);
        assert_int_equal(walk(x, MMU_READ, 0), OK);
        assert_true(x->tr.gpa == (0xa5ULL << 32 | x->s->frame | (x->s->gva & (4 * MIB - 1))));
}

static void without_pse_a_large_entry_is_a_table(void **state)
{
        struct fixture *x = *state;

        build(x, &shapes[0]);
        add_bits(x, 1, PS);
        assert_int_equal(walk(x, MMU_READ, 0), OK);
        assert_true(x->tr.page_size == 4 * KIB);
}

/* Bit 12 of a large page is its PAT bit, bit 7 of a small one likewise. */
static void pat_bits_are_no_address_bits(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                add_bits(x, x->s->leaf, x->s->leaf ? BIT(12) : BIT(7));
                CHECK(x, walk(x, MMU_READ, 0) == OK, x->s->leaf);
                CHECK(x, x->tr.gpa == (x->s->frame | (x->s->gva & (x->s->page_size - 1))), x->s->leaf);
        }
}

static void low_bits_of_cr3_are_flags_or_the_pcid(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                x->ps.cr3 |= 0xfff;
                CHECK(x, walk(x, MMU_READ, 0) == OK, 0);
        }
}

static void pages_are_global_by_the_leaf_and_cr4(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                for (unsigned level = x->s->leaf + 1; level < x->s->levels; level++)
                        add_bits(x, level, G);
                x->ps.cr4 |= CR4_PGE;
                CHECK(x, walk(x, MMU_READ, 0) == OK && !x->tr.global, 0);
                add_bits(x, x->s->leaf, G);
                CHECK(x, walk(x, MMU_READ, 0) == OK && x->tr.global, 0);
                x->ps.cr4 &= ~CR4_PGE;
                CHECK(x, walk(x, MMU_READ, 0) == OK && !x->tr.global, 0);
        }
}

/* ---- not present, outside RAM ---- */

static void missing_entry_faults_at_every_level(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                FOR_LEVELS(x, level) {
                        set_entry(x, level, ~P); /* whatever else is in it, reserved bits too */
                        CHECK(x, walk(x, MMU_READ, 0) == 0, level);
                        CHECK(x, walk(x, MMU_WRITE, 0) == PF_W, level);
                        CHECK(x, walk(x, MMU_READ, MMU_USER) == PF_U, level);
                        CHECK(x, walk(x, MMU_WRITE, MMU_USER) == (PF_W | PF_U), level);
                        CHECK(x, entry(x, level) == (x->s->entry_size == 4 ? (u32)~P : ~P), level);
                }
}

static void missing_pdpte_faults(void **state)
{
        struct fixture *x = *state;

        build(x, &shapes[3]);
        x->ps.pdpte[x->s->gva >> 30] = 0;
        assert_int_equal(walk(x, MMU_WRITE, MMU_USER), PF_W | PF_U);
        assert_int_equal(walk(x, MMU_READ, MMU_PEEK), 0);
}

static void table_outside_ram_faults(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                for (unsigned level = x->s->leaf + 1; level < x->s->levels; level++) {
                        build(x, x->s);
                        set_entry(x, level, 0xfee00000 | P | W | U);
                        CHECK(x, walk(x, MMU_READ, 0) == (PF_P | PF_RSVD), level);
                        CHECK(x, walk(x, MMU_WRITE, MMU_USER) == (PF_P | PF_RSVD | PF_W | PF_U), level);
                }
        build(x, &shapes[5]);
        x->ps.cr3 = RAM;
        assert_int_equal(walk(x, MMU_READ, 0), PF_P | PF_RSVD);
}

/* ---- rights: SDM 3A, 4.6.1 ---- */

static void user_needs_the_user_bit_at_every_level(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                FOR_LEVELS(x, level) {
                        drop_bits(x, level, U);
                        CHECK(x, walk(x, MMU_READ, MMU_USER) == (PF_P | PF_U), level);
                        CHECK(x, walk(x, MMU_WRITE, MMU_USER) == (PF_P | PF_U | PF_W), level);
                        CHECK(x, walk(x, MMU_FETCH, MMU_USER) == (int)(PF_P | PF_U | (has_nx(x) ? PF_I : 0)), level);
                        CHECK(x, walk(x, MMU_WRITE, 0) == OK, level);
                        CHECK(x, walk(x, MMU_FETCH, 0) == OK && !x->tr.user, level);
                }
}

static void user_writes_need_the_write_bit_at_every_level(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                FOR_LEVELS(x, level) {
                        drop_bits(x, level, W);
                        CHECK(x, walk(x, MMU_WRITE, MMU_USER) == (PF_P | PF_U | PF_W), level);
                        x->ps.cr0 &= ~CR0_WP; /* is for supervisors only */
                        CHECK(x, walk(x, MMU_WRITE, MMU_USER) == (PF_P | PF_U | PF_W), level);
                        CHECK(x, walk(x, MMU_READ, MMU_USER) == OK && !x->tr.writable, level);
                }
}

static void supervisor_writes_obey_the_write_bit_under_wp_only(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                FOR_LEVELS(x, level) {
                        drop_bits(x, level, W);
                        CHECK(x, walk(x, MMU_WRITE, 0) == (PF_P | PF_W), level);
                        CHECK(x, walk(x, MMU_READ, 0) == OK, level);
                        x->ps.cr0 &= ~CR0_WP;
                        CHECK(x, walk(x, MMU_WRITE, 0) == OK && x->tr.dirty, level);
                }
}

static void nx_at_any_level_forbids_fetches_only(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                if (!has_nx(x))
                        continue;
                FOR_LEVELS(x, level) {
                        add_bits(x, level, NX);
                        CHECK(x, walk(x, MMU_FETCH, 0) == (PF_P | PF_I), level);
                        CHECK(x, walk(x, MMU_FETCH, MMU_USER) == (PF_P | PF_I | PF_U), level);
                        CHECK(x, walk(x, MMU_WRITE, MMU_USER) == OK && !x->tr.executable, level);
                }
        }
}

static void smep_forbids_supervisor_fetches_from_user_pages(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                x->ps.cr4 |= CR4_SMEP;
                CHECK(x, walk(x, MMU_FETCH, 0) == (PF_P | PF_I), 0);
                CHECK(x, walk(x, MMU_FETCH, MMU_USER) == OK, 0);
                CHECK(x, walk(x, MMU_READ, 0) == OK, 0);
                FOR_LEVELS(x, level) {
                        x->ps.cr4 |= CR4_SMEP;
                        drop_bits(x, level, U); /* one level is enough to make it a supervisor page */
                        CHECK(x, walk(x, MMU_FETCH, 0) == OK, level);
                }
        }
}

static void smap_forbids_supervisor_data_in_user_pages_unless_overridden(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                x->ps.cr4 |= CR4_SMAP;
                CHECK(x, walk(x, MMU_READ, 0) == PF_P, 0);
                CHECK(x, walk(x, MMU_WRITE, 0) == (PF_P | PF_W), 0);
                CHECK(x, walk(x, MMU_READ, MMU_SMAP_OVERRIDE) == OK, 0);
                CHECK(x, walk(x, MMU_WRITE, MMU_SMAP_OVERRIDE) == OK, 0);
                CHECK(x, walk(x, MMU_READ, MMU_USER) == OK, 0);
                CHECK(x, walk(x, MMU_FETCH, 0) == OK, 0); /* that is SMEP's */
                x->ps.cr0 &= ~CR0_WP;
                CHECK(x, walk(x, MMU_WRITE, 0) == (PF_P | PF_W), 0);
                FOR_LEVELS(x, level) {
                        x->ps.cr4 |= CR4_SMAP;
                        drop_bits(x, level, U);
                        CHECK(x, walk(x, MMU_WRITE, 0) == OK, level);
                }
        }
}

static void override_does_not_lift_write_protection(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                x->ps.cr4 |= CR4_SMAP;
                drop_bits(x, x->s->leaf, W);
                CHECK(x, walk(x, MMU_WRITE, MMU_SMAP_OVERRIDE) == (PF_P | PF_W), 0);
                x->ps.cr0 &= ~CR0_WP;
                CHECK(x, walk(x, MMU_WRITE, MMU_SMAP_OVERRIDE) == OK, 0);
        }
}

/* SDM 3A, 4.7: bit 4 of the error code is set only when CR4.SMEP, or CR4.PAE and EFER.NXE, is. */
static void fetch_bit_needs_smep_or_nx(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                drop_bits(x, x->s->leaf, P);
                x->ps.efer &= ~EFER_NX;
                CHECK(x, walk(x, MMU_FETCH, 0) == 0, 0);
                x->ps.efer |= EFER_NX;
                CHECK(x, walk(x, MMU_FETCH, 0) == (int)(has_nx(x) ? PF_I : 0), 0);
                x->ps.efer &= ~EFER_NX;
                x->ps.cr4 |= CR4_SMEP;
                CHECK(x, walk(x, MMU_FETCH, MMU_USER) == (PF_I | PF_U), 0);
        }
}

/* ---- reserved bits ---- */

/* Address bits of an entry that leads to a table only lead elsewhere, and PS makes another kind of entry. */
static bool changes_the_walk(const struct fixture *x, unsigned level, unsigned bit)
{
        return (level > x->s->leaf && bit >= PAGE_SHIFT && bit < MMU_MAXPHYADDR) ||
               (bit == 7 && (level == 1 || level == 2));
}

static void exactly_the_reserved_bits_fault_at_each_level(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                for (unsigned level = x->s->leaf; level < x->s->levels; level++)
                        for (unsigned bit = 1; bit < x->s->entry_size * 8; bit++) {
                                const bool reserved = x->s->reserved[level] & BIT(bit);

                                if (changes_the_walk(x, level, bit))
                                        continue;
                                build(x, x->s);
                                set_entry(x, level, entry(x, level) ^ BIT(bit));
                                if ((walk(x, MMU_READ, 0) == (PF_P | PF_RSVD)) != reserved)
                                        fail_msg("%s, level %u: bit %u", x->s->name, level, bit);
                        }
}

static void nx_bit_is_reserved_when_nx_is_off(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                if (!has_nx(x))
                        continue;
                FOR_LEVELS(x, level) {
                        x->ps.efer &= ~EFER_NX;
                        add_bits(x, level, NX);
                        CHECK(x, walk(x, MMU_READ, 0) == (PF_P | PF_RSVD), level);
                }
        }
}

/* The walk stops at the entry with the reserved bit; rights are judged after the last one. SDM 3A, 4.7. */
static void reserved_bits_come_before_rights(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                FOR_LEVELS(x, level) {
                        if (!x->s->reserved[level])
                                continue;
                        add_bits(x, level, x->s->reserved[level]);
                        drop_bits(x, level, U | W);
                        CHECK(x, walk(x, MMU_WRITE, MMU_USER) == (PF_P | PF_RSVD | PF_W | PF_U), level);
                }
}

/* ---- accessed and dirty ---- */

static void reads_set_accessed_at_every_level_and_nothing_else(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                u64 before[4];

                for (unsigned level = x->s->leaf; level < x->s->levels; level++)
                        before[level] = entry(x, level);
                CHECK(x, walk(x, MMU_READ, 0) == OK && !x->tr.dirty, 0);
                for (unsigned level = x->s->leaf; level < x->s->levels; level++)
                        CHECK(x, entry(x, level) == (before[level] | A), level);
        }
}

static void writes_set_dirty_at_the_leaf_only(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                CHECK(x, walk(x, MMU_WRITE, 0) == OK && x->tr.dirty, 0);
                for (unsigned level = x->s->leaf; level < x->s->levels; level++)
                        CHECK(x, (entry(x, level) & (A | D)) == (level == x->s->leaf ? A | D : A), level);
        }
}

static void dirty_page_is_reported_on_reads(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                add_bits(x, x->s->leaf, D);
                CHECK(x, walk(x, MMU_READ, 0) == OK && x->tr.dirty, 0);
        }
}

static void fault_leaves_the_leaf_alone(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                drop_bits(x, x->s->leaf, W);
                CHECK(x, walk(x, MMU_WRITE, 0) == (PF_P | PF_W), 0);
                CHECK(x, !(entry(x, x->s->leaf) & (A | D)), x->s->leaf);
        }
}

static void peek_ignores_rights_and_changes_nothing(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x) {
                u64 before[4];

                x->ps.cr4 |= CR4_SMAP | CR4_SMEP;
                for (unsigned level = x->s->leaf; level < x->s->levels; level++) {
                        drop_bits(x, level, U | W);
                        before[level] = entry(x, level);
                }
                CHECK(x, walk(x, MMU_WRITE, MMU_PEEK | MMU_USER) == OK, 0);
                CHECK(x, x->tr.gpa == (x->s->frame | (x->s->gva & (x->s->page_size - 1))), 0);
                for (unsigned level = x->s->leaf; level < x->s->levels; level++)
                        CHECK(x, entry(x, level) == before[level], level);
                drop_bits(x, x->s->leaf, P);
                CHECK(x, walk(x, MMU_READ, MMU_PEEK) != OK, 0);
        }
}

/* A migration must see changed page tables, and code in the same page must be decoded again. */
static void setting_bits_counts_as_a_write_to_the_table(void **state)
{
        struct fixture *x = *state;

        FOR_SHAPES(x)
                for (unsigned level = x->s->leaf; level < x->s->levels; level++) {
                        u8 *flags = guest_memory_flags(x->mem, entry_gpa(x, level));

                        build(x, x->s);
                        *flags = PAGE_CLEAN;
                        CHECK(x, walk(x, MMU_READ, 0) == OK && *flags == 0, level);
                        *flags = PAGE_CLEAN;
                        CHECK(x, walk(x, MMU_READ, 0) == OK && *flags == PAGE_CLEAN, level);
                        *flags = 0;
                }
}

/* It may tell nobody of a write, so it makes none where somebody wants to know. */
static void quick_walk_changes_no_table_with_flags(void **state)
{
        struct fixture *x = *state;
        struct mmu_translation tr;

        FOR_SHAPES(x)
                for (unsigned level = x->s->leaf; level < x->s->levels; level++) {
                        u8 *flags = guest_memory_flags(x->mem, entry_gpa(x, level));

                        build(x, x->s);
                        *flags = PAGE_WATCH;
                        CHECK(x, mmu_walk_quick(x->mem, &x->ps, x->s->gva, MMU_WRITE, 0, &tr) == MMU_SLOW, level);
                        CHECK(x, !(entry(x, level) & (A | D)), level);
                        *flags = 0;
                        CHECK(x, mmu_walk_quick(x->mem, &x->ps, x->s->gva, MMU_WRITE, 0, &tr) == 0, level);
                        CHECK(x, walk(x, MMU_READ, 0) == OK && tr.gpa == x->tr.gpa && tr.page_size == x->tr.page_size, level);
                        *flags = PAGE_WATCH; /* nothing to set any more */
                        CHECK(x, mmu_walk_quick(x->mem, &x->ps, x->s->gva, MMU_WRITE, 0, &tr) == 0, level);
                        *flags = 0;
                }
}

/* Translated code's way to a filled TLB: fills, or says what the guest or the interpreter has to do. */
static void miss_fills_or_says_why_not(void **state)
{
        const u64 page = 0x5000, gva = shapes[5].gva;
        static const struct {
                u64 leaf;
                u8 flags;
                enum mmu_access access;
                enum tlb_mode mode;
                int want;
        } rows[] = {
                { 0x5000 | P | W, 0, MMU_WRITE, TLB_KERNEL, 0 },
                { 0x5000 | P, 0, MMU_READ, TLB_KERNEL, 0 },
                { 0x5000 | P, 0, MMU_FETCH, TLB_KERNEL, 0 },
                { 0x5000 | P, 0, MMU_WRITE, TLB_KERNEL, MMU_FAULT | PF_P | PF_W },
                { 0x5000, 0, MMU_FETCH, TLB_KERNEL, MMU_FAULT | PF_I },
                { 0x5000 | P | W, 0, MMU_READ, TLB_USER, MMU_FAULT | PF_P | PF_U },
                { 0x5000 | P | W | U, 0, MMU_WRITE, TLB_USER, 0 },
                { 0x5000 | P | W | U, 0, MMU_READ, TLB_KERNEL, MMU_FAULT | PF_P },
                { 0x5000 | P | W | U, 0, MMU_READ, TLB_KERNEL_AC, MMU_SLOW },
                { 0x5000 | P | W, PAGE_WATCH, MMU_WRITE, TLB_KERNEL, MMU_SLOW },
                { 0x5000 | P | W, PAGE_WATCH, MMU_READ, TLB_KERNEL, 0 },
                { 0xfee00000 | P | W, 0, MMU_READ, TLB_KERNEL, MMU_SLOW }, /* a device */
                { 0x5000 | P | W | BIT(46), 0, MMU_READ, TLB_KERNEL, MMU_FAULT | PF_P | PF_RSVD },
        };
        struct soft_tlb *tlb = mmap(NULL, sizeof(*tlb), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct fixture *x = *state;

        assert_ptr_not_equal(tlb, MAP_FAILED);
        tlb_init(tlb);
        build(x, &shapes[5]);
        x->ps.cr4 |= CR4_SMAP;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const void *hva;

                set_entry(x, 0, rows[i].leaf);
                *guest_memory_flags(x->mem, page) = rows[i].flags;
                tlb_flush_all(tlb);
                if (tlb_miss(tlb, x->mem, &x->ps, rows[i].mode, rows[i].access, gva) != rows[i].want)
                        fail_msg("row %zu", i);
                hva = tlb_lookup(tlb, rows[i].mode, rows[i].access, gva, 1);
                if (hva != (rows[i].want ? NULL : guest_memory_hva(x->mem, page + (gva & (PAGE_SIZE - 1)), 1)))
                        fail_msg("row %zu", i);
        }
        *guest_memory_flags(x->mem, page) = 0;
        assert_int_equal(tlb_miss(tlb, x->mem, &x->ps, TLB_KERNEL, MMU_READ, BIT(47)), MMU_SLOW);
        munmap(tlb, sizeof(*tlb));
}

struct changer {
        struct fixture *x;
        bool stop, lost;
};

/* The other vCPU: replaces the leaf by one with another frame, and looks that nobody undid it. */
static void *change_leaf(void *opaque)
{
        struct changer *c = opaque;
        u64 *leaf = guest_memory_hva(c->x->mem, entry_gpa(c->x, 0), 8);
        u64 value = 0x1000 | P | W | U;

        __atomic_store_n(leaf, value, __ATOMIC_SEQ_CST);
        while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
                const u64 next = value ^ 0x3000; /* 0x1000 and 0x2000 */
                const u64 old = __atomic_exchange_n(leaf, next, __ATOMIC_SEQ_CST);

                if ((old & ~(A | D)) != value)
                        c->lost = true;
                value = next;
        }
        return NULL;
}

static void setting_bits_never_undoes_another_vcpus_change(void **state)
{
        struct fixture *x = *state;
        struct changer c = { .x = x };
        pthread_t thread;

        build(x, &shapes[5]);
        set_entry(x, 0, 0x1000 | P | W | U);
        assert_int_equal(pthread_create(&thread, NULL, change_leaf, &c), 0);
        for (unsigned i = 0; i < 200000; i++) {
                if (walk(x, MMU_WRITE, 0) != OK)
                        fail_msg("walk %u failed", i);
                if (x->tr.gpa >> PAGE_SHIFT != 1 && x->tr.gpa >> PAGE_SHIFT != 2)
                        fail_msg("walk %u found 0x%lx", i, (unsigned long)x->tr.gpa);
        }
        __atomic_store_n(&c.stop, true, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        assert_false(c.lost);
}

/* ---- PDPTEs ---- */

static void pdptes_are_read_at_a_32_byte_boundary(void **state)
{
        static const u64 values[4] = { 0x11001, 0x12019, 0, 0x3fffffff9e01 };
        struct fixture *x = *state;
        struct paging_state ps = { .cr3 = 0x80e0 | 0x1f };

        guest_memory_write(x->mem, 0x80e0, values, sizeof(values));
        assert_int_equal(mmu_load_pdptes(x->mem, &ps), 0);
        assert_memory_equal(ps.pdpte, values, sizeof(values));
}

/* SDM 3A, table 4-8: bits 2-1, 8-5 and everything from the physical address width up. */
static void reserved_pdpte_bits_are_refused_and_nothing_loaded(void **state)
{
        const u64 reserved = BIT(1) | BIT(2) | BITS(8, 5) | ~(BIT(46) - 1);
        struct fixture *x = *state;

        for (unsigned i = 0; i < 4; i++)
                for (unsigned bit = 1; bit < 64; bit++) {
                        u64 values[4] = { 0x11001, 0x11001, 0x11001, 0x11001 };
                        struct paging_state ps = { .cr3 = 0x8000, .pdpte = { 7, 7, 7, 7 } };
                        const bool bad = reserved & BIT(bit);

                        values[i] |= BIT(bit);
                        guest_memory_write(x->mem, 0x8000, values, sizeof(values));
                        assert_int_equal(mmu_load_pdptes(x->mem, &ps) < 0, bad);
                        assert_int_equal(ps.pdpte[3] == 7, bad);
                        values[i] &= ~P; /* an entry that is not present may hold anything */
                        guest_memory_write(x->mem, 0x8000, values, sizeof(values));
                        assert_int_equal(mmu_load_pdptes(x->mem, &ps), 0);
                }
}

static void pdptes_outside_ram_are_refused(void **state)
{
        struct fixture *x = *state;
        struct paging_state ps = { .cr3 = 0xfee00000 };

        assert_true(mmu_load_pdptes(x->mem, &ps) < 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(every_page_size_is_translated),
                TEST(without_paging_addresses_are_physical),
                TEST(pse36_has_address_bits_39_to_32_in_bits_20_to_13),
                TEST(without_pse_a_large_entry_is_a_table),
                TEST(pat_bits_are_no_address_bits),
                TEST(low_bits_of_cr3_are_flags_or_the_pcid),
                TEST(pages_are_global_by_the_leaf_and_cr4),
                TEST(missing_entry_faults_at_every_level),
                TEST(missing_pdpte_faults),
                TEST(table_outside_ram_faults),
                TEST(user_needs_the_user_bit_at_every_level),
                TEST(user_writes_need_the_write_bit_at_every_level),
                TEST(supervisor_writes_obey_the_write_bit_under_wp_only),
                TEST(nx_at_any_level_forbids_fetches_only),
                TEST(smep_forbids_supervisor_fetches_from_user_pages),
                TEST(smap_forbids_supervisor_data_in_user_pages_unless_overridden),
                TEST(override_does_not_lift_write_protection),
                TEST(fetch_bit_needs_smep_or_nx),
                TEST(exactly_the_reserved_bits_fault_at_each_level),
                TEST(nx_bit_is_reserved_when_nx_is_off),
                TEST(reserved_bits_come_before_rights),
                TEST(reads_set_accessed_at_every_level_and_nothing_else),
                TEST(writes_set_dirty_at_the_leaf_only),
                TEST(dirty_page_is_reported_on_reads),
                TEST(fault_leaves_the_leaf_alone),
                TEST(peek_ignores_rights_and_changes_nothing),
                TEST(setting_bits_counts_as_a_write_to_the_table),
                TEST(quick_walk_changes_no_table_with_flags),
                TEST(miss_fills_or_says_why_not),
                TEST(setting_bits_never_undoes_another_vcpus_change),
                TEST(pdptes_are_read_at_a_32_byte_boundary),
                TEST(reserved_pdpte_bits_are_refused_and_nothing_loaded),
                TEST(pdptes_outside_ram_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The page-table walk, all paging modes in one loop: a mode is a row of a table that says how many levels there are, how wide an entry
 * is and which bits of an entry are reserved. Source: Intel SDM 3A, chapter 4.
 *
 * Compiled with general registers only: translated code walks while the guest's vector registers are live. So this file calls nobody; whoever
 * must hear of a write to a page table is told by the caller (paging.c). */
#include "walk.h"

#define WALK_TRIES 16 /* when an entry changes under the walk */

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)
#define PTE_ADDR (BIT(52) - 1 - (PAGE_SIZE - 1))
#define RESERVED_PA (bits(~0ULL, 51 - MMU_MAXPHYADDR, 0) << MMU_MAXPHYADDR)

struct paging_mode {
        unsigned levels;     /* walked from cr3 (PAE: from the PDPTE) */
        unsigned entry_size; /* bytes */
        unsigned index_bits;
};

static const struct paging_mode mode_32bit = { 2, 4, 10 };
static const struct paging_mode mode_pae = { 2, 8, 9 };
static const struct paging_mode mode_4level = { 4, 8, 9 };

/* Entries are read and their A/D bits set with one atomic access each: another vCPU may be changing them. */
static u64 entry_load(const void *p, unsigned size)
{
        return size == 8 ? __atomic_load_n((const u64 *)p, __ATOMIC_RELAXED) : __atomic_load_n((const u32 *)p, __ATOMIC_RELAXED);
}

static bool entry_replace(void *p, unsigned size, u64 old, u64 value)
{
        u32 old32 = (u32)old;

        if (size == 8)
                return __atomic_compare_exchange_n((u64 *)p, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
        return __atomic_compare_exchange_n((u32 *)p, &old32, (u32)value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

enum set_result { SET_DONE, SET_CHANGED, SET_NOT_ALLOWED };

/* Sets bits of the entry @old at @gpa. */
static enum set_result entry_set_bits(const struct guest_memory *mem, u64 gpa, void *p, unsigned size, u64 old, u64 set,
                                      struct walk_notes *notes)
{
        if (!notes) {
                if (__atomic_load_n(guest_memory_flags(mem, gpa), __ATOMIC_RELAXED))
                        return SET_NOT_ALLOWED;
                return entry_replace(p, size, old, old | set) ? SET_DONE : SET_CHANGED;
        }
        if (notes->n == ARRAY_SIZE(notes->written))
                return SET_NOT_ALLOWED;
        if (!entry_replace(p, size, old, old | set))
                return SET_CHANGED;
        notes->written[notes->n++] = gpa;
        return SET_DONE;
}

/* Reserved bits of an entry at @level (0 is the last). */
static u64 reserved_bits(const struct paging_state *ps, const struct paging_mode *mode, unsigned level, u64 pte)
{
        u64 reserved;

        if (mode->entry_size == 4) {
                /* 32-bit: only a 4 MiB entry has any: bit 21, and PSE-36 address bits beyond 40 (bits 20-13 give 39-32). */
                return level == 1 && pte & PTE_PS && ps->cr4 & CR4_PSE ? BIT(21) : 0;
        }
        reserved = RESERVED_PA;
        if (mode == &mode_pae)
                reserved |= bits(~0ULL, 62 - 52, 0) << 52;
        if (!(ps->efer & EFER_NX))
                reserved |= PTE_NX;
        if (level == 3)
                reserved |= PTE_PS;
        else if (level && pte & PTE_PS)
                reserved |= (BIT(12 + level * 9) - 1) & ~(BIT(13) - 1);
        return reserved;
}

static bool is_leaf(const struct paging_state *ps, const struct paging_mode *mode, unsigned level, u64 pte)
{
        if (level == 0)
                return true;
        if (!(pte & PTE_PS))
                return false;
        if (mode->entry_size == 4)
                return ps->cr4 & CR4_PSE;
        return level <= 2;
}

/* The fault, if any, of the access given the rights of all levels together. SDM 3A, 4.6.1. */
static unsigned check_rights(const struct paging_state *ps, u64 rights, bool nx, enum mmu_access access, unsigned flags)
{
        const bool user_page = rights & PTE_U;
        const bool writable = rights & PTE_W;

        if (flags & MMU_USER) {
                if (!user_page)
                        return PF_P;
                if (access == MMU_WRITE && !writable)
                        return PF_P;
                if (access == MMU_FETCH && nx)
                        return PF_P;
                return 0;
        }
        if (access == MMU_FETCH) {
                if (nx || (user_page && ps->cr4 & CR4_SMEP))
                        return PF_P;
                return 0;
        }
        if (user_page && ps->cr4 & CR4_SMAP && !(flags & MMU_SMAP_OVERRIDE))
                return PF_P;
        if (access == MMU_WRITE && !writable && ps->cr0 & CR0_WP)
                return PF_P;
        return 0;
}

static unsigned error_code(const struct paging_state *ps, unsigned cause, enum mmu_access access, unsigned flags)
{
        unsigned code = cause;

        if (access == MMU_WRITE)
                code |= PF_W;
        if (flags & MMU_USER)
                code |= PF_U;
        /* I/D is set for fetches only when NX or SMEP is in force. SDM 3A, 4.7. */
        if (access == MMU_FETCH &&
            (ps->cr4 & CR4_SMEP || (ps->efer & EFER_NX && ps->cr4 & CR4_PAE)))
                code |= PF_I;
        return (int)code | MMU_FAULT;
}

static u64 leaf_address(const struct paging_mode *mode, unsigned level, u64 pte, u64 gva, u64 *ret_size)
{
        const unsigned shift = PAGE_SHIFT + level * mode->index_bits;
        u64 base;

        *ret_size = BIT(shift);
        if (mode->entry_size == 4) {
                base = pte & 0xfffff000u;
                if (level == 1) /* PSE-36: bits 20-13 are address bits 39-32 */
                        base = (pte & 0xffc00000u) | (bits(pte, 20, 13) << 32);
        } else {
                base = pte & PTE_ADDR;
        }
        return (base & ~(BIT(shift) - 1)) | (gva & (BIT(shift) - 1));
}

/* Where the walk starts. False: a PDPTE says "not present". */
static bool root_table(const struct paging_state *ps, const struct paging_mode *mode, u64 gva, u64 *ret)
{
        if (mode == &mode_pae) {
                const u64 pdpte = ps->pdpte[bits(gva, 31, 30)];

                *ret = pdpte & PTE_ADDR;
                return pdpte & PTE_P;
        }
        *ret = mode == &mode_32bit ? ps->cr3 & 0xfffff000u : ps->cr3 & PTE_ADDR;
        return true;
}

#define WALK_AGAIN (-2)

static int walk_once(const struct guest_memory *mem, const struct paging_state *ps, const struct paging_mode *mode, u64 gva,
                     enum mmu_access access, unsigned flags, struct walk_notes *notes, struct mmu_translation *ret)
{
        static const int failure[] = { [SET_CHANGED] = WALK_AGAIN, [SET_NOT_ALLOWED] = MMU_SLOW };
        u64 table, rights = PTE_W | PTE_U;
        bool nx = false;

        if (!root_table(ps, mode, gva, &table))
                return (int)error_code(ps, 0, access, flags);
        for (unsigned level = mode->levels - 1;; level--) {
                const unsigned shift = PAGE_SHIFT + level * mode->index_bits;
                const u64 index = (gva >> shift) & (BIT(mode->index_bits) - 1);
                const u64 entry_gpa = table + index * mode->entry_size;
                void *entry = guest_memory_hva(mem, entry_gpa, mode->entry_size);
                /* Tables outside RAM read as all ones, as an unclaimed bus does: reserved bits are set then. */
                const u64 pte = entry ? entry_load(entry, mode->entry_size) : ~0ULL;
                const bool leaf = is_leaf(ps, mode, level, pte);
                u64 set = 0;

                if (!(pte & PTE_P))
                        return (int)error_code(ps, 0, access, flags);
                if (!entry || pte & reserved_bits(ps, mode, level, pte))
                        return (int)error_code(ps, PF_P | PF_RSVD, access, flags);
                rights &= pte;
                nx |= mode->entry_size == 8 && ps->efer & EFER_NX && pte & PTE_NX;
                if (!(flags & MMU_PEEK)) {
                        const unsigned cause = leaf ? check_rights(ps, rights, nx, access, flags) : 0;

                        if (cause)
                                return (int)error_code(ps, cause, access, flags);
                        set = PTE_A | (leaf && access == MMU_WRITE ? PTE_D : 0);
                }
                if (set & ~pte) {
                        const enum set_result result = entry_set_bits(mem, entry_gpa, entry, mode->entry_size, pte, set, notes);

                        if (result != SET_DONE)
                                return failure[result];
                }
                if (!leaf) {
                        table = mode->entry_size == 4 ? pte & 0xfffff000u : pte & PTE_ADDR;
                        continue;
                }
                ret->gpa = leaf_address(mode, level, pte, gva, &ret->page_size);
                ret->user = rights & PTE_U;
                ret->writable = rights & PTE_W;
                ret->executable = !nx;
                ret->global = pte & PTE_G && ps->cr4 & CR4_PGE;
                ret->dirty = (pte | set) & PTE_D;
                ret->accessed = (pte | set) & PTE_A;
                return 0;
        }
}

int mmu_walk_noting(const struct guest_memory *mem, const struct paging_state *ps, u64 gva, enum mmu_access access, unsigned flags,
                    struct walk_notes *notes, struct mmu_translation *ret)
{
        const struct paging_mode *mode = !(ps->cr4 & CR4_PAE) ? &mode_32bit : ps->efer & EFER_LMA ? &mode_4level : &mode_pae;

        if (!(ps->cr0 & CR0_PG)) {
                *ret = (struct mmu_translation){ .gpa = gva, .page_size = PAGE_SIZE, .user = true, .writable = true,
                                                 .executable = true, .dirty = true, .accessed = true };
                return 0;
        }
        for (unsigned i = 0; i < WALK_TRIES; i++) {
                const int r = walk_once(mem, ps, mode, gva, access, flags, notes, ret);

                if (r != WALK_AGAIN)
                        return r;
        }
        return MMU_SLOW;
}

int mmu_walk_quick(const struct guest_memory *mem, const struct paging_state *ps, u64 gva, enum mmu_access access,
                   unsigned flags, struct mmu_translation *ret)
{
        return mmu_walk_noting(mem, ps, gva, access, flags, NULL, ret);
}

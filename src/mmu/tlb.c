#include <string.h>

#include "mmu.h"

#define CONTEXT_MAX 4095u

static void clear_entries(struct soft_tlb *tlb)
{
        memset(tlb->entries, 0, sizeof(tlb->entries));
}

/* A context number that no entry carries. */
static u64 context_new(struct soft_tlb *tlb)
{
        if (tlb->next_context > CONTEXT_MAX) {
                clear_entries(tlb);
                memset(tlb->kept, 0, sizeof(tlb->kept));
                tlb->next_context = 1;
                tlb->wraps++;
        }
        return tlb->next_context++;
}

static void forget_large(struct soft_tlb *tlb)
{
        for (size_t i = 0; i < TLB_LARGE_RANGES; i++) {
                tlb->large[i].lo = ~0ULL;
                tlb->large[i].hi = 0;
        }
}

/* Whether one range holds all of [lo, hi]. */
static bool in_large(const struct soft_tlb *tlb, u64 lo, u64 hi)
{
        for (size_t i = 0; i < TLB_LARGE_RANGES; i++)
                if (lo >= tlb->large[i].lo && hi <= tlb->large[i].hi)
                        return true;
        return false;
}

/* Enters [lo, hi] into the first range that is empty or within 64 GiB of it; the last range takes what is left. */
static void remember_large(struct soft_tlb *tlb, u64 lo, u64 hi)
{
        const u64 near = 64 * GIB;

        if (in_large(tlb, lo, hi))
                return;
        for (size_t i = 0; i < TLB_LARGE_RANGES; i++) {
                const bool empty = tlb->large[i].lo > tlb->large[i].hi;
                const u64 below = tlb->large[i].lo > hi ? tlb->large[i].lo - hi : 0;
                const u64 above = lo > tlb->large[i].hi ? lo - tlb->large[i].hi : 0;

                if (!empty && i < TLB_LARGE_RANGES - 1 && (below > near || above > near))
                        continue;
                tlb->large[i].lo = empty ? lo : MIN(tlb->large[i].lo, lo);
                tlb->large[i].hi = empty ? hi : MAX(tlb->large[i].hi, hi);
                return;
        }
}

void tlb_init(struct soft_tlb *tlb)
{
        memset(tlb, 0, sizeof(*tlb));
        tlb->next_context = 1;
        tlb->context = context_new(tlb);
        forget_large(tlb);
}

void tlb_flush_all(struct soft_tlb *tlb)
{
        memset(tlb->kept, 0, sizeof(tlb->kept));
        tlb->context = context_new(tlb);
        forget_large(tlb);
}

void tlb_flush_context(struct soft_tlb *tlb)
{
        for (size_t i = 0; i < ARRAY_SIZE(tlb->kept); i++)
                if (tlb->kept[i].context == tlb->context)
                        tlb->kept[i].context = 0;
        tlb->context = context_new(tlb);
        /* The large ranges stay: entries of kept contexts may still be part of large pages. */
}

void tlb_flush_page(struct soft_tlb *tlb, u64 gva)
{
        if (in_large(tlb, gva, gva)) {
                tlb_flush_all(tlb);
                return;
        }
        /* The slot is the same in every context, so this takes out global translations of other address spaces as well. */
        for (unsigned mode = 0; mode < TLB_MODES; mode++)
                memset(tlb_entry_of(tlb, mode, gva), 0, sizeof(struct tlb_entry));
}

void tlb_flush_pcid(struct soft_tlb *tlb, u16 pcid)
{
        for (size_t i = 0; i < ARRAY_SIZE(tlb->kept); i++) {
                if (!tlb->kept[i].context || tlb->kept[i].pcid != pcid)
                        continue;
                if (tlb->kept[i].context == tlb->context)
                        tlb->context = context_new(tlb);
                tlb->kept[i].context = 0;
        }
}

void tlb_switch_pcid(struct soft_tlb *tlb, u16 pcid, bool keep)
{
        size_t slot = ARRAY_SIZE(tlb->kept);

        for (size_t i = 0; i < ARRAY_SIZE(tlb->kept); i++)
                if (tlb->kept[i].context && tlb->kept[i].pcid == pcid)
                        slot = i;
        if (slot < ARRAY_SIZE(tlb->kept) && keep) {
                tlb->context = tlb->kept[slot].context;
                return;
        }
        tlb->context = context_new(tlb);
        if (slot == ARRAY_SIZE(tlb->kept))
                slot = tlb->kept_next++ % ARRAY_SIZE(tlb->kept);
        tlb->kept[slot].pcid = pcid;
        tlb->kept[slot].context = (u16)tlb->context;
}

void tlb_drop_writes(struct soft_tlb *tlb, const void *page_hva)
{
        for (unsigned mode = 0; mode < TLB_MODES; mode++) {
                for (unsigned i = 0; i < TLB_SIZE; i++) {
                        struct tlb_entry *e = &tlb->entries[mode][i];
                        const u64 gva = e->tag[MMU_WRITE] & PAGE_MASK;

                        if (e->tag[MMU_WRITE] != TLB_NO_TAG && (void *)(uintptr_t)(gva + e->addend) == page_hva)
                                e->tag[MMU_WRITE] = TLB_NO_TAG;
                }
        }
}

void tlb_fill(struct soft_tlb *tlb, enum tlb_mode mode, enum mmu_access access, u64 gva, void *hva,
              const struct mmu_translation *tr, bool writable_now)
{
        struct tlb_entry *e = tlb_entry_of(tlb, mode, gva);
        const u64 tag = (gva & PAGE_MASK) | tlb->context;
        const u64 addend = ((uintptr_t)hva & PAGE_MASK) - (gva & PAGE_MASK);
        const bool same = e->addend == addend &&
                          (e->tag[MMU_READ] == tag || e->tag[MMU_WRITE] == tag || e->tag[MMU_FETCH] == tag);

        if (!same) {
                e->tag[MMU_READ] = e->tag[MMU_WRITE] = e->tag[MMU_FETCH] = TLB_NO_TAG;
                e->addend = addend;
        }
        if (access == MMU_FETCH) {
                e->tag[MMU_FETCH] = tag;
        } else {
                e->tag[MMU_READ] = tag;
                if (writable_now)
                        e->tag[MMU_WRITE] = tag;
        }
        if (tr->page_size > PAGE_SIZE)
                remember_large(tlb, gva & ~(tr->page_size - 1), gva | (tr->page_size - 1));
}

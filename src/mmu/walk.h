/* Between walk.c, which may use general registers only and call nobody, and paging.c, which tells of what the walk wrote. */
#pragma once

#include "mmu.h"

/* Page-table entries whose accessed or dirty bits a walk has set: their pages may have flags. */
struct walk_notes {
        u64 written[8]; /* guest-physical addresses */
        unsigned n;
};

/* mmu_walk; with @notes NULL, mmu_walk_quick. MMU_SLOW: an entry keeps changing, or @notes are full; another walk may succeed. */
int mmu_walk_noting(const struct guest_memory *mem, const struct paging_state *ps, u64 gva, enum mmu_access access, unsigned flags,
                    struct walk_notes *notes, struct mmu_translation *ret);

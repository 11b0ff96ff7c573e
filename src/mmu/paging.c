/* What surrounds the walk: telling the others of what it wrote, and the PAE page-directory pointers. */
#include <errno.h>
#include <sched.h>

#include "walk.h"

#define WALK_ROUNDS 100
#define PDPTE_P BIT(0)

int mmu_walk(struct guest_memory *mem, const struct paging_state *ps, u64 gva, enum mmu_access access, unsigned flags,
             struct mmu_translation *ret)
{
        for (unsigned round = 0; round < WALK_ROUNDS; round++) {
                struct walk_notes notes = { .n = 0 };
                const int r = mmu_walk_noting(mem, ps, gva, access, flags, &notes, ret);

                for (unsigned i = 0; i < notes.n; i++)
                        guest_memory_written(mem, notes.written[i], 4);
                if (r != MMU_SLOW)
                        return r;
                sched_yield();
        }
        /* Other vCPUs do nothing but change the entries: they have no value to go by, so they count as not present. */
        return MMU_FAULT | (access == MMU_WRITE ? PF_W : 0) | (flags & MMU_USER ? PF_U : 0);
}

int mmu_load_pdptes(struct guest_memory *mem, struct paging_state *ps)
{
        u64 pdpte[4];

        if (guest_memory_read(mem, ps->cr3 & 0xffffffe0u, pdpte, sizeof(pdpte)) < 0)
                return -EINVAL;
        for (unsigned i = 0; i < 4; i++)
                /* SDM 3A, table 4-8: bits 2:1, 8:5 and 63:MAXPHYADDR are reserved. */
                if (pdpte[i] & PDPTE_P && pdpte[i] & (0x1e6 | (~0ULL << MMU_MAXPHYADDR)))
                        return -EINVAL;
        for (unsigned i = 0; i < 4; i++)
                ps->pdpte[i] = pdpte[i];
        return 0;
}

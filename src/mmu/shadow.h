/* Shadow windows: a guest's user address space mapped into ours by the host's MMU, so that a guest access is a host access.
 *
 * A window is a shadow page table that is kept with mmap(2): guest page G of the address space is shown at G + bias, from the same memfd that the RAM's
 * slots map. Like a TLB it holds translations that the page tables had once and is told what the guest flushes; unlike one it holds them all, so what a
 * flush names is not forgotten but looked up again (shadow_sync), and a full flush costs a walk for each page instead of a fault.
 *
 * There is one per vCPU, for one address space at a time. Two ranges of guest addresses are shown: *low*, where programs with a fixed address live, and
 * *high*, where position-independent ones, libraries, mmaps and stacks are (Linux, 47-bit addresses). Each lies between guards, so code may
 * check a base register alone and add any 32-bit displacement and an index that it knows to be a 32-bit number, signed or not, times 8.
 *
 * What is not shown faults; shadow_fault then looks into the guest's tables and shows the page and its neighbours, or says that it is the guest's fault.
 * A page is writable only if a write needs nobody's attention: writable and dirty in the tables, and without page flags (memory.h). */
#pragma once

#include "mmu.h"

#define SHADOW_LOW_END BIT(31)              /* [0, end) */
#define SHADOW_HIGH_START (0x55ULL << 40)   /* Linux puts position-independent programs right above 0x5555'5555'4000 */
#define SHADOW_HIGH_END BIT(47)
/* A base that was compared with the high range may have moved since by what one access's index and displacement can take back (emit_prologue.c): 34 GiB; the
 * next access adds as much. */
#define SHADOW_GUARD (128 * GIB)
/* The low range is shown here if nobody else in the process has it: so near to the guest's own addresses that code can say it in a displacement. */
#define SHADOW_LOW_FIXED GIB

/* Probes: below a fixed low range there are pages for comparing an address with a range by one load, which faults when it is elsewhere and destroys no
 * flags. The load's address is the lower half of the address that was rotated right. For the high range bits 40-59 name the load's page, of which 55h-7Fh can
 * be read; for the low range bits 31-50, SHADOW_PROBE_LOW further on, of which 0 can. Nothing else can be read up to SHADOW_PROBE_END, nor right below
 * 4 GiB: there the guards are. A load that happens to read elsewhere had bits 47 and above of which not all are the same: the access itself faults. */
#define SHADOW_PROBE_HIGH_ROTATE 28
#define SHADOW_PROBE_LOW_ROTATE 19
#define SHADOW_PROBE_LOW MIB
#define SHADOW_PROBE_END (SHADOW_PROBE_LOW + BIT(28))

enum shadow_range { SHADOW_LOW, SHADOW_HIGH, SHADOW_NONE };

static inline enum shadow_range shadow_range_of(u64 gva)
{
        if (gva < SHADOW_LOW_END)
                return SHADOW_LOW;
        return gva - SHADOW_HIGH_START < SHADOW_HIGH_END - SHADOW_HIGH_START ? SHADOW_HIGH : SHADOW_NONE;
}

struct shadow_page {
        u64 gva;      /* of the page; 2 MiB ones are aligned */
        u64 gpa;
        u32 next_gva; /* in the hash chains; index + 1, 0: none. Free ones are chained by next_gva */
        u32 next_gpa;
        bool writable, large, used;
};

#define SHADOW_HASH_BITS 12

struct shadow {
        u64 bias[2];       /* by enum shadow_range: host address = guest address + bias */
        void *region[2];   /* address space reserved, guards included */
        u64 region_size[2];
        u64 cr3;           /* of the address space that is shown */
        struct shadow_page *pages;
        unsigned n_pages, max_pages; /* slots in use at most so far; room */
        u32 free;
        bool pieces;       /* parts of large pages are shown as small ones */
        u32 by_gva[1u << SHADOW_HASH_BITS], by_gpa[1u << SHADOW_HASH_BITS];
        u64 kept, dropped; /* pages, since the beginning, that were still right after a flush; that were not */
};

/* NULL when the host has no address space to spare, or for other reasons cannot: then there is no window, which is no error. @pages_max: the host limits
 * a process's mappings, a page may need two. */
struct shadow *shadow_new(unsigned pages_max);
struct shadow *shadow_free(struct shadow *s);

/* The low range is at its guest address + SHADOW_LOW_FIXED. */
static inline bool shadow_is_fixed(const struct shadow *s)
{
        return s->bias[SHADOW_LOW] == SHADOW_LOW_FIXED;
}

/* The load at @host of a probe for @range faulted: where the address is. */
enum shadow_range shadow_probe_missed(u64 host, enum shadow_range range);

/* Whether the host address is in one of the window's ranges; *ret_gva is the guest's then. */
bool shadow_contains(const struct shadow *s, u64 host, u64 *ret_gva);

/* The guest's user code of @tlb->shadowed faulted at @gva. Async-signal-safe; on the vCPU's thread. */
enum shadow_result {
        SHADOW_SHOWN,       /* it would not fault again */
        SHADOW_GUEST_FAULT, /* the guest's tables do not allow it, or may not allow all of it */
        SHADOW_CANNOT,      /* device memory, a write to a page with flags, a page size that is not supported */
};
enum shadow_result shadow_fault(struct shadow *s, const struct guest_memory *mem, const struct paging_state *ps, u64 gva, bool write);

/* Shows the current address space from now on, beginning with nothing. */
void shadow_take(struct shadow *s, struct soft_tlb *tlb, const struct paging_state *ps);
/* Shows nothing. */
void shadow_drop(struct shadow *s, struct soft_tlb *tlb);
/* Before user code of the shown address space runs and tlb->shadow_stale says that something was flushed: looks again at what. False: another address
 * space has taken the place, nothing is shown any more. */
bool shadow_sync(struct shadow *s, struct soft_tlb *tlb, const struct guest_memory *mem, const struct paging_state *ps);

/* Address translation: guest page-table walks and the soft TLB.
 *
 * Words: gva is a guest linear address, gpa guest-physical, hva an address in this process. */
#pragma once

#include "memory.h"

/* Architectural bits. Source: Intel SDM 3A, 2.5 and 4.1-4.7. */
#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)
#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NX BIT(11)

/* Page-fault error code bits. Source: SDM 3A, 4.7. */
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

#define MMU_MAXPHYADDR 46

/* The registers that decide how linear addresses are translated. */
struct paging_state {
        u64 cr0, cr3, cr4, efer;
        u64 pdpte[4]; /* PAE mode: loaded by MOV to CR3 (SDM 3A, 4.4.1) */
};

enum mmu_access {
        MMU_READ = 0,
        MMU_WRITE = 1,
        MMU_FETCH = 2,
};

enum {
        MMU_USER = 1,        /* the access is a user-mode access (CPL 3, not an implicit supervisor access) */
        MMU_SMAP_OVERRIDE = 2, /* EFLAGS.AC is set and the access is explicit: SMAP does not apply */
        MMU_PEEK = 4,        /* a debugger looks: no permissions checked, no accessed or dirty bit set */
};

struct mmu_translation {
        u64 gpa;       /* of the address itself */
        u64 page_size; /* bytes of the guest page */
        bool user, writable, executable, global, dirty;
};

/* Walks the guest page tables for @gva (32-bit, PAE or 4-level as @ps says; identity without CR0.PG). Sets accessed and dirty
 * bits as the processor does. Returns 0 and fills @ret, or a positive page-fault error code | MMU_FAULT.
 * Runs on the vCPU's own thread. Source: SDM 3A, chapter 4. */
#define MMU_FAULT 0x10000
int mmu_walk(struct guest_memory *mem, const struct paging_state *ps, u64 gva, enum mmu_access access, unsigned flags,
             struct mmu_translation *ret);

/* PAE: reads the four PDPTEs at cr3. 0, or -EINVAL when one has reserved bits set (#GP). */
int mmu_load_pdptes(struct guest_memory *mem, struct paging_state *ps);

static inline bool mmu_is_canonical(u64 gva)
{
        return (u64)((s64)(gva << 16) >> 16) == gva;
}

/* ---- the soft TLB ----
 *
 * One per vCPU and used by its thread alone. Direct-mapped, 4 KiB granules. An entry answers for reads when
 * tag[MMU_READ] matches and for writes when tag[MMU_WRITE] matches; tags carry the page number and, in their low 12
 * bits, the context they were filled in, so that an address-space switch or flush is a new context number and not a sweep.
 * Only RAM that needs no slow path gets a tag: device memory, watched pages and pages with page flags (for writes) never match.
 *
 * There is one array for each way of accessing memory: user, supervisor, supervisor with EFLAGS.AC under SMAP. */
#ifndef TLB_BITS
#define TLB_BITS 11
#endif
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_LARGE_RANGES 4

enum tlb_mode { TLB_KERNEL, TLB_USER, TLB_KERNEL_AC, TLB_MODES };

struct tlb_entry {
        u64 tag[3];   /* by enum mmu_access: page address | context; TLB_NO_TAG matches nothing */
        u64 addend;   /* hva = gva + addend */
};

#define TLB_NO_TAG 0ULL /* context 0 is never used */

struct soft_tlb {
        struct tlb_entry entries[TLB_MODES][TLB_SIZE];
        u64 context;         /* 1..4095, of the current address space */
        u64 next_context;
        /* Contexts kept for PCIDs: which context belongs to which (PCID), 0 when none. */
        struct {
                u16 pcid;
                u16 context;
        } kept[8];
        unsigned kept_next;
        /* Ranges that hold every entry that is part of a larger guest page: INVLPG inside one must flush everything. A few, so that
         * the kernel's direct map and its text do not make one range of all that lies between them. */
        struct {
                u64 lo, hi; /* hi is the last byte; lo > hi: empty */
        } large[TLB_LARGE_RANGES];
        u64 wraps;           /* times the context numbers started again: whoever stores contexts must forget them then */
};

static inline struct tlb_entry *tlb_entry_of(struct soft_tlb *tlb, enum tlb_mode mode, u64 gva)
{
        return &tlb->entries[mode][(gva >> PAGE_SHIFT) & (TLB_SIZE - 1)];
}

/* The host address for an access that stays inside one page, NULL on a miss. */
static inline void *tlb_lookup(struct soft_tlb *tlb, enum tlb_mode mode, enum mmu_access access, u64 gva)
{
        const struct tlb_entry *e = tlb_entry_of(tlb, mode, gva);

        if (likely(e->tag[access] == ((gva & PAGE_MASK) | tlb->context)))
                return (void *)(uintptr_t)(gva + e->addend);
        return NULL;
}

void tlb_init(struct soft_tlb *tlb);
/* Forgets everything, all address spaces. */
void tlb_flush_all(struct soft_tlb *tlb);
/* Forgets the current address space (its contexts for other PCIDs stay). */
void tlb_flush_context(struct soft_tlb *tlb);
/* INVLPG: @gva in the current address space and, being possibly global, in every other. */
void tlb_flush_page(struct soft_tlb *tlb, u64 gva);
/* MOV to CR3 with CR4.PCIDE: switches to @pcid; @keep is bit 63 of the source (do not flush it). */
void tlb_switch_pcid(struct soft_tlb *tlb, u16 pcid, bool keep);
/* Invalidates one PCID that is not the current one (INVPCID type 1; type 0 may use it too): the TLB does not know which PCID is current,
 * for that one the caller uses tlb_flush_context. */
void tlb_flush_pcid(struct soft_tlb *tlb, u16 pcid);
/* Takes the write permission from every entry, so that the next write to each page is seen (a page became code or clean). */
void tlb_drop_writes(struct soft_tlb *tlb, const void *page_hva);
/* Enters a translation that the walk found; @hva is the page's host address. @writable_now: writes may go fast. */
void tlb_fill(struct soft_tlb *tlb, enum tlb_mode mode, enum mmu_access access, u64 gva, void *hva,
              const struct mmu_translation *tr, bool writable_now);

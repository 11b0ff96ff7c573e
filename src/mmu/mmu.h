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
        bool user, writable, executable, global, dirty, accessed;
};

/* Walks the guest page tables for @gva (32-bit, PAE or 4-level as @ps says; identity without CR0.PG). Sets accessed and dirty
 * bits as the processor does. Returns 0 and fills @ret, or a positive page-fault error code | MMU_FAULT.
 * Runs on the vCPU's own thread. Source: SDM 3A, chapter 4. */
#define MMU_FAULT 0x10000
int mmu_walk(struct guest_memory *mem, const struct paging_state *ps, u64 gva, enum mmu_access access, unsigned flags,
             struct mmu_translation *ret);

/* The same with general registers only and no call but to itself, for translated code whose vector registers are live: where it would have
 * to tell somebody of a write to a page table, or an entry keeps changing, it does nothing and returns MMU_SLOW. Only on the thread of
 * a vCPU that runs guest code: who marks a page waits for it (memory.h), so "no flag, so write" needs no second look. */
#define MMU_SLOW (-1)
int mmu_walk_quick(const struct guest_memory *mem, const struct paging_state *ps, u64 gva, enum mmu_access access,
                   unsigned flags, struct mmu_translation *ret);

/* PAE: reads the four PDPTEs at cr3. 0, or -EINVAL when one has reserved bits set (#GP). */
int mmu_load_pdptes(struct guest_memory *mem, struct paging_state *ps);

static inline bool mmu_is_canonical(u64 gva)
{
        return (u64)((s64)(gva << 16) >> 16) == gva;
}

/* ---- the soft TLB ----
 *
 * One per vCPU and used by its thread alone; all of it works with general registers only (translated code calls it). The interpreter and
 * translated code look into the same tables.
 *
 * A table is direct-mapped by gva bits 12-23. Entry e answers an access of n bytes at gva when gva - e->base[access] <= 4096 - n
 * (unsigned); the host address is e->page + that difference. So one comparison tells page, right and crossing, and an entry
 * of zeros answers nothing - but for entry 0, whose empty base is 4096. Only RAM that needs no slow path has a base: device memory, watched
 * pages and pages with page flags (for writes) never do.
 *
 * What one page displaces goes to the table's victims, hashed by the whole page number: translated code looks there before it calls tlb_miss, which
 * looks there before it walks.
 *
 * There is one table for supervisor accesses and one for the user accesses of each address space that is kept, so switching is a pointer. Kernel
 * accesses with EFLAGS.AC under SMAP look by address: bit 63 clear, into the space (what is there, user code may do, hence the kernel with
 * AC may too); set, into the kernel's (what is there needs no AC). What fits neither rule is not entered.
 *
 * A table also has a cache of jump targets for translated code. A jump lives as long as the fetch translation of its page: from tlb_fill with
 * MMU_FETCH to the flush of that page, whatever entry has been replaced meanwhile. What one jump displaces goes to a second, hashed cache. */
#define TLB_BITS 12
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_VICTIMS 256u
#define TLB_ENTRIES (TLB_SIZE + TLB_VICTIMS)
#define TLB_JUMPS 16384u
#define TLB_MORE_JUMPS 4096u /* of each kind */
#define TLB_SPACES 8
#define TLB_SPACES_FEW 2 /* tlb_begin_small */
#define TLB_HUGE_PAGES 8
#define TLB_WRITERS 4

#define TLB_FACTOR 0x5bd1e995u /* of hashes that are computed in assembly: an odd number of 31 bits */

/* How memory is accessed. */
enum tlb_mode { TLB_KERNEL, TLB_USER, TLB_KERNEL_AC, TLB_MODES };

struct tlb_entry {
        u64 base[3];  /* by enum mmu_access: address of the guest page; empty: 0, in entry 0: 4096 */
        u64 page;     /* host address of the page */
};

struct tlb_jump {
        u64 rip;          /* the slot is its low 14 bits; empty: 0, in slot 0: 1. In more_jumps: tlb_more_slot(); empty: 0, in slots 0: BIT(36) */
        const void *code;
};
/* To ordinary code; to code for EFLAGS.AC; to an instruction that goes on in the next page, which has been fetched from as well. The last two are in
 * more_jumps only. */
enum tlb_jump_kind { TLB_JUMP, TLB_JUMP_AC, TLB_JUMP_CROSSING, TLB_JUMP_KINDS };
#define TLB_MORE_SHIFT 36
static inline unsigned tlb_more_slot(u64 rip)
{
        return (unsigned)(rip * TLB_FACTOR >> TLB_MORE_SHIFT) & (TLB_MORE_JUMPS - 1);
}

/* A set of up to 4096 small numbers that is cheap to go through and to empty. */
struct tlb_set {
        u64 words_used;   /* bit n: words[n] is not 0 */
        u64 words[64];
};

/* What the translator knows of a space's program (translate/shadowing.c). */
struct tlb_heat {
        u64 cr3;           /* of the program that this is about */
        u32 ticks;         /* in its user code */
        u32 ban, bans;     /* ticks that it may not have the shadow window; how often that was so */
        u32 in_row;        /* the latest ticks, so many, found it near this code: guest-physical address */
        u64 place;
};

struct tlb_table {
        struct tlb_entry entries[TLB_ENTRIES]; /* from TLB_SIZE on: the victims */
        struct tlb_jump jumps[TLB_JUMPS];
        struct tlb_jump more_jumps[TLB_JUMP_KINDS * TLB_MORE_JUMPS];
        /* Entry and jump cache lines (64 bytes) that are not empty: clearing costs what was used. */
        struct tlb_set entry_lines, jump_lines, more_lines;
        struct tlb_set exec;     /* gva bits 12-23 of the pages that have had a fetch translation since the last flush */
        bool exec_half[2];       /* by gva bit 63: any of them in that half? So user pages' flushes spare the kernel's code */
        struct tlb_set large;    /* hashes of the 4 MiB regions with entries that are part of a larger guest page */
        u64 huge[TLB_HUGE_PAGES]; /* addresses >> 30 of guest pages of 1 GiB with entries */
        unsigned n_huge;         /* more than TLB_HUGE_PAGES: there are others */
        u64 generation;          /* of its fetch translations: a new number when others than those of the page of tlb_flush_page went */
        u32 jump_mode;           /* the translator's: which mode the code of the jumps is for */
        struct tlb_heat heat;    /* the translator's: how busy the user code of this space is */
        u64 last_used;           /* spaces only: a number that grows */
        u16 pcid;                /* spaces only */
        bool used;               /* spaces only: belongs to pcid */
} __attribute__((aligned(4096)));

/* What was flushed of the address space that a shadow window shows (shadow.h) since it was last looked at. */
#define TLB_STALE_MAX 62
struct tlb_stale {
        bool all;      /* any of it */
        u32 n;
        u64 pages[TLB_STALE_MAX]; /* guest addresses; with TLB_STALE_WRITES: pages of the host that may not be written unseen any more */
};
#define TLB_STALE_WRITES 1u

struct soft_tlb {
        struct tlb_table kernel;
        struct tlb_table spaces[TLB_SPACES];
        struct tlb_table *space;    /* the current one */
        unsigned n_spaces;          /* that may be taken for PCIDs */
        unsigned missed;            /* PCIDs that came back after they had lost their space, since n_spaces was chosen */
        u64 switches;
        u64 next_generation;
        struct tlb_table *shadowed; /* the space that a shadow window shows, or NULL */
        struct tlb_stale shadow_stale;
        struct tlb_set non_global;  /* entries of kernel that an address-space switch drops */
        bool non_global_victims;    /* it drops the kernel's victims as well */
        bool non_global_exec;       /* it drops kernel jumps as well */
        /* Where pages are written through, by hash of the host page: 1 + table * TLB_ENTRIES + index, table TLB_SPACES being the kernel's. A hint,
         * looked up before it is believed; TLB_MANY in the first: could be anywhere. */
        u16 writers[4096][TLB_WRITERS];
        /* Called when fetch translations of the kernel table are flushed, so that code linked across pages can be cut: of the page @gva, or
         * of all (@gva = TLB_ALL). General registers only. May be NULL. */
        void (*kernel_exec_flushed)(void *opaque, u64 gva);
        void *opaque;
};
#define TLB_MANY 0xffff
#define TLB_ALL (~0ULL)

static inline unsigned tlb_index(u64 gva)
{
        return (unsigned)(gva >> PAGE_SHIFT) & (TLB_SIZE - 1);
}

#define TLB_VICTIM_SHIFT 36
/* The index in entries of the victim of @page, a page's address. */
static inline unsigned tlb_victim(u64 page)
{
        return TLB_SIZE + ((unsigned)(page * TLB_FACTOR >> TLB_VICTIM_SHIFT) & (TLB_VICTIMS - 1));
}

static inline struct tlb_table *tlb_table_of(struct soft_tlb *tlb, enum tlb_mode mode, u64 gva)
{
        return mode == TLB_KERNEL || (mode == TLB_KERNEL_AC && gva >> 63) ? &tlb->kernel : tlb->space;
}

/* The host address for an access of 1..4096 bytes at @gva, NULL on a miss or when it leaves the page. */
static inline void *tlb_entry_hit(const struct tlb_entry *entries, enum mmu_access access, u64 gva, unsigned size)
{
        const struct tlb_entry *e = &entries[tlb_index(gva)];
        const u64 offset = gva - e->base[access];

        return likely(offset <= PAGE_SIZE - size) ? (void *)(uintptr_t)(e->page + offset) : NULL;
}
static inline void *tlb_lookup(struct soft_tlb *tlb, enum tlb_mode mode, enum mmu_access access, u64 gva, unsigned size)
{
        return tlb_entry_hit(tlb_table_of(tlb, mode, gva)->entries, access, gva, size);
}

/* The current address space is shown by a shadow window. */
static inline bool tlb_is_shadowed(const struct soft_tlb *tlb)
{
        return tlb->shadowed == tlb->space;
}
static inline bool tlb_shadow_is_stale(const struct soft_tlb *tlb)
{
        return tlb->shadow_stale.all || tlb->shadow_stale.n;
}

static inline unsigned tlb_walk_flags(enum tlb_mode mode)
{
        return mode == TLB_USER ? MMU_USER : mode == TLB_KERNEL_AC ? MMU_SMAP_OVERRIDE : 0;
}

/* @tlb is zeroed memory of its own pages (mmap): most of it is never touched. */
void tlb_init(struct soft_tlb *tlb);
/* At first for few address spaces, each of which takes half a MiB when it is busy: machines of which there are many. */
void tlb_begin_small(struct soft_tlb *tlb);

/* Walks for an access to the byte at @gva and enters what it found. 0: the access would hit now. > 0: page-fault error code | MMU_FAULT. < 0: not for
 * the fast path (device memory, a write to a page with flags, not canonical, not enterable): the interpreter does it. General registers only;
 * on the vCPU's thread; the caller knows that no breakpoint is set. */
int tlb_miss(struct soft_tlb *tlb, const struct guest_memory *mem, const struct paging_state *ps, enum tlb_mode mode,
             enum mmu_access access, u64 gva);
/* Enters a translation that the walk found for this access; @hva is the byte's host address. @flagged: the page has flags, writes may not go
 * fast. True: the access would hit now. */
bool tlb_fill(struct soft_tlb *tlb, const struct paging_state *ps, enum tlb_mode mode, enum mmu_access access, u64 gva,
              const void *hva, const struct mmu_translation *tr, bool flagged);

/* Forgets everything, all address spaces, global or not: CR4.PGE, CR0.PG and such; INVPCID type 2. */
void tlb_flush_all(struct soft_tlb *tlb);
/* Forgets everything but global supervisor translations: INVPCID type 3. */
void tlb_flush_non_global(struct soft_tlb *tlb);
/* Forgets the current address space, those kept for other PCIDs stay: MOV to CR3 without CR4.PCIDE. */
void tlb_flush_context(struct soft_tlb *tlb);
/* INVLPG, INVPCID type 0: @gva in every address space, which is more than either asks for and what a global page needs. */
void tlb_flush_page(struct soft_tlb *tlb, u64 gva);
/* MOV to CR3 with CR4.PCIDE: switches to @pcid; @keep is bit 63 of the source (do not flush it). */
void tlb_switch_pcid(struct soft_tlb *tlb, u16 pcid, bool keep);
/* INVPCID type 1 for a PCID that is not the current one: the TLB does not always know which that is, for it there is tlb_flush_context. */
void tlb_flush_pcid(struct soft_tlb *tlb, u16 pcid);
/* Takes the write permission for a page of the host from every entry, so that the next write is seen (it became code or clean). */
void tlb_drop_writes(struct soft_tlb *tlb, const void *page_hva);

/* ---- jumps of translated code ---- */

static inline const void *tlb_jump_find(const struct tlb_table *table, u64 rip)
{
        const struct tlb_jump *jump = &table->jumps[rip % TLB_JUMPS], *more = &table->more_jumps[tlb_more_slot(rip)];

        return jump->rip == rip ? jump->code : more->rip == rip ? more->code : NULL;
}
/* Right after a fetch from @rip's page was translated in @table (by tlb_miss, tlb_fill or a hit). */
void tlb_jump_enter(struct tlb_table *table, u64 rip, const void *code);
/* Forgets the more_jumps of all tables: some are to blocks that were dropped. */
void tlb_more_jumps_clear(struct soft_tlb *tlb);
/* The same as tlb_jump_enter, into more_jumps alone. */
void tlb_jump_enter_more(struct tlb_table *table, enum tlb_jump_kind kind, u64 rip, const void *code);
/* Forgets the jumps to @code in all tables, at whatever address the page of it is mapped; @page_offset is that of its first guest byte. */
void tlb_jump_forget(struct soft_tlb *tlb, unsigned page_offset, const void *code);
/* Forgets the jumps of @table. */
void tlb_jumps_clear_of(struct tlb_table *table);
/* Forgets all jumps (the code cache was emptied, or what blocks were made for has changed). */
void tlb_jumps_clear(struct soft_tlb *tlb);

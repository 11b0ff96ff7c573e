/* What runs translated code: the machine's code cache and stubs, and each vCPU's part. The translator proper (internal.h) turns bytes into
 * code and knows nothing of this.
 *
 * Life of a block. The outer loop finds no code for in->rip, fetches the bytes (which may fault), flags them as code and translates them
 * into the cache (exits.c, cache.c). From then on everybody finds it by (gpa, page_va, mode) without a lock. Direct jumps to it are linked when they
 * are first taken. When its bytes are written it is *dropped*: unlinked, no longer found, and its first byte after the entry becomes INT3, so that
 * whoever still holds its address in a jump cache comes out at once (signals.c). Its memory stays as it is until its segment is evicted.
 *
 * Eviction does not stop the world. The oldest segment's blocks are dropped, the machine's epoch goes up and all vCPUs are kicked; each clears its
 * jump caches in its outer loop and says which epoch it has seen. When all have, or are not running guest code, nobody can hold an address in
 * the segment any more and it is used again. So does the lock-free lookup: what it has found stays readable until its vCPU is back in the outer loop.
 * How many segments there are at most is found out: who has to make again what was evicted gets another one (cache.c).
 *
 * Locks: translator.lock (blocks, links, segments, writers of the hash) comes before interp_machine.lock; nobody waits for another vCPU with it held. */
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/types.h>

#include <Zydis/Zydis.h>

#include "check.h"
#include "internal.h"
#include "mmu/shadow.h"

#define CODE_SPAN (1024 * MIB) /* from what runs to where it is written */
#define SEGMENT_SIZE (1 * MIB)
#define CODE_SEGMENTS_MAX (CODE_SPAN / SEGMENT_SIZE - 1)
/* How many segments are taken before the first is taken again: more only where what was evicted is wanted again. */
#define SEGMENTS_PLENTY 128u
#define SEGMENTS_FEW 4u         /* by a machine with a library, besides that */
#define EVICTED_BITS 17
#define LIBRARY_SEGMENTS_MAX 64u
#define SEGMENT_BLOCKS_MAX 8192u
#define INDEX_SIZE (SEGMENT_BLOCKS_MAX * sizeof(code_ref)) /* of a segment */
#define STUBS_SIZE (64 * KIB)
#define BLOCK_HASH_BITS 18
#define BLOCK_HASH_GRANULE 5 /* bytes of guest code that share a head, a power of two */
#define PAGE_BLOCKS_BITS 14
#define FAR_PAGES_BITS 12

/* ---- stubs.c: the way in and the ways out ---- */

/* Code that has looked at in->kicked for the last time and has not yet left: a kick here continues at go_to. */
struct kick_window {
        const u8 *start, *end, *go_to;
};

struct stubs {
        translate_enter_fn *enter;
        const void *exits[TEXIT_KINDS]; /* by enum exit_kind */
        void (*store_vectors)(struct cpu_state *cpu); /* the guest's, which are in the CPU, to cpu->xsave */
        const u8 *leave;                /* rsp = in->regs, registers and rip stored: back to the outer loop */
        struct kick_window windows[20]; /* those not used are empty */
};
/* SITE_* for an address in @range. */
static inline u8 site_seen(enum shadow_range range)
{
        static const u8 seen[] = { [SHADOW_LOW] = SITE_SEEN_LOW, [SHADOW_HIGH] = SITE_SEEN_HIGH, [SHADOW_NONE] = SITE_SOFT };

        return seen[range];
}

/* Writes them at @code (STUBS_SIZE bytes), which runs at @run_at. */
void stubs_emit(struct stubs *stubs, u8 *code, const u8 *run_at);

/* ---- code_memory.c: where code lives ---- */

enum segment_state { SEGMENT_FREE, SEGMENT_FILLING, SEGMENT_FULL, SEGMENT_DRAINING, SEGMENT_FROZEN };

/* Code grows from the start, headers, links and records from the end; no page has both. Its blocks are in the order of their code: index, whose count grows last,
 * so a signal handler may search it. Frozen ones come first; they are a library's and nothing is added to them. */
struct code_segment {
        u32 code_used, data_used;
        u32 code_ready, data_ready; /* bytes of each whose pages are there */
        u32 n_blocks;           /* atomic */
        enum segment_state state;
        u64 drained_at;         /* DRAINING: free when every vCPU has seen this epoch */
        code_ref *index;        /* SEGMENT_BLOCKS_MAX of them */
};

/* Kernel pages that direct jumps of other pages are linked to or from: such links are right while the mapping is. */
struct far_page {
        u64 va, gpa;            /* va 0: empty */
};

/* How blocks are found. Whole pages, which a library replaces by its own. */
struct block_tables {
        code_ref hash[1u << BLOCK_HASH_BITS];    /* atomic heads; read without the lock. The first 1 << hash_bits are used */
        code_ref pages[1u << PAGE_BLOCKS_BITS];  /* by guest-physical page */
        code_ref pages_2[1u << PAGE_BLOCKS_BITS]; /* blocks with MODE_CROSSING by their second page */
        struct far_page far_pages[1u << FAR_PAGES_BITS];
};

/* Code of frozen segments runs from the file until it has to be changed: then its page becomes one of this machine's own. */
struct frozen_page {
        bool owned;
        u8 heat;                /* times that a change was wanted that could be done without */
};

struct code_memory {
        u8 *run, *write;        /* the same memory twice: executable, and CODE_SPAN behind it writable */
        int fd;
        size_t size;
        struct code_segment *segments;
        code_ref *indexes;
        struct block_tables *tables;
        u32 hash_bits;
        unsigned n_segments, n_frozen;
        unsigned filling;
        unsigned next;          /* to be filled when that one is full */
        unsigned n_used;        /* segments that are taken in turn: from n_frozen up to this one */
        unsigned n_enough;      /* before that many are used none is taken again */
        unsigned hand;          /* the next one to be taken again */
        unsigned n_returned;    /* blocks in the filling one that had been evicted */
        size_t huge_end;        /* huge pages were asked for up to here */
        struct frozen_page *own;
        u8 *spare;              /* executable pages that may take the place of the frozen ones */
};

/* Not @runs: there is no executable view, only its place. */
int code_memory_init(struct code_memory *code, size_t size, bool runs, struct err **err);
void code_memory_free(struct code_memory *code);
/* Where its code runs. */
u8 *segment_start(const struct code_memory *code, const struct code_segment *segment);
/* Pages for the next blocks, in a few calls instead of three faults for each page of code and one for each of data. Only hints: Linux 5.14. */
void segment_populate(struct code_memory *code, struct code_segment *segment);
/* Nothing is added to it any more. The writable view of its code, which links alone still need, stops counting as this process's. */
void segment_close(struct code_memory *code, struct code_segment *segment);
/* What a library's file has, in whole pages; segments as they are in memory. */
struct frozen_code {
        u32 n_segments, hash_bits;
        u64 tables_at, indexes_at, segments_at;
        struct {
                u32 code_used, data_used, n_blocks;
        } segments[LIBRARY_SEGMENTS_MAX];
};
/* Maps it into @code, which is empty. After an error @code is good for nothing but code_memory_free. */
int code_memory_freeze(struct code_memory *code, int fd, const struct frozen_code *frozen, struct err **err);

/* ---- cache.c: blocks in it ---- */

struct translator {
        struct interp_machine *machine;
        struct guest_memory *memory;
        pthread_mutex_t lock;
        struct stubs stubs;
        struct code_memory code;
        u64 epoch;                                    /* atomic */
        bool any_far;
        unsigned n_vcpus;
        u8 site_ranges[1u << SITE_SLOT_BITS];         /* written without the lock: hints */
        u64 dropped;                                  /* blocks, since a vCPU last counted them */
        u32 evicted[1u << EVICTED_BITS];              /* hashes of the latest ones */
        bool jumps_in_line;
        bool has_extension[ZYDIS_ISA_EXT_MAX_VALUE + 1];
        struct translation scratch;                   /* under the lock */
        struct insn_note notes[BLOCK_GUEST_MAX];      /* likewise, when it is traced */
        struct check_turns turns;                     /* check mode */
};

/* @cache_size: bytes, at most; virtual, memory as code is made. Not @runs: its code is only to be looked at, as a process that may make nothing executable can. */
int translator_new(struct interp_machine *machine, unsigned n_vcpus, size_t cache_size, bool runs, struct translator **ret, struct err **err);
struct translator *translator_free(struct translator *tr);

static inline void *cache_at(const struct translator *tr, code_ref ref)
{
        return ref ? tr->code.write + ref : NULL;
}
static inline code_ref cache_ref(const struct translator *tr, const void *p)
{
        return p ? (code_ref)((const u8 *)p - tr->code.write) : 0;
}
/* A head or a next, which others may be changing. */
static inline struct tblock *cache_follow(const struct translator *tr, const code_ref *ref)
{
        return cache_at(tr, __atomic_load_n(ref, __ATOMIC_ACQUIRE));
}
/* Code that lies together has its heads together: what runs needs few lines of the table, and a small guest few pages of it. What is further apart than
 * the table is long, and the modes of the same code, are spread. Kernel pages have one linear address as a rule. */
static inline code_ref *block_head(const struct translator *tr, u64 gpa, u32 mode)
{
        const u64 near = gpa >> BLOCK_HASH_GRANULE, far = near >> tr->code.hash_bits;

        return &tr->code.tables->hash[(unsigned)(near + far * 0x9e37u + (mode >> 16) * 0x3331u) & ((1u << tr->code.hash_bits) - 1)];
}
static inline struct tblock *block_match(const struct translator *tr, struct tblock *block, u64 gpa, u64 page_va, u32 mode)
{
        while (block && (block->gpa != gpa || block->page_va != page_va || block->mode != mode))
                block = cache_follow(tr, &block->hash_next);
        return block;
}
/* The block for these, NULL when there is none. Lock-free (pairs with block_make), general registers only. */
static inline struct tblock *block_find(const struct translator *tr, u64 gpa, u64 page_va, u32 mode)
{
        return block_match(tr, cache_follow(tr, block_head(tr, gpa, mode)), gpa, page_va, mode);
}
/* The same where there may be several: MODE_CROSSING, told apart by the second page; @gpa_2 is 0 for all others. */
static inline struct tblock *block_find_crossing(const struct translator *tr, u64 gpa, u64 gpa_2, u64 page_va, u32 mode)
{
        struct tblock *block = block_find(tr, gpa, page_va, mode);

        while (block && block->gpa_2 != gpa_2)
                block = block_match(tr, cache_follow(tr, &block->hash_next), gpa, page_va, mode);
        return block;
}
/* The block that the host address @rip lies in; async-signal-safe, for a vCPU that is at @rip. */
struct tblock *block_at(const struct translator *tr, const u8 *rip);
static inline bool code_contains(const struct translator *tr, const u8 *rip)
{
        return rip >= tr->code.run && rip < tr->code.run + tr->code.size;
}
/* Translates what @req says and enters it by what is said in @key: gpa, page_va, mode, gpa_2, global. NULL: no memory for it just now. Lock held. */
struct tblock *block_make(struct translator *tr, struct translate_request *req, const struct tblock *key, struct counters *counters);
/* The same for a block of @from, another translator of the same machine: as it was before it was linked. NULL: no memory. Both locks held. */
struct tblock *block_copy(struct translator *tr, const struct translator *from, const struct tblock *block);
/* Takes it out of everything; nobody finds it any more. Lock held. */
void block_drop(struct translator *tr, struct tblock *block);
/* The first of a list (page_next) that holds all blocks of @gpa's page, and others. Lock held. */
struct tblock *blocks_of_page(const struct translator *tr, u64 gpa);
/* Drops the blocks that overlap [gpa, gpa + len), which lies in one page; from any thread. Returns the chunks of the range (guest_memory_chunks) that
 * still have blocks. Nobody translates until the end. */
u64 translator_code_written_begin(struct translator *tr, u64 gpa, u64 len);
void translator_code_written_end(struct translator *tr);

/* ---- code_patch.c and links.c: may be called while vector registers are live, like fast.c. Lock held ---- */

/* Where to write @len bytes of code that run at @run: this makes their pages the machine's own. */
u8 *code_patchable(struct translator *tr, const u8 *run, unsigned len);
/* Is a change there that could be done without worth such a page? Asking counts. */
bool code_may_patch(struct translator *tr, const u8 *run);

/* Makes @link's jump go to @to if the rules allow it. */
bool link_make(struct translator *tr, struct link *link, struct tblock *to);
void link_cut_all(struct translator *tr, struct tblock *block);
/* Cuts the links across pages that are no longer right by @in's page tables: of the page at @gva, or all (TLB_ALL). Lock not held. */
void far_links_check(struct interp *in, u64 gva);

/* ---- a vCPU's part ---- */

/* What decides whether user code runs by way of the shadow window (shadowing.c). */
struct shadow_watch {
        timer_t timer;
        bool has_timer;
        bool armed;              /* a tick will come; atomic: set by the thread, cleared by its own signal handler */
        bool change;             /* a tick found that something should change */
        bool quiet;              /* the next tick has time */
        u32 faults, guest_faults; /* host faults in the window since the last tick; of these, the guest's own */
        u64 fault_cycles;
        u32 bad_ticks, owner_idle;
        u64 page_faults, flushes; /* counters at the last tick */
};

struct translate_cpu {
        struct translator *translator;
        pid_t tid;               /* of the thread that runs it; atomic */
        u64 epoch_seen;          /* atomic */
        u64 gs_base;             /* the host's, as last set */
        u32 special;             /* MODE_CROSSING, MODE_SPLIT: the block wanted at special_rip is of this kind; or 0 */
        u64 special_rip;
        struct { u8 *low, *high; unsigned first, size; } split; /* where in->bounce[1] is to be written: the first bytes, the others */
        bool interp_next;        /* the interpreter does the instruction at interp_rip */
        u64 interp_rip;
        u64 miss_rip, miss_gva[2]; /* of the latest TLB misses */
        bool jumped_to_dropped;  /* a jump cache may hold more of them */
        struct link *pending;    /* was taken and its target not found: to be linked when translated. Valid until the epoch changes */
        u64 pending_rip;
        u64 sti_rip;             /* of the instruction behind the STI that last set IF: interrupts wait until it is done */
        bool flush_pending;      /* the kernel's executable mappings of flush_gva changed */
        u64 flush_gva;
        struct shadow *shadow;   /* NULL: none to be had */
        struct shadow_watch watch;
        struct tblock *unfit;    /* to be made anew: an address was not where the block expects it. Valid until the epoch changes */
        void *stack;             /* of signal handlers */
        stack_t thread_stack;    /* the thread's own */
        bool fsgsbase;           /* GS base is set without a system call */
        bool no_chains;          /* check mode: back to the outer loop after each basic block */
        struct check *check;     /* check mode (check.h); else NULL */
        u32 turn_blocks;         /* check mode: for check_turn_pass */
};

/* Kernel code with EFLAGS.AC reads user memory. STAC and CLAC are inline, so this is looked up when it is needed. */
static inline bool translate_ac(const struct interp *in)
{
        return in->rflags & RFLAGS_AC && in->cpu->paging.cr4 & CR4_SMAP;
}
/* What a block for the vCPU's present state is keyed by. SS.B means nothing in 64-bit code. */
static inline u32 translate_mode(const struct interp *in)
{
        const u32 mode = in->mode & ~(u32)MODE_STACK32;

        if (mode & MODE_USER)
                return mode | (tlb_is_shadowed(&in->tlb) ? in->shadow_mode : 0);
        return mode | (translate_ac(in) ? MODE_AC : 0) | (in->cpu->paging.cr4 & CR4_SMAP ? MODE_SMAP : 0);
}
static inline enum tlb_mode translate_tlb_mode(const struct interp *in)
{
        return in->mode & MODE_USER ? TLB_USER : translate_ac(in) ? TLB_KERNEL_AC : TLB_KERNEL;
}

/* exits.c: one step of the outer loop. False: the interpreter's turn. May longjmp as code_lookup does. */
bool translate_step(struct interp *in);
/* Code like that at in->rip is never translated: the interpreter may go on from block to block. */
bool translate_leaves_mode(const struct interp *in);
/* soft_tlb.kernel_exec_flushed. */
void translate_exec_flushed(void *interp, u64 gva);
bool translate_host_fsgsbase(void);
/* Whether jumps had better not cross 32-byte lines (emit_jump_ahead). */
bool translate_host_jump_erratum(void);

/* shadowing.c: when user code runs by way of the shadow window */
void shadowing_new(struct interp *in);
void shadowing_free(struct interp *in);
/* The vCPU runs on another thread than before. */
void shadowing_thread(struct interp *in);
/* A tick is to come. */
void shadowing_arm(struct shadow_watch *w);
/* In the outer loop, before user code runs: follows flushes, and takes or leaves the window. */
void shadowing_follow(struct interp *in);
/* Its part that follows flushes: behind shadowing_follow it changes no mode. */
void shadowing_sync(struct interp *in);
/* From the signal handler: a host fault at @host in @block. False: it is the interpreter's to look at. */
bool shadowing_fault(struct interp *in, struct tblock *block, u64 host, bool write, bool *ret_unfit);
/* From the timer's handler, in @block or, if NULL, not in a block. True: the outer loop is wanted. */
bool shadowing_tick(struct interp *in, const struct tblock *block);
/* What GS has to be for user code. */
static inline u64 user_gs_base(const struct interp *in)
{
        return tlb_is_shadowed(&in->tlb) ? in->translate->shadow->bias[SHADOW_HIGH] : (uintptr_t)in->tlb.space;
}

/* fast.c */
extern fast_fn *const fast_exits[TEXIT_KINDS];
/* Goes on behind what @site stands for. */
const void *fast_resume(const struct site *site);
/* The instruction at in->rip is done: goes on behind it. */
static inline const void *fast_done(struct interp *in, const struct site *site)
{
        in->rip += site->access;
        return fast_resume(site);
}
/* Leaves; the interpreter does the instruction at in->rip. */
const void *fast_leave(struct interp *in, enum interp_reason reason);
/* In->rip is not at a site: leaves. */
fast_fn fast_kicked;
/* The jump to @r10 is done: leaves. */
fast_fn fast_arrived;
/* The block at in->rip, if its page can be fetched from without more ado and it is translated. */
struct tblock *fast_find_here(struct interp *in, u32 mode_too);
/* Goes on at in->rip, which is known to be fetchable, by @block. */
const void *fast_go_to(struct interp *in, const struct tblock *block);
/* Leaves; the outer loop makes the block for in->rip that is @special. */
const void *fast_want(struct interp *in, u32 special);
/* fast_split.c: the operand at @gva of the instruction at in->rip crosses a page's end. */
const void *fast_split(struct interp *in, const struct site *site, u64 gva);
/* Writes in->bounce[1] to the two pages. Async-signal-safe. */
void split_write(struct interp *in);
/* Goes on at in->rip in the vCPU's present mode. */
const void *fast_go(struct interp *in);
/* The host address of @size bytes at @gva, filled into the TLB if need be. NULL: not for the fast path. */
void *fast_memory(struct interp *in, enum tlb_mode mode, enum mmu_access access, u64 gva, unsigned size);
/* The quadword there, which may be at any address, as the TSS's stack pointers are; read once, since another vCPU may write it meanwhile. */
static inline u64 fast_read64(const void *hva)
{
        const volatile struct { u64 value; } _packed_ *p = hva;

        return p->value;
}
/* Somebody reads the trace, which only the interpreter writes. */
static inline bool fast_is_traced(void)
{
        return unlikely(trace_mask);
}

/* fast_sys.c: what interp_mode_changed does, after a change of ring, of RFLAGS.AC or of the address space in 64-bit code. */
void fast_mode_changed(struct interp *in);
/* A 64-bit code segment of privilege @dpl in the GDT. False: the interpreter's to look at. */
bool fast_code_segment(struct interp *in, u16 selector, unsigned dpl, struct seg *ret);
/* fast_event.c: the instruction at in->rip faults on @gva. */
const void *fast_page_fault(struct interp *in, u64 gva, u32 error);

/* signals.c */
/* The host's CPU raised @sig; true when it was in translated code and has been dealt with. From host.c's handler. */
bool translate_host_fault(int sig, void *ucontext);
/* Installs the handlers, once a process. */
void signals_init(void);
/* Around a run: makes this thread one that can be kicked and can fault. */
void signals_thread_enter(struct interp *in);
void signals_thread_leave(struct interp *in);
size_t signals_stack_size(void);
void translate_kick(struct vcpu *vcpu);
/* The signal of the timer of shadowing.c. */
#define TICK_SIGNAL (SIGRTMIN + 4)

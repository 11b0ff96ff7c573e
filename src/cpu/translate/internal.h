/* The translator's inside. Reading order: this file, translate.c (a block from bytes to code), analyse.c (what an instruction reads, writes and needs),
 * emit_*.c (how each kind is emitted), stubs.c (in and out of translated code), cache.c (where code lives, how blocks are found, linked and
 * dropped), exits.c and fast.c (what C does between blocks), signals.c (kicks and host faults), engine.c.
 *
 * Theory of operation.
 *
 * The translator is a fast path of the interpreter: struct interp is its state, the interpreter's outer loop (interp/run.c) runs it, and whatever
 * it does not translate - other modes, rare instructions, device memory, faults - is done by the interpreter, which
 * continues at exactly that instruction. Only 64-bit code at CPL 0 and 3 is translated.
 *
 * Registers. In translated code the guest's registers live in the host's:
 *
 *     guest   rax rcx rdx rbx rbp rsi rdi r8 r9 r12 r13    rsp    r10 r11 r14 r15
 *     host    rax rcx rdx rbx rbp rsi rdi r8 r9 r12 r13    r15    memory: in->regs[]
 *
 *     host rsp = in->regs (so everything in struct interp is [rsp + disp]; [rsp - 8] is in->flags_image)
 *     host r10, r11 = scratch, dead between guest instructions; r10 = in->bounce[1] when a fast function returns
 *     host r14 = scratch, or a window (window.c): kept when a fast function returns
 *     host gs base, user mode: in->tlb.space, the tables of the address space; with MODE_SHADOW the bias of the shadow window's high range
 *     xmm/ymm 0-15, x87, MXCSR = the guest's own, when in->vectors_live (x87 and MXCSR: always)
 *     EFLAGS: DF is clear always; the guest's DF, IF, IOPL, AC... are in in->rflags
 *
 * Arithmetic flags are in one of two places, known at translation time for every point of the code: in EFLAGS, or in the *image*, the quadword
 * below the host's rsp that PUSHFQ writes. Code that destroys EFLAGS saves them there first; so they are exact at every fault and
 * interrupt. A block has two entries: A at code + 0 (flags in EFLAGS), B at code + ENTRY_B (flags in the image). In a block that sets all flags before
 * anything of it could fault or destroy them the two do the same: nothing.
 *
 * Memory. An access looks into the soft TLB (mmu.h): kernel-mode code into in->tlb.kernel by rsp, user-mode code, and kernel code with
 * EFLAGS.AC, into the current space by gs (or by in->tlb.space). A miss leaves through a cold stub and comes back to the access when the entry was filled.
 *
 * Position. User-mode blocks do not know where they are: the page's address is in->page_va, so that a library page is translated once, wherever each
 * process maps it. They are found by guest-physical address. Jumps inside a page are linked; jumps to another page go through the jump cache of
 * the space (mmu.h: tlb_table.jumps), which sets page_va. Kernel-mode blocks are found by (physical, linear) address and link freely to
 * where the mapping is global.
 *
 * Leaving. Every place that can leave has a struct site beside its cold stub. A stub of stubs.c stores the guest's registers into in->regs and calls
 * a *fast* function (fast.c; compiled with general registers only, so that the vector registers stay as they are; never faults, never
 * longjmps). It returns where to go on in translated code, or NULL to leave: then the vector registers are stored if they are live, and
 * translate_enter() returns to the outer loop.
 *
 * Interrupts do not poll. A kick sends a signal; its handler finds the record of the host address, rolls the state to the start of that
 * guest instruction (or completes the one that has begun to commit) and makes the thread continue in the kicked stub. Host faults (division, SIMD
 * exceptions, alignment) are rolled back the same way, and the interpreter executes the instruction and raises what it must. */
#pragma once

#include "../interp/machine.h"
#include "emit.h"

/* Host register numbers of guest ones; HOST_NONE: in memory. Index: enum gpr. */
#define HOST_NONE 0xff
extern const u8 host_reg_of[GPR_COUNT];
#define HOST_CTX RSP    /* = in->regs */
#define HOST_GUEST_RSP R15
#define SCRATCH0 R10
#define SCRATCH1 R11
#define SCRATCH2 R14

/* Displacement from the host's rsp of a member of struct interp. */
#define CTX(member) ((s32)offsetof(struct interp, member) - (s32)offsetof(struct interp, regs))
#define CTX_REG(reg) ((s32)(8 * (reg)))

#define ENTRY_B 6u /* a block's second entry, bytes after the first: PUSHFQ; LEA RSP, [RSP + 8] */

/* Where the arithmetic flags are. */
enum flags_at {
        FLAGS_IN_EFLAGS,
        FLAGS_IN_IMAGE,
        FLAGS_ANYWHERE, /* by which entry the block was entered, which nobody knows any more: only between the entries and the first instruction
                         * that sets them all, where nothing can fault. A kick there steps on (signals.c) */
};

/* What the translated code's mode depends on beyond enum mode: part of the block key. */
#define MODE_AC (1u << 16)   /* kernel mode with EFLAGS.AC under SMAP. STAC and CLAC change it in the middle of a block: whoever leaves
                              * translated code looks at in->rflags again (in->tlb_mode). Never in the jump cache, which has no mode */
#define MODE_SMAP (1u << 17) /* kernel mode with CR4.SMAP */
#define MODE_CROSSING (1u << 19) /* one instruction that goes on in the next page; found with that page's address only (cross_missed) */
#define MODE_SPLIT (1u << 20)    /* one instruction whose memory operand, which it writes, goes on in the next page (fast_split.c) */
#define MODE_UNSHARED (1u << 18) /* no shared looks into the TLB (window.c). Reached by links with @unshared only, never in the jump cache */

#define MODE_SHADOW (1u << 21) /* user mode, the address space is shown by a shadow window: emit_shadow.c */
#define MODE_SHADOW_FIXED (1u << 22) /* ... whose low range is at SHADOW_LOW_FIXED */

/* Reasons to leave translated code: the stub that a site jumps to. */
enum exit_kind {
        TEXIT_MISS,    /* soft TLB miss in the kernel's table, or an operand of two pages; r10 = gva */
        TEXIT_MISS_WRITE,
        TEXIT_MISS_USER, /* the same in the space's table */
        TEXIT_MISS_USER_WRITE,
        TEXIT_LINK,    /* a direct jump that is not linked: site->arg is its index in block->links */
        TEXIT_LOOKUP,  /* jump-cache miss; r10 = target rip; site->arg: nothing has been committed (the target may be non-canonical). Kernel mode */
        TEXIT_LOOKUP_AC,   /* the same with EFLAGS.AC, which the jump cache proper does not hold */
        TEXIT_LOOKUP_USER, /* the same in user mode */
        TEXIT_CROSS,       /* an instruction that crosses a page's end, at r10: its block depends on both pages. Kernel mode without AC */
        TEXIT_CROSS_USER,
        TEXIT_INTERP,  /* the interpreter does this instruction; site->arg is an enum interp_reason */
        TEXIT_VECTORS, /* vector registers needed: load them, go on at site->resume_off */
        TEXIT_FAST,    /* fast function site->arg of fast.def */
        TEXIT_SHADOW,  /* operand site->arg of the instruction is not in the range its access was made for; r10 = its base, or with site->access its index */
        TEXIT_KINDS
};

/* Why an instruction is left to the interpreter; counted (translate.def). */
enum interp_reason {
#define INTERP_REASON(id, text) INTERP_REASON_##id,
#include "reasons.def"
#undef INTERP_REASON
        INTERP_REASONS
};

/* Instructions that a C function does without leaving translated code. */
enum fast_id {
#define FAST(id, function) FAST_##id,
#include "fast.def"
#undef FAST
        FAST_IDS
};

/* Lies right behind the cold stub that loads its address into r11 and jumps to the stub of its kind. Flags are in the image then. */
#define SITE_ACCESS 3
#define SITE_X87_STORE 0x40 /* with an exception unmasked it may not happen */
#define SITE_ELSEWHERE 0x80 /* what missed is a window's start (one byte); the operand is further on, by size and 256 times bits 2-5 of access */
struct site {
        u16 back;        /* bytes from here back to the block's code */
        u16 guest_off;   /* of the instruction from the block's first byte */
        u16 resume_off;  /* in the code, where to go on when the reason is gone (flags in the image); TEXIT_LOOKUP: guest rsp grows by it;
                          * TEXIT_SHADOW: guest_off of the instruction with the operand */
        u16 hit_back;    /* TEXIT_MISS: bytes from here back to where to go on with the operand's host address in scratch 0 */
        u8 kind;         /* enum exit_kind */
        u8 access;       /* TEXIT_MISS: enum mmu_access, SITE_ELSEWHERE, SITE_X87_STORE; TEXIT_FAST: the instruction's length */
        u8 size;         /* TEXIT_MISS: bytes; TEXIT_FAST: of an element of a string instruction; of a system instruction's operand in bytes, or
                          * its register: number, SYS_WIDE when all 64 bits count, a control or segment register's number << SYS_SOURCE_SHIFT */
        u8 arg;          /* TEXIT_MISS: bits that must be clear in the address, or #GP comes first */
};

#define SYS_WIDE 16u
#define SYS_SOURCE_SHIFT 5

/* What a host address inside a block stands for; sorted by code_off, valid until the next one. */
enum record_kind {
        RECORD_RESTART,     /* nothing of the instruction has happened */
        RECORD_PROBE,       /* the same; here faults a probe (mmu/shadow.h) of operand arg & PROBE_OPERAND of the instruction @ahead bytes further on */
        RECORD_SWAPPED,     /* the same, but regs[arg] is in scratch 1: its host register is in use for something else */
        RECORD_FINISH_REG,  /* all of it has but: regs[arg] = scratch 1 (64 bits); goes on at guest_off */
        RECORD_FINISH_RSP,  /* all of it has but: guest rsp += (s8)arg; goes on at guest_off */
        RECORD_FINISH_STRING, /* all of it has but: rsi and/or rdi += arg & 15 (STRING_RSI, STRING_RDI in arg); goes on at guest_off */
        RECORD_FINISH_X87,  /* all of it has but: the guest's last-instruction pointers (emit_x87.c); goes on at guest_off */
        RECORD_FINISH_SPLIT, /* all of it has but: its operand is in in->bounce[1] still (fast_split.c); goes on at guest_off */
        RECORD_JUMP,        /* all of it has; goes on at the rip in scratch 0 */
        RECORD_LINK,        /* all of it has; goes on at the target of links[arg] */
};
#define X87_MEMORY 0x80 /* RECORD_FINISH_X87: the instruction has a memory operand; the rest of arg is its length */
#define PROBE_OPERAND 3  /* RECORD_PROBE: OPERAND_*; and ... */
#define PROBE_HIGH 0x40  /* for the high range, else the low one */
#define PROBE_INDEX 0x80 /* it is an index: a number below 2^31 */
#define STRING_RSI 0x10
#define STRING_RDI 0x20
struct record {
        u16 code_off;
        u16 guest_off;   /* of the instruction to restart; for FINISH kinds: of the one after it; else unused */
        u8 flags_at;     /* enum flags_at */
        u8 kind;         /* enum record_kind */
        u8 arg;
        u8 ahead;        /* RECORD_PROBE */
};

/* Blocks hold no addresses: what they say of each other are places in the code memory, and what runs is at a fixed distance from what is written
 * (runtime.h), so that all of them together can be saved and mapped elsewhere (library.h). */
typedef u32 code_ref; /* bytes from the start of the writable view (cache_at, cache_ref); 0: nothing */

/* What is known of the guest's registers somewhere in a MODE_SHADOW block, because it was compared (emit_prologue.c): bits by enum gpr. */
#define FACTS_PAGE_LOW 1u
#define FACTS_PAGE_HIGH 2u
struct shadow_facts {
        u16 high;  /* in the high range of the shadow window, or not farther from it than its guards allow for */
        u16 low;   /* in the low range */
        u16 index; /* a 32-bit number, unsigned; those of low are too */
        u8 page;   /* FACTS_PAGE_*: of in->page_va */
};

/* A direct jump out of a block. */
struct link {
        s32 target;      /* guest address relative to the block's page */
        u16 patch_off;   /* of the rel32 in the code */
        u16 stub_off;    /* where it points while unlinked */
        u8 index;        /* among the block's links */
        bool entry_b : 1;  /* flags are in the image there */
        bool unshared : 1; /* the target's mode has MODE_UNSHARED as well */
        bool loop : 1;     /* to the block's own body (emit_loop.c) */
        struct shadow_facts facts; /* known where it is taken */
        code_ref to;      /* the block it is linked to; 0: not linked. All under the machine's lock */
        code_ref next_in; /* another link to the same block */
};

/* A translated block: this header, then its links, records, sites, and if it has a body what that wants. The last four bytes before its code are code_at too. */
struct tblock {
        u64 gpa;         /* of the first byte: the key, with ... */
        u64 page_va;     /* kernel mode: linear address of the page; user mode: 0 */
        u32 mode;        /* enum mode | MODE_AC | MODE_SMAP */
        code_ref hash_next; /* cache.c's; here because it is read with the key */
        u64 gpa_2;       /* MODE_CROSSING: of the second page */
        s32 code_at;     /* from this header to where it runs, bytes */
        u16 code_size;
        u16 guest_bytes; /* all in one page, but for ... */
        u8 bytes_2;      /* MODE_CROSSING: those in the second page */
        u8 n_instructions;
        u8 n_links;
        bool global;     /* the page's translation was global when it was translated: links across pages are allowed */
        u16 body_off;    /* behind its prologue (emit_prologue.c): where a link may lead that knows what block_body_wants. 0: it has none */
        u16 n_records, n_sites;
        u8 entry_a;      /* where links lead whose flags are in EFLAGS: 0, or behind the jump over what entry B needs */
        bool body_in_image : 1; /* flags are in the image there, else in EFLAGS */
        /* cache.c's: */
        bool stale : 1;
        code_ref page_next, page_2_next;
        code_ref links_in;
};

static inline const u8 *block_code(const struct tblock *block)
{
        return (const u8 *)block + block->code_at;
}
static inline struct link *block_links(const struct tblock *block)
{
        return (struct link *)(uintptr_t)(block + 1);
}
static inline const struct record *block_records(const struct tblock *block)
{
        return (const void *)(block_links(block) + block->n_links);
}
static inline const u16 *block_sites(const struct tblock *block)
{
        return (const void *)(block_records(block) + block->n_records);
}
static inline const struct shadow_facts *block_body_wants(const struct tblock *block)
{
        return (const void *)(block_sites(block) + block->n_sites);
}
static inline struct tblock *link_from(const struct link *link)
{
        return (struct tblock *)(uintptr_t)(link - link->index) - 1;
}
static inline struct tblock *site_block(const struct site *site)
{
        const u8 *code = (const u8 *)site - site->back;
        s32 code_at;

        __builtin_memcpy(&code_at, code - sizeof(code_at), sizeof(code_at));
        return (struct tblock *)(uintptr_t)(code - code_at);
}
static inline u64 block_page(const struct interp *in, const struct tblock *block)
{
        return block->mode & MODE_USER ? in->page_va : block->page_va;
}
/* Guest rip of byte @guest_off of @block, which this vCPU is running. */
static inline u64 block_rip(const struct interp *in, const struct tblock *block, unsigned guest_off)
{
        return block_page(in, block) + (block->gpa & (PAGE_SIZE - 1)) + guest_off;
}

/* ---- translate.c: bytes to code; a pure function of its request ---- */

#define BLOCK_GUEST_MAX 96            /* instructions */
#define BLOCK_CODE_MAX (24 * 1024u)   /* bytes of code and sites */
#define BLOCK_LINKS_MAX 96
#define BLOCK_RECORDS_MAX 1024
#define BLOCK_SITES_MAX 1024

/* How an instruction was translated, for people. */
enum insn_class { INSN_IDENTITY, INSN_RENAMED, INSN_INLINE, INSN_CALL_OUT };
struct insn_note {
        u16 guest_off, code_off;
        u8 class;        /* enum insn_class */
        const char *why; /* it is not identity; NULL when it is */
};

struct translate_request {
        u64 rip;          /* of the first instruction */
        u64 gpa;
        const u8 *code;   /* its bytes; room of them are left in the page */
        unsigned room;
        u32 mode;         /* enum mode | MODE_AC | MODE_SMAP */
        bool crossing;    /* one instruction; room reaches into the next page */
        bool no_chains;   /* check mode: one basic block, every exit goes to the outer loop */
        const u8 *site_ranges;  /* by site_slot: what is known of the addresses that instructions use; NULL: nothing */
        bool by_entry_a;  /* a link is waiting for it whose flags are in EFLAGS */
        const u64 *regs;  /* the guest's registers at rip, as far as they can be guessed; NULL */
        const bool *has_extension; /* by ZydisISAExt: does the guest's model have it; NULL: all */
        struct insn_note *notes;   /* filled for the dump when not NULL: BLOCK_GUEST_MAX of them */
        const u8 *run_at; /* where the code will run */
        bool jumps_in_line; /* the host wants it (emit_jump_ahead) */
        const void *const *stubs; /* by enum exit_kind: where each stub is, within 2 GiB of run_at */
};
/* MODE_SHADOW: where an operand's address was found to be other than first thought. Only hints, so slots may be shared. */
#define SITE_SLOT_BITS 17
enum {
        SITE_SEEN_LOW = 1,
        SITE_SEEN_HIGH = 2,
        SITE_SEEN_BOTH = 3,
        SITE_SUM = 4,  /* base and index mean nothing one by one, look at their sum */
        SITE_SOFT = 8, /* neither range will do: the soft TLB's */
};
enum { OPERAND_EXPLICIT, OPERAND_STACK, OPERANDS };
static inline unsigned site_slot(u64 gpa, unsigned operand)
{
        return (unsigned)((gpa * OPERANDS + operand) * 0x9e3779b97f4a7c15ULL >> (64 - SITE_SLOT_BITS));
}
struct translation {
        u8 *code;         /* buffer of BLOCK_CODE_MAX, given by the caller */
        unsigned code_size, guest_bytes, n_instructions;
        u8 entry_a;
        u16 body_off;
        bool body_in_image;
        struct shadow_facts body_wants;
        struct link links[BLOCK_LINKS_MAX];
        unsigned n_links;
        struct record records[BLOCK_RECORDS_MAX];
        unsigned n_records;
        u16 sites[BLOCK_SITES_MAX]; /* offsets of all struct site; the jump before each is all that leads out of a block that is not linked */
        unsigned n_sites;
};
/* False when the first instruction cannot be part of a block (it crosses the page, does not decode, or is one for the interpreter). */
bool translate_block(const struct translate_request *req, struct translation *ret);
/* Loads the site's address and jumps to @stub; the site itself, which lies behind, gets its `back`. False: there are too many in @out. */
bool emit_way_out(struct emitter *e, struct translation *out, struct site *site, const void *stub, unsigned hit_off);

/* ---- stubs.c ---- */

/* Enters at @code (flags in the image) and returns when a fast function said so. Machine-wide, made once by stubs_emit. */
typedef void translate_enter_fn(struct interp *in, const void *code);
typedef const void *fast_fn(struct interp *in, const struct site *site, u64 r10);
#define FAST(id, function) fast_fn function;
#include "fast.def"
#undef FAST

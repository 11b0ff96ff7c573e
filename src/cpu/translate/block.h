/* A block while it is being emitted: what the emitters share. */
#pragma once

#include "reencode.h"
#include "window.h"

#define COLDS_MAX 512

/* Bases that were compared with a range of the shadow window (emit_shadow.c); the comparison holds until the end of the block. */
#define SHADOW_CHECKS_MAX 16
struct shadow_checks {
        u16 symbol[SHADOW_CHECKS_MAX];
        u8 what[SHADOW_CHECKS_MAX]; /* enum shadow_range, or that it is an index */
        u8 n;
};

/* What a comparison is for. */
struct purpose {
        unsigned what;      /* enum shadow_range, or CHECK_* (emit_shadow.h) */
        unsigned operand;   /* OPERAND_* ... */
        unsigned guest_off; /* of the instruction there */
};

/* A register that is compared at the beginning of a block, and for what. */
struct early_use {
        struct value value;
        u8 reg;            /* guest register; GPR_COUNT: the page's address */
        bool index;
        u8 range;          /* enum shadow_range: of the base, or of what it is an index beside */
        u8 operand;        /* OPERAND_* of the instruction ... */
        u16 guest_off;     /* there */
};

/* emit_prologue.c */
#define PROLOGUE_USES_MAX 8
struct prologue {
        struct early_use uses[PROLOGUE_USES_MAX];
        unsigned n_uses;
};

/* A block that is a loop (emit_loop.c). */
struct loop {
        unsigned n;        /* instructions, the jump included; 0: it is none */
        u16 same, steps;   /* registers that a round leaves as they are; that it changes by a small constant: bits by enum gpr */
};

/* A way out, emitted behind the hot code: add what the probe subtracted (misses), load the site's address, jump to the stub. */
struct cold {
        u16 patch_off;     /* rel32 of the hot code that leads here */
        u16 guest_off;
        u16 resume_off, hit_off;
        u8 kind;           /* enum exit_kind (TEXIT_MISS for all of its kind), or COLD_FAR */
        u8 access, arg;
        u8 size;
        bool save_flags;   /* flags are in EFLAGS only when it is reached */
        bool user_table;   /* TEXIT_MISS: which table was probed */
        u16 span;          /* TEXIT_MISS of a window: bytes that must lie in one page, else the block is left for an unshared one; 0: none */
        s32 target;        /* COLD_FAR: relative to the block's page */
        bool complete;     /* TEXIT_LOOKUP: all but the jump has happened */
        u16 further;       /* TEXIT_MISS: bytes from the address that missed, a window's start, to the operand */
        u8 host;           /* TEXIT_SHADOW: the base or index */
        bool x87_store;    /* TEXIT_MISS: SITE_X87_STORE */
        u16 either_off;    /* TEXIT_SHADOW: where to go on when the address is in the low range; 0: it may not be */
};
#define COLD_FAR TEXIT_KINDS /* a conditional jump to another page in user mode: goes through the jump cache */

struct block_emitter {
        const struct translate_request *req;
        struct translation *out;
        struct emitter e;
        struct insn *insns;   /* of the block */
        unsigned n_insns;
        unsigned n_colds;
        struct shadow_checks shadow_checks;
        bool user;            /* user-mode block: position-independent */
        bool either;          /* the operand being emitted may be in either range of the shadow window: */
        unsigned either_operand; /* OPERAND_* */
        bool shadow;          /* MODE_SHADOW, */
        bool shadow_fixed;    /* MODE_SHADOW_FIXED */
        bool ac;              /* EFLAGS.AC here, under SMAP */
        bool eflags_valid;    /* the arithmetic flags are in EFLAGS */
        bool image_valid;     /* ... and in the image; neither: FLAGS_ANYWHERE */
        bool full;            /* some table is full: the block cannot be used */
        bool no_anywhere;     /* flags were wanted where they could be anywhere: try again without */
        struct loop loop;
        struct prologue prologue;
        u16 guest_off;        /* of the instruction being emitted */
        u16 next_off;         /* of the one after it */
        u16 n_begun;          /* instructions, this one included */
        u16 insn_resume;      /* code offset where its first memory access began (flags in the image) */
        bool insn_has_resume;
        bool scratch2_busy;   /* it holds something of this instruction: no window may be opened in it */
        u8 align_mask;        /* of the access being emitted: bits of the address that must be clear */
        bool vectors_checked; /* in->vectors_live is known to be true from here on */
        const char *why;      /* note for the dump */
        u8 class;
        /* From here on nothing is set at first: it is large. */
        struct windows windows; /* windows_find sets it */
        struct cold colds[COLDS_MAX];
};

/* ---- records, colds, links ---- */
void block_record(struct block_emitter *b, enum record_kind kind, unsigned guest_off, unsigned arg);
static inline void block_record_restart(struct block_emitter *b)
{
        block_record(b, RECORD_RESTART, b->guest_off, 0);
}
struct cold *block_cold(struct block_emitter *b, unsigned patch_off, unsigned kind);
/* A new link to @target (relative to the page); returns its index. */
unsigned block_link(struct block_emitter *b, s32 target);

/* ---- flags ---- */
/* Before code that destroys EFLAGS: they are in the image afterwards. */
void flags_save(struct block_emitter *b);
/* Before an instruction that needs them: they are in EFLAGS afterwards. Destroys scratch 1. */
void flags_restore(struct block_emitter *b);
static inline void flags_destroyed(struct block_emitter *b)
{
        b->eflags_valid = false;
}
static inline void flags_written(struct block_emitter *b)
{
        b->eflags_valid = true;
        b->image_valid = false;
}

/* ---- memory (emit_memory.c) ---- */
/* The host address of @g's operand, valid until the next memory_*: by way of an open window or of scratch 0. Destroys scratch 0 and 1; flags are
 * in the image afterwards unless a window served. False: not possible. */
bool memory_operand(struct block_emitter *b, const struct insn *g, enum mmu_access access, struct hmem *ret);
/* The same for the eight bytes @disp from guest rsp: what @g pushes or pops. */
void memory_stack(struct block_emitter *b, const struct insn *g, s32 disp, enum mmu_access access, struct hmem *ret);
/* Would memory_stack for @g use an open window? */
bool memory_stack_open(const struct block_emitter *b, const struct insn *g);
/* scratch 0 = host address of @size bytes @disp from the guest address in host register @host. */
void memory_at(struct block_emitter *b, unsigned host, s32 disp, enum mmu_access access, unsigned size);
/* The operand at @member of the TLB entry that scratch 1 names. */
struct hmem memory_entry_member(const struct block_emitter *b, bool user_table, s32 member);
/* In a MODE_SHADOW block: the operand, or what @g pushes or pops, by way of the shadow window (emit_shadow.c). False: the soft TLB's. */
bool shadow_operand(struct block_emitter *b, const struct insn *g, struct hmem *ret);
bool shadow_stack(struct block_emitter *b, const struct insn *g, s32 disp, struct hmem *ret);
/* scratch 0 = guest address on entry, host address on return, scratch 1 destroyed. */
void shadow_either(struct block_emitter *b);
/* Before the site of a TEXIT_SHADOW. */
void shadow_cold(struct block_emitter *b, const struct cold *c);
/* Would shadow_stack leave scratch 1 alone? */
bool shadow_stack_free(const struct block_emitter *b, const struct insn *g);
/* What is @disp bytes from the end of @g, from the start of the block's page. */
static inline s64 offset_in_page(const struct block_emitter *b, const struct insn *g, s64 disp)
{
        return (s64)(b->req->rip & (PAGE_SIZE - 1)) + g->off + g->z.length + disp;
}
/* The instruction's first memory access begins here. */
void memory_resume_here(struct block_emitter *b);
/* User code of this block has its tables by gs; else an address of its tables is made with in->tlb.space. */
static inline bool space_by_gs(const struct block_emitter *b)
{
        return b->user && !b->shadow;
}
/* scratch 0 = linear address of @g's operand, scratch 1 destroyed, no flags. */
bool memory_address(struct block_emitter *b, const struct insn *g, s32 by);
/* scratch 0 = guest linear address on entry, host address on return, scratch 1 destroyed. */
void memory_probe(struct block_emitter *b, enum mmu_access access, unsigned size);
/* Scratch 2 is wanted for something else until the end of the instruction: what window it holds is no more. */
static inline unsigned scratch2_take(struct block_emitter *b)
{
        b->windows.open[0].symbol = 0;
        b->scratch2_busy = true;
        return SCRATCH2;
}
/* dst = guest address @offset bytes from the page's start. */
void emit_guest_address(struct block_emitter *b, unsigned dst, s64 offset);
/* The host register that holds @reg; a spilled one is loaded into @scratch first. */
unsigned reg_fetch(struct block_emitter *b, unsigned reg, unsigned scratch);

/* ---- instructions; false: leave it to the interpreter, with b->why set ---- */
bool emit_plain(struct block_emitter *b, const struct insn *g);
bool emit_lea_insn(struct block_emitter *b, const struct insn *g);
bool emit_push(struct block_emitter *b, const struct insn *g);
bool emit_pop(struct block_emitter *b, const struct insn *g);
bool emit_leave(struct block_emitter *b, const struct insn *g);
bool emit_pushfq(struct block_emitter *b, const struct insn *g);
bool emit_flag_bit(struct block_emitter *b, const struct insn *g);
bool emit_bit_test(struct block_emitter *b, const struct insn *g);
bool emit_string(struct block_emitter *b, const struct insn *g);
bool emit_sys(struct block_emitter *b, const struct insn *g);
bool emit_read_seg(struct block_emitter *b, const struct insn *g);
bool emit_x87(struct block_emitter *b, const struct insn *g);
/* A call of fast function @id that completes the instruction; @size as in struct site. */
void emit_fast(struct block_emitter *b, enum fast_id id, unsigned size);

/* ---- loops (emit_loop.c) ---- */
/* Before anything is emitted: is the block a loop? */
void loop_find(struct block_emitter *b);
/* Does @v hold in each round if it held in the first one? */
bool loop_keeps(const struct loop *l, struct value v);
/* Behind its jump. */
void loop_end(struct block_emitter *b);

/* ---- prologues (emit_prologue.c) ---- */
/* Before anything is emitted: what is to be compared at the beginning. */
void prologue_find(struct block_emitter *b);
/* Behind the entries. */
void prologue_emit(struct block_emitter *b);
/* What is known behind the instruction being emitted. */
struct shadow_facts prologue_facts(const struct block_emitter *b);

/* ---- ends of blocks (emit_branch.c) ---- */
/* @goes_on: the block continues with the instruction behind the jump. */
bool emit_jcc(struct block_emitter *b, const struct insn *g, bool goes_on);
bool emit_jrcxz(struct block_emitter *b, const struct insn *g);
bool emit_jmp_insn(struct block_emitter *b, const struct insn *g);
bool emit_call(struct block_emitter *b, const struct insn *g);
bool emit_ret(struct block_emitter *b, const struct insn *g);
/* Goes on at @target (relative to the page) in another block. */
void emit_goto(struct block_emitter *b, s32 target, bool complete);
void emit_interp(struct block_emitter *b, enum interp_reason reason);
/* Loads the address of the site that follows and jumps to the stub of its kind. A TEXIT_FAST comes back right behind it. */
void emit_site(struct block_emitter *b, const struct site *site);
/* On with the instruction @off bytes from the block's start, which crosses the page's end. */
void emit_cross(struct block_emitter *b, unsigned off);
void emit_colds(struct block_emitter *b);

/* Which memory accesses of a block may share one look into the soft TLB. See window.c. */
#pragma once

#include "analyse.h"

#define ACCESSES_MAX 160
#define WINDOWS 1
#define SYMBOL_RIP 1   /* the page's address */
#define SYMBOL_FS 2    /* the base of FS */
#define SYMBOL_FIRST 3 /* from here on: what the registers hold when the block is entered, by enum gpr; then others */
#define WINDOW_SPAN_MAX 1024

/* The bit of the register that held @v when the block was entered, less its offset; 0: none did. */
static inline u16 value_gpr(struct value v)
{
        return v.symbol >= SYMBOL_FIRST && v.symbol < SYMBOL_FIRST + GPR_COUNT ? (u16)(1u << (v.symbol - SYMBOL_FIRST)) : 0;
}

/* A memory access whose address is a known distance from another's: the same symbol. */
struct access {
        s32 off;       /* from the symbol's value */
        u16 symbol;    /* 0: of its own kind, nothing known */
        u16 insn;
        u8 size;
        bool write;
};

/* A host register that holds the host address of [lo, hi) of a symbol, looked up for reading or for writing as well. */
struct window {
        u16 symbol;    /* 0: empty */
        bool write;
        s32 lo, hi;
};

struct windows {
        struct access accesses[ACCESSES_MAX];
        unsigned n_accesses;
        struct window open[WINDOWS];
};

extern const u8 window_reg[WINDOWS];

/* Finds the accesses of a block's @n instructions and what is known of their addresses; sets each insn's operand_access and stack_access, base and index. @regs
 * may be NULL: what the registers hold now, for estimates. */
void windows_find(struct windows *w, struct insn *insns, unsigned n, u64 rip, const u64 *regs);
/* What the registers hold after @n instructions, in terms of what they held before. */
void windows_after(const struct insn *insns, unsigned n, struct value ret[GPR_COUNT]);
/* The open window that serves access @i, -1 when none does. */
int window_of(const struct windows *w, unsigned i);
/* Is it worth opening a window at access @i? Then *ret is what it should hold and the result says which; else -1. */
int window_plan(const struct windows *w, const struct insn *insns, unsigned i, struct window *ret);
/* Does the emission of @g need the register of window 0 for itself? */
bool window_taken_by(const struct insn *g);

/* Between emit_shadow.c and emit_loop.c. */
#pragma once

#include "block.h"
#include "mmu/shadow.h"

#define CHECK_INDEX 0x80

/* An operand on its way. */
struct shadow_access {
        struct value base, index; /* symbol 0: none, or nothing is known of it */
        enum shadow_range range;
        unsigned operand;         /* OPERAND_* */
        bool sum;                 /* base and index are to be looked at together */
};

static inline struct purpose purpose_of(const struct insn *g, unsigned what, unsigned operand)
{
        return (struct purpose){ .what = what, .operand = operand, .guest_off = g->off };
}

/* Sets range and sum of @g's operand @a. False: the soft TLB's. */
bool shadow_decide(const struct block_emitter *b, const struct insn *g, struct shadow_access *a);
/* No segment but FS alone, no 32-bit address. */
bool shadow_is_simple(const struct insn *g);
/* Compares @host, which holds @v, unless that is known. Flags must be saved, or b->redo say how they come back. */
void shadow_check(struct block_emitter *b, unsigned host, struct value v, struct purpose p);
/* The same for an index that lives in memory: guest register @reg. */
void shadow_check_spilled(struct block_emitter *b, unsigned reg, struct value v, struct purpose p);

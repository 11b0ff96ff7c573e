/* Between emit_shadow.c and emit_prologue.c. */
#pragma once

#include "block.h"
#include "mmu/shadow.h"

#define CHECK_INDEX 0x80    /* a 32-bit number, signed or unsigned */
#define CHECK_POSITIVE 0x81 /* a number below 2^31 */
/* A displacement from the low range that stays above the probes. */
#define SHADOW_LOW_DISP_MIN (-(s32)(512 * MIB))

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

/* Not one of those that are made for an operand or an instruction that crosses a page, which have no prologue and are no loops. */
static inline bool shadow_is_ordinary(const struct block_emitter *b)
{
        return b->shadow && !(b->req->mode & (MODE_UNSHARED | MODE_SPLIT | MODE_CROSSING));
}

/* Sets range and sum of @g's operand @a. False: the soft TLB's. */
bool shadow_decide(const struct block_emitter *b, const struct insn *g, struct shadow_access *a);
/* The address that @g, which has a stack_access, pushes to or pops from, less its displacement. */
struct value shadow_stack_value(const struct block_emitter *b, const struct insn *g);
/* May flags stay in EFLAGS while an address is compared? */
bool shadow_by_probe(const struct block_emitter *b);
/* No segment but FS alone, no 32-bit address. */
bool shadow_is_simple(const struct insn *g);
/* Compares @host, which holds @v, unless that is known. Flags must be in EFLAGS alone, where they stay, or saved. */
void shadow_check(struct block_emitter *b, unsigned host, struct value v, struct purpose p);
/* What an index has to be beside a base in @range. */
unsigned shadow_index_check(const struct block_emitter *b, enum shadow_range range);
bool shadow_is_checked(const struct block_emitter *b, struct value v, unsigned what);
/* The same for an index that lives in memory: guest register @reg. */
void shadow_check_spilled(struct block_emitter *b, unsigned reg, struct value v, struct purpose p);

/* What is known of registers and addresses somewhere in emitted code: see emitted_shadow.c.
 *
 * Known can be of a value: that it was compared with the high or the low range, or that it is a 32-bit number, and how far it may have moved since.
 * The comparisons are those of emit_shadow.c and no others. Known can also be of an operand's whole address that it was accessed, and how far it has moved
 * since: that is what makes a loop right whose registers are compared before it only. */
#pragma once

#include <Zydis/Zydis.h>
#include <stdlib.h>

#include "cpu/translate/internal.h"

#define VALUES 22u          /* the host's registers, then the guest's that live in memory, the page's address and the base of FS */
#define SLOTS 16u
#define PAGE_VA (SLOTS + 4)
#define FS_BASE (SLOTS + 5)
#define NOBODY 0xff
#define NO_BASE 0xfe        /* of an address that is an index and a displacement */
#define OWED MIB            /* by a base of the high range that another block compared: it may have moved so far since, but no farther before it is used */
#define MOVED_MAX (64 << 20)
#define REACHED_MAX 16u

enum {
        IS_HIGH = 1,
        IS_LOW = 2,
        IS_NARROW = 4,
        IS_OURS = 8,      /* not the guest's: a host address, something from the context */
        IS_POSITIVE = 16, /* narrow and unsigned */
};

struct known {
        u8 is;
        u8 wants;  /* an index is in it that is not compared yet: this slot must be narrow when it is used; NOBODY: none */
        u8 copy_of; /* the value in memory that it is a copy of, or NOBODY */
        bool sum;  /* ... and was: it takes no other */
        bool inherited; /* another block has compared it */
        u8 pad[3]; /* states are compared byte by byte */
        s32 off, moved; /* since: by off, and by up to moved in either direction */
};

/* An address that was accessed, or could be. */
struct reached {
        u8 base, index, scale; /* NOBODY: there is none; base NOBODY: the entry is free */
        bool gs;
        bool biased; /* with the low range's bias from the context */
        u8 pad[3];
        s64 disp, moved;
};

enum relation { NO_RELATION, TOP_BYTE, SIGN_EXTENDED, PROBE_HIGH_PAGE, PROBE_LOW_PAGE };

struct state {
        struct known v[VALUES];
        struct reached reached[REACHED_MAX];
        struct reached r10_is;           /* an address that LEA made */
        u8 r11_of, r11_relation;         /* what r11 was made from */
        u8 flags_of, flags_say;          /* the last comparison: IS_* that holds behind a jump that is not taken */
        bool seen;
        u16 visits;
};

#define KNOWN_NOTHING ((struct known){ .wants = NOBODY, .copy_of = NOBODY })

static inline s64 known_distance(const struct known *k)
{
        return llabs((s64)k->off) + k->moved;
}

static inline struct known known_made(u8 is)
{
        return (struct known){ .is = is, .wants = NOBODY, .copy_of = NOBODY };
}
/* The general register that @reg is, or is a part of. */
static inline unsigned known_number_of(ZydisRegister reg)
{
        return (unsigned)(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg) - ZYDIS_REGISTER_RAX);
}
bool known_is_general(ZydisRegister reg);

/* The address by name; base NOBODY when it is none of the guest's. */
struct reached known_name_of(const struct state *s, const ZydisDecodedOperandMem *m);
bool known_is_same_place(const struct reached *a, const struct reached *b);
/* The same address in @s; NULL: it was not accessed. */
const struct reached *known_find_reached(const struct state *s, const struct reached *r);
/* Memory is accessed there. */
void known_reach(struct state *s, const struct reached *r);

/* Value @v is written: what it was is forgotten, @k is known of it. */
void known_set(struct state *s, unsigned v, struct known k);
/* IS_NARROW, IS_POSITIVE: of what @insn writes to @op. */
u8 known_narrow_write(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op);
/* May a base of which @k is known be used as one of @range? */
bool known_is_fit(const struct state *s, struct known k, u8 range);
/* What @insn leaves known. */
void known_follow(struct state *s, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);

/* @v and its copies are @say. */
void known_learn_of(struct state *s, unsigned v, u8 say);
/* What the last comparison says when @jump is not taken. */
void known_learn(struct state *s, ZydisMnemonic jump);

/* A guest instruction as the host will run it: the same operation with other registers, and its memory operand at another address. */
#pragma once

#include "analyse.h"
#include "emit.h"

/* How general registers are renamed: guest number to host number. */
struct renaming {
        u8 host[GPR_COUNT];
};

/* Appends @g with its explicit general registers renamed. @mem replaces the memory operand, or a general register in the r/m field when the
 * instruction has no memory operand; NULL: the r/m field stays what it is. False (nothing appended) when x86 cannot encode
 * that: a high-byte register together with one that needs a REX prefix. */
bool reencode(struct emitter *e, const struct insn *g, const struct renaming *map, const struct hmem *mem);

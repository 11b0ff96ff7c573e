/* All instructions there are, as forms to be filled with random operands.
 *
 * The list is found by trying: every prefix, map, opcode and ModRM extension is given to the decoder, and what it takes becomes a form. So
 * nobody has to remember to add a new one. */
#pragma once

#include "case.h"

enum form_class {
        FORM_INTEGER, FORM_BRANCH, FORM_STACK, FORM_STRING, FORM_BMI, FORM_X87, FORM_MMX, FORM_SSE, FORM_AVX, FORM_SYSTEM, FORM_CLASSES
};

struct form {
        u8 vex, map, prefix, opcode; /* map 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
        bool modrm, memory, vsib;
        u16 mnemonic;
        u64 reg_rm; /* one bit for each (reg << 3 | rm) that makes this instruction; memory: rm is 0 */
};

struct forms;
struct forms *forms_new(void);

struct decoded {
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

/* Which registers a memory operand may use; one bit each. */
struct addressing {
        u16 bases, indexes;
};

/* Writes a random instruction of @class to @code (15 bytes of room), decoded in @ret. Never 0. */
unsigned forms_random(const struct forms *forms, struct rng *rng, enum form_class class, const struct addressing *addressing,
                      u8 *code, struct decoded *ret);
/* How many forms there are. */
size_t forms_count(const struct forms *forms);

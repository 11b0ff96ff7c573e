/* What decode.c hands to the rules and to host.c while an instruction is decoded. */
#pragma once

#include <Zydis/Zydis.h>

#include "ops.h"

struct decoding {
        struct interp *in;
        u32 mode;
        u64 rip, next;         /* of the instruction, of the one after */
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        const ZydisDecodedOperand *mem; /* the explicit memory operand, or NULL */
        bool flat;             /* 64-bit mode with 64-bit addresses: fast handlers apply */
        bool ends_block;       /* out: nothing may follow in the block */
};

/* These are asked several times for each operand of each instruction, so they go by the order of Zydis' numbers (test_registers.c looks at all of them). */
static inline bool decode_is_gpr(ZydisRegister reg)
{
        return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15;
}
static inline bool decode_is_vector(ZydisRegister reg) /* XMM or YMM */
{
        return reg >= ZYDIS_REGISTER_XMM0 && reg <= ZYDIS_REGISTER_YMM31;
}
/* AVX-512 has twice as many. */
static inline unsigned decode_vector_number(ZydisRegister reg)
{
        return (unsigned)(reg - ZYDIS_REGISTER_XMM0) & 31;
}
/* The byte offset of a general register in the array of them. */
static inline unsigned decode_gpr_offset(ZydisRegister reg)
{
        if (reg >= ZYDIS_REGISTER_AX)
                return ((unsigned)(reg - ZYDIS_REGISTER_AX) & 15) * 8;
        if (reg >= ZYDIS_REGISTER_SPL)
                return (unsigned)(reg - ZYDIS_REGISTER_SPL + RSP) * 8;
        if (reg >= ZYDIS_REGISTER_AH)
                return (unsigned)(reg - ZYDIS_REGISTER_AH) * 8 + 1;
        return (unsigned)(reg - ZYDIS_REGISTER_AL) * 8;
}
static inline bool decode_is_high_byte(ZydisRegister reg)
{
        return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}
/* A SIB byte with base 5 and mod 0 has no base, whatever REX.B says; Zydis 4.0 names R13D with 32-bit addresses, and forgets the displacement. SDM 2A, table
 * 2-5. */
static inline bool decode_sib_without_base(const ZydisDecodedInstruction *insn)
{
        return insn->attributes & ZYDIS_ATTRIB_HAS_SIB && insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 4 && insn->raw.sib.base == 5 &&
               insn->address_width != 16;
}
/* The segment that a prefix names for an implicit operand (string instructions, XLAT), DS without one. */
u8 decode_prefix_segment(const struct decoding *d);
/* log2 of an operand size of 1, 2, 4, 8 bytes. */
static inline unsigned size_log2(unsigned size)
{
        return (unsigned)__builtin_ctz(size);
}

/* host.c: chooses the handler for an instruction that runs on the host. False: this CPU does not have it. */
bool host_decode(struct decoding *d, struct uop *u);

/* What the emitters need to know about a guest instruction. */
#pragma once

#include <Zydis/Zydis.h>

#include "internal.h"
#include "../interp/decode.h"

enum insn_kind {
        KIND_PLAIN,    /* renamed registers, translated memory operand */
        KIND_JCC,
        KIND_JRCXZ,
        KIND_JMP,      /* direct or indirect */
        KIND_CALL,
        KIND_RET,
        KIND_PUSH,
        KIND_POP,
        KIND_LEAVE,
        KIND_LEA,
        KIND_PUSHFQ,
        KIND_NOP,
        KIND_FLAG_BIT,
        KIND_BIT_TEST, /* plain, but with a bit string in memory */
        KIND_STRING,   /* MOVS, STOS, LODS, SCAS, CMPS */
        KIND_X87,      /* emit_x87.c */
        KIND_READ_SEG, /* MOV from a segment register (emit_sys.c) */
        KIND_SYS,      /* a system instruction done by a fast function (emit_sys.c) */
        KIND_SYS_END,  /* the same, and the block ends */
        KIND_FORM,     /* from here on: for the interpreter */
        KIND_INTERP,
};

/* What is known of a number: a symbol stands for the unknown value that something had at some point of the block (window.h). */
struct value {
        u16 symbol;
        bool narrow; /* the symbol is a 32-bit number, signed or unsigned */
        bool positive; /* ... unsigned */
        s32 off;
};

struct estimate {
        u64 value;
        bool known;
};

struct insn {
        ZydisDecodedInstruction z;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        const u8 *bytes;
        const ZydisDecodedOperand *mem; /* the explicit memory operand, or NULL */
        u64 disp;          /* of mem, sign-extended; RIP-relative: from the instruction's end, as encoded */
        u16 off;           /* from the block's first byte */
        u8 kind;           /* enum insn_kind */
        u8 reason;         /* enum interp_reason when the interpreter does it */
        u8 cc;             /* condition code of a KIND_JCC */
        u8 element;        /* KIND_STRING: bytes */
        u8 fast, fast_size, fast_operand; /* KIND_SYS*: enum fast_id; size in struct site; enum sys_operand */
        u16 mem_size;      /* bytes */
        s16 operand_access; /* of the memory operand, in struct windows; -1: none or nothing known of it */
        s16 stack_access;   /* of a push or pop, likewise */
        bool mem_writes;
        bool mem_reads;
        bool aligned;      /* the memory operand must be aligned to its size, which is looked at before anything else of it */
        bool high_byte;    /* AH, BH, CH or DH takes part */
        bool vector;       /* XMM or YMM registers take part */
        bool needs_flags;  /* reads arithmetic flags, or leaves some as they were */
        bool writes_flags;
        bool kills_flags;  /* the flags after it do not depend on those before */
        struct value base, index; /* of the memory operand, by window.c; symbol 0: there is none */
        struct estimate base_now, index_now; /* likewise: what they would be if the block were entered as it is translated */
        u16 gprs;          /* every general register that takes part, implicit ones too: bits by enum gpr */
};

/* Decodes and judges the instruction at @bytes. False when it does not decode within @room bytes. */
bool insn_analyse(const struct translate_request *req, const ZydisDecoder *decoder, const u8 *bytes, unsigned room,
                  struct insn *ret);
/* The operand of a fast system instruction: none; the value or the address in scratch 0; a register that it writes. */
enum sys_operand { SYS_OPERAND_NONE, SYS_OPERAND_VALUE, SYS_OPERAND_ADDRESS, SYS_OPERAND_DEST };
/* Is @g an x87 instruction that is translated (emit_x87.c)? */
bool x87_judge(const struct translate_request *req, const struct insn *g);
/* Makes @g one for a fast function when it can be, or KIND_READ_SEG (emit_sys.c). */
bool sys_judge(const struct translate_request *req, struct insn *g);
/* Is @op a general register that the instruction writes? */
static inline bool insn_writes_gpr(const ZydisDecodedOperand *op)
{
        return op->type == ZYDIS_OPERAND_TYPE_REGISTER && decode_is_gpr(op->reg.value) && op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}
/* Does it touch the memory that its explicit operand names? */
static inline bool insn_accesses_operand(const struct insn *g)
{
        return g->mem && g->kind != KIND_LEA && g->kind != KIND_NOP;
}
/* Number of a general register of any size; AH..BH count as RAX..RBX. */
static inline unsigned insn_gpr(ZydisRegister reg)
{
        return decode_gpr_offset(reg) / 8;
}

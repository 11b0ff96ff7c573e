/* Instructions executed on the host CPU: SSE to AVX2, x87, MMX, and the rarer integer ones.
 *
 * Theory of operation. The guest's ISA is the host's, so an instruction that touches only general, vector and x87 registers, flags and one memory operand
 * is run by the host itself. For each distinct one a *thunk* is made once: a small function that loads the guest registers the
 * instruction reads, runs it with its memory operand replaced by [pointer register], and stores what it wrote. The thunk is called with a pointer to
 * guest RAM (same page offset as the guest's address, so alignment faults are the processor's own), or to a copy of the operand.
 *
 * x87 and MMX registers, and MXCSR, are the host's own while the interpreter runs (host_fpu_enter/leave): nothing else in a vCPU thread uses
 * them. XMM and YMM registers live in cpu_state.xsave, since the compiler uses the host's.
 *
 * A fault inside a thunk (#GP for alignment, #XM, #MF, #UD) arrives as a signal; the handler makes the thunk return the signal's number. */
#pragma once

#include "decode.h"

struct thunk {
        u8 *code;
        u8 *fault_exit;     /* where the signal handler resumes */
        u32 hash_next;      /* index + 1 */
        u8 align;           /* what its memory operand must be aligned to, bytes; found by trying */
        u8 n_bytes;         /* of the instruction as encoded for the host: the key, with ... */
        u8 bytes[15];
        u8 rsp_host;        /* ... the host register that stands for the guest's RSP; RSP when it takes no part */
};

/* What host_encode found out about an instruction. */
struct host_insn {
        u8 bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
        u8 n_bytes;
        u8 state, memory, vectors; /* registers that hold the interpreter, the operand's address, the vector area; memory NO_HOST_REG if none */
        u16 gpr_read, gpr_written; /* host registers to load and store, one bit each */
        u8 rsp_host;               /* holds the guest's RSP, since the host's own must stay; RSP when it takes no part */
        u16 vec_read, vec_written;
        bool ymm;                  /* whole YMM registers, else XMM */
        bool flags_read, flags_written;
};
#define NO_HOST_REG 0xff

#define FSW_ES 0x80 /* an unmasked x87 exception waits for the next x87 or MMX instruction, which raises it. SDM 1, 8.1.3.3 */

/* host.c: does the CPU model have an extension that can run this way? */
bool host_model_has(const struct vcpu *vcpu, ZydisISAExt ext);
/* host_encode.c: false when the instruction cannot be run that way. */
bool host_encode(const struct decoding *d, struct host_insn *ret);
/* host_emit.c: writes the thunk at @code (room for HOST_THUNK_MAX bytes); returns its length. */
#define HOST_THUNK_MAX 1024
size_t host_emit(const struct host_insn *h, u8 *code, size_t *ret_fault_exit);

/* xsave.c: handlers of FXSAVE, XSAVE and kin, and the AVX2 instructions whose memory operand is not one range. NULL when it is none. */
uop_fn *xsave_op_find(unsigned mnemonic);
uop_fn *vector_op_find(struct decoding *d, struct uop *u);

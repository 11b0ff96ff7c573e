#include "case.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

const char *const gpr_names[GPR_COUNT] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static u64 interesting(struct rng *rng, const struct machine_case *c)
{
        static const u64 values[] = {
                0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
                0x8000000000000000, 0xffffffffffffffff, 0x5555555555555555, 63, 64, 31, 32,
        };

        switch (rng_below(rng, 8)) {
        case 0:
        case 1:
                return values[rng_below(rng, ARRAY_SIZE(values))];
        case 2:
                return rng_next(rng);
        case 3:
                return rng_below(rng, 256);
        default:
                return case_data_gva(c) + DATA_SIZE / 4 + rng_below(rng, DATA_SIZE / 2);
        }
}

static void random_vectors(struct rng *rng, u8 *xsave)
{
        static const u32 floats[] = { 0, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 1, 0x00800000,
                                      0x7f7fffff, 0x4f000000, 0xcf000000, 0x4b000000, 0x40490fdb };

        for (unsigned i = 0; i < 256; i += 4) {
                u32 lo = rng_below(rng, 3) ? floats[rng_below(rng, ARRAY_SIZE(floats))] : (u32)rng_next(rng);
                u32 hi = rng_below(rng, 3) ? floats[rng_below(rng, ARRAY_SIZE(floats))] : (u32)rng_next(rng);

                memcpy(xsave + XMM_OFFSET + i, &lo, 4);
                memcpy(xsave + XSAVE_YMM_OFFSET + i, &hi, 4);
        }
}

static void random_x87(struct rng *rng, u8 *xsave)
{
        u16 fcw = 0x37f, fsw = (u16)(rng_below(rng, 8) << 11);
        u32 mxcsr = 0x1f80 | (u32)rng_below(rng, 4) << 13;

        if (rng_below(rng, 4) == 0)
                fcw = (u16)(0x40 | (rng_next(rng) & 0xf3f)); /* some exceptions unmasked, any rounding and precision */
        if (rng_below(rng, 8) == 0)
                mxcsr = (u32)(rng_next(rng) & 0xffff);
        if (rng_below(rng, 16) == 0)
                fsw |= (u16)(rng_next(rng) & 0x4700);
        memcpy(xsave, &fcw, 2);
        memcpy(xsave + 2, &fsw, 2);
        xsave[4] = rng_below(rng, 3) ? 0xff : (u8)rng_next(rng); /* abridged tags */
        memcpy(xsave + 24, &mxcsr, 4);
        for (unsigned i = 0; i < 8; i++) {
                u64 mantissa = rng_next(rng) | BIT(63);
                u16 exponent = (u16)(0x3fff + rng_below(rng, 80) - 40 + (rng_below(rng, 2) << 15));

                if (rng_below(rng, 6) == 0)
                        exponent = (u16)rng_next(rng);
                if (rng_below(rng, 6) == 0)
                        mantissa = rng_next(rng);
                memcpy(xsave + 32 + i * 16, &mantissa, 8);
                memcpy(xsave + 32 + i * 16 + 8, &exponent, 2);
        }
}

void case_random_state(struct rng *rng, struct machine_case *c)
{
        const u64 data = case_data_gva(c);

        for (unsigned i = 0; i < 16; i++)
                c->gpr[i] = c->compat ? (i < 8 ? (u32)interesting(rng, c) : 0) : interesting(rng, c);
        if (rng_below(rng, 4))
                c->gpr[RSP] = data + DATA_SIZE / 2 + rng_below(rng, 256) * 8;
        c->rflags = (rng_next(rng) & RFLAGS_ARITH) | RFLAGS_FIXED | RFLAGS_IF;
        if (rng_below(rng, 8) == 0)
                c->rflags |= RFLAGS_DF;
        c->fs_base = c->compat ? 0 : data + rng_below(rng, 64) * 8;
        c->gs_base = c->compat ? 0 : data + rng_below(rng, 64) * 8;
        memset(c->xsave, 0, sizeof(c->xsave));
        random_vectors(rng, c->xsave);
        random_x87(rng, c->xsave);
        for (unsigned i = 0; i < DATA_SIZE; i += 8) {
                u64 v = rng_next(rng);

                memcpy(c->data + i, &v, 8);
        }
}

void case_decoder(ZydisDecoder *decoder, bool compat)
{
        if (compat)
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
        else
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

void case_print_code(const struct machine_case *c)
{
        ZydisFormatter formatter;
        ZydisDecoder decoder;

        case_decoder(&decoder, c->compat);
        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        for (unsigned at = 0; at < c->length;) {
                ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
                ZydisDecodedInstruction insn;
                char text[128] = "?", bytes[48];
                unsigned length = 1, same = 0;

                /* Padding: one line. */
                while (at + same < c->length && (c->code[at] == 0xcc || c->code[at] == 0x90) && c->code[at + same] == c->code[at])
                        same++;
                if (same > 1) {
                        printf("#   0x%lx: %u x %02x\n", c->rip + at, same, c->code[at]);
                        at += same;
                        continue;
                }
                if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, c->code + at, c->length - at, &insn, ops))) {
                        ZydisFormatterFormatInstruction(&formatter, &insn, ops, insn.operand_count_visible, text, sizeof(text),
                                                        c->rip + at, NULL);
                        length = insn.length;
                }
                for (unsigned i = 0; i < length; i++)
                        sprintf(bytes + 3 * i, " %02x", c->code[at + i]);
                printf("#   0x%lx:%-46s  %s\n", c->rip + at, bytes, text);
                at += length;
        }
}

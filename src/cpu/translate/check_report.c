/* What a difference in lockstep checking looks like to people. */
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check.h"

static const char *const gpr_names[GPR_COUNT] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                  "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static void put_code(FILE *out, const char *title, const u8 *code, unsigned size, u64 rip)
{
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction insn;
        ZydisFormatter formatter;
        ZydisDecoder decoder;

        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        fprintf(out, "%s\n", title);
        for (unsigned at = 0; at < size;) {
                char text[128] = "?";
                unsigned length = 1;

                if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + at, size - at, &insn, ops))) {
                        ZydisFormatterFormatInstruction(&formatter, &insn, ops, insn.operand_count_visible, text, sizeof(text), rip + at,
                                                        NULL);
                        length = insn.length;
                }
                fprintf(out, "  %lx:", rip + at);
                for (unsigned i = 0; i < 15; i++)
                        i < length ? fprintf(out, " %02x", code[at + i]) : fprintf(out, "   ");
                fprintf(out, "  %s\n", text);
                at += length;
        }
}

static void put_row(FILE *out, const char *name, u64 before, u64 want, u64 got)
{
        fprintf(out, "  %-7s %016lx %016lx %016lx%s\n", name, before, want, got, want != got ? "  <--" : "");
}

static void put_bytes(FILE *out, const char *name, unsigned i, const u8 *want, const u8 *got, unsigned size)
{
        if (memcmp(want, got, size) == 0)
                return;
        fprintf(out, "  %s%u interp ", name, i);
        for (unsigned j = size; j-- > 0;)
                fprintf(out, "%02x", want[j]);
        fprintf(out, " translate ");
        for (unsigned j = size; j-- > 0;)
                fprintf(out, "%02x", got[j]);
        fprintf(out, "\n");
}

static void put_states(FILE *out, const struct check_report *r)
{
        const struct moment *b = r->before, *w = r->want, *g = r->got;

        fprintf(out, "          %-16s %-16s %-16s\n", "before", "interp", "translate");
        for (unsigned i = 0; i < GPR_COUNT; i++)
                put_row(out, gpr_names[i], b->regs[i], w->regs[i], g->regs[i]);
        put_row(out, "rip", b->rip, w->rip, g->rip);
        put_row(out, "rflags", b->rflags | flags_to_rflags(b->flags), w->rflags | flags_to_rflags(w->flags),
                g->rflags | flags_to_rflags(g->flags));
        if (strcmp(r->what, "system state") == 0) {
                put_row(out, "cr2", b->cpu.cr2, w->cpu.cr2, g->cpu.cr2);
                put_row(out, "cpl", b->cpu.cpl, w->cpu.cpl, g->cpu.cpl);
                put_row(out, "fs base", b->cpu.seg[SEG_FS].base, w->cpu.seg[SEG_FS].base, g->cpu.seg[SEG_FS].base);
                put_row(out, "gs base", b->cpu.seg[SEG_GS].base, w->cpu.seg[SEG_GS].base, g->cpu.seg[SEG_GS].base);
        }
        for (unsigned i = 0; i < 16; i++) {
                put_bytes(out, "xmm", i, w->xsave + 160 + i * 16, g->xsave + 160 + i * 16, 16);
                put_bytes(out, "ymm high", i, w->xsave + XSAVE_YMM_OFFSET + i * 16, g->xsave + XSAVE_YMM_OFFSET + i * 16, 16);
        }
        if (strcmp(r->what, "x87 or MXCSR") != 0)
                return;
        put_bytes(out, "x87 control ", 0, w->fpu, g->fpu, 6);
        put_bytes(out, "mxcsr ", 0, w->fpu + 24, g->fpu + 24, 4);
        for (unsigned i = 0; i < 8; i++)
                put_bytes(out, "st", i, w->fpu + 32 + i * 16, g->fpu + 32 + i * 16, 10);
}

void check_report(const struct check_report *r)
{
        _cleanup_free_ char *text = NULL;
        size_t size;
        FILE *out = open_memstream(&text, &size);

        if (!out)
                return;
        fprintf(out, "translated code differs from the interpreter in %s\n", r->what);
        if (strcmp(r->what, "memory") == 0)
                fprintf(out, "guest-physical %lx: interp %02x translate %02x\n", r->gpa, r->memory_want, r->memory_got);
        put_states(out, r);
        put_code(out, "guest code", r->code, r->block->guest_bytes, r->before->rip);
        put_code(out, "host code", block_code(r->block), r->block->code_size, (uintptr_t)block_code(r->block));
        fclose(out);
        for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
                *end = '\0';
                log_error("%s", line);
        }
}

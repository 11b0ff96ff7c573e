#include "x86_space.h"

#include <string.h>

struct walk {
        ZydisDecoder decoder;
        bool long_mode, rm_is_opcode;
        x86_space_visit *visit;
        void *opaque;
};

/* Tries the bytes in @head followed by each ModRM that matters, and zeros (a SIB, displacement or immediate). */
static void walk_modrm(struct walk *w, const u8 *head, size_t head_len, int last)
{
        u8 code[24] = { 0 };
        ZydisDecodedInstruction insn;
        ZydisDecoderContext context;

        memcpy(code, head, head_len);
        for (unsigned modrm = 0; modrm < 256; modrm++) {
                unsigned mod = modrm >> 6, rm = modrm & 7;

                /* [rax] and [rax + rax] stand for all memory operands; only the old maps use rm as more opcode. */
                if (mod == 3 ? rm != 0 && !w->rm_is_opcode : mod != 0 || (rm != 0 && rm != 4))
                        continue;
                code[head_len] = (u8)modrm;
                /* The suffix opcode of 3DNow! follows ModRM; elsewhere this is an immediate or a SIB byte. */
                code[head_len + 1] = (u8)(last >= 0 ? last : 0);
                if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&w->decoder, &context, code, sizeof(code), &insn)))
                        continue;
                w->visit(&w->decoder, code, insn.length, &insn, w->opaque);
        }
}

static void walk_legacy(struct walk *w)
{
        /* 67 selects jcxz, jecxz, jrcxz. */
        static const u8 prefixes[][2] = { { 0 }, { 0x66 }, { 0xf2 }, { 0xf3 }, { 0x66, 0xf2 }, { 0x66, 0xf3 },
                                          { 0x67 } };
        static const u8 maps[][2] = { { 0 }, { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a } };

        for (size_t p = 0; p < ARRAY_SIZE(prefixes); p++)
        for (unsigned rex = 0; rex <= w->long_mode; rex++)
        for (size_t m = 0; m < ARRAY_SIZE(maps); m++)
        for (unsigned op = 0; op < 256; op++) {
                u8 head[8];
                size_t n = 0;

                for (size_t i = 0; i < 2 && prefixes[p][i]; i++)
                        head[n++] = prefixes[p][i];
                if (rex)
                        head[n++] = 0x48;
                for (size_t i = 0; i < 2 && maps[m][i]; i++)
                        head[n++] = maps[m][i];
                head[n++] = (u8)op;
                walk_modrm(w, head, n, -1);
        }
        /* 3DNow! */
        for (unsigned suffix = 0; suffix < 256; suffix++)
                walk_modrm(w, (const u8[]){ 0x0f, 0x0f }, 2, (int)suffix);
}

/* VEX (C4) and XOP (8F) share a layout: RXBmmmmm, WvvvvLpp. */
static void walk_vex_like(struct walk *w, u8 escape, unsigned first_map, unsigned last_map)
{
        for (unsigned map = first_map; map <= last_map; map++)
        for (unsigned wlpp = 0; wlpp < 16; wlpp++)
        for (unsigned vvvv = 0; vvvv < 2; vvvv++)
        for (unsigned op = 0; op < 256; op++) {
                u8 head[4] = { escape, (u8)(0xe0 | map), 0, (u8)op };

                head[2] = (u8)((wlpp & 8) << 4 | (vvvv ? 0x70 : 0x78) | (wlpp & 7));
                walk_modrm(w, head, sizeof(head), -1);
        }
}

/* EVEX (@evex is 4) and MVEX (0): both start with 62 and differ in bit 2 of the third byte. */
static void walk_evex_like(struct walk *w, u8 evex)
{
        unsigned last_map = evex ? 6 : 3;

        for (unsigned map = 1; map <= last_map; map++)
        for (unsigned p1 = 0; p1 < 16; p1++)
        for (unsigned ll = 0; ll < 16; ll++)
        for (unsigned aaa = 0; aaa < 2; aaa++)
        for (unsigned op = 0; op < 256; op++) {
                u8 head[5] = { 0x62, (u8)(0xf0 | map), 0, 0, (u8)op };

                /* EVEX.z and vector length 3 select nothing new. */
                if (evex && ((ll & 8) || (ll >> 1) == 3))
                        continue;
                /* W, vvvv (none or a register), EVEX or MVEX, pp; then z/E, L'L/SSS, b, aaa */
                head[2] = (u8)((p1 & 8) << 4 | ((p1 & 4) ? 0x70 : 0x78) | evex | (p1 & 3));
                head[3] = (u8)(ll << 4 | 8 | aaa);
                walk_modrm(w, head, sizeof(head), -1);
        }
}

void x86_space_walk(ZydisMachineMode machine_mode, x86_space_visit *visit, void *opaque)
{
        struct walk w = { .long_mode = machine_mode == ZYDIS_MACHINE_MODE_LONG_64, .visit = visit, .opaque = opaque };
        ZydisStackWidth width = w.long_mode ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32;

        ZydisDecoderInit(&w.decoder, machine_mode, width);
        w.rm_is_opcode = true;
        walk_legacy(&w);
        /* VEX and its kin mean the same in all modes. */
        if (!w.long_mode)
                return;
        w.rm_is_opcode = false;
        walk_vex_like(&w, 0xc4, 1, 3);
        walk_vex_like(&w, 0x8f, 8, 10);
        walk_evex_like(&w, 4);
        /* Knights Corner gives some VEX encodings and 62 with bit 2 of its third byte clear other meanings. */
        ZydisDecoderEnableMode(&w.decoder, ZYDIS_DECODER_MODE_KNC, ZYAN_TRUE);
        w.rm_is_opcode = true;
        walk_legacy(&w);
        w.rm_is_opcode = false;
        walk_vex_like(&w, 0xc4, 1, 3);
        walk_evex_like(&w, 0);
}

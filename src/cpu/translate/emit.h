/* A small x86-64 assembler for the translator's own sequences. Guest instructions are re-encoded by reencode.c, not here.
 *
 * Registers are enum gpr numbers. Everything appends at e->p; running out of room sets e->full and drops the bytes, so only the end of a
 * block's emission has to look. Source of encodings: Intel SDM 2. */
#pragma once

#include <string.h>

#include "cpu/cpu.h"

struct emitter {
        u8 *start, *p, *end;
        const u8 *run_at; /* where start will run */
        bool jumps_in_line; /* see emit_jump_ahead */
        bool full;
};

static inline void emit_bytes(struct emitter *e, const void *bytes, size_t n)
{
        if ((size_t)(e->end - e->p) < n) {
                e->full = true;
                return;
        }
        memcpy(e->p, bytes, n);
        e->p += n;
}
static inline void emit_u8(struct emitter *e, unsigned v)
{
        const u8 b = (u8)v;

        emit_bytes(e, &b, 1);
}
static inline void emit_u32(struct emitter *e, u32 v)
{
        emit_bytes(e, &v, 4);
}
static inline void emit_u64(struct emitter *e, u64 v)
{
        emit_bytes(e, &v, 8);
}
static inline unsigned emit_off(const struct emitter *e)
{
        return (unsigned)(e->p - e->start);
}

/* A memory operand of the host: [base + index << scale + disp], by gs when gs is set. */
struct hmem {
        u8 base, index, scale; /* REG_NONE: absent */
        bool gs;
        s32 disp;
};
#define REG_NONE 0xff
static inline struct hmem hmem_ctx(s32 disp)
{
        return (struct hmem){ .base = RSP, .index = REG_NONE, .disp = disp };
}
static inline struct hmem hmem_base(unsigned base, s32 disp)
{
        return (struct hmem){ .base = (u8)base, .index = REG_NONE, .disp = disp };
}

#define EMIT_ROOM 32 /* bytes, more than any instruction has */
/* Where one instruction may be written byte by byte; NULL when there is no room for one. */
static inline u8 *emit_room(struct emitter *e)
{
        if (e->end - e->p >= EMIT_ROOM)
                return e->p;
        e->full = true;
        return NULL;
}

/* ModRM, SIB and displacement for @m with @reg in the reg field, at @p; returns where they end. */
static inline u8 *put_modrm_mem(u8 *p, unsigned reg, struct hmem m)
{
        const unsigned r = (reg & 7) << 3;
        const bool none = m.base == REG_NONE, sib = none || m.index != REG_NONE || (m.base & 7) == 4;
        const unsigned mod = none ? 0 : m.disp == 0 && (m.base & 7) != 5 ? 0 : m.disp == (s8)m.disp ? 1 : 2;

        *p++ = (u8)(mod << 6 | r | (sib ? 4 : m.base & 7));
        if (sib)
                *p++ = (u8)((unsigned)m.scale << 6 | (m.index == REG_NONE ? 4u : m.index & 7u) << 3 | (none ? 5 : m.base & 7));
        if (none || mod == 2) {
                memcpy(p, &m.disp, sizeof(m.disp));
                p += sizeof(m.disp);
        } else if (mod == 1) {
                *p++ = (u8)m.disp;
        }
        return p;
}
static inline void emit_modrm_mem(struct emitter *e, unsigned reg, struct hmem m)
{
        u8 *p = emit_room(e);

        if (p)
                e->p = put_modrm_mem(p, reg, m);
}
static inline unsigned rex_mem(bool w, unsigned reg, struct hmem m)
{
        return 0x40u | (w ? 8u : 0) | (reg & 8 ? 4u : 0) | (m.index != REG_NONE && m.index & 8 ? 2u : 0) |
               (m.base != REG_NONE && m.base & 8 ? 1u : 0);
}
/* [gs] [REX] opcode ModRM for an instruction with one register and one memory operand; @w: 64-bit. */
static inline void emit_op_mem(struct emitter *e, unsigned opcode, bool w, unsigned reg, struct hmem m)
{
        const unsigned rex = rex_mem(w, reg, m);
        u8 *p = emit_room(e);

        if (!p)
                return;
        if (m.gs)
                *p++ = 0x65;
        if (rex != 0x40)
                *p++ = (u8)rex;
        if (opcode > 0xff)
                *p++ = (u8)(opcode >> 8);
        *p++ = (u8)opcode;
        e->p = put_modrm_mem(p, reg, m);
}
/* The same with two registers: @rm in the r/m field. */
static inline void emit_op_reg(struct emitter *e, unsigned opcode, bool w, unsigned reg, unsigned rm)
{
        const unsigned rex = 0x40u | (w ? 8u : 0) | (reg & 8 ? 4u : 0) | (rm & 8 ? 1u : 0);
        u8 *p = emit_room(e);

        if (!p)
                return;
        if (rex != 0x40)
                *p++ = (u8)rex;
        if (opcode > 0xff)
                *p++ = (u8)(opcode >> 8);
        *p++ = (u8)opcode;
        *p++ = (u8)(0xc0 | (reg & 7) << 3 | (rm & 7));
        e->p = p;
}

static inline void emit_mov_rr(struct emitter *e, unsigned dst, unsigned src)
{
        emit_op_reg(e, 0x89, true, src, dst);
}
static inline void emit_load(struct emitter *e, unsigned dst, struct hmem m)
{
        emit_op_mem(e, 0x8b, true, dst, m);
}
static inline void emit_store(struct emitter *e, struct hmem m, unsigned src)
{
        emit_op_mem(e, 0x89, true, src, m);
}
static inline void emit_lea(struct emitter *e, unsigned dst, struct hmem m)
{
        emit_op_mem(e, 0x8d, true, dst, m);
}
/* mov dst, imm in the shortest form. */
static inline void emit_mov_imm(struct emitter *e, unsigned dst, u64 imm)
{
        if (imm <= 0xffffffffu) {
                if (dst & 8)
                        emit_u8(e, 0x41);
                emit_u8(e, 0xb8 | (dst & 7));
                emit_u32(e, (u32)imm);
        } else if (imm >= 0xffffffff80000000ULL) {
                emit_u8(e, 0x48 | (dst & 8 ? 1 : 0));
                emit_u8(e, 0xc7);
                emit_u8(e, 0xc0 | (dst & 7));
                emit_u32(e, (u32)imm);
        } else {
                emit_u8(e, 0x48 | (dst & 8 ? 1 : 0));
                emit_u8(e, 0xb8 | (dst & 7));
                emit_u64(e, imm);
        }
}
/* RORX dst, src, imm: no flags. */
static inline void emit_rorx(struct emitter *e, unsigned dst, unsigned src, unsigned imm)
{
        const u8 code[] = {
                0xc4, (u8)((dst & 8 ? 0 : 0x80u) | 0x40u | (src & 8 ? 0 : 0x20u) | 3u), 0xfb,
                0xf0, (u8)(0xc0 | (dst & 7) << 3 | (src & 7)), (u8)imm,
        };

        emit_bytes(e, code, sizeof(code));
}
/* One instruction that does nothing, of 1 to 9 bytes. Source: Intel SDM 2B, NOP, table 4-12. */
static inline void emit_nop(struct emitter *e, unsigned n)
{
        static const u8 nops[9][9] = {
                { 0x90 },
                { 0x66, 0x90 },
                { 0x0f, 0x1f, 0x00 },
                { 0x0f, 0x1f, 0x40, 0 },
                { 0x0f, 0x1f, 0x44, 0, 0 },
                { 0x66, 0x0f, 0x1f, 0x44, 0, 0 },
                { 0x0f, 0x1f, 0x80, 0, 0, 0, 0 },
                { 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 },
                { 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 },
        };

        emit_bytes(e, nops[n - 1], n);
}
/* The next @size bytes end with a jump, and begin with what may be fused with it. Many hosts do not keep a line of 32 bytes in their cache of decoded
 * instructions when a jump crosses its end or ends there (Intel, "Mitigations for Jump Conditional Code Erratum", 2019); a loop takes half as long again then.
 * So they are moved into one line. */
static inline void emit_jump_ahead(struct emitter *e, unsigned size)
{
        const unsigned at = (unsigned)((uintptr_t)e->run_at + emit_off(e)) & 31;
        unsigned pad = e->jumps_in_line && at + size > 31 ? 32 - at : 0;

        for (unsigned n; pad; pad -= n) {
                n = pad < 9 ? pad : 9;
                emit_nop(e, n);
        }
}
#define JCC_SIZE 6u
#define MEM_SIZE 9u /* at most: an instruction with an operand in the context, no immediate */
static inline s32 emit_rel(const struct emitter *e, const void *target, unsigned after)
{
        return (s32)((const u8 *)target - (e->run_at + emit_off(e) + after));
}
static inline void emit_jmp(struct emitter *e, const void *target)
{
        const s32 rel = emit_rel(e, target, 5);

        emit_u8(e, 0xe9);
        emit_u32(e, (u32)rel);
}
/* jmp/jcc rel32 with a displacement to be filled by emit_patch; returns the offset of the displacement. cc: condition code 0-15. */
static inline unsigned emit_jmp_later(struct emitter *e)
{
        emit_u8(e, 0xe9);
        emit_u32(e, 0);
        return emit_off(e) - 4;
}
static inline unsigned emit_jcc_later(struct emitter *e, unsigned cc)
{
        emit_u8(e, 0x0f);
        emit_u8(e, 0x80 | cc);
        emit_u32(e, 0);
        return emit_off(e) - 4;
}
/* Makes the rel32 at @patch_off point to @target_off of this code. */
static inline void emit_patch(struct emitter *e, unsigned patch_off, unsigned target_off)
{
        const s32 rel = (s32)target_off - (s32)(patch_off + 4);

        if (!e->full)
                memcpy(e->start + patch_off, &rel, 4);
}
static inline void emit_pushfq_image(struct emitter *e)
{
        static const u8 code[] = { 0x9c, 0x48, 0x8d, 0x64, 0x24, 0x08 };

        emit_bytes(e, code, sizeof(code));
}

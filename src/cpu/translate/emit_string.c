/* String instructions, and the bit-test family with a bit string in memory: one instruction is several steps here.
 *
 * A single element is done inline when EFLAGS.DF is clear; REP MOVS and REP STOS are done by fast functions (fast_string.c), page by page;
 * the other repeated ones and those that go down are the interpreter's. */
#include "block.h"

#define CC_NZ 5

/* Operation on @reg and [@base]: the one-byte opcode, the wider ones follow it. */
static void sized_op(struct block_emitter *b, unsigned opcode, unsigned reg, unsigned base, unsigned size)
{
        struct emitter *e = &b->e;

        if (size == 2)
                emit_u8(e, 0x66);
        emit_op_mem(e, size == 1 ? opcode : opcode + 1, size == 8, reg, hmem_base(base, 0));
}

static void advance(struct block_emitter *b, unsigned step, unsigned which)
{
        if (which & STRING_RSI) {
                block_record(b, RECORD_FINISH_STRING, b->next_off, step | (which & (STRING_RSI | STRING_RDI)));
                emit_lea(&b->e, RSI, hmem_base(RSI, (s32)step));
        }
        if (which & STRING_RDI) {
                block_record(b, RECORD_FINISH_STRING, b->next_off, step | STRING_RDI);
                emit_lea(&b->e, RDI, hmem_base(RDI, (s32)step));
        }
}

/* The string instructions by the low nibble's upper bits of their opcode: A4 MOVS, A6 CMPS, AA STOS, AC LODS, AE SCAS. */
static bool one_element(struct block_emitter *b, const struct insn *g)
{
        const unsigned size = g->element;

        switch (g->z.opcode & 0xfe) {
        case 0xa4:
                memory_at(b, RSI, 0, MMU_READ, size);
                sized_op(b, 0x8a, SCRATCH2, SCRATCH0, size);
                memory_at(b, RDI, 0, MMU_WRITE, size);
                sized_op(b, 0x88, SCRATCH2, SCRATCH0, size);
                advance(b, size, STRING_RSI | STRING_RDI);
                return true;
        case 0xa6:
                memory_at(b, RDI, 0, MMU_READ, size); /* processors report this operand's fault first */
                sized_op(b, 0x8a, SCRATCH2, SCRATCH0, size); /* both operands may come by way of the one in->bounce */
                memory_at(b, RSI, 0, MMU_READ, size);
                sized_op(b, 0x38, SCRATCH2, SCRATCH0, size); /* cmp r/m, reg */
                flags_written(b);
                advance(b, size, STRING_RSI | STRING_RDI);
                return true;
        case 0xaa:
                memory_at(b, RDI, 0, MMU_WRITE, size);
                sized_op(b, 0x88, RAX, SCRATCH0, size);
                advance(b, size, STRING_RDI);
                return true;
        case 0xac:
                memory_at(b, RSI, 0, MMU_READ, size);
                sized_op(b, 0x8a, RAX, SCRATCH0, size);
                advance(b, size, STRING_RSI);
                return true;
        case 0xae:
                memory_at(b, RDI, 0, MMU_READ, size);
                sized_op(b, 0x3a, RAX, SCRATCH0, size);
                flags_written(b);
                advance(b, size, STRING_RDI);
                return true;
        default:
                return false;
        }
}

bool emit_string(struct block_emitter *b, const struct insn *g)
{
        const bool repeated = g->bytes[0] == 0xf3 || g->bytes[0] == 0xf2 || g->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                                                                                               ZYDIS_ATTRIB_HAS_REPNE);
        struct emitter *e = &b->e;
        struct cold *down;

        b->class = INSN_INLINE;
        b->why = "string";
        if (repeated) {
                const unsigned opcode = g->z.opcode & 0xfe;

                if (!(g->z.attributes & ZYDIS_ATTRIB_HAS_REP) || (opcode != 0xa4 && opcode != 0xaa))
                        return false;
                b->class = INSN_CALL_OUT;
                emit_fast(b, opcode == 0xa4 ? FAST_REP_MOVS : FAST_REP_STOS, g->element);
                return true;
        }
        scratch2_take(b);
        flags_save(b);
        flags_destroyed(b);
        emit_op_mem(e, 0xf7, false, 0, hmem_ctx(CTX(rflags))); /* test dword [rflags], imm32 */
        emit_u32(e, RFLAGS_DF);
        down = block_cold(b, emit_jcc_later(e, CC_NZ), TEXIT_INTERP);
        if (down)
                down->arg = INTERP_REASON_STRING;
        return one_element(b, g);
}

/* BT, BTS, BTR, BTC [mem], reg: bit (reg mod bits) of the operand (reg / bits) operands further on. */
bool emit_bit_test(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        const unsigned size = g->mem_size, reg = insn_gpr(g->ops[1].reg.value);
        const struct hmem at = hmem_base(SCRATCH0, 0);
        struct renaming map = { .host = { 0 } };
        unsigned host;

        if (g->z.address_width == 32) /* would have to be cut to 32 bits after the operands further on were added, before the segment's base is */
                return false;
        b->class = INSN_INLINE;
        b->why = "bit string";
        scratch2_take(b);
        flags_save(b);
        if (!memory_address(b, g, 0))
                return false;
        flags_destroyed(b);
        host = reg_fetch(b, reg, SCRATCH2);
        if (size == 2)
                emit_op_reg(e, 0x0fbf, true, SCRATCH1, host); /* movsx */
        else if (size == 4)
                emit_op_reg(e, 0x63, true, SCRATCH1, host);   /* movsxd */
        else
                emit_mov_rr(e, SCRATCH1, host);
        emit_bytes(e, (const u8[]){ 0x49, 0xc1, 0xfb, (u8)(size == 2 ? 4 : size == 4 ? 5 : 6) }, 4); /* sar r11, imm */
        emit_lea(e, SCRATCH0, (struct hmem){ .base = SCRATCH0, .index = SCRATCH1, .scale = (u8)__builtin_ctz(size) });
        memory_probe(b, g->mem_writes ? MMU_WRITE : MMU_READ, size);
        if (host != SCRATCH2)
                emit_mov_rr(e, SCRATCH2, host);
        else
                reg_fetch(b, reg, SCRATCH2);
        emit_bytes(e, (const u8[]){ 0x41, 0x83, 0xe6, (u8)(size * 8 - 1) }, 4); /* and r14d, imm8 */
        flags_restore(b);
        map.host[reg] = SCRATCH2;
        if (!reencode(e, g, &map, &at))
                return false;
        flags_written(b);
        return true;
}

/* Works on the encoding itself, field by field, so that every instruction with a ModRM byte or a register in its opcode can be renamed
 * without knowing what it does. Source of the layout: Intel SDM 2A, chapter 2. */
#include "reencode.h"

/* The parts of an encoding. */
struct fields {
        u8 legacy[ZYDIS_MAX_INSTRUCTION_LENGTH];
        unsigned n_legacy;
        unsigned rex;           /* W R X B in bits 3-0 */
        bool vex;
        unsigned map, vvvv, pp, l; /* VEX */
        u8 opcode[3];
        unsigned n_opcode;
        bool has_modrm;
        unsigned reg, rm, mod;
        unsigned tail;          /* offset of the immediate */
        bool reg_is_gpr, rm_is_gpr, vvvv_is_gpr, opcode_is_gpr;
        bool reg_high, rm_high; /* AH..BH */
        bool byte_needs_rex;    /* a byte register 4-7 that is SPL..DIL */
};

static bool is_segment_prefix(u8 b)
{
        return b == 0x26 || b == 0x2e || b == 0x36 || b == 0x3e || b == 0x64 || b == 0x65;
}

/* Legacy prefixes that mean something to the host: not segments, not the address size. Returns the offset behind them and REX. */
static unsigned parse_prefixes(const struct insn *g, struct fields *f)
{
        unsigned i = 0;

        for (; i < g->z.length; i++) {
                const u8 b = g->bytes[i];

                if (b == 0x66 || b == 0xf0 || b == 0xf2 || b == 0xf3) {
                        f->legacy[f->n_legacy++] = b;
                        f->rex = 0;
                } else if (is_segment_prefix(b) || b == 0x67) {
                        f->rex = 0;
                } else if ((b & 0xf0) == 0x40) {
                        f->rex = b; /* counts only as the last one */
                } else {
                        break;
                }
        }
        return i;
}

static unsigned parse_vex(const struct insn *g, unsigned i, struct fields *f)
{
        const u8 *b = g->bytes + i;

        f->vex = true;
        if (b[0] == 0xc5) {
                f->rex = b[1] & 0x80 ? 0 : 4;
                f->map = 1;
                f->vvvv = (~b[1] >> 3) & 15;
                f->l = b[1] >> 2 & 1;
                f->pp = b[1] & 3;
                return i + 2;
        }
        f->rex = (~b[1] >> 5 & 7u) | (b[2] & 0x80 ? 8u : 0);
        f->map = b[1] & 31;
        f->vvvv = (~b[2] >> 3) & 15;
        f->l = b[2] >> 2 & 1;
        f->pp = b[2] & 3;
        return i + 3;
}

static void note_registers(const struct insn *g, struct fields *f)
{
        for (unsigned i = 0; i < g->z.operand_count_visible; i++) {
                const ZydisDecodedOperand *op = &g->ops[i];
                bool gpr, high;

                if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
                        continue;
                gpr = decode_is_gpr(op->reg.value);
                high = decode_is_high_byte(op->reg.value);
                f->byte_needs_rex |= op->reg.value >= ZYDIS_REGISTER_SPL && op->reg.value <= ZYDIS_REGISTER_DIL;
                switch (op->encoding) {
                case ZYDIS_OPERAND_ENCODING_MODRM_REG:
                        f->reg_is_gpr = gpr;
                        f->reg_high = high;
                        break;
                case ZYDIS_OPERAND_ENCODING_MODRM_RM:
                        f->rm_is_gpr = gpr;
                        f->rm_high = high;
                        break;
                case ZYDIS_OPERAND_ENCODING_NDSNDD:
                        f->vvvv_is_gpr = gpr;
                        break;
                case ZYDIS_OPERAND_ENCODING_OPCODE:
                        f->opcode_is_gpr = gpr && !high;
                        break;
                default:
                        break;
                }
        }
}

static void parse(const struct insn *g, struct fields *f)
{
        unsigned i, end;

        memset(f, 0, sizeof(*f));
        i = parse_prefixes(g, f);
        if (g->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
                i = parse_vex(g, i, f);
        f->has_modrm = g->z.attributes & ZYDIS_ATTRIB_HAS_MODRM;
        f->tail = g->z.raw.imm[0].size ? g->z.raw.imm[0].offset : g->z.length;
        end = f->has_modrm ? g->z.raw.modrm.offset : f->tail;
        while (i < end && f->n_opcode < sizeof(f->opcode))
                f->opcode[f->n_opcode++] = g->bytes[i++];
        if (f->has_modrm) {
                const u8 modrm = g->bytes[g->z.raw.modrm.offset];

                f->mod = modrm >> 6;
                f->reg = (modrm >> 3 & 7u) | (f->rex & 4 ? 8u : 0);
                f->rm = (modrm & 7u) | (f->rex & 1 ? 8u : 0);
                /* Behind ModRM, SIB and displacement comes what is copied: immediates and the register of an is4 byte. */
                f->tail = g->z.raw.modrm.offset + 1u + (g->z.attributes & ZYDIS_ATTRIB_HAS_SIB ? 1u : 0) + g->z.raw.disp.size / 8u;
        }
        note_registers(g, f);
}

static void emit_vex(struct emitter *e, const struct fields *f, unsigned rex)
{
        emit_u8(e, 0xc4);
        emit_u8(e, (~rex & 7) << 5 | f->map);
        emit_u8(e, (rex & 8) << 4 | (~f->vvvv & 15) << 3 | f->l << 2 | f->pp);
}

bool reencode(struct emitter *e, const struct insn *g, const struct renaming *map, const struct hmem *mem)
{
        struct fields f;
        unsigned rex, last;

        parse(g, &f);
        if (f.reg_is_gpr && !f.reg_high)
                f.reg = map->host[f.reg];
        if (f.rm_is_gpr && !f.rm_high && !mem)
                f.rm = map->host[f.rm];
        if (f.vvvv_is_gpr)
                f.vvvv = map->host[f.vvvv];
        rex = f.rex & 8;
        last = f.n_opcode ? f.opcode[f.n_opcode - 1] : 0;
        if (f.opcode_is_gpr) {
                const unsigned r = map->host[(last & 7) | (f.rex & 1 ? 8 : 0)];

                last = (last & ~7u) | (r & 7);
                rex |= r & 8 ? 1 : 0;
        }
        if (f.has_modrm) {
                rex |= f.reg & 8 ? 4 : 0;
                if (mem)
                        rex |= rex_mem(false, 0, *mem) & 3;
                else
                        rex |= f.rm & 8 ? 1 : 0;
        }
        if (g->high_byte && (rex || f.byte_needs_rex))
                return false;
        if (mem && mem->gs)
                emit_u8(e, 0x65);
        if (f.vex) {
                emit_bytes(e, f.legacy, f.n_legacy);
                emit_vex(e, &f, rex);
        } else {
                emit_bytes(e, f.legacy, f.n_legacy);
                if (rex || f.byte_needs_rex)
                        emit_u8(e, 0x40 | rex);
        }
        if (f.n_opcode > 1)
                emit_bytes(e, f.opcode, f.n_opcode - 1);
        emit_u8(e, last);
        if (f.has_modrm) {
                if (mem)
                        emit_modrm_mem(e, f.reg, *mem);
                else
                        emit_u8(e, 0xc0u | (f.reg & 7) << 3 | (f.rm & 7));
        }
        emit_bytes(e, g->bytes + f.tail, g->z.length - f.tail);
        return true;
}

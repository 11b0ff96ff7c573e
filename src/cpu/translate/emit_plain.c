/* Instructions that the host executes as they are, but for the names of registers and the address of their memory operand; and the
 * few that only move data between registers and the stack. */
#include "block.h"

static const u8 identity_host[GPR_COUNT] = { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

const u8 host_reg_of[GPR_COUNT] = {
        RAX, RCX, RDX, RBX, HOST_GUEST_RSP, RBP, RSI, RDI, R8, R9, HOST_NONE, HOST_NONE, R12, R13, HOST_NONE, HOST_NONE,
};

/* Explicit operands that live in memory, and which scratch registers stand for them. */
struct spills {
        struct renaming map;
        u8 reg[2], host[2];
        bool read[2], written[2];
        unsigned n;
};

static bool is_spilled(unsigned reg)
{
        return host_reg_of[reg] == HOST_NONE;
}

static int spill_slot(struct spills *s, unsigned reg)
{
        for (unsigned i = 0; i < s->n; i++)
                if (s->reg[i] == reg)
                        return (int)i;
        if (s->n == ARRAY_SIZE(s->reg))
                return -1;
        s->reg[s->n] = (u8)reg;
        return (int)s->n++;
}

/* Collects the spilled explicit register operands. False: more than the scratch registers can hold. */
static bool spills_find(const struct insn *g, struct spills *s, const ZydisDecodedOperand *but_not)
{
        unsigned written = 0;

        memset(s, 0, sizeof(*s));
        memcpy(s->map.host, identity_host, sizeof(identity_host));
        s->map.host[RSP] = HOST_GUEST_RSP;
        for (unsigned i = 0; i < g->z.operand_count; i++) {
                const ZydisDecodedOperand *op = &g->ops[i];
                unsigned reg;
                int slot;

                if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || op == but_not || !decode_is_gpr(op->reg.value))
                        continue;
                reg = insn_gpr(op->reg.value);
                if (!is_spilled(reg))
                        continue;
                slot = spill_slot(s, reg);
                if (slot < 0)
                        return false;
                /* Narrow and conditional writes keep the rest; BSF and BSR of 0 keep all. */
                s->read[slot] |= op->actions & ZYDIS_OPERAND_ACTION_MASK_READ || op->size < 32 ||
                                 op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE || g->z.mnemonic == ZYDIS_MNEMONIC_BSF ||
                                 g->z.mnemonic == ZYDIS_MNEMONIC_BSR;
                s->written[slot] |= op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        }
        for (unsigned i = 0; i < s->n; i++)
                written += s->written[i];
        if (written > 1)
                return false;
        /* The one that is written is in scratch 1: RECORD_FINISH_REG. */
        for (unsigned i = 0; i < s->n; i++) {
                const bool other_written = s->n == 2 && s->written[1 - i];

                s->host[i] = s->written[i] || (i == 0 && !other_written) ? SCRATCH1 : SCRATCH2;
                s->map.host[s->reg[i]] = s->host[i];
        }
        return true;
}

/* The r/m operand when it is a spilled register that the instruction can as well use in memory, in in->regs. */
static const ZydisDecodedOperand *operand_in_place(const struct insn *g)
{
        if (g->mem || g->vector || g->high_byte)
                return NULL;
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_XCHG: /* would lock */
        case ZYDIS_MNEMONIC_BT:   /* would address bits beyond */
        case ZYDIS_MNEMONIC_BTC:
        case ZYDIS_MNEMONIC_BTR:
        case ZYDIS_MNEMONIC_BTS:
        case ZYDIS_MNEMONIC_XADD:
        case ZYDIS_MNEMONIC_CMPXCHG:
        case ZYDIS_MNEMONIC_ROL:  /* leaves another OF when it is undefined */
        case ZYDIS_MNEMONIC_ROR:
        case ZYDIS_MNEMONIC_RCL:
        case ZYDIS_MNEMONIC_RCR:
        case ZYDIS_MNEMONIC_BSWAP:
        case ZYDIS_MNEMONIC_RDRAND:
        case ZYDIS_MNEMONIC_RDSEED:
                return NULL;
        default:
                break;
        }
        for (unsigned i = 0; i < g->z.operand_count_visible; i++) {
                const ZydisDecodedOperand *op = &g->ops[i];

                if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                    !decode_is_gpr(op->reg.value) || !is_spilled(insn_gpr(op->reg.value)))
                        continue;
                /* Writes of 32 bits clear the upper half; the same register elsewhere in the instruction would be a copy. */
                if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE && op->size == 32)
                        return NULL;
                for (unsigned k = 0; k < g->z.operand_count; k++)
                        if (k != i && g->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER && decode_is_gpr(g->ops[k].reg.value) &&
                            insn_gpr(g->ops[k].reg.value) == insn_gpr(op->reg.value))
                                return NULL;
                return op;
        }
        return NULL;
}

static void flags_after(struct block_emitter *b, const struct insn *g)
{
        if (g->writes_flags)
                flags_written(b);
}

/* AH..BH and a memory operand: no REX prefix is possible, so the address goes into a low register that the instruction does not use. */
static bool emit_high_byte(struct block_emitter *b, const struct insn *g, const struct renaming *map, struct hmem at)
{
        static const u8 candidates[] = { RSI, RDI, RBX, RDX, RCX, RAX };
        struct emitter *e = &b->e;
        struct hmem mem;
        unsigned low = GPR_COUNT;

        for (size_t i = 0; i < ARRAY_SIZE(candidates) && low == GPR_COUNT; i++)
                if (!(g->gprs & BIT(candidates[i])))
                        low = candidates[i];
        if (low == GPR_COUNT)
                return false;
        emit_mov_rr(e, SCRATCH1, low);
        block_record(b, RECORD_SWAPPED, b->guest_off, low);
        emit_lea(e, low, at);
        mem = hmem_base(low, 0);
        mem.gs = at.gs;
        if (!reencode(e, g, map, &mem))
                return false;
        flags_after(b, g);
        block_record(b, RECORD_FINISH_REG, b->next_off, low);
        emit_mov_rr(e, low, SCRATCH1);
        return true;
}

/* The operand is in in->bounce and goes to its two pages. Instructions that write a spilled register too, and locked ones, are the interpreter's. */
static bool emit_split_end(struct block_emitter *b, const struct insn *g, const struct spills *s)
{
        if (!g->mem_writes || s->written[0] || s->written[1] || g->z.attributes & ZYDIS_ATTRIB_HAS_LOCK ||
            g->z.mnemonic == ZYDIS_MNEMONIC_XCHG)
                return false;
        block_record(b, RECORD_FINISH_SPLIT, b->next_off, 0);
        if (!b->image_valid)
                emit_pushfq_image(&b->e);
        b->image_valid = true;
        block_record(b, RECORD_FINISH_SPLIT, b->next_off, 0);
        emit_fast(b, FAST_SPLIT_END, 0);
        return true;
}

/* Two spilled operands need scratch 2: a window in it is closed, after this operand was reached through it. */
static void scratch2_taken(struct block_emitter *b, const struct hmem **mem, struct hmem *at)
{
        if (*mem && at->base == SCRATCH2) {
                emit_lea(&b->e, SCRATCH0, *at);
                *at = hmem_base(SCRATCH0, 0);
        }
        scratch2_take(b);
}

bool emit_plain(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        const ZydisDecodedOperand *in_place = operand_in_place(g);
        const struct hmem *mem = NULL;
        struct hmem at;
        struct spills s;

        if (!spills_find(g, &s, in_place))
                return false;
        if (in_place) {
                at = hmem_ctx(CTX_REG((s32)insn_gpr(in_place->reg.value)));
                mem = &at;
        }
        b->class = g->mem ? INSN_INLINE : s.n || in_place || g->gprs & BIT(RSP) ? INSN_RENAMED : INSN_IDENTITY;
        b->why = g->mem ? "memory operand" : b->class == INSN_RENAMED ? "register that lives elsewhere" : NULL;
        if (g->mem) {
                if (!memory_operand(b, g, g->mem_writes ? MMU_WRITE : MMU_READ, &at))
                        return false;
                mem = &at;
        }
        if (s.n == 2)
                scratch2_taken(b, &mem, &at);
        if (g->needs_flags)
                flags_restore(b);
        if (g->mem && g->high_byte)
                return !(b->req->mode & MODE_SPLIT) && emit_high_byte(b, g, &s.map, at);
        for (unsigned i = 0; i < s.n; i++)
                if (s.read[i])
                        emit_load(e, s.host[i], hmem_ctx(CTX_REG(s.reg[i])));
        if (!reencode(e, g, &s.map, mem))
                return false;
        flags_after(b, g);
        if (g->mem && b->req->mode & MODE_SPLIT)
                return emit_split_end(b, g, &s);
        for (unsigned i = 0; i < s.n; i++) {
                if (!s.written[i])
                        continue;
                block_record(b, RECORD_FINISH_REG, b->next_off, s.reg[i]);
                emit_store(e, hmem_ctx(CTX_REG(s.reg[i])), s.host[i]);
        }
        return true;
}

bool emit_lea_insn(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        const unsigned dst = insn_gpr(g->ops[0].reg.value);
        const unsigned host = is_spilled(dst) ? SCRATCH1 : host_reg_of[dst];
        const ZydisDecodedOperandMem *m = &g->ops[1].mem;
        const bool wide = g->z.operand_width == 64;
        struct hmem h = { .base = REG_NONE, .index = REG_NONE, .disp = (s32)m->disp.value };

        b->class = INSN_RENAMED;
        if (g->z.operand_width == 16 || g->z.address_width != 64 || m->disp.value != (s32)m->disp.value)
                return false;
        if (m->base == ZYDIS_REGISTER_RIP) {
                const s64 at = offset_in_page(b, g, m->disp.value);

                if (at != (s32)at)
                        return false;
                b->class = INSN_INLINE;
                b->why = "relative to the instruction's address";
                emit_guest_address(b, SCRATCH1, at);
                if (!is_spilled(dst) || !wide)
                        emit_op_reg(e, 0x89, wide, SCRATCH1, host);
        } else {
                if (m->base != ZYDIS_REGISTER_NONE)
                        h.base = (u8)reg_fetch(b, insn_gpr(m->base), SCRATCH0);
                if (m->index != ZYDIS_REGISTER_NONE) {
                        h.index = (u8)reg_fetch(b, insn_gpr(m->index), SCRATCH1);
                        h.scale = (u8)__builtin_ctz(m->scale ? m->scale : 1);
                }
                emit_op_mem(e, 0x8d, wide, host, h);
        }
        if (is_spilled(dst))
                emit_store(e, hmem_ctx(CTX_REG(dst)), SCRATCH1);
        return true;
}

/* ---- the stack ---- */

static void move_rsp(struct block_emitter *b, s32 by)
{
        emit_lea(&b->e, HOST_GUEST_RSP, hmem_base(HOST_GUEST_RSP, by));
}

bool emit_push(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        const ZydisDecodedOperand *op = &g->ops[0];
        struct hmem from, to;
        unsigned value = SCRATCH1;

        b->class = INSN_INLINE;
        b->why = "stack";
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !decode_is_gpr(op->reg.value))
                return false;
        if (g->mem) {
                const bool open = memory_stack_open(b, g);

                if (!memory_operand(b, g, MMU_READ, &from))
                        return false;
                /* The look for the stack's place needs scratch 1. */
                value = open && memory_stack_open(b, g) ? SCRATCH1 : scratch2_take(b);
                emit_load(e, value, from);
        }
        memory_stack(b, g, -8, MMU_WRITE, &to);
        if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
                emit_op_mem(e, 0xc7, true, 0, to);
                emit_u32(e, (u32)op->imm.value.s);
        } else {
                if (!g->mem)
                        value = reg_fetch(b, insn_gpr(op->reg.value), SCRATCH1);
                emit_store(e, to, value);
        }
        move_rsp(b, -8);
        return true;
}

bool emit_pop(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        struct hmem from;
        unsigned reg;

        b->class = INSN_INLINE;
        b->why = "stack";
        if (g->mem || !decode_is_gpr(g->ops[0].reg.value))
                return false;
        reg = insn_gpr(g->ops[0].reg.value);
        memory_stack(b, g, 0, MMU_READ, &from);
        if (reg == RSP) {
                emit_load(e, HOST_GUEST_RSP, from);
                return true;
        }
        if (is_spilled(reg)) {
                emit_load(e, SCRATCH1, from);
                emit_store(e, hmem_ctx(CTX_REG(reg)), SCRATCH1);
        } else {
                emit_load(e, host_reg_of[reg], from);
        }
        block_record(b, RECORD_FINISH_RSP, b->next_off, 8);
        move_rsp(b, 8);
        return true;
}

bool emit_leave(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        struct hmem from;

        b->class = INSN_INLINE;
        b->why = "stack";
        memory_stack(b, g, 0, MMU_READ, &from);
        emit_load(e, SCRATCH1, from);
        emit_lea(e, HOST_GUEST_RSP, hmem_base(RBP, 8));
        block_record(b, RECORD_FINISH_REG, b->next_off, RBP);
        emit_mov_rr(e, RBP, SCRATCH1);
        return true;
}

bool emit_pushfq(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        struct hmem to;

        b->class = INSN_INLINE;
        b->why = "flags and stack";
        flags_save(b);
        memory_stack(b, g, -8, MMU_WRITE, &to);
        flags_destroyed(b);
        emit_load(e, SCRATCH1, hmem_ctx(CTX(flags_image)));
        emit_bytes(e, (const u8[]){ 0x41, 0x81, 0xe3 }, 3); /* and r11d, imm32 */
        emit_u32(e, RFLAGS_ARITH);
        emit_op_mem(e, 0x0b, true, SCRATCH1, hmem_ctx(CTX(rflags)));
        emit_bytes(e, (const u8[]){ 0x49, 0x81, 0xe3 }, 3); /* and r11, simm32 */
        emit_u32(e, (u32)~(RFLAGS_RF | RFLAGS_VM));
        emit_store(e, to, SCRATCH1);
        move_rsp(b, -8);
        return true;
}

bool emit_flag_bit(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        const bool set = g->z.mnemonic == ZYDIS_MNEMONIC_STAC || g->z.mnemonic == ZYDIS_MNEMONIC_STD;
        u32 bit = RFLAGS_AC;

        b->class = INSN_INLINE;
        b->why = "flag outside of the arithmetic ones";
        if (g->z.mnemonic == ZYDIS_MNEMONIC_CLI)
                bit = RFLAGS_IF;
        else if (g->z.mnemonic == ZYDIS_MNEMONIC_CLD || g->z.mnemonic == ZYDIS_MNEMONIC_STD)
                bit = RFLAGS_DF;
        else
                b->ac = set;
        flags_save(b);
        flags_destroyed(b);
        emit_op_mem(e, 0x81, false, set ? 1 : 4, hmem_ctx(CTX(rflags))); /* or, and dword [rflags], imm32 */
        emit_u32(e, set ? bit : ~bit);
        return true;
}

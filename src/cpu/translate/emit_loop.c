/* Loops by way of a shadow window (emit_shadow.c).
 *
 * A block that ends in a jump to its own beginning, as the inner loops of computations do: what does not change in the loop is compared once before it;
 * what is counted up or down is compared once a round, behind the ADD or SUB whose flags nobody needs. Then nothing in the loop destroys flags, and they
 * need no saving:
 *
 *      A, B    comparisons; flags restored to EFLAGS
 *      loop    op gs:[base + index * 8]
 *              add index, 4
 *              movsxd r11, index; cmp r11, index; jne cold    cold: sub index, 4; add index, 4, so that the flags are the ADD's
 *              cmp index, end
 *              jne loop
 *
 * All operands of the loop must be of this kind, else it is left alone. The jump is a link like any other, so that it can be cut. */
#include "emit_shadow.h"

#include <string.h>

/* ---- is it one? ---- */

static bool add_use(struct loop *l, struct value v, struct purpose p)
{
        struct loop_use *use = &l->uses[l->n_uses];

        for (unsigned i = 0; i < l->n_uses; i++)
                if (l->uses[i].value.symbol == v.symbol && l->uses[i].purpose.what == p.what)
                        return true;
        if (l->n_uses == LOOP_USES_MAX)
                return false;
        *use = (struct loop_use){ .value = { .symbol = v.symbol }, .purpose = p, .reg = GPR_COUNT };
        if (v.symbol >= SYMBOL_FIRST && v.symbol < SYMBOL_FIRST + GPR_COUNT) {
                use->reg = (u8)(v.symbol - SYMBOL_FIRST);
                if (l->end[use->reg].symbol != v.symbol)
                        return false;
                use->counted = l->end[use->reg].off != 0;
        } else if (v.symbol != SYMBOL_RIP) {
                return false;
        }
        l->n_uses++;
        return true;
}

static bool add_operand(const struct block_emitter *b, const struct insn *g, struct loop *l)
{
        struct shadow_access a = { .base = g->base, .index = g->index, .operand = OPERAND_EXPLICIT };

        if (g->kind != KIND_PLAIN || !shadow_is_simple(g) || g->base.symbol == SYMBOL_FS || !shadow_decide(b, g, &a) || a.range == SHADOW_NONE ||
            (a.index.symbol && a.sum))
                return false;
        if (a.base.symbol ? !add_use(l, a.base, purpose_of(g, a.range, a.operand)) : a.range != SHADOW_LOW)
                return false;
        return !a.index.symbol || a.index.narrow || add_use(l, a.index, purpose_of(g, CHECK_INDEX, a.operand));
}

/* ADD or SUB of a constant, whose flags can be had again by undoing and doing it. */
static bool redo_of(const struct insn *g, struct redo *ret)
{
        const bool add = g->z.mnemonic == ZYDIS_MNEMONIC_ADD, sub = g->z.mnemonic == ZYDIS_MNEMONIC_SUB;

        if ((!add && !sub) || g->mem || g->z.operand_width < 32 || g->ops[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
                return false;
        *ret = (struct redo){ .host = host_reg_of[insn_gpr(g->ops[0].reg.value)], .wide = g->z.operand_width == 64, .sub = sub,
                              .by = (s32)g->ops[1].imm.value.s, .set = true };
        return ret->host != HOST_NONE;
}

static bool changes_counted(const struct loop *l, const struct insn *g)
{
        const ZydisDecodedOperand *dst = &g->ops[0]; /* of ADD, SUB and the like: others leave nothing that counts (window.c) */

        for (unsigned i = 0; i < l->n_uses; i++)
                if (l->uses[i].counted && insn_writes_gpr(dst) && insn_gpr(dst->reg.value) == l->uses[i].reg)
                        return true;
        return false;
}

static bool writes_reg(const struct insn *g, unsigned host)
{
        for (unsigned i = 0; i < g->z.operand_count; i++) {
                const ZydisDecodedOperand *op = &g->ops[i];

                if (insn_writes_gpr(op) && host_reg_of[insn_gpr(op->reg.value)] == host)
                        return true;
        }
        return false;
}

/* Can instruction @flags be undone and done again at @latch? */
static bool find_redo(const struct block_emitter *b, struct loop *l, unsigned flags)
{
        if (!redo_of(&b->insns[flags], &l->redo))
                return false;
        for (unsigned i = flags + 1; i < l->latch; i++)
                if (writes_reg(&b->insns[i], l->redo.host))
                        return false;
        return true;
}

/* Where counted registers can be compared: behind the last change of one, before an instruction that sets all flags anew and cannot fault. */
static bool find_latch(const struct block_emitter *b, struct loop *l)
{
        int changed = -1, flags = -1;

        for (unsigned i = 0; i < l->n; i++)
                if (changes_counted(l, &b->insns[i]))
                        changed = (int)i;
        l->latch = l->n;
        if (changed < 0)
                return true;
        for (unsigned i = 0; i < l->n; i++) {
                const struct insn *g = &b->insns[i];

                if ((int)i > changed && flags >= 0 && g->kind == KIND_PLAIN && !g->mem && !g->vector && g->kills_flags && !g->needs_flags) {
                        l->latch = i;
                        return find_redo(b, l, (unsigned)flags);
                }
                if (g->writes_flags)
                        flags = (int)i;
        }
        return false;
}

static bool is_straight(const struct insn *g)
{
        return g->kind == KIND_PLAIN || g->kind == KIND_LEA || g->kind == KIND_NOP || g->kind == KIND_JCC;
}

static bool is_jump_back(const struct insn *g)
{
        return g->kind == KIND_JCC && g->off + g->z.length + g->ops[0].imm.value.s == 0;
}

static bool find_loop(const struct block_emitter *b, struct loop *l)
{
        if (b->req->no_chains || b->req->mode & (MODE_UNSHARED | MODE_SPLIT | MODE_CROSSING))
                return false;
        for (l->n = 1; l->n <= b->n_insns; l->n++) {
                const struct insn *g = &b->insns[l->n - 1];

                if (!is_straight(g))
                        return false;
                l->vectors |= g->vector;
                if (is_jump_back(g))
                        break;
        }
        if (l->n > b->n_insns)
                return false;
        windows_values_after(b->insns, l->n, l->end);
        for (unsigned i = 0; i < l->n; i++)
                if (b->insns[i].mem && b->insns[i].kind != KIND_LEA && b->insns[i].kind != KIND_NOP && !add_operand(b, &b->insns[i], l))
                        return false;
        return l->n_uses && find_latch(b, l);
}

/* ---- emission ---- */

static void emit_use(struct block_emitter *b, const struct loop_use *use, struct value value)
{
        const bool index = use->purpose.what == CHECK_INDEX;
        unsigned host = SCRATCH0;

        if (use->reg == GPR_COUNT)
                emit_load(&b->e, SCRATCH0, hmem_ctx(CTX(page_va)));
        else if (!index || host_reg_of[use->reg] != HOST_NONE)
                host = reg_fetch(b, use->reg, SCRATCH0);
        if (index && host == SCRATCH0)
                shadow_check_spilled(b, use->reg, value, use->purpose);
        else
                shadow_check(b, host, value, use->purpose);
}

void loop_begin(struct block_emitter *b)
{
        struct loop *l = &b->loop;

        *l = (struct loop){ .n = 0 };
        if (!b->shadow || !find_loop(b, l)) {
                l->n = 0;
                return;
        }
        b->guest_off = 0;
        if (l->vectors)
                check_vectors(b);
        flags_save(b);
        for (unsigned i = 0; i < l->n_uses; i++)
                emit_use(b, &l->uses[i], l->uses[i].value);
        flags_restore(b);
        b->image_valid = false; /* it is not in later rounds */
        block_record(b, RECORD_RESTART, 0, 0);
        b->out->loop_off = (u16)emit_off(&b->e);
}

void loop_latch(struct block_emitter *b, const struct insn *g)
{
        const struct loop *l = &b->loop;

        b->guest_off = g->off;
        b->eflags_valid = b->image_valid = false;
        block_record_restart(b);
        b->redo = l->redo;
        for (unsigned i = 0; i < l->n_uses; i++)
                if (l->uses[i].counted)
                        emit_use(b, &l->uses[i], (struct value){ 0 });
        b->redo.set = false;
}

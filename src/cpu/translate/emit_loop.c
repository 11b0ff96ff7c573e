/* Loops by way of a shadow window (emit_shadow.c).
 *
 * A block that jumps back to its own beginning, as the inner loops of computations do, begins with what needs to be done only once: comparing the
 * registers that the loop does not change with the ranges that their addresses must be in. Rounds keep the flags in EFLAGS, since what has to be compared in
 * them is compared by probes (mmu/shadow.h):
 *
 *      A, B    flags restored to EFLAGS; comparisons
 *      loop    op gs:[base + index * 8]
 *              add index, 4
 *              cmp index, end
 *              jne loop
 *
 * The jump is a link like any other, so that it can be cut. */
#include "emit_shadow.h"

#define AHEAD_MAX 255u /* bytes: struct record */

static void add_use(struct loop *l, struct value v, struct purpose p)
{
        struct loop_use *use = &l->uses[l->n_uses];
        u8 reg = GPR_COUNT;

        if (v.symbol >= SYMBOL_FIRST && v.symbol < SYMBOL_FIRST + GPR_COUNT) {
                reg = (u8)(v.symbol - SYMBOL_FIRST);
                if (l->written & 1u << reg)
                        return;
        } else if (v.symbol != SYMBOL_RIP) {
                return;
        }
        for (unsigned i = 0; i < l->n_uses; i++)
                if (l->uses[i].value.symbol == v.symbol && l->uses[i].purpose.what == p.what)
                        return;
        if (l->n_uses == LOOP_USES_MAX || p.guest_off > AHEAD_MAX)
                return;
        *use = (struct loop_use){ .value = { .symbol = v.symbol }, .purpose = p, .reg = reg };
        l->n_uses++;
}

static void add_operand(const struct block_emitter *b, const struct insn *g, struct loop *l)
{
        struct shadow_access a = { .base = g->base, .index = g->index, .operand = OPERAND_EXPLICIT };

        if (g->kind != KIND_PLAIN || !shadow_is_simple(g) || !shadow_decide(b, g, &a) || a.range == SHADOW_NONE || (a.index.symbol && a.sum))
                return;
        if (a.base.symbol)
                add_use(l, a.base, purpose_of(g, a.range, a.operand));
        if (a.index.symbol && !shadow_is_checked(b, a.index, shadow_index_check(b, a.range)))
                add_use(l, a.index, purpose_of(g, shadow_index_check(b, a.range), a.operand));
}

static bool is_straight(const struct insn *g)
{
        return g->kind == KIND_PLAIN || g->kind == KIND_LEA || g->kind == KIND_NOP || g->kind == KIND_JCC;
}

static bool is_jump_back(const struct insn *g)
{
        return g->kind == KIND_JCC && g->off + g->z.length + g->ops[0].imm.value.s == 0;
}

/* The general registers that @g writes: bits by enum gpr. */
static u16 written(const struct insn *g)
{
        u16 regs = 0;

        for (unsigned i = 0; i < g->z.operand_count; i++)
                if (insn_writes_gpr(&g->ops[i]))
                        regs |= (u16)(1u << insn_gpr(g->ops[i].reg.value));
        return regs;
}

/* The instructions up to the jump to the first one; 0: there is none. */
static unsigned length(const struct block_emitter *b)
{
        for (unsigned i = 0; i < b->n_insns && is_straight(&b->insns[i]); i++)
                if (is_jump_back(&b->insns[i]))
                        return i + 1;
        return 0;
}

void loop_find(struct block_emitter *b)
{
        b->loop = (struct loop){ .n = 0 };
        if (b->shadow && !b->req->no_chains && !(b->req->mode & (MODE_UNSHARED | MODE_SPLIT | MODE_CROSSING)))
                b->loop.n = length(b);
}

static void emit_use(struct block_emitter *b, const struct loop_use *use)
{
        const bool index = use->purpose.what >= CHECK_INDEX;
        unsigned host = SCRATCH0;

        if (use->reg == GPR_COUNT)
                emit_load(&b->e, SCRATCH0, hmem_ctx(CTX(page_va)));
        else if (!index || host_reg_of[use->reg] != HOST_NONE)
                host = reg_fetch(b, use->reg, SCRATCH0);
        if (index && host == SCRATCH0)
                shadow_check_spilled(b, use->reg, use->value, use->purpose);
        else
                shadow_check(b, host, use->value, use->purpose);
}

void loop_begin(struct block_emitter *b)
{
        struct loop *l = &b->loop;

        if (!l->n)
                return;
        b->guest_off = 0;
        for (unsigned i = 0; i < l->n; i++)
                l->written |= written(&b->insns[i]);
        for (unsigned i = 0; i < l->n; i++) {
                const struct insn *g = &b->insns[i];

                if (g->mem && g->kind != KIND_LEA && g->kind != KIND_NOP)
                        add_operand(b, g, l);
        }
        if (l->n_uses && !shadow_by_probe(b))
                flags_save(b);
        for (unsigned i = 0; i < l->n_uses; i++)
                emit_use(b, &l->uses[i]);
        flags_restore(b);
        b->image_valid = false; /* it is not in later rounds */
        block_record(b, RECORD_RESTART, 0, 0);
        b->out->loop_off = (u16)emit_off(&b->e);
}

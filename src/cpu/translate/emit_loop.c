/* Loops by way of a shadow window (emit_shadow.c).
 *
 * A block that jumps back to its own beginning, as the inner loops of computations do, has a prologue (emit_prologue.c) with what needs to be done only
 * once: comparing the registers that the loop does not change with the ranges that their addresses must be in. Rounds keep the flags in EFLAGS, since what has
 * to be compared in them is compared by probes (mmu/shadow.h):
 *
 *      A, B    flags restored to EFLAGS; comparisons
 *      body    op gs:[base + index * 8]
 *              add index, 4
 *              cmp index, end
 *              jne body
 *
 * What a round changes by a small constant is compared once as well, where the operands' addresses then move by a small constant from round to round:
 * each round touches memory there, so before an address could reach anything else it is in the guards of the window, where it faults. That needs both parts of
 * an address to be of that kind: of a base that steps, beside an index that could be any 32-bit number, nobody knows in which round it is used where.
 *
 * The jump is a link like any other, so that it can be cut. */
#include "emit_shadow.h"

#include <stdlib.h>

#define STEP_MAX (s32)MIB /* times 8 it is far less than any guard */

static bool is_straight(const struct insn *g)
{
        return g->kind == KIND_PLAIN || g->kind == KIND_LEA || g->kind == KIND_NOP || g->kind == KIND_JCC;
}

static bool is_jump_back(const struct insn *g)
{
        return g->kind == KIND_JCC && g->off + g->z.length + g->ops[0].imm.value.s == 0;
}

bool loop_keeps(const struct loop *l, struct value v)
{
        return v.symbol < SYMBOL_FIRST || value_gpr(v) & (l->same | l->steps);
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

/* Sets what rounds do to registers. */
static void find_steps(const struct block_emitter *b, struct loop *l)
{
        struct value after[GPR_COUNT];
        u16 before, changes = 0;

        windows_after(b->insns, l->n, after);
        for (unsigned i = 0; i < l->n; i++)
                changes |= written(&b->insns[i]);
        for (unsigned r = 0; r < GPR_COUNT; r++) {
                if (value_gpr(after[r]) != 1u << r)
                        continue;
                if (!(changes & 1u << r))
                        l->same |= (u16)(1u << r);
                else if (abs(after[r].off) <= STEP_MAX)
                        l->steps |= (u16)(1u << r);
        }
        do {
                before = l->steps;
                for (unsigned i = 0; i < l->n; i++) {
                        const struct insn *g = &b->insns[i];

                        if (insn_accesses_operand(g) && !loop_keeps(l, g->base))
                                l->steps &= (u16)~value_gpr(g->index);
                        if (insn_accesses_operand(g) && !loop_keeps(l, g->index))
                                l->steps &= (u16)~value_gpr(g->base);
                }
        } while (l->steps != before);
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
        if (!shadow_is_ordinary(b) || b->req->no_chains)
                return;
        b->loop.n = length(b);
        if (b->loop.n)
                find_steps(b, &b->loop);
}

/* The rounds may have taken a register anywhere whose steps those of another made up for. */
void loop_end(struct block_emitter *b)
{
        struct shadow_checks *c = &b->shadow_checks;
        unsigned n = 0;

        for (unsigned i = 0; i < c->n; i++) {
                if (value_gpr((struct value){ .symbol = c->symbol[i] }) & b->loop.steps)
                        continue;
                c->symbol[n] = c->symbol[i];
                c->what[n++] = c->what[i];
        }
        c->n = (u8)n;
}

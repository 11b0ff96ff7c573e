/* What a block of a shadow window (emit_shadow.c) compares before anything else, so that it need not be compared again.
 *
 * The *prologue* compares the registers that the block's first operands are made of, up to where it may be left; a loop's all that rounds keep. Behind it is the
 * *body*. Links say which registers are known, where they are taken, to be in which range (struct shadow_facts); where that covers what a block's prologue
 * would find out, the link leads to the body. So in a nest of loops, or in code that goes on from block to block with the same pointers, each is compared once.
 *
 * A fact may have been passed on any number of times, so it must not grow weaker on the way. A base of the low range or an index is passed on only as the
 * register that was compared. A base of the high range may have moved by MOVED_MAX, if memory was accessed by it on the way: since that did not fault,
 * the base is again no farther from the window than an index and a displacement reach, and the guards take that and the next access (SHADOW_GUARD). */
#include "emit_shadow.h"

#include <stdlib.h>

#define MOVED_MAX (s32)MIB
#define AHEAD_MAX 255u /* bytes: struct record */

/* ---- which ---- */

static void add_use(struct block_emitter *b, const struct insn *g, const struct shadow_access *a, bool index)
{
        struct prologue *p = &b->prologue;
        const struct value v = index ? a->index : a->base;
        const u16 gpr = value_gpr(v);

        if (!gpr && v.symbol != SYMBOL_RIP)
                return;
        if (b->loop.n && !loop_keeps(&b->loop, v))
                return;
        for (unsigned i = 0; i < p->n_uses; i++)
                if (p->uses[i].value.symbol == v.symbol && p->uses[i].index == index && p->uses[i].range == a->range)
                        return;
        if (p->n_uses == PROLOGUE_USES_MAX || g->off > AHEAD_MAX)
                return;
        p->uses[p->n_uses++] = (struct early_use){
                .value = { .symbol = v.symbol }, .reg = gpr ? (u8)__builtin_ctz(gpr) : GPR_COUNT, .index = index, .range = (u8)a->range,
                .operand = (u8)a->operand, .guest_off = g->off,
        };
}

static void add_operand(struct block_emitter *b, const struct insn *g)
{
        struct shadow_access a = { .base = g->base, .index = g->index, .operand = OPERAND_EXPLICIT };

        if (!shadow_is_simple(g) || !shadow_decide(b, g, &a) || a.range == SHADOW_NONE || (a.index.symbol && a.sum))
                return;
        if (a.base.symbol)
                add_use(b, g, &a, false);
        if (a.index.symbol && !a.index.positive && !(a.range == SHADOW_HIGH && a.index.narrow))
                add_use(b, g, &a, true);
}

static void add_stack(struct block_emitter *b, const struct insn *g)
{
        struct shadow_access a = { .base = shadow_stack_value(b, g), .operand = OPERAND_STACK };

        if (shadow_decide(b, g, &a) && a.range != SHADOW_NONE)
                add_use(b, g, &a, false);
}

/* Adds what @g uses. False: it is the last one that is sure to run. */
static bool add_insn(struct block_emitter *b, const struct insn *g)
{
        if (g->kind == KIND_PLAIN && g->mem)
                add_operand(b, g);
        else if (g->stack_access >= 0 && !g->mem)
                add_stack(b, g);
        return g->kind == KIND_PLAIN || g->kind == KIND_LEA || g->kind == KIND_NOP || g->kind == KIND_PUSH || g->kind == KIND_POP;
}

void prologue_find(struct block_emitter *b)
{
        b->prologue.n_uses = 0;
        if (!shadow_is_ordinary(b))
                return;
        if (!b->loop.n)
                for (unsigned i = 0; i < b->n_insns && add_insn(b, &b->insns[i]); i++)
                        ;
        for (unsigned i = 0; i < b->loop.n; i++)
                add_insn(b, &b->insns[i]);
}

/* ---- code ---- */

static void emit_use(struct block_emitter *b, const struct early_use *use)
{
        const struct purpose purpose = {
                .what = use->index ? shadow_index_check(b, use->range) : use->range, .operand = use->operand, .guest_off = use->guest_off,
        };
        unsigned host = SCRATCH0;

        if (use->reg == GPR_COUNT)
                emit_load(&b->e, SCRATCH0, hmem_ctx(CTX(page_va)));
        else if (!use->index || host_reg_of[use->reg] != HOST_NONE)
                host = reg_fetch(b, use->reg, SCRATCH0);
        if (use->index && host == SCRATCH0)
                shadow_check_spilled(b, use->reg, use->value, purpose);
        else
                shadow_check(b, host, use->value, purpose);
}

static struct shadow_facts wants(const struct prologue *p)
{
        struct shadow_facts facts = { 0 };

        for (unsigned i = 0; i < p->n_uses; i++) {
                const struct early_use *use = &p->uses[i];
                const u16 bit = (u16)(1u << use->reg);

                if (use->reg == GPR_COUNT)
                        facts.page |= use->range == SHADOW_HIGH ? FACTS_PAGE_HIGH : FACTS_PAGE_LOW;
                else if (use->index)
                        facts.index |= bit;
                else if (use->range == SHADOW_HIGH)
                        facts.high |= bit;
                else
                        facts.low |= bit;
        }
        return facts;
}

void prologue_emit(struct block_emitter *b)
{
        const struct prologue *p = &b->prologue;
        const bool loops = b->loop.n;

        if (!loops && (!p->n_uses || !(b->image_valid || shadow_by_probe(b))))
                return;
        b->guest_off = 0;
        if (p->n_uses && !shadow_by_probe(b))
                flags_save(b);
        for (unsigned i = 0; i < p->n_uses; i++)
                emit_use(b, &p->uses[i]);
        if (loops) {
                flags_restore(b);
                b->image_valid = false; /* it is not in later rounds */
        }
        block_record(b, RECORD_RESTART, 0, 0);
        if (b->req->no_chains)
                return;
        b->out->body_off = (u16)emit_off(&b->e);
        b->out->body_in_image = b->image_valid;
        b->out->body_wants = wants(p);
}

/* ---- what is known afterwards ---- */

/* What was compared as @what says, and has moved by @off. A base was used before any way out that comes behind its comparison. */
static void add_fact(struct shadow_facts *f, unsigned what, s32 off, u16 bit)
{
        if (what == SHADOW_HIGH && abs(off) <= MOVED_MAX)
                f->high |= bit;
        if (what == SHADOW_LOW && !off)
                f->low |= bit;
        if ((what == SHADOW_LOW || what == CHECK_POSITIVE) && !off)
                f->index |= bit;
}

struct shadow_facts prologue_facts(const struct block_emitter *b)
{
        const struct shadow_checks *c = &b->shadow_checks;
        struct value after[GPR_COUNT];
        struct shadow_facts f = { 0 };

        if (!b->shadow || !b->n_begun)
                return f;
        windows_after(b->insns, b->n_begun, after);
        for (unsigned r = 0; r < GPR_COUNT; r++) {
                const u16 bit = (u16)(1u << r);

                if (after[r].positive)
                        f.index |= bit;
                if (value_gpr(after[r]) & b->loop.steps)
                        continue;
                for (unsigned i = 0; i < c->n; i++)
                        if (c->symbol[i] == after[r].symbol)
                                add_fact(&f, c->what[i], after[r].off, bit);
        }
        for (unsigned i = 0; i < c->n; i++)
                if (c->symbol[i] == SYMBOL_RIP)
                        f.page |= c->what[i] == SHADOW_HIGH ? FACTS_PAGE_HIGH : FACTS_PAGE_LOW;
        return f;
}

/* Accesses by a shadow window, which nothing but comparisons confines: what is known of each register that holds a guest's value is followed along every path
 * from the block's entries, and where two paths meet only what both know remains. This is the emitter's own argument made again, from its output
 * alone.
 *
 * A block is judged on its own: what its body wants to be known is known there, and what its links say is known must be. */
#include "emitted_shadow.h"

#include <string.h>

#include "emitted_known.h"
#include "mmu/shadow.h"

#define VISITS_MAX 40u      /* who still moves then moves for ever */
#define LOW_DISP_MIN ((1 << 30) - (512 << 20)) /* the bias included: what is below a fixed low range is for probes */

struct flow {
        ZydisDecoder decoder;
        const struct translation *t;
        const u8 *guest;
        unsigned room;
        u64 run_at;
        bool fixed;
        struct state at[BLOCK_CODE_MAX];
        bool queued[BLOCK_CODE_MAX];
        u16 todo[BLOCK_CODE_MAX];
        unsigned n_todo;
};

/* ---- accesses ---- */

static const char *judge_access(const struct flow *f, const struct state *s, const ZydisDecodedOperandMem *m)
{
        const bool gs = m->segment == ZYDIS_REGISTER_GS;
        const struct known *base = m->base == ZYDIS_REGISTER_NONE ? NULL : &s->v[known_number_of(m->base)];
        const struct known *index = m->index == ZYDIS_REGISTER_NONE ? NULL : &s->v[known_number_of(m->index)];

        if (m->base == ZYDIS_REGISTER_RSP || m->base == ZYDIS_REGISTER_RIP)
                return gs ? "rsp or rip by gs" : NULL;
        if (base && base->is & IS_OURS)
                return gs ? "gs and what is ours" : NULL;
        if (gs && (!base || !known_is_fit(s, *base, IS_HIGH)))
                return "gs with a base that was not compared with the high range";
        if (!gs && base && !known_is_fit(s, *base, IS_LOW))
                return "a base that was not compared with the low range";
        if (!gs && index && index->is & IS_OURS && m->scale <= 1)
                return base && !base->sum ? NULL : "the bias as an index";
        if (!gs && !f->fixed)
                return "the low range without its bias";
        if (!gs && f->fixed && base && !base->sum && m->disp.value < LOW_DISP_MIN)
                return "a displacement that reaches the probes";
        if (!gs && f->fixed && index && !(index->is & IS_POSITIVE))
                return "an index that reaches the probes";
        if (index && (!(index->is & IS_NARROW) || (base && base->sum)))
                return "an index that was not compared";
        return NULL;
}

/* An access that did not fault. The base is no farther from the window than a displacement and an index reach. */
static void learn_by_access(struct state *s, const ZydisDecodedOperandMem *m, bool by_itself)
{
        const struct reached r = known_name_of(s, m);

        if (r.base == NOBODY)
                return;
        known_reach(s, &r);
        if (!by_itself && r.index != NOBODY)
                return;
        for (unsigned i = 0; i < VALUES; i++)
                if (s->v[i].is & IS_HIGH && !s->v[i].sum && (i == r.base || s->v[i].copy_of == r.base))
                        s->v[i].off = s->v[i].moved = 0;
}

/* ---- paths ---- */

/* Would the address be right by what is known of its parts? */
static bool could_reach(const struct flow *f, const struct state *s, const struct reached *r)
{
        const ZydisRegister rax = ZYDIS_REGISTER_RAX;
        ZydisDecodedOperandMem m = { .segment = r->gs ? ZYDIS_REGISTER_GS : ZYDIS_REGISTER_DS, .scale = r->scale };
        struct state with = *s;

        /* What is in memory, by way of two registers. */
        with.v[R10] = r->base == NO_BASE ? known_made(IS_LOW) : s->v[r->base];
        m.base = r->base == NO_BASE ? ZYDIS_REGISTER_NONE : rax + R10;
        m.index = ZYDIS_REGISTER_NONE;
        if (r->index != NOBODY) {
                with.v[R11] = s->v[r->index];
                m.index = rax + R11;
        }
        m.disp.value = r->disp;
        if (r->biased)
                return known_is_fit(s, with.v[R10], IS_LOW) && !with.v[R10].sum && (r->index == NOBODY || s->v[r->index].is & IS_NARROW);
        return judge_access(f, &with, &m) == NULL;
}

/* Leaves in @to what @other knows as well, or could by its registers, and adds what only @other knows and @to could. */
static void meet_reached(const struct flow *f, struct state *to, const struct state *other, bool widen)
{
        const struct state before = *to;

        for (unsigned i = 0; i < REACHED_MAX; i++) {
                struct reached *r = &to->reached[i];
                const struct reached *theirs = known_find_reached(other, r);
                const s64 moved = theirs ? MAX(theirs->moved, r->moved) : r->moved;

                if (r->base == NOBODY)
                        continue;
                if ((!theirs && !could_reach(f, other, r)) || (widen && moved > r->moved))
                        r->base = NOBODY;
                r->moved = moved;
        }
        for (unsigned i = 0; i < REACHED_MAX; i++) {
                const struct reached *r = &other->reached[i];

                if (r->base != NOBODY && !known_find_reached(&before, r) && could_reach(f, &before, r))
                        known_reach(to, r);
        }
}

/* @widen: it has grown often enough. */
static void meet_moves(struct known *a, const struct known *b, bool widen)
{
        const s64 before = known_distance(a), both = MAX(before, known_distance(b));

        if (a->off == b->off && b->moved <= a->moved)
                return;
        if (a->off != b->off)
                *a = (struct known){ .is = a->is, .wants = a->wants, .copy_of = a->copy_of, .sum = a->sum, .inherited = a->inherited, .moved = (s32)both };
        else
                a->moved = b->moved;
        if (widen && both > before)
                a->moved = both <= (s64)OWED ? (s32)OWED : MOVED_MAX;
}

static void meet(struct flow *f, unsigned off, const struct state *s)
{
        struct state *to = &f->at[off];
        bool changed = !to->seen;

        if (!to->seen) {
                *to = *s;
                to->seen = true;
                to->visits = 0;
        } else {
                const struct state before = *to;

                meet_reached(f, to, s, to->visits > VISITS_MAX);
                for (unsigned i = 0; i < VALUES; i++) {
                        struct known *a = &to->v[i];
                        const struct known *b = &s->v[i];

                        if (a->wants != b->wants || a->sum != b->sum)
                                *a = KNOWN_NOTHING;
                        if (a->copy_of != b->copy_of)
                                a->copy_of = NOBODY;
                        a->is &= b->is;
                        a->inherited |= b->inherited;
                        meet_moves(a, b, to->visits > VISITS_MAX);
                        if (known_distance(a) >= MOVED_MAX)
                                *a = KNOWN_NOTHING;
                }
                if (!known_is_same_place(&to->r10_is, &s->r10_is))
                        to->r10_is.base = NOBODY;
                if (to->r11_of != s->r11_of || to->r11_relation != s->r11_relation) {
                        to->r11_of = NOBODY;
                        to->r11_relation = NO_RELATION;
                }
                if (to->flags_of != s->flags_of || to->flags_say != s->flags_say)
                        to->flags_say = 0;
                changed = memcmp(&before, to, sizeof(before)) != 0;
        }
        if (changed && !f->queued[off]) {
                to->visits++;
                f->queued[off] = true;
                f->todo[f->n_todo++] = (u16)off;
        }
}

/* A probe that did not fault. */
static bool learn_by_probe(const struct flow *f, struct state *s, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
        const ZydisDecodedOperandMem *m = &ops[1].mem;
        const bool high = s->r11_relation == PROBE_HIGH_PAGE;

        if (!f->fixed || insn->mnemonic != ZYDIS_MNEMONIC_MOVZX || insn->address_width != 32 || ops[0].reg.value != ZYDIS_REGISTER_R11D ||
            ops[1].size != 8 || m->base != ZYDIS_REGISTER_R11D || m->index != ZYDIS_REGISTER_NONE || m->segment == ZYDIS_REGISTER_GS ||
            (!high && s->r11_relation != PROBE_LOW_PAGE) || m->disp.value != (high ? 0 : (s64)SHADOW_PROBE_LOW))
                return false;
        known_learn_of(s, s->r11_of, high ? IS_HIGH : IS_LOW);
        known_set(s, R11, KNOWN_NOTHING);
        return true;
}

static unsigned value_of_guest(ZydisRegister reg)
{
        const unsigned n = known_number_of(reg);

        return host_reg_of[n] != HOST_NONE ? host_reg_of[n] : n < R14 ? SLOTS + n - R10 : SLOTS + 2 + n - R14;
}

/* What a link may say: others build on it. */
static bool claims_hold(const struct state *s, const struct shadow_facts *facts)
{
        const struct known *page = &s->v[PAGE_VA];

        for (unsigned r = 0; r < GPR_COUNT; r++) {
                const struct known *k = &s->v[value_of_guest(ZYDIS_REGISTER_RAX + r)];

                if (facts->high >> r & 1 && !(k->is & IS_HIGH && known_distance(k) <= (s64)OWED && !k->sum))
                        return false;
                if (facts->low >> r & 1 && !(k->is & IS_LOW && !known_distance(k) && !k->sum))
                        return false;
                if (facts->index >> r & 1 && !(k->is & IS_NARROW && k->is & IS_POSITIVE && !(k->inherited && known_distance(k))))
                        return false;
        }
        return (!(facts->page & FACTS_PAGE_HIGH) || page->is & IS_HIGH) && (!(facts->page & FACTS_PAGE_LOW) || page->is & IS_LOW);
}

/* What is known when a link leads to the body. */
static void believe(struct state *s, const struct shadow_facts *wants)
{
        for (unsigned r = 0; r < GPR_COUNT; r++) {
                struct known *k = &s->v[value_of_guest(ZYDIS_REGISTER_RAX + r)];

                k->inherited = true;
                if (wants->high >> r & 1) {
                        k->is |= IS_HIGH;
                        k->moved = OWED;
                }
                if (wants->low >> r & 1)
                        k->is |= IS_LOW;
                if ((wants->index | wants->low) >> r & 1)
                        k->is |= IS_NARROW | IS_POSITIVE;
        }
        s->v[PAGE_VA].is |= (u8)((wants->page & FACTS_PAGE_HIGH ? IS_HIGH : 0) | (wants->page & FACTS_PAGE_LOW ? IS_LOW : 0));
}

/* A fast function: registers are as the guest's instruction leaves them. */
static void go_on_behind(struct flow *f, const struct site *site, const struct state *before)
{
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction insn;
        struct state s = *before;

        if (site->resume_off >= f->t->code_size || site->guest_off >= f->room ||
            !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->decoder, f->guest + site->guest_off, f->room - site->guest_off, &insn, ops)))
                return;
        for (unsigned i = 0; i < insn.operand_count; i++) {
                const ZydisDecodedOperand *op = &ops[i];

                if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && known_is_general(op->reg.value) && op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
                        known_set(&s, value_of_guest(op->reg.value), known_made(known_narrow_write(&insn, op)));
        }
        known_set(&s, FS_BASE, KNOWN_NOTHING);
        known_set(&s, R10, known_made(IS_OURS));
        known_set(&s, R11, KNOWN_NOTHING);
        s.flags_say = 0;
        meet(f, site->resume_off, &s);
}

static const char *step(struct flow *f, unsigned off)
{
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction insn;
        struct state s = f->at[off];
        unsigned next;
        ZyanU64 target;

        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->decoder, f->t->code + off, f->t->code_size - off, &insn, ops)))
                return "code does not decode";
        next = off + insn.length;
        if (learn_by_probe(f, &s, &insn, ops)) {
                meet(f, next, &s);
                return NULL;
        }
        for (unsigned i = 0; i < insn.operand_count; i++) {
                struct reached here;
                const char *wrong;

                if (ops[i].type != ZYDIS_OPERAND_TYPE_MEMORY || ops[i].mem.type != ZYDIS_MEMOP_TYPE_MEM || insn.mnemonic == ZYDIS_MNEMONIC_NOP ||
                    insn.meta.category == ZYDIS_CATEGORY_WIDENOP)
                        continue;
                wrong = judge_access(f, &s, &ops[i].mem);
                here = known_name_of(&s, &ops[i].mem);
                if (wrong && !known_find_reached(&s, &here))
                        return wrong;
                learn_by_access(&s, &ops[i].mem, !wrong);
        }
        known_follow(&s, &insn, ops);
        if (insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE) {
                for (unsigned i = 0; i < f->t->n_links; i++) {
                        const struct link *link = &f->t->links[i];

                        if (link->patch_off + 4u != next)
                                continue;
                        if (!claims_hold(&s, &link->facts))
                                return "a link says what is not known";
                        if (link->loop)
                                meet(f, f->t->body_off, &s);
                }
                if (ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&insn, &ops[0], f->run_at + off, &target))) {
                        if (target - f->run_at < f->t->code_size) {
                                meet(f, (unsigned)(target - f->run_at), &s);
                        } else if (insn.mnemonic == ZYDIS_MNEMONIC_JMP && next + sizeof(struct site) <= f->t->code_size) {
                                struct site site;

                                memcpy(&site, f->t->code + next, sizeof(site));
                                if (site.kind == TEXIT_FAST)
                                        go_on_behind(f, &site, &s);
                        }
                }
                if (insn.meta.category != ZYDIS_CATEGORY_COND_BR)
                        return NULL;
                known_learn(&s, insn.mnemonic);
        }
        if (next >= f->t->code_size)
                return "code runs off its end";
        meet(f, next, &s);
        return NULL;
}

const char *emitted_shadow_judge(const struct translation *t, const struct translate_request *req, unsigned *ret_off)
{
        static _Thread_local struct flow flow; /* large, and mostly not used */
        struct flow *const f = &flow;
        struct state start = { .r11_of = NOBODY, .flags_of = NOBODY };
        const char *wrong = NULL;

        memset(f->at, 0, t->code_size * sizeof(f->at[0]));
        memset(f->queued, 0, t->code_size * sizeof(f->queued[0]));
        f->n_todo = 0;
        f->t = t;
        f->run_at = (uintptr_t)req->run_at;
        f->guest = req->code;
        f->room = req->room;
        f->fixed = req->mode & MODE_SHADOW_FIXED;
        ZydisDecoderInit(&f->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        for (unsigned i = 0; i < VALUES; i++)
                start.v[i] = KNOWN_NOTHING;
        for (unsigned i = 0; i < REACHED_MAX; i++)
                start.reached[i].base = NOBODY;
        start.r10_is.base = NOBODY;
        meet(f, 0, &start);
        meet(f, ENTRY_B, &start);
        if (t->body_off) {
                struct state body = start;

                believe(&body, &t->body_wants);
                meet(f, t->body_off, &body);
        }
        while (f->n_todo && !wrong) {
                *ret_off = f->todo[--f->n_todo];
                f->queued[*ret_off] = false;
                wrong = step(f, *ret_off);
        }
        return wrong;
}

/* Accesses by a shadow window, which nothing but comparisons confines: what is known of each register that holds a guest's value is followed along every path
 * from the block's entries, and where two paths meet only what both know remains. This is the emitter's own argument made again, from its output
 * alone.
 *
 * Known can be of a value: that it was compared with the high or the low range, or that it is a 32-bit number, and how far it may have moved since.
 * The comparisons are those of emit_shadow.c and no others. Known can also be of an operand's whole address that it was accessed, and how far it has moved
 * since: that is what makes a loop right whose registers are compared before it only.
 *
 * A block is judged on its own: what its body wants to be known is known there, and what its links say is known must be. */
#include "emitted_shadow.h"

#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/shadow.h"

#define VALUES 22u          /* the host's registers, then the guest's that live in memory, the page's address and the base of FS */
#define SLOTS 16u
#define PAGE_VA (SLOTS + 4)
#define FS_BASE (SLOTS + 5)
#define NOBODY 0xff
#define NO_BASE 0xfe        /* of an address that is an index and a displacement */
#define MOVED_MAX (64 << 20)
#define ONCE_MAX (16 << 20)
#define VISITS_MAX 40u      /* who still moves then moves for ever */
#define OWED MIB            /* by a base of the high range that another block compared: it may have moved so far since, but no farther before it is used */
#define REACHED_MAX 16u

enum {
        IS_HIGH = 1,
        IS_LOW = 2,
        IS_NARROW = 4,
        IS_OURS = 8,      /* not the guest's: a host address, something from the context */
        IS_POSITIVE = 16, /* narrow and unsigned */
};
#define LOW_DISP_MIN ((1 << 30) - (512 << 20)) /* the bias included: what is below a fixed low range is for probes */

struct known {
        u8 is;
        u8 wants;  /* an index is in it that is not compared yet: this slot must be narrow when it is used; NOBODY: none */
        u8 copy_of; /* the value in memory that it is a copy of, or NOBODY */
        bool sum;  /* ... and was: it takes no other */
        bool inherited; /* another block has compared it */
        u8 pad[3]; /* states are compared byte by byte */
        s32 off, moved; /* since: by off, and by up to moved in either direction */
};

/* An address that was accessed, or could be. */
struct reached {
        u8 base, index, scale; /* NOBODY: there is none; base NOBODY: the entry is free */
        bool gs;
        bool biased; /* with the low range's bias from the context */
        u8 pad[3];
        s64 disp, moved;
};

enum relation { NO_RELATION, TOP_BYTE, SIGN_EXTENDED, PROBE_HIGH_PAGE, PROBE_LOW_PAGE };

struct state {
        struct known v[VALUES];
        struct reached reached[REACHED_MAX];
        struct reached r10_is;           /* an address that LEA made */
        u8 r11_of, r11_relation;         /* what r11 was made from */
        u8 flags_of, flags_say;          /* the last comparison: IS_* that holds behind a jump that is not taken */
        bool seen;
        u16 visits;
};

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

static const struct known nothing = { .wants = NOBODY, .copy_of = NOBODY };

static s64 distance(const struct known *k)
{
        return llabs((s64)k->off) + k->moved;
}

static struct known made(u8 is)
{
        return (struct known){ .is = is, .wants = NOBODY, .copy_of = NOBODY };
}

/* ---- names ---- */

static unsigned number_of(ZydisRegister reg)
{
        return (unsigned)(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg) - ZYDIS_REGISTER_RAX);
}

static bool is_general(ZydisRegister reg)
{
        const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

        return whole >= ZYDIS_REGISTER_RAX && whole <= ZYDIS_REGISTER_R15;
}

/* The guest's register, or NOBODY. */
static unsigned slot_of(const ZydisDecodedOperand *op)
{
        static const u8 spilled[] = { R10, R11, R14, R15 };

        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.base != ZYDIS_REGISTER_RSP || op->mem.index != ZYDIS_REGISTER_NONE)
                return NOBODY;
        for (unsigned i = 0; i < ARRAY_SIZE(spilled); i++)
                if (op->mem.disp.value == CTX_REG(spilled[i]))
                        return SLOTS + i;
        if (op->mem.disp.value == CTX(page_va))
                return PAGE_VA;
        return op->mem.disp.value == CTX(seg_base[SEG_FS]) ? FS_BASE : NOBODY;
}

static bool is_context(const ZydisDecodedOperand *op, s32 disp)
{
        return op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.base == ZYDIS_REGISTER_RSP && op->mem.index == ZYDIS_REGISTER_NONE &&
               op->mem.disp.value == disp;
}

static unsigned value_of(const ZydisDecodedOperand *op)
{
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && is_general(op->reg.value))
                return number_of(op->reg.value);
        return slot_of(op);
}

/* ---- addresses ---- */

/* What a register's value is known by: the guest's register in memory that it was loaded from. */
static unsigned root_of(const struct state *s, unsigned v)
{
        return s->v[v].copy_of < VALUES ? s->v[v].copy_of : v;
}

/* The address by name; base NOBODY when it is none of the guest's. */
static struct reached name_of(const struct state *s, const ZydisDecodedOperandMem *m)
{
        struct reached r = { .base = NOBODY, .index = NOBODY, .scale = m->scale };
        const bool has_index = m->index != ZYDIS_REGISTER_NONE, biased = has_index && s->v[number_of(m->index)].is & IS_OURS;

        if ((biased && m->scale > 1) || (m->base == ZYDIS_REGISTER_NONE && !has_index))
                return r;
        if (m->base != ZYDIS_REGISTER_NONE && (!is_general(m->base) || m->base == ZYDIS_REGISTER_RSP || s->v[number_of(m->base)].is & IS_OURS))
                return r;
        if (m->base == ZYDIS_REGISTER_R10 && s->r10_is.base != NOBODY) {
                if (has_index && !biased)
                        return r;
                r = s->r10_is;
        } else {
                r.base = m->base == ZYDIS_REGISTER_NONE ? NO_BASE : (u8)root_of(s, number_of(m->base));
                if (has_index && !biased)
                        r.index = (u8)root_of(s, number_of(m->index));
        }
        if (r.index == NOBODY)
                r.scale = 0;
        r.biased |= biased;
        r.gs = m->segment == ZYDIS_REGISTER_GS;
        r.disp += m->disp.value;
        return r;
}

static bool is_same_place(const struct reached *a, const struct reached *b)
{
        return a->base == b->base && a->index == b->index && a->scale == b->scale && a->gs == b->gs && a->biased == b->biased && a->disp == b->disp;
}

static const struct reached *find_reached(const struct state *s, const struct reached *r)
{
        for (unsigned i = 0; i < REACHED_MAX && r->base != NOBODY; i++)
                if (is_same_place(&s->reached[i], r))
                        return &s->reached[i];
        return NULL;
}

/* Memory is accessed there. */
static void reach(struct state *s, const struct reached *r)
{
        unsigned at = REACHED_MAX;

        for (unsigned i = 0; i < REACHED_MAX; i++) {
                if (is_same_place(&s->reached[i], r)) {
                        at = i;
                        break;
                }
                if (s->reached[i].base == NOBODY)
                        at = i;
        }
        if (at < REACHED_MAX && r->base != NOBODY)
                s->reached[at] = *r;
}

/* ---- what an instruction leaves known ---- */

static void set(struct state *s, unsigned v, struct known k)
{
        if (v == s->r11_of || v == R11)
                s->r11_relation = NO_RELATION;
        if (v == s->flags_of)
                s->flags_say = 0;
        for (unsigned i = 0; i < VALUES; i++) {
                if (s->v[i].wants == v)
                        s->v[i] = nothing;
                else if (s->v[i].copy_of == v)
                        s->v[i].copy_of = NOBODY;
        }
        for (unsigned i = 0; i < REACHED_MAX; i++)
                if (s->reached[i].base == v || s->reached[i].index == v)
                        s->reached[i].base = NOBODY;
        if (v == R10 || v == s->r10_is.base || v == s->r10_is.index)
                s->r10_is.base = NOBODY;
        s->v[v] = k;
}

/* Register @v has changed by so much, and the addresses that it is part of with it. */
static void move_reached(struct state *s, const struct reached *before, unsigned v, s64 by)
{
        for (unsigned i = 0; i < REACHED_MAX; i++) {
                struct reached r = before[i];
                const s64 moved = r.moved + (r.base == v ? by : 0) + (r.index == v ? by * r.scale : 0);

                if ((r.base != v && r.index != v) || moved > MOVED_MAX)
                        continue;
                r.moved = moved;
                s->reached[i] = r;
        }
}

/* @dst is a copy of @src, for a moment at least: flags are restored by way of rax. */
static void copy_reached(struct state *s, unsigned dst, unsigned src)
{
        const struct state before = *s;

        for (unsigned i = 0; i < REACHED_MAX; i++) {
                struct reached r = before.reached[i];

                if (r.base == NOBODY || (r.base != src && r.index != src))
                        continue;
                r.base = r.base == src ? (u8)dst : r.base;
                r.index = r.index == src ? (u8)dst : r.index;
                reach(s, &r);
        }
}

/* @v becomes what @k says, and @by more; @same: @k is of @v itself. */
static void move(struct state *s, unsigned v, struct known k, s64 by, bool same)
{
        struct reached before[REACHED_MAX];

        memcpy(before, s->reached, sizeof(before));
        if ((k.sum && by) || distance(&k) + llabs(by) > MOVED_MAX)
                k = nothing;
        else
                k.off += (s32)by;
        k.copy_of = NOBODY;
        set(s, v, k);
        if (same && llabs(by) < MOVED_MAX)
                move_reached(s, before, v, llabs(by));
}

/* A sum that was compared, or is made of what was. */
static struct known sum_of(const struct state *s, const ZydisDecodedOperandMem *m)
{
        struct known k = nothing;
        unsigned index;

        if (m->base == ZYDIS_REGISTER_RIP)
                return made(IS_OURS);
        k = m->base == ZYDIS_REGISTER_NONE ? made(IS_LOW) : s->v[number_of(m->base)];
        if (m->index == ZYDIS_REGISTER_NONE)
                return k;
        index = number_of(m->index);
        if (k.is & IS_LOW && s->v[index].is & IS_OURS && m->scale <= 1)
                return made(IS_OURS); /* with the bias */
        if (k.sum || !(k.is & (IS_HIGH | IS_LOW)))
                return nothing;
        k.is &= (u8)~IS_NARROW;
        k.sum = true;
        if (!(s->v[index].is & IS_NARROW)) {
                /* r11 is a copy of the slot that is going to be compared. */
                if (index != R11 || s->r11_of < SLOTS || s->r11_relation != NO_RELATION)
                        return nothing;
                k.wants = s->r11_of;
        }
        return k;
}

/* An operand's address: its displacement may be any, but only once. */
static void lea(struct state *s, unsigned dst, struct known k, bool was_sum, s64 disp, bool same)
{
        if (was_sum && disp)
                k = nothing;
        if (!(k.is & IS_OURS) && !k.sum && llabs(disp) > ONCE_MAX) {
                k.is &= (u8)~IS_NARROW;
                k.sum = true;
        }
        k.copy_of = NOBODY;
        if (k.sum || k.is & IS_OURS)
                set(s, dst, k);
        else
                move(s, dst, k, disp, same);
}

static bool is_add(ZydisMnemonic m)
{
        return m == ZYDIS_MNEMONIC_ADD || m == ZYDIS_MNEMONIC_SUB;
}

static bool is_copy(ZydisMnemonic m)
{
        return m == ZYDIS_MNEMONIC_MOV;
}

/* Does a 32-bit write clear the upper half whatever happens? What is then known of it. */
static u8 narrow_write(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op)
{
        const u8 positive = IS_NARROW | IS_POSITIVE;

        switch (insn->mnemonic) {
        case ZYDIS_MNEMONIC_MOVSX:
        case ZYDIS_MNEMONIC_MOVZX:
        case ZYDIS_MNEMONIC_MOVSXD:
                return op->size == 32 ? positive : op->size > 32 ? IS_NARROW : 0;
        case ZYDIS_MNEMONIC_CDQE:
                return IS_NARROW;
        case ZYDIS_MNEMONIC_BSF:
        case ZYDIS_MNEMONIC_BSR:
        case ZYDIS_MNEMONIC_CMPXCHG:
        case ZYDIS_MNEMONIC_CMPXCHG8B:
                return 0;
        default:
                return op->size == 32 ? positive : 0;
        }
}

static void compare(struct state *s, const ZydisDecodedOperand *ops)
{
        const unsigned a = value_of(&ops[0]), b = value_of(&ops[1]);

        s->flags_say = 0;
        if (ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && a < VALUES) {
                if (a == R11 && ops[0].size == 8 && ops[1].imm.value.u == 0x55 && s->r11_relation == TOP_BYTE) {
                        s->flags_of = s->r11_of;
                        s->flags_say = IS_HIGH;
                } else if (ops[0].size == 64 && ops[1].imm.value.s == 0x7fffffff) {
                        s->flags_of = (u8)a;
                        s->flags_say = IS_LOW;
                }
        } else if (s->r11_relation == SIGN_EXTENDED && ops[0].size == 64 && ((a == R11 && b == s->r11_of) || (b == R11 && a == s->r11_of))) {
                s->flags_of = s->r11_of;
                s->flags_say = IS_NARROW;
        }
}

static bool is_fit(const struct state *s, struct known k, u8 range)
{
        if (k.wants != NOBODY && !(s->v[k.wants].is & IS_NARROW))
                return false;
        return k.is & range;
}

/* The soft TLB's arithmetic in scratch registers, or a bias, a segment's base; not a guest's ADD to a register that lives in memory. */
static bool is_sum_of_ours(const struct state *s, unsigned dst, const ZydisDecodedOperand *src)
{
        if (src->type != ZYDIS_OPERAND_TYPE_MEMORY || (src->mem.segment == ZYDIS_REGISTER_GS && !(s->v[R11].is & IS_OURS)))
                return false;
        if (src->mem.base == ZYDIS_REGISTER_RSP)
                return (dst == R10 || dst == R11) && (slot_of(src) == NOBODY || slot_of(src) == FS_BASE);
        return dst == R10 && src->mem.base == ZYDIS_REGISTER_R11;
}

/* What r11 is when it was rotated by so much. */
static u8 relation_by(u64 rotate)
{
        switch (rotate) {
        case 40:
                return TOP_BYTE;
        case SHADOW_PROBE_HIGH_ROTATE:
                return PROBE_HIGH_PAGE;
        case SHADOW_PROBE_LOW_ROTATE:
                return PROBE_LOW_PAGE;
        default:
                return NO_RELATION;
        }
}

/* Instructions that keep something. False: not one of them. */
static bool follow_known(struct state *s, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
        const unsigned dst = value_of(&ops[0]), src = insn->operand_count_visible > 1 ? value_of(&ops[1]) : NOBODY;

        if (insn->mnemonic == ZYDIS_MNEMONIC_CMP) {
                compare(s, ops);
                return true;
        }
        if (dst >= VALUES || ops[0].size != 64)
                return false;
        if (is_copy(insn->mnemonic) && src < VALUES && ops[1].size == 64) {
                struct known k = s->v[src];

                if (src >= SLOTS)
                        k.copy_of = (u8)src;
                set(s, dst, k);
                if (dst != src && (dst == R11 || src == R11))
                        copy_reached(s, dst, src);
                if (dst >= SLOTS)
                        s->v[src].copy_of = (u8)dst;
                if (dst == R11) {
                        s->r11_of = (u8)src;
                        s->r11_relation = NO_RELATION;
                }
                return true;
        }
        if (is_copy(insn->mnemonic) && ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[1].mem.base == ZYDIS_REGISTER_RSP) {
                set(s, dst, made(IS_OURS));
                if (dst == R11)
                        s->r11_of = NOBODY;
                return true;
        }
        if (insn->mnemonic == ZYDIS_MNEMONIC_LEA) {
                const struct known k = sum_of(s, &ops[1].mem);
                const bool was_sum = ops[1].mem.base != ZYDIS_REGISTER_NONE && ops[1].mem.base != ZYDIS_REGISTER_RIP && s->v[number_of(ops[1].mem.base)].sum;
                const bool same = ops[1].mem.index == ZYDIS_REGISTER_NONE && ops[1].mem.base == ops[0].reg.value;
                const struct reached sum = name_of(s, &ops[1].mem);

                /* The bias is added to what is then accessed. */
                if (sum.biased && (k.is & IS_OURS || find_reached(s, &sum))) {
                        reach(s, &sum);
                        set(s, dst, made(IS_OURS));
                        return true;
                }
                lea(s, dst, k, was_sum, ops[1].mem.disp.value, same);
                if (dst == R10)
                        s->r10_is = sum;
                return true;
        }
        if (is_add(insn->mnemonic) && ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
                move(s, dst, s->v[dst], insn->mnemonic == ZYDIS_MNEMONIC_ADD ? ops[1].imm.value.s : -ops[1].imm.value.s, true);
                s->flags_say = 0;
                return true;
        }
        if (insn->mnemonic == ZYDIS_MNEMONIC_INC || insn->mnemonic == ZYDIS_MNEMONIC_DEC) {
                move(s, dst, s->v[dst], insn->mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1, true);
                s->flags_say = 0;
                return true;
        }
        if (is_add(insn->mnemonic) && is_sum_of_ours(s, dst, &ops[1])) {
                const bool low = is_context(&ops[1], CTX(shadow_low)), high = is_context(&ops[1], CTX(shadow_high));
                const bool segment = is_context(&ops[1], CTX(seg_base[SEG_FS])) || is_context(&ops[1], CTX(seg_base[SEG_GS]));
                const u8 needs = low ? IS_LOW : high ? IS_HIGH : 0;
                struct reached sum = s->r10_is;
                bool fit = !needs || is_fit(s, s->v[dst], needs);

                if (low && dst == R10) {
                        if (sum.base == NOBODY)
                                sum = (struct reached){ .base = (u8)root_of(s, R10), .index = NOBODY };
                        sum.biased = true;
                        fit |= find_reached(s, &sum) != NULL;
                        if (fit)
                                reach(s, &sum);
                }
                /* Else the soft TLB's: what is added or subtracted is ours. */
                set(s, dst, segment || !fit ? nothing : made(IS_OURS));
                s->flags_say = 0;
                return true;
        }
        if (dst == R11 && insn->mnemonic == ZYDIS_MNEMONIC_RORX && src < VALUES && relation_by(ops[2].imm.value.u) != NO_RELATION) {
                const u8 of = src == R11 ? s->v[R11].copy_of : (u8)src;

                set(s, R11, nothing);
                s->r11_of = of;
                s->r11_relation = of == NOBODY ? NO_RELATION : relation_by(ops[2].imm.value.u);
                return true;
        }
        if (dst == R11 && insn->mnemonic == ZYDIS_MNEMONIC_MOVSXD && src < VALUES) {
                set(s, R11, made(IS_NARROW));
                s->r11_of = (u8)src;
                s->r11_relation = SIGN_EXTENDED;
                return true;
        }
        return false;
}

static void follow(struct state *s, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
        if (follow_known(s, insn, ops))
                return;
        for (unsigned i = 0; i < insn->operand_count; i++) {
                const unsigned v = value_of(&ops[i]);

                if (v < VALUES && ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
                        set(s, v, made(v < SLOTS ? narrow_write(insn, &ops[i]) : 0));
        }
        if (insn->cpu_flags && (insn->cpu_flags->modified | insn->cpu_flags->set_0 | insn->cpu_flags->set_1 | insn->cpu_flags->undefined))
                s->flags_say = 0;
}

/* ---- accesses ---- */

static const char *judge_access(const struct flow *f, const struct state *s, const ZydisDecodedOperandMem *m)
{
        const bool gs = m->segment == ZYDIS_REGISTER_GS;
        const struct known *base = m->base == ZYDIS_REGISTER_NONE ? NULL : &s->v[number_of(m->base)];
        const struct known *index = m->index == ZYDIS_REGISTER_NONE ? NULL : &s->v[number_of(m->index)];

        if (m->base == ZYDIS_REGISTER_RSP || m->base == ZYDIS_REGISTER_RIP)
                return gs ? "rsp or rip by gs" : NULL;
        if (base && base->is & IS_OURS)
                return gs ? "gs and what is ours" : NULL;
        if (gs && (!base || !is_fit(s, *base, IS_HIGH)))
                return "gs with a base that was not compared with the high range";
        if (!gs && base && !is_fit(s, *base, IS_LOW))
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
        const struct reached r = name_of(s, m);

        if (r.base == NOBODY)
                return;
        reach(s, &r);
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
        with.v[R10] = r->base == NO_BASE ? made(IS_LOW) : s->v[r->base];
        m.base = r->base == NO_BASE ? ZYDIS_REGISTER_NONE : rax + R10;
        m.index = ZYDIS_REGISTER_NONE;
        if (r->index != NOBODY) {
                with.v[R11] = s->v[r->index];
                m.index = rax + R11;
        }
        m.disp.value = r->disp;
        if (r->biased)
                return is_fit(s, with.v[R10], IS_LOW) && !with.v[R10].sum && (r->index == NOBODY || s->v[r->index].is & IS_NARROW);
        return judge_access(f, &with, &m) == NULL;
}

/* Leaves in @to what @other knows as well, or could by its registers, and adds what only @other knows and @to could. */
static void meet_reached(const struct flow *f, struct state *to, const struct state *other, bool widen)
{
        const struct state before = *to;

        for (unsigned i = 0; i < REACHED_MAX; i++) {
                struct reached *r = &to->reached[i];
                const struct reached *theirs = find_reached(other, r);
                const s64 moved = theirs ? MAX(theirs->moved, r->moved) : r->moved;

                if (r->base == NOBODY)
                        continue;
                if ((!theirs && !could_reach(f, other, r)) || (widen && moved > r->moved))
                        r->base = NOBODY;
                r->moved = moved;
        }
        for (unsigned i = 0; i < REACHED_MAX; i++) {
                const struct reached *r = &other->reached[i];

                if (r->base != NOBODY && !find_reached(&before, r) && could_reach(f, &before, r))
                        reach(to, r);
        }
}

/* @widen: it has grown often enough. */
static void meet_moves(struct known *a, const struct known *b, bool widen)
{
        const s64 before = distance(a), both = MAX(before, distance(b));

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
                                *a = nothing;
                        if (a->copy_of != b->copy_of)
                                a->copy_of = NOBODY;
                        a->is &= b->is;
                        a->inherited |= b->inherited;
                        meet_moves(a, b, to->visits > VISITS_MAX);
                        if (distance(a) >= MOVED_MAX)
                                *a = nothing;
                }
                if (!is_same_place(&to->r10_is, &s->r10_is))
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

/* Of a value and its copies. */
static void learn_of(struct state *s, unsigned v, u8 say)
{
        const unsigned root = s->v[v].copy_of < VALUES ? s->v[v].copy_of : v;

        for (unsigned i = 0; i < VALUES; i++) {
                if (i != v && i != root && s->v[i].copy_of != root)
                        continue;
                s->v[i].is |= say & IS_LOW ? say | IS_NARROW | IS_POSITIVE : say;
                s->v[i].off = s->v[i].moved = 0;
                s->v[i].inherited = false;
                if (say == IS_NARROW)
                        continue;
                s->v[i].wants = NOBODY;
                s->v[i].sum = false;
        }
}

/* What a comparison says when the jump behind it is not taken. */
static void learn(struct state *s, ZydisMnemonic jump)
{
        static const struct { ZydisMnemonic jump; u8 say; } rows[] = {
                { ZYDIS_MNEMONIC_JL, IS_HIGH }, { ZYDIS_MNEMONIC_JNBE, IS_LOW }, { ZYDIS_MNEMONIC_JNZ, IS_NARROW },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                if (rows[i].jump == jump && rows[i].say == s->flags_say)
                        learn_of(s, s->flags_of, s->flags_say);
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
        learn_of(s, s->r11_of, high ? IS_HIGH : IS_LOW);
        set(s, R11, nothing);
        return true;
}

static unsigned value_of_guest(ZydisRegister reg)
{
        const unsigned n = number_of(reg);

        return host_reg_of[n] != HOST_NONE ? host_reg_of[n] : n < R14 ? SLOTS + n - R10 : SLOTS + 2 + n - R14;
}

/* What a link may say: others build on it. */
static bool claims_hold(const struct state *s, const struct shadow_facts *facts)
{
        const struct known *page = &s->v[PAGE_VA];

        for (unsigned r = 0; r < GPR_COUNT; r++) {
                const struct known *k = &s->v[value_of_guest(ZYDIS_REGISTER_RAX + r)];

                if (facts->high >> r & 1 && !(k->is & IS_HIGH && distance(k) <= (s64)OWED && !k->sum))
                        return false;
                if (facts->low >> r & 1 && !(k->is & IS_LOW && !distance(k) && !k->sum))
                        return false;
                if (facts->index >> r & 1 && !(k->is & IS_NARROW && k->is & IS_POSITIVE && !(k->inherited && distance(k))))
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

                if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && is_general(op->reg.value) && op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
                        set(&s, value_of_guest(op->reg.value), made(narrow_write(&insn, op)));
        }
        set(&s, FS_BASE, nothing);
        set(&s, R10, made(IS_OURS));
        set(&s, R11, nothing);
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
                here = name_of(&s, &ops[i].mem);
                if (wrong && !find_reached(&s, &here))
                        return wrong;
                learn_by_access(&s, &ops[i].mem, !wrong);
        }
        follow(&s, &insn, ops);
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
                learn(&s, insn.mnemonic);
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
                start.v[i] = nothing;
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

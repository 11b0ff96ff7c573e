/* What instructions and comparisons leave known. */
#include "emitted_known.h"

#include <string.h>

#include "mmu/shadow.h"

#define ONCE_MAX (16 << 20)

/* ---- names ---- */

bool known_is_general(ZydisRegister reg)
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
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && known_is_general(op->reg.value))
                return known_number_of(op->reg.value);
        return slot_of(op);
}

/* ---- addresses ---- */

/* What a register's value is known by: the guest's register in memory that it was loaded from. */
static unsigned root_of(const struct state *s, unsigned v)
{
        return s->v[v].copy_of < VALUES ? s->v[v].copy_of : v;
}

struct reached known_name_of(const struct state *s, const ZydisDecodedOperandMem *m)
{
        struct reached r = { .base = NOBODY, .index = NOBODY, .scale = m->scale };
        const bool has_index = m->index != ZYDIS_REGISTER_NONE, biased = has_index && s->v[known_number_of(m->index)].is & IS_OURS;

        if ((biased && m->scale > 1) || (m->base == ZYDIS_REGISTER_NONE && !has_index))
                return r;
        if (m->base != ZYDIS_REGISTER_NONE && (!known_is_general(m->base) || m->base == ZYDIS_REGISTER_RSP || s->v[known_number_of(m->base)].is & IS_OURS))
                return r;
        if (m->base == ZYDIS_REGISTER_R10 && s->r10_is.base != NOBODY) {
                if (has_index && !biased)
                        return r;
                r = s->r10_is;
        } else {
                r.base = m->base == ZYDIS_REGISTER_NONE ? NO_BASE : (u8)root_of(s, known_number_of(m->base));
                if (has_index && !biased)
                        r.index = (u8)root_of(s, known_number_of(m->index));
        }
        if (r.index == NOBODY)
                r.scale = 0;
        r.biased |= biased;
        r.gs = m->segment == ZYDIS_REGISTER_GS;
        r.disp += m->disp.value;
        return r;
}

bool known_is_same_place(const struct reached *a, const struct reached *b)
{
        return a->base == b->base && a->index == b->index && a->scale == b->scale && a->gs == b->gs && a->biased == b->biased && a->disp == b->disp;
}

const struct reached *known_find_reached(const struct state *s, const struct reached *r)
{
        for (unsigned i = 0; i < REACHED_MAX && r->base != NOBODY; i++)
                if (known_is_same_place(&s->reached[i], r))
                        return &s->reached[i];
        return NULL;
}

void known_reach(struct state *s, const struct reached *r)
{
        unsigned at = REACHED_MAX;

        for (unsigned i = 0; i < REACHED_MAX; i++) {
                if (known_is_same_place(&s->reached[i], r)) {
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

void known_set(struct state *s, unsigned v, struct known k)
{
        if (v == s->r11_of || v == R11)
                s->r11_relation = NO_RELATION;
        if (v == s->flags_of)
                s->flags_say = 0;
        for (unsigned i = 0; i < VALUES; i++) {
                if (s->v[i].wants == v)
                        s->v[i] = KNOWN_NOTHING;
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
                known_reach(s, &r);
        }
}

/* @v becomes what @k says, and @by more; @same: @k is of @v itself. */
static void move(struct state *s, unsigned v, struct known k, s64 by, bool same)
{
        struct reached before[REACHED_MAX];

        memcpy(before, s->reached, sizeof(before));
        if ((k.sum && by) || known_distance(&k) + llabs(by) > MOVED_MAX)
                k = KNOWN_NOTHING;
        else
                k.off += (s32)by;
        k.copy_of = NOBODY;
        known_set(s, v, k);
        if (same && llabs(by) < MOVED_MAX)
                move_reached(s, before, v, llabs(by));
}

/* A sum that was compared, or is made of what was. */
static struct known sum_of(const struct state *s, const ZydisDecodedOperandMem *m)
{
        struct known k = KNOWN_NOTHING;
        unsigned index;

        if (m->base == ZYDIS_REGISTER_RIP)
                return known_made(IS_OURS);
        k = m->base == ZYDIS_REGISTER_NONE ? known_made(IS_LOW) : s->v[known_number_of(m->base)];
        if (m->index == ZYDIS_REGISTER_NONE)
                return k;
        index = known_number_of(m->index);
        if (k.is & IS_LOW && s->v[index].is & IS_OURS && m->scale <= 1)
                return known_made(IS_OURS); /* with the bias */
        if (k.sum || !(k.is & (IS_HIGH | IS_LOW)))
                return KNOWN_NOTHING;
        k.is &= (u8)~IS_NARROW;
        k.sum = true;
        if (!(s->v[index].is & IS_NARROW)) {
                /* r11 is a copy of the slot that is going to be compared. */
                if (index != R11 || s->r11_of < SLOTS || s->r11_relation != NO_RELATION)
                        return KNOWN_NOTHING;
                k.wants = s->r11_of;
        }
        return k;
}

/* An operand's address: its displacement may be any, but only once. */
static void lea(struct state *s, unsigned dst, struct known k, bool was_sum, s64 disp, bool same)
{
        if (was_sum && disp)
                k = KNOWN_NOTHING;
        if (!(k.is & IS_OURS) && !k.sum && llabs(disp) > ONCE_MAX) {
                k.is &= (u8)~IS_NARROW;
                k.sum = true;
        }
        k.copy_of = NOBODY;
        if (k.sum || k.is & IS_OURS)
                known_set(s, dst, k);
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
u8 known_narrow_write(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op)
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

bool known_is_fit(const struct state *s, struct known k, u8 range)
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
                known_set(s, dst, k);
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
                known_set(s, dst, known_made(IS_OURS));
                if (dst == R11)
                        s->r11_of = NOBODY;
                return true;
        }
        if (insn->mnemonic == ZYDIS_MNEMONIC_LEA) {
                const struct known k = sum_of(s, &ops[1].mem);
                const bool was_sum = ops[1].mem.base != ZYDIS_REGISTER_NONE && ops[1].mem.base != ZYDIS_REGISTER_RIP && s->v[known_number_of(ops[1].mem.base)].sum;
                const bool same = ops[1].mem.index == ZYDIS_REGISTER_NONE && ops[1].mem.base == ops[0].reg.value;
                const struct reached sum = known_name_of(s, &ops[1].mem);

                /* The bias is added to what is then accessed. */
                if (sum.biased && (k.is & IS_OURS || known_find_reached(s, &sum))) {
                        known_reach(s, &sum);
                        known_set(s, dst, known_made(IS_OURS));
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
                bool fit = !needs || known_is_fit(s, s->v[dst], needs);

                if (low && dst == R10) {
                        if (sum.base == NOBODY)
                                sum = (struct reached){ .base = (u8)root_of(s, R10), .index = NOBODY };
                        sum.biased = true;
                        fit |= known_find_reached(s, &sum) != NULL;
                        if (fit)
                                known_reach(s, &sum);
                }
                /* Else the soft TLB's: what is added or subtracted is ours. */
                known_set(s, dst, segment || !fit ? KNOWN_NOTHING : known_made(IS_OURS));
                s->flags_say = 0;
                return true;
        }
        if (dst == R11 && insn->mnemonic == ZYDIS_MNEMONIC_RORX && src < VALUES && relation_by(ops[2].imm.value.u) != NO_RELATION) {
                const u8 of = src == R11 ? s->v[R11].copy_of : (u8)src;

                known_set(s, R11, KNOWN_NOTHING);
                s->r11_of = of;
                s->r11_relation = of == NOBODY ? NO_RELATION : relation_by(ops[2].imm.value.u);
                return true;
        }
        if (dst == R11 && insn->mnemonic == ZYDIS_MNEMONIC_MOVSXD && src < VALUES) {
                known_set(s, R11, known_made(IS_NARROW));
                s->r11_of = (u8)src;
                s->r11_relation = SIGN_EXTENDED;
                return true;
        }
        return false;
}

void known_follow(struct state *s, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
        if (follow_known(s, insn, ops))
                return;
        for (unsigned i = 0; i < insn->operand_count; i++) {
                const unsigned v = value_of(&ops[i]);

                if (v < VALUES && ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
                        known_set(s, v, known_made(v < SLOTS ? known_narrow_write(insn, &ops[i]) : 0));
        }
        if (insn->cpu_flags && (insn->cpu_flags->modified | insn->cpu_flags->set_0 | insn->cpu_flags->set_1 | insn->cpu_flags->undefined))
                s->flags_say = 0;
}

/* ---- what comparisons say ---- */

void known_learn_of(struct state *s, unsigned v, u8 say)
{
        const unsigned root = root_of(s, v);

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

void known_learn(struct state *s, ZydisMnemonic jump)
{
        static const struct { ZydisMnemonic jump; u8 say; } rows[] = {
                { ZYDIS_MNEMONIC_JL, IS_HIGH }, { ZYDIS_MNEMONIC_JNBE, IS_LOW }, { ZYDIS_MNEMONIC_JNZ, IS_NARROW },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                if (rows[i].jump == jump && rows[i].say == s->flags_say)
                        known_learn_of(s, s->flags_of, s->flags_say);
        }
}

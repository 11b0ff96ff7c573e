/* Sharing checks.
 *
 * A look into the soft TLB costs seven instructions and two loads; most accesses of a block go to a few places: the stack, the fields of one or two
 * structures. So before a block is emitted its registers are followed symbolically: a *symbol* stands for the unknown value that a register had at
 * some point, and each register is a symbol plus a constant for as long as moves, LEA, ADD, SUB, PUSH and POP change it. Accesses with the same
 * symbol lie a known distance apart. The first of a group then looks up the whole range of them at once and keeps the host
 * address in a register, a *window*; the others use it without any check. (In Popek and Goldberg's words nothing changes: every access was mapped by
 * the monitor, some by the same look.)
 *
 * A window is good until the end of the block: only the outer loop flushes TLB entries, and it is reached by leaving the block. A range that crosses a
 * page cannot be shared; then the block is left for one that does not try (MODE_UNSHARED). Reads look up for reading until the first
 * write, which opens the window again for writing: a look for writing sets the dirty bit, which must not happen before a write does. */
#include "window.h"

#include <string.h>

const u8 window_reg[WINDOWS] = { SCRATCH2 };

#define OFFSET_MAX (1 << 24)

struct follower {
        struct value regs[GPR_COUNT];
        struct estimate now[GPR_COUNT];
        u16 next_symbol;
};

static void forget(struct follower *f, unsigned reg)
{
        f->regs[reg] = (struct value){ .symbol = f->next_symbol++ };
}

static void move(struct follower *f, unsigned dst, struct value v, s64 by)
{
        if (v.off + by > OFFSET_MAX || v.off + by < -OFFSET_MAX)
                forget(f, dst);
        else
                f->regs[dst] = (struct value){ .symbol = v.symbol, .narrow = v.narrow, .positive = v.positive, .off = (s32)(v.off + by) };
}

/* MOV, LEA, ADD, SUB, INC, DEC of whole registers by constants. False: not one of them. */
static bool follow_arithmetic(struct follower *f, const struct insn *g)
{
        const ZydisDecodedOperand *dst = &g->ops[0], *src = &g->ops[1];
        unsigned reg;

        if (g->z.operand_width != 64 || dst->type != ZYDIS_OPERAND_TYPE_REGISTER || !decode_is_gpr(dst->reg.value))
                return false;
        reg = insn_gpr(dst->reg.value);
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_MOV:
                if (src->type != ZYDIS_OPERAND_TYPE_REGISTER || !decode_is_gpr(src->reg.value))
                        return false;
                move(f, reg, f->regs[insn_gpr(src->reg.value)], 0);
                return true;
        case ZYDIS_MNEMONIC_LEA:
                if (src->mem.index != ZYDIS_REGISTER_NONE || !decode_is_gpr(src->mem.base) || g->z.address_width != 64)
                        return false;
                move(f, reg, f->regs[insn_gpr(src->mem.base)], src->mem.disp.value);
                return true;
        case ZYDIS_MNEMONIC_ADD:
        case ZYDIS_MNEMONIC_SUB:
                if (src->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
                        return false;
                move(f, reg, f->regs[reg], g->z.mnemonic == ZYDIS_MNEMONIC_ADD ? src->imm.value.s : -src->imm.value.s);
                return true;
        case ZYDIS_MNEMONIC_INC:
        case ZYDIS_MNEMONIC_DEC:
                move(f, reg, f->regs[reg], g->z.mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1);
                return true;
        default:
                return false;
        }
}

/* Is what @g writes to @op a 32-bit number, signed or unsigned? Writes of 32 bits clear the upper half, but for those that do not happen: a CMPXCHG
 * that finds what it compared with, BSF and BSR of 0. CMOVcc clears it always (SDM 2A, CMOVcc). */
static bool writes_narrow(const struct insn *g, const ZydisDecodedOperand *op)
{
        if (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE && g->z.meta.category != ZYDIS_CATEGORY_CMOV)
                return false;
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_BSF:
        case ZYDIS_MNEMONIC_BSR:
                return false;
        case ZYDIS_MNEMONIC_MOVSXD:
        case ZYDIS_MNEMONIC_MOVSX:
        case ZYDIS_MNEMONIC_MOVZX:
                return op->size >= 32;
        case ZYDIS_MNEMONIC_CDQE:
                return true;
        default:
                return op->size == 32;
        }
}

static void forget_written(struct follower *f, const struct insn *g)
{
        for (unsigned i = 0; i < g->z.operand_count; i++) {
                const ZydisDecodedOperand *op = &g->ops[i];

                if (!insn_writes_gpr(op))
                        continue;
                forget(f, insn_gpr(op->reg.value));
                f->regs[insn_gpr(op->reg.value)].narrow = writes_narrow(g, op);
                f->regs[insn_gpr(op->reg.value)].positive = writes_narrow(g, op) && op->size == 32;
        }
}

/* The registers after @g. */
static void follow(struct follower *f, const struct insn *g)
{
        const struct value rsp = f->regs[RSP];

        switch ((enum insn_kind)g->kind) {
        case KIND_PUSH:
        case KIND_PUSHFQ:
        case KIND_CALL:
                move(f, RSP, rsp, -8);
                return;
        case KIND_POP:
                forget_written(f, g);
                if (g->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && decode_is_gpr(g->ops[0].reg.value) &&
                    insn_gpr(g->ops[0].reg.value) == RSP)
                        return;
                move(f, RSP, rsp, 8);
                return;
        case KIND_LEAVE:
                move(f, RSP, f->regs[RBP], 8);
                forget(f, RBP);
                return;
        case KIND_STRING: /* which Zydis does not say */
                forget_written(f, g);
                forget(f, RSI);
                forget(f, RDI);
                forget(f, RCX);
                return;
        default:
                if (!follow_arithmetic(f, g))
                        forget_written(f, g);
        }
}

/* ---- estimates ---- */

static struct estimate of_register(const struct follower *f, ZydisRegister reg)
{
        if (reg == ZYDIS_REGISTER_NONE)
                return (struct estimate){ .known = true };
        return decode_is_gpr(reg) && reg >= ZYDIS_REGISTER_RAX ? f->now[insn_gpr(reg)] : (struct estimate){ 0 };
}

static struct estimate of_source(const struct follower *f, const ZydisDecodedOperand *op)
{
        if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
                return (struct estimate){ .value = op->imm.value.u, .known = true };
        return op->type == ZYDIS_OPERAND_TYPE_REGISTER ? of_register(f, op->reg.value) : (struct estimate){ 0 };
}

static struct estimate sum(struct estimate a, struct estimate b, u64 scale)
{
        return (struct estimate){ .value = a.value + b.value * scale, .known = a.known && b.known };
}

/* What MOV, LEA, ADD and SUB would leave in their destination; otherwise nothing is known of it. */
static struct estimate result_now(const struct follower *f, const struct insn *g)
{
        const ZydisDecodedOperandMem *m = &g->ops[1].mem;

        if (g->z.operand_width != 64)
                return (struct estimate){ 0 };
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_MOV:
                return of_source(f, &g->ops[1]);
        case ZYDIS_MNEMONIC_ADD:
                return sum(of_source(f, &g->ops[0]), of_source(f, &g->ops[1]), 1);
        case ZYDIS_MNEMONIC_SUB:
                return sum(of_source(f, &g->ops[0]), of_source(f, &g->ops[1]), (u64)-1);
        case ZYDIS_MNEMONIC_LEA:
                return sum(sum(of_register(f, m->base), of_register(f, m->index), m->scale ? m->scale : 1),
                           (struct estimate){ .value = (u64)m->disp.value, .known = true }, 1);
        default:
                return (struct estimate){ 0 };
        }
}

static void follow_now(struct follower *f, const struct insn *g)
{
        const struct estimate result = result_now(f, g);

        for (unsigned i = 0; i < g->z.operand_count; i++)
                if (insn_writes_gpr(&g->ops[i]))
                        f->now[insn_gpr(g->ops[i].reg.value)] = i == 0 ? result : (struct estimate){ 0 };
}

static int add_access(struct windows *w, struct value v, s64 by, unsigned size, bool write, unsigned insn)
{
        if (w->n_accesses == ACCESSES_MAX)
                return -1;
        w->accesses[w->n_accesses] = (struct access){
                .symbol = v.symbol, .off = (s32)(v.off + by), .size = (u8)size, .write = write, .insn = (u16)insn,
        };
        return (int)w->n_accesses++;
}

static int operand_access(struct windows *w, const struct follower *f, const struct insn *g, unsigned insn, u64 rip)
{
        const ZydisDecodedOperandMem *m = &g->mem->mem;
        const s64 disp = (s64)g->disp;

        if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS || m->index != ZYDIS_REGISTER_NONE ||
            g->z.address_width != 64 || disp > OFFSET_MAX || disp < -OFFSET_MAX)
                return -1;
        if (m->base == ZYDIS_REGISTER_RIP)
                return add_access(w, (struct value){ .symbol = SYMBOL_RIP }, (s64)(rip & (PAGE_SIZE - 1)) + g->off + g->z.length + disp,
                                  g->mem_size, g->mem_writes, insn);
        if (!decode_is_gpr(m->base))
                return -1;
        return add_access(w, f->regs[insn_gpr(m->base)], disp, g->mem_size, g->mem_writes, insn);
}

/* The parts of a memory operand's address. */
static void operand_parts(const struct follower *f, struct insn *g, u64 page)
{
        const ZydisDecodedOperandMem *m = &g->mem->mem;

        if (m->base == ZYDIS_REGISTER_RIP) {
                g->base = (struct value){ .symbol = SYMBOL_RIP };
                g->base_now = (struct estimate){ .value = page, .known = true };
        } else if (decode_is_gpr(m->base)) {
                g->base = f->regs[insn_gpr(m->base)];
                g->base_now = of_register(f, m->base);
        } else if (m->segment == ZYDIS_REGISTER_FS) {
                g->base = (struct value){ .symbol = SYMBOL_FS };
        }
        if (decode_is_gpr(m->index)) {
                g->index = f->regs[insn_gpr(m->index)];
                g->index_now = of_register(f, m->index);
        }
}

static int stack_access(struct windows *w, const struct follower *f, const struct insn *g, unsigned insn)
{
        switch ((enum insn_kind)g->kind) {
        case KIND_PUSH:
        case KIND_PUSHFQ:
        case KIND_CALL:
                return add_access(w, f->regs[RSP], -8, 8, true, insn);
        case KIND_POP:
        case KIND_RET:
                return add_access(w, f->regs[RSP], 0, 8, false, insn);
        case KIND_LEAVE:
                return add_access(w, f->regs[RBP], 0, 8, false, insn);
        default:
                return -1;
        }
}

static void follower_init(struct follower *f, const u64 *regs)
{
        *f = (struct follower){ .next_symbol = SYMBOL_FIRST };
        for (unsigned r = 0; r < GPR_COUNT; r++) {
                forget(f, r);
                if (regs)
                        f->now[r] = (struct estimate){ .value = regs[r], .known = true };
        }
}

void windows_find(struct windows *w, struct insn *insns, unsigned n, u64 rip, const u64 *regs)
{
        struct follower f;

        follower_init(&f, regs);
        w->n_accesses = 0;
        memset(w->open, 0, sizeof(w->open));
        for (unsigned i = 0; i < n; i++) {
                struct insn *g = &insns[i];
                const bool simple = g->kind == KIND_PLAIN || g->kind == KIND_PUSH || g->kind == KIND_CALL || g->kind == KIND_JMP;

                g->operand_access = g->mem && simple ? (s16)operand_access(w, &f, g, i, rip) : (s16)-1;
                g->stack_access = (s16)stack_access(w, &f, g, i);
                if (g->mem)
                        operand_parts(&f, g, rip & PAGE_MASK);
                follow(&f, g);
                if (regs)
                        follow_now(&f, g);
        }
}

void windows_after(const struct insn *insns, unsigned n, struct value ret[GPR_COUNT])
{
        struct follower f;

        follower_init(&f, NULL);
        for (unsigned i = 0; i < n; i++)
                follow(&f, &insns[i]);
        memcpy(ret, f.regs, sizeof(f.regs));
}

int window_of(const struct windows *w, unsigned i)
{
        const struct access *a = &w->accesses[i];

        for (unsigned k = 0; k < WINDOWS; k++) {
                const struct window *o = &w->open[k];

                if (o->symbol == a->symbol && a->off >= o->lo && a->off + a->size <= o->hi && (o->write || !a->write))
                        return (int)k;
        }
        return -1;
}

bool window_taken_by(const struct insn *g)
{
        return g->kind == KIND_STRING || g->kind == KIND_BIT_TEST || g->kind == KIND_SYS;
}

/* How many of the accesses behind @i an open window serves, before its register is taken. */
static unsigned still_used(const struct windows *w, const struct insn *insns, const struct window *o, unsigned i)
{
        unsigned uses = 0, from = w->accesses[i].insn;

        for (unsigned k = i + 1; k < w->n_accesses; k++) {
                const struct access *a = &w->accesses[k];

                for (; from < a->insn; from++)
                        if (window_taken_by(&insns[from]))
                                return uses;
                uses += o->symbol == a->symbol && a->off >= o->lo && a->off + a->size <= o->hi && (o->write || !a->write);
        }
        return uses;
}

int window_plan(const struct windows *w, const struct insn *insns, unsigned i, struct window *ret)
{
        const struct access *first = &w->accesses[i];
        struct window plan = { .symbol = first->symbol, .write = first->write, .lo = first->off, .hi = first->off + first->size };
        unsigned uses, from = first->insn;
        int best = -1;
        unsigned best_uses = ~0u;

        for (unsigned k = i + 1; k < w->n_accesses; k++) {
                const struct access *a = &w->accesses[k];
                s32 lo, hi;

                for (; from < a->insn && !window_taken_by(&insns[from]); from++)
                        ;
                if (from < a->insn)
                        break;
                if (a->symbol != plan.symbol)
                        continue;
                lo = MIN(plan.lo, a->off);
                hi = MAX(plan.hi, a->off + a->size);
                if ((a->write && !plan.write) || hi - lo > WINDOW_SPAN_MAX)
                        break;
                plan.lo = lo;
                plan.hi = hi;
        }
        uses = still_used(w, insns, &plan, i);
        if (!uses)
                return -1;
        for (unsigned k = 0; k < WINDOWS; k++) {
                const unsigned others = w->open[k].symbol ? still_used(w, insns, &w->open[k], i) : 0;

                if (others < best_uses) {
                        best = (int)k;
                        best_uses = others;
                }
        }
        if (best_uses >= uses)
                return -1;
        *ret = plan;
        return best;
}

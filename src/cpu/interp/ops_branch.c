/* Near control transfers and the stack. Far transfers are the system half's. */
#include <Zydis/Zydis.h>

#include "ops.h"

/* ---- helpers for any mode ---- */

static u64 stack_mask(const struct uop *u)
{
        return u->stack_size == 8 ? ~0ULL : u->stack_size == 4 ? 0xffffffffULL : 0xffffULL;
}

static void stack_pointer_set(struct interp *in, const struct uop *u, u64 value)
{
        const u64 mask = stack_mask(u);

        if (u->stack_size == 4)
                in->regs[RSP] = value & mask;
        else
                in->regs[RSP] = (in->regs[RSP] & ~mask) | (value & mask);
}

static u64 stack_linear(struct interp *in, const struct uop *u, u64 offset, unsigned size, enum mmu_access access)
{
        return seg_linear(in, u, SEG_SS, offset & stack_mask(u), size, access);
}

static void push_any(struct interp *in, const struct uop *u, u64 value, unsigned size)
{
        const u64 sp = in->regs[RSP] - size;

        mem_write(in, u, stack_linear(in, u, sp, size, MMU_WRITE), value, size);
        stack_pointer_set(in, u, sp);
}

static u64 peek_any(struct interp *in, const struct uop *u, u64 distance, unsigned size)
{
        return mem_read(in, u, stack_linear(in, u, in->regs[RSP] + distance, size, MMU_READ), size);
}

/* Raises #GP(0) when a near branch would leave the code segment or the canonical addresses. SDM 2A, JMP. */
static void check_target(struct interp *in, const struct uop *u, u64 rip)
{
        if (in->mode & MODE_LONG64 ? !mmu_is_canonical(rip) : rip > in->cpu->seg[SEG_CS].limit)
                interp_raise(in, u, EXC_GP, 0);
}

static u64 truncate_target(const struct interp *in, const struct uop *u, u64 rip)
{
        if (in->mode & MODE_LONG64)
                return rip;
        return u->size == 2 ? (u16)rip : (u32)rip;
}

/* ---- conditional and direct branches: imm is the target, disp the next instruction ---- */

#define JCC(n, name, cc)                                                                           \
        HANDLER(jcc_##name)                                                                           \
        {                                                                                          \
                JUMP(CONDITION(cc) ? u->imm : (u64)u->disp);                                       \
        }
FOR_EACH_CONDITION(JCC)
#define JCC_ROW(n, name, cc) jcc_##name,
uop_fn *const jcc_table[16] = { FOR_EACH_CONDITION(JCC_ROW) };

const struct uop *op_jmp(struct interp *in, const struct uop *u)
{
        JUMP(u->imm);
}

/* A block that ended without a branch. */
const struct uop *op_block_end(struct interp *in, const struct uop *u)
{
        JUMP(u->imm);
}

/* Condition @cc, by number, of @rf. SDM 1, appendix B. */
static bool condition_holds(u64 rf, unsigned cc)
{
        const bool less = !(rf & RFLAGS_SF) != !(rf & RFLAGS_OF);
        const bool values[8] = {
                rf & RFLAGS_OF, rf & RFLAGS_CF, rf & RFLAGS_ZF, rf & (RFLAGS_CF | RFLAGS_ZF),
                rf & RFLAGS_SF, rf & RFLAGS_PF, less,           less || rf & RFLAGS_ZF,
        };

        return values[cc >> 1] != (cc & 1);
}

/* Any mode: a conditional branch with its target checked. aux: the condition. */
const struct uop *op_branch_any(struct interp *in, const struct uop *u)
{
        if (!condition_holds(interp_rflags(in), u->aux))
                JUMP((u64)u->disp);
        check_target(in, u, u->imm);
        JUMP(u->imm);
}

/* loop, loope, loopne, jcxz: the counter has the address size. aux: 0 loop, 1 loope, 2 loopne, 3 jcxz. */
const struct uop *op_loop(struct interp *in, const struct uop *u)
{
        const u64 mask = u->addr_size == 8 ? ~0ULL : u->addr_size == 4 ? 0xffffffffULL : 0xffffULL;
        const bool zero = interp_rflags(in) & RFLAGS_ZF;
        u64 count = in->regs[RCX] & mask;
        bool taken;

        if (u->aux == 3) {
                taken = count == 0;
        } else {
                count = (count - 1) & mask;
                taken = count != 0 && (u->aux == 0 || zero == (u->aux == 1));
        }
        if (taken)
                check_target(in, u, u->imm);
        if (u->aux != 3)
                reg_write(in, RCX * 8, count, u->addr_size);
        JUMP(taken ? u->imm : (u64)u->disp);
}

/* ---- 64-bit flat: push, pop, call, ret ---- */

#define STACK_PTR(T, gva, access) ((T *)fast_ptr_at(in, (gva), (access), sizeof(T)))

static _noinline_ const struct uop *push_slow(struct interp *in, const struct uop *u, u64 value)
{
        push_any(in, u, value, u->size);
        SLOW_NEXT(u);
}

const struct uop *op_push_r(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RSP] - 8, value = in->regs[u->r1 / 8];
        u64 *p = STACK_PTR(u64, sp, MMU_WRITE);

        if (unlikely(!p))
                return push_slow(in, u, value);
        *p = value;
        in->regs[RSP] = sp;
        NEXT(u);
}

const struct uop *op_push_i(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RSP] - 8;
        u64 *p = STACK_PTR(u64, sp, MMU_WRITE);

        if (unlikely(!p))
                return push_slow(in, u, u->imm);
        *p = u->imm;
        in->regs[RSP] = sp;
        NEXT(u);
}

static _noinline_ const struct uop *pop_r_slow(struct interp *in, const struct uop *u)
{
        const u64 value = peek_any(in, u, 0, u->size);

        stack_pointer_set(in, u, in->regs[RSP] + u->size);
        reg_write(in, u->r1, value, u->size);
        SLOW_NEXT(u);
}

const struct uop *op_pop_r(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RSP];
        const u64 *p = STACK_PTR(u64, sp, MMU_READ);
        u64 value;

        if (unlikely(!p))
                return pop_r_slow(in, u);
        value = *p;
        in->regs[RSP] = sp + 8;
        in->regs[u->r1 / 8] = value; /* last: POP RSP */
        NEXT(u);
}

static _noinline_ const struct uop *call_slow(struct interp *in, const struct uop *u, u64 target)
{
        const u64 sp = in->regs[RSP] - u->size;

        target = truncate_target(in, u, target);
        /* Processors store the return address before they look at the target. */
        mem_write(in, u, stack_linear(in, u, sp, u->size, MMU_WRITE), interp_next_rip(in, u), u->size);
        check_target(in, u, target);
        stack_pointer_set(in, u, sp);
        in->rip = target;
        return NULL;
}

const struct uop *op_call(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RSP] - 8;
        u64 *p = STACK_PTR(u64, sp, MMU_WRITE);

        if (unlikely(!p))
                return call_slow(in, u, u->imm);
        *p = (u64)u->disp;
        in->regs[RSP] = sp;
        JUMP(u->imm);
}

const struct uop *op_call_r(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RSP] - 8, target = in->regs[u->r1 / 8];
        u64 *p = STACK_PTR(u64, sp, MMU_WRITE);

        if (unlikely(!p || !mmu_is_canonical(target)))
                return call_slow(in, u, target);
        *p = (u64)u->disp;
        in->regs[RSP] = sp;
        JUMP(target);
}

static _noinline_ const struct uop *ret_slow(struct interp *in, const struct uop *u)
{
        const u64 target = truncate_target(in, u, peek_any(in, u, 0, u->size));

        check_target(in, u, target);
        stack_pointer_set(in, u, in->regs[RSP] + u->size + u->imm);
        in->rip = target;
        return NULL;
}

/* imm: bytes of arguments to drop. */
const struct uop *op_ret(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RSP];
        const u64 *p = STACK_PTR(u64, sp, MMU_READ);
        u64 target;

        if (unlikely(!p || !mmu_is_canonical(target = *p)))
                return ret_slow(in, u);
        in->regs[RSP] = sp + 8 + u->imm;
        JUMP(target);
}

const struct uop *op_jmp_r(struct interp *in, const struct uop *u)
{
        const u64 target = in->regs[u->r1 / 8];

        if (unlikely(!mmu_is_canonical(target)))
                interp_raise(in, u, EXC_GP, 0);
        JUMP(target);
}

const struct uop *op_leave(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RBP];
        const u64 *p = STACK_PTR(u64, sp, MMU_READ);

        if (unlikely(!p))
                return op_leave_any(in, u);
        in->regs[RBP] = *p;
        in->regs[RSP] = sp + 8;
        NEXT(u);
}

/* ---- the same in any mode ---- */

const struct uop *op_push_any(struct interp *in, const struct uop *u)
{
        u64 value;

        if (u->flags & UOP_MEM)
                value = mem_read(in, u, ea_linear(in, u, u->size, MMU_READ), u->size);
        else
                value = u->aux ? u->imm : reg_read(in, u->r1, u->size);
        push_any(in, u, value, u->size);
        SLOW_NEXT(u);
}

/* POP to memory: an address based on the stack pointer uses it as POP leaves it. */
BODY_HANDLER(pop_m)
{
        const u64 value = peek_any(in, u, 0, u->size);
        const s64 popped = u->base == RSP ? u->size : 0;

        mem_write(in, u, ea_linear_plus(in, u, popped, u->size, MMU_WRITE), value, u->size);
        stack_pointer_set(in, u, in->regs[RSP] + u->size);
}

const struct uop *op_pop_any(struct interp *in, const struct uop *u)
{
        return u->flags & UOP_MEM ? pop_m(in, u) : pop_r_slow(in, u);
}

const struct uop *op_call_any(struct interp *in, const struct uop *u)
{
        u64 target = u->imm;

        if (u->flags & UOP_MEM)
                target = mem_read(in, u, ea_linear(in, u, u->size, MMU_READ), u->size);
        else if (u->aux)
                target = reg_read(in, u->r1, u->size);
        return call_slow(in, u, target);
}

const struct uop *op_jmp_any(struct interp *in, const struct uop *u)
{
        u64 target = u->imm;

        if (u->flags & UOP_MEM)
                target = mem_read(in, u, ea_linear(in, u, u->size, MMU_READ), u->size);
        else if (u->aux)
                target = reg_read(in, u->r1, u->size);
        target = truncate_target(in, u, target);
        check_target(in, u, target);
        JUMP(target);
}

const struct uop *op_ret_any(struct interp *in, const struct uop *u)
{
        return ret_slow(in, u);
}

const struct uop *op_leave_any(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RBP];
        const u64 value = mem_read(in, u, stack_linear(in, u, sp, u->size, MMU_READ), u->size);

        stack_pointer_set(in, u, (sp & stack_mask(u)) + u->size);
        reg_write(in, RBP * 8, value, u->size);
        SLOW_NEXT(u);
}

/* ENTER: imm is the frame size, aux the nesting level. SDM 2A. */
const struct uop *op_enter(struct interp *in, const struct uop *u)
{
        const unsigned level = u->aux % 32;
        const u64 old_sp = in->regs[RSP];
        u64 frame, sp = old_sp - u->size, bp = in->regs[RBP];

        mem_write(in, u, stack_linear(in, u, sp, u->size, MMU_WRITE), reg_read(in, RBP * 8, u->size), u->size);
        frame = sp;
        for (unsigned i = 1; i < level; i++) {
                u64 link;

                bp -= u->size;
                sp -= u->size;
                link = mem_read(in, u, stack_linear(in, u, bp, u->size, MMU_READ), u->size);
                mem_write(in, u, stack_linear(in, u, sp, u->size, MMU_WRITE), link, u->size);
        }
        if (level) {
                sp -= u->size;
                mem_write(in, u, stack_linear(in, u, sp, u->size, MMU_WRITE), frame & stack_mask(u), u->size);
        }
        sp -= u->imm;
        /* The new stack top must be writable; SDM: "a page fault ... if the stack pointer is not". */
        mem_probe_write(in, u, stack_linear(in, u, sp, u->size, MMU_WRITE), u->size);
        reg_write(in, RBP * 8, frame & stack_mask(u), u->size);
        stack_pointer_set(in, u, sp);
        SLOW_NEXT(u);
}

const struct uop *op_pusha(struct interp *in, const struct uop *u)
{
        const u64 sp = in->regs[RSP];

        for (unsigned i = 0; i < 8; i++)
                mem_probe_write(in, u, stack_linear(in, u, sp - (i + 1) * u->size, u->size, MMU_WRITE), u->size);
        for (unsigned i = 0; i < 8; i++)
                mem_write(in, u, stack_linear(in, u, sp - (i + 1) * u->size, u->size, MMU_WRITE),
                          reg_read(in, i * 8, u->size), u->size);
        stack_pointer_set(in, u, sp - 8 * u->size);
        SLOW_NEXT(u);
}

const struct uop *op_popa(struct interp *in, const struct uop *u)
{
        u64 values[8];

        for (unsigned i = 0; i < 8; i++)
                values[i] = peek_any(in, u, i * u->size, u->size);
        for (unsigned i = 0; i < 8; i++)
                if (7 - i != RSP)
                        reg_write(in, (7 - i) * 8, values[i], u->size);
        stack_pointer_set(in, u, in->regs[RSP] + 8 * u->size);
        SLOW_NEXT(u);
}

/* Classic BPF, made back to front.
 *
 * BPF jumps go forward only. Emitting the last instruction first means that whatever an instruction goes on to exists
 * already, so its offset is final at once, and code that is the same from some point on exists once: asking for an
 * instruction that is there already, with the same continuation, gives the one that is there. Positions count from the
 * end of the program; an instruction at p falls through to p - 1, a jump from p to t has the offset p - t - 1.
 *
 * Conditional jumps reach 255 instructions. A target that is further away gets a relay: a copy, if it is a return, or
 * an unconditional jump (32-bit offset). */
#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>

#include "box/seccomp/internal.h"

/* Two relays may come between a jump and its targets. */
#define REACH (255 - 2)

#define LOAD   (BPF_LD | BPF_W | BPF_ABS)
#define AND    (BPF_ALU | BPF_AND | BPF_K)
#define ALWAYS (BPF_JMP | BPF_JA)
#define RETURN (BPF_RET | BPF_K)

void bpf_code_init(struct bpf_code *code)
{
        code->n = 0;
        code->overflow = false;
        memset(code->bucket, 0xff, sizeof(code->bucket));
}

static bool is_branch(u16 op)
{
        return BPF_CLASS(op) == BPF_JMP && BPF_OP(op) != BPF_JA;
}

static u32 bucket_of(u16 op, u32 k, bpf_pos yes, bpf_pos no)
{
        u32 hash = op;

        hash = hash * 0x9e3779b1u + k;
        hash = hash * 0x9e3779b1u + yes;
        hash = hash * 0x9e3779b1u + no;
        return (hash ^ hash >> 15) % 1024;
}

/* The instruction with these contents and, for what is no branch, @yes == @no as its successor; made if it is not
 * there. The successor of what is neither branch nor return must be the last one made. */
static bpf_pos emit(struct bpf_code *code, u16 op, u32 k, bpf_pos yes, bpf_pos no)
{
        const bpf_pos at = code->n;

        if (at == BPF_MAXINSNS) {
                code->overflow = true;
                return at - 1;
        }
        code->insn[at] = (struct sock_filter){ .code = op, .k = op == ALWAYS ? at - yes - 1 : k };
        if (is_branch(op)) {
                code->insn[at].jt = (u8)(at - yes - 1);
                code->insn[at].jf = (u8)(at - no - 1);
        }
        code->target[at][0] = yes;
        code->target[at][1] = no;
        const u32 bucket = bucket_of(op, k, yes, no);
        code->next[at] = code->bucket[bucket];
        code->bucket[bucket] = (s32)at;
        return code->n++;
}

/* Some instruction with these contents that is near enough to be jumped to, or -1. */
static s32 find(const struct bpf_code *code, u16 op, u32 k, bpf_pos yes, bpf_pos no)
{
        for (s32 i = code->bucket[bucket_of(op, k, yes, no)]; i >= 0 && code->n - (u32)i < REACH; i = code->next[i])
                if (code->insn[i].code == op && (op == ALWAYS || code->insn[i].k == k) && code->target[i][0] == yes &&
                        code->target[i][1] == no)
                        return i;
        return -1;
}

static bpf_pos find_or_emit(struct bpf_code *code, u16 op, u32 k, bpf_pos yes, bpf_pos no)
{
        const s32 there = find(code, op, k, yes, no);

        return there >= 0 ? (bpf_pos)there : emit(code, op, k, yes, no);
}

bpf_pos bpf_return(struct bpf_code *code, u32 action)
{
        return find_or_emit(code, RETURN, action, 0, 0);
}

/* @target, or something near that gets there. */
static bpf_pos relay(struct bpf_code *code, bpf_pos target)
{
        if (code->n - target <= REACH)
                return target;
        if (code->insn[target].code == RETURN)
                return bpf_return(code, code->insn[target].k);
        return find_or_emit(code, ALWAYS, 0, target, target);
}

/* Makes @then the last instruction made, so that the next one falls through to it. */
static bpf_pos last(struct bpf_code *code, bpf_pos then)
{
        if (then == code->n - 1)
                return then;
        return code->insn[then].code == RETURN ? emit(code, RETURN, code->insn[then].k, 0, 0)
                                               : emit(code, ALWAYS, 0, then, then);
}

static bpf_pos straight(struct bpf_code *code, u16 op, u32 k, bpf_pos then)
{
        const s32 there = find(code, op, k, then, then);

        if (there >= 0)
                return (bpf_pos)there;
        then = last(code, then);
        return emit(code, op, k, then, then);
}

bpf_pos bpf_load(struct bpf_code *code, u32 offset, bpf_pos then)
{
        return straight(code, LOAD, offset, then);
}

bpf_pos bpf_and(struct bpf_code *code, u32 mask, bpf_pos then)
{
        return mask == UINT32_MAX ? then : straight(code, AND, mask, then);
}

bpf_pos bpf_jump(struct bpf_code *code, u16 op, u32 k, bpf_pos yes, bpf_pos no)
{
        if (yes == no)
                return yes;
        yes = relay(code, yes);
        no = relay(code, no);
        return find_or_emit(code, BPF_JMP | BPF_K | op, k, yes, no);
}

/* ---- threading ---- */

/* Whether the comparison of the word at @offset at @at is decided by the facts. */
static bool decided(
        const struct bpf_code *code, bpf_pos at, u32 offset, const struct bpf_fact *facts, size_t n_facts, bpf_pos *ret)
{
        const struct sock_filter *insn = &code->insn[at];

        if (insn->code != (BPF_JMP | BPF_K | BPF_JEQ))
                return false;
        for (size_t i = 0; i < n_facts; i++) {
                if (facts[i].offset != offset || (!facts[i].equal && facts[i].value != insn->k))
                        continue;
                *ret = code->target[at][facts[i].equal && facts[i].value == insn->k ? 0 : 1];
                return true;
        }
        return false;
}

/* Code that may be entered with anything in the accumulator. */
static bool starts_fresh(const struct bpf_code *code, bpf_pos at)
{
        while (code->insn[at].code == ALWAYS)
                at = code->target[at][0];
        return code->insn[at].code == LOAD || code->insn[at].code == RETURN;
}

bpf_pos bpf_thread(
        const struct bpf_code *code, bpf_pos target, u32 loaded, const struct bpf_fact *facts, size_t n_facts)
{
        bpf_pos at = target, next;

        if (code->overflow)
                return target;
        for (;;) {
                while (code->insn[at].code == ALWAYS)
                        at = code->target[at][0];
                if (code->insn[at].code != LOAD)
                        return at;
                const u32 offset = code->insn[at].k;
                if (decided(code, code->target[at][0], offset, facts, n_facts, &next) &&
                        (offset == loaded || starts_fresh(code, next))) {
                        at = next;
                        continue;
                }
                /* Loading again what is there already. */
                return offset == loaded ? code->target[at][0] : at;
        }
}

/* ---- checking ---- */

int bpf_check(const struct sock_filter *insn, size_t n)
{
        if (n == 0 || n > BPF_MAXINSNS || insn[n - 1].code != RETURN)
                return -EINVAL;
        for (size_t i = 0; i < n; i++) {
                const size_t left = n - i - 1; /* instructions behind this one */

                switch (insn[i].code) {
                case LOAD:
                        if (insn[i].k % 4 || insn[i].k >= sizeof(struct seccomp_data))
                                return -EINVAL;
                        break;
                case ALWAYS:
                        if (insn[i].k >= left)
                                return -EINVAL;
                        break;
                case BPF_JMP | BPF_K | BPF_JEQ:
                case BPF_JMP | BPF_K | BPF_JGT:
                case BPF_JMP | BPF_K | BPF_JGE:
                        if (insn[i].jt >= left || insn[i].jf >= left)
                                return -EINVAL;
                        break;
                case AND:
                case RETURN:
                        break;
                default:
                        return -EINVAL;
                }
        }
        return 0;
}

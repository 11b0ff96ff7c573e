/* A profile as a program: architecture, then a decision tree over ranges of system call numbers, then conditions.
 *
 *         ld arch                              i386 calls come with another architecture; anything else is killed
 *         jeq X86_64, , not_64
 *         ld nr
 *         jge 165, right, left                 numbers with equal verdicts that stand side by side are one range
 *         ...
 *         ret ALLOW                            a leaf is a return, or the conditions of one call
 *
 * The default profile of podman has 63 such ranges on x86-64: a call takes 10 instructions on average, where a list of
 * its 400 calls takes 300. A range's weight is how often its calls are made; each node splits the weight as evenly as it
 * can, which puts a range of weight w about log2(total/w) comparisons deep (Mehlhorn, "Nearly optimal binary search
 * trees", 1975).
 *
 * x32 calls have x86-64's architecture and bit 30 set in the number: they are ranges behind those of x86-64 in the
 * same tree. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "box/seccomp/internal.h"

#define WORD_NR   ((u32)offsetof(struct seccomp_data, nr))
#define WORD_ARCH ((u32)offsetof(struct seccomp_data, arch))

/* Two ABIs of up to SECCOMP_NR_MAX + 2 ranges can share a tree. */
#define RANGES_MAX (2 * (SECCOMP_NR_MAX + 2))

struct range {
        u32 first_nr;
        enum seccomp_abi abi;
        struct seccomp_verdict verdict;
};

struct tree {
        const struct seccomp_profile *profile;
        struct bpf_code *code;
        struct range range[RANGES_MAX];
        u64 weight_before[RANGES_MAX + 1]; /* sum of the weights of range[0..i) */
        size_t n;
};

/* ---- conditions ---- */

static u32 word_lo(u8 arg)
{
        return (u32)(offsetof(struct seccomp_data, args) + arg * sizeof(u64));
}

static u32 word_hi(u8 arg)
{
        return word_lo(arg) + 4;
}

/* One 32-bit word, which is in the accumulator, compared: both ways out are shortened by what the comparison itself
 * tells, and by what is @known already (or NULL). */
static bpf_pos word_test(
        struct bpf_code *code, u32 word, u16 op, u32 k, const struct bpf_fact *known, bpf_pos yes, bpf_pos no)
{
        struct bpf_fact if_yes[2], if_no[2];
        size_t n = 0;

        if (op == BPF_JEQ) {
                if_yes[n] = (struct bpf_fact){ .offset = word, .value = k, .equal = true };
                if_no[n++] = (struct bpf_fact){ .offset = word, .value = k, .equal = false };
        }
        if (known) {
                if_yes[n] = *known;
                if_no[n++] = *known;
        }
        yes = bpf_thread(code, yes, word, if_yes, n);
        no = bpf_thread(code, no, word, if_no, n);
        return bpf_jump(code, op, k, yes, no);
}

/* @wide: all 64 bits of the argument count. */
static bpf_pos argument_equal(
        struct bpf_code *code, const struct seccomp_condition *c, bool wide, bpf_pos yes, bpf_pos no)
{
        const struct bpf_fact hi_equal = { .offset = word_hi(c->arg), .value = (u32)(c->value >> 32), .equal = true };
        bpf_pos at = word_test(code, word_lo(c->arg), BPF_JEQ, (u32)c->value, wide ? &hi_equal : NULL, yes, no);

        at = bpf_load(code, word_lo(c->arg), at);
        if (!wide)
                return at;
        return bpf_load(code, hi_equal.offset, word_test(code, hi_equal.offset, BPF_JEQ, hi_equal.value, NULL, at, no));
}

/* @op: BPF_JGT or BPF_JGE. */
static bpf_pos argument_above(
        struct bpf_code *code, const struct seccomp_condition *c, u16 op, bool wide, bpf_pos yes, bpf_pos no)
{
        const struct bpf_fact hi_equal = { .offset = word_hi(c->arg), .value = (u32)(c->value >> 32), .equal = true };
        bpf_pos at = word_test(code, word_lo(c->arg), op, (u32)c->value, wide ? &hi_equal : NULL, yes, no);

        at = bpf_load(code, word_lo(c->arg), at);
        if (!wide)
                return at;
        at = word_test(code, hi_equal.offset, BPF_JEQ, hi_equal.value, NULL, at, no);
        return bpf_load(
                code, hi_equal.offset, word_test(code, hi_equal.offset, BPF_JGT, hi_equal.value, NULL, yes, at));
}

static bpf_pos argument_masked(
        struct bpf_code *code, const struct seccomp_condition *c, bool wide, bpf_pos yes, bpf_pos no)
{
        const u32 words[] = { word_lo(c->arg), word_hi(c->arg) };

        for (unsigned i = 0; i < (wide ? 2 : 1); i++) {
                const u32 mask = (u32)(c->mask >> 32 * i), value = (u32)(c->value >> 32 * i);

                if (mask)
                        yes = bpf_load(code, words[i], bpf_and(code, mask, bpf_jump(code, BPF_JEQ, value, yes, no)));
        }
        return yes;
}

static bpf_pos condition_code(
        struct bpf_code *code, const struct seccomp_condition *c, bool wide, bpf_pos yes, bpf_pos no)
{
        switch ((enum seccomp_op)c->op) {
        case SECCOMP_OP_EQ:
                return argument_equal(code, c, wide, yes, no);
        case SECCOMP_OP_NE:
                return argument_equal(code, c, wide, no, yes);
        case SECCOMP_OP_GE:
                return argument_above(code, c, BPF_JGE, wide, yes, no);
        case SECCOMP_OP_LT:
                return argument_above(code, c, BPF_JGE, wide, no, yes);
        case SECCOMP_OP_GT:
                return argument_above(code, c, BPF_JGT, wide, yes, no);
        case SECCOMP_OP_LE:
                return argument_above(code, c, BPF_JGT, wide, no, yes);
        case SECCOMP_OP_MASKED_EQ:
                return argument_masked(code, c, wide, yes, no);
        case SECCOMP_OP_COUNT:
                break;
        }
        return no;
}

static bpf_pos leaf_code(const struct tree *tree, const struct range *range)
{
        const struct seccomp_profile *profile = tree->profile;
        struct bpf_code *code = tree->code;
        bpf_pos at = bpf_return(code, range->verdict.action);

        for (size_t i = range->verdict.n_rules; i-- > 0 && !code->overflow;) {
                const struct seccomp_rule *rule = &profile->rule[profile->list[range->verdict.first_rule + i]];
                const bpf_pos no = at;

                at = bpf_return(code, rule->action);
                for (size_t c = rule->n_conditions; c-- > 0;)
                        at = condition_code(code, &rule->condition[c], range->abi == SECCOMP_ABI_X86_64, at, no);
        }
        return at;
}

/* ---- ranges ---- */

static void add_range(
        struct tree *tree, enum seccomp_abi abi, u32 first_nr, const struct seccomp_verdict *verdict, u64 weight)
{
        const struct range *before = tree->n ? &tree->range[tree->n - 1] : NULL;

        if (!before || before->abi != abi || !seccomp_verdict_equal(tree->profile, &before->verdict, verdict)) {
                tree->range[tree->n++] = (struct range){ .first_nr = first_nr, .abi = abi, .verdict = *verdict };
                tree->weight_before[tree->n] = tree->weight_before[tree->n - 1];
        }
        tree->weight_before[tree->n] += weight;
}

static void add_abi(struct tree *tree, enum seccomp_abi abi)
{
        const struct seccomp_verdict beyond = { .action = tree->profile->beyond[abi] };
        const u32 base = abi == SECCOMP_ABI_X32 ? SECCOMP_X32_BIT : 0;

        for (u32 nr = 0; nr <= SECCOMP_NR_MAX; nr++)
                add_range(tree, abi, base + nr, &tree->profile->verdict[abi][nr],
                        abi == SECCOMP_ABI_X86_64 ? seccomp_syscall_weight(nr) : 1);
        add_range(tree, abi, base + SECCOMP_NR_MAX + 1, &beyond, 1);
}

/* The tree of range[from..to); the system call's number is in the accumulator. */
static bpf_pos tree_code(const struct tree *tree, size_t from, size_t to)
{
        size_t low = from + 1, high = to - 1;
        bpf_pos right;

        if (to - from == 1)
                return leaf_code(tree, &tree->range[from]);
        /* The last split with at most half of the weight on its left. */
        while (low < high) {
                const size_t middle = (low + high + 1) / 2;

                if (2 * tree->weight_before[middle] <= tree->weight_before[from] + tree->weight_before[to])
                        low = middle;
                else
                        high = middle - 1;
        }
        right = tree_code(tree, low, to);
        return bpf_jump(tree->code, BPF_JGE, tree->range[low].first_nr, right, tree_code(tree, from, low));
}

static bpf_pos whole_tree(struct tree *tree)
{
        return bpf_load(tree->code, WORD_NR, tree_code(tree, 0, tree->n));
}

static bpf_pos tree_of_i386(struct tree *tree, bpf_pos refused)
{
        if (!tree->profile->has_abi[SECCOMP_ABI_I386])
                return refused;
        tree->n = 0;
        add_abi(tree, SECCOMP_ABI_I386);
        return whole_tree(tree);
}

static bpf_pos tree_of_x86_64(struct tree *tree)
{
        const struct seccomp_verdict refused = { .action = SECCOMP_RET_KILL_THREAD };

        tree->n = 0;
        add_abi(tree, SECCOMP_ABI_X86_64);
        if (tree->profile->has_abi[SECCOMP_ABI_X32])
                add_abi(tree, SECCOMP_ABI_X32);
        else
                add_range(tree, SECCOMP_ABI_X32, SECCOMP_X32_BIT, &refused, 1);
        return whole_tree(tree);
}

int seccomp_program_build(const struct seccomp_profile *profile, struct bpf_code *code, struct err **err)
{
        _cleanup_free_ struct tree *tree = malloc(sizeof(*tree));
        bpf_pos refused, other, entry;

        if (!tree)
                return err_sys(err, ENOMEM, "compiling the seccomp profile");
        tree->profile = profile;
        tree->code = code;
        tree->weight_before[0] = 0;
        bpf_code_init(code);
        /* Another architecture than those of the profile: libseccomp's default for it. */
        refused = bpf_return(code, SECCOMP_RET_KILL_THREAD);
        other = bpf_jump(code, BPF_JEQ, AUDIT_ARCH_I386, tree_of_i386(tree, refused), refused);
        entry = bpf_jump(code, BPF_JEQ, AUDIT_ARCH_X86_64, tree_of_x86_64(tree), other);
        entry = bpf_load(code, WORD_ARCH, entry);
        if (code->overflow)
                return err_set(err, ERR_TOO_LARGE, E2BIG,
                        "the seccomp profile needs more than the kernel's %d BPF instructions", BPF_MAXINSNS);
        return entry == code->n - 1 ? 0
                                    : err_set(err, ERR_INTERNAL, EINVAL, "the BPF program does not end at its entry");
}

/* Between the parts of seccomp: a profile is what linux.seccomp means, by ABI and system call number; a program is
 * BPF. */
#pragma once

#include <jansson.h>
#include <linux/filter.h>

#include "base/err.h"
#include "box/seccomp/seccomp.h"

/* ---- system calls by name (syscalls.c) ---- */

enum seccomp_abi { SECCOMP_ABI_X86_64, SECCOMP_ABI_I386, SECCOMP_ABI_X32, SECCOMP_ABI_COUNT };

#define SECCOMP_X32_BIT 0x40000000u
#define SECCOMP_NR_MAX  1023 /* no table of numbers is longer */

struct seccomp_syscall {
        const char *name;
        s16 nr[SECCOMP_ABI_COUNT]; /* -1: the ABI does not have it; x32's without SECCOMP_X32_BIT */
        s16 multiplexer;           /* i386: number of socketcall or ipc, 0 when neither carries this call */
        s16 multiplexed_call;      /* their first argument */
};

/* NULL when no kernel up to this build's knows the name. */
const struct seccomp_syscall *seccomp_syscall_find(const char *name);
/* How much more often than a rare call this one of x86-64 is made; at least 1. */
unsigned seccomp_syscall_weight(unsigned nr);

/* ---- profile (profile.c) ---- */

enum seccomp_op {
        SECCOMP_OP_NE,
        SECCOMP_OP_LT,
        SECCOMP_OP_LE,
        SECCOMP_OP_EQ,
        SECCOMP_OP_GE,
        SECCOMP_OP_GT,
        SECCOMP_OP_MASKED_EQ,
        SECCOMP_OP_COUNT
};

struct seccomp_condition {
        u8 arg;
        u8 op;
        u64 value; /* already masked */
        u64 mask;  /* MASKED_EQ */
};

/* All conditions hold: the call gets @action. */
struct seccomp_rule {
        u32 action; /* SECCOMP_RET_* | data */
        u8 n_conditions;
        struct seccomp_condition condition[6];
};

/* What happens to one system call: the first rule that matches, else @action. */
struct seccomp_verdict {
        u32 action;
        u16 n_rules;
        u16 first_rule; /* in profile->list */
};

struct seccomp_profile {
        u32 default_action;
        bool has_abi[SECCOMP_ABI_COUNT];
        u32 flags;
        bool notifies;                                 /* some rule's action is SECCOMP_RET_USER_NOTIF */
        const char *listener_path, *listener_metadata; /* borrowed from the JSON */

        struct seccomp_rule *rule;
        size_t n_rules;
        u16 *list; /* rules of verdicts, one behind the other: indices of rule */
        size_t n_list;
        /* For every number up to SECCOMP_NR_MAX; behind the last one, beyond[]. */
        struct seccomp_verdict verdict[SECCOMP_ABI_COUNT][SECCOMP_NR_MAX + 1];
        u32 beyond[SECCOMP_ABI_COUNT];
};

int seccomp_profile_parse(const json_t *json, bool strict, struct seccomp_profile **ret, struct err **err);
struct seccomp_profile *seccomp_profile_free(struct seccomp_profile *profile);
static inline void seccomp_profile_freep(struct seccomp_profile **profile)
{
        seccomp_profile_free(*profile);
}
/* Equal verdicts decide equally for every argument (not the other way round). */
bool seccomp_verdict_equal(
        const struct seccomp_profile *profile, const struct seccomp_verdict *a, const struct seccomp_verdict *b);

/* Names of the spec: for parsing and for `features`. NULL ends each. */
extern const char *const seccomp_action_names[];
extern const char *const seccomp_operator_names[];
extern const char *const seccomp_arch_names[];
extern const char *const seccomp_flag_names[];

/* ---- program (tree.c on emit.c) ---- */

/* Where an instruction is, counted from the end of the program: jumps go forward only, so code is made back to front
 * and a jump's targets always exist before it. */
typedef u32 bpf_pos;

struct bpf_code {
        struct sock_filter insn[BPF_MAXINSNS]; /* insn[pos]: last instruction first; jumps' offsets are final */
        bpf_pos target[BPF_MAXINSNS][2];       /* of conditional jumps: true, false */
        u32 n;
        bool overflow;                        /* more than BPF_MAXINSNS: everything since is void */
        s32 bucket[1024], next[BPF_MAXINSNS]; /* instructions by content */
};

void bpf_code_init(struct bpf_code *code);
bpf_pos bpf_return(struct bpf_code *code, u32 action);
/* Loads the word of struct seccomp_data at @offset and goes on at @then. */
bpf_pos bpf_load(struct bpf_code *code, u32 offset, bpf_pos then);
bpf_pos bpf_and(struct bpf_code *code, u32 mask, bpf_pos then);
/* @op: BPF_JEQ, BPF_JGT, BPF_JGE. */
bpf_pos bpf_jump(struct bpf_code *code, u16 op, u32 k, bpf_pos yes, bpf_pos no);
/* Something known when a jump is taken: the word at offset is, or is not, value. */
struct bpf_fact {
        u32 offset, value;
        bool equal;
};
/* Where a jump to @target may go right away, given the @facts and that the accumulator holds the word at @loaded
 * (BPF_NOTHING: unknown). */
#define BPF_NOTHING UINT32_MAX
bpf_pos bpf_thread(
        const struct bpf_code *code, bpf_pos target, u32 loaded, const struct bpf_fact *facts, size_t n_facts);

/* 0, or -EINVAL for a program that the kernel must not see: a jump out of it, an end without return, an unknown
 * instruction. */
int bpf_check(const struct sock_filter *insn, size_t n);

/* The whole program. Its entry is the last thing emitted. */
int seccomp_program_build(const struct seccomp_profile *profile, struct bpf_code *code, struct err **err);

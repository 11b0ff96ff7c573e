#include "seccomp_oracle.h"

#include <ctype.h>
#include <errno.h>
#include <linux/audit.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "box/seccomp/internal.h"

/* ---- BPF ---- */

u32 bpf_verdict(const struct sock_filter *insn, size_t n, const struct seccomp_data *data, unsigned *ret_steps)
{
        u32 a = 0, x = 0, scratch[BPF_MEMWORDS] = { 0 };
        unsigned steps = 0;

        for (size_t pc = 0; pc < n; pc++, steps++) {
                const struct sock_filter *i = &insn[pc];
                bool taken = false;

                if (ret_steps)
                        *ret_steps = steps + 1;
                switch (i->code) {
                case BPF_LD | BPF_W | BPF_ABS:
                        if (i->k + 4 > sizeof(*data))
                                return UINT32_MAX;
                        memcpy(&a, (const u8 *)data + i->k, 4);
                        continue;
                case BPF_ALU | BPF_AND | BPF_K:
                        a &= i->k;
                        continue;
                case BPF_ST:
                        scratch[i->k % BPF_MEMWORDS] = a;
                        continue;
                case BPF_LD | BPF_MEM:
                        a = scratch[i->k % BPF_MEMWORDS];
                        continue;
                case BPF_MISC | BPF_TAX:
                        x = a;
                        continue;
                case BPF_MISC | BPF_TXA:
                        a = x;
                        continue;
                case BPF_JMP | BPF_JA:
                        pc += i->k;
                        continue;
                case BPF_JMP | BPF_K | BPF_JEQ:
                        taken = a == i->k;
                        break;
                case BPF_JMP | BPF_K | BPF_JGT:
                        taken = a > i->k;
                        break;
                case BPF_JMP | BPF_K | BPF_JGE:
                        taken = a >= i->k;
                        break;
                case BPF_RET | BPF_K:
                        return i->k;
                default:
                        return UINT32_MAX;
                }
                pc += taken ? i->jt : i->jf;
        }
        return UINT32_MAX;
}

/* ---- profiles ---- */

static u32 action_of(const char *name, u32 data)
{
        static const struct {
                const char *name;
                u32 action;
        } actions[] = {
                { "SCMP_ACT_ALLOW", SCMP_ACT_ALLOW },
                { "SCMP_ACT_KILL", SCMP_ACT_KILL },
                { "SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD },
                { "SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS },
                { "SCMP_ACT_LOG", SCMP_ACT_LOG },
                { "SCMP_ACT_NOTIFY", SCMP_ACT_NOTIFY },
                { "SCMP_ACT_TRAP", SCMP_ACT_TRAP },
        };

        if (strcmp(name, "SCMP_ACT_ERRNO") == 0)
                return SCMP_ACT_ERRNO(data);
        if (strcmp(name, "SCMP_ACT_TRACE") == 0)
                return SCMP_ACT_TRACE(data);
        for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
                if (strcmp(actions[i].name, name) == 0)
                        return actions[i].action;
        abort();
}

static u32 action_in(const json_t *json, const char *key, const char *errno_key)
{
        const json_t *data = json_object_get(json, errno_key);

        return action_of(json_string_value(json_object_get(json, key)), data ? (u32)json_integer_value(data) : EPERM);
}

static struct scmp_arg_cmp condition_of(const json_t *json)
{
        static const struct {
                const char *name;
                enum scmp_compare op;
        } ops[] = {
                { "SCMP_CMP_NE", SCMP_CMP_NE },
                { "SCMP_CMP_LT", SCMP_CMP_LT },
                { "SCMP_CMP_LE", SCMP_CMP_LE },
                { "SCMP_CMP_EQ", SCMP_CMP_EQ },
                { "SCMP_CMP_GE", SCMP_CMP_GE },
                { "SCMP_CMP_GT", SCMP_CMP_GT },
                { "SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ },
        };
        struct scmp_arg_cmp out = {
                .arg = (unsigned)json_integer_value(json_object_get(json, "index")),
                .datum_a = (u64)json_integer_value(json_object_get(json, "value")),
                .datum_b = (u64)json_integer_value(json_object_get(json, "valueTwo")),
        };

        for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
                if (strcmp(ops[i].name, json_string_value(json_object_get(json, "op"))) == 0)
                        out.op = ops[i].op;
        return out;
}

/* ---- by definition ---- */

enum outcome { NO_MATCH, MATCH, MATCH_WITHOUT_CONDITIONS };

static bool holds(const struct scmp_arg_cmp *c, u64 arg, bool wide)
{
        const u64 all = wide ? ~0ULL : UINT32_MAX, a = arg & all, b = c->datum_a & all;

        switch (c->op) {
        case SCMP_CMP_NE:
                return a != b;
        case SCMP_CMP_LT:
                return a < b;
        case SCMP_CMP_LE:
                return a <= b;
        case SCMP_CMP_EQ:
                return a == b;
        case SCMP_CMP_GE:
                return a >= b;
        case SCMP_CMP_GT:
                return a > b;
        default:
                return (a & b) == (c->datum_b & b);
        }
}

/* Whether the conditions [from, to) hold; those on argument 0 count only if @first. */
static enum outcome all_hold(
        const struct scmp_arg_cmp *c, unsigned from, unsigned to, const struct seccomp_data *data, bool first)
{
        const bool wide = data->arch == AUDIT_ARCH_X86_64 && !((u32)data->nr & SECCOMP_X32_BIT);
        enum outcome outcome = first ? MATCH_WITHOUT_CONDITIONS : MATCH;

        for (unsigned i = from; i < to; i++) {
                if (c[i].arg == 0 && !first)
                        continue;
                if (c[i].op == SCMP_CMP_MASKED_EQ && (wide ? c[i].datum_a : (u32)c[i].datum_a) == 0)
                        continue;
                if (!holds(&c[i], data->args[c[i].arg], wide))
                        return NO_MATCH;
                outcome = MATCH;
        }
        return outcome;
}

static enum outcome entry_matches(const json_t *entry, const struct seccomp_data *data)
{
        const json_t *names = json_object_get(entry, "names"), *args = json_object_get(entry, "args");
        const enum seccomp_abi abi = data->arch == AUDIT_ARCH_I386     ? SECCOMP_ABI_I386
                                     : (u32)data->nr & SECCOMP_X32_BIT ? SECCOMP_ABI_X32
                                                                       : SECCOMP_ABI_X86_64;
        const u32 nr = abi == SECCOMP_ABI_X32 ? (u32)data->nr & ~SECCOMP_X32_BIT : (u32)data->nr;
        const unsigned n = (unsigned)json_array_size(args);
        struct scmp_arg_cmp condition[6];
        enum outcome best = NO_MATCH;
        bool each = false;

        for (unsigned i = 0; i < n; i++) {
                condition[i] = condition_of(json_array_get(args, i));
                for (unsigned j = 0; j < i; j++)
                        each |= condition[j].arg == condition[i].arg;
        }
        for (size_t i = 0; i < json_array_size(names); i++) {
                const struct seccomp_syscall *call = seccomp_syscall_find(json_string_value(json_array_get(names, i)));
                const bool direct = call && call->nr[abi] >= 0 && (u32)call->nr[abi] == nr;
                const bool multiplexed = call && abi == SECCOMP_ABI_I386 && call->multiplexer &&
                                         (u32)call->multiplexer == nr &&
                                         (u32)data->args[0] == (u32)call->multiplexed_call;

                if (!direct && !multiplexed)
                        continue;
                for (unsigned j = 0; j < (each ? n : 1); j++) {
                        const enum outcome outcome = all_hold(condition, each ? j : 0, each ? j + 1 : n, data, direct);

                        best = MAX(best, outcome);
                }
        }
        return best;
}

u32 profile_verdict(const json_t *profile, const struct seccomp_data *data)
{
        const json_t *entries = json_object_get(profile, "syscalls");
        u32 verdict = action_in(profile, "defaultAction", "defaultErrnoRet");
        const u32 default_action = verdict;
        bool decided = false;

        for (size_t i = 0; i < json_array_size(entries); i++) {
                const json_t *entry = json_array_get(entries, i);
                const u32 action = action_in(entry, "action", "errnoRet");
                const enum outcome outcome = action == default_action ? NO_MATCH : entry_matches(entry, data);

                if (outcome == MATCH_WITHOUT_CONDITIONS)
                        return action;
                if (outcome == MATCH && !decided) {
                        verdict = action;
                        decided = true;
                }
        }
        return verdict;
}

/* ---- libseccomp's program ---- */

static int add_entry(scmp_filter_ctx ctx, const json_t *entry, u32 default_action)
{
        const json_t *names = json_object_get(entry, "names"), *args = json_object_get(entry, "args");
        const u32 action = action_in(entry, "action", "errnoRet");
        struct scmp_arg_cmp condition[6];
        const unsigned n = (unsigned)json_array_size(args);
        bool each = false;
        int r = 0;

        if (action == default_action)
                return 0;
        for (unsigned i = 0; i < n; i++) {
                condition[i] = condition_of(json_array_get(args, i));
                for (unsigned j = 0; j < i; j++)
                        each |= condition[j].arg == condition[i].arg;
        }
        for (size_t i = 0; i < json_array_size(names) && r == 0; i++) {
                const int nr = seccomp_syscall_resolve_name(json_string_value(json_array_get(names, i)));

                if (nr == __NR_SCMP_ERROR)
                        continue;
                if (!each)
                        r = seccomp_rule_add_array(ctx, action, nr, n, condition);
                for (unsigned j = 0; each && j < n && r == 0; j++)
                        r = seccomp_rule_add_array(ctx, action, nr, 1, &condition[j]);
        }
        return r;
}

static int add_architectures(scmp_filter_ctx ctx, const json_t *list)
{
        for (size_t i = 0; i < json_array_size(list); i++) {
                char name[64] = "";
                const char *from = json_string_value(json_array_get(list, i)) + strlen("SCMP_ARCH_");
                int r;

                for (size_t c = 0; from[c] && c < sizeof(name) - 1; c++)
                        name[c] = (char)tolower(from[c]);
                r = seccomp_arch_add(ctx, seccomp_arch_resolve_name(name));
                if (r < 0 && r != -EEXIST)
                        return r;
        }
        return 0;
}

static struct sock_filter *exported(scmp_filter_ctx ctx, size_t *ret_n)
{
        const int fd = memfd_create("filter", MFD_CLOEXEC);
        struct sock_filter *insn = NULL;
        struct stat st;

        if (fd >= 0 && seccomp_export_bpf(ctx, fd) == 0 && fstat(fd, &st) == 0) {
                insn = malloc((size_t)st.st_size);
                *ret_n = (size_t)st.st_size / sizeof(*insn);
                if (insn && pread(fd, insn, (size_t)st.st_size, 0) != st.st_size)
                        abort();
        }
        close(fd);
        return insn;
}

struct sock_filter *libseccomp_program(const json_t *profile, size_t *ret_n)
{
        const u32 default_action = action_in(profile, "defaultAction", "defaultErrnoRet");
        const json_t *entries = json_object_get(profile, "syscalls");
        scmp_filter_ctx ctx = seccomp_init(default_action);
        struct sock_filter *insn = NULL;
        int r;

        if (!ctx)
                return NULL;
        r = add_architectures(ctx, json_object_get(profile, "architectures"));
        for (size_t i = 0; i < json_array_size(entries) && r == 0; i++)
                r = add_entry(ctx, json_array_get(entries, i), default_action);
        if (r == 0)
                insn = exported(ctx, ret_n);
        seccomp_release(ctx);
        return insn;
}

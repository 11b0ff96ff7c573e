/* What linux.seccomp means, by ABI and system call.
 *
 * The spec leaves open what happens when several entries name one call. We do what the runtimes with libseccomp do, so
 * that a profile gives the same verdicts everywhere:
 *
 *     - an entry whose action is the default action says nothing and is skipped;
 *     - an entry without conditions beats all entries with conditions, in any order; the first such entry counts;
 *     - conditions of one entry are and-ed, unless two are about one argument: then each is an entry of its own;
 *     - among entries with conditions the first that matches counts (libseccomp sorts them by argument; it matters
 *       only where entries overlap and contradict each other);
 *     - calls newer than the newest that the profile names fail with ENOSYS where the default is to refuse, as with
 *       runc: the profile's author cannot have meant them, and C libraries fall back on ENOSYS only;
 *     - i386 and x32 compare 32 bits of an argument;
 *     - i386's calls that have two ways in, directly and through socketcall(2) or ipc(2), get the verdict on both. */
#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "box/oci_read.h"
#include "box/seccomp/internal.h"

/* More than any honest profile has by far; what an index of 16 bits can hold. */
#define RULES_MAX 16384
#define LIST_MAX  60000 /* entries times calls */

/* ---- names ---- */

const char *const seccomp_action_names[] = {
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
        NULL,
};
static const u32 action_values[] = {
        SECCOMP_RET_ALLOW,
        SECCOMP_RET_ERRNO,
        SECCOMP_RET_KILL_THREAD,
        SECCOMP_RET_KILL_PROCESS,
        SECCOMP_RET_KILL_THREAD,
        SECCOMP_RET_LOG,
        SECCOMP_RET_USER_NOTIF,
        SECCOMP_RET_TRACE,
        SECCOMP_RET_TRAP,
};

const char *const seccomp_operator_names[] = {
        [SECCOMP_OP_NE] = "SCMP_CMP_NE",
        [SECCOMP_OP_LT] = "SCMP_CMP_LT",
        [SECCOMP_OP_LE] = "SCMP_CMP_LE",
        [SECCOMP_OP_EQ] = "SCMP_CMP_EQ",
        [SECCOMP_OP_GE] = "SCMP_CMP_GE",
        [SECCOMP_OP_GT] = "SCMP_CMP_GT",
        [SECCOMP_OP_MASKED_EQ] = "SCMP_CMP_MASKED_EQ",
        [SECCOMP_OP_COUNT] = NULL,
};

/* The first SECCOMP_ABI_COUNT are ours, in that order. A kernel for x86-64 never shows a filter any of the others:
 * they are accepted and have no effect. */
const char *const seccomp_arch_names[] = {
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_AARCH64",
        "SCMP_ARCH_ARM",
        "SCMP_ARCH_LOONGARCH64",
        "SCMP_ARCH_M68K",
        "SCMP_ARCH_MIPS",
        "SCMP_ARCH_MIPS64",
        "SCMP_ARCH_MIPS64N32",
        "SCMP_ARCH_MIPSEL",
        "SCMP_ARCH_MIPSEL64",
        "SCMP_ARCH_MIPSEL64N32",
        "SCMP_ARCH_PARISC",
        "SCMP_ARCH_PARISC64",
        "SCMP_ARCH_PPC",
        "SCMP_ARCH_PPC64",
        "SCMP_ARCH_PPC64LE",
        "SCMP_ARCH_RISCV64",
        "SCMP_ARCH_S390",
        "SCMP_ARCH_S390X",
        "SCMP_ARCH_SH",
        "SCMP_ARCH_SHEB",
        NULL,
};

const char *const seccomp_flag_names[] = {
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        NULL,
};
/* TSYNC: the container's process is loaded while it has one thread, so there is nothing to synchronise. */
static const u32 flag_values[] = { 0, SECCOMP_FILTER_FLAG_SPEC_ALLOW, SECCOMP_FILTER_FLAG_LOG,
        SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV };

static int name_index(const char *const *names, const char *name)
{
        for (int i = 0; names[i]; i++)
                if (strcmp(names[i], name) == 0)
                        return i;
        return -1;
}

/* ---- building ---- */

/* A profile being read. What the entries say about one call is kept as a chain until all are read. */
struct chain {
        bool final; /* an entry without conditions was seen: action counts and nothing else */
        u32 action;
        u32 first, last; /* in link[], 0 for none */
};

struct link {
        u16 rule;
        u32 next;
};

struct builder {
        struct seccomp_profile *profile;
        bool strict;
        size_t cap_rules;
        struct link *link; /* [0] is not used */
        size_t n_links, cap_links;
        struct chain chain[SECCOMP_ABI_COUNT][SECCOMP_NR_MAX + 1];
        int largest[SECCOMP_ABI_COUNT]; /* number that the profile names, -1 for none */
};

static struct builder *builder_free(struct builder *b)
{
        if (b) {
                seccomp_profile_free(b->profile);
                free(b->link);
                free(b);
        }
        return NULL;
}

static void builder_freep(struct builder **b)
{
        builder_free(*b);
}

static int too_large(struct err **err)
{
        return err_set(err, ERR_TOO_LARGE, E2BIG, "the profile has more than %d rules", RULES_MAX);
}

static int add_rule(struct builder *b, const struct seccomp_rule *rule, u16 *ret_index, struct err **err)
{
        struct seccomp_profile *profile = b->profile;

        if (profile->n_rules == RULES_MAX)
                return too_large(err);
        if (profile->n_rules == b->cap_rules) {
                const size_t cap = b->cap_rules ? 2 * b->cap_rules : 32;
                void *grown = reallocarray(profile->rule, cap, sizeof(profile->rule[0]));

                if (!grown)
                        return err_sys(err, ENOMEM, "reading the seccomp profile");
                profile->rule = grown;
                b->cap_rules = cap;
        }
        *ret_index = (u16)profile->n_rules;
        profile->rule[profile->n_rules++] = *rule;
        return 0;
}

static int add_link(struct builder *b, struct chain *chain, u16 rule, struct err **err)
{
        if (b->n_links == LIST_MAX)
                return too_large(err);
        if (b->n_links == b->cap_links) {
                const size_t cap = b->cap_links ? 2 * b->cap_links : 64;
                void *grown = reallocarray(b->link, cap, sizeof(b->link[0]));

                if (!grown)
                        return err_sys(err, ENOMEM, "reading the seccomp profile");
                b->link = grown;
                b->cap_links = cap;
                if (b->n_links == 0)
                        b->n_links = 1;
        }
        b->link[b->n_links] = (struct link){ .rule = rule };
        if (chain->last)
                b->link[chain->last].next = (u32)b->n_links;
        else
                chain->first = (u32)b->n_links;
        chain->last = (u32)b->n_links++;
        return 0;
}

/* Rule @index of the profile is about call @nr of @abi. */
static int add_to_call(struct builder *b, enum seccomp_abi abi, int nr, u16 index, struct err **err)
{
        const struct seccomp_rule *rule = &b->profile->rule[index];
        struct chain *chain = &b->chain[abi][nr];

        if (chain->final)
                return 0;
        if (rule->n_conditions)
                return add_link(b, chain, index, err);
        *chain = (struct chain){ .final = true, .action = rule->action };
        return 0;
}

/* The same decision for a call made through socketcall(2) or ipc(2): their first argument says which call is meant,
 * the others cannot be what the rule's author had in mind, but are compared all the same, as libseccomp does. */
static int add_multiplexed(struct builder *b, const struct seccomp_syscall *call, u16 index, struct err **err)
{
        struct seccomp_rule rule = b->profile->rule[index];
        size_t i, n = 1;
        u16 multiplexed;
        int r;

        for (i = 0; i < b->profile->rule[index].n_conditions; i++)
                if (rule.condition[i].arg != 0)
                        n++;
        rule.n_conditions = (u8)n;
        rule.condition[0] = (struct seccomp_condition){ .op = SECCOMP_OP_EQ, .value = (u64)call->multiplexed_call };
        for (i = 0, n = 1; i < b->profile->rule[index].n_conditions; i++)
                if (b->profile->rule[index].condition[i].arg != 0)
                        rule.condition[n++] = b->profile->rule[index].condition[i];
        r = add_rule(b, &rule, &multiplexed, err);
        if (r < 0)
                return r;
        return add_to_call(b, SECCOMP_ABI_I386, call->multiplexer, multiplexed, err);
}

/* Drops conditions that hold for every argument on @abi, and the halves of an argument that the ABI does not have. */
static struct seccomp_rule rule_for_abi(const struct seccomp_rule *rule, enum seccomp_abi abi)
{
        struct seccomp_rule out = { .action = rule->action };

        for (size_t i = 0; i < rule->n_conditions; i++) {
                struct seccomp_condition condition = rule->condition[i];

                if (abi != SECCOMP_ABI_X86_64) {
                        condition.value = (u32)condition.value;
                        condition.mask = (u32)condition.mask;
                }
                if (condition.op == SECCOMP_OP_MASKED_EQ && condition.mask == 0)
                        continue;
                out.condition[out.n_conditions++] = condition;
        }
        return out;
}

/* One entry's rule for each ABI: most are the same for all calls of the entry. */
struct abi_rules {
        u16 index[SECCOMP_ABI_COUNT];
};

static int add_abi_rules(struct builder *b, const struct seccomp_rule *rule, struct abi_rules *ret, struct err **err)
{
        for (enum seccomp_abi abi = 0; abi < SECCOMP_ABI_COUNT; abi++) {
                const struct seccomp_rule specific = rule_for_abi(rule, abi);
                int r;

                if (!b->profile->has_abi[abi])
                        continue;
                r = add_rule(b, &specific, &ret->index[abi], err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int add_call(
        struct builder *b, const struct seccomp_syscall *call, const struct abi_rules *rules, struct err **err)
{
        int r;

        for (enum seccomp_abi abi = 0; abi < SECCOMP_ABI_COUNT; abi++) {
                if (!b->profile->has_abi[abi] || call->nr[abi] < 0)
                        continue;
                r = add_to_call(b, abi, call->nr[abi], rules->index[abi], err);
                if (r < 0)
                        return r;
        }
        if (!b->profile->has_abi[SECCOMP_ABI_I386] || !call->multiplexer)
                return 0;
        return add_multiplexed(b, call, rules->index[SECCOMP_ABI_I386], err);
}

/* ---- reading ---- */

static int read_action(const json_t *json, const char *key, const char *errno_key, u32 *ret, struct err **err)
{
        const char *name = NULL;
        s64 data = EPERM;
        u32 action;
        int i, r;

        r = oci_read_string(json, key, &name, err);
        if (r < 0)
                return r;
        i = name ? name_index(seccomp_action_names, name) : -1;
        if (i < 0)
                return err_set(
                        err, ERR_BAD_CONFIG, EINVAL, "'%s' is '%s', which is no seccomp action", key, name ? name : "");
        action = action_values[i];
        r = oci_read_int(json, errno_key, 0, UINT16_MAX, &data, err);
        if (r < 0)
                return r;
        /* Only these two carry a number to whoever gets the verdict (spec: any other "MUST fail"). */
        if (action == SECCOMP_RET_ERRNO || action == SECCOMP_RET_TRACE)
                action |= (u32)data;
        else if (oci_member(json, errno_key))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' makes no sense with %s", errno_key, name);
        *ret = action;
        return 0;
}

static int read_condition(const json_t *json, struct seccomp_condition *ret, struct err **err)
{
        const char *op_name = NULL;
        u64 value = 0, value_two = 0;
        s64 index = -1;
        int op, r;

        r = oci_read_int(json, "index", 0, 5, &index, err);
        if (r >= 0)
                r = oci_read_u64(json, "value", &value, err);
        if (r >= 0)
                r = oci_read_u64(json, "valueTwo", &value_two, err);
        if (r >= 0)
                r = oci_read_string(json, "op", &op_name, err);
        if (r < 0)
                return r;
        if (index < 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'index' is missing");
        op = op_name ? name_index(seccomp_operator_names, op_name) : -1;
        if (op < 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'op' is '%s', which is no seccomp operator",
                        op_name ? op_name : "");
        *ret = (struct seccomp_condition){ .arg = (u8)index, .op = (u8)op, .value = value, .mask = ~0ULL };
        if (op == SECCOMP_OP_MASKED_EQ) {
                ret->mask = value;
                ret->value = value_two & value;
        }
        return 0;
}

/* Fills @ret_rule with one rule of all conditions, or says that each is to be a rule of its own. */
static int read_conditions(const json_t *json, struct seccomp_rule *rule, bool *ret_each, struct err **err)
{
        const json_t *args = NULL;
        unsigned seen = 0;
        int r;

        r = oci_read_array(json, "args", &args, err);
        if (r < 0)
                return r;
        if (json_array_size(args) > ARRAY_SIZE(rule->condition))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'args' has more than %zu conditions",
                        ARRAY_SIZE(rule->condition));
        *ret_each = false;
        for (size_t i = 0; i < json_array_size(args); i++) {
                struct seccomp_condition *condition = &rule->condition[i];

                r = read_condition(json_array_get(args, i), condition, err);
                if (r < 0)
                        return err_wrap(err, r, "args[%zu]", i);
                *ret_each |= seen & 1u << condition->arg;
                seen |= 1u << condition->arg;
                rule->n_conditions++;
        }
        return 0;
}

static int add_names(
        struct builder *b, const json_t *names, const struct seccomp_rule *rule, bool ignored, struct err **err)
{
        struct abi_rules rules = { 0 };
        int r = 0;

        if (!ignored)
                r = add_abi_rules(b, rule, &rules, err);
        for (size_t i = 0; r >= 0 && i < json_array_size(names); i++) {
                const char *name = json_string_value(json_array_get(names, i));
                const struct seccomp_syscall *call = name ? seccomp_syscall_find(name) : NULL;

                if (!name)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL, "names[%zu] must be a text", i);
                if (!call && b->strict)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL,
                                "names[%zu] is '%.60s', which is no system call known here", i, name);
                if (!call)
                        continue;
                for (enum seccomp_abi abi = 0; abi < SECCOMP_ABI_COUNT; abi++)
                        b->largest[abi] = MAX(b->largest[abi], call->nr[abi]);
                if (!ignored)
                        r = add_call(b, call, &rules, err);
        }
        return r;
}

/* A process that must ask its agent for leave to write cannot hand over the descriptor that the agent needs to answer.
 * */
static bool names_write(const json_t *names)
{
        for (size_t i = 0; i < json_array_size(names); i++) {
                const char *name = json_string_value(json_array_get(names, i));

                if (name && strcmp(name, "write") == 0)
                        return true;
        }
        return false;
}

static int read_entry(struct builder *b, const json_t *json, struct err **err)
{
        struct seccomp_rule rule = { 0 };
        const json_t *names = NULL;
        bool each = false, ignored;
        int r;

        r = read_action(json, "action", "errnoRet", &rule.action, err);
        if (r >= 0)
                r = oci_read_array(json, "names", &names, err);
        if (r >= 0)
                r = read_conditions(json, &rule, &each, err);
        if (r < 0)
                return r;
        if (json_array_size(names) == 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'names' is missing or empty");
        if (rule.action == SECCOMP_RET_USER_NOTIF) {
                if (names_write(names))
                        return err_set(
                                err, ERR_BAD_CONFIG, EINVAL, "SCMP_ACT_NOTIFY cannot be used for the write syscall");
                b->profile->notifies = true;
        }
        ignored = rule.action == b->profile->default_action;
        if (!each)
                return add_names(b, names, &rule, ignored, err);
        for (size_t i = 0; i < rule.n_conditions && r >= 0; i++) {
                const struct seccomp_rule one = {
                        .action = rule.action, .n_conditions = 1, .condition = { rule.condition[i] }
                };

                r = add_names(b, names, &one, ignored, err);
        }
        return r;
}

static int read_architectures(struct seccomp_profile *profile, const json_t *json, struct err **err)
{
        const json_t *list = NULL;
        int r;

        profile->has_abi[SECCOMP_ABI_X86_64] = true; /* the native one is always filtered */
        r = oci_read_array(json, "architectures", &list, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < json_array_size(list); i++) {
                const char *name = json_string_value(json_array_get(list, i));
                const int arch = name ? name_index(seccomp_arch_names, name) : -1;

                if (arch < 0)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL,
                                "architectures[%zu] is '%s', which is no seccomp architecture", i, name ? name : "");
                if (arch < SECCOMP_ABI_COUNT)
                        profile->has_abi[arch] = true;
        }
        return 0;
}

static int read_flags(struct seccomp_profile *profile, const json_t *json, struct err **err)
{
        const json_t *list = NULL;
        int r;

        r = oci_read_array(json, "flags", &list, err);
        if (r < 0)
                return r;
        /* runc's default: a container is not made slower by speculation barriers that nobody asked for. */
        if (!list)
                profile->flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        for (size_t i = 0; i < json_array_size(list); i++) {
                const char *name = json_string_value(json_array_get(list, i));
                const int flag = name ? name_index(seccomp_flag_names, name) : -1;

                if (flag < 0)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL, "seccomp flag '%s' is not known", name ? name : "");
                profile->flags |= flag_values[flag];
        }
        return 0;
}

static int read_listener(struct seccomp_profile *profile, const json_t *json, struct err **err)
{
        int r;

        r = oci_read_string(json, "listenerPath", &profile->listener_path, err);
        if (r >= 0)
                r = oci_read_string(json, "listenerMetadata", &profile->listener_metadata, err);
        if (r < 0)
                return r;
        if (profile->listener_metadata && !profile->listener_path)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'listenerMetadata' needs a 'listenerPath'");
        if (profile->notifies && !profile->listener_path)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "SCMP_ACT_NOTIFY needs a 'listenerPath'");
        return 0;
}

/* ---- chains to verdicts ---- */

/* Refusing calls that nobody knows with an errno other than ENOSYS breaks the fallbacks of C libraries. Allowing,
 * logging and tracing do not refuse. */
static u32 newer_action(u32 default_action)
{
        switch (default_action & SECCOMP_RET_ACTION_FULL) {
        case SECCOMP_RET_ALLOW:
        case SECCOMP_RET_LOG:
        case SECCOMP_RET_TRACE:
                return default_action;
        default:
                return SECCOMP_RET_ERRNO | ENOSYS;
        }
}

static void finish_abi(struct builder *b, enum seccomp_abi abi)
{
        struct seccomp_profile *profile = b->profile;
        const u32 newer = b->largest[abi] > 0 ? newer_action(profile->default_action) : profile->default_action;

        for (int nr = 0; nr <= SECCOMP_NR_MAX; nr++) {
                const struct chain *chain = &b->chain[abi][nr];
                struct seccomp_verdict *verdict = &profile->verdict[abi][nr];

                verdict->action = chain->final ? chain->action : nr > b->largest[abi] ? newer : profile->default_action;
                verdict->first_rule = (u16)profile->n_list;
                for (u32 i = chain->final ? 0 : chain->first; i; i = b->link[i].next) {
                        profile->list[profile->n_list++] = b->link[i].rule;
                        verdict->n_rules++;
                }
        }
        profile->beyond[abi] = newer;
}

static int finish(struct builder *b, struct err **err)
{
        b->profile->list = calloc(b->n_links + 1, sizeof(b->profile->list[0]));
        if (!b->profile->list)
                return err_sys(err, ENOMEM, "reading the seccomp profile");
        for (enum seccomp_abi abi = 0; abi < SECCOMP_ABI_COUNT; abi++)
                if (b->profile->has_abi[abi])
                        finish_abi(b, abi);
        return 0;
}

int seccomp_profile_parse(const json_t *json, bool strict, struct seccomp_profile **ret, struct err **err)
{
        _cleanup_(builder_freep) struct builder *b = calloc(1, sizeof(*b));
        const json_t *entries = NULL;
        int r;

        if (!b)
                return err_sys(err, ENOMEM, "reading the seccomp profile");
        b->profile = calloc(1, sizeof(*b->profile));
        if (!b->profile)
                return err_sys(err, ENOMEM, "reading the seccomp profile");
        b->strict = strict;
        for (enum seccomp_abi abi = 0; abi < SECCOMP_ABI_COUNT; abi++)
                b->largest[abi] = -1;
        r = read_action(json, "defaultAction", "defaultErrnoRet", &b->profile->default_action, err);
        if (r >= 0 && b->profile->default_action == SECCOMP_RET_USER_NOTIF)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "SCMP_ACT_NOTIFY cannot be used as default action");
        if (r >= 0)
                r = read_architectures(b->profile, json, err);
        if (r >= 0)
                r = read_flags(b->profile, json, err);
        if (r >= 0)
                r = oci_read_array(json, "syscalls", &entries, err);
        for (size_t i = 0; r >= 0 && i < json_array_size(entries); i++) {
                r = read_entry(b, json_array_get(entries, i), err);
                if (r < 0)
                        return err_wrap(err, r, "syscalls[%zu]", i);
        }
        if (r >= 0)
                r = read_listener(b->profile, json, err);
        if (r >= 0)
                r = finish(b, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(b->profile);
        return 0;
}

struct seccomp_profile *seccomp_profile_free(struct seccomp_profile *profile)
{
        if (profile) {
                free(profile->rule);
                free(profile->list);
                free(profile);
        }
        return NULL;
}

static bool rule_equal(const struct seccomp_rule *a, const struct seccomp_rule *b)
{
        if (a->action != b->action || a->n_conditions != b->n_conditions)
                return false;
        for (size_t i = 0; i < a->n_conditions; i++) {
                const struct seccomp_condition *x = &a->condition[i], *y = &b->condition[i];

                if (x->arg != y->arg || x->op != y->op || x->value != y->value || x->mask != y->mask)
                        return false;
        }
        return true;
}

bool seccomp_verdict_equal(
        const struct seccomp_profile *profile, const struct seccomp_verdict *a, const struct seccomp_verdict *b)
{
        if (a->action != b->action || a->n_rules != b->n_rules)
                return false;
        for (size_t i = 0; i < a->n_rules; i++)
                if (!rule_equal(&profile->rule[profile->list[a->first_rule + i]],
                            &profile->rule[profile->list[b->first_rule + i]]))
                        return false;
        return true;
}

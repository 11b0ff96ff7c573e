/* Seccomp profiles: our programs give the verdicts that libseccomp's give, for every architecture; what is ours alone
 * (ENOSYS for newer calls, errors, the listener) does what its comment says; and the kernel takes it. */
#include <errno.h>
#include <linux/audit.h>
#include <seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "box/seccomp/internal.h"
#include "seccomp_oracle.h"

#define PODMAN_PROFILE "/usr/share/containers/seccomp.json"
#define X32            SECCOMP_X32_BIT

#define _cleanup_json_ _cleanup_(json_decrefp)

static json_t *parse(const char *text)
{
        json_error_t error;
        json_t *json = json_loads(text, JSON_DECODE_ANY, &error);

        if (!json)
                fail_msg("%s in %s", error.text, text);
        return json;
}

static struct seccomp_filter *compile(const json_t *profile)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct seccomp_filter *filter = NULL;

        if (seccomp_filter_compile(profile, false, &filter, &err) < 0)
                fail_msg("%s", err_message(err));
        return filter;
}

static struct seccomp_filter *compile_text(const char *text)
{
        _cleanup_json_ json_t *json = parse(text);

        return compile(json);
}

static u32 ask(const struct seccomp_filter *filter, u32 arch, u32 nr, u64 arg0, u64 arg1)
{
        const struct seccomp_data data = { .arch = arch, .nr = (int)nr, .args = { arg0, arg1 } };

        return bpf_verdict(filter->insn, filter->n_insns, &data, NULL);
}

/* ---- names ---- */

static void table_of_names_agrees_with_libseccomp(void **state)
{
        static const struct {
                enum seccomp_abi abi;
                u32 token;
                u32 base;
        } abis[] = { { SECCOMP_ABI_X86_64, SCMP_ARCH_X86_64, 0 }, { SECCOMP_ABI_I386, SCMP_ARCH_X86, 0 },
                { SECCOMP_ABI_X32, SCMP_ARCH_X32, X32 } };
        unsigned compared = 0;

        for (size_t a = 0; a < ARRAY_SIZE(abis); a++)
                for (u32 nr = 0; nr <= SECCOMP_NR_MAX; nr++) {
                        _cleanup_free_ char *name =
                                seccomp_syscall_resolve_num_arch(abis[a].token, (int)(abis[a].base + nr));
                        const struct seccomp_syscall *call = name ? seccomp_syscall_find(name) : NULL;

                        if (!name)
                                continue;
                        if (!call || call->nr[abis[a].abi] != (s16)nr)
                                fail_msg(
                                        "%s is %u in libseccomp, %d here", name, nr, call ? call->nr[abis[a].abi] : -1);
                        compared++;
                }
        assert_true(compared > 1000);
}

/* ---- verdicts ---- */

struct dice {
        u64 state;
};

static u64 roll(struct dice *dice, u64 sides)
{
        dice->state ^= dice->state << 13;
        dice->state ^= dice->state >> 7;
        dice->state ^= dice->state << 17;
        return (dice->state * 0x2545f4914f6cdd1dULL >> 11) % sides;
}

/* Values that meet at the edges of 32-bit halves. */
static u64 some_value(struct dice *dice)
{
        static const u64 edges[] = { 0, 1, 2, 5, 40, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x100000005,
                0x500000000, 0x5ffffffff, 0x7fffffffffffffff };

        switch (roll(dice, 4)) {
        case 0:
                return roll(dice, 8);
        case 1:
                return roll(dice, 4) << 32 | roll(dice, 4);
        default:
                return edges[roll(dice, ARRAY_SIZE(edges))];
        }
}

static const char *const names[] = {
        "read",
        "write",
        "open",
        "openat",
        "close",
        "clone",
        "clone3",
        "socket",
        "socketcall",
        "ipc",
        "shmget",
        "semop",
        "recv",
        "accept",
        "personality",
        "ioctl",
        "stat64",
        "mmap2",
        "io_setup",
        "futex",
        "ptrace",
        "execveat",
        "set_mempolicy_home_node",
        "umount",
        "exit",
        "no_such_call",
        "fcntl64",
        "setsockopt",
        "sendmsg",
        "arch_prctl",
};

static const char *const refusals[] = { "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE" };

static json_t *some_condition(struct dice *dice)
{
        static const char *const ops[] = { "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE",
                "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ" };

        return json_pack("{s:i, s:I, s:I, s:s}", "index", (int)roll(dice, 6), "value", (json_int_t)some_value(dice),
                "valueTwo", (json_int_t)some_value(dice), "op", ops[roll(dice, ARRAY_SIZE(ops))]);
}

/* @conditional: the calls from which this entry chooses. Conditional entries of one call have one action in the whole
 * profile: where entries contradict each other libseccomp's order is not ours. */
static json_t *some_entry(struct dice *dice, const char *const *actions)
{
        const size_t first = roll(dice, ARRAY_SIZE(names)), n = 1 + roll(dice, 4),
                     conditions = roll(dice, 3) ? 1 + roll(dice, 3) : 0;
        json_t *entry = json_pack("{s:[]}", "names"), *args = json_array();

        for (size_t i = 0; i < (conditions ? 1 : n); i++)
                json_array_append_new(
                        json_object_get(entry, "names"), json_string(names[(first + i) % ARRAY_SIZE(names)]));
        json_object_set_new(entry, "action", json_string(conditions ? actions[first] : "SCMP_ACT_LOG"));
        for (size_t i = 0; i < conditions; i++)
                json_array_append_new(args, some_condition(dice));
        json_object_set_new(entry, "args", args);
        return entry;
}

static json_t *some_profile(struct dice *dice)
{
        const char *actions[ARRAY_SIZE(names)];
        json_t *profile = json_pack("{s:s, s:[], s:[]}", "defaultAction",
                roll(dice, 2) ? "SCMP_ACT_ALLOW" : refusals[roll(dice, 4)], "architectures", "syscalls");

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                actions[i] = roll(dice, 2) ? "SCMP_ACT_ALLOW" : refusals[roll(dice, 4)];
        /* Both ways in must agree, too: what a multiplexed call gets, its multiplexer's own entries must not
         * contradict. */
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (seccomp_syscall_find(names[i]) &&
                        (seccomp_syscall_find(names[i])->multiplexer || strcmp(names[i], "ipc") == 0 ||
                                strcmp(names[i], "socketcall") == 0))
                        actions[i] = actions[0];
        if (roll(dice, 2))
                json_array_append_new(json_object_get(profile, "architectures"), json_string("SCMP_ARCH_X86"));
        if (roll(dice, 2))
                json_array_append_new(json_object_get(profile, "architectures"), json_string("SCMP_ARCH_X32"));
        for (size_t i = 1 + roll(dice, 12); i > 0; i--)
                json_array_append_new(json_object_get(profile, "syscalls"), some_entry(dice, actions));
        return profile;
}

static enum seccomp_abi abi_of(const struct seccomp_data *data)
{
        return data->arch == AUDIT_ARCH_I386 ? SECCOMP_ABI_I386
               : (u32)data->nr & X32         ? SECCOMP_ABI_X32
                                             : SECCOMP_ABI_X86_64;
}

/* Whether @data is a call newer than the profile, of an ABI that it filters: our verdict is ENOSYS there. */
static bool is_newer(const json_t *profile, const struct seccomp_data *data)
{
        const enum seccomp_abi abi = abi_of(data);
        const char *action = json_string_value(json_object_get(profile, "defaultAction"));
        int largest = -1;
        size_t i, j;
        json_t *entry, *name;

        if (strcmp(action, "SCMP_ACT_ALLOW") == 0 || strcmp(action, "SCMP_ACT_TRACE") == 0 ||
                strcmp(action, "SCMP_ACT_LOG") == 0)
                return false;
        json_array_foreach(json_object_get(profile, "syscalls"), i, entry)
                json_array_foreach(json_object_get(entry, "names"), j, name)
        {
                const struct seccomp_syscall *call = seccomp_syscall_find(json_string_value(name));

                largest = MAX(largest, call ? call->nr[abi] : -1);
        }
        return largest > 0 && ((u32)data->nr & ~X32) > (u32)largest;
}

struct programs {
        const json_t *profile;
        const struct seccomp_filter *ours;
        const struct sock_filter *theirs;
        size_t n_theirs;
        u64 seed;
        unsigned compared, theirs_differs;
};

/* Ours must say what the profile says. libseccomp is a witness, not the judge: where 64-bit comparisons of several
 * entries meet, the trees of 2.5 are wrong now and then; callers look at how often. */
static void compare(struct programs *p, const struct seccomp_data *data)
{
        const u32 ours = bpf_verdict(p->ours->insn, p->ours->n_insns, data, NULL);
        u32 theirs = bpf_verdict(p->theirs, p->n_theirs, data, NULL), wanted = profile_verdict(p->profile, data);

        if (theirs == SECCOMP_RET_KILL_THREAD && ours == theirs) /* an architecture that the profile does not have */
                return;
        if (is_newer(p->profile, data))
                theirs = wanted = SECCOMP_RET_ERRNO | ENOSYS;
        if (ours != wanted) {
                _cleanup_free_ char *text = json_dumps(p->profile, JSON_COMPACT);

                print_message("%s\n", text);
                fail_msg(
                        "seed %llu, arch %#x nr %d args %#llx %#llx %#llx %#llx %#llx %#llx: ours %#x, by definition %#x, libseccomp's %#x",
                        (unsigned long long)p->seed, data->arch, data->nr, data->args[0], data->args[1], data->args[2],
                        data->args[3], data->args[4], data->args[5], ours, wanted, theirs);
        }
        p->compared++;
        p->theirs_differs += theirs != ours;
}

/* A call number near those of the profile, or any. */
static u32 some_nr(struct dice *dice, enum seccomp_abi abi)
{
        const struct seccomp_syscall *call = seccomp_syscall_find(names[roll(dice, ARRAY_SIZE(names))]);

        if (abi == SECCOMP_ABI_I386 && roll(dice, 4) == 0)
                return roll(dice, 2) ? 102 : 117;
        if (call && call->nr[abi] >= 0 && roll(dice, 8))
                return (u32)call->nr[abi];
        return (u32)roll(dice, 600);
}

static void compare_some_calls(struct programs *p, struct dice *dice, unsigned calls)
{
        while (calls--) {
                const enum seccomp_abi abi = (enum seccomp_abi)roll(dice, SECCOMP_ABI_COUNT);
                struct seccomp_data data = { .arch = abi == SECCOMP_ABI_I386 ? AUDIT_ARCH_I386 : AUDIT_ARCH_X86_64 };

                data.nr = (int)(some_nr(dice, abi) | (abi == SECCOMP_ABI_X32 ? X32 : 0));
                for (size_t i = 0; i < 6; i++)
                        data.args[i] = some_value(dice);
                if (roll(dice, 3) == 0) /* what socketcall and ipc look at */
                        data.args[0] = roll(dice, 25);
                compare(p, &data);
        }
}

static void compare_every_number(struct programs *p)
{
        static const u32 archs[] = { AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64, 0 };

        for (size_t a = 0; a < ARRAY_SIZE(archs); a++)
                for (u32 nr = 0; nr <= 1100; nr++)
                        for (u32 x32 = 0; x32 <= X32; x32 += X32) {
                                const struct seccomp_data data = { .arch = archs[a], .nr = (int)(nr | x32) };

                                if (archs[a] == AUDIT_ARCH_I386 && x32)
                                        continue;
                                compare(p, &data);
                        }
}

static void random_profiles_get_libseccomps_verdicts(void **state)
{
        const char *seed = getenv("SECCOMP_SEED"), *count = getenv("SECCOMP_PROFILES");
        const u64 first = seed ? strtoull(seed, NULL, 0) : 1;
        unsigned refused = 0, compared = 0, differs = 0, n = count ? (unsigned)atoi(count) : 150;

        for (u64 i = first; i < first + n; i++) {
                struct dice dice = { i * 0x9e3779b97f4a7c15ULL | 1 };
                _cleanup_json_ json_t *profile = some_profile(&dice);
                struct programs p = { .profile = profile, .seed = i };
                _cleanup_free_ struct sock_filter *theirs = libseccomp_program(profile, &p.n_theirs);
                _cleanup_(seccomp_filter_freep) struct seccomp_filter *ours = compile(profile);

                if (!theirs) {
                        refused++;
                        continue;
                }
                p.theirs = theirs;
                p.ours = ours;
                compare_some_calls(&p, &dice, 600);
                compared += p.compared;
                differs += p.theirs_differs;
        }
        print_message(
                "# %u profiles, %u refused by libseccomp; %u calls, libseccomp differs from the definition on %u\n", n,
                refused, compared, differs);
        assert_true(refused < n / 4);
        assert_true(differs < compared / 1000);
}

/* podman's file names capabilities and architectures; what is left for an unprivileged container on x86-64 is an OCI
 * profile. */
static json_t *podman_profile(void)
{
        _cleanup_json_ json_t *file = json_load_file(PODMAN_PROFILE, 0, NULL);
        json_t *profile = file ? json_pack("{s:O, s:O?, s:[s,s,s], s:[]}", "defaultAction",
                                         json_object_get(file, "defaultAction"), "defaultErrnoRet",
                                         json_object_get(file, "defaultErrnoRet"), "architectures", "SCMP_ARCH_X86_64",
                                         "SCMP_ARCH_X86", "SCMP_ARCH_X32", "syscalls")
                               : NULL;
        json_t *entry;
        size_t i;

        json_array_foreach(json_object_get(file, "syscalls"), i, entry)
        {
                const json_t *includes = json_object_get(entry, "includes");

                if (json_object_get(includes, "caps") || json_object_get(includes, "arches"))
                        continue;
                json_array_append(json_object_get(profile, "syscalls"), entry);
        }
        return profile;
}

static void podmans_profile_gets_libseccomps_verdicts_in_fewer_steps(void **state)
{
        _cleanup_json_ json_t *profile = podman_profile();
        struct programs p = { .profile = profile };
        _cleanup_free_ struct sock_filter *theirs = NULL;
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *ours = NULL;
        struct dice dice = { 1 };
        unsigned most = 0, steps;

        if (!profile) {
                print_message("# %s is not installed\n", PODMAN_PROFILE);
                skip();
        }
        ours = compile(profile);
        theirs = libseccomp_program(profile, &p.n_theirs);
        p.ours = ours;
        p.theirs = theirs;
        assert_non_null(theirs);
        compare_every_number(&p);
        compare_some_calls(&p, &dice, 20000);
        assert_int_equal(p.theirs_differs, 0);
        for (int nr = 0; nr < 470; nr++) {
                const struct seccomp_data data = { .arch = AUDIT_ARCH_X86_64, .nr = nr };

                bpf_verdict(ours->insn, ours->n_insns, &data, &steps);
                most = MAX(most, steps);
        }
        print_message("# %u instructions, libseccomp's %zu; at most %u steps\n", ours->n_insns, p.n_theirs, most);
        assert_true(ours->n_insns < p.n_theirs);
        assert_true(most < 40);
}

static void first_entry_without_conditions_beats_all_others(void **state)
{
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = compile_text(
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": ["
                "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_LOG\", \"args\": [{\"index\": 0, \"value\": 7, \"op\": \"SCMP_CMP_EQ\"}]},"
                "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 5},"
                "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_TRAP\"}]}");

        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_read, 7, 0), SECCOMP_RET_ERRNO | 5);
        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_read, 8, 0), SECCOMP_RET_ERRNO | 5);
}

static void first_matching_entry_counts_where_entries_contradict(void **state)
{
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = compile_text(
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": ["
                "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{\"index\": 0, \"value\": 7, \"op\": \"SCMP_CMP_EQ\"}]},"
                "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_TRAP\", \"args\": [{\"index\": 1, \"value\": 7, \"op\": \"SCMP_CMP_EQ\"}]}]}");

        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_read, 7, 7), SECCOMP_RET_ERRNO | EPERM);
        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_read, 0, 7), SECCOMP_RET_TRAP);
        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_read, 0, 0), SECCOMP_RET_ALLOW);
}

static void conditions_on_one_argument_are_alternatives(void **state)
{
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = compile_text(
                "{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"syscalls\": [{\"names\": [\"personality\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": ["
                "{\"index\": 0, \"value\": 0, \"op\": \"SCMP_CMP_EQ\"}, {\"index\": 0, \"value\": 8, \"op\": \"SCMP_CMP_EQ\"},"
                "{\"index\": 0, \"value\": 131072, \"op\": \"SCMP_CMP_EQ\"}]}]}");
        static const u64 allowed[] = { 0, 8, 131072 }, refused[] = { 1, 7, 9, 131073, 0x100000008, 0x2000000000000 };

        for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
                assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_personality, allowed[i], 0), SECCOMP_RET_ALLOW);
        for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
                assert_int_equal(
                        ask(filter, AUDIT_ARCH_X86_64, SYS_personality, refused[i], 0), SECCOMP_RET_ERRNO | EPERM);
}

/* The high half is loaded and compared once for all of them: the alternatives share code. */
static void alternatives_share_their_code(void **state)
{
        _cleanup_json_ json_t *profile = parse(
                "{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"syscalls\": [{\"names\": [\"ioctl\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": []}]}");
        json_t *args = json_object_get(json_array_get(json_object_get(profile, "syscalls"), 0), "args");
        unsigned n[2];

        for (int i = 0; i < 6; i++) {
                json_array_append_new(
                        args, json_pack("{s:i, s:i, s:s}", "index", 1, "value", 100 + 3 * i, "op", "SCMP_CMP_EQ"));
                if (i < 2)
                        continue;
                _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = compile(profile);
                n[i % 2] = filter->n_insns;
                if (i == 5)
                        assert_true(n[1] - n[0] <= 4);
        }
}

static void calls_newer_than_the_profile_do_not_exist(void **state)
{
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = compile_text(
                "{\"defaultAction\": \"SCMP_ACT_KILL\", \"syscalls\": [{\"names\": [\"read\", \"openat2\"], \"action\": \"SCMP_ACT_ALLOW\"}]}");
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *lenient = compile_text(
                "{\"defaultAction\": \"SCMP_ACT_LOG\", \"syscalls\": [{\"names\": [\"read\", \"openat2\"], \"action\": \"SCMP_ACT_ALLOW\"}]}");

        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_openat2, 0, 0), SECCOMP_RET_ALLOW);
        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_openat2 + 1, 0, 0), SECCOMP_RET_ERRNO | ENOSYS);
        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, 5000, 0, 0), SECCOMP_RET_ERRNO | ENOSYS);
        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_write, 0, 0), SECCOMP_RET_KILL_THREAD);
        assert_int_equal(ask(lenient, AUDIT_ARCH_X86_64, 5000, 0, 0), SECCOMP_RET_LOG);
}

/* ---- errors ---- */

static void bad_profiles_are_refused_with_their_place(void **state)
{
        static const struct {
                const char *profile, *message;
        } rows[] = {
                { "{\"syscalls\": [{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ALLOW\"}]}",
                        "linux.seccomp: 'defaultAction' is '', which is no" },
                { "{\"defaultAction\": \"SCMP_ACT_MAYBE\"}", "linux.seccomp: 'defaultAction' is 'SCMP_ACT_MAYBE'" },
                { "{\"defaultAction\": \"SCMP_ACT_NOTIFY\"}",
                        "linux.seccomp: SCMP_ACT_NOTIFY cannot be used as default action" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"defaultErrnoRet\": 1}",
                        "linux.seccomp: 'defaultErrnoRet' makes no sense with SCMP_ACT_ALLOW" },
                { "{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 65536}",
                        "linux.seccomp: 'defaultErrnoRet' must be a whole number" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"SCMP_ARCH_Z80\"]}",
                        "linux.seccomp: architectures[0] is 'SCMP_ARCH_Z80'" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": \"SCMP_ARCH_X86\"}",
                        "linux.seccomp: 'architectures' must be a list" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"flags\": [\"FAST\"]}",
                        "linux.seccomp: seccomp flag 'FAST' is not known" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [], \"action\": \"SCMP_ACT_LOG\"}]}",
                        "linux.seccomp: syscalls[0]: 'names' is missing" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [1], \"action\": \"SCMP_ACT_LOG\"}]}",
                        "linux.seccomp: syscalls[0]: names[0] must be a text" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\"], \"action\": \"SCMP_ACT_LOG\", \"args\": [{\"index\": 6, \"value\": 0, \"op\": \"SCMP_CMP_EQ\"}]}]}",
                        "linux.seccomp: syscalls[0]: args[0]: 'index' must be a whole number from 0 to 5" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\"], \"action\": \"SCMP_ACT_LOG\", \"args\": [{\"index\": 0, \"value\": -1, \"op\": \"SCMP_CMP_EQ\"}]}]}",
                        "linux.seccomp: syscalls[0]: args[0]: 'value' must be a whole number that is not negative" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\"], \"action\": \"SCMP_ACT_LOG\", \"args\": [{\"index\": 0, \"value\": 1, \"op\": \"==\"}]}]}",
                        "linux.seccomp: syscalls[0]: args[0]: 'op' is '=='" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"write\"], \"action\": \"SCMP_ACT_NOTIFY\"}], \"listenerPath\": \"/s\"}",
                        "linux.seccomp: syscalls[0]: SCMP_ACT_NOTIFY cannot be used for the write syscall" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\"], \"action\": \"SCMP_ACT_NOTIFY\"}]}",
                        "linux.seccomp: SCMP_ACT_NOTIFY needs a 'listenerPath'" },
                { "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"listenerMetadata\": \"x\"}",
                        "linux.seccomp: 'listenerMetadata' needs a 'listenerPath'" },
                { "[]", "linux.seccomp: 'defaultAction' is ''" },
                { "7", "linux.seccomp: 'defaultAction' is ''" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_json_ json_t *json = parse(rows[i].profile);
                _cleanup_(err_freep) struct err *err = NULL;
                struct seccomp_filter *filter = NULL;
                int r = seccomp_filter_compile(json, false, &filter, &err);

                if (i >= ARRAY_SIZE(rows) - 2 && r == 0) {
                        assert_null(filter); /* nothing in it that could mean anything */
                        continue;
                }
                if (r >= 0 || strncmp(err_message(err), rows[i].message, strlen(rows[i].message)) != 0)
                        fail_msg("%s\n gave %s\n, not %s", rows[i].profile, r < 0 ? err_message(err) : "a filter",
                                rows[i].message);
                assert_null(filter);
        }
}

static void no_profile_is_no_filter(void **state)
{
        struct seccomp_filter *filter = NULL;
        _cleanup_json_ json_t *null = json_null(), *empty = json_object();

        assert_int_equal(seccomp_filter_compile(NULL, false, &filter, NULL), 0);
        assert_int_equal(seccomp_filter_compile(null, false, &filter, NULL), 0);
        assert_int_equal(seccomp_filter_compile(empty, false, &filter, NULL), 0);
        assert_null(filter);
}

static void unknown_calls_are_skipped_unless_that_is_forbidden(void **state)
{
        _cleanup_json_ json_t *json = parse(
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\", \"no_such_call\"], \"action\": \"SCMP_ACT_LOG\"}]}");
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = compile(json);
        _cleanup_(err_freep) struct err *err = NULL;
        struct seccomp_filter *none = NULL;

        assert_int_equal(ask(filter, AUDIT_ARCH_X86_64, SYS_read, 0, 0), SECCOMP_RET_LOG);
        assert_int_equal(seccomp_filter_compile(json, true, &none, &err), -EINVAL);
        assert_non_null(strstr(err_message(err), "no_such_call"));
        assert_null(none);
}

static void profile_too_large_for_the_kernel_is_refused(void **state)
{
        _cleanup_json_ json_t *profile = json_pack("{s:s, s:[]}", "defaultAction", "SCMP_ACT_ALLOW", "syscalls");
        _cleanup_(err_freep) struct err *err = NULL;
        struct seccomp_filter *filter = NULL;

        for (int i = 0; i < 3000; i++)
                json_array_append_new(json_object_get(profile, "syscalls"),
                        json_pack("{s:[s], s:s, s:i, s:[{s:i, s:i, s:s}]}", "names", names[i % 10], "action",
                                "SCMP_ACT_ERRNO", "errnoRet", i % 7 + 1, "args", "index", i % 6, "value", 1000 + i,
                                "op", "SCMP_CMP_EQ"));
        assert_int_equal(seccomp_filter_compile(profile, false, &filter, &err), -E2BIG);
        assert_int_equal(err_get_id(err), ERR_TOO_LARGE);
        assert_null(filter);
}

/* Jumps further than a conditional one reaches. */
static void large_programs_keep_their_verdicts(void **state)
{
        _cleanup_json_ json_t *profile = json_pack("{s:s, s:[s, s], s:[]}", "defaultAction", "SCMP_ACT_ALLOW",
                "architectures", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "syscalls");
        struct programs p = { .profile = profile };
        _cleanup_free_ struct sock_filter *theirs = NULL;
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *ours = NULL;
        struct dice dice = { 99 };

        for (int i = 0; i < 120; i++)
                json_array_append_new(json_object_get(profile, "syscalls"),
                        json_pack("{s:[s], s:s, s:i, s:[{s:i, s:i, s:s}]}", "names", names[i % (int)ARRAY_SIZE(names)],
                                "action", "SCMP_ACT_ERRNO", "errnoRet",
                                i % (int)ARRAY_SIZE(names) < 20 && i % (int)ARRAY_SIZE(names) > 6
                                        ? 1
                                        : 1 + i % (int)ARRAY_SIZE(names),
                                "args", "index", i % 5 + 1, "value", i % 9, "op", "SCMP_CMP_EQ"));
        ours = compile(profile);
        theirs = libseccomp_program(profile, &p.n_theirs);
        assert_non_null(theirs);
        assert_true(ours->n_insns > 600);
        p.ours = ours;
        p.theirs = theirs;
        compare_every_number(&p);
        compare_some_calls(&p, &dice, 20000);
        assert_true(p.theirs_differs * 1000 < p.compared);
}

static void damaged_programs_are_noticed(void **state)
{
        static const struct sock_filter ret = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        const struct {
                struct sock_filter insn[2];
                size_t n;
        } rows[] = {
                { { ret }, 0 },
                { { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0) }, 1 },
                { { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), ret }, 2 },
                { { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), ret }, 2 },
                { { BPF_JUMP(BPF_JMP | BPF_K | BPF_JEQ, 0, 1, 0), ret }, 2 },
                { { BPF_JUMP(BPF_JMP | BPF_K | BPF_JEQ, 0, 0, 1), ret }, 2 },
                { { BPF_STMT(BPF_JMP | BPF_JA, 1), ret }, 2 },
                { { BPF_STMT(BPF_MISC | BPF_TAX, 0), ret }, 2 },
        };

        assert_int_equal(bpf_check(&ret, 1), 0);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                assert_int_equal(bpf_check(rows[i].insn, rows[i].n), -EINVAL);
}

/* ---- the kernel ---- */

/* What @run returns in a child. */
static int in_child(int (*run)(const struct seccomp_filter *filter), const struct seccomp_filter *filter)
{
        const pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0)
                _exit(run(filter));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        return WEXITSTATUS(status);
}

static int load_and_try(const struct seccomp_filter *filter)
{
        int listener = 7;

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return 1;
        if (seccomp_filter_load(filter, &listener) < 0 || listener != -1)
                return 2;
        if (syscall(SYS_getppid) != -1 || errno != ENOTTY)
                return 3;
        if (syscall(SYS_personality, 0xffffffffUL) < 0 || syscall(SYS_personality, 0x1234) != -1 || errno != EPERM)
                return 4;
        return 0;
}

static void kernel_enforces_the_program(void **state)
{
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = compile_text(
                "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"SCMP_ARCH_X86\", \"SCMP_ARCH_X32\"], \"flags\": [\"SECCOMP_FILTER_FLAG_TSYNC\", \"SECCOMP_FILTER_FLAG_LOG\", "
                "\"SECCOMP_FILTER_FLAG_SPEC_ALLOW\", \"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV\"],"
                "\"syscalls\": [{\"names\": [\"getppid\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 25}, "
                "{\"names\": [\"personality\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{\"index\": 0, \"value\": 4660, \"op\": \"SCMP_CMP_EQ\"}]}]}");

        assert_int_equal(filter->flags, SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW);
        assert_int_equal(in_child(load_and_try, filter), 0);
}

static int load_twice(const struct seccomp_filter *filter)
{
        int listener = -1;

        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || seccomp_filter_load(filter, &listener) < 0 ||
               listener < 0 || seccomp_filter_load(filter, &listener) != -EBUSY;
}

/* Receives one message with a descriptor. */
static int receive(int sock, char *text, size_t size)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = { .iov_base = text, .iov_len = size - 1 };
        struct msghdr message = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        const ssize_t n = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
        int fd;

        assert_true(n > 0);
        text[n] = 0;
        assert_non_null(CMSG_FIRSTHDR(&message));
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
        return fd;
}

static void listener_goes_to_the_agent_with_the_containers_state(void **state)
{
        char dir[] = "/tmp/strata-seccomp-XXXXXX", text[4096], *path = NULL;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = NULL;
        _cleanup_json_ json_t *profile = NULL, *box = parse("{\"id\": \"box\", \"status\": \"creating\"}"), *got = NULL;
        _cleanup_close_ int server = -1, sock = -1, sent = -1, received = -1;
        struct err *err = NULL;

        assert_non_null(mkdtemp(dir));
        assert_true(asprintf(&path, "%s/agent", dir) > 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        profile = json_pack("{s:s, s:s, s:s, s:[{s:[s], s:s}]}", "defaultAction", "SCMP_ACT_ALLOW", "listenerPath",
                path, "listenerMetadata", "m", "syscalls", "names", "mkdir", "action", "SCMP_ACT_NOTIFY");
        filter = compile(profile);
        assert_string_equal(filter->listener_metadata, "m");
        assert_int_equal(in_child(load_twice, filter), 0);

        server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(server, 1), 0);
        sent = dup(2);
        assert_int_equal(seccomp_filter_send_listener(filter, sent, 1234, box, &err), 0);
        sock = accept4(server, NULL, NULL, SOCK_CLOEXEC);
        received = receive(sock, text, sizeof(text));
        assert_true(received > 2 && received != sent);
        got = parse(text);
        assert_int_equal(json_integer_value(json_object_get(got, "pid")), 1234);
        assert_string_equal(json_string_value(json_object_get(got, "metadata")), "m");
        assert_string_equal(json_string_value(json_array_get(json_object_get(got, "fds"), 0)), "seccompFd");
        assert_true(json_equal(json_object_get(got, "state"), box));

        unlink(path);
        assert_int_equal(seccomp_filter_send_listener(filter, sent, 1234, box, &err), -ENOENT);
        err_free(err);
        rmdir(dir);
        free(path);
}

static void features_name_what_profiles_may_use(void **state)
{
        _cleanup_json_ json_t *features = seccomp_features();

        assert_true(json_is_true(json_object_get(features, "enabled")));
        assert_int_equal(json_array_size(json_object_get(features, "actions")), 9);
        assert_int_equal(json_array_size(json_object_get(features, "operators")), 7);
        assert_true(json_array_size(json_object_get(features, "archs")) > 10);
        assert_true(json_array_size(json_object_get(features, "supportedFlags")) <=
                    json_array_size(json_object_get(features, "knownFlags")));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(table_of_names_agrees_with_libseccomp),
                cmocka_unit_test(random_profiles_get_libseccomps_verdicts),
                cmocka_unit_test(podmans_profile_gets_libseccomps_verdicts_in_fewer_steps),
                cmocka_unit_test(first_entry_without_conditions_beats_all_others),
                cmocka_unit_test(first_matching_entry_counts_where_entries_contradict),
                cmocka_unit_test(conditions_on_one_argument_are_alternatives),
                cmocka_unit_test(alternatives_share_their_code),
                cmocka_unit_test(calls_newer_than_the_profile_do_not_exist),
                cmocka_unit_test(bad_profiles_are_refused_with_their_place),
                cmocka_unit_test(no_profile_is_no_filter),
                cmocka_unit_test(unknown_calls_are_skipped_unless_that_is_forbidden),
                cmocka_unit_test(profile_too_large_for_the_kernel_is_refused),
                cmocka_unit_test(large_programs_keep_their_verdicts),
                cmocka_unit_test(damaged_programs_are_noticed),
                cmocka_unit_test(kernel_enforces_the_program),
                cmocka_unit_test(listener_goes_to_the_agent_with_the_containers_state),
                cmocka_unit_test(features_name_what_profiles_may_use),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

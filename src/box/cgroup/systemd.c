/* The systemd driver: a transient scope that systemd makes and keeps, asked for through busctl (docs/adr/0030).
 *
 *         busctl call org.freedesktop.systemd1 ... StartTransientUnit "ssa(sv)a(sa(sv))" UNIT fail N NAME TYPE VALUE
 *         ... 0
 *
 * The scope gets the limits as properties too, because systemd writes what it believes whenever it reloads; values that
 * systemd has no property for are written to the group's files, as without systemd. Interface:
 * org.freedesktop.systemd1(5). */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "box/cgroup/internal.h"
#include "box/oci_read.h"

#define START_TIMEOUT_NS  (30 * NSEC_PER_SEC)
#define ANNOTATION_PREFIX "org.systemd.property."
#define WORDS_MAX         256

extern char **environ;

/* ---- names ---- */

/* A unit's name may hold these characters; all others would mean something to systemd or to a path. */
static bool is_unit_word(const char *text)
{
        if (!*text || strlen(text) > 200)
                return false;
        for (; *text; text++)
                if (!isalnum((unsigned char)*text) && !strchr(":-_.\\@", *text))
                        return false;
        return true;
}

int cgroup_systemd_names(const struct cgroup_spec *spec, char **ret_unit, char **ret_slice, struct err **err)
{
        const char *path = spec->path ? spec->path : "";
        _cleanup_free_ char *copy = strdup(path);
        char *pos = copy, *slice, *prefix, *name;
        int r;

        if (!copy)
                return err_sys(err, ENOMEM, "naming a scope");
        slice = *path ? strsep(&pos, ":") : NULL;
        prefix = *path ? strsep(&pos, ":") : "strata";
        name = *path ? strsep(&pos, ":") : (char *)spec->id;
        if (!prefix || !name || pos)
                return err_set(err, ERR_BAD_CONFIG, EINVAL,
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"%s\" instead",
                        path);
        if (!slice || !*slice)
                slice = spec->rootless ? "user.slice" : "system.slice";
        r = *prefix ? asprintf(ret_unit, "%s-%s.scope", prefix, name) : asprintf(ret_unit, "%s.scope", name);
        if (r < 0) {
                *ret_unit = NULL;
                return err_sys(err, ENOMEM, "naming a scope");
        }
        if (!is_unit_word(*ret_unit) || !is_unit_word(slice) || strlen(slice) <= 6 ||
                strcmp(slice + strlen(slice) - 6, ".slice") != 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL,
                        "cgroupsPath '%s' does not name a slice and a scope of systemd", path);
        *ret_slice = strdup(slice);
        return *ret_slice ? 0 : err_sys(err, ENOMEM, "naming a scope");
}

/* ---- busctl ---- */

/* A command line; words are owned. */
struct words {
        char *word[WORDS_MAX + 1];
        size_t n;
        bool failed; /* too many, or out of memory */
};

static void words_clear(struct words *words)
{
        for (size_t i = 0; i < words->n; i++)
                free(words->word[i]);
}

static void add(struct words *words, const char *fmt, ...) _printf_(2, 3);
static void add(struct words *words, const char *fmt, ...)
{
        char *word = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (words->n == WORDS_MAX || vasprintf(&word, fmt, ap) < 0)
                words->failed = true;
        else
                words->word[words->n++] = word;
        va_end(ap);
}

/* Properties of a unit: NAME TYPE VALUE..., counted. */
struct properties {
        struct words words;
        unsigned n;
};

static void add_property(struct properties *p, const char *name, const char *type, const char *fmt, ...) _printf_(4, 5);
static void add_property(struct properties *p, const char *name, const char *type, const char *fmt, ...)
{
        char value[512];
        va_list ap;

        va_start(ap, fmt);
        vsnprintf(value, sizeof(value), fmt, ap);
        va_end(ap);
        add(&p->words, "%s", name);
        add(&p->words, "%s", type);
        add(&p->words, "%s", value);
        p->n++;
}

/* What busctl wrote to its standard error, at most a line. */
static void read_complaint(int fd, char *text, size_t size)
{
        const ssize_t n = read(fd, text, size - 1);

        text[n > 0 ? n : 0] = 0;
        text[strcspn(text, "\n")] = 0;
}

/* Waits for busctl; the words of what it calls follow those that are always the same. */
static int run_busctl(bool user, struct words *call, struct err **err)
{
        char *argv[WORDS_MAX + 8] = { "busctl", user ? "--user" : "--system", "call", "org.freedesktop.systemd1",
                "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager" };
        posix_spawn_file_actions_t actions;
        char complaint[300] = "";
        int pipe_fds[2], status = 0, r;
        pid_t pid;

        if (call->failed)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "too many properties for systemd");
        for (size_t i = 0; i < call->n; i++)
                argv[6 + i] = call->word[i];
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return err_sys(err, errno, "running busctl");
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
        posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDERR_FILENO);
        r = posix_spawnp(&pid, "busctl", &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        close(pipe_fds[1]);
        if (r == 0) {
                read_complaint(pipe_fds[0], complaint, sizeof(complaint));
                while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                        ;
        }
        close(pipe_fds[0]);
        if (r != 0)
                return err_sys(err, r, "running busctl, which the systemd driver needs");
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                return err_set(err, ERR_IO, EIO, "systemd: %s", *complaint ? complaint : "busctl failed");
        return 0;
}

static int call_words(bool user, struct err **err, const char *first, ...) __attribute__((sentinel));
static int call_words(bool user, struct err **err, const char *first, ...)
{
        struct words call = { .n = 0 };
        va_list ap;
        int r;

        va_start(ap, first);
        for (const char *word = first; word; word = va_arg(ap, const char *))
                add(&call, "%s", word);
        va_end(ap);
        r = run_busctl(user, &call, err);
        words_clear(&call);
        return r;
}

/* ---- properties ---- */

static s64 given(const struct cgroup_resources *res, enum cgroup_limit limit)
{
        return cgroup_resources_has(res, limit) ? res->value[limit] : 0;
}

/* systemd writes -1 as "infinity". */
static u64 or_infinity(s64 value)
{
        return value < 0 ? UINT64_MAX : (u64)value;
}

static void add_u64(struct properties *p, const char *name, u64 value)
{
        add_property(p, name, "t", "%llu", (unsigned long long)value);
}

/* CPU time for each second, in whole percents, rounded up (systemd rounds down and would then limit below the files).
 * */
static void add_cpu_quota(struct properties *p, const struct cgroup_resources *res)
{
        const s64 quota = given(res, CGROUP_CPU_QUOTA),
                  period = given(res, CGROUP_CPU_PERIOD) ? given(res, CGROUP_CPU_PERIOD) : 100000;
        u64 per_second;

        if (given(res, CGROUP_CPU_PERIOD))
                add_u64(p, "CPUQuotaPeriodUSec", (u64)period);
        if (!quota)
                return;
        per_second = quota < 0 ? UINT64_MAX : muldiv64((u64)quota, 1000000, (u64)period);
        if (quota > 0)
                per_second = (per_second + 9999) / 10000 * 10000;
        add_u64(p, "CPUQuotaPerSecUSec", per_second);
}

static void add_limits(struct properties *p, const struct cgroup_resources *res, bool unified)
{
        const s64 memory = given(res, CGROUP_MEMORY_LIMIT), swap = given(res, CGROUP_MEMORY_SWAP);

        if (!res)
                return;
        if (memory)
                add_u64(p, unified ? "MemoryMax" : "MemoryLimit", or_infinity(memory));
        if (unified && given(res, CGROUP_MEMORY_RESERVATION))
                add_u64(p, "MemoryLow", or_infinity(given(res, CGROUP_MEMORY_RESERVATION)));
        if (unified && swap && (swap < 0 || (memory > 0 && swap >= memory)))
                add_u64(p, "MemorySwapMax", or_infinity(swap < 0 ? swap : swap - memory));
        if (given(res, CGROUP_CPU_SHARES))
                add_u64(p, unified ? "CPUWeight" : "CPUShares",
                        (u64)(unified ? cgroup_weight_of_shares(given(res, CGROUP_CPU_SHARES))
                                      : given(res, CGROUP_CPU_SHARES)));
        add_cpu_quota(p, res);
        if (given(res, CGROUP_PIDS))
                add_u64(p, "TasksMax", or_infinity(given(res, CGROUP_PIDS)));
}

/* Files of v2 that are properties too. */
static const struct {
        const char *file, *property;
} unified_properties[] = {
        { "cpu.weight", "CPUWeight" },
        { "memory.high", "MemoryHigh" },
        { "memory.low", "MemoryLow" },
        { "memory.max", "MemoryMax" },
        { "memory.min", "MemoryMin" },
        { "pids.max", "TasksMax" },
        { "memory.swap.max", "MemorySwapMax" },
        { "io.weight", "IOWeight" },
};

static void add_unified(struct properties *p, const struct cgroup_resources *res)
{
        for (size_t i = 0; res && i < res->n_unified; i++)
                for (size_t k = 0; k < ARRAY_SIZE(unified_properties); k++) {
                        const char *value = res->unified[i].value;

                        if (strcmp(res->unified[i].file, unified_properties[k].file) != 0)
                                continue;
                        if (strcmp(value, "max") == 0)
                                add_u64(p, unified_properties[k].property, UINT64_MAX);
                        else if (*value && strspn(value, "0123456789") == strlen(value))
                                add_property(p, unified_properties[k].property, "t", "%s", value);
                }
}

/* An annotation's value is GVariant text: true, 'text', uint64 5, 5. */
static const struct {
        const char *prefix, *type;
} literals[] = {
        { "uint64 ", "t" },
        { "uint32 ", "u" },
        { "uint16 ", "q" },
        { "int64 ", "x" },
        { "int32 ", "i" },
        { "int16 ", "n" },
        { "byte ", "y" },
        { "boolean ", "b" },
};

static int add_annotation(struct properties *p, const char *name, const char *value, struct err **err)
{
        const size_t len = strlen(value), name_len = strlen(name);
        char property[128];

        if (!isalpha((unsigned char)*name) ||
                strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != name_len ||
                name_len > 100)
                return err_set(err, ERR_BAD_CONFIG, EINVAL,
                        "annotation '" ANNOTATION_PREFIX "%.60s' does not name a property", name);
        if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0) {
                add_property(p, name, "b", "%s", value);
                return 0;
        }
        if (len >= 2 && (value[0] == '\'' || value[0] == '"') && value[len - 1] == value[0]) {
                add_property(p, name, "s", "%.*s", (int)(len - 2), value + 1);
                return 0;
        }
        /* Times are known as FooSec to users and as FooUSec on the bus. */
        if (name_len > 3 && strcmp(name + name_len - 3, "Sec") == 0 && !(name_len > 4 && name[name_len - 4] == 'U')) {
                char *end;
                const char *number = strrchr(value, ' ') ? strrchr(value, ' ') + 1 : value;
                const double seconds = strtod(number, &end);

                if (*number && !*end && seconds >= 0 && seconds < 1e12) {
                        snprintf(property, sizeof(property), "%.*sUSec", (int)(name_len - 3), name);
                        add_u64(p, property, (u64)(seconds * 1e6));
                        return 0;
                }
        }
        for (size_t i = 0; i < ARRAY_SIZE(literals); i++)
                if (strncmp(value, literals[i].prefix, strlen(literals[i].prefix)) == 0) {
                        add_property(p, name, literals[i].type, "%s", value + strlen(literals[i].prefix));
                        return 0;
                }
        if (*value && strspn(value, "-0123456789") == len) {
                add_property(p, name, "i", "%s", value);
                return 0;
        }
        return err_set(err, ERR_BAD_CONFIG, EINVAL,
                "annotation '" ANNOTATION_PREFIX "%s': '%.60s' is no value that we can hand to systemd", name, value);
}

/* @json: the spec's annotations, or the pairs of a state file: an object of texts. */
static int add_annotations(struct properties *p, const json_t *json, struct err **err)
{
        const char *key;
        json_t *value;
        int r = 0;

        json_object_foreach((json_t *)json, key, value)
        {
                if (strncmp(key, ANNOTATION_PREFIX, strlen(ANNOTATION_PREFIX)) != 0 || !json_is_string(value))
                        continue;
                r = add_annotation(p, key + strlen(ANNOTATION_PREFIX), json_string_value(value), err);
                if (r < 0)
                        break;
        }
        return r;
}

/* ---- units ---- */

static void add_all(struct words *call, const struct properties *p)
{
        add(call, "%u", p->n);
        for (size_t i = 0; i < p->words.n; i++)
                add(call, "%s", p->words.word[i]);
        call->failed |= p->words.failed;
}

/* systemd makes the scope when it comes to it; the process being there says that it has. */
static int wait_for_group(pid_t pid, const char *unit, char **ret_group, struct err **err)
{
        const u64 deadline = clock_now_ns() + START_TIMEOUT_NS;
        struct timespec pause = { .tv_nsec = 1000000 };
        char path[40];

        snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        do {
                _cleanup_free_ char *text = NULL;
                int r = cgroup_read(AT_FDCWD, path, &text, err);

                if (r < 0)
                        return r;
                for (char *pos = text, *line; (line = cgroup_next_line(&pos));) {
                        char *group = strchr(line, ':') ? strchr(strchr(line, ':') + 1, ':') : NULL;
                        const char *last = group ? strrchr(group, '/') : NULL;

                        if (!last || strcmp(last + 1, unit) != 0)
                                continue;
                        *ret_group = strdup(group + 1);
                        return *ret_group ? 0 : err_sys(err, ENOMEM, "waiting for '%s'", unit);
                }
                nanosleep(&pause, NULL);
                pause.tv_nsec = MIN(2 * pause.tv_nsec, 20000000L);
        } while (clock_now_ns() < deadline);
        return err_set(err, ERR_IO, ETIMEDOUT, "systemd did not make '%s' in time", unit);
}

static int start_unit(const struct cgroup_spec *spec, const char *unit, const struct properties *p, struct err **err)
{
        struct words call = { .n = 0 };
        int r;

        add(&call, "StartTransientUnit");
        add(&call, "ssa(sv)a(sa(sv))");
        add(&call, "%s", unit);
        add(&call, "fail");
        add_all(&call, p);
        add(&call, "0");
        r = run_busctl(spec->rootless, &call, err);
        words_clear(&call);
        return r;
}

int cgroup_systemd_start(const struct cgroup_spec *spec, const char *unit, const char *slice, bool unified,
        char **ret_group, struct err **err)
{
        static const char *const accounting[] = { "CPUAccounting", "MemoryAccounting", "TasksAccounting" };
        struct properties p = { .n = 0 };
        int r;

        if (access("/run/systemd/system", F_OK) < 0)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                        "systemd not running on this host, cannot use systemd cgroups manager");
        if (spec->pid <= 0)
                return err_set(err, ERR_INTERNAL, EINVAL, "a scope needs a process");
        add_property(&p, "Description", "s", "strata container %s", spec->id);
        add_property(&p, "Slice", "s", "%s", slice);
        add_property(&p, "Delegate", "b", "true");
        add_property(&p, "DefaultDependencies", "b", "false");
        for (size_t i = 0; i < ARRAY_SIZE(accounting); i++)
                add_property(&p, accounting[i], "b", "true");
        add_property(&p, unified ? "IOAccounting" : "BlockIOAccounting", "b", "true");
        add_property(&p, "PIDs", "au", "1");
        add(&p.words, "%d", (int)spec->pid);
        add_limits(&p, spec->resources, unified);
        add_unified(&p, spec->resources);
        r = add_annotations(&p, spec->annotations, err);
        if (r >= 0)
                r = start_unit(spec, unit, &p, NULL);
        if (r == -EIO) {
                /* Perhaps a failed unit of this name is still remembered; the second time the reason is told. */
                (void)call_words(spec->rootless, NULL, "ResetFailedUnit", "s", unit, NULL);
                r = start_unit(spec, unit, &p, err);
        }
        words_clear(&p.words);
        if (r < 0)
                return r;
        r = wait_for_group(spec->pid, unit, ret_group, err);
        if (r < 0)
                (void)cgroup_systemd_stop(unit, spec->rootless, NULL);
        return r;
}

int cgroup_systemd_update(
        const char *unit, bool user, bool unified, const struct cgroup_resources *res, struct err **err)
{
        struct properties p = { .n = 0 };
        struct words call = { .n = 0 };
        int r = 0;

        add_limits(&p, res, unified);
        add_unified(&p, res);
        if (p.n) {
                add(&call, "SetUnitProperties");
                add(&call, "sba(sv)");
                add(&call, "%s", unit);
                add(&call, "true");
                add_all(&call, &p);
                r = run_busctl(user, &call, err);
        }
        words_clear(&call);
        words_clear(&p.words);
        return r;
}

int cgroup_systemd_stop(const char *unit, bool user, struct err **err)
{
        int r = call_words(user, err, "StopUnit", "ss", unit, "replace", NULL);

        /* A unit whose processes were killed is remembered as failed, and its name would stay taken. */
        (void)call_words(user, NULL, "ResetFailedUnit", "s", unit, NULL);
        return r;
}

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "runspec_internal.h"
#include "values.h"

#define ENV_FILE_LINE_MAX (1 << 20)

int runspec_no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "reading the options");
}

int runspec_wrong(struct err **err, const char *option, const char *text, const char *form)
{
        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "%s: '%s' is not understood", option, text),
                "it is written %s", form);
}

void *runspec_grow(struct arena *arena, void *item, size_t n, size_t size)
{
        void *grown;

        if (n & (n - 1)) /* room is made in powers of two: here is some left */
                return item;
        grown = arena_alloc(arena, n ? 2 * n : 1, size);
        if (grown && n)
                memcpy(grown, item, n * size);
        return grown;
}

char *runspec_copy(struct arena *arena, const char *text, size_t len)
{
        return arena_printf(arena, "%.*s", (int)len, text);
}

char *runspec_next_word(struct arena *arena, const char **text, bool *ret_failed)
{
        const char *start = *text;
        const bool quoted = *start == '"';
        size_t len;
        char *word;

        *ret_failed = false;
        if (!*start)
                return NULL;
        start += quoted;
        len = strcspn(start, quoted ? "\"" : ",");
        word = runspec_copy(arena, start, len);
        *ret_failed = !word;
        start += len + (quoted && start[len]);
        *text = start + (*start == ',');
        return word;
}

int runspec_strings_add(struct arena *arena, struct instance_strings *list, const char *word, struct err **err)
{
        return RUNSPEC_APPEND(arena, list, err, word);
}

/* --- names and values ---------------------------------------------------------------------------------------------- */

int runspec_env_add(struct arena *arena, struct instance_strings *env, const char *text, struct err **err)
{
        const char *value;

        if (!*text || *text == '=')
                return runspec_wrong(err, "--env", text, "NAME=VALUE or NAME");
        if (!strchr(text, '=') && (value = getenv(text))) {
                text = arena_printf(arena, "%s=%s", text, value);
                if (!text)
                        return runspec_no_memory(err);
        }
        return runspec_strings_add(arena, env, text, err);
}

int runspec_env(struct runspec *runspec, const char *text, struct err **err)
{
        return runspec_env_add(runspec->arena, &runspec->config->env, text, err);
}

static int add_pair(struct runspec *runspec, struct instance_pairs *pairs, const char *option, const char *text,
        bool needs_value, struct err **err)
{
        const size_t len = strcspn(text, "=");
        const char *key = runspec_copy(runspec->arena, text, len);

        if (!key)
                return runspec_no_memory(err);
        if (len == 0 || (needs_value && !text[len]))
                return runspec_wrong(err, option, text, "NAME=VALUE");
        return RUNSPEC_APPEND(runspec->arena, pairs, err, { key, text[len] ? text + len + 1 : "" });
}

int runspec_label(struct runspec *runspec, const char *text, struct err **err)
{
        return add_pair(runspec, &runspec->config->labels, "--label", text, false, err);
}

int runspec_annotation(struct runspec *runspec, const char *text, struct err **err)
{
        return add_pair(runspec, &runspec->config->annotations, "--annotation", text, true, err);
}

int runspec_sysctl(struct runspec *runspec, const char *text, struct err **err)
{
        return add_pair(runspec, &runspec->config->sysctls, "--sysctl", text, true, err);
}

/* Calls @add with each line of @path that says something. */
static int read_lines(struct arena *arena, const char *path,
        int (*add)(void *opaque, const char *line, struct err **err), void *opaque, struct err **err)
{
        _cleanup_fclose_ FILE *file = fopen(path, "re");
        _cleanup_free_ char *line = NULL;
        size_t cap = 0;
        ssize_t len;
        int r = 0;

        if (!file)
                return err_sys(err, errno, "opening '%s'", path);
        for (unsigned number = 1; r == 0 && (len = getline(&line, &cap, file)) >= 0; number++) {
                char *copy, *start = line;

                while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
                        line[--len] = '\0';
                while (isspace((unsigned char)*start))
                        start++;
                if (!*start || *start == '#')
                        continue;
                if (len > ENV_FILE_LINE_MAX || strlen(line) != (size_t)len)
                        return err_set(err, ERR_USAGE, EINVAL, "'%s', line %u: it is no text", path, number);
                if (isspace((unsigned char)start[strcspn(start, "= \t")]))
                        return err_set(
                                err, ERR_USAGE, EINVAL, "'%s', line %u: a name has white space in it", path, number);
                copy = arena_strdup(arena, start);
                r = copy ? add(opaque, copy, err) : runspec_no_memory(err);
                if (r < 0)
                        return err_wrap(err, r, "'%s', line %u", path, number);
        }
        return ferror(file) ? err_sys(err, EIO, "reading '%s'", path) : r;
}

struct env_adder {
        struct arena *arena;
        struct instance_strings *env;
};

/* A name without a value that our environment has not says nothing here. */
static int add_env_line(void *opaque, const char *line, struct err **err)
{
        const struct env_adder *adder = opaque;

        if (!strchr(line, '=') && !getenv(line))
                return 0;
        return runspec_env_add(adder->arena, adder->env, line, err);
}

int runspec_env_file_add(struct arena *arena, struct instance_strings *env, const char *path, struct err **err)
{
        return read_lines(arena, path, add_env_line, &(struct env_adder){ arena, env }, err);
}

int runspec_env_file(struct runspec *runspec, const char *text, struct err **err)
{
        return runspec_env_file_add(runspec->arena, &runspec->config->env, text, err);
}

static int add_label_line(void *opaque, const char *line, struct err **err)
{
        return runspec_label(opaque, line, err);
}

int runspec_label_file(struct runspec *runspec, const char *text, struct err **err)
{
        return read_lines(runspec->arena, text, add_label_line, runspec, err);
}

/* --- limits -------------------------------------------------------------------------------------------------------- */

static int read_limit(const char *text, s64 *ret, struct err **err)
{
        if (strcmp(text, "unlimited") == 0) {
                *ret = -1;
                return 0;
        }
        return cli_parse_number(ret, text, err);
}

int runspec_ulimit(struct runspec *runspec, const char *text, struct err **err)
{
        static const char form[] = "NAME=SOFT[:HARD], as in nofile=1024:4096";
        const char *equals = strchr(text, '='), *colon = equals ? strchr(equals, ':') : NULL;
        struct instance_ulimit limit = { 0 };
        const char *soft;

        if (!equals || equals == text)
                return runspec_wrong(err, "--ulimit", text, form);
        limit.name = runspec_copy(runspec->arena, text, (size_t)(equals - text));
        soft = colon ? runspec_copy(runspec->arena, equals + 1, (size_t)(colon - equals) - 1) : equals + 1;
        if (!limit.name || !soft)
                return runspec_no_memory(err);
        if (read_limit(soft, &limit.soft, NULL) < 0)
                return runspec_wrong(err, "--ulimit", text, form);
        limit.hard = limit.soft;
        if (colon && read_limit(colon + 1, &limit.hard, NULL) < 0)
                return runspec_wrong(err, "--ulimit", text, form);
        if (limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard))
                return err_set(err, ERR_USAGE, EINVAL, "--ulimit: '%s': the soft limit is above the hard one", text);
        return RUNSPEC_APPEND(runspec->arena, &runspec->config->ulimits, err, limit);
}

static bool is_permissions(const char *text)
{
        return *text && strspn(text, "rwm") == strlen(text);
}

int runspec_device(struct runspec *runspec, const char *text, struct err **err)
{
        static const char form[] = "DEVICE[:TARGET][:rwm], as in /dev/fuse";
        struct instance_device device = { 0 };
        char *copy = arena_strdup(runspec->arena, text), *save = NULL, *word;

        if (!copy)
                return runspec_no_memory(err);
        for (word = strtok_r(copy, ":", &save); word; word = strtok_r(NULL, ":", &save)) {
                if (!device.source)
                        device.source = word;
                else if (!device.permissions && word[0] != '/' && is_permissions(word))
                        device.permissions = word;
                else if (!device.target && !device.permissions)
                        device.target = word;
                else
                        return runspec_wrong(err, "--device", text, form);
        }
        if (!device.source || device.source[0] != '/' || (device.target && device.target[0] != '/'))
                return runspec_wrong(err, "--device", text, form);
        return RUNSPEC_APPEND(runspec->arena, &runspec->config->devices, err, device);
}

static int add_rate(struct runspec *runspec, struct instance_io_rates *rates, const char *option, const char *text,
        cli_parse_fn *parse, struct err **err)
{
        const char *colon = strrchr(text, ':');
        const char *device = colon ? runspec_copy(runspec->arena, text, (size_t)(colon - text)) : NULL;
        s64 rate;

        if (!colon || text[0] != '/' || parse(&rate, colon + 1, NULL) < 0)
                return runspec_wrong(err, option, text, "DEVICE:RATE, as in /dev/sda:10m");
        if (!device)
                return runspec_no_memory(err);
        return RUNSPEC_APPEND(runspec->arena, rates, err, { device, (u64)rate });
}

int runspec_read_bps(struct runspec *runspec, const char *text, struct err **err)
{
        return add_rate(runspec, &runspec->config->resources.read_bps, "--device-read-bps", text, cli_parse_size, err);
}

int runspec_write_bps(struct runspec *runspec, const char *text, struct err **err)
{
        return add_rate(
                runspec, &runspec->config->resources.write_bps, "--device-write-bps", text, cli_parse_size, err);
}

int runspec_read_iops(struct runspec *runspec, const char *text, struct err **err)
{
        return add_rate(
                runspec, &runspec->config->resources.read_iops, "--device-read-iops", text, cli_parse_count, err);
}

int runspec_write_iops(struct runspec *runspec, const char *text, struct err **err)
{
        return add_rate(
                runspec, &runspec->config->resources.write_iops, "--device-write-iops", text, cli_parse_count, err);
}

/* --- life ---------------------------------------------------------------------------------------------------------- */

int runspec_restart_parse(const char *text, enum instance_restart *ret, s64 *ret_max, struct err **err)
{
        static const struct {
                const char *name;
                enum instance_restart policy;
        } policies[] = { { "no", INSTANCE_RESTART_NO }, { "", INSTANCE_RESTART_NO },
                { "always", INSTANCE_RESTART_ALWAYS }, { "unless-stopped", INSTANCE_RESTART_UNLESS_STOPPED },
                { "on-failure", INSTANCE_RESTART_ON_FAILURE } };
        static const char form[] = "no, always, unless-stopped or on-failure[:N]";
        const size_t len = strcspn(text, ":");
        s64 max = 0;

        for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
                if (strlen(policies[i].name) != len || strncmp(policies[i].name, text, len) != 0)
                        continue;
                if (text[len] && (policies[i].policy != INSTANCE_RESTART_ON_FAILURE ||
                                         cli_parse_count(&max, text + len + 1, NULL) < 0))
                        break;
                *ret = policies[i].policy;
                *ret_max = max;
                return 0;
        }
        return runspec_wrong(err, "--restart", text, form);
}

int runspec_restart(struct runspec *runspec, const char *text, struct err **err)
{
        enum instance_restart policy;
        s64 max;
        int r = runspec_restart_parse(text, &policy, &max, err);

        if (r < 0)
                return r;
        runspec->config->restart = policy;
        runspec->config->restart_max = max;
        return 0;
}

int runspec_log_option(struct runspec *runspec, const char *text, struct err **err)
{
        struct instance_log *log = &runspec->config->log;
        const char *value = strchr(text, '=');
        int r;

        if (value && strncmp(text, "max-size=", 9) == 0) {
                r = cli_parse_size(&log->max_size, value + 1, err);
        } else if (value && strncmp(text, "max-file=", 9) == 0) {
                r = cli_parse_count(&log->max_files, value + 1, err);
        } else {
                r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "'%s' is not an option of logs", text);
                r = err_hint(err, r, "there is: max-size=SIZE, max-file=N");
        }
        return r < 0 ? err_wrap(err, r, "--log-opt") : 0;
}

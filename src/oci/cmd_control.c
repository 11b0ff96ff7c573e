/* kill, delete, pause, resume, state, list, ps, events, features, spec: what looks at containers or ends them. */
#include <errno.h>
#include <fcntl.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci.h"

static const struct option_spec no_options[] = { { 0 } };

/* ---- one container, no options ---- */

static int on_container(const struct oci_command *command, struct oci *oci, int argc, char **argv,
        int (*act)(const struct box_runtime *runtime, const char *id, struct err **err), struct err **err)
{
        char **words, dummy;
        int n, r = oci_options(command, argc, argv, &dummy, 1, 1, &words, &n, err);

        return r ? MIN(r, 0) : act(&oci->runtime, words[0], err);
}

static int print_state(const struct box_runtime *runtime, const char *id, struct err **err)
{
        json_t *json;
        int r = box_state(runtime, id, &json, err);

        if (r < 0)
                return r;
        json_object_del(json, "owner");
        if (!json_object_get(json, "annotations"))
                json_object_set_new(json, "annotations", json_object());
        return oci_print_json(json, JSON_INDENT(2), err);
}

static int run_state(struct oci *oci, int argc, char **argv, struct err **err)
{
        return on_container(&oci_state, oci, argc, argv, print_state, err);
}

static int run_pause(struct oci *oci, int argc, char **argv, struct err **err)
{
        return on_container(&oci_pause, oci, argc, argv, box_pause, err);
}

static int run_resume(struct oci *oci, int argc, char **argv, struct err **err)
{
        return on_container(&oci_resume, oci, argc, argv, box_resume, err);
}

const struct oci_command oci_state = { "state", "CONTAINER", "print a container's state", run_state, no_options,
        false };
const struct oci_command oci_pause = { "pause", "CONTAINER", "freeze a container's processes", run_pause, no_options,
        false };
const struct oci_command oci_resume = { "resume", "CONTAINER", "let a paused container's processes go on", run_resume,
        no_options, false };

/* ---- by name or by pattern ---- */

/* Calls @act for every container whose id matches crun's --regex, an extended regular expression. */

static int for_matching(struct oci *oci, const char *pattern,
        int (*act)(struct oci *oci, const char *id, const void *arg, struct err **err), const void *arg,
        struct err **err)
{
        json_t *list, *state;
        regex_t regex;
        size_t i;
        int r;

        if (regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB) != 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a regular expression", pattern);
        r = box_list(&oci->runtime, &list, err);
        if (r == 0) {
                json_array_foreach(list, i, state)
                {
                        const char *id = json_string_value(json_object_get(state, "id"));

                        if (r == 0 && regexec(&regex, id, 0, NULL, 0) == 0)
                                r = act(oci, id, arg, err);
                }
                json_decref(list);
        }
        regfree(&regex);
        return r;
}

struct kill_options {
        bool all, regex;
        int signal;
};

static const struct option_spec kill_options[] = {
        OPTION(FLAG, struct kill_options, all, "all", 'a', "every process of the container"),
        OPTION(FLAG, struct kill_options, regex, "regex", 'r', "CONTAINER is a regular expression"),
        { 0 },
};

static int kill_one(struct oci *oci, const char *id, const void *arg, struct err **err)
{
        const struct kill_options *o = arg;

        return box_kill(&oci->runtime, id, o->signal, o->all, err);
}

static int run_kill(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct kill_options o = { 0 };
        char **words;
        int n, r = oci_options(&oci_kill, argc, argv, &o, 1, 2, &words, &n, err);

        if (r)
                return MIN(r, 0);
        o.signal = oci_signal(n > 1 ? words[1] + (words[1][0] == '-') : "TERM");
        if (o.signal < 0)
                return err_set(
                        err, ERR_USAGE, EINVAL, "'%s' is not a signal: unknown signal \"%s\"", words[1], words[1]);
        return o.regex ? for_matching(oci, words[0], kill_one, &o, err) : kill_one(oci, words[0], &o, err);
}

struct delete_options {
        bool force, regex;
};

static const struct option_spec delete_options[] = {
        OPTION(FLAG, struct delete_options, force, "force", 'f', "also when it runs (it is killed) or does not exist"),
        OPTION(FLAG, struct delete_options, regex, "regex", 'r', "CONTAINER is a regular expression"),
        { 0 },
};

static int delete_one(struct oci *oci, const char *id, const void *arg, struct err **err)
{
        const struct delete_options *o = arg;

        return box_delete(&oci->runtime, id, o->force, err);
}

static int run_delete(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct delete_options o = { 0 };
        char **words;
        int n, r = oci_options(&oci_delete, argc, argv, &o, 1, 1, &words, &n, err);

        if (r)
                return MIN(r, 0);
        return o.regex ? for_matching(oci, words[0], delete_one, &o, err) : delete_one(oci, words[0], &o, err);
}

const struct oci_command oci_kill = { "kill", "CONTAINER [SIGNAL]",
        "send a signal (default TERM) to a container's first process", run_kill, kill_options, false };
const struct oci_command oci_delete = { "delete", "CONTAINER", "remove a container that is stopped", run_delete,
        delete_options, false };

/* ---- list ---- */

struct list_options {
        const char *format;
        bool quiet, all;
};

static const struct option_spec list_options[] = {
        OPTION(STRING, struct list_options, format, "format", 'f', "table or json"),
        OPTION(FLAG, struct list_options, quiet, "quiet", 'q', "only ids"),
        OPTION(FLAG, struct list_options, all, "all", 'a', "accepted for crun's sake: all are always listed"),
        { 0 },
};

static const char *owner_name(const json_t *state, char number[16])
{
        const uid_t uid = (uid_t)json_integer_value(json_object_get(state, "owner"));

        /* A static program has no name service: only root has a name here. */
        snprintf(number, 16, uid ? "#%u" : "root", uid);
        return number;
}

static const char *text_of(const json_t *state, const char *key)
{
        const char *text = json_string_value(json_object_get(state, key));

        return text ? text : "";
}

static void print_table(const json_t *list)
{
        int id = 2, bundle = 6;
        json_t *s;
        size_t i;

        json_array_foreach(list, i, s)
        {
                id = MAX(id, (int)strlen(text_of(s, "id")));
                bundle = MAX(bundle, (int)strlen(text_of(s, "bundle")));
        }
        printf("%-*s   %-10s  %-8s    %-*s   %-30s   %s\n", id, "ID", "PID", "STATUS", bundle, "BUNDLE", "CREATED",
                "OWNER");
        json_array_foreach(list, i, s) printf("%-*s   %-10lld  %-8s    %-*s   %-30s   %s\n", id, text_of(s, "id"),
                (long long)json_integer_value(json_object_get(s, "pid")), text_of(s, "status"), bundle,
                text_of(s, "bundle"), text_of(s, "created"), text_of(s, "owner"));
}

static int run_list(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct list_options o = { 0 };
        char **words, owner[16];
        json_t *list, *s;
        size_t i;
        int n, r = oci_options(&oci_list, argc, argv, &o, 0, 0, &words, &n, err);

        if (r)
                return MIN(r, 0);
        if (o.format && strcmp(o.format, "table") != 0 && strcmp(o.format, "json") != 0)
                return err_set(err, ERR_USAGE, EINVAL, "--format: '%s' is none of table, json", o.format);
        r = box_list(&oci->runtime, &list, err);
        if (r < 0)
                return r;
        json_array_foreach(list, i, s)
        {
                if (o.quiet)
                        puts(text_of(s, "id"));
                json_object_set_new(s, "owner", json_string(owner_name(s, owner)));
        }
        if (o.quiet) {
                json_decref(list);
        } else if (o.format && strcmp(o.format, "json") == 0) {
                return oci_print_json(list, JSON_COMPACT, err);
        } else {
                print_table(list);
                json_decref(list);
        }
        return fflush(stdout) != 0 ? err_sys(err, errno, "printing") : 0;
}

const struct oci_command oci_list = { "list", "", "list containers", run_list, list_options, false };

/* ---- ps ---- */

struct ps_options {
        const char *format;
};

static const struct option_spec ps_options[] = {
        OPTION(STRING, struct ps_options, format, "format", 'f',
                "table (ps's own, with its options after CONTAINER) or json"),
        { 0 },
};

/* ps(1) over all processes; passes on the lines of ours. */
static int print_ps(char **options, const pid_t *pids, size_t n_pids, struct err **err)
{
        char *argv[64] = { "ps", "-ef" };
        _cleanup_free_ char *line = NULL;
        int pipe_fd[2], column = -1, status = 0;
        size_t room = 0;
        pid_t child;
        FILE *f;

        for (int i = 0; options[i] && i < 62; i++)
                argv[i + 1] = options[i];
        if (pipe2(pipe_fd, O_CLOEXEC) < 0)
                return err_sys(err, errno, "ps");
        child = fork();
        if (child == 0) {
                dup2(pipe_fd[1], 1);
                execvp("ps", argv);
                _exit(127);
        }
        close(pipe_fd[1]);
        f = fdopen(pipe_fd[0], "r");
        while (f && getline(&line, &room, f) > 0) {
                _cleanup_free_ char *copy = strdup(line);
                char *save = NULL;
                int at = 0;
                bool ours = column < 0;

                for (char *word = copy ? strtok_r(copy, " \t\n", &save) : NULL; word;
                        word = strtok_r(NULL, " \t\n", &save), at++) {
                        if (column < 0 && strcmp(word, "PID") == 0) {
                                column = at;
                                break;
                        }
                        for (size_t i = 0; !ours && at == column && i < n_pids; i++)
                                ours = atoi(word) == pids[i];
                }
                if (ours)
                        fputs(line, stdout);
        }
        if (f)
                fclose(f);
        waitpid(child, &status, 0);
        if (status || column < 0)
                return err_set(err, ERR_IO, EIO, "ps %s",
                        WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not installed" : "failed");
        return 0;
}

static int run_ps(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct ps_options o = { 0 };
        _cleanup_free_ pid_t *pids = NULL;
        size_t n_pids;
        char **words;
        int n, r = oci_options(&oci_ps, argc, argv, &o, 1, -1, &words, &n, err);

        if (r)
                return MIN(r, 0);
        if (o.format && strcmp(o.format, "table") != 0 && strcmp(o.format, "json") != 0)
                return err_set(err, ERR_USAGE, EINVAL, "--format: '%s': invalid format option", o.format);
        r = box_pids(&oci->runtime, words[0], &pids, &n_pids, err);
        if (r < 0)
                return r;
        if (!o.format || strcmp(o.format, "table") == 0)
                return print_ps(words + 1, pids, n_pids, err);
        {
                json_t *list = json_array();

                for (size_t i = 0; list && i < n_pids; i++)
                        json_array_append_new(list, json_integer(pids[i]));
                return oci_print_json(list, JSON_COMPACT, err);
        }
}

const struct oci_command oci_ps = { "ps", "CONTAINER [PS OPTION...]", "list a container's processes", run_ps,
        ps_options, true };

/* ---- events ---- */

struct events_options {
        const char *interval;
        bool stats;
};

static const struct option_spec events_options[] = {
        OPTION(STRING, struct events_options, interval, "interval", 0,
                "time between statistics: 5s, 500ms, 1m (default 5s)"),
        OPTION(FLAG, struct events_options, stats, "stats", 0, "print the statistics once"),
        { 0 },
};

static int parse_interval(const char *text, unsigned *ret_ms, struct err **err)
{
        static const struct {
                const char *unit;
                double ms;
        } units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };
        char *end;
        const double value = strtod(text, &end);

        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
                if (end != text && strcmp(end, units[i].unit) == 0 && value * units[i].ms >= 1 &&
                        value * units[i].ms < 1e9) {
                        *ret_ms = (unsigned)(value * units[i].ms);
                        return 0;
                }
        }
        return err_set(err, ERR_USAGE, EINVAL,
                "--interval: '%s' is not a duration (duration interval must be greater than 0)", text);
}

struct emitter {
        const char *id;
};

static int emit(const char *type, const json_t *data, void *arg)
{
        const struct emitter *e = arg;
        json_t *line = json_pack("{s:s, s:s}", "type", type, "id", e->id);
        int r;

        if (line && data)
                json_object_set(line, "data", (json_t *)data);
        r = line ? json_dumpf(line, stdout, JSON_COMPACT) : -1;
        json_decref(line);
        return r < 0 || putchar('\n') == EOF || fflush(stdout) != 0 ? -EIO : 0;
}

static int run_events(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct events_options o = { 0 };
        unsigned interval = 5000;
        struct emitter e;
        json_t *stats;
        char **words;
        int n, r = oci_options(&oci_events, argc, argv, &o, 1, 1, &words, &n, err);

        if (r == 0 && o.interval)
                r = parse_interval(o.interval, &interval, err);
        if (r)
                return MIN(r, 0);
        e.id = words[0];
        if (!o.stats)
                return box_events(&oci->runtime, words[0], interval, emit, &e, err);
        r = box_stats(&oci->runtime, words[0], &stats, err);
        if (r < 0)
                return r;
        r = emit("stats", stats, &e);
        json_decref(stats);
        return r;
}

const struct oci_command oci_events = { "events", "CONTAINER", "print out-of-memory events and statistics as they come",
        run_events, events_options, false };

/* ---- features, spec ---- */

static int run_features(struct oci *oci, int argc, char **argv, struct err **err)
{
        char **words, dummy;
        int n, r = oci_options(&oci_features, argc, argv, &dummy, 0, 0, &words, &n, err);

        (void)oci;
        return r ? MIN(r, 0) : oci_print_json(box_features(), JSON_INDENT(2), err);
}

struct spec_options {
        const char *bundle, *file;
        bool rootless;
};

static const struct option_spec spec_options[] = {
        OPTION(STRING, struct spec_options, bundle, "bundle", 'b', "the directory to write config.json to"),
        OPTION(STRING, struct spec_options, file, "file", 'f', "another name than config.json"),
        OPTION(FLAG, struct spec_options, rootless, "rootless", 0, "for a user without privileges"),
        { 0 },
};

static int run_spec(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct spec_options o = { 0 };
        _cleanup_fclose_ FILE *f = NULL;
        const char *name;
        char **words;
        json_t *json;
        int n, r = oci_options(&oci_spec, argc, argv, &o, 0, 0, &words, &n, err);

        (void)oci;
        if (r)
                return MIN(r, 0);
        name = o.file ? o.file : "config.json";
        if (o.bundle && chdir(o.bundle) < 0)
                return err_sys(err, errno, "entering '%s'", o.bundle);
        f = fopen(name, "wxe");
        if (!f && errno == EEXIST)
                return err_set(err, ERR_BUSY, EEXIST, "file %s exists. Remove it first", name);
        if (!f)
                return err_sys(err, errno, "making '%s'", name);
        json = box_spec_template(o.rootless);
        r = json ? json_dumpf(json, f, JSON_INDENT(4)) : -1;
        json_decref(json);
        return r < 0 || fputc('\n', f) == EOF || fflush(f) != 0
                       ? err_sys(err, errno ? errno : ENOMEM, "writing '%s'", name)
                       : 0;
}

const struct oci_command oci_features = { "features", "", "print what this runtime can do", run_features, no_options,
        false };
const struct oci_command oci_spec = { "spec", "", "write a config.json to start from", run_spec, spec_options, false };

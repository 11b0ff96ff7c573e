#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "oci.h"

#ifndef STRATA_VERSION
#define STRATA_VERSION "unknown"
#endif
#define SPEC_VERSION "1.2.0"

static const struct oci_command *const commands[] = {
#define COMMAND(name) &oci_##name,
        OCI_COMMAND_LIST(COMMAND)
#undef COMMAND
};

struct globals {
        bool debug, systemd_cgroup, version;
        const char *root, *log, *log_format, *criu, *rootless, *cgroup_manager, *log_level;
};

static const struct option_spec global_options[] = {
        OPTION(FLAG, struct globals, debug, "debug", 0, "say more"),
        OPTION(STRING, struct globals, log, "log", 0, "write errors and warnings to this file too"),
        OPTION(STRING, struct globals, log_format, "log-format", 0, "text or json"),
        OPTION(STRING, struct globals, log_level, "log-level", 0, "error, warning or debug"),
        OPTION(STRING, struct globals, root, "root", 0,
                "the directory that keeps containers (default /run/strata-oci, or in $XDG_RUNTIME_DIR)"),
        OPTION(STRING, struct globals, criu, "criu", 0, "the criu program for checkpoint and restore"),
        OPTION(FLAG, struct globals, systemd_cgroup, "systemd-cgroup", 0, "let systemd make control groups"),
        OPTION(STRING, struct globals, cgroup_manager, "cgroup-manager", 0, "cgroupfs, systemd or disabled"),
        OPTION(STRING, struct globals, rootless, "rootless", 0,
                "true, false or auto: do without control groups that cannot be made"),
        OPTION(FLAG, struct globals, version, "version", 'v', "print the version"),
        { 0 },
};

static void print_usage(void)
{
        printf("NAME:\n   %s - Open Container Initiative runtime\n\nUSAGE:\n   %s [global options] command [command options] [arguments...]\n\n"
               "VERSION:\n   " STRATA_VERSION "\n\nCOMMANDS:\n",
                program_invocation_short_name, program_invocation_short_name);
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
                printf("   %-12s %s\n", commands[i]->name, commands[i]->summary);
        printf("   %-12s %s\n\nGLOBAL OPTIONS:\n", "help", "this text");
        options_print(global_options);
}

static void print_version(void)
{
        printf("%s version " STRATA_VERSION "\ncommit: " STRATA_VERSION "\nspec: " SPEC_VERSION
               "\n+SYSTEMD +CGROUP +SECCOMP +APPARMOR +SELINUX +CAP +CRIU\n",
                program_invocation_short_name);
}

int oci_options(const struct oci_command *command, int argc, char **argv, void *out, int min_words, int max_words,
        char ***ret_words, int *ret_n, struct err **err)
{
        bool help = false;
        int first = 0,
            r = options_parse(command->name, command->options, command->in_order, argc, argv, out, &first, &help, err);

        if (r < 0)
                return r;
        if (help) {
                printf("NAME:\n   %s %s - %s\n\nUSAGE:\n   %s %s [command options] %s\n", program_invocation_short_name,
                        command->name, command->summary, program_invocation_short_name, command->name,
                        command->arguments);
                if (command->options->name) {
                        printf("\nOPTIONS:\n");
                        options_print(command->options);
                }
                return 1;
        }
        if (argc - first < min_words || (max_words >= 0 && argc - first > max_words)) {
                r = err_set(err, ERR_USAGE, EINVAL, "\"%s\" requires %s %d argument%s: %s", command->name,
                        max_words == min_words     ? "exactly"
                        : argc - first < min_words ? "a minimum of"
                                                   : "a maximum of",
                        argc - first < min_words ? min_words : max_words,
                        (argc - first < min_words ? min_words : max_words) == 1 ? "" : "s", command->arguments);
                return err_hint(err, r, "see 'strata-oci %s --help'", command->name);
        }
        *ret_words = argv + first;
        *ret_n = argc - first;
        return 0;
}

int oci_print_json(json_t *json, size_t flags, struct err **err)
{
        _cleanup_free_ char *text = json ? json_dumps(json, flags) : NULL;

        json_decref(json);
        if (!text)
                return err_sys(err, ENOMEM, "printing");
        return puts(text) < 0 || fflush(stdout) != 0 ? err_sys(err, errno, "printing") : 0;
}

int oci_signal(const char *text)
{
        char *end;
        const long number = strtol(text, &end, 10);

        if (end != text && !*end)
                return number >= 0 && number < NSIG ? (int)number : -1;
        if (strncasecmp(text, "SIG", 3) == 0)
                text += 3;
        for (int sig = 1; sig < NSIG; sig++) {
                const char *name = sigabbrev_np(sig);

                if (name && strcasecmp(name, text) == 0)
                        return sig;
        }
        if (strncasecmp(text, "RTMIN", 5) == 0 || strncasecmp(text, "RTMAX", 5) == 0) {
                const int base = strncasecmp(text, "RTMIN", 5) == 0 ? SIGRTMIN : SIGRTMAX;
                const long offset = strtol(text + 5, &end, 10);

                return !*end && base + offset >= SIGRTMIN && base + offset <= SIGRTMAX ? (int)(base + offset) : -1;
        }
        return -1;
}

/* A link named runc or crun makes it answer by that name: what tools that look at --version and --help expect. */

/* ---- errors: to stderr for people, to --log for engines, in the form that runc's have ---- */

/* One line as runc's logger writes it. */
static void write_line(const struct oci *oci, FILE *f, enum log_level level, const char *message)
{
        const bool is_json = oci->log_format && strcmp(oci->log_format, "json") == 0;
        const time_t now = time(NULL);
        char when[32];
        struct tm tm;
        json_t *json;

        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
        if (is_json) {
                json = json_pack("{s:s, s:s, s:s}", "level", log_level_name(level), "msg", message, "time", when);
        } else {
                fprintf(f, "time=\"%s\" level=%s msg=", when, log_level_name(level));
                json = json_string(message);
        }
        if (json)
                json_dumpf(json, f, JSON_COMPACT | JSON_ENCODE_ANY);
        json_decref(json);
        fputc('\n', f);
}

static void write_log(const struct oci *oci, enum log_level level, const char *message)
{
        _cleanup_fclose_ FILE *f = oci->log ? fopen(oci->log, "ae") : NULL;

        if (f)
                write_line(oci, f, level, message);
}

/* Warnings and debug messages: into the log where there is one, else where a person sees them. */
static void take_message(enum log_level level, const char *text, void *arg)
{
        const struct oci *oci = arg;

        if (oci->log)
                write_log(oci, level, text);
        else if (level == LOG_LEVEL_DEBUG)
                write_line(oci, stderr, level, text);
        else
                fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, log_level_name(level), text);
}

static int report(const struct oci *oci, struct err *err, int status)
{
        write_log(oci, LOG_LEVEL_ERROR, err_message(err));
        err_print(err, program_invocation_short_name);
        err_free(err);
        return status ? status : 1;
}

/* ---- global options ---- */

static int choose_driver(const struct globals *g, enum cgroup_driver *ret, struct err **err)
{
        static const struct {
                const char *name;
                enum cgroup_driver driver;
        } drivers[] = { { "cgroupfs", CGROUP_DRIVER_CGROUPFS }, { "systemd", CGROUP_DRIVER_SYSTEMD },
                { "disabled", CGROUP_DRIVER_NONE } };

        *ret = g->systemd_cgroup ? CGROUP_DRIVER_SYSTEMD : CGROUP_DRIVER_CGROUPFS;
        if (!g->cgroup_manager)
                return 0;
        for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
                if (strcmp(g->cgroup_manager, drivers[i].name) == 0) {
                        *ret = drivers[i].driver;
                        return 0;
                }
        }
        return err_set(err, ERR_USAGE, EINVAL, "--cgroup-manager: '%s' is none of cgroupfs, systemd, disabled",
                g->cgroup_manager);
}

static int choose_rootless(const struct globals *g, bool *ret, struct err **err)
{
        if (!g->rootless || strcmp(g->rootless, "auto") == 0)
                *ret = geteuid() != 0;
        else if (strcmp(g->rootless, "true") == 0 || strcmp(g->rootless, "false") == 0)
                *ret = g->rootless[0] == 't';
        else
                return err_set(err, ERR_USAGE, EINVAL, "--rootless: '%s' is none of true, false, auto", g->rootless);
        return 0;
}

static int set_up(struct oci *oci, const struct globals *g, char **ret_root, struct err **err)
{
        int r = choose_driver(g, &oci->runtime.cgroup_driver, err);

        if (r == 0)
                r = choose_rootless(g, &oci->runtime.rootless, err);
        if (r < 0)
                return r;
        if (g->log_format && strcmp(g->log_format, "text") != 0 && strcmp(g->log_format, "json") != 0)
                return err_set(err, ERR_USAGE, EINVAL, "--log-format: '%s' is none of text, json", g->log_format);
        oci->log = g->log;
        oci->log_format = g->log_format;
        oci->debug = g->debug;
        if (oci->log) {
                const size_t type = strspn(oci->log, "abcdefghijklmnopqrstuvwxyz");

                /* crun's way to name a file, a journal or a syslog. */
                if (strncmp(oci->log, "file:", 5) == 0)
                        oci->log += 5;
                else if (type && oci->log[type] == ':')
                        return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "--log: '%s': only files are supported", g->log);
        }
        log_set_sink(take_message, oci);
        if (g->debug)
                log_set_level(LOG_LEVEL_DEBUG);
        oci->runtime.criu = g->criu;
        *ret_root = g->root ? strdup(g->root) : box_default_root("strata-oci");
        oci->runtime.root = *ret_root;
        return *ret_root ? 0 : err_sys(err, ENOMEM, "starting");
}

static const struct oci_command *find_command(const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
                if (strcmp(commands[i]->name, name) == 0)
                        return commands[i];
        return NULL;
}

static int dispatch(struct oci *oci, int argc, char **argv, struct err **err)
{
        const struct oci_command *command = argc ? find_command(argv[0]) : NULL;
        int r;

        if (!argc || strcmp(argv[0], "help") == 0) {
                print_usage();
                return 0;
        }
        if (strcmp(argv[0], "version") == 0) {
                print_version();
                return 0;
        }
        if (command)
                return command->run(oci, argc, argv, err);
        r = err_set(err, ERR_USAGE, EINVAL, "'%s' is not a command: No help topic for '%s'", argv[0], argv[0]);
        return err_hint(err, r, "see 'strata-oci --help'");
}

int main(int argc, char **argv)
{
        struct oci oci = { .program = argv[0] };
        struct globals globals = { 0 };
        _cleanup_free_ char *root = NULL;
        struct err *err = NULL;
        bool help = false;
        int first = 1, r;

        if (argc < 1)
                return 1;
        r = options_parse("strata-oci", global_options, true, argc, argv, &globals, &first, &help, &err);
        if (r == 0 && (help || globals.version)) {
                if (help)
                        print_usage();
                else
                        print_version();
                return 0;
        }
        if (r == 0)
                r = set_up(&oci, &globals, &root, &err);
        if (r == 0)
                r = dispatch(&oci, argc - first, argv + first, &err);
        return r < 0 ? report(&oci, err, oci.error_status) : r;
}

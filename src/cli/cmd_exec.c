/* `strata exec` and `strata top`: what runs inside. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "container_cli.h"
#include "run_options.h"
#include "runspec.h"

/* --- exec ---------------------------------------------------------------------------------------------------------- */

struct exec {
        struct instance_exec exec;
        struct cli_words env, env_files;
};

#define EXEC(member) offsetof(struct exec, exec.member)

static const struct cli_option exec_options[] = {
        CLI_OPTION("detach", 'd', FLAG, EXEC(detach), NULL, "do not wait for it"),
        CLI_OPTION("interactive", 'i', FLAG, EXEC(open_stdin), NULL, "give it standard input"),
        CLI_OPTION("tty", 't', FLAG, EXEC(tty), NULL, "give it a terminal"),
        CLI_OPTION("env", 'e', LIST, offsetof(struct exec, env), "NAME[=VALUE]", "a variable of the environment"),
        CLI_OPTION("env-file", 0, LIST, offsetof(struct exec, env_files), "FILE", "variables, one a line"),
        CLI_OPTION("user", 'u', TEXT, EXEC(user), "USER[:GROUP]", "names or numbers"),
        CLI_OPTION("workdir", 'w', TEXT, EXEC(working_dir), "DIR", "where it starts"),
        CLI_OPTION("privileged", 0, FLAG, EXEC(privileged), NULL, "with all rights"),
        CLI_PARSED("detach-keys", 0, EXEC(detach_keys), "KEYS", "leave it running with these (default: ctrl-p,ctrl-q)",
                cli_parse_keys),
        { 0 },
};

static int read_env(const struct exec *exec, struct arena *arena, struct instance_strings *env, struct err **err)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < exec->env_files.n; i++)
                r = runspec_env_file_add(arena, env, exec->env_files.item[i], err);
        for (size_t i = 0; r == 0 && i < exec->env.n; i++)
                r = runspec_env_add(arena, env, exec->env.item[i], err);
        return r < 0 ? r : runspec_strings_add(arena, env, NULL, err);
}

static int exec_run(struct exec *exec, int argc, char **argv, struct arena *arena, int *ret_status, struct err **err)
{
        const struct cli_usage usage = { "strata exec", "[OPTION...] CONTAINER COMMAND [ARGUMENT...]",
                "Run one more process in a running container. The exit status is its own;\n"
                "126: it cannot be executed, 127: it does not exist.",
                CLI_OPTIONS(exec_options), 2, -1, true };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        struct instance_strings env = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, exec, &first, err);

        if (r > 0) {
                *ret_status = 0;
                return 0;
        }
        if (r == 0)
                r = read_env(exec, arena, &env, err);
        if (r == 0 && !exec->exec.detach)
                r = run_check_terminal(exec->exec.tty, exec->exec.open_stdin ? INSTANCE_ATTACH_STDIN : 0, err);
        if (r == 0)
                r = container_open(argv[first], &host, &inst, err);
        if (r < 0)
                return r;
        exec->exec.argv = (const char *const *)argv + first + 1;
        exec->exec.env = env.item;
        return instance_exec(inst, &exec->exec, ret_status, err);
}

int container_exec_command(int argc, char **argv, struct err **err)
{
        struct exec exec = { 0 };
        struct arena arena = { 0 };
        int status = 0, r = exec_run(&exec, argc, argv, &arena, &status, err);

        cli_words_clear(&exec.env);
        cli_words_clear(&exec.env_files);
        arena_release(&arena);
        return r < 0 ? container_exec_failed(r, err) : status;
}

/* --- top ----------------------------------------------------------------------------------------------------------- */

static json_t *process_row(const struct instance_process *process)
{
        const time_t started = process->started_ns / 1000000000;
        const s64 cpu = (s64)(process->cpu_ns / 1000000000);
        char pid[16], ppid[16], start[16], used[24];
        struct tm tm;

        snprintf(pid, sizeof(pid), "%d", process->pid);
        snprintf(ppid, sizeof(ppid), "%d", process->ppid);
        strftime(start, sizeof(start), "%H:%M", localtime_r(&started, &tm));
        snprintf(used, sizeof(used), "%02lld:%02lld:%02lld", (long long)cpu / 3600, (long long)cpu / 60 % 60,
                (long long)cpu % 60);
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "UID", process->user, "PID", pid, "PPID", ppid, "STIME",
                start, "TTY", process->tty, "TIME", used, "CMD", process->command);
}

int container_top_command(int argc, char **argv, struct err **err)
{
        static const struct listing_column columns[] = { { "UID", "UID", false }, { "PID", "PID", false },
                { "PPID", "PPID", false }, { "STIME", "STIME", false }, { "TTY", "TTY", false },
                { "TIME", "TIME", false }, { "CMD", "CMD", false }, { 0 } };
        struct listing listing = { .columns = columns };
        static const struct cli_option options[] = { CLI_OPTION("format", 0, TEXT, offsetof(struct listing, format),
                                                             "FORMAT", "table, json or a template"),
                { 0 } };
        const struct cli_usage usage = { "strata top", "[OPTION...] CONTAINER",
                "List the processes of a container, as the host numbers them.", CLI_OPTIONS(options), 1, 1, false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_json_ json_t *rows = json_array();
        const struct instance_processes *processes;
        int first, r = cli_options_parse(&usage, argc, argv, &listing, &first, err);

        if (r == 0)
                r = listing_check(&listing, err);
        if (r != 0)
                return MIN(r, 0);
        r = container_open(argv[first], &host, &inst, err);
        if (r == 0)
                r = instance_top(inst, &processes, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < processes->n; i++)
                json_array_append_new(rows, process_row(&processes->item[i]));
        return listing_print(&listing, rows, stdout, err);
}

/* `strata stop`, `restart`, `kill`, `rm`, `pause`, `unpause`, `wait`, `rename` and `update`: what is done to containers. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "container_cli.h"
#include "run_options.h"
#include "runspec.h"

/* --- stop, restart ------------------------------------------------------------------------------------------------- */

#define TIMEOUT_OWN   (-1) /* of the instance */
#define TIMEOUT_NEVER (-2)

struct stop {
        s64 timeout; /* CLI_UNSET: the container's own */
        int signal;  /* 0: the container's own */
        int (*fn)(struct instance *inst, int signal, int timeout_s, struct err **err);
};

static int stop_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        const struct stop *stop = opaque;

        const int timeout = stop->timeout == CLI_UNSET ? TIMEOUT_OWN
                            : stop->timeout < 0        ? TIMEOUT_NEVER
                                                       : (int)MIN(stop->timeout, (s64)INT32_MAX);

        return stop->fn(inst, stop->signal, timeout, err);
}

static int stop_command(
        const char *command, const char *summary, struct stop *stop, int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_PARSED("time", 't', offsetof(struct stop, timeout), "SECONDS",
                        "then it is killed; -1: never (default: its own, or 10)", cli_parse_number),
                CLI_PARSED("timeout", 0, offsetof(struct stop, timeout), "SECONDS", "the same", cli_parse_number),
                CLI_PARSED("signal", 's', offsetof(struct stop, signal), "SIGNAL",
                        "a name or a number (default: its own, or TERM)", cli_parse_signal),
                { 0 },
        };
        const struct cli_usage usage = { command, "[OPTION...] CONTAINER...", summary, CLI_OPTIONS(options), 1, -1,
                false };
        int first, r = cli_options_parse(&usage, argc, argv, stop, &first, err);

        return r != 0 ? MIN(r, 0) : container_each(argv + first, stop_one, stop, 0, err);
}

int container_stop_command(int argc, char **argv, struct err **err)
{
        struct stop stop = { CLI_UNSET, 0, instance_stop };

        return stop_command(
                "strata stop", "Ask containers to end, and kill those that do not.", &stop, argc, argv, err);
}

int container_restart_command(int argc, char **argv, struct err **err)
{
        struct stop stop = { CLI_UNSET, 0, instance_restart };

        return stop_command("strata restart", "Stop containers and start them again.", &stop, argc, argv, err);
}

/* --- kill ---------------------------------------------------------------------------------------------------------- */

static int kill_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        return instance_kill(inst, *(const int *)opaque, err);
}

int container_kill_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_PARSED("signal", 's', 0, "SIGNAL", "a name or a number (default: KILL)", cli_parse_signal), { 0 }
        };
        const struct cli_usage usage = { "strata kill", "[OPTION...] CONTAINER...",
                "Send a signal to the first process of running containers.", CLI_OPTIONS(options), 1, -1, false };
        int signal = SIGKILL, first, r = cli_options_parse(&usage, argc, argv, &signal, &first, err);

        return r != 0 ? MIN(r, 0) : container_each(argv + first, kill_one, &signal, 0, err);
}

/* --- rm ------------------------------------------------------------------------------------------------------------ */

struct rm {
        bool force, volumes;
};

static int rm_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        const struct rm *rm = opaque;

        return instance_remove(
                inst, (rm->force ? INSTANCE_REMOVE_FORCE : 0) | (rm->volumes ? INSTANCE_REMOVE_VOLUMES : 0), err);
}

int container_rm_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("force", 'f', FLAG, offsetof(struct rm, force), NULL,
                        "kill those that run; missing ones are fine"),
                CLI_OPTION("volumes", 'v', FLAG, offsetof(struct rm, volumes), NULL, "their anonymous volumes too"),
                CLI_OPTION("link", 0, REFUSED, 0, NULL, "there are no links"),
                { 0 },
        };
        const struct cli_usage usage = { "strata rm", "[OPTION...] CONTAINER...",
                "Remove containers, with everything that they wrote.", CLI_OPTIONS(options), 1, -1, false };
        struct rm rm = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, &rm, &first, err);

        if (r != 0)
                return MIN(r, 0);
        return container_each(argv + first, rm_one, &rm, rm.force ? CONTAINER_MISSING_IS_FINE : 0, err);
}

/* --- pause, unpause, wait ------------------------------------------------------------------------------------------ */

/* A command of which names are all that is given. */
static int simple_command(const char *command, const char *summary, container_fn *fn, unsigned flags, int argc,
        char **argv, struct err **err)
{
        const struct cli_usage usage = { command, "CONTAINER...", summary, NULL, 1, -1, false };
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        return r != 0 ? MIN(r, 0) : container_each(argv + first, fn, NULL, flags, err);
}

static int pause_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        return instance_pause(inst, err);
}

int container_pause_command(int argc, char **argv, struct err **err)
{
        return simple_command(
                "strata pause", "Stop the clock of all processes of containers.", pause_one, 0, argc, argv, err);
}

static int unpause_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        return instance_unpause(inst, err);
}

int container_unpause_command(int argc, char **argv, struct err **err)
{
        return simple_command("strata unpause", "Let paused containers go on.", unpause_one, 0, argc, argv, err);
}

static int wait_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        int status, r = instance_wait(inst, INSTANCE_WAIT_NOT_RUNNING, &status, err);

        if (r < 0)
                return r;
        printf("%d\n", status);
        fflush(stdout);
        return 0;
}

int container_wait_command(int argc, char **argv, struct err **err)
{
        return simple_command("strata wait", "Wait until containers have ended, and print their exit statuses.",
                wait_one, CONTAINER_QUIET, argc, argv, err);
}

/* --- rename -------------------------------------------------------------------------------------------------------- */

int container_rename_command(int argc, char **argv, struct err **err)
{
        const struct cli_usage usage = { "strata rename", "CONTAINER NAME", "Give a container another name.", NULL, 2,
                2, false };
        _cleanup_(container_choice_clear) struct container_choice chosen = { 0 };
        int r = container_choose(&usage, argc, argv, NULL, &chosen, err);

        return r != 0 ? MIN(r, 0) : instance_rename(chosen.inst, chosen.words[1], err);
}

/* --- update -------------------------------------------------------------------------------------------------------- */

struct update {
        struct instance_update update;
        const char *restart;
};

static int update_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        return instance_update(inst, opaque, err);
}

int container_update_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option own_options[] = {
                CLI_OPTION("restart", 0, TEXT, offsetof(struct update, restart), "POLICY",
                        "no, always, unless-stopped, on-failure[:N]"),
                { 0 },
        };
        const struct cli_option_group groups[] = {
                { "options", own_options, 0 },
                { "limits", run_resource_options, offsetof(struct update, update.resources) },
                { 0 },
        };
        const struct cli_usage usage = { "strata update", "[OPTION...] CONTAINER...",
                "Change what containers may use, also while they run. What is not given stays.", groups, 1, -1, false };
        struct update update = { .update.resources.memory_swappiness = -1 };
        int first, r = cli_options_parse(&usage, argc, argv, &update, &first, err);

        if (r == 0 && update.restart) {
                update.update.set_restart = true;
                r = runspec_restart_parse(update.restart, &update.update.restart, &update.update.restart_max, err);
        }
        return r != 0 ? MIN(r, 0) : container_each(argv + first, update_one, &update.update, 0, err);
}

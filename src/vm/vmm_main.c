/* strata-vmm: one process, one machine. `strata vm run ...` executes it as `strata-vmm run ...`. */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "control.h"
#include "gdb.h"
#include "options.h"
#include "terminal.h"

#define PROGRAM "strata-vmm"

/* A VMM has few small objects and some large short-lived ones: one arena, and what is large goes back to the host
 * when freed. */
static void keep_memory_small(void)
{
        mallopt(M_ARENA_MAX, 1);
        mallopt(M_MMAP_THRESHOLD, 128 * 1024);
        mallopt(M_TRIM_THRESHOLD, 128 * 1024);
}

static int open_output(const char *path, const char *what, FILE **ret, struct err **err)
{
        if (strcmp(path, "-") == 0) {
                *ret = stderr;
                return 0;
        }
        *ret = fopen(path, "we");
        return *ret ? 0 : err_sys(err, errno, "opening the %s file '%s'", what, path);
}

static void close_output(FILE **file)
{
        if (*file && *file != stderr)
                fclose(*file);
}

static int status_of(struct vm *vm, const struct vm_outcome *outcome)
{
        int status;

        /* When the machine ends, so does its main process. */
        if (vm_agent(vm) && agent_exit_status(vm_agent(vm), &status))
                return status;
        if (vm_agent(vm) && outcome->why != MACHINE_CRASH)
                return 128 + SIGKILL;
        switch (outcome->why) {
        case MACHINE_DEBUG_EXIT:
                return (int)((outcome->code << 1 | 1) & 0xff);
        case MACHINE_CRASH:
                err_print(outcome->error, PROGRAM);
                return outcome->error ? err_exit_status(outcome->error) : 125;
        default:
                return 0;
        }
}

static int run_machine(const struct vmm_options *o, int *ret_status, struct err **err)
{
        _cleanup_(jail_freep) struct jail *jail = NULL; /* the last to go: sockets of the machine's are in its care */
        _cleanup_(vm_freep) struct vm *vm = NULL;
        _cleanup_(close_output) FILE *stats = NULL;
        _cleanup_(close_output) FILE *trace_out = NULL;
        struct vm_config config = o->vm;
        struct gdb_server *gdb = NULL;
        struct vm_outcome outcome;
        sigset_t signals;
        int r;

        control_block_signals(o->vm.agent.socket, &signals);
        r = jail_new(o->jail, &jail, err);
        if (r < 0)
                return r;
        if (o->gdb_port) {
                r = gdb_server_new(o->gdb_port, &gdb, err);
                if (r < 0)
                        return r;
                jail_need(jail, JAIL_SOCKETS);
        }
        config.jail = jail;
        r = vm_new(&config, &vm, err);
        if (r == 0 && o->stats)
                r = open_output(o->stats, "statistics", &stats, err);
        if (r == 0 && o->trace_file)
                r = open_output(o->trace_file, "trace", &trace_out, err);
        if (r == 0 && trace_out)
                trace_set_output(trace_out);
        if (r == 0)
                r = jail_enter(jail, err);
        if (r == 0)
                r = vm_start(vm, err);
        if (r == 0 && gdb)
                r = gdb_server_start(gdb, vm, err);
        if (r == 0)
                vm_prefault(vm);
        if (r == 0)
                r = control_run(vm, &signals, o->vm.console == VM_CONSOLE_STDIO, stats, err);
        if (r < 0 && vm && vm_agent(vm))
                agent_not_started(vm_agent(vm), err && *err ? err_message(*err) : "the machine could not be started");
        if (vm) {
                vm_stop(vm, MACHINE_POWER_OFF, 0);
                vm_join(vm, &outcome);
        }
        gdb_server_free(gdb);
        if (r < 0)
                return r;
        if (stats)
                vm_print_stats(vm, stats);
        trace_set_output(NULL);
        vm_flush_console(vm);
        if (vm_agent(vm))
                agent_finish(vm_agent(vm));
        terminal_restore();
        *ret_status = status_of(vm, &outcome);
        return 0;
}

static int run(int argc, char *argv[], struct vmm_options *o, int *ret_status, struct err **err)
{
        int r;

        r = options_parse(argc, argv, o, err);
        if (r < 0)
                return r;
        *ret_status = 0;
        if (o->help) {
                options_print_help(stdout);
                return 0;
        }
        if (o->trace && strcmp(o->trace, "help") == 0) {
                trace_print_categories(stdout);
                return 0;
        }
        if (o->trace) {
                r = trace_enable(o->trace, err);
                if (r < 0)
                        return r;
        }
        return run_machine(o, ret_status, err);
}

/* Who started us for others, and does not see our standard error, hears why there is no machine: unless the agent has said it (then its
 * pipe is closed). */
static void tell_launcher(const struct vmm_options *o, const char *why)
{
        const int fd = o->vm.agent.socket ? o->vm.agent.ready_fd : -1;
        struct stat st;

        if (fd >= 0 && fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
                dprintf(fd, "error: %s\n", why);
}

int main(int argc, char *argv[])
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct vmm_options options;
        int status = 0, skip = 1;

        keep_memory_small();
        terminal_catch_crashes();
        if (argc > 1 && strcmp(argv[1], "run") == 0)
                skip = 2;
        if (argc < 1)
                skip = 0;
        if (run(argc - skip, argv + skip, &options, &status, &err) < 0) {
                terminal_restore();
                err_print(err, PROGRAM);
                tell_launcher(&options, err ? err_message(err) : "the machine could not be started");
                status = err ? err_exit_status(err) : 125;
        }
        options_free(&options);
        return status;
}

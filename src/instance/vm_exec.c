/* Inside a machine that runs: further processes, what it uses, what runs there. All by the agent in strata-vmm, which speaks for
 * strata-init. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>

#include "net/net.h"
#include "network.h"
#include "stats.h"
#include "term_mode.h"
#include "vm.h"

#define ANSWER_MS 5000 /* of a guest that may be stuck */

int vm_connect(const struct instance *inst, struct init_client **ret, struct err **err)
{
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/fd/%d/" VM_AGENT, inst->dir);
        return init_client_connect(path, ret, err);
}

/* --- processes -------------------------------------------------------------------------------------------------- */

static int start(struct instance *inst, const json_t *process, u32 flags, struct init_client **ret, struct err **err)
{
        _cleanup_(spec_freep) struct spec *spec = NULL;
        struct init_process wanted;
        struct init_client *client = NULL;
        struct winsize size;
        u32 pid;
        int r = vm_process_parse(process, flags | INIT_START_INSIDE, &spec, &wanted, err);

        if (r == 0 && wanted.flags & INIT_START_TTY && ioctl(0, TIOCGWINSZ, &size) == 0) {
                wanted.columns = size.ws_col;
                wanted.rows = size.ws_row;
        }
        if (r == 0)
                r = vm_connect(inst, &client, err);
        if (r == 0)
                r = init_client_start(client, &wanted, &pid, err);
        if (r < 0) {
                init_client_free(client);
                return r;
        }
        *ret = client;
        return 0;
}

/* The user's terminal is raw while the process has one of its own; without one signals that come to us are its. */
static int relay(struct init_client *client, const struct instance_exec *exec, int *ret_status, struct err **err)
{
        static const int forwarded[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
        _cleanup_(term_restore) struct term_mode mode = { .fd = -1 };
        struct init_relay options = { .in = exec->open_stdin ? 0 : -1, .out = 1, .err = 2, .tty = exec->tty ? 0 : -1 };
        sigset_t set, before;
        int r;

        sigemptyset(&set);
        sigaddset(&set, SIGWINCH);
        for (size_t i = 0; !exec->tty && i < ARRAY_SIZE(forwarded); i++)
                sigaddset(&set, forwarded[i]);
        sigprocmask(SIG_BLOCK, &set, &before);
        signal(SIGPIPE, SIG_IGN);
        options.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (exec->tty && exec->open_stdin)
                term_raw(0, &mode);
        r = init_client_relay(client, &options, ret_status, err);
        closep(&options.signals);
        sigprocmask(SIG_SETMASK, &before, NULL);
        return r;
}

int vm_exec(struct instance *inst, const struct instance_exec *exec, const json_t *process, int *ret_status,
        struct err **err)
{
        struct init_client *client = NULL;
        int r = start(inst, process, exec->open_stdin && !exec->detach ? INIT_START_STDIN : 0, &client, err);

        *ret_status = 0;
        if (r == 0 && !exec->detach)
                r = relay(client, exec, ret_status, err);
        init_client_free(client);
        return r;
}

/* --- in the background ------------------------------------------------------------------------------------------ */

/* vm_unspawn's signal as the relay reads signals: this one goes to the process in the guest. */
static int killer = -1;

static void on_unspawn(int signal)
{
        const struct signalfd_siginfo info = { .ssi_signo = SIGKILL };

        (void)signal;
        if (write(killer, &info, sizeof(info)) < 0)
                _exit(128 + SIGKILL);
}

static _noreturn_ void spawned(struct init_client *client, int output, const int signals[2])
{
        const struct init_relay options = { .in = -1, .out = output, .err = output, .tty = -1, .signals = signals[0] };
        int status = 125;

        init_client_relay(client, &options, &status, NULL);
        _exit(status);
}

int vm_spawn(struct instance *inst, const json_t *process, int output, pid_t *ret, struct err **err)
{
        const struct sigaction unspawn = { .sa_handler = on_unspawn, .sa_flags = SA_RESTART };
        struct init_client *client = NULL;
        int signals[2], r = start(inst, process, 0, &client, err);
        pid_t pid;

        if (r < 0)
                return r;
        if (pipe2(signals, O_CLOEXEC | O_NONBLOCK) < 0) {
                init_client_free(client);
                return err_sys(err, errno, "exec");
        }
        killer = signals[1];
        sigaction(SIGTERM, &unspawn, NULL); /* before the fork: the child has it from its beginning */
        pid = fork();
        if (pid == 0)
                spawned(client, output, signals);
        signal(SIGTERM, SIG_DFL);
        close(signals[0]);
        close(signals[1]);
        init_client_free(client);
        if (pid < 0)
                return err_sys(err, errno, "exec");
        *ret = pid;
        return 0;
}

void vm_unspawn(pid_t pid)
{
        kill(pid, SIGTERM);
}

/* --- looking ---------------------------------------------------------------------------------------------------- */

static int connect_briefly(const struct instance *inst, struct init_client **ret, struct err **err)
{
        int r = vm_connect(inst, ret, err);

        if (r == 0)
                init_client_set_timeout(*ret, ANSWER_MS);
        return r;
}

/* A tap's counters: what the host sends the guest receives. */
static void read_interface(const char *name, struct instance_stats *ret)
{
        const struct {
                const char *file;
                u64 *to;
        } counters[] = {
                { "tx_bytes", &ret->net_rx },
                { "rx_bytes", &ret->net_tx },
                { "tx_packets", &ret->net_rx_packets },
                { "rx_packets", &ret->net_tx_packets },
        };

        for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
                _cleanup_free_ char *path = NULL, *text = NULL;

                if (asprintf(&path, "/sys/class/net/%s/statistics/%s", name, counters[i].file) > 0 &&
                        io_read_file(AT_FDCWD, path, 64, &text, NULL, NULL) == 0)
                        *counters[i].to += strtoull(text, NULL, 10);
        }
}

static int read_endpoint(void *opaque, const struct net_endpoint *endpoint)
{
        const char *name = endpoint->attachment->host_ifname;

        if (name && name[0] && !strchr(name, '/'))
                read_interface(name, opaque);
        return 0;
}

static void read_networks(const struct instance *inst, struct instance_stats *ret)
{
        _cleanup_(net_store_closep) struct net_store *store = NULL;

        if (network_open_store(inst->host, &store, NULL) == 0)
                net_endpoint_list(store, NULL, inst->id, read_endpoint, ret, NULL);
}

int vm_stats(struct instance *inst, pid_t pid, struct instance_stats *ret, struct err **err)
{
        _cleanup_(vm_machine_release) struct vm_machine machine = { 0 };
        struct init_client *client = NULL;
        struct init_stats inside = { 0 };
        json_t *groups = NULL;
        int r = vm_machine_load(inst, &machine, err);

        (void)pid;
        if (r == 0 && machine.cgroup)
                r = cgroup_stats(machine.cgroup, &groups, err);
        if (r < 0)
                return r;
        /* Time and memory are what the machine costs the host; its processes only the guest can count. */
        stats_of_groups(groups, ret);
        json_decref(groups);
        ret->memory_limit = vm_memory_of(&inst->config);
        ret->pids = ret->pids_limit = 0;
        if (connect_briefly(inst, &client, NULL) == 0 && init_client_stats(client, &inside, NULL) == 0)
                ret->pids = inside.processes;
        init_client_free(client);
        read_networks(inst, ret);
        return 0;
}

int vm_top(struct instance *inst, struct instance_processes *ret, struct err **err)
{
        struct init_client *client = NULL;
        const struct init_process_info *info;
        struct arena *arena = &inst->top_arena;
        struct instance_process *item;
        size_t n = 0;
        int r = connect_briefly(inst, &client, err);

        if (r == 0)
                r = init_client_processes(client, &info, &n, err);
        item = r == 0 ? arena_new(arena, struct instance_process, n + 1) : NULL;
        for (size_t i = 0; item && i < n; i++) {
                const struct passwd *pw = getpwuid(info[i].uid);

                item[i] = (struct instance_process){ .pid = (pid_t)info[i].pid,
                        .ppid = (pid_t)info[i].ppid,
                        .uid = info[i].uid,
                        .user = pw ? arena_strdup(arena, pw->pw_name) : arena_printf(arena, "%u", info[i].uid),
                        .tty = arena_strdup(arena, info[i].tty),
                        .started_ns = (s64)info[i].started_ns,
                        .cpu_ns = info[i].cpu_ns,
                        .command = arena_strdup(arena, info[i].command) };
                if (!item[i].user || !item[i].tty || !item[i].command)
                        item = NULL;
        }
        init_client_free(client);
        if (r < 0)
                return r;
        if (!item)
                return err_sys(err, ENOMEM, "listing processes");
        *ret = (struct instance_processes){ item, n };
        return 0;
}

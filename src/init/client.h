/* The host's side of a running machine: a connection to the agent inside its strata-vmm (--agent socket=PATH), which passes on to
 * strata-init what a client may ask.
 *
 *         struct init_client *client;
 *         r = init_client_connect(path, &client, err);
 *         r = init_client_start(client, &process, &pid, err);               // ERR_NO_COMMAND, ERR_NOT_EXECUTABLE as a shell says
 *         r = init_client_relay(client, &(struct init_relay){ .in = 0, .out = 1, .err = 2, ... }, &status, err);
 *         client = init_client_free(client);
 *
 * A client has one process at a time. When it goes away, its process stays and what that prints is thrown away.
 * Everything waits for the guest, which may be stuck or lie: who cannot wait for ever sets a timeout. One thread. */
#pragma once

#include "init/script.h"

struct init_client;

/* ERR_BUSY: nobody listens at @path (the machine is gone). What is asked of a machine whose main process has not been started yet waits
 * for that. */
int init_client_connect(const char *path, struct init_client **ret, struct err **err);
/* From then on an answer that takes longer is an error (-ETIMEDOUT); 0, as at first: no limit. Not for a process that runs. */
void init_client_set_timeout(struct init_client *client, u64 ms);
/* NULL is fine. Returns NULL. */
struct init_client *init_client_free(struct init_client *client);

/* Starts a process. Its output waits for init_client_relay. */
int init_client_start(struct init_client *client, const struct init_process *process, u32 *ret_pid, struct err **err);

/* Between a process and descriptors of the caller's. Terminals, pipes, sockets and files will do; their flags are not changed. */
struct init_relay {
        int in, out, err; /* -1: none. in: nothing is sent, and the process was started without INIT_START_STDIN. out, err: thrown away */
        int tty;          /* where the terminal's size is asked for; -1: none. Its mode is the caller's affair */
        int signals;      /* a signalfd that does not block: SIGWINCH asks for the size again, others go to the process; -1: none */
        /* Sees what was read from @in, in place, and says how much of it is to be sent; -1: leave the process alone and
         * return (-EINTR, without an error). NULL: all of it. */
        int (*filter)(void *opaque, u8 *data, size_t n);
        void *opaque;
};

/* Until the process ended: @ret_status is its exit status, or 128 and the signal. Without a reader (a closed pipe) what it prints is
 * thrown away. */
int init_client_relay(struct init_client *client, const struct init_relay *relay, int *ret_status, struct err **err);

int init_client_signal(struct init_client *client, int sig, struct err **err);
int init_client_resize(struct init_client *client, u16 columns, u16 rows, struct err **err);

struct init_stats {
        u64 cpu_ns, memory_used, memory_total, page_cache; /* as the guest's kernel sees them */
        u32 processes;
};
int init_client_stats(struct init_client *client, struct init_stats *ret, struct err **err);

struct init_process_info {
        u32 pid, ppid, uid; /* in the guest */
        u64 started_ns;     /* since 1970 */
        u64 cpu_ns;
        const char *tty, *command; /* "?", "pts/0" */
};
/* The workload's processes: neither strata-init nor the kernel's threads. Valid until the next call of it. */
int init_client_processes(struct init_client *client, const struct init_process_info **ret, size_t *ret_n, struct err **err);

/* Has the guest carry out @script, which was ended and has no START: the first that fails is the error, what comes behind it is not done. */
int init_client_run(struct init_client *client, const struct init_script *script, struct err **err);

/* The supervisor: one small process a container. main.c has the life of one; everything hangs on one struct. */
#pragma once

#include "protocol.h"
#include "record.h"
#include "sys.h"
#include "text.h"

#define CLIENTS_MAX 32

struct client {
        int fd; /* -1: free */
        u32 flags;
        bool waits;     /* wants MESSAGE_EXIT */
        bool owes_data; /* has not taken what is in out */
        bool owes_exit; /* has not taken MESSAGE_EXIT */
};

enum phase {
        PHASE_STARTING, /* the helper makes the container */
        PHASE_RUNNING,
        PHASE_DRAINING, /* it ended; what it printed goes out */
        PHASE_WAITING,  /* for the next start */
        PHASE_CLEANING, /* somebody takes away what is left */
};

enum stream { STREAM_OUT, STREAM_ERR, STREAM_COUNT };

struct policy {
        s64 restart, restart_max; /* enum instance_restart */
        bool auto_remove, tty, open_stdin, log;
        int stop_signal;
        s64 stop_timeout; /* seconds; -1: never */
        s64 log_max_size, log_max_files;
        bool health;
        s64 health_interval, health_timeout, health_start, health_start_interval, health_retries; /* ns but the last */
};

struct supervisor {
        char *const *envp;
        enum phase phase;
        struct policy policy;
        struct record config;

        int signals, listener, console, lock, dir;
        int output[STREAM_COUNT]; /* with a terminal: output[STREAM_OUT] is its master */
        int input;                /* -1: closed */
        int helper;               /* what starts or cleans; 0 */
        int report;               /* whoever started us waits for its end; -1 */
        int ports;                /* the published ports are on their way to it, for ever (protocol.h); -1 */
        int child;                /* the container's first process; 0 */
        int health_child;

        int status; /* of the last end, as a shell gives it */
        bool oom;
        bool stopping; /* by hand: the policy does not count */
        bool again;    /* by hand: start it at once */
        bool cleaned;
        unsigned cleanings; /* that helpers of ours have begun */
        u32 size;              /* of the terminal, rows << 16 | columns */
        s64 started, finished; /* CLOCK_REALTIME */
        s64 restarts;
        s64 backoff; /* ns */
        s64 began;   /* CLOCK_BOOTTIME of the last start */

        /* CLOCK_BOOTTIME; 0: not set */
        s64 kill_at, restart_at, health_at, health_deadline, drop_at;
        int health_failing;
        const char *health; /* "", "starting", ... */

        struct client client[CLIENTS_MAX];
        int log;
        s64 log_size;

        size_t in_len, in_start; /* of in: not yet taken by the container */
        size_t out_len;          /* of out: not yet taken by all clients */
        struct message out, message;
        u8 in[MESSAGE_DATA];
};

/* main.c */
void supervisor_state(struct supervisor *s, const char *status, bool durable);
void supervisor_event(struct supervisor *s, const char *action, s64 exit_code, const char *detail);
void supervisor_load(struct supervisor *s);
void supervisor_stop(struct supervisor *s, int signal, s64 timeout);
void supervisor_cleaned(struct supervisor *s);
s64 supervisor_now(void);

/* init.c: the program's other mode. Returns the exit status. */
int init_main(char **argv, char *const *envp);

/* clients.c */
void clients_accept(struct supervisor *s);
void clients_receive(struct supervisor *s, struct client *c);
void client_close(struct supervisor *s, struct client *c);
/* To those that are attached to @flag; they owe it until they could take it. */
void clients_send(struct supervisor *s, u32 flag);
/* What is owed. */
void clients_flush(struct supervisor *s);
bool clients_owe(const struct supervisor *s);
/* The end of the container; @last: no start follows. */
void clients_exit(struct supervisor *s, bool last);
void clients_started(struct supervisor *s);
bool clients_have_cleaner(const struct supervisor *s);

/* output.c */
void output_pump(struct supervisor *s, enum stream stream);
void output_drain(struct supervisor *s);
void output_close(struct supervisor *s);
void input_take(struct supervisor *s, const u8 *data, size_t len);
void input_flush(struct supervisor *s);
void input_end(struct supervisor *s);
/* The terminal's master, which the runtime sends. */
void console_accept(struct supervisor *s);
void log_open(struct supervisor *s);
void log_write(struct supervisor *s, enum stream stream, const u8 *data, size_t len);

/* children.c */
/* New pipes (or a console socket) and a helper that starts the container again. 0 or -errno. */
int children_start(struct supervisor *s);
/* Runs `strata COMMAND ROOT ID`; its process, or -errno. @stdio: its descriptors from 0 on, HELPER_LOCK last; NULL: none. */
#define HELPER_FDS (HELPER_LOCK + 1)
int children_helper(struct supervisor *s, const char *command, const int stdio[HELPER_FDS]);
/* The host's ports are free for others. */
void children_free_ports(struct supervisor *s);
bool children_read_pid(int *ret);
bool children_oom(void);

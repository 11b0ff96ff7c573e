/* Shared by agent.c (the guest, life), agent_script.c (what it is told), agent_client.c (clients), agent_stdio.c (this process's own streams) and agent_state.c
 * (saving). */
#pragma once

#include "agent.h"
#include "agent_queue.h"
#include "base/unix_listener.h"
#include "dev/dev.h"

#define AGENT_FRAME_SPACE (INIT_FRAME_HEADER + (size_t)INIT_FRAME_MAX)
#define AGENT_TASKS_MAX 256U
#define AGENT_CLIENTS_MAX 128U
/* What one client may have going on. */
#define AGENT_CLIENT_TASKS_MAX 16U
/* What waits for the guest: more, and clients and scripts have to wait. */
#define AGENT_OUT_FULL (512U * 1024)
/* The most that can wait then: everybody's streams on top. */
#define AGENT_OUT_MAX (AGENT_TASKS_MAX * INIT_ROOM_MAX)
/* What waits for a client: one that does not read is dropped. */
#define AGENT_CLIENT_OUT_MAX (4U * 1024 * 1024)
#define AGENT_SCRIPT_MAX (16U * 1024 * 1024)

enum agent_owner {
        OWNER_NONE, /* a free place */
        OWNER_MAIN,
        OWNER_BOOT,   /* the script that the machine began with */
        OWNER_REPLAY, /* a later one */
        OWNER_CLIENT,
        OWNER_NOBODY, /* its client went away */
        OWNER_END,    /* POWER_OFF */
        OWNER_FREEZE, /* FREEZE that somebody waits for */
        OWNERS,
};

/* Something that the guest knows by a number: a process, or a request that it has not answered. */
struct agent_task {
        u32 id; /* with the guest */
        enum agent_owner owner;
        bool is_process;
        bool input_ended; /* no DATA will be sent any more */
        struct agent_client *client;
        u32 client_id; /* with the client */
        u32 room[INIT_STREAMS]; /* 0: what the guest takes. 1, 2: what it may still send */
};

struct agent_client {
        struct agent *agent;
        int fd; /* -1: free */
        struct loop_fd *watch;
        u8 *in; /* AGENT_FRAME_SPACE bytes */
        size_t n_in;
        struct byte_queue out;
        unsigned n_tasks;
        bool handling; /* its frames are being looked at */
};

/* One of this process's own streams. */
struct agent_stdio {
        struct agent *agent;
        int fd; /* -1: closed, or nobody reads it any more */
        bool own;           /* fd is ours alone and does not block */
        bool is_socket;
        struct loop_fd *watch; /* NULL: a file, which is always ready */
        struct byte_queue out; /* 1, 2: not written yet */
        u32 owed;              /* 1, 2: bytes written for which no ROOM was sent yet */
};

/* Frames that the guest is being told. */
struct agent_script {
        enum agent_owner owner;
        u8 *data; /* NULL: nothing */
        size_t len, at;
        unsigned pending; /* not answered yet */
        void (*done)(void *opaque, const char *error);
        void *opaque;
};

enum agent_phase {
        AGENT_WAITING, /* for HELLO */
        AGENT_SETUP,   /* the boot script is being carried out */
        AGENT_STARTING, /* START was sent */
        AGENT_RUNNING,
        AGENT_ENDING, /* the main process has ended */
        AGENT_PHASES,
};

/* What is saved with the machine. */
struct agent_saved {
        enum agent_phase phase;
        u32 last_id;
        u32 features; /* INIT_FEATURE_* of the guest */
        bool frozen;  /* its processes stand still, or will */
        u8 *in; /* of a frame that is not whole yet; AGENT_FRAME_SPACE bytes */
        size_t n_in;
        struct byte_queue out; /* to the guest */
        struct agent_script boot;
        struct agent_task tasks[AGENT_TASKS_MAX];
        bool tty;      /* of the main process */
        bool has_input;
        bool has_status;
        int status;
};

struct agent {
        struct device dev;
        struct device_env *env;
        struct loop *loop;
        struct agent_events events;
        struct vsock_local local;
        struct vsock_conn *conn; /* NULL: none */
        struct agent_saved s;
        struct agent_script replay;
        int ready_fd;
        bool failed;   /* the machine is ending because of us */
        bool switched_off; /* all that the guest had to do is done */
        u64 signals;   /* atomic: bit n - 1, not passed on yet */
        int signal_fd; /* an eventfd: look at them */
        struct loop_fd *signal_watch;
        struct loop_timer end_timer, freeze_timer;
        void (*freeze_done)(void *opaque, const char *error); /* NULL: nobody waits */
        void *freeze_opaque;
        struct agent_stdio stdio[INIT_STREAMS];
        struct unix_listener *listener;
        struct loop_fd *listen_watch;
        struct agent_client clients[AGENT_CLIENTS_MAX];
};

/* ---- agent.c ---- */

struct agent_task *agent_task_find(struct agent *agent, u32 id);
struct agent_task *agent_task_new(struct agent *agent, enum agent_owner owner);
void agent_task_free(struct agent *agent, struct agent_task *task);
/* A frame for the guest, with @id in place of its own. */
void agent_send(struct agent *agent, const u8 *frame, size_t size, u32 id);
void agent_send_numbers(struct agent *agent, enum init_type type, u32 id, const u32 *numbers, size_t n);
/* Lets the guest send @bytes more. */
void agent_grant(struct agent *agent, struct agent_task *task, u32 stream, u32 bytes);
/* Nobody looks at what the process says any more: it gets its end of input, and all the room that it can use. */
void agent_task_abandon(struct agent *agent, struct agent_task *task);
static inline bool agent_full(const struct agent *agent)
{
        return agent->s.out.n > AGENT_OUT_FULL;
}
/* What clients want can be passed on. A process that is started among others that stand still would keep strata-init waiting. */
static inline bool agent_serves_clients(const struct agent *agent)
{
        return agent->s.phase == AGENT_RUNNING && !agent->s.frozen && !agent_full(agent);
}
/* The machine cannot go on. */
void agent_fail(struct agent *agent, const char *why);
/* Ends the machine when there is nothing more to do. */
void agent_end_if_done(struct agent *agent);
/* Says on READY-FD how it went, once; @error NULL: started. */
void agent_report(struct agent *agent, const char *error);
/* What its phase asks for, in a machine that was loaded or has got there. */
void agent_go_on(struct agent *agent);

/* ---- agent_script.c ---- */

int agent_script_read(const char *path, struct agent_script *ret, struct err **err);
void agent_script_clear(struct agent_script *script);
/* Sends as much of it as can be. */
void agent_script_go_on(struct agent *agent, struct agent_script *script);

/* Whole frames that may stand in a script. */
bool agent_script_check(const u8 *data, size_t len);
/* The same, and it ends with START. */
bool agent_script_starts(const u8 *data, size_t len);
/* It ends, with NULL or why not; whoever asked for it is told. */
void agent_script_over(struct agent *agent, struct agent_script *script, const char *error);

/* ---- agent_freeze.c ---- */

/* The guest has done it, or not; who waited is told. */
void agent_freeze_over(struct agent *agent, const char *error);
void agent_on_freeze_timer(void *opaque);
/* Tells the guest to let its processes go on, where they stand still. True: it will answer, to a task of @owner. */
bool agent_let_go(struct agent *agent, enum agent_owner owner);

/* ---- agent_client.c ---- */

int agent_clients_init(struct agent *agent, struct err **err);
void agent_clients_free(struct agent *agent);
/* What clients may do has changed: the main process has been started, or the guest took something. */
void agent_clients_update(struct agent *agent);
/* A frame from the guest for a task of a client's. */
void agent_client_forward(struct agent_task *task, const u8 *frame, size_t size);

/* ---- agent_stdio.c ---- */

/* Before the jail: descriptors that do not block. */
void agent_stdio_open(struct agent *agent, const int fds[static INIT_STREAMS]);
/* The main process runs. */
void agent_stdio_start(struct agent *agent);
void agent_stdio_free(struct agent *agent);
/* Bytes that the main process wrote. */
void agent_stdio_write(struct agent *agent, u32 stream, const void *data, size_t n);
/* The guest takes more of standard input. */
void agent_stdio_read(struct agent *agent);
void agent_stdio_resize(struct agent *agent);
bool agent_stdio_flushed(const struct agent *agent);
/* Writes what is left, however long the reader takes: once the loop has ended. */
void agent_stdio_finish(struct agent *agent);
struct agent_task *agent_main(struct agent *agent);

/* ---- agent_state.c ---- */

void agent_save(struct device *dev, struct state_out *out);
int agent_load(struct device *dev, struct state_in *in, u32 version, struct err **err);

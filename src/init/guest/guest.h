/* strata-init, the first process of a machine: what its files share.
 *
 * One thread, one poll() loop (main.c). Linked statically against the C library, of which it uses little: no stdio, no locale. */
#pragma once

#include <poll.h>
#include <sys/types.h>

#include "init/protocol.h"

/* Processes that a host may have running at a time. */
#define PROCESSES_MAX 256U
#define POLL_MAX (2 + INIT_STREAMS * PROCESSES_MAX)

/* ---- text.c: texts of a fixed length; what does not fit is cut ---- */

struct text {
        char *at;
        size_t size, len; /* there is always a NUL */
};

#define TEXT(buffer) ((struct text){ .at = (buffer), .size = sizeof(buffer) })
void text_add(struct text *text, const char *more);
void text_add_n(struct text *text, const char *more, size_t n);
void text_add_number(struct text *text, u64 number);

/* Why a request failed. */
struct failure {
        int errnum;
        bool command; /* the command that was to be started is to blame */
        char what[300];
};

/* Keeps @errnum and the texts, one behind the other up to NULL. Returns -@errnum. */
int fail(struct failure *failure, int errnum, ...) __attribute__((sentinel));

/* ---- link.c: the connection ---- */

struct link {
        int fd;
        u8 in[INIT_FRAME_HEADER + INIT_FRAME_MAX];
        size_t n_in, used;
        u8 *out; /* what could not be sent yet */
        size_t n_out, out_first, out_cap;
        bool broken;
        u8 frame[INIT_FRAME_HEADER + INIT_FRAME_MAX];
};

/* Takes what the socket has. */
void link_fill(struct link *link);
/* The next message from the host: false: none is whole. It is valid until the next call. */
bool link_next(struct link *link, struct init_message *ret);
void link_begin(struct link *link, struct init_frame *frame, enum init_type type, u32 id);
/* Puts it behind what waits; link_flush sends. */
void link_end(struct link *link, struct init_frame *frame);
void link_send_numbers(struct link *link, enum init_type type, u32 id, const u32 *numbers, size_t n);
void link_flush(struct link *link);
/* So much waits that the host should not be asked for more work. */
bool link_full(const struct link *link);

/* ---- the program ---- */

struct stream {
        int fd;   /* our end; -1: closed. With a terminal streams 0 and 1 have the same */
        u32 room; /* 1, 2: bytes that the host takes. 0: bytes that it may still send */
        /* 0: what the process has not read yet, a ring of INIT_ROOM_FIRST bytes while there is any. */
        u8 *ring;
        u32 first, n;
        u32 owed;   /* 0: bytes that were read by the process, for which no ROOM was sent yet */
        bool ended; /* 0: END came. 1, 2: END was sent */
};

struct process {
        pid_t pid; /* 0: this place is free */
        u32 id;
        bool tty;
        bool exited;
        int status;       /* as from waitpid */
        u32 left_to_read; /* exited: of its output, so that others who hold its pipes cannot go on for ever */
        struct stream streams[INIT_STREAMS];
};

struct init {
        struct link link;
        int signals;       /* signalfd: SIGCHLD */
        int proc, dev;     /* directories: a /proc and a /dev of our own, wherever the root is */
        int namespace;     /* pidfd of the main process when it has a PID namespace; -1 */
        int own_namespace; /* ours; -1 */
        int group;         /* of all processes but ours; -1: there are no control groups */
        bool frozen;       /* they stand still */
        bool half_told;    /* since then something that we were to do has failed */
        bool readdressed;  /* since then an interface was given addresses */
        bool rebooting;
        u64 kill_at_ns;    /* rebooting: when SIGKILL follows; 0: it was sent */
        u32 power_off_id;
        struct process processes[PROCESSES_MAX];
};

/* A request: 0, or what fail() returned. */
typedef int request_fn(struct init *init, const struct init_message *m, struct failure *failure);

/* setup.c */
request_fn request_system, request_mount, request_root, request_file, request_link, request_sysctl;
/* @path and all directories on the way. */
int make_directories(const char *path);
/* A mount of our own, which nothing else sees: a directory. -errno. */
int private_mount(const char *type);
void load_modules(void);
/* Reads a file below @directory, NUL-terminated and cut: how many bytes, -errno. */
ssize_t read_file_at(int directory, const char *path, char *buffer, size_t size);

/* group.c */
request_fn request_freeze;
/* -errno where the kernel has no such groups. */
int group_open(void);
int group_freeze(struct init *init, bool freeze);
/* In a new process, which is in it. */
void group_show_as_root(void);

/* network.c */
request_fn request_address;
void loopback_up(void);

/* process.c */
request_fn request_start;
void process_signal(struct init *init, const struct init_message *m);
void process_resize(struct init *init, const struct init_message *m);
void process_data(struct init *init, const struct init_message *m);
void process_end(struct init *init, const struct init_message *m);
void process_room(struct init *init, const struct init_message *m);
/* Fills in what the processes' streams wait for: how many. */
size_t process_poll(struct init *init, struct pollfd *fds);
/* @fds as process_poll filled it in. */
void process_ready(struct init *init, const struct pollfd *fds, size_t n);
/* Sends what they have written so far and the host has room for. */
void process_collect(struct init *init);
/* Waits for children that ended. False: there are none (left). */
bool process_reap(struct init *init);

/* spawn.c */
struct spawn {
        const struct init_message *start;
        int streams[INIT_STREAMS]; /* the process's ends */
        int proc, group, namespace; /* init's */
        struct failure *failure;
};
/* The pid, or what fail() returned. */
pid_t spawn_process(struct init *init, struct spawn *spawn);

/* sockets.c: ends connections from addresses that the machine has no more. */
void sockets_end_lost(struct init *init);

/* report.c */
/* Calls @fn for each process but ourselves, the kernel's threads among them. */
void each_pid(const struct init *init, void (*fn)(void *opaque, const char *pid), void *opaque);
void report_stats(struct init *init, const struct init_message *m);
void report_processes(struct init *init, const struct init_message *m);

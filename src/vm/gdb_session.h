/* One debugger's conversation: packets in, packets out, and what they do to a machine.
 *
 * The machine is behind a small table, so that tests and the fuzzer need no threads. All functions are called on
 * one thread; everything but interrupt and quit only while the machine is stopped. */
#pragma once

#include "cpu/cpu.h"
#include "gdb_packet.h"

struct gdb_machine_ops {
        unsigned (*n_vcpus)(void *opaque);
        struct vcpu *(*vcpu)(void *opaque, unsigned index);
        /* Lets the machine run; gdb_session_stopped is called when it has stopped again. */
        void (*resume)(void *opaque);
        /* Asks it to stop. */
        void (*interrupt)(void *opaque);
        /* A vCPU that is held does not run when the machine does. */
        void (*hold)(void *opaque, unsigned index, bool hold);
        /* Ends the machine. */
        void (*quit)(void *opaque);
        /* Appends what "monitor stats" prints. */
        void (*print_stats)(void *opaque, FILE *out);
};

struct gdb_session {
        const struct gdb_machine_ops *ops;
        void *opaque;
        void (*send)(void *opaque, const char *data, size_t n);
        void *send_opaque;

        struct gdb_parser parser;
        struct gdb_reply reply;
        char *target_xml;
        bool no_ack;
        bool running;
        bool closed;             /* detached or killed: hang up */
        unsigned general_thread; /* vCPU index of g, m, ... */
        unsigned stop_thread;    /* vCPU index of the last stop */
        char stop_reason[64];    /* as in a T packet, without the thread */
        unsigned stop_signal;
        size_t n_points;
        struct debug_point points[DEBUG_POINTS_MAX];
};

int gdb_session_init(struct gdb_session *s, const struct gdb_machine_ops *ops, void *opaque,
        void (*send)(void *opaque, const char *data, size_t n), void *send_opaque, struct err **err);
void gdb_session_input(struct gdb_session *s, const u8 *data, size_t n);
/* vCPU @index stopped for what its vcpu.debug says, or (@interrupted) because it was asked to. */
void gdb_session_stopped(struct gdb_session *s, unsigned index, bool interrupted);
/* The machine has ended. */
void gdb_session_exited(struct gdb_session *s, unsigned status);
/* Takes break- and watchpoints out of the (stopped) machine again. */
void gdb_session_end(struct gdb_session *s);

/* Helpers for commands. */
void gdb_reply_ok(struct gdb_session *s);
void gdb_reply_error(struct gdb_session *s, int errnum);
/* qRcmd: runs a monitor command given in hexadecimal. */
void gdb_monitor(struct gdb_session *s, const char *hex);

/* What the supervisor and those who talk to it agree on. The supervisor is a static program of its own that links nothing of
 * the rest: only this header is shared.
 *
 * The instance's directory has for it:
 *
 *      lock      an OFD write lock on it is held by the living supervisor
 *      supervise what it must know: a record, written before each start and by `update`
 *      state     what it knows: a record, replaced by rename
 *      attach    its socket (SOCK_SEQPACKET, one struct message each)
 *      console   where a terminal's master is sent to while the instance starts
 *      pid       the first process, written by the helper that started it
 *      log, log.1 ...
 *
 * A record is lines of KEY=VALUE; a value has no newline (it is replaced by a blank when it is written). */
#pragma once

#include "base/types.h"

#define FILE_LOCK      "lock"
#define FILE_SUPERVISE "supervise"
#define FILE_STATE     "state"
#define FILE_ATTACH    "attach"
#define FILE_CONSOLE   "console"
#define FILE_PID       "pid"
#define FILE_LOG       "log"
#define FILE_OOM       "oom" /* the path of the control group's file that counts OOM kills */

#define RECORD_SIZE 4096

struct record {
        char text[RECORD_SIZE];
};

/* A message's payload never is longer; the whole is one packet. */
#define MESSAGE_DATA 16384

enum message_type {
        /* to the supervisor */
        MESSAGE_ATTACH = 1, /* arg: flags of instance.h */
        MESSAGE_STDIN,      /* data; empty: end of file */
        MESSAGE_RESIZE,     /* arg: rows << 16 | columns */
        MESSAGE_SIGNAL,     /* arg: number. Answered by DONE or FAILED */
        MESSAGE_STOP, /* arg: seconds until SIGKILL, -1: its own, -2: never. arg2: a signal in place of its own, 0. DONE, then EXIT at the end */
        MESSAGE_WAIT, /* EXIT at the next end of the first process */
        MESSAGE_RELOAD,  /* read the supervise record again. DONE */
        MESSAGE_CLEANED, /* by the session with ATTACH_CLEAN_UP: nothing is left */
        MESSAGE_RESTART, /* as STOP, but a new start follows. DONE, EXIT, STARTED */
        MESSAGE_FREE_PORTS, /* nothing of the host's is published any more. DONE */

        /* from it */
        MESSAGE_STDOUT = 32, /* data */
        MESSAGE_STDERR,
        MESSAGE_EXIT, /* arg: status as a shell gives it; arg2: 1 when no start follows */
        MESSAGE_STARTED,
        MESSAGE_DONE,
        MESSAGE_FAILED, /* arg: errno */
};

struct message_header {
        u32 type;
        s32 arg, arg2;
};
#define MESSAGE_HEADER sizeof(struct message_header)

struct message {
        u32 type;
        s32 arg, arg2;
        u8 data[MESSAGE_DATA];
};

/* How it is started: strata-supervise DIR LOCK LISTENER STDIN STDOUT STDERR CONSOLE HELPER REPORT PORTS, all numbers: descriptors (-1:
 * none) and the process that is making the instance. REPORT is a pipe that is closed when the first start has its place in the state.
 *
 * PORTS is one end of a pair of sockets; through the other the helper sends sockets that are bound to the published ports. Nobody
 * receives them: what is on its way lives as long as the end where it would arrive, so one descriptor holds all of them. */
enum supervise_arg {
        SUPERVISE_DIR = 1,
        SUPERVISE_LOCK,
        SUPERVISE_LISTENER,
        SUPERVISE_STDIN,
        SUPERVISE_STDOUT,
        SUPERVISE_STDERR,
        SUPERVISE_CONSOLE,
        SUPERVISE_HELPER,
        SUPERVISE_REPORT,
        SUPERVISE_PORTS,
        SUPERVISE_ARGC
};

/* The hidden words of the strata command, followed by ROOT and ID. */
#define HELPER_START  "instance-start"
#define HELPER_CLEAN  "instance-clean"
#define HELPER_HEALTH "instance-health"
/* Descriptors of HELPER_START: its end of the pair of sockets for ports; and, HELPER_CLEAN too, the supervisor's lock. When the
 * supervisor is killed it is free only when its helper is dead, too, so nobody begins to clean while that still makes things. */
#define HELPER_PORTS 3
#define HELPER_LOCK  4
#define HELPER_HEALTH_UNKNOWN 2 /* its exit status when the container is paused */

/* Shared by client.c (requests and their answers) and client_relay.c (a process's streams). */
#pragma once

#include "init/client.h"

#define FRAME_SPACE (INIT_FRAME_HEADER + (size_t)INIT_FRAME_MAX)

/* What came of one output stream and is not written yet: never more than the room that was given. */
struct output {
        u8 data[INIT_ROOM_FIRST]; /* a ring */
        u32 first, n;
        u32 owed; /* bytes that have left it, for which no ROOM was sent yet */
        bool ended;
};

struct init_client {
        int fd;
        u64 timeout_ms; /* 0: none */
        u32 last_id;
        u32 process; /* its id; 0: none */
        bool exited;
        int status;
        u32 room; /* what the process's input may still be sent */
        struct output outputs[2];
        struct init_process_info *infos; /* of the last init_client_processes */
        u8 *info_frames;
        u8 out[FRAME_SPACE];
        u8 in[FRAME_SPACE];
        size_t n_in, used; /* used: of the frame that was handed out last */
};

/* Begins a frame in client->out. */
void client_begin(struct init_client *client, struct init_frame *frame, enum init_type type, u32 id);
/* Sends what was begun. */
int client_send(struct init_client *client, struct init_frame *frame, struct err **err);
/* The next message that came: 1; 0: none is whole yet; an error: the connection is over, or what came was no message. Valid until the
 * next call. What concerns the process is dealt with here, and not returned. */
int client_next(struct init_client *client, struct init_message *ret, struct err **err);
/* FAILED as an error. */
int client_failure(const struct init_message *m, struct err **err);
/* Takes what the socket has; waits no more than @timeout_ms (-1: no limit). -ETIMEDOUT without an error. */
int client_fill(struct init_client *client, int timeout_ms, struct err **err);

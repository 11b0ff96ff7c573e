/* What the runtime and a container's first process say to each other over a pair of sockets until the process is the
 * payload. The end of the stream, with no error before it, means: it runs (the socket is close-on-exec).
 *
 *      runtime                                  container's process
 *         |                                           |  enters its control groups
 *         | -- SYNC_MAPPED: ids are mapped ---------> |  (new user namespace: it waited)
 *         |   writes the state directory              |  mounts
 *         | -- SYNC_GO: the state is written -------> |  reads it when it needs to
 *         | <------- SYNC_HOOKS: all is mounted ----- |  (when there are hooks to run now)
 *         |   prestart, createRuntime                 |
 *         | -- SYNC_HOOKS: they ran ----------------> |
 *         | <---------- SYNC_TERMINAL: its master --- |  (a terminal the runtime relays)
 *         | <---------- SYNC_READY: only start is missing (create)
 *         | <---------- end of stream: it runs
 *         | <---------- SYNC_ERROR: text; at any time
 */
#pragma once

#include "base/err.h"

enum sync_type {
        SYNC_END,
        SYNC_MAPPED,
        SYNC_HOOKS,
        SYNC_GO,
        SYNC_TERMINAL,
        SYNC_READY,
        SYNC_PID,
        SYNC_ERROR,
        SYNC_EXEC_FAILED
};

/* @fd, when not -1, goes along. */
int sync_send(int sock, enum sync_type type, int value, int fd);
/* The error's text, id and errno. */
void sync_send_error(int sock, int errnum, const struct err *err);
/* Waits for a message. SYNC_END at the end of the stream. SYNC_ERROR becomes *err and a negative return.
 * *ret_value and *ret_fd (-1: none came) may be NULL. */
int sync_receive(int sock, int *ret_value, int *ret_fd, struct err **err);
/* As sync_receive, but anything else than @wanted is an error. */
int sync_expect(int sock, enum sync_type wanted, int *ret_value, int *ret_fd, struct err **err);

/* The runtime in the foreground: waits for the payload, passes on what the user does meanwhile. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

/* Blocks the signals that will be passed on. Before the clone: none may be lost, and the payload's mask is reset
 * anyway. */
int wait_prepare(struct err **err);
/* Prints what is left in @master (or -1) of a payload that never came to run. */
void wait_drain(int master);
/* Waits for @pid, our child. Signals that come in go to it; with a terminal's @master (or -1) what is typed and printed
 * is copied and the window's size follows; what comes in on @notify (or -1) goes through notify_forward. *ret_status as
 * a shell gives it. */
int wait_foreground(pid_t pid, int pidfd, int master, int notify, int *ret_status, struct err **err);

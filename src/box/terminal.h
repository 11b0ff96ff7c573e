/* A container's terminal: made in the container's own devpts, its master handed to whoever speaks for the container. */
#pragma once

#include "base/err.h"
#include "spec/spec.h"

/* A new pair from the devpts at /dev/pts below @root, which is looked at before it is believed. *ret_master and
 * *ret_peer. */
int terminal_open(int root, const struct spec_process *process, int *ret_master, int *ret_peer, struct err **err);
/* Makes @peer this session's terminal and stdio. */
int terminal_attach(int peer, struct err **err);
/* Connects to a console socket. */
int terminal_connect(const char *path, struct err **err);
/* Gives @master to the console socket, or, without one (-1), by @sync to the runtime, which relays it. */
int terminal_hand_over(int console, int sync, int master, struct err **err);
/* Sends @master as runc does: one message, the name of the terminal, the descriptor beside it. */
int terminal_send(int sock, int master, struct err **err);

/* systemd's readiness protocol (sd_notify(3)) through the wall: the payload gets a socket of the runtime's in place of
 * the host's; of what it says, READY=1 is passed on, and nothing else. */
#pragma once

#include "internal.h"

/* Where $NOTIFY_SOCKET is set: a socket in the state directory, and the detached mount of its directory. Before the
 * clone. */
int notify_prepare(struct launch *l, struct err **err);
/* In the container's process: the mount, at the path that the host's socket has outside. */
int notify_mount(const struct launch *l, struct err **err);
/* The socket again, for `start`: the one of `create` ended with it. -1 when the container has none. */
int notify_reopen(const struct box_handle *h, struct err **err);
/* Reads a datagram and passes on what may be. Returns whether it said that the payload is ready. */
bool notify_forward(int sock);
/* Until the payload is ready or @pidfd's process is gone. */
void notify_wait(int sock, int pidfd);

#define NOTIFY_DIRECTORY "notify" /* below the state directory; the socket in it has the same name */

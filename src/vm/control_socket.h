/* The control socket: what can be asked of a machine from outside while it runs.
 *
 * A unix socket with lines of text. A request is one line; the answer is any number of lines "name value", then "ok" or
 * "error: " and a sentence. `help` lists the requests; docs/machine.md says what they do.
 *
 *         $ echo 'balloon 256M' | nc -NU /run/vm.sock
 *         ok
 *
 * Runs on the io thread with the device lock held. */
#pragma once

#include "base/unix_listener.h"
#include "vm.h"

struct control_socket;

/* Takes @listener over on success. */
int control_socket_new(struct vm *vm, struct unix_listener *listener, struct control_socket **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct control_socket *control_socket_free(struct control_socket *socket);

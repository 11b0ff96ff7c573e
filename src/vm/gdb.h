/* A debugger's door: the GDB remote serial protocol on a TCP port of 127.0.0.1. See gdb.c for how it works.
 *
 * The server has a thread of its own. It expects a machine that was created with start_paused, and lets it go on
 * the debugger's command. */
#pragma once

#include "vm.h"

struct gdb_server;

/* Listens; nothing is served yet. */
int gdb_server_new(u16 port, struct gdb_server **ret, struct err **err);
/* After vm_start. */
int gdb_server_start(struct gdb_server *server, struct vm *vm, struct err **err);
/* Ends the thread and the connection; the machine must have ended. NULL is fine. Returns NULL. */
struct gdb_server *gdb_server_free(struct gdb_server *server);

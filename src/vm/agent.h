/* The agent: the host's end of the connection to strata-init, inside strata-vmm (init/protocol.h).
 *
 *         strata-vmm run ... --agent socket=PATH,script=FILE[,ready=FD]
 *
 * It tells the guest what FILE says, starts the main process that FILE ends with, passes its streams and signals between the guest and
 * this process's own, ends the machine when it has ended, and serves clients (init/client.h) at the socket. It is saved with the machine.
 * A restored machine's FILE is what the guest is to be told from then on (a new name, address, random numbers); it starts a main process
 * only if the saved machine had none, as one whose FILE had none.
 *
 * All runs on the io thread with the device lock held, but what says otherwise. Neither the guest nor a client is trusted: a guest that
 * breaks the protocol ends its machine, a client its connection. */
#pragma once

#include "dev/virtio/vsock.h"
#include "init/protocol.h"

/* The guest's address when there is no --vsock: each machine has a device of its own, so they may all have the same. */
#define AGENT_CID VSOCK_CID_MIN

struct agent;

struct agent_config {
        const char *socket, *script; /* NULL: no agent */
        int ready_fd;                /* -1: none. Gets one line, "started" or "error: " and a sentence */
        int streams[INIT_STREAMS];   /* the main process's; 0, 1, 2 */
};

/* Opens everything; nothing is listened to yet. Before the process goes into its jail. Takes ready_fd over on success. */
int agent_new(const struct agent_config *config, struct agent **ret, struct err **err);
/* Only one that was not attached. NULL is fine. Returns NULL. */
struct agent *agent_free(struct agent *agent);
/* What the machine is told. */
struct agent_events {
        void (*fail)(void *opaque, struct err *error); /* it is to end because of @error, which is taken over */
        void *opaque;
};
/* Makes it a device of the machine's, which owns it from then on. Before threads exist. */
int agent_attach(struct agent *agent, struct device_env *env, const struct agent_events *events, struct err **err);

struct unix_listener *agent_listener(struct agent *agent);
/* For the virtio socket device. */
const struct vsock_local *agent_local(const struct agent *agent);

/* From any thread, without locks: passes a signal on to the main process. SIGWINCH: the terminal has another size. Before there is a
 * main process any signal ends the machine. */
void agent_signal(struct agent *agent, int sig);

/* Tells the guest more, as scripts do: frames without START (init/script.h). @done is called once, with NULL or with why not, in words;
 * not when the machine ends before. -EBUSY: it is being told something already; -EINVAL: no frames; -ENOMEM. */
int agent_replay(struct agent *agent, const void *script, size_t len, void (*done)(void *opaque, const char *error), void *opaque);

/* Has all processes of the guest but strata-init stand still; @done is called once as above, later. Until agent_thaw nothing is started. -EOPNOTSUPP: they
 * cannot, or there is no main process; -EBUSY: they do, or the guest is being told something. */
int agent_freeze(struct agent *agent, void (*done)(void *opaque, const char *error), void *opaque);
/* They go on. Fine when they do. */
void agent_thaw(struct agent *agent);

/* Says so to who waits for READY, when nothing has been said yet. */
void agent_not_started(struct agent *agent, const char *why);
/* After the machine has ended: what the main process printed last is written before this returns (a guest switches itself off faster than
 * some read). */
void agent_finish(struct agent *agent);
/* And then: whether the main process ended before, and its status as a shell says. Also when it could not be started (127, 126, 125). */
bool agent_exit_status(const struct agent *agent, int *ret);

/* linux.seccomp of the OCI runtime spec, compiled to a classic BPF program for seccomp(2).
 *
 * Two steps, because they happen in different processes: the runtime compiles (it may fail and say why), the
 * container's first process, already without privileges, loads (one system call, async-signal-safe, no allocation).
 *
 *         r = seccomp_filter_compile(seccomp_json, false, &filter, err);
 *         -- in the container's process, after no_new_privs or with CAP_SYS_ADMIN, last thing before exec:
 *         r = seccomp_filter_load(filter, &listener);      // -errno; listener >= 0 when the profile asks for
 *         notifications
 *         -- in the runtime, with the listener fetched (pidfd_getfd or SCM_RIGHTS):
 *         r = seccomp_filter_send_listener(filter, listener, pid, state_json, err);
 *
 * How the program is built: seccomp_tree.c. What a profile means: seccomp_profile.c, and docs/adr/0031. */
#pragma once

#include <jansson.h>
#include <linux/filter.h>
#include <sys/types.h>

#include "base/err.h"

struct seccomp_filter {
        struct sock_filter *insn;
        u16 n_insns;
        u32 flags;               /* of seccomp(2), SECCOMP_FILTER_FLAG_NEW_LISTENER included */
        char *listener_path;     /* NULL when the profile notifies nobody */
        char *listener_metadata; /* NULL when not given */
};

/* @json is linux.seccomp; a NULL or null one gives *ret NULL: no filter. Unknown system calls are skipped (spec:
 * profiles are shared by hosts of different kernels) unless @strict; unknown actions, operators, architectures and
 * flags are errors. */
int seccomp_filter_compile(const json_t *json, bool strict, struct seccomp_filter **ret, struct err **err);
struct seccomp_filter *seccomp_filter_free(struct seccomp_filter *filter);
static inline void seccomp_filter_freep(struct seccomp_filter **filter)
{
        seccomp_filter_free(*filter);
}

/* Loads the filter into the calling thread. 0 or -errno; *ret_listener is a new descriptor (close-on-exec) or -1. */
int seccomp_filter_load(const struct seccomp_filter *filter, int *ret_listener);

/* Hands @listener to the agent at filter->listener_path with the spec's containerProcessState; @pid is the container's
 * process as the runtime sees it, @state the container's state object (borrowed). The descriptor stays the caller's. */
int seccomp_filter_send_listener(
        const struct seccomp_filter *filter, int listener, pid_t pid, const json_t *state, struct err **err);

/* runc's `features` object for seccomp: enabled, actions, operators, archs, knownFlags, supportedFlags. */
json_t *seccomp_features(void);

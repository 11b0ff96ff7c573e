/* From "a process of ours inside the container" to the payload: everything of the specification's process object, in
 * the order in which one step does not take away what the next one needs. Shared by the first process and by exec. */
#pragma once

#include "internal.h"

/* Looks for the program in the container (the caller's root) as execvp would; refuses what cannot be executed.
 * *ret is allocated from the spec's arena. */
int process_find_program(const struct launch *l, const char **ret, struct err **err);
/* Closes all but stdio, what is preserved, and the @n in @keep, which may have -1s. */
void process_close_descriptors(const struct launch *l, int *keep, size_t n);
/* On the CPUs of @list; NULL or "" is all the same. */
int process_set_affinity(const char *list, struct err **err);
/* On all CPUs that the control groups allow: what the runtime's caller was bound to is not the container's. */
void process_reset_affinity(void);
/* What needs the rights that the payload may not have: labels, limits, scheduling, oom score. Before user and
 * capabilities change. */
int process_prepare(const struct launch *l, struct err **err);
/* User, capabilities, working directory, seccomp, and away. Returns only on failure. */
int process_become(const struct launch *l, int sync, struct err **err);
/* Which of the kernel's modules labels processes. In the runtime: the /sys of a container says what its image wants. */
enum lsm process_find_lsm(void);
/* Whether the handover program cannot do the last step (the filter forbids execveat, or a label is bound to the next
 * exec): then the runtime must run from a read-only clone of itself. */
bool process_needs_clone(const struct spec_process *process, const struct seccomp_filter *filter);
/* The sealed memfd with the handover program. */
int process_open_handover(struct err **err);
/* A payload that is not root may want to open /dev/stdout again: pipes and sockets that are 0, 1 or 2 become its user's. Never
 * files or devices: those are the host's. */
void process_own_stdio(u32 uid, u32 gid);

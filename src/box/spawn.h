/* Making the process that becomes a container's, with its namespaces, in one clone3 where the kernel can do that. */
#pragma once

#include "internal.h"

struct spawned {
        pid_t pid;
        int pidfd;
        int sync; /* the runtime's end */
};

#define SPAWNED_NONE ((struct spawned){ .pid = -1, .pidfd = -1, .sync = -1 })

/* Kills and reaps it, if it was made. */
void spawned_kill(const struct spawned *s);
/* Closes the descriptors. */
void spawned_release(struct spawned *s);

/* A step of a new process; what it returns below 0 is told to the runtime and ends the process. */
typedef int spawn_step(struct launch *l, struct err **err);
typedef int spawn_main(struct launch *l, int sync, struct err **err);

/* Whether v2's group of an exec is one below the container's. The container's own might not take processes then ("no
 * internal processes"); v1's do. */
bool spawn_enters_below(const struct launch *l);
/* Opens the namespaces to join by path. */
int spawn_open_namespaces(struct launch *l, struct err **err);
/* The new process, in the namespaces of the configuration, runs @run with its end of sync.h. */
int spawn(struct launch *l, spawn_main *run, struct spawned *ret, struct err **err);
/* A helper runs @enter, which joins namespaces, and then makes the new process there. */
int spawn_joined(struct launch *l, spawn_step *enter, spawn_main *run, struct spawned *ret, struct err **err);

/* Processes that serve one container: the resolver, pasta. A helper of ours has an exclusive lock (fcntl) on
 * run/helpers/CONTAINER.KIND from its first moment on, so that it is found whoever started it, and no number of a
 * process is trusted. */
#pragma once

#include "internal.h"

/* *ret: its process id; -ESRCH: it does not run. */
int helper_find(struct net_store *store, const char *container, const char *kind, pid_t *ret);
/* Kills it and waits until it is gone (its sockets with it). Fine when there is none. */
void helper_stop(struct net_store *store, const char *container, const char *kind);
/* The lock's file, open. */
int helper_open(struct net_store *store, const char *container, const char *kind, int *ret, struct err **err);

enum { HELPER_FDS_MAX = 8 };

/* Starts @argv[0] with @fds as its descriptors 3, 4, ... (-1: /dev/null there). Standard input and output are
 * /dev/null, messages go to @log (-1: where ours go). */
int helper_spawn(const char *const *argv, const int *fds, size_t n_fds, int log, pid_t *ret, struct err **err);
/* A program of ours: beside this one, or in PATH. The caller's string. */
char *helper_program(const char *name);

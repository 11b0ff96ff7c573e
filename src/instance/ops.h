/* What a wall has to be able to do. Everything above it (who starts whom, supervision, logs, restarts, health, names, images,
 * volumes) is the same for all of them. What a wall cannot do is an error that says why. */
#pragma once

#include "spec.h"

struct instance_ops {
        const char *name; /* --isolation */
        /* Its processes are the host kernel's: others may join their namespaces, and its networks come and go while it runs. */
        bool has_namespaces;

        /* Refuses what of a complete configuration is not possible behind this wall, before anything is made. */
        int (*check)(const struct instance_config *config, struct err **err);
        /* In the command, before every start: what may take long and says so. */
        int (*prepare)(struct instance *inst, struct err **err);
        /* Whether the helper must be the program itself, started anew, instead of a copy of the command. */
        bool (*needs_program)(const struct instance *inst);

        /* In the helper, first: its place in networks (network.h). */
        int (*connect)(struct instance *inst, const char *hostname, struct network **ret, struct err **err);
        /* In the helper, which is in a mount namespace of its own, before anything is mounted there: what can go on beside that. Of @plan there
         * are the host name and the network. NULL: nothing. */
        int (*begin)(struct launch_plan *plan, struct err **err);
        /* In the helper, which has the instance's streams as 0, 1 and 2 (with a terminal: its master goes to FILE_CONSOLE): makes the
         * first process, a child of this one whose exit status is the workload's, and writes FILE_PID. Returns when the command runs. */
        int (*launch)(struct launch_plan *plan, struct err **err);
        /* After begin, in any case: releases plan->begun, and ends what launch has not brought to run. NULL with begin. */
        void (*end)(struct launch_plan *plan);
        /* Kills what is left of a run and takes away what launch made, however far it came. Fine when there is nothing. */
        int (*clean)(struct instance *inst, struct err **err);

        /* The others: while it runs. @pid is its first process. */
        int (*freeze)(struct instance *inst, bool freeze, struct err **err);
        bool (*is_frozen)(struct instance *inst);
        /* What config.resources says now. */
        int (*update)(struct instance *inst, struct err **err);
        /* A further process, with the caller's descriptors 0, 1 and 2; @process is the runtime specification's object of it. */
        int (*exec)(struct instance *inst, const struct instance_exec *exec, const json_t *process, int *ret_status,
                struct err **err);
        /* The same in the background: what it prints goes to @output. *ret is a child of the caller that ends as it ends. */
        int (*spawn)(struct instance *inst, const json_t *process, int output, pid_t *ret, struct err **err);
        /* Has such a process killed; its end is waited for as before. */
        void (*unspawn)(pid_t pid);
        /* Fills in all but the time and the host's CPUs. */
        int (*stats)(struct instance *inst, pid_t pid, struct instance_stats *ret, struct err **err);
        /* Into inst->top_arena. */
        int (*top)(struct instance *inst, struct instance_processes *ret, struct err **err);
        /* Its root directory. */
        int (*root)(struct instance *inst, pid_t pid, int *ret, struct err **err);
        /* Files below that were changed from outside: what it remembers of them is old. */
        void (*root_changed)(struct instance *inst);
};

extern const struct instance_ops container_ops, vm_ops;

/* Whether something of @inst's that @what names can be joined or changed by the host while it runs. ERR_UNSUPPORTED. */
int instance_check_namespaces(const struct instance *inst, const char *what, struct err **err);

/* All there are, the default first; NULL at the end. */
extern const struct instance_ops *const instance_walls[];
/* The wall of that name; NULL or "": the default. -EOPNOTSUPP, ERR_UNSUPPORTED. */
int instance_wall_find(const char *isolation, const struct instance_ops **ret, struct err **err);

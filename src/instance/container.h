/* What the container's files share. */
#pragma once

#include "ops.h"

/* The runtime with the instance's own state directory. */
struct box_runtime container_runtime(const struct instance *inst);

/* container_exec.c */
/* Of a runtime's error: ERR_NO_COMMAND or ERR_NOT_EXECUTABLE where the command is to blame. Takes *error. */
int blame_command(int r, struct err **error, struct err **err);
int container_exec(struct instance *inst, const struct instance_exec *exec, const json_t *process, int *ret_status,
        struct err **err);
int container_spawn(struct instance *inst, const json_t *process, int output, pid_t *ret, struct err **err);

/* container_stats.c */
int container_stats(struct instance *inst, pid_t pid, struct instance_stats *ret, struct err **err);
int container_top(struct instance *inst, struct instance_processes *ret, struct err **err);

/* A further process in a running instance. */
#pragma once

#include "internal.h"

/* The process object of the runtime specification; the state must say that the instance runs. */
int exec_process(struct instance *inst, const struct instance_exec *exec, json_t **ret, struct err **err);

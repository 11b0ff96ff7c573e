/* A further process in a running instance. */
#pragma once

#include "internal.h"

/* The process object of the runtime specification, as an anonymous file; the state must say that the instance runs. */
int exec_process(struct instance *inst, const struct instance_exec *exec, int *ret_fd, struct err **err);
/* Of a runtime's error: ERR_NO_COMMAND or ERR_NOT_EXECUTABLE where the command is to blame. Takes *error. */
int blame_command(int r, struct err **error, struct err **err);

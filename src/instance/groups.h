/* An instance's control groups, whichever wall they are for. */
#pragma once

#include "internal.h"

/* Where they are made; the caller's. */
char *groups_path(const struct instance *inst);
/* Those that a killed helper made and had not recorded. */
void groups_remove(const struct instance *inst);
/* FILE_OOM: which file of the memory group of @pid the supervisor looks into after a SIGKILL. */
void groups_find_oom_file(const struct instance *inst, pid_t pid);

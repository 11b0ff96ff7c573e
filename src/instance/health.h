/* Health checks: the command of `strata instance-health`, run by the supervisor at every interval. */
#pragma once

#include "internal.h"

#define FILE_HEALTH "health.json"

/* Runs the check once, with its time limit; keeps what the last ones printed in FILE_HEALTH. 0: healthy, 1: not,
 * HELPER_HEALTH_UNKNOWN: it cannot be asked now. */
int health_check(struct instance *inst, struct err **err);
/* Those: [{"Start", "End", "ExitCode", "Output"}], as docker inspects them. */
json_t *health_log(const struct instance *inst);

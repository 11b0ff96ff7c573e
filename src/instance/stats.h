/* What the walls' accounts have in common. */
#pragma once

#include "internal.h"

/* From cgroup_stats' object: CPU, memory, block devices, processes. */
void stats_of_groups(const json_t *stats, struct instance_stats *ret);

/* Intel Resource Director Technology: the container's group in /sys/fs/resctrl (config-linux.md, "IntelRdt"). */
#pragma once

#include "state.h"

/* Puts @pid into the group that the configuration names and writes its schemata; records in @h what is to be removed. */
int rdt_apply(const struct spec *spec, struct box_handle *h, pid_t pid, struct err **err);
void rdt_remove(const struct box_handle *h);

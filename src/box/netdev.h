/* linux.netDevices: network devices of the host that move into the container (config-linux.md, "Network Devices"). */
#pragma once

#include <sys/types.h>

#include "base/err.h"
#include "spec/spec.h"

/* Moves them into the network namespace of @pid, renamed, with their global addresses, and brings them up. */
int netdev_move(const struct spec *spec, pid_t pid, struct err **err);
/* Brings up the loopback interface of the network namespace that the caller is in. */
int netdev_loopback_up(struct err **err);

/* /dev: the devices and links that every container has (config-linux.md, "Default Devices", "Dev symbolic links") and
 * those of its configuration. */
#pragma once

#include "internal.h"

/* Makes those of the configuration for a container with a user namespace, which may bind them but not make them. In the
 * runtime, before the clone. Does nothing where the runtime may not either. */
int devices_prepare(struct launch *l, struct err **err);
int devices_make(struct launch *l, struct err **err);
/* The path of a device that every container has; NULL behind the last one. */
const char *devices_default(size_t i);

/* /dev: the devices and links that every container has (config-linux.md, "Default Devices", "Dev symbolic links") and those of its
 * configuration. */
#pragma once

#include "internal.h"

int devices_make(struct launch *l, struct err **err);

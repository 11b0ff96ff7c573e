/* Ports for test kernels: a write to 0xf4 ends the machine with that byte as its status (isa-debug-exit), and, where wanted,
 * the "testdev" ports that drive interrupt lines and remember values. */
#pragma once

#include "dev/dev.h"

#define DEBUG_EXIT_PORT 0xf4

/* Claims 0xf4-0xf7; a write calls env->stop(MACHINE_DEBUG_EXIT, low byte). */
int debug_exit_new(struct device_env *env, struct err **err);

/* What kvm-unit-tests calls pc-testdev: ports 0x2000-0x2017 set the level of GSI 0-23, 0xe0-0xe3 hold a value of any width,
 * 0xe4-0xeb accept and forget (a hypervisor with nested paging would unmap a page there), and 64 KiB of device memory at
 * 0xff000000 behave like RAM. */
int testdev_new(struct device_env *env, struct err **err);

/* What kernel.c and kernel_import.c share. */
#pragma once

#include "internal.h"
#include "kernel.h"

#define DIR_KERNELS    "kernels"
#define KERNEL_IMAGE   "vmlinux"
#define KERNEL_INITRD  "initrd"
#define KERNEL_DRIVERS "drivers" /* the second part of the initial RAM disk: the modules */
#define KERNEL_CONFIG  "config.json"
/* Directories that are being made or removed begin so; whoever works in one holds its lock. */
#define KERNEL_SCRATCH ".new-"

/* ROOT/kernels, made when it is not there. */
int kernel_open_dir(struct instance_host *host, int *ret, struct err **err);
/* One at a time changes what is there; for moments. Closing @ret unlocks. */
int kernel_lock(int kernels, const char *file, int *ret, struct err **err);
/* Writes the initial RAM disk of the kernel in the directory @dir, from its drivers and the host's strata-init,
 * and says in @ret_init (the caller's) which one that was. */
int kernel_make_initrd(struct instance_host *host, int dir, const char *file, char **ret_init, struct err **err);
/* What stands for the host's strata-init in a configuration; the caller's. */
int kernel_init_stamp(struct instance_host *host, char **ret, struct err **err);

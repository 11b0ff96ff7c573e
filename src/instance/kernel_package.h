/* Kernels as distributions bring them: installed, in a Debian package, or to be had by apt. */
#pragma once

#include "base/err.h"

#define PACKAGE_KERNEL  "vmlinuz" /* what an unpacked package becomes: a file, and */
#define PACKAGE_MODULES "modules" /* a directory of modules and modules.builtin */

/* Whether it begins as a Debian package does. */
bool kernel_package_is(const void *data, size_t len);
/* Unpacks the kernel and the modules of the package @file, and nothing else, into the directory @dir. */
int kernel_package_unpack(const char *file, int dir, struct err **err);
/* Fetches Debian's cloud kernel into the directory @dir; its file's name is the caller's. ERR_NOT_FOUND: there is
 * no apt, or it has none. */
int kernel_package_fetch(int dir, char **ret_name, struct err **err);
/* The newest kernel of /boot that has modules, one for clouds if there is one; the caller's. NULL: none. */
char *kernel_package_installed(void);

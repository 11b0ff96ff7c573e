/* The modules of a kernel that our machines need, and what those need themselves, in the order in which they can
 * be loaded. */
#pragma once

#include <stdio.h>

#include "base/err.h"

/* Writes them into @out as the end of an initial RAM disk (see kernel.h). @dir is the directory of the modules of
 * @release, hostile as any file: names, ELF and compression are checked. -1: none, everything is taken for built
 * in. */
int kernel_modules_write(int dir, const char *release, FILE *out, struct err **err);

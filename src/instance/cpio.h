/* Writes an initial RAM disk: a cpio archive in the "newc" format
 * (Documentation/driver-api/early-userspace/buffer-format.rst). The kernel takes several behind one another, so an
 * archive may be continued by another one, and only the last needs its end. */
#pragma once

#include <stdio.h>
#include <sys/types.h>

#include "base/types.h"

struct cpio {
        FILE *out; /* whose error indicator says whether everything was written */
        u32 inode; /* of the last entry; archives behind one another begin apart */
};

void cpio_dir(struct cpio *cpio, const char *path);
void cpio_char_device(struct cpio *cpio, const char *path, mode_t mode, unsigned major, unsigned minor);
void cpio_file(struct cpio *cpio, const char *path, mode_t mode, const void *data, size_t len);
void cpio_end(struct cpio *cpio);

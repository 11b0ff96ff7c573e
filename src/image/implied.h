/* Directories that a layer's archive did not mention, though it has something in them: unpacked, they hide the mode and the
 * owner that a lower layer gave them ("usr/bin/x" without "usr/"; overlayfs shows the topmost directory's attributes). */
#pragma once

#include "internal.h"

/* Makes such directories in an upper directory, as the lower layers have them. @diff_ids are the layers, lowest first. */
int implied_repair(struct image_store *store, const struct digest *diff_ids, size_t n, int upper_fd, struct err **err);

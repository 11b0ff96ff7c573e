/* What instance.c has for those who look into writable layers. */
#pragma once

#include "internal.h"

void instance_free_paths(char ***paths);
/* Directories of the image's layers, topmost first, NULL at the end; at least one, and for a read-only mount two. */
int instance_lower_paths(struct image_store *store, const struct image *image, bool read_only, char ***ret,
        size_t *ret_n, struct err **err);
int instance_open_upper(struct image_store *store, const char *id, int *ret, struct err **err);

/* What instance.c has for those who look into writable layers. */
#pragma once

#include "internal.h"

void instance_free_paths(char ***paths);
/* Directories of the layers @diff_ids (lowest first), topmost first and each once, NULL at the end; empty ones where
 * overlayfs wants more: one lower directory, and two without an upper one. */
int instance_lower_paths(struct image_store *store, const struct digest *diff_ids, size_t n_layers, bool read_only,
        char ***ret, size_t *ret_n, struct err **err);
int instance_open_upper(struct image_store *store, const char *id, int *ret, struct err **err);

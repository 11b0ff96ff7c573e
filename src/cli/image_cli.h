/* What the `strata image` commands share: the store, output. */
#pragma once

#include <jansson.h>

#include "base/cleanup.h"
#include "cli.h"
#include "image/image.h"
#include "options.h"

/* --root's value or the default, in a user namespace where that is needed. */
int image_cli_open(const char *root, struct image_store **ret, struct err **err);

/* "12.3 MB" */
struct image_size {
        char text[24];
};
struct image_size image_size_text(u64 bytes);
/* What of an id people read. */
static inline const char *image_id_hex(const char *id)
{
        return id + sizeof("sha256:") - 1;
}

/* Lines on a terminal, nothing elsewhere. */
struct image_bars;
struct image_bars *image_bars_new(bool quiet);
const struct image_progress *image_bars_progress(struct image_bars *bars);
struct image_bars *image_bars_free(struct image_bars *bars);
static inline void image_bars_freep(struct image_bars **bars)
{
        image_bars_free(*bars);
}

/* What `strata image inspect` and `strata inspect` print about one. */
int image_inspect_json(struct image_store *store, const char *name, json_t **ret, struct err **err);

int image_build_command(int argc, char **argv, struct err **err);
int image_ls_command(int argc, char **argv, struct err **err);
int image_inspect_command(int argc, char **argv, struct err **err);
int image_history_command(int argc, char **argv, struct err **err);

/* Which file of a snapshot each page of RAM is in: pure functions.
 *
 * A snapshot's RAM is one or more *layers*, sparse files as large as RAM: the first is a whole machine's, each of the others has what changed since the one
 * before. While a snapshot is made, one byte for each page says where it is; what is written to disk and mapped later are runs of such pages. */
#pragma once

#include "base/err.h"

#define SNAPSHOT_LAYERS_MAX 16U
/* Each run is a mapping of the process that is restored. Linux allows 65,530, and the balloon and the engines want some. */
#define SNAPSHOT_RUNS_MAX 8192U

/* A page's byte, when it is not a layer's number. */
#define SNAPSHOT_ZERO        0xff /* zeros, in no file */
#define SNAPSHOT_JOINED      0xfe /* unchanged, but to be written to the new layer */
#define SNAPSHOT_JOINED_ZERO 0xfd /* zeros, but to be of the new layer, as a hole */

struct snapshot_run {
        u64 first, n; /* pages, in the memfd's order */
        u8 layer;     /* or SNAPSHOT_ZERO */
};

struct snapshot_map {
        struct snapshot_run *runs; /* follow each other, and are all of RAM */
        size_t n_runs;
};

void snapshot_map_free(struct snapshot_map *map);
/* The runs of @n bytes of pages, joined ones being of layer @top. -E2BIG when there are more than @max of them. */
int snapshot_map_from_pages(const u8 *pages, u64 n, u8 top, size_t max, struct snapshot_map *ret, struct err **err);
void snapshot_map_to_pages(const struct snapshot_map *map, u8 *pages);
/* Makes pages between two of layer @top joined ones, where they are fewer than @gap; bytes of joined pages count as @top. */
void snapshot_pages_join(u8 *pages, u64 n, u8 top, u64 gap);
/* Whether the runs are all of @n pages, in order, of layers below @n_layers. For files, which are not trusted. */
bool snapshot_map_is_sound(const struct snapshot_map *map, u64 n, unsigned n_layers);

#include "snapshot_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void snapshot_map_free(struct snapshot_map *map)
{
        free(map->runs);
        *map = (struct snapshot_map){ 0 };
}

static u8 layer_of(u8 page, u8 top)
{
        return page == SNAPSHOT_JOINED || page == SNAPSHOT_JOINED_ZERO ? top : page;
}

/* The first page behind the run that begins at @first. */
static u64 run_end(const u8 *pages, u64 first, u64 n, u8 top)
{
        const u8 layer = layer_of(pages[first], top);
        u64 end = first + 1;

        while (end < n && layer_of(pages[end], top) == layer)
                end++;
        return end;
}

int snapshot_map_from_pages(const u8 *pages, u64 n, u8 top, size_t max, struct snapshot_map *ret, struct err **err)
{
        struct snapshot_map map = { 0 };
        size_t count = 0;

        for (u64 at = 0; at < n; at = run_end(pages, at, n, top))
                if (++count > max)
                        return -E2BIG;
        map.runs = calloc(count ? count : 1, sizeof(*map.runs));
        if (!map.runs)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the map of a snapshot");
        for (u64 at = 0, end; at < n; at = end) {
                end = run_end(pages, at, n, top);
                map.runs[map.n_runs++] = (struct snapshot_run){ .first = at, .n = end - at, .layer = layer_of(pages[at], top) };
        }
        *ret = map;
        return 0;
}

void snapshot_map_to_pages(const struct snapshot_map *map, u8 *pages)
{
        for (size_t i = 0; i < map->n_runs; i++)
                memset(pages + map->runs[i].first, map->runs[i].layer, map->runs[i].n);
}

void snapshot_pages_join(u8 *pages, u64 n, u8 top, u64 gap)
{
        u64 behind = n; /* the first page behind the last run of @top; n: there was none yet */

        for (u64 at = 0, end; at < n; at = end) {
                end = run_end(pages, at, n, top);
                if (layer_of(pages[at], top) != top)
                        continue;
                if (behind < at && at - behind < gap)
                        for (u64 i = behind; i < at; i++)
                                pages[i] = pages[i] == SNAPSHOT_ZERO ? SNAPSHOT_JOINED_ZERO : SNAPSHOT_JOINED;
                behind = end;
        }
}

bool snapshot_map_is_sound(const struct snapshot_map *map, u64 n, unsigned n_layers)
{
        u64 at = 0;

        for (size_t i = 0; i < map->n_runs; i++) {
                const struct snapshot_run *run = &map->runs[i];

                if (run->first != at || !run->n || run->n > n - at || (run->layer >= n_layers && run->layer != SNAPSHOT_ZERO))
                        return false;
                at += run->n;
        }
        return at == n;
}

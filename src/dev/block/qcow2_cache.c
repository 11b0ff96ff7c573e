/* A set-associative write-back cache of table slices: bounded memory, no lists. When all ways of a set are dirty, everything is
 * written back in the safe order (qcow2_write_tables), which cleans the whole cache. */
#include <errno.h>
#include <stdlib.h>

#include "qcow2.h"

int table_cache_init(struct table_cache *cache, u32 slice_bytes, unsigned n_slices)
{
        *cache = (struct table_cache){ .slice_bytes = slice_bytes, .n_sets = n_slices / TABLE_CACHE_WAYS };
        cache->memory = malloc((size_t)n_slices * slice_bytes);
        cache->slices = calloc(n_slices, sizeof(*cache->slices));
        if (!cache->memory || !cache->slices)
                return -ENOMEM; /* the caller frees */
        for (unsigned i = 0; i < n_slices; i++)
                cache->slices[i].data = cache->memory + (size_t)i * slice_bytes;
        return 0;
}

void table_cache_free(struct table_cache *cache)
{
        free(cache->memory);
        free(cache->slices);
        *cache = (struct table_cache){ 0 };
}

static struct table_slice *set_of(struct table_cache *cache, u64 offset)
{
        const u64 n = offset / cache->slice_bytes;

        return &cache->slices[((n ^ (n >> 12)) & (cache->n_sets - 1)) * TABLE_CACHE_WAYS];
}

static struct table_slice *find(struct table_cache *cache, u64 offset)
{
        struct table_slice *set = set_of(cache, offset);

        for (unsigned i = 0; i < TABLE_CACHE_WAYS; i++)
                if (set[i].offset == offset)
                        return &set[i];
        return NULL;
}

/* The clean slice of a set that was not used for the longest time; NULL when all are dirty. */
static struct table_slice *find_victim(struct table_slice *set)
{
        struct table_slice *victim = NULL;

        for (unsigned i = 0; i < TABLE_CACHE_WAYS; i++)
                if (!set[i].dirty && (!victim || set[i].used < victim->used))
                        victim = &set[i];
        return victim;
}

int table_cache_get(struct qcow2 *q, struct table_cache *cache, u64 offset, struct table_slice **ret)
{
        struct table_slice *slice = find(cache, offset);
        int r;

        if (!slice) {
                slice = find_victim(set_of(cache, offset));
                if (!slice) {
                        r = qcow2_write_tables(q, false);
                        if (r < 0)
                                return r;
                        slice = find_victim(set_of(cache, offset));
                        if (!slice)
                                return -EIO;
                }
                slice->offset = 0;
                slice->used = 0;
                r = host_file_read(&q->file, slice->data, cache->slice_bytes, offset);
                if (r < 0)
                        return r;
                slice->offset = offset;
        }
        slice->used = ++cache->clock;
        *ret = slice;
        return 0;
}

int table_cache_write_dirty(struct qcow2 *q, struct table_cache *cache)
{
        for (unsigned i = 0; i < cache->n_sets * TABLE_CACHE_WAYS && cache->n_dirty > 0; i++) {
                struct table_slice *slice = &cache->slices[i];
                int r;

                if (!slice->dirty)
                        continue;
                r = host_file_write(&q->file, slice->data, cache->slice_bytes, slice->offset);
                if (r < 0)
                        return r;
                slice->dirty = false;
                cache->n_dirty--;
        }
        return 0;
}

void table_cache_drop(struct table_cache *cache, u64 offset, u64 bytes)
{
        for (u64 o = offset; o < offset + bytes; o += cache->slice_bytes) {
                struct table_slice *slice = find(cache, o);

                if (!slice)
                        continue;
                cache->n_dirty -= slice->dirty;
                slice->dirty = false;
                slice->offset = 0;
                slice->used = 0;
        }
}

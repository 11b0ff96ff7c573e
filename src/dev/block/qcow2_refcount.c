/* Reference counts: which clusters of the file are in use.
 *
 * The reference count table has one entry for each block of counts. A block that does not exist yet is made at the first cluster that it
 * counts: everything it counts is free, so that cluster is too, and the block counts itself. A table that is too small is replaced by a
 * larger one right behind everything that the old one covers, together with the blocks that count it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qcow2.h"

/* L2 entries have room for 56 bits of offset; stay far away from what off_t can take. */
#define FILE_BYTES_MAX BIT(55)

static u64 entries_per_block(const struct qcow2 *q)
{
        return q->cluster_bytes * 8 >> q->refcount_order;
}

static u64 count_get(const struct qcow2 *q, const u8 *data, u64 i)
{
        const unsigned bits_each = 1U << q->refcount_order;
        u64 value = 0;

        if (bits_each < 8) {
                const u64 bit = i * bits_each;

                return (data[bit / 8] >> (bit % 8)) & (BIT(bits_each) - 1);
        }
        for (unsigned b = 0; b < bits_each / 8; b++)
                value = value << 8 | data[i * (bits_each / 8) + b];
        return value;
}

static void count_set(const struct qcow2 *q, u8 *data, u64 i, u64 value)
{
        const unsigned bits_each = 1U << q->refcount_order;

        if (bits_each < 8) {
                const u64 bit = i * bits_each;
                const unsigned mask = (unsigned)(BIT(bits_each) - 1) << (bit % 8);

                data[bit / 8] = (u8)((data[bit / 8] & ~mask) | (unsigned)value << (bit % 8));
                return;
        }
        for (unsigned b = bits_each / 8; b-- > 0; value >>= 8)
                data[i * (bits_each / 8) + b] = (u8)value;
}

/* The slice that counts @cluster, whose block exists; @ret_i is its index there and @ret_n the slice's length. */
static int get_slice(struct qcow2 *q, u64 cluster, struct table_slice **ret, u64 *ret_i, u64 *ret_n)
{
        const u64 per_block = entries_per_block(q);
        const u64 per_slice = (u64)q->refcount_cache.slice_bytes * 8 >> q->refcount_order;
        const u64 in_block = cluster % per_block;

        *ret_i = in_block % per_slice;
        *ret_n = per_slice;
        return table_cache_get(q, &q->refcount_cache,
                               q->reftable[cluster / per_block] + in_block / per_slice * q->refcount_cache.slice_bytes, ret);
}

int qcow2_extend_file(struct qcow2 *q, u64 end)
{
        if (end <= q->file.size)
                return 0;
        if (q->file.is_block_device)
                return -ENOSPC;
        if (ftruncate(q->file.fd, (off_t)end) < 0)
                return -errno;
        q->file.size = end;
        return 0;
}

static int write_reftable_entry(struct qcow2 *q, u64 i, u64 value)
{
        u8 be[8];

        put_be64_at(be, value);
        return host_file_write(&q->file, be, sizeof(be), q->reftable_offset + i * 8);
}

/* Makes the block of counts number @i. */
static int create_block(struct qcow2 *q, u64 i)
{
        const u64 cluster = i * entries_per_block(q), offset = cluster << q->cluster_bits;
        _cleanup_free_ u8 *data = calloc(1, q->cluster_bytes);
        int r;

        if (!data)
                return -ENOMEM;
        if (cluster == 0 || cluster_set_has(&q->metadata, cluster))
                return qcow2_corrupt(q, "metadata without reference counts", offset);
        count_set(q, data, 0, 1);
        r = qcow2_extend_file(q, offset + q->cluster_bytes);
        if (r == 0)
                r = host_file_write(&q->file, data, q->cluster_bytes, offset);
        if (r == 0)
                r = host_file_sync(&q->file); /* the block before what refers to it */
        if (r == 0)
                r = cluster_set_add(&q->metadata, cluster);
        if (r < 0)
                return r;
        r = write_reftable_entry(q, i, offset);
        if (r < 0) {
                cluster_set_remove(&q->metadata, cluster);
                return r;
        }
        q->reftable[i] = offset;
        return 0;
}

/* How a larger table is laid out, from cluster `first` on: its new blocks, then itself. */
struct growth {
        u64 first, n_blocks, n_table;
        u64 entries;
};

static int plan_growth(const struct qcow2 *q, struct growth *ret)
{
        const u64 per_cluster = q->cluster_bytes / 8, per_block = entries_per_block(q);
        const u64 old_table = (q->reftable_entries + per_cluster - 1) / per_cluster;
        struct growth g = { .first = q->reftable_entries * per_block, .n_table = old_table + MAX(old_table / 2, 1ULL) };

        for (;; g.n_table++) {
                g.n_blocks = (g.n_table + per_block - 2) / (per_block - 1);
                g.entries = g.n_table * per_cluster;
                if (g.n_table * q->cluster_bytes > QCOW2_REFTABLE_BYTES_MAX ||
                    g.first + g.n_blocks + g.n_table > FILE_BYTES_MAX >> q->cluster_bits)
                        return -EFBIG;
                if (g.entries > q->reftable_entries + g.n_blocks)
                        break;
        }
        *ret = g;
        return 0;
}

static int write_new_blocks(struct qcow2 *q, const struct growth *g)
{
        const u64 per_block = entries_per_block(q);
        _cleanup_free_ u8 *data = malloc(q->cluster_bytes);
        int r;

        if (!data)
                return -ENOMEM;
        for (u64 b = 0; b < g->n_blocks; b++) {
                memset(data, 0, q->cluster_bytes);
                for (u64 i = 0; i < per_block && b * per_block + i < g->n_blocks + g->n_table; i++)
                        count_set(q, data, i, 1);
                r = host_file_write(&q->file, data, q->cluster_bytes, (g->first + b) << q->cluster_bits);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int write_new_table(struct qcow2 *q, const struct growth *g, const u64 *table, u64 offset)
{
        _cleanup_free_ u8 *data = malloc(g->entries * 8);
        u8 header[12];
        int r;

        if (!data)
                return -ENOMEM;
        for (u64 i = 0; i < g->entries; i++)
                put_be64_at(data + i * 8, table[i]);
        r = host_file_write(&q->file, data, g->entries * 8, offset);
        if (r == 0)
                r = host_file_sync(&q->file);
        if (r < 0)
                return r;
        put_be64_at(header, offset);
        for (unsigned i = 0; i < 4; i++)
                header[8 + i] = (u8)(g->n_table >> (24 - 8 * i));
        r = host_file_write(&q->file, header, sizeof(header), HEADER_REFTABLE);
        return r < 0 ? r : host_file_sync(&q->file);
}

static int grow_table(struct qcow2 *q)
{
        const u64 old_offset = q->reftable_offset, old_bytes = q->reftable_entries * 8;
        _cleanup_free_ u64 *table = NULL;
        struct growth g;
        u64 offset;
        int r;

        r = plan_growth(q, &g);
        if (r < 0)
                return r;
        for (u64 c = g.first; c < g.first + g.n_blocks + g.n_table; c++)
                if (cluster_set_has(&q->metadata, c))
                        return qcow2_corrupt(q, "metadata without reference counts", c << q->cluster_bits);
        r = qcow2_free_reserve(q, (unsigned)(old_bytes >> q->cluster_bits) + 1);
        if (r < 0)
                return r;
        table = calloc(g.entries, sizeof(*table));
        if (!table)
                return -ENOMEM;
        memcpy(table, q->reftable, old_bytes);
        for (u64 b = 0; b < g.n_blocks; b++)
                table[q->reftable_entries + b] = (g.first + b) << q->cluster_bits;
        offset = (g.first + g.n_blocks) << q->cluster_bits;
        r = qcow2_extend_file(q, offset + (g.n_table << q->cluster_bits));
        if (r == 0)
                r = write_new_blocks(q, &g);
        for (u64 c = 0; r >= 0 && c < g.n_blocks + g.n_table; c++)
                r = cluster_set_add(&q->metadata, g.first + c);
        if (r < 0)
                return r;
        r = write_new_table(q, &g, table, offset);
        if (r < 0)
                return r;
        free(q->reftable);
        q->reftable = TAKE_PTR(table);
        q->reftable_entries = g.entries;
        q->reftable_offset = offset;
        for (u64 o = old_offset; o < old_offset + old_bytes; o += q->cluster_bytes)
                qcow2_free_later(q, o, true);
        return 0;
}

/* Finds a free cluster in the slice that counts @cluster, at or behind it. 1 when there is one. */
static int alloc_in_slice(struct qcow2 *q, u64 *cluster)
{
        struct table_slice *slice;
        u64 i, n;
        int r;

        r = get_slice(q, *cluster, &slice, &i, &n);
        if (r < 0)
                return r;
        for (; i < n; i++, (*cluster)++) {
                if (count_get(q, slice->data, i) != 0)
                        continue;
                if (*cluster == 0 || cluster_set_has(&q->metadata, *cluster))
                        return qcow2_corrupt(q, "metadata that is counted as free", *cluster << q->cluster_bits);
                count_set(q, slice->data, i, 1);
                table_slice_dirty(&q->refcount_cache, slice);
                return 1;
        }
        return 0;
}

int qcow2_alloc_cluster(struct qcow2 *q, u64 *ret_offset)
{
        const u64 per_block = entries_per_block(q);
        u64 cluster = q->free_hint;
        int r;

        do {
                if (cluster >= FILE_BYTES_MAX >> q->cluster_bits)
                        return -EFBIG;
                if (cluster / per_block >= q->reftable_entries)
                        r = grow_table(q);
                else if (q->reftable[cluster / per_block] == 0)
                        r = create_block(q, cluster / per_block);
                else
                        r = alloc_in_slice(q, &cluster);
                if (r < 0)
                        return r;
        } while (r == 0);
        q->free_hint = cluster + 1;
        *ret_offset = cluster << q->cluster_bits;
        return 0;
}

/* Takes one off a cluster's count. */
static int drop_reference(struct qcow2 *q, u64 offset, bool is_table, bool was_used)
{
        const u64 cluster = offset >> q->cluster_bits, block = cluster / entries_per_block(q);
        struct table_slice *slice;
        u64 i, n, count;
        int r;

        if (block >= q->reftable_entries || q->reftable[block] == 0)
                return qcow2_corrupt(q, "a cluster in use without a reference count", offset);
        r = get_slice(q, cluster, &slice, &i, &n);
        if (r < 0)
                return r;
        count = count_get(q, slice->data, i);
        if (count == 0)
                return qcow2_corrupt(q, "a cluster in use that is counted as free", offset);
        if (!is_table && cluster_set_has(&q->metadata, cluster))
                return qcow2_corrupt(q, "data that is metadata too", offset);
        count_set(q, slice->data, i, count - 1);
        table_slice_dirty(&q->refcount_cache, slice);
        if (count > 1)
                return 0;
        if (is_table) {
                cluster_set_remove(&q->metadata, cluster);
                table_cache_drop(&q->l2_cache, offset, q->cluster_bytes);
        }
        q->free_hint = MIN(q->free_hint, cluster);
        if (was_used)
                host_file_punch(&q->file, offset, q->cluster_bytes);
        return 0;
}

void qcow2_unalloc_cluster(struct qcow2 *q, u64 offset)
{
        drop_reference(q, offset, false, false); /* at worst the cluster is leaked */
}

void qcow2_free_later(struct qcow2 *q, u64 offset, bool is_table)
{
        if (q->n_pending < PENDING_FREES_MAX) /* otherwise leaked; callers reserve */
                q->pending[q->n_pending++] = offset | (is_table ? PENDING_TABLE : 0);
}

int qcow2_free_reserve(struct qcow2 *q, unsigned n)
{
        int r;

        if (q->n_pending + n <= PENDING_FREES_MAX)
                return 0;
        r = qcow2_write_tables(q, true);
        return r < 0 ? r : qcow2_apply_frees(q);
}

int qcow2_apply_frees(struct qcow2 *q)
{
        const unsigned n = q->n_pending_ready;
        int r = 0;

        for (unsigned i = 0; i < n; i++) {
                const int e = drop_reference(q, q->pending[i] & ~PENDING_TABLE, q->pending[i] & PENDING_TABLE, true);

                if (e < 0 && r == 0)
                        r = e;
        }
        memmove(q->pending, q->pending + n, (q->n_pending - n) * sizeof(*q->pending));
        q->n_pending -= n;
        q->n_pending_ready = 0;
        return r;
}

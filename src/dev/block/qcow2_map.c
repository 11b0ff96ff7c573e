/* From the guest's offsets to the file's: L1 table, L2 tables, and what their entries mean. */
#include <errno.h>

#include "qcow2.h"

static u64 l1_index(const struct qcow2 *q, u64 offset)
{
        return offset >> (q->cluster_bits + q->l2_bits);
}

void qcow2_compressed_range(const struct qcow2 *q, u64 entry, u64 *ret_offset, u64 *ret_bytes)
{
        /* Bits 0..x-1 are the offset, x..61 the number of further 512-byte sectors. */
        const unsigned x = 62 - (q->cluster_bits - 8);
        const u64 offset = entry & (BIT(x) - 1), sectors = bits(entry, 61, x) + 1;

        *ret_offset = offset;
        *ret_bytes = sectors * 512 - offset % 512;
}

/* What one L2 entry says; @unshared: its table has one user. Not set: bytes. Returns NULL, or what is wrong with it. */
static const char *parse_entry(const struct qcow2 *q, u64 entry, bool unshared, struct extent *ret)
{
        struct extent e = { .entry = entry };
        u64 bytes;

        if (entry & ENTRY_COMPRESSED) {
                e.type = EXTENT_COMPRESSED;
                qcow2_compressed_range(q, entry, &e.host, &bytes);
                *ret = e;
                return e.host < q->file.size ? NULL : "a compressed cluster behind the end of the file";
        }
        e.host = entry & ENTRY_OFFSET;
        e.in_place = unshared && (entry & ENTRY_COPIED) && e.host;
        if (e.host % q->cluster_bytes != 0)
                return "a cluster that is not aligned";
        if (e.host >= ALIGN_UP(q->file.size, q->cluster_bytes))
                return "a cluster behind the end of the file";
        if ((entry & ENTRY_ZERO) && q->version < 3)
                return "a zero cluster, which version 2 does not have,";
        if (entry & ENTRY_ZERO)
                e.type = EXTENT_ZERO;
        else
                e.type = e.host ? EXTENT_DATA : EXTENT_BACKING;
        *ret = e;
        return NULL;
}

static bool continues(const struct extent *first, const struct extent *next, u64 distance)
{
        if (first->type == EXTENT_COMPRESSED || next->type != first->type || next->in_place != first->in_place)
                return false;
        return first->host ? next->host == first->host + distance : next->host == 0;
}

static int get_l2_slice(struct qcow2 *q, u64 offset, struct table_slice **ret, u32 *ret_i, u32 *ret_n)
{
        const u64 index = (offset >> q->cluster_bits) & (BIT(q->l2_bits) - 1);
        const u32 per_slice = q->l2_cache.slice_bytes / 8;

        *ret_i = (u32)(index % per_slice);
        *ret_n = per_slice;
        return table_cache_get(q, &q->l2_cache,
                               (q->l1[l1_index(q, offset)] & ENTRY_OFFSET) + index / per_slice * q->l2_cache.slice_bytes, ret);
}

static int map_in_table(struct qcow2 *q, u64 offset, u64 bytes, struct extent *ret)
{
        const bool unshared = q->l1[l1_index(q, offset)] & ENTRY_COPIED;
        const u64 in_cluster = offset & (q->cluster_bytes - 1);
        struct table_slice *slice;
        struct extent first, next;
        u64 covered = q->cluster_bytes;
        const char *wrong;
        u32 i, n;
        int r;

        r = get_l2_slice(q, offset, &slice, &i, &n);
        if (r < 0)
                return r;
        wrong = parse_entry(q, be64_at(slice->data + i * 8), unshared, &first);
        if (wrong)
                return qcow2_corrupt(q, wrong, be64_at(slice->data + i * 8) & ENTRY_OFFSET);
        /* A bad entry further on is reported when somebody asks for it. */
        for (i++; i < n && covered - in_cluster < bytes; i++, covered += q->cluster_bytes)
                if (parse_entry(q, be64_at(slice->data + i * 8), unshared, &next) || !continues(&first, &next, covered))
                        break;
        first.bytes = MIN(bytes, covered - in_cluster);
        if (first.type == EXTENT_DATA)
                first.host += in_cluster;
        *ret = first;
        return 0;
}

int qcow2_map(struct qcow2 *q, u64 offset, u64 bytes, struct extent *ret)
{
        const u64 index = l1_index(q, offset), table_bytes = q->cluster_bytes << q->l2_bits;
        int r;

        if (index >= q->l1_entries)
                return -EINVAL;
        if ((q->l1[index] & ENTRY_OFFSET) == 0) {
                *ret = (struct extent){ .type = EXTENT_BACKING, .bytes = MIN(bytes, table_bytes - (offset & (table_bytes - 1))) };
                return 0;
        }
        pthread_mutex_lock(&q->lookup_lock);
        r = map_in_table(q, offset, bytes, ret);
        pthread_mutex_unlock(&q->lookup_lock);
        return r;
}

int qcow2_set_entry(struct qcow2 *q, u64 offset, u64 entry)
{
        struct table_slice *slice;
        u32 i, n;
        int r;

        r = get_l2_slice(q, offset, &slice, &i, &n);
        if (r < 0)
                return r;
        put_be64_at(slice->data + i * 8, entry);
        table_slice_dirty(&q->l2_cache, slice);
        return 0;
}

/* Fills the new table at @host: with zeros, or with what the shared one at @old has. */
static int fill_table(struct qcow2 *q, u64 host, u64 old)
{
        const bool fresh = host >= q->file.size;
        int r;

        r = qcow2_extend_file(q, host + q->cluster_bytes);
        if (r < 0)
                return r;
        if (old == 0)
                return fresh ? 0 : host_file_zero(&q->file, host, q->cluster_bytes, false);
        r = host_file_read(&q->file, q->bounce, q->cluster_bytes, old);
        return r < 0 ? r : host_file_write(&q->file, q->bounce, q->cluster_bytes, host);
}

int qcow2_prepare_table(struct qcow2 *q, u64 offset)
{
        const u64 index = l1_index(q, offset);
        u64 old, host;
        int r;

        if (index >= q->l1_entries)
                return -EINVAL;
        if (q->l1[index] & ENTRY_COPIED)
                return 0;
        old = q->l1[index] & ENTRY_OFFSET;
        r = qcow2_free_reserve(q, 1);
        if (r == 0)
                r = qcow2_alloc_cluster(q, &host);
        if (r < 0)
                return r;
        r = fill_table(q, host, old);
        if (r == 0)
                r = cluster_set_add(&q->metadata, host >> q->cluster_bits);
        if (r < 0) {
                qcow2_unalloc_cluster(q, host);
                return r;
        }
        q->data_unsynced = true;
        table_cache_drop(&q->l2_cache, host, q->cluster_bytes);
        q->l1[index] = host | ENTRY_COPIED;
        q->l1_dirty[index / L1_SECTOR_ENTRIES] = true;
        q->l1_any_dirty = true;
        if (old)
                qcow2_free_later(q, old, true);
        return 0;
}

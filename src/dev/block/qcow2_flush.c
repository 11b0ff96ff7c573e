/* Write-back. The order is the promise: after a crash at any moment every reference on disk is counted on disk, and every table
 * that is referred to was written before. So at worst clusters are counted that nobody uses (leaks).
 *
 *   1. reference counts, which only went up; data in new clusters and the contents of new tables were written before
 *   2. sync
 *   3. L2 and L1 entries: an entry that survives without the other is harmless, as each refers to what is stable since 2
 *   4. sync, if asked for
 *   5. now the clusters that lost their last user may be counted down (qcow2_apply_frees) */
#include <errno.h>

#include "base/log.h"
#include "qcow2.h"

bool qcow2_tables_dirty(const struct qcow2 *q)
{
        return q->l1_any_dirty || q->l2_cache.n_dirty > 0 || q->refcount_cache.n_dirty > 0;
}

static int write_l1(struct qcow2 *q)
{
        u8 sector[L1_SECTOR_ENTRIES * 8];

        for (u32 i = 0; i < q->l1_entries; i += L1_SECTOR_ENTRIES) {
                const u32 n = MIN(L1_SECTOR_ENTRIES, q->l1_entries - i);
                int r;

                if (!q->l1_dirty[i / L1_SECTOR_ENTRIES])
                        continue;
                for (u32 k = 0; k < n; k++)
                        put_be64_at(sector + k * 8, q->l1[i + k]);
                r = host_file_write(&q->file, sector, n * 8, q->l1_offset + (u64)i * 8);
                if (r < 0)
                        return r;
                q->l1_dirty[i / L1_SECTOR_ENTRIES] = false;
        }
        q->l1_any_dirty = false;
        return 0;
}

static int write_ordered(struct qcow2 *q)
{
        int r;

        if (q->refcount_cache.n_dirty > 0)
                q->data_unsynced = true;
        r = table_cache_write_dirty(q, &q->refcount_cache);
        if (r == 0 && q->data_unsynced && (q->l2_cache.n_dirty > 0 || q->l1_any_dirty)) {
                r = host_file_sync(&q->file);
                q->data_unsynced = r < 0;
        }
        if (r == 0)
                r = table_cache_write_dirty(q, &q->l2_cache);
        if (r == 0 && q->l1_any_dirty)
                r = write_l1(q);
        return r;
}

int qcow2_write_tables(struct qcow2 *q, bool sync)
{
        int r;

        if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
                return -EIO;
        r = write_ordered(q);
        if (r < 0 || !sync)
                return r;
        r = host_file_sync(&q->file);
        if (r < 0)
                return r;
        q->data_unsynced = false;
        q->n_pending_ready = q->n_pending;
        return 0;
}

int qcow2_corrupt(struct qcow2 *q, const char *what, u64 where)
{
        u8 be[8];

        if (__atomic_exchange_n(&q->corrupt, true, __ATOMIC_RELAXED))
                return -EIO;
        log_error("disk image '%s' is damaged: %s at 0x%llx%s", q->path, what, (unsigned long long)where,
                  q->image.read_only ? "" : "; no more writes to it. Stop the machine and run: qemu-img check");
        if (!q->image.read_only && q->version >= 3) {
                put_be64_at(be, q->incompatible | INCOMPATIBLE_CORRUPT);
                if (host_file_write(&q->file, be, sizeof(be), HEADER_INCOMPATIBLE) < 0)
                        log_error("disk image '%s' cannot be marked as damaged", q->path);
        }
        return -EIO;
}

bool qcow2_is_data(const struct qcow2 *q, u64 offset, u64 bytes)
{
        if (bytes == 0)
                return true;
        for (u64 c = offset >> q->cluster_bits; c <= (offset + bytes - 1) >> q->cluster_bits; c++)
                if (c == 0 || cluster_set_has(&q->metadata, c))
                        return false;
        return true;
}

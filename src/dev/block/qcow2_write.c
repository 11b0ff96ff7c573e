/* Writing.
 *
 * A cluster that belongs to this image alone is written in place, with the gate held for reading: many at once. Anything else -
 * unallocated, zero, compressed, shared with a snapshot - gets a new cluster, with the gate held for writing: the whole cluster is put
 * together (old contents around the new) and written, then the L2 entry changes, then the old cluster is given up. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2.h"

/* How many clusters are allocated before others get their turn. */
#define WRITE_BATCH 32

/* Gate held for reading. Writes up to the first cluster that needs a new place; advances. */
static int write_in_place(struct qcow2 *q, struct iov_cursor *cursor, u64 *bytes, u64 *offset)
{
        struct extent extent;
        int r;

        while (*bytes > 0) {
                r = qcow2_map(q, *offset, *bytes, &extent);
                if (r < 0)
                        return r;
                if (extent.type != EXTENT_DATA || !extent.in_place)
                        return 0;
                if (!qcow2_is_data(q, extent.host, extent.bytes))
                        return qcow2_corrupt(q, "guest data mapped onto metadata", extent.host);
                r = host_file_writev(&q->file, cursor, extent.bytes, extent.host);
                if (r < 0)
                        return r;
                *offset += extent.bytes;
                *bytes -= extent.bytes;
        }
        return 0;
}

static bool reads_as_zeros(const struct qcow2 *q, const struct extent *extent, u64 offset)
{
        if (extent->type == EXTENT_BACKING)
                return !q->no_backing && (!q->backing || offset >= q->backing->size);
        return extent->type == EXTENT_ZERO;
}

/* Gives the cluster at @host its contents: @old's, with @bytes at @offset from the cursor. Advances only when it succeeds. */
static int fill_cluster(struct qcow2 *q, const struct extent *old, u64 host, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        const u64 start = cluster_start(q, offset);
        const bool zeros = reads_as_zeros(q, old, start), fresh = host >= q->file.size;
        struct iovec iov = { .iov_base = q->bounce, .iov_len = q->cluster_bytes };
        struct iov_cursor bounce = { .iov = &iov, .n = 1 }, next = *cursor;
        int r;

        r = qcow2_extend_file(q, host + q->cluster_bytes);
        if (r < 0)
                return r;
        if (bytes == q->cluster_bytes || (zeros && fresh)) {
                r = host_file_writev(&q->file, &next, bytes, host + (offset - start));
        } else {
                r = qcow2_read_extent(q, old, &bounce, q->cluster_bytes, start);
                if (r < 0)
                        return r;
                iov_get(&next, q->bounce + (offset - start), bytes);
                r = host_file_write(&q->file, q->bounce, q->cluster_bytes, host);
        }
        if (r == 0)
                *cursor = next;
        return r;
}

/* The last cluster of the image may be partly behind its end; the L2 entry covers all of it all the same. */
static int map_cluster(struct qcow2 *q, u64 offset, struct extent *ret)
{
        return qcow2_map(q, cluster_start(q, offset), q->cluster_bytes, ret);
}

/* Gate held for writing: a part of one cluster. */
static int write_cluster(struct qcow2 *q, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        struct extent old;
        bool reuse;
        u64 host;
        int r;

        r = map_cluster(q, offset, &old);
        if (r < 0)
                return r;
        if (old.type == EXTENT_DATA && old.in_place) { /* somebody else was faster */
                u64 left = bytes;

                return write_in_place(q, cursor, &left, &offset);
        }
        r = qcow2_free_reserve(q, QCOW2_FREES_PER_ENTRY + 1);
        if (r == 0)
                r = qcow2_prepare_table(q, offset);
        if (r < 0)
                return r;
        reuse = old.type == EXTENT_ZERO && old.in_place;
        host = old.host;
        if (reuse && !qcow2_is_data(q, host, q->cluster_bytes))
                return qcow2_corrupt(q, "guest data mapped onto metadata", host);
        if (!reuse)
                r = qcow2_alloc_cluster(q, &host);
        if (r < 0)
                return r;
        r = fill_cluster(q, &old, host, cursor, bytes, offset);
        if (r == 0) {
                q->data_unsynced = true;
                r = qcow2_set_entry(q, offset, host | ENTRY_COPIED);
        }
        if (r < 0 && !reuse)
                qcow2_unalloc_cluster(q, host);
        if (r == 0 && !reuse)
                qcow2_free_entry(q, old.entry);
        return r;
}

void qcow2_free_entry(struct qcow2 *q, u64 entry)
{
        u64 offset = entry & ENTRY_OFFSET, bytes = q->cluster_bytes;

        if (entry & ENTRY_COMPRESSED)
                qcow2_compressed_range(q, entry, &offset, &bytes);
        else if (offset == 0)
                return;
        for (u64 c = offset >> q->cluster_bits; c <= (offset + bytes - 1) >> q->cluster_bits; c++)
                qcow2_free_later(q, c << q->cluster_bits, false);
}

static int write_allocating(struct qcow2 *q, struct iov_cursor *cursor, u64 *bytes, u64 *offset)
{
        for (unsigned i = 0; i < WRITE_BATCH && *bytes > 0; i++) {
                const u64 len = MIN(*bytes, cluster_start(q, *offset) + q->cluster_bytes - *offset);
                const int r = write_cluster(q, cursor, len, *offset);

                if (r < 0)
                        return r;
                *offset += len;
                *bytes -= len;
        }
        return 0;
}

int qcow2_write(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        struct qcow2 *q = to_qcow2(image);
        int r = 0;

        while (r == 0 && bytes > 0) {
                if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
                        return -EIO;
                pthread_rwlock_rdlock(&q->gate);
                r = write_in_place(q, cursor, &bytes, &offset);
                pthread_rwlock_unlock(&q->gate);
                if (r < 0 || bytes == 0)
                        break;
                pthread_rwlock_wrlock(&q->gate);
                r = write_allocating(q, cursor, &bytes, &offset);
                pthread_rwlock_unlock(&q->gate);
        }
        return r;
}

/* Discard and write_zeroes: whole clusters by changing their L2 entry, the rest by writing zeros. */
#include <errno.h>

#include "qcow2.h"

enum zero_mode {
        MODE_DISCARD,     /* give the cluster up */
        MODE_ZERO,        /* keep the space */
        MODE_ZERO_UNMAP,
};

/* What the L2 entry becomes; @old->entry when nothing is to be done. -EOPNOTSUPP: this version of the format cannot say it. */
static int new_entry(const struct qcow2 *q, const struct extent *old, enum zero_mode mode, u64 *ret)
{
        const bool has_backing = q->backing || q->no_backing;

        *ret = old->entry;
        if (old->type == EXTENT_BACKING && (mode == MODE_DISCARD || !has_backing))
                return 0;
        if (old->type == EXTENT_ZERO && (old->host == 0 || mode == MODE_ZERO))
                return 0;
        if (q->version < 3) {
                if (has_backing)
                        return mode == MODE_DISCARD ? 0 : -EOPNOTSUPP; /* the backing file would shine through */
                *ret = 0;
                return 0;
        }
        if (mode == MODE_ZERO && old->type == EXTENT_DATA && old->in_place)
                *ret = (old->entry & ENTRY_OFFSET) | ENTRY_COPIED | ENTRY_ZERO;
        else
                *ret = mode == MODE_DISCARD && !has_backing ? 0 : ENTRY_ZERO;
        return 0;
}

/* Gate held for writing. Handles the cluster at @offset; @ret_bytes is how far the next one is. */
static int zero_cluster(struct qcow2 *q, u64 offset, u64 bytes, enum zero_mode mode, u64 *ret_bytes)
{
        struct extent old;
        u64 entry;
        int r;

        r = qcow2_map(q, offset, bytes, &old);
        if (r < 0)
                return r;
        r = new_entry(q, &old, mode, &entry);
        if (r < 0)
                return r;
        if (entry == old.entry) {
                *ret_bytes = ALIGN_UP(old.bytes, q->cluster_bytes);
                return 0;
        }
        r = qcow2_free_reserve(q, QCOW2_FREES_PER_ENTRY + 1);
        if (r == 0)
                r = qcow2_prepare_table(q, offset);
        if (r == 0)
                r = qcow2_set_entry(q, offset, entry);
        if (r < 0)
                return r;
        if ((entry & ENTRY_OFFSET) == 0)
                qcow2_free_entry(q, old.entry);
        *ret_bytes = q->cluster_bytes;
        return 0;
}

/* [offset, end) in whole clusters, where `end` may also be the image's end. */
static int zero_clusters(struct qcow2 *q, u64 offset, u64 end, enum zero_mode mode)
{
        int r = 0;

        while (r == 0 && offset < end) {
                u64 step = 0;

                if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
                        return -EIO;
                pthread_rwlock_wrlock(&q->gate);
                for (unsigned i = 0; i < 64 && r == 0 && offset < end; i++) {
                        r = zero_cluster(q, offset, end - offset, mode, &step);
                        offset += r == 0 ? step : 0;
                }
                pthread_rwlock_unlock(&q->gate);
        }
        return r;
}

static int write_zero_bytes(struct qcow2 *q, u64 offset, u64 bytes)
{
        static const u8 zeros[64 * KIB];

        while (bytes > 0) {
                struct iovec iov = { .iov_base = (void *)zeros, .iov_len = MIN(bytes, (u64)sizeof(zeros)) };
                struct iov_cursor cursor = { .iov = &iov, .n = 1 };
                const u64 len = iov.iov_len;
                const int r = qcow2_write(&q->image, &cursor, len, offset);

                if (r < 0)
                        return r;
                offset += len;
                bytes -= len;
        }
        return 0;
}

/* Where the whole clusters of a range are: [*ret_start, *ret_end), empty when there is none. */
static void whole_clusters(const struct qcow2 *q, u64 offset, u64 bytes, u64 *ret_start, u64 *ret_end)
{
        const u64 end = offset + bytes;

        *ret_start = ALIGN_UP(offset, q->cluster_bytes);
        *ret_end = end == q->image.size ? end : cluster_start(q, end);
        if (*ret_end <= *ret_start)
                *ret_start = *ret_end = end;
}

int qcow2_discard(struct image *image, u64 offset, u64 bytes)
{
        struct qcow2 *q = to_qcow2(image);
        u64 start, end;

        whole_clusters(q, offset, bytes, &start, &end);
        return zero_clusters(q, start, end, MODE_DISCARD);
}

int qcow2_write_zeroes(struct image *image, u64 offset, u64 bytes, bool unmap)
{
        struct qcow2 *q = to_qcow2(image);
        const u64 range_end = offset + bytes;
        u64 start, end;
        int r;

        whole_clusters(q, offset, bytes, &start, &end);
        r = write_zero_bytes(q, offset, start - offset);
        if (r < 0)
                return r;
        r = zero_clusters(q, start, end, unmap ? MODE_ZERO_UNMAP : MODE_ZERO);
        if (r == -EOPNOTSUPP)
                r = write_zero_bytes(q, start, end - start);
        return r < 0 ? r : write_zero_bytes(q, end, range_end - end);
}

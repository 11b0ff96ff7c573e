#include <errno.h>

#include "qcow2.h"

static int read_backing(struct qcow2 *q, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        u64 inside = 0;
        int r = 0;

        if (q->no_backing)
                return -EIO;
        if (q->backing && offset < q->backing->size)
                inside = MIN(bytes, q->backing->size - offset);
        if (inside > 0)
                r = q->backing->ops->read(q->backing, cursor, inside, offset);
        if (r == 0)
                iov_zero(cursor, bytes - inside);
        return r;
}

int qcow2_read_extent(struct qcow2 *q, const struct extent *extent, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        switch (extent->type) {
        case EXTENT_BACKING:
                return read_backing(q, cursor, bytes, offset);
        case EXTENT_ZERO:
                iov_zero(cursor, bytes);
                return 0;
        case EXTENT_DATA:
                return host_file_readv(&q->file, cursor, bytes, extent->host);
        case EXTENT_COMPRESSED:
                return qcow2_read_compressed(q, extent->entry, cursor, bytes, offset & (q->cluster_bytes - 1));
        }
        return -EIO;
}

int qcow2_read(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        struct qcow2 *q = to_qcow2(image);
        struct extent extent = { 0 };
        int r = 0;

        /* Held during the I/O, so that no cluster changes its use between look-up and read. */
        pthread_rwlock_rdlock(&q->gate);
        while (r == 0 && bytes > 0) {
                r = qcow2_map(q, offset, bytes, &extent);
                if (r == 0)
                        r = qcow2_read_extent(q, &extent, cursor, extent.bytes, offset);
                offset += extent.bytes;
                bytes -= extent.bytes;
        }
        pthread_rwlock_unlock(&q->gate);
        return r;
}

/* Compressed clusters: read only; a write to one replaces it by a plain cluster. The last decompressed cluster is kept, since guests
 * read sequentially in smaller pieces. Source: qcow2 specification, "Compressed Clusters Descriptor"; zlib data is a raw deflate
 * stream with a 4 KiB window. */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "qcow2.h"

static int unpack_zlib(struct qcow2 *q, size_t packed_bytes)
{
        z_stream z = { .next_in = q->packed, .avail_in = (uInt)packed_bytes,
                       .next_out = q->unpacked, .avail_out = (uInt)q->cluster_bytes };
        int r;

        if (inflateInit2(&z, -12) != Z_OK)
                return -ENOMEM;
        r = inflate(&z, Z_FINISH);
        inflateEnd(&z);
        /* The input is padded to a sector, so that inflate may want to go on (Z_BUF_ERROR) after a full cluster. */
        return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int unpack_zstd(struct qcow2 *q, size_t packed_bytes)
{
        ZSTD_DStream *stream = ZSTD_createDStream();
        ZSTD_inBuffer in = { .src = q->packed, .size = packed_bytes };
        ZSTD_outBuffer out = { .dst = q->unpacked, .size = q->cluster_bytes };

        if (!stream)
                return -ENOMEM;
        while (out.pos < out.size) {
                const size_t in_before = in.pos, out_before = out.pos;
                const size_t r = ZSTD_decompressStream(stream, &out, &in);

                if (ZSTD_isError(r) || (in.pos == in_before && out.pos == out_before))
                        break;
        }
        ZSTD_freeDStream(stream);
        return out.pos == out.size ? 0 : -EIO;
}

/* unpack_lock held: makes q->unpacked hold the cluster of @entry. */
static int unpack(struct qcow2 *q, u64 entry)
{
        u64 offset, bytes;
        struct iovec iov;
        struct iov_cursor cursor = { .iov = &iov, .n = 1 };
        int r;

        if (q->unpacked_entry == entry)
                return 0;
        qcow2_compressed_range(q, entry, &offset, &bytes);
        if (!q->unpacked)
                q->unpacked = malloc(q->cluster_bytes);
        if (!q->packed)
                q->packed = malloc(q->cluster_bytes * 2);
        if (!q->unpacked || !q->packed)
                return -ENOMEM;
        if (bytes > q->cluster_bytes * 2)
                return -EIO;
        q->unpacked_entry = 0;
        /* The last sector of the file may be missing in part. */
        iov = (struct iovec){ .iov_base = q->packed, .iov_len = bytes };
        r = host_file_readv(&q->file, &cursor, bytes, offset);
        if (r < 0)
                return r;
        r = q->compression == COMPRESSION_ZSTD ? unpack_zstd(q, bytes) : unpack_zlib(q, bytes);
        if (r == -EIO)
                return qcow2_corrupt(q, "compressed data that cannot be decompressed", offset);
        if (r == 0)
                q->unpacked_entry = entry;
        return r;
}

int qcow2_read_compressed(struct qcow2 *q, u64 entry, struct iov_cursor *cursor, u64 bytes, u64 at)
{
        int r;

        pthread_mutex_lock(&q->unpack_lock);
        r = unpack(q, entry);
        if (r == 0)
                iov_put(cursor, q->unpacked + at, bytes);
        pthread_mutex_unlock(&q->unpack_lock);
        return r;
}

#include <errno.h>
#include <string.h>

#include "internal.h"

int iov_length(const struct iovec *iov, unsigned n, u64 *ret)
{
        u64 sum = 0;

        for (unsigned i = 0; i < n; i++)
                if (__builtin_add_overflow(sum, (u64)iov[i].iov_len, &sum))
                        return -EINVAL;
        *ret = sum;
        return 0;
}

unsigned iov_window(const struct iov_cursor *cursor, u64 bytes, struct iovec *out, unsigned max, u64 *ret_bytes)
{
        size_t skip = cursor->skip;
        unsigned n_out = 0;
        u64 sum = 0;

        for (unsigned i = 0; i < cursor->n && n_out < max && sum < bytes; i++, skip = 0) {
                const u64 len = MIN((u64)cursor->iov[i].iov_len - skip, bytes - sum);

                if (len == 0)
                        continue;
                out[n_out++] = (struct iovec){ .iov_base = (u8 *)cursor->iov[i].iov_base + skip, .iov_len = len };
                sum += len;
        }
        *ret_bytes = sum;
        return n_out;
}

void iov_advance(struct iov_cursor *cursor, u64 bytes)
{
        while (cursor->n > 0 && bytes >= (u64)cursor->iov->iov_len - cursor->skip) {
                bytes -= (u64)cursor->iov->iov_len - cursor->skip;
                cursor->iov++;
                cursor->n--;
                cursor->skip = 0;
        }
        if (cursor->n > 0)
                cursor->skip += bytes;
}

/* Calls @chunk for each contiguous piece of the next @bytes. */
static void for_each_chunk(struct iov_cursor *cursor, u64 bytes, void (*chunk)(void *piece, void *other, u64 len),
                           u8 *other)
{
        while (bytes > 0) {
                struct iovec piece;
                u64 len;

                if (iov_window(cursor, bytes, &piece, 1, &len) == 0)
                        return;
                chunk(piece.iov_base, other, len);
                if (other)
                        other += len;
                bytes -= len;
                iov_advance(cursor, len);
        }
}

static void chunk_zero(void *piece, void *other, u64 len)
{
        (void)other;
        memset(piece, 0, len);
}

static void chunk_put(void *piece, void *other, u64 len)
{
        memcpy(piece, other, len);
}

static void chunk_get(void *piece, void *other, u64 len)
{
        memcpy(other, piece, len);
}

void iov_zero(struct iov_cursor *cursor, u64 bytes)
{
        for_each_chunk(cursor, bytes, chunk_zero, NULL);
}

void iov_put(struct iov_cursor *cursor, const void *src, u64 bytes)
{
        for_each_chunk(cursor, bytes, chunk_put, (u8 *)src);
}

void iov_get(struct iov_cursor *cursor, void *dst, u64 bytes)
{
        for_each_chunk(cursor, bytes, chunk_get, dst);
}

/* Bytes that wait, one behind the other. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/types.h"

struct byte_queue {
        u8 *data;
        size_t first, n, cap;
};

/* The first of @q->n bytes. */
static inline u8 *byte_queue_data(const struct byte_queue *q)
{
        return q->data ? q->data + q->first : NULL;
}

/* False: no memory; nothing changed. */
static inline bool byte_queue_add(struct byte_queue *q, const void *data, size_t n)
{
        if (q->first + q->n + n > q->cap) {
                const size_t cap = MAX(q->cap, (q->n + n) * 2);
                u8 *grown = cap > q->cap ? malloc(cap) : q->data;

                if (!grown)
                        return false;
                if (q->n)
                        memmove(grown, q->data + q->first, q->n);
                if (grown != q->data)
                        free(q->data);
                q->data = grown;
                q->cap = cap;
                q->first = 0;
        }
        if (n)
                memcpy(q->data + q->first + q->n, data, n);
        q->n += n;
        return true;
}

static inline void byte_queue_drop(struct byte_queue *q, size_t n)
{
        q->first += n;
        q->n -= n;
        if (q->n)
                return;
        free(q->data); /* most of the time nothing waits */
        *q = (struct byte_queue){ 0 };
}

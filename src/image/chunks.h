/* Bytes on their way between threads: pieces of fixed size that may have several readers, and bounded queues of them. */
#pragma once

#include <pthread.h>

#include "base/err.h"

#define CHUNK_SIZE   (256U * 1024U)
#define QUEUE_CHUNKS 8U

struct chunk {
        struct chunk *next; /* in the pool */
        unsigned refs;
        size_t len;
        u8 data[CHUNK_SIZE];
};

/* Chunks are used again: fresh ones would be fresh pages. */
struct chunk_pool {
        pthread_mutex_t lock;
        struct chunk *free;
};

void chunk_pool_init(struct chunk_pool *pool);
void chunk_pool_clear(struct chunk_pool *pool);
/* With one reference. NULL without memory. */
struct chunk *chunk_new(struct chunk_pool *pool);
struct chunk *chunk_ref(struct chunk *chunk);
void chunk_unref(struct chunk_pool *pool, struct chunk *chunk);

struct chunk_queue {
        pthread_mutex_t lock;
        pthread_cond_t changed;
        struct chunk_pool *pool;
        struct chunk *ring[QUEUE_CHUNKS];
        unsigned head, count;
        bool ended;   /* the writer is done */
        bool stopped; /* either side gave up */
};

void chunk_queue_init(struct chunk_queue *queue, struct chunk_pool *pool);
void chunk_queue_clear(struct chunk_queue *queue);
/* Takes over the reference. -EPIPE when the other side gave up. */
int chunk_queue_put(struct chunk_queue *queue, struct chunk *chunk);
void chunk_queue_end(struct chunk_queue *queue);
/* The next chunk; NULL at the end, -EPIPE when the other side gave up. */
int chunk_queue_get(struct chunk_queue *queue, struct chunk **ret);
void chunk_queue_stop(struct chunk_queue *queue);

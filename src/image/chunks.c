#include "chunks.h"

#include <errno.h>
#include <stdlib.h>

void chunk_pool_init(struct chunk_pool *pool)
{
        pthread_mutex_init(&pool->lock, NULL);
        pool->free = NULL;
}

void chunk_pool_clear(struct chunk_pool *pool)
{
        struct chunk *chunk;

        while ((chunk = pool->free)) {
                pool->free = chunk->next;
                free(chunk);
        }
        pthread_mutex_destroy(&pool->lock);
}

struct chunk *chunk_new(struct chunk_pool *pool)
{
        struct chunk *chunk;

        pthread_mutex_lock(&pool->lock);
        chunk = pool->free;
        if (chunk)
                pool->free = chunk->next;
        pthread_mutex_unlock(&pool->lock);
        if (!chunk)
                chunk = malloc(sizeof(*chunk));
        if (chunk) {
                chunk->refs = 1;
                chunk->len = 0;
        }
        return chunk;
}

struct chunk *chunk_ref(struct chunk *chunk)
{
        __atomic_add_fetch(&chunk->refs, 1, __ATOMIC_RELAXED);
        return chunk;
}

void chunk_unref(struct chunk_pool *pool, struct chunk *chunk)
{
        /* Pairs with itself: the last one to go sees what the others did. */
        if (!chunk || __atomic_sub_fetch(&chunk->refs, 1, __ATOMIC_ACQ_REL) > 0)
                return;
        pthread_mutex_lock(&pool->lock);
        chunk->next = pool->free;
        pool->free = chunk;
        pthread_mutex_unlock(&pool->lock);
}

void chunk_queue_init(struct chunk_queue *queue, struct chunk_pool *pool)
{
        *queue = (struct chunk_queue){ .pool = pool };
        pthread_mutex_init(&queue->lock, NULL);
        pthread_cond_init(&queue->changed, NULL);
}

void chunk_queue_clear(struct chunk_queue *queue)
{
        for (; queue->count > 0; queue->count--)
                chunk_unref(queue->pool, queue->ring[queue->head++ % QUEUE_CHUNKS]);
        pthread_cond_destroy(&queue->changed);
        pthread_mutex_destroy(&queue->lock);
}

int chunk_queue_put(struct chunk_queue *queue, struct chunk *chunk)
{
        bool stopped;

        pthread_mutex_lock(&queue->lock);
        while (queue->count == QUEUE_CHUNKS && !queue->stopped)
                pthread_cond_wait(&queue->changed, &queue->lock);
        stopped = queue->stopped;
        if (!stopped) {
                queue->ring[(queue->head + queue->count++) % QUEUE_CHUNKS] = chunk;
                pthread_cond_signal(&queue->changed);
        }
        pthread_mutex_unlock(&queue->lock);
        if (!stopped)
                return 0;
        chunk_unref(queue->pool, chunk);
        return -EPIPE;
}

static void set_flag(struct chunk_queue *queue, bool *flag)
{
        pthread_mutex_lock(&queue->lock);
        *flag = true;
        pthread_cond_broadcast(&queue->changed);
        pthread_mutex_unlock(&queue->lock);
}

void chunk_queue_end(struct chunk_queue *queue)
{
        set_flag(queue, &queue->ended);
}

void chunk_queue_stop(struct chunk_queue *queue)
{
        set_flag(queue, &queue->stopped);
}

int chunk_queue_get(struct chunk_queue *queue, struct chunk **ret)
{
        int r = 0;

        pthread_mutex_lock(&queue->lock);
        while (queue->count == 0 && !queue->ended && !queue->stopped)
                pthread_cond_wait(&queue->changed, &queue->lock);
        if (queue->stopped) {
                r = -EPIPE;
        } else if (queue->count == 0) {
                *ret = NULL;
        } else {
                *ret = queue->ring[queue->head++ % QUEUE_CHUNKS];
                queue->count--;
                pthread_cond_signal(&queue->changed);
        }
        pthread_mutex_unlock(&queue->lock);
        return r;
}

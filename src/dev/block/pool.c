/* Threads that run requests against an image's synchronous functions.
 *
 * Threads start when there is work and no idle thread, up to POOL_THREADS, and stay until pool_free. They never take the
 * device lock, so whoever holds it may wait for them (block_drain). All signals are blocked in them. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "internal.h"

#define POOL_THREADS 4
#define POOL_STACK (256 * KIB)

struct request_list {
        struct block_request *head, **tail;
};

struct pool {
        struct image *image;
        int event_fd;
        pthread_mutex_t lock; /* of what follows; innermost */
        pthread_cond_t work;
        struct request_list todo, done;
        pthread_t threads[POOL_THREADS];
        unsigned n_threads, n_idle;
        bool stop;
};

static void list_init(struct request_list *list)
{
        list->head = NULL;
        list->tail = &list->head;
}

static void list_append(struct request_list *list, struct block_request *req)
{
        req->next = NULL;
        *list->tail = req;
        list->tail = &req->next;
}

static struct block_request *list_pop(struct request_list *list)
{
        struct block_request *req = list->head;

        if (req) {
                list->head = req->next;
                if (!list->head)
                        list->tail = &list->head;
        }
        return req;
}

static int run_transfer(struct image *image, struct block_request *req)
{
        struct iov_cursor cursor = { .iov = req->iov, .n = req->n_iov };
        const u64 offset = req->offset + req->progress, bytes = req->bytes - req->progress;

        iov_advance(&cursor, req->progress);
        return req->op == BLOCK_OP_READ ? image->ops->read(image, &cursor, bytes, offset) :
                                          image->ops->write(image, &cursor, bytes, offset);
}

static int run_request(struct image *image, struct block_request *req)
{
        int r = -EINVAL;

        switch (req->op) {
        case BLOCK_OP_READ:
        case BLOCK_OP_WRITE:
                r = run_transfer(image, req);
                break;
        case BLOCK_OP_FLUSH:
                return image->ops->flush(image);
        case BLOCK_OP_DISCARD:
                return image->ops->discard(image, req->offset, req->bytes);
        case BLOCK_OP_WRITE_ZEROES:
                r = image->ops->write_zeroes(image, req->offset, req->bytes, req->flags & BLOCK_REQ_UNMAP);
                break;
        case BLOCK_OP_COUNT:
                break;
        }
        if (r == 0 && (req->flags & BLOCK_REQ_FUA))
                r = image->ops->flush(image);
        return r;
}

static void finish(struct pool *pool, struct block_request *req)
{
        list_append(&pool->done, req);
        eventfd_write(pool->event_fd, 1); /* fails only when the counter is full, and then the loop is awake anyway */
}

static void *pool_thread(void *opaque)
{
        struct pool *pool = opaque;
        struct block_request *req;

        pthread_mutex_lock(&pool->lock);
        for (;;) {
                req = list_pop(&pool->todo);
                if (!req) {
                        if (pool->stop)
                                break;
                        pool->n_idle++;
                        pthread_cond_wait(&pool->work, &pool->lock);
                        pool->n_idle--;
                        continue;
                }
                pthread_mutex_unlock(&pool->lock);
                req->result = run_request(pool->image, req);
                pthread_mutex_lock(&pool->lock);
                finish(pool, req);
        }
        pthread_mutex_unlock(&pool->lock);
        return NULL;
}

/* pool->lock held. */
static void start_thread(struct pool *pool)
{
        sigset_t all, old;
        pthread_attr_t attr;

        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, POOL_STACK);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        if (pthread_create(&pool->threads[pool->n_threads], &attr, pool_thread, pool) == 0)
                pool->n_threads++;
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        pthread_attr_destroy(&attr);
}

int pool_new(struct image *image, int event_fd, struct pool **ret, struct err **err)
{
        struct pool *pool = calloc(1, sizeof(*pool));

        if (!pool)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for disk threads");
        pool->image = image;
        pool->event_fd = event_fd;
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->work, NULL);
        list_init(&pool->todo);
        list_init(&pool->done);
        *ret = pool;
        return 0;
}

struct pool *pool_free(struct pool *pool)
{
        if (!pool)
                return NULL;
        pthread_mutex_lock(&pool->lock);
        pool->stop = true;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        for (unsigned i = 0; i < pool->n_threads; i++)
                pthread_join(pool->threads[i], NULL);
        pthread_cond_destroy(&pool->work);
        pthread_mutex_destroy(&pool->lock);
        free(pool);
        return NULL;
}

void pool_submit(struct pool *pool, struct block_request *req)
{
        pthread_mutex_lock(&pool->lock);
        list_append(&pool->todo, req);
        if (pool->n_idle == 0 && pool->n_threads < POOL_THREADS)
                start_thread(pool);
        pthread_cond_signal(&pool->work);
        if (pool->n_threads == 0) {
                /* The host refuses threads: slow, but it works. */
                list_pop(&pool->todo);
                pthread_mutex_unlock(&pool->lock);
                req->result = run_request(pool->image, req);
                pthread_mutex_lock(&pool->lock);
                finish(pool, req);
        }
        pthread_mutex_unlock(&pool->lock);
}

struct block_request *pool_reap(struct pool *pool)
{
        struct block_request *list;

        pthread_mutex_lock(&pool->lock);
        list = pool->done.head;
        list_init(&pool->done);
        pthread_mutex_unlock(&pool->lock);
        return list;
}

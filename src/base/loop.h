/* The event loop of a thread: file descriptors and nanosecond timers, on libuv.
 *
 * A loop belongs to the thread that calls loop_run. It may have a lock (the machine's device lock): then every callback
 * runs with the lock held, and loop_timer_* and loop_fd_* may be called by any thread that holds the lock; from another thread changes
 * of descriptors are queued in the loop's mailbox. Without a lock they are for the loop's thread only (or before loop_run).
 * loop_post and loop_stop are thread-safe by themselves.
 *
 * Lifetime: loop_fd_remove stops callbacks at once when called under the lock (or on the loop's thread); the file
 * descriptor itself stays the caller's. */
#pragma once

#include <poll.h>
#include <pthread.h>

#include "err.h"

struct loop;
struct loop_fd;

/* @lock may be NULL; borrowed, must outlive the loop. */
struct loop *loop_new(pthread_mutex_t *lock, struct err **err);
/* Removes everything that is still registered. NULL is fine. Returns NULL. */
struct loop *loop_free(struct loop *loop);

/* Runs callbacks until loop_stop. */
int loop_run(struct loop *loop, struct err **err);
/* From any thread, also before loop_run. Async-signal-safe. */
void loop_stop(struct loop *loop);

/* Calls @fn once on the loop's thread, with the lock held. From any thread. -ENOMEM on failure. */
int loop_post(struct loop *loop, void (*fn)(void *opaque), void *opaque);

/* Calls @fn(opaque, revents) while @fd is ready; @events is of POLLIN, POLLOUT. NULL on failure, also for regular files,
 * which are always ready and therefore cannot be waited for. One watch a descriptor. */
struct loop_fd *loop_fd_add(struct loop *loop, int fd, int events, void (*fn)(void *opaque, int revents), void *opaque,
                            struct err **err);
/* 0 pauses the descriptor. */
void loop_fd_set_events(struct loop_fd *lfd, int events);
/* NULL is fine. Returns NULL. */
struct loop_fd *loop_fd_remove(struct loop_fd *lfd);

/* A one-shot timer, embedded in its owner. */
struct loop_timer {
        struct loop *loop;
        void (*fn)(void *opaque);
        void *opaque;
        u64 deadline_ns;         /* of clock_now_ns() */
        bool armed;
        struct loop_timer *next; /* by deadline */
};

void loop_timer_init(struct loop_timer *timer, struct loop *loop, void (*fn)(void *opaque), void *opaque);
/* (Re-)arms for the absolute time @deadline_ns. */
void loop_timer_set(struct loop_timer *timer, u64 deadline_ns);
void loop_timer_cancel(struct loop_timer *timer);

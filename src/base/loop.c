/* Theory of operation.
 *
 * libuv's timers tick in milliseconds, too coarse for a guest's TSC deadline, so timers are a list sorted by deadline
 * behind one timerfd. libuv's handles may only be touched on the loop's thread, so other threads append to a mailbox and
 * wake the loop with uv_async_send, the only thread-safe call libuv has.
 *
 * A loop_fd has one message of its own, so telling the loop's thread about it cannot fail: while that is queued it stands for all
 * changes. One that is removed may still be queued or have a callback in flight: `removed` is set first (under the device lock, which
 * callbacks hold), memory is freed when libuv has closed the handle.
 *
 * Guests program timers: one that is set again in the past each time it fires may take no more than TIMERS_A_ROUND calls before
 * the lock is let go and descriptors and messages have their turn. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <uv.h>

#include "clock.h"
#include "observe.h"

#define TIMERS_A_ROUND 64

struct message {
        struct message *next;
        void (*fn)(void *opaque);
        void *opaque;
        bool allocated; /* for this one call */
        bool queued;    /* atomic; set by who appends it, cleared before the call */
};

struct loop {
        uv_loop_t uv;
        uv_async_t wake;
        uv_poll_t timer_poll;
        int timer_fd;
        pthread_mutex_t *lock;          /* of the callbacks; may be NULL */
        pthread_mutex_t mailbox_lock;   /* innermost: nothing is called under it */
        struct message *mailbox, **mailbox_tail;
        struct loop_timer *timers;      /* sorted; under *lock */
        u64 armed_ns;                   /* what timer_fd is set to, 0 when off */
        bool stop;                      /* atomic; pairs with loop_stop */
        pthread_t thread;
        bool running;
};

struct loop_fd {
        uv_poll_t poll; /* first: libuv's close callback gets it */
        struct loop *loop;
        void (*fn)(void *opaque, int revents);
        void *opaque;
        int fd, events;
        bool removed, started;
        struct message message;
};

static void lock_callbacks(struct loop *loop)
{
        if (loop->lock)
                pthread_mutex_lock(loop->lock);
}

static void unlock_callbacks(struct loop *loop)
{
        if (loop->lock)
                pthread_mutex_unlock(loop->lock);
}

static void mailbox_drain(struct loop *loop)
{
        struct message *m, *next;

        pthread_mutex_lock(&loop->mailbox_lock);
        m = loop->mailbox;
        loop->mailbox = NULL;
        loop->mailbox_tail = &loop->mailbox;
        pthread_mutex_unlock(&loop->mailbox_lock);

        for (; m; m = next) {
                const bool allocated = m->allocated; /* the call may free what the message is part of */

                next = m->next;
                lock_callbacks(loop);
                /* Under the lock: who finds it still set may rely on the call seeing what he changed. */
                __atomic_store_n(&m->queued, false, __ATOMIC_RELEASE);
                m->fn(m->opaque);
                unlock_callbacks(loop);
                if (allocated)
                        free(m);
        }
}

static void mailbox_append(struct loop *loop, struct message *m)
{
        if (__atomic_exchange_n(&m->queued, true, __ATOMIC_ACQ_REL))
                return;
        m->next = NULL;
        pthread_mutex_lock(&loop->mailbox_lock);
        *loop->mailbox_tail = m;
        loop->mailbox_tail = &m->next;
        pthread_mutex_unlock(&loop->mailbox_lock);
        uv_async_send(&loop->wake);
}

static void on_wake(uv_async_t *async)
{
        struct loop *loop = container_of(async, struct loop, wake);

        mailbox_drain(loop);
        if (__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE))
                uv_stop(&loop->uv);
}

static void timers_arm(struct loop *loop)
{
        struct itimerspec spec = { 0 };
        u64 deadline = loop->timers ? MAX(loop->timers->deadline_ns, 1ULL) : 0;

        if (deadline == loop->armed_ns)
                return;
        spec.it_value.tv_sec = (time_t)(deadline / NSEC_PER_SEC);
        spec.it_value.tv_nsec = (long)(deadline % NSEC_PER_SEC);
        timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
        loop->armed_ns = deadline;
}

static void on_timer(uv_poll_t *poll, int status, int events)
{
        struct loop *loop = container_of(poll, struct loop, timer_poll);
        u64 expirations;

        (void)status;
        (void)events;
        lock_callbacks(loop);
        if (read(loop->timer_fd, &expirations, sizeof(expirations)) > 0)
                loop->armed_ns = 0;
        for (unsigned i = 0; loop->timers && i < TIMERS_A_ROUND; i++) {
                struct loop_timer *t = loop->timers;
                u64 now = clock_now_ns();

                if (t->deadline_ns > now)
                        break;
                loop->timers = t->next;
                t->armed = false;
                trace(TIMER_FIRE, now - t->deadline_ns);
                t->fn(t->opaque);
        }
        timers_arm(loop);
        unlock_callbacks(loop);
}

struct loop *loop_new(pthread_mutex_t *lock, struct err **err)
{
        struct loop *loop = calloc(1, sizeof(*loop));
        int r;

        if (!loop) {
                err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for an event loop");
                return NULL;
        }
        loop->lock = lock;
        loop->mailbox_tail = &loop->mailbox;
        pthread_mutex_init(&loop->mailbox_lock, NULL);
        loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (loop->timer_fd < 0) {
                err_sys(err, errno, "creating a timer");
                free(loop);
                return NULL;
        }
        r = uv_loop_init(&loop->uv);
        if (r < 0) {
                err_sys(err, -r, "creating an event loop");
                close(loop->timer_fd);
                free(loop);
                return NULL;
        }
        uv_async_init(&loop->uv, &loop->wake, on_wake);
        uv_poll_init(&loop->uv, &loop->timer_poll, loop->timer_fd);
        uv_poll_start(&loop->timer_poll, UV_READABLE, on_timer);
        return loop;
}

static void on_closed(uv_handle_t *handle)
{
        (void)handle;
}

static void on_fd_closed(uv_handle_t *handle)
{
        free(container_of((uv_poll_t *)handle, struct loop_fd, poll));
}

static void on_fd_ready(uv_poll_t *poll, int status, int events);

static void close_handle(uv_handle_t *handle, void *opaque)
{
        struct loop *loop = opaque;

        if (uv_is_closing(handle))
                return;
        if (handle == (uv_handle_t *)&loop->wake || handle == (uv_handle_t *)&loop->timer_poll)
                uv_close(handle, on_closed);
        else
                uv_close(handle, on_fd_closed);
}

struct loop *loop_free(struct loop *loop)
{
        if (!loop)
                return NULL;
        loop->running = false;
        mailbox_drain(loop);
        uv_walk(&loop->uv, close_handle, loop);
        while (uv_run(&loop->uv, UV_RUN_NOWAIT))
                ;
        uv_loop_close(&loop->uv);
        close(loop->timer_fd);
        pthread_mutex_destroy(&loop->mailbox_lock);
        free(loop);
        return NULL;
}

int loop_run(struct loop *loop, struct err **err)
{
        int r;

        loop->thread = pthread_self();
        __atomic_store_n(&loop->running, true, __ATOMIC_RELEASE);
        while (!__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE)) {
                r = uv_run(&loop->uv, UV_RUN_DEFAULT);
                if (r < 0)
                        return err_sys(err, -r, "running the event loop");
        }
        __atomic_store_n(&loop->running, false, __ATOMIC_RELEASE);
        return 0;
}

void loop_stop(struct loop *loop)
{
        __atomic_store_n(&loop->stop, true, __ATOMIC_RELEASE);
        uv_async_send(&loop->wake);
}

int loop_post(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
        struct message *m = malloc(sizeof(*m));

        if (!m)
                return -ENOMEM;
        *m = (struct message){ .fn = fn, .opaque = opaque, .allocated = true };
        mailbox_append(loop, m);
        return 0;
}

static void on_fd_ready(uv_poll_t *poll, int status, int events)
{
        struct loop_fd *lfd = container_of(poll, struct loop_fd, poll);
        struct loop *loop = lfd->loop;
        int revents = 0;

        if (events & UV_READABLE)
                revents |= POLLIN;
        if (events & UV_WRITABLE)
                revents |= POLLOUT;
        if (status < 0)
                revents |= POLLERR;
        lock_callbacks(loop);
        if (!lfd->removed && lfd->events)
                lfd->fn(lfd->opaque, revents);
        unlock_callbacks(loop);
}

/* On the loop's thread: makes libuv's state follow lfd's. */
static void fd_update(struct loop_fd *lfd)
{
        int events = 0;

        if (lfd->events & POLLIN)
                events |= UV_READABLE;
        if (lfd->events & POLLOUT)
                events |= UV_WRITABLE;
        if (!lfd->started) {
                if (lfd->removed || uv_poll_init(&lfd->loop->uv, &lfd->poll, lfd->fd) < 0) {
                        if (lfd->removed)
                                free(lfd);
                        return;
                }
                lfd->started = true;
        }
        if (lfd->removed)
                uv_close((uv_handle_t *)&lfd->poll, on_fd_closed);
        else if (events)
                uv_poll_start(&lfd->poll, events, on_fd_ready);
        else
                uv_poll_stop(&lfd->poll);
}

static void fd_update_message(void *opaque)
{
        fd_update(opaque);
}

static void fd_update_anywhere(struct loop_fd *lfd)
{
        struct loop *loop = lfd->loop;
        const bool here = !__atomic_load_n(&loop->running, __ATOMIC_ACQUIRE) ||
                          pthread_equal(loop->thread, pthread_self());

        if (here && !__atomic_load_n(&lfd->message.queued, __ATOMIC_ACQUIRE))
                fd_update(lfd);
        else
                mailbox_append(loop, &lfd->message);
}

struct loop_fd *loop_fd_add(struct loop *loop, int fd, int events, void (*fn)(void *opaque, int revents), void *opaque,
                            struct err **err)
{
        struct loop_fd *lfd = calloc(1, sizeof(*lfd));
        struct stat st;

        if (!lfd) {
                err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to watch a file descriptor");
                return NULL;
        }
        if (fstat(fd, &st) < 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
                err_set(err, ERR_UNSUPPORTED, EPERM, "file descriptor %d is of a kind that cannot be waited for", fd);
                free(lfd);
                return NULL;
        }
        lfd->loop = loop;
        lfd->fd = fd;
        lfd->events = events;
        lfd->fn = fn;
        lfd->opaque = opaque;
        lfd->message = (struct message){ .fn = fd_update_message, .opaque = lfd };
        fd_update_anywhere(lfd);
        return lfd;
}

void loop_fd_set_events(struct loop_fd *lfd, int events)
{
        if (lfd->events == events)
                return;
        lfd->events = events;
        fd_update_anywhere(lfd);
}

struct loop_fd *loop_fd_remove(struct loop_fd *lfd)
{
        if (lfd) {
                lfd->removed = true;
                fd_update_anywhere(lfd);
        }
        return NULL;
}

void loop_timer_init(struct loop_timer *timer, struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
        *timer = (struct loop_timer){ .loop = loop, .fn = fn, .opaque = opaque };
}

static void timer_unlink(struct loop_timer *timer)
{
        struct loop_timer **p = &timer->loop->timers;

        if (!timer->armed)
                return;
        while (*p != timer)
                p = &(*p)->next;
        *p = timer->next;
        timer->armed = false;
}

void loop_timer_set(struct loop_timer *timer, u64 deadline_ns)
{
        struct loop_timer **p = &timer->loop->timers;

        timer_unlink(timer);
        timer->deadline_ns = deadline_ns;
        while (*p && (*p)->deadline_ns <= deadline_ns)
                p = &(*p)->next;
        timer->next = *p;
        *p = timer;
        timer->armed = true;
        timers_arm(timer->loop);
}

void loop_timer_cancel(struct loop_timer *timer)
{
        timer_unlink(timer);
        /* A timerfd that is set too early only costs one wake-up, so it is left as it is. */
}

/* The event loop as its users see it: timers, descriptors and messages, from its own thread and from others. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/loop.h"

#define N_TIMERS 8

struct fixture {
        pthread_mutex_t lock;
        pthread_cond_t changed;
        struct loop *loop;
        pthread_t thread;
        bool threaded;
        int pipe[2];
        /* under the lock */
        unsigned calls; /* of whatever the test counts */
        unsigned rounds;
        unsigned order[64];
        unsigned n_order;
        bool unlocked; /* a callback ran without the lock */
        bool early;    /* a timer fired before its time */
        struct loop_fd *watch;
};

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));

        pthread_mutex_init(&x->lock, NULL);
        pthread_cond_init(&x->changed, NULL);
        x->loop = loop_new(&x->lock, NULL);
        assert_non_null(x->loop);
        assert_int_equal(pipe2(x->pipe, O_CLOEXEC | O_NONBLOCK), 0);
        *state = x;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        if (x->threaded) {
                loop_stop(x->loop);
                pthread_join(x->thread, NULL);
        }
        loop_free(x->loop);
        close(x->pipe[0]);
        close(x->pipe[1]);
        free(x);
        return 0;
}

static void *run(void *opaque)
{
        struct fixture *x = opaque;

        loop_run(x->loop, NULL);
        return NULL;
}

static void start(struct fixture *x)
{
        assert_int_equal(pthread_create(&x->thread, NULL, run, x), 0);
        x->threaded = true;
}

/* A default mutex that is held refuses even its holder. */
static void check_locked(struct fixture *x)
{
        if (pthread_mutex_trylock(&x->lock) == 0) {
                x->unlocked = true;
                pthread_mutex_unlock(&x->lock);
        }
}

static void count(void *opaque)
{
        struct fixture *x = opaque;

        check_locked(x);
        x->calls++;
        pthread_cond_broadcast(&x->changed);
}

/* With the lock held. */
static void wait_for_calls(struct fixture *x, unsigned n)
{
        while (x->calls < n)
                pthread_cond_wait(&x->changed, &x->lock);
}

static void count_round(void *opaque)
{
        struct fixture *x = opaque;

        x->rounds++;
        pthread_cond_broadcast(&x->changed);
}

/* With the lock held: comes back when the loop has been round, with everything done that was ready before. */
static void loop_round(struct fixture *x)
{
        for (unsigned i = 0; i < 2; i++) {
                const unsigned before = x->rounds;

                assert_int_equal(loop_post(x->loop, count_round, x), 0);
                while (x->rounds == before)
                        pthread_cond_wait(&x->changed, &x->lock);
        }
}

/* ---- stop and post ---- */

static void stop_before_run_is_not_lost(void **state)
{
        struct fixture *x = *state;

        loop_stop(x->loop);
        assert_int_equal(loop_run(x->loop, NULL), 0);
}

static void stop_from_another_thread_ends_run(void **state)
{
        struct fixture *x = *state;

        start(x);
        pthread_mutex_lock(&x->lock);
        loop_round(x);
        pthread_mutex_unlock(&x->lock);
        loop_stop(x->loop);
        pthread_join(x->thread, NULL);
        x->threaded = false;
}

struct posted {
        struct fixture *x;
        unsigned n;
};

static void record_posted(void *opaque)
{
        struct posted *p = opaque;

        check_locked(p->x);
        p->x->order[p->x->n_order++] = p->n;
        if (!pthread_equal(pthread_self(), p->x->thread))
                p->x->early = true;
        pthread_cond_broadcast(&p->x->changed);
}

static void posts_run_once_in_order_locked_and_on_the_loops_thread(void **state)
{
        struct fixture *x = *state;
        struct posted p[32];

        start(x);
        for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
                p[i] = (struct posted){ x, i };
                assert_int_equal(loop_post(x->loop, record_posted, &p[i]), 0);
        }
        pthread_mutex_lock(&x->lock);
        while (x->n_order < ARRAY_SIZE(p))
                pthread_cond_wait(&x->changed, &x->lock);
        loop_round(x);
        assert_int_equal(x->n_order, ARRAY_SIZE(p));
        for (unsigned i = 0; i < ARRAY_SIZE(p); i++)
                assert_int_equal(x->order[i], i);
        assert_false(x->unlocked);
        assert_false(x->early);
        pthread_mutex_unlock(&x->lock);
}

static void post_before_run_is_done(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(loop_post(x->loop, count, x), 0);
        start(x);
        pthread_mutex_lock(&x->lock);
        wait_for_calls(x, 1);
        pthread_mutex_unlock(&x->lock);
}

/* Whoever handed over ownership with a message must not lose it. */
static void free_delivers_what_was_posted(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(loop_post(x->loop, count, x), 0);
        x->loop = loop_free(x->loop);
        assert_int_equal(x->calls, 1);
}

/* ---- timers ---- */

struct test_timer {
        struct loop_timer timer;
        struct fixture *x;
        unsigned n;
};

static void record_timer(void *opaque)
{
        struct test_timer *t = opaque;

        check_locked(t->x);
        if (clock_now_ns() < t->timer.deadline_ns)
                t->x->early = true;
        if (t->timer.armed)
                t->x->unlocked = true;
        t->x->order[t->x->n_order++] = t->n;
        if (t->x->n_order == N_TIMERS)
                loop_stop(t->x->loop);
}

static void timers_init(struct fixture *x, struct test_timer *t)
{
        for (unsigned i = 0; i < N_TIMERS; i++) {
                t[i].x = x;
                t[i].n = i;
                loop_timer_init(&t[i].timer, x->loop, record_timer, &t[i]);
        }
}

static void assert_fired_in_order(const struct fixture *x)
{
        assert_int_equal(x->n_order, N_TIMERS);
        for (unsigned i = 0; i < N_TIMERS; i++)
                assert_int_equal(x->order[i], i);
        assert_false(x->unlocked);
        assert_false(x->early);
}

static void timers_fire_in_order_and_never_early(void **state)
{
        static const unsigned shuffled[N_TIMERS] = { 5, 2, 7, 0, 3, 6, 1, 4 };
        struct fixture *x = *state;
        struct test_timer t[N_TIMERS];
        const u64 now = clock_now_ns();

        timers_init(x, t);
        for (unsigned i = 0; i < N_TIMERS; i++)
                loop_timer_set(&t[shuffled[i]].timer, now + 2000000 + shuffled[i] * 300000);
        assert_int_equal(loop_run(x->loop, NULL), 0);
        assert_fired_in_order(x);
}

static void deadlines_one_nanosecond_apart_keep_their_order(void **state)
{
        struct fixture *x = *state;
        struct test_timer t[N_TIMERS];
        const u64 now = clock_now_ns();

        timers_init(x, t);
        for (unsigned i = N_TIMERS; i-- > 0;)
                loop_timer_set(&t[i].timer, now + 1000000 + i);
        assert_int_equal(loop_run(x->loop, NULL), 0);
        assert_fired_in_order(x);
}

static void equal_deadlines_fire_as_they_were_set(void **state)
{
        struct fixture *x = *state;
        struct test_timer t[N_TIMERS];
        const u64 deadline = clock_now_ns() + 1000000;

        timers_init(x, t);
        for (unsigned i = 0; i < N_TIMERS; i++)
                loop_timer_set(&t[i].timer, deadline);
        assert_int_equal(loop_run(x->loop, NULL), 0);
        assert_fired_in_order(x);
}

static void past_deadlines_fire_in_order_too(void **state)
{
        struct fixture *x = *state;
        struct test_timer t[N_TIMERS];

        timers_init(x, t);
        for (unsigned i = N_TIMERS; i-- > 0;)
                loop_timer_set(&t[i].timer, i);
        assert_int_equal(loop_run(x->loop, NULL), 0);
        assert_fired_in_order(x);
}

static void setting_again_moves_a_timer(void **state)
{
        struct fixture *x = *state;
        struct test_timer t[N_TIMERS];
        const u64 now = clock_now_ns();

        timers_init(x, t);
        for (unsigned i = 0; i < N_TIMERS; i++)
                loop_timer_set(&t[i].timer, now + (N_TIMERS - i) * 1000);
        for (unsigned i = 0; i < N_TIMERS; i++)
                loop_timer_set(&t[i].timer, now + 1000000 + i * 1000);
        assert_int_equal(loop_run(x->loop, NULL), 0);
        assert_fired_in_order(x);
}

static void cancelled_timer_does_not_fire(void **state)
{
        struct fixture *x = *state;
        struct test_timer cancelled = { .x = x, .n = 99 }, t[N_TIMERS];
        const u64 now = clock_now_ns();

        timers_init(x, t);
        loop_timer_init(&cancelled.timer, x->loop, record_timer, &cancelled);
        loop_timer_set(&cancelled.timer, now + 1000);
        for (unsigned i = 0; i < N_TIMERS; i++)
                loop_timer_set(&t[i].timer, now + 500000 + i);
        loop_timer_cancel(&cancelled.timer);
        assert_false(cancelled.timer.armed);
        loop_timer_cancel(&cancelled.timer);
        assert_int_equal(loop_run(x->loop, NULL), 0);
        assert_fired_in_order(x);
}

static void timer_set_by_another_thread_wakes_the_loop(void **state)
{
        struct fixture *x = *state;
        struct loop_timer far, near;

        loop_timer_init(&far, x->loop, count, x);
        loop_timer_init(&near, x->loop, count, x);
        start(x);
        pthread_mutex_lock(&x->lock);
        loop_timer_set(&far, clock_now_ns() + 3600 * NSEC_PER_SEC);
        loop_round(x);
        loop_timer_set(&near, clock_now_ns() + 100000);
        wait_for_calls(x, 1);
        assert_true(far.armed);
        assert_false(near.armed);
        loop_timer_cancel(&far);
        pthread_mutex_unlock(&x->lock);
}

struct storm {
        struct loop_timer timer;
        struct fixture *x;
};

static void set_again_in_the_past(void *opaque)
{
        struct storm *s = opaque;

        loop_timer_set(&s->timer, 1);
}

/* A guest programs its timers: one that is always due must leave the loop and the device lock to others. */
static void timer_that_is_always_due_does_not_starve_the_loop(void **state)
{
        struct fixture *x = *state;
        struct storm s = { .x = x };

        loop_timer_init(&s.timer, x->loop, set_again_in_the_past, &s);
        loop_timer_set(&s.timer, 1);
        start(x);
        pthread_mutex_lock(&x->lock);
        loop_round(x);
        loop_timer_cancel(&s.timer);
        pthread_mutex_unlock(&x->lock);
}

/* ---- descriptors ---- */

static void on_readable(void *opaque, int revents)
{
        struct fixture *x = opaque;
        char byte;

        check_locked(x);
        if (revents & POLLIN && read(x->pipe[0], &byte, 1) == 1)
                count(x);
}

static void write_byte(struct fixture *x)
{
        assert_int_equal(write(x->pipe[1], "x", 1), 1);
}

static void descriptor_from_another_thread_is_watched(void **state)
{
        struct fixture *x = *state;

        start(x);
        pthread_mutex_lock(&x->lock);
        loop_round(x);
        x->watch = loop_fd_add(x->loop, x->pipe[0], POLLIN, on_readable, x, NULL);
        assert_non_null(x->watch);
        for (unsigned i = 1; i <= 10; i++) {
                write_byte(x);
                wait_for_calls(x, i);
        }
        assert_false(x->unlocked);
        loop_fd_remove(x->watch);
        pthread_mutex_unlock(&x->lock);
}

static void no_events_pauses_and_events_resume(void **state)
{
        struct fixture *x = *state;

        start(x);
        pthread_mutex_lock(&x->lock);
        x->watch = loop_fd_add(x->loop, x->pipe[0], POLLIN, on_readable, x, NULL);
        loop_round(x);
        write_byte(x);
        usleep(2000); /* gives the loop time to see it and to wait for our lock; the test holds without */
        loop_fd_set_events(x->watch, 0);
        loop_round(x);
        assert_int_equal(x->calls, 0);
        loop_fd_set_events(x->watch, POLLIN);
        wait_for_calls(x, 1);
        loop_fd_remove(x->watch);
        pthread_mutex_unlock(&x->lock);
}

static void removed_descriptor_calls_back_no_more(void **state)
{
        struct fixture *x = *state;

        start(x);
        pthread_mutex_lock(&x->lock);
        x->watch = loop_fd_add(x->loop, x->pipe[0], POLLIN, on_readable, x, NULL);
        loop_round(x);
        write_byte(x);
        usleep(2000); /* as above */
        assert_null(loop_fd_remove(x->watch));
        loop_round(x);
        assert_int_equal(x->calls, 0);
        assert_null(loop_fd_remove(NULL));
        pthread_mutex_unlock(&x->lock);
}

static void on_writable(void *opaque, int revents)
{
        struct fixture *x = opaque;

        if (revents & POLLOUT) {
                loop_fd_set_events(x->watch, 0);
                count(x);
        }
}

static void callback_may_pause_its_own_descriptor(void **state)
{
        struct fixture *x = *state;

        start(x);
        pthread_mutex_lock(&x->lock);
        x->watch = loop_fd_add(x->loop, x->pipe[1], POLLOUT, on_writable, x, NULL);
        wait_for_calls(x, 1);
        loop_round(x);
        assert_int_equal(x->calls, 1);
        loop_fd_remove(x->watch);
        pthread_mutex_unlock(&x->lock);
}

static void remove_self(void *opaque, int revents)
{
        struct fixture *x = opaque;

        x->watch = loop_fd_remove(x->watch);
        count(x);
}

static void callback_may_remove_its_own_descriptor(void **state)
{
        struct fixture *x = *state;

        start(x);
        pthread_mutex_lock(&x->lock);
        x->watch = loop_fd_add(x->loop, x->pipe[1], POLLOUT, remove_self, x, NULL);
        wait_for_calls(x, 1);
        loop_round(x);
        assert_int_equal(x->calls, 1);
        pthread_mutex_unlock(&x->lock);
}

static void free_takes_what_is_still_registered(void **state)
{
        struct fixture *x = *state;
        struct loop_timer timer;

        loop_timer_init(&timer, x->loop, count, x);
        loop_timer_set(&timer, clock_now_ns() + NSEC_PER_SEC);
        assert_non_null(loop_fd_add(x->loop, x->pipe[0], POLLIN, on_readable, x, NULL));
        assert_non_null(loop_fd_add(x->loop, x->pipe[1], 0, on_writable, x, NULL));
        x->loop = loop_free(x->loop);
        assert_int_equal(x->calls, 0);
        assert_int_equal(fcntl(x->pipe[0], F_GETFD), FD_CLOEXEC); /* the descriptor stays the caller's */
        assert_null(loop_free(NULL));
}

static void descriptor_that_cannot_be_watched_is_an_error(void **state)
{
        struct fixture *x = *state;
        _cleanup_(err_freep) struct err *err = NULL;
        _cleanup_fclose_ FILE *file = tmpfile();

        assert_non_null(file);
        assert_null(loop_fd_add(x->loop, fileno(file), POLLIN, on_readable, x, &err));
        assert_non_null(err);
}

static void *add_and_remove(void *opaque)
{
        struct fixture *x = opaque;

        for (unsigned i = 0; i < 500; i++) {
                struct loop_fd *lfd;

                pthread_mutex_lock(&x->lock);
                lfd = loop_fd_add(x->loop, x->pipe[1], 0, on_writable, x, NULL);
                loop_fd_set_events(lfd, POLLIN);
                if (i % 2) {
                        pthread_mutex_unlock(&x->lock);
                        pthread_mutex_lock(&x->lock);
                }
                loop_fd_remove(lfd);
                pthread_mutex_unlock(&x->lock);
        }
        return NULL;
}

/* For the sanitizers: messages that speak of a descriptor that is gone. (One thread: libuv has one watcher a descriptor.) */
static void adding_and_removing_while_the_loop_runs_is_safe(void **state)
{
        struct fixture *x = *state;
        pthread_t thread;

        start(x);
        assert_int_equal(pthread_create(&thread, NULL, add_and_remove, x), 0);
        pthread_mutex_lock(&x->lock);
        for (unsigned i = 0; i < 50; i++)
                loop_round(x);
        pthread_mutex_unlock(&x->lock);
        pthread_join(thread, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(stop_before_run_is_not_lost),
                TEST(stop_from_another_thread_ends_run),
                TEST(posts_run_once_in_order_locked_and_on_the_loops_thread),
                TEST(post_before_run_is_done),
                TEST(free_delivers_what_was_posted),
                TEST(timers_fire_in_order_and_never_early),
                TEST(deadlines_one_nanosecond_apart_keep_their_order),
                TEST(equal_deadlines_fire_as_they_were_set),
                TEST(past_deadlines_fire_in_order_too),
                TEST(setting_again_moves_a_timer),
                TEST(cancelled_timer_does_not_fire),
                TEST(timer_set_by_another_thread_wakes_the_loop),
                TEST(timer_that_is_always_due_does_not_starve_the_loop),
                TEST(descriptor_from_another_thread_is_watched),
                TEST(no_events_pauses_and_events_resume),
                TEST(removed_descriptor_calls_back_no_more),
                TEST(callback_may_pause_its_own_descriptor),
                TEST(callback_may_remove_its_own_descriptor),
                TEST(free_takes_what_is_still_registered),
                TEST(descriptor_that_cannot_be_watched_is_an_error),
                TEST(adding_and_removing_while_the_loop_runs_is_safe),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

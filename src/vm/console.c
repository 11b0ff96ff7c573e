#include "console.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"

#define OUTPUT_SIZE (64 * 1024)
#define INPUT_SIZE  4096
/* Output is collected this long, so that a guest that writes byte by byte does not cost a wake-up each. */
#define GATHER_NS         1000000
#define CLOSE_PATIENCE_MS 1000

struct ring {
        u8 *data;
        size_t size, head, used; /* head: the oldest byte */
};

struct console {
        pthread_mutex_t lock; /* leaf */
        pthread_cond_t changed;
        struct ring output, input;
        int out_fd;
        bool close_out;
        bool closing; /* the writer is to end once the output is empty */
        bool failed;  /* nobody reads any more: drop */
        bool writer_done, writer_started;
        bool abandoned; /* the writer hangs in write(): it is not waited for */
        bool released;  /* by its owner: who of the two ends last frees it */
        bool input_was_full;
        bool feed_posted;
        pthread_t writer;
        struct loop *loop;
        int room_fd;
        console_guest_fn *guest;
        void *guest_opaque;
        bool (*ended)(void *opaque);
        void *ended_opaque;
};

static void console_destroy(struct console *console)
{
        if (console->close_out)
                close(console->out_fd);
        if (console->room_fd >= 0)
                close(console->room_fd);
        pthread_cond_destroy(&console->changed);
        pthread_mutex_destroy(&console->lock);
        free(console->output.data);
        free(console->input.data);
        free(console);
}

static size_t ring_put(struct ring *ring, const u8 *data, size_t n)
{
        size_t done = 0;

        n = MIN(n, ring->size - ring->used);
        while (done < n) {
                size_t tail = (ring->head + ring->used) % ring->size;
                size_t part = MIN(n - done, ring->size - tail);

                memcpy(ring->data + tail, data + done, part);
                ring->used += part;
                done += part;
        }
        return n;
}

/* The oldest bytes that lie in one piece. */
static size_t ring_front(const struct ring *ring, const u8 **ret)
{
        *ret = ring->data + ring->head;
        return MIN(ring->used, ring->size - ring->head);
}

static void ring_drop(struct ring *ring, size_t n)
{
        ring->head = (ring->head + n) % ring->size;
        ring->used -= n;
}

static bool is_ended(const struct console *console)
{
        return console->ended && console->ended(console->ended_opaque);
}

/* A deadline for pthread_cond_timedwait; the condition variable uses CLOCK_MONOTONIC. */
static struct timespec in_ms(u64 ms)
{
        u64 ns = clock_now_ns() + ms * 1000000;

        return (struct timespec){ .tv_sec = (time_t)(ns / NSEC_PER_SEC), .tv_nsec = (long)(ns % NSEC_PER_SEC) };
}

/* ---- output ---- */

/* Writes a piece without the lock; the bytes stay in the ring meanwhile, which only this thread empties. */
static void write_front(struct console *console)
{
        const u8 *data;
        size_t n = ring_front(&console->output, &data);
        ssize_t r;

        pthread_mutex_unlock(&console->lock);
        do
                r = write(console->out_fd, data, n);
        while (r < 0 && errno == EINTR);
        if (r < 0 && errno == EAGAIN) { /* somebody else made our standard output non-blocking */
                struct pollfd p = { .fd = console->out_fd, .events = POLLOUT };

                poll(&p, 1, 100);
                r = 0;
        }
        pthread_mutex_lock(&console->lock);
        if (r < 0) {
                console->failed = true;
                r = (ssize_t)console->output.used;
        }
        ring_drop(&console->output, (size_t)r);
        pthread_cond_broadcast(&console->changed);
}

static void *writer_main(void *arg)
{
        struct console *console = arg;
        const struct timespec gather = { .tv_nsec = GATHER_NS };
        bool last;

        pthread_mutex_lock(&console->lock);
        for (;;) {
                while (!console->output.used && !console->closing)
                        pthread_cond_wait(&console->changed, &console->lock);
                if (!console->output.used)
                        break;
                if (!console->closing && console->output.used < OUTPUT_SIZE / 2) {
                        pthread_mutex_unlock(&console->lock);
                        nanosleep(&gather, NULL);
                        pthread_mutex_lock(&console->lock);
                }
                while (console->output.used && !console->abandoned)
                        write_front(console);
                if (console->abandoned)
                        break;
        }
        console->writer_done = true;
        last = console->released;
        pthread_cond_broadcast(&console->changed);
        pthread_mutex_unlock(&console->lock);
        if (last)
                console_destroy(console);
        return NULL;
}

void console_output(struct console *console, const u8 *data, size_t n)
{
        if (console->out_fd < 0)
                return;
        pthread_mutex_lock(&console->lock);
        while (n && !console->failed) {
                bool was_empty = console->output.used == 0;
                size_t done = ring_put(&console->output, data, n);

                if (was_empty && done)
                        pthread_cond_broadcast(&console->changed);
                data += done;
                n -= done;
                if (n) {
                        struct timespec deadline = in_ms(50);

                        if (is_ended(console))
                                break;
                        pthread_cond_timedwait(&console->changed, &console->lock, &deadline);
                }
        }
        pthread_mutex_unlock(&console->lock);
}

/* ---- input ---- */

/* On the loop's thread with the device lock: gives the guest what it takes. */
static void feed_guest(void *opaque)
{
        struct console *console = opaque;
        u8 buf[256];
        size_t n, taken;
        const u8 *front;

        for (;;) {
                pthread_mutex_lock(&console->lock);
                console->feed_posted = false;
                n = MIN(ring_front(&console->input, &front), sizeof(buf));
                memcpy(buf, front, n);
                pthread_mutex_unlock(&console->lock);
                taken = n && console->guest ? console->guest(console->guest_opaque, buf, n) : 0;
                if (!taken)
                        return;
                pthread_mutex_lock(&console->lock);
                ring_drop(&console->input, MIN(taken, n));
                if (console->input_was_full) {
                        console->input_was_full = false;
                        eventfd_write(console->room_fd, 1);
                }
                pthread_mutex_unlock(&console->lock);
        }
}

void console_guest_ready(void *opaque)
{
        struct console *console = opaque;

        pthread_mutex_lock(&console->lock);
        if (console->input.used && !console->feed_posted && loop_post(console->loop, feed_guest, console) == 0)
                console->feed_posted = true;
        pthread_mutex_unlock(&console->lock);
}

void console_input(struct console *console, const u8 *data, size_t n)
{
        pthread_mutex_lock(&console->lock);
        ring_put(&console->input, data, n);
        if (!console->feed_posted && loop_post(console->loop, feed_guest, console) == 0)
                console->feed_posted = true;
        pthread_mutex_unlock(&console->lock);
}

size_t console_input_room(struct console *console)
{
        size_t room;

        pthread_mutex_lock(&console->lock);
        room = console->input.size - console->input.used;
        if (room == 0)
                console->input_was_full = true;
        pthread_mutex_unlock(&console->lock);
        return room;
}

int console_room_fd(const struct console *console)
{
        return console->room_fd;
}

void console_set_guest(struct console *console, console_guest_fn *fn, void *opaque)
{
        console->guest = fn;
        console->guest_opaque = opaque;
}

/* ---- life ---- */

int console_start(struct console *console, struct err **err)
{
        pthread_attr_t attr;
        int r;

        if (console->out_fd < 0)
                return 0;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 256 * 1024);
        r = pthread_create(&console->writer, &attr, writer_main, console);
        pthread_attr_destroy(&attr);
        if (r)
                return err_sys(err, r, "starting the console's thread");
        pthread_setname_np(console->writer, "console");
        console->writer_started = true;
        return 0;
}

int console_new(struct loop *loop, int out_fd, bool close_out, bool (*ended)(void *opaque), void *opaque,
        struct console **ret, struct err **err)
{
        struct console *console = calloc(1, sizeof(*console));
        pthread_condattr_t attr;

        if (!console)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the console");
        *console = (struct console){
                .out_fd = out_fd,
                .loop = loop,
                .ended = ended,
                .ended_opaque = opaque,
                .output = { .data = malloc(OUTPUT_SIZE), .size = OUTPUT_SIZE },
                .input = { .data = malloc(INPUT_SIZE), .size = INPUT_SIZE },
                .room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
        };
        pthread_mutex_init(&console->lock, NULL);
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&console->changed, &attr);
        pthread_condattr_destroy(&attr);
        if (!console->output.data || !console->input.data || console->room_fd < 0) {
                console_free(console);
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the console");
        }
        console->close_out = close_out; /* on failure the caller still owns it */
        *ret = console;
        return 0;
}

static void stop_writer(struct console *console)
{
        struct timespec deadline = in_ms(CLOSE_PATIENCE_MS);
        size_t before;

        pthread_mutex_lock(&console->lock);
        console->closing = true;
        pthread_cond_broadcast(&console->changed);
        before = console->output.used;
        while (!console->writer_done) {
                if (pthread_cond_timedwait(&console->changed, &console->lock, &deadline) != ETIMEDOUT)
                        continue;
                if (console->output.used >= before)
                        break; /* nobody takes it */
                before = console->output.used;
                deadline = in_ms(CLOSE_PATIENCE_MS);
        }
        /* Nothing wakes it but a reader. It goes with the process, or ends and frees what is left when its write returns. (Not
         * pthread_cancel: that loads a library, which a process without files cannot.) */
        console->abandoned = !console->writer_done;
        console->failed = true;
        pthread_mutex_unlock(&console->lock);
        if (console->abandoned)
                pthread_detach(console->writer);
        else
                pthread_join(console->writer, NULL);
        console->writer_started = false;
}

void console_flush(struct console *console)
{
        if (console && console->writer_started)
                stop_writer(console);
}

struct console *console_free(struct console *console)
{
        bool last;

        if (!console)
                return NULL;
        console_flush(console);
        pthread_mutex_lock(&console->lock);
        console->released = true;
        last = !console->abandoned || console->writer_done;
        pthread_mutex_unlock(&console->lock);
        if (last)
                console_destroy(console);
        return NULL;
}

/* Progress of images on a terminal: a line for each thing that moves, drawn again in place. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "image_cli.h"

#define REDRAW_NS       (NSEC_PER_SEC / 10)
#define DEFAULT_COLUMNS 80
#define BAR_MIN         10
#define ID_DIGITS       12

struct bar {
        char id[ID_DIGITS + 1];
        enum image_progress_state state;
        u64 done, total;
};

struct image_bars {
        pthread_mutex_t lock;
        struct image_progress progress;
        struct bar *bars;
        size_t n;
        size_t drawn; /* lines on the screen */
        u64 drawn_ns;
};

static unsigned columns(void)
{
        struct winsize size;

        return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20 ? size.ws_col : DEFAULT_COLUMNS;
}

static void draw_bar(const struct bar *bar, unsigned width)
{
        static const char *const states[] = { [IMAGE_PROGRESS_WAITING] = "waiting for another process",
                [IMAGE_PROGRESS_TRANSFER] = "",
                [IMAGE_PROGRESS_UNPACK] = "unpacking",
                [IMAGE_PROGRESS_DONE] = "done",
                [IMAGE_PROGRESS_EXISTS] = "already there" };
        const struct image_size done = image_size_text(bar->done), total = image_size_text(bar->total);
        const bool moving =
                bar->total > 0 && (bar->state == IMAGE_PROGRESS_TRANSFER || bar->state == IMAGE_PROGRESS_UNPACK);
        char right[80];
        unsigned room, filled;

        snprintf(right, sizeof(right), "%s%s%s %s", bar->total ? done.text : "", bar->total ? " / " : "",
                bar->total ? total.text : "", states[bar->state]);
        room = width > ID_DIGITS + strlen(right) + 5 ? width - ID_DIGITS - (unsigned)strlen(right) - 5 : 0;
        fprintf(stderr, "\r\033[K%s ", bar->id);
        if (moving && room >= BAR_MIN) {
                filled = (unsigned)(MIN(bar->done, bar->total) * room / bar->total);
                fputc('[', stderr);
                for (unsigned i = 0; i < room; i++)
                        fputc(i < filled ? '=' : i == filled ? '>' : ' ', stderr);
                fputs("] ", stderr);
        }
        fprintf(stderr, "%s\n", right);
}

static void draw(struct image_bars *bars)
{
        const unsigned width = columns();

        if (bars->drawn > 0)
                fprintf(stderr, "\033[%zuA", bars->drawn);
        for (size_t i = 0; i < bars->n; i++)
                draw_bar(&bars->bars[i], width);
        bars->drawn = bars->n;
        bars->drawn_ns = clock_now_ns();
        fflush(stderr);
}

static struct bar *find_bar(struct image_bars *bars, const char *digest)
{
        const char *colon = strchr(digest, ':'), *id = colon ? colon + 1 : digest;
        struct bar *grown;

        for (size_t i = 0; i < bars->n; i++)
                if (strncmp(bars->bars[i].id, id, ID_DIGITS) == 0)
                        return &bars->bars[i];
        grown = reallocarray(bars->bars, bars->n + 1, sizeof(*grown));
        if (!grown)
                return NULL;
        bars->bars = grown;
        grown += bars->n++;
        *grown = (struct bar){ 0 };
        snprintf(grown->id, sizeof(grown->id), "%s", id);
        return grown;
}

static void update(void *opaque, const char *digest, enum image_progress_state state, u64 done, u64 total)
{
        struct image_bars *bars = opaque;
        struct bar *bar;
        bool changed;

        pthread_mutex_lock(&bars->lock);
        bar = find_bar(bars, digest);
        if (bar) {
                changed = bar->state != state || bar->total == 0;
                *bar = (struct bar){ .state = state, .done = done, .total = total };
                snprintf(bar->id, sizeof(bar->id), "%s", strchr(digest, ':') ? strchr(digest, ':') + 1 : digest);
                if (changed || clock_now_ns() - bars->drawn_ns > REDRAW_NS)
                        draw(bars);
        }
        pthread_mutex_unlock(&bars->lock);
}

struct image_bars *image_bars_new(bool quiet)
{
        struct image_bars *bars;

        if (quiet || !isatty(STDERR_FILENO))
                return NULL;
        bars = calloc(1, sizeof(*bars));
        if (!bars)
                return NULL;
        pthread_mutex_init(&bars->lock, NULL);
        bars->progress = (struct image_progress){ update, bars };
        return bars;
}

const struct image_progress *image_bars_progress(struct image_bars *bars)
{
        return bars ? &bars->progress : NULL;
}

struct image_bars *image_bars_free(struct image_bars *bars)
{
        if (!bars)
                return NULL;
        pthread_mutex_destroy(&bars->lock);
        free(bars->bars);
        free(bars);
        return NULL;
}

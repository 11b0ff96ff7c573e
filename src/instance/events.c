/* ROOT/events: a line of JSON for everything that happens. Every process of ours appends to it, whole lines at a time; the file
 * starts anew when it is large. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "internal.h"

#define EVENTS_FILE "events"
#define EVENTS_MAX  (8 * MIB)

static s64 now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        return (s64)now.tv_sec * (s64)NSEC_PER_SEC + now.tv_nsec;
}

void event_write(
        struct instance_host *host, const char *action, const struct instance *inst, int exit_code, const char *detail)
{
        json_t *json = json_pack("{s:s, s:s, s:s, s:I, s:s, s:i, s:s}", "id", inst->id, "name", inst->config.name,
                "image", inst->config.image, "time", (json_int_t)now_ns(), "action", action, "exitCode", exit_code,
                "detail", detail);
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
        _cleanup_close_ int fd = -1;
        struct stat st;
        size_t len;

        json_decref(json);
        fd = openat(host->fd, EVENTS_FILE, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (!text || fd < 0)
                return;
        len = strlen(text);
        text[len] = '\n'; /* in place of the NUL: one write, one line */
        io_write_all(fd, text, len + 1);
        if (fstat(fd, &st) == 0 && st.st_size > (off_t)EVENTS_MAX)
                renameat(host->fd, EVENTS_FILE, host->fd, EVENTS_FILE ".1");
}

struct following {
        s64 since_ns, until_ns;
        int (*fn)(void *opaque, const struct instance_host_event *event);
        void *opaque;
};

static const char *text_of(const json_t *json, const char *key)
{
        return json_string_value(json_object_get(json, key)) ?: "";
}

/* Other than 0: enough. */
static int take_line(const struct following *f, const char *line, size_t len)
{
        json_t *json = json_loadb(line, len, 0, NULL);
        struct instance_host_event event;
        int r = 0;

        if (!json)
                return 0;
        event = (struct instance_host_event){ .time_ns = json_integer_value(json_object_get(json, "time")),
                .action = text_of(json, "action"),
                .id = text_of(json, "id"),
                .name = text_of(json, "name"),
                .image = text_of(json, "image"),
                .exit_code = (int)json_integer_value(json_object_get(json, "exitCode")),
                .detail = text_of(json, "detail") };
        if (f->until_ns && event.time_ns > f->until_ns)
                r = 1;
        else if (event.time_ns >= f->since_ns)
                r = f->fn(f->opaque, &event);
        json_decref(json);
        return r;
}

/* The whole lines that @file has more. */
static int read_lines(const struct following *f, FILE *file)
{
        char *line = NULL;
        size_t room = 0;
        ssize_t n;
        int r = 0;

        clearerr(file);
        while (r == 0) {
                const long at = ftell(file);

                n = getline(&line, &room, file);
                if (n <= 0)
                        break;
                if (line[n - 1] != '\n') {
                        fseek(file, at, SEEK_SET); /* it is being written */
                        break;
                }
                r = take_line(f, line, (size_t)n - 1);
        }
        free(line);
        return r;
}

static FILE *open_events(struct instance_host *host, const char *name)
{
        const int fd = openat(host->fd, name, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        return fd < 0 ? NULL : fdopen(fd, "r");
}

static bool is_replaced(struct instance_host *host, FILE *file)
{
        struct stat a, b;

        return fstat(fileno(file), &a) == 0 && fstatat(host->fd, EVENTS_FILE, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
               a.st_ino != b.st_ino;
}

int instance_events(struct instance_host *host, s64 since_ns, s64 until_ns,
        int (*fn)(void *opaque, const struct instance_host_event *event), void *opaque, struct err **err)
{
        const struct following f = { since_ns ? since_ns : now_ns(), until_ns, fn, opaque };
        _cleanup_fclose_ FILE *old = since_ns ? open_events(host, EVENTS_FILE ".1") : NULL;
        _cleanup_close_ int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        FILE *file = open_events(host, EVENTS_FILE);
        int r = old ? read_lines(&f, old) : 0;

        if (!file || watch < 0 || inotify_add_watch(watch, host->root, IN_MODIFY | IN_CREATE | IN_MOVED_FROM) < 0) {
                r = err_sys(err, errno, "watching '%s'", host->root);
                if (file)
                        fclose(file);
                return r;
        }
        while (r == 0) {
                struct pollfd p = { .fd = watch, .events = POLLIN };
                char ignored[4096];
                s64 left;

                r = read_lines(&f, file);
                if (r == 0 && is_replaced(host, file)) {
                        fclose(file);
                        file = open_events(host, EVENTS_FILE);
                        if (!file)
                                return err_sys(err, errno, "reading events");
                        continue;
                }
                left = until_ns ? until_ns - now_ns() : 0;
                if (r != 0 || (until_ns && left <= 0))
                        break;
                poll(&p, 1, until_ns ? (int)MIN(left / 1000000 + 1, 1000) : -1);
                while (read(watch, ignored, sizeof(ignored)) > 0)
                        ;
        }
        fclose(file);
        return r < 0 ? r : 0;
}

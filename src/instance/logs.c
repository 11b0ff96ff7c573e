/* Reading what a supervisor wrote: FILE_LOG, FILE_LOG.1 ..., oldest last; lines as output.c describes them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "session.h"

#define FILES_MAX 1000
#define ENTRY_MAX 65536

struct reading {
        struct instance *inst;
        const struct instance_log_options *options;
        int (*fn)(void *opaque, int stream, s64 time_ns, const char *data, size_t len);
        void *opaque;
        s64 skip; /* lines before those that were asked for */
};

static bool digits(const char *text, size_t n, s64 *ret)
{
        *ret = 0;
        for (size_t i = 0; i < n; i++) {
                if (text[i] < '0' || text[i] > '9')
                        return false;
                *ret = *ret * 10 + (text[i] - '0');
        }
        return true;
}

/* "2026-11-22T08:00:00.123456789Z" */
static bool parse_time(const char *text, s64 *ret)
{
        s64 year, month, day, hour, minute, second, ns;
        struct tm tm = { 0 };

        if (!digits(text, 4, &year) || !digits(text + 5, 2, &month) || !digits(text + 8, 2, &day) ||
                !digits(text + 11, 2, &hour) || !digits(text + 14, 2, &minute) || !digits(text + 17, 2, &second) ||
                !digits(text + 20, 9, &ns))
                return false;
        tm.tm_year = (int)year - 1900;
        tm.tm_mon = (int)month - 1;
        tm.tm_mday = (int)day;
        tm.tm_hour = (int)hour;
        tm.tm_min = (int)minute;
        tm.tm_sec = (int)second;
        *ret = (s64)timegm(&tm) * (s64)NSEC_PER_SEC + ns;
        return true;
}

#define TIME_LEN   30
#define PREFIX_LEN (TIME_LEN + sizeof(" stdout F ") - 1)

/* @line ends with its newline. */
static int take_entry(struct reading *r, char *line, size_t len)
{
        const bool full = len > PREFIX_LEN - 2 && line[TIME_LEN + 8] == 'F';
        s64 when;

        if (len <= PREFIX_LEN - 1 || !parse_time(line, &when) ||
                (line[TIME_LEN + 8] != 'F' && line[TIME_LEN + 8] != 'P'))
                return 0; /* a disk was full, or somebody wrote into our file */
        if (r->skip > 0) {
                r->skip -= full;
                return 0;
        }
        if (r->options->since_ns && when < r->options->since_ns)
                return 0;
        if (r->options->until_ns && when > r->options->until_ns)
                return 1;
        return r->fn(r->opaque, strncmp(line + TIME_LEN + 1, "stdout", 6) == 0 ? 1 : 2, when, line + PREFIX_LEN,
                len - PREFIX_LEN - !full);
}

static int read_entries(struct reading *r, FILE *file)
{
        char *line = NULL;
        size_t room = 0;
        int result = 0;

        clearerr(file);
        while (result == 0) {
                const long at = ftell(file);
                const ssize_t n = getline(&line, &room, file);

                if (n <= 0)
                        break;
                if (line[n - 1] != '\n') {
                        fseek(file, at, SEEK_SET);
                        break;
                }
                result = take_entry(r, line, (size_t)n);
        }
        free(line);
        return result;
}

static FILE *open_log(const struct instance *inst, size_t i)
{
        char name[32];
        int fd;

        if (i)
                snprintf(name, sizeof(name), FILE_LOG ".%zu", i);
        else
                snprintf(name, sizeof(name), FILE_LOG);
        fd = openat(inst->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        return fd < 0 ? NULL : fdopen(fd, "r");
}

/* In all files together; a piece at the end counts. */
static s64 count_lines(FILE *const *files, size_t n)
{
        s64 lines = 0;
        bool piece = false;
        char *line = NULL;
        size_t room = 0;

        for (size_t i = n; i-- > 0;) {
                ssize_t len;

                while ((len = getline(&line, &room, files[i])) > 0) {
                        if (len <= (ssize_t)PREFIX_LEN - 2)
                                continue;
                        piece = line[TIME_LEN + 8] == 'P';
                        lines += !piece;
                }
                rewind(files[i]);
        }
        free(line);
        return lines + piece;
}

static bool is_replaced(const struct instance *inst, FILE *file)
{
        struct stat a, b;

        return fstatat(inst->dir, FILE_LOG, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
               (fstat(fileno(file), &a) < 0 || a.st_ino != b.st_ino);
}

/* Until the supervisor is gone. */
static int follow(struct reading *r, FILE **file, struct err **err)
{
        _cleanup_close_ int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        const struct io_fd_path path = io_fd_path(r->inst->dir);
        int result = 0;

        if (watch < 0 || inotify_add_watch(watch, path.text, IN_MODIFY | IN_CREATE | IN_MOVED_FROM) < 0)
                return err_sys(err, errno, "watching the log");
        /* The connection ends with the supervisor. */
        if (session_open(r->inst, 0, &session, NULL) < 0)
                session = NULL;
        for (bool over = false; result == 0;) {
                struct pollfd p[2] = { { .fd = watch, .events = POLLIN },
                        { .fd = session ? instance_session_fd(session) : -1, .events = POLLIN } };
                char ignored[4096];

                result = read_entries(r, *file);
                if (result == 0 && is_replaced(r->inst, *file)) {
                        FILE *next = open_log(r->inst, 0);

                        if (next) {
                                read_entries(r, *file);
                                fclose(*file);
                                *file = next;
                                continue;
                        }
                }
                if (result || over)
                        break;
                over = !session || (p[1].revents & POLLHUP);
                if (over)
                        continue;
                poll(p, 2, 1000);
                over = p[1].revents & (POLLHUP | POLLERR);
                while (read(watch, ignored, sizeof(ignored)) > 0)
                        ;
        }
        return result;
}

int instance_logs(struct instance *inst, const struct instance_log_options *options,
        int (*fn)(void *opaque, int stream, s64 time_ns, const char *data, size_t len), void *opaque, struct err **err)
{
        struct reading r = { inst, options, fn, opaque, 0 };
        FILE *files[FILES_MAX];
        size_t n = 0;
        int result = 0;

        if (inst->config.log.driver && strcmp(inst->config.log.driver, "none") == 0)
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "the instance '%s' keeps no log", inst->config.name);
        while (n < FILES_MAX && (files[n] = open_log(inst, n)))
                n++;
        if (n == 0)
                return 0; /* it has not printed anything, or never ran */
        if (options->tail >= 0)
                r.skip = MAX(count_lines(files, n) - options->tail, 0);
        for (size_t i = n; result == 0 && i-- > 0;)
                result = read_entries(&r, files[i]);
        if (result == 0 && options->follow)
                result = follow(&r, &files[0], err);
        for (size_t i = 0; i < n; i++)
                fclose(files[i]);
        return MIN(result, 0);
}

#include "err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"

struct err {
        enum err_id id;
        char *message; /* whole chain, NULL when memory ran out */
        char *hint;
};

static const struct {
        const char *name;
        int exit_status;
        int http;
} ids[] = {
#define ERR_ID(id, exit_status, http, text) [ERR_##id] = { #id, exit_status, http },
#include "errors.def"
#undef ERR_ID
};

/* Puts "@fmt: <old message>" in front of what *@err holds. */
static void _printf_(2, 0) err_prepend(struct err *e, const char *fmt, va_list ap)
{
        _cleanup_free_ char *text = NULL;
        char *joined;

        if (vasprintf(&text, fmt, ap) < 0) {
                text = NULL;
                return;
        }
        if (!e->message) {
                e->message = TAKE_PTR(text);
                return;
        }
        if (asprintf(&joined, "%s: %s", text, e->message) < 0)
                return;
        free(e->message);
        e->message = joined;
}

static struct err *err_get(struct err **err, enum err_id id)
{
        if (!*err) {
                *err = calloc(1, sizeof(**err));
                if (*err)
                        (*err)->id = id;
        }
        return *err;
}

int err_set(struct err **err, enum err_id id, int errnum, const char *fmt, ...)
{
        va_list ap;

        if (err && err_get(err, id)) {
                va_start(ap, fmt);
                err_prepend(*err, fmt, ap);
                va_end(ap);
        }
        return -errnum;
}

static enum err_id id_of_errno(int errnum)
{
        switch (errnum) {
        case ENOENT:
        case ENOTDIR:
        case ENXIO:
        case ENODEV:
                return ERR_NOT_FOUND;
        case EACCES:
        case EPERM:
        case EROFS:
                return ERR_NO_PERMISSION;
        case EBUSY:
        case EADDRINUSE:
        case ETXTBSY:
                return ERR_BUSY;
        case ENOMEM:
                return ERR_NO_MEMORY;
        case ENOSYS:
        case EOPNOTSUPP:
                return ERR_UNSUPPORTED;
        default:
                return ERR_IO;
        }
}

int err_sys(struct err **err, int errnum, const char *fmt, ...)
{
        va_list ap;

        if (err && err_get(err, id_of_errno(errnum))) {
                if (!(*err)->message)
                        (*err)->message = strdup(strerror(errnum));
                va_start(ap, fmt);
                err_prepend(*err, fmt, ap);
                va_end(ap);
        }
        return -errnum;
}

int err_wrap(struct err **err, int r, const char *fmt, ...)
{
        va_list ap;

        if (err && err_get(err, ERR_INTERNAL)) {
                va_start(ap, fmt);
                err_prepend(*err, fmt, ap);
                va_end(ap);
        }
        return r;
}

int err_hint(struct err **err, int r, const char *fmt, ...)
{
        va_list ap;

        if (err && *err && !(*err)->hint) {
                va_start(ap, fmt);
                if (vasprintf(&(*err)->hint, fmt, ap) < 0)
                        (*err)->hint = NULL;
                va_end(ap);
        }
        return r;
}

enum err_id err_get_id(const struct err *err)
{
        return err ? err->id : ERR_INTERNAL;
}

const char *err_id_name(enum err_id id)
{
        return (unsigned)id < ARRAY_SIZE(ids) ? ids[id].name : "UNKNOWN";
}

int err_exit_status(const struct err *err)
{
        return ids[err_get_id(err)].exit_status;
}

int err_http_status(const struct err *err)
{
        return ids[err_get_id(err)].http;
}

const char *err_message(const struct err *err)
{
        return err && err->message ? err->message : "out of memory";
}

const char *err_get_hint(const struct err *err)
{
        return err ? err->hint : NULL;
}

void err_print(const struct err *err, const char *program)
{
        fprintf(stderr, "%s: %s\n", program, err_message(err));
        if (err_get_hint(err))
                fprintf(stderr, "hint: %s\n", err_get_hint(err));
}

/* As "STATUS\nID\nHINT\nMESSAGE". */
void err_send(int fd, int r, const struct err *err)
{
        const char *hint = err_get_hint(err);

        dprintf(fd, "%d\n%d\n%s\n%s", r, err ? (int)err->id : 0, hint ? hint : "", err ? err_message(err) : "");
}

int err_receive(int fd, struct err **err)
{
        enum { TEXT_MAX = 1 << 16 };
        _cleanup_free_ char *text = malloc(TEXT_MAX);
        char *rest = text, *number, *id, *hint;
        size_t len = 0;
        ssize_t n = 1;
        int r;

        if (!text)
                return err_sys(err, ENOMEM, "waiting for a process");
        while (len < TEXT_MAX - 1 && (n > 0 || (n < 0 && errno == EINTR))) {
                n = read(fd, text + len, TEXT_MAX - 1 - len);
                len += n > 0 ? (size_t)n : 0;
        }
        text[len] = '\0';
        number = strsep(&rest, "\n");
        id = strsep(&rest, "\n");
        hint = strsep(&rest, "\n");
        if (!number[0] || !rest)
                return err_set(err, ERR_IO, ECONNRESET, "the process that did it died");
        r = atoi(number);
        if (r == 0)
                return 0;
        r = err_set(err, (enum err_id)MIN(MAX(atoi(id), 0), ERR_ID_COUNT - 1), -r, "%s", rest);
        return hint[0] ? err_hint(err, r, "%s", hint) : r;
}

struct err *err_free(struct err *err)
{
        if (err) {
                free(err->message);
                free(err->hint);
                free(err);
        }
        return NULL;
}

#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static enum log_level max_level = LOG_LEVEL_WARN;
static void (*log_sink)(enum log_level level, const char *text, void *arg);
static void *log_sink_arg;

void log_set_level(enum log_level level)
{
        max_level = level;
}

void log_set_sink(void (*sink)(enum log_level level, const char *text, void *arg), void *arg)
{
        log_sink = sink;
        log_sink_arg = arg;
}

const char *log_level_name(enum log_level level)
{
        static const char *const names[] = { "error", "warning", "info", "debug" };

        return names[level];
}

void log_message(enum log_level level, const char *fmt, ...)
{
        char *text;
        va_list ap;
        int r;

        if (level > max_level)
                return;
        va_start(ap, fmt);
        r = vasprintf(&text, fmt, ap);
        va_end(ap);
        if (r < 0)
                return;
        if (log_sink)
                log_sink(level, text, log_sink_arg);
        else /* \r: the terminal may be in raw mode. */
                fprintf(stderr, "strata: %s: %s\r\n", log_level_name(level), text);
        free(text);
}

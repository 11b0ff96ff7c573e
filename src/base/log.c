#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static enum log_level max_level = LOG_LEVEL_WARN;

void log_set_level(enum log_level level)
{
        max_level = level;
}

void log_message(enum log_level level, const char *fmt, ...)
{
        static const char *const names[] = { "error", "warning", "info", "debug" };
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
        /* \r: the terminal may be in raw mode. */
        fprintf(stderr, "strata: %s: %s\r\n", names[level], text);
        free(text);
}

#include <stdarg.h>
#include <string.h>

#include "guest.h"

void text_add_n(struct text *text, const char *more, size_t n)
{
        n = MIN(n, text->size - 1 - text->len);
        memcpy(text->at + text->len, more, n);
        text->len += n;
        text->at[text->len] = '\0';
}

void text_add(struct text *text, const char *more)
{
        text_add_n(text, more, strlen(more));
}

void text_add_number(struct text *text, u64 number)
{
        char digits[20];
        size_t n = sizeof(digits);

        do
                digits[--n] = (char)('0' + number % 10);
        while (number /= 10);
        text_add_n(text, digits + n, sizeof(digits) - n);
}

int fail(struct failure *failure, int errnum, ...)
{
        struct text what = TEXT(failure->what);
        const char *part;
        va_list parts;

        failure->errnum = errnum;
        failure->what[0] = '\0';
        va_start(parts, errnum);
        while ((part = va_arg(parts, const char *)))
                text_add(&what, part);
        va_end(parts);
        return -errnum;
}

#include "text.h"

char *text_put(char *at, const char *text)
{
        while (*text)
                *at++ = *text++;
        return at;
}

char *text_number(char *at, s64 number)
{
        char digits[20];
        u64 n = number < 0 ? 0 - (u64)number : (u64)number;
        unsigned len = 0;

        if (number < 0)
                *at++ = '-';
        do
                digits[len++] = (char)('0' + n % 10);
        while (n /= 10);
        while (len)
                *at++ = digits[--len];
        return at;
}

static char *padded(char *at, u64 n, unsigned digits)
{
        for (unsigned i = digits; i-- > 0; n /= 10)
                at[i] = (char)('0' + n % 10);
        return at + digits;
}

/* The civil date of a day since 1970: years begin in March here, so that the leap day is the last one; an era has 400 years. */
static char *date(char *at, u64 days)
{
        const u64 shifted = days + 719468, era = shifted / 146097, in_era = shifted % 146097;
        const u64 year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
        const u64 in_year = in_era - (365 * year + year / 4 - year / 100), month = (5 * in_year + 2) / 153;

        at = padded(at, year + era * 400 + (month >= 10), 4);
        *at++ = '-';
        at = padded(at, month < 10 ? month + 3 : month - 9, 2);
        *at++ = '-';
        return padded(at, in_year - (153 * month + 2) / 5 + 1, 2);
}

char *text_time(char *at, s64 ns)
{
        const u64 t = ns < 0 ? 0 : (u64)ns, seconds = t / 1000000000;

        at = date(at, seconds / 86400);
        *at++ = 'T';
        at = padded(at, seconds / 3600 % 24, 2);
        *at++ = ':';
        at = padded(at, seconds / 60 % 60, 2);
        *at++ = ':';
        at = padded(at, seconds % 60, 2);
        *at++ = '.';
        at = padded(at, t % 1000000000, 9);
        *at++ = 'Z';
        return at;
}

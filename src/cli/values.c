#include "values.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "instance/keys.h"

static int read_whole(const char *text, s64 *ret)
{
        char *end;
        long long value;

        errno = 0;
        value = strtoll(text, &end, 10);
        if (errno || end == text || *end || isspace((unsigned char)text[0]))
                return -EINVAL;
        *ret = value;
        return 0;
}

/* A number without sign, as "12" or "1.5"; where it ended is *@ret_end. No "inf", "nan" or hexadecimal of strtod's. */
static int read_decimal(const char *text, double *ret, const char **ret_end)
{
        const size_t len = strspn(text, "0123456789.");
        char copy[32], *end;

        if (len == 0 || len >= sizeof(copy))
                return -EINVAL;
        memcpy(copy, text, len);
        copy[len] = '\0';
        *ret = strtod(copy, &end);
        *ret_end = text + len;
        return *end || end == copy ? -EINVAL : 0;
}

int cli_parse_number(void *member, const char *text, struct err **err)
{
        if (read_whole(text, member) < 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a number", text);
        return 0;
}

int cli_parse_count(void *member, const char *text, struct err **err)
{
        s64 value;

        if (read_whole(text, &value) < 0 || value < 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a number from 0", text);
        *(s64 *)member = value;
        return 0;
}

/* The power of 1024 that a unit stands for; -1 when it is none. "k", "kb" and "kib" are the same, as for docker. */
static int unit_power(const char *unit)
{
        static const char letters[] = "bkmgtp";
        const char *found = *unit ? strchr(letters, tolower((unsigned char)*unit)) : letters;

        if (!found)
                return -1;
        if (*unit && *++unit && found != letters && strcasecmp(unit, "b") != 0 && strcasecmp(unit, "ib") != 0)
                return -1;
        return found == letters && *unit ? -1 : (int)(found - letters);
}

int cli_parse_size(void *member, const char *text, struct err **err)
{
        const char *unit = text;
        double value = 0;
        int r = read_decimal(text, &value, &unit), power = -1;

        if (r == 0)
                power = unit_power(unit + (*unit == ' '));
        if (power < 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is not a size", text),
                        "a number with b, k, m, g or t behind it, as in 512m");
        value = ldexp(value, 10 * power);
        if (value >= 0x1p63)
                return err_set(err, ERR_USAGE, ERANGE, "'%s' is more than any machine has", text);
        *(s64 *)member = (s64)value;
        return 0;
}

int cli_parse_swap(void *member, const char *text, struct err **err)
{
        if (strcmp(text, "-1") != 0)
                return cli_parse_size(member, text, err);
        *(s64 *)member = -1;
        return 0;
}

int cli_parse_cpus(void *member, const char *text, struct err **err)
{
        const char *end = text;
        double value = 0;

        if (read_decimal(text, &value, &end) < 0 || *end || value > 1e6)
                return err_hint(
                        err, err_set(err, ERR_USAGE, EINVAL, "'%s' is not a number of CPUs", text), "as in 2 or 0.5");
        *(s64 *)member = (s64)(value * 1e9 + 0.5);
        return 0;
}

static int read_duration(const char *text, s64 *ret)
{
        static const struct {
                const char *unit;
                double ns;
        } units[] = { { "ns", 1 }, { "us", 1e3 }, { "µs", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 },
                { "h", 3600e9 } };
        double total = 0, value;

        if (strcmp(text, "0") == 0) {
                *ret = 0;
                return 0;
        }
        if (!*text)
                return -EINVAL;
        while (*text) {
                const char *unit;
                size_t len, i = 0;

                if (read_decimal(text, &value, &unit) < 0)
                        return -EINVAL;
                len = strcspn(unit, "0123456789.");
                while (i < ARRAY_SIZE(units) &&
                        (strlen(units[i].unit) != len || strncmp(unit, units[i].unit, len) != 0))
                        i++;
                if (i == ARRAY_SIZE(units))
                        return -EINVAL;
                total += value * units[i].ns;
                text = unit + len;
        }
        if (total >= 0x1p63)
                return -ERANGE;
        *ret = (s64)total;
        return 0;
}

int cli_parse_duration(void *member, const char *text, struct err **err)
{
        if (read_duration(text, member) < 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is not a duration", text),
                        "numbers with h, m, s, ms behind them, as in 1m30s");
        return 0;
}

/* ".25" behind seconds; *@text goes behind it. */
static s64 read_fraction(const char **text)
{
        s64 ns = 0, unit = NSEC_PER_SEC / 10;

        if (**text != '.')
                return 0;
        for (++*text; isdigit((unsigned char)**text); ++*text, unit /= 10)
                ns += (**text - '0') * unit;
        return ns;
}

/* "Z", "+02:00" or nothing, which is local time, behind the broken-down time @tm. */
static int read_zone(const char *text, struct tm *tm, s64 *ret_seconds)
{
        struct tm offset = { 0 };
        const char *end;

        if (!*text) {
                tm->tm_isdst = -1;
                *ret_seconds = mktime(tm);
                return 0;
        }
        *ret_seconds = timegm(tm);
        if (strcmp(text, "Z") == 0)
                return 0;
        end = strptime(text + 1, "%H:%M", &offset);
        if ((*text != '+' && *text != '-') || !end || *end)
                return -EINVAL;
        *ret_seconds -= (*text == '+' ? 1 : -1) * (offset.tm_hour * 3600 + offset.tm_min * 60);
        return 0;
}

static int read_time(const char *text, s64 *ret)
{
        static const char *const forms[] = { "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d" };
        const char *end;
        s64 seconds, ns;

        for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
                struct tm tm = { 0 };

                end = strptime(text, forms[i], &tm);
                if (!end)
                        continue;
                ns = read_fraction(&end);
                if (read_zone(end, &tm, &seconds) < 0)
                        continue;
                *ret = seconds * (s64)NSEC_PER_SEC + ns;
                return 0;
        }
        seconds = strtoll(text, (char **)&end, 10);
        ns = read_fraction(&end);
        if (end == text || *end || seconds < 0 || seconds > INT64_MAX / (s64)NSEC_PER_SEC - 1)
                return -EINVAL;
        *ret = seconds * (s64)NSEC_PER_SEC + ns;
        return 0;
}

int cli_parse_time(void *member, const char *text, struct err **err)
{
        struct timespec now;
        s64 ago;

        if (read_time(text, member) == 0)
                return 0;
        if (read_duration(text, &ago) < 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is not a time", text),
                        "as in 2026-01-31T12:00:00Z, 1769860800 or 10m, which is ten minutes ago");
        clock_gettime(CLOCK_REALTIME, &now);
        *(s64 *)member = now.tv_sec * (s64)NSEC_PER_SEC + now.tv_nsec - ago;
        return 0;
}

static int signal_number(const char *text)
{
        s64 number;

        if (read_whole(text, &number) == 0)
                return number > 0 && number < NSIG ? (int)number : -1;
        if (strncasecmp(text, "SIG", 3) == 0)
                text += 3;
        for (int i = 1; i < NSIG; i++) {
                const char *name = sigabbrev_np(i);

                if (name && strcasecmp(name, text) == 0)
                        return i;
        }
        number = 0;
        if (strcasecmp(text, "RTMIN") != 0 &&
                (strncasecmp(text, "RTMIN+", 6) != 0 || read_whole(text + 6, &number) < 0))
                return -1;
        return number >= 0 && number <= SIGRTMAX - SIGRTMIN ? (int)(SIGRTMIN + number) : -1;
}

int cli_parse_signal(void *member, const char *text, struct err **err)
{
        const int number = signal_number(text);

        if (number < 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a signal", text);
        *(int *)member = number;
        return 0;
}

const char *cli_signal_name(int signal)
{
        const char *name = sigabbrev_np(signal);

        return name ? name : "";
}

int cli_parse_keys(void *member, const char *text, struct err **err)
{
        struct detach_keys keys;
        int r = keys_parse(&keys, text, err);

        if (r == 0)
                *(const char **)member = text;
        return r;
}

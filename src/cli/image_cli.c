#include "image_cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

int image_format_parse(const char *format, bool *ret_json, struct err **err)
{
        if (format && strcmp(format, "table") != 0 && strcmp(format, "json") != 0)
                return err_hint(
                        err, err_set(err, ERR_USAGE, EINVAL, "'%s' is not a format", format), "there is: table, json");
        *ret_json = format && strcmp(format, "json") == 0;
        return 0;
}

int image_cli_open(const char *root, struct image_store **ret, struct err **err)
{
        const struct image_store_options options = { .root = root };
        int r = image_enter_user_namespace(err);

        return r < 0 ? r : image_store_open(&options, ret, err);
}

struct image_size image_size_text(u64 bytes)
{
        static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB" };
        double value = (double)bytes;
        struct image_size size;
        unsigned unit = 0;

        while (value >= 1000 && unit + 1 < ARRAY_SIZE(units)) {
                value /= 1000;
                unit++;
        }
        snprintf(size.text, sizeof(size.text),
                value < 10 && unit > 0    ? "%.2f %s"
                : value < 100 && unit > 0 ? "%.1f %s"
                                          : "%.0f %s",
                value, units[unit]);
        return size;
}

struct image_age image_age_text(const char *created)
{
        static const struct {
                long seconds;
                const char *unit;
        } units[] = { { 31536000, "year" }, { 2592000, "month" }, { 604800, "week" }, { 86400, "day" },
                { 3600, "hour" }, { 60, "minute" }, { 1, "second" } };
        struct image_age age = { "" };
        struct tm tm = { 0 };
        long seconds;

        if (!strptime(created, "%Y-%m-%dT%H:%M:%S", &tm))
                return age;
        seconds = (long)(time(NULL) - timegm(&tm));
        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
                const long n = seconds / units[i].seconds;

                if (n > 0) {
                        snprintf(age.text, sizeof(age.text), "%ld %s%s ago", n, units[i].unit, n > 1 ? "s" : "");
                        return age;
                }
        }
        snprintf(age.text, sizeof(age.text), "just now");
        return age;
}

#include "image_cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define OPTIONS_MAX 24
#define OPTION_BASE 256 /* values of options, above every letter */

static void print_help(const struct image_usage *usage)
{
        printf("usage: %s %s\n\n%s\n\noptions:\n", usage->command, usage->arguments, usage->summary);
        for (const struct image_option *o = usage->options; o->name; o++) {
                char left[64];

                snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                        o->letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
                printf("  %-28s %s\n", left, o->help);
        }
        printf("  %-28s %s\n", "-h, --help", "print this");
}

static int add_word(struct image_words *words, const char *value, struct err **err)
{
        const char **grown = reallocarray(words->list, words->n + 2, sizeof(*grown));

        if (!grown)
                return err_sys(err, ENOMEM, "reading the options");
        words->list = grown;
        grown[words->n++] = value;
        grown[words->n] = NULL;
        return 0;
}

static int take(const struct image_option *option, const char *value, struct err **err)
{
        if (option->many)
                return add_word(option->target, value, err);
        if (option->value)
                *(const char **)option->target = value;
        else
                *(bool *)option->target = true;
        return 0;
}

int image_options_parse(const struct image_usage *usage, int argc, char **argv, struct err **err)
{
        struct option longs[OPTIONS_MAX + 2] = { 0 };
        char letters[2 * OPTIONS_MAX + 4] = ":h";
        int n = 0, words, option, r;

        for (; usage->options[n].name && n < OPTIONS_MAX; n++) {
                const struct image_option *o = &usage->options[n];
                const size_t len = strlen(letters);

                longs[n] =
                        (struct option){ o->name, o->value ? required_argument : no_argument, NULL, OPTION_BASE + n };
                if (o->letter)
                        snprintf(letters + len, sizeof(letters) - len, "%c%s", o->letter, o->value ? ":" : "");
        }
        longs[n] = (struct option){ "help", no_argument, NULL, 'h' };
        optind = 0;
        while ((option = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
                if (option == 'h') {
                        print_help(usage);
                        return 1;
                }
                if (option == '?' || option == ':')
                        return cli_option_error(argc, argv, option, usage->command, err);
                for (int i = 0; i < n; i++)
                        if (option == OPTION_BASE + i ||
                                (usage->options[i].letter && option == usage->options[i].letter)) {
                                r = take(&usage->options[i], optarg, err);
                                if (r < 0)
                                        return r;
                        }
        }
        words = argc - optind;
        if (words < usage->min || (usage->max >= 0 && words > usage->max)) {
                r = err_set(err, ERR_USAGE, EINVAL, "%s: too %s arguments", usage->command,
                        words < usage->min ? "few" : "many");
                return err_hint(err, r, "usage: %s %s", usage->command, usage->arguments);
        }
        return 0;
}

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

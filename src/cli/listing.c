#include "listing.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "template.h"

#define COLUMN_MIN     10 /* a column's width and the space behind it, as docker's tables have them */
#define COLUMN_PADDING 3

/* --- tables -------------------------------------------------------------------------------------------------------- */

/* Characters, not bytes (UTF-8). */
static size_t width_of(const char *text, size_t len)
{
        size_t width = 0;

        for (size_t i = 0; i < len; i++)
                width += ((unsigned char)text[i] & 0xc0) != 0x80;
        return width;
}

/* Prints the lines of @text, whose cells end with tabs, as columns. */
static int print_aligned(const char *text, FILE *out, struct err **err)
{
        _cleanup_free_ size_t *widths = NULL;
        size_t n_columns = 1, column = 0;
        const char *p;

        for (p = text; *p; p++)
                n_columns += *p == '\t';
        widths = calloc(n_columns, sizeof(*widths));
        if (!widths)
                return err_sys(err, ENOMEM, "printing a table");
        for (p = text; *p; column = *p++ == '\t' ? column + 1 : 0) {
                const size_t len = strcspn(p, "\t\n");

                widths[column] = MAX(widths[column], width_of(p, len));
                p += len;
                if (!*p)
                        break;
        }
        column = 0;
        for (p = text; *p; p++) {
                const size_t len = strcspn(p, "\t\n");

                fwrite(p, 1, len, out);
                if (p[len] == '\t')
                        fprintf(out, "%*s",
                                (int)(MAX(widths[column] + COLUMN_PADDING, (size_t)COLUMN_MIN) - width_of(p, len)), "");
                column = p[len] == '\t' ? column + 1 : 0;
                p += len;
                if (!*p)
                        break;
                if (*p == '\n')
                        fputc('\n', out);
        }
        return 0;
}

/* "\t" and "\n" as they are written on a command line. */
static char *unescape(const char *text)
{
        char *copy = strdup(text), *to = copy;

        for (const char *p = text; copy && *p; p++) {
                if (p[0] == '\\' && (p[1] == 't' || p[1] == 'n'))
                        *to++ = *++p == 't' ? '\t' : '\n';
                else
                        *to++ = *p;
        }
        if (copy)
                *to = '\0';
        return copy;
}

enum style { STYLE_TABLE, STYLE_LINES, STYLE_JSON };

/* What --format and --quiet mean; *ret_template is the caller's, NULL for JSON. */
static int read_format(
        const struct listing *listing, enum style *ret_style, struct template **ret_template, struct err **err)
{
        const char *format = listing->format ? listing->format : "table";
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        FILE *f;

        *ret_style = STYLE_LINES;
        *ret_template = NULL;
        if (strcmp(format, "json") == 0 && !listing->quiet) {
                *ret_style = STYLE_JSON;
                return 0;
        }
        if (listing->quiet || strcmp(format, "table") == 0) {
                f = open_memstream(&text, &len);
                if (!f)
                        return err_sys(err, ENOMEM, "printing a table");
                for (const struct listing_column *c = listing->columns; c->field; c++) {
                        if (!c->extra && (c == listing->columns || !listing->quiet))
                                fprintf(f, "%s{{.%s}}", c == listing->columns ? "" : "\t", c->field);
                }
                if (fclose(f) != 0)
                        return err_sys(err, ENOMEM, "printing a table");
                *ret_style = listing->quiet ? STYLE_LINES : STYLE_TABLE;
        } else {
                if (strncmp(format, "table ", 6) == 0) {
                        *ret_style = STYLE_TABLE;
                        format += 6;
                }
                text = unescape(format);
                if (!text)
                        return err_sys(err, ENOMEM, "reading a format");
        }
        return template_parse(text, ret_template, err);
}

int listing_check(const struct listing *listing, struct err **err)
{
        _cleanup_(template_freep) struct template *template = NULL;
        enum style style;
        int r = read_format(listing, &style, &template, err);

        if (r < 0)
                err_hint(err, r, "formats are table, 'table TEMPLATE', json and templates like '{{.%s}}'",
                        listing->columns[0].field);
        return r;
}

static int print_json_lines(json_t *rows, FILE *out, struct err **err)
{
        for (size_t i = 0; i < json_array_size(rows); i++) {
                if (json_dumpf(json_array_get(rows, i), out, JSON_COMPACT | JSON_SORT_KEYS) < 0)
                        return err_sys(err, EIO, "printing JSON");
                fputc('\n', out);
        }
        return 0;
}

static int print_rows(const struct template *template, json_t *rows, FILE *out, struct err **err)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(rows); i++) {
                r = template_run(template, json_array_get(rows, i), out, err);
                fputc('\n', out);
        }
        return r;
}

static int print_table(
        const struct listing *listing, const struct template *template, json_t *rows, FILE *out, struct err **err)
{
        _cleanup_(json_decrefp) json_t *headings = json_object();
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&text, &len);
        int r = 0;

        if (!f || !headings) {
                if (f)
                        fclose(f);
                return err_sys(err, ENOMEM, "printing a table");
        }
        for (const struct listing_column *c = listing->columns; c->field; c++)
                json_object_set_new(headings, c->field, json_string(c->heading));
        r = template_run(template, headings, f, err);
        fputc('\n', f);
        if (r == 0)
                r = print_rows(template, rows, f, err);
        if (fclose(f) != 0 && r == 0)
                r = err_sys(err, ENOMEM, "printing a table");
        return r < 0 ? r : print_aligned(text, out, err);
}

int listing_print(const struct listing *listing, json_t *rows, FILE *out, struct err **err)
{
        _cleanup_(template_freep) struct template *template = NULL;
        enum style style;
        int r = read_format(listing, &style, &template, err);

        if (r < 0)
                return r;
        switch (style) {
        case STYLE_JSON:
                return print_json_lines(rows, out, err);
        case STYLE_LINES:
                return print_rows(template, rows, out, err);
        case STYLE_TABLE:
                return print_table(listing, template, rows, out, err);
        }
        return 0;
}

int listing_inspect(json_t *list, const char *format, FILE *out, struct err **err)
{
        _cleanup_(template_freep) struct template *template = NULL;
        int r;

        if (!format) {
                if (json_dumpf(list, out, JSON_INDENT(4)) < 0)
                        return err_sys(err, EIO, "printing JSON");
                fputc('\n', out);
                return 0;
        }
        if (strcmp(format, "json") == 0)
                return print_json_lines(list, out, err);
        r = template_parse(format, &template, err);
        return r < 0 ? r : print_rows(template, list, out, err);
}

/* --- numbers for people -------------------------------------------------------------------------------------------- */

static struct listing_text scaled(double value, double step, const char *const *units, size_t n, int digits)
{
        struct listing_text size;
        size_t unit = 0;

        while (value >= step && unit + 1 < n) {
                value /= step;
                unit++;
        }
        snprintf(size.text, sizeof(size.text), "%.*g%s", digits, value, units[unit]);
        return size;
}

struct listing_text listing_size(u64 bytes)
{
        static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB" };

        return scaled((double)bytes, 1000, units, ARRAY_SIZE(units), 3);
}

struct listing_text listing_size_binary(u64 bytes)
{
        static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };

        return scaled((double)bytes, 1024, units, ARRAY_SIZE(units), 4);
}

struct listing_text listing_duration(s64 seconds)
{
        static const struct {
                s64 below, unit;
                const char *name;
        } steps[] = { { 60, 1, "seconds" }, { 3600, 60, "minutes" }, { 48 * 3600, 3600, "hours" },
                { 14 * 86400, 86400, "days" }, { 60 * 86400, 7 * 86400, "weeks" },
                { 2 * 365 * 86400LL, 30 * 86400, "months" }, { INT64_MAX, 365 * 86400LL, "years" } };
        static const struct {
                s64 from, below;
                const char *text;
        } words[] = { { INT64_MIN, 1, "Less than a second" }, { 1, 2, "1 second" }, { 60, 120, "About a minute" },
                { 3600, 5400, "About an hour" } };
        struct listing_text duration = { "" };

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (seconds >= words[i].from && seconds < words[i].below) {
                        snprintf(duration.text, sizeof(duration.text), "%s", words[i].text);
                        return duration;
                }
        for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
                if (seconds < steps[i].below) {
                        const s64 unit = steps[i].unit, half = unit == 3600 ? unit / 2 : 0; /* hours are rounded */

                        snprintf(duration.text, sizeof(duration.text), "%lld %s", (long long)((seconds + half) / unit),
                                steps[i].name);
                        break;
                }
        return duration;
}

struct listing_text listing_time(s64 ns)
{
        const time_t seconds = ns / (s64)NSEC_PER_SEC;
        struct listing_text time;
        char date[24];
        struct tm tm;

        strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &tm));
        snprintf(time.text, sizeof(time.text), "%s.%09lldZ", date, (long long)(ns % (s64)NSEC_PER_SEC));
        return time;
}

struct listing_text listing_local_time(s64 seconds)
{
        const time_t at = seconds;
        struct listing_text time;
        struct tm tm;

        strftime(time.text, sizeof(time.text), "%Y-%m-%d %H:%M:%S %z %Z", localtime_r(&at, &tm));
        return time;
}

/* Lists as docker prints them: rows are JSON objects, columns name their fields.
 *
 *   --format table              the columns, aligned, under their headings (the default)
 *   --format 'table {{...}}'    one's own columns, between them \t
 *   --format json               one object a line
 *   --format '{{...}}'          a line for each row
 *   --quiet                     the first column alone
 *
 * Sizes, ages and durations as people read them are here too. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "base/err.h"

struct listing_column {
        const char *field; /* of the rows */
        const char *heading;
        bool extra; /* not in the table unless a template asks for it */
};

struct listing {
        const struct listing_column *columns; /* ends with field NULL */
        const char *format;                   /* NULL: table */
        bool quiet;
};

/* Before the work is done for which the rows are wanted: a wrong --format is an error at once. */
int listing_check(const struct listing *listing, struct err **err);
/* Prints @rows, an array of objects, to @out. */
int listing_print(const struct listing *listing, json_t *rows, FILE *out, struct err **err);

/* @list, an array of objects, pretty; or each of them through the template @format ("json": one a line). */
int listing_inspect(json_t *list, const char *format, FILE *out, struct err **err);

struct listing_text {
        char text[40];
};
/* "1.5GB": powers of 1000; "1.5GiB": of 1024 */
struct listing_text listing_size(u64 bytes);
struct listing_text listing_size_binary(u64 bytes);
/* "2 hours", "About a minute", "Less than a second" */
struct listing_text listing_duration(s64 seconds);
/* Nanoseconds since 1970 as "2026-01-31T12:00:00.123456789Z" */
struct listing_text listing_time(s64 ns);
/* Seconds since 1970, local time: "2026-01-31 12:00:00 +0000 UTC" */
struct listing_text listing_local_time(s64 seconds);

#include "filter.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "values.h"

/* The value of a filter for @key, else NULL. */
static const char *value_for(const char *filter, const char *key)
{
        const size_t len = strlen(key);

        return strncmp(filter, key, len) == 0 && filter[len] == '=' ? filter + len + 1 : NULL;
}

int filter_check(const struct cli_words *filters, const char *const *known, struct err **err)
{
        char text[256] = "";

        for (size_t i = 0; i < filters->n; i++) {
                const char *const *key = known;

                while (*key && !value_for(filters->item[i], *key))
                        key++;
                if (*key)
                        continue;
                for (key = known; *key; key++)
                        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", *text ? ", " : "", *key);
                return err_hint(err,
                        err_set(err, ERR_USAGE, EINVAL, "--filter: '%s' is not understood", filters->item[i]),
                        "KEY=VALUE, where KEY is one of: %s", text);
        }
        return 0;
}

typedef bool match_fn(const char *value, const char *wanted);

static bool any_matches(const struct cli_words *filters, const char *key, const char *value, match_fn *match)
{
        bool any = false;

        for (size_t i = 0; i < filters->n; i++) {
                const char *wanted = value_for(filters->item[i], key);

                if (!wanted)
                        continue;
                if (match(value, wanted))
                        return true;
                any = true;
        }
        return !any;
}

static bool equals(const char *value, const char *wanted)
{
        return strcmp(value, wanted) == 0;
}

static bool contains(const char *value, const char *wanted)
{
        return strstr(value, wanted) != NULL;
}

static bool begins(const char *value, const char *wanted)
{
        return strncmp(value, wanted, strlen(wanted)) == 0;
}

bool filter_equals(const struct cli_words *filters, const char *key, const char *value)
{
        return any_matches(filters, key, value, equals);
}

bool filter_contains(const struct cli_words *filters, const char *key, const char *value)
{
        return any_matches(filters, key, value, contains);
}

bool filter_begins(const struct cli_words *filters, const char *key, const char *value)
{
        return any_matches(filters, key, value, begins);
}

static bool has_label(const struct instance_pairs *labels, const char *wanted)
{
        const size_t len = strcspn(wanted, "=");

        for (size_t i = 0; i < labels->n; i++)
                if (strlen(labels->item[i].key) == len && strncmp(labels->item[i].key, wanted, len) == 0)
                        return !wanted[len] || strcmp(labels->item[i].value, wanted + len + 1) == 0;
        return false;
}

bool filter_labels(const struct cli_words *filters, const struct instance_pairs *labels)
{
        for (size_t i = 0; i < filters->n; i++) {
                const char *wanted = value_for(filters->item[i], "label"),
                           *unwanted = value_for(filters->item[i], "label!");

                if ((wanted && !has_label(labels, wanted)) || (unwanted && has_label(labels, unwanted)))
                        return false;
        }
        return true;
}

int filter_check_prune(const struct cli_words *filters, struct err **err)
{
        static const char *const known[] = { "until", "label", "label!", NULL };
        const char *until = filter_first(filters, "until");
        s64 ns;
        int r = filter_check(filters, known, err);

        if (r == 0 && until)
                r = cli_parse_time(&ns, until, err);
        return r < 0 ? err_wrap(err, r, "--filter") : 0;
}

bool filter_until(const struct cli_words *filters, const char *created)
{
        const char *until = filter_first(filters, "until");
        s64 limit, made;

        if (!until)
                return true;
        return cli_parse_time(&limit, until, NULL) == 0 && cli_parse_time(&made, created, NULL) == 0 && made < limit;
}

const char *filter_first(const struct cli_words *filters, const char *key)
{
        for (size_t i = 0; i < filters->n; i++)
                if (value_for(filters->item[i], key))
                        return value_for(filters->item[i], key);
        return NULL;
}

bool filter_has(const struct cli_words *filters, const char *key)
{
        return filter_first(filters, key) != NULL;
}

/* --filter KEY=VALUE: values of one key are alternatives, different keys must all hold; for "label" every value must. */
#pragma once

#include "instance/instance.h"
#include "options.h"

/* @known: the keys that a command understands, ends with NULL. */
int filter_check(const struct cli_words *filters, const char *const *known, struct err **err);
/* Whether @value passes what is said about @key; true when nothing is. */
bool filter_equals(const struct cli_words *filters, const char *key, const char *value);
/* As above for a value that need only contain the text, as names do in docker's filters. */
bool filter_contains(const struct cli_words *filters, const char *key, const char *value);
bool filter_begins(const struct cli_words *filters, const char *key, const char *value);
/* "label=KEY" and "label=KEY=VALUE" against all of @labels; "label!=..." must not hold. */
bool filter_labels(const struct cli_words *filters, const struct instance_pairs *labels);
/* What `prune` takes: until=TIME, label=..., label!=... */
int filter_check_prune(const struct cli_words *filters, struct err **err);
/* Whether what was @created (RFC 3339) then is older than "until" says; true when nothing is said. */
bool filter_until(const struct cli_words *filters, const char *created);
/* The first value of @key, or NULL. */
const char *filter_first(const struct cli_words *filters, const char *key);
bool filter_has(const struct cli_words *filters, const char *key);

/* Records: KEY=VALUE lines, as protocol.h has them. Freestanding: for the supervisor and everybody else. */
#pragma once

#include "protocol.h"

/* Cuts what is too long for @size; false when there is no such key. */
bool record_get(const struct record *record, const char *key, char *ret, size_t size);
s64 record_number(const struct record *record, const char *key, s64 absent);
/* Appends; false when it is full. A line break in @value becomes a blank. */
bool record_put(struct record *record, const char *key, const char *value);
bool record_put_number(struct record *record, const char *key, s64 value);
size_t record_len(const struct record *record);

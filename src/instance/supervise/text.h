/* Numbers and times as text, without a C library. */
#pragma once

#include "base/types.h"

/* Appends to @at and returns the end; nothing is terminated. */
char *text_put(char *at, const char *text);
char *text_number(char *at, s64 number);
/* RFC 3339 with nanoseconds: 30 characters. */
char *text_time(char *at, s64 ns);

/* What the words of docker's options mean: sizes, durations, times, signals, keys. Each reads the whole text or fails with
 * an error that says what it should have been; the output is untouched then. Those of type cli_parse_fn fill the type
 * that is named behind them. */
#pragma once

#include "base/types.h"
#include "options.h"

/* What a number stands at that the command line did not give. */
#define CLI_UNSET INT64_MIN

cli_parse_fn cli_parse_number;   /* s64: any whole number */
cli_parse_fn cli_parse_count;    /* s64: from 0 */
cli_parse_fn cli_parse_size;     /* s64: bytes; "512m", "1.5g", "64KiB" */
cli_parse_fn cli_parse_swap;     /* s64: bytes, or -1 */
cli_parse_fn cli_parse_cpus;     /* s64: billionths of a CPU; "1.5" */
cli_parse_fn cli_parse_duration; /* s64: ns; "1h2m", "1.5s", "300ms" */
cli_parse_fn cli_parse_time;     /* s64: ns since 1970; RFC 3339 as far as given, seconds since 1970, or a duration ago */
cli_parse_fn cli_parse_signal;   /* int: "KILL", "SIGKILL", "9", "RTMIN+3" */
cli_parse_fn cli_parse_keys;     /* const char *: the text, when it is a sequence of keys: "ctrl-p,ctrl-q" */

/* "" for an unknown one. */
const char *cli_signal_name(int signal);

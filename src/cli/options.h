/* Command-line options from tables: one line an option, for the parser, for --help and for the hint.
 *
 * A command fills a structure of its own; each line says where in it the value goes:
 *
 *         struct stop { const char *signal; s64 timeout; };
 *         static const struct cli_option options[] = {
 *                 CLI_OPTION("signal", 's', TEXT, offsetof(struct stop, signal), "SIGNAL", "instead of the container's own"),
 *                 CLI_PARSED("time", 't', offsetof(struct stop, timeout), "SECONDS", "then it is killed", cli_parse_count),
 *                 { 0 },
 *         };
 *
 * Long options are --name VALUE or --name=VALUE, flags --name or --name=false; letters may stand together (-it) and have
 * their value behind them (-p80:80). "--" ends the options. Texts point into argv. */
#pragma once

#include <stddef.h>

#include "base/err.h"

/* Words that may be given often. item is NULL or ends with NULL. */
struct cli_words {
        const char **item;
        size_t n;
};
int cli_words_add(struct cli_words *words, const char *word, struct err **err);
void cli_words_clear(struct cli_words *words);

enum cli_kind {
        CLI_FLAG,    /* bool */
        CLI_TEXT,    /* const char *, the last one counts */
        CLI_LIST,    /* struct cli_words */
        CLI_VALUE,   /* whatever parse() makes of it */
        CLI_IGNORED, /* taken with its value, means nothing here */
        CLI_REFUSED, /* docker has it, this has not; help says why or what else to use */
};

/* Reads @text to where the option's offset points. */
typedef int cli_parse_fn(void *member, const char *text, struct err **err);

struct cli_option {
        const char *name; /* without dashes */
        char letter;      /* 0: none */
        enum cli_kind kind;
        size_t offset;
        void *target;      /* instead, in a table that is made when it is used */
        const char *value; /* what the help calls it; NULL: takes none */
        const char *help;
        cli_parse_fn *parse;
};

/* A line of a table: CLI_OPTION("all", 'a', FLAG, offsetof(struct ps, all), NULL, "also those that do not run"). */
#define CLI_OPTION(name_, letter_, kind_, offset_, value_, help_)                                                  \
        {                                                                                                          \
                .name = (name_), .letter = (letter_), .kind = CLI_##kind_, .offset = (offset_), .value = (value_), \
                .help = (help_)                                                                                    \
        }
#define CLI_PARSED(name_, letter_, offset_, value_, help_, parse_)                                               \
        {                                                                                                        \
                .name = (name_), .letter = (letter_), .kind = CLI_VALUE, .offset = (offset_), .value = (value_), \
                .help = (help_), .parse = (parse_)                                                               \
        }

#define CLI_LOCAL(name_, letter_, kind_, target_, value_, help_)                                                   \
        {                                                                                                          \
                .name = (name_), .letter = (letter_), .kind = CLI_##kind_, .target = (target_), .value = (value_), \
                .help = (help_)                                                                                    \
        }

/* Options under one heading, filling the structure at @base of the command's own. */
struct cli_option_group {
        const char *title; /* NULL: of others that the help does not show */
        const struct cli_option *options; /* ends with name NULL */
        size_t base;
};

/* A table alone. */
#define CLI_OPTIONS(table) ((const struct cli_option_group[]){ { "options", (table), 0 }, { 0 } })

struct cli_usage {
        const char *command;   /* "strata stop" */
        const char *arguments; /* "[OPTION...] CONTAINER..." */
        const char *summary;
        const struct cli_option_group *groups; /* ends with options NULL */
        int min, max;                          /* words that are no options; max -1: any number */
        bool in_order;                         /* the first such word ends the options: the rest is somebody else's */
};

/* Reads the options of argv[1..] into @target. argv is put into order: the words are argv[*ret_first] to its end.
 * Returns 1 when --help was answered. */
int cli_options_parse(
        const struct cli_usage *usage, int argc, char **argv, void *target, int *ret_first, struct err **err);

#define CLI_NEAR 2 /* edits between a wrong word and one that is proposed */
/* How many letters must be changed, added or taken away to make @b of the first @n of @a (Levenshtein). */
unsigned cli_distance(const char *a, size_t n, const char *b);

/* Command-line options from tables: one line an option, for the parser and for --help. */
#pragma once

#include "base/err.h"

enum option_kind {
        OPTION_END,
        OPTION_FLAG,
        OPTION_STRING,
        OPTION_LIST,
        OPTION_NUMBER,
        OPTION_IGNORED /* takes a value that changes nothing */
};

/* What an OPTION_LIST option fills; item ends with NULL. */
struct option_list {
        const char **item;
        size_t n;
};

struct option_spec {
        const char *name; /* without dashes */
        char letter;      /* 0: none */
        enum option_kind kind;
        size_t offset; /* in the structure that options_parse fills: bool, const char *, struct option_list, s64 */
        const char *help;
};

#define OPTION(kind_, type_, member_, name_, letter_, help_)                                                      \
        {                                                                                                         \
                .name = (name_), .letter = (letter_), .kind = OPTION_##kind_, .offset = offsetof(type_, member_), \
                .help = (help_)                                                                                   \
        }

/* Reads options from argv[1] on into @out. Without @in_order options may also stand behind other words; with it the
 * first other word ends them. argv is put into order: *ret_first is the index of the first word that is no option.
 * --help makes *ret_help true and returns 0. The items of lists are the caller's to free. */
int options_parse(const char *command, const struct option_spec *table, bool in_order, int argc, char **argv, void *out,
        int *ret_first, bool *ret_help, struct err **err);
void options_print(const struct option_spec *table);

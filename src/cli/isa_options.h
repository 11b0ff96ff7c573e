/* Options that the `strata isa` commands share. */
#pragma once

#include <jansson.h>

#include "cli.h"
#include "isa/isa.h"

struct isa_options {
        enum isa_machine_id machine; /* what the knobs were derived from */
        struct isa_context ctx;
        bool mode_given;
        unsigned bits; /* 16 for --mode protected16 and compat16, else 0 */
        bool json;
        bool help;
};

/* Values of struct option for the shared options; a command's own ones begin at ISA_OPTION_OWN. */
enum { ISA_OPTION_MACHINE = 256, ISA_OPTION_MODE, ISA_OPTION_FORMAT, ISA_OPTION_HELP, ISA_OPTION_OWN };

#define ISA_OPTIONS_GETOPT                                                                                             \
        { "machine", required_argument, NULL, ISA_OPTION_MACHINE },                                                    \
                { "mode", required_argument, NULL, ISA_OPTION_MODE },                                                  \
                { "format", required_argument, NULL, ISA_OPTION_FORMAT }, { "help", no_argument, NULL, ISA_OPTION_HELP }

void isa_options_init(struct isa_options *options);
/* Handles one of the shared options. 1 when @option is none of them. */
int isa_options_take(struct isa_options *options, int option, const char *value, struct err **err);
void isa_options_print_help(void);
/* "linux: umip fsgsbase ..., IOPL 0" as the caller's string. NULL without memory. */
char *isa_options_machine_text(const struct isa_options *options);
json_t *isa_options_to_json(const struct isa_options *options);

/* Prints @json on stdout and drops it; NULL is the lack of memory that made it so. */
int isa_print_json(json_t *json, struct err **err);

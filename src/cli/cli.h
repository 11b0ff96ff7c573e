/* The `strata` command: words of the command line lead through tables of struct command to a function. */
#pragma once

#include "base/err.h"

struct command {
        const char *name;
        const char *arguments; /* for the usage line */
        const char *summary;   /* one line of the list */
        /* argv[0] is the command's own name. Returns the exit status, or -errno with @err filled. */
        int (*run)(int argc, char **argv, struct err **err);
        const struct command *sub; /* a group: NULL-terminated table of its commands; run is NULL */
};

extern const struct command cli_image_commands[];
extern const struct command cli_isa_commands[];
extern const struct command cli_kernel_commands[];
extern const struct command cli_network_commands[];
extern const struct command cli_vm_commands[];
extern const struct command cli_volume_commands[];

/* For getopt_long's '?' and ':': the wrong option as an error. */
int cli_option_error(int argc, char *const argv[], int returned, const char *command, struct err **err);

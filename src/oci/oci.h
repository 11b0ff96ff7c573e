/* strata-oci: the command line of runc (and what crun adds to it) for box. */
#pragma once

#include "box/box.h"
#include "options.h"

/* Global options, and what they make. */
struct oci {
        struct box_runtime runtime;
        const char *program;
        const char *log, *log_format;
        bool debug;
        int error_status; /* what the command exits with when it fails; 0 means 1 */
};

struct oci_command {
        const char *name, *arguments, *summary;
        int (*run)(struct oci *oci, int argc, char **argv,
                struct err **err); /* 0 or an exit status above; below 0 an error */
        const struct option_spec *options;
        bool in_order;
};

#define OCI_COMMAND_LIST(COMMAND) \
        COMMAND(checkpoint)       \
        COMMAND(create)           \
        COMMAND(delete)           \
        COMMAND(events)           \
        COMMAND(exec)             \
        COMMAND(features)         \
        COMMAND(kill)             \
        COMMAND(list)             \
        COMMAND(pause)            \
        COMMAND(ps)               \
        COMMAND(restore)          \
        COMMAND(resume)           \
        COMMAND(run)              \
        COMMAND(spec)             \
        COMMAND(start)            \
        COMMAND(state)            \
        COMMAND(update)

#define COMMAND(name) extern const struct oci_command oci_##name;
OCI_COMMAND_LIST(COMMAND)
#undef COMMAND

/* Reads the command's options into @out and checks the number of words. 1: help was printed, nothing else is to be
 * done. */
int oci_options(const struct oci_command *command, int argc, char **argv, void *out, int min_words, int max_words,
        char ***ret_words, int *ret_n, struct err **err);
/* Prints @json by jansson's @flags (runc's habits differ by command) and frees it. */
int oci_print_json(json_t *json, size_t flags, struct err **err);
/* "TERM", "SIGTERM" or "15", or -1. */
int oci_signal(const char *text);

/* What the commands about containers share. */
#pragma once

#include <jansson.h>

#include "base/cleanup.h"
#include "cli.h"
#include "instance/instance.h"
#include "listing.h"
#include "options.h"
#include "values.h"

#define CONTAINER_ID_DIGITS 12 /* of an id, where --no-trunc is not given */

/* Exit statuses that docker's run and exec have of their own. */
enum { CONTAINER_STATUS_OURS = 125, CONTAINER_STATUS_NOT_EXECUTABLE = 126, CONTAINER_STATUS_NO_COMMAND = 127 };

#define _cleanup_json_ _cleanup_(json_decrefp)

/* Prints @err, frees it, and returns the exit status of docker's run: 126 or 127 where the command is at fault, else 125. */
int container_run_failed(struct err **err);
/* The same of a command in a container that exists already: when the error is that it does not, @r, which is main's to report. */
int container_exec_failed(int r, struct err **err);

/* Prints @err and frees it; returns 1, the status of a command that could not do everything. */
int container_report(struct err **err);
/* Asks on the terminal whether to go on; false when the answer is anything but yes. */
bool container_confirm(const char *what);

/* Does @fn to each container that is named, and goes on after errors: those are printed, and the status is 1 then. What
 * succeeded is printed as it was named unless @quiet. */
typedef int container_fn(struct instance_host *host, struct instance *inst, void *opaque, struct err **err);
enum { CONTAINER_QUIET = 1 << 0, CONTAINER_MISSING_IS_FINE = 1 << 1 };
int container_each(char *const *names, container_fn *fn, void *opaque, unsigned flags, struct err **err);

/* The same for things that are known by their names alone; @fn prints what it wants to. */
typedef int container_named_fn(struct instance_host *host, const char *name, void *opaque, struct err **err);
int container_each_name(char *const *names, container_named_fn *fn, void *opaque, struct err **err);
/* The whole of an "rm" without options: @remove for each name, which is printed when it is gone. */
typedef int container_remove_fn(struct instance_host *host, const char *name, struct err **err);
int container_remove_command(const struct cli_usage *usage, container_remove_fn *remove, int argc, char **argv, struct err **err);

/* Opens the host and finds @name. Both are the caller's. */
int container_open(const char *name, struct instance_host **ret_host, struct instance **ret, struct err **err);

/* The container that a command is about: its first word. */
struct container_choice {
        struct instance_host *host;
        struct instance *inst;
        char **words; /* all of them; ends with NULL */
};
void container_choice_clear(struct container_choice *choice);
/* Reads the options into @target (NULL: there are none) and opens the container. 1: --help was answered. */
int container_choose(const struct cli_usage *usage, int argc, char **argv, void *target, struct container_choice *ret,
        struct err **err);

/* "12 digits", or all of them. */
struct listing_text container_short_id(const char *id);
/* `ls` of something: a command's own structure begins with this one. @collect appends to rows; @table is the format where none is given
 * (NULL: all columns). @filter_keys may be NULL: there is no --filter. */
struct list_command {
        struct listing listing;
        struct cli_words filters;
        char **words; /* of the command line beside the options; ends with NULL */
        json_t *rows;
};
#define LIST_QUIET(ids) CLI_OPTION("quiet", 'q', FLAG, offsetof(struct list_command, listing.quiet), NULL, ids " only")
#define LIST_FORMAT(example)                                                                   \
        CLI_OPTION("format", 0, TEXT, offsetof(struct list_command, listing.format), "FORMAT", \
                "table, 'table TEMPLATE', json or a template as '{{." example "}}'")
#define LIST_OPTIONS(ids, keys) \
        LIST_QUIET(ids), CLI_OPTION("filter", 'f', LIST, offsetof(struct list_command, filters), "KEY=VALUE", keys), LIST_FORMAT("Name")
int list_command_run(const struct cli_usage *usage, const char *const *filter_keys, const char *table,
        int (*collect)(struct list_command *list, struct err **err), int argc, char **argv, struct list_command *list,
        struct err **err);

/* "0.0.0.0:8080->80/tcp, 90/tcp": what ps says about ports; the caller's. */
char *container_ports_text(struct instance *inst);
/* "a=1,b=2"; the caller's. */
char *container_labels_text(const struct instance_pairs *labels);

/* Commands, each in its file. */
int container_attach_command(int argc, char **argv, struct err **err);
int container_clone_command(int argc, char **argv, struct err **err);
int container_commit_command(int argc, char **argv, struct err **err);
int container_cp_command(int argc, char **argv, struct err **err);
int container_create_command(int argc, char **argv, struct err **err);
int container_diff_command(int argc, char **argv, struct err **err);
int container_events_command(int argc, char **argv, struct err **err);
int container_exec_command(int argc, char **argv, struct err **err);
int container_export_command(int argc, char **argv, struct err **err);
int container_inspect_command(int argc, char **argv, struct err **err);
int container_kill_command(int argc, char **argv, struct err **err);
int container_logs_command(int argc, char **argv, struct err **err);
int container_pause_command(int argc, char **argv, struct err **err);
int container_port_command(int argc, char **argv, struct err **err);
int container_prune_command(int argc, char **argv, struct err **err);
int container_ps_command(int argc, char **argv, struct err **err);
int container_rename_command(int argc, char **argv, struct err **err);
int container_restart_command(int argc, char **argv, struct err **err);
int container_restore_command(int argc, char **argv, struct err **err);
int container_rm_command(int argc, char **argv, struct err **err);
int container_run_command(int argc, char **argv, struct err **err);
int container_snapshot_command(int argc, char **argv, struct err **err);
int container_start_command(int argc, char **argv, struct err **err);
int container_stats_command(int argc, char **argv, struct err **err);
int container_stop_command(int argc, char **argv, struct err **err);
int container_top_command(int argc, char **argv, struct err **err);
int container_unpause_command(int argc, char **argv, struct err **err);
int container_update_command(int argc, char **argv, struct err **err);
int container_wait_command(int argc, char **argv, struct err **err);
int system_check_command(int argc, char **argv, struct err **err);
int system_df_command(int argc, char **argv, struct err **err);
int system_info_command(int argc, char **argv, struct err **err);
int system_prune_command(int argc, char **argv, struct err **err);

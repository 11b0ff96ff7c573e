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

/* Prints @err and frees it; returns 1, the status of a command that could not do everything. */
int container_report(struct err **err);
/* Asks on the terminal whether to go on; false when the answer is anything but yes. */
bool container_confirm(const char *what);

/* Does @fn to each container that is named, and goes on after errors: those are printed, and the status is 1 then. What
 * succeeded is printed as it was named unless @quiet. */
typedef int container_fn(struct instance_host *host, struct instance *inst, void *opaque, struct err **err);
enum { CONTAINER_QUIET = 1 << 0, CONTAINER_MISSING_IS_FINE = 1 << 1 };
int container_each(char *const *names, container_fn *fn, void *opaque, unsigned flags, struct err **err);

/* Opens the host and finds @name. Both are the caller's. */
int container_open(const char *name, struct instance_host **ret_host, struct instance **ret, struct err **err);

/* "12 digits", or all of them. */
struct listing_text container_short_id(const char *id);
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
int system_prune_command(int argc, char **argv, struct err **err);

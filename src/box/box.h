/* Containers by the OCI runtime specification: create, start, enter, observe and remove them.
 *
 * Each call is complete in itself: what a container is lives in the state directory (state.h) and in the kernel, so any
 * process can continue where another stopped or was killed. Calls fork and change signal masks: the calling process
 * must be single-threaded (STYLE: namespace work is done in a helper forked before any thread exists).
 *
 * On failure nothing of a new container is left; what fails on an existing container leaves it as it was. */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/err.h"
#include "box/cgroup/cgroup.h"

/* Where containers are kept and how they are made; the runtime's global options. Strings are borrowed. */
struct box_runtime {
        const char *root; /* the state directory; see box_default_root */
        enum cgroup_driver cgroup_driver;
        bool rootless;    /* no cgroup is fine when none can be made */
        const char *criu; /* the program; NULL: "criu" from PATH */
};

/* How the first process's (or an exec's) terminal and descriptors are wired. */
struct box_stdio {
        /* Gets the terminal's master. NULL: the caller's own terminal relays it, or none is asked for. */
        const char *console_socket;
        const char *pid_file;
        const char *pidfd_socket;
        unsigned listen_fds;   /* sockets of activation among them: LISTEN_FDS for the payload */
        unsigned preserve_fds; /* descriptors 3.. that stay open */
        bool detach;
};

struct box_create_args {
        const char *id;
        const char *bundle; /* directory */
        const char *config; /* its config.json elsewhere; NULL */
        struct box_stdio stdio;
        bool no_pivot;
        bool no_new_keyring;
        bool no_subreaper;
        bool keep; /* box_run: leave the stopped container behind */
};

struct box_exec_args {
        const char *id;
        const char *process; /* a file with a process object; NULL: from the fields below */
        const char **argv;
        const char *cwd;
        const char **env; /* added to the container's; NULL-terminated or NULL */
        const char *user; /* UID[:GID] */
        const u32 *additional_gids;
        size_t n_additional_gids;
        const char **caps; /* added in all sets; NULL-terminated or NULL */
        const char *apparmor, *process_label;
        const char **cgroups; /* [CONTROLLERS:]PATH below the container's; NULL-terminated or NULL */
        bool tty;
        bool no_new_privs;
        bool ignore_paused;
        struct box_stdio stdio;
};

/* Created but not started: box_start lets its process run. */
int box_create(const struct box_runtime *runtime, const struct box_create_args *args, struct err **err);
int box_start(const struct box_runtime *runtime, const char *id, struct err **err);
/* create and start; without stdio.detach also waits, relays signals and terminal, and deletes.
 * *ret_status: exit status as a shell gives it (128 + n for a signal), 0 when detached. */
int box_run(const struct box_runtime *runtime, const struct box_create_args *args, int *ret_status, struct err **err);
int box_exec(const struct box_runtime *runtime, const struct box_exec_args *args, int *ret_status, struct err **err);

int box_kill(const struct box_runtime *runtime, const char *id, int signal, bool all, struct err **err);
int box_delete(const struct box_runtime *runtime, const char *id, bool force, struct err **err);
int box_pause(const struct box_runtime *runtime, const char *id, struct err **err);
int box_resume(const struct box_runtime *runtime, const char *id, struct err **err);
/* @resources is a linux.resources object. */
int box_update(const struct box_runtime *runtime, const char *id, const json_t *resources, struct err **err);
/* The Level 3 cache and memory bandwidth schemata of its resctrl group; either may be NULL. */
int box_update_rdt(
        const struct box_runtime *runtime, const char *id, const char *l3, const char *bandwidth, struct err **err);

enum box_status { BOX_CREATING, BOX_CREATED, BOX_RUNNING, BOX_PAUSED, BOX_STOPPED };
const char *box_status_name(enum box_status status);

/* The state object of the specification, with runc's additions (rootfs, created, owner). */
int box_state(const struct box_runtime *runtime, const char *id, json_t **ret, struct err **err);
/* An array of state objects, sorted by id. */
int box_list(const struct box_runtime *runtime, json_t **ret, struct err **err);
/* Its processes as the host numbers them. Free with free(). */
int box_pids(const struct box_runtime *runtime, const char *id, pid_t **ret, size_t *ret_n, struct err **err);
/* runc's `events --stats` data. */
int box_stats(const struct box_runtime *runtime, const char *id, json_t **ret, struct err **err);
/* Calls @emit with "stats" objects every @interval_ms and with "oom" as they happen, until the container stops. */
int box_events(const struct box_runtime *runtime, const char *id, unsigned interval_ms,
        int (*emit)(const char *type, const json_t *data, void *arg), void *arg, struct err **err);

struct box_checkpoint_args {
        const char *id;
        const char *image_path, *work_path, *parent_path;
        bool leave_running, tcp_established, ext_unix_sk, shell_job, file_locks, pre_dump, auto_dedup, lazy_pages;
        bool tcp_skip_in_flight, link_remap, tcp_close;
        int status_fd;           /* -1 */
        const char *page_server; /* HOST:PORT */
        const char *manage_cgroups_mode;
        const char *lsm_profile, *lsm_mount_context; /* restore */
};

int box_checkpoint(const struct box_runtime *runtime, const struct box_checkpoint_args *args, struct err **err);
int box_restore(const struct box_runtime *runtime, const struct box_create_args *create,
        const struct box_checkpoint_args *args, int *ret_status, struct err **err);

/* What this build and host can do: the specification's features document. */
json_t *box_features(void);
/* The document that `spec` writes. */
json_t *box_spec_template(bool rootless);

/* $XDG_RUNTIME_DIR/NAME for a user, /run/NAME for root. Free with free(). */
char *box_default_root(const char *name);

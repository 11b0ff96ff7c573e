/* What the files of box share. Start reading at create.c (the runtime's side) and init.c (the container's). */
#pragma once

#include "box.h"
#include "mount_options.h"
#include "seccomp/seccomp.h"
#include "spec/spec.h"
#include "state.h"
#include "sync.h"

/* A mount entry with its options read, and its detached mount once that is made. */
struct mount_plan {
        const struct spec_mount *mount;
        struct mount_options options;
        const char *target; /* absolute */
        int fd;             /* detached mount, or -1 */
        int map_fd;         /* the user namespace with the maps of an id-mapped mount, or -1 */
};

enum lsm { LSM_NONE, LSM_APPARMOR, LSM_SELINUX };

/* All that the runtime prepares before the container's process exists; the process works on its copy. Descriptors are
 * close-on-exec, -1 when absent. */
struct launch {
        const struct box_runtime *runtime;
        const struct box_stdio *stdio;
        struct spec *spec;
        const struct spec_process *process;
        char *bundle; /* until the state has it */
        struct box_handle *state;
        struct cgroup *cgroup;
        struct cgroup_resources *resources;
        struct seccomp_filter *filter;
        struct mount_plan *mounts;
        size_t n_mounts;
        int *device_fd;     /* detached mounts of linux.devices, -1 where there is none; NULL: they are made in place */
        const char *rootfs; /* absolute, on the host */
        int root;           /* O_PATH of it; the container's root once mounted */
        int proc;           /* procfs.h */
        int handover;       /* the sealed handover program; -1: execute the payload directly */
        int listener;       /* create: what `start` connects to */
        /* seccomp notify: where the process says which descriptor the runtime shall fetch; or NULL */
        _Atomic int *listener_page;
        int console;           /* connected console socket, or -1 */
        int notify, notify_tree; /* notify.h: the socket, the detached mount of its directory; -1 */
        const char *notify_path;
        int namespace_fd[NAMESPACE_COUNT];
        enum lsm lsm;
        pid_t placeholder; /* systemd driver: what its scope was made around; 0 */
        int sync;          /* in the container's process: its end of sync.h */
        /* The same: runs last, with the payload's user, capabilities and filter; or NULL. */
        int (*before_payload)(const struct launch *l, struct err **err);
        bool recorded;              /* the same: the state directory is written */
        bool entered_cgroup;        /* the process comes from a helper that is in the groups already */
        bool exec;                  /* joins a running container instead of making one; what follows is for that */
        int join_pidfd;             /* its first process */
        int join_flags;             /* CLONE_*: those of its namespaces that are not the runtime's */
        const char **exec_groups;   /* groups below the container's, or NULL: box_exec_args.cgroups */
        struct spec *process_owner; /* of a process object that came in a file of its own; NULL */
        bool always_clone;          /* the runtime must run from a read-only clone: seal.h */
        bool keep_groups;           /* crun's annotation run.oci.keep_original_groups */
        bool no_pivot, no_new_keyring;
        bool cloned_into_cgroup;
        bool in_user_namespace; /* the runtime itself is not in the host's: devices are bound, not made */
};

/* What *listener_page holds besides a descriptor, and how long the process waits for the runtime to take it. */
enum { LISTENER_PENDING = -1, LISTENER_TAKEN = -2, LISTENER_NONE = -3 };
#define LISTENER_SPINS 1000000000ULL

struct spawned;

/* launch.c: what create, run, exec and restore share, in the order in which it is called. */
void launch_init(struct launch *l);
/* Reads config.json and checks what needs no container: terminal, resources, mounts. */
int launch_open(struct launch *l, const struct box_runtime *runtime, const struct box_create_args *args,
        bool foreground, struct err **err);
/* Compiles the filter and makes the handover program; may start the runtime again (seal.h). */
int launch_prepare_process(struct launch *l, struct err **err);
/* Opens the namespaces to join and connects to the console socket. */
int launch_connect(struct launch *l, struct err **err);
/* Makes the state directory. From here on launch_undo takes everything back. */
int launch_record(struct launch *l, const char *id, struct err **err);
int launch_make_cgroup(struct launch *l, struct err **err);
void launch_end_placeholder(struct launch *l);
/* prestart and createRuntime hooks; @pid, when not 0, is the first process before the state has it. */
int launch_run_hooks(const struct launch *l, pid_t pid, struct err **err);
/* Pid file and pidfd socket. */
int launch_publish(const struct box_stdio *stdio, pid_t pid, int pidfd, struct err **err);
/* The runtime in the foreground, until the payload is dead; then the container is removed, unless @keep. */
int launch_wait(struct launch *l, const struct spawned *s, int master, bool keep, int *ret_status, struct err **err);
void launch_undo(struct launch *l, const struct spawned *s);
void launch_release(struct launch *l);
/* Moves @fd above the descriptors that the payload keeps. */
int launch_move_up(const struct launch *l, int fd);

/* create.c: hears what the process says, serving what it asks for, until it says @until or runs (SYNC_END).
 * *ret_master: a terminal to relay. */
int launch_converse(struct launch *l, const struct spawned *s, enum sync_type until, int *ret_master, struct err **err);

/* init.c: the container's first process, from clone to payload. Returns only on failure. */
int init_run(struct launch *l, int sync, struct err **err);

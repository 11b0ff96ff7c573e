/* Instances: workloads of an image behind a wall: a container, or a virtual machine.
 *
 * An instance is a directory, ROOT/instances/ID, with all that is needed to start it again, and, while it runs, a small
 * supervisor process (strata-supervise) that needs nobody else: it keeps the stdio, the logs, the exit status, the restart
 * policy and health checks. Every call below works from any process, whoever died before: what an instance is doing is
 * derived from facts (a lock that the supervisor holds, its child, the boot), and what a killed process of ours left behind is
 * taken away by the next call that meets it.
 *
 *         instance_host_open(NULL, &host, err);
 *         image_get(instance_host_images(host), "debian:12", NULL, &image, err);
 *         instance_create(host, image, &config, &inst, err);
 *         instance_start(inst, &attach, &session, err);        attached from the first byte on
 *         instance_session_relay(session, 0, 1, 2, &options, &end, err);
 *         instance_remove(inst, 0, err);
 *
 * Calls fork and, for a user who is not root, enter a user namespace: the calling process has one thread. Handles are used
 * by one thread at a time; strings and structures that a handle returns live as long as it, or until the call named. */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/err.h"
#include "image/image.h"

struct instance_host;
struct instance;
struct instance_session;

/* --- where instances are ---------------------------------------------------------------------------------------- */

struct instance_host_options {
        const char *root; /* NULL: $STRATA_ROOT, else /var/lib/strata or ~/.local/share/strata */
};

/* Opens ROOT and the images in ROOT/images (or $STRATA_IMAGE_ROOT), and makes them where there are none. Does what
 * image_enter_user_namespace does. @options may be NULL. */
int instance_host_open(const struct instance_host_options *options, struct instance_host **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct instance_host *instance_host_close(struct instance_host *host);
static inline void instance_host_closep(struct instance_host **host)
{
        instance_host_close(*host);
}
const char *instance_host_root(const struct instance_host *host);
struct image_store *instance_host_images(struct instance_host *host);

/* --- what an instance is to be ---------------------------------------------------------------------------------- */

/* A list; @item need not end with NULL where it comes in, and does where it comes out. */
struct instance_strings {
        const char **item;
        size_t n;
};

struct instance_pair {
        const char *key, *value;
};

struct instance_pairs {
        struct instance_pair *item;
        size_t n;
};

struct instance_mount {
        const char *type;   /* "bind", "volume", "tmpfs" */
        const char *source; /* a directory or file of the host; a volume's name, NULL: an anonymous one */
        const char *target; /* absolute */
        bool read_only;
        bool make_source;        /* bind: a missing directory is made (-v; --mount refuses) */
        bool no_recursive;       /* bind: without the mounts below the source */
        bool no_copy;            /* volume: not filled from the image on first use */
        bool id_map;             /* owners are shifted with the user namespace by the mount, nothing is chowned */
        const char *propagation; /* "rprivate" (NULL), "rshared", "rslave", "private", "shared", "slave" */
        const char *options;     /* tmpfs: "size=64m,mode=1777,noexec"; NULL */
};

struct instance_port {
        const char *host_ip; /* NULL: all addresses */
        u16 host_port;       /* 0: any free one */
        u16 host_port_last;  /* with it: any free one of host_port to this; 0: that one */
        u16 port;
        const char *protocol; /* "tcp" (NULL), "udp", "sctp" */
};

struct instance_network {
        const char *name;
        const char *ip, *ip6, *mac; /* NULL: chosen */
        struct instance_strings aliases;
};

struct instance_device {
        const char *source;      /* on the host: a device, or a directory of devices */
        const char *target;      /* NULL: as on the host */
        const char *permissions; /* NULL: "rwm" */
};

struct instance_ulimit {
        const char *name; /* "nofile" */
        s64 soft, hard;   /* -1: unlimited */
};

struct instance_io_rate {
        const char *device; /* "/dev/sda" */
        u64 rate;
};

struct instance_io_rates {
        struct instance_io_rate *item;
        size_t n;
};

/* 0 is "not given" throughout, unless said otherwise. */
struct instance_resources {
        s64 memory, memory_reservation; /* bytes */
        s64 memory_swap;                /* memory and swap together; -1: no limit */
        s64 memory_swappiness;          /* -1: not given */
        s64 nano_cpus;                  /* --cpus 1.5 is 1500000000 */
        s64 cpu_shares, cpu_period, cpu_quota;
        const char *cpuset_cpus, *cpuset_mems;
        s64 pids; /* -1: no limit */
        s64 blkio_weight;
        struct instance_io_rates read_bps, write_bps, read_iops, write_iops;
        bool oom_kill_disable;
};

enum instance_restart {
        INSTANCE_RESTART_NO,
        INSTANCE_RESTART_ON_FAILURE,
        INSTANCE_RESTART_ALWAYS,
        INSTANCE_RESTART_UNLESS_STOPPED
};

struct instance_health {
        struct instance_strings test; /* none: the image's; {"NONE"}; {"CMD", ...}; {"CMD-SHELL", command} */
        s64 interval_ns, timeout_ns, start_period_ns;
        s64 start_interval_ns; /* in place of the interval in the start period; 0: 5 s, or the interval when that is less */
        s64 retries;
};

struct instance_log {
        const char *driver; /* "json-file" (NULL), "none" */
        s64 max_size;       /* bytes of a file; 0: no limit */
        s64 max_files;      /* 0: 1 */
};

/* For instance_create: what was asked for. What is not given comes from the image; instance_get_config returns the result. */
struct instance_config {
        const char *id;           /* out */
        const char *name;         /* NULL: made up */
        const char *image;        /* out: as it was named */
        const char *image_id;     /* out */
        const char *image_digest; /* out: of the manifest */
        const char *created;      /* out: RFC 3339 */
        const char *isolation;    /* "container" or "vm"; NULL: as the image says, else a container */

        /* the process */
        struct instance_strings entrypoint, command; /* the entrypoint {""}: none, also where the image has one */
        struct instance_strings env;                 /* "NAME=VALUE"; "NAME" takes the image's away */
        const char *user;                            /* "name[:group]", "uid[:gid]" */
        struct instance_strings groups;              /* --group-add */
        const char *working_dir;
        bool tty, open_stdin, init;
        const char *stop_signal;
        s64 stop_timeout; /* seconds; 0: 10; -1: never killed */

        /* rights */
        bool privileged, read_only;
        struct instance_strings cap_add, cap_drop;
        struct instance_strings
                security; /* "seccomp=FILE|unconfined", "no-new-privileges", "apparmor=...", "label=..." */
        struct instance_strings device_rules; /* "c 1:3 rwm" */
        struct instance_pairs sysctls;
        struct {
                struct instance_device *item;
                size_t n;
        } devices;
        struct {
                struct instance_ulimit *item;
                size_t n;
        } ulimits;
        struct instance_resources resources;
        s64 oom_score_adj;
        const char *cgroup_parent;

        /* files */
        struct {
                struct instance_mount *item;
                size_t n;
        } mounts;
        struct instance_strings volumes_from; /* "INSTANCE[:ro]" */
        s64 shm_size;                         /* 0: 64 MiB */

        /* namespaces: "" or NULL (its own), "host", "container:NAME"; userns: "" or "host",
         * "auto[:size=N]" or "UID:HOST:N[,...]"; of a user who is not root also "keep-id[:uid=N,gid=N]" and "nomap" */
        const char *pid_mode, *ipc_mode, *uts_mode, *cgroupns_mode, *userns_mode;
        const char *id_maps; /* out: of its own user namespace, "UID:HOST:N[,...]"; NULL: it has none */
        const char *gid_maps; /* out: where they are others; NULL: the same */

        /* network */
        const char *network_mode; /* NULL or "bridge", "none", "host", "container:NAME", a network's name */
        struct {
                struct instance_network *item; /* --network NAME with details, several of them */
                size_t n;
        } networks;
        struct {
                struct instance_port *item;
                size_t n;
        } ports;
        bool publish_all;
        struct instance_strings exposed; /* "80/tcp" */
        const char *hostname, *domainname;
        struct instance_strings extra_hosts; /* "name:ip", "name:host-gateway" */
        struct instance_strings dns, dns_search, dns_options;

        /* life */
        bool auto_remove; /* --rm: with its anonymous volumes */
        s64 restart;      /* enum instance_restart */
        s64 restart_max;  /* on-failure; 0: without end */
        struct instance_health health;
        struct instance_log log;
        struct instance_pairs labels, annotations;
};

/* Something that must not be 0 when it is not given: use this before filling one in. */
#define INSTANCE_CONFIG_EMPTY                           \
        {                                               \
                .resources = {.memory_swappiness = -1 } \
        }

/* --- finding, creating, removing -------------------------------------------------------------------------------- */

/* Pins the image and makes ROOT/instances/ID. Everything that can be checked without starting is checked. -EEXIST, ERR_BUSY
 * for a name that is taken. */
int instance_create(struct instance_host *host, const struct image *image, const struct instance_config *config,
        struct instance **ret, struct err **err);
/* By name, id or an unambiguous beginning of an id. -ENOENT, ERR_NOT_FOUND. */
int instance_find(struct instance_host *host, const char *name, struct instance **ret, struct err **err);
/* NULL is fine. Returns NULL. The instance itself goes on. */
struct instance *instance_free(struct instance *inst);
static inline void instance_freep(struct instance **inst)
{
        instance_free(*inst);
}

/* Calls @fn for every instance, newest first, until it returns something other than 0; returns that. One that cannot be read
 * is left out with a warning. */
int instance_list(
        struct instance_host *host, int (*fn)(void *opaque, struct instance *inst), void *opaque, struct err **err);

enum { INSTANCE_REMOVE_FORCE = 1 << 0 /* kills it first */, INSTANCE_REMOVE_VOLUMES = 1 << 1 /* anonymous ones too */ };
int instance_remove(struct instance *inst, unsigned flags, struct err **err);
int instance_rename(struct instance *inst, const char *name, struct err **err);

/* 64 hexadecimal digits */
const char *instance_id(const struct instance *inst);
const char *instance_name(const struct instance *inst);
const struct instance_config *instance_get_config(const struct instance *inst);

enum instance_status {
        INSTANCE_CREATED,
        INSTANCE_RUNNING,
        INSTANCE_PAUSED,
        INSTANCE_RESTARTING, /* waits for its next start */
        INSTANCE_REMOVING,
        INSTANCE_EXITED,
        INSTANCE_DEAD, /* half removed */
};
/* "created", "running", ... as docker says it */
const char *instance_status_name(enum instance_status status);

struct instance_state {
        enum instance_status status;
        pid_t pid;     /* of its first process, 0 */
        int exit_code; /* of the last run: 128 + n for a signal */
        bool oom_killed;
        const char *error;           /* why the last start failed, or "" */
        s64 started_ns, finished_ns; /* CLOCK_REALTIME; 0: never */
        unsigned restarts;
        bool stopped;            /* by hand */
        const char *health;      /* "", "starting", "healthy", "unhealthy" */
        unsigned health_failing; /* in a row */
};
/* What is true now. Valid until the next call of it. */
int instance_get_state(struct instance *inst, const struct instance_state **ret, struct err **err);

struct instance_endpoint {
        const char *network;
        const char *ip, *ip6, *gateway, *mac; /* "" */
        unsigned prefix_len;
};
struct instance_endpoints {
        struct instance_endpoint *item;
        size_t n;
};
/* Of the running instance; none otherwise. Valid until the next call of it. */
int instance_get_endpoints(struct instance *inst, const struct instance_endpoints **ret, struct err **err);
/* Published ports as they are open now (a chosen host port filled in). The item's lifetime is as above. */
int instance_get_ports(struct instance *inst, const struct instance_port **ret, size_t *ret_n, struct err **err);

/* Puts it on one more network, or takes it off one: at once when it runs, and at each start. Not for one that has no network of
 * its own (none, host, container:NAME). ERR_BUSY: it is on it already; ERR_NOT_FOUND: it is not. */
int instance_network_connect(struct instance *inst, const struct instance_network *network, struct err **err);
int instance_network_disconnect(struct instance *inst, const char *network, struct err **err);

/* What `docker inspect` prints for a container: one object. */
int instance_inspect(struct instance *inst, bool size, json_t **ret, struct err **err);
/* Bytes of the writable layer, and of layer and image together. */
int instance_size(struct instance *inst, u64 *ret_layer, u64 *ret_total, struct err **err);

/* --- life ------------------------------------------------------------------------------------------------------- */

enum { /* for instance_attach and instance_start */
        INSTANCE_ATTACH_STDIN = 1 << 0,
        INSTANCE_ATTACH_STDOUT = 1 << 1,
        INSTANCE_ATTACH_STDERR = 1 << 2,
        INSTANCE_ATTACH_CLEAN_UP =
                1 << 3, /* this session takes away what is left after the end: nobody need be started for
                                              it. The relay does so; others call instance_session_finish */
};

/* Starts it and returns when its command runs (or is known not to: see below). With @attach other than 0 a session that
 * loses no byte is in *ret_session (NULL otherwise is fine).
 * Failures have the id ERR_NO_COMMAND (no such program, exit status 127) or ERR_NOT_EXECUTABLE (126) where the command is at fault. */
int instance_start(struct instance *inst, unsigned attach, struct instance_session **ret_session, struct err **err);
/* "SIGTERM", "term", "15"; "" is SIGTERM. -EINVAL, ERR_USAGE. */
int instance_signal_parse(const char *text, struct err **err);
/* @signal to its first process. */
int instance_kill(struct instance *inst, int signal, struct err **err);
/* @signal (0: its stop signal), then SIGKILL after @timeout_s (-1: the instance's own; -2: never). Returns when it has ended; fine
 * when it had. It is not restarted by its policy. */
int instance_stop(struct instance *inst, int signal, int timeout_s, struct err **err);
int instance_restart(struct instance *inst, int signal, int timeout_s, struct err **err);
int instance_pause(struct instance *inst, struct err **err);
int instance_unpause(struct instance *inst, struct err **err);

enum instance_wait { INSTANCE_WAIT_NOT_RUNNING, INSTANCE_WAIT_NEXT_EXIT, INSTANCE_WAIT_REMOVED };
int instance_wait(struct instance *inst, enum instance_wait until, int *ret_status, struct err **err);

/* Changes what a running instance may use, and the policy. Fields that are 0 (NULL, -1 for swappiness) stay. */
struct instance_update {
        struct instance_resources resources;
        bool set_restart;
        enum instance_restart restart;
        s64 restart_max;
};
int instance_update(struct instance *inst, const struct instance_update *update, struct err **err);

/* --- its input and output --------------------------------------------------------------------------------------- */

int instance_attach(struct instance *inst, unsigned attach, struct instance_session **ret, struct err **err);
/* Detaches. NULL is fine. Returns NULL. */
struct instance_session *instance_session_free(struct instance_session *session);
static inline void instance_session_freep(struct instance_session **session)
{
        instance_session_free(*session);
}

struct instance_relay_options {
        const char *detach_keys; /* "ctrl-p,ctrl-q" (NULL); "": none. Only with a terminal */
        bool forward_signals;    /* those that come to this process, to the instance (not with a terminal) */
};
enum instance_end { INSTANCE_END_EXITED, INSTANCE_END_DETACHED };
struct instance_relay_result {
        enum instance_end end;
        int status; /* exit status */
};
/* Copies between the descriptors (-1: none) and the instance until it ends or the user detaches. With a terminal instance and
 * a terminal @in that is put into raw mode and followed in size. */
int instance_session_relay(struct instance_session *session, int in, int out, int err_fd,
        const struct instance_relay_options *options, struct instance_relay_result *ret, struct err **err);

/* What the relay is made of, for servers. A session's descriptor is readable when there is an event. */
enum instance_event_kind { INSTANCE_EVENT_STDOUT, INSTANCE_EVENT_STDERR, INSTANCE_EVENT_EXIT, INSTANCE_EVENT_CLOSED };
struct instance_session_event {
        enum instance_event_kind kind;
        const u8 *data; /* valid until the next call */
        size_t len;
        int status;
        bool last; /* EXIT: no start follows */
};
int instance_session_fd(const struct instance_session *session);
/* -EAGAIN (without an error) when there is none. */
int instance_session_next(struct instance_session *session, struct instance_session_event *ret, struct err **err);
/* Returns how much was taken, 0 when POLLOUT must be waited for. */
ssize_t instance_session_write(struct instance_session *session, const void *data, size_t len, struct err **err);
int instance_session_close_stdin(struct instance_session *session, struct err **err);
int instance_session_resize(struct instance_session *session, u16 rows, u16 columns, struct err **err);
/* After the exit of an INSTANCE_ATTACH_CLEAN_UP session. */
int instance_session_finish(struct instance_session *session, struct err **err);

/* Resizes the terminal of the instance itself. */
int instance_resize(struct instance *inst, u16 rows, u16 columns, struct err **err);

struct instance_log_options {
        s64 since_ns, until_ns; /* CLOCK_REALTIME; 0: no bound */
        s64 tail;               /* lines; -1: all */
        bool follow;            /* until it ends */
};
/* Calls @fn with each line (or piece of one) and when it came; 1 is stdout, 2 stderr. It may return other than 0 to end this. */
int instance_logs(struct instance *inst, const struct instance_log_options *options,
        int (*fn)(void *opaque, int stream, s64 time_ns, const char *data, size_t len), void *opaque, struct err **err);

/* --- inside ----------------------------------------------------------------------------------------------------- */

struct instance_exec {
        const char *const *argv;
        const char *const *env;  /* added; NULL */
        const char *user;        /* NULL: the instance's */
        const char *working_dir; /* NULL: the instance's */
        bool tty, privileged;
        bool detach;
        bool open_stdin;         /* else /dev/null */
        const char *detach_keys; /* as above */
};
/* Runs a further process with the caller's descriptors 0, 1 and 2 behind pipes or a terminal. *ret_status as a shell gives it;
 * 0 when detached. */
int instance_exec(struct instance *inst, const struct instance_exec *exec, int *ret_status, struct err **err);

/* As `docker cp`, by tar streams. Works on stopped and running instances; what is read or written never leaves the instance. */
struct instance_path_stat {
        const char *name;        /* last component */
        const char *link_target; /* "" */
        u64 size;
        mode_t mode;
        s64 mtime_ns;
};
int instance_stat_path(struct instance *inst, const char *path, struct instance_path_stat *ret, struct err **err);
/* Writes the tar of @path to @fd: names begin with its last component; "dir/." gives what is in it. @follow: a link at the end. */
int instance_copy_out(struct instance *inst, const char *path, bool follow, int fd, struct err **err);
enum {
        INSTANCE_COPY_NO_OVERWRITE = 1 << 0 /* a directory does not replace a file, nor the reverse */,
        INSTANCE_COPY_KEEP_OWNER = 1 << 1
};
/* Unpacks the tar from @fd into the directory @path, which must exist. */
int instance_copy_in(struct instance *inst, const char *path, unsigned flags, int fd, struct err **err);
/* The whole root as a tar: docker export. */
int instance_export(struct instance *inst, int fd, struct err **err);

/* 'A', 'C' or 'D' and a path. */
int instance_diff(
        struct instance *inst, int (*fn)(void *opaque, char kind, const char *path), void *opaque, struct err **err);
/* Pauses it meanwhile when @pause. */
int instance_commit(struct instance *inst, const struct image_commit_options *options, bool pause, struct image **ret,
        struct err **err);

struct instance_stats {
        s64 time_ns; /* CLOCK_MONOTONIC */
        u64 cpu_ns, cpu_user_ns, cpu_system_ns;
        u64 memory, memory_limit; /* without the page cache that can go; the host's when there is no limit */
        u64 net_rx, net_tx, net_rx_packets, net_tx_packets;
        u64 block_read, block_write;
        u64 pids, pids_limit; /* 0: none */
        unsigned cpus;        /* of the host */
};
int instance_get_stats(struct instance *inst, struct instance_stats *ret, struct err **err);

struct instance_process {
        pid_t pid, ppid; /* as the host numbers them */
        u32 uid;
        const char *user; /* the host's name, or a number */
        const char *tty;  /* "?", "pts/0" */
        s64 started_ns;   /* CLOCK_REALTIME */
        u64 cpu_ns;
        const char *command;
};
struct instance_processes {
        struct instance_process *item;
        size_t n;
};
/* Valid until the next call of it. */
int instance_top(struct instance *inst, const struct instance_processes **ret, struct err **err);

/* --- volumes ---------------------------------------------------------------------------------------------------- */

struct instance_volume {
        const char *name, *path, *created; /* RFC 3339 */
        const char *driver;                /* "local" */
        bool anonymous;
        struct instance_pairs labels, options;
        size_t users; /* instances that mount it */
};
/* Fine when there is one. @name NULL: an anonymous one. *ret_name (may be NULL) is the caller's. */
int instance_volume_create(struct instance_host *host, const char *name, const struct instance_pairs *labels,
        char **ret_name, struct err **err);
int instance_volume_list(struct instance_host *host, int (*fn)(void *opaque, const struct instance_volume *volume),
        void *opaque, struct err **err);
/* One of that name; -ENOENT, ERR_NOT_FOUND. */
int instance_volume_find(struct instance_host *host, const char *name,
        int (*fn)(void *opaque, const struct instance_volume *volume), void *opaque, struct err **err);
/* ERR_BUSY while an instance mounts it. */
int instance_volume_remove(struct instance_host *host, const char *name, struct err **err);
struct instance_volume_prune {
        bool all;                                                           /* not anonymous ones alone */
        bool (*wanted)(void *opaque, const struct instance_volume *volume); /* NULL: every one */
        void (*removed)(void *opaque, const char *name);                    /* NULL */
        void *opaque;
};
/* Removes those that no instance mounts. */
int instance_volume_prune(
        struct instance_host *host, const struct instance_volume_prune *prune, u64 *ret_bytes, struct err **err);

/* --- the whole host --------------------------------------------------------------------------------------------- */

struct instance_host_event {
        s64 time_ns;        /* CLOCK_REALTIME */
        const char *action; /* "create", "start", "die", "destroy", "oom", "health_status", ... */
        const char *id, *name, *image;
        int exit_code;
        const char *detail; /* the signal, the new name, the health; "" */
};
/* Calls @fn with what happened since @since_ns and, unless @until_ns (0: for ever) is past, with what happens. */
int instance_events(struct instance_host *host, s64 since_ns, s64 until_ns,
        int (*fn)(void *opaque, const struct instance_host_event *event), void *opaque, struct err **err);

/* Takes away what killed processes of ours left: what every call does for its own instance, for all of them. After a boot also
 * starts those whose policy says so. */
int instance_host_recover(struct instance_host *host, struct err **err);
/* Whether anything is left of instances that do not run: mounts, control groups, interfaces, directories, processes. Calls
 * @problem for each; returns their number. */
int instance_host_check(
        struct instance_host *host, void (*problem)(void *opaque, const char *text), void *opaque, struct err **err);

/* What the hidden commands `strata instance-start DIR`, `strata instance-clean DIR` and `strata instance-health DIR` do, with
 * which a supervisor has its heavy work done. @argv[0] is such a word, then ROOT and ID. Returns the exit status. */
int instance_helper_main(int argc, char **argv);

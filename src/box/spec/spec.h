/* config.json of the OCI runtime specification as C structures: what a container is to be.
 *
 * spec_load reads and checks a document; nothing else in the runtime looks at JSON, except where the specification's
 * object is handed on as it is (resources, seccomp). Names and meaning are the specification's (config.md,
 * config-linux.md). All strings and arrays belong to the spec and live as long as it. An optional number is a pointer,
 * NULL when absent. A list is a pointer and, right behind it, the count. */
#pragma once

#include <jansson.h>

#include "base/arena.h"
#include "base/err.h"

struct spec_id_map {
        u32 container_id, host_id, size;
};

struct spec_id_maps {
        struct spec_id_map *item;
        size_t n;
};

struct spec_strings {
        const char **item; /* ends with NULL, for execve */
        size_t n;
};

struct spec_pair {
        const char *key, *value;
};

struct spec_pairs {
        struct spec_pair *item;
        size_t n;
};

struct spec_user {
        u32 uid, gid;
        u32 *umask;
        struct {
                u32 *item;
                size_t n;
        } additional_gids;
};

struct spec_rlimit {
        int resource; /* RLIMIT_* */
        u64 soft, hard;
};

enum spec_cap_set {
        CAP_SET_BOUNDING,
        CAP_SET_EFFECTIVE,
        CAP_SET_INHERITABLE,
        CAP_SET_PERMITTED,
        CAP_SET_AMBIENT,
        CAP_SET_COUNT
};

struct spec_capabilities {
        u64 set[CAP_SET_COUNT]; /* bit n: CAP n */
};

struct spec_scheduler {
        int policy; /* SCHED_* */
        s32 nice, priority;
        u64 flags; /* SCHED_FLAG_* */
        u64 runtime, deadline, period;
};

struct spec_io_priority {
        int class;
        s32 priority;
};

struct spec_cpu_affinity {
        const char *initial, *final; /* lists of CPUs */
};

struct spec_process {
        bool terminal;
        struct {
                u32 height, width;
        } console_size;
        struct spec_user user;
        struct spec_strings args, env;
        const char *cwd;
        struct spec_capabilities *capabilities; /* NULL: as the runtime has them */
        struct {
                struct spec_rlimit *item;
                size_t n;
        } rlimits;
        bool no_new_privileges;
        const char *apparmor_profile, *selinux_label;
        s32 *oom_score_adj;
        struct spec_scheduler *scheduler;
        struct spec_io_priority *io_priority;
        struct spec_cpu_affinity *cpu_affinity;
};

struct spec_mount {
        const char *destination, *type, *source;
        struct spec_strings options;
        struct spec_id_maps uid_mappings, gid_mappings;
};

struct spec_hook {
        const char *path;
        struct spec_strings args, env;
        s32 *timeout; /* seconds */
};

/* Hooks by when they run: HOOK(id, name). The order is that of the life of a container. */
#define SPEC_HOOKS(HOOK)                          \
        HOOK(PRESTART, "prestart")                \
        HOOK(CREATE_RUNTIME, "createRuntime")     \
        HOOK(CREATE_CONTAINER, "createContainer") \
        HOOK(START_CONTAINER, "startContainer")   \
        HOOK(POSTSTART, "poststart")              \
        HOOK(POSTSTOP, "poststop")

enum spec_hook_point {
#define HOOK(id, name) HOOK_##id,
        SPEC_HOOKS(HOOK)
#undef HOOK
                HOOK_COUNT
};

struct spec_hooks {
        struct spec_hook *item;
        size_t n;
};

/* NAMESPACE(id, name in config.json, name in /proc/PID/ns, CLONE flag), in the order in which they are joined: the user
 * namespace first, it gives the rights to the rest. */
#define SPEC_NAMESPACES(NAMESPACE)                             \
        NAMESPACE(USER, "user", "user", CLONE_NEWUSER)         \
        NAMESPACE(IPC, "ipc", "ipc", CLONE_NEWIPC)             \
        NAMESPACE(UTS, "uts", "uts", CLONE_NEWUTS)             \
        NAMESPACE(NET, "network", "net", CLONE_NEWNET)         \
        NAMESPACE(PID, "pid", "pid", CLONE_NEWPID)             \
        NAMESPACE(TIME, "time", "time", CLONE_NEWTIME)         \
        NAMESPACE(CGROUP, "cgroup", "cgroup", CLONE_NEWCGROUP) \
        NAMESPACE(MOUNT, "mount", "mnt", CLONE_NEWNS)

enum spec_namespace_id {
#define NAMESPACE(id, name, proc, flag) NAMESPACE_##id,
        SPEC_NAMESPACES(NAMESPACE)
#undef NAMESPACE
                NAMESPACE_COUNT
};

struct spec_namespace {
        int id;           /* enum spec_namespace_id */
        const char *path; /* NULL: a new one */
};

struct spec_device {
        const char *path;
        int type; /* 'c', 'b', 'p' */
        s64 major, minor;
        u32 *file_mode;
        u32 uid, gid;
};

struct spec_net_device {
        const char *host_name, *name;
};

struct spec_time_offset {
        s64 secs;
        u32 nanosecs;
};

struct spec_personality {
        int domain; /* PER_* */
        struct spec_strings flags;
};

struct spec_memory_policy {
        int mode; /* MPOL_* */
        const char *nodes;
        u32 flags; /* MPOL_F_* */
};

struct spec_intel_rdt {
        const char *clos_id, *l3_cache_schema, *mem_bw_schema;
        struct spec_strings schemata;
        bool enable_monitoring;
};

struct spec_linux {
        struct spec_id_maps uid_mappings, gid_mappings;
        struct {
                struct spec_namespace *item;
                size_t n;
        } namespaces;
        struct {
                struct spec_device *item;
                size_t n;
        } devices;
        struct spec_net_device *net_devices;
        size_t n_net_devices;
        const char *cgroups_path;
        json_t *resources; /* for cgroup_resources_parse */
        json_t *seccomp;   /* for seccomp_compile */
        struct spec_intel_rdt *intel_rdt;
        struct spec_memory_policy *memory_policy;
        struct spec_pairs sysctl;
        const char *rootfs_propagation;
        struct spec_strings masked_paths, readonly_paths;
        const char *mount_label;
        struct spec_personality *personality;
        struct spec_time_offset *monotonic, *boottime;
};

struct spec {
        struct arena arena;
        json_t *json;
        char *text; /* the document as read, for the state directory */
        size_t text_size;

        const char *oci_version;
        struct {
                const char *path;
                bool readonly;
        } root;
        struct spec_process *process; /* NULL when absent */
        const char *hostname, *domainname;
        struct {
                struct spec_mount *item;
                size_t n;
        } mounts;
        struct spec_hooks hooks[HOOK_COUNT];
        json_t *annotations; /* an object of strings, or NULL */
        struct spec_linux linux_;

        u32 namespaces_new;    /* CLONE_* of those to create */
        u32 namespaces_joined; /* CLONE_* of those with a path */
        const char *namespace_path[NAMESPACE_COUNT];
};

/* Reads @path below the directory @dirfd (AT_FDCWD is fine). */
int spec_load(int dirfd, const char *path, struct spec **ret, struct err **err);
/* The same for a document in memory. */
int spec_parse(const char *text, size_t size, struct spec **ret, struct err **err);
/* A process object alone: exec --process. Checked like the config's. It borrows from @owner, whose arena and document
 * it joins. */
int spec_parse_process(const char *text, size_t size, struct spec **ret, struct err **err);
struct spec *spec_free(struct spec *spec);
static inline void spec_freep(struct spec **spec)
{
        spec_free(*spec);
}

/* The annotation's value, or NULL. */
const char *spec_annotation(const struct spec *spec, const char *key);
/* CAP_SYS_ADMIN or SYS_ADMIN or any spelling in lower case: its number, or -1. */
int spec_capability(const char *name);
const char *spec_capability_name(int cap);
int spec_rlimit_resource(const char *name);
const char *spec_hook_name(enum spec_hook_point point);

/* Reads a JSON document from memory with the limits every input of the runtime has. Numbers above INT64_MAX become
 * reals. */
int spec_read_json(const char *text, size_t size, json_t **ret, struct err **err);

/* The document that `spec` writes. */
json_t *spec_template(bool rootless, u32 uid, u32 gid);

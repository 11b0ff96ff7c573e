/* Control groups of one container: v1, v2 and hybrid hosts behind one interface.
 *
 * A container has one group in every hierarchy of the host. `struct cgroup` is the handle of them all; it says nothing
 * about who made them: the runtime that creates a container gets one from cgroup_create, later invocations get one from
 * cgroup_load with what cgroup_save wrote into the container's state. Which hierarchy does what is decided once, in
 * the constructor; afterwards callers never ask for the version.
 *
 *         r = cgroup_resources_parse(resources_json, &res, err);              // hostile input ends here
 *         r = cgroup_create(&(struct cgroup_spec){ .id = id, .path = path, .resources = res, ... }, &cg, err);
 *         r = cgroup_apply(cg, res, err);                                     // limits, before anything runs in it
 *         args.cgroup = cgroup_clone_fd(cg), CLONE_INTO_CGROUP if that is >= 0
 *         pid = clone3(...)
 *         -- in the new process, before it has threads or children and before it unshares a user or cgroup namespace:
 *         r = cgroup_enter(cg, cloned_into);                                  // the hierarchies clone3 cannot reach
 *         ...
 *         r = cgroup_remove(cg, err);                                         // kills what is left
 *         cgroup_free(cg);
 *
 * cgroup_create either makes all groups or none. Everything takes absolute host ids and must be called outside the
 * container's namespaces, cgroup_enter excepted. The handle may be used by one thread at a time.
 *
 * Enter, do not join: moving another process into a v1 group waits for an RCU grace period (6 ms on the machine this
 * was measured on, most of what other runtimes take for a whole container), moving oneself while single-threaded does
 * not (docs/adr/0030). */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/err.h"

/* ---- resources: linux.resources, parsed and checked ---- */

enum cgroup_limit {
#define CGROUP_LIMIT(id, section, key, smallest, largest, zero) CGROUP_##id,
#include "box/cgroup/limits.def"
#undef CGROUP_LIMIT
        CGROUP_LIMIT_COUNT
};

enum cgroup_device_type { CGROUP_DEVICE_ALL = 'a', CGROUP_DEVICE_BLOCK = 'b', CGROUP_DEVICE_CHAR = 'c' };
enum { CGROUP_DEVICE_READ = 1, CGROUP_DEVICE_WRITE = 2, CGROUP_DEVICE_MKNOD = 4, CGROUP_DEVICE_RWM = 7 };

#define CGROUP_DEVICE_ANY (-1LL) /* every major or minor number */

struct cgroup_device_rule {
        bool allow;
        enum cgroup_device_type type;
        s64 major, minor; /* CGROUP_DEVICE_ANY */
        unsigned access;  /* CGROUP_DEVICE_READ | ... */
};

enum cgroup_io_limit {
        CGROUP_IO_READ_BPS,
        CGROUP_IO_WRITE_BPS,
        CGROUP_IO_READ_IOPS,
        CGROUP_IO_WRITE_IOPS,
        CGROUP_IO_LIMIT_COUNT
};

struct cgroup_io_rate {
        enum cgroup_io_limit limit;
        u32 major, minor;
        u64 rate;
};

struct cgroup_io_weight {
        u32 major, minor;
        u16 weight, leaf_weight; /* 0: not given */
};

struct cgroup_huge_limit {
        char *page_size; /* as the kernel writes it in file names: "2MB" */
        u64 limit;
};

struct cgroup_net_priority {
        char *name;
        u32 priority;
};

struct cgroup_rdma_limit {
        char *device;
        s64 handles, objects; /* -1: not given */
};

struct cgroup_unified {
        char *file; /* "memory.high": one name, no slash */
        char *value;
};

struct cgroup_resources {
        u64 set; /* bit n: value[n] was given */
        s64 value[CGROUP_LIMIT_COUNT];
        char *cpus, *mems; /* cpuset lists, NULL when not given */
        struct cgroup_device_rule *device;
        size_t n_devices;
        struct cgroup_io_rate *io_rate;
        size_t n_io_rates;
        struct cgroup_io_weight *io_weight;
        size_t n_io_weights;
        struct cgroup_huge_limit *huge;
        size_t n_huge;
        struct cgroup_net_priority *net_priority;
        size_t n_net_priorities;
        struct cgroup_rdma_limit *rdma;
        size_t n_rdma;
        struct cgroup_unified *unified;
        size_t n_unified;
};

/* @json is linux.resources, or NULL or null for none. Refuses what the spec forbids and what no kernel takes. */
int cgroup_resources_parse(const json_t *json, struct cgroup_resources **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct cgroup_resources *cgroup_resources_free(struct cgroup_resources *res);
static inline void cgroup_resources_freep(struct cgroup_resources **res)
{
        cgroup_resources_free(*res);
}
static inline bool cgroup_resources_has(const struct cgroup_resources *res, enum cgroup_limit limit)
{
        return res && res->set & BIT(limit);
}

/* ---- life of a container's groups ---- */

enum cgroup_driver {
        CGROUP_DRIVER_CGROUPFS, /* directories made by us */
        CGROUP_DRIVER_SYSTEMD,  /* a transient scope made by systemd; path is SLICE:PREFIX:NAME */
        CGROUP_DRIVER_NONE,     /* crun's --cgroup-manager=disabled: stay where the caller is */
};

/* What to create. All borrowed for the call. */
struct cgroup_spec {
        const char *id;
        const char *path; /* linux.cgroupsPath; NULL or "" for a path made from id */
        enum cgroup_driver driver;
        bool rootless; /* no groups are fine when none can be made and no limit was asked for */
        bool delegate; /* v2: give the group to owner (spec: "Cgroup ownership") */
        uid_t owner;   /* host uid of the container's process.user.uid */
        /* All groups must be the container's own, because it may write to what it sees of them. Else it shares those
         * that do nothing for it with other containers (shared.c). */
        bool separate;
        /* NULL: none. The devices of the spec's default list are always allowed. */
        const struct cgroup_resources *resources;
        const json_t *annotations; /* org.systemd.property.*; NULL: none */
        pid_t pid;                 /* systemd: a process that already exists and goes into the scope; 0: none */
};

struct cgroup;

int cgroup_create(const struct cgroup_spec *spec, struct cgroup **ret, struct err **err);
/* The groups of a container that another process made; @state is what cgroup_save returned there. */
int cgroup_load(const json_t *state, struct cgroup **ret, struct err **err);
/* A new object for the container's state file; NULL when out of memory. */
json_t *cgroup_save(const struct cgroup *cg);
/* Forgets the handle, leaves the groups alone. NULL is fine. Returns NULL. */
struct cgroup *cgroup_free(struct cgroup *cg);
static inline void cgroup_freep(struct cgroup **cg)
{
        cgroup_free(*cg);
}

/* A directory for clone3's CLONE_INTO_CGROUP, or -1 where there is no v2 hierarchy. Stays the handle's. */
int cgroup_clone_fd(const struct cgroup *cg);
/* Moves the calling process, which must have one thread, into every hierarchy, or all but v2's when @cloned_into.
 * Async-signal-safe: only writes to files that are open already. 0 or -errno. With the systemd driver the unit's own
 * hierarchies are systemd's business (spec.pid). */
int cgroup_enter(const struct cgroup *cg, bool cloned_into);
/* Opens what cgroup_enter needs; cgroup_create has done so, after cgroup_load it is for who asks (exec). */
int cgroup_prepare_enter(struct cgroup *cg, struct err **err);
/* Moves another process @pid into every hierarchy, or all but v2's when @cloned_into. Slow. */
int cgroup_join(struct cgroup *cg, pid_t pid, bool cloned_into, struct err **err);
/* For exec --cgroup: @sub is "PATH" or "CONTROLLER[,CONTROLLER]:PATH", a group below the container's that exists. */
int cgroup_join_sub(struct cgroup *cg, const char *sub, pid_t pid, struct err **err);
/* Sets what @res names and leaves everything else as it is: at start and for update. Device rules are replaced as a
 * whole. */
int cgroup_apply(struct cgroup *cg, const struct cgroup_resources *res, struct err **err);
/* Returns when every process is frozen (or thawed), or with an error after some seconds, thawed again. */
int cgroup_freeze(struct cgroup *cg, bool freeze, struct err **err);
int cgroup_is_frozen(struct cgroup *cg, bool *ret_frozen, struct err **err);
/* Every process of the container, nested groups included. Free with free(). */
int cgroup_pids(struct cgroup *cg, pid_t **ret_pids, size_t *ret_n, struct err **err);
/* Sends @signal to every process; SIGKILL reaches frozen ones and those that fork meanwhile too. No process is fine. */
int cgroup_kill(struct cgroup *cg, int signal, struct err **err);
/* Kills what is left and removes the groups with everything below them. Groups that are gone already are fine. */
int cgroup_remove(struct cgroup *cg, struct err **err);
bool cgroup_exists(const struct cgroup *cg);

/* ---- what a container's mounts of type cgroup are made from ---- */

struct cgroup_hierarchy {
        const char *name;  /* its directory under /sys/fs/cgroup: "memory", "cpu,cpuacct", "unified"; "" for full v2 */
        const char *mount; /* where the host has it */
        const char *path;  /* the container's group, absolute: what to bind */
        const char *options; /* of mount(2): "cpu,cpuacct", "none,name=systemd"; NULL for v2 */
        bool v2;
};

/* Hierarchy @i, or NULL behind the last one. */
const struct cgroup_hierarchy *cgroup_hierarchy(const struct cgroup *cg, size_t i);
/* Full v2: one file system, to be mounted at /sys/fs/cgroup itself. */
bool cgroup_is_unified(const struct cgroup *cg);

/* ---- accounting ---- */

/* runc's `events --stats` object ("cpu", "memory", "pids", "blkio", "hugetlb", ...). What a host does not account is
 * left out. */
int cgroup_stats(struct cgroup *cg, json_t **ret, struct err **err);
/* A descriptor that becomes readable (POLLIN; POLLPRI too on v2) when the container ran out of memory, and the count
 * so far. */
int cgroup_oom_watch(struct cgroup *cg, int *ret_fd, struct err **err);
/* Drains @fd; the number of out-of-memory events since the group exists. */
int cgroup_oom_read(struct cgroup *cg, int fd, u64 *ret_count, struct err **err);

/* ---- features ---- */

/* For `features`: which of v1, v2, systemd, rdma, ... this build and host can do: runc's "cgroup" object. */
json_t *cgroup_features(void);

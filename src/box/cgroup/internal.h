/* Between the parts of cgroup: the host's hierarchies, and one container's groups in them. */
#pragma once

#include "base/cleanup.h"
#include "box/cgroup/cgroup.h"

/* ---- small files (files.c) ---- */

/* Writes @value to @file below @dir, which must exist. -errno; *err names neither directory nor intent: callers wrap.
 * */
int cgroup_write(int dir, const char *file, const char *value, struct err **err);
int cgroup_write_number(int dir, const char *file, s64 value, struct err **err);
/* "MAJOR:MINOR VALUE", as files about block devices want it. */
int cgroup_write_device(int dir, const char *file, u32 major, u32 minor, u64 value, struct err **err);
/* The text of @file without the last newline, at most a megabyte. Free with free(). */
int cgroup_read(int dir, const char *file, char **ret, struct err **err);
/* A number; "max" and "-1" are UINT64_MAX. */
int cgroup_read_number(int dir, const char *file, u64 *ret, struct err **err);
bool cgroup_has(int dir, const char *file);
/* Iterates over lines: *pos starts at the text, is moved on; lines are cut out of the text. NULL at the end. */
char *cgroup_next_line(char **pos);

/* ---- hierarchies ---- */

enum controller {
#define CGROUP_CONTROLLER(id, name) CONTROLLER_##id,
#include "box/cgroup/controllers.def"
#undef CGROUP_CONTROLLER
        CONTROLLER_COUNT
};

const char *controller_name(enum controller controller);
/* CONTROLLER_COUNT: unknown. @len characters of @name count. */
enum controller controller_find(const char *name, size_t len);

/* cpu+cpuacct, blkio, ... of v1: up to 12 controllers, systemd's and others' named hierarchies, and v2. */
#define HIERARCHIES_MAX 24

struct hierarchy;

/* What differs between the versions. All get a hierarchy whose dir is open. */
struct hierarchy_ops {
        /* Sets what @res says and this hierarchy's controllers can; marks it in @done (a bit for each CGROUP_LIMIT,
         * and DONE_*). */
        int (*apply)(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err);
        /* These rules (and then the default ones) decide about devices from now on; what none of them allows is
         * denied. */
        int (*devices)(const struct hierarchy *h, const struct cgroup_device_rule *rules, size_t n, struct err **err);
        /* Starts to freeze or thaw and waits. */
        int (*freeze)(const struct hierarchy *h, bool freeze, struct err **err);
        int (*is_frozen)(const struct hierarchy *h, bool *ret, struct err **err);
        /* Adds what its controllers account to @stats (an object). */
        int (*stats)(const struct hierarchy *h, json_t *stats, struct err **err);
        int (*oom_watch)(const struct hierarchy *h, int *ret_fd, struct err **err);
        int (*oom_count)(const struct hierarchy *h, u64 *ret, struct err **err);
        const char *enter_file; /* takes "0" from a single-threaded process that moves itself */
};

extern const struct hierarchy_ops hierarchy_v1_ops, hierarchy_v2_ops;

/* Bits of *done behind the limits. */
enum {
        DONE_CPUS = CGROUP_LIMIT_COUNT,
        DONE_MEMS,
        DONE_IO_RATES,
        DONE_IO_WEIGHTS,
        DONE_HUGE,
        DONE_NET_PRIORITIES,
        DONE_RDMA,
        DONE_UNIFIED
};

/* One hierarchy of the host, and the container's group in it. */
struct hierarchy {
        const struct hierarchy_ops *ops;
        struct cgroup_hierarchy face; /* strings are owned */
        u32 controllers;              /* bit n: enum controller */
        bool full;                    /* v2 without v1 beside it */
        char *root;                   /* the group that is the mount's root: "/", except inside containers */
        char *own;                    /* the caller's group, below the mount: "" or "/a/b" */
        char *group;                  /* the container's, likewise */
        bool shared;                  /* face.path is not group, but one that several containers are in (shared.c) */
        bool born_shared;             /* was so at the start */
        unsigned n_made;              /* how many of the last components of group we made */
        int dir;                      /* -1, or the group */
        int enter;                    /* -1, or its enter_file */
};

static inline bool hierarchy_has(const struct hierarchy *h, enum controller controller)
{
        return h->controllers & BIT(controller);
}

struct cgroup {
        struct hierarchy hierarchy[HIERARCHIES_MAX];
        size_t n;
        char *unit;     /* systemd driver: "NAME.scope" */
        bool user_unit; /* of the user's systemd */
};

/* ---- the host's layout (layout.c) ---- */

/* What the host has, from the texts of /proc/self/mountinfo and /proc/self/cgroup. */
int cgroup_layout_parse(const char *mountinfo, const char *self, struct cgroup **ret, struct err **err);
int cgroup_layout(struct cgroup **ret, struct err **err);
/* "a/../../b//c" -> "/b/c": a path that cannot leave its root. Refuses what cannot be a group's name. */
int cgroup_path_clean(const char *path, char **ret, struct err **err);

/* Closes and frees what @h owns. */
void hierarchy_clear(struct hierarchy *h);

/* ---- groups (create.c, group.c) ---- */

/* cgroup_create on a given layout, which it takes over; the layout is freed on failure. */
int cgroup_create_on(struct cgroup *layout, const struct cgroup_spec *spec, struct cgroup **ret, struct err **err);
int hierarchy_open(struct hierarchy *h, struct err **err);
/* Makes and opens the group of @h with its parents and, on v2, the controllers @wanted. One that was there may hold
 * @expected processes, which are ours; SIZE_MAX: any. */
int cgroup_make_group(struct hierarchy *h, u32 wanted, size_t expected, struct err **err);
/* The hierarchy that lists and kills processes, freezes them, or has a controller; NULL. */
/* Where a host restricts devices at all: v1's controller, or else v2's. */
int cgroup_set_devices(struct cgroup *cg, const struct cgroup_device_rule *rules, size_t n, struct err **err);
struct hierarchy *cgroup_main(const struct cgroup *cg);
struct hierarchy *cgroup_freezer(const struct cgroup *cg);
struct hierarchy *cgroup_with(const struct cgroup *cg, enum controller controller);

/* ---- a group for several containers (shared.c) ---- */

/* face.path from mount, group and shared. */
int hierarchy_set_path(struct hierarchy *h, struct err **err);
/* Whether the container's own group is there. */
bool hierarchy_has_own(const struct hierarchy *h);
/* @h, when it is shared, becomes the container's own group where that is there by now. */
int hierarchy_settle(struct hierarchy *h, struct err **err);
/* Whether the container that is to be made needs no group of its own in @h. */
bool cgroup_may_share(const struct cgroup *cg, const struct hierarchy *h, const struct cgroup_spec *spec);
/* The shared group below @parent, made if it is not there, locked until *ret_dir is closed. */
int cgroup_shared_open(int parent, int *ret_dir, struct err **err);
/* Takes the shared group that @h is or was along, and parents that were made for it, when nobody else uses it. */
void cgroup_shared_remove(struct hierarchy *h);
/* For a process that has entered the shared group: goes on into its own if that was made meanwhile.
 * Async-signal-safe. */
int cgroup_shared_enter(const struct hierarchy *h);
/* The container gets its own group after all, with the processes that it has. */
int cgroup_unshare(struct cgroup *cg, struct hierarchy *h, struct err **err);

/* ---- removal (remove.c) ---- */

/* The groups above the container's that were made for it, as far as nobody else uses them. */
void cgroup_remove_parents(const struct hierarchy *h);

/* Process ids of the group at @dir and all below it, appended. */
struct pid_list {
        pid_t *pid;
        size_t n, cap;
};
int cgroup_collect_pids(int dir, struct pid_list *list, struct err **err);
/* Removes the groups below @dir, deepest first. -EBUSY when something lives there. */
int cgroup_remove_below(int dir, struct err **err);

/* ---- devices ---- */

#define DEVICE_RULES_MAX 1024

/* The spec's default devices, which are always allowed (config-linux.md, "Default Devices"); they follow the
 * container's rules. */
extern const struct cgroup_device_rule cgroup_default_devices[];
extern const size_t cgroup_n_default_devices;
/* Loads and attaches an eBPF program to the v2 group at @dir, in place of what was attached there. */
int cgroup_devices_bpf(int dir, const struct cgroup_device_rule *rules, size_t n, struct err **err);

/* ---- systemd (systemd.c) ---- */

/* The unit and the slice it goes into, from SLICE:PREFIX:NAME. */
int cgroup_systemd_names(const struct cgroup_spec *spec, char **ret_unit, char **ret_slice, struct err **err);
/* Returns when systemd has put spec->pid into the unit's group, whose path below the hierarchies' roots is *ret_group.
 * */
int cgroup_systemd_start(const struct cgroup_spec *spec, const char *unit, const char *slice, bool unified,
        char **ret_group, struct err **err);
int cgroup_systemd_update(
        const char *unit, bool user, bool unified, const struct cgroup_resources *res, struct err **err);
int cgroup_systemd_stop(const char *unit, bool user, struct err **err);

/* cpu.shares of v1 as cpu.weight of v2. */
s64 cgroup_weight_of_shares(s64 shares);

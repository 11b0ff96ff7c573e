/* The state directory: what later invocations know about a container.
 *
 *      ROOT/ID/            made first: owns the name
 *      ROOT/ID/config.json the configuration as it was read
 *      ROOT/ID/status      written beside and renamed, so that it is there whole or not at all (crun's name, read by
 *                          its tools)
 *      ROOT/ID/start       a socket while the container is created but not started
 *      ROOT/ID/notify/     the directory of notify.h, where the runtime was started with $NOTIFY_SOCKET
 *      ROOT/ID/criu-root/  while it is restored: where criu, and only criu, has the root mounted
 *
 * A directory without status is what a runtime killed early left: no process of it outlived that (the first process
 * dies with its runtime until that exists), so delete may just remove it. */
#pragma once

#include "box.h"
#include "spec/spec.h"

struct box_handle {
        const struct box_runtime *runtime;
        char *id;
        int dir; /* ROOT/ID */
        pid_t pid;
        u64 pid_start; /* field 22 of /proc/PID/stat: tells a recycled pid apart */
        char *bundle, *rootfs, *created;
        uid_t owner;
        json_t *cgroup;      /* of cgroup_save, or NULL */
        json_t *annotations; /* or NULL */
        json_t *descriptors; /* what fd 0..2 were at creation: criu wants to know; or NULL */
        char *rdt_group;     /* the resctrl group, or NULL */
        bool rdt_owned;      /* made by us: to be removed */
};

/* Makes the directory. An id that is taken is ERR_BUSY. */
int state_new(const struct box_runtime *runtime, const char *id, struct box_handle **ret, struct err **err);
/* Only the directory: of a container that may never have been completed. state_read adds the rest. */
int state_open(const struct box_runtime *runtime, const char *id, struct box_handle **ret, struct err **err);
int state_read(struct box_handle *h, struct err **err);
/* Both. */
int state_load(const struct box_runtime *runtime, const char *id, struct box_handle **ret, struct err **err);
int state_save(const struct box_handle *h, struct err **err);
int state_save_config(const struct box_handle *h, const struct spec *spec, struct err **err);
int state_load_config(const struct box_handle *h, struct spec **ret, struct err **err);
/* Removes the directory and what is in it. */
int state_remove(const struct box_handle *h, struct err **err);
/* Forgets the handle. */
struct box_handle *state_free(struct box_handle *h);
static inline void state_freep(struct box_handle **h)
{
        state_free(*h);
}

/* A pidfd of the first process, or -ESRCH when it is gone (or a zombie). */
int state_pidfd(const struct box_handle *h);
int state_status(const struct box_handle *h, enum box_status *ret, struct err **err);
/* Only the process and the socket are looked at: created, running (or paused) or stopped. Costs no control group. */
enum box_status state_quick_status(const struct box_handle *h);
/* The specification's state object with @status; pid 0 when stopped. NULL when out of memory. */
json_t *state_object(const struct box_handle *h, const char *status);
/* Start time of @pid, or 0. *ret_zombie may be NULL. */
u64 state_process_start(pid_t pid, bool *ret_zombie);
/* Fills created with the time now. */
int state_set_created(struct box_handle *h, struct err **err);

#define STATE_START_SOCKET "start"
#define STATE_FILE         "status"
#define STATE_CRIU_ROOT    "criu-root"

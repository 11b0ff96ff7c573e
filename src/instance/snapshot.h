/* Snapshots of instances, and instances that begin as one: ROOT/snapshots/NAME.
 *
 *         instance_snapshot(inst, "warm", 0, err);                       while it runs, and it runs on
 *         instance_clone(host, "warm", &(struct instance_clone){ 0 }, &clone, err);      runs; as often as wanted
 *
 * A snapshot is all that its instance was at one moment: memory and devices (vm/snapshot_files.h), the writable layer, which becomes the top
 * layer of an image that all clones share, and the configuration. It does not change, and does not need the instance it was taken of.
 * What volumes and directories of the host hold is not part of it: clones have the same ones, or those that are given to them, and go on with
 * the files that their guest knows there as far as these are still the same (ADR 70).
 *
 * A clone is told who it is before anything can reach it: another host name, MAC and IP addresses, machine id, random numbers, the time.
 * The restored instance (@same) keeps host name and machine id. Once it has been stopped it starts as any other: its kernel boots. */
#pragma once

#include "instance.h"

enum {
        INSTANCE_SNAPSHOT_DIFF = 1 << 0, /* memory: only what changed since its last snapshot, or since the one it began as */
};
/* Takes the place of a snapshot of that name. ERR_UNSUPPORTED behind a wall that has none; ERR_BUSY when it does not run. */
int instance_snapshot(struct instance *inst, const char *name, unsigned flags, struct err **err);

struct instance_snapshot {
        const char *name;
        const char *instance; /* its name then */
        const char *image;    /* of which the instance was */
        const char *created;  /* RFC 3339 */
        u64 memory, bytes;    /* the machine's; on the disk */
        unsigned layers;      /* 1: full; more: diffs one on the other */
};
/* By name, in order, until @fn returns other than 0; returns that. */
int instance_snapshot_list(struct instance_host *host, int (*fn)(void *opaque, const struct instance_snapshot *snapshot), void *opaque, struct err **err);
/* All that is known of it. ERR_NOT_FOUND. */
int instance_snapshot_inspect(struct instance_host *host, const char *name, json_t **ret, struct err **err);
/* What began as it runs on; diffs that began with it stay whole. */
int instance_snapshot_remove(struct instance_host *host, const char *name, struct err **err);

struct instance_clone {
        const char *name;     /* NULL: made up; with @same: that of the snapshot's instance */
        bool same;            /* restored: host name, machine id and published ports stay */
        bool auto_remove;
        /* Each in place of what the machine that was saved has at the same target; no tmpfs. */
        const struct instance_mount *mounts;
        size_t n_mounts;
};
/* A new instance that runs. */
int instance_clone(struct instance_host *host, const char *snapshot, const struct instance_clone *clone, struct instance **ret, struct err **err);

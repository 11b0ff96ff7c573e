/* What the files of snapshots share.
 *
 *      ROOT/snapshots/NAME/  snapshot.json  struct snapshot_record
 *                            machine/       memory, devices: vm/snapshot_files.h
 *      ROOT/snapshots/.NAME.XXXXXXXX.partial   one that is being made or removed, by whoever holds its lock; or what is left of one
 *
 * In the image store the layer is pinned as if by an instance called "snapshot-XXXXXXXX", which snapshot.json says. */
#pragma once

#include <limits.h>

#include "internal.h"
#include "snapshot.h"

#define DIR_SNAPSHOTS    "snapshots"
#define SNAPSHOT_RECORD  "snapshot.json"
#define SNAPSHOT_MACHINE "machine"

/* A file of an instance that has not been started yet since it was made of a snapshot: json, {"path", "same"}. */
#define FILE_RESTORE "restore.json"

/* The directory of all; made when it is not there. */
int snapshot_open_dir(struct instance_host *host, int *ret, struct err **err);
int snapshot_check_name(const char *name, struct err **err);
/* Of the snapshot in @directory. The caller's. */
int snapshot_record_load(int directory, json_t **ret, struct err **err);
/* Opens one. ERR_NOT_FOUND. */
int snapshot_open_one(struct instance_host *host, const char *name, int *ret_directory, json_t **ret_record, struct err **err);

/* A directory that is not a snapshot yet. */
struct snapshot_draft {
        struct instance_host *host;
        int all, directory;
        char partial[NAME_MAX + 1]; /* "": there is none */
};
#define SNAPSHOT_DRAFT_NONE { .all = -1, .directory = -1 }

/* Takes away what killed makers left, too. */
int snapshot_draft_new(struct instance_host *host, const char *name, struct snapshot_draft *ret, struct err **err);
/* It gets its name, whatever had that before is removed. */
int snapshot_draft_commit(struct snapshot_draft *draft, const char *name, struct err **err);
/* One that was not committed is removed. */
void snapshot_draft_release(struct snapshot_draft *draft);

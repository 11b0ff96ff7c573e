/* What the files of instance share. Reading order: start.c (who is started by whom), launch.c (the heavy work),
 * supervise/main.c (what stays), state.c (how the truth is found). README.md has the directory's layout and the locks. */
#pragma once

#include "base/arena.h"
#include "base/cleanup.h"
#include "image/io.h"
#include "instance.h"
#include "supervise/record.h"
#include "box/box.h"

#define DIR_INSTANCES "instances"
#define DIR_NAMES     "names"
#define DIR_VOLUMES   "volumes"
#define DIR_NETWORKS  "networks"

#define MODE_CONTAINER "container:" /* of a network, ipc, pid: another's, whose name follows */

#define ID_LEN            64
#define INSTANCE_FILE_MAX (8 * MIB) /* of a file of ours that is read whole */

struct instance_host {
        char *root;
        int fd; /* of the root */
        struct image_store *images;
        char *programs; /* the directory of strata and strata-supervise */
        char boot_id[40];
        bool rootless; /* a user's: control groups may be none */
};

struct instance_ops;

struct instance {
        struct instance_host *host;
        const struct instance_ops *ops; /* of the wall that the configuration says; ops.h */
        char id[ID_LEN + 1];
        int dir;
        int userns;   /* a helper's: the instance's own user namespace; -1 */
        int ports_to; /* a helper's: the socket to who holds the published ports; -1 */
        bool sync_later;    /* its files wait for config_sync: its first start does not wait for the disk */
        char box_root[40];  /* the runtime's state directory, by dir */
        struct arena arena; /* of the configuration */
        json_t *config_source;
        struct instance_config config;
        struct arena state_arena;
        struct instance_state state;
        struct instance_endpoints endpoints;
        struct instance_port *ports;
        struct arena top_arena;
        struct arena path_arena;
        struct arena network_arena;
        struct instance_processes processes;
};

/* --- host.c ----------------------------------------------------------------------------------------------------- */

/* Names are given and taken under it; for moments. Closing @ret unlocks. -EAGAIN (without an error) when it is not to be waited
 * for. */
int host_lock(struct instance_host *host, bool wait, int *ret, struct err **err);
/* The instance of that exact id. */
int instance_open(struct instance_host *host, const char *id, struct instance **ret, struct err **err);
/* Calls @fn for the id of every directory of an instance, also of those that are not complete. */
int host_each_id(struct instance_host *host,
        int (*fn)(void *opaque, struct instance_host *host, const char *id, struct err **err), void *opaque,
        struct err **err);
bool id_is_valid(const char *id);
/* Random hexadecimal digits: @n of them and a NUL. */
int random_hex(char *ret, size_t n, struct err **err);
#define NAME_LEN_MAX 128
int name_check(const char *name, struct err **err);
/* Under host_lock. -EEXIST, ERR_BUSY when it is another's. */
int name_take(struct instance_host *host, const char *name, const char *id, struct err **err);
void name_drop(struct instance_host *host, const char *name, const char *id);

/* The file has @data afterwards, or what it had before. @durable: also after a power failure. */
int file_replace(
        int dir, const char *tmp, const char *name, const void *data, size_t len, bool durable, struct err **err);

/* A directory without a configuration whose maker does not hold it is half made, or half removed: the rest goes. */
int instance_drop_incomplete(struct instance *inst, struct err **err);

/* "ROOT/instances/ID/FILE"; the caller's. */
char *instance_path(const struct instance *inst, const char *file);

/* --- join.c ----------------------------------------------------------------------------------------------------- */

/* For a user who is not root: into the user namespace of the instances below @root, a new one when none runs. */
int user_namespace_enter(const char *root, struct err **err);

/* --- config.c --------------------------------------------------------------------------------------------------- */

json_t *config_to_json(const struct instance_config *config);
/* The instance's configuration is @json's from now on, whose strings it borrows; takes the reference. */
int config_adopt(struct instance *inst, json_t *json, struct err **err);
/* A configuration that is no instance's; it borrows @json's strings. */
int config_read(struct arena *arena, const json_t *json, struct instance_config *ret, struct err **err);
int config_save(const struct instance *inst, struct err **err);
int config_load(struct instance *inst, struct err **err);
/* Whether there is one. An empty one is none: it was not on disk yet when the host lost power. */
bool config_exists(int dir);
/* What config_save wrote, and FILE_RESTORE, are on disk afterwards. Nothing to do but after instance_create_to_start. */
int config_sync(struct instance *inst, struct err **err);
/* Writes @json as a file of the instance: whole or not at all. @durable: also after a power failure. */
int json_save(const struct instance *inst, const char *file, const json_t *json, bool durable, struct err **err);
int json_load(const struct instance *inst, const char *file, json_t **ret, struct err **err);

/* --- create.c --------------------------------------------------------------------------------------------------- */

/* instance_create for those who start it at once: it is on disk when instance_start returns. */
int instance_create_to_start(struct instance_host *host, const struct image *image, const struct instance_config *config,
        struct instance **ret, struct err **err);

/* --- merge.c ---------------------------------------------------------------------------------------------------- */

/* Completes what was asked for by what the image says, and checks it. Strings go into @arena. */
int config_merge(
        struct arena *arena, struct instance_config *config, const struct image_config *image, struct err **err);
/* The command line: entrypoint and command. NULL-terminated, in @arena. */
int config_argv(
        struct arena *arena, const struct instance_config *config, struct instance_strings *ret, struct err **err);
int strings_add(struct arena *arena, struct instance_strings *list, const char *text);

/* --- state.c ---------------------------------------------------------------------------------------------------- */

/* Commands that change an instance do it one at a time. Closing @ret unlocks. */
int instance_lock(const struct instance *inst, bool wait, int *ret, struct err **err);
/* Whether a supervisor lives: it holds the lock on FILE_LOCK. */
bool supervisor_alive(const struct instance *inst);
/* Whether it has nothing to do any more but to clean up. */
bool supervisor_is_ending(const struct instance *inst);
/* Returns when none lives. */
void supervisor_wait_gone(const struct instance *inst);
/* Takes that lock for one that is about to be started: inherited. -EBUSY. */
int supervisor_lock(const struct instance *inst, int *ret, struct err **err);
/* Whether what it says is of a boot that is over: then its numbers of processes are others' now. */
bool state_is_of_another_boot(const struct instance *inst);
/* Before anything is made that could be left: "starting". */
int state_begin(const struct instance *inst, struct err **err);
/* With instance_lock held: takes away what killed processes left, when nobody supervises it. */
int state_recover(struct instance *inst, struct err **err);
/* A missing file is an empty record, and -ENOENT. */
int record_load(const struct instance *inst, const char *file, struct record *ret);
int record_store(const struct instance *inst, const char *file, const struct record *record, struct err **err);

/* --- launch.c --------------------------------------------------------------------------------------------------- */

#define FILE_ERROR "error" /* why the last start failed */
#define FILE_RENAMING "renaming" /* "OLD NEW", while both names are its */
#define DIR_ROOTFS "rootfs" /* a mount point, in the mount namespaces of what runs */
#define DIR_BOX    "box"   /* the runtime's state of a container */
#define DIR_VM     "vm"    /* what belongs to a machine while it runs: vm.h */

/* The short-lived helper's work: everything from the image to a running first process. stdio and console are this process's
 * descriptors 0, 1, 2 and the socket @console in the instance's directory. */
int launch_instance(struct instance *inst, struct err **err);
/* From here on this process has a mount namespace of its own, and sees what the host mounts. */
int launch_own_mounts(struct err **err);
/* In such a one: mounts the root at *ret_path (the caller's); volumes are filled. */
int launch_mount_root(struct instance *inst, char **ret_path, int *ret_fd, struct err **err);
/* config.mounts in an order in which what is mounted below another comes after it. The array is the caller's. */
int launch_sorted_mounts(const struct instance *inst, const struct instance_mount ***ret, struct err **err);
/* Replaces a file in the instance's directory that others may read. */
int launch_write_file(const struct instance *inst, const char *name, const char *text, struct err **err);
/* Takes all of that back, however far it came. Fine when there is nothing. */
int launch_clean(struct instance *inst, struct err **err);
/* After an end that will not be followed by a start: launch_clean, and with --rm the whole instance. */
int instance_clean_up(struct instance *inst, struct err **err);
/* The directory, the image's pin, the name. */
int instance_destroy(struct instance *inst, bool volumes, struct err **err);

/* --- events.c --------------------------------------------------------------------------------------------------- */

void event_write(
        struct instance_host *host, const char *action, const struct instance *inst, int exit_code, const char *detail);

/* --- volume.c --------------------------------------------------------------------------------------------------- */

/* Makes anonymous volumes of @config's mounts and those that are named and missing. */
int volumes_prepare(struct instance *inst, struct err **err);
/* ROOT/volumes/NAME/_data; the caller's. */
char *volume_path(const struct instance_host *host, const char *name);
/* First use: the directory gets what the image has at @target. */
int volume_fill(struct instance_host *host, const char *name, int root, const char *target, struct err **err);
void volumes_remove_anonymous(struct instance *inst);

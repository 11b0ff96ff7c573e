/* What checkpoint and restore both tell criu. */
#pragma once

#include "criu.h"
#include "internal.h"

/* In the image: what the first process's stdio was, a list of what /proc/PID/fd/N said, as with runc and crun. Files
 * outside of the container have criu's name of them before their path: "file[18:3]/dev/null". */
#define CHECKPOINT_DESCRIPTORS "descriptors.json"

/* The name in the image of what masked files are. */
#define CHECKPOINT_MASK "/dev/null"

/* The directories of an image and of criu's work, made where missing. */
enum { CHECKPOINT_IMAGE, CHECKPOINT_WORK, CHECKPOINT_DIRS };

struct checkpoint_dirs {
        int fd[CHECKPOINT_DIRS]; /* work is -1 when it has no directory of its own */
        char *log;
};

#define CHECKPOINT_NO_DIRS ((struct checkpoint_dirs){ { -1, -1 }, NULL })

int checkpoint_open_dirs(
        const struct box_checkpoint_args *args, const char *log, struct checkpoint_dirs *ret, struct err **err);
void checkpoint_close_dirs(struct checkpoint_dirs *dirs);

/* The options that both have, as @args gives them. */
int checkpoint_common(struct criu_request *q, const struct launch *l, const struct checkpoint_dirs *dirs,
        const struct box_checkpoint_args *args, struct err **err);

/* Calls @each for everything in the container that is mounted from the host: at @target, which is a path in the
 * container without symlinks; by the name @key in the image; from @source now. @root: the container's root. */
typedef void checkpoint_mount(struct criu_request *q, const char *target, const char *key, const char *source);
int checkpoint_mounts(
        struct criu_request *q, const struct launch *l, int root, checkpoint_mount *each, struct err **err);

/* The name in the image of a namespace that the container joined, which criu leaves alone; NULL for kinds where criu
 * joins by itself. */
const char *checkpoint_namespace_key(enum spec_namespace_id id);

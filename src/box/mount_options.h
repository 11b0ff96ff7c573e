/* The options of a mount entry, sorted by what they are for. */
#pragma once

#include <stdio.h> /* before linux/mount.h: glibc's and the kernel's do not go together otherwise */
#include <sys/mount.h>

#include "base/arena.h"
#include "base/err.h"
#include "spec/spec.h"

enum mount_flag {
        MOUNT_BIND = 1,
        MOUNT_RECURSIVE = 2,
        MOUNT_COPY_UP = 4, /* a tmpfs that starts with what it covers */
        MOUNT_COPY_SYMLINK = 8,
        MOUNT_SOURCE_NOFOLLOW = 16,
        MOUNT_TARGET_NOFOLLOW = 32,
        MOUNT_IDMAP = 64,
        MOUNT_IDMAP_RECURSIVE = 128,
        MOUNT_REMOUNT = 256,
        MOUNT_LOCKED = 512, /* restrictions of the source stay: as the kernel has it inside of a user namespace */
};

struct mount_options {
        u64 set, clear;            /* MOUNT_ATTR_* of the mount itself */
        u64 all_set, all_clear;    /* and of everything below it too */
        unsigned long propagation; /* MS_SHARED, ... with MS_REC; 0: as it comes */
        unsigned flags;            /* enum mount_flag */
        const char *id_maps[2];    /* idmap=uids=..;gids=..: crun's way to say mappings inside an option; NULL */
        struct spec_strings data;  /* the file system's own, borrowed */
};

int mount_options_parse(
        struct arena *arena, const struct spec_strings *options, struct mount_options *ret, struct err **err);
/* Whether an option of that name is known to the runtime itself: for features. NULL behind the last one. */
const char *mount_options_known(size_t i);

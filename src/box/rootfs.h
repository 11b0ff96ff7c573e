/* The container's file system: mounts, /dev, masked paths, pivot_root. Runs in the container's process. */
#pragma once

#include "internal.h"

/* Reads the options of every mount entry. In the runtime, before the clone. */
int rootfs_plan(struct launch *l, struct err **err);
/* As runc has it: a destination may be written as the host sees it, with the root before it. Once that is known. */
void rootfs_strip_targets(struct launch *l);
/* What only the runtime can do for mounts, before the clone: the user namespaces of id-mapped ones and, when the
 * container has a user namespace, the detached bind mounts and devices, whose sources its own user may not reach. */
int rootfs_prepare_sources(struct launch *l, struct err **err);
/* What of an absolute @path of the host is inside of the root, or NULL. */
const char *rootfs_inside(const struct launch *l, const char *path);
/* Everything up to the point where hooks may run: the root mounted onto itself, all mounts, /dev. */
int rootfs_mount(struct launch *l, struct err **err);
/* For restore: the mount points below the root that no restored file system brings along. Mounts what is bound: in a
 * mount namespace that is thrown away. */
int rootfs_make_targets(struct launch *l, struct err **err);
/* Masked and read-only paths, the swap of the roots (root_swap.h), the read-only root. */
int rootfs_finish(struct launch *l, struct err **err);
/* /dev/console: the terminal's other end @fd. Before rootfs_finish. */
int rootfs_mount_console(const struct launch *l, int fd, struct err **err);

/* Mounting by descriptors: a mount is made detached, given its attributes while nobody can reach it, and then moved
 * onto a descriptor of its target that was resolved inside the container's root. A path that the container could change
 * meanwhile is never used (CVE-2021-30465 and its successors). */
#pragma once

#include "mount_options.h"

/* The detached mount of a host path and, with MOUNT_RECURSIVE, of what is mounted below it. */
int mount_bind(const char *source, const struct mount_options *options, struct err **err);
/* The detached mount of a new file system instance. */
int mount_new(const char *type, const char *source, const struct mount_options *options, struct err **err);
/* A detached copy of the mount at the object @fd. */
int mount_clone(int fd, bool recursive);
/* Applies attributes (and, for bind mounts, propagation) to a mount. */
int mount_set(int fd, const struct mount_options *options, struct err **err);
int mount_set_attr(int fd, u64 set, u64 clear, bool recursive);
int mount_set_propagation(int fd, unsigned long propagation);
/* Attaches the detached mount @fd onto the object @target. -errno. */
int mount_move(int fd, int target);
/* mount(2) onto the object @target for what the descriptor calls cannot do: options too long for fsconfig. */
int mount_classic(int proc, int target, const char *type, const char *source, const struct mount_options *options,
        struct err **err);
/* Whether fsconfig takes them all: values of 256 bytes and more are refused by the kernel. */
bool mount_options_fit(const struct mount_options *options);

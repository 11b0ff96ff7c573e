/* The host's procfs, held by a descriptor that is checked once and cannot be redirected: every read and write of
 * /proc by the runtime goes through here (CVE-2025-52881: a container that shares mounts turned writes of labels and
 * sysctls into writes of other files). */
#pragma once

#include "base/err.h"

/* Opens /proc and makes sure that it is one. */
int procfs_open(struct err **err);
/* Opens @path below it: no symlink but self, no magic link, no other file system. -errno. */
int procfs_at(int proc, const char *path, int flags);
int procfs_write(int proc, const char *path, const char *text, struct err **err);
/* At most @size - 1 bytes, zero-terminated. The length, or -errno. */
int procfs_read(int proc, const char *path, char *buf, size_t size);

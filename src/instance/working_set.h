/* Which parts of a snapshot's memory its machines need until they are somebody: written down by the first that began as it, read ahead for the others
 * while the host still makes their directories, groups and processes. Pages that are in the page cache already cost nothing.
 *
 * The file is beside the snapshot, which itself never changes: lines of a layer's number, an offset and a length in bytes, hexadecimal; then "w" in place of the
 * number for what machines write, which strata-vmm copies ahead (--working-set). It may be missing or damaged. */
#pragma once

#include <limits.h>

#include "internal.h"

#define SNAPSHOT_WORKING_SET "working-set"

/* What the machine @pid, which began as the snapshot whose machine is at @path, has mapped of its files until now. Nothing when it is known. */
void working_set_record(const char *path, pid_t pid);
/* Where it is written, of the same snapshot. */
bool working_set_exists(const char *path, char ret[static PATH_MAX]);
/* Of the snapshot in @directory: begins to read, does not wait. */
void working_set_prefetch(int directory);

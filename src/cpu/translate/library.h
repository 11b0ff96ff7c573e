/* Translations that outlive their machine: those of a machine that was saved, for machines that begin as it.
 *
 * Blocks hold no addresses, only places in the code memory (internal.h), so all of it can be mapped from a file: code,
 * headers, and the tables by which blocks are found. A library is such a file. Nothing is looked at or copied when it
 * is loaded; clones of one machine share its pages, and each has pages of its own for what it changes: links into new
 * code, blocks that are dropped because the guest wrote to theirs (code_patch.c).
 *
 * What is in it is right for the memory of the snapshot that it was saved with and for no other, so both have the same
 * number (@id). And it is host code. Whoever could write to the file could run anything as strata-vmm, in its jail: it
 * is to be trusted as the snapshot's machine is, whose strata-vmm has written it, and never to be taken from a
 * stranger. A file of another build of this program, or of a host or guest with other instructions, is left alone. */
#pragma once

#include "runtime.h"

/* All blocks of @tr that a machine with private memory can use (no shadow windows), as many as fit, to the empty file
 * @fd. All vCPUs stand still. */
int library_save(struct translator *tr, int fd, u64 id, struct err **err);
/* Before anything was translated or run; the vCPUs are there (their model is compared), guest memory is that of the
 * snapshot. A file for others is left, which is no error: *ret_n_blocks, those that there are now, is 0. @fd stays the
 * caller's. */
int library_load(struct translator *tr, int fd, u64 id, u64 *ret_n_blocks, struct err **err);

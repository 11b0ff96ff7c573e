/* Translations that outlive their machine: those of a machine that was saved, for machines that begin as it.
 *
 * A block does not depend on where it lies, but for the jumps before its sites (internal.h) and its links, which can be cut. So a library is a file with all blocks of a
 * machine as they were before they were linked, each with the guest's bytes that it was made of. A machine that has no block for some place copies the one of its
 * library if there is one of the same key and bytes, and translates only otherwise. Nothing else of the file is believed about the guest: a library of another machine
 * is of no use, and does no harm.
 *
 * But it is host code. Whoever could write to the file could run anything as strata-vmm, in its jail: it is to be trusted as the snapshot's machine is, whose
 * strata-vmm has written it, and never to be taken from a stranger. A file of another build of this program, or of a host or guest with other instructions, is left
 * alone. */
#pragma once

#include "runtime.h"

struct library_entry;

/* All blocks of @tr that a machine with private memory can use (no shadow windows), to the empty file @fd. All vCPUs stand still. */
int library_save(struct translator *tr, int fd, struct err **err);
/* Maps the file; *ret is NULL when it is for others. The vCPUs are there (their model is compared); @fd stays the caller's. */
int library_open(const struct translator *tr, int fd, struct library **ret, struct err **err);
struct library *library_close(struct library *library);
/* The block for @key if it is made of the bytes of @req; NULL. @library may be NULL. */
const struct library_entry *library_find(const struct library *library, const struct tblock *key, const struct translate_request *req);
/* The line of 32 bytes of 64 that its code has to begin in. */
unsigned library_phase(const struct library_entry *entry);
/* As translate_block. Records and sites stay the library's. */
void library_copy(const struct library *library, const struct library_entry *entry, const struct translate_request *req, struct translation *ret);

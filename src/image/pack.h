/* Files as entries of a tar archive: what layers, `strata cp` and exports have in common. */
#pragma once

#include <jansson.h>
#include <sys/stat.h>

#include "base/err.h"
#include "tar.h"

struct pack {
        const struct byte_sink *sink;
        s64 clamp_mtime; /* no entry is newer; -1: as they are */
        json_t *links;   /* "device:inode" of files with several names -> the first */
        u8 *buf;
};

int pack_init(struct pack *pack, const struct byte_sink *sink, s64 clamp_mtime, struct err **err);
void pack_clear(struct pack *pack);
/* Writes what the O_PATH descriptor @fd is, with its content, as @path. Further names of a file become links to the first.
 * Sockets are left out: returns 0 then and 1 otherwise. */
int pack_entry(struct pack *pack, int fd, const char *path, const struct stat *st, struct err **err);

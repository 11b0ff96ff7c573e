/* A layer's archive becomes a directory as overlayfs wants it: whiteout files become whiteout devices and opaque marks
 * (OCI image spec, layer.md; kernel, Documentation/filesystems/overlayfs.rst). The archive comes from strangers. */
#pragma once

#include <jansson.h>

#include "base/err.h"
#include "tar.h"

#define UNPACK_BYTES_MAX (256 * GIB) /* of one archive, as it is when nothing compresses it any more */

struct unpack_options {
        bool user_xattr;    /* opaque marks are user.overlay.* instead of trusted.overlay.* */
        bool squash_owners; /* every file is ours; devices are left out */
        bool plain;         /* no whiteouts: names are taken as they are */
        bool keep_kinds;    /* a directory does not replace a file, nor the reverse: ERR_BUSY */
};

struct unpack_result {
        u64 entries, bytes;
        json_t *implied; /* directories that the archive did not mention: the keys; the caller's */
};

/* Into the empty directory @fd. @tar is read to its end. */
int unpack_layer(int fd, struct tar_reader *tar, const struct unpack_options *options, struct unpack_result *ret,
        struct err **err);

/* Which attributes a layer may have. Overlayfs's own marks would change what other files mean; labels and ACLs belong to a
 * host, not to an image. */
bool unpack_takes_xattr(const char *name);

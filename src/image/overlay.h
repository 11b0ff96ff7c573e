/* Overlay mounts: the layers of an image, and a writable one on top. */
#pragma once

#include "base/err.h"

struct overlay {
        const char *const *lower; /* paths, topmost first */
        size_t n_lower;
        const char *upper, *work; /* NULL: read-only */
        bool user_xattr, is_volatile;
        /* "ON-DISK:SHOWN:COUNT[:...]" of users and groups: so only fuse-overlayfs mounts, it makes new files accordingly. NULL: as on disk */
        const char *shift_uids, *shift_gids;
        const char
                *fuse_target; /* a directory where fuse-overlayfs may mount, when the kernel will not; NULL: nowhere */
};

/* A detached mount. */
int overlay_mount(const struct overlay *overlay, int *ret_fd, struct err **err);

/* Whether the directory, which may be an O_PATH descriptor, hides what lower layers have in it. */
bool overlay_is_opaque(int fd, bool user_xattr);

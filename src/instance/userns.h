/* A user namespace of an instance's own: ids inside are others outside. Nothing on disk changes its owner for it: files are shown
 * with their ids shifted by the mount (mount_setattr(2), MOUNT_ATTR_IDMAP). */
#pragma once

#include "box/spec/spec.h"
#include "internal.h"

/* Root shifts all that is mounted; a user may not, and has files of the image shifted by fuse-overlayfs: whatever else is mounted has the
 * ids on disk that the instance sees from the user's namespace. */

struct userns_maps {
        struct spec_id_maps uids, gids; /* from the instance's to ours */
};

/* Whether --userns asks for one. */
bool userns_is_own(const struct instance_config *config);
/* What of the configuration goes with it, and whether its text can be read; before anything is made. */
int userns_check(const struct instance_config *config, struct err **err);
/* With keep-id the instance runs as who has started it, if nobody else was named. */
int userns_take_user(struct arena *arena, struct instance_config *config);
/* Who has started an instance, there and in it. */
struct userns_kept {
        u32 outside_uid, outside_gid, uid, gid;
};
/* Whether it is one with keep-id. */
bool userns_keeps(const struct instance_config *config, struct userns_kept *ret);
/* Fills in config.id_maps: for "auto" the first range that no other instance has. Under host_lock until the configuration is saved. */
int userns_choose(struct instance *inst, struct err **err);
/* config.id_maps and gid_maps as the runtime has them; in @arena. */
int userns_maps(struct arena *arena, const struct instance_config *config, struct userns_maps *ret, struct err **err);
/* Whether mounts are id-mapped for it; it runs or is about to. */
bool userns_shifts_mounts(const struct instance *inst);
/* Such a namespace without a process in it: its descriptor. */
int userns_make(const struct instance *inst, int *ret, struct err **err);
/* image_instance_mount with other owners. For root it is below what userns_shift shifted: as the root of the instance's namespace, who alone has a number on disk there
 * of those who may make an overlay. Everything that can be missing in the store was made before by a mount without it. */
int userns_mount_root(struct instance *inst, unsigned flags, int *ret_mount_fd, struct err **err);
/* In a mount namespace of one's own: below @dir ids are seen as @userns has them from here on, by paths. */
int userns_shift(int userns, const char *dir, struct err **err);

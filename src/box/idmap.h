/* Id maps: of user namespaces, and of mounts (mount_setattr MOUNT_ATTR_IDMAP). */
#pragma once

#include "internal.h"

/* Writes the maps of the process @pid, which is in a new user namespace; by newuidmap and newgidmap where we may not
 * ourselves. */
int idmap_write_process(
        int proc, pid_t pid, const struct spec_id_maps *uids, const struct spec_id_maps *gids, struct err **err);
/* A user namespace with these maps that nobody is in. */
int idmap_namespace(int proc, const struct spec_id_maps *uids, const struct spec_id_maps *gids, struct err **err);
/* The host's id of the container's id; (u32)-1 when it has none. */
u32 idmap_to_host(const struct spec_id_maps *maps, u32 id);
/* crun's "uids=0-1000-1#...;gids=...": each CONTAINER-HOST-SIZE, or @ before it for an id relative to the user
 * namespace's map. */
int idmap_parse_option(struct arena *arena, const char *text, const struct spec_linux *base,
        struct spec_id_maps *ret_uids, struct spec_id_maps *ret_gids, struct err **err);

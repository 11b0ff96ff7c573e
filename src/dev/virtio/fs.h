/* virtio-fs: a directory of the host as a file system in the guest (`mount -t virtiofs TAG DIR`). */
#pragma once

#include "dev/pci.h"

#define VIRTIO_FS_TAG_MAX 36U /* bytes; virtio 1.2, 5.11.4 */

/* The file server behind the device: fs_internal.h. */
struct fuse_server;

struct fuse_server_config {
        const char *path;  /* the directory; borrowed until fuse_server_new returns */
        bool read_only;
        bool is_private;   /* nobody else changes the files, or whoever does tells the guest (drop_caches): it may keep what it knows */
        unsigned fds;      /* descriptors of the host that it may use, 64 at least */
        unsigned inodes;   /* files that a guest may know at a time */
};

int fuse_server_new(const struct fuse_server_config *config, struct fuse_server **ret, struct err **err);
/* NULL is fine. Returns NULL. */
/* The directories that it works from, for who moves them: the shared one and FUSE_SERVER_FDS (O_PATH). */
#define FUSE_SERVER_FDS "/proc/self/fd"
void fuse_server_directories(const struct fuse_server *server, int *ret_root_fd, int *ret_fds_fd);
struct fuse_server *fuse_server_free(struct fuse_server *server);

struct virtio_fs_config {
        const char *tag;
        struct fuse_server *server; /* taken over on success */
};

int virtio_fs_new(struct device_env *env, struct pci_bus *bus, const struct virtio_fs_config *config, struct err **err);

/* virtio-vsock: stream sockets between the guest (AF_VSOCK) and unix sockets of the host.
 *
 * Host to guest: a program connects to PATH, writes "CONNECT port\n" and reads "OK number\n"; from there on the stream is the
 * guest's. It is closed without "OK" when nobody listens there. Guest to host: a connection to port N of CID 2 becomes one to
 * the unix socket PATH_N; it is reset when that does not exist. */
#pragma once

#include "dev/pci.h"

#define VSOCK_CID_HOST 2U
#define VSOCK_CID_MIN 3U
#define VSOCK_CID_MAX 0xfffffffeU

/* The listening socket at PATH. */
struct vsock_listener {
        int fd;
        char *path;
        u64 dev, ino; /* of the file, which is removed only when it is still ours */
};

/* A socket file that nobody listens at any more is replaced; anything else at @path is an error. The file is for its owner only. */
int vsock_listen(const char *path, struct vsock_listener **ret, struct err **err);
/* Removes the file too. NULL is fine. Returns NULL. */
struct vsock_listener *vsock_listener_free(struct vsock_listener *listener);

struct virtio_vsock_config {
        u32 cid;                         /* the guest's address */
        struct vsock_listener *listener; /* taken over on success */
};

int virtio_vsock_new(struct device_env *env, struct pci_bus *bus, const struct virtio_vsock_config *config, struct err **err);

/* virtio-vsock: stream sockets between the guest (AF_VSOCK) and unix sockets of the host.
 *
 * Host to guest: a program connects to PATH, writes "CONNECT port\n" and reads "OK number\n"; from there on the stream is the
 * guest's. It is closed without "OK" when nobody listens there. Guest to host: a connection to port N of CID 2 becomes one to
 * the unix socket PATH_N; it is reset when that does not exist. */
#pragma once

#include "base/unix_listener.h"
#include "dev/pci.h"

#define VSOCK_CID_HOST 2U
#define VSOCK_CID_MIN 3U
#define VSOCK_CID_MAX 0xfffffffeU

/* "_4294967295": what PATH must leave room for (unix_listener_new). */
#define VSOCK_SUFFIX_MAX 11U

struct virtio_vsock_config {
        u32 cid;                         /* the guest's address */
        struct unix_listener *listener; /* taken over on success */
};

int virtio_vsock_new(struct device_env *env, struct pci_bus *bus, const struct virtio_vsock_config *config, struct err **err);

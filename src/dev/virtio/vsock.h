/* virtio-vsock: stream sockets between the guest (AF_VSOCK) and unix sockets of the host.
 *
 * Host to guest: a program connects to PATH, writes "CONNECT port\n" and reads "OK number\n"; from there on the stream is the
 * guest's. It is closed without "OK" when nobody listens there. Guest to host: a connection to port N of CID 2 becomes one to
 * the unix socket PATH_N; it is reset when that does not exist. One port may be that of a program inside this process. */
#pragma once

#include <sys/uio.h>

#include "base/unix_listener.h"
#include "dev/pci.h"

#define VSOCK_CID_HOST 2U
#define VSOCK_CID_MIN 3U
#define VSOCK_CID_MAX 0xfffffffeU

/* "_4294967295": what PATH must leave room for (unix_listener_new). */
#define VSOCK_SUFFIX_MAX 11U

struct vsock_conn;

/* What the guest reaches at one port of the host is inside this process. It has one connection at a time, which is saved with the
 * machine. Called on the io thread, with the device lock held. */
struct vsock_local_ops {
        /* The guest connects, or did before the machine was saved. False: refused. */
        bool (*connected)(void *opaque, struct vsock_conn *conn);
        /* Bytes from the guest, all of which are taken. */
        void (*receive)(void *opaque, const struct iovec *iov, unsigned n);
        /* Bytes for the guest: how many were put into @iov; 0: none now, vsock_local_wake follows when there are. */
        size_t (*fill)(void *opaque, const struct iovec *iov, unsigned n);
        /* The connection is gone. Also called while the device is destroyed. */
        void (*closed)(void *opaque);
};
struct vsock_local {
        u32 port;
        const struct vsock_local_ops *ops;
        void *opaque;
};

struct virtio_vsock_config {
        u32 cid;                        /* the guest's address */
        struct unix_listener *listener; /* taken over on success; NULL: nobody but @local */
        const struct vsock_local *local; /* NULL: none. Outlives the device */
};

int virtio_vsock_new(struct device_env *env, struct pci_bus *bus, const struct virtio_vsock_config *config, struct err **err);
/* There are bytes for the guest. From any of its callbacks too. */
void vsock_local_wake(struct vsock_conn *conn);

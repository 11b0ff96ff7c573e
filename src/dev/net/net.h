/* Network backends: where the frames of a network device go.
 *
 * A backend moves Ethernet frames without preamble and checksum. When `vnet_header` is set each frame, both ways, is preceded by a
 * struct virtio_net_hdr of 12 bytes (virtio 1.2, 5.1.6), and the offloads in `offloads` may be used.
 *
 * Flow control is the same in both directions: whoever gets a frame may say "not now". send() answers -EAGAIN: the backend calls
 * client.writable() when it is worth another try. client.receive() answers false: the backend keeps the frame, reads no more,
 * and tries again after ops->receive_ready(). Nothing is dropped for want of room.
 *
 * Threads: everything with the device lock held; backends work on the machine's loop. */
#pragma once

#include <sys/uio.h>

#include "dev/dev.h"

#define NET_VNET_HEADER 12U
/* The largest frame: 64 KiB of segmentation offload and the Ethernet header with a VLAN tag. */
#define NET_FRAME_MAX (65536U + 18U)
#define NET_IOV_MAX 512U

/* Bits of net_backend.offloads and of the argument of set_offloads: which unfinished frames may be passed. */
enum {
        NET_OFFLOAD_CSUM = 1, /* with a partial checksum */
        NET_OFFLOAD_TSO4 = 2,
        NET_OFFLOAD_TSO6 = 4,
        NET_OFFLOAD_ECN = 8,
};

struct net_backend;

struct net_backend_ops {
        const char *name; /* "tap", "passt" */
        /* 0: taken. -EAGAIN: not now. Any other error: the frame is lost. */
        int (*send)(struct net_backend *backend, const struct iovec *iov, unsigned n);
        /* The client has room again after it refused a frame. */
        void (*receive_ready)(struct net_backend *backend);
        /* Which unfinished frames the client takes. Optional. */
        void (*set_offloads)(struct net_backend *backend, unsigned offloads);
        /* No frame is read between pause(true) and pause(false): saved state does not change meanwhile. Optional. */
        void (*pause)(struct net_backend *backend, bool paused);
        void (*destroy)(struct net_backend *backend); /* frees it */
};

struct net_client {
        /* One frame, header included when vnet_header is set. False: no room now. */
        bool (*receive)(void *opaque, const u8 *frame, size_t len);
        void (*writable)(void *opaque);
        void (*link)(void *opaque, bool up); /* e.g. the user-mode network process died. Optional. */
        void *opaque;
};

struct net_backend {
        const struct net_backend_ops *ops;
        struct net_client client; /* all NULL until a device attaches */
        bool vnet_header;
        unsigned offloads;
        u8 mac[6];     /* a suggestion for the guest's address; all zero: none */
        u16 mtu;       /* 0: the default */
};

/* An existing or new tap interface. The error tells apart: no /dev/net/tun, no permission, in use, bad name. */
int net_tap_open(struct device_env *env, const char *ifname, struct net_backend **ret, struct err **err);

/* A tap that somebody else opened (IFF_NO_PI, IFF_VNET_HDR). The descriptor is the backend's from success on. */
int net_tap_from_fd(struct device_env *env, int fd, struct net_backend **ret, struct err **err);

/* User-mode networking by a `passt` child process, unprivileged. The guest gets an address by DHCP; the gateway's address is
 * the host's loopback. */
struct net_passt_config {
        const char *const *forward; /* NULL-terminated passt port specs "tcp:8080:80", may be NULL */
};
int net_passt_open(struct device_env *env, const struct net_passt_config *config, struct net_backend **ret,
                   struct err **err);

/* Takes a connected stream socket that speaks passt's framing (each frame after its length, 4 bytes, big endian). */
int net_stream_new(struct device_env *env, int fd, struct net_backend **ret, struct err **err);

/* A cable that is not plugged in: sends are dropped. */
int net_none_new(struct device_env *env, struct net_backend **ret, struct err **err);

/* NULL is fine. Returns NULL. On the loop's thread, or while the loop does not run. */
struct net_backend *net_backend_free(struct net_backend *backend);

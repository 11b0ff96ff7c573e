/* A tap interface of the host (Documentation/networking/tuntap.rst). One read or write is one frame, with the virtio header in
 * front, so that checksums and segmentation can be left to whoever does them best. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "dev/net/net.h"

/* Frames a callback reads before others get their turn. */
#define BATCH 64

struct tap {
        struct net_backend backend;
        int fd;
        struct loop_fd *watch;
        bool paused, want_write;
        size_t held; /* bytes of a frame in buffer[] that the client had no room for */
        u8 buffer[NET_VNET_HEADER + NET_FRAME_MAX];
};

static struct tap *tap_of(struct net_backend *backend)
{
        return container_of(backend, struct tap, backend);
}

static void watch_update(struct tap *tap)
{
        int events = 0;

        if (!tap->paused && !tap->held)
                events |= POLLIN;
        if (tap->want_write)
                events |= POLLOUT;
        loop_fd_set_events(tap->watch, events);
}

static bool deliver(struct tap *tap, size_t len)
{
        const struct net_client *client = &tap->backend.client;

        if (client->receive && !client->receive(client->opaque, tap->buffer, len)) {
                tap->held = len;
                return false;
        }
        tap->held = 0;
        return true;
}

static void on_ready(void *opaque, int revents)
{
        struct tap *tap = opaque;

        if (revents & POLLOUT && tap->want_write) {
                tap->want_write = false;
                if (tap->backend.client.writable)
                        tap->backend.client.writable(tap->backend.client.opaque);
        }
        for (unsigned i = 0; i < BATCH && revents & POLLIN && !tap->held && !tap->paused; i++) {
                const ssize_t n = read(tap->fd, tap->buffer, sizeof(tap->buffer));

                if (n <= 0 || !deliver(tap, (size_t)n))
                        break;
        }
        watch_update(tap);
}

static int tap_send(struct net_backend *backend, const struct iovec *iov, unsigned n)
{
        struct tap *tap = tap_of(backend);
        ssize_t written;

        do
                written = writev(tap->fd, iov, (int)n);
        while (written < 0 && errno == EINTR);
        if (written >= 0)
                return 0;
        if (errno != EAGAIN)
                return -errno;
        tap->want_write = true;
        watch_update(tap);
        return -EAGAIN;
}

static void tap_receive_ready(struct net_backend *backend)
{
        struct tap *tap = tap_of(backend);

        if (tap->held)
                deliver(tap, tap->held);
        watch_update(tap);
}

static void tap_set_offloads(struct net_backend *backend, unsigned offloads)
{
        static const struct {
                unsigned offload, tun;
        } map[] = {
                { NET_OFFLOAD_CSUM, TUN_F_CSUM }, { NET_OFFLOAD_TSO4, TUN_F_TSO4 },
                { NET_OFFLOAD_TSO6, TUN_F_TSO6 }, { NET_OFFLOAD_ECN, TUN_F_TSO_ECN },
        };
        unsigned long flags = 0;

        for (size_t i = 0; i < ARRAY_SIZE(map); i++)
                flags |= offloads & map[i].offload ? map[i].tun : 0;
        if (ioctl(tap_of(backend)->fd, TUNSETOFFLOAD, flags) < 0)
                log_warn_once("tap: setting offloads failed: %s", strerror(errno));
}

static void tap_pause(struct net_backend *backend, bool paused)
{
        struct tap *tap = tap_of(backend);

        tap->paused = paused;
        if (!paused)
                tap_receive_ready(backend);
        watch_update(tap);
}

static void tap_destroy(struct net_backend *backend)
{
        struct tap *tap = tap_of(backend);

        loop_fd_remove(tap->watch);
        close(tap->fd);
        free(tap);
}

static const struct net_backend_ops tap_ops = {
        .name = "tap", .send = tap_send, .receive_ready = tap_receive_ready, .set_offloads = tap_set_offloads,
        .pause = tap_pause, .destroy = tap_destroy,
};

static int name_check(const char *ifname, struct err **err)
{
        const size_t len = strlen(ifname);

        /* A '%' would be a pattern to the kernel, and make an interface of another name. */
        if (len == 0 || len >= IFNAMSIZ || strpbrk(ifname, "%/ \t\n") || !strcmp(ifname, ".") || !strcmp(ifname, ".."))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a network interface name", ifname);
        return 0;
}

static int tun_open(struct err **err)
{
        int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        int r;

        if (fd >= 0)
                return fd;
        r = err_sys(err, errno, "opening /dev/net/tun");
        if (r == -ENOENT || r == -ENODEV || r == -ENXIO)
                return err_hint(err, r, "Load the tun module ('modprobe tun'), or use '--net user'.");
        if (r == -EACCES || r == -EPERM)
                return err_hint(err, r, "Run as root, give this user access to /dev/net/tun, or use '--net user'.");
        return r;
}

static int tap_attach(int fd, const char *ifname, struct err **err)
{
        struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
        int r;

        strcpy(ifr.ifr_name, ifname); /* name_check: it fits */
        if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
                switch (errno) {
                case EBUSY:
                        r = err_set(err, ERR_BUSY, EBUSY, "tap interface '%s' is in use by another process", ifname);
                        return err_hint(err, r, "Every machine needs a tap interface of its own.");
                case EPERM:
                        r = err_set(err, ERR_NO_PERMISSION, EPERM, "no permission to use tap interface '%s'", ifname);
                        return err_hint(err, r, "Create it for this user, as root: ip tuntap add dev %s mode tap user %u",
                                        ifname, getuid());
                case EINVAL:
                        return err_set(err, ERR_USAGE, EINVAL,
                                       "'%s' exists, but is not a tap interface (or a multi-queue one)", ifname);
                default:
                        return err_sys(err, errno, "attaching to tap interface '%s'", ifname);
                }
        }
        return 0;
}

/* A tap that nobody switched on loses every frame. Not an error: whoever configures it may do so later. */
static void link_up(const char *ifname)
{
        _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct ifreq ifr = { 0 };

        strcpy(ifr.ifr_name, ifname);
        if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr) < 0 || ifr.ifr_flags & IFF_UP)
                return;
        ifr.ifr_flags = (short)(ifr.ifr_flags | IFF_UP);
        if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
                log_warn("tap interface '%s' is down: ip link set %s up", ifname, ifname);
}

/* The backend of a tap that is attached; takes the descriptor. */
static int tap_new(struct device_env *env, int fd, struct net_backend **ret, struct err **err)
{
        const unsigned all = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
        int header = NET_VNET_HEADER;
        struct tap *tap;

        if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
                return err_sys(err, errno, "setting the header size of a tap interface");
        tap = calloc(1, sizeof(*tap));
        if (!tap)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a tap interface");
        tap->backend.ops = &tap_ops;
        tap->backend.vnet_header = true;
        if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)) == 0)
                tap->backend.offloads = all;
        ioctl(fd, TUNSETOFFLOAD, 0UL);
        tap->watch = loop_fd_add(env->loop, fd, POLLIN, on_ready, tap, err);
        if (!tap->watch) {
                free(tap);
                return -ENOMEM;
        }
        tap->fd = fd;
        *ret = &tap->backend;
        return 0;
}

int net_tap_from_fd(struct device_env *env, int fd, struct net_backend **ret, struct err **err)
{
        struct ifreq ifr = { 0 };
        int flags;

        if (ioctl(fd, TUNGETIFF, &ifr) < 0)
                return errno == EBADF ? err_set(err, ERR_USAGE, EBADF, "it is not open")
                                      : err_set(err, ERR_USAGE, errno, "it is no tap interface");
        if ((ifr.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) != (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
                return err_set(err, ERR_USAGE, EINVAL, "it is a tun interface, or has other headers");
        flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
                return err_sys(err, errno, "preparing the tap interface '%.15s'", ifr.ifr_name);
        return tap_new(env, fd, ret, err);
}

int net_tap_open(struct device_env *env, const char *ifname, struct net_backend **ret, struct err **err)
{
        _cleanup_close_ int fd = -1;
        int r;

        r = name_check(ifname, err);
        if (r < 0)
                return r;
        r = fd = tun_open(err);
        if (r < 0)
                return r;
        r = tap_attach(fd, ifname, err);
        if (r < 0)
                return r;
        link_up(ifname);
        r = tap_new(env, fd, ret, err);
        if (r == 0)
                (void)TAKE_FD(fd);
        return r;
}

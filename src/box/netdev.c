/* rtnetlink(7): one RTM_SETLINK moves and renames a device. The kernel drops its addresses and takes it down on the
 * way, so those with global scope are read before and put back by a child that enters the other namespace. */
#include "netdev.h"

#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "sync.h"
#include "sys.h"

enum { BUFFER = 32768, ADDRESSES_MAX = 64 };

struct request {
        struct nlmsghdr head;
        union {
                struct ifinfomsg link;
                struct ifaddrmsg address;
        };
        char attributes[512];
};

struct address {
        struct ifaddrmsg info;
        u8 local[16], broadcast[16];
        u8 local_size, broadcast_size;
        u32 flags;
};

struct addresses {
        struct address item[ADDRESSES_MAX];
        size_t n;
};

static void add_attribute(struct request *request, u16 type, const void *data, size_t size)
{
        struct rtattr *attribute = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->head.nlmsg_len));

        attribute->rta_type = type;
        attribute->rta_len = (u16)RTA_LENGTH(size);
        memcpy(RTA_DATA(attribute), data, size);
        request->head.nlmsg_len = NLMSG_ALIGN(request->head.nlmsg_len) + (u32)RTA_ALIGN(attribute->rta_len);
}

/* Sends and waits for the acknowledgement. */
static int transact(int sock, struct request *request)
{
        char buf[4096] __attribute__((aligned(NLMSG_ALIGNTO)));
        const struct nlmsghdr *reply = (const struct nlmsghdr *)buf;
        ssize_t n;

        request->head.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
        if (send(sock, request, request->head.nlmsg_len, 0) < 0)
                return -errno;
        n = recv(sock, buf, sizeof(buf), 0);
        if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || reply->nlmsg_type != NLMSG_ERROR)
                return n < 0 ? -errno : -EPROTO;
        return ((const struct nlmsgerr *)NLMSG_DATA(reply))->error;
}

static int open_socket(struct err **err)
{
        const int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

        return sock < 0 ? err_sys(err, errno, "linux.netDevices: netlink") : sock;
}

static void take_address(const struct nlmsghdr *m, int index, struct addresses *list)
{
        const struct ifaddrmsg *info = NLMSG_DATA(m);
        size_t left = m->nlmsg_len - NLMSG_LENGTH(sizeof(*info));
        struct address *a = &list->item[list->n];

        if (info->ifa_index != (unsigned)index || info->ifa_scope != RT_SCOPE_UNIVERSE || list->n == ADDRESSES_MAX)
                return;
        *a = (struct address){ .info = *info, .flags = info->ifa_flags };
        for (const struct rtattr *t = IFA_RTA(info); RTA_OK(t, left); t = RTA_NEXT(t, left)) {
                const size_t size = RTA_PAYLOAD(t);

                if (size > 16)
                        continue;
                if (t->rta_type == IFA_LOCAL || (t->rta_type == IFA_ADDRESS && !a->local_size)) {
                        memcpy(a->local, RTA_DATA(t), size);
                        a->local_size = (u8)size;
                } else if (t->rta_type == IFA_BROADCAST) {
                        memcpy(a->broadcast, RTA_DATA(t), size);
                        a->broadcast_size = (u8)size;
                } else if (t->rta_type == IFA_FLAGS && size == 4) {
                        memcpy(&a->flags, RTA_DATA(t), 4);
                }
        }
        if (a->local_size && !(a->flags & (IFA_F_TEMPORARY | IFA_F_DEPRECATED)))
                list->n++;
}

static int read_addresses(int sock, int index, struct addresses *list, struct err **err)
{
        static char buf[BUFFER] __attribute__((aligned(NLMSG_ALIGNTO)));
        struct request request = {
                .head = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
                        .nlmsg_type = RTM_GETADDR,
                        .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
        };

        if (send(sock, &request, request.head.nlmsg_len, 0) < 0)
                return err_sys(err, errno, "linux.netDevices: reading addresses");
        for (;;) {
                ssize_t n = recv(sock, buf, sizeof(buf), 0);

                if (n < 0)
                        return err_sys(err, errno, "linux.netDevices: reading addresses");
                for (const struct nlmsghdr *m = (const struct nlmsghdr *)buf; NLMSG_OK(m, n); m = NLMSG_NEXT(m, n)) {
                        if (m->nlmsg_type == NLMSG_DONE)
                                return 0;
                        if (m->nlmsg_type == NLMSG_ERROR)
                                return err_set(err, ERR_IO, EIO, "linux.netDevices: reading addresses failed");
                        if (m->nlmsg_type == RTM_NEWADDR)
                                take_address(m, index, list);
                }
        }
}

static int restore(int sock, const char *name, struct addresses *list)
{
        const unsigned index = if_nametoindex(name);
        struct request up = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
                                      .nlmsg_type = RTM_NEWLINK },
                .link = { .ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP } };
        int r;

        if (!index)
                return -ENODEV;
        for (size_t i = 0; i < list->n; i++) {
                const struct address *a = &list->item[i];
                struct request add = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
                                               .nlmsg_type = RTM_NEWADDR,
                                               .nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE },
                        .address = { .ifa_family = a->info.ifa_family,
                                .ifa_prefixlen = a->info.ifa_prefixlen,
                                .ifa_index = index } };

                add_attribute(&add, IFA_LOCAL, a->local, a->local_size);
                add_attribute(&add, IFA_ADDRESS, a->local, a->local_size);
                if (a->broadcast_size)
                        add_attribute(&add, IFA_BROADCAST, a->broadcast, a->broadcast_size);
                r = transact(sock, &add);
                if (r < 0)
                        return r;
        }
        return transact(sock, &up);
}

/* In a child: namespaces are entered only by processes that end afterwards. */
static int restore_inside(int ns, const char *name, struct addresses *list, struct err **err)
{
        int status = 0;
        const pid_t pid = fork();

        if (pid < 0)
                return err_sys(err, errno, "linux.netDevices");
        if (pid == 0) {
                int sock, r = -1;

                if (setns(ns, CLONE_NEWNET) == 0) {
                        sock = open_socket(NULL);
                        r = sock < 0 ? sock : restore(sock, name, list);
                }
                _exit(r < 0 ? 1 : 0);
        }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        return status ? err_set(err, ERR_IO, EIO, "linux.netDevices: setting up '%s' in the container failed", name)
                      : 0;
}

static int move_device(int sock, const struct spec_net_device *device, int ns, struct err **err)
{
        static struct addresses list;
        const unsigned index = if_nametoindex(device->host_name);
        struct request request = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
                                           .nlmsg_type = RTM_NEWLINK },
                .link = { .ifi_index = (int)index, .ifi_change = IFF_UP } };
        const u32 fd = (u32)ns;
        int r;

        if (!index)
                return err_sys(err, ENODEV, "linux.netDevices: '%s'", device->host_name);
        list.n = 0;
        r = read_addresses(sock, (int)index, &list, err);
        if (r < 0)
                return r;
        add_attribute(&request, IFLA_IFNAME, device->name, strlen(device->name) + 1);
        add_attribute(&request, IFLA_NET_NS_FD, &fd, sizeof(fd));
        r = transact(sock, &request);
        if (r < 0)
                return err_sys(err, -r, "linux.netDevices: moving '%s' to '%s'", device->host_name, device->name);
        return restore_inside(ns, device->name, &list, err);
}

int netdev_move(const struct spec *spec, pid_t pid, struct err **err)
{
        _cleanup_close_ int sock = -1, ns = -1;
        char path[64];
        int r = 0;

        if (!spec->linux_.n_net_devices)
                return 0;
        snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
        ns = open(path, O_RDONLY | O_CLOEXEC);
        if (ns < 0)
                return err_sys(err, errno, "linux.netDevices: opening the container's network namespace");
        sock = open_socket(err);
        if (sock < 0)
                return sock;
        for (size_t i = 0; r == 0 && i < spec->linux_.n_net_devices; i++)
                r = move_device(sock, &spec->linux_.net_devices[i], ns, err);
        return r;
}

int netdev_loopback_up(struct err **err)
{
        _cleanup_close_ int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };

        if (sock < 0 && errno == EAFNOSUPPORT)
                return 0;
        if (sock < 0 || ioctl(sock, SIOCSIFFLAGS, &request) < 0)
                return err_sys(err, errno, "bringing up the loopback interface");
        return 0;
}

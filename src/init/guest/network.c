/* Network interfaces, mostly by rtnetlink(7). An ADDRESS message says all that an interface has; what it had before is taken away. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

#define MAC_SIZE 6U
#define ADDRESSES_MAX 64U
/* Interfaces have low numbers in a machine. */
#define INDEX_MAX 256

/* One request to the kernel: header, a fixed part, attributes. */
struct request {
        struct nlmsghdr header;
        u8 body[256];
};

static void begin(struct request *request, u16 type, u16 flags, const void *head, size_t n)
{
        *request = (struct request){
                .header = { .nlmsg_len = (u32)NLMSG_LENGTH(n), .nlmsg_type = type, .nlmsg_flags = (u16)(NLM_F_REQUEST | flags) },
        };
        memcpy(request->body, head, n);
}

static void put(struct request *request, u16 type, const void *data, size_t n)
{
        struct rtattr *a = (struct rtattr *)((u8 *)request + NLMSG_ALIGN(request->header.nlmsg_len));

        a->rta_type = type;
        a->rta_len = (u16)RTA_LENGTH(n);
        memcpy(RTA_DATA(a), data, n);
        request->header.nlmsg_len = (u32)(NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(a->rta_len));
}

/* 0 or -errno as the kernel says. */
static int ask(int fd, struct request *request)
{
        struct {
                struct nlmsghdr header;
                struct nlmsgerr error;
                u8 rest[512];
        } answer;
        ssize_t n;

        request->header.nlmsg_flags |= NLM_F_ACK;
        if (send(fd, request, request->header.nlmsg_len, 0) < 0)
                return -errno;
        n = recv(fd, &answer, sizeof(answer), 0);
        if (n < (ssize_t)(sizeof(answer.header) + sizeof(answer.error)) || answer.header.nlmsg_type != NLMSG_ERROR)
                return n < 0 ? -errno : -EPROTO;
        return answer.error.error;
}

/* Calls @fn for each message of a list until it returns other than 0: returns that. */
static int dump(int fd, u16 type, int (*fn)(void *opaque, const struct nlmsghdr *message), void *opaque)
{
        static u8 buffer[32768] __attribute__((aligned(8)));
        const struct rtgenmsg head = { .rtgen_family = AF_UNSPEC };
        struct request request;
        int r = 0;

        begin(&request, type, NLM_F_DUMP, &head, sizeof(head));
        if (send(fd, &request, request.header.nlmsg_len, 0) < 0)
                return -errno;
        for (;;) {
                const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
                const struct nlmsghdr *m;

                if (n <= 0)
                        return n < 0 ? -errno : -EPROTO;
                for (size_t at = 0; at + sizeof(*m) <= (size_t)n; at += NLMSG_ALIGN(m->nlmsg_len)) {
                        m = (const void *)(buffer + at);
                        if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR || m->nlmsg_len < sizeof(*m))
                                return r;
                        if (r == 0)
                                r = fn(opaque, m);
                }
        }
}

static const struct rtattr *find(const struct nlmsghdr *m, size_t head, u16 type, size_t size)
{
        int left = (int)m->nlmsg_len - (int)NLMSG_SPACE(head);

        for (const struct rtattr *a = (const void *)((const u8 *)m + NLMSG_SPACE(head)); RTA_OK(a, left); a = RTA_NEXT(a, left))
                if (a->rta_type == type && RTA_PAYLOAD(a) >= size)
                        return a;
        return NULL;
}

/* ---- which interface ---- */

static bool parse_mac(const char *text, u8 mac[static MAC_SIZE])
{
        for (unsigned i = 0; i < MAC_SIZE; i++) {
                char *end;
                const unsigned long byte = strtoul(text, &end, 16);

                if (end != text + 2 || byte > 255 || *end != (i + 1 < MAC_SIZE ? ':' : '\0'))
                        return false;
                mac[i] = (u8)byte;
                text = end + 1;
        }
        return true;
}

/* By ioctls (netdevice(7)): a list by netlink takes several times as long in a machine that has just begun. */
static int find_interface(const char *text)
{
        const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct ifreq request = { 0 };
        struct text name = { .at = request.ifr_name, .size = sizeof(request.ifr_name) };
        u8 mac[MAC_SIZE];
        int found = -ENODEV;

        if (fd < 0)
                return -errno;
        if (!parse_mac(text, mac)) {
                text_add(&name, text);
                found = strlen(text) < IFNAMSIZ && ioctl(fd, SIOCGIFINDEX, &request) == 0 ? request.ifr_ifindex : -ENODEV;
                close(fd);
                return found;
        }
        for (int i = 1; i <= INDEX_MAX && found < 0; i++) {
                request.ifr_ifindex = i;
                if (ioctl(fd, SIOCGIFNAME, &request) == 0 && ioctl(fd, SIOCGIFHWADDR, &request) == 0 &&
                    memcmp(request.ifr_hwaddr.sa_data, mac, MAC_SIZE) == 0)
                        found = i;
        }
        close(fd);
        return found;
}

/* ---- what it is to have ---- */

/* Up or down, and what @name, @mac, @mtu say (NULL, NULL, 0: as it is). */
static int change_link(int fd, int index, bool up, const char *name, const u8 *mac, u32 mtu)
{
        const struct ifinfomsg head = { .ifi_index = index, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP };
        struct request request;

        begin(&request, RTM_NEWLINK, 0, &head, sizeof(head));
        if (name)
                put(&request, IFLA_IFNAME, name, strlen(name) + 1);
        if (mac)
                put(&request, IFLA_ADDRESS, mac, MAC_SIZE);
        if (mtu)
                put(&request, IFLA_MTU, &mtu, sizeof(mtu));
        return ask(fd, &request);
}

struct addresses {
        int index;
        size_t n;
        struct {
                struct ifaddrmsg head;
                u8 address[16];
                size_t size;
        } item[ADDRESSES_MAX];
};

static int collect_address(void *opaque, const struct nlmsghdr *m)
{
        struct addresses *list = opaque;
        const struct ifaddrmsg *head = NLMSG_DATA(m);
        const struct rtattr *a = find(m, sizeof(*head), IFA_LOCAL, 4);

        if (!a)
                a = find(m, sizeof(*head), IFA_ADDRESS, 4);
        if ((int)head->ifa_index != list->index || !a || RTA_PAYLOAD(a) > 16 || list->n == ADDRESSES_MAX)
                return 0;
        list->item[list->n].head = *head;
        list->item[list->n].size = RTA_PAYLOAD(a);
        memcpy(list->item[list->n].address, RTA_DATA(a), RTA_PAYLOAD(a));
        list->n++;
        return 0;
}

static int remove_addresses(int fd, int index)
{
        static struct addresses list;
        int r;

        list.index = index;
        list.n = 0;
        r = dump(fd, RTM_GETADDR, collect_address, &list);
        for (size_t i = 0; i < list.n && r == 0; i++) {
                struct request request;

                begin(&request, RTM_DELADDR, 0, &list.item[i].head, sizeof(list.item[i].head));
                put(&request, IFA_LOCAL, list.item[i].address, list.item[i].size);
                put(&request, IFA_ADDRESS, list.item[i].address, list.item[i].size);
                r = ask(fd, &request);
                if (r == -EADDRNOTAVAIL) /* it went with another, whose secondary it was */
                        r = 0;
        }
        return r;
}

/* "10.1.2.3/24" or without a prefix: the family, 0 when it is none. */
static u8 parse_address(const char *text, u8 ret[static 16], u8 *ret_prefix)
{
        const char *slash = strchrnul(text, '/');
        const u8 family = strchr(text, ':') ? AF_INET6 : AF_INET, most = family == AF_INET ? 32 : 128;
        char copy[64], *end = NULL;
        unsigned long prefix = most;
        struct text address = TEXT(copy);

        text_add_n(&address, text, (size_t)(slash - text));
        if (*slash)
                prefix = strtoul(slash + 1, &end, 10);
        if ((*slash && (end == slash + 1 || *end)) || prefix > most || inet_pton(family, copy, ret) != 1)
                return 0;
        *ret_prefix = (u8)prefix;
        return family;
}

static int add_address(int fd, int index, const char *text)
{
        struct ifaddrmsg head = { .ifa_index = (u32)index, .ifa_flags = IFA_F_NODAD | IFA_F_PERMANENT };
        struct request request;
        u8 address[16];

        head.ifa_family = parse_address(text, address, &head.ifa_prefixlen);
        if (!head.ifa_family)
                return -EINVAL;
        begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &head, sizeof(head));
        put(&request, IFA_LOCAL, address, head.ifa_family == AF_INET ? 4 : 16);
        put(&request, IFA_ADDRESS, address, head.ifa_family == AF_INET ? 4 : 16);
        if (head.ifa_family == AF_INET && head.ifa_prefixlen < 31) {
                u32 ip, host_part = (u32)(BIT(32 - head.ifa_prefixlen) - 1);

                memcpy(&ip, address, sizeof(ip));
                ip |= htonl(host_part);
                put(&request, IFA_BROADCAST, &ip, sizeof(ip));
        }
        return ask(fd, &request);
}

static int add_gateway(int fd, int index, const char *text)
{
        struct rtmsg head = { .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_UNICAST };
        struct request request;
        u8 address[16], prefix;

        head.rtm_family = parse_address(text, address, &prefix);
        if (!head.rtm_family)
                return -EINVAL;
        begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &head, sizeof(head));
        put(&request, RTA_GATEWAY, address, head.rtm_family == AF_INET ? 4 : 16);
        put(&request, RTA_OIF, &index, sizeof(index));
        return ask(fd, &request);
}

/* ---- requests ---- */

static int fail_for(struct failure *failure, int r, const char *what, const char *which, const char *interface)
{
        return fail(failure, -r, what, which, "' (interface '", interface, "')", NULL);
}

static int configure(int fd, const struct init_message *m, struct failure *failure)
{
        const char *which = m->field[0].text, *name = m->field[1].text, *mac_text = m->field[2].text, *text;
        const int index = find_interface(which);
        u8 mac[MAC_SIZE];
        int r;

        if (index < 0)
                return fail_for(failure, index, "looking for '", which, which);
        if (m->field[1].number >= IFNAMSIZ || (*mac_text && !parse_mac(mac_text, mac)))
                return fail_for(failure, -EINVAL, "a name or hardware address is malformed: '", *mac_text ? mac_text : name, which);
        /* A name can be changed only while it is down, and the routes go with that. */
        r = change_link(fd, index, false, *name ? name : NULL, *mac_text ? mac : NULL, (u32)m->field[3].number);
        if (r == 0)
                r = remove_addresses(fd, index);
        if (r == 0 && m->field[4].number)
                r = change_link(fd, index, true, NULL, NULL, 0);
        if (r < 0)
                return fail_for(failure, r, "preparing '", *name ? name : which, which);
        text = m->field[4].text;
        for (u64 i = 0; i < m->field[4].number; i++, text = init_next_text(text)) {
                r = add_address(fd, index, text);
                if (r < 0)
                        return fail_for(failure, r, "adding the address '", text, which);
        }
        text = m->field[5].text;
        for (u64 i = 0; i < m->field[5].number; i++, text = init_next_text(text)) {
                r = add_gateway(fd, index, text);
                if (r < 0)
                        return fail_for(failure, r, "adding the gateway '", text, which);
        }
        return 0;
}

int request_address(struct init *init, const struct init_message *m, struct failure *failure)
{
        const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        int r;

        if (fd < 0)
                return fail(failure, errno, "opening netlink", NULL);
        r = configure(fd, m, failure);
        close(fd);
        init->readdressed = true;
        return r;
}

void loopback_up(void)
{
        struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
        const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return;
        ioctl(fd, SIOCSIFFLAGS, &lo);
        close(fd);
}

/* In the container's network namespace: sockets that are opened there, and the resolver's address.
 *
 * The resolver listens on 127.0.0.11, but not on port 53: a container may have a name server of its own on 0.0.0.0:53,
 * which would not get it then. A table of nftables in the namespace changes the port on the way, both ways, without
 * connection tracking: packets on the loopback have no checksum yet, so that is two bytes. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "attach.h"
#include "nft.h"

#define TABLE "strata_resolver"

static const u8 resolver_ip[4] = { 127, 0, 0, 11 }; /* RESOLVER_ADDRESS */
static const u8 dns_port[2] = { 0, 53 };

/* At the resolver's address and a port that the kernel chooses; or, without @ip, at any address and @ret_port. */
static int listen_at(const u8 *ip, int type, int *ret, u8 ret_port[2])
{
        struct sockaddr_in address = { .sin_family = AF_INET };
        _cleanup_close_ int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socklen_t len = sizeof(address);

        if (ip)
                memcpy(&address.sin_addr, ip, sizeof(resolver_ip));
        else
                memcpy(&address.sin_port, ret_port, 2);
        if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
                (type == SOCK_STREAM && listen(fd, 16) < 0) || getsockname(fd, (struct sockaddr *)&address, &len) < 0)
                return -errno;
        memcpy(ret_port, &address.sin_port, 2);
        *ret = TAKE_FD(fd);
        return 0;
}

/* In packets of @protocol with the resolver at IP offset @ip, the port at offset @port changes from @from to @to. */
static void add_rule(struct nl *nl, const u8 *protocol, u32 ip, u32 port, const u8 *from, const u8 *to)
{
        const struct nft_expr rule[] = {
                NFT_META(0, NFT_META_L4PROTO),
                NFT_CMP(0, NFT_CMP_EQ, protocol, 1),
                NFT_PAYLOAD(0, NFT_PAYLOAD_NETWORK_HEADER, ip, 4),
                NFT_CMP(0, NFT_CMP_EQ, resolver_ip, 4),
                NFT_PAYLOAD(0, NFT_PAYLOAD_TRANSPORT_HEADER, port, 2),
                NFT_CMP(0, NFT_CMP_EQ, from, 2),
                NFT_VALUE(0, to, 2),
                NFT_WRITE_PORT(0, port, *protocol == IPPROTO_UDP ? 6U : 16U),
                NFT_END,
        };

        nft_add_rule(nl, TABLE, "output", rule);
}

/* @nft: a socket in the container's namespace. */
static int redirect(int nft, const u8 udp_port[2], const u8 tcp_port[2])
{
        static const struct nft_chain output = { "output", "filter", NF_INET_LOCAL_OUT, 0 };
        static const u8 udp[1] = { IPPROTO_UDP }, tcp[1] = { IPPROTO_TCP };
        struct nl nl = { 0 };
        int r;

        nft_begin(&nl);
        nft_add_table(&nl, TABLE); /* so that there is one to delete: that of a resolver before */
        nft_delete_table(&nl, TABLE);
        nft_add_table(&nl, TABLE);
        nft_add_chain(&nl, TABLE, &output);
        for (int i = 0; i < 2; i++) {
                const u8 *protocol = i ? tcp : udp, *port = i ? tcp_port : udp_port;

                add_rule(&nl, protocol, 16, 2, dns_port, port); /* destinations of questions */
                add_rule(&nl, protocol, 12, 0, port, dns_port); /* sources of answers */
        }
        r = nft_commit(nft, &nl);
        nl_free(&nl);
        return r;
}

/* In the namespace. */
static int open_resolver(struct inside *inside, struct err **err)
{
        _cleanup_close_ int nft = -1;
        u8 udp_port[2], tcp_port[2];
        int r;

        r = link_configure_inside(inside->route, &(struct link_inside){ .ifname = NULL }); /* lo, for the address */
        if (r == 0)
                r = listen_at(resolver_ip, SOCK_DGRAM, &inside->udp, udp_port);
        if (r == 0)
                r = listen_at(resolver_ip, SOCK_STREAM, &inside->tcp, tcp_port);
        if (r == 0) {
                r = nl_open(NETLINK_NETFILTER, &nft, err);
                if (r < 0)
                        return r;
                r = redirect(nft, udp_port, tcp_port);
        }
        return r < 0 ? err_sys(err, -r, "opening the resolver's sockets on " RESOLVER_ADDRESS) : 0;
}

/* Our own namespace, after a look whether we may come back to it: who may not does not go. */
static int open_home(int *ret, struct err **err)
{
        _cleanup_close_ int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

        if (home < 0 || setns(home, CLONE_NEWNET) < 0)
                return err_sys(err, errno, "coming back to the network namespace");
        *ret = TAKE_FD(home);
        return 0;
}

static int open_service(struct inside *inside)
{
        u8 port[2] = { dns_port[0], dns_port[1] };
        int r = listen_at(NULL, SOCK_DGRAM, &inside->udp, port);

        return r < 0 ? r : listen_at(NULL, SOCK_STREAM, &inside->tcp, port);
}

int inside_new(int *ret_netns, struct inside *ret, struct err **err)
{
        _cleanup_close_ int home = -1, netns = -1;
        struct inside inside = INSIDE_CLOSED;
        int r = open_home(&home, err);

        if (r < 0)
                return r;
        if (unshare(CLONE_NEWNET) < 0)
                return err_sys(err, errno, "making a network namespace");
        netns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
        if (netns < 0)
                r = err_sys(err, errno, "making a network namespace");
        if (r == 0)
                r = nl_open(NETLINK_ROUTE, &inside.route, err);
        if (r == 0) {
                r = open_service(&inside);
                if (r < 0)
                        err_sys(err, -r, "opening the sockets of a resolver");
        }
        if (setns(home, CLONE_NEWNET) < 0) /* a moment ago it worked */
                r = err_set(err, ERR_INTERNAL, errno, "leaving the resolver's network namespace failed");
        if (r < 0) {
                inside_close(&inside);
                return r;
        }
        *ret = inside;
        *ret_netns = TAKE_FD(netns);
        return 0;
}

int inside_open(int netns_fd, bool dns, struct inside *ret, struct err **err)
{
        _cleanup_close_ int home = -1;
        struct inside inside = INSIDE_CLOSED;
        int r = open_home(&home, err);

        if (r < 0)
                return r;
        if (setns(netns_fd, CLONE_NEWNET) < 0)
                return err_sys(err, errno, "entering the container's network namespace");
        r = nl_open(NETLINK_ROUTE, &inside.route, err);
        if (r == 0 && dns)
                r = open_resolver(&inside, err);
        if (setns(home, CLONE_NEWNET) < 0) /* a moment ago it worked */
                r = err_set(err, ERR_INTERNAL, errno, "leaving the container's network namespace failed");
        if (r < 0)
                inside_close(&inside);
        else
                *ret = inside;
        return r;
}

void inside_close(struct inside *inside)
{
        closep(&inside->route);
        closep(&inside->udp);
        closep(&inside->tcp);
}

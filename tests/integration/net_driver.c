/* net_driver COMMAND...: the calls of src/net for tests, one each. The store is $STRATA_NET_ROOT.
 *
 *     create NAME [--subnet S] [--gateway G] [--ip-range R] [--internal] [--ipv6] [-o KEY=VALUE]
 *     rm NAME | ls | prune | check | endpoints | detach ID [NETWORK]
 *     attach NETWORK ID NETNS [--name N] [--alias A] [--ip A] [--pid P] [-p PORT]... [--tap | --guest] [--hold SECONDS] [--dns A]
 *         --guest: as a virtual machine: its tap is joined to one called eth0 in NETNS, until the driver is killed
 *     bench N NETNS...: attaches and detaches N endpoints one after the other, prints microseconds of each call */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/net.h"

static struct net_store *store;

static void notice(void *opaque, const char *text)
{
        fprintf(stderr, "notice: %s\n", text);
}

static int finish(int r, struct err *err)
{
        if (r < 0)
                err_print(err, "net_driver");
        err_free(err);
        net_store_close(store);
        return r < 0 ? 1 : 0;
}

static int create(int argc, char **argv, struct err **err)
{
        struct net_subnet subnets[4] = { { 0 } };
        struct net_pair options[8];
        struct net_create_options o = { .subnets = subnets, .options = options };
        char *id = NULL;
        int r;

        for (int i = 1; i < argc; i++) {
                const char *next = i + 1 < argc ? argv[i + 1] : "";

                if (strcmp(argv[i], "--internal") == 0) {
                        o.internal = true;
                        continue;
                }
                if (strcmp(argv[i], "--ipv6") == 0) {
                        o.ipv6 = true;
                        continue;
                }
                i++;
                if (strcmp(argv[i - 1], "--subnet") == 0 && o.n_subnets < 4)
                        subnets[o.n_subnets++].subnet = next;
                else if (strcmp(argv[i - 1], "--gateway") == 0 && o.n_subnets)
                        subnets[o.n_subnets - 1].gateway = next;
                else if (strcmp(argv[i - 1], "--ip-range") == 0 && o.n_subnets)
                        subnets[o.n_subnets - 1].ip_range = next;
                else if (strcmp(argv[i - 1], "-o") == 0 && o.n_options < 8)
                        options[o.n_options++] = (struct net_pair){ strsep(&argv[i], "="), argv[i] ? argv[i] : "" };
                else
                        return -EINVAL;
        }
        r = net_create(store, argv[0], &o, &id, err);
        if (r == 0)
                puts(id);
        free(id);
        return r;
}

static void print_attachment(const char *container, const struct net_attachment *a)
{
        printf("%s network=%s ifname=%s host=%s mac=%s ip=%s/%u gateway=%s ip6=%s dns=%s", container, a->network,
                a->ifname, a->host_ifname, a->mac, a->ip, a->prefix_len, a->gateway, a->ip6, a->dns);
        for (size_t i = 0; i < a->n_ports; i++)
                printf(" port=%s:%u:%u/%s", a->ports[i].host_ip, a->ports[i].host_port, a->ports[i].container_port,
                        net_protocol_name(a->ports[i].protocol));
        putchar('\n');
}

/* The guest's end of the cable: what comes out of one tap goes into the other, as a virtio-net device would carry it. */
static int be_the_cable(int tap, int netns)
{
        struct ifreq request = { .ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
        static unsigned char frame[70000];
        int other;

        if (setns(netns, CLONE_NEWNET) < 0)
                return -errno;
        other = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
        if (other < 0 || ioctl(other, TUNSETIFF, &request) < 0)
                return -errno;
        puts("cable");
        fflush(stdout);
        for (;;) {
                struct pollfd fds[2] = { { .fd = tap, .events = POLLIN }, { .fd = other, .events = POLLIN } };

                if (poll(fds, 2, -1) < 0)
                        return -errno;
                for (int i = 0; i < 2; i++) {
                        const ssize_t n = fds[i].revents & POLLIN ? read(fds[i].fd, frame, sizeof(frame)) : 0;

                        if (n > 0)
                                (void)!write(fds[!i].fd, frame, (size_t)n);
                }
        }
}

static int attach(int argc, char **argv, struct err **err)
{
        const char *aliases[8] = { NULL }, *dns[4] = { NULL };
        struct net_attach_request q = { .container = argv[1], .aliases = aliases, .netns_fd = -1 };
        struct net_attachment *a = NULL;
        struct net_ports ports = { 0 };
        size_t n_aliases = 0, n_dns = 0;
        unsigned hold = 0;
        int r = 0, guest = -1;

        for (int i = 3; i < argc && r == 0; i += 2) {
                const char *next = i + 1 < argc ? argv[i + 1] : "";

                if (strcmp(argv[i], "--name") == 0)
                        q.name = next;
                else if (strcmp(argv[i], "--alias") == 0 && n_aliases < 7)
                        aliases[n_aliases++] = next;
                else if (strcmp(argv[i], "--dns") == 0 && n_dns < 3)
                        dns[n_dns++] = next;
                else if (strcmp(argv[i], "--ip") == 0)
                        q.ip = next;
                else if (strcmp(argv[i], "--pid") == 0)
                        q.pid = atoi(next);
                else if (strcmp(argv[i], "-p") == 0)
                        r = net_port_parse(next, &ports, err);
                else if (strcmp(argv[i], "--tap") == 0)
                        q.tap = true, i--;
                else if (strcmp(argv[i], "--guest") == 0)
                        q.tap = true, guest = open(argv[2], O_RDONLY | O_CLOEXEC), i--;
                else if (strcmp(argv[i], "--hold") == 0)
                        q.hold_ports = true, hold = (unsigned)atoi(next);
                else
                        return -EINVAL;
        }
        q.ports = ports.item;
        q.n_ports = ports.n;
        if (n_dns)
                q.dns = dns;
        if (!q.tap)
                q.netns_fd = open(argv[2], O_RDONLY | O_CLOEXEC);
        if (r == 0)
                r = net_attach(store, argv[0], &q, &a, err);
        if (r == 0) {
                print_attachment(argv[1], a);
                fflush(stdout);
                if (guest >= 0)
                        r = be_the_cable(a->tap_fd, guest);
                else if (q.hold_ports || q.tap)
                        sleep(hold);
        }
        net_attachment_free(a);
        net_ports_clear(&ports);
        return r;
}

static int print_network(void *opaque, const struct net_network *n)
{
        printf("%.12s %s %s %s%s", n->id, n->name, n->driver, n->bridge, n->internal ? " internal" : "");
        for (size_t i = 0; i < n->n_subnets; i++)
                printf(" %s via %s", n->subnets[i].subnet, n->subnets[i].gateway);
        putchar('\n');
        return 0;
}

static int print_endpoint(void *opaque, const struct net_endpoint *e)
{
        print_attachment(e->container, e->attachment);
        return 0;
}

static void print_line(void *opaque, const char *text)
{
        puts(text);
}

static int bench(int argc, char **argv, struct err **err)
{
        const int n = atoi(argv[0]);

        for (int i = 0; i < n; i++) {
                char id[32];
                struct net_attachment *a;
                struct net_port port = { .protocol = 6, .host_first = 0, .container_first = 80, .container_last = 80 };
                struct net_attach_request q = {
                        .container = id, .name = id, .ports = &port, .n_ports = argc > 2, .tap = true
                };
                u64 before, between, after;
                int r;

                snprintf(id, sizeof(id), "bench%d", i);
                q.tap = false;
                q.netns_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
                before = clock_now_ns();
                r = net_attach(store, "bridge", &q, &a, err);
                between = clock_now_ns();
                if (r < 0)
                        return r;
                net_attachment_free(a);
                close(q.netns_fd);
                after = clock_now_ns();
                r = net_detach(store, id, "bridge", err);
                if (r < 0)
                        return r;
                printf("%llu %llu\n", (unsigned long long)(between - before) / 1000,
                        (unsigned long long)(clock_now_ns() - after) / 1000);
        }
        return 0;
}

int main(int argc, char **argv)
{
        const struct net_store_options options = { .notice = notice };
        struct err *err = NULL;
        int r = net_store_open(&options, &store, &err);

        if (r < 0 || argc < 2)
                return finish(r, err);
        if (strcmp(argv[1], "create") == 0 && argc > 2)
                r = create(argc - 2, argv + 2, &err);
        else if (strcmp(argv[1], "rm") == 0 && argc > 2)
                r = net_remove(store, argv[2], &err);
        else if (strcmp(argv[1], "ls") == 0)
                r = net_list(store, print_network, NULL, &err);
        else if (strcmp(argv[1], "endpoints") == 0)
                r = net_endpoint_list(store, NULL, NULL, print_endpoint, NULL, &err);
        else if (strcmp(argv[1], "prune") == 0)
                r = net_prune(store, NULL, print_line, NULL, &err);
        else if (strcmp(argv[1], "check") == 0)
                r = net_check(store, NULL, print_line, NULL, &err);
        else if (strcmp(argv[1], "attach") == 0 && argc > 4)
                r = attach(argc - 2, argv + 2, &err);
        else if (strcmp(argv[1], "detach") == 0 && argc > 2)
                r = net_detach(store, argv[2], argc > 3 ? argv[3] : NULL, &err);
        else if (strcmp(argv[1], "bench") == 0 && argc > 3)
                r = bench(argc - 2, argv + 2, &err);
        else
                r = -EINVAL;
        return finish(r, err);
}

/* The default network of a user who is not root: passt's pasta, a process that answers for the container's packets
 * with sockets of the host (pasta(1)). It holds the namespace, so it does not end by itself: net_detach and net_check
 * end it. It takes no lock as our own helpers do; run/helpers/CONTAINER.pasta is a link to its number and start time.
 * */
#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "attach.h"
#include "helper.h"

/* What the container has: the addresses that slirp4netns made usual. The host's own loopback is not reachable
 * (--no-map-gw). */
#define ADDRESS "10.0.2.100"
#define PREFIX  "24"
#define GATEWAY "10.0.2.2"

/* Its descriptors. */
#define NETNS  "/proc/self/fd/3"
#define USERNS "/proc/self/fd/5"

enum { END_MS = 2000 };

struct helper_path {
        char text[sizeof(DIR_HELPERS) + CONTAINER_MAX + 40];
};

static struct helper_path path_of(const char *in, const char *container, const char *suffix)
{
        struct helper_path p;

        snprintf(p.text, sizeof(p.text), "%.20s" DIR_HELPERS "/%.128s.%.10s", in, container, suffix);
        return p;
}

/* --- its number --------------------------------------------------------------------------------------------------- */

/* When the process started (field 22 of proc(5)'s stat); 0: there is none. */
static unsigned long long start_of(pid_t pid)
{
        char path[40], text[1024];
        unsigned long long start = 0;
        char *p;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        text[MAX(n, 0)] = '\0';
        p = strrchr(text, ')');
        for (int field = 2; p && field < 22; field++)
                p = strchr(p + 1, ' ');
        return p && sscanf(p, "%llu", &start) == 1 ? start : 0;
}

static pid_t find(struct net_store *store, const char *container)
{
        unsigned long long start;
        char text[64];
        int pid;

        if (store_read_link(store->run, path_of("", container, "pasta").text, text, sizeof(text)) < 0 ||
                sscanf(text, "%d %llu", &pid, &start) != 2)
                return 0;
        return pid > 0 && start_of(pid) == start ? pid : 0;
}

bool pasta_runs(struct net_store *store, const char *container)
{
        return find(store, container) > 0;
}

void pasta_stop(struct net_store *store, const char *container)
{
        const pid_t pid = find(store, container);
        _cleanup_close_ int pidfd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
        struct pollfd gone = { .fd = pidfd, .events = POLLIN };

        if (pidfd >= 0 && find(store, container) == pid) { /* still, so the descriptor is of that process */
                syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
                poll(&gone, 1, END_MS);
        }
        unlinkat(store->run, path_of("", container, "pasta").text, 0);
        unlinkat(store->run, path_of("", container, "pid").text, 0);
}

static int note(struct net_store *store, const char *container, struct err **err)
{
        const struct helper_path file = path_of("", container, "pid");
        _cleanup_close_ int fd = openat(store->run, file.text, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        char text[64] = "";
        int pid;

        if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || sscanf(text, "%d", &pid) != 1 || pid <= 0)
                return err_set(err, ERR_IO, EIO, "pasta did not say its process id");
        snprintf(text, sizeof(text), "%d %llu", pid, start_of(pid));
        unlinkat(store->run, path_of("", container, "pasta").text, 0);
        if (symlinkat(text, store->run, path_of("", container, "pasta").text) < 0)
                return err_sys(err, errno, "noting pasta's process id");
        unlinkat(store->run, file.text, 0);
        return 0;
}

/* --- starting ----------------------------------------------------------------------------------------------------- */

struct arguments {
        const char **list;
        size_t n, max;
};

static void add(struct arguments *arguments, const char *text)
{
        if (arguments->n + 1 < arguments->max)
                arguments->list[arguments->n++] = text;
}

/* "-t none", or "-t ADDRESS/HOST:CONTAINER" for each port. */
static int add_ports(
        struct arguments *arguments, struct endpoint *endpoint, u8 protocol, const char *option, struct err **err)
{
        bool some = false;

        for (size_t i = 0; i < endpoint->n_ports; i++) {
                const struct published *p = &endpoint->ports[i];
                const char *spec;

                if (p->protocol != protocol)
                        continue;
                spec = arena_printf(&endpoint->arena, "%s%s%u:%u", ip_format(&p->host_ip).text,
                        p->host_ip.len ? "/" : "", p->host_port, p->container_port);
                if (!spec)
                        return err_sys(err, ENOMEM, "starting pasta");
                add(arguments, option);
                add(arguments, spec);
                some = true;
        }
        if (!some) {
                add(arguments, option);
                add(arguments, "none");
        }
        return 0;
}

/* The namespace's owner, when that is not the user namespace that we are in. */
static int foreign_owner(int netns_fd)
{
        _cleanup_close_ int owner = ioctl(netns_fd, NS_GET_USERNS);
        struct stat a, b;

        if (owner < 0 || fstat(owner, &a) < 0 || stat("/proc/self/ns/user", &b) < 0 ||
                (a.st_ino == b.st_ino && a.st_dev == b.st_dev))
                return -1;
        return TAKE_FD(owner);
}

/* What it said last before it gave up. */
static int failed(int log, struct err **err)
{
        char text[2048], *rest = text, *line, *last = NULL;
        const ssize_t n = pread(log, text, sizeof(text) - 1, 0);
        int r;

        text[MAX(n, 0)] = '\0';
        while ((line = strsep(&rest, "\n")))
                if (*line && strncmp(line, "Failed to send ", 15) != 0) /* its complaint that there is no syslog */
                        last = line;
        r = err_set(err, ERR_IO, EIO, "pasta failed: %s", last ? last : "it does not say why");
        return last && strstr(last, "nterface")
                       ? err_hint(err, r, "it needs a default route of the host; --network none works without")
                       : r;
}

static int run(const char *const *argv, const int *fds, size_t n_fds, struct err **err)
{
        _cleanup_close_ int log = memfd_create("pasta", MFD_CLOEXEC);
        int status = 0, r;
        pid_t pid;

        r = helper_spawn(argv, fds, n_fds, log, &pid, err);
        if (r < 0)
                return r;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) /* it goes into the background when all is set up */
                ;
        return status ? failed(log, err) : 0;
}

int pasta_start(
        struct net_store *store, const struct net_attach_request *request, struct endpoint *endpoint, struct err **err)
{
        const size_t max = 40 + 2 * endpoint->n_ports;
        struct arguments arguments = { .list = arena_new(&endpoint->arena, const char *, max), .max = max };
        const struct helper_path pid_file = path_of("/proc/self/fd/4/", request->container, "pid");
        _cleanup_free_ char *program = helper_program("pasta");
        _cleanup_close_ int owner = foreign_owner(request->netns_fd);
        int r;

        if (!program)
                return err_hint(err,
                        err_set(err, ERR_NOT_FOUND, ENOENT,
                                "the program 'pasta' is missing, which makes the network without root"),
                        "install the package passt, or use --network none or host");
        if (!arguments.list)
                return err_sys(err, ENOMEM, "starting pasta");
        endpoint->ifname = request->ifname ? request->ifname : "eth0";
        endpoint->host_ifname = "";
        endpoint->dns = PASTA_DNS;
        endpoint->mtu = 65520;
        endpoint->prefix_len[V4] = 24;
        ip_parse(ADDRESS, &endpoint->ip[V4]);
        ip_parse(GATEWAY, &endpoint->gateway[V4]);

        static const char *const common[] = { "-q", "-e", "-4", "--config-net", "--no-map-gw", "-a", ADDRESS, "-n",
                PREFIX, "-g", GATEWAY, "--dns-forward", PASTA_DNS, "-T", "none", "-U", "none", "--netns", NETNS };
        add(&arguments, program);
        for (size_t i = 0; i < ARRAY_SIZE(common); i++)
                add(&arguments, common[i]);
        add(&arguments, "--ns-ifname");
        add(&arguments, endpoint->ifname);
        add(&arguments, "-P");
        add(&arguments, pid_file.text);
        add(&arguments, owner >= 0 ? "--userns" : "--netns-only");
        if (owner >= 0)
                add(&arguments, USERNS);
        r = add_ports(&arguments, endpoint, IPPROTO_TCP, "-t", err);
        if (r == 0)
                r = add_ports(&arguments, endpoint, IPPROTO_UDP, "-u", err);
        if (r == 0)
                r = run(arguments.list, (const int[]){ request->netns_fd, store->run, owner }, owner >= 0 ? 3 : 2, err);
        return r < 0 ? r : note(store, request->container, err);
}

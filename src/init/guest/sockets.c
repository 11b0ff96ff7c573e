/* The connections of a machine that goes on with other addresses. They are those of the machine that was saved, which goes on with them: here nothing will come
 * on them any more, and who reads would wait for ever. They are ended without a packet, which from the old address would end the other machine's.
 *
 * There is no call for that without the kernel's inet_diag modules, so the sockets are borrowed from the processes, which stand still (pidfd_getfd(2), Linux 5.6),
 * and disconnected: connect(2) to AF_UNSPEC. The next read or write is ECONNRESET. What no process holds yet (a listener's queue) is not found. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

/* Linux 2.6's sockstat: "TCP: inuse 1 orphan 0 ..." and, in a file of its own, "TCP6: inuse 1". */
static bool has_sockets(const struct init *init, const char *file, const char *prefix)
{
        char text[512], *at;

        if (read_file_at(init->proc, file, text, sizeof(text)) <= 0)
                return false;
        at = strstr(text, prefix);
        return at && strtoul(at + strlen(prefix), NULL, 10) > 0;
}

/* Whether it is connected from an address that is not this machine's. */
static bool is_lost(int fd)
{
        struct sockaddr_storage local;
        struct tcp_info info;
        socklen_t n = sizeof(info), n_local = sizeof(local), n_type = sizeof(int);
        int protocol, probe;
        bool lost;

        if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n_type) < 0 || protocol != IPPROTO_TCP)
                return false;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 || info.tcpi_state == TCP_LISTEN ||
                info.tcpi_state == TCP_CLOSE)
                return false;
        if (getsockname(fd, (struct sockaddr *)&local, &n_local) < 0 ||
                (local.ss_family != AF_INET && local.ss_family != AF_INET6))
                return false;
        probe = socket(local.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (probe < 0)
                return false;
        /* The port is at the same place for both. */
        ((struct sockaddr_in *)&local)->sin_port = 0;
        lost = bind(probe, (struct sockaddr *)&local, n_local) < 0 && errno == EADDRNOTAVAIL;
        close(probe);
        return lost;
}

static void end_one(int pidfd, int number)
{
        const struct sockaddr nobody = { .sa_family = AF_UNSPEC };
        const int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

        if (fd < 0)
                return;
        if (is_lost(fd))
                connect(fd, &nobody, sizeof(nobody));
        close(fd);
}

static void end_of_process(void *opaque, const char *pid)
{
        const struct init *init = opaque;
        char path[64];
        struct text text = TEXT(path);
        const struct dirent *entry;
        DIR *dir = NULL;
        int fd, pidfd = -1;

        text_add(&text, pid);
        text_add(&text, "/fd");
        fd = openat(init->proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
                dir = fdopendir(fd);
        while (dir && (entry = readdir(dir))) {
                char target[32];
                const ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

                if (n < 8 || memcmp(target, "socket:[", 8) != 0)
                        continue;
                if (pidfd < 0)
                        pidfd = (int)syscall(SYS_pidfd_open, (pid_t)strtol(pid, NULL, 10), 0);
                if (pidfd >= 0)
                        end_one(pidfd, (int)strtol(entry->d_name, NULL, 10));
        }
        if (pidfd >= 0)
                close(pidfd);
        if (dir)
                closedir(dir);
}

void sockets_end_lost(struct init *init)
{
        /* Reading /proc takes a while: most machines have none. */
        if (has_sockets(init, "self/net/sockstat", "TCP: inuse ") ||
                has_sockets(init, "self/net/sockstat6", "TCP6: inuse "))
                each_pid(init, end_of_process, init);
}

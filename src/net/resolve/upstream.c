#include "upstream.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define RESOLV_CONF "/etc/resolv.conf"

enum { RESOLV_MAX = 4096 };

static void take_line(struct upstream *upstream, char *line)
{
        static const char word[] = "nameserver";

        if (strncmp(line, word, sizeof(word) - 1) != 0 || upstream->n == SERVERS_MAX)
                return;
        line += sizeof(word) - 1;
        line += strspn(line, " \t");
        line[strcspn(line, " \t\r")] = '\0';
        if (ip_parse(line, &upstream->server[upstream->n]) == 0)
                upstream->n++;
}

void upstream_refresh(struct upstream *upstream)
{
        _cleanup_close_ int fd = -1;
        char text[RESOLV_MAX + 1], *rest = text, *line;
        struct stat st;
        s64 mtime;
        ssize_t n;

        if (upstream->fixed)
                return;
        fd = open(RESOLV_CONF, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return;
        mtime = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
        if (mtime == upstream->mtime_ns)
                return;
        n = read(fd, text, RESOLV_MAX);
        if (n < 0)
                return;
        text[n] = '\0';
        upstream->mtime_ns = mtime;
        upstream->n = 0;
        while ((line = strsep(&rest, "\n")))
                take_line(upstream, line);
}

int upstream_connect(const struct ip *server, int type)
{
        struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(53) };
        struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(53) };
        const struct sockaddr *address = server->len == 4 ? (void *)&v4 : (void *)&v6;
        int fd;

        memcpy(server->len == 4 ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr, server->bytes, server->len);
        fd = socket(address->sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, address, server->len == 4 ? sizeof(v4) : sizeof(v6)) < 0 && errno != EINPROGRESS) {
                const int r = -errno;

                close(fd);
                return r;
        }
        return fd;
}

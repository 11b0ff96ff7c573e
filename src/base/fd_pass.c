#include "fd_pass.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

union control {
        struct cmsghdr header;
        char space[CMSG_SPACE(FDS_AT_ONCE * sizeof(int))];
};

ssize_t fds_send(int sock, const void *data, size_t len, const int *fds, size_t n, int flags)
{
        struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
        union control control;
        ssize_t sent;

        if (n > FDS_AT_ONCE)
                return -EINVAL;
        if (n) {
                memset(&control, 0, CMSG_SPACE(n * sizeof(int)));
                control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(n * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
                msg.msg_control = &control;
                msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
        }
        sent = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
        return sent < 0 ? -errno : sent;
}

ssize_t fds_receive(int sock, void *data, size_t len, int *fds, unsigned *n, unsigned max, int flags)
{
        union control control;
        struct iovec iov = { .iov_base = data, .iov_len = len };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        const ssize_t received = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);

        if (received < 0)
                return -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (*n < max)
                                fds[(*n)++] = fd;
                        else
                                close(fd);
                }
        }
        return received;
}

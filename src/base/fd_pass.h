/* Descriptors that go with a message over a unix socket: SCM_RIGHTS, unix(7). */
#pragma once

#include <sys/types.h>

#define FDS_AT_ONCE 250U /* fewer than the kernel's SCM_MAX_FD */

/* sendmsg(2) of @len bytes with @n descriptors, at most FDS_AT_ONCE, which stay the caller's; MSG_NOSIGNAL goes without saying. The number of bytes
 * sent, or -errno. Async-signal-safe. */
ssize_t fds_send(int sock, const void *data, size_t len, const int *fds, size_t n, int flags);
/* recvmsg(2): the number of bytes received, or -errno. Descriptors that came, close-on-exec, are added to the *@n in @fds, which has room for @max; what
 * is too many is closed. */
ssize_t fds_receive(int sock, void *data, size_t len, int *fds, unsigned *n, unsigned max, int flags);

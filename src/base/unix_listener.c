#include "unix_listener.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"

#define BACKLOG 128

static int socket_for(const char *path, struct sockaddr_un *ret_address)
{
        *ret_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
        if ((size_t)snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "%s", path) >= sizeof(ret_address->sun_path)) {
                errno = ENAMETOOLONG;
                return -1;
        }
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int unix_connect(const char *path)
{
        struct sockaddr_un address;
        _cleanup_close_ int fd = socket_for(path, &address);

        /* A unix socket connects at once or, when its backlog is full, not at all. */
        if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

/* A socket file that is left over refuses connections. */
static bool is_stale(const char *path)
{
        struct stat st;
        int fd;

        if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
                return false;
        fd = unix_connect(path);
        if (fd >= 0)
                close(fd);
        return fd == -ECONNREFUSED;
}

static int bind_and_listen(int fd, const struct sockaddr_un *address)
{
        /* The file gets the socket's own mode, so at no time anybody else can connect. */
        if (fchmod(fd, 0600) < 0)
                return -errno;
        if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
                if (errno != EADDRINUSE)
                        return -errno;
                if (!is_stale(address->sun_path))
                        return -EADDRINUSE;
                if (unlink(address->sun_path) < 0 || bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
                        return -errno;
        }
        return listen(fd, BACKLOG) < 0 ? -errno : 0;
}

int unix_listener_new(const char *path, size_t suffix, struct unix_listener **ret, struct err **err)
{
        const size_t longest = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 - suffix;
        _cleanup_free_ struct unix_listener *listener = calloc(1, sizeof(*listener));
        _cleanup_free_ char *copy = strdup(path);
        struct sockaddr_un address;
        _cleanup_close_ int fd = -1;
        struct stat st;
        int r;

        if (!listener || !copy)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the socket '%s'", path);
        if (strlen(path) > longest)
                return err_set(err, ERR_USAGE, ENAMETOOLONG, "the socket path '%s' is longer than %zu bytes", path, longest);
        fd = socket_for(path, &address);
        if (fd < 0)
                return err_sys(err, errno, "creating a socket");
        r = bind_and_listen(fd, &address);
        if (r == -EADDRINUSE)
                return err_hint(err, err_set(err, ERR_BUSY, EADDRINUSE, "'%s' is in use", path),
                                "somebody listens there, or it is no socket: choose another path");
        if (r < 0)
                return err_sys(err, -r, "listening at '%s'", path);
        if (lstat(path, &st) < 0)
                return err_sys(err, errno, "looking at '%s'", path);
        *listener = (struct unix_listener){
                .fd = TAKE_FD(fd), .path = TAKE_PTR(copy), .dev = st.st_dev, .ino = st.st_ino,
        };
        *ret = TAKE_PTR(listener);
        return 0;
}

int unix_listener_connect(const struct unix_listener *listener, u32 number)
{
        char path[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1]; /* what is too long stays so */

        if (listener->connect_outside)
                return listener->connect_outside(listener, number);
        snprintf(path, sizeof(path), "%s_%u", listener->path, number);
        return unix_connect(path);
}

void unix_listener_remove(const char *path, u64 dev, u64 ino)
{
        struct stat st;

        if (lstat(path, &st) == 0 && st.st_dev == dev && st.st_ino == ino)
                unlink(path);
}

struct unix_listener *unix_listener_free(struct unix_listener *listener)
{
        if (!listener)
                return NULL;
        close(listener->fd);
        if (!listener->connect_outside)
                unix_listener_remove(listener->path, listener->dev, listener->ino);
        free(listener->path);
        free(listener);
        return NULL;
}

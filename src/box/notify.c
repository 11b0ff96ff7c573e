#include "notify.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "mount.h"
#include "root.h"
#include "sys.h"

enum { DATAGRAM_MAX = 4096 };

static int bind_socket(int state_dir, struct err **err)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        unlinkat(state_dir, NOTIFY_DIRECTORY "/" NOTIFY_DIRECTORY, 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" NOTIFY_DIRECTORY "/" NOTIFY_DIRECTORY,
                state_dir);
        if (sock < 0 || bind(sock, (struct sockaddr *)&address, sizeof(address)) < 0 ||
                fchmodat(state_dir, NOTIFY_DIRECTORY "/" NOTIFY_DIRECTORY, 0777, 0) < 0)
                return err_sys(err, errno, "making the notification socket");
        return TAKE_FD(sock);
}

int notify_prepare(struct launch *l, struct err **err)
{
        const char *path = getenv("NOTIFY_SOCKET");
        _cleanup_close_ int dir = -1;

        if (!path || path[0] != '/')
                return 0;
        if (mkdirat(l->state->dir, NOTIFY_DIRECTORY, 0755) < 0)
                return err_sys(err, errno, "making the directory of the notification socket");
        l->notify = bind_socket(l->state->dir, err);
        if (l->notify < 0)
                return l->notify;
        dir = openat(l->state->dir, NOTIFY_DIRECTORY, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        l->notify_tree = dir < 0 ? -errno : mount_clone(dir, false);
        if (l->notify_tree < 0 || mount_set_propagation(l->notify_tree, MS_SLAVE) < 0)
                return err_sys(err, errno, "sharing the notification socket");
        l->notify_path = path;
        return 0;
}

int notify_mount(const struct launch *l, struct err **err)
{
        _cleanup_close_ int target = -1;
        int r;

        if (l->notify_tree < 0)
                return 0;
        target = root_make_dir(l->root, l->notify_path, 0755, err);
        if (target < 0)
                return target;
        r = mount_move(l->notify_tree, target);
        return r < 0 ? err_sys(err, -r, "mounting the notification socket at '%s'", l->notify_path) : 0;
}

int notify_reopen(const struct box_handle *h, struct err **err)
{
        if (!getenv("NOTIFY_SOCKET") || faccessat(h->dir, NOTIFY_DIRECTORY, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return -1;
        return bind_socket(h->dir, err);
}

static void send_ready(void)
{
        static const char ready[] = "READY=1";
        const char *path = getenv("NOTIFY_SOCKET");
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (sock < 0 || !path || strlen(path) >= sizeof(address.sun_path))
                return;
        strcpy(address.sun_path, path);
        sendto(sock, ready, strlen(ready), MSG_NOSIGNAL, (struct sockaddr *)&address, sizeof(address));
}

bool notify_forward(int sock)
{
        char text[DATAGRAM_MAX + 1], *rest = text, *line;
        const ssize_t n = recv(sock, text, DATAGRAM_MAX, MSG_DONTWAIT);

        text[n > 0 ? n : 0] = 0;
        while ((line = strsep(&rest, "\n"))) {
                if (strcmp(line, "READY=1") == 0) {
                        send_ready();
                        return true;
                }
        }
        return false;
}

void notify_wait(int sock, int pidfd)
{
        for (;;) {
                struct pollfd p[2] = { { .fd = sock, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };

                if (poll(p, 2, -1) < 0)
                        continue;
                if ((p[0].revents && notify_forward(sock)) || p[1].revents)
                        return;
        }
}

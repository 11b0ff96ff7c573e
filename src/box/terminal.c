#include "terminal.h"

#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <termios.h>

#include "base/cleanup.h"
#include "base/fd_pass.h"
#include "root.h"
#include "sync.h"
#include "sys.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

int terminal_open(int root, const struct spec_process *process, int *ret_master, int *ret_peer, struct err **err)
{
        _cleanup_close_ int master = root_open(root, "/dev/pts/ptmx", O_RDWR | O_NOCTTY), peer = -1;
        struct winsize size = { .ws_row = (u16)process->console_size.height,
                .ws_col = (u16)process->console_size.width };
        struct statfs fs;
        int unlock = 0;

        if (master < 0)
                return err_hint(err, err_sys(err, -master, "opening /dev/pts/ptmx in the container"),
                        "a terminal needs a devpts mount at /dev/pts");
        if (fstatfs(master, &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "/dev/pts in the container is not a devpts");
        if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
                return err_sys(err, errno, "unlocking the container's terminal");
        peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (peer < 0)
                return err_sys(err, errno, "opening the container's terminal");
        if (size.ws_row && size.ws_col && ioctl(peer, TIOCSWINSZ, &size) < 0)
                return err_sys(err, errno, "sizing the container's terminal");
        if (process->user.uid != 0 && fchown(peer, process->user.uid, (gid_t)-1) < 0)
                return err_sys(err, errno, "giving the terminal to user %u", process->user.uid);
        *ret_master = TAKE_FD(master);
        *ret_peer = TAKE_FD(peer);
        return 0;
}

int terminal_attach(int peer, struct err **err)
{
        if (ioctl(peer, TIOCSCTTY, 0) < 0)
                return err_sys(err, errno, "making the terminal the session's");
        for (int fd = 0; fd < 3; fd++)
                if (dup2(peer, fd) < 0)
                        return err_sys(err, errno, "attaching the terminal");
        return 0;
}

int terminal_connect(const char *path, struct err **err)
{
        _cleanup_close_ int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), dir = -1;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *parent = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

        if (sock < 0 || !parent)
                return err_sys(err, errno, "connecting to '%s'", path);
        /* A path may be longer than an address holds: by a descriptor of its directory. */
        dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                return err_sys(err, errno, "connecting to '%s'", path);
        if (snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", dir,
                    slash ? slash + 1 : path) >= (int)sizeof(address.sun_path))
                return err_sys(err, ENAMETOOLONG, "connecting to '%s'", path);
        if (connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0)
                return err_sys(err, errno, "connecting to '%s'", path);
        return TAKE_FD(sock);
}

int terminal_send(int sock, int master, struct err **err)
{
        static const char name[] = "/dev/ptmx";
        const ssize_t sent = fds_send(sock, name, strlen(name), &master, 1, 0);

        return sent < 0 ? err_sys(err, (int)-sent, "sending the terminal to the console socket") : 0;
}

int terminal_hand_over(int console, int sync, int master, struct err **err)
{
        struct termios settings;
        int r;

        if (console >= 0)
                return terminal_send(console, master, err);
        /* A terminal that is relayed turns no newlines: the one it is relayed to does. Before anything is printed. */
        if (tcgetattr(master, &settings) == 0) {
                settings.c_oflag &= ~(tcflag_t)ONLCR;
                tcsetattr(master, TCSANOW, &settings);
        }
        r = sync_send(sync, SYNC_TERMINAL, 0, master);
        return r < 0 ? err_sys(err, -r, "sending the terminal to the runtime") : 0;
}

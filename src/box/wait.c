#include "wait.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>

#include "base/cleanup.h"
#include "notify.h"
#include "sys.h"

/* One direction of the relay. */
struct pump {
        int from, to;
        char buf[8192];
        size_t start, end;
};

static const int not_forwarded[] = { SIGCHLD, SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP,
        SIGSYS, SIGURG, SIGPIPE };

static void forwarded(sigset_t *set)
{
        sigfillset(set);
        for (size_t i = 0; i < ARRAY_SIZE(not_forwarded); i++)
                sigdelset(set, not_forwarded[i]);
}

int wait_prepare(struct err **err)
{
        sigset_t set;

        forwarded(&set);
        return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? err_sys(err, errno, "blocking signals") : 0;
}

static void copy_size(int master)
{
        struct winsize size;

        if (ioctl(0, TIOCGWINSZ, &size) == 0)
                ioctl(master, TIOCSWINSZ, &size);
}

static void take_signal(int signals, int pidfd, int master)
{
        struct signalfd_siginfo info;

        if (read(signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
                return;
        if (info.ssi_signo == SIGWINCH && master >= 0)
                copy_size(master);
        else
                sys_pidfd_send_signal(pidfd, (int)info.ssi_signo);
}

/* Returns false when this direction is over. */
static bool pump_read(struct pump *p)
{
        const ssize_t n = read(p->from, p->buf, sizeof(p->buf));

        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return true;
        p->start = 0;
        p->end = n > 0 ? (size_t)n : 0;
        return n > 0;
}

static bool pump_write(struct pump *p)
{
        const ssize_t n = write(p->to, p->buf + p->start, p->end - p->start);

        if (n < 0 && errno != EINTR && errno != EAGAIN)
                return false;
        if (n > 0)
                p->start += (size_t)n;
        return true;
}

/* Serves the direction with what poll said; a full buffer is written before more is read. */
static void pump_serve(struct pump *p, const struct pollfd *from, const struct pollfd *to)
{
        bool alive = true;

        if (p->start < p->end)
                alive = !(to->revents & (POLLOUT | POLLERR)) || pump_write(p);
        else if (from->revents & (POLLIN | POLLHUP | POLLERR))
                alive = pump_read(p);
        if (!alive)
                p->from = -1;
}

static void set_poll(const struct pump *p, struct pollfd *from, struct pollfd *to)
{
        const bool full = p->start < p->end;

        *from = (struct pollfd){ .fd = full ? -1 : p->from, .events = POLLIN };
        *to = (struct pollfd){ .fd = full ? p->to : -1, .events = POLLOUT };
}

/* What the payload printed last, after it died. */
static void drain(struct pump *out)
{
        while (out->from >= 0) {
                struct pollfd p = { .fd = out->from, .events = POLLIN };

                while (out->start < out->end)
                        if (!pump_write(out))
                                return;
                if (poll(&p, 1, 0) <= 0 || !pump_read(out))
                        return;
        }
}

void wait_drain(int master)
{
        struct pump out = { .from = master, .to = 1 };

        drain(&out);
}

static void relay(int pidfd, int signals, int master, int notify)
{
        struct pump in = { .from = master >= 0 ? 0 : -1, .to = master }, out = { .from = master, .to = 1 };

        for (;;) {
                struct pollfd p[7] = { { .fd = pidfd, .events = POLLIN },
                        { .fd = signals, .events = POLLIN }, [6] = { .fd = notify, .events = POLLIN } };

                set_poll(&in, &p[2], &p[3]);
                set_poll(&out, &p[4], &p[5]);
                if (poll(p, ARRAY_SIZE(p), -1) < 0)
                        continue;
                if (p[1].revents)
                        take_signal(signals, pidfd, master);
                if (p[6].revents)
                        notify_forward(notify);
                pump_serve(&in, &p[2], &p[3]);
                pump_serve(&out, &p[4], &p[5]);
                if (p[0].revents)
                        break;
        }
        drain(&out);
        /* Said right before the end. */
        if (notify >= 0)
                notify_forward(notify);
}

int wait_foreground(pid_t pid, int pidfd, int master, int notify, int *ret_status, struct err **err)
{
        _cleanup_close_ int signals = -1;
        struct termios saved, raw;
        bool is_raw = false;
        sigset_t set;
        int status = 0;

        forwarded(&set);
        signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (signals < 0)
                return err_sys(err, errno, "waiting for signals");
        if (master >= 0 && tcgetattr(0, &saved) == 0) {
                raw = saved;
                cfmakeraw(&raw);
                raw.c_oflag |= OPOST; /* see terminal_hand_over */
                copy_size(master);
                is_raw = tcsetattr(0, TCSANOW, &raw) == 0;
        }
        relay(pidfd, signals, master, notify);
        if (is_raw)
                tcsetattr(0, TCSANOW, &saved);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return err_sys(err, errno, "waiting for the container's process");
        *ret_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        return 0;
}

/* A session and the user's descriptors: bytes both ways, the terminal's mode and size, signals, the keys that detach. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#include "keys.h"
#include "session.h"
#include "term_mode.h"

#define INPUT_SIZE 8192

struct relay {
        struct instance_session *session;
        int in, out, err, signals;
        bool tty; /* of the instance */
        bool forward_signals;
        struct detach_keys keys;
        u8 input[INPUT_SIZE + KEYS_MAX];
        size_t start, end; /* of input: not sent yet */
        bool in_over;      /* nothing more comes from in */
};

static void follow_size(struct relay *r)
{
        struct winsize size;

        if (r->tty && (ioctl(r->out, TIOCGWINSZ, &size) == 0 || ioctl(r->in, TIOCGWINSZ, &size) == 0))
                instance_session_resize(r->session, size.ws_row, size.ws_col, NULL);
}

static void take_signal(struct relay *r)
{
        struct signalfd_siginfo info;

        while (read(r->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
                if (info.ssi_signo == SIGWINCH)
                        follow_size(r);
                else if (r->forward_signals)
                        session_send(r->session, MESSAGE_SIGNAL, (int)info.ssi_signo, 0, NULL);
        }
}

/* 1: the user detached. */
static int take_input(struct relay *r)
{
        u8 typed[INPUT_SIZE];
        const ssize_t n = read(r->in, typed, sizeof(typed));

        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return 0;
        if (n <= 0) {
                r->in_over = true;
                instance_session_close_stdin(r->session, NULL);
                return 0;
        }
        r->start = r->end = 0;
        return keys_filter(&r->keys, typed, (size_t)n, r->input, &r->end);
}

static int send_input(struct relay *r, struct err **err)
{
        while (r->start < r->end) {
                const ssize_t n = instance_session_write(r->session, r->input + r->start, r->end - r->start, NULL);

                if (n == 0)
                        return 0;
                if (n < 0) { /* its end: what is said about that comes as an event */
                        r->in_over = true;
                        r->start = r->end = 0;
                        return 0;
                }
                r->start += (size_t)n;
        }
        return 0;
}

static void put(int fd, const u8 *data, size_t len)
{
        while (fd >= 0 && len) {
                const ssize_t n = write(fd, data, len);

                if (n < 0 && errno == EAGAIN) {
                        struct pollfd p = { .fd = fd, .events = POLLOUT };

                        poll(&p, 1, -1);
                        continue;
                }
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return; /* a reader that went away does not stop the instance */
                data += n;
                len -= (size_t)n;
        }
}

/* 1: over. */
static int take_events(struct relay *r, struct instance_relay_result *ret, struct err **err)
{
        for (;;) {
                struct instance_session_event event;
                int n = instance_session_next(r->session, &event, err);

                if (n == -EAGAIN)
                        return 0;
                if (n < 0)
                        return n;
                switch (event.kind) {
                case INSTANCE_EVENT_STDOUT:
                        put(r->out, event.data, event.len);
                        break;
                case INSTANCE_EVENT_STDERR:
                        put(r->err, event.data, event.len);
                        break;
                case INSTANCE_EVENT_EXIT:
                        ret->status = event.status;
                        if (event.last)
                                return 1;
                        break;
                case INSTANCE_EVENT_CLOSED:
                        return err_set(err, ERR_IO, ECONNRESET, "the supervisor of the instance was killed");
                }
        }
}

/* 0 when the instance ended, 1 when the user detached. */
static int run(struct relay *r, struct instance_relay_result *ret, struct err **err)
{
        for (;;) {
                const bool pending = r->start < r->end;
                struct pollfd p[3] = {
                        { .fd = instance_session_fd(r->session), .events = (short)(POLLIN | (pending ? POLLOUT : 0)) },
                        { .fd = r->signals, .events = POLLIN },
                        { .fd = pending || r->in_over ? -1 : r->in, .events = POLLIN },
                };
                int n;

                if (poll(p, ARRAY_SIZE(p), -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return err_sys(err, errno, "waiting");
                }
                if (p[1].revents)
                        take_signal(r);
                if (p[2].revents && take_input(r))
                        return 1;
                n = send_input(r, err);
                if (n == 0 && p[0].revents)
                        n = take_events(r, ret, err);
                if (n)
                        return n < 0 ? n : 0;
        }
}

/* What is not about this process itself. */
static void forwarded_signals(sigset_t *set, bool all)
{
        static const int own[] = { SIGCHLD, SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGSEGV, SIGBUS,
                SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGURG, SIGPIPE };

        sigemptyset(set);
        if (all)
                sigfillset(set);
        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
                sigdelset(set, own[i]);
        sigaddset(set, SIGWINCH);
}

int instance_session_relay(struct instance_session *session, int in, int out, int err_fd,
        const struct instance_relay_options *options, struct instance_relay_result *ret, struct err **err)
{
        struct relay relay = {
                .session = session, .in = in, .out = out, .err = err_fd, .signals = -1, .in_over = in < 0
        };
        _cleanup_(term_restore) struct term_mode mode = { .fd = -1 };
        const struct instance_config *c = instance_get_config(session_instance(session));
        sigset_t set, before;
        int r;

        relay.tty = c->tty;
        relay.forward_signals = options && options->forward_signals && !c->tty;
        r = keys_parse(&relay.keys, !c->tty ? "" : options ? options->detach_keys : NULL, err);
        if (r < 0)
                return r;
        forwarded_signals(&set, relay.forward_signals);
        sigprocmask(SIG_BLOCK, &set, &before);
        signal(SIGPIPE, SIG_IGN);
        relay.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (c->tty && in >= 0)
                term_raw(in, &mode);
        follow_size(&relay);
        *ret = (struct instance_relay_result){ INSTANCE_END_EXITED, 0 };
        r = run(&relay, ret, err);
        closep(&relay.signals);
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (r == 1)
                ret->end = INSTANCE_END_DETACHED;
        return r == 0 ? instance_session_finish(session, err) : MIN(r, 0);
}

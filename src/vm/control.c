/* Theory of operation.
 *
 * This thread never takes the device lock and never waits for the guest, so that the keys and signals that end a
 * machine work whatever guest, devices or the reader of our output do. What has to wait for the guest (printing
 * CPU states pauses it) is done by a thread for just that. */
#include "control.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "console.h"
#include "terminal.h"

#define PRINTER_STACK (256 * 1024)
/* Real-time signals that engines use, from SIGRTMIN on. */
#define ENGINE_SIGNALS 8

struct control {
        struct vm *vm;
        FILE *stats;
        int signal_fd;
        bool read_stdin;    /* not at its end */
        bool stdin_blocked; /* we are in the background: wait for SIGCONT */
        bool is_terminal;
        struct terminal_keys keys;
        pthread_t printer;
        bool printer_started;
        bool printer_busy; /* atomic */
};

/* ---- things that signals and keys do ---- */

static void *printer_main(void *arg)
{
        struct control *c = arg;

        vm_print_vcpus(c->vm, stderr);
        __atomic_store_n(&c->printer_busy, false, __ATOMIC_RELEASE);
        return NULL;
}

static void do_print_cpus(struct control *c)
{
        pthread_attr_t attr;

        if (__atomic_load_n(&c->printer_busy, __ATOMIC_ACQUIRE))
                return;
        if (c->printer_started)
                pthread_join(c->printer, NULL);
        c->printer_busy = true;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, PRINTER_STACK);
        c->printer_started = pthread_create(&c->printer, &attr, printer_main, c) == 0;
        pthread_attr_destroy(&attr);
        if (!c->printer_started)
                c->printer_busy = false;
}

static void do_stop(struct control *c)
{
        vm_stop(c->vm, MACHINE_POWER_OFF, 0);
}

static void do_stats(struct control *c)
{
        vm_print_stats(c->vm, c->stats ? c->stats : stderr);
}

static void do_continue(struct control *c)
{
        if (c->is_terminal)
                terminal_raw();
        c->stdin_blocked = false;
}

static void do_help(struct control *c)
{
        fputs(terminal_help, stderr);
}

static void do_break(struct control *c)
{
        vm_console_break(c->vm);
}

static const struct {
        int sig;
        void (*action)(struct control *c);
} signal_actions[] = {
        { SIGTERM, do_stop },
        { SIGINT, do_stop },
        { SIGHUP, do_stop },
        { SIGQUIT, do_print_cpus },
        { SIGUSR1, do_stats },
        { SIGCONT, do_continue },
};

static void (*const key_actions[])(struct control *c) = {
        [KEY_QUIT] = do_stop,
        [KEY_HELP] = do_help,
        [KEY_BREAK] = do_break,
        [KEY_CPUS] = do_print_cpus,
        [KEY_STATS] = do_stats,
};

/* What is this process's own: faults, children, job control, and what the engines kick their threads with. */
static void guest_signals(sigset_t *ret)
{
        static const int own[] = { SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGCHLD, SIGPIPE, SIGURG,
                SIGTSTP, SIGTTIN, SIGTTOU };

        sigfillset(ret);
        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
                sigdelset(ret, own[i]);
        for (int i = 0; i < ENGINE_SIGNALS; i++)
                sigdelset(ret, SIGRTMIN + i);
}

void control_block_signals(bool for_guest, sigset_t *ret_set)
{
        sigset_t block;

        sigemptyset(ret_set);
        for (size_t i = 0; i < ARRAY_SIZE(signal_actions); i++)
                sigaddset(ret_set, signal_actions[i].sig);
        if (for_guest)
                guest_signals(ret_set);
        block = *ret_set;
        /* A background process that sets or reads the terminal would be stopped by these. */
        sigaddset(&block, SIGTTOU);
        sigaddset(&block, SIGTTIN);
        pthread_sigmask(SIG_BLOCK, &block, NULL);
        signal(SIGPIPE, SIG_IGN);
}

/* ---- events ---- */

static void on_signal(struct control *c)
{
        struct signalfd_siginfo info;

        while (read(c->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
                if (vm_agent(c->vm)) {
                        agent_signal(vm_agent(c->vm), (int)info.ssi_signo);
                        continue;
                }
                for (size_t i = 0; i < ARRAY_SIZE(signal_actions); i++)
                        if (signal_actions[i].sig == (int)info.ssi_signo)
                                signal_actions[i].action(c);
        }
}

static void on_input(struct control *c)
{
        u8 in[256], out[sizeof(in)];
        size_t room = c->is_terminal ? sizeof(in) : MIN(console_input_room(vm_console(c->vm)), sizeof(in));
        ssize_t n = read(STDIN_FILENO, in, room);

        if (n < 0 && errno == EIO && c->is_terminal) {
                c->stdin_blocked = true;
                return;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                c->read_stdin = false; /* the end of input is not the end of the machine */
                return;
        }
        for (size_t pos = 0; pos < (size_t)n;) {
                enum terminal_key key;
                size_t n_out;

                pos += terminal_filter(&c->keys, in + pos, (size_t)n - pos, out, &n_out, &key);
                if (n_out)
                        console_input(vm_console(c->vm), out, n_out);
                if (key_actions[key])
                        key_actions[key](c);
        }
}

static int serve(struct control *c, struct err **err)
{
        enum { AT_SIGNAL, AT_DONE, AT_ROOM, AT_STDIN, N_FDS };
        struct pollfd fds[N_FDS] = {
                [AT_SIGNAL] = { .fd = c->signal_fd, .events = POLLIN },
                [AT_DONE] = { .fd = vm_done_fd(c->vm), .events = POLLIN },
                [AT_ROOM] = { .fd = console_room_fd(vm_console(c->vm)), .events = POLLIN },
                [AT_STDIN] = { .fd = STDIN_FILENO, .events = POLLIN },
        };

        for (;;) {
                /* A person's keys are always read: too much typing is lost, but Ctrl-A X works. A file's bytes wait. */
                bool want = c->read_stdin && !c->stdin_blocked &&
                            (c->is_terminal || console_input_room(vm_console(c->vm)) > 0);
                eventfd_t ignored;

                fds[AT_STDIN].fd = want ? STDIN_FILENO : -1;
                fds[AT_STDIN].revents = 0;
                if (poll(fds, N_FDS, -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return err_sys(err, errno, "waiting for the machine");
                }
                if (fds[AT_DONE].revents)
                        return 0;
                if (fds[AT_SIGNAL].revents)
                        on_signal(c);
                if (fds[AT_ROOM].revents)
                        eventfd_read(fds[AT_ROOM].fd, &ignored);
                if (fds[AT_STDIN].revents)
                        on_input(c);
        }
}

int control_run(struct vm *vm, const sigset_t *signals, bool use_stdin, FILE *stats, struct err **err)
{
        _cleanup_close_ int signal_fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
        struct control c = { .vm = vm, .stats = stats, .signal_fd = signal_fd, .read_stdin = use_stdin };
        int r;

        if (signal_fd < 0)
                return err_sys(err, errno, "preparing for signals");
        c.is_terminal = use_stdin && terminal_raw();
        r = serve(&c, err);
        if (r < 0)
                do_stop(&c);
        if (c.printer_started)
                pthread_join(c.printer, NULL);
        return r;
}

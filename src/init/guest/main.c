/* strata-init: the first process of a machine. Loads the modules that /modules names, connects to the host and does what it says
 * (protocol.h); README.md has the order of things.
 *
 *         strata-init            as /init of an initial file system: the host is at port INIT_PORT of the virtio sockets
 *         strata-init --fd N     for tests, as process 1 of namespaces: the host is at this socket
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

/* The device may be found a moment after its driver was loaded. */
#define CONNECT_TRIES 1000
#define CONNECT_PAUSE_NS 10000000L
#define NSEC 1000000000ULL

/* ---- the end ---- */

static u64 now_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (u64)ts.tv_sec * NSEC + (u64)ts.tv_nsec;
}

static _noreturn_ void switch_off(void)
{
        sync();
        reboot(RB_POWER_OFF);
        _exit(1); /* not process 1 */
}

/* What nobody at the host can be told goes to the kernel's log. */
static _noreturn_ void die(const char *why)
{
        const int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
        char line[256];
        struct text text = TEXT(line);

        text_add(&text, "strata-init: ");
        text_add(&text, why);
        text_add(&text, ": ");
        text_add(&text, strerrorname_np(errno) ? strerrorname_np(errno) : "0");
        text_add(&text, "\n");
        if (write(fd < 0 ? STDERR_FILENO : fd, line, text.len) < 0)
                _exit(1);
        switch_off();
}

/* Asks all processes to end; the loop goes on until they have. */
static void power_off(struct init *init, const struct init_message *m)
{
        if (init->rebooting)
                return;
        init->rebooting = true;
        init->power_off_id = m->id;
        init->kill_at_ns = now_ns() + m->field[0].number * 1000000;
        if (init->frozen)
                group_freeze(init, false);
        kill(-1, SIGTERM);
        kill(-1, SIGCONT);
}

/* While it ends: when to look again, in milliseconds. */
static int end_timeout(const struct init *init)
{
        const u64 now = now_ns();

        if (!init->kill_at_ns)
                return -1;
        return init->kill_at_ns > now ? (int)MIN((init->kill_at_ns - now) / 1000000 + 1, (u64)INT32_MAX) : 0;
}

static void end_if_alone(struct init *init)
{
        if (!process_reap(init)) {
                sync();
                link_send_numbers(&init->link, INIT_DONE, init->power_off_id, NULL, 0);
                /* It may switch us off as soon as it reads this. */
                link_flush(&init->link);
                switch_off();
        }
        if (init->kill_at_ns && now_ns() >= init->kill_at_ns) {
                kill(-1, SIGKILL);
                init->kill_at_ns = 0;
        }
}

/* ---- messages ---- */

/* Those that are answered by DONE or FAILED. */
static const struct {
        enum init_type type;
        request_fn *run;
        bool answers; /* by itself */
} requests[] = {
        { INIT_SYSTEM, request_system, false },
        { INIT_MOUNT, request_mount, false },
        { INIT_ROOT, request_root, false },
        { INIT_FILE, request_file, false },
        { INIT_LINK, request_link, false },
        { INIT_SYSCTL, request_sysctl, false },
        { INIT_ADDRESS, request_address, false },
        { INIT_FREEZE, request_freeze, false },
        { INIT_START, request_start, true },
};

static const struct {
        enum init_type type;
        void (*run)(struct init *init, const struct init_message *m);
} notices[] = {
        { INIT_SIGNAL, process_signal },
        { INIT_RESIZE, process_resize },
        { INIT_DATA, process_data },
        { INIT_END, process_end },
        { INIT_ROOM, process_room },
        { INIT_ASK_STATS, report_stats },
        { INIT_ASK_PROCESSES, report_processes },
        { INIT_POWER_OFF, power_off },
};

static void answer_failure(struct init *init, u32 id, const struct failure *failure)
{
        struct init_frame frame;

        link_begin(&init->link, &frame, INIT_FAILED, id);
        init_put_u32(&frame, (u32)failure->errnum);
        init_put_text(&frame, failure->what);
        init_put_u32(&frame, failure->command);
        link_end(&init->link, &frame);
}

static void handle(struct init *init, const struct init_message *m)
{
        for (size_t i = 0; i < ARRAY_SIZE(notices); i++)
                if (notices[i].type == m->type)
                        notices[i].run(init, m);
        for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
                struct failure failure = { 0 };

                if (requests[i].type != m->type)
                        continue;
                if (requests[i].run(init, m, &failure) < 0) {
                        init->half_told |= init->frozen;
                        answer_failure(init, m->id, &failure);
                } else if (!requests[i].answers) {
                        link_send_numbers(&init->link, INIT_DONE, m->id, NULL, 0);
                }
        }
}

static void loop(struct init *init)
{
        static struct pollfd fds[POLL_MAX];

        while (!init->link.broken) {
                const bool full = link_full(&init->link);
                struct signalfd_siginfo info;
                struct init_message m;
                size_t n;

                fds[0] = (struct pollfd){ .fd = init->link.fd,
                        .events = (short)((full ? 0 : POLLIN) | (init->link.n_out ? POLLOUT : 0)) };
                fds[1] = (struct pollfd){ .fd = init->signals, .events = POLLIN };
                n = process_poll(init, fds + 2);
                if (poll(fds, (nfds_t)(n + 2), init->rebooting ? end_timeout(init) : -1) < 0 && errno != EINTR)
                        die("waiting");
                if (fds[0].revents & (POLLIN | POLLHUP | POLLERR) && !full)
                        link_fill(&init->link);
                while (link_next(&init->link, &m))
                        handle(init, &m);
                process_ready(init, fds + 2, n);
                if (fds[1].revents && read(init->signals, &info, sizeof(info)) > 0)
                        process_reap(init);
                if (init->rebooting)
                        end_if_alone(init);
                link_flush(&init->link);
        }
}

/* ---- the beginning ---- */

static int connect_to_host(void)
{
        const struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = INIT_PORT };
        const struct timespec pause = { .tv_nsec = CONNECT_PAUSE_NS };

        for (unsigned i = 0; i < CONNECT_TRIES; i++) {
                const int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

                if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
                        return fd;
                if (fd >= 0)
                        close(fd);
                nanosleep(&pause, NULL);
        }
        return -1;
}

static void begin(struct init *init, bool own_machine)
{
        u32 hello[] = { INIT_VERSION, 0 };
        sigset_t all;

        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        signal(SIGPIPE, SIG_IGN);
        sigemptyset(&all);
        sigaddset(&all, SIGCHLD);
        init->signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        init->namespace = -1;
        init->proc = private_mount("proc");
        init->dev = private_mount("devtmpfs");
        if (init->signals < 0 || init->proc < 0 || init->dev < 0)
                die("preparing");
        init->group = own_machine ? group_open() : -1;
        hello[1] = init->group >= 0 ? INIT_FEATURE_FREEZE : 0;
        init->own_namespace = openat(init->proc, "self/ns/pid", O_RDONLY | O_CLOEXEC);
        link_send_numbers(&init->link, INIT_HELLO, 0, hello, ARRAY_SIZE(hello));
        link_flush(&init->link);
}

int main(int argc, char *argv[])
{
        static struct init init;
        bool own_machine = true;

        if (getpid() != 1)
                return 1; /* kill(-1) below is meant for a machine, or a namespace */
        if (argc == 3 && strcmp(argv[1], "--fd") == 0) {
                own_machine = false;
                init.link.fd = atoi(argv[2]);
                fcntl(init.link.fd, F_SETFD, FD_CLOEXEC);
        } else {
                load_modules();
                loopback_up();
                init.link.fd = connect_to_host();
        }
        if (init.link.fd < 0)
                die("connecting to the host");
        begin(&init, own_machine);
        loop(&init);
        /* The host is gone or broken: nobody will ever ask for anything again. */
        kill(-1, SIGKILL);
        switch_off();
}

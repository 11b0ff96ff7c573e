/* Theory of operation.
 *
 * The server's thread polls the listening socket, one connection, a stop event and the machine's end. While the
 * debugger looks, the server holds one pause of the machine (vm_pause); "continue" gives it back. A vCPU that hits
 * something calls on_debug on its own thread: that takes a pause at once (vm_pause_begin), so nothing runs on,
 * notes who it was and wakes the server, which waits for the other vCPUs and reports. When two vCPUs stop at the
 * same time the first is reported; the other one stops again at its breakpoint when it goes on.
 *
 * When the debugger goes away without a word its break points are removed and the machine runs on; the next one to
 * connect stops it again. */
#include "gdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "gdb_session.h"

#define GDB_STACK (256 * 1024)

struct gdb_server {
        u16 port;
        int listen_fd, conn_fd, stop_fd, quit_fd;
        struct vm *vm;
        pthread_t thread;
        bool thread_started;
        bool holds_pause; /* the machine is stopped on the debugger's behalf */
        struct gdb_session session;

        pthread_mutex_t lock; /* before vm->lock: what on_debug tells */
        bool attached;        /* somebody wants to know */
        bool stop_reported;   /* a stop is on its way to the server's thread */
        bool interrupted;
        unsigned stop_vcpu;
};

/* ---- stops ---- */

/* From any thread. The first reason wins. */
static void report_stop(struct gdb_server *server, unsigned vcpu, bool interrupted)
{
        pthread_mutex_lock(&server->lock);
        if (server->attached && !server->stop_reported) {
                server->stop_reported = true;
                server->interrupted = interrupted;
                server->stop_vcpu = vcpu;
                vm_pause_begin(server->vm);
                eventfd_write(server->stop_fd, 1);
        }
        pthread_mutex_unlock(&server->lock);
}

static void on_debug(void *opaque, struct vcpu *vcpu)
{
        report_stop(opaque, vcpu->index, false);
}

static void on_stop_event(struct gdb_server *server)
{
        eventfd_t ignored;

        eventfd_read(server->stop_fd, &ignored);
        pthread_mutex_lock(&server->lock);
        if (!server->stop_reported) {
                pthread_mutex_unlock(&server->lock);
                return;
        }
        server->stop_reported = false;
        pthread_mutex_unlock(&server->lock);
        vm_pause_finish(server->vm);
        server->holds_pause = true;
        if (server->conn_fd >= 0)
                gdb_session_stopped(&server->session, server->stop_vcpu, server->interrupted);
}

/* ---- the machine as sessions see it ---- */

static unsigned machine_n_vcpus(void *opaque)
{
        const struct gdb_server *server = opaque;

        return vm_n_vcpus(server->vm);
}

static struct vcpu *machine_vcpu(void *opaque, unsigned index)
{
        const struct gdb_server *server = opaque;

        return vm_vcpu(server->vm, index);
}

static void machine_resume(void *opaque)
{
        struct gdb_server *server = opaque;

        if (server->holds_pause) {
                server->holds_pause = false;
                vm_resume(server->vm);
        }
}

static void machine_interrupt(void *opaque)
{
        struct gdb_server *server = opaque;

        report_stop(server, server->session.stop_thread, true);
}

static void machine_hold(void *opaque, unsigned index, bool hold)
{
        struct gdb_server *server = opaque;

        vm_hold_vcpu(server->vm, index, hold);
}

static void machine_quit(void *opaque)
{
        struct gdb_server *server = opaque;

        vm_stop(server->vm, MACHINE_POWER_OFF, 0);
}

static void machine_stats(void *opaque, FILE *out)
{
        struct gdb_server *server = opaque;

        vm_print_stats(server->vm, out);
}

static const struct gdb_machine_ops machine_ops = {
        .n_vcpus = machine_n_vcpus,
        .vcpu = machine_vcpu,
        .resume = machine_resume,
        .interrupt = machine_interrupt,
        .hold = machine_hold,
        .quit = machine_quit,
        .print_stats = machine_stats,
};

/* ---- connection ---- */

static void set_attached(struct gdb_server *server, bool attached)
{
        pthread_mutex_lock(&server->lock);
        server->attached = attached;
        pthread_mutex_unlock(&server->lock);
}

static void send_bytes(void *opaque, const char *data, size_t n)
{
        struct gdb_server *server = opaque;

        while (n) {
                ssize_t r = send(server->conn_fd, data, n, MSG_NOSIGNAL);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r <= 0) {
                        server->session.closed = true;
                        return;
                }
                data += r;
                n -= (size_t)r;
        }
}

static void stop_machine(struct gdb_server *server)
{
        if (server->holds_pause)
                return;
        vm_pause(server->vm);
        server->holds_pause = true;
}

static void accept_connection(struct gdb_server *server)
{
        const struct timeval timeout = { .tv_sec = 5 }; /* a peer that takes no data is hung up on */
        const int one = 1;
        int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
                return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
        if (gdb_session_init(&server->session, &machine_ops, server, send_bytes, server, NULL) < 0) {
                close(fd);
                return;
        }
        stop_machine(server);
        server->conn_fd = fd;
        set_attached(server, true);
}

static void drop_connection(struct gdb_server *server)
{
        set_attached(server, false);
        /* A stop that was reported meanwhile holds its own pause: take it over. */
        on_stop_event(server);
        stop_machine(server);
        gdb_session_end(&server->session);
        close(TAKE_FD(server->conn_fd));
        machine_resume(server);
}

static void serve_connection(struct gdb_server *server)
{
        u8 buf[4096];
        ssize_t n = recv(server->conn_fd, buf, sizeof(buf), 0);

        if (n < 0 && errno == EINTR)
                return;
        if (n <= 0)
                server->session.closed = true;
        else
                gdb_session_input(&server->session, buf, (size_t)n);
}

static void *server_main(void *arg)
{
        enum { AT_QUIT, AT_STOP, AT_DONE, AT_LISTEN, AT_CONN, N_FDS };
        struct gdb_server *server = arg;
        struct pollfd fds[N_FDS] = {
                [AT_QUIT] = { .fd = server->quit_fd, .events = POLLIN },
                [AT_STOP] = { .fd = server->stop_fd, .events = POLLIN },
                [AT_DONE] = { .fd = vm_done_fd(server->vm), .events = POLLIN },
                [AT_LISTEN] = { .events = POLLIN },
                [AT_CONN] = { .events = POLLIN },
        };

        for (;;) {
                fds[AT_LISTEN].fd = server->conn_fd < 0 ? server->listen_fd : -1;
                fds[AT_CONN].fd = server->conn_fd;
                for (size_t i = 0; i < N_FDS; i++)
                        fds[i].revents = 0;
                if (poll(fds, N_FDS, -1) < 0 && errno != EINTR)
                        break;
                if (fds[AT_QUIT].revents)
                        break;
                if (fds[AT_DONE].revents && server->conn_fd >= 0 && server->session.running)
                        gdb_session_exited(&server->session, 0);
                if (fds[AT_DONE].revents)
                        break;
                if (fds[AT_STOP].revents)
                        on_stop_event(server);
                if (fds[AT_LISTEN].revents)
                        accept_connection(server);
                if (fds[AT_CONN].revents)
                        serve_connection(server);
                if (server->conn_fd >= 0 && server->session.closed)
                        drop_connection(server);
        }
        if (server->conn_fd >= 0)
                drop_connection(server);
        return NULL;
}

/* ---- life ---- */

int gdb_server_new(u16 port, struct gdb_server **ret, struct err **err)
{
        const struct sockaddr_in address = {
                .sin_family = AF_INET,
                .sin_port = htons(port),
                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        };
        struct gdb_server *server = calloc(1, sizeof(*server));
        const int one = 1;
        int r = 0;

        if (!server)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the debugger's port");
        pthread_mutex_init(&server->lock, NULL);
        server->port = port;
        server->conn_fd = -1;
        server->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        server->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (server->listen_fd < 0 || server->stop_fd < 0 || server->quit_fd < 0)
                r = err_sys(err, errno, "preparing for a debugger");
        if (r == 0)
                setsockopt(server->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (r == 0 && (bind(server->listen_fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
                              listen(server->listen_fd, 1) < 0)) {
                r = err_sys(err, errno, "listening for a debugger on 127.0.0.1 port %u", port);
                err_hint(err, r, "choose another port with --gdb");
        }
        if (r < 0) {
                gdb_server_free(server);
                return r;
        }
        *ret = server;
        return 0;
}

int gdb_server_start(struct gdb_server *server, struct vm *vm, struct err **err)
{
        pthread_attr_t attr;
        int r;

        server->vm = vm;
        server->holds_pause = true; /* vm_start began it */
        vm_set_debug_hook(vm, on_debug, server);
        vm_pause_finish(vm);
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, GDB_STACK);
        r = pthread_create(&server->thread, &attr, server_main, server);
        pthread_attr_destroy(&attr);
        if (r)
                return err_sys(err, r, "starting the debugger's thread");
        pthread_setname_np(server->thread, "gdb");
        server->thread_started = true;
        return 0;
}

struct gdb_server *gdb_server_free(struct gdb_server *server)
{
        if (!server)
                return NULL;
        if (server->thread_started) {
                eventfd_write(server->quit_fd, 1);
                pthread_join(server->thread, NULL);
        }
        if (server->listen_fd >= 0)
                close(server->listen_fd);
        if (server->stop_fd >= 0)
                close(server->stop_fd);
        if (server->quit_fd >= 0)
                close(server->quit_fd);
        pthread_mutex_destroy(&server->lock);
        free(server);
        return NULL;
}

/* User-mode networking by passt (https://passt.top), as a process of its own.
 *
 * We hold one end of a socket pair, passt inherits the other (--fd), so that nothing appears in the file system and passt ends
 * when our end is closed, however we die. passt goes to the background by itself once it is ready: until then the process
 * that we started is its front, and its exit status tells success (0) from failure, its stderr tells why.
 *
 * Addresses. By default passt gives the guest the host's own address and asks for a default route to copy it from. We give
 * fixed ones instead: the guest is 10.0.2.15/24, the gateway 10.0.2.2 stands for the host's loopback (passt maps it), so a
 * server on 127.0.0.1 of the host is reached at 10.0.2.2. On a host without a default route (a network namespace with
 * loopback only) passt would refuse to start; told to take `lo` for its template (-i lo), with the hardware address that lo
 * does not have (-M), it works there too; IPv4 only, and only the host itself can be reached. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "dev/net/net.h"

#define GUEST_ADDRESS "10.0.2.15"
#define GUEST_NETMASK "255.255.255.0"
#define GATEWAY_ADDRESS "10.0.2.2"
#define GATEWAY_MAC "52:55:0a:00:02:02"

#define CHILD_SOCKET 3 /* the descriptor in the child */
#define START_TIMEOUT_NS (20 * NSEC_PER_SEC)
enum { EXIT_NOT_FOUND = 127, EXIT_CANNOT_EXEC = 126 };

#define ARGS_MAX 64

/* True when the main routing table has an IPv4 default route; passt looks for the same. */
static bool host_has_default_route(void)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/net/route", "re");
        char line[256];

        while (f && fgets(line, sizeof(line), f)) {
                unsigned long destination, gateway, mask;
                unsigned flags;

                if (sscanf(line, "%*s %lx %lx %x %*s %*s %*s %lx", &destination, &gateway, &flags, &mask) == 4 &&
                    destination == 0 && mask == 0)
                        return true;
        }
        return false;
}

/* "tcp:SPEC" or "udp:SPEC" becomes "-t SPEC" or "-u SPEC". */
static int forward_add(const char *args[static ARGS_MAX], unsigned *n, const char *forward, struct err **err)
{
        if (strncmp(forward, "tcp:", 4) != 0 && strncmp(forward, "udp:", 4) != 0)
                return err_set(err, ERR_USAGE, EINVAL, "port forwarding '%s' starts with neither tcp: nor udp:", forward);
        if (*n + 3 > ARGS_MAX)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "too many port forwardings");
        args[(*n)++] = forward[0] == 't' ? "-t" : "-u";
        args[(*n)++] = forward + 4;
        return 0;
}

static int arguments(const struct net_passt_config *config, const char *args[static ARGS_MAX], struct err **err)
{
        static const char *const always[] = {
                "passt", "--fd", "3", "-a", GUEST_ADDRESS, "-n", GUEST_NETMASK, "-g", GATEWAY_ADDRESS, "-M", GATEWAY_MAC,
        };
        unsigned n = 0;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(always); i++)
                args[n++] = always[i];
        if (!host_has_default_route()) {
                args[n++] = "-4";
                args[n++] = "-i";
                args[n++] = "lo";
        }
        for (const char *const *f = config ? config->forward : NULL; f && *f; f++) {
                r = forward_add(args, &n, *f, err);
                if (r < 0)
                        return r;
        }
        args[n] = NULL;
        return 0;
}

_noreturn_ static void child(int socket, int stderr_fd, const char *const args[])
{
        /* Descriptors above standard error go, whoever left them there. */
        if (dup2(stderr_fd, STDERR_FILENO) < 0 || dup2(stderr_fd, STDOUT_FILENO) < 0)
                _exit(EXIT_CANNOT_EXEC);
        if (socket == CHILD_SOCKET ? fcntl(socket, F_SETFD, 0) < 0 : dup2(socket, CHILD_SOCKET) < 0)
                _exit(EXIT_CANNOT_EXEC);
        close_range(CHILD_SOCKET + 1, ~0U, 0);
        execvp(args[0], (char *const *)(uintptr_t)args);
        _exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXEC);
}

/* What passt says until it closes its stderr (it failed, or went to the background). False when it takes too long. */
static bool collect_output(int fd, char *text, size_t size)
{
        const u64 deadline = clock_now_ns() + START_TIMEOUT_NS;
        size_t len = 0;

        for (;;) {
                struct pollfd pfd = { .fd = fd, .events = POLLIN };
                const u64 now = clock_now_ns();
                char spill[256];
                ssize_t n;

                if (now >= deadline || poll(&pfd, 1, (int)((deadline - now) / 1000000) + 1) == 0)
                        return false;
                n = len < size - 1 ? read(fd, text + len, size - 1 - len) : read(fd, spill, sizeof(spill));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        break;
                if (len < size - 1)
                        len += (size_t)n;
        }
        text[len] = 0;
        return true;
}

/* The lines that tell why, as one: without complaints about a missing syslog and the usual drop of privileges. */
static void condense(char *text)
{
        static const char *const noise[] = { "Failed to send", "Don't run as root", "Changing to nobody" };
        char *to = text;

        for (char *line = text, *next; line && *line; line = next) {
                bool skip = false;
                size_t len;

                next = strchr(line, '\n');
                if (next)
                        *next++ = 0;
                len = strlen(line);
                for (size_t i = 0; i < ARRAY_SIZE(noise); i++)
                        skip |= strncmp(line, noise[i], strlen(noise[i])) == 0;
                if (skip || len == 0)
                        continue;
                if (to != text) {
                        *to++ = ';'; /* in place of the line break: never longer than before */
                }
                memmove(to, line, len);
                to += len;
        }
        *to = 0;
}

static int wait_ready(pid_t pid, int stderr_fd, struct err **err)
{
        char text[2048] = "";
        const bool in_time = collect_output(stderr_fd, text, sizeof(text));
        int status = 0, r;

        if (!in_time)
                kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (!in_time)
                return err_set(err, ERR_IO, ETIMEDOUT, "passt did not start in time");
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NOT_FOUND) {
                r = err_set(err, ERR_NOT_FOUND, ENOENT, "user-mode networking needs passt, which is not installed");
                return err_hint(err, r, "apt install passt");
        }
        condense(text);
        return err_set(err, ERR_IO, EIO, "passt failed to start: %s", *text ? text : "it says nothing");
}

int net_passt_open(struct device_env *env, const struct net_passt_config *config, struct net_backend **ret,
                   struct err **err)
{
        _cleanup_close_ int ours = -1, theirs = -1, stderr_read = -1, stderr_write = -1;
        const char *args[ARGS_MAX];
        int sockets[2], pipes[2], r;
        pid_t pid;

        r = arguments(config, args, err);
        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
                return err_sys(err, errno, "creating a socket pair for passt");
        ours = sockets[0];
        theirs = sockets[1];
        if (pipe2(pipes, O_CLOEXEC) < 0)
                return err_sys(err, errno, "creating a pipe for passt");
        stderr_read = pipes[0];
        stderr_write = pipes[1];

        pid = fork();
        if (pid < 0)
                return err_sys(err, errno, "starting passt");
        if (pid == 0)
                child(theirs, stderr_write, args);
        close(TAKE_FD(theirs));
        close(TAKE_FD(stderr_write));
        r = wait_ready(pid, stderr_read, err);
        if (r < 0)
                return r;
        r = net_stream_new(env, ours, ret, err);
        if (r < 0)
                return r;
        (void)TAKE_FD(ours);
        return 0;
}

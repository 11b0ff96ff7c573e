/* Processes that the supervisor starts: all of them are the strata command in one of its hidden modes. */
#include <linux/prctl.h>

#include "supervise.h"

/* In the child. */
static _noreturn_ void become(struct supervisor *s, int parent, const char *command, const int stdio[HELPER_FDS])
{
        char program[RECORD_SIZE + 16], root[RECORD_SIZE], id[80];
        char *argv[] = { program, (char *)command, root, id, NULL };
        const u64 none = 0;
        int high[HELPER_FDS];
        char *end;

        SYS_5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (SYS_0(SYS_getppid) != parent)
                sys_exit(125);
        SYS_4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none));
        /* Above what they become: none is overwritten before it was copied. */
        for (int i = 0; i < HELPER_FDS; i++)
                high[i] = sys_fcntl(stdio[i], F_DUPFD_CLOEXEC, 10);
        for (int i = 0; i < HELPER_FDS; i++)
                SYS_3(SYS_dup3, high[i], i, 0);
        if (!record_get(&s->config, "programs", program, RECORD_SIZE) ||
                !record_get(&s->config, "root", root, sizeof(root)) || !record_get(&s->config, "id", id, sizeof(id)))
                sys_exit(125);
        for (end = program; *end; end++)
                ;
        *text_put(end, "/strata") = '\0';
        SYS_3(SYS_execve, program, argv, s->envp);
        sys_exit(125);
}

int children_helper(struct supervisor *s, const char *command, const int stdio[HELPER_FDS])
{
        const int null = sys_open("/dev/null", O_RDWR, 0), self = (int)SYS_0(SYS_getpid);
        const int standard[HELPER_FDS] = { null, null, null, -1, s->phase == PHASE_CLEANING ? s->lock : -1 };
        const long pid = SYS_5(SYS_clone, SIGCHLD, 0, 0, 0, 0);

        if (pid == 0)
                become(s, self, command, stdio ? stdio : standard);
        sys_close(null);
        return (int)pid;
}

static int listen_console(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = FILE_CONSOLE };
        const int fd = (int)SYS_3(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        sys_unlink(FILE_CONSOLE);
        if (fd < 0 || SYS_3(SYS_bind, fd, &address, sizeof(address)) < 0 || SYS_2(SYS_listen, fd, 1) < 0)
                return -1;
        return fd;
}

static int make_pipe(int *ret_read, int *ret_write, int ours)
{
        int ends[2];
        const long r = SYS_2(SYS_pipe2, ends, O_CLOEXEC);

        if (r < 0)
                return (int)r;
        *ret_read = ends[0];
        *ret_write = ends[1];
        return sys_fcntl(ends[ours], F_SETFL, O_NONBLOCK);
}

void children_free_ports(struct supervisor *s)
{
        sys_close(s->ports);
        s->ports = -1;
}

/* The last start's sockets would keep the ports from this one. */
static int renew_ports(struct supervisor *s, int *ret_other)
{
        int pair[2];
        const long r = SYS_4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);

        children_free_ports(s);
        if (r < 0)
                return (int)r;
        s->ports = pair[0];
        *ret_other = pair[1];
        return 0;
}

int children_start(struct supervisor *s)
{
        int stdio[HELPER_FDS] = { -1, -1, -1, -1, s->lock }, r = renew_ports(s, &stdio[HELPER_PORTS]);

        if (s->policy.tty)
                s->console = listen_console();
        if (r >= 0 && !s->policy.tty)
                r = make_pipe(&s->output[STREAM_OUT], &stdio[1], 0);
        if (r >= 0 && !s->policy.tty)
                r = make_pipe(&s->output[STREAM_ERR], &stdio[2], 0);
        if (r >= 0 && !s->policy.tty && s->policy.open_stdin)
                r = make_pipe(&stdio[0], &s->input, 1);
        for (int i = 0; i < 3; i++)
                if (stdio[i] < 0)
                        stdio[i] = sys_open("/dev/null", O_RDWR, 0);
        sys_unlink(FILE_PID);
        if (r >= 0)
                r = children_helper(s, HELPER_START, stdio);
        for (int i = 0; i <= HELPER_PORTS; i++)
                sys_close(stdio[i]);
        if (r < 0)
                return r;
        s->helper = r;
        return 0;
}

bool children_read_pid(int *ret)
{
        char text[24];
        const int fd = sys_open(FILE_PID, O_RDONLY, 0);
        const ssize_t n = fd < 0 ? fd : sys_read(fd, text, sizeof(text) - 1);
        int pid = 0;

        sys_close(fd);
        for (ssize_t i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
                pid = pid * 10 + (text[i] - '0');
        *ret = pid;
        return pid > 1;
}

/* The file's path is in FILE_OOM; it has a line "oom_kill N" (both versions of control groups). */
bool children_oom(void)
{
        static const char key[] = "oom_kill ";
        char path[1024], text[1024];
        int fd = sys_open(FILE_OOM, O_RDONLY, 0);
        ssize_t n = fd < 0 ? fd : sys_read(fd, path, sizeof(path) - 1);

        sys_close(fd);
        if (n <= 0)
                return false;
        path[n] = '\0';
        fd = sys_open(path, O_RDONLY, 0);
        n = fd < 0 ? fd : sys_read(fd, text, sizeof(text) - 1);
        sys_close(fd);
        for (ssize_t i = 0; i + (ssize_t)sizeof(key) - 1 < n; i++) {
                size_t k = 0;

                while (key[k] && text[i + (ssize_t)k] == key[k])
                        k++;
                if (!key[k] && (i == 0 || text[i - 1] == '\n'))
                        return text[i + (ssize_t)k] != '0';
        }
        return false;
}

/* --init: the same program as process 1 of a container. It runs the command, passes signals on to it, and reaps what the command
 * leaves behind: `strata-supervise init COMMAND...`. */
#include "supervise.h"

#include <linux/wait.h>

#define TIOCSPGRP_ 0x5410

static const char *find_variable(char *const *envp, const char *name)
{
        for (; *envp; envp++) {
                size_t n = 0;

                while (name[n] && (*envp)[n] == name[n])
                        n++;
                if (!name[n] && (*envp)[n] == '=')
                        return *envp + n + 1;
        }
        return NULL;
}

static bool has_slash(const char *text)
{
        while (*text && *text != '/')
                text++;
        return *text;
}

/* As execvp(3). Returns what went wrong. */
static int execute(char **argv, char *const *envp)
{
        const char *path = find_variable(envp, "PATH");
        int result = -ENOENT;

        if (has_slash(argv[0]))
                return (int)SYS_3(SYS_execve, argv[0], argv, envp);
        for (path = path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"; *path;
                path += *path == ':') {
                char file[4096];
                size_t n = 0, k = 0;
                int r;

                for (; *path && *path != ':'; path++)
                        if (n < sizeof(file) / 2)
                                file[n++] = *path;
                file[n++] = '/';
                while (argv[0][k] && n + 1 < sizeof(file))
                        file[n++] = argv[0][k++];
                file[n] = '\0';
                r = (int)SYS_3(SYS_execve, file, argv, envp);
                if (r != -ENOENT && r != -ENOTDIR)
                        result = r;
        }
        return result;
}

static _noreturn_ void become_command(char **argv, char *const *envp)
{
        const u64 none = 0;
        int self, r;

        SYS_2(SYS_setpgid, 0, 0);
        self = (int)SYS_0(SYS_getpid);
        SYS_3(SYS_ioctl, 0, TIOCSPGRP_, &self); /* where there is a terminal; SIGTTOU is blocked */
        SYS_4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none));
        r = execute(argv, envp);
        sys_exit(r == -ENOENT || r == -ENOTDIR ? 127 : 126);
}

/* Returns true when the command ended: *ret_status. */
static bool reap_all(int command, int *ret_status)
{
        for (;;) {
                siginfo_t info = { 0 };

                if (SYS_5(SYS_waitid, P_ALL, 0, &info, WEXITED | WNOHANG, 0) < 0 || info.si_pid == 0)
                        return false;
                if (info.si_pid == command) {
                        *ret_status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
                        return true;
                }
        }
}

int init_main(char **argv, char *const *envp)
{
        const u64 all = ~0ULL;
        int status = 0, command;

        SYS_4(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof(all));
        command = (int)SYS_5(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (command == 0)
                become_command(argv, envp);
        if (command < 0)
                return 126;
        for (;;) {
                const long signal = SYS_4(SYS_rt_sigtimedwait, &all, NULL, NULL, sizeof(all));

                if (signal == SIGCHLD && reap_all(command, &status))
                        return status;
                if (signal > 0 && signal != SIGCHLD)
                        sys_kill(command, (int)signal);
        }
}

/* System calls that the C library has no wrapper for, and the few that every file here wants with our conventions:
 * -errno on failure. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/types.h"

/* The kernel's struct clone_args; <linux/sched.h> does not go together with <sched.h>. */
struct sys_clone_args {
        u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

#define SYS_CLONE_INTO_CGROUP 0x200000000ULL
#define SYS_CLONE_NEWTIME     0x80

/* In <linux/time_namespace.h> of no library: the same value as CLONE_NEWTIME of <sched.h> where that has it. */
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME SYS_CLONE_NEWTIME
#endif

static inline int sys_openat2(int dirfd, const char *path, u64 flags, u64 mode, u64 resolve)
{
        const struct open_how how = { .flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve };
        long r;
        int tries = 0;

        /* EAGAIN: a rename or mount elsewhere raced with "..": openat2(2) says try again. */
        do
                r = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
        while (r < 0 && errno == EAGAIN && ++tries < 128);
        return r < 0 ? -errno : (int)r;
}

static inline pid_t sys_clone3(const struct sys_clone_args *args)
{
        const long r = syscall(SYS_clone3, args, sizeof(*args));

        return r < 0 ? -errno : (pid_t)r;
}

/* A text of the C library as Go has it, beginning small: for the few messages that tools look for. */
static inline const char *sys_small(const char *text, char *buf, size_t size)
{
        snprintf(buf, size, "%s", text);
        buf[0] = (char)(buf[0] >= 'A' && buf[0] <= 'Z' ? buf[0] + 32 : buf[0]);
        return buf;
}

static inline const char *sys_error_text(int errnum, char *buf, size_t size)
{
        return sys_small(strerror(errnum), buf, size);
}

static inline int sys_pidfd_open(pid_t pid)
{
        const long r = syscall(SYS_pidfd_open, pid, 0);

        return r < 0 ? -errno : (int)r;
}

static inline int sys_pidfd_send_signal(int pidfd, int sig)
{
        return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

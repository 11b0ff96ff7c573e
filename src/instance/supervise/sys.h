/* The supervisor's system calls: it links no C library, which is what keeps an idle container's share of memory at a few dozen
 * KiB (docs/adr/0060). Everything returns -errno. Constants and structures are the C library's and the kernel's. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

#include "base/types.h"

static inline long sys_call(long nr, long a, long b, long c, long d, long e, long f)
{
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;
        register long r9 __asm__("r9") = f;
        long r;

        __asm__ volatile("syscall"
                         : "=a"(r)
                         : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "r11", "memory");
        return r;
}
#define SYS_0(nr)                sys_call(nr, 0, 0, 0, 0, 0, 0)
#define SYS_1(nr, a)             sys_call(nr, (long)(a), 0, 0, 0, 0, 0)
#define SYS_2(nr, a, b)          sys_call(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS_3(nr, a, b, c)       sys_call(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS_4(nr, a, b, c, d)    sys_call(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS_5(nr, a, b, c, d, e) sys_call(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static inline ssize_t sys_read(int fd, void *buf, size_t n)
{
        return SYS_3(SYS_read, fd, buf, n);
}

static inline ssize_t sys_write(int fd, const void *buf, size_t n)
{
        return SYS_3(SYS_write, fd, buf, n);
}

/* Close-on-exec, always. */
static inline int sys_open(const char *path, int flags, int mode)
{
        return (int)SYS_4(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}

static inline int sys_close(int fd)
{
        return (int)SYS_1(SYS_close, fd);
}

static inline int sys_rename(const char *from, const char *to)
{
        return (int)SYS_4(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

static inline int sys_unlink(const char *path)
{
        return (int)SYS_3(SYS_unlinkat, AT_FDCWD, path, 0);
}

static inline int sys_fcntl(int fd, int command, long arg)
{
        return (int)SYS_3(SYS_fcntl, fd, command, arg);
}

static inline int sys_kill(int pid, int signal)
{
        return (int)SYS_2(SYS_kill, pid, signal);
}

static inline s64 sys_clock(int clock)
{
        struct timespec ts = { 0 };

        SYS_2(SYS_clock_gettime, clock, &ts);
        return (s64)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline _noreturn_ void sys_exit(int status)
{
        for (;;)
                SYS_1(SYS_exit_group, status);
}

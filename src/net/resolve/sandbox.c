#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/types.h"

enum { NOBODY = 65534 };

#define LOAD(field)  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define ALLOW(name)  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), RETURN(SECCOMP_RET_ALLOW)
/* Allowed when none of @bits is in the low half of argument @n. */
#define ALLOW_WITHOUT(name, n, bits)                                                           \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 4), LOAD(args[n]),                  \
                BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (bits), 1, 0), RETURN(SECCOMP_RET_ALLOW), \
                RETURN(SECCOMP_RET_ERRNO | EPERM)

static const struct sock_filter filter[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        RETURN(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr),
        ALLOW(poll),
        ALLOW(recvfrom),
        ALLOW(sendto),
        ALLOW(read),
        ALLOW(write),
        ALLOW(close),
        ALLOW(accept4),
        ALLOW(connect),
        ALLOW(getsockopt),
        ALLOW(readlinkat),
        ALLOW(getdents64),
        ALLOW(faccessat),
        ALLOW(faccessat2),
        ALLOW(fstat),
        ALLOW(newfstatat),
        ALLOW(clock_gettime),
        ALLOW(getrandom),
        ALLOW(exit_group),
        ALLOW(rt_sigreturn),
        ALLOW(restart_syscall), /* a poll that was interrupted by a stop */
        ALLOW_WITHOUT(openat, 2, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC),
        LOAD(nr),
        /* sockets of the internet families alone: AF_INET is 2, AF_INET6 10 */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 4),
        LOAD(args[0]),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 0, 1),
        RETURN(SECCOMP_RET_ALLOW),
        RETURN(SECCOMP_RET_ERRNO | EPERM),
};

int sandbox_enter(void)
{
        const struct sock_fprog program = { .len = ARRAY_SIZE(filter), .filter = (struct sock_filter *)filter };

        /* In a user namespace without such an id we stay who we are: that is nobody special outside. */
        if (setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) < 0)
                return -errno;
        if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                return -errno;
        return 0;
}

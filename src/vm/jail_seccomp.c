/* System calls (seccomp(2)): what the kernel does for this process, and so most of the kernel's faults that could be used from it, is what
 * jail_syscalls.def lists and no more. In particular there is
 *
 *   execve, clone of processes          no program is started
 *   socket, connect, bind               no connection is made; taps, passt and accepted connections are there already
 *   kill, ptrace, process_vm_*, pidfd_* nobody else is touched; tgkill reaches our own threads
 *   mount*, open_tree, pivot_root, setns, unshare of namespaces, chroot
 *   executable memory                   new code can only go where the engines' code goes
 *   ioctl by number                     no device or terminal is made to do something that a machine never asks of it
 *   io_uring_setup, io_uring_register   whose operations would go around this filter
 *   bpf, keyctl, userfaultfd, perf_event_open, quotactl, module calls: what is known for its faults
 *   the 32-bit and x32 tables           calls by other numbers
 *
 * none of. A call that is not listed ends the process: no code of ours makes it, so somebody else's does. */
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail_internal.h"

/* What glibc's pthread_create passes to clone (sysdeps/unix/sysv/linux/createthread.c says why each). */
#define THREAD_FLAGS                                                                                                     \
        (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | \
         CLONE_CHILD_CLEARTID)
/* Open flags that make or change something. O_TMPFILE has the bit of O_DIRECTORY, which reading may have. */
#define FILE_CHANGES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))

enum test { TEST_ANY, TEST_IS, TEST_WITHOUT, TEST_SELF, TEST_MISSING };

struct rule {
        u16 nr, needs;
        u8 test, argument;
        u32 value;
};

#define ANY TEST_ANY, 0, 0
#define IS(argument, value) TEST_IS, argument, (u32)(value)
#define WITHOUT(argument, bits) TEST_WITHOUT, argument, (u32)(bits)
#define SELF(argument) TEST_SELF, argument, 0
#define MISSING TEST_MISSING, 0, 0 /* as in a kernel that does not have it */

static const struct rule rules[] = {
#define CALL(name, needs, ...) { SYS_##name, JAIL_##needs, __VA_ARGS__ },
#include "jail_syscalls.def"
#undef CALL
};

struct program {
        struct sock_filter *code;
        size_t len;
};

static void emit(struct program *p, struct sock_filter insn)
{
        if (p->len < JAIL_FILTER_MAX)
                p->code[p->len] = insn;
        p->len++;
}

static void emit_load(struct program *p, size_t offset)
{
        emit(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (u32)offset));
}

static void emit_return(struct program *p, u32 action)
{
        emit(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* @op with @value, then @if_true or @if_false instructions are skipped. */
static void emit_jump(struct program *p, u16 op, u32 value, u8 if_true, u8 if_false)
{
        emit(p, (struct sock_filter)BPF_JUMP((u16)(BPF_JMP | BPF_K | op), value, if_true, if_false));
}

/* The low half: the arguments that are looked at are 32 bits wide, or what else they say is refused by the kernel (flags of clone). */
static size_t argument_offset(unsigned argument)
{
        return offsetof(struct seccomp_data, args) + argument * sizeof(u64);
}

static void emit_rule(struct program *p, const struct rule *rule, pid_t self)
{
        switch ((enum test)rule->test) {
        case TEST_IS:
        case TEST_SELF:
                emit_load(p, argument_offset(rule->argument));
                emit_jump(p, BPF_JEQ, rule->test == TEST_SELF ? (u32)self : rule->value, 0, 1);
                break;
        case TEST_WITHOUT:
                emit_load(p, argument_offset(rule->argument));
                emit_jump(p, BPF_JSET, rule->value, 1, 0);
                break;
        case TEST_MISSING:
                emit_return(p, SECCOMP_RET_ERRNO | ENOSYS);
                return;
        case TEST_ANY:
                break;
        }
        emit_return(p, SECCOMP_RET_ALLOW);
}

static bool is_first_of_call(const struct rule *rule, unsigned needs)
{
        for (const struct rule *r = rules; r < rule; r++)
                if (r->nr == rule->nr && r->needs & needs)
                        return false;
        return rule->needs & needs;
}

/* One call: its rules, one of which may say yes. */
static int emit_call(struct program *p, const struct rule *first, unsigned needs, pid_t self)
{
        const size_t jump = p->len;
        bool decided = false;

        emit_jump(p, BPF_JEQ, first->nr, 0, 0);
        for (const struct rule *r = first; r < rules + ARRAY_SIZE(rules) && !decided; r++) {
                if (r->nr != first->nr || !(r->needs & needs))
                        continue;
                emit_rule(p, r, self);
                decided = r->test == TEST_ANY || r->test == TEST_MISSING;
        }
        if (!decided)
                emit_return(p, SECCOMP_RET_ERRNO | EPERM);
        if (p->len > JAIL_FILTER_MAX || p->len - jump - 1 > 255)
                return -E2BIG;
        p->code[jump].jf = (u8)(p->len - jump - 1);
        return 0;
}

int jail_filter_build(unsigned needs, pid_t self, struct sock_filter ret[static JAIL_FILTER_MAX])
{
        struct program p = { .code = ret };
        int r = 0;

        emit_load(&p, offsetof(struct seccomp_data, arch));
        emit_jump(&p, BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0);
        emit_return(&p, SECCOMP_RET_KILL_PROCESS);
        emit_load(&p, offsetof(struct seccomp_data, nr)); /* x32 numbers are none of ours, having another bit set */
        for (size_t i = 0; i < ARRAY_SIZE(rules) && r == 0; i++)
                if (is_first_of_call(&rules[i], needs))
                        r = emit_call(&p, &rules[i], needs, self);
        emit_return(&p, SECCOMP_RET_KILL_PROCESS);
        if (r < 0 || p.len > JAIL_FILTER_MAX)
                return -E2BIG;
        return (int)p.len;
}

int jail_filter_install(unsigned needs)
{
        struct sock_filter code[JAIL_FILTER_MAX];
        struct sock_fprog program = { .filter = code };
        const int len = jail_filter_build(needs, getpid(), code);

        if (len < 0)
                return len;
        program.len = (u16)len;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                return -errno;
        return 0;
}

int jail_seccomp(struct jail *jail, struct err **err)
{
        const int r = JAIL_SANITIZERS ? -ENOTSUP : jail_filter_install(jail->needs);

        return r < 0 ? err_sys(err, -r, "putting the filter of system calls in force") : 0;
}

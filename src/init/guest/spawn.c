/* A new process, from the system call that makes it to the one that executes its command.
 *
 * Theory of operation. The child runs in our memory while we stand still (CLONE_VM, CLONE_VFORK), so nothing is copied and what it has to
 * say about a failure it writes where we read it. It uses a stack of its own and only functions that keep no state in that memory;
 * identities are changed by the plain system calls, since those of the C library would speak to threads. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

#define STACK_SIZE (64U * 1024)
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define FAILED_STATUS 125

struct child {
        struct spawn *spawn;
        char **argv, **env;
};

static u64 number(const struct child *c, enum init_start_field field)
{
        return c->spawn->start->field[field].number;
}

static int set_oom_score_adj(const struct child *c)
{
        const int adj = (int)(u32)number(c, START_OOM_ADJ);
        char digits[24];
        struct text text = TEXT(digits);
        int fd;

        if (!adj)
                return 0;
        fd = openat(c->spawn->proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (adj < 0)
                text_add(&text, "-");
        text_add_number(&text, (u64)llabs(adj));
        if (fd < 0 || write(fd, digits, text.len) < 0)
                return fail(c->spawn->failure, errno, "setting oom_score_adj", NULL);
        close(fd);
        return 0;
}

static int set_limits(const struct child *c)
{
        const struct init_value *list = &c->spawn->start->field[START_LIMITS];

        for (u64 i = 0; i + 2 < list->number; i += 3) {
                const struct rlimit limit = { .rlim_cur = init_number(list, i + 1), .rlim_max = init_number(list, i + 2) };

                if (setrlimit((__rlimit_resource_t)init_number(list, i), &limit) < 0)
                        return fail(c->spawn->failure, errno, "setting a limit", NULL);
        }
        return 0;
}

/* The namespace's own view in place of ours. */
static int mount_proc(const struct child *c)
{
        if (!(number(c, START_FLAGS) & INIT_START_PID_NS))
                return 0;
        umount2("/proc", MNT_DETACH);
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 && errno != ENOENT)
                return fail(c->spawn->failure, errno, "mounting /proc", NULL);
        return 0;
}

/* Groups likewise: those of others of the machine cannot be seen from below the main process's. */
static int show_groups(const struct child *c)
{
        const struct spawn *s = c->spawn;
        const u64 flags = number(c, START_FLAGS);

        if (s->group >= 0 && flags & INIT_START_PID_NS)
                group_show_as_root();
        if (s->group >= 0 && flags & INIT_START_INSIDE && s->namespace >= 0 && setns(s->namespace, CLONE_NEWCGROUP) < 0)
                return fail(s->failure, errno, "entering the main process's namespace", NULL);
        return 0;
}

static int take_streams(const struct child *c)
{
        const struct spawn *s = c->spawn;

        setsid();
        if (number(c, START_FLAGS) & INIT_START_TTY && ioctl(s->streams[0], TIOCSCTTY, 0) < 0)
                return fail(s->failure, errno, "taking the terminal", NULL);
        for (int i = 0; i < (int)INIT_STREAMS; i++)
                if (dup2(s->streams[i], i) < 0) /* ours are all above */
                        return fail(s->failure, errno, "preparing the streams", NULL);
        return 0;
}

static int drop_capabilities(const struct child *c)
{
        const u64 keep = number(c, START_CAPABILITIES);

        for (unsigned cap = 0; cap <= CAP_LAST_CAP; cap++)
                if (!(keep & BIT(cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
                        return fail(c->spawn->failure, errno, "dropping capabilities", NULL);
        return 0;
}

static int become_user(const struct child *c)
{
        const struct init_value *list = &c->spawn->start->field[START_GROUPS];
        gid_t groups[INIT_GROUPS_MAX];
        size_t n = 0;

        for (u64 i = 0; i < MIN(list->number, (u64)INIT_GROUPS_MAX); i++)
                groups[n++] = (gid_t)init_number(list, i);
        if (syscall(SYS_setgroups, n, groups) < 0 ||
            syscall(SYS_setresgid, number(c, START_GID), number(c, START_GID), number(c, START_GID)) < 0 ||
            syscall(SYS_setresuid, number(c, START_UID), number(c, START_UID), number(c, START_UID)) < 0)
                return fail(c->spawn->failure, errno, "becoming the user", NULL);
        if (number(c, START_FLAGS) & INIT_START_NO_NEW_PRIVS && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return fail(c->spawn->failure, errno, "giving up new privileges", NULL);
        return 0;
}

static int enter_directory(const struct child *c)
{
        const char *cwd = c->spawn->start->field[START_CWD].text;

        if (chdir(cwd) < 0)
                return fail(c->spawn->failure, errno, "changing to the directory '", cwd, "'", NULL);
        return 0;
}

static void default_signals(void)
{
        const struct sigaction action = { .sa_handler = SIG_DFL };
        sigset_t none;

        sigaction(SIGPIPE, &action, NULL); /* the only one that we ignore */
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The command where PATH says; returns -errno of the best reason why not. */
static int execute_by_path(const struct child *c, const char *path)
{
        const char *name = c->argv[0];
        char file[PATH_MAX];
        int r = -ENOENT;

        for (const char *end; *path; path = *end ? end + 1 : end) {
                struct text text = TEXT(file);

                end = strchrnul(path, ':');
                text_add_n(&text, path, (size_t)(end - path));
                text_add(&text, end == path ? "./" : "/");
                text_add(&text, name);
                if (text.len == sizeof(file) - 1)
                        continue;
                execve(file, c->argv, c->env);
                if (errno != ENOENT && errno != ENOTDIR)
                        r = -errno;
                if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
                        break;
        }
        return r;
}

static int execute(const struct child *c)
{
        const char *path = PATH_DEFAULT;
        int r;

        for (char **e = c->env; *e; e++)
                if (strncmp(*e, "PATH=", 5) == 0)
                        path = *e + 5;
        if (strchr(c->argv[0], '/')) {
                execve(c->argv[0], c->argv, c->env);
                r = -errno;
        } else {
                r = execute_by_path(c, path);
        }
        c->spawn->failure->command = true;
        return fail(c->spawn->failure, -r, "executing '", c->argv[0], "'", NULL);
}

static int child_main(void *opaque)
{
        static int (*const steps[])(const struct child *c) = {
                set_oom_score_adj, set_limits, mount_proc, show_groups, take_streams, drop_capabilities, become_user, enter_directory,
        };
        const struct child *c = opaque;

        for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
                if (steps[i](c) < 0)
                        _exit(FAILED_STATUS);
        umask((mode_t)number(c, START_UMASK) & 0777);
        default_signals();
        execute(c);
        _exit(FAILED_STATUS);
}

/* The texts of a list as exec wants them; free it. */
static char **list_of(const struct init_value *value)
{
        char **list = calloc(value->number + 1, sizeof(*list));
        const char *text = value->text;

        for (u64 i = 0; list && i < value->number; i++, text = init_next_text(text))
                list[i] = (char *)text;
        return list;
}

/* As clone(2) with CLONE_VM and CLONE_VFORK, into a control group at once: a process that moves there later waits for the kernel's
 * grace periods. */
static pid_t clone_into(int group, u64 flags, u8 *stack, struct child *c)
{
        struct clone_args args = {
                .flags = flags | CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .stack = (u64)stack, .stack_size = STACK_SIZE, .cgroup = (u64)group
        };
        register int (*fn)(void *opaque) __asm__("r12") = child_main;
        register struct child *opaque __asm__("r13") = c;
        long r = SYS_clone3;

        __asm__ volatile("syscall\n\t"
                         "test %%eax, %%eax\n\t"
                         "jnz 1f\n\t"
                         "xor %%ebp, %%ebp\n\t" /* on the new stack */
                         "mov %%r13, %%rdi\n\t"
                         "call *%%r12\n\t"
                         "hlt\n"
                         "1:"
                         : "+a"(r)
                         : "D"(&args), "S"(sizeof(args)), "r"(fn), "r"(opaque)
                         : "rcx", "r11", "memory");
        errno = r < 0 ? (int)-r : 0;
        return r < 0 ? -1 : (pid_t)r;
}

/* From the main process's namespace, where that is asked for. */
static pid_t clone_there(struct init *init, struct child *c, u8 *stack)
{
        const u64 flags = number(c, START_FLAGS);
        const bool inside = flags & INIT_START_INSIDE && init->namespace >= 0;
        const int make = CLONE_VM | CLONE_VFORK | (flags & INIT_START_PID_NS ? CLONE_NEWPID : 0);
        pid_t pid;

        if (inside && setns(init->namespace, CLONE_NEWPID) < 0)
                return fail(c->spawn->failure, errno, "entering the main process's namespace", NULL);
        if (init->group >= 0)
                pid = clone_into(init->group, (u64)make, stack, c);
        else
                pid = clone(child_main, stack + STACK_SIZE, make | SIGCHLD, c);
        if (pid < 0)
                pid = fail(c->spawn->failure, errno, "starting a process", NULL);
        if (inside)
                setns(init->own_namespace, CLONE_NEWPID);
        return pid;
}

pid_t spawn_process(struct init *init, struct spawn *spawn)
{
        static u8 stack[STACK_SIZE] __attribute__((aligned(16)));
        struct child c = {
                .spawn = spawn,
                .argv = list_of(&spawn->start->field[START_ARGV]),
                .env = list_of(&spawn->start->field[START_ENV]),
        };
        pid_t pid;

        if (!c.argv || !c.env)
                pid = fail(spawn->failure, ENOMEM, "starting a process", NULL);
        else if (!c.argv[0])
                pid = fail(spawn->failure, EINVAL, "starting a process without a name", NULL);
        else
                pid = clone_there(init, &c, stack);
        free(c.argv);
        free(c.env);
        return pid;
}

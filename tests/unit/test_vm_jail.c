/* The jail: what is shut in cannot get out, by each of its walls alone; and what is to work inside works. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "vm/jail_internal.h"

#define CALLS 480U /* more than there are */
#define X32 0x40000000U
#define URETPROBE 335 /* newer than Debian 12's headers */
#define UPROBE 336
#define ALL_NEEDS (JAIL_PORTER - 1) /* every group that a machine can have */

/* ---- children ---- */

/* What a child found: 0 or -errno of what it tried, or the signal that ended it. */
struct verdict {
        int result, signal;
};

typedef int child_fn(void *opaque);

static struct verdict in_child(child_fn *fn, void *opaque)
{
        struct verdict verdict = { 0 };
        int fds[2], status;
        pid_t pid;

        assert_int_equal(pipe(fds), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                const int r = fn(opaque);

                _exit(write(fds[1], &r, sizeof(r)) == (ssize_t)sizeof(r) ? 0 : 1);
        }
        close(fds[1]);
        if (read(fds[0], &verdict.result, sizeof(verdict.result)) != (ssize_t)sizeof(verdict.result))
                verdict.result = -ECHILD;
        close(fds[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        verdict.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        return verdict;
}

static int result_of(long r)
{
        return r < 0 ? -errno : 0;
}

/* ---- system calls ---- */

static const struct listed {
        unsigned nr, needs;
} listed[] = {
#define CALL(name, needs, ...) { SYS_##name, JAIL_##needs },
#include "vm/jail_syscalls.def"
#undef CALL
};

static bool is_listed(unsigned nr, unsigned needs)
{
        for (size_t i = 0; i < ARRAY_SIZE(listed); i++)
                if (listed[i].nr == nr && listed[i].needs & needs)
                        return true;
        return false;
}

struct call {
        unsigned needs;
        long nr;
        unsigned long args[6];
};

static int make_call(void *opaque)
{
        const struct call *c = opaque;
        const struct rlimit no_core = { 0 };

        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGILL, SIG_DFL); /* not cmocka's */
        if (jail_filter_install(c->needs) < 0)
                return -ENOTRECOVERABLE;
        return result_of(syscall(c->nr, c->args[0], c->args[1], c->args[2], c->args[3], c->args[4], c->args[5]));
}

static void needs_filter(void)
{
        if (!JAIL_SANITIZERS)
                return;
        print_message("# sanitizers need system calls that the filter refuses\n");
        skip();
}

static void assert_ends(unsigned needs, long nr)
{
        struct call call = { .needs = needs, .nr = nr };
        const struct verdict v = in_child(make_call, &call);

        /* The ways back from a probe the kernel lets pass (secure_computing): they fail for who is not in one. */
        if (nr >= URETPROBE && nr <= UPROBE && (v.signal == SIGILL || v.result < 0))
                return;
        if (v.signal != SIGSYS)
                fail_msg("system call %ld with needs %u: result %d, signal %d", nr, needs, v.result, v.signal);
}

static void every_call_that_is_not_listed_ends_the_process(void **state)
{
        unsigned n = 0;

        needs_filter();
        for (unsigned nr = 0; nr < CALLS; nr++)
                if (!is_listed(nr, ALL_NEEDS)) {
                        assert_ends(ALL_NEEDS, nr);
                        n++;
                }
        assert_true(n > 250);
}

static void every_x32_call_ends_the_process(void **state)
{
        needs_filter();
        for (unsigned nr = 0; nr < 560; nr++)
                assert_ends(ALL_NEEDS, (long)(X32 | nr));
}

static void a_group_that_is_not_needed_is_not_there(void **state)
{
        unsigned n = 0;

        needs_filter();
        for (unsigned nr = 0; nr < CALLS; nr++)
                if (is_listed(nr, ALL_NEEDS | JAIL_PORTER) && !is_listed(nr, JAIL_ALWAYS)) {
                        assert_ends(JAIL_ALWAYS, nr);
                        n++;
                }
        assert_true(n > 30);
}

static void nothing_that_is_known_for_its_power_is_listed(void **state)
{
        static const unsigned powerful[] = { SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_socket, SYS_connect, SYS_bind, SYS_listen,
                SYS_socketpair, SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_ptrace, SYS_process_vm_readv,
                SYS_process_vm_writev, SYS_pidfd_open, SYS_pidfd_getfd, SYS_pidfd_send_signal, SYS_mount, SYS_umount2, SYS_open_tree,
                SYS_move_mount, SYS_fsopen, SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_pivot_root, SYS_chroot, SYS_setns,
                SYS_io_uring_setup, SYS_io_uring_register, SYS_bpf, SYS_keyctl, SYS_add_key, SYS_userfaultfd, SYS_perf_event_open,
                SYS_init_module, SYS_finit_module, SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_setuid, SYS_setresuid, SYS_capset,
                SYS_seccomp, SYS_shmat, SYS_shmget, SYS_pkey_mprotect, SYS_memfd_secret, SYS_kexec_load, SYS_quotactl, SYS_acct,
                SYS_process_madvise, SYS_modify_ldt, SYS_iopl, SYS_ioperm, SYS_personality, SYS_vmsplice, SYS_splice, SYS_add_key };

        for (size_t i = 0; i < ARRAY_SIZE(powerful); i++)
                if (is_listed(powerful[i], ALL_NEEDS))
                        fail_msg("system call %u is allowed in the jail", powerful[i]);
}

#define REFUSED(call_needs, name, ...) { .needs = (call_needs), .nr = SYS_##name, .args = { __VA_ARGS__ } }

static void arguments_that_are_not_listed_are_refused(void **state)
{
        const unsigned long self = (unsigned long)getpid(); /* of the child's, somebody else */
        struct call calls[] = {
                REFUSED(ALL_NEEDS, mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, ~0UL, 0),
                REFUSED(ALL_NEEDS, mprotect, 0, 4096, PROT_EXEC),
                REFUSED(ALL_NEEDS, clone, SIGCHLD),
                REFUSED(ALL_NEEDS, clone, CLONE_VM | CLONE_VFORK | SIGCHLD),
                REFUSED(ALL_NEEDS, clone, CLONE_NEWUSER | SIGCHLD),
                REFUSED(ALL_NEEDS, unshare, CLONE_NEWUSER),
                REFUSED(ALL_NEEDS, unshare, CLONE_FS | CLONE_NEWNS),
                REFUSED(ALL_NEEDS, tgkill, 1, 1, SIGKILL),
                REFUSED(ALL_NEEDS, tgkill, self, self, 0),
                REFUSED(ALL_NEEDS, prctl, PR_SET_DUMPABLE, 1),
                REFUSED(ALL_NEEDS, prctl, PR_SET_MM, PR_SET_MM_BRK),
                REFUSED(ALL_NEEDS, prctl, PR_SET_PTRACER, 1),
                REFUSED(ALL_NEEDS, arch_prctl, ARCH_SET_FS, 0),
                REFUSED(ALL_NEEDS, ioctl, 0, TIOCSTI, 0),
                REFUSED(ALL_NEEDS, ioctl, 0, TIOCLINUX, 0),
                REFUSED(ALL_NEEDS, ioctl, 0, KVM_CREATE_VM, 0),
                REFUSED(ALL_NEEDS, ioctl, 0, KVM_CREATE_DEVICE, 0),
                REFUSED(JAIL_ALWAYS, ioctl, 0, KVM_RUN, 0),
                REFUSED(ALL_NEEDS, fcntl, 0, F_SETOWN, 1),
                REFUSED(ALL_NEEDS, fcntl, 0, F_SETSIG, 9),
                REFUSED(ALL_NEEDS, prlimit64, 0, 0, 4096),
                REFUSED(JAIL_ALWAYS | JAIL_SHARES, openat, 0, 0, O_WRONLY),
                REFUSED(JAIL_ALWAYS | JAIL_SHARES, openat, 0, 0, O_RDONLY | O_CREAT),
                REFUSED(JAIL_ALWAYS | JAIL_SHARES, openat, 0, 0, O_RDONLY | O_TRUNC),
                REFUSED(JAIL_ALWAYS | JAIL_SHARES, openat, 0, 0, O_RDWR | O_TMPFILE),
                REFUSED(JAIL_ALWAYS | JAIL_PORTER, socket, AF_INET, SOCK_STREAM, 0),
                REFUSED(JAIL_ALWAYS | JAIL_PORTER, socket, AF_NETLINK, SOCK_RAW, 0),
        };

        needs_filter();
        for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
                const struct verdict v = in_child(make_call, &calls[i]);

                if (v.result != -EPERM || v.signal)
                        fail_msg("call %zu (number %ld): result %d, signal %d", i, calls[i].nr, v.result, v.signal);
        }
}

static int call_as_i386(void *opaque)
{
        long r = 20; /* getpid there; writev here */

        if (jail_filter_install(ALL_NEEDS) < 0)
                return -ENOTRECOVERABLE;
        __asm__ volatile("int $0x80" : "+a"(r) : : "memory", "r8", "r9", "r10", "r11");
        return (int)r;
}

static void calls_of_the_32_bit_table_end_the_process(void **state)
{
        struct verdict v;

        needs_filter();
        v = in_child(call_as_i386, NULL);
        if (v.signal == SIGSEGV) { /* a kernel without that table */
                print_message("# the kernel has no 32-bit system calls\n");
                skip();
        }
        assert_int_equal(v.signal, SIGSYS);
}

static void *add_one(void *opaque)
{
        ++*(int *)opaque;
        return opaque;
}

static int start_threads(void *opaque)
{
        pthread_t threads[3];
        int n = 0;

        if (jail_filter_install(JAIL_ALWAYS) < 0)
                return -ENOTRECOVERABLE;
        for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
                if (pthread_create(&threads[i], NULL, add_one, &n) != 0 || pthread_join(threads[i], NULL) != 0)
                        return -EAGAIN;
        }
        free(malloc(10 << 20));
        return n == 3 ? 0 : -EINVAL;
}

static void threads_and_memory_work(void **state)
{
        struct verdict v;

        needs_filter();
        v = in_child(start_threads, NULL);
        assert_int_equal(v.signal, 0);
        assert_int_equal(v.result, 0);
}

/* ---- the other walls, without the filter ---- */

enum walls { NAMESPACES = 1, LANDLOCK = 2 };

struct attempt {
        enum walls walls;
        int (*try)(const struct attempt *a);
        int kept_fd; /* a directory that is kept for writing */
        u16 port;    /* somebody listens */
        pid_t parent;
};

static struct fixture {
        char directory[64];
        bool has[LANDLOCK + 1];
        u16 port;
        int listen_fd;
} fixture; /* cmocka's state would be a pointer to the same */

static int go_in(const struct attempt *a)
{
        _cleanup_(jail_freep) struct jail *jail = NULL;
        int r = jail_new(JAIL_REQUIRED, &jail, NULL);

        jail_keep_directory(jail, a->kept_fd, fixture.directory, JAIL_WRITE);
        jail_keep_owners(jail);
        if (r == 0)
                r = jail_rights_choose(jail, NULL);
        if (r == 0 && a->walls & NAMESPACES)
                r = jail_namespaces(jail, NULL);
        if (r == 0 && !(a->walls & NAMESPACES))
                jail->may_set_ids = false; /* the user is part of that wall */
        if (r == 0 && a->walls & NAMESPACES)
                r = jail_rights_drop(jail, NULL);
        if (r == 0 && !(a->walls & NAMESPACES) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                r = -errno;
        if (r == 0 && a->walls & LANDLOCK)
                r = jail_landlock(jail, NULL);
        return r < 0 ? -ENOTRECOVERABLE : 0;
}

static int attempt_main(void *opaque)
{
        const struct attempt *a = opaque;
        const int r = go_in(a);

        return r < 0 ? r : a->try(a);
}

static struct verdict attempt(enum walls walls, int (*try)(const struct attempt *a))
{
        _cleanup_close_ int fd = open(fixture.directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        struct attempt a = { .walls = walls, .try = try, .kept_fd = fd, .port = fixture.port, .parent = getpid() };

        assert_true(fd >= 0);
        return in_child(attempt_main, &a);
}

static int go_nowhere(const struct attempt *a)
{
        return 0;
}

static void needs_wall(enum walls walls)
{
        static const char *const names[] = { [NAMESPACES] = "namespaces", [LANDLOCK] = "Landlock" };

        if (!fixture.has[walls]) {
                print_message("# this host does not let us have %s\n", names[walls]);
                skip();
        }
}

/* Every attempt has to fail by each wall; the errors that say so. */
static void assert_fails(enum walls walls, int (*try)(const struct attempt *a), const char *what)
{
        const struct verdict v = attempt(walls, try);

        if (v.result >= 0 || v.result == -ENOTRECOVERABLE || v.result == -ECHILD || v.signal)
                fail_msg("%s: result %d, signal %d", what, v.result, v.signal);
}

static int open_and_close(int dir_fd, const char *path, int flags)
{
        const int fd = openat(dir_fd, path, flags | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        close(fd);
        return 0;
}

static int read_host_file(const struct attempt *a)
{
        return open_and_close(AT_FDCWD, "/etc/passwd", O_RDONLY);
}

static int climb_to_host_file(const struct attempt *a)
{
        return open_and_close(a->kept_fd, "../../../../../../etc/passwd", O_RDONLY);
}

static int write_setting(const struct attempt *a)
{
        return open_and_close(AT_FDCWD, "/proc/sys/kernel/core_pattern", O_WRONLY);
}

static int connect_to_network(const struct attempt *a)
{
        const struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(a->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        return result_of(connect(fd, (const struct sockaddr *)&address, sizeof(address)));
}

static int trace_parent(const struct attempt *a)
{
        const int r = result_of(ptrace(PTRACE_ATTACH, a->parent, NULL, NULL));

        if (r == 0)
                ptrace(PTRACE_DETACH, a->parent, NULL, NULL);
        return r;
}

static int signal_parent(const struct attempt *a)
{
        return result_of(kill(a->parent, 0));
}

static int mount_something(const struct attempt *a)
{
        return result_of(mount("none", "/", "tmpfs", 0, NULL));
}

static int make_node(const struct attempt *a)
{
        return result_of(mknodat(a->kept_fd, "null", S_IFCHR | 0666, makedev(1, 3)));
}

static int open_device(const struct attempt *a)
{
        return open_and_close(a->kept_fd, "device", O_RDONLY);
}

static int change_host_name(const struct attempt *a)
{
        return result_of(sethostname("x", 1));
}

static int regain_user(const struct attempt *a)
{
        return result_of(setresuid(0, 0, 0));
}

static const struct {
        const char *what;
        int (*try)(const struct attempt *a);
        unsigned walls; /* those that stop it */
} attempts[] = {
        { "reading a file of the host", read_host_file, NAMESPACES | LANDLOCK },
        { "climbing out of a directory that was kept", climb_to_host_file, NAMESPACES | LANDLOCK },
        { "writing a setting of the host's kernel", write_setting, NAMESPACES | LANDLOCK },
        { "connecting to a port of the host", connect_to_network, NAMESPACES | LANDLOCK },
        { "tracing the parent", trace_parent, NAMESPACES | LANDLOCK },
        { "sending the parent a signal", signal_parent, NAMESPACES | LANDLOCK },
        { "mounting", mount_something, NAMESPACES | LANDLOCK },
        { "making a device node", make_node, NAMESPACES },
        { "opening a device", open_device, NAMESPACES },
        { "changing the host's name", change_host_name, NAMESPACES },
        { "becoming root", regain_user, NAMESPACES },
};

static void test_wall(enum walls walls)
{
        needs_wall(walls);
        for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
                if (attempts[i].try == signal_parent && walls == NAMESPACES && getuid() != 0)
                        continue; /* the user stays the same: seccomp and Landlock stop it */
                if (attempts[i].try == regain_user && getuid() != 0)
                        continue;
                if (attempts[i].walls & walls)
                        assert_fails(walls, attempts[i].try, attempts[i].what);
        }
}

static void namespaces_alone_stop_it(void **state)
{
        test_wall(NAMESPACES);
}

static void landlock_alone_stops_it(void **state)
{
        test_wall(LANDLOCK);
}

/* ---- what works ---- */

static int use_kept_directory(const struct attempt *a)
{
        struct stat st;

        if (mkdirat(a->kept_fd, "d", 0755) < 0 || open_and_close(a->kept_fd, "d/f", O_WRONLY | O_CREAT) < 0 ||
                renameat(a->kept_fd, "d/f", a->kept_fd, "g") < 0)
                return -errno;
        if (getuid() == NOBODY_UID && (fchownat(a->kept_fd, "g", 1234, 2345, 0) < 0 || fchmodat(a->kept_fd, "g", 04755, 0) < 0 ||
                                              fstatat(a->kept_fd, "g", &st, 0) < 0 || st.st_uid != 1234 || !(st.st_mode & S_ISUID)))
                return -EBADE;
        return unlinkat(a->kept_fd, "g", 0) < 0 || unlinkat(a->kept_fd, "d", AT_REMOVEDIR) < 0 ? -errno : 0;
}

static void directories_that_were_kept_can_be_used(void **state)
{
        struct verdict v;

        needs_wall(NAMESPACES);
        v = attempt(NAMESPACES, use_kept_directory);
        assert_int_equal(v.result, 0);
        needs_wall(LANDLOCK);
        v = attempt(NAMESPACES | LANDLOCK, use_kept_directory);
        assert_int_equal(v.result, 0);
}

struct socket_test {
        struct unix_listener *listener;
        int others; /* listens beside */
        bool die;
};

/* The whole jail, as strata-vmm enters it. */
static int use_sockets(void *opaque)
{
        struct socket_test *t = opaque;
        struct jail *jail;
        char byte = 0;
        int fd, r;

        if (jail_new(JAIL_AUTO, &jail, NULL) < 0)
                return -ENOTRECOVERABLE;
        jail_keep_socket(jail, t->listener);
        r = jail_enter(jail, NULL);
        if (r < 0)
                return r;
        fd = unix_listener_connect(t->listener, 7);
        if (fd < 0)
                return fd;
        fcntl(fd, F_SETFL, 0);
        if (write(fd, "x", 1) != 1 || read(fd, &byte, 1) != 1 || byte != 'y')
                return -EIO;
        if (unix_listener_connect(t->listener, 8) != -ENOENT)
                return -EBADE;
        if (porter_add_socket(&jail->porter, t->listener) < 0 || porter_finish(&jail->porter) != -EPERM ||
                porter_map_ids(&jail->porter, false, "0 0 1", "0 0 1") != -EPERM)
                return -EBADMSG;
        if (t->die)
                syscall(SYS_tgkill, getpid(), gettid(), SIGKILL);
        unix_listener_free(t->listener);
        jail_free(jail);
        return 0;
}

static void *answer_one(void *opaque)
{
        const struct socket_test *t = opaque;
        char byte = 0;
        const int fd = accept(t->others, NULL, NULL);

        if (fd >= 0 && read(fd, &byte, 1) == 1 && byte == 'x')
                byte = write(fd, "y", 1) == 1;
        close(fd);
        return NULL;
}

static bool gone_soon(const char *path)
{
        for (unsigned i = 0; i < 500 && access(path, F_OK) == 0; i++)
                usleep(10000);
        return access(path, F_OK) < 0;
}

static void test_sockets(bool die)
{
        struct socket_test t = { .die = die };
        struct unix_listener *others;
        char path[128], beside[160];
        struct verdict v;
        pthread_t thread;

        needs_filter();
        snprintf(path, sizeof(path), "%s/socket", fixture.directory);
        snprintf(beside, sizeof(beside), "%s_7", path);
        assert_int_equal(unix_listener_new(path, 12, &t.listener, NULL), 0);
        assert_int_equal(unix_listener_new(beside, 0, &others, NULL), 0);
        t.others = others->fd;
        fcntl(t.others, F_SETFL, 0);
        assert_int_equal(pthread_create(&thread, NULL, answer_one, &t), 0);
        v = in_child(use_sockets, &t);
        assert_int_equal(v.signal, die ? SIGKILL : 0);
        if (!die)
                assert_int_equal(v.result, 0);
        pthread_join(thread, NULL);
        assert_true(gone_soon(path));
        assert_int_equal(access(beside, F_OK), 0); /* not the jail's */
        unix_listener_free(others);
        unix_listener_free(t.listener);
}

static void the_porter_connects_and_removes_sockets(void **state)
{
        test_sockets(false);
}

static void sockets_are_removed_however_the_process_ends(void **state)
{
        test_sockets(true);
}

/* As container engines do it. */
static int forbid_unshare(void)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };

        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? -errno : 0;
}

static int enter_in_container(void *opaque)
{
        const enum jail_mode *mode = opaque;
        _cleanup_(jail_freep) struct jail *jail = NULL;
        int r;

        if (forbid_unshare() < 0 || jail_new(*mode, &jail, NULL) < 0)
                return -ENOTRECOVERABLE;
        r = jail_enter(jail, NULL);
        /* The rest is in force. */
        return r < 0 ? r : result_of(prctl(PR_GET_SECCOMP)) == -EPERM && getuid() != 0 ? 0 : -EBADE;
}

static void where_namespaces_are_forbidden_the_rest_is_had(void **state)
{
        enum jail_mode mode = JAIL_AUTO;

        needs_filter();
        assert_int_equal(in_child(enter_in_container, &mode).result, 0);
        mode = JAIL_REQUIRED;
        assert_int_equal(in_child(enter_in_container, &mode).result, -EPERM);
}

static int enter_with_thread(void *opaque)
{
        _cleanup_(jail_freep) struct jail *jail = NULL;
        pthread_t thread;

        if (jail_new(JAIL_REQUIRED, &jail, NULL) < 0 || pthread_create(&thread, NULL, (void *(*)(void *))(uintptr_t)pause, NULL) != 0)
                return -ENOTRECOVERABLE;
        return jail_enter(jail, NULL);
}

static void it_is_not_entered_beside_other_threads(void **state)
{
        assert_int_equal(in_child(enter_with_thread, NULL).result, -EINVAL);
}

static void no_jail_is_none(void **state)
{
        struct jail *jail = (struct jail *)state;

        assert_int_equal(jail_new(JAIL_NONE, &jail, NULL), 0);
        assert_null(jail);
        jail_need(jail, JAIL_KVM);
        assert_int_equal(jail_enter(jail, NULL), 0);
}

/* ---- the fixture ---- */

static int setup(void **state)
{
        const char *tmp = getenv("TMPDIR");
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof(address);
        char device[96];

        snprintf(fixture.directory, sizeof(fixture.directory), "%.48s/jail-XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(fixture.directory))
                return -1;
        snprintf(device, sizeof(device), "%s/device", fixture.directory);
        if (mknod(device, S_IFCHR | 0666, makedev(1, 3)) < 0)
                close(creat(device, 0)); /* not root: no node to open, and a file that cannot be read */
        fixture.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bind(fixture.listen_fd, (const struct sockaddr *)&address, sizeof(address));
        listen(fixture.listen_fd, 100);
        getsockname(fixture.listen_fd, (struct sockaddr *)&address, &len);
        fixture.port = ntohs(address.sin_port);
        fixture.has[NAMESPACES] = attempt(NAMESPACES, go_nowhere).result == 0;
        fixture.has[LANDLOCK] = attempt(LANDLOCK, go_nowhere).result == 0;
        return 0;
}

static int teardown(void **state)
{
        char device[96];

        snprintf(device, sizeof(device), "%s/device", fixture.directory);
        unlink(device);
        rmdir(fixture.directory);
        close(fixture.listen_fd);
        return 0;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_call_that_is_not_listed_ends_the_process),
                cmocka_unit_test(every_x32_call_ends_the_process),
                cmocka_unit_test(a_group_that_is_not_needed_is_not_there),
                cmocka_unit_test(nothing_that_is_known_for_its_power_is_listed),
                cmocka_unit_test(arguments_that_are_not_listed_are_refused),
                cmocka_unit_test(calls_of_the_32_bit_table_end_the_process),
                cmocka_unit_test(threads_and_memory_work),
                cmocka_unit_test(namespaces_alone_stop_it),
                cmocka_unit_test(landlock_alone_stops_it),
                cmocka_unit_test(directories_that_were_kept_can_be_used),
                cmocka_unit_test(the_porter_connects_and_removes_sockets),
                cmocka_unit_test(sockets_are_removed_however_the_process_ends),
                cmocka_unit_test(where_namespaces_are_forbidden_the_rest_is_had),
                cmocka_unit_test(it_is_not_entered_beside_other_threads),
                cmocka_unit_test(no_jail_is_none),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}

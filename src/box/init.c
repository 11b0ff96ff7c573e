/* The container's first process between clone and payload. It was made with its new namespaces by one clone3
 * (create.c); what can only be done from inside happens here, in this order. Whatever fails is told to the runtime,
 * which cleans up. */
#include "internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "hooks.h"
#include "netdev.h"
#include "process.h"
#include "procfs.h"
#include "rootfs.h"
#include "seal.h"
#include "sync.h"
#include "sys.h"
#include "terminal.h"

enum { KEYCTL_JOIN_SESSION_KEYRING_ = 1 }; /* keyctl(2); in no libc header */

static bool is_new(const struct launch *l, u32 flag)
{
        return l->spec->namespaces_new & flag;
}

static int become_namespace_root(struct err **err)
{
        if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0) {
                /* Root need not be mapped; then the payload's user must do, with the rights that the namespace's maker
                 * has. */
                if (errno != EINVAL)
                        return err_sys(err, errno, "becoming root of the user namespace");
        }
        if (syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM)
                return err_sys(err, errno, "dropping the host's groups");
        return 0;
}

/* The user namespace by its path was entered before the clone (create.c); the pid namespace too. */
static int join_namespaces(const struct launch *l, struct err **err)
{
        static const struct {
                const char *name;
                int flag;
        } kinds[] = {
#define NAMESPACE(id, name, proc, flag) [NAMESPACE_##id] = { name, flag },
                SPEC_NAMESPACES(NAMESPACE)
#undef NAMESPACE
        };

        for (int i = 0; i < NAMESPACE_COUNT; i++) {
                if (l->namespace_fd[i] < 0 || i == NAMESPACE_USER || i == NAMESPACE_PID)
                        continue;
                if (setns(l->namespace_fd[i], kinds[i].flag) < 0)
                        return err_sys(
                                err, errno, "joining the %s namespace '%s'", kinds[i].name, l->spec->namespace_path[i]);
        }
        return 0;
}

static int set_names(const struct spec *spec, struct err **err)
{
        if (spec->hostname && spec->hostname[0] && sethostname(spec->hostname, strlen(spec->hostname)) < 0)
                return err_sys(err, errno, "setting hostname '%s'", spec->hostname);
        if (spec->domainname && spec->domainname[0] && setdomainname(spec->domainname, strlen(spec->domainname)) < 0)
                return err_sys(err, errno, "setting domainname '%s'", spec->domainname);
        return 0;
}

/* A new time namespace is for children until one enters it oneself, and its offsets are fixed from then on: unshare,
 * write, enter (time_namespaces(7)). */
static int enter_time_namespace(const struct launch *l, struct err **err)
{
        const struct spec_linux *linux_ = &l->spec->linux_;
        _cleanup_close_ int fd = -1;
        char text[128];
        int r;

        if (unshare(CLONE_NEWTIME) < 0)
                return err_sys(err, errno, "making a time namespace");
        /* In a user namespace files in /proc of a process that is not dumpable are none of ours. Nobody else is in here
         * yet when the pid namespace is new. */
        if (is_new(l, CLONE_NEWUSER) && is_new(l, CLONE_NEWPID))
                prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        for (int i = 0; i < 2; i++) {
                const struct spec_time_offset *offset = i ? linux_->boottime : linux_->monotonic;

                if (!offset)
                        continue;
                snprintf(text, sizeof(text), "%s %lld %u\n", i ? "boottime" : "monotonic", (long long)offset->secs,
                        offset->nanosecs);
                r = procfs_write(l->proc, "self/timens_offsets", text, err);
                if (r < 0)
                        return err_wrap(err, r, "linux.timeOffsets");
        }
        seal_process();
        fd = openat(l->proc, "self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || setns(fd, CLONE_NEWTIME) < 0)
                return err_sys(err, errno, "entering the time namespace");
        return 0;
}

static int set_sysctls(const struct launch *l, struct err **err)
{
        for (size_t i = 0; i < l->spec->linux_.sysctl.n; i++) {
                const struct spec_pair *pair = &l->spec->linux_.sysctl.item[i];
                char path[512];
                const char *dot = strchr(pair->key, '.'), *slash = strchr(pair->key, '/');
                int r;

                snprintf(path, sizeof(path), "sys/%s", pair->key);
                if (!slash || (dot && dot < slash))
                        for (char *p = path + 4; *p; p++)
                                *p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
                r = procfs_write(l->proc, path, pair->value, err);
                if (r < 0)
                        return err_wrap(err, r, "linux.sysctl '%s'", pair->key);
        }
        return 0;
}

/* Into its groups by itself (cgroup.h says why), and only then into a cgroup namespace, whose root is the group one is
 * in. */
static int enter_cgroup(const struct launch *l, struct err **err)
{
        const int r = l->cgroup && !l->entered_cgroup ? cgroup_enter(l->cgroup, l->cloned_into_cgroup) : 0;

        process_reset_affinity();
        return r < 0 ? err_sys(err, -r, "entering the container's control groups") : 0;
}

static int set_up_terminal(struct launch *l, struct err **err)
{
        _cleanup_close_ int master = -1, peer = -1;
        int r;

        if (!l->process || !l->process->terminal)
                return 0;
        r = terminal_open(l->root, l->process, &master, &peer, err);
        if (r == 0)
                r = rootfs_mount_console(l, peer, err);
        if (r < 0)
                return r;
        r = terminal_hand_over(l->console, l->sync, master, err);
        return r < 0 ? r : terminal_attach(peer, err);
}

static int enter_namespaces(struct launch *l, struct err **err)
{
        int r = enter_cgroup(l, err);

        if (r < 0)
                return r;
        if (is_new(l, CLONE_NEWUSER)) {
                r = sync_expect(l->sync, SYNC_MAPPED, NULL, NULL, err);
                if (r == 0)
                        r = become_namespace_root(err);
                if (r < 0)
                        return r;
        }
        seal_process();
        r = join_namespaces(l, err);
        if (r < 0)
                return r;
        if (setsid() < 0)
                return err_sys(err, errno, "making a session");
        /* Without a name: the kernel would compare it with that of every other container's, and nobody could join it
         * by its name anyway, which takes a right that new keyrings do not give. Kernels without keyrings, full
         * quotas: no reason to fail. */
        if (!l->no_new_keyring)
                syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING_, NULL);
        if (is_new(l, CLONE_NEWCGROUP) && unshare(CLONE_NEWCGROUP) < 0)
                return err_sys(err, errno, "making a cgroup namespace");
        if (is_new(l, CLONE_NEWNET)) {
                r = netdev_loopback_up(err);
                if (r < 0)
                        return r;
        }
        if (is_new(l, CLONE_NEWTIME)) {
                r = enter_time_namespace(l, err);
                if (r < 0)
                        return r;
        }
        r = set_names(l->spec, err);
        return r < 0 ? r : set_sysctls(l, err);
}

/* Until the state directory says that this process exists nothing of the payload may run: a runtime that dies before
 * takes it along. */
static int wait_until_recorded(struct launch *l, struct err **err)
{
        const int r = l->recorded ? 0 : sync_expect(l->sync, SYNC_GO, NULL, NULL, err);

        l->recorded = true;
        return r;
}

static int run_start_hooks(const struct launch *l, struct err **err)
{
        return hooks_run(l->spec, HOOK_START_CONTAINER, l->state, "created", getpid(), NULL, err);
}

/* With all mounts made and the host's paths still there. */
static int run_hooks(struct launch *l, struct err **err)
{
        int r;

        if (hooks_any(l->spec, HOOK_PRESTART) || hooks_any(l->spec, HOOK_CREATE_RUNTIME)) {
                r = wait_until_recorded(l, err);
                if (r < 0)
                        return r;
                r = sync_send(l->sync, SYNC_HOOKS, 0, -1);
                if (r == 0)
                        r = sync_expect(l->sync, SYNC_HOOKS, NULL, NULL, err);
                if (r < 0)
                        return r;
        }
        /* The process's own number, as it sees itself, is what hooks inside can use. */
        return hooks_run(l->spec, HOOK_CREATE_CONTAINER, l->state, "creating", getpid(), l->rootfs, err);
}

/* No mounts of its own: the host's, seen from the root directory. */
static int change_root(struct launch *l, struct err **err)
{
        int r;

        l->root = open(l->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (l->root < 0)
                return err_sys(err, errno, "opening '%s'", l->rootfs);
        r = run_hooks(l, err);
        if (r == 0 && (fchdir(l->root) < 0 || chroot(".") < 0))
                return err_sys(err, errno, "changing the root to '%s'", l->rootfs);
        return r;
}

static int make_root(struct launch *l, struct err **err)
{
        int r;

        if (!((l->spec->namespaces_new | l->spec->namespaces_joined) & CLONE_NEWNS))
                return change_root(l, err);
        r = rootfs_mount(l, err);
        if (r == 0)
                r = run_hooks(l, err);
        if (r == 0)
                r = set_up_terminal(l, err);
        return r < 0 ? r : rootfs_finish(l, err);
}

/* Until the payload has it, who ends the process by a signal means the container. A first process of a pid namespace
 * ignores what it has no handler for. */
static void end(int signal)
{
        _exit(128 + signal);
}

static void end_by_signals(void)
{
        static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM };

        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                signal(signals[i], end);
}

/* Waits for `start` to connect; from then on its connection is the one that hears of failures. */
static int wait_for_start(struct launch *l, struct err **err)
{
        int sock;

        prctl(PR_SET_PDEATHSIG, 0);
        /* Nothing of the host's stays open in a process that others can look at for long. */
        process_close_descriptors(l, (int[]){ l->listener, l->sync, l->handover, l->proc }, 4);
        end_by_signals();
        if (sync_send(l->sync, SYNC_READY, 0, -1) < 0)
                return err_sys(err, errno, "telling the runtime");
        do
                sock = accept4(l->listener, NULL, NULL, SOCK_CLOEXEC);
        while (sock < 0 && errno == EINTR);
        if (sock < 0)
                return err_sys(err, errno, "waiting for the start");
        close(l->listener);
        l->listener = -1;
        close(l->sync);
        l->sync = sock;
        return sync_expect(sock, SYNC_GO, NULL, NULL, err);
}

int init_run(struct launch *l, int sync, struct err **err)
{
        const char *program;
        int r;

        l->sync = sync;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        r = enter_namespaces(l, err);
        if (r == 0)
                r = make_root(l, err);
        if (r == 0)
                r = wait_until_recorded(l, err);
        if (r < 0)
                return r;
        if (l->process) {
                r = process_prepare(l, err);
                /* Found again as the payload's user when it starts; this is for create to say early what cannot
                 * work. */
                if (r == 0 && l->listener >= 0)
                        r = process_find_program(l, &program, err);
                if (r < 0)
                        return r;
        }
        if (l->listener >= 0) {
                r = wait_for_start(l, err);
                if (r < 0)
                        return r;
        }
        if (!l->process)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "process: missing, nothing can be started");
        if (hooks_any(l->spec, HOOK_START_CONTAINER))
                l->before_payload = run_start_hooks;
        prctl(PR_SET_PDEATHSIG, 0);
        return process_become(l, l->sync, err);
}

/* New namespaces come with the clone. Joined ones need care in two cases, both because setns acts on the caller: new
 * namespaces must belong to a joined user namespace, and a joined pid namespace is only entered by children. Then a
 * helper joins first and clones the process as its sibling (CLONE_PARENT), so that it is the runtime's child all the
 * same. */
#include "spawn.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "sync.h"
#include "sys.h"

static const char *const namespace_names[] = {
#define NAMESPACE(id, name, proc, flag) [NAMESPACE_##id] = name,
        SPEC_NAMESPACES(NAMESPACE)
#undef NAMESPACE
};

void spawned_kill(const struct spawned *s)
{
        if (s->pid > 0) {
                sys_pidfd_send_signal(s->pidfd, SIGKILL);
                waitpid(s->pid, NULL, 0);
        }
}

void spawned_release(struct spawned *s)
{
        closep(&s->pidfd);
        closep(&s->sync);
}

int spawn_open_namespaces(struct launch *l, struct err **err)
{
        for (int i = 0; i < NAMESPACE_COUNT; i++) {
                const char *path = l->spec->namespace_path[i];

                if (!path)
                        continue;
                l->namespace_fd[i] = open(path, O_RDONLY | O_CLOEXEC);
                if (l->namespace_fd[i] < 0)
                        return err_sys(err, errno, "opening the %s namespace '%s'", namespace_names[i], path);
        }
        return 0;
}

static void _noreturn_ child(struct launch *l, spawn_main *run, int sync)
{
        struct err *err = NULL;
        const int r = run(l, sync, &err);

        /* init_run may have changed over to the connection of `start`. */
        sync_send_error(l->sync >= 0 ? l->sync : sync, r, err);
        _exit(1);
}

static u64 clone_flags(const struct launch *l)
{
        /* The cgroup namespace's root is the group at the time it is made: later, from inside. The time namespace needs
         * its offsets first. */
        return l->spec->namespaces_new & ~(u32)(CLONE_NEWCGROUP | CLONE_NEWTIME);
}

bool spawn_enters_below(const struct launch *l)
{
        for (const char **group = l->exec_groups; group && *group; group++)
                if (!strchr(*group, ':'))
                        return true;
        return false;
}

/* Into the container's group of v2, where there is one: moving there later waits for a lock that all of the host's
 * processes share (docs/adr/0030). */
static pid_t clone_into_group(struct launch *l, struct sys_clone_args *args)
{
        const int group = l->cgroup && !spawn_enters_below(l) ? cgroup_clone_fd(l->cgroup) : -1;
        pid_t pid;

        l->cloned_into_cgroup = group >= 0;
        if (group >= 0) {
                args->flags |= SYS_CLONE_INTO_CGROUP;
                args->cgroup = (u64)group;
        }
        pid = sys_clone3(args);
        if (pid < 0 && group >= 0) {
                /* Refused where the group's delegation does not reach; entering by its file may still work. */
                args->flags &= ~SYS_CLONE_INTO_CGROUP;
                args->cgroup = 0;
                l->cloned_into_cgroup = false;
                pid = sys_clone3(args);
        }
        return pid;
}

/* Namespaces that need not belong to the container's user namespace: joined with the runtime's rights, while it has
 * them. Those that are left are joined from inside (init.c). */
static int join_as_host(struct launch *l, struct err **err)
{
        static const struct {
                enum spec_namespace_id id;
                int flag;
        } kinds[] = { { NAMESPACE_NET, CLONE_NEWNET }, { NAMESPACE_IPC, CLONE_NEWIPC }, { NAMESPACE_UTS, CLONE_NEWUTS } };

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                const int fd = l->namespace_fd[kinds[i].id];

                if (fd < 0)
                        continue;
                if (setns(fd, kinds[i].flag) < 0) {
                        if (geteuid() != 0)
                                continue; /* its owner's rights are needed, which come with the user namespace */
                        return err_sys(err, errno, "joining the %s namespace '%s'", namespace_names[kinds[i].id],
                                l->spec->namespace_path[kinds[i].id]);
                }
                close(fd);
                l->namespace_fd[kinds[i].id] = -1;
        }
        return 0;
}

/* For a configuration that joins a user or pid namespace by its path, or others beside a user namespace. */
static int enter_by_path(struct launch *l, struct err **err)
{
        int r;

        if (l->cgroup) {
                r = cgroup_enter(l->cgroup, l->cloned_into_cgroup);
                if (r < 0)
                        return err_sys(err, -r, "entering the container's control groups");
                l->entered_cgroup = true;
        }
        r = join_as_host(l, err);
        if (r < 0)
                return r;
        if (l->namespace_fd[NAMESPACE_USER] >= 0) {
                if (setns(l->namespace_fd[NAMESPACE_USER], CLONE_NEWUSER) < 0)
                        return err_sys(err, errno, "joining the user namespace");
                if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
                        return err_sys(err, errno, "becoming root of the user namespace");
        }
        if (l->namespace_fd[NAMESPACE_PID] >= 0 && setns(l->namespace_fd[NAMESPACE_PID], CLONE_NEWPID) < 0)
                return err_sys(err, errno, "joining the pid namespace");
        return 0;
}

/* In the helper: joins, clones the sibling, tells its number. */
static int join_and_clone(struct launch *l, spawn_step *enter, spawn_main *run, const int pair[2], struct err **err)
{
        struct sys_clone_args args = { .flags = (l->exec ? 0 : clone_flags(l)) | CLONE_PARENT };
        pid_t pid;
        int r;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        r = enter(l, err);
        if (r < 0)
                return r;
        pid = sys_clone3(&args);
        if (pid < 0)
                return err_sys(err, -pid, "cloning the container's process");
        if (pid == 0)
                child(l, run, pair[1]);
        return sync_send(pair[1], SYNC_PID, pid, -1);
}

static int spawn_by_helper(
        struct launch *l, spawn_step *enter, spawn_main *run, const int pair[2], struct spawned *s, struct err **err)
{
        struct sys_clone_args args = { .exit_signal = SIGCHLD };
        const pid_t helper = clone_into_group(l, &args);
        int r;

        if (helper < 0)
                return err_sys(err, -helper, "cloning a helper");
        if (helper == 0) {
                struct err *e = NULL;

                close(pair[0]);
                r = join_and_clone(l, enter, run, pair, &e);
                if (r < 0)
                        sync_send_error(pair[1], r, e);
                _exit(0);
        }
        while (waitpid(helper, NULL, 0) < 0 && errno == EINTR)
                ;
        r = sync_expect(pair[0], SYNC_PID, &s->pid, NULL, err);
        if (r < 0)
                return r;
        s->pidfd = sys_pidfd_open(s->pid);
        return s->pidfd < 0 ? err_sys(err, -s->pidfd, "watching the container's process") : 0;
}

static int spawn_directly(struct launch *l, spawn_main *run, const int pair[2], struct spawned *s, struct err **err)
{
        struct sys_clone_args args = {
                .flags = clone_flags(l) | CLONE_PIDFD, .pidfd = (u64)(uintptr_t)&s->pidfd, .exit_signal = SIGCHLD
        };

        s->pid = clone_into_group(l, &args);
        if (s->pid < 0)
                return err_sys(err, -s->pid, "cloning the container's process with its namespaces");
        if (s->pid == 0) {
                close(pair[0]);
                child(l, run, pair[1]);
        }
        return 0;
}

static int spawn_with(struct launch *l, spawn_step *enter, spawn_main *run, struct spawned *ret, struct err **err)
{
        struct spawned s = SPAWNED_NONE;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return err_sys(err, errno, "making a pair of sockets");
        /* Out of the way of the descriptors that the payload keeps. */
        for (int i = 0; i < 2 && l->stdio->preserve_fds; i++) {
                const int high = fcntl(pair[i], F_DUPFD_CLOEXEC, (int)(3 + l->stdio->preserve_fds));

                close(pair[i]);
                pair[i] = high;
        }
        l->sync = -1;
        r = enter ? spawn_by_helper(l, enter, run, pair, &s, err) : spawn_directly(l, run, pair, &s, err);
        close(pair[1]);
        if (r < 0) {
                close(pair[0]);
                closep(&s.pidfd);
                return r;
        }
        s.sync = pair[0];
        *ret = s;
        /* Debug messages are in runc's words where there is such a step: they are looked for. */
        log_debug("nsexec container setup: process %d", s.pid);
        return 0;
}

int spawn(struct launch *l, spawn_main *run, struct spawned *ret, struct err **err)
{
        bool by_path = l->namespace_fd[NAMESPACE_USER] >= 0 || l->namespace_fd[NAMESPACE_PID] >= 0;

        for (int i = 0; l->spec->namespaces_new & CLONE_NEWUSER && i < NAMESPACE_COUNT; i++)
                by_path |= l->namespace_fd[i] >= 0;

        return spawn_with(l, by_path ? enter_by_path : NULL, run, ret, err);
}

int spawn_joined(struct launch *l, spawn_step *enter, spawn_main *run, struct spawned *ret, struct err **err)
{
        return spawn_with(l, enter, run, ret, err);
}

/* exec: a process that joins a running container. The container's first process says by its pidfd which namespaces
 * those are: one setns joins them all at once, so there is no moment in which only some are joined. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "internal.h"
#include "process.h"
#include "procfs.h"
#include "rootfs.h"
#include "seal.h"
#include "spawn.h"
#include "spec/names.h"
#include "sync.h"
#include "sys.h"
#include "terminal.h"
#include "wait.h"

/* ---- the process object ---- */

static int read_process_file(struct launch *l, const char *path, struct err **err)
{
        _cleanup_(spec_freep) struct spec *from = NULL;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        size_t n = 0, room = 65536;
        int r;

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", path);
        for (;;) {
                ssize_t got;

                if (n == room || !text) {
                        char *bigger = realloc(text, text ? room * 2 : room);

                        if (!bigger)
                                return err_sys(err, ENOMEM, "reading '%s'", path);
                        room *= text ? 2 : 1;
                        text = bigger;
                        if (room > 64 * 1024 * 1024)
                                return err_sys(err, EFBIG, "reading '%s'", path);
                }
                got = read(fd, text + n, room - n);
                if (got < 0)
                        return err_sys(err, errno, "reading '%s'", path);
                if (got == 0)
                        break;
                n += (size_t)got;
        }
        r = spec_parse_process(text, n, &from, err);
        if (r < 0)
                return err_wrap(err, r, "'%s'", path);
        l->process = from->process;
        l->process_owner = TAKE_PTR(from);
        return 0;
}

static int add_environment(struct arena *arena, struct spec_strings *env, const char **more, struct err **err)
{
        const char **item;
        size_t n = 0;

        while (more && more[n])
                n++;
        if (!n)
                return 0;
        item = arena_new(arena, const char *, env->n + n + 1);
        if (!item)
                return err_sys(err, ENOMEM, "making the environment");
        if (env->n)
                memcpy(item, env->item, env->n * sizeof(*item));
        memcpy(item + env->n, more, n * sizeof(*item));
        *env = (struct spec_strings){ item, env->n + n };
        return 0;
}

/* An id up to @stop or the end of the text. */
static int parse_id(const char **text, char stop, u32 *ret)
{
        char *end;
        unsigned long id;

        if (**text < '0' || **text > '9')
                return -EINVAL;
        id = strtoul(*text, &end, 10);
        if (id >= UINT32_MAX || (*end && *end != stop))
                return -EINVAL;
        *text = end;
        *ret = (u32)id;
        return 0;
}

static int parse_user(const char *text, struct spec_user *user, struct err **err)
{
        const char *p = text;
        int r = parse_id(&p, ':', &user->uid);

        if (r == 0 && *p == ':') {
                p++;
                r = parse_id(&p, 0, &user->gid);
        }
        return r < 0 ? err_set(err, ERR_USAGE, EINVAL, "'%s' is not a user: UID[:GID]", text) : 0;
}

/* As runc and crun: a capability that is added is added to all sets that make it effective. */
static int add_capabilities(struct arena *arena, struct spec_process *p, const char **names, struct err **err)
{
        struct spec_capabilities *c = arena_new(arena, struct spec_capabilities, 1);

        if (!c)
                return err_sys(err, ENOMEM, "adding capabilities");
        if (p->capabilities)
                *c = *p->capabilities;
        for (; *names; names++) {
                const int cap = spec_capability(*names);

                if (cap < 0) {
                        log_warn("capability '%s' is unknown here: left out", *names);
                        continue;
                }
                c->set[CAP_SET_BOUNDING] |= BIT(cap);
                c->set[CAP_SET_EFFECTIVE] |= BIT(cap);
                c->set[CAP_SET_PERMITTED] |= BIT(cap);
                /* Inheritable stays as it is (CVE-2022-27650) but where ambient needs it. */
                if (p->capabilities && p->capabilities->set[CAP_SET_AMBIENT]) {
                        c->set[CAP_SET_INHERITABLE] |= BIT(cap);
                        c->set[CAP_SET_AMBIENT] |= BIT(cap);
                }
        }
        p->capabilities = c;
        return 0;
}

/* From the container's own process and the command line. */
static int make_process(struct launch *l, const struct box_exec_args *args, struct err **err)
{
        struct arena *arena = &l->spec->arena;
        struct spec_process *p = arena_new(arena, struct spec_process, 1);
        size_t n = 0;
        int r;

        if (!p || !l->spec->process)
                return err_set(err, ERR_BAD_CONFIG, EINVAL,
                        "the container's configuration has no process to take defaults from; use --process");
        *p = *l->spec->process;
        while (args->argv && args->argv[n])
                n++;
        if (!n)
                return err_set(err, ERR_USAGE, EINVAL, "exec: process args cannot be empty");
        p->args = (struct spec_strings){ args->argv, n };
        p->terminal = args->tty;
        if (args->cwd)
                p->cwd = args->cwd;
        r = add_environment(arena, &p->env, args->env, err);
        if (r == 0 && args->user) {
                p->user = (struct spec_user){ .umask = p->user.umask };
                r = parse_user(args->user, &p->user, err);
        }
        if (r == 0 && args->n_additional_gids) {
                u32 *gids = arena_new(arena, u32, args->n_additional_gids);

                if (!gids)
                        return err_sys(err, ENOMEM, "exec");
                memcpy(gids, args->additional_gids, args->n_additional_gids * sizeof(*gids));
                p->user.additional_gids.item = gids;
                p->user.additional_gids.n = args->n_additional_gids;
        }
        if (r == 0 && args->caps && args->caps[0])
                r = add_capabilities(arena, p, args->caps, err);
        if (args->apparmor)
                p->apparmor_profile = args->apparmor;
        if (args->process_label)
                p->selinux_label = args->process_label;
        p->no_new_privileges |= args->no_new_privs;
        l->process = p;
        return r;
}

/* ---- joining ---- */

static const struct {
        const char *file;
        int flag;
} kinds[] = {
#define NAMESPACE(id, name, proc, flag) { proc, flag },
        SPEC_NAMESPACES(NAMESPACE)
#undef NAMESPACE
};

/* Those of the container's namespaces that are not ours already. */
static int different_namespaces(const struct launch *l, struct err **err)
{
        int flags = 0;

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                char ours[64], theirs[64];
                struct stat a, b;

                snprintf(ours, sizeof(ours), "self/ns/%s", kinds[i].file);
                snprintf(theirs, sizeof(theirs), "%d/ns/%s", l->state->pid, kinds[i].file);
                if (fstatat(l->proc, theirs, &b, 0) < 0) {
                        if (errno == ENOENT && faccessat(l->proc, ours, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                                continue; /* a kind this kernel does not have */
                        return err_sys(err, errno, "looking at the container's %s namespace", kinds[i].file);
                }
                if (fstatat(l->proc, ours, &a, 0) < 0)
                        return err_sys(err, errno, "looking at our %s namespace", kinds[i].file);
                if (a.st_ino != b.st_ino || a.st_dev != b.st_dev)
                        flags |= kinds[i].flag;
        }
        return flags;
}

static int exec_enter(struct launch *l, struct err **err)
{
        const bool user = l->join_flags & CLONE_NEWUSER;
        int r;

        /* Always: who names a group for some controllers is still limited by the container's others. */
        if (l->cgroup) {
                r = cgroup_enter(l->cgroup, l->cloned_into_cgroup || spawn_enters_below(l));
                if (r < 0)
                        return err_sys(err, -r, "entering the container's control groups");
        }
        if (!l->process->cpu_affinity || !l->process->cpu_affinity->initial)
                process_reset_affinity();
        if (l->join_flags && setns(l->join_pidfd, l->join_flags) < 0)
                return err_sys(err, errno, "joining the container's namespaces");
        if (user && (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0) && errno != EINVAL)
                return err_sys(err, errno, "becoming root of the container's user namespace");
        /* Without a mount namespace of its own a container is no more than its root directory (init.c). */
        if (!(l->spec->namespaces_new & CLONE_NEWNS) && !(l->join_flags & CLONE_NEWNS) &&
                (chdir(l->state->rootfs) < 0 || chroot(".") < 0))
                return err_sys(err, errno, "changing the root to '%s'", l->state->rootfs);
        return 0;
}

static int exec_terminal(struct launch *l, struct err **err)
{
        _cleanup_close_ int master = -1, peer = -1, root = -1;
        int r;

        if (!l->process->terminal)
                return 0;
        root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
                return err_sys(err, errno, "opening the container's root");
        r = terminal_open(root, l->process, &master, &peer, err);
        if (r < 0)
                return r;
        r = terminal_hand_over(l->console, l->sync, master, err);
        return r < 0 ? r : terminal_attach(peer, err);
}

/* In the process that becomes the payload. */
static int exec_run(struct launch *l, int sync, struct err **err)
{
        int r;

        l->sync = sync;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        seal_process();
        if (setsid() < 0)
                return err_sys(err, errno, "making a session");
        r = sync_expect(sync, SYNC_GO, NULL, NULL, err);
        if (r == 0)
                r = exec_terminal(l, err);
        if (r == 0)
                r = process_prepare(l, err);
        if (r == 0 && l->process->cpu_affinity)
                r = process_set_affinity(l->process->cpu_affinity->final, err);
        if (r < 0)
                return r;
        prctl(PR_SET_PDEATHSIG, 0);
        return process_become(l, sync, err);
}

/* ---- the runtime's side ---- */

static int check_alive(struct launch *l, const struct box_exec_args *args, struct err **err)
{
        enum box_status status;
        int r = state_status(l->state, &status, err);

        if (r < 0)
                return r;
        if (status == BOX_STOPPED)
                return err_set(err, ERR_BUSY, EBUSY,
                        "cannot exec in a stopped container: the container '%s' is not running", args->id);
        if (status == BOX_PAUSED && !args->ignore_paused)
                return err_hint(err,
                        err_set(err, ERR_BUSY, EBUSY,
                                "cannot exec in a paused container (use --ignore-paused to override)"),
                        "resume it first");
        l->join_pidfd = state_pidfd(l->state);
        return l->join_pidfd < 0 ? err_sys(err, -l->join_pidfd, "opening the process of container '%s'", args->id) : 0;
}

/* Whether some process of the container may look into ours: CAP_SYS_PTRACE over the host's user namespace. */
static bool container_may_trace(const struct launch *l)
{
        const struct spec_process *p = l->spec->process;

        if (l->join_flags & CLONE_NEWUSER || geteuid() != 0)
                return false;
        return !p || !p->capabilities ||
               p->capabilities->set[CAP_SET_BOUNDING] & BIT(spec_capability("CAP_SYS_PTRACE"));
}

static bool leads_up(const char *path)
{
        for (const char *p = path; (p = strstr(p, "..")); p += 2)
                if ((p == path || p[-1] == '/' || p[-1] == ':') && (!p[2] || p[2] == '/'))
                        return true;
        return false;
}

static int set_initial_affinity(const char *list, struct err **err)
{
        const int r = process_set_affinity(list, err);
        cpu_set_t set;

        if (r == 0 && list && list[0] && sched_getaffinity(0, sizeof(set), &set) == 0)
                log_debug("nsexec: affinity: 0x%lx", set.__bits[0]);
        return r;
}

static int prepare(
        struct launch *l, const struct box_runtime *runtime, const struct box_exec_args *args, struct err **err)
{
        int r = state_load(runtime, args->id, &l->state, err);

        l->runtime = runtime;
        l->stdio = &args->stdio;
        l->exec = true;
        if (r == 0)
                r = check_alive(l, args, err);
        if (r == 0)
                r = state_load_config(l->state, &l->spec, err);
        if (r == 0)
                r = args->process ? read_process_file(l, args->process, err) : make_process(l, args, err);
        if (r < 0)
                return r;
        if (args->process && args->tty) {
                struct spec_process *p = (struct spec_process *)l->process;

                p->terminal = true;
        }
        if (l->process->terminal && args->stdio.detach && !args->stdio.console_socket)
                return err_set(err, ERR_USAGE, EINVAL,
                        "cannot allocate tty if runc will detach without setting console socket");
        if (args->stdio.console_socket && (!l->process->terminal || !args->stdio.detach))
                return err_set(
                        err, ERR_USAGE, EINVAL, "cannot use console socket if runc will not detach or allocate tty");
        l->proc = procfs_open(err);
        if (l->proc < 0)
                return l->proc;
        r = different_namespaces(l, err);
        if (r < 0)
                return r;
        l->join_flags = r;
        l->always_clone = container_may_trace(l);
        r = launch_prepare_process(l, err);
        if (r < 0)
                return r;
        if (l->state->cgroup) {
                r = cgroup_load(l->state->cgroup, &l->cgroup, err);
                if (r == 0)
                        r = cgroup_prepare_enter(l->cgroup, err);
                if (r < 0)
                        return r;
        }
        for (const char **group = args->cgroups; group && *group; group++)
                if (leads_up(*group))
                        return err_set(err, ERR_USAGE, EINVAL, "--cgroup: %s is not a sub cgroup path", *group);
        l->exec_groups = args->cgroups;
        if (args->stdio.console_socket) {
                l->console = terminal_connect(args->stdio.console_socket, err);
                if (l->console < 0)
                        return l->console;
        }
        return l->process->cpu_affinity ? set_initial_affinity(l->process->cpu_affinity->initial, err) : 0;
}

int box_exec(const struct box_runtime *runtime, const struct box_exec_args *args, int *ret_status, struct err **err)
{
        _cleanup_(launch_release) struct launch l;
        _cleanup_(spawned_release) struct spawned s = SPAWNED_NONE;
        _cleanup_close_ int master = -1;
        int r;

        launch_init(&l);
        if (geteuid() == 0)
                seal_process();
        r = prepare(&l, runtime, args, err);
        if (r == 0 && !args->stdio.detach)
                r = wait_prepare(err);
        if (r == 0)
                r = spawn_joined(&l, exec_enter, exec_run, &s, err);
        if (r < 0)
                return r;
        for (const char **group = l.exec_groups; r == 0 && group && *group; group++)
                r = cgroup_join_sub(l.cgroup, *group, s.pid, err);
        if (r == 0)
                r = sync_send(s.sync, SYNC_GO, 0, -1);
        log_debug("child process in init()");
        if (r == 0)
                r = launch_converse(&l, &s, SYNC_END, &master, err);
        if (r == 0)
                log_debug("setns_init: about to exec");
        if (r == 0)
                r = launch_publish(&args->stdio, s.pid, s.pidfd, err);
        if (r < 0) {
                spawned_kill(&s);
                return r;
        }
        *ret_status = 0;
        return args->stdio.detach ? 0 : wait_foreground(s.pid, s.pidfd, master, -1, ret_status, err);
}

/* What the runtime's sides of create, run, exec and restore share: from config.json to the container's directory and
 * groups, telling the caller about the process, and taking everything back. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "hooks.h"
#include "idmap.h"
#include "internal.h"
#include "process.h"
#include "procfs.h"
#include "rdt.h"
#include "rootfs.h"
#include "seal.h"
#include "spawn.h"
#include "sys.h"
#include "terminal.h"
#include "wait.h"

void launch_init(struct launch *l)
{
        *l = (struct launch){ .root = -1,
                .proc = -1,
                .handover = -1,
                .listener = -1,
                .console = -1,
                .sync = -1,
                .join_pidfd = -1,
                .notify = -1,
                .notify_tree = -1 };
        for (int i = 0; i < NAMESPACE_COUNT; i++)
                l->namespace_fd[i] = -1;
}

void launch_release(struct launch *l)
{
        const int fds[] = { l->root, l->proc, l->handover, l->listener, l->console, l->join_pidfd, l->notify,
                l->notify_tree };

        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                closep(&fds[i]);
        for (int i = 0; i < NAMESPACE_COUNT; i++)
                closep(&l->namespace_fd[i]);
        for (size_t i = 0; i < l->n_mounts; i++) {
                closep(&l->mounts[i].fd);
                closep(&l->mounts[i].map_fd);
        }
        for (size_t i = 0; l->device_fd && i < l->spec->linux_.devices.n; i++)
                closep(&l->device_fd[i]);
        if (l->listener_page)
                munmap(l->listener_page, sizeof(*l->listener_page));
        seccomp_filter_free(l->filter);
        cgroup_resources_free(l->resources);
        cgroup_free(l->cgroup);
        state_free(l->state);
        free(l->bundle);
        spec_free(l->process_owner);
        spec_free(l->spec);
}

int launch_move_up(const struct launch *l, int fd)
{
        int high;

        if (fd < 0 || fd >= (int)(3 + l->stdio->preserve_fds))
                return fd;
        high = fcntl(fd, F_DUPFD_CLOEXEC, (int)(3 + l->stdio->preserve_fds));
        close(fd);
        return high < 0 ? -errno : high;
}

/* The kernel raises only what is permitted and inheritable (capabilities(7)). Said in one line: engines exist that ask for
 * a dozen like that (buildah, for each RUN). */
static void warn_of_ambient(const struct spec_process *p)
{
        const struct spec_capabilities *c = p ? p->capabilities : NULL;
        u64 refused;

        if (!c)
                return;
        refused = c->set[CAP_SET_AMBIENT] & ~(c->set[CAP_SET_PERMITTED] & c->set[CAP_SET_INHERITABLE]);
        if (refused)
                log_warn(
                        "can't raise ambient capability %s: it is not both permitted and inheritable (nor are %d more)",
                        spec_capability_name(__builtin_ctzll(refused)), __builtin_popcountll(refused) - 1);
}

/* Inside of a user namespace nobody may give away what is the host's root's. */
static void give_stdio(const struct launch *l)
{
        const struct spec_linux *linux_ = &l->spec->linux_;
        const u32 uid = l->process ? idmap_to_host(&linux_->uid_mappings, l->process->user.uid) : UINT32_MAX,
                  gid = l->process ? idmap_to_host(&linux_->gid_mappings, l->process->user.gid) : UINT32_MAX;

        if (uid != UINT32_MAX && gid != UINT32_MAX && geteuid() == 0)
                process_own_stdio(uid, gid);
}

int launch_prepare_process(struct launch *l, struct err **err)
{
        const char *strict = spec_annotation(l->spec, "run.oci.seccomp_fail_unknown_syscall"); /* crun */
        int r;

        warn_of_ambient(l->process);
        give_stdio(l);
        l->lsm = process_find_lsm();
        r = seccomp_filter_compile(l->spec->linux_.seccomp, strict && strcmp(strict, "0") != 0, &l->filter, err);
        if (r < 0)
                return r;
        if (l->process && (process_needs_clone(l->process, l->filter) || l->always_clone)) {
                r = seal_reexec(err);
                if (r < 0)
                        return r;
        } else {
                l->handover = process_open_handover(err);
                if (l->handover < 0)
                        return l->handover;
                l->handover = launch_move_up(l, l->handover);
        }
        if (l->filter && l->filter->listener_path) {
                l->listener_page = mmap(
                        NULL, sizeof(*l->listener_page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
                if (l->listener_page == MAP_FAILED) {
                        l->listener_page = NULL;
                        return err_sys(err, errno, "preparing seccomp notifications");
                }
                *l->listener_page = LISTENER_PENDING;
        }
        return 0;
}

/* ---- what is asked for ---- */

static int check_terminal(
        const struct box_create_args *args, const struct spec *spec, bool foreground, struct err **err)
{
        const bool terminal = spec->process && spec->process->terminal;

        if (args->stdio.console_socket && !terminal)
                return err_set(
                        err, ERR_USAGE, EINVAL, "cannot use console socket if runc will not detach or allocate tty");
        if (args->stdio.console_socket && foreground)
                return err_set(
                        err, ERR_USAGE, EINVAL, "cannot use console socket if runc will not detach or allocate tty");
        if (terminal && !foreground && !args->stdio.console_socket)
                return err_set(err, ERR_USAGE, EINVAL,
                        "cannot allocate tty if runc will detach without setting console socket");
        return 0;
}

static int open_bundle(struct launch *l, const struct box_create_args *args, struct err **err)
{
        _cleanup_free_ char *path = realpath(args->bundle, NULL);
        _cleanup_close_ int dir = -1;
        int r;

        if (!path)
                return err_sys(err, errno, "bundle '%s'", args->bundle);
        dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                return err_sys(err, errno, "bundle '%s'", path);
        r = spec_load(args->config ? AT_FDCWD : dir, args->config ? args->config : "config.json", &l->spec, err);
        if (r < 0)
                return r;
        l->bundle = TAKE_PTR(path);
        return 0;
}

/* Whether this process is in a user namespace itself: the first one maps everything. */
static bool in_user_namespace(int proc)
{
        char text[64];
        u32 a, b, n;

        return procfs_read(proc, "self/uid_map", text, sizeof(text)) > 0 && sscanf(text, "%u %u %u", &a, &b, &n) == 3 &&
               (a || b || n != UINT32_MAX);
}

int launch_open(struct launch *l, const struct box_runtime *runtime, const struct box_create_args *args,
        bool foreground, struct err **err)
{
        int r;

        l->runtime = runtime;
        l->stdio = &args->stdio;
        r = open_bundle(l, args, err);
        if (r == 0)
                r = check_terminal(args, l->spec, foreground, err);
        if (r < 0)
                return r;
        l->proc = procfs_open(err);
        if (l->proc < 0)
                return l->proc;
        l->proc = launch_move_up(l, l->proc);
        l->process = l->spec->process;
        l->in_user_namespace =
                (l->spec->namespaces_new | l->spec->namespaces_joined) & CLONE_NEWUSER || in_user_namespace(l->proc);
        r = cgroup_resources_parse(l->spec->linux_.resources, &l->resources, err);
        return r < 0 ? err_wrap(err, r, "linux.resources") : rootfs_plan(l, err);
}

int launch_connect(struct launch *l, struct err **err)
{
        int r = spawn_open_namespaces(l, err);

        if (r == 0 && l->stdio->console_socket) {
                l->console = terminal_connect(l->stdio->console_socket, err);
                r = MIN(l->console, 0);
        }
        return r;
}

/* ---- the container's directory ---- */

static int find_rootfs(struct launch *l, const char *bundle, struct err **err)
{
        char path[PATH_MAX];
        const char *root = l->spec->root.path;

        if ((size_t)snprintf(path, sizeof(path), "%s%s%s", root[0] == '/' ? "" : bundle, root[0] == '/' ? "" : "/",
                    root) >= sizeof(path))
                return err_sys(err, ENAMETOOLONG, "root.path");
        l->rootfs = realpath(path, NULL);
        if (!l->rootfs)
                return err_sys(err, errno, "root.path: '%s'", path);
        free(l->state->rootfs);
        l->state->rootfs = (char *)l->rootfs; /* the state owns it */
        return 0;
}

/* The descriptors' files: criu must be told about pipes and terminals that come from outside. */
static json_t *describe_descriptors(void)
{
        json_t *list = json_array(), *string;
        _cleanup_free_ char *text = NULL;

        for (int fd = 0; fd < 3; fd++) {
                char path[32], target[PATH_MAX];
                ssize_t n;

                snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
                n = readlink(path, target, sizeof(target) - 1);
                target[n > 0 ? n : 0] = 0;
                json_array_append_new(list, json_string(target));
        }
        text = json_dumps(list, JSON_COMPACT);
        string = json_string(text ? text : "[]");
        json_decref(list);
        return string;
}

int launch_record(struct launch *l, const char *id, struct err **err)
{
        int r = state_new(l->runtime, id, &l->state, err);

        if (r < 0)
                return r;
        l->state->dir = launch_move_up(l, l->state->dir);
        l->state->bundle = TAKE_PTR(l->bundle);
        l->state->annotations = json_incref(l->spec->annotations);
        l->state->descriptors = describe_descriptors();
        r = find_rootfs(l, l->state->bundle, err);
        if (r == 0)
                rootfs_strip_targets(l);
        if (r == 0)
                r = state_set_created(l->state, err);
        if (r < 0)
                state_remove(l->state, NULL);
        return r;
}

/* ---- control groups ---- */

/* systemd makes a scope around a process that exists. This one lends itself until the container's own has entered. */
static pid_t start_placeholder(void)
{
        const pid_t pid = sys_clone3(&(struct sys_clone_args){ .exit_signal = SIGCHLD });

        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                pause();
                _exit(0);
        }
        return pid;
}

void launch_end_placeholder(struct launch *l)
{
        if (l->placeholder > 0) {
                kill(l->placeholder, SIGKILL);
                waitpid(l->placeholder, NULL, 0);
        }
        l->placeholder = 0;
}

/* A group that was there before and is frozen would stop our process before it can say anything. */
static int refuse_frozen(struct cgroup *cg, struct err **err)
{
        const struct cgroup_hierarchy *h;
        bool frozen = false;
        int r = cgroup_is_frozen(cg, &frozen, err);

        /* On a hybrid host we freeze by v2, but somebody else may have used v1's freezer. */
        for (size_t i = 0; r == 0 && !frozen && (h = cgroup_hierarchy(cg, i)); i++) {
                char path[PATH_MAX], state[16] = "";

                if (h->v2 || strcmp(h->name, "freezer") != 0 ||
                        (size_t)snprintf(path, sizeof(path), "%s/freezer.state", h->path) >= sizeof(path))
                        continue;
                _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

                frozen = fd >= 0 && read(fd, state, sizeof(state) - 1) > 0 && strncmp(state, "THAWED", 6) != 0;
        }
        if (r < 0 || !frozen)
                return r;
        return err_set(err, ERR_BUSY, EBUSY, "container's cgroup unexpectedly frozen");
}

/* Whether the container sees its groups in a way that lets it write to them, now or after mounting them itself. */
static bool may_write_groups(const struct launch *l)
{
        if ((l->spec->namespaces_new | l->spec->namespaces_joined) & CLONE_NEWCGROUP)
                return true;
        for (size_t i = 0; i < l->n_mounts; i++) {
                const char *type = l->mounts[i].mount->type;

                if (type && strncmp(type, "cgroup", 6) == 0 && !(l->mounts[i].options.set & MOUNT_ATTR_RDONLY))
                        return true;
        }
        return false;
}

int launch_make_cgroup(struct launch *l, struct err **err)
{
        const struct spec *spec = l->spec;
        struct cgroup_spec group = {
                .id = l->state->id,
                .path = spec->linux_.cgroups_path,
                .driver = l->runtime->cgroup_driver,
                .rootless = l->runtime->rootless,
                .delegate = spec->namespaces_new & CLONE_NEWUSER || spec->namespaces_new & CLONE_NEWCGROUP,
                .owner = geteuid(),
                .separate = may_write_groups(l),
                .resources = l->resources,
                .annotations = spec->annotations,
        };
        int r;

        if (spec->process) {
                const u32 uid = spec->process->user.uid;

                group.owner = spec->linux_.uid_mappings.n ? idmap_to_host(&spec->linux_.uid_mappings, uid) : uid;
                if (group.owner == (uid_t)-1)
                        group.owner = geteuid();
        }
        if (group.driver == CGROUP_DRIVER_SYSTEMD) {
                group.pid = start_placeholder();
                if (group.pid < 0)
                        return err_sys(err, -group.pid, "making a process for systemd's scope");
        }
        r = cgroup_create(&group, &l->cgroup, err);
        if (r == 0)
                r = refuse_frozen(l->cgroup, err);
        if (r == 0)
                r = cgroup_apply(l->cgroup, l->resources, err);
        if (r == 0) {
                l->state->cgroup = cgroup_save(l->cgroup);
                r = l->state->cgroup ? 0 : err_sys(err, ENOMEM, "saving the control groups");
        }
        l->placeholder = group.pid;
        return r;
}

/* ---- telling ---- */

int launch_run_hooks(const struct launch *l, pid_t pid, struct err **err)
{
        /* The oldest kind is told "created", which is what the specification's own validator and crun have; the others
         * run inside of the create operation, and runc says so. */
        int r = hooks_run(l->spec, HOOK_PRESTART, l->state, "created", pid, l->state->bundle, err);

        if (r == 0)
                r = hooks_run(l->spec, HOOK_CREATE_RUNTIME, l->state, "creating", pid, l->state->bundle, err);
        return r;
}

static int write_pid_file(const char *path, pid_t pid, struct err **err)
{
        _cleanup_free_ char *temporary = NULL;
        const char *slash = strrchr(path, '/');
        int r = 0;

        /* Beside it and renamed: whoever waits for the file finds the number in it. */
        if (asprintf(&temporary, "%.*s.%s.%d", slash ? (int)(slash - path + 1) : 0, path, slash ? slash + 1 : path,
                    getpid()) < 0)
                return err_sys(err, ENOMEM, "writing '%s'", path);
        {
                _cleanup_fclose_ FILE *f = fopen(temporary, "we");

                if (!f || fprintf(f, "%d", pid) < 0 || fflush(f) != 0)
                        r = -errno;
        }
        if (r == 0 && rename(temporary, path) < 0)
                r = -errno;
        if (r < 0) {
                unlink(temporary);
                return err_sys(err, -r, "writing the pid file '%s'", path);
        }
        return 0;
}

int launch_publish(const struct box_stdio *stdio, pid_t pid, int pidfd, struct err **err)
{
        int r = 0;

        if (stdio->pid_file)
                r = write_pid_file(stdio->pid_file, pid, err);
        if (r == 0 && stdio->pidfd_socket) {
                _cleanup_close_ int sock = terminal_connect(stdio->pidfd_socket, err);

                r = sock < 0 ? sock : terminal_send(sock, pidfd, err);
        }
        return r;
}

/* ---- taking back ---- */

void launch_undo(struct launch *l, const struct spawned *s)
{
        launch_end_placeholder(l);
        spawned_kill(s);
        if (l->cgroup)
                cgroup_remove(l->cgroup, NULL);
        rdt_remove(l->state);
        hooks_run_poststop(l->spec, l->state);
        state_remove(l->state, NULL);
}

/* The container of a run that is over. */
static int clean_up(struct launch *l, struct err **err)
{
        int r = l->cgroup ? cgroup_remove(l->cgroup, err) : 0;

        rdt_remove(l->state);
        if (state_remove(l->state, r < 0 ? NULL : err) < 0 && r == 0)
                r = -EIO;
        hooks_run_poststop(l->spec, l->state);
        return r;
}

int launch_wait(struct launch *l, const struct spawned *s, int master, bool keep, int *ret_status, struct err **err)
{
        int status = 0, r = wait_foreground(s->pid, s->pidfd, master, l->notify, &status, err);

        if (r == 0 && !keep)
                r = clean_up(l, err);
        if (r == 0)
                *ret_status = status;
        return r;
}

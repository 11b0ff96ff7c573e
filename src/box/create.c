/* The runtime's side of create, start and run. Reading order: make_container, which every one of them goes through. */
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "hooks.h"
#include "idmap.h"
#include "internal.h"
#include "netdev.h"
#include "notify.h"
#include "process.h"
#include "procfs.h"
#include "rdt.h"
#include "rootfs.h"
#include "seal.h"
#include "spawn.h"
#include "sync.h"
#include "sys.h"
#include "terminal.h"
#include "wait.h"

/* ---- preparing ---- */

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
        spec_free(l->process_owner);
        spec_free(l->spec);
}

/* Whether this process is in a user namespace itself: the first one maps everything. */
static bool in_user_namespace(int proc)
{
        char text[64];
        u32 a, b, n;

        return procfs_read(proc, "self/uid_map", text, sizeof(text)) > 0 && sscanf(text, "%u %u %u", &a, &b, &n) == 3 &&
               (a || b || n != UINT32_MAX);
}

/* Moves @fd above the descriptors that the payload keeps. */
static int move_up(const struct launch *l, int fd)
{
        int high;

        if (fd < 0 || fd >= (int)(3 + l->stdio->preserve_fds))
                return fd;
        high = fcntl(fd, F_DUPFD_CLOEXEC, (int)(3 + l->stdio->preserve_fds));
        close(fd);
        return high < 0 ? -errno : high;
}

int launch_prepare_process(struct launch *l, struct err **err)
{
        const char *strict = spec_annotation(l->spec, "run.oci.seccomp_fail_unknown_syscall"); /* crun */
        int r;

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
                l->handover = move_up(l, l->handover);
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

static bool is_annotated(const struct spec *spec, const char *key)
{
        const char *value = spec_annotation(spec, key);

        return value && strcmp(value, "0") != 0 && strcmp(value, "false") != 0;
}

static int prepare(struct launch *l, const struct box_create_args *args, bool foreground, struct err **err)
{
        int r = check_terminal(args, l->spec, foreground, err);

        if (r < 0)
                return r;
        l->proc = procfs_open(err);
        if (l->proc < 0)
                return l->proc;
        l->proc = move_up(l, l->proc);
        l->process = l->spec->process;
        l->no_pivot = args->no_pivot;
        l->keep_groups = is_annotated(l->spec, "run.oci.keep_original_groups");
        l->no_new_keyring = args->no_new_keyring;
        l->in_user_namespace =
                (l->spec->namespaces_new | l->spec->namespaces_joined) & CLONE_NEWUSER || in_user_namespace(l->proc);
        /* Somebody else is in the pid namespace who might look at our process (CAP_SYS_PTRACE) before it is the
         * payload. */
        l->always_clone = !(l->spec->namespaces_new & CLONE_NEWPID) && geteuid() == 0;
        /* Hooks inside are programs of the image that our process executes: they could be /proc/self/exe in disguise. */
        l->always_clone |= hooks_any(l->spec, HOOK_START_CONTAINER);
        r = cgroup_resources_parse(l->spec->linux_.resources, &l->resources, err);
        if (r < 0)
                return err_wrap(err, r, "linux.resources");
        r = rootfs_plan(l, err);
        if (r == 0)
                r = launch_prepare_process(l, err);
        if (r == 0)
                r = spawn_open_namespaces(l, err);
        if (r < 0)
                return r;
        if (args->stdio.console_socket) {
                l->console = terminal_connect(args->stdio.console_socket, err);
                if (l->console < 0)
                        return l->console;
        }
        return 0;
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

static void end_placeholder(struct launch *l)
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

static int make_cgroup(struct launch *l, struct err **err)
{
        const struct spec *spec = l->spec;
        struct cgroup_spec group = {
                .id = l->state->id,
                .path = spec->linux_.cgroups_path,
                .driver = l->runtime->cgroup_driver,
                .rootless = l->runtime->rootless,
                .delegate = spec->namespaces_new & CLONE_NEWUSER || spec->namespaces_new & CLONE_NEWCGROUP,
                .owner = geteuid(),
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

/* ---- the conversation ---- */

static char *state_text(const struct box_handle *h, const char *status)
{
        json_t *json = state_object(h, status);
        char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

        json_decref(json);
        return text;
}

static int run_hooks(const struct launch *l, enum spec_hook_point point, const char *status, struct err **err)
{
        _cleanup_free_ char *text = NULL;

        if (!hooks_any(l->spec, point))
                return 0;
        text = state_text(l->state, status);
        return text ? hooks_run(l->spec, point, text, l->state->bundle, err) : err_sys(err, ENOMEM, "running hooks");
}

/* As the specification has it: a poststop hook that fails is worth a warning and changes nothing. */
static void run_poststop(const struct launch *l)
{
        struct err *err = NULL;

        if (run_hooks(l, HOOK_POSTSTOP, "stopped", &err) < 0)
                log_warn("%s", err_message(err));
        err_free(err);
}

/* Fetches the seccomp listener as soon as the process says where it is, and gives it to its agent. */
static int serve_listener(struct launch *l, const struct spawned *s, struct err **err)
{
        const int number = atomic_load(l->listener_page);
        _cleanup_close_ int listener = -1;
        json_t *state;
        int r;

        if (number < 0)
                return 0;
        listener = (int)syscall(SYS_pidfd_getfd, s->pidfd, number, 0);
        if (listener < 0)
                return err_sys(err, errno, "fetching the seccomp listener");
        state = state_object(l->state, "creating");
        r = state ? seccomp_filter_send_listener(l->filter, listener, s->pid, state, err)
                  : err_sys(err, ENOMEM, "sending the seccomp listener");
        json_decref(state);
        if (r < 0)
                err_wrap(err, r, "failed to connect with seccomp agent");
        atomic_store(l->listener_page, LISTENER_TAKEN); /* pairs with load_filter in process.c */
        return r;
}

/* Messages until @until or the end of the stream. */
int launch_converse(struct launch *l, const struct spawned *s, enum sync_type until, int *ret_master, struct err **err)
{
        for (;;) {
                int fd = -1, type;

                while (l->listener_page && atomic_load(l->listener_page) >= LISTENER_PENDING) {
                        struct pollfd p = { .fd = s->sync, .events = POLLIN };
                        int r;

                        if (poll(&p, 1, 1) > 0)
                                break;
                        r = serve_listener(l, s, err);
                        if (r < 0)
                                return r;
                }
                type = sync_receive(s->sync, NULL, &fd, err);
                if (type < 0)
                        return type;
                if (type == SYNC_TERMINAL && ret_master && *ret_master < 0) {
                        *ret_master = fd;
                        continue;
                }
                closep(&fd);
                if (type == SYNC_HOOKS) {
                        int r = run_hooks(l, HOOK_PRESTART, "creating", err);

                        if (r == 0)
                                r = run_hooks(l, HOOK_CREATE_RUNTIME, "creating", err);
                        if (r < 0)
                                return r;
                        sync_send(s->sync, SYNC_HOOKS, 0, -1);
                        continue;
                }
                if (type == (int)until || type == SYNC_END)
                        return type == (int)until ? 0
                                                  : err_set(err, ERR_IO, ECONNRESET,
                                                            "the container's process died while it was set up");
                return err_set(err, ERR_INTERNAL, EPROTO, "message %d came unexpected", type);
        }
}

static int listen_for_start(struct launch *l, struct err **err)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        l->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" STATE_START_SOCKET, l->state->dir);
        if (l->listener < 0 || bind(l->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
                listen(l->listener, 1) < 0)
                return err_sys(err, errno, "making the start socket");
        l->listener = move_up(l, l->listener);
        return 0;
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

/* ---- making a container ---- */

/* From the state directory on, everything made so far is taken back by undo when a step fails. */
static void undo(struct launch *l, const struct spawned *s)
{
        end_placeholder(l);
        if (s->pid > 0) {
                sys_pidfd_send_signal(s->pidfd, SIGKILL);
                waitpid(s->pid, NULL, 0);
        }
        if (l->cgroup)
                cgroup_remove(l->cgroup, NULL);
        rdt_remove(l->state);
        run_poststop(l);
        state_remove(l->state, NULL);
}

static int set_up(struct launch *l, struct spawned *s, int *ret_master, struct err **err)
{
        int r = state_save_config(l->state, l->spec, err);

        if (r == 0)
                r = make_cgroup(l, err);
        if (r == 0)
                r = rootfs_prepare_sources(l, err);
        if (r == 0)
                r = spawn(l, init_run, s, err);
        if (r < 0)
                return r;
        l->state->pid = s->pid;
        l->state->pid_start = state_process_start(s->pid, NULL);
        if (l->spec->namespaces_new & CLONE_NEWUSER) {
                r = idmap_write_process(
                        l->proc, s->pid, &l->spec->linux_.uid_mappings, &l->spec->linux_.gid_mappings, err);
                if (r == 0)
                        r = sync_send(s->sync, SYNC_MAPPED, 0, -1);
        }
        if (r == 0)
                r = rdt_apply(l->spec, l->state, s->pid, err);
        if (r == 0)
                r = netdev_move(l->spec, s->pid, err);
        if (r == 0)
                r = state_save(l->state, err);
        if (r < 0)
                return r;
        sync_send(s->sync, SYNC_GO, 0, -1); /* when it died, the conversation says why */
        r = launch_converse(l, s, l->listener >= 0 ? SYNC_READY : SYNC_END, ret_master, err);
        end_placeholder(l);
        return r;
}

static int open_bundle(struct launch *l, const struct box_create_args *args, char **ret_path, struct err **err)
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
        *ret_path = TAKE_PTR(path);
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

/* Everything up to a container that is created (foreground false, listening for start) or runs. */
static int make_container(struct launch *l, const struct box_runtime *runtime, const struct box_create_args *args,
        bool listening, bool foreground, struct spawned *s, int *ret_master, struct err **err)
{
        _cleanup_free_ char *bundle = NULL;
        int r;

        l->runtime = runtime;
        l->stdio = &args->stdio;
        r = open_bundle(l, args, &bundle, err);
        if (r == 0)
                r = prepare(l, args, foreground, err);
        if (r < 0)
                return r;
        if (!listening && !l->process)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "process: missing, nothing can be run");
        r = state_new(runtime, args->id, &l->state, err);
        if (r < 0)
                return r;
        l->state->dir = move_up(l, l->state->dir);
        l->state->bundle = TAKE_PTR(bundle);
        l->state->annotations = json_incref(l->spec->annotations);
        l->state->descriptors = describe_descriptors();
        r = find_rootfs(l, l->state->bundle, err);
        if (r == 0)
                r = state_set_created(l->state, err);
        if (r == 0)
                r = notify_prepare(l, err);
        if (r == 0 && listening)
                r = listen_for_start(l, err);
        if (r == 0)
                r = set_up(l, s, ret_master, err);
        if (r == 0)
                r = launch_publish(&args->stdio, s->pid, s->pidfd, err);
        if (r < 0)
                undo(l, s);
        return r;
}

static void release_spawned(struct spawned *s)
{
        closep(&s->pidfd);
        closep(&s->sync);
}

int box_create(const struct box_runtime *runtime, const struct box_create_args *args, struct err **err)
{
        _cleanup_(launch_release) struct launch l;
        _cleanup_(release_spawned) struct spawned s = { .pid = -1, .pidfd = -1, .sync = -1 };

        launch_init(&l);
        if (geteuid() == 0)
                seal_process();
        return make_container(&l, runtime, args, true, false, &s, NULL, err);
}

int box_start(const struct box_runtime *runtime, const char *id, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(spec_freep) struct spec *spec = NULL;
        _cleanup_close_ int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int notify = -1, pidfd = -1;
        _cleanup_free_ char *text = NULL;
        enum box_status status;
        int r = state_load(runtime, id, &h, err);

        if (r < 0)
                return r;
        status = state_quick_status(h);
        if (status != BOX_CREATED)
                return err_set(err, ERR_BUSY, EBUSY, "cannot start a container that is %s", box_status_name(status));
        r = state_load_config(h, &spec, err);
        if (r < 0)
                return r;
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" STATE_START_SOCKET, h->dir);
        if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0)
                return err_sys(err, errno, "starting container '%s'", id);
        notify = notify_reopen(h, err);
        if (notify < -1)
                return notify;
        unlinkat(h->dir, STATE_START_SOCKET, 0);
        r = sync_send(sock, SYNC_GO, 0, -1);
        if (r < 0)
                return err_sys(err, -r, "starting container '%s'", id);
        r = sync_receive(sock, NULL, NULL, err);
        if (r < 0)
                return err_wrap(err, r, "starting container '%s'", id);
        if (hooks_any(spec, HOOK_POSTSTART)) {
                text = state_text(h, "running");
                r = text ? hooks_run(spec, HOOK_POSTSTART, text, h->bundle, err)
                         : err_sys(err, ENOMEM, "running hooks");
                if (r < 0) {
                        /* The specification: stop it, and go on with deleting. */
                        box_delete(runtime, id, true, NULL);
                        return r;
                }
        }
        pidfd = notify >= 0 ? state_pidfd(h) : -1;
        if (pidfd >= 0)
                notify_wait(notify, pidfd);
        return 0;
}

/* The container of a run that is over. */
static int clean_up(struct launch *l, struct err **err)
{
        int r = l->cgroup ? cgroup_remove(l->cgroup, err) : 0;

        rdt_remove(l->state);
        if (state_remove(l->state, r < 0 ? NULL : err) < 0 && r == 0)
                r = -EIO;
        run_poststop(l);
        return r;
}

int box_run(const struct box_runtime *runtime, const struct box_create_args *args, int *ret_status, struct err **err)
{
        _cleanup_(launch_release) struct launch l;
        _cleanup_(release_spawned) struct spawned s = { .pid = -1, .pidfd = -1, .sync = -1 };
        _cleanup_close_ int master = -1;
        const bool foreground = !args->stdio.detach;
        int r = 0, status = 0;

        launch_init(&l);
        if (geteuid() == 0)
                seal_process();
        if (foreground) {
                r = wait_prepare(err);
                if (!args->no_subreaper)
                        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        }
        if (r == 0)
                r = make_container(&l, runtime, args, false, foreground, &s, &master, err);
        if (r < 0)
                return r;
        r = run_hooks(&l, HOOK_POSTSTART, "running", err);
        if (r < 0) {
                undo(&l, &s);
                return r;
        }
        if (!foreground) {
                if (l.notify >= 0)
                        notify_wait(l.notify, s.pidfd);
                *ret_status = 0;
                return 0;
        }
        r = wait_foreground(s.pid, s.pidfd, master, l.notify, &status, err);
        if (r < 0)
                return r;
        if (!args->keep) {
                r = clean_up(&l, err);
                if (r < 0)
                        return r;
        }
        *ret_status = status;
        return 0;
}

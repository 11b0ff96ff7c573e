/* restore: criu makes the processes, inside the control groups and beside the root that the runtime prepared, and asks
 * at the points where create would have something to do. The first process becomes our child. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "checkpoint.h"
#include "netdev.h"
#include "rdt.h"
#include "rootfs.h"
#include "seal.h"
#include "spawn.h"
#include "sys.h"
#include "terminal.h"
#include "wait.h"

struct restoring {
        struct launch *l;
        const struct box_checkpoint_args *args;
        pid_t runtime; /* this process */
        struct checkpoint_dirs dirs;
        int stdio[3]; /* what was the first process's, where criu cannot open it; -1 */
        char *root;   /* STATE_CRIU_ROOT, absolute */
        int master;   /* the terminal, to be relayed; -1 */
};

/* A child does @run, which may enter other namespaces: ours stay. */
static int in_child(const struct launch *l, int (*run)(struct launch *l, struct err **err), struct err **err)
{
        struct launch copy = *l;
        int pair[2], r, status = 0;
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return err_sys(err, errno, "making a pair of sockets");
        pid = fork();
        if (pid == 0) {
                struct err *e = NULL;

                close(pair[0]);
                r = run(&copy, &e);
                if (r < 0)
                        sync_send_error(pair[1], r, e);
                _exit(0);
        }
        close(pair[1]);
        r = pid < 0 ? err_sys(err, errno, "making a process") : sync_receive(pair[0], NULL, NULL, err);
        close(pair[0]);
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (r >= 0 && status)
                return err_set(err, ERR_IO, ECHILD, "a process of the runtime died");
        return MIN(r, 0);
}

/* ---- before criu ---- */

/* criu wants mount points to be there. They are made as create makes them, with all bind mounts in place, in a mount
 * namespace that is forgotten afterwards. */
static int make_mount_points(struct launch *l, struct err **err)
{
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0)
                return err_sys(err, errno, "making a mount namespace");
        return rootfs_make_targets(l, err);
}

static void restore_mount(struct criu_request *q, const char *target, const char *key, const char *source)
{
        (void)target;
        criu_textf(q, CRIU_EXTERNAL, "mnt[%s]:%s", key, source);
}

static int restore_namespaces(struct criu_request *q, const struct launch *l, struct err **err)
{
        static const char *const kinds[] = {
#define NAMESPACE(id, name, proc, flag) [NAMESPACE_##id] = proc,
                SPEC_NAMESPACES(NAMESPACE)
#undef NAMESPACE
        };

        for (int i = 0; i < NAMESPACE_COUNT; i++) {
                const char *key = checkpoint_namespace_key((enum spec_namespace_id)i);

                if (l->namespace_fd[i] < 0)
                        continue;
                if (i == NAMESPACE_CGROUP)
                        return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                                "criu cannot restore a container that joins a cgroup namespace");
                if (key)
                        criu_inherit(q, key, l->namespace_fd[i]);
                else
                        criu_join(q, kinds[i], l->spec->namespace_path[i]);
        }
        return 0;
}

/* An entry of CHECKPOINT_DESCRIPTORS. For a pipe ours takes its place. A file must be the same one as before: criu
 * compares type, mode and size. */
static int restore_descriptor(
        struct criu_request *q, struct restoring *r, const char *entry, int number, struct err **err)
{
        const char *path = strchr(entry, ']');
        char key[64];

        if (strncmp(entry, "pipe:", 5) == 0) {
                criu_inherit(q, entry, number);
                return 0;
        }
        if (strncmp(entry, "file[", 5) != 0 || !path++ || (size_t)(path - entry) >= sizeof(key))
                return 0;
        r->stdio[number] = open(path, O_PATH | O_CLOEXEC);
        if (r->stdio[number] < 0)
                return err_sys(err, errno, "opening '%s', which was descriptor %d of the container", path, number);
        snprintf(key, sizeof(key), "%.*s", (int)(path - entry), entry);
        criu_inherit(q, key, r->stdio[number]);
        return 0;
}

static int restore_descriptors(struct criu_request *q, struct restoring *r, struct err **err)
{
        _cleanup_close_ int fd =
                openat(r->dirs.fd[CHECKPOINT_IMAGE], CHECKPOINT_DESCRIPTORS, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        json_t *list = fd < 0 ? NULL : json_loadfd(fd, 0, NULL);
        int e = 0;

        if (!json_is_array(list)) {
                json_decref(list);
                return err_set(err, ERR_NOT_FOUND, ENOENT,
                        "no checkpoint here: '" CHECKPOINT_DESCRIPTORS "' is missing or damaged");
        }
        for (size_t i = 0; e == 0 && i < ARRAY_SIZE(r->stdio); i++) {
                const char *entry = json_string_value(json_array_get(list, i));

                if (entry)
                        e = restore_descriptor(q, r, entry, (int)i, err);
        }
        json_decref(list);
        return e;
}

/* The groups are new and may have other names: criu puts processes below these. A controller is named as in
 * /proc/PID/cgroup. */
static int add_cgroup_roots(struct criu_request *q, const struct launch *l, struct err **err)
{
        const struct cgroup_hierarchy *h;

        for (size_t i = 0; l->cgroup && (h = cgroup_hierarchy(l->cgroup, i)); i++) {
                const char *path = h->path + strlen(h->mount), *names = h->options ? h->options : "";
                char name[64];

                if (strncmp(names, "none,", 5) == 0)
                        names += 5;
                do {
                        const size_t n = strcspn(names, ",");

                        if (n >= sizeof(name))
                                return err_set(err, ERR_INTERNAL, ENAMETOOLONG, "control group '%s'", h->name);
                        memcpy(name, names, n);
                        name[n] = 0;
                        criu_cgroup_root(q, name, path);
                        names += n + (names[n] == ',');
                } while (*names);
        }
        return 0;
}

static int make_request(struct criu_request *q, struct restoring *r, struct err **err)
{
        const struct box_checkpoint_args *args = r->args;
        const struct launch *l = r->l;
        _cleanup_close_ int root = open(l->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
        int e = root < 0 ? err_sys(err, errno, "opening '%s'", l->rootfs)
                         : checkpoint_common(q, l, &r->dirs, args, err);

        if (e == 0)
                e = restore_namespaces(q, l, err);
        if (e == 0)
                e = checkpoint_mounts(q, l, root, restore_mount, err);
        if (e == 0)
                e = restore_descriptors(q, r, err);
        if (e == 0)
                e = add_cgroup_roots(q, l, err);
        criu_textf(q, CRIU_EXTERNAL, "mnt[" CHECKPOINT_MASK "]:/dev/null");
        criu_text(q, CRIU_ROOT, r->root);
        criu_int(q, CRIU_RESTORE_SIBLING, true);
        criu_int(q, CRIU_EVASIVE_DEVICES, true);
        if (args->lsm_profile)
                criu_text(q, CRIU_LSM_PROFILE, args->lsm_profile);
        if (args->lsm_mount_context)
                criu_text(q, CRIU_LSM_MOUNT_CONTEXT, args->lsm_mount_context);
        return e;
}

/* ---- criu ---- */

/* The directory again, by its path in this mount namespace: criu mounts in it. */
static int reopen(int fd, const char *path, struct err **err)
{
        _cleanup_close_ int again = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return again < 0 || dup3(again, fd, O_CLOEXEC) < 0 ? err_sys(err, errno, "opening '%s'", path) : 0;
}

/* In the process that becomes criu. It wants a root that is a mount point on nothing that is mounted over; that is made
 * in a mount namespace of its own, so nothing of it can be left behind. */
static int prepare_criu(void *arg, struct err **err)
{
        const struct restoring *r = arg;
        struct launch *l = r->l;
        int e;

        /* Until the first process is there, this one is what delete finds: a runtime that is killed takes criu along,
         * and what criu made so far is in the control groups. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != r->runtime)
                _exit(1);
        l->state->pid = getpid();
        l->state->pid_start = state_process_start(getpid(), NULL);
        e = state_save(l->state, err);
        if (e < 0)
                return e;
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0 ||
                mount(l->rootfs, r->root, NULL, MS_BIND | MS_REC, NULL) < 0)
                return err_sys(err, errno, "mounting the root file system for criu");
        e = reopen(r->dirs.fd[CHECKPOINT_IMAGE], r->args->image_path, err);
        if (e == 0 && r->args->work_path)
                e = reopen(r->dirs.fd[CHECKPOINT_WORK], r->args->work_path, err);
        if (e < 0)
                return e;
        e = l->cgroup ? cgroup_enter(l->cgroup, false) : 0;
        return e < 0 ? err_sys(err, -e, "entering the container's control groups") : 0;
}

static int loopback_of_container(struct launch *l, struct err **err)
{
        _cleanup_close_ int pidfd = sys_pidfd_open(l->state->pid);

        if (pidfd < 0 || setns(pidfd, CLONE_NEWNET) < 0)
                return err_sys(err, errno, "joining the restored network namespace");
        return netdev_loopback_up(err);
}

static int set_up_namespaces(struct launch *l, pid_t pid, struct err **err)
{
        int r = 0;

        l->state->pid = pid;
        if (l->spec->namespaces_new & CLONE_NEWNET)
                r = in_child(l, loopback_of_container, err);
        if (r == 0)
                r = netdev_move(l->spec, pid, err);
        return r < 0 ? r : launch_run_hooks(l, pid, err);
}

/* All is there and nothing runs yet. */
static int record(struct launch *l, pid_t pid, struct err **err)
{
        int r;

        l->state->pid = pid;
        l->state->pid_start = state_process_start(pid, NULL);
        r = rdt_apply(l->spec, l->state, pid, err);
        return r < 0 ? r : state_save(l->state, err);
}

static int serve_restore(void *arg, const char *name, pid_t pid, int fd, struct err **err)
{
        struct restoring *r = arg;

        if (strcmp(name, "setup-namespaces") == 0)
                return set_up_namespaces(r->l, pid, err);
        if (strcmp(name, "post-restore") == 0)
                return record(r->l, pid, err);
        if (strcmp(name, "orphan-pts-master") == 0 && fd >= 0) {
                if (r->l->console >= 0)
                        return terminal_send(r->l->console, fd, err);
                if (r->master < 0)
                        r->master = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        }
        return 0;
}

static int run_criu(struct restoring *r, struct spawned *s, struct err **err)
{
        _cleanup_(criu_release) struct criu_request q = { .type = CRIU_RESTORE };
        struct launch *l = r->l;
        int fds[CHECKPOINT_DIRS + NAMESPACE_COUNT + ARRAY_SIZE(r->stdio)];
        const struct criu_server server = { .prepare = prepare_criu,
                .notify = serve_restore,
                .arg = r,
                .fds = fds,
                .n_fds = ARRAY_SIZE(fds),
                .log = r->dirs.log };
        int e = state_save_config(l->state, l->spec, err);

        if (e == 0)
                e = launch_make_cgroup(l, err);
        if (e == 0)
                e = in_child(l, make_mount_points, err);
        if (e == 0)
                e = make_request(&q, r, err);
        if (e == 0 && mkdir(r->root, 0700) < 0)
                e = err_sys(err, errno, "making '%s'", r->root);
        memcpy(fds, r->dirs.fd, sizeof(r->dirs.fd));
        memcpy(fds + CHECKPOINT_DIRS, l->namespace_fd, sizeof(l->namespace_fd));
        memcpy(fds + CHECKPOINT_DIRS + NAMESPACE_COUNT, r->stdio, sizeof(r->stdio));
        if (e == 0)
                e = criu_run(l->runtime->criu, &q, &server, &s->pid, err);
        rmdir(r->root);
        launch_end_placeholder(l);
        if (e < 0)
                return e;
        s->pidfd = sys_pidfd_open(s->pid);
        return s->pidfd < 0 ? err_sys(err, -s->pidfd, "watching the restored process") : 0;
}

static void release_restoring(struct restoring *r)
{
        checkpoint_close_dirs(&r->dirs);
        closep(&r->master);
        for (size_t i = 0; i < ARRAY_SIZE(r->stdio); i++)
                closep(&r->stdio[i]);
        free(r->root);
}

static int restore(struct restoring *r, const struct box_create_args *create, struct spawned *s, struct err **err)
{
        struct launch *l = r->l;
        struct stat st;
        int e;

        if (stat(r->args->image_path, &st) < 0)
                return err_sys(err, errno, "invalid checkpoint directory '%s'", r->args->image_path);
        e = checkpoint_open_dirs(r->args, "restore.log", &r->dirs, err);
        if (e == 0)
                e = launch_record(l, create->id, err);
        if (e < 0)
                return e;
        if (asprintf(&r->root, "%s/%s/" STATE_CRIU_ROOT, l->runtime->root, create->id) < 0) {
                r->root = NULL;
                e = err_sys(err, ENOMEM, "restoring");
        }
        if (e == 0)
                e = run_criu(r, s, err);
        if (e == 0)
                e = launch_publish(&create->stdio, s->pid, s->pidfd, err);
        if (e < 0)
                launch_undo(l, s);
        return e;
}

int box_restore(const struct box_runtime *runtime, const struct box_create_args *create,
        const struct box_checkpoint_args *args, int *ret_status, struct err **err)
{
        _cleanup_(launch_release) struct launch l;
        _cleanup_(spawned_release) struct spawned s = SPAWNED_NONE;
        _cleanup_(release_restoring) struct restoring restoring = { .l = &l,
                .args = args,
                .runtime = getpid(),
                .dirs = CHECKPOINT_NO_DIRS,
                .stdio = { -1, -1, -1 },
                .master = -1 };
        const bool foreground = !create->stdio.detach;
        int r = criu_check(runtime->criu, err);

        launch_init(&l);
        if (geteuid() == 0)
                seal_process();
        if (r == 0 && foreground) {
                r = wait_prepare(err);
                if (!create->no_subreaper)
                        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        }
        if (r == 0)
                r = launch_open(&l, runtime, create, foreground, err);
        if (r == 0)
                r = launch_connect(&l, err);
        if (r == 0)
                r = restore(&restoring, create, &s, err);
        if (r < 0)
                return err_wrap(err, r, "restoring container '%s'", create->id);
        *ret_status = 0;
        return foreground ? launch_wait(&l, &s, restoring.master, create->keep, ret_status, err) : 0;
}

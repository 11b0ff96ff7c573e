#include "root_view.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "box/mount.h"
#include "box/root.h"
#include "ops.h"
#include "session.h"
#include "userns.h"

struct view {
        struct instance *inst;
        int root;   /* of a running one, or mounted for us alone; -1: the child mounts it */
        int userns; /* whose ids are seen; -1: our own */
        int lock;   /* of a stopped one; -1 */
};

/* --- in a child --------------------------------------------------------------------------------------------------- */

static int become_inner_root(int userns, struct err **err)
{
        if (setns(userns, CLONE_NEWUSER) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
                return err_sys(err, errno, "entering the user namespace");
        return 0;
}

static int mount_one(const struct instance *inst, int root, const struct instance_mount *m, struct err **err)
{
        const bool is_volume = strcmp(m->type, "volume") == 0;
        _cleanup_free_ char *volume = is_volume ? volume_path(inst->host, m->source) : NULL;
        const char *source = is_volume ? volume : m->source;
        _cleanup_close_ int from = source ? open(source, O_PATH | O_CLOEXEC) : -1, tree = -1, target = -1;
        struct stat st;
        int r;

        if (!source || strcmp(m->type, "tmpfs") == 0)
                return 0;
        if (from < 0 || fstat(from, &st) < 0)
                return errno == ENOENT ? 0 : err_sys(err, errno, "'%s'", source);
        target = S_ISDIR(st.st_mode) ? root_make_dir(root, m->target, 0755, err) : root_make_file(root, m->target, err);
        if (target < 0)
                return target;
        tree = mount_clone(from, !m->no_recursive);
        r = tree < 0 ? tree : mount_set_propagation(tree, MS_PRIVATE | MS_REC);
        if (r == 0 && m->read_only)
                r = mount_set_attr(tree, MOUNT_ATTR_RDONLY, 0, false);
        if (r == 0)
                r = mount_move(tree, target);
        return r < 0 ? err_sys(err, -r, "mounting '%s'", m->target) : 0;
}

/* The root of a stopped instance with its volumes, in a mount namespace that ends with this process. */
static int mount_all(struct view *view, struct err **err)
{
        struct instance *inst = view->inst;
        _cleanup_free_ const struct instance_mount **mounts = NULL;
        _cleanup_free_ char *path = NULL;
        int r = launch_own_mounts(err);

        if (r == 0)
                r = launch_mount_root(inst, &path, &view->root, err);
        if (r == 0)
                r = launch_sorted_mounts(inst, &mounts, err);
        for (size_t i = 0; r == 0 && i < inst->config.mounts.n; i++)
                r = mount_one(inst, view->root, mounts[i], err);
        return r;
}

static int run_in_child(struct view *view, root_view_fn *fn, void *opaque, struct err **err)
{
        int report[2], r, status;
        pid_t pid;

        if (pipe2(report, O_CLOEXEC) < 0)
                return err_sys(err, errno, "looking into '%s'", view->inst->config.name);
        fflush(NULL);
        pid = fork();
        if (pid == 0) {
                struct err *error = NULL;

                prctl(PR_SET_PDEATHSIG, SIGKILL);
                r = view->root < 0 ? mount_all(view, &error) : 0;
                if (r == 0 && view->userns >= 0)
                        r = become_inner_root(view->userns, &error);
                if (r == 0)
                        r = fn(opaque, view->root, &error);
                err_send(report[1], r, error);
                _exit(0);
        }
        close(report[1]);
        r = pid < 0 ? err_sys(err, errno, "looking into '%s'", view->inst->config.name) : err_receive(report[0], err);
        close(report[0]);
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        return r;
}

/* --- which one it is ----------------------------------------------------------------------------------------------- */

static int open_running(struct view *view, pid_t pid, struct err **err)
{
        char path[40];
        int r = view->inst->ops->root(view->inst, pid, &view->root, err);

        if (r < 0 || !view->inst->config.id_maps)
                return r;
        snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
        view->userns = open(path, O_RDONLY | O_CLOEXEC);
        return view->userns < 0 ? err_sys(err, errno, "opening the user namespace of '%s'", view->inst->config.name)
                                : 0;
}

/* Nobody may start it while its root is mounted here too. */
static int open_stopped(struct view *view, struct err **err)
{
        struct instance *inst = view->inst;
        int r = instance_lock(inst, true, &view->lock, err);

        if (r == 0 && inst->config.id_maps && inst->host->rootless) {
                /* its volumes have on disk what it sees from there, and what is deleted is so by fuse-overlayfs's marks */
                r = userns_make(inst, &inst->userns, err);
                if (r == 0)
                        view->userns = fcntl(inst->userns, F_DUPFD_CLOEXEC, 3);
        }
        if (r < 0 || inst->config.mounts.n || view->userns >= 0)
                return r;
        return image_instance_mount(inst->host->images, inst->id, 0, &view->root, err);
}

int root_view_run(struct instance *inst, root_view_fn *fn, void *opaque, struct err **err)
{
        struct view view = { .inst = inst, .root = -1, .userns = -1, .lock = -1 };
        const struct instance_state *state;
        int r = instance_get_state(inst, &state, err);

        if (r < 0)
                return r;
        /* When it cannot be opened it has ended meanwhile. */
        if (!state->pid || open_running(&view, state->pid, NULL) < 0)
                r = open_stopped(&view, err);
        if (r == 0)
                r = view.root < 0 || view.userns >= 0 ? run_in_child(&view, fn, opaque, err)
                                                      : fn(opaque, view.root, err);
        closep(&view.root);
        closep(&view.userns);
        closep(&view.lock);
        return r;
}

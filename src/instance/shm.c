/* /dev/shm of an instance for another one that joins its IPC namespace. It is mounted in the other's mount namespace alone, from where
 * nobody else may bind it: a child goes there and clones the mount. The child shares our descriptors, so what it opened is ours. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "box/sys.h"
#include "spec.h"

#define DIR_SHM "shm" /* where it is mounted for the runtime to find it */

/* In the child. The clone's descriptor, or -errno. */
static int clone_there(int mount_namespace)
{
        int fd;

        if (setns(mount_namespace, CLONE_NEWNS) < 0)
                return -errno;
        fd = open_tree(AT_FDCWD, "/dev/shm", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
        return fd < 0 ? -errno : fd;
}

static int clone_of(pid_t other, int *ret)
{
        const struct sys_clone_args args = { .flags = CLONE_FILES, .exit_signal = SIGCHLD };
        int answer[2], found = -ECHILD;
        char path[40];
        pid_t pid;

        snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)other);
        _cleanup_close_ int there = open(path, O_RDONLY | O_CLOEXEC);
        if (there < 0 || pipe2(answer, O_CLOEXEC) < 0)
                return -errno;
        pid = sys_clone3(&args);
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                found = clone_there(there);
                _exit(write(answer[1], &found, sizeof(found)) != sizeof(found));
        }
        while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        close(answer[1]);
        if (pid < 0 || read(answer[0], &found, sizeof(found)) != sizeof(found))
                found = pid < 0 ? pid : -ECHILD;
        close(answer[0]);
        if (found < 0)
                return found;
        *ret = found;
        return 0;
}

int shm_borrow(const struct instance *inst, pid_t other, char **ret_path, struct err **err)
{
        _cleanup_free_ char *path = instance_path(inst, DIR_SHM);
        _cleanup_close_ int tree = -1;
        int r = path ? clone_of(other, &tree) : -ENOMEM;

        if (r < 0)
                return err_sys(err, -r, "sharing /dev/shm");
        r = io_make_dir(inst->dir, DIR_SHM, 0700, err);
        if (r < 0)
                return r;
        if (move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return err_sys(err, errno, "sharing /dev/shm");
        *ret_path = TAKE_PTR(path);
        return 0;
}

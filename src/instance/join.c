/* A user's containers are in a user namespace, and only who is in the same one can look into them. So every further command of
 * the user joins the one that a living supervisor is in; the first makes one (image_enter_user_namespace). */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "internal.h"

/* The supervisor of that directory, when it lives. */
static pid_t living_supervisor(int instances, const char *id)
{
        struct instance inst = { .dir = openat(instances, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) };
        struct record record;
        pid_t pid = 0;

        if (inst.dir >= 0 && supervisor_alive(&inst) && record_load(&inst, FILE_STATE, &record) == 0)
                pid = (pid_t)record_number(&record, "supervisor", 0);
        closep(&inst.dir);
        return pid;
}

static int enter(pid_t pid)
{
        _cleanup_close_ int fd = -1;
        char path[40];

        snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || setns(fd, CLONE_NEWUSER) < 0)
                return -errno;
        /* We are in: from here on there is no way back. */
        if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || unshare(CLONE_NEWNS) < 0 ||
                mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
                return -EIO;
        return 1;
}

static int try_one(void *opaque, int dirfd, const char *name, struct err **err)
{
        const pid_t pid = id_is_valid(name) ? living_supervisor(dirfd, name) : 0;
        const int r = pid > 1 ? enter(pid) : 0;

        return r == -EIO ? err_sys(err, EIO, "joining the user namespace of process %d", (int)pid) : MAX(r, 0);
}

int user_namespace_enter(const char *root, struct err **err)
{
        _cleanup_close_ int fd = -1;
        int r = 0;

        if (geteuid() == 0)
                return 0;
        fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
                r = io_list_dir(fd, DIR_INSTANCES, try_one, NULL, err);
        return r == 0 ? image_enter_user_namespace(err) : MIN(r, 0);
}

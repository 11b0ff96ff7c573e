/* Namespaces of our own (namespaces(7)), and in the mount namespace an empty root.
 *
 *   user     rights that the process has, or gets by a fault of the kernel's, are none over the host; it cannot trace processes outside
 *   mount    the tree of files is an empty directory that cannot be written; what was kept is reached by its descriptor alone, and is a mount
 *            with nothing above it, so that ".." ends there; devices in it cannot be opened, programs not be executed
 *   net      no interfaces but a loopback that is down, no abstract unix sockets of others
 *   ipc      no shared memory, semaphores and message queues of others
 *   uts      the host's name cannot be changed
 *   cgroup   the host's tree of groups is not seen
 *
 * A process cannot put itself into a pid namespace, only its children. A VMM that is to be in one is started so by whoever
 * starts it; one that is not cannot use the numbers of other processes because of the user namespace, seccomp and Landlock (ADR 82).
 *
 * Who may map all users (root, or root of a container) does so where files are to keep their owners; else there is one user. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "jail_internal.h"

/* <linux/mount.h> and <sys/mount.h> exclude each other in glibc 2.36. */
#define UNMOUNT_DETACH 2

#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

/* ---- users ---- */

/* Everybody in this namespace, by the same number: the lines of /proc/self/uid_map without what they are outside. */
static int map_all(const char *path, char ret[static PORTER_TEXT_MAX])
{
        _cleanup_fclose_ FILE *f = fopen(path, "re");
        unsigned first, count;
        size_t len = 0;

        if (!f)
                return -errno;
        while (fscanf(f, "%u %*u %u", &first, &count) == 2) {
                const int n = snprintf(ret + len, PORTER_TEXT_MAX - len, "%u %u %u\n", first, first, count);

                if ((size_t)n >= PORTER_TEXT_MAX - len)
                        return -E2BIG;
                len += (size_t)n;
        }
        return len ? 0 : -EINVAL;
}

struct maps {
        char uids[PORTER_TEXT_MAX], gids[PORTER_TEXT_MAX];
};

static int maps_choose(const struct jail *jail, struct maps *ret)
{
        int r;

        if (jail->capabilities && jail->may_set_ids) {
                r = map_all("/proc/self/uid_map", ret->uids);
                return r < 0 ? r : map_all("/proc/self/gid_map", ret->gids);
        }
        snprintf(ret->uids, sizeof(ret->uids), "%u %u 1\n", jail->uid, jail->uid);
        snprintf(ret->gids, sizeof(ret->gids), "%u %u 1\n", jail->gid, jail->gid);
        return 0;
}

/* ---- mounts ---- */

static bool is_same_file(int a, int b)
{
        struct stat sa, sb;

        return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* The directory's descriptor is of the old mount namespace, where the way up leads to the host's root, and a mount of that one cannot be
 * cloned. So it is looked up again; is_same_file because of who changes names meanwhile. */
static int keep(const struct jail_directory *d)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC };
        _cleanup_close_ int tree = (int)syscall(SYS_open_tree, AT_FDCWD, d->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

        if (tree < 0)
                return -errno;
        if (!is_same_file(tree, d->fd))
                return -ESTALE;
        if (d->access == JAIL_READ)
                attr.attr_set |= MOUNT_ATTR_RDONLY;
        if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0)
                return -errno;
        return dup3(tree, d->fd, O_CLOEXEC) < 0 ? -errno : 0;
}

/* A file system with nothing in it. */
static int empty_root(void)
{
        _cleanup_close_ int context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
        int root;

        if (context < 0 || syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "nr_inodes", "1", 0) < 0 ||
                syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "mode", "555", 0) < 0 ||
                syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return -errno;
        root = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC,
                MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        return root < 0 ? -errno : root;
}

/* Our own namespace has copies of the host's mounts, which propagate nothing back: they go all at once. */
static int change_root(void)
{
        _cleanup_close_ int root = empty_root();

        if (root < 0)
                return root;
        /* On top of the old root: any directory would do, and this one is there for sure. pivot_root(2), "pivot_root(".", ".")". */
        if (syscall(SYS_move_mount, root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0 || fchdir(root) < 0 ||
                syscall(SYS_pivot_root, ".", ".") < 0 || syscall(SYS_umount2, ".", UNMOUNT_DETACH) < 0 || chdir("/") < 0)
                return -errno;
        return 0;
}

int jail_namespaces(struct jail *jail, struct err **err)
{
        struct maps maps;
        int r = maps_choose(jail, &maps);

        if (r < 0)
                return err_sys(err, -r, "looking at this process' user namespace");
        if (unshare(NAMESPACES) < 0)
                return err_sys(err, errno, "making namespaces");
        r = porter_map_ids(&jail->porter, !jail->may_set_ids, maps.uids, maps.gids);
        if (r < 0)
                return err_sys(err, -r, "mapping users of a namespace");
        r = jail_become(jail, err);
        if (r < 0)
                return r;
        jail->own_namespaces = true;
        for (size_t i = 0; i < jail->n_directories; i++) {
                r = keep(&jail->directories[i]);
                if (r < 0)
                        return err_sys(err, -r, "keeping the directory '%s'", jail->directories[i].path);
        }
        r = change_root();
        return r < 0 ? err_sys(err, -r, "changing the root directory") : 0;
}

/* Three ways to the same end, a mount namespace in which the container's root is "/" and nothing of the host's is left.
 *
 * pivot_root exchanges the two mounts. The kernel then looks at every thread of the host for a root or working
 * directory that has to follow (chroot_fs_refs), so it takes longer the more runs there: twice as long beside 300
 * containers. In a new namespace nobody's has to but ours, and setns moves ours: a process that enters a mount
 * namespace, be it its own, gets for "/" what is mounted on the namespace's root. So where it is possible (replace) the
 * old root is unmounted, ours is put in its place, and the namespace entered anew:
 *
 *      rootfs                          rootfs                  rootfs
 *        +- / of the host    umount      (nothing)    move       +- / of the container
 *            +- root                                                 copy of "root" with all that is on it
 *
 * The mounts are copied first, because unmounting the old root takes everything below it along. What would not
 * survive the copy makes us pivot: propagation that somebody asked for, and a terminal, whose descriptor would name
 * a mount that is gone (ttyname). So does what the kernel locks, which is everything in a user namespace. And who may
 * unmount must not come to what is below: the first root of all, in which an initramfs may have left something.
 * docs/adr/0032 has figures. */
#include "root_swap.h"

#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "mount.h"
#include "procfs.h"
#include "rootfs.h"
#include "sys.h"

/* ---- without pivot_root ---- */

/* mountinfo writes spaces and the like as \\040. */
static void unescape(char *path)
{
        char *to = path;

        for (const char *from = path; *from; to++) {
                if (from[0] == '\\' && strspn(from + 1, "01234567") >= 3) {
                        *to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
                        from += 4;
                } else {
                        *to = *from++;
                }
        }
        *to = 0;
}

/* Without pivot_root the host's mounts stay in the namespace, out of sight. A whole /proc or /sys among them would
 * allow a nested user namespace to mount a new one without our masks (the kernel asks whether one is visible
 * already). */
static int hide_host_file_systems(const struct launch *l, struct err **err)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
        _cleanup_free_ char *text = NULL;
        size_t room = 0;

        /* All at once: it changes while mounts go. */
        if (!f || getdelim(&text, &room, 0, f) < 0)
                return err_sys(err, f ? EIO : errno, "reading mountinfo");
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
                const char *type = strstr(line, " - ");
                char point[PATH_MAX], name[16];

                if (!type || sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1 || sscanf(type, " - %15s", name) != 1 ||
                        (strcmp(name, "proc") != 0 && strcmp(name, "sysfs") != 0))
                        continue;
                unescape(point);
                if (rootfs_inside(l, point) || umount2(point, MNT_DETACH) == 0 || errno == EINVAL || errno == ENOENT)
                        continue;
                /* What may not be unmounted is covered. */
                if (mount("tmpfs", point, "tmpfs", MS_RDONLY, NULL) < 0)
                        return err_sys(err, errno, "hiding the host's '%s'", point);
        }
        return 0;
}

static int cover(const struct launch *l, struct err **err)
{
        const int r = hide_host_file_systems(l, err);

        if (r < 0)
                return r;
        if (move_mount(l->root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0 || chroot(".") < 0 || chdir("/") < 0)
                return err_sys(err, errno, "moving the root file system to /");
        return 0;
}

/* ---- with it ---- */

static int pivot(struct err **err)
{
        _cleanup_close_ int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

        if (old < 0)
                return err_sys(err, errno, "opening the old root");
        /* Both arguments the same directory: the old root ends up mounted on top of the new one, from where it is
         * thrown away. */
        if (syscall(SYS_pivot_root, ".", ".") < 0)
                return err_sys(err, errno, "pivot_root");
        if (fchdir(old) < 0 || mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0 || umount2(".", MNT_DETACH) < 0 ||
                chdir("/") < 0)
                return err_sys(err, errno, "leaving the old root");
        return 0;
}

/* ---- by entering ---- */

enum { STACKED_ROOTS_MAX = 16 };

static bool may_unmount(const struct launch *l)
{
        const struct spec_capabilities *c = l->process ? l->process->capabilities : NULL;

        return !c || c->set[CAP_SET_BOUNDING] & BIT(CAP_SYS_ADMIN);
}

static bool is_replaceable(const struct launch *l)
{
        if (l->in_user_namespace || may_unmount(l) || !(l->spec->namespaces_new & CLONE_NEWNS) || (l->process && l->process->terminal))
                return false;
        for (size_t i = 0; i < l->n_mounts; i++)
                if (l->mounts[i].options.propagation)
                        return false;
        return true;
}

/* 1: done. 0: nothing has changed but the working directory and, after chroot, the root: pivot. */
static int replace(struct launch *l, struct err **err)
{
        _cleanup_close_ int space = openat(l->proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC), tree = -1;
        int n = 0;

        tree = space < 0 ? -1 : mount_clone(l->root, true);
        if (tree < 0)
                return 0;
        /* The first time to see whether we may. The second umount fails where the first took away all there was: what
         * is left is the namespace's own root. */
        while (n < STACKED_ROOTS_MAX && setns(space, CLONE_NEWNS) == 0 && umount2("/", MNT_DETACH) == 0)
                n++;
        if (n == 0)
                return 0;
        if (move_mount(tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0 || setns(space, CLONE_NEWNS) < 0)
                return err_sys(err, errno, "putting the container's root in the place of the host's");
        close(l->root);
        l->root = TAKE_FD(tree);
        return 1;
}

int root_swap(struct launch *l, bool replaceable, struct err **err)
{
        if (replaceable && !l->no_pivot && is_replaceable(l)) {
                const int r = replace(l, err);

                if (r != 0)
                        return MIN(r, 0);
        }
        if (fchdir(l->root) < 0)
                return err_sys(err, errno, "entering the root file system");
        return l->no_pivot ? cover(l, err) : pivot(err);
}

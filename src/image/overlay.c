/* Overlay mounts, newest interface first:
 *
 *   fsopen, "lowerdir+" for each layer                      Linux 6.5
 *   mount(2) with all layers in one page of options         older kernels; layers as /proc/self/fd/N, which is short
 *   the fuse-overlayfs program                              where a user may not mount overlays, or wants them with other owners
 *
 * All end in a detached mount, which the caller attaches in the mount namespace of his choice. */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "io.h"

#define OPTION_MAX      255 /* of a string that fsconfig takes */
#define PAGE_OF_OPTIONS 4095

extern char **environ;

/* glibc 2.36 has these functions, but its sys/mount.h and the kernel's linux/mount.h exclude one another. */
static int set_string(int fs, const char *key, const char *value)
{
        return syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0) < 0 ? -errno : 0;
}

static int set_flag(int fs, const char *key)
{
        return syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, key, NULL, 0) < 0 ? -errno : 0;
}

static int set_path(int fs, const char *key, const char *path)
{
        _cleanup_close_ int fd = -1;

        if (strlen(path) <= OPTION_MAX)
                return set_string(fs, key, path);
        fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : set_string(fs, key, io_fd_path(fd).text);
}

/* What the kernel said about a file system context that failed. */
static int fs_error(int fs, int r, struct err **err)
{
        char text[256];
        const ssize_t n = read(fs, text, sizeof(text) - 1);

        if (n <= 2)
                return err_sys(err, -r, "mounting an overlay");
        text[n] = '\0';
        text[strcspn(text, "\n")] = '\0';
        return err_sys(err, -r, "mounting an overlay: %s", text + 2);
}

static int mount_context(const struct overlay *o, int fs, int *ret_fd)
{
        int fd, r = 0;

        for (size_t i = 0; r == 0 && i < o->n_lower; i++)
                r = set_path(fs, "lowerdir+", o->lower[i]);
        if (r == 0 && o->upper)
                r = set_path(fs, "upperdir", o->upper);
        if (r == 0 && o->upper)
                r = set_path(fs, "workdir", o->work);
        if (r == 0 && o->user_xattr)
                r = set_flag(fs, "userxattr");
        if (r == 0 && o->is_volatile && o->upper)
                r = set_flag(fs, "volatile");
        if (r == 0 && syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                r = -errno;
        if (r < 0)
                return r;
        fd = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, o->upper ? 0 : MOUNT_ATTR_RDONLY);
        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

/* --- older kernels ---------------------------------------------------------------------------------------------------- */

static int add_option(char **options, const char *key, const char *value)
{
        char *longer = NULL;

        if (asprintf(&longer, "%s%s%s%s", *options ? *options : "", *options && key[0] != ':' ? "," : "", key, value) <
                0)
                return -ENOMEM;
        free(*options);
        *options = longer;
        return 0;
}

/* "lowerdir=A:B,upperdir=C,workdir=D"; directories as short names of descriptors when @fds is not NULL. */
static int make_options(const struct overlay *o, int *fds, char **ret)
{
        _cleanup_free_ char *options = NULL;
        int r = 0;

        for (size_t i = 0; r == 0 && i < o->n_lower + (o->upper ? 2 : 0); i++) {
                const char *const path = i < o->n_lower ? o->lower[i] : i == o->n_lower ? o->upper : o->work;
                const char *const key = i == 0            ? "lowerdir="
                                        : i < o->n_lower  ? ":"
                                        : i == o->n_lower ? "upperdir="
                                                          : "workdir=";

                if (fds) {
                        fds[i] = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
                        if (fds[i] < 0)
                                return -errno;
                }
                r = add_option(&options, key, fds ? io_fd_path(fds[i]).text : path);
        }
        if (r == 0 && o->user_xattr && fds)
                r = add_option(&options, "userxattr", "");
        if (r == 0 && o->is_volatile && o->upper && fds)
                r = add_option(&options, "volatile", "");
        if (r == 0)
                *ret = TAKE_PTR(options);
        return r;
}

static int detach_clone(const char *target, int *ret_fd)
{
        const int fd = (int)syscall(SYS_open_tree, AT_FDCWD, target, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        const int error = fd < 0 ? -errno : 0;

        syscall(SYS_umount2, target, 2 /* MNT_DETACH */);
        if (fd >= 0)
                *ret_fd = fd;
        return error;
}

static int mount_old(const struct overlay *o, int *ret_fd)
{
        const size_t n = o->n_lower + 2;
        _cleanup_free_ int *fds = malloc(n * sizeof(*fds));
        _cleanup_free_ char *options = NULL;
        int r;

        if (!fds || !o->fuse_target)
                return fds ? -EOPNOTSUPP : -ENOMEM;
        for (size_t i = 0; i < n; i++)
                fds[i] = -1;
        r = make_options(o, fds, &options);
        if (r == 0 && strlen(options) > PAGE_OF_OPTIONS)
                r = -E2BIG;
        if (r == 0 &&
                syscall(SYS_mount, "overlay", o->fuse_target, "overlay", o->upper ? 0 : 1 /* MS_RDONLY */, options) < 0)
                r = -errno;
        for (size_t i = 0; i < n; i++)
                closep(&fds[i]);
        return r < 0 ? r : detach_clone(o->fuse_target, ret_fd);
}

/* --- the program ------------------------------------------------------------------------------------------------------- */

/* What it says goes to @log: it complains of options that libfuse adds by itself. */
static int mount_fuse(const struct overlay *o, int log, int *ret_fd)
{
        static char program[] = "fuse-overlayfs", option[] = "-o";
        posix_spawn_file_actions_t actions;
        _cleanup_free_ char *options = NULL;
        char *argv[] = { program, option, NULL, (char *)o->fuse_target, NULL };
        int status = 0, r;
        pid_t pid;

        if (!o->fuse_target)
                return -EOPNOTSUPP;
        r = make_options(o, NULL, &options);
        if (r == 0 && o->shift_uids)
                r = add_option(&options, "uidmapping=", o->shift_uids);
        if (r == 0 && o->shift_gids)
                r = add_option(&options, "gidmapping=", o->shift_gids);
        if (r < 0)
                return r;
        argv[2] = options;
        posix_spawn_file_actions_init(&actions);
        if (log >= 0)
                posix_spawn_file_actions_adddup2(&actions, log, STDERR_FILENO);
        r = posix_spawnp(
                &pid, program, &actions, NULL, argv, environ); /* it goes to the background when it is mounted */
        posix_spawn_file_actions_destroy(&actions);
        if (r != 0)
                return -r;
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                return -EIO;
        return detach_clone(o->fuse_target, ret_fd);
}

bool overlay_is_opaque(int fd, bool user_xattr)
{
        /* the last is fuse-overlayfs's, when it is a user's */
        static const char *const names[] = { "trusted.overlay.opaque", "user.overlay.opaque",
                "user.fuseoverlayfs.opaque" };
        char value[8];

        for (size_t i = user_xattr ? 1 : 0; i < (user_xattr ? ARRAY_SIZE(names) : 1); i++)
                if (getxattr(io_fd_path(fd).text, names[i], value, sizeof(value)) == 1 && value[0] == 'y')
                        return true;
        return false;
}

static int mount_shifted(const struct overlay *o, int *ret_fd, struct err **err)
{
        _cleanup_close_ int log = memfd_create("fuse-overlayfs", MFD_CLOEXEC);
        const int r = mount_fuse(o, log, ret_fd);
        char text[256];
        ssize_t n;

        if (r == 0)
                return 0;
        n = log < 0 ? 0 : pread(log, text, sizeof(text) - 1, 0);
        text[MAX(n, 0)] = '\0';
        text[strcspn(text, "\n")] = '\0';
        return err_hint(err,
                err_sys(err, -r, "mounting an overlay with other owners by fuse-overlayfs%s%s", text[0] ? ": " : "",
                        text),
                "it must be installed, and /dev/fuse be open to the user");
}

int overlay_mount(const struct overlay *o, int *ret_fd, struct err **err)
{
        _cleanup_close_ int fs = o->shift_uids ? -1 : (int)syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);
        struct err *why = NULL;
        int r;

        if (o->shift_uids)
                return mount_shifted(o, ret_fd, err);
        r = fs < 0 ? -errno : mount_context(o, fs, ret_fd);
        if (r == 0)
                return 0;
        r = fs_error(fs, r, &why);
        /* Only for what the other ways are for: a failure for another reason is not hidden. */
        if (((r == -ENOSYS || r == -EINVAL) && mount_old(o, ret_fd) == 0) ||
                ((r == -EPERM || r == -ENODEV) && mount_fuse(o, -1, ret_fd) == 0)) {
                err_free(why);
                return 0;
        }
        if (r == -EPERM)
                err_hint(&why, r,
                        "as a user: run in a user namespace and install fuse-overlayfs where the kernel is older than 5.11");
        if (err)
                *err = TAKE_PTR(why);
        err_free(why);
        return r;
}

#include "mount.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "procfs.h"
#include "sys.h"

enum { FSCONFIG_STRING_MAX = 256 };

/* All but those about access times, which mount(2) too keeps when none is given. */
#define EXCLUSIVE_ATTRS \
        (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW)

int mount_clone(int fd, bool recursive)
{
        const int r = open_tree(
                fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0U));

        return r < 0 ? -errno : r;
}

int mount_set_attr(int fd, u64 set, u64 clear, bool recursive)
{
        struct mount_attr attr = { .attr_set = set, .attr_clr = clear };

        if (!set && !clear)
                return 0;
        return mount_setattr(fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof(attr)) < 0 ? -errno
                                                                                                              : 0;
}

int mount_set_propagation(int fd, unsigned long propagation)
{
        struct mount_attr attr = { .propagation = propagation & ~(unsigned long)MS_REC };

        return mount_setattr(fd, "", AT_EMPTY_PATH | (propagation & MS_REC ? AT_RECURSIVE : 0), &attr, sizeof(attr)) < 0
                       ? -errno
                       : 0;
}

int mount_set(int fd, const struct mount_options *options, struct err **err)
{
        int r = mount_set_attr(fd, options->all_set, options->all_clear, true);

        if (r == 0)
                r = mount_set_attr(fd, options->set, options->clear, false);
        if (r < 0)
                return err_sys(err, -r, "setting the attributes of a mount");
        return 0;
}

/* Those of EXCLUSIVE_ATTRS that the mount at @fd has and the kernel would lock in a user namespace. */
static u64 restrictions(int fd)
{
        static const struct {
                unsigned long flag;
                u64 attr;
        } flags[] = {
                { ST_RDONLY, MOUNT_ATTR_RDONLY },
                { ST_NOSUID, MOUNT_ATTR_NOSUID },
                { ST_NODEV, MOUNT_ATTR_NODEV },
                { ST_NOEXEC, MOUNT_ATTR_NOEXEC },
        };
        struct statvfs fs;
        u64 found = 0;

        for (size_t i = 0; fstatvfs(fd, &fs) == 0 && i < ARRAY_SIZE(flags); i++)
                found |= fs.f_flag & flags[i].flag ? flags[i].attr : 0;
        return found;
}

int mount_bind(const char *source, const struct mount_options *options, struct err **err)
{
        _cleanup_(err_freep) struct err *locked = NULL;
        struct mount_options whole = *options;
        _cleanup_close_ int fd = -1;
        int r = 0;

        fd = open_tree(AT_FDCWD, source,
                OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (options->flags & MOUNT_RECURSIVE ? AT_RECURSIVE : 0U) |
                        (options->flags & (MOUNT_SOURCE_NOFOLLOW | MOUNT_COPY_SYMLINK) ? AT_SYMLINK_NOFOLLOW : 0U));
        if (fd < 0)
                return err_sys(err, errno, "bind mounting '%s'", source);
        /* As with runc and crun: an entry with any attribute names them all. What is locked stays. */
        if (options->flags & MOUNT_LOCKED && options->clear & restrictions(fd))
                return err_set(err, ERR_NO_PERMISSION, EPERM,
                        "bind mounting '%s': in a user namespace what it restricts cannot be allowed: operation not permitted",
                        source);
        if (options->set || options->clear)
                whole.clear |= (options->flags & MOUNT_LOCKED ? MOUNT_ATTR_NOSYMFOLLOW : EXCLUSIVE_ATTRS) & ~whole.set;
        r = mount_set(fd, &whole, &locked);
        if (r < 0)
                r = mount_set(fd, options, err);
        if (r < 0)
                return err_wrap(err, r, "bind mounting '%s'", source);
        return TAKE_FD(fd);
}

bool mount_options_fit(const struct mount_options *options)
{
        for (size_t i = 0; i < options->data.n; i++)
                if (strlen(options->data.item[i]) >= FSCONFIG_STRING_MAX)
                        return false;
        return true;
}

static int configure(int fs, const char *option)
{
        char key[FSCONFIG_STRING_MAX];
        const char *equals = strchr(option, '=');

        if (!equals)
                return fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0);
        memcpy(key, option, (size_t)(equals - option));
        key[equals - option] = 0;
        return fsconfig(fs, FSCONFIG_SET_STRING, key, equals + 1, 0);
}

/* What the kernel's log of the file system context says, without its "e " prefix. */
static int fs_error(int fs, const char *type, const char *what, struct err **err)
{
        const int errnum = errno;
        char log[256];
        ssize_t n = read(fs, log, sizeof(log) - 1);

        if (n > 2) {
                log[n] = 0;
                return err_set(
                        err, ERR_BAD_CONFIG, errnum, "mounting %s: %s: %s (%s)", type, what, strerror(errnum), log + 2);
        }
        return err_sys(err, errnum, "mounting %s: %s", type, what);
}

/* File systems whose instances have no read-only state worth setting: the attribute of the mount is enough. */
static bool needs_readonly_instance(const char *type)
{
        static const char *const pseudo[] = { "tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup2", "cgroup",
                "ramfs", "overlay" };

        for (size_t i = 0; i < ARRAY_SIZE(pseudo); i++)
                if (strcmp(type, pseudo[i]) == 0)
                        return false;
        return true;
}

int mount_new(const char *type, const char *source, const struct mount_options *options, struct err **err)
{
        /* fsmount takes these; the rest is set afterwards. */
        const u64 at_once =
                options->set & (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                                       MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW);
        _cleanup_close_ int fs = fsopen(type, FSOPEN_CLOEXEC), fd = -1;
        int r;

        if (fs < 0 && errno == ENODEV)
                return err_set(err, ERR_UNSUPPORTED, ENODEV, "mounting %s: this kernel does not know it", type);
        if (fs < 0)
                return err_sys(err, errno, "mounting %s", type);
        if (source && source[0] && fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0) < 0)
                return fs_error(fs, type, source, err);
        if (options->set & MOUNT_ATTR_RDONLY && needs_readonly_instance(type) &&
                fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0)
                return fs_error(fs, type, "ro", err);
        for (size_t i = 0; i < options->data.n; i++)
                if (configure(fs, options->data.item[i]) < 0)
                        return fs_error(fs, type, options->data.item[i], err);
        if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return fs_error(fs, type, "creating it", err);
        fd = fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)at_once);
        if (fd < 0)
                return fs_error(fs, type, "mounting it", err);
        r = mount_set_attr(fd, options->all_set, options->all_clear, true);
        if (r < 0)
                return err_sys(err, -r, "mounting %s: setting attributes", type);
        return TAKE_FD(fd);
}

int mount_move(int fd, int target)
{
        return move_mount(fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno : 0;
}

int mount_classic(int proc, int target, const char *type, const char *source, const struct mount_options *options,
        struct err **err)
{
        static const struct {
                u64 attr;
                unsigned long flag;
        } flags[] = {
                { MOUNT_ATTR_RDONLY, MS_RDONLY },
                { MOUNT_ATTR_NOSUID, MS_NOSUID },
                { MOUNT_ATTR_NODEV, MS_NODEV },
                { MOUNT_ATTR_NOEXEC, MS_NOEXEC },
                { MOUNT_ATTR_NOATIME, MS_NOATIME },
                { MOUNT_ATTR_STRICTATIME, MS_STRICTATIME },
                { MOUNT_ATTR_NODIRATIME, MS_NODIRATIME },
                { MOUNT_ATTR_NOSYMFOLLOW, 256 /* MS_NOSYMFOLLOW */ },
        };
        _cleanup_free_ char *data = NULL;
        char path[64];
        unsigned long ms = 0;
        size_t size = 1;
        int r = 0;

        for (size_t i = 0; i < options->data.n; i++)
                size += strlen(options->data.item[i]) + 1;
        data = calloc(1, size);
        if (!data)
                return err_sys(err, ENOMEM, "mounting %s", type);
        for (size_t i = 0; i < options->data.n; i++) {
                if (i)
                        strcat(data, ",");
                strcat(data, options->data.item[i]);
        }
        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (options->set & flags[i].attr)
                        ms |= flags[i].flag;
        /* mount(2) knows only paths: the magic link of the descriptor, reached through the checked procfs. */
        snprintf(path, sizeof(path), "self/fd/%d", target);
        {
                _cleanup_close_ int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

                if (here < 0 || fchdir(proc) < 0)
                        return err_sys(err, errno, "mounting %s", type);
                if (mount(source, path, type, ms, data) < 0)
                        r = err_sys(err, errno, "mounting %s", type);
                if (fchdir(here) < 0 && r == 0)
                        r = err_sys(err, errno, "mounting %s", type);
        }
        return r;
}

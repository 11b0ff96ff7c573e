#include "devices.h"

#include <string.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "idmap.h"
#include "mount.h"
#include "root.h"
#include "sys.h"

static const struct {
        const char *path;
        unsigned major, minor;
} default_devices[] = {
        { "/dev/null", 1, 3 },
        { "/dev/zero", 1, 5 },
        { "/dev/full", 1, 7 },
        { "/dev/random", 1, 8 },
        { "/dev/urandom", 1, 9 },
        { "/dev/tty", 5, 0 },
};

static const struct {
        const char *name, *target;
} links[] = {
        { "fd", "/proc/self/fd" },
        { "stdin", "/proc/self/fd/0" },
        { "stdout", "/proc/self/fd/1" },
        { "stderr", "/proc/self/fd/2" },
        { "core", "/proc/kcore" },
};

/* The detached mount @fd of a device onto a file of that name. */
static int attach_device(int dir, const char *name, const char *path, int fd, struct err **err)
{
        _cleanup_close_ int target = -1;
        int r;

        if (mknodat(dir, name, S_IFREG | 0666, 0) < 0 && errno != EEXIST)
                return err_sys(err, errno, "making '%s'", path);
        target = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (target < 0)
                return err_sys(err, errno, "opening '%s' in the container's root", path);
        r = mount_move(fd, target);
        return r < 0 ? err_sys(err, -r, "mounting '%s'", path) : 0;
}

/* The host's device at @path: what a user namespace, which may not make devices, gets. */
static int bind_device(int dir, const char *name, const char *path, struct err **err)
{
        const struct mount_options none = { 0 };
        _cleanup_close_ int fd = mount_bind(path, &none, err);

        return fd < 0 ? fd : attach_device(dir, name, path, fd, err);
}

static int set_owner(int dir, const char *name, mode_t mode, u32 uid, u32 gid)
{
        /* Through the descriptor of what was made: the name may have been changed meanwhile. */
        _cleanup_close_ int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (S_ISLNK(st.st_mode))
                return -ELOOP;
        if ((st.st_uid != uid || st.st_gid != gid) && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
                return -errno;
        if ((st.st_mode & 07777) != mode && fchmodat(dir, name, mode, 0) < 0)
                return -errno;
        return 0;
}

static int make_node(
        const struct launch *l, int dir, const char *name, const char *path, mode_t mode, dev_t dev, struct err **err)
{
        struct stat st;

        if (l->in_user_namespace && !S_ISFIFO(mode))
                return bind_device(dir, name, path, err);
        if (mknodat(dir, name, mode, dev) == 0)
                return 0;
        if (errno == EPERM)
                return bind_device(dir, name, path, err);
        if (errno != EEXIST)
                return err_sys(err, errno, "making device '%s'", path);
        /* The image may have it already: then it must be the same. */
        if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, errno, "looking at device '%s'", path);
        if ((st.st_mode & S_IFMT) != (mode & S_IFMT) || (!S_ISFIFO(mode) && st.st_rdev != dev)) {
                if (unlinkat(dir, name, 0) < 0 || mknodat(dir, name, mode, dev) < 0)
                        return err_sys(err, errno, "making device '%s'", path);
        }
        return 0;
}

static mode_t type_of(const struct spec_device *d)
{
        return d->type == 'b' ? S_IFBLK : d->type == 'p' ? S_IFIFO : S_IFCHR;
}

static mode_t mode_of(const struct spec_device *d)
{
        return d->file_mode ? *d->file_mode & 07777 : 0666;
}

/* In a file system of the host's user namespace that nothing but our descriptors leads to. */
int devices_prepare(struct launch *l, struct err **err)
{
        static const char *data[] = { "mode=700", NULL };
        const struct mount_options options = { .data = { data, 1 } };
        const size_t n = l->spec->linux_.devices.n;
        _cleanup_close_ int fs = -1;
        mode_t mask;
        int r = 0;

        if (!n || geteuid() != 0)
                return 0;
        l->device_fd = arena_new(&l->spec->arena, int, n);
        fs = l->device_fd ? mount_new("tmpfs", "tmpfs", &options, err) : err_sys(err, ENOMEM, "making devices");
        if (fs < 0)
                return fs;
        mask = umask(0);
        for (size_t i = 0; i < n; i++)
                l->device_fd[i] = -1;
        for (size_t i = 0; r == 0 && i < n; i++) {
                const struct spec_device *d = &l->spec->linux_.devices.item[i];
                const u32 uid = idmap_to_host(&l->spec->linux_.uid_mappings, d->uid),
                          gid = idmap_to_host(&l->spec->linux_.gid_mappings, d->gid);
                char name[24];

                snprintf(name, sizeof(name), "%zu", i);
                if (mknodat(fs, name, type_of(d) | mode_of(d), makedev((unsigned)d->major, (unsigned)d->minor)) < 0 ||
                        (uid != UINT32_MAX && gid != UINT32_MAX &&
                                fchownat(fs, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)) {
                        if (errno != EPERM)
                                r = err_sys(err, errno, "making device '%s'", d->path);
                        continue;
                }
                l->device_fd[i] = open_tree(fs, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        }
        umask(mask);
        return r;
}

static int make_configured(const struct launch *l, size_t i, struct err **err)
{
        const struct spec_device *d = &l->spec->linux_.devices.item[i];
        char *path = arena_strdup(&l->spec->arena, d->path);
        const char *name;
        _cleanup_close_ int dir = -1;
        int r;

        if (!path)
                return err_sys(err, ENOMEM, "making device '%s'", d->path);
        for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
                path[n - 1] = 0;
        dir = root_make_parent(l->root, path, &name, err);
        if (dir < 0)
                return dir;
        if (l->device_fd && l->device_fd[i] >= 0)
                return attach_device(dir, name, d->path, l->device_fd[i], err);
        r = make_node(
                l, dir, name, d->path, type_of(d) | mode_of(d), makedev((unsigned)d->major, (unsigned)d->minor), err);
        if (r < 0 || l->in_user_namespace)
                return r;
        r = set_owner(dir, name, mode_of(d), d->uid, d->gid);
        return r < 0 ? err_sys(err, -r, "setting owner and mode of '%s'", d->path) : 0;
}

static bool is_configured(const struct launch *l, const char *path)
{
        for (size_t i = 0; i < l->spec->linux_.devices.n; i++)
                if (strcmp(l->spec->linux_.devices.item[i].path, path) == 0)
                        return true;
        return false;
}

static int make_defaults(const struct launch *l, int dev, struct err **err)
{
        for (size_t i = 0; i < ARRAY_SIZE(default_devices); i++) {
                const char *path = default_devices[i].path;
                int r;

                if (is_configured(l, path))
                        continue;
                r = make_node(l, dev, strrchr(path, '/') + 1, path, S_IFCHR | 0666,
                        makedev(default_devices[i].major, default_devices[i].minor), err);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < ARRAY_SIZE(links); i++)
                if (symlinkat(links[i].target, dev, links[i].name) < 0 && errno != EEXIST)
                        return err_sys(err, errno, "making /dev/%s", links[i].name);
        /* The host's multiplexer would give terminals of the host's devpts. */
        unlinkat(dev, "ptmx", 0);
        if (symlinkat("pts/ptmx", dev, "ptmx") < 0 && errno != EEXIST)
                return err_sys(err, errno, "making /dev/ptmx");
        return 0;
}

/* A /dev bound from elsewhere is used as it is. */
static bool dev_is_bound(const struct launch *l)
{
        for (size_t i = 0; i < l->n_mounts; i++)
                if (l->mounts[i].options.flags & MOUNT_BIND && strcmp(l->mounts[i].target, "/dev") == 0)
                        return true;
        return false;
}

/* A /dev that is a symlink would have devices and links made wherever the image wants. */
static int open_dev(const struct launch *l, struct err **err)
{
        const int dev = sys_openat2(l->root, "/dev", O_PATH | O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);

        if (dev == -ENOENT)
                return root_make_dir(l->root, "/dev", 0755, err);
        return dev < 0 ? err_sys(err, -dev, "/dev in the root file system is not a directory") : dev;
}

int devices_make(struct launch *l, struct err **err)
{
        _cleanup_close_ int dev = -1;
        const mode_t mask = umask(0);
        int r = 0;

        if (!dev_is_bound(l)) {
                dev = open_dev(l, err);
                r = dev < 0 ? dev : make_defaults(l, dev, err);
        }
        for (size_t i = 0; r == 0 && i < l->spec->linux_.devices.n; i++)
                r = make_configured(l, i, err);
        umask(mask);
        return r;
}

const char *devices_default(size_t i)
{
        return i < ARRAY_SIZE(default_devices) ? default_devices[i].path : NULL;
}

/* The order of things here: the bundle's root directory is cloned and mounted onto itself (pivot_root wants a mount),
 * mount entries go onto descriptors resolved inside it, /dev is filled, hooks may run, then what must not be seen or
 * written is covered, and only then the root is swapped. Until the swap host paths still mean the host's: sources are
 * opened by plain paths, targets never are. */
#include "rootfs.h"

#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "copy_up.h"
#include "devices.h"
#include "idmap.h"
#include "mount.h"
#include "notify.h"
#include "procfs.h"
#include "root.h"
#include "root_swap.h"
#include "spec/names.h"
#include "sys.h"

/* ---- before the clone ---- */

int rootfs_plan(struct launch *l, struct err **err)
{
        struct arena *arena = &l->spec->arena;

        l->n_mounts = l->spec->mounts.n;
        l->mounts = arena_new(arena, struct mount_plan, l->n_mounts);
        if (!l->mounts)
                return err_sys(err, ENOMEM, "reading mounts");
        for (size_t i = 0; i < l->n_mounts; i++) {
                struct mount_plan *plan = &l->mounts[i];
                int r;

                plan->fd = plan->map_fd = -1;
                plan->mount = &l->spec->mounts.item[i];
                plan->target = plan->mount->destination[0] == '/'
                                       ? plan->mount->destination
                                       : arena_printf(arena, "/%s", plan->mount->destination);
                if (!plan->target)
                        return err_sys(err, ENOMEM, "reading mounts");
                r = mount_options_parse(arena, &plan->mount->options, &plan->options, err);
                if (r < 0)
                        return err_wrap(err, r, "mounts[%zu]", i);
                if (plan->mount->type && strcmp(plan->mount->type, "bind") == 0)
                        plan->options.flags |= MOUNT_BIND;
                if (plan->options.flags & MOUNT_BIND && (!plan->mount->source || !plan->mount->source[0]))
                        return err_set(err, ERR_BAD_CONFIG, EINVAL, "mounts[%zu]: a bind mount needs a source", i);
                if (!(plan->options.flags & (MOUNT_BIND | MOUNT_REMOUNT)) &&
                        (!plan->mount->type || !plan->mount->type[0]))
                        return err_set(err, ERR_BAD_CONFIG, EINVAL, "mounts[%zu] (%s): needs a type", i, plan->target);
        }
        return 0;
}

/* Which maps an id-mapped mount gets: its own, those of its option, or the container's. */
static int mount_maps(const struct launch *l, const struct mount_plan *plan, struct spec_id_maps *uids,
        struct spec_id_maps *gids, struct err **err)
{
        if (plan->mount->uid_mappings.n) {
                *uids = plan->mount->uid_mappings;
                *gids = plan->mount->gid_mappings;
                return 0;
        }
        if (plan->options.id_maps[0])
                return idmap_parse_option(&l->spec->arena, plan->options.id_maps[0], &l->spec->linux_, uids, gids, err);
        if (!l->spec->linux_.uid_mappings.n)
                return err_set(err, ERR_BAD_CONFIG, EINVAL,
                        "an id-mapped mount needs mappings of its own or a user namespace");
        *uids = l->spec->linux_.uid_mappings;
        *gids = l->spec->linux_.gid_mappings;
        return 0;
}

static bool wants_idmap(const struct mount_plan *plan)
{
        return plan->mount->uid_mappings.n || plan->options.flags & MOUNT_IDMAP;
}

/* The user namespace that carries the maps. In the runtime: it is made around a process, and procfs numbers processes
 * as the host does. */
static int prepare_idmap(const struct launch *l, struct mount_plan *plan, struct err **err)
{
        const bool own = plan->mount->uid_mappings.n || plan->options.id_maps[0] || l->spec->linux_.uid_mappings.n;
        struct spec_id_maps uids = { 0 }, gids = { 0 };
        int r;

        if (!own && l->namespace_fd[NAMESPACE_USER] >= 0) {
                plan->map_fd = fcntl(l->namespace_fd[NAMESPACE_USER], F_DUPFD_CLOEXEC, 3);
                return plan->map_fd < 0 ? err_sys(err, errno, "opening the user namespace") : 0;
        }
        r = mount_maps(l, plan, &uids, &gids, err);
        if (r < 0)
                return r;
        plan->map_fd = idmap_namespace(l->proc, &uids, &gids, err);
        return MIN(plan->map_fd, 0);
}

static int apply_idmap(const struct mount_plan *plan, int fd, struct err **err)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (u64)plan->map_fd };

        if (mount_setattr(fd, "", AT_EMPTY_PATH | (plan->options.flags & MOUNT_IDMAP_RECURSIVE ? AT_RECURSIVE : 0),
                    &attr, sizeof(attr)) < 0)
                return err_sys(err, errno, "mount_setattr: mapping the ids of '%s'", plan->target);
        return 0;
}

static int open_source(const struct launch *l, const struct mount_plan *plan, struct err **err)
{
        _cleanup_free_ char *path = NULL;
        const char *source = plan->mount->source;
        _cleanup_close_ int fd = -1;
        struct mount_options options;
        int r;

        if (source[0] != '/') {
                if (asprintf(&path, "%s/%s", l->state->bundle, source) < 0)
                        return err_sys(err, ENOMEM, "bind mounting '%s'", source);
                source = path;
        }
        options = plan->options;
        if (l->in_user_namespace)
                options.flags |= MOUNT_LOCKED;
        fd = mount_bind(source, &options, err);
        if (fd < 0)
                return fd;
        if (wants_idmap(plan)) {
                r = apply_idmap(plan, fd, err);
                if (r < 0)
                        return r;
        }
        return TAKE_FD(fd);
}

const char *rootfs_inside(const struct launch *l, const char *path)
{
        const size_t n = strlen(l->rootfs);

        return n > 1 && strncmp(path, l->rootfs, n) == 0 && path[n] == '/' ? path + n : NULL;
}

void rootfs_strip_targets(struct launch *l)
{
        for (size_t i = 0; i < l->n_mounts; i++) {
                const char *inside = rootfs_inside(l, l->mounts[i].target);

                if (inside)
                        l->mounts[i].target = inside;
        }
}

/* For a container whose own user may not come to its root by the path: a copy of the mount, to be put in place inside. */
static int prepare_root(struct launch *l, struct err **err)
{
        _cleanup_close_ int dir = open(l->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
        int r;

        if (dir < 0)
                return err_sys(err, errno, "opening the root file system '%s'", l->rootfs);
        l->root = mount_clone(dir, true);
        r = l->root < 0 ? l->root : mount_set_propagation(l->root, MS_SLAVE | MS_REC);
        return r < 0 ? err_sys(err, -r, "cloning the root file system '%s'", l->rootfs) : 0;
}

int rootfs_prepare_sources(struct launch *l, struct err **err)
{
        if (l->in_user_namespace && geteuid() == 0) {
                const int r = prepare_root(l, err);

                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < l->n_mounts; i++) {
                struct mount_plan *plan = &l->mounts[i];

                if (wants_idmap(plan)) {
                        const int r = prepare_idmap(l, plan, err);

                        if (r < 0)
                                return err_wrap(err, r, "mounts[%zu] (%s)", i, plan->target);
                }
                if (!l->in_user_namespace || !(plan->options.flags & MOUNT_BIND) || geteuid() != 0)
                        continue;
                /* What an earlier entry mounts is there only inside. */
                if (rootfs_inside(l, plan->mount->source))
                        continue;
                plan->fd = open_source(l, plan, err);
                if (plan->fd < 0)
                        return err_wrap(err, plan->fd, "mounts[%zu] (%s)", i, plan->target);
                /* Made in the host's mount namespace: it must not become a peer of the host's mounts. */
                if (!(plan->options.propagation & MS_SHARED) && mount_set_propagation(plan->fd, MS_SLAVE | MS_REC) < 0)
                        return err_sys(err, errno, "mounts[%zu] (%s)", i, plan->target);
        }
        return l->in_user_namespace ? devices_prepare(l, err) : 0;
}

/* ---- targets ---- */

/* What a container may have mounted inside its /proc: files that tools like lxcfs replace. A mount anywhere else would
 * let an image fake or cover what the runtime writes to (CVE-2019-16884, CVE-2025-52881). */
static bool allowed_in_proc(const char *path)
{
        static const char *const allowed[] = {
                "/proc/cpuinfo",
                "/proc/diskstats",
                "/proc/meminfo",
                "/proc/stat",
                "/proc/swaps",
                "/proc/uptime",
                "/proc/loadavg",
                "/proc/slabinfo",
                "/proc/net/dev",
                "/proc/sys/kernel/ns_last_pid",
                "/proc/sys/crypto/fips_enabled",
        };

        for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
                if (strcmp(path, allowed[i]) == 0)
                        return true;
        return false;
}

static int check_target(int fd, const char *path, struct err **err)
{
        struct statfs fs;

        if (fstatfs(fd, &fs) < 0)
                return err_sys(err, errno, "looking at '%s'", path);
        if (fs.f_type == PROC_SUPER_MAGIC && !allowed_in_proc(path))
                return err_set(err, ERR_BAD_CONFIG, EPERM,
                        "'%s' is inside /proc: nothing but known files may be mounted there", path);
        return 0;
}

/* The target of a mount entry, made when it is missing. */
static int open_target(const struct launch *l, const struct mount_plan *plan, bool dir, struct err **err)
{
        const char *type = plan->mount->type;
        _cleanup_close_ int fd = -1;
        int r;

        if (plan->options.flags & (MOUNT_TARGET_NOFOLLOW | MOUNT_COPY_SYMLINK)) {
                fd = root_find(l->root, plan->target, O_NOFOLLOW);
                if (fd >= 0)
                        return TAKE_FD(fd);
        }
        if (type && (strcmp(type, "proc") == 0 || strcmp(type, "sysfs") == 0)) {
                /* A symlink here would put the real one elsewhere and leave the image's own files at /proc. */
                fd = sys_openat2(l->root, plan->target, O_PATH | O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
                if (fd == -ELOOP || fd == -ENOTDIR)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL,
                                "%s must be mounted on ordinary directory, and '%s' is none", type, plan->target);
                return fd >= 0 ? TAKE_FD(fd) : root_make_dir(l->root, plan->target, 0755, err);
        }
        fd = dir ? root_make_dir(l->root, plan->target, 0755, err) : root_make_file(l->root, plan->target, err);
        if (fd < 0)
                return fd;
        r = check_target(fd, plan->target, err);
        return r < 0 ? r : TAKE_FD(fd);
}

/* ---- mount entries ---- */

static bool is_type(const struct mount_plan *plan, const char *type)
{
        return plan->mount->type && strcmp(plan->mount->type, type) == 0;
}

/* A tmpfs becomes read-only only when everything that goes below it is there. */
static bool readonly_later(const struct mount_plan *plan)
{
        return is_type(plan, "tmpfs") && !(plan->options.flags & MOUNT_BIND) && plan->options.set & MOUNT_ATTR_RDONLY;
}

static int attach(struct mount_plan *plan, int fd, int target, struct err **err)
{
        int r = mount_move(fd, target);

        if (r < 0)
                return err_sys(err, -r, "mounting it at '%s': move_mount", plan->target);
        if (plan->options.propagation) {
                r = mount_set_propagation(fd, plan->options.propagation);
                if (r < 0)
                        return err_sys(err, -r, "setting the propagation of '%s'", plan->target);
        }
        return 0;
}

static int mount_bound(struct launch *l, struct mount_plan *plan, struct err **err)
{
        _cleanup_close_ int fd = TAKE_FD(plan->fd), target = -1;
        struct stat st;

        if (fd < 0)
                fd = open_source(l, plan, err);
        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "looking at the source of '%s'", plan->target);
        if (S_ISLNK(st.st_mode) && plan->options.flags & MOUNT_COPY_SYMLINK)
                return copy_symlink(fd, l->root, plan->target, err);
        target = open_target(l, plan, S_ISDIR(st.st_mode), err);
        return target < 0 ? target : attach(plan, fd, target, err);
}

/* One more option, before the configuration's own, which may override it. */
static int add_data(struct launch *l, struct mount_options *options, const char *text, struct err **err)
{
        const char **data = text ? arena_new(&l->spec->arena, const char *, options->data.n + 2) : NULL;

        if (!data)
                return err_sys(err, ENOMEM, "mounting");
        data[0] = text;
        if (options->data.n)
                memcpy(data + 1, options->data.item, options->data.n * sizeof(*data));
        options->data = (struct spec_strings){ data, options->data.n + 1 };
        return 0;
}

/* What the entry does not say: a tmpfs on a directory that exists has its mode (as with runc; a new one is for
 * everybody), and under SELinux the label of the container's mounts. */
static int complete_options(
        struct launch *l, const struct mount_plan *plan, struct mount_options *options, struct err **err)
{
        const char *label = l->spec->linux_.mount_label;
        _cleanup_close_ int existing = -1;
        struct stat st;
        int r = 0;

        if (!is_type(plan, "tmpfs"))
                return 0;
        existing = root_find(l->root, plan->target, O_DIRECTORY);
        if (existing >= 0 && fstat(existing, &st) == 0)
                r = add_data(l, options, arena_printf(&l->spec->arena, "mode=%04o", st.st_mode & 07777), err);
        if (r == 0 && label && label[0] && l->lsm == LSM_SELINUX)
                r = add_data(l, options, arena_printf(&l->spec->arena, "context=%s", label), err);
        return r;
}

static int mount_fresh(struct launch *l, struct mount_plan *plan, struct err **err)
{
        _cleanup_close_ int fd = -1, target = -1;
        struct mount_options options = plan->options;
        int r = complete_options(l, plan, &options, err);

        if (r < 0)
                return r;
        target = open_target(l, plan, true, err);
        if (target < 0)
                return target;
        if (!mount_options_fit(&options))
                return mount_classic(l->proc, target, plan->mount->type, plan->mount->source, &options, err);
        if (readonly_later(plan))
                options.set &= ~(u64)MOUNT_ATTR_RDONLY;
        fd = mount_new(plan->mount->type, plan->mount->source, &options, err);
        if (fd == -EPERM && is_type(plan, "sysfs")) {
                /* A new sysfs needs the network namespace to be ours; crun and runc bind the host's then. */
                struct err *ignored = NULL;
                struct mount_options bind = plan->options;

                bind.flags |= MOUNT_RECURSIVE;
                fd = mount_bind("/sys", &bind, &ignored);
                err_free(ignored);
                if (fd >= 0 && err)
                        *err = err_free(*err);
        }
        if (fd < 0)
                return fd;
        if (wants_idmap(plan)) {
                r = apply_idmap(plan, fd, err);
                if (r < 0)
                        return r;
        }
        if (options.flags & MOUNT_COPY_UP) {
                r = copy_up(target, fd, err);
                if (r < 0)
                        return err_wrap(err, r, "copying what '%s' covers", plan->target);
        }
        r = attach(plan, fd, target, err);
        if (r == 0 && readonly_later(plan))
                plan->fd = TAKE_FD(fd);
        return r;
}

/* "remount": new attributes for what is mounted there already. */
static int remount(struct launch *l, struct mount_plan *plan, struct err **err)
{
        _cleanup_close_ int fd = root_find(l->root, plan->target, 0);

        if (fd < 0)
                return err_sys(err, -fd, "finding '%s'", plan->target);
        return mount_set(fd, &plan->options, err);
}

/* One hierarchy of the container's groups, bound from the host's mount: in a cgroup namespace the group is the root of
 * what is seen. */
static int bind_hierarchy(const struct mount_plan *plan, const struct cgroup_hierarchy *h, int target, struct err **err)
{
        struct mount_options options = plan->options;
        _cleanup_close_ int fd = -1;
        int r;

        options.data.n = 0;
        fd = mount_bind(h->path, &options, err);
        if (fd < 0)
                return fd;
        r = mount_move(fd, target);
        return r < 0 ? err_sys(err, -r, "mounting '%s' at '%s'", h->path, plan->target) : 0;
}

/* "cpu" and "cpuacct" lead to "cpu,cpuacct". */
static void link_controllers(int dir, const char *name)
{
        char part[64];

        if (!strchr(name, ','))
                return;
        for (const char *p = name; *p;) {
                const size_t n = strcspn(p, ",");

                snprintf(part, sizeof(part), "%.*s", (int)n, p);
                if (symlinkat(name, dir, part) < 0 && errno != EEXIST)
                        return;
                p += n + (p[n] == ',');
        }
}

static int mount_hierarchies(struct launch *l, struct mount_plan *plan, int target, struct err **err)
{
        static const char *data[] = { "mode=755", NULL };
        struct mount_options tmpfs = plan->options;
        _cleanup_close_ int fd = -1;
        const struct cgroup_hierarchy *h;
        int r;

        tmpfs.data = (struct spec_strings){ data, 1 };
        tmpfs.set &= ~(u64)MOUNT_ATTR_RDONLY;
        fd = mount_new("tmpfs", "tmpfs", &tmpfs, err);
        if (fd < 0)
                return fd;
        r = attach(plan, fd, target, err);
        for (size_t i = 0; r == 0 && (h = cgroup_hierarchy(l->cgroup, i)); i++) {
                _cleanup_close_ int sub = -1;

                if (mkdirat(fd, h->name, 0755) < 0)
                        return err_sys(err, errno, "making '%s/%s'", plan->target, h->name);
                sub = openat(fd, h->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
                if (sub < 0)
                        return err_sys(err, errno, "opening '%s/%s'", plan->target, h->name);
                r = bind_hierarchy(plan, h, sub, err);
                link_controllers(fd, h->name);
        }
        if (r == 0 && plan->options.set & MOUNT_ATTR_RDONLY && mount_set_attr(fd, MOUNT_ATTR_RDONLY, 0, false) < 0)
                return err_sys(err, errno, "making '%s' read-only", plan->target);
        return r;
}

static int mount_cgroup(struct launch *l, struct mount_plan *plan, struct err **err)
{
        _cleanup_close_ int target = -1;
        const struct cgroup_hierarchy *first = l->cgroup ? cgroup_hierarchy(l->cgroup, 0) : NULL;

        target = open_target(l, plan, true, err);
        if (target < 0)
                return target;
        if (!first) {
                /* Rootless without any group of its own: sees the host's, may change nothing. */
                const struct cgroup_hierarchy host = { .path = "/sys/fs/cgroup" };
                struct mount_plan whole = *plan;

                whole.options.flags |= MOUNT_RECURSIVE;
                return bind_hierarchy(&whole, &host, target, err);
        }
        if (cgroup_is_unified(l->cgroup))
                return bind_hierarchy(plan, first, target, err);
        return mount_hierarchies(l, plan, target, err);
}

static int mount_entry(struct launch *l, struct mount_plan *plan, struct err **err)
{
        if (plan->options.flags & MOUNT_BIND)
                return mount_bound(l, plan, err);
        if (plan->options.flags & MOUNT_REMOUNT)
                return remount(l, plan, err);
        if (is_type(plan, "cgroup") || is_type(plan, "cgroup2"))
                return mount_cgroup(l, plan, err);
        return mount_fresh(l, plan, err);
}

/* ---- the root ---- */

static unsigned long root_propagation(const struct launch *l)
{
        const char *text = l->spec->linux_.rootfs_propagation;

        return text && text[0] ? (unsigned long)name_find(spec_propagations, text)->value : 0;
}

/* The mount that holds the root directory must not be shared, or our mount on it would reach the host. Its mount point
 * is in mountinfo; the longest one that is a prefix of the path is it. */
static int make_parent_private(const struct launch *l, struct err **err)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
        _cleanup_free_ char *line = NULL;
        char best[PATH_MAX] = "/", point[PATH_MAX];
        size_t room = 0;

        if (!f)
                return err_sys(err, errno, "opening mountinfo");
        while (getline(&line, &room, f) > 0) {
                size_t n;

                if (sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1)
                        continue;
                n = strlen(point);
                if (strncmp(l->rootfs, point, n) == 0 && (l->rootfs[n] == '/' || !l->rootfs[n]) && n >= strlen(best))
                        strcpy(best, point);
        }
        if (mount(NULL, best, NULL, MS_PRIVATE, NULL) < 0)
                return err_sys(err, errno, "making mount '%s' private", best);
        return 0;
}

static int mount_root(struct launch *l, struct err **err)
{
        const unsigned long propagation = root_propagation(l);
        /* Unbindable mounts could not be cloned: private until the root is in place. */
        const unsigned long at_first = MS_REC | (propagation & MS_UNBINDABLE ? MS_PRIVATE
                                                        : propagation        ? propagation
                                                                             : MS_SLAVE);
        _cleanup_close_ int dir = -1, tree = -1, prepared = TAKE_FD(l->root);
        int r;

        if (mount(NULL, "/", NULL, at_first, NULL) < 0)
                return err_sys(err, errno, "setting the propagation of the mount namespace");
        if (propagation & MS_SHARED) {
                r = make_parent_private(l, err);
                if (r < 0)
                        return r;
        }
        dir = open(l->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0 && errno == EACCES && prepared >= 0) {
                /* Over "/", where everybody comes to. Host paths go on meaning the host's: a process' root is the mount
                 * that was there before. */
                if (move_mount(prepared, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
                        return err_sys(err, errno, "mounting the root file system");
                l->root = TAKE_FD(prepared);
                return 0;
        }
        if (dir < 0)
                return err_sys(err, errno, "opening the root file system '%s'", l->rootfs);
        tree = mount_clone(dir, true);
        if (tree < 0)
                return err_sys(err, -tree, "cloning the root file system '%s'", l->rootfs);
        r = mount_move(tree, dir);
        if (r < 0)
                return err_sys(err, -r, "mounting the root file system '%s'", l->rootfs);
        l->root = TAKE_FD(tree);
        return 0;
}

int rootfs_make_targets(struct launch *l, struct err **err)
{
        const char *tmpfs[64];
        size_t n_tmpfs = 0;
        int r = 0;

        l->root = open(l->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (l->root < 0)
                return err_sys(err, errno, "opening the root file system '%s'", l->rootfs);
        for (size_t i = 0; r >= 0 && i < l->n_mounts; i++) {
                struct mount_plan *plan = &l->mounts[i];
                bool below = false;

                for (size_t k = 0; k < n_tmpfs; k++) {
                        const size_t n = strlen(tmpfs[k]);

                        below |= strncmp(plan->target, tmpfs[k], n) == 0 && plan->target[n] == '/';
                }
                /* What is below a tmpfs comes back with it, and what is below sysfs is there. */
                if (below || plan->options.flags & MOUNT_REMOUNT || is_type(plan, "cgroup") || is_type(plan, "cgroup2"))
                        continue;
                if (plan->options.flags & MOUNT_BIND) {
                        r = mount_bound(l, plan, err);
                } else {
                        const int target = open_target(l, plan, true, err);

                        closep(&target);
                        r = MIN(target, 0);
                        if (is_type(plan, "tmpfs") && n_tmpfs < ARRAY_SIZE(tmpfs))
                                tmpfs[n_tmpfs++] = plan->target;
                }
                if (r < 0)
                        err_wrap(err, r, "mounts[%zu] (%s)", i, plan->target);
        }
        return r;
}

int rootfs_mount(struct launch *l, struct err **err)
{
        int r = mount_root(l, err);

        if (r < 0)
                return r;
        for (size_t i = 0; i < l->n_mounts; i++) {
                r = mount_entry(l, &l->mounts[i], err);
                if (r < 0)
                        return err_wrap(err, r, "mounts[%zu] (%s)", i, l->mounts[i].target);
        }
        r = notify_mount(l, err);
        if (r < 0)
                return r;
        if (l->process) {
                /* As runc and crun: a working directory that the image lacks is made. */
                const int cwd = root_make_dir(l->root, l->process->cwd, 0755, NULL);

                closep(&cwd);
        }
        return devices_make(l, err);
}

/* ---- what must not be seen or written ---- */

static int make_readonly_path(const struct launch *l, const char *path, struct err **err)
{
        _cleanup_close_ int at = root_find(l->root, path, 0), tree = -1;
        int r;

        if (at == -ENOENT || at == -ENOTDIR || at == -EACCES)
                return 0;
        if (at < 0)
                return err_sys(err, -at, "linux.readonlyPaths: finding '%s'", path);
        tree = mount_clone(at, true);
        if (tree < 0)
                return err_sys(err, -tree, "linux.readonlyPaths: cloning '%s'", path);
        r = mount_set_attr(tree, MOUNT_ATTR_RDONLY, 0, true);
        if (r == 0)
                r = mount_move(tree, at);
        return r < 0 ? err_sys(err, -r, "linux.readonlyPaths: '%s'", path) : 0;
}

/* The host's null device, looked at after it is open: never the container's (CVE-2025-31133). */
static int open_null(struct err **err)
{
        _cleanup_close_ int fd = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, errno, "opening /dev/null");
        if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
                return err_set(err, ERR_UNSUPPORTED, EINVAL, "/dev/null is not the null device");
        return TAKE_FD(fd);
}

/* An empty read-only directory for the first use, copies of that mount for the others: one file system in all. */
static int empty_directory(int *first, struct err **err)
{
        static const char *data[] = { "size=0", "nr_inodes=2", NULL };
        const struct mount_options options = {
                .set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                .data = { data, 2 },
        };
        int fd;

        if (*first >= 0) {
                fd = mount_clone(*first, false);
                return fd < 0 ? err_sys(err, -fd, "linux.maskedPaths") : fd;
        }
        fd = mount_new("tmpfs", "tmpfs", &options, err);
        if (fd >= 0)
                *first = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        return fd;
}

static int mask_path(const struct launch *l, const char *path, int null, int *empty, struct err **err)
{
        _cleanup_close_ int at = root_find(l->root, path, 0), cover = -1;
        struct stat st;
        int r;

        if (at == -ENOENT || at == -ENOTDIR || at == -EACCES)
                return 0;
        if (at < 0 || fstat(at, &st) < 0)
                return err_sys(err, at < 0 ? -at : errno, "linux.maskedPaths: finding '%s'", path);
        if (S_ISDIR(st.st_mode)) {
                cover = empty_directory(empty, err);
                if (cover < 0)
                        return cover;
        } else {
                cover = mount_clone(null, false);
                if (cover < 0)
                        return err_sys(err, -cover, "linux.maskedPaths: '%s'", path);
        }
        r = mount_move(cover, at);
        return r < 0 ? err_sys(err, -r, "linux.maskedPaths: covering '%s'", path) : 0;
}

static int cover_paths(const struct launch *l, struct err **err)
{
        const struct spec_linux *linux_ = &l->spec->linux_;
        _cleanup_close_ int null = -1, empty = -1;
        int r = 0;

        for (size_t i = 0; r == 0 && i < linux_->readonly_paths.n; i++)
                r = make_readonly_path(l, linux_->readonly_paths.item[i], err);
        if (r < 0 || !linux_->masked_paths.n)
                return r;
        null = open_null(err);
        if (null < 0)
                return null;
        for (size_t i = 0; r == 0 && i < linux_->masked_paths.n; i++)
                r = mask_path(l, linux_->masked_paths.item[i], null, &empty, err);
        return r;
}

int rootfs_mount_console(const struct launch *l, int fd, struct err **err)
{
        _cleanup_close_ int target = -1, tree = -1, dev = root_make_dir(l->root, "/dev", 0755, err);
        struct stat st;
        int r;

        if (dev < 0)
                return dev;
        /* Ours or nobody's: a link or anything else that is there already is replaced (CVE-2025-52565). */
        if (fstatat(dev, "console", &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode) &&
                unlinkat(dev, "console", 0) < 0)
                return err_sys(err, errno, "making /dev/console");
        if (mknodat(dev, "console", S_IFREG | 0600, 0) < 0 && errno != EEXIST)
                return err_sys(err, errno, "making /dev/console");
        target = openat(dev, "console", O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (target < 0 || fstat(target, &st) < 0 || S_ISLNK(st.st_mode))
                return err_sys(err, target < 0 ? errno : ELOOP, "opening /dev/console");
        tree = mount_clone(fd, false);
        r = tree < 0 ? tree : mount_move(tree, target);
        return r < 0 ? err_sys(err, -r, "mounting /dev/console") : 0;
}

int rootfs_finish(struct launch *l, struct err **err)
{
        const unsigned long propagation = root_propagation(l);
        int r = cover_paths(l, err);

        for (size_t i = 0; r == 0 && i < l->n_mounts; i++) {
                if (l->mounts[i].fd < 0 || !readonly_later(&l->mounts[i]))
                        continue;
                r = mount_set_attr(l->mounts[i].fd, MOUNT_ATTR_RDONLY, 0, false);
                if (r < 0)
                        return err_sys(err, -r, "making '%s' read-only", l->mounts[i].target);
        }
        if (r == 0)
                r = root_swap(l, !propagation, err);
        if (r < 0)
                return r;
        if (propagation) {
                r = mount_set_propagation(l->root, propagation);
                if (r < 0)
                        return err_sys(err, -r, "linux.rootfsPropagation");
        }
        if (l->spec->root.readonly) {
                r = mount_set_attr(l->root, MOUNT_ATTR_RDONLY, 0, false);
                if (r < 0)
                        return err_sys(err, -r, "making the root read-only");
        }
        return 0;
}

/* The helper's work: from an instance's configuration to a running first process, and back.
 *
 * It has a mount namespace of its own, which the container's is made from: the root, mounted there, is never seen by the host
 * and goes away with its last user, whoever is killed when. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "network.h"
#include "ops.h"
#include "passwd.h"
#include "userns.h"

/* --- files of /etc ---------------------------------------------------------------------------------------------- */

int launch_write_file(const struct instance *inst, const char *name, const char *text, struct err **err)
{
        _cleanup_close_ int fd = openat(inst->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
        int r = fd < 0 ? -errno : fchmod(fd, 0644) < 0 ? -errno : io_write_all(fd, text, strlen(text));

        return r < 0 ? err_sys(err, -r, "writing '%s'", name) : 0;
}

static int add_file(struct launch_plan *plan, const char *file, const char *target, const char *text, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        _cleanup_free_ char *path = instance_path(plan->inst, file);
        int r;

        for (size_t i = 0; i < c->mounts.n; i++)
                if (strcmp(c->mounts.item[i].target, target) == 0)
                        return 0;
        r = path ? launch_write_file(plan->inst, file, text, err) : err_sys(err, ENOMEM, "writing '%s'", file);
        if (r == 0)
                spec_add_mount(plan->mounts, "bind", path, target,
                        userns_shifts_mounts(plan->inst) ? "bind,rprivate,idmap" : "bind,rprivate");
        return r;
}

static int add_etc_files(struct launch_plan *plan, struct network *network, struct err **err)
{
        _cleanup_free_ char *hosts = NULL, *resolv = NULL, *name = NULL;
        int r = network_texts(network, plan->hostname, &hosts, &resolv, err);

        if (r == 0 && asprintf(&name, "%s\n", plan->hostname) < 0)
                return err_sys(err, ENOMEM, "writing the host name");
        if (r == 0 && hosts)
                r = add_file(plan, "hosts", "/etc/hosts", hosts, err);
        if (r == 0)
                r = add_file(plan, "hostname", "/etc/hostname", name, err);
        if (r == 0 && resolv)
                r = add_file(plan, "resolv.conf", "/etc/resolv.conf", resolv, err);
        return r;
}

/* --- mounts ----------------------------------------------------------------------------------------------------- */

/* First use: a volume gets what is at its place in @root. */
static int fill_volumes(const struct instance *inst, int root, struct err **err)
{
        const struct instance_config *c = &inst->config;
        int r = 0;

        for (size_t i = 0; r == 0 && i < c->mounts.n; i++) {
                const struct instance_mount *m = &c->mounts.item[i];

                if (strcmp(m->type, "volume") == 0 && !m->no_copy)
                        r = volume_fill(inst->host, m->source, root, m->target, err);
        }
        return r;
}

/* Images and volumes as the instance's user namespace is to see them. Volumes are filled before: ids as they are on disk. */
static int shift_ids(struct instance *inst, struct err **err)
{
        _cleanup_free_ char *volumes = NULL;
        _cleanup_close_ int view = -1;
        int r = image_instance_mount(inst->host->images, inst->id, IMAGE_MOUNT_READ_ONLY, &view, err);

        if (r == 0)
                r = fill_volumes(inst, view, err);
        if (r == 0)
                r = userns_shift(inst->userns, image_store_root(inst->host->images), err);
        if (r < 0)
                return r;
        if (asprintf(&volumes, "%s/" DIR_VOLUMES, inst->host->root) < 0)
                return err_sys(err, ENOMEM, "mounting volumes");
        return userns_shift(inst->userns, volumes, err);
}

int launch_own_mounts(struct err **err)
{
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                return err_sys(err, errno, "making a mount namespace");
        return 0;
}

int launch_mount_root(struct instance *inst, char **ret_path, int *ret_fd, struct err **err)
{
        _cleanup_free_ char *path = instance_path(inst, DIR_ROOTFS);
        _cleanup_close_ int mount_fd = -1, root = -1;
        const unsigned flags = inst->config.auto_remove ? IMAGE_MOUNT_VOLATILE : 0;
        int r;

        if (!path)
                return err_sys(err, ENOMEM, "mounting the root");
        r = io_make_dir(inst->dir, DIR_ROOTFS, 0755, err);
        if (r == 0 && userns_shifts_mounts(inst))
                r = shift_ids(inst, err);
        if (r == 0)
                r = inst->userns >= 0 ? userns_mount_root(inst, flags, &mount_fd, err)
                                      : image_instance_mount(inst->host->images, inst->id, flags, &mount_fd, err);
        if (r < 0)
                return r;
        /* By path: inst->dir is of the mount namespace that was left, where nothing can be mounted any more. */
        if (syscall(SYS_move_mount, mount_fd, "", AT_FDCWD, path, 4 /* MOVE_MOUNT_F_EMPTY_PATH */) < 0)
                return err_sys(err, errno, "mounting the root");
        root = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (root < 0)
                return err_sys(err, errno, "opening the root");
        if (!userns_shifts_mounts(inst))
                r = fill_volumes(inst, root, err);
        if (r == 0)
                r = passwd_add_user(inst, root, err);
        if (r < 0)
                return r;
        *ret_path = TAKE_PTR(path);
        *ret_fd = TAKE_FD(root);
        return 0;
}

static int add_bind(struct launch_plan *plan, const struct instance_mount *m, struct err **err)
{
        char options[128];
        struct stat st;

        if (m->make_source && stat(m->source, &st) < 0 && errno == ENOENT) {
                int r = io_make_path(m->source, 0755, err);

                if (r < 0)
                        return r;
        } else if (stat(m->source, &st) < 0)
                return err_sys(err, errno, "the source of the bind mount, '%s'", m->source);
        snprintf(options, sizeof(options), "%s,%s,%s%s", m->no_recursive ? "bind" : "rbind",
                m->propagation ? m->propagation : "rprivate", m->read_only ? "ro" : "rw", m->id_map ? ",idmap" : "");
        spec_add_mount(plan->mounts, "bind", m->source, m->target, options);
        return 0;
}

static int add_volume(struct launch_plan *plan, const struct instance_mount *m, struct err **err)
{
        _cleanup_free_ char *path = volume_path(plan->inst->host, m->source);

        if (!path)
                return err_sys(err, ENOMEM, "mounting a volume");
        spec_add_mount(plan->mounts, "bind", path, m->target, m->read_only ? "rbind,rprivate,ro" : "rbind,rprivate,rw");
        return 0;
}

static int add_tmpfs(struct launch_plan *plan, const struct instance_mount *m, struct err **err)
{
        _cleanup_free_ char *options = NULL;

        if (asprintf(&options, "nosuid,nodev,noexec%s%s%s", m->options ? "," : "", m->options ? m->options : "",
                    m->read_only ? ",ro" : "") < 0)
                return err_sys(err, ENOMEM, "mounting a tmpfs");
        spec_add_mount(plan->mounts, "tmpfs", "tmpfs", m->target, options);
        return 0;
}

static const struct {
        const char *type;
        int (*add)(struct launch_plan *plan, const struct instance_mount *m, struct err **err);
} mount_types[] = {
        { "bind", add_bind },
        { "volume", add_volume },
        { "tmpfs", add_tmpfs },
};

static int by_depth(const void *a, const void *b)
{
        const struct instance_mount *x = *(struct instance_mount *const *)a, *y = *(struct instance_mount *const *)b;
        size_t nx = 0, ny = 0;

        for (const char *p = x->target; *p; p++)
                nx += *p == '/';
        for (const char *p = y->target; *p; p++)
                ny += *p == '/';
        return (nx > ny) - (nx < ny);
}

int launch_sorted_mounts(const struct instance *inst, const struct instance_mount ***ret, struct err **err)
{
        const struct instance_config *c = &inst->config;
        const struct instance_mount **sorted = calloc(c->mounts.n + 1, sizeof(*sorted));

        if (!sorted)
                return err_sys(err, ENOMEM, "mounting");
        for (size_t i = 0; i < c->mounts.n; i++)
                sorted[i] = &c->mounts.item[i];
        qsort(sorted, c->mounts.n, sizeof(*sorted), by_depth);
        *ret = sorted;
        return 0;
}

static int add_mounts(struct launch_plan *plan, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        _cleanup_free_ const struct instance_mount **sorted = NULL;
        int r = launch_sorted_mounts(plan->inst, &sorted, err);

        for (size_t i = 0; r == 0 && i < c->mounts.n; i++)
                for (size_t t = 0; t < ARRAY_SIZE(mount_types); t++)
                        if (strcmp(mount_types[t].type, sorted[i]->type) == 0)
                                r = mount_types[t].add(plan, sorted[i], err);
        return r;
}

static int add_init(struct launch_plan *plan, struct err **err)
{
        _cleanup_free_ char *path = NULL;

        if (!plan->inst->config.init)
                return 0;
        if (asprintf(&path, "%s/strata-supervise", plan->inst->host->programs) < 0)
                return err_sys(err, ENOMEM, "adding an init");
        spec_add_mount(plan->mounts, "bind", path, SPEC_INIT_PATH, "bind,ro");
        return 0;
}

/* --- all of it ------------------------------------------------------------------------------------------------- */

static bool shares_network(const struct instance_config *c)
{
        return c->network_mode && strncmp(c->network_mode, MODE_CONTAINER, strlen(MODE_CONTAINER)) == 0;
}

/* Who shares another's network has its name, too: that is what the addresses there stand for. */
static const char *hostname_of(const struct instance *inst, struct arena *arena)
{
        const struct instance_config *c = &inst->config;
        _cleanup_(instance_freep) struct instance *other = NULL;
        static const size_t short_id = 12;

        if (c->hostname && c->hostname[0])
                return arena_strdup(arena, c->hostname);
        if (shares_network(c) &&
                instance_find(inst->host, c->network_mode + strlen(MODE_CONTAINER), &other, NULL) == 0 &&
                !shares_network(&other->config))
                return hostname_of(other, arena);
        return arena_printf(arena, "%.*s", (int)short_id, inst->id);
}

static const char *choose_hostname(struct instance *inst)
{
        const struct instance_config *c = &inst->config;

        if (c->hostname && c->hostname[0])
                return c->hostname;
        if ((c->network_mode && strcmp(c->network_mode, "host") == 0) ||
                (c->uts_mode && strcmp(c->uts_mode, "host") == 0)) {
                char *name = arena_alloc(&inst->arena, 1, 65);

                if (name && gethostname(name, 64) == 0)
                        return name;
        }
        return hostname_of(inst, &inst->arena);
}

static int launch(struct instance *inst, struct err **err)
{
        _cleanup_(network_closep) struct network *network = NULL;
        _cleanup_free_ char *rootfs = NULL;
        _cleanup_close_ int root = -1;
        struct launch_plan plan = {
                .inst = inst, .root = -1, .mounts = json_array(), .hostname = choose_hostname(inst)
        };
        int r = plan.mounts && plan.hostname ? 0 : err_sys(err, ENOMEM, "starting the instance");

        if (r == 0 && inst->config.id_maps)
                r = userns_make(inst, &inst->userns, err);
        /* Before the mount namespace: the host's files are the host's. */
        if (r == 0)
                r = inst->ops->connect(inst, plan.hostname, &network, err);
        plan.network = network;
        plan.network_path = network ? network_path(network) : NULL;
        if (r == 0)
                r = launch_own_mounts(err);
        if (r == 0 && inst->ops->begin)
                r = inst->ops->begin(&plan, err);
        if (r == 0)
                r = launch_mount_root(inst, &rootfs, &root, err);
        plan.root = root;
        plan.rootfs = rootfs;
        if (r == 0)
                r = add_mounts(&plan, err);
        if (r == 0)
                r = add_etc_files(&plan, network, err);
        if (r == 0)
                r = add_init(&plan, err);
        if (r == 0)
                r = inst->ops->launch(&plan, err);
        if (inst->ops->end)
                inst->ops->end(&plan);
        json_decref(plan.mounts);
        return r;
}

int launch_instance(struct instance *inst, struct err **err)
{
        _cleanup_(err_freep) struct err *error = NULL;
        int r;

        unlinkat(inst->dir, FILE_ERROR, 0);
        r = launch(inst, &error);
        if (r < 0) {
                launch_write_file(inst, FILE_ERROR, err_message(error), NULL);
                launch_clean(inst, NULL);
                if (err)
                        *err = TAKE_PTR(error);
        }
        return r;
}

/* --- and back --------------------------------------------------------------------------------------------------- */

int launch_clean(struct instance *inst, struct err **err)
{
        int r = 0;

        /* Of every wall: of one that is half removed nobody knows any more which it had. */
        for (size_t i = 0; r == 0 && instance_walls[i]; i++)
                r = instance_walls[i]->clean(inst, err);
        if (r == 0)
                r = network_disconnect(inst, err);
        if (r == 0)
                r = io_remove_tree(inst->dir, DIR_BOX, err);
        if (r < 0)
                return r;
        unlinkat(inst->dir, FILE_PID, 0);
        unlinkat(inst->dir, FILE_OOM, 0);
        unlinkat(inst->dir, FILE_CONSOLE, 0);
        return 0;
}

int instance_clean_up(struct instance *inst, struct err **err)
{
        int r = launch_clean(inst, err);

        if (r < 0 || !inst->config.auto_remove)
                return r;
        event_write(inst->host, "destroy", inst, 0, "");
        return instance_destroy(inst, true, err);
}

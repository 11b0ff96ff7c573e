#include "userns.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "box/idmap.h"
#include "box/procfs.h"

#define MODE_AUTO "auto"

/* The ids that "auto" gives out: above those of /etc/subuid (useradd gives none beyond 600,100,000) and those that
 * systemd-nspawn chooses for its containers (to 1,879,048,191), below 2^31. */
enum { AUTO_FIRST = 1879048192, AUTO_SIZE = 65536, AUTO_RANGES = 4095, MAPS_MAX = 340 /* user_namespaces(7) */ };

bool userns_is_own(const struct instance_config *c)
{
        return c->userns_mode && c->userns_mode[0] && strcmp(c->userns_mode, "host") != 0;
}

/* "auto", "auto:size=N" */
static bool is_auto(const char *mode, u32 *ret_size)
{
        const size_t n = strlen(MODE_AUTO);
        char rest;

        *ret_size = AUTO_SIZE;
        if (strncmp(mode, MODE_AUTO, n) != 0)
                return false;
        return !mode[n] ||
               (sscanf(mode + n, ":size=%u%c", ret_size, &rest) == 1 && *ret_size > 0 && *ret_size <= 64 * AUTO_SIZE);
}

/* A decimal number and what must follow it. */
static bool read_id(const char **text, u32 *ret, const char *ends)
{
        u64 n = 0;
        const char *p = *text;

        for (; *p >= '0' && *p <= '9' && n < UINT32_MAX; p++)
                n = n * 10 + (u64)(*p - '0');
        if (p == *text || n >= UINT32_MAX || !strchr(ends, *p))
                return false;
        *ret = (u32)n;
        *text = *p ? p + 1 : p;
        return true;
}

static bool overlap(u32 a, u32 n_a, u32 b, u32 n_b)
{
        return a < (u64)b + n_b && b < (u64)a + n_a;
}

/* "UID:HOST:N[,...]" */
static int read_maps(struct arena *arena, const char *text, struct spec_id_maps *ret, struct err **err)
{
        const char *p = text;
        size_t n = 1;

        for (const char *q = text; *q; q++)
                n += *q == ',';
        *ret = (struct spec_id_maps){ .item = arena_new(arena, struct spec_id_map, n) };
        if (!ret->item)
                return err_sys(err, ENOMEM, "reading id maps");
        for (; ret->n < n && n <= MAPS_MAX; ret->n++) {
                struct spec_id_map *m = &ret->item[ret->n];

                if (!read_id(&p, &m->container_id, ":") || !read_id(&p, &m->host_id, ":") ||
                        !read_id(&p, &m->size, ret->n + 1 < n ? "," : "") || !m->size ||
                        (u64)m->container_id + m->size > UINT32_MAX || (u64)m->host_id + m->size > UINT32_MAX)
                        break;
                for (size_t i = 0; i < ret->n; i++)
                        if (overlap(m->container_id, m->size, ret->item[i].container_id, ret->item[i].size) ||
                                overlap(m->host_id, m->size, ret->item[i].host_id, ret->item[i].size))
                                return err_set(err, ERR_USAGE, EINVAL, "--userns: '%.100s' has an id twice", text);
        }
        if (ret->n == n && idmap_to_host(ret, 0) == UINT32_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "--userns: '%.100s' has no id 0", text);
        if (ret->n == n)
                return 0;
        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "--userns: '%.100s' cannot be understood", text),
                "host, auto, auto:size=N, or UID:HOST:N[,UID:HOST:N...]: N ids from UID on are those from HOST on outside");
}

int userns_check(const struct instance_config *c, struct err **err)
{
        const struct {
                const char *option;
                bool given;
        } excluded[] = {
                { "--privileged", c->privileged },
                { "--network host", c->network_mode && strcmp(c->network_mode, "host") == 0 },
                { "--pid host", c->pid_mode && strcmp(c->pid_mode, "host") == 0 },
                { "--ipc host", c->ipc_mode && strcmp(c->ipc_mode, "host") == 0 },
        };
        struct arena arena = { 0 };
        struct spec_id_maps maps;
        u32 size;
        int r = 0;

        for (size_t i = 0; !userns_is_own(c) && i < c->mounts.n; i++)
                if (c->mounts.item[i].id_map)
                        return err_hint(err,
                                err_set(err, ERR_USAGE, EINVAL,
                                        "the mount on '%s' cannot be id-mapped without a user namespace",
                                        c->mounts.item[i].target),
                                "--userns auto, for instance");
        if (!userns_is_own(c))
                return 0;
        for (size_t i = 0; i < ARRAY_SIZE(excluded); i++)
                if (excluded[i].given)
                        return err_set(err, ERR_USAGE, EINVAL, "--userns %s and %s exclude one another", c->userns_mode,
                                excluded[i].option);
        if (!is_auto(c->userns_mode, &size))
                r = read_maps(&arena, c->userns_mode, &maps, err);
        arena_release(&arena);
        return r;
}

/* --- choosing ---------------------------------------------------------------------------------------------------- */

struct ranges {
        bool taken[AUTO_RANGES];
};

static int take_ranges(void *opaque, struct instance *inst)
{
        struct ranges *ranges = opaque;
        struct arena arena = { 0 };
        struct spec_id_maps maps = { 0 };

        if (inst->config.id_maps && read_maps(&arena, inst->config.id_maps, &maps, NULL) == 0)
                for (size_t i = 0; i < maps.n; i++)
                        for (u32 k = 0; k < AUTO_RANGES; k++)
                                ranges->taken[k] |= overlap(
                                        maps.item[i].host_id, maps.item[i].size, AUTO_FIRST + k * AUTO_SIZE, AUTO_SIZE);
        arena_release(&arena);
        return 0;
}

int userns_choose(struct instance *inst, struct err **err)
{
        struct instance_config *c = &inst->config;
        _cleanup_free_ struct ranges *ranges = calloc(1, sizeof(*ranges));
        u32 size, wanted, found = 0, k;
        int r;

        if (!userns_is_own(c))
                return 0;
        if (!is_auto(c->userns_mode, &size)) {
                c->id_maps = c->userns_mode;
                return 0;
        }
        r = ranges ? instance_list(inst->host, take_ranges, ranges, err) : err_sys(err, ENOMEM, "choosing ids");
        if (r < 0)
                return r;
        wanted = (size + AUTO_SIZE - 1) / AUTO_SIZE;
        for (k = 0; k < AUTO_RANGES && found < wanted; k++)
                found = ranges->taken[k] ? 0 : found + 1;
        if (found < wanted)
                return err_set(err, ERR_BUSY, EUSERS, "--userns auto: all ids are other instances'");
        c->id_maps = arena_printf(&inst->arena, "0:%u:%u", AUTO_FIRST + (k - wanted) * AUTO_SIZE, size);
        return c->id_maps ? 0 : err_sys(err, ENOMEM, "choosing ids");
}

/* --- using ------------------------------------------------------------------------------------------------------- */

int userns_maps(struct arena *arena, const struct instance_config *c, struct spec_id_maps *ret, struct err **err)
{
        return read_maps(arena, c->id_maps ? c->id_maps : "", ret, err);
}

int userns_make(const struct instance *inst, int *ret, struct err **err)
{
        _cleanup_close_ int proc = -1;
        struct arena arena = { 0 };
        struct spec_id_maps maps;
        int r;

        if (inst->host->rootless)
                return err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, EPERM, "--userns %s needs root", inst->config.userns_mode),
                        "a user's containers are in the user's namespace already: root inside is the user outside");
        proc = procfs_open(err);
        if (proc < 0)
                return proc;
        r = userns_maps(&arena, &inst->config, &maps, err);
        if (r == 0) {
                r = idmap_namespace(proc, &maps, &maps, err);
                if (r >= 0)
                        *ret = r;
        }
        arena_release(&arena);
        return MIN(r, 0);
}

int userns_mount_root(struct instance *inst, unsigned flags, int *ret_mount_fd, struct err **err)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
        struct arena arena = { 0 };
        struct spec_id_maps maps;
        u32 root;
        int r = userns_maps(&arena, &inst->config, &maps, err);

        if (r < 0)
                return r;
        root = idmap_to_host(&maps, 0);
        arena_release(&arena);
        if (syscall(SYS_capget, &header, caps) < 0)
                return err_sys(err, errno, "mounting the root");
        /* Another user of files loses capabilities on the way (capabilities(7)). */
        setfsgid(root);
        setfsuid(root);
        if (syscall(SYS_capset, &header, caps) < 0)
                r = err_sys(err, errno, "mounting the root");
        if (r == 0)
                r = image_instance_mount(inst->host->images, inst->id, flags, ret_mount_fd, err);
        setfsuid(0);
        setfsgid(0);
        return r;
}

int userns_shift(int userns, const char *dir, struct err **err)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (u64)userns };
        _cleanup_close_ int tree = open_tree(AT_FDCWD, dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

        if (tree < 0)
                return err_sys(err, errno, "'%s'", dir);
        if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0) {
                const int r = errno;

                if (r != EINVAL && r != EPERM)
                        return err_sys(err, r, "shifting the ids of '%s'", dir);
                return err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, r,
                                "the ids of '%s' cannot be shifted: its file system has no id-mapped mounts", dir),
                        "ext4, xfs, btrfs and others have them from Linux 5.12 to 6.0 on; an overlay has none");
        }
        if (move_mount(tree, "", AT_FDCWD, dir, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return err_sys(err, errno, "shifting the ids of '%s'", dir);
        return 0;
}

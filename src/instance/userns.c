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

#define MODE_AUTO  "auto"
#define MODE_KEEP  "keep-id"
#define MODE_NOMAP "nomap"

/* The ids that "auto" gives out: above those of /etc/subuid (useradd gives none beyond 600,100,000) and those that
 * systemd-nspawn chooses for its containers (to 1,879,048,191), below 2^31. A user has some of /etc/subuid, and gives fewer. */
enum { AUTO_FIRST = 1879048192, AUTO_SIZE = 65536, AUTO_RANGES = 4095, AUTO_SIZE_USER = 4096 };
enum { MAPS_MAX = 340 /* user_namespaces(7) */ };

bool userns_is_own(const struct instance_config *c)
{
        return c->userns_mode && c->userns_mode[0] && strcmp(c->userns_mode, "host") != 0;
}

/* "auto", "auto:size=N"; *ret_size 0: nothing was said */
static bool is_auto(const char *mode, u32 *ret_size)
{
        const size_t n = strlen(MODE_AUTO);
        char rest;

        *ret_size = 0;
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

/* What a user is outside of the user's own namespace, in which we are, and how many ids that has, from 0 on. */
struct own_ids {
        u32 outside, n;
};

static struct own_ids own_ids(const char *file)
{
        _cleanup_fclose_ FILE *f = fopen(file, "re");
        struct own_ids own = { 0 };
        unsigned inside, outside, n;

        while (f && fscanf(f, "%u %u %u", &inside, &outside, &n) == 3) {
                if (inside == 0)
                        own.outside = outside;
                if (inside == own.n)
                        own.n += n;
        }
        return own;
}

#define UID_MAP "/proc/self/uid_map"
#define GID_MAP "/proc/self/gid_map"

/* "keep-id", "keep-id:uid=N,gid=N" */
static bool is_keep_id(const char *mode, u32 *ret_uid, u32 *ret_gid)
{
        const size_t n = strlen(MODE_KEEP);
        const char *p = mode + n;

        if (strncmp(mode, MODE_KEEP, n) != 0)
                return false;
        *ret_uid = own_ids(UID_MAP).outside;
        *ret_gid = own_ids(GID_MAP).outside;
        if (!*p)
                return true;
        if (*p++ != ':' || !*p)
                return false;
        while (*p) {
                u32 *id = strncmp(p, "uid=", 4) == 0 ? ret_uid : strncmp(p, "gid=", 4) == 0 ? ret_gid : NULL;

                p += 4;
                if (!id || !read_id(&p, id, ","))
                        return false;
        }
        return true;
}

bool userns_keeps(const struct instance_config *c, struct userns_kept *ret)
{
        if (!userns_is_own(c) || !is_keep_id(c->userns_mode, &ret->uid, &ret->gid))
                return false;
        ret->outside_uid = own_ids(UID_MAP).outside;
        ret->outside_gid = own_ids(GID_MAP).outside;
        return true;
}

int userns_take_user(struct arena *arena, struct instance_config *c)
{
        struct userns_kept kept;

        if ((c->user && c->user[0]) || !userns_keeps(c, &kept))
                return 0;
        c->user = arena_printf(arena, "%u:%u", kept.uid, kept.gid);
        return c->user ? 0 : -ENOMEM;
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
                "host, auto, auto:size=N, UID:HOST:N[,UID:HOST:N...]: N ids from UID on are those from HOST on outside; without root also keep-id and nomap");
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
        u32 size, gid;
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
        if (!is_auto(c->userns_mode, &size) && !is_keep_id(c->userns_mode, &size, &gid) &&
                strcmp(c->userns_mode, MODE_NOMAP) != 0)
                r = read_maps(&arena, c->userns_mode, &maps, err);
        arena_release(&arena);
        return r;
}

/* --- choosing ---------------------------------------------------------------------------------------------------- */

struct ranges {
        bool rootless;
        struct spec_id_map *taken; /* .host_id, .size */
        size_t n;
};

/* What an instance has nobody else gets by "auto". A user's instances with keep-id or maps share with the user and one another. */
static int take_ranges(void *opaque, struct instance *inst)
{
        struct ranges *ranges = opaque;
        struct arena arena = { 0 };
        struct userns_maps maps = { 0 };
        u32 size;

        if (inst->config.id_maps && !(ranges->rootless && !is_auto(inst->config.userns_mode, &size)) &&
                userns_maps(&arena, &inst->config, &maps, NULL) == 0)
                for (size_t i = 0; i < maps.uids.n; i++) {
                        void *more = realloc(ranges->taken, (ranges->n + 1) * sizeof(*ranges->taken));

                        if (!more)
                                break;
                        ranges->taken = more;
                        ranges->taken[ranges->n++] = maps.uids.item[i];
                }
        arena_release(&arena);
        return 0;
}

/* The first @size ids from @first on, by steps, that nobody has; @end: there are none. */
static u64 first_free(const struct ranges *ranges, u64 first, u64 end, u32 size, u32 step)
{
        bool free = false;

        while (!free && first + size <= end) {
                free = true;
                for (size_t i = 0; i < ranges->n && free; i++)
                        free = !overlap((u32)first, size, ranges->taken[i].host_id, ranges->taken[i].size);
                first += free ? 0 : step;
        }
        return free ? first : end;
}

static int choose_range(struct instance *inst, u32 size, struct err **err)
{
        const bool rootless = inst->host->rootless;
        const struct own_ids uids = own_ids(UID_MAP), gids = own_ids(GID_MAP);
        const u64 begin = rootless ? 1 : AUTO_FIRST,
                  end = rootless ? MIN(uids.n, gids.n) : begin + (u64)AUTO_RANGES * AUTO_SIZE;
        const u32 step = rootless ? 256 : AUTO_SIZE;
        struct ranges ranges = { .rootless = rootless };
        u64 first;
        int r = instance_list(inst->host, take_ranges, &ranges, err);

        size = size ? size : rootless ? AUTO_SIZE_USER : AUTO_SIZE;
        first = first_free(&ranges, begin, end, size, step);
        free(ranges.taken);
        if (r < 0)
                return r;
        if (first == end)
                return err_hint(err,
                        err_set(err, ERR_BUSY, EUSERS, "--userns auto: there are no %u ids that are nobody's", size),
                        rootless ? "a user has those of /etc/subuid and /etc/subgid; auto:size=N takes fewer"
                                 : "those of other instances are taken");
        inst->config.id_maps = arena_printf(&inst->arena, "0:%llu:%u", (unsigned long long)first, size);
        return inst->config.id_maps ? 0 : err_sys(err, ENOMEM, "choosing ids");
}

/* All ids of the user's namespace in order, but that @kept is the user, who is 0 there. UINT32_MAX: nobody is. */
static char *maps_around(struct arena *arena, u32 kept, u32 n)
{
        const u32 others = n - 1, before = MIN(kept, others), after = others - before;
        const char *first = before ? arena_printf(arena, "0:1:%u", before) : "",
                   *user = kept != UINT32_MAX ? arena_printf(arena, "%s%u:0:1", before ? "," : "", kept) : "",
                   *last = after ? arena_printf(arena, ",%u:%u:%u", kept + 1, before + 1, after) : "";

        return first && user && last ? arena_printf(arena, "%s%s%s", first, user, last) : NULL;
}

static int choose_around(struct instance *inst, u32 uid, u32 gid, struct err **err)
{
        struct instance_config *c = &inst->config;
        const struct own_ids uids = own_ids(UID_MAP), gids = own_ids(GID_MAP);

        if (!inst->host->rootless)
                return err_hint(err,
                        err_set(err, ERR_USAGE, EINVAL, "--userns %s is for users who are not root", c->userns_mode),
                        "as root, for instance --userns auto");
        if ((uids.n < 2 && uid) || (gids.n < 2 && gid))
                return err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, EPERM, "--userns %s needs ids besides the user's own",
                                c->userns_mode),
                        "/etc/subuid and /etc/subgid grant them, and the package uidmap uses them");
        c->id_maps = maps_around(&inst->arena, uid, uids.n);
        c->gid_maps = maps_around(&inst->arena, gid, gids.n);
        return c->id_maps && c->gid_maps ? 0 : err_sys(err, ENOMEM, "choosing ids");
}

/* A user's maps lead to ids that the user has. */
static int check_own(const struct instance *inst, struct err **err)
{
        const u32 n = MIN(own_ids(UID_MAP).n, own_ids(GID_MAP).n);
        struct arena arena = { 0 };
        struct userns_maps maps = { 0 };
        int r = userns_maps(&arena, &inst->config, &maps, err);

        for (size_t i = 0; r == 0 && i < maps.uids.n; i++)
                if ((u64)maps.uids.item[i].host_id + maps.uids.item[i].size > n)
                        r = err_hint(err,
                                err_set(err, ERR_USAGE, EPERM, "--userns %s: a user's ids go from 0 to %u",
                                        inst->config.userns_mode, n - 1),
                                "0 is the user, the others are those of /etc/subuid and /etc/subgid in order");
        arena_release(&arena);
        return r;
}

/* Mounts of files that exist cannot be shifted without root. */
static int check_mounts(const struct instance *inst, struct err **err)
{
        for (size_t i = 0; inst->host->rootless && i < inst->config.mounts.n; i++)
                if (inst->config.mounts.item[i].id_map)
                        return err_hint(err,
                                err_set(err, ERR_UNSUPPORTED, EPERM,
                                        "the mount on '%s': without root the kernel maps no ids of mounts",
                                        inst->config.mounts.item[i].target),
                                "with --userns keep-id your own files are yours inside, too");
        return 0;
}

int userns_choose(struct instance *inst, struct err **err)
{
        struct instance_config *c = &inst->config;
        u32 uid, gid;
        int r;

        if (!userns_is_own(c))
                return 0;
        r = check_mounts(inst, err);
        if (r < 0)
                return r;
        if (is_auto(c->userns_mode, &uid))
                return choose_range(inst, uid, err);
        if (is_keep_id(c->userns_mode, &uid, &gid))
                return choose_around(inst, uid, gid, err);
        if (strcmp(c->userns_mode, MODE_NOMAP) == 0)
                return choose_around(inst, UINT32_MAX, UINT32_MAX, err);
        c->id_maps = c->userns_mode;
        return inst->host->rootless ? check_own(inst, err) : 0;
}

/* --- using ------------------------------------------------------------------------------------------------------- */

int userns_maps(struct arena *arena, const struct instance_config *c, struct userns_maps *ret, struct err **err)
{
        const char *uids = c->id_maps ? c->id_maps : "";
        int r = read_maps(arena, uids, &ret->uids, err);

        return r < 0 ? r : read_maps(arena, c->gid_maps ? c->gid_maps : uids, &ret->gids, err);
}

bool userns_shifts_mounts(const struct instance *inst)
{
        return inst->userns >= 0 && !inst->host->rootless;
}

int userns_make(const struct instance *inst, int *ret, struct err **err)
{
        _cleanup_close_ int proc = procfs_open(err);
        struct arena arena = { 0 };
        struct userns_maps maps;
        int r;

        if (proc < 0)
                return proc;
        r = userns_maps(&arena, &inst->config, &maps, err);
        if (r == 0) {
                r = idmap_namespace(proc, &maps.uids, &maps.gids, err);
                if (r >= 0)
                        *ret = r;
        }
        arena_release(&arena);
        return MIN(r, 0);
}

/* As fuse-overlayfs has it, where the same is separated otherwise. */
static char *shift_option(struct arena *arena, const struct spec_id_maps *maps)
{
        char *text = arena_strdup(arena, "");

        for (size_t i = 0; text && i < maps->n; i++)
                text = arena_printf(arena, "%s%s%u:%u:%u", text, i ? ":" : "", maps->item[i].container_id,
                        maps->item[i].host_id, maps->item[i].size);
        return text;
}

static int mount_as_user(
        struct instance *inst, unsigned flags, const struct userns_maps *maps, int *ret_mount_fd, struct err **err)
{
        const char *uids = shift_option(&inst->arena, &maps->uids), *gids = shift_option(&inst->arena, &maps->gids);

        if (!uids || !gids)
                return err_sys(err, ENOMEM, "mounting the root");
        return image_instance_mount_shifted(inst->host->images, inst->id, flags, uids, gids, ret_mount_fd, err);
}

/* Another user of files loses capabilities on the way (capabilities(7)). */
static int mount_as_inner_root(
        struct instance *inst, unsigned flags, const struct userns_maps *maps, int *ret_mount_fd, struct err **err)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
        int r = 0;

        if (syscall(SYS_capget, &header, caps) < 0)
                return err_sys(err, errno, "mounting the root");
        setfsgid(idmap_to_host(&maps->gids, 0));
        setfsuid(idmap_to_host(&maps->uids, 0));
        if (syscall(SYS_capset, &header, caps) < 0)
                r = err_sys(err, errno, "mounting the root");
        if (r == 0)
                r = image_instance_mount(inst->host->images, inst->id, flags, ret_mount_fd, err);
        setfsuid(0);
        setfsgid(0);
        return r;
}

int userns_mount_root(struct instance *inst, unsigned flags, int *ret_mount_fd, struct err **err)
{
        struct userns_maps maps;
        int r = userns_maps(&inst->arena, &inst->config, &maps, err);

        if (r < 0)
                return r;
        return userns_shifts_mounts(inst) ? mount_as_inner_root(inst, flags, &maps, ret_mount_fd, err)
                                          : mount_as_user(inst, flags, &maps, ret_mount_fd, err);
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

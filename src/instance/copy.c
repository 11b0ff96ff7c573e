/* Files in and out, as tar archives. A path of the instance is resolved once, by the kernel, with the instance's root as "/"
 * (openat2); from there on descriptors are used, so that nothing that the instance does meanwhile leads out of it
 * (CVE-2018-15664), and no program or library of it runs (CVE-2019-14271). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "box/sys.h"
#include "image/archive.h"
#include "image/pack.h"
#include "image/unpack.h"
#include "image/walk.h"
#include "ops.h"
#include "root_view.h"

#define READ_SIZE (1 << 18)

/* --- resolving -------------------------------------------------------------------------------------------------- */

static int find_below(int root, const char *path, int flags)
{
        return sys_openat2(root, path, (u64)flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

/* What is behind @target in @path, when @path is there or below: NULL, or without slashes before it. */
static const char *path_below(const char *target, const char *path)
{
        size_t n;

        target += strspn(target, "/");
        path += strspn(path, "/");
        n = strlen(target);
        if (strncmp(path, target, n) != 0 || (path[n] && path[n] != '/'))
                return NULL;
        return path + n + strspn(path + n, "/");
}

/* A machine's volumes are mounted by its own kernel, not in the root that others see: the one that @path leads to, as it is written. */
static const struct instance_mount *mount_inside(const struct instance *inst, const char *path, const char **ret_rest)
{
        const struct instance_mount *found = NULL;

        for (size_t i = 0; !inst->ops->has_namespaces && !strstr(path, "..") && i < inst->config.mounts.n; i++) {
                const struct instance_mount *m = &inst->config.mounts.item[i];
                const char *rest = path_below(m->target, path);

                if (rest && (!found || strlen(m->target) > strlen(found->target))) {
                        found = m;
                        *ret_rest = rest;
                }
        }
        return found;
}

static int find(const struct instance *inst, int root, const char *path, int flags)
{
        const char *rest = NULL;
        const struct instance_mount *m = mount_inside(inst, path, &rest);
        const bool is_volume = m && strcmp(m->type, "volume") == 0;
        _cleanup_free_ char *volume = is_volume ? volume_path(inst->host, m->source) : NULL;
        const char *source = is_volume ? volume : m ? m->source : NULL;
        _cleanup_close_ int dir = -1;

        if (!m)
                return find_below(root, path, flags);
        if (!source || strcmp(m->type, "tmpfs") == 0)
                return -EOPNOTSUPP; /* the guest's own memory */
        if (!rest[0]) {
                const int fd = open(source, flags | O_CLOEXEC);

                return fd < 0 ? -errno : fd;
        }
        dir = open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return dir < 0 ? -errno : find_below(dir, rest, flags);
}

static int not_found(const struct instance *inst, int r, const char *path, struct err **err)
{
        if (r == -ENOENT || r == -ENOTDIR)
                return err_set(err, ERR_NOT_FOUND, -r, "'%s' has no '%s'", inst->config.name, path);
        return err_sys(err, -r, "'%s' in '%s'", path, inst->config.name);
}

/* The last component as a user means it: "/" and "a/." are directories by themselves. */
static void last_name(const char *path, char ret[NAME_MAX + 1], bool *ret_content)
{
        size_t n = strlen(path), from;

        *ret_content = n >= 2 && strcmp(path + n - 2, "/.") == 0;
        if (*ret_content)
                n--;
        while (n > 0 && path[n - 1] == '/')
                n--;
        for (from = n; from > 0 && path[from - 1] != '/'; from--)
                ;
        snprintf(ret, NAME_MAX + 1, "%.*s", (int)MIN(n - from, (size_t)NAME_MAX), path + from);
        if (!ret[0] || strcmp(ret, ".") == 0 || strcmp(ret, "..") == 0)
                *ret_content = true;
}

/* Shared with a child that may be the one who looks. */
struct found {
        const struct instance *inst;
        const char *path;
        struct stat st;
        char link[PATH_MAX];
};

static int stat_path(void *opaque, int root, struct err **err)
{
        struct found *found = opaque;
        _cleanup_close_ int fd = find(found->inst, root, found->path, O_PATH | O_NOFOLLOW);

        if (fd < 0 || fstat(fd, &found->st) < 0)
                return not_found(found->inst, fd < 0 ? fd : -errno, found->path, err);
        if (S_ISLNK(found->st.st_mode)) {
                const ssize_t n = readlinkat(fd, "", found->link, sizeof(found->link) - 1);

                found->link[MAX(n, 0)] = '\0';
        }
        return 0;
}

int instance_stat_path(struct instance *inst, const char *path, struct instance_path_stat *ret, struct err **err)
{
        struct found *found = mmap(NULL, sizeof(*found), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        char name[NAME_MAX + 1];
        bool content;
        int r;

        if (found == MAP_FAILED)
                return err_sys(err, errno, "looking at '%s'", path);
        found->inst = inst;
        found->path = path;
        r = root_view_run(inst, stat_path, found, err);
        if (r == 0) {
                last_name(path, name, &content);
                arena_release(&inst->path_arena);
                *ret = (struct instance_path_stat){ .name = arena_strdup(&inst->path_arena, name[0] ? name : "/"),
                        .link_target = arena_strdup(&inst->path_arena, found->link),
                        .size = (u64)found->st.st_size,
                        .mode = found->st.st_mode,
                        .mtime_ns = (s64)found->st.st_mtim.tv_sec * (s64)NSEC_PER_SEC + found->st.st_mtim.tv_nsec };
                if (!ret->name || !ret->link_target)
                        r = err_sys(err, ENOMEM, "looking at '%s'", path);
        }
        munmap(found, sizeof(*found));
        return r;
}

/* --- out -------------------------------------------------------------------------------------------------------- */

static int write_fd(void *opaque, const void *data, size_t len, struct err **err)
{
        int r = io_write_all(*(const int *)opaque, data, len);

        return r < 0 ? err_sys(err, -r, "writing an archive") : 0;
}

struct packing {
        struct pack *pack;
        const char *prefix; /* what names begin with; "": nothing */
        dev_t one_dev;      /* 0: mounts are crossed */
};

static int pack_one(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        const struct packing *p = opaque;
        char name[TAR_PATH_MAX + 1];
        int r;

        if (snprintf(name, sizeof(name), "%s%s%s", p->prefix, p->prefix[0] ? "/" : "", path) >= (int)sizeof(name))
                return err_set(err, ERR_TOO_LARGE, ENAMETOOLONG, "'%.200s...': the path is too long", path);
        r = pack_entry(p->pack, fd, name, st, err);
        if (r < 0)
                return r;
        /* The mount point is there, what is mounted is not the image's. */
        return p->one_dev && S_ISDIR(st->st_mode) && st->st_dev != p->one_dev;
}

static int pack_tree(int dir, const struct stat *st, const char *prefix, bool one_file_system, int fd, struct err **err)
{
        const struct byte_sink sink = { write_fd, &fd };
        struct pack pack;
        struct packing p = { &pack, prefix, one_file_system ? st->st_dev : 0 };
        int r = pack_init(&pack, &sink, -1, err);

        if (r < 0)
                return r;
        if (prefix[0])
                r = pack_entry(&pack, dir, prefix, st, err);
        if (r >= 0 && S_ISDIR(st->st_mode)) {
                _cleanup_close_ int open_dir = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

                r = open_dir < 0 ? err_sys(err, errno, "opening '%s'", prefix)
                                 : walk_tree(open_dir, "", pack_one, &p, err);
        }
        if (r >= 0)
                r = tar_write_end(&sink, err);
        pack_clear(&pack);
        return MIN(r, 0);
}

struct copying {
        const struct instance *inst;
        const char *path;
        bool follow;    /* out */
        unsigned flags; /* in */
        int fd;
};

static int copy_out(void *opaque, int root, struct err **err)
{
        const struct copying *c = opaque;
        _cleanup_close_ int found = -1;
        char name[NAME_MAX + 1];
        bool content;
        struct stat st;

        last_name(c->path, name, &content);
        found = find(c->inst, root, c->path, O_PATH | (c->follow || content ? 0 : O_NOFOLLOW));
        if (found < 0 || fstat(found, &st) < 0)
                return not_found(c->inst, found < 0 ? found : -errno, c->path, err);
        return pack_tree(found, &st, content ? "" : name, false, c->fd, err);
}

int instance_copy_out(struct instance *inst, const char *path, bool follow, int fd, struct err **err)
{
        struct copying copying = { .inst = inst, .path = path, .follow = follow, .fd = fd };
        int r = root_view_run(inst, copy_out, &copying, err);

        return r < 0 ? err_wrap(err, r, "copying '%s' out of '%s'", path, inst->config.name) : 0;
}

static int export(void *opaque, int root, struct err **err)
{
        const struct copying *c = opaque;
        struct stat st;

        if (fstat(root, &st) < 0)
                return err_sys(err, errno, "exporting '%s'", c->inst->config.name);
        return pack_tree(root, &st, "", true, c->fd, err);
}

int instance_export(struct instance *inst, int fd, struct err **err)
{
        struct copying copying = { .inst = inst, .fd = fd };
        int r = root_view_run(inst, export, &copying, err);

        if (r == 0)
                event_write(inst->host, "export", inst, 0, "");
        return r;
}

/* --- in --------------------------------------------------------------------------------------------------------- */

static int copy_in(void *opaque, int root, struct err **err)
{
        const struct copying *c = opaque;
        const char *rest;
        const struct instance_mount *inside = mount_inside(c->inst, c->path, &rest);
        _cleanup_(tar_reader_freep) struct tar_reader *tar = NULL;
        _cleanup_free_ u8 *buf = malloc(READ_SIZE);
        _cleanup_close_ int dir = find(c->inst, root, c->path, O_RDONLY | O_DIRECTORY);
        struct fd_source source = { c->fd, buf, READ_SIZE };
        const struct byte_source bytes = { fd_source_next, &source };
        const struct unpack_options options = { .plain = true,
                .squash_owners = !(c->flags & INSTANCE_COPY_KEEP_OWNER),
                .keep_kinds = c->flags & INSTANCE_COPY_NO_OVERWRITE };
        struct unpack_result result = { 0 };
        int r;

        if (!buf)
                return err_sys(err, ENOMEM, "copying");
        if (inside && inside->read_only)
                return err_sys(err, EROFS, "'%s'", c->path);
        if (dir < 0)
                return not_found(c->inst, dir, c->path, err);
        r = tar_reader_new(&bytes, &tar, err);
        if (r == 0)
                r = unpack_layer(dir, tar, &options, &result, err);
        json_decref(result.implied);
        return r;
}

int instance_copy_in(struct instance *inst, const char *path, unsigned flags, int fd, struct err **err)
{
        struct copying copying = { .inst = inst, .path = path, .flags = flags, .fd = fd };
        int r = root_view_run(inst, copy_in, &copying, err);

        if (supervisor_alive(inst))
                inst->ops->root_changed(inst);
        return r < 0 ? err_wrap(err, r, "copying into '%s' of '%s'", path, inst->config.name) : 0;
}

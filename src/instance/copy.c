/* Files in and out, as tar archives. A path of the instance is resolved once, by the kernel, with the instance's root as "/"
 * (openat2); from there on descriptors are used, so that nothing that the instance does meanwhile leads out of it
 * (CVE-2018-15664), and no program or library of it runs (CVE-2019-14271). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
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

int root_view_open(struct instance *inst, struct root_view *ret, struct err **err)
{
        const struct instance_state *state;
        int r = instance_get_state(inst, &state, err);

        if (r < 0)
                return r;
        if (state->pid) {
                ret->lock = -1;
                if (inst->ops->root(inst, state->pid, &ret->fd, NULL) == 0)
                        return 0; /* else it has ended meanwhile */
        }
        /* Stopped: nobody may start it while its root is mounted here too. */
        r = instance_lock(inst, true, &ret->lock, err);
        if (r == 0)
                r = image_instance_mount(inst->host->images, inst->id, 0, &ret->fd, err);
        if (r < 0) {
                closep(&ret->lock);
                ret->lock = -1;
        }
        return r;
}

void root_view_close(struct root_view *view)
{
        closep(&view->fd);
        closep(&view->lock);
}

static int find(const struct root_view *view, const char *path, int flags)
{
        return sys_openat2(view->fd, path, (u64)flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
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

int instance_stat_path(struct instance *inst, const char *path, struct instance_path_stat *ret, struct err **err)
{
        _cleanup_(root_view_close) struct root_view view = ROOT_VIEW_NONE;
        _cleanup_close_ int fd = -1;
        char name[NAME_MAX + 1], link[PATH_MAX] = "";
        struct stat st;
        bool content;
        int r = root_view_open(inst, &view, err);

        if (r < 0)
                return r;
        fd = find(&view, path, O_PATH | O_NOFOLLOW);
        if (fd < 0 || fstat(fd, &st) < 0)
                return not_found(inst, fd < 0 ? fd : -errno, path, err);
        if (S_ISLNK(st.st_mode)) {
                const ssize_t n = readlinkat(fd, "", link, sizeof(link) - 1);

                link[MAX(n, 0)] = '\0';
        }
        last_name(path, name, &content);
        arena_release(&inst->path_arena);
        *ret = (struct instance_path_stat){ .name = arena_strdup(&inst->path_arena, name[0] ? name : "/"),
                .link_target = arena_strdup(&inst->path_arena, link),
                .size = (u64)st.st_size,
                .mode = st.st_mode,
                .mtime_ns = (s64)st.st_mtim.tv_sec * (s64)NSEC_PER_SEC + st.st_mtim.tv_nsec };
        return ret->name && ret->link_target ? 0 : err_sys(err, ENOMEM, "looking at '%s'", path);
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

int instance_copy_out(struct instance *inst, const char *path, bool follow, int fd, struct err **err)
{
        _cleanup_(root_view_close) struct root_view view = ROOT_VIEW_NONE;
        _cleanup_close_ int found = -1;
        char name[NAME_MAX + 1];
        bool content;
        struct stat st;
        int r = root_view_open(inst, &view, err);

        if (r < 0)
                return r;
        last_name(path, name, &content);
        found = find(&view, path, O_PATH | (follow || content ? 0 : O_NOFOLLOW));
        if (found < 0 || fstat(found, &st) < 0)
                return not_found(inst, found < 0 ? found : -errno, path, err);
        r = pack_tree(found, &st, content ? "" : name, false, fd, err);
        return r < 0 ? err_wrap(err, r, "copying '%s' out of '%s'", path, inst->config.name) : 0;
}

int instance_export(struct instance *inst, int fd, struct err **err)
{
        _cleanup_(root_view_close) struct root_view view = ROOT_VIEW_NONE;
        struct stat st;
        int r = root_view_open(inst, &view, err);

        if (r == 0 && fstat(view.fd, &st) < 0)
                r = err_sys(err, errno, "exporting '%s'", inst->config.name);
        if (r == 0)
                r = pack_tree(view.fd, &st, "", true, fd, err);
        if (r == 0)
                event_write(inst->host, "export", inst, 0, "");
        return r;
}

/* --- in --------------------------------------------------------------------------------------------------------- */

int instance_copy_in(struct instance *inst, const char *path, unsigned flags, int fd, struct err **err)
{
        _cleanup_(root_view_close) struct root_view view = ROOT_VIEW_NONE;
        _cleanup_(tar_reader_freep) struct tar_reader *tar = NULL;
        _cleanup_close_ int dir = -1;
        _cleanup_free_ u8 *buf = malloc(READ_SIZE);
        struct fd_source source = { fd, buf, READ_SIZE };
        const struct byte_source bytes = { fd_source_next, &source };
        const struct unpack_options options = { .plain = true,
                .squash_owners = !(flags & INSTANCE_COPY_KEEP_OWNER),
                .keep_kinds = flags & INSTANCE_COPY_NO_OVERWRITE };
        struct unpack_result result = { 0 };
        int r = buf ? root_view_open(inst, &view, err) : err_sys(err, ENOMEM, "copying");

        if (r < 0)
                return r;
        dir = find(&view, path, O_RDONLY | O_DIRECTORY);
        if (dir < 0)
                return not_found(inst, dir, path, err);
        r = tar_reader_new(&bytes, &tar, err);
        if (r == 0)
                r = unpack_layer(dir, tar, &options, &result, err);
        json_decref(result.implied);
        return r < 0 ? err_wrap(err, r, "copying into '%s' of '%s'", path, inst->config.name) : 0;
}

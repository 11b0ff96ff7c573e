#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "io.h"
#include "tree.h"

/* What one layer may cost the host. Everything else it could exhaust is bounded by these: a bomb of a few kilobytes that
 * has no files in it still costs the time that its terabytes of headers or padding take. */
#define TRAILING_MAX      (64 * MIB) /* behind the archive's end, where writers pad to their block size */
#define LAYER_ENTRIES_MAX 8000000ULL
#define DIR_TIMES_MAX     (256 * MIB) /* of memory */
#define FREE_MIN          (128 * MIB) /* that stays free on the file system */
#define FREE_CHECK_EVERY  (32 * MIB)
#define ENTRY_COST        4096 /* of the disk, at most, for what has no data */

#define WHITEOUT        ".wh."
#define WHITEOUT_META   WHITEOUT WHITEOUT /* of aufs: its own files */
#define WHITEOUT_OPAQUE WHITEOUT_META ".opq"

struct dir_time {
        struct dir_time *next;
        struct timespec mtime;
        char path[];
};

struct unpacker {
        struct tree tree;
        struct tar_reader *tar;
        const struct unpack_options *options;
        u64 entries, bytes;
        u64 charged_dirs;           /* of those that the tree made by itself */
        u64 unchecked;              /* bytes written since the free space was looked at */
        struct dir_time *dir_times; /* last one first: set when nothing changes in them any more */
        size_t dir_times_size;
};

static int refuse(struct err **err, const struct tar_entry *e, const char *why)
{
        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "'%.200s': %s", e->path, why);
}

/* --- limits ---------------------------------------------------------------------------------------------------------- */

/* @bytes more of the disk are about to be used. */
static int charge(struct unpacker *u, u64 bytes, struct err **err)
{
        struct statvfs fs;
        int r;

        u->unchecked += bytes;
        if (u->unchecked < FREE_CHECK_EVERY)
                return 0;
        u->unchecked = 0;
        if (fstatvfs(u->tree.fd, &fs) == 0 && fs.f_blocks > 0 && (u64)fs.f_bavail * fs.f_frsize < FREE_MIN) {
                r = err_set(err, ERR_TOO_LARGE, ENOSPC, "the disk is nearly full (less than %llu MiB are free)",
                        FREE_MIN / MIB);
                return err_hint(err, r, "`strata image prune` removes what is not used");
        }
        return 0;
}

/* One more entry, and the directories that were made for it. */
static int charge_entry(struct unpacker *u, struct err **err)
{
        const u64 made = u->tree.made - u->charged_dirs;

        u->charged_dirs = u->tree.made;
        if (++u->entries + u->tree.made > LAYER_ENTRIES_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "the layer has more than %llu files", LAYER_ENTRIES_MAX);
        return charge(u, (1 + made) * ENTRY_COST, err);
}

static int remember_dir_time(struct unpacker *u, const char *path, struct timespec mtime, struct err **err)
{
        const size_t len = strlen(path), size = sizeof(struct dir_time) + len + 1;
        struct dir_time *entry;

        u->dir_times_size += size;
        if (u->dir_times_size > DIR_TIMES_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "the layer has too many directories");
        entry = malloc(size);
        if (!entry)
                return err_sys(err, ENOMEM, "unpacking '%s'", path);
        entry->next = u->dir_times;
        entry->mtime = mtime;
        memcpy(entry->path, path, len + 1);
        u->dir_times = entry;
        return 0;
}

static int set_dir_times(struct unpacker *u, struct err **err)
{
        struct dir_time *entry;
        const char *name;
        struct stat st;
        int parent;

        for (; (entry = u->dir_times); u->dir_times = entry->next, free(entry)) {
                const struct timespec times[2] = { entry->mtime, entry->mtime };

                if (!entry->path[0]) {
                        futimens(u->tree.fd, times);
                        continue;
                }
                /* It may have been replaced since. */
                if (tree_parent(&u->tree, entry->path, false, &parent, &name, NULL) < 0 ||
                        fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
                        continue;
                if (utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
                        return err_sys(err, errno, "setting the time of '%s'", entry->path);
        }
        return 0;
}

/* --- attributes ------------------------------------------------------------------------------------------------------ */

bool unpack_takes_xattr(const char *name)
{
        if (strncmp(name, "user.overlay.", 13) == 0)
                return false;
        return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0;
}

static int set_xattrs(int fd, const struct tar_entry *e, struct err **err)
{
        for (size_t i = 0; i < e->n_xattrs; i++) {
                const struct tar_xattr *x = &e->xattrs[i];

                if (!unpack_takes_xattr(x->name) || fsetxattr(fd, x->name, x->value, x->len, 0) == 0)
                        continue;
                if (errno != EOPNOTSUPP && errno != EPERM)
                        return err_sys(err, errno, "setting attribute %.60s of '%s'", x->name, e->path);
        }
        return 0;
}

static int set_owner(struct unpacker *u, int parent, const char *name, const struct tar_entry *e, struct err **err)
{
        int r;

        if (u->options->squash_owners ||
                fchownat(parent, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) == 0)
                return 0;
        r = err_sys(err, errno, "giving '%s' to %u:%u", e->path, e->uid, e->gid);
        if (r == -EINVAL)
                err_hint(err, r, "this id is not in the user namespace; /etc/subuid and /etc/subgid grant more");
        return r;
}

static int set_times(int parent, const char *name, const struct tar_entry *e, struct err **err)
{
        const struct timespec times[2] = { e->mtime, e->mtime };

        if (utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, errno, "setting the time of '%s'", e->path);
        return 0;
}

/* --- entries --------------------------------------------------------------------------------------------------------- */

static int set_opaque(struct unpacker *u, int dir_fd, struct err **err)
{
        const char *name = u->options->user_xattr ? "user.overlay.opaque" : "trusted.overlay.opaque";

        return fsetxattr(dir_fd, name, "y", 1, 0) < 0 ? err_sys(err, errno, "marking a directory as opaque") : 0;
}

/* In the way of what comes (a directory when @dir): 1 when it was a whiteout. */
static int clear_way(struct unpacker *u, int parent, const char *name, bool dir, struct err **err)
{
        struct stat st;
        int r;

        if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : err_sys(err, errno, "looking at '%s'", name);
        if (u->options->keep_kinds && S_ISDIR(st.st_mode) != dir)
                return err_set(err, ERR_BUSY, EEXIST, "'%s' is %sa directory already", name, dir ? "not " : "");
        r = tree_remove(&u->tree, parent, name, err);
        return r < 0 ? r : S_ISCHR(st.st_mode) && st.st_rdev == 0;
}

static int write_data(struct unpacker *u, int fd, const struct tar_entry *e, struct err **err)
{
        u64 offset = 0, end = 0;
        const u8 *data;
        ssize_t n;
        int r;

        if (e->size > UNPACK_BYTES_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "'%s' has %lu bytes", e->path, (unsigned long)e->size);
        while ((n = tar_reader_data(u->tar, &data, &offset, err)) > 0) {
                u->bytes += (u64)n;
                r = charge(u, (u64)n, err);
                if (r < 0)
                        return r;
                r = io_pwrite_all(fd, data, (size_t)n, offset);
                if (r < 0)
                        return err_sys(err, -r, "writing '%s'", e->path);
                end = offset + (u64)n;
        }
        if (n < 0)
                return (int)n;
        if (end < e->size && ftruncate(fd, (off_t)e->size) < 0)
                return err_sys(err, errno, "writing '%s'", e->path);
        return 0;
}

static int unpack_file(struct unpacker *u, const struct tar_entry *e, int parent, const char *name, struct err **err)
{
        const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
        const struct timespec times[2] = { e->mtime, e->mtime };
        _cleanup_close_ int fd = openat(parent, name, flags, 0600);
        int r;

        if (fd < 0 && errno == EEXIST) {
                r = clear_way(u, parent, name, false, err);
                if (r < 0)
                        return r;
                fd = openat(parent, name, flags, 0600);
        }
        if (fd < 0)
                return err_sys(err, errno, "creating '%s'", e->path);
        r = write_data(u, fd, e, err);
        if (r == 0)
                r = set_owner(u, fd, "", e, err);
        if (r < 0)
                return r;
        if (fchmod(fd, e->mode) < 0)
                return err_sys(err, errno, "setting the mode of '%s'", e->path);
        r = set_xattrs(fd, e, err); /* after the owner, which takes capabilities away */
        if (r < 0)
                return r;
        return futimens(fd, times) < 0 ? err_sys(err, errno, "setting the time of '%s'", e->path) : 0;
}

static int unpack_dir(
        struct unpacker *u, const struct tar_entry *e, const char *path, int parent, const char *name, struct err **err)
{
        _cleanup_close_ int fd = -1;
        int was_whiteout = 0, r = 0;
        struct stat st;

        if (path[0] && mkdirat(parent, name, 0700) < 0) {
                if (errno != EEXIST || fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return err_sys(err, errno, "making directory '%s'", e->path);
                if (!S_ISDIR(st.st_mode)) {
                        was_whiteout = clear_way(u, parent, name, true, err);
                        if (was_whiteout < 0)
                                return was_whiteout;
                        if (mkdirat(parent, name, 0700) < 0)
                                return err_sys(err, errno, "making directory '%s'", e->path);
                }
        }
        fd = openat(parent, path[0] ? name : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return err_sys(err, errno, "opening directory '%s'", e->path);
        r = set_owner(u, fd, "", e, err);
        if (r < 0)
                return r;
        /* Its own owner can always get in: what the unpacker needs, and a user with one id. */
        if (fchmod(fd, u->options->squash_owners ? e->mode | 0700 : e->mode) < 0)
                return err_sys(err, errno, "setting the mode of '%s'", e->path);
        r = set_xattrs(fd, e, err);
        if (r == 0 && was_whiteout)
                r = set_opaque(u, fd, err);
        if (u->tree.implied)
                json_object_del(u->tree.implied, path);
        return r < 0 ? r : remember_dir_time(u, path, e->mtime, err);
}

static int unpack_hardlink(
        struct unpacker *u, const struct tar_entry *e, const char *path, int parent, const char *name, struct err **err)
{
        _cleanup_close_ int fd = -1;
        char target[TAR_PATH_MAX + 1];
        const char *target_name;
        int target_parent, r;

        r = tree_clean_path(e->link, target, err);
        if (r < 0)
                return err_wrap(err, r, "'%s' is a link", e->path);
        if (strcmp(target, path) == 0)
                return 0;
        /* The lookup may push the parent out of the cache. */
        fd = openat(parent, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return err_sys(err, errno, "'%s'", e->path);
        r = tree_parent(&u->tree, target, false, &target_parent, &target_name, NULL);
        if (r < 0 || !target[0])
                return refuse(err, e, "it is a hard link to something that is not in the layer");
        r = linkat(target_parent, target_name, fd, name, 0) < 0 ? -errno : 0;
        if (r == -EEXIST) {
                struct stat old, new;

                if (fstatat(target_parent, target_name, &new, AT_SYMLINK_NOFOLLOW) == 0 &&
                        fstatat(fd, name, &old, AT_SYMLINK_NOFOLLOW) == 0 && old.st_ino == new.st_ino)
                        return 0;
                r = clear_way(u, fd, name, false, err);
                if (r < 0)
                        return r;
                r = tree_parent(&u->tree, target, false, &target_parent, &target_name, NULL);
                if (r < 0)
                        return refuse(err, e, "it is a hard link to something that it replaces");
                r = linkat(target_parent, target_name, fd, name, 0) < 0 ? -errno : 0;
        }
        if (r == -ENOENT || r == -EPERM)
                return refuse(err, e, "it is a hard link to something that is not a file of the layer");
        return r < 0 ? err_sys(err, -r, "linking '%s'", e->path) : 0;
}

static int make_special(const struct tar_entry *e, int parent, const char *name)
{
        static const mode_t types[] = { [TAR_CHAR] = S_IFCHR, [TAR_BLOCK_DEVICE] = S_IFBLK, [TAR_FIFO] = S_IFIFO };

        if (e->type == TAR_SYMLINK)
                return symlinkat(e->link, parent, name) < 0 ? -errno : 0;
        return mknodat(parent, name, types[e->type] | 0600, makedev(e->major, e->minor)) < 0 ? -errno : 0;
}

/* Links and nodes: everything without data that is not a directory. */
static int unpack_special(struct unpacker *u, const struct tar_entry *e, int parent, const char *name, struct err **err)
{
        const bool device = e->type == TAR_CHAR || e->type == TAR_BLOCK_DEVICE;
        int r = make_special(e, parent, name);

        if (r == -EEXIST) {
                r = clear_way(u, parent, name, false, err);
                if (r < 0)
                        return r;
                r = make_special(e, parent, name);
        }
        if (r == -EPERM && device)
                return 0; /* in a user namespace there are no devices to make; docker leaves them out as well */
        if (r < 0)
                return err_sys(err, -r, "creating '%s'", e->path);
        r = set_owner(u, parent, name, e, err);
        if (r == 0 && e->type != TAR_SYMLINK && fchmodat(parent, name, e->mode, 0) < 0)
                r = err_sys(err, errno, "setting the mode of '%s'", e->path);
        return r < 0 ? r : set_times(parent, name, e, err);
}

/* ".wh.NAME": the lower layers' NAME is gone; ".wh..wh..opq": everything of theirs in this directory. */
static int unpack_whiteout(
        struct unpacker *u, const struct tar_entry *e, int parent, const char *name, struct err **err)
{
        const char *victim = name + sizeof(WHITEOUT) - 1;
        _cleanup_close_ int fd = -1;

        if (strcmp(name, WHITEOUT_OPAQUE) == 0) {
                fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                return fd < 0 ? err_sys(err, errno, "'%s'", e->path) : set_opaque(u, fd, err);
        }
        if (strncmp(name, WHITEOUT_META, sizeof(WHITEOUT_META) - 1) == 0)
                return 0;
        if (!victim[0] || strcmp(victim, ".") == 0 || strcmp(victim, "..") == 0)
                return refuse(err, e, "it is a whiteout of nothing");
        if (mknodat(parent, victim, S_IFCHR, makedev(0, 0)) == 0)
                return 0;
        if (errno != EEXIST)
                return err_sys(err, errno, "creating '%s'", e->path);
        /* What this layer itself brought stays, and hides what is below it. */
        fd = openat(parent, victim, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? 0 : set_opaque(u, fd, err);
}

static int unpack_entry(struct unpacker *u, const struct tar_entry *e, struct err **err)
{
        char path[TAR_PATH_MAX + 1];
        const char *name;
        int parent, r;

        r = tree_clean_path(e->path, path, err);
        if (r < 0)
                return r;
        if (!path[0] && e->type != TAR_DIR)
                return refuse(err, e, "the root can only be a directory");
        r = tree_parent(&u->tree, path, true, &parent, &name, err);
        if (r == 0)
                r = charge_entry(u, err);
        if (r < 0)
                return r;
        if (!u->options->plain && strncmp(name, WHITEOUT, sizeof(WHITEOUT) - 1) == 0)
                return unpack_whiteout(u, e, parent, name, err);
        switch (e->type) {
        case TAR_FILE:
                return unpack_file(u, e, parent, name, err);
        case TAR_DIR:
                return unpack_dir(u, e, path, parent, name, err);
        case TAR_HARDLINK:
                return unpack_hardlink(u, e, path, parent, name, err);
        default:
                return unpack_special(u, e, parent, name, err);
        }
}

int unpack_layer(int fd, struct tar_reader *tar, const struct unpack_options *options, struct unpack_result *ret,
        struct err **err)
{
        struct unpacker u = { .tar = tar, .options = options };
        const struct tar_entry *entry;
        int r;

        tree_init(&u.tree, fd);
        tar_reader_limit(tar, UNPACK_BYTES_MAX, "the archive");
        u.tree.implied = json_object();
        r = u.tree.implied ? 0 : err_sys(err, ENOMEM, "unpacking a layer");
        while (r == 0) {
                r = tar_reader_next(tar, &entry, err);
                if (r <= 0)
                        break;
                r = unpack_entry(&u, entry, err);
        }
        tar_reader_limit(tar, TRAILING_MAX, "what follows the archive's end");
        if (r == 0)
                r = tar_reader_drain(tar, err);
        if (r == 0)
                r = set_dir_times(&u, err);
        if (r == 0)
                *ret = (struct unpack_result){ u.entries, u.bytes, TAKE_PTR(u.tree.implied) };
        while (u.dir_times) {
                struct dir_time *entry_left = u.dir_times;

                u.dir_times = entry_left->next;
                free(entry_left);
        }
        tree_clear(&u.tree);
        return r;
}

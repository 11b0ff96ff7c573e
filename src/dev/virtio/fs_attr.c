/* Attributes of files, extended ones too. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "dev/virtio/fs_internal.h"

struct fuse_fd_path fuse_fd_path(int fd)
{
        struct fuse_fd_path path;

        snprintf(path.text, sizeof(path.text), "%d", fd);
        return path;
}

int fuse_statx(int fd, struct statx *ret)
{
        return statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, ret) < 0 ? -errno : 0;
}

s64 fuse_time_ns(const struct statx_timestamp *t)
{
        return (s64)((u64)t->tv_sec * NSEC_PER_SEC + t->tv_nsec);
}

/* As Linux packs a device number into 32 bits. */
static u32 pack_device(u32 major, u32 minor)
{
        return (minor & 0xff) | major << 8 | (minor & ~0xffU) << 12;
}

void fuse_attr_fill(const struct fuse_server *s, const struct statx *st, struct fuse_attr *ret)
{
        *ret = (struct fuse_attr){
                .ino = st->stx_ino,
                .size = st->stx_size,
                .blocks = st->stx_blocks,
                .atime = (u64)st->stx_atime.tv_sec,
                .mtime = (u64)st->stx_mtime.tv_sec,
                .ctime = (u64)st->stx_ctime.tv_sec,
                .atimensec = st->stx_atime.tv_nsec,
                .mtimensec = st->stx_mtime.tv_nsec,
                .ctimensec = st->stx_ctime.tv_nsec,
                .mode = st->stx_mode,
                .nlink = st->stx_nlink,
                .uid = s->squash && st->stx_uid == geteuid() ? 0 : st->stx_uid,
                .gid = s->squash && st->stx_gid == getegid() ? 0 : st->stx_gid,
                .rdev = pack_device(st->stx_rdev_major, st->stx_rdev_minor),
                .blksize = st->stx_blksize,
        };
}

void fuse_entry_fill(const struct fuse_server *s, u64 nodeid, const struct statx *st, struct fuse_entry_out *ret)
{
        *ret = (struct fuse_entry_out){
                .nodeid = nodeid, .entry_valid = s->valid, .attr_valid = s->valid,
        };
        fuse_attr_fill(s, st, &ret->attr);
}

int fuse_owner(const struct fuse_server *s, u32 *uid, u32 *gid)
{
        if (!s->squash)
                return 0;
        if ((*uid != 0 && *uid != ~0U) || (*gid != 0 && *gid != ~0U))
                return -EPERM;
        *uid = *gid = ~0U; /* it is ours already */
        return 0;
}

int fuse_kill_suidgid(int fd)
{
        struct stat st;
        mode_t mode;

        if (fstat(fd, &st) < 0)
                return -errno;
        mode = st.st_mode & ~(mode_t)S_ISUID;
        if (mode & S_IXGRP) /* without it the bit means something else */
                mode &= ~(mode_t)S_ISGID;
        return mode != st.st_mode && fchmod(fd, mode & 07777) < 0 ? -errno : 0;
}

static int reply_attr(struct fuse_call *c, int fd)
{
        struct fuse_attr_out *out = (struct fuse_attr_out *)c->reply;
        struct statx st;
        int r = fuse_statx(fd, &st);

        if (r < 0)
                return r;
        *out = (struct fuse_attr_out){ .attr_valid = c->server->valid };
        fuse_attr_fill(c->server, &st, &out->attr);
        c->reply_len = sizeof(*out);
        return 0;
}

int fuse_getattr(struct fuse_call *c)
{
        return reply_attr(c, c->fd);
}

/* ---- setting: one function for each part, in the order in which Linux does it ---- */

static int set_owner(struct fuse_call *c, const struct fuse_setattr_in *in, int fd)
{
        u32 uid = in->valid & FATTR_UID ? in->uid : ~0U, gid = in->valid & FATTR_GID ? in->gid : ~0U;
        int r;

        (void)fd;
        r = fuse_owner(c->server, &uid, &gid);
        if (r < 0)
                return r;
        return fchownat(c->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_mode(struct fuse_call *c, const struct fuse_setattr_in *in, int fd)
{
        (void)fd;
        if (S_ISLNK(c->inode->type))
                return -EOPNOTSUPP;
        return fchmodat(AT_FDCWD, fuse_fd_path(c->fd).text, in->mode & 07777, 0) < 0 ? -errno : 0;
}

static int set_size(struct fuse_call *c, const struct fuse_setattr_in *in, int fd)
{
        int own = -1, r = 0;

        if (in->size > INT64_MAX)
                return -EFBIG;
        if (fd < 0)
                fd = own = fuse_reopen(c->server, c->inode, c->fd, O_WRONLY);
        if (fd < 0)
                return fd;
        if (ftruncate(fd, (off_t)in->size) < 0)
                r = -errno;
        if (r == 0 && in->valid & FATTR_KILL_SUIDGID)
                r = fuse_kill_suidgid(fd);
        if (own >= 0)
                close(own);
        return r;
}

static int set_times(struct fuse_call *c, const struct fuse_setattr_in *in, int fd)
{
        const struct timespec times[] = {
                { .tv_sec = (time_t)in->atime,
                  .tv_nsec = !(in->valid & FATTR_ATIME) ? UTIME_OMIT : in->valid & FATTR_ATIME_NOW ? UTIME_NOW : in->atimensec },
                { .tv_sec = (time_t)in->mtime,
                  .tv_nsec = !(in->valid & FATTR_MTIME) ? UTIME_OMIT : in->valid & FATTR_MTIME_NOW ? UTIME_NOW : in->mtimensec },
        };

        (void)fd;
        return utimensat(c->fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int fuse_setattr(struct fuse_call *c)
{
        static const struct {
                u32 valid;
                int (*set)(struct fuse_call *c, const struct fuse_setattr_in *in, int fd);
        } parts[] = {
                { FATTR_SIZE, set_size },
                { FATTR_UID | FATTR_GID, set_owner }, /* takes set-user-ID away, so before the mode */
                { FATTR_MODE, set_mode },
                { FATTR_ATIME | FATTR_MTIME, set_times },
        };
        const struct fuse_setattr_in *in = c->arg;
        struct fuse_handle *handle = NULL;
        int r = in->valid & FATTR_FH ? fuse_handle_get(c->server, in->fh, &handle) : 0;

        if (r < 0)
                return r;
        if (handle && handle->inode != c->inode)
                r = -EBADF;
        for (size_t i = 0; i < ARRAY_SIZE(parts) && r == 0; i++)
                if (in->valid & parts[i].valid)
                        r = parts[i].set(c, in, handle ? handle->fd : -1);
        if (handle)
                fuse_handle_put(c->server, handle);
        return r < 0 ? r : reply_attr(c, c->fd);
}

int fuse_statfs(struct fuse_call *c)
{
        struct fuse_statfs_out *out = (struct fuse_statfs_out *)c->reply;
        struct statvfs st;

        if (fstatvfs(c->fd, &st) < 0)
                return -errno;
        *out = (struct fuse_statfs_out){ .st = {
                .blocks = st.f_blocks, .bfree = st.f_bfree, .bavail = st.f_bavail, .files = st.f_files, .ffree = st.f_ffree,
                .bsize = (u32)st.f_bsize, .namelen = (u32)MIN(st.f_namemax, (unsigned long)FUSE_NAME_MAX),
                .frsize = (u32)st.f_frsize,
        } };
        c->reply_len = sizeof(*out);
        return 0;
}

/* ---- extended attributes ---- */

/* What the guest may see and set. trusted.* steers the host's own file systems (overlayfs), security.* its policies. */
static const char *const xattr_prefixes[] = { "user.", "security.capability" };

static bool xattr_allowed(const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(xattr_prefixes); i++)
                if (strncmp(name, xattr_prefixes[i], strlen(xattr_prefixes[i])) == 0)
                        return true;
        return false;
}

/* Only files and directories have any that are allowed; others' would be asked of the wrong thing. */
static int xattr_check(const struct fuse_call *c, const char *name)
{
        if (!S_ISREG(c->inode->type) && !S_ISDIR(c->inode->type))
                return -EOPNOTSUPP;
        return name && !xattr_allowed(name) ? -EOPNOTSUPP : 0;
}

int fuse_setxattr(struct fuse_call *c)
{
        const struct fuse_setxattr_in *in = c->arg; /* its first 8 bytes */
        int r = xattr_check(c, c->names[0]);

        if (r < 0)
                return r;
        if (in->size != c->rest_len || in->flags & ~(u32)(XATTR_CREATE | XATTR_REPLACE))
                return -EINVAL;
        return setxattr(fuse_fd_path(c->fd).text, c->names[0], c->rest, in->size, (int)in->flags) < 0 ? -errno : 0;
}

/* Answers with a value of @n bytes at c->reply, or with its size when the guest wants to know only that. */
static int reply_value(struct fuse_call *c, u32 wanted, ssize_t n)
{
        if (n < 0)
                return -errno;
        if (wanted == 0) {
                const struct fuse_getxattr_out out = { .size = (u32)n };

                memcpy(c->reply, &out, sizeof(out));
                c->reply_len = sizeof(out);
                return 0;
        }
        if ((size_t)n > wanted)
                return -ERANGE;
        c->reply_len = (size_t)n;
        return 0;
}

int fuse_getxattr(struct fuse_call *c)
{
        const struct fuse_getxattr_in *in = c->arg;
        int r = xattr_check(c, c->names[0]);

        if (r < 0)
                return r == -EOPNOTSUPP && c->names[0] ? -ENODATA : r; /* what `ls -l` asks for each file is answered at once */
        if (c->quick)
                return -EAGAIN;
        return reply_value(c, in->size, getxattr(fuse_fd_path(c->fd).text, c->names[0], c->reply, FUSE_XATTR_MAX));
}

int fuse_listxattr(struct fuse_call *c)
{
        const struct fuse_getxattr_in *in = c->arg;
        char *list = (char *)c->reply;
        size_t kept = 0, len;
        ssize_t n;

        if (xattr_check(c, NULL) < 0)
                return reply_value(c, in->size, 0);
        n = listxattr(fuse_fd_path(c->fd).text, list, FUSE_XATTR_MAX);
        if (n < 0)
                return -errno;
        for (size_t at = 0; at < (size_t)n; at += len) {
                len = strlen(list + at) + 1;
                if (!xattr_allowed(list + at))
                        continue;
                memmove(list + kept, list + at, len);
                kept += len;
        }
        return reply_value(c, in->size, (ssize_t)kept);
}

int fuse_removexattr(struct fuse_call *c)
{
        int r = xattr_check(c, c->names[0]);

        if (r < 0)
                return r;
        return removexattr(fuse_fd_path(c->fd).text, c->names[0]) < 0 ? -errno : 0;
}

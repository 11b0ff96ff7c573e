/* Operations on names. Every name has been checked: one component. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"

/* The file @name of the call's directory as the answer. */
static int reply_entry(struct fuse_call *c, const char *name)
{
        c->reply_len = sizeof(struct fuse_entry_out);
        return fuse_inode_lookup(c, name, (struct fuse_entry_out *)c->reply);
}

int fuse_lookup(struct fuse_call *c)
{
        int r = reply_entry(c, c->names[0]);

        if (r != -ENOENT || !c->server->is_private)
                return r;
        /* Number 0: there is none, and that may be remembered. */
        *(struct fuse_entry_out *)c->reply = (struct fuse_entry_out){ .entry_valid = c->server->valid };
        c->reply_len = sizeof(struct fuse_entry_out);
        return 0;
}

int fuse_readlink(struct fuse_call *c)
{
        const ssize_t n = readlinkat(c->fd, "", (char *)c->reply, PATH_MAX);

        if (n < 0)
                return -errno;
        c->reply_len = (size_t)n;
        return 0;
}

/* ---- making things ---- */

/* By descriptor: another request may have put a link there meanwhile, and chmod would follow it. */
static int make_mode(int dir_fd, const char *name, mode_t mode)
{
        _cleanup_close_ int fd = -1;

        if (!*name)
                return fchmod(dir_fd, mode & 07777) < 0 ? -errno : 0;
        fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 || fchmodat(AT_FDCWD, fuse_fd_path(fd).text, mode & 07777, 0) < 0 ? -errno : 0;
}

/* Gives what was just made as @name, or is open as @fd, to the caller and makes its mode exact: it was made without set-user-ID and
 * set-group-ID, which a change of owner would take away. Group and set-group-ID come from a directory that has set-group-ID
 * (inode(7)): the host's kernel has seen to that. */
static int make_own(const struct fuse_call *c, int dir_fd, const char *name, mode_t mode)
{
        u32 uid = c->header.uid, gid = c->header.gid;
        struct statx dir;
        int r = fuse_statx(c->fd, &dir);

        if (r < 0)
                return r;
        if (dir.stx_mode & S_ISGID)
                gid = ~0U;
        if (c->server->squash)
                uid = gid = ~0U;
        if ((uid != ~0U || gid != ~0U) && fchownat(dir_fd, name, uid, gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
                return -errno;
        return mode & 07000 && !S_ISDIR(mode) ? make_mode(dir_fd, name, mode) : 0;
}

/* After @r: gives it away and answers with it, or makes it gone again. */
static int finish(struct fuse_call *c, int r, const char *name, mode_t mode)
{
        if (r < 0)
                return -errno;
        r = make_own(c, c->fd, name, mode);
        if (r == 0)
                r = reply_entry(c, name);
        if (r < 0)
                unlinkat(c->fd, name, S_ISDIR(mode) ? AT_REMOVEDIR : 0);
        return r;
}

int fuse_symlink(struct fuse_call *c)
{
        return finish(c, symlinkat(c->names[1], c->fd, c->names[0]), c->names[0], S_IFLNK);
}

/* Devices are refused, but for the one that overlayfs calls a whiteout. */
int fuse_mknod(struct fuse_call *c)
{
        const struct fuse_mknod_in *in = c->arg;
        const mode_t type = in->mode & S_IFMT, mode = type ? in->mode : in->mode | S_IFREG;

        if (type == S_IFBLK || (type == S_IFCHR && in->rdev != 0) || type == S_IFDIR || type == S_IFLNK)
                return -EPERM;
        return finish(c, mknodat(c->fd, c->names[0], mode & (S_IFMT | 0777), 0), c->names[0], mode);
}

int fuse_mkdir(struct fuse_call *c)
{
        const struct fuse_mkdir_in *in = c->arg;

        return finish(c, mkdirat(c->fd, c->names[0], in->mode & 01777), c->names[0], S_IFDIR);
}

int fuse_link(struct fuse_call *c)
{
        const struct fuse_link_in *in = c->arg;
        struct fuse_inode *old;
        int old_fd, r;

        r = fuse_inode_get(c->server, in->oldnodeid, &old, &old_fd);
        if (r < 0)
                return r;
        if (S_ISDIR(old->type))
                r = -EPERM;
        else if (linkat(AT_FDCWD, fuse_fd_path(old_fd).text, c->fd, c->names[0], AT_SYMLINK_FOLLOW) < 0)
                r = -errno;
        else
                r = reply_entry(c, c->names[0]);
        fuse_inode_put(c->server, old);
        return r;
}

/* Answers with an entry and the open file. */
static int reply_open(struct fuse_call *c, struct fuse_inode *inode, int fd, u32 flags)
{
        struct fuse_open_out *out = (struct fuse_open_out *)(c->reply + sizeof(struct fuse_entry_out));

        *out = (struct fuse_open_out){ 0 };
        c->reply_len = sizeof(struct fuse_entry_out) + sizeof(*out);
        return fuse_handle_add(c->server, inode, fd, flags, &out->fh);
}

int fuse_create(struct fuse_call *c)
{
        const struct fuse_create_in *in = c->arg;
        const int flags = fuse_open_flags(in->flags);
        struct fuse_entry_out *entry = (struct fuse_entry_out *)c->reply;
        const char *name = c->names[0];
        _cleanup_close_ int fd = -1;
        struct fuse_inode *inode;
        int path_fd, r;

        fd = openat(c->fd, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW, in->mode & 0777);
        if (fd >= 0) {
                r = make_own(c, fd, "", S_IFREG | (in->mode & 07777));
                if (r < 0)
                        unlinkat(c->fd, name, 0);
        } else {
                /* It exists: the guest did not know. */
                r = errno == EEXIST && !(in->flags & O_EXCL) ? 0 : -errno;
        }
        if (r == 0)
                r = reply_entry(c, name);
        if (r < 0)
                return r;
        r = fuse_inode_get(c->server, entry->nodeid, &inode, &path_fd);
        if (r == 0) {
                if (fd < 0)
                        r = fd = fuse_reopen(c->server, inode, path_fd, flags);
                if (r >= 0)
                        r = reply_open(c, inode, TAKE_FD(fd), in->flags);
                fuse_inode_put(c->server, inode);
        }
        if (r < 0)
                fuse_inode_forget(c->server, entry->nodeid, 1);
        return r;
}

int fuse_tmpfile(struct fuse_call *c)
{
        const struct fuse_create_in *in = c->arg;
        struct fuse_entry_out *entry = (struct fuse_entry_out *)c->reply;
        _cleanup_close_ int fd = openat(c->fd, ".", O_TMPFILE | fuse_open_flags(in->flags), in->mode & 0777);
        struct fuse_inode *inode;
        int r;

        if (fd < 0)
                return -errno;
        r = make_own(c, fd, "", S_IFREG | (in->mode & 07777));
        if (r == 0)
                r = fuse_inode_nameless(c->server, fd, entry, &inode);
        if (r < 0)
                return r;
        r = reply_open(c, inode, TAKE_FD(fd), in->flags);
        fuse_inode_put(c->server, inode);
        if (r < 0)
                fuse_inode_forget(c->server, entry->nodeid, 1);
        return r;
}

/* ---- removing and renaming ---- */

static int remove_name(struct fuse_call *c, int flags)
{
        struct fuse_inode *inode = fuse_inode_before_unlink(c->server, c->inode, c->fd, c->names[0]);
        const int r = unlinkat(c->fd, c->names[0], flags) < 0 ? -errno : 0;

        fuse_inode_after_unlink(c->server, inode, r == 0);
        return r;
}

int fuse_unlink(struct fuse_call *c)
{
        return remove_name(c, 0);
}

int fuse_rmdir(struct fuse_call *c)
{
        return remove_name(c, AT_REMOVEDIR);
}

static int rename_to(struct fuse_call *c, u64 new_nodeid, unsigned flags)
{
        struct fuse_inode *new_dir, *replaced = NULL;
        int new_fd, r;

        r = fuse_inode_get(c->server, new_nodeid, &new_dir, &new_fd);
        if (r < 0)
                return r;
        if (!(flags & RENAME_EXCHANGE))
                replaced = fuse_inode_before_unlink(c->server, new_dir, new_fd, c->names[1]);
        r = renameat2(c->fd, c->names[0], new_fd, c->names[1], flags) < 0 ? -errno : 0;
        fuse_inode_after_unlink(c->server, replaced, r == 0);
        if (r == 0) {
                fuse_inode_moved(c->server, new_dir, new_fd, c->names[1]);
                if (flags & RENAME_EXCHANGE)
                        fuse_inode_moved(c->server, c->inode, c->fd, c->names[0]);
        }
        fuse_inode_put(c->server, new_dir);
        return r;
}

int fuse_rename(struct fuse_call *c)
{
        const struct fuse_rename_in *in = c->arg;

        return rename_to(c, in->newdir, 0);
}

int fuse_rename2(struct fuse_call *c)
{
        const struct fuse_rename2_in *in = c->arg;

        if (in->flags & ~(u32)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
                return -EINVAL;
        return rename_to(c, in->newdir, in->flags);
}

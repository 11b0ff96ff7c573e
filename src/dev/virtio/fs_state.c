/* Saved state of a shared directory: which numbers the guest knows, by which path each was found, and what is open.
 *
 * A restored machine finds the files by path again. Where the directory is the one that it was they must also be the same
 * files (device, inode number, time of birth): one that was replaced or removed meanwhile is lost, ESTALE. Where it is
 * another one (another host, a copy, another volume) inode numbers say nothing: names and kinds decide, and everything is
 * looked for at once, so that a lookup gives the number that the guest knows. What is mounted in the directory is judged
 * by itself: the "top" of a file is the nearest directory above it, or the file itself, that is on another file system
 * than its parent; the last one is the root. A private directory is nobody else's to change, and on a file system whose
 * inode numbers do not outlive it (overlayfs): there it is names always.
 * A file whose name was gone when the state was saved is lost too, and what was open of a lost file. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"

struct saved_inode {
        u64 nodeid, nlookup, parent;
        u64 dev, ino, born_ns;
        u32 type;
        struct fuse_mark mark;
        u8 name_len;
        char name[FUSE_NAME_MAX + 1];
};

/* The numbers, the mark, and one byte for the length of the name. */
#define INODE_BYTES_MIN (6 * 8 + 4 + 3 * 8 + 1 + 1U)
#define HANDLE_BYTES (8 + 8 + 4U)

struct saved_handle {
        u64 fh, nodeid;
        u32 flags;
};

static void inode_save(const struct fuse_inode *inode, struct state_out *out)
{
        const size_t n = inode->parent ? strlen(inode->name) : 0;

        state_put_u64(out, inode->nodeid);
        state_put_u64(out, inode->nlookup);
        state_put_u64(out, inode->parent ? inode->parent->nodeid : 0);
        state_put_u64(out, inode->dev);
        state_put_u64(out, inode->ino);
        state_put_u64(out, (u64)inode->born_ns);
        state_put_u32(out, inode->type);
        state_put_u64(out, inode->mark.size);
        state_put_u64(out, (u64)inode->mark.mtime_ns);
        state_put_u64(out, (u64)inode->mark.ctime_ns);
        state_put_u8(out, inode->mark.settled);
        state_put_u8(out, (u8)n);
        state_put_bytes(out, inode->name, n);
}

void fuse_server_save(struct fuse_server *s, struct state_out *out)
{
        pthread_mutex_lock(&s->lock);
        state_put_u64(out, s->root->dev);
        state_put_u64(out, s->root->ino);
        state_put_u64(out, (u64)s->root->born_ns);
        state_put_u64(out, s->next_nodeid);
        state_put_u64(out, s->next_fh);
        state_put_u32(out, s->n_inodes - 1); /* without the root */
        for (unsigned i = 0; i < FUSE_BUCKETS; i++)
                for (const struct fuse_inode *inode = s->by_id[i]; inode; inode = inode->next_by_id)
                        if (inode != s->root)
                                inode_save(inode, out);
        state_put_u32(out, s->n_handles);
        for (unsigned i = 0; i < s->handles_max; i++) {
                const struct fuse_handle *handle = s->handles[i];

                if (!handle)
                        continue;
                state_put_u64(out, handle->fh);
                state_put_u64(out, handle->inode->nodeid);
                state_put_u32(out, handle->flags);
        }
        pthread_mutex_unlock(&s->lock);
}

static bool type_is_known(u32 type)
{
        static const u32 types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };

        for (size_t i = 0; i < ARRAY_SIZE(types); i++)
                if (types[i] == type)
                        return true;
        return false;
}

static bool inode_read(struct state_in *in, struct saved_inode *ret)
{
        ret->nodeid = state_get_u64(in);
        ret->nlookup = state_get_u64(in);
        ret->parent = state_get_u64(in);
        ret->dev = state_get_u64(in);
        ret->ino = state_get_u64(in);
        ret->born_ns = state_get_u64(in);
        ret->type = state_get_u32(in);
        ret->mark.size = state_get_u64(in);
        ret->mark.mtime_ns = (s64)state_get_u64(in);
        ret->mark.ctime_ns = (s64)state_get_u64(in);
        ret->mark.settled = state_get_u8(in);
        ret->name_len = state_get_u8(in);
        state_get_bytes(in, ret->name, ret->name_len);
        ret->name[ret->name_len] = '\0';
        return ret->nodeid > FUSE_ROOT_ID && type_is_known(ret->type) && strlen(ret->name) == ret->name_len &&
               (!ret->parent || fuse_name_is_component(ret->name));
}

static int damaged(struct err **err)
{
        return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of virtio-fs is damaged");
}

static void inode_apply(struct fuse_server *s, const struct saved_inode *saved)
{
        struct fuse_inode *inode = fuse_inode_find(s, saved->nodeid) ? NULL : fuse_inode_add(s, saved->nodeid, saved->type);
        const struct statx st = {
                .stx_mask = STATX_BTIME,
                .stx_ino = saved->ino,
                .stx_dev_major = (u32)(saved->dev >> 32),
                .stx_dev_minor = (u32)saved->dev,
                .stx_btime = { .tv_sec = (s64)(saved->born_ns / NSEC_PER_SEC), .tv_nsec = (u32)(saved->born_ns % NSEC_PER_SEC) },
        };

        if (!inode)
                return;
        inode->nlookup = saved->nlookup;
        inode->restored = true;
        inode->mark = saved->mark; /* what the guest has cached is as good as it was */
        fuse_inode_identify(s, inode, &st);
}

static void inode_apply_link(struct fuse_server *s, const struct saved_inode *saved)
{
        struct fuse_inode *inode = fuse_inode_find(s, saved->nodeid);
        struct fuse_inode *parent = saved->parent ? fuse_inode_find(s, saved->parent) : NULL;
        char *name = inode && parent && parent != inode && !inode->parent ? strdup(saved->name) : NULL;

        if (name)
                fuse_inode_link(s, inode, parent, name);
        else if (inode)
                fuse_inode_release(s, inode);
}

/* Finds each that its name decides about, so that a lookup of the same name gives the same number. Those that are gone stay stale. */
static void find_all(struct fuse_server *s)
{
        for (unsigned i = 0; i < FUSE_BUCKETS; i++)
                for (struct fuse_inode *inode = s->by_id[i]; inode; inode = inode->next_by_id)
                        if (inode->restored)
                                fuse_inode_reopen(s, inode);
}

/* ---- is it the file that it was? ---- */

struct judging {
        struct fuse_server *server;
        u64 root_dev; /* as it was saved */
        bool same_root;
};

static bool is_top(const struct judging *j, const struct fuse_inode *inode)
{
        const struct fuse_inode *parent = inode->parent;

        return !parent || inode->dev != (parent == j->server->root ? j->root_dev : parent->dev);
}

/* Whether what is there now is the same as then. It is opened only when it is. */
static bool is_still_there(const struct judging *j, struct fuse_inode *inode)
{
        bool there;

        if (inode == j->server->root)
                return j->same_root;
        inode->restored = false;
        there = fuse_inode_reopen(j->server, inode) == 0;
        inode->restored = true;
        return there;
}

/* The path from an inode up to its top, or to one that was judged, all get the same answer: each is passed once. More
 * steps than a path can have are a circle, of which nothing can be opened. */
static void judge(const struct judging *j, struct fuse_inode *inode)
{
        struct fuse_inode *at = inode;
        unsigned steps = 0;
        bool same;

        while (at != j->server->root && !at->judged && !is_top(j, at) && steps++ < PATH_MAX)
                at = at->parent;
        same = at != j->server->root && at->judged ? !at->restored : is_still_there(j, at);
        for (const struct fuse_inode *last = NULL; last != at && inode != j->server->root && !inode->judged;
                inode = inode->parent) {
                inode->restored = !same;
                inode->judged = true;
                last = inode;
        }
}

static void judge_all(const struct judging *j)
{
        struct fuse_server *s = j->server;

        for (unsigned i = 0; i < FUSE_BUCKETS; i++)
                for (struct fuse_inode *inode = s->by_id[i]; inode; inode = inode->next_by_id)
                        if (inode != s->root)
                                judge(j, inode);
}

static void handle_apply(struct fuse_server *s, const struct saved_handle *saved)
{
        struct fuse_inode *inode;
        int path_fd, fd;

        if (fuse_inode_get(s, saved->nodeid, &inode, &path_fd) < 0)
                return;
        if (S_ISDIR(inode->type))
                fd = openat(path_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        else if (s->read_only && (saved->flags & O_ACCMODE) != O_RDONLY)
                fd = -1;
        else
                fd = fuse_reopen(s, inode, path_fd, fuse_open_flags(saved->flags) & ~O_TRUNC);
        if (fd >= 0)
                fuse_handle_add_as(s, inode, fd, saved->flags, saved->fh);
        fuse_inode_put(s, inode);
}

/* One pass over the stream: @apply NULL checks only. False: damaged. */
static bool inodes_pass(struct fuse_server *s, struct state_in *in, u32 n,
                        void (*apply)(struct fuse_server *s, const struct saved_inode *saved))
{
        struct saved_inode saved;

        for (u32 i = 0; i < n; i++) {
                if (!inode_read(in, &saved) || state_in_error(in))
                        return false;
                if (apply)
                        apply(s, &saved);
        }
        return true;
}

int fuse_server_load(struct fuse_server *s, struct state_in *in, struct err **err)
{
        const u64 dev = state_get_u64(in), ino = state_get_u64(in), born_ns = state_get_u64(in);
        const bool same_directory = dev == s->root->dev && ino == s->root->ino && born_ns == (u64)s->root->born_ns;
        const u64 next_nodeid = state_get_u64(in), next_fh = state_get_u64(in);
        const u32 n_inodes = state_get_u32(in);
        const struct state_in inodes = *in; /* borrowed bytes: to be read three times */
        struct state_in pass;
        _cleanup_free_ struct saved_handle *handles = NULL;
        u32 n_handles;

        if (n_inodes > s->inodes_max || n_inodes > state_in_left(in) / INODE_BYTES_MIN || next_nodeid <= FUSE_ROOT_ID ||
            next_nodeid >= INT64_MAX || !next_fh || next_fh >= INT64_MAX || !inodes_pass(s, in, n_inodes, NULL))
                return damaged(err);
        n_handles = state_get_u32(in);
        if (n_handles > s->handles_max || n_handles > state_in_left(in) / HANDLE_BYTES)
                return damaged(err);
        handles = calloc(n_handles + 1, sizeof(*handles));
        if (!handles)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to load virtio-fs");
        for (u32 i = 0; i < n_handles; i++) {
                handles[i] = (struct saved_handle){ .fh = state_get_u64(in), .nodeid = state_get_u64(in), .flags = state_get_u32(in) };
                if (!handles[i].fh || handles[i].fh >= next_fh)
                        return damaged(err);
        }
        if (state_in_error(in))
                return damaged(err);

        fuse_server_forget_all(s);
        fuse_server_see_rights(s);
        pthread_mutex_lock(&s->lock);
        pass = inodes;
        inodes_pass(s, &pass, n_inodes, inode_apply);
        pass = inodes;
        inodes_pass(s, &pass, n_inodes, inode_apply_link);
        s->next_nodeid = next_nodeid;
        s->next_fh = s->restored_fh_end = next_fh;
        if (!s->is_private)
                judge_all(&(struct judging){ .server = s, .root_dev = dev, .same_root = same_directory });
        if (!s->is_private || !same_directory)
                find_all(s);
        pthread_mutex_unlock(&s->lock);
        for (u32 i = 0; i < n_handles; i++)
                handle_apply(s, &handles[i]);
        return 0;
}

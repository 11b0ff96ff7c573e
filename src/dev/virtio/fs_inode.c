/* The files that the guest knows.
 *
 * The guest names files by numbers that it got from lookups, until it forgets them; Linux keeps hundreds of thousands. So a file has
 * no descriptor of its own: the cached_fds_max last used have, the others are opened again by the path that led to them (parent
 * and name, renames followed), from the nearest directory that has one. openat2 refuses symbolic links on the way, and inode
 * number and time of birth say whether it is the same file still: if not, the number is stale, which the guest hears as ESTALE.
 *
 * A file whose last known name is gone keeps its descriptor until the guest forgets it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"

/* @quick: only if no disk is needed; -EAGAIN. */
static int open_beneath(int dir_fd, const char *path, bool quick)
{
        const struct open_how how = {
                .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | (quick ? RESOLVE_CACHED : 0),
        };
        long fd;

        /* EAGAIN: a rename somewhere made the kernel unsure. A few times is a coincidence, for ever is somebody's intention. */
        for (unsigned i = 0; i < 16; i++) {
                fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
                if (fd >= 0 || errno != EAGAIN || quick)
                        break;
        }
        return fd < 0 ? -errno : (int)fd;
}

/* ---- the tables; lock held ---- */

static struct fuse_inode **id_bucket(const struct fuse_server *s, u64 nodeid)
{
        return &s->by_id[nodeid % FUSE_BUCKETS];
}

static struct fuse_inode **file_bucket(const struct fuse_server *s, u64 dev, u64 ino)
{
        return &s->by_file[((ino ^ dev) * 0x9e3779b97f4a7c15ULL) >> 49];
}

_Static_assert(FUSE_BUCKETS == 1U << (64 - 49), "file_bucket");

struct fuse_inode *fuse_inode_find(const struct fuse_server *s, u64 nodeid)
{
        struct fuse_inode *inode = *id_bucket(s, nodeid);

        while (inode && inode->nodeid != nodeid)
                inode = inode->next_by_id;
        return inode;
}

/* Not of file systems without a block device: overlayfs tells the birth of a layer's file, which is another after the file was copied up
 * (its number stays). btrfs and tmpfs use no number again. */
static s64 born_ns(const struct statx *st)
{
        return st->stx_mask & STATX_BTIME && st->stx_dev_major ? fuse_time_ns(&st->stx_btime) : 0;
}

static u64 dev_of(const struct statx *st)
{
        return (u64)st->stx_dev_major << 32 | st->stx_dev_minor;
}

static bool is_file(const struct fuse_inode *inode, const struct statx *st)
{
        return inode->ino == st->stx_ino && inode->dev == dev_of(st) && inode->born_ns == born_ns(st) &&
               inode->type == (st->stx_mode & S_IFMT);
}

static struct fuse_inode *find_file(const struct fuse_server *s, const struct statx *st)
{
        struct fuse_inode *inode = *file_bucket(s, dev_of(st), st->stx_ino);

        while (inode && !is_file(inode, st))
                inode = inode->next_by_file;
        return inode;
}

static void unhash_file(struct fuse_server *s, struct fuse_inode *inode)
{
        struct fuse_inode **p = file_bucket(s, inode->dev, inode->ino);

        if (!inode->hashed_by_file)
                return;
        while (*p != inode)
                p = &(*p)->next_by_file;
        *p = inode->next_by_file;
        inode->hashed_by_file = false;
}

void fuse_inode_identify(struct fuse_server *s, struct fuse_inode *inode, const struct statx *st)
{
        struct fuse_inode **head = file_bucket(s, dev_of(st), st->stx_ino);

        unhash_file(s, inode);
        inode->dev = dev_of(st);
        inode->ino = st->stx_ino;
        inode->born_ns = born_ns(st);
        inode->next_by_file = *head;
        inode->hashed_by_file = true;
        *head = inode;
}

struct fuse_inode *fuse_inode_add(struct fuse_server *s, u64 nodeid, mode_t type)
{
        struct fuse_inode *inode = s->n_inodes < s->inodes_max ? calloc(1, sizeof(*inode)) : NULL;

        if (!inode)
                return NULL;
        inode->nodeid = nodeid;
        inode->type = type;
        inode->fd = -1;
        inode->next_by_id = *id_bucket(s, nodeid);
        *id_bucket(s, nodeid) = inode;
        s->n_inodes++;
        return inode;
}

/* ---- descriptors; lock held ---- */

static void lru_remove(struct fuse_server *s, struct fuse_inode *inode)
{
        *(inode->newer ? &inode->newer->older : &s->newest) = inode->older;
        *(inode->older ? &inode->older->newer : &s->oldest) = inode->newer;
        inode->newer = inode->older = NULL;
        s->n_cached_fds--;
}

static void lru_add(struct fuse_server *s, struct fuse_inode *inode)
{
        inode->older = s->newest;
        inode->newer = NULL;
        *(s->newest ? &s->newest->newer : &s->oldest) = inode;
        s->newest = inode;
        s->n_cached_fds++;
}

static void fd_close(struct fuse_server *s, struct fuse_inode *inode)
{
        if (inode->fd < 0)
                return;
        if (inode->keep_fd)
                s->n_kept_fds--;
        else
                lru_remove(s, inode);
        inode->keep_fd = false;
        close(TAKE_FD(inode->fd));
}

/* Those in use are passed over: there are no more of them than threads. */
static void fds_shrink(struct fuse_server *s)
{
        struct fuse_inode *inode = s->oldest;

        while (inode && s->n_cached_fds > s->cached_fds_max) {
                struct fuse_inode *newer = inode->newer;

                if (!inode->users)
                        fd_close(s, inode);
                inode = newer;
        }
}

static void fd_give(struct fuse_server *s, struct fuse_inode *inode, int fd)
{
        inode->fd = fd;
        lru_add(s, inode);
        inode->users++;
        fds_shrink(s);
        inode->users--;
}

/* There is no other way to it any more. */
static void fd_keep(struct fuse_server *s, struct fuse_inode *inode)
{
        if (inode->fd < 0 || inode->keep_fd || s->n_kept_fds >= s->kept_fds_max)
                return;
        lru_remove(s, inode);
        inode->keep_fd = true;
        s->n_kept_fds++;
}

/* The path from the nearest open directory above, at the end of @path; its start, or NULL. */
static const char *path_from(const struct fuse_inode *inode, char path[static PATH_MAX], const struct fuse_inode **ret_from)
{
        char *at = path + PATH_MAX - 1;

        *at = '\0';
        for (; inode->fd < 0; inode = inode->parent) {
                const size_t n = inode->parent ? strlen(inode->name) : 0;

                /* Each step takes room, so that a circle ends too. */
                if (!inode->parent || (size_t)(at - path) < n + 1)
                        return NULL;
                if (*at)
                        *--at = '/';
                at -= n;
                memcpy(at, inode->name, n);
        }
        *ret_from = inode;
        return at;
}

int fuse_inode_reopen(struct fuse_server *s, struct fuse_inode *inode)
{
        const struct fuse_inode *from;
        _cleanup_close_ int fd = -1;
        char path[PATH_MAX];
        const char *relative;
        struct statx st;

        if (inode->fd >= 0)
                return 0;
        relative = path_from(inode, path, &from);
        if (!relative)
                return -ESTALE;
        fd = open_beneath(from->fd, relative, false);
        if (fd < 0)
                return fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM ? fd : -ESTALE;
        if (fuse_statx(fd, &st) < 0)
                return -ESTALE;
        if (inode->restored && inode->type == (st.stx_mode & S_IFMT))
                fuse_inode_identify(s, inode, &st);
        if (!is_file(inode, &st))
                return -ESTALE;
        inode->restored = false;
        fd_give(s, inode, TAKE_FD(fd));
        return 0;
}

/* ---- life; lock held ---- */

void fuse_inode_link(struct fuse_server *s, struct fuse_inode *inode, struct fuse_inode *parent, char *name)
{
        struct fuse_inode *old = inode->parent;

        if (parent)
                parent->refs++;
        free(inode->name);
        inode->parent = parent;
        inode->name = name;
        if (old) {
                old->refs--;
                fuse_inode_release(s, old);
        }
}

void fuse_inode_release(struct fuse_server *s, struct fuse_inode *inode)
{
        while (inode && inode != s->root && !inode->nlookup && !inode->refs && !inode->users) {
                struct fuse_inode **p = id_bucket(s, inode->nodeid), *parent = inode->parent;

                while (*p != inode)
                        p = &(*p)->next_by_id;
                *p = inode->next_by_id;
                unhash_file(s, inode);
                fd_close(s, inode);
                free(inode->name);
                free(inode);
                s->n_inodes--;
                if (parent)
                        parent->refs--;
                inode = parent;
        }
}

/* ---- what calls do ---- */

int fuse_inode_get(struct fuse_server *s, u64 nodeid, struct fuse_inode **ret, int *ret_fd)
{
        struct fuse_inode *inode;
        int r = -ESTALE;

        pthread_mutex_lock(&s->lock);
        inode = fuse_inode_find(s, nodeid);
        if (inode)
                r = fuse_inode_reopen(s, inode);
        if (r == 0) {
                if (!inode->keep_fd && inode != s->newest && inode != s->root) {
                        lru_remove(s, inode);
                        lru_add(s, inode);
                }
                inode->users++;
                *ret = inode;
                *ret_fd = inode->fd;
        }
        pthread_mutex_unlock(&s->lock);
        return r;
}

void fuse_inode_put(struct fuse_server *s, struct fuse_inode *inode)
{
        pthread_mutex_lock(&s->lock);
        inode->users--;
        fuse_inode_release(s, inode);
        pthread_mutex_unlock(&s->lock);
}

void fuse_inode_forget(struct fuse_server *s, u64 nodeid, u64 n)
{
        struct fuse_inode *inode;

        pthread_mutex_lock(&s->lock);
        inode = fuse_inode_find(s, nodeid);
        if (inode && inode != s->root) {
                inode->nlookup -= MIN(n, inode->nlookup);
                fuse_inode_release(s, inode);
        }
        pthread_mutex_unlock(&s->lock);
}

/* The inode of an open file, found or new; it takes @fd when it has none. Lock held. NULL: too many, or no memory. */
static struct fuse_inode *inode_of(struct fuse_server *s, int *fd, const struct statx *st)
{
        struct fuse_inode *inode = find_file(s, st);

        if (!inode) {
                inode = fuse_inode_add(s, s->next_nodeid, st->stx_mode & S_IFMT);
                if (!inode)
                        return NULL;
                s->next_nodeid++;
                fuse_inode_identify(s, inode, st);
        }
        if (inode->fd < 0)
                fd_give(s, inode, TAKE_FD(*fd));
        return inode;
}

static bool is_linked_as(const struct fuse_inode *inode, const struct fuse_inode *dir, const char *name)
{
        return inode->parent == dir && strcmp(inode->name, name) == 0;
}

/* It can be found as @name of @dir from now on. */
static void relink(struct fuse_server *s, struct fuse_inode *inode, struct fuse_inode *dir, const char *name)
{
        char *copy;

        if (inode == s->root || inode == dir || (inode->parent && is_linked_as(inode, dir, name)))
                return;
        copy = strdup(name);
        if (!copy)
                return; /* the older way is as good */
        if (inode->keep_fd) {
                inode->keep_fd = false;
                s->n_kept_fds--;
                lru_add(s, inode);
        }
        fuse_inode_link(s, inode, dir, copy);
}

int fuse_inode_lookup(struct fuse_call *c, const char *name, struct fuse_entry_out *ret)
{
        _cleanup_close_ int fd = open_beneath(c->fd, name, c->quick);
        struct fuse_server *s = c->server;
        struct fuse_inode *inode;
        struct statx st;
        int r;

        if (fd < 0)
                return fd;
        r = fuse_statx(fd, &st);
        if (r < 0)
                return r;
        pthread_mutex_lock(&s->lock);
        inode = inode_of(s, &fd, &st);
        if (inode) {
                relink(s, inode, c->inode, name);
                inode->nlookup++;
                fuse_entry_fill(s, inode->nodeid, &st, ret);
        }
        pthread_mutex_unlock(&s->lock);
        return inode ? 0 : -ENFILE;
}

int fuse_inode_nameless(struct fuse_server *s, int fd, struct fuse_entry_out *ret, struct fuse_inode **ret_inode)
{
        const struct fuse_fd_path path = fuse_fd_path(fd);
        _cleanup_close_ int path_fd = open(path.text, O_PATH | O_CLOEXEC);
        struct fuse_inode *inode;
        struct statx st;
        int r;

        if (path_fd < 0)
                return -errno;
        r = fuse_statx(path_fd, &st);
        if (r < 0)
                return r;
        pthread_mutex_lock(&s->lock);
        inode = inode_of(s, &path_fd, &st);
        if (inode) {
                if (!inode->parent)
                        fd_keep(s, inode);
                inode->nlookup++;
                inode->users++;
                fuse_entry_fill(s, inode->nodeid, &st, ret);
                *ret_inode = inode;
        }
        pthread_mutex_unlock(&s->lock);
        return inode ? 0 : -ENFILE;
}

/* The file that is now @name of the directory, when it is known. Lock held. */
static struct fuse_inode *known_as(const struct fuse_server *s, int dir_fd, const char *name)
{
        struct statx st;

        if (statx(dir_fd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
                return NULL;
        return find_file(s, &st);
}

struct fuse_inode *fuse_inode_before_unlink(struct fuse_server *s, const struct fuse_inode *dir, int dir_fd, const char *name)
{
        struct fuse_inode *inode;

        pthread_mutex_lock(&s->lock);
        inode = known_as(s, dir_fd, name);
        if (inode && inode->parent && is_linked_as(inode, dir, name) && fuse_inode_reopen(s, inode) == 0)
                inode->users++;
        else
                inode = NULL;
        pthread_mutex_unlock(&s->lock);
        return inode;
}

void fuse_inode_after_unlink(struct fuse_server *s, struct fuse_inode *inode, bool gone)
{
        if (!inode)
                return;
        pthread_mutex_lock(&s->lock);
        inode->users--;
        if (gone) {
                fd_keep(s, inode);
                fuse_inode_link(s, inode, NULL, NULL);
        }
        fuse_inode_release(s, inode);
        pthread_mutex_unlock(&s->lock);
}

void fuse_inode_moved(struct fuse_server *s, struct fuse_inode *dir, int dir_fd, const char *name)
{
        struct fuse_inode *inode;

        pthread_mutex_lock(&s->lock);
        inode = known_as(s, dir_fd, name);
        if (inode)
                relink(s, inode, dir, name);
        pthread_mutex_unlock(&s->lock);
}

void fuse_inodes_forget_all(struct fuse_server *s)
{
        struct fuse_inode *inode, *next;

        pthread_mutex_lock(&s->lock);
        /* Of a new machine's only the root is there; looking through empty tables takes half a millisecond. */
        for (unsigned i = 0; i < FUSE_BUCKETS && s->n_inodes > 1; i++)
                for (inode = s->by_id[i]; inode; inode = inode->next_by_id)
                        inode->nlookup = 0;
        /* Who has no way up any more frees nobody but himself, so the next one of a chain stays. */
        for (unsigned i = 0; i < FUSE_BUCKETS && s->n_inodes > 1; i++)
                for (inode = s->by_id[i]; inode; inode = inode->next_by_id)
                        if (inode->parent && inode != s->root) {
                                inode->parent->refs--;
                                inode->parent = NULL;
                        }
        for (unsigned i = 0; i < FUSE_BUCKETS && s->n_inodes > 1; i++)
                for (inode = s->by_id[i]; inode; inode = next) {
                        next = inode->next_by_id;
                        fuse_inode_release(s, inode);
                }
        pthread_mutex_unlock(&s->lock);
}

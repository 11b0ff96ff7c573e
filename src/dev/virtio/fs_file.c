/* Operations on open files and directories. Data goes straight between the file and the guest's memory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"

/* What one request may keep a thread busy with. */
#define COPY_MAX (16U << 20)
/* A file that was changed this long ago has got another time with its next change. */
#define SETTLED_NS (2 * (s64)NSEC_PER_SEC)

/* What the kernel writes (getdents64(2)). */
struct dent {
        u64 ino, off;
        u16 len;
        u8 type;
        char name[];
};

/* Offsets and flags come with every write, so O_APPEND is none of the descriptor's (append_flag); the guest's caches are
 * its affair, so O_DIRECT is too. */
int fuse_open_flags(u32 flags)
{
        return (int)(flags & (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC)) | O_CLOEXEC | O_NONBLOCK;
}

int fuse_reopen(const struct fuse_server *s, const struct fuse_inode *inode, int path_fd, int flags)
{
        int fd;

        /* Opening anything else may block, or do things (devices). */
        if (!S_ISREG(inode->type))
                return -EACCES;
        fd = openat(s->proc_fd, fuse_fd_path(path_fd).text, flags | O_CLOEXEC | O_NONBLOCK);
        return fd < 0 ? -errno : fd;
}

/* May the guest keep what it has cached of the file? Notes what it is now. */
static bool cache_is_good(struct fuse_call *c, int fd)
{
        struct fuse_mark *mark = &c->inode->mark, now;
        struct timespec t;
        struct statx st;
        bool good;

        if (fuse_statx(fd, &st) < 0)
                return false;
        clock_gettime(CLOCK_REALTIME_COARSE, &t);
        now = (struct fuse_mark){
                .size = st.stx_size, .mtime_ns = fuse_time_ns(&st.stx_mtime), .ctime_ns = fuse_time_ns(&st.stx_ctime),
        };
        now.settled = (s64)((u64)t.tv_sec * NSEC_PER_SEC) - MAX(now.mtime_ns, now.ctime_ns) > SETTLED_NS;
        pthread_mutex_lock(&c->server->lock);
        good = mark->settled && mark->size == now.size && mark->mtime_ns == now.mtime_ns && mark->ctime_ns == now.ctime_ns;
        *mark = now;
        pthread_mutex_unlock(&c->server->lock);
        return good;
}

int fuse_open(struct fuse_call *c)
{
        const struct fuse_open_in *in = c->arg;
        struct fuse_open_out *out = (struct fuse_open_out *)c->reply;
        int fd, r = 0;

        if (c->quick && in->flags & O_TRUNC)
                return -EAGAIN;
        fd = fuse_reopen(c->server, c->inode, c->fd, fuse_open_flags(in->flags));
        if (fd < 0)
                return fd;
        if (in->flags & O_TRUNC && in->open_flags & FUSE_OPEN_KILL_SUIDGID)
                r = fuse_kill_suidgid(fd);
        *out = (struct fuse_open_out){
                .open_flags = c->server->is_private || cache_is_good(c, fd) ? FOPEN_KEEP_CACHE : 0,
        };
        c->reply_len = sizeof(*out);
        if (r < 0) {
                close(fd);
                return r;
        }
        return fuse_handle_add(c->server, c->inode, fd, in->flags, &out->fh);
}

int fuse_opendir(struct fuse_call *c)
{
        struct fuse_open_out *out = (struct fuse_open_out *)c->reply;
        const int fd = openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        *out = (struct fuse_open_out){ .open_flags = c->server->is_private ? FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE : 0 };
        c->reply_len = sizeof(*out);
        return fuse_handle_add(c->server, c->inode, fd, O_DIRECTORY, &out->fh);
}

int fuse_release(struct fuse_call *c)
{
        const struct fuse_release_in *in = c->arg;

        fuse_handle_close(c->server, in->fh);
        return 0;
}

/* ---- data ---- */

/* Drops what is behind the first @len bytes. False: there are fewer. */
static bool shorten(struct iovec *iov, unsigned *n, size_t len)
{
        unsigned i = 0;

        for (; i < *n && len; i++) {
                iov[i].iov_len = MIN(iov[i].iov_len, len);
                len -= iov[i].iov_len;
        }
        *n = i;
        return len == 0;
}

static bool ends_at(int fd, u64 offset)
{
        struct stat st;

        return fstat(fd, &st) == 0 && (u64)st.st_size <= offset;
}

int fuse_read(struct fuse_call *c)
{
        const struct fuse_read_in *in = c->arg;
        struct fuse_handle *handle;
        ssize_t n = 0;
        int r;

        if (in->size > FUSE_TRANSFER_MAX || in->offset > (u64)INT64_MAX - in->size || !shorten(c->data, &c->n_data, in->size))
                return -EINVAL;
        r = fuse_handle_get(c->server, in->fh, &handle);
        if (r < 0)
                return r;
        if (c->n_data)
                n = preadv2(handle->fd, c->data, (int)c->n_data, (off_t)in->offset, c->quick ? RWF_NOWAIT : 0);
        if (n < 0)
                r = errno == EOPNOTSUPP && c->quick ? -EAGAIN : -errno;
        else if (c->quick && n < in->size && !ends_at(handle->fd, in->offset + (u64)n))
                r = -EAGAIN; /* the rest has to come from the disk */
        else
                c->direct_len = (size_t)n;
        fuse_handle_put(c->server, handle);
        return r;
}

/* What is appended goes to the end as it is now, wherever the guest believes it to be: others, as its own clones,
 * append too. Pages that it writes back have a place. */
static int append_flag(const struct fuse_write_in *in)
{
        return in->flags & O_APPEND && !(in->write_flags & FUSE_WRITE_CACHE) ? RWF_APPEND : 0;
}

int fuse_write(struct fuse_call *c)
{
        const struct fuse_write_in *in = c->arg;
        struct fuse_write_out *out = (struct fuse_write_out *)c->reply;
        struct fuse_handle *handle;
        ssize_t n = 0;
        int r;

        if (in->size > FUSE_TRANSFER_MAX || in->offset > (u64)INT64_MAX - in->size || !shorten(c->data, &c->n_data, in->size))
                return -EINVAL;
        r = fuse_handle_get(c->server, in->fh, &handle);
        if (r < 0)
                return r;
        if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
                r = fuse_kill_suidgid(handle->fd);
        if (r == 0 && c->n_data)
                n = pwritev2(handle->fd, c->data, (int)c->n_data, (off_t)in->offset, append_flag(in));
        if (n < 0)
                r = -errno;
        fuse_handle_put(c->server, handle);
        *out = (struct fuse_write_out){ .size = (u32)n };
        c->reply_len = sizeof(*out);
        return r;
}

int fuse_fsync(struct fuse_call *c)
{
        const struct fuse_fsync_in *in = c->arg;
        struct fuse_handle *handle;
        int r = fuse_handle_get(c->server, in->fh, &handle);

        if (r < 0)
                return r;
        if ((in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(handle->fd) : fsync(handle->fd)) < 0)
                r = -errno;
        fuse_handle_put(c->server, handle);
        return r;
}

int fuse_fallocate(struct fuse_call *c)
{
        static const u32 modes[] = {
                0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
        };
        const struct fuse_fallocate_in *in = c->arg;
        struct fuse_handle *handle;
        int r = -EOPNOTSUPP;

        for (size_t i = 0; i < ARRAY_SIZE(modes) && r < 0; i++)
                r = modes[i] == in->mode ? 0 : r;
        if (r < 0 || in->offset > INT64_MAX || in->length > (u64)INT64_MAX - in->offset)
                return r < 0 ? r : -EFBIG;
        r = fuse_handle_get(c->server, in->fh, &handle);
        if (r < 0)
                return r;
        if (fallocate(handle->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0)
                r = -errno;
        else
                r = fuse_kill_suidgid(handle->fd);
        fuse_handle_put(c->server, handle);
        return r;
}

int fuse_lseek(struct fuse_call *c)
{
        const struct fuse_lseek_in *in = c->arg;
        struct fuse_lseek_out *out = (struct fuse_lseek_out *)c->reply;
        struct fuse_handle *handle;
        off_t offset;
        int r;

        if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
                return -EINVAL; /* the guest does the others by itself */
        r = fuse_handle_get(c->server, in->fh, &handle);
        if (r < 0)
                return r;
        offset = lseek(handle->fd, (off_t)in->offset, (int)in->whence);
        if (offset < 0)
                r = -errno;
        fuse_handle_put(c->server, handle);
        *out = (struct fuse_lseek_out){ .offset = (u64)offset };
        c->reply_len = sizeof(*out);
        return r;
}

int fuse_copy_file_range(struct fuse_call *c)
{
        const struct fuse_copy_file_range_in *in = c->arg;
        struct fuse_write_out *out = (struct fuse_write_out *)c->reply;
        off64_t from_offset = (off64_t)in->off_in, to_offset = (off64_t)in->off_out;
        struct fuse_handle *from, *to;
        ssize_t n;
        int r;

        if (in->flags || in->off_in > INT64_MAX || in->off_out > INT64_MAX)
                return -EINVAL;
        r = fuse_handle_get(c->server, in->fh_in, &from);
        if (r < 0)
                return r;
        r = fuse_handle_get(c->server, in->fh_out, &to);
        if (r == 0) {
                n = copy_file_range(from->fd, &from_offset, to->fd, &to_offset, MIN(in->len, (u64)COPY_MAX), 0);
                r = n < 0 ? -errno : fuse_kill_suidgid(to->fd);
                *out = (struct fuse_write_out){ .size = (u32)n };
                c->reply_len = sizeof(*out);
                fuse_handle_put(c->server, to);
        }
        fuse_handle_put(c->server, from);
        return r;
}

/* All of the host's file system, for there is no smaller measure. */
int fuse_syncfs(struct fuse_call *c)
{
        _cleanup_close_ int fd = -1;

        if (c->server->read_only)
                return 0;
        fd = openat(c->server->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 || syncfs(fd) < 0 ? -errno : 0;
}

/* ---- directories ---- */

/* Adds @dent to the answer. False: it has no room. */
static bool add_dent(struct fuse_call *c, size_t room, const struct dent *dent, bool plus)
{
        const size_t n = strlen(dent->name), at = plus ? sizeof(struct fuse_entry_out) : 0;
        const size_t len = FUSE_DIRENT_ALIGN(at + FUSE_NAME_OFFSET + n);
        u8 *entry = c->reply + c->reply_len;
        struct fuse_dirent head = { .ino = dent->ino, .off = dent->off, .namelen = (u32)n, .type = dent->type };
        const bool dots = strcmp(dent->name, ".") == 0 || strcmp(dent->name, "..") == 0;

        if (n > FUSE_NAME_MAX)
                return true;
        if (len > room - c->reply_len)
                return false;
        memset(entry, 0, len);
        if (dots)
                head.ino = c->header.nodeid; /* the host's parent is none of the guest's business */
        /* Without a node id it is only a name: so are files that vanished meanwhile. */
        if (plus && !dots && fuse_inode_lookup(c, dent->name, (struct fuse_entry_out *)entry) < 0)
                memset(entry, 0, at);
        memcpy(entry + at, &head, FUSE_NAME_OFFSET);
        memcpy(entry + at + FUSE_NAME_OFFSET, dent->name, n);
        c->reply_len += len;
        return true;
}

static int read_dents(struct fuse_call *c, const struct fuse_handle *handle, size_t room, bool plus)
{
        u8 *dents = c->scratch->dents;

        for (;;) {
                const long n = syscall(SYS_getdents64, handle->fd, dents, FUSE_DENTS_MAX);

                if (n < 0)
                        return -errno;
                if (n == 0)
                        return 0;
                for (const u8 *p = dents; p < dents + n; p += ((const struct dent *)p)->len)
                        if (!add_dent(c, room, (const struct dent *)p, plus))
                                return 0;
        }
}

static int list(struct fuse_call *c, bool plus)
{
        const struct fuse_read_in *in = c->arg;
        struct fuse_handle *handle;
        int r = fuse_handle_get(c->server, in->fh, &handle);

        if (r < 0)
                return r;
        if (handle->inode != c->inode || !S_ISDIR(c->inode->type)) {
                r = -ENOTDIR;
        } else {
                pthread_mutex_lock(&handle->position);
                if (lseek(handle->fd, (off_t)in->offset, SEEK_SET) < 0)
                        r = -errno;
                else
                        r = read_dents(c, handle, MIN((size_t)in->size, c->reply_max), plus);
                pthread_mutex_unlock(&handle->position);
        }
        fuse_handle_put(c->server, handle);
        return r;
}

int fuse_readdir(struct fuse_call *c)
{
        return list(c, false);
}

int fuse_readdirplus(struct fuse_call *c)
{
        return list(c, true);
}

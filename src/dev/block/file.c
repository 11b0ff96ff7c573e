/* Theory of operation.
 *
 * Image locks. QEMU's tools and ours must not write to an image that the other uses, so we speak its protocol: open file
 * description locks on single bytes, one pair for each "permission". Whoever uses permission p holds a shared lock on byte
 * 100+p; whoever cannot live with others using p holds one on byte 200+p. After taking its own, an opener asks (F_OFD_GETLK) whether a
 * write lock on the opposite bytes would be refused, i.e. whether somebody else holds them. Two openers at the same moment
 * may both be refused, never both be accepted. The locks go with the last descriptor, also when the process is killed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "internal.h"

enum {
        LOCK_USES = 100,
        LOCK_REFUSES = 200,
};
enum {
        PERMISSION_READ = BIT(0),
        PERMISSION_WRITE = BIT(1),
        PERMISSION_RESIZE = BIT(3),
        PERMISSION_BITS = 5,
};

static int lock_bytes(int fd, off_t base, unsigned mask)
{
        for (unsigned i = 0; i < PERMISSION_BITS; i++) {
                struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = base + i, .l_len = 1 };

                if ((mask & BIT(i)) && fcntl(fd, F_OFD_SETLK, &lock) < 0)
                        return -errno;
        }
        return 0;
}

/* -EBUSY when anybody else holds one of the bytes. */
static int check_bytes(int fd, off_t base, unsigned mask)
{
        for (unsigned i = 0; i < PERMISSION_BITS; i++) {
                struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = base + i, .l_len = 1 };

                if (!(mask & BIT(i)))
                        continue;
                if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
                        return -errno;
                if (lock.l_type != F_UNLCK)
                        return -EBUSY;
        }
        return 0;
}

int host_file_lock(const struct host_file *file, const char *path, struct err **err)
{
        const unsigned uses = file->read_only ? PERMISSION_READ :
                                                PERMISSION_READ | PERMISSION_WRITE | PERMISSION_RESIZE;
        const unsigned refuses = PERMISSION_WRITE | PERMISSION_RESIZE;
        int r;

        r = lock_bytes(file->fd, LOCK_USES, uses);
        if (r == 0)
                r = lock_bytes(file->fd, LOCK_REFUSES, refuses);
        if (r == 0)
                r = check_bytes(file->fd, LOCK_REFUSES, uses);
        if (r == 0)
                r = check_bytes(file->fd, LOCK_USES, refuses);
        if (r == -EBUSY || r == -EAGAIN || r == -EACCES) {
                r = err_set(err, ERR_BUSY, EBUSY, "disk image '%s' is in use by another virtual machine or tool", path);
                return err_hint(err, r, "stop what uses it, or give each machine an overlay: "
                                        "qemu-img create -f qcow2 -b IMAGE -F FORMAT OVERLAY");
        }
        if (r < 0)
                log_warn("disk image '%s' cannot be locked (%s): take care that nothing else writes to it", path, strerror(-r));
        return 0;
}

static int open_error(const char *path, int e, bool read_only, struct err **err)
{
        int r = err_sys(err, e, "opening disk image '%s'", path);

        if (!read_only && (e == EACCES || e == EPERM || e == EROFS))
                return err_hint(err, r, "append ',ro' to attach it read-only");
        return r;
}

int host_file_open(struct host_file *file, const char *path, bool read_only, struct err **err)
{
        struct host_file f = { .fd = -1, .read_only = read_only, .granularity = 4096 };
        struct stat st;
        int r;

        /* O_NONBLOCK so that a FIFO cannot make us wait; it means nothing to files and disks. */
        f.fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (f.fd < 0)
                return open_error(path, errno, read_only, err);
        if (fstat(f.fd, &st) < 0) {
                r = err_sys(err, errno, "examining disk image '%s'", path);
        } else if (S_ISREG(st.st_mode)) {
                f.size = (u64)st.st_size;
                if (st.st_blksize >= BLOCK_SECTOR && st.st_blksize <= (blksize_t)MIB)
                        f.granularity = (u32)st.st_blksize;
                r = 0;
        } else if (S_ISBLK(st.st_mode)) {
                f.is_block_device = true;
                r = ioctl(f.fd, BLKGETSIZE64, &f.size) < 0 ? err_sys(err, errno, "asking for the size of disk '%s'", path) : 0;
        } else {
                r = err_set(err, ERR_BAD_IMAGE, EINVAL, "'%s' is %s, not a disk image", path,
                            S_ISDIR(st.st_mode) ? "a directory" : "neither a file nor a block device");
        }
        if (r < 0) {
                close(f.fd);
                return r;
        }
        f.dev = st.st_dev;
        f.ino = st.st_ino;
        *file = f;
        return 0;
}

void host_file_close(struct host_file *file)
{
        if (file->fd >= 0)
                close(file->fd);
        file->fd = -1;
}

/* Enough for most requests; longer lists take several system calls. */
#define WINDOW 64

int host_file_readv(const struct host_file *file, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        struct iovec iov[WINDOW];

        while (bytes > 0) {
                u64 window;
                const unsigned n = iov_window(cursor, bytes, iov, WINDOW, &window);
                ssize_t got;

                if (n == 0)
                        return -EINVAL;
                got = preadv(file->fd, iov, (int)n, (off_t)offset);
                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return -errno;
                if (got == 0) {
                        iov_zero(cursor, bytes);
                        return 0;
                }
                iov_advance(cursor, (u64)got);
                offset += (u64)got;
                bytes -= (u64)got;
        }
        return 0;
}

int host_file_writev(const struct host_file *file, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        struct iovec iov[WINDOW];

        while (bytes > 0) {
                u64 window;
                const unsigned n = iov_window(cursor, bytes, iov, WINDOW, &window);
                ssize_t put;

                if (n == 0)
                        return -EINVAL;
                put = pwritev(file->fd, iov, (int)n, (off_t)offset);
                if (put < 0 && errno == EINTR)
                        continue;
                if (put <= 0)
                        return put < 0 ? -errno : -EIO;
                iov_advance(cursor, (u64)put);
                offset += (u64)put;
                bytes -= (u64)put;
        }
        return 0;
}

int host_file_read(const struct host_file *file, void *buf, u64 bytes, u64 offset)
{
        u8 *p = buf;

        while (bytes > 0) {
                const ssize_t got = pread(file->fd, p, bytes, (off_t)offset);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        return got < 0 ? -errno : -EIO;
                p += got;
                offset += (u64)got;
                bytes -= (u64)got;
        }
        return 0;
}

int host_file_write(const struct host_file *file, const void *buf, u64 bytes, u64 offset)
{
        struct iovec iov = { .iov_base = (void *)buf, .iov_len = bytes };
        struct iov_cursor cursor = { .iov = &iov, .n = 1 };

        return host_file_writev(file, &cursor, bytes, offset);
}

int host_file_sync(struct host_file *file)
{
        /* After a failed sync the kernel forgets which pages were lost, and the next one would succeed. */
        if (__atomic_load_n(&file->sync_failed, __ATOMIC_RELAXED))
                return -EIO;
        if (fdatasync(file->fd) < 0) {
                const int e = errno;

                if (e == EINTR)
                        return -EINTR;
                __atomic_store_n(&file->sync_failed, true, __ATOMIC_RELAXED);
                return -e;
        }
        return 0;
}

static bool try_fallocate(struct host_file *file, int mode, u64 offset, u64 bytes)
{
        if (__atomic_load_n(&file->no_punch, __ATOMIC_RELAXED))
                return false;
        if (fallocate(file->fd, mode, (off_t)offset, (off_t)bytes) == 0)
                return true;
        if (errno == EOPNOTSUPP || errno == ENOSYS || errno == ENODEV)
                __atomic_store_n(&file->no_punch, true, __ATOMIC_RELAXED);
        return false;
}

void host_file_punch(struct host_file *file, u64 offset, u64 bytes)
{
        if (bytes > 0)
                try_fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
}

int host_file_zero(struct host_file *file, u64 offset, u64 bytes, bool unmap)
{
        static const u8 zeros[64 * KIB];

        if (bytes == 0)
                return 0;
        if (unmap && try_fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes))
                return 0;
        if (!unmap && try_fallocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, bytes))
                return 0;
        while (bytes > 0) {
                const u64 len = MIN(bytes, (u64)sizeof(zeros));
                const int r = host_file_write(file, zeros, len, offset);

                if (r < 0)
                        return r;
                offset += len;
                bytes -= len;
        }
        return 0;
}

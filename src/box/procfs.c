#include "procfs.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "sys.h"

int procfs_open(struct err **err)
{
        _cleanup_close_ int fd = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        struct statfs fs;

        if (fd < 0 || fstatfs(fd, &fs) < 0)
                return err_sys(err, errno, "opening /proc");
        if (fs.f_type != PROC_SUPER_MAGIC)
                return err_set(err, ERR_UNSUPPORTED, EINVAL, "/proc is not a procfs");
        return TAKE_FD(fd);
}

int procfs_at(int proc, const char *path, int flags)
{
        return sys_openat2(proc, path, (u64)flags, 0, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS);
}

int procfs_write(int proc, const char *path, const char *text, struct err **err)
{
        _cleanup_close_ int fd = procfs_at(proc, path, O_WRONLY);

        if (fd < 0)
                return err_sys(err, -fd, "opening /proc/%s", path);
        if (write(fd, text, strlen(text)) < 0)
                return err_sys(err, errno, "writing '%s' to /proc/%s", text, path);
        return 0;
}

int procfs_read(int proc, const char *path, char *buf, size_t size)
{
        _cleanup_close_ int fd = procfs_at(proc, path, O_RDONLY);
        size_t n = 0;

        if (fd < 0)
                return fd;
        while (n < size - 1) {
                const ssize_t got = read(fd, buf + n, size - 1 - n);

                if (got < 0)
                        return -errno;
                if (got == 0)
                        break;
                n += (size_t)got;
        }
        buf[n] = 0;
        return (int)n;
}

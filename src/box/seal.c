#include "seal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "mount.h"
#include "sys.h"

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

void seal_process(void)
{
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

bool seal_is_cloned(void)
{
        _cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct statvfs fs;
        int seals;

        if (fd < 0)
                return false;
        seals = fcntl(fd, F_GET_SEALS); /* -1 for a file that is not in memory */
        if (seals >= 0 && (seals & SEALS) == SEALS)
                return true;
        return fstatvfs(fd, &fs) == 0 && fs.f_flag & ST_RDONLY;
}

/* A read-only mount that exists only as long as a descriptor does: no name leads to it, so nobody can make it writable. */
static int clone_by_mount(void)
{
        _cleanup_close_ int fd = open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

        if (fd < 0)
                return -errno;
        if (mount_set_attr(fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, false) < 0)
                return -EPERM;
        return TAKE_FD(fd);
}

static int clone_by_copy(void)
{
        _cleanup_close_ int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        _cleanup_close_ int to = memfd_create("strata-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        struct stat st;

        if (from < 0 || to < 0 || fstat(from, &st) < 0)
                return -errno;
        for (off_t done = 0; done < st.st_size;) {
                const ssize_t n = sendfile(to, from, NULL, (size_t)(st.st_size - done));

                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += n;
        }
        if (fcntl(to, F_ADD_SEALS, SEALS) < 0)
                return -errno;
        return TAKE_FD(to);
}

/* /proc/self/cmdline as a vector; the strings stay in *@buf. */
static int own_arguments(char **buf, char ***ret)
{
        _cleanup_close_ int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
        size_t size = 0, room = 4096, n = 0;
        char **argv;

        for (*buf = NULL;;) {
                char *bigger = realloc(*buf, room + 1);
                ssize_t got;

                if (!bigger || fd < 0)
                        return -ENOMEM;
                *buf = bigger;
                got = read(fd, *buf + size, room - size);
                if (got < 0)
                        return -errno;
                if (got == 0)
                        break;
                size += (size_t)got;
                if (size == room)
                        room *= 2;
        }
        (*buf)[size] = 0;
        argv = calloc(size + 2, sizeof(*argv));
        if (!argv)
                return -ENOMEM;
        for (size_t i = 0; i < size; i += strlen(*buf + i) + 1)
                argv[n++] = *buf + i;
        *ret = argv;
        return 0;
}

int seal_reexec(struct err **err)
{
        _cleanup_free_ char **argv = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -1;
        int r;

        if (seal_is_cloned())
                return 0;
        fd = clone_by_mount();
        if (fd < 0)
                fd = clone_by_copy();
        if (fd < 0)
                return err_sys(err, -fd, "protecting the runtime's program");
        r = own_arguments(&text, &argv);
        if (r < 0)
                return err_sys(err, -r, "reading the runtime's arguments");
        execveat(fd, "", argv, environ, AT_EMPTY_PATH);
        return err_sys(err, errno, "starting the runtime again from a protected copy");
}

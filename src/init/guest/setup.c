/* What the machine is to be: its name, clock and random numbers, its file systems, its kernel's modules and settings. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/random.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "guest.h"

#define MODULES "/modules"
#define NSEC 1000000000ULL

/* ---- files ---- */

ssize_t read_file_at(int directory, const char *path, char *buffer, size_t size)
{
        const int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
        size_t n = 0;
        ssize_t got;

        if (fd < 0)
                return -errno;
        while (n < size - 1 && (got = read(fd, buffer + n, size - 1 - n)) > 0)
                n += (size_t)got;
        close(fd);
        buffer[n] = '\0';
        return (ssize_t)n;
}

/* The first @len bytes of @path, and what they stand in. */
static int make_prefix(char *path, size_t len)
{
        const char rest = path[len];
        struct stat st;
        int r = 0;

        path[len] = '\0';
        if (mkdir(path, 0755) < 0 && (errno != EEXIST || stat(path, &st) < 0 || !S_ISDIR(st.st_mode)))
                r = errno == EEXIST ? -ENOTDIR : -errno;
        path[len] = rest;
        return r;
}

static int make_parents(const char *path)
{
        char copy[PATH_MAX];
        int r = 0;

        if (strlen(path) >= sizeof(copy))
                return -ENAMETOOLONG;
        strcpy(copy, path);
        for (size_t i = 1; copy[i] && r == 0; i++)
                if (copy[i] == '/' && copy[i - 1] != '/')
                        r = make_prefix(copy, i);
        return r;
}

int make_directories(const char *path)
{
        struct stat st;
        int r;

        if (stat(path, &st) == 0)
                return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
        r = make_parents(path);
        return r < 0 ? r : mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

int request_file(struct init *init, const struct init_message *m, struct failure *failure)
{
        const char *path = m->field[0].text;
        int fd, r = make_parents(path);

        fd = r < 0 ? r : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)m->field[1].number & 07777);
        if (fd < 0)
                return fail(failure, r < 0 ? -r : errno, "writing '", path, "'", NULL);
        r = fchmod(fd, (mode_t)m->field[1].number & 07777) < 0 ? -errno : io_write_all(fd, m->field[2].text, m->field[2].number);
        close(fd);
        return r < 0 ? fail(failure, -r, "writing '", path, "'", NULL) : 0;
}

int request_link(struct init *init, const struct init_message *m, struct failure *failure)
{
        const char *path = m->field[1].text;
        int r = make_parents(path);

        if (r == 0 && symlink(m->field[0].text, path) < 0 && errno != EEXIST)
                r = -errno;
        return r < 0 ? fail(failure, -r, "making the link '", path, "'", NULL) : 0;
}

/* ---- mounts ---- */

int private_mount(const char *type)
{
        const int context = (int)syscall(SYS_fsopen, type, 1 /* FSOPEN_CLOEXEC */);
        int fd;

        if (context < 0)
                return -errno;
        fd = (int)syscall(SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0);
        if (fd == 0)
                fd = (int)syscall(SYS_fsmount, context, 1 /* FSMOUNT_CLOEXEC */, 0);
        fd = fd < 0 ? -errno : fd;
        close(context);
        return fd;
}

/* Something to mount on: a directory, or a file where a file is bound. */
static int make_target(const char *source, const char *target, u32 flags)
{
        struct stat st;
        int fd, r;

        if (flags & MS_REMOUNT || stat(target, &st) == 0)
                return 0;
        if (!(flags & MS_BIND) || stat(source, &st) < 0 || S_ISDIR(st.st_mode))
                return make_directories(target);
        r = make_parents(target);
        if (r < 0)
                return r;
        fd = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
                return -errno;
        close(fd);
        return 0;
}

int request_mount(struct init *init, const struct init_message *m, struct failure *failure)
{
        const char *source = m->field[0].text, *target = m->field[1].text, *type = m->field[2].text;
        const u32 flags = (u32)m->field[3].number, changes = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
        int r = make_target(source, target, flags);

        if (r == 0 && mount(source, target, type, flags, m->field[4].text) < 0)
                r = -errno;
        /* A bind mount is made as its source is; what else it is to be takes a second call (mount(2), NOTES). */
        if (r == 0 && flags & MS_BIND && !(flags & MS_REMOUNT) && flags & changes &&
            mount(NULL, target, NULL, flags | MS_REMOUNT, NULL) < 0)
                r = -errno;
        return r < 0 ? fail(failure, -r, "mounting '", source, "' at '", target, "'", NULL) : 0;
}

int request_root(struct init *init, const struct init_message *m, struct failure *failure)
{
        const char *target = m->field[0].text;

        if (chdir(target) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
                return fail(failure, errno, "making '", target, "' the root", NULL);
        return 0;
}

/* ---- the system ---- */

/* The next random number that anybody reads depends on these (drivers/char/random.c; random(4)). */
static int add_randomness(struct init *init, const char *data, size_t n)
{
        u8 pool[sizeof(struct rand_pool_info) + 512] __attribute__((aligned(8)));
        struct rand_pool_info *info = (struct rand_pool_info *)pool;
        const int fd = openat(init->dev, "urandom", O_RDWR | O_CLOEXEC);
        int r = 0;

        if (fd < 0)
                return -errno;
        while (n && r == 0) {
                const size_t part = MIN(n, sizeof(pool) - sizeof(*info));

                memcpy(info->buf, data, part);
                info->buf_size = (int)part;
                info->entropy_count = (int)part * 8;
                r = ioctl(fd, RNDADDENTROPY, info) < 0 ? -errno : 0;
                data += part;
                n -= part;
        }
        if (r == 0 && ioctl(fd, RNDRESEEDCRNG) < 0)
                r = -errno;
        explicit_bzero(pool, sizeof(pool));
        close(fd);
        return r;
}

int request_system(struct init *init, const struct init_message *m, struct failure *failure)
{
        const char *name = m->field[0].text;
        const u64 ns = m->field[1].number;
        int r;

        if (*name && sethostname(name, m->field[0].number) < 0)
                return fail(failure, errno, "giving the machine the name '", name, "'", NULL);
        if (ns) {
                const struct timespec time = { .tv_sec = (time_t)(ns / NSEC), .tv_nsec = (long)(ns % NSEC) };

                if (clock_settime(CLOCK_REALTIME, &time) < 0)
                        return fail(failure, errno, "setting the clock", NULL);
        }
        r = m->field[2].number ? add_randomness(init, m->field[2].text, m->field[2].number) : 0;
        return r < 0 ? fail(failure, -r, "adding to the random numbers", NULL) : 0;
}

int request_sysctl(struct init *init, const struct init_message *m, struct failure *failure)
{
        const char *name = m->field[0].text;
        char path[256];
        struct text text = TEXT(path);
        int fd, r;

        text_add(&text, "sys/");
        text_add(&text, name);
        /* net.ipv4.conf.eth0/1.forwarding: whoever writes slashes writes the file's name. */
        for (char *p = path; !strchr(name, '/') && *p; p++)
                if (*p == '.')
                        *p = '/';
        if (strstr(path, ".."))
                return fail(failure, EINVAL, "setting '", name, "'", NULL);
        fd = openat(init->proc, path, O_WRONLY | O_CLOEXEC);
        r = fd < 0 ? -errno : io_write_all(fd, m->field[1].text, m->field[1].number);
        if (fd >= 0)
                close(fd);
        return r < 0 ? fail(failure, -r, "setting '", name, "' to '", m->field[1].text, "'", NULL) : 0;
}

/* ---- modules ---- */

static void load_module(char *line, bool forget)
{
        char *parameters = strchr(line, ' ');
        int fd;

        if (parameters)
                *parameters++ = '\0';
        fd = open(line, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        syscall(SYS_finit_module, fd, parameters ? parameters : "", 0); /* built in already, or not for this machine */
        close(fd);
        if (forget)
                unlink(line);
}

void load_modules(void)
{
        static char list[16384];
        struct statfs fs;
        /* The initial file system is memory: what has been used is given back. */
        const bool forget = statfs("/", &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
        char *line = list, *end;

        if (read_file_at(AT_FDCWD, MODULES, list, sizeof(list)) <= 0)
                return;
        for (; (end = strchr(line, '\n')); line = end + 1) {
                *end = '\0';
                if (*line == '/')
                        load_module(line, forget);
        }
        if (forget) {
                unlink(MODULES);
                unlink("/init");
        }
}

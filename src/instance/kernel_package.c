/* Packages are unpacked by dpkg-deb, as a process: the archive in the archive, and whatever compresses it, are its
 * business. What comes out is a tar of a stranger's, from which only files of the right names are taken, under
 * names of ours. */
#include "kernel_package.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "image/archive.h"
#include "image/io.h"

extern char **environ;

#define CLOUD_PACKAGE "linux-image-cloud-amd64"
#define FILE_MAX      (512 * MIB)
#define ALL_MAX       (2 * GIB)
#define STREAM_MAX    (8 * GIB) /* of the whole package, which may unpack to anything */
#define FILES_MAX     65536U

/* --- programs ----------------------------------------------------------------------------------------------------- */

/* Starts argv[0] in the directory @dir, writing to @out. */
static int start(const char *const *argv, int dir, int out, pid_t *ret, struct err **err)
{
        posix_spawn_file_actions_t actions;
        int r;

        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        posix_spawn_file_actions_addfchdir_np(&actions, dir);
        r = posix_spawnp(ret, argv[0], &actions, NULL, (char *const *)argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        if (r == ENOENT)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no program '%s'", argv[0]);
        return r ? err_sys(err, r, "starting '%s'", argv[0]) : 0;
}

static int wait_for(pid_t pid, const char *name, struct err **err)
{
        int status;

        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return err_sys(err, errno, "waiting for '%s'", name);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        return err_set(err, ERR_IO, EIO, "'%s' failed (%s %d)", name, WIFEXITED(status) ? "status" : "signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

/* What it prints, at most @max bytes; @ret NULL: what it prints goes to our standard error. */
static int run(const char *const *argv, int dir, size_t max, char **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        int out[2] = { -1, -1 }, r, waited;
        pid_t pid;

        if (ret && pipe2(out, O_CLOEXEC) < 0)
                return err_sys(err, errno, "starting '%s'", argv[0]);
        r = start(argv, dir, ret ? out[1] : STDERR_FILENO, &pid, err);
        closep(&out[1]);
        if (r == 0) {
                if (ret)
                        r = io_read_stream(out[0], max, &text, NULL, err);
                closep(&out[0]);
                waited = wait_for(pid, argv[0], r < 0 ? NULL : err);
                r = r < 0 ? r : waited;
        } else {
                closep(&out[0]);
        }
        if (r == 0 && ret)
                *ret = TAKE_PTR(text);
        return r;
}

/* --- unpacking ---------------------------------------------------------------------------------------------------- */

bool kernel_package_is(const void *data, size_t len)
{
        static const char magic[] = "!<arch>\ndebian-binary";

        return len >= sizeof(magic) && memcmp(data, magic, sizeof(magic) - 1) == 0;
}

struct unpacking {
        int dir, modules;
        bool has_kernel;
        unsigned files;
        u64 bytes, read;
        struct fd_source source;
};

static int next_piece(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct unpacking *u = opaque;
        int r = fd_source_next(&u->source, ret_data, ret_len, err);

        u->read += r < 0 ? 0 : *ret_len;
        return r < 0 || u->read <= STREAM_MAX ? r
                                              : err_set(err, ERR_TOO_LARGE, EFBIG, "it is too large for a kernel's");
}

/* The directory and the name that we give to a file of the package: false when it is not wanted. */
static bool place_of(struct unpacking *u, const char *path, int *ret_dir, const char **ret_name)
{
        const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;

        path += strncmp(path, "./", 2) == 0 ? 2 : 0;
        path += strncmp(path, "usr/", 4) == 0 ? 4 : 0;
        if (strncmp(path, "boot/vmlinuz-", 13) == 0 && base == path + 5) {
                *ret_dir = u->dir;
                *ret_name = PACKAGE_KERNEL;
                return true;
        }
        *ret_dir = u->modules;
        *ret_name = base;
        return strncmp(path, "lib/modules/", 12) == 0 && strlen(base) < 128 && base[0] != '.' &&
               (strcmp(base, "modules.builtin") == 0 || strstr(base, ".ko"));
}

static int unpack_file(struct unpacking *u, struct tar_reader *tar, const struct tar_entry *entry, struct err **err)
{
        _cleanup_close_ int fd = -1;
        const char *name;
        const u8 *data;
        u64 offset;
        ssize_t n;
        int dir, r;

        if (entry->type != TAR_FILE || !place_of(u, entry->path, &dir, &name))
                return 0;
        u->bytes += entry->size;
        if (entry->size > FILE_MAX || u->bytes > ALL_MAX || u->files++ == FILES_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "it is too large for a kernel's");
        /* two of a name: the modules of two kernels, or a hostile one's */
        fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0 && errno == EEXIST)
                return err_set(err, ERR_BAD_IMAGE, EEXIST, "it has '%s' twice", name);
        if (fd < 0)
                return err_sys(err, errno, "unpacking '%s'", name);
        u->has_kernel |= dir == u->dir;
        while ((n = tar_reader_data(tar, &data, &offset, err)) > 0) {
                r = io_pwrite_all(fd, data, (size_t)n, offset);
                if (r < 0)
                        return err_sys(err, -r, "unpacking '%s'", name);
        }
        return (int)n;
}

static int unpack_tar(struct unpacking *u, int fd, struct err **err)
{
        u8 buf[65536];
        _cleanup_(tar_reader_freep) struct tar_reader *tar = NULL;
        const struct tar_entry *entry;
        int r = tar_reader_new(&(struct byte_source){ next_piece, u }, &tar, err);

        u->source = (struct fd_source){ fd, buf, sizeof(buf) };
        while (r == 0 && (r = tar_reader_next(tar, &entry, err)) > 0)
                r = unpack_file(u, tar, entry, err);
        return r < 0 ? r : tar_reader_drain(tar, err);
}

int kernel_package_unpack(const char *file, int dir, struct err **err)
{
        const char *const argv[] = { "dpkg-deb", "--fsys-tarfile", file, NULL };
        struct unpacking u = { .dir = dir };
        _cleanup_close_ int modules = -1, here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), from = -1;
        int out[2], r, waited;
        pid_t pid;

        r = io_make_dir(dir, PACKAGE_MODULES, 0700, err);
        if (r == 0)
                r = io_open_dir(dir, PACKAGE_MODULES, &modules, err);
        if (r < 0)
                return r;
        u.modules = modules;
        if (here < 0 || pipe2(out, O_CLOEXEC) < 0)
                return err_sys(err, errno, "unpacking '%s'", file);
        from = out[0];
        r = start(argv, here, out[1], &pid, err);
        close(out[1]);
        if (r < 0)
                return err_hint(
                        err, r, "install dpkg, or unpack the package and import the kernel in it with --modules");
        r = unpack_tar(&u, from, err);
        closep(&from); /* a program that goes on writing ends */
        from = -1;
        waited = wait_for(pid, argv[0], r < 0 ? NULL : err);
        r = r < 0 ? r : waited;
        if (r == 0 && !u.has_kernel)
                r = err_set(err, ERR_BAD_IMAGE, ENOENT, "there is no kernel (/boot/vmlinuz-...) in it");
        return r < 0 ? err_wrap(err, r, "the package '%s'", file) : 0;
}

/* --- fetching ----------------------------------------------------------------------------------------------------- */

/* The package with the kernel itself, on which the one without a version depends. */
static int find_version(int dir, char **ret, struct err **err)
{
        const char *const argv[] = { "apt-cache", "depends", CLOUD_PACKAGE, NULL };
        static const char depends[] = "Depends: ";
        _cleanup_free_ char *text = NULL;
        const char *at;
        int r = run(argv, dir, MIB, &text, err);

        if (r < 0)
                return r;
        at = strstr(text, depends);
        if (at)
                at += sizeof(depends) - 1;
        if (!at || strncmp(at, "linux-image-", 12) != 0)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "apt knows no package " CLOUD_PACKAGE);
        *ret = strndup(at, strcspn(at, "\n "));
        return *ret ? 0 : -ENOMEM;
}

static int is_package(void *opaque, int dirfd, const char *name, struct err **err)
{
        char **ret = opaque;
        const size_t len = strlen(name);

        if (*ret || len < 4 || strcmp(name + len - 4, ".deb") != 0)
                return 0;
        *ret = strdup(name);
        return *ret ? 0 : -ENOMEM;
}

int kernel_package_fetch(int dir, char **ret_name, struct err **err)
{
        const char *const update[] = { "apt-get", "-qq", "update", NULL };
        _cleanup_free_ char *package = NULL;
        int r = find_version(dir, &package, NULL);

        if (r < 0) {
                r = run(update, dir, 0, NULL, err);
                if (r == 0)
                        r = find_version(dir, &package, err);
        }
        if (r == 0) {
                /* apt's own user could not write here */
                const char *const download[] = { "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package,
                        NULL };

                r = run(download, dir, 0, NULL, NULL);
                if (r < 0 && run(update, dir, 0, NULL, NULL) == 0) /* the lists may be old */
                        r = run(download, dir, 0, NULL, err);
        }
        if (r < 0 && err && !*err)
                r = err_set(err, ERR_IO, EIO, "apt-get could not download %s", package ? package : CLOUD_PACKAGE);
        if (r == 0)
                r = io_list_dir(dir, ".", is_package, ret_name, err);
        return r == 0 && !*ret_name ? err_set(err, ERR_IO, ENOENT, "apt-get left no package") : r;
}

/* --- installed ---------------------------------------------------------------------------------------------------- */

#define BOOT "/boot"

static bool is_for_clouds(const char *name)
{
        return strstr(name, "-cloud-") != NULL;
}

static int is_better(void *opaque, int dirfd, const char *name, struct err **err)
{
        char **best = opaque;
        _cleanup_free_ char *modules = NULL;

        if (strncmp(name, "vmlinuz-", 8) != 0 || asprintf(&modules, "/lib/modules/%s/kernel", name + 8) < 0)
                return 0;
        if (access(modules, R_OK) < 0 || faccessat(dirfd, name, R_OK, 0) < 0)
                return 0;
        if (*best &&
                (is_for_clouds(*best) != is_for_clouds(name) ? is_for_clouds(*best) : strverscmp(*best, name) >= 0))
                return 0;
        free(*best);
        *best = strdup(name);
        return *best ? 0 : -ENOMEM;
}

char *kernel_package_installed(void)
{
        _cleanup_free_ char *best = NULL;
        char *path = NULL;

        if (io_list_dir(AT_FDCWD, BOOT, is_better, &best, NULL) < 0 || !best)
                return NULL;
        return asprintf(&path, BOOT "/%s", best) < 0 ? NULL : path;
}

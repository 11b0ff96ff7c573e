/* A kernel becomes one of ours: in a directory of its own, which then takes the name's place in one step. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "cpio.h"
#include "kernel_internal.h"
#include "kernel_modules.h"
#include "kernel_package.h"
#include "vm/elf_image.h"
#include "vm/kernel_image.h"

#define RELEASE_MAX 64
#define INIT_MAX    (64 * MIB)
#define APPEND_MAX  1024

/* What of it makes starts faster is told, with figures, in docs/kernels.md. */
static const char default_append[] =
        "console=ttyS0 quiet panic=-1 8250.nr_uarts=1 i8042.noaux i8042.nokbd tsc=reliable no_timer_check "
        "random.trust_cpu=on cryptomgr.notests pci=lastbus=0";

/* --- a directory to work in --------------------------------------------------------------------------------------- */

struct scratch {
        int kernels, fd; /* fd is locked as long as we live */
        char name[32];
        bool taken; /* it has become the kernel's */
};

static void scratch_end(struct scratch *scratch)
{
        if (scratch->fd >= 0 && !scratch->taken)
                io_remove_tree(scratch->kernels, scratch->name, NULL);
        closep(&scratch->fd);
        closep(&scratch->kernels);
}

static int remove_dead(void *opaque, int dirfd, const char *name, struct err **err)
{
        _cleanup_close_ int fd = -1;

        if (strncmp(name, KERNEL_SCRATCH, strlen(KERNEL_SCRATCH)) != 0)
                return 0;
        fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
                io_remove_tree(dirfd, name, NULL);
        return 0;
}

static int scratch_begin(struct instance_host *host, struct scratch *ret, struct err **err)
{
        _cleanup_close_ int lock = -1;
        char random[17];
        int r = kernel_open_dir(host, &ret->kernels, err);

        if (r == 0)
                r = kernel_lock(ret->kernels, ".lock", &lock, err);
        if (r == 0)
                r = io_list_dir(ret->kernels, ".", remove_dead, NULL, err);
        if (r == 0)
                r = random_hex(random, sizeof(random) - 1, err);
        if (r < 0)
                return r;
        snprintf(ret->name, sizeof(ret->name), KERNEL_SCRATCH "%s", random);
        r = io_make_dir(ret->kernels, ret->name, 0700, err);
        if (r == 0)
                r = io_open_dir(ret->kernels, ret->name, &ret->fd, err);
        if (r == 0 && flock(ret->fd, LOCK_EX | LOCK_NB) < 0)
                r = err_sys(err, errno, "locking a directory for the kernel");
        return r;
}

/* --- the kernel itself -------------------------------------------------------------------------------------------- */

struct mapped {
        u8 *data;
        size_t len;
};

static void mapped_close(struct mapped *m)
{
        if (m->data)
                munmap(m->data, m->len);
}

static int map_kernel(int fd, struct mapped *ret, struct err **err)
{
        struct stat st;
        void *data;

        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "reading it");
        if (!S_ISREG(st.st_mode))
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "it is no regular file");
        if (st.st_size < 4096 || (u64)st.st_size > KERNEL_UNPACKED_MAX)
                return err_set(err, ERR_BAD_IMAGE, EFBIG, "a file of %lld bytes is no kernel", (long long)st.st_size);
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
                return err_sys(err, errno, "reading it");
        *ret = (struct mapped){ data, (size_t)st.st_size };
        return 0;
}

static bool is_release(const char *text, size_t len)
{
        static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~-";

        if (len == 0 || len > RELEASE_MAX || text[0] < '0' || text[0] > '9')
                return false;
        for (size_t i = 0; i < len; i++)
                if (!text[i] || !strchr(letters, text[i]))
                        return false;
        return true;
}

/* Linux has its banner, "Linux version RELEASE (...", in its read-only data; the first may be a format for it. */
static char *find_release(const u8 *image, size_t len)
{
        static const char banner[] = "Linux version ";
        const size_t head = sizeof(banner) - 1;
        const u8 *at = image, *end = image + len;

        while ((at = memmem(at, (size_t)(end - at), banner, head))) {
                const char *text = (const char *)at + head;
                size_t n = 0;

                while ((const u8 *)text + n < end && n <= RELEASE_MAX && text[n] != ' ')
                        n++;
                if ((const u8 *)text + n < end && is_release(text, n))
                        return strndup(text, n);
                at += head;
        }
        return NULL;
}

static int write_file(int dir, const char *name, const void *data, size_t len, struct err **err)
{
        _cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        int r = fd < 0 ? -errno : io_write_all(fd, data, len);

        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        return r < 0 ? err_sys(err, -r, "writing the kernel's '%s'", name) : 0;
}

/* A kernel as it will be started: in its file, or unpacked from it. */
struct vmlinux {
        struct mapped file;
        void *unpacked;
        const void *data;
        size_t len;
        char *release;
};

static void vmlinux_close(struct vmlinux *v)
{
        mapped_close(&v->file);
        free(v->unpacked);
        free(v->release);
}

static int check_elf(struct vmlinux *v, struct err **err)
{
        struct elf_image elf;
        int r = elf_image_parse(v->data, v->len, &elf, err);

        if (r < 0)
                return r;
        if (!elf.is_64)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "it is no 64-bit kernel");
        v->release = find_release(v->data, v->len);
        return v->release ? 0 : err_set(err, ERR_BAD_IMAGE, EINVAL, "it does not say which version of Linux it is");
}

/* Unpacks and checks the kernel @fd. */
static int vmlinux_open(int fd, struct vmlinux *v, struct err **err)
{
        int r = map_kernel(fd, &v->file, err);

        if (r < 0)
                return r;
        switch (kernel_image_kind(v->file.data, v->file.len)) {
        case KERNEL_ELF64:
                v->data = v->file.data;
                v->len = v->file.len;
                return check_elf(v, err);
        case KERNEL_BZIMAGE:
                r = kernel_image_unpack(v->file.data, v->file.len, &v->unpacked, &v->len, err);
                v->data = v->unpacked;
                return r < 0 ? r : check_elf(v, err);
        case KERNEL_MULTIBOOT:
        case KERNEL_UNKNOWN:
                break;
        }
        return err_hint(err, err_set(err, ERR_BAD_IMAGE, EINVAL, "it is no Linux kernel"),
                "it takes a bzImage (/boot/vmlinuz-...), a vmlinux, or a Debian package of one");
}

/* --- the initial RAM disk ----------------------------------------------------------------------------------------- */

static int open_init(struct instance_host *host, int *ret, struct err **err)
{
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -1;
        int r;

        if (asprintf(&path, "%s/strata-init", host->programs) < 0)
                return err_sys(err, ENOMEM, "looking for strata-init");
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
                r = err_sys(err, errno, "opening '%s'", path);
                return err_hint(err, r, "strata and strata-init must be in the same directory; `make` builds both");
        }
        *ret = TAKE_FD(fd);
        return 0;
}

static int stamp_of(int fd, char **ret, struct err **err)
{
        struct stat st;

        if (fstat(fd, &st) < 0 || asprintf(ret, "%lld bytes of %lld.%09ld", (long long)st.st_size,
                                          (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec) < 0)
                return err_sys(err, errno, "looking at strata-init");
        return 0;
}

int kernel_init_stamp(struct instance_host *host, char **ret, struct err **err)
{
        _cleanup_close_ int fd = -1;
        int r = open_init(host, &fd, err);

        return r < 0 ? r : stamp_of(fd, ret, err);
}

int kernel_make_initrd(struct instance_host *host, int dir, const char *file, char **ret_init, struct err **err)
{
        _cleanup_free_ char *init = NULL, *drivers = NULL, *stamp = NULL, *disk = NULL;
        _cleanup_close_ int fd = -1;
        size_t init_len, drivers_len, disk_len = 0;
        struct cpio cpio = { NULL, 0 };
        bool failed;
        int r = open_init(host, &fd, err);

        if (r == 0)
                r = stamp_of(fd, &stamp, err);
        if (r == 0)
                r = io_read_stream(fd, INIT_MAX, &init, &init_len, err);
        if (r == 0)
                r = io_read_file(dir, KERNEL_DRIVERS, 256 * MIB, &drivers, &drivers_len, err);
        if (r < 0)
                return err_wrap(err, r, "making the initial RAM disk");
        cpio.out = open_memstream(&disk, &disk_len);
        if (!cpio.out)
                return err_sys(err, ENOMEM, "making the initial RAM disk");
        cpio_dir(&cpio, "dev");
        cpio_char_device(&cpio, "dev/console", 0600, 5, 1);
        cpio_dir(&cpio, "proc");
        cpio_dir(&cpio, "sys");
        cpio_file(&cpio, "init", 0755, init, init_len);
        fwrite(drivers, 1, drivers_len, cpio.out);
        failed = ferror(cpio.out);
        if (fclose(cpio.out) != 0 || failed)
                return err_sys(err, ENOMEM, "making the initial RAM disk");
        r = write_file(dir, file, disk, disk_len, err);
        if (r == 0)
                *ret_init = TAKE_PTR(stamp);
        return r;
}

static int make_drivers(const struct kernel_import *import, const struct scratch *scratch, bool package,
        const char *release, struct err **err)
{
        _cleanup_free_ char *installed = NULL, *drivers = NULL;
        _cleanup_close_ int modules = -1;
        size_t len = 0;
        FILE *out;
        int r = 0;

        if (asprintf(&installed, "/lib/modules/%s", release) < 0)
                return err_sys(err, ENOMEM, "looking for modules");
        if (import->modules)
                modules = open(import->modules, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        else if (package)
                modules = openat(scratch->fd, PACKAGE_MODULES, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        else
                modules = open(installed, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (modules < 0 && (import->modules || errno != ENOENT))
                return err_sys(err, errno, "opening the directory of modules '%s'", import->modules ?: installed);
        out = open_memstream(&drivers, &len);
        if (!out)
                return err_sys(err, ENOMEM, "collecting modules");
        r = kernel_modules_write(modules, release, out, err);
        if (fclose(out) != 0 && r == 0)
                r = err_sys(err, ENOMEM, "collecting modules");
        return r < 0 ? r : write_file(scratch->fd, KERNEL_DRIVERS, drivers, len, err);
}

/* --- importing ---------------------------------------------------------------------------------------------------- */

static int write_config(const struct kernel_import *import, const struct scratch *scratch, const char *release,
        const char *init, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        json_t *json = json_pack("{s:s, s:s, s:s, s:I}", "release", release, "append", import->append ?: default_append,
                "init", init, "created", (json_int_t)time(NULL));

        text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
        json_decref(json);
        if (!text)
                return err_set(err, ERR_USAGE, EINVAL, "the command line is not UTF-8");
        return write_file(scratch->fd, KERNEL_CONFIG, text, strlen(text), err);
}

/* What was there under the name before goes by the name of our directory. */
static int exchange(struct scratch *scratch, const char *name, struct err **err)
{
        if (renameat2(scratch->kernels, scratch->name, scratch->kernels, name, RENAME_EXCHANGE) == 0)
                return 1;
        if (errno != ENOENT || renameat2(scratch->kernels, scratch->name, scratch->kernels, name, RENAME_NOREPLACE) < 0)
                return err_sys(err, errno, "putting the kernel '%s' in its place", name);
        return 0;
}

static int take_place(struct scratch *scratch, const char *name, struct err **err)
{
        _cleanup_close_ int lock = -1;
        int r = kernel_lock(scratch->kernels, ".lock", &lock, err);

        if (r == 0)
                r = exchange(scratch, name, err);
        if (r < 0)
                return r;
        if (fsync(scratch->kernels) < 0)
                return err_sys(err, errno, "putting the kernel '%s' in its place", name);
        return r > 0 ? io_remove_tree(scratch->kernels, scratch->name, err) : 0;
}

static int import_into(struct instance_host *host, const struct kernel_import *import, int fd, struct scratch *scratch,
        struct err **err)
{
        _cleanup_close_ int unpacked = -1;
        _cleanup_(vmlinux_close) struct vmlinux kernel = { .data = NULL };
        _cleanup_free_ char *init = NULL;
        char head[32];
        const ssize_t n = pread(fd, head, sizeof(head), 0);
        const bool package = n > 0 && kernel_package_is(head, (size_t)n);
        int r = 0;

        if (package) {
                r = kernel_package_unpack(import->file, scratch->fd, err);
                unpacked = openat(scratch->fd, PACKAGE_KERNEL, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
                if (r == 0 && unpacked < 0)
                        r = err_sys(err, errno, "reading the package");
        }
        if (r == 0)
                r = vmlinux_open(package ? unpacked : fd, &kernel, err);
        if (r == 0)
                r = make_drivers(import, scratch, package, kernel.release, err);
        if (r == 0)
                r = kernel_make_initrd(host, scratch->fd, KERNEL_INITRD, &init, err);
        if (r == 0)
                r = write_file(scratch->fd, KERNEL_IMAGE, kernel.data, kernel.len, err);
        if (r == 0)
                r = write_config(import, scratch, kernel.release, init, err);
        if (r == 0 && package) {
                unlinkat(scratch->fd, PACKAGE_KERNEL, 0);
                r = io_remove_tree(scratch->fd, PACKAGE_MODULES, err);
        }
        if (r == 0 && fsync(scratch->fd) < 0)
                r = err_sys(err, errno, "writing the kernel");
        return r;
}

int kernel_import(struct instance_host *host, const struct kernel_import *import, struct err **err)
{
        const char *name = import->name ?: KERNEL_DEFAULT;
        _cleanup_(scratch_end) struct scratch scratch = { -1, -1, "", false };
        _cleanup_close_ int fd = -1;
        int r = name_check(name, err);

        if (r < 0)
                return r;
        if (import->append && strlen(import->append) > APPEND_MAX)
                return err_set(err, ERR_USAGE, E2BIG, "a command line of more than %d characters", APPEND_MAX);
        fd = open(import->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0)
                return err_sys(err, errno, "opening the kernel '%s'", import->file);
        r = scratch_begin(host, &scratch, err);
        if (r < 0)
                return r;
        r = import_into(host, import, fd, &scratch, err);
        if (r < 0)
                return err_wrap(err, r, "importing the kernel '%s'", import->file);
        r = take_place(&scratch, name, err);
        scratch.taken = r == 0;
        return r;
}

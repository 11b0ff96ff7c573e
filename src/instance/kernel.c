#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "kernel_internal.h"
#include "kernel_package.h"

int kernel_open_dir(struct instance_host *host, int *ret, struct err **err)
{
        int r = io_make_dir(host->fd, DIR_KERNELS, 0700, err);

        return r < 0 ? r : io_open_dir(host->fd, DIR_KERNELS, ret, err);
}

int kernel_lock(int kernels, const char *file, int *ret, struct err **err)
{
        _cleanup_close_ int fd = openat(kernels, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return err_sys(err, errno, "opening the kernels' lock");
        while (flock(fd, LOCK_EX) < 0)
                if (errno != EINTR)
                        return err_sys(err, errno, "locking the kernels");
        *ret = TAKE_FD(fd);
        return 0;
}

struct kernel *kernel_free(struct kernel *kernel)
{
        if (!kernel)
                return NULL;
        free(kernel->name);
        free(kernel->release);
        free(kernel->image);
        free(kernel->initrd);
        free(kernel->append);
        free(kernel->created);
        free(kernel);
        return NULL;
}

/* --- reading one -------------------------------------------------------------------------------------------------- */

static int open_one(int kernels, const char *name, int *ret, struct err **err)
{
        const int fd = openat(kernels, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd >= 0 && faccessat(fd, KERNEL_CONFIG, F_OK, 0) == 0) {
                *ret = fd;
                return 0;
        }
        closep(&fd);
        return err_hint(err, err_set(err, ERR_NOT_FOUND, ENOENT, "there is no kernel '%s'", name),
                "strata kernel ls lists them, strata kernel import makes one");
}

static int read_config(int dir, json_t **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        int r = io_read_file(dir, KERNEL_CONFIG, 65536, &text, NULL, err);

        if (r < 0)
                return r;
        *ret = json_loads(text, 0, NULL);
        return *ret ? 0 : err_set(err, ERR_BAD_STATE, EBADMSG, "the kernel's '%s' is damaged", KERNEL_CONFIG);
}

static char *text_of(const json_t *config, const char *key)
{
        const char *text = json_string_value(json_object_get(config, key));

        return strdup(text ? text : "");
}

static char *time_of(const json_t *config)
{
        const time_t when = (time_t)json_integer_value(json_object_get(config, "created"));
        char text[40];
        struct tm tm;

        if (!gmtime_r(&when, &tm) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
                text[0] = '\0';
        return strdup(text);
}

static char *path_of(const struct instance_host *host, const char *name, const char *file)
{
        char *path;

        return asprintf(&path, "%s/" DIR_KERNELS "/%s/%s", host->root, name, file) < 0 ? NULL : path;
}

static u64 bytes_of(int dir)
{
        static const char *const files[] = { KERNEL_IMAGE, KERNEL_INITRD, KERNEL_DRIVERS };
        struct stat st;
        u64 bytes = 0;

        for (size_t i = 0; i < ARRAY_SIZE(files); i++)
                if (fstatat(dir, files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
                        bytes += (u64)st.st_size;
        return bytes;
}

static int describe(const struct instance_host *host, const char *name, int dir, const json_t *config,
        struct kernel **ret, struct err **err)
{
        _cleanup_(kernel_freep) struct kernel *kernel = calloc(1, sizeof(*kernel));

        if (!kernel)
                return err_sys(err, ENOMEM, "opening the kernel '%s'", name);
        kernel->name = strdup(name);
        kernel->release = text_of(config, "release");
        kernel->append = text_of(config, "append");
        kernel->image = path_of(host, name, KERNEL_IMAGE);
        kernel->initrd = path_of(host, name, KERNEL_INITRD);
        kernel->created = time_of(config);
        kernel->bytes = bytes_of(dir);
        if (!kernel->name || !kernel->release || !kernel->append || !kernel->image || !kernel->initrd ||
                !kernel->created)
                return err_sys(err, ENOMEM, "opening the kernel '%s'", name);
        *ret = TAKE_PTR(kernel);
        return 0;
}

/* --- using one ---------------------------------------------------------------------------------------------------- */

/* Under the lock: strata-init is another one than when the initial RAM disk was made. First the disk, then the
 * word for it. */
static int renew_initrd(struct instance_host *host, int dir, json_t *config, struct err **err)
{
        _cleanup_free_ char *init = NULL, *text = NULL;
        int r = kernel_make_initrd(host, dir, KERNEL_INITRD ".new", &init, err);

        if (r == 0 && renameat(dir, KERNEL_INITRD ".new", dir, KERNEL_INITRD) < 0)
                r = err_sys(err, errno, "making the initial RAM disk");
        if (r < 0)
                return r;
        json_object_set_new(config, "init", json_string(init));
        text = json_dumps(config, JSON_INDENT(2));
        return text ? io_replace_file(dir, KERNEL_CONFIG ".new", dir, KERNEL_CONFIG, text, strlen(text), err)
                    : err_sys(err, ENOMEM, "making the initial RAM disk");
}

static bool is_current(const json_t *config, const char *init)
{
        const char *made = json_string_value(json_object_get(config, "init"));

        return made && strcmp(made, init) == 0;
}

static int use(struct instance_host *host, int kernels, const char *name, struct kernel **ret, struct err **err)
{
        _cleanup_free_ char *init = NULL;
        _cleanup_close_ int dir = -1, lock = -1;
        json_t *config = NULL;
        int r = open_one(kernels, name, &dir, err);

        if (r == 0)
                r = kernel_init_stamp(host, &init, err);
        if (r == 0)
                r = read_config(dir, &config, err);
        if (r == 0 && !is_current(config, init)) {
                json_decref(config);
                config = NULL;
                r = kernel_lock(kernels, ".lock", &lock, err);
                if (r == 0)
                        r = read_config(dir, &config, err);
                if (r == 0 && !is_current(config, init))
                        r = renew_initrd(host, dir, config, err);
        }
        if (r == 0)
                r = describe(host, name, dir, config, ret, err);
        json_decref(config);
        return r < 0 ? err_wrap(err, r, "the kernel '%s'", name) : 0;
}

static bool exists(int kernels, const char *name)
{
        _cleanup_close_ int fd = -1;

        return open_one(kernels, name, &fd, NULL) == 0;
}

/* --- the default -------------------------------------------------------------------------------------------------- */

static int fetch(struct instance_host *host, int kernels, struct err **err)
{
        static const char dir_name[] = ".fetch"; /* we are the only one: see make_default */
        _cleanup_free_ char *name = NULL, *path = NULL;
        _cleanup_close_ int dir = -1;
        int r = io_remove_tree(kernels, dir_name, err);

        if (r == 0)
                r = io_make_dir(kernels, dir_name, 0755, err);
        if (r == 0)
                r = io_open_dir(kernels, dir_name, &dir, err);
        if (r == 0)
                r = kernel_package_fetch(dir, &name, err);
        if (r == 0 && asprintf(&path, "%s/" DIR_KERNELS "/%s/%s", host->root, dir_name, name) < 0)
                r = err_sys(err, ENOMEM, "fetching a kernel");
        if (r == 0)
                r = kernel_import(host, &(struct kernel_import){ .file = path }, err);
        io_remove_tree(kernels, dir_name, NULL);
        return r;
}

static int make_default(struct instance_host *host, int kernels, void (*progress)(void *opaque, const char *text),
        void *opaque, struct err **err)
{
        _cleanup_close_ int lock = -1;
        _cleanup_free_ char *installed = NULL;
        int r = kernel_lock(kernels, ".default.lock", &lock, err);

        if (r < 0 || exists(kernels, KERNEL_DEFAULT))
                return r;
        installed = kernel_package_installed();
        if (installed) {
                if (kernel_import(host, &(struct kernel_import){ .file = installed }, NULL) == 0)
                        return 0; /* else it was not made for machines */
        }
        if (progress)
                progress(opaque, "fetching a kernel for machines, once (Debian's linux-image-cloud-amd64)");
        r = fetch(host, kernels, err);
        if (r < 0) {
                r = err_wrap(err, r, "there is no kernel for machines yet, and making one failed");
                return err_hint(err, r,
                        "strata kernel import FILE takes a bzImage (with --modules DIR) or a Debian package, as of "
                        "'apt-get download linux-image-cloud-amd64'");
        }
        return 0;
}

int kernel_get(struct instance_host *host, const char *name, void (*progress)(void *opaque, const char *text),
        void *opaque, struct kernel **ret, struct err **err)
{
        _cleanup_close_ int kernels = -1;
        int r = name ? name_check(name, err) : 0;

        if (r == 0)
                r = kernel_open_dir(host, &kernels, err);
        if (r == 0 && !name && !exists(kernels, KERNEL_DEFAULT))
                r = make_default(host, kernels, progress, opaque, err);
        return r < 0 ? r : use(host, kernels, name ?: KERNEL_DEFAULT, ret, err);
}

/* --- listing, removing -------------------------------------------------------------------------------------------- */

struct names {
        char **item;
        size_t n;
};

static void names_free(struct names *names)
{
        for (size_t i = 0; i < names->n; i++)
                free(names->item[i]);
        free(names->item);
}

static int add_name(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct names *names = opaque;
        char **item;

        if (name[0] == '.' || !exists(dirfd, name))
                return 0;
        item = realloc(names->item, (names->n + 1) * sizeof(*item));
        if (!item)
                return err_sys(err, ENOMEM, "listing kernels");
        names->item = item;
        item[names->n] = strdup(name);
        return item[names->n] ? (int)(names->n++, 0) : err_sys(err, ENOMEM, "listing kernels");
}

static int by_name(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

int kernel_list(struct instance_host *host, int (*fn)(void *opaque, const struct kernel *kernel), void *opaque,
        struct err **err)
{
        _cleanup_(names_free) struct names names = { NULL, 0 };
        _cleanup_close_ int kernels = -1;
        int r = kernel_open_dir(host, &kernels, err);

        if (r == 0)
                r = io_list_dir(kernels, ".", add_name, &names, err);
        if (names.n)
                qsort(names.item, names.n, sizeof(*names.item), by_name);
        for (size_t i = 0; r == 0 && i < names.n; i++) {
                _cleanup_(kernel_freep) struct kernel *kernel = NULL;
                _cleanup_close_ int dir = -1;
                json_t *config = NULL;

                if (open_one(kernels, names.item[i], &dir, NULL) < 0)
                        continue; /* removed meanwhile */
                r = read_config(dir, &config, err);
                if (r == 0)
                        r = describe(host, names.item[i], dir, config, &kernel, err);
                json_decref(config);
                if (r == 0)
                        r = fn(opaque, kernel);
        }
        return r;
}

int kernel_remove(struct instance_host *host, const char *name, struct err **err)
{
        _cleanup_close_ int kernels = -1, lock = -1, dir = -1;
        char random[17], gone[32];
        int r = name_check(name, err);

        if (r == 0)
                r = kernel_open_dir(host, &kernels, err);
        if (r == 0)
                r = kernel_lock(kernels, ".lock", &lock, err);
        if (r == 0)
                r = open_one(kernels, name, &dir, err);
        if (r == 0)
                r = random_hex(random, sizeof(random) - 1, err);
        if (r < 0)
                return r;
        snprintf(gone, sizeof(gone), KERNEL_SCRATCH "%s", random);
        if (renameat(kernels, name, kernels, gone) < 0)
                return err_sys(err, errno, "removing the kernel '%s'", name);
        return io_remove_tree(kernels, gone, err);
}

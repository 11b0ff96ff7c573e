#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/log.h"

#define DEFAULT_ROOT "/var/lib/strata/net"

enum { JSON_MAX = 1 << 20 };

/* --- files -------------------------------------------------------------------------------------------------------- */

int net_store_lock(struct net_store *store, int operation, int *ret_fd, struct err **err)
{
        _cleanup_close_ int fd = openat(store->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return err_sys(err, errno, "opening the lock of '%s'", store->root);
        while (flock(fd, operation) < 0)
                if (errno != EINTR)
                        return err_sys(err, errno, "locking '%s'", store->root);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

void store_notice(struct net_store *store, const char *fmt, ...)
{
        char text[512];
        va_list args;

        va_start(args, fmt);
        vsnprintf(text, sizeof(text), fmt, args);
        va_end(args);
        if (store->notice)
                store->notice(store->opaque, text);
        else
                log_warn("%s", text);
}

int store_open_dir(int dirfd, const char *path, int *ret, struct err **err)
{
        int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0 && errno == ENOENT && (mkdirat(dirfd, path, 0755) == 0 || errno == EEXIST))
                fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return err_sys(err, errno, "opening the directory '%s'", path);
        *ret = fd;
        return 0;
}

static void closedirp(DIR **dir)
{
        if (*dir)
                closedir(*dir);
}

static int list_dir(int dirfd, const char *path, bool hidden,
        int (*fn)(void *opaque, int dirfd, const char *name, struct err **err), void *opaque, struct err **err)
{
        _cleanup_(closedirp) DIR *dir = NULL;
        int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), r = 0;

        if (fd < 0)
                return errno == ENOENT || errno == ENOTDIR ? 0
                                                           : err_sys(err, errno, "reading the directory '%s'", path);
        dir = fdopendir(fd);
        if (!dir) {
                close(fd);
                return err_sys(err, ENOMEM, "reading the directory '%s'", path);
        }
        while (r == 0) {
                const struct dirent *entry = readdir(dir);

                if (!entry)
                        break;
                if (entry->d_name[0] != '.' ||
                        (hidden && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0))
                        r = fn(opaque, fd, entry->d_name, err);
        }
        return r;
}

int store_list_dir(int dirfd, const char *path, int (*fn)(void *opaque, int dirfd, const char *name, struct err **err),
        void *opaque, struct err **err)
{
        return list_dir(dirfd, path, false, fn, opaque, err);
}

enum { DEPTH_MAX = 6 };

static int remove_entry(void *opaque, int dirfd, const char *name, struct err **err)
{
        const int *depth = opaque;

        if (unlinkat(dirfd, name, 0) < 0 && errno == EISDIR && *depth < DEPTH_MAX) {
                int below = *depth + 1;

                list_dir(dirfd, name, true, remove_entry, &below, NULL);
                unlinkat(dirfd, name, AT_REMOVEDIR);
        }
        return 0;
}

void store_remove_dir(int dirfd, const char *path)
{
        int depth = 1;

        list_dir(dirfd, path, true, remove_entry, &depth, NULL);
        unlinkat(dirfd, path, AT_REMOVEDIR);
}

static int remove_hidden(void *opaque, int dirfd, const char *name, struct err **err)
{
        if (name[0] == '.')
                unlinkat(dirfd, name, 0);
        return 0;
}

void store_remove_temporary(int dirfd, const char *path)
{
        list_dir(dirfd, path, true, remove_hidden, NULL, NULL);
}

int store_write_json(int dirfd, const char *path, const json_t *json, bool durable, struct err **err)
{
        _cleanup_close_ int fd = -1;
        _cleanup_free_ char *text = NULL;
        char tmp[NAME_MAX + 1];
        int r = 0;

        /* hidden from listings; of this process, so that it is no other's */
        if (snprintf(tmp, sizeof(tmp), ".%d.%.200s", (int)getpid(), path) >= (int)sizeof(tmp))
                return err_sys(err, ENAMETOOLONG, "writing '%s'", path);
        fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return err_sys(err, errno, "writing '%s'", path);
        text = json ? json_dumps(json, JSON_COMPACT) : NULL; /* json_dumpfd would write it in a hundred pieces */
        if (!text)
                r = -ENOMEM;
        else if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
                r = -EIO;
        else if (durable && fsync(fd) < 0)
                r = -errno;
        else if (renameat(dirfd, tmp, dirfd, path) < 0)
                r = -errno;
        else if (durable && fsync(dirfd) < 0)
                return err_sys(err, errno, "writing '%s'", path);
        if (r < 0) {
                unlinkat(dirfd, tmp, 0);
                return err_sys(err, -r, "writing '%s'", path);
        }
        return 0;
}

int store_read_json(int dirfd, const char *path, json_t **ret, struct err **err)
{
        _cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_free_ char *text = NULL;
        json_error_t error;
        struct stat st;
        json_t *json;
        ssize_t n;

        if (fd < 0)
                return errno == ENOENT ? -ENOENT : err_sys(err, errno, "reading '%s'", path);
        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "reading '%s'", path);
        if (st.st_size > JSON_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "'%s' is too large", path);
        text = malloc((size_t)st.st_size + 1);
        n = text ? read(fd, text, (size_t)st.st_size) : -1;
        if (n < 0)
                return err_sys(err, text ? errno : ENOMEM, "reading '%s'", path);
        json = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error);
        if (!json)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' is damaged: %s", path, error.text);
        *ret = json;
        return 0;
}

int store_read_link(int dirfd, const char *path, char *buf, size_t size)
{
        const ssize_t n = readlinkat(dirfd, path, buf, size - 1);

        if (n < 0)
                return -errno;
        buf[n] = '\0';
        return (int)n;
}

bool store_is_name(const char *text, size_t max)
{
        static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
        const size_t n = strlen(text);

        return n > 0 && n <= max && strspn(text, letters) == n && !strchr("_.-", text[0]);
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

/* Whether this process has CAP_NET_ADMIN over the network namespace that it is in. */
static bool may_administer_network(void)
{
        struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };
        _cleanup_close_ int net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), owner = -1;
        struct stat a, b;

        if (syscall(SYS_capget, &head, data) < 0 || !(data[0].effective & BIT(CAP_NET_ADMIN)) || net < 0)
                return false;
        owner = ioctl(net, NS_GET_USERNS);
        /* an owner that we may not see is above us; one that we see and are not in is below: neither is ours */
        return owner >= 0 && fstat(owner, &a) == 0 && stat("/proc/self/ns/user", &b) == 0 && a.st_ino == b.st_ino;
}

static char *default_root(void)
{
        const char *root = getenv("STRATA_NET_ROOT"), *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
        char *text = NULL;
        int r;

        if (root && *root)
                return strdup(root);
        if (geteuid() == 0)
                r = asprintf(&text, "%s", DEFAULT_ROOT);
        else if (data && *data == '/')
                r = asprintf(&text, "%s/strata/net", data);
        else
                r = asprintf(&text, "%s/.local/share/strata/net", home && *home ? home : "");
        return r < 0 ? NULL : text;
}

static int make_path(const char *path, struct err **err)
{
        char *copy = strdup(path);
        int r = 0;

        for (char *p = copy; p && r == 0;) {
                p = strchr(p + 1, '/');
                if (p)
                        *p = '\0';
                if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                        r = err_sys(err, errno, "making the directory '%s'", copy);
                if (p)
                        *p = '/';
        }
        free(copy);
        return copy ? r : err_sys(err, ENOMEM, "opening '%s'", path);
}

/* "BOOT-NETNS": what is in the kernel is gone in another boot, and not to be seen from another network namespace. */
int store_run_name(char *ret, size_t size, struct err **err)
{
        _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        struct stat st;
        char boot[9] = "";

        if (fd < 0 || read(fd, boot, 8) != 8 || stat("/proc/self/ns/net", &st) < 0)
                return err_sys(err, errno, "reading what boot and network namespace this is");
        snprintf(ret, size, "%s-%lu", boot, (unsigned long)st.st_ino);
        return 0;
}

int store_open_run(struct net_store *store, const char *name, int *ret, struct err **err)
{
        static const char *const dirs[] = { DIR_BRIDGES, DIR_ENDPOINTS, DIR_ADDRESSES, DIR_NAMES, DIR_LEAVING,
                DIR_HELPERS };
        _cleanup_close_ int run = -1;
        char path[64];
        int r;

        snprintf(path, sizeof(path), "run/%.58s", name);
        *ret = openat(store->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (*ret >= 0 && faccessat(*ret, DIR_HELPERS, F_OK, 0) == 0)
                return 0;
        closep(ret);
        *ret = -1;
        if (mkdirat(store->fd, "run", 0755) < 0 && errno != EEXIST)
                return err_sys(err, errno, "making '%s/run'", store->root);
        r = store_open_dir(store->fd, path, &run, err);
        for (size_t i = 0; i < ARRAY_SIZE(dirs) && r == 0; i++)
                if (mkdirat(run, dirs[i], 0755) < 0 && errno != EEXIST)
                        r = err_sys(err, errno, "making '%s/%s'", path, dirs[i]);
        if (r == 0)
                *ret = TAKE_FD(run);
        return r;
}

static int one_is_there(void *opaque, int dirfd, const char *name, struct err **err)
{
        return 1;
}

bool store_is_empty(int dirfd, const char *path)
{
        return store_list_dir(dirfd, path, one_is_there, NULL, NULL) == 0;
}

/* What this store calls things that everybody on the host can see. */
static void choose_kernel_names(struct net_store *store)
{
        u32 hash = 2166136261U; /* FNV-1a */

        for (const char *p = store->root; *p; p++)
                hash = (hash ^ (u8)*p) * 16777619U;
        if (strcmp(store->root, DEFAULT_ROOT) == 0) {
                snprintf(store->table, sizeof(store->table), "strata");
                snprintf(store->bridge, sizeof(store->bridge), "strata0");
        } else {
                snprintf(store->table, sizeof(store->table), "strata_%08x", hash);
                snprintf(store->bridge, sizeof(store->bridge), BRIDGE_PREFIX "%08x", hash);
        }
}

int net_store_open(const struct net_store_options *options, struct net_store **ret, struct err **err)
{
        _cleanup_(net_store_closep) struct net_store *store = calloc(1, sizeof(*store));
        char run_name[64];
        int r;

        if (!store)
                return err_sys(err, ENOMEM, "opening the networks");
        store->fd = store->run = -1;
        store->root = options && options->root ? strdup(options->root) : default_root();
        if (!store->root)
                return err_sys(err, ENOMEM, "opening the networks");
        if (options) {
                store->notice = options->notice;
                store->opaque = options->opaque;
        }
        choose_kernel_names(store);
        store->rootless = !may_administer_network();
        store->fd = open(store->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->fd < 0 && errno == ENOENT) {
                r = make_path(store->root, err);
                if (r < 0)
                        return r;
                store->fd = open(store->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (store->fd >= 0)
                        fchmod(store->fd, 0700);
        }
        if (store->fd < 0)
                return err_sys(err, errno, "opening the networks in '%s'", store->root);
        if (mkdirat(store->fd, DIR_NETWORKS, 0755) < 0 && errno != EEXIST)
                return err_sys(err, errno, "making '%s/" DIR_NETWORKS "'", store->root);
        r = store_run_name(run_name, sizeof(run_name), err);
        if (r == 0)
                r = store_open_run(store, run_name, &store->run, err);
        if (r < 0)
                return err_wrap(err, r, "opening the networks in '%s'", store->root);
        *ret = TAKE_PTR(store);
        return 0;
}

struct net_store *net_store_close(struct net_store *store)
{
        if (!store)
                return NULL;
        closep(&store->run);
        closep(&store->fd);
        free(store->root);
        free(store);
        return NULL;
}

const char *net_store_root(const struct net_store *store)
{
        return store->root;
}


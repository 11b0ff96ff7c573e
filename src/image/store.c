#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#define STORE_FILE      "store.json"
#define STORE_VERSION   1
#define NEWBORN_SECONDS 60 /* a lease that is older has been locked by its owner, who is dead if it is not locked now */

/* --- locks ----------------------------------------------------------------------------------------------------------- */

static int lock_fd(int fd, int operation)
{
        while (flock(fd, operation) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

int store_lock(struct image_store *store, bool exclusive, int *ret_fd, struct err **err)
{
        _cleanup_close_ int fd = openat(store->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        int r;

        if (fd < 0)
                return err_sys(err, errno, "opening the lock of '%s'", store->root);
        r = lock_fd(fd, exclusive ? LOCK_EX : LOCK_SH);
        if (r < 0)
                return err_sys(err, -r, "locking '%s'", store->root);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* --- leases ---------------------------------------------------------------------------------------------------------- */

/* A lease gets its name when it is locked, so that nobody takes it for a dead one's: it has none before, or (on file
 * systems without O_TMPFILE) one with a dot, which only age makes suspicious. */
static int make_locked_file(struct image_store *store, const char *name, int *ret)
{
        _cleanup_close_ int fd = openat(store->fd, DIR_LEASES, O_TMPFILE | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
        const bool nameless = fd >= 0;
        char path[64], newborn[64];
        int r;

        snprintf(newborn, sizeof(newborn), DIR_LEASES "/.%s", name);
        snprintf(path, sizeof(path), DIR_LEASES "/%s", name);
        if (fd < 0)
                fd = openat(store->fd, newborn, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        r = lock_fd(fd, LOCK_EX);
        if (r == 0 && nameless && linkat(AT_FDCWD, io_fd_path(fd).text, store->fd, path, AT_SYMLINK_FOLLOW) < 0)
                r = -errno;
        if (r == 0 && !nameless && renameat(store->fd, newborn, store->fd, path) < 0)
                r = -errno;
        if (r < 0) {
                unlinkat(store->fd, newborn, 0);
                return r;
        }
        *ret = TAKE_FD(fd);
        return 0;
}

int lease_open(struct image_store *store, struct lease **ret, struct err **err)
{
        _cleanup_(lease_closep) struct lease *lease = calloc(1, sizeof(*lease));
        char path[64];
        u64 random = 0;
        int r;

        if (!lease)
                return err_sys(err, ENOMEM, "opening a lease");
        lease->fd = lease->tmp_fd = -1;
        lease->store = store;
        if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return err_sys(err, errno, "opening a lease");
        snprintf(lease->name, sizeof(lease->name), "%d-%016lx", (int)getpid(), (unsigned long)random);

        r = make_locked_file(store, lease->name, &lease->fd);
        if (r < 0)
                return err_sys(err, -r, "making a lease in '%s'", store->root);
        snprintf(path, sizeof(path), DIR_TMP "/%s", lease->name);
        r = io_make_dir(store->fd, path, 0700, err);
        if (r == 0)
                r = io_open_dir(store->fd, path, &lease->tmp_fd, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(lease);
        return 0;
}

int lease_hold(struct lease *lease, const struct digest *digest, struct err **err)
{
        _cleanup_close_ int lock = -1;
        char line[DIGEST_HEX + 2];
        int r = store_lock(lease->store, false, &lock, err);

        if (r < 0)
                return r;
        snprintf(line, sizeof(line), "%s\n", digest_hex(digest));
        r = io_write_all(lease->fd, line, DIGEST_HEX + 1);
        return r < 0 ? err_sys(err, -r, "writing a lease in '%s'", lease->store->root) : 0;
}

struct lease_name lease_new_name(struct lease *lease)
{
        struct lease_name name;

        snprintf(name.text, sizeof(name.text), "%u", __atomic_fetch_add(&lease->serial, 1, __ATOMIC_RELAXED));
        return name;
}

static void lease_drop(struct image_store *store, const char *name)
{
        char path[NAME_MAX + 16];

        if (snprintf(path, sizeof(path), DIR_TMP "/%s", name[0] == '.' ? name + 1 : name) < (int)sizeof(path))
                io_remove_tree(store->fd, path, NULL);
        if (snprintf(path, sizeof(path), DIR_LEASES "/%s", name) < (int)sizeof(path))
                unlinkat(store->fd, path, 0);
}

struct lease *lease_close(struct lease *lease)
{
        if (!lease)
                return NULL;
        closep(&lease->tmp_fd);
        if (lease->fd >= 0) {
                lease_drop(lease->store, lease->name);
                close(lease->fd);
        }
        free(lease);
        return NULL;
}

/* Locks a lease if its owner is dead: returns its descriptor, or -1. */
static int take_dead_lease(int dirfd, const char *name)
{
        _cleanup_close_ int fd = openat(dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        struct stat st;

        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0)
                return -1;
        if (name[0] == '.' && time(NULL) - st.st_mtim.tv_sec < NEWBORN_SECONDS)
                return -1;
        /* Its name may have gone while we waited for it: then somebody else cleans up. */
        return st.st_nlink > 0 ? TAKE_FD(fd) : -1;
}

static int clean_lease(void *opaque, int dirfd, const char *name, struct err **err)
{
        _cleanup_close_ int fd = take_dead_lease(dirfd, name);

        if (fd >= 0)
                lease_drop(opaque, name);
        return 0;
}

void store_clean_up(struct image_store *store)
{
        io_list_dir(store->fd, DIR_LEASES, clean_lease, store, NULL);
}

static int collect_lease(void *opaque, int dirfd, const char *name, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int dead = -1;
        char *line, *rest;

        if (name[0] == '.')
                return 0;
        dead = take_dead_lease(dirfd, name);
        if (dead >= 0)
                return 0;
        if (io_read_file(dirfd, name, 64 * MIB, &text, NULL, NULL) < 0)
                return 0; /* closed meanwhile */
        rest = text;
        while ((line = strsep(&rest, "\n")))
                if (strlen(line) == DIGEST_HEX && json_object_set_new(opaque, line, json_true()) < 0)
                        return err_sys(err, ENOMEM, "reading leases");
        return 0;
}

int lease_collect(struct image_store *store, json_t *held, struct err **err)
{
        return io_list_dir(store->fd, DIR_LEASES, collect_lease, held, err);
}

/* --- opening --------------------------------------------------------------------------------------------------------- */

/* Which extended attributes overlayfs can use here: trusted.* needs the powers of the first user namespace. */
static int probe_xattr(struct image_store *store, bool *ret_user, struct err **err)
{
        _cleanup_close_ int fd = -1;
        int r = io_open_dir(store->fd, DIR_TMP, &fd, err);

        if (r < 0)
                return r;
        for (int user = 0; user <= 1; user++) {
                const char *name = user ? "user.overlay.opaque" : "trusted.overlay.opaque";

                if (fsetxattr(fd, name, "x", 1, 0) == 0) {
                        fremovexattr(fd, name);
                        *ret_user = user;
                        return 0;
                }
        }
        r = err_set(
                err, ERR_UNSUPPORTED, EOPNOTSUPP, "the file system of '%s' has no extended attributes", store->root);
        return err_hint(err, r, "put the store on ext4, xfs or btrfs: --root DIR or STRATA_IMAGE_ROOT");
}

static int make_store(struct image_store *store, struct err **err)
{
        static const char *const dirs[] = { "blobs", DIR_BLOBS, DIR_NAMES, DIR_IMAGES, DIR_LAYERS, DIR_PARTIAL,
                DIR_LEASES, DIR_TMP, DIR_INSTANCES, DIR_UNSYNCED };
        static const char layout[] = "{\"imageLayoutVersion\": \"1.0.0\"}\n";
        _cleanup_close_ int lock = -1;
        char text[80];
        bool user = false;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
                r = io_make_dir(store->fd, dirs[i], 0700, err);
                if (r < 0)
                        return r;
        }
        r = store_lock(store, true, &lock, err);
        if (r < 0)
                return r;
        if (faccessat(store->fd, STORE_FILE, F_OK, 0) == 0)
                return 0; /* somebody else was first */
        r = probe_xattr(store, &user, err);
        if (r < 0)
                return r;
        r = io_replace_file(store->fd, DIR_TMP "/layout", store->fd, "oci-layout", layout, sizeof(layout) - 1, err);
        if (r < 0)
                return r;
        snprintf(text, sizeof(text), "{\"version\": %d, \"overlay\": \"%s\"}\n", STORE_VERSION,
                user ? "user" : "trusted");
        return io_replace_file(store->fd, DIR_TMP "/store", store->fd, STORE_FILE, text, strlen(text), err);
}

static int read_store(struct image_store *store, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        size_t len;
        json_int_t version;
        int r = io_read_file(store->fd, STORE_FILE, 4096, &text, &len, err);

        if (r == 0)
                r = json_read(text, len, STORE_FILE, &json, err);
        if (r < 0)
                return r;
        version = json_integer_value(json_object_get(json, "version"));
        if (version != STORE_VERSION)
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP,
                        "the store '%s' is of version %lld; this program knows %d", store->root, (long long)version,
                        STORE_VERSION);
        store->user_xattr = strcmp(json_text(json, "overlay"), "user") == 0;
        return 0;
}

/* One line "0 uid 1" in the map, or not root at all: no other owner can be given to a file. */
static bool has_one_user(void)
{
        unsigned long inside, outside, count;
        _cleanup_fclose_ FILE *map = NULL;

        if (geteuid() != 0)
                return true;
        map = fopen("/proc/self/uid_map", "re");
        return map && fscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && count == 1 &&
               fscanf(map, "%lu %lu %lu", &inside, &outside, &count) != 3;
}

/* Whether we are the machine's root, and not one of a user namespace of a user. */
static bool is_real_root(void)
{
        unsigned long inside, outside;
        _cleanup_fclose_ FILE *map = NULL;

        if (geteuid() != 0)
                return false;
        map = fopen("/proc/self/uid_map", "re");
        return !map || fscanf(map, "%lu %lu", &inside, &outside) != 2 || outside == 0;
}

static char *default_root(void)
{
        const char *root = getenv("STRATA_IMAGE_ROOT"), *all = getenv("STRATA_ROOT"), *data = getenv("XDG_DATA_HOME"),
                   *home = getenv("HOME");
        char *path = NULL;
        int n;

        if (root && root[0])
                return strdup(root);
        if (all && all[0]) /* of instances, which have their images in it */
                return asprintf(&path, "%s/images", all) < 0 ? NULL : path;
        if (is_real_root())
                return strdup("/var/lib/strata/images");
        if (data && data[0] == '/')
                n = asprintf(&path, "%s/strata/images", data);
        else
                n = asprintf(&path, "%s/.local/share/strata/images", home && home[0] ? home : "/");
        return n < 0 ? NULL : path;
}

int image_store_open(const struct image_store_options *options, struct image_store **ret, struct err **err)
{
        _cleanup_(image_store_closep) struct image_store *store = calloc(1, sizeof(*store));
        _cleanup_free_ char *root = NULL;
        int r;

        if (!store)
                return err_sys(err, ENOMEM, "opening the image store");
        store->fd = -1;
        root = options && options->root ? strdup(options->root) : default_root();
        if (!root)
                return err_sys(err, ENOMEM, "opening the image store");
        store->fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->fd < 0 && errno == ENOENT) {
                r = io_make_path(root, 0700, err);
                if (r < 0)
                        return err_wrap(err, r, "making the image store '%s'", root);
                store->fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        }
        store->root = store->fd < 0 ? NULL : realpath(root, NULL);
        if (!store->root)
                return err_sys(err, errno, "opening the image store '%s'", root);
        if (faccessat(store->fd, STORE_FILE, F_OK, 0) < 0) {
                r = make_store(store, err);
                if (r < 0)
                        return err_wrap(err, r, "making the image store '%s'", store->root);
        }
        r = read_store(store, err);
        if (r < 0)
                return err_wrap(err, r, "opening the image store '%s'", store->root);
        store->squash_owners = has_one_user();
        store_clean_up(store);
        *ret = TAKE_PTR(store);
        return 0;
}

struct image_store *image_store_close(struct image_store *store)
{
        if (!store)
                return NULL;
        closep(&store->fd);
        free(store->root);
        free(store);
        return NULL;
}

const char *image_store_root(const struct image_store *store)
{
        return store->root;
}

/* Instances: instances/ID with the image they pin, a writable layer, and a place to mount. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "implied.h"
#include "instance.h"
#include "overlay.h"

#define INSTANCE_ID_MAX 128
#define INSTANCE_FILE   "image.json"
#define DIR_EMPTY       "empty" /* and a digit */

struct instance_path {
        char text[sizeof(DIR_INSTANCES) + 1 + INSTANCE_ID_MAX + 16];
};

static struct instance_path instance_path(const char *id, const char *file)
{
        struct instance_path path;

        snprintf(path.text, sizeof(path.text), DIR_INSTANCES "/%s%s%s", id, file[0] ? "/" : "", file);
        return path;
}

static int check_id(const char *id, struct err **err)
{
        size_t n = 0;

        for (; id[n]; n++)
                if (!isalnum((unsigned char)id[n]) && !(n > 0 && strchr("_.-", id[n])))
                        break;
        if (n == 0 || id[n] || n > INSTANCE_ID_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "'%.100s' is not an instance's id", id);
        return 0;
}

static int read_key(struct image_store *store, const char *id, struct record_key *ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        struct record_key key;
        size_t len;
        int r = check_id(id, err);

        if (r < 0)
                return r;
        if (faccessat(store->fd, instance_path(id, "").text, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no instance '%s'", id);
        r = io_read_file(store->fd, instance_path(id, INSTANCE_FILE).text, 4096, &text, &len, err);
        if (r == 0)
                r = json_read(text, len, INSTANCE_FILE, &json, err);
        if (r == 0)
                r = digest_parse(json_text(json, "id"), &key.id, err);
        if (r == 0)
                r = digest_parse(json_text(json, "manifest"), &key.manifest, err);
        if (r < 0)
                return err_wrap(err, r, "instance '%s'", id);
        *ret = key;
        return 0;
}

int image_instance_image(struct image_store *store, const char *id, struct image **ret, struct err **err)
{
        struct record_key key;
        struct image *image;
        int r = read_key(store, id, &key, err);

        if (r == 0)
                r = image_read(store, &key.manifest, false, &image, err);
        if (r < 0)
                return r;
        *ret = image;
        return image_set_name(image, key.id.text, err);
}

/* The root of an overlay looks like its upper directory: that has to look like the image's root. */
static int copy_root_attributes(
        struct image_store *store, const struct image *image, int dirfd, const char *upper, struct err **err)
{
        const size_t n = image->config.n_diff_ids;
        _cleanup_free_ char *top = n > 0 ? image_layer_path(store, image, n - 1) : NULL;
        struct stat st;

        if (n == 0)
                return 0;
        if (!top || stat(top, &st) < 0)
                return err_sys(err, top ? errno : ENOMEM, "looking at the image's root");
        if ((!store->squash_owners && fchownat(dirfd, upper, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0) ||
                fchmodat(dirfd, upper, st.st_mode & 07777, 0) < 0)
                return err_sys(err, errno, "preparing the writable layer");
        return 0;
}

static int make_instance(struct lease *lease, const struct image *image, const char *dir, struct err **err)
{
        static const char *const parts[] = { "upper", "work", "rootfs" };
        _cleanup_json_ json_t *json = json_pack("{s:s, s:s}", "id", image->id.text, "manifest", image->digest.text);
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        _cleanup_close_ int fd = -1, file = -1, upper = -1;
        int r = text ? io_make_dir(lease->tmp_fd, dir, 0700, err) : err_sys(err, ENOMEM, "making an instance");

        if (r == 0)
                r = io_open_dir(lease->tmp_fd, dir, &fd, err);
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(parts); i++)
                r = io_make_dir(fd, parts[i], 0755, err);
        if (r < 0)
                return r;
        file = openat(fd, INSTANCE_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        r = file < 0 ? -errno : io_write_all(file, text, strlen(text));
        if (r < 0)
                return err_sys(err, -r, "making an instance");
        r = copy_root_attributes(lease->store, image, fd, "upper", err);
        if (r == 0)
                r = io_open_dir(fd, "upper", &upper, err);
        if (r < 0)
                return r;
        return implied_repair(lease->store, image->config.diff_ids, image->config.n_diff_ids, upper, err);
}

int image_instance_create(struct image_store *store, const struct image *image, const char *id, struct err **err)
{
        const struct record_key key = { image->id, image->digest };
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_close_ int lock = -1;
        struct lease_name dir;
        int r = check_id(id, err);

        if (r == 0)
                r = lease_open(store, &lease, err);
        if (r < 0)
                return r;
        dir = lease_new_name(lease);
        r = make_instance(lease, image, dir.text, err);
        if (r == 0)
                r = store_lock(store, false, &lock, err);
        if (r < 0)
                return r;
        if (!record_exists(store, &key))
                return err_set(err, ERR_NOT_FOUND, ENOENT, "the image %s was removed", image->id.text);
        if (renameat2(lease->tmp_fd, dir.text, store->fd, instance_path(id, "").text, RENAME_NOREPLACE) < 0) {
                if (errno == EEXIST)
                        return err_set(err, ERR_BUSY, EEXIST, "there is already an instance '%s'", id);
                return err_sys(err, errno, "making instance '%s'", id);
        }
        return 0;
}

/* --- mounts ------------------------------------------------------------------------------------------------------------ */

void instance_free_paths(char ***strings)
{
        for (char **s = *strings; s && *s; s++)
                free(*s);
        free(*strings);
}

static bool is_above(const struct digest *diff_ids, size_t n, size_t i)
{
        for (size_t j = i + 1; j < n; j++)
                if (digest_equal(&diff_ids[j], &diff_ids[i]))
                        return true;
        return false;
}

int instance_lower_paths(struct image_store *store, const struct digest *diff_ids, size_t n_layers, bool read_only,
        char ***ret, size_t *ret_n, struct err **err)
{
        _cleanup_(instance_free_paths) char **paths = calloc(n_layers + 3, sizeof(*paths));
        const size_t least = read_only ? 2 : 1;
        char name[sizeof(DIR_EMPTY) + 2];
        size_t n = 0;
        int r;

        if (!paths)
                return err_sys(err, ENOMEM, "mounting an image");
        for (size_t i = n_layers; i-- > 0;) {
                /* Overlayfs refuses a directory that is there twice; what the upper one has hides the lower one anyway. */
                if (is_above(diff_ids, n_layers, i))
                        continue;
                if (asprintf(&paths[n], "%s/" DIR_LAYERS "/%s/diff", store->root, digest_hex(&diff_ids[i])) < 0) {
                        paths[n] = NULL;
                        return err_sys(err, ENOMEM, "mounting an image");
                }
                n++;
        }
        for (; n < least; n++) {
                snprintf(name, sizeof(name), DIR_EMPTY "%zu", n & 7);
                r = io_make_dir(store->fd, name, 0755, err);
                if (r < 0)
                        return r;
                if (asprintf(&paths[n], "%s/%s", store->root, name) < 0) {
                        paths[n] = NULL;
                        return err_sys(err, ENOMEM, "mounting an image");
                }
        }
        *ret_n = n;
        *ret = TAKE_PTR(paths);
        return 0;
}

int instance_open_upper(struct image_store *store, const char *id, int *ret, struct err **err)
{
        int r = check_id(id, err);

        return r < 0 ? r : io_open_dir(store->fd, instance_path(id, "upper").text, ret, err);
}

/* A layer that a power failure took is unpacked again. */
static int ensure_layers(struct image_store *store, const struct image *image, struct err **err)
{
        _cleanup_(lease_closep) struct lease *lease = NULL;
        int r = 0;

        for (size_t i = 0; r == 0 && i < image->config.n_diff_ids; i++) {
                if (layer_exists(store, &image->config.diff_ids[i]))
                        continue;
                if (!lease)
                        r = lease_open(store, &lease, err);
                if (r == 0)
                        r = layer_ensure(lease, &image->manifest.layers[i], &image->config.diff_ids[i], NULL, err);
        }
        return r;
}

int image_instance_mount(struct image_store *store, const char *id, unsigned flags, int *ret_mount_fd, struct err **err)
{
        return image_instance_mount_shifted(store, id, flags, NULL, NULL, ret_mount_fd, err);
}

int image_instance_mount_shifted(struct image_store *store, const char *id, unsigned flags, const char *uids,
        const char *gids, int *ret_mount_fd, struct err **err)
{
        const bool read_only = flags & IMAGE_MOUNT_READ_ONLY;
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_(instance_free_paths) char **lower = NULL;
        _cleanup_free_ char *upper = NULL, *work = NULL, *rootfs = NULL;
        struct overlay overlay = { .user_xattr = store->user_xattr,
                .is_volatile = flags & IMAGE_MOUNT_VOLATILE,
                .shift_uids = uids,
                .shift_gids = gids };
        int r = image_instance_image(store, id, &image, err);

        if (r == 0)
                r = ensure_layers(store, image, err);
        if (r == 0)
                r = instance_lower_paths(store, image->config.diff_ids, image->config.n_diff_ids, read_only, &lower,
                        &overlay.n_lower, err);
        if (r < 0)
                return err_wrap(err, r, "mounting instance '%s'", id);
        if (asprintf(&upper, "%s/%s", store->root, instance_path(id, "upper").text) < 0 ||
                asprintf(&work, "%s/%s", store->root, instance_path(id, "work").text) < 0 ||
                asprintf(&rootfs, "%s/%s", store->root, instance_path(id, "rootfs").text) < 0)
                return err_sys(err, ENOMEM, "mounting instance '%s'", id);
        overlay.lower = (const char *const *)lower;
        overlay.upper = read_only ? NULL : upper;
        overlay.work = read_only ? NULL : work;
        overlay.fuse_target = rootfs;
        r = overlay_mount(&overlay, ret_mount_fd, err);
        return r < 0 ? err_wrap(err, r, "mounting instance '%s'", id) : 0;
}

int image_instance_attach(struct image_store *store, const char *id, unsigned flags, char **ret_path, struct err **err)
{
        _cleanup_close_ int fd = -1;
        _cleanup_free_ char *path = NULL;
        int r = image_instance_mount(store, id, flags, &fd, err);

        if (r < 0)
                return r;
        if (asprintf(&path, "%s/%s", store->root, instance_path(id, "rootfs").text) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "mounting instance '%s'", id);
        }
        if (syscall(SYS_move_mount, fd, "", AT_FDCWD, path, 4 /* MOVE_MOUNT_F_EMPTY_PATH */) < 0)
                return err_sys(err, errno, "attaching instance '%s' at '%s'", id, path);
        *ret_path = TAKE_PTR(path);
        return 0;
}

int image_instance_detach(struct image_store *store, const char *id, struct err **err)
{
        _cleanup_free_ char *path = NULL;
        int r = check_id(id, err);

        if (r < 0)
                return r;
        if (asprintf(&path, "%s/%s", store->root, instance_path(id, "rootfs").text) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "unmounting instance '%s'", id);
        }
        while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) /* however often it was attached */
                ;
        return errno == EINVAL || errno == ENOENT ? 0 : err_sys(err, errno, "unmounting instance '%s'", id);
}

int image_instance_remove(struct image_store *store, const char *id, struct err **err)
{
        _cleanup_(lease_closep) struct lease *lease = NULL;
        int r = image_instance_detach(store, id, err);

        if (r == 0)
                r = lease_open(store, &lease, err);
        if (r < 0)
                return r;
        /* Gone for everybody at once; the files go with the lease. */
        if (renameat(store->fd, instance_path(id, "").text, lease->tmp_fd, lease_new_name(lease).text) < 0 &&
                errno != ENOENT)
                return err_sys(err, errno, "removing instance '%s'", id);
        return 0;
}

/* --- listing ----------------------------------------------------------------------------------------------------------- */

struct instance_listing {
        struct image_store *store;
        int (*fn)(void *opaque, const char *id, const struct record_key *key, struct err **err);
        void *opaque;
};

static int list_instance(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct instance_listing *l = opaque;
        struct record_key key;

        return read_key(l->store, file, &key, NULL) < 0 ? 0 : l->fn(l->opaque, file, &key, err);
}

int pin_list(struct image_store *store,
        int (*fn)(void *opaque, const char *id, const struct record_key *key, struct err **err), void *opaque,
        struct err **err)
{
        struct instance_listing l = { store, fn, opaque };

        return io_list_dir(store->fd, DIR_INSTANCES, list_instance, &l, err);
}

struct public_listing {
        int (*fn)(void *opaque, const char *id, const char *image_digest);
        void *opaque;
};

static int list_public(void *opaque, const char *id, const struct record_key *key, struct err **err)
{
        struct public_listing *l = opaque;

        return l->fn(l->opaque, id, key->manifest.text);
}

int image_instance_list(struct image_store *store, int (*fn)(void *opaque, const char *id, const char *image_digest),
        void *opaque, struct err **err)
{
        struct public_listing l = { fn, opaque };

        return pin_list(store, list_public, &l, err);
}

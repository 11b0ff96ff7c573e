#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

struct blob_path {
        char text[sizeof(DIR_BLOBS) + 1 + DIGEST_HEX];
};

static struct blob_path blob_path(const struct digest *digest)
{
        struct blob_path path;

        snprintf(path.text, sizeof(path.text), DIR_BLOBS "/%s", digest_hex(digest));
        return path;
}

bool blob_exists(struct image_store *store, const struct digest *digest, u64 *ret_size)
{
        struct stat st;

        if (fstatat(store->fd, blob_path(digest).text, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
                return false;
        if (ret_size)
                *ret_size = (u64)st.st_size;
        return true;
}

int blob_open(struct image_store *store, const struct digest *digest, int *ret_fd, u64 *ret_size, struct err **err)
{
        _cleanup_close_ int fd = openat(store->fd, blob_path(digest).text, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, errno, "opening blob %s", digest->text);
        if (ret_size)
                *ret_size = (u64)st.st_size;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int blob_read(struct image_store *store, const struct digest *digest, bool verify, char **ret, size_t *ret_len,
        struct err **err)
{
        _cleanup_close_ int fd = -1;
        _cleanup_free_ char *text = NULL;
        struct digest found;
        size_t len;
        int r = blob_open(store, digest, &fd, NULL, err);

        if (r < 0)
                return r;
        r = io_read_stream(fd, JSON_FILE_MAX, &text, &len, err);
        if (r < 0)
                return err_wrap(err, r, "blob %s", digest->text);
        r = verify ? digest_of(text, len, &found, err) : 0;
        if (r < 0)
                return r;
        if (verify && !digest_equal(&found, digest)) {
                r = err_set(err, ERR_BAD_IMAGE, EBADMSG, "blob %s of '%s' is damaged", digest->text, store->root);
                return err_hint(err, r, "`strata image check` lists the damage; pull the image again");
        }
        *ret = TAKE_PTR(text);
        *ret_len = len;
        return 0;
}

int blob_publish(struct image_store *store, int dirfd, const char *name, const struct digest *digest, struct err **err)
{
        _cleanup_close_ int blobs = -1;
        int r = io_open_dir(store->fd, DIR_BLOBS, &blobs, err);

        if (r < 0)
                return r;
        if (renameat(dirfd, name, blobs, digest_hex(digest)) < 0 || fsync(blobs) < 0)
                return err_sys(err, errno, "adding blob %s", digest->text);
        return 0;
}

int blob_put(struct lease *lease, const void *data, size_t len, struct digest *ret_digest, struct err **err)
{
        const struct lease_name name = lease_new_name(lease);
        _cleanup_close_ int fd = -1;
        struct digest digest;
        int r = digest_of(data, len, &digest, err);

        if (r == 0)
                r = lease_hold(lease, &digest, err);
        if (r < 0)
                return r;
        if (!blob_exists(lease->store, &digest, NULL)) {
                fd = openat(lease->tmp_fd, name.text, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
                r = fd < 0 ? -errno : io_write_all(fd, data, len);
                if (r == 0 && fsync(fd) < 0)
                        r = -errno;
                if (r < 0)
                        return err_sys(err, -r, "writing blob %s", digest.text);
                r = blob_publish(lease->store, lease->tmp_fd, name.text, &digest, err);
                if (r < 0)
                        return r;
        }
        if (ret_digest)
                *ret_digest = digest;
        return 0;
}

#include "layer_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "compress.h"
#include "diff.h"

struct layer_writer {
        struct lease *lease;
        struct lease_name name;
        int fd;
        struct hasher tar_hash, blob_hash;
        struct compressor *compressor;
        struct byte_sink sink;
};

static int on_compressed(void *opaque, const void *data, size_t len, struct err **err)
{
        struct layer_writer *w = opaque;
        const int r = io_write_all(w->fd, data, len);

        if (r < 0)
                return err_sys(err, -r, "writing a layer");
        hasher_update(&w->blob_hash, data, len);
        return 0;
}

static int on_plain(void *opaque, const void *data, size_t len, struct err **err)
{
        struct layer_writer *w = opaque;

        hasher_update(&w->tar_hash, data, len);
        return compressor_write(w->compressor, data, len, err);
}

int layer_writer_new(struct lease *lease, struct layer_writer **ret, struct err **err)
{
        _cleanup_(layer_writer_freep) struct layer_writer *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return err_sys(err, ENOMEM, "writing a layer");
        w->lease = lease;
        w->name = lease_new_name(lease);
        w->sink = (struct byte_sink){ on_plain, w };
        w->fd = openat(lease->tmp_fd, w->name.text, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (w->fd < 0)
                return err_sys(err, errno, "writing a layer");
        r = hasher_init(&w->tar_hash, err);
        if (r == 0)
                r = hasher_init(&w->blob_hash, err);
        if (r == 0)
                r = compressor_new(&(struct byte_sink){ on_compressed, w }, &w->compressor, err);
        if (r == 0)
                *ret = TAKE_PTR(w);
        return r;
}

const struct byte_sink *layer_writer_sink(struct layer_writer *w)
{
        return &w->sink;
}

int layer_writer_finish(struct layer_writer *w, struct descriptor *ret, struct digest *ret_diff_id, struct err **err)
{
        struct descriptor layer = { .media_type = MEDIA_OCI_LAYER "+gzip" };
        struct digest diff_id;
        int r = compressor_finish(w->compressor, err);

        if (r < 0)
                return r;
        layer.size = w->blob_hash.bytes;
        hasher_finish(&w->blob_hash, &layer.digest);
        hasher_finish(&w->tar_hash, &diff_id);
        r = lease_hold(w->lease, &layer.digest, err);
        if (r < 0)
                return r;
        if (!blob_exists(w->lease->store, &layer.digest, NULL)) {
                if (fsync(w->fd) < 0)
                        return err_sys(err, errno, "writing a layer");
                r = blob_publish(w->lease->store, w->lease->tmp_fd, w->name.text, &layer.digest, err);
        }
        if (r == 0)
                r = layer_ensure(w->lease, &layer, &diff_id, NULL, err);
        if (r < 0)
                return r;
        *ret = layer;
        *ret_diff_id = diff_id;
        return 0;
}

struct layer_writer *layer_writer_free(struct layer_writer *w)
{
        if (!w)
                return NULL;
        compressor_free(w->compressor);
        closep(&w->fd);
        free(w);
        return NULL;
}

int layer_from_upper(struct lease *lease, int upper_fd, s64 clamp_mtime, struct descriptor *ret,
        struct digest *ret_diff_id, struct err **err)
{
        _cleanup_(layer_writer_freep) struct layer_writer *writer = NULL;
        int r = layer_writer_new(lease, &writer, err);

        if (r == 0)
                r = diff_write_layer(upper_fd, lease->store->user_xattr, clamp_mtime, layer_writer_sink(writer), err);
        return r < 0 ? r : layer_writer_finish(writer, ret, ret_diff_id, err);
}

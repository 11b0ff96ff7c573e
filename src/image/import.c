/* An image of one layer, from a root file system's archive. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "archive.h"
#include "chunks.h"
#include "make.h"

/* What @fd yields goes into the file @out and through the pipeline at once. */
static int ingest_stream(struct lease *lease, int fd, int out, struct ingest_result *ret, struct err **err)
{
        const struct ingest_options options = { .unpack = true };
        _cleanup_(ingest_freep) struct ingest *in = NULL;
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);
        ssize_t n = 0;
        int r = buf ? ingest_new(lease, out, &options, &in, err) : err_sys(err, ENOMEM, "importing an image");

        while (r == 0 && (n = io_read_full(fd, buf, CHUNK_SIZE)) > 0)
                r = ingest_write(in, buf, (size_t)n, err);
        if (r == 0 && n < 0)
                r = err_sys(err, (int)-n, "reading the archive");
        return r < 0 ? r : ingest_finish(in, NULL, ret, err);
}

int image_import(struct image_store *store, int fd, const struct image_import_options *options, struct image **ret,
        struct err **err)
{
        static const struct image_import_options none;
        _cleanup_(new_image_clear) struct new_image image = { 0 };
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_close_ int out = -1;
        struct ingest_result result;
        struct descriptor layer = { 0 };
        struct lease_name name;
        int r = lease_open(store, &lease, err);

        options = options ? options : &none;
        if (r == 0)
                r = new_image_init(&image, lease, NULL, err);
        for (const char *const *change = options->changes; r == 0 && change && *change; change++)
                r = config_change(image.config, *change, err);
        if (r < 0)
                return r;
        name = lease_new_name(lease);
        out = openat(lease->tmp_fd, name.text, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (out < 0)
                return err_sys(err, errno, "importing an image");
        r = ingest_stream(lease, fd, out, &result, err);
        if (r == 0)
                r = lease_hold(lease, &result.digest, err);
        if (r < 0)
                return r;
        if (fsync(out) < 0)
                return err_sys(err, errno, "importing an image");
        r = blob_publish(store, lease->tmp_fd, name.text, &result.digest, err);
        layer.digest = result.digest;
        layer.size = result.size;
        strcpy(layer.media_type, layer_media_type(&result));
        if (r == 0)
                r = new_image_add_layer(&image, &layer, &result.diff_id, err);
        if (r == 0)
                r = new_image_add_history(&image, "strata image import", options->comment, false, err);
        return r < 0 ? r : new_image_publish(&image, options->name, ret, err);
}

/* An image of one layer, from a root file system's archive. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "archive.h"
#include "chunks.h"
#include "compress.h"
#include "make.h"

/* A descriptor whose first piece was looked at already. */
struct looked_at {
        struct fd_source from;
        size_t first; /* bytes of it; 0: it was given out */
};

static int looked_at_next(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct looked_at *source = opaque;

        if (!source->first)
                return fd_source_next(&source->from, ret_data, ret_len, err);
        *ret_data = source->from.buf;
        *ret_len = source->first;
        source->first = 0;
        return 0;
}

static int write_ingest(void *opaque, const void *data, size_t len, struct err **err)
{
        return ingest_write(opaque, data, len, err);
}

static int pass_on(struct ingest *in, struct looked_at *source, struct err **err)
{
        const u8 *data;
        size_t len;
        int r;

        while ((r = looked_at_next(source, &data, &len, err)) == 0 && len > 0)
                r = ingest_write(in, data, len, err);
        return r;
}

/* Layers are gzip or zstd everywhere; archives of root file systems often are not. */
static int pass_on_as_gzip(struct ingest *in, struct looked_at *source, struct err **err)
{
        _cleanup_(decompressor_freep) struct decompressor *decompressor = NULL;
        _cleanup_(compressor_freep) struct compressor *compressor = NULL;
        _cleanup_free_ u8 *plain = malloc(CHUNK_SIZE);
        size_t len = 1;
        int r = plain ? decompressor_new(&(struct byte_source){ looked_at_next, source }, &decompressor, err)
                      : err_sys(err, ENOMEM, "importing an image");

        if (r == 0)
                r = compressor_new(&(struct byte_sink){ write_ingest, in }, &compressor, err);
        while (r == 0 && len > 0) {
                r = decompressor_read(decompressor, plain, CHUNK_SIZE, &len, err);
                if (r == 0)
                        r = compressor_write(compressor, plain, len, err);
        }
        return r < 0 ? r : compressor_finish(compressor, err);
}

/* What @fd yields goes into the file @out and through the pipeline at once. */
static int ingest_stream(struct lease *lease, int fd, int out, struct ingest_result *ret, struct err **err)
{
        const struct ingest_options options = { .unpack = true };
        _cleanup_(ingest_freep) struct ingest *in = NULL;
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);
        struct looked_at source = { .from = { fd, buf, CHUNK_SIZE } };
        const u8 *data;
        int r = buf ? ingest_new(lease, out, &options, &in, err) : err_sys(err, ENOMEM, "importing an image");

        if (r == 0)
                r = fd_source_next(&source.from, &data, &source.first, err);
        if (r == 0)
                r = compression_of(buf, source.first) > COMPRESSION_ZSTD ? pass_on_as_gzip(in, &source, err)
                                                                         : pass_on(in, &source, err);
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

/* Layers: one unpacked directory for each diff id, shared by all images that have it.
 *
 * A layer on its way in passes through three threads:
 *
 *   caller       ingest_write: file of the blob, digest of the blob, then a queue
 *   unpacker     decompresses into chunks, each for a second queue and for the archive's reader, which makes the files
 *   hasher       digest of the archive (the diff id)
 *
 * The directory is made in the lease's own one, and takes its name among the layers when both digests are right. Nothing is
 * synced then: a layer can be unpacked again from its blob. It is believed while the machine has not been started again since, and
 * afterwards only if `synced` says that it has reached the disk meanwhile (layers_sync). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "chunks.h"
#include "compress.h"
#include "internal.h"
#include "unpack.h"

#define BOOT_ID_LEN        36
#define LAYER_FILE         "layer.json"
#define SYNCED_FILE        "synced"
#define SYNC_AFTER_SECONDS 60

/* --- layers in the store --------------------------------------------------------------------------------------------- */

struct layer_path {
        char text[sizeof(DIR_LAYERS) + 1 + DIGEST_HEX + 16];
};

static struct layer_path layer_path(const struct digest *diff_id, const char *file)
{
        struct layer_path path;

        snprintf(path.text, sizeof(path.text), DIR_LAYERS "/%s%s%s", digest_hex(diff_id), file[0] ? "/" : "", file);
        return path;
}

static void read_boot_id(char ret[BOOT_ID_LEN + 1])
{
        _cleanup_free_ char *text = NULL;

        ret[0] = '\0';
        if (io_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 256, &text, NULL, NULL) == 0)
                snprintf(ret, BOOT_ID_LEN + 1, "%.*s", BOOT_ID_LEN, text);
}

bool layer_exists(struct image_store *store, const struct digest *diff_id)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        char boot_id[BOOT_ID_LEN + 1];
        size_t len;

        if (faccessat(store->fd, layer_path(diff_id, SYNCED_FILE).text, F_OK, 0) == 0)
                return true;
        if (io_read_file(store->fd, layer_path(diff_id, LAYER_FILE).text, LAYER_JSON_MAX, &text, &len, NULL) < 0 ||
                json_read(text, len, LAYER_FILE, &json, NULL) < 0)
                return false;
        read_boot_id(boot_id);
        return strcmp(json_text(json, "boot"), boot_id) == 0;
}

struct sync_state {
        struct image_store *store;
        bool synced; /* once is enough */
};

static int sync_layer(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct sync_state *state = opaque;
        _cleanup_close_ int fd = -1;
        struct digest diff_id;
        struct stat st;

        if (strlen(name) != DIGEST_HEX || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                time(NULL) - st.st_mtim.tv_sec < SYNC_AFTER_SECONDS)
                return 0;
        snprintf(diff_id.text, sizeof(diff_id.text), DIGEST_PREFIX "%s", name);
        if (layer_exists(state->store, &diff_id)) {
                if (!state->synced && syncfs(state->store->fd) < 0)
                        return 0;
                state->synced = true;
                fd = openat(
                        state->store->fd, layer_path(&diff_id, SYNCED_FILE).text, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        }
        unlinkat(dirfd, name, 0);
        return 0;
}

void layers_sync(struct image_store *store)
{
        struct sync_state state = { .store = store };

        io_list_dir(store->fd, DIR_UNSYNCED, sync_layer, &state, NULL);
}

/* --- a layer on its way in ------------------------------------------------------------------------------------------- */

struct ingest {
        struct lease *lease;
        struct ingest_options options;
        struct digest wanted_diff_id;
        int out_fd;
        u64 written, flushed; /* of out_fd, and how much of it the kernel was told to put on the disk */
        struct hasher blob_hash, tar_hash;
        struct chunk_pool pool;
        struct chunk_queue compressed, plain;
        struct chunk *filling;
        pthread_t unpacker, hasher;
        bool has_unpacker, has_hasher;
        struct err *unpack_err;
        int unpack_status;
        enum compression kind;
        struct lease_name dir; /* in the lease's directory */
        int dir_fd;
        struct unpack_result unpacked;

        /* the unpacker's own */
        struct decompressor *decompressor;
        struct chunk *in, *out;
};

static int next_compressed(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct ingest *in = opaque;
        int r;

        chunk_unref(&in->pool, TAKE_PTR(in->in));
        r = chunk_queue_get(&in->compressed, &in->in);
        if (r < 0)
                return r;
        *ret_data = in->in ? in->in->data : NULL;
        *ret_len = in->in ? in->in->len : 0;
        return 0;
}

static int next_plain(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct ingest *in = opaque;
        struct chunk *chunk;
        int r;

        chunk_unref(&in->pool, TAKE_PTR(in->out));
        *ret_len = 0;
        chunk = chunk_new(&in->pool);
        if (!chunk)
                return err_sys(err, ENOMEM, "unpacking a layer");
        r = decompressor_read(in->decompressor, chunk->data, CHUNK_SIZE, &chunk->len, err);
        if (r < 0 || chunk->len == 0) {
                chunk_unref(&in->pool, chunk);
                return r;
        }
        in->out = chunk;
        r = chunk_queue_put(&in->plain, chunk_ref(chunk));
        if (r < 0)
                return r;
        *ret_data = chunk->data;
        *ret_len = chunk->len;
        return 0;
}

static int unpack_all(struct ingest *in, struct err **err)
{
        const struct byte_source compressed = { next_compressed, in }, plain = { next_plain, in };
        const struct unpack_options options = { .user_xattr = in->lease->store->user_xattr,
                .squash_owners = in->lease->store->squash_owners };
        _cleanup_(tar_reader_freep) struct tar_reader *tar = NULL;
        int r = decompressor_new(&compressed, &in->decompressor, err);

        if (r == 0)
                r = tar_reader_new(&plain, &tar, err);
        if (r == 0)
                r = decompressor_begin(in->decompressor, err);
        if (r < 0)
                return r;
        if (decompressor_kind(in->decompressor) > COMPRESSION_ZSTD)
                return err_hint(err, err_set(err, ERR_BAD_IMAGE, EBADMSG, "layers are gzip, zstd or plain, nothing else"),
                        "`strata image import FILE NAME` makes an image of such an archive");
        if (in->options.unpack)
                return unpack_layer(in->dir_fd, tar, &options, &in->unpacked, err);
        tar_reader_limit(tar, UNPACK_BYTES_MAX, "the archive");
        return tar_reader_drain(tar, err);
}

static void *unpacker_thread(void *opaque)
{
        struct ingest *in = opaque;

        in->unpack_status = unpack_all(in, &in->unpack_err);
        if (in->decompressor)
                in->kind = decompressor_kind(in->decompressor);
        chunk_unref(&in->pool, TAKE_PTR(in->in));
        chunk_unref(&in->pool, TAKE_PTR(in->out));
        if (in->unpack_status < 0) {
                chunk_queue_stop(&in->compressed);
                chunk_queue_stop(&in->plain);
        } else {
                chunk_queue_end(&in->plain);
        }
        return NULL;
}

static void *hasher_thread(void *opaque)
{
        struct ingest *in = opaque;
        struct chunk *chunk;

        while (chunk_queue_get(&in->plain, &chunk) == 0 && chunk) {
                hasher_update(&in->tar_hash, chunk->data, chunk->len);
                chunk_unref(&in->pool, chunk);
        }
        return NULL;
}

int ingest_new(
        struct lease *lease, int out_fd, const struct ingest_options *options, struct ingest **ret, struct err **err)
{
        _cleanup_(ingest_freep) struct ingest *in = calloc(1, sizeof(*in));
        char path[64];
        int r;

        if (!in)
                return err_sys(err, ENOMEM, "unpacking a layer");
        chunk_pool_init(&in->pool);
        chunk_queue_init(&in->compressed, &in->pool);
        chunk_queue_init(&in->plain, &in->pool);
        in->lease = lease;
        in->out_fd = out_fd;
        in->options = *options;
        in->dir_fd = -1;
        if (options->diff_id)
                in->wanted_diff_id = *options->diff_id;
        in->dir = lease_new_name(lease);
        r = hasher_init(&in->blob_hash, err);
        if (r == 0)
                r = hasher_init(&in->tar_hash, err);
        if (r == 0 && options->unpack) {
                snprintf(path, sizeof(path), "%s/diff", in->dir.text);
                r = io_make_dir(lease->tmp_fd, in->dir.text, 0700, err);
                if (r == 0)
                        r = io_make_dir(lease->tmp_fd, path, 0755, err);
                if (r == 0)
                        r = io_open_dir(lease->tmp_fd, path, &in->dir_fd, err);
        }
        if (r < 0)
                return r;
        r = pthread_create(&in->unpacker, NULL, unpacker_thread, in);
        in->has_unpacker = r == 0;
        if (r == 0)
                r = pthread_create(&in->hasher, NULL, hasher_thread, in);
        in->has_hasher = r == 0;
        if (r != 0)
                return err_sys(err, r, "starting a thread");
        *ret = TAKE_PTR(in);
        return 0;
}

/* Starts writing to the disk what will have to be there in the end. */
static void flush_some(struct ingest *in)
{
        if (in->written - in->flushed < 8 * MIB)
                return;
        sync_file_range(in->out_fd, (off_t)in->flushed, (off_t)(in->written - in->flushed), SYNC_FILE_RANGE_WRITE);
        in->flushed = in->written;
}

/* What of the chunk is not in the file yet. */
static int write_out(struct ingest *in, const struct chunk *chunk)
{
        const u64 before = in->blob_hash.bytes,
                  skip = in->options.already > before ? MIN(in->options.already - before, chunk->len) : 0;
        int r = 0;

        if (in->out_fd < 0 || skip == chunk->len)
                return 0;
        r = io_pwrite_all(in->out_fd, chunk->data + skip, chunk->len - skip, before + skip);
        in->written = before + chunk->len;
        flush_some(in);
        return r;
}

static int pass_on(struct ingest *in, struct err **err)
{
        struct chunk *chunk = TAKE_PTR(in->filling);
        int r;

        if (!chunk)
                return 0;
        r = write_out(in, chunk);
        if (r < 0) {
                chunk_unref(&in->pool, chunk);
                return err_sys(err, -r, "writing a layer");
        }
        hasher_update(&in->blob_hash, chunk->data, chunk->len);
        r = chunk_queue_put(&in->compressed, chunk);
        /* The stage that stopped says why when all is gathered; the bytes still have to be fetched to judge their digest. */
        return r == -EPIPE ? 0 : r;
}

int ingest_write(struct ingest *in, const void *data, size_t len, struct err **err)
{
        const u8 *p = data;
        int r;

        while (len > 0) {
                size_t n;

                if (!in->filling)
                        in->filling = chunk_new(&in->pool);
                if (!in->filling)
                        return err_sys(err, ENOMEM, "reading a layer");
                n = MIN(len, CHUNK_SIZE - in->filling->len);
                memcpy(in->filling->data + in->filling->len, p, n);
                in->filling->len += n;
                p += n;
                len -= n;
                if (in->filling->len == CHUNK_SIZE) {
                        r = pass_on(in, err);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static void join(struct ingest *in)
{
        if (in->has_unpacker)
                pthread_join(in->unpacker, NULL);
        if (in->has_hasher)
                pthread_join(in->hasher, NULL);
        in->has_unpacker = in->has_hasher = false;
}

static int publish_layer(struct ingest *in, const struct digest *diff_id, struct err **err)
{
        struct image_store *store = in->lease->store;
        char boot_id[BOOT_ID_LEN + 1], path[sizeof(DIR_UNSYNCED) + 1 + DIGEST_HEX];
        _cleanup_json_ json_t *json = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -1;
        int r = lease_hold(in->lease, diff_id, err);

        if (r < 0)
                return r;
        read_boot_id(boot_id);
        json = json_pack("{s:s, s:I, s:I, s:O}", "boot", boot_id, "entries", (json_int_t)in->unpacked.entries, "bytes",
                (json_int_t)in->unpacked.bytes, "implied", in->unpacked.implied);
        text = json ? json_dumps(json, JSON_COMPACT) : NULL;
        if (!text)
                return err_sys(err, ENOMEM, "unpacking a layer");
        snprintf(path, sizeof(path), "%s/" LAYER_FILE, in->dir.text);
        fd = openat(in->lease->tmp_fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        r = fd < 0 ? -errno : io_write_all(fd, text, strlen(text));
        if (r < 0)
                return err_sys(err, -r, "unpacking a layer");
        snprintf(path, sizeof(path), DIR_UNSYNCED "/%s", digest_hex(diff_id));
        closep(&fd);
        fd = openat(store->fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, errno, "unpacking a layer");
        if (renameat(in->lease->tmp_fd, in->dir.text, store->fd, layer_path(diff_id, "").text) == 0)
                return 0;
        if ((errno == EEXIST || errno == ENOTEMPTY) && layer_exists(store, diff_id))
                return 0; /* another process was faster */
        /* What is there did not survive a power failure whole. */
        if (renameat(store->fd, layer_path(diff_id, "").text, in->lease->tmp_fd, lease_new_name(in->lease).text) < 0 &&
                errno != ENOENT)
                return err_sys(err, errno, "replacing layer %s", diff_id->text);
        if (renameat(in->lease->tmp_fd, in->dir.text, store->fd, layer_path(diff_id, "").text) < 0 &&
                !layer_exists(store, diff_id))
                return err_sys(err, errno, "adding layer %s", diff_id->text);
        return 0;
}

int ingest_finish(struct ingest *in, const struct digest *expected, struct ingest_result *ret, struct err **err)
{
        struct ingest_result result = { 0 };
        int r = pass_on(in, err);

        if (r < 0)
                return r;
        chunk_queue_end(&in->compressed);
        join(in);
        result.size = in->blob_hash.bytes;
        hasher_finish(&in->blob_hash, &result.digest);
        if (expected && !digest_equal(expected, &result.digest))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "the layer's digest is %s and not %s", result.digest.text,
                        expected->text);
        if (in->unpack_status < 0) {
                if (err && !*err)
                        *err = TAKE_PTR(in->unpack_err);
                return err_wrap(err, in->unpack_status, "layer %.19s", result.digest.text);
        }
        hasher_finish(&in->tar_hash, &result.diff_id);
        if (in->options.diff_id && !digest_equal(&in->wanted_diff_id, &result.diff_id))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG,
                        "layer %.19s: what is in it has the digest %s and not %s as the configuration says",
                        result.digest.text, result.diff_id.text, in->wanted_diff_id.text);
        result.gzip = in->kind == COMPRESSION_GZIP;
        result.zstd = in->kind == COMPRESSION_ZSTD;
        if (in->options.unpack) {
                r = publish_layer(in, &result.diff_id, err);
                if (r < 0)
                        return r;
        }
        *ret = result;
        return 0;
}

struct ingest *ingest_free(struct ingest *in)
{
        if (!in)
                return NULL;
        chunk_queue_stop(&in->compressed);
        chunk_queue_stop(&in->plain);
        join(in);
        chunk_unref(&in->pool, in->filling);
        chunk_queue_clear(&in->compressed);
        chunk_queue_clear(&in->plain);
        decompressor_free(in->decompressor);
        chunk_pool_clear(&in->pool);
        json_decref(in->unpacked.implied);
        err_free(in->unpack_err);
        closep(&in->dir_fd);
        io_remove_tree(in->lease->tmp_fd, in->dir.text, NULL);
        free(in);
        return NULL;
}

int layer_ensure(struct lease *lease, const struct descriptor *blob, const struct digest *diff_id,
        const struct image_progress *progress, struct err **err)
{
        const struct ingest_options options = { .diff_id = diff_id, .unpack = true };
        _cleanup_(ingest_freep) struct ingest *in = NULL;
        struct ingest_result result;
        _cleanup_close_ int fd = -1;
        _cleanup_free_ u8 *buf = NULL;
        u64 done = 0, size;
        ssize_t n;
        int r = lease_hold(lease, diff_id, err);

        if (r < 0)
                return r;
        if (layer_exists(lease->store, diff_id))
                return 0;
        buf = malloc(CHUNK_SIZE);
        if (!buf)
                return err_sys(err, ENOMEM, "unpacking a layer");
        r = blob_open(lease->store, &blob->digest, &fd, &size, err);
        if (r == 0)
                r = ingest_new(lease, -1, &options, &in, err);
        if (r < 0)
                return r;
        while ((n = io_read_full(fd, buf, CHUNK_SIZE)) > 0) {
                r = ingest_write(in, buf, (size_t)n, err);
                if (r < 0)
                        return r;
                done += (u64)n;
                progress_update(progress, blob->digest.text, IMAGE_PROGRESS_UNPACK, done, size);
        }
        if (n < 0)
                return err_sys(err, (int)-n, "reading blob %s", blob->digest.text);
        return ingest_finish(in, &blob->digest, &result, err);
}

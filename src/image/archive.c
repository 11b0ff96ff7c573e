/* Images in tar archives: docker's (manifest.json) and OCI's (index.json) in, one that is both out.
 *
 * What comes in is unpacked as a whole into the lease's directory, by the same careful hands that unpack layers; then its
 * JSON says which of the files are layers. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "archive.h"
#include "chunks.h"
#include "compress.h"
#include "internal.h"
#include "unpack.h"

/* --- bytes of a descriptor --------------------------------------------------------------------------------------------- */

int fd_source_next(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct fd_source *source = opaque;
        const ssize_t n = io_read_full(source->fd, source->buf, source->cap);

        if (n < 0)
                return err_sys(err, (int)-n, "reading the archive");
        *ret_data = source->buf;
        *ret_len = (size_t)n;
        return 0;
}

static int write_fd(void *opaque, const void *data, size_t len, struct err **err)
{
        const int r = io_write_all(*(const int *)opaque, data, len);

        return r < 0 ? err_sys(err, -r, "writing the archive") : 0;
}

/* --- layers in files ---------------------------------------------------------------------------------------------------- */

const char *layer_media_type(const struct ingest_result *result)
{
        return result->gzip ? MEDIA_OCI_LAYER "+gzip" : result->zstd ? MEDIA_OCI_LAYER "+zstd" : MEDIA_OCI_LAYER;
}

int layer_add_file(struct lease *lease, int fd, int dirfd, const char *name, const struct digest *expected,
        const struct digest *diff_id, const struct image_progress *progress, struct descriptor *ret,
        struct digest *ret_diff_id, struct err **err)
{
        const struct ingest_options options = { .diff_id = diff_id, .unpack = true };
        _cleanup_(ingest_freep) struct ingest *in = NULL;
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);
        struct ingest_result result;
        struct stat st;
        u64 done = 0;
        ssize_t n = 0;
        int r;

        if (!buf || fstat(fd, &st) < 0)
                return err_sys(err, buf ? errno : ENOMEM, "reading a layer");
        r = ingest_new(lease, -1, &options, &in, err);
        while (r == 0 && (n = io_read_full(fd, buf, CHUNK_SIZE)) > 0) {
                r = ingest_write(in, buf, (size_t)n, err);
                done += (u64)n;
                progress_update(progress, diff_id ? diff_id->text : "", IMAGE_PROGRESS_UNPACK, done, (u64)st.st_size);
        }
        if (r == 0 && n < 0)
                r = err_sys(err, (int)-n, "reading a layer");
        if (r == 0)
                r = ingest_finish(in, expected, &result, err);
        if (r < 0)
                return r;
        progress_update(progress, diff_id ? diff_id->text : "", IMAGE_PROGRESS_DONE, done, done);
        *ret = (struct descriptor){ .digest = result.digest, .size = result.size };
        strcpy(ret->media_type, layer_media_type(&result));
        if (ret_diff_id)
                *ret_diff_id = result.diff_id;
        r = lease_hold(lease, &result.digest, err);
        if (r < 0 || blob_exists(lease->store, &result.digest, NULL))
                return r;
        if (fchmod(fd, 0644) < 0 || fsync(fd) < 0)
                return err_sys(err, errno, "writing a layer");
        return blob_publish(lease->store, dirfd, name, &result.digest, err);
}

/* --- load ----------------------------------------------------------------------------------------------------------------- */

struct loading {
        struct lease *lease;
        int dir; /* the unpacked archive */
        const struct image_progress *progress;
        void (*loaded)(void *opaque, const char *name);
        void *opaque;
        unsigned images;
};

/* Old docker archives have links among them. */
static int open_part(struct loading *l, const char *path, int *ret, struct err **err)
{
        struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV };
        _cleanup_close_ int fd = (int)syscall(SYS_openat2, l->dir, path, &how, sizeof(how));
        struct stat st;

        if (fd < 0)
                return err_sys(err, errno, "'%.200s' in the archive", path);
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "'%.200s' in the archive is not a file", path);
        *ret = TAKE_FD(fd);
        return 0;
}

static int read_part(struct loading *l, const char *path, char **ret, size_t *ret_len, struct err **err)
{
        _cleanup_close_ int fd = -1;
        int r = open_part(l, path, &fd, err);

        if (r == 0)
                r = io_read_stream(fd, JSON_FILE_MAX, ret, ret_len, err);
        return r;
}

/* The file moves into the store; when another layer is the same file, or it is a link, a copy does. */
static int add_layer(struct loading *l, const char *path, const struct digest *expected, const struct digest *diff_id,
        struct descriptor *ret, struct err **err)
{
        const struct lease_name name = lease_new_name(l->lease);
        _cleanup_close_ int fd = -1;
        struct io_fd_path fd_path;
        int r = lease_hold(l->lease, diff_id, err);

        if (r == 0 && expected)
                r = lease_hold(l->lease, expected, err);
        if (r < 0)
                return r;
        if (expected && blob_exists(l->lease->store, expected, NULL)) {
                progress_update(l->progress, diff_id->text, IMAGE_PROGRESS_EXISTS, 0, 0);
                return layer_ensure(l->lease, ret, diff_id, l->progress, err);
        }
        r = open_part(l, path, &fd, err);
        if (r < 0)
                return r;
        /* A second name, so that the archive's tree stays as it is. */
        fd_path = io_fd_path(fd);
        if (linkat(AT_FDCWD, fd_path.text, l->lease->tmp_fd, name.text, AT_SYMLINK_FOLLOW) < 0)
                return err_sys(err, errno, "reading '%s' of the archive", path);
        return layer_add_file(
                l->lease, fd, l->lease->tmp_fd, name.text, expected, diff_id, l->progress, ret, NULL, err);
}

static int name_image(struct loading *l, const struct digest *manifest, const char *name, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        struct reference reference;
        int r = 0;

        if (name && name[0])
                r = reference_parse(name, &reference, err);
        if (r == 0)
                r = image_publish(l->lease, manifest, name && name[0] ? &reference : NULL, &image, err);
        if (r < 0)
                return r;
        l->images++;
        if (l->loaded)
                l->loaded(l->opaque, image->name);
        return 0;
}

static int load_docker_image(struct loading *l, const json_t *entry, struct err **err)
{
        const json_t *layers = json_object_get(entry, "Layers"), *tags = json_object_get(entry, "RepoTags");
        _cleanup_(config_file_clear) struct config_file config = { 0 };
        _cleanup_free_ struct descriptor *descriptors = NULL;
        _cleanup_free_ char *text = NULL, *manifest = NULL;
        struct descriptor descriptor = { .media_type = MEDIA_OCI_CONFIG };
        struct digest digest;
        size_t len;
        int r = read_part(l, json_text(entry, "Config"), &text, &len, err);

        if (r == 0)
                r = config_file_parse(text, len, &config, err);
        if (r < 0)
                return r;
        if (json_array_size(layers) != config.n_diff_ids)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG,
                        "manifest.json has %zu layers and the image's configuration %zu", json_array_size(layers),
                        config.n_diff_ids);
        descriptors = calloc(config.n_diff_ids + 1, sizeof(*descriptors));
        if (!descriptors)
                return err_sys(err, ENOMEM, "loading an image");
        for (size_t i = 0; r == 0 && i < config.n_diff_ids; i++) {
                const char *path = json_string_value(json_array_get(layers, i));

                r = add_layer(l, path ? path : "", NULL, &config.diff_ids[i], &descriptors[i], err);
        }
        if (r == 0)
                r = blob_put(l->lease, text, len, &descriptor.digest, err);
        if (r < 0)
                return r;
        descriptor.size = len;
        manifest = manifest_format(MEDIA_OCI_MANIFEST, &descriptor, descriptors, config.n_diff_ids);
        r = manifest ? blob_put(l->lease, manifest, strlen(manifest), &digest, err)
                     : err_sys(err, ENOMEM, "loading an image");
        if (r == 0 && json_array_size(tags) == 0)
                r = name_image(l, &digest, NULL, err);
        for (size_t i = 0; r == 0 && i < json_array_size(tags); i++)
                r = name_image(l, &digest, json_string_value(json_array_get(tags, i)), err);
        return r;
}

static int load_docker(struct loading *l, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        json_error_t error;
        size_t len;
        int r = read_part(l, "manifest.json", &text, &len, err);

        if (r < 0)
                return r;
        json = json_loadb(text, len, 0, &error);
        if (!json_is_array(json))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "the archive's manifest.json is not a list");
        for (size_t i = 0; r == 0 && i < json_array_size(json); i++)
                r = load_docker_image(l, json_array_get(json, i), err);
        return r;
}

struct blob_file {
        char text[sizeof(DIR_BLOBS) + 1 + DIGEST_HEX];
};

static struct blob_file blob_file(const struct digest *digest)
{
        struct blob_file path;

        snprintf(path.text, sizeof(path.text), DIR_BLOBS "/%s", digest_hex(digest));
        return path;
}

/* A small blob of the archive, verified and put into the store. */
static int take_blob(struct loading *l, const struct digest *digest, char **ret, size_t *ret_len, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        struct digest found;
        size_t len;
        int r = read_part(l, blob_file(digest).text, &text, &len, err);

        if (r == 0)
                r = digest_of(text, len, &found, err);
        if (r < 0)
                return r;
        if (!digest_equal(&found, digest))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "blob %s of the archive has the digest %s", digest->text,
                        found.text);
        r = blob_put(l->lease, text, len, NULL, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(text);
        *ret_len = len;
        return 0;
}

static int load_oci_manifest(struct loading *l, const char *text, size_t len, struct err **err)
{
        _cleanup_(manifest_clear) struct manifest manifest = { 0 };
        _cleanup_(config_file_clear) struct config_file config = { 0 };
        _cleanup_free_ char *config_text = NULL;
        size_t config_len;
        int r = manifest_parse(text, len, "", &manifest, err);

        if (r == 0)
                r = take_blob(l, &manifest.config.digest, &config_text, &config_len, err);
        if (r == 0)
                r = config_file_parse(config_text, config_len, &config, err);
        if (r < 0)
                return r;
        if (manifest.n_layers != config.n_diff_ids)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG,
                        "the image's manifest has %zu layers and its configuration %zu", manifest.n_layers,
                        config.n_diff_ids);
        for (size_t i = 0; r == 0 && i < manifest.n_layers; i++) {
                struct descriptor layer = manifest.layers[i];

                r = add_layer(
                        l, blob_file(&layer.digest).text, &manifest.layers[i].digest, &config.diff_ids[i], &layer, err);
        }
        return r;
}

static int load_oci_image(struct loading *l, const json_t *entry, struct err **err)
{
        const json_t *annotations = json_object_get(entry, "annotations");
        const char *name = json_text(annotations, "io.containerd.image.name");
        _cleanup_free_ char *text = NULL;
        struct platform platform;
        struct descriptor d;
        size_t len;
        int r = descriptor_parse(entry, &d, err);

        if (r == 0)
                r = take_blob(l, &d.digest, &text, &len, err);
        if (r == 0 && manifest_is_index(text, len, d.media_type)) {
                r = platform_parse(NULL, &platform, err);
                if (r == 0)
                        r = index_choose(text, len, &platform, &d, err);
                if (r < 0)
                        return r;
                free(TAKE_PTR(text));
                r = take_blob(l, &d.digest, &text, &len, err);
        }
        if (r == 0)
                r = load_oci_manifest(l, text, len, err);
        if (!name[0])
                name = json_text(annotations, "org.opencontainers.image.ref.name");
        return r < 0 ? r : name_image(l, &d.digest, name, err);
}

static int load_oci(struct loading *l, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *json = NULL;
        const json_t *manifests;
        size_t len;
        int r = read_part(l, "index.json", &text, &len, err);

        if (r == 0)
                r = json_read(text, len, "the archive's index.json", &json, err);
        if (r < 0)
                return r;
        manifests = json_object_get(json, "manifests");
        for (size_t i = 0; r == 0 && i < json_array_size(manifests); i++)
                r = load_oci_image(l, json_array_get(manifests, i), err);
        return r;
}

int archive_unpack(int fd, int dir, struct err **err)
{
        const struct unpack_options options = { .squash_owners = true, .plain = true };
        _cleanup_(decompressor_freep) struct decompressor *decompressor = NULL;
        _cleanup_(tar_reader_freep) struct tar_reader *tar = NULL;
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE), *plain_buf = malloc(CHUNK_SIZE);
        struct fd_source source = { .fd = fd, .buf = buf, .cap = CHUNK_SIZE };
        struct plain_source plain = { .buf = plain_buf, .cap = CHUNK_SIZE };
        struct unpack_result result = { 0 };
        int r = buf && plain_buf ? 0 : err_sys(err, ENOMEM, "reading the archive");

        if (r == 0)
                r = decompressor_new(&(struct byte_source){ fd_source_next, &source }, &decompressor, err);
        plain.decompressor = decompressor;
        if (r == 0)
                r = tar_reader_new(&(struct byte_source){ plain_source_next, &plain }, &tar, err);
        if (r == 0)
                r = unpack_layer(dir, tar, &options, &result, err);
        json_decref(result.implied);
        return r;
}

int plain_source_next(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct plain_source *source = opaque;
        int r = decompressor_read(source->decompressor, source->buf, source->cap, ret_len, err);

        *ret_data = source->buf;
        return r;
}

int image_load(struct image_store *store, int fd, const struct image_progress *progress,
        void (*loaded)(void *opaque, const char *name), void *opaque, struct err **err)
{
        struct loading l = { .dir = -1, .progress = progress, .loaded = loaded, .opaque = opaque };
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_close_ int dir = -1;
        struct lease_name name;
        int r = lease_open(store, &lease, err);

        if (r < 0)
                return r;
        name = lease_new_name(lease);
        r = io_make_dir(lease->tmp_fd, name.text, 0700, err);
        if (r == 0)
                r = io_open_dir(lease->tmp_fd, name.text, &dir, err);
        if (r == 0)
                r = archive_unpack(fd, dir, err);
        if (r < 0)
                return r;
        l.lease = lease;
        l.dir = dir;
        if (faccessat(dir, "index.json", F_OK, 0) == 0)
                r = load_oci(&l, err);
        else if (faccessat(dir, "manifest.json", F_OK, 0) == 0)
                r = load_docker(&l, err);
        else
                r = err_hint(err,
                        err_set(err, ERR_BAD_IMAGE, EBADMSG, "the archive has neither index.json nor manifest.json"),
                        "`strata image import` takes archives of a root file system");
        if (r == 0 && l.images == 0)
                r = err_set(err, ERR_BAD_IMAGE, EBADMSG, "there is no image in the archive");
        return r;
}

/* --- save ----------------------------------------------------------------------------------------------------------------- */

struct saving {
        struct image_store *store;
        struct byte_sink sink;
        json_t *written;  /* digests */
        json_t *index;    /* descriptors */
        json_t *manifest; /* docker's list */
};

static int save_blob(struct saving *s, const struct digest *digest, struct err **err)
{
        struct blob_file path = blob_file(digest);
        struct tar_entry entry = { .type = TAR_FILE, .path = path.text, .mode = 0644 };
        _cleanup_close_ int fd = -1;
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);
        u64 left;
        int r;

        if (json_object_get(s->written, digest->text))
                return 0;
        if (!buf || json_object_set_new(s->written, digest->text, json_true()) < 0)
                return err_sys(err, ENOMEM, "saving an image");
        r = blob_open(s->store, digest, &fd, &entry.size, err);
        if (r == 0)
                r = tar_write_header(&s->sink, &entry, err);
        for (left = entry.size; r == 0 && left > 0;) {
                const ssize_t n = io_read_full(fd, buf, MIN(left, (u64)CHUNK_SIZE));

                if (n <= 0)
                        return err_sys(err, n < 0 ? (int)-n : EIO, "reading blob %s", digest->text);
                r = s->sink.write(s->sink.opaque, buf, (size_t)n, err);
                left -= (u64)n;
        }
        return r < 0 ? r : tar_write_padding(&s->sink, entry.size, err);
}

static int save_image(struct saving *s, const char *name, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        struct descriptor d = { 0 };
        json_t *layers = json_array(), *tags = json_array(), *entry;
        bool named;
        int r = image_find(s->store, name, &image, err);

        if (r == 0)
                r = save_blob(s, &image->digest, err);
        if (r == 0)
                r = save_blob(s, &image->id, err);
        for (size_t i = 0; r == 0 && i < image->manifest.n_layers; i++) {
                r = save_blob(s, &image->manifest.layers[i].digest, err);
                json_array_append_new(layers, json_string(blob_file(&image->manifest.layers[i].digest).text));
        }
        if (r < 0) {
                json_decref(layers);
                json_decref(tags);
                return r;
        }
        named = strncmp(image->name, DIGEST_PREFIX, sizeof(DIGEST_PREFIX) - 1) != 0;
        if (named && !strchr(image->name, '@'))
                json_array_append_new(tags, json_string(image->name));
        json_array_append_new(s->manifest,
                json_pack("{s:s, s:o, s:o}", "Config", blob_file(&image->id).text, "RepoTags", tags, "Layers", layers));
        d.digest = image->digest;
        d.size = image->manifest_len;
        strcpy(d.media_type, image->manifest.media_type);
        entry = descriptor_to_json(&d);
        if (named)
                json_object_set_new(
                        entry, "annotations", json_pack("{s:s}", "org.opencontainers.image.ref.name", image->name));
        return json_array_append_new(s->index, entry) < 0 ? err_sys(err, ENOMEM, "saving an image") : 0;
}

static int save_json(struct saving *s, const char *path, const json_t *json, struct err **err)
{
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

        return text ? tar_write_file(&s->sink, path, text, strlen(text), 0, err)
                    : err_sys(err, ENOMEM, "saving an image");
}

int image_save(
        struct image_store *store, const char *const *names, enum image_archive_format format, int fd, struct err **err)
{
        static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
        _cleanup_json_ json_t *written = json_object(), *index = json_array(), *manifest = json_array(), *file = NULL;
        struct saving s = { store, { write_fd, &fd }, written, index, manifest };
        int r = written && index && manifest ? 0 : err_sys(err, ENOMEM, "saving an image");

        for (; r == 0 && *names; names++)
                r = save_image(&s, *names, err);
        if (r < 0)
                return r;
        file = json_pack("{s:i, s:s, s:O}", "schemaVersion", 2, "mediaType", MEDIA_OCI_INDEX, "manifests", index);
        r = tar_write_file(&s.sink, "oci-layout", layout, sizeof(layout) - 1, 0, err);
        if (r == 0)
                r = save_json(&s, "index.json", file, err);
        /* docker before 25 knows only this one, and every tool that reads docker's archives does. */
        if (r == 0 && format == IMAGE_ARCHIVE_DOCKER)
                r = save_json(&s, "manifest.json", manifest, err);
        return r < 0 ? r : tar_write_end(&s.sink, err);
}

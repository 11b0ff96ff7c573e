/* Pulling: a manifest (chosen from an index), its configuration, and the layers, several at a time.
 *
 * A layer's bytes go into partial/DIGEST, which is locked by whoever fetches it and stays when he is interrupted: the next one
 * goes on from there. On the way they are unpacked already (layer.c). Nothing of it counts before the digests are right. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "chunks.h"
#include "registry.h"

#define PROGRESS_STEP (256 * KIB)

struct pull {
        struct lease *lease;
        struct registry *registry;
        const struct image_progress *progress;
        struct manifest manifest;
        struct config_file config;
};

/* --- a layer ---------------------------------------------------------------------------------------------------------------- */

struct download {
        struct pull *pull;
        const struct descriptor *layer;
        struct ingest *ingest;
        u64 got;  /* of the layer's bytes: given to the pipeline */
        u64 skip; /* of the answer: the registry did not start where we wanted */
        u64 told;
};

static int on_layer_bytes(void *opaque, long status, const void *data, size_t len, struct err **err)
{
        struct download *d = opaque;
        const size_t drop = MIN(d->skip, len);
        int r;

        (void)status;
        d->skip -= drop;
        data = (const u8 *)data + drop;
        len -= drop;
        if (len > d->layer->size - d->got)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG,
                        "layer %.19s is longer than the %lu bytes that the manifest says", d->layer->digest.text,
                        (unsigned long)d->layer->size);
        r = ingest_write(d->ingest, data, len, err);
        if (r < 0)
                return r;
        d->got += len;
        if (d->got - d->told >= PROGRESS_STEP) {
                d->told = d->got;
                progress_update(
                        d->pull->progress, d->layer->digest.text, IMAGE_PROGRESS_TRANSFER, d->got, d->layer->size);
        }
        return 0;
}

/* Tells on_layer_bytes where the answer begins: 200 is from the start. */
static int on_first_bytes(void *opaque, long status, const void *data, size_t len, struct err **err)
{
        struct download *d = opaque;

        if (d->skip == UINT64_MAX)
                d->skip = status == 206 ? 0 : d->got;
        return on_layer_bytes(opaque, status, data, len, err);
}

static int fetch_once(struct download *d, struct http_client *client, struct err **err)
{
        struct http_request request = { .follow = true, .receive = on_first_bytes, .opaque = d };
        struct http_answer answer = { 0 };
        char path[32 + DIGEST_TEXT], range[64];
        int r;

        snprintf(path, sizeof(path), "blobs/%s", d->layer->digest.text);
        if (d->got > 0) {
                snprintf(range, sizeof(range), "Range: bytes=%lu-", (unsigned long)d->got);
                request.headers[0] = range;
        }
        d->skip = UINT64_MAX;
        r = registry_request(d->pull->registry, client, path, &request, 0, &answer, err);
        http_answer_clear(&answer);
        return r;
}

/* From where it is to the end, over failures of the network. */
static int fetch_rest(struct download *d, struct http_client *client, struct err **err)
{
        unsigned failures = 0;

        while (d->got < d->layer->size) {
                const u64 before = d->got;
                struct err *failure = NULL;
                int r = fetch_once(d, client, &failure);

                if (r == 0 && d->got < d->layer->size && d->got == before)
                        r = err_set(&failure, ERR_IO, EAGAIN, "the registry sends nothing of layer %.19s",
                                d->layer->digest.text);
                if (r < 0 && (r != -EAGAIN || (d->got == before && ++failures >= REGISTRY_TRIES))) {
                        if (err)
                                *err = TAKE_PTR(failure);
                        err_free(failure);
                        return r;
                }
                err_free(failure);
                if (r < 0)
                        registry_wait(failures);
        }
        return 0;
}

static int feed_partial(struct download *d, int fd, u64 len, struct err **err)
{
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);

        if (!buf || lseek(fd, 0, SEEK_SET) < 0)
                return err_sys(err, buf ? errno : ENOMEM, "reading a partial layer");
        while (d->got < len) {
                const ssize_t n = io_read_full(fd, buf, MIN(len - d->got, (u64)CHUNK_SIZE));
                int r;

                if (n <= 0)
                        return err_sys(err, n < 0 ? (int)-n : EIO, "reading a partial layer");
                r = ingest_write(d->ingest, buf, (size_t)n, err);
                if (r < 0)
                        return r;
                d->got += (u64)n;
        }
        return 0;
}

/* Locks partial/DIGEST. While we waited for the lock it may have become a blob, or have been removed. */
static int lock_partial(struct pull *pull, int dir, const struct digest *digest, int *ret, struct err **err)
{
        for (;;) {
                _cleanup_close_ int fd =
                        openat(dir, digest_hex(digest), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
                struct stat opened, named;

                if (fd < 0)
                        return err_sys(err, errno, "opening a partial layer");
                if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                        progress_update(pull->progress, digest->text, IMAGE_PROGRESS_WAITING, 0, 0);
                        while (flock(fd, LOCK_EX) < 0)
                                if (errno != EINTR)
                                        return err_sys(err, errno, "locking a partial layer");
                }
                if (fstat(fd, &opened) == 0 && fstatat(dir, digest_hex(digest), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
                        opened.st_ino == named.st_ino) {
                        *ret = TAKE_FD(fd);
                        return 0;
                }
        }
}

static int download(struct pull *pull, struct http_client *client, const struct descriptor *layer,
        const struct digest *diff_id, int dir, int fd, struct err **err)
{
        struct ingest_options options = { .diff_id = diff_id, .unpack = true };
        _cleanup_(ingest_freep) struct ingest *ingest = NULL;
        struct download d = { .pull = pull, .layer = layer };
        struct ingest_result result;
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "opening a partial layer");
        if ((u64)st.st_size <= layer->size)
                options.already = (u64)st.st_size;
        if (ftruncate(fd, (off_t)options.already) < 0)
                return err_sys(err, errno, "opening a partial layer");
        r = ingest_new(pull->lease, fd, &options, &ingest, err);
        if (r < 0)
                return r;
        d.ingest = ingest;
        r = feed_partial(&d, fd, options.already, err);
        if (r == 0)
                r = fetch_rest(&d, client, err);
        if (r < 0)
                return r; /* what there is stays */
        r = ingest_finish(ingest, &layer->digest, &result, err);
        if (r == -EBADMSG)
                unlinkat(dir, digest_hex(&layer->digest), 0);
        if (r < 0)
                return r;
        if (fsync(fd) < 0)
                return err_sys(err, errno, "writing layer %s", layer->digest.text);
        r = blob_publish(pull->lease->store, dir, digest_hex(&layer->digest), &layer->digest, err);
        if (r == 0)
                progress_update(pull->progress, layer->digest.text, IMAGE_PROGRESS_DONE, layer->size, layer->size);
        return r;
}

static int pull_layer(void *opaque, struct http_client *client, size_t i, struct err **err)
{
        struct pull *pull = opaque;
        const struct descriptor *layer = &pull->manifest.layers[i];
        const struct digest *diff_id = &pull->config.diff_ids[i];
        struct image_store *store = pull->lease->store;
        _cleanup_close_ int dir = -1, fd = -1;
        int r;

        for (size_t j = 0; j < i; j++)
                if (digest_equal(&pull->manifest.layers[j].digest, &layer->digest) &&
                        digest_equal(&pull->config.diff_ids[j], diff_id))
                        return 0; /* the same layer twice: one of us fetches it */
        r = lease_hold(pull->lease, &layer->digest, err);
        if (r == 0)
                r = lease_hold(pull->lease, diff_id, err);
        if (r < 0)
                return r;
        if (!blob_exists(store, &layer->digest, NULL)) {
                r = io_open_dir(store->fd, DIR_PARTIAL, &dir, err);
                if (r == 0)
                        r = lock_partial(pull, dir, &layer->digest, &fd, err);
                if (r < 0)
                        return r;
                if (!blob_exists(store, &layer->digest, NULL)) {
                        struct stat st = { 0 };
                        struct err *failure = NULL;

                        fstat(fd, &st);
                        r = download(pull, client, layer, diff_id, dir, fd, &failure);
                        if (r == -EBADMSG && st.st_size > 0) {
                                /* What was there from before may have been bad. */
                                err_free(TAKE_PTR(failure));
                                closep(&fd);
                                fd = -1;
                                r = lock_partial(pull, dir, &layer->digest, &fd, &failure);
                                if (r == 0 && !blob_exists(store, &layer->digest, NULL))
                                        r = download(pull, client, layer, diff_id, dir, fd, &failure);
                        }
                        if (err && r < 0)
                                *err = TAKE_PTR(failure);
                        err_free(failure);
                        return r;
                }
                unlinkat(dir, digest_hex(&layer->digest), 0);
        }
        r = layer_ensure(pull->lease, layer, diff_id, pull->progress, err);
        if (r == 0)
                progress_update(pull->progress, layer->digest.text, IMAGE_PROGRESS_EXISTS, 0, 0);
        return r;
}

/* --- manifest and configuration --------------------------------------------------------------------------------------------------- */

/* What is called @version; verified when that is a digest. */
static int fetch_manifest(struct registry *registry, struct http_client *client, const char *version,
        struct http_answer *ret, struct digest *ret_digest, struct err **err)
{
        struct http_request request = { .headers = { "Accept: " MEDIA_OCI_MANIFEST, "Accept: " MEDIA_OCI_INDEX,
                                                "Accept: " MEDIA_DOCKER_MANIFEST, "Accept: " MEDIA_DOCKER_INDEX },
                .follow = true };
        struct http_answer answer = { 0 };
        char path[32 + REFERENCE_TAG_MAX];
        int r;

        snprintf(path, sizeof(path), "manifests/%s", version);
        r = registry_request(registry, client, path, &request, 0, &answer, err);
        if (r == 0)
                r = digest_of(answer.body ? answer.body : "", answer.body_len, ret_digest, err);
        if (r == 0 && digest_valid(version) && strcmp(version, ret_digest->text) != 0)
                r = err_set(err, ERR_BAD_IMAGE, EBADMSG, "the registry %s sends manifest %s for %s", registry->host,
                        ret_digest->text, version);
        if (r == 0 && answer.digest[0] && digest_valid(answer.digest) && strcmp(answer.digest, ret_digest->text) != 0)
                r = err_set(err, ERR_BAD_IMAGE, EBADMSG, "the registry %s sends another manifest than it says",
                        registry->host);
        if (r < 0) {
                http_answer_clear(&answer);
                return r;
        }
        answer.content_type[strcspn(answer.content_type, "; ")] = '\0';
        *ret = answer;
        return 0;
}

/* The manifest for the platform: what the name stands for, or one of its index. */
static int find_manifest(struct registry *registry, struct http_client *client, const char *version,
        const char *platform_text, struct http_answer *ret, struct digest *ret_digest, struct err **err)
{
        struct platform platform;
        struct descriptor chosen;
        struct http_answer index = { 0 };
        int r = platform_parse(platform_text, &platform, err);

        if (r == 0)
                r = fetch_manifest(registry, client, version, &index, ret_digest, err);
        if (r < 0)
                return r;
        if (!manifest_is_index(index.body ? index.body : "", index.body_len, index.content_type)) {
                *ret = index;
                return 0;
        }
        r = index_choose(index.body, index.body_len, &platform, &chosen, err);
        http_answer_clear(&index);
        return r < 0 ? r : fetch_manifest(registry, client, chosen.digest.text, ret, ret_digest, err);
}

static int fetch_config(struct pull *pull, struct http_client *client, struct err **err)
{
        struct image_store *store = pull->lease->store;
        const struct digest *digest = &pull->manifest.config.digest;
        struct http_request request = { .follow = true };
        struct http_answer answer = { 0 };
        _cleanup_free_ char *text = NULL;
        char path[32 + DIGEST_TEXT];
        struct digest found;
        size_t len;
        int r = lease_hold(pull->lease, digest, err);

        if (r < 0)
                return r;
        if (blob_exists(store, digest, NULL)) {
                r = blob_read(store, digest, true, &text, &len, err);
                return r < 0 ? r : config_file_parse(text, len, &pull->config, err);
        }
        snprintf(path, sizeof(path), "blobs/%s", digest->text);
        r = registry_request(pull->registry, client, path, &request, 0, &answer, err);
        if (r == 0)
                r = digest_of(answer.body ? answer.body : "", answer.body_len, &found, err);
        if (r == 0 && !digest_equal(&found, digest))
                r = err_set(err, ERR_BAD_IMAGE, EBADMSG, "the image's configuration has the digest %s and not %s",
                        found.text, digest->text);
        if (r == 0)
                r = config_file_parse(answer.body, answer.body_len, &pull->config, err);
        if (r == 0)
                r = blob_put(pull->lease, answer.body, answer.body_len, NULL, err);
        http_answer_clear(&answer);
        return r;
}

static int pull_from(struct registry *registry, struct lease *lease, const struct reference *name,
        const struct image_pull_options *options, struct image **ret, struct err **err)
{
        struct pull pull = { .lease = lease, .registry = registry, .progress = options->progress };
        _cleanup_(http_client_freep) struct http_client *client = NULL;
        struct http_answer manifest = { 0 };
        struct digest digest;
        int r = registry_connect(registry, &client, err);

        if (r == 0)
                r = find_manifest(
                        registry, client, reference_version(name), options->platform, &manifest, &digest, err);
        if (r == 0)
                r = manifest_parse(manifest.body ? manifest.body : "", manifest.body_len, manifest.content_type,
                        &pull.manifest, err);
        if (r == 0)
                r = fetch_config(&pull, client, err);
        if (r == 0 && pull.config.n_diff_ids != pull.manifest.n_layers)
                r = err_set(err, ERR_BAD_IMAGE, EBADMSG,
                        "the image's manifest has %zu layers and its configuration %zu", pull.manifest.n_layers,
                        pull.config.n_diff_ids);
        client = http_client_free(client);
        if (r == 0)
                r = registry_parallel(registry, options->jobs, pull.manifest.n_layers, pull_layer, &pull, err);
        if (r == 0)
                r = blob_put(lease, manifest.body, manifest.body_len, NULL, err);
        if (r == 0)
                r = image_publish(lease, &digest, name, ret, err);
        http_answer_clear(&manifest);
        manifest_clear(&pull.manifest);
        config_file_clear(&pull.config);
        return r;
}

/* --- pull ------------------------------------------------------------------------------------------------------------------------------ */

/* Mirrors first; what the registry itself says counts. */
static int pull_anywhere(struct image_store *store, const struct reference *name,
        const struct image_pull_options *options, struct image **ret, struct err **err)
{
        const struct registry_options registry_options = { options->credentials, options->plain_http,
                options->insecure_tls, false };
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_json_ json_t *mirrors = NULL;
        int r = lease_open(store, &lease, err);

        if (r == 0)
                r = registry_mirrors(name->registry, &mirrors, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i <= json_array_size(mirrors); i++) {
                const bool last = i == json_array_size(mirrors);
                const char *host = last ? name->registry : json_string_value(json_array_get(mirrors, i));
                _cleanup_(registry_closep) struct registry *registry = NULL;
                struct err *failure = NULL;

                r = registry_open(host, name->repository, &registry_options, &registry, &failure);
                if (r == 0)
                        r = pull_from(registry, lease, name, options, ret, &failure);
                if (r < 0 && last && err)
                        *err = TAKE_PTR(failure);
                err_free(failure);
                if (r == 0)
                        break;
        }
        return r;
}

/* In the store. */
static int find_made_for(struct image_store *store, const char *name, const char *platform, struct image **ret, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        int r = image_find(store, name, &image, err);

        if (r == 0 && platform)
                r = image_check_platform(image, platform, err);
        if (r == 0)
                *ret = TAKE_PTR(image);
        return r;
}

int image_get(struct image_store *store, const char *name, const struct image_pull_options *options, struct image **ret,
        struct err **err)
{
        static const struct image_pull_options defaults;
        struct reference reference;
        struct err *missing = NULL;
        int r;

        options = options ? options : &defaults;
        if (options->policy != IMAGE_PULL_ALWAYS) {
                r = find_made_for(store, name, options->platform, ret, &missing);
                if (r == 0 || options->policy == IMAGE_PULL_NEVER || r != -ENOENT) {
                        if (err && r < 0)
                                *err = TAKE_PTR(missing);
                        err_free(missing);
                        return r;
                }
                err_free(missing);
        }
        r = reference_parse(name, &reference, err);
        if (r == 0)
                r = pull_anywhere(store, &reference, options, ret, err);
        return r < 0 ? err_wrap(err, r, "pulling '%s'", name) : 0;
}

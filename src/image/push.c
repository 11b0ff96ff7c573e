/* Pushing: blobs that the registry lacks, several at a time, then the manifest. A blob that the registry has in another
 * repository is mounted instead of sent. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "registry.h"

#define UPLOAD_CHUNK (64 * MIB) /* above, a blob goes up in pieces, each of which can be tried again */

struct push {
        struct image_store *store;
        struct registry *registry;
        const struct image_progress *progress;
        const struct image *image;
        struct reference destination;
        json_t *sources; /* digest -> another repository of the same registry that had it when we looked last */
};

struct upload {
        struct push *push;
        const struct descriptor *blob;
        u64 offset; /* of the request's first byte */
};

static void on_sent(void *opaque, u64 bytes)
{
        const struct upload *u = opaque;

        progress_update(
                u->push->progress, u->blob->digest.text, IMAGE_PROGRESS_TRANSFER, u->offset + bytes, u->blob->size);
}

/* 1 when the registry has it. */
static int is_there(struct push *push, struct http_client *client, const struct digest *digest, struct err **err)
{
        struct http_request request = { .method = "HEAD", .follow = true };
        struct http_answer answer = { 0 };
        char path[32 + DIGEST_TEXT];
        int r;

        snprintf(path, sizeof(path), "blobs/%s", digest->text);
        r = registry_request(push->registry, client, path, &request, 404, &answer, err);
        if (r == 0)
                r = answer.status == 200;
        http_answer_clear(&answer);
        return r;
}

/* Where the answer sends us next, absolute. */
static int next_location(
        struct push *push, const struct http_answer *answer, const char *url, char **location, struct err **err)
{
        char *next = answer->location[0] ? http_resolve(url, answer->location) : NULL;

        if (!next)
                return err_set(err, ERR_IO, EBADMSG, "the registry %s does not say where to send a blob",
                        push->registry->host);
        free(*location);
        *location = next;
        return 0;
}

/* Begins an upload, or mounts the blob: 1 when that worked. */
static int begin_upload(
        struct push *push, struct http_client *client, const struct digest *digest, char **location, struct err **err)
{
        const char *source = json_string_value(json_object_get(push->sources, digest->text));
        struct http_request request = { .method = "POST", .body = "" };
        struct http_answer answer = { 0 };
        char path[96 + DIGEST_TEXT + REFERENCE_REPOSITORY_MAX];
        int r;

        if (source)
                snprintf(path, sizeof(path), "blobs/uploads/?mount=%s&from=%s", digest->text, source);
        else
                snprintf(path, sizeof(path), "blobs/uploads/");
        r = registry_request(push->registry, client, path, &request, 0, &answer, err);
        if (r == 0 && answer.status == 201)
                r = 1;
        else if (r == 0)
                r = next_location(push, &answer, push->registry->base, location, err);
        http_answer_clear(&answer);
        return r;
}

/* After a failure: how much has arrived. */
static int ask_offset(struct push *push, struct http_client *client, char **location, u64 *offset, struct err **err)
{
        struct http_request request = { .url = *location };
        struct http_answer answer = { 0 };
        unsigned long first, last;
        int r = registry_request(push->registry, client, NULL, &request, 0, &answer, err);

        if (r == 0)
                *offset = sscanf(answer.range, "%lu-%lu", &first, &last) == 2 && last > 0 ? last + 1 : 0;
        if (r == 0 && answer.location[0])
                r = next_location(push, &answer, *location, location, err);
        http_answer_clear(&answer);
        return r;
}

/* One PATCH of @len bytes from @u->offset. */
static int send_piece(struct upload *u, struct http_client *client, int fd, u64 len, char **location, struct err **err)
{
        struct http_request request = { .method = "PATCH",
                .url = *location,
                .has_file = true,
                .file_fd = fd,
                .file_offset = u->offset,
                .file_len = len,
                .sent = on_sent,
                .opaque = u };
        struct http_answer answer = { 0 };
        char range[80];
        int r;

        snprintf(range, sizeof(range), "Content-Range: %" PRIu64 "-%" PRIu64, u->offset, u->offset + len - 1);
        request.headers[0] = "Content-Type: application/octet-stream";
        request.headers[1] = range;
        r = registry_request(u->push->registry, client, NULL, &request, 0, &answer, err);
        if (r == 0)
                r = next_location(u->push, &answer, *location, location, err);
        http_answer_clear(&answer);
        return r;
}

static int send_pieces(struct upload *u, struct http_client *client, int fd, char **location, struct err **err)
{
        unsigned failures = 0;
        int r = 0;

        while (u->blob->size - u->offset > UPLOAD_CHUNK || failures > 0) {
                const u64 len = MIN(u->blob->size - u->offset, UPLOAD_CHUNK);
                struct err *failure = NULL;

                if (len == 0)
                        break;
                r = send_piece(u, client, fd, len, location, &failure);
                if (r == 0) {
                        u->offset += len;
                        failures = 0;
                } else if (r == -EAGAIN && ++failures < REGISTRY_TRIES) {
                        err_free(TAKE_PTR(failure));
                        registry_wait(failures);
                        r = ask_offset(u->push, client, location, &u->offset, &failure);
                }
                if (r < 0) {
                        if (err)
                                *err = TAKE_PTR(failure);
                        err_free(failure);
                        return r;
                }
        }
        return 0;
}

/* The last bytes (perhaps all) and the digest that ends the upload. */
static int finish_upload(struct upload *u, struct http_client *client, int fd, char **location, struct err **err)
{
        _cleanup_free_ char *url = NULL;
        struct http_request request = { .method = "PUT",
                .has_file = true,
                .file_fd = fd,
                .file_offset = u->offset,
                .file_len = u->blob->size - u->offset,
                .sent = on_sent,
                .opaque = u,
                .headers = { "Content-Type: application/octet-stream" } };
        struct http_answer answer = { 0 };
        int r;

        if (asprintf(&url, "%s%cdigest=%s", *location, strchr(*location, '?') ? '&' : '?', u->blob->digest.text) < 0) {
                url = NULL;
                return err_sys(err, ENOMEM, "sending a blob");
        }
        request.url = url;
        r = registry_request(u->push->registry, client, NULL, &request, 0, &answer, err);
        http_answer_clear(&answer);
        return r;
}

static int send_blob(struct push *push, struct http_client *client, const struct descriptor *blob, struct err **err)
{
        struct upload u = { .push = push, .blob = blob };
        _cleanup_free_ char *location = NULL;
        _cleanup_close_ int fd = -1;
        u64 size;
        int r = blob_open(push->store, &blob->digest, &fd, &size, err);

        if (r < 0)
                return r;
        if (size != blob->size)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "blob %s is damaged", blob->digest.text);
        for (unsigned failures = 0;;) {
                struct err *failure = NULL;

                u.offset = 0;
                r = begin_upload(push, client, &blob->digest, &location, &failure);
                if (r == 0)
                        r = send_pieces(&u, client, fd, &location, &failure);
                if (r == 0)
                        r = finish_upload(&u, client, fd, &location, &failure);
                if (r >= 0)
                        return r;
                if (r != -EAGAIN || ++failures >= REGISTRY_TRIES) {
                        if (err)
                                *err = TAKE_PTR(failure);
                        err_free(failure);
                        return r;
                }
                err_free(failure);
                registry_wait(failures);
        }
}

static int push_blob(void *opaque, struct http_client *client, size_t i, struct err **err)
{
        struct push *push = opaque;
        const struct manifest *manifest = &push->image->manifest;
        const struct descriptor *blob = i < manifest->n_layers ? &manifest->layers[i] : &manifest->config;
        int r;

        for (size_t j = 0; j < i; j++)
                if (digest_equal(&manifest->layers[j].digest, &blob->digest))
                        return 0;
        r = is_there(push, client, &blob->digest, err);
        if (r == 0)
                r = send_blob(push, client, blob, err);
        else if (r == 1)
                r = 2;
        if (r < 0)
                return r;
        progress_update(push->progress, blob->digest.text, r > 0 ? IMAGE_PROGRESS_EXISTS : IMAGE_PROGRESS_DONE,
                blob->size, blob->size);
        return 0;
}

static int put_manifest(struct push *push, struct err **err)
{
        _cleanup_(http_client_freep) struct http_client *client = NULL;
        const struct image *image = push->image;
        struct http_request request = {
                .method = "PUT", .body = image->manifest_json, .body_len = image->manifest_len
        };
        struct http_answer answer = { 0 };
        char path[32 + REFERENCE_TAG_MAX], type[32 + MEDIA_TYPE_MAX];
        int r = registry_connect(push->registry, &client, err);

        if (r < 0)
                return r;
        snprintf(path, sizeof(path), "manifests/%s",
                push->destination.tag[0] ? push->destination.tag : image->digest.text);
        snprintf(type, sizeof(type), "Content-Type: %s", image->manifest.media_type);
        request.headers[0] = type;
        r = registry_request(push->registry, client, path, &request, 0, &answer, err);
        if (r == 0 && answer.digest[0] && strcmp(answer.digest, image->digest.text) != 0)
                r = err_set(err, ERR_IO, EBADMSG, "the registry %s says that the manifest is %s and not %s",
                        push->registry->host, answer.digest, image->digest.text);
        http_answer_clear(&answer);
        return r;
}

/* --- where else the registry has our blobs ------------------------------------------------------------------------------------------ */

static int note_source(void *opaque, const struct reference *name, const struct record_key *key,
        const struct descriptor *manifest, struct err **err)
{
        struct push *push = opaque;
        _cleanup_json_ json_t *record = NULL;
        const json_t *blobs;

        if (strcmp(name->registry, push->destination.registry) != 0 ||
                strcmp(name->repository, push->destination.repository) == 0 ||
                record_read(push->store, key, &record, NULL) < 0)
                return 0;
        blobs = json_object_get(record, "blobs");
        for (size_t i = 0; i < json_array_size(blobs); i++)
                if (json_object_set_new(push->sources, json_string_value(json_array_get(blobs, i)),
                            json_string(name->repository)) < 0)
                        return err_sys(err, ENOMEM, "pushing an image");
        return 0;
}

int image_push(struct image_store *store, const char *name, const struct image_push_options *options, char **ret_digest,
        struct err **err)
{
        static const struct image_push_options defaults;
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_(registry_closep) struct registry *registry = NULL;
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_json_ json_t *sources = json_object();
        struct push push = { .store = store, .sources = sources };
        struct registry_options registry_options = { .push = true };
        int r = sources ? image_find(store, name, &image, err) : err_sys(err, ENOMEM, "pushing an image");

        options = options ? options : &defaults;
        if (r == 0)
                r = reference_parse(options->destination ? options->destination : image->name, &push.destination, err);
        if (r == 0) /* so that nobody removes it while it is sent */
                r = lease_open(store, &lease, err);
        for (size_t i = 0; r == 0 && i < image->manifest.n_layers; i++)
                r = lease_hold(lease, &image->manifest.layers[i].digest, err);
        if (r == 0)
                r = lease_hold(lease, &image->id, err);
        if (r == 0)
                r = name_list(store, note_source, &push, err);
        if (r < 0)
                return r;
        push.image = image;
        push.progress = options->progress;
        registry_options.credentials = options->credentials;
        registry_options.plain_http = options->plain_http;
        registry_options.insecure_tls = options->insecure_tls;
        r = registry_open(push.destination.registry, push.destination.repository, &registry_options, &registry, err);
        push.registry = registry;
        if (r == 0) /* finds the registry and the credentials before there are threads */
                r = registry_ping(registry, err);
        if (r == 0)
                r = registry_parallel(registry, options->jobs, image->manifest.n_layers + 1, push_blob, &push, err);
        if (r == 0)
                r = put_manifest(&push, err);
        if (r < 0)
                return err_wrap(err, r, "pushing '%s'", name);
        if (ret_digest) {
                *ret_digest = strdup(image->digest.text);
                if (!*ret_digest)
                        return err_sys(err, ENOMEM, "pushing an image");
        }
        return 0;
}

/* --- login --------------------------------------------------------------------------------------------------------------------------------- */

/* The registry's part of a name as people write it: "host", "https://host/v1/" */
static int registry_name(const char *text, char ret[REFERENCE_REPOSITORY_MAX + 1], struct err **err)
{
        const char *p = text ? text : "docker.io";
        size_t len;

        if (strncmp(p, "https://", 8) == 0)
                p += 8;
        else if (strncmp(p, "http://", 7) == 0)
                p += 7;
        len = strcspn(p, "/");
        if (len == 0 || len > REFERENCE_REPOSITORY_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "'%.100s' is not a registry", text);
        memcpy(ret, p, len);
        ret[len] = '\0';
        if (strcmp(ret, "index.docker.io") == 0)
                strcpy(ret, "docker.io");
        return 0;
}

int image_login(const char *registry, const char *user, const char *password, const struct image_pull_options *options,
        struct err **err)
{
        static const struct image_pull_options defaults;
        _cleanup_(registry_closep) struct registry *session = NULL;
        struct registry_options registry_options = { 0 };
        char name[REFERENCE_REPOSITORY_MAX + 1];
        _cleanup_free_ char *pair = NULL;
        int r = registry_name(registry, name, err);

        options = options ? options : &defaults;
        if (r < 0)
                return r;
        if (strchr(user, ':'))
                return err_set(err, ERR_USAGE, EINVAL, "a user's name has no ':'");
        if (asprintf(&pair, "%s:%s", user, password) < 0) {
                pair = NULL;
                return err_sys(err, ENOMEM, "logging in");
        }
        registry_options.credentials = pair;
        registry_options.plain_http = options->plain_http;
        registry_options.insecure_tls = options->insecure_tls;
        r = registry_open(name, "", &registry_options, &session, err);
        if (r == 0)
                r = registry_ping(session, err);
        return r < 0 ? r : credentials_store(name, user, password, err);
}

int image_logout(const char *registry, struct err **err)
{
        char name[REFERENCE_REPOSITORY_MAX + 1];
        int r = registry_name(registry, name, err);

        return r < 0 ? r : credentials_forget(name, err);
}

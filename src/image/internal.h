/* What the parts of the image module share. README.md has the store's layout and the rules of its locks. */
#pragma once

#include <jansson.h>
#include <pthread.h>

#include "digest.h"
#include "image.h"
#include "io.h"
#include "reference.h"

/* Names below the store's root */
#define DIR_BLOBS     "blobs/sha256"
#define DIR_NAMES     "names"
#define DIR_IMAGES    "images"
#define DIR_LAYERS    "layers"
#define DIR_PARTIAL   "partial"
#define DIR_LEASES    "leases"
#define DIR_TMP       "tmp"
#define DIR_BUILD_CACHE "buildcache" /* keys of steps, directories of --mount=type=cache */
#define DIR_INSTANCES "instances"
#define DIR_UNSYNCED  "unsynced" /* layers that may not have reached the disk yet */

#define JSON_FILE_MAX (8 * MIB)  /* manifests and configurations; docker takes 4 MiB */
#define LAYER_JSON_MAX (64 * MIB) /* layer.json: TREE_IMPLIED_MAX, each byte of which may take six */

struct image_store {
        char *root;
        int fd;             /* of the root */
        bool user_xattr;    /* overlay's marks are user.overlay.*, mounts are made with "userxattr" */
        bool squash_owners; /* there is one user only: whoever owns a file in a layer, it is ours */
};

static inline void progress_update(
        const struct image_progress *progress, const char *digest, enum image_progress_state state, u64 done, u64 total)
{
        if (progress && progress->update)
                progress->update(progress->opaque, digest, state, done, total);
}

/* --- store.c: locks and leases ----------------------------------------------------------------------------------------
 *
 * Whoever adds something takes a lease and names in it what must not be collected; then looks whether it is there. The
 * collector reads all leases under the exclusive lock. A lease is a file that is locked while its owner lives. */

/* Closing @ret_fd unlocks. Held for moments: never while data moves. */
int store_lock(struct image_store *store, bool exclusive, int *ret_fd, struct err **err);

struct lease {
        struct image_store *store;
        int fd;     /* locked */
        int tmp_fd; /* a directory of our own on the store's file system; goes away with the lease */
        char name[40];
        unsigned serial; /* for names in tmp_fd */
};

int lease_open(struct image_store *store, struct lease **ret, struct err **err);
/* From any thread. Keeps the blob or layer of that digest. */
int lease_hold(struct lease *lease, const struct digest *digest, struct err **err);
/* A name that nobody has in tmp_fd. From any thread. */
struct lease_name {
        char text[24];
};
struct lease_name lease_new_name(struct lease *lease);
/* Returns NULL. NULL is fine. */
struct lease *lease_close(struct lease *lease);
static inline void lease_closep(struct lease **lease)
{
        lease_close(*lease);
}
/* Takes what a dead process left. Cheap when there is nothing. */
void store_clean_up(struct image_store *store);
/* The names that live leases hold, as keys of a JSON object. Under the exclusive lock. */
int lease_collect(struct image_store *store, json_t *held, struct err **err);

/* --- blob.c ---------------------------------------------------------------------------------------------------------- */

bool blob_exists(struct image_store *store, const struct digest *digest, u64 *ret_size);
int blob_open(struct image_store *store, const struct digest *digest, int *ret_fd, u64 *ret_size, struct err **err);
/* A small blob. What is read to be run is believed: it was verified when it came in, and the store is its owner's. */
int blob_read(struct image_store *store, const struct digest *digest, bool verify, char **ret, size_t *ret_len,
        struct err **err);
/* Adds bytes, fine when they are there. @ret_digest may be NULL. */
int blob_put(struct lease *lease, const void *data, size_t len, struct digest *ret_digest, struct err **err);
/* Puts the complete, synced file @name of @dirfd into the store. */
int blob_publish(struct image_store *store, int dirfd, const char *name, const struct digest *digest, struct err **err);

/* --- manifest.c, config.c: JSON written by strangers ---------------------------------------------------------------- */

#define MEDIA_TYPE_MAX      127
#define MANIFEST_LAYERS_MAX 500 /* overlayfs takes no more (OVL_MAX_STACK) */
#define INDEX_MANIFESTS_MAX 1000

#define MEDIA_OCI_MANIFEST    "application/vnd.oci.image.manifest.v1+json"
#define MEDIA_OCI_INDEX       "application/vnd.oci.image.index.v1+json"
#define MEDIA_OCI_CONFIG      "application/vnd.oci.image.config.v1+json"
#define MEDIA_OCI_LAYER       "application/vnd.oci.image.layer.v1.tar"
#define MEDIA_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define MEDIA_DOCKER_INDEX    "application/vnd.docker.distribution.manifest.list.v2+json"
#define MEDIA_DOCKER_CONFIG   "application/vnd.docker.container.image.v1+json"
#define MEDIA_DOCKER_LAYER    "application/vnd.docker.image.rootfs.diff.tar"

struct descriptor {
        char media_type[MEDIA_TYPE_MAX + 1];
        struct digest digest;
        u64 size;
};

struct manifest {
        char media_type[MEDIA_TYPE_MAX + 1];
        struct descriptor config;
        struct descriptor *layers;
        size_t n_layers;
};

struct platform {
        char os[32], architecture[32], variant[32];
};

/* Parses "os/architecture[/variant]"; NULL is this host's. */
int platform_parse(const char *text, struct platform *ret, struct err **err);

int json_read(const char *text, size_t len, const char *what, json_t **ret, struct err **err);
/* The string member @key, or "" */
const char *json_text(const json_t *object, const char *key);
#define _cleanup_json_ _cleanup_(json_decrefp)

int descriptor_parse(const json_t *json, struct descriptor *ret, struct err **err);
json_t *descriptor_to_json(const struct descriptor *descriptor);

/* @media_type is what came with it (a Content-Type), or "". */
int manifest_parse(const char *text, size_t len, const char *media_type, struct manifest *ret, struct err **err);
void manifest_clear(struct manifest *manifest);
bool manifest_is_index(const char *text, size_t len, const char *media_type);
/* Chooses from an index. */
int index_choose(
        const char *text, size_t len, const struct platform *platform, struct descriptor *ret, struct err **err);
/* A manifest as we write it; the caller's string (json_dumps). */
char *manifest_format(
        const char *media_type, const struct descriptor *config, const struct descriptor *layers, size_t n_layers);

struct config_file {
        json_t *json; /* what the strings below point into */
        struct image_config config;
        struct digest *diff_ids;
        size_t n_diff_ids;
        void **lists; /* what config's lists are made of */
        size_t n_lists;
};

int config_file_parse(const char *text, size_t len, struct config_file *ret, struct err **err);
void config_file_clear(struct config_file *file);

/* --- record.c: images and names -------------------------------------------------------------------------------------- */

struct image {
        char *name;
        struct digest id, digest;
        char *manifest_json, *config_json;
        size_t manifest_len, config_len;
        struct manifest manifest;
        struct config_file config;
};

/* Makes an image of a manifest whose blobs and layers are all in the store and held by @lease: the last step of
 * everything that adds one. @name may be NULL. */
int image_publish(struct lease *lease, const struct digest *manifest, const struct reference *name, struct image **ret,
        struct err **err);
/* Reads and checks manifest and configuration. */
int image_read(
        struct image_store *store, const struct digest *manifest, bool verify, struct image **ret, struct err **err);
int image_set_name(struct image *image, const char *name, struct err **err);

/* A record is the file that makes blobs and layers an image: {"manifest": descriptor, "layers": [diff ids], "blobs":
 * [digests], ...} in images/XX/ID.MANIFEST, where XX begins the id. */
struct record_key {
        struct digest id, manifest;
};
bool record_exists(struct image_store *store, const struct record_key *key);
int record_read(struct image_store *store, const struct record_key *key, json_t **ret, struct err **err);
int record_remove(struct image_store *store, const struct record_key *key, struct err **err);
int record_list(struct image_store *store,
        int (*fn)(void *opaque, const struct record_key *key, const json_t *record, struct err **err), void *opaque,
        struct err **err);
/* What @name stands for. @full is the full name when it is a name, "" when it is an id. */
int image_find_key(struct image_store *store, const char *name, struct record_key *ret, char full[REFERENCE_TEXT_MAX],
        struct err **err);
/* The image whose id begins with @hex, when there is exactly one. */
int record_find(struct image_store *store, const char *hex, struct record_key *ret, struct err **err);

/* --- names.c: names/REPOSITORY/TAG, '/' written as '+' ---------------------------------------------------------------- */

int name_put(struct lease *lease, const struct reference *name, const struct descriptor *manifest,
        const struct digest *id, struct err **err);
int name_get(struct image_store *store, const struct reference *name, struct record_key *ret, struct err **err);
int name_remove(struct image_store *store, const struct reference *name, struct err **err);
int name_list(struct image_store *store,
        int (*fn)(void *opaque, const struct reference *name, const struct record_key *key,
                const struct descriptor *manifest, struct err **err),
        void *opaque, struct err **err);
/* Writes index.json anew, for other tools: nothing here reads it. */
int index_write(struct lease *lease, struct err **err);

/* --- layer.c --------------------------------------------------------------------------------------------------------- */

/* Whether the unpacked layer is there, and not left by a power failure. */
bool layer_exists(struct image_store *store, const struct digest *diff_id);
/* Makes layers that are some time old proof against power failures. */
void layers_sync(struct image_store *store);
/* Unpacks a layer from its blob when it is missing. */
int layer_ensure(struct lease *lease, const struct descriptor *blob, const struct digest *diff_id,
        const struct image_progress *progress, struct err **err);

/* Bytes of a layer on their way in: written to a file, hashed, decompressed, hashed, unpacked, all at the same time. */
struct ingest;

struct ingest_options {
        const struct digest *diff_id; /* NULL: not known before */
        bool unpack;
        u64 already; /* the first bytes to come are in the file */
};
/* @out_fd gets the bytes as they come, -1: they are not to be kept. */
int ingest_new(
        struct lease *lease, int out_fd, const struct ingest_options *options, struct ingest **ret, struct err **err);
int ingest_write(struct ingest *ingest, const void *data, size_t len, struct err **err);
struct ingest_result {
        struct digest digest; /* of the bytes that came in */
        u64 size;
        struct digest diff_id; /* of the tar inside */
        bool gzip, zstd;
};
const char *layer_media_type(const struct ingest_result *result);
/* Waits for everything and fails with the first stage's error. The layer is published unless @expected (may be NULL) is not the digest. */
int ingest_finish(struct ingest *ingest, const struct digest *expected, struct ingest_result *ret, struct err **err);
/* NULL is fine. Returns NULL. Abandons what was not finished. */
struct ingest *ingest_free(struct ingest *ingest);
static inline void ingest_freep(struct ingest **ingest)
{
        ingest_free(*ingest);
}

/* --- gc.c ------------------------------------------------------------------------------------------------------------ */

/* Removes everything that no image, instance or lease refers to. @ret_bytes may be NULL. */
int store_collect(struct image_store *store, const struct image_removal *removal, u64 *ret_bytes, struct err **err);

/* --- change.c -------------------------------------------------------------------------------------------------------- */

/* "CMD [\"/bin/sh\"]": changes a configuration file's JSON. */
int config_change(json_t *file, const char *line, struct err **err);

/* --- instance.c ------------------------------------------------------------------------------------------------------ */

int pin_list(struct image_store *store,
        int (*fn)(void *opaque, const char *id, const struct record_key *key, struct err **err), void *opaque,
        struct err **err);

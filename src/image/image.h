/* Images: a content-addressed store, registries, and root file systems made of shared layers.
 *
 * The store is a directory (an OCI image layout and some more, see README.md). Any number of processes may have it open;
 * every change is a rename, so that a process may die at any point. What costs time with the number of images is
 * image_list, image_remove and image_prune, nothing else.
 *
 *         image_store_open(NULL, &store, err);
 *         image_get(store, "debian:12", &pull_options, &image, err);          pulled when it is missing
 *         image_instance_create(store, image, "web-1", NULL, err);            pins the image, makes a writable layer
 *         image_instance_mount(store, "web-1", 0, &mount_fd, err);            a detached overlay mount
 *         move_mount(mount_fd, "", -1, rootfs, MOVE_MOUNT_F_EMPTY_PATH);      in whatever mount namespace it is wanted
 *         ...
 *         image_instance_remove(store, "web-1", err);                         after it was unmounted
 *
 * Threads: a store and its images may be used by several threads; each call is independent. Functions that move much data
 * (get, pull, push, load, save, build) start threads of their own and wait for them.
 * Names in: "debian", "debian:12", "localhost:5000/a/b@sha256:...", an image id or an unambiguous beginning of one. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct image_store;
struct image;

struct image_store_options {
        const char *root; /* NULL: $STRATA_IMAGE_ROOT, $STRATA_ROOT/images, /var/lib/strata/images or ~/.local/share/strata/images */
};

/* Opens the store, and makes it where there is none. @options may be NULL. */
int image_store_open(const struct image_store_options *options, struct image_store **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct image_store *image_store_close(struct image_store *store);
static inline void image_store_closep(struct image_store **store)
{
        image_store_close(*store);
}
/* The store's directory. */
const char *image_store_root(const struct image_store *store);

/* --- rootless ------------------------------------------------------------------------------------------------------- */

/* For a user who is not root: moves the process into a user namespace with the ids that /etc/subuid grants (or just the
 * user's own) and a mount namespace, so that layers keep their owners and overlays can be mounted. Nothing to do for
 * root, and inside of such a namespace. Before any thread exists. */
int image_enter_user_namespace(struct err **err);

/* --- progress --------------------------------------------------------------------------------------------------------- */

enum image_progress_state {
        IMAGE_PROGRESS_WAITING,  /* another process is fetching it */
        IMAGE_PROGRESS_TRANSFER, /* bytes move; unpacked or compressed on the way */
        IMAGE_PROGRESS_UNPACK,   /* from a blob that is here */
        IMAGE_PROGRESS_DONE,
        IMAGE_PROGRESS_EXISTS, /* nothing to do */
};

/* Called from several threads at once, at most a few times a second and item. @digest is what moves; @total may be 0
 * when it is not known. */
struct image_progress {
        void (*update)(void *opaque, const char *digest, enum image_progress_state state, u64 done, u64 total);
        void *opaque;
};

/* --- finding an image ------------------------------------------------------------------------------------------------- */

struct image_pair {
        const char *key, *value;
};

struct image_healthcheck {
        const char *const *test; /* {"NONE"}, {"CMD", ...}, {"CMD-SHELL", command}; NULL when there is none */
        u64 interval_ns, timeout_ns, start_period_ns; /* 0: the default */
        unsigned retries;
};

/* What an image says about running it. Lists end with NULL and are never NULL themselves; absent strings are "". */
struct image_config {
        const char *os, *architecture, *variant;
        const char *created, *author;
        const char *user; /* "name", "uid", "name:group", ... as written */
        const char *working_dir;
        const char *stop_signal; /* "SIGTERM", "15" */
        const char *const *env;
        const char *const *entrypoint;
        const char *const *cmd;
        const char *const *shell; /* of the Dockerfile's SHELL; empty: /bin/sh -c */
        const char *const *onbuild;
        const char *const *volumes;       /* paths */
        const char *const *exposed_ports; /* "80/tcp" */
        const struct image_pair *labels;  /* ends with key NULL */
        struct image_healthcheck healthcheck;
};

/* What is in the store under that name, id or beginning of an id. -ENOENT, ERR_NOT_FOUND when there is nothing. */
int image_find(struct image_store *store, const char *name, struct image **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct image *image_free(struct image *image);
static inline void image_freep(struct image **image)
{
        image_free(*image);
}

/* "sha256:..." of the configuration, as docker and podman count images. */
const char *image_id(const struct image *image);
/* "sha256:..." of the manifest. */
const char *image_digest(const struct image *image);
/* The full name it was found under, e.g. "docker.io/library/debian:12"; its id when it was found by id. */
const char *image_name(const struct image *image);
const struct image_config *image_get_config(const struct image *image);
/* The configuration and the manifest as they are stored. */
const char *image_config_json(const struct image *image, size_t *ret_len);
const char *image_manifest_json(const struct image *image, size_t *ret_len);

/* Whether it can run on @platform ("linux/arm64"; NULL: this host's). -ENOENT, ERR_NOT_FOUND when it is made for another one. */
int image_check_platform(const struct image *image, const char *platform, struct err **err);

/* Layers, lowest first: directories that nobody may write to. They stay while an instance pins the image. */
size_t image_layer_count(const struct image *image);
/* The caller's string; NULL without memory. */
char *image_layer_path(const struct image_store *store, const struct image *image, size_t i);

/* --- registries ------------------------------------------------------------------------------------------------------- */

enum image_pull_policy { IMAGE_PULL_MISSING, IMAGE_PULL_ALWAYS, IMAGE_PULL_NEVER };

struct image_pull_options {
        enum image_pull_policy policy;
        const char *platform;    /* "linux/amd64", "linux/arm/v7"; NULL: this host's */
        const char *credentials; /* "user:password"; NULL: from docker's config.json */
        bool plain_http;         /* allow http:// for this registry; loopback may always */
        bool insecure_tls;       /* do not verify the certificate */
        unsigned jobs;           /* layers at a time; 0: 4 */
        const struct image_progress *progress;
};

/* Finds or pulls by the policy; one that is here but made for another platform than the one that @options name is none. @options may be NULL. */
int image_get(struct image_store *store, const char *name, const struct image_pull_options *options, struct image **ret,
        struct err **err);

struct image_push_options {
        const char *destination; /* NULL: the image's own name */
        const char *credentials;
        bool plain_http, insecure_tls;
        unsigned jobs;
        const struct image_progress *progress;
};

/* On success @ret_digest (may be NULL) is the caller's string: the manifest's digest at the registry. */
int image_push(struct image_store *store, const char *name, const struct image_push_options *options, char **ret_digest,
        struct err **err);

/* Asks the registry (NULL: docker.io) whether @user and @password are right, and writes them to docker's config.json. */
int image_login(const char *registry, const char *user, const char *password, const struct image_pull_options *options,
        struct err **err);
int image_logout(const char *registry, struct err **err);

/* --- names and lists -------------------------------------------------------------------------------------------------- */

/* "debian" -> "docker.io/library/debian:latest". The caller's string. */
int image_name_normalize(const char *name, char **ret, struct err **err);
/* @name stands for what @source stands for. */
int image_tag(struct image_store *store, const char *source, const char *name, struct err **err);

struct image_summary {
        const char *id, *digest;  /* "sha256:..." */
        const char *const *names; /* ends with NULL; none: the image was untagged */
        const char *created;      /* RFC 3339, from the configuration */
        const char *os, *architecture;
        u64 size; /* of its layers, compressed */
        size_t layers;
        size_t instances;
};

/* Calls @fn for every image until it returns something other than 0; returns that. */
int image_list(struct image_store *store, int (*fn)(void *opaque, const struct image_summary *image), void *opaque,
        struct err **err);

/* Calls @fn for every name of the image with that id, in full, and the manifest's digest behind it. Reads the names alone, all of them. */
int image_each_name(struct image_store *store, const char *id, int (*fn)(void *opaque, const char *name, const char *digest), void *opaque,
        struct err **err);

struct image_history_entry {
        const char *created, *created_by, *comment;
        bool empty_layer;
        u64 size; /* of the layer, compressed */
};
/* Oldest first. */
int image_history(struct image_store *store, const struct image *image,
        int (*fn)(void *opaque, const struct image_history_entry *entry), void *opaque, struct err **err);

/* Told of everything that goes away: "untagged" and a name, "deleted" and a digest. */
struct image_removal {
        void (*removed)(void *opaque, const char *what, const char *name);
        void *opaque;
};

/* Takes away the name; and the image with everything that only it used, when that was its last name. By id: all its names,
 * when there are several only with @force. Fails with ERR_BUSY while instances use it. @removal may be NULL. */
int image_remove(
        struct image_store *store, const char *name, bool force, const struct image_removal *removal, struct err **err);

struct image_prune_options {
        bool all; /* also images with a name that no instance uses, and what builds remember */
        const struct image_removal *removal;
};
/* Removes images without a name and everything that nothing refers to. @ret_bytes may be NULL. */
int image_prune(struct image_store *store, const struct image_prune_options *options, u64 *ret_bytes, struct err **err);

/* Whether the store is whole: every blob has its digest, every image its parts, nothing half-made. Calls @problem for
 * each defect; returns their number. @deep reads and hashes every blob. */
int image_check(struct image_store *store, bool deep, void (*problem)(void *opaque, const char *text), void *opaque,
        struct err **err);

/* --- archives --------------------------------------------------------------------------------------------------------- */

enum image_archive_format { IMAGE_ARCHIVE_DOCKER, IMAGE_ARCHIVE_OCI };

/* Writes a tar of the images to @fd. */
int image_save(struct image_store *store, const char *const *names, enum image_archive_format format, int fd,
        struct err **err);
/* Reads either format from @fd, which may be a pipe. @loaded is called for each image with its name or id; may be NULL. */
int image_load(struct image_store *store, int fd, const struct image_progress *progress,
        void (*loaded)(void *opaque, const char *name), void *opaque, struct err **err);

struct image_import_options {
        const char *name; /* NULL: none */
        const char *comment;
        const char *const *changes; /* "CMD [\"/bin/sh\"]", "ENV a=b": lines of a Dockerfile; NULL: none */
};
/* Makes an image of one layer from the tar (plain, gzip or zstd) that @fd yields. */
int image_import(struct image_store *store, int fd, const struct image_import_options *options, struct image **ret,
        struct err **err);

/* --- building --------------------------------------------------------------------------------------------------------- */

struct image_build_options {
        const char *context;        /* a directory; NULL: the current one; "-": an archive, or a Dockerfile alone, on standard input */
        const char *dockerfile;     /* NULL: Dockerfile in the context; "-": standard input */
        const char *const *names;   /* NULL: none */
        const char *const *args;    /* "NAME=VALUE", or "NAME" with the environment's value */
        const char *const *labels;  /* "NAME=VALUE" */
        const char *const *secrets; /* "id=ID,src=FILE", "id=ID,env=NAME" */
        const char *const *hosts;   /* "NAME:ADDRESS", for RUN's /etc/hosts */
        const char *target;         /* a stage; NULL: the last one */
        const char *platform;       /* NULL or this host's; others are refused */
        u64 shm_size;               /* of RUN's /dev/shm; 0: 64 MiB */
        bool no_network;            /* RUN has a loopback alone */
        const char *runtime; /* a program with runc's command line; NULL: strata-oci beside us, else crun or runc */
        bool no_cache, pull; /* do everything again; ask for newer base images */
        void (*log)(void *opaque, const char *line); /* each step */
        void *opaque;
        const struct image_progress *progress;
};
/* Builds the image of a Dockerfile. With SOURCE_DATE_EPOCH in the environment the same inputs give the same digests. */
int image_build(
        struct image_store *store, const struct image_build_options *options, struct image **ret, struct err **err);

/* --- instances: writable roots on an image ------------------------------------------------------------------------------ */

/* Pins the image under the instance's id (letters, digits, "_.-") and makes its writable layer. -EEXIST, ERR_BUSY when
 * there is one of that id. */
int image_instance_create(struct image_store *store, const struct image *image, const char *id, struct err **err);

enum {
        IMAGE_MOUNT_READ_ONLY = 1 << 0, /* the image alone, without the writable layer */
        IMAGE_MOUNT_VOLATILE = 1 << 1,  /* nothing of it needs to survive a power failure: never synced */
};
/* A detached mount of the instance's root (fsmount); the caller moves it where it wants, or closes it. */
int image_instance_mount(
        struct image_store *store, const char *id, unsigned flags, int *ret_mount_fd, struct err **err);
/* The same for a user who is not root and wants other owners: "ON-DISK:SHOWN:COUNT[:...]" of users and of groups. By fuse-overlayfs. */
int image_instance_mount_shifted(struct image_store *store, const char *id, unsigned flags, const char *uids, const char *gids,
        int *ret_mount_fd, struct err **err);
/* The same as image_instance_mount, attached at a directory of the instance. The caller's string. For runtimes that want a path. */
int image_instance_attach(struct image_store *store, const char *id, unsigned flags, char **ret_path, struct err **err);
/* Detaches that; fine when it is not attached. */
int image_instance_detach(struct image_store *store, const char *id, struct err **err);
/* Removes the writable layer and the pin. Fine when there is no such instance. */
int image_instance_remove(struct image_store *store, const char *id, struct err **err);
/* The image it was created from. */
int image_instance_image(struct image_store *store, const char *id, struct image **ret, struct err **err);
int image_instance_list(struct image_store *store, int (*fn)(void *opaque, const char *id, const char *image_digest),
        void *opaque, struct err **err);

/* Calls @fn with 'A', 'C' or 'D' (added, changed, deleted) and a path, as `docker diff`. */
int image_instance_diff(struct image_store *store, const char *id, int (*fn)(void *opaque, char kind, const char *path),
        void *opaque, struct err **err);

struct image_commit_options {
        const char *name; /* NULL: none */
        const char *author, *comment;
        const char *created_by;     /* for the history */
        const char *const *changes; /* as image_import_options.changes */
};
/* The writable layer becomes a layer of a new image. */
int image_instance_commit(struct image_store *store, const char *id, const struct image_commit_options *options,
        struct image **ret, struct err **err);

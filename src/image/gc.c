/* What is not referred to goes away: roots are the records of images and the leases of who is adding something.
 *
 * Removing takes the exclusive lock, so that nobody adds a reference between the look and the deed; trees are only moved
 * under it, and deleted afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "internal.h"

#define PARTIAL_MAX_AGE (7 * 24 * 3600) /* how long an interrupted download can be resumed */

struct sweep {
        struct lease *lease;
        json_t *keep; /* hexadecimal digests of blobs and layers */
        const struct image_removal *removal;
        u64 bytes;
};

static void told(const struct image_removal *removal, const char *what, const char *name)
{
        if (removal && removal->removed)
                removal->removed(removal->opaque, what, name);
}

static int mark_list(json_t *keep, const json_t *digests, struct err **err)
{
        for (size_t i = 0; i < json_array_size(digests); i++) {
                const char *text = json_string_value(json_array_get(digests, i));

                if (text && digest_valid(text) &&
                        json_object_set_new(keep, text + sizeof(DIGEST_PREFIX) - 1, json_true()) < 0)
                        return err_sys(err, ENOMEM, "collecting garbage");
        }
        return 0;
}

static int mark_record(void *opaque, const struct record_key *key, const json_t *record, struct err **err)
{
        int r = mark_list(opaque, json_object_get(record, "blobs"), err);

        return r < 0 ? r : mark_list(opaque, json_object_get(record, "layers"), err);
}

static int sweep_blob(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct sweep *s = opaque;
        char digest[DIGEST_TEXT + 1];
        struct stat st;

        if (json_object_get(s->keep, file) || fstatat(dirfd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return 0;
        if (unlinkat(dirfd, file, 0) < 0)
                return errno == ENOENT ? 0 : err_sys(err, errno, "removing blob %s", file);
        s->bytes += (u64)st.st_blocks * 512;
        snprintf(digest, sizeof(digest), DIGEST_PREFIX "%.64s", file);
        told(s->removal, "deleted", digest);
        return 0;
}

static int sweep_layer(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct sweep *s = opaque;
        char unsynced[sizeof(DIR_UNSYNCED) + 1 + DIGEST_HEX];

        if (json_object_get(s->keep, file))
                return 0;
        if (renameat(dirfd, file, s->lease->tmp_fd, lease_new_name(s->lease).text) < 0)
                return errno == ENOENT ? 0 : err_sys(err, errno, "removing layer %s", file);
        snprintf(unsynced, sizeof(unsynced), DIR_UNSYNCED "/%.64s", file);
        unlinkat(s->lease->store->fd, unsynced, 0);
        return 0;
}

static int sweep_partial(void *opaque, int dirfd, const char *file, struct err **err)
{
        struct stat st;

        if (fstatat(dirfd, file, &st, AT_SYMLINK_NOFOLLOW) == 0 && time(NULL) - st.st_mtim.tv_sec > PARTIAL_MAX_AGE)
                unlinkat(dirfd, file, 0);
        return 0;
}

int store_collect(struct image_store *store, const struct image_removal *removal, u64 *ret_bytes, struct err **err)
{
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_json_ json_t *keep = json_object();
        struct sweep s = { .keep = keep, .removal = removal };
        _cleanup_close_ int lock = -1;
        int r;

        if (!keep)
                return err_sys(err, ENOMEM, "collecting garbage");
        r = lease_open(store, &lease, err);
        if (r == 0)
                r = store_lock(store, true, &lock, err);
        if (r == 0)
                r = lease_collect(store, keep, err);
        if (r == 0)
                r = record_list(store, mark_record, keep, err);
        s.lease = lease;
        if (r == 0)
                r = io_list_dir(store->fd, DIR_BLOBS, sweep_blob, &s, err);
        if (r == 0)
                r = io_list_dir(store->fd, DIR_LAYERS, sweep_layer, &s, err);
        if (r == 0)
                r = io_list_dir(store->fd, DIR_PARTIAL, sweep_partial, &s, err);
        if (r < 0)
                return r;
        layers_sync(store);
        if (ret_bytes)
                *ret_bytes = s.bytes;
        return 0; /* the lock goes first, then the lease with the trees */
}

/* --- removing images -------------------------------------------------------------------------------------------------- */

struct removal_plan {
        const struct record_key *key;
        struct reference *names; /* of the image */
        size_t n_names;
};

static int collect_name(void *opaque, const struct reference *name, const struct record_key *key,
        const struct descriptor *manifest, struct err **err)
{
        struct removal_plan *plan = opaque;
        struct reference *grown;

        if (!digest_equal(&key->manifest, &plan->key->manifest))
                return 0;
        grown = reallocarray(plan->names, plan->n_names + 1, sizeof(*grown));
        if (!grown)
                return err_sys(err, ENOMEM, "removing an image");
        plan->names = grown;
        plan->names[plan->n_names++] = *name;
        return 0;
}

static int untag(
        struct image_store *store, const struct reference *name, const struct image_removal *removal, struct err **err)
{
        char full[REFERENCE_TEXT_MAX];
        int r = name_remove(store, name, err);

        if (r < 0)
                return r;
        reference_format(name, full);
        told(removal, "untagged", full);
        return 0;
}

/* Who uses the image: how many, and one of them. */
struct image_use {
        const struct record_key *key;
        unsigned n;
        char id[64];
};

static int count_use(void *opaque, const char *id, const struct record_key *key, struct err **err)
{
        struct image_use *use = opaque;

        if (digest_equal(&key->manifest, &use->key->manifest) && use->n++ == 0)
                snprintf(use->id, sizeof(use->id), "%s", id);
        return 0;
}

static int check_unused(struct image_store *store, const struct record_key *key, struct err **err)
{
        struct image_use use = { .key = key };
        int r = pin_list(store, count_use, &use, err);

        if (r < 0)
                return r;
        if (use.n > 0) {
                r = err_set(err, ERR_BUSY, EBUSY, "the image is used by %u instance%s, '%s' is one", use.n,
                        use.n > 1 ? "s" : "", use.id);
                return err_hint(err, r, "remove the instances first");
        }
        return 0;
}

/* Under the exclusive lock. */
static int remove_locked(
        struct image_store *store, const char *name, bool force, const struct image_removal *removal, struct err **err)
{
        char full[REFERENCE_TEXT_MAX];
        struct removal_plan plan = { 0 };
        struct reference reference;
        struct record_key key;
        bool whole;
        int r = image_find_key(store, name, &key, full, err);

        if (r < 0)
                return r;
        plan.key = &key;
        r = name_list(store, collect_name, &plan, err);
        if (r == 0 && full[0])
                r = reference_parse(full, &reference, err);
        whole = !full[0] || plan.n_names <= 1;
        if (r == 0 && !full[0] && plan.n_names > 1 && !force) {
                r = err_set(err, ERR_BUSY, EBUSY, "the image %.19s has %zu names", key.id.text, plan.n_names);
                err_hint(err, r, "remove one of the names, or all with --force");
        }
        if (r == 0 && whole)
                r = check_unused(store, &key, err);
        if (r == 0 && full[0])
                r = untag(store, &reference, removal, err);
        for (size_t i = 0; r == 0 && !full[0] && i < plan.n_names; i++)
                r = untag(store, &plan.names[i], removal, err);
        if (r == 0 && whole) {
                r = record_remove(store, &key, err);
                if (r == 0)
                        told(removal, "removed", key.id.text);
        }
        free(plan.names);
        return r;
}

int image_remove(
        struct image_store *store, const char *name, bool force, const struct image_removal *removal, struct err **err)
{
        _cleanup_(lease_closep) struct lease *lease = NULL;
        int lock = -1;
        int r = lease_open(store, &lease, err);

        if (r == 0)
                r = store_lock(store, true, &lock, err);
        if (r == 0)
                r = remove_locked(store, name, force, removal, err);
        if (r == 0)
                r = index_write(lease, err);
        closep(&lock);
        return r < 0 ? r : store_collect(store, removal, NULL, err);
}

/* --- prune ------------------------------------------------------------------------------------------------------------ */

struct prune {
        struct image_store *store;
        const struct image_prune_options *options;
        json_t *named; /* manifests */
};

static int note_name(void *opaque, const struct reference *name, const struct record_key *key,
        const struct descriptor *manifest, struct err **err)
{
        struct prune *p = opaque;

        if (json_object_set_new(p->named, key->manifest.text, json_true()) < 0)
                return err_sys(err, ENOMEM, "pruning images");
        return 0;
}

static int prune_name(void *opaque, const struct reference *name, const struct record_key *key,
        const struct descriptor *manifest, struct err **err)
{
        struct prune *p = opaque;

        return check_unused(p->store, key, NULL) < 0 ? 0 : untag(p->store, name, p->options->removal, err);
}

static int prune_record(void *opaque, const struct record_key *key, const json_t *record, struct err **err)
{
        struct prune *p = opaque;
        int r;

        if (json_object_get(p->named, key->manifest.text) || check_unused(p->store, key, NULL) < 0)
                return 0;
        r = record_remove(p->store, key, err);
        if (r == 0)
                told(p->options->removal, "removed", key->id.text);
        return r;
}

int image_prune(struct image_store *store, const struct image_prune_options *options, u64 *ret_bytes, struct err **err)
{
        static const struct image_prune_options none;
        _cleanup_json_ json_t *named = json_object();
        struct prune p = { store, options ? options : &none, named };
        _cleanup_(lease_closep) struct lease *lease = NULL;
        int lock = -1;
        int r = named ? lease_open(store, &lease, err) : err_sys(err, ENOMEM, "pruning images");

        if (r == 0)
                r = store_lock(store, true, &lock, err);
        if (r == 0 && p.options->all) {
                r = name_list(store, prune_name, &p, err);
                /* What builds remember; the files go with the lease. */
                if (renameat(store->fd, DIR_BUILD_CACHE, lease->tmp_fd, lease_new_name(lease).text) < 0 &&
                        errno != ENOENT && r == 0)
                        r = err_sys(err, errno, "removing the build cache");
        }
        if (r == 0)
                r = name_list(store, note_name, &p, err);
        if (r == 0)
                r = record_list(store, prune_record, &p, err);
        if (r == 0)
                r = index_write(lease, err);
        closep(&lock);
        return r < 0 ? r : store_collect(store, p.options->removal, ret_bytes, err);
}

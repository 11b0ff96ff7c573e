/* An instance's writable layer: what changed, how large it is, a new image of it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "image/walk.h"
#include "internal.h"
#include "tree_copy.h"

struct diff {
        const struct instance_config *config;
        int (*fn)(void *opaque, char kind, const char *path);
        void *opaque;
};

/* A directory or empty file that is there only for something to be mounted on it. */
static bool is_mount_point(const struct instance_config *c, const char *path)
{
        static const char *const always[] = { "/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname",
                "/etc/resolv.conf" };

        for (size_t i = 0; i < ARRAY_SIZE(always); i++)
                if (strcmp(always[i], path) == 0)
                        return true;
        for (size_t i = 0; i < c->mounts.n; i++)
                if (strcmp(c->mounts.item[i].target, path) == 0)
                        return true;
        return false;
}

static int tell(void *opaque, char kind, const char *path)
{
        const struct diff *d = opaque;

        return kind == 'A' && is_mount_point(d->config, path) ? 0 : d->fn(d->opaque, kind, path);
}

int instance_diff(
        struct instance *inst, int (*fn)(void *opaque, char kind, const char *path), void *opaque, struct err **err)
{
        struct diff d = { &inst->config, fn, opaque };

        return image_instance_diff(inst->host->images, inst->id, tell, &d, err);
}

int instance_commit(struct instance *inst, const struct image_commit_options *options, bool pause, struct image **ret,
        struct err **err)
{
        _cleanup_(err_freep) struct err *why = NULL;
        const struct instance_state *state;
        bool frozen = false;
        int r = instance_get_state(inst, &state, err);

        if (r == 0 && pause && state->status == INSTANCE_RUNNING) {
                r = instance_pause(inst, &why);
                frozen = r == 0;
                if (r < 0 && inst->host->rootless) { /* a user may have no control groups */
                        log_warn("it is not paused: %s", err_message(why));
                        r = 0;
                } else if (r < 0 && err) {
                        *err = TAKE_PTR(why);
                }
        }
        if (r == 0)
                r = image_instance_commit(inst->host->images, inst->id, options, ret, err);
        if (frozen)
                instance_unpause(inst, NULL);
        if (r == 0)
                event_write(inst->host, "commit", inst, 0, "");
        return r;
}

int instance_size(struct instance *inst, u64 *ret_layer, u64 *ret_total, struct err **err)
{
        struct image_store *store = inst->host->images;
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_free_ char *upper = NULL;
        u64 layers = 0;
        int r = image_instance_image(store, inst->id, &image, err);

        if (r < 0)
                return r;
        if (asprintf(&upper, "%s/" DIR_INSTANCES "/%s/upper", image_store_root(store), inst->id) < 0)
                return err_sys(err, ENOMEM, "measuring '%s'", inst->config.name);
        for (size_t i = 0; i < image_layer_count(image); i++) {
                _cleanup_free_ char *path = image_layer_path(store, image, i);

                layers += path ? tree_size(path) : 0;
        }
        *ret_layer = tree_size(upper);
        *ret_total = *ret_layer + layers;
        return 0;
}

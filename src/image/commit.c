/* What an instance changed: listed, or as a layer of a new image. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "compress.h"
#include "diff.h"
#include "instance.h"
#include "layer_writer.h"
#include "make.h"

int image_instance_diff(struct image_store *store, const char *id, int (*fn)(void *opaque, char kind, const char *path),
        void *opaque, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_(instance_free_paths) char **lower = NULL;
        _cleanup_close_ int upper = -1;
        size_t n;
        int r = image_instance_image(store, id, &image, err);

        if (r == 0)
                r = instance_lower_paths(
                        store, image->config.diff_ids, image->config.n_diff_ids, false, &lower, &n, err);
        if (r == 0)
                r = instance_open_upper(store, id, &upper, err);
        return r < 0 ? r : diff_list(upper, store->user_xattr, (const char *const *)lower, n, fn, opaque, err);
}

int image_instance_commit(struct image_store *store, const char *id, const struct image_commit_options *options,
        struct image **ret, struct err **err)
{
        static const struct image_commit_options none;
        _cleanup_(new_image_clear) struct new_image image = { 0 };
        _cleanup_(lease_closep) struct lease *lease = NULL;
        _cleanup_(image_freep) struct image *base = NULL;
        _cleanup_close_ int upper = -1;
        struct descriptor layer;
        struct digest diff_id;
        int r = image_instance_image(store, id, &base, err);

        options = options ? options : &none;
        if (r == 0)
                r = lease_open(store, &lease, err);
        if (r == 0)
                r = new_image_init(&image, lease, base, err);
        for (const char *const *change = options->changes; r == 0 && change && *change; change++)
                r = config_change(image.config, *change, err);
        if (r == 0)
                r = instance_open_upper(store, id, &upper, err);
        if (r == 0)
                r = layer_from_upper(lease, upper, -1, &layer, &diff_id, err);
        if (r == 0)
                r = new_image_add_layer(&image, &layer, &diff_id, err);
        if (r == 0)
                r = new_image_add_history(&image, options->created_by, options->comment, false, err);
        if (r < 0)
                return err_wrap(err, r, "committing instance '%s'", id);
        if (options->author)
                json_object_set_new(image.config, "author", json_string(options->author));
        return new_image_publish(&image, options->name, ret, err);
}

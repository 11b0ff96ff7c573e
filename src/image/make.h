/* New images: a configuration that grows by layers and history entries. */
#pragma once

#include "internal.h"

struct new_image {
        struct lease *lease;
        json_t *config; /* the configuration file, as it will be */
        struct descriptor *layers;
        size_t n_layers;
};

/* Of @base's configuration and layers, or of nothing. */
int new_image_init(struct new_image *image, struct lease *lease, const struct image *base, struct err **err);
void new_image_clear(struct new_image *image);
int new_image_add_layer(
        struct new_image *image, const struct descriptor *layer, const struct digest *diff_id, struct err **err);
/* An entry of the history; texts may be NULL. */
int new_image_add_history(
        struct new_image *image, const char *created_by, const char *comment, bool empty_layer, struct err **err);
/* Writes configuration and manifest, publishes them. @name may be NULL. */
int new_image_publish(struct new_image *image, const char *name, struct image **ret, struct err **err);

/* Now, or SOURCE_DATE_EPOCH (reproducible-builds.org), as seconds and RFC 3339. */
s64 make_time(void);
struct time_text {
        char text[32];
};
struct time_text make_time_text(s64 seconds);

/* For the tests of images: archives made in memory, stores in temporary directories. */
#pragma once

#include "image/internal.h"
#include "image/tar.h"

struct bytes {
        u8 *data;
        size_t len, pos;
};

/* A byte_sink that appends to struct bytes. */
struct byte_sink bytes_sink(struct bytes *bytes);
/* A byte_source of @bytes in pieces of at most @piece bytes. */
struct bytes_source {
        const struct bytes *bytes;
        size_t pos, piece;
};
struct byte_source bytes_source(struct bytes_source *source);

/* One more entry; @link may be NULL, @data is a text or NULL. */
void tar_add(struct bytes *bytes, enum tar_type type, const char *path, const char *link, const char *data);
void tar_add_entry(struct bytes *bytes, const struct tar_entry *entry, const char *data);
void tar_end(struct bytes *bytes);

/* The powers of the first user namespace, as the file system of @dirfd sees them. */
bool is_real_root(int dirfd);
/* Unpacks @bytes as a layer into the directory @fd. */
int unpack_bytes(const struct bytes *bytes, int fd, struct err **err);

/* A new directory; removed with everything in it by temp_dir_remove. */
struct temp_dir {
        char path[64];
        int fd;
};
struct temp_dir temp_dir_new(void);
void temp_dir_remove(struct temp_dir *dir);

struct image_store *store_in(const struct temp_dir *dir);
/* An image of one layer that has the file /NAME with @text in it. */
struct image *image_with_file(struct image_store *store, const char *name, const char *file, const char *text);
/* An image of two archives, each of which may be NULL. */
struct image *image_of_layers(struct image_store *store, const char *name, const struct bytes *lower, const struct bytes *upper);
/* A file below a directory, as a text; NULL when there is none. */
char *read_text(int dirfd, const char *path);

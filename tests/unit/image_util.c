#include "image_util.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>

#include "image/layer_writer.h"
#include "image/make.h"
#include "image/unpack.h"

/* A test's own preparations do not fail; when they do there is nothing to test. */
static void must(bool ok)
{
        if (!ok)
                abort();
}

static int append(void *opaque, const void *data, size_t len, struct err **err)
{
        struct bytes *bytes = opaque;
        u8 *grown = realloc(bytes->data, bytes->len + len + 1);

        must(grown);
        bytes->data = grown;
        memcpy(grown + bytes->len, data, len);
        bytes->len += len;
        return 0;
}

struct byte_sink bytes_sink(struct bytes *bytes)
{
        return (struct byte_sink){ append, bytes };
}

static int next_piece(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct bytes_source *source = opaque;

        *ret_len = MIN(source->piece, source->bytes->len - source->pos);
        *ret_data = source->bytes->data + source->pos;
        source->pos += *ret_len;
        return 0;
}

struct byte_source bytes_source(struct bytes_source *source)
{
        return (struct byte_source){ next_piece, source };
}

void tar_add_entry(struct bytes *bytes, const struct tar_entry *entry, const char *data)
{
        const struct byte_sink sink = bytes_sink(bytes);

        must(tar_write_header(&sink, entry, NULL) == 0);
        if (data) {
                append(bytes, data, strlen(data), NULL);
                must(tar_write_padding(&sink, strlen(data), NULL) == 0);
        }
}

void tar_add(struct bytes *bytes, enum tar_type type, const char *path, const char *link, const char *data)
{
        const struct tar_entry entry = { .type = type,
                .path = (char *)path,
                .link = (char *)link,
                .mode = type == TAR_DIR ? 0755 : 0644,
                .size = data ? strlen(data) : 0,
                .mtime.tv_sec = 1000000000 };

        tar_add_entry(bytes, &entry, data);
}

void tar_end(struct bytes *bytes)
{
        const struct byte_sink sink = bytes_sink(bytes);

        must(tar_write_end(&sink, NULL) == 0);
}

bool is_real_root(int dirfd)
{
        return fsetxattr(dirfd, "trusted.strata", "x", 1, 0) == 0 && fremovexattr(dirfd, "trusted.strata") == 0;
}

int unpack_bytes(const struct bytes *bytes, int fd, struct err **err)
{
        struct bytes_source source = { .bytes = bytes, .piece = 1000 };
        const struct byte_source byte_source = bytes_source(&source);
        const struct unpack_options options = { .user_xattr = !is_real_root(fd), .squash_owners = !is_real_root(fd) };
        struct unpack_result result = { 0 };
        struct tar_reader *tar = NULL;
        int r;

        must(tar_reader_new(&byte_source, &tar, NULL) == 0);
        r = unpack_layer(fd, tar, &options, &result, err);
        tar_reader_free(tar);
        json_decref(result.implied);
        return r;
}

struct temp_dir temp_dir_new(void)
{
        struct temp_dir dir = {
                .path = "/var/tmp/strata-image-XXXXXX"
        }; /* on a disk: /tmp may lack extended attributes */

        must(mkdtemp(dir.path));
        dir.fd = open(dir.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        must(dir.fd >= 0);
        return dir;
}

void temp_dir_remove(struct temp_dir *dir)
{
        close(dir->fd);
        io_remove_tree(AT_FDCWD, dir->path, NULL);
}

struct image_store *store_in(const struct temp_dir *dir)
{
        const struct image_store_options options = { .root = dir->path };
        struct image_store *store = NULL;

        must(image_store_open(&options, &store, NULL) == 0);
        return store;
}

struct image *image_with_file(struct image_store *store, const char *name, const char *file, const char *text)
{
        const struct image_import_options options = { .name = name };
        struct image *image = NULL;
        struct bytes bytes = { 0 };
        const int fd = memfd_create("archive", MFD_CLOEXEC);

        tar_add(&bytes, TAR_DIR, "./", NULL, NULL);
        tar_add(&bytes, TAR_FILE, file, NULL, text);
        tar_end(&bytes);
        must(fd >= 0 && io_write_all(fd, bytes.data, bytes.len) == 0 && lseek(fd, 0, SEEK_SET) == 0);
        must(image_import(store, fd, &options, &image, NULL) == 0);
        close(fd);
        free(bytes.data);
        return image;
}

/* One more layer, from the archive's bytes. */
static void add_layer(struct new_image *image, const struct bytes *bytes)
{
        struct layer_writer *writer = NULL;
        struct descriptor layer;
        struct digest diff_id;
        const struct byte_sink *sink;

        must(layer_writer_new(image->lease, &writer, NULL) == 0);
        sink = layer_writer_sink(writer);
        must(sink->write(sink->opaque, bytes->data, bytes->len, NULL) == 0);
        must(layer_writer_finish(writer, &layer, &diff_id, NULL) == 0);
        must(new_image_add_layer(image, &layer, &diff_id, NULL) == 0);
        layer_writer_free(writer);
}

struct image *image_of_layers(
        struct image_store *store, const char *name, const struct bytes *lower, const struct bytes *upper)
{
        struct new_image made;
        struct lease *lease = NULL;
        struct image *image = NULL;

        must(lease_open(store, &lease, NULL) == 0 && new_image_init(&made, lease, NULL, NULL) == 0);
        if (lower)
                add_layer(&made, lower);
        if (upper)
                add_layer(&made, upper);
        must(new_image_publish(&made, name, &image, NULL) == 0);
        new_image_clear(&made);
        lease_close(lease);
        return image;
}

char *read_text(int dirfd, const char *path)
{
        char *text = NULL;

        return io_read_file(dirfd, path, 1 * MIB, &text, NULL, NULL) < 0 ? NULL : text;
}

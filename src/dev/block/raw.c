/* Raw images: the guest's bytes are the file's bytes.
 *
 * Sizes that are no multiple of 512 are rounded up: the missing bytes read as zeros, and a write to the last block makes the
 * file whole.
 *
 * The probing hole: a guest that can write the first bytes of its disk can make a raw image look like qcow2, with any file
 * of the host as its "backing file", and would read that file when the image is probed at the next start. So an image whose
 * rawness was only guessed never gets qcow2's magic number at offset 0: such a write fails with -EPERM. The bytes are copied before
 * they are examined, because the guest can change its memory at any time. With format=raw nothing is guessed and
 * everything may be written. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "internal.h"

struct raw {
        struct image image;
        struct host_file file;
        bool guard_magic;
};

static struct raw *to_raw(struct image *image)
{
        return container_of(image, struct raw, image);
}

static int raw_read(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        return host_file_readv(&to_raw(image)->file, cursor, bytes, offset);
}

/* The first block of a probed image; advances the cursor. */
static int write_first_block(struct raw *raw, struct iov_cursor *cursor)
{
        static const u8 magic[4] = { 'Q', 'F', 'I', 0xfb };
        u8 block[BLOCK_SECTOR];

        iov_get(cursor, block, sizeof(block));
        if (memcmp(block, magic, sizeof(magic)) == 0) {
                log_warn_once("a guest wrote a qcow2 header to a disk whose raw format was guessed; refused. "
                              "Say format=raw if it may do that");
                return -EPERM;
        }
        return host_file_write(&raw->file, block, sizeof(block), 0);
}

static int raw_write(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset)
{
        struct raw *raw = to_raw(image);
        int r;

        if (raw->guard_magic && offset == 0 && bytes >= BLOCK_SECTOR) {
                r = write_first_block(raw, cursor);
                if (r < 0)
                        return r;
                offset += BLOCK_SECTOR;
                bytes -= BLOCK_SECTOR;
        }
        return host_file_writev(&raw->file, cursor, bytes, offset);
}

static int raw_flush(struct image *image)
{
        return image->read_only ? 0 : host_file_sync(&to_raw(image)->file);
}

static int raw_discard(struct image *image, u64 offset, u64 bytes)
{
        host_file_punch(&to_raw(image)->file, offset, bytes);
        return 0;
}

static int raw_write_zeroes(struct image *image, u64 offset, u64 bytes, bool unmap)
{
        return host_file_zero(&to_raw(image)->file, offset, bytes, unmap);
}

static void raw_close(struct image *image)
{
        struct raw *raw = to_raw(image);

        host_file_close(&raw->file);
        free(raw);
}

static const struct image_ops raw_ops = {
        .name = "raw",
        .format = BLOCK_FORMAT_RAW,
        .read = raw_read,
        .write = raw_write,
        .flush = raw_flush,
        .discard = raw_discard,
        .write_zeroes = raw_write_zeroes,
        .close = raw_close,
};

int raw_open(struct host_file *file, bool probed, const char *path, struct image **ret, struct err **err)
{
        struct raw *raw;

        if (file->size == 0)
                return err_hint(err, err_set(err, ERR_BAD_IMAGE, EINVAL, "disk image '%s' is empty", path),
                                "give it a size: truncate -s 1G '%s'", path);
        if (file->size > (u64)INT64_MAX - BLOCK_SECTOR)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "disk image '%s' is too large", path);
        if (file->size % BLOCK_SECTOR != 0)
                log_warn("the size of disk image '%s' is not a multiple of %u bytes; the guest sees zeros behind its end", path,
                         BLOCK_SECTOR);
        raw = calloc(1, sizeof(*raw));
        if (!raw)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for disk image '%s'", path);
        raw->image = (struct image){
                .ops = &raw_ops,
                .size = ALIGN_UP(file->size, (u64)BLOCK_SECTOR),
                .granularity = file->granularity,
                .read_only = file->read_only,
        };
        raw->file = *file;
        raw->guard_magic = probed && !file->read_only;
        file->fd = -1;
        *ret = &raw->image;
        return 0;
}

struct host_file *raw_file(struct image *image)
{
        return image->ops == &raw_ops ? &to_raw(image)->file : NULL;
}

bool raw_write_is_guarded(const struct image *image, u64 offset)
{
        return offset == 0 && container_of(image, const struct raw, image)->guard_magic;
}

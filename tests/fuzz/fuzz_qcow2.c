/* qcow2 images made by strangers, and what a guest then does to them. The first byte chooses: the rest of the input is the image itself, or
 * it is a sequence of operations on a good small image, patches of its bytes among them.
 *
 * Checked: nothing breaks; a guest's requests never change the header's magic number, version or backing file name; an image that was
 * not patched returns what was written. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "dev/block/internal.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define CLUSTER 512U
#define DISK_SECTORS 256U
#define REQUEST_MAX (16 * KIB)

static void put(u8 *p, unsigned size, u64 value)
{
        while (size--) {
                p[size] = (u8)value;
                value >>= 8;
        }
}

/* Header, reference count table, a block of counts, L1 table, one L2 table, one cluster of data and one compressed. */
static size_t good_image(u8 *p, bool v2)
{
        static const u8 packed_zeros[] = { 0x63, 0x60, 0x18, 0x05, 0x23, 0x19, 0x00, 0x00 };

        memset(p, 0, 7 * CLUSTER);
        put(p, 4, QCOW2_MAGIC);
        put(p + 4, 4, v2 ? 2 : 3);
        put(p + 20, 4, 9);
        put(p + 24, 8, DISK_SECTORS * 512ULL);
        put(p + 36, 4, DISK_SECTORS / 64);
        put(p + 40, 8, 3 * CLUSTER);
        put(p + 48, 8, 1 * CLUSTER);
        put(p + 56, 4, 1);
        put(p + 96, 4, 4);
        put(p + 100, 4, 104);
        put(p + 1 * CLUSTER, 8, 2 * CLUSTER);
        for (unsigned i = 0; i < 7; i++)
                put(p + 2 * CLUSTER + 2 * i, 2, 1);
        put(p + 3 * CLUSTER, 8, BIT(63) | 4 * CLUSTER);
        put(p + 4 * CLUSTER, 8, BIT(63) | 5 * CLUSTER);
        put(p + 4 * CLUSTER + 8, 8, BIT(62) | 6 * CLUSTER);
        memcpy(p + 6 * CLUSTER, packed_zeros, sizeof(packed_zeros));
        return 7 * CLUSTER;
}

static struct image *open_fd(int fd, bool read_only)
{
        struct block_options options = { .format = BLOCK_FORMAT_QCOW2, .no_lock = true, .no_backing = true, .read_only = read_only };
        struct image *image = NULL;
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        options.path = path;
        return image_open(&options, NULL, &image, NULL) < 0 ? NULL : image;
}

struct session {
        int fd;
        struct image *image;
        bool exact; /* not patched: @reference is the truth */
        u8 reference[DISK_SECTORS * 512U];
};

static void do_request(struct session *s, struct input *in, unsigned kind)
{
        static u8 buf[REQUEST_MAX];
        const u64 sectors = s->image->size / BLOCK_SECTOR;
        const u64 offset = take(in, 2) % sectors * BLOCK_SECTOR;
        const u64 wanted = (take(in, 1) % (REQUEST_MAX / BLOCK_SECTOR) + 1) * BLOCK_SECTOR;
        const u64 bytes = MIN(wanted, s->image->size - offset);
        struct iovec iov = { .iov_base = buf, .iov_len = bytes };
        struct iov_cursor cursor = { .iov = &iov, .n = 1 };
        const u8 fill = (u8)take(in, 1);
        int r = 0;

        switch (kind) {
        case 0:
                r = s->image->ops->read(s->image, &cursor, bytes, offset);
                require(!s->exact || memcmp(buf, s->reference + offset, bytes) == 0);
                break;
        case 1:
                memset(buf, fill, bytes);
                r = s->image->ops->write(s->image, &cursor, bytes, offset);
                if (s->exact)
                        memset(s->reference + offset, fill, bytes);
                break;
        case 2:
                r = s->image->ops->write_zeroes(s->image, offset, bytes, fill & 1);
                if (s->exact)
                        memset(s->reference + offset, 0, bytes);
                break;
        default:
                r = s->image->ops->discard(s->image, offset, bytes);
                if (s->exact) {
                        iov.iov_base = s->reference + offset;
                        r = s->image->ops->read(s->image, &cursor, bytes, offset);
                }
                break;
        }
        require(!s->exact || r == 0);
}

static void do_flush(struct session *s)
{
        const int r = s->image->ops->flush(s->image);

        require(!s->exact || r == 0);
}

static void do_patch(struct session *s, struct input *in)
{
        const u64 offset = take(in, 2) % (32 * KIB);
        u8 bytes[8];
        const unsigned n = 1 + (unsigned)take(in, 1) % 8;

        for (unsigned i = 0; i < n; i++)
                bytes[i] = (u8)take(in, 1);
        require(pwrite(s->fd, bytes, n, (off_t)offset) == n);
        s->exact = false;
}

/* What a guest can never change. */
struct identity {
        u8 bytes[72];
};

static void read_identity(int fd, struct identity *id)
{
        require(pread(fd, id->bytes, sizeof(id->bytes), 0) == sizeof(id->bytes));
        memset(id->bytes + 48, 0, 12); /* the reference count table may move */
}

static void reopen(struct session *s, bool read_only)
{
        if (s->image)
                s->image->ops->flush(s->image);
        image_close(s->image);
        s->image = open_fd(s->fd, read_only);
        require(!s->exact || s->image);
}

static void use(struct session *s, struct input *in)
{
        struct identity before, after;

        for (unsigned i = 0; i < 64 && in->left > 0 && s->image; i++) {
                const unsigned what = (unsigned)take(in, 1);

                read_identity(s->fd, &before);
                if ((what & 7) < 4) {
                        if (!s->image->read_only || (what & 3) == 0)
                                do_request(s, in, what & 3);
                } else if ((what & 7) == 4) {
                        do_flush(s);
                } else if ((what & 7) == 5) {
                        reopen(s, false);
                } else {
                        do_patch(s, in);
                        reopen(s, what & 8);
                        continue;
                }
                read_identity(s->fd, &after);
                require(memcmp(&before, &after, sizeof(before)) == 0);
        }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct input in = { data, len };
        struct session *s = calloc(1, sizeof(*s));
        const unsigned mode = (unsigned)take(&in, 1);
        u8 image[7 * CLUSTER];

        require(s);
        log_set_level(LOG_LEVEL_ERROR);
        s->fd = memfd_create("image", MFD_CLOEXEC);
        require(s->fd >= 0);
        if (mode & 1) { /* operations take the tail of the input */
                const size_t n = in.left - MIN(in.left, 64U);

                require(write(s->fd, in.p, n) == (ssize_t)n);
                in.p += n;
                in.left -= n;
        } else {
                const size_t n = good_image(image, mode & 2);

                require(write(s->fd, image, n) == (ssize_t)n);
                s->exact = true;
        }
        s->image = open_fd(s->fd, mode & 4 && !s->exact);
        require(!s->exact || s->image);
        use(s, &in);
        image_close(s->image);
        close(s->fd);
        free(s);
        return 0;
}

/* Power failure: of what was written since the last fdatasync any part may be lost, whatever its order. The test puts itself between the
 * block layer and the C library, keeps a copy of the file as it is on stable storage, and now and then makes the image that a power
 * failure would leave: stable contents plus a random part of the unsynced writes. That image must have leaks at worst, and hold
 * what had been flushed. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "block_util.h"

#define FILE_MAX (24 * MIB)
#define WRITES_MAX 20000U
#define SLOTS 512U
#define SLOT_BYTES 4096U
#define SLOT_STRIDE (9 * KIB)
#define DISK_BYTES (SLOTS * SLOT_STRIDE)

/* ---- between the block layer and the C library ---- */

struct pending_write {
        u64 offset;
        u32 bytes;
        u8 *data; /* NULL: zeros (a hole was punched) */
};

static struct {
        bool on;
        ino_t ino;
        pthread_mutex_t lock;
        u8 *stable;          /* what survives for certain */
        u64 stable_size;
        struct pending_write writes[WRITES_MAX];
        unsigned n_writes;
        unsigned syncs;
} disk = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool watched(int fd)
{
        struct stat st;

        return disk.on && fstat(fd, &st) == 0 && st.st_ino == disk.ino;
}

static void note(u64 offset, u64 bytes, const void *data)
{
        pthread_mutex_lock(&disk.lock);
        assert_true(disk.n_writes < WRITES_MAX && offset + bytes <= FILE_MAX);
        disk.writes[disk.n_writes] = (struct pending_write){ .offset = offset, .bytes = (u32)bytes };
        if (data) {
                disk.writes[disk.n_writes].data = malloc(bytes);
                memcpy(disk.writes[disk.n_writes].data, data, bytes);
        }
        disk.n_writes++;
        pthread_mutex_unlock(&disk.lock);
}

static void apply(u8 *file, u64 *size, const struct pending_write *w)
{
        if (w->data)
                memcpy(file + w->offset, w->data, w->bytes);
        else
                memset(file + w->offset, 0, w->bytes);
        if (w->data)
                *size = MAX(*size, w->offset + w->bytes);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
        static ssize_t (*real)(int, const struct iovec *, int, off_t);
        ssize_t done;

        if (!real)
                real = (__typeof__(real))dlsym(RTLD_NEXT, "pwritev");
        done = real(fd, iov, n, offset);
        for (ssize_t at = 0; watched(fd) && at < done; iov++) {
                note((u64)(offset + at), iov->iov_len, iov->iov_base);
                at += (ssize_t)iov->iov_len;
        }
        return done;
}

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
        static int (*real)(int, int, off_t, off_t);
        int r;

        if (!real)
                real = (__typeof__(real))dlsym(RTLD_NEXT, "fallocate");
        r = real(fd, mode, offset, bytes);
        if (r == 0 && watched(fd))
                note((u64)offset, (u64)bytes, NULL);
        return r;
}

int fdatasync(int fd)
{
        if (!watched(fd))
                return 0;
        pthread_mutex_lock(&disk.lock);
        for (unsigned i = 0; i < disk.n_writes; i++) {
                apply(disk.stable, &disk.stable_size, &disk.writes[i]);
                free(disk.writes[i].data);
        }
        disk.n_writes = 0;
        disk.syncs++;
        pthread_mutex_unlock(&disk.lock);
        return 0;
}

/* ---- the test ---- */

static void load_stable(const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat st;

        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        disk.stable = calloc(1, FILE_MAX);
        disk.stable_size = (u64)st.st_size;
        disk.ino = st.st_ino;
        assert_int_equal(read(fd, disk.stable, (size_t)st.st_size), st.st_size);
}

/* The image after a power failure at this moment; each unsynced write survives with a chance of @percent. */
static void fail_power(const char *path, u64 *seed, unsigned percent)
{
        _cleanup_free_ u8 *file = malloc(FILE_MAX);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        u64 size = disk.stable_size;

        memcpy(file, disk.stable, FILE_MAX);
        for (unsigned i = 0; i < disk.n_writes; i++)
                if ((next_random(seed) >> 8) % 100 < percent)
                        apply(file, &size, &disk.writes[i]);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, file, size), size);
        assert_int_equal(ftruncate(fd, (off_t)ALIGN_UP(size, 65536ULL)), 0);
}

/* @initial: so many bytes at the beginning were 7 when the test started. */
static void check_survivor(struct block_test *t, const char *path, const u32 *flushed, const u32 *written, u64 initial)
{
        const struct block_options options = { .path = path, .format = BLOCK_FORMAT_QCOW2, .read_only = true };
        struct block_device *dev;
        u8 buf[SLOT_BYTES], expected[SLOT_BYTES];

        assert_int_equal(run("qemu-img check '%s' || [ $? -eq 3 ]", path), 0); /* 3: leaks only */
        assert_int_equal(block_open(&options, t->loop, NULL, &dev, NULL), 0);
        for (unsigned i = 0; i < SLOTS; i++) {
                if (flushed[i] != written[i])
                        continue; /* it may be anything in between */
                if (written[i] > 0)
                        fill_random(expected, SLOT_BYTES, (u64)i << 32 | flushed[i]);
                else if ((i + 1) * SLOT_STRIDE <= initial)
                        memset(expected, 7, SLOT_BYTES);
                else
                        continue;
                assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, i * SLOT_STRIDE, buf, SLOT_BYTES, 1), 0);
                assert_memory_equal(buf, expected, SLOT_BYTES);
        }
        block_close(dev);
}

static void fail_power_of(const char *prepare, u64 initial, u64 seed)
{
        static u32 flushed[SLOTS], written[SLOTS];
        struct block_test t;
        struct block_device *dev;
        const char *path, *survivor;
        u8 buf[SLOT_BYTES];

        memset(flushed, 0, sizeof(flushed));
        memset(written, 0, sizeof(written));
        block_test_init(&t);
        path = block_test_path(&t, "disk");
        survivor = block_test_path(&t, "survivor");
        assert_int_equal(run("cd '%s' && size=%llu && %s", t.dir, 2 * DISK_BYTES, prepare), 0);
        load_stable(path);
        dev = open_disk(&t, path, BLOCK_FORMAT_QCOW2, BLOCK_AIO_AUTO);
        disk.on = true;
        for (unsigned i = 0; i < 1200; i++) {
                const unsigned slot = (unsigned)(next_random(&seed) >> 8) % SLOTS;
                const u64 what = (next_random(&seed) >> 8) % 40;

                if (what == 0) {
                        assert_int_equal(disk_io(dev, BLOCK_OP_FLUSH, 0, 0, NULL, 0, 1), 0);
                        memcpy(flushed, written, sizeof(flushed));
                } else if (what == 1) {
                        disk_io(dev, BLOCK_OP_DISCARD, 0, DISK_BYTES, NULL, DISK_BYTES, 1);
                } else if (what < 15) {
                        disk_io(dev, BLOCK_OP_WRITE, 0, DISK_BYTES + slot * SLOT_STRIDE, buf, SLOT_BYTES, 1);
                } else {
                        fill_random(buf, SLOT_BYTES, (u64)slot << 32 | ++written[slot]);
                        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, slot * SLOT_STRIDE, buf, SLOT_BYTES, slot), 0);
                }
                if (i % 40 == 39 || i < 20) { /* tables are made and unshared at the beginning */
                        disk.on = false;
                        fail_power(survivor, &seed, (unsigned)(i / (i < 20 ? 1 : 40) % 3) * 45 + 5);
                        check_survivor(&t, survivor, flushed, written, initial);
                        disk.on = true;
                }
        }
        assert_true(disk.syncs > 10);
        disk.on = false;
        block_close(dev);
        for (unsigned i = 0; i < disk.n_writes; i++)
                free(disk.writes[i].data);
        disk.n_writes = 0;
        free(disk.stable);
        block_test_free(&t);
}

static void a_power_failure_leaves_no_corruption(void **state)
{
        if (!have_qemu_img())
                skip();
        fail_power_of("qemu-img create -f qcow2 disk $size", 0, 3);
}

static void a_power_failure_leaves_no_corruption_in_small_clusters(void **state)
{
        if (!have_qemu_img())
                skip();
        fail_power_of("qemu-img create -f qcow2 -o cluster_size=512 disk $size", 0, 5);
}

static void a_power_failure_leaves_no_corruption_with_snapshots(void **state)
{
        if (!have_qemu_img())
                skip();
        fail_power_of("qemu-img create -f qcow2 -o cluster_size=4k disk $size && qemu-io -c 'write -P 7 0 3M' disk && "
                      "qemu-img snapshot -c one disk", 3 * MIB, 7);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_power_failure_leaves_no_corruption),
                cmocka_unit_test(a_power_failure_leaves_no_corruption_in_small_clusters),
                cmocka_unit_test(a_power_failure_leaves_no_corruption_with_snapshots),
        };

        return cmocka_run_group_tests_name("qcow2_power", tests, NULL, NULL);
}

/* A writer that is killed at any moment leaves an image without corruption, with everything in it that it had flushed. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "block_util.h"

#define SLOTS 2048U
#define SLOT_BYTES 4096U
#define SLOT_STRIDE (9 * KIB) /* so that slots share clusters */
#define DISK_BYTES (SLOTS * SLOT_STRIDE)

/* What the writer tells about itself, in memory shared with the test. Versions of a slot only go up. */
struct progress {
        u32 flushed[SLOTS]; /* at least this version is on the disk */
        u32 written[SLOTS]; /* at most this one can be */
        u64 requests;
};

static void fill_slot(u8 *buf, unsigned slot, u32 version)
{
        fill_random(buf, SLOT_BYTES, (u64)slot << 32 | version);
        memcpy(buf, &version, sizeof(version));
}

static _noreturn_ void writer(const char *path, struct progress *p, u64 seed)
{
        struct block_test t;
        struct block_device *dev;
        u8 buf[SLOT_BYTES];
        static u32 dirty[SLOTS];

        memset(&t, 0, sizeof(t));
        pthread_mutex_init(&t.lock, NULL);
        pthread_mutex_lock(&t.lock);
        t.loop = loop_new(&t.lock, NULL);
        dev = open_disk(&t, path, BLOCK_FORMAT_QCOW2, BLOCK_AIO_AUTO);
        for (;;) {
                const unsigned slot = (unsigned)(next_random(&seed) >> 8) % SLOTS;
                const u64 what = next_random(&seed) >> 8;

                __atomic_add_fetch(&p->requests, 1, __ATOMIC_RELAXED);
                if (what % 40 == 0) {
                        memcpy(dirty, p->written, sizeof(dirty));
                        if (disk_io(dev, BLOCK_OP_FLUSH, 0, 0, NULL, 0, 1) == 0)
                                for (unsigned i = 0; i < SLOTS; i++)
                                        __atomic_store_n(&p->flushed[i], dirty[i], __ATOMIC_RELEASE);
                } else if (what % 40 == 1) { /* what is discarded is outside the slots */
                        disk_io(dev, BLOCK_OP_DISCARD, 0, DISK_BYTES, NULL, DISK_BYTES, 1);
                } else if (what % 2) {
                        disk_io(dev, BLOCK_OP_WRITE, 0, DISK_BYTES + slot * SLOT_STRIDE, buf, SLOT_BYTES, 1);
                } else {
                        __atomic_store_n(&p->written[slot], p->written[slot] + 1, __ATOMIC_RELEASE);
                        fill_slot(buf, slot, p->written[slot]);
                        disk_io(dev, BLOCK_OP_WRITE, 0, slot * SLOT_STRIDE, buf, SLOT_BYTES, slot);
                }
        }
}

/* Also makes what it found the state from which the next writer goes on. */
static void check_slots(struct block_test *t, const char *path, struct progress *p)
{
        struct block_device *dev = open_disk(t, path, BLOCK_FORMAT_QCOW2, BLOCK_AIO_AUTO);
        u8 buf[SLOT_BYTES], expected[SLOT_BYTES];

        for (unsigned i = 0; i < SLOTS; i++) {
                u32 version;

                assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, i * SLOT_STRIDE, buf, SLOT_BYTES, 1), 0);
                memcpy(&version, buf, sizeof(version));
                if (version < p->flushed[i] || version > p->written[i])
                        fail_msg("slot %u has version %u, flushed was %u, written %u", i, version, p->flushed[i], p->written[i]);
                fill_slot(expected, i, version);
                /* A write that was interrupted may be there in part, unless there was none after the flush. */
                if (version > 0 && p->flushed[i] == p->written[i])
                        assert_memory_equal(buf, expected, SLOT_BYTES);
                if (version > 0)
                        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, i * SLOT_STRIDE, expected, SLOT_BYTES, 1), 0);
                p->flushed[i] = p->written[i] = version;
        }
        block_close(dev);
}

static void kill_writers(const char *qemu_options)
{
        struct progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        struct block_test t;
        const char *path;
        u64 seed = 4711;

        assert_true(p != MAP_FAILED);
        block_test_init(&t);
        for (unsigned round = 0; round < 10; round++) {
                u64 requests;
                int status;
                pid_t pid;

                path = block_test_path(&t, "disk");
                if (round % 5 == 0) {
                        memset(p, 0, sizeof(*p));
                        assert_int_equal(run("rm -f '%s'; qemu-img create -f qcow2 -o %s '%s' %llu", path, qemu_options, path, 2 * DISK_BYTES), 0);
                }
                p->requests = 0;
                requests = next_random(&seed) % 1500;
                pid = fork();
                if (pid == 0)
                        writer(path, p, next_random(&seed));
                while (__atomic_load_n(&p->requests, __ATOMIC_RELAXED) < requests && waitpid(pid, &status, WNOHANG) == 0)
                        ;
                kill(pid, SIGKILL);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFSIGNALED(status));
                assert_int_equal(run("qemu-img check '%s' || [ $? -eq 3 ]", path), 0); /* 3: leaks only */
                check_slots(&t, path, p);
        }
        block_test_free(&t);
        munmap(p, sizeof(*p));
}

static void killed_writers_leave_no_corruption(void **state)
{
        if (!have_qemu_img())
                skip();
        kill_writers("cluster_size=64k");
}

static void killed_writers_leave_no_corruption_in_small_clusters(void **state)
{
        if (!have_qemu_img())
                skip();
        kill_writers("cluster_size=512");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(killed_writers_leave_no_corruption),
                cmocka_unit_test(killed_writers_leave_no_corruption_in_small_clusters),
        };

        return cmocka_run_group_tests_name("qcow2_crash", tests, NULL, NULL);
}

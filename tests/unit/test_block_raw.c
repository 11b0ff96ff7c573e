#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "block_util.h"

static const char *make_raw(struct block_test *t, const char *name, off_t bytes)
{
        const char *path = block_test_path(t, name);
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, bytes), 0);
        return path;
}

static void random_requests_with(enum block_aio aio)
{
        const u64 size = 4 * MIB;
        const struct random_run how = { .seed = 11, .ops = 600, .max_bytes = 300 * KIB };
        _cleanup_free_ u8 *reference = calloc(1, size);
        struct block_test t;
        struct block_device *dev;
        const char *path;

        block_test_init(&t);
        path = make_raw(&t, "disk.raw", (off_t)size);
        dev = open_disk(&t, path, BLOCK_FORMAT_RAW, aio);
        assert_int_equal(block_format(dev), BLOCK_FORMAT_RAW);
        assert_int_equal(block_size(dev), size);
        random_requests(dev, reference, &how);
        assert_disk_equals(dev, reference);
        block_close(dev);
        dev = open_disk(&t, path, BLOCK_FORMAT_RAW, aio);
        assert_disk_equals(dev, reference);
        block_close(dev);
        assert_true(t.counters.value[COUNTER_BLOCK_READ_BYTES] > size);
        assert_true(t.counters.value[COUNTER_BLOCK_WRITE_BYTES] > 0);
        assert_true(t.counters.value[COUNTER_BLOCK_FLUSHES] > 0);
        assert_int_equal(t.counters.value[COUNTER_BLOCK_ERRORS], 0);
        block_test_free(&t);
}

static void raw_holds_what_was_written_with_threads(void **state)
{
        random_requests_with(BLOCK_AIO_THREADS);
}

static bool uring_works(void)
{
        const struct block_options options = { .path = "/proc/self/exe", .aio = BLOCK_AIO_URING, .read_only = true,
                                               .format = BLOCK_FORMAT_RAW };
        struct block_test t;
        bool ok;

        block_test_init(&t);
        ok = open_fails(&t, &options) == ERR_ID_COUNT;
        block_test_free(&t);
        return ok;
}

static void raw_holds_what_was_written_with_uring(void **state)
{
        if (!uring_works())
                skip();
        random_requests_with(BLOCK_AIO_URING);
}

/* ---- completions ---- */

struct many {
        struct block_test *t;
        unsigned left;
        bool lock_was_held, in_submit;
};

static void many_done(struct block_request *req)
{
        struct many *m = req->opaque;

        assert_false(m->in_submit);
        m->lock_was_held = m->lock_was_held && pthread_mutex_trylock(&m->t->lock) == EBUSY;
        if (--m->left == 0)
                loop_stop(m->t->loop);
}

static void completions_arrive_by_the_loop_under_the_lock(enum block_aio aio)
{
        enum { N = 700 };
        _cleanup_free_ struct block_request *reqs = calloc(N, sizeof(*reqs));
        static u8 data[N][BLOCK_SECTOR];
        static struct iovec iov[N];
        struct block_test t;
        struct block_device *dev;
        struct many m = { .t = &t, .left = N, .lock_was_held = true, .in_submit = true };

        block_test_init(&t);
        dev = open_disk(&t, make_raw(&t, "disk.raw", N * BLOCK_SECTOR), BLOCK_FORMAT_RAW, aio);
        block_plug(dev);
        for (unsigned i = 0; i < N; i++) {
                memset(data[i], (int)i, BLOCK_SECTOR);
                iov[i] = (struct iovec){ .iov_base = data[i], .iov_len = BLOCK_SECTOR };
                reqs[i] = (struct block_request){ .op = BLOCK_OP_WRITE, .offset = i * BLOCK_SECTOR, .iov = &iov[i], .n_iov = 1, .done = many_done, .opaque = &m };
                if (i == 5)
                        reqs[i].offset = 1; /* a refused one among them */
                block_submit(dev, &reqs[i]);
        }
        block_unplug(dev);
        assert_int_equal(block_in_flight(dev), N);
        m.in_submit = false;
        pthread_mutex_unlock(&t.lock);
        assert_int_equal(loop_run(t.loop, NULL), 0);
        pthread_mutex_lock(&t.lock);
        assert_true(m.lock_was_held);
        assert_int_equal(block_in_flight(dev), 0);
        for (unsigned i = 0; i < N; i++) {
                u8 buf[BLOCK_SECTOR];

                assert_int_equal(reqs[i].result, i == 5 ? -EINVAL : 0);
                assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, i * BLOCK_SECTOR, buf, sizeof(buf), i), 0);
                assert_int_equal(buf[77], i == 5 ? 0 : i & 0xff);
        }
        block_close(dev);
        block_test_free(&t);
}

static void completions_of_threads_arrive_by_the_loop(void **state)
{
        completions_arrive_by_the_loop_under_the_lock(BLOCK_AIO_THREADS);
}

static void completions_of_uring_arrive_by_the_loop(void **state)
{
        if (!uring_works())
                skip();
        completions_arrive_by_the_loop_under_the_lock(BLOCK_AIO_URING);
}

/* A vCPU thread may submit and then end; its request must still be done. */
static void *submit_and_exit(void *opaque)
{
        struct block_request *req = opaque;

        block_submit(req->dev, req);
        return NULL;
}

static void count_down(struct block_request *req)
{
        --*(unsigned *)req->opaque;
}

static void requests_outlive_the_thread_that_submitted_them(void **state)
{
        enum { N = 64 };
        static u8 data[N][64 * KIB];
        static struct iovec iov[N];
        static struct block_request reqs[N];
        struct block_test t;
        struct block_device *dev;
        unsigned left = N;

        block_test_init(&t);
        dev = open_disk(&t, make_raw(&t, "disk.raw", sizeof(data)), BLOCK_FORMAT_RAW, BLOCK_AIO_AUTO);
        for (unsigned i = 0; i < N; i++) {
                pthread_t thread;

                iov[i] = (struct iovec){ .iov_base = data[i], .iov_len = sizeof(data[i]) };
                reqs[i] = (struct block_request){ .op = i % 2 ? BLOCK_OP_FLUSH : BLOCK_OP_WRITE, .offset = i * sizeof(data[0]), .iov = &iov[i], .n_iov = 1, .done = count_down, .opaque = &left, .dev = dev };
                assert_int_equal(pthread_create(&thread, NULL, submit_and_exit, &reqs[i]), 0);
                pthread_join(thread, NULL);
        }
        block_drain(dev);
        assert_int_equal(left, 0);
        for (unsigned i = 0; i < N; i++)
                assert_int_equal(reqs[i].result, 0);
        block_close(dev);
        block_test_free(&t);
}

/* ---- refusals ---- */

static void bad_requests_are_refused(void **state)
{
        static const struct {
                enum block_op op;
                u64 offset, bytes;
        } bad[] = {
                { BLOCK_OP_READ, 1, 512 },
                { BLOCK_OP_READ, 0, 100 },
                { BLOCK_OP_READ, 64 * KIB, 512 },
                { BLOCK_OP_READ, 64 * KIB - 512, 1024 },
                { BLOCK_OP_WRITE, ~0ULL & ~511ULL, 512 },
                { BLOCK_OP_WRITE, BIT(63), 512 },
                { BLOCK_OP_DISCARD, 512, ~0ULL & ~511ULL },
                { BLOCK_OP_WRITE_ZEROES, 64 * KIB, 512 },
                { BLOCK_OP_COUNT, 0, 512 },
        };
        struct block_test t;
        struct block_device *dev;
        u8 buf[1024] = { 0 };

        block_test_init(&t);
        dev = open_disk(&t, make_raw(&t, "disk.raw", 64 * KIB), BLOCK_FORMAT_RAW, BLOCK_AIO_AUTO);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                unsigned left = 1;
                struct iovec iov = { .iov_base = buf, .iov_len = bad[i].bytes };
                struct block_request req = { .op = bad[i].op, .offset = bad[i].offset, .bytes = bad[i].bytes, .iov = &iov,
                                             .n_iov = 1, .done = count_down, .opaque = &left };

                block_submit(dev, &req);
                assert_int_equal(left, 1);
                block_drain(dev);
                assert_int_equal(left, 0);
                assert_int_equal(req.result, -EINVAL);
        }
        assert_int_equal(t.counters.value[COUNTER_BLOCK_ERRORS], ARRAY_SIZE(bad));
        /* Nothing at all, at the very end, is fine. */
        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, 64 * KIB, buf, 0, 1), 0);
        block_close(dev);
        block_test_free(&t);
}

static void read_only_disks_refuse_writes(void **state)
{
        struct block_test t;
        struct block_device *dev;
        struct block_options options = { .read_only = true };
        u8 buf[512] = { 0 };

        block_test_init(&t);
        options.path = make_raw(&t, "disk.raw", 64 * KIB);
        assert_int_equal(block_open(&options, t.loop, NULL, &dev, NULL), 0);
        assert_true(block_read_only(dev));
        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 0, buf, 512, 1), -EROFS);
        assert_int_equal(disk_io(dev, BLOCK_OP_DISCARD, 0, 0, buf, 512, 1), -EROFS);
        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE_ZEROES, 0, 0, buf, 512, 1), -EROFS);
        assert_int_equal(disk_io(dev, BLOCK_OP_FLUSH, 0, 0, buf, 0, 1), 0);
        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, 0, buf, 512, 1), 0);
        block_close(dev);
        block_test_free(&t);
}

static void what_is_no_image_is_refused_with_the_right_error(void **state)
{
        struct block_test t;
        struct block_options options = { 0 };

        block_test_init(&t);
        options.path = block_test_path(&t, "missing");
        assert_int_equal(open_fails(&t, &options), ERR_NOT_FOUND);
        options.path = t.dir;
        options.read_only = true;
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        options.path = block_test_path(&t, "fifo");
        assert_int_equal(mkfifo(options.path, 0600), 0);
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        options.path = "/dev/null";
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        options.path = make_raw(&t, "empty", 0);
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        options.path = make_raw(&t, "disk.raw", 64 * KIB);
        options.format = BLOCK_FORMAT_QCOW2;
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        block_test_free(&t);
}

/* ---- odd sizes, probing, locks ---- */

static void odd_sizes_are_padded_with_zeros(void **state)
{
        struct block_test t;
        struct block_device *dev;
        const char *path;
        struct stat st;
        u8 buf[1024];

        block_test_init(&t);
        path = make_raw(&t, "odd.raw", 1000);
        assert_int_equal(run("printf tail | dd of='%s' bs=1 seek=996 conv=notrunc", path), 0);
        dev = open_disk(&t, path, BLOCK_FORMAT_AUTO, BLOCK_AIO_AUTO);
        assert_int_equal(block_size(dev), 1024);
        memset(buf, 0xaa, sizeof(buf));
        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, 0, buf, 1024, 1), 0);
        assert_memory_equal(buf + 996, "tail\0\0\0\0", 8);
        for (unsigned i = 1000; i < 1024; i++)
                assert_int_equal(buf[i], 0);
        buf[1023] = 0x55;
        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 512, buf + 512, 512, 1), 0);
        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, 512, buf, 512, 1), 0);
        assert_int_equal(buf[511], 0x55);
        block_close(dev);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 1024);
        block_test_free(&t);
}

static void guests_cannot_turn_a_probed_image_into_qcow2(void **state)
{
        struct block_test t;
        struct block_device *dev;
        const char *path;
        u8 buf[1024] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 };

        block_test_init(&t);
        path = make_raw(&t, "disk.raw", 64 * KIB);
        for (enum block_aio aio = BLOCK_AIO_AUTO; aio <= BLOCK_AIO_THREADS; aio++) {
                if (aio == BLOCK_AIO_URING && !uring_works())
                        continue;
                dev = open_disk(&t, path, BLOCK_FORMAT_AUTO, aio);
                assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 0, buf, 1024, 7), -EPERM);
                assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 512, buf, 512, 7), 0);
                buf[3] = 0;
                assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 0, buf, 1024, 7), 0);
                buf[3] = 0xfb;
                block_close(dev);
                dev = open_disk(&t, path, BLOCK_FORMAT_AUTO, aio);
                assert_int_equal(block_format(dev), BLOCK_FORMAT_RAW);
                block_close(dev);
        }
        /* Who says what it is may write anything. */
        dev = open_disk(&t, path, BLOCK_FORMAT_RAW, BLOCK_AIO_AUTO);
        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 0, buf, 1024, 7), 0);
        block_close(dev);
        block_test_free(&t);
}

static void images_in_use_are_busy(void **state)
{
        struct block_test t;
        struct block_device *dev, *second;
        struct block_options options = { 0 };

        block_test_init(&t);
        options.path = make_raw(&t, "disk.raw", 64 * KIB);
        dev = open_disk(&t, options.path, BLOCK_FORMAT_RAW, BLOCK_AIO_AUTO);
        assert_int_equal(open_fails(&t, &options), ERR_BUSY);
        options.read_only = true;
        assert_int_equal(open_fails(&t, &options), ERR_BUSY);
        options.no_lock = true;
        assert_int_equal(open_fails(&t, &options), ERR_ID_COUNT);
        options.no_lock = false;
        if (have_qemu_img()) {
                assert_int_equal(run("! qemu-img convert -f raw -O raw '%s' '%s.copy'", options.path, options.path), 0);
                assert_int_equal(run("qemu-img convert -U -f raw -O raw '%s' '%s.copy'", options.path, options.path), 0);
        }
        block_close(dev);

        /* Readers get along with each other, and with QEMU's. */
        assert_int_equal(block_open(&options, t.loop, NULL, &dev, NULL), 0);
        assert_int_equal(block_open(&options, t.loop, NULL, &second, NULL), 0);
        if (have_qemu_img())
                assert_int_equal(run("qemu-img convert -f raw -O raw '%s' '%s.copy'", options.path, options.path), 0);
        options.read_only = false;
        assert_int_equal(open_fails(&t, &options), ERR_BUSY);
        block_close(dev);
        block_close(second);
        assert_int_equal(open_fails(&t, &options), ERR_ID_COUNT);
        block_test_free(&t);
}

/* ---- space ---- */

static void discard_gives_space_back(void **state)
{
        struct block_test t;
        struct block_device *dev;
        const char *path;
        struct stat before, after;
        _cleanup_free_ u8 *buf = malloc(MIB);

        block_test_init(&t);
        path = make_raw(&t, "disk.raw", 4 * MIB);
        dev = open_disk(&t, path, BLOCK_FORMAT_RAW, BLOCK_AIO_AUTO);
        memset(buf, 0x77, MIB);
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, i * MIB, buf, MIB, 3), 0);
        assert_int_equal(disk_io(dev, BLOCK_OP_FLUSH, 0, 0, NULL, 0, 1), 0);
        assert_int_equal(stat(path, &before), 0);
        assert_int_equal(disk_io(dev, BLOCK_OP_DISCARD, 0, MIB, NULL, MIB, 3), 0);
        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE_ZEROES, BLOCK_REQ_UNMAP, 2 * MIB, NULL, MIB, 3), 0);
        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, 2 * MIB, buf, MIB, 3), 0);
        for (unsigned i = 0; i < MIB; i++)
                if (buf[i] != 0)
                        fail_msg("byte %u is not zero", i);
        block_close(dev);
        assert_int_equal(stat(path, &after), 0);
        assert_int_equal(after.st_size, before.st_size);
        assert_true(after.st_blocks <= before.st_blocks / 2);
        block_test_free(&t);
}

/* In a child with its own mounts: a host that runs out of space. */
static int write_until_full(void)
{
        struct block_test t;
        struct block_device *dev;
        static u8 buf[256 * KIB];
        int r = 0, full = 0;

        if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return 77;
        block_test_init(&t);
        if (mount("tmpfs", t.dir, "tmpfs", 0, "size=1m") < 0) {
                rmdir(t.dir);
                return 77;
        }
        dev = open_disk(&t, make_raw(&t, "disk.raw", 8 * MIB), BLOCK_FORMAT_RAW, BLOCK_AIO_AUTO);
        memset(buf, 1, sizeof(buf));
        for (unsigned i = 0; i < 32 && r == 0; i++) {
                r = disk_io(dev, BLOCK_OP_WRITE, 0, i * sizeof(buf), buf, sizeof(buf), 9);
                full = r;
        }
        r = disk_io(dev, BLOCK_OP_READ, 0, 0, buf, sizeof(buf), 9);
        if (buf[1000] != 1 || disk_io(dev, BLOCK_OP_DISCARD, 0, 0, NULL, 512 * KIB, 1) != 0 ||
            disk_io(dev, BLOCK_OP_WRITE, 0, 512 * KIB, buf, sizeof(buf), 9) != 0)
                r = -1;
        block_close(dev);
        umount(t.dir);
        block_test_free(&t);
        return full == -ENOSPC && r == 0 ? 0 : 1;
}

static void a_full_host_is_an_error_of_the_request_only(void **state)
{
        const pid_t pid = fork();
        int status;

        if (pid == 0)
                _exit(write_until_full());
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77)
                skip();
        assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- the --disk argument ---- */

static void disk_arguments_are_parsed(void **state)
{
        _cleanup_free_ char *path = NULL;
        struct block_options options;
        struct err *err = NULL;

        assert_int_equal(block_options_parse("a,,b.img,ro,format=qcow2,aio=threads,backing=off", &options, &path, NULL), 0);
        assert_string_equal(options.path, "a,b.img");
        assert_true(options.read_only);
        assert_true(options.no_backing);
        assert_int_equal(options.format, BLOCK_FORMAT_QCOW2);
        assert_int_equal(options.aio, BLOCK_AIO_THREADS);
        assert_int_equal(block_options_parse("disk,rO", &options, &path, &err), -EINVAL);
        assert_int_equal(err_get_id(err), ERR_USAGE);
        assert_non_null(err_get_hint(err));
        err_free(err);
        assert_int_equal(block_options_parse(",ro", &options, &path, NULL), -EINVAL);
        assert_int_equal(block_options_parse("x,", &options, &path, NULL), -EINVAL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_full_host_is_an_error_of_the_request_only), /* before threads exist */
                cmocka_unit_test(raw_holds_what_was_written_with_threads),
                cmocka_unit_test(raw_holds_what_was_written_with_uring),
                cmocka_unit_test(completions_of_threads_arrive_by_the_loop),
                cmocka_unit_test(completions_of_uring_arrive_by_the_loop),
                cmocka_unit_test(requests_outlive_the_thread_that_submitted_them),
                cmocka_unit_test(bad_requests_are_refused),
                cmocka_unit_test(read_only_disks_refuse_writes),
                cmocka_unit_test(what_is_no_image_is_refused_with_the_right_error),
                cmocka_unit_test(odd_sizes_are_padded_with_zeros),
                cmocka_unit_test(guests_cannot_turn_a_probed_image_into_qcow2),
                cmocka_unit_test(images_in_use_are_busy),
                cmocka_unit_test(discard_gives_space_back),
                cmocka_unit_test(disk_arguments_are_parsed),
        };

        log_set_level(LOG_LEVEL_ERROR);
        return cmocka_run_group_tests_name("block_raw", tests, NULL, NULL);
}

#include "block_util.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"

void block_test_init(struct block_test *t)
{
        const char *tmp = getenv("TMPDIR");

        memset(t, 0, sizeof(*t));
        snprintf(t->dir, sizeof(t->dir), "%.40s/strata-test-XXXXXX", tmp ? tmp : "/tmp");
        assert_non_null(mkdtemp(t->dir));
        pthread_mutex_init(&t->lock, NULL);
        pthread_mutex_lock(&t->lock);
        t->loop = loop_new(&t->lock, NULL);
        assert_non_null(t->loop);
}

void block_test_free(struct block_test *t)
{
        pthread_mutex_unlock(&t->lock);
        loop_free(t->loop);
        pthread_mutex_destroy(&t->lock);
        run("rm -rf '%s'", t->dir);
}

const char *block_test_path(struct block_test *t, const char *name)
{
        static char paths[4][160];
        static unsigned n;
        char *path = paths[n++ % ARRAY_SIZE(paths)];

        snprintf(path, sizeof(paths[0]), "%s/%s", t->dir, name);
        return path;
}

int run(const char *fmt, ...)
{
        char command[1024], line[1300];
        va_list args;
        int status;

        va_start(args, fmt);
        vsnprintf(command, sizeof(command), fmt, args);
        va_end(args);
        snprintf(line, sizeof(line), "out=$( { %s; } 2>&1 ); r=$?; [ $r -eq 0 ] || printf '%%s\\n' \"$out\" >&2; exit $r", command);
        status = system(line);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool have_qemu_img(void)
{
        return system("command -v qemu-img >/dev/null 2>&1") == 0;
}

struct block_device *open_disk(struct block_test *t, const char *path, enum block_format format, enum block_aio aio)
{
        const struct block_options options = { .path = path, .format = format, .aio = aio };
        struct block_device *dev = NULL;
        struct err *err = NULL;

        if (block_open(&options, t->loop, &t->counters, &dev, &err) < 0) {
                err_print(err, "test");
                err_free(err);
                fail_msg("cannot open %s", path);
        }
        return dev;
}

enum err_id open_fails(struct block_test *t, const struct block_options *options)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct block_device *dev = NULL;

        if (block_open(options, t->loop, &t->counters, &dev, &err) == 0) {
                block_close(dev);
                return ERR_ID_COUNT;
        }
        assert_null(dev);
        assert_non_null(err);
        return err_get_id(err);
}

static void set_done(struct block_request *req)
{
        *(bool *)req->opaque = true;
}

int disk_io(struct block_device *dev, enum block_op op, unsigned flags, u64 offset, void *buf, u64 bytes, u64 seed)
{
        struct iovec iov[200];
        bool done = false;
        struct block_request req = { .op = op, .flags = flags, .offset = offset, .bytes = bytes, .iov = iov, .done = set_done, .opaque = &done };
        u64 at = 0, state = seed | 1;

        while (at < bytes && req.n_iov < ARRAY_SIZE(iov)) {
                u64 len = req.n_iov + 1 == ARRAY_SIZE(iov) ? bytes - at : next_random(&state) % (bytes / 3 + 2);

                len = MIN(len, bytes - at);
                iov[req.n_iov++] = (struct iovec){ .iov_base = buf ? (u8 *)buf + at : NULL, .iov_len = len };
                at += len;
        }
        block_submit(dev, &req);
        assert_false(done);
        block_drain(dev);
        assert_true(done);
        return req.result;
}

void fill_random(void *buf, u64 bytes, u64 seed)
{
        u64 state = seed * 0x9e3779b97f4a7c15ULL | 1;
        u8 *p = buf;

        for (u64 i = 0; i < bytes; i++)
                p[i] = (u8)(next_random(&state) >> 32);
}

static enum block_op random_op(u64 r, bool no_discard)
{
        const u64 k = r % 100;

        if (k < 45)
                return BLOCK_OP_WRITE;
        if (k < 85)
                return BLOCK_OP_READ;
        if (k < 93)
                return BLOCK_OP_WRITE_ZEROES;
        if (k < 97)
                return no_discard ? BLOCK_OP_WRITE_ZEROES : BLOCK_OP_DISCARD;
        return BLOCK_OP_FLUSH;
}

void random_requests(struct block_device *dev, u8 *reference, const struct random_run *run)
{
        const u64 sectors = block_size(dev) / BLOCK_SECTOR;
        _cleanup_free_ u8 *buf = malloc(run->max_bytes);
        u64 state = run->seed * 2 + 1;

        for (unsigned i = 0; i < run->ops; i++) {
                const enum block_op op = random_op(next_random(&state) >> 8, run->no_discard);
                const u64 at = (next_random(&state) >> 8) % sectors;
                const u64 most = MIN(run->max_bytes / BLOCK_SECTOR, sectors - at);
                /* Mostly small. */
                const u64 n = 1 + (next_random(&state) >> 8) % (next_random(&state) & 256 ? most : MIN(most, 16ULL));
                const u64 offset = at * BLOCK_SECTOR, bytes = n * BLOCK_SECTOR;
                const unsigned flags = (unsigned)(next_random(&state) >> 20) & (BLOCK_REQ_FUA | BLOCK_REQ_UNMAP);

                if (op == BLOCK_OP_WRITE) {
                        fill_random(buf, bytes, next_random(&state));
                        memcpy(reference + offset, buf, bytes);
                } else if (op == BLOCK_OP_WRITE_ZEROES) {
                        memset(reference + offset, 0, bytes);
                }
                if (disk_io(dev, op, flags & (i % 16 == 0 ? 3 : BLOCK_REQ_UNMAP), offset, buf, bytes, state) != 0)
                        fail_msg("seed %llu: request %u (op %d, offset %llu, %llu bytes) failed", (unsigned long long)run->seed, i,
                                 op, (unsigned long long)offset, (unsigned long long)bytes);
                if (op == BLOCK_OP_READ && memcmp(buf, reference + offset, bytes) != 0)
                        fail_msg("seed %llu: request %u read wrong data at %llu + %llu", (unsigned long long)run->seed, i,
                                 (unsigned long long)offset, (unsigned long long)bytes);
                if (op == BLOCK_OP_DISCARD) /* whatever is there now is right, but it must stay */
                        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, offset, reference + offset, bytes, 1), 0);
        }
}

void assert_disk_equals(struct block_device *dev, const u8 *reference)
{
        _cleanup_free_ u8 *buf = malloc(MIB);

        for (u64 at = 0; at < block_size(dev); at += MIB) {
                const u64 n = MIN(MIB, block_size(dev) - at);

                assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, at, buf, n, at), 0);
                assert_memory_equal(buf, reference + at, n);
        }
}

void assert_qemu_agrees(struct block_test *t, const char *path, const u8 *reference, u64 bytes, bool leaks)
{
        _cleanup_close_ int fd = -1;
        _cleanup_free_ u8 *buf = malloc(MIB);
        const char *raw = block_test_path(t, "converted.raw");

        assert_int_equal(run("qemu-img check '%s' || [ $? -eq %d ]", path, leaks ? 3 : 0), 0);
        assert_int_equal(run("qemu-img convert -O raw '%s' '%s'", path, raw), 0);
        fd = open(raw, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        for (u64 at = 0; at < bytes; at += MIB) {
                const u64 n = MIN(MIB, bytes - at);

                assert_int_equal(pread(fd, buf, n, (off_t)at), n);
                assert_memory_equal(buf, reference + at, n);
        }
}

/* qcow2 against QEMU's tools: images they make are read and written here, then they check and read the result. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "block_util.h"

/* ---- looking into images ---- */

static void patch(const char *path, off_t offset, const void *bytes, size_t n)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, bytes, n, offset), n);
}

static void patch64(const char *path, off_t offset, u64 value)
{
        value = __builtin_bswap64(value);
        patch(path, offset, &value, 8);
}

static void patch32(const char *path, off_t offset, u32 value)
{
        value = __builtin_bswap32(value);
        patch(path, offset, &value, 4);
}

static u64 peek64(const char *path, off_t offset)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        u64 value;

        assert_int_equal(pread(fd, &value, 8, offset), 8);
        return __builtin_bswap64(value);
}

/* ---- many kinds of images, random requests ---- */

struct kind {
        const char *name;
        u64 size;
        const char *options; /* of qemu-img create */
        const char *prepare; /* a shell command, %1$s is the image, %2$s the directory; NULL: none */
        u64 max_bytes;
        unsigned ops;
        bool leaks; /* writing makes clusters useless that only a feature knows that we do not */
};

static const struct kind kinds[] = {
        { "v3", 8 * MIB, "compat=1.1", NULL, 300 * KIB, 500, false },
        { "v2", 8 * MIB, "compat=0.10", NULL, 300 * KIB, 400, false },
        { "512-byte clusters", 2 * MIB, "cluster_size=512", NULL, 64 * KIB, 400, false },
        /* 512-byte clusters need a new reference count table every few MiB. */
        { "growing reference count table", 40 * MIB, "cluster_size=512", NULL, 4 * MIB, 40, false },
        { "4 KiB clusters", 8 * MIB, "cluster_size=4k", NULL, 300 * KIB, 400, false },
        { "2 MiB clusters", 24 * MIB, "cluster_size=2M", NULL, 3 * MIB, 100, false },
        { "1-bit counts", 8 * MIB, "refcount_bits=1,cluster_size=1k", NULL, 100 * KIB, 300, false },
        { "2-bit counts", 8 * MIB, "refcount_bits=2,cluster_size=4k", NULL, 100 * KIB, 200, false },
        { "8-bit counts", 8 * MIB, "refcount_bits=8,cluster_size=4k", NULL, 100 * KIB, 200, false },
        { "32-bit counts", 8 * MIB, "refcount_bits=32,cluster_size=512", NULL, 100 * KIB, 200, false },
        { "64-bit counts", 8 * MIB, "refcount_bits=64,cluster_size=512", NULL, 100 * KIB, 200, false },
        { "odd size", 3 * MIB + 512, "cluster_size=64k", NULL, 300 * KIB, 300, false },
        { "preallocated", 8 * MIB, "preallocation=metadata", NULL, 300 * KIB, 200, false },
        { "lazy counts", 8 * MIB, "lazy_refcounts=on", NULL, 300 * KIB, 200, false },
        { "zero clusters", 8 * MIB, "compat=1.1",
          "qemu-io -c 'write -P 7 0 4M' -c 'write -z 1M 1M' -c 'write -z -u 2M 512k' '%1$s'", 300 * KIB, 300, false },
        { "compressed", 8 * MIB, "compression_type=zlib",
          "qemu-io -c 'write -c -P 7 0 64k' -c 'write -c -P 8 64k 64k' -c 'write -c -P 9 1M 64k' -c 'write -c -P 1 8323072 64k' '%1$s'",
          300 * KIB, 200, false },
        { "compressed with zstd", 8 * MIB, "compression_type=zstd",
          "qemu-io -c 'write -c -P 7 0 64k' -c 'write -c -P 8 64k 64k' -c 'write -c -P 9 1M 64k' '%1$s'", 300 * KIB, 200, false },
        { "snapshots", 8 * MIB, "cluster_size=4k",
          "qemu-io -c 'write -P 7 0 5M' '%1$s' && qemu-img snapshot -c one '%1$s' && "
          "qemu-io -c 'write -P 8 1M 2M' '%1$s' && qemu-img snapshot -c two '%1$s'", 300 * KIB, 400, false },
        { "bitmap", 8 * MIB, "compat=1.1", "qemu-img bitmap --add '%1$s' b && qemu-io -c 'write -P 7 0 1M' '%1$s'", 300 * KIB, 100, true },
};

static void fill_reference_from(const char *path, struct block_test *t, u8 *reference, u64 size)
{
        const char *raw = block_test_path(t, "before.raw");
        _cleanup_close_ int fd = -1;

        assert_int_equal(run("qemu-img convert -O raw '%s' '%s'", path, raw), 0);
        fd = open(raw, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        for (u64 at = 0; at < size;) {
                const ssize_t n = pread(fd, reference + at, size - at, (off_t)at);

                assert_true(n > 0);
                at += (u64)n;
        }
}

static void try_kind(struct block_test *t, const struct kind *kind, const char *path, u64 seed)
{
        _cleanup_free_ u8 *reference = calloc(1, kind->size);
        const struct random_run how = { .seed = seed, .ops = kind->ops, .max_bytes = kind->max_bytes };
        struct block_device *dev;

        fill_reference_from(path, t, reference, kind->size);
        dev = open_disk(t, path, BLOCK_FORMAT_AUTO, BLOCK_AIO_AUTO);
        assert_int_equal(block_format(dev), BLOCK_FORMAT_QCOW2);
        assert_int_equal(block_size(dev), kind->size);
        assert_disk_equals(dev, reference);
        random_requests(dev, reference, &how);
        assert_disk_equals(dev, reference);
        block_close(dev);
        assert_qemu_agrees(t, path, reference, kind->size, kind->leaks);
        dev = open_disk(t, path, BLOCK_FORMAT_QCOW2, BLOCK_AIO_AUTO);
        assert_disk_equals(dev, reference);
        block_close(dev);
}

static void images_of_all_kinds_stay_consistent(void **state)
{
        struct block_test t;

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                const struct kind *kind = &kinds[i];
                const char *path = block_test_path(&t, "disk.qcow2");
                char prepare[600];

                print_message("  %s\n", kind->name);
                assert_int_equal(run("rm -f '%s'; qemu-img create -f qcow2 -o %s '%s' %llu", path, kind->options, path,
                                     (unsigned long long)kind->size), 0);
                if (kind->prepare) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                        snprintf(prepare, sizeof(prepare), kind->prepare, path, t.dir);
#pragma GCC diagnostic pop
                        assert_int_equal(run("%s", prepare), 0);
                }
                try_kind(&t, kind, path, i + 1);
        }
        block_test_free(&t);
}

/* ---- backing files ---- */

static void overlays_show_what_they_do_not_have(void **state)
{
        static const char *const layouts[] = {
                /* base, middle, top: sizes differ, the base is shorter than the rest */
                "cd '%1$s' && qemu-img create -f raw base 3M && qemu-io -f raw -c 'write -P 1 0 3M' base && "
                "qemu-img create -f qcow2 -b base -F raw top 8M",
                "cd '%1$s' && qemu-img create -f qcow2 base 3M && qemu-io -c 'write -P 1 64k 2M' base && "
                "qemu-img create -f qcow2 -o cluster_size=4k -b base -F qcow2 middle 5M && qemu-io -c 'write -P 2 4M 1M' -c 'write -z 1M 256k' middle && "
                "qemu-img create -f qcow2 -o cluster_size=512 -b middle -F qcow2 top 8M && qemu-io -c 'write -P 3 100k 1k' top",
                "cd '%1$s' && qemu-img create -f raw base 3M && qemu-io -f raw -c 'write -P 1 0 3M' base && "
                "qemu-img create -f qcow2 -o compat=0.10 -b base -F raw top 8M",
                "cd '%1$s' && qemu-img create -f raw base 8M && qemu-io -f raw -c 'write -P 1 0 8M' base && "
                "qemu-img create -f qcow2 -b base -F raw top 4M",
        };
        struct block_test t;

        if (!have_qemu_img())
                skip();
        for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
                const struct kind kind = { .name = "overlay", .size = i == 3 ? 4 * MIB : 8 * MIB, .max_bytes = 300 * KIB, .ops = 300 };
                char command[600];

                block_test_init(&t);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                snprintf(command, sizeof(command), layouts[i], t.dir);
#pragma GCC diagnostic pop
                assert_int_equal(run("%s", command), 0);
                assert_int_equal(run("cd '%s' && sha256sum base > sum", t.dir), 0);
                try_kind(&t, &kind, block_test_path(&t, "top"), 100 + i);
                assert_int_equal(run("cd '%s' && sha256sum -c sum", t.dir), 0);
                block_test_free(&t);
        }
}

static void backing_files_that_cannot_be_trusted_are_refused(void **state)
{
        struct block_test t;
        struct block_options options = { 0 };

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        options.path = block_test_path(&t, "top");
        /* Its own backing file. */
        assert_int_equal(run("cd '%s' && qemu-img create -f qcow2 a 1M && qemu-img create -f qcow2 -b a -F qcow2 top 1M && "
                             "qemu-img rebase -u -b top -F qcow2 a", t.dir), 0);
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        /* Missing. */
        assert_int_equal(run("cd '%s' && rm a", t.dir), 0);
        assert_int_equal(open_fails(&t, &options), ERR_NOT_FOUND);
        options.no_backing = true;
        assert_int_equal(open_fails(&t, &options), ERR_ID_COUNT);
        options.no_backing = false;
        /* No format given, and the file looks like qcow2. */
        assert_int_equal(run("cd '%s' && qemu-img create -f qcow2 a 1M && qemu-img rebase -u -b a -F qcow2 top", t.dir), 0);
        assert_int_equal(open_fails(&t, &options), ERR_ID_COUNT);
        assert_int_equal(peek64(options.path, 112) >> 32, 0xe2792aca); /* the header extension that names the format */
        patch32(options.path, 112, 0x12345678);
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        assert_int_equal(run("cd '%s' && rm a && truncate -s 1M a", t.dir), 0);
        assert_int_equal(open_fails(&t, &options), ERR_ID_COUNT);
        /* Not a file; other formats. */
        assert_int_equal(run("cd '%s' && qemu-img rebase -u -b nbd://localhost/x -F raw top", t.dir), 0);
        assert_int_equal(open_fails(&t, &options), ERR_UNSUPPORTED);
        assert_int_equal(run("cd '%s' && qemu-img rebase -u -b a -F vmdk top", t.dir), 0);
        assert_int_equal(open_fails(&t, &options), ERR_UNSUPPORTED);
        /* Too long a chain. */
        assert_int_equal(run("cd '%s' && rm -f top && p=a f=raw; for i in $(seq 40); do qemu-img create -q -f qcow2 -b $p -F $f c$i 1M 2>/dev/null; "
                             "p=c$i f=qcow2; done; mv c40 top", t.dir), 0);
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        block_test_free(&t);
}

static void a_backing_file_may_have_several_overlays_but_no_writer(void **state)
{
        struct block_test t;
        struct block_device *one, *two;
        struct block_options options = { 0 };

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        assert_int_equal(run("cd '%s' && truncate -s 1M base && qemu-img create -f qcow2 -b base -F raw one && "
                             "qemu-img create -f qcow2 -b base -F raw two", t.dir), 0);
        one = open_disk(&t, block_test_path(&t, "one"), BLOCK_FORMAT_AUTO, BLOCK_AIO_AUTO);
        two = open_disk(&t, block_test_path(&t, "two"), BLOCK_FORMAT_AUTO, BLOCK_AIO_AUTO);
        options.path = block_test_path(&t, "base");
        assert_int_equal(open_fails(&t, &options), ERR_BUSY);
        options.path = block_test_path(&t, "one");
        assert_int_equal(open_fails(&t, &options), ERR_BUSY);
        block_close(one);
        block_close(two);
        block_test_free(&t);
}

/* ---- what is refused ---- */

static void unsupported_features_are_named(void **state)
{
        struct block_test t;
        struct block_options options = { 0 };
        struct block_device *dev;
        struct err *err = NULL;

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        options.path = block_test_path(&t, "disk");
        assert_int_equal(run("qemu-img create -f qcow2 -o extended_l2=on '%s' 1M", options.path), 0);
        assert_int_equal(block_open(&options, t.loop, NULL, &dev, &err), -EOPNOTSUPP);
        assert_non_null(strstr(err_message(err), "extended L2"));
        err = err_free(err);
        assert_int_equal(run("qemu-img create -f qcow2 -o data_file='%s.data' '%s' 1M", options.path, options.path), 0);
        assert_int_equal(open_fails(&t, &options), ERR_UNSUPPORTED);
        assert_int_equal(run("qemu-img create --object secret,id=s,data=x -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s '%s' 1M", options.path), 0);
        assert_int_equal(open_fails(&t, &options), ERR_UNSUPPORTED);
        assert_int_equal(run("rm '%s'; qemu-img create -f qcow2 '%s' 1M", options.path, options.path), 0);
        patch64(options.path, 72, BIT(17));
        assert_int_equal(block_open(&options, t.loop, NULL, &dev, &err), -EOPNOTSUPP);
        assert_non_null(strstr(err_message(err), "bit 17"));
        err_free(err);
        block_test_free(&t);
}

static void dirty_and_corrupt_images_are_read_only(void **state)
{
        struct block_test t;
        struct block_options options = { 0 };

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        options.path = block_test_path(&t, "disk");
        assert_int_equal(run("qemu-img create -f qcow2 '%s' 1M", options.path), 0);
        for (u64 bit = 1; bit <= 2; bit++) {
                patch64(options.path, 72, bit);
                options.read_only = false;
                assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
                options.read_only = true;
                assert_int_equal(open_fails(&t, &options), ERR_ID_COUNT);
        }
        block_test_free(&t);
}

static void impossible_headers_are_refused(void **state)
{
        static const struct {
                off_t offset;
                unsigned bytes;
                u64 value;
        } patches[] = {
                { 4, 4, 1 },                 { 4, 4, 4 },              /* version */
                { 8, 8, BIT(40) },                                     /* backing file name: where */
                { 20, 4, 8 },                { 20, 4, 22 },            /* cluster bits */
                { 20, 4, 0 },                { 20, 4, 0xffffffff },
                { 24, 8, 0 },                { 24, 8, BIT(60) },       /* size */
                { 36, 4, 0 },                { 36, 4, 0xffffffff },    /* L1 entries */
                { 40, 8, 0 },                { 40, 8, 65536 + 512 },   /* L1 offset */
                { 40, 8, BIT(62) },          { 40, 8, ~0ULL & ~65535ULL },
                { 48, 8, 0 },                { 48, 8, BIT(62) },       /* reference count table */
                { 48, 8, 12345 },            { 56, 4, 0 },
                { 56, 4, 0xffffffff },       { 60, 4, 0xffffffff },    /* snapshots */
                { 60, 4, 1 },                { 96, 4, 7 },             /* width of counts */
                { 100, 4, 8 },               { 100, 4, 0xfffffff8 },   /* header length */
                { 104, 1, 1 },               { 104, 1, 9 },            /* compression */
        };
        struct block_test t;
        struct block_options options = { 0 };

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        options.path = block_test_path(&t, "disk");
        options.format = BLOCK_FORMAT_QCOW2;
        for (size_t i = 0; i < ARRAY_SIZE(patches); i++) {
                const u64 be = __builtin_bswap64(patches[i].value << (64 - 8 * patches[i].bytes));

                assert_int_equal(run("rm -f '%s'; qemu-img create -f qcow2 '%s' 1M", options.path, options.path), 0);
                patch(options.path, patches[i].offset, &be, patches[i].bytes);
                if (patches[i].offset == 8)
                        patch32(options.path, 16, 5);
                if (open_fails(&t, &options) == ERR_ID_COUNT)
                        fail_msg("accepted %llx at %lld", (unsigned long long)patches[i].value, (long long)patches[i].offset);
        }
        /* Cut off anywhere in the metadata. */
        for (unsigned n = 0; n < 4 * 65536; n += 10007) {
                assert_int_equal(run("rm -f '%s'; qemu-img create -f qcow2 '%s' 1M && truncate -s %u '%s'", options.path, options.path, n, options.path), 0);
                if (n < 3 * 65536)
                        assert_true(open_fails(&t, &options) != ERR_ID_COUNT);
        }
        block_test_free(&t);
}

/* Where the first L2 entry is. */
static off_t first_l2_entry(const char *path)
{
        return (off_t)(peek64(path, (off_t)peek64(path, 40)) & 0x00fffffffffffe00ULL);
}

static void guest_data_never_touches_metadata(void **state)
{
        struct block_test t;
        struct block_options options = { 0 };
        u8 buf[4096];

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        options.path = block_test_path(&t, "disk");
        /* The header, the reference count table, a block of it, the L1 table, the L2 table itself, unaligned, behind the end. */
        for (unsigned target = 0; target < 8; target++) {
                static const u64 hosts[] = { 0, 1, 2, 3, 4 };
                struct block_device *dev;
                u64 entry;
                int r;

                assert_int_equal(run("rm -f '%s'; qemu-img create -f qcow2 '%s' 1M && qemu-io -c 'write -P 5 0 128k' '%s'", options.path, options.path, options.path), 0);
                entry = target < 5 ? hosts[target] << 16 : target == 5 ? 0x50200 : target == 6 ? BIT(40) : BIT(55);
                if (target == 0)
                        entry |= 1; /* a zero cluster "allocated" at the header */
                patch64(options.path, first_l2_entry(options.path), entry | BIT(63));
                dev = open_disk(&t, options.path, BLOCK_FORMAT_QCOW2, BLOCK_AIO_AUTO);
                memset(buf, 0xee, sizeof(buf));
                r = disk_io(dev, BLOCK_OP_WRITE, 0, 0, buf, sizeof(buf), 3);
                if (target == 0)
                        assert_int_equal(r, 0); /* no cluster at all: an ordinary zero cluster */
                else
                        assert_int_equal(r, -EIO);
                if (target != 0) { /* nothing is written from then on */
                        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 65536, buf, sizeof(buf), 3), -EIO);
                        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, 65536, buf, sizeof(buf), 3), 0);
                        assert_int_equal(buf[9], 5);
                }
                block_close(dev);
                if (target != 0) {
                        assert_int_equal(peek64(options.path, 72), 2); /* marked as corrupt */
                        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
                }
                assert_int_equal(peek64(options.path, 0) >> 32, 0x514649fb);
        }
        block_test_free(&t);
}

static void damaged_tables_are_found(void **state)
{
        struct block_test t;
        struct block_options options = { 0 };
        struct block_device *dev;
        u8 buf[4096] = { 1 };

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        options.path = block_test_path(&t, "disk");
        /* Two L1 entries with the same L2 table. */
        assert_int_equal(run("qemu-img create -f qcow2 '%s' 2G && qemu-io -c 'write -P 5 0 64k' '%s'", options.path, options.path), 0);
        patch64(options.path, (off_t)peek64(options.path, 40) + 8, peek64(options.path, (off_t)peek64(options.path, 40)));
        assert_int_equal(open_fails(&t, &options), ERR_BAD_IMAGE);
        /* Everything counted as free: the first allocation would land on metadata. */
        assert_int_equal(run("rm -f '%s'; qemu-img create -f qcow2 '%s' 1M", options.path, options.path), 0);
        assert_int_equal(run("dd if=/dev/zero of='%s' bs=64k seek=2 count=1 conv=notrunc", options.path), 0);
        dev = open_disk(&t, options.path, BLOCK_FORMAT_QCOW2, BLOCK_AIO_AUTO);
        assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, 0, buf, sizeof(buf), 3), -EIO);
        block_close(dev);
        assert_int_equal(peek64(options.path, 72), 2);
        /* Compressed data that is none. */
        assert_int_equal(run("rm -f '%s'; qemu-img create -f qcow2 '%s' 1M && qemu-io -c 'write -P 5 0 64k' '%s'", options.path, options.path, options.path), 0);
        patch64(options.path, first_l2_entry(options.path), BIT(62) | 5 << 16);
        dev = open_disk(&t, options.path, BLOCK_FORMAT_QCOW2, BLOCK_AIO_AUTO);
        assert_int_equal(disk_io(dev, BLOCK_OP_READ, 0, 0, buf, sizeof(buf), 3), -EIO);
        block_close(dev);
        block_test_free(&t);
}

/* ---- space and concurrency ---- */

static void discarded_clusters_are_used_again(void **state)
{
        struct block_test t;
        struct block_device *dev;
        const char *path;
        struct stat st;
        _cleanup_free_ u8 *buf = malloc(MIB);
        _cleanup_free_ u8 *reference = calloc(1, 16 * MIB);

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        path = block_test_path(&t, "disk");
        assert_int_equal(run("qemu-img create -f qcow2 '%s' 16M", path), 0);
        dev = open_disk(&t, path, BLOCK_FORMAT_AUTO, BLOCK_AIO_AUTO);
        for (unsigned i = 0; i < 64; i++) {
                const u64 at = i % 16 * MIB;

                fill_random(buf, MIB, i);
                assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, at, buf, MIB, i), 0);
                assert_int_equal(disk_io(dev, BLOCK_OP_DISCARD, 0, at, NULL, MIB, i), 0);
                assert_int_equal(disk_io(dev, BLOCK_OP_FLUSH, 0, 0, NULL, 0, i), 0);
        }
        assert_disk_equals(dev, reference); /* all zeros */
        block_close(dev);
        assert_int_equal(stat(path, &st), 0);
        assert_true(st.st_size < (off_t)(4 * MIB));
        assert_true(st.st_blocks * 512 < (off_t)MIB);
        assert_qemu_agrees(&t, path, reference, 16 * MIB, false);
        block_test_free(&t);
}

struct stream {
        struct block_request req;
        struct iovec iov;
        u8 *data, *reference;
        u64 state, base, size;
        unsigned left;
};

static void stream_next(struct block_request *req)
{
        struct stream *s = req->opaque;
        u64 at, len;

        if (req->done && req->result < 0)
                s->left = 0;
        if (s->left == 0)
                return;
        s->left--;
        at = (next_random(&s->state) >> 8) % (s->size / BLOCK_SECTOR) * BLOCK_SECTOR;
        len = (1 + (next_random(&s->state) >> 8) % 200) * BLOCK_SECTOR;
        len = MIN(len, s->size - at);
        s->iov = (struct iovec){ .iov_base = s->data, .iov_len = len };
        *req = (struct block_request){ .op = s->left % 17 == 0 ? BLOCK_OP_FLUSH : s->left % 11 == 0 ? BLOCK_OP_WRITE_ZEROES : BLOCK_OP_WRITE, .offset = s->base + at, .bytes = len, .iov = &s->iov, .n_iov = 1, .done = stream_next, .opaque = s, .dev = req->dev };
        if (req->op == BLOCK_OP_WRITE) {
                fill_random(s->data, len, s->state);
                memcpy(s->reference + s->base + at, s->data, len);
        } else if (req->op == BLOCK_OP_WRITE_ZEROES) {
                memset(s->reference + s->base + at, 0, len);
        }
        block_submit(req->dev, req);
}

static void requests_in_parallel_do_not_disturb_each_other(void **state)
{
        enum { STREAMS = 16 };
        /* Stripes that are no multiple of a cluster, so that neighbours share clusters. */
        const u64 stripe = 500 * KIB + 512, size = 8 * MIB;
        struct stream streams[STREAMS] = { 0 };
        struct block_test t;
        struct block_device *dev;
        const char *path;
        _cleanup_free_ u8 *reference = calloc(1, size);

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        path = block_test_path(&t, "disk");
        assert_int_equal(run("cd '%s' && qemu-img create -f raw base 8M && qemu-io -f raw -c 'write -P 9 0 8M' base && "
                             "qemu-img create -f qcow2 -b base -F raw disk", t.dir), 0);
        memset(reference, 9, size);
        dev = open_disk(&t, path, BLOCK_FORMAT_AUTO, BLOCK_AIO_AUTO);
        for (unsigned i = 0; i < STREAMS; i++) {
                struct stream *s = &streams[i];

                *s = (struct stream){ .data = malloc(200 * BLOCK_SECTOR), .reference = reference, .state = i + 77, .base = i * stripe, .size = stripe, .left = 150 };
                s->req.dev = dev;
                s->req.opaque = s;
                stream_next(&s->req);
        }
        block_drain(dev);
        for (unsigned i = 0; i < STREAMS; i++) {
                assert_int_equal(streams[i].req.result, 0);
                free(streams[i].data);
        }
        assert_disk_equals(dev, reference);
        block_close(dev);
        assert_qemu_agrees(&t, path, reference, size, false);
        block_test_free(&t);
}

/* More tables than the cache has room for: eviction, with everything dirty. */
static void tables_that_do_not_fit_the_cache_are_written_back(void **state)
{
        const u64 size = 256 * MIB;
        struct block_test t;
        struct block_device *dev;
        const char *path;
        _cleanup_free_ u8 *reference = calloc(1, size);
        u64 seed = 5;

        if (!have_qemu_img())
                skip();
        block_test_init(&t);
        path = block_test_path(&t, "disk");
        assert_int_equal(run("qemu-img create -f qcow2 -o cluster_size=512 '%s' %llu", path, (unsigned long long)size), 0);
        dev = open_disk(&t, path, BLOCK_FORMAT_AUTO, BLOCK_AIO_AUTO);
        for (unsigned i = 0; i < 1500; i++) {
                const u64 at = next_random(&seed) % (size / 512) * 512;

                fill_random(reference + at, 512, i);
                assert_int_equal(disk_io(dev, BLOCK_OP_WRITE, 0, at, reference + at, 512, i), 0);
        }
        assert_disk_equals(dev, reference);
        block_close(dev);
        assert_qemu_agrees(&t, path, reference, size, false);
        block_test_free(&t);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(images_of_all_kinds_stay_consistent),
                cmocka_unit_test(overlays_show_what_they_do_not_have),
                cmocka_unit_test(backing_files_that_cannot_be_trusted_are_refused),
                cmocka_unit_test(a_backing_file_may_have_several_overlays_but_no_writer),
                cmocka_unit_test(unsupported_features_are_named),
                cmocka_unit_test(dirty_and_corrupt_images_are_read_only),
                cmocka_unit_test(impossible_headers_are_refused),
                cmocka_unit_test(guest_data_never_touches_metadata),
                cmocka_unit_test(damaged_tables_are_found),
                cmocka_unit_test(discarded_clusters_are_used_again),
                cmocka_unit_test(requests_in_parallel_do_not_disturb_each_other),
                cmocka_unit_test(tables_that_do_not_fit_the_cache_are_written_back),
        };

        log_set_level(LOG_LEVEL_ERROR);
        return cmocka_run_group_tests_name("qcow2", tests, NULL, NULL);
}

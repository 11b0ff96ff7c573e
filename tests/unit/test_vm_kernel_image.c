/* Kernel files: what is unpacked, what is found in them, and what is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "vm/elf_image.h"
#include "vm/kernel_image.h"
#include "vm/multiboot.h"
#include "vm_files.h"

#define KERNEL_SIZE (96 * 1024)

/* Starts as an ELF file and compresses, but not to nothing. */
static void fill_kernel(u8 *kernel)
{
        u32 x = 12345;

        for (size_t i = 0; i < KERNEL_SIZE; i++) {
                x = x * 1103515245 + 12345;
                kernel[i] = (u8)(x >> 16 & 15);
        }
        memcpy(kernel, "\177ELF", 4);
}

static size_t pack_gzip(const u8 *in, u8 *out, size_t cap)
{
        z_stream z = { .next_in = (Bytef *)in, .avail_in = KERNEL_SIZE, .next_out = out, .avail_out = (uInt)cap };

        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        deflateEnd(&z);
        return z.total_out;
}

static size_t pack_lz4(const u8 *in, u8 *out, size_t cap)
{
        int n = LZ4_compress_default((const char *)in, (char *)out + 8, KERNEL_SIZE, (int)cap - 8);

        memcpy(out, "\x02\x21\x4c\x18", 4);
        memcpy(out + 4, &n, 4);
        return (size_t)n + 8;
}

static size_t pack_zstd(const u8 *in, u8 *out, size_t cap)
{
        ZSTD_CCtx *ctx = ZSTD_createCCtx();
        size_t n;

        ZSTD_CCtx_setParameter(ctx, ZSTD_c_checksumFlag, 1); /* as the zstd command does */
        n = ZSTD_compress2(ctx, out, cap, in, KERNEL_SIZE);
        ZSTD_freeCCtx(ctx);
        return n;
}

static size_t pack_xz(const u8 *in, u8 *out, size_t cap)
{
        lzma_options_lzma options;
        const lzma_filter filters[] = {
                { LZMA_FILTER_X86, NULL },
                { LZMA_FILTER_LZMA2, &options },
                { LZMA_VLI_UNKNOWN, NULL },
        };
        size_t n = 0;

        lzma_lzma_preset(&options, 1);
        assert_int_equal(lzma_stream_buffer_encode(
                                 (lzma_filter *)filters, LZMA_CHECK_CRC32, NULL, in, KERNEL_SIZE, out, &n, cap),
                LZMA_OK);
        return n;
}

static const struct {
        const char *name;
        size_t (*pack)(const u8 *in, u8 *out, size_t cap);
        bool own_size; /* the format ends with the size by itself */
} packers[] = {
        { "gzip", pack_gzip, true },
        { "lz4", pack_lz4, false },
        { "zstd", pack_zstd, false },
        { "xz", pack_xz, false },
};

static struct vm_file file;
static u8 kernel[KERNEL_SIZE], packed[2 * KERNEL_SIZE];

static void make_bzimage(size_t packer)
{
        size_t n;

        fill_kernel(kernel);
        n = packers[packer].pack(kernel, packed, sizeof(packed));
        vm_file_bzimage(&file, packed, n, packers[packer].own_size ? 0 : KERNEL_SIZE);
}

static void unpack_gives_back_the_kernel_of_every_format(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
                void *elf;
                size_t len;

                make_bzimage(i);
                assert_int_equal(kernel_image_kind(file.data, file.len), KERNEL_BZIMAGE);
                assert_int_equal(kernel_image_unpack(file.data, file.len, &elf, &len, NULL), 0);
                assert_int_equal(len, KERNEL_SIZE);
                assert_memory_equal(elf, kernel, KERNEL_SIZE);
                free(elf);
        }
}

static void refused(const void *data, size_t len, enum err_id id, const char *part)
{
        struct err *err = NULL;
        void *elf = NULL;
        size_t elf_len;

        assert_true(kernel_image_unpack(data, len, &elf, &elf_len, &err) < 0);
        assert_null(elf);
        assert_int_equal(err_get_id(err), id);
        assert_non_null(strstr(err_message(err), part));
        err_free(err);
}

static void truncated_image_is_refused_at_any_length(void **state)
{
        make_bzimage(1);
        for (size_t len = 0; len < file.len; len += 97)
                refused(file.data, len, ERR_BAD_IMAGE, "bzImage");
}

static void damaged_payload_is_refused(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
                make_bzimage(i);
                for (size_t at = 1024 + 16 + 2000; at < 1024 + 16 + 2400; at++)
                        file.data[at] ^= 0x5a;
                if (i != 1) /* lz4 has no checksum: it may come out as garbage, but not out of bounds */
                        refused(file.data, file.len, ERR_BAD_IMAGE, "damaged");
        }
}

static void size_that_lies_is_refused(void **state)
{
        u32 size = KERNEL_SIZE + 1;

        make_bzimage(2);
        memcpy(file.data + file.len - 4, &size, 4);
        refused(file.data, file.len, ERR_BAD_IMAGE, "damaged");
        size = KERNEL_SIZE - 1;
        memcpy(file.data + file.len - 4, &size, 4);
        refused(file.data, file.len, ERR_BAD_IMAGE, "damaged");
        size = 0xffffffff;
        memcpy(file.data + file.len - 4, &size, 4);
        refused(file.data, file.len, ERR_TOO_LARGE, "MiB");
}

static void unknown_compression_is_named(void **state)
{
        vm_file_bzimage(&file, "BZh91AY&SY", 10, 1000);
        refused(file.data, file.len, ERR_UNSUPPORTED, "bzip2");
        vm_file_bzimage(&file, "gibberish!", 10, 1000);
        refused(file.data, file.len, ERR_UNSUPPORTED, "unknown");
}

static void setup_header_ends_where_it_says(void **state)
{
        u8 header[SETUP_HEADER_MAX];

        make_bzimage(0);
        file.data[0x202 + 0x66] = 0xee; /* first byte behind the header */
        assert_int_equal(kernel_image_setup_header(file.data, file.len, header, NULL), 0);
        assert_memory_equal(header + (0x202 - SETUP_HEADER_OFFSET), "HdrS", 4);
        assert_int_equal(header[0x202 + 0x66 - SETUP_HEADER_OFFSET], 0);
}

static void elf_segments_and_pvh_note_are_found(void **state)
{
        struct elf_image image;

        vm_file_elf64(&file, 0x1000000, "code", 4, 0x1000002);
        assert_int_equal(elf_image_parse(file.data, file.len, &image, NULL), 0);
        assert_int_equal(image.n_segments, 1);
        assert_int_equal(image.entry, 0x1000000);
        assert_int_equal(image.segments[0].memory_size, 4 + 4096);
        assert_true(image.has_pvh_entry);
        assert_int_equal(image.pvh_entry, 0x1000002);
        assert_true(image.upper_half);
}

static void elf_with_impossible_segments_is_refused(void **state)
{
        static const struct {
                size_t offset;
                u64 value;
        } patches[] = {
                { 64 + 8, 1 << 30 },             /* p_offset behind the file */
                { 64 + 32, 1 << 30 },            /* p_filesz larger than the file */
                { 64 + 40, 1 },                  /* p_memsz smaller than p_filesz */
                { 64 + 24, 0xfffffffffffffff0 }, /* p_paddr + p_memsz wraps */
                { 32, 1 << 30 },                 /* e_phoff behind the file */
        };
        struct elf_image image;

        for (size_t i = 0; i < ARRAY_SIZE(patches); i++) {
                struct err *err = NULL;

                vm_file_elf64(&file, 0x1000000, "code", 4, 0);
                memcpy(file.data + patches[i].offset, &patches[i].value, 8);
                assert_true(elf_image_parse(file.data, file.len, &image, &err) < 0);
                assert_int_equal(err_get_id(err), ERR_BAD_IMAGE);
                err_free(err);
        }
}

static void multiboot_addresses_say_what_is_loaded_where(void **state)
{
        struct multiboot_load load;

        vm_file_multiboot(&file, 0x100000, "code", 4);
        assert_int_equal(kernel_image_kind(file.data, file.len), KERNEL_MULTIBOOT);
        assert_int_equal(multiboot_parse(file.data, file.len, &load, NULL), 0);
        assert_false(load.from_elf);
        assert_int_equal(load.entry, 0x100020);
        assert_int_equal(load.start, 0x100000);
        assert_int_equal(load.size, 36);
        assert_int_equal(load.end, 0x100000 + 36 + 4096);
}

static void multiboot_header_at_the_edge_stays_inside(void **state)
{
        struct multiboot_load load;

        vm_file_multiboot(&file, 0x100000, "code", 4);
        for (size_t len = 0; len < file.len; len++) {
                u8 *copy = malloc(len + 1); /* exact size, so that a sanitizer sees a read too many */

                memcpy(copy, file.data, len);
                assert_true(multiboot_parse(copy, len, &load, NULL) < 0);
                free(copy);
        }
}

static void multiboot_contradictions_are_refused(void **state)
{
        static const struct {
                size_t offset;
                u32 value;
        } patches[] = {
                { offsetof(struct multiboot_header, load_addr), 0x200000 }, /* behind the header's own address */
                { offsetof(struct multiboot_header, load_addr), 0x0f0000 }, /* before the start of the file */
                { offsetof(struct multiboot_header, load_end_addr), 0x0fffff },
                { offsetof(struct multiboot_header, load_end_addr), 0x200000 }, /* more than there is */
                { offsetof(struct multiboot_header, bss_end_addr), 0x100001 },
        };
        struct multiboot_load load;

        for (size_t i = 0; i < ARRAY_SIZE(patches); i++) {
                vm_file_multiboot(&file, 0x100000, "code", 4);
                memcpy(file.data + patches[i].offset, &patches[i].value, 4);
                assert_true(multiboot_parse(file.data, file.len, &load, NULL) < 0);
        }
}

static void multiboot_features_we_lack_are_refused(void **state)
{
        static const u32 flags[] = { 4, 8, 1 << 15 };
        struct multiboot_load load;

        for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
                struct err *err = NULL;
                u32 h[3] = { MULTIBOOT_HEADER_MAGIC, MULTIBOOT_LOAD_ADDRESSES | flags[i], 0 };

                h[2] = -(h[0] + h[1]);
                vm_file_multiboot(&file, 0x100000, "code", 4);
                memcpy(file.data, h, sizeof(h));
                assert_true(multiboot_parse(file.data, file.len, &load, &err) < 0);
                assert_int_equal(err_get_id(err), ERR_UNSUPPORTED);
                err_free(err);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(unpack_gives_back_the_kernel_of_every_format),
                cmocka_unit_test(truncated_image_is_refused_at_any_length),
                cmocka_unit_test(damaged_payload_is_refused),
                cmocka_unit_test(size_that_lies_is_refused),
                cmocka_unit_test(unknown_compression_is_named),
                cmocka_unit_test(setup_header_ends_where_it_says),
                cmocka_unit_test(elf_segments_and_pvh_note_are_found),
                cmocka_unit_test(elf_with_impossible_segments_is_refused),
                cmocka_unit_test(multiboot_addresses_say_what_is_loaded_where),
                cmocka_unit_test(multiboot_header_at_the_edge_stays_inside),
                cmocka_unit_test(multiboot_contradictions_are_refused),
                cmocka_unit_test(multiboot_features_we_lack_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

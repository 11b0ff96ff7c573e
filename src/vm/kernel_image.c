#include "kernel_image.h"

#include <endian.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "elf_image.h"
#include "multiboot.h"

/* Offsets in the first sectors of a bzImage. Source: Documentation/arch/x86/boot.rst, "The real-mode kernel header". */
enum {
        HDR_SETUP_SECTS = 0x1f1,
        HDR_BOOT_FLAG = 0x1fe,
        HDR_JUMP_DISTANCE = 0x201, /* the header ends at 0x202 + this */
        HDR_MAGIC = 0x202,
        HDR_VERSION = 0x206,
        HDR_PAYLOAD_OFFSET = 0x248, /* from the start of the protected-mode code; version 2.08 and later */
        HDR_PAYLOAD_LENGTH = 0x24c,
        HDR_LENGTH_MIN = 0x264,
};

static u16 get16(const u8 *p)
{
        u16 v;

        memcpy(&v, p, sizeof(v));
        return le16toh(v);
}

static u32 get32(const u8 *p)
{
        u32 v;

        memcpy(&v, p, sizeof(v));
        return le32toh(v);
}

/* ---- decompressors: 0, or -EINVAL. Exactly @out_len bytes must come out. ---- */

static int unpack_gzip(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
        z_stream z = { 0 };
        int r;

        if (in_len > UINT32_MAX || out_len > UINT32_MAX)
                return -EINVAL;
        if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
                return -ENOMEM;
        z.next_in = (Bytef *)in;
        z.avail_in = (uInt)in_len;
        z.next_out = out;
        z.avail_out = (uInt)out_len;
        r = inflate(&z, Z_FINISH);
        inflateEnd(&z);
        return r == Z_STREAM_END && z.avail_out == 0 ? 0 : -EINVAL;
}

/* What `lz4 -l` writes: a magic number, then blocks of at most 8 MiB of output, each after its compressed size. */
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK (8 * MIB)

static int unpack_lz4(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
        size_t pos = 4, done = 0;

        while (done < out_len) {
                size_t room = MIN(out_len - done, LZ4_LEGACY_BLOCK);
                u32 block;
                int n;

                if (in_len - pos < 4)
                        return -EINVAL;
                block = get32(in + pos);
                pos += 4;
                if (block == LZ4_LEGACY_MAGIC) /* frames may follow each other */
                        continue;
                if (block == 0 || block > in_len - pos || block > INT32_MAX)
                        return -EINVAL;
                n = LZ4_decompress_safe((const char *)in + pos, (char *)out + done, (int)block, (int)room);
                if (n <= 0)
                        return -EINVAL;
                pos += block;
                done += (size_t)n;
        }
        return 0;
}

static int unpack_zstd(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
        /* The frame's end says how much of the input belongs to it; the kernel appends the size after it. */
        size_t frame = ZSTD_findFrameCompressedSize(in, in_len);
        size_t n;

        if (ZSTD_isError(frame))
                return -EINVAL;
        n = ZSTD_decompress(out, out_len, in, frame);
        return ZSTD_isError(n) || n != out_len ? -EINVAL : 0;
}

static int lzma_run(lzma_stream *s, const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
        lzma_ret r;

        s->next_in = in;
        s->avail_in = in_len;
        s->next_out = out;
        s->avail_out = out_len;
        r = lzma_code(s, LZMA_FINISH);
        lzma_end(s);
        /* lzma_alone streams of unknown size end without a marker: then LZMA_OK with all output is the end too. */
        return (r == LZMA_STREAM_END || r == LZMA_OK) && s->avail_out == 0 ? 0 : -EINVAL;
}

/* Enough for the largest dictionary that the kernel's build uses (32 MiB). */
#define LZMA_MEMORY_MAX (128 * MIB)

static int unpack_xz(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
        lzma_stream s = LZMA_STREAM_INIT;

        if (lzma_stream_decoder(&s, LZMA_MEMORY_MAX, 0) != LZMA_OK)
                return -ENOMEM;
        return lzma_run(&s, in, in_len, out, out_len);
}

static int unpack_lzma(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
        lzma_stream s = LZMA_STREAM_INIT;

        if (lzma_alone_decoder(&s, LZMA_MEMORY_MAX) != LZMA_OK)
                return -ENOMEM;
        return lzma_run(&s, in, in_len, out, out_len);
}

static int unpack_none(const u8 *in, size_t in_len, u8 *out, size_t out_len)
{
        if (in_len < out_len)
                return -EINVAL;
        memcpy(out, in, out_len);
        return 0;
}

static const struct unpacker {
        const char *name;
        u8 magic[6];
        u8 magic_len;
        int (*unpack)(const u8 *in, size_t in_len, u8 *out, size_t out_len); /* NULL: known, but not supported */
} unpackers[] = {
        { "gzip", { 0x1f, 0x8b }, 2, unpack_gzip },
        { "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, unpack_lz4 },
        { "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, unpack_zstd },
        { "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, unpack_xz },
        { "lzma", { 0x5d, 0x00, 0x00 }, 3, unpack_lzma },
        { "uncompressed", { 0x7f, 'E', 'L', 'F' }, 4, unpack_none },
        { "bzip2", { 'B', 'Z', 'h' }, 3, NULL },
        { "lzo", { 0x89, 'L', 'Z', 'O' }, 4, NULL },
};

static const struct unpacker *unpacker_find(const u8 *payload, size_t len)
{
        for (size_t i = 0; i < ARRAY_SIZE(unpackers); i++) {
                if (len >= unpackers[i].magic_len && memcmp(payload, unpackers[i].magic, unpackers[i].magic_len) == 0)
                        return &unpackers[i];
        }
        return NULL;
}

static bool is_bzimage(const u8 *p, size_t len)
{
        return len >= HDR_LENGTH_MIN && get16(p + HDR_BOOT_FLAG) == 0xaa55 && memcmp(p + HDR_MAGIC, "HdrS", 4) == 0;
}

/* Finds the compressed payload in @p. */
static int payload_find(const u8 *p, size_t len, const u8 **ret_payload, size_t *ret_len, struct err **err)
{
        u64 start, offset, size;
        unsigned sectors;

        if (!is_bzimage(p, len))
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "not a bzImage");
        if (get16(p + HDR_VERSION) < 0x208)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "boot protocol %u.%02u is too old, 2.08 is needed",
                        get16(p + HDR_VERSION) >> 8, get16(p + HDR_VERSION) & 0xff);
        sectors = p[HDR_SETUP_SECTS] ? p[HDR_SETUP_SECTS] : 4;
        start = (sectors + 1) * 512;
        offset = start + get32(p + HDR_PAYLOAD_OFFSET);
        size = get32(p + HDR_PAYLOAD_LENGTH);
        if (size < 8)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the bzImage has no compressed kernel in it");
        if (offset + size > len)
                return err_set(err, ERR_BAD_IMAGE, EINVAL,
                        "the bzImage is truncated: its kernel ends at byte %llu, the file at byte %zu",
                        (unsigned long long)(offset + size), len);
        *ret_payload = p + offset;
        *ret_len = (size_t)size;
        return 0;
}

int kernel_image_unpack(const void *data, size_t len, void **ret_elf, size_t *ret_len, struct err **err)
{
        _cleanup_free_ u8 *out = NULL;
        const struct unpacker *unpacker;
        const u8 *payload = NULL;
        size_t payload_len = 0, out_len;
        int r;

        r = payload_find(data, len, &payload, &payload_len, err);
        if (r < 0)
                return r;
        unpacker = unpacker_find(payload, payload_len);
        if (!unpacker || !unpacker->unpack)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                        "the bzImage is compressed with %s, which is not supported",
                        unpacker ? unpacker->name : "an unknown method");

        /* The build appends the unpacked size to what has no size of its own; gzip ends with it anyway. */
        out_len = unpacker->unpack == unpack_none ? payload_len : get32(payload + payload_len - 4);
        if (out_len > KERNEL_UNPACKED_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG,
                        "the bzImage claims to unpack to %zu MiB, the limit is %llu MiB", out_len >> 20,
                        KERNEL_UNPACKED_MAX >> 20);
        if (out_len < 64)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the bzImage claims to unpack to %zu bytes only", out_len);
        out = malloc(out_len);
        if (!out)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to unpack a kernel of %zu MiB", out_len >> 20);
        r = unpacker->unpack(payload, payload_len, out, out_len);
        if (r < 0)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the %s data of the bzImage is damaged", unpacker->name);
        if (memcmp(out, "\177ELF", 4) != 0)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the bzImage does not hold an ELF kernel");
        *ret_elf = TAKE_PTR(out);
        *ret_len = out_len;
        return 0;
}

int kernel_image_setup_header(const void *data, size_t len, u8 ret_header[SETUP_HEADER_MAX], struct err **err)
{
        const u8 *p = data;
        size_t end;

        if (!is_bzimage(p, len))
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "not a bzImage");
        end = MIN((size_t)HDR_MAGIC + p[HDR_JUMP_DISTANCE], (size_t)SETUP_HEADER_OFFSET + SETUP_HEADER_MAX);
        if (end > len)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the bzImage ends inside its header");
        memset(ret_header, 0, SETUP_HEADER_MAX);
        memcpy(ret_header, p + SETUP_HEADER_OFFSET, end - SETUP_HEADER_OFFSET);
        return 0;
}

enum kernel_kind kernel_image_kind(const void *data, size_t len)
{
        if (is_bzimage(data, len))
                return KERNEL_BZIMAGE;
        if (multiboot_header_find(data, len))
                return KERNEL_MULTIBOOT;
        if (elf_image_is_elf64(data, len))
                return KERNEL_ELF64;
        return KERNEL_UNKNOWN;
}

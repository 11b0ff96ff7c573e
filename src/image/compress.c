#include "compress.h"

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "library.h"

#define GZIP_LEVEL  6
#define GZIP_BUFFER (64U * 1024U)
#define XZ_MEMORY   (256 * MIB) /* what the highest preset wants is 65 */

struct decompressor {
        struct byte_source source;
        enum compression kind;
        bool begun, input_ended, ended;
        const u8 *in; /* what is left of the source's last piece */
        size_t in_len;
        /* gzip: ISA-L's inflate is about three times as fast as zlib's and streams, unlike libdeflate's (ADR 41) */
        struct inflate_state *inflate;
        bool member_ended; /* of gzip, bzip2 */
        ZSTD_DStream *zstd;
        size_t zstd_wants; /* 0 between frames */
        lzma_stream xz;
        const struct bzip2_library *bzip2; /* NULL: not begun */
        bz_stream bz;
};

int decompressor_new(const struct byte_source *source, struct decompressor **ret, struct err **err)
{
        struct decompressor *d = calloc(1, sizeof(*d));

        if (!d)
                return err_sys(err, ENOMEM, "decompressing");
        d->source = *source;
        *ret = d;
        return 0;
}

struct decompressor *decompressor_free(struct decompressor *d)
{
        if (!d)
                return NULL;
        free(d->inflate);
        ZSTD_freeDStream(d->zstd);
        lzma_end(&d->xz);
        if (d->bzip2)
                d->bzip2->BZ2_bzDecompressEnd(&d->bz);
        free(d);
        return NULL;
}

enum compression decompressor_kind(const struct decompressor *d)
{
        return d->kind;
}

static int damaged(struct err **err, const char *what)
{
        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "the compressed data is damaged: %s", what);
}

/* At least one byte of input, unless it has ended. */
static int refill(struct decompressor *d, struct err **err)
{
        int r;

        while (d->in_len == 0 && !d->input_ended) {
                r = d->source.next(d->source.opaque, &d->in, &d->in_len, err);
                if (r < 0)
                        return r;
                d->input_ended = d->in_len == 0;
        }
        return 0;
}

/* --- gzip ------------------------------------------------------------------------------------------------------------ */

static void begin_member(struct decompressor *d)
{
        isal_inflate_init(d->inflate);
        d->inflate->crc_flag = ISAL_GZIP;
        d->member_ended = false;
}

static int read_gzip(struct decompressor *d, u8 *buf, size_t cap, size_t *ret_len, struct err **err)
{
        struct inflate_state *s = d->inflate;
        size_t used;
        int r = refill(d, err);

        if (r < 0)
                return r;
        if (d->member_ended) {
                if (d->in_len == 0) {
                        d->ended = true;
                        return 0;
                }
                begin_member(d); /* several members are one stream */
        }
        s->next_in = (u8 *)d->in;
        s->avail_in = (u32)MIN(d->in_len, (size_t)1 << 30);
        s->next_out = buf;
        s->avail_out = (u32)MIN(cap, (size_t)1 << 30);
        used = s->avail_in;
        r = isal_inflate(s);
        if (r != ISAL_DECOMP_OK && r != ISAL_END_INPUT && r != ISAL_OUT_OVERFLOW)
                return damaged(err, r == ISAL_INCORRECT_CHECKSUM ? "its checksum is wrong" : "it is no gzip");
        used -= s->avail_in;
        d->in += used;
        d->in_len -= used;
        *ret_len = (size_t)(s->next_out - buf);
        d->member_ended = s->block_state == ISAL_BLOCK_FINISH;
        if (!d->member_ended && *ret_len == 0 && d->input_ended)
                return damaged(err, "it is cut off");
        return 0;
}

/* --- zstd ------------------------------------------------------------------------------------------------------------ */

/* The library refuses windows over 128 MiB by itself. */
static int read_zstd(struct decompressor *d, u8 *buf, size_t cap, size_t *ret_len, struct err **err)
{
        ZSTD_outBuffer out = { buf, cap, 0 };
        ZSTD_inBuffer in;
        int r = refill(d, err);

        if (r < 0)
                return r;
        if (d->in_len == 0 && d->zstd_wants == 0) {
                d->ended = true;
                return 0;
        }
        in = (ZSTD_inBuffer){ d->in, d->in_len, 0 };
        d->zstd_wants = ZSTD_decompressStream(d->zstd, &out, &in);
        if (ZSTD_isError(d->zstd_wants))
                return damaged(err, ZSTD_getErrorName(d->zstd_wants));
        d->in += in.pos;
        d->in_len -= in.pos;
        *ret_len = out.pos;
        if (out.pos == 0 && d->input_ended && d->zstd_wants != 0)
                return damaged(err, "it is cut off");
        return 0;
}

/* --- xz -------------------------------------------------------------------------------------------------------------- */

static int read_xz(struct decompressor *d, u8 *buf, size_t cap, size_t *ret_len, struct err **err)
{
        int r = refill(d, err);

        if (r < 0)
                return r;
        d->xz.next_in = d->in;
        d->xz.avail_in = d->in_len;
        d->xz.next_out = buf;
        d->xz.avail_out = cap;
        r = lzma_code(&d->xz, d->input_ended ? LZMA_FINISH : LZMA_RUN);
        d->in += d->in_len - d->xz.avail_in;
        d->in_len = d->xz.avail_in;
        *ret_len = cap - d->xz.avail_out;
        d->ended = r == LZMA_STREAM_END;
        if (r == LZMA_MEMLIMIT_ERROR)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "the compressed data wants more than %llu MiB of memory",
                        XZ_MEMORY / MIB);
        if (r == LZMA_BUF_ERROR && d->input_ended)
                return damaged(err, "it is cut off");
        return r == LZMA_OK || r == LZMA_STREAM_END || r == LZMA_BUF_ERROR ? 0 : damaged(err, "it is no xz");
}

/* --- bzip2 ----------------------------------------------------------------------------------------------------------- */

/* The first stream, or one more: several are one, as pbzip2 makes them. */
static int begin_bzip2(struct decompressor *d, struct err **err)
{
        const struct bzip2_library *library = library_bzip2(err);

        if (!library)
                return -ENOSYS;
        if (d->bzip2)
                library->BZ2_bzDecompressEnd(&d->bz);
        d->bz = (bz_stream){ 0 };
        d->bzip2 = library;
        d->member_ended = false;
        return library->BZ2_bzDecompressInit(&d->bz, 0, 0) == BZ_OK ? 0 : err_sys(err, ENOMEM, "decompressing");
}

static int read_bzip2(struct decompressor *d, u8 *buf, size_t cap, size_t *ret_len, struct err **err)
{
        const u32 room = (u32)MIN(cap, (size_t)1 << 30);
        u32 offered;
        int r = refill(d, err);

        if (r == 0 && d->member_ended && d->in_len == 0) {
                d->ended = true;
                return 0;
        }
        if (r == 0 && d->member_ended)
                r = begin_bzip2(d, err);
        if (r < 0)
                return r;
        offered = (u32)MIN(d->in_len, (size_t)1 << 30);
        d->bz.next_in = (char *)d->in;
        d->bz.avail_in = offered;
        d->bz.next_out = (char *)buf;
        d->bz.avail_out = room;
        r = d->bzip2->BZ2_bzDecompress(&d->bz);
        d->in += offered - d->bz.avail_in;
        d->in_len -= offered - d->bz.avail_in;
        *ret_len = room - d->bz.avail_out;
        d->member_ended = r == BZ_STREAM_END;
        if (r == BZ_MEM_ERROR)
                return err_sys(err, ENOMEM, "decompressing");
        if (r == BZ_OK && *ret_len == 0 && offered == 0)
                return damaged(err, "it is cut off");
        return r == BZ_OK || r == BZ_STREAM_END ? 0 : damaged(err, "it is no bzip2");
}

/* --- any ------------------------------------------------------------------------------------------------------------- */

static int read_plain(struct decompressor *d, u8 *buf, size_t cap, size_t *ret_len, struct err **err)
{
        int r = refill(d, err);

        if (r < 0)
                return r;
        *ret_len = MIN(cap, d->in_len);
        d->ended = d->in_len == 0;
        if (*ret_len > 0)
                memcpy(buf, d->in, *ret_len);
        d->in += *ret_len;
        d->in_len -= *ret_len;
        return 0;
}

static const struct {
        const char *magic;
        size_t len;
        const char *more; /* six bytes from the fifth on; NULL: nothing */
        int (*read)(struct decompressor *d, u8 *buf, size_t cap, size_t *ret_len, struct err **err);
} kinds[] = {
        [COMPRESSION_NONE] = { "", 0, NULL, read_plain },
        [COMPRESSION_GZIP] = { "\x1f\x8b", 2, NULL, read_gzip },
        [COMPRESSION_ZSTD] = { "\x28\xb5\x2f\xfd", 4, NULL, read_zstd },
        [COMPRESSION_XZ] = { "\xfd"
                             "7zXZ",
                6, NULL, read_xz }, /* the NUL is one of them */
        /* the level, 1 to 9, and pi, with which the first block begins: a plain archive's first name may begin as well with BZh */
        [COMPRESSION_BZIP2] = { "BZh", 3, "1AY&SY", read_bzip2 },
};

enum compression compression_of(const u8 *data, size_t len)
{
        enum compression kind = COMPRESSION_NONE;

        for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
                if (len >= kinds[i].len && memcmp(data, kinds[i].magic, kinds[i].len) == 0 &&
                        (!kinds[i].more || (len >= 10 && memcmp(data + 4, kinds[i].more, 6) == 0)))
                        kind = (enum compression)i;
        return kind;
}

int decompressor_begin(struct decompressor *d, struct err **err)
{
        int r = d->begun ? 0 : refill(d, err);

        if (r < 0 || d->begun)
                return r;
        d->kind = compression_of(d->in, d->in_len);
        if (d->kind == COMPRESSION_GZIP) {
                d->inflate = malloc(sizeof(*d->inflate));
                if (!d->inflate)
                        return err_sys(err, ENOMEM, "decompressing");
                begin_member(d);
        }
        if (d->kind == COMPRESSION_ZSTD) {
                d->zstd = ZSTD_createDStream();
                d->zstd_wants = 1;
                if (!d->zstd)
                        return err_sys(err, ENOMEM, "decompressing");
        }
        if (d->kind == COMPRESSION_XZ && lzma_stream_decoder(&d->xz, XZ_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
                return err_sys(err, ENOMEM, "decompressing");
        if (d->kind == COMPRESSION_BZIP2 && (r = begin_bzip2(d, err)) < 0)
                return r;
        d->begun = true;
        return 0;
}

int decompressor_read(struct decompressor *d, void *buf, size_t cap, size_t *ret_len, struct err **err)
{
        size_t got = 0;
        int r = decompressor_begin(d, err);

        while (r == 0 && got < cap && !d->ended) {
                size_t n = 0;

                r = kinds[d->kind].read(d, (u8 *)buf + got, cap - got, &n, err);
                got += n;
        }
        if (r == 0)
                *ret_len = got;
        return r;
}

/* --- compressing ----------------------------------------------------------------------------------------------------- */

struct compressor {
        struct byte_sink sink;
        z_stream z;
        u8 out[GZIP_BUFFER];
};

int compressor_new(const struct byte_sink *sink, struct compressor **ret, struct err **err)
{
        _cleanup_free_ struct compressor *c = calloc(1, sizeof(*c));

        /* zlib, because ISA-L's output depends on the CPU; 16: a gzip header, which has no time and no name then */
        if (!c || deflateInit2(&c->z, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY) != Z_OK)
                return err_sys(err, ENOMEM, "compressing");
        c->sink = *sink;
        *ret = TAKE_PTR(c);
        return 0;
}

static int run(struct compressor *c, int flush, struct err **err)
{
        int r;

        do {
                c->z.next_out = c->out;
                c->z.avail_out = sizeof(c->out);
                deflate(&c->z, flush);
                r = c->sink.write(c->sink.opaque, c->out, sizeof(c->out) - c->z.avail_out, err);
                if (r < 0)
                        return r;
        } while (c->z.avail_out == 0);
        return 0;
}

int compressor_write(struct compressor *c, const void *data, size_t len, struct err **err)
{
        int r = 0;

        while (r == 0 && len > 0) {
                const size_t n = MIN(len, (size_t)1 << 30);

                c->z.next_in = (u8 *)data;
                c->z.avail_in = (unsigned)n;
                r = run(c, Z_NO_FLUSH, err);
                data = (const u8 *)data + n;
                len -= n;
        }
        return r;
}

int compressor_finish(struct compressor *c, struct err **err)
{
        c->z.avail_in = 0;
        return run(c, Z_FINISH, err);
}

struct compressor *compressor_free(struct compressor *c)
{
        if (!c)
                return NULL;
        deflateEnd(&c->z);
        free(c);
        return NULL;
}

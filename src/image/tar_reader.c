/* The reader of tar archives.
 *
 * A header block says how many bytes of data follow it, padded to 512. Some headers are about the next one: GNU's 'L' and 'K'
 * bring a long name or link target, pax's 'x' brings "length key=value\n" records that overrule the fields. Sparse files
 * come in four kinds (GNU tar manual, "Storing Sparse Files"): all end up as a list of stretches of data. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tar_header.h"

#define META_MAX         (1 * MIB)    /* of one long name or pax header */
#define META_HEADERS_MAX 64           /* before one entry */
#define STRETCHES_MAX    262144U      /* of one sparse file */
#define SIZE_LIMIT       (1ULL << 62) /* so that sums do not overflow */

struct stretch {
        u64 offset, len;
};

struct tar_reader {
        struct byte_source source;
        const u8 *piece; /* what is left of the source's last piece */
        size_t piece_len;
        u64 limit, taken; /* of the source, since the limit was set */
        const char *limited;
        u8 block[TAR_BLOCK];

        struct tar_entry entry;
        u64 data_left;    /* bytes of the entry's data that are still in the stream */
        unsigned padding; /* behind them */

        /* sparse: the stretches of the entry; n_stretches 0 for other files */
        struct stretch *stretches;
        size_t n_stretches, stretches_cap, stretch;
        u64 offset; /* of the next piece of data in the file */

        /* what headers before the entry's own said */
        bool has_size, has_uid, has_gid, has_mtime, has_real_size, sparse_v1;
        u64 pax_size, real_size;
        u32 pax_uid, pax_gid;
        struct timespec pax_mtime;
        char *pax_path, *pax_link, *sparse_name;
};

static int bad(struct err **err, const char *what)
{
        return err_set(err, ERR_BAD_IMAGE, EBADMSG, "the archive is damaged: %s", what);
}

/* --- bytes ----------------------------------------------------------------------------------------------------------- */

/* At least one byte in the piece, or 0 at the end. */
static int fill(struct tar_reader *tar, struct err **err)
{
        while (tar->piece_len == 0) {
                const int r = tar->source.next(tar->source.opaque, &tar->piece, &tar->piece_len, err);

                if (r < 0)
                        return r;
                if (tar->piece_len == 0)
                        return 0;
                tar->taken += tar->piece_len;
                if (tar->taken > tar->limit)
                        return err_set(err, ERR_TOO_LARGE, EFBIG, "%s has more than %llu MiB", tar->limited,
                                tar->limit / MIB);
        }
        return 1;
}

/* @len bytes; 1 when they were there, 0 when the source ended before the first, an error when it ended among them. */
static int take_bytes(struct tar_reader *tar, void *buf, size_t len, struct err **err)
{
        u8 *p = buf;
        size_t got = 0;

        while (got < len) {
                const int r = fill(tar, err);
                size_t n;

                if (r < 0)
                        return r;
                if (r == 0)
                        return got == 0 ? 0 : bad(err, "it ends in the middle of a block");
                n = MIN(len - got, tar->piece_len);
                memcpy(p + got, tar->piece, n);
                tar->piece += n;
                tar->piece_len -= n;
                got += n;
        }
        return 1;
}

static int skip_bytes(struct tar_reader *tar, u64 len, struct err **err)
{
        while (len > 0) {
                const int r = fill(tar, err);
                size_t n;

                if (r < 0)
                        return r;
                if (r == 0)
                        return bad(err, "it ends in the middle of a file");
                n = MIN(len, tar->piece_len);
                tar->piece += n;
                tar->piece_len -= n;
                len -= n;
        }
        return 0;
}

/* --- numbers --------------------------------------------------------------------------------------------------------- */

/* Octal digits between blanks, or GNU's big-endian two's complement with the top bit set. */
static int parse_number(const char *field, size_t len, s64 *ret)
{
        const u8 *p = (const u8 *)field;
        s64 v = 0;
        size_t i = 0;

        if (p[0] & 0x80) {
                v = p[0] & 0x40 ? -1 : 0;
                v = (s64)((u64)v << 6) | (p[0] & 0x3f);
                for (i = 1; i < len; i++) {
                        if (v > INT64_MAX >> 8 || v < INT64_MIN >> 8)
                                return -EBADMSG;
                        v = (s64)((u64)v << 8) | p[i];
                }
                *ret = v;
                return 0;
        }
        while (i < len && p[i] == ' ')
                i++;
        for (; i < len && p[i] >= '0' && p[i] <= '7'; i++)
                v = v << 3 | (p[i] - '0'); /* at most 12 digits */
        if (i < len && p[i] != ' ' && p[i] != '\0')
                return -EBADMSG;
        *ret = v;
        return 0;
}

#define NUMBER(h, field, ret) parse_number((h)->field, sizeof((h)->field), ret)

static int parse_decimal(const char *text, u64 limit, u64 *ret)
{
        u64 v = 0;

        if (!*text)
                return -EBADMSG;
        for (; *text; text++) {
                if (*text < '0' || *text > '9' || v > (limit - (u64)(*text - '0')) / 10)
                        return -EBADMSG;
                v = v * 10 + (u64)(*text - '0');
        }
        *ret = v;
        return 0;
}

/* "-12.345": seconds, and what there is of nanoseconds */
static int parse_time(const char *text, struct timespec *ret)
{
        const bool negative = *text == '-';
        const char *dot;
        char whole[24];
        u64 seconds;
        long ns = 0, unit = 100000000;

        text += negative;
        dot = strchr(text, '.');
        if (snprintf(whole, sizeof(whole), "%.*s", dot ? (int)(dot - text) : INT_MAX, text) >= (int)sizeof(whole) ||
                parse_decimal(whole, INT64_MAX / 2, &seconds) < 0)
                return -EBADMSG;
        for (const char *p = dot ? dot + 1 : ""; *p; p++, unit /= 10) {
                if (*p < '0' || *p > '9')
                        return -EBADMSG;
                ns += (*p - '0') * unit;
        }
        ret->tv_sec = negative ? -(time_t)seconds : (time_t)seconds;
        ret->tv_nsec = ns;
        if (negative && ns > 0) {
                ret->tv_sec--;
                ret->tv_nsec = 1000000000 - ns;
        }
        return 0;
}

/* --- sparse files ---------------------------------------------------------------------------------------------------- */

static int add_stretch(struct tar_reader *tar, u64 offset, u64 len, struct err **err)
{
        if (tar->n_stretches == tar->stretches_cap) {
                const size_t cap = MAX(2 * tar->stretches_cap, (size_t)16);
                struct stretch *grown;

                if (cap > STRETCHES_MAX)
                        return bad(err, "a sparse file has too many pieces");
                grown = reallocarray(tar->stretches, cap, sizeof(*grown));
                if (!grown)
                        return err_sys(err, ENOMEM, "reading an archive");
                tar->stretches = grown;
                tar->stretches_cap = cap;
        }
        tar->stretches[tar->n_stretches++] = (struct stretch){ offset, len };
        return 0;
}

/* In order, apart, inside the file, and as many bytes as there are. */
static int check_stretches(struct tar_reader *tar, struct err **err)
{
        u64 end = 0, sum = 0;

        for (size_t i = 0; i < tar->n_stretches; i++) {
                const struct stretch *s = &tar->stretches[i];

                if (s->offset > SIZE_LIMIT || s->len > SIZE_LIMIT || s->offset < end ||
                        s->offset + s->len > tar->entry.size)
                        return bad(err, "a sparse file's pieces overlap or lie outside of it");
                end = s->offset + s->len;
                sum += s->len;
        }
        return sum == tar->data_left ? 0 : bad(err, "a sparse file's pieces are not as long as its data");
}

/* GNU's own: four pieces in the header, more in blocks behind it. */
static int read_gnu_sparse(struct tar_reader *tar, const struct header *h, struct err **err)
{
        const char *p = (const char *)h + 386;
        unsigned n = 4;
        bool more = ((const char *)h)[482];
        s64 real, offset, len;
        int r;

        if (parse_number((const char *)h + 483, 12, &real) < 0 || real < 0)
                return bad(err, "a sparse file has no size");
        tar->entry.size = (u64)real;
        for (;;) {
                for (unsigned i = 0; i < n && p[24 * i]; i++) {
                        if (parse_number(p + 24 * i, 12, &offset) < 0 || parse_number(p + 24 * i + 12, 12, &len) < 0 ||
                                offset < 0 || len < 0)
                                return bad(err, "a sparse file's map is malformed");
                        r = add_stretch(tar, (u64)offset, (u64)len, err);
                        if (r < 0)
                                return r;
                }
                if (!more)
                        return 0;
                r = take_bytes(tar, tar->block, TAR_BLOCK, err);
                if (r <= 0)
                        return r < 0 ? r : bad(err, "a sparse file's map is cut off");
                p = (const char *)tar->block;
                n = 21;
                more = tar->block[504];
        }
}

/* pax 1.0: decimal numbers, one a line, in front of the data: how many pieces, then offset and length of each. */
static int read_line_number(struct tar_reader *tar, size_t *pos, u64 *ret, struct err **err)
{
        char digits[24];
        size_t n = 0;
        int r;

        for (;;) {
                if (*pos == TAR_BLOCK) {
                        if (tar->data_left < TAR_BLOCK)
                                return bad(err, "a sparse file's map is cut off");
                        r = take_bytes(tar, tar->block, TAR_BLOCK, err);
                        if (r <= 0)
                                return r < 0 ? r : bad(err, "a sparse file's map is cut off");
                        tar->data_left -= TAR_BLOCK;
                        *pos = 0;
                }
                if (tar->block[*pos] == '\n')
                        break;
                if (n + 1 == sizeof(digits))
                        return bad(err, "a sparse file's map is malformed");
                digits[n++] = (char)tar->block[(*pos)++];
        }
        (*pos)++;
        digits[n] = '\0';
        return parse_decimal(digits, SIZE_LIMIT, ret) < 0 ? bad(err, "a sparse file's map is malformed") : 0;
}

static int read_pax_sparse(struct tar_reader *tar, struct err **err)
{
        size_t pos = TAR_BLOCK;
        u64 n = 0, offset = 0, len = 0;
        int r = read_line_number(tar, &pos, &n, err);

        for (u64 i = 0; r == 0 && i < n; i++) {
                r = read_line_number(tar, &pos, &offset, err);
                if (r == 0)
                        r = read_line_number(tar, &pos, &len, err);
                if (r == 0)
                        r = add_stretch(tar, offset, len, err);
        }
        if (r < 0)
                return r;
        if (tar->n_stretches == 0) /* all hole: data_left is 0, checked below */
                r = add_stretch(tar, 0, 0, err);
        return r;
}

/* --- pax records ----------------------------------------------------------------------------------------------------- */

static int set_text(char **where, const char *value, struct err **err)
{
        char *copy = strdup(value);

        if (!copy)
                return err_sys(err, ENOMEM, "reading an archive");
        free(*where);
        *where = copy;
        return 0;
}

static int pax_path(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        return set_text(&tar->pax_path, value, err);
}

static int pax_link(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        return set_text(&tar->pax_link, value, err);
}

static int pax_sparse_name(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        return set_text(&tar->sparse_name, value, err);
}

static int pax_size(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        tar->has_size = parse_decimal(value, SIZE_LIMIT, &tar->pax_size) == 0;
        return tar->has_size ? 0 : bad(err, "a size is malformed");
}

static int pax_real_size(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        tar->has_real_size = parse_decimal(value, SIZE_LIMIT, &tar->real_size) == 0;
        return tar->has_real_size ? 0 : bad(err, "a size is malformed");
}

static int pax_id(const char *value, u32 *ret, bool *ret_has, struct err **err)
{
        u64 v;

        if (parse_decimal(value, UINT32_MAX, &v) < 0)
                return bad(err, "an owner is malformed");
        *ret = (u32)v;
        *ret_has = true;
        return 0;
}

static int pax_uid(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        return pax_id(value, &tar->pax_uid, &tar->has_uid, err);
}

static int pax_gid(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        return pax_id(value, &tar->pax_gid, &tar->has_gid, err);
}

static int pax_mtime(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        tar->has_mtime = parse_time(value, &tar->pax_mtime) == 0;
        return tar->has_mtime ? 0 : bad(err, "a time is malformed");
}

static int pax_sparse_major(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        tar->sparse_v1 = strcmp(value, "1") == 0;
        return 0;
}

/* 0.1: "offset,length,offset,length" */
static int pax_sparse_map(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        _cleanup_free_ char *copy = strdup(value);
        char *rest = copy, *word;
        u64 number[2];
        unsigned n = 0;
        int r;

        if (!copy)
                return err_sys(err, ENOMEM, "reading an archive");
        while ((word = strsep(&rest, ","))) {
                if (parse_decimal(word, SIZE_LIMIT, &number[n++ & 1]) < 0)
                        return bad(err, "a sparse file's map is malformed");
                if (n & 1)
                        continue;
                r = add_stretch(tar, number[0], number[1], err);
                if (r < 0)
                        return r;
        }
        return n & 1 ? bad(err, "a sparse file's map is malformed") : 0;
}

/* 0.0: a record for each number */
static int pax_sparse_offset(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        u64 offset;

        return parse_decimal(value, SIZE_LIMIT, &offset) < 0 ? bad(err, "a sparse file's map is malformed")
                                                             : add_stretch(tar, offset, 0, err);
}

static int pax_sparse_len(struct tar_reader *tar, const char *value, size_t len, struct err **err)
{
        u64 n;

        if (tar->n_stretches == 0 || parse_decimal(value, SIZE_LIMIT, &n) < 0)
                return bad(err, "a sparse file's map is malformed");
        tar->stretches[tar->n_stretches - 1].len = n;
        return 0;
}

#define XATTR_PREFIX "SCHILY.xattr."

static int pax_xattr(struct tar_reader *tar, const char *name, const char *value, size_t len, struct err **err)
{
        struct tar_entry *e = &tar->entry;
        struct tar_xattr x = { .name = strdup(name), .value = malloc(len + 1), .len = len };

        if (x.name && x.value && !e->xattrs)
                e->xattrs = calloc(TAR_XATTRS_MAX, sizeof(*e->xattrs));
        if (!x.name || !x.value || !e->xattrs || e->n_xattrs == TAR_XATTRS_MAX) {
                free(x.name);
                free(x.value);
                return e->n_xattrs == TAR_XATTRS_MAX ? bad(err, "a file has too many attributes")
                                                     : err_sys(err, ENOMEM, "reading an archive");
        }
        memcpy(x.value, value, len);
        e->xattrs[e->n_xattrs++] = x;
        return 0;
}

static const struct {
        const char *key;
        int (*take)(struct tar_reader *tar, const char *value, size_t len, struct err **err);
} pax_keys[] = {
        { "path", pax_path },
        { "linkpath", pax_link },
        { "size", pax_size },
        { "uid", pax_uid },
        { "gid", pax_gid },
        { "mtime", pax_mtime },
        { "GNU.sparse.name", pax_sparse_name },
        { "GNU.sparse.size", pax_real_size },
        { "GNU.sparse.realsize", pax_real_size },
        { "GNU.sparse.major", pax_sparse_major },
        { "GNU.sparse.map", pax_sparse_map },
        { "GNU.sparse.offset", pax_sparse_offset },
        { "GNU.sparse.numbytes", pax_sparse_len },
};

static int pax_record(struct tar_reader *tar, const char *key, const char *value, size_t len, struct err **err)
{
        const size_t prefix = sizeof(XATTR_PREFIX) - 1;

        if (strncmp(key, XATTR_PREFIX, prefix) == 0)
                return key[prefix] ? pax_xattr(tar, key + prefix, value, len, err) : 0;
        for (size_t i = 0; i < ARRAY_SIZE(pax_keys); i++)
                if (strcmp(pax_keys[i].key, key) == 0) {
                        if (memchr(value, '\0', len))
                                return bad(err, "a text has a NUL byte in it");
                        return pax_keys[i].take(tar, value, len, err);
                }
        return 0;
}

/* @text is @len bytes with a NUL behind; it is cut into pieces. */
static int parse_pax(struct tar_reader *tar, char *text, size_t len, struct err **err)
{
        char *const end = text + len;
        int r;

        while (text < end) {
                char *space, *equals;
                size_t n = 0;

                for (space = text; space < end && *space >= '0' && *space <= '9' && n <= META_MAX; space++)
                        n = n * 10 + (size_t)(*space - '0');
                if (space == text || space == end || *space != ' ' || n > (size_t)(end - text) ||
                        n < (size_t)(space - text) + 3 || text[n - 1] != '\n')
                        return bad(err, "a pax record is malformed");
                text[n - 1] = '\0';
                equals = memchr(space + 1, '=', (size_t)(text + n - 1 - space - 1));
                if (!equals || equals == space + 1)
                        return bad(err, "a pax record is malformed");
                *equals = '\0';
                r = pax_record(tar, space + 1, equals + 1, (size_t)(text + n - 1 - (equals + 1)), err);
                if (r < 0)
                        return r;
                text += n;
        }
        return 0;
}

/* --- headers --------------------------------------------------------------------------------------------------------- */

static void forget_entry(struct tar_reader *tar)
{
        struct tar_entry *e = &tar->entry;

        for (size_t i = 0; i < e->n_xattrs; i++) {
                free(e->xattrs[i].name);
                free(e->xattrs[i].value);
        }
        free(e->xattrs);
        free(e->path);
        free(e->link);
        *e = (struct tar_entry){ 0 };
        free(TAKE_PTR(tar->pax_path));
        free(TAKE_PTR(tar->pax_link));
        free(TAKE_PTR(tar->sparse_name));
        tar->has_size = tar->has_uid = tar->has_gid = tar->has_mtime = tar->has_real_size = tar->sparse_v1 = false;
        tar->n_stretches = tar->stretch = 0;
        tar->offset = 0;
}

static bool is_zero(const u8 *block)
{
        for (size_t i = 0; i < TAR_BLOCK; i++)
                if (block[i])
                        return false;
        return true;
}

static bool checksum_ok(const struct header *h)
{
        const u8 *p = (const u8 *)h;
        s64 wanted, sum = 0, signed_sum = 0; /* very old tars added signed bytes */

        if (NUMBER(h, checksum, &wanted) < 0)
                return false;
        for (size_t i = 0; i < TAR_BLOCK; i++) {
                const bool field = i >= offsetof(struct header, checksum) && i < offsetof(struct header, type);

                sum += field ? ' ' : p[i];
                signed_sum += field ? ' ' : (s8)p[i];
        }
        return sum == wanted || signed_sum == wanted;
}

/* The data of a header that is about the next one. */
static int read_meta(struct tar_reader *tar, u64 size, char **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        int r;

        if (size > META_MAX)
                return bad(err, "a name or extended header is too long");
        text = malloc(size + 1);
        if (!text)
                return err_sys(err, ENOMEM, "reading an archive");
        r = size > 0 ? take_bytes(tar, text, size, err) : 1;
        if (r <= 0)
                return r < 0 ? r : bad(err, "it ends in the middle of a header");
        r = skip_bytes(tar, -size & (TAR_BLOCK - 1), err);
        if (r < 0)
                return r;
        text[size] = '\0';
        *ret = TAKE_PTR(text);
        return 0;
}

static int take_meta(struct tar_reader *tar, const struct header *h, u64 size, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        int r = read_meta(tar, size, &text, err);

        if (r < 0)
                return r;
        switch (h->type) {
        case 'x':
                return parse_pax(tar, text, size, err);
        case 'L':
                return set_text(&tar->pax_path, text, err);
        case 'K':
                return set_text(&tar->pax_link, text, err);
        default:
                return 0; /* 'g': defaults for all entries; docker ignores them too, git puts a comment there */
        }
}

/* "prefix/name" of POSIX headers; GNU's have other things in the prefix's place. */
static int header_path(const struct header *h, char **ret)
{
        const bool posix = memcmp(h->magic, "ustar", 6) == 0;
        const int name = (int)strnlen(h->name, sizeof(h->name));
        const int prefix = posix ? (int)strnlen(h->prefix, sizeof(h->prefix)) : 0;

        return asprintf(ret, "%.*s%s%.*s", prefix, h->prefix, prefix ? "/" : "", name, h->name) < 0 ? -ENOMEM : 0;
}

static int entry_names(struct tar_reader *tar, const struct header *h, struct err **err)
{
        struct tar_entry *e = &tar->entry;

        e->path = tar->sparse_name ? TAKE_PTR(tar->sparse_name) : TAKE_PTR(tar->pax_path);
        if (!e->path && header_path(h, &e->path) < 0) {
                e->path = NULL;
                return err_sys(err, ENOMEM, "reading an archive");
        }
        if (e->type == TAR_HARDLINK || e->type == TAR_SYMLINK) {
                e->link = tar->pax_link ? TAKE_PTR(tar->pax_link) : strndup(h->link, sizeof(h->link));
                if (!e->link)
                        return err_sys(err, ENOMEM, "reading an archive");
                if (strlen(e->link) > TAR_PATH_MAX)
                        return bad(err, "the target of a link is too long");
        }
        return strlen(e->path) > TAR_PATH_MAX ? bad(err, "a name is too long") : 0;
}

static int entry_numbers(struct tar_reader *tar, const struct header *h, struct err **err)
{
        struct tar_entry *e = &tar->entry;
        s64 mode, uid, gid, mtime, major = 0, minor = 0;

        if (NUMBER(h, mode, &mode) < 0 || NUMBER(h, uid, &uid) < 0 || NUMBER(h, gid, &gid) < 0 ||
                NUMBER(h, mtime, &mtime) < 0)
                return bad(err, "a number is malformed");
        if (e->type == TAR_CHAR || e->type == TAR_BLOCK_DEVICE)
                if (NUMBER(h, major, &major) < 0 || NUMBER(h, minor, &minor) < 0 || major < 0 || minor < 0 ||
                        major > 0xfff || minor > 0xfffff)
                        return bad(err, "a device number is malformed");
        if ((!tar->has_uid && (uid < 0 || uid > UINT32_MAX)) || (!tar->has_gid && (gid < 0 || gid > UINT32_MAX)))
                return bad(err, "an owner is malformed");
        e->mode = (mode_t)(mode & 07777);
        e->uid = tar->has_uid ? tar->pax_uid : (u32)uid;
        e->gid = tar->has_gid ? tar->pax_gid : (u32)gid;
        e->mtime = tar->has_mtime ? tar->pax_mtime : (struct timespec){ .tv_sec = mtime };
        e->major = (u32)major;
        e->minor = (u32)minor;
        return 0;
}

/* 0 for what is no entry. */
static int type_of(const struct header *h, enum tar_type *ret)
{
        static const struct {
                char flag;
                enum tar_type type;
        } types[] = {
                { '0', TAR_FILE },
                { '\0', TAR_FILE },
                { '7', TAR_FILE },
                { 'S', TAR_FILE },
                { '1', TAR_HARDLINK },
                { '2', TAR_SYMLINK },
                { '3', TAR_CHAR },
                { '4', TAR_BLOCK_DEVICE },
                { '5', TAR_DIR },
                { '6', TAR_FIFO },
        };

        for (size_t i = 0; i < ARRAY_SIZE(types); i++)
                if (types[i].flag == h->type) {
                        *ret = types[i].type;
                        return 1;
                }
        return 0;
}

static int read_entry(struct tar_reader *tar, const struct header *h, u64 size, struct err **err)
{
        struct tar_entry *e = &tar->entry;
        size_t len;
        int r;

        if (!type_of(h, &e->type))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "the archive has an entry of the unknown type 0x%02x",
                        (u8)h->type);
        r = entry_names(tar, h, err);
        if (r == 0)
                r = entry_numbers(tar, h, err);
        if (r < 0)
                return r;
        len = strlen(e->path);
        if (e->type == TAR_FILE && len > 0 && e->path[len - 1] == '/')
                e->type = TAR_DIR; /* before POSIX there was no type for them */
        tar->data_left = e->type == TAR_FILE ? (tar->has_size ? tar->pax_size : size) : 0;
        tar->padding = (unsigned)(-tar->data_left & (TAR_BLOCK - 1));
        e->size = tar->data_left;
        if (e->type != TAR_FILE)
                return 0;
        if (tar->has_real_size)
                e->size = tar->real_size;
        if (h->type == 'S')
                r = read_gnu_sparse(tar, h, err);
        else if (tar->sparse_v1)
                r = read_pax_sparse(tar, err);
        else if (tar->has_real_size && tar->n_stretches == 0)
                r = add_stretch(tar, 0, 0, err);
        if (r < 0)
                return r;
        return tar->n_stretches > 0 || tar->has_real_size || h->type == 'S' ? check_stretches(tar, err) : 0;
}

int tar_reader_next(struct tar_reader *tar, const struct tar_entry **ret, struct err **err)
{
        struct header h;
        s64 size;
        int r = skip_bytes(tar, tar->data_left + tar->padding, err);

        tar->data_left = tar->padding = 0;
        if (r < 0)
                return r;
        forget_entry(tar);
        for (unsigned n = 0; n < META_HEADERS_MAX; n++) {
                r = take_bytes(tar, &h, sizeof(h), err);
                if (r <= 0)
                        return r; /* many writers leave the final blocks out */
                if (is_zero((const u8 *)&h))
                        return 0;
                if (!checksum_ok(&h))
                        return bad(err, "a header's checksum is wrong");
                if (NUMBER(&h, size, &size) < 0 || size < 0 || (u64)size > SIZE_LIMIT)
                        return bad(err, "a size is malformed");
                if (!memchr("xgLK", h.type, 4)) {
                        r = read_entry(tar, &h, (u64)size, err);
                        if (r < 0)
                                return r;
                        *ret = &tar->entry;
                        return 1;
                }
                r = take_meta(tar, &h, (u64)size, err);
                if (r < 0)
                        return r;
        }
        return bad(err, "too many headers before a file");
}

ssize_t tar_reader_data(struct tar_reader *tar, const u8 **ret_data, u64 *ret_offset, struct err **err)
{
        const bool sparse = tar->n_stretches > 0;
        size_t n;
        int r;

        if (tar->data_left == 0)
                return 0;
        /* check_stretches: as long as there is data there is a stretch for it */
        while (sparse && tar->offset >= tar->stretches[tar->stretch].offset + tar->stretches[tar->stretch].len)
                tar->stretch++;
        if (sparse)
                tar->offset = MAX(tar->offset, tar->stretches[tar->stretch].offset);
        r = fill(tar, err);
        if (r <= 0)
                return r < 0 ? r : bad(err, "it ends in the middle of a file");
        n = MIN(tar->piece_len, tar->data_left);
        if (sparse)
                n = MIN(n, tar->stretches[tar->stretch].offset + tar->stretches[tar->stretch].len - tar->offset);
        *ret_data = tar->piece;
        *ret_offset = tar->offset;
        tar->piece += n;
        tar->piece_len -= n;
        tar->data_left -= n;
        tar->offset += n;
        return (ssize_t)n;
}

void tar_reader_limit(struct tar_reader *tar, u64 bytes, const char *what)
{
        tar->limit = bytes;
        tar->taken = 0;
        tar->limited = what;
}

int tar_reader_drain(struct tar_reader *tar, struct err **err)
{
        int r;

        while ((r = fill(tar, err)) > 0)
                tar->piece_len = 0;
        return r;
}

int tar_reader_new(const struct byte_source *source, struct tar_reader **ret, struct err **err)
{
        struct tar_reader *tar = calloc(1, sizeof(*tar));

        if (!tar)
                return err_sys(err, ENOMEM, "reading an archive");
        tar->source = *source;
        tar->limit = UINT64_MAX;
        *ret = tar;
        return 0;
}

struct tar_reader *tar_reader_free(struct tar_reader *tar)
{
        if (!tar)
                return NULL;
        forget_entry(tar);
        free(tar->stretches);
        free(tar);
        return NULL;
}

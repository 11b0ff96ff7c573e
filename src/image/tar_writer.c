/* The writer of tar archives: ustar, and a pax header in front where a value does not fit. The same entry gives the same
 * bytes everywhere. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tar_header.h"

struct pax {
        char *text;
        size_t len;
        bool failed;
};

static void put_octal(char *field, size_t size, u64 value)
{
        field[--size] = '\0';
        while (size-- > 0) {
                field[size] = (char)('0' + (value & 7));
                value >>= 3;
        }
}

static bool fits(u64 value, size_t size)
{
        return value < BIT(3 * (size - 1));
}

/* "length key=value\n", where the length counts its own digits. */
static void pax_add(struct pax *pax, const char *key, const void *value, size_t value_len)
{
        const size_t rest = strlen(key) + value_len + 3;
        size_t len = rest + 1;
        char digits[24], *grown;

        while (rest + (size_t)snprintf(digits, sizeof(digits), "%zu", len) != len)
                len++;
        grown = realloc(pax->text, pax->len + len + 1);
        if (!grown) {
                pax->failed = true;
                return;
        }
        pax->text = grown;
        grown += pax->len;
        grown += sprintf(grown, "%zu %s=", len, key);
        memcpy(grown, value, value_len);
        grown[value_len] = '\n';
        pax->len += len;
}

static void pax_add_number(struct pax *pax, const char *key, u64 value)
{
        char digits[24];

        pax_add(pax, key, digits, (size_t)snprintf(digits, sizeof(digits), "%" PRIu64, value));
}

static void set_checksum(struct header *h)
{
        unsigned sum = 0;

        memset(h->checksum, ' ', sizeof(h->checksum));
        for (size_t i = 0; i < sizeof(*h); i++)
                sum += ((const u8 *)h)[i];
        put_octal(h->checksum, 7, sum);
        h->checksum[7] = ' ';
}

static void begin_header(struct header *h, char type)
{
        memset(h, 0, sizeof(*h));
        h->type = type;
        memcpy(h->magic, "ustar", 6);
        memcpy(h->version, "00", 2);
}

/* A name of up to 100 bytes, or with what is before one of its slashes in the prefix. */
static bool put_name(struct header *h, const char *path)
{
        const size_t len = strlen(path);

        if (len <= sizeof(h->name)) {
                memcpy(h->name, path, len);
                return true;
        }
        for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
                const size_t prefix = (size_t)(slash - path), rest = len - prefix - 1;

                if (prefix > sizeof(h->prefix))
                        return false;
                if (prefix > 0 && rest > 0 && rest <= sizeof(h->name)) {
                        memcpy(h->prefix, path, prefix);
                        memcpy(h->name, slash + 1, rest);
                        return true;
                }
        }
        return false;
}

static int write_pax(const struct byte_sink *sink, const struct pax *pax, struct err **err)
{
        struct header h;
        int r;

        if (pax->failed)
                return err_sys(err, ENOMEM, "writing an archive");
        if (pax->len == 0)
                return 0;
        begin_header(&h, 'x');
        memcpy(h.name, "PaxHeader", 9);
        put_octal(h.mode, sizeof(h.mode), 0644);
        put_octal(h.uid, sizeof(h.uid), 0);
        put_octal(h.gid, sizeof(h.gid), 0);
        put_octal(h.size, sizeof(h.size), pax->len);
        put_octal(h.mtime, sizeof(h.mtime), 0);
        set_checksum(&h);
        r = sink->write(sink->opaque, &h, sizeof(h), err);
        if (r == 0)
                r = sink->write(sink->opaque, pax->text, pax->len, err);
        return r < 0 ? r : tar_write_padding(sink, pax->len, err);
}

static void put_number(struct pax *pax, const char *key, char *field, size_t size, u64 value)
{
        if (!fits(value, size)) {
                pax_add_number(pax, key, value);
                value = 0;
        }
        put_octal(field, size, value);
}

int tar_write_header(const struct byte_sink *sink, const struct tar_entry *e, struct err **err)
{
        static const char types[] = { [TAR_FILE] = '0',
                [TAR_HARDLINK] = '1',
                [TAR_SYMLINK] = '2',
                [TAR_CHAR] = '3',
                [TAR_BLOCK_DEVICE] = '4',
                [TAR_DIR] = '5',
                [TAR_FIFO] = '6' };
        struct pax pax = { 0 };
        struct header h;
        char key[300];
        int r;

        begin_header(&h, types[e->type]);
        if (!put_name(&h, e->path)) {
                pax_add(&pax, "path", e->path, strlen(e->path));
                memcpy(h.name, e->path, sizeof(h.name));
        }
        if (e->link && strlen(e->link) > sizeof(h.link))
                pax_add(&pax, "linkpath", e->link, strlen(e->link));
        if (e->link)
                memcpy(h.link, e->link, strnlen(e->link, sizeof(h.link)));
        put_octal(h.mode, sizeof(h.mode), e->mode & 07777);
        put_number(&pax, "uid", h.uid, sizeof(h.uid), e->uid);
        put_number(&pax, "gid", h.gid, sizeof(h.gid), e->gid);
        put_number(&pax, "size", h.size, sizeof(h.size), e->type == TAR_FILE ? e->size : 0);
        put_number(&pax, "mtime", h.mtime, sizeof(h.mtime), e->mtime.tv_sec > 0 ? (u64)e->mtime.tv_sec : 0);
        put_octal(h.major, sizeof(h.major), e->major);
        put_octal(h.minor, sizeof(h.minor), e->minor);
        for (size_t i = 0; i < e->n_xattrs; i++) {
                snprintf(key, sizeof(key), "SCHILY.xattr.%.255s", e->xattrs[i].name);
                pax_add(&pax, key, e->xattrs[i].value, e->xattrs[i].len);
        }
        set_checksum(&h);
        r = write_pax(sink, &pax, err);
        free(pax.text);
        return r < 0 ? r : sink->write(sink->opaque, &h, sizeof(h), err);
}

int tar_write_padding(const struct byte_sink *sink, u64 size, struct err **err)
{
        static const u8 zeros[TAR_BLOCK];
        const size_t n = -size & (TAR_BLOCK - 1);

        return n ? sink->write(sink->opaque, zeros, n, err) : 0;
}

int tar_write_end(const struct byte_sink *sink, struct err **err)
{
        static const u8 zeros[2 * TAR_BLOCK];

        return sink->write(sink->opaque, zeros, sizeof(zeros), err);
}

int tar_write_file(
        const struct byte_sink *sink, const char *path, const void *data, size_t len, s64 mtime, struct err **err)
{
        const struct tar_entry entry = {
                .type = TAR_FILE, .path = (char *)path, .size = len, .mode = 0644, .mtime.tv_sec = mtime
        };
        int r = tar_write_header(sink, &entry, err);

        if (r == 0)
                r = sink->write(sink->opaque, data, len, err);
        return r < 0 ? r : tar_write_padding(sink, len, err);
}

/* Opening a qcow2 image: every number in the header and in the tables that are kept in memory is checked here, so that the rest may
 * rely on it. What is only found later, in L2 tables and reference counts, is checked where it is used. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "qcow2.h"

/* The L2 cache: at most 1 MiB, which maps 8 GiB with 64 KiB clusters. That of reference counts has a quarter of the slices. */
#define L2_SLICES_MAX 256U
#define L2_SLICES_MIN (4 * TABLE_CACHE_WAYS)
#define SLICE_BYTES_MAX 4096U

/* The header; names as in the specification. */
struct header {
        u32 version;
        u64 backing_file_offset;
        u32 backing_file_size;
        u32 cluster_bits;
        u64 size;
        u32 crypt_method;
        u32 l1_size;
        u64 l1_table_offset;
        u64 refcount_table_offset;
        u32 refcount_table_clusters;
        u32 nb_snapshots;
        u64 snapshots_offset;
        u64 incompatible, autoclear;
        u32 refcount_order, header_length;
        u8 compression;
};

enum {
        HEADER_V2_BYTES = 72,
        HEADER_V3_BYTES = 104,
        HEADER_COMPRESSION = 104, /* u8, in longer headers */
};

enum {
        EXTENSION_END = 0,
        EXTENSION_BACKING_FORMAT = 0xe2792acaU,
        EXTENSION_FEATURE_NAMES = 0x6803f857U,
        FEATURE_NAME_BYTES = 48, /* type, bit, name */
};

static int bad(struct err **err, const char *what, u64 value)
{
        return err_set(err, ERR_BAD_IMAGE, EINVAL, "%s (%llu)", what, (unsigned long long)value);
}

static int unsupported(struct err **err, const char *what)
{
        return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "it uses %s, which is not supported", what);
}

/* @head holds the first @n bytes of the file, at least HEADER_V2_BYTES. */
static int parse_header(const u8 *head, size_t n, struct header *ret, struct err **err)
{
        struct header h = {
                .version = be32_at(head + 4),
                .backing_file_offset = be64_at(head + 8),
                .backing_file_size = be32_at(head + 16),
                .cluster_bits = be32_at(head + 20),
                .size = be64_at(head + 24),
                .crypt_method = be32_at(head + 32),
                .l1_size = be32_at(head + 36),
                .l1_table_offset = be64_at(head + 40),
                .refcount_table_offset = be64_at(head + HEADER_REFTABLE),
                .refcount_table_clusters = be32_at(head + HEADER_REFTABLE + 8),
                .nb_snapshots = be32_at(head + 60),
                .snapshots_offset = be64_at(head + 64),
                .refcount_order = 4,
                .header_length = HEADER_V2_BYTES,
        };

        if (be32_at(head) != QCOW2_MAGIC)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "it does not begin with qcow2's magic number");
        if (h.version != 2 && h.version != 3)
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "qcow version %u is not supported, only 2 and 3", h.version);
        if (h.version == 3) {
                if (n < HEADER_V3_BYTES)
                        return err_set(err, ERR_BAD_IMAGE, EINVAL, "its header is cut off");
                h.incompatible = be64_at(head + HEADER_INCOMPATIBLE);
                h.autoclear = be64_at(head + HEADER_AUTOCLEAR);
                h.refcount_order = be32_at(head + 96);
                h.header_length = be32_at(head + 100);
                if (h.header_length < HEADER_V3_BYTES || h.header_length % 8 != 0 || h.header_length > n)
                        return bad(err, "its header has an impossible length", h.header_length);
                if (h.header_length > HEADER_COMPRESSION)
                        h.compression = head[HEADER_COMPRESSION];
        }
        *ret = h;
        return 0;
}

static int check_header(const struct header *h, const struct host_file *file, struct err **err)
{
        u64 l1_covers;

        if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
                return bad(err, "its cluster size is out of range: 2 to the power of", h->cluster_bits);
        if (h->crypt_method != 0)
                return unsupported(err, "encryption");
        if (h->refcount_order > 6)
                return bad(err, "its reference counts have an impossible width", h->refcount_order);
        if (h->size == 0)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the disk in it has no size");
        if (h->l1_size > QCOW2_L1_ENTRIES_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "its L1 table has %u entries, more than %u", h->l1_size,
                               QCOW2_L1_ENTRIES_MAX);
        /* At most 2^20 entries of 2^(21 + 18) bytes. */
        l1_covers = (u64)h->l1_size << (h->cluster_bits * 2 - 3);
        if (h->size > l1_covers)
                return bad(err, "its L1 table is too small for a disk of that many bytes", h->size);
        if (!file->read_only && (h->refcount_table_clusters == 0 ||
                                 (u64)h->refcount_table_clusters << h->cluster_bits > QCOW2_REFTABLE_BYTES_MAX))
                return bad(err, "its reference count table has an impossible number of clusters", h->refcount_table_clusters);
        if (h->backing_file_offset != 0 &&
            (h->backing_file_size == 0 || h->backing_file_size > QCOW2_BACKING_NAME_MAX ||
             h->backing_file_offset < h->header_length ||
             h->backing_file_offset > BIT(h->cluster_bits) - h->backing_file_size))
                return bad(err, "the name of its backing file is at an impossible place", h->backing_file_offset);
        return 0;
}

/* Finds an extension in the header cluster. Returns its data, or NULL. */
static const u8 *find_extension(const struct header *h, const u8 *head, size_t n, u32 type, u32 *ret_len)
{
        size_t pos = h->header_length;

        while (pos + 8 <= n) {
                const u32 t = be32_at(head + pos), len = be32_at(head + pos + 4);

                pos += 8;
                if (t == EXTENSION_END || len > n - pos)
                        return NULL;
                if (t == type) {
                        *ret_len = len;
                        return head + pos;
                }
                pos += ALIGN_UP((size_t)len, 8U);
        }
        return NULL;
}

/* The name that the image itself gives to an incompatible feature that we do not know. */
static void feature_name(const struct header *h, const u8 *head, size_t n, unsigned bit, char ret[64])
{
        u32 len = 0;
        const u8 *table = find_extension(h, head, n, EXTENSION_FEATURE_NAMES, &len);

        for (u32 i = 0; table && i + FEATURE_NAME_BYTES <= len; i += FEATURE_NAME_BYTES) {
                if (table[i] == 0 && table[i + 1] == bit) {
                        snprintf(ret, 64, "the feature '%.46s'", (const char *)table + i + 2);
                        for (char *c = ret; *c; c++)
                                if (*c < ' ' || *c > '~')
                                        *c = '?';
                        return;
                }
        }
        snprintf(ret, 64, "an unknown feature (bit %u)", bit);
}

static int check_features(const struct header *h, const u8 *head, size_t n, bool read_only, struct err **err)
{
        const u64 known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_COMPRESSION;
        char name[64];

        if (h->incompatible & INCOMPATIBLE_DATA_FILE)
                return unsupported(err, "an external data file");
        if (h->incompatible & INCOMPATIBLE_EXTENDED_L2)
                return unsupported(err, "extended L2 entries (subclusters)");
        if (h->incompatible & ~known) {
                feature_name(h, head, n, (unsigned)__builtin_ctzll(h->incompatible & ~known), name);
                return unsupported(err, name);
        }
        if (h->compression > COMPRESSION_ZSTD || (h->compression != COMPRESSION_ZLIB) !=
                                                         !!(h->incompatible & INCOMPATIBLE_COMPRESSION))
                return bad(err, "its compression type is unknown or contradictory", h->compression);
        if (!read_only && (h->incompatible & INCOMPATIBLE_CORRUPT))
                return err_hint(err, err_set(err, ERR_BAD_IMAGE, EINVAL, "it is marked as corrupt"),
                                "repair it with qemu-img check -r all, or attach it read-only");
        if (!read_only && (h->incompatible & INCOMPATIBLE_DIRTY))
                return err_hint(err, err_set(err, ERR_BAD_IMAGE, EINVAL, "it was not closed properly and its reference counts may "
                                                                         "be wrong"),
                                "repair it with qemu-img check -r all, or attach it read-only");
        return 0;
}

int qcow2_claim(struct qcow2 *q, u64 offset, u64 bytes, const char *what, struct err **err)
{
        if (offset % q->cluster_bytes != 0 || offset > q->file.size || bytes > q->file.size - offset)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "%s is at an impossible place (0x%llx)", what, (unsigned long long)offset);
        for (u64 c = offset >> q->cluster_bits; c <= (offset + bytes - 1) >> q->cluster_bits; c++) {
                const int r = cluster_set_add(&q->metadata, c);

                if (r == 0)
                        return err_set(err, ERR_BAD_IMAGE, EINVAL, "%s overlaps other metadata at 0x%llx", what,
                                       (unsigned long long)(c << q->cluster_bits));
                if (r < 0)
                        return err_set(err, r == -ENOMEM ? ERR_NO_MEMORY : ERR_TOO_LARGE, -r, "it has too many tables");
        }
        return 0;
}

/* Reads a table of big-endian offsets at a place that was claimed. */
static int read_table(struct qcow2 *q, u64 offset, u64 entries, u64 **ret, struct err **err)
{
        _cleanup_free_ u64 *table = calloc(MAX(entries, 1ULL), sizeof(*table));
        int r;

        if (!table)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for its tables");
        r = host_file_read(&q->file, table, entries * 8, offset);
        if (r < 0)
                return err_sys(err, -r, "reading its tables");
        for (u64 i = 0; i < entries; i++)
                table[i] = be64toh(table[i]);
        *ret = TAKE_PTR(table);
        return 0;
}

static int load_l1(struct qcow2 *q, const struct header *h, struct err **err)
{
        int r;

        q->l1_entries = h->l1_size;
        q->l1_offset = h->l1_table_offset;
        r = qcow2_claim(q, h->l1_table_offset, (u64)h->l1_size * 8, "its L1 table", err);
        if (r == 0)
                r = read_table(q, h->l1_table_offset, h->l1_size, &q->l1, err);
        if (r < 0)
                return r;
        q->l1_dirty = calloc(h->l1_size / L1_SECTOR_ENTRIES + 1, 1);
        if (!q->l1_dirty)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for its tables");
        for (u32 i = 0; i < q->l1_entries; i++) {
                if ((q->l1[i] & ENTRY_OFFSET) == 0) {
                        q->l1[i] = 0;
                        continue;
                }
                r = qcow2_claim(q, q->l1[i] & ENTRY_OFFSET, q->cluster_bytes, "an L2 table", err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Only needed for writing. */
static int load_reftable(struct qcow2 *q, const struct header *h, struct err **err)
{
        const u64 bytes = (u64)h->refcount_table_clusters << q->cluster_bits;
        int r;

        q->reftable_offset = h->refcount_table_offset;
        q->reftable_entries = bytes / 8;
        r = qcow2_claim(q, h->refcount_table_offset, bytes, "its reference count table", err);
        if (r == 0)
                r = read_table(q, h->refcount_table_offset, q->reftable_entries, &q->reftable, err);
        for (u64 i = 0; r == 0 && i < q->reftable_entries; i++)
                if (q->reftable[i] != 0)
                        r = qcow2_claim(q, q->reftable[i], q->cluster_bytes, "a block of reference counts", err);
        return r;
}

static int allocate_buffers(struct qcow2 *q, struct err **err)
{
        const u32 slice = (u32)MIN(q->cluster_bytes, (u64)SLICE_BYTES_MAX);
        const u64 l2_bytes = (q->image.size >> q->cluster_bits) * 8;
        unsigned n_slices = L2_SLICES_MIN;
        bool ok;

        while (n_slices < L2_SLICES_MAX && (u64)n_slices * slice < l2_bytes)
                n_slices *= 2;
        ok = table_cache_init(&q->l2_cache, slice, n_slices) == 0;

        if (ok && !q->image.read_only) {
                q->bounce = malloc(q->cluster_bytes);
                q->pending = calloc(PENDING_FREES_MAX, sizeof(*q->pending));
                ok = q->bounce && q->pending && table_cache_init(&q->refcount_cache, slice, n_slices / 4) == 0;
        }
        return ok ? 0 : err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for its tables");
}

/* The backing file's path: relative ones start at the directory of the image. NULL: no memory. */
static char *backing_path(const char *image_path, const char *name)
{
        const char *slash = strrchr(image_path, '/');
        char *path = NULL;

        if (name[0] == '/' || !slash)
                return strdup(name);
        if (asprintf(&path, "%.*s/%s", (int)(slash - image_path), image_path, name) < 0)
                return NULL;
        return path;
}

/* Without a format we would have to guess, and what a guest wrote into a raw backing file must not decide that. So a file without a declared
 * format is taken as raw, and refused when it looks like qcow2. */
static int backing_format(const struct header *h, const u8 *head, size_t n, enum block_format *ret, struct err **err)
{
        u32 len = 0;
        const u8 *format = find_extension(h, head, n, EXTENSION_BACKING_FORMAT, &len);

        if (!format)
                *ret = BLOCK_FORMAT_AUTO;
        else if (len == 3 && memcmp(format, "raw", 3) == 0)
                *ret = BLOCK_FORMAT_RAW;
        else if (len == 5 && memcmp(format, "qcow2", 5) == 0)
                *ret = BLOCK_FORMAT_QCOW2;
        else
                return unsupported(err, "a backing file that is neither raw nor qcow2");
        return 0;
}

static int open_backing(struct qcow2 *q, const struct header *h, const u8 *head, size_t n, const struct block_options *options,
                        const struct image_chain *above, struct err **err)
{
        const struct image_chain here = { .above = above, .dev = q->file.dev, .ino = q->file.ino,
                                          .depth = above ? above->depth + 1 : 1 };
        struct block_options sub = { .read_only = true, .no_lock = options->no_lock };
        _cleanup_free_ char *path = NULL;
        char name[QCOW2_BACKING_NAME_MAX + 1] = { 0 };
        int r;

        if (h->backing_file_offset == 0)
                return 0;
        if (options->no_backing) {
                q->no_backing = true;
                return 0;
        }
        if (here.depth >= IMAGE_CHAIN_MAX)
                return err_set(err, ERR_BAD_IMAGE, ELOOP, "its chain of backing files is longer than %d", IMAGE_CHAIN_MAX);
        memcpy(name, head + h->backing_file_offset, h->backing_file_size);
        if (strlen(name) != h->backing_file_size)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the name of its backing file contains a zero byte");
        if (strcspn(name, ":") < strcspn(name, "/") && name[strcspn(name, ":")] == ':')
                return unsupported(err, "a backing file that is not a plain file");
        r = backing_format(h, head, n, &sub.format, err);
        if (r < 0)
                return r;
        path = backing_path(options->path, name);
        if (!path)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for its backing file");
        sub.path = path;
        r = image_open(&sub, &here, &q->backing, err);
        if (r < 0)
                return err_wrap(err, r, "its backing file");
        if (sub.format == BLOCK_FORMAT_AUTO && q->backing->ops->format != BLOCK_FORMAT_RAW) {
                r = err_set(err, ERR_BAD_IMAGE, EPERM, "it does not say which format its backing file '%s' has", path);
                return err_hint(err, r, "if that file is trusted: qemu-img rebase -u -b '%s' -F qcow2 '%s'", name, options->path);
        }
        return 0;
}

/* Features that others added and that writing makes stale, as the specification asks. */
static int clear_autoclear(struct qcow2 *q, const struct header *h, struct err **err)
{
        const u8 zeros[8] = { 0 };
        int r = 0;

        if (h->autoclear != 0 && !q->image.read_only)
                r = host_file_write(&q->file, zeros, sizeof(zeros), HEADER_AUTOCLEAR);
        return r < 0 ? err_sys(err, -r, "writing its header") : 0;
}

static int load(struct qcow2 *q, const struct header *h, const u8 *head, size_t n, const struct block_options *options,
                const struct image_chain *above, struct err **err)
{
        int r;

        r = check_header(h, &q->file, err);
        if (r == 0)
                r = check_features(h, head, n, q->file.read_only, err);
        if (r < 0)
                return r;
        q->version = h->version;
        q->incompatible = h->incompatible;
        q->compression = h->compression;
        q->cluster_bits = h->cluster_bits;
        q->cluster_bytes = BIT(h->cluster_bits);
        q->l2_bits = h->cluster_bits - 3;
        q->refcount_order = h->refcount_order;
        q->image.size = ALIGN_UP(h->size, (u64)BLOCK_SECTOR);
        q->image.granularity = (u32)q->cluster_bytes;
        q->image.read_only = q->file.read_only;

        r = allocate_buffers(q, err);
        if (r == 0)
                r = qcow2_claim(q, 0, MIN(q->cluster_bytes, q->file.size), "the header", err);
        if (r == 0)
                r = load_l1(q, h, err);
        if (r == 0 && !q->image.read_only)
                r = load_reftable(q, h, err);
        if (r == 0 && !q->image.read_only)
                r = qcow2_claim_snapshots(q, h->nb_snapshots, h->snapshots_offset, err);
        if (r == 0)
                r = open_backing(q, h, head, n, options, above, err);
        return r < 0 ? r : clear_autoclear(q, h, err);
}

static int read_and_load(struct qcow2 *q, const struct block_options *options, const struct image_chain *above, struct err **err)
{
        /* Everything that describes the image is in the first cluster, whose size is not known yet. */
        const size_t n = MIN(q->file.size, BIT(QCOW2_CLUSTER_BITS_MAX));
        _cleanup_free_ u8 *head = malloc(MAX(n, 1U));
        struct header h = { 0 };
        int r;

        if (!head)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for its header");
        if (n < HEADER_V2_BYTES || host_file_read(&q->file, head, n, 0) < 0)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "its header is cut off");
        r = parse_header(head, n, &h, err);
        if (r < 0)
                return r;
        if (h.backing_file_offset != 0 && h.backing_file_offset + (u64)h.backing_file_size > n)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "its header is cut off");
        return load(q, &h, head, MIN(n, BIT(MIN(h.cluster_bits, 30U))), options, above, err);
}

/* ---- the image's functions ---- */

static int qcow2_flush(struct image *image)
{
        struct qcow2 *q = to_qcow2(image);
        bool dirty;
        int r;

        if (image->read_only)
                return 0;
        pthread_rwlock_rdlock(&q->gate);
        pthread_mutex_lock(&q->lookup_lock);
        dirty = qcow2_tables_dirty(q) || q->n_pending > 0;
        pthread_mutex_unlock(&q->lookup_lock);
        pthread_rwlock_unlock(&q->gate);
        if (!dirty && !__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
                return host_file_sync(&q->file);
        pthread_rwlock_wrlock(&q->gate);
        r = qcow2_write_tables(q, true);
        if (r == 0)
                r = qcow2_apply_frees(q);
        if (r == 0)
                r = table_cache_write_dirty(q, &q->refcount_cache); /* counts that went down may come any time */
        pthread_rwlock_unlock(&q->gate);
        return r;
}

static int qcow2_write_back(struct image *image)
{
        struct qcow2 *q = to_qcow2(image);
        int r;

        if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
                return 0; /* that was reported */
        pthread_rwlock_wrlock(&q->gate);
        r = qcow2_write_tables(q, false);
        pthread_rwlock_unlock(&q->gate);
        return r;
}

static void qcow2_close(struct image *image)
{
        struct qcow2 *q = to_qcow2(image);

        image_close(q->backing);
        table_cache_free(&q->l2_cache);
        table_cache_free(&q->refcount_cache);
        cluster_set_free(&q->metadata);
        pthread_rwlock_destroy(&q->gate);
        pthread_mutex_destroy(&q->lookup_lock);
        pthread_mutex_destroy(&q->unpack_lock);
        free(q->l1);
        free(q->l1_dirty);
        free(q->reftable);
        free(q->pending);
        free(q->bounce);
        free(q->unpacked);
        free(q->packed);
        free(q->path);
        host_file_close(&q->file);
        free(q);
}

static const struct image_ops qcow2_ops = {
        .name = "qcow2",
        .format = BLOCK_FORMAT_QCOW2,
        .read = qcow2_read,
        .write = qcow2_write,
        .flush = qcow2_flush,
        .discard = qcow2_discard,
        .write_zeroes = qcow2_write_zeroes,
        .write_back = qcow2_write_back,
        .close = qcow2_close,
};

static void init_locks(struct qcow2 *q)
{
        pthread_rwlockattr_t attr;

        /* Writers first, or a steady stream of reads keeps them out for ever. */
        pthread_rwlockattr_init(&attr);
        pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
        pthread_rwlock_init(&q->gate, &attr);
        pthread_rwlockattr_destroy(&attr);
        pthread_mutex_init(&q->lookup_lock, NULL);
        pthread_mutex_init(&q->unpack_lock, NULL);
}

int qcow2_open(struct host_file *file, const struct block_options *options, const struct image_chain *above,
               struct image **ret, struct err **err)
{
        struct qcow2 *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for disk image '%s'", options->path);
        q->image.ops = &qcow2_ops;
        q->file = *file;
        init_locks(q);
        q->path = strdup(options->path);
        r = q->path ? read_and_load(q, options, above, err) : -ENOMEM;
        if (r < 0) {
                q->file.fd = -1; /* still the caller's */
                qcow2_close(&q->image);
                return err_wrap(err, r, "disk image '%s' (qcow2)", options->path);
        }
        file->fd = -1;
        *ret = &q->image;
        return 0;
}

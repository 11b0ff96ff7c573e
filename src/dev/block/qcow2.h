/* Inside qcow2: see README.md for the format and the rules that keep an image consistent. Source: the qcow2 specification that
 * QEMU publishes (docs/interop/qcow2.txt); all numbers in the file are big-endian. */
#pragma once

#include <endian.h>
#include <pthread.h>

#include "internal.h"

/* Limits on what a header may ask for. */
#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
#define QCOW2_L1_ENTRIES_MAX (1U << 20)
#define QCOW2_REFTABLE_BYTES_MAX (8 * MIB)
#define QCOW2_SNAPSHOTS_MAX 65536U
#define QCOW2_METADATA_CLUSTERS_MAX (1U << 22)
#define QCOW2_BACKING_NAME_MAX 1023U

/* L1 and L2 entries. */
#define ENTRY_COPIED BIT(63)     /* the refcount is exactly one: may be written in place */
#define ENTRY_COMPRESSED BIT(62)
#define ENTRY_ZERO BIT(0)        /* L2, version 3 */
#define ENTRY_OFFSET 0x00fffffffffffe00ULL

/* Header fields that are written after the image was created, by offset. */
enum {
        HEADER_REFTABLE = 48,      /* u64 offset, u32 clusters */
        HEADER_INCOMPATIBLE = 72,  /* u64 */
        HEADER_AUTOCLEAR = 88,     /* u64 */
};
enum {
        INCOMPATIBLE_DIRTY = BIT(0),
        INCOMPATIBLE_CORRUPT = BIT(1),
        INCOMPATIBLE_DATA_FILE = BIT(2),
        INCOMPATIBLE_COMPRESSION = BIT(3),
        INCOMPATIBLE_EXTENDED_L2 = BIT(4),
};
enum {
        COMPRESSION_ZLIB = 0,
        COMPRESSION_ZSTD = 1,
};

/* ---- a set of cluster numbers (cluster_set.c) ---- */

struct cluster_set {
        u64 *slots; /* 0 is empty, others number + 2; 1 is a removed one */
        size_t n_slots, n_used, n_removed;
};
/* 1 when it was added, 0 when it was in already, -ENOMEM, -EFBIG. */
int cluster_set_add(struct cluster_set *set, u64 cluster);
void cluster_set_remove(struct cluster_set *set, u64 cluster);
bool cluster_set_has(const struct cluster_set *set, u64 cluster);
void cluster_set_free(struct cluster_set *set);

/* ---- a write-back cache of table slices (qcow2_cache.c) ---- */

/* A part of an L2 table or refcount block. Valid until the next table_cache_get on the same cache. */
struct table_slice {
        u64 offset; /* in the file; 0: empty */
        u64 used;   /* time of the last use */
        bool dirty;
        u8 *data;
};

#define TABLE_CACHE_WAYS 8U

struct table_cache {
        u8 *memory;
        struct table_slice *slices; /* n_sets * TABLE_CACHE_WAYS */
        unsigned n_sets;            /* power of two */
        u32 slice_bytes;
        u64 clock;
        unsigned n_dirty;
};

struct qcow2;

int table_cache_init(struct table_cache *cache, u32 slice_bytes, unsigned n_slices);
void table_cache_free(struct table_cache *cache);
/* The slice at @offset (a multiple of slice_bytes); reads it when it is not cached, writes back when everything in the way is
 * dirty. */
int table_cache_get(struct qcow2 *q, struct table_cache *cache, u64 offset, struct table_slice **ret);
static inline void table_slice_dirty(struct table_cache *cache, struct table_slice *slice)
{
        cache->n_dirty += !slice->dirty;
        slice->dirty = true;
}
int table_cache_write_dirty(struct qcow2 *q, struct table_cache *cache);
/* Forgets what is cached of [offset, offset + bytes), without writing it. */
void table_cache_drop(struct table_cache *cache, u64 offset, u64 bytes);

/* ---- the image ---- */

#define PENDING_FREES_MAX 4096U
#define PENDING_TABLE BIT(0) /* it was an L2 or reference count table, not data */

struct qcow2 {
        struct image image;
        struct host_file file; /* file.size follows the file's real end under `gate` (write) */
        char *path;
        struct image *backing; /* NULL: none; unallocated clusters read as zeros */
        bool no_backing;       /* there is one, but it was not opened */

        u32 version;
        unsigned cluster_bits, l2_bits; /* an L2 table is one cluster of 1 << l2_bits entries */
        unsigned refcount_order;
        u64 cluster_bytes;
        u8 compression;
        u64 incompatible;

        /* Held for reading while cluster mappings are used, for writing while they change. */
        pthread_rwlock_t gate;
        /* Under gate held for reading: the L2 cache. Taken inside gate. */
        pthread_mutex_t lookup_lock;

        u64 *l1;              /* host order, as it shall be on disk */
        u8 *l1_dirty;         /* one byte for each L1_SECTOR_ENTRIES entries */
        u32 l1_entries;
        u64 l1_offset;
        bool l1_any_dirty;
        struct table_cache l2_cache;

        u64 *reftable;        /* host order */
        u64 reftable_entries, reftable_offset;
        struct table_cache refcount_cache;
        u64 free_hint;        /* no free cluster below this one */
        u64 *pending;         /* offsets of clusters that lose a reference once nothing on disk refers to them */
        unsigned n_pending;
        unsigned n_pending_ready; /* the first ones: may be applied */
        bool data_unsynced;   /* data or tables were written to new clusters since the last sync */

        struct cluster_set metadata; /* clusters that guest data must never touch */
        u8 *bounce;           /* one cluster, for copy-on-write; gate held for writing */

        /* The last decompressed cluster. */
        pthread_mutex_t unpack_lock; /* inside gate */
        u64 unpacked_entry;   /* its L2 entry; 0: none */
        u8 *unpacked, *packed;

        bool corrupt;         /* atomic. No more writes. */
};

#define L1_SECTOR_ENTRIES 64U

static inline struct qcow2 *to_qcow2(struct image *image)
{
        return container_of(image, struct qcow2, image);
}
static inline u64 cluster_start(const struct qcow2 *q, u64 offset)
{
        return offset & ~(q->cluster_bytes - 1);
}
static inline u64 be64_at(const u8 *p)
{
        u64 v;

        __builtin_memcpy(&v, p, sizeof(v));
        return be64toh(v);
}
static inline u32 be32_at(const u8 *p)
{
        u32 v;

        __builtin_memcpy(&v, p, sizeof(v));
        return be32toh(v);
}
static inline void put_be64_at(u8 *p, u64 v)
{
        v = htobe64(v);
        __builtin_memcpy(p, &v, sizeof(v));
}

/* Notes that the image contradicts itself: sets the corrupt bit in the header, ends writing. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *what, u64 where);
/* True when [offset, offset + bytes) holds no metadata. */
bool qcow2_is_data(const struct qcow2 *q, u64 offset, u64 bytes);

/* ---- qcow2_open.c, qcow2_snapshots.c ---- */

/* Reads the snapshot table to learn which clusters it and the snapshots' L1 tables occupy. */
int qcow2_claim_snapshots(struct qcow2 *q, u32 n_snapshots, u64 offset, struct err **err);
/* Claims the clusters of [offset, offset + bytes) as metadata: aligned, inside the file, not claimed before. */
int qcow2_claim(struct qcow2 *q, u64 offset, u64 bytes, const char *what, struct err **err);

/* ---- refcounts (qcow2_refcount.c): gate held for writing ---- */

/* A free cluster, its refcount now 1 (in the cache). Contents are whatever the file has there. */
int qcow2_alloc_cluster(struct qcow2 *q, u64 *ret_offset);
/* Gives back a cluster that nothing on disk ever referred to. */
void qcow2_unalloc_cluster(struct qcow2 *q, u64 offset);
/* Drops a reference after the tables have reached stable storage. Room was made by qcow2_free_reserve. */
void qcow2_free_later(struct qcow2 *q, u64 offset, bool is_table);
/* Makes room in the list for @n entries. */
int qcow2_free_reserve(struct qcow2 *q, unsigned n);
/* Applies the part of the list that is ready. */
int qcow2_apply_frees(struct qcow2 *q);
/* Extends the file to at least @end. */
int qcow2_extend_file(struct qcow2 *q, u64 end);

/* ---- write-back (qcow2_flush.c): gate held for writing, or for reading together with lookup_lock ---- */

/* Writes all dirty tables in the order that makes a crash at worst leak clusters. @sync: and waits for stable storage. */
int qcow2_write_tables(struct qcow2 *q, bool sync);
bool qcow2_tables_dirty(const struct qcow2 *q);

/* ---- mapping (qcow2_map.c) ---- */

enum extent_type {
        EXTENT_BACKING,    /* comes from the backing file, or zeros without one */
        EXTENT_ZERO,
        EXTENT_DATA,
        EXTENT_COMPRESSED, /* always one cluster at most */
};

struct extent {
        enum extent_type type;
        u64 bytes;    /* from the offset that was asked for: same type and contiguous in the file */
        u64 host;     /* DATA, and ZERO with a preallocated cluster: where it is; otherwise 0 */
        bool in_place; /* DATA: may be overwritten where it is. ZERO: host may be used */
        u64 entry;    /* the first cluster's L2 entry */
};

/* Gate held (either way). Looks up [offset, offset + bytes). */
int qcow2_map(struct qcow2 *q, u64 offset, u64 bytes, struct extent *ret);
/* Gate held for writing. Sets the L2 entry of the cluster at @offset. */
int qcow2_set_entry(struct qcow2 *q, u64 offset, u64 entry);
/* Gate held for writing. Creates or unshares the L2 table for @offset; to be called before qcow2_set_entry. */
int qcow2_prepare_table(struct qcow2 *q, u64 offset);
/* Where a compressed cluster's data lies. */
void qcow2_compressed_range(const struct qcow2 *q, u64 entry, u64 *ret_offset, u64 *ret_bytes);

/* ---- reading and writing (qcow2_read.c, qcow2_write.c, qcow2_zero.c, qcow2_compressed.c) ---- */

int qcow2_read(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset);
int qcow2_write(struct image *image, struct iov_cursor *cursor, u64 bytes, u64 offset);
int qcow2_discard(struct image *image, u64 offset, u64 bytes);
int qcow2_write_zeroes(struct image *image, u64 offset, u64 bytes, bool unmap);
/* Gate held (either way): reads one extent; @bytes at most extent->bytes. */
int qcow2_read_extent(struct qcow2 *q, const struct extent *extent, struct iov_cursor *cursor, u64 bytes, u64 offset);
/* Gate held for writing: drops what @entry refers to, later. Needs room for QCOW2_FREES_PER_ENTRY. */
void qcow2_free_entry(struct qcow2 *q, u64 entry);
#define QCOW2_FREES_PER_ENTRY 4U /* compressed data is at most two clusters long and need not be aligned */
/* @at is relative to the cluster. */
int qcow2_read_compressed(struct qcow2 *q, u64 entry, struct iov_cursor *cursor, u64 bytes, u64 at);

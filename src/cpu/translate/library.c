#include "library.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

#define BUILD_ID_SIZE 20u
#define HASH_BITS_MIN 14u

static const char magic[8] = "STRATATC";

/* Whose code this is. */
struct maker {
        u8 build_id[BUILD_ID_SIZE]; /* of the program */
        u32 cpu[4];                 /* the host's: CPUID 1 EAX, ECX; 7 EBX, ECX. SDM 2A, CPUID */
        u8 jumps_in_line;
        u8 one_vcpu;                                   /* links may lie anywhere then */
        u8 has_extension[ZYDIS_ISA_EXT_MAX_VALUE + 1]; /* the guest's CPU */
};

/* ---- whose ---- */

static int find_build_id(struct dl_phdr_info *info, size_t size, void *opaque)
{
        u8 *ret = opaque;

        (void)size;
        for (unsigned i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
                const u8 *p = (const u8 *)info->dlpi_addr + ph->p_vaddr, *end = p + ph->p_memsz; // NOLINT: the loader's

                while (ph->p_type == PT_NOTE && (size_t)(end - p) > sizeof(ElfW(Nhdr))) {
                        const ElfW(Nhdr) *note = (const void *)p;
                        const u8 *desc = p + sizeof(*note) + ALIGN_UP(note->n_namesz, 4);

                        if (note->n_type == NT_GNU_BUILD_ID && note->n_descsz == BUILD_ID_SIZE && note->n_namesz == 4) {
                                memcpy(ret, desc, BUILD_ID_SIZE);
                                return 1;
                        }
                        p = desc + ALIGN_UP(note->n_descsz, 4);
                }
        }
        return -1; /* the first one is the program */
}

/* False: nobody can tell this program from another. */
static bool maker_get(const struct translator *tr, struct maker *ret)
{
        u32 unused;

        memset(ret, 0, sizeof(*ret));
        if (dl_iterate_phdr(find_build_id, ret->build_id) != 1)
                return false;
        __get_cpuid(1, &ret->cpu[0], &unused, &ret->cpu[1], &unused);
        ret->cpu[1] &= ~(u32)bit_OSXSAVE;
        __get_cpuid_count(7, 0, &unused, &ret->cpu[2], &ret->cpu[3], &unused);
        ret->jumps_in_line = tr->jumps_in_line;
        ret->one_vcpu = tr->n_vcpus == 1;
        for (size_t i = 0; i < ARRAY_SIZE(ret->has_extension); i++)
                ret->has_extension[i] = tr->has_extension[i];
        return true;
}

/* ---- the file ---- */

/* A page of guest memory that has code. */
struct code_page {
        u64 page, chunks; /* number, in memfd order; guest_memory.code_chunks */
};

/* In this order: header, code pages, then from a page's start on: tables, indexes, segments as they are in memory,
 * with holes where nothing is. */
struct header {
        char magic[sizeof(magic)];
        struct maker maker;
        u64 id;
        u64 n_code_pages, size;
        u64 any_far;
        struct frozen_code frozen;
};

static void lay_out(struct header *h)
{
        h->frozen.tables_at = ALIGN_UP(sizeof(*h) + h->n_code_pages * sizeof(struct code_page), PAGE_SIZE);
        h->frozen.indexes_at = h->frozen.tables_at + sizeof(struct block_tables);
        h->frozen.segments_at = h->frozen.indexes_at + h->frozen.n_segments * INDEX_SIZE;
        h->size = h->frozen.segments_at + h->frozen.n_segments * SEGMENT_SIZE;
}

/* ---- saving ---- */

static bool is_wanted(const struct tblock *block)
{
        return !block->stale && !(block->mode & MODE_SHADOW);
}

/* Calls @each for all blocks of @tr that are wanted, until it returns false. */
static void for_each_block(struct translator *tr,
        bool (*each)(struct translator *tr, struct tblock *block, struct translator *copy), struct translator *copy)
{
        for (unsigned s = 0; s < tr->code.n_segments; s++)
                for (unsigned i = 0; i < tr->code.segments[s].n_blocks; i++) {
                        struct tblock *block = cache_at(tr, tr->code.segments[s].index[i]);

                        if (is_wanted(block) && !each(tr, block, copy))
                                return;
                }
}

/* What clones add lies anywhere in the table, and each page of it is theirs then: it is no longer than need be. */
static u32 hash_bits_for(const struct translator *tr)
{
        u32 bits = HASH_BITS_MIN, n = 0;

        for (unsigned s = 0; s < tr->code.n_segments; s++)
                n += tr->code.segments[s].n_blocks;
        while (bits < BLOCK_HASH_BITS && 1u << bits < n)
                bits++;
        return bits;
}

static bool copy_one(struct translator *tr, struct tblock *block, struct translator *copy)
{
        return copy->code.filling < MIN(LIBRARY_SEGMENTS_MAX, copy->code.n_segments / 2) && block_copy(copy, tr, block);
}

static struct tblock *counterpart(const struct translator *copy, const struct tblock *block)
{
        return block_find_crossing(copy, block->gpa, block->gpa_2, block->page_va, block->mode);
}

static bool link_one(struct translator *tr, struct tblock *block, struct translator *copy)
{
        struct tblock *from = counterpart(copy, block);

        for (unsigned i = 0; from && i < block->n_links; i++) {
                const struct tblock *to = cache_at(tr, block_links(block)[i].to);
                struct tblock *target = to ? counterpart(copy, to) : NULL;

                if (target)
                        link_make(copy, &block_links(from)[i], target);
        }
        return from;
}

static int put(int fd, u64 at, const void *data, size_t len)
{
        return len ? io_pwrite_all(fd, data, len, (off_t)at) : 0;
}

static int put_segment(const struct code_memory *code, unsigned i, const struct header *h, int fd)
{
        const struct code_segment *segment = &code->segments[i];
        const u8 *start = segment_start(code, segment) + CODE_SPAN;
        const u64 at = h->frozen.segments_at + i * SEGMENT_SIZE;
        int r = put(
                fd, h->frozen.indexes_at + i * INDEX_SIZE, segment->index, segment->n_blocks * sizeof(*segment->index));

        if (r == 0)
                r = put(fd, at, start, segment->code_used);
        if (r == 0)
                r = put(fd, at + SEGMENT_SIZE - segment->data_used, start + SEGMENT_SIZE - segment->data_used,
                        segment->data_used);
        return r;
}

static int put_code_pages(const struct guest_memory *memory, struct header *h, int fd)
{
        const u64 n_pages = memory->ram_size >> PAGE_SHIFT;
        _cleanup_free_ struct code_page *pages = NULL;

        for (u64 i = 0; i < n_pages; i++)
                h->n_code_pages += !!(memory->page_flags[i] & PAGE_CODE);
        pages = calloc(h->n_code_pages + 1, sizeof(*pages));
        if (!pages)
                return -ENOMEM;
        for (u64 i = 0, n = 0; i < n_pages && n < h->n_code_pages; i++)
                if (memory->page_flags[i] & PAGE_CODE)
                        pages[n++] = (struct code_page){ i, memory->code_chunks[i] };
        return put(fd, sizeof(*h), pages, h->n_code_pages * sizeof(*pages));
}

/* The header comes last: without it the file is none. */
static int write_out(const struct translator *copy, struct header *h, int fd)
{
        const struct code_memory *code = &copy->code;
        int r = put_code_pages(copy->memory, h, fd);

        h->any_far = copy->any_far;
        h->frozen.n_segments = code->filling + 1;
        h->frozen.hash_bits = code->hash_bits;
        lay_out(h);
        if (r == 0 && ftruncate(fd, (off_t)h->size) < 0)
                r = -errno;
        for (unsigned i = 0; i < h->frozen.n_segments && r == 0; i++) {
                h->frozen.segments[i].code_used = code->segments[i].code_used;
                h->frozen.segments[i].data_used = code->segments[i].data_used;
                h->frozen.segments[i].n_blocks = code->segments[i].n_blocks;
                r = put_segment(code, i, h, fd);
        }
        if (r == 0)
                r = put(fd, h->frozen.tables_at, code->tables, sizeof(*code->tables));
        return r < 0 ? r : put(fd, 0, h, sizeof(*h));
}

int library_save(struct translator *tr, int fd, u64 id, struct err **err)
{
        struct translator *copy;
        struct header h;
        int r;

        memset(&h, 0, sizeof(h)); /* the file gets the room between members too */
        memcpy(h.magic, magic, sizeof(magic));
        h.id = id;
        if (!maker_get(tr, &h.maker))
                return 0;
        /* A second cache with nothing but what is wanted. */
        r = translator_new(tr->machine, tr->n_vcpus, tr->code.size, false, &copy, err);
        if (r < 0)
                return r;
        pthread_mutex_lock(&tr->lock);
        pthread_mutex_lock(&copy->lock);
        copy->code.hash_bits = hash_bits_for(tr);
        for_each_block(tr, copy_one, copy);
        for_each_block(tr, link_one, copy);
        r = write_out(copy, &h, fd);
        pthread_mutex_unlock(&copy->lock);
        pthread_mutex_unlock(&tr->lock);
        translator_free(copy);
        return r < 0 ? err_sys(err, -r, "saving translations") : 0;
}

/* ---- using ---- */

/* It is of this program, host and guest, and what it says of its parts is possible. */
static bool header_is_sound(const struct translator *tr, const struct header *h, u64 id, u64 size)
{
        struct header wanted;

        memset(&wanted, 0, sizeof(wanted));
        if (!maker_get(tr, &wanted.maker) || memcmp(h->magic, magic, sizeof(magic)) != 0 ||
                memcmp(&h->maker, &wanted.maker, sizeof(wanted.maker)) != 0 || h->id != id || h->size != size ||
                h->n_code_pages > tr->memory->ram_size >> PAGE_SHIFT || !h->frozen.n_segments ||
                h->frozen.n_segments > LIBRARY_SEGMENTS_MAX || h->frozen.hash_bits < HASH_BITS_MIN ||
                h->frozen.hash_bits > BLOCK_HASH_BITS || h->frozen.n_segments + SEGMENTS_FEW > tr->code.n_segments)
                return false;
        wanted.n_code_pages = h->n_code_pages;
        wanted.frozen.n_segments = h->frozen.n_segments;
        lay_out(&wanted);
        for (unsigned i = 0; i < h->frozen.n_segments; i++)
                if (h->frozen.segments[i].code_used > SEGMENT_SIZE || h->frozen.segments[i].data_used > SEGMENT_SIZE ||
                        h->frozen.segments[i].code_used + h->frozen.segments[i].data_used + PAGE_SIZE > SEGMENT_SIZE ||
                        h->frozen.segments[i].n_blocks > SEGMENT_BLOCKS_MAX)
                        return false;
        return wanted.size == size && wanted.frozen.tables_at == h->frozen.tables_at &&
               wanted.frozen.indexes_at == h->frozen.indexes_at && wanted.frozen.segments_at == h->frozen.segments_at;
}

/* From now on writes to them are seen. */
static int mark_code_pages(struct guest_memory *memory, const struct header *h, int fd)
{
        const size_t size = h->n_code_pages * sizeof(struct code_page);
        _cleanup_free_ struct code_page *pages = malloc(size + 1);

        if (!pages)
                return -ENOMEM;
        if (pread(fd, pages, size, sizeof(*h)) != (ssize_t)size)
                return -EIO;
        for (u64 i = 0; i < h->n_code_pages; i++) {
                if (pages[i].page >= memory->ram_size >> PAGE_SHIFT)
                        return -EBADMSG;
                memory->page_flags[pages[i].page] |= PAGE_CODE;
                memory->code_chunks[pages[i].page] |= pages[i].chunks;
        }
        return 0;
}

int library_load(struct translator *tr, int fd, u64 id, u64 *ret_n_blocks, struct err **err)
{
        struct header h;
        struct stat st;
        int r;

        *ret_n_blocks = 0;
        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "looking at saved translations");
        if (tr->code.n_frozen || tr->code.segments[0].n_blocks || pread(fd, &h, sizeof(h), 0) != (ssize_t)sizeof(h) ||
                !header_is_sound(tr, &h, id, (u64)st.st_size))
                return 0;
        r = mark_code_pages(tr->memory, &h, fd);
        if (r < 0)
                return err_sys(err, -r, "reading saved translations");
        r = code_memory_freeze(&tr->code, fd, &h.frozen, err);
        if (r < 0)
                return r;
        tr->any_far = h.any_far;
        for (unsigned i = 0; i < h.frozen.n_segments; i++)
                *ret_n_blocks += h.frozen.segments[i].n_blocks;
        return 0;
}

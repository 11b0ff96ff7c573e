/* The memory that translated code lies in: two views of it, and the pages of what was mapped from a library. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime.h"

#define HUGE_SIZE (2 * MIB)
/* Segments: more than a boot needs. Huge pages are resident as a whole, which a small machine should not pay for. */
#define HUGE_FROM    40u
#define HUGE_AT_ONCE 4u /* each takes the host about a millisecond */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; older ones say EINVAL */
#endif
#define POPULATE       ((u32)(32 * KIB)) /* at once */
#define POPULATE_AHEAD ((u32)(2 * KIB))  /* of what most blocks need */
_Static_assert(CODE_SPAN % HUGE_SIZE == 0 && 2 * CODE_SPAN <= 1ULL << 31, "code_at has 32 bits");

/* Both views in one piece of the address space, at multiples of a huge page's size. */
static u8 *reserve(void)
{
        u8 *room = mmap(NULL, 2 * CODE_SPAN + HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        u8 *aligned;

        if (room == MAP_FAILED)
                return NULL;
        aligned = (u8 *)ALIGN_UP((uintptr_t)room, HUGE_SIZE);
        if (aligned > room)
                munmap(room, (size_t)(aligned - room));
        munmap(aligned + 2 * CODE_SPAN, (size_t)(room + HUGE_SIZE - aligned));
        return aligned;
}

/* Shared, so that segment_close may forget the mapping of pages, not what is in them. */
static int map_once(struct code_memory *code, struct err **err)
{
        if (mmap(code->write, code->size, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
                return err_sys(err, errno, "mapping memory for translated code");
        return 0;
}

static int map_twice(struct code_memory *code, struct err **err)
{
        int r;

        code->fd = memfd_create("translated-code", MFD_CLOEXEC);
        if (code->fd < 0)
                return err_sys(err, errno, "creating memory for translated code");
        if (ftruncate(code->fd, (off_t)code->size) < 0)
                return err_sys(
                        err, errno, "sizing memory for translated code to %lu MiB", (unsigned long)(code->size / MIB));
        if (mmap(code->write, code->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, code->fd,
                    0) != MAP_FAILED &&
                mmap(code->run, code->size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, code->fd,
                        0) != MAP_FAILED)
                return 0;
        r = err_sys(err, errno, "mapping memory for translated code");
        err_hint(err, r, "a security policy may forbid executable memory");
        return r;
}

static void *map_anonymous(size_t size)
{
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return p == MAP_FAILED ? NULL : p;
}

int code_memory_init(struct code_memory *code, size_t size, bool runs, struct err **err)
{
        code->fd = -1;
        code->n_segments = (unsigned)MIN(MAX(size / SEGMENT_SIZE, 2), CODE_SEGMENTS_MAX);
        code->size = STUBS_SIZE + code->n_segments * SEGMENT_SIZE;
        code->segments = calloc(code->n_segments, sizeof(*code->segments));
        /* Touched as far as they are used only. */
        code->indexes = map_anonymous(code->n_segments * INDEX_SIZE);
        code->tables = map_anonymous(sizeof(*code->tables));
        if (!code->segments || !code->indexes || !code->tables)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the translator");
        for (unsigned i = 0; i < code->n_segments; i++)
                code->segments[i].index = code->indexes + (size_t)i * SEGMENT_BLOCKS_MAX;
        code->n_used = 1;
        code->n_enough = MIN(SEGMENTS_PLENTY, code->n_segments);
        code->hash_bits = BLOCK_HASH_BITS;
        code->segments[0].state = SEGMENT_FILLING;
        code->run = reserve();
        if (!code->run)
                return err_sys(err, errno, "finding room for translated code");
        code->write = code->run + CODE_SPAN;
        return runs ? map_twice(code, err) : map_once(code, err);
}

/* Pages that are elsewhere now may have been given to somebody else. */
static void spare_free(struct code_memory *code)
{
        const size_t n_pages = code->spare ? code->n_frozen * SEGMENT_SIZE / PAGE_SIZE : 0;

        for (size_t i = 0, end; i < n_pages; i = end + 1) {
                for (end = i; end < n_pages && !code->own[end].owned;)
                        end++;
                if (end > i)
                        munmap(code->spare + i * PAGE_SIZE, (end - i) * PAGE_SIZE);
        }
}

void code_memory_free(struct code_memory *code)
{
        if (code->run)
                munmap(code->run, 2 * CODE_SPAN);
        if (code->fd >= 0)
                close(code->fd);
        spare_free(code);
        if (code->indexes)
                munmap(code->indexes, code->n_segments * INDEX_SIZE);
        if (code->tables)
                munmap(code->tables, sizeof(*code->tables));
        free(code->own);
        free(code->segments);
}

u8 *segment_start(const struct code_memory *code, const struct code_segment *segment)
{
        return code->run + STUBS_SIZE + (size_t)(segment - code->segments) * SEGMENT_SIZE;
}

/* Code is spread over some ten times the memory that the guest's takes, so with 4 KiB pages much of the time goes into
 * the host's own TLB. What is full gets huge pages; where the host has none to give the attempt is all that is lost. */
static void huge_pages_take(struct code_memory *code, unsigned n_full)
{
        const size_t full = STUBS_SIZE + n_full * SEGMENT_SIZE;

        if (n_full - code->n_frozen < HUGE_FROM)
                return;
        for (unsigned i = 0; i < HUGE_AT_ONCE && code->huge_end + HUGE_SIZE <= full; i++, code->huge_end += HUGE_SIZE)
                madvise(code->run + code->huge_end, HUGE_SIZE, MADV_COLLAPSE);
}

void segment_close(struct code_memory *code, struct code_segment *segment)
{
        u8 *write = segment_start(code, segment) + CODE_SPAN;

        segment->state = SEGMENT_FULL;
        madvise(write, segment->code_used & PAGE_MASK, MADV_DONTNEED);
        huge_pages_take(code, (unsigned)(segment - code->segments) + 1);
}

void segment_populate(struct code_memory *code, struct code_segment *segment)
{
        u8 *run = segment_start(code, segment), *write = run + CODE_SPAN;

        if (segment->code_used + POPULATE_AHEAD > segment->code_ready &&
                segment->code_ready + POPULATE <= SEGMENT_SIZE) {
                madvise(write + segment->code_ready, POPULATE, MADV_POPULATE_WRITE);
                madvise(run + segment->code_ready, POPULATE, MADV_POPULATE_READ);
                segment->code_ready += POPULATE;
        }
        if (segment->data_used + POPULATE_AHEAD > segment->data_ready &&
                segment->data_ready + POPULATE <= SEGMENT_SIZE) {
                segment->data_ready += POPULATE;
                madvise(write + SEGMENT_SIZE - segment->data_ready, POPULATE, MADV_POPULATE_WRITE);
        }
}

/* ---- frozen segments ---- */

static int map_fixed(void *at, size_t size, int prot, int fd, u64 offset, struct err **err)
{
        if (size && mmap(at, size, prot, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED)
                return err_sys(err, errno, "mapping saved translations");
        return 0;
}

int code_memory_freeze(struct code_memory *code, int fd, const struct frozen_code *frozen, struct err **err)
{
        const size_t size = frozen->n_segments * SEGMENT_SIZE;
        void *spare;
        int r;

        code->own = calloc(size / PAGE_SIZE, sizeof(*code->own));
        if (!code->own)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for saved translations");
        spare = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, code->fd, STUBS_SIZE);
        if (spare == MAP_FAILED)
                return err_sys(err, errno, "mapping memory for translated code");
        code->spare = spare;
        code->n_frozen = frozen->n_segments;
        code->huge_end = ALIGN_UP(STUBS_SIZE + size, HUGE_SIZE); /* what is mapped from the file has none */
        r = map_fixed(code->run + STUBS_SIZE, size, PROT_READ | PROT_EXEC, fd, frozen->segments_at, err);
        for (unsigned i = 0; i < frozen->n_segments && r == 0; i++) {
                struct code_segment *segment = &code->segments[i];
                const u64 data = ALIGN_DOWN(SEGMENT_SIZE - frozen->segments[i].data_used, PAGE_SIZE);

                segment->state = SEGMENT_FROZEN;
                segment->n_blocks = frozen->segments[i].n_blocks;
                segment->code_used = frozen->segments[i].code_used;
                segment->data_used = frozen->segments[i].data_used;
                r = map_fixed(segment_start(code, segment) + CODE_SPAN + data, SEGMENT_SIZE - data,
                        PROT_READ | PROT_WRITE, fd, frozen->segments_at + i * SEGMENT_SIZE + data, err);
        }
        if (r == 0)
                r = map_fixed(code->indexes, frozen->n_segments * INDEX_SIZE, PROT_READ | PROT_WRITE, fd,
                        frozen->indexes_at, err);
        if (r == 0)
                r = map_fixed(code->tables, sizeof(*code->tables), PROT_READ | PROT_WRITE, fd, frozen->tables_at, err);
        if (r < 0)
                return r;
        code->hash_bits = frozen->hash_bits;
        code->filling = code->hand = frozen->n_segments;
        code->segments[code->filling].state = SEGMENT_FILLING;
        code->n_used = frozen->n_segments + 1;
        code->n_enough = MIN(code->n_segments, frozen->n_segments + SEGMENTS_FEW);
        return 0;
}

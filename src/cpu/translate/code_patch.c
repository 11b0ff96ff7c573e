/* Changing code that others may be running. In translate_fast: with general registers only. */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "runtime.h"

/* A page of one's own costs some ten microseconds and 4 KiB, a jump that is looked up a fifth of one. */
#define HEAT 64u

static struct frozen_page *frozen_page(struct code_memory *code, const u8 *run)
{
        const size_t n = (size_t)(run - code->run - STUBS_SIZE) / PAGE_SIZE;

        return n < code->n_frozen * SEGMENT_SIZE / PAGE_SIZE ? &code->own[n] : NULL;
}

/* The same bytes in memory of ours take the place of the file's. Who runs there sees one or the other: the host
 * changes the mapping at once. */
static void page_own(struct code_memory *code, struct frozen_page *page)
{
        const size_t offset = (size_t)(page - code->own) * PAGE_SIZE;
        const u8 *from = code->run + STUBS_SIZE + offset;
        u8 *to = code->write + STUBS_SIZE + offset;
        size_t n = PAGE_SIZE;

        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        if (syscall(SYS_mremap, code->spare + offset, PAGE_SIZE, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
                    code->run + STUBS_SIZE + offset) < 0) {
                log_error("translated code cannot be changed: the host has no more mappings for this process");
                abort(); /* stale code must not run */
        }
        page->owned = true;
}

bool code_may_patch(struct translator *tr, const u8 *run)
{
        struct frozen_page *page = frozen_page(&tr->code, run);

        if (!page || page->owned)
                return true;
        return ++page->heat >= HEAT;
}

u8 *code_patchable(struct translator *tr, const u8 *run, unsigned len)
{
        struct frozen_page *first = frozen_page(&tr->code, run), *last = frozen_page(&tr->code, run + len - 1);

        if (first && !first->owned)
                page_own(&tr->code, first);
        if (last && !last->owned)
                page_own(&tr->code, last);
        return tr->code.write + (run - tr->code.run);
}

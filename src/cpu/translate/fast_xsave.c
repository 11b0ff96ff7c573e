/* XSAVE and XRSTOR of a context switch. See fast.c for the rules of this file. */
#include "runtime.h"

#include "../interp/xsave_image.h"

/* Bytes at a guest address, in up to two pages. */
struct bytes {
        u8 *low, *high;
        unsigned first, size;
};

static bool bytes_find(struct interp *in, enum mmu_access access, u64 gva, unsigned size, struct bytes *ret)
{
        const enum tlb_mode mode = translate_tlb_mode(in);
        const unsigned first = MIN(size, (unsigned)(PAGE_SIZE - (gva & (PAGE_SIZE - 1))));

        *ret = (struct bytes){ .low = fast_memory(in, mode, access, gva, first), .first = first, .size = size };
        if (ret->low && first < size)
                ret->high = fast_memory(in, mode, access, gva + first, size - first);
        return ret->low && (ret->high || first == size);
}

static void copy(u8 *to, const u8 *from, size_t n)
{
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void bytes_read(const struct bytes *b, u8 *to)
{
        copy(to, b->low, b->first);
        copy(to + b->first, b->high, b->size - b->first);
}

static void bytes_write(const struct bytes *b, const u8 *from)
{
        copy(b->low, from, b->first);
        copy(b->high, from + b->first, b->size - b->first);
}

/* cpu->xsave has the guest's vector registers afterwards; they stay in the CPU too if they were there. */
static void vectors_store(struct interp *in)
{
        if (in->vectors_live)
                in->translate->translator->stubs.store_vectors(in->cpu);
}

static const void *leave(struct interp *in)
{
        return fast_leave(in, INTERP_REASON_SYSTEM);
}

static bool usual(const struct interp *in, u64 gva)
{
        return in->cpu->paging.cr4 & CR4_OSXSAVE && !(in->cpu->paging.cr0 & CR0_TS) && !(gva & 63) && mmu_is_canonical(gva);
}

static const void *save(struct interp *in, const struct site *site, u64 gva, enum xsave_variant variant)
{
        const u64 rfbm = xsave_requested(in);
        u8 memory[XSAVE_SIZE];
        struct bytes bytes;

        if (!usual(in, gva) || !bytes_find(in, MMU_WRITE, gva, xsave_size(rfbm), &bytes))
                return leave(in);
        vectors_store(in);
        bytes_read(&bytes, memory);
        xsave_store(in, memory, rfbm, variant, true);
        bytes_write(&bytes, memory);
        return fast_done(in, site);
}

const void *fast_xsave(struct interp *in, const struct site *site, u64 gva)
{
        return save(in, site, gva, XSAVE_PLAIN);
}

const void *fast_xsaveopt(struct interp *in, const struct site *site, u64 gva)
{
        return save(in, site, gva, XSAVE_OPTIMIZED);
}

const void *fast_xsavec(struct interp *in, const struct site *site, u64 gva)
{
        return save(in, site, gva, XSAVE_COMPACT);
}

/* The block ends here: the code behind it must find out again whether the vector registers are in the CPU. */
const void *fast_xrstor(struct interp *in, const struct site *site, u64 gva)
{
        const u64 rfbm = xsave_requested(in);
        u8 memory[XSAVE_SIZE];
        struct bytes bytes;

        if (!usual(in, gva) || !bytes_find(in, MMU_READ, gva, XSAVE_YMM_OFFSET, &bytes))
                return leave(in);
        bytes_read(&bytes, memory);
        if (!xsave_loadable(in, memory, rfbm))
                return leave(in);
        if (xsave_loads_avx(memory, rfbm)) {
                if (!bytes_find(in, MMU_READ, gva + XSAVE_YMM_OFFSET, XSAVE_SIZE - XSAVE_YMM_OFFSET, &bytes))
                        return leave(in);
                bytes_read(&bytes, memory + XSAVE_YMM_OFFSET);
        }
        vectors_store(in);
        in->vectors_live = false;
        xsave_load(in, memory, rfbm, true);
        in->rip += site->access;
        return fast_go(in);
}

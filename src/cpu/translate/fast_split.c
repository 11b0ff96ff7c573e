/* Memory operands that cross a page's end. See fast.c for the rules of this file.
 *
 * What is read is put together in in->bounce[1], and the instruction goes on with that for its operand's host address. What is written needs something done
 * after it, so the instruction has a block of its own then (MODE_SPLIT): fast_split_begin finds both pages and brings the operand, the instruction
 * changes it, fast_split_end or the handler of a kick (RECORD_FINISH_SPLIT) takes it to where it belongs. Nobody can have taken away
 * the pages meanwhile, since that is done with the vCPU out of translated code. Locked operands are left to the interpreter. */
#include "runtime.h"

typedef u64 __attribute__((aligned(1), may_alias)) u64_any;

/* The @n bytes before @end to those before @to, some more before them: both are in the page whose end @end is. */
static void copy_before(u8 *to, const u8 *end, unsigned n)
{
        for (int i = (int)n; i > 0; i -= 8)
                *(u64_any *)(to += -8) = *(const u64_any *)(end += -8);
}
/* The @n bytes at @from, and some more behind them. */
static void copy_from(u8 *to, const u8 *from, unsigned n)
{
        for (unsigned i = 0; i < n; i += 8)
                *(u64_any *)(to + i) = *(const u64_any *)(from + i);
}
static void copy_exactly(u8 *to, const u8 *from, unsigned n)
{
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static unsigned room_at(u64 gva)
{
        return (unsigned)(PAGE_SIZE - (gva & (PAGE_SIZE - 1)));
}

/* Finds the @size bytes at @gva, the first page first as processors do, and brings them. */
static bool bring(struct interp *in, enum mmu_access access, u64 gva, unsigned size)
{
        const enum tlb_mode mode = translate_tlb_mode(in);
        const unsigned first = room_at(gva);
        struct translate_cpu *t = in->translate;
        u8 *low, *high;

        if (!mmu_is_canonical(gva + first)) /* the first page is not even looked at then */
                return false;
        low = fast_memory(in, mode, access, gva, first);
        high = low ? fast_memory(in, mode, access, gva + first, size - first) : NULL;
        if (!high)
                return false;
        copy_before(in->bounce[1] + first, low + first, first);
        copy_from(in->bounce[1] + first, high, size - first);
        t->split.low = low;
        t->split.high = high;
        t->split.first = first;
        t->split.size = size;
        return true;
}

const void *fast_split(struct interp *in, const struct site *site, u64 gva)
{
        const struct tblock *block;

        if (site->access == MMU_READ && site->size <= sizeof(in->bounce[1])) {
                if (!bring(in, MMU_READ, gva, site->size))
                        return fast_leave(in, INTERP_REASON_MEMORY);
                counter_inc(&in->vcpu->counters, COUNTER_SPLIT_OPERANDS);
                return (const u8 *)site - site->hit_back;
        }
        if (site_block(site)->mode & MODE_CROSSING)
                return fast_leave(in, INTERP_REASON_MEMORY);
        block = in->translate->no_chains ? NULL : fast_find_here(in, MODE_SPLIT);
        return block ? fast_go_to(in, block) : fast_want(in, MODE_SPLIT);
}

const void *fast_split_begin(struct interp *in, const struct site *site, u64 gva)
{
        const unsigned size = site->size;

        if (room_at(gva) >= size || size > sizeof(in->bounce[1]) || !bring(in, MMU_WRITE, gva, size))
                return fast_leave(in, INTERP_REASON_MEMORY);
        counter_inc(&in->vcpu->counters, COUNTER_SPLIT_OPERANDS);
        return fast_resume(site);
}

void split_write(struct interp *in)
{
        const struct translate_cpu *t = in->translate;

        copy_exactly(t->split.low, in->bounce[1], t->split.first);
        copy_exactly(t->split.high, in->bounce[1] + t->split.first, t->split.size - t->split.first);
}

const void *fast_split_end(struct interp *in, const struct site *site, u64 unused)
{
        split_write(in);
        return fast_done(in, site);
}

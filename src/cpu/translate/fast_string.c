/* REP MOVS and REP STOS: as many elements at a time as fit in both pages. See fast.c for the rules of this file.
 *
 * The registers are current after every piece, so a fault or a kick in between leaves what the processor would. */
#include "runtime.h"

/* Elements of @size from @gva up to its page's end; 0 when the first crosses it. */
static u64 room_for(u64 gva, unsigned size)
{
        return (PAGE_SIZE - (gva & (PAGE_SIZE - 1))) / size;
}

static bool wanted_elsewhere(const struct interp *in)
{
        return __atomic_load_n(&in->kicked, __ATOMIC_RELAXED);
}

static void copy_up(u8 *to, const u8 *from, u64 n)
{
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void fill(u8 *to, u64 value, unsigned size, u64 n)
{
        switch (size) {
        case 1:
                __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
                break;
        case 2:
                __asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(value) : "memory");
                break;
        case 4:
                __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(value) : "memory");
                break;
        default:
                __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        }
}

/* The rest is for the interpreter, or for after the kick. */
static const void *stop(struct interp *in)
{
        return wanted_elsewhere(in) ? NULL : fast_leave(in, INTERP_REASON_STRING);
}

const void *fast_rep_movs(struct interp *in, const struct site *site, u64 unused)
{
        const unsigned size = site->size;

        if (in->rflags & RFLAGS_DF)
                return stop(in);
        while (in->regs[RCX]) {
                const u64 src = in->regs[RSI], dst = in->regs[RDI];
                const u64 n = MIN(in->regs[RCX], MIN(room_for(src, size), room_for(dst, size)));
                const u8 *from;
                u8 *to;

                if (!n || wanted_elsewhere(in))
                        return stop(in);
                from = fast_memory(in, translate_tlb_mode(in), MMU_READ, src, size);
                to = from ? fast_memory(in, translate_tlb_mode(in), MMU_WRITE, dst, size) : NULL; /* the source faults first */
                /* An overlap with the destination ahead repeats a pattern; that is the interpreter's. */
                if (!to || (to > from && to < from + n * size))
                        return stop(in);
                copy_up(to, from, n * size);
                in->regs[RSI] = src + n * size;
                in->regs[RDI] = dst + n * size;
                in->regs[RCX] -= n;
        }
        return fast_done(in, site);
}

const void *fast_rep_stos(struct interp *in, const struct site *site, u64 unused)
{
        const unsigned size = site->size;

        if (in->rflags & RFLAGS_DF)
                return stop(in);
        while (in->regs[RCX]) {
                const u64 dst = in->regs[RDI], n = MIN(in->regs[RCX], room_for(dst, size));
                u8 *to;

                if (!n || wanted_elsewhere(in))
                        return stop(in);
                to = fast_memory(in, translate_tlb_mode(in), MMU_WRITE, dst, size);
                if (!to)
                        return stop(in);
                fill(to, in->regs[RAX], size, n);
                in->regs[RDI] = dst + n * size;
                in->regs[RCX] -= n;
        }
        return fast_done(in, site);
}

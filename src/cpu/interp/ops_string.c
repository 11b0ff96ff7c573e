/* String instructions. Each is a loop over elements that keeps the architectural registers current after every one, so a fault or an
 * interrupt in the middle of a REP leaves exactly the state to go on from. Runs inside one page are done in bulk where nobody can tell. */
#include <Zydis/Zydis.h>
#include <string.h>

#include "ops.h"

struct string_op {
        u64 mask;     /* of the index and count registers */
        s64 step;     /* bytes, negative with DF */
};

static struct string_op string_begin(const struct interp *in, const struct uop *u)
{
        struct string_op op;

        op.mask = u->addr_size == 8 ? ~0ULL : u->addr_size == 4 ? 0xffffffffULL : 0xffffULL;
        op.step = in->rflags & RFLAGS_DF ? -(s64)u->size : (s64)u->size;
        return op;
}

static void index_advance(struct interp *in, const struct uop *u, enum gpr reg, s64 by)
{
        reg_write(in, reg * 8, in->regs[reg] + (u64)by, u->addr_size);
}

static u64 source_linear(struct interp *in, const struct uop *u, const struct string_op *op, unsigned size)
{
        return seg_linear(in, u, u->seg, in->regs[RSI] & op->mask, size, MMU_READ);
}

static u64 dest_linear(struct interp *in, const struct uop *u, const struct string_op *op, unsigned size, enum mmu_access a)
{
        return seg_linear(in, u, SEG_ES, in->regs[RDI] & op->mask, size, a);
}

/* How many elements from @linear on lie in its page, going up. 0 when the first crosses. */
static u64 elements_in_page(u64 linear, unsigned size)
{
        return (PAGE_SIZE - (linear & (PAGE_SIZE - 1))) / size;
}

/* After a REP iteration: true when the instruction must be left for now (somebody waits, or its own code was overwritten). */
static bool must_pause(const struct interp *in)
{
        return (__atomic_load_n(&in->vcpu->work, __ATOMIC_RELAXED) && !in->trial) || in->block_stale || in->mode & MODE_SINGLE;
}

/* Elements that a bulk step may do now: forward, 64-bit addressing, count limited so that interrupts stay prompt. */
static u64 bulk_count(const struct interp *in, const struct uop *u, u64 left)
{
        if (!(u->flags & UOP_REP) || in->rflags & RFLAGS_DF || u->addr_size != 8 || in->trial ||
            (in->mode & (MODE_LONG64 | MODE_SINGLE)) != MODE_LONG64)
                return 0;
        return left;
}

/* One MOVS, or as many as fit in both pages; returns the number done. */
static u64 movs_step(struct interp *in, const struct uop *u, const struct string_op *op, u64 left)
{
        u64 n = bulk_count(in, u, left);

        if (n > 1) {
                const u64 src = in->regs[RSI] + in->seg_base[u->seg], dst = in->regs[RDI];
                u8 *from, *to;

                n = MIN(n, MIN(elements_in_page(src, u->size), elements_in_page(dst, u->size)));
                from = n > 1 ? tlb_lookup(&in->tlb, in->tlb_mode, MMU_READ, src, u->size) : NULL;
                to = n > 1 ? tlb_lookup(&in->tlb, in->tlb_mode, MMU_WRITE, dst, u->size) : NULL;
                /* An overlap with the destination ahead repeats a pattern: element by element then. */
                if (from && to && (to <= from || to >= from + n * u->size)) {
                        memmove(to, from, n * u->size);
                        index_advance(in, u, RSI, (s64)(n * u->size));
                        index_advance(in, u, RDI, (s64)(n * u->size));
                        return n;
                }
        }
        {
                const u64 value = mem_read(in, u, source_linear(in, u, op, u->size), u->size);

                mem_write(in, u, dest_linear(in, u, op, u->size, MMU_WRITE), value, u->size);
        }
        index_advance(in, u, RSI, op->step);
        index_advance(in, u, RDI, op->step);
        return 1;
}

static void fill(u8 *to, u64 value, unsigned size, u64 n)
{
        switch (size) {
        case 1:
                memset(to, (int)value, n);
                break;
        case 2:
                for (u64 i = 0; i < n; i++)
                        memcpy(to + i * 2, &value, 2);
                break;
        case 4:
                for (u64 i = 0; i < n; i++)
                        memcpy(to + i * 4, &value, 4);
                break;
        default:
                for (u64 i = 0; i < n; i++)
                        memcpy(to + i * 8, &value, 8);
        }
}

static u64 stos_step(struct interp *in, const struct uop *u, const struct string_op *op, u64 left)
{
        u64 n = bulk_count(in, u, left);

        if (n > 1) {
                const u64 dst = in->regs[RDI];
                u8 *to;

                n = MIN(n, elements_in_page(dst, u->size));
                to = n > 1 ? fast_ptr_at(in, dst, MMU_WRITE, u->size) : NULL;
                if (to) {
                        fill(to, in->regs[RAX], u->size, n);
                        index_advance(in, u, RDI, (s64)(n * u->size));
                        return n;
                }
        }
        mem_write(in, u, dest_linear(in, u, op, u->size, MMU_WRITE), in->regs[RAX], u->size);
        index_advance(in, u, RDI, op->step);
        return 1;
}

static u64 lods_step(struct interp *in, const struct uop *u, const struct string_op *op, u64 left)
{
        (void)left;
        reg_write(in, RAX * 8, mem_read(in, u, source_linear(in, u, op, u->size), u->size), u->size);
        index_advance(in, u, RSI, op->step);
        return 1;
}

/* Sets the flags of @a - @b. */
static void compare(struct interp *in, u64 a, u64 b, unsigned size)
{
        u16 fl = 0;

        switch (size) {
        case 1:
                __asm__("cmp %[b], %[a]" FLAGS_OUT : "+&a"(fl) : [a] "q"((u8)a), [b] "q"((u8)b) : "cc");
                break;
        case 2:
                __asm__("cmp %[b], %[a]" FLAGS_OUT : "+&a"(fl) : [a] "r"((u16)a), [b] "r"((u16)b) : "cc");
                break;
        case 4:
                __asm__("cmp %[b], %[a]" FLAGS_OUT : "+&a"(fl) : [a] "r"((u32)a), [b] "r"((u32)b) : "cc");
                break;
        default:
                __asm__("cmp %[b], %[a]" FLAGS_OUT : "+&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
        }
        in->flags = fl;
}

static u64 scas_step(struct interp *in, const struct uop *u, const struct string_op *op, u64 left)
{
        const u64 value = mem_read(in, u, dest_linear(in, u, op, u->size, MMU_READ), u->size);

        (void)left;
        compare(in, reg_read(in, RAX * 8, u->size), value, u->size);
        index_advance(in, u, RDI, op->step);
        return 1;
}

static u64 cmps_step(struct interp *in, const struct uop *u, const struct string_op *op, u64 left)
{
        /* When both would fault, processors report ES:[RDI]. */
        const u64 b = mem_read(in, u, dest_linear(in, u, op, u->size, MMU_READ), u->size);
        const u64 a = mem_read(in, u, source_linear(in, u, op, u->size), u->size);

        (void)left;
        compare(in, a, b, u->size);
        index_advance(in, u, RSI, op->step);
        index_advance(in, u, RDI, op->step);
        return 1;
}

static u64 ins_step(struct interp *in, const struct uop *u, const struct string_op *op, u64 left)
{
        const unsigned port = (u16)in->regs[RDX];
        struct mem_rmw rmw;
        u64 value;
        void *p;

        (void)left;
        /* The destination is checked before the device is read: reading may have side effects. */
        p = mem_rmw_begin(in, u, dest_linear(in, u, op, u->size, MMU_WRITE), u->size, false, false, &rmw);
        io_read(in->vcpu->ports, port, u->size, &value);
        exit_count(&in->vcpu->counters, EXIT_PIO);
        memcpy(p, &value, u->size);
        mem_rmw_end(in, &rmw);
        index_advance(in, u, RDI, op->step);
        return 1;
}

static u64 outs_step(struct interp *in, const struct uop *u, const struct string_op *op, u64 left)
{
        const unsigned port = (u16)in->regs[RDX];
        u64 value;

        (void)left;
        value = mem_read(in, u, source_linear(in, u, op, u->size), u->size);
        io_write(in->vcpu->ports, port, value, u->size);
        exit_count(&in->vcpu->counters, EXIT_PIO);
        index_advance(in, u, RSI, op->step);
        return 1;
}

typedef u64 step_fn(struct interp *in, const struct uop *u, const struct string_op *op, u64 left);

/* Runs the instruction; true when it must be left for now with the rest still to do. */
static inline __attribute__((always_inline)) bool string_run(struct interp *in, const struct uop *u, step_fn *step, bool compares,
                                                             bool ports)
{
        const struct string_op op = string_begin(in, u);

        if (ports)
                sys_check_io_permission(in, u, (u16)in->regs[RDX], u->size); /* even when the count is 0 */
        if (!(u->flags & (UOP_REP | UOP_REPNE))) {
                step(in, u, &op, 1);
                return false;
        }
        while (in->regs[RCX] & op.mask) {
                const u64 left = in->regs[RCX] & op.mask;
                const u64 done = step(in, u, &op, left);

                reg_write(in, RCX * 8, left - done, u->addr_size);
                if (compares) {
                        const bool zero = in->flags & (RFLAGS_ZF << 8);

                        if (zero != !(u->flags & UOP_REPNE))
                                break;
                }
                if (left - done && unlikely(must_pause(in)))
                        return true;
        }
        return false;
}

/* RIP stays at an instruction that is left in the middle. */
static const struct uop *string_end(struct interp *in, const struct uop *u, bool paused)
{
        const u64 rip = interp_uop_rip(in, u);

        if (!paused)
                SLOW_NEXT(u);
        interp_leave_block(in, u);
        in->rip = rip;
        return NULL;
}

/* The loop is a function of its own, for the reason given at BODY_HANDLER. */
#define STRING_HANDLER(name, compares, ports)                                                        \
        static _noinline_ bool name##_run(struct interp *in, const struct uop *u)                  \
        {                                                                                          \
                return string_run(in, u, name##_step, compares, ports);                            \
        }                                                                                          \
        HANDLER(op_##name)                                                                         \
        {                                                                                          \
                return string_end(in, u, name##_run(in, u));                                       \
        }
STRING_HANDLER(movs, false, false)
STRING_HANDLER(stos, false, false)
STRING_HANDLER(lods, false, false)
STRING_HANDLER(scas, true, false)
STRING_HANDLER(cmps, true, false)
STRING_HANDLER(ins, false, true)
STRING_HANDLER(outs, false, true)

uop_fn *string_op_find(unsigned mnemonic)
{
        switch (mnemonic) {
        case ZYDIS_MNEMONIC_MOVSB:
        case ZYDIS_MNEMONIC_MOVSW:
        case ZYDIS_MNEMONIC_MOVSD:
        case ZYDIS_MNEMONIC_MOVSQ:
                return op_movs;
        case ZYDIS_MNEMONIC_STOSB:
        case ZYDIS_MNEMONIC_STOSW:
        case ZYDIS_MNEMONIC_STOSD:
        case ZYDIS_MNEMONIC_STOSQ:
                return op_stos;
        case ZYDIS_MNEMONIC_LODSB:
        case ZYDIS_MNEMONIC_LODSW:
        case ZYDIS_MNEMONIC_LODSD:
        case ZYDIS_MNEMONIC_LODSQ:
                return op_lods;
        case ZYDIS_MNEMONIC_SCASB:
        case ZYDIS_MNEMONIC_SCASW:
        case ZYDIS_MNEMONIC_SCASD:
        case ZYDIS_MNEMONIC_SCASQ:
                return op_scas;
        case ZYDIS_MNEMONIC_CMPSB:
        case ZYDIS_MNEMONIC_CMPSW:
        case ZYDIS_MNEMONIC_CMPSD:
        case ZYDIS_MNEMONIC_CMPSQ:
                return op_cmps;
        case ZYDIS_MNEMONIC_INSB:
        case ZYDIS_MNEMONIC_INSW:
        case ZYDIS_MNEMONIC_INSD:
                return op_ins;
        case ZYDIS_MNEMONIC_OUTSB:
        case ZYDIS_MNEMONIC_OUTSW:
        case ZYDIS_MNEMONIC_OUTSD:
                return op_outs;
        default:
                return NULL;
        }
}

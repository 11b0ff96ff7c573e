/* The rest of the integer instructions: multiply, divide, bit tests, compare-exchange, flags, BCD, no-ops. Handlers work in every mode; those worth
 * it have a fast path for 64-bit flat code inside. */
#include <Zydis/Zydis.h>
#include <string.h>

#include "ops.h"


/* The r/m source operand's value, in any mode. */
static u64 source_value(struct interp *in, const struct uop *u, unsigned size, unsigned reg)
{
        if (!(u->flags & UOP_MEM))
                return reg_read(in, reg, size);
        return mem_read(in, u, ea_linear(in, u, size, MMU_READ), size);
}

/* ---- multiply ---- */

/* imul r, r/m and imul r, r/m, imm. */
#define IMUL_ASM(T, d_, s_)                                                                        \
        do {                                                                                       \
                T _d = (T)(d_), _s = (T)(s_);                                                      \
                u16 _fl = 0;                                                                       \
                __asm__("imul %[s], %[d]" FLAGS_OUT : [d] "+r"(_d), "+&a"(_fl) : [s] "r"(_s) : "cc"); \
                in->flags = _fl;                                                                   \
                REG_PUT(T, u->r1, _d);                                                             \
        } while (0)
#define IMUL(T)                                                                                    \
        HANDLER(imul_##T##_r)                                                                      \
        {                                                                                          \
                IMUL_ASM(T, REG(T, u->r1), REG(T, u->r2));                                         \
                NEXT(u);                                                                           \
        }                                                                                          \
        HANDLER(imul_##T##_ri)                                                                     \
        {                                                                                          \
                IMUL_ASM(T, u->imm, REG(T, u->r2));                                                \
                NEXT(u);                                                                           \
        }                                                                                          \
        READ_HANDLER(imul_##T##_m, T, IMUL_ASM(T, REG(T, u->r1), *p))                              \
        READ_HANDLER(imul_##T##_mi, T, IMUL_ASM(T, u->imm, *p))
IMUL(u16)
IMUL(u32)
IMUL(u64)
#define IMUL_ROW(T)                                                                                \
        {                                                                                          \
                { imul_##T##_r, imul_##T##_m, imul_##T##_m_slow },                                 \
                { imul_##T##_ri, imul_##T##_mi, imul_##T##_mi_slow }                               \
        }
uop_fn *const imul_table[4][2][3] = { { { NULL } }, IMUL_ROW(u16), IMUL_ROW(u32), IMUL_ROW(u64) };

/* mul and imul with one operand: rdx:rax = rax * source. */
#define WIDE_MUL(name, insn, T, ACC)                                                               \
        static void name##_##T(struct interp *in, u64 b)                                           \
        {                                                                                          \
                T lo = REG(T, RAX * 8), hi, s = (T)b;                                              \
                u16 fl;                                                                            \
                __asm__("mov %[lo], %%" ACC "\n\t" insn " %[s]\n\tmov %%" ACC ", %[lo]" FLAGS_OUT  \
                        : [lo] "+&r"(lo), "=&d"(hi), "=&a"(fl)                                     \
                        : [s] "r"(s)                                                               \
                        : "cc");                                                                   \
                in->flags = fl;                                                                    \
                REG_PUT(T, RAX * 8, lo);                                                           \
                REG_PUT(T, RDX * 8, hi);                                                           \
        }
WIDE_MUL(mul, "mul", u16, "ax")
WIDE_MUL(mul, "mul", u32, "eax")
WIDE_MUL(mul, "mul", u64, "rax")
WIDE_MUL(imul1, "imul", u16, "ax")
WIDE_MUL(imul1, "imul", u32, "eax")
WIDE_MUL(imul1, "imul", u64, "rax")

static void mul8(struct interp *in, u64 b, bool is_signed)
{
        u8 s = (u8)b;
        u16 product, fl;

        if (is_signed)
                __asm__("movb %[a], %%al\n\timulb %[s]\n\tmovw %%ax, %[p]" FLAGS_OUT
                        : [p] "=&r"(product), "=&a"(fl)
                        : [s] "q"(s), [a] "q"(REG(u8, RAX * 8))
                        : "cc");
        else
                __asm__("movb %[a], %%al\n\tmulb %[s]\n\tmovw %%ax, %[p]" FLAGS_OUT
                        : [p] "=&r"(product), "=&a"(fl)
                        : [s] "q"(s), [a] "q"(REG(u8, RAX * 8))
                        : "cc");
        in->flags = fl;
        REG(u16, RAX * 8) = product;
}

/* aux: signed. */
HANDLER(op_mul)
{
        const u64 b = source_value(in, u, u->size, u->r1);
        static void (*const wide[2][3])(struct interp *, u64) = { { mul_u16, mul_u32, mul_u64 },
                                                                  { imul1_u16, imul1_u32, imul1_u64 } };

        if (u->size == 1)
                mul8(in, b, u->aux);
        else
                wide[u->aux][u->size == 2 ? 0 : u->size == 4 ? 1 : 2](in, b);
        SLOW_NEXT(u);
}

/* ---- divide: #DE is decided here, so the host never faults; flags are undefined and left alone ---- */

static bool udiv(u64 hi, u64 lo, u64 d, unsigned size, u64 *q, u64 *r)
{
        if (d == 0 || hi >= d)
                return false;
        if (size < 8) {
                const u64 n = (hi << (size * 8)) | lo;

                *q = n / d;
                *r = n % d;
                return true;
        }
        __asm__("divq %[d]" : "=a"(*q), "=d"(*r) : [d] "r"(d), "a"(lo), "d"(hi) : "cc");
        return true;
}

static bool idiv(u64 hi, u64 lo, u64 d, unsigned size, u64 *q, u64 *r)
{
        const unsigned bits_n = size * 8;
        __int128 n = (__int128)(((unsigned __int128)hi << bits_n) | lo);
        __int128 divisor = (s64)(d << (64 - bits_n)) >> (64 - bits_n);
        __int128 quotient, limit = (__int128)1 << (bits_n - 1);

        if (size < 8)
                n = (s64)((u64)n << (64 - 2 * bits_n)) >> (64 - 2 * bits_n);
        if (divisor == 0 || (divisor == -1 && n == -n && n != 0))
                return false;
        if (n >= INT64_MIN && n <= INT64_MAX && !(n == INT64_MIN && divisor == -1)) {
                quotient = (s64)n / (s64)divisor;
                *r = (u64)((s64)n % (s64)divisor);
        } else {
                quotient = n / divisor;
                *r = (u64)(n % divisor);
        }
        if (quotient < -limit || quotient >= limit)
                return false;
        *q = (u64)quotient;
        return true;
}

BODY_HANDLER(op_div)
{
        const unsigned size = u->size;
        const u64 d = source_value(in, u, size, u->r1);
        const u64 lo = reg_read(in, RAX * 8, size), hi = reg_read(in, size == 1 ? RAX * 8 + 1 : RDX * 8, size);
        u64 q, r;

        if (!(u->aux ? idiv : udiv)(hi, lo, d, size, &q, &r))
                interp_raise(in, u, EXC_DE, NO_ERROR_CODE);
        reg_write(in, RAX * 8, q, size);
        reg_write(in, size == 1 ? RAX * 8 + 1 : RDX * 8, r, size);
}

/* ---- sign extension of the accumulator ---- */

HANDLER(op_convert)
{
        switch (u->mnemonic) {
        case ZYDIS_MNEMONIC_CBW:
                reg_put_u16(RAX * 8, (s8)in->regs[RAX]);
                break;
        case ZYDIS_MNEMONIC_CWDE:
                reg_put_u32(RAX * 8, (s16)in->regs[RAX]);
                break;
        case ZYDIS_MNEMONIC_CDQE:
                reg_put_u64(RAX * 8, (s32)in->regs[RAX]);
                break;
        case ZYDIS_MNEMONIC_CWD:
                reg_put_u16(RDX * 8, (s16)in->regs[RAX] < 0 ? ~0 : 0);
                break;
        case ZYDIS_MNEMONIC_CDQ:
                reg_put_u32(RDX * 8, (s32)in->regs[RAX] < 0 ? ~0u : 0);
                break;
        default: /* CQO */
                reg_put_u64(RDX * 8, (s64)in->regs[RAX] < 0 ? ~0ULL : 0);
        }
        NEXT(u);
}

HANDLER(op_bswap)
{
        if (u->size == 8)
                reg_put_u64(u->r1, __builtin_bswap64(REG(u64, u->r1)));
        else if (u->size == 4)
                reg_put_u32(u->r1, __builtin_bswap32(REG(u32, u->r1)));
        else /* undefined; what processors do */
                reg_put_u16(u->r1, 0);
        NEXT(u);
}

/* ---- bit tests. aux: which of bt, bts, btr, btc; the bit is in r2, or in imm when r2 is NO_REG ---- */

#define BIT_OPERATE(T, p, bit, what)                                                         \
        do {                                                                                       \
                T _bit = (T)(bit);                                                                 \
                u16 _fl = in->flags;                                                               \
                switch (what) {                                                                    \
                case 0:                                                                            \
                        __asm__ volatile(FLAGS_IN "bt %[b], %[m]" FLAGS_OUT                        \
                                         : "+&a"(_fl), [m] "+r"(*(p)) : [b] "r"(_bit) : "cc");     \
                        break;                                                                     \
                case 1:                                                                            \
                        __asm__ volatile(FLAGS_IN "bts %[b], %[m]" FLAGS_OUT                       \
                                         : "+&a"(_fl), [m] "+r"(*(p)) : [b] "r"(_bit) : "cc");     \
                        break;                                                                     \
                case 2:                                                                            \
                        __asm__ volatile(FLAGS_IN "btr %[b], %[m]" FLAGS_OUT                       \
                                         : "+&a"(_fl), [m] "+r"(*(p)) : [b] "r"(_bit) : "cc");     \
                        break;                                                                     \
                default:                                                                           \
                        __asm__ volatile(FLAGS_IN "btc %[b], %[m]" FLAGS_OUT                       \
                                         : "+&a"(_fl), [m] "+r"(*(p)) : [b] "r"(_bit) : "cc");     \
                }                                                                                  \
                in->flags = _fl;                                                                   \
        } while (0)

static void bit_operate(struct interp *in, const struct uop *u, u64 *value, u64 bit)
{
        if (u->size == 8) {
                BIT_OPERATE(u64, value, bit & 63, u->aux);
        } else if (u->size == 4) {
                u32 v = (u32)*value;

                BIT_OPERATE(u32, &v, bit & 31, u->aux);
                *value = v;
        } else {
                u16 v = (u16)*value;

                BIT_OPERATE(u16, &v, bit & 15, u->aux);
                *value = v;
        }
}

/* The linear address of the operand that holds bit @bit: a register offset is signed and reaches beyond the operand. SDM 2A, BT. */
static u64 bit_linear(struct interp *in, const struct uop *u, s64 bit, enum mmu_access access)
{
        const unsigned shift = u->size == 8 ? 6 : u->size == 4 ? 5 : 4;

        return ea_linear_plus(in, u, u->r2 != NO_REG ? (bit >> shift) * u->size : 0, u->size, access);
}

BODY_HANDLER(op_bit)
{
        u64 bit = u->imm;

        if (u->r2 != NO_REG) {
                bit = reg_read(in, u->r2, u->size);
                if (u->size == 4)
                        bit = (u64)(s32)bit;
                else if (u->size == 2)
                        bit = (u64)(s16)bit;
        }
        if (!(u->flags & UOP_MEM)) {
                u64 value = reg_read(in, u->r1, u->size);

                bit_operate(in, u, &value, bit);
                if (u->aux)
                        reg_write(in, u->r1, value, u->size);
                return;
        }
        if (u->aux == 0) {
                u64 value = mem_read(in, u, bit_linear(in, u, (s64)bit, MMU_READ), u->size);

                bit_operate(in, u, &value, bit);
        } else {
                struct mem_rmw rmw;
                const bool lock = u->flags & UOP_LOCK;
                void *p = mem_rmw_begin(in, u, bit_linear(in, u, (s64)bit, MMU_WRITE), u->size, true, lock, &rmw);
                u64 old = 0, new;

                /* One compare-exchange loop serves locked and plain alike; only the bit's operand is exchanged. */
                do {
                        memcpy(&old, p, u->size);
                        new = old;
                        bit_operate(in, u, &new, bit);
                } while (u->size == 8 ? !__atomic_compare_exchange_n((u64 *)p, &old, new, false, __ATOMIC_SEQ_CST,
                                                                     __ATOMIC_SEQ_CST)
                         : u->size == 4 ? !__sync_bool_compare_and_swap((u32 *)p, (u32)old, (u32)new)
                                        : !__sync_bool_compare_and_swap((u16 *)p, (u16)old, (u16)new));
                mem_rmw_end(in, &rmw);
        }
}

/* ---- compare-exchange, exchange-add ---- */

#define CMPXCHG(T)                                                                                 \
        static void cmpxchg_##T(struct interp *in, const struct uop *u, T *p)                      \
        {                                                                                          \
                T old = REG(T, RAX * 8), new = REG(T, u->r2);                                      \
                u16 fl = 0;                                                                        \
                const T expected = old;                                                            \
                if (!__atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) \
                        REG_PUT(T, RAX * 8, old);                                                  \
                __asm__("cmp %[b], %[a]" FLAGS_OUT : "+&a"(fl) : [a] "r"(expected), [b] "r"(old) : "cc"); \
                in->flags = fl;                                                                    \
        }
CMPXCHG(u8)
CMPXCHG(u16)
CMPXCHG(u32)
CMPXCHG(u64)

static void cmpxchg_at(struct interp *in, const struct uop *u, void *p)
{
        switch (u->size) {
        case 1:
                cmpxchg_u8(in, u, p);
                break;
        case 2:
                cmpxchg_u16(in, u, p);
                break;
        case 4:
                cmpxchg_u32(in, u, p);
                break;
        default:
                cmpxchg_u64(in, u, p);
        }
}

/* With and without LOCK alike: an atomic exchange is a correct plain one. */
BODY_HANDLER(op_cmpxchg)
{
        if (u->flags & UOP_MEM) {
                struct mem_rmw rmw;
                void *p = u->addr_size == 8 && in->mode & MODE_LONG64
                                  ? fast_ptr(in, u, MMU_WRITE, u->size) : NULL;

                if (likely(p)) {
                        cmpxchg_at(in, u, p);
                        return;
                }
                p = mem_rmw_begin(in, u, ea_linear(in, u, u->size, MMU_WRITE), u->size, true, true, &rmw);
                cmpxchg_at(in, u, p);
                mem_rmw_end(in, &rmw);
        } else {
                u64 value = reg_read(in, u->r1, u->size);

                cmpxchg_at(in, u, &value);
                if (in->flags & (RFLAGS_ZF << 8))
                        reg_write(in, u->r1, value, u->size);
        }
}

BODY_HANDLER(op_cmpxchg8b)
{
        struct mem_rmw rmw;
        u64 *p = mem_rmw_begin(in, u, ea_linear(in, u, 8, MMU_WRITE), 8, true, true, &rmw);
        u64 expected = (u32)in->regs[RAX] | in->regs[RDX] << 32;
        const u64 new = (u32)in->regs[RBX] | in->regs[RCX] << 32;

        if (__atomic_compare_exchange_n(p, &expected, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
                in->flags |= RFLAGS_ZF << 8;
        } else {
                in->flags &= (u16)~(RFLAGS_ZF << 8);
                in->regs[RAX] = (u32)expected;
                in->regs[RDX] = expected >> 32;
        }
        mem_rmw_end(in, &rmw);
}

BODY_HANDLER(op_cmpxchg16b)
{
        struct mem_rmw rmw;
        void *p;
        u64 lo = in->regs[RAX], hi = in->regs[RDX];
        bool equal;

        /* Before even a non-canonical address. */
        if ((ea_offset(in, u) + in->seg_base[u->seg]) & 15)
                interp_raise(in, u, EXC_GP, 0);
        p = mem_rmw_begin(in, u, ea_linear(in, u, 16, MMU_WRITE), 16, true, true, &rmw);
        __asm__ volatile("lock cmpxchg16b %[m]"
                         : "+a"(lo), "+d"(hi), "=@ccz"(equal), [m] "+m"(*(unsigned __int128 *)p)
                         : "b"(in->regs[RBX]), "c"(in->regs[RCX])
                         : "memory");
        if (equal) {
                in->flags |= RFLAGS_ZF << 8;
        } else {
                in->flags &= (u16)~(RFLAGS_ZF << 8);
                in->regs[RAX] = lo;
                in->regs[RDX] = hi;
        }
        mem_rmw_end(in, &rmw);
}

#define XADD(T)                                                                                    \
        static void xadd_##T(struct interp *in, const struct uop *u, T *p)                         \
        {                                                                                          \
                T s = REG(T, u->r2);                                                               \
                u16 fl;                                                                            \
                __asm__ volatile("lock xadd %[s], %[m]" FLAGS_OUT                                  \
                                 : [s] "+r"(s), [m] "+m"(*p), "=&a"(fl) : : "cc", "memory");       \
                in->flags = fl;                                                                    \
                REG_PUT(T, u->r2, s);                                                              \
        }
XADD(u8)
XADD(u16)
XADD(u32)
XADD(u64)

static void xadd_at(struct interp *in, const struct uop *u, void *p)
{
        switch (u->size) {
        case 1:
                xadd_u8(in, u, p);
                break;
        case 2:
                xadd_u16(in, u, p);
                break;
        case 4:
                xadd_u32(in, u, p);
                break;
        default:
                xadd_u64(in, u, p);
        }
}

BODY_HANDLER(op_xadd)
{
        if (u->flags & UOP_MEM) {
                struct mem_rmw rmw;
                void *p = mem_rmw_begin(in, u, ea_linear(in, u, u->size, MMU_WRITE), u->size, true, true, &rmw);

                xadd_at(in, u, p);
                mem_rmw_end(in, &rmw);
        } else {
                u64 value = reg_read(in, u->r1, u->size);

                xadd_at(in, u, &value);
                reg_write(in, u->r1, value, u->size); /* last: XADD r, r leaves the sum */
        }
}

/* ---- flags ---- */

HANDLER(op_flag)
{
        switch (u->mnemonic) {
        case ZYDIS_MNEMONIC_CLC:
                in->flags &= (u16)~(RFLAGS_CF << 8);
                break;
        case ZYDIS_MNEMONIC_STC:
                in->flags |= RFLAGS_CF << 8;
                break;
        case ZYDIS_MNEMONIC_CMC:
                in->flags ^= RFLAGS_CF << 8;
                break;
        case ZYDIS_MNEMONIC_CLD:
                in->rflags &= ~RFLAGS_DF;
                break;
        case ZYDIS_MNEMONIC_STD:
                in->rflags |= RFLAGS_DF;
                break;
        case ZYDIS_MNEMONIC_LAHF:
                REG(u8, RAX * 8 + 1) = (u8)(flags_to_rflags(in->flags) | RFLAGS_FIXED);
                break;
        case ZYDIS_MNEMONIC_SAHF:
                in->flags = flags_from_rflags(REG(u8, RAX * 8 + 1) | (in->flags & 1 ? RFLAGS_OF : 0));
                break;
        default: /* SALC */
                REG(u8, RAX * 8) = in->flags & (RFLAGS_CF << 8) ? 0xff : 0;
        }
        NEXT(u);
}

HANDLER(op_xlat)
{
        const u64 mask = u->addr_size == 8 ? ~0ULL : u->addr_size == 4 ? 0xffffffffULL : 0xffffULL;
        const u64 offset = (in->regs[RBX] + (u8)in->regs[RAX]) & mask;

        REG(u8, RAX * 8) = (u8)mem_read(in, u, seg_linear(in, u, u->seg, offset, 1, MMU_READ), 1);
        SLOW_NEXT(u);
}

/* ---- decimal adjust, 16- and 32-bit modes only. SDM 2A, pseudo-code of each ---- */

static void set_szp(struct interp *in, u8 al, u64 cf_af)
{
        u64 f = cf_af;

        if (!al)
                f |= RFLAGS_ZF;
        if (al & 0x80)
                f |= RFLAGS_SF;
        if (!(__builtin_popcount(al) & 1))
                f |= RFLAGS_PF;
        in->flags = flags_from_rflags(f);
}

static void decimal_adjust(struct interp *in, bool subtract)
{
        const u64 old = flags_to_rflags(in->flags);
        const u8 old_al = REG(u8, RAX * 8);
        u8 al = old_al;
        u64 f = 0;

        if ((al & 15) > 9 || old & RFLAGS_AF) {
                const u8 adjusted = subtract ? (u8)(al - 6) : (u8)(al + 6);

                f |= RFLAGS_AF;
                if (old & RFLAGS_CF || (subtract ? al < 6 : al > 0xf9))
                        f |= RFLAGS_CF;
                al = adjusted;
        }
        if (old_al > 0x99 || old & RFLAGS_CF) {
                al = subtract ? (u8)(al - 0x60) : (u8)(al + 0x60);
                f |= RFLAGS_CF;
        } else if (!subtract) {
                f &= ~RFLAGS_CF;
        }
        REG(u8, RAX * 8) = al;
        set_szp(in, al, f);
}

static void ascii_adjust(struct interp *in, int sign)
{
        const u64 old = flags_to_rflags(in->flags);
        u16 ax = REG(u16, RAX * 8);
        u64 f = 0;

        if ((ax & 15) > 9 || old & RFLAGS_AF) {
                ax = (u16)(ax + sign * 0x106);
                f = RFLAGS_AF | RFLAGS_CF;
        }
        set_szp(in, (u8)(ax & 15), f);
        REG(u16, RAX * 8) = ax & 0xff0f;
}

HANDLER(op_bcd)
{
        const u8 al = REG(u8, RAX * 8), ah = REG(u8, RAX * 8 + 1), base = (u8)u->imm;

        switch (u->mnemonic) {
        case ZYDIS_MNEMONIC_DAA:
                decimal_adjust(in, false);
                break;
        case ZYDIS_MNEMONIC_DAS:
                decimal_adjust(in, true);
                break;
        case ZYDIS_MNEMONIC_AAA:
                ascii_adjust(in, 1);
                break;
        case ZYDIS_MNEMONIC_AAS:
                ascii_adjust(in, -1);
                break;
        case ZYDIS_MNEMONIC_AAM:
                if (!base)
                        interp_raise(in, u, EXC_DE, NO_ERROR_CODE);
                REG(u8, RAX * 8 + 1) = al / base;
                REG(u8, RAX * 8) = al % base;
                set_szp(in, al % base, 0);
                break;
        default: /* AAD */
                REG(u16, RAX * 8) = (u8)(al + ah * base);
                set_szp(in, (u8)(al + ah * base), 0);
        }
        NEXT(u);
}

/* ---- no-ops and fences ---- */

HANDLER(op_nop)
{
        NEXT(u);
}

HANDLER(op_fence)
{
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        NEXT(u);
}

/* CLFLUSH and kin: nothing to flush, but the address is checked as a load. */
HANDLER(op_touch)
{
        mem_read(in, u, ea_linear(in, u, 1, MMU_READ), 1);
        SLOW_NEXT(u);
}

#define PLAIN(mnemonic_, handler) [ZYDIS_MNEMONIC_##mnemonic_] = { .fn = handler }
#define PLAIN32(mnemonic_, handler) [ZYDIS_MNEMONIC_##mnemonic_] = { .fn = handler, .flags = PLAIN_NO_LONG64 }
static const struct plain_op plain_ops[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
        PLAIN(MUL, op_mul), PLAIN(DIV, op_div), PLAIN(IDIV, op_div),
        PLAIN(CBW, op_convert), PLAIN(CWDE, op_convert), PLAIN(CDQE, op_convert),
        PLAIN(CWD, op_convert), PLAIN(CDQ, op_convert), PLAIN(CQO, op_convert),
        PLAIN(BSWAP, op_bswap),
        PLAIN(BT, op_bit), PLAIN(BTS, op_bit), PLAIN(BTR, op_bit), PLAIN(BTC, op_bit),
        PLAIN(CMPXCHG, op_cmpxchg), PLAIN(CMPXCHG8B, op_cmpxchg8b), PLAIN(CMPXCHG16B, op_cmpxchg16b), PLAIN(XADD, op_xadd),
        PLAIN(CLC, op_flag), PLAIN(STC, op_flag), PLAIN(CMC, op_flag), PLAIN(CLD, op_flag), PLAIN(STD, op_flag),
        PLAIN(LAHF, op_flag), PLAIN(SAHF, op_flag), PLAIN32(SALC, op_flag),
        PLAIN(XLAT, op_xlat),
        PLAIN32(DAA, op_bcd), PLAIN32(DAS, op_bcd), PLAIN32(AAA, op_bcd), PLAIN32(AAS, op_bcd), PLAIN32(AAM, op_bcd),
        PLAIN32(AAD, op_bcd),
        PLAIN(NOP, op_nop), PLAIN(ENDBR32, op_nop), PLAIN(ENDBR64, op_nop), PLAIN(PREFETCH, op_nop),
        PLAIN(PREFETCHNTA, op_nop), PLAIN(PREFETCHT0, op_nop), PLAIN(PREFETCHT1, op_nop), PLAIN(PREFETCHT2, op_nop),
        PLAIN(PREFETCHW, op_nop), PLAIN(PREFETCHWT1, op_nop), PLAIN(CLDEMOTE, op_nop),
        PLAIN(RDSSPD, op_nop), PLAIN(RDSSPQ, op_nop),
        PLAIN(MFENCE, op_fence), PLAIN(LFENCE, op_fence), PLAIN(SFENCE, op_fence),
        PLAIN(CLFLUSH, op_touch), PLAIN(CLFLUSHOPT, op_touch), PLAIN(CLWB, op_touch),
};

const struct plain_op *plain_op_find(unsigned mnemonic)
{
        return mnemonic < ARRAY_SIZE(plain_ops) && plain_ops[mnemonic].fn ? &plain_ops[mnemonic] : NULL;
}

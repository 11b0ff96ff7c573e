/* Integer arithmetic: every handler runs the very instruction on the host and keeps its result and flags. */
#include "ops.h"

/* ---- two operands ---- */

/* Destination register `d`, source any operand the asm constraint takes. KIND_*: how flags come in and whether the result is kept. */
#define ALU_ASM(prefix, insn, dst_constraint, d, s)                                                \
        __asm__ volatile(prefix insn " %[src], %[dst]" FLAGS_OUT                                   \
                         : [dst] dst_constraint(d), "+&a"(fl)                                      \
                         : [src] "r"(s)                                                            \
                         : "cc", "memory")

#define ALU_FORMS(op, insn, prefix, T, PUT, UPDATE)                                                \
        HANDLER(op##_##T##_rr)                                                                     \
        {                                                                                          \
                T d = REG(T, u->r1), s = REG(T, u->r2);                                            \
                u16 fl = in->flags;                                                                \
                ALU_ASM(prefix, insn, "+r", d, s);                                                 \
                in->flags = fl;                                                                    \
                PUT(T, u->r1, d);                                                                  \
                NEXT(u);                                                                           \
        }                                                                                          \
        HANDLER(op##_##T##_ri)                                                                     \
        {                                                                                          \
                T d = REG(T, u->r1), s = (T)u->imm;                                                \
                u16 fl = in->flags;                                                                \
                ALU_ASM(prefix, insn, "+r", d, s);                                                 \
                in->flags = fl;                                                                    \
                PUT(T, u->r1, d);                                                                  \
                NEXT(u);                                                                           \
        }                                                                                          \
        READ_HANDLER(op##_##T##_rm, T, {                                                           \
                T d = REG(T, u->r1), s = *p;                                                       \
                u16 fl = in->flags;                                                                \
                ALU_ASM(prefix, insn, "+r", d, s);                                                 \
                in->flags = fl;                                                                    \
                PUT(T, u->r1, d);                                                                  \
        })                                                                                         \
        UPDATE(op##_##T##_mr, T, REG(T, u->r2), prefix, insn)                                      \
        UPDATE(op##_##T##_mi, T, (T)u->imm, prefix, insn)

#define ALU_UPDATE(name, T, source, prefix, insn)                                                  \
        UPDATE_HANDLER(name, T, true, false, {                                                     \
                T s = source;                                                                      \
                u16 fl = in->flags;                                                                \
                ALU_ASM(prefix, insn, "+m", *p, s);                                                \
                in->flags = fl;                                                                    \
        })
/* CMP and TEST only read their destination. */
#define ALU_COMPARE(name, T, source, prefix, insn)                                                 \
        READ_HANDLER(name, T, {                                                                    \
                T d = *p, s = source;                                                              \
                u16 fl = in->flags;                                                                \
                ALU_ASM(prefix, insn, "+r", d, s);                                                 \
                in->flags = fl;                                                                    \
        })
#define DISCARD(T, offset, v) ((void)(v))

#define ALU_SIZES(op, insn, prefix, PUT, UPDATE)                                                   \
        ALU_FORMS(op, insn, prefix, u8, PUT, UPDATE)                                          \
        ALU_FORMS(op, insn, prefix, u16, PUT, UPDATE)                                         \
        ALU_FORMS(op, insn, prefix, u32, PUT, UPDATE)                                         \
        ALU_FORMS(op, insn, prefix, u64, PUT, UPDATE)

ALU_SIZES(add, "add", "", REG_PUT, ALU_UPDATE)
ALU_SIZES(or, "or", "", REG_PUT, ALU_UPDATE)
ALU_SIZES(adc, "adc", CARRY_IN, REG_PUT, ALU_UPDATE)
ALU_SIZES(sbb, "sbb", CARRY_IN, REG_PUT, ALU_UPDATE)
ALU_SIZES(and, "and", "", REG_PUT, ALU_UPDATE)
ALU_SIZES(sub, "sub", "", REG_PUT, ALU_UPDATE)
ALU_SIZES(xor, "xor", "", REG_PUT, ALU_UPDATE)
ALU_SIZES(cmp, "cmp", "", DISCARD, ALU_COMPARE)
ALU_SIZES(test, "test", "", DISCARD, ALU_COMPARE)

#define ALU_ROW(op, T)                                                                             \
        {                                                                                          \
                op##_##T##_rr, op##_##T##_ri, op##_##T##_rm, op##_##T##_rm_slow, op##_##T##_mr,    \
                        op##_##T##_mr_slow, op##_##T##_mi, op##_##T##_mi_slow                      \
        }
#define ALU_ROWS(op) { ALU_ROW(op, u8), ALU_ROW(op, u16), ALU_ROW(op, u32), ALU_ROW(op, u64) }
uop_fn *const alu_table[ALU_OPS][4][FORMS] = {
        ALU_ROWS(add), ALU_ROWS(or), ALU_ROWS(adc), ALU_ROWS(sbb), ALU_ROWS(and),
        ALU_ROWS(sub), ALU_ROWS(xor), ALU_ROWS(cmp), ALU_ROWS(test),
};

#define LOCK_UPDATE(name, T, source, prefix, insn)                                                 \
        UPDATE_HANDLER(name, T, true, true, {                                                      \
                T s = source;                                                                      \
                u16 fl = in->flags;                                                                \
                ALU_ASM(prefix "lock\n\t", insn, "+m", *p, s);                                     \
                in->flags = fl;                                                                    \
        })
#define LOCK_SIZES(op, insn, prefix)                                                               \
        LOCK_UPDATE(lock_##op##_u8_mr, u8, REG(u8, u->r2), prefix, insn)                           \
        LOCK_UPDATE(lock_##op##_u8_mi, u8, (u8)u->imm, prefix, insn)                               \
        LOCK_UPDATE(lock_##op##_u16_mr, u16, REG(u16, u->r2), prefix, insn)                        \
        LOCK_UPDATE(lock_##op##_u16_mi, u16, (u16)u->imm, prefix, insn)                            \
        LOCK_UPDATE(lock_##op##_u32_mr, u32, REG(u32, u->r2), prefix, insn)                        \
        LOCK_UPDATE(lock_##op##_u32_mi, u32, (u32)u->imm, prefix, insn)                            \
        LOCK_UPDATE(lock_##op##_u64_mr, u64, REG(u64, u->r2), prefix, insn)                        \
        LOCK_UPDATE(lock_##op##_u64_mi, u64, u->imm, prefix, insn)

LOCK_SIZES(add, "add", "")
LOCK_SIZES(or, "or", "")
LOCK_SIZES(adc, "adc", CARRY_IN)
LOCK_SIZES(sbb, "sbb", CARRY_IN)
LOCK_SIZES(and, "and", "")
LOCK_SIZES(sub, "sub", "")
LOCK_SIZES(xor, "xor", "")

#define LOCK_ROW(op, T)                                                                            \
        {                                                                                          \
                [MR] = lock_##op##_##T##_mr, [MR_S] = lock_##op##_##T##_mr_slow,                   \
                [MI] = lock_##op##_##T##_mi, [MI_S] = lock_##op##_##T##_mi_slow                    \
        }
#define LOCK_ROWS(op) { LOCK_ROW(op, u8), LOCK_ROW(op, u16), LOCK_ROW(op, u32), LOCK_ROW(op, u64) }
uop_fn *const alu_lock_table[ALU_OPS][4][FORMS] = {
        LOCK_ROWS(add), LOCK_ROWS(or), LOCK_ROWS(adc), LOCK_ROWS(sbb), LOCK_ROWS(and), LOCK_ROWS(sub), LOCK_ROWS(xor),
};

/* ---- one operand ---- */

#define UNARY_ASM(lock, prefix, insn, constraint, d)                                               \
        __asm__ volatile(prefix lock insn FLAGS_OUT : [dst] constraint(d), "+&a"(fl) : : "cc", "memory")

#define UNARY(op, insn, prefix, T, sfx)                                                            \
        HANDLER(op##_##T##_r)                                                                      \
        {                                                                                          \
                T d = REG(T, u->r1);                                                               \
                u16 fl = in->flags;                                                                \
                UNARY_ASM("", prefix, insn " %[dst]", "+r", d);                                    \
                in->flags = fl;                                                                    \
                REG_PUT(T, u->r1, d);                                                              \
                NEXT(u);                                                                           \
        }                                                                                          \
        UPDATE_HANDLER(op##_##T##_m, T, true, false, {                                             \
                u16 fl = in->flags;                                                                \
                UNARY_ASM("", prefix, insn sfx " %[dst]", "+m", *p);                               \
                in->flags = fl;                                                                    \
        })                                                                                         \
        UPDATE_HANDLER(lock_##op##_##T##_m, T, true, true, {                                       \
                u16 fl = in->flags;                                                                \
                UNARY_ASM("lock\n\t", prefix, insn sfx " %[dst]", "+m", *p);                       \
                in->flags = fl;                                                                    \
        })
#define UNARY_SIZES(op, insn, prefix)                                                              \
        UNARY(op, insn, prefix, u8, "b")                                                           \
        UNARY(op, insn, prefix, u16, "w")                                                          \
        UNARY(op, insn, prefix, u32, "l")                                                          \
        UNARY(op, insn, prefix, u64, "q")

UNARY_SIZES(inc, "inc", CARRY_IN)
UNARY_SIZES(dec, "dec", CARRY_IN)
UNARY_SIZES(neg, "neg", "")
UNARY_SIZES(not, "not", FLAGS_IN)

#define UNARY_ROW(op, T) { op##_##T##_r, op##_##T##_m, op##_##T##_m_slow }
#define UNARY_ROWS(op) { UNARY_ROW(op, u8), UNARY_ROW(op, u16), UNARY_ROW(op, u32), UNARY_ROW(op, u64) }
uop_fn *const unary_table[UN_OPS][4][3] = { UNARY_ROWS(inc), UNARY_ROWS(dec), UNARY_ROWS(neg), UNARY_ROWS(not) };
#define UNARY_LOCK_ROW(op, T) { lock_##op##_##T##_m, lock_##op##_##T##_m_slow }
#define UNARY_LOCK_ROWS(op)                                                                        \
        { UNARY_LOCK_ROW(op, u8), UNARY_LOCK_ROW(op, u16), UNARY_LOCK_ROW(op, u32), UNARY_LOCK_ROW(op, u64) }
uop_fn *const unary_lock_table[UN_OPS][4][2] = {
        UNARY_LOCK_ROWS(inc), UNARY_LOCK_ROWS(dec), UNARY_LOCK_ROWS(neg), UNARY_LOCK_ROWS(not),
};

/* ---- shifts and rotates: a count of 0 changes nothing, so all flags go in ---- */

#define SHIFT_ASM(insn, sfx, constraint, d)                                                        \
        __asm__ volatile(FLAGS_IN insn sfx " %%cl, %[dst]" FLAGS_OUT                               \
                         : [dst] constraint(d), "+&a"(fl)                                          \
                         : "c"(count)                                                              \
                         : "cc", "memory")
/* aux: the count is in CL, else in imm. */
#define SHIFT_COUNT() (u->aux ? REG(u8, RCX * 8) : (u8)u->imm)
/* After a rotation by more than one OF is undefined. Processors leave it as it was when a register is rotated by an immediate and change it when
 * the count is in CL, which is what runs here. @rotates: ROL and ROR. */
#define SHIFT_FLAGS(rotates, T)                                                                    \
        ((rotates) && !u->aux && (count & (sizeof(T) == 8 ? 63 : 31)) != 1 ? (u16)((fl & 0xff00) | (in->flags & 0xff)) : fl)
#define SHIFT(op, insn, rotates, T, sfx)                                                           \
        HANDLER(op##_##T##_r)                                                                      \
        {                                                                                          \
                T d = REG(T, u->r1);                                                               \
                const u8 count = SHIFT_COUNT();                                                    \
                u16 fl = in->flags;                                                                \
                SHIFT_ASM(insn, "", "+r", d);                                                      \
                in->flags = SHIFT_FLAGS(rotates, T);                                               \
                REG_PUT(T, u->r1, d);                                                              \
                NEXT(u);                                                                           \
        }                                                                                          \
        UPDATE_HANDLER(op##_##T##_m, T, true, false, {                                             \
                const u8 count = SHIFT_COUNT();                                                    \
                u16 fl = in->flags;                                                                \
                SHIFT_ASM(insn, sfx, "+m", *p);                                                    \
                in->flags = fl;                                                                    \
        })
#define SHIFT_SIZES(op, insn, rotates)                                                             \
        SHIFT(op, insn, rotates, u8, "b")                                                          \
        SHIFT(op, insn, rotates, u16, "w")                                                         \
        SHIFT(op, insn, rotates, u32, "l")                                                         \
        SHIFT(op, insn, rotates, u64, "q")

SHIFT_SIZES(rol, "rol", true)
SHIFT_SIZES(ror, "ror", true)
SHIFT_SIZES(rcl, "rcl", false)
SHIFT_SIZES(rcr, "rcr", false)
SHIFT_SIZES(shl, "shl", false)
SHIFT_SIZES(shr, "shr", false)
SHIFT_SIZES(sar, "sar", false)

uop_fn *const shift_table[SH_OPS][4][3] = {
        UNARY_ROWS(rol), UNARY_ROWS(ror), UNARY_ROWS(rcl), UNARY_ROWS(rcr), UNARY_ROWS(shl), UNARY_ROWS(shr), UNARY_ROWS(sar),
};

/* Moves: mov, extensions, lea, cmov, setcc, xchg, push. */
#include "ops.h"

#define MOV(T)                                                                                     \
        HANDLER(mov_##T##_rr)                                                                      \
        {                                                                                          \
                REG_PUT(T, u->r1, REG(T, u->r2));                                                  \
                NEXT(u);                                                                           \
        }                                                                                          \
        HANDLER(mov_##T##_ri)                                                                      \
        {                                                                                          \
                REG_PUT(T, u->r1, u->imm);                                                         \
                NEXT(u);                                                                           \
        }                                                                                          \
        READ_HANDLER(mov_##T##_rm, T, REG_PUT(T, u->r1, *p))                                       \
        UPDATE_HANDLER(mov_##T##_mr, T, false, false, *p = REG(T, u->r2))                          \
        UPDATE_HANDLER(mov_##T##_mi, T, false, false, *p = (T)u->imm)
MOV(u8)
MOV(u16)
MOV(u32)
MOV(u64)

#define MOV_ROW(T)                                                                                 \
        {                                                                                          \
                mov_##T##_rr, mov_##T##_ri, mov_##T##_rm, mov_##T##_rm_slow, mov_##T##_mr,         \
                        mov_##T##_mr_slow, mov_##T##_mi, mov_##T##_mi_slow                         \
        }
uop_fn *const mov_table[4][FORMS] = { MOV_ROW(u8), MOV_ROW(u16), MOV_ROW(u32), MOV_ROW(u64) };

/* movzx and movsx: S is the source's type with its sign, T the destination's. */
#define EXTEND(name, S, UNSIGNED, T)                                                               \
        HANDLER(name##_##T##_r)                                                                    \
        {                                                                                          \
                REG_PUT(T, u->r1, (S)REG(UNSIGNED, u->r2));                                        \
                NEXT(u);                                                                           \
        }                                                                                          \
        READ_HANDLER(name##_##T##_m, UNSIGNED, REG_PUT(T, u->r1, (S)*p))
#define EXTEND_SIZES(name, S, UNSIGNED)                                                            \
        EXTEND(name, S, UNSIGNED, u16) EXTEND(name, S, UNSIGNED, u32) EXTEND(name, S, UNSIGNED, u64)
EXTEND_SIZES(movzx8, u8, u8)
EXTEND_SIZES(movzx16, u16, u16)
EXTEND_SIZES(movsx8, s8, u8)
EXTEND_SIZES(movsx16, s16, u16)

#define EXTEND_ROW(name, T) { name##_##T##_r, name##_##T##_m, name##_##T##_m_slow }
#define EXTEND_ROWS(name) { { NULL }, EXTEND_ROW(name, u16), EXTEND_ROW(name, u32), EXTEND_ROW(name, u64) }
uop_fn *const extend_table[2][2][4][3] = {
        { EXTEND_ROWS(movzx8), EXTEND_ROWS(movzx16) },
        { EXTEND_ROWS(movsx8), EXTEND_ROWS(movsx16) },
};

EXTEND(movsxd, s32, u32, u64)
uop_fn *const movsxd_table[3] = EXTEND_ROW(movsxd, u64);

/* ---- lea ---- */

HANDLER(lea_any)
{
        reg_write(in, u->r1, ea_offset(in, u), u->size);
        NEXT(u);
}
HANDLER(lea_u32)
{
        reg_put_u32(u->r1, in->regs[u->base] + (in->regs[u->index] << u->scale) + (u64)u->disp);
        NEXT(u);
}
HANDLER(lea_u64)
{
        reg_put_u64(u->r1, in->regs[u->base] + (in->regs[u->index] << u->scale) + (u64)u->disp);
        NEXT(u);
}
uop_fn *const lea_table[4] = { lea_any, lea_any, lea_u32, lea_u64 };

/* ---- on conditions ---- */

/* The 32-bit form clears the upper half of its destination even when the condition is false. */
#define CMOV(cc, name, T)                                                                          \
        HANDLER(cmov##name##_##T##_r)                                                              \
        {                                                                                          \
                const T old = REG(T, u->r1), source = REG(T, u->r2);                               \
                REG_PUT(T, u->r1, CONDITION(cc) ? source : old);                                   \
                NEXT(u);                                                                           \
        }                                                                                          \
        READ_HANDLER(cmov##name##_##T##_m, T, {                                                    \
                const T old = REG(T, u->r1), source = *p;                                          \
                REG_PUT(T, u->r1, CONDITION(cc) ? source : old);                                   \
        })
#define ON_CONDITION(n, name, cc)                                                                  \
        CMOV(cc, name, u16)                                                                        \
        CMOV(cc, name, u32)                                                                        \
        CMOV(cc, name, u64)                                                                        \
        HANDLER(set##name##_u8_r)                                                                  \
        {                                                                                          \
                reg_put_u8(u->r1, CONDITION(cc));                                                  \
                NEXT(u);                                                                           \
        }                                                                                          \
        UPDATE_HANDLER(set##name##_u8_m, u8, false, false, *p = CONDITION(cc))
FOR_EACH_CONDITION(ON_CONDITION)

#define CMOV_ROW(n, name, cc)                                                                      \
        { { NULL }, EXTEND_ROW(cmov##name, u16), EXTEND_ROW(cmov##name, u32), EXTEND_ROW(cmov##name, u64) },
#define SET_ROW(n, name, cc) EXTEND_ROW(set##name, u8),
uop_fn *const cmov_table[16][4][3] = { FOR_EACH_CONDITION(CMOV_ROW) };
uop_fn *const setcc_table[16][3] = { FOR_EACH_CONDITION(SET_ROW) };

/* ---- xchg: always atomic with memory ---- */

#define XCHG(T)                                                                                    \
        HANDLER(xchg_##T##_r)                                                                      \
        {                                                                                          \
                const T a = REG(T, u->r1), b = REG(T, u->r2);                                      \
                REG_PUT(T, u->r1, b);                                                              \
                REG_PUT(T, u->r2, a);                                                              \
                NEXT(u);                                                                           \
        }                                                                                          \
        UPDATE_HANDLER(xchg_##T##_m, T, true, true, {                                              \
                const T old = __atomic_exchange_n(p, REG(T, u->r2), __ATOMIC_SEQ_CST);             \
                REG_PUT(T, u->r2, old);                                                            \
        })
XCHG(u8)
XCHG(u16)
XCHG(u32)
XCHG(u64)
uop_fn *const xchg_table[4][3] = {
        EXTEND_ROW(xchg, u8), EXTEND_ROW(xchg, u16), EXTEND_ROW(xchg, u32), EXTEND_ROW(xchg, u64),
};

/* Building blocks of the handlers in ops_*.c.
 *
 * A handler with a memory operand is written once, as code that works on a pointer `p` of the operand's type, and exists twice: the fast
 * version gets `p` from a soft-TLB hit under 64-bit flat addressing, the slow one (any mode, any fault, MMIO, page crossings) from
 * mem_rmw_begin or a copy. The fast version contains no call but the tail call to the slow one, so the compiler needs no stack frame. */
#pragma once

#include "internal.h"

/* uop.r2 of a bit test whose bit is the immediate. */
#define NO_REG 0xff

#define REG(T, offset) (*(T *)((u8 *)in->regs + (offset)))

/* A write of a 32-bit register clears the upper half. */
#define reg_put_u8(offset, v) (REG(u8, offset) = (u8)(v))
#define reg_put_u16(offset, v) (REG(u16, offset) = (u16)(v))
#define reg_put_u32(offset, v) (REG(u64, offset) = (u32)(v))
#define reg_put_u64(offset, v) (REG(u64, offset) = (u64)(v))
#define REG_PUT(T, offset, v) reg_put_##T(offset, v)

static inline __attribute__((always_inline)) u64 ea_flat(const struct interp *in, const struct uop *u)
{
        return in->regs[u->base] + (in->regs[u->index] << u->scale) + (u64)u->disp + in->seg_base[u->seg];
}

/* The host address of a @size-byte access at @gva if the soft TLB answers and it stays inside the page, else NULL. */
static inline __attribute__((always_inline)) void *fast_ptr_at(struct interp *in, u64 gva, enum mmu_access access,
                                                               unsigned size)
{
        return tlb_entry_hit(in->tlb_entries, access, gva, size);
}

static inline __attribute__((always_inline)) void *fast_ptr(struct interp *in, const struct uop *u,
                                                            enum mmu_access access, unsigned size)
{
        return fast_ptr_at(in, ea_flat(in, u), access, size);
}

/* A read-modify-write or write whose translation is done once; fault-free after mem_rmw_begin. */
struct mem_rmw {
        u64 gpa[2];      /* first page's part, second page's part */
        unsigned size, first; /* bytes in all, bytes in the first page */
        u8 buffer[16] __attribute__((aligned(16))); /* CMPXCHG16B works there too */
        bool direct;     /* the pointer given out is guest RAM itself */
        bool bus_locked;
};

/* Prepares a write of @size (1..16) bytes at @linear; with @load the old value is there to read. @lock: for a LOCKed instruction. Returns where
 * to work: guest RAM itself, or the buffer that mem_rmw_end writes back. Raises every fault the access can raise. */
void *mem_rmw_begin(struct interp *in, const struct uop *u, u64 linear, unsigned size, bool load, bool lock,
                    struct mem_rmw *rmw);
void mem_rmw_end(struct interp *in, struct mem_rmw *rmw);

/* Leaves the block after @u: its code was overwritten. */
const struct uop *interp_leave_block(struct interp *in, const struct uop *u);

#define SLOW_NEXT(u)                                                                               \
        do {                                                                                       \
                if (unlikely(in->block_stale))                                                     \
                        return interp_leave_block(in, u);                                          \
                NEXT(u);                                                                           \
        } while (0)

#define HANDLER(name) static const struct uop *name(struct interp *in, const struct uop *u)

/* A handler goes on to the next uop by a tail call, which compilers make only when no local variable's address has escaped; else the stack would grow with
 * every instruction. So work that needs such a local is a function of its own. BODY_HANDLER(name) { ... } defines the handler and opens that function. */
#define BODY_HANDLER(name)                                                                         \
        static _noinline_ void name##_body(struct interp *in, const struct uop *u);                \
        HANDLER(name)                                                                              \
        {                                                                                          \
                name##_body(in, u);                                                                \
                SLOW_NEXT(u);                                                                      \
        }                                                                                          \
        static _noinline_ void name##_body(struct interp *in, const struct uop *u)

/* Two handlers, NAME and NAME_slow, that read a T at the memory operand. CODE uses `p`. */
#define READ_HANDLER(name, T, ...)                                                                 \
        BODY_HANDLER(name##_slow)                                                                  \
        {                                                                                          \
                const T loaded = (T)mem_read(in, u, ea_linear(in, u, sizeof(T), MMU_READ), sizeof(T)); \
                const T *p = &loaded;                                                              \
                __VA_ARGS__;                                                                       \
        }                                                                                          \
        HANDLER(name)                                                                              \
        {                                                                                          \
                const T *p = fast_ptr(in, u, MMU_READ, sizeof(T));                                 \
                if (unlikely(!p))                                                                  \
                        return name##_slow(in, u);                                                 \
                __VA_ARGS__;                                                                       \
                NEXT(u);                                                                           \
        }

/* The same for a read-modify-write (LOAD true) or plain write (LOAD false) of the memory operand. */
#define UPDATE_HANDLER(name, T, LOAD, LOCK, ...)                                                   \
        BODY_HANDLER(name##_slow)                                                                  \
        {                                                                                          \
                struct mem_rmw rmw;                                                                \
                T *p = mem_rmw_begin(in, u, ea_linear(in, u, sizeof(T), MMU_WRITE), sizeof(T),     \
                                     LOAD, LOCK, &rmw);                                            \
                __VA_ARGS__;                                                                       \
                mem_rmw_end(in, &rmw);                                                             \
        }                                                                                          \
        HANDLER(name)                                                                              \
        {                                                                                          \
                T *p = fast_ptr(in, u, MMU_WRITE, sizeof(T));                                      \
                if (unlikely(!p))                                                                  \
                        return name##_slow(in, u);                                                 \
                __VA_ARGS__;                                                                       \
                NEXT(u);                                                                           \
        }

/* ---- flags ----
 * FLAGS_OUT after an instruction leaves its flags in %ax in the LAHF/SETO form; FLAGS_IN before one restores all of them from there (adding
 * 127 to OF's byte overflows exactly when it is 1); CARRY_IN all but OF, enough for who reads or keeps only the carry. */
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"
#define FLAGS_IN "addb $0x7f, %%al\n\tsahf\n\t"
#define CARRY_IN "sahf\n\t"

/* Condition @cc ("e", "ne", "l", ...) of the current flags. */
#define CONDITION(cc)                                                                              \
        ({                                                                                         \
                u16 _ax = in->flags;                                                               \
                bool _taken;                                                                       \
                __asm__("addb $0x7f, %%al\n\tsahf" : "+a"(_ax), "=@cc" cc(_taken));                \
                _taken;                                                                            \
        })

/* All sixteen, in opcode order. */
#define FOR_EACH_CONDITION(X)                                                                      \
        X(0, o, "o") X(1, no, "no") X(2, b, "b") X(3, nb, "ae") X(4, z, "e") X(5, nz, "ne")        \
        X(6, be, "be") X(7, nbe, "a") X(8, s, "s") X(9, ns, "ns") X(10, p, "p") X(11, np, "np")    \
        X(12, l, "l") X(13, nl, "ge") X(14, le, "le") X(15, nle, "g")

/* ---- block ends ---- */

static inline unsigned jump_slot(u64 rip)
{
        const u64 page = rip >> PAGE_SHIFT;

        return (unsigned)(((page & ((1u << JUMP_CACHE_PAGE_BITS) - 1)) << JUMP_CACHE_OFFSET_BITS) |
                          ((rip ^ (rip >> 5)) & ((1u << JUMP_CACHE_OFFSET_BITS) - 1)));
}

#if INTERP_THREADED
#define ENTER_BLOCK(b) return (b)->uops[0].fn(in, (b)->uops)
#else
#define ENTER_BLOCK(b) return (b)->uops
#endif

/* Ends the block: goes on at @target_rip without leaving the handlers when the jump cache knows it and nobody waits for this vCPU. */
#define JUMP(target_rip)                                                                           \
        do {                                                                                       \
                const u64 _rip = (target_rip);                                                     \
                const struct jump_entry *_e = &in->jump_cache[jump_slot(_rip)];                    \
                in->rip = _rip;                                                                    \
                if (unlikely(_e->rip != _rip || _e->key != in->key ||                              \
                             __atomic_load_n(&in->vcpu->work, __ATOMIC_RELAXED)))                  \
                        return NULL;                                                               \
                in->block = _e->block;                                                             \
                in->instructions += _e->block->n_uops;                                             \
                ENTER_BLOCK(_e->block);                                                            \
        } while (0)

/* ---- what decode.c takes from each file: tables indexed by form and log2 of the operand size ---- */

enum alu_op { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALU_OPS };
/* Operands: register with register, register with immediate, register with memory, memory with register, memory with immediate. _S: slow. */
enum form { RR, RI, RM, RM_S, MR, MR_S, MI, MI_S, FORMS };
enum unary_op { UN_INC, UN_DEC, UN_NEG, UN_NOT, UN_OPS };
enum shift_op { SH_ROL, SH_ROR, SH_RCL, SH_RCR, SH_SHL, SH_SHR, SH_SAR, SH_OPS };

extern uop_fn *const alu_table[ALU_OPS][4][FORMS];
extern uop_fn *const alu_lock_table[ALU_OPS][4][FORMS]; /* MR and MI only */
extern uop_fn *const unary_table[UN_OPS][4][3];      /* register, memory, memory slow */
extern uop_fn *const unary_lock_table[UN_OPS][4][2]; /* memory, memory slow */
extern uop_fn *const shift_table[SH_OPS][4][3];      /* count in imm or, with aux set, CL */

/* mov */
extern uop_fn *const mov_table[4][FORMS];
extern uop_fn *const extend_table[2][2][4][3]; /* [signed][source 8/16][destination size][register, memory, slow]; movsxd apart */
extern uop_fn *const movsxd_table[3];
extern uop_fn *const lea_table[4];             /* by operand size; [0] is the any-mode version, aux unused */
extern uop_fn *const cmov_table[16][4][3];     /* [cc][size][register, memory, slow] */
extern uop_fn *const setcc_table[16][3];
extern uop_fn *const jcc_table[16];
extern uop_fn *const imul_table[4][2][3];      /* [size][with an immediate][register, memory, slow] */
extern uop_fn *const xchg_table[4][3];


/* One instruction that is neither in a table above nor a system instruction: looked up by mnemonic. */
struct plain_op {
        uop_fn *fn;
        u8 flags;
};
enum { PLAIN_NO_LONG64 = 1 };
const struct plain_op *plain_op_find(unsigned mnemonic);

/* Handlers that decode.c names one by one. `_any`: for every mode and operand; the others are for 64-bit flat code. */
uop_fn op_jmp, op_jmp_r, op_jmp_any, op_branch_any, op_loop, op_call, op_call_r, op_call_any, op_ret, op_ret_any, op_block_end;
uop_fn op_push_r, op_push_i, op_push_any, op_pop_r, op_pop_any, op_leave, op_leave_any, op_enter, op_pusha, op_popa;
/* The handler of a string instruction, NULL when it is none. */
uop_fn *string_op_find(unsigned mnemonic);
/* #UD and #GP(0). */
uop_fn op_undefined, op_protection;

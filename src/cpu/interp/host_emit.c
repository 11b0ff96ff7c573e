/* Machine code of a thunk: int thunk(struct interp *in [rdi], void *operand [rsi], u8 *xsave [rdx]).
 *
 *      push rbx, rbp, r12..r15                 what the instruction may use of the callee's
 *      mov state, rdi; mov vectors, rdx; mov memory, rsi   (through the stack: they may overlap)
 *      flags in; load registers; INSTRUCTION; store registers; flags out
 *      xor eax, eax
 * out: pop ...; ret
 * fault_exit (rax = signal number): jumps to out */
#include <string.h>

#include "host.h"

struct emitter {
        u8 *p;
};

static void emit(struct emitter *e, const void *bytes, size_t n)
{
        memcpy(e->p, bytes, n);
        e->p += n;
}

static void emit1(struct emitter *e, unsigned byte)
{
        *e->p++ = (u8)byte;
}

static void emit4(struct emitter *e, u32 v)
{
        emit(e, &v, 4);
}

static void emit_push(struct emitter *e, unsigned reg)
{
        if (reg >= 8)
                emit1(e, 0x41);
        emit1(e, 0x50 + (reg & 7));
}

static void emit_pop(struct emitter *e, unsigned reg)
{
        if (reg >= 8)
                emit1(e, 0x41);
        emit1(e, 0x58 + (reg & 7));
}

/* ModRM (and SIB) for [base + disp32] with register field @reg. */
static void emit_modrm_disp32(struct emitter *e, unsigned reg, unsigned base, u32 disp)
{
        emit1(e, 0x80 | (reg & 7) << 3 | (base & 7));
        if ((base & 7) == RSP)
                emit1(e, 0x24);
        emit4(e, disp);
}

/* mov reg, [base + disp] or back. */
static void emit_gpr(struct emitter *e, bool store, unsigned reg, unsigned base, u32 disp)
{
        emit1(e, 0x48 | (reg >= 8) << 2 | (base >= 8));
        emit1(e, store ? 0x89 : 0x8b);
        emit_modrm_disp32(e, reg, base, disp);
}

/* mov ax, [base + disp] or back. */
static void emit_ax(struct emitter *e, bool store, unsigned base, u32 disp)
{
        emit1(e, 0x66);
        if (base >= 8)
                emit1(e, 0x41);
        emit1(e, store ? 0x89 : 0x8b);
        emit_modrm_disp32(e, RAX, base, disp);
}

/* movups xmm, [base + disp] or back. */
static void emit_xmm(struct emitter *e, bool store, unsigned xmm, unsigned base, u32 disp)
{
        if (xmm >= 8 || base >= 8)
                emit1(e, 0x40 | (xmm >= 8) << 2 | (base >= 8));
        emit1(e, 0x0f);
        emit1(e, store ? 0x11 : 0x10);
        emit_modrm_disp32(e, xmm, base, disp);
}

/* The upper half of a YMM register: vinsertf128 ymm, ymm, [base + disp], 1 or vextractf128 [base + disp], ymm, 1. */
static void emit_ymm_high(struct emitter *e, bool store, unsigned ymm, unsigned base, u32 disp)
{
        emit1(e, 0xc4);
        emit1(e, (ymm < 8) << 7 | 1 << 6 | (base < 8) << 5 | 3); /* RXB, map 0F3A */
        emit1(e, (store ? 15u : (~ymm & 15u)) << 3 | 1 << 2 | 1); /* W0, vvvv, L1, 66 */
        emit1(e, store ? 0x19 : 0x18);
        emit_modrm_disp32(e, ymm, base, disp);
        emit1(e, 1);
}

/* Legacy area: XMM registers at 160. */
#define XMM_OFFSET 160

static void emit_vectors(struct emitter *e, const struct host_insn *h, bool store)
{
        const u16 mask = store ? h->vec_written : h->vec_read;

        for (unsigned i = 0; i < 16; i++) {
                if (!(mask & BIT(i)))
                        continue;
                emit_xmm(e, store, i, h->vectors, XMM_OFFSET + i * 16);
                if (h->ymm)
                        emit_ymm_high(e, store, i, h->vectors, XSAVE_YMM_OFFSET + i * 16);
        }
}

static void emit_gprs(struct emitter *e, const struct host_insn *h, bool store)
{
        const u16 mask = store ? h->gpr_written : h->gpr_read;

        for (unsigned i = 0; i < 16; i++)
                if (mask & BIT(i))
                        emit_gpr(e, store, i, h->state, (u32)(offsetof(struct interp, regs) + (i == h->rsp_host ? RSP : i) * 8u));
}

static const u8 saved[] = { RBX, RBP, R12, R13, R14, R15 };

size_t host_emit(const struct host_insn *h, u8 *code, size_t *ret_fault_exit)
{
        static const u8 add_al_sahf[] = { 0x04, 0x7f, 0x9e }, lahf_seto[] = { 0x9f, 0x0f, 0x90, 0xc0 };
        static const u8 vzeroupper[] = { 0xc5, 0xf8, 0x77 }, xor_eax[] = { 0x31, 0xc0 };
        struct emitter e = { code };

        for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
                emit_push(&e, saved[i]);
        emit_push(&e, RDI);
        emit_push(&e, RDX);
        emit_push(&e, RSI);
        if (h->memory != NO_HOST_REG)
                emit_pop(&e, h->memory);
        else
                emit_pop(&e, RSI);
        emit_pop(&e, h->vectors);
        emit_pop(&e, h->state);

        if (h->flags_read) {
                /* RAX may be the memory register. */
                if (h->memory == RAX)
                        emit_push(&e, RAX);
                emit_ax(&e, false, h->state, offsetof(struct interp, flags));
                emit(&e, add_al_sahf, sizeof(add_al_sahf));
                if (h->memory == RAX)
                        emit_pop(&e, RAX);
        }
        emit_gprs(&e, h, false);
        emit_vectors(&e, h, false);
        emit(&e, h->bytes, h->n_bytes);
        emit_gprs(&e, h, true);
        emit_vectors(&e, h, true);
        if (h->flags_written) {
                emit(&e, lahf_seto, sizeof(lahf_seto));
                emit_ax(&e, true, h->state, offsetof(struct interp, flags));
        }
        emit(&e, xor_eax, sizeof(xor_eax));
        *ret_fault_exit = (size_t)(e.p - code);
        if (h->ymm)
                emit(&e, vzeroupper, sizeof(vzeroupper));
        for (unsigned i = ARRAY_SIZE(saved); i-- > 0;)
                emit_pop(&e, saved[i]);
        emit1(&e, 0xc3);
        return (size_t)(e.p - code);
}

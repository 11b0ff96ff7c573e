/* FXSAVE, XSAVE and kin. The guest's x87 registers and MXCSR are the host's while the interpreter runs, the vector registers lie in
 * cpu_state.xsave. Source: SDM 1, 10.5 and 13.4-13.10. */
#include <string.h>

#include "host.h"
#include "machine.h"
#include "xsave_image.h"

#define MXCSR_MASK 0xffffu

static u32 get32(const u8 *p)
{
        u32 v;

        memcpy(&v, p, 4);
        return v;
}

void host_fpu_enter(struct interp *in)
{
        __asm__ volatile("fxsave64 %0" : "=m"(in->host_fpu));
        x87_put(in, in->cpu->xsave, get32(in->cpu->xsave + X87_MXCSR));
}

void host_fpu_leave(struct interp *in)
{
        u8 image[512] __attribute__((aligned(16)));

        x87_get(in, image);
        memcpy(in->cpu->xsave, image, LEGACY_XMM);
        xsave_host_load(in->host_fpu);
}

/* ---- FXSAVE, FXRSTOR: size is 8 with REX.W ---- */

static u64 aligned_operand(struct interp *in, const struct uop *u, unsigned size, unsigned align, enum mmu_access access)
{
        const u64 linear = ea_linear(in, u, size, access);

        if (linear & (align - 1))
                interp_raise(in, u, EXC_GP, 0);
        return linear;
}

static bool wide(const struct uop *u)
{
        return u->mnemonic == ZYDIS_MNEMONIC_FXSAVE64 || u->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64 ||
               u->mnemonic == ZYDIS_MNEMONIC_XSAVE64 || u->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT64 ||
               u->mnemonic == ZYDIS_MNEMONIC_XSAVEC64 || u->mnemonic == ZYDIS_MNEMONIC_XRSTOR64;
}

static unsigned visible_xmm(const struct interp *in)
{
        return in->mode & MODE_LONG64 ? 16 : 8;
}

BODY_HANDLER(op_fxsave)
{
        const u64 linear = aligned_operand(in, u, 512, 16, MMU_WRITE);
        u8 image[512] __attribute__((aligned(16)));
        u8 memory[512];

        x87_get(in, image);
        if (!wide(u))
                x87_narrow_pointers(image);
        mem_probe_write(in, u, linear, 512);
        mem_read_bytes(in, u, linear, memory, 512);
        memcpy(memory, image, LEGACY_XMM);
        memcpy(memory + LEGACY_XMM, in->cpu->xsave + LEGACY_XMM, visible_xmm(in) * 16);
        mem_write_bytes(in, u, linear, memory, LEGACY_END);
}

BODY_HANDLER(op_fxrstor)
{
        const u64 linear = aligned_operand(in, u, 512, 16, MMU_READ);
        u8 memory[512];

        mem_read_bytes(in, u, linear, memory, 512);
        if (get32(memory + X87_MXCSR) & ~MXCSR_MASK)
                interp_raise(in, u, EXC_GP, 0);
        if (!wide(u))
                x87_narrow_pointers(memory);
        x87_put(in, memory, get32(memory + X87_MXCSR));
        memcpy(in->cpu->xsave + LEGACY_XMM, memory + LEGACY_XMM, visible_xmm(in) * 16);
}

/* ---- XSAVE family ---- */

static void check_xsave(struct interp *in, const struct uop *u)
{
        if (!(in->cpu->paging.cr4 & CR4_OSXSAVE))
                interp_raise(in, u, EXC_UD, NO_ERROR_CODE);
        if (in->cpu->paging.cr0 & CR0_TS)
                interp_raise(in, u, EXC_NM, NO_ERROR_CODE);
}

static enum xsave_variant variant_of(const struct uop *u)
{
        switch (u->mnemonic) {
        case ZYDIS_MNEMONIC_XSAVEC:
        case ZYDIS_MNEMONIC_XSAVEC64:
                return XSAVE_COMPACT;
        case ZYDIS_MNEMONIC_XSAVEOPT:
        case ZYDIS_MNEMONIC_XSAVEOPT64:
                return XSAVE_OPTIMIZED;
        default:
                return XSAVE_PLAIN;
        }
}

BODY_HANDLER(op_xsave)
{
        u8 memory[XSAVE_SIZE];
        unsigned size;
        u64 linear, rfbm;

        check_xsave(in, u);
        rfbm = xsave_requested(in);
        size = xsave_size(rfbm);
        linear = aligned_operand(in, u, size, 64, MMU_WRITE);
        mem_probe_write(in, u, linear, size);
        mem_read_bytes(in, u, linear, memory, size);
        xsave_store(in, memory, rfbm, variant_of(u), wide(u));
        mem_write_bytes(in, u, linear, memory, size);
}

BODY_HANDLER(op_xrstor)
{
        u8 memory[XSAVE_SIZE];
        u64 linear, rfbm;

        check_xsave(in, u);
        rfbm = xsave_requested(in);
        linear = aligned_operand(in, u, XSAVE_YMM_OFFSET, 64, MMU_READ);
        mem_read_bytes(in, u, linear, memory, XSAVE_YMM_OFFSET);
        if (!xsave_loadable(in, memory, rfbm))
                interp_raise(in, u, EXC_GP, 0);
        if (xsave_loads_avx(memory, rfbm))
                mem_read_bytes(in, u, linear + XSAVE_YMM_OFFSET, memory + XSAVE_YMM_OFFSET, XSAVE_SIZE - XSAVE_YMM_OFFSET);
        xsave_load(in, memory, rfbm, wide(u));
}

uop_fn *xsave_op_find(unsigned mnemonic)
{
        switch (mnemonic) {
        case ZYDIS_MNEMONIC_FXSAVE:
        case ZYDIS_MNEMONIC_FXSAVE64:
                return op_fxsave;
        case ZYDIS_MNEMONIC_FXRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR64:
                return op_fxrstor;
        case ZYDIS_MNEMONIC_XSAVE:
        case ZYDIS_MNEMONIC_XSAVE64:
        case ZYDIS_MNEMONIC_XSAVEOPT:
        case ZYDIS_MNEMONIC_XSAVEOPT64:
        case ZYDIS_MNEMONIC_XSAVEC:
        case ZYDIS_MNEMONIC_XSAVEC64:
                return op_xsave;
        case ZYDIS_MNEMONIC_XRSTOR:
        case ZYDIS_MNEMONIC_XRSTOR64:
                return op_xrstor;
        default:
                return NULL;
        }
}

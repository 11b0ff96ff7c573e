/* FXSAVE, XSAVE and kin. The guest's x87 registers and MXCSR are the host's while the interpreter runs, the vector registers lie in
 * cpu_state.xsave. Source: SDM 1, 10.5 and 13.4-13.10. */
#include <string.h>

#include "host.h"
#include "machine.h"

#define X87_MXCSR 24
#define X87_ST 32
#define LEGACY_XMM 160
#define LEGACY_END 416
#define HEADER 512
#define MXCSR_MASK 0xffffu
#define MXCSR_RESET 0x1f80u
#define FCW_RESET 0x37f

/* ---- between host registers and an FXSAVE image ---- */

static void host_save(u8 image[512])
{
        __asm__ volatile("fxsave64 %0" : "=m"(*(u8(*)[512])image));
}

/* Loads x87 and MXCSR; the vector registers it also loads are the compiler's scratch. */
void xsave_host_load(const u8 image[512])
{
        __asm__ volatile("fxrstor64 %0"
                         :
                         : "m"(*(const u8(*)[512])image)
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                           "xmm12", "xmm13", "xmm14", "xmm15", "memory");
}

static u32 get32(const u8 *p)
{
        u32 v;

        memcpy(&v, p, 4);
        return v;
}

static u64 get64(const u8 *p)
{
        u64 v;

        memcpy(&v, p, 8);
        return v;
}

static void put32(u8 *p, u32 v)
{
        memcpy(p, &v, 4);
}

static void put64(u8 *p, u64 v)
{
        memcpy(p, &v, 8);
}

/* The guest's x87 part and MXCSR, in FXSAVE64 form with the guest's instruction and data pointers. */
static void x87_get(struct interp *in, u8 image[512])
{
        host_save(image);
        image[6] = image[7] = 0;
        put64(image + 8, in->fpu_ip);
        put64(image + 16, in->fpu_dp);
}

static void x87_put(struct interp *in, const u8 *x87, u32 mxcsr)
{
        u8 image[512] __attribute__((aligned(16))) = { 0 };

        memcpy(image, x87, LEGACY_XMM);
        in->fpu_ip = get64(x87 + 8);
        in->fpu_dp = get64(x87 + 16);
        memset(image + 6, 0, 18);
        put32(image + X87_MXCSR, mxcsr & MXCSR_MASK);
        xsave_host_load(image);
}

void host_fpu_enter(struct interp *in)
{
        host_save(in->host_fpu);
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

/* The pointers in the 32-bit layout: offset, then selector (deprecated: 0). */
static void narrow_pointers(u8 *image)
{
        put32(image + 12, 0);
        put32(image + 20, 0);
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
                narrow_pointers(image);
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
                narrow_pointers(memory);
        x87_put(in, memory, get32(memory + X87_MXCSR));
        memcpy(in->cpu->xsave + LEGACY_XMM, memory + LEGACY_XMM, visible_xmm(in) * 16);
}

/* ---- XSAVE family ---- */

static u64 requested(const struct interp *in)
{
        return in->cpu->xcr0 & ((u32)in->regs[RAX] | in->regs[RDX] << 32);
}

/* Components that are not in their initial state. */
static u64 in_use(const struct interp *in)
{
        static const u8 zeros[256];
        u64 used = XCR0_X87 | XCR0_SSE;

        if (memcmp(in->cpu->xsave + XSAVE_YMM_OFFSET, zeros, sizeof(zeros)) != 0)
                used |= XCR0_AVX;
        return used;
}

static void check_xsave(struct interp *in, const struct uop *u)
{
        if (!(in->cpu->paging.cr4 & CR4_OSXSAVE))
                interp_raise(in, u, EXC_UD, NO_ERROR_CODE);
        if (in->cpu->paging.cr0 & CR0_TS)
                interp_raise(in, u, EXC_NM, NO_ERROR_CODE);
}

static void store_components(struct interp *in, const struct uop *u, u8 *memory, u64 components, u64 mxcsr_for)
{
        u8 image[512] __attribute__((aligned(16)));

        x87_get(in, image);
        if (!wide(u))
                narrow_pointers(image);
        if (components & XCR0_X87) {
                memcpy(memory, image, X87_MXCSR);
                memcpy(memory + X87_ST, image + X87_ST, LEGACY_XMM - X87_ST);
        }
        if (mxcsr_for)
                memcpy(memory + X87_MXCSR, image + X87_MXCSR, 8);
        if (components & XCR0_SSE)
                memcpy(memory + LEGACY_XMM, in->cpu->xsave + LEGACY_XMM, visible_xmm(in) * 16);
        if (components & XCR0_AVX)
                memcpy(memory + XSAVE_YMM_OFFSET, in->cpu->xsave + XSAVE_YMM_OFFSET, visible_xmm(in) * 16);
}

BODY_HANDLER(op_xsave)
{
        const bool compact = u->mnemonic == ZYDIS_MNEMONIC_XSAVEC || u->mnemonic == ZYDIS_MNEMONIC_XSAVEC64;
        const bool skips_initial = compact || u->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT || u->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT64;
        u64 linear, rfbm, used, bv;
        unsigned size;
        u8 memory[XSAVE_SIZE];

        check_xsave(in, u);
        rfbm = requested(in);
        size = rfbm & XCR0_AVX ? XSAVE_SIZE : XSAVE_YMM_OFFSET;
        linear = aligned_operand(in, u, size, 64, MMU_WRITE);
        used = in_use(in);
        mem_probe_write(in, u, linear, size);
        mem_read_bytes(in, u, linear, memory, size);
        store_components(in, u, memory, skips_initial ? rfbm & used : rfbm,
                         compact ? rfbm & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX));
        if (compact) {
                bv = rfbm & used;
                put64(memory + HEADER + 8, rfbm | BIT(63));
        } else {
                bv = (get64(memory + HEADER) & ~rfbm) | (rfbm & used);
        }
        put64(memory + HEADER, bv);
        mem_write_bytes(in, u, linear, memory, size);
}

static void load_x87(struct interp *in, const struct uop *u, const u8 *memory, bool present, u32 mxcsr)
{
        u8 x87[LEGACY_XMM] = { 0 };

        if (present)
                memcpy(x87, memory, LEGACY_XMM);
        else
                x87[0] = FCW_RESET & 0xff, x87[1] = FCW_RESET >> 8;
        if (!wide(u))
                narrow_pointers(x87);
        x87_put(in, x87, mxcsr);
}

static void load_vectors(u8 *to, const u8 *from, bool present, unsigned n)
{
        if (present)
                memcpy(to, from, n * 16);
        else
                memset(to, 0, n * 16);
}

BODY_HANDLER(op_xrstor)
{
        u8 memory[XSAVE_SIZE], current[512] __attribute__((aligned(16)));
        u64 linear, rfbm, bv, comp;
        bool compact;
        u32 mxcsr;

        check_xsave(in, u);
        rfbm = requested(in);
        linear = aligned_operand(in, u, XSAVE_YMM_OFFSET, 64, MMU_READ);
        mem_read_bytes(in, u, linear, memory, XSAVE_YMM_OFFSET);
        bv = get64(memory + HEADER);
        comp = get64(memory + HEADER + 8);
        compact = comp & BIT(63);
        /* SDM 1, 13.8.1: what the header must satisfy. */
        if (compact ? comp & ~BIT(63) & ~in->cpu->xcr0 || bv & ~comp : bv & ~in->cpu->xcr0 || comp)
                interp_raise(in, u, EXC_GP, 0);
        for (unsigned i = 16; i < (compact ? 64u : 24u); i++)
                if (memory[HEADER + i])
                        interp_raise(in, u, EXC_GP, 0);
        if (rfbm & bv & XCR0_AVX)
                mem_read_bytes(in, u, linear + XSAVE_YMM_OFFSET, memory + XSAVE_YMM_OFFSET, XSAVE_SIZE - XSAVE_YMM_OFFSET);

        x87_get(in, current);
        mxcsr = get32(current + X87_MXCSR);
        if (compact ? rfbm & bv & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX)) {
                mxcsr = get32(memory + X87_MXCSR);
                if (mxcsr & ~MXCSR_MASK)
                        interp_raise(in, u, EXC_GP, 0);
        } else if (compact && rfbm & XCR0_SSE) {
                mxcsr = MXCSR_RESET;
        }
        if (rfbm & XCR0_X87)
                load_x87(in, u, memory, bv & XCR0_X87, mxcsr);
        else
                x87_put(in, current, mxcsr);
        if (rfbm & XCR0_SSE)
                load_vectors(in->cpu->xsave + LEGACY_XMM, memory + LEGACY_XMM, bv & XCR0_SSE, visible_xmm(in));
        if (rfbm & XCR0_AVX)
                load_vectors(in->cpu->xsave + XSAVE_YMM_OFFSET, memory + XSAVE_YMM_OFFSET, bv & XCR0_AVX, visible_xmm(in));
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

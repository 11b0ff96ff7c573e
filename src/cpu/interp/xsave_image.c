/* See xsave_image.h. */
#include "xsave_image.h"

#define X87_ST 32
#define MXCSR_MASK 0xffffu
#define MXCSR_RESET 0x1f80u
#define FCW_RESET 0x37f

static void copy(u8 *to, const u8 *from, size_t n)
{
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}
static void clear(u8 *to, size_t n)
{
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
}

static u32 get32(const u8 *p)
{
        u32 v;

        __builtin_memcpy(&v, p, 4);
        return v;
}
static u64 get64(const u8 *p)
{
        u64 v;

        __builtin_memcpy(&v, p, 8);
        return v;
}
static void put32(u8 *p, u32 v)
{
        __builtin_memcpy(p, &v, 4);
}
static void put64(u8 *p, u64 v)
{
        __builtin_memcpy(p, &v, 8);
}

/* ---- x87 ---- */

void xsave_host_load(const u8 image[512])
{
        __asm__ volatile("fxrstor64 %0" : : "m"(*(const u8(*)[512])image) : "memory");
}

void x87_get(struct interp *in, u8 image[512])
{
        __asm__ volatile("fxsave64 %0" : "=m"(*(u8(*)[512])image));
        image[6] = image[7] = 0;
        put64(image + 8, in->fpu_ip);
        put64(image + 16, in->fpu_dp);
}

void x87_put(struct interp *in, const u8 *x87, u32 mxcsr)
{
        u8 image[512] __attribute__((aligned(16)));

        copy(image, x87, LEGACY_XMM);
        clear(image + LEGACY_XMM, sizeof(image) - LEGACY_XMM);
        in->fpu_ip = get64(x87 + 8);
        in->fpu_dp = get64(x87 + 16);
        clear(image + 6, 18);
        put32(image + X87_MXCSR, mxcsr & MXCSR_MASK);
        xsave_host_load(image);
}

void x87_narrow_pointers(u8 *image)
{
        put32(image + 12, 0);
        put32(image + 20, 0);
}

static unsigned visible_vectors(const struct interp *in)
{
        return in->mode & MODE_LONG64 ? 16 : 8;
}

/* ---- XSAVE ---- */

u64 xsave_requested(const struct interp *in)
{
        return in->cpu->xcr0 & ((u32)in->regs[RAX] | in->regs[RDX] << 32);
}

/* Components that are not in their initial state. */
static u64 in_use(const struct interp *in)
{
        const u8 *ymm = in->cpu->xsave + XSAVE_YMM_OFFSET;
        u64 any = 0;

        for (unsigned i = 0; i < 256; i += 8)
                any |= get64(ymm + i);
        return XCR0_X87 | XCR0_SSE | (any ? XCR0_AVX : 0);
}

static void store_components(struct interp *in, u8 *memory, u64 components, u64 mxcsr_for, bool wide)
{
        u8 image[512] __attribute__((aligned(16)));

        x87_get(in, image);
        if (!wide)
                x87_narrow_pointers(image);
        if (components & XCR0_X87) {
                copy(memory, image, X87_MXCSR);
                copy(memory + X87_ST, image + X87_ST, LEGACY_XMM - X87_ST);
        }
        if (mxcsr_for)
                copy(memory + X87_MXCSR, image + X87_MXCSR, 8);
        if (components & XCR0_SSE)
                copy(memory + LEGACY_XMM, in->cpu->xsave + LEGACY_XMM, visible_vectors(in) * 16);
        if (components & XCR0_AVX)
                copy(memory + XSAVE_YMM_OFFSET, in->cpu->xsave + XSAVE_YMM_OFFSET, visible_vectors(in) * 16);
}

void xsave_store(struct interp *in, u8 *memory, u64 rfbm, enum xsave_variant variant, bool wide)
{
        const u64 used = in_use(in), mxcsr_for = variant == XSAVE_COMPACT ? XCR0_SSE : XCR0_SSE | XCR0_AVX;
        u64 bv = rfbm & used;

        store_components(in, memory, variant == XSAVE_PLAIN ? rfbm : bv, rfbm & mxcsr_for, wide);
        if (variant == XSAVE_COMPACT)
                put64(memory + XSAVE_HEADER + 8, rfbm | BIT(63));
        else
                bv |= get64(memory + XSAVE_HEADER) & ~rfbm;
        put64(memory + XSAVE_HEADER, bv);
}

/* ---- XRSTOR ---- */

static u64 header_bv(const u8 *memory)
{
        return get64(memory + XSAVE_HEADER);
}
static bool is_compact(const u8 *memory)
{
        return get64(memory + XSAVE_HEADER + 8) & BIT(63);
}
/* Does MXCSR come from memory? */
static bool loads_mxcsr(const u8 *memory, u64 rfbm)
{
        return is_compact(memory) ? rfbm & header_bv(memory) & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
}

bool xsave_loads_avx(const u8 *memory, u64 rfbm)
{
        return rfbm & header_bv(memory) & XCR0_AVX;
}

/* SDM 1, 13.8.1: what the header must satisfy. */
bool xsave_loadable(struct interp *in, const u8 *memory, u64 rfbm)
{
        const u64 bv = header_bv(memory), comp = get64(memory + XSAVE_HEADER + 8), xcr0 = in->cpu->xcr0;
        const bool compact = is_compact(memory);

        if (compact ? comp & ~BIT(63) & ~xcr0 || bv & ~comp : bv & ~xcr0 || comp)
                return false;
        for (unsigned i = 16; i < (compact ? 64u : 24u); i++)
                if (memory[XSAVE_HEADER + i])
                        return false;
        return !loads_mxcsr(memory, rfbm) || !(get32(memory + X87_MXCSR) & ~MXCSR_MASK);
}

static void load_x87(struct interp *in, const u8 *memory, bool present, u32 mxcsr, bool wide)
{
        u8 x87[LEGACY_XMM];

        if (present) {
                copy(x87, memory, LEGACY_XMM);
        } else {
                clear(x87, sizeof(x87));
                x87[0] = FCW_RESET & 0xff;
                x87[1] = FCW_RESET >> 8;
        }
        if (!wide)
                x87_narrow_pointers(x87);
        x87_put(in, x87, mxcsr);
}

static void load_vectors(u8 *to, const u8 *from, bool present, unsigned n)
{
        if (present)
                copy(to, from, n * 16);
        else
                clear(to, n * 16);
}

void xsave_load(struct interp *in, const u8 *memory, u64 rfbm, bool wide)
{
        u8 current[512] __attribute__((aligned(16)));
        const u64 bv = header_bv(memory);
        u32 mxcsr;

        x87_get(in, current);
        mxcsr = get32(current + X87_MXCSR);
        if (loads_mxcsr(memory, rfbm))
                mxcsr = get32(memory + X87_MXCSR);
        else if (is_compact(memory) && rfbm & XCR0_SSE)
                mxcsr = MXCSR_RESET;
        if (rfbm & XCR0_X87)
                load_x87(in, memory, bv & XCR0_X87, mxcsr, wide);
        else
                x87_put(in, current, mxcsr);
        if (rfbm & XCR0_SSE)
                load_vectors(in->cpu->xsave + LEGACY_XMM, memory + LEGACY_XMM, bv & XCR0_SSE, visible_vectors(in));
        if (rfbm & XCR0_AVX)
                load_vectors(in->cpu->xsave + XSAVE_YMM_OFFSET, memory + XSAVE_YMM_OFFSET, bv & XCR0_AVX, visible_vectors(in));
}

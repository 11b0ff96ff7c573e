/* The guest's x87, SSE and AVX state to and from the images of FXSAVE and XSAVE. Compiled with general registers only and without calls into libc: translated
 * code comes here (translate/fast_xsave.c). Vector registers are those of cpu_state.xsave, x87 and MXCSR the host's. Source: SDM 1, 10.5 and 13.4-13.10. */
#pragma once

#include "internal.h"

#define X87_MXCSR 24
#define LEGACY_XMM 160
#define LEGACY_END 416
#define XSAVE_HEADER 512

enum xsave_variant { XSAVE_PLAIN, XSAVE_OPTIMIZED, XSAVE_COMPACT };

/* The guest's x87 part and MXCSR, in FXSAVE64 form with the guest's instruction and data pointers. */
void x87_get(struct interp *in, u8 image[512]);
void x87_put(struct interp *in, const u8 *x87, u32 mxcsr);
/* Loads the host's x87 registers and MXCSR, and the vector registers that whoever was compiled with them does not keep over a call. */
void xsave_host_load(const u8 image[512]);
/* The pointers in the 32-bit layout: offset, then selector (deprecated: 0). */
void x87_narrow_pointers(u8 *image);

/* Components that XSAVE and XRSTOR with the operands in EDX:EAX are about. */
u64 xsave_requested(const struct interp *in);
/* Bytes of memory that XSAVE of @components covers. */
static inline unsigned xsave_size(u64 components)
{
        return components & XCR0_AVX ? XSAVE_SIZE : XSAVE_YMM_OFFSET;
}
/* What XSAVE makes of @memory, which holds what is there: xsave_size() bytes. @wide: REX.W. */
void xsave_store(struct interp *in, u8 *memory, u64 rfbm, enum xsave_variant variant, bool wide);
/* May XRSTOR load from an image with these first XSAVE_YMM_OFFSET bytes? Else it is #GP. */
bool xsave_loadable(struct interp *in, const u8 *memory, u64 rfbm);
/* Must its AVX part be there as well? */
bool xsave_loads_avx(const u8 *memory, u64 rfbm);
void xsave_load(struct interp *in, const u8 *memory, u64 rfbm, bool wide);

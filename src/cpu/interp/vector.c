/* Vector instructions that a thunk cannot run: gathers and masked moves, whose elements fault one by one, and VZEROUPPER. */
#include <string.h>

#include "host.h"

#define LEGACY_XMM 160

static u8 *low_half(struct interp *in, unsigned reg)
{
        return in->cpu->xsave + LEGACY_XMM + reg * 16;
}

static u8 *high_half(struct interp *in, unsigned reg)
{
        return in->cpu->xsave + XSAVE_YMM_OFFSET + reg * 16;
}

static void vector_get(struct interp *in, unsigned reg, u8 value[32])
{
        memcpy(value, low_half(in, reg), 16);
        memcpy(value + 16, high_half(in, reg), 16);
}

static void vector_put(struct interp *in, unsigned reg, const u8 value[32])
{
        memcpy(low_half(in, reg), value, 16);
        memcpy(high_half(in, reg), value + 16, 16);
}

HANDLER(op_vzero)
{
        const unsigned n = in->mode & MODE_LONG64 ? 16 : 8;

        if (u->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
                memset(low_half(in, 0), 0, n * 16);
        memset(high_half(in, 0), 0, n * 16);
        NEXT(u);
}

/* ---- masked loads and stores: r1 data, r2 mask, size bytes an element, aux vector bytes | store << 8 ---- */

static bool mask_bit(const u8 *mask, unsigned element, unsigned size)
{
        return mask[element * size + size - 1] & 0x80;
}

BODY_HANDLER(op_maskmov)
{
        const unsigned bytes = u->aux & 0xff, n = bytes / u->size;
        const bool store = u->aux >> 8;
        u8 mask[32], data[32] = { 0 };

        vector_get(in, u->r2, mask);
        if (store)
                vector_get(in, u->r1, data);
        /* All elements are looked at before any changes, so that a fault leaves nothing half-written. */
        for (unsigned i = 0; i < n; i++) {
                u64 linear, value = 0;

                if (!mask_bit(mask, i, u->size))
                        continue;
                linear = ea_linear_plus(in, u, i * u->size, u->size, store ? MMU_WRITE : MMU_READ);
                if (store) {
                        mem_probe_write(in, u, linear, u->size);
                } else {
                        value = mem_read(in, u, linear, u->size);
                        memcpy(data + i * u->size, &value, u->size);
                }
        }
        if (!store) {
                vector_put(in, u->r1, data);
                return;
        }
        for (unsigned i = 0; i < n; i++) {
                u64 value = 0;

                if (!mask_bit(mask, i, u->size))
                        continue;
                memcpy(&value, data + i * u->size, u->size);
                mem_write(in, u, ea_linear_plus(in, u, i * u->size, u->size, MMU_WRITE), value, u->size);
        }
}

/* MASKMOVDQU, MASKMOVQ: bytes of r1 whose mask byte in r2 is negative go to [rdi]. aux: 8 for MMX registers. */
BODY_HANDLER(op_maskmov_bytes)
{
        const u64 address_mask = u->addr_size == 8 ? ~0ULL : u->addr_size == 4 ? 0xffffffffULL : 0xffffULL;
        const unsigned n = u->aux;
        u8 data[32], mask[32], image[512] __attribute__((aligned(16)));

        if (n == 8) {
                unsigned top;

                __asm__ volatile("fxsave64 %0" : "=m"(image));
                if (image[2] & FSW_ES)
                        interp_raise(in, u, EXC_MF, NO_ERROR_CODE);
                top = (image[3] >> 3) & 7;
                memcpy(data, image + 32 + ((u->r1 - top) & 7) * 16, 8);
                memcpy(mask, image + 32 + ((u->r2 - top) & 7) * 16, 8);
        } else {
                vector_get(in, u->r1, data);
                vector_get(in, u->r2, mask);
        }
        for (unsigned pass = 0; pass < 2; pass++) {
                for (unsigned i = 0; i < n; i++) {
                        u64 linear;

                        if (!(mask[i] & 0x80))
                                continue;
                        linear = seg_linear(in, u, u->seg, (in->regs[RDI] + i) & address_mask, 1, MMU_WRITE);
                        if (pass == 0)
                                mem_probe_write(in, u, linear, 1);
                        else
                                mem_write(in, u, linear, data[i], 1);
                }
        }
        if (n == 8) /* what every MMX instruction does to the x87 tags and top of stack */
                __asm__ volatile("movd %%mm0, %%eax" : : : "eax", "memory");
}

/* ---- gathers: r1 destination, r2 mask, imm the index vector register; size bytes of an element; aux = elements | index bytes << 8 ---- */

BODY_HANDLER(op_gather)
{
        const unsigned n = u->aux & 0xff, index_size = u->aux >> 8, size = u->size;
        u8 dst[32], mask[32], index[32];

        vector_get(in, u->r1, dst);
        vector_get(in, u->r2, mask);
        vector_get(in, (unsigned)u->imm, index);
        /* Sign bits select; a fault leaves what was gathered so far, with its mask elements cleared. SDM 2C, VGATHERDPS. */
        for (unsigned i = 0; i < n; i++) {
                const u8 on = mask_bit(mask, i, size) ? 0xff : 0;

                memset(mask + i * size, on, size);
        }
        memset(mask + n * size, 0, sizeof(mask) - n * size);
        for (unsigned i = 0; i < n; i++) {
                s64 offset = 0;
                u64 value;

                if (!mask_bit(mask, i, size))
                        continue;
                memcpy(&offset, index + i * index_size, index_size);
                if (index_size == 4)
                        offset = (s32)offset;
                offset *= 1 << u->scale;
                vector_put(in, u->r1, dst);
                vector_put(in, u->r2, mask);
                value = mem_read(in, u, ea_linear_plus(in, u, offset, size, MMU_READ), size);
                memcpy(dst + i * size, &value, size);
                memset(mask + i * size, 0, size);
        }
        memset(dst + n * size, 0, sizeof(dst) - n * size);
        memset(mask, 0, sizeof(mask));
        vector_put(in, u->r1, dst);
        vector_put(in, u->r2, mask);
}

static const struct gather {
        ZydisMnemonic mnemonic;
        u8 size, index_size;
} gathers[] = {
        { ZYDIS_MNEMONIC_VGATHERDPS, 4, 4 }, { ZYDIS_MNEMONIC_VGATHERQPS, 4, 8 }, { ZYDIS_MNEMONIC_VGATHERDPD, 8, 4 },
        { ZYDIS_MNEMONIC_VGATHERQPD, 8, 8 }, { ZYDIS_MNEMONIC_VPGATHERDD, 4, 4 }, { ZYDIS_MNEMONIC_VPGATHERQD, 4, 8 },
        { ZYDIS_MNEMONIC_VPGATHERDQ, 8, 4 }, { ZYDIS_MNEMONIC_VPGATHERQQ, 8, 8 },
};

static uop_fn *gather_setup(struct decoding *d, struct uop *u, const struct gather *g)
{
        const unsigned vector = d->insn.raw.vex.L ? 32 : 16;
        const unsigned n = vector / MAX(g->size, g->index_size);

        u->r1 = (u8)ZydisRegisterGetId(d->ops[0].reg.value);
        u->r2 = (u8)ZydisRegisterGetId(d->ops[2].reg.value);
        u->imm = (u64)ZydisRegisterGetId(d->ops[1].mem.index);
        u->index = REG_ZERO;
        if (u->r1 == u->r2 || u->r1 == u->imm || u->r2 == u->imm)
                return op_undefined;
        u->size = g->size;
        u->aux = (u16)(n | (unsigned)g->index_size << 8);
        return op_gather;
}

static uop_fn *maskmov_setup(struct decoding *d, struct uop *u, unsigned size)
{
        const bool store = d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;

        u->r1 = (u8)ZydisRegisterGetId(d->ops[store ? 2 : 0].reg.value);
        u->r2 = (u8)ZydisRegisterGetId(d->ops[1].reg.value);
        u->size = (u8)size;
        u->aux = (u16)((d->insn.raw.vex.L ? 32 : 16) | store << 8);
        return op_maskmov;
}

uop_fn *vector_op_find(struct decoding *d, struct uop *u)
{
        for (size_t i = 0; i < ARRAY_SIZE(gathers); i++)
                if (gathers[i].mnemonic == d->insn.mnemonic)
                        return gather_setup(d, u, &gathers[i]);
        switch (d->insn.mnemonic) {
        case ZYDIS_MNEMONIC_VZEROALL:
        case ZYDIS_MNEMONIC_VZEROUPPER:
                return op_vzero;
        case ZYDIS_MNEMONIC_VMASKMOVPS:
        case ZYDIS_MNEMONIC_VPMASKMOVD:
                return maskmov_setup(d, u, 4);
        case ZYDIS_MNEMONIC_VMASKMOVPD:
        case ZYDIS_MNEMONIC_VPMASKMOVQ:
                return maskmov_setup(d, u, 8);
        case ZYDIS_MNEMONIC_MASKMOVDQU:
        case ZYDIS_MNEMONIC_VMASKMOVDQU:
        case ZYDIS_MNEMONIC_MASKMOVQ:
                u->aux = d->insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? 8 : 16;
                u->seg = decode_prefix_segment(d);
                return op_maskmov_bytes;
        default:
                return xsave_op_find(d->insn.mnemonic);
        }
}

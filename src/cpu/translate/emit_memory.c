/* Memory operands: the address, and the look into the soft TLB that makes a host address of it. See internal.h. */
#include "block.h"

#define CC_A 7 /* unsigned greater */

/* Index of a TLB entry in bytes: bits 12-23 of the address, times the entry's size. */
#define TLB_INDEX_ROTATE (PAGE_SHIFT - 5)
#define TLB_INDEX_MASK ((u32)(TLB_SIZE - 1) << 5)
_Static_assert(sizeof(struct tlb_entry) == 32, "the probe shifts by 5");

unsigned reg_fetch(struct block_emitter *b, unsigned reg, unsigned scratch)
{
        if (host_reg_of[reg] != HOST_NONE)
                return host_reg_of[reg];
        emit_load(&b->e, scratch, hmem_ctx(CTX_REG(reg)));
        return scratch;
}

void emit_guest_address(struct block_emitter *b, unsigned dst, s64 offset)
{
        if (b->user) {
                emit_load(&b->e, dst, hmem_ctx(CTX(page_va)));
                emit_lea(&b->e, dst, hmem_base(dst, (s32)offset));
        } else {
                emit_mov_imm(&b->e, dst, (b->req->rip & PAGE_MASK) + (u64)offset);
        }
}

/* scratch 0 = base + index * scale + disp + by without a segment. */
static bool operand_offset(struct block_emitter *b, const struct insn *g, bool narrow, s32 by)
{
        const ZydisDecodedOperandMem *m = &g->mem->mem;
        struct hmem h = { .base = REG_NONE, .index = REG_NONE, .disp = (s32)g->disp + by };

        if (m->base == ZYDIS_REGISTER_RIP) {
                const s64 at = offset_in_page(b, g, (s64)g->disp + by);

                if (at != (s32)at || narrow)
                        return false;
                emit_guest_address(b, SCRATCH0, at);
                return true;
        }
        if (m->base == ZYDIS_REGISTER_EIP || (s64)g->disp != (s32)g->disp)
                return false;
        if (m->base != ZYDIS_REGISTER_NONE)
                h.base = (u8)reg_fetch(b, insn_gpr(m->base), SCRATCH0);
        if (m->index != ZYDIS_REGISTER_NONE) {
                h.index = (u8)reg_fetch(b, insn_gpr(m->index), SCRATCH1);
                h.scale = (u8)__builtin_ctz(m->scale ? m->scale : 1);
        }
        if (h.base == REG_NONE && h.index == REG_NONE)
                emit_mov_imm(&b->e, SCRATCH0, narrow ? (u32)g->disp : (u64)(s64)(s32)g->disp);
        else if (h.index == REG_NONE && h.disp == 0 && !narrow)
                emit_mov_rr(&b->e, SCRATCH0, h.base);
        else
                emit_op_mem(&b->e, 0x8d, !narrow, SCRATCH0, h);
        return true;
}

void memory_resume_here(struct block_emitter *b)
{
        b->insn_resume = b->insn_has_resume ? b->insn_resume : (u16)emit_off(&b->e);
        b->insn_has_resume = true;
}

bool memory_address(struct block_emitter *b, const struct insn *g, s32 by)
{
        const ZydisRegister seg = g->mem->mem.segment;

        memory_resume_here(b);
        if (!operand_offset(b, g, g->z.address_width == 32, by))
                return false;
        if (seg == ZYDIS_REGISTER_FS || seg == ZYDIS_REGISTER_GS) {
                emit_load(&b->e, SCRATCH1, hmem_ctx(seg == ZYDIS_REGISTER_FS ? CTX(seg_base[SEG_FS]) : CTX(seg_base[SEG_GS])));
                emit_lea(&b->e, SCRATCH0, (struct hmem){ .base = SCRATCH0, .index = SCRATCH1 });
        }
        return true;
}

struct hmem memory_entry_member(const struct block_emitter *b, bool user_table, s32 member)
{
        if (user_table)
                return (struct hmem){ .base = SCRATCH1, .index = REG_NONE, .gs = space_by_gs(b), .disp = member };
        return (struct hmem){ .base = RSP, .index = SCRATCH1, .disp = CTX(tlb.kernel.entries) + member };
}

/* @span: of the window that is being opened, 0 for a single access. */
static void probe_table(struct block_emitter *b, enum mmu_access access, unsigned size, bool user_table, unsigned span)
{
        struct emitter *e = &b->e;
        struct cold *cold;

        if (b->either) {
                shadow_either(b);
                return;
        }
        emit_rorx(e, SCRATCH1, SCRATCH0, TLB_INDEX_ROTATE);
        emit_bytes(e, (const u8[]){ 0x41, 0x81, 0xe3 }, 3); /* and r11d, imm32 */
        emit_u32(e, TLB_INDEX_MASK);
        if (user_table && !space_by_gs(b))
                emit_op_mem(e, 0x03, true, SCRATCH1, hmem_ctx(CTX(tlb.space))); /* add */
        emit_op_mem(e, 0x2b, true, SCRATCH0, memory_entry_member(b, user_table, (s32)(offsetof(struct tlb_entry, base) + 8 * access)));
        emit_jump_ahead(e, 7 + JCC_SIZE);
        emit_bytes(e, (const u8[]){ 0x49, 0x81, 0xfa }, 3); /* cmp r10, imm32 */
        emit_u32(e, (u32)(PAGE_SIZE - size));
        cold = block_cold(b, emit_jcc_later(e, CC_A), TEXIT_MISS);
        if (cold) {
                cold->resume_off = b->insn_resume;
                cold->access = (u8)access;
                cold->size = (u8)(span ? 1 : size);
                cold->span = (u16)span;
                cold->user_table = user_table;
                cold->arg = b->align_mask;
        }
        emit_op_mem(e, 0x03, true, SCRATCH0, memory_entry_member(b, user_table, offsetof(struct tlb_entry, page)));
        if (cold)
                cold->hit_off = (u16)emit_off(e);
}

void memory_probe(struct block_emitter *b, enum mmu_access access, unsigned size)
{
        struct emitter *e = &b->e;
        unsigned to_kernel, to_done;

        flags_destroyed(b);
        if (b->user || !b->ac) {
                probe_table(b, access, size, b->user, 0);
                return;
        }
        /* With AC set kernel code may touch user pages: the address's upper half decides whose table. */
        emit_op_reg(e, 0x85, true, SCRATCH0, SCRATCH0); /* test r10, r10 */
        to_kernel = emit_jcc_later(e, 8);               /* js */
        probe_table(b, access, size, true, 0);
        to_done = emit_jmp_later(e);
        emit_patch(e, to_kernel, emit_off(e));
        probe_table(b, access, size, false, 0);
        emit_patch(e, to_done, emit_off(e));
}

void memory_at(struct block_emitter *b, unsigned host, s32 disp, enum mmu_access access, unsigned size)
{
        memory_resume_here(b);
        if (disp)
                emit_lea(&b->e, SCRATCH0, hmem_base(host, disp));
        else
                emit_mov_rr(&b->e, SCRATCH0, host);
        memory_probe(b, access, size);
}

/* ---- windows ---- */

/* Blocks where the table depends on the address do not share. */
static bool may_share(const struct block_emitter *b, int access)
{
        return access >= 0 && !(b->req->mode & (MODE_AC | MODE_UNSHARED | MODE_SPLIT)) && !b->ac;
}

/* An open window serves access @i. */
static bool window_serves(const struct block_emitter *b, int i, struct hmem *ret)
{
        const int k = may_share(b, i) ? window_of(&b->windows, (unsigned)i) : -1;

        if (k < 0)
                return false;
        *ret = hmem_base(window_reg[k], b->windows.accesses[i].off - b->windows.open[k].lo);
        return true;
}

/* Should access @i open a window? Then *ret_by is how far its start is from the access. */
static int window_wanted(const struct block_emitter *b, int i, struct window *window, s32 *ret_by)
{
        const int k = may_share(b, i) && !b->scratch2_busy ? window_plan(&b->windows, b->insns, (unsigned)i, window) : -1;

        *ret_by = 0;
        if (k < 0)
                return k;
        *ret_by = window->lo - b->windows.accesses[i].off;
        /* The window's start must be aligned when the access is. */
        return *ret_by & b->align_mask ? -1 : k;
}

/* scratch 0 = guest address of the window's start: opens it. */
static void window_open(struct block_emitter *b, int k, const struct window *window, enum mmu_access access, s32 by,
                        struct hmem *ret)
{
        const unsigned span = (unsigned)(window->hi - window->lo);

        flags_destroyed(b);
        probe_table(b, access, span, b->user, span);
        if (b->n_colds && !b->either)
                b->colds[b->n_colds - 1].further = (u16)-by;
        emit_mov_rr(&b->e, window_reg[k], SCRATCH0);
        b->windows.open[k] = *window;
        *ret = hmem_base(window_reg[k], -by);
}

bool memory_operand(struct block_emitter *b, const struct insn *g, enum mmu_access access, struct hmem *ret)
{
        struct window window;
        s32 by;
        int k;

        b->either = false;
        if (window_serves(b, g->operand_access, ret) || (b->shadow && !(b->req->mode & MODE_SPLIT) && shadow_operand(b, g, ret)))
                return true;
        b->align_mask = (u8)(g->aligned ? g->mem_size - 1 : 0);
        k = window_wanted(b, g->operand_access, &window, &by);
        flags_save(b);
        if (!memory_address(b, g, k < 0 ? 0 : by))
                return false;
        if (k >= 0) {
                window_open(b, k, &window, access, by, ret);
                b->align_mask = 0;
                b->either = false;
                return true;
        }
        if (access == MMU_WRITE && b->req->mode & MODE_SPLIT)
                emit_fast(b, FAST_SPLIT_BEGIN, g->mem_size);
        else
                memory_probe(b, access, g->mem_size);
        b->align_mask = 0;
        b->either = false;
        *ret = hmem_base(SCRATCH0, 0);
        return true;
}

bool memory_stack_open(const struct block_emitter *b, const struct insn *g)
{
        struct hmem unused;

        return window_serves(b, g->stack_access, &unused) || (b->shadow && shadow_stack_free(b, g));
}

void memory_stack(struct block_emitter *b, const struct insn *g, s32 disp, enum mmu_access access, struct hmem *ret)
{
        struct window window;
        s32 by;
        int k;

        b->either = false;
        if (window_serves(b, g->stack_access, ret) || (b->shadow && shadow_stack(b, g, disp, ret)))
                return;
        k = window_wanted(b, g->stack_access, &window, &by);
        flags_save(b);
        memory_resume_here(b);
        emit_lea(&b->e, SCRATCH0, hmem_base(g->kind == KIND_LEAVE ? RBP : HOST_GUEST_RSP, disp + (k < 0 ? 0 : by)));
        if (k >= 0) {
                window_open(b, k, &window, access, by, ret);
                b->either = false;
                return;
        }
        memory_probe(b, access, 8);
        b->either = false;
        *ret = hmem_base(SCRATCH0, 0);
}

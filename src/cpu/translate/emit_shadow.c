/* Memory operands by way of a shadow window (mmu/shadow.h): the guest's access is the host's, at the guest's address plus the bias of the range that the
 * address is in. Each operand is made for one range, the one that it was seen to use; its base register is compared with the range and leaves for C
 * (TEXIT_SHADOW) when it is elsewhere, which translates the block anew. Where both are used, or it is not known which, both are tried
 * (shadow_either); what is in none, and pages that cannot be shown, are the soft TLB's.
 *
 *      high    rorx r11, base, 40; cmp r11b, 55h; jl cold      op gs:[base + index * scale + disp]
 *      low     cmp base, 7fffffffh; ja cold                    op [base + index * scale + disp + SHADOW_LOW_FIXED]
 *      index   movsxd r11, index; cmp r11, index; jne cold     or, beside the low range, as low
 *      either  rorx r11, r10, 40; cmp r11b, 55h; jl cold; add r10, [high bias]
 *              cold: cmp r10, 7fffffffh; ja colder; add r10, [low bias]; back
 *
 * The first comparison looks at address bits 40-47 only. What has other bits above them than a canonical user address is not canonical after the bias was
 * added either, and faults by itself: the bias changes bits below 47 alone and leaves bit 47 clear, whatever they are. The guards of the window
 * take any displacement and any index that is a 32-bit number. A comparison holds for all operands of the block with the same symbol (window.h), since they
 * are never more than OFFSET_MAX apart.
 *
 * Where flags are in EFLAGS and shall stay there the comparison is a probe (mmu/shadow.h), a load that faults:
 *
 *      high    rorx r11, base, 28; movzx r11d, byte [r11d]
 *      low     rorx r11, base, 19; movzx r11d, byte [r11d + SHADOW_PROBE_LOW]
 *
 * Where base and index make sense only together (SITE_SUM), or there is a segment besides, the address is computed in scratch 0 and compared. */
#include "emit_shadow.h"

#define CC_NE 5
#define CC_A 7
#define CC_L 12
#define HIGH_SHIFT 40
_Static_assert(SHADOW_HIGH_START >> HIGH_SHIFT == 0x55 && SHADOW_HIGH_END >> HIGH_SHIFT == 0x80, "a signed comparison of bits 40-47");
_Static_assert(SHADOW_LOW_END == 0x80000000ULL, "an unsigned comparison with an immediate");

/* ---- which range ---- */

/* SHADOW_NONE: could be either. What the registers would hold now is the best guess; else programs at low addresses use both ranges, others the high one. */
static void guess(const struct block_emitter *b, const struct insn *g, struct shadow_access *a)
{
        u64 base = g->base_now.value;

        a->range = a->operand == OPERAND_STACK || shadow_range_of(b->req->rip) == SHADOW_HIGH ? SHADOW_HIGH : SHADOW_NONE;
        if (a->operand != OPERAND_EXPLICIT)
                return;
        if (!a->base.symbol)
                a->range = SHADOW_LOW;
        if (!g->base_now.known)
                return;
        if (a->index.symbol && g->index_now.known) {
                const u64 index = g->index_now.value, scale = g->mem->mem.scale ? g->mem->mem.scale : 1;

                a->sum = index >= BIT(31) || index * scale + (u64)(s64)(s32)g->disp + BIT(31) > BIT(32);
                base += a->sum ? index * scale : 0;
        }
        if (shadow_range_of(base) != SHADOW_NONE)
                a->range = shadow_range_of(base);
}

bool shadow_decide(const struct block_emitter *b, const struct insn *g, struct shadow_access *a)
{
        const u8 seen = b->req->site_ranges ? b->req->site_ranges[site_slot(b->req->gpa + g->off, a->operand)] : 0;

        if (seen & SITE_SOFT)
                return false;
        guess(b, g, a);
        a->sum |= seen & SITE_SUM;
        if ((seen & SITE_SEEN_BOTH) == SITE_SEEN_BOTH)
                a->range = SHADOW_NONE;
        else if (seen & SITE_SEEN_BOTH)
                a->range = seen & SITE_SEEN_LOW ? SHADOW_LOW : SHADOW_HIGH;
        return true;
}

/* ---- comparisons ---- */

/* May flags stay where they are, in EFLAGS? */
bool shadow_by_probe(const struct block_emitter *b)
{
        return b->shadow_fixed && b->eflags_valid && !b->image_valid;
}

/* What an index has to be, beside an address of @range. Below the low range no guard is wide enough for negative ones. */
unsigned shadow_index_check(const struct block_emitter *b, enum shadow_range range)
{
        return range == SHADOW_LOW || shadow_by_probe(b) ? CHECK_POSITIVE : CHECK_INDEX;
}

bool shadow_is_checked(const struct block_emitter *b, struct value v, unsigned what)
{
        const struct shadow_checks *c = &b->shadow_checks;

        if ((what == CHECK_INDEX && v.narrow) || (what == CHECK_POSITIVE && v.positive))
                return true;
        for (unsigned i = 0; v.symbol && i < c->n; i++)
                if (c->symbol[i] == v.symbol && (c->what[i] == what || (what == CHECK_INDEX && c->what[i] == CHECK_POSITIVE)))
                        return true;
        return false;
}

static void leave_if(struct block_emitter *b, unsigned cc, unsigned host, struct purpose p)
{
        struct cold *cold = block_cold(b, emit_jcc_later(&b->e, cc), TEXIT_SHADOW);

        if (cold) {
                cold->arg = (u8)p.operand;
                cold->access = p.what >= CHECK_INDEX;
                cold->host = (u8)host;
                cold->resume_off = (u16)p.guest_off;
        }
}

/* CC_L: the address in @host is not of the high range. Destroys scratch 1. */
static void emit_compare_high(struct emitter *e, unsigned host)
{
        emit_rorx(e, SCRATCH1, host, HIGH_SHIFT);
        emit_jump_ahead(e, 4 + JCC_SIZE);
        emit_bytes(e, (const u8[]){ 0x41, 0x80, 0xfb, SHADOW_HIGH_START >> HIGH_SHIFT }, 4); /* cmp r11b, imm8 */
}

/* CC_A: the address in @host is not of the low range. */
static void emit_compare_low(struct emitter *e, unsigned host)
{
        emit_jump_ahead(e, 7 + JCC_SIZE);
        emit_op_reg(e, 0x81, true, 7, host); /* cmp host, simm32 */
        emit_u32(e, SHADOW_LOW_END - 1);
}

/* movzx r11d, byte [r11d + disp32] */
static void emit_probing_load(struct emitter *e, u32 disp)
{
        emit_bytes(e, (const u8[]){ 0x67, 0x45, 0x0f, 0xb6, 0x9b }, 5);
        emit_u32(e, disp);
}

/* Compares without a comparison (mmu/shadow.h). Destroys scratch 1. */
static void emit_probe(struct block_emitter *b, unsigned host, struct purpose p)
{
        const bool high = p.what == SHADOW_HIGH;
        struct emitter *e = &b->e;

        emit_rorx(e, SCRATCH1, host, high ? SHADOW_PROBE_HIGH_ROTATE : SHADOW_PROBE_LOW_ROTATE);
        block_record(b, RECORD_PROBE, b->guest_off, p.operand | (high ? PROBE_HIGH : 0) | (p.what >= CHECK_INDEX ? PROBE_INDEX : 0));
        if (!b->full)
                b->out->records[b->out->n_records - 1].ahead = (u8)(p.guest_off - b->guest_off);
        emit_probing_load(e, high ? 0 : (u32)SHADOW_PROBE_LOW);
        block_record_restart(b);
}

static void emit_compare(struct block_emitter *b, unsigned host, struct purpose p)
{
        struct emitter *e = &b->e;
        unsigned cc;

        if (shadow_by_probe(b)) {
                emit_probe(b, host, p);
                return;
        }
        flags_destroyed(b);
        if (p.what == CHECK_INDEX) {
                emit_op_reg(e, 0x63, true, SCRATCH1, host); /* movsxd r11, host */
                emit_jump_ahead(e, 3 + JCC_SIZE);
                emit_op_reg(e, 0x39, true, host, SCRATCH1); /* cmp r11, host */
                cc = CC_NE;
        } else if (p.what == SHADOW_HIGH) {
                emit_compare_high(e, host);
                cc = CC_L;
        } else {
                emit_compare_low(e, host);
                cc = CC_A;
        }
        leave_if(b, cc, host, p);
}

static void remember(struct block_emitter *b, struct value v, unsigned what)
{
        struct shadow_checks *c = &b->shadow_checks;

        if (v.symbol && c->n < SHADOW_CHECKS_MAX) {
                c->symbol[c->n] = v.symbol;
                c->what[c->n++] = (u8)what;
        }
}

void shadow_check(struct block_emitter *b, unsigned host, struct value v, struct purpose p)
{
        if (shadow_is_checked(b, v, p.what))
                return;
        emit_compare(b, host, p);
        remember(b, v, p.what);
}

void shadow_check_spilled(struct block_emitter *b, unsigned reg, struct value v, struct purpose p)
{
        const struct hmem at = hmem_ctx(CTX_REG((s32)reg));
        struct emitter *e = &b->e;

        if (shadow_is_checked(b, v, p.what))
                return;
        if (shadow_by_probe(b) || p.what == CHECK_POSITIVE) {
                emit_load(e, SCRATCH1, at);
                emit_compare(b, SCRATCH1, p);
                remember(b, v, p.what);
                return;
        }
        flags_destroyed(b);
        emit_op_mem(e, 0x63, true, SCRATCH1, at); /* movsxd r11, dword */
        emit_jump_ahead(e, MEM_SIZE + JCC_SIZE);
        emit_op_mem(e, 0x3b, true, SCRATCH1, at); /* cmp r11, qword */
        leave_if(b, CC_NE, SCRATCH0, p);
        remember(b, v, p.what);
}

/* Before the first check: flags are in the image if one is to come. An instruction with two operands may have to start again at the first, with flags
 * there too (memory_operand of emit_memory.c). */
static void begin(struct block_emitter *b, const struct insn *g, bool checks)
{
        if ((checks && !shadow_by_probe(b)) || (g->mem && (g->kind == KIND_PUSH || g->kind == KIND_CALL)))
                flags_save(b);
        memory_resume_here(b);
}

/* ---- operands ---- */

/* @at, which is without bias, with that of @range. Uses scratch 0, and scratch 1 when flags must be kept. */
static struct hmem biased(struct block_emitter *b, struct hmem at, enum shadow_range range)
{
        const struct hmem low = hmem_ctx(CTX(shadow_low));
        struct emitter *e = &b->e;

        if (range == SHADOW_HIGH) {
                at.gs = true;
                return at;
        }
        if (b->shadow_fixed && at.disp < (s32)SHADOW_LOW_FIXED - 1) {
                at.disp += (s32)SHADOW_LOW_FIXED;
                return at;
        }
        if (at.base != SCRATCH0 && at.index == REG_NONE && at.base != REG_NONE) {
                emit_load(e, SCRATCH0, low);
                at.index = SCRATCH0;
                return at;
        }
        if (at.base != SCRATCH0 || at.index != REG_NONE || at.disp)
                emit_lea(e, SCRATCH0, at);
        if (!b->eflags_valid) {
                emit_op_mem(e, 0x03, true, SCRATCH0, low); /* add */
        } else {
                emit_load(e, SCRATCH1, low);
                emit_lea(e, SCRATCH0, (struct hmem){ .base = SCRATCH0, .index = SCRATCH1 });
        }
        return hmem_base(SCRATCH0, 0);
}

/* The address as a whole: segments, 32 bits, base and index that mean nothing by themselves. */
static bool computed_operand(struct block_emitter *b, const struct insn *g, const struct shadow_access *a, struct hmem *ret)
{
        begin(b, g, true);
        if (!memory_address(b, g, 0))
                return false;
        emit_compare(b, SCRATCH0, purpose_of(g, a->range, a->operand));
        *ret = biased(b, hmem_base(SCRATCH0, 0), a->range);
        return true;
}

bool shadow_is_simple(const struct insn *g)
{
        const ZydisDecodedOperandMem *m = &g->mem->mem;
        const bool fs = m->segment == ZYDIS_REGISTER_FS;

        if (m->segment == ZYDIS_REGISTER_GS || g->z.address_width != 64 || (s64)g->disp != (s32)g->disp)
                return false;
        if (fs)
                return m->base == ZYDIS_REGISTER_NONE && m->index == ZYDIS_REGISTER_NONE;
        return m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_NONE || decode_is_gpr(m->base);
}

/* The host register with @g's base; REG_NONE: there is none. *disp becomes what is to be added. False: not possible. */
static bool fetch_base(struct block_emitter *b, const struct insn *g, u8 *ret, s32 *disp)
{
        const ZydisDecodedOperandMem *m = &g->mem->mem;

        *ret = SCRATCH0;
        *disp = (s32)g->disp;
        if (m->base == ZYDIS_REGISTER_RIP) {
                const s64 at = offset_in_page(b, g, (s64)g->disp);

                *disp = (s32)at;
                emit_load(&b->e, SCRATCH0, hmem_ctx(CTX(page_va)));
                return at == (s32)at;
        }
        if (m->segment == ZYDIS_REGISTER_FS)
                emit_load(&b->e, SCRATCH0, hmem_ctx(CTX(seg_base[SEG_FS])));
        else
                *ret = m->base == ZYDIS_REGISTER_NONE ? REG_NONE : (u8)reg_fetch(b, insn_gpr(m->base), SCRATCH0);
        return true;
}

bool shadow_operand(struct block_emitter *b, const struct insn *g, struct hmem *ret)
{
        struct shadow_access a = { .base = g->base, .index = g->index, .operand = OPERAND_EXPLICIT };
        const ZydisDecodedOperandMem *m = &g->mem->mem;
        const bool has_index = m->index != ZYDIS_REGISTER_NONE;
        struct hmem at = { .index = REG_NONE };
        unsigned index;
        bool has_base;

        if (!shadow_decide(b, g, &a))
                return false;
        b->either = a.range == SHADOW_NONE;
        b->either_operand = a.operand;
        if (b->either)
                return false;
        if (!shadow_is_simple(g) || (has_index && a.sum))
                return computed_operand(b, g, &a, ret);
        has_base = g->base.symbol;
        if (!has_base && a.range != SHADOW_LOW)
                return false;
        if (a.range == SHADOW_LOW && (s32)g->disp < SHADOW_LOW_DISP_MIN)
                return computed_operand(b, g, &a, ret);
        index = shadow_index_check(b, a.range);
        begin(b, g, (has_base && !shadow_is_checked(b, a.base, a.range)) || (has_index && !shadow_is_checked(b, a.index, index)));
        if (!fetch_base(b, g, &at.base, &at.disp))
                return false;
        if (has_base)
                shadow_check(b, at.base, a.base, purpose_of(g, a.range, a.operand));
        if (has_index) {
                at.index = (u8)reg_fetch(b, insn_gpr(m->index), SCRATCH1);
                at.scale = (u8)__builtin_ctz(m->scale ? m->scale : 1);
                if (at.index == SCRATCH1) {
                        /* Scratch 1 is wanted: by the comparison, and by other operands. */
                        emit_lea(&b->e, SCRATCH0, at);
                        shadow_check_spilled(b, insn_gpr(m->index), a.index, purpose_of(g, index, a.operand));
                        at = hmem_base(SCRATCH0, 0);
                } else {
                        shadow_check(b, at.index, a.index, purpose_of(g, index, a.operand));
                }
        }
        *ret = biased(b, at, a.range);
        return true;
}

struct value shadow_stack_value(const struct block_emitter *b, const struct insn *g)
{
        const struct access *a = &b->windows.accesses[g->stack_access];

        return (struct value){ .symbol = a->symbol, .off = a->off };
}

bool shadow_stack(struct block_emitter *b, const struct insn *g, s32 disp, struct hmem *ret)
{
        const unsigned host = g->kind == KIND_LEAVE ? RBP : HOST_GUEST_RSP;
        struct shadow_access a = { .operand = OPERAND_STACK };

        if (g->stack_access >= 0)
                a.base = shadow_stack_value(b, g);
        if (!shadow_decide(b, g, &a))
                return false;
        b->either = a.range == SHADOW_NONE;
        b->either_operand = a.operand;
        if (b->either)
                return false;
        begin(b, g, !shadow_is_checked(b, a.base, a.range));
        shadow_check(b, host, a.base, purpose_of(g, a.range, a.operand));
        *ret = biased(b, hmem_base(host, disp), a.range);
        return true;
}

bool shadow_stack_free(const struct block_emitter *b, const struct insn *g)
{
        struct shadow_access a = { .operand = OPERAND_STACK };

        if (g->stack_access < 0)
                return false;
        a.base = shadow_stack_value(b, g);
        return shadow_decide(b, g, &a) && a.range == SHADOW_HIGH && shadow_is_checked(b, a.base, a.range);
}

/* ---- either range ---- */

void shadow_either(struct block_emitter *b)
{
        struct emitter *e = &b->e;
        struct cold *cold;

        flags_destroyed(b);
        emit_compare_high(e, SCRATCH0);
        cold = block_cold(b, emit_jcc_later(e, CC_L), TEXIT_SHADOW);
        emit_op_mem(e, 0x03, true, SCRATCH0, hmem_ctx(CTX(shadow_high))); /* add */
        if (cold) {
                cold->either_off = (u16)emit_off(e);
                cold->arg = (u8)b->either_operand;
                cold->host = SCRATCH0;
                cold->resume_off = b->guest_off;
        }
}

static void emit_low(struct block_emitter *b, const struct cold *c)
{
        struct emitter *e = &b->e;
        unsigned to_site;

        emit_compare_low(e, SCRATCH0);
        to_site = emit_jcc_later(e, CC_A);
        emit_op_mem(e, 0x03, true, SCRATCH0, hmem_ctx(CTX(shadow_low))); /* add */
        emit_patch(e, emit_jmp_later(e), c->either_off);
        emit_patch(e, to_site, emit_off(e));
}

/* ---- cold ---- */

void shadow_cold(struct block_emitter *b, const struct cold *c)
{
        if (c->either_off)
                emit_low(b, c);
        if (c->host != SCRATCH0)
                emit_mov_rr(&b->e, SCRATCH0, c->host);
}

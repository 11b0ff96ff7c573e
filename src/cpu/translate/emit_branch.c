/* Where control leaves the straight line: jumps, calls, returns, and the cold code behind a block. See internal.h for links, the jump cache and
 * sites. */
#include "block.h"

#define CC_NE 5
#define CC_A 7
#define JUMP_INDEX_ROTATE 60 /* left by 4: a slot has 16 bytes */
#define JUMP_INDEX_MASK ((u32)(TLB_JUMPS - 1) << 4)
_Static_assert(sizeof(struct tlb_jump) == 16, "the probe rotates by 4");

/* ---- direct ---- */

/* A rel32 that will be patched while other threads run the code must not cross a cache line: SDM 3A, 9.1.1 and 12.1.3. */
static void align_patch(struct block_emitter *b, unsigned opcode_bytes)
{
        struct emitter *e = &b->e;

        emit_jump_ahead(e, opcode_bytes + 4);
        while ((((uintptr_t)e->run_at + emit_off(e) + opcode_bytes) & 63) > 60)
                emit_nop(e, 1);
}

/* In another page of a position-independent block: only the jump cache knows where that is. */
static bool is_far(const struct block_emitter *b, s32 target)
{
        return b->user && (target < 0 || target >= (s32)PAGE_SIZE);
}

/* The target of a relative branch from the start of the block's page. */
static s32 branch_target(const struct block_emitter *b, const struct insn *g)
{
        return (s32)offset_in_page(b, g, (s32)g->ops[0].imm.value.s);
}

static void set_link(struct block_emitter *b, unsigned i, unsigned patch_off)
{
        b->out->links[i].patch_off = (u16)patch_off;
        b->out->links[i].entry_b = b->image_valid;
        b->out->links[i].facts = prologue_facts(b);
}

/* scratch 1 = byte offset of the jump-cache slot for @target. */
static void jump_index(struct block_emitter *b, unsigned target)
{
        struct emitter *e = &b->e;

        emit_rorx(e, SCRATCH1, target, JUMP_INDEX_ROTATE);
        emit_bytes(e, (const u8[]){ 0x41, 0x81, 0xe3 }, 3); /* and r11d, imm32 */
        emit_u32(e, JUMP_INDEX_MASK);
        if (b->shadow)
                emit_op_mem(e, 0x03, true, SCRATCH1, hmem_ctx(CTX(tlb.space))); /* add */
        flags_destroyed(b);
}

/* A member of the slot that scratch 1 indexes. */
static struct hmem jump_slot_member(const struct block_emitter *b, size_t member)
{
        if (b->user)
                return (struct hmem){ .base = SCRATCH1, .index = REG_NONE, .gs = space_by_gs(b),
                                      .disp = (s32)(offsetof(struct tlb_table, jumps) + member) };
        return (struct hmem){ .base = RSP, .index = SCRATCH1, .disp = CTX(tlb.kernel.jumps) + (s32)member };
}

/* Leaves for an unknown target in scratch 0. @rsp_by: what the instruction adds to guest rsp. */
static void jump_cold(struct block_emitter *b, unsigned patch_off, bool complete, u16 rsp_by)
{
        struct cold *cold = block_cold(b, patch_off, b->user ? TEXIT_LOOKUP_USER : b->ac ? TEXIT_LOOKUP_AC : TEXIT_LOOKUP);

        if (cold) {
                cold->complete = complete;
                cold->arg = !complete;
                cold->resume_off = rsp_by;
        }
}

/* scratch 0 = target, scratch 1 = its slot, the instruction complete but for the jump. Destroys scratch 2. */
static void jump_by_slot(struct block_emitter *b)
{
        struct emitter *e = &b->e;

        if (b->user) {
                emit_mov_rr(e, SCRATCH2, SCRATCH0);
                emit_bytes(e, (const u8[]){ 0x49, 0x81, 0xe6 }, 3); /* and r14, simm32 */
                emit_u32(e, (u32)PAGE_MASK);
                emit_store(e, hmem_ctx(CTX(page_va)), SCRATCH2);
        }
        emit_jump_ahead(e, MEM_SIZE);
        emit_op_mem(e, 0xff, false, 4, jump_slot_member(b, offsetof(struct tlb_jump, code))); /* jmp [slot] */
}

/* To the block that the jump cache names for scratch 0; flags are in the image. @complete: the instruction has done all else. Otherwise
 * nothing has been committed, because a non-canonical target faults at the instruction, and @rsp_by is still to be added to guest rsp. */
static void jump_probe(struct block_emitter *b, bool complete, u16 rsp_by)
{
        struct emitter *e = &b->e;

        if (complete)
                block_record(b, RECORD_JUMP, 0, 0);
        if (b->ac) {
                jump_cold(b, emit_jmp_later(e), complete, rsp_by);
                return;
        }
        jump_index(b, SCRATCH0);
        emit_jump_ahead(e, MEM_SIZE + JCC_SIZE);
        emit_op_mem(e, 0x3b, true, SCRATCH0, jump_slot_member(b, offsetof(struct tlb_jump, rip)));
        jump_cold(b, emit_jcc_later(e, CC_NE), complete, rsp_by);
        if (rsp_by)
                emit_lea(e, HOST_GUEST_RSP, hmem_base(HOST_GUEST_RSP, rsp_by));
        if (!complete)
                block_record(b, RECORD_JUMP, 0, 0);
        jump_by_slot(b);
}

void emit_cross(struct block_emitter *b, unsigned off)
{
        struct cold *cold;

        if (b->ac) {
                emit_fast(b, FAST_CROSS, 0);
                return;
        }
        flags_save(b);
        emit_guest_address(b, SCRATCH0, (s64)(b->req->rip & (PAGE_SIZE - 1)) + off);
        block_record(b, RECORD_JUMP, 0, 0);
        cold = block_cold(b, emit_jmp_later(&b->e), b->user ? TEXIT_CROSS_USER : TEXIT_CROSS);
        if (cold)
                cold->complete = true;
}

void emit_goto(struct block_emitter *b, s32 target, bool complete)
{
        struct emitter *e = &b->e;
        unsigned i;

        if (is_far(b, target)) {
                flags_save(b);
                emit_guest_address(b, SCRATCH0, target);
                jump_probe(b, true, 0);
                return;
        }
        i = block_link(b, target);
        if (complete)
                block_record(b, RECORD_LINK, 0, i); /* before the padding: the instruction must not start again from there */
        align_patch(b, 1);
        set_link(b, i, emit_jmp_later(e));
}

/* @loops: to where the block's rounds begin. */
static void jcc_to(struct block_emitter *b, unsigned cc, s32 target, bool loops)
{
        struct emitter *e = &b->e;
        unsigned i;

        if (is_far(b, target)) {
                struct cold *cold = block_cold(b, emit_jcc_later(e, cc), COLD_FAR);

                if (cold) {
                        cold->save_flags = !b->image_valid;
                        cold->target = target;
                }
                return;
        }
        align_patch(b, 2);
        i = block_link(b, target);
        b->out->links[i].loop = loops;
        set_link(b, i, emit_jcc_later(e, cc));
}

/* #GP at the branch; where user-mode code lies is not known here. */
static bool is_noncanonical(const struct block_emitter *b, s32 target)
{
        return !b->user && !mmu_is_canonical((b->req->rip & PAGE_MASK) + (u64)(s64)target);
}

bool emit_jcc(struct block_emitter *b, const struct insn *g, bool goes_on)
{
        const bool loops = b->loop.n && g == &b->insns[b->loop.n - 1];

        b->class = INSN_INLINE;
        b->why = "branch";
        if (is_noncanonical(b, branch_target(b, g)))
                return false;
        flags_restore(b);
        jcc_to(b, g->cc, branch_target(b, g), loops);
        if (loops)
                loop_end(b);
        if (!goes_on)
                emit_goto(b, (s32)(b->req->rip & (PAGE_SIZE - 1)) + b->next_off, false);
        return true;
}

bool emit_jrcxz(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        unsigned over, taken;

        b->class = INSN_INLINE;
        b->why = "branch";
        if (is_far(b, branch_target(b, g)))
                flags_save(b); /* so that both sides agree where the flags are */
        if (g->z.address_width == 32)
                emit_u8(e, 0x67);
        emit_bytes(e, (const u8[]){ 0xe3, 2, 0xeb, 0 }, 4); /* jrcxz taken; jmp over */
        over = emit_off(e);
        emit_goto(b, branch_target(b, g), false);
        taken = emit_off(e) - over;
        if (taken > 127 || e->full)
                return false;
        e->start[over - 1] = (u8)taken;
        block_record_restart(b);
        emit_goto(b, (s32)(b->req->rip & (PAGE_SIZE - 1)) + b->next_off, false);
        return true;
}

/* ---- calls, returns, indirect jumps ---- */

/* @scratch = target of an indirect branch. */
static bool indirect_target(struct block_emitter *b, const struct insn *g, unsigned scratch)
{
        struct emitter *e = &b->e;
        struct hmem from;
        unsigned host;

        if (g->mem) {
                if (g->mem_size != 8 || !memory_operand(b, g, MMU_READ, &from))
                        return false;
                emit_load(e, scratch, from);
                return true;
        }
        host = reg_fetch(b, insn_gpr(g->ops[0].reg.value), scratch);
        if (host != scratch)
                emit_mov_rr(e, scratch, host);
        return true;
}

bool emit_jmp_insn(struct block_emitter *b, const struct insn *g)
{
        b->class = INSN_INLINE;
        b->why = "branch";
        if (g->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
                if (is_noncanonical(b, branch_target(b, g)))
                        return false;
                emit_goto(b, branch_target(b, g), false);
                return true;
        }
        flags_save(b);
        if (!indirect_target(b, g, SCRATCH0))
                return false;
        jump_probe(b, false, 0);
        return true;
}

/* Stores the address of the next instruction. Destroys scratch 1. */
static void store_return_address(struct block_emitter *b, struct hmem to)
{
        struct emitter *e = &b->e;
        const s64 offset = (s64)(b->req->rip & (PAGE_SIZE - 1)) + b->next_off;
        const u64 address = (b->req->rip & PAGE_MASK) + (u64)offset;

        if (!b->user && (u64)(s64)(s32)address == address) {
                emit_op_mem(e, 0xc7, true, 0, to);
                emit_u32(e, (u32)address);
                return;
        }
        emit_guest_address(b, SCRATCH1, offset);
        emit_store(e, to, SCRATCH1);
}

/* A target that is not canonical faults before anything is stored. */
static bool call_indirect(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        struct cold *noncanonical;
        struct hmem to;

        /* When a look for the stack's place misses, scratch 2 is kept: what is called is not fetched again through a window that was in it. */
        flags_save(b);
        if (!indirect_target(b, g, SCRATCH2))
                return false;
        scratch2_take(b);
        flags_destroyed(b);
        emit_mov_rr(e, SCRATCH1, SCRATCH2);
        emit_bytes(e, (const u8[]){ 0x49, 0xc1, 0xfb, 47 }, 4); /* sar r11, 47: 0 or -1 */
        emit_bytes(e, (const u8[]){ 0x49, 0xff, 0xc3 }, 3);     /* inc r11 */
        emit_jump_ahead(e, 4 + JCC_SIZE);
        emit_bytes(e, (const u8[]){ 0x49, 0x83, 0xfb, 1 }, 4);  /* cmp r11, 1 */
        noncanonical = block_cold(b, emit_jcc_later(e, CC_A), TEXIT_INTERP);
        if (noncanonical)
                noncanonical->arg = INTERP_REASON_TARGET;
        memory_stack(b, g, -8, MMU_WRITE, &to);
        store_return_address(b, to);
        emit_mov_rr(e, SCRATCH0, SCRATCH2);
        emit_lea(e, HOST_GUEST_RSP, hmem_base(HOST_GUEST_RSP, -8));
        jump_probe(b, true, 0);
        return true;
}

bool emit_call(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        const struct hmem pushed = hmem_base(HOST_GUEST_RSP, -8);
        struct hmem to;
        s32 target;

        b->class = INSN_INLINE;
        b->why = "branch";
        if (g->ops[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
                return call_indirect(b, g);
        target = branch_target(b, g);
        if (is_noncanonical(b, target))
                return false;
        if (is_far(b, target))
                flags_save(b);
        memory_stack(b, g, -8, MMU_WRITE, &to);
        store_return_address(b, to);
        if (!is_far(b, target)) {
                emit_lea(e, HOST_GUEST_RSP, pushed);
                emit_goto(b, target, true);
                return true;
        }
        /* The target is in its place before the commit, so that there is always a record that says where to go on. */
        emit_guest_address(b, SCRATCH0, target);
        emit_lea(e, HOST_GUEST_RSP, pushed);
        jump_probe(b, true, 0);
        return true;
}

bool emit_ret(struct block_emitter *b, const struct insn *g)
{
        struct emitter *e = &b->e;
        const u64 release = g->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? g->ops[0].imm.value.u & 0xffff : 0;
        struct hmem from;

        b->class = INSN_INLINE;
        b->why = "branch";
        if (release > 0xffff - 8)
                return false;
        flags_save(b);
        memory_stack(b, g, 0, MMU_READ, &from);
        emit_load(e, SCRATCH0, from);
        jump_probe(b, false, (u16)(8 + release));
        return true;
}

void emit_interp(struct block_emitter *b, enum interp_reason reason)
{
        struct cold *cold;

        flags_save(b);
        cold = block_cold(b, emit_jmp_later(&b->e), TEXIT_INTERP);
        if (cold)
                cold->arg = (u8)reason;
}

/* ---- cold code ---- */

bool emit_way_out(struct emitter *e, struct translation *out, struct site *site, const void *stub, unsigned hit_off)
{
        if (out->n_sites == BLOCK_SITES_MAX)
                return false;
        while ((emit_off(e) + 12) & 3)
                emit_u8(e, 0x90);
        emit_bytes(e, (const u8[]){ 0x4c, 0x8d, 0x1d, 5, 0, 0, 0 }, 7); /* lea r11, [rip + 5] */
        emit_jmp(e, stub);
        site->back = out->sites[out->n_sites++] = (u16)emit_off(e);
        site->hit_back = (u16)(site->back - hit_off);
        if (site->kind == TEXIT_FAST)
                site->resume_off = (u16)(site->back + sizeof(*site));
        emit_bytes(e, site, sizeof(*site));
        return true;
}

static void emit_site_of(struct block_emitter *b, const struct site *site, unsigned hit_off)
{
        struct site s = *site;

        if (!emit_way_out(&b->e, b->out, &s, b->req->stubs[s.kind], hit_off))
                b->full = true;
}

void emit_site(struct block_emitter *b, const struct site *site)
{
        emit_site_of(b, site, 0);
}

/* A window that would cross a page, scratch 0 its start: on with an unshared block at the same instruction. */
static void emit_crossing(struct block_emitter *b, const struct cold *c)
{
        struct emitter *e = &b->e;
        const unsigned i = block_link(b, (s32)(b->req->rip & (PAGE_SIZE - 1)) + c->guest_off);

        b->out->links[i].unshared = true;
        emit_op_reg(e, 0x89, false, SCRATCH0, SCRATCH1); /* mov r11d, r10d */
        emit_bytes(e, (const u8[]){ 0x41, 0x81, 0xe3 }, 3); /* and r11d, imm32 */
        emit_u32(e, PAGE_SIZE - 1);
        emit_bytes(e, (const u8[]){ 0x41, 0x81, 0xfb }, 3); /* cmp r11d, imm32 */
        emit_u32(e, (u32)(PAGE_SIZE - c->span));
        align_patch(b, 2);
        set_link(b, i, emit_jcc_later(e, CC_A));
}

static u8 miss_kind(const struct cold *c)
{
        if (c->user_table)
                return c->access == MMU_WRITE ? TEXIT_MISS_USER_WRITE : TEXIT_MISS_USER;
        return c->access == MMU_WRITE ? TEXIT_MISS_WRITE : TEXIT_MISS;
}

static bool is_lookup(unsigned kind)
{
        return kind == TEXIT_LOOKUP || kind == TEXIT_LOOKUP_AC || kind == TEXIT_LOOKUP_USER || kind == TEXIT_CROSS || kind == TEXIT_CROSS_USER;
}

static void emit_cold(struct block_emitter *b, const struct cold *c)
{
        struct emitter *e = &b->e;
        const struct site site = {
                .guest_off = c->guest_off, .resume_off = c->resume_off, .kind = c->kind == TEXIT_MISS ? miss_kind(c) : c->kind,
                .access = (u8)(c->access | (c->further ? SITE_ELSEWHERE | c->further >> 8 << 2 : 0) | (c->x87_store ? SITE_X87_STORE : 0)), .size = c->further ? (u8)c->further : c->size, .arg = c->arg,
        };

        emit_patch(e, c->patch_off, emit_off(e));
        b->guest_off = c->guest_off;
        b->eflags_valid = c->save_flags;
        b->image_valid = !c->save_flags;
        block_record(b, is_lookup(c->kind) && c->complete ? RECORD_JUMP : RECORD_RESTART, c->guest_off, 0);
        if (c->kind == COLD_FAR) {
                emit_goto(b, c->target, false);
                return;
        }
        if (c->kind == TEXIT_MISS) {
                const s32 member = (s32)(offsetof(struct tlb_entry, base) + 8u * c->access);

                emit_op_mem(e, 0x03, true, SCRATCH0, memory_entry_member(b, c->user_table, member)); /* what the probe subtracted */
                if (c->span)
                        emit_crossing(b, c);
        }
        if (c->kind == TEXIT_SHADOW)
                shadow_cold(b, c);
        emit_site_of(b, &site, c->hit_off);
}

static void emit_link_stub(struct block_emitter *b, unsigned i)
{
        struct emitter *e = &b->e;
        struct link *link = &b->out->links[i];
        const struct site site = { .kind = TEXIT_LINK, .arg = (u8)i };

        link->stub_off = (u16)emit_off(e);
        emit_patch(e, link->patch_off, link->stub_off);
        b->eflags_valid = !link->entry_b;
        b->image_valid = link->entry_b;
        block_record(b, RECORD_LINK, 0, i);
        if (!link->entry_b) {
                emit_pushfq_image(e);
                b->image_valid = true;
                block_record(b, RECORD_LINK, 0, i);
        }
        emit_site(b, &site);
}

void emit_colds(struct block_emitter *b)
{
        b->shadow_checks.n = 0;
        b->n_begun = 0;
        /* Far jumps add colds of their own. */
        for (unsigned i = 0; i < b->n_colds; i++) {
                const struct cold c = b->colds[i];

                b->ac = false;
                emit_cold(b, &c);
        }
        for (unsigned i = 0; i < b->out->n_links; i++)
                emit_link_stub(b, i);
}

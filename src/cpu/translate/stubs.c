/* The ways into and out of translated code; one set a machine, at the head of its code cache.
 *
 *      enter(in, code):  save what C wants kept; rbx = in, r11 = code
 *      go_on:            rsp = in->regs; load the guest's registers; r10 = in->bounce[1]
 *                        if in->kicked: leave; jmp r11                          <- kick window
 *      exit of a kind:   store the guest's registers; rbx = in; back on the C stack
 *                        r11 = fast(in, r11 = site, r10); if r11 is not NULL: go_on
 *      leave:            store the vector registers if they are the guest's; restore; ret
 *      miss:             the exit of that kind, after a look at the table's victims (mmu.h):
 *                        is it there? r10 = host address; on behind the look                      <- kick windows
 *      lookup:           the exit of that kind, after a look at the table's more_jumps (mmu.h):
 *                        is it there? guest rsp and page as after the jump; jmp <- kick windows
 *      vectors:          load the vector registers; r10 = site's resume address
 *                        if in->kicked: exit; jmp r10                           <- kick window
 *
 * Flags are in the image throughout. A kick that arrives anywhere here sets in->kicked; it is looked at before translated code goes on. One that arrives
 * between that look and the jump finds itself in a window and makes the jump go elsewhere. */
#include "emit.h"
#include "runtime.h"

#define SAVED_XMM 160u /* in the XSAVE area; SDM 1, 10.5.1 */

static const u8 callee_saved[] = { RBX, RBP, R12, R13, R14, R15 };

static void emit_push(struct emitter *e, unsigned reg)
{
        if (reg & 8)
                emit_u8(e, 0x41);
        emit_u8(e, 0x50 | (reg & 7));
}
static void emit_pop(struct emitter *e, unsigned reg)
{
        if (reg & 8)
                emit_u8(e, 0x41);
        emit_u8(e, 0x58 | (reg & 7));
}
static void emit_guest_registers(struct emitter *e, bool store)
{
        for (unsigned g = 0; g < GPR_COUNT; g++)
                if (host_reg_of[g] != HOST_NONE)
                        emit_op_mem(e, store ? 0x89 : 0x8b, true, host_reg_of[g], hmem_ctx(CTX_REG(g)));
        emit_op_mem(e, store ? 0x89 : 0x8b, true, SCRATCH2, hmem_ctx(CTX(scratch2)));
}
/* cmp byte/dword [base + disp], 0 */
static void emit_is_zero(struct emitter *e, bool byte, struct hmem m)
{
        emit_op_mem(e, byte ? 0x80 : 0x83, false, 7, m);
        emit_u8(e, 0);
}
static void emit_set_byte(struct emitter *e, struct hmem m, unsigned value)
{
        emit_op_mem(e, 0xc6, false, 0, m);
        emit_u8(e, value);
}
static void emit_jmp_reg(struct emitter *e, unsigned reg)
{
        emit_op_reg(e, 0xff, false, 4, reg);
}

/* movups xmm, [base + disp] or back, and the upper half: vinsertf128 ymm, ymm, [base + disp], 1 or vextractf128. SDM 2. */
static void emit_xmm(struct emitter *e, bool store, unsigned xmm, unsigned base, u32 disp)
{
        emit_op_mem(e, store ? 0x0f11 : 0x0f10, false, xmm, hmem_base(base, (s32)disp));
}
static void emit_ymm_high(struct emitter *e, bool store, unsigned ymm, unsigned base, u32 disp)
{
        emit_u8(e, 0xc4);
        emit_u8(e, (ymm < 8 ? 0x80u : 0) | 0x40u | (base < 8 ? 0x20u : 0) | 3u);
        emit_u8(e, (store ? 15u : (~ymm & 15u)) << 3 | 5u);
        emit_u8(e, store ? 0x19 : 0x18);
        emit_modrm_mem(e, ymm & 7, hmem_base(base, (s32)disp));
        emit_u8(e, 1);
}
#define IN_XMM(i) ((u32)offsetof(struct cpu_state, xsave) + SAVED_XMM + (i) * 16)
#define IN_YMM_HIGH(i) ((u32)offsetof(struct cpu_state, xsave) + XSAVE_YMM_OFFSET + (i) * 16)

static void emit_vectors(struct emitter *e, bool store, unsigned cpu, bool avx)
{
        for (unsigned i = 0; i < 16; i++) {
                emit_xmm(e, store, i, cpu, IN_XMM(i));
                if (avx)
                        emit_ymm_high(e, store, i, cpu, IN_YMM_HIGH(i));
        }
}

/* vmovdqu xmm0, [base + disp] or vpor xmm0, xmm0, [base + disp]. SDM 2. */
static void emit_avx_xmm0(struct emitter *e, bool or, unsigned base, u32 disp)
{
        emit_u8(e, 0xc4);
        emit_u8(e, 0xc0u | (base < 8 ? 0x20u : 0) | 1u);
        emit_u8(e, 15u << 3 | (or ? 1 : 2));
        emit_u8(e, or ? 0xeb : 0x6f);
        emit_modrm_mem(e, 0, hmem_base(base, (s32)disp));
}

/* Once anything was written to an upper half the host's CPU makes every SSE instruction wait for what its destination held before, until VZEROUPPER (Intel
 * Optimization Reference Manual, 15.3). Where the guest's upper halves are all zero it is as if they had never been written. */
static void emit_vectors_load(struct emitter *e, unsigned cpu)
{
        static const u8 vzeroupper[] = { 0xc5, 0xf8, 0x77 }, vptest[] = { 0xc4, 0xe2, 0x79, 0x17, 0xc0 };
        unsigned clean, done;

        for (unsigned i = 0; i < 16; i++)
                emit_avx_xmm0(e, i > 0, cpu, IN_YMM_HIGH(i));
        emit_bytes(e, vptest, sizeof(vptest));
        clean = emit_jcc_later(e, 4);
        emit_vectors(e, false, cpu, true);
        done = emit_jmp_later(e);
        emit_patch(e, clean, emit_off(e));
        emit_bytes(e, vzeroupper, sizeof(vzeroupper));
        emit_vectors(e, false, cpu, false);
        emit_patch(e, done, emit_off(e));
}

static struct hmem in_field(size_t offset)
{
        return hmem_base(RBX, (s32)offset);
}

/* The jump that a kick may turn aside: to @target unless in->kicked, which goes to @kicked. */
static void emit_last_look(struct emitter *e, unsigned target, struct kick_window *window, const u8 *kicked)
{
        emit_is_zero(e, false, hmem_ctx(CTX(kicked)));
        window->start = e->run_at + emit_off(e);
        emit_u8(e, 0x0f);
        emit_u8(e, 0x85); /* jne */
        emit_u32(e, (u32)emit_rel(e, kicked, 4));
        emit_jmp_reg(e, target);
        window->end = e->run_at + emit_off(e);
        window->go_to = kicked;
}

static void emit_leave(struct emitter *e, bool avx)
{
        static const u8 vzeroupper[] = { 0xc5, 0xf8, 0x77 };
        unsigned not_live;

        emit_lea(e, RBX, hmem_base(RSP, -(s32)offsetof(struct interp, regs)));
        emit_load(e, RSP, in_field(offsetof(struct interp, host_rsp)));
        emit_is_zero(e, true, in_field(offsetof(struct interp, vectors_live)));
        not_live = emit_jcc_later(e, 4);
        emit_load(e, RAX, in_field(offsetof(struct interp, cpu)));
        emit_vectors(e, true, RAX, avx);
        emit_set_byte(e, in_field(offsetof(struct interp, vectors_live)), 0);
        emit_patch(e, not_live, emit_off(e));
        if (avx)
                emit_bytes(e, vzeroupper, sizeof(vzeroupper));
        emit_op_reg(e, 0x83, true, 0, RSP); /* add rsp, 8 */
        emit_u8(e, 8);
        for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
                emit_pop(e, callee_saved[i]);
        emit_u8(e, 0xc3);
}

static void emit_enter(struct emitter *e)
{
        for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
                emit_push(e, callee_saved[i]);
        emit_op_reg(e, 0x83, true, 5, RSP); /* sub rsp, 8: C calls from here are aligned */
        emit_u8(e, 8);
        emit_mov_rr(e, RBX, RDI);
        emit_mov_rr(e, SCRATCH1, RSI);
        emit_store(e, in_field(offsetof(struct interp, host_rsp)), RSP);
}

static void emit_load_vectors(struct emitter *e, unsigned cpu, bool avx)
{
        if (avx)
                emit_vectors_load(e, cpu);
        else
                emit_vectors(e, false, cpu, false);
}

/* User code has its vector registers without having to look. */
static void emit_go_on(struct emitter *e, struct kick_window *window, const u8 *leave, bool avx)
{
        unsigned kernel, live;

        emit_op_mem(e, 0xf6, false, 0, in_field(offsetof(struct interp, mode))); /* test byte [mode], MODE_USER */
        emit_u8(e, MODE_USER);
        kernel = emit_jcc_later(e, 4);
        emit_is_zero(e, true, in_field(offsetof(struct interp, vectors_live)));
        live = emit_jcc_later(e, 5);
        emit_load(e, SCRATCH0, in_field(offsetof(struct interp, cpu)));
        emit_load_vectors(e, SCRATCH0, avx);
        emit_set_byte(e, in_field(offsetof(struct interp, vectors_live)), 1);
        emit_patch(e, kernel, emit_off(e));
        emit_patch(e, live, emit_off(e));
        emit_lea(e, RSP, in_field(offsetof(struct interp, regs)));
        emit_guest_registers(e, false);
        emit_lea(e, SCRATCH0, hmem_ctx(CTX(bounce[1])));
        emit_last_look(e, SCRATCH1, window, leave);
}

static void emit_exit(struct emitter *e, fast_fn *fast, const u8 *go_on, const u8 *leave)
{
        emit_guest_registers(e, true);
        emit_lea(e, RBX, hmem_base(RSP, -(s32)offsetof(struct interp, regs)));
        emit_load(e, RSP, in_field(offsetof(struct interp, host_rsp)));
        emit_mov_rr(e, RDI, RBX);
        emit_mov_rr(e, RSI, SCRATCH1);
        emit_mov_rr(e, RDX, SCRATCH0);
        emit_mov_imm(e, RAX, (uintptr_t)fast);
        emit_op_reg(e, 0xff, false, 2, RAX); /* call rax */
        emit_mov_rr(e, SCRATCH1, RAX);
        emit_op_reg(e, 0x85, true, RAX, RAX); /* test rax, rax */
        emit_u8(e, 0x0f);
        emit_u8(e, 0x85); /* jne */
        emit_u32(e, (u32)emit_rel(e, go_on, 4));
        emit_lea(e, RSP, in_field(offsetof(struct interp, regs)));
        emit_jmp(e, leave);
}

/* @kicked is the exit that starts the site's instruction again, outside. */
static void emit_vectors_wanted(struct emitter *e, struct kick_window *window, const u8 *kicked, bool avx)
{
        emit_load(e, SCRATCH0, hmem_ctx(CTX(cpu)));
        emit_load_vectors(e, SCRATCH0, avx);
        emit_set_byte(e, hmem_ctx(CTX(vectors_live)), 1);
        emit_op_mem(e, 0x0fb7, false, SCRATCH0, hmem_base(SCRATCH1, offsetof(struct site, back))); /* movzx */
        emit_op_reg(e, 0xf7, true, 3, SCRATCH0);        /* neg */
        emit_op_reg(e, 0x01, true, SCRATCH1, SCRATCH0); /* the block's code */
        emit_store(e, hmem_ctx(CTX(rip)), SCRATCH1);    /* for who is kicked; scratch 2 is in use */
        emit_op_mem(e, 0x0fb7, false, SCRATCH1, hmem_base(SCRATCH1, offsetof(struct site, resume_off))); /* movzx */
        emit_op_reg(e, 0x01, true, SCRATCH1, SCRATCH0);
        emit_last_look(e, SCRATCH0, window, kicked);
}

/* scratch @reg, an offset in the tables of the current space, becomes an address. */
static void emit_space(struct emitter *e, unsigned reg)
{
        emit_op_mem(e, 0x03, true, reg, hmem_ctx(CTX(tlb.space))); /* add */
}

/* A look-up for user-mode code: in the space's table. */
static bool in_user_mode(enum exit_kind kind)
{
        return kind == TEXIT_LOOKUP_USER || kind == TEXIT_CROSS_USER;
}

static struct hmem more_member(enum exit_kind kind, size_t member)
{
        static const u8 jumps[TEXIT_KINDS] = {
                [TEXIT_LOOKUP_AC] = TLB_JUMP_AC, [TEXIT_CROSS] = TLB_JUMP_CROSSING, [TEXIT_CROSS_USER] = TLB_JUMP_CROSSING,
        };

        member += jumps[kind] * TLB_MORE_JUMPS * sizeof(struct tlb_jump);
        if (in_user_mode(kind))
                return hmem_base(SCRATCH2, (s32)(offsetof(struct tlb_table, more_jumps) + member));
        return (struct hmem){ .base = RSP, .index = SCRATCH2, .disp = CTX(tlb.kernel.more_jumps) + (s32)member };
}

/* The member of the victim at scratch 1. */
static struct hmem victim_member(bool user, size_t member)
{
        const s32 disp = (s32)(TLB_SIZE * sizeof(struct tlb_entry) + member);

        if (user)
                return hmem_base(SCRATCH1, disp);
        return (struct hmem){ .base = RSP, .index = SCRATCH1, .disp = CTX(tlb.kernel.entries) + disp };
}
#define SPLIT_MAX 64u /* bytes of an operand: near the end of a page C looks whether it crosses */

static void emit_jump_if(struct emitter *e, unsigned cc, const u8 *target)
{
        emit_u8(e, 0x0f);
        emit_u8(e, 0x80 | cc);
        emit_u32(e, (u32)emit_rel(e, target, 4));
}

/* r10 = gva, r11 = site; nothing of the instruction happens here, so a kick just starts it over: @kicked with r11 = site, behind a load of it from
 * in->site. @missed_saved likewise loads r11 and r14. */
static void emit_miss(struct emitter *e, bool user, enum mmu_access access, struct kick_window windows[2], const u8 *missed_saved,
                      const u8 *kicked_saved, const u8 *kicked)
{
        windows[0].start = e->run_at + emit_off(e);
        emit_store(e, hmem_ctx(CTX(site)), SCRATCH1);
        windows[0].end = windows[1].start = e->run_at + emit_off(e);
        windows[0].go_to = kicked;
        emit_store(e, hmem_ctx(CTX(scratch2)), SCRATCH2);
        emit_mov_rr(e, SCRATCH2, SCRATCH0);
        emit_bytes(e, (const u8[]){ 0x49, 0x81, 0xe6 }, 3); /* and r14, simm32 */
        emit_u32(e, (u32)PAGE_MASK);
        emit_bytes(e, (const u8[]){ 0x4d, 0x69, 0xde }, 3); /* imul r11, r14, imm32 */
        emit_u32(e, TLB_FACTOR);
        emit_bytes(e, (const u8[]){ 0x49, 0xc1, 0xeb, TLB_VICTIM_SHIFT - 5 }, 4); /* shr r11, imm: an entry has 32 bytes */
        emit_bytes(e, (const u8[]){ 0x41, 0x81, 0xe3 }, 3); /* and r11d, imm32 */
        emit_u32(e, (TLB_VICTIMS - 1) << 5);
        if (user)
                emit_space(e, SCRATCH1);
        emit_op_mem(e, 0x3b, true, SCRATCH2, victim_member(user, offsetof(struct tlb_entry, base) + 8 * access)); /* cmp */
        emit_jump_if(e, 5, missed_saved);
        emit_op_reg(e, 0x31, true, SCRATCH0, SCRATCH2);     /* xor r14, r10: the offset */
        emit_bytes(e, (const u8[]){ 0x49, 0x81, 0xfe }, 3); /* cmp r14, imm32 */
        emit_u32(e, (u32)PAGE_SIZE - SPLIT_MAX);
        emit_jump_if(e, 7, missed_saved);
        emit_mov_rr(e, SCRATCH0, SCRATCH2);
        emit_op_mem(e, 0x03, true, SCRATCH0, victim_member(user, offsetof(struct tlb_entry, page))); /* add */
        emit_load(e, SCRATCH1, hmem_ctx(CTX(site)));
        emit_op_mem(e, 0x0fb7, false, SCRATCH2, hmem_base(SCRATCH1, offsetof(struct site, hit_back))); /* movzx */
        emit_op_reg(e, 0x29, true, SCRATCH2, SCRATCH1); /* sub r11, r14 */
        emit_load(e, SCRATCH2, hmem_ctx(CTX(scratch2)));
        emit_jmp_reg(e, SCRATCH1);
        windows[1].end = e->run_at + emit_off(e);
        windows[1].go_to = kicked_saved;
}

/* r10 = target, r11 = site; scratch 2 is free: blocks end here. A kick before the guest's rsp has changed starts over in C, one after that finds all
 * done but for the jump. */
static void emit_lookup(struct emitter *e, enum exit_kind kind, struct kick_window windows[2], const u8 *missed, const u8 *arrived)
{
        const struct hmem code = hmem_ctx(CTX(scratch2));

        windows[0].start = e->run_at + emit_off(e);
        emit_bytes(e, (const u8[]){ 0x4d, 0x69, 0xf2 }, 3); /* imul r14, r10, imm32 */
        emit_u32(e, TLB_FACTOR);
        emit_bytes(e, (const u8[]){ 0x49, 0xc1, 0xee, TLB_MORE_SHIFT - 4 }, 4); /* shr r14, imm: a slot has 16 bytes */
        emit_bytes(e, (const u8[]){ 0x41, 0x81, 0xe6 }, 3); /* and r14d, imm32 */
        emit_u32(e, (TLB_MORE_JUMPS - 1) << 4);
        if (in_user_mode(kind))
                emit_space(e, SCRATCH2);
        emit_op_mem(e, 0x3b, true, SCRATCH0, more_member(kind, offsetof(struct tlb_jump, rip)));
        emit_jump_if(e, 5, missed);
        emit_load(e, SCRATCH2, more_member(kind, offsetof(struct tlb_jump, code)));
        emit_store(e, code, SCRATCH2);
        emit_op_mem(e, 0x0fb7, false, SCRATCH2, hmem_base(SCRATCH1, offsetof(struct site, resume_off))); /* movzx */
        emit_lea(e, HOST_GUEST_RSP, (struct hmem){ .base = HOST_GUEST_RSP, .index = SCRATCH2 });
        windows[0].end = windows[1].start = e->run_at + emit_off(e);
        windows[0].go_to = missed;
        if (in_user_mode(kind)) {
                emit_mov_rr(e, SCRATCH2, SCRATCH0);
                emit_bytes(e, (const u8[]){ 0x49, 0x81, 0xe6 }, 3); /* and r14, simm32 */
                emit_u32(e, (u32)PAGE_MASK);
                emit_store(e, hmem_ctx(CTX(page_va)), SCRATCH2);
        }
        emit_op_mem(e, 0xff, false, 4, code); /* jmp [scratch2] */
        windows[1].end = e->run_at + emit_off(e);
        windows[1].go_to = arrived;
}

static const u8 *here(struct emitter *e)
{
        while (emit_off(e) % 16)
                emit_u8(e, 0xcc);
        return e->run_at + emit_off(e);
}

struct way_in {
        const u8 *go_on, *arrived, *kicked, *kicked_saved;
};

/* The exit of @kind; those that need not call C always look first. Returns the windows behind those used. */
static struct kick_window *emit_kind(struct emitter *e, struct stubs *stubs, enum exit_kind kind, const struct way_in *to,
                                     struct kick_window *windows)
{
        const u8 *exit = here(e), *saved;

        stubs->exits[kind] = exit;
        emit_exit(e, fast_exits[kind], to->go_on, stubs->leave);
        switch (kind) {
        case TEXIT_MISS:
        case TEXIT_MISS_WRITE:
        case TEXIT_MISS_USER:
        case TEXIT_MISS_USER_WRITE:
                saved = here(e);
                emit_load(e, SCRATCH1, hmem_ctx(CTX(site)));
                emit_load(e, SCRATCH2, hmem_ctx(CTX(scratch2)));
                emit_jmp(e, exit);
                stubs->exits[kind] = here(e);
                emit_miss(e, kind >= TEXIT_MISS_USER, kind == TEXIT_MISS_WRITE || kind == TEXIT_MISS_USER_WRITE ? MMU_WRITE : MMU_READ,
                          windows, saved, to->kicked_saved, to->kicked);
                return windows + 2;
        case TEXIT_LOOKUP:
        case TEXIT_LOOKUP_AC:
        case TEXIT_LOOKUP_USER:
        case TEXIT_CROSS:
        case TEXIT_CROSS_USER:
                stubs->exits[kind] = here(e);
                emit_lookup(e, kind, windows, exit, to->arrived);
                return windows + 2;
        default:
                return windows;
        }
}

void stubs_emit(struct stubs *stubs, u8 *code, const u8 *run_at)
{
        struct emitter e = { .start = code, .p = code, .end = code + STUBS_SIZE, .run_at = run_at };
        const bool avx = __builtin_cpu_supports("avx");
        struct kick_window *windows = stubs->windows;
        struct way_in to;
        const u8 *kicked;

        stubs->store_vectors = (void (*)(struct cpu_state *))(uintptr_t)here(&e);
        emit_vectors(&e, true, RDI, avx);
        emit_u8(&e, 0xc3);
        stubs->leave = here(&e);
        emit_leave(&e, avx);
        stubs->enter = (translate_enter_fn *)(uintptr_t)here(&e);
        emit_enter(&e);
        to.go_on = e.run_at + emit_off(&e);
        emit_go_on(&e, windows++, stubs->leave, avx);
        to.arrived = here(&e);
        emit_exit(&e, fast_arrived, to.go_on, stubs->leave);
        to.kicked_saved = here(&e);
        emit_load(&e, SCRATCH1, hmem_ctx(CTX(site)));
        to.kicked = e.run_at + emit_off(&e);
        emit_exit(&e, fast_kicked, to.go_on, stubs->leave);
        for (unsigned kind = 0; kind < TEXIT_KINDS; kind++)
                if (kind != TEXIT_VECTORS)
                        windows = emit_kind(&e, stubs, kind, &to, windows);
        kicked = here(&e);
        emit_load(&e, SCRATCH1, hmem_ctx(CTX(rip)));
        emit_jmp(&e, to.kicked);
        stubs->exits[TEXIT_VECTORS] = here(&e);
        emit_vectors_wanted(&e, windows, kicked, avx);
}

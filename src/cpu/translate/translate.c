/* A block, from the guest's bytes to the host's: one pass over the instructions, then the cold code.
 *
 * A block is a *superblock*: one entry, and it goes on behind conditional jumps that are not taken, up to a number of them. */
#include "block.h"

#define JCCS_MAX 2
#define INSTRUCTIONS_MAX 24
#define INSTRUCTIONS_MAX_SHADOW 64 /* code that is worth a shadow window: its loops should fit */
#define UNSHARED_MAX 8 /* then the windows may fit again */

/* ---- records, colds, links ---- */

void block_record(struct block_emitter *b, enum record_kind kind, unsigned guest_off, unsigned arg)
{
        struct translation *out = b->out;
        const u16 code_off = (u16)emit_off(&b->e);

        if (out->n_records && out->records[out->n_records - 1].code_off == code_off)
                out->n_records--; /* the later one is about the code that follows */
        if (out->n_records == BLOCK_RECORDS_MAX) {
                b->full = true;
                return;
        }
        out->records[out->n_records++] = (struct record){
                .code_off = code_off, .guest_off = (u16)guest_off, .kind = (u8)kind, .arg = (u8)arg,
                .flags_at = b->image_valid ? FLAGS_IN_IMAGE : b->eflags_valid ? FLAGS_IN_EFLAGS : FLAGS_ANYWHERE,
        };
}

struct cold *block_cold(struct block_emitter *b, unsigned patch_off, unsigned kind)
{
        struct cold *cold;

        if (b->n_colds == COLDS_MAX) {
                b->full = true;
                return NULL;
        }
        cold = &b->colds[b->n_colds++];
        *cold = (struct cold){ .patch_off = (u16)patch_off, .guest_off = b->guest_off, .kind = (u8)kind };
        return cold;
}

unsigned block_link(struct block_emitter *b, s32 target)
{
        struct translation *out = b->out;

        if (out->n_links == BLOCK_LINKS_MAX) {
                b->full = true;
                return 0;
        }
        out->links[out->n_links] = (struct link){ .target = target };
        return out->n_links++;
}

/* ---- flags ---- */

void flags_save(struct block_emitter *b)
{
        if (b->image_valid)
                return;
        if (!b->eflags_valid)
                b->no_anywhere = b->full = true;
        emit_pushfq_image(&b->e);
        b->image_valid = true;
        block_record_restart(b);
}

void flags_restore(struct block_emitter *b)
{
        static const u8 load[] = {
                0x0f, 0xb6, 0x44, 0x24, 0xf9, /* movzx eax, byte [rsp - 7]: OF is bit 3 */
                0x24, 0x08,                   /* and al, 8 */
                0xc0, 0xe0, 0x04,             /* shl al, 4 */
                0x00, 0xc0,                   /* add al, al: 80h + 80h overflows */
                0x8a, 0x64, 0x24, 0xf8,       /* mov ah, [rsp - 8] */
                0x9e,                         /* sahf */
        };
        struct emitter *e = &b->e;

        if (b->eflags_valid)
                return;
        emit_mov_rr(e, SCRATCH1, RAX);
        block_record(b, RECORD_SWAPPED, b->guest_off, RAX);
        emit_bytes(e, load, sizeof(load));
        emit_mov_rr(e, RAX, SCRATCH1);
        b->eflags_valid = true;
        block_record_restart(b);
}

/* ---- entries ---- */

/* Does the block need the flags it is entered with before anything of it would destroy them? Then they had better be in EFLAGS. */
static bool needs_flags_at_entry(const struct block_emitter *b)
{
        for (unsigned i = 0; i < b->n_insns; i++) {
                const struct insn *g = &b->insns[i];

                if (g->kind == KIND_JCC || (g->kind == KIND_PLAIN && g->needs_flags && !g->mem))
                        return true;
                if (g->writes_flags || g->mem || (g->kind != KIND_PLAIN && g->kind != KIND_LEA && g->kind != KIND_NOP))
                        return false;
        }
        return false;
}

/* Does the block set all flags before anything in it needs, destroys or could fault with those it is entered with? */
static bool ignores_flags_at_entry(const struct block_emitter *b)
{
        for (unsigned i = 0; i < b->n_insns; i++) {
                const struct insn *g = &b->insns[i];

                /* LEA and NOP have a memory operand that they do not touch. */
                if (g->kind == KIND_LEA || g->kind == KIND_NOP)
                        continue;
                if (g->kind != KIND_PLAIN || g->mem || g->vector || g->needs_flags)
                        return false;
                if (g->kills_flags)
                        return true;
        }
        return false;
}

static void emit_entries(struct block_emitter *b)
{
        /* So that rounds, and links that come with EFLAGS, need no more than probes. */
        const bool in_eflags = b->loop.n || (b->shadow_fixed && b->req->by_entry_a && b->prologue.n_uses);
        struct emitter *e = &b->e;

        b->eflags_valid = true;
        b->image_valid = false;
        block_record_restart(b);
        if (!in_eflags && !b->no_anywhere && ignores_flags_at_entry(b)) {
                emit_bytes(e, (const u8[]){ 0x66, 0x0f, 0x1f, 0x44, 0, 0 }, ENTRY_B); /* nop */
                b->eflags_valid = false;
                block_record_restart(b);
                return;
        }
        if (!in_eflags && !(b->shadow_fixed && b->req->by_entry_a) && !needs_flags_at_entry(b)) {
                emit_pushfq_image(e);
                b->image_valid = true;
                b->eflags_valid = false; /* they are not by entry B */
                block_record_restart(b);
                return;
        }
        emit_bytes(e, (const u8[]){ 0xeb, 0, 0x0f, 0x1f, 0x40, 0 }, ENTRY_B);
        b->image_valid = true;
        b->eflags_valid = false;
        block_record_restart(b);
        flags_restore(b);
        b->image_valid = false; /* it is not by entry A */
        b->out->entry_a = (u8)emit_off(e);
        if (!e->full)
                e->start[1] = (u8)(emit_off(e) - 2);
}

/* ---- instructions ---- */

void emit_fast(struct block_emitter *b, enum fast_id id, unsigned size)
{
        struct site site = { .guest_off = b->guest_off, .kind = TEXIT_FAST, .size = (u8)size, .arg = (u8)id,
                             .access = (u8)(b->next_off - b->guest_off) };

        flags_save(b);
        flags_destroyed(b);
        b->shadow_checks.n = 0; /* what C changes, window.c does not follow: FS */
        emit_site(b, &site);
}

/* What the emission of one instruction can change: put back when it turns out to be one for the interpreter. */
struct mark {
        u8 *p;
        unsigned n_records, n_links, n_sites, n_colds;
        struct record last_record;
        bool eflags_valid, image_valid, ac, full, vectors_checked;
        struct window open[WINDOWS];
        struct shadow_checks shadow_checks;
};

static void mark_set(const struct block_emitter *b, struct mark *m)
{
        *m = (struct mark){
                .p = b->e.p, .n_records = b->out->n_records, .n_links = b->out->n_links, .n_sites = b->out->n_sites, .n_colds = b->n_colds,
                .eflags_valid = b->eflags_valid, .image_valid = b->image_valid, .ac = b->ac, .full = b->full,
                .vectors_checked = b->vectors_checked,
        };
        memcpy(m->open, b->windows.open, sizeof(m->open));
        m->shadow_checks = b->shadow_checks;
        m->last_record = b->out->records[m->n_records - 1];
}

static void mark_return(struct block_emitter *b, const struct mark *m)
{
        b->e.p = m->p;
        b->out->n_records = m->n_records;
        b->out->records[m->n_records - 1] = m->last_record;
        b->out->n_links = m->n_links;
        b->out->n_sites = m->n_sites;
        b->n_colds = m->n_colds;
        b->eflags_valid = m->eflags_valid;
        b->image_valid = m->image_valid;
        b->ac = m->ac;
        b->full = m->full;
        b->vectors_checked = m->vectors_checked;
        memcpy(b->windows.open, m->open, sizeof(m->open));
        b->shadow_checks = m->shadow_checks;
}

/* User code finds them loaded (stubs.c); in the kernel's they are when the first block that uses them runs. */
static void check_vectors(struct block_emitter *b)
{
        struct emitter *e = &b->e;
        struct cold *cold;

        if (b->vectors_checked)
                return;
        flags_save(b);
        flags_destroyed(b);
        emit_op_mem(e, 0x80, false, 7, hmem_ctx(CTX(vectors_live))); /* cmp byte [vectors_live], 0 */
        emit_u8(e, 0);
        emit_jump_ahead(e, JCC_SIZE); /* not fused: memory and an immediate */
        cold = block_cold(b, emit_jcc_later(e, 4), TEXIT_VECTORS);
        if (cold)
                cold->resume_off = (u16)emit_off(e);
        b->vectors_checked = true;
        block_record_restart(b);
}

static bool emit_straight(struct block_emitter *b, const struct insn *g)
{
        if (g->vector)
                check_vectors(b);
        switch ((enum insn_kind)g->kind) {
        case KIND_PLAIN:
                return emit_plain(b, g);
        case KIND_LEA:
                return emit_lea_insn(b, g);
        case KIND_PUSH:
                return emit_push(b, g);
        case KIND_POP:
                return emit_pop(b, g);
        case KIND_LEAVE:
                return emit_leave(b, g);
        case KIND_PUSHFQ:
                return emit_pushfq(b, g);
        case KIND_FLAG_BIT:
                return emit_flag_bit(b, g);
        case KIND_BIT_TEST:
                return g->mem && g->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? emit_bit_test(b, g) : emit_plain(b, g);
        case KIND_STRING:
                return emit_string(b, g);
        case KIND_SYS:
                return emit_sys(b, g);
        case KIND_READ_SEG:
                return emit_read_seg(b, g);
        case KIND_X87:
                return emit_x87(b, g);
        case KIND_NOP:
                b->class = INSN_IDENTITY;
                return true;
        default:
                return false;
        }
}

/* The ends of a block. */
static bool emit_end(struct block_emitter *b, const struct insn *g)
{
        switch ((enum insn_kind)g->kind) {
        case KIND_JRCXZ:
                return emit_jrcxz(b, g);
        case KIND_JMP:
                return emit_jmp_insn(b, g);
        case KIND_CALL:
                return emit_call(b, g);
        case KIND_RET:
                return emit_ret(b, g);
        case KIND_SYS_END:
                return emit_sys(b, g);
        default:
                return false;
        }
}

static bool is_end(const struct insn *g)
{
        return g->kind == KIND_JRCXZ || g->kind == KIND_JMP || g->kind == KIND_CALL || g->kind == KIND_RET ||
               g->kind == KIND_SYS_END;
}

static void note(struct block_emitter *b, unsigned code_off)
{
        struct insn_note *notes = b->req->notes;

        if (notes)
                notes[b->out->n_instructions] = (struct insn_note){
                        .guest_off = b->guest_off, .code_off = (u16)code_off, .class = b->class, .why = b->why,
                };
}

/* Emits one instruction; returns true when the block ends with it. */
static bool emit_one(struct block_emitter *b, const struct insn *g, bool may_go_on)
{
        const unsigned code_off = emit_off(&b->e);
        bool ends = true, done = false;
        struct mark mark;

        b->guest_off = g->off;
        b->next_off = (u16)(g->off + g->z.length);
        b->n_begun = (u16)(g - b->insns + 1);
        b->insn_has_resume = false;
        b->scratch2_busy = false;
        b->why = NULL;
        block_record_restart(b);
        if (g->kind == KIND_PLAIN && !g->mem && g->writes_flags && g + 1 < b->insns + b->n_insns && g[1].kind == KIND_JCC)
                emit_jump_ahead(&b->e, g->z.length + 1u + JCC_SIZE);
        mark_set(b, &mark);
        if (b->req->mode & MODE_SPLIT && g->kind != KIND_PLAIN) {
                done = false; /* a string instruction, a push: rare */
        } else if (g->kind == KIND_JCC) {
                done = emit_jcc(b, g, may_go_on);
                ends = !may_go_on;
        } else if (is_end(g)) {
                done = emit_end(b, g);
        } else if (g->kind < KIND_FORM) {
                done = emit_straight(b, g);
                ends = false;
        }
        if (!done) {
                mark_return(b, &mark);
                b->class = INSN_CALL_OUT;
                b->why = "left to the interpreter";
                emit_interp(b, g->kind == KIND_INTERP ? g->reason : b->req->mode & MODE_SPLIT ? INTERP_REASON_MEMORY : INTERP_REASON_FORM);
                ends = true;
        }
        note(b, code_off);
        b->out->n_instructions++;
        return ends;
}

/* ---- the block ---- */

/* Decodes up to @max instructions, as far as a block goes. *ret_bytes: of all; *ret_cut: what follows does not decode in this page. */
static void decode(struct block_emitter *b, unsigned max, unsigned *ret_bytes, bool *ret_cut)
{
        const struct translate_request *req = b->req;
        unsigned off = 0, jccs = 0;
        ZydisDecoder decoder;
        bool ends = false;

        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        *ret_cut = false;
        max = req->crossing || req->mode & MODE_SPLIT ? 1 : max;
        for (b->n_insns = 0; b->n_insns < max && off < req->room && !ends; b->n_insns++) {
                struct insn *g = &b->insns[b->n_insns];

                if (!insn_analyse(req, &decoder, req->code + off, req->room - off, g)) {
                        *ret_cut = true;
                        break;
                }
                g->off = (u16)off;
                off += g->z.length;
                jccs += g->kind == KIND_JCC;
                ends = is_end(g) || g->kind >= KIND_FORM || (g->kind == KIND_JCC && jccs == JCCS_MAX) ||
                       (req->no_chains && (g->kind == KIND_JCC || g->kind == KIND_SYS));
        }
        *ret_bytes = off;
}

/* One attempt with at most @max instructions; false when a table or the buffer was too small. */
static bool emit_block(struct block_emitter *b, unsigned max)
{
        const struct translate_request *req = b->req;
        struct translation *out = b->out;
        bool ends = false, cut;
        unsigned bytes;

        decode(b, max, &bytes, &cut);
        windows_find(&b->windows, b->insns, b->n_insns, req->rip, b->shadow ? req->regs : NULL);
        loop_find(b);
        prologue_find(b);
        emit_entries(b);
        prologue_emit(b);
        for (unsigned i = 0; i < b->n_insns && !ends; i++) {
                /* The last conditional jump has both its sides linked. */
                ends = emit_one(b, &b->insns[i], i + 1 < b->n_insns);
                bytes = b->next_off;
        }
        if (!ends) {
                b->guest_off = (u16)bytes;
                block_record_restart(b);
                if (cut) {
                        b->next_off = (u16)bytes;
                        /* Crosses the page: a block of its own, with the bytes behind it. Or it is no instruction, which is the interpreter's. */
                        if (req->room - bytes < ZYDIS_MAX_INSTRUCTION_LENGTH && !req->crossing && !req->no_chains)
                                emit_cross(b, bytes);
                        else
                                emit_interp(b, INTERP_REASON_PAGE_END);
                        bytes = MIN(bytes + ZYDIS_MAX_INSTRUCTION_LENGTH, req->room);
                        out->n_instructions += !out->n_instructions;
                } else {
                        emit_goto(b, (s32)(req->rip & (PAGE_SIZE - 1)) + (s32)bytes, false);
                }
        }
        emit_colds(b);
        out->guest_bytes = bytes;
        out->code_size = emit_off(&b->e);
        return !b->e.full && !b->full;
}

static unsigned instructions_max(const struct translate_request *req)
{
        if (req->mode & MODE_UNSHARED)
                return UNSHARED_MAX;
        return req->mode & MODE_SHADOW ? INSTRUCTIONS_MAX_SHADOW : INSTRUCTIONS_MAX;
}

static void block_begin(struct block_emitter *b, const struct translate_request *req, struct translation *out, struct insn *insns)
{
        memset(b, 0, offsetof(struct block_emitter, windows));
        b->req = req;
        b->out = out;
        b->insns = insns;
        b->user = b->vectors_checked = req->mode & MODE_USER;
        b->shadow = req->mode & MODE_SHADOW;
        b->shadow_fixed = req->mode & MODE_SHADOW_FIXED;
        b->ac = req->mode & MODE_AC;
        b->e = (struct emitter){ .start = out->code, .p = out->code, .end = out->code + BLOCK_CODE_MAX, .run_at = req->run_at,
                                 .jumps_in_line = req->jumps_in_line };
        out->n_links = out->n_records = out->n_sites = out->n_instructions = 0;
        out->body_off = out->entry_a = 0;
}

bool translate_block(const struct translate_request *req, struct translation *ret)
{
        struct insn insns[INSTRUCTIONS_MAX_SHADOW];
        struct block_emitter b;
        bool no_anywhere = false;

        for (unsigned max = instructions_max(req); max;) {
                block_begin(&b, req, ret, insns);
                b.no_anywhere = no_anywhere;
                if (emit_block(&b, max))
                        return true;
                if (b.no_anywhere && !no_anywhere)
                        no_anywhere = true;
                else
                        max /= 2;
        }
        return false;
}

/* Follows a block's code from both of its entries, as the processor would, and judges every instruction that can be reached:
 *
 * - it decodes, and control stays inside the block's code or goes to a stub;
 * - memory is only addressed through the context (rsp) and the scratch registers, which hold what the soft TLB said, never through a register that
 *   holds a guest's value. A register that was loaded from a scratch register right before will do: AH to BH go without REX. Blocks of a shadow window
 *   are judged by emitted_shadow.c;
 * - rsp is only changed by LEA around PUSHFQ, r15 and the other guest registers are the guest's business;
 * - nothing is executed that changes the processor's mode, segments, direction flag or system state. */
#include "emitted.h"
#include "emitted_shadow.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cpu/interp/host.h"

#define RUN_AT 0x7f0000100000ULL
#define STUB_SPACING 64u

struct walk {
        ZydisDecoder decoder;
        const struct translation *t;
        bool shadow;
        bool seen[BLOCK_CODE_MAX];
        u16 from[BLOCK_CODE_MAX]; /* an instruction that leads there */
        unsigned at;
        u16 todo[BLOCK_CODE_MAX];
        unsigned n_todo;
};

static u64 stub_address(unsigned kind)
{
        return RUN_AT - 0x10000 + kind * STUB_SPACING;
}

static void visit(struct walk *w, unsigned off)
{
        if (w->seen[off])
                return;
        w->seen[off] = true;
        w->from[off] = (u16)w->at;
        w->todo[w->n_todo++] = (u16)off;
}

/* A jump's target: code of the block, or a stub. */
static const char *go(struct walk *w, u64 target)
{
        if (target >= RUN_AT && target < RUN_AT + w->t->code_size) {
                visit(w, (unsigned)(target - RUN_AT));
                return NULL;
        }
        for (unsigned kind = 0; kind < TEXIT_KINDS; kind++)
                if (target == stub_address(kind))
                        return NULL;
        return "a jump leaves the block for somewhere else";
}

static bool is_forbidden(const ZydisDecodedInstruction *insn)
{
        if (insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
                return true;
        switch (insn->mnemonic) {
        case ZYDIS_MNEMONIC_STD:
        case ZYDIS_MNEMONIC_CLD:
        case ZYDIS_MNEMONIC_POPF:
        case ZYDIS_MNEMONIC_POPFD:
        case ZYDIS_MNEMONIC_POPFQ:
        case ZYDIS_MNEMONIC_SYSCALL:
        case ZYDIS_MNEMONIC_SYSENTER:
        case ZYDIS_MNEMONIC_INT:
        case ZYDIS_MNEMONIC_INT1:
        case ZYDIS_MNEMONIC_INTO:
        case ZYDIS_MNEMONIC_IRET:
        case ZYDIS_MNEMONIC_IRETD:
        case ZYDIS_MNEMONIC_IRETQ:
        case ZYDIS_MNEMONIC_RDFSBASE:
        case ZYDIS_MNEMONIC_RDGSBASE:
        case ZYDIS_MNEMONIC_WRFSBASE:
        case ZYDIS_MNEMONIC_WRGSBASE:
        case ZYDIS_MNEMONIC_SWAPGS:
        case ZYDIS_MNEMONIC_XSETBV:
        case ZYDIS_MNEMONIC_XRSTOR:
        case ZYDIS_MNEMONIC_XRSTOR64:
        case ZYDIS_MNEMONIC_WRPKRU:
        case ZYDIS_MNEMONIC_CPUID:
        case ZYDIS_MNEMONIC_FNSTENV:
        case ZYDIS_MNEMONIC_FNSAVE:
        case ZYDIS_MNEMONIC_FXSAVE:
        case ZYDIS_MNEMONIC_FXSAVE64:
        case ZYDIS_MNEMONIC_XSAVE:
        case ZYDIS_MNEMONIC_XSAVE64:
        case ZYDIS_MNEMONIC_XSAVEC:
        case ZYDIS_MNEMONIC_XSAVEC64:
        case ZYDIS_MNEMONIC_XSAVEOPT:
        case ZYDIS_MNEMONIC_XSAVEOPT64:
        case ZYDIS_MNEMONIC_ENTER:
        case ZYDIS_MNEMONIC_LEAVE:
        case ZYDIS_MNEMONIC_CALL:
        case ZYDIS_MNEMONIC_RET:
                return true;
        default:
                return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
        }
}

static bool is_scratch(ZydisRegister reg)
{
        return reg == ZYDIS_REGISTER_R10 || reg == ZYDIS_REGISTER_R11 || reg == ZYDIS_REGISTER_R14;
}

/* Was @reg made from a scratch register by the instruction before? */
static bool is_borrowed(const struct walk *w, ZydisRegister reg)
{
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction insn;
        const unsigned off = w->from[w->at];

        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&w->decoder, w->t->code + off, w->t->code_size - off, &insn, ops)) ||
            ops[0].type != ZYDIS_OPERAND_TYPE_REGISTER || ops[0].reg.value != reg)
                return false;
        return (insn.mnemonic == ZYDIS_MNEMONIC_LEA && is_scratch(ops[1].mem.base) && ops[1].mem.index == ZYDIS_REGISTER_NONE) ||
               (insn.mnemonic == ZYDIS_MNEMONIC_MOV && ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && is_scratch(ops[1].reg.value));
}

static const char *judge_memory(const struct walk *w, const ZydisDecodedOperand *op)
{
        if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
                return NULL;
        if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
                return "memory is addressed through a vector register";
        if (op->mem.base == ZYDIS_REGISTER_RSP)
                return op->mem.segment == ZYDIS_REGISTER_FS || op->mem.segment == ZYDIS_REGISTER_GS ? "rsp with a segment" : NULL;
        if (op->mem.segment == ZYDIS_REGISTER_FS)
                return "an FS segment";
        return w->shadow || is_scratch(op->mem.base) || is_borrowed(w, op->mem.base) ? NULL : "memory is addressed through a register that is the guest's";
}

static const char *judge_operands(const struct walk *w, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
        if (insn->meta.category == ZYDIS_CATEGORY_WIDENOP) /* accesses nothing */
                return NULL;
        for (unsigned i = 0; i < insn->operand_count; i++) {
                const ZydisDecodedOperand *op = &ops[i];
                const char *wrong = NULL;

                if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && insn->mnemonic != ZYDIS_MNEMONIC_NOP) /* which touches none */
                        wrong = judge_memory(w, op);
                else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
                        const ZydisRegisterClass c = ZydisRegisterGetClass(op->reg.value);

                        if (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op->reg.value) == ZYDIS_REGISTER_RSP &&
                            insn->mnemonic != ZYDIS_MNEMONIC_PUSHFQ && insn->mnemonic != ZYDIS_MNEMONIC_LEA)
                                wrong = "rsp is written";
                        if (c == ZYDIS_REGCLASS_SEGMENT || c == ZYDIS_REGCLASS_CONTROL || c == ZYDIS_REGCLASS_DEBUG)
                                wrong = "a system register is written";
                }
                if (wrong)
                        return wrong;
        }
        return NULL;
}

/* One instruction at @off, and where it leads. */
static const char *step(struct walk *w, unsigned off)
{
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction insn;
        const u64 at = RUN_AT + off;
        const char *wrong;
        ZyanU64 target;

        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&w->decoder, w->t->code + off, w->t->code_size - off, &insn, ops)))
                return "code does not decode";
        if (is_forbidden(&insn))
                return "a forbidden instruction";
        wrong = judge_operands(w, &insn, ops);
        if (wrong)
                return wrong;
        if (insn.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE) {
                if (off + insn.length >= w->t->code_size)
                        return "code runs off its end";
                visit(w, off + insn.length);
                return NULL;
        }
        if (insn.meta.category == ZYDIS_CATEGORY_COND_BR) {
                if (off + insn.length >= w->t->code_size)
                        return "code runs off its end";
                visit(w, off + insn.length);
        }
        if (ops[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE) {
                /* The jump cache, which only code of blocks gets into: by way of scratch registers. */
                return insn.meta.category == ZYDIS_CATEGORY_COND_BR ? "a conditional indirect jump" : NULL;
        }
        if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&insn, &ops[0], at, &target)))
                return "a jump without a target";
        return go(w, target);
}

static void print_instruction(const struct walk *w, unsigned off)
{
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction insn;
        ZydisFormatter formatter;
        char text[128] = "?";

        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&w->decoder, w->t->code + off, w->t->code_size - off, &insn, ops)))
                ZydisFormatterFormatInstruction(&formatter, &insn, ops, insn.operand_count_visible, text, sizeof(text), RUN_AT + off, NULL);
        fprintf(stderr, "# at code offset %u: %s\n", off, text);
}

static const char *judge_tables(const struct translation *t, unsigned room)
{
        if (t->code_size > BLOCK_CODE_MAX || t->guest_bytes > room || t->n_links > BLOCK_LINKS_MAX || t->n_records > BLOCK_RECORDS_MAX)
                return "a size";
        if (!t->n_instructions || t->n_instructions > BLOCK_GUEST_MAX || !t->n_records || t->records[0].code_off)
                return "a count";
        for (unsigned i = 0; i < t->n_links; i++) {
                const struct link *link = &t->links[i];

                if (link->patch_off + 4u > t->code_size || link->stub_off >= t->code_size)
                        return "a link's offsets";
                if ((RUN_AT + link->patch_off) / 64 != (RUN_AT + link->patch_off + 3) / 64) /* SDM 3A, 12.1.3 */
                        return "a link that cannot be patched at once";
        }
        for (unsigned i = 0; i < t->n_records; i++) {
                const struct record *r = &t->records[i];

                if (r->code_off >= t->code_size || (i && r->code_off <= r[-1].code_off) || r->guest_off > t->guest_bytes ||
                    r->flags_at > FLAGS_ANYWHERE || r->kind > RECORD_LINK)
                        return fprintf(stderr, "# record %u of %u: code %u of %u guest %u of %u kind %u flags %u\n", i, t->n_records, r->code_off,
                                       t->code_size, r->guest_off, t->guest_bytes, r->kind, r->flags_at) ? "a record" : NULL;
                /* By which entry the block was entered may be forgotten for as long as nothing needs to know: from entry B on, without a gap. And a loop's
                 * comparisons at its latch have no flags. */
                if (r->flags_at == FLAGS_ANYWHERE && !(t->body_off && r->code_off > t->body_off && r->kind == RECORD_RESTART) && (i == 0 || (i > 1 && r[-1].flags_at != FLAGS_ANYWHERE) ||
                                                      (r->kind != RECORD_RESTART && r->kind != RECORD_FINISH_REG)))
                        return "a record with flags anywhere";
                if (r->kind == RECORD_LINK && r->arg >= t->n_links)
                        return "a record's link";
        }
        return NULL;
}

static const char *judge_code(const struct translation *t, const struct translate_request *req)
{
        _cleanup_free_ struct walk *w = calloc(1, sizeof(*w));
        const char *wrong = NULL;

        if (!w)
                return "no memory";
        w->t = t;
        w->shadow = req->mode & MODE_SHADOW;
        ZydisDecoderInit(&w->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        if (t->code_size <= ENTRY_B)
                return "a block without an entry";
        visit(w, 0);
        visit(w, ENTRY_B);
        while (w->n_todo && !wrong)
                wrong = step(w, w->at = w->todo[--w->n_todo]);
        if (!wrong && w->shadow)
                wrong = emitted_shadow_judge(t, req, &w->at);
        for (unsigned i = 0, off = w->at; wrong && i < 12; i++, off = w->from[off])
                print_instruction(w, off);
        return wrong;
}

const char *emitted_check(const u8 *code, unsigned room, u64 rip, u32 mode, bool no_chains, const u64 *regs, bool *ret_translated)
{
        _cleanup_free_ struct translation *t = calloc(1, sizeof(*t));
        _cleanup_free_ u8 *buffer = malloc(BLOCK_CODE_MAX), *bytes = malloc(room);
        const void *stubs[TEXIT_KINDS];
        bool extensions[ZYDIS_ISA_EXT_MAX_VALUE + 1];
        const struct translate_request req = {
                .rip = rip, .gpa = 0x1000000 | (rip & (PAGE_SIZE - 1)), .code = bytes, .room = room, .mode = mode, .no_chains = no_chains, .by_entry_a = room & 1, .regs = regs,
                .run_at = (const u8 *)RUN_AT, .stubs = stubs, .has_extension = extensions,
        };
        struct vcpu vcpu = { .n_vcpus = 1 };
        const char *wrong;

        if (!t || !buffer || !bytes)
                return "no memory";
        memcpy(bytes, code, room);
        cpu_state_reset(&vcpu.state, true);
        for (unsigned ext = 0; ext <= ZYDIS_ISA_EXT_MAX_VALUE; ext++)
                extensions[ext] = host_model_has(&vcpu, ext);
        for (unsigned kind = 0; kind < TEXIT_KINDS; kind++)
                stubs[kind] = (const void *)(uintptr_t)stub_address(kind);
        t->code = buffer;
        *ret_translated = translate_block(&req, t);
        if (!*ret_translated)
                return NULL;
        wrong = judge_tables(t, room);
        return wrong ? wrong : judge_code(t, &req);
}

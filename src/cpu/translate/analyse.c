/* Decoding and judging: what an instruction reads and writes, which emitter it belongs to, or why it is left to the interpreter. */
#include "analyse.h"

#include <stdlib.h>

#include "isa/isa.h"

static const u8 kind_of[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define INSN_KIND(mnemonic, kind) [ZYDIS_MNEMONIC_##mnemonic] = KIND_##kind,
#include "kinds.def"
#undef INSN_KIND
};

/* Registers that translated code does not have where the instruction expects them. */
static bool is_foreign(ZydisRegister reg)
{
        if (decode_is_vector(reg))
                return decode_vector_number(reg) > 15;
        if (decode_is_gpr(reg) || (reg >= ZYDIS_REGISTER_FLAGS && reg <= ZYDIS_REGISTER_RIP))
                return false;
        return ZydisRegisterGetClass(reg) != ZYDIS_REGCLASS_INVALID;
}

static void note_mem(struct insn *g, const ZydisDecodedOperand *op)
{
        if (decode_is_gpr(op->mem.base))
                g->gprs |= (u16)BIT(insn_gpr(op->mem.base));
        if (decode_is_gpr(op->mem.index))
                g->gprs |= (u16)BIT(insn_gpr(op->mem.index));
        if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
                return;
        g->mem = op;
        g->mem_size = (u16)(op->size / 8);
        /* MOVSXD r16, r/m16 (SDM 2B), which Zydis takes for r/m32. */
        if (g->z.mnemonic == ZYDIS_MNEMONIC_MOVSXD && g->z.operand_width == 16)
                g->mem_size = 2;
        g->mem_reads = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
        g->mem_writes = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        g->disp = op->mem.disp.has_displacement ? (u64)op->mem.disp.value : 0;
}

static void correct_operands(struct insn *g)
{
        for (unsigned i = 0; decode_sib_without_base(&g->z) && i < g->z.operand_count_visible; i++)
                if (g->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
                        g->ops[i].mem.base = ZYDIS_REGISTER_NONE;
                        g->ops[i].mem.disp.has_displacement = true;
                        g->ops[i].mem.disp.value = g->z.raw.disp.value;
                }
}

/* False when an operand is one that no emitter handles. */
static bool note_operands(struct insn *g)
{
        bool fine = true;

        correct_operands(g);

        for (unsigned i = 0; i < g->z.operand_count; i++) {
                const ZydisDecodedOperand *op = &g->ops[i];

                if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
                        fine &= !g->mem;
                        note_mem(g, op);
                        fine &= op->mem.type == ZYDIS_MEMOP_TYPE_MEM || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN;
                } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
                        const ZydisRegister reg = op->reg.value;

                        if (decode_is_gpr(reg))
                                g->gprs |= (u16)BIT(insn_gpr(reg));
                        g->high_byte |= decode_is_high_byte(reg);
                        g->vector |= decode_is_vector(reg);
                        fine &= !is_foreign(reg);
                } else if (op->type == ZYDIS_OPERAND_TYPE_POINTER) {
                        fine = false;
                }
        }
        return fine;
}

/* The processor leaves these flags as they were although the manual calls them undefined, or does so for some counts. */
static bool may_keep_flags(const struct insn *g)
{
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_SHL:
        case ZYDIS_MNEMONIC_SHR:
        case ZYDIS_MNEMONIC_SAR:
                /* A count of 0 keeps all flags. */
                return g->ops[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !(g->ops[1].imm.value.u & (g->ops[0].size == 64 ? 63 : 31));
        case ZYDIS_MNEMONIC_ADD:
        case ZYDIS_MNEMONIC_SUB:
        case ZYDIS_MNEMONIC_AND:
        case ZYDIS_MNEMONIC_OR:
        case ZYDIS_MNEMONIC_XOR:
        case ZYDIS_MNEMONIC_CMP:
        case ZYDIS_MNEMONIC_TEST:
        case ZYDIS_MNEMONIC_NEG:
        case ZYDIS_MNEMONIC_XADD:
        case ZYDIS_MNEMONIC_CMPXCHG:
        case ZYDIS_MNEMONIC_ADC:
        case ZYDIS_MNEMONIC_SBB:
        case ZYDIS_MNEMONIC_IMUL:
        case ZYDIS_MNEMONIC_MUL:
        case ZYDIS_MNEMONIC_COMISS:
        case ZYDIS_MNEMONIC_COMISD:
        case ZYDIS_MNEMONIC_UCOMISS:
        case ZYDIS_MNEMONIC_UCOMISD:
        case ZYDIS_MNEMONIC_VCOMISS:
        case ZYDIS_MNEMONIC_VCOMISD:
        case ZYDIS_MNEMONIC_VUCOMISS:
        case ZYDIS_MNEMONIC_VUCOMISD:
        case ZYDIS_MNEMONIC_PTEST:
        case ZYDIS_MNEMONIC_VPTEST:
                return false;
        default:
                return true;
        }
}

static void note_flags(struct insn *g)
{
        const ZydisAccessedFlags *f = g->z.cpu_flags;
        u64 written, tested;

        if (!f)
                return;
        written = (f->modified | f->set_0 | f->set_1 | f->undefined) & RFLAGS_ARITH;
        tested = f->tested & RFLAGS_ARITH;
        g->writes_flags = written;
        g->kills_flags = written == RFLAGS_ARITH && !may_keep_flags(g);
        g->needs_flags = tested || (written && !g->kills_flags);
}

/* INTERP_REASONS when the mode and model let it run as it is. */
static enum interp_reason refused(const struct translate_request *req, const struct insn *g)
{
        const bool vex = g->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

        if (g->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && !vex)
                return INTERP_REASON_UNKNOWN;
        if (req->has_extension && !req->has_extension[g->z.meta.isa_ext])
                return INTERP_REASON_UNKNOWN;
        if (g->vector) {
                if (req->mode & (MODE_NO_SSE | MODE_NM_SSE) || (vex && req->mode & MODE_NO_AVX))
                        return INTERP_REASON_STATE;
        }
        return INTERP_REASONS;
}

static bool is_safe(const struct insn *g)
{
        const struct isa_context context = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG);

        return isa_classify(&g->z, &context).class == ISA_CLASS_SAFE;
}

static void leave_to_interp(struct insn *g, enum interp_reason reason)
{
        g->kind = KIND_INTERP;
        g->reason = (u8)reason;
}

static void judge(const struct translate_request *req, struct insn *g, bool operands_fine)
{
        const enum interp_reason no = refused(req, g);

        g->kind = kind_of[g->z.mnemonic];
        if (g->kind == KIND_NOP)
                return;
        if (g->kind == KIND_FLAG_BIT) {
                const bool ac = g->z.mnemonic == ZYDIS_MNEMONIC_STAC || g->z.mnemonic == ZYDIS_MNEMONIC_CLAC;

                if (g->z.mnemonic != ZYDIS_MNEMONIC_CLD && g->z.mnemonic != ZYDIS_MNEMONIC_STD && (req->mode & MODE_USER || (ac && !(req->mode & MODE_SMAP))))
                        leave_to_interp(g, INTERP_REASON_SYSTEM);
        } else if (g->z.meta.category == ZYDIS_CATEGORY_STRINGOP) {
                g->kind = KIND_STRING;
                g->element = (u8)(g->ops[0].size / 8);
                if (g->z.address_width != 64 || g->z.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS))
                        leave_to_interp(g, INTERP_REASON_STRING);
        } else if (g->z.meta.category == ZYDIS_CATEGORY_IOSTRINGOP) {
                leave_to_interp(g, INTERP_REASON_SYSTEM);
        } else if (x87_judge(req, g)) {
                g->kind = KIND_X87;
        } else if (g->kind == KIND_FORM || g->z.meta.isa_ext == ZYDIS_ISA_EXT_X87 || g->z.meta.isa_ext == ZYDIS_ISA_EXT_MMX) {
                leave_to_interp(g, INTERP_REASON_FORM);
                sys_judge(req, g); /* PAUSE */
        } else if (g->kind == KIND_PUSHFQ) {
                if (g->z.operand_width != 64)
                        leave_to_interp(g, INTERP_REASON_FORM);
        } else if (g->kind == KIND_PLAIN && !is_safe(g)) {
                leave_to_interp(g, INTERP_REASON_SYSTEM);
        } else if (g->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
                   (g->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && g->ops[0].imm.is_relative &&
                    llabs(g->ops[0].imm.value.s) > INT32_MAX - 2 * (s64)PAGE_SIZE)) {
                leave_to_interp(g, INTERP_REASON_SYSTEM);
        } else if (g->kind != KIND_PLAIN && g->kind != KIND_LEA && g->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) {
                leave_to_interp(g, INTERP_REASON_FORM); /* 16-bit stack and branch forms */
        } else if (no != INTERP_REASONS) {
                leave_to_interp(g, no);
        } else if (g->kind == KIND_PLAIN && (!operands_fine || g->mem_size > 64 || (g->mem && !g->mem_size) ||
                                             (g->mem && !(g->z.attributes & ZYDIS_ATTRIB_HAS_MODRM)))) {
                leave_to_interp(g, INTERP_REASON_FORM);
        }
        if (g->kind == KIND_INTERP && g->reason == INTERP_REASON_SYSTEM)
                sys_judge(req, g);
}

/* Memory operands that must be aligned to their size. SDM 1, 14.9: table 14-22; the rest of SSE's 16-byte operands. */
static bool must_be_aligned(const struct insn *g)
{
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_CMPXCHG16B:
        case ZYDIS_MNEMONIC_VMOVAPS:
        case ZYDIS_MNEMONIC_VMOVAPD:
        case ZYDIS_MNEMONIC_VMOVDQA:
        case ZYDIS_MNEMONIC_VMOVNTPS:
        case ZYDIS_MNEMONIC_VMOVNTPD:
        case ZYDIS_MNEMONIC_VMOVNTDQ:
        case ZYDIS_MNEMONIC_VMOVNTDQA:
                return true;
        case ZYDIS_MNEMONIC_MOVUPS:
        case ZYDIS_MNEMONIC_MOVUPD:
        case ZYDIS_MNEMONIC_MOVDQU:
        case ZYDIS_MNEMONIC_LDDQU:
        case ZYDIS_MNEMONIC_PCMPESTRI:
        case ZYDIS_MNEMONIC_PCMPESTRM:
        case ZYDIS_MNEMONIC_PCMPISTRI:
        case ZYDIS_MNEMONIC_PCMPISTRM:
                return false;
        default:
                return g->vector && g->mem_size == 16 && g->z.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
        }
}

/* They need SSE or AVX to be on, as those that name its registers do. */
static bool is_vector_without_operand(ZydisMnemonic mnemonic)
{
        switch (mnemonic) {
        case ZYDIS_MNEMONIC_VZEROUPPER:
        case ZYDIS_MNEMONIC_VZEROALL:
        case ZYDIS_MNEMONIC_LDMXCSR:
        case ZYDIS_MNEMONIC_STMXCSR:
        case ZYDIS_MNEMONIC_VLDMXCSR:
        case ZYDIS_MNEMONIC_VSTMXCSR:
                return true;
        default:
                return false;
        }
}

bool insn_analyse(const struct translate_request *req, const ZydisDecoder *decoder, const u8 *bytes, unsigned room,
                  struct insn *ret)
{
        struct insn *g = ret;

        g->bytes = bytes;
        g->mem = NULL;
        g->base = g->index = (struct value){ 0 };
        g->disp = 0;
        g->gprs = 0;
        g->mem_size = 0;
        g->mem_reads = g->mem_writes = g->high_byte = g->vector = false;
        g->needs_flags = g->writes_flags = g->kills_flags = false;
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, room, &g->z, g->ops)))
                return false;
        {
                const bool operands_fine = note_operands(g);

                g->vector |= is_vector_without_operand(g->z.mnemonic);
                judge(req, g, operands_fine);
        }
        note_flags(g);
        g->aligned = g->mem && must_be_aligned(g);
        if (g->kind == KIND_JCC) /* the opcode's low four bits: 70+cc, 0F 80+cc */
                g->cc = g->z.opcode & 15;
        return true;
}

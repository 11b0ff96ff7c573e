/* Guest bytes to uops.
 *
 * Zydis takes the bytes apart; what is left is to choose a handler. A table of rules says for the common mnemonics how their operands
 * choose; then come string, plain and system instructions, found by mnemonic; everything else that the CPU model has runs on the
 * host (host.c), and what it does not have raises #UD. */
#include "decode.h"

#include <string.h>

#include "machine.h"
#include "sys.h"

/* ---- handlers of what cannot run ---- */

const struct uop *op_undefined(struct interp *in, const struct uop *u)
{
        interp_raise(in, u, EXC_UD, NO_ERROR_CODE);
}

const struct uop *op_protection(struct interp *in, const struct uop *u)
{
        interp_raise(in, u, EXC_GP, 0);
}

/* ---- operands ---- */

static unsigned register_operand(ZydisRegister reg)
{
        switch (ZydisRegisterGetClass(reg)) {
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
                return decode_gpr_offset(reg);
        default:
                return (unsigned)(u8)ZydisRegisterGetId(reg);
        }
}

static u8 address_slot(ZydisRegister reg)
{
        return reg == ZYDIS_REGISTER_NONE ? REG_ZERO : (u8)ZydisRegisterGetId(reg);
}

static u8 segment_slot(const struct decoding *d, ZydisRegister reg)
{
        const u8 seg = (u8)(reg - ZYDIS_REGISTER_ES);

        if (reg < ZYDIS_REGISTER_ES || reg > ZYDIS_REGISTER_GS)
                return d->mode & MODE_LONG64 ? SEG_FLAT : SEG_DS;
        return d->mode & MODE_LONG64 && seg != SEG_FS && seg != SEG_GS ? SEG_FLAT : seg;
}

/* The segment that a prefix names for an implicit source (string instructions, XLAT). */
u8 decode_prefix_segment(const struct decoding *d)
{
        static const struct {
                ZydisInstructionAttributes attribute;
                u8 seg;
        } prefixes[] = {
                { ZYDIS_ATTRIB_HAS_SEGMENT_CS, SEG_CS }, { ZYDIS_ATTRIB_HAS_SEGMENT_SS, SEG_SS },
                { ZYDIS_ATTRIB_HAS_SEGMENT_DS, SEG_DS }, { ZYDIS_ATTRIB_HAS_SEGMENT_ES, SEG_ES },
                { ZYDIS_ATTRIB_HAS_SEGMENT_FS, SEG_FS }, { ZYDIS_ATTRIB_HAS_SEGMENT_GS, SEG_GS },
        };

        for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
                if (d->insn.attributes & prefixes[i].attribute)
                        return segment_slot(d, (ZydisRegister)(ZYDIS_REGISTER_ES + prefixes[i].seg));
        return segment_slot(d, ZYDIS_REGISTER_DS);
}

static void memory_operand(struct decoding *d, struct uop *u, const ZydisDecodedOperand *op)
{
        u->flags |= UOP_MEM;
        u->base = address_slot(op->mem.base);
        u->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
        if (decode_sib_without_base(&d->insn)) {
                u->base = REG_ZERO;
                u->disp = d->insn.raw.disp.value;
        }
        u->index = address_slot(op->mem.index);
        u->scale = op->mem.index == ZYDIS_REGISTER_NONE ? 0 : (u8)__builtin_ctz(op->mem.scale | 0x80u);
        u->seg = segment_slot(d, op->mem.segment);
        if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
                u->base = REG_ZERO;
                u->disp += (s64)d->next;
        }
        if (!(d->mode & MODE_LONG64))
                d->flat = false;
        d->mem = op;
}

/* Register operands in order into r1 and r2, the memory operand, the last immediate. */
static void fill_operands(struct decoding *d, struct uop *u)
{
        unsigned n_regs = 0;

        for (unsigned i = 0; i < d->insn.operand_count_visible; i++) {
                const ZydisDecodedOperand *op = &d->ops[i];

                switch (op->type) {
                case ZYDIS_OPERAND_TYPE_REGISTER:
                        if (n_regs == 0)
                                u->r1 = (u8)register_operand(op->reg.value);
                        else if (n_regs == 1)
                                u->r2 = (u8)register_operand(op->reg.value);
                        n_regs++;
                        break;
                case ZYDIS_OPERAND_TYPE_MEMORY:
                        memory_operand(d, u, op);
                        break;
                case ZYDIS_OPERAND_TYPE_POINTER:
                        u->imm = op->ptr.offset;
                        u->aux = op->ptr.segment;
                        break;
                case ZYDIS_OPERAND_TYPE_IMMEDIATE:
                        u->imm = op->imm.is_signed ? (u64)op->imm.value.s : op->imm.value.u;
                        break;
                default:
                        break;
                }
        }
}

static bool is_mem(const struct decoding *d, unsigned i)
{
        return d->insn.operand_count_visible > i && d->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static bool is_reg(const struct decoding *d, unsigned i)
{
        return d->insn.operand_count_visible > i && d->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static bool is_imm(const struct decoding *d, unsigned i)
{
        return d->insn.operand_count_visible > i && d->ops[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static unsigned operand_bytes(const struct decoding *d, unsigned i)
{
        return d->ops[i].size / 8;
}

/* Picks from a row { register, memory, memory slow }. */
static uop_fn *pick3(const struct decoding *d, uop_fn *const row[3])
{
        return !d->mem ? row[0] : d->flat ? row[1] : row[2];
}

/* ---- rules ---- */

typedef uop_fn *rule_fn(struct decoding *d, struct uop *u, unsigned arg);

/* Two operands, destination first: the form from their kinds. A register source of a memory destination comes in r1 and belongs in r2. */
static unsigned two_operand_form(struct decoding *d, struct uop *u)
{
        if (is_mem(d, 0)) {
                u->r2 = u->r1;
                return (is_imm(d, 1) ? MI : MR) + !d->flat;
        }
        if (is_mem(d, 1))
                return RM + !d->flat;
        return is_imm(d, 1) ? RI : RR;
}

static uop_fn *rule_alu(struct decoding *d, struct uop *u, unsigned op)
{
        uop_fn *const(*table)[4][FORMS] = u->flags & UOP_LOCK ? alu_lock_table : alu_table;
        unsigned form;

        u->size = (u8)operand_bytes(d, 0);
        if (op == ALU_TEST && is_mem(d, 1)) /* TEST r, m decodes either way; it is symmetric */
                return alu_table[op][size_log2(u->size)][RM + !d->flat];
        form = two_operand_form(d, u);
        return table[op][size_log2(u->size)][form];
}

static uop_fn *rule_unary(struct decoding *d, struct uop *u, unsigned op)
{
        u->size = (u8)operand_bytes(d, 0);
        if (u->flags & UOP_LOCK)
                return unary_lock_table[op][size_log2(u->size)][!d->flat];
        return pick3(d, unary_table[op][size_log2(u->size)]);
}

static uop_fn *rule_shift(struct decoding *d, struct uop *u, unsigned op)
{
        u->size = (u8)operand_bytes(d, 0);
        u->aux = is_reg(d, 1);
        return pick3(d, shift_table[op][size_log2(u->size)]);
}

static uop_fn *rule_mov(struct decoding *d, struct uop *u, unsigned arg)
{
        ZydisRegisterClass c0 = is_reg(d, 0) ? ZydisRegisterGetClass(d->ops[0].reg.value) : ZYDIS_REGCLASS_INVALID;
        ZydisRegisterClass c1 = is_reg(d, 1) ? ZydisRegisterGetClass(d->ops[1].reg.value) : ZYDIS_REGCLASS_INVALID;

        (void)arg;
        if (c0 == ZYDIS_REGCLASS_SEGMENT || c0 == ZYDIS_REGCLASS_CONTROL || c0 == ZYDIS_REGCLASS_DEBUG ||
            c1 == ZYDIS_REGCLASS_SEGMENT || c1 == ZYDIS_REGCLASS_CONTROL || c1 == ZYDIS_REGCLASS_DEBUG) {
                const bool segment = c0 == ZYDIS_REGCLASS_SEGMENT || c1 == ZYDIS_REGCLASS_SEGMENT;

                d->ends_block = true;
                if (!segment && d->mode & (MODE_USER | MODE_RING12))
                        return op_protection;
                if (segment)
                        return c0 == ZYDIS_REGCLASS_SEGMENT ? sys_mov_to_seg : sys_mov_from_seg;
                if (c0 == ZYDIS_REGCLASS_CONTROL || c1 == ZYDIS_REGCLASS_CONTROL)
                        return c0 == ZYDIS_REGCLASS_CONTROL ? sys_mov_to_cr : sys_mov_from_cr;
                return c0 == ZYDIS_REGCLASS_DEBUG ? sys_mov_to_dr : sys_mov_from_dr;
        }
        u->size = (u8)operand_bytes(d, 0);
        return mov_table[size_log2(u->size)][two_operand_form(d, u)];
}

/* arg: signed << 1 */
static uop_fn *rule_extend(struct decoding *d, struct uop *u, unsigned is_signed)
{
        const unsigned from = operand_bytes(d, 1) == 2;

        u->size = (u8)operand_bytes(d, 0);
        if (u->size == operand_bytes(d, 1)) /* MOVSXD with a 16-bit destination and kin */
                return mov_table[size_log2(u->size)][two_operand_form(d, u)];
        if (operand_bytes(d, 1) == 4)
                return pick3(d, movsxd_table);
        return pick3(d, extend_table[is_signed][from][size_log2(u->size)]);
}

static uop_fn *rule_movsxd(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        u->size = (u8)operand_bytes(d, 0);
        if (u->size == 8)
                return pick3(d, movsxd_table);
        return mov_table[size_log2(u->size)][two_operand_form(d, u)];
}

static uop_fn *rule_lea(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        u->size = (u8)operand_bytes(d, 0);
        return lea_table[d->flat ? size_log2(u->size) : 0];
}

static uop_fn *rule_cmov(struct decoding *d, struct uop *u, unsigned cc)
{
        u->size = (u8)operand_bytes(d, 0);
        return pick3(d, cmov_table[cc][size_log2(u->size)]);
}

static uop_fn *rule_setcc(struct decoding *d, struct uop *u, unsigned cc)
{
        u->size = 1;
        return pick3(d, setcc_table[cc]);
}

static uop_fn *rule_xchg(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        u->size = (u8)operand_bytes(d, 0);
        if (d->mem)
                u->r2 = u->r1; /* the one register, whichever side it is on */
        return pick3(d, xchg_table[size_log2(u->size)]);
}

static u64 branch_target(const struct decoding *d)
{
        const u64 target = d->next + (u64)d->ops[0].imm.value.s;

        if (d->mode & MODE_LONG64)
                return target;
        return d->insn.operand_width == 16 ? (u16)target : (u32)target;
}

static void branch_common(struct decoding *d, struct uop *u)
{
        d->ends_block = true;
        u->size = (u8)(d->insn.operand_width / 8);
        if (!d->mem)
                u->disp = (s64)d->next;
        if (is_imm(d, 0))
                u->imm = branch_target(d);
}

static uop_fn *rule_jcc(struct decoding *d, struct uop *u, unsigned cc)
{
        branch_common(d, u);
        u->aux = (u16)cc;
        return d->mode & MODE_LONG64 ? jcc_table[cc] : op_branch_any;
}

static uop_fn *rule_loop(struct decoding *d, struct uop *u, unsigned kind)
{
        branch_common(d, u);
        u->aux = (u16)kind;
        return op_loop;
}

static bool is_far(const struct decoding *d)
{
        return d->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || d->ops[0].type == ZYDIS_OPERAND_TYPE_POINTER;
}

static uop_fn *rule_jmp(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        branch_common(d, u);
        if (is_far(d))
                return sys_jmp_far;
        u->aux = is_reg(d, 0);
        if (!(d->mode & MODE_LONG64) || d->mem)
                return op_jmp_any;
        return is_reg(d, 0) ? op_jmp_r : op_jmp;
}

static uop_fn *rule_call(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        branch_common(d, u);
        if (is_far(d))
                return sys_call_far;
        u->aux = is_reg(d, 0);
        if (d->mem)
                return op_call_any;
        if (!(d->mode & MODE_LONG64) || u->size != 8)
                return op_call_any;
        return is_reg(d, 0) ? op_call_r : op_call;
}

static uop_fn *rule_ret(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        d->ends_block = true;
        u->size = (u8)(d->insn.operand_width / 8);
        u->imm &= 0xffff;
        if (is_far(d))
                return sys_ret_far;
        return d->mode & MODE_LONG64 && u->size == 8 ? op_ret : op_ret_any;
}

static uop_fn *rule_push(struct decoding *d, struct uop *u, unsigned arg)
{
        const bool fast = d->mode & MODE_LONG64 && d->insn.operand_width == 64;

        (void)arg;
        u->size = (u8)(d->insn.operand_width / 8);
        if (is_reg(d, 0) && ZydisRegisterGetClass(d->ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT)
                return sys_push_seg;
        u->aux = is_imm(d, 0);
        if (d->mem || !fast)
                return op_push_any;
        return is_imm(d, 0) ? op_push_i : op_push_r;
}

static uop_fn *rule_pop(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        u->size = (u8)(d->insn.operand_width / 8);
        if (is_reg(d, 0) && ZydisRegisterGetClass(d->ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
                d->ends_block = true;
                return sys_pop_seg;
        }
        return !d->mem && d->mode & MODE_LONG64 && u->size == 8 ? op_pop_r : op_pop_any;
}

enum { FRAME_LEAVE, FRAME_ENTER, FRAME_PUSHA, FRAME_POPA };
static uop_fn *rule_frame(struct decoding *d, struct uop *u, unsigned what)
{
        u->size = (u8)(d->insn.operand_width / 8);
        switch (what) {
        case FRAME_LEAVE:
                return d->mode & MODE_LONG64 && u->size == 8 ? op_leave : op_leave_any;
        case FRAME_ENTER:
                u->imm = d->ops[0].imm.value.u & 0xffff;
                u->aux = (u16)(d->ops[1].imm.value.u & 31);
                return op_enter;
        case FRAME_PUSHA:
                return op_pusha;
        default:
                return op_popa;
        }
}

/* arg: 0 bt, 1 bts, 2 btr, 3 btc */
static uop_fn *rule_bit(struct decoding *d, struct uop *u, unsigned which)
{
        u->size = (u8)operand_bytes(d, 0);
        u->aux = (u16)which;
        if (is_imm(d, 1)) {
                u->r2 = NO_REG;
                u->imm &= u->size * 8u - 1;
        } else if (d->mem) {
                u->r2 = u->r1;
        }
        return plain_op_find(d->insn.mnemonic)->fn;
}

/* cmpxchg, xadd: memory or r1 with r2 */
static uop_fn *rule_exchange(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        u->size = (u8)operand_bytes(d, 0);
        if (d->mem)
                u->r2 = u->r1;
        return plain_op_find(d->insn.mnemonic)->fn;
}

/* imul r, r/m [, imm]; one operand: as mul. */
static uop_fn *rule_imul(struct decoding *d, struct uop *u, unsigned arg)
{
        (void)arg;
        if (d->insn.operand_count_visible == 1) {
                u->size = (u8)operand_bytes(d, 0);
                u->aux = 1;
                return plain_op_find(ZYDIS_MNEMONIC_MUL)->fn;
        }
        u->size = (u8)operand_bytes(d, 0);
        return pick3(d, imul_table[size_log2(u->size)][is_imm(d, 2)]);
}

/* mul, div, idiv: arg is "signed" */
static uop_fn *rule_muldiv(struct decoding *d, struct uop *u, unsigned is_signed)
{
        u->size = (u8)operand_bytes(d, 0);
        u->aux = (u16)is_signed;
        return plain_op_find(d->insn.mnemonic)->fn;
}

static const struct rule {
        rule_fn *fn;
        u8 arg;
} rules[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define R(mnemonic, fn_, arg_) [ZYDIS_MNEMONIC_##mnemonic] = { fn_, arg_ }
        R(ADD, rule_alu, ALU_ADD), R(OR, rule_alu, ALU_OR), R(ADC, rule_alu, ALU_ADC), R(SBB, rule_alu, ALU_SBB),
        R(AND, rule_alu, ALU_AND), R(SUB, rule_alu, ALU_SUB), R(XOR, rule_alu, ALU_XOR), R(CMP, rule_alu, ALU_CMP),
        R(TEST, rule_alu, ALU_TEST),
        R(INC, rule_unary, UN_INC), R(DEC, rule_unary, UN_DEC), R(NEG, rule_unary, UN_NEG), R(NOT, rule_unary, UN_NOT),
        R(ROL, rule_shift, SH_ROL), R(ROR, rule_shift, SH_ROR), R(RCL, rule_shift, SH_RCL), R(RCR, rule_shift, SH_RCR),
        R(SHL, rule_shift, SH_SHL), R(SHR, rule_shift, SH_SHR), R(SAR, rule_shift, SH_SAR),
        R(MOV, rule_mov, 0), R(MOVZX, rule_extend, 0), R(MOVSX, rule_extend, 1), R(MOVSXD, rule_movsxd, 0),
        R(LEA, rule_lea, 0), R(XCHG, rule_xchg, 0),
        R(CMOVO, rule_cmov, 0), R(CMOVNO, rule_cmov, 1), R(CMOVB, rule_cmov, 2), R(CMOVNB, rule_cmov, 3),
        R(CMOVZ, rule_cmov, 4), R(CMOVNZ, rule_cmov, 5), R(CMOVBE, rule_cmov, 6), R(CMOVNBE, rule_cmov, 7),
        R(CMOVS, rule_cmov, 8), R(CMOVNS, rule_cmov, 9), R(CMOVP, rule_cmov, 10), R(CMOVNP, rule_cmov, 11),
        R(CMOVL, rule_cmov, 12), R(CMOVNL, rule_cmov, 13), R(CMOVLE, rule_cmov, 14), R(CMOVNLE, rule_cmov, 15),
        R(SETO, rule_setcc, 0), R(SETNO, rule_setcc, 1), R(SETB, rule_setcc, 2), R(SETNB, rule_setcc, 3),
        R(SETZ, rule_setcc, 4), R(SETNZ, rule_setcc, 5), R(SETBE, rule_setcc, 6), R(SETNBE, rule_setcc, 7),
        R(SETS, rule_setcc, 8), R(SETNS, rule_setcc, 9), R(SETP, rule_setcc, 10), R(SETNP, rule_setcc, 11),
        R(SETL, rule_setcc, 12), R(SETNL, rule_setcc, 13), R(SETLE, rule_setcc, 14), R(SETNLE, rule_setcc, 15),
        R(JO, rule_jcc, 0), R(JNO, rule_jcc, 1), R(JB, rule_jcc, 2), R(JNB, rule_jcc, 3), R(JZ, rule_jcc, 4), R(JNZ, rule_jcc, 5),
        R(JBE, rule_jcc, 6), R(JNBE, rule_jcc, 7), R(JS, rule_jcc, 8), R(JNS, rule_jcc, 9), R(JP, rule_jcc, 10),
        R(JNP, rule_jcc, 11), R(JL, rule_jcc, 12), R(JNL, rule_jcc, 13), R(JLE, rule_jcc, 14), R(JNLE, rule_jcc, 15),
        R(LOOP, rule_loop, 0), R(LOOPE, rule_loop, 1), R(LOOPNE, rule_loop, 2), R(JCXZ, rule_loop, 3), R(JECXZ, rule_loop, 3),
        R(JRCXZ, rule_loop, 3),
        R(JMP, rule_jmp, 0), R(CALL, rule_call, 0), R(RET, rule_ret, 0),
        R(PUSH, rule_push, 0), R(POP, rule_pop, 0),
        R(LEAVE, rule_frame, FRAME_LEAVE), R(ENTER, rule_frame, FRAME_ENTER),
        R(PUSHA, rule_frame, FRAME_PUSHA), R(PUSHAD, rule_frame, FRAME_PUSHA), R(POPA, rule_frame, FRAME_POPA),
        R(POPAD, rule_frame, FRAME_POPA),
        R(BT, rule_bit, 0), R(BTS, rule_bit, 1), R(BTR, rule_bit, 2), R(BTC, rule_bit, 3),
        R(CMPXCHG, rule_exchange, 0), R(XADD, rule_exchange, 0),
        R(IMUL, rule_imul, 0), R(MUL, rule_muldiv, 0), R(DIV, rule_muldiv, 0), R(IDIV, rule_muldiv, 1),
#undef R
};

/* ---- one instruction ---- */

static uop_fn *choose_system(struct decoding *d, const struct sys_op *op)
{
        if (op->flags & SYS_ENDS_BLOCK)
                d->ends_block = true;
        if ((op->flags & SYS_PROT && !(d->mode & MODE_PROTECTED)) || (op->flags & SYS_LONG && !(d->mode & MODE_LONG64)) ||
            (op->flags & SYS_NO_LONG64 && d->mode & MODE_LONG64))
                return op_undefined;
        if (op->flags & SYS_CPL0 && d->mode & (MODE_USER | MODE_RING12))
                return op_protection;
        return op->fn;
}

static uop_fn *choose(struct decoding *d, struct uop *u)
{
        const unsigned mnemonic = d->insn.mnemonic;
        const struct plain_op *plain;
        const struct sys_op *sys;

        if (d->insn.meta.category == ZYDIS_CATEGORY_STRINGOP || d->insn.meta.category == ZYDIS_CATEGORY_IOSTRINGOP) {
                uop_fn *fn = string_op_find(mnemonic);

                if (d->insn.attributes & ZYDIS_ATTRIB_HAS_REPNE)
                        u->flags |= UOP_REPNE;
                else if (d->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
                        u->flags |= UOP_REP;
                u->seg = decode_prefix_segment(d);
                if (fn)
                        return fn;
        }
        if (rules[mnemonic].fn)
                return rules[mnemonic].fn(d, u, rules[mnemonic].arg);
        plain = plain_op_find(mnemonic);
        if (plain) {
                if (mnemonic == ZYDIS_MNEMONIC_XLAT)
                        u->seg = decode_prefix_segment(d);
                return plain->flags & PLAIN_NO_LONG64 && d->mode & MODE_LONG64 ? op_undefined : plain->fn;
        }
        sys = sys_op_find(mnemonic);
        if (sys)
                return choose_system(d, sys);
        if (host_decode(d, u))
                return u->fn;
        return op_undefined;
}

static void decoder_init(ZydisDecoder *decoder, u32 mode)
{
        const bool stack32 = mode & MODE_STACK32;

        if (mode & MODE_LONG64)
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        else if (!(mode & (MODE_PROTECTED | MODE_CODE32)))
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
        else if (mode & MODE_CODE32)
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, stack32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
        else
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_16, stack32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
        /* Without MPX and CET their encodings are no-ops, without WBNOINVD it is WBINVD: as on a processor that lacks them. */
        ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
        ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
}

enum decoded { DECODED, DECODED_LAST, NEED_MORE_BYTES };

static enum decoded decode_one(struct decoding *d, const ZydisDecoder *decoder, const u8 *code, unsigned n_bytes,
                               unsigned off, struct uop *u)
{
        ZydisDecoderContext ctx;
        ZyanStatus status = ZydisDecoderDecodeInstruction(decoder, &ctx, code, n_bytes, &d->insn);

        memset(u, 0, sizeof(*u));
        u->base = u->index = REG_ZERO;
        u->seg = SEG_FLAT;
        u->off = (u8)off;
        u->stack_size = d->mode & MODE_LONG64 ? 8 : d->mode & MODE_STACK32 ? 4 : 2;
        if (ZYAN_SUCCESS(status))
                status = ZydisDecoderDecodeOperands(decoder, &ctx, &d->insn, d->ops, d->insn.operand_count);
        if (!ZYAN_SUCCESS(status)) {
                if (status == ZYDIS_STATUS_NO_MORE_DATA && n_bytes < 15)
                        return NEED_MORE_BYTES;
                u->fn = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ||
                                        (status == ZYDIS_STATUS_NO_MORE_DATA && n_bytes >= 15)
                                ? op_protection : op_undefined;
                u->len = 1;
                return DECODED_LAST;
        }
        u->len = d->insn.length;
        u->mnemonic = (u16)d->insn.mnemonic;
        u->size = (u8)(d->insn.operand_width / 8);
        u->addr_size = (u8)(d->insn.address_width / 8);
        if (d->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK)
                u->flags |= UOP_LOCK;
        d->next = d->rip + u->len;
        if (!(d->mode & MODE_LONG64))
                d->next = (u32)d->next;
        d->mem = NULL;
        d->flat = d->mode & MODE_LONG64 && u->addr_size == 8;
        d->ends_block = false;
        fill_operands(d, u);
        u->fn = choose(d, u);
        return d->ends_block || u->fn == op_undefined || u->fn == op_protection ? DECODED_LAST : DECODED;
}

unsigned decode_block(struct interp *in, u64 rip, const u8 *code, unsigned n_bytes, bool page_end, struct uop *uops,
                      unsigned max, unsigned *ret_bytes)
{
        struct decoding d = { .in = in, .mode = in->mode };
        ZydisDecoder decoder;
        unsigned n = 0, off = 0;

        decoder_init(&decoder, in->mode);
        /* Offsets are bytes: a block is at most 240 bytes long. */
        while (n < max && off < 240) {
                enum decoded result;

                if (off == n_bytes)
                        break;
                d.rip = rip + off;
                result = decode_one(&d, &decoder, code + off, MIN(n_bytes - off, 15u), off, &uops[n]);
                if (result == NEED_MORE_BYTES) {
                        if (page_end && n == 0)
                                return 0;
                        break;
                }
                off += uops[n].len;
                n++;
                if (result == DECODED_LAST)
                        break;
        }
        /* There even behind a branch, where nothing falls through: then no handler can run off the end. */
        memset(&uops[n], 0, sizeof(uops[n]));
        uops[n].fn = op_block_end;
        uops[n].off = (u8)off;
        uops[n].imm = in->mode & MODE_LONG64 ? rip + off : (u32)(rip + off);
        *ret_bytes = off;
        return n;
}

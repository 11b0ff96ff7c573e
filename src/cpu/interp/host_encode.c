/* The host's version of a guest instruction: same operation, registers chosen so that none collides with what the thunk needs itself. */
#include <string.h>

#include "host.h"

/* Takes the first of @candidates that is not in @used. */
static u8 take_register(u16 *used, const u8 *candidates, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                if (!(*used & BIT(candidates[i]))) {
                        *used |= (u16)BIT(candidates[i]);
                        return candidates[i];
                }
        }
        return NO_HOST_REG;
}

static ZydisRegister same_size(ZydisRegister reg, u8 id)
{
        return ZydisRegisterEncode(ZydisRegisterGetClass(reg),
                                   ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR8 && id >= 4 ? (u8)(id + 4) : id);
}

/* Notes the registers an operand uses; false for kinds of operand that need a handler of their own. */
static bool note_operand(const ZydisDecodedOperand *op, struct host_insn *h, u16 *used, bool *high_byte)
{
        const bool writes = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
                return op->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && op->mem.type == ZYDIS_MEMOP_TYPE_MEM;
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
                return true;
        if (decode_is_gpr(op->reg.value)) {
                const unsigned id = decode_gpr_offset(op->reg.value) / 8;

                *high_byte |= decode_is_high_byte(op->reg.value);
                *used |= (u16)BIT(id);
                /* Narrow and conditional writes keep the rest, so everything used is loaded. */
                h->gpr_read |= (u16)BIT(id);
                if (writes)
                        h->gpr_written |= (u16)BIT(id);
        } else if (decode_is_vector(op->reg.value)) {
                const unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);

                if (id > 15)
                        return false;
                h->ymm |= ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_YMM;
                h->vec_read |= (u16)BIT(id);
                if (writes)
                        h->vec_written |= (u16)BIT(id);
        }
        return true;
}

bool host_encode(const struct decoding *d, struct host_insn *h)
{
        static const u8 low[] = { RSI, RDI, RBX, RDX, RCX, RAX, RBP }, high[] = { R15, R14, R13, R12, R11, R10, R9, R8 };
        ZydisEncoderRequest request;
        bool high_byte = false;
        ZyanUSize length = sizeof(h->bytes);
        u16 used = BIT(RSP);

        memset(h, 0, sizeof(*h));
        h->rsp_host = RSP;
        for (unsigned i = 0; i < d->insn.operand_count; i++)
                if (!note_operand(&d->ops[i], h, &used, &high_byte))
                        return false;
        if (d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
                h->ymm = true; /* a VEX instruction clears the upper halves of what it writes */
        if (d->insn.cpu_flags) {
                h->flags_read = true; /* those it leaves alone must come out as they were */
                h->flags_written = (d->insn.cpu_flags->modified | d->insn.cpu_flags->set_0 | d->insn.cpu_flags->set_1 |
                                    d->insn.cpu_flags->undefined) & RFLAGS_ARITH;
        }

        if (!ZYAN_SUCCESS(ZydisEncoderDecodedInstructionToEncoderRequest(&d->insn, d->ops, d->insn.operand_count_visible,
                                                                         &request)))
                return false;
        request.machine_mode = ZYDIS_MACHINE_MODE_LONG_64;
        request.address_size_hint = ZYDIS_ADDRESS_SIZE_HINT_NONE;
        request.prefixes &= ~(ZYDIS_ATTRIB_HAS_SEGMENT | ZYDIS_ATTRIB_HAS_LOCK);
        h->memory = NO_HOST_REG;
        if (d->mem)
                h->memory = take_register(&used, low, ARRAY_SIZE(low));
        h->state = take_register(&used, high, ARRAY_SIZE(high));
        h->vectors = take_register(&used, high, ARRAY_SIZE(high));
        if (h->gpr_read & BIT(RSP)) {
                const u8 host = take_register(&used, high_byte ? low : high, high_byte ? ARRAY_SIZE(low) : ARRAY_SIZE(high));

                if (host == NO_HOST_REG)
                        return false;
                h->rsp_host = host;
                h->gpr_read = (u16)((h->gpr_read & ~BIT(RSP)) | BIT(host));
                if (h->gpr_written & BIT(RSP))
                        h->gpr_written = (u16)((h->gpr_written & ~BIT(RSP)) | BIT(host));
        }
        if (h->state == NO_HOST_REG || h->vectors == NO_HOST_REG || (d->mem && h->memory == NO_HOST_REG))
                return false;

        for (unsigned i = 0; i < request.operand_count; i++) {
                ZydisEncoderOperand *op = &request.operands[i];

                if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
                        op->mem.base = ZydisRegisterEncode(ZYDIS_REGCLASS_GPR64, h->memory);
                        op->mem.index = ZYDIS_REGISTER_NONE;
                        op->mem.scale = 0;
                        op->mem.displacement = 0;
                } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && h->rsp_host != RSP && decode_is_gpr(op->reg.value) &&
                           decode_gpr_offset(op->reg.value) == RSP * 8) {
                        op->reg.value = same_size(op->reg.value, h->rsp_host);
                }
        }
        if (!ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&request, h->bytes, &length)))
                return false;
        h->n_bytes = (u8)length;
        return true;
}

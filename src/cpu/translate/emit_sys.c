/* System instructions that C does without leaving translated code (fast_sys.def, fast_sys.c): which they are, and the call. */
#include "block.h"

enum where { WHERE_ANY, WHERE_KERNEL, WHERE_USER };

static const struct sys_insn {
        u16 mnemonic;
        u8 fast;    /* enum fast_id */
        u8 where;   /* enum where */
        u8 operand; /* enum sys_operand */
        bool end;
} table[] = {
#define SYS(mnemonic, function, where, operand, end) \
        { ZYDIS_MNEMONIC_##mnemonic, FAST_##mnemonic, WHERE_##where, SYS_OPERAND_##operand, end },
#include "fast_sys.def"
#undef SYS
};

/* MOV to CR3, MOV from CR0, CR2, CR3 and CR4. */
static const struct sys_insn write_cr3 = { ZYDIS_MNEMONIC_MOV, FAST_WRITE_CR3, WHERE_KERNEL, SYS_OPERAND_VALUE, true };
static const struct sys_insn read_cr = { ZYDIS_MNEMONIC_MOV, FAST_READ_CR, WHERE_KERNEL, SYS_OPERAND_DEST, false };

static bool is_of_class(const ZydisDecodedOperand *op, ZydisRegisterClass class)
{
        return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == class;
}

static const struct sys_insn *find_mov(const ZydisDecodedOperand *dst, const ZydisDecodedOperand *src)
{
        if (is_of_class(dst, ZYDIS_REGCLASS_CONTROL))
                return dst->reg.value == ZYDIS_REGISTER_CR3 ? &write_cr3 : NULL;
        if (is_of_class(src, ZYDIS_REGCLASS_CONTROL))
                return ZydisRegisterGetId(src->reg.value) <= 4 ? &read_cr : NULL;
        return NULL;
}

static bool is_read_seg(const struct insn *g)
{
        return g->z.mnemonic == ZYDIS_MNEMONIC_MOV && is_of_class(&g->ops[1], ZYDIS_REGCLASS_SEGMENT) &&
               g->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static const struct sys_insn *find(const struct insn *g)
{
        for (size_t i = 0; i < ARRAY_SIZE(table); i++)
                if (table[i].mnemonic == g->z.mnemonic)
                        return &table[i];
        return g->z.mnemonic == ZYDIS_MNEMONIC_MOV ? find_mov(&g->ops[0], &g->ops[1]) : NULL;
}

/* What struct site tells the function of its operand. */
static unsigned size_of(const struct insn *g, const struct sys_insn *sys)
{
        const ZydisDecodedOperand *op = &g->ops[sys == &write_cr3];
        unsigned size;

        if (sys->operand != SYS_OPERAND_VALUE && sys->operand != SYS_OPERAND_DEST)
                return g->z.operand_width / 8;
        size = insn_gpr(op->reg.value) | (op->size == 64 ? SYS_WIDE : 0);
        if (sys == &read_cr)
                size |= (unsigned)ZydisRegisterGetId(g->ops[1].reg.value) << SYS_SOURCE_SHIFT;
        return size;
}

bool sys_judge(const struct translate_request *req, struct insn *g)
{
        if (is_read_seg(g)) {
                g->kind = KIND_READ_SEG;
                return true;
        }
        const struct sys_insn *sys = find(g);

        if (!sys || g->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE || sys->where == (req->mode & MODE_USER ? WHERE_KERNEL : WHERE_USER))
                return false;
        g->kind = sys->end ? KIND_SYS_END : KIND_SYS;
        g->fast = sys->fast;
        g->fast_operand = sys->operand;
        g->fast_size = (u8)size_of(g, sys);
        return true;
}

/* Selectors are in the guest's state; 16 bits keep the rest of the register. */
bool emit_read_seg(struct block_emitter *b, const struct insn *g)
{
        const unsigned seg = (unsigned)ZydisRegisterGetId(g->ops[1].reg.value), reg = insn_gpr(g->ops[0].reg.value);
        const unsigned host = host_reg_of[reg];
        struct emitter *e = &b->e;

        b->class = INSN_INLINE;
        b->why = "segment register";
        if (seg >= SEG_COUNT)
                return false;
        emit_load(e, SCRATCH1, hmem_ctx(CTX(cpu)));
        emit_op_mem(e, 0x0fb7, false, SCRATCH1, hmem_base(SCRATCH1, (s32)offsetof(struct cpu_state, seg[seg].selector))); /* movzx */
        if (g->ops[0].size == 16)
                emit_u8(e, 0x66);
        if (host == HOST_NONE)
                emit_op_mem(e, 0x89, g->ops[0].size != 16, SCRATCH1, hmem_ctx(CTX_REG(reg)));
        else
                emit_op_reg(e, 0x89, false, SCRATCH1, host);
        return true;
}

bool emit_sys(struct block_emitter *b, const struct insn *g)
{
        b->class = INSN_CALL_OUT;
        b->why = "system instruction in C";
        flags_save(b);
        if (g->fast_operand == SYS_OPERAND_VALUE) {
                const unsigned host = reg_fetch(b, g->fast_size & 15, SCRATCH0);

                if (host != SCRATCH0)
                        emit_mov_rr(&b->e, SCRATCH0, host);
        } else if (g->fast_operand == SYS_OPERAND_ADDRESS && !memory_address(b, g, 0)) {
                return false;
        }
        emit_fast(b, (enum fast_id)g->fast, g->fast_size);
        memset(b->windows.open, 0, sizeof(b->windows.open)); /* it may have flushed translations */
        return true;
}

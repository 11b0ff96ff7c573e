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

static bool is_control(const ZydisDecodedOperand *op)
{
        return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_CONTROL;
}

static const struct sys_insn *find(const struct insn *g)
{
        for (size_t i = 0; i < ARRAY_SIZE(table); i++)
                if (table[i].mnemonic == g->z.mnemonic)
                        return &table[i];
        if (g->z.mnemonic != ZYDIS_MNEMONIC_MOV)
                return NULL;
        if (is_control(&g->ops[0]) && g->ops[0].reg.value == ZYDIS_REGISTER_CR3)
                return &write_cr3;
        return is_control(&g->ops[1]) && ZydisRegisterGetId(g->ops[1].reg.value) <= 4 ? &read_cr : NULL;
}

/* What struct site tells the function of its operand. */
static unsigned size_of(const struct insn *g, const struct sys_insn *sys)
{
        const ZydisDecodedOperand *op = &g->ops[sys == &write_cr3];
        unsigned size;

        if (sys->operand != SYS_OPERAND_VALUE && sys->operand != SYS_OPERAND_DEST)
                return g->z.operand_width / 8;
        size = insn_gpr(op->reg.value) | (op->size == 64 ? SYS_WIDE : 0);
        return sys == &read_cr ? size | (unsigned)ZydisRegisterGetId(g->ops[1].reg.value) << SYS_CR_SHIFT : size;
}

bool sys_judge(const struct translate_request *req, struct insn *g)
{
        const struct sys_insn *sys = req->no_chains ? NULL : find(g); /* lockstep checking compares what instructions do to the registers */

        if (!sys || sys->where == (req->mode & MODE_USER ? WHERE_KERNEL : WHERE_USER))
                return false;
        g->kind = sys->end ? KIND_SYS_END : KIND_SYS;
        g->fast = sys->fast;
        g->fast_operand = sys->operand;
        g->fast_size = (u8)size_of(g, sys);
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
        return true;
}

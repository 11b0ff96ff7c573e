/* x87 instructions. The guest's x87 registers are the host's (interp/xsave.c), so they run as they are; what they leave behind besides, the pointers to
 * the last instruction and its operand, would be the host's: the guest's are kept in in->fpu_ip and in->fpu_dp.
 *
 * A pending exception makes the host's processor raise SIGFPE at an instruction that looks for one; the interpreter does that instruction then. A store
 * that meets an unmasked exception does not happen, and what its operand is does not matter: so while one is unmasked, the interpreter does the stores
 * that miss the soft TLB. */
#include "block.h"

#include "isa/isa.h"

/* Those that do not count as last instruction; SDM 1, 8.1.8. */
static bool is_control(ZydisMnemonic mnemonic)
{
        switch (mnemonic) {
        case ZYDIS_MNEMONIC_FNINIT:
        case ZYDIS_MNEMONIC_FNCLEX:
        case ZYDIS_MNEMONIC_FLDCW:
        case ZYDIS_MNEMONIC_FNSTCW:
        case ZYDIS_MNEMONIC_FNSTSW:
        case ZYDIS_MNEMONIC_FWAIT:
                return true;
        default:
                return false;
        }
}

bool x87_judge(const struct translate_request *req, const struct insn *g)
{
        const struct isa_context context = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG);

        if (g->z.meta.isa_ext != ZYDIS_ISA_EXT_X87 || g->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || req->mode & MODE_NO_FPU ||
            (req->has_extension && !req->has_extension[g->z.meta.isa_ext]))
                return false;
        switch (g->z.mnemonic) {
        case ZYDIS_MNEMONIC_FNSTENV: /* they have those pointers in memory */
        case ZYDIS_MNEMONIC_FLDENV:
        case ZYDIS_MNEMONIC_FNSAVE:
        case ZYDIS_MNEMONIC_FRSTOR:
                return false;
        default:
                return g->mem_size <= 10 && isa_classify(&g->z, &context).class == ISA_CLASS_SAFE;
        }
}

/* scratch 0 = host address of the operand. */
static bool operand(struct block_emitter *b, const struct insn *g, bool keep_address)
{
        const unsigned first = b->n_colds;

        flags_save(b);
        if ((b->req->mode & MODE_SPLIT && g->mem_writes) || !memory_address(b, g, 0))
                return false;
        if (keep_address)
                emit_store(&b->e, hmem_ctx(CTX(x87_dp)), SCRATCH0);
        memory_probe(b, g->mem_writes ? MMU_WRITE : MMU_READ, g->mem_size);
        for (unsigned i = first; g->mem_writes && i < b->n_colds; i++)
                b->colds[i].x87_store = true;
        return true;
}

bool emit_x87(struct block_emitter *b, const struct insn *g)
{
        static const struct renaming map = { .host = { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI } }; /* FNSTSW AX */
        const bool control = is_control(g->z.mnemonic);
        const struct hmem at = hmem_base(SCRATCH0, 0);
        struct emitter *e = &b->e;

        b->class = INSN_INLINE;
        b->why = "x87";
        if (g->mem && !operand(b, g, !control))
                return false;
        if (g->needs_flags)
                flags_restore(b);
        if (!reencode(e, g, &map, g->mem ? &at : NULL))
                return false;
        if (g->writes_flags)
                flags_written(b);
        if (control)
                return true;
        block_record(b, RECORD_FINISH_X87, b->next_off, (unsigned)g->z.length | (g->mem ? X87_MEMORY : 0));
        emit_guest_address(b, SCRATCH1, (s64)(b->req->rip & (PAGE_SIZE - 1)) + b->guest_off);
        emit_store(e, hmem_ctx(CTX(fpu_ip)), SCRATCH1);
        if (g->mem) {
                emit_load(e, SCRATCH1, hmem_ctx(CTX(x87_dp)));
                emit_store(e, hmem_ctx(CTX(fpu_dp)), SCRATCH1);
        }
        return true;
}

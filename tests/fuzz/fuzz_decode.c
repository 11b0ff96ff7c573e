/* Instructions: every byte string is classified, in every mode and at every privilege level, with a reason. */
#include <stdlib.h>

#include "isa/isa.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
        enum isa_mode mode;
} modes[] = {
        { ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16, ISA_MODE_REAL },
        { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16, ISA_MODE_VM86 },
        { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32, ISA_MODE_PROTECTED },
        { ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32, ISA_MODE_COMPAT },
        { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64, ISA_MODE_LONG },
};

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        ZydisDecodedInstruction insn;
        ZydisDecoder decoder;
        size_t i;
        u8 cpl;

        for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
                ZydisDecoderInit(&decoder, modes[i].machine, modes[i].stack);
                if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&decoder, NULL, data, len, &insn)))
                        continue;
                for (cpl = 0; cpl < 4; cpl++) {
                        struct isa_context ctx = { .mode = modes[i].mode, .cpl = cpl };
                        struct isa_verdict verdict = isa_classify(&insn, &ctx);

                        if (verdict.class >= ISA_CLASS_COUNT || verdict.outcome >= ISA_OUTCOME_COUNT || !verdict.reason ||
                                !verdict.source)
                                abort();
                        /* Theirs by definition: what is privileged is sensitive and traps. */
                        if (verdict.class == ISA_CLASS_PRIVILEGED && (!verdict.sensitive || !verdict.traps_at_cpl3))
                                abort();
                        if (verdict.class == ISA_CLASS_SAFE && verdict.sensitive)
                                abort();
                }
        }
        return 0;
}

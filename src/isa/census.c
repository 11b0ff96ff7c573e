#include "census.h"

void isa_census_init(struct isa_census *census, const struct isa_context *ctx, unsigned bits)
{
        *census = (struct isa_census){ .ctx = *ctx, .bits = bits };
}

static void count(struct isa_census *census, const ZydisDecodedInstruction *insn, const struct isa_verdict *verdict)
{
        size_t row = verdict->row ? isa_row_index(verdict->row) : ISA_CENSUS_ROWS_MAX;

        census->instructions++;
        census->by_class[verdict->class]++;
        if (row < ISA_CENSUS_ROWS_MAX)
                census->by_row[row]++;
        else
                census->safe_by_mnemonic[insn->mnemonic]++;
        census->violations += isa_violates(verdict);
        census->user_violations += isa_violates_user(verdict);
}

void isa_census_add(struct isa_census *census, const void *code, size_t len, u64 address, isa_on_finding *on_finding,
                    void *opaque)
{
        const u8 *bytes = code;
        ZydisDecoder decoder;
        ZydisDecoderContext decoder_context;
        ZydisDecodedInstruction insn;

        isa_decoder_init(&decoder, census->ctx.mode, census->bits);
        for (size_t at = 0; at < len;) {
                struct isa_verdict verdict;

                if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, &decoder_context, bytes + at, len - at,
                                                                &insn))) {
                        census->bad_bytes++;
                        at++;
                        continue;
                }
                verdict = isa_classify(&insn, &census->ctx);
                count(census, &insn, &verdict);
                if (on_finding && isa_violates(&verdict))
                        on_finding(&(struct isa_finding){ address + at, verdict.row, verdict }, opaque);
                at += insn.length;
        }
        census->bytes += len;
}

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

/* Length of the run of int3 at @code, 0 when it is a single one, which somebody may want to execute. */
static size_t padding(const u8 *code, size_t len)
{
        size_t n = 0;

        while (n < len && code[n] == 0xcc)
                n++;
        return n >= 2 ? n : 0;
}

size_t isa_census_part(struct isa_census *census, const void *code, size_t len, size_t from, size_t to, u64 address,
        isa_on_finding *on_finding, void *opaque)
{
        const u8 *bytes = code;
        ZydisDecoder decoder;
        ZydisDecoderContext decoder_context;
        ZydisDecodedInstruction insn;
        size_t at = from;

        isa_decoder_init(&decoder, census->ctx.mode, census->bits);
        while (at < MIN(to, len)) {
                size_t n_padding = padding(bytes + at, len - at);
                struct isa_verdict verdict;

                if (n_padding > 0) {
                        census->padding_bytes += n_padding;
                        at += n_padding;
                        continue;
                }
                if (!ZYAN_SUCCESS(
                            ZydisDecoderDecodeInstruction(&decoder, &decoder_context, bytes + at, len - at, &insn))) {
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
        census->bytes += at - from;
        return at;
}

void isa_census_add(
        struct isa_census *census, const void *code, size_t len, u64 address, isa_on_finding *on_finding, void *opaque)
{
        isa_census_part(census, code, len, 0, len, address, on_finding, opaque);
}

/* See dump.h. Sites are found in the code by the two instructions before them, which lead to their stub. */
#include "dump.h"

#include <inttypes.h>
#include <string.h>

#include <Zydis/Zydis.h>

#define SITE_JUMP 12u /* bytes before a site: lea r11, [rip + 5]; jmp stub */

static const char *const class_names[] = {
        [INSN_IDENTITY] = "identity", [INSN_RENAMED] = "renamed", [INSN_INLINE] = "inline", [INSN_CALL_OUT] = "call-out",
};
static const char *const exit_names[TEXIT_KINDS] = {
        [TEXIT_MISS] = "miss", [TEXIT_MISS_WRITE] = "miss", [TEXIT_MISS_USER] = "miss", [TEXIT_MISS_USER_WRITE] = "miss",
        [TEXIT_LINK] = "link", [TEXIT_LOOKUP] = "lookup", [TEXIT_INTERP] = "interp", [TEXIT_VECTORS] = "vectors",
        [TEXIT_FAST] = "fast", [TEXIT_LOOKUP_AC] = "lookup, AC", [TEXIT_LOOKUP_USER] = "lookup, user",
        [TEXIT_CROSS] = "cross", [TEXIT_CROSS_USER] = "cross, user",
};
static const char *const fast_names[] = {
#define FAST(id, function) #id,
#include "fast.def"
#undef FAST
};
static const char *const reason_names[] = {
#define INTERP_REASON(id, text) text,
#include "reasons.def"
#undef INTERP_REASON
};
static const char *const access_names[] = { [MMU_READ] = "read", [MMU_WRITE] = "write", [MMU_FETCH] = "fetch" };

struct disassembler {
        ZydisDecoder decoder;
        ZydisFormatter formatter;
};

static void disassembler_init(struct disassembler *d)
{
        ZydisDecoderInit(&d->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        ZydisFormatterInit(&d->formatter, ZYDIS_FORMATTER_STYLE_INTEL);
}

/* Disassembles one instruction that runs at @address; returns its length. */
static unsigned disassemble(const struct disassembler *d, const u8 *code, unsigned room, u64 address, char *text, size_t size)
{
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

        if (room && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d->decoder, code, room, &insn, ops)) &&
            ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&d->formatter, &insn, ops, insn.operand_count, text, size, address, NULL)))
                return insn.length;
        snprintf(text, size, "(no instruction)");
        return 1;
}

static void print_bytes(FILE *out, const u8 *code, unsigned n)
{
        for (unsigned i = 0; i < 12; i++)
                fprintf(out, i < n ? "%02x " : "   ", i < n ? code[i] : 0u);
        fputs(n > 12 ? "+" : " ", out);
}

/* ---- sites ---- */

static void print_site(FILE *out, const struct site *site)
{
        const unsigned access = site->access & SITE_ACCESS;

        fprintf(out, "                  [%s", site->kind < TEXIT_KINDS ? exit_names[site->kind] : "?");
        switch (site->kind) {
        case TEXIT_MISS:
        case TEXIT_MISS_WRITE:
        case TEXIT_MISS_USER:
        case TEXIT_MISS_USER_WRITE:
                fprintf(out, ", %s of %u", access < ARRAY_SIZE(access_names) ? access_names[access] : "?", site->size);
                break;
        case TEXIT_LINK:
                fprintf(out, " %u", site->arg);
                break;
        case TEXIT_INTERP:
                fprintf(out, ": %s", site->arg < ARRAY_SIZE(reason_names) ? reason_names[site->arg] : "?");
                break;
        case TEXIT_FAST:
                fprintf(out, ": %s", site->arg < ARRAY_SIZE(fast_names) ? fast_names[site->arg] : "?");
                break;
        default:
                break;
        }
        fprintf(out, "; instruction at +0x%x, goes on at +0x%x]\n", site->guest_off, site->resume_off);
}

/* Is there a site at @off, behind the code that leads to its stub? */
static bool is_site(const struct translation *t, unsigned off, struct site *ret)
{
        static const u8 lea[] = { 0x4c, 0x8d, 0x1d, 5, 0, 0, 0, 0xe9 };

        if (off < SITE_JUMP || off + sizeof(*ret) > t->code_size || memcmp(t->code + off - SITE_JUMP, lea, sizeof(lea)) != 0)
                return false;
        memcpy(ret, t->code + off, sizeof(*ret));
        return ret->back == off;
}

/* ---- blocks ---- */

static void print_host(FILE *out, const struct disassembler *d, const struct translate_request *req, const struct translation *t,
                       unsigned from, unsigned to)
{
        for (unsigned off = from; off < to;) {
                char text[128];
                struct site site;
                unsigned n;

                if (is_site(t, off, &site)) {
                        print_site(out, &site);
                        off += (unsigned)sizeof(site);
                        continue;
                }
                n = disassemble(d, t->code + off, t->code_size - off, (uintptr_t)req->run_at + off, text, sizeof(text));
                fprintf(out, "          +0x%-4x  ", off);
                print_bytes(out, t->code + off, n);
                fprintf(out, " %s\n", text);
                off += n;
        }
}

/* Where the code of instruction @i ends: at the next one's; the last one's behind the jump that leaves the block. */
static unsigned hot_end(const struct disassembler *d, const struct translate_request *req, const struct translation *t, unsigned i)
{
        unsigned off = req->notes[i].code_off;

        if (i + 1 < t->n_instructions)
                return req->notes[i + 1].code_off;
        while (off < t->code_size) {
                ZydisDecodedInstruction insn;

                if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d->decoder, NULL, t->code + off, t->code_size - off, &insn)))
                        return t->code_size;
                off += insn.length;
                /* The short ones stay inside. */
                if (insn.mnemonic == ZYDIS_MNEMONIC_JMP && insn.raw.imm[0].size != 8)
                        break;
        }
        return off;
}

void translate_dump(FILE *out, const struct translate_request *req, const struct translation *t)
{
        struct disassembler d;
        unsigned end = t->n_instructions ? req->notes[0].code_off : t->code_size;

        disassembler_init(&d);
        flockfile(out);
        fprintf(out, "block 0x%" PRIx64 " gpa 0x%" PRIx64 " mode 0x%x: %u instructions, %u bytes; %u bytes of code at %p, %u links\n", req->rip,
                req->gpa, req->mode, t->n_instructions, t->guest_bytes, t->code_size, (const void *)req->run_at, t->n_links);
        print_host(out, &d, req, t, 0, end);
        for (unsigned i = 0; i < t->n_instructions; i++) {
                const struct insn_note *note = &req->notes[i];
                char text[128];

                disassemble(&d, req->code + note->guest_off, req->room - note->guest_off, req->rip + note->guest_off, text, sizeof(text));
                fprintf(out, "  0x%-16" PRIx64 " %-44s ; %s%s%s\n", req->rip + note->guest_off, text,
                        note->class < ARRAY_SIZE(class_names) ? class_names[note->class] : "?", note->why ? ": " : "",
                        note->why ? note->why : "");
                end = hot_end(&d, req, t, i);
                print_host(out, &d, req, t, note->code_off, end);
        }
        if (end < t->code_size)
                fprintf(out, "  cold:\n");
        print_host(out, &d, req, t, end, t->code_size);
        funlockfile(out);
}

/* ---- totals ---- */

void translate_totals_add(struct translate_totals *totals, const struct translate_request *req, const struct translation *t)
{
        totals->blocks++;
        totals->guest_bytes += t->guest_bytes;
        totals->code_bytes += t->code_size;
        for (unsigned i = 0; i < t->n_instructions; i++)
                if (req->notes[i].class < ARRAY_SIZE(totals->instructions))
                        totals->instructions[req->notes[i].class]++;
}

void translate_totals_print(FILE *out, const struct translate_totals *totals)
{
        u64 n = 0;

        for (unsigned i = 0; i < ARRAY_SIZE(totals->instructions); i++)
                n += totals->instructions[i];
        fprintf(out, "%" PRIu64 " blocks, %" PRIu64 " instructions, %" PRIu64 " bytes; %" PRIu64 " bytes of code", totals->blocks, n,
                totals->guest_bytes, totals->code_bytes);
        for (unsigned i = 0; i < ARRAY_SIZE(totals->instructions); i++)
                fprintf(out, "%s%" PRIu64 " %s", i ? ", " : ": ", totals->instructions[i], class_names[i]);
        fputc('\n', out);
}

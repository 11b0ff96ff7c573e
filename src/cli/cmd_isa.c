/* `strata isa list` and `strata isa classify`; the census has a file of its own. */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd_isa_census.h"
#include "isa_options.h"

static const char *kinds_text(u8 kinds)
{
        static const char *const texts[] = { "-", "control", "behaviour", "control, behaviour" };

        return texts[kinds & 3];
}

/* --- list --- */

static const char *category_text(const struct isa_safe_row *row)
{
        return row->category < 0 ? "*" : ZydisCategoryGetString((ZydisInstructionCategory)row->category);
}

static json_t *row_to_json(const struct isa_row *row, const struct isa_context *ctx)
{
        struct isa_verdict v = isa_judge(row, ctx);
        char name[ISA_ROW_NAME_MAX];
        json_t *sensitive_in = json_array();

        for (int mode = 0; mode < ISA_MODE_COUNT; mode++)
                if (row->kinds && (row->modes >> mode & 1))
                        json_array_append_new(sensitive_in, json_string(isa_mode_name((enum isa_mode)mode)));
        return json_pack("{s:s, s:s, s:b, s:b, s:b, s:s, s:b, s:s, s:o, s:s, s:s}", "instruction",
                isa_row_name(row, name), "class", isa_class_name(v.class), "control",
                (row->kinds & ISA_KIND_CONTROL) != 0, "behaviour", (row->kinds & ISA_KIND_BEHAVIOUR) != 0,
                "user_sensitive", v.user_sensitive, "at_cpl3", isa_outcome_name(v.outcome_cpl3), "violates",
                isa_violates(&v), "traps", isa_trap_text(row), "sensitive_in", sensitive_in, "reason", row->reason,
                "source", row->source);
}

static int list_json(const struct isa_options *options, struct err **err)
{
        json_t *rows = json_array(), *safe = json_array();

        for (size_t i = 0; i < isa_row_count(); i++)
                json_array_append_new(rows, row_to_json(isa_row_at(i), &options->ctx));
        for (size_t i = 0; i < isa_safe_row_count(); i++) {
                const struct isa_safe_row *row = isa_safe_row_at(i);

                json_array_append_new(safe, json_pack("{s:s, s:s, s:s}", "set", ZydisISASetGetString(row->isa_set),
                                                    "category", category_text(row), "reason", row->reason));
        }
        return isa_print_json(json_pack("{s:o, s:o, s:o}", "machine", isa_options_to_json(options), "instructions",
                                      rows, "safe", safe),
                err);
}

static void list_table(const struct isa_options *options)
{
        char name[ISA_ROW_NAME_MAX];

        printf("%-16s %-20s %-7s %-5s %s\n", "INSTRUCTION", "CLASS", "AT CPL3", "USER", "WHY; when it traps [source]");
        for (size_t i = 0; i < isa_row_count(); i++) {
                const struct isa_row *row = isa_row_at(i);
                struct isa_verdict v = isa_judge(row, &options->ctx);

                printf("%-16s %-20s %-7s %-5s %s; traps: %s [%s]\n", isa_row_name(row, name), isa_class_name(v.class),
                        isa_outcome_name(v.outcome_cpl3), v.user_sensitive ? "yes" : "-", row->reason,
                        isa_trap_text(row), row->source);
        }
        printf("\nSafe, by Zydis's ISA set and category:\n");
        for (size_t i = 0; i < isa_safe_row_count(); i++) {
                const struct isa_safe_row *row = isa_safe_row_at(i);

                printf("%-24s %-12s %s\n", ZydisISASetGetString(row->isa_set), category_text(row), row->reason);
        }
}

static int isa_list(int argc, char **argv, struct err **err)
{
        static const struct option getopt_options[] = { ISA_OPTIONS_GETOPT, { 0 } };
        struct isa_options options;
        int option, r;

        isa_options_init(&options);
        while ((option = getopt_long(argc, argv, ":", getopt_options, NULL)) != -1) {
                r = isa_options_take(&options, option, optarg, err);
                if (r == 1)
                        return cli_option_error(argc, argv, option, "strata isa list", err);
                if (r < 0)
                        return r;
        }
        if (options.help) {
                puts("usage: strata isa list [OPTION...]\n\n"
                     "Print the whole classification: what each sensitive instruction is on the chosen machine,\n"
                     "whether it traps at CPL 3, whether it is sensitive in the guest's user mode too, and why\n"
                     "everything else is safe.\n");
                isa_options_print_help();
                return 0;
        }
        if (optind < argc)
                return err_set(err, ERR_USAGE, EINVAL, "'strata isa list' takes no argument '%s'", argv[optind]);
        if (options.json)
                return list_json(&options, err);
        list_table(&options);
        return 0;
}

/* --- classify --- */

#define CODE_MAX 4096

/* Hexadecimal digits, in pairs, with or without spaces, 0x and \x. */
static int parse_hex(char *const words[], int n_words, u8 code[CODE_MAX], size_t *ret_len, struct err **err)
{
        size_t digits = 0;

        for (int i = 0; i < n_words; i++) {
                for (const char *c = words[i]; *c; c++) {
                        static const char hex[] = "0123456789abcdef";
                        const char *digit;

                        if (isspace((unsigned char)*c) || *c == ',' || *c == '\\' || *c == 'x' ||
                                (*c == '0' && c[1] == 'x'))
                                continue;
                        digit = strchr(hex, tolower((unsigned char)*c));
                        if (!digit) {
                                int r = err_set(err, ERR_USAGE, EINVAL, "'%c' in '%s' is not a hexadecimal digit", *c,
                                        words[i]);
                                return err_hint(err, r, "example: strata isa classify 0f 01 e0");
                        }
                        if (digits / 2 >= CODE_MAX)
                                return err_set(err, ERR_USAGE, E2BIG, "more than %d bytes", CODE_MAX);
                        if (digits % 2 == 0)
                                code[digits / 2] = 0;
                        code[digits / 2] = (u8)(code[digits / 2] << 4 | (digit - hex));
                        digits++;
                }
        }
        if (digits == 0 || digits % 2)
                return err_set(err, ERR_USAGE, EINVAL, "%s",
                        digits ? "an odd number of hexadecimal digits" : "no bytes to classify");
        *ret_len = digits / 2;
        return 0;
}

struct decoded {
        const u8 *code;
        size_t offset;
        char text[96], bytes[32];
        struct isa_verdict verdict;
        size_t len;
};

/* "runs", "faults" or "enters" at CPL 0 to 3. */
static void outcomes_by_cpl(const struct decoded *d, const struct isa_context *ctx, const char *ret[4])
{
        for (u8 cpl = 0; cpl < 4; cpl++) {
                struct isa_context at = *ctx;

                at.cpl = cpl;
                ret[cpl] = isa_outcome_name(d->verdict.row ? isa_outcome(d->verdict.row, &at) : ISA_OUTCOME_RUNS);
        }
}

static void print_decoded(const struct decoded *d, const struct isa_context *ctx)
{
        const struct isa_verdict *v = &d->verdict;
        const char *at[4];

        outcomes_by_cpl(d, ctx, at);
        printf("%-24s %s\n", d->bytes, d->text);
        printf("  class    %s%s\n", isa_class_name(v->class),
                isa_violates(v) ? ", and does not trap: a monitor must find it by itself" : "");
        if (v->row) {
                printf("  nature   %s%s\n", kinds_text(v->row->kinds),
                        v->user_sensitive ? "; in the guest's user mode too" : "");
                if (ctx->mode == ISA_MODE_REAL || ctx->mode == ISA_MODE_VM86)
                        printf("  outcome  in %s mode: %s; deprivileged: %s\n", isa_mode_name(ctx->mode),
                                isa_outcome_name(v->outcome), isa_outcome_name(v->outcome_cpl3));
                else
                        printf("  outcome  CPL 0: %s, 1: %s, 2: %s, 3: %s\n", at[0], at[1], at[2], at[3]);
                printf("  traps    %s\n", isa_trap_text(v->row));
        }
        printf("  why      %s\n  source   %s\n", v->reason, v->source);
}

static json_t *decoded_to_json(const struct decoded *d, const struct isa_context *ctx)
{
        const struct isa_verdict *v = &d->verdict;
        const char *at[4];

        outcomes_by_cpl(d, ctx, at);
        return json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:[ssss], s:s, s:s}", "bytes", d->bytes, "instruction",
                d->text, "class", isa_class_name(v->class), "sensitive", v->sensitive, "user_sensitive",
                v->user_sensitive, "traps_at_cpl3", v->traps_at_cpl3, "violates", isa_violates(v), "outcome_by_cpl",
                at[0], at[1], at[2], at[3], "reason", v->reason, "source", v->source);
}

static int decode_one(const ZydisDecoder *decoder, const struct isa_context *ctx, const u8 *code, size_t len,
        struct decoded *ret, struct err **err)
{
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        ZydisFormatter formatter;
        int r;

        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, code, len, &insn, operands))) {
                r = err_set(err, ERR_USAGE, EINVAL, "no instruction begins with byte %02x here", code[0]);
                return err_hint(err, r, "--mode says how to decode; some encodings are not defined in %s mode",
                        isa_mode_name(ctx->mode));
        }
        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        if (!ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                    ret->text, sizeof(ret->text), ZYDIS_RUNTIME_ADDRESS_NONE, NULL)))
                snprintf(ret->text, sizeof(ret->text), "%s", ZydisMnemonicGetString(insn.mnemonic));
        for (size_t i = 0; i < insn.length && i < sizeof(ret->bytes) / 2; i++)
                snprintf(ret->bytes + 2 * i, 3, "%02x", code[i]);
        ret->verdict = isa_classify(&insn, ctx);
        ret->len = insn.length;
        return 0;
}

static int classify_code(const struct isa_options *options, const u8 *code, size_t len, struct err **err)
{
        json_t *list = options->json ? json_array() : NULL;
        ZydisDecoder decoder;
        int r = 0;

        isa_decoder_init(&decoder, options->ctx.mode, options->bits);
        for (size_t at = 0; at < len;) {
                struct decoded d = { 0 };

                r = decode_one(&decoder, &options->ctx, code + at, len - at, &d, err);
                if (r < 0)
                        break;
                if (list)
                        json_array_append_new(list, decoded_to_json(&d, &options->ctx));
                else
                        print_decoded(&d, &options->ctx);
                at += d.len;
        }
        if (list && r == 0)
                return isa_print_json(list, err);
        json_decref(list);
        return r;
}

static int isa_classify_bytes(int argc, char **argv, struct err **err)
{
        static const struct option getopt_options[] = { ISA_OPTIONS_GETOPT, { 0 } };
        struct isa_options options;
        u8 code[CODE_MAX] = { 0 };
        size_t len = 0;
        int option, r;

        isa_options_init(&options);
        while ((option = getopt_long(argc, argv, ":", getopt_options, NULL)) != -1) {
                r = isa_options_take(&options, option, optarg, err);
                if (r == 1)
                        return cli_option_error(argc, argv, option, "strata isa classify", err);
                if (r < 0)
                        return r;
        }
        if (options.help) {
                puts("usage: strata isa classify [OPTION...] HEXBYTES...\n\n"
                     "Decode instructions and say what they are to a virtual machine monitor, for instance:\n"
                     "  strata isa classify 9d                    (popfq)\n"
                     "  strata isa classify --mode vm86 9d\n"
                     "  strata isa classify --machine classic 0f 01 e0\n");
                isa_options_print_help();
                return 0;
        }
        r = parse_hex(argv + optind, argc - optind, code, &len, err);
        if (r < 0)
                return r;
        return classify_code(&options, code, len, err);
}

const struct command cli_isa_commands[] = {
        { "census", "[OPTION...] FILE", "count sensitive instructions in a program or kernel", isa_census_command,
                NULL },
        { "list", "[OPTION...]", "print the whole classification", isa_list, NULL },
        { "classify", "[OPTION...] HEXBYTES...", "decode bytes and classify them", isa_classify_bytes, NULL },
        { 0 },
};

/* `strata isa census`: runs the census over a file and prints it. */
#include "cmd_isa_census.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "code_file.h"
#include "isa/census.h"
#include "isa_options.h"

#define LIMIT_DEFAULT 20
#define SAFE_SHOWN    12
#define PROGRESS_STEP (4 * MIB)

struct census_options {
        struct isa_options isa;
        struct code_file_options file;
        u64 limit;
        bool all;
};

/* A finding with what is needed to print it. */
struct found {
        u64 address;
        const struct isa_row *row;
        const struct code_range *range;
};

struct job {
        const char *path;
        const struct census_options *options;
        struct code_file *file;
        struct isa_census census;
        const struct code_range *range; /* being swept */
        struct found *found;
        size_t n_found, cap_found;
        bool no_memory;
};

static void on_finding(const struct isa_finding *finding, void *opaque)
{
        struct job *job = opaque;

        if (job->n_found >= job->options->limit)
                return;
        if (job->n_found == job->cap_found) {
                size_t cap = MAX(64, job->cap_found * 2);
                struct found *larger = reallocarray(job->found, cap, sizeof(*larger));

                if (!larger) {
                        job->no_memory = true;
                        return;
                }
                job->found = larger;
                job->cap_found = cap;
        }
        job->found[job->n_found++] = (struct found){ finding->address, finding->row, job->range };
}

static void show_progress(const struct job *job)
{
        if (isatty(STDERR_FILENO) && job->file->code_bytes > PROGRESS_STEP)
                fprintf(stderr, "\rcounting: %3u %%%s", (unsigned)(job->census.bytes * 100 / job->file->code_bytes),
                        job->census.bytes >= job->file->code_bytes ? "\r               \r" : "");
}

static int sweep(struct job *job, struct err **err)
{
        for (size_t i = 0; i < job->file->n_ranges; i++) {
                const struct code_range *range = &job->file->ranges[i];

                job->range = range;
                for (size_t at = 0; at < range->len;) {
                        at = isa_census_part(&job->census, range->data, range->len, at, at + PROGRESS_STEP,
                                range->address, on_finding, job);
                        show_progress(job);
                }
        }
        if (job->no_memory)
                return err_set(
                        err, ERR_NO_MEMORY, ENOMEM, "no memory for %" PRIu64 " findings", job->census.violations);
        return 0;
}

/* --- What both formats print --- */

struct count {
        u64 n;
        size_t index; /* row, or mnemonic of a safe instruction */
};

static int compare_counts(const void *a, const void *b)
{
        const struct count *x = a, *y = b;

        if (x->n != y->n)
                return x->n > y->n ? -1 : 1;
        return x->index < y->index ? -1 : x->index > y->index;
}

/* The non-zero of @n counts, largest first. */
static size_t sort_counts(const u64 *values, size_t n, struct count *ret)
{
        size_t used = 0;

        for (size_t i = 0; i < n; i++)
                if (values[i])
                        ret[used++] = (struct count){ values[i], i };
        qsort(ret, used, sizeof(*ret), compare_counts);
        return used;
}

static size_t violating_kinds(const struct isa_census *census)
{
        size_t kinds = 0;

        for (size_t i = 0; i < isa_row_count(); i++) {
                struct isa_verdict v = isa_judge(isa_row_at(i), &census->ctx);

                kinds += census->by_row[i] && isa_violates(&v);
        }
        return kinds;
}

static void symbol_text(const struct job *job, const struct found *found, char *buf, size_t size)
{
        const struct code_symbol *s = code_file_symbol(job->file, found->range, found->address);

        if (s)
                snprintf(buf, size, "%s+0x%" PRIx64, s->name, found->address - s->address);
        else if (job->file->relocatable)
                snprintf(buf, size, "section %u", found->range->section);
        else
                buf[0] = '\0';
}

static const char *found_name(const struct found *found, char buf[ISA_ROW_NAME_MAX])
{
        return found->row ? isa_row_name(found->row, buf) : "unknown instruction";
}

/* --- Table --- */

static void print_classes(const struct isa_census *census)
{
        printf("%-21s %12s %8s\n", "CLASS", "COUNT", "SHARE");
        for (int c = 0; c < ISA_CLASS_COUNT; c++)
                printf("%-21s %12" PRIu64 " %7.3f%%\n", isa_class_name((enum isa_class)c), census->by_class[c],
                        census->instructions ? 100.0 * (double)census->by_class[c] / (double)census->instructions : 0);
}

static void print_rows(const struct isa_census *census)
{
        struct count counts[ISA_CENSUS_ROWS_MAX];
        size_t n = sort_counts(census->by_row, isa_row_count(), counts);
        char name[ISA_ROW_NAME_MAX];

        if (n == 0)
                return;
        printf("\n%-16s %-20s %-7s %10s  %s\n", "INSTRUCTION", "CLASS", "AT CPL3", "COUNT", "WHY");
        for (int c = ISA_CLASS_COUNT - 1; c >= 0; c--) {
                for (size_t i = 0; i < n; i++) {
                        const struct isa_row *row = isa_row_at(counts[i].index);
                        struct isa_verdict v = isa_judge(row, &census->ctx);

                        if ((int)v.class == c)
                                printf("%-16s %-20s %-7s %10" PRIu64 "  %s\n", isa_row_name(row, name),
                                        isa_class_name(v.class), isa_outcome_name(v.outcome_cpl3), counts[i].n,
                                        v.reason);
                }
        }
}

static int print_safe(const struct isa_census *census, bool all, struct err **err)
{
        _cleanup_free_ struct count *counts = calloc(ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof(*counts));
        size_t n, shown;

        if (!counts)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        n = sort_counts(census->safe_by_mnemonic, ZYDIS_MNEMONIC_MAX_VALUE + 1, counts);
        shown = all ? n : MIN(n, SAFE_SHOWN);
        printf("\nSafe by safe.def, %s:", all ? "all" : "most frequent");
        for (size_t i = 0; i < shown; i++)
                printf("%s %s %" PRIu64, i ? "," : "", ZydisMnemonicGetString((ZydisMnemonic)counts[i].index),
                        counts[i].n);
        if (shown < n)
                printf(", and %zu more mnemonics (--all)", n - shown);
        putchar('\n');
        return 0;
}

static void print_findings(const struct job *job)
{
        char name[ISA_ROW_NAME_MAX], symbol[160];

        if (job->n_found == 0)
                return;
        printf("\nSensitive and not trapping, %s%zu of %" PRIu64 ":\n",
                job->n_found < job->census.violations ? "the first " : "", job->n_found, job->census.violations);
        for (size_t i = 0; i < job->n_found; i++) {
                symbol_text(job, &job->found[i], symbol, sizeof(symbol));
                printf("  0x%016" PRIx64 "  %-*s%s%s\n", job->found[i].address, symbol[0] ? 16 : 0,
                        found_name(&job->found[i], name), symbol[0] ? " " : "", symbol);
        }
}

static void print_verdict(const struct isa_census *census)
{
        printf("\nStrictly virtualizable (Popek and Goldberg, first theorem): ");
        if (isa_census_strict(census)) {
                puts("yes. Every sensitive instruction in it\n"
                     "traps at CPL 3, so a trap-and-emulate monitor gets control each time.");
                return;
        }
        printf("no. %" PRIu64 " instructions of %zu kinds are\n"
               "sensitive and do not trap at CPL 3; a trap-and-emulate monitor would not notice them.\n"
               "As user code of a hybrid monitor (third theorem): ",
                census->violations, violating_kinds(census));
        if (isa_census_hybrid(census))
                puts("yes. None of them is sensitive in user mode; a monitor that\n"
                     "interprets the guest's kernel may run this code directly.");
        else
                printf("no. %" PRIu64 " of them are sensitive in user mode too.\n", census->user_violations);
}

static int print_table(const struct job *job, struct err **err)
{
        const struct isa_census *census = &job->census;
        _cleanup_free_ char *machine = isa_options_machine_text(&job->options->isa);
        int r;

        if (!machine)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        printf("%s: %s, %zu code range%s, %" PRIu64 " bytes, %" PRIu64 " instructions\n", job->path, job->file->kind,
                job->file->n_ranges, job->file->n_ranges == 1 ? "" : "s", census->bytes, census->instructions);
        printf("machine: %s\n", machine);
        printf("method: linear sweep, data among the code counts as code; skipped: %" PRIu64
               " bytes of int3 padding, %" PRIu64 " bytes\n        that do not decode\n\n",
                census->padding_bytes, census->bad_bytes);
        print_classes(census);
        print_rows(census);
        r = print_safe(census, job->options->all, err);
        if (r < 0)
                return r;
        print_findings(job);
        print_verdict(census);
        return 0;
}

/* --- JSON --- */

static json_t *rows_to_json(const struct isa_census *census)
{
        json_t *rows = json_array();
        char name[ISA_ROW_NAME_MAX];

        for (size_t i = 0; i < isa_row_count(); i++) {
                struct isa_verdict v = isa_judge(isa_row_at(i), &census->ctx);

                if (!census->by_row[i])
                        continue;
                json_array_append_new(
                        rows, json_pack("{s:s, s:s, s:I, s:s, s:b, s:b, s:s, s:s}", "instruction",
                                      isa_row_name(isa_row_at(i), name), "class", isa_class_name(v.class), "count",
                                      (json_int_t)census->by_row[i], "at_cpl3", isa_outcome_name(v.outcome_cpl3),
                                      "violates", isa_violates(&v), "user_sensitive", v.user_sensitive, "reason",
                                      v.reason, "source", v.source));
        }
        return rows;
}

static json_t *mnemonics_to_json(const struct isa_census *census)
{
        json_t *mnemonics = json_object();

        for (size_t m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
                u64 n = census->safe_by_mnemonic[m];

                for (size_t i = 0; i < isa_row_count(); i++)
                        if (isa_row_at(i)->mnemonic == m)
                                n += census->by_row[i];
                if (n)
                        json_object_set_new(
                                mnemonics, ZydisMnemonicGetString((ZydisMnemonic)m), json_integer((json_int_t)n));
        }
        return mnemonics;
}

/* File and symbol names are any bytes; JSON has null for those that are not UTF-8, or empty. */
static json_t *text_to_json(const char *text)
{
        json_t *json = text[0] ? json_string(text) : NULL;

        return json ? json : json_null();
}

static json_t *findings_to_json(const struct job *job)
{
        json_t *findings = json_array();
        char name[ISA_ROW_NAME_MAX], symbol[160], address[24];

        for (size_t i = 0; i < job->n_found; i++) {
                symbol_text(job, &job->found[i], symbol, sizeof(symbol));
                snprintf(address, sizeof(address), "0x%" PRIx64, job->found[i].address);
                json_array_append_new(
                        findings, json_pack("{s:s, s:s, s:o}", "address", address, "instruction",
                                          found_name(&job->found[i], name), "symbol", text_to_json(symbol)));
        }
        return findings;
}

static int print_json(const struct job *job, struct err **err)
{
        const struct isa_census *census = &job->census;
        json_t *classes = json_object();

        for (int c = 0; c < ISA_CLASS_COUNT; c++)
                json_object_set_new(
                        classes, isa_class_name((enum isa_class)c), json_integer((json_int_t)census->by_class[c]));
        return isa_print_json(
                json_pack("{s:o, s:s, s:s, s:o, s:i, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:I, s:o, s:b, s:b}",
                        "file", text_to_json(job->path), "kind", job->file->kind, "method", "linear sweep", "machine",
                        isa_options_to_json(&job->options->isa), "ranges", (int)job->file->n_ranges, "bytes",
                        (json_int_t)census->bytes, "undecodable_bytes", (json_int_t)census->bad_bytes, "padding_bytes",
                        (json_int_t)census->padding_bytes, "instructions", (json_int_t)census->instructions, "classes",
                        classes, "sensitive", rows_to_json(census), "mnemonics", mnemonics_to_json(census),
                        "violations", (json_int_t)census->violations, "user_violations",
                        (json_int_t)census->user_violations, "findings", findings_to_json(job),
                        "strictly_virtualizable", isa_census_strict(census), "hybrid_virtualizable",
                        isa_census_hybrid(census)),
                err);
}

/* --- Command line --- */

enum { OPTION_RAW = ISA_OPTION_OWN, OPTION_BASE, OPTION_LIMIT, OPTION_ALL };

static void print_help(void)
{
        puts("usage: strata isa census [OPTION...] FILE\n\n"
             "Count the instructions in FILE by what they are to a virtual machine monitor, list those that are\n"
             "sensitive and do not trap, and say whether the code is strictly virtualizable. FILE is an ELF\n"
             "executable, shared object, kernel module or vmlinux, or a bzImage (its unpacked kernel is counted).\n\n"
             "The sweep is linear: it decodes from the start of each code section and goes on one byte later where\n"
             "nothing can be decoded. Data among the code is counted too, so the numbers are upper bounds.\n\n"
             "  --raw             FILE is plain machine code, of 64-bit mode unless --mode says otherwise\n"
             "  --base ADDRESS    where the first byte of a raw file is in memory (default: 0)\n"
             "  --limit N|all     list so many sensitive instructions that do not trap (default: 20)\n"
             "  --all             count every safe mnemonic too, not only the most frequent (JSON always has them)");
        isa_options_print_help();
}

static int parse_number(const char *option, const char *value, u64 *ret, struct err **err)
{
        char *end;

        errno = 0;
        *ret = strtoull(value, &end, 0);
        if (value[0] < '0' || value[0] > '9' || *end || errno)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a number for %s", value, option);
        return 0;
}

static int take_option(struct census_options *options, int option, struct err **err)
{
        switch (option) {
        case OPTION_RAW:
                options->file.raw = true;
                return 0;
        case OPTION_BASE:
                return parse_number("--base", optarg, &options->file.base, err);
        case OPTION_LIMIT:
                if (strcmp(optarg, "all") == 0) {
                        options->limit = UINT64_MAX;
                        return 0;
                }
                return parse_number("--limit", optarg, &options->limit, err);
        case OPTION_ALL:
                options->all = true;
                return 0;
        default:
                return isa_options_take(&options->isa, option, optarg, err);
        }
}

static int run(const char *path, struct census_options *options, struct err **err)
{
        _cleanup_(code_file_freep) struct code_file *file = NULL;
        _cleanup_free_ struct job *job = calloc(1, sizeof(*job));
        int r;

        if (!job)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        r = code_file_open(path, &options->file, &file, err);
        if (r < 0)
                return r;
        if (!options->isa.mode_given)
                options->isa.ctx.mode = file->mode;
        job->path = path;
        job->options = options;
        job->file = file;
        isa_census_init(&job->census, &options->isa.ctx, options->isa.bits);
        r = sweep(job, err);
        if (r == 0)
                r = options->isa.json ? print_json(job, err) : print_table(job, err);
        free(job->found);
        return r;
}

int isa_census_command(int argc, char **argv, struct err **err)
{
        static const struct option getopt_options[] = {
                ISA_OPTIONS_GETOPT,
                { "raw", no_argument, NULL, OPTION_RAW },
                { "base", required_argument, NULL, OPTION_BASE },
                { "limit", required_argument, NULL, OPTION_LIMIT },
                { "all", no_argument, NULL, OPTION_ALL },
                { 0 },
        };
        struct census_options options = { .limit = LIMIT_DEFAULT };
        int option, r;

        isa_options_init(&options.isa);
        while ((option = getopt_long(argc, argv, ":", getopt_options, NULL)) != -1) {
                r = take_option(&options, option, err);
                if (r == 1)
                        return cli_option_error(argc, argv, option, "strata isa census", err);
                if (r < 0)
                        return r;
        }
        if (options.isa.help) {
                print_help();
                return 0;
        }
        if (argc - optind != 1) {
                r = err_set(err, ERR_USAGE, EINVAL, "'strata isa census' takes one FILE, not %d", argc - optind);
                return err_hint(err, r, "see 'strata isa census --help'");
        }
        if (options.file.base && !options.file.raw)
                return err_set(err, ERR_USAGE, EINVAL, "--base is for --raw; other files say where their code is");
        return run(argv[optind], &options, err);
}

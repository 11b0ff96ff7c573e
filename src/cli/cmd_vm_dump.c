/* `strata vm translate-dump`: what the translator makes of the code in a file, without running it. */
#include "cmd_vm_dump.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "code_file.h"
#include "cpu/translate/dump.h"

#define BLOCKS_DEFAULT 16
#define STDIN_MAX (64 * MIB)
#define RUN_AT 0x10000000u /* nothing runs: any place that is near the stubs */

enum { OPTION_RAW = 256, OPTION_BASE, OPTION_AT, OPTION_BLOCKS, OPTION_USER, OPTION_SHADOW, OPTION_HELP };

struct dump_options {
        struct code_file_options file;
        const char *at;
        u64 blocks;
        bool user, shadow;
};

struct dump {
        const struct dump_options *options;
        const struct code_file *file;
        const void *stubs[TEXIT_KINDS];
        u8 code[BLOCK_CODE_MAX];
        struct translation translation;
        struct insn_note notes[BLOCK_GUEST_MAX];
        struct translate_totals totals;
};

static void print_help(void)
{
        puts("usage: strata vm translate-dump [OPTION...] FILE\n\n"
             "Print what the translator makes of 64-bit code: each instruction, whether it is run as it is\n"
             "(identity), with other registers (renamed), rewritten (inline) or left to C code (call-out),\n"
             "why, and the host's instructions. FILE is an ELF file, a bzImage, or with --raw any bytes;\n"
             "- is standard input.\n\n"
             "Options:\n"
             "  --raw            no file format: everything is code\n"
             "  --base ADDRESS   where raw code lies; default 0\n"
             "  --at WHERE       start at this address or symbol; default: the first code\n"
             "  --blocks N       print this many blocks, one behind the other; default 16, 0 for all\n"
             "  --user           as user code (CPL 3); default as kernel code\n"
             "  --shadow         as user code of a process whose memory a shadow window shows\n"
             "  --help           this text\n\n"
             "Example:\n"
             "  printf '\\x48\\x8b\\x07\\xc3' | strata vm translate-dump --raw -");
}

static int parse_u64(const char *text, const char *option, u64 *ret, struct err **err)
{
        char *end;

        errno = 0;
        *ret = strtoull(text, &end, 0);
        if (errno || end == text || *end)
                return err_set(err, ERR_USAGE, EINVAL, "%s needs a number, not '%s'", option, text);
        return 0;
}

static int take_option(struct dump_options *o, int option, const char *value, struct err **err)
{
        switch (option) {
        case OPTION_RAW:
                o->file.raw = true;
                return 0;
        case OPTION_BASE:
                return parse_u64(value, "--base", &o->file.base, err);
        case OPTION_AT:
                o->at = value;
                return 0;
        case OPTION_BLOCKS:
                return parse_u64(value, "--blocks", &o->blocks, err);
        case OPTION_SHADOW:
                o->user = o->shadow = true;
                return 0;
        default:
                o->user = true;
                return 0;
        }
}

static int read_stdin(u8 **ret, size_t *ret_len, struct err **err)
{
        _cleanup_free_ u8 *data = NULL;
        size_t len = 0, cap = 0;

        for (;;) {
                ssize_t n;

                if (len == cap) {
                        u8 *larger;

                        if (cap >= STDIN_MAX)
                                return err_set(err, ERR_TOO_LARGE, EFBIG, "more than %u MiB on standard input", (unsigned)(STDIN_MAX / MIB));
                        cap = MAX(cap * 2, 64 * KIB);
                        larger = realloc(data, cap);
                        if (!larger)
                                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
                        data = larger;
                }
                n = read(STDIN_FILENO, data + len, cap - len);
                if (n < 0)
                        return err_sys(err, errno, "reading standard input");
                if (n == 0)
                        break;
                len += (size_t)n;
        }
        *ret = TAKE_PTR(data);
        *ret_len = len;
        return 0;
}

static int open_file(const char *path, const struct code_file_options *options, struct code_file **ret, struct err **err)
{
        size_t len = 0;
        u8 *data = NULL;
        int r;

        if (strcmp(path, "-") != 0)
                return code_file_open(path, options, ret, err);
        r = read_stdin(&data, &len, err);
        return r < 0 ? r : code_file_parse(data, len, options, ret, err);
}

/* The address that --at names. */
static int find_start(const struct dump *dump, u64 *ret, struct err **err)
{
        const struct code_file *file = dump->file;
        const char *at = dump->options->at;
        char *end;

        if (!at) {
                *ret = file->n_ranges ? file->ranges[0].address : 0;
                return 0;
        }
        for (size_t i = 0; i < file->n_symbols; i++) {
                if (strcmp(file->symbols[i].name, at) == 0) {
                        *ret = file->symbols[i].address;
                        return 0;
                }
        }
        errno = 0;
        *ret = strtoull(at, &end, 0);
        if (errno || end == at || *end)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is neither an address nor a symbol of the file", at);
        return 0;
}

static const struct code_range *range_at(const struct code_file *file, u64 address)
{
        for (size_t i = 0; i < file->n_ranges; i++)
                if (address - file->ranges[i].address < file->ranges[i].len)
                        return &file->ranges[i];
        return NULL;
}

/* One block at @address of @range; returns how many guest bytes it took. */
static unsigned dump_block(struct dump *dump, const struct code_range *range, u64 address)
{
        const u64 off = address - range->address;
        const u64 room = MIN(range->len - off, PAGE_SIZE - (address & (PAGE_SIZE - 1)));
        const u32 user_mode = MODE_USER | (dump->options->shadow ? MODE_SHADOW | MODE_SHADOW_FIXED : 0);
        const struct translate_request req = {
                .rip = address, .gpa = address, .code = range->data + off, .room = (unsigned)room,
                .mode = MODE_LONG64 | MODE_LONG | MODE_PROTECTED | (dump->options->user ? user_mode : MODE_SMAP),
                .by_entry_a = dump->options->shadow,
                .notes = dump->notes, .run_at = (const u8 *)(uintptr_t)RUN_AT, .stubs = dump->stubs,
        };
        const struct code_symbol *symbol = code_file_symbol(dump->file, range, address);

        dump->translation.code = dump->code;
        dump->notes[0] = (struct insn_note){ .class = INSN_CALL_OUT, .why = "crosses the page's end, or is no instruction" };
        if (!translate_block(&req, &dump->translation)) {
                printf("0x%" PRIx64 ": not translated\n", address);
                return 1;
        }
        if (symbol)
                printf("%s+0x%" PRIx64 ":\n", symbol->name, address - symbol->address);
        translate_dump(stdout, &req, &dump->translation);
        translate_totals_add(&dump->totals, &req, &dump->translation);
        return MAX(dump->translation.guest_bytes, 1u);
}

static int dump_file(struct dump *dump, struct err **err)
{
        const struct code_range *range;
        u64 address;
        int r = find_start(dump, &address, err);

        if (r < 0)
                return r;
        range = range_at(dump->file, address);
        if (!range)
                return err_set(err, ERR_USAGE, EINVAL, "there is no code at 0x%" PRIx64, address);
        for (size_t i = 0; i < TEXIT_KINDS; i++)
                dump->stubs[i] = (const void *)(uintptr_t)(RUN_AT - 0x1000u + 0x100u * i);
        while (range && (!dump->options->blocks || dump->totals.blocks < dump->options->blocks)) {
                address += dump_block(dump, range, address);
                if (address - range->address >= range->len)
                        range = range == &dump->file->ranges[dump->file->n_ranges - 1] ? NULL : range + 1;
                if (range && address - range->address >= range->len)
                        address = range->address;
        }
        translate_totals_print(stdout, &dump->totals);
        return 0;
}

int cli_vm_translate_dump(int argc, char **argv, struct err **err)
{
        static const struct option getopt_options[] = {
                { "raw", no_argument, NULL, OPTION_RAW },       { "base", required_argument, NULL, OPTION_BASE },
                { "at", required_argument, NULL, OPTION_AT },   { "blocks", required_argument, NULL, OPTION_BLOCKS },
                { "user", no_argument, NULL, OPTION_USER },     { "shadow", no_argument, NULL, OPTION_SHADOW },
                { "help", no_argument, NULL, OPTION_HELP },     { 0 },
        };
        struct dump_options options = { .blocks = BLOCKS_DEFAULT };
        _cleanup_(code_file_freep) struct code_file *file = NULL;
        _cleanup_free_ struct dump *dump = NULL;
        int option, r;

        while ((option = getopt_long(argc, argv, ":", getopt_options, NULL)) != -1) {
                if (option == '?' || option == ':')
                        return cli_option_error(argc, argv, option, "strata vm translate-dump", err);
                if (option == OPTION_HELP) {
                        print_help();
                        return 0;
                }
                r = take_option(&options, option, optarg, err);
                if (r < 0)
                        return r;
        }
        if (optind + 1 != argc) {
                r = err_set(err, ERR_USAGE, EINVAL, "'strata vm translate-dump' takes one file");
                return err_hint(err, r, "strata vm translate-dump --help tells more");
        }
        r = open_file(argv[optind], &options.file, &file, err);
        if (r < 0)
                return r;
        if (file->mode != ISA_MODE_LONG)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "'%s' is not 64-bit code, which is all that is translated", argv[optind]);
        dump = calloc(1, sizeof(*dump));
        if (!dump)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        dump->options = &options;
        dump->file = file;
        return dump_file(dump, err);
}

/* The census counts what is there, and reads code out of ELF files without trusting them. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <elf.h>
#include <stdlib.h>

#include "cli/code_file.h"
#include "isa/census.h"

static struct isa_finding last;
static unsigned n_findings;

static void remember(const struct isa_finding *finding, void *opaque)
{
        last = *finding;
        n_findings++;
}

static void census_of(struct isa_census *census, enum isa_machine_id machine, enum isa_mode mode, const u8 *code,
                      size_t len)
{
        struct isa_context ctx = isa_machine(machine, mode);

        n_findings = 0;
        isa_census_init(census, &ctx, 0);
        isa_census_add(census, code, len, 0x1000, remember, NULL);
}

static void census_counts_by_class_and_reports_where(void **state)
{
        /* mov eax, ebx; hlt; popfq; cpuid; syscall */
        static const u8 code[] = { 0x89, 0xd8, 0xf4, 0x9d, 0x0f, 0xa2, 0x0f, 0x05 };
        static struct isa_census census;

        census_of(&census, ISA_MACHINE_LINUX, ISA_MODE_LONG, code, sizeof(code));
        assert_int_equal(census.instructions, 5);
        assert_int_equal(census.bytes, sizeof(code));
        assert_int_equal(census.bad_bytes, 0);
        assert_int_equal(census.by_class[ISA_CLASS_SAFE], 1);
        assert_int_equal(census.by_class[ISA_CLASS_PRIVILEGED], 1);
        assert_int_equal(census.by_class[ISA_CLASS_CONTROL_SENSITIVE], 2);
        assert_int_equal(census.by_class[ISA_CLASS_BEHAVIOUR_SENSITIVE], 1);
        assert_int_equal(census.safe_by_mnemonic[ZYDIS_MNEMONIC_MOV], 1);
        /* syscall enters the monitor, so two violate */
        assert_int_equal(census.violations, 2);
        assert_int_equal(n_findings, 2);
        assert_int_equal(last.address, 0x1004);
        assert_int_equal(last.row->mnemonic, ZYDIS_MNEMONIC_CPUID);
        assert_false(isa_census_strict(&census));
        assert_false(isa_census_hybrid(&census));
}

static void code_whose_sensitive_instructions_all_trap_is_strictly_virtualizable(void **state)
{
        static const u8 code[] = { 0xf4, 0xfa, 0x0f, 0x22, 0xd8, 0xc3 }; /* hlt; cli; mov cr3, rax; ret */
        static struct isa_census census;

        census_of(&census, ISA_MACHINE_CLASSIC, ISA_MODE_LONG, code, sizeof(code));
        assert_true(isa_census_strict(&census));
        assert_true(isa_census_hybrid(&census));
}

static void code_with_popf_is_only_hybrid_virtualizable(void **state)
{
        static const u8 code[] = { 0x9d, 0xc3 };
        static struct isa_census census;

        census_of(&census, ISA_MACHINE_LINUX, ISA_MODE_LONG, code, sizeof(code));
        assert_false(isa_census_strict(&census));
        assert_true(isa_census_hybrid(&census));
        /* and in virtual-8086 mode even strictly */
        census_of(&census, ISA_MACHINE_LINUX, ISA_MODE_VM86, code, sizeof(code));
        assert_true(isa_census_strict(&census));
}

static void sweep_resynchronises_one_byte_after_what_does_not_decode(void **state)
{
        static const u8 code[] = { 0x06, 0x06, 0x90, 0x0f }; /* undefined in 64-bit mode, twice; nop; truncated */
        static struct isa_census census;

        census_of(&census, ISA_MACHINE_LINUX, ISA_MODE_LONG, code, sizeof(code));
        assert_int_equal(census.bad_bytes, 3);
        assert_int_equal(census.instructions, 1);
}

static void runs_of_int3_are_padding_and_a_single_one_is_code(void **state)
{
        static const u8 code[] = { 0xc3, 0xcc, 0xcc, 0xcc, 0x90, 0xcc, 0xc3 };
        static struct isa_census census;

        census_of(&census, ISA_MACHINE_LINUX, ISA_MODE_LONG, code, sizeof(code));
        assert_int_equal(census.padding_bytes, 3);
        assert_int_equal(census.instructions, 4);
        assert_int_equal(census.by_class[ISA_CLASS_CONTROL_SENSITIVE], 1);
}

static void sweeping_in_pieces_counts_the_same(void **state)
{
        u8 code[4096];
        static struct isa_census whole, pieces;
        struct isa_context ctx = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG);
        u32 seed = 12345;

        for (size_t i = 0; i < sizeof(code); i++) {
                seed = seed * 1103515245 + 12345;
                code[i] = (u8)(seed >> 16);
        }
        memset(code + 1000, 0xcc, 50);
        census_of(&whole, ISA_MACHINE_LINUX, ISA_MODE_LONG, code, sizeof(code));
        isa_census_init(&pieces, &ctx, 0);
        for (size_t at = 0; at < sizeof(code);)
                at = isa_census_part(&pieces, code, sizeof(code), at, at + 7, 0x1000, NULL, NULL);
        assert_memory_equal(&whole, &pieces, sizeof(whole));
}

/* --- ELF --- */

struct elf {
        Elf64_Ehdr header;
        Elf64_Shdr sections[4]; /* null, .text, .symtab, .strtab */
        Elf64_Sym symbols[2];
        char names[16];
        u8 text[8];
};

static const struct elf good_elf = {
        .header = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT }, .e_type = ET_EXEC,
                    .e_machine = EM_X86_64, .e_shoff = offsetof(struct elf, sections),
                    .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = 4 },
        .sections = {
                [1] = { .sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC | SHF_EXECINSTR, .sh_addr = 0x400000,
                        .sh_offset = offsetof(struct elf, text), .sh_size = 8 },
                [2] = { .sh_type = SHT_SYMTAB, .sh_offset = offsetof(struct elf, symbols),
                        .sh_size = 2 * sizeof(Elf64_Sym), .sh_link = 3 },
                [3] = { .sh_type = SHT_STRTAB, .sh_offset = offsetof(struct elf, names), .sh_size = 16 },
        },
        .symbols = { { .st_name = 1, .st_info = STT_FUNC, .st_shndx = 1, .st_value = 0x400000 },
                     { .st_name = 5, .st_info = STT_FUNC, .st_shndx = 1, .st_value = 0x400004 } },
        .names = "\0one\0two",
        .text = { 0x90, 0x90, 0x90, 0xc3, 0x9d, 0xc3, 0x90, 0x90 },
};

static int parse(const struct elf *elf, size_t len, struct code_file **ret, struct err **err)
{
        struct code_file_options options = { 0 };
        u8 *copy = malloc(len ? len : 1);

        assert_non_null(copy);
        memcpy(copy, elf, len);
        return code_file_parse(copy, len, &options, ret, err);
}

static void code_and_symbols_of_an_elf_file_are_found(void **state)
{
        struct code_file *file = NULL;

        assert_int_equal(parse(&good_elf, sizeof(good_elf), &file, NULL), 0);
        assert_int_equal(file->mode, ISA_MODE_LONG);
        assert_int_equal(file->n_ranges, 1);
        assert_int_equal(file->ranges[0].address, 0x400000);
        assert_int_equal(file->ranges[0].len, 8);
        assert_memory_equal(file->ranges[0].data, good_elf.text, 8);
        assert_string_equal(code_file_symbol(file, &file->ranges[0], 0x400003)->name, "one");
        assert_string_equal(code_file_symbol(file, &file->ranges[0], 0x400004)->name, "two");
        assert_null(code_file_symbol(file, &file->ranges[0], 0x3fffff));
        code_file_free(file);
}

static void expect_bad(const struct elf *elf, size_t len)
{
        struct code_file *file = NULL;
        struct err *err = NULL;

        assert_true(parse(elf, len, &file, &err) < 0);
        assert_int_equal(err_get_id(err), ERR_BAD_IMAGE);
        assert_null(file);
        err_free(err);
}

static void damaged_elf_files_are_refused(void **state)
{
        struct elf elf;

        for (size_t len = 0; len < offsetof(struct elf, text) + 8; len++)
                if (len < sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Shdr))
                        expect_bad(&good_elf, len);
        elf = good_elf;
        elf.sections[1].sh_offset = UINT64_MAX - 3;
        expect_bad(&elf, sizeof(elf));
        elf = good_elf;
        elf.sections[1].sh_size = UINT64_MAX;
        expect_bad(&elf, sizeof(elf));
        elf = good_elf;
        elf.header.e_shoff = UINT64_MAX - 63;
        expect_bad(&elf, sizeof(elf));
        elf = good_elf;
        elf.header.e_machine = EM_AARCH64;
        expect_bad(&elf, sizeof(elf));
        elf = good_elf;
        elf.sections[1].sh_flags = SHF_ALLOC;
        expect_bad(&elf, sizeof(elf));
        /* the same bytes as code again and again */
        elf = good_elf;
        for (int i = 1; i < 4; i++) {
                elf.sections[i] = good_elf.sections[1];
                elf.sections[i].sh_offset = 0;
                elf.sections[i].sh_size = sizeof(elf) / 2;
        }
        expect_bad(&elf, sizeof(elf));
}

static void damaged_symbols_cost_only_the_names(void **state)
{
        struct code_file *file = NULL;
        struct elf elf = good_elf;

        elf.symbols[0].st_name = 1000;
        elf.symbols[1].st_shndx = 77;
        assert_int_equal(parse(&elf, sizeof(elf), &file, NULL), 0);
        assert_int_equal(file->n_symbols, 0);
        code_file_free(file);
        elf = good_elf;
        elf.names[15] = 'x'; /* not terminated */
        assert_int_equal(parse(&elf, sizeof(elf), &file, NULL), 0);
        assert_int_equal(file->n_symbols, 0);
        code_file_free(file);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(census_counts_by_class_and_reports_where),
                cmocka_unit_test(code_whose_sensitive_instructions_all_trap_is_strictly_virtualizable),
                cmocka_unit_test(code_with_popf_is_only_hybrid_virtualizable),
                cmocka_unit_test(sweep_resynchronises_one_byte_after_what_does_not_decode),
                cmocka_unit_test(runs_of_int3_are_padding_and_a_single_one_is_code),
                cmocka_unit_test(sweeping_in_pieces_counts_the_same),
                cmocka_unit_test(code_and_symbols_of_an_elf_file_are_found),
                cmocka_unit_test(damaged_elf_files_are_refused),
                cmocka_unit_test(damaged_symbols_cost_only_the_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The classification is complete, agrees with what Zydis knows about privilege, and says what the manuals say. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "isa/isa.h"
#include "x86_space.h"

#define K(knob) (1u << ISA_KNOB_##knob)

static struct isa_verdict verdict_of(const struct isa_context *ctx, const u8 *code, size_t len)
{
        ZydisDecoder decoder;
        ZydisDecodedInstruction insn;

        isa_decoder_init(&decoder, ctx->mode, 0);
        assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, len, &insn)));
        return isa_classify(&insn, ctx);
}

#define CODE(...) ((const u8[]){ __VA_ARGS__ }), sizeof((const u8[]){ __VA_ARGS__ })

/* --- Completeness --- */

struct space {
        bool seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
        bool in_table[ZYDIS_MNEMONIC_MAX_VALUE + 1];
        bool row_seen[256];
        bool safe_row_seen[256];
        /* Mnemonics without a row in a set and category where others have one. */
        u8 listed[ZYDIS_ISA_SET_MAX_VALUE + 1][ZYDIS_CATEGORY_MAX_VALUE + 1];
        bool unlisted[ZYDIS_MNEMONIC_MAX_VALUE + 1];
        u16 unlisted_set[ZYDIS_MNEMONIC_MAX_VALUE + 1], unlisted_category[ZYDIS_MNEMONIC_MAX_VALUE + 1];
        unsigned uncovered, privileged, not_privileged;
};

/* Zydis marks the instructions that never run above CPL 0. */
static void compare_privilege(struct space *space, const ZydisDecodedInstruction *insn)
{
        struct isa_context ctx = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG);
        struct isa_verdict v;

        if (!(insn->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED))
                return;
        if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
                ctx.mode = ISA_MODE_PROTECTED;
        v = isa_classify(insn, &ctx);
        space->privileged++;
        if (v.class != ISA_CLASS_PRIVILEGED && space->not_privileged++ < 10)
                print_message("Zydis calls %s privileged, we %s\n", ZydisMnemonicGetString(insn->mnemonic),
                              isa_class_name(v.class));
}

static void visit_space(const ZydisDecoder *decoder, const u8 *code, size_t len, const ZydisDecodedInstruction *insn,
                        void *opaque)
{
        struct space *space = opaque;
        const struct isa_row *row = isa_find(insn);
        const struct isa_safe_row *safe = isa_find_safe(insn);

        compare_privilege(space, insn);
        space->seen[insn->mnemonic] = true;
        if (row) {
                space->in_table[insn->mnemonic] = true;
                space->row_seen[isa_row_index(row)] = true;
                space->listed[insn->meta.isa_set][insn->meta.category] = 1;
                return;
        }
        if (!safe) {
                if (space->uncovered++ < 10)
                        print_message("in no table: %s (%s, %s)\n", ZydisMnemonicGetString(insn->mnemonic),
                                      ZydisISASetGetString(insn->meta.isa_set),
                                      ZydisCategoryGetString(insn->meta.category));
                return;
        }
        space->safe_row_seen[safe - isa_safe_row_at(0)] = true;
        if (!space->in_table[insn->mnemonic]) {
                space->unlisted[insn->mnemonic] = true;
                space->unlisted_set[insn->mnemonic] = (u16)insn->meta.isa_set;
                space->unlisted_category[insn->mnemonic] = (u16)insn->meta.category;
        }
}

static struct space space;

static int walk_space(void **state)
{
        memset(&space, 0, sizeof(space));
        x86_space_walk(ZYDIS_MACHINE_MODE_LONG_64, visit_space, &space);
        x86_space_walk(ZYDIS_MACHINE_MODE_LEGACY_32, visit_space, &space);
        return 0;
}

static void every_mnemonic_of_the_decoder_was_looked_at(void **state)
{
        unsigned missing = 0;

        for (ZydisMnemonic m = ZYDIS_MNEMONIC_INVALID + 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
                if (!space.seen[m]) {
                        print_message("no encoding found for %s\n", ZydisMnemonicGetString(m));
                        missing++;
                }
        }
        assert_int_equal(missing, 0);
}

static void every_instruction_is_in_exactly_one_table(void **state)
{
        assert_int_equal(space.uncovered, 0);
}

static void no_line_of_the_tables_is_dead(void **state)
{
        unsigned dead = 0;
        char name[ISA_ROW_NAME_MAX];

        for (size_t i = 0; i < isa_row_count(); i++) {
                if (!space.row_seen[i]) {
                        print_message("no instruction for row %s\n", isa_row_name(isa_row_at(i), name));
                        dead++;
                }
        }
        for (size_t i = 0; i < isa_safe_row_count(); i++) {
                if (!space.safe_row_seen[i]) {
                        print_message("no instruction for set %s\n", ZydisISASetGetString(isa_safe_row_at(i)->isa_set));
                        dead++;
                }
        }
        assert_int_equal(dead, 0);
}

/* Where a set and category hold sensitive and safe instructions together, a line missing in sensitive.def would make
 * the instruction safe by its neighbours. So here the safe ones are counted: a new one is noticed. */
static const struct {
        u16 set, category;
        unsigned safe_mnemonics;
} mixed[] = {
        { ZYDIS_ISA_SET_I86, ZYDIS_CATEGORY_DATAXFER, 1 },  /* xchg; mov itself has rows */
        { ZYDIS_ISA_SET_I86, ZYDIS_CATEGORY_FLAGOP, 6 },    /* clc cld cmc salc stc std */
        { ZYDIS_ISA_SET_I386, ZYDIS_CATEGORY_POP, 1 },      /* popad */
        { ZYDIS_ISA_SET_I386, ZYDIS_CATEGORY_PUSH, 1 },     /* pushad */
        { ZYDIS_ISA_SET_I86, ZYDIS_CATEGORY_POP, 0 },       /* pop has rows */
        { ZYDIS_ISA_SET_I86, ZYDIS_CATEGORY_PUSH, 0 },
        { ZYDIS_ISA_SET_I86, ZYDIS_CATEGORY_CALL, 0 },
        { ZYDIS_ISA_SET_I86, ZYDIS_CATEGORY_RET, 0 },
        { ZYDIS_ISA_SET_I86, ZYDIS_CATEGORY_UNCOND_BR, 0 },
        { ZYDIS_ISA_SET_X87, ZYDIS_CATEGORY_X87_ALU, 77 },  /* all but fnsave, fnstenv */
};

static void instructions_that_are_safe_beside_sensitive_ones_are_known(void **state)
{
        for (unsigned set = 0; set <= ZYDIS_ISA_SET_MAX_VALUE; set++) {
                for (unsigned category = 0; category <= ZYDIS_CATEGORY_MAX_VALUE; category++) {
                        unsigned safe = 0, expected = 0;

                        if (!space.listed[set][category])
                                continue;
                        for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
                                safe += space.unlisted[m] && !space.in_table[m] && space.unlisted_set[m] == set &&
                                        space.unlisted_category[m] == category;
                        for (size_t i = 0; i < ARRAY_SIZE(mixed); i++)
                                if (mixed[i].set == set && mixed[i].category == category)
                                        expected = mixed[i].safe_mnemonics;
                        if (safe != expected)
                                print_message("%s, %s\n", ZydisISASetGetString((ZydisISASet)set),
                                              ZydisCategoryGetString((ZydisInstructionCategory)category));
                        assert_int_equal(safe, expected);
                }
        }
}

static void an_instruction_unknown_to_the_tables_is_not_safe(void **state)
{
        ZydisDecodedInstruction insn = { .mnemonic = ZYDIS_MNEMONIC_INVALID };
        struct isa_context ctx = isa_machine(ISA_MACHINE_STRICT, ISA_MODE_LONG);
        struct isa_verdict v = isa_classify(&insn, &ctx);

        assert_int_equal(v.class, ISA_CLASS_BEHAVIOUR_SENSITIVE);
        assert_true(isa_violates(&v));
        assert_null(v.row);
        assert_non_null(v.reason);
}

/* A second opinion. */
static void what_zydis_calls_privileged_is_privileged(void **state)
{
        assert_in_range(space.privileged, 100, 1000000);
        assert_int_equal(space.not_privileged, 0);
}

/* --- Single facts --- */

static void robin_and_irvines_seventeen_violate_the_first_theorem_on_the_classic_machine(void **state)
{
        /* "Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine Monitor", 2000; without int n,
         * which enters the monitor by itself. */
        static const struct {
                u8 code[8];
                size_t len;
                enum isa_class class;
        } seventeen[] = {
                { { 0x0f, 0x01, 0x00 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* sgdt [eax] */
                { { 0x0f, 0x01, 0x08 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* sidt [eax] */
                { { 0x0f, 0x00, 0xc0 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* sldt eax */
                { { 0x0f, 0x01, 0xe0 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* smsw eax */
                { { 0x9c }, 1, ISA_CLASS_BEHAVIOUR_SENSITIVE },                   /* pushfd */
                { { 0x9d }, 1, ISA_CLASS_CONTROL_SENSITIVE },                     /* popfd */
                { { 0x0f, 0x02, 0xc0 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* lar */
                { { 0x0f, 0x03, 0xc0 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* lsl */
                { { 0x0f, 0x00, 0xe0 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* verr */
                { { 0x0f, 0x00, 0xe8 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* verw */
                { { 0x1f }, 1, ISA_CLASS_CONTROL_SENSITIVE },                     /* pop ds */
                { { 0x0e }, 1, ISA_CLASS_BEHAVIOUR_SENSITIVE },                   /* push cs */
                { { 0x9a, 0, 0, 0, 0, 8, 0 }, 7, ISA_CLASS_CONTROL_SENSITIVE },   /* call 8:0 */
                { { 0xea, 0, 0, 0, 0, 8, 0 }, 7, ISA_CLASS_CONTROL_SENSITIVE },   /* jmp 8:0 */
                { { 0xcb }, 1, ISA_CLASS_CONTROL_SENSITIVE },                     /* retf */
                { { 0x0f, 0x00, 0xc8 }, 3, ISA_CLASS_BEHAVIOUR_SENSITIVE },       /* str eax */
                { { 0x8c, 0xc8 }, 2, ISA_CLASS_BEHAVIOUR_SENSITIVE },             /* mov eax, cs */
                { { 0x8e, 0xd0 }, 2, ISA_CLASS_CONTROL_SENSITIVE },               /* mov ss, eax */
        };
        struct isa_context ctx = isa_machine(ISA_MACHINE_CLASSIC, ISA_MODE_PROTECTED);

        for (size_t i = 0; i < ARRAY_SIZE(seventeen); i++) {
                struct isa_verdict v = verdict_of(&ctx, seventeen[i].code, seventeen[i].len);

                assert_true(isa_violates(&v));
                assert_int_equal(v.class, seventeen[i].class);
        }
}

static void near_and_register_forms_of_the_same_mnemonics_are_safe(void **state)
{
        struct isa_context ctx = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG);

        assert_int_equal(verdict_of(&ctx, CODE(0x48, 0x89, 0xc3)).class, ISA_CLASS_SAFE);     /* mov rbx, rax */
        assert_int_equal(verdict_of(&ctx, CODE(0xb8, 1, 0, 0, 0)).class, ISA_CLASS_SAFE);     /* mov eax, 1 */
        assert_int_equal(verdict_of(&ctx, CODE(0xa0, 0, 0, 0, 0, 0, 0, 0, 0)).class, ISA_CLASS_SAFE);
        assert_int_equal(verdict_of(&ctx, CODE(0x50)).class, ISA_CLASS_SAFE);                 /* push rax */
        assert_int_equal(verdict_of(&ctx, CODE(0x6a, 0x0e)).class, ISA_CLASS_SAFE);           /* push 0x0e */
        assert_int_equal(verdict_of(&ctx, CODE(0x58)).class, ISA_CLASS_SAFE);                 /* pop rax */
        assert_int_equal(verdict_of(&ctx, CODE(0x8f, 0x00)).class, ISA_CLASS_SAFE);           /* pop [rax] */
        assert_int_equal(verdict_of(&ctx, CODE(0xff, 0xd0)).class, ISA_CLASS_SAFE);           /* call rax */
        assert_int_equal(verdict_of(&ctx, CODE(0xff, 0x20)).class, ISA_CLASS_SAFE);           /* jmp [rax] */
        assert_int_equal(verdict_of(&ctx, CODE(0xc3)).class, ISA_CLASS_SAFE);                 /* ret */
        assert_int_equal(verdict_of(&ctx, CODE(0xff, 0x18)).class, ISA_CLASS_CONTROL_SENSITIVE); /* call far [rax] */
        assert_int_equal(verdict_of(&ctx, CODE(0xff, 0x28)).class, ISA_CLASS_CONTROL_SENSITIVE); /* jmp far [rax] */
        assert_int_equal(verdict_of(&ctx, CODE(0xca, 8, 0)).class, ISA_CLASS_CONTROL_SENSITIVE); /* retf 8 */
        assert_int_equal(verdict_of(&ctx, CODE(0x0f, 0xa0)).class, ISA_CLASS_BEHAVIOUR_SENSITIVE); /* push fs */
        assert_int_equal(verdict_of(&ctx, CODE(0x0f, 0xa9)).class, ISA_CLASS_CONTROL_SENSITIVE);   /* pop gs */
        assert_int_equal(verdict_of(&ctx, CODE(0x0f, 0x22, 0xc0)).class, ISA_CLASS_PRIVILEGED);    /* mov cr0, rax */
        assert_int_equal(verdict_of(&ctx, CODE(0x0f, 0x21, 0xc0)).class, ISA_CLASS_PRIVILEGED);    /* mov rax, dr0 */
}

struct knob_case {
        u8 code[4];
        size_t len;
        u32 knobs;
        int with, without; /* enum isa_class */
};

static void knobs_decide_as_the_manual_says(void **state)
{
        enum { SAFE = ISA_CLASS_SAFE, PRIVILEGED = ISA_CLASS_PRIVILEGED, CONTROL = ISA_CLASS_CONTROL_SENSITIVE,
               BEHAVIOUR = ISA_CLASS_BEHAVIOUR_SENSITIVE };
        static const struct knob_case cases[] = {
                { { 0x0f, 0x01, 0xe0 }, 3, K(UMIP), PRIVILEGED, BEHAVIOUR }, /* smsw */
                { { 0x0f, 0x00, 0xc8 }, 3, K(UMIP), PRIVILEGED, BEHAVIOUR }, /* str */
                { { 0x0f, 0x31 }, 2, K(TSD), PRIVILEGED, BEHAVIOUR }, /* rdtsc */
                { { 0x0f, 0x01, 0xf9 }, 3, K(TSD), PRIVILEGED, BEHAVIOUR }, /* rdtscp */
                { { 0x0f, 0x33 }, 2, K(PCE), BEHAVIOUR, PRIVILEGED }, /* rdpmc */
                { { 0xf3, 0x0f, 0xae, 0xd0 }, 4, K(FSGSBASE), CONTROL, PRIVILEGED },
                { { 0x0f, 0x01, 0xd0 }, 3, K(OSXSAVE), BEHAVIOUR, PRIVILEGED }, /* xgetbv */
                { { 0x0f, 0x01, 0xef }, 3, K(PKE), CONTROL, PRIVILEGED }, /* wrpkru */
                { { 0x0f, 0xa2 }, 2, K(CPUIDF), PRIVILEGED, BEHAVIOUR }, /* cpuid */
                { { 0xfa }, 1, K(PVI), CONTROL, PRIVILEGED }, /* cli */
                { { 0xd9, 0x30 }, 2, K(FCS0), SAFE, BEHAVIOUR }, /* fnstenv */
                { { 0xd9, 0x30 }, 2, K(TS), PRIVILEGED, BEHAVIOUR },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct isa_context ctx = { .mode = ISA_MODE_LONG, .cpl = 3 };

                assert_int_equal(verdict_of(&ctx, cases[i].code, cases[i].len).class, cases[i].without);
                ctx.knobs = cases[i].knobs;
                assert_int_equal(verdict_of(&ctx, cases[i].code, cases[i].len).class, cases[i].with);
        }
}

static void levels_and_iopl_decide_as_the_manual_says(void **state)
{
        for (u8 cpl = 0; cpl <= 3; cpl++) {
                for (u8 iopl = 0; iopl <= 3; iopl++) {
                        struct isa_context ctx = { .mode = ISA_MODE_PROTECTED, .cpl = cpl, .iopl = iopl };
                        struct isa_verdict cli = verdict_of(&ctx, CODE(0xfa)), in = verdict_of(&ctx, CODE(0xec)),
                                           hlt = verdict_of(&ctx, CODE(0xf4)), popf = verdict_of(&ctx, CODE(0x9d));

                        assert_int_equal(cli.outcome, cpl > iopl ? ISA_OUTCOME_FAULTS : ISA_OUTCOME_RUNS);
                        assert_int_equal(in.outcome, cpl > iopl ? ISA_OUTCOME_FAULTS : ISA_OUTCOME_RUNS);
                        assert_int_equal(hlt.outcome, cpl > 0 ? ISA_OUTCOME_FAULTS : ISA_OUTCOME_RUNS);
                        assert_int_equal(popf.outcome, ISA_OUTCOME_RUNS);
                        assert_int_equal(cli.class, iopl < 3 ? ISA_CLASS_PRIVILEGED : ISA_CLASS_CONTROL_SENSITIVE);
                        assert_int_equal(hlt.class, ISA_CLASS_PRIVILEGED);
                }
        }
}

static void virtual_8086_mode_repairs_the_flags_and_has_no_descriptors(void **state)
{
        struct isa_context ctx = isa_machine(ISA_MACHINE_STRICT, ISA_MODE_VM86);

        assert_int_equal(verdict_of(&ctx, CODE(0x9d)).class, ISA_CLASS_PRIVILEGED);    /* popf */
        assert_int_equal(verdict_of(&ctx, CODE(0x9c)).class, ISA_CLASS_PRIVILEGED);    /* pushf */
        assert_int_equal(verdict_of(&ctx, CODE(0xcf)).class, ISA_CLASS_PRIVILEGED);    /* iret */
        assert_int_equal(verdict_of(&ctx, CODE(0xcd, 0x21)).class, ISA_CLASS_PRIVILEGED); /* int 21h */
        assert_int_equal(verdict_of(&ctx, CODE(0x8e, 0xd8)).class, ISA_CLASS_SAFE);    /* mov ds, ax */
        assert_int_equal(verdict_of(&ctx, CODE(0xcb)).class, ISA_CLASS_SAFE);          /* retf */
        ctx.iopl = 3;
        assert_int_equal(verdict_of(&ctx, CODE(0x9d)).class, ISA_CLASS_CONTROL_SENSITIVE);
        assert_int_equal(verdict_of(&ctx, CODE(0xec)).class, ISA_CLASS_PRIVILEGED);    /* in: the map decides, always */
}

static void real_mode_runs_everything_at_its_own_level_and_is_judged_in_virtual_8086_mode(void **state)
{
        struct isa_context ctx = isa_machine(ISA_MACHINE_CLASSIC, ISA_MODE_REAL);
        struct isa_verdict v = verdict_of(&ctx, CODE(0x9d));

        assert_int_equal(v.outcome, ISA_OUTCOME_RUNS);
        assert_int_equal(v.outcome_cpl3, ISA_OUTCOME_FAULTS);
        assert_int_equal(v.class, ISA_CLASS_PRIVILEGED);
        v = verdict_of(&ctx, CODE(0x0f, 0x22, 0xc0));
        assert_int_equal(v.outcome, ISA_OUTCOME_RUNS);
}

static void entries_are_sensitive_but_give_the_monitor_control(void **state)
{
        struct isa_context ctx = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG);
        struct isa_verdict v = verdict_of(&ctx, CODE(0x0f, 0x05)); /* syscall */

        assert_int_equal(v.class, ISA_CLASS_CONTROL_SENSITIVE);
        assert_int_equal(v.outcome, ISA_OUTCOME_ENTERS);
        assert_true(v.traps_at_cpl3);
        assert_false(isa_violates(&v));
}

static void the_third_theorem_forgives_what_only_a_kernel_notices(void **state)
{
        struct isa_context ctx = isa_machine(ISA_MACHINE_STRICT, ISA_MODE_LONG);
        struct isa_verdict popf = verdict_of(&ctx, CODE(0x9d)), lar = verdict_of(&ctx, CODE(0x0f, 0x02, 0xc0));

        assert_true(isa_violates(&popf));
        assert_false(isa_violates_user(&popf));
        assert_true(isa_violates_user(&lar));
        /* With IOPL 3 user code reaches the real interrupt flag. */
        ctx.iopl = 3;
        popf = verdict_of(&ctx, CODE(0x9d));
        assert_true(isa_violates_user(&popf));
        popf = verdict_of(&ctx, CODE(0xfa)); /* cli */
        assert_true(isa_violates_user(&popf));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_mnemonic_of_the_decoder_was_looked_at),
                cmocka_unit_test(every_instruction_is_in_exactly_one_table),
                cmocka_unit_test(no_line_of_the_tables_is_dead),
                cmocka_unit_test(instructions_that_are_safe_beside_sensitive_ones_are_known),
                cmocka_unit_test(an_instruction_unknown_to_the_tables_is_not_safe),
                cmocka_unit_test(what_zydis_calls_privileged_is_privileged),
                cmocka_unit_test(robin_and_irvines_seventeen_violate_the_first_theorem_on_the_classic_machine),
                cmocka_unit_test(near_and_register_forms_of_the_same_mnemonics_are_safe),
                cmocka_unit_test(knobs_decide_as_the_manual_says),
                cmocka_unit_test(levels_and_iopl_decide_as_the_manual_says),
                cmocka_unit_test(virtual_8086_mode_repairs_the_flags_and_has_no_descriptors),
                cmocka_unit_test(real_mode_runs_everything_at_its_own_level_and_is_judged_in_virtual_8086_mode),
                cmocka_unit_test(entries_are_sensitive_but_give_the_monitor_control),
                cmocka_unit_test(the_third_theorem_forgives_what_only_a_kernel_notices),
        };

        return cmocka_run_group_tests(tests, walk_space, NULL);
}

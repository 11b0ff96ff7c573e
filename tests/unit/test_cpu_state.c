/* Reset, INIT, and the saved form of the CPU state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpuid_model.h"
#include "cpu/msr.h"

static u64 seed = 88172645463325252ULL;

/* xorshift; reproducible. */
static u64 rnd(void)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return seed;
}

/* A state of 64-bit kernel code with all fields different. */
static struct cpu_state busy_state(void)
{
        struct cpu_state cpu;

        cpu_state_reset(&cpu, true);
        for (unsigned i = 0; i < GPR_COUNT; i++)
                cpu.gpr[i] = rnd();
        cpu.rip = 0xffffffff81000000 + (rnd() & 0xffff);
        cpu.rflags = RFLAGS_FIXED | RFLAGS_IF | RFLAGS_ZF;
        for (unsigned i = 0; i < SEG_COUNT; i++)
                cpu.seg[i] = (struct seg){ .selector = (u16)(8 * i), .attr = 0xc093, .limit = 0xffffffff };
        cpu.seg[SEG_CS].attr = 0xa09b;
        cpu.seg[SEG_GS].base = 0xffff888000000000;
        cpu.seg[SEG_ES].unusable = true;
        cpu.gdtr = (struct dtable){ .base = 0xfffffe0000001000, .limit = 0x7f };
        cpu.idtr = (struct dtable){ .base = 0xfffffe0000000000, .limit = 0xfff };
        cpu.paging = (struct paging_state){ .cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET, .cr3 = 0x1234000,
                                            .cr4 = CR4_PAE | CR4_PGE | CR4_PCIDE,
                                            .efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE };
        cpu.cr2 = rnd();
        cpu.lstar = 0xffffffff81800000;
        cpu.star = rnd();
        cpu.tsc_offset = rnd();
        cpu.tsc_adjust = rnd();
        cpu.kvm_system_time = 0x1001;
        cpu.kvm_steal_time = 0x2041;
        cpu.unhalted = true;
        cpu.mtrr_def_type = 0xc06;
        cpu.mtrr_base[3] = 0x80000006;
        cpu.mtrr_fixed[7] = 0x0606060606060606;
        for (unsigned i = 160; i < 416; i++)
                cpu.xsave[i] = (u8)rnd();
        cpu.nmi_masked = cpu.sti_shadow = true;
        return cpu;
}

static void save(const struct cpu_state *cpu, struct state_out *out)
{
        state_out_init(out);
        state_out_section_begin(out, "cpu", CPU_STATE_VERSION);
        cpu_state_save(cpu, out);
        state_out_section_end(out);
        assert_int_equal(state_out_finish(out, NULL), 0);
}

/* Loads what @out holds; @len bytes of the section's payload are claimed. */
static int load(struct cpu_state *cpu, const struct state_out *out)
{
        char name[STATE_NAME_MAX];
        struct state_in in;
        u32 version;

        state_in_init(&in, out->data, out->len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        return cpu_state_load(cpu, &in, version, NULL);
}

static void reset_is_where_a_processor_starts(void **state)
{
        struct cpu_state cpu;

        cpu_state_reset(&cpu, true);
        assert_int_equal(cpu.seg[SEG_CS].base + cpu.rip, 0xfffffff0);
        assert_int_equal(cpu.paging.cr0, 0x60000010);
        assert_int_equal(cpu.rflags, 2);
        assert_int_equal(cpu.dr[6], 0xffff0ff0);
        assert_int_equal(cpu.dr[7], 0x400);
        assert_int_equal(cpu.xcr0, 1);
        assert_int_equal(cpu.apic_base, 0xfee00900);
        assert_int_equal(cpu.gpr[RDX], CPU_SIGNATURE);
        assert_false(cpu.wait_for_sipi);
        cpu_state_reset(&cpu, false);
        assert_int_equal(cpu.apic_base, 0xfee00800);
        assert_true(cpu.wait_for_sipi);
}

static void init_keeps_what_it_must(void **state)
{
        struct cpu_state cpu = busy_state(), before = cpu;

        cpu_state_init_signal(&cpu);
        assert_int_equal(cpu.seg[SEG_CS].base + cpu.rip, 0xfffffff0);
        assert_int_equal(cpu.paging.cr0, CR0_ET);
        assert_int_equal(cpu.paging.cr3 | cpu.paging.cr4 | cpu.paging.efer | cpu.cr2, 0);
        assert_false(cpu.nmi_masked || cpu.sti_shadow || cpu.wait_for_sipi);
        /* Source: SDM 3A, table 10-1, column INIT. */
        assert_int_equal(cpu.tsc_offset, before.tsc_offset);
        assert_int_equal(cpu.tsc_adjust, before.tsc_adjust);
        assert_int_equal(cpu.mtrr_def_type, before.mtrr_def_type);
        assert_int_equal(cpu.pat, before.pat);
        assert_int_equal(cpu.apic_base, before.apic_base);
        assert_int_equal(cpu.lstar, before.lstar);
        assert_memory_equal(cpu.xsave, before.xsave, XSAVE_SIZE);
        before.paging.cr0 |= CR0_CD;
        cpu = before;
        cpu_state_init_signal(&cpu);
        assert_int_equal(cpu.paging.cr0, CR0_ET | CR0_CD);
        cpu.apic_base &= ~APIC_BASE_BSP;
        cpu_state_init_signal(&cpu);
        assert_true(cpu.wait_for_sipi);
}

static bool seg_equal(const struct seg *a, const struct seg *b)
{
        return a->selector == b->selector && a->attr == b->attr && a->limit == b->limit && a->base == b->base &&
               a->unusable == b->unusable;
}

static void what_was_saved_is_loaded(void **state)
{
        for (unsigned round = 0; round < 20; round++) {
                struct cpu_state cpu = busy_state(), loaded;
                struct state_out out, again;

                save(&cpu, &out);
                memset(&loaded, 0x55, sizeof(loaded));
                assert_int_equal(load(&loaded, &out), 0);
                for (unsigned i = 0; i < SEG_COUNT; i++)
                        assert_true(seg_equal(&cpu.seg[i], &loaded.seg[i]));
                assert_memory_equal(cpu.gpr, loaded.gpr, sizeof(cpu.gpr));
                assert_memory_equal(cpu.xsave, loaded.xsave, XSAVE_SIZE);
                assert_memory_equal(&cpu.star, &loaded.star,
                                    offsetof(struct cpu_state, mov_ss_shadow) - offsetof(struct cpu_state, star));
                save(&loaded, &again);
                assert_int_equal(out.len, again.len);
                assert_memory_equal(out.data, again.data, out.len);
                state_out_free(&out);
                state_out_free(&again);
        }
}

static void reset_states_can_be_loaded(void **state)
{
        struct cpu_state cpu;
        struct state_out out;

        for (int bsp = 0; bsp < 2; bsp++) {
                cpu_state_reset(&cpu, bsp);
                save(&cpu, &out);
                assert_int_equal(load(&cpu, &out), 0);
                cpu_state_init_signal(&cpu);
                state_out_free(&out);
                save(&cpu, &out);
                assert_int_equal(load(&cpu, &out), 0);
                state_out_free(&out);
        }
}

/* Each makes a good state impossible. */
static void bad_cr0(struct cpu_state *c) { c->paging.cr0 |= BIT(32); }
static void bad_pg(struct cpu_state *c) { c->paging.cr0 &= ~CR0_PE; }
static void bad_nw(struct cpu_state *c) { c->paging.cr0 |= CR0_NW; }
static void bad_cr4(struct cpu_state *c) { c->paging.cr4 |= BIT(13); }
static void bad_pae(struct cpu_state *c) { c->paging.cr4 &= ~CR4_PAE; }
static void bad_cr3(struct cpu_state *c) { c->paging.cr3 |= BIT(60); }
static void bad_lma(struct cpu_state *c) { c->paging.efer &= ~EFER_LMA; }
static void bad_efer(struct cpu_state *c) { c->paging.efer |= BIT(12); }
static void bad_rflags(struct cpu_state *c) { c->rflags |= BIT(40); }
static void bad_rflags_fixed(struct cpu_state *c) { c->rflags &= ~RFLAGS_FIXED; }
static void bad_vm86(struct cpu_state *c) { c->rflags |= RFLAGS_VM; }
static void bad_rip(struct cpu_state *c) { c->rip = 1ULL << 50; }
static void bad_cpl(struct cpu_state *c) { c->cpl = 4; }
static void bad_cs(struct cpu_state *c) { c->seg[SEG_CS].attr |= SEG_ATTR_DB; }
static void bad_cs_unusable(struct cpu_state *c) { c->seg[SEG_CS].unusable = true; }
static void bad_attr(struct cpu_state *c) { c->seg[SEG_DS].attr |= 0x0100; }
static void bad_limit(struct cpu_state *c) { c->seg[SEG_DS].limit = 0xfffffffe; }
static void bad_base(struct cpu_state *c) { c->seg[SEG_DS].base = 1ULL << 32; }
static void bad_gs(struct cpu_state *c) { c->seg[SEG_GS].base = 1ULL << 48; }
static void bad_idtr(struct cpu_state *c) { c->idtr.base = 1ULL << 63; }
static void bad_xcr0(struct cpu_state *c) { c->xcr0 = 6; }
static void bad_xcr0_unknown(struct cpu_state *c) { c->xcr0 = 0xe7; }
static void bad_mxcsr(struct cpu_state *c) { c->xsave[26] = 1; }
static void bad_lstar(struct cpu_state *c) { c->lstar = 1ULL << 63; }
static void bad_pat(struct cpu_state *c) { c->pat = 2; }
static void bad_mtrr(struct cpu_state *c) { c->mtrr_mask[7] = 1; }
static void bad_apic_base(struct cpu_state *c) { c->apic_base |= 1; }
static void bad_apic_mode(struct cpu_state *c) { c->apic_base = 0xfee00400; }
static void bad_dr7(struct cpu_state *c) { c->dr[7] |= BIT(32); }
static void bad_misc(struct cpu_state *c) { c->misc_enable |= 2; }
static void bad_bool(struct cpu_state *c) { *(u8 *)&c->halted = 2; }
static void bad_smbase(struct cpu_state *c) { c->smbase |= BIT(32); }

static const struct {
        const char *name;
        void (*spoil)(struct cpu_state *cpu);
} spoilers[] = {
#define S(fn) { #fn, fn }
        S(bad_cr0), S(bad_pg), S(bad_nw), S(bad_cr4), S(bad_pae), S(bad_cr3), S(bad_lma), S(bad_efer), S(bad_rflags),
        S(bad_rflags_fixed), S(bad_vm86), S(bad_rip), S(bad_cpl), S(bad_cs), S(bad_cs_unusable), S(bad_attr), S(bad_limit),
        S(bad_base), S(bad_gs), S(bad_idtr), S(bad_xcr0), S(bad_xcr0_unknown), S(bad_mxcsr), S(bad_lstar), S(bad_pat),
        S(bad_mtrr), S(bad_apic_base), S(bad_apic_mode), S(bad_dr7), S(bad_misc), S(bad_bool), S(bad_smbase),
#undef S
};

static void impossible_states_are_refused_and_change_nothing(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(spoilers); i++) {
                struct cpu_state cpu = busy_state(), target, before;
                struct state_out out;

                spoilers[i].spoil(&cpu);
                save(&cpu, &out);
                cpu_state_reset(&target, true);
                before = target;
                if (load(&target, &out) != -EINVAL)
                        fail_msg("%s was accepted", spoilers[i].name);
                assert_memory_equal(&before, &target, sizeof(target));
                state_out_free(&out);
        }
}

static void truncated_long_and_foreign_states_are_refused(void **state)
{
        struct cpu_state cpu = busy_state(), target;
        struct state_out out;
        struct state_in in;

        save(&cpu, &out);
        cpu_state_reset(&target, true);
        for (size_t cut = 1; cut < 1500; cut += 7) {
                state_in_init(&in, out.data, out.len);
                in.pos = STATE_NAME_MAX + 8;
                in.section_end = out.len - cut;
                assert_int_equal(cpu_state_load(&target, &in, CPU_STATE_VERSION, NULL), -EINVAL);
        }
        state_in_init(&in, out.data, out.len);
        in.pos = STATE_NAME_MAX + 7; /* one byte too many */
        in.section_end = out.len;
        assert_int_equal(cpu_state_load(&target, &in, CPU_STATE_VERSION, NULL), -EINVAL);
        in.pos = STATE_NAME_MAX + 8;
        assert_int_equal(cpu_state_load(&target, &in, CPU_STATE_VERSION + 1, NULL), -EINVAL);
        state_out_free(&out);
}

/* A damaged state is refused, or it is another valid one that saves to what was loaded. */
static void damaged_states_never_come_through_changed(void **state)
{
        struct cpu_state cpu = busy_state(), target;
        struct state_out out;
        unsigned accepted = 0;

        save(&cpu, &out);
        for (unsigned i = 0; i < 20000; i++) {
                const size_t at = STATE_NAME_MAX + 8 + rnd() % (out.len - STATE_NAME_MAX - 8);
                const u8 old = out.data[at];

                out.data[at] ^= (u8)(1u << rnd() % 8);
                if (load(&target, &out) == 0) {
                        struct state_out again;

                        accepted++;
                        save(&target, &again);
                        /* The only bytes with several forms are the segments' booleans. */
                        if (at < out.len - 8 * 17)
                                assert_memory_equal(out.data, again.data, out.len);
                        state_out_free(&again);
                }
                out.data[at] = old;
        }
        assert_true(accepted > 0); /* general registers hold anything */
        state_out_free(&out);
}

static void the_dump_names_the_mode(void **state)
{
        char text[8192] = { 0 };
        struct cpu_state cpu = busy_state();
        FILE *out = fmemopen(text, sizeof(text) - 1, "w");

        assert_non_null(out);
        cpu_state_print(&cpu, out);
        fclose(out);
        assert_non_null(strstr(text, "64-bit mode"));
        assert_non_null(strstr(text, "NMI masked"));
        assert_non_null(strstr(text, "lstar ffffffff81800000"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(reset_is_where_a_processor_starts),
                cmocka_unit_test(init_keeps_what_it_must),
                cmocka_unit_test(what_was_saved_is_loaded),
                cmocka_unit_test(reset_states_can_be_loaded),
                cmocka_unit_test(impossible_states_are_refused_and_change_nothing),
                cmocka_unit_test(truncated_long_and_foreign_states_are_refused),
                cmocka_unit_test(damaged_states_never_come_through_changed),
                cmocka_unit_test(the_dump_names_the_mode),
        };

        return cmocka_run_group_tests_name("cpu_state", tests, NULL, NULL);
}

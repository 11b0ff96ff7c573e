/* The CPU model that guests see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cpu/cpuid_model.h"

static struct cpuid_regs query(u32 leaf, u32 subleaf, unsigned index, unsigned n)
{
        struct vcpu vcpu = { .index = index, .n_vcpus = n };
        struct cpuid_regs regs;

        cpu_state_reset(&vcpu.state, index == 0);
        cpuid_query(&vcpu, leaf, subleaf, &regs);
        return regs;
}

static void the_vendor_is_one_that_system_software_knows(void **state)
{
        struct cpuid_regs r = query(0, 0, 0, 1);
        char vendor[13] = { 0 };

        memcpy(vendor, &r.ebx, 4);
        memcpy(vendor + 4, &r.edx, 4);
        memcpy(vendor + 8, &r.ecx, 4);
        assert_string_equal(vendor, "GenuineIntel");
        assert_true(r.eax >= 0x16);
}

static void the_brand_is_ours(void **state)
{
        char brand[49] = { 0 };

        for (u32 i = 0; i < 3; i++) {
                struct cpuid_regs r = query(0x80000002 + i, 0, 0, 1);

                memcpy(brand + 16 * i, &r, 16);
        }
        assert_string_equal(brand, "Strata Virtual CPU");
}

static void the_signature_is_also_what_reset_leaves_in_edx(void **state)
{
        struct cpu_state cpu;

        cpu_state_reset(&cpu, true);
        assert_int_equal(query(1, 0, 0, 1).eax, cpu.gpr[RDX]);
}

static void features_follow_their_source(void **state)
{
        struct vcpu vcpu = { .n_vcpus = 1 };

        for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++) {
                u32 leaf, subleaf;
                unsigned reg, bit;
                struct cpuid_regs r;

                cpuid_feature_place(i, &leaf, &subleaf, &reg, &bit);
                cpuid_query(&vcpu, leaf, subleaf, &r);
                if (!!((const u32[]){ r.eax, r.ebx, r.ecx, r.edx }[reg] & BIT(bit)) != cpuid_has(i))
                        fail_msg("%s", cpuid_feature_name(i));
        }
}

static void bare_host(u32 leaf, u32 subleaf, struct cpuid_regs *ret)
{
        *ret = (struct cpuid_regs){ 0 };
}

static void full_host(u32 leaf, u32 subleaf, struct cpuid_regs *ret)
{
        memset(ret, 0xff, sizeof(*ret));
}

/* AVX2 without XSAVE: what a hypervisor that masks carelessly shows. */
static void odd_host(u32 leaf, u32 subleaf, struct cpuid_regs *ret)
{
        memset(ret, 0xff, sizeof(*ret));
        if (leaf == 1)
                ret->ecx &= ~(u32)BIT(26);
}

static bool has(const u64 *set, enum cpuid_feature f)
{
        return set[f / 64] & BIT(f % 64);
}

static void what_the_host_cannot_execute_is_not_offered(void **state)
{
        u64 set[CPUID_FEATURE_WORDS];

        cpuid_model_build(bare_host, set);
        assert_false(has(set, CPUID_AVX2));
        assert_false(has(set, CPUID_AESNI));
        assert_true(has(set, CPUID_SMEP)); /* modelled, not executed */
        assert_true(has(set, CPUID_PCID));
        cpuid_model_build(full_host, set);
        assert_true(has(set, CPUID_AVX2));
        cpuid_model_build(odd_host, set);
        assert_false(has(set, CPUID_XSAVE));
        assert_false(has(set, CPUID_AVX));
        assert_false(has(set, CPUID_AVX2));
        assert_false(has(set, CPUID_XSAVEC));
}

/* Features that no engine carries the state of must not slip in by a wrong bit number. */
static void unsupported_features_are_absent(void **state)
{
        struct cpuid_regs r7 = query(7, 0, 0, 1), r1 = query(1, 0, 0, 1), rd = query(0xd, 1, 0, 1);

        assert_false(r7.ebx & (BIT(4) | BIT(11) | BIT(14) | BIT(16) | BIT(25))); /* HLE, RTM, MPX, AVX512F, PT */
        assert_false(r7.ecx & (BIT(3) | BIT(7) | BIT(16)));                      /* PKU, shadow stacks, 5-level paging */
        assert_false(r7.edx & (BIT(20) | BIT(24)));                              /* IBT, AMX */
        assert_false(r1.ecx & (BIT(3) | BIT(5) | BIT(6)));                       /* MONITOR, VMX, SMX */
        assert_false(rd.eax & BIT(3));                                           /* XSAVES */
        assert_int_equal(query(0xa, 0, 0, 1).eax, 0);                            /* performance counters */
}

static void state_dependent_bits_follow_the_state(void **state)
{
        struct vcpu vcpu = { .n_vcpus = 1 };
        struct cpuid_regs r;

        cpu_state_reset(&vcpu.state, true);
        cpuid_query(&vcpu, 1, 0, &r);
        assert_false(r.ecx & BIT(27));
        assert_true(r.edx & BIT(9));
        vcpu.state.paging.cr4 |= CR4_OSXSAVE;
        vcpu.state.apic_base &= ~BIT(11);
        cpuid_query(&vcpu, 1, 0, &r);
        assert_true(r.ecx & BIT(27));
        assert_false(r.edx & BIT(9));
}

static void xsave_sizes_follow_xcr0(void **state)
{
        struct vcpu vcpu = { .n_vcpus = 1 };
        struct cpuid_regs r;

        if (!cpuid_has(CPUID_AVX))
                skip();
        cpu_state_reset(&vcpu.state, true);
        cpuid_query(&vcpu, 0xd, 0, &r);
        assert_int_equal(r.eax, 7);
        assert_int_equal(r.ebx, 576);
        assert_int_equal(r.ecx, 832);
        vcpu.state.xcr0 = 7;
        cpuid_query(&vcpu, 0xd, 0, &r);
        assert_int_equal(r.ebx, 832);
        cpuid_query(&vcpu, 0xd, 2, &r);
        assert_int_equal(r.eax, 256);
        assert_int_equal(r.ebx, 576);
}

/* Four ways of telling the number of CPUs, one answer. */
static void topology_is_one_package_of_single_threaded_cores(void **state)
{
        static const unsigned counts[] = { 1, 2, 3, 4, 7, 8, 64, 200 };

        for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
                const unsigned n = counts[i], last = n - 1;
                struct cpuid_regs r1 = query(1, 0, last, n), smt = query(0xb, 0, last, n), core = query(0xb, 1, last, n);

                assert_int_equal(r1.ebx >> 24, last);
                assert_int_equal(!!(r1.edx & BIT(28)), n > 1);
                assert_int_equal(smt.ebx, 1);
                assert_int_equal(smt.eax, 0);
                assert_int_equal(smt.ecx >> 8 & 0xff, 1);
                assert_int_equal(core.ebx, n);
                assert_int_equal(core.ecx >> 8 & 0xff, 2);
                assert_int_equal(core.edx, last);
                assert_true(1u << core.eax >= n);
                assert_true(core.eax == 0 || 1u << (core.eax - 1) < n);
                assert_int_equal(query(0xb, 2, last, n).ecx >> 8 & 0xff, 0);
        }
}

static void caches_end_with_a_null_entry(void **state)
{
        for (u32 i = 0; i < 4; i++) {
                struct cpuid_regs r = query(4, i, 0, 2);

                assert_true(r.eax & 0x1f);
                assert_int_equal((r.ebx & 0xfff) + 1, 64);
        }
        assert_int_equal(query(4, 4, 0, 2).eax & 0x1f, 0);
        assert_int_equal(query(4, 1000, 0, 2).eax & 0x1f, 0);
}

static void beyond_the_last_leaf_the_last_basic_one_answers(void **state)
{
        struct cpuid_regs last = query(0x16, 0, 0, 1), r;
        static const u32 leaves[] = { 0x17, 0x3fffffff, 0x40000002, 0x7fffffff, 0x80000009, 0xffffffff };

        for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
                r = query(leaves[i], 0, 0, 1);
                assert_memory_equal(&r, &last, sizeof(r));
        }
        r = query(0x13, 0, 0, 1); /* a hole is zeros */
        assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
}

static void the_tsc_frequency_is_told_exactly(void **state)
{
        struct cpuid_regs r = query(0x15, 0, 0, 1);

        assert_int_equal((u64)r.ecx * r.ebx / r.eax, clock_tsc_hz() / 1000 * 1000);
}

static void every_enumerated_leaf_is_in_range(void **state)
{
        u32 leaf, subleaf;
        bool indexed;
        size_t n = 0;

        while (cpuid_enumerate(n, &leaf, &subleaf, &indexed)) {
                assert_true(indexed || subleaf == 0);
                n++;
        }
        assert_in_range(n, 20, 100);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_vendor_is_one_that_system_software_knows),
                cmocka_unit_test(the_brand_is_ours),
                cmocka_unit_test(the_signature_is_also_what_reset_leaves_in_edx),
                cmocka_unit_test(features_follow_their_source),
                cmocka_unit_test(what_the_host_cannot_execute_is_not_offered),
                cmocka_unit_test(unsupported_features_are_absent),
                cmocka_unit_test(state_dependent_bits_follow_the_state),
                cmocka_unit_test(xsave_sizes_follow_xcr0),
                cmocka_unit_test(topology_is_one_package_of_single_threaded_cores),
                cmocka_unit_test(caches_end_with_a_null_entry),
                cmocka_unit_test(beyond_the_last_leaf_the_last_basic_one_answers),
                cmocka_unit_test(the_tsc_frequency_is_told_exactly),
                cmocka_unit_test(every_enumerated_leaf_is_in_range),
        };

        return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}

/* The MSR table: what exists, what may be written, what follows from a write. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cpu/cpuid_model.h"
#include "cpu/msr.h"

static struct vcpu new_vcpu(void)
{
        struct vcpu vcpu = { .n_vcpus = 1 };

        cpu_state_reset(&vcpu.state, true);
        return vcpu;
}

static u64 rdmsr(struct vcpu *vcpu, u32 msr)
{
        u64 value = 0xdeadULL << 48;

        assert_int_equal(cpu_msr_read(vcpu, msr, &value), 0);
        return value;
}

static void unknown_msrs_fault_and_are_counted(void **state)
{
        struct vcpu vcpu = new_vcpu();
        u64 value = 42;

        assert_int_equal(cpu_msr_read(&vcpu, 0x12345, &value), -EINVAL);
        assert_int_equal(cpu_msr_write(&vcpu, 0x12345, 0), -EINVAL);
        assert_int_equal(cpu_msr_read(&vcpu, 0xffffffff, &value), -EINVAL);
        assert_int_equal(value, 42);
        assert_int_equal(vcpu.counters.value[COUNTER_MSR_UNKNOWN], 3);
}

struct write_case {
        u32 msr;
        u64 value;
        bool allowed;
};

static const struct write_case cases[] = {
        { MSR_LSTAR, 0x0000123456789abc, true },
        { MSR_LSTAR, 0x0000800000000000, false },
        { MSR_LSTAR, 0xffff800000000000, true },
        { MSR_CSTAR, 0x8000000000000000, false },
        { MSR_FS_BASE, 0x8000000000000000, false },
        { MSR_FS_BASE, 0x00007fffffffffff, true },
        { MSR_GS_BASE, 0xffff7fffffffffff, false },
        { MSR_KERNEL_GS_BASE, 0x0001000000000000, false },
        { MSR_SYSENTER_EIP, 0x0001000000000000, false },
        { MSR_SYSENTER_CS, 0x1234, true },
        { MSR_STAR, 0xffffffffffffffff, true },
        { MSR_SFMASK, 0xffffffff, true },
        { MSR_TSC_AUX, 0xffffffff, true },
        { MSR_TSC_AUX, 0x100000000, false },
        { MSR_PAT, 0x0007040600070406, true },
        { MSR_PAT, 0x07070707, true },
        { MSR_PAT, 0x02, false },
        { MSR_PAT, 0x0300000000000000, false },
        { MSR_PAT, 0x0800000000000000, false },
        { MSR_MTRR_DEF_TYPE, 0xc06, true },
        { MSR_MTRR_DEF_TYPE, 0xc02, false },
        { MSR_MTRR_DEF_TYPE, 0x1006, false },
        { 0x200, 0x80000006, true },
        { 0x200, 0x80000106, false },
        { 0x200, BIT(MMU_MAXPHYADDR), false },
        { 0x201, 0xfff000800, true },
        { 0x201, 0xfff000801, false },
        { 0x20f, 0x800, true },
        { 0x210, 0, false },
        { 0x250, 0x0606060606060606, true },
        { 0x26f, 0x0706060606060606, false },
        { 0x259, 0x0505050505050505, true },
        { 0x25a, 0, false },
        { 0xfe, 0, false },
        { MSR_ARCH_CAPABILITIES, 0, false },
        { MSR_MISC_ENABLE, 0x400c50809, true },
        { MSR_MISC_ENABLE, 0x2, false },
        { MSR_EFER, EFER_SCE | EFER_NX, true },
        { MSR_EFER, EFER_LME, true },
        { MSR_EFER, BIT(12), false }, /* SVME */
        { MSR_EFER, BIT(14), false },
        { MSR_SPEC_CTRL, 1, true },
        { MSR_SPEC_CTRL, 4, false },
        { MSR_SPEC_CTRL, BIT(10), true },
        { MSR_PRED_CMD, 1, true },
        { MSR_PRED_CMD, 2, false },
        { 0x8b, 0, true },
        { MSR_XSS, 0, false },
        { 0x10b, 1, false }, /* FLUSH_CMD is not in the model */
        { MSR_MCG_CAP, 0, false },
        { 0x400, 0, false }, /* there are no machine-check banks */
};

static void writes_are_checked_and_nothing_changes_on_a_fault(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct vcpu vcpu = new_vcpu();
                const struct cpu_state before = vcpu.state;
                int r = cpu_msr_write(&vcpu, cases[i].msr, cases[i].value);

                if ((r == 0) != cases[i].allowed)
                        fail_msg("MSR 0x%x = 0x%lx: %d", cases[i].msr, (unsigned long)cases[i].value, r);
                if (r < 0)
                        assert_memory_equal(&before, &vcpu.state, sizeof(before));
        }
}

static void stored_msrs_read_back_what_was_written(void **state)
{
        static const u32 numbers[] = { MSR_LSTAR, MSR_CSTAR, MSR_STAR, MSR_SFMASK, MSR_FS_BASE, MSR_GS_BASE,
                                       MSR_KERNEL_GS_BASE, MSR_SYSENTER_CS, MSR_SYSENTER_EIP, MSR_SYSENTER_ESP, MSR_TSC_AUX };
        struct vcpu vcpu = new_vcpu();

        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                assert_int_equal(cpu_msr_write(&vcpu, numbers[i], 0x1000 + i), 0);
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                assert_int_equal(rdmsr(&vcpu, numbers[i]), 0x1000 + i);
        assert_int_equal(vcpu.state.seg[SEG_FS].base, 0x1004);
}

static void mtrr_ranges_do_not_overlap(void **state)
{
        struct vcpu vcpu = new_vcpu();

        for (u32 i = 0; i < CPU_MTRR_VARIABLE; i++) {
                assert_int_equal(cpu_msr_write(&vcpu, 0x200 + 2 * i, (u64)i << 20 | 6), 0);
                assert_int_equal(cpu_msr_write(&vcpu, 0x201 + 2 * i, (u64)i << 24 | 0x800), 0);
        }
        for (u32 i = 0; i < CPU_MTRR_VARIABLE; i++) {
                assert_int_equal(vcpu.state.mtrr_base[i], (u64)i << 20 | 6);
                assert_int_equal(vcpu.state.mtrr_mask[i], (u64)i << 24 | 0x800);
        }
        assert_int_equal(cpu_msr_write(&vcpu, 0x250, 0), 0);
        assert_int_equal(cpu_msr_write(&vcpu, 0x258, 0x01), 0);
        assert_int_equal(cpu_msr_write(&vcpu, 0x259, 0x04), 0);
        assert_int_equal(cpu_msr_write(&vcpu, 0x268, 0x05), 0);
        assert_int_equal(cpu_msr_write(&vcpu, 0x26f, 0x06), 0);
        assert_int_equal(vcpu.state.mtrr_fixed[1], 1);
        assert_int_equal(vcpu.state.mtrr_fixed[2], 4);
        assert_int_equal(vcpu.state.mtrr_fixed[3], 5);
        assert_int_equal(vcpu.state.mtrr_fixed[10], 6);
        assert_int_equal(rdmsr(&vcpu, 0xfe) & 0xff, CPU_MTRR_VARIABLE);
}

static void efer_cannot_change_long_mode_while_paging_is_on(void **state)
{
        struct vcpu vcpu = new_vcpu();

        vcpu.state.paging.cr0 |= CR0_PE | CR0_PG;
        vcpu.state.paging.efer = EFER_LME | EFER_LMA;
        assert_int_equal(cpu_msr_write(&vcpu, MSR_EFER, EFER_SCE), -EINVAL);
        assert_int_equal(cpu_msr_write(&vcpu, MSR_EFER, EFER_SCE | EFER_LME), 0);
        assert_int_equal(rdmsr(&vcpu, MSR_EFER), EFER_SCE | EFER_LME | EFER_LMA); /* LMA is read-only */
        vcpu.state.paging.cr0 &= ~CR0_PG;
        vcpu.state.paging.efer = 0;
        assert_int_equal(cpu_msr_write(&vcpu, MSR_EFER, EFER_LMA), 0);
        assert_int_equal(rdmsr(&vcpu, MSR_EFER), 0);
}

static void misc_enable_keeps_its_read_only_bits(void **state)
{
        struct vcpu vcpu = new_vcpu();
        u64 before = rdmsr(&vcpu, MSR_MISC_ENABLE);

        assert_int_equal(cpu_msr_write(&vcpu, MSR_MISC_ENABLE, 0x400c50809 & ~0x1880ULL), 0);
        assert_int_equal(rdmsr(&vcpu, MSR_MISC_ENABLE), (0x400c50809 & ~0x1880ULL) | (before & 0x1880));
}

/* SDM 3B, 18.17.3: a write to either moves both. */
static void tsc_and_tsc_adjust_move_together(void **state)
{
        struct vcpu vcpu = new_vcpu();
        u64 offset, value;

        assert_int_equal(cpu_msr_write(&vcpu, MSR_TSC_ADJUST, 1ULL << 40), 0);
        assert_int_equal(vcpu.state.tsc_offset, 1ULL << 40);
        assert_int_equal(cpu_msr_write(&vcpu, MSR_TSC_ADJUST, 0), 0);
        assert_int_equal(vcpu.state.tsc_offset, 0);
        offset = vcpu.state.tsc_offset;
        value = clock_tsc() + (1ULL << 50);
        assert_int_equal(cpu_msr_write(&vcpu, MSR_TSC, value), 0);
        assert_int_equal(rdmsr(&vcpu, MSR_TSC_ADJUST), vcpu.state.tsc_offset - offset);
        assert_true(rdmsr(&vcpu, MSR_TSC) >= value);
}

static void apic_base_modes_change_only_as_allowed(void **state)
{
        const u64 base = 0xfee00000, off = base, on = base | APIC_BASE_EN, x2 = on | APIC_BASE_EXTD;

        assert_true(cpu_apic_base_valid(on, x2));
        assert_true(cpu_apic_base_valid(x2, off));
        assert_true(cpu_apic_base_valid(off, on));
        assert_true(cpu_apic_base_valid(on, on | APIC_BASE_BSP));
        assert_false(cpu_apic_base_valid(x2, on));
        assert_false(cpu_apic_base_valid(off, x2));
        assert_false(cpu_apic_base_valid(on, base | APIC_BASE_EXTD));
        assert_false(cpu_apic_base_valid(on, on | 1));
        assert_false(cpu_apic_base_valid(on, on | BIT(MMU_MAXPHYADDR)));
}

static u32 asked;

static int platform_read(void *opaque, struct vcpu *vcpu, u32 msr, u64 *ret)
{
        asked = msr;
        *ret = 7;
        return 0;
}

static int platform_write(void *opaque, struct vcpu *vcpu, u32 msr, u64 value)
{
        asked = msr;
        return value == 13 || value & BIT(20) ? -EINVAL : 0;
}

static unsigned tsc_changes;

static void platform_tsc_changed(void *opaque, struct vcpu *vcpu)
{
        tsc_changes++;
}

static void the_platform_hears_of_tsc_writes(void **state)
{
        static const struct cpu_platform_ops ops = { .tsc_changed = platform_tsc_changed };
        struct vcpu vcpu = new_vcpu();

        vcpu.platform = &ops;
        assert_int_equal(cpu_msr_write(&vcpu, MSR_TSC, 0), 0);
        assert_int_equal(cpu_msr_write(&vcpu, MSR_TSC_ADJUST, 0), 0);
        assert_int_equal(tsc_changes, 2);
}

static void the_apic_answers_for_its_msrs(void **state)
{
        static const struct cpu_platform_ops ops = { .apic_msr_read = platform_read, .apic_msr_write = platform_write };
        struct vcpu vcpu = new_vcpu();
        u64 value;

        assert_int_equal(cpu_msr_read(&vcpu, MSR_X2APIC_FIRST, &value), -EINVAL); /* no platform */
        vcpu.platform = &ops;
        assert_int_equal(rdmsr(&vcpu, MSR_X2APIC_LAST), 7);
        assert_int_equal(asked, MSR_X2APIC_LAST);
        assert_int_equal(cpu_msr_write(&vcpu, MSR_TSC_DEADLINE, 13), -EINVAL);
        assert_int_equal(asked, MSR_TSC_DEADLINE);
        assert_int_equal(cpu_msr_write(&vcpu, MSR_APIC_BASE, 0xfee00900), 0);
        assert_int_equal(vcpu.state.apic_base, 0xfee00900);
        assert_int_equal(cpu_msr_write(&vcpu, MSR_APIC_BASE, 0xfef00900), -EINVAL); /* refused by the platform */
        assert_int_equal(vcpu.state.apic_base, 0xfee00900);
}

static void every_entry_can_be_found_by_its_numbers(void **state)
{
        struct msr_info info, found;

        for (size_t i = 0; cpu_msr_info(i, &info); i++)
                for (u32 n = 0; n < info.count; n++) {
                        assert_true(cpu_msr_find(info.first + n * info.step, &found));
                        assert_string_equal(found.name, info.name); /* nothing in front of it in the table hides it */
                }
}

/* What Linux 6.1 concludes from it: cpu_set_bug_bits() sets no bug that has a costly mitigation. */
static void arch_capabilities_promise_that_nothing_needs_mitigation(void **state)
{
        struct vcpu vcpu = new_vcpu();
        u64 caps = rdmsr(&vcpu, MSR_ARCH_CAPABILITIES);

        assert_true(caps & ARCH_CAP_RDCL_NO); /* no page-table isolation */
        assert_true(caps & ARCH_CAP_IBRS_ALL); /* no retpolines */
        assert_false(caps & BIT(2)); /* RSBA: no return thunks */
        assert_int_equal(caps & (ARCH_CAP_MDS_NO | ARCH_CAP_SSB_NO | ARCH_CAP_TAA_NO | ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO),
                         ARCH_CAP_MDS_NO | ARCH_CAP_SSB_NO | ARCH_CAP_TAA_NO | ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO);
        assert_true(cpuid_has(CPUID_ARCH_CAP));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(unknown_msrs_fault_and_are_counted),
                cmocka_unit_test(writes_are_checked_and_nothing_changes_on_a_fault),
                cmocka_unit_test(stored_msrs_read_back_what_was_written),
                cmocka_unit_test(mtrr_ranges_do_not_overlap),
                cmocka_unit_test(efer_cannot_change_long_mode_while_paging_is_on),
                cmocka_unit_test(misc_enable_keeps_its_read_only_bits),
                cmocka_unit_test(tsc_and_tsc_adjust_move_together),
                cmocka_unit_test(apic_base_modes_change_only_as_allowed),
                cmocka_unit_test(the_platform_hears_of_tsc_writes),
                cmocka_unit_test(the_apic_answers_for_its_msrs),
                cmocka_unit_test(every_entry_can_be_found_by_its_numbers),
                cmocka_unit_test(arch_capabilities_promise_that_nothing_needs_mitigation),
        };

        return cmocka_run_group_tests_name("msr", tests, NULL, NULL);
}

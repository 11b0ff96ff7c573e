/* ACPI tables: what an operating system checks before it trusts them. iasl, where there is one, is the judge of
 * the AML. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "dev/pm.h"
#include "vm/acpi.h"
#include "vm/aml.h"

static struct acpi_tables tables;

static const u8 *at(u64 gpa)
{
        assert_true(gpa >= ACPI_BASE && gpa < ACPI_BASE + tables.len);
        return tables.data + (gpa - ACPI_BASE);
}

static u64 get(const u8 *p, unsigned size)
{
        u64 v = 0;

        memcpy(&v, p, size);
        return v;
}

static u8 sum(const u8 *p, size_t n)
{
        u8 s = 0;

        while (n--)
                s = (u8)(s + *p++);
        return s;
}

/* The table with that signature, through the RSDT or the XSDT. */
static const u8 *find(const char *signature, bool xsdt)
{
        const u8 *root = at(xsdt ? get(tables.data + 24, 8) : get(tables.data + 16, 4));
        const unsigned width = xsdt ? 8 : 4;

        assert_memory_equal(root, xsdt ? "XSDT" : "RSDT", 4);
        assert_int_equal(sum(root, get(root + 4, 4)), 0);
        for (size_t i = 36; i < get(root + 4, 4); i += width) {
                const u8 *table = at(get(root + i, width));

                assert_int_equal(sum(table, get(table + 4, 4)), 0);
                if (memcmp(table, signature, 4) == 0)
                        return table;
        }
        return NULL;
}

static int setup(void **state)
{
        return acpi_build(3, &tables, NULL);
}

static int teardown(void **state)
{
        acpi_tables_free(&tables);
        return 0;
}

static void rsdp_is_found_by_a_scan_and_both_checksums_hold(void **state)
{
        assert_memory_equal(tables.data, "RSD PTR ", 8);
        assert_int_equal(ACPI_BASE % 16, 0);
        assert_true(ACPI_BASE >= 0xe0000 && ACPI_BASE + tables.len <= 0x100000);
        assert_int_equal(tables.data[15], 2);
        assert_int_equal(sum(tables.data, 20), 0);
        assert_int_equal(sum(tables.data, 36), 0);
}

static void both_directories_lead_to_the_same_tables(void **state)
{
        static const char *const names[] = { "FACP", "APIC", "MCFG" };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                assert_non_null(find(names[i], false));
                assert_ptr_equal(find(names[i], false), find(names[i], true));
        }
}

static void fadt_names_the_ports_and_the_other_tables(void **state)
{
        const u8 *fadt = find("FACP", true);

        assert_int_equal(get(fadt + 36, 4), tables.facs);
        assert_memory_equal(at(tables.facs), "FACS", 4);
        assert_int_equal(tables.facs % 64, 0);
        assert_memory_equal(at(get(fadt + 40, 4)), "DSDT", 4);
        assert_int_equal(get(fadt + 46, 2), PM_SCI_GSI);
        assert_int_equal(get(fadt + 56, 4), PM_EVENT_PORT);
        assert_int_equal(get(fadt + 64, 4), PM_CONTROL_PORT);
        assert_int_equal(get(fadt + 76, 4), PM_TIMER_PORT);
        assert_int_equal(get(fadt + 48, 4), 0);            /* no SMI command: always in ACPI mode */
        assert_int_equal(get(fadt + 112, 4) >> 20 & 1, 0); /* not hardware-reduced */
        assert_int_equal(get(fadt + 120, 8), PM_RESET_PORT);
        assert_int_equal(fadt[128], PM_RESET_VALUE);
}

static void madt_lists_every_cpu_the_ioapic_and_the_overrides(void **state)
{
        const u8 *madt = find("APIC", true);
        unsigned count[256] = { 0 };

        assert_int_equal(get(madt + 36, 4), 0xfee00000);
        for (size_t i = 44; i < get(madt + 4, 4); i += madt[i + 1]) {
                assert_true(madt[i + 1] >= 6);
                if (madt[i] == 0)
                        assert_int_equal(madt[i + 3], count[0]); /* APIC ids 0, 1, 2 */
                if (madt[i] == 2 && madt[i + 3] == 0)
                        assert_int_equal(get(madt + i + 4, 4), 2); /* IRQ 0 is on pin 2 */
                count[madt[i]]++;
        }
        assert_int_equal(count[0], 3);
        assert_int_equal(count[1], 1);
        assert_int_equal(count[2], 2);
        assert_int_equal(count[4], 1);
}

static void iasl_disassembles_every_table(void **state)
{
        static const char *const names[] = { "FACP", "APIC", "MCFG", "DSDT" };
        char dir[] = "/tmp/strata-acpi-XXXXXX", command[256];

        if (system("command -v iasl >/dev/null 2>&1") != 0)
                skip();
        assert_non_null(mkdtemp(dir));
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                const u8 *table = strcmp(names[i], "DSDT") ? find(names[i], true) : at(get(find("FACP", true) + 40, 4));
                FILE *out;

                snprintf(command, sizeof(command), "%s/%s.dat", dir, names[i]);
                out = fopen(command, "we");
                assert_int_equal(fwrite(table, 1, get(table + 4, 4), out), get(table + 4, 4));
                fclose(out);
                /* Disassembled without a complaint, and what comes out compiles again without one. */
                snprintf(command, sizeof(command),
                        "cd %s && iasl -d %s.dat >log 2>&1 && ! grep -iE 'error|warning|invalid' log && "
                        "iasl %s.dsl >log 2>&1 && grep -q ' 0 Errors, 0 Warnings' log",
                        dir, names[i], names[i]);
                assert_int_equal(system(command), 0);
        }
        snprintf(command, sizeof(command), "rm -r %s", dir);
        assert_int_equal(system(command), 0);
}

static void aml_lengths_grow_with_their_contents(void **state)
{
        static const struct {
                size_t content;
                u8 first[4];
                size_t n;
        } cases[] = {
                /* the length counts itself; ACPI 20.2.4 */
                { 10, { 4 + 10 + 1 + 1 }, 1 },
                { 0x3f - 6, { 0x3f }, 1 },
                { 0x40 - 6, { 0x41, 0x04 }, 2 },
                { 5000, { 0x80 | ((5000 + 5 + 3) & 15), (5008 >> 4) & 0xff, 5008 >> 12 }, 3 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct aml a;

                aml_init(&a);
                aml_scope_begin(&a, "ABCD");
                for (size_t j = 0; j < cases[i].content + 1; j++)
                        aml_integer(&a, 0);
                aml_end(&a);
                assert_false(a.failed);
                assert_memory_equal(a.data + 1, cases[i].first, cases[i].n);
                assert_int_equal(a.len, 1 + cases[i].n + 4 + cases[i].content + 1);
                aml_free(&a);
        }
}

static void aml_mistakes_are_remembered(void **state)
{
        struct aml a;

        aml_init(&a);
        aml_end(&a);
        assert_true(a.failed);
        aml_free(&a);
        aml_init(&a);
        aml_name(&a, "TOOLONG");
        assert_true(a.failed);
        aml_free(&a);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(rsdp_is_found_by_a_scan_and_both_checksums_hold),
                cmocka_unit_test(both_directories_lead_to_the_same_tables),
                cmocka_unit_test(fadt_names_the_ports_and_the_other_tables),
                cmocka_unit_test(madt_lists_every_cpu_the_ioapic_and_the_overrides),
                cmocka_unit_test(iasl_disassembles_every_table),
                cmocka_unit_test(aml_lengths_grow_with_their_contents),
                cmocka_unit_test(aml_mistakes_are_remembered),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}

/* The ACPI tables of the board: RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG, DSDT. Source: ACPI specification 6.4.
 *
 * They lie together in the BIOS area, where software without a boot protocol that says so scans for the RSDP. */
#pragma once

#include "base/err.h"

#define ACPI_BASE               0xe0000ULL
#define ACPI_SIZE               0x1f000ULL
#define ACPI_VMGENID            (ACPI_BASE + ACPI_SIZE) /* dev/vmgenid.h; in the page of the BIOS stubs (firmware.c) */
#define ACPI_FACS_WAKING_VECTOR 12 /* offset in the FACS */

struct acpi_tables {
        u8 *data; /* what goes to ACPI_BASE; the RSDP comes first */
        size_t len;
        u64 facs; /* gpa */
};

int acpi_build(unsigned n_cpus, struct acpi_tables *ret, struct err **err);
void acpi_tables_free(struct acpi_tables *tables);

struct aml;
/* The DSDT's contents. */
void acpi_dsdt(struct aml *a);

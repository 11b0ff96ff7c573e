#include "acpi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "aml.h"
#include "base/cleanup.h"
#include "dev/ioapic.h"
#include "dev/pci.h"
#include "dev/pm.h"
#include "dev/rtc.h"

struct header {
        char signature[4];
        u32 length;
        u8 revision, checksum;
        char oem_id[6], oem_table_id[8];
        u32 oem_revision;
        char creator_id[4];
        u32 creator_revision;
} _packed_;

struct rsdp { /* 5.2.5.3 */
        char signature[8];
        u8 checksum;
        char oem_id[6];
        u8 revision;
        u32 rsdt;
        u32 length;
        u64 xsdt;
        u8 extended_checksum;
        u8 reserved[3];
} _packed_;

struct address { /* generic address structure, 5.2.3.2 */
        u8 space, width, offset, access;
        u64 address;
} _packed_;
enum { SPACE_IO = 1, ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

struct fadt { /* 5.2.9 */
        struct header header;
        u32 facs, dsdt;
        u8 reserved0, preferred_profile;
        u16 sci_interrupt;
        u32 smi_command;
        u8 acpi_enable, acpi_disable, s4bios, pstate_control;
        u32 pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
        u8 pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length, gpe0_length, gpe1_length,
                gpe1_base;
        u8 cst_control;
        u16 c2_latency, c3_latency, flush_size, flush_stride;
        u8 duty_offset, duty_width, day_alarm, month_alarm, century;
        u16 boot_flags;
        u8 reserved1;
        u32 flags;
        struct address reset_register;
        u8 reset_value;
        u16 arm_boot_flags;
        u8 minor_revision;
        u64 x_facs, x_dsdt;
        struct address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control, x_pm_timer, x_gpe0,
                x_gpe1;
        struct address sleep_control, sleep_status;
        u64 hypervisor_id;
} _packed_;
_Static_assert(sizeof(struct fadt) == 276, "FADT of revision 6");

enum {
        FADT_WBINVD = 1 << 0,
        FADT_PROC_C1 = 1 << 2,
        FADT_SLP_BUTTON = 1 << 5, /* no fixed sleep button; the fixed power button exists (bit 4 clear) */
        FADT_TMR_VAL_EXT = 1 << 8,
        FADT_RESET_REG_SUP = 1 << 10,
        BOOT_LEGACY_DEVICES = 1 << 0,
        BOOT_NO_VGA = 1 << 2,
        PROFILE_ENTERPRISE_SERVER = 4,
};

struct facs { /* 5.2.10 */
        char signature[4];
        u32 length, hardware_signature, waking_vector, global_lock, flags;
        u64 x_waking_vector;
        u8 version, reserved[31];
} _packed_;
_Static_assert(sizeof(struct facs) == 64, "FACS");
_Static_assert(offsetof(struct facs, waking_vector) == ACPI_FACS_WAKING_VECTOR, "FACS");

struct madt { /* 5.2.12 */
        struct header header;
        u32 lapic_address, flags;
} _packed_;
enum { MADT_PCAT_COMPAT = 1, MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4 };
enum { MPS_ACTIVE_HIGH = 1, MPS_LEVEL = 3 << 2 };

struct madt_lapic {
        u8 type, length, processor, id;
        u32 flags;
} _packed_;
struct madt_ioapic {
        u8 type, length, id, reserved;
        u32 address, gsi_base;
} _packed_;
struct madt_override {
        u8 type, length, bus, irq;
        u32 gsi;
        u16 flags;
} _packed_;
struct madt_lapic_nmi {
        u8 type, length, processor;
        u16 flags;
        u8 lint;
} _packed_;

struct mcfg {
        struct header header;
        u64 reserved;
        u64 base;
        u16 segment;
        u8 first_bus, last_bus;
        u32 reserved1;
} _packed_;

#define TABLES_MAX   8
#define LAPIC_BASE   0xfee00000u
#define OEM_ID       "STRATA"
#define OEM_TABLE_ID "STRATAVM"

/* The area under construction. */
struct area {
        u8 *data;
        size_t len;
        bool full;
};

static u8 checksum(const void *p, size_t n)
{
        const u8 *b = p;
        u8 sum = 0;

        while (n--)
                sum = (u8)(sum + *b++);
        return (u8)-sum;
}

/* Reserves aligned room; NULL when the area is full. */
static void *area_take(struct area *area, size_t n, size_t align)
{
        const size_t start = ALIGN_UP(area->len, align);

        if (area->full || n > ACPI_SIZE || start > ACPI_SIZE - n) {
                area->full = true;
                return NULL;
        }
        area->len = start + n;
        return area->data + start;
}

static u64 area_gpa(const struct area *area, const void *p)
{
        return ACPI_BASE + (u64)((const u8 *)p - area->data);
}

static void *table_begin(struct area *area, const char *signature, u8 revision, size_t size)
{
        struct header *h = area_take(area, size, 16);

        if (!h)
                return NULL;
        *h = (struct header){ .length = (u32)size, .revision = revision, .oem_revision = 1, .creator_revision = 1 };
        memcpy(h->signature, signature, 4);
        memcpy(h->oem_id, OEM_ID, sizeof(h->oem_id));
        memcpy(h->oem_table_id, OEM_TABLE_ID, sizeof(h->oem_table_id));
        memcpy(h->creator_id, "STRA", 4);
        return h;
}

static void table_end(void *table)
{
        struct header *h = table;

        h->checksum = 0;
        h->checksum = checksum(h, h->length);
}

static struct address io_address(u16 port, u8 width, u8 access)
{
        return (struct address){ .space = SPACE_IO, .width = width, .access = access, .address = port };
}

static void *build_facs(struct area *area)
{
        struct facs *facs = area_take(area, sizeof(*facs), 64);

        if (facs) {
                *facs = (struct facs){ .length = sizeof(*facs), .version = 2 };
                memcpy(facs->signature, "FACS", 4);
        }
        return facs;
}

static void *build_dsdt(struct area *area)
{
        struct header *dsdt = NULL;
        struct aml aml;

        aml_init(&aml);
        acpi_dsdt(&aml);
        if (!aml.failed && aml.depth == 0)
                dsdt = table_begin(area, "DSDT", 2, sizeof(*dsdt) + aml.len);
        if (dsdt) {
                memcpy(dsdt + 1, aml.data, aml.len);
                table_end(dsdt);
        }
        aml_free(&aml);
        return dsdt;
}

/* Not hardware-reduced, always in ACPI mode (no SMI command), no general-purpose events. */
static void *build_fadt(struct area *area, u64 facs, u64 dsdt)
{
        struct fadt *f = table_begin(area, "FACP", 6, sizeof(*f));

        if (!f)
                return NULL;
        f->facs = (u32)facs;
        f->dsdt = (u32)dsdt;
        f->preferred_profile = PROFILE_ENTERPRISE_SERVER;
        f->sci_interrupt = PM_SCI_GSI;
        f->pm1a_event = PM_EVENT_PORT;
        f->pm1a_control = PM_CONTROL_PORT;
        f->pm_timer = PM_TIMER_PORT;
        f->pm1_event_length = 4;
        f->pm1_control_length = 2;
        f->pm_timer_length = 4;
        f->c2_latency = 0xffff; /* not supported */
        f->c3_latency = 0xffff;
        f->century = RTC_CENTURY_INDEX;
        f->boot_flags = BOOT_LEGACY_DEVICES | BOOT_NO_VGA;
        f->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP;
        f->reset_register = io_address(PM_RESET_PORT, 8, ACCESS_BYTE);
        f->reset_value = PM_RESET_VALUE;
        f->minor_revision = 4;
        f->x_dsdt = dsdt;
        f->x_pm1a_event = io_address(PM_EVENT_PORT, 32, ACCESS_WORD);
        f->x_pm1a_control = io_address(PM_CONTROL_PORT, 16, ACCESS_WORD);
        f->x_pm_timer = io_address(PM_TIMER_PORT, 32, ACCESS_DWORD);
        table_end(f);
        return f;
}

static void *build_madt(struct area *area, unsigned n_cpus)
{
        /* ISA interrupts that are not on the pin of their number, or not edge-triggered. */
        static const struct madt_override overrides[] = {
                { MADT_OVERRIDE, sizeof(struct madt_override), 0, 0, 2, 0 },
                { MADT_OVERRIDE, sizeof(struct madt_override), 0, PM_SCI_GSI, PM_SCI_GSI, MPS_ACTIVE_HIGH | MPS_LEVEL },
        };
        const size_t size = sizeof(struct madt) + n_cpus * sizeof(struct madt_lapic) + sizeof(struct madt_ioapic) +
                            sizeof(overrides) + sizeof(struct madt_lapic_nmi);
        struct madt *madt = table_begin(area, "APIC", 5, size);
        u8 *p = (u8 *)(madt + 1);

        if (!madt)
                return NULL;
        madt->lapic_address = LAPIC_BASE;
        madt->flags = MADT_PCAT_COMPAT;
        /* x2APIC entries are for ids of 255 and more, which this machine does not have (5.2.12.12). */
        for (unsigned i = 0; i < n_cpus; i++) {
                struct madt_lapic e = { MADT_LAPIC, sizeof(e), (u8)i, (u8)i, 1 };

                memcpy(p, &e, sizeof(e));
                p += sizeof(e);
        }
        memcpy(p, &(struct madt_ioapic){ MADT_IOAPIC, sizeof(struct madt_ioapic), 0, 0, (u32)IOAPIC_BASE, 0 },
                sizeof(struct madt_ioapic));
        p += sizeof(struct madt_ioapic);
        memcpy(p, overrides, sizeof(overrides));
        p += sizeof(overrides);
        memcpy(p, &(struct madt_lapic_nmi){ MADT_LAPIC_NMI, sizeof(struct madt_lapic_nmi), 0xff, 0, 1 },
                sizeof(struct madt_lapic_nmi));
        table_end(madt);
        return madt;
}

static void *build_mcfg(struct area *area)
{
        struct mcfg *mcfg = table_begin(area, "MCFG", 1, sizeof(*mcfg));

        if (!mcfg)
                return NULL;
        mcfg->base = PCI_ECAM_BASE;
        mcfg->last_bus = (u8)(PCI_ECAM_SIZE / MIB - 1);
        table_end(mcfg);
        return mcfg;
}

/* RSDT (32-bit entries) and XSDT (64-bit entries) name the same tables. */
static void *build_directory(struct area *area, const char *signature, size_t entry_size, const u64 *tables, size_t n)
{
        struct header *h = table_begin(area, signature, 1, sizeof(*h) + n * entry_size);

        if (!h)
                return NULL;
        for (size_t i = 0; i < n; i++)
                memcpy((u8 *)(h + 1) + i * entry_size, &tables[i], entry_size);
        table_end(h);
        return h;
}

static void fill_rsdp(struct rsdp *rsdp, u64 rsdt, u64 xsdt)
{
        *rsdp = (struct rsdp){ .revision = 2, .rsdt = (u32)rsdt, .length = sizeof(*rsdp), .xsdt = xsdt };
        memcpy(rsdp->signature, "RSD PTR ", 8);
        memcpy(rsdp->oem_id, OEM_ID, sizeof(rsdp->oem_id));
        rsdp->checksum = checksum(rsdp, 20); /* what revision 0 had */
        rsdp->extended_checksum = checksum(rsdp, sizeof(*rsdp));
}

int acpi_build(unsigned n_cpus, struct acpi_tables *ret, struct err **err)
{
        _cleanup_free_ u8 *data = calloc(1, ACPI_SIZE);
        struct area area = { .data = data };
        void *rsdp, *facs, *dsdt, *fadt, *madt, *mcfg, *rsdt, *xsdt;
        u64 tables[TABLES_MAX];
        size_t n = 0;

        if (!data)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for ACPI tables");
        rsdp = area_take(&area, sizeof(struct rsdp), 16);
        facs = build_facs(&area);
        dsdt = build_dsdt(&area);
        fadt = facs && dsdt ? build_fadt(&area, area_gpa(&area, facs), area_gpa(&area, dsdt)) : NULL;
        madt = build_madt(&area, n_cpus);
        mcfg = build_mcfg(&area);
        if (!rsdp || !fadt || !madt || !mcfg)
                return err_set(err, ERR_INTERNAL, ENOSPC, "the ACPI tables do not fit");
        tables[n++] = area_gpa(&area, fadt);
        tables[n++] = area_gpa(&area, madt);
        tables[n++] = area_gpa(&area, mcfg);
        rsdt = build_directory(&area, "RSDT", 4, tables, n);
        xsdt = build_directory(&area, "XSDT", 8, tables, n);
        if (!rsdt || !xsdt)
                return err_set(err, ERR_INTERNAL, ENOSPC, "the ACPI tables do not fit");
        fill_rsdp(rsdp, area_gpa(&area, rsdt), area_gpa(&area, xsdt));
        *ret = (struct acpi_tables){ .len = area.len, .facs = area_gpa(&area, facs) };
        ret->data = TAKE_PTR(data);
        return 0;
}

void acpi_tables_free(struct acpi_tables *tables)
{
        free(tables->data);
        *tables = (struct acpi_tables){ 0 };
}

/* The DSDT: what Linux cannot find out by probing. */
#include "acpi.h"
#include "aml.h"
#include "dev/pci.h"
#include "dev/pm.h"
#include "dev/uart.h"
#include "dev/vmgenid.h"

/* Package () { PM1a SLP_TYP, PM1b SLP_TYP, 0, 0 }; ACPI 7.4.2. */
static void sleep_state(struct aml *a, const char *name, u8 type)
{
        aml_name(a, name);
        aml_package_begin(a, 4);
        aml_integer(a, type);
        aml_integer(a, type);
        aml_integer(a, 0);
        aml_integer(a, 0);
        aml_end(a);
}

/* Package () { Package () { slot << 16 | any function, pin, 0, GSI }, ... }; ACPI 6.2.13. */
static void interrupt_routing(struct aml *a)
{
        aml_name(a, "_PRT");
        aml_package_begin(a, PCI_SLOTS * 4);
        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
                for (unsigned pin = 0; pin < 4; pin++) {
                        aml_package_begin(a, 4);
                        aml_integer(a, (u64)slot << 16 | 0xffff);
                        aml_integer(a, pin);
                        aml_integer(a, 0);
                        aml_integer(a, pci_intx_gsi(slot, pin + 1));
                        aml_end(a);
                }
        }
        aml_end(a);
}

static void host_bridge(struct aml *a)
{
        struct aml_resources res = { .len = 0 };

        aml_device_begin(a, "PCI0");
        aml_name_eisaid(a, "_HID", "PNP0A08");
        aml_name_eisaid(a, "_CID", "PNP0A03");
        aml_name_integer(a, "_UID", 0);
        aml_name_integer(a, "_SEG", 0);
        aml_name_integer(a, "_BBN", 0);
        aml_res_bus_window(&res, 0, 255);
        aml_res_io(&res, PCI_CONFIG_ADDRESS, 8);
        aml_res_io_window(&res, 0, PCI_CONFIG_ADDRESS - 1);
        aml_res_io_window(&res, PCI_CONFIG_ADDRESS + 8, 0xffff);
        aml_res_memory32_window(&res, (u32)PCI_WINDOW32_BASE, (u32)(PCI_WINDOW32_BASE + PCI_WINDOW32_SIZE - 1));
        aml_res_memory64_window(&res, PCI_WINDOW64_BASE, PCI_WINDOW64_BASE + PCI_WINDOW64_SIZE - 1);
        aml_name_resources(a, "_CRS", &res);
        interrupt_routing(a);
        /* The operating system may have every PCI Express feature it asks for: Return (Arg3), all bits granted. */
        aml_method_begin(a, "_OSC", 4);
        aml_return_arg(a, 3);
        aml_end(a);
        aml_end(a);
}

static void isa_device(struct aml *a, const char *name, const char *id, u16 port, u8 n_ports, unsigned irq)
{
        struct aml_resources res = { .len = 0 };

        aml_device_begin(a, name);
        aml_name_eisaid(a, "_HID", id);
        aml_name_integer(a, "_UID", 1);
        aml_res_io(&res, port, n_ports);
        aml_res_irq(&res, irq);
        aml_name_resources(a, "_CRS", &res);
        aml_end(a);
}

/* Linux trusts MCFG only when a motherboard device or the memory map owns its range. */
static void motherboard(struct aml *a)
{
        struct aml_resources res = { .len = 0 };

        aml_device_begin(a, "MBRD");
        aml_name_eisaid(a, "_HID", "PNP0C02");
        aml_res_memory32(&res, (u32)PCI_ECAM_BASE, (u32)PCI_ECAM_SIZE);
        aml_res_io(&res, PM_BASE, 12);
        aml_name_resources(a, "_CRS", &res);
        aml_end(a);
}

/* vmgenid.h. The event device has one interrupt, so its method need not ask which. */
static void generation_id(struct aml *a)
{
        struct aml_resources res = { .len = 0 };

        aml_device_begin(a, "VGEN");
        aml_name(a, "_HID");
        aml_string(a, "STRA0001");
        aml_name(a, "_CID");
        aml_string(a, "VM_Gen_Counter");
        aml_name(a, "_DDN");
        aml_string(a, "VM_Gen_Counter");
        aml_name(a, "ADDR");
        aml_package_begin(a, 2);
        aml_integer(a, ACPI_VMGENID);
        aml_integer(a, 0);
        aml_end(a);
        aml_end(a);

        aml_device_begin(a, "GED0");
        aml_name(a, "_HID");
        aml_string(a, "ACPI0013");
        aml_name_integer(a, "_UID", 0);
        aml_res_irq(&res, VMGENID_GSI);
        aml_name_resources(a, "_CRS", &res);
        aml_method_begin(a, "_EVT", 1);
        aml_notify(a, "\\_SB_.VGEN", 0x80);
        aml_end(a);
        aml_end(a);
}

void acpi_dsdt(struct aml *a)
{
        sleep_state(a, "_S3_", PM_SLEEP_S3);
        sleep_state(a, "_S5_", PM_SLEEP_S5);
        aml_scope_begin(a, "\\_SB_");
        host_bridge(a);
        motherboard(a);
        isa_device(a, "COM1", "PNP0501", UART_COM1_PORT, 8, UART_COM1_GSI);
        isa_device(a, "RTC0", "PNP0B00", 0x70, 2, 8);
        generation_id(a);
        aml_end(a);
}

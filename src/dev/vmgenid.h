/* The virtual machine generation ID: 16 random bytes in the guest's memory, and an interrupt when they have changed because the machine
 * now running is a copy of one that was saved. A guest that knows it makes anew what must be unique: Linux reseeds its random numbers
 * (drivers/virt/vmgenid.c). Source: Microsoft, "Virtual Machine Generation ID" (2012).
 *
 * The guest finds it by ACPI (vm/acpi_dsdt.c): a device with _CID "VM_Gen_Counter" says where the bytes are; a Generic Event Device
 * (ACPI 6.4, 5.6.9) turns the interrupt into the notification. */
#pragma once

#include "dev/dev.h"

#define VMGENID_SIZE 16
#define VMGENID_GSI 5 /* nobody else's; an edge */

struct vmgenid;

/* The ID is at @gpa: RAM that the guest is told not to use, a multiple of 8. */
int vmgenid_new(struct device_env *env, u64 gpa, struct vmgenid **ret, struct err **err);
/* Another ID: the machine is one more from the same saved state. Device lock held, or no threads. */
int vmgenid_renew(struct vmgenid *v, struct err **err);

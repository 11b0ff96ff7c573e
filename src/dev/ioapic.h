/* The IOAPIC: 24 input pins, each with a redirection entry that says which message a signal on it becomes.
 *
 * Version 0x11, as in the 82093AA and the hypervisors' in-kernel models, so that a guest can move between engines: there is no
 * EOI register; the end of a level interrupt comes from the local APICs. Source: Intel 82093AA datasheet (290566). */
#pragma once

#include "dev/lapic.h"

#define IOAPIC_PINS 24
#define IOAPIC_BASE 0xfec00000ULL

struct ioapic;

/* Claims the page at IOAPIC_BASE and becomes @lapics' EOI listener. */
int ioapic_new(struct device_env *env, struct lapic_set *lapics, u8 id, struct ioapic **ret, struct err **err);

/* Drives a pin. */
void ioapic_pin_set(struct ioapic *ioapic, unsigned pin, bool level);
/* Drives the pin of a GSI: GSI 0 (the PIT) is on pin 2, as the MADT says. Fits irq_line.set; @opaque is the ioapic. */
void ioapic_gsi_set(void *opaque, unsigned gsi, bool level);

/* The state in terms of the datasheet, to exchange it with a hypervisor's in-kernel model. */
struct ioapic_registers {
        u8 id;
        u8 select;
        u32 pins; /* current input levels */
        u64 redirection[IOAPIC_PINS];
};
void ioapic_registers_get(const struct ioapic *ioapic, struct ioapic_registers *ret);
int ioapic_registers_set(struct ioapic *ioapic, const struct ioapic_registers *regs, struct err **err);

/* The local APICs of all vCPUs: xAPIC and x2APIC.
 *
 * One object for the whole set, because a message has to be matched against every APIC. All functions are to be called with
 * the device lock held, except lapic_irq_pending(), which reads one atomic that is kept exact under the lock.
 *
 * Towards the CPUs the set only posts; the vCPU thread then asks:
 *
 *         post(IRQ)  -> lapic_irq_pending(set, cpu) && interrupts enabled -> lapic_irq_ack(set, cpu) gives the vector
 *         post(NMI)  -> the CPU takes or latches an NMI
 *         post(INIT) -> the CPU resets itself and calls lapic_init_signal(set, cpu)
 *         post(SIPI) -> a CPU that waits for it starts at lapic_sipi_vector(set, cpu) << 12, others ignore it
 *
 * A CPU index is also its initial APIC id. Source: Intel SDM 3A, chapter 11 (APIC). */
#pragma once

#include "dev/dev.h"

#define LAPIC_CPUS_MAX 255 /* id 255 is the xAPIC broadcast */
#define LAPIC_DEFAULT_BASE 0xfee00000ULL

enum lapic_post { LAPIC_POST_IRQ, LAPIC_POST_NMI, LAPIC_POST_INIT, LAPIC_POST_SIPI, LAPIC_POST_SMI };

/* What the set needs from the machine. All are called with the device lock held. */
struct lapic_ops {
        /* The vCPU on whose thread we are (memory accesses carry no CPU number), or -1 when it is no vCPU's thread. */
        int (*current_cpu)(void *opaque);
        void (*post)(void *opaque, unsigned cpu, enum lapic_post what);
        /* The guest's TSC of @cpu, offset included. */
        u64 (*tsc_now)(void *opaque, unsigned cpu);
        u64 tsc_hz;
        u64 physical_address_bits; /* MAXPHYADDR: bits above are reserved in APIC_BASE; 0 means 40 */
};

enum apic_delivery {
        APIC_FIXED = 0,
        APIC_LOWEST_PRIORITY = 1,
        APIC_SMI = 2,
        APIC_NMI = 4,
        APIC_INIT = 5,
        APIC_SIPI = 6,
        APIC_EXTINT = 7,
};

/* An interrupt message on the bus between IOAPIC, devices (MSI) and local APICs. */
struct apic_message {
        u32 destination;
        bool x2apic_destination; /* 32 bits wide, broadcast is 0xffffffff; otherwise 8 bits and 0xff */
        bool logical;
        u8 delivery;             /* enum apic_delivery */
        u8 vector;
        bool level_triggered;
};

struct lapic_set;

int lapic_set_new(struct device_env *env, unsigned n_cpus, const struct lapic_ops *ops, void *opaque,
                  struct lapic_set **ret, struct err **err);

/* ---- for the vCPU threads ---- */

/* Is there an interrupt to deliver now (priority considered, IF not)? Any thread, with or without the lock. */
bool lapic_irq_pending(const struct lapic_set *set, unsigned cpu);
/* Takes it: the vector, or -1 when there is none (any more). Asks the PIC when it is the one that interrupts. */
int lapic_irq_ack(struct lapic_set *set, unsigned cpu);
/* APIC_BASE, TSC_DEADLINE and 0x800-0x8ff. 0, or -EINVAL for #GP; nothing changed then. */
int lapic_msr_read(struct lapic_set *set, unsigned cpu, u32 msr, u64 *ret);
int lapic_msr_write(struct lapic_set *set, unsigned cpu, u32 msr, u64 value);
u64 lapic_cr8_read(const struct lapic_set *set, unsigned cpu);
void lapic_cr8_write(struct lapic_set *set, unsigned cpu, u64 value);
/* The APIC's part of INIT: registers reset, id and base kept. */
void lapic_init_signal(struct lapic_set *set, unsigned cpu);
u8 lapic_sipi_vector(const struct lapic_set *set, unsigned cpu);
/* The guest's TSC jumped (WRMSR to TSC or TSC_ADJUST, restored state): a deadline is due at another time now. */
void lapic_tsc_changed(struct lapic_set *set, unsigned cpu);
/* The hypercall KVM_HC_SEND_IPI (10): @args are 128 bits of destinations, the APIC id of bit 0, and an ICR value. Returns how
 * many took it, or -EINVAL. Source: Linux Documentation/virt/kvm/x86/hypercalls.rst. */
s64 lapic_pv_ipi(struct lapic_set *set, const u64 args[4]);

/* For CPUID: the APIC flag follows APIC_BASE.EN, the id of leaf 1 is the initial one. */
bool lapic_enabled(const struct lapic_set *set, unsigned cpu);

/* ---- for interrupt sources ---- */

/* Returns the number of APICs that took it. */
unsigned lapic_send(struct lapic_set *set, const struct apic_message *msg);
/* An MSI as written by a device. Source: SDM 3A, 11.11. Fits env->msi. */
void lapic_msi(struct lapic_set *set, u64 address, u32 data);
void lapic_msi_send(void *opaque, u64 address, u32 data); /* opaque is the set */
/* The INTR output of the PIC: wired to LINT0 of every APIC. Fits irq_line.set, @opaque is the set. */
void lapic_extint_set(void *opaque, unsigned n, bool level);
/* Who answers the acknowledge cycle for it; returns a vector. */
void lapic_attach_pic(struct lapic_set *set, int (*ack)(void *opaque), void *opaque);
/* LINT1 of every APIC, where the platform's NMI sources end. Fits irq_line.set. */
void lapic_nmi_set(void *opaque, unsigned n, bool level);
/* Called at the end of a level-triggered interrupt; one listener (the IOAPIC). */
void lapic_on_eoi(struct lapic_set *set, void (*fn)(void *opaque, u8 vector), void *opaque);

/* ---- moving to and from a hardware APIC ---- */

/* The register page of one APIC in architectural layout (offset of a register = its MMIO offset), as hypervisors exchange
 * it. Set refuses what no APIC can hold. APIC_BASE and the TSC deadline are exchanged as MSRs: set the base first. */
#define LAPIC_PAGE_SIZE 0x400
void lapic_page_get(struct lapic_set *set, unsigned cpu, u8 page[LAPIC_PAGE_SIZE]);
int lapic_page_set(struct lapic_set *set, unsigned cpu, const u8 page[LAPIC_PAGE_SIZE], struct err **err);

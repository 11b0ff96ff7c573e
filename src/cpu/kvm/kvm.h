/* The KVM engine's face for the board: interrupt controllers in the kernel, doorbells, clock and dirty log.
 *
 * @machine is what kvm_engine.machine_create returned. The interrupt chips (PIC pair, IOAPIC, LAPICs) exist in the
 * kernel from then on; the PIT does not: the board keeps its own model and drives GSI 0, so that there is one PIT and
 * no state of it to move. GSI 0 is on IOAPIC pin 2, GSI n on pin n; GSIs 0-15 go to the PIC too.
 *
 * The structures below have the same fields as the board's device models exchange (dev/pic.h, dev/ioapic.h), which this
 * floor may not include. LAPICs are exchanged as register pages in architectural layout. To move a machine between our
 * models and the kernel's: stop all vCPUs, take the old side's state, set it on the new side (APIC_BASE goes with
 * cpu_state, and must be in place before the page: call kvm_lapic_set after the vCPU moved and before it runs).
 *
 * Threads: everything here may be called from any thread. State functions need the vCPUs to be stopped.
 *
 * kvm_engine.kick uses the real-time signal KVM_KICK_SIGNAL, whose handler does nothing; nobody else may use or block
 * it. */
#pragma once

#include "cpu/cpu.h"

#define KVM_KICK_SIGNAL (SIGRTMIN + 2)

/* How long one instruction of guest kernel code takes here, by the probe's measurement, in picoseconds. Hardware needs
 * a few hundred; a KVM without hardware under it needs 500,000 and is then not ENGINE_CAP_FAST. */
int kvm_speed(u64 *ret_ps_per_instruction);

/* ---- interrupts ---- */

/* Drives GSI 0-23. Fits irq_line.set; @machine is the opaque. */
void kvm_irq_set(void *machine, unsigned gsi, bool level);
#define KVM_IRQ_GSIS 24
/* Sends an MSI. Fits msi_sink.send. */
void kvm_msi_send(void *machine, u64 address, u32 data);
/* NMI to one vCPU: post VCPU_WORK_NMI to it instead. */

/* An eventfd whose signal is this MSI, without a system call by us. @route is filled with a number to change or end it;
 * needs a kernel that has free routes. */
int kvm_irqfd_add(void *machine, int fd, u64 address, u32 data, unsigned *ret_route, struct err **err);
int kvm_irqfd_change(void *machine, unsigned route, u64 address, u32 data, struct err **err);
void kvm_irqfd_remove(void *machine, int fd, unsigned route);

/* A guest write to @address (a port or device memory) signals eventfd @fd instead of leaving the kernel. @size 1, 2, 4,
 * 8; 0 matches any. */
int kvm_ioeventfd(void *machine, bool port, u64 address, unsigned size, int fd, bool add, struct err **err);

/* ---- state of the interrupt chips ---- */

#define KVM_IOAPIC_REDIRECTIONS 24

struct kvm_ioapic_registers {
        u8 id;
        u8 select;
        u32 pins; /* input levels */
        u64 redirection[KVM_IOAPIC_REDIRECTIONS];
};

struct kvm_pic_chip {
        u8 irr, imr, isr;
        u8 lines;
        u8 vector_base;
        u8 priority_top;
        u8 elcr;
        u8 init_step;
        bool needs_icw4, single;
        bool auto_eoi, rotate_on_auto_eoi, special_fully_nested, special_mask;
        bool read_isr, poll;
};

#define KVM_LAPIC_PAGE_SIZE 0x400

int kvm_ioapic_get(void *machine, struct kvm_ioapic_registers *ret, struct err **err);
int kvm_ioapic_set(void *machine, const struct kvm_ioapic_registers *regs, struct err **err);
int kvm_pic_get(void *machine, struct kvm_pic_chip ret[2], struct err **err);
int kvm_pic_set(void *machine, const struct kvm_pic_chip chips[2], struct err **err);
/* In x2APIC mode the id register holds 32 bits, as software reads it. */
int kvm_lapic_get(struct vcpu *vcpu, u8 ret_page[KVM_LAPIC_PAGE_SIZE], struct err **err);
int kvm_lapic_set(struct vcpu *vcpu, const u8 page[KVM_LAPIC_PAGE_SIZE], struct err **err);
/* IA32_TSC_DEADLINE: 0 when none is armed. Set after the page and the vCPU's state. */
int kvm_tsc_deadline_get(struct vcpu *vcpu, u64 *ret, struct err **err);
int kvm_tsc_deadline_set(struct vcpu *vcpu, u64 deadline, struct err **err);

/* ---- clock ---- */

/* kvmclock: nanoseconds since the machine started. Set it before the vCPUs run (their system time page is filled by the
 * kernel). */
int kvm_clock_get(void *machine, u64 *ret_ns, struct err **err);
int kvm_clock_set(void *machine, u64 ns, struct err **err);

/* ---- dirty tracking ----
 *
 * Together with guest_memory's: start it, then guest_memory_dirty_start. Before guest_memory_dirty_collect,
 * kvm_dirty_sync tells guest_memory which pages the guest wrote since the last time. vCPUs stopped. */
int kvm_dirty_start(void *machine, struct err **err);
int kvm_dirty_stop(void *machine, struct err **err);
int kvm_dirty_sync(void *machine, struct err **err);

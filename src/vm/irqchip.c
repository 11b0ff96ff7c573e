/* Interrupt controllers in the kernel: their state moves through our models, which have the same registers. */
#include <errno.h>
#include <string.h>

#include "cpu/kvm/kvm.h"
#include "dev/ioapic.h"
#include "dev/pic.h"
#include "internal.h"

_Static_assert(sizeof(struct kvm_ioapic_registers) == sizeof(struct ioapic_registers), "same fields");
_Static_assert(sizeof(struct kvm_pic_chip) == sizeof(struct pic_chip), "same fields");
_Static_assert(KVM_LAPIC_PAGE_SIZE == LAPIC_PAGE_SIZE, "same layout");

static int lapic_to_model(struct vm *vm, unsigned i, struct err **err)
{
        struct vcpu *vcpu = &vm->cpus[i].vcpu;
        struct lapic_set *lapics = vm->board.lapics;
        u8 page[LAPIC_PAGE_SIZE];
        u64 deadline;
        int r;

        r = kvm_lapic_get(vcpu, page, err);
        if (r == 0)
                r = kvm_tsc_deadline_get(vcpu, &deadline, err);
        if (r < 0)
                return r;
        /* Through "disabled", because a mode change that software could not make is refused. */
        lapic_msr_write(lapics, i, MSR_APIC_BASE, vcpu->state.apic_base & ~(BIT(10) | BIT(11)));
        lapic_msr_write(lapics, i, MSR_APIC_BASE, vcpu->state.apic_base & ~BIT(10));
        r = lapic_msr_write(lapics, i, MSR_APIC_BASE, vcpu->state.apic_base);
        if (r < 0)
                return err_set(err, ERR_BAD_STATE, EINVAL, "vCPU %u has an impossible APIC base 0x%llx", i,
                        (unsigned long long)vcpu->state.apic_base);
        r = lapic_page_set(lapics, i, page, err);
        if (r == 0 && deadline)
                lapic_msr_write(lapics, i, MSR_TSC_DEADLINE, deadline);
        return r;
}

int vm_irqchip_to_models(struct vm *vm, struct err **err)
{
        struct kvm_ioapic_registers kernel_ioapic;
        struct kvm_pic_chip kernel_pic[2];
        struct ioapic_registers ioapic;
        struct pic_chip pic[2];
        int r;

        r = kvm_ioapic_get(vm->engine_machine, &kernel_ioapic, err);
        if (r == 0)
                r = kvm_pic_get(vm->engine_machine, kernel_pic, err);
        for (unsigned i = 0; i < vm->n_cpus && r == 0; i++)
                r = lapic_to_model(vm, i, err);
        if (r < 0)
                return r;
        memcpy(&ioapic, &kernel_ioapic, sizeof(ioapic));
        memcpy(pic, kernel_pic, sizeof(pic));
        r = ioapic_registers_set(vm->board.ioapic, &ioapic, err);
        return r < 0 ? r : pic_chips_set(vm->board.pic, pic, err);
}

int vm_irqchip_from_models(struct vm *vm, struct err **err)
{
        struct kvm_ioapic_registers kernel_ioapic;
        struct kvm_pic_chip kernel_pic[2];
        struct ioapic_registers ioapic;
        struct pic_chip pic[2];
        int r;

        ioapic_registers_get(vm->board.ioapic, &ioapic);
        pic_chips_get(vm->board.pic, pic);
        memcpy(&kernel_ioapic, &ioapic, sizeof(ioapic));
        memcpy(kernel_pic, pic, sizeof(pic));
        for (unsigned i = 0; i < vm->n_cpus; i++) {
                struct vcpu *vcpu = &vm->cpus[i].vcpu;
                u8 page[LAPIC_PAGE_SIZE];
                u64 deadline = 0;

                lapic_page_get(vm->board.lapics, i, page);
                lapic_msr_read(vm->board.lapics, i, MSR_TSC_DEADLINE, &deadline);
                r = kvm_lapic_set(vcpu, page, err);
                if (r == 0 && deadline)
                        r = kvm_tsc_deadline_set(vcpu, deadline, err);
                if (r < 0)
                        return r;
        }
        r = kvm_pic_set(vm->engine_machine, kernel_pic, err);
        return r < 0 ? r : kvm_ioapic_set(vm->engine_machine, &kernel_ioapic, err);
}

/* What the machine answers when its CPUs ask, and what the local APICs ask of the machine. */
#include "internal.h"

static void lock_devices(struct vm *vm)
{
        pthread_mutex_lock(&vm->device_lock);
}

static void unlock_devices(struct vm *vm)
{
        pthread_mutex_unlock(&vm->device_lock);
}

static bool irq_pending(void *opaque, struct vcpu *vcpu)
{
        const struct vm *vm = opaque;

        return lapic_irq_pending(vm->board.lapics, vcpu->index);
}

static int irq_ack(void *opaque, struct vcpu *vcpu)
{
        struct vm *vm = opaque;
        int vector;

        vm_cpu_account(&vm->cpus[vcpu->index]);
        lock_devices(vm);
        vector = lapic_irq_ack(vm->board.lapics, vcpu->index);
        unlock_devices(vm);
        return vector;
}

static int apic_msr_read(void *opaque, struct vcpu *vcpu, u32 msr, u64 *ret)
{
        struct vm *vm = opaque;
        int r;

        lock_devices(vm);
        r = lapic_msr_read(vm->board.lapics, vcpu->index, msr, ret);
        unlock_devices(vm);
        return r;
}

static int apic_msr_write(void *opaque, struct vcpu *vcpu, u32 msr, u64 value)
{
        struct vm *vm = opaque;
        int r;

        lock_devices(vm);
        r = lapic_msr_write(vm->board.lapics, vcpu->index, msr, value);
        unlock_devices(vm);
        return r;
}

static u64 cr8_read(void *opaque, struct vcpu *vcpu)
{
        struct vm *vm = opaque;
        u64 value;

        lock_devices(vm);
        value = lapic_cr8_read(vm->board.lapics, vcpu->index);
        unlock_devices(vm);
        return value;
}

static void cr8_write(void *opaque, struct vcpu *vcpu, u64 value)
{
        struct vm *vm = opaque;

        lock_devices(vm);
        lapic_cr8_write(vm->board.lapics, vcpu->index, value);
        unlock_devices(vm);
}

static u8 sipi_vector(void *opaque, struct vcpu *vcpu)
{
        struct vm *vm = opaque;
        u8 vector;

        lock_devices(vm);
        vector = lapic_sipi_vector(vm->board.lapics, vcpu->index);
        unlock_devices(vm);
        return vector;
}

static void tsc_changed(void *opaque, struct vcpu *vcpu)
{
        struct vm *vm = opaque;

        lock_devices(vm);
        lapic_tsc_changed(vm->board.lapics, vcpu->index);
        unlock_devices(vm);
}

static void ferr(void *opaque, struct vcpu *vcpu)
{
        struct vm *vm = opaque;

        lock_devices(vm);
        irq_line_pulse(&vm->board.ferr);
        unlock_devices(vm);
}

const struct cpu_platform_ops vm_platform_ops = {
        .irq_pending = irq_pending,
        .irq_ack = irq_ack,
        .apic_msr_read = apic_msr_read,
        .apic_msr_write = apic_msr_write,
        .cr8_read = cr8_read,
        .cr8_write = cr8_write,
        .sipi_vector = sipi_vector,
        .kvm_msr_written = vm_kvm_msr_written,
        .hypercall = vm_hypercall,
        .tsc_changed = tsc_changed,
        .ferr = ferr,
};

/* ---- for the local APICs; device lock held ---- */

static int current_cpu(void *opaque)
{
        const struct vcpu *vcpu = vm_current_vcpu();

        return vcpu ? (int)vcpu->index : -1;
}

static void post(void *opaque, unsigned cpu, enum lapic_post what)
{
        static const u32 work[] = {
                [LAPIC_POST_IRQ] = VCPU_WORK_IRQ,
                [LAPIC_POST_NMI] = VCPU_WORK_NMI,
                [LAPIC_POST_INIT] = VCPU_WORK_INIT,
                [LAPIC_POST_SIPI] = VCPU_WORK_SIPI,
                [LAPIC_POST_SMI] = VCPU_WORK_SMI,
        };
        struct vm *vm = opaque;

        if (cpu >= vm->n_cpus || (vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP))
                return;
        /* The APIC's registers are reset here and not on the CPU's own thread, which only knows about its CPU. */
        if (what == LAPIC_POST_INIT)
                lapic_init_signal(vm->board.lapics, cpu);
        vcpu_post_work(&vm->cpus[cpu].vcpu, work[what]);
}

static u64 tsc_now(void *opaque, unsigned cpu)
{
        struct vm *vm = opaque;

        return clock_tsc() + __atomic_load_n(&vm->cpus[cpu].vcpu.state.tsc_offset, __ATOMIC_RELAXED);
}

/* tsc_hz is filled in by the board. */
const struct lapic_ops vm_lapic_ops = {
        .current_cpu = current_cpu,
        .post = post,
        .tsc_now = tsc_now,
        .physical_address_bits = MMU_MAXPHYADDR,
};

/* What a guest that knows it is one gets from the machine: KVM's clock pages, steal time, and hypercalls.
 * Source: Linux Documentation/virt/kvm/x86/{msr,hypercalls}.rst. With KVM's own interrupt controllers the kernel does all of it. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "dev/kvmclock.h"
#include "dev/steal_time.h"
#include "internal.h"

static struct vm_cpu *cpu_of(struct vcpu *vcpu)
{
        return container_of(vcpu, struct vm_cpu, vcpu);
}

static bool is_kernels_business(const struct vm *vm)
{
        return vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP;
}

/* ---- clocks ---- */

/* One moment by both clocks, for all vCPUs: TSC_STABLE promises that their pages are the same line, not parallel ones. */
void vm_sample_clocks(struct vm *vm)
{
        vm->board.sample_tsc = clock_tsc();
        vm->board.sample_ns = clock_now_ns();
}

/* The host's TSC is taken as constant and synchronous, as is the guest's, so one filling of the page lasts until
 * the next pause. */
static void fill_system_time(struct vm *vm, struct vcpu *vcpu, u64 msr, u8 flags)
{
        struct kvmclock_time time = {
                .tsc = vm->board.sample_tsc + vcpu->state.tsc_offset,
                .system_ns = vm->board.sample_ns - vm->board.start_ns,
                .tsc_hz = clock_tsc_hz(),
                .flags = (u8)(KVMCLOCK_TSC_STABLE | flags),
        };

        if (msr & KVMCLOCK_ENABLE)
                kvmclock_system_time_update(vm->memory, msr, &time);
}

void vm_refresh_clocks(struct vm *vm)
{
        if (is_kernels_business(vm))
                return;
        vm_sample_clocks(vm);
        for (unsigned i = 0; i < vm->n_cpus; i++)
                fill_system_time(vm, &vm->cpus[i].vcpu, vm->cpus[i].vcpu.state.kvm_system_time, KVMCLOCK_GUEST_STOPPED);
}

/* ---- steal time ---- */

/* Often enough for the scheduler tick of a guest, seldom enough to cost nothing. */
#define STEAL_UPDATE_NS (NSEC_PER_SEC / 250)

/* Nanoseconds that this thread was ready to run and did not: the second number of its schedstat. 0 when the host does not tell.
 * Source: Linux Documentation/scheduler/sched-stats.rst. */
static u64 run_delay(const struct vm_cpu *cpu)
{
        char text[64];
        char *second;
        ssize_t n;

        n = cpu->schedstat_fd < 0 ? 0 : pread(cpu->schedstat_fd, text, sizeof(text) - 1, 0);
        if (n <= 0)
                return 0;
        text[n] = 0;
        (void)strtoull(text, &second, 10);
        return strtoull(second, NULL, 10);
}

void vm_cpu_thread_begin(struct vm_cpu *cpu)
{
        char path[32];

        snprintf(path, sizeof(path), "%d/schedstat", gettid());
        cpu->schedstat_fd = cpu->vm->task_fd < 0 ? -1 : openat(cpu->vm->task_fd, path, O_RDONLY | O_CLOEXEC);
        cpu->run_delay = run_delay(cpu);
}

void vm_cpu_thread_end(struct vm_cpu *cpu)
{
        if (cpu->schedstat_fd >= 0)
                close(cpu->schedstat_fd);
        cpu->schedstat_fd = -1;
}

static void add_steal(struct vm_cpu *cpu)
{
        const u64 delay = run_delay(cpu);

        if (delay > cpu->run_delay)
                steal_time_add(cpu->vm->memory, cpu->vcpu.state.kvm_steal_time, delay - cpu->run_delay);
        cpu->run_delay = delay;
}

void vm_cpu_account(struct vm_cpu *cpu)
{
        u64 now;

        if (!(cpu->vcpu.state.kvm_steal_time & STEAL_TIME_ENABLE))
                return;
        now = clock_now_ns();
        if (now - cpu->steal_updated_ns < STEAL_UPDATE_NS)
                return;
        cpu->steal_updated_ns = now;
        add_steal(cpu);
}

void vm_cpu_sleep_begin(struct vm_cpu *cpu)
{
        if (!is_kernels_business(cpu->vm))
                steal_time_set_preempted(cpu->vm->memory, cpu->vcpu.state.kvm_steal_time);
}

void vm_cpu_sleep_end(struct vm_cpu *cpu)
{
        if (!is_kernels_business(cpu->vm) && steal_time_take_preempted(cpu->vm->memory, cpu->vcpu.state.kvm_steal_time))
                __atomic_fetch_or(&cpu->vcpu.work, VCPU_WORK_FLUSH_TLB, __ATOMIC_SEQ_CST);
}

void vm_kvm_msr_written(void *opaque, struct vcpu *vcpu, u32 msr, u64 value)
{
        struct vm *vm = opaque;
        struct vm_cpu *cpu = cpu_of(vcpu);

        if (msr == MSR_KVM_WALL_CLOCK)
                kvmclock_wall_clock_update(vm->memory, value, vm->board.start_wall_ns);
        else if (msr == MSR_KVM_SYSTEM_TIME)
                fill_system_time(vm, vcpu, value, 0);
        else if (msr == MSR_KVM_STEAL_TIME)
                cpu->run_delay = run_delay(cpu); /* it counts from here */
}

/* ---- hypercalls ---- */

/* KVM's answer to what it does not know. Source: Linux, include/uapi/linux/kvm_para.h. */
#define KVM_ENOSYS 1000
#define KVM_HC_KICK_CPU 5
#define KVM_HC_SEND_IPI 10

/* args: flags, none of which is defined, and an APIC id. That CPU goes on from its HLT, the present one or the next, interrupts off or not. */
static u64 kick_cpu(struct vm *vm, const u64 args[4])
{
        if (args[1] < vm->n_cpus)
                vcpu_post_work(&vm->cpus[args[1]].vcpu, VCPU_WORK_UNHALT);
        return 0;
}

static u64 send_ipi(struct vm *vm, const u64 args[4])
{
        s64 reached;

        pthread_mutex_lock(&vm->device_lock);
        reached = lapic_pv_ipi(vm->board.lapics, args);
        pthread_mutex_unlock(&vm->device_lock);
        return (u64)reached;
}

u64 vm_hypercall(void *opaque, struct vcpu *vcpu, u64 nr, const u64 args[4])
{
        static const struct {
                u64 nr;
                u64 (*fn)(struct vm *vm, const u64 args[4]);
        } calls[] = { { KVM_HC_KICK_CPU, kick_cpu }, { KVM_HC_SEND_IPI, send_ipi } };

        for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
                if (calls[i].nr == nr)
                        return calls[i].fn(opaque, args);
        return (u64)-KVM_ENOSYS;
}

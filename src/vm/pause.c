/* Theory of operation.
 *
 * vCPU threads run guest code only while nothing forbids it: no pause is wanted, the machine is not asleep (S3)
 * and has not ended. Whoever changes one of these sets it under vm->lock and then posts VCPU_WORK_STOP to every
 * vCPU, which makes engine->run return at an instruction boundary; the thread then looks here (vm_cpu_may_run) and
 * parks. n_running counts those that have not parked yet.
 *
 * Pausing has two halves, because the thread that finds the reason (a vCPU at a breakpoint) is not one that can
 * wait for all vCPUs. Devices are quiesced after the last vCPU parked, so they see no new requests, and resume
 * before the first one goes on.
 *
 * S3: the vCPU that wrote SLP_EN is inside a device's write, so the machine only marks itself asleep; vCPU 0's
 * thread, once all others have parked and the wake-up event came, resets what a sleeping PC loses and enters the
 * firmware waking vector. */
#include <errno.h>
#include <string.h>

#include "boot.h"
#include "dev/pm.h"
#include "internal.h"

void vm_kick_all(struct vm *vm)
{
        for (unsigned i = 0; i < vm->n_cpus; i++)
                vcpu_post_work(&vm->cpus[i].vcpu, VCPU_WORK_STOP);
}

static bool must_park(const struct vm_cpu *cpu)
{
        const struct vm *vm = cpu->vm;

        return !vm->ended && (vm->pause_depth || vm->suspended || cpu->held);
}

/* On vCPU 0's thread, no locks held, all other vCPUs parked. */
static void leave_sleep(struct vm *vm)
{
        struct err *error = NULL;
        u32 vector = 0;

        guest_memory_read(vm->memory, vm->board.acpi.facs + ACPI_FACS_WAKING_VECTOR, &vector, sizeof(vector));
        if (vector == 0 || vector >= MIB) {
                err_set(&error, ERR_GUEST_CRASH, EFAULT,
                        "the guest went to sleep with an impossible waking vector 0x%x", vector);
                vm_fail(vm, MACHINE_CRASH, error);
                return;
        }
        pthread_mutex_lock(&vm->device_lock);
        board_devices_quiesce(vm);
        board_devices_reset(vm);
        board_devices_resume(vm);
        pm_wake(vm->board.pm, true);
        pthread_mutex_unlock(&vm->device_lock);
        for (unsigned i = 0; i < vm->n_cpus; i++) {
                struct vcpu *vcpu = &vm->cpus[i].vcpu;
                u64 tsc_offset = vcpu->state.tsc_offset;

                vm_cpu_power_up(vcpu);
                vcpu->state.tsc_offset = tsc_offset;
                if (i == 0) /* ACPI 5.2.10: CS = vector >> 4, IP = its low four bits */
                        boot_enter_real(&vcpu->state, (u16)(vector >> 4), (u16)(vector & 0xf));
                if (vcpu->engine->state_changed)
                        vcpu->engine->state_changed(vcpu);
        }
}

bool vm_cpu_may_run(struct vm_cpu *cpu)
{
        struct vm *vm = cpu->vm;
        bool run;

        pthread_mutex_lock(&vm->lock);
        if (must_park(cpu)) {
                vm->n_running--;
                pthread_cond_broadcast(&vm->changed);
                while (must_park(cpu)) {
                        if (cpu->vcpu.index == 0 && vm->suspended && vm->wake_requested && !vm->pause_depth &&
                                vm->n_running == 0) {
                                vm->n_running++; /* nobody takes the machine for stopped meanwhile */
                                pthread_mutex_unlock(&vm->lock);
                                leave_sleep(vm);
                                pthread_mutex_lock(&vm->lock);
                                vm->n_running--;
                                vm->suspended = false;
                                pthread_cond_broadcast(&vm->changed);
                                continue;
                        }
                        pthread_cond_wait(&vm->changed, &vm->lock);
                }
                vm->n_running++;
        }
        run = !vm->ended;
        if (!run) {
                vm->n_running--;
                pthread_cond_broadcast(&vm->changed);
        }
        pthread_mutex_unlock(&vm->lock);
        return run;
}

void vm_pause_begin(struct vm *vm)
{
        pthread_mutex_lock(&vm->lock);
        vm->pause_depth++;
        pthread_mutex_unlock(&vm->lock);
        vm_kick_all(vm);
}

void vm_pause_finish(struct vm *vm)
{
        pthread_mutex_lock(&vm->pause_lock);
        pthread_mutex_lock(&vm->lock);
        while (vm->n_running)
                pthread_cond_wait(&vm->changed, &vm->lock);
        pthread_mutex_unlock(&vm->lock);
        if (!vm->quiesced) {
                pthread_mutex_lock(&vm->device_lock);
                board_devices_quiesce(vm);
                pthread_mutex_unlock(&vm->device_lock);
                vm->quiesced = true;
        }
        pthread_mutex_unlock(&vm->pause_lock);
}

void vm_pause(struct vm *vm)
{
        vm_pause_begin(vm);
        vm_pause_finish(vm);
}

void vm_resume(struct vm *vm)
{
        pthread_mutex_lock(&vm->pause_lock);
        pthread_mutex_lock(&vm->lock);
        if (vm->pause_depth == 1 && vm->quiesced) {
                pthread_mutex_unlock(&vm->lock);
                pthread_mutex_lock(&vm->device_lock);
                board_devices_resume(vm);
                vm_refresh_clocks(vm);
                pthread_mutex_unlock(&vm->device_lock);
                vm->quiesced = false;
                pthread_mutex_lock(&vm->lock);
        }
        if (vm->pause_depth)
                vm->pause_depth--;
        pthread_cond_broadcast(&vm->changed);
        pthread_mutex_unlock(&vm->lock);
        pthread_mutex_unlock(&vm->pause_lock);
}

void vm_hold_vcpu(struct vm *vm, unsigned index, bool hold)
{
        pthread_mutex_lock(&vm->lock);
        vm->cpus[index].held = hold;
        pthread_cond_broadcast(&vm->changed);
        pthread_mutex_unlock(&vm->lock);
}

void vm_suspend(struct vm *vm)
{
        pthread_mutex_lock(&vm->lock);
        vm->suspended = true;
        vm->wake_requested = false;
        pthread_mutex_unlock(&vm->lock);
        vm_kick_all(vm);
}

void vm_wake(struct vm *vm)
{
        pthread_mutex_lock(&vm->lock);
        if (vm->suspended) {
                vm->wake_requested = true;
                pthread_cond_broadcast(&vm->changed);
        }
        pthread_mutex_unlock(&vm->lock);
}

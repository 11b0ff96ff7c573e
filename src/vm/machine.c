/* A machine's life: creation, threads, end. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "internal.h"
#include "jail.h"

/* Only what is touched costs memory. */
#define VCPU_STACK_SIZE (1 * MIB)
#define IO_STACK_SIZE   (1 * MIB)

/* Directories of our threads' statistics. */
#define TASKS "/proc/self/task"

static _Thread_local struct vcpu *current_vcpu;

struct vcpu *vm_current_vcpu(void)
{
        return current_vcpu;
}

bool vm_has_ended(struct vm *vm)
{
        return __atomic_load_n(&vm->ended, __ATOMIC_ACQUIRE);
}

/* ---- the end ---- */

static void end_machine(struct vm *vm, enum machine_stop why, unsigned code, struct err *error)
{
        bool first;

        pthread_mutex_lock(&vm->lock);
        first = !vm->ended;
        if (first) {
                vm->outcome = (struct vm_outcome){ .why = why, .code = code, .error = error };
                __atomic_store_n(&vm->ended, true, __ATOMIC_RELEASE);
                pthread_cond_broadcast(&vm->changed);
        }
        pthread_mutex_unlock(&vm->lock);
        if (!first) {
                err_free(error);
                return;
        }
        for (unsigned i = 0; i < vm->n_cpus; i++)
                __atomic_store_n(&vm->cpus[i].vcpu.machine_stopping, true, __ATOMIC_RELEASE);
        vm_kick_all(vm);
        eventfd_write(vm->done_fd, 1);
}

void vm_stop(struct vm *vm, enum machine_stop why, unsigned code)
{
        end_machine(vm, why, code, NULL);
}

void vm_fail(struct vm *vm, enum machine_stop why, struct err *error)
{
        end_machine(vm, why, 0, error);
}

int vm_done_fd(const struct vm *vm)
{
        return vm->done_fd;
}

/* ---- vCPU threads ---- */

/* Enough to find the place in the guest that did it. */
static void on_triple_fault(struct vm_cpu *cpu)
{
        const struct cpu_state *s = &cpu->vcpu.state;
        struct err *error = NULL;

        err_set(&error, ERR_GUEST_CRASH, EFAULT,
                "the guest crashed: triple fault on vCPU %u at rip=0x%llx (cs=0x%x cpl=%u rsp=0x%llx cr0=0x%llx cr2=0x%llx "
                "cr3=0x%llx cr4=0x%llx idt=0x%llx)",
                cpu->vcpu.index, (unsigned long long)s->rip, s->seg[SEG_CS].selector, s->cpl,
                (unsigned long long)s->gpr[RSP], (unsigned long long)s->paging.cr0, (unsigned long long)s->cr2,
                (unsigned long long)s->paging.cr3, (unsigned long long)s->paging.cr4, (unsigned long long)s->idtr.base);
        err_hint(&error, 0, "--trace exc shows the exceptions that led to it");
        vm_fail(cpu->vm, MACHINE_CRASH, error);
}

static void on_failed(struct vm_cpu *cpu)
{
        struct err *error = TAKE_PTR(cpu->vcpu.error);

        if (!error)
                err_set(&error, ERR_INTERNAL, EIO, "engine '%s' failed without a reason", cpu->vm->engine->name);
        err_wrap(&error, -EIO, "running vCPU %u", cpu->vcpu.index);
        vm_fail(cpu->vm, MACHINE_CRASH, error);
}

static void on_halted(struct vm_cpu *cpu)
{
        counter_inc(&cpu->vcpu.counters, COUNTER_HALTS);
        vm_cpu_sleep_begin(cpu);
        vcpu_wait_for_work(&cpu->vcpu);
        vm_cpu_sleep_end(cpu);
}

static void on_debug(struct vm_cpu *cpu)
{
        if (cpu->vm->debug_hook)
                cpu->vm->debug_hook(cpu->vm->debug_opaque, &cpu->vcpu);
}

/* What the machine does when an engine returns; NULL: look at the machine's state and run again. */
static void (*const exit_handlers[EXIT_COUNT])(struct vm_cpu *cpu) = {
        [EXIT_HALTED] = on_halted,
        [EXIT_TRIPLE_FAULT] = on_triple_fault,
        [EXIT_FAILED] = on_failed,
        [EXIT_DEBUG] = on_debug,
};

static void *vcpu_main(void *arg)
{
        struct vm_cpu *cpu = arg;
        struct vcpu *vcpu = &cpu->vcpu;

        current_vcpu = vcpu;
        vm_cpu_thread_begin(cpu);
        while (vm_cpu_may_run(cpu)) {
                enum exit_reason reason;

                reason = vcpu->engine->run(vcpu);
                exit_count(&vcpu->counters, reason);
                if (exit_handlers[reason])
                        exit_handlers[reason](cpu);
        }
        vm_cpu_thread_end(cpu);
        current_vcpu = NULL;
        return NULL;
}

static void *io_main(void *arg)
{
        struct vm *vm = arg;
        struct err *error = NULL;

        if (loop_run(vm->loop, &error) < 0)
                vm_fail(vm, MACHINE_CRASH, error);
        return NULL;
}

static int start_thread(
        pthread_t *thread, size_t stack_size, void *(*fn)(void *), void *arg, const char *name, struct err **err)
{
        pthread_attr_t attr;
        int r;

        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, stack_size);
        r = pthread_create(thread, &attr, fn, arg);
        pthread_attr_destroy(&attr);
        if (r)
                return err_sys(err, r, "starting thread '%s'", name);
        pthread_setname_np(*thread, name);
        return 0;
}

int vm_start(struct vm *vm, struct err **err)
{
        int r = vm->snapshot ? vm_restore_state(vm, err) : 0;

        if (r < 0)
                return r;
        if (vm->config.start_paused && !vm->pause_depth)
                vm_pause_begin(vm);
        r = console_start(vm->console, err);
        if (r == 0)
                r = start_thread(&vm->io_thread, IO_STACK_SIZE, io_main, vm, "io", err);
        if (r < 0)
                return r;
        vm->io_started = true;
        for (unsigned i = 0; i < vm->n_cpus; i++) {
                struct vm_cpu *cpu = &vm->cpus[i];
                char name[16];

                snprintf(name, sizeof(name), "vcpu%u", i);
                pthread_mutex_lock(&vm->lock);
                vm->n_running++;
                pthread_mutex_unlock(&vm->lock);
                r = start_thread(&cpu->thread, VCPU_STACK_SIZE, vcpu_main, cpu, name, err);
                if (r < 0) {
                        pthread_mutex_lock(&vm->lock);
                        vm->n_running--;
                        pthread_mutex_unlock(&vm->lock);
                        vm_stop(vm, MACHINE_POWER_OFF, 0);
                        return r;
                }
                cpu->started = true;
        }
        if (vm->pause_depth && !vm->config.start_paused) /* it was restored */
                vm_resume(vm);
        return 0;
}

void vm_join(struct vm *vm, struct vm_outcome *ret)
{
        pthread_mutex_lock(&vm->lock);
        while (!vm->ended)
                pthread_cond_wait(&vm->changed, &vm->lock);
        pthread_mutex_unlock(&vm->lock);
        for (unsigned i = 0; i < vm->n_cpus; i++) {
                if (vm->cpus[i].started)
                        pthread_join(vm->cpus[i].thread, NULL);
                vm->cpus[i].started = false;
        }
        if (vm->io_started) {
                loop_stop(vm->loop);
                pthread_join(vm->io_thread, NULL);
                vm->io_started = false;
        }
        if (ret)
                *ret = vm->outcome;
}

/* ---- creation ---- */

static void on_code_write(void *opaque, u64 gpa, u64 len)
{
        struct vm *vm = opaque;

        if (vm->engine && vm->engine->code_written)
                vm->engine->code_written(vm->engine_machine, gpa, len);
}

static int create_engine(struct vm *vm, struct err **err)
{
        const struct cpu_engine *engine = cpu_engine_find(vm->config.engine, err);
        int r;

        if (!engine)
                return -EINVAL;
        vm->engine_caps = engine->caps;
        if (engine->probe) {
                r = engine->probe(&vm->engine_caps, err);
                if (r < 0)
                        return r;
        }
        if (vm->config.check && !(vm->engine_caps & ENGINE_CAP_CHECK))
                return err_set(err, ERR_USAGE, EINVAL, "engine '%s' cannot be checked: translate can", engine->name);
        if (vm->config.n_cpus > 1 && !(vm->engine_caps & ENGINE_CAP_SMP))
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "engine '%s' runs one CPU only", engine->name);
        if (engine->machine_create) {
                r = engine->machine_create(vm->memory, vm->config.n_cpus, &vm->engine_machine, err);
                if (r < 0)
                        return err_wrap(err, r, "starting engine '%s'", engine->name);
        }
        jail_need(vm->config.jail, vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP ? JAIL_KVM : JAIL_TRANSLATE);
        vm->engine = engine;
        vm->memory->on_code_write = on_code_write;
        vm->memory->on_code_write_opaque = vm;
        return 0;
}

static int create_vcpus(struct vm *vm, struct err **err)
{
        for (unsigned i = 0; i < vm->config.n_cpus; i++) {
                struct vcpu *vcpu = &vm->cpus[i].vcpu;
                int r;

                vcpu->engine_machine = vm->engine_machine;
                vcpu->engine = vm->engine;
                vcpu->check = vm->config.check;
                /* Private memory cannot be shown twice. */
                vcpu->shadow = guest_memory_is_private(vm->memory) ? SHADOW_NEVER : vm->config.shadow;
                r = vm->engine->vcpu_create(vcpu, err);
                if (r < 0) {
                        vcpu->engine = NULL;
                        return err_wrap(err, r, "creating vCPU %u", i);
                }
                vm->n_cpus = i + 1;
        }
        return 0;
}

/* The vCPUs' states exist before their engines' parts, because the board puts the kernel's entry into the first one. */
/* What firmware would have left: memory is write-back by default, with the fixed ranges in force. SDM 3A, 11.11.2.1. */
#define MTRR_WRITE_BACK_ENABLED 0xc06

void vm_cpu_power_up(struct vcpu *vcpu)
{
        cpu_state_reset(&vcpu->state, vcpu->index == 0);
        vcpu->state.mtrr_def_type = MTRR_WRITE_BACK_ENABLED;
        for (size_t i = 0; i < ARRAY_SIZE(vcpu->state.mtrr_fixed); i++)
                vcpu->state.mtrr_fixed[i] = 0x0606060606060606; /* write-back */
}

static int prepare_vcpus(struct vm *vm, struct err **err)
{
        const size_t size = vm->config.n_cpus * sizeof(*vm->cpus);

        vm->cpus = aligned_alloc(_Alignof(struct vm_cpu), size);
        if (!vm->cpus)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for %u vCPUs", vm->config.n_cpus);
        memset(vm->cpus, 0, size);
        for (unsigned i = 0; i < vm->config.n_cpus; i++) {
                struct vcpu *vcpu = &vm->cpus[i].vcpu;

                vm->cpus[i].vm = vm;
                vm->cpus[i].schedstat_fd = -1;
                vcpu->index = i;
                vcpu->n_vcpus = vm->config.n_cpus;
                vcpu->memory = vm->memory;
                vcpu->ports = &vm->ports;
                vcpu->platform = &vm_platform_ops;
                vcpu->platform_opaque = vm;
                vm_cpu_power_up(vcpu);
                /* The guest's time stamp counter starts at 0 for all of them at the same moment. */
                vcpu->state.tsc_offset = i ? vm->cpus[0].vcpu.state.tsc_offset : -clock_tsc();
        }
        return 0;
}

static void init_locks(struct vm *vm)
{
        pthread_mutex_init(&vm->pause_lock, NULL);
        pthread_mutex_init(&vm->device_lock, NULL);
        pthread_mutex_init(&vm->lock, NULL);
        pthread_cond_init(&vm->changed, NULL);
}

static int create(struct vm *vm, struct err **err)
{
        int r;

        vm->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (vm->done_fd < 0)
                return err_sys(err, errno, "creating an eventfd");
        vm->task_fd = open(TASKS, O_PATH | O_DIRECTORY | O_CLOEXEC);
        jail_keep_directory(vm->config.jail, vm->task_fd, TASKS, JAIL_READ);
        vm->loop = loop_new(&vm->device_lock, err);
        if (!vm->loop)
                return -ENOMEM;
        r = vm->config.restore ? vm_restore_open(vm, err) : 0;
        if (r < 0)
                return r;
        r = vm->snapshot ? vm_restore_memory(vm, err) :
                           guest_memory_new(vm->config.memory, &vm->device_lock, &vm->device_counters, &vm->memory, err);
        if (r < 0)
                return r;
        io_space_init(&vm->ports, &vm->device_lock, &vm->device_counters, true);
        r = create_engine(vm, err);
        if (r < 0)
                return r;
        r = prepare_vcpus(vm, err);
        if (r < 0)
                return r;
        r = board_assemble(vm, err);
        if (r < 0)
                return r;
        r = create_vcpus(vm, err);
        if (r == 0 && vm->snapshot)
                r = vm_restore_code(vm, err); /* here still: behind the jail's door nothing becomes executable */
        if (r < 0)
                return r;
        if (vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP) { /* what the board set up in our models */
                r = vm_irqchip_from_models(vm, err);
                if (r < 0)
                        return r;
        }
        board_connect_interrupts(vm);
        return 0;
}

int vm_new(const struct vm_config *config, struct vm **ret, struct err **err)
{
        _cleanup_(vm_freep) struct vm *vm = calloc(1, sizeof(*vm));
        int r;

        if (!vm)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a machine");
        vm->config = *config;
        vm->done_fd = vm->task_fd = -1;
        vm->devices_tail = &vm->devices;
        init_locks(vm);
        r = create(vm, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(vm);
        return 0;
}

struct vm *vm_free(struct vm *vm)
{
        if (!vm)
                return NULL;
        vm_stop(vm, MACHINE_POWER_OFF, 0);
        vm_join(vm, NULL);
        board_destroy(vm);
        for (unsigned i = 0; i < vm->n_cpus; i++)
                vm->engine->vcpu_destroy(&vm->cpus[i].vcpu);
        if (vm->engine && vm->engine->machine_destroy)
                vm->engine->machine_destroy(vm->engine_machine);
        for (unsigned i = 0; vm->cpus && i < vm->config.n_cpus; i++)
                err_free(vm->cpus[i].vcpu.error);
        free(vm->cpus);
        loop_free(vm->loop);
        if (vm->memory)
                io_space_free(&vm->ports);
        vm_chain_free(vm);
        snapshot_close(vm->snapshot);
        free(vm->prefault);
        guest_memory_free(vm->memory);
        console_free(vm->console);
        err_free((struct err *)vm->outcome.error);
        if (vm->done_fd >= 0)
                close(vm->done_fd);
        if (vm->task_fd >= 0)
                close(vm->task_fd);
        pthread_cond_destroy(&vm->changed);
        pthread_mutex_destroy(&vm->lock);
        pthread_mutex_destroy(&vm->device_lock);
        pthread_mutex_destroy(&vm->pause_lock);
        free(vm);
        return NULL;
}

/* ---- looking at it ---- */

unsigned vm_n_vcpus(const struct vm *vm)
{
        return vm->n_cpus;
}

struct vcpu *vm_vcpu(struct vm *vm, unsigned index)
{
        return index < vm->n_cpus ? &vm->cpus[index].vcpu : NULL;
}

struct guest_memory *vm_memory(struct vm *vm)
{
        return vm->memory;
}

struct console *vm_console(struct vm *vm)
{
        return vm->console;
}

struct agent *vm_agent(struct vm *vm)
{
        return vm->board.agent;
}

static void send_break(void *opaque)
{
        struct vm *vm = opaque;

        uart_receive_break(vm->board.uart);
}

void vm_console_break(struct vm *vm)
{
        if (!vm->config.console_virtio)
                loop_post(vm->loop, send_break, vm);
}

void vm_flush_console(struct vm *vm)
{
        console_flush(vm->console);
}

void vm_set_debug_hook(struct vm *vm, void (*hook)(void *opaque, struct vcpu *vcpu), void *opaque)
{
        vm->debug_hook = hook;
        vm->debug_opaque = opaque;
}

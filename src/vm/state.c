/* The machine's state as sections, and moving it between engines. RAM travels apart.
 *
 * Sections: "machine" (what must fit), "cpu" for each vCPU, one for each device as "<name>.<instance>". */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cpu/kvm/kvm.h"
#include "internal.h"

#define MACHINE_VERSION 1

static bool has_kernel_irqchip(const struct vm *vm)
{
        return vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP;
}

static void device_section_name(const struct device *dev, char name[STATE_NAME_MAX])
{
        snprintf(name, STATE_NAME_MAX, "%.*s.%u", STATE_NAME_MAX - 8, dev->ops->name, dev->instance % 1000);
}

static void save_all(struct vm *vm, struct state_out *out)
{
        char name[STATE_NAME_MAX];

        state_out_section_begin(out, "machine", MACHINE_VERSION);
        state_put_u64(out, vm->memory->ram_size);
        state_put_u32(out, vm->n_cpus);
        state_put_u64(out, clock_now_ns() - vm->board.start_ns);
        state_put_u64(out, vm->board.start_wall_ns);
        state_put_u64(out, clock_tsc()); /* tsc_offset of each vCPU is relative to this host's */
        state_out_section_end(out);
        for (unsigned i = 0; i < vm->n_cpus; i++) {
                struct vcpu *vcpu = &vm->cpus[i].vcpu;

                /* A kick that it has not looked at is part of its state: the guest does not send it again. */
                if (__atomic_load_n(&vcpu->work, __ATOMIC_ACQUIRE) & VCPU_WORK_UNHALT)
                        vcpu->state.unhalted = true;
                state_out_section_begin(out, "cpu", CPU_STATE_VERSION);
                cpu_state_save(&vcpu->state, out);
                state_out_section_end(out);
        }
        for (struct device *d = vm->devices; d; d = d->next) {
                if (!d->ops->save)
                        continue;
                device_section_name(d, name);
                state_out_section_begin(out, name, d->ops->version);
                d->ops->save(d, out);
                state_out_section_end(out);
        }
}

int vm_save(struct vm *vm, struct state_out *out, struct err **err)
{
        int r;

        if (!vm->quiesced)
                return err_set(err, ERR_INTERNAL, EBUSY, "the machine must be paused to be saved");
        pthread_mutex_lock(&vm->device_lock);
        r = has_kernel_irqchip(vm) ? vm_irqchip_to_models(vm, err) : 0;
        if (r == 0)
                save_all(vm, out);
        pthread_mutex_unlock(&vm->device_lock);
        return r < 0 ? r : state_out_finish(out, err);
}

struct loading {
        unsigned cpus;
        u64 devices; /* bit n: the n-th device that saves itself was loaded */
        bool machine;
        u64 tsc; /* of the host that saved */
};

static int load_machine(struct vm *vm, struct state_in *in, u32 version, struct loading *seen, struct err **err)
{
        u64 ram_size = state_get_u64(in);
        u32 n_cpus = state_get_u32(in);
        u64 age_ns = state_get_u64(in), start_wall_ns = state_get_u64(in);

        seen->tsc = state_get_u64(in);
        if (version != MACHINE_VERSION || state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine is of another version or damaged");
        if (ram_size != vm->memory->ram_size || n_cpus != vm->n_cpus)
                return err_set(err, ERR_BAD_STATE, EINVAL,
                        "the saved machine has %u CPUs and %llu MiB, this one %u and %llu", n_cpus,
                        (unsigned long long)(ram_size / MIB), vm->n_cpus,
                        (unsigned long long)(vm->memory->ram_size / MIB));
        vm->board.start_ns = clock_now_ns() - age_ns;
        vm->board.start_wall_ns = start_wall_ns;
        seen->machine = true;
        return 0;
}

/* The guest's TSC goes on from where it was saved, whatever this host's says. */
static int load_cpu(struct vm *vm, struct state_in *in, u32 version, struct loading *seen, struct err **err)
{
        struct cpu_state *state;
        int r;

        if (!seen->machine || seen->cpus >= vm->n_cpus)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine has a CPU too many");
        state = &vm->cpus[seen->cpus].vcpu.state;
        r = cpu_state_load(state, in, version, err);
        if (r < 0)
                return err_wrap(err, r, "loading vCPU %u", seen->cpus);
        state->tsc_offset += seen->tsc - clock_tsc();
        seen->cpus++;
        return 0;
}

static int load_device(
        struct vm *vm, const char *name, struct state_in *in, u32 version, struct loading *seen, struct err **err)
{
        char own[STATE_NAME_MAX];
        unsigned n = 0;

        for (struct device *d = vm->devices; d; d = d->next) {
                int r;

                if (!d->ops->save)
                        continue;
                device_section_name(d, own);
                if (strcmp(own, name) != 0) {
                        n++;
                        continue;
                }
                if (n >= 64 || (seen->devices & BIT(n)))
                        return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine has device '%s' twice", name);
                r = d->ops->load(d, in, version, err);
                if (r < 0)
                        return err_wrap(err, r, "loading device '%s'", name);
                seen->devices |= BIT(n);
                return 0;
        }
        return err_set(err, ERR_BAD_STATE, ENODEV, "the saved machine has a device '%s' that this one lacks", name);
}

static int check_complete(const struct vm *vm, const struct loading *seen, struct err **err)
{
        char name[STATE_NAME_MAX];
        unsigned n = 0;

        if (!seen->machine || seen->cpus != vm->n_cpus)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine is incomplete: %u of %u CPUs", seen->cpus,
                        vm->n_cpus);
        for (const struct device *d = vm->devices; d; d = d->next) {
                if (!d->ops->save)
                        continue;
                if (n < 64 && !(seen->devices & BIT(n))) {
                        device_section_name(d, name);
                        return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine lacks device '%s'", name);
                }
                n++;
        }
        return 0;
}

static int load_all(struct vm *vm, struct state_in *in, struct err **err)
{
        struct loading seen = { 0 };
        char name[STATE_NAME_MAX];
        u32 version;
        int r;

        while ((r = state_in_section_next(in, name, &version, err)) > 0) {
                if (strcmp(name, "machine") == 0)
                        r = load_machine(vm, in, version, &seen, err);
                else if (strcmp(name, "cpu") == 0)
                        r = load_cpu(vm, in, version, &seen, err);
                else
                        r = load_device(vm, name, in, version, &seen, err);
                if (r < 0)
                        return r;
        }
        return r < 0 ? r : check_complete(vm, &seen, err);
}

void vm_tell_engines(struct vm *vm)
{
        for (unsigned i = 0; i < vm->n_cpus; i++)
                if (vm->engine->state_changed)
                        vm->engine->state_changed(&vm->cpus[i].vcpu);
}

int vm_load(struct vm *vm, const void *data, size_t len, struct err **err)
{
        struct state_in in;
        int r;

        if (!vm->quiesced)
                return err_set(err, ERR_INTERNAL, EBUSY, "the machine must be paused to be loaded");
        state_in_init(&in, data, len);
        pthread_mutex_lock(&vm->device_lock);
        r = load_all(vm, &in, err);
        if (r == 0) {
                vm_tell_engines(vm);
                if (has_kernel_irqchip(vm))
                        r = vm_irqchip_from_models(vm, err);
        }
        if (r == 0 && has_kernel_irqchip(vm))
                r = kvm_clock_set(vm->engine_machine, clock_now_ns() - vm->board.start_ns, err);
        if (r == 0)
                board_connect_interrupts(vm);
        pthread_mutex_unlock(&vm->device_lock);
        return r;
}

/* ---- another engine ---- */

static void undo_switch(struct vm *vm, unsigned n, const struct cpu_engine *old, void *old_machine)
{
        for (unsigned i = 0; i < n; i++)
                if (vcpu_set_engine(&vm->cpus[i].vcpu, old, old_machine, NULL) < 0)
                        vm_stop(vm, MACHINE_CRASH, 0); /* cannot go on at all */
}

static int switch_engine(struct vm *vm, const struct cpu_engine *engine, unsigned caps, void *machine, struct err **err)
{
        const struct cpu_engine *old = vm->engine;
        void *old_machine = vm->engine_machine;
        const unsigned old_caps = vm->engine_caps;
        int r = vm_dirty_sync(vm, err);

        if (r == 0 && has_kernel_irqchip(vm))
                r = vm_irqchip_to_models(vm, err);
        for (unsigned i = 0; i < vm->n_cpus && r == 0; i++) {
                r = vcpu_set_engine(&vm->cpus[i].vcpu, engine, machine, err);
                if (r < 0)
                        undo_switch(vm, i, old, old_machine);
        }
        if (r < 0)
                return r;
        vm->engine = engine;
        vm->engine_machine = machine;
        vm->engine_caps = caps;
        if (has_kernel_irqchip(vm)) {
                r = vm_irqchip_from_models(vm, err);
                if (r == 0)
                        r = kvm_clock_set(machine, clock_now_ns() - vm->board.start_ns, err);
                if (r == 0)
                        r = vm_dirty_start_engine(vm, err);
        }
        if (r < 0) {
                vm->engine = old;
                vm->engine_machine = old_machine;
                vm->engine_caps = old_caps;
                undo_switch(vm, vm->n_cpus, old, old_machine);
                return r;
        }
        board_connect_interrupts(vm);
        if (old->machine_destroy)
                old->machine_destroy(old_machine);
        return 0;
}

int vm_set_engine(struct vm *vm, const char *name, struct err **err)
{
        const struct cpu_engine *engine = cpu_engine_find(name, err);
        unsigned caps;
        void *machine = NULL;
        int r;

        if (!engine)
                return -EINVAL;
        if (engine == vm->engine)
                return 0;
        if (!vm->quiesced)
                return err_set(err, ERR_INTERNAL, EBUSY, "the machine must be paused to change engines");
        caps = engine->caps;
        r = engine->probe ? engine->probe(&caps, err) : 0;
        if (r < 0)
                return r;
        if (vm->n_cpus > 1 && !(caps & ENGINE_CAP_SMP))
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "engine '%s' runs one CPU only", name);
        r = engine->machine_create ? engine->machine_create(vm->memory, vm->n_cpus, &machine, err) : 0;
        if (r < 0)
                return err_wrap(err, r, "starting engine '%s'", name);
        pthread_mutex_lock(&vm->device_lock);
        r = switch_engine(vm, engine, caps, machine, err);
        pthread_mutex_unlock(&vm->device_lock);
        if (r < 0 && engine->machine_destroy)
                engine->machine_destroy(machine);
        return r;
}

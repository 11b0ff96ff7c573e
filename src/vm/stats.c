/* What --stats and SIGQUIT print. */
#include <stdlib.h>

#include "base/cleanup.h"
#include "internal.h"

void vm_print_stats(struct vm *vm, FILE *out)
{
        _cleanup_free_ const struct counters **sets = calloc(vm->n_cpus + 1, sizeof(*sets));
        _cleanup_free_ const char **names = calloc(vm->n_cpus + 1, sizeof(*names));
        _cleanup_free_ char(*texts)[16] = calloc(vm->n_cpus + 1, sizeof(*texts));

        if (!sets || !names || !texts)
                return;
        for (unsigned i = 0; i < vm->n_cpus; i++) {
                snprintf(texts[i], sizeof(texts[i]), "vcpu%u", i);
                sets[i] = &vm->cpus[i].vcpu.counters;
                names[i] = texts[i];
        }
        sets[vm->n_cpus] = &vm->device_counters;
        names[vm->n_cpus] = "devices";
        fprintf(out, "engine %s\n", vm->engine->name);
        counters_print(out, sets, names, vm->n_cpus + 1);
        fflush(out);
}

void vm_print_vcpus(struct vm *vm, FILE *out)
{
        vm_pause(vm);
        for (unsigned i = 0; i < vm->n_cpus; i++) {
                fprintf(out, "vCPU %u:\n", i);
                cpu_state_print(&vm->cpus[i].vcpu.state, out);
        }
        fflush(out);
        vm_resume(vm);
}

/* The engine's face. A vCPU of the translator is the interpreter's with in->translate set, and the machine part the interpreter's with a translator. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../interp/host.h"
#include "check.h"
#include "library.h"
#include "runtime.h"

static int translate_probe(unsigned *ret_caps, struct err **err)
{
        int r;

        __builtin_cpu_init();
        if (!__builtin_cpu_supports("bmi2")) {
                r = err_set(err, ERR_UNSUPPORTED, ENOTSUP, "the translator needs a host CPU with BMI2");
                return err_hint(err, r, "--engine interp runs on every host");
        }
        *ret_caps |= ENGINE_CAP_FAST;
        return 0;
}

static int translate_machine_create(struct guest_memory *memory, unsigned n_vcpus, void **ret_machine, struct err **err)
{
        struct interp_machine *m;
        void *machine;
        int r;

        r = interp_machine_create(memory, n_vcpus, &machine, err);
        if (r < 0)
                return r;
        m = machine;
        r = translator_new(m, n_vcpus, MAX(memory->ram_size, SEGMENTS_PLENTY * SEGMENT_SIZE), true, &m->translator, err);
        if (r < 0) {
                interp_machine_destroy(m);
                return r;
        }
        signals_init();
        *ret_machine = m;
        return 0;
}

static void translate_machine_destroy(void *machine)
{
        struct interp_machine *m = machine;
        struct translator *tr = m ? m->translator : NULL;

        interp_machine_destroy(m);
        translator_free(tr);
}

static void cpu_part_free(struct translate_cpu *t)
{
        if (t) {
                check_free(t->check);
                free(t->stack);
                free(t);
        }
}

static int translate_vcpu_create(struct vcpu *vcpu, struct err **err)
{
        struct translate_cpu *t = calloc(1, sizeof(*t));
        struct interp *in;
        int r;

        if (t)
                t->stack = malloc(signals_stack_size());
        if (!t || !t->stack) {
                cpu_part_free(t);
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a vCPU");
        }
        r = interp_vcpu_create(vcpu, err);
        if (r < 0) {
                cpu_part_free(t);
                return r;
        }
        in = interp_of(vcpu);
        t->translator = in->machine->translator;
        t->fsgsbase = translate_host_fsgsbase();
        in->tlb.kernel_exec_flushed = translate_exec_flushed;
        in->tlb.opaque = in;
        if (vcpu->index == 0)
                for (unsigned ext = 0; ext <= ZYDIS_ISA_EXT_MAX_VALUE; ext++)
                        t->translator->has_extension[ext] = host_model_has(vcpu, ext);
        in->translate = t;
        if (vcpu->check)
                r = check_new(in, &t->check, err);
        t->no_chains = t->check;
        shadowing_new(in);
        if (r < 0) {
                shadowing_free(in);
                interp_vcpu_destroy(vcpu);
                cpu_part_free(t);
        }
        return r;
}

static void translate_vcpu_destroy(struct vcpu *vcpu)
{
        struct interp *in = interp_of(vcpu);
        struct translate_cpu *t = in ? in->translate : NULL;

        if (t)
                shadowing_free(in);
        interp_vcpu_destroy(vcpu);
        cpu_part_free(t);
}

static enum exit_reason translate_run(struct vcpu *vcpu)
{
        const u64 began = __builtin_ia32_rdtsc();
        struct interp *in = interp_of(vcpu);
        struct check_turns *turns = in->translate->check ? &in->translate->translator->turns : NULL;
        enum exit_reason reason;

        signals_thread_enter(in);
        if (turns)
                check_turn_take(turns);
        reason = interp_run(vcpu);
        if (turns)
                check_turn_give(turns);
        signals_thread_leave(in);
        counter_add(&vcpu->counters, COUNTER_RUN_CYCLES, __builtin_ia32_rdtsc() - began);
        return reason;
}

static struct translator *translator_of(void *machine)
{
        return ((struct interp_machine *)machine)->translator;
}

static int translate_code_save(void *machine, int fd, u64 id, struct err **err)
{
        return library_save(translator_of(machine), fd, id, err);
}

static int translate_code_load(void *machine, int fd, u64 id, struct err **err)
{
        struct interp *first = ((struct interp_machine *)machine)->members;
        u64 n = 0;
        int r = first->translate->check ? 0 : library_load(translator_of(machine), fd, id, &n, err);

        counter_add(&first->vcpu->counters, COUNTER_BLOCKS_LOADED, n);
        return r;
}

static void translate_state_changed(struct vcpu *vcpu)
{
        struct interp *in = interp_of(vcpu);

        interp_state_changed(vcpu);
        in->translate->interp_next = false;
        in->translate->pending = NULL;
        tlb_jumps_clear(&in->tlb);
}

const struct cpu_engine translate_engine = {
        .name = "translate",
        .description = "binary translation of 64-bit code, the interpreter for the rest",
        .caps = ENGINE_CAP_ALL_MODES | ENGINE_CAP_SMP | ENGINE_CAP_DEBUG | ENGINE_CAP_CHECK,
        .probe = translate_probe,
        .machine_create = translate_machine_create,
        .machine_destroy = translate_machine_destroy,
        .vcpu_create = translate_vcpu_create,
        .vcpu_destroy = translate_vcpu_destroy,
        .run = translate_run,
        .kick = translate_kick,
        .state_changed = translate_state_changed,
        .code_written = interp_code_written,
        .code_save = translate_code_save,
        .code_load = translate_code_load,
};

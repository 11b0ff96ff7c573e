/* Life of a vCPU under KVM, and how other threads get its attention. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "internal.h"

void kvm_vcpu_free(struct kvm_vcpu *kv)
{
        if (!kv)
                return;
        if (kv->run)
                munmap(kv->run, kv->machine->run_size);
        closep(&kv->fd);
        free(kv);
}

static void vcpu_freep(struct kvm_vcpu **kv)
{
        kvm_vcpu_free(*kv);
}

/* The kernel's part of vCPU @vcpu->index, made when it is first needed. */
static int first_create(struct kvm_machine *m, struct vcpu *vcpu, struct kvm_vcpu **ret, struct err **err)
{
        _cleanup_(vcpu_freep) struct kvm_vcpu *kv = NULL;
        int r;

        kv = calloc(1, sizeof(*kv));
        if (!kv)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a vCPU");
        kv->machine = m;
        kv->fd = kvm_ioctl(m->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)vcpu->index);
        if (kv->fd < 0)
                return err_sys(err, -kv->fd, "KVM cannot create vCPU %u", vcpu->index);
        kv->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, kv->fd, 0);
        if (kv->run == MAP_FAILED) {
                kv->run = NULL;
                return err_sys(err, errno, "mapping the shared area of vCPU %u", vcpu->index);
        }
        r = kvm_set_cpuid(vcpu, kv, err);
        if (r < 0)
                return r;
        kvm_msrs_probe(kv);
        *ret = TAKE_PTR(kv);
        return 0;
}

int kvm_vcpu_create(struct vcpu *vcpu, struct err **err)
{
        struct kvm_machine *m = vcpu->engine_machine;
        struct kvm_vcpu *kv;
        int r;

        if (vcpu->index >= m->n_vcpus)
                return err_set(err, ERR_INTERNAL, EINVAL, "vCPU %u in a machine of %u", vcpu->index, m->n_vcpus);
        r = kvm_check_state(m, &vcpu->state, err);
        if (r < 0)
                return r;
        kv = m->vcpus[vcpu->index];
        if (!kv) {
                r = first_create(m, vcpu, &kv, err);
                if (r < 0)
                        return r;
                m->vcpus[vcpu->index] = kv;
                if (vcpu->index == 0) {
                        r = kvm_set_msr_filter(m, err);
                        if (r < 0)
                                return r;
                }
        }
        kv->load_needed = true;
        kv->io_pending = false;
        vcpu->engine_data = kv;
        return 0;
}

/* The kernel's part stays with the machine for a later return. */
void kvm_vcpu_destroy(struct vcpu *vcpu)
{
        vcpu->engine_data = NULL;
}

void kvm_state_changed(struct vcpu *vcpu)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);

        if (kv)
                kv->load_needed = true;
}

/* ---- kicks ----
 *
 * Other threads set work bits and then kick. A kick sets immediate_exit and sends a signal whose handler does nothing.
 * run() clears immediate_exit and then looks at the work bits before each KVM_RUN. So either it sees the bits, or the
 * kick came later: then immediate_exit is set when KVM_RUN starts, or the signal interrupts it. */

static void ignore_signal(int number)
{
}

int kvm_kick_signal_init(struct err **err)
{
        struct sigaction action = { .sa_handler = ignore_signal, .sa_flags = SA_RESTART };

        if (sigaction(KVM_KICK_SIGNAL, &action, NULL) < 0)
                return err_sys(err, errno, "installing the handler of the signal that stops vCPUs");
        return 0;
}

void kvm_kick(struct vcpu *vcpu)
{
        struct kvm_vcpu *kv = __atomic_load_n((struct kvm_vcpu **)&vcpu->engine_data, __ATOMIC_ACQUIRE);
        int tid;

        if (!kv)
                return;
        __atomic_store_n(&kv->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        tid = __atomic_load_n(&kv->tid, __ATOMIC_SEQ_CST);
        if (tid && tid != gettid())
                syscall(SYS_tgkill, getpid(), tid, KVM_KICK_SIGNAL);
}

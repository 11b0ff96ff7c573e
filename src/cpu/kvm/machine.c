/* The part of the KVM engine that all vCPUs share: the VM, its memory slots and interrupt chips. And the ops table. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "internal.h"

const struct cpu_engine kvm_engine = {
        .name = "kvm",
        .description = "hardware virtualization through /dev/kvm",
        .caps = ENGINE_CAP_ALL_MODES | ENGINE_CAP_KERNEL_IRQCHIP | ENGINE_CAP_SMP | ENGINE_CAP_DEBUG,
        .probe = kvm_probe,
        .machine_create = kvm_machine_create,
        .machine_destroy = kvm_machine_destroy,
        .vcpu_create = kvm_vcpu_create,
        .vcpu_destroy = kvm_vcpu_destroy,
        .run = kvm_run,
        .kick = kvm_kick,
        .state_changed = kvm_state_changed,
        .code_written = NULL,
};

/* Pages that KVM on old Intel processors needs for real mode, in the hole below 4 GiB where the board has nothing. */
#define KVM_IDENTITY_MAP 0xfffbc000ULL
#define KVM_TSS 0xfffbd000UL

static int enable_cap(int vm_fd, u32 cap, u64 arg)
{
        struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

        return kvm_ioctl(vm_fd, KVM_ENABLE_CAP, &enable);
}

static int create_vm(struct kvm_machine *m, struct err **err)
{
        u64 identity_map = KVM_IDENTITY_MAP;
        int r;

        r = kvm_ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MAX_VCPUS);
        if (r > 0 && m->n_vcpus > (unsigned)r)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "the host's KVM allows %d vCPUs and not %u", r,
                               m->n_vcpus);
        m->vm_fd = kvm_ioctl(m->kvm_fd, KVM_CREATE_VM, NULL);
        if (m->vm_fd < 0)
                return err_sys(err, -m->vm_fd, "KVM cannot create a virtual machine");
        r = kvm_ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
        if (r < (int)sizeof(struct kvm_run))
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "KVM shares too little memory for a vCPU (%d)", r);
        m->run_size = (size_t)r;
        r = kvm_ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
        if (r >= 0)
                r = kvm_ioctl(m->vm_fd, KVM_SET_TSS_ADDR, (void *)KVM_TSS);
        if (r < 0)
                return err_sys(err, -r, "KVM refuses the place of its real-mode pages");
        return 0;
}

static int create_irqchip(struct kvm_machine *m, struct err **err)
{
        int r;

        r = kvm_ioctl(m->vm_fd, KVM_CREATE_IRQCHIP, NULL);
        if (r < 0)
                return err_sys(err, -r, "KVM cannot create interrupt controllers");
        /* 32-bit APIC ids in MSIs and saved LAPICs. Without it machines of up to 255 vCPUs still work. */
        enable_cap(m->vm_fd, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
        return kvm_routing_init(m, err);
}

static struct kvm_machine *machine_free(struct kvm_machine *m)
{
        if (!m)
                return NULL;
        for (unsigned i = 0; m->vcpus && i < m->n_vcpus; i++)
                kvm_vcpu_free(m->vcpus[i]);
        closep(&m->vm_fd);
        closep(&m->kvm_fd);
        free(m->vcpus);
        free(m->routes);
        free(m->msi_routes_used);
        pthread_mutex_destroy(&m->lock);
        free(m);
        return NULL;
}

static void machine_freep(struct kvm_machine **m)
{
        machine_free(*m);
}

int kvm_machine_create(struct guest_memory *memory, unsigned n_vcpus, void **ret_machine, struct err **err)
{
        _cleanup_(machine_freep) struct kvm_machine *m = NULL;
        int r;

        r = kvm_kick_signal_init(err);
        if (r < 0)
                return r;
        m = calloc(1, sizeof(*m));
        if (!m)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a KVM machine");
        pthread_mutex_init(&m->lock, NULL);
        m->kvm_fd = m->vm_fd = -1;
        m->memory = memory;
        m->n_vcpus = n_vcpus;
        m->vcpus = calloc(n_vcpus, sizeof(struct kvm_vcpu *));
        if (!m->vcpus)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for %u vCPUs", n_vcpus);
        m->kvm_fd = kvm_open(err);
        if (m->kvm_fd < 0)
                return m->kvm_fd;
        r = create_vm(m, err);
        if (r >= 0)
                r = create_irqchip(m, err);
        if (r >= 0)
                r = kvm_host_query(m->kvm_fd, m->vm_fd, &m->host, err);
        if (r >= 0)
                r = kvm_slots_set(m, false, err);
        if (r >= 0 && enable_cap(m->vm_fd, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER) >= 0)
                m->host.msr_exits = true;
        if (r < 0)
                return r;
        *ret_machine = TAKE_PTR(m);
        return 0;
}

void kvm_machine_destroy(void *machine)
{
        machine_free(machine);
}

int kvm_clock_get(void *machine, u64 *ret_ns, struct err **err)
{
        struct kvm_machine *m = machine;
        struct kvm_clock_data clock = { 0 };
        int r = kvm_ioctl(m->vm_fd, KVM_GET_CLOCK, &clock);

        if (r < 0)
                return err_sys(err, -r, "reading KVM's clock");
        *ret_ns = clock.clock;
        return 0;
}

int kvm_clock_set(void *machine, u64 ns, struct err **err)
{
        struct kvm_machine *m = machine;
        struct kvm_clock_data clock = { .clock = ns };
        int r = kvm_ioctl(m->vm_fd, KVM_SET_CLOCK, &clock);

        return r < 0 ? err_sys(err, -r, "setting KVM's clock") : 0;
}

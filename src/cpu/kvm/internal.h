/* The KVM engine's inside. Reading order: this file, machine.c, vcpu.c, run.c, state.c; the others when needed.
 *
 * A kvm_vcpu belongs to the machine and stays there while its vCPU runs under another engine: the kernel neither lets
 * go of a vCPU before the machine ends nor makes a second one of the same number. */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>

#include "cpu/cpu.h"
#include "cpu/cpuid_model.h"
#include "kvm.h"

#define KVM_MSRS_MAX 96

/* What KVM on this host can do, asked once a machine. */
struct kvm_host {
        u64 features[CPUID_FEATURE_WORDS]; /* of the model, those that KVM can give to a guest */
        u64 xcr0;
        u64 arch_capabilities;
        unsigned physical_bits;
        bool tsc_offset_attr;              /* KVM_VCPU_TSC_OFFSET exists */
        bool msr_exits;                    /* MSRs can be answered by us */
};

/* A software breakpoint in guest memory, shared by the vCPUs that asked for it. */
struct kvm_soft_break {
        u64 gpa;
        unsigned users;
        u8 original;
};

struct kvm_machine {
        int kvm_fd, vm_fd;
        size_t run_size; /* of the area shared with the kernel, for each vCPU */
        struct guest_memory *memory;
        unsigned n_vcpus;
        struct kvm_vcpu **vcpus; /* [n_vcpus], NULL until first used */
        struct kvm_host host;

        pthread_mutex_t lock; /* guards all below; a leaf: nothing else is locked while it is held */
        struct kvm_irq_routing_entry *routes;
        size_t n_routes, cap_routes;
        u64 *msi_routes_used; /* bitmap of GSIs from KVM_FIRST_MSI_GSI on */
        size_t max_msi_routes;
        struct kvm_soft_break soft_breaks[DEBUG_POINTS_MAX];
};

/* GSIs of this number and above are MSIs of irqfds. */
#define KVM_FIRST_MSI_GSI 24

struct kvm_vcpu {
        struct kvm_machine *machine;
        int fd;
        struct kvm_run *run;
        int tid;          /* atomic: the thread inside run(), 0 when none; pairs with kick */
        bool load_needed; /* cpu_state is newer than the kernel's state */
        bool io_pending;  /* the last exit's instruction is completed by the next KVM_RUN */
        bool debugging;   /* guest debugging is switched on in the kernel */
        u32 msrs[KVM_MSRS_MAX]; /* stored MSRs of the model that KVM has, exchanged with the state */
        size_t n_msrs;

        struct kvm_guest_debug guest_debug; /* as last given to the kernel */
        int hw_point[4];                    /* which debug point each debug register serves, -1 none */
        u64 soft_gpas[DEBUG_POINTS_MAX];    /* our INT3s in guest memory */
        size_t n_soft_gpas;
};

static inline struct kvm_vcpu *kvm_vcpu_of(const struct vcpu *vcpu)
{
        return vcpu->engine_data;
}

/* ioctl that is repeated when a signal came in between. Returns -errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

/* probe.c */
int kvm_open(struct err **err);
int kvm_probe(unsigned *ret_caps, struct err **err);

/* machine.c */
int kvm_machine_create(struct guest_memory *memory, unsigned n_vcpus, void **ret_machine, struct err **err);
void kvm_machine_destroy(void *machine);

/* model.c: the CPU model as far as KVM has it */
int kvm_host_query(int kvm_fd, int vm_fd, struct kvm_host *ret, struct err **err);
/* Gives the vCPU its CPUID. Once, before it runs. */
int kvm_set_cpuid(struct vcpu *vcpu, struct kvm_vcpu *kv, struct err **err);
/* Lets the kernel handle the MSRs that it and the model both have; all others come to us as exits. */
int kvm_set_msr_filter(struct kvm_machine *machine, struct err **err);
/* Can KVM run a guest in this state? */
int kvm_check_state(const struct kvm_machine *machine, const struct cpu_state *state, struct err **err);

/* vcpu.c */
int kvm_vcpu_create(struct vcpu *vcpu, struct err **err);
void kvm_vcpu_destroy(struct vcpu *vcpu);
void kvm_vcpu_free(struct kvm_vcpu *kv);
void kvm_kick(struct vcpu *vcpu);
void kvm_state_changed(struct vcpu *vcpu);
int kvm_kick_signal_init(struct err **err);

/* run.c */
enum exit_reason kvm_run(struct vcpu *vcpu);

/* state.c: between cpu_state and the kernel's registers */
int kvm_state_load(struct vcpu *vcpu, struct err **err);
int kvm_state_store(struct vcpu *vcpu, struct err **err);

/* state_msrs.c */
/* KVM_GET_MSRS or KVM_SET_MSRS (@request) of one MSR, of a vCPU or (KVM's own features) of /dev/kvm. 0 or -errno. */
int kvm_msr_exchange(int fd, unsigned long request, u32 msr, u64 *value);
void kvm_msrs_probe(struct kvm_vcpu *kv);
int kvm_msrs_load(struct vcpu *vcpu, struct err **err);
int kvm_msrs_store(struct vcpu *vcpu, struct err **err);

/* irqchip.c */
int kvm_routing_init(struct kvm_machine *machine, struct err **err);
/* Takes back the acknowledgement of an interrupt that was taken from the LAPIC or PIC but did not reach the guest. */
int kvm_unacknowledge(struct vcpu *vcpu, u8 vector, struct err **err);

/* debug.c */
int kvm_debug_enter(struct vcpu *vcpu, struct err **err);
void kvm_debug_leave(struct vcpu *vcpu);
/* Handles KVM_EXIT_DEBUG: true when it concerns the debugger, false when it was the guest's own and was given to it. */
bool kvm_debug_exit(struct vcpu *vcpu);

/* dirty.c */
int kvm_slots_set(struct kvm_machine *machine, bool log_dirty, struct err **err);

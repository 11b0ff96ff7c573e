/* The MSRs of the model that KVM keeps: which there are, and moving them in and out. */
#include <errno.h>
#include <string.h>

#include "cpu/msr.h"
#include "internal.h"

struct msr_batch {
        struct kvm_msrs header;
        struct kvm_msr_entry entries[KVM_MSRS_MAX];
};

/* MSRs with functions in msr.c that are a plain value between engines. */
static const struct {
        u32 msr;
        size_t offset;
} special[] = {
        { MSR_TSC_ADJUST, offsetof(struct cpu_state, tsc_adjust) },
        { MSR_MISC_ENABLE, offsetof(struct cpu_state, misc_enable) },
        { MSR_KVM_WALL_CLOCK, offsetof(struct cpu_state, kvm_wall_clock) },
        { MSR_KVM_SYSTEM_TIME, offsetof(struct cpu_state, kvm_system_time) },
};

static bool kvm_has_msr(const struct kvm_vcpu *kv, u32 msr)
{
        struct msr_batch get = { .header = { .nmsrs = 1 }, .entries = { { .index = msr } } };

        return kvm_ioctl(kv->fd, KVM_GET_MSRS, &get) == 1;
}

/* SPEC_CTRL and others exist only on some hosts; the kernel's own list of MSRs leaves many out, so each is tried. */
void kvm_msrs_probe(struct kvm_vcpu *kv)
{
        struct msr_info info;

        for (size_t i = 0; cpu_msr_info(i, &info); i++) {
                if (info.kind != MSR_KIND_STORED || info.first == MSR_FS_BASE || info.first == MSR_GS_BASE)
                        continue; /* the bases go with the segments */
                for (u32 n = 0; n < info.count && kv->n_msrs < KVM_MSRS_MAX; n++)
                        if (kvm_has_msr(kv, info.first + n * info.step))
                                kv->msrs[kv->n_msrs++] = info.first + n * info.step;
        }
        for (size_t i = 0; i < ARRAY_SIZE(special) && kv->n_msrs < KVM_MSRS_MAX; i++)
                if (kvm_has_msr(kv, special[i].msr))
                        kv->msrs[kv->n_msrs++] = special[i].msr;
}

static u64 *field_of(struct cpu_state *state, u32 msr)
{
        struct msr_info info;

        for (size_t i = 0; i < ARRAY_SIZE(special); i++)
                if (special[i].msr == msr)
                        return (u64 *)((u8 *)state + special[i].offset);
        cpu_msr_find(msr, &info);
        return cpu_msr_field(state, &info, msr);
}

int kvm_msrs_load(struct vcpu *vcpu, struct err **err)
{
        const struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        struct msr_batch set = { .header = { .nmsrs = (u32)kv->n_msrs } };
        int r;

        for (size_t i = 0; i < kv->n_msrs; i++)
                set.entries[i] = (struct kvm_msr_entry){ .index = kv->msrs[i],
                                                         .data = *field_of(&vcpu->state, kv->msrs[i]) };
        r = kvm_ioctl(kv->fd, KVM_SET_MSRS, &set);
        if (r < 0)
                return err_sys(err, -r, "loading MSRs into KVM");
        if ((size_t)r < kv->n_msrs)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "KVM refuses the value 0x%lx for MSR 0x%x",
                               (unsigned long)set.entries[r].data, set.entries[r].index);
        return 0;
}

int kvm_msrs_store(struct vcpu *vcpu, struct err **err)
{
        const struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        struct msr_batch get = { .header = { .nmsrs = (u32)kv->n_msrs } };
        int r;

        for (size_t i = 0; i < kv->n_msrs; i++)
                get.entries[i].index = kv->msrs[i];
        r = kvm_ioctl(kv->fd, KVM_GET_MSRS, &get);
        if (r < 0 || (size_t)r < kv->n_msrs)
                return err_set(err, ERR_IO, EIO, "KVM does not give the value of MSR 0x%x", r < 0 ? 0 : kv->msrs[r]);
        for (size_t i = 0; i < kv->n_msrs; i++)
                *field_of(&vcpu->state, kv->msrs[i]) = get.entries[i].data;
        return 0;
}

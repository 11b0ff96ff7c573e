/* The MSRs of the model that KVM keeps: which there are, and moving them in and out. */
#include <errno.h>
#include <string.h>

#include "cpu/msr.h"
#include "internal.h"

/* struct kvm_msrs with room for its entries. */
union msr_batch {
        struct kvm_msrs msrs;
        u8 room[sizeof(struct kvm_msrs) + KVM_MSRS_MAX * sizeof(struct kvm_msr_entry)];
};

int kvm_msr_exchange(int fd, unsigned long request, u32 msr, u64 *value)
{
        union {
                struct kvm_msrs msrs;
                u8 room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
        } one = { .room = { 0 } };
        int r;

        one.msrs.nmsrs = 1;
        one.msrs.entries[0] = (struct kvm_msr_entry){ .index = msr, .data = *value };
        r = kvm_ioctl(fd, request, &one);
        if (r != 1)
                return r < 0 ? r : -EIO;
        *value = one.msrs.entries[0].data;
        return 0;
}

/* MSRs with functions in msr.c that are a plain value between engines. */
static const struct {
        u32 msr;
        size_t offset;
} special[] = {
        { MSR_TSC_ADJUST, offsetof(struct cpu_state, tsc_adjust) },
        { MSR_MISC_ENABLE, offsetof(struct cpu_state, misc_enable) },
        { MSR_KVM_WALL_CLOCK, offsetof(struct cpu_state, kvm_wall_clock) },
        { MSR_KVM_SYSTEM_TIME, offsetof(struct cpu_state, kvm_system_time) },
        { MSR_KVM_STEAL_TIME, offsetof(struct cpu_state, kvm_steal_time) },
};

static bool kvm_has_msr(const struct kvm_vcpu *kv, u32 msr)
{
        u64 value = 0;

        return kvm_msr_exchange(kv->fd, KVM_GET_MSRS, msr, &value) == 0;
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
        union msr_batch set = { .room = { 0 } };
        int r;

        set.msrs.nmsrs = (u32)kv->n_msrs;
        for (size_t i = 0; i < kv->n_msrs; i++)
                set.msrs.entries[i] = (struct kvm_msr_entry){ .index = kv->msrs[i],
                                                              .data = *field_of(&vcpu->state, kv->msrs[i]) };
        r = kvm_ioctl(kv->fd, KVM_SET_MSRS, &set);
        if (r < 0)
                return err_sys(err, -r, "loading MSRs into KVM");
        if ((size_t)r < kv->n_msrs)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "KVM refuses the value 0x%lx for MSR 0x%x",
                               (unsigned long)set.msrs.entries[r].data, set.msrs.entries[r].index);
        return 0;
}

int kvm_msrs_store(struct vcpu *vcpu, struct err **err)
{
        const struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        union msr_batch get = { .room = { 0 } };
        int r;

        get.msrs.nmsrs = (u32)kv->n_msrs;
        for (size_t i = 0; i < kv->n_msrs; i++)
                get.msrs.entries[i].index = kv->msrs[i];
        r = kvm_ioctl(kv->fd, KVM_GET_MSRS, &get);
        if (r < 0 || (size_t)r < kv->n_msrs)
                return err_set(err, ERR_IO, EIO, "KVM does not give the value of MSR 0x%x", r < 0 ? 0 : kv->msrs[r]);
        for (size_t i = 0; i < kv->n_msrs; i++)
                *field_of(&vcpu->state, kv->msrs[i]) = get.msrs.entries[i].data;
        return 0;
}

/* The debugger's wishes under KVM.
 *
 * Watchpoints, and breakpoints as long as there is room, take the four debug registers, which the guest then does
 * without. Further breakpoints are INT3 instructions in guest memory, there only while a vCPU is inside run(). */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "internal.h"

#define HW_POINTS 4
#define INT3 0xcc
#define DR6_BS BIT(14)
#define DR7_ALWAYS 0x600ULL /* global exact, and the bit that is always 1 */

/* R/W field of DR7. There is no "read only". Source: SDM 3B, 18.2.4. */
static u64 dr7_access(enum debug_point_kind kind)
{
        switch (kind) {
        case DEBUG_BREAK:
                return 0;
        case DEBUG_WATCH_WRITE:
                return 1;
        default:
                return 3;
        }
}

static u64 dr7_length(u64 len)
{
        return len == 8 ? 2 : len - 1;
}

static void hw_point_set(struct kvm_guest_debug *dbg, struct kvm_vcpu *kv, unsigned reg,
                         const struct debug_point *point, u64 gva, u64 len, int index)
{
        u64 field = point->kind == DEBUG_BREAK ? 0 : dr7_access(point->kind) | dr7_length(len) << 2;

        dbg->arch.debugreg[reg] = gva;
        dbg->arch.debugreg[7] |= DR7_ALWAYS | 2ULL << (reg * 2) | field << (16 + reg * 4);
        dbg->control |= KVM_GUESTDBG_USE_HW_BP;
        kv->hw_point[reg] = index;
}

/* The largest naturally aligned piece of at most 8 bytes at the start of [gva, gva + len). */
static u64 piece(u64 gva, u64 len)
{
        u64 n = 8;

        while (n > len || gva % n)
                n /= 2;
        return n;
}

/* Returns the number of registers in use, or -ENOSPC. */
static int place_watchpoints(struct vcpu *vcpu, struct kvm_guest_debug *dbg)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        unsigned used = 0;

        for (size_t i = 0; i < vcpu->debug.n_points; i++) {
                const struct debug_point *p = &vcpu->debug.points[i];
                u64 gva = p->gva, left = p->len ? p->len : 1;

                while (p->kind != DEBUG_BREAK && left) {
                        u64 n = piece(gva, left);

                        if (used == HW_POINTS)
                                return -ENOSPC;
                        hw_point_set(dbg, kv, used++, p, gva, n, (int)i);
                        gva += n;
                        left -= n;
                }
        }
        return (int)used;
}

/* ---- INT3s ---- */

static bool point_gpa(const struct vcpu *vcpu, u64 gva, u64 *ret)
{
        struct mmu_translation tr;

        if (mmu_walk(vcpu->memory, &vcpu->state.paging, gva, MMU_FETCH, MMU_PEEK, &tr))
                return false;
        *ret = tr.gpa;
        return true;
}

static void soft_break_insert(struct kvm_machine *m, u64 gpa)
{
        const u8 int3 = INT3;
        struct kvm_soft_break *free_slot = NULL;

        pthread_mutex_lock(&m->lock);
        for (size_t i = 0; i < ARRAY_SIZE(m->soft_breaks); i++) {
                struct kvm_soft_break *b = &m->soft_breaks[i];

                if (b->users && b->gpa == gpa) {
                        b->users++;
                        pthread_mutex_unlock(&m->lock);
                        return;
                }
                if (!b->users && !free_slot)
                        free_slot = b;
        }
        if (free_slot && guest_memory_read(m->memory, gpa, &free_slot->original, 1) == 0) {
                guest_memory_write(m->memory, gpa, &int3, 1);
                free_slot->gpa = gpa;
                free_slot->users = 1;
        }
        pthread_mutex_unlock(&m->lock);
}

/* The original byte comes back with the last user, unless the guest wrote there meanwhile. */
static void soft_break_remove(struct kvm_machine *m, u64 gpa)
{
        pthread_mutex_lock(&m->lock);
        for (size_t i = 0; i < ARRAY_SIZE(m->soft_breaks); i++) {
                struct kvm_soft_break *b = &m->soft_breaks[i];
                u8 now = 0;

                if (!b->users || b->gpa != gpa)
                        continue;
                if (--b->users == 0 && guest_memory_read(m->memory, gpa, &now, 1) == 0 && now == INT3)
                        guest_memory_write(m->memory, gpa, &b->original, 1);
                break;
        }
        pthread_mutex_unlock(&m->lock);
}

static void place_breakpoints(struct vcpu *vcpu, struct kvm_guest_debug *dbg, unsigned used)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);

        for (size_t i = 0; i < vcpu->debug.n_points; i++) {
                const struct debug_point *p = &vcpu->debug.points[i];
                u64 gpa;

                if (p->kind != DEBUG_BREAK)
                        continue;
                if (used < HW_POINTS) {
                        hw_point_set(dbg, kv, used++, p, p->gva, 1, (int)i);
                } else if (point_gpa(vcpu, p->gva, &gpa)) {
                        soft_break_insert(kv->machine, gpa);
                        kv->soft_gpas[kv->n_soft_gpas++] = gpa;
                        dbg->control |= KVM_GUESTDBG_USE_SW_BP;
                }
        }
}

/* ---- entering and leaving run() ---- */

static int set_guest_debug(struct kvm_vcpu *kv, struct kvm_guest_debug *dbg, struct err **err)
{
        int r = kvm_ioctl(kv->fd, KVM_SET_GUEST_DEBUG, dbg);

        return r < 0 ? err_sys(err, -r, "KVM refuses to debug the guest") : 0;
}

int kvm_debug_enter(struct vcpu *vcpu, struct err **err)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        struct kvm_guest_debug *dbg = &kv->guest_debug;
        int used;

        *dbg = (struct kvm_guest_debug){ 0 };
        memset(kv->hw_point, 0xff, sizeof(kv->hw_point));
        if (!vcpu->debug.single_step && !vcpu->debug.n_points) {
                if (!kv->debugging)
                        return 0;
                kv->debugging = false;
                return set_guest_debug(kv, dbg, err);
        }
        dbg->control = KVM_GUESTDBG_ENABLE | (vcpu->debug.single_step ? KVM_GUESTDBG_SINGLESTEP : 0u);
        used = place_watchpoints(vcpu, dbg);
        if (used < 0)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                               "the hardware watches four aligned addresses of up to 8 bytes, and more are asked for");
        place_breakpoints(vcpu, dbg, (unsigned)used);
        kv->debugging = true;
        return set_guest_debug(kv, dbg, err);
}

void kvm_debug_leave(struct vcpu *vcpu)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);

        while (kv->n_soft_gpas)
                soft_break_remove(kv->machine, kv->soft_gpas[--kv->n_soft_gpas]);
}

/* ---- exits ---- */

static bool hit(struct vcpu *vcpu, int point, u64 gva, bool step)
{
        vcpu->debug.hit_step = step;
        vcpu->debug.hit_point = point;
        vcpu->debug.hit_gva = gva;
        return true;
}

static bool debug_trap(struct vcpu *vcpu, u64 dr6)
{
        const struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);

        for (unsigned i = 0; i < HW_POINTS; i++)
                if (dr6 & BIT(i) && kv->hw_point[i] >= 0)
                        return hit(vcpu, kv->hw_point[i], kv->guest_debug.arch.debugreg[i], false);
        if (dr6 & DR6_BS && vcpu->debug.single_step)
                return hit(vcpu, -1, 0, true);
        return false;
}

static bool int3_trap(struct vcpu *vcpu, u64 pc)
{
        for (size_t i = 0; i < vcpu->debug.n_points; i++)
                if (vcpu->debug.points[i].kind == DEBUG_BREAK && vcpu->debug.points[i].gva == pc)
                        return hit(vcpu, (int)i, pc, false);
        return false;
}

bool kvm_debug_exit(struct vcpu *vcpu)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        const struct kvm_debug_exit_arch *arch = &kv->run->debug.arch;
        struct kvm_guest_debug inject = kv->guest_debug;
        bool is_int3 = arch->exception == EXC_BP;

        if (is_int3 ? int3_trap(vcpu, arch->pc) : debug_trap(vcpu, arch->dr6))
                return true;
        inject.control |= is_int3 ? KVM_GUESTDBG_INJECT_BP : KVM_GUESTDBG_INJECT_DB;
        set_guest_debug(kv, &inject, NULL);
        return false;
}

/* Between struct cpu_state and the kernel's registers.
 *
 * Complete in both directions at instruction boundaries. What the kernel may hold besides is an event that it has begun
 * to inject: cpu_state has no place for it, so it is undone. An interrupt goes back to the controller it was taken
 * from; a fault is dropped, because its instruction runs again and faults again; an NMI becomes pending. A debug trap
 * that is pending at the very moment of a move is lost.
 *
 * Order of loading: system registers first, because they decide (APIC_BASE, EFER) how later values are looked at;
 * events last. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "internal.h"

#define XSAVE_LEGACY_END 416
#define XSAVE_HEADER 512
#define XSAVE_AREA 4096

/* ---- segments ---- */

static struct kvm_segment seg_to_kvm(const struct seg *seg)
{
        return (struct kvm_segment){
                .base = seg->base,
                .limit = seg->limit,
                .selector = seg->selector,
                .type = seg->attr & SEG_ATTR_TYPE,
                .s = !!(seg->attr & SEG_ATTR_S),
                .dpl = (u8)bits(seg->attr, 6, 5),
                .present = !!(seg->attr & SEG_ATTR_P),
                .avl = !!(seg->attr & SEG_ATTR_AVL),
                .l = !!(seg->attr & SEG_ATTR_L),
                .db = !!(seg->attr & SEG_ATTR_DB),
                .g = !!(seg->attr & SEG_ATTR_G),
                .unusable = seg->unusable,
        };
}

static struct seg seg_from_kvm(const struct kvm_segment *k)
{
        return (struct seg){
                .base = k->base,
                .limit = k->limit,
                .selector = k->selector,
                .attr = (u16)((k->type & SEG_ATTR_TYPE) | (k->s ? SEG_ATTR_S : 0) | (k->dpl & 3u) << 5 |
                              (k->present ? SEG_ATTR_P : 0) | (k->avl ? SEG_ATTR_AVL : 0) | (k->l ? SEG_ATTR_L : 0) |
                              (k->db ? SEG_ATTR_DB : 0) | (k->g ? SEG_ATTR_G : 0)),
                .unusable = k->unusable,
        };
}

static struct kvm_segment *segment_of(struct kvm_sregs2 *sregs, enum segment seg)
{
        struct kvm_segment *const segs[SEG_COUNT] = {
                [SEG_ES] = &sregs->es, [SEG_CS] = &sregs->cs, [SEG_SS] = &sregs->ss,
                [SEG_DS] = &sregs->ds, [SEG_FS] = &sregs->fs, [SEG_GS] = &sregs->gs,
        };

        return segs[seg];
}

static bool pae_paging(const struct paging_state *ps)
{
        return ps->cr0 & CR0_PG && ps->cr4 & CR4_PAE && !(ps->efer & EFER_LMA);
}

static int load_sregs(const struct kvm_vcpu *kv, const struct cpu_state *cpu, struct err **err)
{
        struct kvm_sregs2 sregs;
        int r;

        /* CR8 is the LAPIC's and stays as it is. */
        r = kvm_ioctl(kv->fd, KVM_GET_SREGS2, &sregs);
        if (r < 0)
                return err_sys(err, -r, "reading system registers from KVM");
        for (unsigned i = 0; i < SEG_COUNT; i++)
                *segment_of(&sregs, i) = seg_to_kvm(&cpu->seg[i]);
        /* The hardware takes CPL from SS.DPL, also where SS is null. */
        if (cpu_protected(cpu) && !cpu_vm86(cpu))
                sregs.ss.dpl = cpu->cpl;
        sregs.ldt = seg_to_kvm(&cpu->ldtr);
        sregs.tr = seg_to_kvm(&cpu->tr);
        sregs.gdt = (struct kvm_dtable){ .base = cpu->gdtr.base, .limit = cpu->gdtr.limit };
        sregs.idt = (struct kvm_dtable){ .base = cpu->idtr.base, .limit = cpu->idtr.limit };
        sregs.cr0 = cpu->paging.cr0;
        sregs.cr2 = cpu->cr2;
        sregs.cr3 = cpu->paging.cr3;
        sregs.cr4 = cpu->paging.cr4;
        sregs.efer = cpu->paging.efer;
        sregs.apic_base = cpu->apic_base;
        sregs.flags = 0;
        if (pae_paging(&cpu->paging)) {
                sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
                memcpy(sregs.pdptrs, cpu->paging.pdpte, sizeof(sregs.pdptrs));
        }
        r = kvm_ioctl(kv->fd, KVM_SET_SREGS2, &sregs);
        return r < 0 ? err_sys(err, -r, "KVM refuses the system registers") : 0;
}

static int store_sregs(const struct kvm_vcpu *kv, struct cpu_state *cpu, struct err **err)
{
        struct kvm_sregs2 sregs;
        int r = kvm_ioctl(kv->fd, KVM_GET_SREGS2, &sregs);

        if (r < 0)
                return err_sys(err, -r, "reading system registers from KVM");
        for (unsigned i = 0; i < SEG_COUNT; i++)
                cpu->seg[i] = seg_from_kvm(segment_of(&sregs, i));
        cpu->ldtr = seg_from_kvm(&sregs.ldt);
        cpu->tr = seg_from_kvm(&sregs.tr);
        cpu->gdtr = (struct dtable){ .base = sregs.gdt.base, .limit = sregs.gdt.limit };
        cpu->idtr = (struct dtable){ .base = sregs.idt.base, .limit = sregs.idt.limit };
        cpu->paging.cr0 = sregs.cr0;
        cpu->cr2 = sregs.cr2;
        cpu->paging.cr3 = sregs.cr3;
        cpu->paging.cr4 = sregs.cr4;
        cpu->paging.efer = sregs.efer;
        cpu->apic_base = sregs.apic_base;
        if (sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
                memcpy(cpu->paging.pdpte, sregs.pdptrs, sizeof(sregs.pdptrs));
        return 0;
}

/* ---- general registers ---- */

/* In the kernel's order, which is not the encoding's. */
static void gprs_to_kvm(const u64 gpr[GPR_COUNT], struct kvm_regs *regs)
{
        regs->rax = gpr[RAX];
        regs->rbx = gpr[RBX];
        regs->rcx = gpr[RCX];
        regs->rdx = gpr[RDX];
        regs->rsi = gpr[RSI];
        regs->rdi = gpr[RDI];
        regs->rsp = gpr[RSP];
        regs->rbp = gpr[RBP];
        memcpy(&regs->r8, &gpr[R8], 8 * sizeof(u64));
}

static void gprs_from_kvm(const struct kvm_regs *regs, u64 gpr[GPR_COUNT])
{
        gpr[RAX] = regs->rax;
        gpr[RBX] = regs->rbx;
        gpr[RCX] = regs->rcx;
        gpr[RDX] = regs->rdx;
        gpr[RSI] = regs->rsi;
        gpr[RDI] = regs->rdi;
        gpr[RSP] = regs->rsp;
        gpr[RBP] = regs->rbp;
        memcpy(&gpr[R8], &regs->r8, 8 * sizeof(u64));
}
_Static_assert(offsetof(struct kvm_regs, r15) - offsetof(struct kvm_regs, r8) == 7 * sizeof(u64), "r8 to r15 in a row");

static int load_regs(const struct kvm_vcpu *kv, const struct cpu_state *cpu, struct err **err)
{
        struct kvm_regs regs = { .rip = cpu->rip, .rflags = cpu->rflags };
        int r;

        gprs_to_kvm(cpu->gpr, &regs);
        r = kvm_ioctl(kv->fd, KVM_SET_REGS, &regs);
        return r < 0 ? err_sys(err, -r, "KVM refuses the general registers") : 0;
}

static int store_regs(const struct kvm_vcpu *kv, struct cpu_state *cpu, struct err **err)
{
        struct kvm_regs regs;
        int r = kvm_ioctl(kv->fd, KVM_GET_REGS, &regs);

        if (r < 0)
                return err_sys(err, -r, "reading general registers from KVM");
        gprs_from_kvm(&regs, cpu->gpr);
        cpu->rip = regs.rip;
        cpu->rflags = regs.rflags;
        return 0;
}

/* ---- x87, SSE, AVX ---- */

static int load_xsave(const struct kvm_vcpu *kv, const struct cpu_state *cpu, struct err **err)
{
        union {
                struct kvm_xsave kvm;
                u8 bytes[XSAVE_AREA];
        } area = { .bytes = { 0 } };
        struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = cpu->xcr0 } } };
        const u64 components = XCR0_X87 | XCR0_SSE | (cpuid_has(CPUID_AVX) ? XCR0_AVX : 0);
        int r;

        memcpy(area.bytes, cpu->xsave, XSAVE_SIZE);
        memset(area.bytes + XSAVE_HEADER, 0, 64);
        memcpy(area.bytes + XSAVE_HEADER, &components, sizeof(components));
        r = kvm_ioctl(kv->fd, KVM_SET_XSAVE, &area.kvm);
        if (r < 0)
                return err_sys(err, -r, "KVM refuses the x87, SSE and AVX registers");
        r = kvm_ioctl(kv->fd, KVM_SET_XCRS, &xcrs);
        if (r < 0 && cpu->xcr0 != XCR0_X87)
                return err_sys(err, -r, "KVM refuses XCR0 0x%lx", (unsigned long)cpu->xcr0);
        return 0;
}

/* A component that the kernel left out is in its initial state. Source: SDM 1, 13.6. */
static void fill_initial(u8 *xsave)
{
        const u16 fcw = 0x37f;
        u64 present;

        memcpy(&present, xsave + XSAVE_HEADER, sizeof(present));
        if (!(present & XCR0_X87)) {
                memset(xsave, 0, 24);
                memset(xsave + 32, 0, 128);
                memcpy(xsave, &fcw, sizeof(fcw));
        }
        if (!(present & XCR0_SSE))
                memset(xsave + 160, 0, 256);
        if (!(present & XCR0_AVX))
                memset(xsave + XSAVE_YMM_OFFSET, 0, XSAVE_SIZE - XSAVE_YMM_OFFSET);
}

static int store_xsave(const struct kvm_vcpu *kv, struct cpu_state *cpu, struct err **err)
{
        union {
                struct kvm_xsave kvm;
                u8 bytes[XSAVE_AREA];
        } area;
        struct kvm_xcrs xcrs;
        int r;

        r = kvm_ioctl(kv->fd, KVM_GET_XSAVE, &area.kvm);
        if (r < 0)
                return err_sys(err, -r, "reading x87, SSE and AVX registers from KVM");
        fill_initial(area.bytes);
        /* Without the bytes that software may use, which the kernel fills, and the header, which cpu_state does
         * without. */
        memset(area.bytes + XSAVE_LEGACY_END, 0, XSAVE_YMM_OFFSET - XSAVE_LEGACY_END);
        memcpy(cpu->xsave, area.bytes, XSAVE_SIZE);
        r = kvm_ioctl(kv->fd, KVM_GET_XCRS, &xcrs);
        for (u32 i = 0; r >= 0 && i < xcrs.nr_xcrs && i < ARRAY_SIZE(xcrs.xcrs); i++)
                if (xcrs.xcrs[i].xcr == 0 && xcrs.xcrs[i].value)
                        cpu->xcr0 = xcrs.xcrs[i].value;
        return 0;
}

/* ---- debug registers ---- */

static int load_debugregs(const struct kvm_vcpu *kv, const struct cpu_state *cpu, struct err **err)
{
        struct kvm_debugregs regs = { .dr6 = cpu->dr[6], .dr7 = cpu->dr[7] };
        int r;

        memcpy(regs.db, cpu->dr, sizeof(regs.db));
        r = kvm_ioctl(kv->fd, KVM_SET_DEBUGREGS, &regs);
        return r < 0 ? err_sys(err, -r, "KVM refuses the debug registers") : 0;
}

static int store_debugregs(const struct kvm_vcpu *kv, struct cpu_state *cpu, struct err **err)
{
        struct kvm_debugregs regs;
        int r = kvm_ioctl(kv->fd, KVM_GET_DEBUGREGS, &regs);

        if (r < 0)
                return err_sys(err, -r, "reading debug registers from KVM");
        memcpy(cpu->dr, regs.db, sizeof(regs.db));
        cpu->dr[6] = regs.dr6;
        cpu->dr[7] = regs.dr7;
        return 0;
}

/* ---- time ---- Guest TSC = host TSC + offset, which the kernel takes literally where it can. */

static int tsc_offset(const struct kvm_vcpu *kv, unsigned long request, u64 *offset)
{
        struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET,
                                        .addr = (uintptr_t)offset };

        return kvm_ioctl(kv->fd, request, &attr);
}

static int load_tsc(const struct kvm_vcpu *kv, const struct cpu_state *cpu, struct err **err)
{
        u64 offset = cpu->tsc_offset, value = clock_tsc() + offset;
        int r;

        if (kv->machine->host.tsc_offset_attr)
                r = tsc_offset(kv, KVM_SET_DEVICE_ATTR, &offset);
        else
                r = kvm_msr_exchange(kv->fd, KVM_SET_MSRS, MSR_TSC, &value);
        if (r < 0)
                return err_sys(err, -r, "setting the TSC of KVM");
        /* A KVM without hardware under it takes the offset and forgets it. */
        if (kv->machine->host.tsc_offset_attr && tsc_offset(kv, KVM_GET_DEVICE_ATTR, &offset) >= 0 &&
            offset != cpu->tsc_offset)
                log_info("the host's KVM cannot shift the guest's TSC: it jumps to the host's");
        return 0;
}

static int store_tsc(const struct kvm_vcpu *kv, struct cpu_state *cpu, struct err **err)
{
        u64 offset = 0, value = 0;
        int r;

        if (kv->machine->host.tsc_offset_attr) {
                r = tsc_offset(kv, KVM_GET_DEVICE_ATTR, &offset);
        } else {
                r = kvm_msr_exchange(kv->fd, KVM_GET_MSRS, MSR_TSC, &value);
                offset = value - clock_tsc();
        }
        if (r < 0)
                return err_sys(err, -r, "reading the TSC of KVM");
        cpu->tsc_offset = offset;
        return 0;
}

/* ---- events and activity ---- */

static int load_events(const struct kvm_vcpu *kv, const struct cpu_state *cpu, struct err **err)
{
        struct kvm_vcpu_events events = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };
        struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
        int r;

        events.nmi.pending = cpu->nmi_pending;
        events.nmi.masked = cpu->nmi_masked;
        events.interrupt.shadow = (u8)((cpu->sti_shadow ? KVM_X86_SHADOW_INT_STI : 0) |
                                       (cpu->mov_ss_shadow ? KVM_X86_SHADOW_INT_MOV_SS : 0));
        r = kvm_ioctl(kv->fd, KVM_SET_VCPU_EVENTS, &events);
        if (r < 0)
                return err_sys(err, -r, "KVM refuses the pending events");
        if (cpu->wait_for_sipi)
                mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
        else if (cpu->halted)
                mp.mp_state = KVM_MP_STATE_HALTED;
        r = kvm_ioctl(kv->fd, KVM_SET_MP_STATE, &mp);
        return r < 0 ? err_sys(err, -r, "KVM refuses the activity state") : 0;
}

static int store_events(struct vcpu *vcpu, struct err **err)
{
        const struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        struct cpu_state *cpu = &vcpu->state;
        struct kvm_vcpu_events events;
        struct kvm_mp_state mp;
        int r;

        /* First, because reading it makes the kernel act on INIT and SIPI that are pending. */
        r = kvm_ioctl(kv->fd, KVM_GET_MP_STATE, &mp);
        if (r >= 0)
                r = kvm_ioctl(kv->fd, KVM_GET_VCPU_EVENTS, &events);
        if (r < 0)
                return err_sys(err, -r, "reading pending events from KVM");
        cpu->wait_for_sipi = mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED;
        cpu->halted = mp.mp_state == KVM_MP_STATE_HALTED;
        cpu->nmi_masked = events.nmi.masked;
        cpu->nmi_pending = events.nmi.pending;
        if (events.nmi.injected) {
                cpu->nmi_pending = true;
                cpu->nmi_masked = false;
        }
        cpu->sti_shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
        cpu->mov_ss_shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
        /* INT n (soft) is executed again; what a controller gave is given back to it. */
        if (events.interrupt.injected && !events.interrupt.soft) {
                r = kvm_unacknowledge(vcpu, events.interrupt.nr, err);
                if (r < 0)
                        return r;
                events.interrupt.injected = 0;
                r = kvm_ioctl(kv->fd, KVM_SET_VCPU_EVENTS, &events);
                if (r < 0)
                        return err_sys(err, -r, "taking back an interrupt");
        }
        return 0;
}

/* ---- all of it ---- */

int kvm_state_load(struct vcpu *vcpu, struct err **err)
{
        const struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        const struct cpu_state *cpu = &vcpu->state;
        int r = kvm_check_state(kv->machine, cpu, err);

        if (r >= 0)
                r = load_sregs(kv, cpu, err);
        if (r >= 0)
                r = load_regs(kv, cpu, err);
        if (r >= 0)
                r = load_xsave(kv, cpu, err);
        if (r >= 0)
                r = load_debugregs(kv, cpu, err);
        if (r >= 0)
                r = load_tsc(kv, cpu, err);
        if (r >= 0)
                r = kvm_msrs_load(vcpu, err);
        if (r >= 0)
                r = load_events(kv, cpu, err);
        return r;
}

static u8 current_cpl(const struct cpu_state *cpu)
{
        if (!cpu_protected(cpu))
                return 0;
        return cpu_vm86(cpu) ? 3 : (u8)bits(cpu->seg[SEG_SS].attr, 6, 5);
}

int kvm_state_store(struct vcpu *vcpu, struct err **err)
{
        const struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        struct cpu_state *cpu = &vcpu->state;
        int r = store_events(vcpu, err);

        if (r >= 0)
                r = store_sregs(kv, cpu, err);
        if (r >= 0)
                r = store_regs(kv, cpu, err);
        if (r >= 0)
                r = store_xsave(kv, cpu, err);
        if (r >= 0)
                r = store_debugregs(kv, cpu, err);
        if (r >= 0)
                r = store_tsc(kv, cpu, err);
        if (r >= 0)
                r = kvm_msrs_store(vcpu, err);
        if (r >= 0)
                cpu->cpl = current_cpl(cpu);
        return r;
}

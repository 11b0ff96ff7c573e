/* SYSCALL, SYSRET, SYSENTER, SYSEXIT. SDM 2B and 3A, 5.8.7-5.8.8. */
#include "sys.h"

/* Goes on at @rip. For SYSCALL and SYSRET the TF after the instruction decides about the single-step trap, unlike for IRET and POPF, so
 * that a kernel is not stepped into and a user program is stepped from its first instruction on. @single: the mode before. */
static const struct uop *continue_by_new_tf(struct interp *in, u64 rip, bool single)
{
        if (in->rflags & RFLAGS_TF)
                sys_raise_step_trap(in, rip, BIT(14)); /* BS */
        in->no_step_trap = single;
        return interp_continue_at(in, rip);
}

const struct uop *sys_syscall(struct interp *in, const struct uop *u)
{
        struct cpu_state *cpu = in->cpu;
        const u16 cs = (u16)(bits(cpu->star, 47, 32) & 0xfffc);
        const bool long64 = in->mode & MODE_LONG64, single = in->mode & MODE_SINGLE;

        /* From compatibility mode this is AMD's SYSCALL (APM 3), as KVM emulates it on any vendor's processor. */
        if (!cpu_long_mode(cpu) || !(cpu->paging.efer & EFER_SCE))
                sys_ud(in, u);
        in->regs[RCX] = interp_next_rip(in, u);
        in->regs[R11] = interp_rflags(in) & ~RFLAGS_RF;
        interp_set_rflags(in, interp_rflags(in) & ~(cpu->sfmask | RFLAGS_RF));
        sys_load_flat_cs_ss(cpu, cs, (u16)(cs + 8), 0, true);
        interp_mode_changed(in);
        return continue_by_new_tf(in, long64 ? cpu->lstar : cpu->cstar, single);
}

const struct uop *sys_sysret(struct interp *in, const struct uop *u)
{
        struct cpu_state *cpu = in->cpu;
        const u16 base = (u16)bits(cpu->star, 63, 48);
        const bool to64 = u->size == 8, single = in->mode & MODE_SINGLE;
        const u64 rip = to64 ? in->regs[RCX] : (u32)in->regs[RCX];

        if (!(in->mode & MODE_LONG64) || !(cpu->paging.efer & EFER_SCE))
                sys_ud(in, u);
        if (cpu->cpl != 0 || !mmu_is_canonical(rip))
                sys_gp0(in, u);
        interp_set_rflags(in, in->regs[R11] & 0x3c7fd7);
        sys_load_flat_cs_ss(cpu, (u16)((to64 ? base + 16 : base) | 3), (u16)((base + 8) | 3), 3, to64);
        interp_mode_changed(in);
        return continue_by_new_tf(in, rip, single);
}

const struct uop *sys_sysenter(struct interp *in, const struct uop *u)
{
        struct cpu_state *cpu = in->cpu;
        const bool long_mode = cpu_long_mode(cpu);
        const u16 cs = (u16)(cpu->sysenter_cs & 0xfffc);

        if (!(cpu->paging.cr0 & CR0_PE) || !cs)
                sys_gp0(in, u);
        in->rflags &= ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
        in->regs[RSP] = long_mode ? cpu->sysenter_esp : (u32)cpu->sysenter_esp;
        sys_load_flat_cs_ss(cpu, cs, (u16)(cs + 8), 0, long_mode);
        interp_mode_changed(in);
        return interp_continue_at(in, long_mode ? cpu->sysenter_eip : (u32)cpu->sysenter_eip);
}

const struct uop *sys_sysexit(struct interp *in, const struct uop *u)
{
        struct cpu_state *cpu = in->cpu;
        const u16 base = (u16)(cpu->sysenter_cs & 0xfffc);
        const bool to64 = u->size == 8;
        const u64 rip = to64 ? in->regs[RDX] : (u32)in->regs[RDX];
        const u64 rsp = to64 ? in->regs[RCX] : (u32)in->regs[RCX];

        if (!(cpu->paging.cr0 & CR0_PE) || !base || cpu->cpl != 0)
                sys_gp0(in, u);
        if (to64 && (!mmu_is_canonical(rip) || !mmu_is_canonical(rsp)))
                sys_gp0(in, u);
        in->regs[RSP] = rsp;
        sys_load_flat_cs_ss(cpu, (u16)((base + (to64 ? 32 : 16)) | 3), (u16)((base + (to64 ? 40 : 24)) | 3), 3, to64);
        interp_mode_changed(in);
        return interp_continue_at(in, rip);
}

/* INIT and start-up IPIs. SDM 3A, 8.4 and table 10-1. */
#include "sys.h"

/* The registers of struct cpu_state that the interpreter keeps elsewhere while it runs. */
static void reload(struct interp *in)
{
        for (unsigned i = 0; i < GPR_COUNT; i++)
                in->regs[i] = in->cpu->gpr[i];
        in->rip = in->cpu->rip;
        interp_set_rflags(in, in->cpu->rflags);
        in->pending_dr6 = 0;
        in->halted_now = false;
        in->delivering = false;
        interp_flush_tlb(in);
        interp_mode_changed(in);
}

void interp_init_signal(struct interp *in)
{
        cpu_state_init_signal(in->cpu);
        reload(in);
}

void interp_sipi(struct interp *in, u8 vector)
{
        struct cpu_state *cpu = in->cpu;

        if (!cpu->wait_for_sipi)
                return;
        cpu->wait_for_sipi = false;
        cpu->halted = false;
        sys_seg_real(&cpu->seg[SEG_CS], (u16)(vector << 8), false);
        in->rip = 0;
        in->halted_now = false;
        interp_mode_changed(in);
}

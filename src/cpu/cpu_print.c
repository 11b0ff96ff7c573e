/* A readable dump of the state, for SIGQUIT, crashes and debuggers. */
#include <string.h>

#include "cpu.h"

static const char *mode_name(const struct cpu_state *cpu)
{
        if (cpu_long_mode(cpu))
                return cpu_64bit(cpu) ? "64-bit" : "compatibility";
        if (!cpu_protected(cpu))
                return "real";
        if (cpu_vm86(cpu))
                return "virtual-8086";
        return cpu->seg[SEG_CS].attr & SEG_ATTR_DB ? "protected, 32-bit" : "protected, 16-bit";
}

static void print_seg(FILE *out, const char *name, const struct seg *seg)
{
        fprintf(out, "%-4s %04x base %016lx limit %08x attr %04x%s\n", name, seg->selector, (unsigned long)seg->base,
                seg->limit, seg->attr, seg->unusable ? " unusable" : "");
}

static void print_flags(FILE *out, const struct cpu_state *cpu)
{
        static const struct {
                const char *name;
                u64 bit;
        } flags[] = {
                { "CF", RFLAGS_CF }, { "PF", RFLAGS_PF }, { "AF", RFLAGS_AF }, { "ZF", RFLAGS_ZF }, { "SF", RFLAGS_SF },
                { "TF", RFLAGS_TF }, { "IF", RFLAGS_IF }, { "DF", RFLAGS_DF }, { "OF", RFLAGS_OF }, { "NT", RFLAGS_NT },
                { "RF", RFLAGS_RF }, { "VM", RFLAGS_VM }, { "AC", RFLAGS_AC }, { "ID", RFLAGS_ID },
        };

        fprintf(out, "rflags %016lx [", (unsigned long)cpu->rflags);
        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (cpu->rflags & flags[i].bit)
                        fprintf(out, " %s", flags[i].name);
        fprintf(out, " ] cpl %u, %s mode%s%s%s%s%s%s\n", cpu->cpl, mode_name(cpu), cpu->halted ? ", halted" : "",
                cpu->wait_for_sipi ? ", waits for SIPI" : "", cpu->nmi_pending ? ", NMI pending" : "",
                cpu->nmi_masked ? ", NMI masked" : "", cpu->sti_shadow ? ", STI shadow" : "",
                cpu->mov_ss_shadow ? ", MOV SS shadow" : "");
}

void cpu_state_print(const struct cpu_state *cpu, FILE *out)
{
        static const char *const gprs[GPR_COUNT] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
        static const char *const segs[SEG_COUNT] = { "es", "cs", "ss", "ds", "fs", "gs" };
        u32 mxcsr;
        u16 fcw;

        fprintf(out, "rip %016lx ", (unsigned long)cpu->rip);
        print_flags(out, cpu);
        for (unsigned i = 0; i < GPR_COUNT; i++)
                fprintf(out, "%-3s %016lx%s", gprs[i], (unsigned long)cpu->gpr[i], i % 4 == 3 ? "\n" : " ");
        for (unsigned i = 0; i < SEG_COUNT; i++)
                print_seg(out, segs[i], &cpu->seg[i]);
        print_seg(out, "ldtr", &cpu->ldtr);
        print_seg(out, "tr", &cpu->tr);
        fprintf(out, "gdtr base %016lx limit %04x idtr base %016lx limit %04x\n", (unsigned long)cpu->gdtr.base,
                cpu->gdtr.limit, (unsigned long)cpu->idtr.base, cpu->idtr.limit);
        fprintf(out, "cr0 %08lx cr2 %016lx cr3 %016lx cr4 %08lx efer %04lx xcr0 %lx\n", (unsigned long)cpu->paging.cr0,
                (unsigned long)cpu->cr2, (unsigned long)cpu->paging.cr3, (unsigned long)cpu->paging.cr4,
                (unsigned long)cpu->paging.efer, (unsigned long)cpu->xcr0);
        fprintf(out, "dr0 %016lx dr1 %016lx dr2 %016lx dr3 %016lx dr6 %08lx dr7 %08lx\n", (unsigned long)cpu->dr[0],
                (unsigned long)cpu->dr[1], (unsigned long)cpu->dr[2], (unsigned long)cpu->dr[3],
                (unsigned long)cpu->dr[6], (unsigned long)cpu->dr[7]);
        memcpy(&fcw, cpu->xsave, sizeof(fcw));
        memcpy(&mxcsr, cpu->xsave + 24, sizeof(mxcsr));
        fprintf(out, "fcw %04x mxcsr %08x kernel_gs_base %016lx lstar %016lx apic_base %lx\n", fcw, mxcsr,
                (unsigned long)cpu->kernel_gs_base, (unsigned long)cpu->lstar, (unsigned long)cpu->apic_base);
}

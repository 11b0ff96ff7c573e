/* The CPU: one complete architectural state, and engines that run it.
 *
 * struct cpu_state is engine-independent: every engine loads from it and stores to it, snapshots and migration carry it,
 * so a vCPU can change engines between two instructions.
 *
 * struct vcpu is what the machine owns: one per virtual CPU, run by one host thread. Only that thread may touch the vCPU
 * while it runs; other threads use vcpu_kick() and the pending-work flags. */
#pragma once

#include <pthread.h>

#include "base/err.h"
#include "base/observe.h"
#include "base/statebuf.h"
#include "mmu/mmu.h"

enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, GPR_COUNT };
enum segment { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* A segment register with its hidden part. Source: SDM 3A, 3.4.3 and 3.4.5. */
struct seg {
        u16 selector;
        u16 attr;  /* descriptor bits 40-55: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15 */
        u32 limit; /* in bytes, scaled */
        u64 base;
        bool unusable; /* loaded with a null selector */
};

#define SEG_ATTR_TYPE 0x000fu
#define SEG_ATTR_S 0x0010u
#define SEG_ATTR_DPL 0x0060u
#define SEG_ATTR_P 0x0080u
#define SEG_ATTR_AVL 0x1000u
#define SEG_ATTR_L 0x2000u
#define SEG_ATTR_DB 0x4000u
#define SEG_ATTR_G 0x8000u

struct dtable {
        u64 base;
        u16 limit;
};

#define RFLAGS_CF BIT(0)
#define RFLAGS_FIXED BIT(1)
#define RFLAGS_PF BIT(2)
#define RFLAGS_AF BIT(4)
#define RFLAGS_ZF BIT(6)
#define RFLAGS_SF BIT(7)
#define RFLAGS_TF BIT(8)
#define RFLAGS_IF BIT(9)
#define RFLAGS_DF BIT(10)
#define RFLAGS_OF BIT(11)
#define RFLAGS_IOPL (3ULL << 12)
#define RFLAGS_NT BIT(14)
#define RFLAGS_RF BIT(16)
#define RFLAGS_VM BIT(17)
#define RFLAGS_AC BIT(18)
#define RFLAGS_VIF BIT(19)
#define RFLAGS_VIP BIT(20)
#define RFLAGS_ID BIT(21)
#define RFLAGS_ARITH (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

enum exception {
        EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4, EXC_BR = 5, EXC_UD = 6, EXC_NM = 7, EXC_DF = 8,
        EXC_TS = 10, EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16, EXC_AC = 17, EXC_MC = 18, EXC_XM = 19,
};

/* MSR numbers that more than one file names. Source: SDM 4. */
#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_ADJUST 0x3b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_MISC_ENABLE 0x1a0
#define MSR_PAT 0x277
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST 0x8ff
#define MSR_XSS 0xda0
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103
#define MSR_KVM_WALL_CLOCK 0x4b564d00
#define MSR_KVM_SYSTEM_TIME 0x4b564d01
#define MSR_KVM_STEAL_TIME 0x4b564d03

/* XSAVE area in the standard (non-compacted) format for x87, SSE and AVX: legacy region, header, YMM_Hi128. SDM 1, 13.4. */
#define XSAVE_SIZE 832
#define XSAVE_YMM_OFFSET 576
#define XCR0_X87 BIT(0)
#define XCR0_SSE BIT(1)
#define XCR0_AVX BIT(2)
#define XCR0_SUPPORTED (XCR0_X87 | XCR0_SSE | XCR0_AVX)

#define CPU_MTRR_VARIABLE 8

struct cpu_state {
        u64 gpr[GPR_COUNT];
        u64 rip;
        u64 rflags;
        struct seg seg[SEG_COUNT];
        struct seg ldtr, tr;
        struct dtable gdtr, idtr;
        struct paging_state paging; /* cr0, cr3, cr4, efer */
        u64 cr2;
        u64 dr[8];                  /* 4 and 5 unused */
        u64 xcr0;
        _Alignas(64) u8 xsave[XSAVE_SIZE]; /* always in the standard format; XSTATE_BV is ignored: all parts are valid */

        u64 star, lstar, cstar, sfmask, kernel_gs_base;
        u64 sysenter_cs, sysenter_esp, sysenter_eip;
        u64 pat, misc_enable, tsc_aux;
        u64 tsc_offset;  /* guest TSC = host TSC + tsc_offset */
        u64 tsc_adjust;
        u64 mtrr_def_type, mtrr_fixed[11], mtrr_base[CPU_MTRR_VARIABLE], mtrr_mask[CPU_MTRR_VARIABLE];
        u64 spec_ctrl, mcg_status;
        u64 kvm_system_time, kvm_wall_clock, kvm_steal_time; /* paravirtual MSRs */
        u64 apic_base;   /* the platform keeps the LAPIC itself */
        u64 smbase;

        u8 cpl;          /* = DPL of SS, kept apart because real and VM86 modes have no DPL */
        bool halted;
        bool wait_for_sipi;
        bool nmi_pending, nmi_masked;
        bool sti_shadow;   /* the next instruction runs before interrupts are taken (STI) */
        bool mov_ss_shadow; /* likewise, and debug exceptions are held too (MOV/POP SS) */
        bool unhalted;     /* a kick by hypercall came: the HLT it is in, or the next one, ends at once */
};

/* Power-up / INIT state. Source: SDM 3A, table 10-1. @bsp decides APIC_BASE.BSP. */
void cpu_state_reset(struct cpu_state *cpu, bool bsp);
/* INIT: like reset but keeps what INIT keeps (TSC, x87/SSE state, MTRRs, most MSRs). */
void cpu_state_init_signal(struct cpu_state *cpu);
void cpu_state_save(const struct cpu_state *cpu, struct state_out *out);
/* Validates: -EINVAL and an error on a state no processor can be in. */
int cpu_state_load(struct cpu_state *cpu, struct state_in *in, u32 version, struct err **err);
#define CPU_STATE_VERSION 2
/* Readable dump, several lines. */
void cpu_state_print(const struct cpu_state *cpu, FILE *out);

static inline bool cpu_long_mode(const struct cpu_state *cpu)
{
        return cpu->paging.efer & EFER_LMA;
}
static inline bool cpu_64bit(const struct cpu_state *cpu)
{
        return cpu_long_mode(cpu) && (cpu->seg[SEG_CS].attr & SEG_ATTR_L);
}
static inline bool cpu_protected(const struct cpu_state *cpu)
{
        return cpu->paging.cr0 & CR0_PE;
}
static inline bool cpu_vm86(const struct cpu_state *cpu)
{
        return cpu->rflags & RFLAGS_VM;
}

/* ---- CPUID ---- */

struct cpuid_regs {
        u32 eax, ebx, ecx, edx;
};
struct vcpu;
/* The model that the guest sees: a table (cpuid.c), masked by what the host has, with the parts that depend on the state
 * (OSXSAVE, APIC id, ...). Same for all engines. */
void cpuid_query(const struct vcpu *vcpu, u32 leaf, u32 subleaf, struct cpuid_regs *ret);

/* ---- what the machine offers to its CPUs ---- */

/* Implemented by the board over the LAPIC and PIC models. All are called on the vCPU's thread WITHOUT the device lock; they
 * take it themselves. Not used by engines that have the interrupt chip in the kernel. */
struct cpu_platform_ops {
        /* Is there an interrupt for this vCPU that its LAPIC (with TPR/PPR) or the PIC would deliver now? */
        bool (*irq_pending)(void *opaque, struct vcpu *vcpu);
        /* Acknowledges it: returns the vector, or -1 when it went away. */
        int (*irq_ack)(void *opaque, struct vcpu *vcpu);
        /* APIC_BASE, TSC_DEADLINE and the x2APIC range. 0, or -EINVAL for #GP. */
        int (*apic_msr_read)(void *opaque, struct vcpu *vcpu, u32 msr, u64 *ret);
        int (*apic_msr_write)(void *opaque, struct vcpu *vcpu, u32 msr, u64 value);
        /* CR8, the LAPIC's task priority bits 7-4. */
        u64 (*cr8_read)(void *opaque, struct vcpu *vcpu);
        void (*cr8_write)(void *opaque, struct vcpu *vcpu, u64 value);
        /* INIT and SIPI, processed on the target's own thread when it sees VCPU_WORK_INIT/SIPI: fills the start vector. */
        u8 (*sipi_vector)(void *opaque, struct vcpu *vcpu);
        /* The guest wrote TSC or TSC_ADJUST: a TSC deadline is due at another time now. May be NULL. */
        void (*tsc_changed)(void *opaque, struct vcpu *vcpu);
        /* The guest wrote KVM_SYSTEM_TIME, KVM_WALL_CLOCK or KVM_STEAL_TIME: the board fills its structure. */
        void (*kvm_msr_written)(void *opaque, struct vcpu *vcpu, u32 msr, u64 value);
        /* A hypercall (VMCALL/VMMCALL); returns the value for RAX. */
        u64 (*hypercall)(void *opaque, struct vcpu *vcpu, u64 nr, const u64 args[4]);
        /* FERR#: an unmasked x87 exception with CR0.NE clear raises IRQ 13. */
        void (*ferr)(void *opaque, struct vcpu *vcpu);
};

/* Reasons why a vCPU must leave guest code; bits of vcpu.work, set by any thread with vcpu_post_work(). */
enum {
        VCPU_WORK_IRQ = 1,      /* look at irq_pending again */
        VCPU_WORK_NMI = 2,
        VCPU_WORK_INIT = 4,
        VCPU_WORK_SIPI = 8,
        VCPU_WORK_STOP = 16,    /* return EXIT_KICKED from run */
        VCPU_WORK_MAILBOX = 32, /* engine-internal: invalidations from other vCPUs */
        VCPU_WORK_SMI = 64,
        VCPU_WORK_UNHALT = 128, /* state.unhalted is to be set */
        VCPU_WORK_FLUSH_TLB = 256, /* another vCPU changed page tables while this one slept */
};

/* What a debugger wants of a vCPU; engines honour it. Set only while the vCPU is stopped. */
#define DEBUG_POINTS_MAX 32
enum debug_point_kind { DEBUG_BREAK, DEBUG_WATCH_WRITE, DEBUG_WATCH_READ, DEBUG_WATCH_ACCESS };
struct debug_point {
        enum debug_point_kind kind;
        u64 gva, len;
};
struct vcpu_debug {
        bool single_step;
        size_t n_points;
        struct debug_point points[DEBUG_POINTS_MAX];
        /* Filled when run returns EXIT_DEBUG. */
        bool hit_step;
        int hit_point; /* index, -1 for a step or pause */
        u64 hit_gva;   /* watchpoints: the address accessed */
};

struct cpu_engine;

/* Whether the translator runs user code by way of a shadow window (mmu/shadow.h). */
enum shadow_policy { SHADOW_AUTO, SHADOW_NEVER, SHADOW_ALWAYS };

struct vcpu {
        unsigned index;        /* 0-based; also the APIC id */
        unsigned n_vcpus;      /* in the machine */
        struct cpu_state state; /* current whenever the vCPU is not inside engine->run */
        const struct cpu_engine *engine;
        void *engine_data;     /* the engine's own part of this vCPU */
        void *engine_machine;  /* the engine's own part of the machine, shared by its vCPUs */
        enum shadow_policy shadow; /* set before vcpu_create */
        bool check;            /* the translator compares every block with the interpreter; set before vcpu_create */

        struct guest_memory *memory;
        struct io_space *ports;
        const struct cpu_platform_ops *platform;
        void *platform_opaque;

        u32 work;              /* atomic; VCPU_WORK_*; also the futex a halted vCPU sleeps on */
        u32 nmis_posted;       /* atomic; VCPU_WORK_NMI posts not yet seen: two that come together are two */
        pthread_mutex_t kick_lock; /* of no_kick; a leaf. All zeros is an initialised mutex on Linux */
        bool no_kick;          /* the vCPU is between two engines: neither may be kicked */
        struct vcpu_debug debug;
        struct counters counters;
        struct err *error;     /* why run returned EXIT_FAILED */
        bool machine_stopping; /* atomic: a device asked the machine to stop; set by the board with STOP work */
};

/* Posts work and wakes or kicks the vCPU. From any thread; may be called with the device lock held. */
void vcpu_post_work(struct vcpu *vcpu, u32 work);
/* Sleeps until vcpu.work is not 0. On the vCPU's thread, when run returned EXIT_HALTED. */
void vcpu_wait_for_work(struct vcpu *vcpu);

/* ---- engines ---- */

enum {
        ENGINE_CAP_ALL_MODES = 1,    /* real and protected mode too */
        ENGINE_CAP_KERNEL_IRQCHIP = 2, /* interrupt controllers live in the kernel; the board must not model them */
        ENGINE_CAP_SMP = 4,
        ENGINE_CAP_DEBUG = 8,        /* honours vcpu.debug */
        ENGINE_CAP_FAST = 16,        /* runs guest kernel code at a useful speed here (set by probe) */
        ENGINE_CAP_CHECK = 32,       /* honours vcpu.check */
};

struct cpu_engine {
        const char *name;
        const char *description;
        unsigned caps; /* static ones; probe may add */

        /* Can it run on this host? 0, or -errno and why not. @ret_caps: caps after looking at the host. */
        int (*probe)(unsigned *ret_caps, struct err **err);
        /* The part shared by all vCPUs of a machine. */
        int (*machine_create)(struct guest_memory *memory, unsigned n_vcpus, void **ret_machine, struct err **err);
        void (*machine_destroy)(void *machine);
        /* @vcpu has memory, ports, platform and engine_machine set. On the vCPU's thread or while it is stopped. */
        int (*vcpu_create)(struct vcpu *vcpu, struct err **err);
        void (*vcpu_destroy)(struct vcpu *vcpu);
        /* Runs from vcpu->state until there is a reason to stop, stores the state back and says why. On the vCPU's thread. */
        enum exit_reason (*run)(struct vcpu *vcpu);
        /* Makes run look at vcpu->work soon. From any thread, async-signal-safe. */
        void (*kick)(struct vcpu *vcpu);
        /* vcpu->state was changed from outside while stopped (load, debugger, engine switch): drop what was cached. */
        void (*state_changed)(struct vcpu *vcpu);
        /* This guest memory, in one page, holds other code now; from any thread. NULL when the hardware sees it by itself. */
        void (*code_written)(void *machine, u64 gpa, u64 len);
        /* What the engine has made of the guest's code, for machines that begin as copies of this one; these may be NULL. Files hold host code: one
         * that is loaded is trusted as this program is. */
        /* To the empty file @fd. All vCPUs are stopped. @id: of guest memory as it is now. */
        int (*code_save)(void *machine, int fd, u64 id, struct err **err);
        /* Guest memory is that of @id. What is of no use here is left, which is no error. @fd stays the caller's. All vCPUs exist and have not run. */
        int (*code_load)(void *machine, int fd, u64 id, struct err **err);
};

extern const struct cpu_engine interp_engine;
extern const struct cpu_engine translate_engine;
extern const struct cpu_engine kvm_engine;

/* All engines of this build, best first, NULL at the end. */
extern const struct cpu_engine *const cpu_engines[];
/* By name ("auto" picks the best that is fast here). NULL and an error when there is none or it cannot run here. */
const struct cpu_engine *cpu_engine_find(const char *name, struct err **err);

/* Moves a stopped vCPU to another engine whose machine part is @machine. On failure it stays where it was. */
int vcpu_set_engine(struct vcpu *vcpu, const struct cpu_engine *engine, void *machine, struct err **err);

/* Reads guest memory by linear address as a debugger does (no faults, no A/D bits). Returns bytes copied (may be short). */
size_t vcpu_peek(struct vcpu *vcpu, u64 gva, void *dst, size_t len);
size_t vcpu_poke(struct vcpu *vcpu, u64 gva, const void *src, size_t len);

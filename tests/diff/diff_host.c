/* Differential test of the interpreter against the CPU it runs on: random user-mode instructions are single-stepped in a traced child process
 * and in a guest with the same registers, flags, vector and x87 state and memory; everything must come out equal, faults included.
 *
 *      diff-host [--seed N] [--cases N] [--bits 32|64]
 *
 * --bits 32 runs compatibility mode instead of 64-bit mode. Prints one TAP line; on a difference the case, its seed and both outcomes. A case is reproduced by its own seed with --cases 1.
 *
 * The guest: long mode, CPL 3, the code page and four data pages mapped at the same linear addresses as in the child. Every exception vector
 * has a ring-0 handler that halts; which one was reached, the error code and the frame tell the outcome. TF is set on both sides, so an
 * instruction that does not fault ends in #DB. */
#include <Zydis/Zydis.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <elf.h>
#include <unistd.h>

/* <sys/user.h> and <elf.h> have names that our headers define. */
#undef PAGE_SIZE
#undef PAGE_MASK
#undef PF_W

#include "base/cleanup.h"
#include "cpu/cpu.h"

#define CODE_GVA 0x10000000ULL
#define CODE_SIZE 0x2000ULL
#define DATA_GVA 0x20000000ULL
#define DATA_SIZE 0x4000ULL
#define XSTATE_MAX 8192
#define XMM_OFFSET 160

/* ---- random numbers: splitmix64, so that a seed names a case on any machine ---- */

struct rng {
        u64 state;
};

static u64 rng_next(struct rng *rng)
{
        u64 z = rng->state += 0x9e3779b97f4a7c15ULL;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
}

static u64 rng_below(struct rng *rng, u64 n)
{
        return rng_next(rng) % n;
}

/* ---- a case ---- */

struct machine_case {
        bool compat; /* 32-bit code */
        u8 code[16];
        unsigned length;
        u64 rip;
        u64 gpr[16];
        u64 rflags;
        u64 fs_base, gs_base;
        u8 xsave[XSAVE_SIZE];
        u8 data[DATA_SIZE];
        ZydisDecodedInstruction insn;
};

enum outcome_kind { DONE, FAULT };

struct outcome {
        enum outcome_kind kind;
        unsigned vector;
        u64 address; /* #PF */
        u64 gpr[16], rip, rflags;
        u8 xsave[XSAVE_SIZE];
        const u8 *data;
};

static u64 interesting(struct rng *rng)
{
        static const u64 values[] = {
                0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
                0x8000000000000000, 0xffffffffffffffff, 0x5555555555555555, 63, 64, 31, 32,
        };

        switch (rng_below(rng, 8)) {
        case 0:
        case 1:
                return values[rng_below(rng, ARRAY_SIZE(values))];
        case 2:
                return rng_next(rng);
        case 3:
                return rng_below(rng, 256);
        default:
                return DATA_GVA + DATA_SIZE / 4 + rng_below(rng, DATA_SIZE / 2);
        }
}

static void random_vectors(struct rng *rng, u8 *xsave)
{
        static const u32 floats[] = { 0, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 1, 0x00800000,
                                      0x7f7fffff, 0x4f000000, 0xcf000000, 0x4b000000, 0x40490fdb };

        for (unsigned i = 0; i < 256; i += 4) {
                u32 lo = rng_below(rng, 3) ? floats[rng_below(rng, ARRAY_SIZE(floats))] : (u32)rng_next(rng);
                u32 hi = rng_below(rng, 3) ? floats[rng_below(rng, ARRAY_SIZE(floats))] : (u32)rng_next(rng);

                memcpy(xsave + XMM_OFFSET + i, &lo, 4);
                memcpy(xsave + XSAVE_YMM_OFFSET + i, &hi, 4);
        }
}

static void random_x87(struct rng *rng, u8 *xsave)
{
        u16 fcw = 0x37f, fsw = (u16)(rng_below(rng, 8) << 11);
        u32 mxcsr = 0x1f80 | (u32)rng_below(rng, 4) << 13;

        if (rng_below(rng, 4) == 0)
                fcw = (u16)(0x40 | (rng_next(rng) & 0xf3f)); /* some exceptions unmasked, any rounding and precision */
        if (rng_below(rng, 8) == 0)
                mxcsr = (u32)(rng_next(rng) & 0xffff);
        if (rng_below(rng, 16) == 0)
                fsw |= (u16)(rng_next(rng) & 0x4700);
        memcpy(xsave, &fcw, 2);
        memcpy(xsave + 2, &fsw, 2);
        xsave[4] = rng_below(rng, 3) ? 0xff : (u8)rng_next(rng); /* abridged tags */
        memcpy(xsave + 24, &mxcsr, 4);
        for (unsigned i = 0; i < 8; i++) {
                u64 mantissa = rng_next(rng) | BIT(63);
                u16 exponent = (u16)(0x3fff + rng_below(rng, 80) - 40 + (rng_below(rng, 2) << 15));

                if (rng_below(rng, 6) == 0)
                        exponent = (u16)rng_next(rng);
                if (rng_below(rng, 6) == 0)
                        mantissa = rng_next(rng);
                memcpy(xsave + 32 + i * 16, &mantissa, 8);
                memcpy(xsave + 32 + i * 16 + 8, &exponent, 2);
        }
}

/* What cannot be compared: it depends on the kernel or the CPU model, not on the instruction's semantics alone. */
static bool excluded(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
        switch (insn->meta.category) {
        case ZYDIS_CATEGORY_SYSCALL:
        case ZYDIS_CATEGORY_SYSRET:
        case ZYDIS_CATEGORY_INTERRUPT:
        case ZYDIS_CATEGORY_MPX:
        case ZYDIS_CATEGORY_CET:
        case ZYDIS_CATEGORY_PKU:
        case ZYDIS_CATEGORY_RDWRFSGS:
        case ZYDIS_CATEGORY_RDRAND:
        case ZYDIS_CATEGORY_RDSEED:
        case ZYDIS_CATEGORY_XSAVE:
        case ZYDIS_CATEGORY_XSAVEOPT:
        case ZYDIS_CATEGORY_SGX:
        case ZYDIS_CATEGORY_VTX:
        case ZYDIS_CATEGORY_WAITPKG:
        case ZYDIS_CATEGORY_KEYLOCKER:
        case ZYDIS_CATEGORY_KEYLOCKER_WIDE:
                return true;
        default:
                break;
        }
        if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || insn->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
            insn->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP || insn->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ||
            insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
                return true;
        for (unsigned i = 0; i < insn->operand_count; i++) {
                ZydisRegisterClass c;

                if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
                        continue;
                c = ZydisRegisterGetClass(ops[i].reg.value);
                if (c == ZYDIS_REGCLASS_SEGMENT || c == ZYDIS_REGCLASS_MASK || c == ZYDIS_REGCLASS_ZMM || c == ZYDIS_REGCLASS_BOUND ||
                    c == ZYDIS_REGCLASS_TMM)
                        return true;
        }
        switch (insn->mnemonic) {
        case ZYDIS_MNEMONIC_RDTSC:
        case ZYDIS_MNEMONIC_RDTSCP:
        case ZYDIS_MNEMONIC_RDPMC:
        case ZYDIS_MNEMONIC_RDPID:
        case ZYDIS_MNEMONIC_CPUID:
        case ZYDIS_MNEMONIC_XGETBV:
        case ZYDIS_MNEMONIC_SGDT:
        case ZYDIS_MNEMONIC_SIDT:
        case ZYDIS_MNEMONIC_SLDT:
        case ZYDIS_MNEMONIC_STR:
        case ZYDIS_MNEMONIC_SMSW:
        case ZYDIS_MNEMONIC_LAR:
        case ZYDIS_MNEMONIC_LSL:
        case ZYDIS_MNEMONIC_VERR:
        case ZYDIS_MNEMONIC_VERW:
        case ZYDIS_MNEMONIC_LDS:
        case ZYDIS_MNEMONIC_LES:
        case ZYDIS_MNEMONIC_LSS:
        case ZYDIS_MNEMONIC_LFS:
        case ZYDIS_MNEMONIC_LGS:
        case ZYDIS_MNEMONIC_FXSAVE:
        case ZYDIS_MNEMONIC_FXSAVE64:
        case ZYDIS_MNEMONIC_FNSTENV:
        case ZYDIS_MNEMONIC_FNSAVE:
        case ZYDIS_MNEMONIC_XBEGIN:
        case ZYDIS_MNEMONIC_XABORT:
        case ZYDIS_MNEMONIC_XTEST:
        case ZYDIS_MNEMONIC_XEND:
        case ZYDIS_MNEMONIC_VMCALL:
        case ZYDIS_MNEMONIC_VMMCALL:
        case ZYDIS_MNEMONIC_VMFUNC:
        case ZYDIS_MNEMONIC_SERIALIZE:
        case ZYDIS_MNEMONIC_MONITOR:
        case ZYDIS_MNEMONIC_MWAIT:
        case ZYDIS_MNEMONIC_IRET:
        case ZYDIS_MNEMONIC_IRETD:
        case ZYDIS_MNEMONIC_IRETQ:
        case ZYDIS_MNEMONIC_POPF:
        case ZYDIS_MNEMONIC_POPFD:
        case ZYDIS_MNEMONIC_POPFQ:
        case ZYDIS_MNEMONIC_UD0: /* the decoder and processors disagree about its length */
        case ZYDIS_MNEMONIC_UD1:
        case ZYDIS_MNEMONIC_XSETBV:
        case ZYDIS_MNEMONIC_GETSEC:
        case ZYDIS_MNEMONIC_ENQCMD:
        case ZYDIS_MNEMONIC_MOVDIR64B:
        case ZYDIS_MNEMONIC_MOVDIRI:
        case ZYDIS_MNEMONIC_RDPRU:
                return true;
        default:
                return false;
        }
}

/* REX prefixes are INC and DEC in 32-bit code: wanted there now and then as well. */
static unsigned random_bytes(struct rng *rng, u8 code[16])
{
        static const u8 prefixes[] = { 0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x67 };
        unsigned n = 0;

        for (unsigned i = 0; i < 16; i++)
                code[i] = (u8)rng_next(rng);
        while (n < 3 && rng_below(rng, 3) == 0)
                code[n++] = prefixes[rng_below(rng, rng_below(rng, 4) ? 3 : ARRAY_SIZE(prefixes))];
        switch (rng_below(rng, 8)) {
        case 0: /* VEX */
        case 1:
                n = 0;
                if (rng_below(rng, 2)) {
                        code[n++] = 0xc5;
                        code[n++] = (u8)rng_next(rng);
                } else {
                        code[n++] = 0xc4;
                        code[n++] = (u8)((rng_next(rng) & 0xe0) | (1 + rng_below(rng, 3)));
                        code[n++] = (u8)rng_next(rng);
                }
                break;
        case 2:
        case 3:
        case 4:
                if (rng_below(rng, 2))
                        code[n++] = (u8)(0x40 | rng_below(rng, 16));
                code[n++] = 0x0f;
                if (rng_below(rng, 4) == 0)
                        code[n++] = rng_below(rng, 2) ? 0x38 : 0x3a;
                break;
        case 5:
                code[n++] = (u8)(0xd8 + rng_below(rng, 8)); /* x87 */
                break;
        default:
                if (rng_below(rng, 2))
                        code[n++] = (u8)(0x40 | rng_below(rng, 16));
        }
        return n;
}

/* Makes a 32-bit displacement small, so that most memory operands lie in the data pages. */
static void tame_displacement(struct rng *rng, struct machine_case *c)
{
        const ZydisDecodedInstruction *insn = &c->insn;
        s64 v = (s64)rng_below(rng, 2048) - 1024;

        if (insn->raw.disp.size < 32 || rng_below(rng, 16) == 0)
                return;
        if (insn->attributes & ZYDIS_ATTRIB_IS_RELATIVE && insn->raw.imm[0].size == 0)
                v += (s64)(DATA_GVA + DATA_SIZE / 2 - CODE_GVA);
        else if (insn->raw.disp.size == 64 || (c->compat && insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 5) ||
                 (insn->raw.modrm.rm == 4 && insn->raw.sib.base == 5 && insn->raw.modrm.mod == 0))
                v += (s64)(DATA_GVA + DATA_SIZE / 2);
        memcpy(c->code + insn->raw.disp.offset, &v, insn->raw.disp.size / 8);
}

static bool make_case(struct rng *rng, const ZydisDecoder *decoder, struct machine_case *c)
{
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

        random_bytes(rng, c->code);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, c->code, 15, &c->insn, ops)) || excluded(&c->insn, ops))
                return false;
        tame_displacement(rng, c);
        c->length = c->insn.length;
        c->rip = CODE_GVA + 64 + rng_below(rng, 1024);
        for (unsigned i = 0; i < 16; i++)
                c->gpr[i] = c->compat ? (i < 8 ? (u32)interesting(rng) : 0) : interesting(rng);
        if (rng_below(rng, 4))
                c->gpr[RSP] = DATA_GVA + DATA_SIZE / 2 + rng_below(rng, 256) * 8;
        if (c->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
                c->gpr[RCX] = rng_below(rng, 6);
        if (rng_below(rng, 2)) { /* memory that VEX and SSE like */
                for (unsigned i = 0; i < 16; i++)
                        if (c->gpr[i] >= DATA_GVA && c->gpr[i] < DATA_GVA + DATA_SIZE)
                                c->gpr[i] &= ~31ULL;
        }
        c->rflags = (rng_next(rng) & RFLAGS_ARITH) | RFLAGS_FIXED | RFLAGS_IF | RFLAGS_TF;
        if (rng_below(rng, 8) == 0)
                c->rflags |= RFLAGS_DF;
        c->fs_base = c->compat ? 0 : DATA_GVA + rng_below(rng, 64) * 8;
        c->gs_base = c->compat ? 0 : DATA_GVA + rng_below(rng, 64) * 8;
        memset(c->xsave, 0, sizeof(c->xsave));
        random_vectors(rng, c->xsave);
        random_x87(rng, c->xsave);
        for (unsigned i = 0; i < DATA_SIZE; i += 8) {
                u64 v = rng_next(rng);

                memcpy(c->data + i, &v, 8);
        }
        return true;
}

/* ---- the host side: a traced child that shares the code and data pages ---- */

struct host {
        pid_t pid;
        u8 *code, *data;
        u8 xstate[XSTATE_MAX];
        size_t xstate_size;
};

_noreturn_ static void child_main(int fd)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        mmap((void *)CODE_GVA, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
        mmap((void *)DATA_GVA, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)CODE_SIZE);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit(1);
}

static int host_start(struct host *host)
{
        int fd = memfd_create("diff", 0), status;
        struct iovec iov = { host->xstate, sizeof(host->xstate) };
        u8 *shared;

        if (fd < 0 || ftruncate(fd, (off_t)(CODE_SIZE + DATA_SIZE)) < 0)
                return -errno;
        shared = mmap(NULL, CODE_SIZE + DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared == MAP_FAILED)
                return -errno;
        host->code = shared;
        host->data = shared + CODE_SIZE;
        host->pid = fork();
        if (host->pid < 0)
                return -errno;
        if (host->pid == 0)
                child_main(fd);
        close(fd);
        if (waitpid(host->pid, &status, 0) < 0 || !WIFSTOPPED(status))
                return -ECHILD;
        ptrace(PTRACE_SETOPTIONS, host->pid, NULL, (void *)PTRACE_O_EXITKILL);
        if (ptrace(PTRACE_GETREGSET, host->pid, (void *)NT_X86_XSTATE, &iov) < 0)
                return -errno;
        host->xstate_size = iov.iov_len;
        return 0;
}

static void regs_from_case(const struct machine_case *c, struct user_regs_struct *r)
{
        r->rax = c->gpr[RAX], r->rcx = c->gpr[RCX], r->rdx = c->gpr[RDX], r->rbx = c->gpr[RBX];
        r->rsp = c->gpr[RSP], r->rbp = c->gpr[RBP], r->rsi = c->gpr[RSI], r->rdi = c->gpr[RDI];
        r->r8 = c->gpr[8], r->r9 = c->gpr[9], r->r10 = c->gpr[10], r->r11 = c->gpr[11];
        r->r12 = c->gpr[12], r->r13 = c->gpr[13], r->r14 = c->gpr[14], r->r15 = c->gpr[15];
        r->rip = c->rip;
        r->eflags = c->rflags & ~RFLAGS_TF; /* PTRACE_SINGLESTEP sets it */
        r->fs_base = c->fs_base;
        r->gs_base = c->gs_base;
        r->orig_rax = ~0ULL;
        r->cs = c->compat ? 0x23 : 0x33; /* Linux' user code segments */
        r->ss = 0x2b;
        r->ds = r->es = r->fs = r->gs = c->compat ? 0x2b : 0;
}

static void outcome_from_regs(const struct user_regs_struct *r, struct outcome *o)
{
        const u64 gpr[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
                              r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

        memcpy(o->gpr, gpr, sizeof(gpr));
        o->rip = r->rip;
        o->rflags = r->eflags;
}

static void outcome_from_signal(const siginfo_t *si, struct outcome *o)
{
        o->kind = FAULT;
        switch (si->si_signo) {
        case SIGTRAP:
                o->kind = DONE;
                break;
        case SIGILL:
                o->vector = EXC_UD;
                break;
        case SIGFPE:
                o->vector = si->si_code == FPE_INTDIV ? EXC_DE : EXC_MF; /* #XM is folded into #MF by the comparison */
                break;
        case SIGBUS:
                o->vector = EXC_SS;
                break;
        default:
                if (si->si_code == SEGV_MAPERR || si->si_code == SEGV_ACCERR) {
                        o->vector = EXC_PF;
                        o->address = (uintptr_t)si->si_addr;
                } else {
                        o->vector = EXC_GP;
                }
        }
}

static int host_run(struct host *host, const struct machine_case *c, struct outcome *o)
{
        struct user_regs_struct regs;
        struct iovec iov = { host->xstate, host->xstate_size };
        siginfo_t si;
        int status;
        const u64 xstate_bv = XCR0_SUPPORTED;

        memcpy(host->code + (c->rip - CODE_GVA), c->code, 16);
        memcpy(host->data, c->data, DATA_SIZE);
        memcpy(host->xstate, c->xsave, 416);
        memcpy(host->xstate + XSAVE_YMM_OFFSET, c->xsave + XSAVE_YMM_OFFSET, 256);
        memcpy(host->xstate + 512, &xstate_bv, 8);
        if (ptrace(PTRACE_SETREGSET, host->pid, (void *)NT_X86_XSTATE, &iov) < 0 ||
            ptrace(PTRACE_GETREGS, host->pid, NULL, &regs) < 0)
                return -errno;
        regs_from_case(c, &regs);
        if (ptrace(PTRACE_SETREGS, host->pid, NULL, &regs) < 0 || ptrace(PTRACE_SINGLESTEP, host->pid, NULL, NULL) < 0 ||
            waitpid(host->pid, &status, 0) < 0 || !WIFSTOPPED(status) ||
            ptrace(PTRACE_GETSIGINFO, host->pid, NULL, &si) < 0 || ptrace(PTRACE_GETREGS, host->pid, NULL, &regs) < 0)
                return -errno;
        iov.iov_len = sizeof(host->xstate);
        if (ptrace(PTRACE_GETREGSET, host->pid, (void *)NT_X86_XSTATE, &iov) < 0)
                return -errno;
        outcome_from_signal(&si, o);
        outcome_from_regs(&regs, o);
        memcpy(&o->xsave, host->xstate, 416);
        memcpy(o->xsave + XSAVE_YMM_OFFSET, host->xstate + XSAVE_YMM_OFFSET, 256);
        {
                u64 bv;

                /* Components that came back in their initial state are not in the buffer. */
                memcpy(&bv, host->xstate + 512, 8);
                if (!(bv & XCR0_AVX))
                        memset(o->xsave + XSAVE_YMM_OFFSET, 0, 256);
                if (!(bv & XCR0_SSE))
                        memset(o->xsave + XMM_OFFSET, 0, 256);
        }
        o->data = host->data;
        return 0;
}

/* ---- the guest side ---- */

#define KERNEL_GVA 0xffff800000000000ULL /* maps guest-physical 0 */
#define PA_PML4 0x1000
#define PA_KERNEL_PDPT 0x2000
#define PA_KERNEL_PD 0x3000
#define PA_KERNEL_PT 0x4000
#define PA_USER_PDPT 0x5000
#define PA_USER_PD 0x6000
#define PA_CODE_PT 0x7000
#define PA_DATA_PT 0x8000
#define PA_GDT 0x9000
#define PA_IDT 0xa000
#define PA_TSS 0xb000
#define PA_STUBS 0xc000
#define PA_STACK_TOP 0xf000
#define PA_CODE 0x10000
#define PA_DATA 0x20000

struct guest {
        struct vcpu vcpu;
        struct guest_memory *memory;
        struct io_space ports;
        pthread_mutex_t lock;
        void *machine;
};

static void poke64(struct guest *g, u64 gpa, u64 v)
{
        guest_memory_write(g->memory, gpa, &v, 8);
}

static void build_tables(struct guest *g)
{
        const u64 user = 7, kernel = 3;

        poke64(g, PA_PML4, PA_USER_PDPT | user);
        poke64(g, PA_PML4 + 256 * 8, PA_KERNEL_PDPT | kernel);
        poke64(g, PA_KERNEL_PDPT, PA_KERNEL_PD | kernel);
        poke64(g, PA_KERNEL_PD, PA_KERNEL_PT | kernel);
        for (unsigned i = 0; i < 16; i++)
                poke64(g, PA_KERNEL_PT + i * 8, i * 4096 | kernel);
        poke64(g, PA_USER_PDPT, PA_USER_PD | user);
        poke64(g, PA_USER_PD + (CODE_GVA >> 21) * 8, PA_CODE_PT | user);
        poke64(g, PA_USER_PD + (DATA_GVA >> 21) * 8, PA_DATA_PT | user);
        for (unsigned i = 0; i < CODE_SIZE / 4096; i++)
                poke64(g, PA_CODE_PT + i * 8, (PA_CODE + i * 4096) | user);
        for (unsigned i = 0; i < DATA_SIZE / 4096; i++)
                poke64(g, PA_DATA_PT + i * 8, (PA_DATA + i * 4096) | user);
        /* Kernel code 0x08, user data 0x1b, user code 0x23, TSS 0x28. */
        poke64(g, PA_GDT + 0x08, 0x00209b0000000000ULL);
        poke64(g, PA_GDT + 0x18, 0x00cff3000000ffffULL);
        poke64(g, PA_GDT + 0x20, 0x00affb000000ffffULL);
        poke64(g, PA_TSS + 4, KERNEL_GVA + PA_STACK_TOP);
        poke64(g, PA_TSS + 0x60, 0x68ULL << 48); /* no I/O bitmap: all ports forbidden, as on the host */
        for (unsigned v = 0; v < 32; v++) {
                const u64 stub = KERNEL_GVA + PA_STUBS + v * 16;
                const u8 hlt = 0xf4;

                guest_memory_write(g->memory, PA_STUBS + v * 16, &hlt, 1);
                poke64(g, PA_IDT + v * 16, (stub & 0xffff) | 0x08ULL << 16 | 0x8eULL << 40 | (stub >> 16 & 0xffff) << 48);
                poke64(g, PA_IDT + v * 16 + 8, stub >> 32);
        }
}

static int guest_start(struct guest *g, struct err **err)
{
        int r;

        pthread_mutex_init(&g->lock, NULL);
        io_space_init(&g->ports, &g->lock, NULL, true);
        r = guest_memory_new(1 * MIB, &g->lock, NULL, &g->memory, err);
        if (r == 0)
                r = interp_engine.machine_create(g->memory, 1, &g->machine, err);
        if (r < 0)
                return r;
        g->vcpu = (struct vcpu){ .n_vcpus = 1, .engine = &interp_engine, .engine_machine = g->machine, .memory = g->memory,
                                 .ports = &g->ports };
        cpu_state_reset(&g->vcpu.state, true);
        build_tables(g);
        return interp_engine.vcpu_create(&g->vcpu, err);
}

static struct seg flat_segment(u16 selector, u16 attr)
{
        return (struct seg){ .selector = selector, .attr = attr, .limit = 0xffffffff };
}

static void guest_state(const struct machine_case *c, struct cpu_state *s)
{
        const struct seg data = flat_segment(0x1b, 0xc0f3);

        memcpy(s->gpr, c->gpr, sizeof(s->gpr));
        s->rip = c->rip;
        s->rflags = c->rflags;
        for (unsigned i = 0; i < SEG_COUNT; i++)
                s->seg[i] = data;
        s->seg[SEG_CS] = c->compat ? flat_segment(0x33, 0xc0fb) : flat_segment(0x23, 0xa0fb);
        s->seg[SEG_FS].base = c->fs_base;
        s->seg[SEG_GS].base = c->gs_base;
        s->tr = (struct seg){ .selector = 0x28, .attr = 0x8b, .limit = 0x67, .base = KERNEL_GVA + PA_TSS };
        s->gdtr = (struct dtable){ KERNEL_GVA + PA_GDT, 0x3f };
        s->idtr = (struct dtable){ KERNEL_GVA + PA_IDT, 32 * 16 - 1 };
        s->paging = (struct paging_state){
                .cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG,
                .cr3 = PA_PML4,
                .cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE,
                .efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE,
        };
        s->xcr0 = XCR0_SUPPORTED;
        s->cpl = 3;
        s->dr[6] = 0xffff0ff0;
        s->dr[7] = 0x400;
        s->halted = s->sti_shadow = s->mov_ss_shadow = false;
        memcpy(s->xsave, c->xsave, XSAVE_SIZE);
}

static u64 stack_slot(struct guest *g, unsigned n)
{
        u64 v = 0;

        guest_memory_read(g->memory, g->vcpu.state.gpr[RSP] - KERNEL_GVA + n * 8, &v, 8);
        return v;
}

static int guest_run(struct guest *g, const struct machine_case *c, struct outcome *o)
{
        struct cpu_state *s = &g->vcpu.state;
        enum exit_reason reason;
        unsigned at = 0;

        guest_state(c, s);
        guest_memory_write(g->memory, PA_CODE + (c->rip - CODE_GVA), c->code, 16);
        guest_memory_write(g->memory, PA_DATA, c->data, DATA_SIZE);
        reason = g->vcpu.engine->run(&g->vcpu);
        if (reason != EXIT_HALTED || s->rip < KERNEL_GVA + PA_STUBS) {
                fprintf(stderr, "# guest ended with %s at 0x%lx\n", exit_name(reason), s->rip);
                return -EIO;
        }
        o->vector = (unsigned)(s->rip - 1 - KERNEL_GVA - PA_STUBS) / 16;
        o->kind = o->vector == EXC_DB ? DONE : FAULT;
        if (o->vector == EXC_DF || (o->vector >= EXC_TS && o->vector <= EXC_PF) || o->vector == EXC_AC)
                at = 1; /* error code */
        o->rip = stack_slot(g, at);
        o->rflags = stack_slot(g, at + 2);
        memcpy(o->gpr, s->gpr, sizeof(o->gpr));
        o->gpr[RSP] = stack_slot(g, at + 3);
        o->address = o->vector == EXC_PF ? s->cr2 : 0;
        memcpy(o->xsave, s->xsave, XSAVE_SIZE);
        o->data = guest_memory_hva(g->memory, PA_DATA, DATA_SIZE);
        return 0;
}

/* ---- comparison ---- */

static u64 comparable_flags(const struct machine_case *c)
{
        u64 mask = RFLAGS_ARITH | RFLAGS_DF;

        if (c->insn.cpu_flags)
                mask &= ~(u64)c->insn.cpu_flags->undefined;
        /* Zydis does not know that these depend on the count: with other counts OF (and for SHLD/SHRD beyond the size, all) are undefined. */
        switch (c->insn.mnemonic) {
        case ZYDIS_MNEMONIC_SHLD:
        case ZYDIS_MNEMONIC_SHRD:
        case ZYDIS_MNEMONIC_MUL:
        case ZYDIS_MNEMONIC_IMUL:
        case ZYDIS_MNEMONIC_DIV:
        case ZYDIS_MNEMONIC_IDIV:
                mask &= ~RFLAGS_ARITH;
                break;
        default:
                break;
        }
        return mask;
}

static unsigned fold_vector(unsigned vector)
{
        return vector == EXC_XM ? EXC_MF : vector;
}

/* Long or masked operands: which of their bytes faults first is up to the processor. */
static bool faults_in_any_order(ZydisMnemonic mnemonic)
{
        switch (mnemonic) {
        case ZYDIS_MNEMONIC_MASKMOVQ:
        case ZYDIS_MNEMONIC_MASKMOVDQU:
        case ZYDIS_MNEMONIC_VMASKMOVDQU:
        case ZYDIS_MNEMONIC_FXRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR64:
        case ZYDIS_MNEMONIC_FRSTOR:
        case ZYDIS_MNEMONIC_FLDENV:
                return true;
        default:
                return false;
        }
}

static const char *compare(const struct machine_case *c, const struct outcome *a, const struct outcome *b)
{
        if (a->kind != b->kind)
                return "fault or not";
        if (a->kind == FAULT && fold_vector(a->vector) != fold_vector(b->vector))
                return "vector";
        if (a->kind == FAULT && a->vector == EXC_PF && (a->address ^ b->address) & PAGE_MASK && !faults_in_any_order(c->insn.mnemonic))
                return "fault address";
        for (unsigned i = 0; i < 16; i++) {
                u64 difference = a->gpr[i] ^ b->gpr[i];

                /* REP with 32-bit addresses clears the upper halves on some processors, even when it faults or has nothing to do. */
                if (c->insn.address_width == 32 && c->insn.meta.category == ZYDIS_CATEGORY_STRINGOP)
                        difference = (u32)difference;
                if (difference)
                        return "registers";
        }
        if (a->rip != b->rip)
                return "rip";
        if (memcmp(a->data, b->data, DATA_SIZE) != 0)
                return "memory";
        /* Between two iterations of REP CMPS or SCAS processors may still show the old flags. */
        if ((a->rflags ^ b->rflags) & comparable_flags(c) && !(a->kind == DONE && a->rip == c->rip))
                return "flags";
        /* A gather that faults may have loaded elements beyond the faulting one. SDM 2C, VGATHERDPS. */
        if (a->kind == FAULT &&
            (c->insn.meta.category == ZYDIS_CATEGORY_AVX2GATHER || c->insn.meta.isa_ext == ZYDIS_ISA_EXT_AVX2GATHER))
                return NULL;
        if (memcmp(a->xsave + XMM_OFFSET, b->xsave + XMM_OFFSET, 256) != 0)
                return "xmm";
        if (memcmp(a->xsave + XSAVE_YMM_OFFSET, b->xsave + XSAVE_YMM_OFFSET, 256) != 0)
                return "ymm";
        /* A converting store that faults has already set its status flags on some processors. */
        if (memcmp(a->xsave + 24, b->xsave + 24, 4) != 0 && !(a->kind == FAULT && c->insn.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH))
                return "mxcsr";
        /* A faulting MMX store has already reset the x87 stack on some processors: not architectural. */
        if (a->kind == FAULT && c->insn.meta.isa_ext != ZYDIS_ISA_EXT_X87)
                return NULL;
        if (memcmp(a->xsave, b->xsave, 5) != 0)
                return "x87 control, status or tags";
        for (unsigned i = 0; i < 8; i++)
                if (memcmp(a->xsave + 32 + i * 16, b->xsave + 32 + i * 16, 10) != 0)
                        return "x87 registers";
        return NULL;
}

static void decoder_setup(ZydisDecoder *decoder, bool compat)
{
        if (compat)
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
        else
                ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

static void print_outcome(const char *who, const struct machine_case *c, const struct outcome *o)
{
        printf("#   %s: %s", who, o->kind == DONE ? "done" : "fault");
        if (o->kind == FAULT)
                printf(" vector %u address 0x%lx", o->vector, o->address);
        printf(" rip+0x%lx rflags 0x%lx fcw/fsw/tag %02x%02x/%02x%02x/%02x mxcsr %02x%02x\n", o->rip - c->rip, o->rflags,
               o->xsave[1], o->xsave[0], o->xsave[3], o->xsave[2], o->xsave[4], o->xsave[25], o->xsave[24]);
}

static void report(const struct machine_case *c, u64 seed, const char *what, const struct outcome *host,
                   const struct outcome *guest)
{
        static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                             "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
        ZydisFormatter formatter;
        char text[128] = "?";
        ZydisDecoder decoder;
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

        decoder_setup(&decoder, c->compat);
        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, c->code, 15, &insn, ops)))
                ZydisFormatterFormatInstruction(&formatter, &insn, ops, insn.operand_count_visible, text, sizeof(text), c->rip,
                                                NULL);
        printf("# difference in %s: %s, seed %lu, bytes", what, text, seed);
        for (unsigned i = 0; i < c->length; i++)
                printf(" %02x", c->code[i]);
        printf("\n");
        print_outcome("host ", c, host);
        print_outcome("guest", c, guest);
        for (unsigned i = 0; i < 16; i++)
                if (host->gpr[i] != guest->gpr[i])
                        printf("#   %s: before 0x%lx host 0x%lx guest 0x%lx\n", names[i], c->gpr[i], host->gpr[i], guest->gpr[i]);
}

int main(int argc, char **argv)
{
        u64 seed = 1, cases = 20000, done = 0, faults = 0, differences = 0;
        static struct machine_case c;
        static struct outcome host_outcome, guest_outcome;
        static struct host host;
        static struct guest guest;
        static bool seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
        _cleanup_(err_freep) struct err *err = NULL;
        unsigned mnemonics = 0;
        ZydisDecoder decoder;

        for (int i = 1; i + 1 < argc; i += 2) {
                if (strcmp(argv[i], "--seed") == 0)
                        seed = strtoull(argv[i + 1], NULL, 0);
                else if (strcmp(argv[i], "--cases") == 0)
                        cases = strtoull(argv[i + 1], NULL, 0);
                else if (strcmp(argv[i], "--bits") == 0)
                        c.compat = strcmp(argv[i + 1], "32") == 0;
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        decoder_setup(&decoder, c.compat);
        if (host_start(&host) < 0) {
                printf("1..1\nok 1 - interp_equals_host # SKIP this host does not let a process trace its child\n");
                return 0;
        }
        if (guest_start(&guest, &err) < 0) {
                err_print(err, argv[0]);
                return 1;
        }
        for (u64 s = seed; done < cases; s++) {
                struct rng rng = { s };
                const char *what;

                if (!make_case(&rng, &decoder, &c)) {
                        if (cases == 1)
                                break;
                        continue;
                }
                if (host_run(&host, &c, &host_outcome) < 0 || guest_run(&guest, &c, &guest_outcome) < 0) {
                        printf("# seed %lu could not be run\n", s);
                        differences++;
                        break;
                }
                done++;
                faults += host_outcome.kind == FAULT;
                mnemonics += !seen[c.insn.mnemonic];
                seen[c.insn.mnemonic] = true;
                what = compare(&c, &host_outcome, &guest_outcome);
                if (what) {
                        report(&c, s, what, &host_outcome, &guest_outcome);
                        if (++differences == 20)
                                break;
                }
        }
        kill(host.pid, SIGKILL);
        printf("# %lu cases from seed %lu, %u different instructions, %lu faults\n1..1\n%s 1 - interp_equals_host_%s_bit\n", done, seed,
               mnemonics, faults, differences ? "not ok" : "ok", c.compat ? "32" : "64");
        return differences != 0;
}

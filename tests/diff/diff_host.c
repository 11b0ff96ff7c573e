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
#include "guest.h"

#define XSTATE_MAX 8192

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
static unsigned random_bytes(struct rng *rng, u8 *code)
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
        case_random_state(rng, c);
        c->rflags |= RFLAGS_TF;
        if (c->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
                c->gpr[RCX] = rng_below(rng, 6);
        if (rng_below(rng, 2)) { /* memory that VEX and SSE like */
                for (unsigned i = 0; i < 16; i++)
                        if (c->gpr[i] >= DATA_GVA && c->gpr[i] < DATA_GVA + DATA_SIZE)
                                c->gpr[i] &= ~31ULL;
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
        printf("# difference in %s, seed %lu:\n", what, seed);
        case_print_code(c);
        print_outcome("host ", c, host);
        print_outcome("guest", c, guest);
        for (unsigned i = 0; i < 16; i++)
                if (host->gpr[i] != guest->gpr[i])
                        printf("#   %s: before 0x%lx host 0x%lx guest 0x%lx\n", gpr_names[i], c->gpr[i], host->gpr[i], guest->gpr[i]);
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
        case_decoder(&decoder, c.compat);
        if (host_start(&host) < 0) {
                printf("1..1\nok 1 - interp_equals_host # SKIP this host does not let a process trace its child\n");
                return 0;
        }
        if (guest_start(&guest, &interp_engine, &err) < 0) {
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
                if (host_run(&host, &c, &host_outcome) < 0 || guest_run(&guest, &c, false, &guest_outcome) < 0 || guest_outcome.vector >= GUEST_STUB_SYSCALL) {
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

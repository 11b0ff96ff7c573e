/* The classification, proved on the CPU: every sensitive instruction is executed at CPL 3, and what the hardware does
 * is compared with what the tables say for the settings that this host has.
 *
 * Each proof is a few instructions (isa_proof.def), copied into a page of a forked child and entered there, in 64-bit
 * mode or through a far return in compatibility mode. A child that gets to the end exits with 0; one that faults dies
 * by the signal that Linux makes of the exception: SIGSEGV for #GP, SIGILL for #UD.
 *
 * Linux hides one fault from processes: under UMIP it emulates sgdt and its kin with made-up results. To do so it reads
 * the instruction, so the page is made execute-only, which protection keys enforce on the kernel too; then emulation
 * fails and the fault becomes visible. Source: Linux's Documentation/core-api/protection-keys.rst. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "isa/isa.h"

/* The proof's pages, at fixed addresses so that its code can name them. */
#define CODE_ADDRESS 0x10000000
#define DATA_ADDRESS 0x10010000
#define STACK_TOP 0x10024000
#define DATA_SIZE (STACK_TOP - DATA_ADDRESS)
#define CODE_SIZE 4096
#define EXIT_OK_OFFSET 0x800
#define EXIT_BAD_OFFSET 0x840
#define TEXT(x) TEXT2(x)
#define TEXT2(x) #x

#define K(knob) (1u << ISA_KNOB_##knob)

/* --- The code --- */

/* To the exit stub that reports an effect that was not promised: push $CODE_ADDRESS + EXIT_BAD_OFFSET; ret. The bytes
 * are the same in both modes; the stub is 64-bit code, and in compatibility mode its system call is #UD or enters. */
#define BAD ".byte 0x68, 0x40, 0x08, 0x00, 0x10, 0xc3;"
#define LONG_BEGIN ".code64;"
#define COMPAT_BEGIN ".code32;"
#define ISA_PROOF(id, row, mode, need, enters, code)                                                                   \
        __asm__(".pushsection .rodata, \"a\", @progbits\n"                                                             \
                ".globl proof_" #id ", proof_" #id "_end\n"                                                            \
                "proof_" #id ":\n" mode##_BEGIN code "\n"                                                              \
                "proof_" #id "_end:\n"                                                                                 \
                ".code64\n.popsection");                                                                               \
        extern const u8 proof_##id[], proof_##id##_end[];
#define ISA_NO_PROOF(row, why)
#include "isa_proof.def"
#undef ISA_PROOF
#undef ISA_NO_PROOF

/* In: rdi the stack. Leaves to the code page in compatibility mode. */
extern const u8 enter_compat[], enter_long[];
__asm__(".pushsection .text\n"
        ".globl enter_long, enter_compat\n"
        "enter_long:\n"
        "mov %rdi, %rsp; push $0; popfq; call clear_registers; mov $" TEXT(DATA_ADDRESS) ", %edi;"
        "push $" TEXT(CODE_ADDRESS) "; ret\n"
        "enter_compat:\n"
        "mov %rdi, %rsp; push $0; popfq; call clear_registers; mov $" TEXT(DATA_ADDRESS) ", %edi;"
        /* Linux's __USER32_CS and __USER_DS */
        "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es; xor %eax, %eax;"
        "push $0x23; push $" TEXT(CODE_ADDRESS) "; lretq\n"
        "clear_registers:\n"
        "xor %eax, %eax; xor %ebx, %ebx; xor %ecx, %ecx; xor %edx, %edx; xor %esi, %esi; xor %ebp, %ebp;"
        "xor %r8d, %r8d; xor %r9d, %r9d; xor %r10d, %r10d; xor %r11d, %r11d; xor %r12d, %r12d; xor %r13d, %r13d;"
        "xor %r14d, %r14d; xor %r15d, %r15d; ret\n"
        ".popsection");

/* exit_group(status), 64-bit */
#define EXIT_STUB(status) { 0xb8, 0xe7, 0, 0, 0, 0xbf, status, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b }
static const u8 exit_ok[] = EXIT_STUB(0), exit_bad[] = EXIT_STUB(1);
/* 64-bit: mov $EXIT_OK, %eax; jmp *%rax. 32-bit: ljmp $0x33, $EXIT_OK (Linux's __USER_CS). */
static const u8 long_end[] = { 0xb8, 0x00, 0x08, 0x00, 0x10, 0xff, 0xe0 };
static const u8 compat_end[] = { 0xea, 0x00, 0x08, 0x00, 0x10, 0x33, 0x00 };

/* --- What the CPU has --- */

enum feature {
        FEATURE_NONE, FEATURE_FSGSBASE, FEATURE_ENQCMD, FEATURE_INVPCID, FEATURE_SVM, FEATURE_INVLPGB, FEATURE_RDTSCP,
        FEATURE_RDPID, FEATURE_RDPRU, FEATURE_HRESET, FEATURE_PCONFIG, FEATURE_MONITOR, FEATURE_MONITORX,
        FEATURE_WAITPKG, FEATURE_XSAVE, FEATURE_XSAVEOPT, FEATURE_XSAVEC, FEATURE_XSAVES, FEATURE_SMAP, FEATURE_PKU,
        FEATURE_CET, FEATURE_MPX, FEATURE_KL, FEATURE_VMX, FEATURE_BARE_VMX, FEATURE_BARE_SVM, FEATURE_SNP,
        FEATURE_SMX, FEATURE_SGX, FEATURE_SEP, FEATURE_COUNT
};

enum { EAX_, EBX_, ECX_, EDX_ };

enum quirk {
        STRICT,
        BARE,  /* only where no hypervisor would take the instruction */
        LOOSE, /* #UD or #GP, by an enable bit that a process cannot see or by the maker of the CPU */
};

static const struct {
        const char *name;
        u32 leaf, subleaf;
        u8 reg, bit;
        enum quirk quirk;
} features[FEATURE_COUNT] = {
        [FEATURE_FSGSBASE] = { "fsgsbase", 7, 0, EBX_, 0, STRICT },
        [FEATURE_ENQCMD] = { "enqcmd", 7, 0, ECX_, 29, STRICT },
        [FEATURE_INVPCID] = { "invpcid", 7, 0, EBX_, 10, STRICT },
        [FEATURE_SVM] = { "svm", 0x80000001, 0, ECX_, 2, LOOSE },
        [FEATURE_INVLPGB] = { "invlpgb", 0x80000008, 0, EBX_, 3, STRICT },
        [FEATURE_RDTSCP] = { "rdtscp", 0x80000001, 0, EDX_, 27, STRICT },
        [FEATURE_RDPID] = { "rdpid", 7, 0, ECX_, 22, STRICT },
        [FEATURE_RDPRU] = { "rdpru", 0x80000008, 0, EBX_, 4, STRICT },
        [FEATURE_HRESET] = { "hreset", 7, 1, EAX_, 22, STRICT },
        [FEATURE_PCONFIG] = { "pconfig", 7, 0, EDX_, 18, STRICT },
        [FEATURE_MONITOR] = { "monitor", 1, 0, ECX_, 3, STRICT },
        [FEATURE_MONITORX] = { "monitorx", 0x80000001, 0, ECX_, 29, STRICT },
        [FEATURE_WAITPKG] = { "waitpkg", 7, 0, ECX_, 5, STRICT },
        [FEATURE_XSAVE] = { "xsave", 1, 0, ECX_, 26, STRICT },
        [FEATURE_XSAVEOPT] = { "xsaveopt", 0xd, 1, EAX_, 0, STRICT },
        [FEATURE_XSAVEC] = { "xsavec", 0xd, 1, EAX_, 1, STRICT },
        [FEATURE_XSAVES] = { "xsaves", 0xd, 1, EAX_, 3, STRICT },
        [FEATURE_SMAP] = { "smap", 7, 0, EBX_, 20, STRICT },
        [FEATURE_PKU] = { "pku", 7, 0, ECX_, 3, STRICT },
        [FEATURE_CET] = { "shadow stacks", 7, 0, ECX_, 7, STRICT },
        [FEATURE_MPX] = { "mpx", 7, 0, EBX_, 14, STRICT },
        [FEATURE_KL] = { "key locker", 7, 0, ECX_, 23, STRICT },
        [FEATURE_VMX] = { "vmx", 1, 0, ECX_, 5, LOOSE },
        [FEATURE_BARE_VMX] = { "vmx", 1, 0, ECX_, 5, BARE },
        [FEATURE_BARE_SVM] = { "svm", 0x80000001, 0, ECX_, 2, BARE },
        [FEATURE_SNP] = { "sev-snp", 0x8000001f, 0, EAX_, 4, LOOSE },
        [FEATURE_SMX] = { "smx", 1, 0, ECX_, 6, STRICT },
        /* In long mode AMD has sysenter and sysexit no more. */
        [FEATURE_SEP] = { "sysenter", 1, 0, EDX_, 11, LOOSE },
        [FEATURE_SGX] = { "sgx", 7, 0, EBX_, 2, STRICT },
};

static bool cpuid_bit(u32 leaf, u32 subleaf, unsigned reg, unsigned bit)
{
        u32 r[4];

        return __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) && (r[reg] >> bit & 1);
}

/* A word of the "flags" line: what Linux found and left switched on. */
static bool cpuinfo_flag(const char *word)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/cpuinfo", "re");
        _cleanup_free_ char *line = NULL;
        char padded[64];
        size_t size = 0;

        snprintf(padded, sizeof(padded), " %s ", word);
        while (f && getline(&line, &size, f) > 0) {
                if (strncmp(line, "flags", 5) == 0) {
                        line[strcspn(line, "\n")] = ' ';
                        return strstr(line, padded) != NULL;
                }
        }
        return false;
}

/* "2" means that every process may read the counters. Source: Documentation/arch/x86 (rdpmc attribute). */
static bool rdpmc_open(void)
{
        _cleanup_fclose_ FILE *f = fopen("/sys/bus/event_source/devices/cpu/rdpmc", "re");

        return f && fgetc(f) == '2';
}

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

static struct isa_context host_context(void)
{
        struct isa_context ctx = { .mode = ISA_MODE_LONG, .cpl = 3, .iopl = 0 };
        int tsc = 0;

        /* CPUID shows CR4.OSXSAVE and CR4.PKE. */
        ctx.knobs |= cpuid_bit(1, 0, ECX_, 27) ? K(OSXSAVE) : 0;
        ctx.knobs |= cpuid_bit(7, 0, ECX_, 4) ? K(PKE) : 0;
        ctx.knobs |= cpuid_bit(7, 0, EBX_, 13) ? K(FCS0) : 0;
        ctx.knobs |= getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE ? K(FSGSBASE) : 0;
        ctx.knobs |= cpuinfo_flag("umip") ? K(UMIP) : 0;
        ctx.knobs |= cpuinfo_flag("user_shstk") ? K(CET) : 0;
        ctx.knobs |= rdpmc_open() ? K(PCE) : 0;
        if (prctl(PR_GET_TSC, &tsc) == 0 && tsc == PR_TSC_SIGSEGV)
                ctx.knobs |= K(TSD);
        if (syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0) == 0)
                ctx.knobs |= K(CPUIDF);
        return ctx;
}

/* --- One proof --- */

struct proof {
        const char *id, *row;
        const u8 *start, *end;
        enum isa_mode mode;
        enum feature need;
        int enters;
        u32 knob; /* switched on first, by prctl */
};

#define ISA_NO_PROOF(row, why)
#define LONG ISA_MODE_LONG
#define COMPAT ISA_MODE_COMPAT
#define ISA_PROOF(id, row, mode, need, enters, code)                                                                   \
        { #id, row, proof_##id, proof_##id##_end, mode, FEATURE_##need, enters, 0 },
static const struct proof proofs[] = {
#include "isa_proof.def"
        { "rdtsc_tsd", "rdtsc", proof_rdtsc, proof_rdtsc_end, ISA_MODE_LONG, FEATURE_NONE, 0, K(TSD) },
        { "rdtscp_tsd", "rdtscp", proof_rdtscp, proof_rdtscp_end, ISA_MODE_LONG, FEATURE_RDTSCP, 0, K(TSD) },
        { "cpuid_faulting", "cpuid", proof_cpuid, proof_cpuid_end, ISA_MODE_LONG, FEATURE_NONE, 0, K(CPUIDF) },
};
#undef ISA_PROOF
#undef ISA_NO_PROOF

static const struct isa_row *row_named(const char *name)
{
        char buf[ISA_ROW_NAME_MAX];

        for (size_t i = 0; i < isa_row_count(); i++)
                if (strcmp(isa_row_name(isa_row_at(i), buf), name) == 0)
                        return isa_row_at(i);
        return NULL;
}

/* A proof must contain what it is said to prove. */
static bool contains(const struct proof *proof, const struct isa_row *row)
{
        ZydisDecoder decoder;
        ZydisDecodedInstruction insn;
        const u8 *at = proof->start;

        isa_decoder_init(&decoder, proof->mode, 0);
        while (at < proof->end &&
               ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, at, (size_t)(proof->end - at), &insn))) {
                if (isa_find(&insn) == row)
                        return true;
                at += insn.length;
        }
        return false;
}

static bool switch_on(u32 knob)
{
        if (knob == K(TSD))
                return prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0;
        if (knob == K(CPUIDF))
                return syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) == 0;
        return knob == 0;
}

#define CHILD_CANNOT 2

static _Noreturn void child(const struct proof *proof)
{
        const struct rlimit no_core = { 0, 0 };
        bool compat = proof->mode == ISA_MODE_COMPAT;
        size_t len = (size_t)(proof->end - proof->start);
        static const int fatal[] = { SIGSEGV, SIGILL, SIGBUS, SIGTRAP, SIGFPE };
        u8 *code, *data;

        setrlimit(RLIMIT_CORE, &no_core);
        for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
                signal(fatal[i], SIG_DFL);
        alarm(10);
        code = mmap((void *)CODE_ADDRESS, CODE_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        data = mmap((void *)DATA_ADDRESS, DATA_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (code != (u8 *)CODE_ADDRESS || data != (u8 *)DATA_ADDRESS || len > EXIT_OK_OFFSET - 16)
                _exit(CHILD_CANNOT);
        memset(code, 0x90, EXIT_OK_OFFSET);
        if (len > 0)
                memcpy(code, proof->start, len);
        memcpy(code + len, compat ? compat_end : long_end, sizeof(long_end));
        memcpy(code + EXIT_OK_OFFSET, exit_ok, sizeof(exit_ok));
        memcpy(code + EXIT_BAD_OFFSET, exit_bad, sizeof(exit_bad));
        if (mprotect(code, CODE_SIZE, PROT_EXEC) < 0 || !switch_on(proof->knob))
                _exit(CHILD_CANNOT);
        ((void (*)(u64 stack))(uintptr_t)(compat ? enter_compat : enter_long))(STACK_TOP);
        _exit(CHILD_CANNOT);
}

/* Runs the proof in a child; returns its wait status. */
static int execute(const struct proof *proof)
{
        int status = 0;
        pid_t pid = fork();

        if (pid == 0)
                child(proof);
        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status;
}

/* Whether the kernel lets a process into compatibility mode at all (ia32_emulation=0 may forbid it). */
static bool compat_mode_works(void)
{
        static const struct proof nothing = { .id = "nothing", .mode = ISA_MODE_COMPAT };
        int status = execute(&nothing);

        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* The signal that Linux sends for an exception that it cannot repair. */
static int signal_of(enum isa_fault fault)
{
        static const int signals[] = {
                [ISA_FAULT_NONE] = 0, [ISA_FAULT_UD] = SIGILL, [ISA_FAULT_NM] = SIGSEGV, [ISA_FAULT_GP] = SIGSEGV,
        };

        return signals[fault];
}

/* Returns a reason to skip, or NULL. */
static const char *cannot_prove(const struct proof *proof, const struct isa_row *row, const struct isa_context *ctx)
{
        static char text[64];
        enum feature need = proof->need;

        if (features[need].quirk == BARE && cpuid_bit(1, 0, ECX_, 31))
                return "a hypervisor below answers it instead of the CPU";
        if (need != FEATURE_NONE && !cpuid_bit(features[need].leaf, features[need].subleaf, features[need].reg,
                                               features[need].bit)) {
                snprintf(text, sizeof(text), "this CPU has no %s", features[need].name);
                return text;
        }
        if ((ctx->knobs & K(UMIP)) && !(ctx->knobs & K(PKE)) && isa_fault(row, ctx) == ISA_FAULT_GP) {
                struct isa_context without = *ctx;

                without.knobs &= ~K(UMIP);
                if (isa_fault(row, &without) == ISA_FAULT_NONE)
                        return "Linux emulates it under UMIP, and without protection keys that cannot be told";
        }
        return NULL;
}

static void the_cpu_does_what_the_table_says(void **state)
{
        const struct proof *proof = *state;
        const struct isa_row *row = row_named(proof->row);
        struct isa_context ctx = host_context();
        int status, got, wanted;

        ctx.mode = proof->mode;
        ctx.knobs |= proof->knob;
        assert_non_null(row);
        assert_true(contains(proof, row));
        if (cannot_prove(proof, row, &ctx))
                skip(); /* the reason is in the test's name */
        if (proof->mode == ISA_MODE_COMPAT && !compat_mode_works()) {
                print_message("%s: skipped: this kernel forbids compatibility mode\n", proof->id);
                skip();
        }

        status = execute(proof);
        if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_CANNOT) {
                print_message("%s: skipped: the host does not let a process set this up\n", proof->id);
                skip();
        }

        wanted = isa_outcome(row, &ctx) == ISA_OUTCOME_ENTERS ? proof->enters : signal_of(isa_fault(row, &ctx));
        got = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        if (features[proof->need].quirk == LOOSE && wanted == SIGSEGV && got == SIGILL)
                got = wanted;
        /* KVM offers UMIP on CPUs that lack it by intercepting accesses to the descriptor tables; for smsw there is no
         * intercept. */
        if (row->mnemonic == ZYDIS_MNEMONIC_SMSW && wanted && WIFEXITED(status) && cpuid_bit(1, 0, ECX_, 31)) {
                print_message("%s: skipped: the hypervisor below emulates UMIP, which is impossible for smsw\n",
                              proof->id);
                skip();
        }
        if (got != wanted || (WIFEXITED(status) && WEXITSTATUS(status) != 0))
                print_message("%s: the table says %s (%s), the CPU: signal %d, exit status %d\n", proof->id,
                              isa_outcome_name(isa_outcome(row, &ctx)), isa_trap_text(row), got,
                              WIFEXITED(status) ? WEXITSTATUS(status) : 0);
        assert_int_equal(got, wanted);
        if (WIFEXITED(status))
                assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- Every row --- */

static const struct {
        const char *row, *why;
} no_proofs[] = {
#define ISA_PROOF(...)
#define ISA_NO_PROOF(row, why) { row, why },
#include "isa_proof.def"
#undef ISA_PROOF
#undef ISA_NO_PROOF
};

static void every_row_has_a_proof_or_a_reason(void **state)
{
        unsigned missing = 0;

        for (size_t i = 0; i < isa_row_count(); i++) {
                char name[ISA_ROW_NAME_MAX];
                unsigned n = 0;

                isa_row_name(isa_row_at(i), name);
                for (size_t p = 0; p < ARRAY_SIZE(proofs); p++)
                        n += strcmp(proofs[p].row, name) == 0;
                for (size_t p = 0; p < ARRAY_SIZE(no_proofs); p++)
                        n += strcmp(no_proofs[p].row, name) == 0;
                if (n == 0) {
                        print_message("neither proof nor reason: %s\n", name);
                        missing++;
                }
        }
        for (size_t p = 0; p < ARRAY_SIZE(no_proofs); p++)
                assert_non_null(row_named(no_proofs[p].row));
        assert_int_equal(missing, 0);
}

/* "hlt", or "skinit: this CPU has no svm" for what will be skipped: a TAP reader sees nothing but names. */
static const char *test_name(const struct proof *proof, char buf[160])
{
        const struct isa_row *row = row_named(proof->row);
        struct isa_context ctx = host_context();
        const char *reason;

        ctx.mode = proof->mode;
        ctx.knobs |= proof->knob;
        reason = row ? cannot_prove(proof, row, &ctx) : NULL;
        snprintf(buf, 160, "%s%s%s", proof->id, reason ? ": " : "", reason ? reason : "");
        return buf;
}

int main(void)
{
        static struct CMUnitTest tests[ARRAY_SIZE(proofs) + 1];
        static char names[ARRAY_SIZE(proofs)][160];

        tests[0] = (struct CMUnitTest)cmocka_unit_test(every_row_has_a_proof_or_a_reason);
        for (size_t i = 0; i < ARRAY_SIZE(proofs); i++)
                tests[i + 1] = (struct CMUnitTest){
                        .name = test_name(&proofs[i], names[i]),
                        .test_func = the_cpu_does_what_the_table_says,
                        .initial_state = (void *)(uintptr_t)&proofs[i],
                };
        return cmocka_run_group_tests_name("isa_proof", tests, NULL, NULL);
}

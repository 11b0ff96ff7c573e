/* Thunks: their cache, their faults, and the handlers that call them. See host.h. */
#include "host.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "../translate/runtime.h"
#include "machine.h"
#include "xsave_image.h"

#define THUNKS_MAX 2048
#define CODE_SIZE (512 * KIB)
#define HASH_SIZE 1024

struct host_exec {
        u8 *code;
        u32 used;
        struct thunk thunks[THUNKS_MAX];
        u32 n_thunks;
        u32 hash[HASH_SIZE];
};

/* ---- faults ---- */

/* The thunk that this thread is running, for the signal handler; NULL outside. */
static _Thread_local const struct thunk *volatile running;

static void on_fault(int sig, siginfo_t *info, void *context)
{
        ucontext_t *uc = context;
        const struct thunk *thunk = running;
        const u8 *rip = (const u8 *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

        (void)info;
        if (translate_host_fault(sig, context))
                return;
        if (!thunk || rip < thunk->code || rip >= thunk->fault_exit) {
                /* Not the guest's: die of it as if we were not here. */
                signal(sig, SIG_DFL);
                return;
        }
        uc->uc_mcontext.gregs[REG_RAX] = sig;
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)thunk->fault_exit;
}

static void install_handlers(void)
{
        static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
        struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

        /* A kick that comes meanwhile must find the thread where it will go on. */
        sigfillset(&action.sa_mask);
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                sigaction(signals[i], &action, NULL);
}

/* What kind of instruction: aux of its uop. */
enum kind {
        HOST_READS = 1,  /* the memory operand */
        HOST_WRITES = 2,
        HOST_X87 = 4,
        HOST_X87_CONTROL = 8, /* does not record itself in the last-instruction pointers */
        HOST_ENV = 16,        /* FNSTENV, FNSAVE: stores those pointers */
        HOST_MMX = 32,        /* raises a pending x87 exception, and with SSE operands its own */
};

static bool x87_exception_pending(void)
{
        u16 fsw;

        __asm__ volatile("fnstsw %0" : "=m"(fsw));
        return fsw & FSW_ES;
}

/* What the guest gets for a signal. SIGFPE is #XM or #MF by who can raise it. */
_noreturn_ static void raise_host_fault(struct interp *in, const struct uop *u, int sig)
{
        if (sig == SIGILL)
                interp_raise(in, u, EXC_UD, NO_ERROR_CODE);
        if (sig == SIGFPE && (u->aux & HOST_X87 || (u->aux & HOST_MMX && x87_exception_pending())))
                interp_raise(in, u, EXC_MF, NO_ERROR_CODE);
        if (sig == SIGFPE)
                interp_raise(in, u, in->cpu->paging.cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD, NO_ERROR_CODE);
        interp_raise(in, u, EXC_GP, 0);
}

/* ---- making thunks ---- */

static unsigned thunk_hash(const struct host_insn *h)
{
        unsigned x = h->n_bytes;

        for (unsigned i = 0; i < h->n_bytes; i++)
                x = x * 31 + h->bytes[i];
        return x % HASH_SIZE;
}

typedef int thunk_fn(struct interp *in, void *operand, u8 *xsave);

static inline int thunk_call(struct interp *in, const struct thunk *thunk, void *operand)
{
        int sig;

        running = thunk;
        sig = ((thunk_fn *)(uintptr_t)thunk->code)(in, operand, in->cpu->xsave);
        running = NULL;
        return sig;
}

/* Does the instruction insist on an aligned operand? The processor is asked, with the guest's state put aside: a misaligned operand is reported before a
 * page fault, so the answer is needed where the operand cannot be reached. */
static bool insists_on_alignment(struct interp *in, const struct thunk *thunk)
{
        const unsigned masked = 0x1f80;
        u8 xsave[XSAVE_SIZE], operand[128] __attribute__((aligned(64))) = { 0 };
        u64 regs[ARRAY_SIZE(in->regs)];
        const u16 flags = in->flags;
        u8 fpu[512] __attribute__((aligned(16)));
        int sig;

        memcpy(xsave, in->cpu->xsave, sizeof(xsave));
        memcpy(regs, in->regs, sizeof(regs));
        __asm__ volatile("fxsave64 %0\n\tfninit\n\tldmxcsr %1" : "=m"(fpu) : "m"(masked)); /* CVTPD2PI and kin write MMX registers */
        sig = thunk_call(in, thunk, operand + 1);
        xsave_host_load(fpu);
        memcpy(in->regs, regs, sizeof(regs));
        memcpy(in->cpu->xsave, xsave, sizeof(xsave));
        in->flags = flags;
        return sig == SIGSEGV;
}

/* @operand_size is 0 when the operand's alignment cannot matter. */
static const struct thunk *thunk_get(struct interp *in, const struct host_insn *h, unsigned operand_size)
{
        struct host_exec *host = in->host_exec;
        const unsigned bucket = thunk_hash(h);
        struct thunk *thunk;
        size_t fault_exit;

        for (u32 i = host->hash[bucket]; i; i = host->thunks[i - 1].hash_next) {
                thunk = &host->thunks[i - 1];
                if (thunk->n_bytes == h->n_bytes && thunk->rsp_host == h->rsp_host &&
                    memcmp(thunk->bytes, h->bytes, h->n_bytes) == 0)
                        return thunk;
        }
        if (host->n_thunks == THUNKS_MAX || CODE_SIZE - host->used < HOST_THUNK_MAX)
                return NULL;
        thunk = &host->thunks[host->n_thunks++];
        *thunk = (struct thunk){ .code = host->code + host->used };
        thunk->n_bytes = h->n_bytes;
        thunk->rsp_host = h->rsp_host;
        memcpy(thunk->bytes, h->bytes, h->n_bytes);
        host->used += (u32)ALIGN_UP(host_emit(h, thunk->code, &fault_exit), 16);
        thunk->fault_exit = thunk->code + fault_exit;
        thunk->hash_next = host->hash[bucket];
        host->hash[bucket] = host->n_thunks;
        if (operand_size >= 16 && insists_on_alignment(in, thunk))
                thunk->align = (u8)operand_size;
        return thunk;
}

/* ---- handlers: size is the operand's bytes, aux enum kind ---- */

static const struct thunk *uop_thunk(const struct uop *u)
{
        return (const struct thunk *)(uintptr_t)u->imm;
}

HANDLER(op_host_reg)
{
        const int sig = thunk_call(in, uop_thunk(u), NULL);

        if (unlikely(sig))
                raise_host_fault(in, u, sig);
        NEXT(u);
}

/* The operand's copy for a slow access has the guest address's alignment within a cache line. */
struct bounce {
        u8 memory[64 + 1024] __attribute__((aligned(64)));
};

static _noinline_ void host_mem_slow(struct interp *in, const struct uop *u)
{
        const unsigned size = u->stack_size | (unsigned)(u->aux >> 8) << 8;
        const unsigned align = uop_thunk(u)->align;
        struct bounce bounce;
        u64 linear;
        u8 *p;
        int sig;

        /* Alignment comes first, before even a non-canonical address. */
        if (align && (ea_offset(in, u) + in->seg_base[u->seg]) & (align - 1u))
                interp_raise(in, u, EXC_GP, 0);
        linear = ea_linear(in, u, size, u->aux & HOST_WRITES ? MMU_WRITE : MMU_READ);
        p = bounce.memory + (linear & 63);
        if (u->aux & HOST_WRITES)
                mem_probe_write(in, u, linear, size);
        if (u->aux & HOST_READS)
                mem_read_bytes(in, u, linear, p, size);
        sig = thunk_call(in, uop_thunk(u), p);
        if (sig)
                raise_host_fault(in, u, sig);
        if (u->aux & HOST_WRITES)
                mem_write_bytes(in, u, linear, p, size);
}

HANDLER(op_host_slow)
{
        host_mem_slow(in, u);
        SLOW_NEXT(u);
}

HANDLER(op_host_load)
{
        void *p = fast_ptr(in, u, MMU_READ, u->stack_size);
        int sig;

        if (unlikely(!p))
                return op_host_slow(in, u);
        sig = thunk_call(in, uop_thunk(u), p);
        if (unlikely(sig))
                raise_host_fault(in, u, sig);
        NEXT(u);
}

HANDLER(op_host_store)
{
        void *p = fast_ptr(in, u, MMU_WRITE, u->stack_size);
        int sig;

        if (unlikely(!p))
                return op_host_slow(in, u);
        sig = thunk_call(in, uop_thunk(u), p);
        if (unlikely(sig))
                raise_host_fault(in, u, sig);
        NEXT(u);
}

/* FNSTENV and FNSAVE write the last-instruction pointers: ours instead of the host's. SDM 1, 8.1.10; 32-bit protected format, or 16-bit. */
static void patch_environment(const struct interp *in, u8 *p, unsigned size)
{
        if (size == 14 || size == 94) {
                const u16 ip = (u16)in->fpu_ip, dp = (u16)in->fpu_dp;

                memcpy(p + 6, &ip, 2);
                memset(p + 8, 0, 2);
                memcpy(p + 10, &dp, 2);
                memset(p + 12, 0, 2);
        } else {
                const u32 ip = (u32)in->fpu_ip, op = 0, dp = (u32)in->fpu_dp;

                memcpy(p + 12, &ip, 4);
                memcpy(p + 16, &op, 4);
                memcpy(p + 20, &dp, 4);
                memset(p + 24, 0xff, 4);
                memset(p + 24, 0, 2);
        }
}

/* A store that meets an unmasked exception does not happen: not even its address matters then. So it is tried on the side first, and undone
 * if the exception summary says that memory would have been written. */
static u64 x87_store(struct interp *in, const struct uop *u, unsigned size)
{
        u8 before[512] __attribute__((aligned(16)));
        struct bounce bounce;
        u64 linear;
        u16 fsw, fcw;
        int sig;

        __asm__ volatile("fxsave64 %0" : "=m"(before));
        sig = thunk_call(in, uop_thunk(u), bounce.memory);
        if (sig)
                raise_host_fault(in, u, sig);
        __asm__ volatile("fnstsw %0\n\tfnstcw %1" : "=m"(fsw), "=m"(fcw));
        /* Any unmasked exception but the inexact result, which is known only after the store. SDM 1, 8.5. */
        if (fsw & ~fcw & 0x1f && !(u->aux & HOST_X87_CONTROL))
                return ea_offset(in, u) + in->seg_base[u->seg];
        xsave_host_load(before);
        linear = ea_linear(in, u, size, MMU_WRITE);
        mem_probe_write(in, u, linear, size);
        thunk_call(in, uop_thunk(u), bounce.memory);
        if (u->aux & HOST_ENV)
                patch_environment(in, bounce.memory, size);
        mem_write_bytes(in, u, linear, bounce.memory, size);
        return linear;
}

BODY_HANDLER(op_host_x87)
{
        const unsigned size = u->stack_size | (unsigned)(u->aux >> 8) << 8;
        u64 linear = in->fpu_dp;

        if (!(u->flags & UOP_MEM)) {
                const int sig = thunk_call(in, uop_thunk(u), NULL);

                if (sig)
                        raise_host_fault(in, u, sig);
        } else if (u->aux & HOST_WRITES) {
                linear = x87_store(in, u, size);
        } else {
                linear = ea_offset(in, u) + in->seg_base[u->seg];
                host_mem_slow(in, u);
        }
        if (!(u->aux & HOST_X87_CONTROL)) {
                in->fpu_ip = interp_uop_rip(in, u);
                in->fpu_dp = linear;
        }
}

/* ---- unavailable ---- */

HANDLER(op_no_device)
{
        interp_raise(in, u, EXC_NM, NO_ERROR_CODE);
}

/* No room for another thunk: forgets them all, and with them the blocks that point to them, and decodes this instruction again. */
HANDLER(op_thunks_full)
{
        struct host_exec *host = in->host_exec;
        const u64 rip = interp_uop_rip(in, u);

        interp_leave_block(in, u);
        code_drop_all(in);
        host->used = host->n_thunks = 0;
        memset(host->hash, 0, sizeof(host->hash));
        in->rip = rip;
        longjmp(in->unwind, 1); /* not a step: nothing was executed */
}

/* ---- choosing ---- */

/* Instruction-set extensions that the CPU model shows: those that the host has too. The last column is a CPUID bit that must be set in the
 * model: leaf, register (a, b, c, d), bit. */
static const struct {
        ZydisISAExt ext;
        u32 leaf;
        char reg;
        u8 bit;
} extensions[] = {
        { ZYDIS_ISA_EXT_BASE, 1, 'd', 0 },        { ZYDIS_ISA_EXT_X87, 1, 'd', 0 },       { ZYDIS_ISA_EXT_MMX, 1, 'd', 23 },
        { ZYDIS_ISA_EXT_SSE, 1, 'd', 25 },        { ZYDIS_ISA_EXT_SSE2, 1, 'd', 26 },     { ZYDIS_ISA_EXT_SSE3, 1, 'c', 0 },
        { ZYDIS_ISA_EXT_SSSE3, 1, 'c', 9 },       { ZYDIS_ISA_EXT_SSE4, 1, 'c', 19 },     { ZYDIS_ISA_EXT_AES, 1, 'c', 25 },
        { ZYDIS_ISA_EXT_PCLMULQDQ, 1, 'c', 1 },   { ZYDIS_ISA_EXT_AVX, 1, 'c', 28 },      { ZYDIS_ISA_EXT_F16C, 1, 'c', 29 },
        { ZYDIS_ISA_EXT_FMA, 1, 'c', 12 },        { ZYDIS_ISA_EXT_MOVBE, 1, 'c', 22 },    { ZYDIS_ISA_EXT_RDRAND, 1, 'c', 30 },
        { ZYDIS_ISA_EXT_BMI1, 7, 'b', 3 },        { ZYDIS_ISA_EXT_AVX2, 7, 'b', 5 },      { ZYDIS_ISA_EXT_BMI2, 7, 'b', 8 },
        { ZYDIS_ISA_EXT_AVX2GATHER, 7, 'b', 5 },  { ZYDIS_ISA_EXT_RDSEED, 7, 'b', 18 },   { ZYDIS_ISA_EXT_ADOX_ADCX, 7, 'b', 19 },
        { ZYDIS_ISA_EXT_SHA, 7, 'b', 29 },        { ZYDIS_ISA_EXT_LZCNT, 0x80000001, 'c', 5 },
        { ZYDIS_ISA_EXT_LONGMODE, 1, 'd', 0 },    { ZYDIS_ISA_EXT_AVXAES, 1, 'c', 25 },   { ZYDIS_ISA_EXT_SSE4A, 0x80000001, 'c', 6 },
        { ZYDIS_ISA_EXT_XSAVE, 1, 'c', 26 },      { ZYDIS_ISA_EXT_XSAVEC, 0xd, 'x', 1 },  { ZYDIS_ISA_EXT_XSAVEOPT, 0xd, 'x', 0 },
};

bool host_model_has(const struct vcpu *vcpu, ZydisISAExt ext)
{
        for (size_t i = 0; i < ARRAY_SIZE(extensions); i++) {
                struct cpuid_regs r;
                u32 v;

                if (extensions[i].ext != ext)
                        continue;
                cpuid_query(vcpu, extensions[i].leaf, extensions[i].reg == 'x', &r);
                v = extensions[i].reg == 'b' ? r.ebx : extensions[i].reg == 'c' ? r.ecx : extensions[i].reg == 'd' ? r.edx : r.eax;
                return v & BIT(extensions[i].bit);
        }
        return false;
}

enum unit { UNIT_INTEGER, UNIT_X87, UNIT_SSE, UNIT_AVX };

/* FISTTP came with SSE3. */
static bool is_x87(const struct decoding *d)
{
        return d->insn.meta.isa_ext == ZYDIS_ISA_EXT_X87 || d->insn.mnemonic == ZYDIS_MNEMONIC_FISTTP;
}

static enum unit unit_of(const struct decoding *d)
{
        if (is_x87(d))
                return UNIT_X87;
        for (unsigned i = 0; i < d->insn.operand_count; i++) {
                if (d->ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
                        continue;
                switch (ZydisRegisterGetClass(d->ops[i].reg.value)) {
                case ZYDIS_REGCLASS_MMX:
                        return UNIT_X87;
                case ZYDIS_REGCLASS_XMM:
                case ZYDIS_REGCLASS_YMM:
                        return d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? UNIT_AVX : UNIT_SSE;
                default:
                        break;
                }
        }
        switch (d->insn.mnemonic) {
        case ZYDIS_MNEMONIC_EMMS:
                return UNIT_X87;
        case ZYDIS_MNEMONIC_LDMXCSR:
        case ZYDIS_MNEMONIC_STMXCSR:
                return UNIT_SSE;
        case ZYDIS_MNEMONIC_VLDMXCSR:
        case ZYDIS_MNEMONIC_VSTMXCSR:
        case ZYDIS_MNEMONIC_VZEROALL:
        case ZYDIS_MNEMONIC_VZEROUPPER:
                return UNIT_AVX;
        default:
                return UNIT_INTEGER;
        }
}

/* The handler that refuses what the mode refuses, NULL when it may run. SDM 3A, table 2-3 and 13.1. */
static uop_fn *refused(const struct decoding *d, enum unit unit)
{
        const bool real = !(d->mode & MODE_PROTECTED);
        const bool avx512_like = d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
                                 d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
                                 d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
                                 d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW;

        if (avx512_like || !host_model_has(d->in->vcpu, d->insn.meta.isa_ext))
                return op_undefined;
        switch (unit) {
        case UNIT_INTEGER:
                return d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && real ? op_undefined : NULL;
        case UNIT_X87:
                if (d->insn.meta.isa_ext != ZYDIS_ISA_EXT_X87 && d->in->cpu->paging.cr0 & CR0_EM)
                        return op_undefined; /* MMX */
                return d->mode & MODE_NO_FPU ? op_no_device : NULL;
        case UNIT_SSE:
                return d->mode & MODE_NO_SSE ? op_undefined : d->mode & MODE_NM_SSE ? op_no_device : NULL;
        default:
                if (real || d->mode & MODE_NO_AVX)
                        return op_undefined;
                return d->mode & MODE_NM_SSE ? op_no_device : NULL;
        }
}

static bool is_mmx(const struct decoding *d)
{
        for (unsigned i = 0; i < d->insn.operand_count; i++)
                if (d->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(d->ops[i].reg.value) == ZYDIS_REGCLASS_MMX)
                        return true;
        return d->insn.mnemonic == ZYDIS_MNEMONIC_EMMS;
}

static bool is_x87_control(ZydisMnemonic m)
{
        switch (m) {
        case ZYDIS_MNEMONIC_FNINIT:
        case ZYDIS_MNEMONIC_FNCLEX:
        case ZYDIS_MNEMONIC_FLDCW:
        case ZYDIS_MNEMONIC_FNSTCW:
        case ZYDIS_MNEMONIC_FNSTSW:
        case ZYDIS_MNEMONIC_FNSTENV:
        case ZYDIS_MNEMONIC_FLDENV:
        case ZYDIS_MNEMONIC_FNSAVE:
        case ZYDIS_MNEMONIC_FRSTOR:
        case ZYDIS_MNEMONIC_FWAIT:
                return true;
        default:
                return false;
        }
}

static void set_operand_size(const struct decoding *d, struct uop *u, u16 kind)
{
        const unsigned size = d->mem ? d->mem->size / 8u : 0;

        if (d->mem && d->mem->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
                kind |= HOST_READS;
        if (d->mem && d->mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
                kind |= HOST_WRITES;
        /* stack_size is free here: it and aux's upper byte carry the operand's size. */
        u->stack_size = (u8)size;
        u->aux = (u16)(kind | (size >> 8) << 8);
}

bool host_decode(struct decoding *d, struct uop *u)
{
        const enum unit unit = unit_of(d);
        uop_fn *fn = refused(d, unit);
        struct host_insn h;
        const struct thunk *thunk;
        u16 kind = is_mmx(d) ? HOST_MMX : 0;

        if (!fn)
                fn = vector_op_find(d, u);
        if (fn) {
                u->fn = fn;
                return true;
        }
        if (!host_encode(d, &h))
                return false;
        thunk = thunk_get(d->in, &h, d->mem && d->mem->size <= 256 && !is_x87(d) ? d->mem->size / 8u : 0);
        if (!thunk) {
                u->fn = op_thunks_full;
                d->ends_block = true;
                return true;
        }
        u->imm = (uintptr_t)thunk;
        counter_inc(&d->in->vcpu->counters, COUNTER_HOST_DECODED);
        if (is_x87(d)) {
                kind = HOST_X87;
                if (is_x87_control(d->insn.mnemonic))
                        kind |= HOST_X87_CONTROL;
                if (d->insn.mnemonic == ZYDIS_MNEMONIC_FNSTENV || d->insn.mnemonic == ZYDIS_MNEMONIC_FNSAVE)
                        kind |= HOST_ENV;
                set_operand_size(d, u, kind);
                u->fn = op_host_x87;
                return true;
        }
        set_operand_size(d, u, kind);
        if (!d->mem)
                u->fn = op_host_reg;
        else if (!d->flat || d->mem->size > 64 * 8)
                u->fn = op_host_slow;
        else
                u->fn = u->aux & HOST_WRITES ? op_host_store : op_host_load;
        return true;
}

/* ---- life ---- */

int host_exec_new(struct interp *in, struct err **err)
{
        struct host_exec *host = aligned_alloc(16, ALIGN_UP(sizeof(*host), 16));

        if (!host)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for host-executed instructions");
        memset(host, 0, sizeof(*host));
        host->code = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (host->code == MAP_FAILED) {
                int r = err_sys(err, errno, "mapping memory for generated code");

                free(host);
                return err_hint(err, r, "a security policy may forbid writable executable memory");
        }
        in->host_exec = host;
        /* Again for every vCPU: test frameworks take the signals for themselves. */
        install_handlers();
        return 0;
}

void host_exec_free(struct interp *in)
{
        struct host_exec *host = in->host_exec;

        if (host) {
                munmap(host->code, CODE_SIZE);
                free(host);
                in->host_exec = NULL;
        }
}

/* Signals of a vCPU's thread: kicks from other threads, faults of the host's CPU, blocks that are no more.
 *
 * In a block the signal's handler rolls the guest back to the start of the instruction (or completes one that has begun to commit) with the help of
 * the block's records, stores the guest's registers from the signal's context, and makes the thread go on in the stub that leaves. The vector
 * registers stay in the context, the stub stores them. Anywhere else a kick only sets in->kicked, which is looked at before translated code goes
 * on (stubs.c); between that look and the jump the handler makes the jump go to the way out.
 *
 * The host's rsp points into struct interp in translated code, so every handler that can run then must be on a stack of its own (SA_ONSTACK). */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime.h"

#define KICK_SIGNAL (SIGRTMIN + 3)
#define STACK_SIZE (64 * KIB)
#define TRAP_BREAKPOINT 3 /* exception vectors, as in a signal's context */
#define TRAP_PAGE_FAULT 14
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

/* The vCPU that this thread is running, for signal handlers. */
static _Thread_local struct interp *volatile running;

static const int greg_of[GPR_COUNT] = {
        [RAX] = REG_RAX, [RCX] = REG_RCX, [RDX] = REG_RDX, [RBX] = REG_RBX, [RSP] = REG_RSP, [RBP] = REG_RBP, [RSI] = REG_RSI,
        [RDI] = REG_RDI, [R8] = REG_R8,   [R9] = REG_R9,   [R10] = REG_R10, [R11] = REG_R11, [R12] = REG_R12, [R13] = REG_R13,
        [R14] = REG_R14, [R15] = REG_R15,
};

/* The last record at or before @off; every block has one at 0. */
static const struct record *record_at(const struct tblock *block, unsigned off)
{
        unsigned lo = 0, hi = block->n_records;

        while (hi - lo > 1) {
                const unsigned mid = lo + (hi - lo) / 2;

                if (block_records(block)[mid].code_off <= off)
                        lo = mid;
                else
                        hi = mid;
        }
        return &block_records(block)[lo];
}

static void registers_store(struct interp *in, const greg_t *gregs)
{
        for (unsigned g = 0; g < GPR_COUNT; g++)
                if (host_reg_of[g] != HOST_NONE)
                        in->regs[g] = (u64)gregs[greg_of[host_reg_of[g]]];
}

static void roll_back(struct interp *in, const struct tblock *block, const u8 *rip, const greg_t *gregs)
{
        const struct record *record = record_at(block, (unsigned)(rip - block_code(block)));
        const u64 scratch0 = (u64)gregs[greg_of[SCRATCH0]], scratch1 = (u64)gregs[greg_of[SCRATCH1]];

        registers_store(in, gregs);
        if (record->flags_at == FLAGS_IN_EFLAGS)
                in->flags_image = (u64)gregs[REG_EFL];
        /* At an entry nothing has happened. The record there may be of a later instruction, behind NOPs, which have no code; but a block that was dropped
         * is to be left where it began, since there may be other code now. */
        if (rip <= block_code(block) + ENTRY_B) {
                in->rip = block_rip(in, block, 0);
                return;
        }
        in->rip = block_rip(in, block, record->guest_off);
        switch ((enum record_kind)record->kind) {
        case RECORD_RESTART:
        case RECORD_PROBE:
                break;
        case RECORD_SWAPPED:
        case RECORD_FINISH_REG:
                in->regs[record->arg] = scratch1;
                break;
        case RECORD_FINISH_RSP:
                in->regs[RSP] += (u64)(s64)(s8)record->arg;
                break;
        case RECORD_FINISH_STRING:
                if (record->arg & STRING_RSI)
                        in->regs[RSI] += record->arg & 15;
                if (record->arg & STRING_RDI)
                        in->regs[RDI] += record->arg & 15;
                break;
        case RECORD_FINISH_X87:
                in->fpu_ip = in->rip - (record->arg & ~X87_MEMORY);
                in->fpu_dp = record->arg & X87_MEMORY ? in->x87_dp : in->fpu_dp;
                break;
        case RECORD_FINISH_SPLIT:
                split_write(in);
                break;
        case RECORD_JUMP:
                in->rip = scratch0;
                break;
        case RECORD_LINK:
                in->rip = block_page(in, block) + (u64)(s64)block_links(block)[record->arg].target;
                break;
        }
}

static void go_out(struct interp *in, ucontext_t *uc)
{
        uc->uc_mcontext.gregs[REG_RSP] = (greg_t)(uintptr_t)in->regs;
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)in->translate->translator->stubs.leave;
}

/* Makes the thread leave translated code when it goes on at @rip of the context. False: it is not in a block. */
static bool leave_block(struct interp *in, const u8 *rip, ucontext_t *uc)
{
        const struct translator *tr = in->translate->translator;
        const struct tblock *block = block_at(tr, rip);

        if (!block)
                return false;
        roll_back(in, block, rip, uc->uc_mcontext.gregs);
        go_out(in, uc);
        return true;
}

/* At @rip nobody knows where the flags are, one instruction further on they may. */
static bool flags_unknown(const struct interp *in, const u8 *rip)
{
        const struct tblock *block = block_at(in->translate->translator, rip);

        return block && record_at(block, (unsigned)(rip - block_code(block)))->flags_at == FLAGS_ANYWHERE;
}

static const u8 *context_rip(const ucontext_t *uc)
{
        return (const u8 *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
}

static void on_kick(int sig, siginfo_t *info, void *context)
{
        struct interp *in = running;
        ucontext_t *uc = context;
        const u8 *rip = context_rip(uc);

        (void)sig;
        (void)info;
        if (!in)
                return;
        __atomic_store_n(&in->kicked, 1, __ATOMIC_RELAXED);
        if (!code_contains(in->translate->translator, rip))
                return;
        if (flags_unknown(in, rip)) {
                uc->uc_mcontext.gregs[REG_EFL] |= RFLAGS_TF; /* comes back in on_trap */
                return;
        }
        if (leave_block(in, rip, uc))
                return;
        for (size_t i = 0; i < ARRAY_SIZE(in->translate->translator->stubs.windows); i++) {
                const struct kick_window *window = &in->translate->translator->stubs.windows[i];

                if (rip >= window->start && rip < window->end)
                        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)window->go_to;
        }
}

/* The timer of shadowing.c. */
static void on_tick(int sig, siginfo_t *info, void *context)
{
        struct interp *in = running;
        const u8 *rip = context_rip(context);
        const struct tblock *block;

        if (!in)
                return;
        block = code_contains(in->translate->translator, rip) ? block_at(in->translate->translator, rip) : NULL;
        if (shadowing_tick(in, block))
                on_kick(sig, info, context);
}

/* INT3 at the entry of a block that was dropped (its flags are in the image: it was found in a jump cache), or a step after a kick. */
static void on_trap(int sig, siginfo_t *info, void *context)
{
        struct interp *in = running;
        ucontext_t *uc = context;
        greg_t *gregs = uc->uc_mcontext.gregs;
        const bool stepping = in && gregs[REG_EFL] & RFLAGS_TF;

        if (stepping)
                gregs[REG_EFL] &= ~(greg_t)RFLAGS_TF;
        /* The step may have been onto an INT3, of a block that was dropped before it began: that is no step behind it. */
        if (stepping && gregs[REG_TRAPNO] != TRAP_BREAKPOINT) {
                on_kick(sig, info, context);
                return;
        }
        if (in)
                in->translate->jumped_to_dropped = true;
        if (!in || !code_contains(in->translate->translator, context_rip(uc)) || !leave_block(in, context_rip(uc) - 1, uc)) {
                /* Not ours: die of it as if we were not here. */
                signal(sig, SIG_DFL);
                raise(sig);
        }
}

/* Was it a probe of the shadow window? Then what is at its operand's site is known now, and the block will be made anew. */
static bool is_probe(struct interp *in, struct tblock *block, const ucontext_t *uc)
{
        struct translator *tr = in->translate->translator;
        const struct record *record = record_at(block, (unsigned)(context_rip(uc) - block_code(block)));
        const enum shadow_range range = record->arg & PROBE_HIGH ? SHADOW_HIGH : SHADOW_LOW;
        u8 *site;

        if (record->kind != RECORD_PROBE)
                return false;
        site = &tr->site_ranges[site_slot(block->gpa + record->guest_off + record->ahead, record->arg & PROBE_OPERAND)];
        *site |= record->arg & PROBE_INDEX ? SITE_SUM : site_seen(shadow_probe_missed((u64)uc->uc_mcontext.gregs[REG_CR2], range));
        in->translate->unfit = block;
        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_MISSES);
        return true;
}

/* A page fault in the shadow window: true when the access may be tried again. */
static bool shadow_dealt_with(struct interp *in, const ucontext_t *uc)
{
        struct translate_cpu *t = in->translate;
        const greg_t *gregs = uc->uc_mcontext.gregs;
        struct tblock *block = block_at(t->translator, context_rip(uc));
        bool unfit = false;
        unsigned guest_off;

        if (!block || !t->shadow || gregs[REG_TRAPNO] != TRAP_PAGE_FAULT || is_probe(in, block, uc))
                return false;
        if (shadowing_fault(in, block, (u64)gregs[REG_CR2], gregs[REG_ERR] & PF_W, &unfit))
                return true;
        if (unfit) {
                /* The soft TLB's, then. */
                guest_off = record_at(block, (unsigned)(context_rip(uc) - block_code(block)))->guest_off;
                for (unsigned i = 0; i < OPERANDS; i++)
                        t->translator->site_ranges[site_slot(block->gpa + guest_off, i)] = SITE_SOFT;
                t->unfit = block;
        }
        return false;
}

bool translate_host_fault(int sig, void *context)
{
        struct interp *in = running;
        ucontext_t *uc = context;

        if (!in || !code_contains(in->translate->translator, context_rip(uc)))
                return false;
        if (sig == SIGSEGV && shadow_dealt_with(in, uc))
                return true;
        if (!leave_block(in, context_rip(uc), uc))
                return false;
        in->translate->interp_next = true;
        in->translate->interp_rip = in->rip;
        counter_inc(&in->vcpu->counters, COUNTER_INTERP_FAULT);
        return true;
}

/* ---- kicks ---- */

/* Work was posted before. in_code is looked at after kicked was set: pairs with run_translated. Whoever finds kicked set already leaves it to the one who
 * set it, who has sent the signal or is about to. */
void translate_kick(struct vcpu *vcpu)
{
        struct interp *in = __atomic_load_n((struct interp **)&vcpu->engine_data, __ATOMIC_ACQUIRE);

        if (!in || __atomic_exchange_n(&in->kicked, 1, __ATOMIC_SEQ_CST) || in == running)
                return;
        if (__atomic_load_n(&in->in_code, __ATOMIC_SEQ_CST))
                syscall(SYS_tgkill, getpid(), __atomic_load_n(&in->translate->tid, __ATOMIC_ACQUIRE), KICK_SIGNAL);
}

/* ---- threads ---- */

static void install(void)
{
        struct sigaction action = { .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };

        sigfillset(&action.sa_mask);
        action.sa_sigaction = on_kick;
        sigaction(KICK_SIGNAL, &action, NULL);
        action.sa_sigaction = on_tick;
        sigaction(TICK_SIGNAL, &action, NULL);
        action.sa_sigaction = on_trap;
        sigaction(SIGTRAP, &action, NULL);
}

void signals_init(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        pthread_once(&once, install);
}

size_t signals_stack_size(void)
{
        return ALIGN_UP((size_t)sysconf(_SC_MINSIGSTKSZ), PAGE_SIZE) + STACK_SIZE;
}

static void unblock_signals(void)
{
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, KICK_SIGNAL);
        sigaddset(&set, TICK_SIGNAL);
        sigaddset(&set, SIGTRAP);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void signals_thread_enter(struct interp *in)
{
        struct translate_cpu *t = in->translate;
        const stack_t stack = { .ss_sp = t->stack, .ss_size = signals_stack_size(), .ss_flags = (int)SS_AUTODISARM };

        if (t->tid != gettid()) {
                __atomic_store_n(&t->tid, gettid(), __ATOMIC_RELEASE);
                unblock_signals();
                shadowing_thread(in);
        }
        t->gs_base = 0; /* the thread may have run another vCPU */
        t->watch.armed = false; /* the tick may have come while nothing was running */
        sigaltstack(&stack, &t->thread_stack);
        running = in;
}

void signals_thread_leave(struct interp *in)
{
        running = NULL;
        sigaltstack(&in->translate->thread_stack, NULL);
}

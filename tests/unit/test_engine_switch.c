/* A guest that is moved between engines at random points computes what it computes unmoved.
 *
 * SWITCH_SEEDS=N runs N seeds and not a few; SWITCH_SEED=S runs just that one. */
#include "cpu_guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAM (8 * MIB)
#define DATA_AT 0x200000u
#define DATA_SIZE 0x20000u

struct pair {
        const struct cpu_engine *engines[2];
        const char *missing; /* why it cannot run here */
};
static struct pair interp_kvm = { .engines = { &interp_engine, &kvm_engine } };
static struct pair translate_interp = { .engines = { &translate_engine, &interp_engine } };
static struct pair translate_kvm = { .engines = { &translate_engine, &kvm_engine } };

/* Fills memory with a generator, then folds it: multiplication, rotation, carry chains, stack, calls, string
 * instructions, locked operations. R12 counts the rounds. */
GUEST_CODE(kernel, 64,
           "mov $0x200000, %edi\n"
           "mov $0x123456789abcdef1, %rax\n"
           "xor %ebx, %ebx\n"
           "xor %ebp, %ebp\n"
           "cld\n"
           "next:\n"
           "xor %ecx, %ecx\n"
           "fill:\n"
           "mov $6364136223846793005, %rdx\n"
           "imul %rdx, %rax\n"
           "mov $1442695040888963407, %rdx\n"
           "add %rdx, %rax\n"
           "mov %rax, (%rdi,%rcx,8)\n"
           "inc %ecx\n"
           "cmp $128, %ecx\n"
           "jne fill\n"
           "xor %ecx, %ecx\n"
           "fold:\n"
           "push %rax\n"
           "mov (%rdi,%rcx,8), %rax\n"
           "add %rax, %rbx\n"
           "adc $3, %rbp\n"
           "rol $13, %rbx\n"
           "call mix\n"
           "pop %rax\n"
           "inc %ecx\n"
           "cmp $128, %ecx\n"
           "jne fold\n"
           "push %rdi\n"
           "lea (%rdi), %rsi\n"
           "add $0x10000, %rdi\n"
           "mov $64, %ecx\n"
           "rep movsq\n"
           "mov $32, %ecx\n"
           "rep stosb\n"
           "pop %rdi\n"
           "mov 0x10000(%rdi), %rdx\n"
           "xor %rdx, %rbx\n"
           "pushfq\n"
           "pop %rdx\n"
           "and $0x8d5, %edx\n"
           "lock xadd %rdx, 0x11000(%rdi)\n"
           "dec %r12\n"
           "jnz next\n"
           "mov %ebx, %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: jmp 1b\n"
           "mix:\n"
           "bswap %rax\n"
           "xor %rax, %rbp\n"
           "shld $7, %rax, %rbp\n"
           "setc %dl\n"
           "add %dl, 0x12000(%rdi)\n"
           "ret\n");

/* The same spirit for SSE and x87 in user mode: integer lanes, floats, doubles, an x87 stack that stays filled. */
GUEST_CODE(user, 64,
           "jmp 2f\n"
           ".balign 64\n" /* SYSCALL comes here, in kernel mode */
           "mov %ebx, %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: jmp 1b\n"
           "2:\n"
           "mov $0x200000, %edi\n"
           "mov $0x9e3779b97f4a7c15, %rax\n"
           "movq %rax, %xmm0\n"
           "punpcklqdq %xmm0, %xmm0\n"
           "pcmpeqd %xmm1, %xmm1\n"
           "cvtsi2sd %eax, %xmm2\n"
           "movapd %xmm2, %xmm3\n"
           "fninit\n"
           "fldpi\n"
           "fld1\n"
           "unext:\n"
           "mov $64, %ecx\n"
           "1: paddq %xmm0, %xmm1\n"
           "pmuludq %xmm1, %xmm0\n"
           "pshufd $0x39, %xmm1, %xmm4\n"
           "pxor %xmm4, %xmm0\n"
           "movdqu %xmm0, (%rdi,%rcx,8)\n"
           "mulsd %xmm3, %xmm2\n"
           "sqrtsd %xmm2, %xmm2\n"
           "addsd %xmm3, %xmm2\n"
           "fadd %st(1), %st(0)\n"
           "fsqrt\n"
           "pmovmskb %xmm1, %edx\n"
           "add %rdx, %rbx\n"
           "rol $9, %rbx\n"
           "push %rbx\n"
           "pop %r8\n"
           "dec %ecx\n"
           "jnz 1b\n"
           "fld %st(0)\n"
           "fstpl 0x1000(%rdi)\n"
           "xor 0x1000(%rdi), %rbx\n"
           "movsd %xmm2, 0x1008(%rdi)\n"
           "xor 0x1008(%rdi), %rbx\n"
           "dec %r12\n"
           "jnz unext\n"
           "syscall\n");

struct program {
        const char *name;
        const u8 *code, *end;
        bool user;
        u64 rounds; /* R12 */
        unsigned kvm_us; /* longest stay under kvm */
};
#define STAY_US 300 /* longest stay under the others */

static const struct program kernel_program = { "kernel", guest_kernel, guest_kernel_end, false, 3000, 3000 };
static const struct program long_kernel_program = { "kernel", guest_kernel, guest_kernel_end, false, 30000, 3000 };
static const struct program user_program = { "user", guest_user, guest_user_end, true, 30000, 20 };

struct result {
        u64 gpr[GPR_COUNT], rip, rflags;
        u8 xsave[416];
        u64 out[4];
        size_t n_out;
        u64 memory_hash;
};

static u64 hash_memory(struct cpu_guest *g)
{
        const u8 *p = guest_memory_hva(g->memory, DATA_AT, DATA_SIZE);
        u64 hash = 14695981039346656037ULL;

        assert_non_null(p);
        for (size_t i = 0; i < DATA_SIZE; i++)
                hash = (hash ^ p[i]) * 1099511628211ULL;
        return hash;
}

static void get_result(struct cpu_guest *g, struct result *ret)
{
        const struct cpu_state *cpu = &g->vcpu.state;

        memset(ret, 0, sizeof(*ret));
        memcpy(ret->gpr, cpu->gpr, sizeof(ret->gpr));
        ret->rip = cpu->rip;
        /* RF (resume) concerns the next instruction's breakpoints only; the interpreter forgets it late when there are
         * none. */
        ret->rflags = cpu->rflags & ~RFLAGS_RF;
        memcpy(ret->xsave, cpu->xsave, sizeof(ret->xsave));
        memset(ret->xsave + 6, 0, 18); /* x87 instruction and data pointers: no two processors keep them alike */
        memcpy(ret->out, g->out, sizeof(ret->out));
        ret->n_out = g->n_out;
        ret->memory_hash = hash_memory(g);
}

static u64 seed;

static u64 rnd(void)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return seed;
}

static void start(struct cpu_guest *g, const struct program *program, const struct cpu_engine *engine)
{
        cpu_guest_init(g, engine, RAM);
        cpu_guest_long(g, program->code, program->end);
        if (program->user)
                cpu_guest_user(g, 64);
        g->vcpu.state.gpr[R12] = program->rounds;
        memset(g->vcpu.state.xsave + 160, 0, 256);
        if (engine->state_changed)
                engine->state_changed(&g->vcpu);
}

static bool ended(const struct cpu_guest *g)
{
        return __atomic_load_n(&g->vcpu.machine_stopping, __ATOMIC_ACQUIRE);
}

static void unmoved(const struct program *program, struct result *ret)
{
        struct cpu_guest g;

        start(&g, program, &interp_engine);
        while (!ended(&g)) {
                enum exit_reason reason = cpu_guest_run(&g);

                assert_true(reason == EXIT_MACHINE_STOP || reason == EXIT_KICKED);
        }
        get_result(&g, ret);
        cpu_guest_free(&g);
}

static void on_code_write(void *opaque, u64 gpa, u64 len)
{
        struct cpu_guest *g = opaque;

        if (g->vcpu.engine->code_written)
                g->vcpu.engine->code_written(g->machine, gpa, len);
}

static unsigned longest_stay(const struct program *program, const struct cpu_engine *engine)
{
        return engine == &kvm_engine ? program->kvm_us : STAY_US;
}

/* The machine parts of both engines live side by side; the vCPU goes to and fro. Returns the number of moves. */
static unsigned moved(const struct program *program, const struct pair *pair, struct result *ret)
{
        const struct cpu_engine *const *engines = pair->engines;
        void *machines[2];
        unsigned now = (unsigned)(rnd() & 1), moves = 0;
        struct cpu_guest g;

        start(&g, program, engines[now]);
        machines[now] = g.machine;
        assert_int_equal(engines[!now]->machine_create(g.memory, 1, &machines[!now], NULL), 0);
        g.memory->on_code_write = on_code_write;
        g.memory->on_code_write_opaque = &g;
        while (!ended(&g)) {
                pthread_t thread =
                        cpu_guest_post_later(&g, VCPU_WORK_STOP, (unsigned)(rnd() % longest_stay(program, engines[now])));
                enum exit_reason reason = cpu_guest_run(&g);

                pthread_join(thread, NULL);
                if (reason != EXIT_MACHINE_STOP && reason != EXIT_KICKED)
                        fail_msg("%s returned %s", engines[now]->name, exit_name(reason));
                if (rnd() % 4 == 0)
                        continue; /* stay */
                now = !now;
                moves++;
                g.machine = machines[now];
                assert_int_equal(vcpu_set_engine(&g.vcpu, engines[now], machines[now], &g.vcpu.error), 0);
        }
        get_result(&g, ret);
        assert_int_equal(g.vcpu.counters.value[COUNTER_ENGINE_SWITCHES], moves);
        engines[!now]->machine_destroy(machines[!now]);
        cpu_guest_free(&g);
        return moves;
}

/* Returns the number of moves. */
static unsigned check(const struct program *program, const struct pair *pair, const struct result *want, u64 the_seed)
{
        struct result got;
        unsigned moves;

        seed = the_seed;
        moves = moved(program, pair, &got);
        if (memcmp(want, &got, sizeof(got)) == 0)
                return moves;
        print_error("%s program, %s and %s, SWITCH_SEED=0x%lx, %u moves:\n", program->name, pair->engines[0]->name,
                    pair->engines[1]->name, (unsigned long)the_seed, moves);
        for (unsigned i = 0; i < GPR_COUNT; i++)
                if (want->gpr[i] != got.gpr[i])
                        print_error("gpr %u: 0x%lx, not 0x%lx\n", i, (unsigned long)got.gpr[i], (unsigned long)want->gpr[i]);
        for (unsigned i = 0; i < sizeof(got.xsave); i++)
                if (want->xsave[i] != got.xsave[i])
                        print_error("xsave %u: 0x%x, not 0x%x\n", i, got.xsave[i], want->xsave[i]);
        print_error("rip 0x%lx 0x%lx rflags 0x%lx 0x%lx memory %d\n", (unsigned long)got.rip, (unsigned long)want->rip,
                    (unsigned long)got.rflags, (unsigned long)want->rflags, got.memory_hash == want->memory_hash);
        fail();
        return 0;
}

static void skip_missing(const struct pair *pair)
{
        if (pair->missing) {
                print_message("# %s\n", pair->missing);
                skip();
        }
}

static void run_program(const struct program *program, const struct pair *pair)
{
        const char *n = getenv("SWITCH_SEEDS"), *one = getenv("SWITCH_SEED");
        u64 first = ((u64)getpid() << 32 ^ (u64)time(NULL)) * 0x9e3779b97f4a7c15ULL | 1;
        unsigned seeds = n ? (unsigned)strtoul(n, NULL, 0) : 4;
        struct result want;
        unsigned moves = 0;

        skip_missing(pair);
        if (one) {
                first = strtoull(one, NULL, 0);
                seeds = 1;
        }
        print_message("# %s program: %u seeds from 0x%lx\n", program->name, seeds, (unsigned long)first);
        unmoved(program, &want);
        assert_int_equal(want.n_out, 1);
        for (unsigned i = 0; i < seeds; i++)
                moves += check(program, pair, &want, first + 2 * i);
        print_message("# %u moves\n", moves);
        assert_true(moves > 2 * seeds); /* otherwise nothing was tested */
}

static void kernel_code_moves_between_interp_and_kvm(void **state)
{
        run_program(&kernel_program, &interp_kvm);
}

static void sse_and_x87_move_between_interp_and_kvm(void **state)
{
        run_program(&user_program, &interp_kvm);
}

static void kernel_code_moves_between_translate_and_interp(void **state)
{
        run_program(&long_kernel_program, &translate_interp);
}

static void sse_and_x87_move_between_translate_and_interp(void **state)
{
        run_program(&user_program, &translate_interp);
}

static void kernel_code_moves_between_translate_and_kvm(void **state)
{
        run_program(&long_kernel_program, &translate_kvm);
}

static void sse_and_x87_move_between_translate_and_kvm(void **state)
{
        run_program(&user_program, &translate_kvm);
}

/* A machine whose new engine refuses the state stays where it was and goes on. */
static void a_refused_move_leaves_the_vcpu_where_it_was(void **state)
{
        struct cpu_guest g;
        struct err *err = NULL;
        void *machine;
        u64 xcr0;

        skip_missing(&interp_kvm);
        start(&g, &kernel_program, &interp_engine);
        g.vcpu.state.gpr[R12] = 3;
        assert_int_equal(kvm_engine.machine_create(g.memory, 1, &machine, NULL), 0);
        xcr0 = g.vcpu.state.xcr0;
        g.vcpu.state.xcr0 = 0xe7;
        assert_true(vcpu_set_engine(&g.vcpu, &kvm_engine, machine, &err) < 0);
        assert_non_null(err);
        g.vcpu.state.xcr0 = xcr0;
        assert_ptr_equal(g.vcpu.engine, &interp_engine);
        while (!ended(&g))
                assert_int_not_equal(cpu_guest_run(&g), EXIT_FAILED);
        assert_int_equal(g.n_out, 1);
        err_free(err);
        kvm_engine.machine_destroy(machine);
        cpu_guest_free(&g);
}

/* Why the first of them that cannot run here cannot. */
static void probe(struct pair *pair)
{
        for (unsigned i = 0; i < 2 && !pair->missing; i++) {
                struct err *err = NULL;
                unsigned caps = 0;

                if (pair->engines[i]->probe(&caps, &err) < 0)
                        pair->missing = err_message(err);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(kernel_code_moves_between_interp_and_kvm),
                cmocka_unit_test(sse_and_x87_move_between_interp_and_kvm),
                cmocka_unit_test(kernel_code_moves_between_translate_and_interp),
                cmocka_unit_test(sse_and_x87_move_between_translate_and_interp),
                cmocka_unit_test(kernel_code_moves_between_translate_and_kvm),
                cmocka_unit_test(sse_and_x87_move_between_translate_and_kvm),
                cmocka_unit_test(a_refused_move_leaves_the_vcpu_where_it_was),
        };

        probe(&interp_kvm);
        probe(&translate_interp);
        probe(&translate_kvm);
        return cmocka_run_group_tests_name("engine_switch", tests, NULL, NULL);
}

/* System instructions and page faults that do not leave translated code: what they do is what they do under the interpreter, and they do not leave.
 * Faults, other modes and single steps are the interpreter's under both engines: test_interp_sys.c. */
#include "cpu_guest.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/translate/runtime.h"

#define RAM (16 * MIB)
#define ROUNDS 400
#define STOP "out %al, $0x18\n 1: jmp 1b\n"
#define OUT_RAX "out %eax, $0x10\n shr $32, %rax\n out %eax, $0x10\n"

/* Sums what each instruction gives into r12. */
GUEST_CODE(bases, 64,
           "mov $400, %ebp\n"
           "0: wrgsbase %rbp\n swapgs\n rdgsbase %rax\n add %rax, %r12\n"
           "lea 0x12345(%rbp), %rbx\n wrfsbase %ebx\n rdfsbase %ecx\n add %rcx, %r12\n rdfsbase %rcx\n rol $7, %r12\n add %rcx, %r12\n"
           "mov %fs:(%rbp), %al\n add %rax, %r12\n"
           "dec %ebp\n jnz 0b\n"
           "mov %r12, %rax\n" OUT_RAX STOP);

GUEST_CODE(flags, 64,
           "mov $400, %ebp\n"
           "0: mov %rbp, %rax\n and $0xcd5, %eax\n or $0x202, %eax\n push %rax\n popfq\n pushfq\n pop %rbx\n add %rbx, %r12\n"
           "cli\n pushfq\n pop %rbx\n rol $3, %r12\n xor %rbx, %r12\n sti\n nop\n pushfq\n pop %rbx\n add %rbx, %r12\n cld\n"
           "setc %bl\n add %rbx, %r12\n"
           "dec %ebp\n jnz 0b\n"
           "mov %r12, %rax\n" OUT_RAX STOP);

GUEST_CODE(registers, 64,
           "mov $400, %ebp\n"
           "0: mov %cr0, %rax\n add %rax, %r12\n mov %cr2, %r10\n add %r10, %r12\n mov %cr4, %r15\n add %r15, %r12\n"
           "mov %cs, %eax\n add %rax, %r12\n mov %ss, %r11d\n rol $5, %r12\n add %r11, %r12\n"
           "mov %cr3, %rax\n mov %rax, %cr3\n mov %cr3, %rbx\n add %rbx, %r12\n invlpg (%rsp)\n add 0x100000, %r12\n push %r12\n pop %r12\n"
           "rdtsc\n mov %rax, %rcx\n mov %rdx, %rbx\n lfence\n rdtscp\n shl $32, %rdx\n or %rdx, %rax\n shl $32, %rbx\n or %rbx, %rcx\n"
           "cmp %rcx, %rax\n adc $0, %r12\n" /* time goes on */
           "dec %ebp\n jnz 0b\n"
           "mov %r12, %rax\n" OUT_RAX STOP);

/* The system call adds its argument and what SYSCALL saved; 0 ends. */
GUEST_CODE(calls, 64,
           "mov $400, %edi\n"
           "0: stc\n syscall\n lea (%rdi, %rax), %rax\n setc %bl\n movzx %bl, %ebx\n add %rbx, %rax\n dec %edi\n syscall\n jmp 0b\n"
           ".balign 64\n"
           "swapgs\n cmp $0, %rdi\n je 2f\n add %rdi, %rax\n add %rcx, %rax\n add %r11, %rax\n swapgs\n sysretq\n"
           "2: " OUT_RAX STOP);

/* Each fault is skipped by its handler, which sums up the frame. */
GUEST_CODE(faults, 64,
           "mov $400, %ebp\n mov $0x7f00000000, %rbx\n"
           "0: mov %eax, (%rbx)\n"          /* two bytes */
           "stc\n mov (%rbx, %rbp, 8), %rax\n" /* four */
           "adc $0, %r12\n"
           "dec %ebp\n jnz 0b\n"
           "mov %r12, %rax\n" OUT_RAX STOP
           ".balign 128\n"
           "push %rax\n mov %cr2, %rax\n rol $1, %r12\n add %rax, %r12\n"
           "add 8(%rsp), %r12\n add 16(%rsp), %r12\n add 24(%rsp), %r12\n add 32(%rsp), %r12\n add 40(%rsp), %r12\n add 48(%rsp), %r12\n"
           "mov 8(%rsp), %rax\n and $2, %rax\n xor $2, %rax\n lea 2(%rax), %rax\n add %rax, 16(%rsp)\n" /* writes: 2, reads: 4 */
           "pop %rax\n add $8, %rsp\n iretq\n");

struct outcome {
        u64 out[2];
        u64 left; /* instructions that the interpreter did for the translator */
};

typedef void prepare_fn(struct cpu_guest *g);

static struct outcome run(const struct cpu_engine *engine, const u8 *code, const u8 *end, prepare_fn *prepare)
{
        struct outcome o;
        struct cpu_guest g;

        cpu_guest_init(&g, engine, RAM);
        cpu_guest_long(&g, code, end);
        g.vcpu.state.paging.cr4 |= CR4_FSGSBASE;
        g.vcpu.state.cr2 = 0x123456789;
        if (prepare)
                prepare(&g);
        if (engine->state_changed)
                engine->state_changed(&g.vcpu);
        while (!__atomic_load_n(&g.vcpu.machine_stopping, __ATOMIC_ACQUIRE)) {
                const enum exit_reason reason = cpu_guest_run(&g);

                if (reason != EXIT_KICKED && reason != EXIT_MACHINE_STOP)
                        fail_msg("run returned %s", exit_name(reason));
        }
        assert_int_equal(g.n_out, 2);
        o.out[0] = g.out[0];
        o.out[1] = g.out[1];
        o.left = g.vcpu.counters.value[COUNTER_INTERP_SYSTEM] + g.vcpu.counters.value[COUNTER_INTERP_MEMORY];
        cpu_guest_free(&g);
        return o;
}

static void compare(const u8 *code, const u8 *end, prepare_fn *prepare)
{
        const struct outcome want = run(&interp_engine, code, end, prepare), got = run(&translate_engine, code, end, prepare);

        assert_int_equal(got.out[0], want.out[0]);
        assert_int_equal(got.out[1], want.out[1]);
        /* The port writes at the end, and what sets accessed bits of descriptors first. */
        assert_in_range(got.left, 0, ROUNDS / 20);
}

static void segment_bases(void **state)
{
        compare(guest_bases, guest_bases_end, NULL);
}

static void flags(void **state)
{
        compare(guest_flags, guest_flags_end, NULL);
}

static void control_registers_and_time(void **state)
{
        compare(guest_registers, guest_registers_end, NULL);
}

static void into_user_mode(struct cpu_guest *g)
{
        cpu_guest_user(g, 64);
        g->vcpu.state.sfmask = RFLAGS_IF | RFLAGS_CF;
}

static void system_calls(void **state)
{
        compare(guest_calls, guest_calls_end, into_user_mode);
}

static void page_fault_gate(struct cpu_guest *g)
{
        cpu_guest_gate(g, EXC_PF, 128);
}

static void page_faults(void **state)
{
        compare(guest_faults, guest_faults_end, page_fault_gate);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(segment_bases), cmocka_unit_test(flags),       cmocka_unit_test(control_registers_and_time),
                cmocka_unit_test(system_calls),  cmocka_unit_test(page_faults),
        };
        unsigned caps = 0;

        if (translate_engine.probe(&caps, NULL) < 0) {
                print_message("# the translator cannot run here\n");
                return 77;
        }
        return cmocka_run_group_tests_name("translate_sys", tests, NULL, NULL);
}

/* Lockstep checking finds what is wrong and only that, and translations follow the page tables. */
#include <Zydis/Zydis.h>

#include "cpu_guest.h"

#include <string.h>

#include "cpu/translate/runtime.h"

#define RAM (8 * MIB)

/* Adds 1 to 1000 up, with the stack and memory in between. */
GUEST_CODE(sum, 64,
           "mov $0x200000, %edi\n"
           "xor %eax, %eax\n"
           "mov $1000, %ecx\n"
           "1: add %rcx, %rax\n"
           "push %rax\n"
           "mov %rax, (%rdi,%rcx,8)\n"
           "pop %r10\n"
           "adc $0, %r10d\n"
           "dec %ecx\n"
           "jnz 1b\n"
           "mov $0x200000, %esi\n"
           "mov $0x204000, %edi\n"
           "mov $300, %ecx\n"
           "rep movsq\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "2: jmp 2b\n");

/* The page at 0x400000 (its table is at 0x300000) shows one frame and then another, r12 times, told to the processor in turn by INVLPG and by
 * MOV to CR3. Each frame's first word says which it is; whoever still sees the last one counts in ebp. Then the same for code: the frames hold MOV
 * EAX, number; RET. */
GUEST_CODE(remap, 64,
           "xor %ebp, %ebp\n"
           "mov $0x500003, %r8d\n" /* frames 0x500000 and 0x501000, present and writable */
           "mov $0x501003, %r9d\n"
           "movl $0x111, 0x500000\n"
           "movl $0x222, 0x501000\n"
           "mov $0xb8, %al\n"
           "mov %al, 0x500010\n"
           "mov %al, 0x501010\n"
           "movl $0x111, 0x500011\n"
           "movl $0x222, 0x501011\n"
           "mov $0xc3, %al\n"
           "mov %al, 0x500015\n"
           "mov %al, 0x501015\n"
           "mov $0x111, %r10d\n"
           "mov $0x222, %r11d\n"
           "next:\n"
           "mov %r8, 0x300000\n"
           "test $1, %r12b\n"
           "jz 1f\n"
           "invlpg 0x400000\n"
           "jmp 2f\n"
           "1: mov %cr3, %rax\n"
           "mov %rax, %cr3\n"
           "2: mov 0x400000, %eax\n"
           "cmp %r10d, %eax\n"
           "je 3f\n"
           "inc %ebp\n"
           "3: mov $0x400010, %edx\n"
           "call *%rdx\n"
           "cmp %r10d, %eax\n"
           "je 4f\n"
           "inc %ebp\n"
           "4: call 0x400010 - 0x8000 + guest_remap\n" /* a direct call, that the translator may link */
           "cmp %r10d, %eax\n"
           "je 5f\n"
           "inc %ebp\n"
           "5: xchg %r8, %r9\n"
           "xchg %r10, %r11\n"
           "dec %r12\n"
           "jnz next\n"
           "mov %ebp, %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "6: jmp 6b\n");

static void start(struct cpu_guest *g, const u8 *code, const u8 *end, bool check)
{
        void *machine, *old;

        cpu_guest_init(g, &interp_engine, RAM);
        cpu_guest_long(g, code, end);
        g->vcpu.check = check;
        assert_int_equal(translate_engine.machine_create(g->memory, 1, &machine, NULL), 0);
        assert_int_equal(vcpu_set_engine(&g->vcpu, &translate_engine, machine, &g->vcpu.error), 0);
        old = g->machine;
        g->machine = machine;
        interp_engine.machine_destroy(old);
}

static enum exit_reason run_to_the_end(struct cpu_guest *g)
{
        enum exit_reason reason;

        do {
                reason = cpu_guest_run(g);
        } while (reason == EXIT_KICKED && !__atomic_load_n(&g->vcpu.machine_stopping, __ATOMIC_ACQUIRE));
        return reason;
}

static void right_code_passes_the_check(void **state)
{
        struct cpu_guest g;

        start(&g, guest_sum, guest_sum_end, true);
        assert_int_not_equal(run_to_the_end(&g), EXIT_FAILED);
        assert_int_equal(g.n_out, 1);
        assert_int_equal(g.out[0], 500500);
        assert_true(g.vcpu.counters.value[COUNTER_BLOCKS_CHECKED] > 900);
        cpu_guest_free(&g);
}

/* Makes the first ADD RAX, RCX of any translated block a SUB. */
static bool tamper(struct translator *tr)
{
        const struct code_segment *segment = &tr->code.segments[0];

        for (unsigned i = 0; i < segment->n_blocks; i++) {
                const struct tblock *block = cache_at(tr, segment->index[i]);
                u8 *p = (u8 *)(uintptr_t)block_code(block) + CODE_SPAN;

                for (unsigned at = 0; at + 4 < block->code_size; at++, p++)
                        if (p[0] == 0x48 && p[1] == 0x01 && p[2] == 0xc8) {
                                p[1] = 0x29;
                                return true;
                        }
        }
        return false;
}

static void wrong_code_fails_the_check(void **state)
{
        struct cpu_guest g;

        start(&g, guest_sum, guest_sum_end, true);
        assert_int_not_equal(run_to_the_end(&g), EXIT_FAILED);
        if (!tamper(interp_of(&g.vcpu)->machine->translator)) {
                print_message("the loop's ADD was not found in the translated code\n");
                fail();
        }
        g.vcpu.machine_stopping = false;
        g.vcpu.state.rip = GUEST_CODE_AT;
        assert_int_equal(g.vcpu.engine->run(&g.vcpu), EXIT_FAILED);
        assert_non_null(g.vcpu.error);
        assert_non_null(strstr(err_message(g.vcpu.error), "differs from the interpreter in general registers"));
        cpu_guest_free(&g);
}

static void no_stale_translation_is_used(void **state)
{
        for (unsigned check = 0; check < 2; check++) {
                struct cpu_guest g;
                const u64 table = 0x300003;

                start(&g, guest_remap, guest_remap_end, check);
                g.vcpu.state.gpr[R12] = 2000;
                /* 0x400000-0x5fffff were a large page; 0x500000 stays where it is by another table entry. */
                for (u64 i = 0; i < 512; i++) {
                        const u64 entry = (0x400000 + i * PAGE_SIZE) | 3;

                        assert_int_equal(guest_memory_write(g.memory, 0x300000 + i * 8, &entry, 8), 0);
                }
                assert_int_equal(guest_memory_write(g.memory, GUEST_PML4_AT + 2 * PAGE_SIZE + 2 * 8, &table, 8), 0);
                g.vcpu.engine->state_changed(&g.vcpu);
                assert_int_not_equal(run_to_the_end(&g), EXIT_FAILED);
                assert_int_equal(g.n_out, 1);
                assert_int_equal(g.out[0], 0);
                cpu_guest_free(&g);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(right_code_passes_the_check),
                cmocka_unit_test(wrong_code_fails_the_check),
                cmocka_unit_test(no_stale_translation_is_used),
        };

        return cmocka_run_group_tests_name("translate_check", tests, NULL, NULL);
}

/* What runs translated code: kicks, code that changes, eviction, links between blocks, faults. The translation itself is compared with the interpreter and
 * the host's CPU elsewhere (tests/diff, --check interp). */
#include "cpu_guest.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/translate/runtime.h"

#define RAM (16 * MIB)

static u64 counter(const struct cpu_guest *g, enum counter_id id)
{
        return g->vcpu.counters.value[id];
}

static void start(struct cpu_guest *g, const u8 *code, const u8 *end)
{
        cpu_guest_init(g, &translate_engine, RAM);
        cpu_guest_long(g, code, end);
}

/* Runs until the guest writes to GUEST_PORT_STOP. */
static void run_to_end(struct cpu_guest *g)
{
        while (!__atomic_load_n(&g->vcpu.machine_stopping, __ATOMIC_ACQUIRE)) {
                enum exit_reason reason = cpu_guest_run(g);

                if (reason != EXIT_KICKED && reason != EXIT_MACHINE_STOP)
                        fail_msg("run returned %s", exit_name(reason));
        }
}

#define STOP "out %al, $0x18\n 1: jmp 1b\n"

/* ---- kicks ---- */

/* One endless loop of linked blocks. What holds at each instruction is told by rip. */
GUEST_CODE(endless, 64,
           "inc %rax\n"             /* 0: rbx = rax + 1 here */
           "lea 1(%rax), %rbx\n"    /* 3: rbx = rax */
           "push %rbx\n"            /* 7: rbx = rax + 1 from here on */
           "mov %rax, 0x100000\n"   /* 8 */
           "pop %rcx\n"             /* 16: the stack is one deeper */
           "cmp %rbx, %rcx\n"       /* 17: rcx = rbx */
           "je guest_endless\n"     /* 20 */
           "ud2\n");

static void a_kick_finds_an_exact_state_in_linked_code(void **state)
{
        unsigned seen = 0;
        struct cpu_guest g;

        start(&g, guest_endless, guest_endless_end);
        g.vcpu.state.gpr[RBX] = 1;
        for (unsigned i = 0; i < 300; i++) {
                pthread_t thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, i * 7 % 100);
                const u64 *r = g.vcpu.state.gpr;
                u64 at, stored;

                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                pthread_join(thread, NULL);
                g.vcpu.work = 0;
                at = g.vcpu.state.rip - GUEST_CODE_AT;
                assert_int_equal(guest_memory_read(g.memory, 0x100000, &stored, 8), 0);
                assert_int_equal(r[RBX], r[RAX] + (at != 3));
                assert_int_equal(r[RSP], GUEST_STACK_AT - 8 * (at == 8 || at == 16));
                if (at >= 16)
                        assert_int_equal(stored, r[RAX]);
                if (at == 17 || at == 20)
                        assert_int_equal(r[RCX], r[RBX]);
                if (at == 20)
                        assert_true(g.vcpu.state.rflags & RFLAGS_ZF);
                assert_true(at < 22);
                seen |= 1u << at;
        }
        assert_true(g.vcpu.state.gpr[RAX] > 1000);
        assert_true(__builtin_popcount(seen) > 1); /* otherwise nothing was tested */
        assert_true(counter(&g, COUNTER_BLOCKS_LINKED) > 0);
        cpu_guest_free(&g);
}

/* ---- code that changes ---- */

struct patch {
        struct cpu_guest *guest;
        u64 gpa;
        u8 value;
};

static void *patch_later(void *arg)
{
        const struct patch *patch = arg;

        usleep(5000);
        assert_int_equal(guest_memory_write(patch->guest->memory, patch->gpa, &patch->value, 1), 0);
        return NULL;
}

/* The guest goes round until a byte of its code at @offset becomes 2. */
static void run_and_patch(const u8 *code, const u8 *end, u64 offset)
{
        struct cpu_guest g;
        struct patch patch = { &g, GUEST_CODE_AT + offset, 2 };
        pthread_t thread;

        start(&g, code, end);
        assert_int_equal(pthread_create(&thread, NULL, patch_later, &patch), 0);
        run_to_end(&g);
        pthread_join(thread, NULL);
        assert_true(counter(&g, COUNTER_TRANSLATIONS_DROPPED) > 0);
        cpu_guest_free(&g);
}

GUEST_CODE(waits_linked, 64, "again: mov $1, %eax\n cmp $2, %eax\n jne again\n" STOP);
GUEST_CODE(waits_indirect, 64,
           "lea target(%rip), %rbx\n"
           "1: call *%rbx\n"
           "cmp $2, %eax\n"
           "jne 1b\n" STOP
           "target: mov $1, %eax\n ret\n");

static void a_loop_sees_its_own_code_change(void **state)
{
        run_and_patch(guest_waits_linked, guest_waits_linked_end, 1);
}

static void a_block_known_to_a_jump_cache_sees_its_code_change(void **state)
{
        run_and_patch(guest_waits_indirect, guest_waits_indirect_end, (u64)(guest_waits_indirect_end - guest_waits_indirect) - 5);
}

/* Writes the immediate of an instruction ahead of itself, in the same block, 1000 times. */
GUEST_CODE(modifies_itself, 64,
           "xor %ebx, %ebx\n"
           "mov $1000, %ecx\n"
           "1: mov %ecx, changed+1(%rip)\n"
           "changed: mov $0, %eax\n"
           "add %rax, %rbx\n"
           "dec %ecx\n"
           "jnz 1b\n"
           "mov %ebx, %eax\n"
           "out %eax, $0x10\n" STOP);

static void code_that_writes_ahead_of_itself_runs_what_it_wrote(void **state)
{
        struct cpu_guest g;

        start(&g, guest_modifies_itself, guest_modifies_itself_end);
        run_to_end(&g);
        assert_int_equal(g.out[0], 1000 * 1001 / 2);
        cpu_guest_free(&g);
}

/* Data in the code's own 64 bytes, and in its page. */
GUEST_CODE(data_beside_code, 64,
           "mov $1000, %ecx\n"
           "1: incl 2f(%rip)\n"
           "incl 3f(%rip)\n"
           "dec %ecx\n"
           "jnz 1b\n"
           "mov 2f(%rip), %eax\n"
           "out %eax, $0x10\n"
           "mov 3f(%rip), %eax\n"
           "out %eax, $0x10\n" STOP
           ".balign 8\n 2: .long 0\n"
           ".skip 512\n 3: .long 0\n");

static void writes_beside_code_drop_no_block(void **state)
{
        struct cpu_guest g;

        start(&g, guest_data_beside_code, guest_data_beside_code_end);
        run_to_end(&g);
        assert_int_equal(g.out[0], 1000);
        assert_int_equal(g.out[1], 1000);
        assert_int_equal(counter(&g, COUNTER_TRANSLATIONS_DROPPED), 0);
        cpu_guest_free(&g);
}

/* Two functions in one chunk: one is written, then the other. */
GUEST_CODE(neighbours, 64,
           "call f1\n"
           "call f2\n"
           "movb $2, f1+1(%rip)\n"
           "movb $3, f2+1(%rip)\n"
           "call f1\n"
           "out %eax, $0x10\n"
           "call f2\n"
           "out %eax, $0x10\n" STOP
           ".skip 0x1000\n"
           "f1: mov $1, %eax\n ret\n"
           "f2: mov $1, %eax\n ret\n");

static void a_write_to_one_block_does_not_hide_one_to_its_neighbour(void **state)
{
        struct cpu_guest g;

        start(&g, guest_neighbours, guest_neighbours_end);
        run_to_end(&g);
        assert_int_equal(g.out[0], 2);
        assert_int_equal(g.out[1], 3);
        cpu_guest_free(&g);
}

/* ---- instructions across pages ---- */

/* An instruction whose immediate begins in the next page: 1000 rounds, then its immediate becomes 3, and 1000 more. */
GUEST_CODE(crosses, 64,
           "xor %ebx, %ebx\n"
           "mov $2, %ebp\n"
           "1: mov $1000, %ecx\n"
           "jmp across\n"
           "2: dec %ecx\n"
           "jnz across\n"
           "movb $3, across+1(%rip)\n"
           "dec %ebp\n"
           "jnz 1b\n"
           "mov %ebx, %eax\n"
           "out %eax, $0x10\n" STOP
           ".skip 0x1000 - 1 - (. - guest_crosses), 0x90\n"
           "across: mov $1, %eax\n"
           "add %eax, %ebx\n"
           "jmp 2b\n");

static void an_instruction_across_pages_is_translated_and_follows_writes(void **state)
{
        struct cpu_guest g;

        start(&g, guest_crosses, guest_crosses_end);
        run_to_end(&g);
        assert_int_equal(g.out[0], 1000 + 3000);
        assert_true(counter(&g, COUNTER_INTERP_PAGE_END) < 10);
        cpu_guest_free(&g);
}

/* ---- links across pages ---- */

#define FAR_VA 0x40000000ULL
#define FAR_TABLE 0x300000ULL
#define FAR_PAGE 0x310000ULL

/* Calls the page at FAR_VA (rbx) four times, maps another page there, calls it again from the same place. */
#define REMAP(call) \
        "1: mov $4, %ebp\n" \
        "2: " call "\n" \
        "dec %ebp\n" \
        "jnz 2b\n" \
        "out %eax, $0x10\n" \
        "test %rsi, %rsi\n" \
        "jz 3f\n" \
        "mov %rsi, (%rdi)\n" \
        "invlpg (%rbx)\n" \
        "xor %esi, %esi\n" \
        "jmp 1b\n" \
        "3: out %al, $0x18\n" \
        "4: jmp 4b\n"

GUEST_CODE(remaps, 64, REMAP("call *%rbx"));
/* The same with direct jumps, which are linked: the code runs at FAR_VA + 4096 itself. */
GUEST_CODE(remaps_linked, 64, ".skip 0x100, 0x90\n" REMAP("call guest_remaps_linked - 0x1000"));

static void put64(struct cpu_guest *g, u64 gpa, u64 value)
{
        assert_int_equal(guest_memory_write(g->memory, gpa, &value, 8), 0);
}

/* FAR_VA is a page that returns 1, to be replaced by one that returns 2; FAR_VA + 4096 is the program. */
static void start_far(struct cpu_guest *g, const u8 *code, const u8 *end, u64 entry_bits)
{
        static const u8 returns_1[] = { 0xb8, 1, 0, 0, 0, 0xc3 }, returns_2[] = { 0xb8, 2, 0, 0, 0, 0xc3 };

        start(g, code, end);
        put64(g, GUEST_PML4_AT + 0x1000 + 8, (FAR_TABLE + 0x1000) | 3);
        put64(g, FAR_TABLE + 0x1000, FAR_TABLE | 3);
        put64(g, FAR_TABLE, FAR_PAGE | entry_bits);
        put64(g, FAR_TABLE + 8, GUEST_CODE_AT | entry_bits);
        assert_int_equal(guest_memory_write(g->memory, FAR_PAGE, returns_1, sizeof(returns_1)), 0);
        assert_int_equal(guest_memory_write(g->memory, FAR_PAGE + 0x1000, returns_2, sizeof(returns_2)), 0);
        g->vcpu.state.paging.cr4 |= CR4_PGE;
        g->vcpu.state.gpr[RSI] = (FAR_PAGE + 0x1000) | entry_bits;
        g->vcpu.state.gpr[RDI] = FAR_TABLE;
        g->vcpu.state.gpr[RBX] = FAR_VA;
        translate_engine.state_changed(&g->vcpu);
}

static void check_remap(struct cpu_guest *g)
{
        run_to_end(g);
        assert_int_equal(g->n_out, 2);
        assert_int_equal(g->out[0], 1);
        assert_int_equal(g->out[1], 2);
        cpu_guest_free(g);
}

static void indirect_jumps_follow_the_mapping(void **state)
{
        struct cpu_guest g;

        start_far(&g, guest_remaps, guest_remaps_end, 3);
        check_remap(&g);
}

static void linked_jumps_follow_the_mapping(void **state)
{
        static const u64 bits[] = { 3, 3 | BIT(8) /* global */ };

        for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
                struct cpu_guest g;

                start_far(&g, guest_remaps_linked, guest_remaps_linked_end, bits[i]);
                g.vcpu.state.rip = FAR_VA + 0x1100;
                check_remap(&g);
        }
}

/* Runs at FAR_VA. Its last byte is the opcode of mov eax, imm32, whose immediate and a jump back to 2: are in the page behind, of which there are two. */
GUEST_CODE(remaps_second, 64,
           "mov $4, %ecx\n"
           "1: jmp tail\n"
           "2: dec %ecx\n"
           "jnz 1b\n"
           "out %eax, $0x10\n"
           "test %esi, %esi\n"
           "jz 3f\n"
           "mov %rsi, 8(%rdi)\n"
           "invlpg 0x1000(%rbx)\n"
           "xor %esi, %esi\n"
           "jmp guest_remaps_second\n"
           "3: " STOP
           ".skip 0xfff - (. - guest_remaps_second), 0x90\n"
           "tail: .byte 0xb8\n");

static void an_instruction_across_pages_follows_the_mapping(void **state)
{
        static const u64 bits[] = { 3, 3 | BIT(8) /* global */ };
        u8 page[] = { 1, 0, 0, 0, 0xe9, 0, 0, 0, 0 }; /* the immediate; jmp 2b, which is at 7 */
        const s32 back = 7 - (0x1000 + (s32)sizeof(page));

        memcpy(page + 5, &back, 4);
        for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
                struct cpu_guest g;

                start_far(&g, guest_remaps_second, guest_remaps_second_end, bits[i]);
                put64(&g, FAR_TABLE, GUEST_CODE_AT | bits[i]);
                put64(&g, FAR_TABLE + 8, FAR_PAGE | bits[i]);
                page[0] = 1;
                assert_int_equal(guest_memory_write(g.memory, FAR_PAGE, page, sizeof(page)), 0);
                page[0] = 2;
                assert_int_equal(guest_memory_write(g.memory, FAR_PAGE + 0x1000, page, sizeof(page)), 0);
                g.vcpu.state.rip = FAR_VA;
                check_remap(&g);
        }
}

/* ---- eviction ---- */

#define FUNCTIONS 6000u
#define FUNCTION_SIZE 512u
#define FUNCTIONS_AT 0x400000u

/* Calls all functions through a pointer, twice; each adds something to rax. */
GUEST_CODE(calls_all, 64,
           "xor %eax, %eax\n"
           "mov $2, %ebp\n"
           "1: mov $0x400000, %ebx\n"
           "mov $6000, %ecx\n"
           "2: call *%rbx\n"
           "add $512, %rbx\n"
           "dec %ecx\n"
           "jnz 2b\n"
           "dec %ebp\n"
           "jnz 1b\n"
           "out %eax, $0x10\n" STOP);

/* A cache of two MiB. */
static void shrink_cache(struct cpu_guest *g)
{
        struct interp_machine *m = g->machine;

        translate_engine.vcpu_destroy(&g->vcpu);
        m->translator = translator_free(m->translator);
        assert_int_equal(translator_new(m, 1, 2 * MIB, true, &m->translator, NULL), 0);
        assert_int_equal(translate_engine.vcpu_create(&g->vcpu, NULL), 0);
}

/* Returns what the functions add up to. */
static u32 put_functions(struct cpu_guest *g)
{
        u32 sum = 0;

        for (u32 i = 0; i < FUNCTIONS; i++) {
                u8 code[FUNCTION_SIZE] = { 0 };
                unsigned n = 0;

                for (; n < 40 * 7; n += 7) { /* add [rsp - 64], rax's part: something to translate at length */
                        static const u8 load[] = { 0x4c, 0x8b, 0x84, 0x24, 0xc0, 0xff, 0xff };

                        memcpy(code + n, load, 7);
                        code[n + 7] = 0xff;
                        n++;
                }
                code[n++] = 0x05; /* add eax, i */
                memcpy(code + n, &i, 4);
                code[n + 4] = 0xc3;
                sum += i;
                assert_int_equal(guest_memory_write(g->memory, FUNCTIONS_AT + (u64)i * FUNCTION_SIZE, code, sizeof(code)), 0);
        }
        return sum;
}

static void evicted_code_is_translated_again(void **state)
{
        struct cpu_guest g;
        u32 sum;

        cpu_guest_init(&g, &translate_engine, RAM);
        shrink_cache(&g);
        cpu_guest_long(&g, guest_calls_all, guest_calls_all_end);
        sum = put_functions(&g);
        run_to_end(&g);
        assert_int_equal(g.out[0], 2 * sum);
        assert_true(counter(&g, COUNTER_CODE_EVICTIONS) > 2);
        assert_true(counter(&g, COUNTER_BLOCKS_TRANSLATED) > 2 * FUNCTIONS);
        cpu_guest_free(&g);
}

/* Calls all functions so many times with a small cache. */
static const struct code_memory *run_in_small_cache(struct cpu_guest *g, u8 rounds)
{
        struct code_memory *code;
        u32 sum;

        start(g, guest_calls_all, guest_calls_all_end);
        code = &((struct interp_machine *)g->machine)->translator->code;
        code->n_enough = SEGMENTS_FEW;
        sum = put_functions(g);
        assert_int_equal(guest_memory_write(g->memory, GUEST_CODE_AT + 3, &rounds, 1), 0);
        run_to_end(g);
        assert_int_equal((u32)g->out[0], rounds * sum);
        assert_true(counter(g, COUNTER_CODE_EVICTIONS) > 0);
        return code;
}

static void a_small_cache_grows_when_it_is_too_small(void **state)
{
        struct cpu_guest g;
        const u8 rounds = 8;
        const struct code_memory *code = run_in_small_cache(&g, rounds);

        assert_true(code->n_used > SEGMENTS_FEW);
        assert_true(code->n_used < code->n_segments);
        assert_true(counter(&g, COUNTER_CODE_RETURNS) > 0);
        assert_true(counter(&g, COUNTER_BLOCKS_TRANSLATED) < rounds * FUNCTIONS);
        cpu_guest_free(&g);
}

static void ever_new_code_makes_no_cache_grow(void **state)
{
        struct cpu_guest g;
        const struct code_memory *code = run_in_small_cache(&g, 1);

        assert_int_equal(code->n_used, SEGMENTS_FEW);
        assert_true(counter(&g, COUNTER_CODE_RETURNS) < 10); /* the caller's */
        cpu_guest_free(&g);
}

/* How many blocks @rounds of all functions make. */
static u64 blocks_made(u8 rounds)
{
        struct cpu_guest g;
        u64 n;

        start(&g, guest_calls_all, guest_calls_all_end);
        put_functions(&g);
        assert_int_equal(guest_memory_write(g.memory, GUEST_CODE_AT + 3, &rounds, 1), 0); /* of mov $2, %ebp */
        run_to_end(&g);
        assert_int_equal(counter(&g, COUNTER_CODE_EVICTIONS), 0);
        n = counter(&g, COUNTER_BLOCKS_TRANSLATED);
        cpu_guest_free(&g);
        return n;
}

static void nothing_is_translated_twice_while_there_is_room(void **state)
{
        const u64 once = blocks_made(1);

        assert_true(once > FUNCTIONS);
        assert_true(blocks_made(5) < once + 20);
}

/* ---- faults ---- */

/* The handler at 64 writes the saved rip and rbx. */
#define HANDLER ".balign 64\n mov (%rsp), %eax\n cmpl $8, 8(%rsp)\n je 3f\n mov 8(%rsp), %eax\n 3: out %eax, $0x10\n" \
                "mov %ebx, %eax\n out %eax, $0x10\n" STOP

GUEST_CODE(divides, 64, "mov $7, %ebx\n xor %ecx, %ecx\n inc %ebx\n mov $5, %eax\n cltd\n div %ecx\n inc %ebx\n" HANDLER);
GUEST_CODE(touches_nothing, 64, "mov $7, %ebx\n mov $0x7f00000000, %rcx\n inc %ebx\n mov %ebx, (%rcx)\n inc %ebx\n" HANDLER);
GUEST_CODE(jumps_nowhere, 64, "mov $8, %ebx\n mov $0x7f00000000, %rcx\n jmp *%rcx\n inc %ebx\n" HANDLER);

static void expect_fault(const u8 *code, const u8 *end, u8 vector, u64 rip)
{
        struct cpu_guest g;

        start(&g, code, end);
        cpu_guest_gate(&g, vector, 64);
        run_to_end(&g);
        assert_int_equal(g.n_out, 2);
        assert_int_equal(g.out[0], rip & 0xffffffff);
        assert_int_equal(g.out[1], 8);
        cpu_guest_free(&g);
}

static void a_division_by_zero_is_where_it_is(void **state)
{
        expect_fault(guest_divides, guest_divides_end, EXC_DE, GUEST_CODE_AT + 15);
}

static void a_page_fault_is_where_it_is(void **state)
{
        expect_fault(guest_touches_nothing, guest_touches_nothing_end, EXC_PF, GUEST_CODE_AT + 17);
}

static void a_fetch_fault_is_at_the_target(void **state)
{
        expect_fault(guest_jumps_nowhere, guest_jumps_nowhere_end, EXC_PF, 0x7f00000000);
}

/* ---- code that is not translated ---- */

/* Two blocks 100,000 times; then one of them changes, and it all happens again. */
GUEST_CODE(loops_in_32_bits, 32,
           "xor %ebx, %ebx\n"
           "3: mov $100000, %ecx\n"
           "1: jmp 2f\n"
           "2: add $1, %ebx\n"
           "dec %ecx\n"
           "jnz 1b\n"
           "incb 2b-guest_loops_in_32_bits+0x8002\n"
           "cmpb $3, 2b-guest_loops_in_32_bits+0x8002\n"
           "jne 3b\n"
           "mov %ebx, %eax\n"
           "out %eax, $0x10\n" STOP);

static void the_interpreter_goes_on_from_block_to_block(void **state)
{
        struct cpu_guest g;

        cpu_guest_init(&g, &translate_engine, RAM);
        cpu_guest_protected(&g, guest_loops_in_32_bits, guest_loops_in_32_bits_end);
        run_to_end(&g);
        assert_int_equal(g.out[0], 300000);
        assert_true(counter(&g, COUNTER_BLOCK_LOOKUP_SLOW) < 1000);
        cpu_guest_free(&g);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_kick_finds_an_exact_state_in_linked_code),
                cmocka_unit_test(a_loop_sees_its_own_code_change),
                cmocka_unit_test(a_block_known_to_a_jump_cache_sees_its_code_change),
                cmocka_unit_test(code_that_writes_ahead_of_itself_runs_what_it_wrote),
                cmocka_unit_test(writes_beside_code_drop_no_block),
                cmocka_unit_test(a_write_to_one_block_does_not_hide_one_to_its_neighbour),
                cmocka_unit_test(an_instruction_across_pages_is_translated_and_follows_writes),
                cmocka_unit_test(an_instruction_across_pages_follows_the_mapping),
                cmocka_unit_test(indirect_jumps_follow_the_mapping),
                cmocka_unit_test(linked_jumps_follow_the_mapping),
                cmocka_unit_test(evicted_code_is_translated_again),
                cmocka_unit_test(a_small_cache_grows_when_it_is_too_small),
                cmocka_unit_test(ever_new_code_makes_no_cache_grow),
                cmocka_unit_test(nothing_is_translated_twice_while_there_is_room),
                cmocka_unit_test(a_division_by_zero_is_where_it_is),
                cmocka_unit_test(a_page_fault_is_where_it_is),
                cmocka_unit_test(a_fetch_fault_is_at_the_target),
                cmocka_unit_test(the_interpreter_goes_on_from_block_to_block),
        };
        unsigned caps = 0;

        if (translate_engine.probe(&caps, NULL) < 0) {
                print_message("# the translator cannot run here\n");
                return 77;
        }
        return cmocka_run_group_tests_name("translate_run", tests, NULL, NULL);
}

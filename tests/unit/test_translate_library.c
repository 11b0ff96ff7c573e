/* Translations that are saved by one machine and used by another. */
#include "cpu_guest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/translate/library.h"

#define RAM (16 * MIB)
#define ID 17
#define ROUNDS 3000000ULL
#define RESULT(factor) (u32)(ROUNDS * (ROUNDS + 1) / 2 * (factor))

/* Blocks that are linked, a call, a return, an indirect jump, memory: eax = 7 * (1 + 2 + ... + ROUNDS). */
GUEST_CODE(sum, 64,
           "xor %eax, %eax\n"
           "mov $3000000, %ecx\n"
           "lea 3f(%rip), %rbx\n"
           "1: call 2f\n"
           "dec %ecx\n"
           "jnz 1b\n"
           "jmp *%rbx\n"
           "2: mov %rcx, 0x100000\n"
           "imul $7, 0x100000, %edx\n" /* 7 is the byte at guest_sum_factor */
           ".global guest_sum_factor\n"
           "guest_sum_factor:\n"
           "add %edx, %eax\n"
           "ret\n"
           "3: mov %eax, 0x100008\n"
           "out %al, $0x18\n 1: jmp 1b\n");
extern const u8 guest_sum_factor[];

static u64 counter(const struct cpu_guest *g, enum counter_id id)
{
        return g->vcpu.counters.value[id];
}

static void start(struct cpu_guest *g)
{
        cpu_guest_init(g, &translate_engine, RAM);
        cpu_guest_long(g, guest_sum, guest_sum_end);
}

static struct translator *translator_of(const struct cpu_guest *g)
{
        return ((struct interp_machine *)g->machine)->translator;
}

static u32 run_to_end(struct cpu_guest *g)
{
        u32 result;

        while (!__atomic_load_n(&g->vcpu.machine_stopping, __ATOMIC_ACQUIRE)) {
                enum exit_reason reason = cpu_guest_run(g);

                if (reason != EXIT_KICKED && reason != EXIT_MACHINE_STOP)
                        fail_msg("run returned %s", exit_name(reason));
        }
        assert_int_equal(guest_memory_read(g->memory, 0x100008, &result, 4), 0);
        return result;
}

/* Translations of the whole program in a new file. *ret_blocks: how many. */
static int saved_file(u64 *ret_blocks)
{
        const int fd = memfd_create("library", MFD_CLOEXEC);
        struct cpu_guest g;

        assert_true(fd >= 0);
        start(&g);
        assert_int_equal(run_to_end(&g), RESULT(7));
        assert_int_equal(translate_engine.code_save(g.machine, fd, ID, NULL), 0);
        *ret_blocks = counter(&g, COUNTER_BLOCKS_TRANSLATED);
        assert_true(*ret_blocks > 3);
        cpu_guest_free(&g);
        return fd;
}

static void load(struct cpu_guest *g, int fd)
{
        assert_int_equal(translate_engine.code_load(g->machine, fd, ID, NULL), 0);
}

static void blocks_are_loaded_instead_of_translated(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks);

        start(&g);
        load(&g, fd);
        close(fd);
        assert_int_equal(run_to_end(&g), RESULT(7));
        assert_int_equal(counter(&g, COUNTER_BLOCKS_LOADED), blocks);
        assert_int_equal(counter(&g, COUNTER_BLOCKS_TRANSLATED), 0);
        cpu_guest_free(&g);
}

static void they_can_be_saved_again(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks), again = memfd_create("library", MFD_CLOEXEC);

        start(&g);
        load(&g, fd);
        close(fd);
        run_to_end(&g);
        assert_int_equal(translate_engine.code_save(g.machine, again, ID, NULL), 0);
        cpu_guest_free(&g);
        start(&g);
        load(&g, again);
        close(again);
        assert_int_equal(run_to_end(&g), RESULT(7));
        assert_int_equal(counter(&g, COUNTER_BLOCKS_LOADED), blocks);
        cpu_guest_free(&g);
}

static void code_that_changed_is_translated(void **state)
{
        const u64 factor = GUEST_CODE_AT + (u64)(guest_sum_factor - guest_sum) - 1;
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks);
        const u8 two = 2;

        start(&g);
        load(&g, fd);
        close(fd);
        assert_int_equal(guest_memory_write(g.memory, factor, &two, 1), 0);
        assert_int_equal(run_to_end(&g), RESULT(2));
        assert_int_equal(counter(&g, COUNTER_BLOCKS_TRANSLATED), 1);
        assert_int_equal(counter(&g, COUNTER_BLOCKS_LOADED), blocks);
        cpu_guest_free(&g);
}

/* Functions that fill several segments: each is a jump over a page's worth of room, an addition and a return. */
#define FUNCTIONS 3000u
#define FUNCTIONS_AT 0x400000u
#define FUNCTION_SIZE 1024u
GUEST_CODE(calls_all, 64,
           "xor %eax, %eax\n"
           "mov $0x400000, %ebx\n"
           "mov $3000, %ecx\n"
           "2: call *%rbx\n"
           "add $1024, %rbx\n"
           "dec %ecx\n"
           "jnz 2b\n"
           "mov %eax, 0x100008\n"
           "out %al, $0x18\n 1: jmp 1b\n");

static u32 start_functions(struct cpu_guest *g)
{
        static const u8 load[] = { 0x4c, 0x8b, 0x84, 0x24, 0xc0, 0xff, 0xff, 0xff }; /* mov r8, [rsp - 64] */
        u32 sum = 0;

        cpu_guest_init(g, &translate_engine, RAM);
        cpu_guest_long(g, guest_calls_all, guest_calls_all_end);
        for (u32 i = 0; i < FUNCTIONS; i++) {
                u8 code[FUNCTION_SIZE] = { 0 };
                unsigned n = 0;

                for (; n < 30 * sizeof(load); n += sizeof(load))
                        memcpy(code + n, load, sizeof(load));
                code[n++] = 0x05; /* add eax, i */
                memcpy(code + n, &i, 4);
                code[n + 4] = 0xc3;
                sum += i;
                assert_int_equal(guest_memory_write(g->memory, FUNCTIONS_AT + (u64)i * FUNCTION_SIZE, code, sizeof(code)), 0);
        }
        return sum;
}

static void many_are_saved_and_many_changed(void **state)
{
        const int fd = memfd_create("library", MFD_CLOEXEC);
        struct cpu_guest g;
        u32 sum = start_functions(&g);
        u64 blocks;

        assert_int_equal(run_to_end(&g), sum);
        assert_true(translator_of(&g)->code.filling > 2);
        blocks = counter(&g, COUNTER_BLOCKS_TRANSLATED);
        assert_int_equal(translate_engine.code_save(g.machine, fd, ID, NULL), 0);
        cpu_guest_free(&g);

        start_functions(&g);
        load(&g, fd);
        close(fd);
        assert_int_equal(counter(&g, COUNTER_BLOCKS_LOADED), blocks);
        for (u32 i = 0; i < FUNCTIONS; i += 7) {
                const u32 one = 1;

                assert_int_equal(guest_memory_write(g.memory, FUNCTIONS_AT + (u64)i * FUNCTION_SIZE + 241, &one, sizeof(one)), 0);
                sum += 1 - i;
        }
        assert_int_equal(run_to_end(&g), sum);
        assert_int_equal(counter(&g, COUNTER_BLOCKS_TRANSLATED), (FUNCTIONS + 6) / 7);
        cpu_guest_free(&g);
}

static void they_can_be_kicked(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks);
        unsigned stopped = 0;
        pthread_t thread;

        start(&g);
        load(&g, fd);
        close(fd);
        for (unsigned i = 0; i < 300; i++) {
                thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, i);
                stopped += cpu_guest_run(&g) == EXIT_KICKED;
                pthread_join(thread, NULL);
                g.vcpu.work = 0;
        }
        assert_true(stopped > 20);
        assert_int_equal(run_to_end(&g), RESULT(7));
        cpu_guest_free(&g);
}

static void a_machine_of_another_cpu_translates(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks);

        start(&g);
        translator_of(&g)->has_extension[ZYDIS_ISA_EXT_AVX2] ^= true;
        load(&g, fd);
        close(fd);
        assert_int_equal(counter(&g, COUNTER_BLOCKS_LOADED), 0);
        assert_int_equal(run_to_end(&g), RESULT(7));
        cpu_guest_free(&g);
}

static void other_memory_has_other_translations(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks);

        start(&g);
        assert_int_equal(translate_engine.code_load(g.machine, fd, ID + 1, NULL), 0);
        close(fd);
        assert_int_equal(counter(&g, COUNTER_BLOCKS_LOADED), 0);
        assert_int_equal(run_to_end(&g), RESULT(7));
        assert_int_equal(counter(&g, COUNTER_BLOCKS_TRANSLATED), blocks);
        cpu_guest_free(&g);
}

/* ---- damaged files: what is not code is not believed ---- */

#define HEADER_MAX 2048

static bool is_loaded(int fd)
{
        struct cpu_guest g;
        bool loaded;

        start(&g);
        loaded = translate_engine.code_load(g.machine, fd, ID, NULL) == 0 && translator_of(&g)->code.n_frozen;
        cpu_guest_free(&g);
        return loaded;
}

static void damaged_headers_do_no_harm(void **state)
{
        u64 blocks;
        const int fd = saved_file(&blocks);
        unsigned refused = 0;
        struct stat st;
        u8 byte;

        assert_true(is_loaded(fd));
        for (off_t at = 0; at < HEADER_MAX; at++) {
                const u8 bit = (u8)(1u << at % 8);

                assert_int_equal(pread(fd, &byte, 1, at), 1);
                byte ^= bit;
                assert_int_equal(pwrite(fd, &byte, 1, at), 1);
                refused += !is_loaded(fd);
                byte ^= bit;
                assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        assert_true(refused > 200); /* it says whose it is, and where all is */
        assert_int_equal(fstat(fd, &st), 0);
        for (off_t size = st.st_size; size > 0; size /= 2) {
                assert_int_equal(ftruncate(fd, size - 1), 0);
                assert_false(is_loaded(fd));
        }
        close(fd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(blocks_are_loaded_instead_of_translated),
                cmocka_unit_test(they_can_be_saved_again),
                cmocka_unit_test(code_that_changed_is_translated),
                cmocka_unit_test(many_are_saved_and_many_changed),
                cmocka_unit_test(they_can_be_kicked),
                cmocka_unit_test(a_machine_of_another_cpu_translates),
                cmocka_unit_test(other_memory_has_other_translations),
                cmocka_unit_test(damaged_headers_do_no_harm),
        };

        return cmocka_run_group_tests_name("translate_library", tests, NULL, NULL);
}

/* Translations that are saved by one machine and used by another. */
#include "cpu_guest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/translate/library.h"

#define RAM (16 * MIB)
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
        assert_int_equal(translate_engine.code_save(g.machine, fd, NULL), 0);
        *ret_blocks = counter(&g, COUNTER_BLOCKS_TRANSLATED);
        assert_true(*ret_blocks > 3);
        cpu_guest_free(&g);
        return fd;
}

static void load(struct cpu_guest *g, int fd)
{
        assert_int_equal(translate_engine.code_load(g->machine, fd, NULL), 0);
}

static void blocks_are_copied_instead_of_translated(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks);

        start(&g);
        load(&g, fd);
        close(fd);
        assert_int_equal(run_to_end(&g), RESULT(7));
        assert_int_equal(counter(&g, COUNTER_BLOCKS_COPIED), blocks);
        assert_int_equal(counter(&g, COUNTER_BLOCKS_TRANSLATED), 0);
        cpu_guest_free(&g);
}

static void copies_can_be_saved_again(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks), again = memfd_create("library", MFD_CLOEXEC);

        start(&g);
        load(&g, fd);
        close(fd);
        run_to_end(&g);
        assert_int_equal(translate_engine.code_save(g.machine, again, NULL), 0);
        cpu_guest_free(&g);
        start(&g);
        load(&g, again);
        close(again);
        assert_int_equal(run_to_end(&g), RESULT(7));
        assert_int_equal(counter(&g, COUNTER_BLOCKS_COPIED), blocks);
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
        assert_int_equal(counter(&g, COUNTER_BLOCKS_COPIED), blocks - 1);
        cpu_guest_free(&g);
}

static void what_is_forgotten_is_copied_again(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        const int fd = saved_file(&blocks);
        pthread_t thread;

        start(&g);
        load(&g, fd);
        close(fd);
        /* A kick may come before the guest has done anything. */
        for (unsigned i = 0; i < 1000 && (i < 20 || counter(&g, COUNTER_BLOCKS_COPIED) <= blocks); i++) {
                thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, i * 5);
                cpu_guest_run(&g);
                pthread_join(thread, NULL);
                g.vcpu.work = 0;
                translate_engine.code_forget(g.machine);
        }
        assert_int_equal(run_to_end(&g), RESULT(7));
        assert_true(counter(&g, COUNTER_BLOCKS_COPIED) > blocks); /* others begin where it was kicked */
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
        assert_null(translator_of(&g)->library);
        assert_int_equal(run_to_end(&g), RESULT(7));
        cpu_guest_free(&g);
}

/* ---- damaged files: what is not code is not believed ---- */

struct file {
        u8 *data; /* writable, shared with the file */
        u64 size;
        int fd;
};

static struct file file_map(int fd)
{
        struct stat st;
        struct file file = { .fd = fd };

        assert_int_equal(fstat(fd, &st), 0);
        file.size = (u64)st.st_size;
        file.data = mmap(NULL, file.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_true(file.data != MAP_FAILED);
        return file;
}

/* Everything that it has is looked for and copied, as if the guest's bytes were what it says. */
static void use(struct translator *tr, const struct file *file)
{
        static struct translation translation;
        static u8 code[BLOCK_CODE_MAX];
        static const u8 bytes[PAGE_SIZE];
        const void *stubs[TEXIT_KINDS] = { NULL };
        struct library *library = NULL;

        assert_int_equal(library_open(tr, file->fd, &library, NULL), 0);
        for (u64 at = GUEST_CODE_AT; library && at < GUEST_CODE_AT + (u64)(guest_sum_end - guest_sum); at++) {
                const struct tblock key = { .gpa = at, .page_va = GUEST_CODE_AT & PAGE_MASK, .mode = MODE_LONG64 | MODE_LONG | MODE_PROTECTED };
                const bool from_start = at == GUEST_CODE_AT;
                const struct translate_request req = { .code = from_start ? bytes : guest_sum + (at - GUEST_CODE_AT), .room = 64, .run_at = code, .stubs = stubs };
                const struct library_entry *entry = library_find(library, &key, &req);

                translation.code = code;
                if (entry)
                        library_copy(library, entry, &req, &translation);
        }
        library_close(library);
}

static void damaged_tables_do_no_harm(void **state)
{
        struct cpu_guest g;
        u64 blocks;
        struct file file = file_map(saved_file(&blocks));
        unsigned refused = 0;

        start(&g);
        for (u64 at = 0; at < file.size; at++)
                for (unsigned bit = 0; bit < 8; bit++) {
                        struct library *library = NULL;

                        file.data[at] ^= (u8)(1u << bit);
                        use(translator_of(&g), &file);
                        assert_int_equal(library_open(translator_of(&g), file.fd, &library, NULL), 0);
                        refused += !library;
                        library_close(library);
                        file.data[at] ^= (u8)(1u << bit);
                }
        assert_true(refused > 8 * 100); /* its header says whose it is */
        munmap(file.data, file.size);
        for (u64 size = file.size; size > 0; size /= 2) {
                struct library *library = NULL;

                assert_int_equal(ftruncate(file.fd, (off_t)(size - 1)), 0);
                assert_int_equal(library_open(translator_of(&g), file.fd, &library, NULL), 0);
                assert_null(library);
        }
        close(file.fd);
        cpu_guest_free(&g);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(blocks_are_copied_instead_of_translated),
                cmocka_unit_test(copies_can_be_saved_again),
                cmocka_unit_test(code_that_changed_is_translated),
                cmocka_unit_test(what_is_forgotten_is_copied_again),
                cmocka_unit_test(a_machine_of_another_cpu_translates),
                cmocka_unit_test(damaged_tables_do_no_harm),
        };

        return cmocka_run_group_tests_name("translate_library", tests, NULL, NULL);
}

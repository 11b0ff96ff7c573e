/* Whatever is done to a machine from outside at arbitrary moments - kicks, pauses, another engine, saving it and going on in another machine - its guest
 * computes what it computes when left alone. The guests are those of tests/guests/hostile64: "probe" prints what it computed, "tlb" and "race"
 * (two CPUs) check themselves. MOVES_SEED=S repeats a run, MOVES_ROUNDS=N does N of them. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vm/vm.h"

#define MEMORY (64 * MIB)
#define PASSED 0 /* what a guest writes to the debug exit */

static char directory[] = "/tmp/strata-moves.XXXXXX", kernel[64];
static bool has_guest;
static u64 seed;

static u64 rnd(u64 n)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return (seed >> 11) % n;
}

struct run {
        const char *append;
        unsigned n_cpus;
        bool moves;            /* else it is left alone */
        unsigned n_machines;   /* so far; each has a file for its console */
        unsigned n_pauses, n_switches;
};

static void console_name(unsigned i, char ret[64])
{
        snprintf(ret, 64, "%s/console%u", directory, i);
}

static struct vm *machine(struct run *run, bool paused)
{
        char console[64];
        const struct vm_config config = {
                .kernel = kernel, .append = run->append, .memory = MEMORY, .n_cpus = run->n_cpus, .engine = rnd(4) ? "translate" : "interp",
                .console = VM_CONSOLE_FILE, .console_file = console, .debug_exit = true, .start_paused = paused,
        };
        struct vm *vm = NULL;

        console_name(run->n_machines++, console);
        assert_int_equal(vm_new(&config, &vm, NULL), 0);
        assert_int_equal(vm_start(vm, NULL), 0);
        return vm;
}

static void end(struct vm *vm, struct vm_outcome *ret)
{
        struct vm_outcome outcome;

        if (!ret)
                vm_stop(vm, MACHINE_POWER_OFF, 0);
        vm_join(vm, ret ? ret : &outcome);
        vm_flush_console(vm);
}

/* What it is goes on in another machine. */
static struct vm *carry_over(struct run *run, struct vm *vm)
{
        struct vm *other = machine(run, true);
        struct state_out out;

        vm_pause_finish(other);
        state_out_init(&out);
        assert_int_equal(vm_save(vm, &out, NULL), 0);
        assert_int_equal(guest_memory_write(vm_memory(other), 0, guest_memory_hva(vm_memory(vm), 0, MEMORY), MEMORY), 0);
        assert_int_equal(vm_load(other, out.data, out.len, NULL), 0);
        state_out_free(&out);
        end(vm, NULL);
        vm_free(vm);
        return other;
}

static void kick_storm(struct run *run, struct vm *vm)
{
        for (unsigned i = 0; i < 200; i++) {
                vcpu_post_work(vm_vcpu(vm, (unsigned)rnd(run->n_cpus)), VCPU_WORK_IRQ);
                if (rnd(4) == 0)
                        usleep((unsigned)rnd(50));
        }
}

/* Something from outside. Returns the machine that goes on. */
static struct vm *disturb(struct run *run, struct vm *vm)
{
        if (rnd(3) == 0) {
                kick_storm(run, vm);
                return vm;
        }
        vm_pause(vm);
        run->n_pauses++;
        if (rnd(3) == 0)
                vm = carry_over(run, vm);
        if (rnd(2)) {
                assert_int_equal(vm_set_engine(vm, rnd(3) ? "translate" : "interp", NULL), 0);
                run->n_switches++;
        }
        vm_resume(vm);
        return vm;
}

static bool ended(const struct vm *vm, unsigned wait_ms)
{
        struct pollfd done = { .fd = vm_done_fd(vm), .events = POLLIN };

        return poll(&done, 1, (int)wait_ms) > 0;
}

/* Runs it to its end; what it printed is the caller's to free. */
static char *run_guest(struct run *run)
{
        struct vm *vm = machine(run, false);
        struct vm_outcome outcome;
        char *text = NULL, name[64];
        size_t len;
        FILE *out;

        while (!ended(vm, run->moves ? (unsigned)rnd(25) : 1000))
                if (run->moves)
                        vm = disturb(run, vm);
        end(vm, &outcome);
        if (outcome.why != MACHINE_DEBUG_EXIT || outcome.code != PASSED)
                print_error("'%s' ended with %d, code %u, %s\n", run->append, (int)outcome.why, outcome.code,
                            outcome.error ? err_message(outcome.error) : "no error");
        vm_free(vm);
        out = open_memstream(&text, &len);
        for (unsigned i = 0; i < run->n_machines; i++) {
                char buffer[4096];
                size_t n;
                FILE *in;

                console_name(i, name);
                in = fopen(name, "r");
                assert_non_null(in);
                while ((n = fread(buffer, 1, sizeof(buffer), in)) > 0)
                        fwrite(buffer, 1, n, out);
                fclose(in);
                unlink(name);
        }
        fclose(out);
        return text;
}

static void skip_without_guest(void)
{
        if (!has_guest) {
                print_message("# tests/guests/hostile64/build failed: no C compiler?\n");
                skip();
        }
}

static void run_moved(const char *append, unsigned n_cpus, bool compare)
{
        const char *rounds = getenv("MOVES_ROUNDS");
        _cleanup_free_ char *wanted = NULL;
        struct run alone = { .append = append, .n_cpus = n_cpus };

        skip_without_guest();
        if (compare)
                wanted = run_guest(&alone);
        for (unsigned i = 0; i < (rounds ? strtoul(rounds, NULL, 0) : 1); i++) {
                struct run run = { .append = append, .n_cpus = n_cpus, .moves = true };
                const u64 first = seed;
                _cleanup_free_ char *text = run_guest(&run);

                print_message("# %s: MOVES_SEED=0x%lx, %u machines, %u pauses, %u engines\n", append, first, run.n_machines, run.n_pauses, run.n_switches);
                if (compare ? strcmp(text, wanted) != 0 : !strstr(text, "done")) {
                        print_error("printed:\n%s\n", text);
                        fail();
                }
        }
}

static void user_code_computes_the_same(void **state)
{
        run_moved("test=probe count=512 seed=5", 1, true);
}

static void mappings_are_forgotten_in_time(void **state)
{
        run_moved("test=tlb count=15000 seed=6 timer=20000", 1, false);
}

static void mappings_are_forgotten_by_the_other_cpu_in_time(void **state)
{
        run_moved("test=race count=2000 seed=7 timer=20000", 2, false);
}

static int make_guest(void **state)
{
        char command[256];

        if (!mkdtemp(directory))
                return -1;
        snprintf(kernel, sizeof(kernel), "%s/hostile64", directory);
        snprintf(command, sizeof(command), "%s/build %s", HOSTILE64, kernel);
        has_guest = system(command) == 0;
        return 0;
}

static int remove_guest(void **state)
{
        char elf[80];

        snprintf(elf, sizeof(elf), "%s.elf", kernel);
        unlink(elf);
        unlink(kernel);
        return rmdir(directory);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(user_code_computes_the_same),
                cmocka_unit_test(mappings_are_forgotten_in_time),
                cmocka_unit_test(mappings_are_forgotten_by_the_other_cpu_in_time),
        };
        const char *one = getenv("MOVES_SEED");

        seed = one ? strtoull(one, NULL, 0) : ((u64)getpid() << 32 ^ (u64)time(NULL)) * 0x9e3779b97f4a7c15ULL | 1;
        return cmocka_run_group_tests_name("translate_moves", tests, make_guest, remove_guest);
}

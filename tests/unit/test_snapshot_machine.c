/* A guest that is saved at random moments, fully or as a diff, and goes on as a new machine under another engine computes what it computes when left alone. The guests
 * are those of tests/guests/hostile64: "probe" prints what it computed, "tlb" and "race" (two CPUs) check themselves. SNAPSHOT_SEED=S repeats a run;
 * SNAPSHOT_MOMENTS=N takes N snapshots of each guest or a few more; SNAPSHOT_KVM=1 has KVM among the engines. */
#include <dirent.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vm/snapshot_files.h"
#include "vm/vm.h"

#define MEMORY (64 * MIB)
#define PASSED 0 /* what a guest writes to the debug exit */

static char directory[] = "/tmp/strata-moments.XXXXXX", kernel[64];
static bool has_guest;
static u64 seed;

static u64 rnd(u64 n)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return (seed >> 11) % n;
}

static const char *name_of(const char *what, unsigned i)
{
        static char names[4][64];
        static unsigned next;

        next = (next + 1) % ARRAY_SIZE(names);
        snprintf(names[next], sizeof(names[next]), "%s/%s%u", directory, what, i);
        return names[next];
}

struct run {
        const char *append;
        unsigned n_cpus;
        bool saved;          /* else it is left alone */
        unsigned n_machines; /* so far; each has a file for its console */
        unsigned n_diffs;
        const char *engine;
};

static struct vm *machine(struct run *run, const char *restore)
{
        const char *console = name_of("console", run->n_machines++);
        const struct vm_config config = {
                .kernel = kernel, .append = run->append, .memory = MEMORY, .n_cpus = run->n_cpus, .engine = run->engine, .restore = restore,
                .console = VM_CONSOLE_FILE, .console_file = console, .debug_exit = true,
        };
        struct err *err = NULL;
        struct vm *vm = NULL;

        if (vm_new(&config, &vm, &err) < 0 || vm_start(vm, &err) < 0)
                fail_msg("%s", err_message(err));
        return vm;
}

static const char *engine_other_than(const char *engine)
{
        static const char *const engines[] = { "interp", "translate", "kvm" };
        const char *other;

        do {
                other = engines[rnd(getenv("SNAPSHOT_KVM") ? 3 : 2)];
        } while (strcmp(other, engine) == 0);
        return other;
}

static void end(struct vm *vm, struct vm_outcome *ret)
{
        struct vm_outcome outcome;

        if (!ret)
                vm_stop(vm, MACHINE_POWER_OFF, 0);
        vm_join(vm, ret ? ret : &outcome);
        vm_flush_console(vm);
}

static void snapshot(struct run *run, struct vm *vm, const char *path, bool diff)
{
        struct err *err = NULL;

        if (vm_snapshot_to(vm, path, diff, &err) < 0)
                fail_msg("%s", err_message(err));
        run->n_diffs += diff;
}

static bool ended(const struct vm *vm, unsigned wait_ms)
{
        struct pollfd done = { .fd = vm_done_fd(vm), .events = POLLIN };

        return poll(&done, 1, (int)wait_ms) > 0;
}

/* A snapshot that is not looked at, so that the next diff begins with it; then one that becomes a machine. */
static struct vm *go_on_as_snapshot(struct run *run, struct vm *vm, bool *has_base)
{
        const char *path = name_of("snapshot", 0);
        struct vm *other;

        vm_pause(vm); /* what it prints after the snapshot would be printed twice */
        if (ended(vm, 0))
                return vm;
        if (rnd(3) == 0) {
                snapshot(run, vm, name_of("snapshot", 1), *has_base && rnd(2));
                *has_base = true;
                vm_resume(vm);
                usleep((unsigned)rnd(20000));
                vm_pause(vm);
                if (ended(vm, 0))
                        return vm;
        }
        snapshot(run, vm, path, *has_base && rnd(2));
        run->engine = engine_other_than(run->engine);
        other = machine(run, path);
        end(vm, NULL);
        vm_free(vm);
        *has_base = true;
        return other;
}

/* What all its machines printed, one after the other. The caller's to free. */
static char *printed(const struct run *run)
{
        char *text = NULL;
        size_t len;
        FILE *out = open_memstream(&text, &len);

        for (unsigned i = 0; i < run->n_machines; i++) {
                char buffer[4096];
                size_t n;
                FILE *in = fopen(name_of("console", i), "r");

                assert_non_null(in);
                while ((n = fread(buffer, 1, sizeof(buffer), in)) > 0)
                        fwrite(buffer, 1, n, out);
                fclose(in);
                unlink(name_of("console", i));
        }
        fclose(out);
        return text;
}

static char *run_guest(struct run *run)
{
        struct vm *vm = machine(run, NULL);
        struct vm_outcome outcome;
        bool has_base = false;

        while (!ended(vm, run->saved ? (unsigned)rnd(120) : 1000))
                if (run->saved)
                        vm = go_on_as_snapshot(run, vm, &has_base);
        end(vm, &outcome);
        if (outcome.why != MACHINE_DEBUG_EXIT || outcome.code != PASSED)
                print_error("'%s' ended with %d, code %u, %s\n", run->append, (int)outcome.why, outcome.code,
                            outcome.error ? err_message(outcome.error) : "no error");
        vm_free(vm);
        return printed(run);
}

static void run_saved(const char *append, unsigned n_cpus, bool compare)
{
        const char *moments = getenv("SNAPSHOT_MOMENTS");
        const unsigned wanted_moments = moments ? (unsigned)strtoul(moments, NULL, 0) : 5;
        struct run alone = { .append = append, .n_cpus = n_cpus, .engine = "translate" };
        _cleanup_free_ char *wanted = NULL;
        unsigned n = 0;

        if (!has_guest) {
                print_message("# tests/guests/hostile64/build failed: no C compiler?\n");
                skip();
        }
        if (compare)
                wanted = run_guest(&alone);
        if (compare)
                assert_true(strlen(wanted) > 0);
        while (n < wanted_moments) {
                struct run run = { .append = append, .n_cpus = n_cpus, .saved = true, .engine = engine_other_than("") };
                const u64 first = seed;
                _cleanup_free_ char *text = run_guest(&run);

                print_message("# %s: SNAPSHOT_SEED=0x%lx, %u restored, %u diffs\n", append, first, run.n_machines - 1, run.n_diffs);
                if (compare ? strcmp(text, wanted) != 0 : !strstr(text, "done")) {
                        print_error("printed:\n%s\n", text);
                        fail();
                }
                n += run.n_machines - 1;
        }
}

static void user_code_computes_the_same(void **state)
{
        run_saved("test=probe count=512 seed=5", 1, true);
}

static void mappings_are_forgotten_in_time(void **state)
{
        run_saved("test=tlb count=15000 seed=6 timer=20000", 1, false);
}

static void two_cpus_go_on_together(void **state)
{
        run_saved("test=race count=2000 seed=7 timer=20000", 2, false);
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

        snapshot_remove(name_of("snapshot", 0), NULL);
        snapshot_remove(name_of("snapshot", 1), NULL);
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
                cmocka_unit_test(two_cpus_go_on_together),
        };
        const char *one = getenv("SNAPSHOT_SEED");

        seed = one ? strtoull(one, NULL, 0) : ((u64)getpid() << 32 ^ (u64)time(NULL)) * 0x9e3779b97f4a7c15ULL | 1;
        return cmocka_run_group_tests_name("snapshot_machine", tests, make_guest, remove_guest);
}

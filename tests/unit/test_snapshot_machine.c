/* A guest that is saved at random moments, fully or as a diff, and goes on as a new machine under another engine computes what it computes when left alone. The guests
 * are tests/guests/checksum.S, also under KVM if there is one, and those of tests/guests/hostile64: "probe" prints what it computed, "tlb" and "race" (two CPUs) check
 * themselves. SNAPSHOT_SEED=S repeats a run; SNAPSHOT_MOMENTS=N takes N snapshots of each guest or a few more, SNAPSHOT_KILLS=N kills so many who take one. */
#include <dirent.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vm/snapshot_files.h"
#include "vm/vm.h"

#define MEMORY (64 * MIB)
#define PASSED 0 /* what a guest writes to the debug exit */

#define CHECKSUM_COUNT 2000000

static char directory[] = "/tmp/strata-moments.XXXXXX", hostile64[64], checksum[64];
static bool has_hostile64, has_checksum;
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

enum { N_ENGINES = 3 };

struct run {
        const char *kernel, *append;
        unsigned n_engines; /* of those below */
        unsigned n_cpus;
        bool saved;          /* else it is left alone */
        unsigned n_machines; /* so far; each has a file for its console */
        unsigned n_diffs;
        unsigned n_moved[N_ENGINES]; /* to that engine from another one */
        const char *engine;
};

/* Fills @ret, which is NULL otherwise. */
static int try_machine(struct run *run, const char *restore, struct vm **ret, struct err **err)
{
        const char *console = name_of("console", run->n_machines++);
        const struct vm_config config = {
                .kernel = run->kernel, .append = run->append, .memory = MEMORY, .n_cpus = run->n_cpus, .engine = run->engine, .restore = restore, .restore_code = rnd(4) > 0,
                .console = VM_CONSOLE_FILE, .console_file = console, .debug_exit = true,
        };
        int r = vm_new(&config, ret, err);

        return r < 0 ? r : vm_start(*ret, err);
}

static struct vm *machine(struct run *run, const char *restore)
{
        struct err *err = NULL;
        struct vm *vm = NULL;

        if (try_machine(run, restore, &vm, &err) < 0)
                fail_msg("%s", err_message(err));
        return vm;
}

static const char *const engines[N_ENGINES] = { "interp", "translate", "kvm" };

static const char *engine_other_than(const struct run *run, const char *engine)
{
        const char *other;

        do {
                other = engines[rnd(run->n_engines)];
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
        if (rnd(3)) {
                run->engine = engine_other_than(run, run->engine);
                for (unsigned i = 0; i < N_ENGINES; i++)
                        run->n_moved[i] += strcmp(engines[i], run->engine) == 0;
        }
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

/* @guest says all but what becomes of it. */
static void run_saved(const struct run *guest, bool compare)
{
        const char *moments = getenv("SNAPSHOT_MOMENTS");
        const unsigned wanted_moments = moments ? (unsigned)strtoul(moments, NULL, 0) : 5;
        struct run alone = *guest;
        _cleanup_free_ char *wanted = NULL;
        unsigned n = 0;

        alone.engine = "translate";
        if (compare) {
                wanted = run_guest(&alone);
                assert_true(strlen(wanted) > 0);
        }
        while (n < wanted_moments) {
                const u64 first = seed;
                struct run run = *guest;
                _cleanup_free_ char *text = NULL;

                run.saved = true;
                run.engine = engine_other_than(guest, "");
                text = run_guest(&run);
                print_message("# %s: SNAPSHOT_SEED=0x%lx, %u restored, %u diffs; from another engine to interp %u, translate %u, kvm %u\n", run.append,
                              first, run.n_machines - 1, run.n_diffs, run.n_moved[0], run.n_moved[1], run.n_moved[2]);
                if (compare ? strcmp(text, wanted) != 0 : !strstr(text, "done")) {
                        print_error("printed:\n%s\n", text);
                        fail();
                }
                n += run.n_machines - 1;
        }
}

static void skip_without(bool has_guest)
{
        if (!has_guest) {
                print_message("# the guest could not be built: no compiler or binutils?\n");
                skip();
        }
}

static void sums_are_the_same_under_any_engine(void **state)
{
        const bool has_kvm = access("/dev/kvm", R_OK | W_OK) == 0;
        const struct run guest = { .kernel = checksum, .append = "checksum", .n_engines = has_kvm ? 3 : 2, .n_cpus = 1 };

        skip_without(has_checksum);
        if (!has_kvm)
                print_message("# without KVM: no /dev/kvm\n");
        run_saved(&guest, true);
}

static void user_code_computes_the_same(void **state)
{
        skip_without(has_hostile64);
        run_saved(&(struct run){ .kernel = hostile64, .append = "test=probe count=512 seed=5", .n_engines = 2, .n_cpus = 1 }, true);
}

static void mappings_are_forgotten_in_time(void **state)
{
        skip_without(has_hostile64);
        run_saved(&(struct run){ .kernel = hostile64, .append = "test=tlb count=15000 seed=6 timer=20000", .n_engines = 2, .n_cpus = 1 }, false);
}

static void two_cpus_go_on_together(void **state)
{
        skip_without(has_hostile64);
        run_saved(&(struct run){ .kernel = hostile64, .append = "test=race count=2000 seed=7 timer=20000", .n_engines = 2, .n_cpus = 2 }, false);
}

/* Saves its machine under one name again and again, until it is killed or the machine has ended. Tells @started when there is the first one. */
static void save_until_killed(const struct run *guest, const char *path, int started)
{
        struct run run = *guest;
        struct vm *vm = NULL;
        bool has_base = false;

        alarm(60); /* whatever becomes of who was to kill it */
        if (try_machine(&run, NULL, &vm, NULL) < 0)
                _exit(1);
        while (!ended(vm, (unsigned)rnd(10)) && vm_snapshot_to(vm, path, has_base && rnd(2), NULL) == 0) {
                if (!has_base && write(started, "", 1) != 1)
                        _exit(1);
                has_base = true;
        }
        _exit(0);
}

/* The machine that is at @path comes to the end of @wanted. */
static void goes_on_from(const struct run *guest, const char *path, const char *wanted)
{
        struct run run = *guest;
        _cleanup_free_ char *text = NULL;
        struct vm_outcome outcome;
        struct vm *vm;
        size_t n;

        run.engine = engine_other_than(guest, guest->engine);
        vm = machine(&run, path);
        while (!ended(vm, 1000))
                ;
        end(vm, &outcome);
        vm_free(vm);
        text = printed(&run);
        n = strlen(text);
        assert_int_equal(outcome.why, MACHINE_DEBUG_EXIT);
        assert_int_equal(outcome.code, PASSED);
        assert_true(n > 0 && n <= strlen(wanted));
        assert_string_equal(wanted + strlen(wanted) - n, text);
}

static void who_is_killed_leaves_a_whole_one(void **state)
{
        const char *kills = getenv("SNAPSHOT_KILLS");
        const unsigned rounds = kills ? (unsigned)strtoul(kills, NULL, 0) : 5;
        struct run guest = { .kernel = hostile64, .append = "test=probe count=512 seed=5", .n_engines = 2, .n_cpus = 1, .engine = "translate" }, alone = guest;
        _cleanup_free_ char *wanted = NULL;
        unsigned killed = 0;
        char path[64];

        skip_without(has_hostile64);
        snprintf(path, sizeof(path), "%s/killed", directory);
        wanted = run_guest(&alone);
        for (unsigned i = 0; i < rounds; i++) {
                const u64 first = seed;
                int started[2], status;
                char byte;
                pid_t pid;

                guest.engine = engine_other_than(&guest, "");
                snapshot_remove(path, NULL);
                assert_int_equal(pipe(started), 0);
                pid = fork();
                assert_true(pid >= 0);
                if (pid == 0)
                        save_until_killed(&guest, path, started[1]);
                close(started[1]);
                assert_int_equal(read(started[0], &byte, 1), 1);
                close(started[0]);
                usleep((unsigned)rnd(100000));
                kill(pid, SIGKILL);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                killed += WIFSIGNALED(status);
                print_message("# SNAPSHOT_SEED=0x%lx, under %s, %s\n", first, guest.engine, WIFSIGNALED(status) ? "killed" : "had ended");
                goes_on_from(&guest, path, wanted);
        }
        assert_true(killed > 0 || rounds == 0);
}

static int make_guests(void **state)
{
        char command[512];

        if (!mkdtemp(directory))
                return -1;
        snprintf(hostile64, sizeof(hostile64), "%s/hostile64", directory);
        snprintf(checksum, sizeof(checksum), "%s/checksum", directory);
        snprintf(command, sizeof(command), "%s/hostile64/build %s && rm %s.elf", GUESTS, hostile64, hostile64);
        has_hostile64 = system(command) == 0;
        snprintf(command, sizeof(command),
                 "as --32 --defsym COUNT=%d %s/checksum.S -o %s.o && ld -m elf_i386 -Ttext 0x400000 -o %s %s.o; r=$?; rm -f %s.o; exit $r", CHECKSUM_COUNT,
                 GUESTS, checksum, checksum, checksum, checksum);
        has_checksum = system(command) == 0;
        return 0;
}

static int remove_guests(void **state)
{
        char command[64];

        snprintf(command, sizeof(command), "rm -rf %s", directory); /* with the halves of who was killed */
        return system(command);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(sums_are_the_same_under_any_engine),
                cmocka_unit_test(user_code_computes_the_same),
                cmocka_unit_test(mappings_are_forgotten_in_time),
                cmocka_unit_test(two_cpus_go_on_together),
                cmocka_unit_test(who_is_killed_leaves_a_whole_one),
        };
        const char *one = getenv("SNAPSHOT_SEED");

        seed = one ? strtoull(one, NULL, 0) : ((u64)getpid() << 32 ^ (u64)time(NULL)) * 0x9e3779b97f4a7c15ULL | 1;
        return cmocka_run_group_tests_name("snapshot_machine", tests, make_guests, remove_guests);
}

/* A whole machine with guests of a few bytes: how it starts, pauses, saves, changes engines and ends. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vm/acpi.h"
#include "vm/boot.h"
#include "vm/vm.h"
#include "vm_files.h"

#define COUNTER_GPA 0x200000

/* 32-bit code, flat segments, no IDT. */
static const u8 code_debug_exit[] = { 0xb0, 0x21, 0xe6, 0xf4, 0xeb, 0xfe }; /* mov al, 21h; out f4h, al; jmp $ */
static const u8 code_ud2[] = { 0x0f, 0x0b };                                /* without an IDT: a triple fault */
static const u8 code_spin[] = { 0xeb, 0xfe };
static const u8 code_halt[] = { 0xfa, 0xf4, 0xeb, 0xfd }; /* cli; hlt; jmp back */
static const u8 code_power_off[] = { 0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xeb, 0xfe };
static const u8 code_reset[] = { 0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xfe };
/* mov ebx, COUNTER_GPA; inc ecx; mov [ebx], ecx; jmp back */
static const u8 code_count[] = { 0xbb, 0x00, 0x00, 0x20, 0x00, 0x41, 0x89, 0x0b, 0xeb, 0xfb };

static struct vm *machine(const void *code, size_t len, const struct vm_config *base, struct err **err)
{
        struct vm_config config = *base;
        struct vm_file *file = malloc(sizeof(*file));
        struct vm *vm = NULL;
        char path[64];

        vm_file_multiboot(file, 0x100000, code, len);
        vm_file_write(file, path);
        free(file);
        config.kernel = path; /* only read by vm_new */
        vm_new(&config, &vm, err);
        unlink(path);
        return vm;
}

/* A small machine that has not started yet, changes applied. */
#define MACHINE(code, ...)                              \
        machine(code, sizeof(code),                     \
                &(struct vm_config){ .memory = 8 * MIB, \
                        .n_cpus = 1,                    \
                        .engine = "interp",             \
                        .console = VM_CONSOLE_NONE,     \
                        .debug_exit = true,             \
                        __VA_ARGS__ },                  \
                NULL)

static struct vm_outcome run(struct vm *vm)
{
        struct vm_outcome outcome;

        assert_non_null(vm);
        assert_int_equal(vm_start(vm, NULL), 0);
        vm_join(vm, &outcome);
        return outcome;
}

/* What the guest wrote last. It may be writing now, as guests do: no race of ours. */
__attribute__((no_sanitize("thread"))) static u32 counter(struct vm *vm)
{
        const volatile u32 *p = guest_memory_hva(vm_memory(vm), COUNTER_GPA, sizeof(*p));

        return *p;
}

static void wait_for_count_above(struct vm *vm, u32 floor)
{
        while (counter(vm) <= floor)
                usleep(1000);
}

static void debug_exit_ends_it_with_its_byte(void **state)
{
        struct vm *vm = MACHINE(code_debug_exit);
        struct vm_outcome outcome = run(vm);

        assert_int_equal(outcome.why, MACHINE_DEBUG_EXIT);
        assert_int_equal(outcome.code, 0x21);
        vm_free(vm);
}

static void power_off_and_reset_end_it(void **state)
{
        struct vm *vm = MACHINE(code_power_off);

        assert_int_equal(run(vm).why, MACHINE_POWER_OFF);
        vm_free(vm);
        vm = MACHINE(code_reset);
        assert_int_equal(run(vm).why, MACHINE_RESET);
        vm_free(vm);
}

static void triple_fault_is_told_with_its_place(void **state)
{
        struct vm *vm = MACHINE(code_ud2);
        struct vm_outcome outcome = run(vm);

        assert_int_equal(outcome.why, MACHINE_CRASH);
        assert_int_equal(err_exit_status(outcome.error), 126);
        assert_non_null(strstr(err_message(outcome.error), "triple fault on vCPU 0"));
        assert_non_null(strstr(err_message(outcome.error), "rip=0x100020"));
        vm_free(vm);
}

static void a_guest_that_spins_or_halts_for_ever_can_be_stopped(void **state)
{
        struct vm_outcome outcome;
        struct vm *vm;

        for (unsigned i = 0; i < 2; i++) {
                vm = i ? MACHINE(code_halt) : MACHINE(code_spin);
                assert_int_equal(vm_start(vm, NULL), 0);
                usleep(20000);
                vm_stop(vm, MACHINE_POWER_OFF, 0);
                vm_stop(vm, MACHINE_RESET, 0); /* too late */
                vm_join(vm, &outcome);
                assert_int_equal(outcome.why, MACHINE_POWER_OFF);
                vm_free(vm);
        }
}

/* KVM_HC_KICK_CPU: what waits for a spinlock halts with interrupts off, and the kick may come before the HLT. */
static void a_kick_ends_the_next_halt_with_interrupts_off(void **state)
{
        /* mov eax, 5; xor ebx, ebx; xor ecx, ecx; vmcall; cli; hlt; mov al, 21h; out f4h, al; jmp $ */
        static const u8 code[] = { 0xb8, 5,    0,    0,    0,    0x31, 0xdb, 0x31, 0xc9, 0x0f, 0x01,
                                   0xc1, 0xfa, 0xf4, 0xb0, 0x21, 0xe6, 0xf4, 0xeb, 0xfe };
        struct vm *vm = MACHINE(code);

        assert_int_equal(run(vm).code, 0x21);
        vm_free(vm);
}

static void an_unstarted_machine_can_be_freed(void **state)
{
        vm_free(MACHINE(code_spin));
        vm_free(NULL);
}

static void paused_means_nothing_runs(void **state)
{
        struct vm *vm = MACHINE(code_count);
        u32 before;

        assert_int_equal(vm_start(vm, NULL), 0);
        for (unsigned i = 0; i < 5; i++) {
                wait_for_count_above(vm, i ? before : 0);
                vm_pause(vm);
                vm_pause(vm); /* nests */
                vm_resume(vm);
                before = counter(vm);
                usleep(20000);
                assert_int_equal(counter(vm), before);
                vm_resume(vm);
        }
        vm_free(vm);
}

/* A paused machine that waits to be loaded. */
static struct vm *blank_machine(u64 memory)
{
        const struct vm_config config = { .memory = memory,
                .n_cpus = 1,
                .engine = "interp",
                .console = VM_CONSOLE_NONE,
                .debug_exit = true,
                .start_paused = true };
        struct vm *vm = machine(code_spin, sizeof(code_spin), &config, NULL);

        assert_int_equal(vm_start(vm, NULL), 0);
        vm_pause_finish(vm);
        return vm;
}

static void copy_memory(struct vm *from, struct vm *to)
{
        const u64 size = vm_memory(from)->ram_size;

        assert_int_equal(guest_memory_write(vm_memory(to), 0, guest_memory_hva(vm_memory(from), 0, size), size), 0);
}

static void a_saved_machine_goes_on_elsewhere(void **state)
{
        struct vm *vm = MACHINE(code_count), *other = blank_machine(8 * MIB);
        struct state_out out;
        u32 count;

        assert_int_equal(vm_start(vm, NULL), 0);
        wait_for_count_above(vm, 1000);
        vm_pause(vm);
        state_out_init(&out);
        assert_int_equal(vm_save(vm, &out, NULL), 0);
        count = counter(vm);
        copy_memory(vm, other);
        assert_int_equal(vm_load(other, out.data, out.len, NULL), 0);
        assert_int_equal(vm_vcpu(other, 0)->state.gpr[RCX], vm_vcpu(vm, 0)->state.gpr[RCX]);
        vm_free(vm);
        vm_resume(other);
        wait_for_count_above(other, count + 1000);
        state_out_free(&out);
        vm_free(other);
}

static void a_foreign_or_damaged_state_is_refused(void **state)
{
        struct vm *vm = blank_machine(8 * MIB), *larger = blank_machine(16 * MIB), *other;
        struct err *err = NULL;
        struct state_out out;

        state_out_init(&out);
        assert_int_equal(vm_save(vm, &out, NULL), 0);
        assert_true(vm_load(larger, out.data, out.len, &err) < 0);
        assert_int_equal(err_get_id(err), ERR_BAD_STATE);
        err_free(err);
        for (size_t len = 0; len < out.len; len += MAX(out.len / 23, (size_t)1)) {
                err = NULL;
                other = blank_machine(8 * MIB);
                assert_true(vm_load(other, out.data, len, &err) < 0);
                assert_int_equal(err_get_id(err), ERR_BAD_STATE);
                err_free(err);
                vm_free(other);
        }
        state_out_free(&out);
        vm_free(larger);
        vm_free(vm);
}

static void a_running_machine_is_not_saved(void **state)
{
        struct vm *vm = MACHINE(code_count);
        struct state_out out;

        assert_int_equal(vm_start(vm, NULL), 0);
        state_out_init(&out);
        assert_true(vm_save(vm, &out, NULL) < 0);
        state_out_free(&out);
        vm_free(vm);
}

static void a_machine_moves_between_engines_and_counts_on(void **state)
{
        struct vm *vm;

        if (!cpu_engine_find("kvm", NULL))
                skip();
        vm = MACHINE(code_count);
        assert_int_equal(vm_start(vm, NULL), 0);
        for (unsigned i = 0; i < 4; i++) {
                u32 before;

                wait_for_count_above(vm, 100);
                vm_pause(vm);
                before = counter(vm);
                assert_int_equal(vm_set_engine(vm, i % 2 ? "interp" : "kvm", NULL), 0);
                assert_string_equal(vm_vcpu(vm, 0)->engine->name, i % 2 ? "interp" : "kvm");
                vm_resume(vm);
                wait_for_count_above(vm, before + 10);
        }
        vm_free(vm);
}

static void stats_name_the_engine_and_count(void **state)
{
        struct vm *vm = MACHINE(code_debug_exit);
        _cleanup_free_ char *text = NULL;
        size_t len;
        FILE *out;

        run(vm);
        out = open_memstream(&text, &len);
        vm_print_stats(vm, out);
        fclose(out);
        assert_non_null(strstr(text, "engine interp"));
        assert_non_null(strstr(text, "vcpu0 exit_pio 1 "));
        vm_free(vm);
}

/* ---- what a kernel finds ---- */

static struct vm *linux_machine(const struct vm_config *config, struct err **err)
{
        struct vm_file *file = malloc(sizeof(*file));
        struct vm_config c = *config;
        struct vm *vm = NULL;
        char path[64];

        vm_file_elf64(file, 0x1000000, code_spin, sizeof(code_spin), 0x1000000);
        vm_file_write(file, path);
        free(file);
        c.kernel = path;
        vm_new(&c, &vm, err);
        unlink(path);
        return vm;
}

static u64 peek(struct vm *vm, u64 gpa, unsigned size)
{
        u64 v = 0;

        assert_int_equal(guest_memory_read(vm_memory(vm), gpa, &v, size), 0);
        return v;
}

static void linux_is_entered_with_boot_params_and_an_identity_map(void **state)
{
        const struct vm_config config = { .memory = 64 * MIB,
                .n_cpus = 1,
                .engine = "interp",
                .console = VM_CONSOLE_NONE,
                .boot = VM_BOOT_LINUX64,
                .append = "console=ttyS0 quiet" };
        struct vm *vm = linux_machine(&config, NULL);
        const struct cpu_state *cpu = &vm_vcpu(vm, 0)->state;
        struct mmu_translation tr;
        char line[32];
        u64 bp;

        bp = cpu->gpr[RSI];
        assert_int_equal(cpu->rip, 0x1000000);
        assert_true(cpu_64bit(cpu));
        assert_false(cpu->rflags & RFLAGS_IF);
        assert_int_equal(cpu->seg[SEG_CS].selector, 0x10);
        assert_int_equal(cpu->seg[SEG_DS].selector, 0x18);
        assert_int_equal(mmu_walk(vm_memory(vm), &cpu->paging, 0x1000000, MMU_FETCH, 0, &tr), 0);
        assert_int_equal(tr.gpa, 0x1000000);
        assert_int_equal(peek(vm, bp + 0x202, 4), 0x53726448); /* HdrS */
        assert_int_equal(peek(vm, bp + 0x70, 8), ACPI_BASE);
        guest_memory_read(vm_memory(vm), peek(vm, bp + 0x228, 4), line, sizeof(line));
        assert_string_equal(line, config.append);
        assert_true(peek(vm, bp + 0x1e8, 1) >= 4);
        assert_int_equal(peek(vm, cpu->rip, 2), 0xfeeb);
        vm_free(vm);
}

static void pvh_is_chosen_for_an_elf_with_its_note(void **state)
{
        const struct vm_config config = {
                .memory = 64 * MIB, .n_cpus = 1, .engine = "interp", .console = VM_CONSOLE_NONE
        };
        struct vm *vm = linux_machine(&config, NULL);
        const struct cpu_state *cpu = &vm_vcpu(vm, 0)->state;

        assert_true(cpu_protected(cpu));
        assert_false(cpu->paging.cr0 & CR0_PG);
        assert_int_equal(peek(vm, cpu->gpr[RBX], 4), 0x336ec578);
        assert_int_equal(peek(vm, cpu->gpr[RBX] + 32, 8), ACPI_BASE);
        vm_free(vm);
}

static void a_kernel_larger_than_memory_is_refused_with_a_hint(void **state)
{
        const struct vm_config config = {
                .memory = 8 * MIB, .n_cpus = 1, .engine = "interp", .console = VM_CONSOLE_NONE
        };
        struct err *err = NULL;

        assert_null(linux_machine(&config, &err));
        assert_int_equal(err_get_id(err), ERR_TOO_LARGE);
        assert_non_null(strstr(err_get_hint(err), "--memory"));
        err_free(err);
}

static void multiboot_information_is_complete(void **state)
{
        struct vm *vm = MACHINE(code_spin, .append = "one two");
        const struct cpu_state *cpu = &vm_vcpu(vm, 0)->state;
        const u64 info = cpu->gpr[RBX];
        char line[64];

        assert_int_equal(cpu->gpr[RAX], 0x2badb002);
        assert_int_equal(peek(vm, info + 8, 4), 7 * 1024); /* mem_upper, KiB */
        guest_memory_read(vm_memory(vm), peek(vm, info + 16, 4), line, sizeof(line));
        assert_non_null(strstr(line, "/strata-test-"));
        assert_non_null(strstr(line, " one two"));
        assert_int_equal(peek(vm, info, 4) & 8, 0); /* no module */
        vm_free(vm);
}

static void memory_map_leaves_the_holes_out(void **state)
{
        struct boot_map_entry map[BOOT_MAP_MAX];
        size_t n = boot_map_build(5 * GIB, map);
        u64 end = 0, ram = 0;

        for (size_t i = 0; i < n; i++) {
                assert_true(map[i].base >= end);
                end = map[i].base + map[i].size;
                if (map[i].type == BOOT_MAP_RAM) {
                        assert_true(end <= PCI_HOLE_START || map[i].base >= PCI_HOLE_END);
                        ram += map[i].size;
                }
        }
        assert_int_equal(ram, 5 * GIB - (MIB - 0x9fc00));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(debug_exit_ends_it_with_its_byte),
                cmocka_unit_test(power_off_and_reset_end_it),
                cmocka_unit_test(triple_fault_is_told_with_its_place),
                cmocka_unit_test(a_guest_that_spins_or_halts_for_ever_can_be_stopped),
                cmocka_unit_test(a_kick_ends_the_next_halt_with_interrupts_off),
                cmocka_unit_test(an_unstarted_machine_can_be_freed),
                cmocka_unit_test(paused_means_nothing_runs),
                cmocka_unit_test(a_saved_machine_goes_on_elsewhere),
                cmocka_unit_test(a_foreign_or_damaged_state_is_refused),
                cmocka_unit_test(a_running_machine_is_not_saved),
                cmocka_unit_test(a_machine_moves_between_engines_and_counts_on),
                cmocka_unit_test(stats_name_the_engine_and_count),
                cmocka_unit_test(linux_is_entered_with_boot_params_and_an_identity_map),
                cmocka_unit_test(pvh_is_chosen_for_an_elf_with_its_note),
                cmocka_unit_test(a_kernel_larger_than_memory_is_refused_with_a_hint),
                cmocka_unit_test(multiboot_information_is_complete),
                cmocka_unit_test(memory_map_leaves_the_holes_out),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What every engine's vCPUs have in common: work from other threads, a debugger's view of memory, choice of the engine. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cpu_guest.h"

#define RAM (8 * MIB)

static void waiting_ends_when_work_is_posted(void **state)
{
        struct cpu_guest g;
        pthread_t thread;

        cpu_guest_init(&g, &interp_engine, RAM);
        for (unsigned i = 0; i < 50; i++) {
                thread = cpu_guest_post_later(&g, VCPU_WORK_IRQ, i * 20);
                vcpu_wait_for_work(&g.vcpu);
                pthread_join(thread, NULL);
                assert_int_equal(g.vcpu.work, VCPU_WORK_IRQ);
                vcpu_wait_for_work(&g.vcpu); /* returns at once while there is work */
                g.vcpu.work = 0;
        }
        cpu_guest_free(&g);
}

static void posted_work_adds_up(void **state)
{
        struct cpu_guest g;

        cpu_guest_init(&g, &interp_engine, RAM);
        vcpu_post_work(&g.vcpu, VCPU_WORK_IRQ);
        vcpu_post_work(&g.vcpu, VCPU_WORK_NMI);
        vcpu_post_work(&g.vcpu, VCPU_WORK_IRQ);
        assert_int_equal(g.vcpu.work, VCPU_WORK_IRQ | VCPU_WORK_NMI);
        g.vcpu.work = 0;
        cpu_guest_free(&g);
}

static const u8 nothing[1];

/* 4 KiB pages at the linear addresses of a 2 MiB page: neighbours in linear memory that are none in physical memory. */
static void map_scattered(struct cpu_guest *g)
{
        const u64 table = 0x100000;
        u64 entry = table | 3;

        cpu_guest_long(g, nothing, nothing);
        assert_int_equal(guest_memory_write(g->memory, GUEST_PML4_AT + 0x2000 + 2 * 8, &entry, 8), 0); /* 4 MiB */
        entry = 0x300000 | 3;
        assert_int_equal(guest_memory_write(g->memory, table, &entry, 8), 0);
        entry = 0x200000 | 1; /* read-only, which does not stop a debugger */
        assert_int_equal(guest_memory_write(g->memory, table + 8, &entry, 8), 0);
}

static void a_debugger_sees_linear_memory(void **state)
{
        static const char text[] = "across two pages";
        char seen[sizeof(text)] = { 0 };
        struct cpu_guest g;

        cpu_guest_init(&g, &interp_engine, RAM);
        map_scattered(&g);
        assert_int_equal(vcpu_poke(&g.vcpu, 0x400ff8, text, sizeof(text)), sizeof(text));
        assert_int_equal(vcpu_peek(&g.vcpu, 0x400ff8, seen, sizeof(seen)), sizeof(seen));
        assert_string_equal(seen, text);
        assert_memory_equal(guest_memory_hva(g.memory, 0x300ff8, 8), text, 8);
        assert_memory_equal(guest_memory_hva(g.memory, 0x200000, 9), text + 8, 9);
        cpu_guest_free(&g);
}

static void what_is_not_mapped_ends_a_debuggers_access(void **state)
{
        u8 seen[64];
        struct cpu_guest g;

        cpu_guest_init(&g, &interp_engine, RAM);
        map_scattered(&g);
        assert_int_equal(vcpu_peek(&g.vcpu, 0x402000 - 16, seen, sizeof(seen)), 16);
        assert_int_equal(vcpu_poke(&g.vcpu, 0x402000 - 16, seen, sizeof(seen)), 16);
        assert_int_equal(vcpu_peek(&g.vcpu, 0x402000, seen, sizeof(seen)), 0);
        assert_int_equal(vcpu_peek(&g.vcpu, 1ULL << 63, seen, sizeof(seen)), 0);
        assert_int_equal(vcpu_peek(&g.vcpu, GUEST_MMIO, seen, sizeof(seen)), 0); /* devices are not touched */
        cpu_guest_free(&g);
}

static void engines_are_found_by_name(void **state)
{
        struct err *err = NULL;

        assert_ptr_equal(cpu_engine_find("interp", NULL), &interp_engine);
        assert_null(cpu_engine_find("warp", &err));
        assert_int_equal(err_get_id(err), ERR_USAGE);
        assert_non_null(strstr(err_message(err), "warp"));
        assert_non_null(err_get_hint(err));
        err_free(err);
}

/* "auto" never ends up with an engine that is there but useless. */
static void auto_takes_the_first_fast_engine(void **state)
{
        const struct cpu_engine *found = cpu_engine_find("auto", NULL);
        unsigned caps = kvm_engine.caps;

        assert_non_null(found);
        if (kvm_engine.probe(&caps, NULL) < 0 || !(caps & ENGINE_CAP_FAST))
                assert_ptr_not_equal(found, &kvm_engine);
        else
                assert_ptr_equal(found, &kvm_engine);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(waiting_ends_when_work_is_posted),
                cmocka_unit_test(posted_work_adds_up),
                cmocka_unit_test(a_debugger_sees_linear_memory),
                cmocka_unit_test(what_is_not_mapped_ends_a_debuggers_access),
                cmocka_unit_test(engines_are_found_by_name),
                cmocka_unit_test(auto_takes_the_first_fast_engine),
        };

        alarm(60);
        return cmocka_run_group_tests_name("vcpu", tests, NULL, NULL);
}

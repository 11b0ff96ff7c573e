#include "cpu_guest.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stop(struct cpu_guest *g)
{
        __atomic_store_n(&g->vcpu.machine_stopping, true, __ATOMIC_RELEASE);
        vcpu_post_work(&g->vcpu, VCPU_WORK_STOP);
}

static u64 port_read(void *opaque, u64 offset, unsigned size)
{
        struct cpu_guest *g = opaque;

        if (offset == GUEST_PORT_STOP_IN - GUEST_PORT_OUT) {
                stop(g);
                return 0x77;
        }
        return offset == GUEST_PORT_IN - GUEST_PORT_OUT ? g->next_in++ : 0;
}

static void record(struct cpu_guest *g, u64 value)
{
        if (g->n_out < GUEST_OUT_MAX)
                g->out[g->n_out++] = value;
}

static void port_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct cpu_guest *g = opaque;

        if (offset == 0)
                record(g, value);
        if (offset == GUEST_PORT_STOP - GUEST_PORT_OUT)
                stop(g);
}

static u64 mmio_read(void *opaque, u64 offset, unsigned size)
{
        return 0xab00000000000000ULL | 0xab000000 | offset;
}

static void mmio_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        record(opaque, value);
}

static const struct io_ops port_ops = { port_read, port_write, 0 };
static const struct io_ops mmio_ops = { mmio_read, mmio_write, 0 };

static void init(struct cpu_guest *g, const struct cpu_engine *engine, u64 ram, unsigned n_vcpus, enum shadow_policy shadow)
{
        struct err *err = NULL;

        *g = (struct cpu_guest){ .lock = PTHREAD_MUTEX_INITIALIZER, .next_in = 0x11 };
        assert_int_equal(guest_memory_new(ram, &g->lock, &g->device_counters, &g->memory, &err), 0);
        io_space_init(&g->ports, &g->lock, &g->device_counters, true);
        assert_int_equal(io_space_add(&g->ports, GUEST_PORT_OUT, 16, &port_ops, g, "test", &err), 0);
        assert_int_equal(io_space_add(&g->memory->mmio, GUEST_MMIO, PAGE_SIZE, &mmio_ops, g, "test", &err), 0);
        g->vcpu = (struct vcpu){ .n_vcpus = n_vcpus, .shadow = shadow, .memory = g->memory, .ports = &g->ports };
        cpu_state_reset(&g->vcpu.state, true);
        if (engine->machine_create(g->memory, n_vcpus, &g->machine, &err) < 0 ||
            vcpu_set_engine(&g->vcpu, engine, g->machine, &err) < 0) {
                print_error("%s\n", err_message(err));
                fail();
        }
}

void cpu_guest_init(struct cpu_guest *g, const struct cpu_engine *engine, u64 ram)
{
        cpu_guest_init_n(g, engine, ram, 1);
}

void cpu_guest_init_n(struct cpu_guest *g, const struct cpu_engine *engine, u64 ram, unsigned n_vcpus)
{
        init(g, engine, ram, n_vcpus, SHADOW_AUTO);
}

void cpu_guest_init_shadow(struct cpu_guest *g, const struct cpu_engine *engine, u64 ram, enum shadow_policy shadow)
{
        init(g, engine, ram, 1, shadow);
}

void cpu_guest_free(struct cpu_guest *g)
{
        g->vcpu.engine->vcpu_destroy(&g->vcpu);
        g->vcpu.engine->machine_destroy(g->machine);
        io_space_free(&g->ports);
        guest_memory_free(g->memory);
        err_free(g->vcpu.error);
}

static void put(struct cpu_guest *g, u64 gpa, const void *data, size_t len)
{
        assert_int_equal(guest_memory_write(g->memory, gpa, data, len), 0);
}

static void put64(struct cpu_guest *g, u64 gpa, u64 value)
{
        put(g, gpa, &value, sizeof(value));
}

static void place(struct cpu_guest *g, const u8 *code, const u8 *end)
{
        struct cpu_state *cpu = &g->vcpu.state;

        put(g, GUEST_CODE_AT, code, (size_t)(end - code));
        cpu->rip = GUEST_CODE_AT;
        cpu->gpr[RSP] = GUEST_STACK_AT;
        if (g->vcpu.engine->state_changed)
                g->vcpu.engine->state_changed(&g->vcpu);
}

void cpu_guest_real(struct cpu_guest *g, const u8 *code, const u8 *end)
{
        struct cpu_state *cpu = &g->vcpu.state;

        cpu->seg[SEG_CS].selector = 0;
        cpu->seg[SEG_CS].base = 0;
        place(g, code, end);
        cpu->gpr[RSP] = 0x7000;
}

/* Flat segments: code at selector 8, data at 16. The descriptors are in memory too, for IRET. */
static void flat_segments(struct cpu_guest *g, bool long_mode)
{
        const struct seg data = { .selector = 16, .limit = 0xffffffff, .attr = 0xc093 };
        struct cpu_state *cpu = &g->vcpu.state;

        for (unsigned i = 0; i < SEG_COUNT; i++)
                cpu->seg[i] = data;
        cpu->seg[SEG_CS] = (struct seg){ .selector = 8, .limit = 0xffffffff, .attr = long_mode ? 0xa09b : 0xc09b };
        put64(g, GUEST_GDT_AT, 0);
        put64(g, GUEST_GDT_AT + 8, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
        put64(g, GUEST_GDT_AT + 16, 0x00cf93000000ffff);
        cpu->gdtr = (struct dtable){ .base = GUEST_GDT_AT, .limit = 23 };
        cpu->paging.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_MP;
        cpu->paging.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
}

void cpu_guest_protected(struct cpu_guest *g, const u8 *code, const u8 *end)
{
        flat_segments(g, false);
        place(g, code, end);
}

void cpu_guest_long(struct cpu_guest *g, const u8 *code, const u8 *end)
{
        struct cpu_state *cpu = &g->vcpu.state;

        flat_segments(g, true);
        put64(g, GUEST_PML4_AT, (GUEST_PML4_AT + 0x1000) | 3);
        put64(g, GUEST_PML4_AT + 0x1000, (GUEST_PML4_AT + 0x2000) | 3);
        put64(g, GUEST_PML4_AT + 0x1000 + 3 * 8, (GUEST_PML4_AT + 0x3000) | 3);
        for (u64 i = 0; i < 512; i++) {
                put64(g, GUEST_PML4_AT + 0x2000 + i * 8, i << 21 | 0x83);
                put64(g, GUEST_PML4_AT + 0x3000 + i * 8, (0xc0000000 + (i << 21)) | 0x83);
        }
        cpu->idtr = (struct dtable){ .base = GUEST_IDT_AT, .limit = 0xfff };
        cpu->paging.cr3 = GUEST_PML4_AT;
        cpu->paging.cr4 |= CR4_PAE;
        cpu->paging.efer = EFER_LME | EFER_LMA | EFER_NX;
        cpu->paging.cr0 |= CR0_PG | CR0_WP;
        place(g, code, end);
}

void cpu_guest_user(struct cpu_guest *g, u64 offset)
{
        struct cpu_state *cpu = &g->vcpu.state;

        for (u64 at = GUEST_PML4_AT; at < GUEST_PML4_AT + 4 * PAGE_SIZE; at += 8) {
                u64 entry;

                assert_int_equal(guest_memory_read(g->memory, at, &entry, sizeof(entry)), 0);
                if (entry & 1)
                        put64(g, at, entry | 4);
        }
        cpu->cpl = 3;
        cpu->seg[SEG_CS].selector |= 3;
        cpu->seg[SEG_CS].attr |= SEG_ATTR_DPL;
        cpu->seg[SEG_SS].selector |= 3;
        cpu->seg[SEG_SS].attr |= SEG_ATTR_DPL;
        cpu->rflags |= RFLAGS_IF;
        cpu->paging.efer |= EFER_SCE;
        cpu->star = 8ULL << 32;
        cpu->lstar = GUEST_CODE_AT + offset;
}

void cpu_guest_gate(struct cpu_guest *g, u8 vector, u64 offset)
{
        u64 address = GUEST_CODE_AT + offset;
        u64 low = (address & 0xffff) | 8ULL << 16 | 0x8eULL << 40 | (address & 0xffff0000) << 32;

        put64(g, GUEST_IDT_AT + vector * 16ULL, low);
        put64(g, GUEST_IDT_AT + vector * 16ULL + 8, address >> 32);
}

enum exit_reason cpu_guest_run(struct cpu_guest *g)
{
        enum exit_reason reason = g->vcpu.engine->run(&g->vcpu);

        if (reason == EXIT_FAILED)
                print_error("run failed: %s\n", g->vcpu.error ? err_message(g->vcpu.error) : "without an error");
        return reason;
}

struct later {
        struct cpu_guest *guest;
        u32 work;
        unsigned delay_us;
};

static void *post(void *arg)
{
        struct later *later = arg;

        usleep(later->delay_us);
        vcpu_post_work(&later->guest->vcpu, later->work);
        free(later);
        return NULL;
}

pthread_t cpu_guest_post_later(struct cpu_guest *g, u32 work, unsigned delay_us)
{
        struct later *later = malloc(sizeof(*later));
        pthread_t thread;

        assert_non_null(later);
        *later = (struct later){ g, work, delay_us };
        assert_int_equal(pthread_create(&thread, NULL, post, later), 0);
        return thread;
}

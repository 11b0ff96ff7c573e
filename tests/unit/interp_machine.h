/* A machine of one interpreted vCPU and a few MiB of RAM, for tests that run hand-made guest code.
 *
 * Guest code is written as assembly in the test (GUEST_CODE) and copied to where the test wants it. Every IDT vector leads to a stub of
 * one HLT, so that a run ends with EXIT_HALTED and RIP tells which event arrived; the test then looks at the frame on the stack. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"

/* Guest-physical = linear addresses. */
enum {
        AT_GDT = 0x1000, AT_IDT = 0x2000, AT_TSS = 0x3000, AT_TSS2 = 0x3400, AT_LDT = 0x3800, AT_PML4 = 0x4000, AT_PDPT = 0x5000,
        AT_PD = 0x6000, AT_PD32 = 0x7000, AT_CODE = 0x8000, AT_USER = 0x9000, AT_STUBS = 0xa000, AT_DATA = 0xb000,
        STACK_TOP = 0x20000, USER_STACK_TOP = 0x24000, RSP0_TOP = 0x28000, IST1_TOP = 0x2c000,
};

/* Selectors. */
enum {
        SEL_CODE64 = 0x08, SEL_DATA = 0x10, SEL_USER32 = 0x18 | 3, SEL_USER_DATA = 0x20 | 3, SEL_USER64 = 0x28 | 3, SEL_CODE32 = 0x30,
        SEL_TSS = 0x40, SEL_TSS2 = 0x50, SEL_GATE = 0x60, SEL_NOT_PRESENT = 0x70, SEL_CONFORMING = 0x78, SEL_CODE16 = 0x80,
        SEL_BEYOND = 0x1000,
};

#define DESC(base, limit, attr)                                                                    \
        (((u64)(limit) & 0xffff) | ((u64)(base) & 0xffffff) << 16 | (u64)(attr) << 40 |            \
         ((u64)(limit) >> 16 & 0xf) << 48 | ((u64)(base) >> 24 & 0xff) << 56)

struct interp_machine_fixture {
        pthread_mutex_t lock;
        struct guest_memory *mem;
        struct io_space ports;
        void *engine_machine;
        struct vcpu vcpu;
};

#define GUEST_CODE(name, bits, ...)                                                                \
        __asm__(".pushsection .rodata\n.code" #bits "\n" #name "_start:\n" __VA_ARGS__            \
                "\n" #name "_end:\n.code64\n.popsection");                                         \
        extern const u8 name##_start[], name##_end[]
#define PUT_CODE(m, gpa, name) put_bytes(m, gpa, name##_start, (size_t)(name##_end - name##_start))

static inline void put_bytes(struct interp_machine_fixture *m, u64 gpa, const void *p, size_t n)
{
        assert_int_equal(guest_memory_write(m->mem, gpa, p, n), 0);
}
static inline void put64(struct interp_machine_fixture *m, u64 gpa, u64 v)
{
        put_bytes(m, gpa, &v, 8);
}
static inline void put32(struct interp_machine_fixture *m, u64 gpa, u32 v)
{
        put_bytes(m, gpa, &v, 4);
}
static inline u64 get64(struct interp_machine_fixture *m, u64 gpa)
{
        u64 v = 0;

        assert_int_equal(guest_memory_read(m->mem, gpa, &v, 8), 0);
        return v;
}
static inline u32 get32(struct interp_machine_fixture *m, u64 gpa)
{
        return (u32)get64(m, gpa);
}

static inline void put_gdt(struct interp_machine_fixture *m, unsigned selector, u64 raw)
{
        put64(m, AT_GDT + (selector & 0xfff8u), raw);
}

static inline u64 stub_of(unsigned vector)
{
        return AT_STUBS + vector * 16;
}

/* A gate of @type (0x8e: present DPL 0 interrupt gate). */
static inline void put_gate64(struct interp_machine_fixture *m, unsigned vector, u64 target, unsigned selector, unsigned attr,
                              unsigned ist)
{
        put64(m, AT_IDT + vector * 16, (target & 0xffff) | (u64)selector << 16 | (u64)ist << 32 | (u64)attr << 40 |
                                               (target >> 16 & 0xffff) << 48);
        put64(m, AT_IDT + vector * 16 + 8, target >> 32);
}
static inline u64 gate32(u64 target, unsigned selector, unsigned attr, unsigned params)
{
        return (target & 0xffff) | (u64)selector << 16 | (u64)params << 32 | (u64)attr << 40 | (target >> 16 & 0xffff) << 48;
}
static inline void put_gate32(struct interp_machine_fixture *m, unsigned vector, u64 target, unsigned selector, unsigned attr)
{
        put64(m, AT_IDT + vector * 8, gate32(target, selector, attr, 0));
}

static inline struct seg make_seg(unsigned selector, u64 base, u32 limit, unsigned attr)
{
        return (struct seg){ .selector = (u16)selector, .attr = (u16)attr, .limit = limit, .base = base };
}

static inline void put_descriptors(struct interp_machine_fixture *m)
{
        put_gdt(m, SEL_CODE64, DESC(0, 0xfffff, 0xa09b));
        put_gdt(m, SEL_DATA, DESC(0, 0xfffff, 0xc093));
        put_gdt(m, SEL_USER32, DESC(0, 0xfffff, 0xc0fb));
        put_gdt(m, SEL_USER_DATA, DESC(0, 0xfffff, 0xc0f3));
        put_gdt(m, SEL_USER64, DESC(0, 0xfffff, 0xa0fb));
        put_gdt(m, SEL_CODE32, DESC(0, 0xfffff, 0xc09b));
        put_gdt(m, SEL_TSS, DESC(AT_TSS, 0x67, 0x8b));
        put_gdt(m, SEL_TSS + 8, 0);
        put_gdt(m, SEL_TSS2, DESC(AT_TSS2, 0x67, 0x89));
        put_gdt(m, SEL_NOT_PRESENT, DESC(0, 0xfffff, 0xc013));
        put_gdt(m, SEL_CONFORMING, DESC(0, 0xfffff, 0xc09f));
        put_gdt(m, SEL_CODE16, DESC(0, 0xffff, 0x009b));
}

static inline void enter_state(struct interp_machine_fixture *m)
{
        struct cpu_state *cpu = &m->vcpu.state;

        cpu->gdtr = (struct dtable){ AT_GDT, 0xfff };
        cpu->tr = make_seg(SEL_TSS, AT_TSS, 0x67, 0x8b);
        cpu->ldtr = (struct seg){ .unusable = true };
        for (unsigned i = 0; i < SEG_COUNT; i++)
                cpu->seg[i] = make_seg(SEL_DATA, 0, 0xffffffff, 0xc093);
        cpu->gpr[RSP] = STACK_TOP;
        cpu->rip = AT_CODE;
        cpu->rflags = RFLAGS_FIXED;
        cpu->cpl = 0;
        cpu->paging.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP;
}

/* 64-bit mode, ring 0, the first 2 MiB identity-mapped for everybody. */
static inline void machine_long(struct interp_machine_fixture *m)
{
        struct cpu_state *cpu = &m->vcpu.state;

        put_descriptors(m);
        enter_state(m);
        cpu->seg[SEG_CS] = make_seg(SEL_CODE64, 0, 0xffffffff, 0xa09b);
        put64(m, AT_PML4, AT_PDPT | 7);
        put64(m, AT_PDPT, AT_PD | 7);
        put64(m, AT_PD, 0xe7);
        cpu->paging.cr3 = AT_PML4;
        cpu->paging.cr4 = CR4_PAE | CR4_OSFXSR;
        cpu->paging.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NX;
        cpu->paging.cr0 |= CR0_PG;
        cpu->idtr = (struct dtable){ AT_IDT, 0xfff };
        for (unsigned v = 0; v < 64; v++)
                put_gate64(m, v, stub_of(v), SEL_CODE64, 0x8e, 0);
        put64(m, AT_TSS + 4, RSP0_TOP);
        put64(m, AT_TSS + 0x24, IST1_TOP);
}

/* 32-bit protected mode without paging, ring 0. */
static inline void machine_protected(struct interp_machine_fixture *m)
{
        struct cpu_state *cpu = &m->vcpu.state;

        put_descriptors(m);
        enter_state(m);
        cpu->seg[SEG_CS] = make_seg(SEL_CODE32, 0, 0xffffffff, 0xc09b);
        cpu->idtr = (struct dtable){ AT_IDT, 0x7ff };
        for (unsigned v = 0; v < 64; v++)
                put_gate32(m, v, stub_of(v), SEL_CODE32, 0x8e);
        put32(m, AT_TSS + 4, RSP0_TOP);
        put32(m, AT_TSS + 8, SEL_DATA);
}

/* Ring 3 of the current mode. */
static inline void machine_user(struct interp_machine_fixture *m, bool code64)
{
        struct cpu_state *cpu = &m->vcpu.state;

        cpu->seg[SEG_CS] = code64 ? make_seg(SEL_USER64, 0, 0xffffffff, 0xa0fb) : make_seg(SEL_USER32, 0, 0xffffffff, 0xc0fb);
        for (unsigned i = 0; i < SEG_COUNT; i++)
                if (i != SEG_CS)
                        cpu->seg[i] = make_seg(SEL_USER_DATA, 0, 0xffffffff, 0xc0f3);
        cpu->cpl = 3;
        cpu->gpr[RSP] = USER_STACK_TOP;
        cpu->rip = AT_USER;
}

static inline int machine_setup(void **state)
{
        struct interp_machine_fixture *m = calloc(1, sizeof(*m));
        const u8 hlt = 0xf4;

        assert_non_null(m);
        pthread_mutex_init(&m->lock, NULL);
        assert_int_equal(guest_memory_new(2 * MIB, &m->lock, NULL, &m->mem, NULL), 0);
        io_space_init(&m->ports, &m->lock, NULL, true);
        assert_int_equal(interp_engine.machine_create(m->mem, 1, &m->engine_machine, NULL), 0);
        m->vcpu = (struct vcpu){
                .n_vcpus = 1, .engine = &interp_engine, .engine_machine = m->engine_machine, .memory = m->mem, .ports = &m->ports,
        };
        cpu_state_reset(&m->vcpu.state, true);
        assert_int_equal(interp_engine.vcpu_create(&m->vcpu, NULL), 0);
        for (unsigned v = 0; v < 64; v++)
                put_bytes(m, stub_of(v), &hlt, 1);
        *state = m;
        return 0;
}

static inline int machine_teardown(void **state)
{
        struct interp_machine_fixture *m = *state;

        interp_engine.vcpu_destroy(&m->vcpu);
        interp_engine.machine_destroy(m->engine_machine);
        io_space_free(&m->ports);
        guest_memory_free(m->mem);
        pthread_mutex_destroy(&m->lock);
        free(m);
        return 0;
}

/* Runs until HLT. A guest that never halts would hang the test: a second thread is not worth it, ctest's limit ends it. */
static inline enum exit_reason machine_run(struct interp_machine_fixture *m)
{
        m->vcpu.state.halted = false;
        interp_engine.state_changed(&m->vcpu);
        return interp_engine.run(&m->vcpu);
}

/* Runs and expects to end in the stub of @vector. */
static inline void expect_vector(struct interp_machine_fixture *m, unsigned vector)
{
        assert_int_equal(machine_run(m), EXIT_HALTED);
        assert_int_equal(m->vcpu.state.rip, stub_of(vector) + 1);
}
/* Runs and expects to end after the HLT at the end of the code (rip within the page of @at). */
static inline void expect_halt_in(struct interp_machine_fixture *m, u64 at)
{
        assert_int_equal(machine_run(m), EXIT_HALTED);
        assert_int_equal(m->vcpu.state.rip & ~0xfffULL, at);
}

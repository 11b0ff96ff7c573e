/* The interpreter's system half: delivery, gates, far transfers, tasks, control registers, debugging.
 * Expected values are from SDM 2A-3A; the real processor agrees through kvm-unit-tests, which cover part of the same ground. */
#include "interp_machine.h"

typedef struct interp_machine_fixture machine;

/* A frame that a 64-bit handler finds. @error: there is an error code in front. */
struct frame64 {
        u64 error, rip, cs, rflags, rsp, ss;
};
static struct frame64 read_frame(machine *m, bool error)
{
        const u64 sp = m->vcpu.state.gpr[RSP];
        const u64 at = error ? sp + 8 : sp;

        return (struct frame64){
                .error = error ? get64(m, sp) : 0, .rip = get64(m, at), .cs = get64(m, at + 8),
                .rflags = get64(m, at + 16), .rsp = get64(m, at + 24), .ss = get64(m, at + 32),
        };
}

/* ---- long-mode delivery ---- */

GUEST_CODE(ud2_64, 64, "ud2");
GUEST_CODE(int21_64, 64, "int $0x21\n hlt");
GUEST_CODE(mov_ds_64, 64, "mov %eax, %ds\n hlt");
GUEST_CODE(mov_ss_64, 64, "mov %eax, %ss\n hlt");
GUEST_CODE(iretq_64, 64, "iretq");

static void fault_uses_ist_stack_and_sets_rf(void **state)
{
        machine *m = *state;
        struct frame64 f;

        machine_long(m);
        put_gate64(m, EXC_UD, stub_of(EXC_UD), SEL_CODE64, 0x8e, 1);
        PUT_CODE(m, AT_CODE, ud2_64);
        m->vcpu.state.gpr[RSP] = STACK_TOP - 3;
        expect_vector(m, EXC_UD);
        assert_int_equal(m->vcpu.state.gpr[RSP], IST1_TOP - 40);
        f = read_frame(m, false);
        assert_int_equal(f.rip, AT_CODE);
        assert_int_equal(f.cs, SEL_CODE64);
        assert_int_equal(f.rflags, RFLAGS_FIXED | RFLAGS_RF);
        assert_int_equal(f.rsp, STACK_TOP - 3);
        assert_int_equal(f.ss, SEL_DATA);
}

static void same_ring_delivery_aligns_the_stack(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, ud2_64);
        m->vcpu.state.gpr[RSP] = STACK_TOP - 3;
        expect_vector(m, EXC_UD);
        assert_int_equal(m->vcpu.state.gpr[RSP], STACK_TOP - 16 - 40);
        assert_int_equal(read_frame(m, false).rsp, STACK_TOP - 3);
}

static void fault_in_ring_3_switches_to_rsp0_and_null_ss(void **state)
{
        machine *m = *state;
        struct frame64 f;

        machine_long(m);
        machine_user(m, true);
        PUT_CODE(m, AT_USER, ud2_64);
        expect_vector(m, EXC_UD);
        f = read_frame(m, false);
        assert_int_equal(m->vcpu.state.gpr[RSP], RSP0_TOP - 40);
        assert_int_equal(f.cs, SEL_USER64);
        assert_int_equal(f.ss, SEL_USER_DATA);
        assert_int_equal(f.rsp, USER_STACK_TOP);
        assert_int_equal(m->vcpu.state.cpl, 0);
        assert_int_equal(m->vcpu.state.seg[SEG_SS].selector, 0);
        assert_int_equal(m->vcpu.state.seg[SEG_CS].selector, SEL_CODE64);
}

static void soft_int_needs_gate_dpl(void **state)
{
        machine *m = *state;
        struct frame64 f;

        machine_long(m);
        machine_user(m, true);
        PUT_CODE(m, AT_USER, int21_64);
        expect_vector(m, EXC_GP);
        f = read_frame(m, true);
        assert_int_equal(f.error, 0x21 * 8 + 2); /* IDT, not EXT: INT n is internal */
        assert_int_equal(f.rip, AT_USER);
}

static void soft_int_returns_behind_itself(void **state)
{
        machine *m = *state;

        machine_long(m);
        machine_user(m, true);
        put_gate64(m, 0x21, stub_of(0x21), SEL_CODE64, 0xee, 0);
        PUT_CODE(m, AT_USER, int21_64);
        m->vcpu.state.rflags |= RFLAGS_IF;
        expect_vector(m, 0x21);
        assert_int_equal(read_frame(m, false).rip, AT_USER + 2);
        assert_int_equal(read_frame(m, false).rflags, RFLAGS_FIXED | RFLAGS_IF);
        assert_false(m->vcpu.state.rflags & RFLAGS_IF);
}

static void trap_gate_keeps_if(void **state)
{
        machine *m = *state;

        machine_long(m);
        put_gate64(m, 0x21, stub_of(0x21), SEL_CODE64, 0x8f, 0);
        PUT_CODE(m, AT_CODE, int21_64);
        m->vcpu.state.rflags |= RFLAGS_IF;
        expect_vector(m, 0x21);
        assert_true(m->vcpu.state.rflags & RFLAGS_IF);
}

static void missing_gate_error_tells_ext(void **state)
{
        machine *m = *state;

        machine_long(m);
        put_gate64(m, EXC_UD, stub_of(EXC_UD), SEL_CODE64, 0x0e, 0);
        PUT_CODE(m, AT_CODE, ud2_64);
        expect_vector(m, EXC_NP);
        assert_int_equal(read_frame(m, true).error, EXC_UD * 8 + 3); /* IDT | EXT */
        assert_int_equal(read_frame(m, true).rip, AT_CODE);

        machine_long(m);
        put_gate64(m, 0x21, stub_of(0x21), SEL_CODE64, 0x0e, 0);
        PUT_CODE(m, AT_CODE, int21_64);
        expect_vector(m, EXC_NP);
        assert_int_equal(read_frame(m, true).error, 0x21 * 8 + 2);
        assert_int_equal(read_frame(m, true).rip, AT_CODE);
}

static void handler_segment_must_be_64_bit_code(void **state)
{
        static const struct {
                unsigned selector, vector, error;
        } cases[] = {
                { 0, EXC_GP, 0 }, { SEL_DATA, EXC_GP, SEL_DATA }, { SEL_CODE32, EXC_GP, SEL_CODE32 },
                { SEL_BEYOND, EXC_GP, SEL_BEYOND }, { SEL_USER64 & ~3u, EXC_GP, SEL_USER64 & ~3u },
        };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                machine_long(m);
                put_gate64(m, 0x21, stub_of(0x21), cases[i].selector, 0x8e, 0);
                PUT_CODE(m, AT_CODE, int21_64);
                expect_vector(m, cases[i].vector);
                assert_int_equal(read_frame(m, true).error, cases[i].error);
        }
}

static void contributory_fault_in_delivery_is_a_double_fault(void **state)
{
        machine *m = *state;
        struct frame64 f;

        machine_long(m);
        put_gate64(m, EXC_GP, stub_of(EXC_GP), SEL_DATA, 0x8e, 0);
        PUT_CODE(m, AT_CODE, mov_ds_64);
        m->vcpu.state.gpr[RAX] = SEL_BEYOND;
        expect_vector(m, EXC_DF);
        f = read_frame(m, true);
        assert_int_equal(f.error, 0);
        assert_int_equal(f.rip, AT_CODE);
}

static void fault_while_delivering_double_fault_shuts_down(void **state)
{
        machine *m = *state;

        machine_long(m);
        m->vcpu.state.idtr.limit = 0;
        PUT_CODE(m, AT_CODE, ud2_64);
        assert_int_equal(machine_run(m), EXIT_TRIPLE_FAULT);
}

static void benign_fault_then_contributory_is_serial(void **state)
{
        machine *m = *state;

        machine_long(m);
        put_gate64(m, EXC_UD, stub_of(EXC_UD), 0, 0x8e, 0);
        PUT_CODE(m, AT_CODE, ud2_64);
        expect_vector(m, EXC_GP);
        assert_int_equal(read_frame(m, true).error, 1); /* null selector | EXT */
}

/* ---- segment loads ---- */

static void segment_load_faults_carry_the_selector(void **state)
{
        static const struct {
                unsigned selector, vector, error;
        } cases[] = {
                { SEL_BEYOND | 1, EXC_GP, SEL_BEYOND }, { SEL_NOT_PRESENT, EXC_NP, SEL_NOT_PRESENT },
                { SEL_TSS, EXC_GP, SEL_TSS },           { SEL_DATA | 3, EXC_GP, SEL_DATA },
                { SEL_DATA | 4, EXC_GP, SEL_DATA | 4 }, /* no LDT */
        };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                machine_long(m);
                PUT_CODE(m, AT_CODE, mov_ds_64);
                m->vcpu.state.gpr[RAX] = cases[i].selector;
                expect_vector(m, cases[i].vector);
                assert_int_equal(read_frame(m, true).error, cases[i].error);
                assert_int_equal(read_frame(m, true).rip, AT_CODE);
                assert_int_equal(m->vcpu.state.seg[SEG_DS].selector, SEL_DATA);
        }
}

static void segment_load_sets_accessed(void **state)
{
        machine *m = *state;

        machine_long(m);
        put_gdt(m, SEL_DATA, DESC(0x1234000, 0xfffff, 0xc092));
        PUT_CODE(m, AT_CODE, mov_ds_64);
        m->vcpu.state.gpr[RAX] = SEL_DATA;
        expect_halt_in(m, AT_CODE);
        assert_int_equal(get64(m, AT_GDT + SEL_DATA) >> 40 & 0xff, 0x93);
        assert_int_equal(m->vcpu.state.seg[SEG_DS].base, 0x1234000);
        assert_int_equal(m->vcpu.state.seg[SEG_DS].limit, 0xffffffff);
}

static void stack_segment_must_match_cpl(void **state)
{
        static const struct {
                unsigned selector, vector, error;
        } cases[] = {
                { SEL_DATA | 3, EXC_GP, SEL_DATA }, { SEL_USER_DATA, EXC_GP, SEL_USER_DATA & ~3u },
                { SEL_CODE64, EXC_GP, SEL_CODE64 }, { SEL_NOT_PRESENT, EXC_SS, SEL_NOT_PRESENT }, { 3, EXC_GP, 0 },
        };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                machine_long(m);
                PUT_CODE(m, AT_CODE, mov_ss_64);
                m->vcpu.state.gpr[RAX] = cases[i].selector;
                expect_vector(m, cases[i].vector);
                assert_int_equal(read_frame(m, true).error, cases[i].error);
        }
        machine_long(m);
        PUT_CODE(m, AT_CODE, mov_ss_64);
        m->vcpu.state.gpr[RAX] = 0; /* null is fine in 64-bit ring 0 */
        expect_halt_in(m, AT_CODE);
        assert_int_equal(m->vcpu.state.seg[SEG_SS].selector, 0);
}

GUEST_CODE(lar_lsl_64, 64, "lar %ecx, %eax\n setz %r8b\n lsl %ecx, %ebx\n setz %r9b\n verr %cx\n setz %r10b\n verw %cx\n setz %r11b\n hlt");

static void lar_lsl_verr_verw_answer_in_zf(void **state)
{
        static const struct {
                unsigned selector;
                bool lar, lsl, verr, verw;
                u32 rights, limit;
        } cases[] = {
                { SEL_DATA, true, true, true, true, 0xcf9300, 0xffffffff },
                { SEL_CODE64, true, true, true, false, 0xaf9b00, 0xffffffff },
                { SEL_TSS, true, true, false, false, 0x008b00, 0x67 },
                { 0, false, false, false, false, 0xdead, 0xdead },
                { SEL_BEYOND, false, false, false, false, 0xdead, 0xdead },
                { SEL_DATA | 3, false, false, false, false, 0xdead, 0xdead },
        };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct cpu_state *cpu = &m->vcpu.state;

                machine_long(m);
                PUT_CODE(m, AT_CODE, lar_lsl_64);
                cpu->gpr[RAX] = cpu->gpr[RBX] = 0xdead;
                cpu->gpr[RCX] = cases[i].selector;
                for (unsigned r = R8; r <= R11; r++)
                        cpu->gpr[r] = 0;
                expect_halt_in(m, AT_CODE);
                assert_int_equal(cpu->gpr[R8], cases[i].lar);
                assert_int_equal(cpu->gpr[R9], cases[i].lsl);
                assert_int_equal(cpu->gpr[R10], cases[i].verr);
                assert_int_equal(cpu->gpr[R11], cases[i].verw);
                assert_int_equal(cpu->gpr[RAX], cases[i].rights);
                assert_int_equal(cpu->gpr[RBX], cases[i].limit);
        }
}

/* ---- IRET, SYSCALL, SYSRET ---- */

static void put_iret_frame(machine *m, u64 rip, u64 cs, u64 rflags, u64 rsp, u64 ss)
{
        const u64 at = STACK_TOP - 40, values[] = { rip, cs, rflags, rsp, ss };

        for (size_t i = 0; i < ARRAY_SIZE(values); i++)
                put64(m, at + i * 8, values[i]);
        m->vcpu.state.gpr[RSP] = at;
}

static void iretq_enters_ring_3(void **state)
{
        machine *m = *state;
        struct frame64 f;

        machine_long(m);
        PUT_CODE(m, AT_CODE, iretq_64);
        PUT_CODE(m, AT_USER, ud2_64);
        m->vcpu.state.seg[SEG_GS].base = 0x7fff0000;
        m->vcpu.state.nmi_masked = true;
        put_iret_frame(m, AT_USER, SEL_USER64, RFLAGS_IF | RFLAGS_FIXED | RFLAGS_IOPL, USER_STACK_TOP - 8, SEL_USER_DATA);
        expect_vector(m, EXC_UD);
        f = read_frame(m, false);
        assert_int_equal(f.rip, AT_USER);
        assert_int_equal(f.cs, SEL_USER64);
        assert_int_equal(f.rsp, USER_STACK_TOP - 8);
        assert_int_equal(f.rflags & ~RFLAGS_RF, RFLAGS_IF | RFLAGS_FIXED | RFLAGS_IOPL);
        /* Ring 0 data segments became null; the base of GS stays. */
        assert_int_equal(m->vcpu.state.seg[SEG_DS].selector, 0);
        assert_true(m->vcpu.state.seg[SEG_DS].unusable);
        assert_int_equal(m->vcpu.state.seg[SEG_GS].base, 0x7fff0000);
        assert_false(m->vcpu.state.nmi_masked);
}

static void iretq_checks_its_frame(void **state)
{
        static const struct {
                u64 rip, cs, ss;
                unsigned vector, error;
        } cases[] = {
                { AT_USER, SEL_USER64, 0, EXC_GP, 0 },               /* null SS for ring 3 */
                { AT_USER, 0, SEL_USER_DATA, EXC_GP, 0 },            /* null CS */
                { AT_USER, SEL_USER_DATA, SEL_USER_DATA, EXC_GP, SEL_USER_DATA & ~3 },
                { AT_USER, SEL_USER64, SEL_DATA | 3, EXC_GP, SEL_DATA },
                { 1ULL << 47, SEL_USER64, SEL_USER_DATA, EXC_GP, 0 }, /* not canonical */
                { AT_USER, SEL_BEYOND | 3, SEL_USER_DATA, EXC_GP, SEL_BEYOND },
        };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                machine_long(m);
                PUT_CODE(m, AT_CODE, iretq_64);
                put_iret_frame(m, cases[i].rip, cases[i].cs, RFLAGS_FIXED, USER_STACK_TOP, cases[i].ss);
                expect_vector(m, cases[i].vector);
                assert_int_equal(read_frame(m, true).error, cases[i].error);
                assert_int_equal(read_frame(m, true).rip, AT_CODE);
                assert_int_equal(read_frame(m, true).rsp, STACK_TOP - 40);
        }
        machine_long(m); /* NT has no meaning but #GP in IA-32e mode */
        PUT_CODE(m, AT_CODE, iretq_64);
        put_iret_frame(m, AT_USER, SEL_USER64, RFLAGS_FIXED, USER_STACK_TOP, SEL_USER_DATA);
        m->vcpu.state.rflags |= RFLAGS_NT;
        expect_vector(m, EXC_GP);
}

GUEST_CODE(syscall_user, 64, "syscall\n ud2");
GUEST_CODE(sysretq_64, 64, "sysretq");
GUEST_CODE(hlt_64, 64, "hlt");

static void syscall_and_sysret_change_rings(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;

        machine_long(m);
        machine_user(m, true);
        PUT_CODE(m, AT_USER, syscall_user);
        PUT_CODE(m, AT_CODE, hlt_64);
        cpu->lstar = AT_CODE;
        cpu->star = (u64)SEL_CODE64 << 32 | (u64)(SEL_USER32) << 48;
        cpu->sfmask = RFLAGS_IF | RFLAGS_TF;
        cpu->rflags |= RFLAGS_IF | RFLAGS_CF;
        expect_halt_in(m, AT_CODE);
        assert_int_equal(cpu->gpr[RCX], AT_USER + 2);
        assert_int_equal(cpu->gpr[R11], RFLAGS_FIXED | RFLAGS_IF | RFLAGS_CF);
        assert_int_equal(cpu->rflags, RFLAGS_FIXED | RFLAGS_CF);
        assert_int_equal(cpu->cpl, 0);
        assert_int_equal(cpu->seg[SEG_CS].selector, SEL_CODE64);
        assert_int_equal(cpu->seg[SEG_SS].selector, SEL_CODE64 + 8);

        PUT_CODE(m, AT_CODE, sysretq_64);
        cpu->rip = AT_CODE;
        expect_vector(m, EXC_UD);
        assert_int_equal(read_frame(m, false).rip, AT_USER + 2);
        assert_int_equal(read_frame(m, false).cs, (SEL_USER32 + 16) | 3);
        assert_int_equal(read_frame(m, false).ss, (SEL_USER32 + 8) | 3);
        assert_int_equal(read_frame(m, false).rflags & ~RFLAGS_RF, RFLAGS_FIXED | RFLAGS_IF | RFLAGS_CF);
}

/* ---- far transfers ---- */

GUEST_CODE(ljmp_64, 64, "ljmp *(%rbx)\n hlt");
GUEST_CODE(lcall_gate_32, 32, "push $0x1111\n push $0x2222\n lcall $0x60, $0\n ud2");
GUEST_CODE(lret8_32, 32, "mov 8(%esp), %eax\n mov 12(%esp), %ebx\n lret $8");
GUEST_CODE(hlt_32, 32, "hlt");
GUEST_CODE(lcall_gate_64, 64, "lcall *(%rbx)\n ud2");

static void far_jump_enters_compatibility_mode(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, ljmp_64);
        PUT_CODE(m, AT_USER, hlt_32);
        put64(m, AT_DATA, AT_USER | (u64)SEL_CODE32 << 32);
        m->vcpu.state.gpr[RBX] = AT_DATA;
        expect_halt_in(m, AT_USER);
        assert_int_equal(m->vcpu.state.seg[SEG_CS].selector, SEL_CODE32);
        assert_false(m->vcpu.state.seg[SEG_CS].attr & SEG_ATTR_L);
}

static void far_jump_faults_carry_the_selector(void **state)
{
        static const struct {
                unsigned selector, vector, error;
        } cases[] = {
                { 0, EXC_GP, 0 }, { SEL_DATA, EXC_GP, SEL_DATA }, { SEL_USER64, EXC_GP, SEL_USER64 & ~3u },
                { SEL_BEYOND, EXC_GP, SEL_BEYOND }, { SEL_TSS2, EXC_GP, SEL_TSS2 },
        };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                machine_long(m);
                PUT_CODE(m, AT_CODE, ljmp_64);
                put64(m, AT_DATA, AT_USER | (u64)cases[i].selector << 32);
                m->vcpu.state.gpr[RBX] = AT_DATA;
                expect_vector(m, cases[i].vector);
                assert_int_equal(read_frame(m, true).error, cases[i].error);
        }
}

static void call_gate_copies_parameters_and_returns_outward(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;
        u32 sp;

        machine_protected(m);
        machine_user(m, false);
        put_gdt(m, SEL_GATE, gate32(AT_CODE, SEL_CODE32, 0xec, 2));
        PUT_CODE(m, AT_USER, lcall_gate_32);
        PUT_CODE(m, AT_CODE, lret8_32);
        expect_vector(m, EXC_UD); /* of the UD2 behind the call */
        assert_int_equal(cpu->gpr[RAX], 0x2222);
        assert_int_equal(cpu->gpr[RBX], 0x1111);
        /* The parameters are gone from both stacks. */
        sp = (u32)cpu->gpr[RSP];
        assert_int_equal(get32(m, sp + 4), SEL_USER32);
        assert_int_equal(get32(m, sp + 12), USER_STACK_TOP);
        assert_int_equal(get32(m, sp + 16), SEL_USER_DATA);
}

static void call_gate_needs_its_dpl(void **state)
{
        machine *m = *state;

        machine_protected(m);
        machine_user(m, false);
        put_gdt(m, SEL_GATE, gate32(AT_CODE, SEL_CODE32, 0x8c, 2));
        PUT_CODE(m, AT_USER, lcall_gate_32);
        expect_vector(m, EXC_GP);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP]), SEL_GATE);
}

static void call_gate_target_must_be_in_the_segment(void **state)
{
        machine *m = *state;

        machine_protected(m);
        machine_user(m, false);
        put_gdt(m, SEL_GATE, gate32(0x12345, SEL_CODE16, 0xec, 0));
        PUT_CODE(m, AT_USER, lcall_gate_32);
        expect_vector(m, EXC_GP);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP]), 0);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP] + 8), SEL_USER32);
}

static void call_gate_in_long_mode_takes_rsp0(void **state)
{
        machine *m = *state;

        machine_long(m);
        machine_user(m, true);
        put_gdt(m, SEL_GATE, gate32(AT_CODE, SEL_CODE64, 0xec, 0));
        put_gdt(m, SEL_GATE + 8, 0);
        PUT_CODE(m, AT_USER, lcall_gate_64);
        PUT_CODE(m, AT_CODE, hlt_64);
        put64(m, AT_DATA, (u64)SEL_GATE << 32);
        m->vcpu.state.gpr[RBX] = AT_DATA;
        expect_halt_in(m, AT_CODE);
        assert_int_equal(m->vcpu.state.gpr[RSP], RSP0_TOP - 32);
        assert_int_equal(get64(m, RSP0_TOP - 32), AT_USER + 2);
        assert_int_equal(get64(m, RSP0_TOP - 24), SEL_USER64);
        assert_int_equal(get64(m, RSP0_TOP - 16), USER_STACK_TOP);
        assert_int_equal(get64(m, RSP0_TOP - 8), SEL_USER_DATA);
}

/* ---- tasks ---- */

GUEST_CODE(lcall_task_32, 32, "lcall $0x50, $0\n hlt");
GUEST_CODE(ljmp_task_32, 32, "ljmp $0x50, $0\n hlt");
GUEST_CODE(task_iret_32, 32, "mov $7, %ecx\n iret");

static void put_task(machine *m, u32 eip, u32 cs, u32 ss)
{
        put32(m, AT_TSS2 + 0x20, eip);
        put32(m, AT_TSS2 + 0x24, RFLAGS_FIXED);
        put32(m, AT_TSS2 + 0x38, USER_STACK_TOP);
        for (unsigned i = 0; i < 6; i++)
                put32(m, AT_TSS2 + 0x48 + i * 4, SEL_DATA);
        put32(m, AT_TSS2 + 0x4c, cs);
        put32(m, AT_TSS2 + 0x50, ss);
        put32(m, AT_TSS2 + 0x60, 0);
}

static unsigned descriptor_type(machine *m, unsigned selector)
{
        return (unsigned)(get64(m, AT_GDT + selector) >> 40 & 0xf);
}

static void call_to_a_task_nests_and_iret_comes_back(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;

        machine_protected(m);
        put_task(m, AT_USER, SEL_CODE32, SEL_DATA);
        PUT_CODE(m, AT_CODE, lcall_task_32);
        PUT_CODE(m, AT_USER, task_iret_32);
        cpu->gpr[RCX] = 1;
        expect_halt_in(m, AT_CODE);
        assert_int_equal(cpu->gpr[RCX], 1);
        assert_int_equal(cpu->tr.selector, SEL_TSS);
        assert_int_equal(get32(m, AT_TSS2 + 0x2c), 7);                      /* saved ECX */
        assert_int_equal(get32(m, AT_TSS2) & 0xffff, SEL_TSS);              /* link */
        assert_int_equal(get32(m, AT_TSS2 + 0x24) & RFLAGS_NT, 0);          /* IRET clears NT in the image */
        assert_int_equal(descriptor_type(m, SEL_TSS), 11);
        assert_int_equal(descriptor_type(m, SEL_TSS2), 9);
        assert_true(cpu->paging.cr0 & CR0_TS);
}

static void jump_to_a_task_moves_the_busy_bit(void **state)
{
        machine *m = *state;

        machine_protected(m);
        put_task(m, AT_USER, SEL_CODE32, SEL_DATA);
        PUT_CODE(m, AT_CODE, ljmp_task_32);
        PUT_CODE(m, AT_USER, hlt_32);
        expect_halt_in(m, AT_USER);
        assert_int_equal(m->vcpu.state.tr.selector, SEL_TSS2);
        assert_int_equal(descriptor_type(m, SEL_TSS), 9);
        assert_int_equal(descriptor_type(m, SEL_TSS2), 11);
        assert_int_equal(get32(m, AT_TSS + 0x20), AT_CODE + 7);
        assert_false(m->vcpu.state.rflags & RFLAGS_NT);
}

static void task_gate_pushes_the_error_code(void **state)
{
        machine *m = *state;

        machine_protected(m);
        put_task(m, AT_USER, SEL_CODE32, SEL_DATA);
        put64(m, AT_IDT + EXC_GP * 8, gate32(0, SEL_TSS2, 0x85, 0));
        PUT_CODE(m, AT_CODE, mov_ds_64); /* the same bytes in 32-bit code */
        PUT_CODE(m, AT_USER, hlt_32);
        m->vcpu.state.gpr[RAX] = SEL_BEYOND;
        expect_halt_in(m, AT_USER);
        assert_int_equal(m->vcpu.state.gpr[RSP], USER_STACK_TOP - 4);
        assert_int_equal(get32(m, USER_STACK_TOP - 4), SEL_BEYOND);
        assert_int_equal(get32(m, AT_TSS + 0x20), AT_CODE);
        assert_true(get32(m, AT_TSS + 0x24) & RFLAGS_RF);
        assert_true(m->vcpu.state.rflags & RFLAGS_NT);
}

static void bad_segment_of_a_task_is_its_own_fault(void **state)
{
        machine *m = *state;

        machine_protected(m);
        put_task(m, AT_USER, SEL_CODE32, SEL_DATA);
        put32(m, AT_TSS2 + 0x54, SEL_BEYOND); /* DS */
        PUT_CODE(m, AT_CODE, ljmp_task_32);
        expect_vector(m, EXC_TS);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP]), SEL_BEYOND);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP] + 4), AT_USER); /* EIP of the new task */
        assert_int_equal(m->vcpu.state.tr.selector, SEL_TSS2);
}

static void busy_task_cannot_be_called(void **state)
{
        machine *m = *state;

        machine_protected(m);
        put_gdt(m, SEL_TSS2, DESC(AT_TSS2, 0x67, 0x8b));
        PUT_CODE(m, AT_CODE, lcall_task_32);
        expect_vector(m, EXC_GP);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP]), SEL_TSS2);
}

/* ---- virtual-8086 and real mode ---- */

GUEST_CODE(int21_16, 16, "int $0x21\n hlt");
GUEST_CODE(iret_32, 32, "iret");

static void enter_vm86(machine *m, u64 rflags)
{
        const u32 frame[] = { 0, AT_USER >> 4, (u32)(rflags | RFLAGS_VM | RFLAGS_FIXED), 0x800, 0x2000, 0x111, 0x222, 0x333, 0x444 };

        machine_protected(m);
        PUT_CODE(m, AT_CODE, iret_32);
        PUT_CODE(m, AT_USER, int21_16);
        put_bytes(m, STACK_TOP - sizeof(frame), frame, sizeof(frame));
        m->vcpu.state.gpr[RSP] = STACK_TOP - sizeof(frame);
        put_gate32(m, 0x21, stub_of(0x21), SEL_CODE32, 0xee);
}

static void interrupt_from_vm86_saves_and_clears_segments(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;
        const u32 expected[] = { 2, AT_USER >> 4, 0, 0x800, 0x2000, 0x111, 0x222, 0x333, 0x444 };

        enter_vm86(m, RFLAGS_IOPL);
        expect_vector(m, 0x21);
        assert_int_equal(cpu->gpr[RSP], RSP0_TOP - 36);
        for (unsigned i = 0; i < ARRAY_SIZE(expected); i++)
                if (i != 2)
                        assert_int_equal(get32(m, cpu->gpr[RSP] + i * 4), expected[i]);
        assert_true(get32(m, cpu->gpr[RSP] + 8) & RFLAGS_VM);
        assert_false(cpu->rflags & RFLAGS_VM);
        assert_int_equal(cpu->seg[SEG_DS].selector, 0);
        assert_true(cpu->seg[SEG_GS].unusable);
        assert_int_equal(cpu->cpl, 0);
}

static void soft_int_in_vm86_needs_iopl_3(void **state)
{
        machine *m = *state;

        enter_vm86(m, 0);
        expect_vector(m, EXC_GP);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP]), 0);
        assert_int_equal(get32(m, m->vcpu.state.gpr[RSP] + 4), 0); /* IP of the INT */
}

static void real_mode_uses_the_vector_table(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;

        for (unsigned i = 0; i < SEG_COUNT; i++)
                cpu->seg[i] = make_seg(0, 0, 0xffff, i == SEG_CS ? 0x9b : 0x93);
        cpu->idtr = (struct dtable){ 0, 0x3ff };
        cpu->rip = AT_CODE;
        cpu->gpr[RSP] = 0xabcd0000;
        cpu->rflags = RFLAGS_FIXED | RFLAGS_IF;
        cpu->paging.cr0 = CR0_ET;
        cpu->cpl = 0;
        PUT_CODE(m, AT_CODE, int21_16);
        put32(m, 0x21 * 4, 0x0900 << 16 | 0x10); /* 0900:0010 */
        PUT_CODE(m, AT_USER + 0x10, hlt_32);
        assert_int_equal(machine_run(m), EXIT_HALTED);
        assert_int_equal(cpu->seg[SEG_CS].base, 0x9000);
        assert_int_equal(cpu->rip, 0x11);
        assert_int_equal(cpu->gpr[RSP], 0xabcdfffa);
        assert_int_equal(get64(m, 0xfffa) & 0xffffffffffff, (AT_CODE + 2) | (u64)(RFLAGS_FIXED | RFLAGS_IF) << 32);
        assert_false(cpu->rflags & RFLAGS_IF);
}

/* ---- control registers ---- */

GUEST_CODE(mov_cr0_64, 64, "mov %rax, %cr0\n hlt");
GUEST_CODE(mov_cr3_64, 64, "mov %rax, %cr3\n hlt");
GUEST_CODE(mov_cr4_64, 64, "mov %rax, %cr4\n hlt");
GUEST_CODE(to_long_32, 32, "mov %eax, %cr0\n ljmp $0x08, $0x9000");

static void control_register_writes_are_checked(void **state)
{
        const struct {
                const u8 *start, *end;
                u64 value;
                bool ok;
        } cases[] = {
                { mov_cr0_64_start, mov_cr0_64_end, CR0_PG, false },                   /* PG without PE */
                { mov_cr0_64_start, mov_cr0_64_end, CR0_PG | CR0_PE | CR0_NW, false }, /* NW without CD */
                { mov_cr0_64_start, mov_cr0_64_end, CR0_PE, false },                   /* no paging in 64-bit mode */
                { mov_cr0_64_start, mov_cr0_64_end, BIT(32) | CR0_PG | CR0_PE, false },
                { mov_cr0_64_start, mov_cr0_64_end, CR0_PG | CR0_PE | CR0_TS, true },
                { mov_cr3_64_start, mov_cr3_64_end, AT_PML4 | BIT(MMU_MAXPHYADDR), false },
                { mov_cr3_64_start, mov_cr3_64_end, AT_PML4 | BIT(63), false }, /* without PCIDs */
                { mov_cr3_64_start, mov_cr3_64_end, AT_PML4, true },
                { mov_cr4_64_start, mov_cr4_64_end, 0, false },                 /* PAE cannot go */
                { mov_cr4_64_start, mov_cr4_64_end, CR4_PAE | BIT(31), false },
                { mov_cr4_64_start, mov_cr4_64_end, CR4_PAE | CR4_PCIDE, true },
                { mov_cr4_64_start, mov_cr4_64_end, CR4_PAE | CR4_PGE, true },
        };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                machine_long(m);
                put_bytes(m, AT_CODE, cases[i].start, (size_t)(cases[i].end - cases[i].start));
                m->vcpu.state.gpr[RAX] = cases[i].value;
                if (cases[i].ok) {
                        expect_halt_in(m, AT_CODE);
                } else {
                        expect_vector(m, EXC_GP);
                        assert_int_equal(read_frame(m, true).error, 0);
                        assert_int_equal(read_frame(m, true).rip, AT_CODE);
                }
        }
}

static void paging_with_lme_enters_long_mode(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;

        machine_long(m);
        machine_protected(m);
        cpu->paging.efer = EFER_LME;
        cpu->paging.cr3 = AT_PML4;
        cpu->paging.cr4 = CR4_PAE;
        cpu->gpr[RAX] = CR0_PG | CR0_PE | CR0_NE;
        PUT_CODE(m, AT_CODE, to_long_32);
        PUT_CODE(m, AT_USER, hlt_64);
        expect_halt_in(m, AT_USER);
        assert_true(cpu->paging.efer & EFER_LMA);
        assert_true(cpu_64bit(cpu));
}

/* ---- ports ---- */

GUEST_CODE(in_64, 64, "inw %dx, %ax\n ud2");

static void io_map_decides_in_user_code(void **state)
{
        static const struct {
                unsigned port, vector;
        } cases[] = { { 0x60, EXC_UD }, { 0x62, EXC_GP }, { 0x61, EXC_GP }, { 0x63, EXC_UD }, { 0x3ff0, EXC_GP } };
        machine *m = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const u8 map[16] = { [0x62 / 8] = 1 << 2 }; /* port 0x62 is forbidden */

                machine_long(m);
                machine_user(m, true);
                m->vcpu.state.tr.limit = 0x68 + 15;
                put32(m, AT_TSS + 0x64, 0x68 << 16);
                put_bytes(m, AT_TSS + 0x68, map, sizeof(map));
                PUT_CODE(m, AT_USER, in_64);
                m->vcpu.state.gpr[RDX] = cases[i].port;
                expect_vector(m, cases[i].vector);
        }
}

/* ---- debugging ---- */

GUEST_CODE(popf_tf_64, 64, "push %rax\n popf\n nop\n nop\n hlt");
GUEST_CODE(mov_ss_tf_64, 64, "push %rax\n popf\n mov %ecx, %ss\n nop\n hlt");
GUEST_CODE(store_64, 64, "mov %rcx, (%rbx)\n nop\n hlt");
GUEST_CODE(nops_64, 64, "nop\n nop\n nop\n hlt");
GUEST_CODE(int1_64, 64, ".byte 0xf1\n hlt");
GUEST_CODE(mov_dr_64, 64, "mov %dr3, %rax\n hlt");

static void tf_traps_after_the_next_instruction(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, popf_tf_64);
        m->vcpu.state.gpr[RAX] = RFLAGS_TF | RFLAGS_FIXED;
        expect_vector(m, EXC_DB);
        assert_int_equal(read_frame(m, false).rip, AT_CODE + 3);
        assert_int_equal(read_frame(m, false).rflags, RFLAGS_FIXED | RFLAGS_TF);
        assert_int_equal(m->vcpu.state.dr[6] & 0xf00f, BIT(14));
        assert_false(m->vcpu.state.rflags & RFLAGS_TF);
}

static void mov_ss_holds_the_step_trap(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, mov_ss_tf_64);
        m->vcpu.state.gpr[RAX] = RFLAGS_TF | RFLAGS_FIXED;
        m->vcpu.state.gpr[RCX] = SEL_DATA;
        expect_vector(m, EXC_DB);
        assert_int_equal(read_frame(m, false).rip, AT_CODE + 5);
}

static void data_breakpoint_traps_after_the_write(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, store_64);
        cpu->gpr[RBX] = AT_DATA;
        cpu->gpr[RCX] = 42;
        cpu->dr[1] = AT_DATA + 4;
        cpu->dr[7] = 0x400 | BIT(2) | 0xdULL << 20; /* DR1: 4 bytes, write */
        expect_vector(m, EXC_DB);
        assert_int_equal(read_frame(m, false).rip, AT_CODE + 3);
        assert_int_equal(cpu->dr[6] & 0xf00f, BIT(1));
        assert_int_equal(get64(m, AT_DATA), 42);
}

static void data_breakpoint_elsewhere_is_quiet(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, store_64);
        cpu->gpr[RBX] = AT_DATA;
        cpu->dr[1] = AT_DATA + 8;
        cpu->dr[7] = 0x400 | BIT(2) | 0xdULL << 20;
        expect_halt_in(m, AT_CODE);
}

static void instruction_breakpoint_is_a_fault(void **state)
{
        machine *m = *state;
        struct cpu_state *cpu = &m->vcpu.state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, nops_64);
        cpu->dr[2] = AT_CODE + 1;
        cpu->dr[7] = 0x400 | BIT(4);
        expect_vector(m, EXC_DB);
        assert_int_equal(read_frame(m, false).rip, AT_CODE + 1);
        assert_int_equal(cpu->dr[6] & 0xf00f, BIT(2));

        machine_long(m); /* RF lets it pass once */
        cpu->rip = AT_CODE + 1;
        cpu->rflags |= RFLAGS_RF;
        expect_halt_in(m, AT_CODE);
}

static void int1_traps_without_dr6(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, int1_64);
        m->vcpu.state.dr[6] = 0xffff0ff0;
        expect_vector(m, EXC_DB);
        assert_int_equal(read_frame(m, false).rip, AT_CODE + 1);
        assert_int_equal(m->vcpu.state.dr[6], 0xffff0ff0);
}

static void general_detect_faults_and_clears_gd(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, mov_dr_64);
        m->vcpu.state.dr[7] = 0x400 | BIT(13);
        expect_vector(m, EXC_DB);
        assert_int_equal(read_frame(m, false).rip, AT_CODE);
        assert_true(m->vcpu.state.dr[6] & BIT(13));
        assert_int_equal(m->vcpu.state.dr[7], 0x400);
}

static void debugger_stops_at_its_points(void **state)
{
        machine *m = *state;
        struct vcpu_debug *debug = &m->vcpu.debug;

        machine_long(m);
        PUT_CODE(m, AT_CODE, store_64);
        m->vcpu.state.gpr[RBX] = AT_DATA;
        debug->n_points = 2;
        debug->points[0] = (struct debug_point){ DEBUG_WATCH_WRITE, AT_DATA, 8 };
        debug->points[1] = (struct debug_point){ DEBUG_BREAK, AT_CODE + 4, 1 };
        assert_int_equal(machine_run(m), EXIT_DEBUG);
        assert_int_equal(debug->hit_point, 0);
        assert_int_equal(debug->hit_gva, AT_DATA);
        assert_int_equal(m->vcpu.state.rip, AT_CODE + 3);
        assert_int_equal(machine_run(m), EXIT_DEBUG);
        assert_int_equal(debug->hit_point, 1);
        assert_int_equal(m->vcpu.state.rip, AT_CODE + 4);
        debug->n_points = 0;
        debug->single_step = true;
        m->vcpu.state.rip = AT_CODE;
        assert_int_equal(machine_run(m), EXIT_DEBUG);
        assert_true(debug->hit_step);
        assert_int_equal(m->vcpu.state.rip, AT_CODE + 3);
}

static void debugger_step_into_a_fault_stops_at_the_handler(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, ud2_64);
        m->vcpu.debug.single_step = true;
        assert_int_equal(machine_run(m), EXIT_DEBUG);
        assert_int_equal(m->vcpu.state.rip, stub_of(EXC_UD));
}

/* Handlers go on by tail calls: a loop of system instructions must not eat the stack. */
GUEST_CODE(many_64, 64, "1: pushf\n popf\n push %fs\n pop %fs\n lar %eax, %ebx\n sgdt (%rsi)\n cpuid\n mov $0x10, %eax\n in %dx, %al\n"
                        " mov %cr0, %rbx\n lsl %eax, %ebx\n dec %rdi\n jnz 1b\n hlt");

static void long_loops_of_system_code_do_not_nest(void **state)
{
        machine *m = *state;

        machine_long(m);
        PUT_CODE(m, AT_CODE, many_64);
        m->vcpu.state.gpr[RAX] = SEL_DATA;
        m->vcpu.state.gpr[RSI] = AT_DATA;
        m->vcpu.state.gpr[RDI] = 20000;
        m->vcpu.state.gpr[RDX] = 0x80;
        m->vcpu.state.seg[SEG_FS] = (struct seg){ .unusable = true };
        expect_halt_in(m, AT_CODE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, machine_setup, machine_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(fault_uses_ist_stack_and_sets_rf),
                TEST(same_ring_delivery_aligns_the_stack),
                TEST(fault_in_ring_3_switches_to_rsp0_and_null_ss),
                TEST(soft_int_needs_gate_dpl),
                TEST(soft_int_returns_behind_itself),
                TEST(trap_gate_keeps_if),
                TEST(missing_gate_error_tells_ext),
                TEST(handler_segment_must_be_64_bit_code),
                TEST(contributory_fault_in_delivery_is_a_double_fault),
                TEST(fault_while_delivering_double_fault_shuts_down),
                TEST(benign_fault_then_contributory_is_serial),
                TEST(segment_load_faults_carry_the_selector),
                TEST(segment_load_sets_accessed),
                TEST(stack_segment_must_match_cpl),
                TEST(lar_lsl_verr_verw_answer_in_zf),
                TEST(iretq_enters_ring_3),
                TEST(iretq_checks_its_frame),
                TEST(syscall_and_sysret_change_rings),
                TEST(far_jump_enters_compatibility_mode),
                TEST(far_jump_faults_carry_the_selector),
                TEST(call_gate_copies_parameters_and_returns_outward),
                TEST(call_gate_needs_its_dpl),
                TEST(call_gate_target_must_be_in_the_segment),
                TEST(call_gate_in_long_mode_takes_rsp0),
                TEST(call_to_a_task_nests_and_iret_comes_back),
                TEST(jump_to_a_task_moves_the_busy_bit),
                TEST(task_gate_pushes_the_error_code),
                TEST(bad_segment_of_a_task_is_its_own_fault),
                TEST(busy_task_cannot_be_called),
                TEST(interrupt_from_vm86_saves_and_clears_segments),
                TEST(soft_int_in_vm86_needs_iopl_3),
                TEST(real_mode_uses_the_vector_table),
                TEST(control_register_writes_are_checked),
                TEST(paging_with_lme_enters_long_mode),
                TEST(io_map_decides_in_user_code),
                TEST(tf_traps_after_the_next_instruction),
                TEST(mov_ss_holds_the_step_trap),
                TEST(data_breakpoint_traps_after_the_write),
                TEST(data_breakpoint_elsewhere_is_quiet),
                TEST(instruction_breakpoint_is_a_fault),
                TEST(int1_traps_without_dr6),
                TEST(general_detect_faults_and_clears_gd),
                TEST(debugger_stops_at_its_points),
                TEST(debugger_step_into_a_fault_stops_at_the_handler),
                TEST(long_loops_of_system_code_do_not_nest),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

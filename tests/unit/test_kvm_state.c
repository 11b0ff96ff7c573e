/* State goes into KVM and comes out: registers, interrupt chips, events in flight. And what a debugger sees. */
#include "cpu/cpuid_model.h"
#include "kvm_test.h"

GUEST_CODE(spin, 64,
           "xor %eax, %eax\n"
           "1: inc %rax\n"
           "jmp 1b\n");

GUEST_CODE(long, 64,
           "mov $0x1122334455667788, %rax\n"
           "push %rax\n"
           "mov %rsp, %r9\n"
           "mov (%r9), %r8\n"
           "shr $32, %r8\n"
           "mov %r8d, %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

/* ---- state in and out ---- */

static u64 seed = 0x9e3779b97f4a7c15;

static u64 rnd(void)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return seed;
}

/* Long-mode kernel code with everything set that KVM on any host takes. */
static void scramble(struct cpu_state *cpu)
{
        for (unsigned i = 0; i < GPR_COUNT; i++)
                cpu->gpr[i] = rnd();
        cpu->rflags = RFLAGS_FIXED | (rnd() & (RFLAGS_ARITH | RFLAGS_DF | RFLAGS_AC | RFLAGS_ID));
        cpu->seg[SEG_FS].base = rnd() >> 18;
        cpu->seg[SEG_GS].base = 0xffff888000000000 | (rnd() & 0xffffff);
        cpu->seg[SEG_ES] = (struct seg){ .unusable = true, .attr = 0xc000, .limit = 0xffffffff };
        cpu->tr = (struct seg){ .selector = 0x40, .base = 0xfffffe0000003000, .limit = 0x206f, .attr = 0x8b };
        cpu->gdtr = (struct dtable){ .base = 0xfffffe0000001000, .limit = 0x7f };
        cpu->idtr = (struct dtable){ .base = 0xfffffe0000000000, .limit = 0xfff };
        cpu->cr2 = rnd() >> 17;
        cpu->dr[0] = rnd() >> 17;
        cpu->dr[3] = rnd() >> 17;
        cpu->dr[6] = 0xffff0ff0 | (rnd() & 0xf);
        cpu->star = rnd();
        cpu->lstar = rnd() >> 17;
        cpu->cstar = rnd() >> 17;
        cpu->sfmask = rnd() & 0x47700;
        cpu->kernel_gs_base = rnd() >> 17;
        cpu->sysenter_cs = 0x10;
        cpu->sysenter_eip = rnd() >> 17;
        cpu->sysenter_esp = rnd() >> 17;
        cpu->pat = 0x0007010600070106;
        cpu->tsc_aux = rnd() & 0xffffffff;
        cpu->tsc_offset = in_hardware ? rnd() >> 20 : 0; /* without hardware KVM has none */
        cpu->tsc_adjust = rnd() >> 20;
        cpu->mtrr_def_type = 0xc06;
        cpu->mtrr_fixed[0] = 0x0606060606060606;
        cpu->mtrr_fixed[5] = 0x0505050505050505;
        cpu->mtrr_base[2] = 0xc0000000;
        cpu->mtrr_mask[2] = 0x3fffc0000800;
        for (unsigned i = 32; i < 416; i++)
                cpu->xsave[i] = (u8)rnd();
        for (unsigned i = 32; i < 160; i += 16) /* the upper 6 bytes of an x87 register's place are reserved */
                memset(cpu->xsave + i + 10, 0, 6);
        for (unsigned i = XSAVE_YMM_OFFSET; i < XSAVE_SIZE && cpuid_has(CPUID_AVX); i++)
                cpu->xsave[i] = (u8)rnd();
        memcpy(cpu->xsave, &(u16){ 0x27f }, 2);
}

#define CHECK_FIELD(field) assert_memory_equal(&a->field, &b->field, sizeof(a->field))

static void check_segment(const struct seg *a, const struct seg *b)
{
        assert_int_equal(a->selector, b->selector);
        assert_int_equal(a->base, b->base);
        assert_int_equal(a->unusable, b->unusable);
        if (!a->unusable) {
                assert_int_equal(a->limit, b->limit);
                assert_int_equal(a->attr, b->attr);
        }
}

static void check_states_equal(const struct cpu_state *a, const struct cpu_state *b)
{
        CHECK_FIELD(gpr);
        CHECK_FIELD(rip);
        CHECK_FIELD(rflags);
        for (unsigned i = 0; i < SEG_COUNT; i++)
                check_segment(&a->seg[i], &b->seg[i]);
        check_segment(&a->tr, &b->tr);
        check_segment(&a->ldtr, &b->ldtr);
        assert_int_equal(a->gdtr.base, b->gdtr.base);
        assert_int_equal(a->gdtr.limit, b->gdtr.limit);
        assert_int_equal(a->idtr.base, b->idtr.base);
        assert_int_equal(a->idtr.limit, b->idtr.limit);
        CHECK_FIELD(paging.cr0);
        CHECK_FIELD(paging.cr3);
        CHECK_FIELD(paging.cr4);
        CHECK_FIELD(paging.efer);
        CHECK_FIELD(cr2);
        CHECK_FIELD(dr);
        CHECK_FIELD(xcr0);
        assert_memory_equal(a->xsave, b->xsave, 416);
        if (cpuid_has(CPUID_AVX))
                assert_memory_equal(a->xsave + XSAVE_YMM_OFFSET, b->xsave + XSAVE_YMM_OFFSET, XSAVE_SIZE - XSAVE_YMM_OFFSET);
        /* All MSRs and what follows them. */
        assert_memory_equal(&a->star, &b->star, offsetof(struct cpu_state, cpl) - offsetof(struct cpu_state, star));
        CHECK_FIELD(cpl);
        CHECK_FIELD(halted);
        CHECK_FIELD(wait_for_sipi);
        CHECK_FIELD(nmi_pending);
        CHECK_FIELD(nmi_masked);
        CHECK_FIELD(sti_shadow);
        CHECK_FIELD(mov_ss_shadow);
}

/* Takes away what KVM fills in, so that a field that it forgets is noticed. Fields that KVM may lack keep their value. */
static void forget(struct cpu_state *cpu)
{
        const struct cpu_state kept = *cpu;

        memset(cpu, 0, sizeof(*cpu));
        cpu->xcr0 = kept.xcr0;
        cpu->spec_ctrl = kept.spec_ctrl;
        cpu->smbase = kept.smbase;
}

/* Into the kernel and out again without running an instruction. */
static void pass_through(struct cpu_guest *g)
{
        const struct cpu_state before = g->vcpu.state;

        kvm_engine.state_changed(&g->vcpu);
        vcpu_post_work(&g->vcpu, VCPU_WORK_STOP);
        assert_int_equal(cpu_guest_run(g), EXIT_KICKED);
        forget(&g->vcpu.state);
        vcpu_post_work(&g->vcpu, VCPU_WORK_STOP);
        assert_int_equal(cpu_guest_run(g), EXIT_KICKED);
        check_states_equal(&before, &g->vcpu.state);
}

static void state_goes_in_and_out_unchanged(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        pass_through(&g); /* reset state */
        cpu_guest_long(&g, guest_spin, guest_spin_end);
        for (unsigned i = 0; i < 20; i++) {
                scramble(&g.vcpu.state);
                g.vcpu.state.nmi_masked = i & 1;
                g.vcpu.state.nmi_pending = i & 2;
                g.vcpu.state.sti_shadow = i & 4;
                g.vcpu.state.halted = i & 8;
                pass_through(&g);
        }
        cpu_guest_free(&g);
}

static void user_mode_goes_in_and_out_unchanged(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_spin, guest_spin_end);
        g.vcpu.state.cpl = 3;
        g.vcpu.state.seg[SEG_CS].selector = 0x33;
        g.vcpu.state.seg[SEG_CS].attr |= SEG_ATTR_DPL;
        g.vcpu.state.seg[SEG_SS].selector = 0x2b;
        g.vcpu.state.seg[SEG_SS].attr |= SEG_ATTR_DPL;
        g.vcpu.state.rflags |= RFLAGS_IF;
        pass_through(&g);
        cpu_guest_free(&g);
}

/* SS is null in a 64-bit kernel after an interrupt: its DPL is still the CPL. */
static void a_null_stack_segment_keeps_the_cpl(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_long, guest_long_end);
        g.vcpu.state.seg[SEG_SS] = (struct seg){ .unusable = true, .attr = SEG_ATTR_DPL };
        pass_through(&g);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.out[0], 0x11223344);
        cpu_guest_free(&g);
}

static void states_that_kvm_cannot_run_are_refused(void **state)
{
        struct cpu_state before;
        struct cpu_guest g;
        struct err *err = NULL;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        before = g.vcpu.state;
        g.vcpu.state.xcr0 = 0xe7; /* AVX-512 is not in the model, so no KVM gives it to a guest */
        kvm_engine.vcpu_destroy(&g.vcpu);
        assert_true(kvm_engine.vcpu_create(&g.vcpu, &err) < 0);
        assert_non_null(strstr(err_message(err), "XSAVE"));
        err_free(err);
        g.vcpu.state = before;
        assert_int_equal(kvm_engine.vcpu_create(&g.vcpu, NULL), 0);
        cpu_guest_free(&g);
}

/* ---- interrupt chips ---- */

static void interrupt_chips_go_in_and_out_unchanged(void **state)
{
        struct kvm_ioapic_registers ioapic = { .id = 3, .select = 0x12 }, ioapic2;
        struct kvm_pic_chip pic[2] = { { .imr = 0xfa, .vector_base = 0x30, .elcr = 0x20, .priority_top = 3, .isr = 4 },
                                       { .imr = 0xff, .vector_base = 0x38, .elcr = 0x0c, .special_mask = true } };
        struct kvm_pic_chip pic2[2];
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        for (unsigned i = 0; i < KVM_IOAPIC_REDIRECTIONS; i++)
                ioapic.redirection[i] = BIT(16) | (0x30 + i) | (i & 1 ? BIT(15) : 0); /* masked, odd ones level */
        ioapic.pins = BIT(5);
        assert_int_equal(kvm_ioapic_set(g.machine, &ioapic, NULL), 0);
        assert_int_equal(kvm_ioapic_get(g.machine, &ioapic2, NULL), 0);
        assert_int_equal(ioapic.id, ioapic2.id);
        assert_int_equal(ioapic.select, ioapic2.select);
        assert_int_equal(ioapic.pins, ioapic2.pins);
        assert_memory_equal(ioapic.redirection, ioapic2.redirection, sizeof(ioapic.redirection));
        assert_int_equal(kvm_pic_set(g.machine, pic, NULL), 0);
        assert_int_equal(kvm_pic_get(g.machine, pic2, NULL), 0);
        for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(pic[i].imr, pic2[i].imr);
                assert_int_equal(pic[i].isr, pic2[i].isr);
                assert_int_equal(pic[i].vector_base, pic2[i].vector_base);
                assert_int_equal(pic[i].elcr, pic2[i].elcr);
                assert_int_equal(pic[i].priority_top, pic2[i].priority_top);
                assert_int_equal(pic[i].special_mask, pic2[i].special_mask);
        }
        cpu_guest_free(&g);
}

static void a_lapic_goes_in_and_out_unchanged(void **state)
{
        u8 page[KVM_LAPIC_PAGE_SIZE], again[KVM_LAPIC_PAGE_SIZE];
        struct cpu_guest g;
        u64 deadline;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_spin, guest_spin_end);
        assert_int_equal(kvm_lapic_get(&g.vcpu, page, NULL), 0);
        memcpy(page + 0xf0, &(u32){ 0x1ff }, 4);  /* enabled, spurious vector */
        memcpy(page + 0x80, &(u32){ 0x20 }, 4);   /* TPR */
        memcpy(page + 0x320, &(u32){ 0x400ef }, 4); /* timer in TSC-deadline mode */
        memcpy(page + 0x210, &(u32){ 0x10 }, 4);  /* IRR: vector 0x24, below the TPR */
        assert_int_equal(kvm_lapic_set(&g.vcpu, page, NULL), 0);
        assert_int_equal(kvm_tsc_deadline_set(&g.vcpu, 1ULL << 62, NULL), 0);
        vcpu_post_work(&g.vcpu, VCPU_WORK_STOP);
        assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
        assert_int_equal(kvm_lapic_get(&g.vcpu, again, NULL), 0);
        assert_int_equal(kvm_tsc_deadline_get(&g.vcpu, &deadline, NULL), 0);
        assert_int_equal(deadline, 1ULL << 62);
        assert_memory_equal(page + 0xf0, again + 0xf0, 4);
        assert_memory_equal(page + 0x80, again + 0x80, 4);
        assert_memory_equal(page + 0x320, again + 0x320, 4);
        assert_memory_equal(page + 0x210, again + 0x210, 4);
        cpu_guest_free(&g);
}

/* Vector 0x55 counts in RBX and ends the interrupt; the main program spins with interrupts on. */
GUEST_CODE(count, 64,
           "mov $0xfee00000, %r15d\n"
           "movl $0x1ff, 0xf0(%r15)\n"
           "xor %ebx, %ebx\n"
           "sti\n"
           "1: inc %rax\n"
           "jmp 1b\n"
           ".balign 64\n"
           "inc %rbx\n"
           "movl $0, 0xb0(%r15)\n"
           "iretq\n");

/* A stop may come between the acknowledge of an interrupt and its delivery. Nothing may get lost then, also when the
 * state is loaded back. */
static void interrupts_survive_stops(void **state)
{
        const unsigned rounds = 300;
        struct cpu_guest g;
        u64 sent = 0;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_count, guest_count_end);
        cpu_guest_gate(&g, 0x55, 64);
        while (g.vcpu.state.gpr[RAX] == 0) {
                pthread_t thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 1000);

                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                pthread_join(thread, NULL);
        }
        for (unsigned i = 0; i < rounds; i++) {
                u64 seen = g.vcpu.state.gpr[RBX];
                pthread_t thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, (unsigned)(rnd() % 30));

                assert_int_equal(seen, sent);
                kvm_msi_send(g.machine, 0xfee00000, 0x55);
                sent++;
                kvm_engine.state_changed(&g.vcpu);
                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                pthread_join(thread, NULL);
                for (unsigned tries = 0; g.vcpu.state.gpr[RBX] != sent && tries < 100; tries++) {
                        kvm_engine.state_changed(&g.vcpu);
                        thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 500);
                        assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                        pthread_join(thread, NULL);
                }
        }
        assert_int_equal(g.vcpu.state.gpr[RBX], sent);
        cpu_guest_free(&g);
}

/* The same made certain: the kernel has acknowledged vector 0x55 (in service in the LAPIC) and was about to inject it. */
static void an_acknowledged_interrupt_goes_back_to_the_lapic(void **state)
{
        struct kvm_vcpu_events events = { 0 };
        u8 page[KVM_LAPIC_PAGE_SIZE];
        struct cpu_guest g;
        pthread_t thread;
        u32 irr, isr;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_count, guest_count_end);
        cpu_guest_gate(&g, 0x55, 64);
        while (g.vcpu.state.gpr[RAX] == 0) {
                thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 1000);
                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                pthread_join(thread, NULL);
        }
        assert_int_equal(kvm_lapic_get(&g.vcpu, page, NULL), 0);
        memcpy(page + 0x120, &(u32){ 1u << (0x55 - 0x40) }, 4);
        assert_int_equal(kvm_lapic_set(&g.vcpu, page, NULL), 0);
        events.interrupt.injected = 1;
        events.interrupt.nr = 0x55;
        assert_int_equal(kvm_ioctl(kvm_vcpu_of(&g.vcpu)->fd, KVM_SET_VCPU_EVENTS, &events), 0);
        vcpu_post_work(&g.vcpu, VCPU_WORK_STOP);
        assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
        assert_int_equal(kvm_lapic_get(&g.vcpu, page, NULL), 0);
        memcpy(&isr, page + 0x120, 4);
        memcpy(&irr, page + 0x220, 4);
        assert_int_equal(isr, 0);
        assert_int_equal(irr, 1u << (0x55 - 0x40));
        kvm_engine.state_changed(&g.vcpu);
        for (unsigned tries = 0; g.vcpu.state.gpr[RBX] == 0 && tries < 100; tries++) {
                thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 1000);
                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                pthread_join(thread, NULL);
        }
        assert_int_equal(g.vcpu.state.gpr[RBX], 1);
        cpu_guest_free(&g);
}

/* ---- debugging ---- */

GUEST_CODE(walk, 64,
           "mov $1, %eax\n"    /* 0: 5 bytes */
           "add $2, %eax\n"    /* 5: 3 */
           "nop\n"             /* 8: 1 */
           "movl $7, (0x20000)\n" /* 9: 11 */
           "nop\n"             /* 20 */
           "nop\n"             /* 21 */
           "nop\n"             /* 22 */
           "nop\n"             /* 23 */
           "nop\n"             /* 24 */
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void single_steps_stop_after_each_instruction(void **state)
{
        static const u8 lengths[] = { 5, 3, 1, 11, 1 };
        struct cpu_guest g;
        u64 rip = GUEST_CODE_AT;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_walk, guest_walk_end);
        g.vcpu.debug.single_step = true;
        for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
                assert_int_equal(cpu_guest_run(&g), EXIT_DEBUG);
                assert_true(g.vcpu.debug.hit_step);
                assert_int_equal(g.vcpu.debug.hit_point, -1);
                rip += lengths[i];
                assert_int_equal(g.vcpu.state.rip, rip);
                assert_false(g.vcpu.state.rflags & RFLAGS_TF);
        }
        assert_int_equal(g.vcpu.state.gpr[RAX], 3);
        g.vcpu.debug.single_step = false;
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        cpu_guest_free(&g);
}

static void add_point(struct cpu_guest *g, enum debug_point_kind kind, u64 gva, u64 len)
{
        g->vcpu.debug.points[g->vcpu.debug.n_points++] = (struct debug_point){ kind, gva, len };
}

static void breakpoints_stop_before_their_instruction(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_walk, guest_walk_end);
        add_point(&g, DEBUG_BREAK, GUEST_CODE_AT + 8, 1);
        assert_int_equal(cpu_guest_run(&g), EXIT_DEBUG);
        assert_int_equal(g.vcpu.debug.hit_point, 0);
        assert_int_equal(g.vcpu.state.rip, GUEST_CODE_AT + 8);
        g.vcpu.debug.points[0].gva = GUEST_CODE_AT + 1000;
        add_point(&g, DEBUG_BREAK, GUEST_CODE_AT + 20, 1);
        assert_int_equal(cpu_guest_run(&g), EXIT_DEBUG);
        assert_int_equal(g.vcpu.debug.hit_point, 1);
        assert_false(g.vcpu.debug.hit_step);
        assert_int_equal(g.vcpu.state.rip, GUEST_CODE_AT + 20);
        cpu_guest_free(&g);
}

/* The fifth breakpoint is an INT3 in memory. It is gone while the guest is stopped. */
static void breakpoints_go_on_when_debug_registers_run_out(void **state)
{
        struct cpu_guest g;
        u8 byte;

        NEEDS_KVM();
        NEEDS_HARDWARE();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_walk, guest_walk_end);
        for (u64 at = 20; at <= 24; at++)
                add_point(&g, DEBUG_BREAK, GUEST_CODE_AT + at, 1);
        g.vcpu.state.rip = GUEST_CODE_AT + 24;
        kvm_engine.state_changed(&g.vcpu);
        assert_int_equal(cpu_guest_run(&g), EXIT_DEBUG);
        assert_int_equal(g.vcpu.debug.hit_point, 4);
        assert_int_equal(g.vcpu.state.rip, GUEST_CODE_AT + 24);
        assert_int_equal(vcpu_peek(&g.vcpu, GUEST_CODE_AT + 24, &byte, 1), 1);
        assert_int_equal(byte, 0x90);
        cpu_guest_free(&g);
}

static void watchpoints_stop_after_the_access(void **state)
{
        struct cpu_guest g;
        u32 value;

        NEEDS_KVM();
        NEEDS_HARDWARE();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_walk, guest_walk_end);
        add_point(&g, DEBUG_WATCH_WRITE, 0x20000, 4);
        assert_int_equal(cpu_guest_run(&g), EXIT_DEBUG);
        assert_int_equal(g.vcpu.debug.hit_point, 0);
        assert_int_equal(g.vcpu.debug.hit_gva, 0x20000);
        assert_int_equal(g.vcpu.state.rip, GUEST_CODE_AT + 20);
        assert_int_equal(vcpu_peek(&g.vcpu, 0x20000, &value, 4), 4);
        assert_int_equal(value, 7);
        cpu_guest_free(&g);
}

static void the_clock_can_be_set(void **state)
{
        struct cpu_guest g;
        u64 ns;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        assert_int_equal(kvm_clock_set(g.machine, 1000000000000, NULL), 0);
        assert_int_equal(kvm_clock_get(g.machine, &ns, NULL), 0);
        assert_in_range(ns, 1000000000000, 1100000000000);
        cpu_guest_free(&g);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(state_goes_in_and_out_unchanged),
                cmocka_unit_test(user_mode_goes_in_and_out_unchanged),
                cmocka_unit_test(a_null_stack_segment_keeps_the_cpl),
                cmocka_unit_test(states_that_kvm_cannot_run_are_refused),
                cmocka_unit_test(interrupt_chips_go_in_and_out_unchanged),
                cmocka_unit_test(a_lapic_goes_in_and_out_unchanged),
                cmocka_unit_test(interrupts_survive_stops),
                cmocka_unit_test(an_acknowledged_interrupt_goes_back_to_the_lapic),
                cmocka_unit_test(single_steps_stop_after_each_instruction),
                cmocka_unit_test(breakpoints_stop_before_their_instruction),
                cmocka_unit_test(breakpoints_go_on_when_debug_registers_run_out),
                cmocka_unit_test(watchpoints_stop_after_the_access),
                cmocka_unit_test(the_clock_can_be_set),
        };

        look_at_kvm();
        alarm(100);
        return cmocka_run_group_tests_name("kvm_state", tests, NULL, NULL);
}

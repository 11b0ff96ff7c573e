/* The KVM engine runs small guests: modes, I/O, CPUID, MSRs, interrupts, two processors, doorbells, dirty log. */
#include <stdlib.h>
#include <sys/eventfd.h>

#include "cpu/cpuid_model.h"
#include "cpu/msr.h"
#include "kvm_test.h"

GUEST_CODE(real, 16,
           "mov $0x1234, %ax\n"
           "mov $0x00ff, %bx\n"
           "push %ax\n"
           "pop %cx\n"
           "add %bx, %cx\n"
           "mov %cx, %ax\n"
           "out %ax, $0x10\n"
           "mov %cs, %ax\n"
           "out %ax, $0x10\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void real_mode_code_runs(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_real(&g, guest_real, guest_real_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.n_out, 2);
        assert_int_equal(g.out[0], 0x1333);
        assert_int_equal(g.out[1], 0);
        cpu_guest_free(&g);
}

GUEST_CODE(protected, 32,
           "mov $0x12345678, %eax\n"
           "push %eax\n"
           "xor %eax, %eax\n"
           "pop %ecx\n"
           "lea 0x11111111(%ecx), %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void protected_mode_code_runs(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_protected(&g, guest_protected, guest_protected_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.n_out, 1);
        assert_int_equal(g.out[0], 0x23456789);
        cpu_guest_free(&g);
}

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

static void long_mode_code_runs(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_long, guest_long_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.n_out, 1);
        assert_int_equal(g.out[0], 0x11223344);
        /* And it came to rest after the OUT, not on it. */
        assert_int_equal(g.vcpu.state.gpr[R8], 0x11223344);
        assert_int_equal(g.vcpu.state.rip, GUEST_CODE_AT + (guest_long_end - guest_long) - 3);
        cpu_guest_free(&g);
}

GUEST_CODE(ports, 64,
           "in $0x14, %al\n"
           "out %al, $0x10\n"
           "mov $0x20000, %edi\n"
           "mov $4, %ecx\n"
           "mov $0x14, %edx\n"
           "cld\n"
           "rep insb\n"
           "mov (0x20000), %eax\n"
           "out %eax, $0x10\n"
           "mov $0x20000, %esi\n"
           "mov $4, %ecx\n"
           "mov $0x10, %edx\n"
           "rep outsb\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void port_io_reaches_devices_also_by_strings(void **state)
{
        static const u64 expected[] = { 0x11, 0x15141312, 0x12, 0x13, 0x14, 0x15 };
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_ports, guest_ports_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.n_out, ARRAY_SIZE(expected));
        assert_memory_equal(g.out, expected, sizeof(expected));
        assert_true(g.vcpu.counters.exits[EXIT_PIO] >= 4);
        cpu_guest_free(&g);
}

GUEST_CODE(last_in, 64,
           "xor %eax, %eax\n"
           "in $0x1a, %al\n"
           "1: jmp 1b\n");

/* The kernel finishes an IN only at the next entry; the state that run() leaves behind has it finished. */
static void the_last_port_read_is_finished_before_run_returns(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_last_in, guest_last_in_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.vcpu.state.gpr[RAX], 0x77);
        assert_int_equal(g.vcpu.state.rip, GUEST_CODE_AT + 4);
        cpu_guest_free(&g);
}

GUEST_CODE(mmio, 64,
           "mov $0xd0000000, %ebx\n"
           "mov 0x10(%rbx), %eax\n"
           "out %eax, $0x10\n"
           "movzbl 0x21(%rbx), %eax\n"
           "out %eax, $0x10\n"
           "movl $0xcafe, 0x30(%rbx)\n"
           "mov $0x1234567890, %rax\n"
           "mov %rax, 0x40(%rbx)\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void device_memory_is_read_and_written(void **state)
{
        static const u64 expected[] = { 0xab000010, 0x21, 0xcafe, 0x1234567890 };
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_mmio, guest_mmio_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.n_out, ARRAY_SIZE(expected));
        assert_memory_equal(g.out, expected, sizeof(expected));
        cpu_guest_free(&g);
}

GUEST_CODE(cpuid, 64,
           "xor %eax, %eax\n"
           "cpuid\n"
           "mov %ebx, %eax\n"
           "out %eax, $0x10\n"
           "mov $1, %eax\n"
           "cpuid\n"
           "out %eax, $0x10\n"
           "mov %ecx, %eax\n"
           "out %eax, $0x10\n"
           "mov $0x40000000, %eax\n"
           "cpuid\n"
           "mov %ebx, %eax\n"
           "out %eax, $0x10\n"
           "mov $0x80000002, %eax\n"
           "cpuid\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void cpuid_shows_our_model(void **state)
{
        struct cpuid_regs leaf1;
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_cpuid, guest_cpuid_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        cpuid_query(&g.vcpu, 1, 0, &leaf1);
        assert_int_equal(g.n_out, 5);
        assert_int_equal(g.out[0], 0x756e6547);
        assert_int_equal(g.out[1], CPU_SIGNATURE);
        assert_int_equal(g.out[2] & ~leaf1.ecx, 0); /* nothing that the model does not have */
        assert_true(g.out[2] & BIT(31));
        assert_int_equal(g.out[3], 0x4b4d564b);
        assert_memory_equal(&g.out[4], "Stra", 4);
        cpu_guest_free(&g);
}

/* Writes and reads LSTAR, then reads an MSR that does not exist: #GP goes to the handler. */
GUEST_CODE(msr, 64,
           "mov $0xc0000082, %ecx\n"
           "mov $0x89abcdef, %eax\n"
           "mov $0x1234, %edx\n"
           "wrmsr\n"
           "xor %eax, %eax\n"
           "rdmsr\n"
           "out %eax, $0x10\n"
           "mov $0xce, %ecx\n"
           "mov $0xffffffff, %eax\n"
           "rdmsr\n"
           "out %eax, $0x10\n"
           "mov $0x12345, %ecx\n"
           "rdmsr\n"
           "ud2\n"
           ".balign 64\n"
           "mov $0x600d, %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void msrs_follow_the_model(void **state)
{
        static const u64 expected[] = { 0x89abcdef, 0, 0x600d };
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_msr, guest_msr_end);
        cpu_guest_gate(&g, EXC_GP, 64);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.n_out, ARRAY_SIZE(expected));
        assert_memory_equal(g.out, expected, sizeof(expected));
        assert_int_equal(g.vcpu.state.lstar, 0x123489abcdef);
        assert_int_equal(g.vcpu.counters.value[COUNTER_MSR_UNKNOWN], 1);
        cpu_guest_free(&g);
}

GUEST_CODE(arch_capabilities, 64,
           "mov $0x10a, %ecx\n"
           "rdmsr\n"
           "out %eax, $0x10\n"
           "mov %edx, %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

/* Guest code runs on the hardware here: only what that promises is passed on. */
static void no_immunity_is_promised_that_the_host_lacks(void **state)
{
        const struct kvm_machine *machine;
        struct cpu_guest g;
        u64 host = 0;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        machine = g.machine;
        cpu_guest_long(&g, guest_arch_capabilities, guest_arch_capabilities_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        kvm_msr_exchange(machine->kvm_fd, KVM_GET_MSRS, MSR_ARCH_CAPABILITIES, &host);
        assert_int_equal(g.out[0] | g.out[1] << 32, host & CPU_ARCH_CAPABILITIES);
        cpu_guest_free(&g);
}

GUEST_CODE(spin, 64,
           "xor %eax, %eax\n"
           "1: inc %rax\n"
           "jmp 1b\n");

static void a_kick_stops_a_spinning_guest(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_spin, guest_spin_end);
        for (unsigned i = 1; i <= 5; i++) {
                u64 before = g.vcpu.state.gpr[RAX];
                pthread_t thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 5000);

                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                pthread_join(thread, NULL);
                assert_in_range(g.vcpu.state.rip, GUEST_CODE_AT, GUEST_CODE_AT + 8);
                assert_true(g.vcpu.state.gpr[RAX] > before);
        }
        cpu_guest_free(&g);
}

static void work_posted_before_run_is_not_missed(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_spin, guest_spin_end);
        for (unsigned i = 0; i < 100; i++) {
                vcpu_post_work(&g.vcpu, VCPU_WORK_STOP);
                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
        }
        assert_int_equal(g.vcpu.state.rip, GUEST_CODE_AT);
        cpu_guest_free(&g);
}

/* No IDT: the first fault is the third. */
GUEST_CODE(crash, 64,
           "lidt (0x9000)\n"
           "ud2\n");

static void a_triple_fault_is_reported(void **state)
{
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_crash, guest_crash_end);
        assert_int_equal(cpu_guest_run(&g), EXIT_TRIPLE_FAULT);
        cpu_guest_free(&g);
}

/* Enables its LAPIC and halts; the handler of vector 0x55 reports. */
GUEST_CODE(irq, 64,
           "mov $0xfee00000, %ebx\n"
           "movl $0x1ff, 0xf0(%rbx)\n"
           "mov $1, %eax\n"
           "out %eax, $0x10\n"
           "sti\n"
           "1: hlt\n"
           "jmp 1b\n"
           ".balign 64\n"
           "mov $0x55, %eax\n"
           "out %eax, $0x10\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

struct sender {
        struct cpu_guest *g;
        int fd; /* < 0: send by kvm_msi_send */
};

static void *send_msi(void *arg)
{
        struct sender *s = arg;
        u64 one = 1;

        usleep(20000);
        if (s->fd < 0)
                kvm_msi_send(s->g->machine, 0xfee00000, 0x55);
        else
                assert_int_equal(write(s->fd, &one, sizeof(one)), sizeof(one));
        return NULL;
}

static void wake_by_msi(int fd)
{
        static const u64 expected[] = { 1, 0x55 };
        struct cpu_guest g;
        struct sender sender = { &g, fd };
        unsigned route = 0;
        pthread_t thread;

        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_irq, guest_irq_end);
        cpu_guest_gate(&g, 0x55, 64);
        if (fd >= 0) {
                assert_int_equal(kvm_irqfd_add(g.machine, fd, 0xfee00000, 0x66, &route, NULL), 0);
                assert_int_equal(kvm_irqfd_change(g.machine, route, 0xfee00000, 0x55, NULL), 0);
        }
        assert_int_equal(pthread_create(&thread, NULL, send_msi, &sender), 0);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        pthread_join(thread, NULL);
        assert_int_equal(g.n_out, ARRAY_SIZE(expected));
        assert_memory_equal(g.out, expected, sizeof(expected));
        if (fd >= 0)
                kvm_irqfd_remove(g.machine, fd, route);
        cpu_guest_free(&g);
}

static void an_msi_wakes_a_halted_guest(void **state)
{
        NEEDS_KVM();
        wake_by_msi(-1);
}

static void an_irqfd_wakes_a_halted_guest(void **state)
{
        int fd;

        NEEDS_KVM();
        fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        wake_by_msi(fd);
        close(fd);
}

/* The timer's GSI 0 arrives on pin 2, as ACPI's override says. */
static void the_timer_line_is_on_ioapic_pin_2(void **state)
{
        const struct kvm_pic_chip masked[2] = { { .imr = 0xff }, { .imr = 0xff } };
        struct kvm_ioapic_registers ioapic = { 0 };
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_irq, guest_irq_end);
        cpu_guest_gate(&g, 0x55, 64);
        for (unsigned i = 0; i < KVM_IOAPIC_REDIRECTIONS; i++)
                ioapic.redirection[i] = BIT(16); /* masked */
        ioapic.redirection[2] = 0x55;
        assert_int_equal(kvm_ioapic_set(g.machine, &ioapic, NULL), 0);
        assert_int_equal(kvm_pic_set(g.machine, masked, NULL), 0); /* it gets the line too */
        while (!g.vcpu.state.halted) { /* its LAPIC is on by then */
                pthread_t thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 5000);

                assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
                pthread_join(thread, NULL);
        }
        kvm_irq_set(g.machine, 0, true);
        kvm_irq_set(g.machine, 0, false);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.out[g.n_out - 1], 0x55);
        cpu_guest_free(&g);
}

static void a_halted_guest_can_be_stopped(void **state)
{
        struct cpu_guest g;
        pthread_t thread;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_irq, guest_irq_end);
        thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 20000);
        assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
        pthread_join(thread, NULL);
        assert_true(g.vcpu.state.halted);
        assert_int_equal(g.n_out, 1);
        cpu_guest_free(&g);
}

static void an_nmi_is_delivered(void **state)
{
        struct cpu_guest g;
        pthread_t thread;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_irq, guest_irq_end);
        cpu_guest_gate(&g, EXC_NMI, 64);
        thread = cpu_guest_post_later(&g, VCPU_WORK_NMI, 20000);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        pthread_join(thread, NULL);
        assert_true(g.vcpu.state.nmi_masked); /* the handler never returned */
        cpu_guest_free(&g);
}

GUEST_CODE(doorbell, 64,
           "mov $0xd0000000, %ebx\n"
           "movl $7, 0x80(%rbx)\n"
           "mov $0x1c, %edx\n"
           "mov $9, %eax\n"
           "out %al, %dx\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void doorbells_signal_without_an_exit(void **state)
{
        int memory_fd, port_fd;
        struct cpu_guest g;
        u64 count = 0;

        NEEDS_KVM();
        memory_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        port_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_doorbell, guest_doorbell_end);
        assert_int_equal(kvm_ioeventfd(g.machine, false, GUEST_MMIO + 0x80, 4, memory_fd, true, NULL), 0);
        assert_int_equal(kvm_ioeventfd(g.machine, true, 0x1c, 1, port_fd, true, NULL), 0);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(g.n_out, 0);
        assert_int_equal(read(memory_fd, &count, sizeof(count)), sizeof(count));
        assert_int_equal(read(port_fd, &count, sizeof(count)), sizeof(count));
        assert_int_equal(kvm_ioeventfd(g.machine, false, GUEST_MMIO + 0x80, 4, memory_fd, false, NULL), 0);
        cpu_guest_free(&g);
        close(memory_fd);
        close(port_fd);
}

GUEST_CODE(dirty, 64,
           "movb $1, (0x300000)\n"
           "movb $1, (0x5ff000)\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

static void the_dirty_log_names_the_written_pages(void **state)
{
        u64 bitmap[RAM / PAGE_SIZE / 64] = { 0 };
        struct cpu_guest g;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_guest_long(&g, guest_dirty, guest_dirty_end);
        assert_int_equal(kvm_dirty_start(g.machine, NULL), 0);
        guest_memory_dirty_start(g.memory);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        assert_int_equal(kvm_dirty_sync(g.machine, NULL), 0);
        guest_memory_dirty_collect(g.memory, bitmap);
        assert_true(bitmap[0x300 / 64] & BIT(0x300 % 64));
        assert_true(bitmap[0x5ff / 64] & BIT(0x5ff % 64));
        assert_false(bitmap[0x301 / 64] & BIT(0x301 % 64));
        assert_int_equal(kvm_dirty_stop(g.machine, NULL), 0);
        cpu_guest_free(&g);
}

/* ---- two processors ---- */

GUEST_CODE(bsp, 64,
           "mov $0xfee00000, %ebx\n"
           "movl $0x1ff, 0xf0(%rbx)\n"
           "movl $0x01000000, 0x310(%rbx)\n"
           "movl $0x4500, 0x300(%rbx)\n" /* INIT to APIC 1 */
           "movl $0x4609, 0x300(%rbx)\n" /* start at 0x9000 */
           "1: pause\n"
           "cmpl $0x77, (0x20000)\n"
           "jne 1b\n"
           "out %al, $0x18\n"
           "1: hlt; jmp 1b\n");

GUEST_CODE(ap, 16,
           "mov $0x2000, %bx\n"
           "mov %bx, %ds\n"
           "movl $0x77, (0)\n"
           "cli\n"
           "1: hlt; jmp 1b\n");

static void *run_vcpu(void *arg)
{
        return (void *)(uintptr_t)kvm_engine.run(arg);
}

static void a_second_processor_starts_by_init_and_sipi(void **state)
{
        struct vcpu ap = { .index = 1, .n_vcpus = 2 };
        struct cpu_guest g;
        pthread_t thread;
        void *reason;

        NEEDS_KVM();
        cpu_guest_init_n(&g, &kvm_engine, RAM, 2);
        cpu_guest_long(&g, guest_bsp, guest_bsp_end);
        assert_int_equal(guest_memory_write(g.memory, 0x9000, guest_ap, (u64)(guest_ap_end - guest_ap)), 0);
        ap.memory = g.memory;
        ap.ports = &g.ports;
        cpu_state_reset(&ap.state, false);
        assert_int_equal(vcpu_set_engine(&ap, &kvm_engine, g.machine, NULL), 0);
        assert_int_equal(pthread_create(&thread, NULL, run_vcpu, &ap), 0);
        assert_int_equal(cpu_guest_run(&g), EXIT_MACHINE_STOP);
        do { /* it is about to halt */
                usleep(10000);
                vcpu_post_work(&ap, VCPU_WORK_STOP);
                pthread_join(thread, &reason);
                assert_int_equal((uintptr_t)reason, EXIT_KICKED);
                assert_false(ap.state.wait_for_sipi);
                assert_int_equal(ap.state.seg[SEG_CS].base, 0x9000);
                assert_int_equal(pthread_create(&thread, NULL, run_vcpu, &ap), 0);
        } while (!ap.state.halted);
        vcpu_post_work(&ap, VCPU_WORK_STOP);
        pthread_join(thread, NULL);
        kvm_engine.vcpu_destroy(&ap);
        cpu_guest_free(&g);
}

static void a_processor_that_waits_for_sipi_can_be_stopped(void **state)
{
        struct cpu_guest g;
        pthread_t thread;

        NEEDS_KVM();
        cpu_guest_init(&g, &kvm_engine, RAM);
        cpu_state_reset(&g.vcpu.state, false);
        thread = cpu_guest_post_later(&g, VCPU_WORK_STOP, 10000);
        assert_int_equal(cpu_guest_run(&g), EXIT_KICKED);
        pthread_join(thread, NULL);
        assert_true(g.vcpu.state.wait_for_sipi);
        cpu_guest_free(&g);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(real_mode_code_runs),
                cmocka_unit_test(protected_mode_code_runs),
                cmocka_unit_test(long_mode_code_runs),
                cmocka_unit_test(port_io_reaches_devices_also_by_strings),
                cmocka_unit_test(the_last_port_read_is_finished_before_run_returns),
                cmocka_unit_test(device_memory_is_read_and_written),
                cmocka_unit_test(cpuid_shows_our_model),
                cmocka_unit_test(msrs_follow_the_model),
                cmocka_unit_test(no_immunity_is_promised_that_the_host_lacks),
                cmocka_unit_test(a_kick_stops_a_spinning_guest),
                cmocka_unit_test(work_posted_before_run_is_not_missed),
                cmocka_unit_test(a_triple_fault_is_reported),
                cmocka_unit_test(an_msi_wakes_a_halted_guest),
                cmocka_unit_test(an_irqfd_wakes_a_halted_guest),
                cmocka_unit_test(the_timer_line_is_on_ioapic_pin_2),
                cmocka_unit_test(a_halted_guest_can_be_stopped),
                cmocka_unit_test(an_nmi_is_delivered),
                cmocka_unit_test(doorbells_signal_without_an_exit),
                cmocka_unit_test(the_dirty_log_names_the_written_pages),
                cmocka_unit_test(a_second_processor_starts_by_init_and_sipi),
                cmocka_unit_test(a_processor_that_waits_for_sipi_can_be_stopped),
        };

        look_at_kvm();
        alarm(100);
        return cmocka_run_group_tests_name("kvm", tests, NULL, NULL);
}

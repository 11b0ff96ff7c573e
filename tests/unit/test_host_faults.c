/* What a guest does to the host's floating-point state ends in the guest: unmasked exceptions that are pending, raised by whichever instruction
 * comes next, do not reach the code around it. */
#include "cpu_guest.h"

#define RAM (8 * MIB)

/* The handler at 64 writes what it was and ends. The divide leaves an exception pending; #MF comes at the next instruction that looks, label 1. */
#define HANDLER_AT 64
#define PENDING                                                                                                          \
        "jmp 2f\n .balign 64\n"                                                                                          \
        "mov $16, %eax\n out %eax, $0x10\n fnstsw %ax\n out %eax, $0x10\n mov (%rsp), %rax\n sub %rbx, %rax\n"            \
        "out %eax, $0x10\n out %al, $0x18\n 3: jmp 3b\n"                                                                 \
        "2: fninit\n pushq $0x37b\n fldcw (%rsp)\n fld1\n fldz\n fdivrp\n mov $0x200000, %edi\n lea 1f(%rip), %rbx\n"

GUEST_CODE(maskmov, 64, PENDING "1: maskmovq %mm0, %mm0\n hlt\n");
GUEST_CODE(mmx, 64, PENDING "1: paddd %mm1, %mm0\n hlt\n");
GUEST_CODE(emms, 64, PENDING "1: emms\n hlt\n");
GUEST_CODE(fwait, 64, PENDING "1: fwait\n hlt\n");
GUEST_CODE(store, 64, PENDING "1: fstps (%rdi)\n hlt\n");
/* Does not look: ports, strings and moves go on. */
GUEST_CODE(others, 64,
           PENDING "in $0x14, %al\n mov %rdi, %rsi\n mov $64, %ecx\n rep movsb\n movaps %xmm0, (%rdi)\n fxsave (%rdi)\n fxrstor (%rdi)\n"
                   "1: fwait\n hlt\n");

static void runs_to_mf(const struct cpu_engine *engine, const u8 *code, const u8 *end)
{
        struct cpu_guest g;
        enum exit_reason reason;

        cpu_guest_init(&g, engine, RAM);
        cpu_guest_long(&g, code, end);
        g.vcpu.state.paging.cr0 |= CR0_NE;
        cpu_guest_gate(&g, EXC_MF, HANDLER_AT);
        do {
                reason = cpu_guest_run(&g);
                if (reason != EXIT_KICKED && reason != EXIT_MACHINE_STOP)
                        fail_msg("%s: rip 0x%lx", exit_name(reason), (unsigned long)g.vcpu.state.rip);
        } while (!g.vcpu.machine_stopping);
        assert_int_equal(g.n_out, 3);
        assert_int_equal(g.out[0], EXC_MF);
        assert_int_equal(g.out[1] & 0x84, 0x84); /* ES, ZE */
        assert_int_equal(g.out[2], 0);           /* at that very instruction */
        cpu_guest_free(&g);
}

static void a_pending_x87_exception_is_the_guests(void **state)
{
        static const struct cpu_engine *const engines[] = { &interp_engine, &translate_engine };
        const struct { const u8 *code, *end; } guests[] = {
                { guest_maskmov, guest_maskmov_end }, { guest_mmx, guest_mmx_end },     { guest_emms, guest_emms_end },
                { guest_fwait, guest_fwait_end },     { guest_store, guest_store_end }, { guest_others, guest_others_end },
        };

        for (size_t i = 0; i < ARRAY_SIZE(engines); i++)
                for (size_t j = 0; j < ARRAY_SIZE(guests); j++)
                        runs_to_mf(engines[i], guests[j].code, guests[j].end);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_pending_x87_exception_is_the_guests),
        };

        return cmocka_run_group_tests_name("host_faults", tests, NULL, NULL);
}

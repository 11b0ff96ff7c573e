#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/lapic.h"
#include "fake_env.h"

#define CPUS 4
#define APIC LAPIC_DEFAULT_BASE
#define MSR_BASE 0x1b
#define MSR_DEADLINE 0x6e0

enum {
        ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ISR = 0x100,
        TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR2 = 0x310, LVT_TIMER_REG = 0x320, LINT0 = 0x350, LINT1 = 0x360,
        LVT_ERROR_REG = 0x370, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0,
};

struct fixture {
        struct fake_env f;
        struct lapic_set *set;
        int current;
        unsigned posts[CPUS][5];
        u64 tsc;
        int pic_vector;
        unsigned eois;
        u8 eoi_vector;
};

static int current_cpu(void *opaque)
{
        return ((struct fixture *)opaque)->current;
}

static void post(void *opaque, unsigned cpu, enum lapic_post what)
{
        ((struct fixture *)opaque)->posts[cpu][what]++;
}

static u64 tsc_now(void *opaque, unsigned cpu)
{
        return ((struct fixture *)opaque)->tsc;
}

static int pic(void *opaque)
{
        struct fixture *x = opaque;

        lapic_extint_set(x->set, 0, false);
        return x->pic_vector;
}

static void eoi(void *opaque, u8 vector)
{
        struct fixture *x = opaque;

        x->eois++;
        x->eoi_vector = vector;
}

static u32 rd(struct fixture *x, int cpu, unsigned reg)
{
        x->current = cpu;
        return (u32)fake_mmio_read(&x->f, APIC + reg, 4);
}

static void wr(struct fixture *x, int cpu, unsigned reg, u32 value)
{
        x->current = cpu;
        fake_mmio_write(&x->f, APIC + reg, 4, value);
}

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));
        const struct lapic_ops ops = { .current_cpu = current_cpu, .post = post, .tsc_now = tsc_now, .tsc_hz = 1000000000 };

        fake_env_init(&x->f, MIB);
        assert_int_equal(lapic_set_new(&x->f.env, CPUS, &ops, x, &x->set, NULL), 0);
        lapic_attach_pic(x->set, pic, x);
        lapic_on_eoi(x->set, eoi, x);
        for (int i = 0; i < CPUS; i++)
                wr(x, i, SVR, 0x1ff);
        memset(x->posts, 0, sizeof(x->posts));
        *state = x;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        fake_env_free(&x->f);
        free(x);
        return 0;
}

/* Bit set of the CPUs that have an interrupt, which is taken and ended. */
static unsigned receivers(struct fixture *x, u8 vector)
{
        unsigned set = 0;

        for (unsigned i = 0; i < CPUS; i++) {
                if (!lapic_irq_pending(x->set, i))
                        continue;
                assert_int_equal(lapic_irq_ack(x->set, i), vector);
                assert_false(lapic_irq_pending(x->set, i));
                wr(x, (int)i, EOI, 0);
                set |= 1u << i;
        }
        return set;
}

static void ipi(struct fixture *x, int from, u32 icr, u8 destination)
{
        wr(x, from, ICR2, (u32)destination << 24);
        wr(x, from, ICR, icr);
}

static void enable_x2apic(struct fixture *x, unsigned cpu)
{
        u64 base;

        assert_int_equal(lapic_msr_read(x->set, cpu, MSR_BASE, &base), 0);
        assert_int_equal(lapic_msr_write(x->set, cpu, MSR_BASE, base | 0x400), 0);
}

/* ---- registers ---- */

static void power_up_state_is_the_manuals(void **state)
{
        struct fixture *x = *state;

        fake_env_device(&x->f, "lapic")->ops->reset(fake_env_device(&x->f, "lapic"));
        assert_int_equal(rd(x, 2, ID), 2 << 24);
        assert_int_equal(rd(x, 2, VERSION), 0x50014);
        assert_int_equal(rd(x, 2, SVR), 0xff);
        assert_int_equal(rd(x, 2, DFR), 0xffffffff);
        assert_int_equal(rd(x, 2, LVT_TIMER_REG), 0x10000);
        assert_int_equal(rd(x, 0, LINT0), 0x700); /* virtual wire */
        assert_int_equal(rd(x, 1, LINT0), 0x10000);
}

static void illegal_register_is_reported_in_esr(void **state)
{
        struct fixture *x = *state;

        rd(x, 0, 0x40);
        wr(x, 0, VERSION, 1);
        assert_int_equal(rd(x, 0, ESR), 0);
        wr(x, 0, ESR, 0);
        assert_int_equal(rd(x, 0, ESR), 0x80);
        wr(x, 0, ESR, 0);
        assert_int_equal(rd(x, 0, ESR), 0);
}

static void error_interrupt_follows_its_lvt(void **state)
{
        struct fixture *x = *state;

        rd(x, 0, 0x40);
        assert_false(lapic_irq_pending(x->set, 0));
        wr(x, 0, LVT_ERROR_REG, 0x33);
        rd(x, 0, 0x40);
        assert_int_equal(receivers(x, 0x33), 1);
}

static void software_disable_masks_the_lvt(void **state)
{
        struct fixture *x = *state;

        wr(x, 0, LVT_TIMER_REG, 0x40);
        wr(x, 0, SVR, 0xff);
        assert_int_equal(rd(x, 0, LVT_TIMER_REG), 0x10040);
        wr(x, 0, LVT_TIMER_REG, 0x41);
        assert_int_equal(rd(x, 0, LVT_TIMER_REG), 0x10041);
        ipi(x, 1, 0x4050, 0);
        assert_false(lapic_irq_pending(x->set, 0)); /* accepts no fixed interrupts */
}

static void no_vcpu_sees_no_apic(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(rd(x, -1, ID), 0xffffffff);
        assert_int_equal(rd(x, CPUS, ID), 0xffffffff);
}

/* ---- APIC_BASE and x2APIC ---- */

static void only_legal_mode_changes_are_taken(void **state)
{
        struct fixture *x = *state;
        u64 base;

        assert_int_equal(lapic_msr_read(x->set, 0, MSR_BASE, &base), 0);
        assert_int_equal(base, APIC | 0x900);
        base &= ~0xc00ULL;
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 0x400), -EINVAL);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 0xc00), 0);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 0x800), -EINVAL);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 0x400), -EINVAL);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base), 0);
        assert_false(lapic_enabled(x->set, 0));
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 0xc00), -EINVAL);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 0x800), 0);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 0x801), -EINVAL);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, base | 1ULL << 40), -EINVAL);
}

static void disabled_apic_has_no_registers_but_cr8(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, APIC | 0x100), 0);
        assert_int_equal(rd(x, 0, ID), 0xffffffff);
        lapic_cr8_write(x->set, 0, 9);
        assert_int_equal(lapic_cr8_read(x->set, 0), 9);
        assert_int_equal(lapic_msr_write(x->set, 0, MSR_BASE, APIC | 0x900), 0);
        assert_int_equal(rd(x, 0, SVR), 0xff);
        assert_int_equal(rd(x, 0, TPR), 0x90);
}

static void base_can_be_moved(void **state)
{
        struct fixture *x = *state;

        for (unsigned i = 1; i < 3; i++) /* two at the same place */
                assert_int_equal(lapic_msr_write(x->set, i, MSR_BASE, 0xfed40800), 0);
        for (int i = 1; i < 3; i++) {
                x->current = i;
                assert_int_equal(fake_mmio_read(&x->f, 0xfed40000 + ID, 4), i << 24);
                assert_int_equal(rd(x, i, ID), 0xffffffff);
        }
        x->current = 0;
        assert_int_equal(fake_mmio_read(&x->f, 0xfed40000 + ID, 4), 0xffffffff);
        assert_int_equal(lapic_msr_write(x->set, 1, MSR_BASE, APIC | 0x800), 0);
        assert_int_equal(rd(x, 1, ID), 1 << 24);
        x->current = 2;
        assert_int_equal(fake_mmio_read(&x->f, 0xfed40000 + ID, 4), 2 << 24);
}

static void x2apic_registers_are_guarded(void **state)
{
        static const struct {
                u32 msr;
                u64 value;
                int read, write;
        } cases[] = {
                { 0x802, 0, 0, -EINVAL },        { 0x803, 0, 0, -EINVAL },          { 0x808, 0x20, 0, 0 },
                { 0x808, 0x100, 0, -EINVAL },    { 0x809, 0, -EINVAL, -EINVAL },    { 0x80b, 0, -EINVAL, 0 },
                { 0x80b, 1, -EINVAL, -EINVAL },  { 0x80d, 0, 0, -EINVAL },          { 0x80e, 0, -EINVAL, -EINVAL },
                { 0x80f, 0x1ff, 0, 0 },          { 0x80f, 0x11ff, 0, -EINVAL },     { 0x810, 0, 0, -EINVAL },
                { 0x828, 0, 0, 0 },              { 0x828, 1, 0, -EINVAL },          { 0x830, 0x100000000f0, 0, 0 },
                { 0x830, 0x20000f0, 0, -EINVAL },{ 0x831, 0, -EINVAL, -EINVAL },    { 0x832, 0x10020, 0, 0 },
                { 0x832, 0x80020, 0, -EINVAL },  { 0x839, 0, 0, -EINVAL },          { 0x83e, 0xb, 0, 0 },
                { 0x83e, 0x4, 0, -EINVAL },      { 0x83f, 0x20, -EINVAL, 0 },       { 0x83f, 0x100, -EINVAL, -EINVAL },
                { 0x840, 0, -EINVAL, -EINVAL },  { 0x8ff, 0, -EINVAL, -EINVAL },    { 0x808, 1ULL << 32, 0, -EINVAL },
        };
        struct fixture *x = *state;
        u64 value;

        assert_int_equal(lapic_msr_read(x->set, 1, 0x802, &value), -EINVAL); /* xAPIC mode */
        enable_x2apic(x, 1);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                assert_int_equal(lapic_msr_write(x->set, 1, cases[i].msr, cases[i].value), cases[i].write);
                assert_int_equal(lapic_msr_read(x->set, 1, cases[i].msr, &value), cases[i].read);
        }
        assert_int_equal(rd(x, 1, ID), 0xffffffff);
}

static void x2apic_id_is_the_index_again(void **state)
{
        struct fixture *x = *state;
        u64 value;

        wr(x, 3, ID, 7 << 24);
        assert_int_equal(rd(x, 3, ID), 7 << 24);
        enable_x2apic(x, 3);
        lapic_msr_read(x->set, 3, 0x802, &value);
        assert_int_equal(value, 3);
        lapic_msr_read(x->set, 3, 0x80d, &value);
        assert_int_equal(value, 8);
        lapic_msr_write(x->set, 3, MSR_BASE, APIC);
        lapic_msr_write(x->set, 3, MSR_BASE, APIC | 0x800);
        assert_int_equal(rd(x, 3, ID), 3 << 24);
}

static void x2apic_icr_is_one_register(void **state)
{
        struct fixture *x = *state;
        u64 value;

        enable_x2apic(x, 0);
        assert_int_equal(lapic_msr_write(x->set, 0, 0x830, 2ULL << 32 | 0x40f1), 0);
        assert_int_equal(receivers(x, 0xf1), 4);
        lapic_msr_read(x->set, 0, 0x830, &value);
        assert_int_equal(value, 2ULL << 32 | 0x40f1);
        assert_int_equal(lapic_msr_write(x->set, 0, 0x830, 0xffffffffULL << 32 | 0x40f2), 0);
        for (int i = 0; i < CPUS; i++)
                assert_true(lapic_irq_pending(x->set, (unsigned)i));
}

static void self_ipi_msr_interrupts(void **state)
{
        struct fixture *x = *state;

        enable_x2apic(x, 1);
        assert_int_equal(lapic_msr_write(x->set, 1, 0x83f, 0x55), 0);
        assert_true(lapic_irq_pending(x->set, 1));
        assert_int_equal(lapic_irq_ack(x->set, 1), 0x55);
}

/* ---- delivery ---- */

static void physical_destinations(void **state)
{
        struct fixture *x = *state;

        for (u8 i = 0; i < CPUS; i++) {
                ipi(x, 0, 0x40f1, i);
                assert_int_equal(receivers(x, 0xf1), 1u << i);
        }
        ipi(x, 0, 0x40f1, CPUS);
        assert_int_equal(receivers(x, 0xf1), 0);
        ipi(x, 1, 0x40f1, 0xff);
        assert_int_equal(receivers(x, 0xf1), 15);
        wr(x, 1, ID, 0x30 << 24);
        ipi(x, 0, 0x40f1, 0x30);
        assert_int_equal(receivers(x, 0xf1), 2);
}

static void shorthands(void **state)
{
        struct fixture *x = *state;

        ipi(x, 2, 0x440f1, 0);
        assert_int_equal(receivers(x, 0xf1), 4);
        ipi(x, 2, 0x840f1, 0);
        assert_int_equal(receivers(x, 0xf1), 15);
        ipi(x, 2, 0xc40f1, 0);
        assert_int_equal(receivers(x, 0xf1), 11);
}

static void logical_flat_destinations(void **state)
{
        struct fixture *x = *state;

        for (int i = 0; i < CPUS; i++)
                wr(x, i, LDR, 1u << (24 + i));
        for (unsigned d = 0; d < 16; d++) {
                ipi(x, 0, 0x48f1, (u8)d);
                assert_int_equal(receivers(x, 0xf1), d);
        }
        ipi(x, 0, 0x48f1, 0xff);
        assert_int_equal(receivers(x, 0xf1), 15);
}

static void logical_cluster_destinations(void **state)
{
        struct fixture *x = *state;

        for (int i = 0; i < CPUS; i++) {
                wr(x, i, DFR, 0x0fffffff);
                wr(x, i, LDR, (u32)((i / 2 + 1) << 4 | 1 << i % 2) << 24);
        }
        ipi(x, 0, 0x48f1, 0x11);
        assert_int_equal(receivers(x, 0xf1), 1);
        ipi(x, 0, 0x48f1, 0x23);
        assert_int_equal(receivers(x, 0xf1), 12);
        ipi(x, 0, 0x48f1, 0xf2); /* all clusters */
        assert_int_equal(receivers(x, 0xf1), 10);
        ipi(x, 0, 0x48f1, 0x33);
        assert_int_equal(receivers(x, 0xf1), 0);
}

static void logical_x2apic_destinations(void **state)
{
        struct fixture *x = *state;

        for (unsigned i = 0; i < CPUS; i++)
                enable_x2apic(x, i);
        lapic_msr_write(x->set, 0, 0x830, 0x0000000aULL << 32 | 0x48f1);
        assert_true(lapic_irq_pending(x->set, 1) && lapic_irq_pending(x->set, 3));
        assert_false(lapic_irq_pending(x->set, 0) || lapic_irq_pending(x->set, 2));
        lapic_msr_write(x->set, 0, 0x830, 0x00010001ULL << 32 | 0x48f1); /* another cluster */
        assert_false(lapic_irq_pending(x->set, 0));
}

static void lowest_priority_chooses_one(void **state)
{
        struct fixture *x = *state;
        unsigned got = 0;

        for (int i = 0; i < CPUS; i++) {
                wr(x, i, LDR, 1u << (24 + i));
                wr(x, i, TPR, i == 2 ? 0 : 0x20);
        }
        ipi(x, 0, 0x49f1, 0x0f);
        assert_int_equal(receivers(x, 0xf1), 4);
        wr(x, 2, TPR, 0x20);
        for (int i = 0; i < CPUS; i++) { /* equals take turns */
                ipi(x, 0, 0x49f1, 0x0f);
                got |= receivers(x, 0xf1);
        }
        assert_int_equal(got, 15);
}

static void init_sipi_nmi_smi_are_posted(void **state)
{
        struct fixture *x = *state;

        ipi(x, 0, 0x4500, 1);
        ipi(x, 0, 0x8500, 1); /* de-assert: nothing */
        ipi(x, 0, 0x4609, 1);
        ipi(x, 0, 0x4400, 1);
        ipi(x, 0, 0x0400, 1); /* level bit does not matter for NMI */
        ipi(x, 0, 0x4200, 1);
        assert_int_equal(x->posts[1][LAPIC_POST_INIT], 1);
        assert_int_equal(x->posts[1][LAPIC_POST_SIPI], 1);
        assert_int_equal(x->posts[1][LAPIC_POST_NMI], 2);
        assert_int_equal(x->posts[1][LAPIC_POST_SMI], 1);
        assert_int_equal(x->posts[2][LAPIC_POST_NMI], 0);
        assert_int_equal(lapic_sipi_vector(x->set, 1), 9);
        lapic_init_signal(x->set, 1);
        assert_int_equal(lapic_sipi_vector(x->set, 1), 9); /* INIT may be processed after SIPI arrived */
        assert_int_equal(rd(x, 1, SVR), 0xff);
}

static void illegal_vectors_are_errors(void **state)
{
        struct fixture *x = *state;
        const struct apic_message msg = { .destination = 1, .vector = 15 };

        ipi(x, 0, 0x400f, 1);
        assert_false(lapic_irq_pending(x->set, 1));
        wr(x, 0, ESR, 0);
        assert_int_equal(rd(x, 0, ESR), 0x20);
        assert_int_equal(lapic_send(x->set, &msg), 0);
        wr(x, 1, ESR, 0);
        assert_int_equal(rd(x, 1, ESR), 0x40);
}

static void priorities_decide_what_is_pending(void **state)
{
        struct fixture *x = *state;

        wr(x, 0, TPR, 0x50);
        assert_int_equal(lapic_cr8_read(x->set, 0), 5);
        ipi(x, 0, 0x4405f | 0x4000, 0);
        assert_false(lapic_irq_pending(x->set, 0));
        assert_int_equal(lapic_irq_ack(x->set, 0), -1);
        ipi(x, 0, 0x44060, 0);
        assert_true(lapic_irq_pending(x->set, 0));
        assert_int_equal(lapic_irq_ack(x->set, 0), 0x60);
        assert_int_equal(rd(x, 0, PPR), 0x60);
        assert_int_equal(rd(x, 0, ISR + 0x30), 1);
        lapic_cr8_write(x->set, 0, 0);
        assert_false(lapic_irq_pending(x->set, 0)); /* 0x5f is below what is in service */
        wr(x, 0, EOI, 0);
        assert_int_equal(lapic_irq_ack(x->set, 0), 0x5f);
        assert_int_equal(rd(x, 0, IRR + 0x20), 0);
}

static void level_interrupts_report_their_end(void **state)
{
        struct fixture *x = *state;
        struct apic_message msg = { .destination = 1, .vector = 0x79, .level_triggered = true };

        lapic_send(x->set, &msg);
        assert_int_equal(rd(x, 1, TMR + 0x30), 1u << 25);
        assert_int_equal(receivers(x, 0x79), 2);
        assert_int_equal(x->eois, 1);
        assert_int_equal(x->eoi_vector, 0x79);
        msg.level_triggered = false;
        lapic_send(x->set, &msg);
        assert_int_equal(rd(x, 1, TMR + 0x30), 0);
        assert_int_equal(receivers(x, 0x79), 2);
        assert_int_equal(x->eois, 1);
        wr(x, 1, EOI, 0); /* nothing in service */
        assert_int_equal(x->eois, 1);
}

static void msi_addresses_are_decoded(void **state)
{
        struct fixture *x = *state;

        for (int i = 0; i < CPUS; i++)
                wr(x, i, LDR, 1u << (24 + i));
        lapic_msi(x->set, 0xfee02000, 0x41);
        assert_int_equal(receivers(x, 0x41), 4);
        lapic_msi(x->set, 0xfee06004, 0x41);
        assert_int_equal(receivers(x, 0x41), 6);
        lapic_msi(x->set, 0xfee0600c, 0x41); /* redirection hint: one of them */
        assert_int_equal(__builtin_popcount(receivers(x, 0x41)), 1);
        lapic_msi(x->set, 0xfee01000, 0x400);
        assert_int_equal(x->posts[1][LAPIC_POST_NMI], 1);
        lapic_msi(x->set, 0xfed01000, 0x41);
        lapic_msi(x->set, 0x1fee01000, 0x41);
        assert_int_equal(receivers(x, 0x41), 0);
}

static void pv_ipi_goes_to_the_bit_map(void **state)
{
        struct fixture *x = *state;
        const u64 all[4] = { ~0ULL, ~0ULL, 0, 0x41 }, last[4] = { 2, 0, 2, 0x41 }, beyond[4] = { 3, ~0ULL, ~0ULL, 0x41 };
        const u64 nmi[4] = { 2, 0, 0, 0x400 }, init[4] = { 2, 0, 0, 0x500 }, shorthand[4] = { 2, 0, 0, 0x80041 };

        assert_int_equal(lapic_pv_ipi(x->set, all), CPUS);
        assert_int_equal(receivers(x, 0x41), 15);
        assert_int_equal(lapic_pv_ipi(x->set, last), 1);
        assert_int_equal(receivers(x, 0x41), 8);
        assert_int_equal(lapic_pv_ipi(x->set, beyond), 0);
        assert_int_equal(lapic_pv_ipi(x->set, nmi), 1);
        assert_int_equal(x->posts[1][LAPIC_POST_NMI], 1);
        assert_int_equal(lapic_pv_ipi(x->set, init), -EINVAL);
        assert_int_equal(lapic_pv_ipi(x->set, shorthand), -EINVAL);
}

static void virtual_wire_asks_the_pic(void **state)
{
        struct fixture *x = *state;

        x->pic_vector = 0x20;
        wr(x, 0, TPR, 0xf0); /* ExtINT has no priority */
        lapic_extint_set(x->set, 0, true);
        assert_true(lapic_irq_pending(x->set, 0));
        assert_false(lapic_irq_pending(x->set, 1));
        wr(x, 0, LINT0, 0x10700);
        assert_false(lapic_irq_pending(x->set, 0));
        wr(x, 0, LINT0, 0x700);
        assert_int_equal(lapic_irq_ack(x->set, 0), 0x20);
        assert_int_equal(rd(x, 0, ISR + 0x10), 0);
        assert_false(lapic_irq_pending(x->set, 0));
        lapic_msr_write(x->set, 0, MSR_BASE, APIC | 0x100); /* no APIC: straight to the processor */
        lapic_extint_set(x->set, 0, true);
        assert_int_equal(lapic_irq_ack(x->set, 0), 0x20);
}

static void lint1_is_nmi(void **state)
{
        struct fixture *x = *state;

        wr(x, 0, LINT1, 0x400);
        lapic_nmi_set(x->set, 0, true);
        lapic_nmi_set(x->set, 0, true);
        assert_int_equal(x->posts[0][LAPIC_POST_NMI], 1);
        assert_int_equal(x->posts[1][LAPIC_POST_NMI], 0);
}

/* ---- timer ---- */

static bool cpu1_pending(void *opaque)
{
        return lapic_irq_pending(((struct fixture *)opaque)->set, 1);
}

static void one_shot_fires_once(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, DIVIDE, 0xb);
        wr(x, 1, LVT_TIMER_REG, 0xee);
        wr(x, 1, INITIAL, 100000);
        assert_true(fake_env_wait(&x->f, cpu1_pending, x));
        assert_int_equal(rd(x, 1, CURRENT), 0);
        assert_int_equal(rd(x, 1, INITIAL), 100000);
        assert_int_equal(receivers(x, 0xee), 2);
}

static void masked_timer_counts(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, DIVIDE, 0xb);
        wr(x, 1, LVT_TIMER_REG, 0x100ee);
        wr(x, 1, INITIAL, 10000);
        while (rd(x, 1, CURRENT))
                ;
        assert_false(lapic_irq_pending(x->set, 1));
}

static void periodic_fires_again(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, DIVIDE, 0xb);
        wr(x, 1, LVT_TIMER_REG, 0x200ee);
        wr(x, 1, INITIAL, 1); /* absurdly short: must not keep the host busy for ever */
        for (int i = 0; i < 3; i++) {
                assert_true(fake_env_wait(&x->f, cpu1_pending, x));
                fake_env_lock(&x->f);
                assert_int_equal(lapic_irq_ack(x->set, 1), 0xee);
                fake_env_unlock(&x->f);
                wr(x, 1, EOI, 0);
        }
        wr(x, 1, INITIAL, 0);
        assert_int_equal(rd(x, 1, CURRENT), 0);
}

static void mode_change_keeps_the_count(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, DIVIDE, 0xa); /* by 128 */
        wr(x, 1, LVT_TIMER_REG, 0x100ee);
        wr(x, 1, INITIAL, 0xffffffff);
        assert_in_range(rd(x, 1, CURRENT), 0xf0000000, 0xffffffff);
        wr(x, 1, LVT_TIMER_REG, 0x300ee);
        assert_in_range(rd(x, 1, CURRENT), 0xf0000000, 0xffffffff);
        assert_int_equal(rd(x, 1, INITIAL), 0xffffffff);
        wr(x, 1, LVT_TIMER_REG, 0x500ee); /* deadline mode disarms */
        assert_int_equal(rd(x, 1, CURRENT), 0);
        wr(x, 1, INITIAL, 5);
        assert_int_equal(rd(x, 1, INITIAL), 0);
}

static void deadline_fires_when_the_tsc_gets_there(void **state)
{
        struct fixture *x = *state;
        u64 value;

        x->tsc = 1000;
        lapic_msr_write(x->set, 1, MSR_DEADLINE, 5000); /* not in deadline mode: ignored */
        lapic_msr_read(x->set, 1, MSR_DEADLINE, &value);
        assert_int_equal(value, 0);
        wr(x, 1, LVT_TIMER_REG, 0x400ef);
        lapic_msr_write(x->set, 1, MSR_DEADLINE, 5000);
        lapic_msr_read(x->set, 1, MSR_DEADLINE, &value);
        assert_int_equal(value, 5000);
        assert_false(lapic_irq_pending(x->set, 1));
        x->tsc = 5000;
        lapic_tsc_changed(x->set, 1);
        assert_int_equal(receivers(x, 0xef), 2);
        lapic_msr_read(x->set, 1, MSR_DEADLINE, &value);
        assert_int_equal(value, 0);
        lapic_msr_write(x->set, 1, MSR_DEADLINE, 4000); /* in the past: at once */
        assert_int_equal(receivers(x, 0xef), 2);
        lapic_msr_write(x->set, 1, MSR_DEADLINE, ~0ULL); /* far beyond any clock */
        assert_false(lapic_irq_pending(x->set, 1));
        lapic_msr_write(x->set, 1, MSR_DEADLINE, 0);
        x->tsc = ~0ULL;
        lapic_tsc_changed(x->set, 1);
        assert_false(lapic_irq_pending(x->set, 1));
}

/* ---- state ---- */

static void state_survives(void **state)
{
        struct fixture *x = *state;

        wr(x, 1, LVT_TIMER_REG, 0x200ee);
        wr(x, 1, INITIAL, 1000000000);
        wr(x, 2, LVT_TIMER_REG, 0x400ef);
        lapic_msr_write(x->set, 2, MSR_DEADLINE, 1ULL << 40);
        lapic_msr_write(x->set, 3, MSR_BASE, 0xfed40800);
        ipi(x, 0, 0x840f1, 0);
        lapic_irq_ack(x->set, 0);
        fake_check_state(&x->f, fake_env_device(&x->f, "lapic"));
        assert_true(lapic_irq_pending(x->set, 1));
        assert_int_equal(lapic_irq_ack(x->set, 1), 0xf1);
}

static void page_round_trip(void **state)
{
        struct fixture *x = *state;
        u8 page[LAPIC_PAGE_SIZE], again[LAPIC_PAGE_SIZE];

        wr(x, 1, LDR, 0x02000000);
        wr(x, 1, TPR, 0x30);
        ipi(x, 0, 0x40f1, 1);
        lapic_page_get(x->set, 1, page);
        fake_env_device(&x->f, "lapic")->ops->reset(fake_env_device(&x->f, "lapic"));
        assert_int_equal(lapic_page_set(x->set, 1, page, NULL), 0);
        lapic_page_get(x->set, 1, again);
        assert_memory_equal(page, again, sizeof(page));
        assert_int_equal(lapic_irq_ack(x->set, 1), 0xf1);
        memset(page, 0xff, sizeof(page));
        assert_true(lapic_page_set(x->set, 1, page, NULL) < 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(power_up_state_is_the_manuals),
                TEST(illegal_register_is_reported_in_esr),
                TEST(error_interrupt_follows_its_lvt),
                TEST(software_disable_masks_the_lvt),
                TEST(no_vcpu_sees_no_apic),
                TEST(only_legal_mode_changes_are_taken),
                TEST(disabled_apic_has_no_registers_but_cr8),
                TEST(base_can_be_moved),
                TEST(x2apic_registers_are_guarded),
                TEST(x2apic_id_is_the_index_again),
                TEST(x2apic_icr_is_one_register),
                TEST(self_ipi_msr_interrupts),
                TEST(physical_destinations),
                TEST(shorthands),
                TEST(logical_flat_destinations),
                TEST(logical_cluster_destinations),
                TEST(logical_x2apic_destinations),
                TEST(lowest_priority_chooses_one),
                TEST(init_sipi_nmi_smi_are_posted),
                TEST(illegal_vectors_are_errors),
                TEST(priorities_decide_what_is_pending),
                TEST(level_interrupts_report_their_end),
                TEST(msi_addresses_are_decoded),
                TEST(pv_ipi_goes_to_the_bit_map),
                TEST(virtual_wire_asks_the_pic),
                TEST(lint1_is_nmi),
                TEST(one_shot_fires_once),
                TEST(masked_timer_counts),
                TEST(periodic_fires_again),
                TEST(mode_change_keeps_the_count),
                TEST(deadline_fires_when_the_tsc_gets_there),
                TEST(state_survives),
                TEST(page_round_trip),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Theory of operation.
 *
 * A message (from an IPI, the IOAPIC, an MSI or a pin) is matched against every APIC of the set; each that takes a fixed
 * interrupt sets a bit in its IRR. lapic_update() then compares the highest requested vector with the processor priority and
 * stores the answer in `pending`, so that a vCPU's question "is there an interrupt?" is one atomic load. Everything that the
 * answer depends on (IRR, ISR, TPR, LINT0, APIC_BASE) changes only under the device lock, and each change calls lapic_update().
 *
 *     accept: IRR set --> lapic_update: class(IRR) > class(PPR)? --> pending, post(IRQ)
 *     ack:    IRR -> ISR, vector to the CPU          EOI: ISR cleared; a level interrupt is reported to the IOAPIC
 *
 * The PIC's INTR wire is not in the IRR: it counts as pending while LINT0 (as ExtINT) lets it through, and the acknowledge
 * cycle asks the PIC for the vector.
 *
 * Source: Intel SDM 3A, 11.6 (IPIs), 11.8 (handling), 11.11 (MSI), 11.12 (x2APIC). */
#include "dev/lapic_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

/* ---- vectors and priorities ---- */

static int highest_vector(const u32 map[8])
{
        for (int i = 7; i >= 0; i--)
                if (map[i])
                        return i * 32 + 31 - __builtin_clz(map[i]);
        return -1;
}

static void vector_set(u32 map[8], u8 vector, bool on)
{
        if (on)
                map[vector >> 5] |= 1u << (vector & 31);
        else
                map[vector >> 5] &= ~(1u << (vector & 31));
}

static bool vector_test(const u32 map[8], u8 vector)
{
        return map[vector >> 5] & (1u << (vector & 31));
}

/* Processor priority. Source: SDM 3A, 11.8.3.1. */
u8 lapic_ppr(const struct lapic *a)
{
        const int in_service = highest_vector(a->s.isr);
        const u8 service = in_service < 0 ? 0 : (u8)(in_service & 0xf0);

        return (a->s.tpr & 0xf0) >= service ? a->s.tpr : service;
}

/* The vector that would be delivered now, or -1. */
static int deliverable_vector(const struct lapic *a)
{
        const int vector = highest_vector(a->s.irr);

        return vector >= 0 && (vector & 0xf0) > (lapic_ppr(a) & 0xf0) ? vector : -1;
}

static bool extint_pending(const struct lapic *a)
{
        const u32 lint0 = a->s.lvt[LVT_LINT0];

        if (a->s.extint_message)
                return true;
        if (!a->set->extint)
                return false;
        /* Without an APIC the wire is the boot processor's INTR pin. */
        if (!lapic_hw_enabled(a))
                return a->index == 0;
        return !(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == APIC_EXTINT;
}

void lapic_update(struct lapic *a)
{
        const bool pending = extint_pending(a) || deliverable_vector(a) >= 0;

        __atomic_store_n(&a->pending, pending, __ATOMIC_RELEASE); /* pairs with lapic_irq_pending */
        if (pending)
                a->set->ops.post(a->set->opaque, a->index, LAPIC_POST_IRQ);
}

/* ---- accepting ---- */

void lapic_error(struct lapic *a, u32 esr_bit)
{
        const u32 lvt = a->s.lvt[LVT_ERROR];

        a->s.esr_collected |= esr_bit;
        if (lvt & LVT_MASKED)
                return;
        if ((lvt & 0xff) < 16) { /* would be an error again: once is enough */
                a->s.esr_collected |= ESR_RECEIVE_ILLEGAL_VECTOR;
                return;
        }
        vector_set(a->s.irr, (u8)lvt, true);
        vector_set(a->s.tmr, (u8)lvt, false);
        lapic_update(a);
}

static bool accept_fixed(struct lapic *a, const struct apic_message *msg)
{
        if (!lapic_sw_enabled(a))
                return false;
        if (msg->vector < 16) {
                lapic_error(a, ESR_RECEIVE_ILLEGAL_VECTOR);
                return false;
        }
        vector_set(a->s.irr, msg->vector, true);
        vector_set(a->s.tmr, msg->vector, msg->level_triggered);
        lapic_update(a);
        return true;
}

static bool accept_smi(struct lapic *a, const struct apic_message *msg)
{
        a->set->ops.post(a->set->opaque, a->index, LAPIC_POST_SMI);
        return true;
}

static bool accept_nmi(struct lapic *a, const struct apic_message *msg)
{
        a->set->ops.post(a->set->opaque, a->index, LAPIC_POST_NMI);
        return true;
}

static bool accept_init(struct lapic *a, const struct apic_message *msg)
{
        a->set->ops.post(a->set->opaque, a->index, LAPIC_POST_INIT);
        return true;
}

static bool accept_sipi(struct lapic *a, const struct apic_message *msg)
{
        a->s.sipi_vector = msg->vector;
        a->set->ops.post(a->set->opaque, a->index, LAPIC_POST_SIPI);
        return true;
}

static bool accept_extint(struct lapic *a, const struct apic_message *msg)
{
        if (!lapic_sw_enabled(a))
                return false;
        a->s.extint_message = true;
        lapic_update(a);
        return true;
}

/* By delivery mode; 3 (remote read) is reserved. */
static bool (*const accept[8])(struct lapic *a, const struct apic_message *msg) = {
        [APIC_FIXED] = accept_fixed, [APIC_LOWEST_PRIORITY] = accept_fixed, [APIC_SMI] = accept_smi,
        [APIC_NMI] = accept_nmi,     [APIC_INIT] = accept_init,             [APIC_SIPI] = accept_sipi,
        [APIC_EXTINT] = accept_extint,
};

static bool lapic_accept(struct lapic *a, const struct apic_message *msg)
{
        if (!lapic_hw_enabled(a) || !accept[msg->delivery & 7])
                return false;
        return accept[msg->delivery & 7](a, msg);
}

void lapic_lvt_fire(struct lapic *a, enum lapic_lvt entry)
{
        const u32 lvt = a->s.lvt[entry];
        /* The timer's and error entry's mode bits do not exist: 0 is fixed. */
        const struct apic_message msg = { .delivery = (u8)(lvt >> 8 & 7), .vector = (u8)lvt };

        if (!(lvt & LVT_MASKED))
                lapic_accept(a, &msg);
}

/* ---- addressing ---- */

static bool matches_logical(const struct lapic *a, u32 destination)
{
        if (lapic_x2apic(a)) /* SDM 3A, 11.12.10.2: cluster in the upper, one bit an APIC in the lower half */
                return destination >> 16 == a->index >> 4 && (destination & (1u << (a->index & 15)));
        if (a->s.dfr_cluster) /* 11.6.2.2: cluster number in the upper nibble, 15 is all */
                return (a->s.ldr & destination & 0xf) && (destination >> 4 == a->s.ldr >> 4 || destination >> 4 == 0xf);
        return a->s.ldr & destination;
}

static bool matches(const struct lapic *a, const struct apic_message *msg)
{
        if (msg->destination == (msg->x2apic_destination ? 0xffffffffu : 0xffu))
                return true;
        if (msg->logical)
                return matches_logical(a, msg->destination);
        return msg->destination == (lapic_x2apic(a) ? a->index : a->s.id);
}

/* The candidate with the lowest processor priority; equals take turns. NULL when there is none. */
static struct lapic *arbitrate(struct lapic_set *set, const struct apic_message *msg)
{
        struct lapic *best = NULL;

        for (unsigned i = 1; i <= set->n; i++) {
                struct lapic *a = &set->apic[(set->last_lowest + i) % set->n];

                if (lapic_sw_enabled(a) && matches(a, msg) && (!best || lapic_ppr(a) < lapic_ppr(best)))
                        best = a;
        }
        if (best)
                set->last_lowest = best->index;
        return best;
}

unsigned lapic_send(struct lapic_set *set, const struct apic_message *msg)
{
        unsigned accepted = 0;

        if (msg->delivery == APIC_LOWEST_PRIORITY) {
                struct lapic *a = arbitrate(set, msg);

                return a && lapic_accept(a, msg);
        }
        for (unsigned i = 0; i < set->n; i++)
                if (matches(&set->apic[i], msg))
                        accepted += lapic_accept(&set->apic[i], msg);
        return accepted;
}

void lapic_msi(struct lapic_set *set, u64 address, u32 data)
{
        /* Address: 31-20 0xfee, 19-12 destination, 3 redirection hint, 2 logical. The hint asks for one of several targets,
         * which is lowest-priority arbitration; it means nothing for a physical destination. */
        const bool logical = address & 4, hint = address & 8;
        struct apic_message msg = {
                .destination = (u32)(address >> 12) & 0xff,
                .logical = logical,
                .delivery = (u8)(data >> 8 & 7),
                .vector = (u8)data,
                .level_triggered = data & 0x8000,
        };

        if (address >> 20 != LAPIC_DEFAULT_BASE >> 20)
                return;
        if (msg.level_triggered && !(data & 0x4000)) /* a deassert message */
                return;
        if (hint && logical && msg.delivery == APIC_FIXED)
                msg.delivery = APIC_LOWEST_PRIORITY;
        trace(IRQ_MSI, address, data);
        counter_inc(set->env->counters, COUNTER_IRQS_RAISED);
        lapic_send(set, &msg);
}

void lapic_msi_send(void *opaque, u64 address, u32 data)
{
        lapic_msi(opaque, address, data);
}

/* ---- interprocessor interrupts ---- */

enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

void lapic_icr_send(struct lapic *a, u32 icr, u32 destination)
{
        struct lapic_set *set = a->set;
        const unsigned shorthand = icr >> 18 & 3;
        struct apic_message msg = {
                .destination = destination,
                .x2apic_destination = lapic_x2apic(a),
                .logical = icr & ICR_LOGICAL,
                .delivery = (u8)(icr >> 8 & 7),
                .vector = (u8)icr,
        };

        trace(IRQ_IPI, a->index, (u64)destination << 32 | icr);
        /* The INIT level de-assert of the 82489DX era does nothing (SDM 3A, table 11-3). */
        if (msg.delivery == APIC_INIT && !(icr & ICR_LEVEL_ASSERT) && (icr & ICR_TRIGGER_LEVEL))
                return;
        if (msg.delivery <= APIC_LOWEST_PRIORITY && msg.vector < 16) {
                lapic_error(a, ESR_SEND_ILLEGAL_VECTOR);
                return;
        }
        if (shorthand == SHORTHAND_NONE) {
                lapic_send(set, &msg);
                return;
        }
        if (msg.delivery == APIC_LOWEST_PRIORITY) /* no shorthand names a choice */
                msg.delivery = APIC_FIXED;
        for (unsigned i = 0; i < set->n; i++)
                if ((&set->apic[i] == a) ? shorthand != SHORTHAND_OTHERS : shorthand != SHORTHAND_SELF)
                        lapic_accept(&set->apic[i], &msg);
}

void lapic_self_ipi(struct lapic *a, u8 vector)
{
        const struct apic_message msg = { .delivery = APIC_FIXED, .vector = vector };

        if (vector < 16)
                lapic_error(a, ESR_SEND_ILLEGAL_VECTOR);
        else
                lapic_accept(a, &msg);
}

s64 lapic_pv_ipi(struct lapic_set *set, const u64 args[4])
{
        const u64 icr = args[3];
        struct apic_message msg = { .delivery = (u8)(icr >> 8 & 7), .vector = (u8)icr };
        s64 accepted = 0;

        /* Fixed and NMI, physical and edge-triggered; the destination is the bit map. */
        if ((icr & ~0x7ffULL & ~(u64)ICR_LEVEL_ASSERT) || (msg.delivery != APIC_FIXED && msg.delivery != APIC_NMI))
                return -EINVAL;
        for (unsigned bit = 0; bit < 128; bit++)
                if ((args[bit / 64] >> bit % 64 & 1) && args[2] < set->n && args[2] + bit < set->n)
                        accepted += lapic_accept(&set->apic[args[2] + bit], &msg);
        return accepted;
}

/* ---- the CPU's side ---- */

bool lapic_irq_pending(const struct lapic_set *set, unsigned cpu)
{
        return __atomic_load_n(&set->apic[cpu].pending, __ATOMIC_ACQUIRE);
}

int lapic_irq_ack(struct lapic_set *set, unsigned cpu)
{
        struct lapic *a = &set->apic[cpu];
        int vector;

        if (extint_pending(a) && set->pic_ack) {
                a->s.extint_message = false;
                vector = set->pic_ack(set->pic_opaque);
        } else {
                vector = deliverable_vector(a);
                if (vector >= 0) {
                        vector_set(a->s.irr, (u8)vector, false);
                        vector_set(a->s.isr, (u8)vector, true);
                }
        }
        lapic_update(a);
        return vector;
}

void lapic_end_of_interrupt(struct lapic *a)
{
        const int vector = highest_vector(a->s.isr);

        if (vector < 0)
                return;
        trace(IRQ_EOI, a->index, vector);
        vector_set(a->s.isr, (u8)vector, false);
        if (vector_test(a->s.tmr, (u8)vector) && a->set->eoi)
                a->set->eoi(a->set->eoi_opaque, (u8)vector);
        lapic_update(a);
}

u64 lapic_cr8_read(const struct lapic_set *set, unsigned cpu)
{
        return set->apic[cpu].s.tpr >> 4;
}

void lapic_cr8_write(struct lapic_set *set, unsigned cpu, u64 value)
{
        set->apic[cpu].s.tpr = (u8)((value & 0xf) << 4);
        lapic_update(&set->apic[cpu]);
}

u8 lapic_sipi_vector(const struct lapic_set *set, unsigned cpu)
{
        return set->apic[cpu].s.sipi_vector;
}

bool lapic_enabled(const struct lapic_set *set, unsigned cpu)
{
        return lapic_hw_enabled(&set->apic[cpu]);
}

void lapic_tsc_changed(struct lapic_set *set, unsigned cpu)
{
        lapic_timer_run(&set->apic[cpu]);
}

/* ---- pins and attachments ---- */

static void lint_set(struct lapic_set *set, bool *wire, enum lapic_lvt entry, bool level)
{
        const bool rising = level && !*wire;

        *wire = level;
        for (unsigned i = 0; i < set->n; i++) {
                struct lapic *a = &set->apic[i];

                /* ExtINT follows the wire (extint_pending); every other mode acts on the edge. */
                if (rising && (entry != LVT_LINT0 || (a->s.lvt[entry] >> 8 & 7) != APIC_EXTINT))
                        lapic_lvt_fire(a, entry);
                if (entry == LVT_LINT0)
                        lapic_update(a);
        }
}

void lapic_extint_set(void *opaque, unsigned n, bool level)
{
        struct lapic_set *set = opaque;

        lint_set(set, &set->extint, LVT_LINT0, level);
}

void lapic_nmi_set(void *opaque, unsigned n, bool level)
{
        struct lapic_set *set = opaque;

        lint_set(set, &set->nmi, LVT_LINT1, level);
}

void lapic_attach_pic(struct lapic_set *set, int (*ack)(void *opaque), void *opaque)
{
        set->pic_ack = ack;
        set->pic_opaque = opaque;
}

void lapic_on_eoi(struct lapic_set *set, void (*fn)(void *opaque, u8 vector), void *opaque)
{
        set->eoi = fn;
        set->eoi_opaque = opaque;
}

/* ---- life ---- */

/* Power-up state of everything but APIC_BASE. Source: SDM 3A, 11.4.7.1. */
void lapic_power_up(struct lapic *a)
{
        lapic_timer_stop(a);
        a->s = (struct lapic_state){ .base = a->s.base, .id = (u8)a->index, .svr = 0xff, .sipi_vector = a->s.sipi_vector };
        for (size_t i = 0; i < LVT_COUNT; i++)
                a->s.lvt[i] = LVT_MASKED;
        /* There is no firmware: virtual wire mode, which it would set up, is how the boot processor starts. */
        if (a->index == 0)
                a->s.lvt[LVT_LINT0] = APIC_EXTINT << 8;
}

void lapic_init_signal(struct lapic_set *set, unsigned cpu)
{
        struct lapic *a = &set->apic[cpu];
        const u8 id = a->s.id;

        lapic_power_up(a);
        a->s.id = id; /* SDM 3A, 11.4.7.3: INIT keeps the id */
        lapic_update(a);
}

static void lapic_reset(struct device *dev)
{
        struct lapic_set *set = container_of(dev, struct lapic_set, dev);

        for (unsigned i = 0; i < set->n; i++) {
                struct lapic *a = &set->apic[i];

                lapic_power_up(a);
                a->s.sipi_vector = 0;
                a->s.base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (i == 0 ? APIC_BASE_BSP : 0);
                lapic_update(a);
        }
        set->last_lowest = 0;
        lapic_map(set);
}

static void put_map(struct state_out *out, const u32 map[8])
{
        for (size_t i = 0; i < 8; i++)
                state_put_u32(out, map[i]);
}

static void get_map(struct state_in *in, u32 map[8])
{
        for (size_t i = 0; i < 8; i++)
                map[i] = state_get_u32(in);
}

static void lapic_save(struct device *dev, struct state_out *out)
{
        struct lapic_set *set = container_of(dev, struct lapic_set, dev);

        state_put_u32(out, set->n);
        state_put_u64(out, guest_clock_now(&set->clock));
        state_put_bool(out, set->extint);
        state_put_bool(out, set->nmi);
        for (unsigned i = 0; i < set->n; i++) {
                const struct lapic_state *s = &set->apic[i].s;

                state_put_u64(out, s->base);
                state_put_u8(out, s->id);
                state_put_u8(out, s->tpr);
                state_put_u8(out, s->sipi_vector);
                state_put_u8(out, s->ldr);
                state_put_bool(out, s->dfr_cluster);
                state_put_bool(out, s->extint_message);
                state_put_u32(out, s->svr);
                state_put_u32(out, s->esr);
                state_put_u32(out, s->esr_collected);
                state_put_u32(out, s->icr);
                state_put_u32(out, s->icr_destination);
                state_put_u32(out, s->divide);
                for (size_t j = 0; j < LVT_COUNT; j++)
                        state_put_u32(out, s->lvt[j]);
                put_map(out, s->isr);
                put_map(out, s->tmr);
                put_map(out, s->irr);
                state_put_u32(out, s->initial_count);
                state_put_u64(out, s->expiry);
                state_put_u64(out, s->tsc_deadline);
        }
}

static void get_state(struct state_in *in, struct lapic_state *s)
{
        s->base = state_get_u64(in);
        s->id = state_get_u8(in);
        s->tpr = state_get_u8(in);
        s->sipi_vector = state_get_u8(in);
        s->ldr = state_get_u8(in);
        s->dfr_cluster = state_get_bool(in);
        s->extint_message = state_get_bool(in);
        s->svr = state_get_u32(in);
        s->esr = state_get_u32(in);
        s->esr_collected = state_get_u32(in);
        s->icr = state_get_u32(in);
        s->icr_destination = state_get_u32(in);
        s->divide = state_get_u32(in);
        for (size_t j = 0; j < LVT_COUNT; j++)
                s->lvt[j] = state_get_u32(in);
        get_map(in, s->isr);
        get_map(in, s->tmr);
        get_map(in, s->irr);
        s->initial_count = state_get_u32(in);
        s->expiry = state_get_u64(in);
        s->tsc_deadline = state_get_u64(in);
}

static bool state_valid(const struct lapic_state *s, u64 now)
{
        bool ok = !(s->base & (0xfffULL & ~(APIC_BASE_BSP | APIC_BASE_EXTD | APIC_BASE_EN))) && s->base < BIT(52) &&
                  (s->base & (APIC_BASE_EXTD | APIC_BASE_EN)) != APIC_BASE_EXTD;

        ok = ok && !(s->svr & ~APIC_SVR_BITS) && !((s->esr | s->esr_collected) & ~ESR_BITS) && !(s->icr & ~ICR_BITS) &&
             !(s->divide & ~APIC_TDCR_BITS) && !((s->isr[0] | s->irr[0]) & 0xffff);
        for (size_t j = 0; j < LVT_COUNT; j++)
                ok = ok && !(s->lvt[j] & ~lapic_lvt_bits[j]);
        return ok && (s->expiry <= now || s->expiry - now <= lapic_timer_longest_ns());
}

static int lapic_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct lapic_set *set = container_of(dev, struct lapic_set, dev);
        _cleanup_free_ struct lapic_state *states = calloc(set->n, sizeof(*states));
        const u32 n = state_get_u32(in);
        const u64 now = state_get_u64(in);
        const bool extint = state_get_bool(in), nmi = state_get_bool(in);
        bool ok = true;

        if (!states)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to load %u local APICs", set->n);
        if (n != set->n)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine has %u local APICs, this one %u", n, set->n);
        for (unsigned i = 0; i < n; i++) {
                get_state(in, &states[i]);
                ok = ok && state_valid(&states[i], now);
        }
        if (!ok || state_in_error(in) || now >= BIT(63))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved local APIC state is damaged");

        guest_clock_restore(&set->clock, now);
        set->extint = extint;
        set->nmi = nmi;
        for (unsigned i = 0; i < n; i++) {
                set->apic[i].s = states[i];
                lapic_timer_run(&set->apic[i]);
                lapic_update(&set->apic[i]);
        }
        lapic_map(set);
        return 0;
}

static void lapic_quiesce(struct device *dev)
{
        struct lapic_set *set = container_of(dev, struct lapic_set, dev);

        guest_clock_freeze(&set->clock);
        for (unsigned i = 0; i < set->n; i++)
                loop_timer_cancel(&set->apic[i].timer);
}

static void lapic_resume(struct device *dev)
{
        struct lapic_set *set = container_of(dev, struct lapic_set, dev);

        guest_clock_thaw(&set->clock);
        for (unsigned i = 0; i < set->n; i++)
                lapic_timer_run(&set->apic[i]);
}

static void lapic_destroy(struct device *dev)
{
        struct lapic_set *set = container_of(dev, struct lapic_set, dev);
        struct io_space *mmio = &set->env->memory->mmio;

        for (unsigned i = 0; i < set->n; i++) {
                loop_timer_cancel(&set->apic[i].timer);
                if (set->apic[i].mapped)
                        io_space_remove(mmio, set->apic[i].mapped_base, &set->apic[i]);
        }
        io_space_remove(mmio, LAPIC_DEFAULT_BASE, set);
        free(set);
}

static const struct device_ops lapic_device_ops = {
        .name = "lapic",
        .version = 1,
        .reset = lapic_reset,
        .save = lapic_save,
        .load = lapic_load,
        .destroy = lapic_destroy,
        .quiesce = lapic_quiesce,
        .resume = lapic_resume,
};

int lapic_set_new(struct device_env *env, unsigned n_cpus, const struct lapic_ops *ops, void *opaque,
                  struct lapic_set **ret, struct err **err)
{
        struct lapic_set *set;
        int r;

        if (n_cpus < 1 || n_cpus > LAPIC_CPUS_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "a machine has 1 to %u virtual CPUs, not %u", LAPIC_CPUS_MAX, n_cpus);
        if (!ops->tsc_hz)
                return err_set(err, ERR_INTERNAL, EINVAL, "the frequency of the time stamp counter is not known");
        set = calloc(1, sizeof(*set) + n_cpus * sizeof(set->apic[0]));
        if (!set)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for %u local APICs", n_cpus);
        set->dev.ops = &lapic_device_ops;
        set->env = env;
        set->ops = *ops;
        set->opaque = opaque;
        set->n = n_cpus;
        for (unsigned i = 0; i < n_cpus; i++) {
                set->apic[i].set = set;
                set->apic[i].index = i;
                lapic_timer_init(&set->apic[i]);
        }
        r = io_space_add(&env->memory->mmio, LAPIC_DEFAULT_BASE, PAGE_SIZE, &lapic_mmio_ops, set, "lapic", err);
        if (r < 0) {
                free(set);
                return r;
        }
        lapic_reset(&set->dev);
        env->add(env, &set->dev);
        *ret = set;
        return 0;
}

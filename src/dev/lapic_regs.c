/* The registers of a local APIC, as memory (xAPIC) and as MSRs (x2APIC). One table describes both.
 * Source: Intel SDM 3A, tables 11-1 and 11-6. */
#include <errno.h>

#include "dev/lapic_internal.h"

#define MSR_IA32_APIC_BASE 0x1bu
#define MSR_IA32_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_BASE 0x800u
#define REGISTERS (LAPIC_PAGE_SIZE / 16)

/* Version 0x14, highest LVT entry 5, no EOI-broadcast suppression: what KVM's in-kernel APIC says too. */
#define LAPIC_VERSION 0x00050014u
#define LAPIC_PHYSICAL_BITS_DEFAULT 40

/* Legal bits of each LVT entry; delivery status and remote IRR are read-only and always 0 here. */
const u32 lapic_lvt_bits[LVT_COUNT] = {
        [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
        [LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
};

/* Register numbers are offsets / 16. */
enum {
        REG_ID = 0x02, REG_VERSION = 0x03, REG_TPR = 0x08, REG_APR = 0x09, REG_PPR = 0x0a, REG_EOI = 0x0b, REG_RRD = 0x0c,
        REG_LDR = 0x0d, REG_DFR = 0x0e, REG_SVR = 0x0f, REG_ISR = 0x10, REG_TMR = 0x18, REG_IRR = 0x20, REG_ESR = 0x28,
        REG_ICR = 0x30, REG_ICR_HIGH = 0x31, REG_LVT = 0x32, REG_INITIAL = 0x38, REG_CURRENT = 0x39, REG_DIVIDE = 0x3e,
        REG_SELF_IPI = 0x3f,
};

/* ---- what reading and writing a register does ---- */

static u32 id_read(struct lapic *a, unsigned reg)
{
        return lapic_x2apic(a) ? a->index : (u32)a->s.id << 24;
}

static void id_write(struct lapic *a, unsigned reg, u32 value)
{
        a->s.id = (u8)(value >> 24);
}

static u32 version_read(struct lapic *a, unsigned reg)
{
        return LAPIC_VERSION;
}

static u32 tpr_read(struct lapic *a, unsigned reg)
{
        return a->s.tpr;
}

static void tpr_write(struct lapic *a, unsigned reg, u32 value)
{
        a->s.tpr = (u8)value;
        lapic_update(a);
}

static u32 ppr_read(struct lapic *a, unsigned reg)
{
        return lapic_ppr(a);
}

static u32 zero_read(struct lapic *a, unsigned reg)
{
        return 0;
}

static void eoi_write(struct lapic *a, unsigned reg, u32 value)
{
        lapic_end_of_interrupt(a);
}

static u32 ldr_read(struct lapic *a, unsigned reg)
{
        /* SDM 3A, 11.12.10.2: derived from the id in x2APIC mode. */
        return lapic_x2apic(a) ? (a->index >> 4) << 16 | 1u << (a->index & 15) : (u32)a->s.ldr << 24;
}

static void ldr_write(struct lapic *a, unsigned reg, u32 value)
{
        a->s.ldr = (u8)(value >> 24);
}

static u32 dfr_read(struct lapic *a, unsigned reg)
{
        return a->s.dfr_cluster ? 0x0fffffff : APIC_DFR_FLAT;
}

static void dfr_write(struct lapic *a, unsigned reg, u32 value)
{
        /* 1111 is flat, 0000 is cluster, all else undefined. */
        a->s.dfr_cluster = value >> 28 == 0;
}

static u32 svr_read(struct lapic *a, unsigned reg)
{
        return a->s.svr;
}

static void svr_write(struct lapic *a, unsigned reg, u32 value)
{
        a->s.svr = value & APIC_SVR_BITS;
        if (!lapic_sw_enabled(a))
                for (size_t i = 0; i < LVT_COUNT; i++) /* SDM 3A, 11.4.7.2 */
                        a->s.lvt[i] |= LVT_MASKED;
        lapic_update(a);
}

static u32 isr_read(struct lapic *a, unsigned reg)
{
        return a->s.isr[reg - REG_ISR];
}

static u32 tmr_read(struct lapic *a, unsigned reg)
{
        return a->s.tmr[reg - REG_TMR];
}

static u32 irr_read(struct lapic *a, unsigned reg)
{
        return a->s.irr[reg - REG_IRR];
}

static u32 esr_read(struct lapic *a, unsigned reg)
{
        return a->s.esr;
}

static void esr_write(struct lapic *a, unsigned reg, u32 value)
{
        /* Any write shows what was collected since the last one (SDM 3A, 11.5.3). */
        a->s.esr = a->s.esr_collected;
        a->s.esr_collected = 0;
}

static u32 icr_read(struct lapic *a, unsigned reg)
{
        return a->s.icr;
}

static void icr_write(struct lapic *a, unsigned reg, u32 value)
{
        a->s.icr = value & ICR_BITS;
        lapic_icr_send(a, a->s.icr, lapic_x2apic(a) ? a->s.icr_destination : a->s.icr_destination >> 24);
}

static u32 icr_high_read(struct lapic *a, unsigned reg)
{
        return a->s.icr_destination;
}

static void icr_high_write(struct lapic *a, unsigned reg, u32 value)
{
        a->s.icr_destination = value & 0xff000000;
}

static u32 lvt_read(struct lapic *a, unsigned reg)
{
        return a->s.lvt[reg - REG_LVT];
}

static void lvt_write(struct lapic *a, unsigned reg, u32 value)
{
        const enum lapic_lvt entry = reg - REG_LVT;

        value &= lapic_lvt_bits[entry];
        if (!lapic_sw_enabled(a))
                value |= LVT_MASKED;
        if (entry == LVT_TIMER)
                lapic_timer_set_lvt(a, value);
        else
                a->s.lvt[entry] = value;
        lapic_update(a); /* LINT0 may have been connected or cut off */
}

static u32 initial_read(struct lapic *a, unsigned reg)
{
        return a->s.initial_count;
}

static void initial_write(struct lapic *a, unsigned reg, u32 value)
{
        lapic_timer_set_initial(a, value);
}

static u32 current_read(struct lapic *a, unsigned reg)
{
        return lapic_timer_current(a);
}

static u32 divide_read(struct lapic *a, unsigned reg)
{
        return a->s.divide;
}

static void divide_write(struct lapic *a, unsigned reg, u32 value)
{
        lapic_timer_set_divide(a, value & APIC_TDCR_BITS);
}

static void self_ipi_write(struct lapic *a, unsigned reg, u32 value)
{
        lapic_self_ipi(a, (u8)value);
}

/* ---- the table ---- */

enum { X_R = 1, X_W = 2, X2_R = 4, X2_W = 8, RO = X_R | X2_R, RW = RO | X_W | X2_W };

static const struct lapic_register {
        u8 access;       /* in xAPIC and x2APIC mode */
        u32 x2apic_bits; /* WRMSR with any other bit set is #GP */
        u32 (*read)(struct lapic *a, unsigned reg);
        void (*write)(struct lapic *a, unsigned reg, u32 value);
} registers[REGISTERS] = {
        [REG_ID]                    = { RO | X_W,         0,          id_read, id_write },
        [REG_VERSION]               = { RO,               0,          version_read, NULL },
        [REG_TPR]                   = { RW,               0xff,       tpr_read, tpr_write },
        [REG_APR]                   = { X_R,              0,          ppr_read, NULL },
        [REG_PPR]                   = { RO,               0,          ppr_read, NULL },
        [REG_EOI]                   = { X_R | X_W | X2_W, 0,          zero_read, eoi_write },
        [REG_RRD]                   = { X_R,              0,          zero_read, NULL },
        [REG_LDR]                   = { RO | X_W,         0,          ldr_read, ldr_write },
        [REG_DFR]                   = { X_R | X_W,        0,          dfr_read, dfr_write },
        [REG_SVR]                   = { RW,               APIC_SVR_BITS, svr_read, svr_write },
        [REG_ISR ... REG_ISR + 7]   = { RO,               0,          isr_read, NULL },
        [REG_TMR ... REG_TMR + 7]   = { RO,               0,          tmr_read, NULL },
        [REG_IRR ... REG_IRR + 7]   = { RO,               0,          irr_read, NULL },
        [REG_ESR]                   = { RW,               0,          esr_read, esr_write },
        [REG_ICR]                   = { RW,               ~ICR_X2APIC_RESERVED, icr_read, icr_write },
        [REG_ICR_HIGH]              = { X_R | X_W,        0,          icr_high_read, icr_high_write },
        [REG_LVT + LVT_TIMER]       = { RW,               0x710ff,    lvt_read, lvt_write },
        [REG_LVT + LVT_THERMAL]     = { RW,               0x117ff,    lvt_read, lvt_write },
        [REG_LVT + LVT_PERF]        = { RW,               0x117ff,    lvt_read, lvt_write },
        [REG_LVT + LVT_LINT0]       = { RW,               0x1f7ff,    lvt_read, lvt_write },
        [REG_LVT + LVT_LINT1]       = { RW,               0x1f7ff,    lvt_read, lvt_write },
        [REG_LVT + LVT_ERROR]       = { RW,               0x110ff,    lvt_read, lvt_write },
        [REG_INITIAL]               = { RW,               0xffffffff, initial_read, initial_write },
        [REG_CURRENT]               = { RO,               0,          current_read, NULL },
        [REG_DIVIDE]                = { RW,               APIC_TDCR_BITS, divide_read, divide_write },
        [REG_SELF_IPI]              = { X2_W,             0xff,       NULL, self_ipi_write },
};

/* ---- xAPIC: memory ---- */

/* The APIC that the accessing vCPU sees at @base; NULL when it sees none there. */
static struct lapic *accessed(struct lapic_set *set, u64 base)
{
        const int cpu = set->ops.current_cpu(set->opaque);
        struct lapic *a;

        if (cpu < 0 || (unsigned)cpu >= set->n)
                return NULL;
        a = &set->apic[cpu];
        if (!lapic_hw_enabled(a) || lapic_x2apic(a) || (a->s.base & APIC_BASE_ADDRESS) != base)
                return NULL;
        return a;
}

static u64 mmio_read_at(struct lapic_set *set, u64 base, u64 offset, unsigned size)
{
        struct lapic *a = accessed(set, base);
        const unsigned reg = (unsigned)(offset >> 4), shift = (unsigned)(offset & 3) * 8;

        if (!a)
                return ~0ULL;
        if (reg >= REGISTERS || !(registers[reg].access & X_R)) {
                lapic_error(a, ESR_ILLEGAL_REGISTER);
                return 0;
        }
        /* Registers are 32 bits wide, 16 bytes apart. Narrow reads get their part; the gaps read as 0. */
        if (offset & 0xc)
                return 0;
        return (u64)registers[reg].read(a, reg) >> shift;
}

static void mmio_write_at(struct lapic_set *set, u64 base, u64 offset, u64 value, unsigned size)
{
        struct lapic *a = accessed(set, base);
        const unsigned reg = (unsigned)(offset >> 4);

        /* Only aligned 32-bit stores are defined (SDM 3A, 11.4.1). */
        if (!a || (offset & 0xf) || size != 4)
                return;
        if (reg >= REGISTERS || !(registers[reg].access & X_W))
                lapic_error(a, ESR_ILLEGAL_REGISTER);
        else
                registers[reg].write(a, reg, (u32)value);
}

static u64 mmio_read(void *opaque, u64 offset, unsigned size)
{
        return mmio_read_at(opaque, LAPIC_DEFAULT_BASE, offset, size);
}

static void mmio_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        mmio_write_at(opaque, LAPIC_DEFAULT_BASE, offset, value, size);
}

const struct io_ops lapic_mmio_ops = { .read = mmio_read, .write = mmio_write, .max_size = 4 };

static u64 relocated_read(void *opaque, u64 offset, unsigned size)
{
        const struct lapic *owner = opaque;

        return mmio_read_at(owner->set, owner->mapped_base, offset, size);
}

static void relocated_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        const struct lapic *owner = opaque;

        mmio_write_at(owner->set, owner->mapped_base, offset, value, size);
}

static const struct io_ops relocated_ops = { .read = relocated_read, .write = relocated_write, .max_size = 4 };

void lapic_map(struct lapic_set *set)
{
        struct io_space *mmio = &set->env->memory->mmio;

        for (unsigned i = 0; i < set->n; i++) {
                if (set->apic[i].mapped)
                        io_space_remove(mmio, set->apic[i].mapped_base, &set->apic[i]);
                set->apic[i].mapped = false;
        }
        for (unsigned i = 0; i < set->n; i++) {
                struct lapic *a = &set->apic[i];
                const u64 base = a->s.base & APIC_BASE_ADDRESS;

                if (!lapic_hw_enabled(a) || base == LAPIC_DEFAULT_BASE)
                        continue;
                /* The page may be taken: by another vCPU's APIC, whose region serves this one too, or by a device that the guest
                 * put it on top of; then it is out of reach until the guest moves it away. */
                a->mapped_base = base;
                a->mapped = io_space_add(mmio, base, PAGE_SIZE, &relocated_ops, a, "lapic", NULL) == 0;
        }
}

/* ---- MSRs ---- */

/* Source: SDM 3A, 11.12.5: which mode may follow which. */
static bool base_transition_legal(u64 old, u64 new)
{
        const u64 modes = APIC_BASE_EN | APIC_BASE_EXTD;

        if ((new & modes) == APIC_BASE_EXTD)
                return false;
        if ((old & modes) == modes && (new & modes) == APIC_BASE_EN)
                return false;
        return (old & modes) != 0 || (new & modes) != modes;
}

static int base_write(struct lapic *a, u64 value)
{
        const u64 bits = a->set->ops.physical_address_bits ? a->set->ops.physical_address_bits : LAPIC_PHYSICAL_BITS_DEFAULT;
        const u64 legal = APIC_BASE_BSP | APIC_BASE_EXTD | APIC_BASE_EN | ((BIT(bits) - 1) & APIC_BASE_ADDRESS);
        const u64 old = a->s.base;

        if ((value & ~legal) || !base_transition_legal(old, value))
                return -EINVAL;
        a->s.base = (value & ~APIC_BASE_BSP) | (old & APIC_BASE_BSP);
        if ((old & APIC_BASE_EN) && !(value & APIC_BASE_EN)) {
                /* "Functionally equivalent to a processor without an on-chip APIC"; comes back in its power-up state. CR8 is
                 * the processor's and survives. */
                const u8 tpr = a->s.tpr;

                lapic_power_up(a);
                a->s.tpr = tpr;
        }
        if (!(old & APIC_BASE_EXTD) && (value & APIC_BASE_EXTD))
                a->s.icr_destination = 0;
        if ((old ^ value) & (APIC_BASE_ADDRESS | APIC_BASE_EN))
                lapic_map(a->set);
        lapic_update(a);
        return 0;
}

int lapic_msr_read(struct lapic_set *set, unsigned cpu, u32 msr, u64 *ret)
{
        struct lapic *a = &set->apic[cpu];
        const u32 reg = msr - MSR_X2APIC_BASE;

        if (msr == MSR_IA32_APIC_BASE) {
                *ret = a->s.base;
                return 0;
        }
        if (msr == MSR_IA32_TSC_DEADLINE) {
                *ret = lapic_timer_deadline(a);
                return 0;
        }
        if (!lapic_x2apic(a) || reg >= REGISTERS || !(registers[reg].access & X2_R))
                return -EINVAL;
        *ret = registers[reg].read(a, reg);
        if (reg == REG_ICR)
                *ret |= (u64)a->s.icr_destination << 32;
        return 0;
}

int lapic_msr_write(struct lapic_set *set, unsigned cpu, u32 msr, u64 value)
{
        struct lapic *a = &set->apic[cpu];
        const u32 reg = msr - MSR_X2APIC_BASE;

        if (msr == MSR_IA32_APIC_BASE)
                return base_write(a, value);
        if (msr == MSR_IA32_TSC_DEADLINE) {
                lapic_timer_set_deadline(a, value);
                return 0;
        }
        if (!lapic_x2apic(a) || reg >= REGISTERS || !(registers[reg].access & X2_W))
                return -EINVAL;
        if ((u32)value & ~registers[reg].x2apic_bits)
                return -EINVAL;
        if (reg == REG_ICR)
                a->s.icr_destination = (u32)(value >> 32);
        else if (value >> 32)
                return -EINVAL;
        registers[reg].write(a, reg, (u32)value);
        return 0;
}

/* ---- exchange with hardware ---- */

static void page_put(u8 *page, unsigned reg, u32 value)
{
        for (unsigned i = 0; i < 4; i++)
                page[reg * 16 + i] = (u8)(value >> (8 * i));
}

static u32 page_take(const u8 *page, unsigned reg)
{
        const u8 *p = page + reg * 16;

        return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

void lapic_page_get(struct lapic_set *set, unsigned cpu, u8 page[LAPIC_PAGE_SIZE])
{
        struct lapic *a = &set->apic[cpu];

        for (unsigned reg = 0; reg < REGISTERS; reg++) {
                for (unsigned i = 0; i < 16; i++)
                        page[reg * 16 + i] = 0;
                if (registers[reg].read)
                        page_put(page, reg, registers[reg].read(a, reg));
        }
        page_put(page, REG_ICR_HIGH, a->s.icr_destination);
}

int lapic_page_set(struct lapic_set *set, unsigned cpu, const u8 page[LAPIC_PAGE_SIZE], struct err **err)
{
        struct lapic *a = &set->apic[cpu];
        struct lapic_state s = a->s;

        if (!lapic_x2apic(a)) {
                s.id = (u8)(page_take(page, REG_ID) >> 24);
                s.ldr = (u8)(page_take(page, REG_LDR) >> 24);
                s.dfr_cluster = page_take(page, REG_DFR) >> 28 == 0;
        }
        s.tpr = (u8)page_take(page, REG_TPR);
        s.svr = page_take(page, REG_SVR) & APIC_SVR_BITS;
        s.esr = page_take(page, REG_ESR) & ESR_BITS;
        s.icr = page_take(page, REG_ICR) & ICR_BITS;
        s.icr_destination = page_take(page, REG_ICR_HIGH);
        for (unsigned i = 0; i < LVT_COUNT; i++)
                s.lvt[i] = page_take(page, REG_LVT + i) & lapic_lvt_bits[i];
        for (unsigned i = 0; i < 8; i++) {
                s.isr[i] = page_take(page, REG_ISR + i);
                s.tmr[i] = page_take(page, REG_TMR + i);
                s.irr[i] = page_take(page, REG_IRR + i);
        }
        if ((s.isr[0] | s.irr[0]) & 0xffff)
                return err_set(err, ERR_BAD_STATE, EINVAL, "APIC %u: an exception vector is marked as an interrupt", cpu);
        s.initial_count = page_take(page, REG_INITIAL);
        s.divide = page_take(page, REG_DIVIDE) & APIC_TDCR_BITS;
        s.expiry = 0;
        a->s = s;
        if (!(s.lvt[LVT_TIMER] & LVT_TIMER_DEADLINE))
                lapic_timer_continue(a, MIN(page_take(page, REG_CURRENT), s.initial_count));
        lapic_update(a);
        return 0;
}

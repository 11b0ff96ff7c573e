/* Inside the local APICs: lapic.c (messages, priorities, life), lapic_regs.c (registers), lapic_timer.c. */
#pragma once

#include "dev/guest_clock.h"
#include "dev/lapic.h"

/* APIC_BASE. Source: SDM 3A, figure 11-5 and 11.12.1. */
#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_EXTD BIT(10)
#define APIC_BASE_EN BIT(11)
#define APIC_BASE_ADDRESS (~0xfffULL)

#define APIC_SVR_ENABLE 0x100u
#define APIC_SVR_BITS 0x3ffu

/* Local vector table, in the order of its registers 0x320-0x370. Source: SDM 3A, figure 11-8. */
enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
#define LVT_MASKED 0x10000u
#define LVT_TIMER_PERIODIC 0x20000u
#define LVT_TIMER_DEADLINE 0x40000u
#define LVT_TIMER_MODE 0x60000u

/* Error status. Source: SDM 3A, figure 11-9. */
#define ESR_SEND_ILLEGAL_VECTOR 0x20u
#define ESR_RECEIVE_ILLEGAL_VECTOR 0x40u
#define ESR_ILLEGAL_REGISTER 0x80u
#define ESR_BITS 0xffu

/* Interrupt command register. Source: SDM 3A, figures 11-12 and 11-28. */
#define ICR_BITS 0xccfffu            /* what is kept of the low half */
#define ICR_LOGICAL 0x800u
#define ICR_LEVEL_ASSERT 0x4000u
#define ICR_TRIGGER_LEVEL 0x8000u
#define ICR_X2APIC_RESERVED 0xfff32000u

#define APIC_DFR_FLAT 0xffffffffu
#define APIC_TDCR_BITS 0xbu

/* What the registers of one APIC hold: plain data, saved and loaded as a whole. */
struct lapic_state {
        u64 base;
        u8 id;            /* the xAPIC id register; x2APIC mode shows the index */
        u8 tpr, sipi_vector;
        u8 ldr;           /* xAPIC only */
        bool dfr_cluster; /* likewise */
        bool extint_message; /* an ExtINT message waits for its acknowledge cycle */
        u32 svr, esr, esr_collected, icr, icr_destination, divide;
        u32 lvt[LVT_COUNT];
        u32 isr[8], tmr[8], irr[8];
        u32 initial_count;
        u64 expiry;       /* guest-clock time at which the count reaches 0; 0 while stopped */
        u64 tsc_deadline; /* 0 while disarmed */
};

struct lapic {
        struct lapic_state s;
        struct lapic_set *set;
        unsigned index;
        bool pending; /* atomic: what lapic_irq_pending answers; written under the device lock by lapic_update */
        bool mapped;  /* has a region of its own at a relocated base */
        u64 mapped_base;
        struct loop_timer timer;
};

struct lapic_set {
        struct device dev;
        struct device_env *env;
        struct lapic_ops ops;
        void *opaque;
        struct guest_clock clock;
        bool extint, nmi; /* levels of LINT0 and LINT1 */
        unsigned last_lowest; /* who won the last arbitration */
        int (*pic_ack)(void *opaque);
        void *pic_opaque;
        void (*eoi)(void *opaque, u8 vector);
        void *eoi_opaque;
        unsigned n;
        struct lapic apic[];
};

static inline bool lapic_hw_enabled(const struct lapic *a)
{
        return a->s.base & APIC_BASE_EN;
}
static inline bool lapic_x2apic(const struct lapic *a)
{
        return a->s.base & APIC_BASE_EXTD;
}
static inline bool lapic_sw_enabled(const struct lapic *a)
{
        return lapic_hw_enabled(a) && (a->s.svr & APIC_SVR_ENABLE);
}

/* lapic.c */
u8 lapic_ppr(const struct lapic *a);
/* Recomputes `pending` after any change of what it depends on and tells the CPU when there is something to take. */
void lapic_update(struct lapic *a);
void lapic_end_of_interrupt(struct lapic *a);
/* Sends what the ICR value @icr says to @destination. */
void lapic_icr_send(struct lapic *a, u32 icr, u32 destination);
void lapic_self_ipi(struct lapic *a, u8 vector);
/* An interrupt from inside the APIC or from its pins. */
void lapic_lvt_fire(struct lapic *a, enum lapic_lvt entry);
void lapic_error(struct lapic *a, u32 esr_bit);
void lapic_power_up(struct lapic *a);

/* lapic_regs.c */
extern const u32 lapic_lvt_bits[LVT_COUNT];
extern const struct io_ops lapic_mmio_ops;
/* Makes the memory regions follow the APIC_BASE values. */
void lapic_map(struct lapic_set *set);

/* lapic_timer.c */
void lapic_timer_init(struct lapic *a);
void lapic_timer_stop(struct lapic *a);
/* Fires what is due, then arms the host timer for what comes next. */
void lapic_timer_run(struct lapic *a);
u32 lapic_timer_current(struct lapic *a);
void lapic_timer_set_initial(struct lapic *a, u32 count);
/* Lets the count continue from @count, @count may be 0: stopped. */
void lapic_timer_continue(struct lapic *a, u32 count);
void lapic_timer_set_divide(struct lapic *a, u32 divide);
/* Takes a write to the LVT timer entry that is already masked to its legal bits. */
void lapic_timer_set_lvt(struct lapic *a, u32 lvt);
u64 lapic_timer_deadline(struct lapic *a);
void lapic_timer_set_deadline(struct lapic *a, u64 tsc);
u64 lapic_timer_longest_ns(void);

/* The pair of 8259A interrupt controllers of a PC, cascaded through IRQ 2, with the ELCR registers of the chip sets.
 * Source: Intel 8259A datasheet (231468); ELCR: Intel PIIX3 datasheet (290550), 2.5.7. */
#pragma once

#include "dev/dev.h"

struct pic;

/* @intr is the INTR output (lapic_extint_set). Claims 0x20-21, 0xa0-a1, 0x4d0-4d1. */
int pic_new(struct device_env *env, struct irq_line intr, struct pic **ret, struct err **err);

/* Drives input @irq (0-15); others are ignored. Fits irq_line.set; @opaque is the pic. */
void pic_irq_set(void *opaque, unsigned irq, bool level);
/* The CPU's acknowledge cycle: the vector (a spurious one when nothing is pending any more). Fits lapic_attach_pic. */
int pic_ack(void *opaque);

/* One 8259A, to exchange it with a hypervisor's in-kernel model. */
struct pic_chip {
        u8 irr, imr, isr;
        u8 lines;             /* current input levels */
        u8 vector_base;       /* ICW2 */
        u8 priority_top;      /* input with the highest priority */
        u8 elcr;              /* 1: level-triggered */
        u8 init_step;         /* ICW that is expected next, 0 when initialised */
        bool needs_icw4, single;
        bool auto_eoi, rotate_on_auto_eoi, special_fully_nested, special_mask;
        bool read_isr, poll;
};
void pic_chips_get(const struct pic *pic, struct pic_chip ret[2]);
int pic_chips_set(struct pic *pic, const struct pic_chip chips[2], struct err **err);

/* Registers. Source: 8259A datasheet, figures 7 and 8.
 *
 *     port 0 write   ICW1 (bit 4), OCW3 (bit 3), else OCW2     read   IRR, ISR or the poll byte, as OCW3 selected
 *     port 1 write   ICW2-ICW4 while they are expected, else OCW1 = IMR    read   IMR
 *
 * Each chip is a struct pic_chip; chip 1's output is chip 0's input 2. chip_pending() computes what a chip would interrupt with;
 * outputs_update() carries that through the cascade to the INTR wire after every change. */
#include "dev/pic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CASCADE_IRQ 2
/* ELCR bits that cannot be set: IRQ 0, 1, 2 and 8, 13 are edge-triggered by wiring. */
static const u8 elcr_writable[2] = { 0xf8, 0xde };

/* ICW1 */
#define ICW1_INIT 0x10
#define ICW1_SINGLE 0x02
#define ICW1_ICW4 0x01
/* ICW4 */
#define ICW4_FULLY_NESTED 0x10
#define ICW4_AUTO_EOI 0x02
/* OCW3 */
#define OCW3 0x08
#define OCW3_POLL 0x04

struct pic {
        struct device dev;
        struct device_env *env;
        struct irq_line intr;
        bool intr_level;
        struct pic_chip chip[2];
        struct pic_port { /* so that an access knows its chip */
                struct pic *pic;
                unsigned n;
        } port[2];
};

/* Distance from the top of the rotating priority; 8 when @mask is empty. */
static unsigned highest(const struct pic_chip *chip, u8 mask)
{
        unsigned p = 0;

        while (p < 8 && !(mask & 1u << ((chip->priority_top + p) & 7)))
                p++;
        return p;
}

/* The input that the chip would interrupt with, or -1. */
static int chip_pending(const struct pic *pic, unsigned n)
{
        const struct pic_chip *chip = &pic->chip[n];
        const unsigned request = highest(chip, chip->irr & (u8)~chip->imr);
        u8 in_service = chip->isr;
        unsigned service;

        if (request == 8 || chip->init_step)
                return -1;
        if (chip->special_mask) /* a masked input in service does not block others */
                in_service &= (u8)~chip->imr;
        /* Special fully nested: the slave may interrupt its own service routine. */
        if (n == 0 && chip->special_fully_nested)
                in_service &= (u8) ~(1u << CASCADE_IRQ);
        service = highest(chip, in_service);
        return request < service ? (int)((chip->priority_top + request) & 7) : -1;
}

static void chip_input(struct pic_chip *chip, unsigned input, bool level)
{
        const u8 bit = (u8)(1u << input);

        /* An edge stays requested until it is acknowledged, also when the line falls again: chip sets latch pulses. */
        if (chip->elcr & bit)
                chip->irr = level ? chip->irr | bit : chip->irr & (u8)~bit;
        else if (level && !(chip->lines & bit))
                chip->irr |= bit;
        chip->lines = level ? chip->lines | bit : chip->lines & (u8)~bit;
}

static void outputs_update(struct pic *pic)
{
        bool level;

        chip_input(&pic->chip[0], CASCADE_IRQ, chip_pending(pic, 1) >= 0);
        if (!(pic->chip[0].lines & 1u << CASCADE_IRQ)) /* the slave took its request back */
                pic->chip[0].irr &= (u8) ~(1u << CASCADE_IRQ);
        level = chip_pending(pic, 0) >= 0;
        if (level != pic->intr_level) {
                pic->intr_level = level;
                irq_line_set(&pic->intr, level);
        }
}

void pic_irq_set(void *opaque, unsigned irq, bool level)
{
        struct pic *pic = opaque;

        if (irq > 15 || irq == CASCADE_IRQ)
                return;
        chip_input(&pic->chip[irq / 8], irq % 8, level);
        outputs_update(pic);
}

/* Moves @input from requested to in service. */
static void chip_ack(struct pic_chip *chip, unsigned input)
{
        const u8 bit = (u8)(1u << input);

        if (!(chip->elcr & bit))
                chip->irr &= (u8)~bit;
        if (!chip->auto_eoi)
                chip->isr |= bit;
        else if (chip->rotate_on_auto_eoi)
                chip->priority_top = (input + 1) & 7;
}

/* The acknowledge cycle of one chip: its vector; input 7 without a request is the spurious interrupt. */
static int chip_vector(struct pic *pic, unsigned n)
{
        const int input = chip_pending(pic, n);

        if (input < 0)
                return pic->chip[n].vector_base + 7;
        chip_ack(&pic->chip[n], (unsigned)input);
        return pic->chip[n].vector_base + input;
}

int pic_ack(void *opaque)
{
        struct pic *pic = opaque;
        const int input = chip_pending(pic, 0);
        int vector;

        if (input == CASCADE_IRQ) {
                vector = chip_vector(pic, 1);
                chip_ack(&pic->chip[0], CASCADE_IRQ);
        } else {
                vector = chip_vector(pic, 0);
        }
        outputs_update(pic);
        return vector & 0xff;
}

/* ---- registers ---- */

static void icw1_write(struct pic_chip *chip, u8 value)
{
        const u8 lines = chip->lines, elcr = chip->elcr;

        /* Edge detection is reset, mask and in-service bits are cleared, input 7 gets the lowest priority. */
        memset(chip, 0, sizeof(*chip));
        chip->lines = lines;
        chip->elcr = elcr;
        chip->irr = lines & elcr;
        chip->single = value & ICW1_SINGLE;
        chip->needs_icw4 = value & ICW1_ICW4;
        chip->init_step = 2;
}

static void icw_write(struct pic_chip *chip, u8 value)
{
        switch (chip->init_step) {
        case 2:
                chip->vector_base = value & 0xf8;
                chip->init_step = !chip->single ? 3 : chip->needs_icw4 ? 4 : 0;
                break;
        case 3: /* who is cascaded where is fixed on a PC */
                chip->init_step = chip->needs_icw4 ? 4 : 0;
                break;
        default:
                chip->special_fully_nested = value & ICW4_FULLY_NESTED;
                chip->auto_eoi = value & ICW4_AUTO_EOI;
                chip->init_step = 0;
                break;
        }
}

/* OCW2: rotate, specific, EOI in bits 7-5. Source: datasheet, figure 8. */
static void ocw2_write(struct pic_chip *chip, u8 value)
{
        const bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
        unsigned input = value & 7;

        if (!eoi && !specific) {
                chip->rotate_on_auto_eoi = rotate;
                return;
        }
        if (eoi && !specific) {
                const unsigned p = highest(chip, chip->isr);

                if (p == 8)
                        return;
                input = (chip->priority_top + p) & 7;
        }
        if (eoi)
                chip->isr &= (u8) ~(1u << input);
        if (rotate)
                chip->priority_top = (input + 1) & 7;
}

static void ocw3_write(struct pic_chip *chip, u8 value)
{
        chip->poll = value & OCW3_POLL;
        if (value & 2)
                chip->read_isr = value & 1;
        if (value & 0x40)
                chip->special_mask = value & 0x20;
}

static void port_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct pic_port *port = opaque;
        struct pic_chip *chip = &port->pic->chip[port->n];
        const u8 byte = (u8)value;

        if (offset == 0 && (byte & ICW1_INIT))
                icw1_write(chip, byte);
        else if (offset == 0 && (byte & OCW3))
                ocw3_write(chip, byte);
        else if (offset == 0)
                ocw2_write(chip, byte);
        else if (chip->init_step)
                icw_write(chip, byte);
        else
                chip->imr = byte;
        outputs_update(port->pic);
}

/* A read after the poll command is an acknowledge cycle: bit 7 when there is an interrupt, its input in 2-0. */
static u8 poll_read(struct pic *pic, unsigned n)
{
        const int input = chip_pending(pic, n);

        pic->chip[n].poll = false;
        if (input < 0)
                return 0;
        chip_ack(&pic->chip[n], (unsigned)input);
        outputs_update(pic);
        return (u8)(0x80 | input);
}

static u64 port_read(void *opaque, u64 offset, unsigned size)
{
        struct pic_port *port = opaque;
        const struct pic_chip *chip = &port->pic->chip[port->n];

        if (chip->poll)
                return poll_read(port->pic, port->n);
        if (offset == 1)
                return chip->imr;
        return chip->read_isr ? chip->isr : chip->irr;
}

static const struct io_ops pic_io_ops = { .read = port_read, .write = port_write, .max_size = 1 };

static u64 elcr_read(void *opaque, u64 offset, unsigned size)
{
        const struct pic *pic = opaque;

        return pic->chip[offset].elcr;
}

static void elcr_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct pic *pic = opaque;

        pic->chip[offset].elcr = (u8)value & elcr_writable[offset];
        outputs_update(pic);
}

static const struct io_ops elcr_ops = { .read = elcr_read, .write = elcr_write, .max_size = 1 };

/* ---- life ---- */

void pic_chips_get(const struct pic *pic, struct pic_chip ret[2])
{
        memcpy(ret, pic->chip, sizeof(pic->chip));
}

int pic_chips_set(struct pic *pic, const struct pic_chip chips[2], struct err **err)
{
        for (unsigned n = 0; n < 2; n++) {
                const struct pic_chip *c = &chips[n];

                if (c->priority_top > 7 || (c->vector_base & 7) || (c->elcr & ~elcr_writable[n]) || c->init_step == 1 ||
                    c->init_step > 4)
                        return err_set(err, ERR_BAD_STATE, EINVAL, "the saved interrupt controller state is damaged");
        }
        memcpy(pic->chip, chips, sizeof(pic->chip));
        outputs_update(pic);
        return 0;
}

static void pic_reset(struct device *dev)
{
        struct pic *pic = container_of(dev, struct pic, dev);

        for (unsigned n = 0; n < 2; n++) {
                const u8 lines = pic->chip[n].lines;

                /* All inputs masked until software initialises the chips, which undoes it. */
                pic->chip[n] = (struct pic_chip){ .lines = lines, .imr = 0xff };
        }
        outputs_update(pic);
}

static void pic_save(struct device *dev, struct state_out *out)
{
        const struct pic *pic = container_of(dev, struct pic, dev);

        for (unsigned n = 0; n < 2; n++) {
                const struct pic_chip *c = &pic->chip[n];
                const u8 bytes[] = { c->irr, c->imr, c->isr, c->lines, c->vector_base, c->priority_top, c->elcr, c->init_step };
                const bool flags[] = { c->needs_icw4, c->single, c->auto_eoi, c->rotate_on_auto_eoi,
                                       c->special_fully_nested, c->special_mask, c->read_isr, c->poll };

                state_put_bytes(out, bytes, sizeof(bytes));
                for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                        state_put_bool(out, flags[i]);
        }
}

static int pic_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct pic *pic = container_of(dev, struct pic, dev);
        struct pic_chip chips[2];

        for (unsigned n = 0; n < 2; n++) {
                struct pic_chip *c = &chips[n];
                u8 *const bytes[] = { &c->irr, &c->imr, &c->isr, &c->lines, &c->vector_base, &c->priority_top, &c->elcr,
                                      &c->init_step };
                bool *const flags[] = { &c->needs_icw4, &c->single, &c->auto_eoi, &c->rotate_on_auto_eoi,
                                        &c->special_fully_nested, &c->special_mask, &c->read_isr, &c->poll };

                for (size_t i = 0; i < ARRAY_SIZE(bytes); i++)
                        *bytes[i] = state_get_u8(in);
                for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                        *flags[i] = state_get_bool(in);
        }
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved interrupt controller state is truncated");
        return pic_chips_set(pic, chips, err);
}

static const struct {
        u16 port;
        bool elcr;
} pic_ports[] = { { 0x20, false }, { 0xa0, false }, { 0x4d0, true } };

static void pic_destroy(struct device *dev)
{
        struct pic *pic = container_of(dev, struct pic, dev);

        for (size_t i = 0; i < ARRAY_SIZE(pic_ports); i++)
                io_space_remove(pic->env->ports, pic_ports[i].port, pic_ports[i].elcr ? (void *)pic : &pic->port[i]);
        free(pic);
}

static const struct device_ops pic_device_ops = {
        .name = "pic",
        .version = 1,
        .reset = pic_reset,
        .save = pic_save,
        .load = pic_load,
        .destroy = pic_destroy,
};

int pic_new(struct device_env *env, struct irq_line intr, struct pic **ret, struct err **err)
{
        struct pic *pic = calloc(1, sizeof(*pic));
        int r;

        if (!pic)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the interrupt controllers");
        pic->dev.ops = &pic_device_ops;
        pic->env = env;
        pic->intr = intr;
        for (size_t i = 0; i < ARRAY_SIZE(pic_ports); i++) {
                if (i < 2)
                        pic->port[i] = (struct pic_port){ .pic = pic, .n = (unsigned)i };
                r = io_space_add(env->ports, pic_ports[i].port, 2, pic_ports[i].elcr ? &elcr_ops : &pic_io_ops,
                                 pic_ports[i].elcr ? (void *)pic : &pic->port[i], "pic", err);
                if (r < 0) {
                        pic_destroy(&pic->dev);
                        return r;
                }
        }
        pic_reset(&pic->dev);
        env->add(env, &pic->dev);
        *ret = pic;
        return 0;
}

/* Registers (indirect, through IOREGSEL at 0x00 and IOWIN at 0x10). Source: 82093AA datasheet, 3.0:
 *
 *     0x00 ID           27-24 writable        0x01 VERSION  7-0 version, 23-16 last entry
 *     0x02 ARBITRATION  loaded with the ID    0x10 + 2n, 0x11 + 2n  redirection entry n
 *
 * A level-triggered entry sends while its pin is active and remote IRR is clear; remote IRR is set when a local APIC took
 * the message and cleared by that APIC's EOI, at which time a pin that is still active sends again. An edge-triggered entry
 * sends on each rising edge and forgets edges that come while it is masked. */
#include "dev/ioapic.h"

#include <errno.h>
#include <stdlib.h>

#define IOAPIC_VERSION 0x11u
#define IOAPIC_SIZE 0x1000u

enum { IOREGSEL = 0x00, IOWIN = 0x10 };
enum { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARBITRATION = 0x02, REG_REDIRECTION = 0x10 };

/* Redirection entry. */
#define RTE_LOGICAL BIT(11)
#define RTE_DELIVERY_STATUS BIT(12)
#define RTE_ACTIVE_LOW BIT(13)
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL BIT(15)
#define RTE_MASKED BIT(16)
#define RTE_WRITABLE (0xff0000000001afffULL)
#define RTE_BITS (RTE_WRITABLE | RTE_REMOTE_IRR)

struct ioapic {
        struct device dev;
        struct device_env *env;
        struct lapic_set *lapics;
        u8 initial_id;
        struct ioapic_registers r;
};

/* Sends the interrupt of @pin. Returns true when somebody took it. */
static bool pin_send(struct ioapic *ioapic, unsigned pin)
{
        const u64 rte = ioapic->r.redirection[pin];
        const struct apic_message msg = {
                .destination = (u32)(rte >> 56),
                .logical = rte & RTE_LOGICAL,
                .delivery = (u8)(rte >> 8 & 7),
                .vector = (u8)rte,
                .level_triggered = rte & RTE_LEVEL,
        };

        return lapic_send(ioapic->lapics, &msg) > 0;
}

/* A level-triggered pin that is active and not yet being handled. Polarity is the board's convention: a pin is high when its
 * interrupt is asserted, whatever the entry says, as on hypervisors' boards. */
static void pin_service_level(struct ioapic *ioapic, unsigned pin)
{
        u64 *rte = &ioapic->r.redirection[pin];

        if (!(ioapic->r.pins & (1u << pin)) || !(*rte & RTE_LEVEL) || (*rte & (RTE_MASKED | RTE_REMOTE_IRR)))
                return;
        if (pin_send(ioapic, pin)) /* when nobody took it, the next change of pin or entry tries again */
                *rte |= RTE_REMOTE_IRR;
}

void ioapic_pin_set(struct ioapic *ioapic, unsigned pin, bool level)
{
        const u32 bit = pin < IOAPIC_PINS ? 1u << pin : 0;
        const u32 old = ioapic->r.pins;

        if (!bit)
                return;
        ioapic->r.pins = level ? old | bit : old & ~bit;
        if (!level || (old & bit))
                return;
        if (ioapic->r.redirection[pin] & RTE_LEVEL)
                pin_service_level(ioapic, pin);
        else if (!(ioapic->r.redirection[pin] & RTE_MASKED))
                pin_send(ioapic, pin);
}

void ioapic_gsi_set(void *opaque, unsigned gsi, bool level)
{
        ioapic_pin_set(opaque, gsi == 0 ? 2 : gsi, level);
}

static void on_eoi(void *opaque, u8 vector)
{
        struct ioapic *ioapic = opaque;

        for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
                u64 *rte = &ioapic->r.redirection[pin];

                if ((u8)*rte != vector || !(*rte & RTE_REMOTE_IRR))
                        continue;
                *rte &= ~RTE_REMOTE_IRR;
                pin_service_level(ioapic, pin);
        }
}

/* ---- registers ---- */

static u32 register_read(const struct ioapic *ioapic, unsigned reg)
{
        const unsigned pin = (reg - REG_REDIRECTION) / 2;

        if (reg == REG_ID || reg == REG_ARBITRATION)
                return (u32)ioapic->r.id << 24;
        if (reg == REG_VERSION)
                return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
        if (reg < REG_REDIRECTION || pin >= IOAPIC_PINS)
                return 0;
        return (u32)(ioapic->r.redirection[pin] >> (reg & 1 ? 32 : 0));
}

static void redirection_write(struct ioapic *ioapic, unsigned pin, bool high, u32 value)
{
        const u64 old = ioapic->r.redirection[pin];
        u64 rte = high ? (old & 0xffffffffULL) | (u64)value << 32 : (old & ~0xffffffffULL) | value;

        rte &= RTE_WRITABLE;
        /* An edge-triggered entry has no remote IRR; software switches to edge and back to clear a stuck one. */
        if (rte & RTE_LEVEL)
                rte |= old & RTE_REMOTE_IRR;
        ioapic->r.redirection[pin] = rte;
        pin_service_level(ioapic, pin);
}

static void register_write(struct ioapic *ioapic, unsigned reg, u32 value)
{
        const unsigned pin = (reg - REG_REDIRECTION) / 2;

        if (reg == REG_ID)
                ioapic->r.id = (u8)(value >> 24 & 0xf);
        else if (reg >= REG_REDIRECTION && pin < IOAPIC_PINS)
                redirection_write(ioapic, pin, reg & 1, value);
}

/* Reads of any width see the bytes of the register; stores must be aligned, narrower ones are extended with zeros. */
static u64 mmio_read(void *opaque, u64 offset, unsigned size)
{
        const struct ioapic *ioapic = opaque;
        const unsigned shift = (unsigned)(offset & 3) * 8;

        switch (offset & ~3ULL) {
        case IOREGSEL:
                return (u64)ioapic->r.select >> shift;
        case IOWIN:
                return (u64)register_read(ioapic, ioapic->r.select) >> shift;
        default:
                return 0;
        }
}

static void mmio_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct ioapic *ioapic = opaque;

        if (offset == IOREGSEL)
                ioapic->r.select = (u8)value;
        else if (offset == IOWIN)
                register_write(ioapic, ioapic->r.select, (u32)value);
}

static const struct io_ops ioapic_io_ops = { .read = mmio_read, .write = mmio_write, .max_size = 4 };

/* ---- life ---- */

void ioapic_registers_get(const struct ioapic *ioapic, struct ioapic_registers *ret)
{
        *ret = ioapic->r;
}

int ioapic_registers_set(struct ioapic *ioapic, const struct ioapic_registers *regs, struct err **err)
{
        struct ioapic_registers r = *regs;
        bool ok = r.id <= 0xf && !(r.pins >> IOAPIC_PINS);

        for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
                r.redirection[pin] &= ~RTE_DELIVERY_STATUS; /* somebody else's may be in the middle of sending */
                ok = ok && !(r.redirection[pin] & ~RTE_BITS) &&
                     !((r.redirection[pin] & RTE_REMOTE_IRR) && !(r.redirection[pin] & RTE_LEVEL));
        }
        if (!ok)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved IOAPIC state is damaged");
        ioapic->r = r;
        return 0;
}

static void ioapic_reset(struct device *dev)
{
        struct ioapic *ioapic = container_of(dev, struct ioapic, dev);

        ioapic->r.id = ioapic->initial_id;
        ioapic->r.select = 0;
        for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
                ioapic->r.redirection[pin] = RTE_MASKED;
        /* Pin levels belong to the devices, which lower them in their own reset. */
}

static void ioapic_save(struct device *dev, struct state_out *out)
{
        const struct ioapic *ioapic = container_of(dev, struct ioapic, dev);

        state_put_u8(out, ioapic->r.id);
        state_put_u8(out, ioapic->r.select);
        state_put_u32(out, ioapic->r.pins);
        for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
                state_put_u64(out, ioapic->r.redirection[pin]);
}

static int ioapic_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct ioapic *ioapic = container_of(dev, struct ioapic, dev);
        struct ioapic_registers r;

        r.id = state_get_u8(in);
        r.select = state_get_u8(in);
        r.pins = state_get_u32(in);
        for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
                r.redirection[pin] = state_get_u64(in);
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved IOAPIC state is truncated");
        return ioapic_registers_set(ioapic, &r, err);
}

static void ioapic_destroy(struct device *dev)
{
        struct ioapic *ioapic = container_of(dev, struct ioapic, dev);

        io_space_remove(&ioapic->env->memory->mmio, IOAPIC_BASE, ioapic);
        free(ioapic);
}

static const struct device_ops ioapic_device_ops = {
        .name = "ioapic",
        .version = 1,
        .reset = ioapic_reset,
        .save = ioapic_save,
        .load = ioapic_load,
        .destroy = ioapic_destroy,
};

int ioapic_new(struct device_env *env, struct lapic_set *lapics, u8 id, struct ioapic **ret, struct err **err)
{
        struct ioapic *ioapic = calloc(1, sizeof(*ioapic));
        int r;

        if (!ioapic)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the IOAPIC");
        ioapic->dev.ops = &ioapic_device_ops;
        ioapic->env = env;
        ioapic->lapics = lapics;
        ioapic->initial_id = id & 0xf;
        r = io_space_add(&env->memory->mmio, IOAPIC_BASE, IOAPIC_SIZE, &ioapic_io_ops, ioapic, "ioapic", err);
        if (r < 0) {
                free(ioapic);
                return r;
        }
        ioapic_reset(&ioapic->dev);
        lapic_on_eoi(lapics, on_eoi, ioapic);
        env->add(env, &ioapic->dev);
        *ret = ioapic;
        return 0;
}

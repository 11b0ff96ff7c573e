/* Registers, from port 0x600. Source: ACPI 6.4, 4.8.3.1-4.8.3.3:
 *
 *     0  PM1_STS  write 1 to clear    2  PM1_EN    4  PM1_CNT    8  PM_TMR (read-only)
 *
 * There is no SMI command port: the machine is always in ACPI mode and SCI_EN reads as 1. */
#include "dev/pm.h"

#include <errno.h>
#include <stdlib.h>

#include "dev/guest_clock.h"

#define PM_SIZE 12

/* PM1_STS and PM1_EN share their bit positions. */
#define PM1_TIMER 0x0001
#define PM1_GLOBAL 0x0020
#define PM1_POWER_BUTTON 0x0100
#define PM1_SLEEP_BUTTON 0x0200
#define PM1_RTC 0x0400
#define PM1_WAKE 0x8000
#define PM1_STATUS_BITS (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC | PM1_WAKE)
#define PM1_ENABLE_BITS (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC)

#define CNT_SCI_ENABLE 0x0001
#define CNT_SLEEP_ENABLE 0x2000
#define CNT_SLEEP_TYPE(v) ((v) >> 10 & 7)
#define CNT_BITS 0x1c02 /* SLP_TYP and BM_RLD are kept */

#define RST_CPU 0x04
#define RST_BITS 0x0e

struct pm {
        struct device dev;
        struct device_env *env;
        struct irq_line sci;
        struct guest_clock clock;
        struct loop_timer timer; /* for the timer's overflow, while it may interrupt */
        unsigned timer_bits;
        bool has_reset_port;
        u64 overflows; /* changes of the timer's top bit that are in PM1_STS */
        u16 status, enable, control;
        u8 reset_control;
};

/* ---- the timer ---- */

static u64 timer_ticks(const struct pm *pm)
{
        return muldiv64(guest_clock_now(&pm->clock), PM_TIMER_HZ, NSEC_PER_SEC);
}

/* TMR_STS is set whenever the top bit changes. */
static void timer_sync(struct pm *pm)
{
        const u64 overflows = timer_ticks(pm) >> (pm->timer_bits - 1);

        if (overflows != pm->overflows)
                pm->status |= PM1_TIMER;
        pm->overflows = overflows;
        if ((pm->enable & PM1_TIMER) && !(pm->status & PM1_TIMER))
                guest_clock_arm(&pm->clock, &pm->timer,
                                muldiv64((overflows + 1) << (pm->timer_bits - 1), NSEC_PER_SEC, PM_TIMER_HZ) + 1);
        else
                loop_timer_cancel(&pm->timer);
}

static void sci_update(struct pm *pm)
{
        timer_sync(pm);
        irq_line_set(&pm->sci, pm->status & pm->enable);
}

static void on_timer(void *opaque)
{
        sci_update(opaque);
}

/* ---- registers ---- */

static void sleep_enter(struct pm *pm, unsigned type)
{
        if (type == PM_SLEEP_S5)
                pm->env->stop(pm->env, MACHINE_POWER_OFF, 0);
        else if (type == PM_SLEEP_S3)
                pm->env->stop(pm->env, MACHINE_SUSPEND, 0);
}

/* The whole block as bytes: software uses every width. */
static u64 pm_read(void *opaque, u64 offset, unsigned size)
{
        struct pm *pm = opaque;

        if (offset >= 8)
                return (timer_ticks(pm) & (BIT(pm->timer_bits) - 1)) >> ((offset - 8) * 8);
        timer_sync(pm);
        return (pm->status | (u64)pm->enable << 16 | (u64)(pm->control | CNT_SCI_ENABLE) << 32) >> (offset * 8);
}

static void pm_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct pm *pm = opaque;
        u64 bytes, mask;

        if (offset >= 8)
                return;
        timer_sync(pm);
        mask = (size >= 8 ? ~0ULL : BIT(size * 8) - 1) << (offset * 8);
        bytes = value << (offset * 8) & mask;
        pm->status &= (u16)~bytes;
        if (mask & 0xffff0000ULL)
                pm->enable = (u16)((pm->enable & ~(mask >> 16)) | bytes >> 16) & PM1_ENABLE_BITS;
        if (mask & 0xffff00000000ULL) {
                const u16 control = (u16)((pm->control & ~(mask >> 32)) | bytes >> 32);

                pm->control = control & CNT_BITS;
                if (control & CNT_SLEEP_ENABLE)
                        sleep_enter(pm, CNT_SLEEP_TYPE(control));
        }
        sci_update(pm);
}

static const struct io_ops pm_io_ops = { .read = pm_read, .write = pm_write, .max_size = 4 };

u8 pm_reset_control_read(struct pm *pm)
{
        return pm->reset_control;
}

void pm_reset_control_write(struct pm *pm, u8 value)
{
        const bool reset = (value & RST_CPU) && !(pm->reset_control & RST_CPU);

        pm->reset_control = value & RST_BITS;
        if (reset)
                pm->env->stop(pm->env, MACHINE_RESET, 0);
}

static u64 reset_read(void *opaque, u64 offset, unsigned size)
{
        return pm_reset_control_read(opaque);
}

static void reset_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        pm_reset_control_write(opaque, (u8)value);
}

static const struct io_ops reset_ops = { .read = reset_read, .write = reset_write, .max_size = 1 };

int pm_claim_reset_port(struct pm *pm, struct err **err)
{
        int r = io_space_add(pm->env->ports, PM_RESET_PORT, 1, &reset_ops, pm, "reset-control", err);

        pm->has_reset_port = r == 0;
        return r;
}

/* ---- from outside ---- */

void pm_power_button(struct pm *pm)
{
        pm->status |= PM1_POWER_BUTTON;
        sci_update(pm);
}

void pm_wake(struct pm *pm, bool by_rtc)
{
        pm->status |= PM1_WAKE | (by_rtc ? PM1_RTC : 0);
        sci_update(pm);
}

/* ---- life ---- */

static void pm_reset(struct device *dev)
{
        struct pm *pm = container_of(dev, struct pm, dev);

        pm->status = pm->enable = pm->control = 0;
        pm->reset_control = 0;
        pm->overflows = timer_ticks(pm) >> (pm->timer_bits - 1);
        sci_update(pm);
}

static void pm_save(struct device *dev, struct state_out *out)
{
        const struct pm *pm = container_of(dev, struct pm, dev);

        state_put_u64(out, guest_clock_now(&pm->clock));
        state_put_u64(out, pm->overflows);
        state_put_u16(out, pm->status);
        state_put_u16(out, pm->enable);
        state_put_u16(out, pm->control);
        state_put_u8(out, pm->reset_control);
}

static int pm_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct pm *pm = container_of(dev, struct pm, dev);
        const u64 now = state_get_u64(in), overflows = state_get_u64(in);
        const u16 status = state_get_u16(in), enable = state_get_u16(in), control = state_get_u16(in);
        const u8 reset_control = state_get_u8(in);

        if (state_in_error(in) || now >= BIT(62) || (status & ~PM1_STATUS_BITS) || (enable & ~PM1_ENABLE_BITS) ||
            (control & ~CNT_BITS) || (reset_control & ~RST_BITS))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved power management state is damaged");
        guest_clock_restore(&pm->clock, now);
        pm->overflows = overflows;
        pm->status = status;
        pm->enable = enable;
        pm->control = control;
        pm->reset_control = reset_control;
        sci_update(pm);
        return 0;
}

static void pm_quiesce(struct device *dev)
{
        struct pm *pm = container_of(dev, struct pm, dev);

        guest_clock_freeze(&pm->clock);
        loop_timer_cancel(&pm->timer);
}

static void pm_resume(struct device *dev)
{
        struct pm *pm = container_of(dev, struct pm, dev);

        guest_clock_thaw(&pm->clock);
        sci_update(pm);
}

static void pm_destroy(struct device *dev)
{
        struct pm *pm = container_of(dev, struct pm, dev);

        loop_timer_cancel(&pm->timer);
        io_space_remove(pm->env->ports, PM_BASE, pm);
        if (pm->has_reset_port)
                io_space_remove(pm->env->ports, PM_RESET_PORT, pm);
        free(pm);
}

static const struct device_ops pm_device_ops = {
        .name = "acpi-pm",
        .version = 1,
        .reset = pm_reset,
        .save = pm_save,
        .load = pm_load,
        .destroy = pm_destroy,
        .quiesce = pm_quiesce,
        .resume = pm_resume,
};

int pm_new(struct device_env *env, const struct pm_config *config, struct pm **ret, struct err **err)
{
        struct pm *pm = calloc(1, sizeof(*pm));
        int r;

        if (!pm)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for power management");
        pm->dev.ops = &pm_device_ops;
        pm->env = env;
        pm->timer_bits = config->timer_32bit ? 32 : 24;
        pm->clock.offset = clock_now_ns(); /* counts from 0 */
        loop_timer_init(&pm->timer, env->loop, on_timer, pm);
        r = io_space_add(env->ports, PM_BASE, PM_SIZE, &pm_io_ops, pm, "acpi-pm", err);
        if (r < 0) {
                free(pm);
                return r;
        }
        pm->sci = env->irq(env, PM_SCI_GSI);
        pm_reset(&pm->dev);
        env->add(env, &pm->dev);
        *ret = pm;
        return 0;
}

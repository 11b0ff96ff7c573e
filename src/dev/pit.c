/* Registers. Source: 8254 datasheet, figure 7:
 *
 *     0x40-0x42  counter 0-2       0x43  control word: 7-6 counter (3: read-back), 5-4 access (0: latch), 3-1 mode, 0 BCD
 *
 * Nothing ticks: a counter is the time at which it was loaded, and its count and output are computed from the clock when
 * somebody looks. Only counter 0 has a host timer, for its interrupt.
 *
 * Counter 0's interrupts stay on the grid load + n * period, so they do not drift. When the host was late, the missed ones
 * follow at least IRQ_GAP_NS apart, up to TICKS_BEHIND_MAX of them; what is further behind is dropped. That bounds both what a
 * guest can make the host do and how long it runs fast.
 *
 * A new count takes effect at once, also in modes 2 and 3, where the datasheet lets the current period end first. */
#include "dev/pit.h"

#include <errno.h>
#include <stdlib.h>

#include "dev/guest_clock.h"

#define PIT_PORT 0x40
#define CHANNELS 3
#define IRQ_GAP_NS 200000ULL
#define TICKS_BEHIND_MAX 20

enum { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };

struct pit_channel {
        u8 mode, access;
        bool bcd, gate;
        u32 count;        /* 1..65536; 0: none loaded since the control word */
        bool running;
        u64 start;        /* while running: guest-clock time at which 0 ticks had passed */
        u64 stopped_at;   /* while not running: ticks that had passed */
        u8 low_byte;      /* written first in ACCESS_BOTH */
        bool write_high, read_high;
        bool count_latched, status_latched;
        u16 latched_count;
        u8 latched_status;
};

struct pit {
        struct device dev;
        struct device_env *env;
        struct irq_line irq;
        struct guest_clock clock;
        struct loop_timer timer;
        struct pit_channel channel[CHANNELS];
        u64 fired; /* interrupts since counter 0 was loaded */
};

/* ---- what a counter looks like now ---- */

static u64 ns_of_ticks(u64 ticks)
{
        return muldiv64(ticks, NSEC_PER_SEC, PIT_HZ) + 1;
}

static u64 ticks_passed(const struct pit *pit, const struct pit_channel *c)
{
        return c->running ? muldiv64(guest_clock_now(&pit->clock) - c->start, PIT_HZ, NSEC_PER_SEC) : c->stopped_at;
}

static bool channel_out(const struct pit *pit, const struct pit_channel *c)
{
        const u64 t = ticks_passed(pit, c);

        if (!c->count)
                return c->mode != 0;
        switch (c->mode) {
        case 0:
        case 1:
                return t >= c->count;
        case 2:
                return !c->running || t % c->count != c->count - 1;
        case 3:
                return !c->running || t % c->count < (c->count + 1) / 2;
        default: /* 4, 5: low for the one tick at which the count is 0 */
                return t != c->count;
        }
}

static u16 to_bcd(u32 v)
{
        return (u16)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static u16 channel_count(const struct pit *pit, const struct pit_channel *c)
{
        const u64 t = ticks_passed(pit, c), wrap = c->bcd ? 10000 : 65536;
        u64 value;

        if (!c->count)
                return 0;
        switch (c->mode) {
        case 2:
                value = c->count - t % c->count;
                break;
        case 3: /* counts down by two, twice a period */
                value = c->count - 2 * t % c->count;
                value &= ~1ULL;
                break;
        default: /* goes on below 0 */
                value = (c->count + wrap - t % wrap) % wrap;
                break;
        }
        return c->bcd ? to_bcd((u32)value) : (u16)value;
}

/* ---- counter 0's interrupt ---- */

static bool periodic(const struct pit_channel *c)
{
        return c->mode == 2 || c->mode == 3;
}

/* When counter 0 interrupts next; 0 for never. */
static u64 next_irq(const struct pit *pit)
{
        const struct pit_channel *c = &pit->channel[0];

        if (!c->count || !c->running || (pit->fired && !periodic(c)))
                return 0;
        return c->start + ns_of_ticks((pit->fired + 1) * c->count + (c->mode >= 4));
}

static void irq_arm(struct pit *pit, u64 not_before)
{
        const u64 next = next_irq(pit);

        if (next)
                guest_clock_arm(&pit->clock, &pit->timer, MAX(next, not_before));
        else
                loop_timer_cancel(&pit->timer);
}

static void on_timer(void *opaque)
{
        struct pit *pit = opaque;
        struct pit_channel *c = &pit->channel[0];
        const u64 now = guest_clock_now(&pit->clock), next = next_irq(pit);

        if (!next || next > now) {
                irq_arm(pit, 0);
                return;
        }
        pit->fired++;
        if (periodic(c)) {
                const u64 due = ticks_passed(pit, c) / c->count;

                if (due > pit->fired + TICKS_BEHIND_MAX)
                        pit->fired = due - TICKS_BEHIND_MAX;
        }
        /* Modes 0 and 1 leave the output high; the others end with a rising edge. */
        if (c->mode >= 2)
                irq_line_set(&pit->irq, false);
        irq_line_set(&pit->irq, true);
        irq_arm(pit, now + IRQ_GAP_NS);
}

static void irq_restart(struct pit *pit)
{
        pit->fired = 0;
        irq_line_set(&pit->irq, false);
        irq_arm(pit, 0);
}

/* ---- loading and gates ---- */

static void channel_start(const struct pit *pit, struct pit_channel *c, u64 ticks)
{
        c->running = true;
        c->start = guest_clock_now(&pit->clock) - (ticks ? ns_of_ticks(ticks) : 0);
}

static void channel_stop(struct pit_channel *c, u64 ticks)
{
        c->running = false;
        c->stopped_at = ticks;
}

static u32 from_bcd(u16 v)
{
        return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15u);
}

static void channel_load(struct pit *pit, struct pit_channel *c, u16 value)
{
        const u32 count = c->bcd ? from_bcd(value) : value;

        c->count = count ? count : c->bcd ? 10000 : 65536;
        if (c->mode == 1 || c->mode == 5) /* wait for the gate, output high */
                channel_stop(c, c->count + 1);
        else if (c->gate)
                channel_start(pit, c, 0);
        else
                channel_stop(c, 0);
        if (c == &pit->channel[0])
                irq_restart(pit);
}

/* Source: datasheet, figure 21 (gate pin operations). */
void pit_channel2_gate(struct pit *pit, bool level)
{
        struct pit_channel *c = &pit->channel[2];

        if (level == c->gate)
                return;
        if (!level && (c->mode == 0 || c->mode == 4))
                channel_stop(c, ticks_passed(pit, c));
        else if (!level && periodic(c))
                channel_stop(c, 0);
        else if (level && (c->mode == 0 || c->mode == 4))
                channel_start(pit, c, c->stopped_at);
        else if (level)
                channel_start(pit, c, 0);
        c->gate = level;
}

bool pit_channel2_gate_get(const struct pit *pit)
{
        return pit->channel[2].gate;
}

bool pit_channel2_out(struct pit *pit)
{
        return channel_out(pit, &pit->channel[2]);
}

/* ---- registers ---- */

static void latch_count(const struct pit *pit, struct pit_channel *c)
{
        if (c->count_latched) /* the first latch holds until it is read */
                return;
        c->latched_count = channel_count(pit, c);
        c->count_latched = true;
}

static void latch_status(const struct pit *pit, struct pit_channel *c)
{
        if (c->status_latched)
                return;
        c->latched_status = (u8)(channel_out(pit, c) << 7 | !c->count << 6 | c->access << 4 | c->mode << 1 | c->bcd);
        c->status_latched = true;
}

/* Bits 1-3: counters, 4: no status, 5: no count. */
static void read_back(struct pit *pit, u8 value)
{
        for (unsigned i = 0; i < CHANNELS; i++) {
                if (!(value & 2u << i))
                        continue;
                if (!(value & 0x20))
                        latch_count(pit, &pit->channel[i]);
                if (!(value & 0x10))
                        latch_status(pit, &pit->channel[i]);
        }
}

static void control_write(struct pit *pit, u8 value)
{
        struct pit_channel *c;

        if (value >> 6 == 3) {
                read_back(pit, value);
                return;
        }
        c = &pit->channel[value >> 6];
        if ((value >> 4 & 3) == ACCESS_LATCH) {
                latch_count(pit, c);
                return;
        }
        c->access = value >> 4 & 3;
        c->mode = value >> 1 & 7;
        if (c->mode > 5) /* bit 2 is ignored in modes 2 and 3 */
                c->mode -= 4;
        c->bcd = value & 1;
        c->count = 0;
        c->write_high = c->read_high = c->count_latched = c->status_latched = false;
        channel_stop(c, 0);
        if (c == &pit->channel[0])
                irq_restart(pit);
}

static void pit_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct pit *pit = opaque;
        const u8 byte = (u8)value;
        struct pit_channel *c;

        if (offset == CHANNELS) {
                control_write(pit, byte);
                return;
        }
        c = &pit->channel[offset];
        if (c->access == ACCESS_LOW) {
                channel_load(pit, c, byte);
        } else if (c->access == ACCESS_HIGH) {
                channel_load(pit, c, (u16)(byte << 8));
        } else if (!c->write_high) {
                c->low_byte = byte;
                c->write_high = true;
        } else {
                c->write_high = false;
                channel_load(pit, c, (u16)(byte << 8 | c->low_byte));
        }
}

static u64 pit_read(void *opaque, u64 offset, unsigned size)
{
        struct pit *pit = opaque;
        struct pit_channel *c;
        bool high;
        u16 count;

        if (offset == CHANNELS) /* the control word cannot be read */
                return 0xff;
        c = &pit->channel[offset];
        if (c->status_latched) {
                c->status_latched = false;
                return c->latched_status;
        }
        count = c->count_latched ? c->latched_count : channel_count(pit, c);
        high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);
        if (c->access == ACCESS_BOTH)
                c->read_high = !c->read_high;
        if (c->access != ACCESS_BOTH || high)
                c->count_latched = false;
        return high ? count >> 8 : count & 0xff;
}

static const struct io_ops pit_io_ops = { .read = pit_read, .write = pit_write, .max_size = 1 };

/* ---- life ---- */

static void pit_reset(struct device *dev)
{
        struct pit *pit = container_of(dev, struct pit, dev);

        for (unsigned i = 0; i < CHANNELS; i++)
                pit->channel[i] = (struct pit_channel){ .mode = 3, .access = ACCESS_BOTH, .gate = i != 2 };
        irq_restart(pit);
}

static void pit_save(struct device *dev, struct state_out *out)
{
        const struct pit *pit = container_of(dev, struct pit, dev);

        state_put_u64(out, guest_clock_now(&pit->clock));
        state_put_u64(out, pit->fired);
        for (unsigned i = 0; i < CHANNELS; i++) {
                const struct pit_channel *c = &pit->channel[i];

                state_put_u8(out, c->mode);
                state_put_u8(out, c->access);
                state_put_bool(out, c->bcd);
                state_put_bool(out, c->gate);
                state_put_u32(out, c->count);
                state_put_bool(out, c->running);
                state_put_u64(out, c->start);
                state_put_u64(out, c->stopped_at);
                state_put_u8(out, c->low_byte);
                state_put_bool(out, c->write_high);
                state_put_bool(out, c->read_high);
                state_put_bool(out, c->count_latched);
                state_put_bool(out, c->status_latched);
                state_put_u16(out, c->latched_count);
                state_put_u8(out, c->latched_status);
        }
}

static bool get_channel(struct state_in *in, struct pit_channel *c)
{
        c->mode = state_get_u8(in);
        c->access = state_get_u8(in);
        c->bcd = state_get_bool(in);
        c->gate = state_get_bool(in);
        c->count = state_get_u32(in);
        c->running = state_get_bool(in);
        c->start = state_get_u64(in);
        c->stopped_at = state_get_u64(in);
        c->low_byte = state_get_u8(in);
        c->write_high = state_get_bool(in);
        c->read_high = state_get_bool(in);
        c->count_latched = state_get_bool(in);
        c->status_latched = state_get_bool(in);
        c->latched_count = state_get_u16(in);
        c->latched_status = state_get_u8(in);
        return c->mode <= 5 && c->access >= ACCESS_LOW && c->access <= ACCESS_BOTH && c->count <= 65536 &&
               c->stopped_at < BIT(48);
}

static int pit_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct pit *pit = container_of(dev, struct pit, dev);
        struct pit_channel channel[CHANNELS];
        const u64 now = state_get_u64(in), fired = state_get_u64(in);
        bool ok = now < BIT(62) && fired < BIT(40);

        for (unsigned i = 0; i < CHANNELS; i++) {
                ok = get_channel(in, &channel[i]) && ok;
                /* A start may lie before the clock's own start (wrapped), never in the future. */
                ok = ok && now - channel[i].start < BIT(62);
        }
        if (!ok || state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved interval timer state is damaged");
        guest_clock_restore(&pit->clock, now);
        pit->fired = fired;
        for (unsigned i = 0; i < CHANNELS; i++)
                pit->channel[i] = channel[i];
        irq_arm(pit, 0);
        return 0;
}

static void pit_quiesce(struct device *dev)
{
        struct pit *pit = container_of(dev, struct pit, dev);

        guest_clock_freeze(&pit->clock);
        loop_timer_cancel(&pit->timer);
}

static void pit_resume(struct device *dev)
{
        struct pit *pit = container_of(dev, struct pit, dev);

        guest_clock_thaw(&pit->clock);
        irq_arm(pit, 0);
}

static void pit_destroy(struct device *dev)
{
        struct pit *pit = container_of(dev, struct pit, dev);

        loop_timer_cancel(&pit->timer);
        io_space_remove(pit->env->ports, PIT_PORT, pit);
        free(pit);
}

static const struct device_ops pit_device_ops = {
        .name = "pit",
        .version = 1,
        .reset = pit_reset,
        .save = pit_save,
        .load = pit_load,
        .destroy = pit_destroy,
        .quiesce = pit_quiesce,
        .resume = pit_resume,
};

int pit_new(struct device_env *env, struct pit **ret, struct err **err)
{
        struct pit *pit = calloc(1, sizeof(*pit));
        int r;

        if (!pit)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the interval timer");
        pit->dev.ops = &pit_device_ops;
        pit->env = env;
        loop_timer_init(&pit->timer, env->loop, on_timer, pit);
        r = io_space_add(env->ports, PIT_PORT, 4, &pit_io_ops, pit, "pit", err);
        if (r < 0) {
                free(pit);
                return r;
        }
        pit->irq = env->irq(env, 0);
        pit_reset(&pit->dev);
        env->add(env, &pit->dev);
        *ret = pit;
        return 0;
}

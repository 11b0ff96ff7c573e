/* Registers, through index port 0x70 and data port 0x71. Source: MC146818A datasheet, figures 10-14:
 *
 *     0-9  seconds, seconds alarm, minutes, minutes alarm, hours, hours alarm, weekday, day, month, year
 *     A    7 update in progress, 6-4 divider, 3-0 periodic rate
 *     B    7 SET, 6-4 periodic, alarm, update interrupt enable, 2 binary, 1 24-hour
 *     C    7 interrupt, 6-4 the flags that B enables; reading clears       D  7 valid
 *     0e-7f  RAM, with the century at 0x32
 *
 * Time is the host's UTC plus an offset, so it goes on while the machine is paused or saved. Nothing ticks: rtc_sync() works
 * out which events lie between the last look and now, sets their flags, and arms the host timer for the next event that may
 * interrupt. While SET is on the clock stands still and the time registers are plain bytes. */
#include "dev/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RTC_PORT 0x70
#define RTC_GSI 8
#define CMOS_SIZE 128
#define UPDATE_NS 244000ULL      /* UIP is high for this long before the time changes */
#define TIMER_GAP_NS 100000ULL
#define DAY 86400

enum {
        REG_SECONDS = 0, REG_SECONDS_ALARM, REG_MINUTES, REG_MINUTES_ALARM, REG_HOURS, REG_HOURS_ALARM, REG_WEEKDAY, REG_DAY,
        REG_MONTH, REG_YEAR, REG_A, REG_B, REG_C, REG_D,
};

#define A_UPDATE 0x80
#define A_DIVIDER 0x70
#define A_DIVIDER_RUNNING 0x20
#define A_RATE 0x0f
#define B_SET 0x80
#define B_BINARY 0x04
#define B_24_HOURS 0x02
#define C_INTERRUPT 0x80
#define C_PERIODIC 0x40
#define C_ALARM 0x20
#define C_UPDATE 0x10
#define C_FLAGS (C_PERIODIC | C_ALARM | C_UPDATE)
#define D_VALID 0x80

struct rtc {
        struct device dev;
        struct device_env *env;
        struct irq_line irq;
        struct rtc_config config;
        struct loop_timer timer;
        u8 index;
        u8 cmos[CMOS_SIZE]; /* 0-9 and the century are current only while SET is on or right after time_to_registers */
        s64 offset_ns;      /* clock minus the host's UTC */
        u64 synced_ns;      /* events up to this time of the clock are in register C */
        bool quiet;         /* quiesced: events wait */
};

/* ---- the calendar ---- */

static u64 rtc_now(const struct rtc *rtc)
{
        struct timespec ts;

        clock_gettime(CLOCK_REALTIME, &ts);
        return (u64)((s64)ts.tv_sec * (s64)NSEC_PER_SEC + ts.tv_nsec + rtc->offset_ns);
}

static u8 encode(const struct rtc *rtc, unsigned v)
{
        return (u8)(rtc->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

/* Any byte gives some number: guests may have written nonsense. */
static unsigned decode(const struct rtc *rtc, u8 v)
{
        return rtc->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15u);
}

static u8 encode_hour(const struct rtc *rtc, unsigned hour)
{
        if (rtc->cmos[REG_B] & B_24_HOURS)
                return encode(rtc, hour);
        return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(const struct rtc *rtc, u8 v)
{
        if (rtc->cmos[REG_B] & B_24_HOURS)
                return decode(rtc, v);
        return decode(rtc, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static void time_to_registers(struct rtc *rtc, u64 now)
{
        const time_t t = (time_t)(now / NSEC_PER_SEC);
        struct tm tm;

        if (!gmtime_r(&t, &tm))
                return;
        rtc->cmos[REG_SECONDS] = encode(rtc, (unsigned)tm.tm_sec);
        rtc->cmos[REG_MINUTES] = encode(rtc, (unsigned)tm.tm_min);
        rtc->cmos[REG_HOURS] = encode_hour(rtc, (unsigned)tm.tm_hour);
        rtc->cmos[REG_WEEKDAY] = encode(rtc, (unsigned)tm.tm_wday + 1);
        rtc->cmos[REG_DAY] = encode(rtc, (unsigned)tm.tm_mday);
        rtc->cmos[REG_MONTH] = encode(rtc, (unsigned)tm.tm_mon + 1);
        rtc->cmos[REG_YEAR] = encode(rtc, (unsigned)(tm.tm_year % 100));
        rtc->cmos[RTC_CENTURY_INDEX] = encode(rtc, (unsigned)(tm.tm_year / 100 + 19));
}

/* Sets the clock from the time registers; out-of-range fields carry over, as timegm does. */
static void time_from_registers(struct rtc *rtc)
{
        const unsigned century = decode(rtc, rtc->cmos[RTC_CENTURY_INDEX]);
        struct tm tm = {
                .tm_sec = (int)decode(rtc, rtc->cmos[REG_SECONDS]),
                .tm_min = (int)decode(rtc, rtc->cmos[REG_MINUTES]),
                .tm_hour = (int)decode_hour(rtc, rtc->cmos[REG_HOURS]),
                .tm_mday = (int)decode(rtc, rtc->cmos[REG_DAY]),
                .tm_mon = (int)decode(rtc, rtc->cmos[REG_MONTH]) - 1,
                .tm_year = (int)(century * 100 + decode(rtc, rtc->cmos[REG_YEAR])) - 1900,
        };
        struct timespec ts;
        time_t t;

        /* The clock is unsigned nanoseconds since 1970 and an offset must not overflow. */
        if (tm.tm_year < 71 || tm.tm_year >= 300)
                tm.tm_year = tm.tm_year < 71 ? 71 : 299;
        t = timegm(&tm);
        clock_gettime(CLOCK_REALTIME, &ts);
        rtc->offset_ns = ((s64)t - (s64)ts.tv_sec) * (s64)NSEC_PER_SEC - ts.tv_nsec;
        rtc->synced_ns = rtc_now(rtc);
}

/* ---- events ---- */

static bool running(const struct rtc *rtc)
{
        return !(rtc->cmos[REG_B] & B_SET) && (rtc->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUNNING;
}

/* In 32768ths of a second; 0 is off. Source: datasheet, table 5. */
static u64 period_ticks(const struct rtc *rtc)
{
        const unsigned rate = rtc->cmos[REG_A] & A_RATE;

        return rate == 0 ? 0 : 1ULL << (rate <= 2 ? rate + 6 : rate - 1);
}

static u64 ticks_of_ns(u64 ns)
{
        return muldiv64(ns, 32768, NSEC_PER_SEC);
}

static u64 next_periodic(const struct rtc *rtc, u64 after)
{
        const u64 period = period_ticks(rtc);

        return muldiv64((ticks_of_ns(after) / period + 1) * period, NSEC_PER_SEC, 32768) + 1;
}

static u64 next_second(u64 after)
{
        return (after / NSEC_PER_SEC + 1) * NSEC_PER_SEC;
}

static bool alarm_matches(u8 alarm, u8 now)
{
        return (alarm & 0xc0) == 0xc0 || alarm == now;
}

/* The first second after @after at which the alarm goes off; 0 when the alarm bytes are no time of day. Steps over hours and
 * minutes that do not match, so there are at most 24 + 60 + 60 steps. */
static u64 next_alarm(const struct rtc *rtc, u64 after)
{
        const u64 start = next_second(after) / NSEC_PER_SEC;
        u64 t = start;

        while (t < start + DAY) {
                const unsigned in_day = (unsigned)(t % DAY);

                if (!alarm_matches(rtc->cmos[REG_HOURS_ALARM], encode_hour(rtc, in_day / 3600)))
                        t += 3600 - in_day % 3600;
                else if (!alarm_matches(rtc->cmos[REG_MINUTES_ALARM], encode(rtc, in_day / 60 % 60)))
                        t += 60 - in_day % 60;
                else if (!alarm_matches(rtc->cmos[REG_SECONDS_ALARM], encode(rtc, in_day % 60)))
                        t++;
                else
                        return t * NSEC_PER_SEC;
        }
        return 0;
}

static void irq_update(struct rtc *rtc)
{
        const bool level = rtc->cmos[REG_C] & rtc->cmos[REG_B] & C_FLAGS;

        rtc->cmos[REG_C] = (rtc->cmos[REG_C] & C_FLAGS) | (level ? C_INTERRUPT : 0);
        irq_line_set(&rtc->irq, level);
}

/* Host time from now until @event of the clock, capped: a far alarm, or a host clock that is set, is looked at again. */
static void arm(struct rtc *rtc, u64 now, u64 event)
{
        const u64 delta = MIN(event - now, 60 * NSEC_PER_SEC);

        loop_timer_set(&rtc->timer, clock_now_ns() + MAX(delta, TIMER_GAP_NS));
}

static void rtc_sync(struct rtc *rtc)
{
        const u64 now = rtc_now(rtc), last = MIN(rtc->synced_ns, now);
        const u8 b = rtc->cmos[REG_B];
        u64 next = (u64)-1, alarm;

        if (rtc->quiet)
                return;
        rtc->synced_ns = now;
        if (!running(rtc)) {
                loop_timer_cancel(&rtc->timer);
                irq_update(rtc);
                return;
        }
        if (period_ticks(rtc) && next_periodic(rtc, last) <= now)
                rtc->cmos[REG_C] |= C_PERIODIC;
        if (next_second(last) <= now)
                rtc->cmos[REG_C] |= C_UPDATE;
        alarm = next_alarm(rtc, last);
        if (alarm && alarm <= now) {
                rtc->cmos[REG_C] |= C_ALARM;
                if ((b & C_ALARM) && rtc->config.on_alarm)
                        rtc->config.on_alarm(rtc->config.on_alarm_opaque);
                alarm = next_alarm(rtc, now);
        }
        /* A flag that is already set interrupts no more until it is read; then sync runs again. */
        if ((b & ~rtc->cmos[REG_C] & C_PERIODIC) && period_ticks(rtc))
                next = next_periodic(rtc, now);
        if (b & ~rtc->cmos[REG_C] & C_UPDATE)
                next = MIN(next, next_second(now));
        if ((b & ~rtc->cmos[REG_C] & C_ALARM) && alarm)
                next = MIN(next, alarm);
        if (next == (u64)-1)
                loop_timer_cancel(&rtc->timer);
        else
                arm(rtc, now, next);
        irq_update(rtc);
}

static void on_timer(void *opaque)
{
        rtc_sync(opaque);
}

/* ---- registers ---- */

static bool is_time(unsigned reg)
{
        return reg == RTC_CENTURY_INDEX || reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
               (reg >= REG_WEEKDAY && reg <= REG_YEAR);
}

static u8 register_read(struct rtc *rtc, unsigned reg)
{
        u64 now;
        u8 value;

        rtc_sync(rtc);
        now = rtc->synced_ns;
        if (is_time(reg) && running(rtc))
                time_to_registers(rtc, now);
        value = rtc->cmos[reg];
        if (reg == REG_A && running(rtc) && now % NSEC_PER_SEC >= NSEC_PER_SEC - UPDATE_NS)
                value |= A_UPDATE;
        if (reg == REG_C) {
                rtc->cmos[REG_C] = 0;
                rtc_sync(rtc); /* re-arms for what was waiting to be read */
        }
        return value;
}

static void register_write(struct rtc *rtc, unsigned reg, u8 value)
{
        const bool was_running = running(rtc);

        if (reg == REG_C || reg == REG_D)
                return;
        rtc_sync(rtc);
        if (was_running)
                time_to_registers(rtc, rtc->synced_ns);
        rtc->cmos[reg] = reg == REG_A ? value & (u8)~A_UPDATE : value;
        if (reg == REG_B && (value & B_SET))
                rtc->cmos[REG_B] &= (u8)~C_UPDATE; /* SET clears UIE */
        if (reg == REG_B && was_running && running(rtc))
                time_to_registers(rtc, rtc->synced_ns); /* BCD or 12 hours may have changed */
        else if (running(rtc) && (is_time(reg) || !was_running))
                time_from_registers(rtc);
        rtc_sync(rtc);
}

static u64 rtc_read(void *opaque, u64 offset, unsigned size)
{
        struct rtc *rtc = opaque;

        return offset == 0 ? 0xff : register_read(rtc, rtc->index);
}

static void rtc_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct rtc *rtc = opaque;

        if (offset == 0)
                rtc->index = value & (CMOS_SIZE - 1); /* bit 7 would mask NMI; no platform NMI needs it */
        else
                register_write(rtc, rtc->index, (u8)value);
}

static const struct io_ops rtc_io_ops = { .read = rtc_read, .write = rtc_write, .max_size = 1 };

/* ---- life ---- */

static void put_le(u8 *p, u64 value, unsigned bytes)
{
        for (unsigned i = 0; i < bytes; i++)
                p[i] = (u8)(value >> (8 * i));
}

/* What a PC's firmware leaves in CMOS: memory sizes and the number of further processors. */
static void cmos_fill(struct rtc *rtc)
{
        const struct rtc_config *c = &rtc->config;
        const u64 extended = c->ram_below_4g > MIB ? c->ram_below_4g - MIB : 0;
        const u64 above_16m = c->ram_below_4g > 16 * MIB ? c->ram_below_4g - 16 * MIB : 0;

        put_le(&rtc->cmos[0x15], 640, 2);
        put_le(&rtc->cmos[0x17], MIN(extended / KIB, 0xffffULL), 2);
        put_le(&rtc->cmos[0x30], MIN(extended / KIB, 0xffffULL), 2);
        put_le(&rtc->cmos[0x34], MIN(above_16m / (64 * KIB), 0xffffULL), 2);
        put_le(&rtc->cmos[0x5b], c->ram_above_4g / (64 * KIB), 3);
        rtc->cmos[0x5f] = (u8)(c->n_cpus ? c->n_cpus - 1 : 0);
}

/* The clock and its RAM have a battery: a machine reset only disables the interrupts. */
static void rtc_reset(struct device *dev)
{
        struct rtc *rtc = container_of(dev, struct rtc, dev);

        rtc->cmos[REG_B] &= (u8) ~(C_FLAGS | 0x08);
        rtc->cmos[REG_C] = 0;
        rtc_sync(rtc);
}

static void rtc_save(struct device *dev, struct state_out *out)
{
        const struct rtc *rtc = container_of(dev, struct rtc, dev);

        state_put_u8(out, rtc->index);
        state_put_bytes(out, rtc->cmos, sizeof(rtc->cmos));
        state_put_u64(out, (u64)rtc->offset_ns);
        state_put_u64(out, rtc->synced_ns);
}

static int rtc_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct rtc *rtc = container_of(dev, struct rtc, dev);
        struct rtc s = { .index = state_get_u8(in) };

        state_get_bytes(in, s.cmos, sizeof(s.cmos));
        s.offset_ns = (s64)state_get_u64(in);
        s.synced_ns = state_get_u64(in);
        if (state_in_error(in) || s.index >= CMOS_SIZE || s.offset_ns > (s64)BIT(62) || s.offset_ns < -(s64)BIT(62) ||
            s.synced_ns >= BIT(63) || (s.cmos[REG_A] & A_UPDATE) || (s.cmos[REG_C] & 0x0f) || s.cmos[REG_D] != D_VALID)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved clock state is damaged");
        rtc->index = s.index;
        memcpy(rtc->cmos, s.cmos, sizeof(s.cmos));
        rtc->offset_ns = s.offset_ns;
        rtc->synced_ns = s.synced_ns;
        rtc_sync(rtc);
        return 0;
}

static void rtc_quiesce(struct device *dev)
{
        struct rtc *rtc = container_of(dev, struct rtc, dev);

        rtc->quiet = true;
        loop_timer_cancel(&rtc->timer);
}

static void rtc_resume(struct device *dev)
{
        struct rtc *rtc = container_of(dev, struct rtc, dev);

        rtc->quiet = false;
        rtc_sync(rtc);
}

static void rtc_destroy(struct device *dev)
{
        struct rtc *rtc = container_of(dev, struct rtc, dev);

        loop_timer_cancel(&rtc->timer);
        io_space_remove(rtc->env->ports, RTC_PORT, rtc);
        free(rtc);
}

static const struct device_ops rtc_device_ops = {
        .name = "rtc",
        .version = 1,
        .reset = rtc_reset,
        .save = rtc_save,
        .load = rtc_load,
        .destroy = rtc_destroy,
        .quiesce = rtc_quiesce,
        .resume = rtc_resume,
};

int rtc_new(struct device_env *env, const struct rtc_config *config, struct rtc **ret, struct err **err)
{
        struct rtc *rtc;
        int r;

        if (config->offset_seconds > 100LL * 366 * DAY || config->offset_seconds < -30LL * 366 * DAY)
                return err_set(err, ERR_USAGE, EINVAL, "a clock offset of %lld seconds is out of range",
                               (long long)config->offset_seconds);
        rtc = calloc(1, sizeof(*rtc));
        if (!rtc)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the clock");
        rtc->dev.ops = &rtc_device_ops;
        rtc->env = env;
        rtc->config = *config;
        rtc->offset_ns = config->offset_seconds * (s64)NSEC_PER_SEC;
        loop_timer_init(&rtc->timer, env->loop, on_timer, rtc);
        r = io_space_add(env->ports, RTC_PORT, 2, &rtc_io_ops, rtc, "rtc", err);
        if (r < 0) {
                free(rtc);
                return r;
        }
        rtc->irq = env->irq(env, RTC_GSI);
        rtc->cmos[REG_A] = A_DIVIDER_RUNNING | 6; /* 1024 Hz, as PCs start */
        rtc->cmos[REG_B] = B_24_HOURS;
        rtc->cmos[REG_D] = D_VALID;
        cmos_fill(rtc);
        rtc->synced_ns = rtc_now(rtc);
        rtc_reset(&rtc->dev);
        env->add(env, &rtc->dev);
        *ret = rtc;
        return 0;
}

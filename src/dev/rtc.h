/* The MC146818-compatible real-time clock with its CMOS RAM. Runs in UTC.
 * Source: Motorola MC146818A datasheet; the century byte is where the FADT says (0x32). */
#pragma once

#include "dev/dev.h"

#define RTC_CENTURY_INDEX 0x32

struct rtc;

struct rtc_config {
        s64 offset_seconds;                   /* guest time minus the host's UTC at start */
        u64 ram_below_4g, ram_above_4g;       /* what firmware-era software reads from CMOS 0x15-0x18, 0x30-0x35, 0x5b-0x5d */
        unsigned n_cpus;                      /* CMOS 0x5f */
        void (*on_alarm)(void *opaque);       /* optional: wakes a machine in S3; called when the alarm interrupt is enabled */
        void *on_alarm_opaque;
};

/* Claims 0x70-0x71 and raises env->irq(8). */
int rtc_new(struct device_env *env, const struct rtc_config *config, struct rtc **ret, struct err **err);

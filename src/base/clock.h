/* Host time. */
#pragma once

#include <time.h>

#include "types.h"

#define NSEC_PER_SEC 1000000000ULL

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline u64 clock_now_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* a * b / c without overflow of the product. */
static inline u64 muldiv64(u64 a, u64 b, u64 c)
{
        return (u64)((unsigned __int128)a * b / c);
}

/* Frequency of the host's time stamp counter in Hz, from CPUID or measured once against CLOCK_MONOTONIC_RAW. */
u64 clock_tsc_hz(void);
/* It is probably @hz: if a short look agrees the long one is spared. Before the first clock_tsc_hz. */
void clock_tsc_expect(u64 hz);

static inline u64 clock_tsc(void)
{
        return __builtin_ia32_rdtsc();
}

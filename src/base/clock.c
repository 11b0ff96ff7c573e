#include "clock.h"

#include <cpuid.h>
#include <pthread.h>

static u64 tsc_hz, expected_hz;

static u64 raw_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
        return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* Both clocks at one moment: of some tries the one in which least time went by. On a busy host a thread may be stopped between two
 * instructions for milliseconds, which would be a machine whose clock is wrong by a thousandth. */
static void sample(u64 *ret_tsc, u64 *ret_ns)
{
        u64 least = ~0ULL;

        for (int i = 0; i < 8; i++) {
                const u64 before = clock_tsc(), ns = raw_ns(), after = clock_tsc();

                if (after - before >= least)
                        continue;
                least = after - before;
                *ret_tsc = before + (after - before) / 2;
                *ret_ns = ns;
        }
}

static u64 measure_for(u64 ns)
{
        u64 t0, n0, t1, n1;

        sample(&t0, &n0);
        do
                sample(&t1, &n1);
        while (n1 - n0 < ns);
        return muldiv64(t1 - t0, NSEC_PER_SEC, n1 - n0);
}

static void tsc_measure(void)
{
        unsigned eax, ebx, ecx, edx;

        /* SDM 2A, CPUID leaf 15H: TSC = crystal (ECX) * EBX / EAX. */
        if (__get_cpuid(0x15, &eax, &ebx, &ecx, &edx) && eax && ebx && ecx) {
                tsc_hz = (u64)ecx * ebx / eax;
                return;
        }
        /* Hypervisors report kHz at 40000010H (VMware's convention, KVM follows it). */
        __cpuid(1, eax, ebx, ecx, edx);
        if (ecx >> 31) {
                __cpuid(0x40000000, eax, ebx, ecx, edx);
                if (eax >= 0x40000010) {
                        __cpuid(0x40000010, eax, ebx, ecx, edx);
                        if (eax) {
                                tsc_hz = (u64)eax * 1000;
                                return;
                        }
                }
        }
        if (expected_hz) {
                const u64 hz = measure_for(300 * 1000);

                if (hz < expected_hz + expected_hz / 1000 && hz > expected_hz - expected_hz / 1000) {
                        tsc_hz = expected_hz;
                        return;
                }
        }
        /* Rounded to 10 kHz, more than the measurement is worth. */
        tsc_hz = (measure_for(10 * 1000 * 1000) + 5000) / 10000 * 10000;
}

void clock_tsc_expect(u64 hz)
{
        expected_hz = hz;
}

u64 clock_tsc_hz(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        pthread_once(&once, tsc_measure);
        return tsc_hz;
}

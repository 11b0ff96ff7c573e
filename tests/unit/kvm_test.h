/* What the tests of the KVM engine share. They are skipped where there is no /dev/kvm, and those that need hardware
 * under it where there is none: a KVM that interprets guest kernel code knows neither the exits of INT3 nor watchpoints
 * nor TSC offsets. */
#pragma once

#include <string.h>
#include <unistd.h>

#include "cpu/kvm/internal.h"
#include "cpu_guest.h"

#define RAM (16 * MIB)

static const char *missing; /* why KVM cannot be tested here */
static bool in_hardware;

#define NEEDS_KVM()                                       \
        do {                                              \
                if (missing) {                            \
                        print_message("# %s\n", missing); \
                        skip();                           \
                }                                         \
        } while (0)

#define NEEDS_HARDWARE()                                                            \
        do {                                                                        \
                if (!in_hardware) {                                                 \
                        print_message("# this KVM interprets guest kernel code\n"); \
                        skip();                                                     \
                }                                                                   \
        } while (0)

static inline void look_at_kvm(void)
{
        struct err *err = NULL; /* kept: its message is the reason for skipping */
        unsigned caps = 0;
        u64 ps = 0;

        if (kvm_engine.probe(&caps, &err) < 0) {
                missing = err_message(err);
                return;
        }
        in_hardware = caps & ENGINE_CAP_FAST;
        kvm_speed(&ps);
        print_message("# KVM takes %lu ps an instruction in guest kernel code: %s\n", (unsigned long)ps,
                      in_hardware ? "fast" : "slow");
}

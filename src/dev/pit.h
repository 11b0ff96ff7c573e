/* The 8254 interval timer: channel 0 interrupts, channel 2 is what software calibrates with (through port 0x61).
 * Source: Intel 8254 datasheet (231164). */
#pragma once

#include "dev/dev.h"

#define PIT_HZ 1193182ULL

struct pit;

/* Claims 0x40-0x43 and raises env->irq(0). */
int pit_new(struct device_env *env, struct pit **ret, struct err **err);

/* Channel 2's gate input and output, for port 0x61. Device lock held. */
void pit_channel2_gate(struct pit *pit, bool level);
bool pit_channel2_gate_get(const struct pit *pit);
bool pit_channel2_out(struct pit *pit);

/* What is left of the keyboard controller: no keyboard, no mouse, but the reset and A20 functions that software uses, and the
 * system control ports 0x61 (PIT channel 2, refresh toggle) and 0x92 (fast A20, fast reset).
 * Source: IBM PC/AT technical reference, 8042 commands; Intel PIIX3 datasheet (290550), 2.5.5 (0x61) and 2.5.6 (0x92). */
#pragma once

#include "dev/pit.h"

struct i8042;

/* Claims 0x60, 0x61, 0x64, 0x92 and the POST code port 0x80. @pit may be NULL (in-kernel PIT). */
int i8042_new(struct device_env *env, struct pit *pit, struct i8042 **ret, struct err **err);

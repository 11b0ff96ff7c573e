/* There is no firmware; this is what one leaves behind for software that counts on it. */
#pragma once

#include "internal.h"

/* Multiboot kernels are booted "by a PC": real-mode interrupt vectors that return, the PICs at vectors 8 and 0x70
 * with the timer let through, the PIT ticking at 18.2 Hz. Devices exist, no threads do. */
int firmware_leave_pc(struct vm *vm, struct err **err);
